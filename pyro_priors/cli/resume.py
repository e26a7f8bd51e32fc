"""The command ``pyro-priors resume``, which resumes the training of a run."""

import contextlib
import dataclasses
import itertools
import re
from collections.abc import Sequence
from inspect import signature
from pathlib import Path

from .. import objectives, zoo
from .._files import CheckpointError
from ..data import DataConfig
from ..data.registry import without_downloads
from ..errors import MissingFileError, UserError
from ..priors.base import PRIORS
from ..run_folder import MAY_CHANGE
from ..training.config import TrainConfig
from ..zoo.recipe import REGISTRIES
from . import train as train_command
from .arguments import check_once, groups, merged
from .grammar import nested_fields, taken
from .opening import check_imports, existing_run
from .parsing import warn
from .seeds import FILE, runs_of_seeds

__all__ = ["run"]

ASKED_AGAIN = ("num_processes",)
"""Options of --train that a run's files do not decide: what a run costs this machine is the user's word."""


DEEPEST = 2
"""How deep priors in priors may be in the command of a run's files."""


def run(arguments: Sequence[str]) -> None:
    """Run the command.

    :param arguments: the arguments after ``resume``
    :raises ValueError: if an argument is wrong, or the run cannot be resumed
    """
    asked = ", ".join(f"--train.{name.replace('_', '-')}" for name in ASKED_AGAIN)
    if arguments[:1] in (["-h"], ["--help"]):
        print(
            "usage: pyro-priors resume RUN [options of train]\n\n"
            "Resume training with the options of the run. A folder of train --seeds is resumed as a whole.\n"
            f"Options that may be others: {', '.join(MAY_CHANGE).replace('_', '-')} (of --train), and --data FILE or "
            "--data.root FOLDER, where the same data are now\n"
            "Taken from RUN/config.json, which somebody else may have written: the pair and its factors, the "
            "objective, the data and their place, and the options of these and of --train. Nothing else is taken, "
            f"and not {asked}: give it again"
        )
        return
    if not arguments or arguments[0].startswith("-"):
        raise UserError("resume needs a run folder first: give it, as pyro-priors resume runs/cp")
    run, *more = arguments
    check_once(more)
    for name, tokens in groups(more):
        if name in ("out", "resume"):
            raise UserError(f"resume writes into {run} itself, got {' '.join(tokens)}: leave --{name} out")
        if not name and tokens:
            raise UserError(f"resume cannot use the argument {tokens[0]!r}: leave it out (see pyro-priors resume -h)")
    if (runs := runs_of_seeds(run)) is not None:
        path, recorded, imports = runs.path / FILE, list(runs.command), runs.imports
        of_seeds = ["--seeds", *map(str, runs.seeds)]
        if any(name in ("seeds", "train.seed") for name, _ in groups(more)):
            raise UserError(f"{run} has its own seeds: leave --seeds out, or give it to train with --resume")
    else:
        folder, of_seeds = existing_run(run), []
        config = folder.config()
        path, recorded = folder.path / "config.json", list(config.get("command", ()))
        imports = config.get("imports", ())
    check_imports(path.parent, imports)
    if not recorded:
        raise UserError(
            f"{run} does not say which command began it (reproduce, Python or an older version did): give that again; "
            "train with --resume, fit with resume=True"
        )
    command = _taken_from_run(recorded, path, more)
    of_run = "data.root" in dict(groups(command)) and "data.root" not in dict(groups(more))
    with without_downloads() if of_run else contextlib.nullcontext():
        train_command.run([*merged(command, more), *of_seeds, f"--out={run}", "--resume"])


def _taken_from_run(command: Sequence[str], file: Path, more: Sequence[str]) -> list[str]:
    """The arguments of a command in a run's files, less those that only the user may give.

    :param command: the pair and options of ``train``
    :param file: where it was read, for the message
    :param more: what the user gives
    :raises CheckpointError: if it has an argument that ``train`` does not record
    """

    def refuse(argument: str) -> CheckpointError:
        what = f"{file} has a command with the argument '{argument}', which resume does not take from a file"
        return CheckpointError(what, "give the command yourself: pyro-priors train ... --resume")

    name, *rest = command
    if name not in zoo.names():
        raise refuse(name)
    known = {"data", "objective", "quiet", *_options_of_pair(name)}
    known |= {f"data.{one.name}" for one in dataclasses.fields(DataConfig)}
    known |= {f"train.{one.name}" for one in dataclasses.fields(TrainConfig)}
    known |= {f"objective.{one}" for kind in objectives.OBJECTIVES.values() for one in signature(kind).parameters}
    kept: list[str] = []
    skipped: list[str] = []
    is_asked = False
    for argument in rest:
        if argument.startswith("--"):
            option = argument[2:].split("=", 1)[0].replace("-", "_")
            group, dot, last = option.rpartition(".")
            if option not in known and f"{group}{dot}{last.removeprefix('no_')}" not in known:
                raise refuse(argument)
            is_asked = group == "train" and last in ASKED_AGAIN
        elif re.match("-[^0-9.]", argument):
            raise refuse(argument)
        (skipped if is_asked else kept).append(argument)
    for option, exists in (("data", Path.is_file), ("data.root", Path.is_dir)):
        place, _ = taken(kept, option)
        is_path = option != "data" or str(place).endswith(".npz")
        if place is not None and is_path and taken(list(more), option)[0] is None and not exists(Path(place)):
            raise MissingFileError(
                f"{place}, which {file.parent} was trained on, is no longer there: put it back, or give its new place "
                f"with --{option}"
            )
    if skipped and not any(argument.startswith(f"--train.{_dashed(one)}") for argument in more for one in ASKED_AGAIN):
        warn(f"{' '.join(skipped)} is not taken from {file}: give it again where it is wanted")
    return [name, *kept]


def _options_of_pair(name: str) -> set[str]:
    """Paths of the options that a pair, and its factors whichever they are, may have."""
    family = zoo.FAMILIES[zoo.PRESETS[name].family]
    known = {one.name for one in dataclasses.fields(family)}
    for factor in family.factors:
        registry = REGISTRIES[factor]
        options = {one.name for key in registry for one in dataclasses.fields(registry[key])}
        known |= {factor, *(f"{factor}.{option}" for option in options)}
        nested = sorted({one for key in registry for one in nested_fields(registry[key])})
        if nested:  # of which the options are those of priors
            of_priors = {one.name for key in PRIORS for one in dataclasses.fields(PRIORS[key])}
            for depth in range(1, DEEPEST + 1):
                for path in itertools.product(nested, repeat=depth):
                    known |= {".".join((factor, *path, option)) for option in of_priors}
    return known


def _dashed(option: str) -> str:
    return option.replace("_", "-")
