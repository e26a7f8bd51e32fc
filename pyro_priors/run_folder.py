"""A run folder: everything needed to rebuild, resume and cite one training.

::

    runs/NAME/  config.json  pair/ (safetensors + JSON)  last/ (resume state)
                metrics.jsonl  evaluation.json  figures/*.png
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from . import checkpoint

__all__ = ["ResumeState", "RunFolder"]

MAY_CHANGE = ("max_epochs", "patience", "checkpoint_seconds", "tensorboard", "device", "num_processes")
"""Options of the training that a resumed run may give anew."""


@dataclass
class ResumeState:
    """What a training must remember to go on exactly.

    :param progress: counters and sums, what JSON holds exactly
    :param pair: the pair's tensors
    :param best: the best pair's tensors, empty before the first validation
    :param optimizer: the optimizer's state dict
    :param objective: tensors of the objective, such as those of a network of its own
    """

    progress: dict[str, Any]
    pair: dict[str, Tensor]
    best: dict[str, Tensor]
    optimizer: dict[str, Any]
    objective: dict[str, Tensor] = field(default_factory=dict)


class RunFolder:
    """Reads and writes one run folder.

    :param path: the folder, made when first written
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    def begin(self, config: dict[str, Any], resume: bool) -> None:
        """Write ``config.json``, or compare it with the one of the run to be resumed.

        A folder whose run ended before its first state was written counts as empty.

        :raises ValueError: if the folder holds a run and ``resume`` is False, or holds one of other options
        """
        file = self.path / "config.json"
        # what was written is compared, not what was given: JSON has no tuples
        config = json.loads(json.dumps(config))
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"out is {self.path}, which is a file: choose the name of a new folder")
        self.path.mkdir(parents=True, exist_ok=True)
        if any(self.path.glob("last/state*.json")) or any(self.path.glob("pair/pair.json")):
            if not resume:
                raise ValueError(
                    f"{self.path} holds a run already: resume it (--resume, resume=True) or choose another --out"
                )
            old = self.config()
            for group, options in config.items():
                self._compare(group, old.get(group), options)
        checkpoint.write_atomically(file, json.dumps(config, indent=1).encode())

    def _compare(self, name: str, old: Any, new: Any) -> None:
        option = name.rsplit(".", 1)[-1]
        if name == "versions" or option in MAY_CHANGE:
            return
        if isinstance(old, dict) and isinstance(new, dict):
            for key in {**old, **new}:
                self._compare(f"{name}.{key}", old.get(key), new.get(key))
        elif old != new:
            raise ValueError(
                f"{name} is {new!r} but the run in {self.path} was started with {old!r}: give that to resume it, or "
                "choose another --out"
            )

    def config(self) -> dict[str, Any]:
        """``config.json``.

        :raises FileNotFoundError: if this is no run folder
        """
        file = self.path / "config.json"
        try:
            return json.loads(file.read_bytes())
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.path} is no run folder: it has no config.json") from None
        except ValueError as error:
            raise checkpoint.CheckpointError(f"{file} cannot be read ({error}): it is truncated or altered") from None

    def append(self, record: dict[str, Any]) -> None:
        """Add one line to ``metrics.jsonl``."""
        with open(self.metrics_file, "a") as file:
            file.write(json.dumps(record) + "\n")

    def history(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``; a last line that was cut off is left out."""
        records = []
        for line in self.metrics_file.read_text().splitlines() if self.metrics_file.exists() else []:
            try:
                records.append(json.loads(line))
            except ValueError:
                break
        return records

    def rewrite_history(self, records: list[dict[str, Any]]) -> None:
        """Replace ``metrics.jsonl`` by these lines."""
        checkpoint.write_atomically(self.metrics_file, "".join(json.dumps(r) + "\n" for r in records).encode())

    def save_state(self, state: ResumeState) -> None:
        """Write ``last/``, keeping the state before it too."""
        tensors = {f"pair/{key}": value for key, value in state.pair.items()}
        tensors |= {f"best/{key}": value for key, value in state.best.items()}
        tensors |= {f"objective/{key}": value for key, value in state.objective.items()}
        for index, values in state.optimizer["state"].items():
            tensors |= {f"optimizer/{index}/{key}": value for key, value in values.items()}
        record = {"progress": state.progress, "param_groups": state.optimizer["param_groups"]}
        checkpoint.write(self.path / "last", "state", tensors, record, keep_previous=True)

    def load_state(self) -> ResumeState | None:
        """The last state that is whole, or None where none was ever written.

        A last state that is truncated or altered is refused with a warning, and the one before it is used.

        :raises CheckpointError: if neither can be read
        """
        if not any((self.path / "last").glob("state*.json")):
            return None
        try:
            tensors, record = checkpoint.read(self.path / "last", "state")
        except checkpoint.CheckpointError as error:
            warnings.warn(f"{error}; going on from the state before it", RuntimeWarning, stacklevel=2)
            tensors, record = checkpoint.read(self.path / "last", "state.previous")
            # or else the next writing would keep the refused state as its previous one
            previous = (self.path / "last" / "state.previous.json").read_bytes()
            checkpoint.write_atomically(self.path / "last" / "state.json", previous)
        groups: dict[str, dict[str, Tensor]] = {"pair": {}, "best": {}, "optimizer": {}, "objective": {}}
        for key, value in tensors.items():
            group, name = key.split("/", 1)
            groups[group][name] = value
        optimizer_state: dict[int, dict[str, Tensor]] = {}
        for key, value in groups["optimizer"].items():
            index, name = key.split("/")
            optimizer_state.setdefault(int(index), {})[name] = value
        optimizer = {"state": optimizer_state, "param_groups": record["param_groups"]}
        return ResumeState(record["progress"], groups["pair"], groups["best"], optimizer, groups["objective"])

    def save_pair(self, tensors: dict[str, Tensor], recipe: dict[str, Any] | None) -> None:
        """Write ``pair/``, the best pair so far."""
        checkpoint.write(self.path / "pair", "pair", tensors, {"pair": recipe})
