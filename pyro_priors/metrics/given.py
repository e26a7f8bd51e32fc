"""Conditions of data, and samples of a conditional pair, several for each condition."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from .. import pair_arguments
from .._options import typed
from ..data import Part
from ..errors import UserError
from ..pair import Pair
from .checks import check_values

__all__ = ["conditions_of", "samples_given"]

ROWS_AT_ONCE = 5000


def conditions_of(part: Part) -> Tensor:
    """The conditions of a part that has some, shape ``(num,) + condition_shape``; ValueError for one without."""
    if part.condition is None:
        raise UserError("the part has no conditions, and they are needed here: give data of a conditional pair")
    return part.condition


@torch.no_grad()
@typed
def samples_given(pair: Pair, condition: Tensor, num: int) -> dict[str, Tensor]:
    """Ancestral samples, as of :meth:`Pair.sample <pyro_priors.Pair.sample>`, some for each condition.

    The prior is computed once for each condition: of a mixture whose components cost a pass each that is most of it.

    :param condition: shape ``(num_conditions,) + condition_shape``
    :param num: number of samples for each
    :raises ValueError: if ``num`` is below 1, there is no condition, or the conditions are not of the shape that the
        pair was made for or have values that are not finite
    :returns: ``z``, ``x``, and ``x_mean``, shape ``(num_conditions, num) + event_shape``, on the CPU
    """
    if num < 1:
        raise UserError(f"num must be at least 1, got {num}")
    check_values("condition", condition, "num_conditions", ...)
    condition = pair_arguments.conditions_of(pair, condition, len(condition))
    found: dict[str, list[Tensor]] = {}
    with pair.evaluating():
        for part in condition.split(max(1, ROWS_AT_ONCE // num)):
            with pyro.plate("samples", num, dim=-2):
                trace = poutine.trace(pair.model).get_trace(None, part.to(pair.device), len(part))
            decoded: Any = trace.nodes["x"]["fn"]
            sites: dict[str, Any] = {name: trace.nodes[name]["value"] for name in ("z", "x")}
            for name, value in (sites | {"x_mean": decoded.mean}).items():
                found.setdefault(name, []).append(value.transpose(0, 1).cpu())
    return {name: torch.cat(values) for name, values in found.items()}
