"""Sizes that exhaust the memory, refused before anything is allocated.

A process that asks for too much is killed without a word. Estimates here are lower bounds: what they refuse cannot fit.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["TRAINED", "check_memory", "refusing_too_many_bytes", "total_memory"]

TRAINED = 5
"""Copies of the parameters that a training holds: they, their gradients, Adam's two moments, and the best so far."""

FACTORIES = ("empty", "full", "ones", "rand", "randn", "zeros")


def total_memory() -> float:
    """Return the bytes of memory of this machine or container; infinity where the system does not tell."""
    found = math.inf
    with suppress(AttributeError, OSError, ValueError):
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # absent, or "max"
            found = min(found, int(Path(limit).read_text()))
    return found


def check_memory(num_bytes: float, what: str, remedy: str) -> None:
    """Refuse what needs more memory than there is.

    :param num_bytes: that it needs at least
    :param what: the argument and its value
    :param remedy: what to give instead
    :raises ValueError: with both numbers
    """
    if num_bytes > (total := total_memory()):
        raise ValueError(
            f"{what} needs more than {num_bytes / 2**30:,.0f} GiB of memory, and there are {total / 2**30:,.1f}: "
            f"{remedy}"
        )


class _Counter(TorchDispatchMode):
    def __init__(self, copies: int, what: str, remedy: str) -> None:
        super().__init__()
        self.copies, self.what, self.remedy, self.num_bytes = copies, what, remedy, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = function._schema.name.removeprefix("aten::").removeprefix("new_")
        size = next((one for one in args if isinstance(one, list | tuple)), ())
        if name in FACTORIES and all(isinstance(one, int) for one in size):
            dtype = kwargs.get("dtype") or torch.get_default_dtype()
            self.num_bytes += math.prod(size) * dtype.itemsize
            check_memory(self.copies * self.num_bytes, self.what, self.remedy)
        return function(*args, **kwargs)


@contextmanager
def refusing_too_many_bytes(copies: int, what: str, remedy: str) -> Iterator[None]:
    """Count the bytes of the tensors that are made, and refuse the first that would not fit any more.

    :param copies: how many times each will be held
    :param what: the argument that decides the sizes, and its value
    :param remedy: what to give instead
    :raises ValueError: within, before that tensor is allocated
    """
    with _Counter(copies, what, remedy):
        yield
