"""Pictures of a row, kept as one PNG beside its numbers, so that a figure needs no weights."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from textwrap import shorten

import torch
from torch import Tensor

from .._limits import open_image
from .._reading import read_file
from .._records import parse
from .._schemas import Pictures as KeptPictures
from ..checkpoint import write_atomically

__all__ = ["Pictures", "load", "save"]

LARGEST = 2**26
"""Bytes of a file of pictures."""

Pictures = Mapping[str, Tensor]
"""Images by what they show, each of shape ``(num, channels, height, width)`` with the same number, values in [0, 1]."""


def save(pictures: Pictures, file: Path, weights: str) -> None:
    """Write them as one image, a row for each label, 8 bits a channel.

    :param weights: checksum of the pair that they are of
    """
    from PIL import Image, PngImagePlugin

    images = torch.stack([one.detach().cpu().float().clamp(0, 1) for one in pictures.values()])
    rows, num, channels, height, width = images.shape
    sheet = (255 * images).round().byte().permute(0, 3, 1, 4, 2).reshape(rows * height, num * width, channels)
    text = PngImagePlugin.PngInfo()
    text.add_text("pictures", json.dumps({"weights": weights, "labels": [*pictures], "num": num}))
    buffer = BytesIO()
    Image.fromarray(sheet.squeeze(-1).numpy()).save(buffer, "png", optimize=True, pnginfo=text)
    write_atomically(file, buffer.getvalue())


def load(file: Path, weights: str | None) -> Pictures | None:
    """Return what :func:`save` wrote; None if there is no file, or it is of other weights.

    A file that is damaged, or no picture of ours, is None too, after a warning. The checksums that every PNG has of its
    parts are compared first.

    :param weights: checksum of the pair of which they are to be
    """
    if weights is None or not file.is_file():
        return None
    try:
        content = read_file(file, file.parent, LARGEST)
        with open_image(BytesIO(content), ["PNG"]) as image:
            image.verify()
        with open_image(BytesIO(content), ["PNG"]) as image:
            kept = parse(image.info["pictures"].encode(), KeptPictures, digits=0)
            if kept["weights"] != weights:
                return None
            labels, num = kept["labels"], kept["num"]
            sheet = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
            size = (len(labels), image.height // len(labels), num, image.width // num)
        images = sheet.reshape(*size, -1).permute(0, 2, 4, 1, 3) / 255
        return dict(zip(labels, images, strict=True))
    except Exception as error:  # Pillow refuses damaged files by errors of many kinds
        why = shorten(str(error), 200) or type(error).__name__
        warnings.warn(f"{file} is not used, it is damaged ({why})", RuntimeWarning, stacklevel=2)
        return None
