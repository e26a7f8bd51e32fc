"""Densities in float32 or wider, whatever precision the networks run in.

A network that runs in bfloat16 or float16, under autocast or by its weights, gives numbers of 8 or 11 binary digits.
Its output is converted once, where it becomes the parameters of a distribution. All that is computed from them
(densities, entropies, KL terms, log-determinants, draws) is then in float32. A pair makes the networks of its programs
convert draws to the precision of their own weights (:func:`takes_draws`).
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
import torch.nn as nn
from torch import Tensor
from torch.distributions import Distribution

if TYPE_CHECKING:
    from .pair import Pair

__all__ = [
    "HALF",
    "at_least_float32",
    "first_rounded",
    "in_precision_of",
    "pair_in_precision_of",
    "takes_draws",
    "with_float32_parameters",
]

HALF = (torch.bfloat16, torch.float16)
"""Precisions too coarse for densities: hundreds of nats have no decimals in bfloat16."""


def at_least_float32(value: Tensor) -> Tensor:
    """Return the tensor in float32 if its own precision is narrower, and the tensor itself otherwise."""
    return value.float() if value.dtype in HALF else value


def in_precision_of(network: nn.Module, value: Tensor) -> Tensor:
    """Return the tensor in the precision of a network's weights where these are narrower than float32.

    :param network: what the tensor is an input of
    :param value: a draw, or what was computed from one
    """
    weight = next(network.parameters(), None)
    return value.to(weight.dtype) if weight is not None and weight.dtype in HALF else value


def takes_draws(network: nn.Module) -> None:
    """Make a network convert its positional inputs, which may be draws in float32, to the precision of its weights."""
    if _to_own_precision not in network._forward_pre_hooks.values():
        network.register_forward_pre_hook(_to_own_precision)


def _to_own_precision(network: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        in_precision_of(network, value) if isinstance(value, Tensor) and value.is_floating_point() else value
        for value in args
    )


def first_rounded(x: Tensor, dtype: torch.dtype) -> tuple[float, float] | None:
    """Return the first value of x that a precision rounds, and what it becomes there; None if it holds all values."""
    rounded = x.to(dtype).to(x.dtype)
    if torch.equal(rounded, x):
        return None
    first = int((rounded != x).flatten().nonzero()[0])
    return x.flatten()[first].item(), rounded.flatten()[first].item()


def with_float32_parameters(fn: Any) -> Any:
    """Return the distribution with its parameters in float32 where they are narrower.

    The library's own distributions do this when they are made. This function is for those that users' networks return.

    :param fn: a distribution of torch or Pyro
    :returns: the distribution itself where there is nothing to convert
    """
    converted = {
        name: with_float32_parameters(value) if isinstance(value, Distribution) else at_least_float32(value)
        for name, value in vars(fn).items()
        if isinstance(value, Distribution | Tensor)
    }
    if all(value is getattr(fn, name) for name, value in converted.items()):
        return fn
    new = copy.copy(fn)
    vars(new).update(converted)
    return new


def pair_in_precision_of(values: Any, pair: Pair) -> Pair:
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
