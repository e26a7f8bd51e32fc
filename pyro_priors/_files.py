"""Functions that write every file: atomically, one process at a time, with a one-line error if a write fails.

A file is written under a temporary name and then renamed. A killed process leaves at most a temporary file, which the
next writer in the folder removes. Locks are empty files, ``.lock`` or ``.NAME.lock``, which stay in the folder. The
system releases a lock when its process ends, even if it is killed. Readers need no lock.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import secrets
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, wraps
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

from .errors import UserError

__all__ = [
    "CheckpointError",
    "FolderError",
    "WriteError",
    "append",
    "locked",
    "make_folder",
    "remove_leftovers",
    "retried_while_saved",
    "save_figure",
    "write_atomically",
]

P = ParamSpec("P")
T = TypeVar("T")

PATIENCE = 2.0
"""Seconds to wait for the lock of a write before a message says so."""

TRIES = 5
"""Maximum number of attempts to write a file whose temporary file another process removes."""

FORGOTTEN = 3600.0
"""Age in seconds at which a temporary file counts as a leftover, even if its process seems to be running."""

HOST = f"{zlib.crc32(platform.node().encode()):08x}"
"""Identifier of this machine in the names of temporary files."""

LEFTOVER = re.compile(r"\..+\.([0-9a-f]{8})-([1-9][0-9]*)-[0-9a-f]{8}\.tmp", re.DOTALL)
"""Pattern of the names of temporary files, which contain machine and process."""

UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS}
FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}

_held = threading.local()
_in_use: set[str] = set()
"""Temporary files that threads of this process are writing."""


class CheckpointError(UserError, RuntimeError):
    """A file is missing, truncated or altered, or was written for another purpose.

    :param what: what is wrong
    :param remedy: what to do about it; empty if the caller adds the remedy
    """

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(f"{what}: {remedy}" if remedy else what)
        self.what = what


class WriteError(CheckpointError, OSError):
    """A file cannot be written. A previous file of that name is unchanged.

    :param path: the file
    :param number: the system's error number
    :param why: the system's error message
    :param size: number of bytes to write
    :param then: text appended to the remedy, such as what to do next
    """

    history: Any = None
    """The history of the training so far, if :func:`pyro_priors.fit` raises this error."""

    def __init__(self, path: Path, number: int | None, why: str, size: int, then: str = "") -> None:
        remedy = "choose another place to write to"
        if number in FULL:
            remedy = f"free at least {size:,} bytes there, or {remedy}"
        elif number in UNWRITABLE:
            remedy = f"make its folder writable, or {remedy}"
        super().__init__(f"{path} cannot be written ({why})", remedy + then)
        self.message = str(self.args[0])
        self.errno = number
        self.args = (path, number, why, size, then)  # from which another process recreates the error

    def __str__(self) -> str:
        return self.message

    @classmethod
    def of(cls, error: OSError, path: Path, size: int) -> WriteError:
        """Return a system error as a :class:`WriteError` for a file."""
        return cls(path, error.errno, error.strerror or str(error), size)

    def and_then(self, what: str) -> WriteError:
        """Return the same error with a further step appended to the remedy."""
        path, number, why, size, then = self.args
        return WriteError(path, number, why, size, f"{then}; {what}")


class FolderError(UserError, OSError):
    """A folder cannot be created."""


def make_folder(folder: Path) -> None:
    """Create a folder if it is missing.

    :raises FolderError: if it cannot be created
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = "it is a file" if folder.is_file() else str(error.strerror).lower()
        raise FolderError(f"the folder {folder} cannot be created ({why}): choose another place to write to") from None


