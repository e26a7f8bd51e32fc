"""Checks of the command-line arguments before tyro converts them.

An option that is misspelled, missing, given twice or of the wrong type gives a one-line error with its name and value.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Collection, Iterator, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import tyro

from .._options import REFUSED, as_declared, refusal
from ..errors import UserError, hint

__all__ = ["check_arguments", "check_once", "integer", "merged"]


def integer(text: str) -> int | None:
    """Return the integer that a string represents in the digits 0 to 9, or None."""
    return int(text) if re.fullmatch(r"[+-]?[0-9]{1,4000}(_[0-9]{1,9})*", text) else None


def groups(arguments: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the name of each option with its tokens up to the next option; the first name is ``""``.

    Names are normalized: ``--train.no-tensorboard`` and ``--train.tensorboard`` have the same name.
    """
    name = ""
    tokens: list[str] = []
    for argument in arguments:
        if argument.startswith("--"):
            yield name, tokens
            given = argument[2:].split("=", 1)[0].replace("_", "-")
            before, dot, last = given.rpartition(".")
            name, tokens = f"{before}{dot}{last.removeprefix('no-')}", [argument]
        else:
            tokens.append(argument)
    yield name, tokens


def check_once(arguments: Sequence[str], may_repeat: Collection[str] = ()) -> None:
    """Refuse options that are given twice, and arguments with control characters.

    :param arguments: the command-line arguments
    :param may_repeat: names of options that may be repeated
    :raises ValueError: if an argument is refused; for a repeated option the message has both values
    """
    seen: dict[str, str] = {}
    for name, tokens in groups(arguments):
        given = " ".join(tokens)
        if control := re.search(r"[\x00-\x1f\x7f-\x9f]", given):
            what = f"--{name}" if name else "the argument"
            raise UserError(f"{what} contains the control character {control[0]!r} in {given!r}: leave it out")
        if name in seen and name not in may_repeat:
            raise UserError(f"--{name} is given twice, as {seen[name]} and {given}: give it once")
        if name:
            seen[name] = given


def merged(old: Sequence[str], new: Sequence[str]) -> list[str]:
    """Return arguments with some of their options replaced.

    :param old: all arguments; of an option that is repeated in them, only the last one is kept
    :param new: options that replace those of the same names in ``old``
    """
    found = dict(groups(old)) | {name: tokens for name, tokens in groups(new) if name}
    return [token for tokens in found.values() for token in tokens]


@dataclasses.dataclass(frozen=True)
class _Option:
    declared: Any
    default: Any = inspect.Parameter.empty
    repeats: bool = False

    @property
    def is_flag(self) -> bool:
        return _bare(self.declared) is bool

    @property
    def takes_several(self) -> bool:
        return get_origin(_bare(self.declared)) is tuple


def check_arguments(options: type, arguments: Sequence[str], command: str) -> None:
    """Refuse unknown options, and options without a value, with two values, or with a value of the wrong type.

    :param options: the dataclass into which tyro parses the arguments
    :param arguments: the command-line arguments without the command
    :param command: the words before the arguments
    :raises ValueError: with the option, the value and the possible values
    """
    known: dict[str, _Option] = {}
    positional: dict[str, _Option] = {}
    _collect(options, "", known, positional)
    see = f"see pyro-priors {command} --help"
    check_once(arguments, [name for name, option in known.items() if option.repeats])
    surplus: list[str] = []
    for name, tokens in groups(arguments):
        if not name:
            surplus += tokens
            continue
        given, equals, value = tokens[0].partition("=")
        values = [value, *tokens[1:]] if equals else tokens[1:]
        option = known.get(name)
        if option is None or (given.rpartition(".")[2].removeprefix("--").startswith("no-") and not option.is_flag):
            near = hint(f"--{name}", [f"--{one}" for one in known])
            raise UserError(f"{command} has no option {given}: {near if near.startswith('did') else see}")
        if option.is_flag:
            if equals:
                raise UserError(f"{given} takes no value, got {value!r}: give {given} or --{_negated(name)}")
            surplus += values
        elif option.takes_several:
            # sizes in a group may be empty, such as the hidden layers of a network
            if not values and ("." not in name or str in get_args(_bare(option.declared))):
                raise UserError(f"{given} needs at least one value: give one, or leave it out ({see})")
            for one in values:
                _check_value(given, one, option, several=True)
        else:
            if not values:
                raise UserError(f"{given} needs a value: give one, or leave it out ({see})")
            _check_value(given, values[0], option)
            surplus += values[1:]
    if len(surplus) > len(positional):
        raise UserError(f"{command} cannot use the argument {surplus[len(positional)]!r}: leave it out ({see})")
    if missing := [name for name in [*positional][len(surplus) :] if positional[name].default is _EMPTY]:
        raise UserError(f"{command} needs {missing[0].upper()}, got no argument: give it first ({see})")
    given_names = {name for name, _ in groups(arguments)}
    if missing := [name for name, one in known.items() if one.default is _EMPTY and name not in given_names]:
        raise UserError(f"{command} needs --{missing[0]}: give it a value ({see})")


