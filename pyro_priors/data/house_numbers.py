"""SVHN, digits of house numbers in colour, from whichever form of it lies in the data folder."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from .._limits import decoding, read_arrays, read_mat
from ..errors import MissingFileError
from .levels import Levels
from .registry import DataConfig, check_may_download, data_root, register_data
from .splits import Part, Splits

__all__: list[str] = []

SHAPE = (3, 32, 32)
NUM_LABELS = 10
SUBSET = "svhn_10k.npz"


@register_data("svhn")
def svhn(config: DataConfig) -> Splits:
    """Street View House Numbers (Netzer et al. 2011), cropped digits in colour, 32x32, levels k/255; 10 labels.

    The folder ``svhn`` of the data folder has one of

    1. the official ``train_32x32.mat`` and ``test_32x32.mat``, which torchvision downloads where neither form is there:
       65,931 training, 7,326 validation (the last tenth of the official training part) and 26,032 test images;
    2. ``svhn_10k.npz``, the first 10,000 images of the official test part: 8,000, 1,000 and 1,000 in their order.

    Neighbours often come from one house, so no part is shuffled before it is split. Images are kept as bytes.
    """
    folder = data_root(config) / "svhn"
    official = [folder / f"{part}_32x32.mat" for part in ("train", "test")]
    if not all(path.is_file() for path in official):
        if (folder / SUBSET).is_file():
            images, labels = _subset(folder / SUBSET)
            whole = _part(images, labels)
            held_out = len(whole) // 10
            cuts = (slice(None, -2 * held_out), slice(-2 * held_out, -held_out), slice(-held_out, None))
            parts = [whole.take(rows) for rows in cuts]
            return _splits(parts, f"{SUBSET}, a subset of the official test part, split in its order")
        check_may_download("svhn", folder)
        _download(folder)
    rest, test = (_part(*_official(path)) for path in official)
    held_out = len(rest) // 10 + (len(rest) % 10 > 0)
    parts = [rest.take(slice(None, -held_out)), rest.take(slice(-held_out, None)), test]
    return _splits(parts, f"official files; valid: the last {held_out} training images")


def _splits(parts: list[Part], source: str) -> Splits:
    sizes = "/".join(str(len(part)) for part in parts)
    train, valid, test = parts
    return Splits(
        "svhn",
        train,
        valid,
        test,
        likelihood="gaussian",
        image_shape=SHAPE,
        num_labels=NUM_LABELS,
        source=f"{source}, {sizes} images",
    )


def _part(images: NDArray, labels: NDArray) -> Part:
    """Images of shape (N, 32, 32, 3) and labels 0 to 9."""
    levels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return Part(cast(Any, Levels(levels)), None, torch.from_numpy(labels.astype(np.int64)))


def _subset(path: Path) -> tuple[NDArray, NDArray]:
    with decoding(path, "readable as images and labels of SVHN"):
        arrays, _ = read_arrays(path, ("images", "labels"))
        return _checked(arrays["images"], arrays["labels"])


def _official(path: Path) -> tuple[NDArray, NDArray]:
    with decoding(path, "readable as SVHN's 'X' and 'y'"):
        content = read_mat(path, ("X", "y"))
        # the digit 0 has the label 10
        labels = content["y"].flatten()
        return _checked(content["X"].transpose(3, 0, 1, 2), np.where(labels == 10, 0, labels))


def _checked(images: NDArray, labels: NDArray) -> tuple[NDArray, NDArray]:
    if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3) or len(images) != len(labels) or len(images) < 10:
        raise ValueError(f"{images.dtype} images of shape {images.shape} with {len(labels)} labels")
    if not np.isin(labels, range(NUM_LABELS)).all():  # also numbers that are not whole, and NaN
        raise ValueError(f"labels from {labels.min()} to {labels.max()}")
    return images, labels


def _download(folder: Path) -> None:
    from torchvision.datasets import SVHN

    try:
        for part in ("train", "test"):
            SVHN(str(folder), split=part, download=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise MissingFileError(
            f"svhn: neither found in {folder} nor downloaded ({str(error) or 'damaged file'}): put train_32x32.mat and "
            f"test_32x32.mat, or {SUBSET}, there, or set PYRO_PRIORS_DATA (or the option root) to the folder that has "
            "svhn/"
        ) from error
