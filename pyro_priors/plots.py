"""Figures: what the papers show and what one looks at first.

Each function returns a matplotlib figure; nothing is shown, and nothing is saved but by :func:`figures`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._files import make_folder, save_figure
from ._options import Size, path_of, typed
from ._precision import condition_like, pair_in_precision_of
from .data import Part, Splits
from .data.poses import corners_of
from .latent_plots import image_rows, leakage_curves, path, pockets
from .metrics import log_magnification, samples_given
from .metrics.aggregate import log_prior, upper_site
from .metrics.checks import check_values
from .metrics.clustering import label_counts, matching
from .pair import Pair

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "aggregate_category",
    "bounds_by_epoch",
    "categories",
    "completions",
    "confusion",
    "curves",
    "density",
    "figures",
    "grasps",
    "histograms",
    "image_grid",
    "image_panels",
    "image_rows",
    "latent_scatter",
    "leakage_curves",
    "magnification",
    "path",
    "pockets",
    "prior_density",
    "reconstructions",
    "samples",
    "samples_by_category",
    "shown",
]


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _line(start: Any, end: Any, num: Size) -> Tensor:
    """Return equally spaced numbers, on the CPU, where matplotlib takes them."""
    return torch.linspace(float(start), float(end), num, dtype=torch.float32, device="cpu")


@typed
def image_grid(
    images: Tensor,
    num_columns: Size,
    title: str = "",
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
) -> Figure:
    """Images in rows.

    :param images: shape ``(num_images, channels, height, width)``, values in [0, 1]
    :param num_columns: images in each row
    :param title: above the grid
    :param row_labels: one at the left of each row
    :param column_labels: one above each column, upright, a line for each part between commas
    """
    from torchvision.utils import make_grid

    check_values("images", images, "num_images", "channels", "height", "width")
    channels, height, width = images.shape[1:]
    grid = make_grid(images.float().clamp(0, 1).cpu(), num_columns, padding=1, pad_value=0.5).permute(1, 2, 0)
    num_rows = -(-len(images) // num_columns)
    beside = 0.08 * max(map(len, row_labels), default=0)
    labels = [label.replace(",", "\n") for label in column_labels]
    above = 0.1 * max((len(line) for label in labels for line in label.splitlines()), default=0)
    figure, axes = _figure(0.55 * num_columns * width / height + 0.5 + beside, 0.55 * num_rows + 0.5 + above)
    axes.imshow(grid.numpy(), interpolation="nearest")
    axes.set_title(title)
    columns = [(column + 0.5) * (width + 1) for column in range(len(column_labels))]
    axes.set_xticks(columns, labels, rotation=90)
    axes.xaxis.tick_top()
    axes.set_yticks([(row + 0.5) * (height + 1) for row in range(len(row_labels))], row_labels)
    axes.tick_params(length=0)
    return figure


@typed
def image_panels(
    panels: Sequence[Sequence[Tensor | None]], column_labels: Sequence[str], row_labels: Sequence[str] = ()
) -> Figure:
    """Small grids of images, side by side and in rows.

    :param panels: rows of panels, each images of shape ``(num_images, channels, height, width)``, shown in a square, or
        None for an empty place
    :param column_labels: one above each column
    :param row_labels: one at the left of each row
    """
    from matplotlib.figure import Figure
    from torchvision.utils import make_grid

    figure = Figure(figsize=(2.6 * len(column_labels) + 0.4, 2.6 * len(panels) + 0.6), layout="constrained")
    all_axes = figure.subplots(len(panels), len(column_labels), squeeze=False)
    for i, row in enumerate(panels):
        for j, (axes, images) in enumerate(zip(all_axes[i], row, strict=True)):
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if i == 0:
                axes.set_title(column_labels[j], fontsize="medium")
            if j == 0 and row_labels:
                axes.set_ylabel(row_labels[i])
            if images is not None:
                side = math.ceil(math.sqrt(len(images)))
                grid = make_grid(images.float().clamp(0, 1).cpu(), side, padding=1, pad_value=0.5)
                axes.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest")
    return figure


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
    bins = _line(x[0], x[-1], 101)
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


@typed
def shown(x: Tensor, condition: Tensor | None, data: Splits) -> Tensor:
    """x as images; the condition below it where it is the rest of the image."""
    if data.image_shape is None:
        raise ValueError(f"{data.name} has no images to draw: see density")
    images = x.reshape(len(x), *data.image_shape)
    if condition is not None and data.condition_image_shape is not None:
        images = torch.cat([images, condition.reshape(len(x), *data.condition_image_shape)], -2)
    return images


def _aggregate(pair: Pair) -> Tensor:
    if pair.aggregate_c is None:
        raise ValueError("this pair has no category to draw: the figure belongs to pairs such as cp_vae")
    return pair.aggregate_c.cpu()


def _first(part: Part, size: int, pair: Pair) -> tuple[Tensor, Tensor | None]:
    like = next(pair.parameters())
    x = part.x[:size].to(like)
    if part.condition is None or pair.takes_labels:  # labels need not be given
        return x, None
    return x, condition_like(part.condition[:size], like)


@typed
def reconstructions(pair: Pair, data: Splits, num: Size = 10) -> Figure:
    """Test images above their reconstructions."""
    pair = pair_in_precision_of(data.train.x, pair)
    x, condition = _first(data.test, num, pair)
    images = torch.cat([shown(x, condition, data), shown(pair.reconstruct(x, condition), condition, data)])
    return image_grid(images, len(x), "reconstructions", ["data", "mean"])


@typed
def samples(pair: Pair, data: Splits, num: Size = 64, **fixed: Any) -> Figure:
    """Means of p(x|...) at ancestral samples; of a conditional pair, given conditions of the test part.

    :param fixed: as in :meth:`pyro_priors.Pair.sample`, such as ``c="aggregate"``
    """
    pair, condition = pair_in_precision_of(data.train.x, pair), None
    if data.condition_shape is not None:
        x, condition = _first(data.test, num, pair)
        num = len(x)
    x_mean = pair.sample(num, condition, **fixed)["x_mean"]
    return image_grid(shown(x_mean, condition, data), 8, "samples")


@typed
def samples_by_category(pair: Pair, data: Splits, num: Size = 10, max_rows: Size = 20) -> dict[str, Tensor]:
    """Samples of each category as images, by its number and q(c), the most used first, ``max_rows`` of them."""
    pair = pair_in_precision_of(data.train.x, pair)
    aggregate = _aggregate(pair)
    order = aggregate.argsort(descending=True)[:max_rows].tolist()
    return {f"c={c}  {aggregate[c]:.0%}": shown(pair.sample(num, c=c)["x_mean"], None, data) for c in order}


@typed
def categories(pair: Pair, data: Splits, num_columns: Size = 10, max_rows: Size = 20) -> Figure:
    """One row of samples for each category, the most used first (Fig. 7 of Lavda et al. 2019), ``max_rows`` of them."""
    rows = samples_by_category(pair, data, num_columns, max_rows)
    num = len(_aggregate(pair))
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
        raise ValueError(
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
    q, order = _aggregate(pair).sort(descending=True)
    figure, axes = _figure(5, 3)
    axes.bar(range(len(q)), q.tolist(), width=0.9, label="aggregate posterior q(c)")
    if len(q) <= 20:
        axes.set_xticks(range(len(q)), [str(c) for c in order.tolist()])
    axes.axhline(1 / len(q), color="black", linestyle="--", label="prior p(c)")
    label = "category, the most used first"
    axes.set(xlabel=label if len(q) <= 20 else "rank of the category, the most used first", ylabel="probability")
    axes.legend(loc="lower left")
    return figure


@typed
def latent_scatter(pair: Pair, data: Splits, num: Size = 2000) -> Figure:
    """Posterior means of test data, coloured by label or else by category, over samples of the prior in grey.

    Of a hierarchy the upper code. With more than two dimensions on the first two principal axes of the posterior means;
    with one against the first value of x.
    """
    pair = pair_in_precision_of(data.train.x, pair)
    x, condition = _first(data.test, num, pair)
    codes = pair.encode(x, condition)
    drawn = pair.sample(len(x), condition, **({"c": "aggregate"} if pair.num_categories else {}))
    site = next(name for name in codes if name != "c")
    posterior, prior = codes[site].mean, drawn[site]
    names = [f"{site} 1", f"{site} 2"]
    if posterior.shape[-1] == 1:
        posterior, prior = (
            torch.cat(z, -1) for z in ((posterior, x.flatten(1)[:, :1]), (prior, drawn["x"].flatten(1)[:, :1]))
        )
        names = [site, "x"]
    elif posterior.shape[-1] > 2:
        centre = posterior.mean(0)
        axes_of_means = torch.linalg.svd(posterior - centre, full_matrices=False).Vh[:2].T
        posterior, prior = (posterior - centre) @ axes_of_means, (prior - centre) @ axes_of_means
        names = ["principal axis 1", "principal axis 2"]
    figure, axes = _figure(5, 4.5)
    axes.scatter(*prior.cpu().numpy().T, s=3, color="lightgrey")
    label, title = data.test.label, "label"
    if label is None and "c" in codes:
        label, title = codes["c"].probs.argmax(-1).cpu(), "c"
    if label is None:
        axes.scatter(*posterior.cpu().numpy().T, s=3)
    else:
        points = axes.scatter(*posterior.cpu().numpy().T, s=3, c=label[: len(x)].numpy(), cmap="tab10")
        _legend(axes, points, title, label)
    drawn_from = "p(z|c), c of q(c)," if pair.num_categories else "the prior"
    axes.set(xlabel=names[0], ylabel=names[1], title=f"posterior means, and samples of {drawn_from} (grey)")
    return figure


def _legend(axes: Any, points: Any, title: str, label: Tensor) -> None:
    """Each label with its colour, or ten values of many."""
    elements = points.legend_elements(num=None if len(label.unique()) <= 20 else 10)
    axes.legend(*elements, title=title, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))


MASSES = (0.99, 0.9, 0.5)
"""Shares of the prior's mass that the contours of :func:`prior_density` enclose."""


