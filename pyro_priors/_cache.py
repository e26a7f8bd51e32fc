"""Caches: folders that keep what can be made again. They are checked when read, and never a reason to fail.

=============== ============================= =====================================================================
below           each entry is                 its name contains a checksum of
=============== ============================= =====================================================================
``decoded``     decoded images of a data set  the image files, the options and the version of the format
``classifiers`` a classifier of images        the data, the options of its training and the version of the format
=============== ============================= =====================================================================

An entry is a folder. Whoever writes to it holds its lock, and writes the record, which completes it, last. Compiled
code is in the cache of ``torch.compile``, which other programs share.
"""

from __future__ import annotations

import atexit
import getpass
import os
import re
import shutil
import stat
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from . import checkpoint
from ._hints import hint
from .checkpoint import CheckpointError

__all__ = [
    "COMPILED",
    "KINDS",
    "Entry",
    "cache_folder",
    "cached",
    "clear",
    "compiled_folder",
    "ensure_compiled_folder",
    "entries",
    "sweep",
    "why_unwritable",
]

VARIABLE = "PYRO_PRIORS_CACHE"

KINDS = {"decoded": "decoded images", "classifiers": "classifier for image metrics"}
"""What the entries below each folder are."""

COMPILED = "compiled"
"""Name of the entry that stands for the cache of ``torch.compile``."""

COMPILED_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"

ROOM = 2**20
"""Bytes that a folder must have room for to be of use."""

TEMPORARY = re.compile(r"\..+\.tmp", re.DOTALL)
"""Names of files that a process is writing, or was writing when it was killed."""

T = TypeVar("T")


def cache_folder() -> Path:
    """Return the folder of the caches.

    It is the environment variable PYRO_PRIORS_CACHE, or ``pyro_priors`` in XDG_CACHE_HOME or, by default, in
    ``~/.cache``. A relative XDG_CACHE_HOME is ignored, as the XDG Base Directory Specification demands.
    """
    if given := os.environ.get(VARIABLE):
        return Path(os.path.expanduser(given)).absolute()
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        try:
            base = Path.home() / ".cache"
        except RuntimeError:  # a user without a home, as in some containers
            base = Path(tempfile.gettempdir())
    return base / "pyro_priors"


def cached(folder: Path, what: str, read: Callable[[], T | None], write: Callable[[], T], make: Callable[[], T]) -> T:
    """Return what a folder keeps; make it, and keep it there, where it is missing or damaged.

    Of several processes that need it one makes it, and the others wait.

    :param folder: of the entry
    :param what: subject of a warning
    :param read: returns None where the folder keeps nothing, and raises :class:`CheckpointError` where that is damaged
    :param write: makes it, writes it into the folder, which exists, and returns it
    :param make: makes it without writing it, where the folder cannot be written
    """
    damage: CheckpointError | None = None
    try:
        if (found := read()) is not None:
            return found
    except CheckpointError as error:
        damage = error
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with checkpoint.locked(folder, wait=True):
            with suppress(CheckpointError):
                if (found := read()) is not None:  # another process has made it meanwhile
                    return found
            if damage is not None:
                warnings.warn(
                    f"{what} is made again, the cache is damaged: {damage.what}", RuntimeWarning, stacklevel=2
                )
            return write()
    except OSError as error:
        warnings.warn(
            f"{what} is not kept, {folder} cannot be written ({_reason(error)}): set {VARIABLE} to another folder",
            RuntimeWarning,
            stacklevel=2,
        )
    return make()


def _reason(error: OSError) -> str:
    return error.strerror.lower() if error.strerror else str(error)


def sweep(folder: Path, record: str) -> None:
    """Remove what killed processes have left in entries; those that a process is writing to are left.

    :param folder: of a kind of entries
    :param record: name of the file that completes an entry
    """
    for entry in _listed(folder):
        names = {path.name for path in _listed(entry)}
        left = {name for name in names if TEMPORARY.fullmatch(name)} if record in names else names
        if left:
            with suppress(OSError, ValueError), checkpoint.locked(entry, wait=False):
                complete = (entry / record).exists()  # completed since
                for path in _listed(entry):
                    unfinished = not (complete or path.name.startswith("."))
                    if path.is_file() and (unfinished or TEMPORARY.fullmatch(path.name)):
                        path.unlink(missing_ok=True)


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:  # missing, not a folder, or not readable
        return []


@dataclass(frozen=True)
class Entry:
    """What the command ``pyro-priors cache`` shows of an entry.

    :param name: to clear it by
    :param path: its folder
    :param what: what it is for
    :param size: in bytes
    :param last_use: seconds since the epoch
    """

    name: str
    path: Path
    what: str
    size: int
    last_use: float


