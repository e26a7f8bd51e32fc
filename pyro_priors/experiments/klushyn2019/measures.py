"""What the tables of Klushyn et al. (2019) measure beside the metrics."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ... import data as data_sets
from ... import plots
from ...data import Splits, batches
from ...data.toys import (
    FOUR_GAUSSIANS_SD,
    ONE_TO_MANY_HEIGHTS,
    ONE_TO_MANY_SD,
    inverse_sine_log_density,
    one_to_many_log_density,
)
from ...metrics import (
    Components,
    Estimate,
    Variety,
    images_of,
    pair_scores,
    posterior_means,
    prior_components,
    rectangle_metric,
    samples_given,
    trained_classifier,
    trained_discriminator,
    variety,
)
from ...metrics.given import conditions_of
from ...metrics.grasps import CERTAIN
from ...pair import Pair
from ..experiment import (
    Trained,
)


def _mean(values: Tensor, unit: str) -> Estimate:
    values = values.double()
    return Estimate(values.mean().item(), values.std().item() / math.sqrt(len(values)), unit)


NUM_DRAWN = 10
"""Samples for each condition, as in the paper."""

FAR = 4
"""Standard deviations from a mode from which on a sample counts as off it."""


def _four_gaussians_log_density(x: Tensor, condition: Tensor | None) -> Tensor:
    means = torch.cartesian_prod(*[x.new_tensor([-1.0, 1.0])] * 2)
    each = torch.distributions.Normal(means, FOUR_GAUSSIANS_SD).log_prob(x.unsqueeze(-2)).sum(-1)
    return each.logsumexp(-1) - math.log(4)


LOG_DENSITIES: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "four_gaussians": _four_gaussians_log_density,
    "one_to_many": one_to_many_log_density,
    "inverse_sine": inverse_sine_log_density,
}


def true_log_density(pair: Pair, data: Splits) -> dict[str, Estimate]:
    """Mean log-density of the test data under the ground truth, given their conditions where they have some."""
    condition = None if data.test.condition is None else data.test.condition.double()
    log_p = LOG_DENSITIES[data.name](data.test.x.double(), condition)
    return {"true_log_density": _mean(log_p, "nats per datum")}


def _targets(condition: Tensor) -> tuple[Tensor, Tensor]:
    """Targets of each condition of ``one_to_many``, infinity in the place of missing ones, and its quarter."""
    table = condition.new_full((4, max(map(len, ONE_TO_MANY_HEIGHTS))), math.inf)
    for quarter, heights in enumerate(ONE_TO_MANY_HEIGHTS):
        table[quarter, : len(heights)] = table.new_tensor(heights)
    of_condition = condition[:, 0].long()
    return table[of_condition], of_condition


def off_the_targets(pair: Pair, data: Splits) -> dict[str, Estimate]:
    """Of samples given the test conditions of ``one_to_many``: the share that is farther than four standard deviations
    from every target of its condition (true: 0.00006), that of those which lie between two of them too, and the number
    of targets, of all ten, that get at least half of the samples that they should."""
    targets, quarter = _targets(conditions_of(data.test))
    x = samples_given(pair, conditions_of(data.test), NUM_DRAWN)["x"]  # (conditions, samples, 1)
    near = (x - targets.unsqueeze(1)).abs() <= FAR * ONE_TO_MANY_SD  # (conditions, samples, targets)
    off = ~near.any(-1)
    lowest, highest = targets.amin(-1, keepdim=True), targets.nan_to_num(posinf=-math.inf).amax(-1, keepdim=True)
    between = off & (x[..., 0] > lowest) & (x[..., 0] < highest)
    found = 0
    for number_of, heights in enumerate(ONE_TO_MANY_HEIGHTS):
        share = near[quarter == number_of].flatten(0, 1).double().mean(0)
        found += int((share[: len(heights)] >= 0.5 / len(heights)).sum())
    return {
        "off_modes": _mean(off.double().mean(1), "share of samples"),
        "between_modes": _mean(between.double().mean(1), "share of samples"),
        "modes_found": Estimate(found, None, f"of {sum(map(len, ONE_TO_MANY_HEIGHTS))}"),
    }


def off_the_curve(pair: Pair, data: Splits) -> dict[str, Estimate]:
    """Of samples given the test conditions of ``inverse_sine``: the share with no possible x within 0.02."""
    x = samples_given(pair, conditions_of(data.test), NUM_DRAWN)["x"]
    moves = torch.linspace(-0.02, 0.02, 9, dtype=x.dtype, device=x.device)
    near = x.unsqueeze(-2) + moves[:, None]  # (conditions, samples, 9, 1)
    possible = (
        inverse_sine_log_density(near, conditions_of(data.test)[:, None, None].expand(*near.shape)).isfinite().any(-1)
    )
    return {"off_modes": _mean((~possible).double().mean(1), "share of samples")}


def off_the_gaussians(pair: Pair, data: Splits) -> dict[str, Estimate]:
    """Share of samples farther than four standard deviations from each of the four means (true: 0.0003)."""
    x = pair.sample(20_000)["x"].cpu()
    far = (x.abs() - 1).norm(dim=-1) > FAR * FOUR_GAUSSIANS_SD
    return {"off_modes": _mean(far, "share of samples")}


THRESHOLDS = (0.5, 0.8, 0.9, 0.95, 0.99)
CONDITIONS_AT_ONCE = 1000
NUM_CODES, NUM_HELD_OUT, NUM_CONDITIONS = 10_000, 2_000, 300
"""Of the distances between components and encoded data: training data, test data, and test conditions."""


def varieties(trained: Trained) -> list[Variety]:
    """Classes of completions of the test conditions, by a classifier of whole images."""
    data = trained.data
    recipe = (data.recipe or {}).get("config", {})
    whole = data_sets.load(data.name, **recipe | {"condition_rows": 0})
    folder, device = trained.judges / f"classifier-{data.name}", str(trained.pair.device)
    classifier = trained_classifier(whole, folder, max_epochs=10, device=device)
    found = []
    for part in conditions_of(data.test).split(CONDITIONS_AT_ONCE):
        x = samples_given(trained.pair, part, NUM_DRAWN)["x_mean"].flatten(0, 1)
        images = plots.shown(x, part.repeat_interleave(NUM_DRAWN, 0), data)
        found.append(classifier.probabilities(images).unflatten(0, (len(part), NUM_DRAWN)))
    return variety(torch.cat(found), THRESHOLDS)


def variety_of_classes(trained: Trained) -> dict[str, Estimate]:
    """Mean number of classes of ten completions of each test condition, and the share of completions that are clearly
    of one, by threshold."""
    found = {}
    for one in varieties(trained):
        found[f"variety_{one.threshold}"] = Estimate(one.mean, one.stderr, "classes of 10 completions")
        found[f"clear_{one.threshold}"] = Estimate(one.share, None, "share of completions")
    return found


def measured_components(pair: Pair, data: Splits) -> Components:
    """Distances of the prior's components, given test conditions, from encoded training images."""
    x, condition = next(batches(data.train, NUM_CODES, seed=0, epoch=0, binarise=data.binarise, shuffle=False))
    codes = posterior_means(pair, x, condition)
    test = data.test.take(slice(NUM_HELD_OUT))
    prior = prior_components(pair, conditions_of(data.test)[:NUM_CONDITIONS])
    return Components.measure(prior.loc, codes, posterior_means(pair, test.x, test.condition))


