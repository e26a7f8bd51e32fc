"""What to say of a name that is unknown, or of a size that is not one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Integral

__all__ = ["check_sizes", "hint", "is_size"]


def hint(name: object, known: Iterable[str]) -> str:
    """What an error says after an unknown name: the nearest known one, or all of them."""
    known = tuple(known)
    near = get_close_matches(name, known, n=1) if isinstance(name, str) else []
    return f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(known)}"


def is_size(value: object) -> bool:
    """Whether it is a whole number of at least 1."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def check_sizes(**sizes: object) -> None:
    """Refuse what is no size.

    :param sizes: by the name of the argument
    :raises ValueError: if one is no whole number of at least 1
    """
    for name, value in sizes.items():
        if not is_size(value):
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}: give 10, say")
