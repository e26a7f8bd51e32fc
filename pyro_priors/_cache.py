"""Caches: folders of results that can be recomputed. Entries are verified when read, and a bad cache is never an error.

=============== ============================= =====================================================================
below           each entry is                 its name contains a checksum of
=============== ============================= =====================================================================
``decoded``     decoded images of a data set  the image files, the options and the version of the format
``classifiers`` a classifier of images        the data, the options of its training and the version of the format
=============== ============================= =====================================================================

An entry is a folder. A writer holds its lock, and writes the record last, which completes the entry. Compiled code is
in the cache of ``torch.compile``, which other programs share.
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

from . import _files
from ._files import CheckpointError
from .errors import UserError, hint

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
"""Description of the entries in each folder."""

COMPILED = "compiled"
"""Name of the entry that represents the cache of ``torch.compile``."""

COMPILED_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"

ROOM = 2**20
"""Bytes of free space that a folder must have to be usable."""

TEMPORARY = re.compile(r"\..+\.tmp", re.DOTALL)
"""Pattern of the names of files that a process is writing, or was writing when it was killed."""

T = TypeVar("T")


def cache_folder() -> Path:
    """Return the folder of the caches.

    It is the value of the environment variable PYRO_PRIORS_CACHE if that is set. Otherwise it is ``pyro_priors`` in
    XDG_CACHE_HOME, or in ``~/.cache`` by default. A relative XDG_CACHE_HOME is ignored, as the XDG Base Directory
    Specification requires.
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
    """Return the content of a cache entry. If it is missing or damaged, make it and store it.

    If several processes need the entry, one makes it and the others wait.

    :param folder: folder of the entry
    :param what: subject of the warnings
    :param read: reads the entry; returns None if there is none, and raises :class:`CheckpointError` if it is damaged
    :param write: makes the content, writes it into the existing folder, and returns it
    :param make: makes the content without writing it, for a folder that cannot be written
    """
    damage: CheckpointError | None = None
    try:
        if (found := read()) is not None:
            return found
    except CheckpointError as error:
        damage = error
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _files.locked(folder, wait=True):
            with suppress(CheckpointError):
                if (found := read()) is not None:  # another process has made it meanwhile
                    return found
            if damage is not None:
                warnings.warn(
                    f"{what} is made again, because the cache is damaged: {damage.what}", RuntimeWarning, stacklevel=2
                )
            return write()
    except OSError as error:
        warnings.warn(
            f"{what} is not cached, because {folder} cannot be written ({_reason(error)}): set {VARIABLE} to another "
            "folder",
            RuntimeWarning,
            stacklevel=2,
        )
    return make()


def _reason(error: OSError) -> str:
    return error.strerror.lower() if error.strerror else str(error)


def sweep(folder: Path, record: str) -> None:
    """Remove what killed processes have left in entries. Entries that a process is writing are not touched.

    :param folder: folder with entries of one kind
    :param record: name of the file that completes an entry
    """
    for entry in _listed(folder):
        names = {path.name for path in _listed(entry)}
        left = {name for name in names if TEMPORARY.fullmatch(name)} if record in names else names
        if left:
            with suppress(OSError, ValueError), _files.locked(entry, wait=False):
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
    """A cache entry, as the command ``pyro-priors cache`` lists it.

    :param name: name by which the entry is cleared
    :param path: its folder
    :param what: its purpose
    :param size: its size in bytes
    :param last_use: time of its last use, in seconds since the epoch
    """

    name: str
    path: Path
    what: str
    size: int
    last_use: float


def compiled_folder() -> Path:
    """Return the folder in which ``torch.compile`` stores machine code.

    This repeats torch's own rule. Torch itself cannot be asked, because importing its compiler fails without the
    folder.
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
    """Give torch's compiler a temporary folder for this process if its own folder is not writable, with a warning.

    Without a folder the compiler cannot be imported, and torch imports it with the first optimizer. On a full disk a
    temporary folder does not help, and programs run eagerly.
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
        f"compiled code is not cached, because {folder} cannot be written ({why}): set {COMPILED_VARIABLE} to another "
        "folder",
        RuntimeWarning,
        stacklevel=2,
    )


def why_unwritable(folder: Path) -> str:
    """Create a folder if missing. Return why it cannot be written, such as a full disk, or ``""`` if it can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(ROOM))
            file.flush()
    except OSError as error:
        return _reason(error)
    return ""


def entries() -> list[Entry]:
    """Return all entries, with the cache of ``torch.compile`` last."""
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
    """Return the total size in bytes, and the time of the last change, of the files at and below a path."""
    size, last = 0, 0.0
    for file in _files_in(path):
        try:
            state = os.lstat(file)
        except OSError:  # removed meanwhile
            continue
        if not stat.S_ISDIR(state.st_mode):
            size, last = size + state.st_size, max(last, state.st_mtime)
    return size, last


def _files_in(path: Path) -> Iterator[str]:
    yield os.fspath(path)
    if not path.is_symlink():
        for folder, _, names in os.walk(path):
            yield from (os.path.join(folder, name) for name in names)


def clear(names: Sequence[str] = ()) -> list[Entry]:
    """Remove entries.

    :param names: names of entries or kinds; by default all except the cache of ``torch.compile``, which other programs
        share
    :returns: the removed entries; an entry that a process is writing is kept, with a warning
    :raises ValueError: if no entry has a given name, or an entry cannot be removed
    """
    known = entries()
    kinds = {entry.name.split("/")[0] for entry in known}
    for name in names:
        if name not in kinds and all(entry.name != name for entry in known):
            if not known:
                raise UserError(f"there is no cache entry '{name}': the caches are empty")
            raise UserError(f"there is no cache entry '{name}': {hint(name, [entry.name for entry in known])}")
    chosen = [entry for entry in known if {entry.name, entry.name.split("/")[0]} & set(names)]
    if not names:
        chosen = [entry for entry in known if entry.name != COMPILED]
    return [entry for entry in chosen if _removed(entry)]


def _removed(entry: Entry) -> bool:
    if entry.name == COMPILED and not entry.path.name.startswith("torchinductor"):  # it may be anybody's folder
        raise UserError(
            f"{entry.path} is not removed, because {COMPILED_VARIABLE} may name any folder: remove it yourself"
        )
    try:
        if entry.path.is_symlink() or not entry.path.is_dir():
            entry.path.unlink()
        elif entry.name == COMPILED:
            shutil.rmtree(entry.path)
        else:
            with _files.locked(entry.path, wait=False):
                shutil.rmtree(entry.path)
    except (BlockingIOError, TimeoutError):
        warnings.warn(
            f"{entry.name} is not removed, because another process is writing to it", RuntimeWarning, stacklevel=3
        )
        return False
    except FileNotFoundError:  # removed by another process
        return True
    except OSError as error:
        raise UserError(f"{entry.path} cannot be removed ({_reason(error)}): remove it yourself") from None
    return True
