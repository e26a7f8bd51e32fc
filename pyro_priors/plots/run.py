"""Figures of one training: its curves, and every figure that applies to a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._files import make_folder, save_figure
from .._options import path_of, typed
from .._precision import pair_in_precision_of
from ..data import Splits
from ..pair import Pair
from .categories import aggregate_category, categories
from .images import reconstructions, samples
from .latent import latent_scatter, planar_site, prior_density
from .toys import density

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["bounds_by_epoch", "curves", "curves_of_seeds", "figures", "saved_figures"]


@typed
def curves(history: Sequence[dict[str, Any]]) -> Figure:
    """Training loss and validation bound by epoch, and the parts of the KL.

    :param history: records of the epochs, the lines of ``metrics.jsonl``
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [record["epoch"] for record in history]
    left.plot(epochs, [-record["train_loss"] for record in history], label="- training loss", marker=".")
    left.plot(epochs, [record["valid_bound"] for record in history], label="validation bound", marker=".")
    left.set(xlabel="epoch", ylabel="nats per datum")
    left.legend()
    for key in history[0]:
        if key.startswith("valid_kl_"):
            right.plot(
                epochs, [record[key] for record in history], label=f"KL of {key.removeprefix('valid_kl_')}", marker="."
            )
    right.set(xlabel="epoch", ylabel="nats per datum (validation)")
    right.legend()
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


@typed
def curves_of_seeds(histories: Mapping[int, Sequence[dict[str, Any]]]) -> Figure:
    """Training loss and validation ELBO by epoch: mean over seeds, and a band of one standard deviation over seeds.

    An epoch is drawn if at least two runs have it, or if there is only one run.

    :param histories: by seed, the records of the epochs of its run
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes: Any = figure.subplots()
    for key, sign, label in (("train_loss", -1, "- training loss"), ("valid_bound", 1, "validation ELBO")):
        by_epoch: dict[int, list[float]] = {}
        for history in histories.values():
            for record in history:
                by_epoch.setdefault(record["epoch"], []).append(sign * record[key])
        found = {epoch: np.array(by_epoch[epoch]) for epoch in sorted(by_epoch)}
        found = {epoch: values for epoch, values in found.items() if len(values) > 1 or len(histories) == 1}
        mean = np.array([values.mean() for values in found.values()])
        spread = np.array([values.std(ddof=1) if len(values) > 1 else 0.0 for values in found.values()])
        (line,) = axes.plot([*found], mean, label=label, marker=".")
        axes.fill_between([*found], mean - spread, mean + spread, color=line.get_color(), alpha=0.25, linewidth=0)
    seeds = f"{len(histories)} seeds" if len(histories) > 1 else "1 seed"
    axes.set(xlabel="epoch", ylabel="nats per example", title=f"mean ± standard deviation over {seeds}")
    axes.legend()
    axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


@typed
def bounds_by_epoch(runs: Mapping[str, Mapping[str, Sequence[Sequence[dict[str, Any]]]]]) -> Figure:
    """Validation bounds of many runs: a panel for each data set, a colour for each kind of run, a line for each seed.

    :param runs: by data set and kind, the records of the epochs of each of its runs
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4 * len(runs)), layout="constrained")
    for axes, (data, kinds) in zip(figure.subplots(len(runs), squeeze=False)[:, 0], runs.items(), strict=True):
        shown = []
        for kind, (name, histories) in enumerate(kinds.items()):
            for seed, history in enumerate(histories):
                bounds = [record["valid_bound"] for record in history]
                epochs = [record["epoch"] for record in history]
                color = colormaps["tab20" if len(kinds) > 10 else "tab10"](kind % 20)
                axes.plot(epochs, bounds, color=color, linewidth=1, label=None if seed else name)
                shown += bounds[len(bounds) // 5 :]  # the first epochs would leave the rest no room
        low, high = min(shown), max(shown)
        margin = 0.05 * (high - low or 1)
        axes.set(xlabel="epoch", ylabel="validation bound, nats per datum", title=data)
        axes.set_ylim(low - margin, high + margin)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return figure


@typed
def figures(pair: Pair, data: Splits, history: Sequence[dict[str, Any]], folder: str | Path) -> list[Path]:
    """Draw and save every figure that applies.

    :param pair: the trained pair
    :param data: its data
    :param history: records of the epochs, empty for none
    :param folder: where the PNG files go, made if missing
    :returns: the files
    :raises CheckpointError: if a file cannot be written
    """
    return list(saved_figures(pair, data, history, folder))


def saved_figures(pair: Pair, data: Splits, history: Sequence[dict[str, Any]], folder: str | Path) -> Iterator[Path]:
    """Draw every figure that applies, save them, and yield each file when it is written; see :func:`figures`."""
    folder = path_of("folder", folder)
    pair = pair_in_precision_of(data.train.x, pair)  # once for all figures
    fixed: dict[str, Any] = {"c": "aggregate"} if pair.num_categories else {}
    drawn: dict[str, Figure] = {}
    if data.image_shape is not None:
        drawn["reconstructions"] = reconstructions(pair, data)
        drawn["samples"] = samples(pair, data, **fixed)
        if pair.num_categories:
            drawn["categories"] = categories(pair, data)
    elif len(data.x_shape) == 1 and data.x_shape[0] <= 2:
        drawn["density"] = density(pair, data, **fixed)
    if pair.num_categories:
        drawn["aggregate_category"] = aggregate_category(pair)
    drawn["latent"] = latent_scatter(pair, data)
    if planar_site(pair, data):
        drawn["prior_density"] = prior_density(pair, data)
    if history:
        drawn["curves"] = curves(history)
    make_folder(folder)
    for name, figure in drawn.items():
        path = folder / f"{name}.png"
        save_figure(figure, path, dpi=120)
        yield path
