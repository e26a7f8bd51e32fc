"""Augmentation: images flipped, turned and bent at random, afresh in every batch."""

import math
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from .._options import convert_fields

__all__ = ["Augment"]


@dataclass(frozen=True)
class Augment:
    """Random flips and affine maps of images.

    All but the flip by bilinear interpolation, uniform within what is given to both sides; what comes in at the edges
    repeats them. The map leads from places of the result to the places of the image that are read there, and each bound
    is that of one map by itself.

    :param image_shape: (channels, height, width) of a datum, which may be flattened
    :param flip: exchange left and right in half of the images
    :param rotate: turn each by so many degrees at most
    :param shear: slant each by so much at most, as a share of its height
    :param zoom: read height and width, each by itself, enlarged or reduced by this share at most: at 0.15 what is in an
        image becomes 1/1.15 to 1/0.85 times as high and as wide
    :param shift: read each this share of height and width away at most
    :raises ValueError: if a value is of the wrong type, NaN or infinite
    """

    image_shape: tuple[int, ...]
    flip: bool = False
    rotate: float = 0.0
    shear: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        convert_fields(self)

    def draw(self, num: int, generator: torch.Generator) -> Tensor:
        """What to do to each of ``num`` images, shape ``(num, 7)``: sign of the width, angle in radians, shear, zoom of
        width and height, shift of width and height."""
        u = 2 * torch.rand((num, 7), generator=generator, dtype=torch.float32, device=generator.device) - 1
        sign = torch.where((u[:, 0] < 0) & self.flip, -1.0, 1.0).to(u)
        widths = [math.radians(self.rotate), self.shear, self.zoom, self.zoom, self.shift, self.shift]
        return torch.cat([sign[:, None], u[:, 1:] * u.new_tensor(widths)], 1)

    def apply(self, x: Tensor, drawn: Tensor) -> Tensor:
        """
        :param x: shape ``(num, *image_shape)``, or flattened
        :param drawn: from :meth:`draw`, shape ``(num, 7)``
        :returns: as x, within its smallest and largest value
        """
        if not len(x):
            return x
        images = x.reshape(len(x), *self.image_shape)
        sign, angle, shear, *rest = drawn.to(x).unbind(1)
        images = torch.where(sign[:, None, None, None] < 0, images.flip(-1), images)
        if self.rotate or self.shear or self.zoom or self.shift:
            height, width = self.image_shape[1:]
            # from places of the output to places of the input, both in units where height and width are 2
            cos, sin, (zoom_w, zoom_h, shift_w, shift_h) = angle.cos(), angle.sin(), rest
            aspect, zoom_w, zoom_h = height / width, 1 + zoom_w, 1 + zoom_h
            rows = [
                torch.stack([zoom_w * cos, zoom_h * aspect * (shear * cos - sin), 2 * shift_w], 1),
                torch.stack([zoom_w * sin / aspect, zoom_h * (shear * sin + cos), 2 * shift_h], 1),
            ]
            shape = [len(x), self.image_shape[0], height, width]
            grid = F.affine_grid(torch.stack(rows, 1), shape, align_corners=False)
            images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        return images.reshape(len(x), prod(self.image_shape)) if x.dim() == 2 else images
