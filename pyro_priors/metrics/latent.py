"""How much of the latent code is in use."""

import torch
from torch import Tensor

from .._options import typed
from ..errors import UserError
from .checks import check_values

__all__ = ["active_categories", "active_units", "effective_categories"]


@typed
def active_units(posterior_means: Tensor, threshold: float = 0.01) -> int:
    r"""Number of latent dimensions whose posterior mean moves with the data.

    .. math:: \#\{d : \mathrm{Var}_x\, E_{q(z|x)}[z_d] > 0.01\}

    Where the prior depends on a category or a condition, :func:`~pyro_priors.metrics.evaluate` passes the posterior's
    mean less the prior's (at the most probable category): a code that only follows its prior is not active (ours).

    :param posterior_means: shape ``(num_data, z_dim)``; of one example no unit is active
    :param threshold: least variance of an active unit
    :raises ValueError: if the means are not of that shape, or have values that are not finite

    Reference: Yuri Burda, Roger Grosse and Ruslan Salakhutdinov, Importance weighted autoencoders, ICLR 2016,
    arXiv:1509.00519.
    """
    check_values("posterior_means", posterior_means, "num_data", "z_dim")
    if len(posterior_means) < 2:  # nothing has moved, and a variance is not defined
        return 0
    at_least = torch.promote_types(posterior_means.dtype, torch.float32)  # a half holds no variances of small means
    return int((posterior_means.to(at_least).var(0) > threshold).sum())


@typed
def active_categories(aggregate: Tensor) -> int:
    """Number of categories with at least a tenth of an even share of the aggregate posterior, ``q(c) >= 0.1/K``.

    The threshold is ours; Lavda et al. (2019) speak of categories of near-zero probability and name none.

    :param aggregate: q(c), shape ``(K,)``
    :raises ValueError: if it is not of that shape, or not a distribution
    """
    _check_probabilities(aggregate)
    return int((aggregate >= 0.1 / len(aggregate)).sum())


@typed
def effective_categories(aggregate: Tensor) -> float:
    """``exp`` of the entropy of the aggregate posterior, 1 when one category takes all, K when all share alike.

    :param aggregate: q(c), shape ``(K,)``
    :raises ValueError: if it is not of that shape, or not a distribution
    """
    _check_probabilities(aggregate)
    return torch.special.entr(aggregate).sum().exp().item()


def _check_probabilities(aggregate: Tensor) -> None:
    check_values("aggregate", aggregate, "K")
    if (aggregate < 0).any() or abs(aggregate.sum().item() - 1) > 1e-3:
        raise UserError(
            f"aggregate must be probabilities that sum to 1, got {aggregate.min().item():.4g} as the smallest and "
            f"{aggregate.sum().item():.4g} as the sum: give aggregate / aggregate.sum()"
        )
