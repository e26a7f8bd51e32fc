"""Torch's random generators, seeded for a while and then as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ._lock import LOCK, exchanging

__all__ = ["own_generators", "seed_generators", "seeded"]


@contextmanager
def own_generators(device: torch.device | str = "cpu") -> Iterator[None]:
    """Hold the lock of :mod:`pyro_priors._lock`, and leave the generators of the CPU and of one device as they were.

    :param device: where else than on the CPU random numbers are drawn
    """
    device = torch.device(device)
    with LOCK:
        other = _states(device)

        def exchange() -> None:
            nonlocal other
            found = _states(device)
            torch.set_rng_state(other[0])
            if device.type == "cuda":
                torch.cuda.set_rng_state(other[1], device)
            elif device.type == "mps":
                torch.mps.set_rng_state(other[1])
            other = found

        with exchanging(exchange):
            yield


def _states(device: torch.device) -> list[Tensor]:
    found = [torch.get_rng_state()]
    if device.type == "cuda":
        found.append(torch.cuda.get_rng_state(device))
    elif device.type == "mps":
        found.append(torch.mps.get_rng_state())
    return found


def seed_generators(seed: int, device: torch.device | str = "cpu") -> None:
    """Seed the generator of the CPU, and those of all other devices where ``device`` is one of them."""
    if torch.device(device).type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed torch's generators; afterwards those of the CPU and of one device are as they were before.

    Meanwhile the lock of :mod:`pyro_priors._lock` is held: no other thread of this package draws from them.

    :param seed: the seed
    :param device: where else than on the CPU random numbers are drawn
    """
    with own_generators(device):
        seed_generators(seed, device)
        yield
