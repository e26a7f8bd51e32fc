"""Samples under conditions that are asked for by name: alone, over a grid, between two; and data under another one.

For data whose condition is a label or attributes (``--data.condition-labels``) what is asked is a text,
``"Male=1,Smiling=-1"`` or ``"label=Sneaker"``; an attribute is there (1) or not (0, or -1 as CelebA's file has it). Of
another condition, which has no names, the text has all values: ``"0.5,1.5"``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ._lock import LOCK
from ._options import Size, typed
from ._precision import pair_in_precision_of
from .data import Splits
from .errors import UserError, check_sizes, hint
from .pair import Pair
from .rng import seeded
from .sites import base_of

__all__ = ["Controlled", "asked", "between", "condition_of", "edited", "grid", "moved", "parse"]

CONDITIONAL = "sigma_cvae"
"""A pair that takes a condition, for messages."""

VALUES = {"1": 1.0, "0": 0.0, "-1": 0.0}


@dataclass(frozen=True, eq=False)
class Controlled:
    """What was generated, row by row of a picture.

    :param sites: one tensor by site, and ``"x_mean"``; as many rows as the picture has places
    :param condition: what each was generated given, shape ``(num,) + condition_shape``; None for nothing
    :param num_columns: places in a row of the picture
    :param row_labels: one for each row
    :param column_labels: one for each column
    """

    sites: dict[str, Tensor]
    condition: Tensor | None
    num_columns: int
    row_labels: tuple[str, ...] = ()
    column_labels: tuple[str, ...] = ()


@typed
def parse(text: str, data: Splits) -> dict[str, float]:
    """What a text asks for: of attributes value by name, of a label 1 by the name of the class.

    :param text: ``"Male=1,Smiling=-1"`` or ``"label=7"``
    :param data: whose condition it is
    :raises ValueError: if a name or a value is unknown (the message names the nearest), a name is given twice, or the
        condition of the data has no names
    """
    names = data.condition_names
    if names is None:
        raise UserError(
            f"condition '{text}': the condition of {data.name} has no names, as labels and attributes "
            "(--data.condition-labels) have: name rows of the test part, such as 0 1, or give its values, such as 0.5"
        )
    found: dict[str, float] = {}
    for item in filter(None, (item.strip() for item in text.split(","))):
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals:
            raise UserError(f"condition '{item}' must be NAME=VALUE, such as {_example_of(data)}")
        if data.condition_of == "label":
            if name != "label" or value not in names:
                if name != "label":
                    raise UserError(f"condition '{name}' is unknown: give label=CLASS")
                near = hint("" if all(map(str.isdigit, names)) else value, names)  # no number is near another
                raise UserError(f"condition label '{value}' is unknown: {near}")
            name, value = value, "1"
        if name not in names:
            raise UserError(f"attribute '{name}' is unknown: {hint(name, names)}")
        if name in found:
            raise UserError(f"condition '{text}' names {name} twice: name it once")
        if value not in VALUES:
            raise UserError(f"attribute {name} must be 1 (there) or 0 or -1 (not there), got '{value}'")
        found[name] = VALUES[value]
    if not found or (data.condition_of == "label" and len(found) > 1):
        wanted = "one label" if data.condition_of == "label" else "at least one attribute"
        raise UserError(f"condition '{text}' must name {wanted}, such as {_example_of(data)}")
    return found


def _example_of(data: Splits) -> str:
    last = (data.condition_names or ("",))[-1]
    return f"label={last}" if data.condition_of == "label" else f"{last}=1"


@typed
def condition_of(wanted: Mapping[str, float], data: Splits, num: Size) -> Tensor:
    """Conditions with what is wanted; of attributes, the others are those of real data.

    These are the training data that have all that is wanted, or as much of it as any has, in turn: a man with lipstick
    has the other attributes of one who wears it, where there is one, and else of a man without or a woman with.

    :param wanted: from :func:`parse`
    :param data: whose condition it is
    :param num: how many
    :returns: shape ``(num,) + condition_shape``
    """
    names, known = data.condition_names or (), data.train.condition
    for name in wanted:
        if name not in names:
            raise UserError(f"wanted names the condition {name!r}, which is unknown: {hint(name, names)}")
    columns = [names.index(name) for name in wanted]
    values = torch.tensor(list(wanted.values()), dtype=torch.float32, device="cpu")
    if known is None or data.condition_of == "label":
        found = torch.zeros(num, len(names), dtype=torch.float32, device="cpu")
    else:
        agree = ((known[:, columns] > 0.5) == (values > 0.5)).sum(1)
        best = (agree == agree.max()).nonzero()[:, 0]
        found = known[best[torch.arange(num, device="cpu") % len(best)]].clone()
    found[:, columns] = values
    return found


@typed
def asked(pair: Pair, data: Splits, texts: Sequence[str], num: Size) -> Controlled:
    """Samples under each condition that is asked for, in turn.

    :param pair: a conditional pair
    :param data: its data
    :param texts: as for :func:`parse`; where the condition has no names its values, such as ``"0.5"`` or ``"0.5,1.5"``
    :param num: number of samples, all conditions together
    :raises ValueError: if the pair takes no condition, there is nothing to ask for, or num is no size
    """
    _check(pair, data)
    check_sizes(num=num)
    _check_several("texts", texts)
    each = [_asked_for(text, data, num) for text in texts]
    condition = torch.stack([each[i % len(each)][i // len(each)] for i in range(num)])
    return Controlled(pair_in_precision_of(data.train.x, pair).sample(num, condition), condition, 8)


def _asked_for(text: str, data: Splits, num: Size) -> Tensor:
    if data.condition_names is None:
        return _values(text, data).expand(num, *data.condition_shape or ())
    return condition_of(parse(text, data), data, num)


def _changed(known: Tensor, text: str, data: Splits) -> Tensor:
    """The conditions with what is asked for; attributes that are not named stay."""
    if data.condition_names is None:
        return _values(text, data).expand_as(known)
    return _with(known if data.condition_of == "attributes" else torch.zeros_like(known), parse(text, data), data)


def _check(pair: Pair, data: Splits) -> None:
    if not pair.takes_condition:
        raise UserError(f"this pair takes no condition: make a conditional one, such as {CONDITIONAL}")
    if data.test.condition is None:
        raise UserError(f"{data.name} has no condition: load it as in training, with condition_labels=True, say")


def _check_several(name: str, given: Sequence[str]) -> None:
    if not given:
        raise UserError(f"{name} must hold at least one text, got none")


def _values(text: str, data: Splits) -> Tensor:
    shape = data.condition_shape or ()
    size = math.prod(shape)
    try:
        values = torch.tensor([float(value) for value in text.split(",")], dtype=torch.float32, device="cpu")
    except ValueError:
        parse(text, data)  # which says what there is instead of names
        raise
    if len(values) != size:
        raise UserError(f"condition '{text}': the condition of {data.name} has {size} values: give that many")
    return values.reshape(shape)


@typed
def grid(pair: Pair, data: Splits, names: Sequence[str], text: str = "", num_columns: int = 8) -> Controlled:
    """A row for each class, or for each combination of some attributes; one column has one draw of noise.

    Attributes that neither vary nor are asked for are the same within a column.

    :param pair: a conditional pair
    :param data: its data
    :param names: ``["label"]``, or names of attributes, 5 at most
    :param text: what is asked for in all rows, as for :func:`parse`
    :param num_columns: samples in each row
    :raises ValueError: if the pair takes no condition, there is nothing to vary, or too much, or something is to vary
        twice or to stay as well
    """
    _check(pair, data)
    check_sizes(num_columns=num_columns)
    _check_several("names", names)
    if data.condition_names is None:
        raise UserError(
            f"a grid is over labels or attributes, and the condition of {data.name} has no names: ask for its values "
            "one by one, as --condition 0.5 0.7"
        )
    if data.condition_of == "label":
        if list(names) != ["label"]:
            raise UserError(f"a grid over the classes of {data.name} is 'label', got {', '.join(names)}: give that")
        if text:
            raise UserError(f"a grid over the classes leaves nothing else to ask for, got '{text}': leave it out")
        rows = [{name: 1.0} for name in data.condition_names or ()]
        labels = [next(iter(row)) for row in rows]
    else:
        if len(names) > 5:
            raise UserError(
                f"a grid has 1 to 5 attributes, got {len(names)}: it has a row for each combination, leave some out"
            )
        order = [next(iter(parse(f"{name}=1", data))) for name in names]
        if twice := [name for name in order if order.count(name) > 1]:
            raise UserError(f"a grid varies an attribute once, got {twice[0]} twice: leave one out")
        rows = [dict(zip(order, values, strict=True)) for values in itertools.product((0.0, 1.0), repeat=len(order))]
        labels = [" ".join(f"{'+' if value else '-'}{name}" for name, value in row.items()) for row in rows]
    fixed = parse(text, data) if text else {}
    if both := [name for name in fixed if name in rows[0]]:
        raise UserError(f"a grid over {both[0]} has rows with and without, got '{text}' for all: leave it out of one")
    base = condition_of(fixed or rows[-1], data, num_columns)
    sheets = [base if data.condition_of == "attributes" else torch.zeros_like(base) for _ in rows]
    condition = torch.cat([_with(sheet, row, data) for sheet, row in zip(sheets, rows, strict=True)])
    pair = pair_in_precision_of(data.train.x, pair)
    return Controlled(_same_noise(pair, condition, num_columns), condition, num_columns, tuple(labels))


@typed
def between(pair: Pair, data: Splits, start: str, end: str, num_rows: int = 4, steps: int = 8) -> Controlled:
    """From one condition to another along a straight line; one row has one draw of noise.

    Conditions within are not of the data, whose attributes are 0 or 1 and whose label is one.

    :param pair: a conditional pair
    :param data: its data
    :param start: as for :func:`parse`
    :param end: likewise; attributes that it does not name stay as they are
    :param num_rows: number of draws
    :param steps: number of conditions, both ends included
    :raises ValueError: if the pair takes no condition, or the two ends are the same
    """
    _check(pair, data)
    check_sizes(num_rows=num_rows, steps=steps)
    if steps < 2:
        raise UserError(f"steps must be at least 2, the two ends, got {steps}: give 8")
    first = _asked_for(start, data, num_rows)
    last = _changed(first, end, data)
    if torch.equal(first, last):
        raise UserError(f"from '{start}' to '{end}' nothing changes: ask for another condition at one of the ends")
    share = torch.linspace(0, 1, steps, dtype=first.dtype, device=first.device).reshape(steps, *[1] * first.dim())
    condition = (1 - share) * first + share * last  # (steps, rows, ...)
    drawn = _same_noise(pair_in_precision_of(data.train.x, pair), condition.flatten(0, 1), num_rows)
    order = torch.arange(steps * num_rows, device="cpu").reshape(steps, num_rows).T.flatten()
    sites = {name: value[order] for name, value in drawn.items()}
    labels = (start, *[""] * (steps - 2), end)
    return Controlled(sites, condition.flatten(0, 1)[order], steps, column_labels=labels)


@torch.no_grad()
@typed
def edited(pair: Pair, data: Splits, rows: Sequence[int], text: str, transport: bool = False) -> Controlled:
    """Data of the test part as they are, as they are reconstructed, and under another condition.

    :param pair: a conditional pair
    :param data: its data
    :param rows: of the test part
    :param text: what is changed, as for :func:`parse`; other attributes stay
    :param transport: move the code with the condition too (:func:`moved`). Without it a code keeps what it has of the
        old condition: where the prior sees the condition, codes may have all of it, and the picture stay as it was
    :returns: pictures in rows of three; ``sites`` has ``"x_mean"`` alone
    :raises ValueError: if the pair takes no condition, or a row is not there
    """
    _check(pair, data)
    num = len(data.test)
    if not rows or not all(0 <= row < num for row in rows):
        given = " ".join(map(str, rows)) or "none"
        raise UserError(f"rows to edit (--edit) must be of the test part, 0 to {num - 1}, got {given}")
    part = data.test.take(torch.tensor(list(rows), device="cpu"))
    pair = pair_in_precision_of(data.train.x, pair)
    x, known = part.x[:].to(pair.device), part.condition
    assert known is not None  # or _check had refused
    new = _changed(known, text, data)
    z = pair.encode(x, known.to(pair.device))["z"].mean
    other = moved(pair, z, known.to(pair.device), new.to(pair.device)) if transport else z
    same = pair.sample(len(x), known, z=z)["x_mean"]
    changed = pair.sample(len(x), new, z=other)["x_mean"]
    images = torch.stack([x, same, changed], 1).flatten(0, 1)
    condition = torch.stack([known, known, new], 1).flatten(0, 1)
    return Controlled({"x_mean": images}, condition, 3, column_labels=("data", "reconstruction", text))


@LOCK
@torch.no_grad()
@typed
def moved(pair: Pair, z: Tensor, condition: Tensor, new: Tensor) -> Tensor:
    r"""Codes moved from where they are under one condition to the same place under another.

    .. math:: z' = f'^{-1}\Big(\mathrm{loc}' + \mathrm{scale}' \odot \frac{f(z) - \mathrm{loc}}{\mathrm{scale}}\Big)

    with flow, location and scale of p(z|condition), and dashed of p(z|new): what z has in common with other data of its
    condition changes, what it has of its own stays. Where the prior does not see the condition, z stays.

    :param pair: a pair with a Gaussian prior of the condition, or a flow to one
    :param z: shape ``(num, z_dim)``
    :param condition: shape ``(num,) + condition_shape``
    :param new: likewise
    :raises ValueError: if the prior is none of these
    """
    if not getattr(pair.model, "condition_prior", True):
        return z
    pair = pair_in_precision_of(z, pair)
    prior: Any = pair.model.prior
    with pair.evaluating():
        before, after = prior(condition.to(z)), prior(new.to(z))
    for transform in reversed(_transforms(before)):
        z = transform.inv(z)
    normals = [base_of(p.base_dist if isinstance(p, dist.TransformedDistribution) else p) for p in (before, after)]
    if not all(isinstance(p, dist.Normal) for p in normals):
        raise UserError(
            "a code is moved along a Gaussian prior, or a flow to one, and that of this pair is "
            f"{type(before).__name__}: leave transport out"
        )
    z = normals[1].loc + normals[1].scale * (z - normals[0].loc) / normals[0].scale
    for transform in _transforms(after):
        z = transform(z)
    return z


def _transforms(p: Any) -> list[Any]:
    return list(p.transforms) if isinstance(p, dist.TransformedDistribution) else []


def _with(condition: Tensor, wanted: Mapping[str, float], data: Splits) -> Tensor:
    """The conditions with some values set."""
    found = condition.clone()
    for name, value in wanted.items():
        found[:, (data.condition_names or ()).index(name)] = value
    return found


def _same_noise(pair: Pair, condition: Tensor, num: Size) -> dict[str, Tensor]:
    """Samples of each ``num`` conditions in turn, all from the same noise."""
    seed = int(torch.randint(2**31, (), device="cpu"))
    sheets = []
    for part in condition.split(num):
        with seeded(seed, pair.device):
            sheets.append(pair.sample(num, part))
    return {name: torch.cat([sheet[name] for sheet in sheets]) for name in sheets[0]}
