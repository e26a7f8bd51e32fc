"""The JSON files of a run folder: what each may hold, and the checksum that it carries.

Each file has one dataclass, whose annotations are its schema: types, ranges, lengths and characters. A field without a
default must be present. :func:`read` returns the record as a dict that contains only the fields in the file. A caller
can thus distinguish an option that is newer than the run from an option at its default.

Unknown keys are kept at the top level of a record, because another version may have written them. In nested records
they are refused. Files are bounded in size and depth, and strings must not contain control characters.

``config.json``, ``evaluation.json``, ``start.json`` and each line of ``metrics.jsonl`` carry a checksum of the rest
(:func:`seal`). The checksums in ``pair.json`` and ``state.json`` cover the record and its tensors. A checksum detects
accidents: a flipped bit, a truncated line, an edit by hand. It is not a signature, because whoever writes a file can
compute its checksum.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from ._files import CheckpointError
from ._options import MAY_BE_INFINITE, shown
from ._reading import RESTORE, read_file

__all__ = [
    "Config",
    "Epoch",
    "Evaluation",
    "Pictures",
    "SavedPair",
    "Start",
    "State",
    "Tensors",
    "WrongRecord",
    "parse",
    "read",
    "seal",
]

LARGEST_FILE = 4 * 2**20
"""Maximum size of a file with one record, in bytes."""
LARGEST_LINE = 2**16
"""Maximum size of a line of ``metrics.jsonl``, in bytes."""
LARGEST_HISTORY = 2**28
"""Maximum size of ``metrics.jsonl``, in bytes."""
DEEPEST = 32
"""Maximum nesting depth of lists and objects."""
DIGITS_OF_A_LINE = 16
"""Hexadecimal digits in the checksum of a line; the checksum of a file has all 64."""


class WrongRecord(ValueError):
    """The content of a file violates its schema. The message is worded for the parentheses of another message."""


@dataclass(frozen=True)
class Between:
    """The range of a number."""

    least: float
    most: float = math.inf


@dataclass(frozen=True)
class Like:
    """The form of a string.

    :param pattern: regular expression that the whole string must match; None for no constraint
    :param what: the pattern in words, for messages
    :param most: maximum number of characters
    """

    pattern: str | None
    what: str
    most: int = 4096


@dataclass(frozen=True)
class OptionsOf:
    """A dict whose values must have the types of the fields of the same names in a dataclass.

    :param module: the module of this package that defines the dataclass
    :param name: the name of the dataclass, which is imported when it is first needed
    """

    module: str
    name: str


ANY_NUMBER = "may be infinite or NaN"
"""Declare a computed number, which may be infinite or NaN."""

# fields

Count = Annotated[int, Between(0, 2**63 - 1)]
Number = Annotated[float, ANY_NUMBER]
Digest = Annotated[str, Like("[0-9a-f]{64}", "a checksum of 64 hexadecimal digits")]
Name = Annotated[str, Like(r"[\w.+-]{1,200}", "a name of letters, digits and . _ + -")]
Message = Annotated[str, Like(None, "a string", 100_000)]


@dataclass(frozen=True)
class _Recipe:
    """A pair of the zoo: its name and options."""

    name: Name
    config: dict[str, Any]
    own_networks: tuple[Literal["encoder", "decoder", "prior", "prior_z1", "likelihood"], ...]


@dataclass(frozen=True)
class _Data:
    """The data of a run: how they were loaded, or the digests of in-memory arrays."""

    name: str
    config: Annotated[dict[str, Any] | None, OptionsOf("data", "DataConfig")]
    sha256: Digest = ""
    arrays: dict[Literal["train", "valid", "test"], Digest] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class _Objective:
    name: Name
    config: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class _Estimate:
    value: Number
    stderr: Number | None
    unit: str


@dataclass(frozen=True)
class Progress:
    """The progress of a training. :mod:`pyro_priors._resume` compares it with the training that resumes."""

    epoch: Count
    step: Count
    step_in_epoch: Count
    best_bound: Annotated[float, MAY_BE_INFINITE]
    best_epoch: Annotated[int, Between(-1, 2**63 - 1)]
    wait: Count
    stopped: Literal["", "patience"] = ""
    diverged: Message = ""
    compile: bool | None = None
    sums: dict[str, Number] = dataclasses.field(default_factory=dict)
    count: Count = 0
    largest_norm: Annotated[float, Between(0)] = 0.0


# files


@dataclass(frozen=True)
class Config:
    """``config.json``: the options of a run."""

    pair: _Recipe | None
    data: _Data | None
    objective: _Objective
    train: Annotated[dict[str, Any], OptionsOf("training.config", "TrainConfig")]
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    command: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """``evaluation.json``: estimates, what they estimate, and how they were computed."""

    part: Literal["train", "valid", "test"]
    seed: Count
    metrics: dict[str, _Estimate]
    data: str = ""
    asked: tuple[str, ...] = ()
    num_samples: Count = 0
    num_data: Count | None = None
    categories: Literal["sum", "draw"] | None = None
    features: Name | None = None
    weights: Digest | None = None
    epochs: Count | None = None
    aggregate_c: tuple[Annotated[float, Between(0, 1.001)], ...] = ()
    true_log_likelihood: float = 0.0


@dataclass(frozen=True)
class Epoch:
    """A line of ``metrics.jsonl``. Further terms of the loss and the bound are numbers, finite or not."""

    epoch: Count
    step: Count
    learning_rate: Annotated[float, Between(0)]
    seconds: Annotated[float, Between(0)]
    valid_bound: float
    kl_weight: float | dict[str, float] = 1.0
    train_loss: float = 0.0
    train_largest_gradient_norm: Annotated[float, Between(0)] = 0.0


@dataclass(frozen=True)
class Start:
    """``start.json``: what the training of an experiment's row started from."""

    how: str
    options: dict[str, Any]
    learned: str
    weights: Digest | None


