"""The state from which a training resumes exactly, in ``last/`` of a run folder."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import checkpoint
from .._files import CheckpointError
from .._reading import RESTORE, check_inside
from .._resume import as_tensor
from .._schemas import State

__all__ = ["ResumeState", "load_state", "read_state", "save_state"]


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


def save_state(run: Path, state: ResumeState) -> None:
    """Write ``last/``, and keep the previous state.

    :param run: the run folder
    """
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
    checkpoint.write(_writable(run), "state", tensors, record, keep_previous=True)


def load_state(run: Path) -> ResumeState | None:
    """Return the last complete state, or None if no state was ever written.

    If the last state is truncated or altered, a warning is given and the previous state is used.

    :raises CheckpointError: if neither can be read
    """
    found = read_state(run, tell=True)
    if found is None:
        return None
    tensors, record, is_previous = found
    if is_previous:
        # or else the next writing would keep the refused state as its previous one
        checkpoint.restore_previous(_writable(run), "state")
    groups: dict[str, dict[str, Tensor]] = {"pair": {}, "best": {}, "objective": {}, "callbacks": {}}
    optimizer_state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if moment := re.fullmatch(r"optimizer/(0|[1-9][0-9]{0,8})/(\w{1,100})", key):
            optimizer_state.setdefault(int(moment[1]), {})[moment[2]] = value
            continue
        group, _, name = key.partition("/")
        if group not in groups or not name:
            what = f"{run / 'last' / 'state.json'} has a tensor '{key[:100]}', which no training writes"
            raise CheckpointError(f"{what}: it was altered", RESTORE)
        groups[group][name] = value
    optimizer = {"state": optimizer_state, "param_groups": record["param_groups"]}
    own = groups["objective"], groups["callbacks"]
    return ResumeState(record["progress"], groups["pair"], groups["best"], optimizer, *own)


def read_state(run: Path, tell: bool = False) -> tuple[dict[str, Tensor], dict[str, Any], bool] | None:
    """Return tensors and record of the last complete state, and whether a later one was refused.

    :param tell: warn if a state is refused
    :raises CheckpointError: if there are states, but none can be read
    """
    folder = run / "last"
    if not any(folder.glob("state*.json")):
        return None
    try:
        return *checkpoint.read(folder, "state", State, run), False
    except CheckpointError as error:
        if not (folder / "state.previous.json").exists():
            raise
        if tell:
            warnings.warn(f"{error.what}; continuing from the previous state", RuntimeWarning, stacklevel=4)
        return *checkpoint.read(folder, "state.previous", State, run), True


def _writable(run: Path) -> Path:
    check_inside(run / "last", run)
    return run / "last"
