"""Output that any terminal and log can show: what its encoding lacks is written in ASCII."""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

__all__ = ["ascii_of", "printable"]

HANDLER = "pyro_priors.ascii"

EQUIVALENTS = {
    "±": "+-", "×": "x", "·": ".", "•": "*", "÷": "/", "−": "-", "≤": "<=", "≥": ">=", "≠": "!=", "≈": "~", "→": "->",
    "←": "<-", "°": "deg", "∞": "inf", "⁄": "/", "ß": "ss", "æ": "ae", "Æ": "AE", "ø": "o", "Ø": "O", "œ": "oe",
    "Œ": "OE", "ł": "l", "Ł": "L", "đ": "d", "ð": "d", "þ": "th",
    **dict.fromkeys("‐‑‒–—―─━╌┄", "-"), **dict.fromkeys("‘’‚′", "'"), **dict.fromkeys("“”„″«»", '"'),
    **dict.fromkeys("│┃║╎┆", "|"), **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╰╯╔╗╚╝╠╣╦╩╬", "+"), "═": "=",
    **dict.fromkeys("█▉▊▋▌▍▎▏▓▒░", "#"),
}  # fmt: skip
"""What stands for characters that do not decompose into ASCII."""


def ascii_of(text: str) -> str:
    """Return text in ASCII: ``+-`` for a plus-minus sign, letters without accents, ``\\\\u4e2d`` for what is left."""
    return "".join(_ascii_of_character(character) for character in text)


def _ascii_of_character(character: str) -> str:
    if character.isascii():
        return character
    if character in EQUIVALENTS:
        return EQUIVALENTS[character]
    parts = unicodedata.normalize("NFKD", character)
    found = "".join(EQUIVALENTS.get(part, part) for part in parts if not unicodedata.combining(part))
    return found if found and found.isascii() else character.encode("ascii", "backslashreplace").decode()


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return ascii_of(error.object[error.start : error.end]), error.end


codecs.register_error(HANDLER, _replace)


@contextmanager
def printable(*streams: Any) -> Iterator[None]:
    """Let text streams, such as ``sys.stdout``, write what they cannot encode in ASCII, while it lasts.

    :param streams: those that have no encoding stay as they are
    """
    changed = [(stream, stream.errors) for stream in streams if hasattr(stream, "reconfigure")]
    for stream, _ in changed:
        stream.reconfigure(errors=HANDLER)
    try:
        yield
    finally:
        for stream, errors in changed:
            with suppress(OSError, ValueError):  # its reader has gone, or it was closed
                stream.reconfigure(errors=errors)
