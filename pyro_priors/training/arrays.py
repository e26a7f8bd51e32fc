"""The data of a training: arrays in place of parts, and parts as the model sees them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._options import shown
from .._precision import condition_like
from ..data import Part, Splits, batches, from_arrays
from ..errors import UserError
from ..nn.likelihoods import LIKELIHOODS
from ..pair import Pair

__all__ = ["as_splits", "binarized", "to_like"]


def as_splits(pair: Pair, data: Any, seed: int) -> Splits:
    """Return data in three parts: what is given, or parts drawn from an array.

    :param pair: the pair, whose likelihood says how to read the values
    :param data: Splits; x, shape ``(N,) + x_shape``; or a tuple of x and the condition, shape
        ``(N,) + condition_shape``
    :param seed: seed of the split
    :raises ValueError: if it is neither, or values or shapes are not as :func:`pyro_priors.data.from_arrays` needs them
    """
    if isinstance(data, Splits):
        return data
    if isinstance(data, Part):
        raise UserError("data must be Splits, got one Part of them: give the Splits, or (part.x, part.condition)")
    if isinstance(data, str):
        raise UserError(f"data must be Splits, got {shown(data)}: give pyro_priors.data.load({shown(data)})")
    x, condition = data, None
    if isinstance(data, tuple):
        if len(data) != 2:
            raise UserError(f"data must be x or (x, condition), got a tuple of {len(data)}: give one of the two")
        x, condition = data
    if not (hasattr(x, "shape") or hasattr(x, "__array__") or isinstance(x, list)):
        raise UserError(
            f"data must be Splits, got {type(x).__name__}: give pyro_priors.data.from_arrays(x_train), an array or "
            "tensor x, or (x, condition)"
        )
    config = ((pair.recipe or {}).get("config") or {}).get("likelihood")
    name = config.get("name") if isinstance(config, dict) else None
    return from_arrays(x, condition_train=condition, likelihood=name if name in LIKELIHOODS else None, seed=seed)


def to_like(part: Part, like: Tensor) -> Part:
    """Return x and condition of a part on the device and in the precision of another tensor."""
    return Part(part.x.to(like), condition_like(part.condition, like))


def binarized(train: Part, data: Splits, seed: int) -> Tensor:
    """Return x of the training part as the model sees them in one epoch."""
    if not data.binarise:
        return train.x
    return torch.cat([x for x, _ in batches(train, 1000, seed=seed, epoch=0, binarise=True, shuffle=False)])
