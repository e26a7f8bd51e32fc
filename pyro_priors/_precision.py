"""Pairs in the precision of their data."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .pair import Pair

__all__ = ["in_precision_of"]


def in_precision_of(values: Any, pair: Pair) -> Pair:
    """Return the pair, or a copy of it in the precision of some values if its own is another.

    What is computed of data is computed in their precision, float32 unless you chose another, whatever the pair was
    trained in: the command line does the same, and half precision holds no decimals of hundreds of nats.

    :param values: a floating-point tensor, or :class:`~pyro_priors.data.Levels`
    :param pair: the pair, which stays as it is
    """
    own = next((value.dtype for value in pair.parameters() if value.is_floating_point()), values.dtype)
    if own is values.dtype or not values.dtype.is_floating_point:
        return pair
    return copy.deepcopy(pair).to(values.dtype)
