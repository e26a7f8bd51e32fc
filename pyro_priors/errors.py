"""Errors that the user can fix, and messages about unknown names and invalid sizes."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Integral

__all__ = ["MissingFileError", "StateError", "UserError", "check_sizes", "hint", "is_size"]


class UserError(ValueError):
    """The input, a file or the environment is wrong, and the user can fix it.

    The message has one line: the argument, its value, and the remedy. The command line shows the message alone, and any
    other error as a bug, with its traceback. Raise it, or a subclass, in parts of your own, so that their messages are
    shown in the same way.
    """


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder is missing."""


class StateError(UserError, RuntimeError):
    """A call is impossible in the current state of the process or of an object."""


def hint(name: object, known: Iterable[str]) -> str:
    """Return the end of an error about an unknown name: the nearest known name, or all of them."""
    known = tuple(known)
    near = get_close_matches(name, known, n=1) if isinstance(name, str) else []
    return f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(known)}"


def is_size(value: object) -> bool:
    """Return whether a value is a positive integer."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def check_sizes(**sizes: object) -> None:
    """Refuse sizes that are not positive integers.

    :param sizes: the sizes by the names of the arguments
    :raises ValueError: if one of them is not a positive integer
    """
    for name, value in sizes.items():
        if not is_size(value):
            raise UserError(f"{name} must be a positive integer, got {value!r} (for example, 10)")
