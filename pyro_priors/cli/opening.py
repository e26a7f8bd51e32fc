"""Opening of a run folder with its pair and its data, for the commands that read a run."""

import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from .. import data, zoo
from .._options import path_of
from .._reading import RESTORE
from ..checkpoint import CheckpointError
from ..data.registry import without_downloads
from ..errors import MissingFileError, UserError
from ..pair import Pair
from ..run_folder import RunFolder
from .seeds import runs_of_seeds

__all__ = ["OfRun", "check_imports", "existing_run", "open_run"]


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
    """Return a run folder, its pair in float32 and in evaluation mode, and the data on which it was trained.

    :raises ValueError: if the run needs a module that is not imported, or the data are not those of the training
    :raises FileNotFoundError: if the run, its pair or its data are not there
    :raises CheckpointError: if a file of the run is damaged
    """
    path, given = options.run, options.data
    folder = existing_run(path)
    check_imports(folder.path, folder.config().get("imports", ()))
    recipe = folder.config()["data"]
    if recipe is None or (recipe["config"] is None and not given):
        remedy = "" if recipe is None else "give --data FILE.npz that holds them (numpy.savez), or "
        raise UserError(f"{path} was trained on arrays in memory: {remedy}evaluate it from Python, where they are")
    if not (folder.path / "pair" / "pair.json").exists():
        raise MissingFileError(f"{path} has no finished pair yet: go on training it (pyro-priors resume {path})")
    pair = zoo.load(folder.path).to(torch.float32)  # as the data are, whatever it was trained in
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
    return folder, pair, splits


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
