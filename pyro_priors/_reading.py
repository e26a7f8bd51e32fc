"""Opening files that somebody else may have written: regular files inside one folder, up to a size."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ._files import CheckpointError

__all__ = ["RESTORE", "check_inside", "read_file"]


RESTORE = "restore it from a copy, or train and save again"
"""What is left to do about a damaged file."""


def check_inside(path: Path, within: Path) -> None:
    """Refuse a path that links lead out of a folder.

    :param path: of a file or folder, which need not exist
    :param within: the folder; it may be a link itself
    :raises CheckpointError: if the path is outside
    """
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(within)):
        raise CheckpointError(f"{path} is a link to a place outside {within}", "put the files themselves there")


def read_file(path: Path, within: Path, most: int) -> bytes:
    """Return the content of a regular file.

    A pipe or device is refused before it is read, since reading one can wait forever or change something.

    :param path: the file
    :param within: folder that no link may lead out of
    :param most: largest size, in bytes
    :raises FileNotFoundError: if there is no such file
    :raises NotADirectoryError: if a folder of the path is a file
    :raises CheckpointError: if it is not a regular file, lies outside ``within``, is larger, or cannot be read
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
            what = f"{path} cannot be read: it has {status.st_size} bytes, and at most {most} are read"
            raise CheckpointError(what, RESTORE)
        with open(handle, "rb", closefd=False) as file:
            return file.read(status.st_size)
    except (OSError, MemoryError) as error:
        why = getattr(error, "strerror", None) or f"its {status.st_size} bytes do not fit into memory"
        raise CheckpointError(f"{path} cannot be read ({why})", RESTORE) from None
    finally:
        os.close(handle)
