"""A classifier of images, trained on real data, that says what generated ones show and how far their features are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .._options import path_of, typed
from ..data import Part, Splits
from ..errors import UserError
from ..rng import seeded
from .checks import check_finite
from .judges import Judge, JudgeConfig, calibrate, check_rows, digest_of, judge_config, kept, train_judge

__all__ = ["Classifier", "trained_classifier"]

Target = Literal["label", "attributes", "condition"]
TARGETS = get_args(Target)

NAME = "classifier"
AT_ONCE = 1000
"""Images of one call outside of training."""

CONFIDENT = 0.95
"""Probability from which on an image counts as confidently classified in the record of a classifier."""

SMALLEST_SIDE = 4


class Classifier(Judge):
    """Small convolutional network from images to one of n classes, or to n attributes that are there or not.

    Convolutions that halve the image until it has 4 pixels a side or fewer, each with batch normalisation and ReLU;
    then a layer of features, and logits. Logits are divided by a temperature, so that :meth:`probabilities` can be
    thresholded: :func:`trained_classifier` fits it to validation data.

    :param image_shape: (channels, height, width)
    :param num_outputs: number of classes or attributes
    :param attributes: outputs are attributes, each with a probability of its own; False: classes
    :param channels: channels of the first convolutions; further ones have as many as the last of these
    :param num_features: number of features
    :param device: where the parameters are made; torch's default when left out
    :param dtype: their type; torch's default when left out
    """

    @typed
    def __init__(
        self,
        image_shape: Sequence[int],
        num_outputs: int,
        attributes: bool = False,
        channels: Sequence[int] = (32, 64, 128),
        num_features: int = 128,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        made: Any = {"device": device, "dtype": dtype}
        super().__init__(image_shape, (num_outputs,) if attributes else (), **made)
        self.num_outputs, self.attributes, self.num_features = num_outputs, attributes, num_features
        size, (height, width) = image_shape[0], image_shape[1:]
        layers: list[nn.Module] = []
        level = 0
        while not level or max(height, width) > SMALLEST_SIDE:
            out = channels[min(level, len(channels) - 1)]
            layers += [nn.Conv2d(size, out, 3, 2, 1, bias=False, **made), nn.BatchNorm2d(out, **made), nn.ReLU()]
            height, width = -(-height // 2), -(-width // 2)
            size, level = out, level + 1
        features = nn.Linear(size * height * width, num_features, **made)
        self.body = nn.Sequential(*layers, nn.Flatten(), features, nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(num_features, num_outputs, **made))

    def forward(self, x: Tensor) -> Tensor:
        """
        :param x: shape ``(num,) + image_shape``
        :returns: logits, shape ``(num, num_outputs)``
        """
        return self.head(self.body(x)) / self.temperature

    def features(self, x: Tensor) -> Tensor:
        """What the last layer sees of images, for distances between sets of them.

        :param x: in [0, 1], shape ``left_shape + image_shape``, or flattened to ``left_shape + (size,)``
        :returns: shape ``left_shape + (num_features,)``
        :raises ValueError: if x is empty, not of these images, or has values that are not finite
        """
        return self._in_chunks(self.body, x, checked=True)

    def probabilities(self, x: Tensor) -> Tensor:
        """Probability of each class, or of each attribute.

        :param x: as for :meth:`features`
        :returns: shape ``left_shape + (num_outputs,)``
        :raises ValueError: as :meth:`features`
        """
        logits = self._in_chunks(self, x, checked=True)
        return logits.sigmoid() if self.attributes else logits.softmax(-1)

    @torch.no_grad()
    def _in_chunks(self, network: Callable[[Tensor], Tensor], x: Tensor, checked: bool = False) -> Tensor:
        """A network in evaluation mode, some images at a time, on the classifier's device."""
        shape = next((s for s in (self.image_shape, (prod(self.image_shape),)) if x.shape[-len(s) :] == s), None)
        if shape is None:
            raise UserError(
                f"x must have rows of shape {self.image_shape}, or flattened, got {tuple(x.shape)}: this classifier is "
                "of other images"
            )
        left_shape, was_training = x.shape[: -len(shape)], self.training
        if not prod(left_shape):
            raise UserError(f"x is empty, shape {tuple(x.shape)}: give at least one image")
        rows = x if len(left_shape) == 1 else x.reshape(-1, *shape)  # bytes that are mapped have one left dimension
        self.eval()
        try:
            found = []
            for part in rows.split(AT_ONCE):
                if checked:
                    check_finite("x", part)
                found.append(network(self.images(part)))
        finally:
            self.train(was_training)
        return torch.cat(found).reshape(*left_shape, -1)


