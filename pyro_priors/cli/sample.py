"""The command ``pyro-priors sample``, which writes samples of a run."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from .. import conditions, data, plots
from .._options import Seed, Size
from ..errors import UserError
from ..pair import Pair
from ..rng import seeded
from ..run_folder import RunFolder
from . import parsing
from .arguments import integer
from .opening import OfRun, existing_run, open_data, open_pair
from .writing import output_path, write_arrays, write_figure

__all__ = ["run"]


def run(arguments: Sequence[str]) -> None:
    """Run the command.

    :param arguments: the arguments after ``sample``
    :raises ValueError: if an argument is wrong
    """

    @dataclass(frozen=True)
    class Options(OfRun):
        """Sample from a run: means of p(x|...) as a picture, or all sites in an .npz."""

        out: str = "samples.png"
        """Picture (.png) or arrays (.npz)."""
        num: Size | None = None
        """Number of samples, 64 when left out; with --to rounded up to whole rows of eight; not with --grid and
        --edit, which decide it."""
        category: str | None = None
        """Of a pair with categories: a number, prior, or aggregate (the aggregate posterior); prior when left out."""
        condition: tuple[str, ...] = ()
        """Of a conditional pair: rows of the test part whose conditions are used, in turn; or conditions by name, such
        as "Male=1,Smiling=-1" or label=7, or where they have no names by value, with a point: 0.5 or 1.0,2.0."""
        grid: tuple[str, ...] = ()
        """A row for each combination of these attributes, or for each class: label. The other attributes are those of
        training faces that have all of these."""
        to: str | None = None
        """A condition by name or value: eight steps from --condition to this one in each row."""
        edit: tuple[int, ...] = ()
        """Rows of the test part: each as it is, reconstructed, and under --condition."""
        transport: bool = False
        """With --edit: move the code along the prior with the condition, instead of keeping it, which may leave the
        picture as it was; nothing where the prior does not see the condition."""
        seed: Seed = 0
        """Seed of the noise."""

    options = parsing.parse(Options, arguments, "sample")
    out = output_path(options.out, [".png", ".npz"], "samples.png")
    if options.num is None:
        options = dataclasses.replace(options, num=64)
    elif options.grid or options.edit:
        raise UserError(
            f"--num is {options.num}, but --grid and --edit decide how many pictures there are: leave it out"
        )
    folder = existing_run(options.run)
    pair = open_pair(folder)
    # of an unconditional pair nothing but the shape of images, if they were flattened, is taken from the data
    splits = open_data(folder, options) if pair.takes_condition or options.data or options.data_root else None
    image_shape = None if splits is None else splits.image_shape
    if out.suffix == ".png":
        image_shape = image_shape or _image_shape(folder, pair, options)
    fixed: dict[str, Any] = {}
    if options.category is not None:
        if not pair.num_categories:
            raise UserError(f"--category {options.category}: this pair has no categories, leave it out")
        number = integer(options.category)
        fixed["c"] = options.category if number is None else number
    with seeded(options.seed, pair.device):
        if (made := _controlled(options, pair, splits)) is None:
            condition = _conditions_of_rows(options, pair, splits)
            made = conditions.Controlled(pair.sample(options.num, condition, **fixed), condition, 8)
    drawn = made.sites | ({} if made.condition is None else {"condition": made.condition})
    if out.suffix == ".npz":
        write_arrays(out, drawn)
    else:
        x_mean = drawn["x_mean"]
        if splits is None:
            images = x_mean.reshape(len(x_mean), *cast(tuple[int, ...], image_shape))
        else:
            images = plots.shown(x_mean, made.condition, splits)
        write_figure(out, plots.image_grid(images, made.num_columns, "", made.row_labels, made.column_labels))
    print(f"{len(drawn['x_mean'])} samples in {out}")


def _image_shape(folder: RunFolder, pair: Pair, options: OfRun) -> tuple[int, ...]:
    """Return (channels, height, width) of what an unconditional pair samples.

    :raises ValueError: if that is no image, or the data that say so are not there
    """
    x_shape = tuple(pair._configured("x_shape") or ())
    if len(x_shape) == 3:
        return x_shape
    try:
        splits = open_data(folder, options)
    except UserError as error:
        side = math.isqrt(math.prod(x_shape))
        if side < 2 or side**2 != math.prod(x_shape):
            raise UserError(
                f"the shape of the images is not known without the data ({error}): write arrays with --out samples.npz"
            ) from None
        parsing.warn(f"the images are drawn with {side}x{side} pixels, without the data ({error})")
        return 1, side, side
    if splits.image_shape is None:
        raise UserError(f"{splits.name} has no images to draw: write arrays with --out samples.npz, or draw with plot")
    return splits.image_shape


def _conditions_of_rows(options: Any, pair: Pair, splits: data.Splits | None) -> Any:
    """Conditions of the test part: of the rows that --condition names, or the first ones."""
    known = None if splits is None else splits.test.condition
    if splits is None or known is None or not pair.takes_condition:
        if options.condition:
            raise UserError(f"--condition {' '.join(options.condition)}: this pair takes no condition, leave it out")
        return None
    rows = [int(row) for row in options.condition] or list(range(min(options.num, len(splits.test))))
    if not all(0 <= row < len(splits.test) for row in rows):
        given = " ".join(options.condition)
        raise UserError(f"--condition must be rows of the test part, 0 to {len(splits.test) - 1}, got {given}")
    return known[[rows[i % len(rows)] for i in range(options.num)]]


def _controlled(options: Any, pair: Pair, splits: data.Splits | None) -> conditions.Controlled | None:
    """What is asked for by name; None where it is not."""
    are_rows = [integer(text) is not None for text in options.condition]
    by_name = not all(are_rows)
    ways = {"--grid": options.grid, "--to": options.to, "--edit": options.edit}
    chosen = [name for name, given in ways.items() if given]
    if len(chosen) > 1:
        raise UserError(f"{' and '.join(chosen)} are two pictures: choose one of them")
    shown = " ".join(map(str, [ways[chosen[0]]] if options.to else ways[chosen[0]])) if chosen else ""
    takes_condition = splits is not None and pair.takes_condition and splits.test.condition is not None
    if chosen and not takes_condition:
        raise UserError(
            f"{chosen[0]} {shown} needs a conditional pair, and this one takes no condition: train one, such as "
            f"{conditions.CONDITIONAL}"
        )
    if options.transport and not options.edit:
        raise UserError("--transport belongs to --edit: leave it out, or name rows of the test part with --edit")
    if splits is None or not takes_condition:
        return None
    if by_name and any(are_rows) and splits.condition_names is not None:
        given = " ".join(options.condition)
        raise UserError(f"--condition {given}: rows of the test part, and names, are two ways: choose one of them")
    if chosen in (["--to"], ["--edit"]) and (len(options.condition) != 1 or not by_name):
        rows = " (whole numbers are rows of the test part)" if options.condition and not by_name else ""
        raise UserError(
            f"{chosen[0]} {shown} needs one --condition by name or value: give one, such as {_example(splits)}{rows}"
        )
    if options.grid:
        return conditions.grid(pair, splits, options.grid, ",".join(options.condition))
    if options.to:
        return conditions.between(pair, splits, options.condition[0], options.to, -(-options.num // 8))
    if options.edit:
        return conditions.edited(pair, splits, options.edit, options.condition[0], options.transport)
    return conditions.asked(pair, splits, options.condition, options.num) if by_name else None


def _example(splits: data.Splits) -> str:
    if splits.condition_names is None:
        size = math.prod(splits.condition_shape or ())
        return ",".join(["0.5"] * min(size, 3)) + (",..." if size > 3 else "")
    names = splits.condition_names
    return f"label={names[-1]}" if splits.condition_of == "label" else f"{names[-1]}=1"
