"""The records of a run's epochs, the lines of ``metrics.jsonl``."""

from __future__ import annotations

import json
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

from .. import _files
from .._files import append
from .._reading import check_inside, read_file
from .._records import DIGITS_OF_A_LINE, LARGEST_HISTORY, LARGEST_LINE, WrongRecord, parse, seal
from .._schemas import Epoch

__all__ = ["HistoryFile"]


class HistoryFile:
    """``metrics.jsonl`` of a run folder.

    :param path: the run folder
    """

    def __init__(self, path: Path) -> None:
        self.folder, self.file, self.damaged_file = path, path / "metrics.jsonl", path / "metrics.damaged.jsonl"

    def append(self, record: dict[str, Any]) -> None:
        """Add one line to ``metrics.jsonl``."""
        append(self.file, _line_of(record))

    def records(self) -> list[dict[str, Any]]:
        """Return the records in ``metrics.jsonl``. Warn of truncated and altered lines, which are skipped.

        :raises CheckpointError: if the file cannot be read at all
        """
        records, damaged = self.read()
        if damaged:
            number, why, _ = damaged[0]
            more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
            warnings.warn(
                f"{self.file} has damaged lines, which are skipped: line {number} ({why}){more}",
                RuntimeWarning,
                stacklevel=3,
            )
        return records

    def read(self) -> tuple[list[dict[str, Any]], list[tuple[int, str, bytes]]]:
        """Return the records in ``metrics.jsonl``, and the number, defect and content of each damaged line."""
        try:
            content = read_file(self.file, self.folder, LARGEST_HISTORY)
        except (FileNotFoundError, NotADirectoryError):
            return [], []
        records, damaged = _lines_in(content)
        return [dict(record) for record in records], damaged

    def before(self, epoch: int) -> list[dict[str, Any]]:
        """Return the records of the epochs before this one; warn if some are missing."""
        found, damaged = self.read()
        records = [record for record in found if record["epoch"] < epoch]
        kept = f"damaged lines ({len(damaged)}) are kept in {self.damaged_file.name}" if damaged else ""
        if damaged and len(records) == epoch:
            number, why, _ = damaged[0]
            warnings.warn(
                f"{self.file} is damaged in line {number} ({why}), whose epoch is trained again; {kept}",
                RuntimeWarning,
                stacklevel=3,
            )
        if len(records) < epoch:
            warnings.warn(
                f"{self.file} lacks the lines of {epoch - len(records)} of {epoch} epochs: the training "
                "continues unchanged, but its curves lack these epochs; restore the file from a copy to get them back"
                f"{kept and '; ' + kept}",
                RuntimeWarning,
                stacklevel=3,
            )
        return records

    def rewrite(self, records: list[dict[str, Any]]) -> None:
        """Replace ``metrics.jsonl`` by these records. Damaged lines of the old file are kept in another file."""
        if damaged := [line for _, _, line in self.read()[1]]:
            check_inside(self.damaged_file, self.folder)
            append(self.damaged_file, b"".join(line + b"\n" for line in damaged))
        _files.write_atomically(self.file, "".join(map(_line_of, records)).encode())


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
