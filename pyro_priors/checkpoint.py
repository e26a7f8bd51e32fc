"""Saves that survive crashes: a safetensors file and a JSON record, replaced atomically and verified on reading.

A save first writes ``NAME-DIGEST.safetensors``, and then renames ``NAME.json``, which names that file, into place. If
the process is killed in between, the last complete save is unchanged. Pickle is never written or read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from ._files import (
    PATIENCE,
    CheckpointError,
    WriteError,
    locked,
    remove_leftovers,
    retried_while_saved,
    write_atomically,
)
from ._reading import RESTORE, read_file
from ._records import LARGEST_FILE
from ._records import read as read_record
from ._schemas import Tensors
from .errors import UserError

__all__ = ["digest_of", "pack", "read", "remove_unfinished", "restore_previous", "unpack", "write"]


def pack(tensors: dict[str, Tensor]) -> bytes:
    """Return the content of a safetensors file.

    :param tensors: dense tensors on any device; each is written in full, even if several share memory
    """
    places: set[int] = set()
    packed = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        packed[name] = tensor.clone() if place in places else tensor  # safetensors refuses shared memory
        places.add(place)
    return safetensors.torch.save(packed)


def unpack(content: bytes) -> dict[str, Tensor]:
    """Return the tensors that :func:`pack` has packed.

    :raises CheckpointError: if the content is invalid, for example if the header does not match the data
    """
    try:
        return safetensors.torch.load(content)
    except Exception as error:  # safetensors and torch have many ways to refuse a header
        why = " ".join(str(error).split())[:200]
        raise CheckpointError(f"it is not a valid safetensors file ({why})", RESTORE) from None


def write(
    folder: Path,
    name: str,
    tensors: dict[str, Tensor],
    record: dict[str, Any],
    keep_previous: bool = False,
    in_cache: bool = False,
) -> str:
    """Write tensors and a record as ``folder/name.json`` and the tensor file that it names.

    Only the tensor file of the replaced record, and what a killed save has left, are removed. Saves of several
    processes or threads run one after the other.

    :param folder: the folder, created if missing
    :param name: stem of the file names
    :param tensors: as for :func:`pack`
    :param record: values that JSON can represent
    :param keep_previous: keep the previous save as ``name.previous.json``
    :param in_cache: replace whatever ``name.json`` holds, which is ours even if it was damaged
    :returns: the checksum in the record
    :raises ValueError: if the folder cannot be created, or contains a ``name.json`` that is not a save
    :raises WriteError: if a file cannot be written; the previous save is then unchanged
    """
    if not in_cache:
        _check_ours(folder / f"{name}.json")
    content = pack(tensors)
    digest = _digest(content, record)
    tensor_file = folder / f"{name}-{digest[:16]}.safetensors"
    current, previous = folder / f"{name}.json", folder / f"{name}.previous.json"
    text = json.dumps({"format": 1, "tensors": tensor_file.name, "sha256": digest, **record}, indent=1).encode()
    with locked(folder, wait=True, name=name, patience=PATIENCE):
        try:
            _sweep(folder, name)
            _mark(folder, _named(folder, name) | ({tensor_file.name} if not tensor_file.exists() else set()))
            write_atomically(tensor_file, content)
            if keep_previous and current.exists():
                write_atomically(previous, current.read_bytes())
            write_atomically(current, text)
        except OSError as error:  # such as a full disk
            with suppress(OSError):
                _sweep(folder, name)
            path = error.args[0] if isinstance(error, WriteError) else current
            raise WriteError(path, error.errno, _reason(error), len(content) + len(text)) from None
        with suppress(OSError):  # the save is whole; the next one removes what is left
            _sweep(folder, name)
    return digest


def _check_ours(file: Path) -> None:
    """Refuse to replace a JSON file that another program wrote. An unreadable file may be a damaged save."""
    try:
        record = json.loads(read_file(file, file.parent, LARGEST_FILE))
    except (OSError, ValueError, CheckpointError, RecursionError):
        return
    if not isinstance(record, dict) or "tensors" not in record:
        raise UserError(f"{file} was not written by a save: choose another folder, or move it away")


def _reason(error: OSError) -> str:
    return error.args[2] if isinstance(error, WriteError) else error.strerror or str(error)


def restore_previous(folder: Path, name: str) -> None:
    """Restore the save that ``keep_previous`` has kept, and remove the later one."""
    with locked(folder, wait=True, name=name, patience=PATIENCE):
        _mark(folder, _named(folder, name))
        write_atomically(folder / f"{name}.json", (folder / f"{name}.previous.json").read_bytes())
        _sweep(folder, name)


def remove_unfinished(folder: Path, name: str) -> None:
    """Remove what killed saves of a name have left in a folder, if the folder exists."""
    if folder.is_dir():
        remove_leftovers(folder)
        with locked(folder, wait=True, name=name, patience=PATIENCE), suppress(OSError):
            _sweep(folder, name)


def digest_of(tensors: dict[str, Tensor], record: dict[str, Any]) -> str:
    """Return the checksum that :func:`write` would compute for these tensors and this record."""
    return _digest(pack(tensors), record)


def _digest(content: bytes, record: dict[str, Any]) -> str:
    own = {key: value for key, value in record.items() if key not in ("format", "tensors", "sha256")}
    return hashlib.sha256(content + json.dumps(own, sort_keys=True).encode()).hexdigest()


def _named(folder: Path, name: str) -> set[str]:
    """Return the tensor files that the records of a name refer to, if a save of that name may have written them."""
    found = set()
    for path in (folder / f"{name}.json", folder / f"{name}.previous.json"):
        try:
            file = json.loads(read_file(path, folder, LARGEST_FILE))["tensors"]
        except (OSError, CheckpointError, ValueError, KeyError, TypeError, RecursionError):
            continue  # what cannot be read points to nothing
        if isinstance(file, str) and re.fullmatch(rf"{re.escape(name)}-[0-9a-f]{{16}}\.safetensors", file):
            found.add(file)
    return found


def _mark(folder: Path, files: set[str]) -> None:
    """Mark tensor files for removal when no record names them any more.

    This save removes them after it has written its record, or the next save does if this process is killed.
    """
    for file in files:
        (folder / f".{file}.tmp").touch()


def _sweep(folder: Path, name: str) -> None:
    """Remove marked tensor files that no record names, and the marks."""
    named = _named(folder, name)
    mark = re.compile(rf"\.({re.escape(name)}-[0-9a-f]{{16}}\.safetensors)\.tmp")
    for file in os.listdir(folder):
        if marked := mark.fullmatch(file):
            with suppress(PermissionError):  # Windows keeps a file that somebody reads: its mark stays, too
                if marked[1] not in named:
                    (folder / marked[1]).unlink(missing_ok=True)
                (folder / file).unlink(missing_ok=True)


LARGEST_TENSORS = 2**36
"""Maximum size of a file of tensors, in bytes."""


@retried_while_saved
def read(
    folder: Path, name: str, schema: type = Tensors, within: Path | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`write` wrote.

    The name of the tensor file must contain the checksum, as :func:`write` makes it, so that a record cannot name any
    other file.

    :param schema: dataclass of :mod:`pyro_priors._schemas` that describes the record
    :param within: folder that contains the files; a link that leads out of it is refused. By default ``folder``
    :returns: tensors and record
    :raises CheckpointError: if a file is missing, truncated or altered, is not a regular file, or lies elsewhere
    """
    folder = Path(folder)
    within = folder if within is None else within
    path = folder / f"{name}.json"
    try:
        record = read_record(path, schema, within, sealed=False)
        names = {f"{stem}-{record['sha256'][:16]}.safetensors" for stem in (name, name.removesuffix(".previous"))}
        if record["tensors"] not in names:
            what = f"{path} names the tensor file '{record['tensors']}', which does not match its checksum"
            raise CheckpointError(f"{what}: it is truncated or altered", RESTORE)
        tensor_file = folder / record["tensors"]
        content = read_file(tensor_file, within, LARGEST_TENSORS)
    except (FileNotFoundError, NotADirectoryError) as error:
        what = f"{error.filename} is missing: there is no complete save in {folder}"
        raise CheckpointError(what, "give a folder that pair.save wrote, or the folder of a completed run") from None
    if _digest(content, record) != record["sha256"]:
        raise CheckpointError(
            f"{tensor_file} does not match the checksum in {path.name}: it is truncated or altered", RESTORE
        )
    try:
        return unpack(content), record
    except CheckpointError as error:
        raise CheckpointError(f"{tensor_file} cannot be read: {error.what}", RESTORE) from None


OLD_NAMES = {"num_batches": "num_values"}
"""Current names of tensors by their names in older saves, whose estimate of an optimal scale counted batches."""
