"""Output that any terminal and log can show: what its encoding lacks is written in ASCII."""

from __future__ import annotations

import codecs
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

__all__ = ["ascii_of", "one_line", "printable", "until_unread"]

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


def one_line(text: str) -> str:
    """Return text in one line: white space is single spaces, and other control characters are escaped."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in " ".join(text.split()))


class _Outlet:
    """A text stream that drops what is written after its reader has gone."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            # what is still in the stream's buffer would be written again when the interpreter ends
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            if not isinstance(error, BrokenPipeError):
                raise OSError(
                    f"the output cannot be written ({error.strerror or error}): send it to another place"
                ) from None


@contextmanager
def until_unread() -> Iterator[None]:
    """Let a program go on silently when the reader of its output, such as ``head``, has read enough.

    :raises OSError: if the output cannot be written for another reason, such as a full disk
    """
    own = sys.stdout, sys.stderr
    outlets = [stream if stream is None else _Outlet(stream) for stream in own]
    sys.stdout, sys.stderr = outlets
    try:
        yield
    finally:
        sys.stdout, sys.stderr = own
        for outlet in filter(None, outlets):
            with suppress(OSError, ValueError):
                outlet.flush()
