"""Limits on the sizes that a file declares, checked before decoding: a few bytes of a file can declare terabytes."""

from __future__ import annotations

import math
import os
import warnings
import zipfile
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._memory import total_memory
from .errors import UserError

__all__ = [
    "VARIABLE",
    "PickledError",
    "Refused",
    "check_bytes",
    "decoding",
    "most_bytes",
    "open_image",
    "read_arrays",
    "read_mat",
]

VARIABLE = "PYRO_PRIORS_MAX_GB"
"""Environment variable with the maximum number of gigabytes that a file may take in memory."""

MEMORY = 16 * 10**9
"""Bytes of memory that are assumed if the system does not report its memory."""

GIGABYTE = 10**9


class Refused(UserError):
    """A file is refused because of what it declares. The message is for the user."""


class PickledError(Refused):
    """An array contains Python objects, which would have to be unpickled.

    :param name: name of the array
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} contains Python objects")
        self.name = name


def _memory() -> int:
    total = total_memory()
    return MEMORY if math.isinf(total) else int(total)


def most_bytes() -> int:
    """Return how many bytes one decoded file may take: by default half of the memory, because values are copied once.

    :raises ValueError: if the environment variable ``PYRO_PRIORS_MAX_GB`` is not a positive number
    """
    given = os.environ.get(VARIABLE)
    if not given:
        return _memory() // 2
    try:
        number = float(given)
    except ValueError:
        number = math.nan
    if not (0 < number < math.inf):
        raise Refused(f"{VARIABLE} must be a positive number of gigabytes, got {given[:40]!r} (for example, 16)")
    return int(number * GIGABYTE)


def check_bytes(what: str, size: int) -> None:
    """Refuse data that would take more memory than the limit.

    :param what: subject of the message
    :param size: size in bytes
    :raises ValueError: if the size exceeds the limit; the message has size, limit and remedy
    """
    most = most_bytes()
    if size <= most:
        return
    set_by = VARIABLE if os.environ.get(VARIABLE) else "half of the memory"
    remedy = "check the file"
    if size <= _memory():
        remedy += f", or set {VARIABLE}={math.ceil(size / GIGABYTE)}"
    size = min(size, 10**30)  # beyond every float, a header may declare it
    raise Refused(
        f"{what} would take {size / GIGABYTE:.3g} GB of memory, more than the limit of {most / GIGABYTE:.3g} GB "
        f"({set_by}): {remedy}"
    )


@contextmanager
def decoding(path: object, what: str, remedy: str = "replace it") -> Iterator[None]:
    """Report any error of a decoder in one line; decoders raise errors of every type for damaged files.

    :param path: the file
    :param what: what the file should be, such as ``"a readable image"``
    :param remedy: what to do about it
    :raises ValueError: with these three and the decoder's reason; a :class:`Refused` is raised unchanged
    """
    try:
        yield
    except Refused:
        raise
    except Exception as error:
        why = shorten(str(error), 200) or type(error).__name__
        raise UserError(f"{path}: not {what} ({why}): {remedy}") from None


_HEADERS: dict[tuple[int, int], Callable[..., tuple[tuple[int, ...], bool, np.dtype]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_arrays(path: Path, wanted: Container[str]) -> tuple[dict[str, NDArray], list[str]]:
    """Read arrays of an ``.npz`` file by name. Nothing is unpickled, and all arrays are checked before any is read.

    :param path: the file
    :param wanted: names of the arrays to read
    :returns: the arrays by name, and the names of the other arrays
    :raises ValueError: if the arrays exceed the limit, differ in size from their headers, or contain Python objects
    """
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        chosen = {name: info for name, info in members.items() if name in wanted}
        check_bytes(f"{path}", sum(info.file_size for info in chosen.values()))
        for name, info in chosen.items():
            _check_header(archive, name, info)
        arrays = {}
        for name, info in chosen.items():
            with archive.open(info) as stream:
                arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
    return arrays, [name for name in members if name not in chosen]


def _check_header(archive: zipfile.ZipFile, name: str, info: zipfile.ZipInfo) -> None:
    """Refuse an array whose header does not match the size of its file: numpy allocates by the header."""
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in _HEADERS:
            raise ValueError(f"{name} has version {version[0]}.{version[1]} of NumPy's format, which is not supported")
        shape, _, dtype = _HEADERS[version](stream)
        held = info.file_size - stream.tell()
    if dtype.hasobject:
        raise PickledError(name)
    num_values: int = math.prod(shape)
    declared = num_values * dtype.itemsize
    if declared != held or (num_values and not dtype.itemsize):
        raise ValueError(
            f"{name} declares shape {shorten(str(shape), 60)} of {dtype}, {min(declared, 10**30):.4g} bytes, but "
            f"contains {held}"
        )


_BYTES = {"double": 8, "int64": 8, "uint64": 8, "single": 4, "int32": 4, "uint32": 4, "int16": 2, "uint16": 2} | (
    dict.fromkeys(("int8", "uint8", "logical", "char"), 1)
)
"""Bytes per value for each of MATLAB's numeric classes; cells, structures and sparse matrices are not read."""


def read_mat(path: Path, wanted: Sequence[str]) -> dict[str, Any]:
    """Read arrays of a ``.mat`` file by name.

    :param path: the file
    :param wanted: names of the arrays to read; names that the file lacks are skipped
    :raises ValueError: if the arrays exceed the limit, or are not arrays of numbers
    """
    from scipy.io import loadmat, whosmat

    size = 0
    for name, shape, kind in whosmat(str(path)):
        if name in wanted:
            if kind not in _BYTES:
                raise ValueError(f"'{name}' is a {kind}, not an array of numbers")
            size += math.prod(shape) * _BYTES[kind]
    check_bytes(f"{path}", size)
    return loadmat(str(path), variable_names=list(wanted))


@contextmanager
def open_image(source: Any, formats: Sequence[str] = ("JPEG", "PNG")) -> Iterator[Any]:
    """Open an image with Pillow without decoding it, so that its size can be checked first.

    Images above 89 million pixels, Pillow's own limit, are refused. Pillow itself only warns.

    :param source: path or binary file
    :param formats: allowed formats; some of Pillow's other formats start external programs
    """
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        image = Image.open(source, formats=list(formats))
    with image:
        yield image
