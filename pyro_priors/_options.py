"""Options as they are declared: each is converted to its type where it is given, or refused in one line."""

from __future__ import annotations

import dataclasses
import inspect
import math
import os
import sys
import types
from collections.abc import Callable, Sequence
from functools import cache, wraps
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

import numpy as np
import torch

__all__ = ["MAY_BE_INFINITE", "convert_fields", "path_of", "plain", "shown", "typed"]

P = ParamSpec("P")
R = TypeVar("R")

MAY_BE_INFINITE = "may be infinite"
"""Declares a number that may be infinite: ``Annotated[float, MAY_BE_INFINITE]``."""


def typed(function: Callable[P, R]) -> Callable[P, R]:
    """Convert the arguments of a function or constructor to the types that its signature declares.

    The types are ``int``, ``float``, ``bool``, ``str``, ``Literal``, tuples and sequences of these, and ``None`` next
    to them. Numbers and strings of numpy, tensors and arrays without dimensions become Python's own. An integer serves
    as a float; a bool is not an integer. Arguments of other declared types are passed on as they are.

    :raises ValueError: in use, if an argument is of another type, NaN, or infinite without being declared
        :data:`MAY_BE_INFINITE`
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        declared, defaults, positional = _signature(function)
        given: list[Any] = [
            _converted(name, value, declared.get(name), defaults.get(name))
            for name, value in zip(positional, args, strict=False)
        ]
        given += args[len(given) :]
        named: Any = {
            name: _converted(name, value, declared.get(name), defaults.get(name)) for name, value in kwargs.items()
        }
        return function(*given, **named)

    return call


def convert_fields(config: Any) -> None:
    """Convert the fields of a frozen dataclass to their declared types, as :func:`typed` converts arguments.

    :param config: the instance, within its ``__post_init__``
    :raises ValueError: if a field is of another type
    """
    config_class: Any = type(config)
    declared = _fields(config_class)
    for field in dataclasses.fields(config):
        given = getattr(config, field.name)
        value = _converted(field.name, given, declared.get(field.name), field.default)
        if value is not given:
            object.__setattr__(config, field.name, value)


def path_of(argument: str, path: str | os.PathLike[str], example: str = "runs/vae") -> Path:
    """A path with ``~`` expanded.

    :param argument: its name, for the message
    :param example: what the message gives as one
    :raises ValueError: if it is empty or not a path
    """
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise ValueError(f"{argument} must be a path, got {shown(path)} (for example, {example!r})")
    return Path(path).expanduser()


def plain(value: Any) -> Any:
    """A scalar of numpy or torch as Python's own value; anything else as it is."""
    if isinstance(value, torch.Tensor):
        readable = value.dim() == 0 and not value.is_meta and not value.is_complex()
        return value.detach().item() if readable else value
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        value = value.item()
    if type(value) in (bool, int, float, str, type(None)):
        return value
    if isinstance(value, torch.device):
        return str(value)
    if isinstance(value, str):
        return str.__str__(value)  # of an enumeration its text, and not its name
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    return value


