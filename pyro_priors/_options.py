"""Conversion of options to their declared types. A value that does not fit gives a one-line error."""

from __future__ import annotations

import dataclasses
import inspect
import math
import os
import sys
import types
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from contextlib import suppress
from functools import cache, wraps
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

import numpy as np
import torch

from .errors import UserError, hint

__all__ = [
    "MAY_BE_INFINITE",
    "REFUSED",
    "Seed",
    "Size",
    "as_declared",
    "checked",
    "convert_fields",
    "path_of",
    "plain",
    "refusal",
    "shown",
    "typed",
]

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)

MAY_BE_INFINITE = "may be infinite"
"""Declare a number that may be infinite: ``Annotated[float, MAY_BE_INFINITE]``."""

SIZE, SEED = "at least 1", "a seed"
Size = Annotated[int, SIZE]
"""A positive integer."""

Seed = Annotated[int, SEED]
"""An integer that torch's generators accept as a seed."""


def typed(function: Callable[P, R]) -> Callable[P, R]:
    """Convert the arguments of a function or constructor to the types that its signature declares.

    The supported types are ``int``, ``float``, ``bool``, ``str``, :data:`Size`, :data:`Seed`, ``Literal``, tuples and
    sequences of these, and optional ``None``. NumPy scalars and zero-dimensional tensors and arrays become Python
    values. An integer is accepted as a float; a bool is not accepted as an integer. Tensors, devices, mappings,
    sequences of other types and classes that are :func:`checked` are passed on unchanged, like arguments of other
    declared types.

    :raises ValueError: when the function is called, if an argument has an unknown name or the wrong type, is NaN, is
        infinite without being declared :data:`MAY_BE_INFINITE`, or is an integer of more than 64 bits
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        declared, defaults, positional, named = _signature(function)
        if named is not None and (unknown := kwargs.keys() - named):
            word = sorted(unknown)[0]
            raise UserError(f"{function.__name__} has no argument '{word}': {hint(word, named)}")
        given: list[Any] = [
            _converted(name, value, declared.get(name), defaults.get(name))
            for name, value in zip(positional, args, strict=False)
        ]
        given += args[len(given) :]
        converted: Any = {
            name: _converted(name, value, declared.get(name), defaults.get(name)) for name, value in kwargs.items()
        }
        return function(*given, **converted)

    return call


def checked(what: str, example: str) -> Callable[[C], C]:
    """Decorate a class so that functions that are :func:`typed` check the arguments declared with it.

    A module that ``torch.compile`` has wrapped counts as the module inside.

    :param what: what an argument must be, for the message
    :param example: an expression that makes one, for the message
    """

    def add(value: C) -> C:
        _CLASSES[value] = what, example
        return value

    return add


_CLASSES: dict[Any, tuple[str, str]] = {}


def convert_fields(config: Any) -> None:
    """Convert the fields of a frozen dataclass to their declared types, as :func:`typed` converts arguments.

    :param config: the instance; call this in its ``__post_init__``
    :raises ValueError: if a field has the wrong type
    """
    config_class: Any = type(config)
    declared = _fields(config_class)
    for field in dataclasses.fields(config):
        given = getattr(config, field.name)
        value = _converted(field.name, given, declared.get(field.name), field.default)
        if value is not given:
            object.__setattr__(config, field.name, value)


def path_of(argument: str, path: str | os.PathLike[str], example: str = "runs/vae") -> Path:
    """Return a path with ``~`` expanded.

    :param argument: name of the argument, for the message
    :param example: an example path, for the message
    :raises ValueError: if the path is empty, not a path, invalid on this system, or names the home of an unknown user
    """
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise UserError(f"{argument} must be a path, got {shown(path)} (for example, {example!r})")
    try:
        found = Path(path).expanduser()
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            os.lstat(found)
    except (RuntimeError, OSError, ValueError) as error:  # an unknown user, a name that is too long, a null byte
        why = (getattr(error, "strerror", None) or str(error)).lower()
        raise UserError(f"{argument} is not a valid path here ({why}), got {shown(path)}: give another") from None
    return found


def plain(value: Any) -> Any:
    """Return a NumPy or torch scalar as a Python value; anything else is returned unchanged."""
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
    """Return a value as a one-line message shows it."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        return f"{type(value).__name__} of shape {tuple(shape)}"
    if not isinstance(value, bool | int | float | str | bytes | list | tuple | dict | set | None | np.generic):
        return value.__name__ if isinstance(value, type) else type(value).__name__
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python writes no integer of more than 4300 digits
        return f"an integer of {value.bit_length()} bits" if isinstance(value, int) else type(value).__name__
    return text if len(text) <= 80 else f"{text[:77]}..."


