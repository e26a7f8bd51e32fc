"""Files that commands write with ``--out``: pictures and arrays."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .._files import make_folder, save_figure, write_atomically
from .._options import path_of
from ..errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["output_path", "write_arrays", "write_figure"]


def output_path(given: str, suffixes: Sequence[str], example: str) -> Path:
    """Return the path of ``--out``.

    :param given: the value of the option
    :param suffixes: possible ends of the name, such as ``".npz"``
    :param example: name of a file, for the message
    :raises ValueError: if the name ends in something else, or is that of a folder
    """
    out = path_of("--out", given)
    if out.suffix not in suffixes:
        raise UserError(f"--out must end in {' or '.join(suffixes)}, got '{given}': give {example}")
    if out.is_dir():
        raise UserError(f"--out is {out}, which is a folder: give the name of a file, such as {out / example}")
    return out


def write_arrays(out: Path, arrays: Mapping[str, Tensor]) -> None:
    """Write an ``.npz`` file, whole or not at all.

    :raises WriteError: if it cannot be written
    :raises FolderError: if its folder cannot be created
    """
    import numpy as np

    make_folder(out.parent)
    buffer = io.BytesIO()
    content: dict[str, Any] = {name: value.cpu().numpy() for name, value in arrays.items()}
    np.savez(buffer, **content)
    write_atomically(out, buffer.getvalue())


def write_figure(out: Path, figure: Figure) -> None:
    """Write a picture, whole or not at all.

    :raises WriteError: if it cannot be written
    :raises FolderError: if its folder cannot be created
    """
    make_folder(out.parent)
    save_figure(figure, out, dpi=120, bbox_inches="tight")
