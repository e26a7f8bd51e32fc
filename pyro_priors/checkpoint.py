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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
import torch.nn as nn
from torch import Tensor
from torch.nn.parameter import is_lazy

from ._files import (
    PATIENCE,
    CheckpointError,
    WriteError,
    locked,
    make_folder,
    remove_leftovers,
    retried_while_saved,
    write_atomically,
)
from ._reading import RESTORE, read_file
from ._records import LARGEST_FILE
from ._records import read as read_record
from ._schemas import Tensors
from .errors import UserError

__all__ = [
    "CheckpointError",
    "WriteError",
    "check_module",
    "check_tensors",
    "digest_of",
    "fit_to_module",
    "load_module_state",
    "locked",
    "make_folder",
    "module_state",
    "pack",
    "read",
    "remove_unfinished",
    "restore_previous",
    "unpack",
    "write",
    "write_atomically",
]


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


@dataclass(frozen=True)
class _Named:
    """A tensor under one of its names in a state dict.

    :param one: a key that is the same for all names of one tensor that remain one tensor under ``to``
    """

    tensor: Tensor
    one: Any


def _named_tensors(module: nn.Module) -> dict[str, _Named]:
    """Return the tensors of a module's state dict by name, without the prefixes that ``torch.compile`` adds.

    :raises ValueError: if the state dict has an entry that is not a parameter or buffer of a module
    """
    owned: dict[str, _Named] = {}
    for prefix, part in module.named_modules(remove_duplicate=False):
        prefix = f"{prefix}." if prefix else ""
        owned |= {f"{prefix}{name}": _Named(p, id(p)) for name, p in part._parameters.items() if p is not None}
        # `to` makes two buffers of one in two modules, but keeps a module in two places one module
        owned |= {f"{prefix}{name}": _Named(b, (id(part), name)) for name, b in part._buffers.items() if b is not None}
    found: dict[str, _Named] = {}
    for key, value in module.state_dict(keep_vars=True).items():
        name = _plain(key)
        if key not in owned or value is not owned[key].tensor:
            raise UserError(
                f"'{name}' cannot be saved: the state_dict of its module contains a {type(value).__name__} that is not "
                "a parameter or buffer of the module: register it as a buffer"
            )
        if name in found:
            raise UserError(f"'{key}' cannot be saved: another tensor has the name '{name}' too: rename one of them")
        found[name] = owned[key]
    return found


def _plain(key: str) -> str:
    *modules, name = key.split(".")
    return ".".join([*(module for module in modules if module != "_orig_mod"), name])


