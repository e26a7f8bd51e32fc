"""Temporary seeding of torch's random generators, and detection of draws by other threads."""

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
from .errors import UserError

__all__ = ["Draws", "alone", "noticing", "own_generators", "seed_generators", "seeded", "starting_threads"]

T = TypeVar("T")

BLOCK = 624
"""Numbers that the CPU generator makes at a time; its state tells how many of the last block are left."""


@contextmanager
def own_generators(device: torch.device | str = "cpu") -> Iterator[None]:
    """Hold the lock of :mod:`pyro_priors._lock`, and restore the generators of the CPU and of one device at the end.

    :param device: the device, besides the CPU, on which random numbers are drawn
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
    """Seed the CPU generator, and the generators of all other devices if ``device`` is not the CPU."""
    if torch.device(device).type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed torch's generators, and restore those of the CPU and of one device at the end.

    The lock of :mod:`pyro_priors._lock` is held meanwhile, so that no other thread of this package draws from them.

    :param seed: the seed
    :param device: the device, besides the CPU, on which random numbers are drawn
    """
    with own_generators(device):
        seed_generators(seed, device)
        yield


class Draws:
    """Detect numbers that other threads draw from torch's generators during a seeded computation.

    All threads share these generators. A computation of one kind draws the same number of random numbers each time, and
    the same number when it is repeated from the same seed. Three cases go undetected: a multiple of 624 numbers drawn
    at once on the CPU, a computation that occurs only once while no other thread is known to run, and daemon threads.

    :param device: device on which the computation draws
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.counts: dict[Hashable, int] = {}

    def position(self) -> int:
        """Return how many numbers were drawn; on the CPU, up to multiples of 624."""
        if self.device.type == "cuda":
            index = torch.cuda.current_device() if self.device.index is None else self.device.index
            return torch.cuda.default_generators[index].get_offset()
        state = torch.default_generator.get_state()
        return -int.from_bytes(bytes(state[8:12].tolist()), "little")  # the state begins with the seed

    def check(self, kind: Hashable, count: int, again: Callable[[], int], what: str) -> None:
        """Compare the number of draws of a computation with that of earlier computations of the same kind.

        If they differ, or if the computation is the first of its kind, it is repeated from the same seed, provided that
        other threads run. The number of draws of some distributions, such as the Gamma, depends on the seed. The
        repetition then draws the same number. A computation that no other thread could disturb is never refused.

        :param kind: what decides how many numbers are drawn, such as the batch size
        :param count: how many numbers were drawn
        :param again: repeats the computation from the same seed, and returns how many numbers were drawn
        :param what: what was computed, for the message
        :raises ValueError: if another thread has drawn numbers
        """
        if self.counts.get(kind) == count:
            return
        if _others_run() and again() != count:
            raise UserError(
                f"another thread drew random numbers from torch's generator during {what}, which changes its noise: "
                "give that thread its own torch.Generator, or let it wait"
            )
        self.counts[kind] = count

    def alone(self, kind: Hashable, run: Callable[[], T], what: str, confirm: bool = True) -> T:
        """Return what ``run`` returns, and make sure that no other thread drew numbers meanwhile.

        :param kind: as for :meth:`check`
        :param run: the computation, which draws from the current state of the generators
        :param what: as for :meth:`check`
        :param confirm: run the first computation of a kind twice if other threads run
        :raises ValueError: if another thread has drawn numbers
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
    """Make :func:`alone` detect numbers that other threads draw."""
    token = _DRAWS.set(Draws(device))
    try:
        yield _DRAWS.get()  # type: ignore[misc]
    finally:
        _DRAWS.reset(token)


def alone(kind: Hashable, run: Callable[[], T], what: str) -> T:
    """Do the same as :meth:`Draws.alone` inside :func:`noticing`; elsewhere, only call ``run``."""
    draws = _DRAWS.get()
    return run() if draws is None else draws.alone(kind, run, what)


_of_libraries: WeakSet[threading.Thread] = WeakSet()


@contextmanager
def starting_threads() -> Iterator[None]:
    """Mark the threads that start inside this context as threads of a library, which draw no random numbers."""
    before = set(threading.enumerate())
    try:
        yield
    finally:
        _of_libraries.update(set(threading.enumerate()) - before)


def _others_run() -> bool:
    """Return whether other threads run, except daemons (such as those of notebooks) and threads of the compiler."""
    own = threading.current_thread()
    return any(one is not own and not one.daemon and one not in _of_libraries for one in threading.enumerate())
