"""What generated grasp poses are worth: a discriminator of pairs of image and pose, and the rectangle metric."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .._options import Seed, path_of, typed
from ..data import Part, Splits
from ..data.poses import POSE, corners_of, drawn_pose
from ..errors import UserError
from ..rng import seeded
from .checks import check_categories, check_values
from .given import conditions_of
from .judges import Judge, JudgeConfig, calibrate, check_rows, digest_of, judge_config, kept, train_judge

__all__ = [
    "CERTAIN",
    "GraspDiscriminator",
    "agree",
    "images_of",
    "jaccard",
    "pair_scores",
    "rectangle_metric",
    "trained_discriminator",
]

NAME = "discriminator"
AT_ONCE = 1000
CERTAIN = 0.99
"""Score from which on a pose counts as certain, in the record of a discriminator and in the paper."""

LEAST_OVERLAP, MOST_ANGLE = 0.25, math.radians(30)


class GraspDiscriminator(Judge):
    r"""Probability that image and pose belong together.

    .. math:: D(x, y) \to \frac{p(x, y)}{p(x, y) + p(x)\, p(y)}

    so that a score of 0.99 would stand for a pose that is 99 times as dense given this image as it is on the whole.
    Logits are divided by a temperature, which :func:`trained_discriminator` fits to validation data; one number cannot
    make every score right, and :func:`pair_scores` shows what others' poses get. Convolutions that halve the image, a
    layer of the pose, and two layers of both.

    :param image_shape: (channels, height, width) of the condition
    :param channels: channels of the convolutions
    :param hidden: size of the other layers
    :param device: where the parameters are made; torch's default when left out
    :param dtype: their type; torch's default when left out
    :raises ValueError: if the image is too small to be halved by each convolution

    What differs from the paper: it describes the data and not the network, which is ours.

    Reference: section 4.3 of Klushyn et al. (2019), after Jeffrey Mahler et al., Dex-Net 2.0, RSS 2017.
    """

    @typed
    def __init__(
        self,
        image_shape: Sequence[int],
        channels: Sequence[int] = (16, 32, 64, 128),
        hidden: int = 256,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        made: Any = {"device": device, "dtype": dtype}
        super().__init__(image_shape, **made)
        size, height, width = image_shape
        if min(height, width) < 2 ** len(channels):
            raise UserError(
                f"image_shape must have a height and a width of at least {2 ** len(channels)} for {len(channels)} "
                f"convolutions that halve them, got {tuple(image_shape)}: give fewer channels"
            )
        layers: list[nn.Module] = []
        for out in channels:
            layers += [nn.Conv2d(size, out, 4, 2, 1, bias=False, **made), nn.BatchNorm2d(out, **made), nn.ReLU()]
            size, height, width = out, height // 2, width // 2
        of_image = nn.Linear(size * height * width, hidden, **made)
        self.of_image = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), of_image)
        of_pose = nn.Linear(len(POSE), hidden, **made), nn.ReLU(), nn.Linear(hidden, hidden, **made)
        self.of_pose = nn.Sequential(*of_pose)
        before, after = nn.Linear(hidden, hidden, **made), nn.Linear(hidden, 1, **made)
        self.of_both = nn.Sequential(nn.ReLU(), before, nn.ReLU(), nn.Dropout(0.3), after)

    def forward(self, pose: Tensor, image: Tensor) -> Tensor:
        """
        :param pose: shape ``(num,) + left_shape + (6,)``; seen as the rectangle that it is drawn as
            (:func:`~pyro_priors.data.poses.drawn_pose`), as all those of the training are
        :param image: shape ``(num,) + image_shape``, or flattened
        :returns: logits, shape ``(num,) + left_shape``
        """
        seen = self.of_image(self.images(image))
        seen = seen.reshape(-1, *[1] * (pose.dim() - 2), seen.shape[-1])
        return self.of_both(seen + self.of_pose(drawn_pose(pose))).squeeze(-1) / self.temperature

    @torch.no_grad()
    def logits(self, pose: Tensor, image: Tensor) -> Tensor:
        """Logits of poses, several for each image or one, in evaluation mode, on the CPU; shapes as in
        :meth:`forward`.

        :raises ValueError: if a shape is another, or a number is not finite
        """
        check_values("pose", pose, ..., len(POSE))
        check_values("image", image, len(pose), ...)
        was_training = self.training
        self.eval()
        try:
            parts = zip(pose.split(AT_ONCE), image.split(AT_ONCE), strict=True)
            return torch.cat([self(poses.to(self.temperature), images).cpu() for poses, images in parts])
        finally:
            self.train(was_training)

    def scores(self, pose: Tensor, image: Tensor) -> Tensor:
        """D, the sigmoid of :meth:`logits`."""
        return self.logits(pose, image).sigmoid()


@typed
def trained_discriminator(
    data: Splits, folder: str | Path, *, device: torch.device | str = "cpu", progress: bool = True, **config: Any
) -> GraspDiscriminator:
    """The discriminator of some grasps: read from a folder, or trained and written there.

    Half of what it sees in training are the pairs of the training part, half the same images with poses of others drawn
    at random; each batch is mirrored or not, both ways. The weights of the epoch of the smallest loss on the validation
    part are kept, and a temperature is fitted to that part. The record beside them, in ``discriminator.json``, has of
    the test part ``accuracy`` over pairs and others in equal parts, ``share_above_99_of_pairs`` and
    ``share_above_99_of_others``: the shares of either that score at least 0.99. Were the scores right, others would
    have at most a 99th of the pairs' share.

    :param data: poses as x, images as conditions
    :param folder: where it is kept
    :param device: where it is trained, and where the network returned is
    :param progress: show a bar in a terminal
    :param config: fields of :class:`~pyro_priors.metrics.JudgeConfig`: ``seed``, ``max_epochs``, ...
    :returns: the network, in evaluation mode
    :raises ValueError: if the condition is no image, an option is unknown or out of range, a loss is NaN or infinite,
        or the folder holds a discriminator of other data or trained in another way
    """
    if data.condition_image_shape is None or data.x_shape != (len(POSE),):
        raise UserError(f"data must have poses as x and images as conditions, {data.name} has not: use 'cornell'")
    check_rows(data)
    judged_by = judge_config(NAME, config)
    contents = [values for part in data.parts.values() for values in (part.x, conditions_of(part))]
    trained_by = {
        "data": {"name": data.name, "source": data.source, "sha256": digest_of(*contents)},
        "training": dataclasses.asdict(judged_by),
    }
    with seeded(judged_by.seed, device), torch.device("cpu"):
        network = GraspDiscriminator(data.condition_image_shape, dtype=torch.float32).to(device)
        kept(network, path_of("folder", folder), NAME, trained_by, lambda: _train(network, data, judged_by, progress))
    return network.eval()


def _train(network: GraspDiscriminator, data: Splits, config: JudgeConfig, progress: bool) -> dict[str, Any]:
    """Train the network, and return what its record holds."""
    device, train = network.temperature.device, data.train
    belongs = torch.tensor([1.0, 0.0], device="cpu")

    def batch_loss(rows: Tensor) -> Tensor:
        others = torch.randint(len(train), rows.shape, device="cpu")
        pose = torch.stack([train.x[rows], train.x[others]], 1)
        pose, image = _mirrored(pose, network.images(conditions_of(train)[rows]))
        return loss(network(pose.to(device), image))

    def loss(logits: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, belongs.to(logits).expand_as(logits))

    def valid_logits() -> Tensor:
        return network.logits(_with_others(data.valid, config.seed), conditions_of(data.valid))

    losses = train_judge(network, len(train), batch_loss, lambda: loss(valid_logits()).item(), config, NAME, progress)
    calibrate(network, valid_logits(), loss)
    true, other = pair_scores(network, data.test, config.seed)
    return {
        "valid_loss": losses,
        "accuracy": ((true > 0.5).double().mean().item() + (other <= 0.5).double().mean().item()) / 2,
        "share_above_99_of_pairs": (true >= CERTAIN).double().mean().item(),
        "share_above_99_of_others": (other >= CERTAIN).double().mean().item(),
    }


@typed
def pair_scores(discriminator: GraspDiscriminator, part: Part, seed: Seed = 0) -> tuple[Tensor, Tensor]:
    """Scores of the known poses of a part, and of as many poses of others at the same images.

    The share of the second at or above a threshold is what a score is worth: a pose that was made for any image gets
    there as often.

    :param seed: seed of whose pose goes to which image
    :returns: two of shape ``(num,)``
    """
    true, other = discriminator.scores(_with_others(part, seed), conditions_of(part)).unbind(1)
    return true, other


def _with_others(part: Part, seed: Seed) -> Tensor:
    """Each pose, and that of another drawn at random; shape ``(num, 2, 6)``."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.stack([part.x, part.x[torch.randperm(len(part), generator=generator, device="cpu")]], 1)