@dataclass(frozen=True)
class Tensors:
    """A record that names a separate file of tensors."""

    format: Literal[1]
    tensors: Annotated[str, Like(r"[\w.+-]+\.safetensors", "the name of a .safetensors file in the same folder", 255)]
    sha256: Digest


@dataclass(frozen=True)
class SavedPair(Tensors):
    """``pair.json``: a pair."""

    pair: _Recipe | None
    replaced: bool = False


@dataclass(frozen=True)
class State(Tensors):
    """``state.json``: the state from which a training resumes."""

    progress: Progress
    param_groups: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class KeptRun:
    """A line of ``runs.jsonl``: what is kept of a run of an experiment without its weights."""

    name: Name
    config: Config
    epochs: Count
    seconds_per_epoch: Annotated[float, Between(0)] | None
    evaluation: Evaluation | None
    curve: dict[str, tuple[Number, ...]]
    start: Start | None = None


@dataclass(frozen=True)
class _RowPictures:
    """The pictures of one row in a PNG."""

    row: Name
    weights: Name
    labels: tuple[str, ...]
    num: Annotated[int, Between(1, 2**20)]
    size: tuple[Annotated[int, Between(1, 2**16)], ...]


@dataclass(frozen=True)
class Pictures:
    """The text stored inside the PNG with the pictures of a figure, which describes its images."""

    rows: tuple[_RowPictures, ...]


# reading and writing


