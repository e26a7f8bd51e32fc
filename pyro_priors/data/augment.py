"""Augmentation: images flipped and turned at random, afresh in every batch."""

import math
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Augment"]


@dataclass(frozen=True)
class Augment:
    """Random flips and turns of images.

    :param image_shape: (channels, height, width) of a datum, which may be flattened
    :param flip: exchange left and right in half of the images
    :param rotate: turn each by an angle uniform within so many degrees to both sides, by bilinear interpolation; what
        comes in at the edges repeats them
    """

    image_shape: tuple[int, ...]
    flip: bool = False
    rotate: float = 0.0

    def draw(self, num: int, generator: torch.Generator) -> Tensor:
        """What to do to each of ``num`` images: sign of the width and angle in radians, shape ``(num, 2)``."""
        u = torch.rand((num, 2), generator=generator, device=generator.device)
        sign = torch.where((u[:, 0] < 0.5) & self.flip, -1.0, 1.0)
        return torch.stack([sign, math.radians(self.rotate) * (2 * u[:, 1] - 1)], 1)

    def apply(self, x: Tensor, drawn: Tensor) -> Tensor:
        """
        :param x: shape ``(num, *image_shape)``, or flattened
        :param drawn: from :meth:`draw`, shape ``(num, 2)``
        :returns: as x, within its smallest and largest value
        """
        if not len(x):
            return x
        images = x.reshape(len(x), *self.image_shape)
        sign, angle = drawn.to(x).unbind(1)
        images = torch.where(sign[:, None, None, None] < 0, images.flip(-1), images)
        if self.rotate:
            height, width = self.image_shape[1:]
            cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
            rows = [
                torch.stack([cos, -sin * height / width, zero], 1),
                torch.stack([sin * width / height, cos, zero], 1),
            ]
            shape = [len(x), self.image_shape[0], height, width]
            grid = F.affine_grid(torch.stack(rows, 1), shape, align_corners=False)
            images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        return images.reshape(len(x), prod(self.image_shape)) if x.dim() == 2 else images
