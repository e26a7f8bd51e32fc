"""Nested Python values as tensors, so that a resume state keeps them without pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._files import CheckpointError
from .._reading import RESTORE
from ..errors import UserError

__all__ = ["pack_values", "unpack_values"]

STRUCTURE = "json"
"""Name of the tensor that holds the JSON text of everything but tensors and arrays."""


def pack_values(value: Any, owner: str) -> dict[str, Tensor]:
    """Return a nested value as tensors by name.

    :param value: numbers, strings, booleans, None, tensors and arrays, and lists, tuples and dicts of these
    :param owner: what the value is the state of, for errors
    :returns: the JSON text of the structure as bytes, and each tensor or array by its number
    :raises ValueError: if the value contains anything else
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_packed(value, tensors, owner, "its state"))
    tensors[STRUCTURE] = torch.from_numpy(np.frombuffer(text.encode(), dtype=np.uint8).copy())
    return tensors


def unpack_values(tensors: Mapping[str, Tensor], owner: str) -> Any:
    """Return the value that :func:`pack_values` has packed. Its tensors are on the CPU.

    :raises CheckpointError: if the tensors are not what :func:`pack_values` writes
    """
    try:
        text = bytes(tensors[STRUCTURE].to(torch.uint8).tolist())
        return _unpacked(json.loads(text.decode()), tensors)
    except (KeyError, ValueError, TypeError, IndexError, RecursionError) as error:
        why = f"the state of {owner} cannot be read ({str(error)[:100]}): it was altered"
        raise CheckpointError(why, RESTORE) from None


def _packed(value: Any, tensors: dict[str, Tensor], owner: str, place: str) -> Any:
    if type(value) in (type(None), bool, int, float, str):
        return value
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_packed(one, tensors, owner, f"{place}[{index}]") for index, one in enumerate(value)]}
    if isinstance(value, dict):
        pairs = [
            [_packed(key, tensors, owner, f"a key of {place}"), _packed(one, tensors, owner, f"{place}[{key!r}]")]
            for key, one in value.items()
        ]
        return {"dict": pairs}
    kind, tensor = "tensor", None
    if isinstance(value, Tensor) and value.layout is torch.strided and not value.is_quantized:
        tensor = value.detach().to("cpu", copy=True)
    elif isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        tensor = torch.from_numpy(np.array(value))
    if tensor is None:
        raise UserError(
            f"{owner} has a {type(value).__name__} in {place}, which a resume state cannot keep: return numbers, "
            "strings, tensors, arrays, and lists, tuples and dicts of these from state_dict"
        )
    name = str(len(tensors))
    tensors[name] = tensor
    return {kind: name}


def _unpacked(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(packed, dict):
        return packed
    ((kind, content),) = packed.items()
    if kind in ("list", "tuple"):
        found = [_unpacked(one, tensors) for one in content]
        return found if kind == "list" else tuple(found)
    if kind == "dict":
        return {_unpacked(key, tensors): _unpacked(one, tensors) for key, one in content}
    if kind == "tensor":
        return tensors[content].clone()
    if kind == "array":
        return tensors[content].numpy().copy()
    if kind == "scalar":
        return tensors[content].numpy()[()]
    raise UserError(f"unknown kind {kind!r}")