def components_off(pair: Pair, data: Splits) -> dict[str, Estimate]:
    """Components of the prior off the manifold of encoded data: mean number over conditions, and how many are so given
    more than half of them."""
    found = measured_components(pair, data)
    unit = f"of {found.off.shape[-1]}"
    return {
        "components_off": Estimate(found.num_off, found.stderr, unit),
        "components_left": Estimate(found.num_left, None, unit),
    }


LIKELY = 0.9
"""A score that most known poses reach, where few reach the paper's 0.99."""


def _by_image(values: Tensor, image: Tensor) -> Tensor:
    """Mean over the grasps of each image."""
    number_of = image.bincount()
    return values.new_zeros(len(number_of), dtype=torch.float64).index_add_(0, image, values.double()) / number_of


def grasps_by_metric(trained: Trained) -> dict[str, Estimate]:
    """Of ten generated poses for each test image: the share that the discriminator gives at least 0.99, and 0.9, beside
    those of the known poses and of poses of other images, the share that agrees with a known one, and that of images
    with at least one which does."""
    data = trained.data
    folder, device = trained.judges / "discriminator-cornell", str(trained.pair.device)
    discriminator = trained_discriminator(data, folder, device=device)
    images, image = images_of(data.test)
    pose = samples_given(trained.pair, images, NUM_DRAWN)["x_mean"]
    agrees = rectangle_metric(pose, data.test.x, image)
    ours = discriminator.scores(pose, images)
    known, others = pair_scores(discriminator, data.test)
    found: dict[str, Estimate] = {}
    for name, least in (("certain", CERTAIN), ("likely", LIKELY)):
        found |= {
            name: _mean((ours >= least).double().mean(1), "share of poses"),
            f"{name}_of_known": _mean(_by_image(known >= least, image), "share of poses"),
            f"{name}_of_others": _mean(_by_image(others >= least, image), "share of poses"),
        }
    return found | {
        "rectangle": _mean(agrees.double().mean(1), "share of poses"),
        "rectangle_any": _mean(agrees.any(1), "share of images"),
    }
