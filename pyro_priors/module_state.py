"""The tensors of a module by name: read for a save, checked, and loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn.parameter import is_lazy

from ._files import (
    CheckpointError,
)
from .checkpoint import OLD_NAMES, pack, unpack
from .errors import UserError

__all__ = ["check_module", "check_tensors", "fit_to_module", "load_module_state", "tensors_of"]


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


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
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
    state = tensors_of(module)
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


def load_module_state(module: nn.Module, state: dict[str, Tensor], source: str, in_its_precision: bool = False) -> None:
    """Copy a state into the module's own tensors. Shared tensors stay shared, and devices do not change.

    :param state: from :func:`tensors_of`
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

    :param state: from :func:`tensors_of`
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