_EMPTY = inspect.Parameter.empty


def _check_value(name: str, text: str, option: _Option, several: bool = False) -> None:
    declared = _bare(option.declared, keep=True)
    if several:
        declared = get_args(_bare(declared))[0]
    if not text.strip() and (declared is str or str in get_args(declared)):
        raise UserError(f"{name} needs a value, got {text!r}: give one, or leave it out")
    read = _read(text, declared)
    if read is REFUSED or as_declared(read, declared) is REFUSED:
        value = read if type(read) is int else text
        raise UserError(refusal(name, value, declared, None if several else option.default))


def _read(text: str, declared: Any) -> Any:
    """Return the value that a command-line string represents in the declared type, or :data:`REFUSED`."""
    origin, arguments = get_origin(declared), get_args(declared)
    if origin is Annotated:
        return _read(text, arguments[0])
    if origin in (Union, UnionType):
        if float in arguments and not text.isascii() and _is_float(text):  # other digits, which tyro reads as a number
            return REFUSED
        return next((read for one in arguments if (read := _read(text, one)) is not REFUSED), REFUSED)
    if declared is NoneType:
        return None if text == "None" else REFUSED
    if declared is bool:
        return {"True": True, "False": False}.get(text, REFUSED)
    if declared is int:
        number = integer(text)
        return REFUSED if number is None else number
    if declared is float:
        return float(text) if text.isascii() and _is_float(text) else REFUSED
    return text


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _bare(declared: Any, keep: bool = False) -> Any:
    """Return the type without tyro's annotations; with ``keep``, other annotations are kept."""
    while get_origin(declared) is Annotated:
        inner, *metadata = get_args(declared)
        if keep and all(isinstance(one, str) for one in metadata):
            return declared
        declared = inner
    return declared


def _collect(owner: type, prefix: str, known: dict[str, _Option], positional: dict[str, _Option]) -> None:
    """Collect the options of a dataclass, or of a class from the arguments of its constructor."""
    if dataclasses.is_dataclass(owner):
        declared = get_type_hints(owner, include_extras=True)
        defaults = {
            one.name: _EMPTY
            if one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING
            else one.default
            for one in dataclasses.fields(owner)
        }
    else:
        declared = get_type_hints(owner.__init__, include_extras=True)  # type: ignore[misc]
        defaults = {name: one.default for name, one in inspect.signature(owner).parameters.items()}
    for field, default in defaults.items():
        metadata = list(getattr(declared[field], "__metadata__", ()))
        name = next((one.name for one in metadata if getattr(one, "name", None)), field.replace("_", "-"))
        bare = _bare(declared[field])
        if tyro.conf.Suppress[int].__metadata__[0] in metadata:  # type: ignore[attr-defined]
            continue
        if isinstance(bare, type) and bare not in (bool, int, float, str) and get_origin(bare) is None:
            _collect(bare, f"{prefix}{name}.", known, positional)
        elif tyro.conf.Positional[int].__metadata__[0] in metadata:  # type: ignore[attr-defined]
            positional[name] = _Option(declared[field], default)
        else:
            repeats = tyro.conf.UseAppendAction[int].__metadata__[0] in metadata  # type: ignore[attr-defined]
            known[prefix + name] = _Option(declared[field], default, repeats)


def _negated(name: str) -> str:
    before, dot, last = name.rpartition(".")
    return f"{before}{dot}no-{last}"
