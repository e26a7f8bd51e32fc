"""CelebA: faces in colour, decoded once into an array that is mapped into memory."""

from pathlib import Path
from textwrap import shorten
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from .._limits import Refused, check_bytes, decoding, open_image
from ..errors import MissingFileError, UserError
from .decoded import decoded_images
from .levels import Levels
from .registry import DataConfig, check_may_download, data_root, register_data
from .splits import Part, Splits

__all__: list[str] = []

WIDTH, HEIGHT, CROP = 178, 218, 148
"""Of an official aligned image, and the side of the square in its middle that is kept."""

NUM_ATTRIBUTES = 40

TEXT_IN_MEMORY = 10
"""About how many times its size a text file takes in memory as lines and numbers."""


@register_data("celeba")
def celeba(config: DataConfig) -> Splits:
    """CelebA (Liu et al. 2015): aligned faces in colour, 64x64 or of another ``side``, levels k/255, with 40 attributes
    of 0 or 1 each.

    The folder ``celeba`` of the data folder holds, as torchvision lays them out, ``img_align_celeba/*.jpg`` (178x218,
    or reduced to half that), ``list_attr_celeba.txt``, ``identity_CelebA.txt`` and, if there is one,
    ``list_eval_partition.txt``; where they are not there, torchvision downloads them. Of each image the middle 148x148
    (74x74) pixels are brought to that size by cubic interpolation; the paper's "cropped version" is described nowhere.

    No person is in two parts. With ``list_eval_partition.txt`` they are those of that file, as it is (CelebA's own is
    by identity: 162,770, 19,867 and 19,962 images); without it a tenth of the identities each, drawn with ``seed``, are
    the validation and the test part.

    The images, all of them whatever the ``limit``, are decoded once, into an array in ``~/.cache/pyro_priors/decoded``
    (2.5 GB for all of CelebA, 4.5 GB at 86x86; see ``pyro-priors cache``), which a line announces. The array is
    compared with its checksum and mapped into memory: with the official parts it is not copied, without them the parts
    are. Where it cannot be written, the images are decoded into memory.
    ``condition_labels`` makes the attributes the condition.
    """
    folder = data_root(config) / "celeba"
    if not (folder / "img_align_celeba").is_dir():
        check_may_download("celeba", folder)
        _download(folder)
    names, attributes, attribute_names = _attributes(folder / "list_attr_celeba.txt")
    images = torch.from_numpy(_decoded([folder / "img_align_celeba" / name for name in names], config.side))
    whole = Part(cast(Any, Levels(images)), attributes=attributes)
    if (folder / "list_eval_partition.txt").is_file():
        part_of = _numbers(folder / "list_eval_partition.txt", names)
        if (wrong := part_of[(part_of < 0) | (part_of > 2)]).size:
            raise UserError(
                f"{folder / 'list_eval_partition.txt'} must hold 0, 1 or 2 for train, valid or test, got {wrong[0]}: "
                "replace it"
            )
        how = "the official parts"
    else:
        part_of = _by_identity(_numbers(folder / "identity_CelebA.txt", names), config.seed)
        how = f"a tenth of the identities each for valid and test, seed {config.seed}"
    parts = [whole.take(_rows(part_of == number)) for number in range(3)]
    if not all(len(part) for part in parts):
        raise UserError(f"celeba: a part has no images in {folder}: give images of all three parts")
    first = _opened(folder / "img_align_celeba" / names[0])
    size, crop = f"{first.width}x{first.height}", _side_of_crop(first)
    train, valid, test = parts
    return Splits(
        "celeba",
        train,
        valid,
        test,
        likelihood="gaussian",
        image_shape=(3, config.side, config.side),
        attribute_names=attribute_names,
        source=f"{len(names)} aligned images of {size} pixels, the middle {crop}x{crop} at "
        f"{config.side}x{config.side}; {how}, {'/'.join(str(len(part)) for part in parts)} images",
    )


def _rows(chosen: NDArray) -> Any:
    """Positions, as a slice where they follow each other, so that the mapped array is not copied."""
    index = np.flatnonzero(chosen)
    if len(index) and index[-1] - index[0] + 1 == len(index):
        return slice(int(index[0]), int(index[-1]) + 1)
    return torch.from_numpy(index)