def digest_of(record: Mapping[str, Any]) -> str:
    """Return the SHA-256 of all of a record except ``sha256``, in hexadecimal digits."""
    rest = {key: value for key, value in record.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def seal(record: Mapping[str, Any], digits: int = 64) -> dict[str, Any]:
    """Return a record with its checksum added as ``sha256``. The checksum detects accidents; it is not a signature.

    :param record: values that JSON can represent; they are returned as JSON reads them back, with lists for tuples
    :param digits: number of hexadecimal digits of the checksum
    """
    record = json.loads(json.dumps(record))
    return {**record, "sha256": digest_of(record)[:digits]}


def read(path: Path, schema: type, within: Path, sealed: bool = True) -> dict[str, Any]:
    """Return the record in a file.

    :param path: the file
    :param schema: a dataclass of this module
    :param within: folder that contains the file; a link that leads out of it is refused
    :param sealed: whether the file carries the checksum of :func:`seal`, which is verified and removed from the result
    :raises FileNotFoundError: if there is no such file
    :raises CheckpointError: if the file cannot be read, or violates the schema
    """
    content = read_file(path, within, LARGEST_FILE)
    try:
        return parse(content, schema, 64 if sealed else 0)
    except WrongRecord as error:
        raise CheckpointError(f"{path} cannot be read ({error}): it is truncated or altered", RESTORE) from None


def parse(content: bytes, schema: type, digits: int = 64) -> dict[str, Any]:
    """Return the record in some content, without its checksum.

    :param content: JSON in UTF-8
    :param schema: a dataclass of this module
    :param digits: number of hexadecimal digits of the checksum; 0 for a record that :func:`seal` did not make
    :raises WrongRecord: if the content violates the schema
    """
    if _depth(content) > DEEPEST:
        raise WrongRecord(f"its brackets are nested more than {DEEPEST} levels deep")
    try:
        record = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise WrongRecord(str(error)) from None
    _check(record, schema, "", top=True)
    if digits:
        if not isinstance(found := record.get("sha256"), str) or not re.fullmatch(f"[0-9a-f]{{{digits}}}", found):
            raise WrongRecord(f"sha256 must be a checksum of {digits} hexadecimal digits, got {shown(found)}")
        if digest_of(record)[:digits] != found:
            raise WrongRecord("its content does not match its checksum")
        del record["sha256"]
    return record


_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+\\?(?:"|\Z)', re.DOTALL)
"""A JSON string, or an unfinished one at the end."""
_OTHERS = bytes(set(range(256)) - set(b"[{]}"))


def _depth(text: bytes) -> int:
    """Return how deeply brackets are nested. ``json.loads`` would recurse as deeply before it fails."""
    depth = deepest = 0
    for mark in _STRING.sub(b"", text).translate(None, _OTHERS):
        depth += 1 if mark in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _check(value: Any, declared: Any, place: str, top: bool = False) -> None:
    """Compare a value with a declared type and its constraints.

    :param place: where the value is, such as ``pair.config``; empty for the whole file
    :param top: allow keys that are not fields of the dataclass
    :raises WrongRecord: if the value does not fit
    """
    if declared is Any:
        return _check_anything(value, place)
    if declared is float or declared is int or declared is str or declared is bool:
        if type(value) not in _kinds(declared) or (declared is float and not _is_finite(value)):
            raise _wrong(place, declared, value)
        return _check_text(value, place, _TEXT) if declared is str else None
    if isinstance(declared, type) and dataclasses.is_dataclass(declared):
        return _check_fields(value, declared, place, top)
    origin, arguments = get_origin(declared), get_args(declared)
    if origin is Annotated:
        _check_annotated(value, arguments[0], arguments[1:], place)
    elif origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return
        others = [one for one in arguments if one is not type(None)]
        fits = [one for one in others if type(value) in _kinds(one)]
        if not fits:
            raise _wrong(place, declared, value)
        _check(value, fits[0], place)
    elif origin is Literal:
        if not any(type(one) is type(value) and one == value for one in arguments):
            raise _wrong(place, declared, value)
    elif origin in (tuple, dict):
        if type(value) not in _kinds(declared):
            raise _wrong(place, declared, value)
        if origin is tuple:
            for index, one in enumerate(value):
                _check(one, arguments[0], f"{place}[{index}]")
        else:
            for key, one in value.items():
                _check(key, arguments[0], f"a key of {place}")
                _check(one, arguments[1], f"{place}.{key}" if place else key)
    return None


def _check_fields(value: Any, schema: type, place: str, top: bool) -> None:
    if not isinstance(value, dict):
        raise _wrong(place, schema, value)
    declared, required = _hints(schema), _required(schema)
    for key, one in value.items():
        if key in declared:
            _check(one, declared[key], f"{place}.{key}" if place else key)
    if missing := required - value.keys():
        name = min(missing)
        raise WrongRecord(f"{f'{place}.{name}' if place else name} is missing")
    for key in value.keys() - declared.keys():
        _check_text(key, f"a key of {place or 'the record'}", _KEY)
        if not top:
            raise WrongRecord(f"{place} has an unknown key {key!r}")
        _check_anything(value[key], key)


def _check_annotated(value: Any, declared: Any, constraints: tuple[Any, ...], place: str) -> None:
    for constraint in constraints:
        if constraint in (ANY_NUMBER, MAY_BE_INFINITE):
            if type(value) is float and (constraint == ANY_NUMBER or not math.isnan(value)):
                return
            if type(value) is int and _is_finite(value):
                return
            raise _wrong(place, float, value, "a number")
        if isinstance(constraint, Like):
            if not isinstance(value, str):
                raise _wrong(place, declared, value, constraint.what)
            _check_text(value, place, constraint)
            return
        if isinstance(constraint, OptionsOf):
            _check(value, declared, place)
            for name, one in _types_of(constraint.module, constraint.name).items():
                if value is not None and name in value:
                    _check(value[name], one, f"{place}.{name}")
            return
    _check(value, declared, place)
    for constraint in constraints:
        if isinstance(constraint, Between) and not constraint.least <= value <= constraint.most:
            most = "" if math.isinf(constraint.most) else f" and at most {constraint.most}"
            raise WrongRecord(f"{place} must be at least {constraint.least}{most}, got {shown(value)}")


def _check_anything(value: Any, place: str) -> None:
    """Check that no string in an option of any type contains control characters."""
    if isinstance(value, str):
        _check_text(value, place, _TEXT)
    elif isinstance(value, dict):
        for key, one in value.items():
            _check_text(key, f"a key of {place}", _KEY)
            _check_anything(one, f"{place}.{key}")
    elif isinstance(value, list):
        for index, one in enumerate(value):
            _check_anything(one, f"{place}[{index}]")


def _check_text(value: str, place: str, like: Like) -> None:
    if len(value) > like.most:
        raise WrongRecord(f"{place} must have at most {like.most} characters, got {len(value)}")
    if like.pattern is not None and not re.fullmatch(like.pattern, value):
        raise WrongRecord(f"{place} must be {like.what}, got {shown(value)}")
    if like is not _MESSAGE and _CONTROL.search(value):
        raise WrongRecord(f"{place} must be a string without control characters, got {shown(value)}")


_TEXT, _KEY = Like(None, "a string"), Like(None, "a string", 200)
_MESSAGE = get_args(Message)[1]
"""The constraint of texts that are printed with their whitespace folded."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@cache
def _hints(schema: type) -> dict[str, Any]:
    return get_type_hints(schema, include_extras=True)


@cache
def _required(schema: type) -> frozenset[str]:
    missing = dataclasses.MISSING
    fields = dataclasses.fields(schema)
    return frozenset(field.name for field in fields if field.default is missing and field.default_factory is missing)


@cache
def _types_of(module: str, name: str) -> dict[str, Any]:
    from importlib import import_module

    return _hints(getattr(import_module(f"{__package__}.{module}"), name))


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False


_WORDS = {
    int: "an integer",
    float: "a finite number",
    str: "a string",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    type(None): "null",
}


@cache
def _kinds(declared: Any) -> tuple[type, ...]:
    """Return the Python types of the JSON values that represent a declared type."""
    origin, arguments = get_origin(declared), get_args(declared)
    if dataclasses.is_dataclass(declared) or origin is dict:
        return (dict,)
    if origin is tuple:
        return (list,)
    if origin is Annotated:
        return _kinds(arguments[0])
    if origin is Literal:
        return tuple({type(one) for one in arguments})
    if origin in (Union, types.UnionType):
        return tuple(kind for one in arguments for kind in _kinds(one))
    return (int, float) if declared is float else (declared,)


def _wrong(place: str, declared: Any, value: Any, what: str = "") -> WrongRecord:
    if not what and get_origin(declared) is Literal:
        what = f"one of {', '.join(map(repr, get_args(declared)))}"
    if not what:
        kinds = [kind for kind in _kinds(declared) if kind is not int or float not in _kinds(declared)]
        what = " or ".join(dict.fromkeys(_WORDS.get(kind, kind.__name__) for kind in kinds))
    return WrongRecord(f"{place or 'it'} must be {what}, got {shown(value)}")
