"""The command ``pyro-priors cache``: what is kept to be used again, and how it is removed."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ._cache import COMPILED, cache_folder, clear, entries

__all__ = ["run"]

HELP = f"""usage: pyro-priors cache [--clear [NAME ...]]

Shows the entries of the caches: name, size, last use, what they are for. Whatever is removed is made again when it is
needed. Data sets and runs are not in the caches, and are left as they are.

  --clear             remove all entries but {COMPILED}, which other programs share
  --clear NAME ...    remove these entries, or all of a kind: decoded, classifiers, {COMPILED}

The caches are in the folder PYRO_PRIORS_CACHE, or by default in ~/.cache/pyro_priors."""


def run(arguments: Sequence[str]) -> None:
    """Run the command.

    :param arguments: those after ``cache``
    :raises ValueError: if an argument is wrong, or an entry is unknown or cannot be removed
    """
    if any(argument in ("-h", "--help") for argument in arguments):
        print(HELP)
        return
    if arguments and arguments[0] != "--clear":
        raise ValueError(f"cache takes no argument '{arguments[0]}': give --clear to remove entries (see cache --help)")
    if unknown := [name for name in arguments[1:] if name.startswith("-") or not name]:
        raise ValueError(f"--clear takes names of entries, got '{unknown[0]}': see pyro-priors cache")
    if arguments:
        removed = clear(arguments[1:])
        for entry in removed:
            print(f"removed {entry.name} ({size_of(entry.size)})")
        if not removed:
            print("nothing to remove")
        return
    found = entries()
    if not found:
        print(f"the caches in {cache_folder()} are empty")
        return
    print(f"caches in {cache_folder()}")
    width = max(len(entry.name) for entry in found)
    for entry in found:
        place = f", in {entry.path}" if entry.name == COMPILED else ""
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.last_use))
        print(f"  {entry.name:{width}}  {size_of(entry.size):>8}  last used {used}  {entry.what}{place}")
    print("remove: pyro-priors cache --clear [NAME ...]")


def size_of(num_bytes: int) -> str:
    """Return a size in the unit that fits it, such as ``2.5 GB``."""
    size, units = float(num_bytes), ["B", "kB", "MB", "GB"]
    while size >= 999.95 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.0f} B" if units[0] == "B" else f"{size:.1f} {units[0]}"