@contextmanager
def locked(folder: Path, wait: bool, name: str = "", patience: float = 0.0) -> Iterator[None]:
    """Exclude other processes and threads that use the same lock.

    A killed process releases its locks. A thread may acquire a lock that it already holds. If the folder is not
    writable, no lock is taken, and the write that follows raises the error. If the file system does not support locks,
    a warning is given once.

    :param folder: the folder, created if missing
    :param wait: wait for the lock, with a message on standard error
    :param name: name of the lock, if the folder has several
    :param patience: seconds to wait before that message
    :raises BlockingIOError: if another process holds the lock and ``wait`` is False
    """
    from filelock import FileLock, Timeout

    make_folder(folder)
    path = str(folder.resolve() / (f".{name}.lock" if name else ".lock"))
    process = os.getpid()
    held, mine = _held.__dict__.setdefault("paths", set()), (process, path)  # a fork does not inherit locks
    if mine in held:
        yield
        return
    if os.path.lexists(path) and not (os.path.isfile(path) and not os.path.islink(path)):
        raise FolderError(f"{path} is not a regular file and cannot serve as a lock: remove it")
    # for everybody who can write to the folder; a soft lock would outlive a killed process
    lock = FileLock(path, mode=0o666, fallback_to_soft=False)
    try:
        lock.acquire(timeout=patience if wait else 0)
    except Timeout:
        if not wait:
            raise BlockingIOError(f"another process is using {folder}") from None
        print(f"waiting for another process that is using {folder}", file=sys.stderr, flush=True)
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        if getattr(error, "errno", None) not in UNWRITABLE | FULL:
            _warn_of_no_locks()
    held.add(mine)
    try:
        yield
    finally:
        held.discard(mine)
        if os.getpid() == process:
            lock.release()


@cache  # once is enough
def _warn_of_no_locks() -> None:
    warnings.warn(
        "the file system does not support locks: let only one process at a time write to a folder on it",
        RuntimeWarning,
        stacklevel=4,
    )


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file atomically: temporary file, fsync, rename.

    Temporary files of killed processes in the folder are removed.

    :raises WriteError: if the file cannot be written; a previous file of that name is then unchanged
    """
    remove_leftovers(path.parent)
    for tries_left in reversed(range(TRIES)):
        try:
            return _write(path, content)
        except FileNotFoundError as error:  # another machine took the temporary file for a leftover
            if not tries_left or not path.parent.is_dir():
                raise WriteError.of(error, path, len(content)) from None
        except OSError as error:
            raise WriteError.of(error, path, len(content)) from None


def _write(path: Path, content: bytes) -> None:
    name = f".{path.name[:40]}.{HOST}-{os.getpid()}-{secrets.token_hex(4)}.tmp"
    temporary = path.with_name(name)
    _in_use.add(name)
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    finally:
        _in_use.discard(name)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes that have ended."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if (found := LEFTOVER.fullmatch(entry.name)) and entry.name not in _in_use:
                with suppress(OSError):
                    age = time.time() - entry.stat(follow_symlinks=False).st_mtime
                    if age > FORGOTTEN or (found[1] == HOST and not _runs(int(found[2]))):
                        os.unlink(entry.path)


def _runs(process: int) -> bool:
    """Return whether another process of this machine may still be running."""
    if process == os.getpid():  # of an older process with this one's number
        return False
    if os.name != "posix":  # cannot be asked without ending it
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # of another user
        return True
    return True


def append(path: Path, lines: str | bytes) -> None:
    """Append lines to a file: all of them or none.

    :raises WriteError: if they cannot be written
    """
    content = lines.encode() if isinstance(lines, str) else lines
    try:
        with open(path, "ab", buffering=0) as file:
            size, left = file.tell(), content
            try:
                while left:
                    left = left[file.write(left) :]
            except OSError:
                file.truncate(size)
                raise
    except OSError as error:
        raise WriteError.of(error, path, len(content)) from None


def save_figure(figure: Figure, path: Path, **options: Any) -> None:
    """Save a figure atomically, as :meth:`matplotlib.figure.Figure.savefig` does.

    :param options: passed to ``savefig``
    :raises WriteError: if the file cannot be written
    """
    buffer = BytesIO()
    figure.savefig(buffer, format=path.suffix.removeprefix("."), **options)
    write_atomically(path, buffer.getvalue())


def retried_while_saved(read: Callable[Concatenate[Path, str, P], T]) -> Callable[Concatenate[Path, str, P], T]:
    """Retry a function that reads ``folder/name.json`` and the file that it names, if a save replaces them meanwhile.

    A save removes the tensor file of the record that it replaces. A reader of the old record then finds the file gone.
    """

    def saved(folder: Path, name: str) -> tuple[int, int] | None:
        with suppress(OSError):
            found = os.stat(Path(folder) / f"{name}.json")
            return found.st_ino, found.st_mtime_ns
        return None

    @wraps(read)
    def reading(folder: Path, name: str, *args: P.args, **kwargs: P.kwargs) -> T:
        while True:
            before = saved(folder, name)
            try:
                return read(folder, name, *args, **kwargs)
            except CheckpointError:
                if saved(folder, name) == before:
                    raise

    return reading
