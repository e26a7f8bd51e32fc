"""Names for the parts that users choose: priors, likelihoods, objectives and the rest are registered here by name."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from .errors import UserError, hint

__all__ = ["IMPORTED", "PLUGINS", "Entry", "Registry", "import_by_name", "load_plugins"]

T = TypeVar("T")

PLUGINS = "pyro_priors.plugins"
"""Group of entry points of installed packages, which register what they have when they are imported."""

IMPORTED: list[str] = []
"""Modules that the user asked the command line to import; a run records them."""


def import_by_name(module: str) -> None:
    """Import a module that registers parts, from the working folder or an installed package.

    :raises ValueError: if there is no such module, or it cannot be imported
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        importlib.import_module(module)
    except UserError:  # a name that is taken, for example: its message is for the user
        raise
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"--import {module} cannot be imported ({type(error).__name__}: {why}): check it") from error
    if module not in IMPORTED:
        IMPORTED.append(module)


@cache
def load_plugins() -> None:
    """Import what installed packages have in the group :data:`PLUGINS`, once; one that fails is warned of."""
    for point in entry_points(group=PLUGINS):
        try:
            point.load()
        except Exception as error:
            warnings.warn(f"the plugin {point.name} ({point.value}) cannot be loaded: {error}", stacklevel=4)


@dataclass(frozen=True)
class Entry(Generic[T]):
    """What is registered under a name.

    :param name: the name
    :param value: a class or a function
    :param citations: keys of :data:`pyro_priors.citations.BIBTEX`, or BibTeX entries
    """

    name: str
    value: T
    citations: tuple[str, ...] = ()


class Registry(Generic[T]):
    """Named things of one kind.

    :param kind: what they are, for messages, such as ``"prior"``
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry[T]] = {}

    def add(self, name: str, value: T, citations: Sequence[str] = ()) -> None:
        """Register a value.

        :raises ValueError: if the name is taken by another value, or is not a name
        """
        if not isinstance(name, str) or not name.replace(".", "_").isidentifier():
            raise UserError(f"the name of a {self.kind} must be an identifier, got {name!r} (for example, 'student_t')")
        if name in self._entries:
            taken_by = getattr(self._entries[name].value, "__module__", "another module")
            raise UserError(f"{self.kind} '{name}' is already registered by {taken_by}: choose another name")
        self._entries[name] = Entry(name, value, tuple(citations))

    def entry(self, name: Any) -> Entry[T]:
        """Return what is registered under a name.

        :raises ValueError: if the name is unknown; the message names the nearest
        """
        if isinstance(name, str) and name not in self._entries:
            load_plugins()
        if not isinstance(name, str) or name not in self._entries:
            raise UserError(f"{self.kind} '{name}' is unknown: {hint(str(name), sorted(self._entries))}")
        return self._entries[name]

    def __getitem__(self, name: Any) -> T:
        return self.entry(name).value

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, sorted."""
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def name_of(self, value: T) -> str | None:
        """Return the name under which a value is registered, or None."""
        return next((name for name, entry in self._entries.items() if entry.value is value), None)
