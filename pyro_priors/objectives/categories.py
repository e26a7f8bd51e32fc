"""Fewer categories at a time: the probable ones and one of the rest, or one chunk after another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from .._precision import at_least_float32
from ..errors import is_size
from ..sites import OptionError, is_categorical

if TYPE_CHECKING:
    from torch.types import _size

__all__ = ["Chunk", "SomeCategories", "Sparse"]


class SomeCategories(dist.Categorical):
    r"""Categorical of which not all categories are enumerated at once.

    What is enumerated is either a chunk, or the m most probable categories and one that is drawn from the rest:

    .. math:: E_q f = \sum_{c \in \mathrm{top}} q_c f_c + (1 - q_{\mathrm{top}})\, E_{c \sim q(\cdot \mid \overline{
        \mathrm{top}})} f_c

    of which one draw is an unbiased estimate, and its gradient, by the log-derivative, one of the gradient: the drawn
    category weighs :math:`q_c \cdot [(1 - q_{\mathrm{top}}) / q_c]` with the bracket held fixed.

    :param logits: unnormalised log-probabilities, shape ``left_shape + (K,)``
    :param size: size of the chunk, or number m of most probable categories
    :param first: first category of the chunk; None for the most probable ones

    Reference: Runjing Liu, Jeffrey Regier, Nilesh Tripuraneni, Michael Jordan and Jon McAuliffe, Rao-Blackwellized
    stochastic gradients for discrete distributions, ICML 2019, arXiv:1810.04777.
    """

    def __init__(self, logits: Tensor, size: int, first: int | None = None) -> None:
        super().__init__(logits=at_least_float32(logits))
        self.size, self.first = size, first

    def expand(self, batch_shape: _size, _instance: object = None) -> SomeCategories:
        """The same with another batch shape, for each member of which a category of its own is drawn."""
        return SomeCategories(self.logits.expand(*batch_shape, -1), self.size, self.first)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Category numbers, shape ``(m + 1,) + left_shape``, the drawn one last; of a chunk ``(size, 1, ..., 1)``."""
        if self.first is not None:
            last = min(self.first + self.size, self.logits.shape[-1])
            chunk = torch.arange(self.first, last, device=self.logits.device)
            return chunk.reshape(-1, *(1 for _ in self.batch_shape))
        logits = self.logits.detach()
        top = logits.topk(self.size, -1).indices
        gumbel = -(-torch.rand_like(logits).log()).log()
        drawn = (logits.scatter(-1, top, -torch.inf) + gumbel).argmax(-1, keepdim=True)
        return torch.cat([top, drawn], -1).movedim(-1, 0)

    def log_weight(self, value: Tensor) -> Tensor:
        """Logarithm of what a term at each enumerated category is multiplied with, shape of ``value``."""
        log_q = self.log_prob(value)
        if self.first is not None:
            return log_q
        top, drawn = value[:-1].movedim(0, -1), log_q[-1:]
        rest = self.logits.detach().scatter(-1, top.expand(*self.batch_shape, -1), -torch.inf).logsumexp(-1)
        drawn = torch.where(drawn == -torch.inf, rest, drawn - drawn.detach() + rest)  # where all of the rest is masked
        return torch.cat([log_q[:-1], drawn])


class _Handler(Messenger):
    """Effect handler that has the categories of enumerated sites enumerated in part."""

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and msg["infer"].get("enumerate") == "parallel" and is_categorical(msg["fn"]):
            self.replace(msg)

    def replace(self, msg: Any) -> None:
        raise NotImplementedError


class Sparse(_Handler):
    """Around a guide: a site marked ``infer={"enumerate": "parallel", "num_enumerated": m}`` is summed over its m most
    probable categories and one that is drawn from the rest."""

    def replace(self, msg: Any) -> None:
        size = msg["infer"].get("num_enumerated")
        if size is not None and not is_size(size):
            raise OptionError(f"num_enumerated of site '{msg['name']}' must be at least 1, got {size!r}: give 10")
        if size is not None and size + 1 < msg["fn"].logits.shape[-1]:
            msg["fn"] = SomeCategories(msg["fn"].logits, size)


class Chunk(_Handler):
    """Around a guide: of its enumerated site only the categories from ``first`` on, ``size`` of them, are enumerated.

    :param first: first category
    :param size: number of categories
    :param exact: sum all categories of a site that is marked ``num_enumerated`` too, which is refused otherwise
    """

    def __init__(self, first: int, size: int, exact: bool = False) -> None:
        super().__init__()
        self.first, self.size, self.exact = first, size, exact
        self.sites: dict[str, int] = {}
        """Number of categories of each site that was seen, by name."""

    def replace(self, msg: Any) -> None:
        if not self.exact and (few := msg["infer"].get("num_enumerated")) is not None:
            raise OptionError(
                f"chunk_size={self.size} sums all categories, but site '{msg['name']}' is marked num_enumerated={few}: "
                "leave one of the two out, or set the objective's attribute exact to True to sum all"
            )
        self.sites[msg["name"]] = msg["fn"].logits.shape[-1]
        msg["fn"] = SomeCategories(msg["fn"].logits, self.size, self.first)
