"""Sizes that exhaust the memory, refused before anything is allocated.

A process that asks for too much is killed without a word. Estimates here are lower bounds: what they refuse cannot fit.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["TRAINED", "TooLarge", "Within", "check_memory", "is_exhausted", "refusing_too_many_bytes", "total_memory"]

TRAINED = 5
"""Copies of the parameters that a training holds: they, their gradients, Adam's two moments, and the best so far."""

LEAST = 1024
"""What a function of torch counts for at least, so that many small tensors end as well."""

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


def is_exhausted(error: BaseException) -> bool:
    """Whether an error says that there was not enough memory."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


class _Counter(TorchFunctionMode):
    def __init__(self, copies: int, what: str, remedy: str) -> None:
        super().__init__()
        self.copies, self.what, self.remedy, self.num_bytes = copies, what, remedy, 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__name__", "").removeprefix("new_") in FACTORIES:
            dtype = kwargs.get("dtype") or torch.get_default_dtype()
            self.num_bytes += math.prod(_size(args, kwargs)) * dtype.itemsize
            check_memory(self.copies * self.num_bytes, self.what, self.remedy)
        return function(*args, **kwargs)


def _size(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Sequence[int]:
    """The size that a factory of torch was given, as one argument or as several."""
    given = [kwargs["size"]] if "size" in kwargs else [one for one in args if not isinstance(one, Tensor)]
    if given and isinstance(given[0], list | tuple):
        given = list(given[0])
    return [one for one in given if isinstance(one, int)]


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


class TooLarge(ValueError):
    """The limit is exceeded."""


class Within(TorchFunctionMode):
    """A context in which torch's functions may make a number of values in total, over those they are given.

    :param most: that number
    :raises TooLarge: in use, when it is exceeded; large memory is reserved by then, but not yet written to
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.left = most, most

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if made := _values(result):
            self.left -= max(LEAST, made - _values(args) - _values(kwargs))
            if self.left < 0:
                raise TooLarge(f"it needs more than {self.most} values, which are not in its tensors")
        return result


def _values(value: Any) -> int:
    """How many values the tensors in nested lists, tuples and dictionaries have."""
    if isinstance(value, Tensor):
        return value.numel()
    if isinstance(value, dict):
        value = value.values()
    return sum(map(_values, value)) if isinstance(value, list | tuple | type({}.values())) else 0
