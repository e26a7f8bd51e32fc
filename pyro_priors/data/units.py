"""Checks of the units of values: gray levels, or units in which the spread is far from 1."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import UserError

__all__ = ["gray_levels", "strange_units"]

WHITE = 255
"""The largest level of a byte."""

LEAST, MOST = 1e-2, 1e2
"""Spreads that networks, and the scale of a Gaussian likelihood, can reach from their initial values, near 1. A scale
is
above 1e-4, and starts between 1e-3 and 1e2."""

ROWS = 1000
"""Number of examples, from the first on, from which the spread is estimated."""


def gray_levels(parts: Mapping[str, Tensor], keep: bool = False) -> str:
    """Return a line that says that numbers are gray levels from 0 to 255, or an empty string if they are not.

    uint8 values are gray levels if one is above 1. Whole numbers of another type are gray levels if the largest is
    exactly 255.

    :param parts: the numbers by the name of the argument; none of them may be empty
    :param keep: do not treat numbers of other types than uint8 as gray levels
    :raises ValueError: if one part has gray levels and another part does not
    """
    ranges = {name: _range(values) for name, values in parts.items()}
    bytes_too = [name for name in ranges if parts[name].dtype is torch.uint8 and ranges[name][1] > 1]
    low, high = min(low for low, _ in ranges.values()), max(high for _, high in ranges.values())
    if not bytes_too and (keep or low < 0 or high != WHITE or not all(map(_are_whole, parts.values()))):
        return ""
    first = next(iter(ranges))
    for name, (least, most) in ranges.items():
        other_scale = most <= 1 and parts[name].dtype is not parts[first].dtype
        if other_scale or not (least >= 0 and most <= WHITE and _are_whole(parts[name])):
            raise UserError(
                f"{name} has {parts[name].dtype} values from {least:g} to {most:g}, but another part has gray levels "
                "from 0 to 255: give all parts in the same units"
            )
    return (
        f"{first} holds whole numbers from {low:g} to {high:g}, which are taken as gray levels k/255: if they are "
        "anything else, standardize them, (x - x.mean()) / x.std()"
    )


def strange_units(argument: str, x: Tensor, may_be_gray: bool = False) -> list[str]:
    """Return a line if the values are far from a spread of 1 around 0, and otherwise an empty list.

    :param argument: name of the argument, for the message
    :param x: float32, shape ``(N,) + shape``
    :param may_be_gray: include what to do if the values are gray levels
    """
    if not isinstance(x, Tensor):  # levels
        return []
    low, high = _range(x)
    standardize = "(x - x.mean(0)) / x.std(0)" if x.dim() == 2 else "(x - x.mean()) / x.std()"
    if may_be_gray and low >= 0 and high <= WHITE and (high > MOST or _are_whole(x)):
        return [
            f"{argument} holds numbers from {low:g} to {high:g}, which are used unchanged with a Gaussian likelihood: "
            f"divide gray levels by the largest one, and standardize other numbers, {standardize}"
        ]
    in_unit_interval = low >= 0 and high <= 1  # then columns may differ: pixels at the edge are dark
    where, center, spread = _strangest(x[:ROWS].double(), by_column=x.dim() == 2 and not in_unit_interval)
    rare = spread < LEAST and not where and high - low > 10 * LEAST  # such as one-hot rows of many classes
    if spread == 0 or rare or (LEAST <= spread <= MOST and abs(center) <= MOST):
        return []
    return [
        f"{argument} has values around {center:.3g} with a spread of {spread:.3g}{where}, far from 0 and 1, where "
        f"training starts: standardize them, {standardize}"
    ]


def _strangest(x: Tensor, by_column: bool) -> tuple[str, float, float]:
    """Return center and spread of all values, or of the first column that is too far from 0 and 1."""
    center, spread = x.mean().item(), x.std(correction=0).item()
    if not by_column or not (LEAST <= spread <= MOST and abs(center) <= MOST):
        return "", center, spread
    ranked = x.sort(0).values
    lower, centers, upper = (ranked[(len(x) - 1) * quarter // 4] for quarter in (1, 2, 3))
    spreads = (upper - lower) / 1.349  # of a Gaussian its standard deviation; 0 where most values are the same
    strange = (spreads > 0) & ((spreads < LEAST) | (spreads > MOST) | (centers.abs() > MOST))
    if not strange.any():
        return "", center, spread
    column = int(strange.int().argmax())
    return f" in column {column}", centers[column].item(), spreads[column].item()


def _range(values: Tensor) -> tuple[float, float]:
    low, high = torch.aminmax(values.to(torch.uint8) if values.dtype is torch.bool else values)
    return low.item(), high.item()


def _are_whole(values: Tensor) -> bool:
    if not values.is_floating_point():
        return True
    return all(bool((rows == rows.round()).all()) for rows in values.split(ROWS)) if values.dim() else False
