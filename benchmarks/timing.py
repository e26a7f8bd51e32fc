"""Contestants timed in turn, so that whatever else the machine does meets all of them."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch


def race(
    contestants: Mapping[str, Callable[[], Any]],
    rounds: int = 15,
    repeats: int = 20,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds per call of each contestant in each round, after one round that does not count.

    :param contestants: what to call
    :param rounds: number of times that each has its turn
    :param repeats: calls in a turn
    :param clock: ``time.process_time`` counts the processor's seconds, which a busy machine changes less
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for counts in [False] + [True] * rounds:
        for name, call in contestants.items():
            began = clock()
            for _ in range(repeats):
                call()
            if counts:
                seconds[name].append((clock() - began) / repeats)
    return seconds


def products(sizes: Sequence[tuple[int, int]], rows: int, chunk: int = 4096) -> Callable[[], None]:
    """The products of some layers' matrices alone, in chunks of a size at which torch is fast: a ceiling.

    :param sizes: inputs and outputs of each layer
    :param rows: number of rows that go through them, in whole chunks
    """
    pairs = [(torch.randn(chunk, n), torch.randn(n, m)) for n, m in sizes]
    outs = [a @ b for a, b in pairs]

    def call() -> None:
        for _ in range(rows // chunk):
            for (a, b), out in zip(pairs, outs, strict=True):
                torch.mm(a, b, out=out)

    return call


def summary(seconds: Mapping[str, list[float]], base: str) -> dict[str, dict[str, float]]:
    """Median and quartiles of each contestant, and of its ratio to ``base`` in the same round."""
    found = {}
    for name, values in seconds.items():
        ratios = [value / one for value, one in zip(values, seconds[base], strict=True)]
        low, middle, high = statistics.quantiles(values, n=4)
        ratio_low, ratio, ratio_high = statistics.quantiles(ratios, n=4)
        found[name] = {
            "ms": 1e3 * middle,
            "ms_low": 1e3 * low,
            "ms_high": 1e3 * high,
            "ratio": ratio,
            "ratio_low": ratio_low,
            "ratio_high": ratio_high,
        }
    return found


def table(title: str, found: Mapping[str, Mapping[str, float]], base: str) -> str:
    """A Markdown table of a summary."""
    lines = [f"### {title}", "", f"| | ms (quartiles) | times {base} (quartiles) |", "|---|---|---|"]
    for name, s in found.items():
        lines.append(
            f"| {name} | {s['ms']:.2f} ({s['ms_low']:.2f} to {s['ms_high']:.2f}) | "
            f"{s['ratio']:.2f} ({s['ratio_low']:.2f} to {s['ratio_high']:.2f}) |"
        )
    return "\n".join(lines)
