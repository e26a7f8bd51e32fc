"""A category whose label is known for some examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.util import ignore_jit_warnings
from torch import Tensor

from .._precision import at_least_float32
from ..sites import OptionError
from .relaxed import RelaxedCategorical

if TYPE_CHECKING:
    from torch.types import _size

__all__ = ["check_labels", "classification_loss", "restricted"]

UNKNOWN = -1
"""Label of an example whose category is not known."""


@ignore_jit_warnings(["Converting a tensor to a Python"])
def check_labels(name: str, labels: Any, num_categories: int, values: bool = True) -> Tensor:
    """Return integer labels as int64 of shape ``(batch,)``.

    :param name: name of the argument for errors, such as ``"condition"``
    :param labels: integers of any type, shape ``(batch,)`` or ``(batch, 1)``, 0 to ``num_categories - 1``, -1 where
        unknown
    :param values: check the values, too, which takes a wait for the device that holds them
    :raises OptionError: if they are not that
    """
    numbers = f"give category numbers from 0 to {num_categories - 1}, {UNKNOWN} where unknown"
    if not isinstance(labels, Tensor):
        raise OptionError(f"{name} must be a tensor of integer labels, got {type(labels).__name__}: {numbers}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype is torch.bool:
        how = f"of one-hot rows, {name}.argmax(-1)" if labels.dim() > 1 else f"of whole numbers, {name}.long()"
        raise OptionError(f"{name} must hold integer labels, got {labels.dtype}: {numbers}; {how}")
    if labels.dim() not in (1, 2) or labels.shape[1:] not in ((), (1,)) or not len(labels):
        raise OptionError(
            f"{name} must have shape (batch,), one label for each example, got {tuple(labels.shape)}: {numbers}; of "
            f"one-hot rows, {name}.argmax(-1)"
        )
    labels = labels.reshape(-1).long()
    if values and ((labels < UNKNOWN) | (labels >= num_categories)).any():
        index = int(((labels < UNKNOWN) | (labels >= num_categories)).int().argmax())
        raise OptionError(
            f"{name} must hold labels from 0 to {num_categories - 1}, or {UNKNOWN} where unknown, got "
            f"{int(labels[index])} at index {index}: {numbers}"
        )
    return labels


def _of(c: Any, labels: Any) -> Tensor:
    """Checked labels of a category; their values are checked while Pyro's validation is on."""
    if not isinstance(c, dist.Categorical | RelaxedCategorical):
        raise OptionError(
            f"condition holds labels, but the category is a {type(c).__name__}: use a network that returns a "
            "pyro.distributions.Categorical, or leave condition out"
        )
    is_validated = pyro.settings.get("validate_distributions_torch")
    return check_labels("condition", labels, c.logits.shape[-1], values=is_validated)


def restricted(c: Any, labels: Tensor | None, normalized: bool = False) -> Any:
    r"""Restrict the distribution of a category to the label y of each example whose label is known.

    .. math:: p(c)\, [c = y] \qquad\text{or, normalized,}\qquad
        \frac{p(c)\, [c = y]}{\sum_{c'} p(c')\, [c' = y]} = [c = y]

    The first is the density of category and label, p(c, y), as a model has it: its draws are y, its density there is
    p(y), and elsewhere it is 0. The second is the posterior of the category given its label, as a guide has it. Where
    the label is -1, both are p(c).

    :param c: a Categorical or :class:`~pyro_priors.nn.RelaxedCategorical` over K categories, batch shape ``(batch,)``
        or ``()``
    :param labels: integers from 0 to K-1, -1 where unknown, shape ``(batch,)`` or ``(batch, 1)``; None for no labels
    :param normalized: the second, not the first
    :returns: a distribution of the same kind, batch shape ``(batch,)``; without labels ``c`` itself
    :raises OptionError: if ``c`` or ``labels`` is neither of these
    """
    if labels is None:
        return c
    y = _of(c, labels)
    if isinstance(c, RelaxedCategorical):
        return LabeledRelaxedCategorical(c, y, normalized)
    log_p = at_least_float32(c.logits)
    is_known = (y != UNKNOWN)[:, None]
    is_label = y[:, None] == torch.arange(log_p.shape[-1], device=log_p.device)  # (batch, K)
    inside = log_p.new_zeros(()) if normalized else log_p
    # by where, not by adding: what is left out has a gradient of 0
    logits = torch.where(is_known, torch.where(is_label, inside, -torch.inf), log_p)
    found: Any = dist.Categorical(logits=logits)
    if not normalized:
        found.logits = found._param = logits  # Categorical has subtracted log p(y)
    return found


class LabeledRelaxedCategorical(RelaxedCategorical):
    r"""Relaxed category whose weights are those of the label, 1 for it and 0 for the others, where it is known.

    The density of a known label y is p(y), the categorical's, or 1 where the distribution is normalized: a relaxed one
    has no density at a corner of the simplex.

    :param relaxed: the relaxed category, batch shape ``(batch,)`` or ``()``
    :param labels: shape ``(batch,)``, int64, -1 where unknown
    :param normalized: as of :func:`restricted`
    """

    def __init__(self, relaxed: RelaxedCategorical, labels: Tensor, normalized: bool) -> None:
        logits = relaxed.logits.expand(*labels.shape, -1)
        super().__init__(relaxed.temperature, logits, validate_args=False)
        self.labels, self.normalized = labels, normalized

    def expand(self, batch_shape: _size, _instance: object = None) -> LabeledRelaxedCategorical:
        new = cast(Any, super().expand(batch_shape, self._get_checked_instance(LabeledRelaxedCategorical, _instance)))
        new.labels, new.normalized = self.labels.expand(batch_shape), self.normalized
        return new

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        drawn = super().rsample(torch.Size(sample_shape))
        is_label = self.labels[..., None] == torch.arange(drawn.shape[-1], device=drawn.device)
        weights = torch.where(is_label, drawn.new_zeros(()), -torch.inf)  # on their logarithms
        return torch.where((self.labels != UNKNOWN)[..., None], weights, drawn)

    def log_prob(self, value: Tensor) -> Tensor:
        is_known = self.labels != UNKNOWN
        # away from the corners, where the relaxed density has no gradient
        relaxed = super().log_prob(torch.where(is_known[..., None], 0.0, value))
        log_p = relaxed.new_zeros(()) if self.normalized else -_cross_entropy(self, self.labels)
        return torch.where(is_known, log_p, relaxed)


def classification_loss(c: Any, labels: Tensor) -> Tensor:
    r"""Return :math:`-\log p(c = y)` of each example whose label y is known, and 0 of the others.

    :param c: a category, as for :func:`restricted`
    :param labels: as for :func:`restricted`
    :returns: in nats, shape ``(batch,)``
    """
    return _cross_entropy(c, _of(c, labels))


def _cross_entropy(c: Any, y: Tensor) -> Tensor:
    logits = at_least_float32(c.logits)
    losses = F.cross_entropy(logits.flatten(0, -2), y.flatten(), ignore_index=UNKNOWN, reduction="none")
    return losses.unflatten(0, y.shape)