def _mirrored(pose: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """A batch mirrored at the vertical axis, at the horizontal one, at both or none: angles change their sign."""
    for axis, dim in ((0, -1), (1, -2)):
        if torch.rand((), dtype=torch.float32, device="cpu") < 0.5:
            sign = pose.new_ones(len(POSE))
            sign[[axis, POSE.index("sin 2t")]] = -1
            pose, image = pose * sign, image.flip(dim)
    return pose, image


@typed
def images_of(part: Part) -> tuple[Tensor, Tensor]:
    """The images of a part, whose grasps follow each other, and the number of the image of each grasp.

    :returns: shapes ``(num_images,) + condition_shape`` and ``(num_grasps,)``
    """
    return torch.unique_consecutive(conditions_of(part), dim=0, return_inverse=True)


@typed
def jaccard(corners: Tensor, others: Tensor) -> Tensor:
    """Area that two rectangles share over the area that they cover together, 0 where one has none.

    The corners of what they share are corners of one inside of the other, and crossings of their edges.

    :param corners: in order around each, as :func:`~pyro_priors.data.poses.corners_of` gives, shape
        ``left_shape + (4, 2)``
    :param others: likewise; left shapes broadcast
    :returns: float64, shape ``left_shape``
    :raises ValueError: if a shape is another, or a corner is not finite
    """
    check_values("corners", corners, ..., 4, 2, least=0)
    check_values("others", others, ..., 4, 2, least=0)
    try:
        a, b = torch.broadcast_tensors(corners.double(), others.double())
    except RuntimeError:
        shapes = f"{tuple(corners.shape)} and {tuple(others.shape)}"
        raise UserError(f"corners and others must have shapes that broadcast, got {shapes}: reshape one") from None
    middle = a.mean(-2, keepdim=True)  # areas of products of far coordinates would be mostly rounding
    a, b = a - middle, b - middle
    crossings, crossed = _crossings(a, b)
    points = torch.cat([a, b, crossings], -2)  # left_shape + (24, 2)
    there = torch.cat([_inside(a, b), _inside(b, a), crossed], -1)
    first = there.to(torch.uint8).argmax(-1)[..., None, None].expand(*points.shape[:-2], 1, 2)
    points = torch.where(there.unsqueeze(-1), points, points.gather(-2, first))  # the others fall together with one
    centre = (points * there.unsqueeze(-1)).sum(-2, keepdim=True) / there.sum(-1).clamp(min=1)[..., None, None]
    angle = torch.atan2(*(points - centre).flip(-1).unbind(-1))
    around = points.gather(-2, angle.argsort(-1).unsqueeze(-1).expand_as(points))
    shared = torch.where(there.any(-1), _area(around), 0.0)
    together = _area(a) + _area(b) - shared
    return torch.where(together > 0, shared / torch.where(together > 0, together, 1.0), 0.0)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _area(corners: Tensor) -> Tensor:
    return 0.5 * _cross(corners, corners.roll(-1, -2)).sum(-1).abs()


def _inside(points: Tensor, corners: Tensor) -> Tensor:
    """Whether each point is inside of a rectangle or on its edge, which is the case of no point if it has no area.

    A point on an edge may be beyond it by rounding: a billionth of the area is let pass.
    """
    edges = (corners.roll(-1, -2) - corners).unsqueeze(-3)
    side = _cross(edges, points.unsqueeze(-2) - corners.unsqueeze(-3))  # left_shape + (points, edges)
    area = _area(corners).unsqueeze(-1)
    slack = 1e-9 * area.unsqueeze(-1)
    within = (side >= -slack).all(-1) | (side <= slack).all(-1)
    return within & (area > 0)


def _crossings(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Where each edge of one crosses each of the other, shape ``left_shape + (16, 2)``, and whether it does."""
    from_a, along_a = a.unsqueeze(-2), (a.roll(-1, -2) - a).unsqueeze(-2)
    from_b, along_b = b.unsqueeze(-3), (b.roll(-1, -2) - b).unsqueeze(-3)
    turn = _cross(along_a, along_b)
    parallel = turn.abs() <= 1e-9 * along_a.norm(dim=-1) * along_b.norm(dim=-1)  # but for rounding
    safe = torch.where(parallel, 1.0, turn)
    s, t = _cross(from_b - from_a, along_b) / safe, _cross(from_b - from_a, along_a) / safe
    does = ~parallel & (s >= 0) & (s <= 1) & (t >= 0) & (t <= 1)
    return (from_a + s.unsqueeze(-1) * along_a).flatten(-3, -2), does.flatten(-2)


@typed
def agree(pose: Tensor, other: Tensor) -> Tensor:
    """Whether two grasps are one by the rectangle metric: overlap above 0.25, and angles less than 30 degrees apart.

    :param pose: shape ``left_shape + (6,)``, see :data:`~pyro_priors.data.poses.POSE`
    :param other: likewise; left shapes broadcast
    :returns: shape ``left_shape``
    :raises ValueError: if a shape is another, or a number is not finite

    Reference: Yun Jiang, Stephen Moseson and Ashutosh Saxena, Efficient grasping from RGBD images: learning using a
    new rectangle representation, ICRA 2011.
    """
    check_values("pose", pose, ..., len(POSE), least=0)
    check_values("other", other, ..., len(POSE), least=0)
    pose, other = pose.double(), other.double()
    (sine, cosine), (other_sine, other_cosine) = (values[..., 4:].unbind(-1) for values in (pose, other))
    across, along = sine * other_cosine - cosine * other_sine, cosine * other_cosine + sine * other_sine
    apart = torch.atan2(across, along).abs() / 2
    return (jaccard(corners_of(pose), corners_of(other)) > LEAST_OVERLAP) & (apart < MOST_ANGLE)


@typed
def rectangle_metric(pose: Tensor, truth: Tensor, image: Tensor) -> Tensor:
    """Whether each generated grasp agrees with one of those of its image (:func:`agree`).

    :param pose: generated, shape ``(num_images, num_samples, 6)``
    :param truth: the grasps that are known, shape ``(num_grasps, 6)``
    :param image: number of the image of each of these, shape ``(num_grasps,)``
    :returns: shape ``(num_images, num_samples)``
    :raises ValueError: if a shape is another, a number is not finite, or an image is not among those of ``pose``
    """
    check_values("pose", pose, "num_images", "num_samples", len(POSE))
    check_values("truth", truth, "num_grasps", len(POSE))
    image = check_categories("image", image, len(truth), len(pose))
    matched = agree(pose[image], truth.unsqueeze(1))  # (num_grasps, num_samples)
    return pose.new_zeros(pose.shape[:2]).index_add_(0, image, matched.to(pose)) > 0
