"""The lock that serializes threads. Every function of this package holds it while it runs a Pyro program.

Pyro has one stack of effect handlers and one parameter store for the whole process. Torch has one random generator for
each device, and a module has one mode. Two programs that run at once corrupt each other through all four. One
re-entrant lock, :data:`LOCK`, therefore protects them. It belongs to the process and not to a pair: pairs are copied,
and are sent to other processes.

========================================= ==============================================================================
in several threads                        what happens
========================================= ==============================================================================
methods of pairs, ``metrics``, ``plots``, Any number of threads may call them, on one pair or on several. The calls run
``control``, ``compiled(pair)(x)``, our   one after the other, each to its end, so that a whole result comes from the
own objectives                            same weights. ``backward`` needs no lock.
``fit``, ``reproduce``,                   The same, but a training lets other threads run after each step and after each
``start_at_clusters``                     batch of its validation. It ends with the bits of a training that runs alone.
``SVI``, ``Predictive``, objectives of    No lock. Pyro is not thread-safe: run them, and calls of ``pair.model`` and
Pyro's own, calls of programs             ``pair.guide``, in one thread while no other thread uses this package.
distributions that a method returned      The distributions of a flow prior share its transforms, which remember their
                                          last value: use them in one thread.
your own draws, ``torch.manual_seed``     No lock. ``fit`` and ``metrics.evaluate`` detect numbers that another thread
                                          draws while they compute, and raise ValueError (:mod:`pyro_priors.rng` says
                                          what they miss). The noise of other functions changes.
========================================= ==============================================================================

Threads get the lock in turn. A process that forks waits for its turn, so that its child finds the lock free and Pyro's
state consistent.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ContextDecorator, contextmanager
from typing import Any

import pyro
import torch.nn as nn
from pyro.poutine import runtime

__all__ = ["LOCK", "drop_with", "exchanging", "own_store"]

Exchange = Callable[[], None]


class _Lock(ContextDecorator):
    """A re-entrant lock that threads get in turn, and that its owner can pass on without leaving its contexts.

    It is a context manager, and a decorator for functions that hold it while they run.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = threading.Lock()  # held by the one thread that gets the lock next
        self._owner: int | None = None
        self._depth = 0
        self._exchanges: list[Exchange] = []

    def __enter__(self) -> _Lock:
        self.acquire()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    @property
    def is_owned(self) -> bool:
        """Whether the current thread holds the lock."""
        return self._owner == threading.get_ident()

    def acquire(self) -> None:
        """Acquire the lock; a thread that already holds it does not wait."""
        if not self.is_owned:
            with self._next:
                self._lock.acquire()
            self._owner = threading.get_ident()
        self._depth += 1

    def release(self) -> None:
        """Undo one :meth:`acquire` of this thread."""
        self._depth -= 1
        if not self._depth:
            self._owner = None
            _forget_dropped()
            self._lock.release()

    def give_way(self) -> None:
        """Let a waiting thread run first, if there is one. It finds the state that the owner found.

        While other threads run, the exchanges of :func:`exchanging` are undone.
        """
        if not self._next.locked() or not self.is_owned or runtime._PYRO_STACK:  # handlers would see the others' sites
            return
        depth, exchanges = self._depth, self._exchanges
        for exchange in reversed(exchanges):
            exchange()
        self._owner, self._depth, self._exchanges = None, 0, []
        self._lock.release()
        interruption: BaseException | None = None
        while not self.is_owned:
            try:
                self.acquire()
            except BaseException as error:  # the contexts that this thread is in can be left with the lock only
                interruption = error
        self._depth, self._exchanges = depth, exchanges
        for exchange in exchanges:
            exchange()
        if interruption is not None:
            raise interruption

    def after_fork_in_parent(self) -> None:
        """Undo, in the parent process, the acquire before the fork."""
        if self.is_owned:  # it is not where the wait for it was interrupted
            self.release()

    def after_fork_in_child(self) -> None:
        """Undo the acquire in the child, where only the forking thread is left."""
        self._lock, self._next = threading.Lock(), threading.Lock()  # other threads may have held the old ones
        if self.is_owned:
            self._lock.acquire()
            self.release()
        else:
            self._owner, self._depth, self._exchanges = None, 0, []

    def try_alone(self, function: Callable[[], None]) -> None:
        """Call a function if no thread holds the lock, including the current one."""
        if self._lock.acquire(blocking=False):
            try:
                function()
            finally:
                self._lock.release()


LOCK = _Lock()
"""The lock of this process."""

_dropped: list[str] = []
"""Prefixes of the names in the store that belonged to modules without references."""


def drop_with(module: nn.Module, prefix: str) -> None:
    """Remove a module's parameters from the store when the module is garbage-collected.

    :param prefix: prefix of their names in the store
    """
    weakref.finalize(module, _drop, prefix).atexit = False


def _drop(prefix: str) -> None:
    _dropped.append(prefix)
    LOCK.try_alone(_forget_dropped)  # another thread, or this one, may have exchanged the store: then at its end


def _forget_dropped() -> None:
    while _dropped:
        prefix, store = _dropped.pop(), pyro.get_param_store()
        for name in [name for name in store.keys() if name.startswith(prefix)]:  # noqa: SIM118
            del store[name]


if hasattr(os, "register_at_fork"):  # Windows does not fork
    os.register_at_fork(
        before=LOCK.acquire, after_in_parent=LOCK.after_fork_in_parent, after_in_child=LOCK.after_fork_in_child
    )


@contextmanager
def exchanging(exchange: Exchange) -> Iterator[None]:
    """Hold the lock while a part of the process's state is exchanged for the caller's own.

    :param exchange: swaps the two; called at the end, and twice whenever other threads run in between
    """
    with LOCK:
        LOCK._exchanges.append(exchange)
        try:
            yield
        finally:
            LOCK._exchanges.pop()
            exchange()


@contextmanager
def own_store() -> Iterator[None]:
    """Hold the lock with an empty parameter store, and restore the store at the end."""
    store = pyro.get_param_store()
    other: Any = {"params": {}, "constraints": {}}

    def exchange() -> None:
        nonlocal other
        found = store.get_state()
        store.clear()
        store.set_state(other)
        other = found

    with LOCK:
        exchange()
        with exchanging(exchange):
            yield
