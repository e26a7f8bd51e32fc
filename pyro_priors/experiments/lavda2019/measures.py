"""What the tables of Lavda et al. (2019) measure beside the metrics."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ... import metrics, plots
from ...data import Splits
from ...data.toys import MIXTURE_MEANS, MIXTURE_SD
from ...metrics import Estimate
from ...pair import Pair
from ..experiment import Trained
from ..pictures import Pictures

NUM_IMAGES = 10_000
"""Most samples that are compared with the test images."""


def samples(trained: Trained) -> dict[str, Estimate]:
    """How near samples are to the test images: of CP with c from the aggregate posterior, as in the paper's figures.

    Distances and shares are in the features of a network, of at most ``NUM_IMAGES`` images of each kind. The entropy is
    that of the mean of a classifier's probabilities: near the entropy of the labels where all classes are generated.
    """
    pair, data = trained.pair, trained.data
    network = metrics.features_for("classifier", data, pair.device)
    real = data.test.x[: min(len(data.test), NUM_IMAGES)]
    drawn = [sample_pictures(trained, len(part))["samples"] for part in real.split(500)]
    images = {"real": plots.shown(real, None, data), "generated": torch.cat(drawn)}
    features = {name: network(values) for name, values in images.items()}
    unit = f"in features of {network.name}, {len(real)} images"
    found = {"frechet": metrics.frechet(features["real"], features["generated"])}
    found |= metrics.precision_recall_density_coverage(features["real"], features["generated"])
    estimates = {f"samples_{name}": Estimate(value, None, unit) for name, value in found.items()}
    classifier = metrics.kept_classifier(data, pair.device)
    for name, values in images.items():
        share = classifier.probabilities(values).double().mean(0)
        entropy = torch.special.entr(share).sum().item()
        estimates[f"entropy_of_classes_{name}"] = Estimate(entropy, None, "nats")
    return estimates


NUM_DRAWN = 100_000
BETWEEN = 3 * MIXTURE_SD
"""Distance from both means at which x counts as between the modes."""


def draw_x(pair: Pair, c: str = "aggregate") -> Tensor:
    """Draw samples of the toy, of CP with c chosen as ``c`` says: shape ``(NUM_DRAWN,)``."""
    fixed: dict[str, Any] = {"c": c} if pair.num_categories else {}
    return pair.sample(NUM_DRAWN, **fixed)["x"][:, 0].cpu()


def _cdf(x: Tensor) -> Tensor:
    """Distribution function of the toy's ground truth."""
    means = torch.from_numpy(MIXTURE_MEANS)
    return torch.special.ndtr((x.double()[..., None] - means) / MIXTURE_SD).mean(-1)


def _modes_of(x: Tensor, suffix: str = "") -> dict[str, Estimate]:
    """How near draws of x are to the ground truth, and to its two modes.

    Total variation is that of histograms with bins of 0.02, of which ``NUM_DRAWN`` draws of the ground truth have
    about 0.01.
    """
    edges = torch.arange(-0.5, 1.6, 0.02, dtype=torch.float64, device="cpu")
    cdf = torch.cat([edges.new_zeros(1), _cdf(edges), edges.new_ones(1)])
    share = torch.bincount(torch.bucketize(x.double(), edges), minlength=len(edges) + 1).double() / len(x)
    low, high = MIXTURE_MEANS + (BETWEEN, -BETWEEN)
    values = {
        "total_variation": 0.5 * (share - cdf.diff()).abs().sum().item(),
        "between_modes": ((x > low) & (x < high)).double().mean().item(),
        "lower_mode": (x < MIXTURE_MEANS.mean()).double().mean().item(),
    }
    return {name + suffix: Estimate(value, None, "share of samples") for name, value in values.items()}


def true_log_density(pair: Pair, data: Splits) -> dict[str, Estimate]:
    """Mean log-density of the test data under the ground truth."""
    means = torch.from_numpy(MIXTURE_MEANS)
    log_p = torch.distributions.Normal(means, MIXTURE_SD).log_prob(data.test.x.double()).logsumexp(-1) - math.log(2)
    return {"true_log_density": Estimate(log_p.mean().item(), (log_p.std() / len(log_p) ** 0.5).item())}


def two_modes(pair: Pair, data: Splits) -> dict[str, Estimate]:
    """Of samples, of CP with c from the aggregate posterior."""
    return _modes_of(draw_x(pair))


def two_modes_of_prior(pair: Pair, data: Splits) -> dict[str, Estimate]:
    """Of samples with c from the uniform prior."""
    return _modes_of(draw_x(pair, "prior"), "_of_prior")


def sample_pictures(one: Trained, num: int = 64) -> Pictures:
    """Means of p(x|...), of CP with c from the aggregate posterior."""
    fixed: dict[str, Any] = {"c": "aggregate"} if one.pair.num_categories else {}
    return {"samples": plots.shown(one.pair.sample(num, **fixed)["x_mean"], None, one.data)}