def compiled_folder() -> Path:
    """Return the folder in which ``torch.compile`` keeps machine code.

    It is found as torch does. Torch itself is not asked, since importing its compiler fails if there is no such folder.
    """
    if given := os.environ.get(COMPILED_VARIABLE):
        return Path(given).absolute()
    try:
        user = getpass.getuser()
    except (KeyError, ModuleNotFoundError, OSError):
        user = f"uid_{os.getuid()}" if hasattr(os, "getuid") else "unknown_user"
    plain_user = re.sub(r'[\\/:*?"<>|]', "_", user)
    return Path(tempfile.gettempdir()) / f"torchinductor_{plain_user}"


def ensure_compiled_folder() -> None:
    """Give torch's compiler a temporary folder for this process if it cannot write to its own, after a warning.

    Without one the compiler cannot be imported, and torch imports it with the first optimizer. If the disk is full the
    temporary folder is of no use: programs then run eagerly.
    """
    folder = compiled_folder()
    if not (why := why_unwritable(folder)):
        return
    try:
        temporary = tempfile.mkdtemp(prefix="torchinductor_")
    except OSError:
        return
    if why_unwritable(Path(temporary)):
        with suppress(OSError):
            os.rmdir(temporary)
        return
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    os.environ[COMPILED_VARIABLE] = temporary
    warnings.warn(
        f"compiled code is not kept, {folder} cannot be written ({why}): set {COMPILED_VARIABLE} to another folder",
        RuntimeWarning,
        stacklevel=2,
    )


def why_unwritable(folder: Path) -> str:
    """Return why a folder cannot be written, as on a full disk; an empty string if it can. It is made if missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(ROOM))
            file.flush()
    except OSError as error:
        return _reason(error)
    return ""


def entries() -> list[Entry]:
    """Return all entries, and the cache of ``torch.compile`` as the last one."""
    found = []
    for kind, what in KINDS.items():
        for path in _listed(cache_folder() / kind):
            size, last_use = _measured(path)
            if size:
                found.append(Entry(f"{kind}/{path.name}", path, what, size, last_use))
    folder = compiled_folder()
    size, last_use = _measured(folder)
    if size:
        what = "machine code of torch.compile, shared with other programs"
        found.append(Entry(COMPILED, folder, what, size, last_use))
    return found


def _measured(path: Path) -> tuple[int, float]:
    """Bytes, and time of the last change, of the files at and below a path."""
    size, last = 0, 0.0
    for file in _files(path):
        try:
            state = os.lstat(file)
        except OSError:  # removed meanwhile
            continue
        if not stat.S_ISDIR(state.st_mode):
            size, last = size + state.st_size, max(last, state.st_mtime)
    return size, last


def _files(path: Path) -> Iterator[str]:
    yield os.fspath(path)
    if not path.is_symlink():
        for folder, _, names in os.walk(path):
            yield from (os.path.join(folder, name) for name in names)


def clear(names: Sequence[str] = ()) -> list[Entry]:
    """Remove entries.

    :param names: of entries or kinds; by default all but the cache of ``torch.compile``, which other programs share
    :returns: the entries that are removed; those that a process is writing to are left, after a warning
    :raises ValueError: if there is no entry of a name, or one cannot be removed
    """
    known = entries()
    kinds = {entry.name.split("/")[0] for entry in known}
    for name in names:
        if name not in kinds and all(entry.name != name for entry in known):
            if not known:
                raise ValueError(f"there is no cache entry '{name}': the caches are empty")
            raise ValueError(f"there is no cache entry '{name}': {hint(name, [entry.name for entry in known])}")
    chosen = [entry for entry in known if {entry.name, entry.name.split("/")[0]} & set(names)]
    if not names:
        chosen = [entry for entry in known if entry.name != COMPILED]
    return [entry for entry in chosen if _removed(entry)]


def _removed(entry: Entry) -> bool:
    if entry.name == COMPILED and not entry.path.name.startswith("torchinductor"):  # it may be anybody's folder
        raise ValueError(
            f"{entry.path} is not removed, since {COMPILED_VARIABLE} may name any folder: remove it yourself"
        )
    try:
        if entry.path.is_symlink() or not entry.path.is_dir():
            entry.path.unlink()
        elif entry.name == COMPILED:
            shutil.rmtree(entry.path)
        else:
            with checkpoint.locked(entry.path, wait=False):
                shutil.rmtree(entry.path)
    except (BlockingIOError, TimeoutError):
        warnings.warn(f"{entry.name} is left, another process is writing to it", RuntimeWarning, stacklevel=3)
        return False
    except FileNotFoundError:  # removed by another process
        return True
    except OSError as error:
        raise ValueError(f"{entry.path} cannot be removed ({_reason(error)}): remove it yourself") from None
    return True
