"""The house: which room may import which, that no import goes in a circle, and that no file is too long to read."""

import ast
from pathlib import Path

import pytest

import pyro_priors

PACKAGE = Path(pyro_priors.__file__).parent
ROOT = PACKAGE.parent

LAYERS = [
    {"errors", "_terminal", "_lock", "_options", "_arrays", "_files", "_reading", "_limits", "_memory", "_cache"}
    | {"_precision", "_schemas", "_records", "_resume", "progress", "rng", "sites", "citations", "registry"}
    | {"registration", "checkpoint", "module_state"},
    {"nn"},
    {"priors", "models", "guides"},
    {"objectives"},
    {"tracing", "pair_arguments"},
    {"divergence", "network_checks", "run_folder", "log_probability"},
    {"pair"},
    {"data"},
    {"zoo"},
    {"training"},
    {"metrics"},
    {"plots"},
    {"conditions", "clusters", "testing"},
    {"experiments"},
    {"cli"},
    {"demo"},
]
"""Rooms from the ground up: each imports from its own layer and from those below."""

DATA_TABLES = {"citations.py"}
"""Files that hold data."""


def files():
    """Every file of the package, and the room that it is in."""
    for file in sorted([*PACKAGE.rglob("*.py"), *(ROOT / "models").glob("*.py"), *(ROOT / "guides").glob("*.py")]):
        inside = file.relative_to(PACKAGE) if file.is_relative_to(PACKAGE) else file.relative_to(ROOT)
        yield file, inside, inside.parts[0].removesuffix(".py")


def imports_of(file, inside):
    """Modules that a file imports when it is imported, as parts of their paths below the package.

    Imports in functions are left out, and those for type checkers.
    """
    here = list(inside.parts[:-1])
    todo = list(ast.parse(file.read_text()).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            todo += node.body + node.orelse
        elif isinstance(node, ast.Try):
            todo += node.body
        elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("pyro_priors")):
            base = here[: len(here) - node.level + 1] if node.level else []
            module = (node.module or "").removeprefix("pyro_priors").strip(".")
            module = base + [part for part in module.split(".") if part]
            if module:
                yield [*module, *([] if len(node.names) > 1 else [node.names[0].name])]
            else:
                yield from ([alias.name] for alias in node.names)


def level_of(room):
    found = [level for level, rooms in enumerate(LAYERS) if room in rooms]
    assert len(found) == 1, f"{room} is in {len(found)} layers of tests/test_house.py: put it into one"
    return found[0]


def test_imports_point_down():
    upward = []
    for file, inside, room in files():
        if room == "__init__":
            continue
        for imported in imports_of(file, inside):
            if imported[0].startswith("__"):
                continue
            if level_of(imported[0]) > level_of(room):
                upward.append(f"{inside} imports {'.'.join(imported)}")
    assert not upward, "\n".join(upward)


def test_models_and_guides_do_not_import_each_other():
    for file, inside, room in files():
        if room in ("models", "guides"):
            other = {"models": "guides", "guides": "models"}[room]
            assert all(imported[0] != other for imported in imports_of(file, inside)), inside


def module_graph():
    """Which file imports which, by their paths; a package stands for its ``__init__.py``."""
    known = {inside: file for file, inside, _ in files()}
    graph = {}
    for inside, file in known.items():
        graph[inside] = set()
        for imported in imports_of(file, inside):
            for end in range(len(imported), 0, -1):
                path = Path(*imported[:end])
                found = next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p in known), None)
                if found is not None:
                    graph[inside].add(found)
                    break
    return graph


def test_no_circle_of_imports():
    graph, done, stack = module_graph(), set(), []

    def visit(file):
        if file in stack:
            pytest.fail("a circle: " + " -> ".join(map(str, [*stack[stack.index(file) :], file])))
        if file in done:
            return
        stack.append(file)
        for other in sorted(graph[file] - {file}):
            visit(other)
        done.add(stack.pop())

    for file in sorted(graph):
        visit(file)


@pytest.mark.parametrize("folder", ["pyro_priors", "models", "guides"])
def test_no_file_has_more_than_400_lines(folder):
    long = {
        str(file.relative_to(ROOT)): num
        for file in (ROOT / folder).rglob("*.py")
        if (num := len(file.read_text().splitlines())) > 400 and file.name not in DATA_TABLES
    }
    assert not long, long
