"""A run folder: everything that is needed to rebuild, resume and cite one training.

::

    runs/NAME/  config.json  pair/ (safetensors + JSON)  last/ (resume state)
                metrics.jsonl  evaluation.json  figures/*.png
                evaluation-PART-seedN.json (earlier evaluations of other parts and seeds)
                evaluation-damaged-DIGEST.json  metrics.damaged.jsonl (unreadable content, set aside)
                evaluation-PART-seedN-WEIGHTS.json (of a pair that was replaced while it was evaluated)
                .lock, .evaluation.lock, pair/.pair.lock, last/.state.lock (empty)

A folder has one place for a pair, which :func:`save_pair` and :func:`find_pair` use. In a run folder this place is
``pair/``. Any other folder contains ``pair.json`` itself.

A folder may come from a stranger. Only regular files in the folder are read, and their content is checked against a
schema and a checksum (:mod:`pyro_priors._records`). A checksum detects accidents; it is not a signature.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from . import checkpoint
from ._files import PATIENCE, CheckpointError, append, remove_leftovers
from ._options import path_of
from ._reading import RESTORE, check_inside, read_file
from ._records import (
    DIGITS_OF_A_LINE,
    LARGEST_FILE,
    LARGEST_HISTORY,
    LARGEST_LINE,
    Config,
    Epoch,
    Evaluation,
    SavedPair,
    State,
    WrongRecord,
    parse,
    seal,
)
from ._records import read as read_record
from ._resume import as_tensor
from .registry import IMPORTED

__all__ = ["ResumeState", "RunFolder", "find_pair", "save_pair"]

MAY_CHANGE = ("max_epochs", "patience", "checkpoint_seconds", "tensorboard", "device", "num_processes", "compile")
"""Options of the training that may change when a run is resumed."""

GIVEN_AGAIN = ("optimizer", "callbacks")
"""What Python gives a training besides options: a resumed run must be given the same."""

REPLACED = "replaced"
"""Mark in the record of a pair that was saved over the one from the training."""


@dataclass
class ResumeState:
    """The state that a training needs to resume exactly.

    :param progress: counters and sums, which JSON represents exactly
    :param pair: the pair's tensors
    :param best: the best pair's tensors, empty before the first validation
    :param optimizer: the optimizer's state dict
    :param objective: tensors of the objective, such as the weights of its own network
    :param callbacks: states of the callbacks
    :param stopped: why the training stopped here; empty if it went on
    """

    progress: dict[str, Any]
    pair: dict[str, Tensor]
    best: dict[str, Tensor]
    optimizer: dict[str, Any]
    objective: dict[str, Tensor] = field(default_factory=dict)
    callbacks: dict[str, Tensor] = field(default_factory=dict)
    stopped: str = ""


def _line_of(record: dict[str, Any]) -> str:
    """Return a line of ``metrics.jsonl``."""
    return json.dumps(seal(record, DIGITS_OF_A_LINE)) + "\n"


@lru_cache(maxsize=4)
def _lines_in(content: bytes) -> tuple[list[dict[str, Any]], list[tuple[int, str, bytes]]]:
    """Return the records of the lines, and the number, defect and content of each damaged line."""
    records: list[dict[str, Any]] = []
    damaged = []
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line:
            continue
        try:
            if len(line) > LARGEST_LINE:
                raise WrongRecord(f"it has {len(line)} bytes, more than the maximum of {LARGEST_LINE}")
            record = parse(line, Epoch, DIGITS_OF_A_LINE)
            if records and record["epoch"] <= records[-1]["epoch"]:
                raise WrongRecord(f"its epoch {record['epoch']} comes after epoch {records[-1]['epoch']}")
            records.append(record)
        except WrongRecord as error:
            damaged.append((number, str(error), line))
    return records, damaged


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


def _of(evaluation: Mapping[str, Any]) -> str:
    """Return the file name of an evaluation that is not the last one."""
    return f"evaluation-{evaluation.get('part')}-seed{evaluation.get('seed')}.json"


class RunFolder:
    """A run folder, for reading and writing.

    :param path: the folder, created when it is first written
    :param command: arguments of ``pyro-priors train`` that started the run, for its record
    """

    def __init__(self, path: str | Path, command: Sequence[str] | None = None) -> None:
        self.path, self.command = path_of("out", path), command

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
        return self.path / "metrics.jsonl"

    @property
    def damaged_file(self) -> Path:
        return self.path / "metrics.damaged.jsonl"

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
            raise ValueError(f"out must be a folder, but {self.path} is a file: choose the name of a new folder")
        with ExitStack() as stack:
            try:
                stack.enter_context(checkpoint.locked(self.path, wait=False))
            except BlockingIOError:
                raise ValueError(
                    f"another process is training in {self.path}: wait for it, or choose another --out"
                ) from None
            yield

    @property
    def num_epochs(self) -> int:
        """Number of epochs up to the last line of ``metrics.jsonl``."""
        history, _ = self._history()
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
            raise ValueError(
                f"{self.path} contains the results of a run without its weights, so that it cannot be resumed: choose "
                "another --out, or delete the folder to train it again"
            )
        if self.holds_a_run:
            if not resume:
                raise ValueError(
                    f"{self.path} already contains a run: resume it (--resume, resume=True) or choose another --out"
                )
            self.compare(config, defaults)
            done, most = self.num_epochs, config["train"]["max_epochs"]
            if most < done:
                raise ValueError(
                    f"max_epochs is {most}, but the run in {self.path} has trained {done} epochs: give at least "
                    f"{done}, or train again with another --out"
                )
        elif not self.was_begun:
            for file in (self.path / "config.json", self.metrics_file):
                if file.exists():
                    raise ValueError(
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
            raise ValueError(f"config.json cannot record the options of the run ({error}): change that one") from None
        checkpoint.write_atomically(self.path / "config.json", json.dumps(sealed, indent=1).encode())

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
        old = self.config()
        # what was written is compared, not what was given: JSON has no tuples
        config, defaults = json.loads(json.dumps([config, defaults or {}]))
        self._compare_given("optimizer", old, config)
        self._compare_given("callbacks", old, config)
        for group, options in config.items():
            if group in GIVEN_AGAIN:
                continue
            known = old.get(group)
            if group == "data":
                known, options = self._without_places(known, options)
            self._compare(group, known, options, defaults.get(group, {}), filled_in)
        if self.pair_is_replaced:
            raise ValueError(
                f"{self.path / 'pair'} contains a pair that was saved over the one from the training: move it to "
                "another folder to resume the run, or train with another --out"
            )

    def _compare_given(self, what: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        """Compare the optimizer or the callbacks, which only the caller can give again.

        :raises ValueError: if they differ
        """
        was, now = old.get(what) or None, new.get(what) or None
        if was == now:
            return
        shown = [_shown(one) for one in (was, now)]
        if shown[0] == shown[1]:  # of one class: the groups differ
            self._compare(f"{what}.groups", (was or {}).get("groups"), (now or {}).get("groups"), {}, None)
        raise ValueError(
            f"the run in {self.path} was trained with {what}={shown[0]}, and {what} is {shown[1]} now: give the same "
            f"{what} to fit to resume it, or choose another --out"
        )

    def _without_places(self, old: Any, new: dict[str, Any] | None) -> tuple[Any, Any]:
        """Return the parts of two records of data that remain to be compared after the checksums, without the places.

        :raises ValueError: if the checksums differ
        """
        run, remedy = f"the run in {self.path} was trained", "or choose another --out"
        if not isinstance(new, dict) or not isinstance(old, dict):
            # runs on arrays did not always record them
            return (None, None) if old is None and "arrays" in (new or {}) else (old, new)
        if "arrays" in old:
            if old.get("config") and new.get("config") and old["config"] != new["config"]:
                return old, new  # loaded with other options: a more helpful message
            found = new.get("arrays", {})
            for part, digest in old["arrays"].items():
                if found.get(part) != digest:
                    raise ValueError(f"{run} on other arrays (the {part} part differs): give the same arrays, {remedy}")
            return None, None
        if "arrays" in new:
            raise ValueError(
                f"{run} on {old.get('name')} as loaded, but these data are in-memory arrays: load {old.get('name')}, "
                f"{remedy}"
            )
        old, new = ({**one, "config": {**one.get("config", {}), "root": None}} for one in (old, new))
        if "sha256" in old and "sha256" in new:
            if old["sha256"] != new["sha256"]:
                raise ValueError(f"{run} on another data file: give the original file, {remedy}")
            old["name"] = new["name"]
        return old, new

    def _compare(self, name: str, old: Any, new: Any, defaults: Any, filled_in: Sequence[str] | None) -> None:
        option = name.rsplit(".", 1)[-1]
        if name == "versions" or option in MAY_CHANGE:
            return
        if isinstance(old, dict) and isinstance(new, dict):
            for key in {**old, **new}:
                default = defaults.get(key) if isinstance(defaults, dict) else None
                if filled_in is not None and key not in new:
                    if default is None or key in filled_in:
                        continue
                    new = {**new, key: default}
                # the default is what runs did before the option existed
                known = old.get(key) if key in old or isinstance(default, dict) else default
                self._compare(f"{name}.{key}", known, new.get(key), default, filled_in)
        elif old != new:
            raise ValueError(
                f"{name} is {new!r}, but the run in {self.path} was started with {old!r}: give that value to resume "
                "it, or choose another --out"
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
            raise FileNotFoundError(f"{self.path} is not a run folder: it has no config.json") from None
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
        found = self._read_state()
        return None if found is None else found[1]["progress"]

    def stopped(self) -> str | None:
        """Return why the training stopped, such as ``"max_epochs"`` or ``"signal SIGTERM"``.

        :returns: the reason; None if the training goes on or was killed

        :raises CheckpointError: if no state can be read
        """
        found = self._read_state()
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
        with checkpoint.locked(self.path, wait=True, name="evaluation", patience=PATIENCE):
            file = self.path / "evaluation.json"
            if record["weights"] == self.weights():
                self._keep_damaged_evaluation(file.name)
                before, last = self.evaluation(record["part"], record["seed"]), self._evaluation(file.name)
            else:
                file = self.path / f"{_of(record).removesuffix('.json')}-{str(record['weights'])[:16]}.json"
                self._keep_damaged_evaluation(file.name)
                before, last = self._read_evaluation(file.name), None
                before = before if before and before.get("weights") == record["weights"] else None
            kept = dict(record) if merge is None else merge(before, record)
            other = None
            if last is not None and _of(last) != _of(record):
                self._keep_damaged_evaluation(_of(last))
                other = self.path / _of(last)  # a copy: the last one stays until there is another
                checkpoint.write_atomically(other, file.read_bytes())
            checkpoint.write_atomically(file, json.dumps(seal(kept), indent=1).encode())
        return SavedEvaluation(kept, before, file, other)

    def evaluation(self, part: str | None = None, seed: int = 0) -> dict[str, Any] | None:
        """Return the evaluation of the current pair in ``pair/``, or, without its weights, of the last epoch.

        :param part: part of the data; by default the last evaluation
        :param seed: seed of the noise
        :returns: the record, or None if there is none
        """
        last = self._evaluation("evaluation.json")
        given = {"part": part, "seed": seed}
        if part is None or (last is not None and _of(last) == _of(given)):
            return last
        return self._evaluation(_of(given))

    def _read_evaluation(self, name: str) -> dict[str, Any] | None:
        """Return an evaluation; warn if it cannot be read."""
        try:
            return read_record(self.path / name, Evaluation, self.path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except CheckpointError as error:
            warnings.warn(f"{error.what}; its results are ignored", RuntimeWarning, stacklevel=3)
            return None

    def _evaluation(self, name: str) -> dict[str, Any] | None:
        record = self._read_evaluation(name)
        if record is None:
            return None
        if self.holds_numbers_only:  # older records have no epochs and are of the last one
            return record if record.get("epochs", self.num_epochs) == self.num_epochs else None
        return record if record.get("weights") == self.weights() else None

    def _keep_damaged_evaluation(self, name: str) -> None:
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
            warnings.warn(f"{error.what}; it was renamed to {kept.name}", RuntimeWarning, stacklevel=3)

    def append(self, record: dict[str, Any]) -> None:
        """Add one line to ``metrics.jsonl``."""
        append(self.metrics_file, _line_of(record))

    def history(self) -> list[dict[str, Any]]:
        """Return the records in ``metrics.jsonl``. Warn of truncated and altered lines, which are skipped.

        :raises CheckpointError: if the file cannot be read at all
        """
        records, damaged = self._history()
        if damaged:
            number, why, _ = damaged[0]
            more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
            warnings.warn(
                f"{self.metrics_file} has damaged lines, which are skipped: line {number} ({why}){more}",
                RuntimeWarning,
                stacklevel=2,
            )
        return records

    def _history(self) -> tuple[list[dict[str, Any]], list[tuple[int, str, bytes]]]:
        """Return the records in ``metrics.jsonl``, and the number, defect and content of each damaged line."""
        try:
            content = read_file(self.metrics_file, self.path, LARGEST_HISTORY)
        except (FileNotFoundError, NotADirectoryError):
            return [], []
        records, damaged = _lines_in(content)
        return [dict(record) for record in records], damaged

    def history_before(self, epoch: int) -> list[dict[str, Any]]:
        """Return the records of the epochs before this one; warn if some are missing."""
        found, damaged = self._history()
        records = [record for record in found if record["epoch"] < epoch]
        kept = f"damaged lines ({len(damaged)}) are kept in {self.damaged_file.name}" if damaged else ""
        if damaged and len(records) == epoch:
            number, why, _ = damaged[0]
            warnings.warn(
                f"{self.metrics_file} is damaged in line {number} ({why}), whose epoch is trained again; {kept}",
                RuntimeWarning,
                stacklevel=2,
            )
        if len(records) < epoch:
            warnings.warn(
                f"{self.metrics_file} lacks the lines of {epoch - len(records)} of {epoch} epochs: the training "
                "continues unchanged, but its curves lack these epochs; restore the file from a copy to get them back"
                f"{kept and '; ' + kept}",
                RuntimeWarning,
                stacklevel=2,
            )
        return records

    def rewrite_history(self, records: list[dict[str, Any]]) -> None:
        """Replace ``metrics.jsonl`` by these records. Damaged lines of the old file are kept in another file."""
        if damaged := [line for _, _, line in self._history()[1]]:
            append(self.inside(self.damaged_file.name), b"".join(line + b"\n" for line in damaged))
        checkpoint.write_atomically(self.metrics_file, "".join(map(_line_of, records)).encode())

    def save_state(self, state: ResumeState) -> None:
        """Write ``last/``, and keep the previous state."""
        tensors = {f"pair/{key}": value for key, value in state.pair.items()}
        tensors |= {f"best/{key}": value for key, value in state.best.items()}
        tensors |= {f"objective/{key}": value for key, value in state.objective.items()}
        tensors |= {f"callbacks/{key}": value for key, value in state.callbacks.items()}
        for index, values in state.optimizer["state"].items():
            # some optimizers keep numbers, which come back as such, or None
            kept = {key: as_tensor(value) for key, value in values.items() if value is not None}
            tensors |= {f"optimizer/{index}/{key}": value for key, value in kept.items()}
        groups = state.optimizer["param_groups"]
        record = {"progress": state.progress, "param_groups": groups, "stopped": state.stopped}
        checkpoint.write(self.inside("last"), "state", tensors, record, keep_previous=True)

    def load_state(self) -> ResumeState | None:
        """Return the last complete state, or None if no state was ever written.

        If the last state is truncated or altered, a warning is given and the previous state is used.

        :raises CheckpointError: if neither can be read
        """
        found = self._read_state(tell=True)
        if found is None:
            return None
        tensors, record, is_previous = found
        if is_previous:
            # or else the next writing would keep the refused state as its previous one
            checkpoint.restore_previous(self.inside("last"), "state")
        groups: dict[str, dict[str, Tensor]] = {"pair": {}, "best": {}, "objective": {}, "callbacks": {}}
        optimizer_state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if moment := re.fullmatch(r"optimizer/(0|[1-9][0-9]{0,8})/(\w{1,100})", key):
                optimizer_state.setdefault(int(moment[1]), {})[moment[2]] = value
                continue
            group, _, name = key.partition("/")
            if group not in groups or not name:
                what = f"{self.path / 'last' / 'state.json'} has a tensor '{key[:100]}', which no training writes"
                raise CheckpointError(f"{what}: it was altered", RESTORE)
            groups[group][name] = value
        optimizer = {"state": optimizer_state, "param_groups": record["param_groups"]}
        own = groups["objective"], groups["callbacks"]
        return ResumeState(record["progress"], groups["pair"], groups["best"], optimizer, *own)

    def _read_state(self, tell: bool = False) -> tuple[dict[str, Tensor], dict[str, Any], bool] | None:
        """Return tensors and record of the last complete state, and whether a later one was refused.

        :param tell: warn if a state is refused
        :raises CheckpointError: if there are states, but none can be read
        """
        folder = self.path / "last"
        if not any(folder.glob("state*.json")):
            return None
        try:
            return *checkpoint.read(folder, "state", State, self.path), False
        except CheckpointError as error:
            if not (folder / "state.previous.json").exists():
                raise
            if tell:
                warnings.warn(f"{error.what}; continuing from the previous state", RuntimeWarning, stacklevel=3)
            return *checkpoint.read(folder, "state.previous", State, self.path), True

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
            raise ValueError(
                f"{self.path} contains the results of a run without its weights: save the pair in another folder"
            )
        if other := _difference("pair", self.config()["pair"], json.loads(json.dumps(recipe))):
            name, old, new = other
            raise ValueError(
                f"the run in {self.path} has {name}={old!r}, but this pair has {new!r}: save the pair in another folder"
            )
        record: dict[str, Any] = {"pair": recipe}
        digest = checkpoint.digest_of(tensors, record)
        with checkpoint.locked(self.inside("pair"), wait=True, name="pair", patience=PATIENCE):
            if digest != self.weights():
                record[REPLACED] = True
            return checkpoint.write(self.inside("pair"), "pair", tensors, record)


def _shown(given: Any) -> str:
    """Return what a message calls an optimizer or callbacks."""
    if isinstance(given, list):
        return f"[{', '.join(given)}]"
    return "None" if given is None else str(given["name"])


def _difference(name: str, old: Any, new: Any) -> tuple[str, Any, Any] | None:
    """Return name and values of the first option that both records have and that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = (_difference(f"{name}.{key}", old[key], new[key]) for key in old if key in new)
        return next(filter(None, found), None)
    return None if old == new else (name, old, new)


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
