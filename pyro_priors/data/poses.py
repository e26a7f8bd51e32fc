"""Grasp poses as six numbers, and as the corners of rectangles."""

import torch
from torch import Tensor

__all__ = ["POSE", "corners_of", "drawn_pose", "pose_from", "pose_of"]

POSE = ("centre x", "centre y", "opening", "jaw", "sin 2t", "cos 2t")
r"""What the six numbers of a pose are, each in [-1, 1].

Centre: -1 and 1 at the left and right, upper and lower edge of the image. Opening: length of the edges along which a
gripper opens, -1 for none and 1 for half of the image's side (more than any in Cornell's views), at an angle t,
counter-clockwise from the horizontal. Jaw: the other edges', likewise. A rectangle turned by :math:`\pi` is the same
grasp, and only twice the angle tells so.

Klushyn et al. (2019) name a centre, a short and a long axis and an angle, and no numbers. Which axis is longer does not
say how to grip (in 12% of Cornell's grasps it is the jaw), so that ours are told apart by what they are.
"""


def corners_of(pose: Tensor, side: float = 64) -> Tensor:
    """The rectangle of a pose, for drawing and for overlaps.

    Of a pose that a model generated, sine and cosine need not be those of one angle (their ratio counts), and lengths
    below 0 are 0.

    :param pose: shape ``left_shape + (6,)``, see :data:`POSE`
    :param side: side of the image, in pixels
    :returns: corners x, y in pixels from the upper left, in order around the rectangle, shape ``left_shape + (4, 2)``;
        the first to the second, and the third to the fourth, is the opening
    """
    centre, (opening, jaw) = pose[..., :2], (pose[..., 2:4] + 1).clamp(min=0).unbind(-1)
    angle = torch.atan2(pose[..., 4], pose[..., 5]) / 2
    along = torch.stack([angle.cos(), -angle.sin()], -1)  # y points down
    across = torch.stack([angle.sin(), angle.cos()], -1)
    half_opening, half_jaw = opening[..., None] / 4 * along, jaw[..., None] / 4 * across
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    corners = torch.stack([centre + one * half_opening + other * half_jaw for one, other in signs], -2)
    return (corners + 1) / 2 * side


def drawn_pose(pose: Tensor) -> Tensor:
    """The pose of the same rectangle whose sine and cosine are those of one angle, and whose lengths are 0 or more.

    :param pose: such as a model generates, shape ``left_shape + (6,)``
    :returns: like ``pose``; a known one stays as it is, but for rounding
    """
    double = torch.atan2(pose[..., 4], pose[..., 5])
    return torch.cat([pose[..., :2], pose[..., 2:4].clamp(min=-1), torch.stack([double.sin(), double.cos()], -1)], -1)


def pose_of(corners: Tensor, side: float = 64) -> Tensor:
    """The pose of a rectangle, the inverse of :func:`corners_of`; corners that begin at the opposite one have the same.

    :param corners: shape ``left_shape + (4, 2)``
    :param side: side of the image, in pixels
    :returns: shape ``left_shape + (6,)``
    """
    along, across = corners[..., 1, :] - corners[..., 0, :], corners[..., 2, :] - corners[..., 1, :]
    lengths = torch.stack([along.norm(dim=-1), across.norm(dim=-1)], -1)
    return pose_from(corners.mean(-2), lengths, torch.atan2(-along[..., 1], along[..., 0]), side)


def pose_from(centre: Tensor, lengths: Tensor, angle: Tensor, side: float) -> Tensor:
    """The pose of a centre and lengths in pixels and an angle.

    :param centre: x and y from the upper left, shape ``left_shape + (2,)``
    :param lengths: opening and jaw, shape ``left_shape + (2,)``
    :param angle: of the opening, in radians, shape ``left_shape``
    :param side: side of the image, in pixels
    :returns: shape ``left_shape + (6,)``
    """
    placed = torch.cat([centre, 2 * lengths], -1) * 2 / side - 1
    return torch.cat([placed, (2 * angle).sin()[..., None], (2 * angle).cos()[..., None]], -1)
