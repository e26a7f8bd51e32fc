"""Figures of pairs with a category: samples of each, the aggregate posterior, and the confusion with labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .._options import Size, typed
from .._precision import pair_in_precision_of
from ..data import Splits
from ..errors import UserError
from ..metrics.clustering import label_counts, matching
from ..pair import Pair
from .images import image_grid, new_figure, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["aggregate_category", "categories", "confusion", "samples_by_category"]


def aggregate_of(pair: Pair) -> Tensor:
    """Return the aggregate posterior of the categories, shape ``(num_categories,)``."""
    if pair.aggregate_c is None:
        raise UserError("this pair has no category to draw: the figure belongs to pairs such as cp_vae")
    return pair.aggregate_c.cpu()


@typed
def samples_by_category(pair: Pair, data: Splits, num: Size = 10, max_rows: Size = 20) -> dict[str, Tensor]:
    """Samples of each category as images, by its number and q(c), the most used first, ``max_rows`` of them."""
    pair = pair_in_precision_of(data.train.x, pair)
    aggregate = aggregate_of(pair)
    order = aggregate.argsort(descending=True)[:max_rows].tolist()
    return {f"c={c}  {aggregate[c]:.0%}": shown(pair.sample(num, c=c)["x_mean"], None, data) for c in order}


@typed
def categories(pair: Pair, data: Splits, num_columns: Size = 10, max_rows: Size = 20) -> Figure:
    """One row of samples for each category, the most used first (Fig. 7 of Lavda et al. 2019), ``max_rows`` of them."""
    rows = samples_by_category(pair, data, num_columns, max_rows)
    num = len(aggregate_of(pair))
    which = "category" if len(rows) == num else f"category, the {len(rows)} most used of {num}"
    return image_grid(torch.cat([*rows.values()]), num_columns, f"samples by {which}, with q(c)", [*rows])


@typed
def confusion(pair: Pair, data: Splits, num_columns: Size = 10) -> Figure:
    """A row for each category: samples, and how many of the test data that it is the most probable one of have each
    label. Categories are in the order of the labels that they are matched with.

    :raises ValueError: if the data have no labels, or the pair no categories
    """
    from matplotlib.figure import Figure
    from torchvision.utils import make_grid

    label = data.test.label
    if label is None or data.num_labels is None or not pair.num_categories:
        raise UserError(
            f"a confusion needs labels and categories, got data {data.name} with {data.num_labels or 'no'} labels and "
            f"a pair with {pair.num_categories or 'no'} categories: use labelled data, and a cp_vae"
        )
    pair = pair_in_precision_of(data.train.x, pair)
    category = torch.cat([pair.encode(x.to(pair.device))["c"].probs.argmax(-1).cpu() for x in data.test.x.split(1000)])
    counts = label_counts(category, label, pair.num_categories, data.num_labels)
    matched = matching(counts)
    order = sorted(range(len(counts)), key=lambda c: matched.get(c, len(counts[0])))
    rows = torch.cat([pair.sample(num_columns, c=c)["x_mean"] for c in order])
    grid = make_grid(shown(rows, None, data).float().clamp(0, 1).cpu(), num_columns, padding=1, pad_value=0.5)
    figure = Figure(figsize=(10, 0.47 * len(counts) + 1.3), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest")
    left.set(xticks=[], yticks=[], title="samples by category")
    share = counts[order] / counts.sum(1)[order].clamp(min=1)[:, None]
    right.imshow(share.numpy(), cmap="Blues", vmin=0, vmax=1)
    for i, row in enumerate(counts[order].tolist()):
        for j, number in enumerate(row):
            color = "white" if share[i, j] > 0.5 else "black"
            right.text(j, i, number, ha="center", va="center", fontsize="small", color=color)
    names = data.label_names or [str(one) for one in range(data.num_labels)]
    right.set(yticks=range(len(counts)), yticklabels=[f"c={c}" for c in order], title="test data by label")
    right.set_xticks(range(data.num_labels), names, rotation=0 if max(map(len, names)) < 4 else 90)
    return figure


@typed
def aggregate_category(pair: Pair) -> Figure:
    """The aggregate posterior q(c), most used category first, beside the uniform prior."""
    q, order = aggregate_of(pair).sort(descending=True)
    figure, axes = new_figure(5, 3)
    axes.bar(range(len(q)), q.tolist(), width=0.9, label="aggregate posterior q(c)")
    if len(q) <= 20:
        axes.set_xticks(range(len(q)), [str(c) for c in order.tolist()])
    axes.axhline(1 / len(q), color="black", linestyle="--", label="prior p(c)")
    label = "category, the most used first"
    axes.set(xlabel=label if len(q) <= 20 else "rank of the category, the most used first", ylabel="probability")
    axes.legend(loc="lower left")
    return figure
