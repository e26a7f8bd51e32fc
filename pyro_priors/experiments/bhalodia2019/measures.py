"""What the tables of Bhalodia et al. (2020) measure beside the metrics: pockets and leaks of the training split."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...data import Splits
from ...data.levels import rows_of
from ...metrics import (
    Estimate,
    aggregate_posterior,
    high_posterior_samples,
    leakage,
    leakage_below,
    log_aggregate,
    log_prior,
    low_posterior_samples,
    nearest_neighbour_kl,
    posterior_draws,
    prior_samples,
)
from ...metrics.aggregate import upper_site
from ...metrics.distances import distances
from ...metrics.representation import NUM_DRAWS
from ...metrics.standard import NUM_MIXED
from ...pair import Pair

OFF = 0.15
"""Distance from both half circles, three standard deviations of the data's noise, beyond which a point is off them."""

NUM_EXTREME = 500
THRESHOLDS = (-90.0, -70.0, -50.0, -30.0, -10.0, -5.0, -3.0)
"""Of leakage, in nats: the released code's, but for its last, -1, above which a two-dimensional N(0, I) never is."""


def _distance(x: Tensor) -> Tensor:
    """From the two half circles that the moons are noisy draws of."""
    angle = torch.linspace(0, math.pi, 2001, dtype=torch.float32, device="cpu")
    outer = torch.stack([angle.cos(), angle.sin()], -1)
    circles = torch.cat([outer, outer.new_tensor([1.0, 0.5]) - outer])
    return torch.cat([distances(part, circles).min(1).values for part in x.cpu().split(500)])


def off_manifold(pair: Pair, data: Splits) -> dict[str, Estimate]:
    """Share of decoded codes that are off the half circles: of the prior's draws, of the low- and the high-posterior
    ones, and of the aggregate posterior's of the training part."""
    q, site = aggregate_posterior(pair, data.train.x), upper_site(pair, data.train.x)
    codes = {
        "low_posterior": low_posterior_samples(pair, q, site, NUM_EXTREME),
        "prior": prior_samples(pair, site, NUM_DRAWS),
        "high_posterior": high_posterior_samples(pair, q, site, NUM_EXTREME),
        "aggregate": q.sample((NUM_DRAWS,)),
    }
    found = {}
    for name, z in codes.items():
        off = (_distance(pair.sample(len(z), **{site: z})["x_mean"]) > OFF).double().mean().item()
        found[f"off_{name}"] = Estimate(off, math.sqrt(off * (1 - off) / len(z)), "share of samples")
    return found


def train_gap(pair: Pair, data: Splits) -> dict[str, Estimate]:
    """As the metrics prior_gap and leakage, of the aggregate posterior of the training part, of 10,000 data at most (of
    the 200 of the moons' test part the mixture has holes of its own)."""
    x = rows_of(data.train.x, slice(NUM_MIXED))
    q, site = aggregate_posterior(pair, x), upper_site(pair, x)
    z_q, z_p = q.sample((NUM_DRAWS,)), prior_samples(pair, site, NUM_DRAWS)
    single = posterior_draws(pair, site, x[:NUM_DRAWS])
    log_q, log_p = log_aggregate(q, z_q).cpu(), log_prior(pair, site, z_q).cpu()
    of_prior = log_prior(pair, site, z_p).cpu()
    gap = (log_q - log_p).double() + (of_prior - log_aggregate(q, z_p).cpu()).double()
    neighbours = nearest_neighbour_kl(single, z_p) + nearest_neighbour_kl(z_p, single)
    low, spread = leakage_below(log_q, log_p, of_prior, 0.01)
    found = {
        "train_symmetric_kl": Estimate(gap.mean().item(), gap.std().item() / math.sqrt(NUM_DRAWS), "nats"),
        "train_symmetric_kl_neighbours": Estimate(neighbours, None, "nats"),
        "train_share_below_1%": Estimate(low.share, spread, "share"),
        "train_leaked_1%": Estimate(low.leaked, low.leaked_stderr, "nats"),
    }
    for one in (low, *leakage(log_q, log_p, THRESHOLDS)):
        if one.share:
            name = "1%" if one is low else f"{one.threshold:g}"
            found[f"train_leakage_{name}"] = Estimate(one.score, None if math.isnan(one.stderr) else one.stderr, "nats")
    return found
