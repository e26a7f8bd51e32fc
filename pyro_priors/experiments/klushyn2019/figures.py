"""The figures of Klushyn et al. (2019), from trained rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from ... import plots
from ...metrics import (
    images_of,
    samples_given,
)
from ...metrics.given import conditions_of
from ..experiment import (
    Trained,
    validation_bound,
)
from .measures import NUM_CODES, NUM_DRAWN, measured_components, varieties
from .rows import METHODS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


SHOWN_THRESHOLD = 0.95


def _first_of(trained: Mapping[str, Trained], prefix: str) -> dict[str, Trained]:
    """Of each method, by title, the row of the first seed that is there."""
    found = {}
    for method, title in METHODS.items():
        rows = [one for one in trained.values() if (one.row.of or one.row.name) == f"{prefix}-{method}"]
        if rows:
            found[title] = rows[0]
    return found


def one_condition(trained: Mapping[str, Trained]) -> Figure:
    """Codes over the magnification factor, and samples, of the first row that is there."""
    one = next(iter(trained.values()))
    return plots.magnification(one.pair, one.data)


def _best_schedules(trained: Mapping[str, Trained]) -> dict[str, Trained]:
    """Of each method the first seed of those rows whose validation bound is the best on the mean, by title."""
    by_row: dict[str, list[Trained]] = {}
    for one in trained.values():
        by_row.setdefault(one.row.of, []).append(one)

    def mean(runs: list[Trained]) -> float:
        found = [one for run in runs for one in validation_bound(run).values()]
        return statistics.mean(one.value for one in found) if found else -math.inf

    best: dict[str, str] = {}
    for name, runs in by_row.items():
        method = name.split("-")[1]
        if method not in best or mean(runs) > mean(by_row[best[method]]):
            best[method] = name
    return {
        ", ".join([title, *best[method].split("-")[2:]]): by_row[best[method]][0]
        for method, title in METHODS.items()
        if method in best
    }


def toy_densities(trained: Mapping[str, Trained]) -> Figure:
    """The data, and one sample for each test condition from each method."""
    from matplotlib.figure import Figure

    there = _best_schedules(trained)
    test = next(iter(there.values())).data.test
    drawn = {"data": test.x} | {
        title: samples_given(one.pair, conditions_of(test), 1)["x"][:, 0] for title, one in there.items()
    }
    figure = Figure(figsize=(3 * len(drawn), 3.2), layout="constrained")
    for axes, (title, x) in zip(
        figure.subplots(1, len(drawn), sharey=True, squeeze=False)[0], drawn.items(), strict=True
    ):
        axes.scatter(conditions_of(test)[:, 0], x[:, 0], s=3, linewidth=0)
        axes.set(title=title, xlabel="condition", ylim=(-1.3, 1.3))
    figure.supylabel("x")
    return figure


CONDITIONS = ((0.5, 1.5, 2.5, 3.5), (0.0, 1.0, 2.0, 3.0))
"""Within each quarter of the toy, and at its beginning, as in the paper."""


def priors_by_condition(trained: Mapping[str, Trained], num: int = 1000) -> Figure:
    """Samples of the CDV prior, coloured by the target that they are decoded to."""
    from matplotlib.figure import Figure

    pair = next(iter(trained.values())).pair
    given = torch.tensor(CONDITIONS, dtype=torch.float32, device="cpu").reshape(-1, 1)
    drawn = samples_given(pair, given, num)
    figure = Figure(figsize=(12.5, 6), layout="constrained")
    all_axes = figure.subplots(2, 4, sharex=True, sharey=True)
    for axes, condition, z, x in zip(all_axes.flatten(), given[:, 0], drawn["z"], drawn["x_mean"], strict=True):
        points = axes.scatter(*z.T, c=x[:, 0], s=4, linewidth=0, cmap="turbo", vmin=-1, vmax=1)
        axes.set_title(f"condition {condition:g}", fontsize="medium")
    figure.colorbar(points, ax=all_axes, label="mean of p(x|z)")
    figure.supxlabel("z 1")
    figure.supylabel("z 2")
    return figure


def completions(trained: Mapping[str, Trained]) -> Figure:
    """A row of panels for each data set of which a method is there."""
    sets = [_first_of(trained, prefix) for prefix in ("mnist", "fashion")]
    named = [{title: one.pair for title, one in there.items()} for there in sets]
    data = [next((one.data for one in there.values()), None) for there in sets]
    return plots.completions([(found, pairs) for found, pairs in zip(data, named, strict=True) if found is not None])


def box_plots(trained: Mapping[str, Trained]) -> Figure:
    """Numbers of classes among the completions of each condition, by method and data set."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    for axes, prefix, title in zip(
        figure.subplots(1, 2), ("mnist", "fashion"), ("MNIST", "Fashion-MNIST"), strict=True
    ):
        found = {
            method: next(v for v in varieties(one) if v.threshold == SHOWN_THRESHOLD).classes
            for method, one in _first_of(trained, prefix).items()
        }
        if found:
            axes.boxplot([classes.numpy() for classes in found.values()], showmeans=True)
            axes.set_xticks(range(1, len(found) + 1), found, fontsize="small")
        axes.set(title=title, ylabel=f"classes of {NUM_DRAWN} completions", ylim=(-0.5, NUM_DRAWN + 0.5))
    return figure


def distances(trained: Mapping[str, Trained]) -> Figure:
    """Encoded images by their distance from each component of the prior, by method."""
    from matplotlib.figure import Figure

    there = {title: one for title, one in _first_of(trained, "mnist").items() if one.row.pair != "cvae"}
    figure = Figure(figsize=(4 * len(there), 3.6), layout="constrained")
    for axes, (title, one) in zip(figure.subplots(1, len(there), squeeze=False)[0], there.items(), strict=True):
        found = measured_components(one.pair, one.data)
        left = found.off.double().mean(0) > 0.5
        for counts, gone in zip(found.counts, left, strict=True):
            axes.plot(found.radii, counts, color="red" if gone else "black", linewidth=0.7, alpha=0.7)
        axes.axvline(found.limit, color="grey", linestyle="--", linewidth=0.8)
        axes.set(
            title=f"{title}: {int(left.sum())} of {len(left)} left", xlabel="distance", yscale="log", ylim=(0.1, None)
        )
    figure.supylabel(f"encoded images within it, of {NUM_CODES}")
    return figure


def poses_on_objects(trained: Mapping[str, Trained], num_objects: int = 7, num_poses: int = 4) -> Figure:
    """Known and generated poses drawn onto images of objects, a line for each method."""
    there = _first_of(trained, "grasp")
    test = next(iter(there.values())).data.test
    images, image = images_of(test)
    chosen = torch.linspace(0, len(images) - 1, min(num_objects, len(images)), dtype=torch.float32, device="cpu").long()
    poses: dict[str, Any] = {"data": [test.x[image == i] for i in chosen]}
    for title, one in there.items():
        poses[title] = list(samples_given(one.pair, images[chosen], num_poses)["x_mean"])
    side = math.isqrt(images[0].numel())
    return plots.grasps(poses, images[chosen].reshape(-1, 1, side, side))
