"""Small images of shapes, made from known factors."""

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from .images import grey_images
from .registry import DataConfig, register_data
from .splits import Part, Splits

__all__ = ["FACTORS"]

SIDE, PATCH = 32, 18
FACTORS = {"shape": 3, "scale": 5, "angle": 8, "horizontal": 8, "vertical": 8}
"""Number of values of each factor."""

SIZES = (5_000, 680, 2_000)


@register_data("shapes")
def shapes(config: DataConfig) -> Splits:
    """All 7,680 combinations of five factors, drawn as white shapes on black, 32x32 grey levels.

    ============== ====== ===========================================================================
    factor         values what
    ============== ====== ===========================================================================
    ``shape``      3      square, ellipse (axes 1 to 0.55), triangle; also the label
    ``scale``      5      radius of 4 to 8 pixels; of the square three quarters of it are half the side
    ``angle``      8      0 to pi/2 less an eighth of it: a quarter turn gives the square again
    ``horizontal`` 8      centre at 9, 11, ..., 23 pixels
    ``vertical``   8      the same
    ============== ====== ===========================================================================

    ``attributes`` are the factors' values, counted from 0. A random 5,000, 680 and 2,000 images are the parts. Ours, in
    the manner of dSprites (Matthey et al. 2017), small enough to be drawn in a moment.
    """
    values = np.stack(np.meshgrid(*map(np.arange, FACTORS.values()), indexing="ij"), -1).reshape(-1, len(FACTORS))
    images = np.zeros((len(values), SIDE, SIDE), np.float32)
    drawn = _drawn()
    for image, (shape, scale, angle, horizontal, vertical) in zip(images, values, strict=True):
        image[2 * vertical :, 2 * horizontal :][:PATCH, :PATCH] = drawn[shape, scale, angle]
    everything = Part(
        torch.from_numpy(images).unsqueeze(1),
        label=torch.from_numpy(values[:, 0]),
        attributes=torch.from_numpy(values.astype(np.float32)),
    )
    order = torch.randperm(len(values), generator=torch.Generator("cpu").manual_seed(config.seed), device="cpu")
    splits = grey_images(
        "shapes",
        *(everything.take(index) for index in order.split(SIZES)),
        num_labels=FACTORS["shape"],
        source=f"drawn from {' x '.join(map(str, FACTORS.values()))} factors, {'/'.join(map(str, SIZES))} images at "
        f"random with seed {config.seed}",
    )
    return replace(splits, attribute_names=tuple(FACTORS), factor_sizes=tuple(FACTORS.values()))


def _drawn() -> NDArray:
    """Each shape in each scale and angle: the share of each pixel inside, by 4x4 points, shape (3, 5, 8, 18, 18)."""
    sizes = list(FACTORS.values())[:3]
    shape, scale, angle = (axis[..., None, None] for axis in np.meshgrid(*map(np.arange, sizes), indexing="ij"))
    radius, turn = 4.0 + scale, angle * math.pi / 2 / FACTORS["angle"]
    y, x = (np.mgrid[: 4 * PATCH, : 4 * PATCH] + 0.5) / 4 - PATCH / 2
    u, v = (x * np.cos(turn) + y * np.sin(turn)) / radius, (y * np.cos(turn) - x * np.sin(turn)) / radius
    square = np.maximum(abs(u), abs(v)) <= 0.75
    ellipse = u**2 + (v / 0.55) ** 2 <= 1
    triangle = (v <= 0.5) & (math.sqrt(3) * abs(u) - v <= 1)
    inside = np.select([shape == 0, shape == 1], [square, ellipse], triangle)
    return inside.reshape(*sizes, PATCH, 4, PATCH, 4).mean((-3, -1), dtype=np.float32)
