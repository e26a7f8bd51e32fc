"""Checks that refuse sizes that exhaust the memory, before anything is allocated.

The system kills a process that allocates too much, without a message. The estimates here are lower bounds: what they
refuse cannot fit.
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
"""Copies of the parameters that a training holds: parameters, gradients, Adam's two moments, and the best weights."""

LEAST = 1024
"""Minimum number of values counted for each call of a torch function, so that many small tensors are limited too."""

PYTHON_TYPES = {bool: torch.bool, int: torch.int64, float: torch.float64}
"""What torch takes for a dtype besides its own."""

FACTORIES = ("empty", "full", "ones", "rand", "randn", "zeros")


def total_memory() -> float:
    """Return the memory of this machine or container in bytes; infinity if the system does not report it."""
    found = math.inf
    with suppress(AttributeError, OSError, ValueError):
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # absent, or "max"
            found = min(found, int(Path(limit).read_text()))
    return found


def check_memory(num_bytes: float, what: str, remedy: str) -> None:
    """Refuse a size that needs more memory than the machine has.

    :param num_bytes: lower bound of the memory needed
    :param what: the argument and its value
    :param remedy: what to give instead
    :raises ValueError: if the memory does not suffice; the message has both numbers
    """
    if num_bytes > (total := total_memory()):
        raise ValueError(
            f"{what} needs more than {num_bytes / 2**30:,.0f} GiB of memory, but the machine has "
            f"{total / 2**30:,.1f} GiB: {remedy}"
        )


def is_exhausted(error: BaseException) -> bool:
    """Return whether an error means that memory ran out."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


class _Counter(TorchFunctionMode):
    def __init__(self, copies: int, what: str, remedy: str) -> None:
        super().__init__()
        self.copies, self.what, self.remedy, self.num_bytes = copies, what, remedy, 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__name__", "").removeprefix("new_") in FACTORIES:
            itemsize = _itemsize(kwargs.get("dtype"))
            self.num_bytes += math.prod(_size(args, kwargs)) * itemsize
            check_memory(self.copies * self.num_bytes, self.what, self.remedy)
        return function(*args, **kwargs)


def _itemsize(dtype: torch.dtype | type | None) -> int:
    """Return the bytes of one value; torch takes ``bool``, ``int`` and ``float`` as types too."""
    if dtype is None:
        return torch.get_default_dtype().itemsize
    return PYTHON_TYPES[dtype].itemsize if isinstance(dtype, type) else dtype.itemsize


def _size(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Sequence[int]:
    """Return the size that a torch factory function received, as one argument or several."""
    given = [kwargs["size"]] if "size" in kwargs else [one for one in args if not isinstance(one, Tensor)]
    if given and isinstance(given[0], list | tuple):
        given = list(given[0])
    return [one for one in given if isinstance(one, int)]


@contextmanager
def refusing_too_many_bytes(copies: int, what: str, remedy: str) -> Iterator[None]:
    """Count the bytes of the tensors that are created, and refuse the first one that would not fit.

    :param copies: number of copies of each tensor that will be held
    :param what: the argument that decides the sizes, and its value
    :param remedy: what to give instead
    :raises ValueError: inside the context, before that tensor is allocated
    """
    with _Counter(copies, what, remedy):
        yield


class TooLarge(ValueError):
    """The limit is exceeded."""


class Within(TorchFunctionMode):
    """A context that limits how many values torch functions may create in total, beyond their inputs.

    :param most: the limit
    :raises TooLarge: inside the context, when the limit is exceeded; large memory may be reserved, but is not written
        yet
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.left = most, most

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if made := _values(result):
            self.left -= max(LEAST, made - _values(args) - _values(kwargs))
            if self.left < 0:
                raise TooLarge(f"it needs more than {self.most} values that are not in its tensors")
        return result


def _values(value: Any) -> int:
    """Return the number of values in the tensors of nested lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        return value.numel()
    if isinstance(value, dict):
        value = value.values()
    return sum(map(_values, value)) if isinstance(value, list | tuple | type({}.values())) else 0