def _attributes(path: Path) -> tuple[list[str], torch.Tensor, tuple[str, ...]]:
    """Names of the images, their attributes as 0 and 1, and the attributes' names."""
    _check_there(path)
    with decoding(path, f"CelebA's list of {NUM_ATTRIBUTES} attributes of -1 or 1"):
        _, head, *lines = _lines(path)
        if len(head.split()) != NUM_ATTRIBUTES:
            raise ValueError(f"{len(head.split())} names")
        names, rows = zip(*(line.split(maxsplit=1) for line in lines), strict=True)
        attributes = []
        for name, row in zip(names, rows, strict=True):
            values = row.split()
            if len(values) != NUM_ATTRIBUTES:
                raise ValueError(f"{shorten(name, 80)} has {len(values)} values")
            if not set(values) <= {"-1", "1"}:
                wrong = next(value for value in values if value not in ("-1", "1"))
                raise ValueError(f"{shorten(name, 80)} has {shorten(wrong, 40)}")
            if Path(name).name != name:
                raise ValueError(f"{shorten(name, 80)} is not the name of a file")
            attributes.append([value == "1" for value in values])
    return list(names), torch.tensor(attributes, dtype=torch.float32, device="cpu"), tuple(head.split())


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise MissingFileError(f"celeba: {path} is missing: put it there, it is one of CelebA's own files")


def _lines(path: Path) -> list[str]:
    """The lines of a file that are not empty."""
    check_bytes(f"{path}", TEXT_IN_MEMORY * path.stat().st_size)
    return [line for line in path.read_text().splitlines() if line.strip()]


def _numbers(path: Path, names: list[str]) -> NDArray:
    """The number that a file of lines ``NAME NUMBER`` has for each image."""
    _check_there(path)
    with decoding(path, "a line 'NAME NUMBER' for each image"):
        found = {name: int(number) for name, number in map(str.split, _lines(path))}
        return np.array([found[name] for name in names], dtype=np.int64)


def _by_identity(identity: NDArray, seed: int) -> NDArray:
    """0, 1 or 2 for each image, for train, valid and test."""
    people = np.unique(identity)
    held_out = max(1, round(len(people) / 10))
    order = np.random.default_rng(seed).permutation(people)
    return np.where(
        np.isin(identity, order[:held_out]), 1, np.where(np.isin(identity, order[held_out : 2 * held_out]), 2, 0)
    )


def _decoded(files: list[Path], side: int) -> NDArray:
    """The images, uint8, shape ``(N, 3, side, side)``, mapped into memory; decoded where that has not been done yet."""
    return decoded_images("celeba", files, f"{CROP} {side} cubic", (3, side, side), lambda file: _face(file, side))


def _face(file: Path, side: int) -> NDArray:
    """The middle of an aligned image, uint8, shape ``(3, side, side)``."""
    from PIL import Image

    image = _opened(file)
    crop = _side_of_crop(image)
    left, top = (image.width - crop) // 2, (image.height - crop) // 2
    middle = image.resize((side, side), Image.Resampling.BICUBIC, (left, top, left + crop, top + crop))
    return np.asarray(middle).transpose(2, 0, 1)


def _side_of_crop(image: Any) -> int:
    return round(image.width * CROP / WIDTH)


def _opened(file: Path) -> Any:
    with decoding(file, "a readable image"), open_image(file) as image:
        if image.size not in ((WIDTH, HEIGHT), (WIDTH // 2, HEIGHT // 2)):
            width, height = image.size
            raise Refused(f"{file} has {width}x{height} pixels: give the aligned {WIDTH}x{HEIGHT}, or half that")
        return image.convert("RGB")


def _download(folder: Path) -> None:
    from torchvision.datasets import CelebA

    try:
        CelebA(str(folder.parent), split="all", target_type=["attr", "identity"], download=True)
    except Exception as error:  # gdown's own errors, such as that of Google Drive's quota, have no other base
        why = shorten(str(error), 200) or "damaged file"
        raise MissingFileError(
            f"celeba: neither found in {folder} nor downloaded ({why}): try again later, put "
            "img_align_celeba/, list_attr_celeba.txt and identity_CelebA.txt there, or set PYRO_PRIORS_DATA (or the "
            "option root) to the folder that has celeba/"
        ) from error
