"""Pictures of a row, kept as one PNG beside its numbers, so that a figure needs no weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor

from .._files import CheckpointError
from .._reading import read_file
from .._records import Pictures as KeptPictures
from .._records import parse
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
    """What :func:`save` wrote; None where there is nothing that can be read, or it is of other weights.

    :param weights: checksum of the pair of which they are to be
    """
    from PIL import Image

    try:
        with Image.open(BytesIO(read_file(file, file.parent, LARGEST))) as image:
            kept = parse(str(image.info.get("pictures", "")).encode(), KeptPictures, digits=0)
            if weights is None or kept["weights"] != weights or not kept["labels"]:
                return None
            sheet = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
            size = (len(kept["labels"]), image.height // len(kept["labels"]), kept["num"], image.width // kept["num"])
            if image.height % size[0] or image.width % size[2]:
                return None
    except (OSError, CheckpointError, SyntaxError, ValueError):  # not there, no image, or a damaged one
        return None
    images = sheet.reshape(*size, -1).permute(0, 2, 4, 1, 3) / 255
    return dict(zip(kept["labels"], images, strict=True))
