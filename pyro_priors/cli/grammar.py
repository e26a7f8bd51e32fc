"""The grammar of ``pyro-priors train``: ``--FACTOR NAME`` chooses a factor, ``--FACTOR.OPTION VALUE`` sets its options.

tyro reads dataclasses. The ones here are made of the options of what was chosen.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, get_args, get_type_hints

import tyro

from .. import zoo
from ..errors import UserError
from ..priors.base import PriorOptions, as_options
from ..zoo.recipe import REGISTRIES, choose

__all__ = [
    "AUTO",
    "choose_factors",
    "grouped",
    "helped",
    "nested_fields",
    "options_of_family",
    "plain_options",
    "taken",
]

_Suppressed: Any = Annotated[Any, tyro.conf.Suppress[int].__metadata__[0]]  # type: ignore[attr-defined]
_SuppressedShape: Any = Annotated[tuple[int, ...], tyro.conf.Suppress[int].__metadata__[0]]  # type: ignore[attr-defined]

AUTO = "auto"
"""The likelihood that fits the data."""


def taken(arguments: Sequence[str], name: str) -> tuple[str | None, list[str]]:
    """Return the value of ``--name VALUE`` or ``--name=VALUE``, and the other arguments."""
    rest, value, index = [], None, 0
    while index < len(arguments):
        argument = arguments[index]
        if argument == f"--{name}":
            if index + 1 >= len(arguments) or arguments[index + 1].startswith("--"):
                raise UserError(f"--{name} needs a value: give one, or leave it out")
            value, index = arguments[index + 1], index + 1
        elif argument.startswith(f"--{name}="):
            value = argument.split("=", 1)[1]
        else:
            rest.append(argument)
        if value is not None and not value.strip():
            raise UserError(f"--{name} needs a value, got {value!r}: give one, or leave it out")
        index += 1
    return value, rest


def choose_factors(name: str, arguments: Sequence[str]) -> tuple[dict[str, Any], list[str], list[str]]:
    """Read which factors a command line chooses.

    :param name: of the preset
    :param arguments: the command line after it
    :returns: options of each factor, of the likelihood None if it is the one that fits the data; the arguments that
        chose them, in one spelling; and the other arguments
    :raises ValueError: if a name is unknown
    """
    preset = zoo.PRESETS[name]
    factors: dict[str, Any] = {}
    chosen: list[str] = []
    rest = list(arguments)
    for factor, default_name in zoo.FAMILIES[preset.family].factors.items():
        option = factor.replace("_", "-")
        given, rest = taken(rest, option)
        default = preset.factors.get(factor)
        if factor == "likelihood" and given in (None, AUTO) and default is None:
            factors[factor] = None
            _refuse_options(rest, option)
            continue
        options = choose(factor, None if given == AUTO else given, default or REGISTRIES[factor][default_name]())
        chosen += [] if given is None else [f"--{option}={given}"]
        factors[factor], nested, rest = _with_nested(options, option, rest)
        chosen += nested
    return factors, chosen, rest


def nested_fields(owner: type) -> tuple[str, ...]:
    """Return the names of the fields of some options that hold the options of a prior, such as the base of a flow."""
    declared = get_type_hints(owner)
    return tuple(one.name for one in dataclasses.fields(owner) if _holds_prior(declared[one.name]))


def _holds_prior(declared: Any) -> bool:
    if isinstance(declared, type):
        return issubclass(declared, PriorOptions)
    return any(_holds_prior(one) for one in get_args(declared))


def _with_nested(options: Any, path: str, rest: list[str]) -> tuple[Any, list[str], list[str]]:
    """Options whose own factors, such as the base of a flow, are those that the command line chooses."""
    chosen: list[str] = []
    for name in nested_fields(type(options)):
        option = f"{path}.{name.replace('_', '-')}"
        given, rest = taken(rest, option)
        if given is not None:
            options = dataclasses.replace(options, **{name: as_options(given)})
            chosen.append(f"--{option}={given}")
        inner = getattr(options, name)
        if dataclasses.is_dataclass(inner):
            inner, nested, rest = _with_nested(inner, option, rest)
            options, chosen = dataclasses.replace(options, **{name: inner}), chosen + nested
    return options, chosen, rest


def _refuse_options(arguments: Sequence[str], factor: str) -> None:
    for argument in arguments:
        if argument.startswith(f"--{factor}."):
            owners = [
                name
                for name in REGISTRIES[factor]
                if argument.split("=")[0].rpartition(".")[2].replace("-", "_")
                in [one.name for one in dataclasses.fields(REGISTRIES[factor][name])]
            ]
            which = f"--{factor} {owners[0]}" if owners else f"--{factor} NAME"
            raise UserError(f"{argument.split('=')[0]} needs the name of a {factor} first: give {which} too")


def grouped(options: Any) -> Any:
    """Return a dataclass for tyro with the fields of some options, whose defaults are their values."""
    owner = type(options)
    declared = get_type_hints(owner, include_extras=True)
    annotations: dict[str, Any] = {}
    body: dict[str, Any] = {}
    nested = nested_fields(owner)
    for one in dataclasses.fields(owner):
        value = getattr(options, one.name)
        if dataclasses.is_dataclass(value):
            inner = grouped(value)
            annotations[one.name], body[one.name] = inner, dataclasses.field(default_factory=inner)
        elif one.name in nested:
            annotations[one.name], body[one.name] = _Suppressed, None
        elif value != one.default:
            annotations[one.name], body[one.name] = declared[one.name], value
    body |= {"__annotations__": annotations, "__doc__": owner.__doc__}
    return dataclasses.dataclass(frozen=True)(type(owner.__name__, (owner,), body))


def options_of_family(name: str, more: Mapping[str, tuple[Any, Any]], text: str, to_fill: Sequence[str]) -> Any:
    """Return a dataclass for tyro of the options of a preset's family, and of more.

    :param name: of the preset
    :param more: further fields: annotation, and default value, factory, or MISSING
    :param text: what the command does
    :param to_fill: fields that the data fix, which are no options
    """
    preset = zoo.PRESETS[name]
    family = zoo.FAMILIES[preset.family]
    declared = get_type_hints(family, include_extras=True)
    known = {one.name for one in dataclasses.fields(family)}
    annotations: dict[str, Any] = {option: declared[option] for option in preset.options}
    body: dict[str, Any] = dict(preset.options)
    for option in set(to_fill) & known:
        annotations[option], body[option] = _SuppressedShape, (1,)
    for option, (annotation, default) in more.items():
        annotations[option] = annotation
        if isinstance(default, Callable):  # type: ignore[arg-type]
            body[option] = dataclasses.field(default_factory=default)
        elif default is not dataclasses.MISSING:
            body[option] = default
    body |= {"__annotations__": annotations, "__doc__": text}
    return dataclasses.dataclass(frozen=True, kw_only=True)(type("Options", (family,), body))


def plain_options(options: Any) -> Any:
    """Return the options that an instance of :func:`grouped` holds, of their own class."""
    if not dataclasses.is_dataclass(options):
        return options
    owner: Any = inspect.getmro(type(options))[1]
    values = {one.name: plain_options(getattr(options, one.name)) for one in dataclasses.fields(owner)}
    return owner(**values)


def helped(annotation: Any, text: str) -> Any:
    """Return the annotation with a help text."""
    return Annotated[annotation, tyro.conf.arg(help=text)]
