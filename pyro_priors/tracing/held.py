"""The parameters and buffers of modules: found, told apart from those of another call, and replaced while tracing."""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch.nn as nn
from torch import Tensor

__all__ = ["Held"]


class Held:
    """The parts of some modules, their parameters and buffers, each once, and where they are.

    :param modules: the modules
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.modules = list(modules)
        self.parts = list(dict.fromkeys(part for module in modules for part in module.modules()))
        self.tensors: list[Tensor] = []
        self.numbers: dict[int, int] = {}
        structure: list[Any] = []
        for part in self.parts:
            structure.append((type(part), part.training))
            for owner in (part._parameters, part._buffers):
                for name, tensor in owner.items():
                    number = None if tensor is None else self.numbers.setdefault(id(tensor), len(self.tensors))
                    if tensor is not None and number == len(self.tensors):
                        self.tensors.append(tensor)
                    structure.append((name, number))
            structure.extend(_plain(vars(part)).items())
        self.of_first = list(modules[0].parameters())
        self.structure = tuple(structure)
        """What tells apart modules of other types, modes, names, ties or attributes."""
        self._types = [type(part) for part in self.parts]
        owners = [(vars(part), part._parameters, part._buffers, part._modules) for part in self.parts]
        self._owners: list[dict[str, Any]] = list(chain.from_iterable(owners))
        self._names, self._values, self._sizes = self._look()
        plain = [value for part in self.parts for value in vars(part).values() if isinstance(value, Tensor)]
        self._versions = [(value, value._version) for value in plain]

    def is_current(self, modules: Sequence[nn.Module]) -> bool:
        """Whether all is the very same that was found, which costs less to ask than to look anew."""
        return (
            len(modules) == len(self.modules)
            and all(map(operator.is_, modules, self.modules))
            and list(map(type, self.parts)) == self._types
            and all(map(operator.is_, map(vars, self.parts), self._owners[::4]))
            and self._holds_the_same()
            and all(value._version == version for value, version in self._versions)
        )

    def _look(self) -> tuple[list[str], list[Any], list[int]]:
        values = chain.from_iterable(map(dict.values, self._owners))
        return list(chain.from_iterable(self._owners)), list(values), list(map(len, self._owners))

    def _holds_the_same(self) -> bool:
        names, values, sizes = self._look()
        return sizes == self._sizes and names == self._names and all(map(operator.is_, values, self._values))

    def copies(self) -> list[dict[str, Any]]:
        """The parts' attributes, copied as far as a program could change them; parts and tensors are the same."""
        memo: dict[int, Any] = {id(part): part for part in self.parts} | {id(tensor): tensor for tensor in self.tensors}
        found = []
        for part in self.parts:
            found.append(
                {
                    name: value if name in _OF_MODULES else copy.deepcopy(value, memo)
                    for name, value in vars(part).items()
                }
            )
        return found

    @contextmanager
    def holding(self, copies: list[dict[str, Any]], tensors: Sequence[Tensor]) -> Iterator[None]:
        """The modules with copies of their attributes, and with other tensors in the place of theirs.

        :raises ValueError: at the end, if the programs have set an attribute or written to a tensor that is no buffer:
            a graph would not do that again
        """
        own = [vars(part) for part in self.parts]
        for copied in copies:
            for kind in ("_parameters", "_buffers"):
                copied[kind] = {
                    name: None if tensor is None else tensors[self.numbers[id(tensor)]]
                    for name, tensor in copied[kind].items()
                }
        before = [_plain(copied) | _held(copied) for copied in copies]
        try:
            for part, copied in zip(self.parts, copies, strict=True):
                part.__dict__ = copied
            yield
            for part, then in zip(self.parts, before, strict=True):
                now = _plain(vars(part)) | _held(vars(part))
                if changed := [name for name in {**then, **now} if then.get(name) != now.get(name)]:
                    raise ValueError(
                        f"a program sets '{changed[0]}' of {type(part).__name__}, which a graph would not: register it "
                        "as a buffer and change that in place"
                    )
        finally:
            for part, attributes in zip(self.parts, own, strict=True):
                part.__dict__ = attributes


_OF_MODULES = frozenset(vars(nn.Module()))


def _plain(attributes: dict[str, Any]) -> dict[str, Any]:
    """What a module's attributes are beside its parameters, buffers and parts: numbers and names by value, objects by
    identity, a tensor with the count of what was written to it."""
    found: dict[str, Any] = {}
    for name, value in attributes.items():
        if name not in _OF_MODULES:
            by_value = value is None or type(value) in (bool, int, float, str)
            found[name] = value if by_value else (_Same(value), value._version if isinstance(value, Tensor) else 0)
    return found


class _Same:
    """Equal to the same object alone, which it keeps from being freed and its id from being given to another."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def _held(attributes: dict[str, Any]) -> dict[str, Any]:
    return {
        name: id(value) for kind in ("_parameters", "_buffers", "_modules") for name, value in attributes[kind].items()
    }
