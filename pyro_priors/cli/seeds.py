"""Folders with one run for each seed: ``OUT/seed-0``, ``OUT/seed-1``, ... and ``OUT/seeds.json``, which names them.

Each of the runs is an ordinary run folder. ``seeds.json`` has the seeds and the command, so that ``resume OUT`` also
trains the runs that were not begun.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._files import write_atomically
from .._options import path_of
from .._records import read as read_record
from .._records import seal
from .._schemas import SeedsOfRuns
from ..errors import UserError
from ..registry import IMPORTED
from ..run_folder import RunFolder
from ..training import TrainingDiverged
from ..training.progress import History
from . import parsing
from .arguments import groups, integer
from .grammar import taken

__all__ = ["FILE", "RunsOfSeeds", "best_elbo", "mean_and_spread", "runs_of_seeds", "split_seeds", "train_seeds"]

FILE = "seeds.json"
"""File that marks a folder with one run for each seed."""


@dataclass(frozen=True)
class RunsOfSeeds:
    """A folder with one run for each seed.

    :param path: the folder
    :param seeds: the seeds
    :param command: arguments of ``train`` that start a run, without seed and folder
    :param imports: modules that the command line imported
    """

    path: Path
    seeds: tuple[int, ...]
    command: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()

    def run(self, seed: int) -> RunFolder:
        """Return the run folder of a seed."""
        return RunFolder(self.path / f"seed-{seed}")

    @property
    def finished(self) -> dict[int, RunFolder]:
        """The runs that have a pair, by seed."""
        found = {seed: self.run(seed) for seed in self.seeds}
        return {seed: run for seed, run in found.items() if (run.path / "pair" / "pair.json").exists()}

    def finished_or_refused(self) -> dict[int, RunFolder]:
        """Return the runs that have a pair, by seed. Warn of the others.

        :raises ValueError: if there is none
        """
        found = self.finished
        if not found:
            raise UserError(f"{self.path} has no finished run yet: train it on (pyro-priors resume {self.path})")
        if missing := [str(seed) for seed in self.seeds if seed not in found]:
            parsing.warn(
                f"the runs of seeds {' '.join(missing)} in {self.path} have no pair yet and are left out: train them "
                f"with pyro-priors resume {self.path}"
            )
        return found


def runs_of_seeds(path: str | Path, argument: str = "run") -> RunsOfSeeds | None:
    """Return the runs in a folder with one run for each seed; None if the path is not such a folder.

    :param path: the folder
    :param argument: name of the argument, for the message
    :raises ValueError: if the path is empty or invalid
    :raises CheckpointError: if ``seeds.json`` is damaged
    """
    folder = path_of(argument, path)
    try:
        record = read_record(folder / FILE, SeedsOfRuns, folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return RunsOfSeeds(folder, tuple(record["seeds"]), tuple(record["command"]), tuple(record.get("imports", ())))


class _RunOfSeed(RunFolder):
    """A run folder that names all seeds in the folder above it as soon as it is begun."""

    def __init__(self, path: str | Path, command: Sequence[str], seeds: Sequence[int]) -> None:
        super().__init__(path, command)
        self.seeds = seeds

    def begin(self, config: dict[str, Any], resume: bool, defaults: dict[str, Any] | None = None) -> None:
        super().begin(config, resume, defaults)
        _, command = taken(self.command or (), "train.seed")
        record = {"seeds": list(self.seeds), "command": command} | ({"imports": [*IMPORTED]} if IMPORTED else {})
        write_atomically(self.path.parent / FILE, json.dumps(seal(record), indent=1).encode())


def split_seeds(arguments: Sequence[str]) -> tuple[tuple[int, ...] | None, list[str]]:
    """Return the seeds of ``--seeds``, or None without it, and the other arguments.

    :raises ValueError: if a seed is not one, or is given twice
    """
    kept: list[str] = []
    found: tuple[int, ...] | None = None
    for name, tokens in groups(arguments):
        if name != "seeds":
            kept += tokens
            continue
        first, equals, value = tokens[0].partition("=")
        values = [value, *tokens[1:]] if equals else tokens[1:]
        seeds = [integer(one) for one in values]
        if first != "--seeds" or not seeds or any(seed is None or not 0 <= seed < 2**63 for seed in seeds):
            shown = " ".join(values) or "no value"
            raise UserError(f"--seeds must be integers from 0 to 2**63 - 1, got {shown} (for example, --seeds 0 1 2)")
        found = tuple(seed for seed in seeds if seed is not None)
        if twice := [seed for i, seed in enumerate(found) if seed in found[:i]]:
            raise UserError(f"--seeds has {twice[0]} twice: give each seed once")
    return found, kept


def train_seeds(
    seeds: Sequence[int],
    arguments: Sequence[str],
    train_one: Callable[[list[str], Callable[[str, Sequence[str]], RunFolder]], History],
    told: Callable[[History], str],
) -> None:
    """Train one run for each seed, one after the other. Runs that are complete are left as they are.

    :param seeds: the seeds
    :param arguments: the other arguments of ``train``
    :param train_one: trains one run
    :param told: describes a training in one line
    :raises ValueError: if an argument is wrong, or the folder has other runs
    :raises TrainingDiverged: after all trainings, if one of them diverged
    """
    out, rest = taken(arguments, "out")
    if out is None:
        raise UserError("train needs --out: give the folder of the runs, such as --out runs/vae")
    if any(name == "train.seed" for name, _ in groups(rest)):
        raise UserError("--seeds and --train.seed both set the seed: leave --train.seed out")
    folder = path_of("--out", out)
    before = runs_of_seeds(folder)
    if (folder / "config.json").exists():
        raise UserError(f"out is {out}, which is the folder of one run: choose another --out")
    if before is not None and "--resume" not in rest:
        shown = " ".join(map(str, before.seeds))
        raise UserError(f"{out} already has runs of the seeds {shown}: resume them (--resume) or choose another --out")
    if before is not None and (lacking := [str(seed) for seed in before.seeds if seed not in seeds]):
        raise UserError(f"--seeds lacks {' '.join(lacking)}, of which {out} has runs: give all of them, or more")
    histories: dict[int, History] = {}
    diverged: dict[int, TrainingDiverged] = {}
    for seed in seeds:
        path = str(RunsOfSeeds(folder, (seed,)).run(seed).path)
        try:
            history = train_one(
                [*rest, f"--train.seed={seed}", f"--out={path}"],
                lambda path, command: _RunOfSeed(path, command, seeds),
            )
        except TrainingDiverged as error:
            diverged[seed] = error
            parsing.warn(f"seed {seed}: {error}")
            continue
        histories[seed] = history
        print(f"seed {seed}: {told(history)}", flush=True)
    if diverged:
        first, reason = next(iter(diverged.items()))
        others = f", and of {len(diverged) - 1} more" if len(diverged) > 1 else ""
        raise TrainingDiverged(f"the training of seed {first}{others} diverged: {reason}")
    best = [found for one in histories.values() if (found := best_elbo(one)) is not None]
    if best:
        mean, spread = mean_and_spread(best)
        shown = "" if spread is None else f" ± {spread:.3f} (standard deviation over {len(best)} seeds)"
        print(f"best validation ELBO {mean:.3f}{shown} nats per example; now: pyro-priors evaluate {out}")


def best_elbo(history: History) -> float | None:
    """Return the validation ELBO of the best epoch; None if its line is lost."""
    return next((one["valid_bound"] for one in history.epochs if one["epoch"] == history.best_epoch), None)


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean of values and their standard deviation (of n - 1), None for one value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None
