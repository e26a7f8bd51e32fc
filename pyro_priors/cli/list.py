"""The command ``pyro-priors list``, which shows what can be chosen by name."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from .. import data, experiments, metrics, objectives, priors, zoo
from ..data.registry import find as find_loader
from ..errors import UserError, hint
from ..nn import likelihoods
from ..registry import load_plugins

__all__ = ["help_of", "run", "summary"]

WIDTH = 120
"""Columns of the lists of options."""
OF_DATA = ("condition_shape", "x_shape")
"""Options that the data determine."""
LONGEST = 120
"""Characters of a description above which it is cut."""


@dataclasses.dataclass(frozen=True)
class Group:
    """What one group of the list shows.

    :param singular: name of the group in ``list GROUP.NAME``
    :param values: the registered values, by name
    :param text: describes a value in one line
    :param options: class that declares the options of a value, or None if it has none
    """

    singular: str
    values: Callable[[], Mapping[str, Any]]
    text: Callable[[Any], str]
    options: Callable[[Any], type] | None = None


def summary(value: Any) -> str:
    """Return the first sentence of a docstring in one line without markup; only its beginning if it is long."""
    paragraph = " ".join((inspect.getdoc(value) or "").partition("\n\n")[0].split())
    found = re.match(r".*?(?<!\bal)\.(?=\s|$)", paragraph)
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?([^`]*)`", r"\1", found[0] if found else paragraph)
    text = text.replace("``", "").rstrip(".:")
    return text if len(text) <= LONGEST else textwrap.shorten(text.partition("; ")[0], LONGEST, placeholder=" ...")


def _of_registry(registry: Any) -> Callable[[], Mapping[str, Any]]:
    return lambda: {name: registry[name] for name in registry}


def _families() -> Mapping[str, Any]:
    """Return the families, without those of which no preset is listed."""
    shown = {zoo.PRESETS[name].family for name in zoo.names()}
    hidden = {zoo.PRESETS[name].family for name in zoo.PRESETS} - shown
    return {name: zoo.FAMILIES[name] for name in zoo.FAMILIES if name not in hidden}


def _presets() -> Mapping[str, Any]:
    return {name: zoo.PRESETS[name] for name in zoo.names()}


def _data() -> Mapping[str, Any]:
    return {name: find_loader(name) for name in data.names()}


def _experiments() -> Mapping[str, Any]:
    return {name: experiments.find(name) for name in sorted(experiments.names())}


def _itself(value: Any) -> type:
    return value


GROUPS: dict[str, Group] = {
    "families": Group("family", _families, summary, _itself),
    "presets": Group("preset", _presets, lambda preset: preset.text.rstrip(".")),
    "priors": Group("prior", _of_registry(priors.PRIORS), summary, _itself),
    "likelihoods": Group("likelihood", _of_registry(likelihoods.LIKELIHOODS), summary, _itself),
    "networks": Group("networks", _of_registry(zoo.NETWORKS), summary, _itself),
    "objectives": Group("objective", lambda: dict(sorted(objectives.OBJECTIVES.items())), summary, _itself),
    "data": Group(
        "data", lambda: {name: find_loader(name) for name in data.names()}, summary, lambda _: data.DataConfig
    ),
    "metrics": Group("metric", lambda: dict(metrics.METRICS), summary),
    "experiments": Group("experiment", _experiments, lambda one: one.title),
}
"""The groups in the order in which they are shown."""

USAGE = f"""usage: pyro-priors list [GROUP | GROUP.NAME]

