"""Batches sliced from tensors in memory, a pure function of (seed, epoch, step)."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from .._options import typed
from ..errors import UserError
from .augment import Augment
from .splits import Part

__all__ = ["batches", "num_batches"]

AUGMENTATION = 1  # a stream of its own beside the binarisation's


@typed
def num_batches(part: Part, batch_size: int) -> int:
    """Number of batches of an epoch; the last one may be smaller."""
    return math.ceil(len(part) / batch_size)


@typed
def batches(
    part: Part,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    binarise: bool = False,
    shuffle: bool = True,
    rank: int = 0,
    world_size: int = 1,
    start: int = 0,
    augment: Augment | None = None,
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The batches (x, condition) of one epoch.

    Nothing is remembered from one batch to the next: the permutation depends on (seed, epoch) only, the
    binarisation noise and what augmentation does on (seed, epoch, step) only. Training that stopped in the
    middle of an epoch goes on with ``start`` and sees exactly what it would have seen. Torch's global generator
    is neither read nor changed.

    The permutation is drawn on the CPU, the noise on the device of ``part``: the order is the same
    everywhere, the noise on one kind of device.

    Without ``shuffle`` and ``binarise`` a batch is a view of the part: do not write to it.

    :param part: data, already on the device that computes
    :param batch_size: size of the batch over all processes
    :param seed: seed of the run, 0 or more
    :param epoch: number of the epoch, 0 or more
    :param binarise: draw x from Bernoulli(x), as ``Splits.binarise`` says for the training part
    :param shuffle: permute the examples
    :param rank: which slice of every batch to yield, 0 to ``world_size - 1``. All ranks share permutation and
        noise, so that their union is the batch of a single process. Sizes differ by one at most; a slice of a
        last batch smaller than ``world_size`` may be empty, and is yielded all the same so that the ranks
        stay in step
    :param world_size: number of processes
    :param start: number of batches to skip
    :param augment: what to do to the images at random, before they are binarised
    :returns: iterator over x, shape ``(n,) + x_shape``, and condition, shape ``(n,) + condition_shape`` or
        None
    :raises ValueError: if a number is out of range, before the first batch is asked for
    """
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {batch_size}")
    if world_size < 1 or not 0 <= rank < world_size:
        raise UserError(f"rank must be in 0..world_size-1, got rank={rank} and world_size={world_size}")
    for name, value in (("seed", seed), ("epoch", epoch), ("start", start)):
        if value < 0:
            raise UserError(f"{name} must be 0 or more, got {value}")
    return _iterate(part, batch_size, seed, epoch, binarise, shuffle, rank, world_size, start, augment)


def _iterate(
    part: Part,
    batch_size: int,
    seed: int,
    epoch: int,
    binarise: bool,
    shuffle: bool,
    rank: int,
    world_size: int,
    start: int,
    augment: Augment | None,
) -> Iterator[tuple[Tensor, Tensor | None]]:
    device = part.x.device
    order = None
    if shuffle:
        generator = torch.Generator("cpu").manual_seed(_mix(seed, epoch, 0))
        order = torch.randperm(len(part), generator=generator, device="cpu").to(device)
    noise_generator = torch.Generator(device)
    steps = range(start, num_batches(part, batch_size))
    # at once: between the steps of a training one takes ten times as long
    seeds = [_mix(seed, epoch, step + 1) for step in steps] if binarise else [0] * len(steps)

    for step, noise_seed in zip(steps, seeds, strict=True):
        first = step * batch_size
        size = min(batch_size, len(part) - first)
        low, high = rank * size // world_size, (rank + 1) * size // world_size
        rows = slice(first + low, first + high)
        x = _rows(part.x, order, rows)
        if augment is not None:
            noise_generator.manual_seed(_mix(seed, epoch, step + 1, AUGMENTATION))
            x = augment.apply(x, augment.draw(size, noise_generator)[low:high])
        if binarise:
            noise_generator.manual_seed(noise_seed)
            noise = torch.rand((size, *part.x.shape[1:]), generator=noise_generator, device=device, dtype=x.dtype)
            # noise < x has probability x exactly, at 0 and 1 too, and costs a fraction of torch.bernoulli
            x = noise[low:high].lt_(x)
        yield x, None if part.condition is None else _rows(part.condition, order, rows)


def _rows(values: Tensor, order: Tensor | None, rows: slice) -> Tensor:
    return values[rows] if order is None else values.index_select(0, order[rows])


def _mix(seed: int, epoch: int, stream: int, *purpose: int) -> int:
    """One well mixed seed of 63 bits: neighbouring seeds, epochs and steps give unrelated streams."""
    return int(np.random.SeedSequence((seed, epoch, stream, *purpose)).generate_state(1, np.uint64)[0] >> np.uint64(1))
