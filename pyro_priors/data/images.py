"""Image sets that need no or a small download: scikit-learn's digits, MNIST and Fashion-MNIST."""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .._limits import Refused
from ..errors import MissingFileError
from .checks import check_below, check_unit_interval
from .registry import DataConfig, check_may_download, data_root, register_data
from .splits import Part, Splits

if TYPE_CHECKING:
    from torchvision.datasets import MNIST

__all__ = ["grey_images"]

SIDE = 28
LARGEST = 16 + 60_000 * SIDE**2
"""Bytes of the largest file of MNIST, and of Fashion-MNIST."""


def grey_images(name: str, train: Part, valid: Part, test: Part, *, num_labels: int | None, source: str) -> Splits:
    """All parts grey, shaped (N, channels, height, width); :func:`load` binarises them as its options ask.

    :raises ValueError: if gray levels lie outside [0, 1], or labels are not below ``num_labels``
    """
    splits = Splits(
        name,
        train,
        valid,
        test,
        likelihood="bernoulli",
        image_shape=tuple(train.x.shape[1:]),
        num_labels=num_labels,
        binarise=True,
        source=source,
    )
    for part_name, part in splits.parts.items():
        check_unit_interval(f"{name}: {part_name}.x", part.x)
        if part.label is not None and num_labels is not None:
            check_below(f"{name}: {part_name}.label", part.label, num_labels)
    return splits


@register_data("digits")
def digits(config: DataConfig) -> Splits:
    """The 1,797 handwritten digits of 8x8 pixels that come with scikit-learn; no download.

    Counts 0 to 16 divided by 16. 1,297 training, 250 validation and 250 test images, classes in equal shares.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    train, rest = train_test_split(range(len(images)), test_size=500, random_state=config.seed, stratify=labels)
    valid, test = train_test_split(rest, test_size=250, random_state=config.seed, stratify=labels[rest])
    everything = Part(
        torch.from_numpy(images).to(torch.float32).reshape(-1, 1, 8, 8) / 16,
        None,
        torch.from_numpy(labels).long(),
    )
    return grey_images(
        "digits",
        *(everything.take(torch.tensor(index, device="cpu")) for index in (train, valid, test)),
        num_labels=10,
        source=f"scikit-learn's load_digits, split 1297/250/250 by class with seed {config.seed}",
    )


@register_data("mnist")
def mnist(config: DataConfig) -> Splits:
    """MNIST, 28x28: 50,000 training, 10,000 validation and 10,000 test images.

    The validation images are the last of the official training part, as in the literature.
    """
    from torchvision.datasets import MNIST

    return _official_with_last_10k("mnist", MNIST, config)


@register_data("fashion_mnist")
def fashion_mnist(config: DataConfig) -> Splits:
    """Fashion-MNIST, 28x28, split as :func:`mnist`."""
    from torchvision.datasets import FashionMNIST

    splits = _official_with_last_10k("fashion_mnist", FashionMNIST, config)
    return replace(splits, label_names=tuple(FashionMNIST.classes))


def _official_with_last_10k(name: str, kind: "type[MNIST]", config: DataConfig) -> Splits:
    root = data_root(config)
    folder = root / kind.__name__ / "raw"
    files = (f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
    if not all((folder / file).is_file() for file in files):
        check_may_download(name, folder)
    try:
        for file in folder.glob("*-ubyte"):
            if file.stat().st_size > LARGEST:
                raise Refused(
                    f"{file} has {file.stat().st_size} bytes, more than the {LARGEST} of the largest: replace it"
                )
        # torchvision downloads only what is not there
        training, testing = (kind(str(root), train=train, download=True) for train in (True, False))
        for part in (training, testing):
            if part.data.shape[1:] != (SIDE, SIDE) or part.targets.shape != part.data.shape[:1]:
                raise ValueError(f"images of shape {tuple(part.data.shape)} with labels {tuple(part.targets.shape)}")
    except Refused:
        raise
    except (OSError, RuntimeError, ValueError, AssertionError) as error:
        raise MissingFileError(
            f"{name}: neither read from {folder} nor downloaded ({str(error) or 'damaged file'}): "
            "put the files train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and "
            "t10k-labels-idx1-ubyte there, or set PYRO_PRIORS_DATA (or the option root) to the "
            "folder that has them"
        ) from error
    train = Part(_grey(training.data), None, training.targets)
    return grey_images(
        name,
        train.take(slice(None, -10_000)),
        train.take(slice(-10_000, None)),
        Part(_grey(testing.data), None, testing.targets),
        num_labels=10,
        source=f"{kind.__name__}, official test part; valid: the last 10,000 training images",
    )


def _grey(images: Tensor) -> Tensor:
    """0..255, (N, height, width), as grey levels in [0, 1], (N, 1, height, width)."""
    return images.to(torch.float32).div_(255).unsqueeze(1)
