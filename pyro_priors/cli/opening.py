"""Opening of a run folder with its pair and its data, for the commands that read a run."""

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor

from .. import data, zoo
from .._files import CheckpointError
from .._options import path_of
from .._reading import RESTORE
from ..data.registry import without_downloads
from ..errors import MissingFileError, UserError
from ..pair import Pair
from ..run_folder import RunFolder
from .seeds import runs_of_seeds

__all__ = ["Batch", "OfRun", "check_imports", "existing_run", "open_data", "open_pair", "open_run", "rows_of_split"]

ROWS_AT_ONCE = 500
"""Maximum number of examples in a batch."""


def check_imports(path: Path, imports: Sequence[str]) -> None:
    """Refuse a run that was trained with modules which are not imported; a file alone imports nothing.

    :param path: folder of the run
    :param imports: the modules that the run names
    :raises ValueError: with the first of them
    """
    for module in imports:
        if module not in sys.modules:
            raise UserError(
                f"{path} was trained with --import {module}, which may register its parts: give it again, "
                f"pyro-priors --import {module} COMMAND ..."
            )


def existing_run(run: str) -> RunFolder:
    """Return the run folder at a path.

    :raises ValueError: if the path is empty, invalid, or a file
    :raises FileNotFoundError: if there is no run
    """
    path = path_of("run", run)
    if path.is_file():
        raise UserError(f"run is {run}, which is a file: give the run folder, such as runs/vae")
    if (runs := runs_of_seeds(path)) is not None:
        raise UserError(
            f"{run} has the runs of several seeds: give one of them, such as {runs.run(runs.seeds[0]).path}"
        )
    if not (path / "config.json").exists():
        raise MissingFileError(f"{run} is not a run folder: it has no config.json; give a folder that train wrote")
    return RunFolder(path)


@dataclass(frozen=True)
class OfRun:
    """Options of the commands that read a run."""

    run: tyro.conf.Positional[str]
    """Run folder."""
    data: str | None = None
    """File of the data, where it is not where it was when the run was trained; or a file of the arrays in memory that
    the run was trained on. It must hold the same data."""
    data_root: Annotated[str | None, tyro.conf.arg(name="data.root")] = None
    """Folder of the data, where it is not where it was when the run was trained."""


def open_run(options: OfRun) -> tuple[RunFolder, Pair, data.Splits]:
    """Return a run folder, its pair as :func:`open_pair` does, and its data as :func:`open_data` does.

    :raises ValueError: if the run needs a module that is not imported, or the data are not those of the training
    :raises FileNotFoundError: if the run, its pair or its data are not there
    :raises CheckpointError: if a file of the run is damaged
    """
    folder = existing_run(options.run)
    pair = open_pair(folder)
    return folder, pair, open_data(folder, options)


def open_pair(folder: RunFolder) -> Pair:
    """Return the pair of a run in float32 and in evaluation mode.

    :raises ValueError: if the run needs a module that is not imported
    :raises FileNotFoundError: if there is no pair yet
    :raises CheckpointError: if a file is damaged, or a parameter is not finite
    """
    path = folder.path
    check_imports(path, folder.config().get("imports", ()))
    if not (path / "pair" / "pair.json").exists():
        raise MissingFileError(f"{path} has no finished pair yet: go on training it (pyro-priors resume {path})")
    pair = zoo.load(path).to(torch.float32)  # as the data are, whatever it was trained in
    pair.eval()
    for parameter_name, parameter in pair.named_parameters():
        if not parameter.isfinite().all():
            raise CheckpointError(
                f"the pair in {path} has NaN or infinite values in '{parameter_name}'",
                "train it again in another --out",
            )
    if (shares := pair.aggregate_c) is not None and not (
        (shares >= 0).all() and abs(shares.double().sum().item() - 1) < 1e-2
    ):
        raise CheckpointError(
            f"the pair in {path} has an aggregate posterior that is no distribution ({shares.tolist()})",
            "train it again in another --out",
        )
    return pair