@torch.no_grad()
@typed
def prior_density(pairs: Pair | Mapping[str, Pair], data: Splits, num: Size = 2000) -> Figure:
    """The prior of a two-dimensional code in grey, under one draw of q(z|x) for each of some test data, by label.

    The draws together are the aggregate posterior, which the prior has to meet. Grey without points is a hole: samples
    there are of codes that the decoder was never trained on. Points beyond the grey are a leak: codes of data that
    are next to never sampled. The three greys hold 50, 90 and 99% of the prior's mass, each in the smallest region
    that does.

    Of a hierarchy the upper code; of a pair with categories the mixture of their priors, and q(z|x) at the most
    probable one.

    :param pairs: a pair, or several by title, side by side
    :param data: their data
    :param num: number of test data, and of samples of the prior that place the contours
    :raises ValueError: if a code is not of two dimensions, or the data have a condition
    """
    from matplotlib.figure import Figure

    named = {"prior and aggregate posterior": pairs} if isinstance(pairs, Pair) else pairs
    figure = Figure(figsize=(3.6 * len(named) + 1, 3.9), layout="constrained")
    label = data.test.label
    for axes, (title, pair) in zip(figure.subplots(1, len(named), squeeze=False)[0], named.items(), strict=True):
        pair = pair_in_precision_of(data.train.x, pair)
        site = planar_site(pair, data)
        if not site:
            raise ValueError(
                f"prior_density draws codes of two dimensions that depend on no condition, and {data.name} with this "
                "pair has others: use latent_scatter"
            )
        prior = pair.sample(num)[site]
        posterior = pair.encode(_first(data.test, num, pair)[0])[site].sample()
        ends = torch.cat([prior, posterior]).quantile(prior.new_tensor([0.002, 0.998]), 0).cpu()
        margin = 0.08 * (ends[1] - ends[0])
        first, second = (_line(*ends, 150) for ends in zip(ends[0] - margin, ends[1] + margin, strict=True))
        grid = torch.cartesian_prod(first, second).to(prior)
        log_p = log_prior(pair, site, grid).unflatten(0, (150, 150)).T.cpu()
        levels = log_prior(pair, site, prior).quantile(1 - prior.new_tensor(MASSES)).tolist()
        greys = ["0.92", "0.82", "0.68"]
        axes.contourf(first, second, log_p, [*levels, math.inf], colors=greys)
        colours = {"color": "black"} if label is None else {"c": label[:num], "cmap": "tab10"}
        points = axes.scatter(*posterior.cpu().T, s=9, linewidth=0, **colours)
        axes.set(title=title, xlabel=f"{site} 1", ylabel=f"{site} 2")
    if label is not None:
        _legend(axes, points, "label", label)
    return figure


