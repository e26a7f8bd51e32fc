"""The aggregate posterior beside the prior: how far apart they are, and where."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from .._arrays import check_dense
from .._lock import LOCK
from .._options import Size, typed
from .._precision import pair_in_precision_of, with_float32_parameters
from ..errors import UserError, check_sizes, hint
from ..pair import Pair
from ..priors import GaussianMixture
from ..sites import base_of, is_normal, sample_sites
from .checks import DoesNotApply, check_finite, check_values, deviation, standard_error

__all__ = [
    "Leakage",
    "aggregate_posterior",
    "high_posterior_samples",
    "leakage",
    "leakage_below",
    "log_aggregate",
    "log_prior",
    "low_posterior_samples",
    "nearest_neighbour_kl",
    "posterior_draws",
    "prior_samples",
    "upper_site",
]

ENCODED_AT_ONCE = 1000
Z_AT_ONCE = 500


@typed
def upper_site(pair: Pair, x: Tensor) -> str:
    """Name of the continuous latent site that the prior is of: ``z``, or the first one of a hierarchy."""
    return next(name for name in pair.encode(x[:1].to(next(pair.parameters()))) if name != "c")


@LOCK
@torch.no_grad()
@typed
def aggregate_posterior(pair: Pair, x: Tensor) -> GaussianMixture:
    r"""The mixture of the posteriors of some data, with the exact weights of categories.

    .. math:: q(z) = \frac{1}{N} \sum_{n=1}^N \sum_c q(c \mid x_n)\, q(z \mid x_n, c)

    Its draws and its density are both those of these N data: another N give another mixture, and the more dimensions z
    has, the more so.

    :param pair: an unconditional pair whose posterior of z, or of a hierarchy's upper code, is Gaussian
    :param x: shape ``(N,) + x_shape``, on any device
    :returns: distribution with batch shape ``()`` and event shape ``(z_dim,)``
    :raises ValueError: if the posterior is not a diagonal Gaussian, or x has values that are not finite
    """
    check_dense("x", x)
    pair = pair_in_precision_of(x, pair)
    site, categories = upper_site(pair, x), range(max(1, pair.num_categories))
    log_weights, locs, scales = [], [], []
    for rows in x.split(ENCODED_AT_ONCE):
        check_finite("x", rows)
        rows = rows.to(pair.device)
        log_q = pair.encode(rows)["c"].logits if pair.num_categories else rows.new_zeros(len(rows), 1)
        for c in categories:
            given = {"c": torch.full((len(rows),), c, device=pair.device)} if pair.num_categories else {}
            with pair.evaluating():
                trace = poutine.trace(poutine.condition(pair.guide, given)).get_trace(rows)
            posterior: Any = trace.nodes[site]["fn"]
            if not is_normal(posterior):
                raise DoesNotApply(
                    f"the posterior of site '{site}' is {type(base_of(posterior)).__name__}, and the aggregate "
                    "posterior is computed of diagonal Gaussians only: evaluate other metrics"
                )
            log_weights.append(log_q[:, c])
            locs.append(posterior.mean)
            scales.append(posterior.stddev)
    return GaussianMixture(torch.cat(log_weights), torch.cat(locs), torch.cat(scales))


@LOCK
@torch.no_grad()
@typed
def posterior_draws(pair: Pair, site: str, x: Tensor) -> Tensor:
    """One draw of the posterior of each of some data: independent draws of what q(z) is of many more data.

    :param site: name of the latent site
    :param x: shape ``(N,) + x_shape``, on any device
    :returns: shape ``(N, z_dim)``
    :raises ValueError: if the site is unknown, or x has values that are not finite
    """
    check_dense("x", x)
    pair = pair_in_precision_of(x, pair)
    found: list[Tensor] = []
    _check_site(site, [name for name in pair.encode(x[:1].to(pair.device)) if name != "c"])
    for rows in x.split(ENCODED_AT_ONCE):
        check_finite("x", rows)
        with pair.evaluating():
            trace: Any = poutine.trace(pair.guide).get_trace(rows.to(pair.device))
        found.append(trace.nodes[site]["value"])
    return torch.cat(found)


@LOCK
@torch.no_grad()
@typed
def log_prior(pair: Pair, site: str, z: Tensor) -> Tensor:
    """log p(z) of an unconditional pair, the categories of a pair that has them summed.

    :param site: name of the latent site
    :param z: shape ``(num, z_dim)``
    :returns: shape ``(num,)``, in nats
    :raises ValueError: if the site is unknown, or z is not of that shape, or has values that are not finite
    """
    check_values("z", z, "num", "z_dim")
    prior, log_p_c = _prior(pair_in_precision_of(z, pair), site)
    check_values("z", z, "num", prior.event_shape[0])
    return (prior.log_prob(z.unsqueeze(-2)) + log_p_c).logsumexp(-1)  # (num, K) before the sum


def _prior(pair: Pair, site: str) -> tuple[Any, Tensor]:
    """p(z|c) of all categories, batch shape ``(K,)``, K = 1 without any, and log p(c), shape ``(K,)``."""
    size = max(1, pair.num_categories)
    fixed = {"c": torch.arange(size, device=pair.device)} if pair.num_categories else {}
    with pair.evaluating():
        trace = poutine.trace(poutine.condition(pair.model, fixed)).get_trace(size=size)
    sites = dict(sample_sites(trace))
    _check_site(site, [name for name in sites if name not in ("c", "x")])
    prior: Any = with_float32_parameters(sites[site]["fn"])
    if not pair.num_categories:
        return prior, next(pair.parameters()).new_zeros(1)
    return prior, sites["c"]["fn"].log_prob(fixed["c"])


def _check_site(site: str, known: list[str]) -> None:
    if site not in known:
        raise UserError(f"site must be a latent site of the pair with a density, got {site!r}: {hint(site, known)}")


@LOCK
@torch.no_grad()
@typed
def prior_samples(pair: Pair, site: str, num: int) -> Tensor:
    """Draws of z from an unconditional pair's prior, without the cost of decoding them.

    :param site: name of the latent site
    :param num: number of draws
    :returns: shape ``(num, z_dim)``
    :raises ValueError: if the site is unknown, or num is not a positive integer
    """
    check_sizes(num=num)
    prior, log_p_c = _prior(pair, site)
    found = []
    for start in range(0, num, Z_AT_ONCE):
        z = prior.sample((min(Z_AT_ONCE, num - start),))  # (size, K, z_dim)
        c = torch.multinomial(log_p_c.exp(), len(z), replacement=True)
        found.append(z[torch.arange(len(z), device=z.device), c])
    return torch.cat(found)


@torch.no_grad()
@typed
def log_aggregate(q: GaussianMixture, z: Tensor) -> Tensor:
    """Return log q(z), shape ``(num,)``, computed in pieces.

    :param q: from :func:`aggregate_posterior`
    :param z: shape ``(num, z_dim)``
    :raises ValueError: if z is not of that shape, or has values that are not finite
    """
    check_values("z", z, "num", q.loc.shape[-1])
    return torch.cat([q.log_prob(part) for part in z.split(Z_AT_ONCE)])


@typed
def nearest_neighbour_kl(x: Tensor, y: Tensor, k: int = 1) -> float:
    r"""Estimate of KL(p || q) from samples alone.

    .. math:: \frac{d}{n} \sum_{i=1}^n \log \frac{\nu_i}{\rho_i} + \log \frac{m}{n - 1}

    with :math:`\rho_i` the distance of :math:`x_i` to its k-th nearest neighbour among the other x, and :math:`\nu_i`
    to its k-th nearest among y: a greater k has less variance and more bias. Points that rounding has made one are left
    out. It is consistent, but it is too small where q has few samples among those of p: of N(0, I) from N(0, I/4) in
    two dimensions 5,000 of each give 1.13 for 1.61 nats (k = 1), and more dimensions make it worse.

    :param x: n samples of p, shape ``(n, d)``
    :param y: m samples of q, shape ``(m, d)``
    :param k: which neighbour, below n and not above m
    :returns: in nats; below 0 at times
    :raises ValueError: if more than a tenth of x are the same as others, k is out of range, or x and y are not of those
        shapes or have values that are not finite

    Reference: Fernando Perez-Cruz, Kullback-Leibler divergence estimation of continuous distributions, ISIT 2008.
    """
    from sklearn.neighbors import NearestNeighbors

    check_values("x", x, "n", "d", least=2)
    check_values("y", y, "m", x.shape[1])
    if not 1 <= k <= min(len(x) - 1, len(y)):
        raise UserError(
            f"k must be from 1 to {min(len(x) - 1, len(y))}, below the number of x and not above that of y, got {k}"
        )
    x, y = x.double().cpu(), y.double().cpu()
    rho = NearestNeighbors(n_neighbors=k + 1).fit(x).kneighbors(x)[0][:, k]
    nu = NearestNeighbors(n_neighbors=k).fit(y).kneighbors(x)[0][:, k - 1]
    apart = (rho > 0) & (nu > 0)
    if apart.mean() < 0.9:
        raise UserError(
            f"{(~apart).sum()} of {len(x)} samples are the same as others: nearest_neighbour_kl needs samples of a "
            "density"
        )
    ratio = np.log(nu[apart] / rho[apart]).mean().item()
    return x.shape[1] * ratio + math.log(len(y) / (len(x) - 1))


@dataclass(frozen=True)
class Leakage:
    """Leakage at one threshold.

    :param threshold: tau, in nats
    :param score: mean of log q(z) - log p(z) over draws of q(z) with log p(z) below tau; NaN where there are none
    :param stderr: its standard error, NaN below two draws
    :param share: share of the draws that are below tau
    :param leaked: share times score, 0 where there are none: the part of KL(q(z) || p(z)) that lies below tau
    :param leaked_stderr: its standard error, NaN below two draws
    """

    threshold: float
    score: float
    stderr: float
    share: float
    leaked: float
    leaked_stderr: float


@typed
def leakage(log_q: Tensor, log_p: Tensor, thresholds: Sequence[float]) -> list[Leakage]:
    r"""Leakage scores: how much the aggregate posterior exceeds the prior where the prior is all but absent.

    .. math:: L(\tau) = E_{q(z)}\big[ \log q(z) - \log p(z) \,\big|\, \log p(z) < \tau \big]

    A threshold in nats means another thing in every dimension and under every prior: with thresholds at quantiles of
    log p(z) under the prior itself the shares below them can be compared, each with the quantile it stands for. The
    score is a mean over what is below alone: of another event in every pair, and of none where nothing is. What can be
    compared between pairs is share times score, :math:`E_{q(z)}[(\log q(z) - \log p(z))\, 1\{\log p(z) < \tau\}]`.

    :param log_q: log q(z) of draws of the aggregate posterior, shape ``(num,)``
    :param log_p: log p(z) of the same draws; of a flow the whole density, log-determinant included
    :param thresholds: tau, in nats
    :raises ValueError: if the two are not of that shape, log_q has values that are not finite, or log_p has NaN (it may
        be minus infinity)

    What differs: paper and code take the prior's density in the base of the flow, at g(z), without the log-determinant;
    here it is the density of z. The code also reads variances as precisions, and averages wrongly.

    Reference: Riddhish Bhalodia, Iain Lee and Shireen Elhabian, dpVAEs: fixing sample generation for regularized VAEs,
    ACCV 2020, arXiv:1911.10506, section 5.1.
    """
    check_values("log_q", log_q, "num")
    check_values("log_p", log_p, len(log_q), infinite=True)
    found = []
    for threshold in thresholds:
        below = log_p < threshold
        excess = (log_q - log_p)[below].double()
        everywhere = torch.where(below, log_q - log_p, 0.0).double()
        score = excess.mean().item() if len(excess) else math.nan
        leaked, share = everywhere.mean().item(), len(excess) / len(log_p)
        errors = standard_error(excess), standard_error(everywhere)
        found.append(Leakage(float(threshold), score, errors[0], share, leaked, errors[1]))
    return found


@typed
def leakage_below(
    log_q: Tensor, log_p: Tensor, of_prior: Tensor, quantile: float, num_resamples: Size = 200
) -> tuple[Leakage, float]:
    """Leakage below a quantile of log p(z) under the prior, which is itself known by draws alone.

    Standard errors are the standard deviations over resamples of both sets of draws (the bootstrap).

    :param log_q: as for :func:`leakage`, likewise ``log_p``
    :param of_prior: log p(z) of draws of the prior, shape ``(num,)``
    :param quantile: between 0 and 1
    :param num_resamples: number of resamples
    :returns: the leakage, and the standard error of its share
    :raises ValueError: as :func:`leakage`, or if ``of_prior`` has NaN or the quantile is not between 0 and 1
    """
    check_values("of_prior", of_prior, "num", infinite=True)
    check_sizes(num_resamples=num_resamples)
    if not 0 <= quantile <= 1:
        raise UserError(f"quantile must be from 0 to 1, got {quantile}: 0.01 is the lowest hundredth")
    of_prior = of_prior.to(torch.promote_types(of_prior.dtype, torch.float32))  # torch has no quantiles of halves
    (one,) = leakage(log_q, log_p, [of_prior.quantile(quantile).item()])
    found = []
    for _ in range(num_resamples):
        drawn, ranked = (torch.randint(len(values), (len(values),), device="cpu") for values in (log_p, of_prior))
        found += leakage(log_q[drawn], log_p[drawn], [of_prior[ranked].quantile(quantile).item()])
    numbers = [(each.score, each.share, each.leaked) for each in found]
    values = torch.tensor(numbers, dtype=torch.float64, device="cpu")
    score, share, leaked = values.unbind(1)
    score = score[~score.isnan()]
    return dataclasses.replace(one, stderr=deviation(score), leaked_stderr=deviation(leaked)), deviation(share)


@typed
def low_posterior_samples(pair: Pair, q: GaussianMixture, site: str, num: int, of: int = 10) -> Tensor:
    """Draws of the prior where the aggregate posterior is lowest: from its pockets.

    :param q: the aggregate posterior
    :param site: name of the latent site
    :param num: number of samples
    :param of: ``of * num`` draws are ranked by log q(z), and the lowest kept
    :returns: z, shape ``(num, z_dim)``, the lowest first

    Reference: section 4.1 of Bhalodia et al. (2019), which names no share: the tenth is ours. Its code ranks by the
    first two dimensions, and by log-variances in the place of variances. In many dimensions the mixture of finitely
    many posteriors is thin, and what it likes least is mostly what is far out under the prior itself.
    """
    check_sizes(num=num, of=of)
    z = prior_samples(pair_in_precision_of(q.loc, pair), site, of * num)
    return z[log_aggregate(q, z).argsort()[:num]]


@typed
def high_posterior_samples(pair: Pair, q: GaussianMixture, site: str, num: int, of: int = 10) -> Tensor:
    """Draws of the aggregate posterior where the prior is lowest: from its leaks; otherwise as the low ones."""
    check_sizes(num=num, of=of)
    z = q.sample((of * num,))
    return z[log_prior(pair, site, z).argsort()[:num]]
