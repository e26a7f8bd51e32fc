"""Pictures of rows, kept in one PNG for each figure, so that a figure needs no weights.

The PNG has a strip for each label of each row, one below the other, 8 bits a channel. Its text says which is which.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor

from .._files import PATIENCE, locked, write_atomically
from .._limits import open_image
from .._reading import read_file
from .._records import parse
from .._schemas import Pictures as KeptPictures
from ..errors import UserError

__all__ = ["Pictures", "load", "save"]

LARGEST = 2**26
"""Bytes of a file of pictures."""

Pictures = Mapping[str, Tensor]
"""Images by what they show, each of shape ``(num, channels, height, width)`` with the same number, values in [0, 1]."""


def save(pictures: Pictures, file: Path, row: str, weights: str) -> None:
    """Write the pictures of a row into a file, in the place of those that it had; other rows keep theirs.

    :param pictures: the pictures, of 1 or 3 channels
    :param file: the PNG
    :param row: name of the row
    :param weights: checksum of the pair that they are of
    :raises WriteError: if the file cannot be written
    """
    images = torch.stack([one.detach().cpu().float().clamp(0, 1) for one in pictures.values()])
    levels = (255 * images).round().byte()
    known = {"row": row, "weights": weights, "labels": [*pictures], "num": levels.shape[1], "size": levels.shape[2:]}
    with locked(file.parent, wait=True, name="pictures", patience=PATIENCE):
        try:
            there = _read(file)
        except Exception:  # who reads them has been told, and nothing can be read of them
            there = {}
        _write(file, there | {row: (known, levels)})


def _write(file: Path, rows: Mapping[str, tuple[Mapping[str, Any], Tensor]]) -> None:
    from PIL import Image, PngImagePlugin

    rows = {name: rows[name] for name in sorted(rows)}
    channels = max(levels.shape[2] for _, levels in rows.values())
    width = max(levels.shape[1] * levels.shape[4] for _, levels in rows.values())
    strips = []
    for _, levels in rows.values():
        labels, num, own_channels, height, own_width = levels.shape
        strip = levels.new_zeros(labels * height, width, channels)
        sheet = levels.permute(0, 3, 1, 4, 2).reshape(labels * height, num * own_width, own_channels)
        strip[:, : num * own_width] = sheet  # grey ones in all channels alike
        strips.append(strip)
    text = PngImagePlugin.PngInfo()
    text.add_text("pictures", json.dumps({"rows": [known for known, _ in rows.values()]}))
    buffer = BytesIO()
    Image.fromarray(torch.cat(strips).squeeze(-1).numpy()).save(buffer, "png", optimize=True, pnginfo=text)
    write_atomically(file, buffer.getvalue())


def load(file: Path, row: str, weights: str | None) -> Pictures | None:
    """Return the pictures of a row that :func:`save` wrote; None if there are none, or they are of other weights.

    A file that is damaged, or no picture of ours, is None too, after a warning. The checksums that every PNG has of its
    parts are compared first.

    :param file: the PNG
    :param row: name of the row
    :param weights: checksum of the pair of which they are to be
    """
    if weights is None or not file.is_file():
        return None
    try:
        rows = _read(file)
    except Exception as error:  # Pillow refuses damaged files by errors of many kinds
        why = shorten(str(error), 200) or type(error).__name__
        warnings.warn(f"{file} is not used, it is damaged ({why})", RuntimeWarning, stacklevel=2)
        return None
    if row not in rows or rows[row][0]["weights"] != weights:
        return None
    known, levels = rows[row]
    return dict(zip(known["labels"], levels / 255, strict=True))


def _read(file: Path) -> dict[str, tuple[dict[str, Any], Tensor]]:
    """Return what a file says of each row, and its images, shape ``(labels, num, channels, height, width)``."""
    return _rows_in(read_file(file, file.parent, LARGEST)) if file.exists() else {}


@lru_cache(maxsize=2)
def _rows_in(content: bytes) -> dict[str, tuple[dict[str, Any], Tensor]]:
    with open_image(BytesIO(content), ["PNG"]) as image:
        image.verify()
    with open_image(BytesIO(content), ["PNG"]) as image:
        kept = parse(image.info["pictures"].encode(), KeptPictures, digits=0)["rows"]
        heights = [len(known["labels"]) * known["size"][1] for known in kept]
        width = max(known["num"] * known["size"][2] for known in kept)
        if not all(heights) or (width, sum(heights)) != image.size:
            raise UserError(f"its {image.width}x{image.height} pixels are not those of its text")
        sheet = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        sheet = sheet.reshape(image.height, image.width, -1)
    found = {}
    for known, strip in zip(kept, sheet.split(heights), strict=True):
        channels, height, own_width = known["size"]
        own = strip[:, : known["num"] * own_width, :channels]
        images = own.reshape(len(known["labels"]), height, known["num"], own_width, channels)
        found[known["row"]] = known, images.permute(0, 2, 4, 1, 3)
    return found