@typed
def planar_site(pair: Pair, data: Splits) -> str:
    """The latent site that :func:`prior_density` can draw, or nothing."""
    if data.condition_shape:
        return ""
    x, _ = _first(data.test, 1, pair)
    site = upper_site(pair, x)
    return site if pair.encode(x)[site].event_shape == (2,) else ""


@torch.no_grad()
@typed
def magnification(pair: Pair, data: Splits, num: Size = 1000) -> Figure:
    """The codes of test data over the decoder's magnification factor, and samples (Fig. 1 of Klushyn et al. 2019).

    Left: one draw of q(z|x) for each datum by label, over the common logarithm of the factor in grey
    (:func:`~pyro_priors.metrics.log_magnification`). Right: the data in grey under samples.

    :param pair: an unconditional pair with a decoder of its own and a code of two dimensions
    :param data: their data, of two dimensions too
    :param num: number of test data, and of samples
    :raises ValueError: if code or data are not of two dimensions
    """
    from matplotlib.figure import Figure

    pair = pair_in_precision_of(data.train.x, pair)
    site = planar_site(pair, data)
    if not site or data.x_shape != (2,):
        raise ValueError(f"magnification draws codes and data of two dimensions, {data.name} with this pair has others")
    drawn, x = pair.sample(num), data.test.x[:num]
    z = pair.encode(x.to(pair.device))[site].sample().cpu()
    prior = drawn[site].cpu()
    low, high = torch.cat([z, prior]).aminmax(dim=0)
    first, second = (_line(*ends, 200) for ends in zip(low.tolist(), high.tolist(), strict=True))
    decoder: Any = pair.model.decoder
    grid = torch.cartesian_prod(first, second).to(next(pair.parameters()))
    with pair.evaluating():
        factor = log_magnification(lambda z: decoder(z).mean, grid).reshape(200, 200).T.cpu() / math.log(10)
    lowest = factor.quantile(0.02).item()  # where it is all but 0 it says no more
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    shown = left.pcolormesh(
        *(values.numpy() for values in (first, second, factor)), cmap="Greys", shading="nearest", vmin=lowest
    )
    figure.colorbar(shown, ax=left, label="magnification factor, common logarithm")
    colours = {} if data.test.label is None else {"c": data.test.label[:num], "cmap": "tab10", "vmax": 9}
    left.scatter(*z.T, s=4, linewidth=0, **colours)
    left.set(xlabel=f"{site} 1", ylabel=f"{site} 2", title="codes of data, and magnification factor")
    right.scatter(*x.T, s=4, linewidth=0, color="lightgrey", label="data")
    right.scatter(*drawn["x"].cpu().T, s=4, linewidth=0, label="samples")
    right.set(xlabel="$x_1$", ylabel="$x_2$", title=f"{num:,} samples")
    right.legend(loc="center")
    return figure


