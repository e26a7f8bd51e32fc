"""The objective of beta-VAE with a capacity that rises, beta-VAE-B."""

from typing import ClassVar, cast

from pyro import poutine
from torch import Tensor

from .._options import typed
from ..errors import UserError, is_size
from .elbo import ELBO
from .terms import Terms

__all__ = ["Capacity"]


class Capacity(ELBO):
    r"""beta-VAE-B: the KL is held at a capacity, which rises from 0.

    .. math:: -E_q \log p(x \mid z) + \gamma\, | \mathrm{KL}(q(z \mid x) \,\|\, p(z)) - C |, \qquad
        C = C_{\max} \min(1, \mathrm{step} / \mathrm{num\_steps})

    in nats per datum, KL and reconstruction being means over the batch. In words: the code may carry C nats per datum,
    and whatever it carries more, or less, costs gamma each. The KL is that of all latent sites together: of both levels
    of ``hvae``, of category and code of ``cp_vae``.

    A warm-up multiplies gamma; with weights :math:`w_s` by site the penalty is
    :math:`\gamma\, |\sum_s w_s \mathrm{KL}_s - \bar w C|`. With ``gamma=1`` and ``capacity=0`` it is the plain bound,
    as long as the KL is above 0 (a sampled one can be below).

    Where the KL is sampled, as with a flow prior, its noise stands under the absolute value too: near C that of
    log q(z|x) alone makes the penalty larger by :math:`\gamma \sqrt{D / (\pi B)}`, with B data in D dimensions (gamma
    times 0.08 nats for 100 and two, 0.64 for 50 and 64).

    ``current_capacity`` is C. :func:`pyro_priors.fit` sets it by :meth:`begin_step`; in a loop of your own (``SVI``
    too) call ``objective.begin_step(step)``, without which C stays at ``capacity``.

    :param gamma: the factor, above 0
    :param capacity: the largest capacity, in nats per datum, 0 or more
    :param num_steps: steps over which it rises to that; 0: from the first on
    :param analytic_kl: the KL in closed form where there is one, or sampled
    :param num_particles: draws of the latent variables for each datum
    :raises ValueError: if a number is out of range

    What differs from public code: in that of dpVAE (Bhalodia et al. 2019) C is compared with the KL summed over the
    batch, so that its 25 nats are about 1 for each of 24 data.

    Reference: Christopher P. Burgess, Irina Higgins, Arka Pal, Loic Matthey, Nick Watters, Guillaume Desjardins and
    Alexander Lerchner, Understanding disentangling in beta-VAE, 2018, arXiv:1804.03599.
    """

    scheduled: ClassVar[tuple[str, ...]] = ("current_capacity",)
    couples_batch: ClassVar[bool] = True
    current_capacity: float | Tensor

    @typed
    def __init__(
        self,
        gamma: float = 100.0,
        capacity: float = 25.0,
        num_steps: int = 100_000,
        analytic_kl: bool = True,
        num_particles: int = 1,
    ) -> None:
        super().__init__(analytic_kl, num_particles)
        if not gamma > 0:
            raise UserError(f"gamma must be above 0, got {gamma}: gamma=1 and capacity=0 is the plain bound")
        if num_steps != 0 and not is_size(num_steps):
            raise UserError(f"num_steps must be a non-negative integer, got {num_steps!r} (for example, 10000)")
        if not capacity >= 0:
            raise UserError(f"capacity must be 0 or more, got {capacity}: capacity=0 and gamma=1 is the plain bound")
        self.gamma, self.capacity, self.num_steps = gamma, capacity, num_steps
        self.current_capacity = capacity

    def begin_step(self, step: int) -> None:
        """Set the capacity of a step."""
        self.current_capacity = self.capacity * min(1.0, step / self.num_steps) if self.num_steps else self.capacity

    def _terms(self, model_trace: poutine.Trace, guide_trace: poutine.Trace) -> Terms:
        terms = super()._terms(model_trace, guide_trace)
        names = [name for name in terms.parts if name.startswith("kl_")]
        kl = cast(Tensor, sum((terms.scales[name] * terms.parts[name]).mean() for name in names))
        weight = sum(terms.scales[name] for name in names) / len(names)
        terms.penalties["distance_to_capacity"] = (kl - weight * self.current_capacity).abs()
        terms.scales |= dict.fromkeys(names, 0.0) | {"distance_to_capacity": self.gamma}
        return terms
