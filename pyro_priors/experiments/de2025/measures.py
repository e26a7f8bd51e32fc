"""What the tables of De (2025) measure beside the metrics."""

from __future__ import annotations

import math

import torch

from ...data import Splits, batches
from ...metrics import Estimate
from ...pair import Pair


def reconstruction(pair: Pair, data: Splits) -> dict[str, Estimate]:
    """Error of reconstructions of the test part from one draw of z, the scale that would fit it, and the negative
    log-likelihood of the values at that scale, as one may read the paper's."""
    errors = []
    for x, condition in batches(data.test, 250, seed=0, epoch=0, shuffle=False):
        x = x.to(pair.device)
        z = pair.encode(x, None if condition is None else condition.to(pair.device))["z"].sample()
        found = pair.sample(len(x), condition, z=z)["x_mean"]
        errors.append((found - x).square().flatten(1).cpu().double().mean(1))
    error = torch.cat(errors)
    size, mse = math.prod(data.x_shape), error.mean().item()
    return {
        "squared_error": Estimate(mse, error.std().item() / math.sqrt(len(error)), "per value"),
        "best_scale": Estimate(math.sqrt(mse), None, "units of x"),
        "nll_at_best_scale": Estimate(size / 2 * (math.log(2 * math.pi * mse) + 1), None, "nats per datum"),
    }
