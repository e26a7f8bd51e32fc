"""What to say of a name that is unknown."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["hint"]


def hint(name: object, known: Iterable[str]) -> str:
    """What an error says after an unknown name: the nearest known one, or all of them."""
    known = tuple(known)
    near = get_close_matches(name, known, n=1) if isinstance(name, str) else []
    return f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(known)}"
