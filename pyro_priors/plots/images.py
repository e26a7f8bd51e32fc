"""Figures of images: grids, reconstructions, samples, one row for each category, completions and grasps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._options import Size, typed
from .._precision import condition_like, pair_in_precision_of
from ..data import Part, Splits
from ..data.poses import corners_of
from ..metrics import samples_given
from ..metrics.checks import check_values
from ..pair import Pair

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "completions",
    "grasps",
    "image_grid",
    "image_panels",
    "image_rows",
    "reconstructions",
    "samples",
    "shown",
]


def new_figure(width: float, height: float) -> tuple[Figure, Any]:
    """Return an empty figure of this size, in inches, and its axes."""
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


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
    figure, axes = new_figure(0.55 * num_columns * width / height + 0.5 + beside, 0.55 * num_rows + 0.5 + above)
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
def shown(x: Tensor, condition: Tensor | None, data: Splits) -> Tensor:
    """x as images; the condition below it where it is the rest of the image."""
    if data.image_shape is None:
        raise ValueError(f"{data.name} has no images to draw: see density")
    images = x.reshape(len(x), *data.image_shape)
    if condition is not None and data.condition_image_shape is not None:
        images = torch.cat([images, condition.reshape(len(x), *data.condition_image_shape)], -2)
    return images


def first_rows(part: Part, size: int, pair: Pair) -> tuple[Tensor, Tensor | None]:
    """Return the first examples of a split and their conditions, as the pair takes them."""
    like = next(pair.parameters())
    x = part.x[:size].to(like)
    if part.condition is None or pair.takes_labels:  # labels need not be given
        return x, None
    return x, condition_like(part.condition[:size], like)


@typed
def reconstructions(pair: Pair, data: Splits, num: Size = 10) -> Figure:
    """Test images above their reconstructions."""
    pair = pair_in_precision_of(data.train.x, pair)
    x, condition = first_rows(data.test, num, pair)
    images = torch.cat([shown(x, condition, data), shown(pair.reconstruct(x, condition), condition, data)])
    return image_grid(images, len(x), "reconstructions", ["data", "mean"])


@typed
def samples(pair: Pair, data: Splits, num: Size = 64, **fixed: Any) -> Figure:
    """Means of p(x|...) at ancestral samples; of a conditional pair, given conditions of the test part.

    :param fixed: as in :meth:`pyro_priors.Pair.sample`, such as ``c="aggregate"``
    """
    pair, condition = pair_in_precision_of(data.train.x, pair), None
    if data.condition_shape is not None:
        x, condition = first_rows(data.test, num, pair)
        num = len(x)
    x_mean = pair.sample(num, condition, **fixed)["x_mean"]
    return image_grid(shown(x_mean, condition, data), 8, "samples")


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


@typed
def image_rows(rows: Mapping[str, Tensor]) -> Figure:
    """Rows of images, each with its label.

    :param rows: images by label, each of shape ``(num, channels, height, width)`` with the same number
    """

    return image_grid(
        torch.cat([images.cpu() for images in rows.values()]), len(next(iter(rows.values()))), "", [*rows]
    )
