"""The command ``pyro-priors reconstruct``, which writes the reconstructions of a run's examples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .. import plots
from .._options import Size
from ..errors import UserError
from . import parsing
from .opening import OfRun, open_run, rows_of_split
from .writing import output_path, write_arrays, write_figure

__all__ = ["run"]

COLUMNS = 10
"""Images in a row of the picture."""
NUM_IN_PICTURE = 20
"""Examples in a picture if their number is left out."""


def run(arguments: Sequence[str]) -> None:
    """Run the command.

    :param arguments: the arguments after ``reconstruct``
    :raises ValueError: if an argument is wrong
    """

    @dataclass(frozen=True)
    class Options(OfRun):
        """Write examples and their reconstructions, the means of p(x|z) at the posterior's mean and most probable
        category: as a picture, or as arrays (x, reconstruction, row, and condition and label if there are any)."""

        out: str = "reconstructions.png"
        """Picture (.png) or arrays (.npz)."""
        split: Literal["train", "valid", "test"] = "test"
        """Split of the data."""
        num: Size | None = None
        """Number of examples, from the first on; when left out 20 in a picture, and all in arrays."""

    options = parsing.parse(Options, arguments, "reconstruct")
    out = output_path(options.out, [".png", ".npz"], "reconstructions.png")
    _, pair, splits = open_run(options)
    num = options.num
    if out.suffix == ".png":
        if splits.image_shape is None:
            raise UserError(f"{splits.name} has no images to draw: write arrays with --out reconstructions.npz")
        num = num or min(NUM_IN_PICTURE, len(splits.parts[options.split]))
    found: dict[str, list[Tensor]] = {}
    for batch in rows_of_split(pair, splits, options.split, num):
        values = {"x": batch.x, "reconstruction": pair.reconstruct(batch.x, batch.condition), "row": batch.row}
        values |= {name: value for name in ("condition", "label") if (value := getattr(batch, name)) is not None}
        for name, value in values.items():
            found.setdefault(name, []).append(value.cpu())
    arrays = {name: torch.cat(values) for name, values in found.items()}
    if out.suffix == ".npz":
        write_arrays(out, arrays)
    else:
        condition = arrays.get("condition")
        write_figure(out, _picture(*(plots.shown(arrays[name], condition, splits) for name in ("x", "reconstruction"))))
    print(f"{len(arrays['row'])} examples in {out}")


def _picture(images: Tensor, reconstructions: Tensor) -> Any:
    """Return a figure with rows of images, each above the row of its reconstructions."""
    columns = min(COLUMNS, len(images))
    blank = images.new_full((-len(images) % columns, *images.shape[1:]), 0.5)  # as between the images
    rows: list[Tensor] = []
    for start in range(0, len(images), columns):
        for values in (images, reconstructions):
            rows.append(torch.cat([values, blank])[start : start + columns])
    return plots.image_grid(torch.cat(rows), columns, "", ["data", "mean"] * (len(rows) // 2))
