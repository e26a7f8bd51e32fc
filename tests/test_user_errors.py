"""Errors that the user can fix: what raises them, and how the command line shows them and all others."""

import ast
from pathlib import Path

import pytest

import pyro_priors as pp
from internal_errors import INTERNAL
from pyro_priors import _files, _limits, errors, registration, sites
from pyro_priors.cli import main as command_line
from pyro_priors.cli.main import main

PACKAGE = Path(pp.__file__).parent
ROOT = PACKAGE.parent
FILES = [file for folder in (PACKAGE, ROOT / "models", ROOT / "guides") for file in sorted(folder.rglob("*.py"))]


def start_of(call: ast.expr | None) -> str:
    """Return the message of an error as it is written, up to its end or the first value."""
    if not isinstance(call, ast.Call) or not call.args:
        return ""
    written = ast.unparse(call.args[0])
    return written.removeprefix("f")[1:-1]


def raised(names):
    """Yield file, line and message of each `raise` of these classes."""
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Raise) and node.exc is not None:
                called = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
                if isinstance(called, ast.Name) and called.id in names:
                    yield f"{file.relative_to(ROOT)}:{node.lineno}", start_of(node.exc)


def test_errors_for_the_user_are_user_errors():
    """ValueError and TypeError are left for the messages in the list alone, and each of them is there."""
    found = list(raised({"ValueError", "TypeError", "RuntimeError"}))
    of_user = [place for place, message in found if not message.startswith(tuple(INTERNAL))]
    assert not of_user, "raise UserError where the user can fix it, or give the reason in tests/internal_errors.py"
    unused = [start for start in INTERNAL if not any(message.startswith(start) for _, message in found)]
    assert not unused and all(INTERNAL.values())


def test_user_errors_are_many():
    assert len(list(raised({"UserError"}))) > 300


@pytest.mark.parametrize(
    ("kind", "others"),
    [
        (errors.MissingFileError, [FileNotFoundError]),
        (errors.StateError, [RuntimeError]),
        (pp.CheckpointError, [RuntimeError]),
        (_files.WriteError, [pp.CheckpointError, OSError]),
        (_files.FolderError, [OSError]),
        (registration.NetworkError, []),
        (sites.OptionError, []),
        (_limits.Refused, []),
    ],
)
def test_a_class_of_errors_is_caught_by_what_it_is(kind, others):
    assert all(issubclass(kind, one) for one in [pp.UserError, ValueError, *others])
    if kind is not _files.WriteError:
        assert str(kind("x is 1: give 2")) == "x is 1: give 2"


def failing(error):
    def run(arguments):
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (pp.UserError("x is 1:\n  give 2"), 2),
        (errors.MissingFileError("x is 1: give 2"), 2),
        (pp.CheckpointError("x is 1", "give 2"), 2),
        (OSError("x is 1: give 2"), 2),
        (pp.TrainingDiverged("x is 1: give 2"), 1),
    ],
)
def test_an_error_for_the_user_is_one_line(error, status, monkeypatch, capsys):
    monkeypatch.setitem(command_line.COMMANDS, "list", failing(error))
    assert main(["list"]) == status
    assert capsys.readouterr().err == "pyro-priors: error: x is 1: give 2\n"


@pytest.mark.parametrize("error", [ValueError("3 is no 4"), TypeError("3 is no 4"), RuntimeError("3 is no 4")])
def test_any_other_error_is_a_bug(error, monkeypatch, capsys):
    """With where it came from, and a request to report it."""
    monkeypatch.setitem(command_line.COMMANDS, "list", failing(error))
    monkeypatch.setattr(command_line, "IMPORTED", [])
    assert main(["list"]) == 1
    *lines, last = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback") and lines[-1] == f"{type(error).__name__}: 3 is no 4"
    assert any("in run" in line for line in lines)
    assert last == "pyro-priors: this is a bug in pyro_priors: report it with the lines above"
    monkeypatch.setattr(command_line, "IMPORTED", ["my_parts"])
    assert main(["list"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "pyro-priors: this is a bug in pyro_priors, or in my_parts: report it with the lines above"
    )