@typed
def completions(sets: Sequence[tuple[Splits, Mapping[str, Pair]]], num_rows: Size = 8, num_columns: Size = 9) -> Figure:
    """Test images, and completions of their last rows by each pair (Fig. 4 of Klushyn et al. 2019).

    A row of panels for each data set, in it a panel for each pair: in the first column an image, in the others the
    means of x given its condition, which is below the white line.

    :param sets: data, images with a condition that is the rest of each (``condition_rows``), and pairs by title
    :param num_rows: number of images
    :param num_columns: completions of each
    :raises ValueError: if the condition is no part of the image
    """
    from matplotlib.figure import Figure

    most = max(len(pairs) for _, pairs in sets)
    figure = Figure(figsize=(3.4 * most, (0.34 * num_rows + 0.4) * len(sets) + 0.3), layout="constrained")
    all_axes = figure.subplots(len(sets), most, squeeze=False)
    for (data, pairs), of_set in zip(sets, all_axes, strict=True):
        for axes, (title, pair) in zip(of_set, pairs.items(), strict=False):
            _completed(axes, pair, data, num_rows, num_columns)
            axes.set(title=title)
        for axes in of_set[len(pairs) :]:
            axes.set_axis_off()
    return figure


def _completed(axes: Any, pair: Pair, data: Splits, num_rows: Size, num_columns: Size) -> None:
    """One panel of :func:`completions`."""
    from torchvision.utils import make_grid

    condition = data.test.condition
    if data.image_shape is None or data.condition_image_shape is None or condition is None:
        raise ValueError(
            f"completions draws images that a condition completes, {data.name} has none: condition_rows=10"
        )
    x, given, upper = data.test.x[:num_rows], condition[:num_rows], data.image_shape[-2]
    width, height = data.image_shape[-1], upper + data.condition_image_shape[-2]
    drawn = samples_given(pair_in_precision_of(data.train.x, pair), given, num_columns)["x_mean"]
    rows = torch.cat([x.unsqueeze(1), drawn.reshape(len(x), num_columns, *x.shape[1:])], 1)
    images = shown(rows.flatten(0, 1), given.repeat_interleave(num_columns + 1, 0), data).float().clamp(0, 1)
    grid = make_grid(images, num_columns + 1, padding=1, pad_value=0.5).permute(1, 2, 0)
    axes.imshow(grid.numpy(), interpolation="nearest")
    for row in range(len(x)):
        at = row * (height + 1) + 0.5 + upper
        axes.plot([width + 1.5, (num_columns + 1) * (width + 1) - 0.5], [at, at], color="white", linewidth=0.8)
    axes.set(xticks=[], yticks=[])