List what can be chosen by name, with one line for each: {", ".join(GROUPS)}.
What installed plugins and --import register is listed too.

  list priors       one group
  list prior.flow   the options of one part, with defaults"""


def run(arguments: Sequence[str]) -> None:
    """Run the command.

    :param arguments: the arguments after ``list``
    :raises ValueError: if a group or a name is unknown
    """
    if any(argument in ("-h", "--help") for argument in arguments):
        print(USAGE)
        return
    if len(arguments) > 1 or (arguments and arguments[0].startswith("-")):
        wrong = next((one for one in arguments if one.startswith("-")), arguments[-1])
        what = "has no option" if wrong.startswith("-") else "cannot use the argument"
        raise UserError(f"list {what} {wrong}: give one group, such as priors, or none (see pyro-priors list --help)")
    load_plugins()
    if not arguments:
        for name, group in GROUPS.items():
            print("\n".join([name, *_lines(group), ""] if name != [*GROUPS][-1] else [name, *_lines(group)]))
        return
    given, _, member = arguments[0].partition(".")
    names = {one: key for key, group in GROUPS.items() for one in (key, group.singular)}
    if given not in names:
        raise UserError(f"group '{given}' is unknown: {hint(given, GROUPS)}")
    group = GROUPS[names[given]]
    print("\n".join(_lines(group) if "." not in arguments[0] else _options(group, member)))


def _lines(group: Group) -> Iterator[str]:
    """Yield one line for each value of a group."""
    values = group.values()
    width = max(map(len, values), default=0)
    for name, value in values.items():
        note = " (only if it is named)" if group.singular == "metric" and name in metrics.ON_REQUEST else ""
        yield f"  {name:{width}}  {group.text(value)}{note}".rstrip()
    if group.singular == "data":
        yield f"  {'FILE.npz':{width}}  A file of yours with x_train and more (see pyro_priors.data.from_arrays)"


def _options(group: Group, name: str) -> Iterator[str]:
    """Yield the description of a value, and one line for each of its options."""
    values = group.values()
    if name not in values:
        raise UserError(f"{group.singular} '{name}' is unknown: {hint(name, values)}")
    yield f"{name}: {group.text(values[name])}"
    if group.options is None:
        if group.singular == "preset":
            yield f"options: pyro-priors train {name} --help"
        return
    owner = group.options(values[name])
    prefix = "" if group.singular == "family" else f"{group.singular}."
    rows = [
        (f"--{prefix}{option.replace('_', '-')}", _shown(default), text)
        for option, (default, text) in help_of(owner).items()
        if option not in OF_DATA
    ]
    if not rows:
        yield "no options"
        return
    yield "options, with their defaults:"
    first, second = (max(len(row[i]) for row in rows) for i in (0, 1))
    for option, default, text in rows:
        head = f"  {option:{first}}  {default:{second}}  "
        yield (
            textwrap.fill(text, WIDTH, initial_indent=head, subsequent_indent=" " * min(len(head), WIDTH // 2)) or head
        )


def _shown(default: Any) -> str:
    if dataclasses.is_dataclass(default):
        return str(getattr(default, "name", type(default).__name__))
    if isinstance(default, tuple):
        return " ".join(map(str, default)) or "-"
    return "-" if default is None or default is inspect.Parameter.empty else str(default)


def help_of(owner: type) -> dict[str, tuple[Any, str]]:
    """Return default and help text of each option of a dataclass, or of the constructor of another class.

    :param owner: the class; its options are described by the string below each field, or by ``:param`` in its docstring
    """
    if not dataclasses.is_dataclass(owner):
        described = dict(re.findall(r":param (\w+):\s+(.*?)(?=\n\s*:|\n\n|\Z)", inspect.getdoc(owner) or "", re.DOTALL))
        parameters = inspect.signature(owner).parameters
        return {name: (one.default, " ".join(described.get(name, "").split())) for name, one in parameters.items()}
    texts: dict[str, str] = {}
    for kind in reversed(owner.__mro__):
        if dataclasses.is_dataclass(kind):
            texts |= _texts_of_fields(kind)
    found: dict[str, tuple[Any, str]] = {}
    for one in dataclasses.fields(owner):
        default = inspect.Parameter.empty if one.default is dataclasses.MISSING else one.default
        if one.default_factory is not dataclasses.MISSING:
            default = one.default_factory()
        found[one.name] = default, texts.get(one.name, "")
    return found


def _texts_of_fields(owner: type) -> dict[str, str]:
    """Return the string below each field in the source of a class; nothing without a source."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
    except (OSError, TypeError, SyntaxError):
        return {}
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef))
    found: dict[str, str] = {}
    for field, text in zip(body, body[1:], strict=False):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(value))):
                found[name] = " ".join(value.split())
    return found
