"""Progress on everything that takes more than a few seconds: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm

__all__ = ["ProgressBar", "progress_bar"]

SECONDS_BETWEEN_LINES = 10.0


def progress_bar(total: int, what: str, enabled: bool = True) -> tqdm:
    """A bar for an evaluation; silent where the output is no terminal."""
    return tqdm(total=total, desc=what, disable=not (enabled and sys.stderr.isatty()), leave=False)


class ProgressBar:
    """Training's progress, with loss, bound and time left.

    :param total: number of steps
    :param done: steps done already
    :param enabled: show it at all
    """

    def __init__(self, total: int, done: int, enabled: bool) -> None:
        self.enabled = enabled
        self.bar = tqdm(
            total=total, initial=done, disable=not (enabled and sys.stderr.isatty()), mininterval=0.2, unit="step"
        )
        self.postfix: dict[str, str] = {}
        self.last_line = 0.0
        self.began, self.first = time.monotonic(), done

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.bar.close()

    def step(self, step: int, epoch: int, loss: float | None) -> None:
        """One step is done."""
        if self.bar.disable:
            return
        self.bar.set_description(f"epoch {epoch}", refresh=False)
        if loss is not None:
            self.postfix["loss"] = f"{loss:.2f}"
            self.bar.set_postfix(self.postfix, refresh=False)
        self.bar.update(step - self.bar.n)

    def epoch(self, record: dict[str, Any]) -> None:
        """One epoch is done."""
        if not self.bar.disable:
            self.postfix["valid_bound"] = f"{record['valid_bound']:.2f}"
            return
        now = time.monotonic()
        if self.enabled and now - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = now
            left = (now - self.began) / max(1, record["step"] - self.first) * (self.bar.total - record["step"])
            self.note(
                f"epoch {record['epoch']}: loss {record['train_loss']:.3f}, validation bound "
                f"{record['valid_bound']:.3f} nats per datum, {left:.0f} s left at most"
            )

    def note(self, text: str) -> None:
        """A line beside the bar."""
        if self.enabled:
            tqdm.write(text, file=sys.stderr)
