"""Figures of data in one or two dimensions: histograms and densities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._options import Size, typed
from .._precision import pair_in_precision_of
from ..data import Splits
from ..pair import Pair
from .images import first_rows, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["density", "histograms"]


def line(start: Any, end: Any, num: Size) -> Tensor:
    """Return equally spaced numbers, on the CPU, where matplotlib takes them."""
    return torch.linspace(float(start), float(end), num, dtype=torch.float32, device="cpu")


@typed
def histograms(drawn: Mapping[str, Tensor], x: Tensor, true_density: Tensor) -> Figure:
    """Histograms of one-dimensional samples, each with the true density over it.

    :param drawn: samples by title, each of shape ``(num_samples,)``
    :param x: points in ascending order, shape ``(num_points,)``; samples beyond them are not shown
    :param true_density: its values there
    """
    from matplotlib.figure import Figure

    num_columns = min(3, len(drawn))
    num_rows = -(-len(drawn) // num_columns)
    figure = Figure(figsize=(3.2 * num_columns, 2.4 * num_rows + 0.5), layout="constrained")
    all_axes = figure.subplots(num_rows, num_columns, sharex=True, sharey=True, squeeze=False).flatten()
    bins = line(x[0], x[-1], 101)
    for axes, (title, samples) in zip(all_axes, drawn.items(), strict=False):
        share = torch.histogram(samples.float().cpu(), bins).hist / (len(samples) * (bins[1] - bins[0]))
        axes.stairs(share.numpy(), bins.numpy(), fill=True, alpha=0.6, label="samples")
        axes.plot(x.numpy(), true_density.numpy(), color="black", linewidth=0.8, label="ground truth")
        axes.set_title(title, fontsize="medium")
    figure.legend(*all_axes[0].get_legend_handles_labels(), fontsize="x-small", loc="outside lower right", ncols=2)
    for axes in all_axes[len(drawn) :]:
        axes.set_axis_off()
    figure.supxlabel("x", fontsize="medium")
    figure.supylabel("density", fontsize="medium")
    return figure


SAMPLES_STYLE: dict[str, Any] = {"histtype": "step", "color": "black"}


@typed
def density(pair: Pair, data: Splits, num: Size = 10_000, **fixed: Any) -> Figure:
    """Toy data beside samples: a histogram in one dimension, two clouds in two."""
    pair, x = pair_in_precision_of(data.train.x, pair), data.test.x[:num]
    _, condition = first_rows(data.test, num, pair)
    generated = pair.sample(len(x), condition, **fixed)["x"].cpu()
    figure, axes = new_figure(5, 3.5)
    if x.shape[-1] == 1:
        bins = line(x.min() - 0.2, x.max() + 0.2, 100).numpy()
        # samples beyond the data lower the curve: they are weighed here, not normalised to what is shown
        for values, name, style in ((x, "data", {"alpha": 0.5}), (generated, "samples", SAMPLES_STYLE)):
            weights = [1 / (len(values) * (bins[1] - bins[0]))] * len(values)
            axes.hist(values[:, 0].numpy(), bins, weights=weights, label=name, **style)
        axes.set(xlabel="x", ylabel="density")
    else:
        axes.scatter(*x[:, :2].numpy().T, s=2, label="data")
        axes.scatter(*generated[:, :2].numpy().T, s=2, color="black", alpha=0.5, label="samples")
        axes.set(xlabel="$x_1$", ylabel="$x_2$")
    axes.legend()
    return figure
