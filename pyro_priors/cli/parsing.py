"""Parsing of command-line arguments into options, with errors of one line."""

import contextlib
import io
import re
import sys
from collections.abc import Sequence
from typing import Any

import tyro

from ..errors import UserError
from .arguments import check_arguments

__all__ = ["parse", "warn"]


def warn(message: str) -> None:
    """Print a warning in one line on standard error."""
    print(f"pyro-priors: warning: {message}", file=sys.stderr)


def parse(options: Any, arguments: Sequence[str], command: str) -> Any:
    """``tyro.cli`` on checked arguments, with its framed error messages folded into one line."""
    if not {"-h", "--help"}.intersection(arguments):
        check_arguments(options, arguments, command)
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            return tyro.cli(options, args=list(arguments), prog=f"pyro-priors {command}")
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        # the first line is the frame's title; what follows the message is help; frames may be ASCII
        lines = (line.strip("╭─╮│╰╯├┤| ") for line in captured.getvalue().splitlines()[1:])
        message = re.split(
            "For full helptext|Argument helptext", " ".join(line for line in lines if line.strip("-+ "))
        )[0]
        message = re.sub(r"^Error parsing [\w.]+: ", "", message.strip())
        raise UserError(f"{message} (see pyro-priors {command} --help)") from None
