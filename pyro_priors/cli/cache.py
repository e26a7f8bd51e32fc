"""The command ``pyro-priors cache``, which lists and removes cache entries."""

from __future__ import annotations

import time
from collections.abc import Sequence

from .._cache import COMPILED, cache_folder, clear, entries
from ..errors import UserError

__all__ = ["run"]

HELP = f"""usage: pyro-priors cache [--clear [NAME ...]]

List the cache entries with name, size, last use and purpose. A removed entry is made again when it is needed. Data sets
and runs are not in the caches, and this command does not change them.

  --clear             remove all entries except {COMPILED}, which other programs share
  --clear NAME ...    remove these entries, or all entries of a kind: decoded, classifiers, {COMPILED}

The caches are in the folder PYRO_PRIORS_CACHE, by default ~/.cache/pyro_priors."""


def run(arguments: Sequence[str]) -> None:
    """Run the command.

    :param arguments: the arguments after ``cache``
    :raises ValueError: if an argument is wrong, or an entry is unknown or cannot be removed
    """
    if any(argument in ("-h", "--help") for argument in arguments):
        print(HELP)
        return
    if arguments and arguments[0] != "--clear":
        raise UserError(f"cache takes no argument '{arguments[0]}': give --clear to remove entries (see cache --help)")
    if unknown := [name for name in arguments[1:] if name.startswith("-") or not name]:
        raise UserError(f"--clear takes names of entries, got '{unknown[0]}': see pyro-priors cache")
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
    """Return a size with a suitable unit, such as ``2.5 GB``."""
    size, units = float(num_bytes), ["B", "kB", "MB", "GB"]
    while size >= 999.95 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.0f} B" if units[0] == "B" else f"{size:.1f} {units[0]}"