@typed
def trained_classifier(
    data: Splits,
    folder: str | Path,
    *,
    target: Target = "label",
    device: torch.device | str = "cpu",
    progress: bool = True,
    **config: Any,
) -> Classifier:
    """The classifier of some data: read from a folder, or trained and written there.

    Trained by Adam along a cosine on the training part, shifted by up to a fourteenth of the side, with the weights of
    the epoch that the validation part likes best; then a temperature is fitted to the validation part (one for each
    attribute), so that probabilities mean what they say on real images. Where the training part holds grey levels that
    are binarised in every batch, half of the images are binarised and half stay grey: it is for means of a decoder as
    for draws.

    The record beside the weights, in ``classifier.json``, holds how it was trained and, of the test part, ``accuracy``,
    ``share_confident`` (with a probability of at least 0.95) and ``accuracy_confident``; of attributes lists with one
    number each.

    :param data: images, whole ones: a condition that is the rest of an image is not part of what is classified
    :param folder: where it is kept
    :param target: ``"label"``: classes; ``"attributes"``, or where they are the ``"condition"``: each is there where
        its number is above 0
    :param device: where it is trained, and where the network returned is
    :param progress: show a bar in a terminal
    :param config: fields of :class:`~pyro_priors.metrics.JudgeConfig`: ``seed``, ``max_epochs``, ...
    :returns: the network, in evaluation mode
    :raises ValueError: if the data have no images or no such target, an option is unknown or out of range, a loss is
        NaN or infinite, or the folder holds a classifier of other data or trained in another way
    """
    if target not in TARGETS:
        raise UserError(f"target must be one of {', '.join(TARGETS)}, got {target!r}")
    if data.image_shape is None:
        raise UserError(f"data must hold images, {data.name} has x_shape {data.x_shape}: a classifier is of images")
    check_rows(data)
    targets = {name: _target(part, name, target) for name, part in data.parts.items()}
    judged_by, attributes = judge_config(NAME, config), target != "label"
    num_outputs = targets["train"].shape[-1] if attributes else int(data.num_labels or 0)
    trained_by = {
        "data": {
            "name": data.name,
            "size": len(data.train),
            "binarise": data.binarise,
            "sha256": digest_of(*(one for name, part in data.parts.items() for one in (part.x, targets[name]))),
        },
        "network": {"image_shape": list(data.image_shape), "num_outputs": num_outputs, "attributes": attributes},
        "training": dataclasses.asdict(judged_by),
    }
    with seeded(judged_by.seed, device), torch.device("cpu"):
        network = Classifier(data.image_shape, num_outputs, attributes, dtype=torch.float32).to(device)
        place = path_of("folder", folder)
        kept(network, place, NAME, trained_by, lambda: _train(network, data, targets, judged_by, progress))
    return network.eval()


def _train(
    network: Classifier, data: Splits, targets: dict[str, Tensor], config: JudgeConfig, progress: bool
) -> dict[str, Any]:
    """Train and calibrate the network, and return what its record holds."""
    shift = min(network.image_shape[1:]) // 14

    def batch_loss(rows: Tensor) -> Tensor:
        x = network.images(data.train.x[rows])
        if data.binarise:
            stays = torch.rand(len(x), 1, 1, 1, dtype=torch.float32, device="cpu").to(x) < 0.5
            x = torch.where(stays, x, torch.bernoulli(x))
        return _loss(network, network(_shifted(x, shift)), targets["train"][rows].to(x.device))

    def valid_loss() -> float:
        return _loss(network, _logits(network, data.valid.x), targets["valid"]).item()

    losses = train_judge(network, len(data.train), batch_loss, valid_loss, config, NAME, progress)
    _calibrate(network, data.valid.x, targets["valid"])
    return {"valid_loss": losses, **_accuracy(network, data.test.x, targets["test"])}


def _target(part: Part, name: str, target: Target) -> Tensor:
    """Classes, shape ``(num,)``, or attributes as 0 and 1, shape ``(num, num_attributes)``."""
    values: Tensor | None = getattr(part, target)
    if values is None:
        raise UserError(
            f"target is '{target}', and the {name} part has none: choose another one of {', '.join(TARGETS)}"
        )
    return values if target == "label" else (values.flatten(1) > 0).float()


def _loss(network: Classifier, logits: Tensor, target: Tensor) -> Tensor:
    if network.attributes:
        return F.binary_cross_entropy_with_logits(logits, target)
    return F.cross_entropy(logits, target)


def _logits(network: Classifier, x: Tensor) -> Tensor:
    return network._in_chunks(network, x).cpu()


def _shifted(x: Tensor, most: int) -> Tensor:
    """The images of a batch, moved by the same random number of pixels, edges repeated."""
    if not most:
        return x
    height, width = x.shape[-2:]
    top, left = torch.randint(2 * most + 1, (2,), device="cpu").tolist()
    return F.pad(x, [most] * 4, mode="replicate")[..., top : top + height, left : left + width]


def _calibrate(network: Classifier, x: Tensor, target: Tensor) -> None:
    """Set the temperature to the one of the smallest loss on these data."""
    target = target.double() if network.attributes else target
    calibrate(network, _logits(network, x), lambda logits: _loss(network, logits, target))


def _accuracy(network: Classifier, x: Tensor, target: Tensor) -> dict[str, Any]:
    probabilities = network.probabilities(x).cpu()
    if network.attributes:
        confidence = torch.maximum(probabilities, 1 - probabilities)
        right = (probabilities > 0.5) == (target > 0.5)
    else:
        confidence, chosen = probabilities.max(-1)
        right = chosen == target
    confident = confidence >= CONFIDENT
    among = (right & confident).double().sum(0) / confident.sum(0).clamp(min=1)
    found = {
        "accuracy": right.double().mean(0),
        "share_confident": confident.double().mean(0),
        "accuracy_confident": among,
    }
    return {name: value.tolist() for name, value in found.items()}
