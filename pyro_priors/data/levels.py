"""Images kept as bytes, a quarter of what they take as float32, or as a file that is mapped into memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import UserError

__all__ = ["Levels", "rows_of"]


class Levels:
    """Levels k/255, kept as bytes k, that stand in for a float tensor: what is indexed comes out as floats in [0, 1].

    Example::

        >>> x = Levels(torch.tensor([[0, 51], [102, 255]], dtype=torch.uint8))
        >>> x[:1], x.shape
        (tensor([[0.0000, 0.2000]]), torch.Size([2, 2]))

    Where it stands in :class:`~pyro_priors.data.Part`, no more than a batch is ever held as floats.

    :param levels: uint8, shape ``(N,) + shape``
    :param dtype: of what comes out
    """

    def __init__(self, levels: Tensor, dtype: torch.dtype = torch.float32) -> None:
        if levels.dtype is not torch.uint8:
            raise UserError(f"levels must be uint8, got {levels.dtype}: give values in [0, 1] as they are")
        self.levels, self.dtype = levels, dtype

    @property
    def shape(self) -> torch.Size:
        """Shape of all."""
        return self.levels.shape

    @property
    def device(self) -> torch.device:
        """Where the bytes are."""
        return self.levels.device

    def __len__(self) -> int:
        return len(self.levels)

    def __getitem__(self, index: Any) -> Tensor:
        return self._read(self.levels[index])

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """As torch's."""
        return self._read(self.levels.index_select(dim, index))

    def split(self, size: int) -> Any:
        """As torch's, one piece after the other."""
        return (self._read(part) for part in self.levels.split(size))

    def flatten(self, start_dim: int) -> Levels:
        """As torch's, of the bytes."""
        return Levels(self.levels.flatten(start_dim), self.dtype)

    def to(self, like: Tensor) -> Levels:
        """The bytes on the device of ``like``, read in its precision."""
        return Levels(self.levels.to(like.device), like.dtype)

    def _read(self, levels: Tensor) -> Tensor:
        return levels.to(self.dtype).div_(255)


def rows_of(values: Any, index: Any) -> Any:
    """``values[index]``, of :class:`Levels` the bytes."""
    return Levels(values.levels[index], values.dtype) if isinstance(values, Levels) else values[index]