REFUSED = object()
"""Marker for a value that does not have the declared type."""

_EXAMPLES: dict[Any, Any] = {bool: True, int: 10, float: 0.1, torch.device: "cpu"}


def _converted(name: str, value: Any, declared: Any, default: Any) -> Any:
    """Return the value as declared, or raise a one-line error that says what the option must be."""
    if declared is None:
        return value
    found = as_declared(value, declared)
    if found is REFUSED:
        raise UserError(refusal(name, value, declared, default))
    return found


def refusal(name: str, value: Any, declared: Any, default: Any = None) -> str:
    """Return a message that says what an option must be."""
    example = _example(declared, value, default)
    remedy = "" if example is None else f" (for example, {example!r})"
    for one in reversed((declared, *get_args(declared))):
        if one is torch.Tensor:
            remedy = f": give torch.as_tensor({name})"
        if _is_class(one):
            remedy = f": give {_CLASSES[one][1]}"
    *others, last = _described(declared)
    wanted = f"{', '.join(others)} or {last}" if others else last
    value = plain(value)
    if type(value) is int and not -(2**63) <= value < 2**63 and "integer" in wanted:
        wanted += " of at most 64 bits"
    got = type(value).__name__ if any(map(_is_class, (declared, *get_args(declared)))) else shown(value)
    return f"{name} must be {wanted}, got {got}{remedy}"


def as_declared(value: Any, declared: Any) -> Any:
    """Return the value as the declared type, or :data:`REFUSED`."""
    origin, arguments = get_origin(declared), get_args(declared)
    if origin is Annotated and arguments[1] in (SIZE, SEED):
        number = as_declared(value, arguments[0])
        return number if number is not REFUSED and number >= (arguments[1] == SIZE) else REFUSED
    if origin is Annotated:
        number = plain(value)
        infinite = MAY_BE_INFINITE in arguments[1:] and type(number) is float and math.isinf(number)
        return number if infinite else as_declared(value, arguments[0])
    if origin in (Union, types.UnionType) and torch.device in arguments:  # next to which a string is the name of one
        return value if value is None and type(None) in arguments else as_declared(value, torch.device)
    if origin in (Union, types.UnionType):
        found = (as_declared(value, one) for one in arguments)
        return next((one for one in found if one is not REFUSED), REFUSED)
    if origin in (tuple, Sequence):
        return _as_tuple(value, arguments[0])
    if origin in (dict, Mapping):
        return value if isinstance(value, Mapping) else REFUSED
    if declared is torch.device:
        return value if _is_device(value) else REFUSED
    if declared is torch.Tensor:  # arrays, and data that are kept as bytes, are for the function to tell
        return value if hasattr(value, "shape") else REFUSED
    if _is_class(declared):
        return value if isinstance(getattr(value, "_orig_mod", value), declared) else REFUSED
    value = plain(value)
    if origin is Literal:
        return next((one for one in arguments if type(one) is type(value) and one == value), REFUSED)
    if declared is float:
        return value if type(value) in (int, float) and _is_finite(value) else REFUSED
    if declared is int and type(value) is int and not -(2**63) <= value < 2**63:  # torch and numpy hold no other
        return REFUSED
    return value if type(value) is declared else REFUSED


def _is_device(value: Any) -> bool:
    try:
        torch.device(value)
    except (RuntimeError, TypeError):
        return False
    return True


def _as_tuple(values: Any, declared: Any) -> Any:
    if not _is_ours(declared):
        several = isinstance(values, Collection) and not isinstance(values, str | bytes | Mapping | Set)
        return values if several else REFUSED
    if isinstance(values, torch.Tensor | np.ndarray):
        values = values.tolist() if values.ndim == 1 else None
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        return REFUSED
    found = tuple(as_declared(one, declared) for one in values)
    if any(one is REFUSED for one in found):
        return REFUSED
    same = type(values) is tuple and all(one is other for one, other in zip(values, found, strict=True))
    return values if same else found


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False


