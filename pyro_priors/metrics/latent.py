"""How much of the latent code is in use."""

import torch
from torch import Tensor

from .._options import typed

__all__ = ["active_categories", "active_units", "effective_categories"]


@typed
def active_units(posterior_means: Tensor, threshold: float = 0.01) -> int:
    r"""Number of latent dimensions whose posterior mean moves with the data.

    .. math:: \#\{d : \mathrm{Var}_x\, E_{q(z|x)}[z_d] > 0.01\}

    Where the prior depends on a category or a condition, :func:`~pyro_priors.metrics.evaluate` passes the posterior's
    mean less the prior's (at the most probable category): a code that only follows its prior is not active (ours).

    :param posterior_means: shape ``(num_data, z_dim)``
    :param threshold: least variance of an active unit

    Reference: Yuri Burda, Roger Grosse and Ruslan Salakhutdinov, Importance weighted autoencoders, ICLR 2016,
    arXiv:1509.00519.
    """
    if len(posterior_means) < 2:  # nothing has moved, and a variance is not defined
        return 0
    return int((posterior_means.var(0) > threshold).sum())


def active_categories(aggregate: Tensor) -> int:
    """Number of categories with at least a tenth of an even share of the aggregate posterior, ``q(c) >= 0.1/K``.

    The threshold is ours; Lavda et al. (2019) speak of categories of near-zero probability and name none.

    :param aggregate: q(c), shape ``(K,)``
    """
    return int((aggregate >= 0.1 / len(aggregate)).sum())


def effective_categories(aggregate: Tensor) -> float:
    """``exp`` of the entropy of the aggregate posterior, 1 when one category takes all, K when all share alike.

    :param aggregate: q(c), shape ``(K,)``
    """
    return torch.special.entr(aggregate).sum().exp().item()
