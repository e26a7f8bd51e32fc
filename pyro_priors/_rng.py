"""Torch's random generators, seeded for a while and then as they were."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar
from weakref import WeakSet

import torch
from torch import Tensor

from ._lock import LOCK, exchanging

__all__ = ["Draws", "alone", "noticing", "own_generators", "seed_generators", "seeded", "starting_threads"]

T = TypeVar("T")

BLOCK = 624
"""Numbers that the CPU's generator makes at a time; its state says how many of the last block are left."""


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
            _restore(other, device)
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


def _restore(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(states[1])


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


class Draws:
    """Notice numbers that other threads draw from torch's generators while a seeded computation draws its own.

    All threads share these generators. A computation is known by how many numbers it draws: as many as before, and as
    many again from the same seed. Others' numbers go unnoticed where a multiple of 624 of them comes at once from the
    CPU's generator, where a computation comes once only and no other thread is known to run, and from daemon threads.

    :param device: where the computation draws
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.counts: dict[Hashable, int] = {}

    def position(self) -> int:
        """Return how many numbers were drawn, on the CPU up to multiples of 624."""
        if self.device.type == "cuda":
            index = torch.cuda.current_device() if self.device.index is None else self.device.index
            return torch.cuda.default_generators[index].get_offset()
        state = torch.default_generator.get_state()
        return -int.from_bytes(bytes(state[8:12].tolist()), "little")  # the state begins with the seed

    def check(self, kind: Hashable, count: int, again: Callable[[], int], what: str) -> None:
        """Compare how many numbers a computation drew with how many others of its kind did.

        Where they differ, or where it is the first of its kind and other threads run, it runs again from the same
        seed. How many numbers a Gamma distribution draws depends on the seed, and it draws as many again. A computation
        that no other thread could disturb is never refused.

        :param kind: what decides how many numbers are drawn, such as the size of a batch
        :param count: how many were drawn
        :param again: computes once more from the same seed, and returns how many were drawn
        :param what: what was computed, for the message
        :raises ValueError: if another thread has drawn numbers
        """
        if self.counts.get(kind) == count:
            return
        if _others_run() and again() != count:
            raise ValueError(
                f"another thread drew random numbers of torch during {what}, which changes its noise: give that thread "
                "a torch.Generator of its own, or let it wait"
            )
        self.counts[kind] = count

    def alone(self, kind: Hashable, run: Callable[[], T], what: str, confirm: bool = True) -> T:
        """Return what ``run`` returns, computed while no other thread drew numbers.

        :param kind: as for :meth:`check`
        :param run: draws from the generators as they are
        :param what: as for :meth:`check`
        :param confirm: where other threads run, compute the first of a kind twice
        :raises ValueError: as :meth:`check`
        """
        states = _states(self.device)

        def again() -> int:
            _restore(states, self.device)
            return counted()[1]

        def counted() -> tuple[T, int]:
            before = self.position()
            result = run()
            count = self.position() - before
            return result, count if self.device.type == "cuda" else count % BLOCK

        result, count = counted()
        ended = _states(self.device)
        if confirm or kind in self.counts:
            self.check(kind, count, again, what)
        else:
            self.counts[kind] = count
        _restore(ended, self.device)
        return result


_DRAWS: ContextVar[Draws | None] = ContextVar("draws", default=None)


@contextmanager
def noticing(device: torch.device) -> Iterator[Draws]:
    """Let :func:`alone` notice numbers that other threads draw."""
    token = _DRAWS.set(Draws(device))
    try:
        yield _DRAWS.get()  # type: ignore[misc]
    finally:
        _DRAWS.reset(token)


def alone(kind: Hashable, run: Callable[[], T], what: str) -> T:
    """As :meth:`Draws.alone` within :func:`noticing`; elsewhere ``run`` is called, and nothing else."""
    draws = _DRAWS.get()
    return run() if draws is None else draws.alone(kind, run, what)


_of_libraries: WeakSet[threading.Thread] = WeakSet()


@contextmanager
def starting_threads() -> Iterator[None]:
    """Know the threads that start within for those of a library, which draw no numbers."""
    before = set(threading.enumerate())
    try:
        yield
    finally:
        _of_libraries.update(set(threading.enumerate()) - before)


def _others_run() -> bool:
    """Whether threads run that are not daemons, as those of notebooks are, and not those of the compiler."""
    own = threading.current_thread()
    return any(one is not own and not one.daemon and one not in _of_libraries for one in threading.enumerate())
