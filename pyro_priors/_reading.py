"""Functions that open files that strangers may have written: only regular files in one folder, up to a maximum size."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ._files import CheckpointError

__all__ = ["RESTORE", "check_inside", "read_file"]


RESTORE = "restore it from a copy, or train and save again"
"""The remedy for a damaged file."""


def check_inside(path: Path, within: Path) -> None:
    """Refuse a path that leads out of a folder through links.

    :param path: path of a file or folder, which need not exist
    :param within: the folder, which may itself be a link
    :raises CheckpointError: if the path is outside
    """
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(within)):
        raise CheckpointError(
            f"{path} is a link to a place outside {within}", "put the files themselves there instead of links"
        )


def read_file(path: Path, within: Path, most: int) -> bytes:
    """Return the content of a regular file.

    A pipe or device is refused before it is read, because reading it can block forever or have side effects.

    :param path: the file
    :param within: folder that contains the file; a link that leads out of it is refused
    :param most: maximum size in bytes
    :raises FileNotFoundError: if there is no such file
    :raises NotADirectoryError: if a folder of the path is a file
    :raises CheckpointError: if it is not a regular file, lies outside ``within``, is too large, or cannot be read
    """
    check_inside(path, within)
    flags = os.O_RDONLY
    for name in ("O_NONBLOCK", "O_NOFOLLOW", "O_BINARY"):  # which of them there are depends on the system
        flags |= getattr(os, name, 0)
    try:
        handle = os.open(os.path.realpath(path), flags)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise type(error)(error.errno, error.strerror, str(path)) from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})", RESTORE) from None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{path} cannot be read: it is not a regular file", RESTORE)
        if status.st_size > most:
            what = f"{path} cannot be read: it has {status.st_size} bytes, more than the maximum of {most}"
            raise CheckpointError(what, RESTORE)
        with open(handle, "rb", closefd=False) as file:
            return file.read(status.st_size)
    except (OSError, MemoryError) as error:
        why = getattr(error, "strerror", None) or f"its {status.st_size} bytes do not fit into memory"
        raise CheckpointError(f"{path} cannot be read ({why})", RESTORE) from None
    finally:
        os.close(handle)
