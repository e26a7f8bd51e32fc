"""A limit on what may be allocated while something is built of sizes that a file states."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["TooLarge", "Within"]

LEAST = 1024
"""What an operation counts for at least, so that many small ones end as well."""


class TooLarge(ValueError):
    """The limit is exceeded."""


class Within(TorchDispatchMode):
    """A context in which torch's operations may make a number of values in total, over those they are given.

    :param most: that number
    :raises TooLarge: in use, when it is exceeded; large memory is reserved by then, but not yet written to
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.left = most, most

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.left -= max(LEAST, _values(tree_leaves(result)) - _values(tree_leaves((args, kwargs))))
        if self.left < 0:
            raise TooLarge(f"it needs more than {self.most} values, which are not in its tensors")
        return result


def _values(leaves: Iterable[Any]) -> int:
    return sum(leaf.numel() for leaf in leaves if isinstance(leaf, Tensor))
