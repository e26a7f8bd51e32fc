"""SIGINT and SIGTERM during a training: remembered until the step is done."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Signals", "forwarded_signals", "stop_signals"]

STOPPING = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """The signal that came, 0 for none."""

    received = 0


@contextmanager
def _handled(handler: Callable[[int, Any], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    old = {number: signal.signal(number, handler) for number in STOPPING}
    try:
        yield
    finally:
        for number, previous in old.items():
            signal.signal(number, previous)


@contextmanager
def stop_signals() -> Iterator[Signals]:
    """Within it, SIGINT and SIGTERM only leave a mark."""
    signals = Signals()

    def remember(number: int, frame: Any) -> None:
        signals.received = number

    with _handled(remember):
        yield signals


@contextmanager
def forwarded_signals() -> Iterator[None]:
    """Within it, SIGINT and SIGTERM are handed on to the child processes, which end in their own time."""

    def forward(number: int, frame: Any) -> None:
        for process in multiprocessing.active_children():
            if process.pid is not None:
                os.kill(process.pid, number)

    with _handled(forward):
        yield