def shown(value: Any) -> str:
    """A value as a message of one line shows it."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        return f"{type(value).__name__} of shape {tuple(shape)}"
    if not isinstance(value, bool | int | float | str | bytes | list | tuple | dict | set | None | np.generic):
        return value.__name__ if isinstance(value, type) else type(value).__name__
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


_REFUSED = object()
_EXAMPLES: dict[Any, Any] = {bool: True, int: 10, float: 0.1}


def _converted(name: str, value: Any, declared: Any, default: Any) -> Any:
    """The value as declared, or one line that says what the option must be."""
    if declared is None:
        return value
    found = _as_declared(value, declared)
    if found is _REFUSED:
        example = _example(declared, value, default)
        remedy = "" if example is None else f" (for example, {example!r})"
        *others, last = _described(declared)
        wanted = f"{', '.join(others)} or {last}" if others else last
        raise ValueError(f"{name} must be {wanted}, got {shown(plain(value))}{remedy}")
    return found


def _as_declared(value: Any, declared: Any) -> Any:
    origin, arguments = get_origin(declared), get_args(declared)
    if origin is Annotated:
        number = plain(value)
        infinite = MAY_BE_INFINITE in arguments[1:] and type(number) is float and math.isinf(number)
        return number if infinite else _as_declared(value, arguments[0])
    if origin in (Union, types.UnionType):
        found = (_as_declared(value, one) for one in arguments)
        return next((one for one in found if one is not _REFUSED), _REFUSED)
    if origin in (tuple, Sequence):
        return _as_tuple(value, arguments[0])
    value = plain(value)
    if origin is Literal:
        return next((one for one in arguments if type(one) is type(value) and one == value), _REFUSED)
    if declared is float:
        return value if type(value) in (int, float) and _is_finite(value) else _REFUSED
    return value if type(value) is declared else _REFUSED


def _as_tuple(values: Any, declared: Any) -> Any:
    if isinstance(values, torch.Tensor | np.ndarray):
        values = values.tolist() if values.ndim == 1 else None
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        return _REFUSED
    found = tuple(_as_declared(one, declared) for one in values)
    if any(one is _REFUSED for one in found):
        return _REFUSED
    same = type(values) is tuple and all(one is other for one, other in zip(values, found, strict=True))
    return values if same else found


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False


def _is_ours(declared: Any) -> bool:
    """Whether the declared type is made of those that are converted."""
    origin, arguments = get_origin(declared), get_args(declared)
    if origin is Annotated:
        return _is_ours(arguments[0])
    if origin in (Union, types.UnionType):
        return all(map(_is_ours, arguments))
    if origin is tuple:
        return len(arguments) == 2 and arguments[1] is Ellipsis and _is_ours(arguments[0])
    if origin is Sequence:
        return _is_ours(arguments[0])
    return origin is Literal or declared in (bool, int, float, str, type(None))


def _described(declared: Any) -> list[str]:
    origin, arguments = get_origin(declared), get_args(declared)
    if origin is Annotated:
        return ["a number"] if MAY_BE_INFINITE in arguments[1:] else _described(arguments[0])
    if origin in (Union, types.UnionType):
        return [text for one in arguments for text in _described(one)]
    if origin in (tuple, Sequence):
        several = {int: "integers", float: "finite numbers", str: "strings", bool: "booleans"}
        return [f"a tuple of {several.get(arguments[0], 'values')}"]
    if origin is Literal:
        return [f"one of {', '.join(map(str, arguments))}"]
    words = {int: "an integer", float: "a finite number", str: "a string", type(None): "None"}
    return ["True", "False"] if declared is bool else [words[declared]]


def _example(declared: Any, value: Any, default: Any = None) -> Any:
    """What an option of this type can look like: as its default, if that says something, or None."""
    origin, arguments = get_origin(declared), get_args(declared)
    if origin is Literal:  # all of them are named
        return None
    if default and _as_declared(default, declared) is not _REFUSED:
        return default
    if origin is Annotated:
        return _example(arguments[0], value)
    if origin in (Union, types.UnionType):
        return next((found for found in (_example(one, value) for one in arguments) if found is not None), None)
    if origin in (tuple, Sequence):
        one = _as_declared(value, arguments[0])
        one = _EXAMPLES.get(arguments[0]) if one is _REFUSED else one
        return None if one is None else (one,)
    return _EXAMPLES.get(declared)


@cache
def _signature(function: Callable[..., Any]) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Declared types and defaults by argument, and the arguments that can be given by their place."""
    parameters = inspect.signature(function).parameters.values()
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    space = getattr(inspect.unwrap(function), "__globals__", {})
    annotations = {one.name: one.annotation for one in parameters if one.kind not in several}
    defaults = {one.name: one.default for one in parameters}
    return _evaluated(annotations, space), defaults, [one.name for one in parameters if one.kind in by_place]


@cache
def _fields(config_class: type) -> dict[str, Any]:
    """Declared type of each field, those of base classes included."""
    found: dict[str, Any] = {}
    for one in reversed(config_class.__mro__):
        space = vars(sys.modules[one.__module__]) if one.__module__ in sys.modules else {}
        found |= _evaluated(inspect.get_annotations(one), space)
    return found


def _evaluated(annotations: dict[str, Any], space: dict[str, Any]) -> dict[str, Any]:
    """The annotations that are types of ours; one that names what is not there at run time is not one."""
    found = {}
    for name, annotation in annotations.items():
        try:
            declared = eval(annotation, space) if isinstance(annotation, str) else annotation  # noqa: S307
        except (AttributeError, NameError):
            continue
        if _is_ours(declared):
            found[name] = declared
    return found