def _is_class(declared: Any) -> bool:
    return isinstance(declared, type) and declared in _CLASSES


def _is_ours(declared: Any) -> bool:
    """Return whether the declared type consists of types that are converted."""
    origin, arguments = get_origin(declared), get_args(declared)
    if origin is Annotated:
        return _is_ours(arguments[0])
    if torch.device in arguments:
        return True
    if origin in (Union, types.UnionType):
        return all(map(_is_ours, arguments))
    if origin is tuple:
        return len(arguments) == 2 and arguments[1] is Ellipsis and _is_ours(arguments[0])
    if origin in (Sequence, Mapping, dict, Literal) or _is_class(declared):
        return True
    return declared in (bool, int, float, str, type(None), torch.Tensor, torch.device)


def _described(declared: Any) -> list[str]:
    origin, arguments = get_origin(declared), get_args(declared)
    if origin is Annotated and arguments[1] in (SIZE, SEED):
        return ["a positive integer" if arguments[1] == SIZE else "an integer from 0 to 2**63 - 1"]
    if origin is Annotated:
        return ["a number"] if MAY_BE_INFINITE in arguments[1:] else _described(arguments[0])
    if declared is torch.device or torch.device in arguments:
        return ["a torch device"]
    if origin in (Union, types.UnionType):
        return [text for one in arguments for text in _described(one)]
    if origin in (tuple, Sequence):
        several = {int: "integers", float: "finite numbers", str: "strings", bool: "booleans"}
        return [f"a {'tuple' if arguments[0] in several else 'sequence'} of {several.get(arguments[0], 'values')}"]
    if origin is Literal:
        return [f"one of {', '.join(map(str, arguments))}"]
    if _is_class(declared):
        return [_CLASSES[declared][0]]
    if origin in (dict, Mapping):
        return ["a mapping"]
    words = {torch.Tensor: "a tensor", int: "an integer", float: "a finite number", str: "a string", type(None): "None"}
    return ["True", "False"] if declared is bool else [words[declared]]


def _example(declared: Any, value: Any, default: Any = None) -> Any:
    """Return an example value of this type: the default if it is informative; None if there is no example."""
    origin, arguments = get_origin(declared), get_args(declared)
    if origin is Literal:  # all of them are named
        return None
    if default and as_declared(default, declared) is not REFUSED:
        return default
    if origin is Annotated:
        return _example(arguments[0], value)
    if origin in (Union, types.UnionType):
        return next((found for found in (_example(one, value) for one in arguments) if found is not None), None)
    if origin in (tuple, Sequence):
        one = as_declared(value, arguments[0])
        one = _EXAMPLES.get(arguments[0]) if one is REFUSED else one
        return None if one is None else (one,)
    return _EXAMPLES.get(declared)


@cache
def _signature(function: Callable[..., Any]) -> tuple[dict[str, Any], dict[str, Any], list[str], list[str] | None]:
    """Return declared types and defaults by argument, then the positional arguments and the keyword arguments.

    The last is None if the function takes arbitrary keyword arguments.
    """
    parameters = inspect.signature(function).parameters.values()
    of_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    space = getattr(inspect.unwrap(function), "__globals__", {})
    annotations = {one.name: one.annotation for one in parameters if one.kind not in several}
    defaults = {one.name: one.default for one in parameters}
    named = None
    if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters):
        named = [one.name for one in parameters if one.kind is not one.POSITIONAL_ONLY and one.name != "self"]
    by_place = [one.name for one in parameters if one.kind in of_place]
    return _evaluated(annotations, space), defaults, by_place, named


@cache
def _fields(config_class: type) -> dict[str, Any]:
    """Return the declared type of each field, including those of base classes."""
    found: dict[str, Any] = {}
    for one in reversed(config_class.__mro__):
        space = vars(sys.modules[one.__module__]) if one.__module__ in sys.modules else {}
        found |= _evaluated(inspect.get_annotations(one), space)
    return found


def _evaluated(annotations: dict[str, Any], space: dict[str, Any]) -> dict[str, Any]:
    """Return the annotations that are supported types; names that do not exist at run time are skipped."""
    found = {}
    for name, annotation in annotations.items():
        try:
            declared = eval(annotation, space) if isinstance(annotation, str) else annotation  # noqa: S307
        except (AttributeError, NameError):
            continue
        if _is_ours(declared):
            found[name] = declared
    return found
