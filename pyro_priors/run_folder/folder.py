"""A run folder, for reading and writing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import _files, checkpoint
from .._files import PATIENCE, CheckpointError, remove_leftovers
from .._options import path_of
from .._reading import check_inside
from .._records import WrongRecord, parse, seal
from .._records import read as read_record
from .._schemas import Config, SavedPair
from ..errors import MissingFileError, UserError
from ..registry import IMPORTED
from .evaluations import Evaluations, SavedEvaluation
from .history import HistoryFile
from .options import compare_options, difference
from .state import ResumeState, load_state, read_state, save_state

__all__ = ["RunFolder", "find_pair", "save_pair"]

REPLACED = "replaced"
"""Mark in the record of a pair that was saved over the one from the training."""


class RunFolder:
    """A run folder, for reading and writing.

    :param path: the folder, created when it is first written
    :param command: arguments of ``pyro-priors train`` that started the run, for its record
    """

    def __init__(self, path: str | Path, command: Sequence[str] | None = None) -> None:
        self.path, self.command = path_of("out", path), command
        self._history = HistoryFile(self.path)

    @classmethod
    def of(cls, path: str | Path) -> RunFolder | None:
        """Return the run that a path belongs to: a run folder, or its ``pair`` folder; None if it is neither."""
        folder = Path(path)
        if cls(folder).was_begun:
            return cls(folder)
        folder = folder.resolve()
        return cls(folder.parent) if folder.name == "pair" and cls(folder.parent).was_begun else None

    @property
    def was_begun(self) -> bool:
        """Whether a training has written to this folder, as opposed to a saved pair or another program."""
        if any(self.path.glob("last/state*.json")):
            return True
        try:
            return bool(self.config())
        except (FileNotFoundError, NotADirectoryError, CheckpointError):
            return False

    @property
    def pair_is_replaced(self) -> bool:
        """Whether :meth:`Pair.save` has replaced the pair that the training left."""
        return bool(self._record_of_pair().get(REPLACED))

    @property
    def is_of_arrays(self) -> bool:
        """Whether the folder contains a run on in-memory arrays, of which it has the digest."""
        return self.holds_a_run and "arrays" in (self.config()["data"] or {})

    @property
    def metrics_file(self) -> Path:
        return self._history.file

    @property
    def damaged_file(self) -> Path:
        return self._history.damaged_file

    @property
    def holds_a_run(self) -> bool:
        """Whether a state or a pair was ever written; a run that ended before that does not count."""
        return any(self.path.glob("last/state*.json")) or any(self.path.glob("pair/pair.json"))

    @property
    def holds_numbers_only(self) -> bool:
        """Whether the folder has the results of a run, but not its weights."""
        return not self.holds_a_run and all(
            (self.path / name).exists() for name in ("config.json", "metrics.jsonl", "evaluation.json")
        )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder, and lock it against trainings in other processes; a killed process releases the lock.

        :raises ValueError: if another process trains in the folder, or the path is a file
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"out must be a folder, but {self.path} is a file: choose the name of a new folder")
        with ExitStack() as stack:
            try:
                stack.enter_context(_files.locked(self.path, wait=False))
            except BlockingIOError:
                raise UserError(
                    f"another process is training in {self.path}: wait for it, or choose another --out"
                ) from None
            yield

    @property
    def num_epochs(self) -> int:
        """Number of epochs up to the last line of ``metrics.jsonl``."""
        history, _ = self._history.read()
        return history[-1]["epoch"] + 1 if history else 0

    def begin(self, config: dict[str, Any], resume: bool, defaults: dict[str, Any] | None = None) -> None:
        """Write ``config.json``, or compare the options with those of the run to be resumed.

        :param config: the options of the run
        :param resume: resume the run in the folder
        :param defaults: as for :meth:`compare`
        :raises ValueError: if the folder contains a run and ``resume`` is False, a run with other options or more
            epochs, a run without its weights, or files of these names that no training wrote
        """
        if self.holds_numbers_only:
            raise UserError(
                f"{self.path} contains the results of a run without its weights, so that it cannot be resumed: choose "
                "another --out, or delete the folder to train it again"
            )
        if self.holds_a_run:
            if not resume:
                raise UserError(
                    f"{self.path} already contains a run: resume it (--resume, resume=True) or choose another --out"
                )
            self.compare(config, defaults)
            done, most = self.num_epochs, config["train"]["max_epochs"]
            if most < done:
                raise UserError(
                    f"max_epochs is {most}, but the run in {self.path} has trained {done} epochs: give at least "
                    f"{done}, or train again with another --out"
                )
        elif not self.was_begun:
            for file in (self.path / "config.json", self.metrics_file):
                if file.exists():
                    raise UserError(
                        f"{file} exists, but was not written by a training: choose another --out, or move it away"
                    )
        for folder, name in ((self.inside("last"), "state"), (self.inside("pair"), "pair")):
            checkpoint.remove_unfinished(folder, name)
        remove_leftovers(self.inside("figures"))
        command = {} if self.command is None else {"command": self.command}
        imports = {"imports": [*IMPORTED]} if IMPORTED else {}
        sealed = seal(config | command | imports)
        try:
            parse(json.dumps(sealed).encode(), Config)
        except WrongRecord as error:
            raise UserError(f"config.json cannot record the options of the run ({error}): change that one") from None
        _files.write_atomically(self.path / "config.json", json.dumps(sealed, indent=1).encode())

    def compare(
        self, config: dict[str, Any], defaults: dict[str, Any] | None = None, filled_in: Sequence[str] | None = None
    ) -> None:
        """Compare options with those of the run in the folder.

        :param config: the options
        :param defaults: the default of each option, in the same form; an option that is newer than the run must be at
            its default
        :param filled_in: if given, ``config`` need not name every option. Missing options must be at their defaults in
            the run, except for these, and for options without a default, which depend on the data
        :raises ValueError: if an option differs, or the run's pair was replaced by another
        """
        compare_options(self.path, self.config(), config, defaults, filled_in)
        if self.pair_is_replaced:
            raise UserError(
                f"{self.path / 'pair'} contains a pair that was saved over the one from the training: move it to "
                "another folder to resume the run, or train with another --out"
            )

    def config(self) -> dict[str, Any]:
        """Return the content of ``config.json`` without its checksum.

        :raises FileNotFoundError: if this is not a run folder
        :raises CheckpointError: if the file cannot be read, was not written by a training, or was altered
        """
        remedy = "restore it from a copy, or train again in another folder; pyro_priors.load reads the pair without it"
        try:
            return read_record(self.path / "config.json", Config, self.path)
        except FileNotFoundError:
            raise MissingFileError(f"{self.path} is not a run folder: it has no config.json") from None
        except CheckpointError as error:
            raise CheckpointError(error.what, remedy) from None

    def inside(self, name: str) -> Path:
        """Return the path of a file or folder of the run, for writing.

        :raises CheckpointError: if it is a link to a place outside the run folder
        """
        check_inside(self.path / name, self.path)
        return self.path / name

    def progress(self) -> dict[str, Any] | None:
        """Return the counters of the last complete state; None if no state was ever written.

        :raises CheckpointError: if no state can be read
        """
        found = read_state(self.path)
        return None if found is None else found[1]["progress"]

    def stopped(self) -> str | None:
        """Return why the training stopped, such as ``"max_epochs"`` or ``"signal SIGTERM"``.

        :returns: the reason; None if the training goes on or was killed

        :raises CheckpointError: if no state can be read
        """
        found = read_state(self.path)
        return None if found is None else found[1].get("stopped") or None

    def weights(self) -> str | None:
        """Return the checksum of the pair in ``pair/``; None if there is no pair."""
        return self._record_of_pair().get("sha256")

    def _record_of_pair(self) -> dict[str, Any]:
        try:
            return read_record(self.path / "pair" / "pair.json", SavedPair, self.path, sealed=False)
        except (FileNotFoundError, NotADirectoryError, CheckpointError):  # whatever reads a damaged pair reports it
            return {}

    def source(self, weights: str | None) -> dict[str, Any]:
        """Return what the record of an evaluation says about the pair. Call this when the pair is loaded.

        :param weights: checksum of the save from which the pair was loaded
        """
        known = weights == self.weights() and not self.pair_is_replaced
        return {"weights": weights, "epochs": self.num_epochs if known else None}

    def save_evaluation(
        self,
        record: dict[str, Any],
        merge: Callable[[dict[str, Any] | None, dict[str, Any]], dict[str, Any]] | None = None,
    ) -> SavedEvaluation:
        """Write ``evaluation.json``, or a separate file if the run now has another pair than the evaluated one.

        Evaluations that end at the same time are written one after the other, so that each is merged with those before.

        :param record: the record from :func:`pyro_priors.metrics.record`, and the items of :meth:`source`
        :param merge: merges the previous record of the same pair, part and seed, or None, with the new one
        :raises WriteError: if a file cannot be written
        """
        with _files.locked(self.path, wait=True, name="evaluation", patience=PATIENCE):
            return self._evaluations().save(record, merge)

    def evaluation(self, part: str | None = None, seed: int = 0) -> dict[str, Any] | None:
        """Return the evaluation of the current pair in ``pair/``, or, without its weights, of the last epoch.

        :param part: part of the data; by default the last evaluation
        :param seed: seed of the noise
        :returns: the record, or None if there is none
        """
        return self._evaluations().find(part, seed)

    def _evaluations(self) -> Evaluations:
        return Evaluations(self.path, self.weights(), self.num_epochs if self.holds_numbers_only else None)

    def append(self, record: dict[str, Any]) -> None:
        """Add one line to ``metrics.jsonl``."""
        self._history.append(record)

    def history(self) -> list[dict[str, Any]]:
        """Return the records in ``metrics.jsonl``. Warn of truncated and altered lines, which are skipped.

        :raises CheckpointError: if the file cannot be read at all
        """
        return self._history.records()

    def history_before(self, epoch: int) -> list[dict[str, Any]]:
        """Return the records of the epochs before this one; warn if some are missing."""
        return self._history.before(epoch)

    def rewrite_history(self, records: list[dict[str, Any]]) -> None:
        """Replace ``metrics.jsonl`` by these records. Damaged lines of the old file are kept in another file."""
        self._history.rewrite(records)

    def save_state(self, state: ResumeState) -> None:
        """Write ``last/``, and keep the previous state."""
        save_state(self.path, state)

    def load_state(self) -> ResumeState | None:
        """Return the last complete state, or None if no state was ever written.

        If the last state is truncated or altered, a warning is given and the previous state is used.

        :raises CheckpointError: if neither can be read
        """
        return load_state(self.path)

    def save_pair(self, tensors: dict[str, Tensor], recipe: dict[str, Any] | None) -> str:
        """Write ``pair/``, the best pair so far, and return its checksum."""
        return checkpoint.write(self.inside("pair"), "pair", tensors, {"pair": recipe})

    def replace_pair(self, tensors: dict[str, Tensor], recipe: dict[str, Any] | None) -> str:
        """Write a pair into ``pair/``, and mark it as a replacement if it differs from the pair of the training.

        A marked pair is loaded and evaluated, but never treated as the result of the training. The run cannot be
        resumed, and :func:`~pyro_priors.experiments.reproduce` does not show it.

        :returns: the checksum of the pair
        :raises ValueError: if the run has a pair with other options, or lacks its weights
        """
        if self.holds_numbers_only:
            raise UserError(
                f"{self.path} contains the results of a run without its weights: save the pair in another folder"
            )
        if other := difference("pair", self.config()["pair"], json.loads(json.dumps(recipe))):
            name, old, new = other
            raise UserError(
                f"the run in {self.path} has {name}={old!r}, but this pair has {new!r}: save the pair in another folder"
            )
        record: dict[str, Any] = {"pair": recipe}
        digest = checkpoint.digest_of(tensors, record)
        with _files.locked(self.inside("pair"), wait=True, name="pair", patience=PATIENCE):
            if digest != self.weights():
                record[REPLACED] = True
            return checkpoint.write(self.inside("pair"), "pair", tensors, record)


def find_pair(path: str | Path) -> Path:
    """Return the folder that contains the ``pair.json`` of a path: ``path/pair`` for a run folder, else the path
    itself.

    If there is no pair in that folder, the other of the two is used. A run folder of which only ``pair/`` is left can
    thus be given as well.
    """
    folder = Path(path)
    places = [folder, folder / "pair"]
    if RunFolder(folder).was_begun:
        places.reverse()
    return next((place for place in places if (place / "pair.json").exists()), places[0])


def save_pair(path: str | Path, tensors: dict[str, Tensor], recipe: dict[str, Any] | None) -> str:
    """Write a pair where :func:`find_pair` finds it.

    :returns: the checksum of the pair
    :raises ValueError: as :meth:`RunFolder.replace_pair` if the path belongs to a run, or if the folder cannot be
        created
    """
    run = RunFolder.of(path)
    if run is None:
        return checkpoint.write(Path(path), "pair", tensors, {"pair": recipe})
    return run.replace_pair(tensors, recipe)
