"""What is kept of the runs of a paper without their weights: ``runs.jsonl``, one line for each run.

A line has the options of the run, its evaluation of the test part, what it started from, the number and the median
time of its epochs, and its curve, thinned. Tables are made from these lines alone.
"""

from __future__ import annotations

import json
import statistics
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from .._files import PATIENCE, CheckpointError, locked, write_atomically
from .._reading import read_file
from .._records import DIGITS_OF_A_LINE, LARGEST_HISTORY, LARGEST_LINE, WrongRecord, parse, seal
from .._records import read as read_record
from .._schemas import KeptRun, Start
from ..run_folder import RunFolder

__all__ = ["FILE", "KeptRuns", "OneKeptRun", "record_of", "seconds_per_epoch", "start_of", "thinned"]

FILE = "runs.jsonl"
"""Name of the file, in the folder of a paper."""

NUM_POINTS = 50
"""Most epochs of a thinned curve, beside the best one."""

NOT_IN_CURVES = ("step", "learning_rate", "kl_weight", "seconds")
"""Of an epoch's record: what follows from the options, and the time, of which the median is kept."""

OF_TABLES: dict[str, Any] = {"part": "test", "seed": 0}
"""What every evaluation is of."""


def thinned(history: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Return some of the records of the epochs as columns: evenly spaced ones, the first, the last and the best.

    The validation bound is kept exactly, everything else to six digits.

    :param history: records of the epochs
    """
    if not history:
        return {}
    last = len(history) - 1
    num = min(NUM_POINTS, len(history))
    chosen = {round(i * last / max(num - 1, 1)) for i in range(num)}
    chosen.add(max(range(len(history)), key=lambda i: history[i]["valid_bound"]))
    records = [history[i] for i in sorted(chosen)]
    names = [name for name in records[0] if name not in NOT_IN_CURVES and all(name in record for record in records)]
    exact = ("epoch", "valid_bound")
    return {
        name: [record[name] if name in exact else float(f"{record[name]:.6g}") for record in records] for name in names
    }


def start_of(folder: RunFolder) -> dict[str, Any] | None:
    """Return what a run started from; None if it began at its own first weights."""
    try:
        return read_record(folder.path / "start.json", Start, folder.path)
    except FileNotFoundError:
        return None


def seconds_per_epoch(folder: RunFolder) -> float | None:
    """Return the median time of the epochs but the first, which has the compiling in it; None if there are none."""
    if isinstance(folder, OneKeptRun):
        return folder.record["seconds_per_epoch"]
    seconds = [line["seconds"] for line in folder.history()]
    return statistics.median(seconds[1:] or seconds) if seconds else None


def record_of(name: str, folder: RunFolder, evaluation: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what is kept of a run.

    :param name: of the row
    :param folder: the run folder
    :param evaluation: of the test part, None if there is none
    """
    start = start_of(folder)
    return {
        "name": name,
        "config": folder.config(),
        **({} if start is None else {"start": start}),
        "evaluation": None if evaluation is None else dict(evaluation),
        "epochs": folder.num_epochs,
        "seconds_per_epoch": seconds_per_epoch(folder),
        "curve": thinned(folder.history()),
    }


class OneKeptRun(RunFolder):
    """A run of which a line is kept, read as a run folder without weights is.

    :param file: the file of the line
    :param record: the line
    """

    def __init__(self, file: Path, record: Mapping[str, Any]) -> None:
        super().__init__(file / record["name"])
        self.record = record

    @property
    def pair_is_replaced(self) -> bool:
        """False: its pair is not there."""
        return False

    @property
    def holds_a_run(self) -> bool:
        """False: neither its state nor its pair is there."""
        return False

    def config(self) -> dict[str, Any]:
        """Return the options of the run."""
        return json.loads(json.dumps(self.record["config"]))

    @property
    def num_epochs(self) -> int:
        """Number of epochs that it was trained."""
        return self.record["epochs"]

    def history(self) -> list[dict[str, Any]]:
        """Return the records of the epochs that are kept."""
        curve = self.record["curve"]
        return [dict(zip(curve, values, strict=True)) for values in zip(*curve.values(), strict=True)]

    def evaluation(self, part: str | None = None, seed: int = 0) -> dict[str, Any] | None:
        """Return the evaluation of the last epoch, if it is of this part and seed."""
        found = self.record["evaluation"]
        if found is None or (part is not None and (found["part"], found["seed"]) != (part, seed)):
            return None
        # older records have no epochs and are of the last one
        return dict(found) if found.get("epochs", self.num_epochs) == self.num_epochs else None

    def weights(self) -> str | None:
        """Return the checksum of the pair that was evaluated."""
        return (self.record["evaluation"] or {}).get("weights")

    def start(self) -> dict[str, Any] | None:
        """Return what it started from."""
        return self.record.get("start")


@lru_cache(maxsize=4)
def _runs_in(content: bytes) -> tuple[dict[str, dict[str, Any]], dict[str, bytes], list[tuple[int, str, bytes]]]:
    """Return the records by name, their lines, and the number, defect and content of each damaged line."""
    records: dict[str, dict[str, Any]] = {}
    lines: dict[str, bytes] = {}
    damaged = []
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line:
            continue
        try:
            if len(line) > LARGEST_LINE:
                raise WrongRecord(f"it has {len(line)} bytes, more than the maximum of {LARGEST_LINE}")
            record = parse(line, KeptRun, DIGITS_OF_A_LINE)
            if len({len(values) for values in record["curve"].values()}) > 1:
                raise WrongRecord("the columns of its curve have different lengths")
            if record["name"] in records:
                raise WrongRecord(f"it is the second line of {record['name']}")
            records[record["name"]], lines[record["name"]] = record, line
        except WrongRecord as error:
            damaged.append((number, str(error), line))
    return records, lines, damaged


class KeptRuns:
    """The runs of a paper that are kept in ``runs.jsonl``.

    :param folder: the folder of the paper
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / FILE
        self._told = False

    def _read(self) -> tuple[dict[str, dict[str, Any]], dict[str, bytes], list[tuple[int, str, bytes]]]:
        try:
            content = read_file(self.file, self.file.parent, LARGEST_HISTORY)
        except (FileNotFoundError, NotADirectoryError):
            content = b""
        return _runs_in(content)

    def names(self) -> list[str]:
        """Return the names of the runs.

        :raises CheckpointError: if the file cannot be read
        """
        return [*self._read()[0]]

    def find(self, name: str) -> OneKeptRun | None:
        """Return a run; None if there is no line of it. Warn once of lines that are truncated or altered.

        :param name: of the row
        :raises CheckpointError: if the file cannot be read at all
        """
        records, _, damaged = self._read()
        if damaged and not self._told:
            self._told = True
            number, why, _ = damaged[0]
            more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
            warnings.warn(
                f"{self.file} has damaged lines, whose runs are not shown: line {number} ({why}){more}; restore them "
                "from a copy",
                RuntimeWarning,
                stacklevel=2,
            )
        return OneKeptRun(self.file, records[name]) if name in records else None

    def add(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write runs, in the place of those of the same name; all others stay, damaged lines as they are.

        :param records: what :func:`record_of` returns
        :raises WriteError: if the file cannot be written
        """
        new = {record["name"]: _line_of(record) for record in records}
        with locked(self.file.parent, wait=True, name="runs", patience=PATIENCE):
            _, lines, damaged = self._read()
            if all(lines.get(name) == line for name, line in new.items()):
                return
            lines = lines | new
            content = [*(lines[name] for name in sorted(lines)), *(line for _, _, line in damaged)]
            write_atomically(self.file, b"".join(line + b"\n" for line in content))


def _line_of(record: Mapping[str, Any]) -> bytes:
    line = json.dumps(seal(record, DIGITS_OF_A_LINE), separators=(",", ":")).encode()
    try:
        parse(line, KeptRun, DIGITS_OF_A_LINE)
    except WrongRecord as error:
        raise CheckpointError(f"{FILE} cannot keep the run {record['name']} ({error})", "change that option") from None
    return line
