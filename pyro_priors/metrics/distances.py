"""Distances between points that keep small ones."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["distances"]


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Return the Euclidean distance of each point of one set to each of another.

    :param x: points, shape ``left_shape + (n, d)``
    :param y: points, shape ``left_shape + (m, d)``
    :returns: shape ``left_shape + (n, m)``, in float32 or float64
    """
    at_least = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    # torch's default takes differences of squared norms, which leave nothing of distances far below the norms
    return torch.cdist(x.to(at_least), y.to(at_least), compute_mode="donot_use_mm_for_euclid_dist")
