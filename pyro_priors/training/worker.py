"""One process of a training: its seeds, its share of the noise, and errors that all processes raise together."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from .. import module_state
from ..divergence import TrainingDiverged, became_infinite, cause
from ..network_checks import of_network
from ..pair import Pair
from ..sites import SharedNoise
from .progress import Progress

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Worker"]


class Worker:
    """What the parts of a training share in one of its processes.

    :param fabric: Lightning's, which knows the device and the other processes
    :param pair: the pair in training
    """

    def __init__(self, fabric: Fabric, pair: Pair) -> None:
        self.fabric, self.pair = fabric, pair
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}
        """Tensors of the pair with the best validation bound so far."""

    @property
    def has_others(self) -> bool:
        """Whether the training has other processes."""
        return self.fabric.world_size > 1

    def seed(self, seed: int) -> None:
        """Seed the generators that programs use; :func:`torch.manual_seed` takes 90 times as long."""
        device = self.fabric.device
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        elif device.type == "mps":
            torch.mps.manual_seed(seed)

    def noise_of(self, batch_size: int) -> AbstractContextManager:
        """Return a context in which several processes draw noise for the whole batch, and each keeps its own rows."""
        rank, world_size = self.fabric.global_rank, self.fabric.world_size
        return SharedNoise(batch_size, rank * batch_size // world_size) if self.has_others else nullcontext()

    def all_reduce(self, value: Tensor, how: str) -> Tensor:
        """Return the mean, sum or maximum of a value over the processes."""
        return cast(Tensor, self.fabric.all_reduce(value.to(self.fabric.device), reduce_op=how)).cpu()

    def raise_together(self, error: Exception | None) -> None:
        """Raise an error of one process in all processes, so that none waits for the gradients of another."""
        if self.has_others:
            number = 0 if error is None else self.fabric.global_rank + 1
            number = int(self.all_reduce(torch.tensor(float(number), device="cpu"), "max"))
            if number:
                own = (isinstance(error, TrainingDiverged), type(error).__name__, str(error))
                diverged, kind, text = self.fabric.broadcast(own, src=number - 1)
                if error is None and diverged:
                    error = TrainingDiverged(text)
                elif error is None:
                    error = RuntimeError(f"process {number - 1} raised {kind}: {text}")
        if error is not None:
            raise error

    def judged(self, error: Exception, again: Callable[[], object]) -> Exception:
        """Return a :class:`TrainingDiverged` if an error is caused by a divergence, otherwise the error itself.

        :param error: the error that was raised
        :param again: repeats the computation that raised it
        """
        try:
            if not isinstance(error, TrainingDiverged):
                self.check_tensors(module_state.tensors_of(self.pair))
            found = cause(error, again, first_step=not self.progress.step)
        except TrainingDiverged as diverged:
            found = diverged
        except Exception:  # the original error is more helpful than this one
            found = None
        if found is None or found is error:
            return of_network(error, self.pair)
        found.__cause__ = error
        return found

    def check_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Compare tensors of the pair with the best weights.

        :raises TrainingDiverged: if a tensor is NaN or infinite where the best weights are finite
        """
        if what := became_infinite(tensors, self.best):
            raise TrainingDiverged(what)
