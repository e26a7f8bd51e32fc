"""What writes every file: whole or not at all, by one process at a time, with one line that says why it failed.

A file is written under a temporary name and renamed. A process that is killed leaves a temporary file at most, which
the next writer in the folder removes. Locks are empty files, ``.lock`` or ``.NAME.lock``, which stay in the folder. The
system frees a lock when its process ends, however it ends. Readers need no lock.
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
"""Seconds that one waits for a lock that is held for a write, before a line says so."""

TRIES = 5
"""Most times that a file is written whose temporary file another process removes."""

FORGOTTEN = 3600.0
"""Age in seconds from which a temporary file is a leftover, also where its process seems to run."""

HOST = f"{zlib.crc32(platform.node().encode()):08x}"
"""This machine, in the names of temporary files."""

LEFTOVER = re.compile(r"\..+\.([0-9a-f]{8})-([1-9][0-9]*)-[0-9a-f]{8}\.tmp", re.DOTALL)
"""Names of temporary files, with their machine and process."""

UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS}
FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}

_held = threading.local()
_in_use: set[str] = set()
"""Temporary files that threads of this process are writing."""


class CheckpointError(RuntimeError):
    """A file that is missing, truncated, altered, or made for something else.

    :param what: what is wrong
    :param remedy: what to do about it, where that does not depend on who reads the file
    """

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(f"{what}: {remedy}" if remedy else what)
        self.what = what


class WriteError(CheckpointError, OSError):
    """A file that cannot be written. The file that was there before is as it was.

    :param path: the file
    :param number: the system's number of the error
    :param why: the system's words for it
    :param size: bytes to write
    :param then: what to do after that
    """

    history: Any = None
    """What :func:`pyro_priors.fit` has trained, where it raises this error."""

    def __init__(self, path: Path, number: int | None, why: str, size: int, then: str = "") -> None:
        remedy = "choose another place to write to"
        if number in FULL:
            remedy = f"free at least {size:,} bytes there, or {remedy}"
        elif number in UNWRITABLE:
            remedy = f"make its folder writable, or {remedy}"
        super().__init__(f"{path} cannot be written ({why})", remedy + then)
        self.message = str(self.args[0])
        self.errno = number
        self.args = (path, number, why, size, then)  # from which it is made in another process

    def __str__(self) -> str:
        return self.message

    @classmethod
    def of(cls, error: OSError, path: Path, size: int) -> WriteError:
        """Return an error of the system as one of a file."""
        return cls(path, error.errno, error.strerror or str(error), size)

    def and_then(self, what: str) -> WriteError:
        """Return the same error with one more thing to do."""
        path, number, why, size, then = self.args
        return WriteError(path, number, why, size, f"{then}; {what}")


class FolderError(ValueError, OSError):
    """A folder that cannot be made."""


def make_folder(folder: Path) -> None:
    """Make a folder, if missing.

    :raises FolderError: if it cannot be made
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = "it is a file" if folder.is_file() else str(error.strerror).lower()
        raise FolderError(f"the folder {folder} cannot be made ({why}): choose another place to write to") from None


@contextmanager
def locked(folder: Path, wait: bool, name: str = "", patience: float = 0.0) -> Iterator[None]:
    """Keep other processes and threads out of what they do under the same lock.

    A process that is killed frees its locks. A thread may take a lock again that it holds. Where the folder cannot be
    written to there is no lock, and the write that follows says so. Where the file system has no locks, a warning says
    that once.

    :param folder: made if missing
    :param wait: wait for the lock, with a line on standard error that says so
    :param name: of the lock, one of several in the folder
    :param patience: seconds of waiting before that line
    :raises BlockingIOError: if another process holds the lock, and this one does not wait
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
        raise FolderError(f"{path} is not a regular file, so that it cannot be a lock: remove it")
    # for everybody who can write to the folder; a soft lock would outlive a process that is killed
    lock = FileLock(path, mode=0o666, fallback_to_soft=False)
    try:
        lock.acquire(timeout=patience if wait else 0)
    except Timeout:
        if not wait:
            raise BlockingIOError(f"another process is at work in {folder}") from None
        print(f"waiting for another process that is at work in {folder}", file=sys.stderr, flush=True)
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
        "a file system has no locks: let one process at a time write into a folder there",
        RuntimeWarning,
        stacklevel=4,
    )


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: temporary file, fsync, rename.

    What killed processes have left in the folder is removed.

    :raises WriteError: if it cannot be written; the file is then as it was
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
    """Whether another process of this machine may run."""
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
    """Add lines to a file, whole or not at all.

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
    """Save a figure as :meth:`matplotlib.figure.Figure.savefig`, whole or not at all.

    :param options: for ``savefig``
    :raises WriteError: if it cannot be written
    """
    buffer = BytesIO()
    figure.savefig(buffer, format=path.suffix.removeprefix("."), **options)
    write_atomically(path, buffer.getvalue())


def retried_while_saved(read: Callable[Concatenate[Path, str, P], T]) -> Callable[Concatenate[Path, str, P], T]:
    """Let a function that reads ``folder/name.json`` and the file that it names read again what is replaced meanwhile.

    A save removes the tensor file of the record that it replaces. A reader that has read the old record finds it gone.
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
