"""Images that are decoded once into an array of bytes, which is cached and memory-mapped."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._cache import cache_folder, cached, sweep
from .._files import CheckpointError, write_atomically
from .._limits import Refused, check_bytes
from ..errors import MissingFileError
from ..progress import progress_bar

__all__ = ["decoded_images"]

FORMAT = 2
"""Version of the entry format; each version has its own entries."""

ARRAY, RECORD = "images.npy", "images.json"

MOST_BYTES_OF_FILE = 10**8
"""Maximum file size of one image, in bytes."""


def decoded_images(
    name: str, files: Sequence[Path], options: str, shape: tuple[int, ...], decode: Callable[[Path], NDArray]
) -> NDArray:
    """Return the images in some files. Decode them if they are not in the cache.

    The contents of all files, the options and the format version decide which cache entry is used. The contents are
    read again only if the size or a time of a file has changed. The array is verified with its checksum before it is
    mapped, which takes one to three seconds per gigabyte.

    :param name: name of the data set
    :param files: the files, one for each image
    :param options: everything else that the images depend on
    :param shape: shape of one image
    :param decode: function from a file to a uint8 image
    :returns: uint8, shape ``(len(files),) + shape``; writing to the array changes memory, but never the file
    :raises FileNotFoundError: if a file is missing
    :raises ValueError: if a file cannot be decoded, or the images cannot be cached in a file and exceed the memory
    """
    place = cache_folder() / "decoded"
    sweep(place, RECORD)
    states = _digest_of_states(name, files)
    key = _known_key(place, name, states, options) or _digest_of_contents(name, files, options)
    entry = _Entry(place / f"{name}_{key[:16]}", key, states, options, (len(files), *shape))
    megabytes = math.prod(entry.shape) / 1e6

    def say(where: object) -> None:
        print(f"{name}: decoding {len(files)} images once, into {where} ({megabytes:.0f} MB)", file=sys.stderr)

    def images() -> Iterator[NDArray]:
        with progress_bar(len(files), f"decoding {name}") as bar:
            for file in files:
                yield decode(file)
                bar.update()

    def write() -> NDArray:
        entry.write(images(), lambda: say(entry.folder))
        array = entry.read()
        if array is None:  # cleared by another process
            raise FileNotFoundError(errno.ENOENT, "it was removed", str(entry.folder))
        return array

    def in_memory() -> NDArray:
        check_bytes(f"{name} at {'x'.join(map(str, shape))}", math.prod(entry.shape))
        say("memory")
        array = np.empty(entry.shape, np.uint8)
        for row, image in zip(array, images(), strict=True):
            row[...] = image
        return array

    return cached(entry.folder, f"the decoded data set {name}", entry.read, write, in_memory)


def _digest_of_states(name: str, files: Sequence[Path]) -> str:
    """Return a checksum of the sizes and times of the files, which change when a file changes."""
    found = hashlib.sha256()
    for file in files:
        try:
            state = file.stat()
        except OSError as error:
            raise MissingFileError(f"{name}: {file} is listed but cannot be read ({error}): put it there") from None
        if not stat.S_ISREG(state.st_mode) or state.st_size > MOST_BYTES_OF_FILE:
            raise Refused(
                f"{name}: {file} must be a file of at most {MOST_BYTES_OF_FILE // 10**6} MB, the limit for one image: "
                "replace it"
            )
        found.update(f"{file.absolute()} {state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}\n".encode())
    return found.hexdigest()


def _digest_of_contents(name: str, files: Sequence[Path], options: str) -> str:
    found = hashlib.sha256(f"{FORMAT} {options}\n".encode())
    with progress_bar(len(files), f"reading {name}") as bar:
        for file in files:
            found.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
            bar.update()
    return found.hexdigest()


def _known_key(place: Path, name: str, states: str, options: str) -> str | None:
    """Return the checksum of the contents of unchanged files, from the entry that was made of them."""
    for file in place.glob(f"{name}_*/{RECORD}"):
        record = _record(file)
        if record is not None and (record["states"], record["options"]) == (states, options):
            return record["key"]
    return None


FIELDS = ("states", "options", "key", "sha256")


def _record(file: Path) -> dict[str, Any] | None:
    """Return the record of an entry; None if it is missing, damaged or in another format."""
    try:
        record = json.loads(file.read_bytes())
        valid = record["format"] == FORMAT and all(isinstance(record[field], str) for field in FIELDS)
        return record if valid and record["seal"] == _seal(record) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _seal(record: dict[str, Any]) -> str:
    content = json.dumps({key: value for key, value in record.items() if key != "seal"}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


class _Entry:
    """An array in a separate folder, with a record that completes the entry.

    :param folder: folder of the entry
    :param key: checksum of the contents of the files
    :param states: checksum of the sizes and times of the files
    :param options: everything else that the array depends on
    :param shape: shape of the array
    """

    def __init__(self, folder: Path, key: str, states: str, options: str, shape: tuple[int, ...]) -> None:
        self.folder, self.key, self.states, self.options, self.shape = folder, key, states, options, shape
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape}
        )
        self.header = header.getvalue()

    def read(self) -> NDArray | None:
        """Return the memory-mapped array; None if the entry is not complete.

        :raises CheckpointError: if it is damaged
        """
        file = self.folder / RECORD
        if not file.exists():
            return None
        record = _record(file)
        if record is None or record["key"] != self.key:
            raise CheckpointError(f"{file} is truncated or altered")
        try:
            with open(self.folder / ARRAY, "rb") as array:
                if hashlib.file_digest(array, "sha256").hexdigest() != record["sha256"]:
                    raise CheckpointError(f"{array.name} does not match its checksum")
                # the same file that was checked; torch needs writable arrays
                mapped = np.memmap(array, np.uint8, "c", len(self.header), self.shape)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.folder / ARRAY} cannot be read ({error})") from None
        with suppress(OSError):
            if record["states"] != self.states:  # such as after a copy of the files
                self._write_record(record["sha256"])
            os.utime(file)  # the last use
        return mapped

    def write(self, images: Iterator[NDArray], begin: Callable[[], None]) -> None:
        """Write the array and then the record.

        The array is written as an ordinary file: on a full disk, writing to a memory map would kill the process.

        :param begin: called once the disk has room for the array
        :raises OSError: if they cannot be written; then no partial file is left
        """
        temporary = self.folder / f".{ARRAY}.{os.getpid()}.tmp"
        digest = hashlib.sha256(self.header)
        try:
            with open(temporary, "wb") as file:
                _allocate(file.fileno(), len(self.header) + math.prod(self.shape))
                begin()
                file.write(self.header)
                for image in images:
                    content = np.ascontiguousarray(image, np.uint8).tobytes()
                    file.write(content)
                    digest.update(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.folder / ARRAY)
            self._write_record(digest.hexdigest())
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise

    def _write_record(self, sha256: str) -> None:
        record: dict[str, Any] = {"format": FORMAT, "key": self.key, "states": self.states, "options": self.options}
        record["sha256"] = sha256
        record["seal"] = _seal(record)
        write_atomically(self.folder / RECORD, json.dumps(record, indent=1).encode())


def _allocate(handle: int, size: int) -> None:
    """Reserve space on the disk, so that a full disk is detected before any image is decoded.

    :raises OSError: if there is not enough space
    """
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(handle, 0, size)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):  # the file system does not support it
            raise
