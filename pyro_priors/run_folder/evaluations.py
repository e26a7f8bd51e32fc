"""The evaluations of a run: ``evaluation.json``, and those of other parts, seeds and weights."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .. import _files
from .._files import CheckpointError
from .._reading import read_file
from .._records import LARGEST_FILE, seal
from .._records import read as read_record
from .._schemas import Evaluation

__all__ = ["Evaluations", "SavedEvaluation"]


class SavedEvaluation(NamedTuple):
    """What :meth:`RunFolder.save_evaluation` did."""

    record: dict[str, Any]
    """The content of the file."""
    before: dict[str, Any] | None
    """The previous evaluation of the same pair, part and seed."""
    file: Path
    """``evaluation.json``, or another file if the run now has another pair."""
    set_aside: Path | None
    """The file to which the last evaluation was moved, if it was of another part or seed."""


class Evaluations:
    """The evaluations in a run folder, as they are when this is made.

    :param path: the run folder
    :param weights: checksum of the pair in it; None if there is none
    :param last_epochs: number of epochs of a run without its weights; None if it has them
    """

    def __init__(self, path: Path, weights: str | None, last_epochs: int | None) -> None:
        self.path, self.weights, self.last_epochs = path, weights, last_epochs

    def save(
        self,
        record: dict[str, Any],
        merge: Callable[[dict[str, Any] | None, dict[str, Any]], dict[str, Any]] | None,
    ) -> SavedEvaluation:
        """Write an evaluation, as :meth:`RunFolder.save_evaluation` does, which holds the lock meanwhile."""
        file = self.path / "evaluation.json"
        if record["weights"] == self.weights:
            self._keep_damaged(file.name)
            before, last = self.find(record["part"], record["seed"]), self._current(file.name)
        else:
            file = self.path / f"{_of(record).removesuffix('.json')}-{str(record['weights'])[:16]}.json"
            self._keep_damaged(file.name)
            before, last = self._read(file.name), None
            before = before if before and before.get("weights") == record["weights"] else None
        kept = dict(record) if merge is None else merge(before, record)
        other = None
        if last is not None and _of(last) != _of(record):
            self._keep_damaged(_of(last))
            other = self.path / _of(last)  # a copy: the last one stays until there is another
            _files.write_atomically(other, file.read_bytes())
        _files.write_atomically(file, json.dumps(seal(kept), indent=1).encode())
        return SavedEvaluation(kept, before, file, other)

    def find(self, part: str | None = None, seed: int = 0) -> dict[str, Any] | None:
        """Return the evaluation of the current pair in ``pair/``, or, without its weights, of the last epoch.

        :param part: part of the data; by default the last evaluation
        :param seed: seed of the noise
        :returns: the record, or None if there is none
        """
        last = self._current("evaluation.json")
        given = {"part": part, "seed": seed}
        if part is None or (last is not None and _of(last) == _of(given)):
            return last
        return self._current(_of(given))

    def _read(self, name: str) -> dict[str, Any] | None:
        """Return an evaluation; warn if it cannot be read."""
        try:
            return read_record(self.path / name, Evaluation, self.path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except CheckpointError as error:
            warnings.warn(f"{error.what}; its results are ignored", RuntimeWarning, stacklevel=4)
            return None

    def _current(self, name: str) -> dict[str, Any] | None:
        record = self._read(name)
        if record is None:
            return None
        if self.last_epochs is not None:  # older records have no epochs and are of the last one
            return record if record.get("epochs", self.last_epochs) == self.last_epochs else None
        return record if record.get("weights") == self.weights else None

    def _keep_damaged(self, name: str) -> None:
        """Rename an unreadable evaluation before another one replaces it."""
        path = self.path / name
        try:
            read_record(path, Evaluation, self.path)
        except (FileNotFoundError, NotADirectoryError):
            return
        except CheckpointError as error:
            try:
                digest = hashlib.sha256(read_file(path, self.path, LARGEST_FILE)).hexdigest()[:8]
            except CheckpointError:
                digest = "unread"
            kept = path.with_name(f"evaluation-damaged-{digest}.json")
            path.replace(kept)
            warnings.warn(f"{error.what}; it was renamed to {kept.name}", RuntimeWarning, stacklevel=4)


def _of(evaluation: Mapping[str, Any]) -> str:
    """Return the file name of an evaluation that is not the last one."""
    return f"evaluation-{evaluation.get('part')}-seed{evaluation.get('seed')}.json"