@typed
def grasps(poses: Mapping[str, Sequence[Tensor]], images: Tensor) -> Figure:
    """Grasp poses on the images of objects, a row for each kind of poses (Fig. 7 of Klushyn et al. 2019).

    Red edges are those along which the gripper opens, black ones its jaws.

    :param poses: by title: of each image its poses, shape ``(num, 6)`` (:data:`~pyro_priors.data.poses.POSE`)
    :param images: grey, shape ``(num_images, 1, height, width)``
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.7 * len(images) + 0.4, 1.75 * len(poses) + 0.4), layout="constrained")
    side = images.shape[-1]
    for row, (title, of_images) in zip(
        figure.subplots(len(poses), len(images), squeeze=False), poses.items(), strict=True
    ):
        row[0].set_ylabel(title)
        for axes, image, pose in zip(row, images, of_images, strict=True):
            axes.imshow(image[0].numpy(), cmap="gray", vmin=0, vmax=1)
            for corners in corners_of(pose, side) - 0.5:  # the middle of the first pixel is 0 here
                for edge in range(4):
                    ends = corners[[edge, (edge + 1) % 4]]
                    axes.plot(*ends.T.numpy(), color="black" if edge % 2 else "red", linewidth=1)
            axes.set(xticks=[], yticks=[], xlim=(-0.5, side - 0.5), ylim=(side - 0.5, -0.5))
    return figure


SAMPLES_STYLE: dict[str, Any] = {"histtype": "step", "color": "black"}


@typed
def density(pair: Pair, data: Splits, num: Size = 10_000, **fixed: Any) -> Figure:
    """Toy data beside samples: a histogram in one dimension, two clouds in two."""
    pair, x = pair_in_precision_of(data.train.x, pair), data.test.x[:num]
    _, condition = _first(data.test, num, pair)
    generated = pair.sample(len(x), condition, **fixed)["x"].cpu()
    figure, axes = _figure(5, 3.5)
    if x.shape[-1] == 1:
        bins = _line(x.min() - 0.2, x.max() + 0.2, 100).numpy()
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
