"""Names for the parts that users choose: priors, likelihoods, objectives and the rest are registered here by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ._hints import hint

__all__ = ["Entry", "Registry"]

T = TypeVar("T")


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
            raise ValueError(
                f"the name of a {self.kind} must be an identifier, got {name!r} (for example, 'student_t')"
            )
        if name in self._entries:
            taken_by = getattr(self._entries[name].value, "__module__", "another module")
            raise ValueError(f"{self.kind} '{name}' is already registered by {taken_by}: choose another name")
        self._entries[name] = Entry(name, value, tuple(citations))

    def entry(self, name: Any) -> Entry[T]:
        """Return what is registered under a name.

        :raises ValueError: if the name is unknown; the message names the nearest
        """
        if not isinstance(name, str) or name not in self._entries:
            raise ValueError(f"{self.kind} '{name}' is unknown: {hint(str(name), sorted(self._entries))}")
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