def module_state(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a module's state dict. A shared parameter or module appears once, under its first name.

    Modules that ``torch.compile`` has wrapped keep their original names.

    :raises ValueError: if the state dict has an entry that is not a parameter or buffer, or a tensor has no values yet
    """
    seen: set[Any] = set()
    state = {}
    for name, named in _named_tensors(module).items():
        if is_lazy(named.tensor):
            raise UserError(
                f"'{name}' cannot be saved: it belongs to a lazy module and has no values yet: call that network once, "
                "with one batch of its input, before you make the pair"
            )
        if named.one not in seen:
            seen.add(named.one)
            state[name] = named.tensor.detach()
    return state


def check_module(module: nn.Module, to_file: bool) -> None:
    """Refuse a module that could not be saved or restored, before it is trained.

    The check loads the state into its own module, and packs and unpacks one value of each tensor. This costs as much as
    copying the tensors in memory once.

    :param to_file: whether the module will be saved to a file, and not only restored
    :raises ValueError: with the name of the tensor and the reason
    """
    state = module_state(module)
    for name, tensor in state.items():
        if tensor.is_inference():
            raise UserError(
                f"'{name}' cannot be restored: it was made under torch.inference_mode(): make it outside, or replace "
                "it by its clone()"
            )
    if to_file:
        check_tensors(state)
    load_module_state(module, state, "the pair")


def check_tensors(tensors: dict[str, Tensor]) -> None:
    """Refuse tensors that a file cannot store, and complex tensors, which a change of precision would make real.

    :raises ValueError: with the name and type of the first such tensor
    """
    for name, tensor in tensors.items():
        if tensor.is_complex():
            raise UserError(
                f"'{name}' cannot be saved: it is complex ({tensor.dtype}): keep its real and imaginary parts as two "
                "tensors, for example with torch.view_as_real"
            )
        try:
            piece = tensor[(slice(0, 1),) * tensor.dim()]
            held = unpack(pack({"piece": piece}))["piece"].dtype is tensor.dtype
        except Exception:  # torch and safetensors have many ways to refuse a type or layout
            held = False
        if not held:
            kind = f"{tensor.dtype} tensor, {tensor.layout}, on {tensor.device}".replace("torch.", "")
            raise UserError(
                f"'{name}' cannot be saved: a safetensors file cannot store it ({kind}): use a dense tensor of real "
                "numbers"
            )


OLD_NAMES = {"num_batches": "num_values"}
"""Current names of tensors by their names in older saves, whose estimate of an optimal scale counted batches."""


def load_module_state(module: nn.Module, state: dict[str, Tensor], source: str, in_its_precision: bool = False) -> None:
    """Copy a state into the module's own tensors. Shared tensors stay shared, and devices do not change.

    :param state: from :func:`module_state`
    :param source: where the state comes from, for the message
    :param in_its_precision: convert each floating-point tensor of the module to its precision in the state
    :raises CheckpointError: if names, shapes or types do not fit the module; then nothing is copied
    """
    fitting = fit_to_module(module, state, source)
    own = _named_tensors(module)
    with torch.no_grad():
        for name, value in fitting.items():
            _copy(value, own[name].tensor, in_its_precision)


def fit_to_module(module: nn.Module, state: dict[str, Tensor], source: str, exact: bool = False) -> dict[str, Tensor]:
    """Return a state under the names that :func:`load_module_state` uses, one for each tensor of the module.

    :param state: from :func:`module_state`
    :param source: where the state comes from, for the message
    :param exact: require that each tensor has the same type as in the module
    :raises CheckpointError: if names, shapes or types do not fit the module
    """
    own = _named_tensors(module)
    state = {_plain(key): value for key, value in state.items()}
    for key in state.keys() - own.keys():
        before, _, name = key.rpartition(".")
        if (new := f"{before}.{OLD_NAMES.get(name, name)}") in own:
            state = {(new if one == key else one): value for one, value in state.items()}
    names: dict[int, list[str]] = {}
    for name, named in own.items():
        names.setdefault(id(named.tensor), []).append(name)
    given = {of_one[0]: [name for name in of_one if name in state] for of_one in names.values()}
    if missing := sorted({*(state.keys() - own.keys()), *(first for first, found in given.items() if not found)}):
        raise CheckpointError(f"{source} was saved from another network: '{missing[0]}' is in only one of the two")
    for name, *others in given.values():
        tensor, value = own[name].tensor, state[name]
        if not is_lazy(tensor) and tensor.shape != value.shape:
            raise CheckpointError(
                f"{source} was saved from another network: '{name}' has shape {tuple(value.shape)} there and "
                f"{tuple(tensor.shape)} here"
            )
        if tensor.dtype is not value.dtype and (exact or not _may_become(value.dtype, tensor.dtype)):
            raise CheckpointError(
                f"{source} was saved from another network: '{name}' is {_short(value.dtype)} there and "
                f"{_short(tensor.dtype)} here"
            )
        for other in others:
            if not _same(value, state[other]):
                raise CheckpointError(
                    f"{source} was saved from another network: '{name}' and '{other}' are two tensors there and one "
                    "here"
                )
    return {name: state[name] for name, *_ in given.values()}


def _may_become(there: torch.dtype, here: torch.dtype) -> bool:
    """Return whether a tensor of one type may be copied into another type: both are floats, or both are integers."""
    floats = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    integers = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
    return any(there in kinds and here in kinds for kinds in (floats, integers))


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(((one == other) | (one != one) & (other != other)).all())


def _copy(value: Tensor, tensor: Tensor, in_its_precision: bool) -> None:
    if is_lazy(tensor):
        cast(Any, tensor).materialize(value.shape)
    if in_its_precision and value.is_floating_point() and tensor.is_floating_point():
        tensor.data = tensor.data.to(value.dtype)
    if tensor.layout is torch.strided and 0 in tensor.stride():  # expanded: several values in one place
        tensor.data = tensor.data.contiguous()
    tensor.copy_(value)
