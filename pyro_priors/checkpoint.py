"""Files that survive: tensors in safetensors beside a JSON record, replaced in one atomic step and checked on reading.

A save writes ``NAME-DIGEST.safetensors`` first and then renames ``NAME.json``, which names it, into place: a process
killed in between leaves the last good pair of files untouched. No pickle is ever written or read.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn as nn
from torch import Tensor

__all__ = [
    "CheckpointError",
    "load_module_state",
    "locked",
    "make_folder",
    "module_state",
    "read",
    "write",
    "write_atomically",
]


class CheckpointError(RuntimeError):
    """A file that is missing, truncated, altered, or made for something else.

    :param what: what is wrong
    :param remedy: what to do about it, where that does not depend on who reads the file
    """

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(f"{what}: {remedy}" if remedy else what)
        self.what = what


RESTORE = "restore it from a copy, or train and save anew"
"""What is left to do about a damaged file."""


def make_folder(folder: Path) -> None:
    """Make a folder, if missing.

    :raises ValueError: if it cannot be made
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = "it is a file" if folder.is_file() else str(error.strerror).lower()
        raise ValueError(f"the folder {folder} cannot be made ({why}): choose another place to write to") from None


@contextmanager
def locked(folder: Path, wait: bool) -> Iterator[None]:
    """Keep other processes out of a folder that does the same, where the system can; a process that is killed frees it.

    :param folder: made if missing
    :param wait: for another process to leave it, with a line on standard error that says so
    :raises BlockingIOError: if another process is in it, and this one does not wait
    """
    make_folder(folder)
    try:
        import fcntl
    except ImportError:  # Windows has no such locks
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise
            print(f"waiting for another process that is at work in {folder}", file=sys.stderr, flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: temporary file, fsync, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write(
    folder: Path, name: str, tensors: dict[str, Tensor], record: dict[str, Any], keep_previous: bool = False
) -> None:
    """Write tensors and a record as ``folder/name.json`` and the tensor file that it names.

    :param folder: made if missing
    :param name: stem of the files
    :param tensors: no two of them may share memory
    :param record: what JSON can hold
    :param keep_previous: keep the save before this one as ``name.previous.json``
    """
    make_folder(folder)
    content = safetensors.torch.save({key: value.detach().cpu().contiguous() for key, value in tensors.items()})
    digest = _digest(content, record)
    tensor_file = folder / f"{name}-{digest[:16]}.safetensors"
    write_atomically(tensor_file, content)
    current, previous = folder / f"{name}.json", folder / f"{name}.previous.json"
    if keep_previous and current.exists():
        write_atomically(previous, current.read_bytes())
    record = {"format": 1, "tensors": tensor_file.name, "sha256": digest, **record}
    write_atomically(current, json.dumps(record, indent=1).encode())
    _remove_unnamed(folder, name)


def _digest(content: bytes, record: dict[str, Any]) -> str:
    own = {key: value for key, value in record.items() if key not in ("format", "tensors", "sha256")}
    return hashlib.sha256(content + json.dumps(own, sort_keys=True).encode()).hexdigest()


def _remove_unnamed(folder: Path, name: str) -> None:
    named = set()
    for path in (folder / f"{name}.json", folder / f"{name}.previous.json"):
        try:
            named.add(json.loads(path.read_bytes())["tensors"])
        except (OSError, ValueError, KeyError):
            continue  # nothing to keep for a record that cannot be read
    for path in (*folder.glob(f"{name}-*.safetensors"), *folder.glob(f".{name}*.tmp")):  # .tmp: of a killed process
        if path.name not in named:
            path.unlink(missing_ok=True)


def read(folder: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`write` wrote.

    :returns: tensors and record
    :raises CheckpointError: if a file is missing, truncated or altered
    """
    path = Path(folder) / f"{name}.json"
    try:
        record = json.loads(path.read_bytes())
        tensor_file = path.parent / record["tensors"]
        content = tensor_file.read_bytes()
    except FileNotFoundError as error:
        what = f"{error.filename} is missing: there is no complete save in {folder}"
        raise CheckpointError(what, "give a folder that pair.save wrote, or that of a run that has ended") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"{path} cannot be read ({error}): the file is truncated or altered"
        raise CheckpointError(what, RESTORE) from None
    if _digest(content, record) != record.get("sha256"):
        raise CheckpointError(
            f"{tensor_file} does not have the checksum that {path.name} states: it is truncated or altered", RESTORE
        )
    return safetensors.torch.load(content), record


def module_state(module: nn.Module) -> dict[str, Tensor]:
    """The module's state dict with each shared tensor once, under its first name."""
    seen: set[int] = set()
    state = {}
    for key, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            state[key] = tensor.detach()
    return state


OLD_NAMES = {"num_batches": "num_values"}
"""New names of tensors by those of older saves: of the running estimate of an optimal scale, which counted batches."""


def load_module_state(module: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Copy a state into the module's own tensors; ties and devices stay as they are.

    :param source: where the state comes from, for the message
    :raises CheckpointError: if names or shapes are not the module's
    """
    own = module_state(module)
    for key in state.keys() - own.keys():
        before, _, name = key.rpartition(".")
        if (new := f"{before}.{OLD_NAMES.get(name, name)}") in own:
            state = {(new if one == key else one): value for one, value in state.items()}
    if missing := sorted(own.keys() ^ state.keys()):
        raise CheckpointError(f"{source} was saved from another network: '{missing[0]}' is only in one of the two")
    for key, tensor in own.items():
        if tensor.shape != state[key].shape:
            raise CheckpointError(
                f"{source} was saved from another network: '{key}' has shape {tuple(state[key].shape)} there and "
                f"{tuple(tensor.shape)} here"
            )
    with torch.no_grad():
        for key, tensor in own.items():
            tensor.copy_(state[key])
