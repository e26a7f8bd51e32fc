"""Checks of the tensors that metrics receive, before anything is computed."""

from __future__ import annotations

import math
from types import EllipsisType
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError

__all__ = [
    "DoesNotApply",
    "check_categories",
    "check_finite",
    "check_pair",
    "check_values",
    "deviation",
    "standard_error",
]

Size = str | int | EllipsisType


class DoesNotApply(UserError):
    """A metric does not apply to a pair and its data."""


def check_values(name: str, value: Any, *shape: Size, least: int = 1, infinite: bool = False) -> None:
    """Refuse a tensor that a metric cannot be computed from.

    :param name: name of the argument, for the message
    :param value: the tensor
    :param shape: the sizes: a number for a required size, a name for an arbitrary one, and ``...``, first or last, for
        any number of further dimensions
    :param least: minimum size of the first named dimension; 0 allows a tensor without values
    :param infinite: allow infinite values
    :raises ValueError: if it is not a tensor, has another shape or too few rows, or has values that are not finite
    """
    if not isinstance(value, Tensor):
        raise UserError(f"{name} must be a tensor, got {type(value).__name__}: give torch.as_tensor({name})")
    if value.layout is not torch.strided:
        raise UserError(f"{name} is sparse ({value.layout}): give {name}.to_dense()")
    sizes = [size for size in shape if size is not ...]
    own = value.shape[value.dim() - len(sizes) :] if shape[0] is ... else value.shape[: len(sizes)]
    fits = value.dim() == len(sizes) or (len(sizes) < len(shape) and value.dim() > len(sizes))
    if not fits or any(isinstance(size, int) and size != has for size, has in zip(sizes, own, strict=True)):
        wanted = ", ".join("..." if size is ... else str(size) for size in shape)
        wanted += "," if len(shape) == 1 else ""
        raise UserError(f"{name} must have shape ({wanted}), got {tuple(value.shape)}: reshape it")
    if own and own[0] < least:
        rows = "1 row" if least == 1 else f"{least} rows"
        raise UserError(f"{name} must have at least {rows}, got {own[0]}: give more")
    if least and not value.numel():
        raise UserError(f"{name} is empty, shape {tuple(value.shape)}: give at least one value")
    check_finite(name, value, infinite)


def check_finite(name: str, value: Tensor, infinite: bool = False) -> None:
    """Refuse values that are NaN, or infinite unless ``infinite`` allows them.

    :param name: name of the argument, for the message
    :param value: the tensor; on the meta device, where tensors have no values, nothing is checked
    :param infinite: allow infinite values
    :raises ValueError: with the index of the first such value
    """
    if value.is_meta:
        return
    bad = value.isnan() if infinite else ~value.isfinite()
    if bad.any():
        which = "NaN" if infinite else "NaN or infinite"
        first = bad.nonzero()[0].tolist()
        raise UserError(f"{name} has {which} values, the first at {first}: leave out such rows")


def check_categories(name: str, value: Any, num: int | None = None, below: int | None = None) -> Tensor:
    """Return category numbers as int64.

    :param name: name of the argument, for the message
    :param value: integers from 0, shape ``(num,)``
    :param num: required number of values; None for any positive number
    :param below: exclusive upper limit of the values; None for no limit
    :raises ValueError: if the values are not such integers
    """
    check_values(name, value, "num" if num is None else num)
    if value.is_floating_point() or value.is_complex() or value.dtype is torch.bool:
        raise UserError(f"{name} must hold integers, got {value.dtype}: give {name}.long()")
    value = value.long()
    if value.is_meta:
        return value
    low, high = value.min().item(), value.max().item()
    if low < 0 or (below is not None and high >= below):
        most = "" if below is None else f" to {below - 1}"
        raise UserError(f"{name} must hold integers from 0{most}, got {low if low < 0 else high}: number them from 0")
    return value


def check_pair(pair: torch.nn.Module) -> None:
    """Refuse a pair with parameters that are not finite, for example after a training that diverged.

    :raises ValueError: with the name of the first such parameter
    """
    for name, value in pair.named_parameters():
        if not value.is_meta and not value.detach().isfinite().all():
            raise UserError(f"pair has NaN or infinite values in {name}: give a pair whose training did not diverge")


def deviation(values: Tensor) -> float:
    """Return the standard deviation of some values; NaN if there are fewer than two.

    :param values: shape ``(num,)``
    """
    return values.double().std().item() if len(values) > 1 else math.nan


def standard_error(values: Tensor) -> float:
    """Return the standard error of the mean of some values; NaN if there are fewer than two.

    :param values: shape ``(num,)``
    """
    return deviation(values) / math.sqrt(max(len(values), 1))
