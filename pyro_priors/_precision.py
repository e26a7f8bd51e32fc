"""Densities in float32 or wider, regardless of the precision of the networks.

A network that runs in bfloat16 or float16, under autocast or because of its weights, returns numbers of 8 or 11 binary
digits. Its output is converted once, where it becomes the parameters of a distribution. Everything computed from these
parameters (densities, entropies, KL terms, log-determinants, draws) is then in float32. In a pair in half precision,
the networks convert draws to the precision of their own weights (:func:`convert_draws`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn as nn
from torch import Tensor
from torch.distributions import Categorical, Distribution, ExpTransform, Transform

if TYPE_CHECKING:
    from .pair import Pair

__all__ = [
    "HALF",
    "at_least_float32",
    "condition_like",
    "convert_draws",
    "first_rounded",
    "in_precision_of",
    "pair_in_precision_of",
    "with_float32_parameters",
]

HALF = (torch.bfloat16, torch.float16)
"""Precisions that are too coarse for densities: bfloat16 cannot represent decimals of hundreds of nats."""


INVERSE: Any = type(ExpTransform().inv)
"""The class of torch's inverse transforms, which has no public name."""


def at_least_float32(value: Tensor) -> Tensor:
    """Return the tensor in float32 if its own precision is narrower, and the tensor itself otherwise."""
    return value.float() if value.dtype in HALF else value


def condition_like(condition: Tensor | None, like: Tensor) -> Tensor | None:
    """Return a condition on the device of another tensor and in its precision; labels remain integers."""
    if condition is None:
        return None
    is_label = isinstance(condition, Tensor) and not condition.is_floating_point()  # and no bytes of images
    return condition.to(like.device) if is_label else condition.to(like)


def in_precision_of(network: nn.Module, value: Tensor) -> Tensor:
    """Return the tensor in the precision of a network's weights if that is narrower than float32.

    :param network: the network that receives the tensor
    :param value: a draw, or a value computed from one
    """
    weight = next(network.parameters(), None)
    return value.to(weight.dtype) if weight is not None and weight.dtype in HALF else value


def convert_draws(programs: Iterable[nn.Module]) -> None:
    """Make networks in half precision convert their positional inputs, which may be draws in float32.

    :param programs: the programs with these networks; networks in float32 or wider are not changed
    """
    for program in programs:
        for name in sorted(set(getattr(program, "networks", {}).values())):
            network = getattr(program, name)
            narrow = any(weight.dtype in HALF for weight in network.parameters())
            if narrow and _to_own_precision not in network._forward_pre_hooks.values():
                network.register_forward_pre_hook(_to_own_precision)


def _to_own_precision(network: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        in_precision_of(network, value) if isinstance(value, Tensor) and value.is_floating_point() else value
        for value in args
    )


def first_rounded(x: Tensor, dtype: torch.dtype) -> tuple[float, float] | None:
    """Return the first value of x that a precision rounds, and the rounded value; None if all values are exact."""
    rounded = x.to(dtype).to(x.dtype)
    if torch.equal(rounded, x):
        return None
    first = int((rounded != x).flatten().nonzero()[0])
    return x.flatten()[first].item(), rounded.flatten()[first].item()


def with_float32_parameters(fn: Any) -> Any:
    """Return the distribution with its parameters in float32 if they are narrower.

    The library's own distributions do this on construction. This function is for distributions that users' networks
    return.

    :param fn: a distribution of torch or Pyro
    :returns: the distribution itself if there is nothing to convert
    """
    return _in_float32(fn)


def _in_float32(value: Any) -> Any:
    """Convert a tensor, or a copy of a distribution or transform with narrow tensors; keep anything else."""
    if isinstance(value, Tensor):
        return at_least_float32(value)
    if isinstance(value, list):
        converted = [_in_float32(one) for one in value]
        return value if all(new is old for new, old in zip(converted, value, strict=True)) else converted
    if not isinstance(value, Distribution | Transform) or isinstance(value, nn.Module):  # networks convert themselves
        return value
    if isinstance(value, INVERSE):  # holds nothing but the other one
        converted = _in_float32(value.inv)
        return value if converted is value.inv else converted.inv
    changed = {}
    for name, old in vars(value).items():
        if name not in ("_inv", "_cached_x_y") and (new := _in_float32(old)) is not old:
            changed[name] = new
    if not changed:
        return value
    copied = copy.copy(value)
    vars(copied).update(changed)
    if isinstance(copied, Transform):
        copied._inv, copied._cached_x_y = None, (None, None)
    elif isinstance(copied, Categorical):
        _normalize(copied)
    return copied


def _normalize(fn: Any) -> None:
    """Normalize the probabilities of a categorical, which were divided by a sum in lower precision."""
    if fn._param is vars(fn).get("probs"):
        name, param = "probs", fn._param / fn._param.sum(-1, keepdim=True)
    else:
        name, param = "logits", fn._param.log_softmax(-1)
    for computed in ("probs", "logits"):
        vars(fn).pop(computed, None)
    fn._param = param
    setattr(fn, name, param)


def pair_in_precision_of(values: Any, pair: Pair) -> Pair:
    """Return the pair, or a copy in the precision of the given values if the pair has another precision.

    Results are computed in the precision of the data (float32 unless you chose another), whatever the precision of the
    training. The command line does the same. Half precision cannot represent decimals of hundreds of nats.

    :param values: a floating-point tensor, or :class:`~pyro_priors.data.Levels`
    :param pair: the pair, which is not changed
    """
    own = next((value.dtype for value in pair.parameters() if value.is_floating_point()), values.dtype)
    if own is values.dtype or not values.dtype.is_floating_point:
        return pair
    return copy.deepcopy(pair).to(values.dtype)
