"""How far a training is, and how it went."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

__all__ = ["History", "Progress"]


@dataclass
class History:
    """The history of a training.

    :param epochs: one record per epoch, the lines of ``metrics.jsonl``; losses and bounds are in nats per datum
    :param best_epoch: epoch whose weights the pair has: the one with the best validation bound, or with ``keep="last"``
        the last one
    :param stopped: why training ended: ``"max_epochs"``, ``"patience: no better validation bound since epoch 12"``,
        ``"a callback: NAME"`` with the name of its class, or, in the ``history`` of an error, ``"a file that cannot be
        written"``. The resume state also records a signal, the error of a callback or a divergence
    """

    epochs: list[dict[str, Any]]
    best_epoch: int
    stopped: str


@dataclass
class Progress:
    """The progress of a training: what the loop must remember between two steps, besides tensors."""

    epoch: int = 0
    step: int = 0
    step_in_epoch: int = 0
    best_bound: float = -math.inf
    best_epoch: int = -1
    wait: int = 0
    stopped: str = ""
    diverged: str = ""
    compile: bool | None = None
    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0
    largest_norm: float = 0.0

    def add(self, values: dict[str, float], count: int, norm: float) -> None:
        """Add the loss and parts of a step, means over ``count`` examples, and the norm of its gradient."""
        for key, value in values.items():
            self.sums[key] = self.sums.get(key, 0.0) + value * count
        self.count += count
        self.largest_norm = max(self.largest_norm, norm)

    def means(self) -> dict[str, float]:
        """Return the means over the examples of the epoch so far, and the largest norm; empty before the first step."""
        means = {key: value / self.count for key, value in self.sums.items()}
        return means | {"largest_gradient_norm": self.largest_norm} if means else means

    @property
    def reason(self) -> str:
        """Why a training that is over has stopped."""
        if self.stopped == "patience":
            return f"patience: no better validation bound since epoch {self.epoch - 1 - self.wait}"
        return self.stopped or "max_epochs"

    def next_epoch(self) -> None:
        """Begin the next epoch."""
        self.epoch += 1
        self.step_in_epoch = 0
        self.sums, self.count, self.largest_norm = {}, 0, 0.0
