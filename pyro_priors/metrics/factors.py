"""How well single values of the code stand for the factors that the data were made of."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Normal

from .._options import typed
from ..errors import UserError
from .checks import check_categories, check_values

__all__ = ["factor_information", "mutual_information_gap"]

AT_ONCE = 2**23
"""Densities that are held at once."""


@torch.no_grad()
@typed
def factor_information(loc: Tensor, scale: Tensor, factors: Tensor) -> Tensor:
    r"""Mutual information of each value of the code with each factor.

    .. math:: I(z_d; v_k) = \frac{1}{N} \sum_n \log \frac{q(z_{nd} \mid v_{nk})}{q(z_{nd})}, \qquad
        q(z_d) = \frac{1}{N} \sum_m q(z_d \mid x_m), \quad
        q(z_d \mid v) = \frac{1}{N_v} \sum_{m: v_{mk} = v} q(z_d \mid x_m)

    with one draw of z for each datum. A datum is in its own mixtures, which makes the estimate too large where these
    are of few data and posteriors are narrow: give thousands.

    :param loc: of the Gaussian posteriors of N data, shape ``(N, z_dim)``
    :param scale: shape ``(N, z_dim)``
    :param factors: values from 0, int64, shape ``(N, K)``
    :returns: nats, float64, shape ``(z_dim, K)``
    :raises ValueError: if the three are not of these shapes, a number is not finite, a scale is not above 0, or factors
        are not integers from 0
    """
    check_values("loc", loc, "N", "z_dim")
    num, z_dim = loc.shape
    check_values("scale", scale, num, z_dim)
    if not scale.is_meta and not (scale > 0).all():
        raise UserError(f"scale must be above 0, got {scale.min().item()}: give standard deviations")
    _check_factors(factors, num)
    at_least = torch.promote_types(loc.dtype, torch.float32)
    loc, scale = loc.to(at_least), scale.to(at_least)
    z = torch.normal(loc, scale)
    q = Normal(loc, scale)
    total = loc.new_zeros(z_dim, factors.shape[1], dtype=torch.float64)
    for rows in torch.arange(num, device=loc.device).split(max(1, AT_ONCE // (num * z_dim))):
        log_q = q.log_prob(z[rows].unsqueeze(1))  # (rows, N, z_dim)
        log_marginal = log_q.logsumexp(1) - math.log(num)
        for k in range(factors.shape[1]):
            same = factors[rows, k, None] == factors[:, k]  # (rows, N)
            log_num = same.sum(1, keepdim=True).to(log_q.dtype).log()
            given = log_q.masked_fill(~same.unsqueeze(-1), -math.inf).logsumexp(1) - log_num
            total[:, k] += (given - log_marginal).double().sum(0)
    return total / num


@typed
def mutual_information_gap(information: Tensor, factors: Tensor) -> Tensor:
    r"""How much more one value of the code says of a factor than the next best, as a share of what there is to say.

    .. math:: \frac{1}{H(v_k)} \Big( I(z_{d_k}; v_k) - \max_{d \neq d_k} I(z_d; v_k) \Big), \qquad
        d_k = \arg\max_d I(z_d; v_k)

    :param information: of :func:`factor_information`, shape ``(z_dim, K)``, with z_dim of at least 2
    :param factors: values from 0, int64, shape ``(N, K)``
    :raises ValueError: if the code has one value, or the two are not of these shapes
    :returns: shape ``(K,)``: 1 where one value of the code has all and the others nothing, 0 where two have the same;
        NaN of a factor that does not vary

    Reference: Ricky T. Q. Chen, Xuechen Li, Roger Grosse and David Duvenaud, Isolating sources of disentanglement in
    variational autoencoders, NeurIPS 2018, arXiv:1802.04942.
    """
    check_values("information", information, "z_dim", "K")
    if len(information) < 2:
        raise UserError(f"a gap is between two values of the code, and this one has {len(information)}")
    _check_factors(factors, "N", information.shape[1])
    best = information.topk(2, 0).values
    shares = [column.unique(return_counts=True)[1].double() / len(column) for column in factors.T]
    entropy = torch.stack([torch.special.entr(share).sum() for share in shares]).to(information)
    return torch.where(entropy > 0, (best[0] - best[1]) / entropy, math.nan)


def _check_factors(factors: Tensor, num: int | str, num_factors: int | str = "K") -> None:
    check_values("factors", factors, num, num_factors)
    for k, column in enumerate(factors.T):
        check_categories(f"factors[:, {k}]", column)
