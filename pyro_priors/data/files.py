"""One's own data: arrays in memory, and ``.npz`` files of them."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from textwrap import shorten
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .._limits import PickledError, decoding, read_arrays
from .._options import Seed, shown, typed
from ..errors import MissingFileError, UserError
from ..nn import make_likelihood
from .checks import (
    AS_NUMBERS,
    CLASSES,
    check_attributes,
    check_known_labels,
    check_labels,
    check_num_labels,
    check_values,
    read_numbers,
)
from .levels import Levels
from .splits import Part, Splits
from .units import WHITE, gray_levels, strange_units

__all__ = ["from_arrays", "read_npz"]

Values = ArrayLike | Tensor
LONGEST_NAME = 200
PARTS = ("train", "valid", "test")
KINDS = ("x", "condition", "label", "attributes")
CLASSES_AS_LABELS = f"{AS_NUMBERS}, or give classes as labels, with condition_labels (--data.condition-labels)"
KEYS = [*(f"{kind}_{part}" for kind in KINDS for part in PARTS), "attribute_names"]


@typed
def from_arrays(
    x_train: Values,
    x_valid: Values | None = None,
    x_test: Values | None = None,
    *,
    condition_train: Values | None = None,
    condition_valid: Values | None = None,
    condition_test: Values | None = None,
    label_train: Values | None = None,
    label_valid: Values | None = None,
    label_test: Values | None = None,
    attributes_train: Values | None = None,
    attributes_valid: Values | None = None,
    attributes_test: Values | None = None,
    attribute_names: ArrayLike | None = None,
    name: str = "arrays",
    likelihood: str | None = None,
    seed: Seed = 0,
) -> Splits:
    """One's own arrays as a data set, copied and checked.

    A missing valid or test part is split off the training part, a tenth each, at random with ``seed``. Values
    of shape (N, channels, height, width) with 1 or 3 channels are taken for images; shapes stay as given.

    Integers from 0 to 255 in uint8, and whole numbers of any type whose largest is 255, are taken as gray levels k/255
    and kept as bytes (:class:`~pyro_priors.data.Levels`). A warning says so, and another one names values whose
    spread is far from 1, at which the networks and scales of the zoo start.

    :param x_train: numbers, shape ``(N,) + x_shape``; ``x_valid`` and ``x_test`` too
    :param condition_train: what x is generated given, shape ``(N,) + condition_shape``; or labels of a semi-supervised
        ``cp_vae``, integers of shape ``(N,)``, -1 where unknown; for all parts or none
    :param label_train: integers from 0, shape ``(N,)``, used only to report; for all parts or none. From a file the
        option ``condition_labels`` makes them the condition, one-hot; or, without labels, the attributes
    :param attributes_train: 0 or 1, shape ``(N, num_attributes)``, likewise
    :param attribute_names: what they are asked for by, as ``"Male=1"``; their numbers when left out
    :param likelihood: by default guessed: all values 0 or 1: ``"bernoulli"``; in [0, 1]:
        ``"continuous_bernoulli"``; else ``"gaussian"``. With ``"gaussian"``, only integers in uint8 are taken as gray
        levels
    :raises ValueError: if values, shapes or lengths are not as above, labels are text or identifiers, or arrays are
        sparse, masked or of other than real numbers
    """
    given = {
        "x": (x_train, x_valid, x_test),
        "condition": (condition_train, condition_valid, condition_test),
        "label": (label_train, label_valid, label_test),
        "attributes": (attributes_train, attributes_valid, attributes_test),
    }
    if not name.isprintable() or len(name) > LONGEST_NAME:
        raise UserError(
            f"name must be at most {LONGEST_NAME} printable characters, got {shown(name)}: give another, or rename the "
            "file"
        )
    told: list[str] = []
    given["x"], given["condition"] = (_with_levels(kind, given[kind], likelihood, told) for kind in KINDS[:2])
    parts: dict[str, Part] = {}
    for part_name, x, *rest in zip(PARTS, *given.values(), strict=True):
        if x is not None:
            parts[part_name] = _check_part(part_name, x, *rest)
        elif part_name == "train" or any(values is not None for values in rest):
            raise UserError(f"x_{part_name} is missing: give it, or leave out the {part_name} part altogether")
    for part_name, part in parts.items():
        _check_like_train(part_name, part, parts["train"])
    labels = {f"label_{name}": part.label for name, part in parts.items() if part.label is not None}
    num_labels = check_num_labels(labels) if labels else None

    source = "given parts" if len(parts) == 3 else _split_off(parts, seed)
    x_shape = parts["train"].x.shape[1:]
    condition = parts["train"].condition
    fits = _likelihood(parts, likelihood)
    if fits != "bernoulli":
        told += strange_units("x_train", parts["train"].x, may_be_gray=fits == "gaussian" and likelihood is None)
    if condition is not None and condition.shape[1:]:  # no labels
        told += strange_units("condition_train", condition)
    for line in told:
        warnings.warn(line, stacklevel=3)  # of the caller, beyond what converts the options
    return Splits(
        name=name,
        train=parts["train"],
        valid=parts["valid"],
        test=parts["test"],
        likelihood=fits,
        image_shape=_image_shape(x_shape),
        condition_image_shape=None if condition is None else _image_shape(condition.shape[1:]),
        num_labels=num_labels,
        attribute_names=_attribute_names(parts["train"].attributes, attribute_names),
        source=source,
    )


def _check_part(
    name: str, x: Values, condition: Values | None, label: Values | None, attributes: Values | None
) -> Part:
    values = x if isinstance(x, Levels) else check_values(f"x_{name}", x)
    rest: dict[str, Tensor] = {}
    are_labels = len(getattr(condition, "shape", ())) == 1 and "int" in str(getattr(condition, "dtype", ""))
    check_condition = check_known_labels if are_labels else check_values
    for kind, given, check in (("condition", condition, check_condition), ("attributes", attributes, check_attributes)):
        if given is not None:
            rest[kind] = cast(Any, given) if isinstance(given, Levels) else check(f"{kind}_{name}", given)
            if len(rest[kind]) != len(values):
                raise UserError(
                    f"{kind}_{name} must have one row per row of x_{name}, got {len(rest[kind])} for {len(values)}"
                )
    if label is not None:
        rest["label"] = check_labels(f"label_{name}", label, len(values))
    return Part(cast(Any, values), **rest)


def _attribute_names(attributes: Tensor | None, names: ArrayLike | None) -> tuple[str, ...] | None:
    if attributes is None:
        if names is not None:
            raise UserError("attribute_names are given without attributes_train: give both, or leave them out")
        return None
    try:
        given = range(attributes.shape[1]) if names is None else np.atleast_1d(np.asarray(names)).tolist()
        found = tuple(name.decode() if isinstance(name, bytes) else str(name) for name in given)
    except ValueError as error:  # nested lists of unequal lengths, or bytes that are no text
        raise UserError(f"attribute_names must be a list of text ({error}): write ['Male', 'Smiling']") from None
    if len(found) != attributes.shape[1] or len(set(found)) < len(found):
        raise UserError(
            f"attribute_names must be {attributes.shape[1]} different names, got {shorten(', '.join(found), 200)}: "
            "one a column"
        )
    if bad := [name for name in found if not name or "=" in name or "," in name or name.split() != [name]]:
        raise UserError(f"attribute_names must be without '=', ',' and spaces, got {bad[0]!r}: write Wearing_Hat")
    if bad := [name for name in found if name in ("plain", "of_data") or name.endswith("_of_data")]:
        raise UserError(f"attribute name {bad[0]!r} is that of a number of the evaluation: choose another")
    return found


def _check_like_train(name: str, part: Part, train: Part) -> None:
    for kind in KINDS:
        ours, theirs = getattr(part, kind), getattr(train, kind)
        if (ours is None) != (theirs is None):
            missing, there = (name, "train") if ours is None else ("train", name)
            raise UserError(f"{kind}_{missing} is missing while {kind}_{there} is given: give both or neither")
        if ours is not None and ours.shape[1:] != theirs.shape[1:]:
            raise UserError(
                f"{kind}_{name} must have rows of shape {tuple(theirs.shape[1:])} as {kind}_train has, got "
                f"{tuple(ours.shape[1:])}"
            )


def _split_off(parts: dict[str, Part], seed: Seed) -> str:
    """Fill in the missing parts from the training part; returns what was done."""
    train, missing = parts["train"], [name for name in PARTS if name not in parts]
    size = max(1, len(train) // 10)
    if len(train) <= len(missing) * size:
        raise UserError(f"x_train has {len(train)} examples, too few to split off {' and '.join(missing)}: give more")
    order = torch.randperm(len(train), generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
    for i, name in enumerate(missing):
        parts[name] = train.take(order[i * size : (i + 1) * size])
    parts["train"] = train.take(order[len(missing) * size :])
    return f"{' and '.join(missing)}: {size} random examples each, split off the training part with seed {seed}"


def _likelihood(parts: dict[str, Part], likelihood: str | None) -> str:
    if likelihood is None:
        if all(_is_binary(part.x) for part in parts.values()):
            return "bernoulli"
        in_unit_interval = all(
            isinstance(part.x, Levels) or (part.x.min() >= 0 and part.x.max() <= 1) for part in parts.values()
        )
        return "continuous_bernoulli" if in_unit_interval else "gaussian"
    for name, part in parts.items():
        fits = make_likelihood(likelihood, part.x.shape[1:])
        x = part.x.levels.unique() / WHITE if isinstance(part.x, Levels) else part.x
        try:
            fits.check(x)
        except ValueError as error:
            raise UserError(f"x_{name} does not fit likelihood='{likelihood}': {error}") from None
    return likelihood


def _is_binary(x: Any) -> bool:
    values, one = (x.levels, 255) if isinstance(x, Levels) else (x, 1)
    return bool(((values == 0) | (values == one)).all())


def _with_levels(kind: str, given: Sequence[Any], likelihood: str | None, told: list[str]) -> tuple[Any, ...]:
    """The parts with gray levels as :class:`Levels`, and others as they are; a line says what was taken for levels."""
    if any(isinstance(values, Levels) for values in given):
        for name, values in zip(PARTS, given, strict=True):
            if values is not None and not isinstance(values, Levels):
                raise UserError(f"{kind}_{name} must be Levels as another part is: give all parts alike")
        return tuple(given)
    names = [f"{kind}_{name}" for name in PARTS]
    text = CLASSES_AS_LABELS if kind == "condition" else AS_NUMBERS
    found = {name: read_numbers(name, one, text) for name, one in zip(names, given, strict=True) if one is not None}
    numbers = [found.get(name) for name in names]
    if not all(values.ndim > 1 and values.numel() for values in found.values()):  # told by what checks each part
        return tuple(numbers)
    if not found or not (line := gray_levels(found, keep=likelihood == "gaussian" and kind == "x")):
        return tuple(numbers)
    told.append(line)
    as_bytes: Any = {"dtype": torch.uint8, "copy": True, "memory_format": torch.contiguous_format}
    return tuple(None if values is None else Levels(values.to(**as_bytes)) for values in numbers)


def _image_shape(shape: torch.Size) -> tuple[int, ...] | None:
    return tuple(shape) if len(shape) == 3 and shape[0] in (1, 3) else None


def read_npz(path: Path, *, seed: Seed = 0) -> Splits:
    """:func:`from_arrays` on the arrays ``x_train``, ``x_valid``, ..., ``attributes_test``, ``attribute_names`` of an
    ``.npz`` file.

    Nothing in the file is unpickled. Arrays of other names are left alone; ``source`` names them, and a warning those
    that may be misspelt.

    :raises FileNotFoundError: if there is no such file
    :raises ValueError: if the file cannot be read, has no ``x_train``, or its arrays are not as they must be
    """
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file; give the path of an .npz file with x_train, or a data set name")
    try:
        with decoding(path, "a readable .npz file", "write it with numpy.savez"):
            found, others = read_arrays(path, KEYS)
    except PickledError as error:
        key = error.name
        what, dtype = ("text", "str") if key == "attribute_names" else ("real numbers", "float32")
        remedy = f"number the classes, {CLASSES}" if key.startswith("label_") else f"save .astype('{dtype}')"
        raise UserError(f"{path}: {key} must hold {what}, got Python objects: {remedy}") from None
    arrays: dict[str, Any] = dict(found)
    if "x_train" not in arrays:
        names = shorten(", ".join(others + list(arrays)), 200) or "nothing"
        raise UserError(f"{path}: has no x_train, only {names}: add it")
    for other in others:
        if near := get_close_matches(other, [key for key in KEYS if key not in arrays], n=1, cutoff=0.8):
            warnings.warn(f"{path}: {other} is not read: did you mean '{near[0]}'?", stacklevel=2)
    try:
        splits = from_arrays(**arrays, name=path.stem, seed=seed)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    names = "".join(character if character.isprintable() else "?" for character in ", ".join(others))
    unread = f"; not read: {shorten(names, LONGEST_NAME)}" if others else ""
    return replace(splits, source=f"{path.name}, {splits.source}{unread}")