def open_data(folder: RunFolder, options: OfRun) -> data.Splits:
    """Return the data on which a run was trained.

    :raises ValueError: if they are in memory only, or those at the place that the options name are others
    :raises FileNotFoundError: if they are not there
    :raises CheckpointError: if the run does not describe data
    """
    path, given = options.run, options.data
    recipe = folder.config()["data"]
    if recipe is None or (recipe["config"] is None and not given):
        remedy = "" if recipe is None else "give --data FILE.npz that holds them (numpy.savez), or "
        raise UserError(f"{path} was trained on arrays in memory: {remedy}evaluate it from Python, where they are")
    name = given or recipe["name"]
    if not given and name.endswith(".npz") and not Path(name).is_file():
        raise MissingFileError(
            f"{name}, which {path} was trained on, is no longer there: put it back, or give its new place with --data"
        )
    config = _config_of_data(recipe["config"] or {"flatten": False}, options, folder)  # arrays in memory are as given
    of_run = config.get("root") is not None and not options.data_root
    with without_downloads() if of_run else contextlib.nullcontext():
        splits = data.load(name, **config)
    if "arrays" in recipe:
        found = splits.described(digest=True)["arrays"]
        if changed := [part for part, digest in recipe["arrays"].items() if found.get(part) != digest]:
            raise UserError(
                f"{path} was trained on arrays in memory, and {name} does not hold them: its {changed[0]} part differs"
            )
    elif recipe.get("sha256") not in (None, (splits.recipe or {}).get("sha256")):
        if given:
            raise UserError(
                f"--data {given} is not the file that {path} was trained on, {recipe['name']}: its checksum differs"
            )
        raise UserError(f"{name} has changed since {path} was trained on it: put that file back")
    elif given and "sha256" in recipe:  # under the old name, so that evaluations from before are of the same data
        old, new = Path(recipe["name"]), Path(name)
        splits = dataclasses.replace(splits, name=old.stem, source=splits.source.replace(new.name, old.name, 1))
    elif name != recipe["name"]:
        raise UserError(f"--data is {given}, but {path} was trained on {recipe['name']}: leave --data out")
    return splits


@dataclass(frozen=True)
class Batch:
    """Some examples of a split.

    :param x: shape ``(batch,) + x_shape``
    :param condition: shape ``(batch,) + condition_shape``, or None if the pair takes none
    :param label: shape ``(batch,)``, or None if there are no labels
    :param row: their numbers in the split, from 0, shape ``(batch,)``
    """

    x: Tensor
    condition: Tensor | None
    label: Tensor | None
    row: Tensor


def rows_of_split(pair: Pair, splits: data.Splits, split: str, num: int | None) -> Iterator[Batch]:
    """Yield the first examples of a split in batches, as the pair takes them.

    Training images with dynamic binarization are binarized once.

    :param num: number of examples, None for all
    :raises ValueError: if the split has fewer
    """
    part = splits.parts[split]
    if num is not None and num > len(part):
        raise UserError(f"--num is {num}, but the {split} split of {splits.name} has {len(part)} examples: give fewer")
    part = part if num is None else part.take(slice(num))
    like, size, start = next(pair.parameters()), min(ROWS_AT_ONCE, pair.batch_at_once), 0
    binarise = splits.binarise and split == "train"
    for x, condition in data.batches(part, size, seed=0, epoch=0, binarise=binarise, shuffle=False):
        row = torch.arange(start, start + len(x), device="cpu")
        given = None if condition is None or not pair.takes_condition else condition.to(like)
        yield Batch(x.to(like), given, None if part.label is None else part.label[row], row)
        start += len(x)


def _config_of_data(config: dict[str, Any], options: OfRun, folder: RunFolder) -> dict[str, Any]:
    """The options of the run's data, with the folder that the user gives.

    :raises CheckpointError: if the run's options are not those of data
    :raises FileNotFoundError: if its folder is not there; only the user's own is made, and filled by downloads
    """
    try:
        data.DataConfig(**config)
    except (TypeError, ValueError) as error:
        what = f"{folder.path / 'config.json'} does not describe data that can be loaded ({error})"
        raise CheckpointError(what, RESTORE) from None
    if options.data_root:
        return {**config, "root": options.data_root}
    root = config.get("root")
    if root is not None and not Path(root).is_dir():
        raise MissingFileError(
            f"{root}, the folder of the data that {folder.path} was trained on, is not there: give its new place with "
            "--data.root"
        )
    return config
