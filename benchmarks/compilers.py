"""Our compiler of traced graphs against the public ``torch.compile(graph)``: first step, step, memory, and results.

Both get the same graph of loss and gradients, from the same tracing. First steps are those of new processes, in turn,
with an empty cache and with the one that they filled. Steps are timed in turn in one process. All times are processor
time, the C++ compiler's included, which leaves out what else the machine does; all are given as ratios.

Measured with torch 2.15 on one thread of a busy machine: ``torch.compile`` times ours. First steps and memory are means
of 2 pairs of processes (of 3 for the vae), with the smallest and the largest; steps are medians of 15 rounds in each of
2 processes (of 3 for the vae). Losses and gradients were equal to the last bit.

================== =================== =================== =================== ====================
pair               first step, cold    cache on disk       peak memory         step
================== =================== =================== =================== ====================
vae                1.04 (1.03 to 1.07) 1.10 (1.04 to 1.14) 1.02 (1.02 to 1.02) 1.04, 1.03 and 1.07
cp_vae             1.03 (1.01 to 1.04) 1.19 (1.19 to 1.19) 1.01 (1.01 to 1.01) 1.02 and 1.02
vae, VampPrior     1.04 (1.04 to 1.05) 1.19 (1.16 to 1.22) 1.01 (1.01 to 1.01) 1.03 and 1.01
vae, flow          1.08 (1.07 to 1.10) 1.53 (1.51 to 1.55) 1.04 (1.04 to 1.04) 1.06 and 1.05
================== =================== =================== =================== ====================

Within one process the quartiles of a step's ratio are up to 0.06 from its median. The vae's 3 s and the flow's 3.5 s of
a warm first step become 3.4 and 5.4 s.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

import pyro_priors as pp
from pyro_priors.tracing import inductor

from .steps import BATCH, batches_of_noise, step
from .timing import race, summary

PAIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "vae": ("vae", {}),
    "cp_vae, 10 categories": ("cp_vae", {"num_categories": 10}),
    "vae, VampPrior of 500": ("vae", {"prior": "vamp", "num_components": 500}),
    "vae, flow of 6 affine couplings": ("vae", {"prior": "flow"}),
}
OURS, PUBLIC = "inductor, called directly", "torch.compile"


def public(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Sequence[Tensor]]:
    """The graph by the public door; random numbers by torch's own generators, as ours."""
    return torch.compile(graph, fullgraph=True, dynamic=False, options={"fallback_random": True})


@contextmanager
def compiled_by(how: str) -> Iterator[None]:
    """Graphs that are first called here are compiled this way."""
    before = inductor.compile_graph
    try:
        if how == PUBLIC:
            inductor.compile_graph = public
        yield
    finally:
        inductor.compile_graph = before


def loss_of(title: str, how: str) -> tuple[pp.Pair, Callable[[Tensor], Tensor]]:
    """A pair, always with the same weights, and its loss after the first call."""
    torch.manual_seed(0)
    name, options = PAIRS[title]
    pair = pp.create(name, x_shape=(784,), z_dim=40, **options)
    loss = pp.compiled(pair)
    with compiled_by(how):
        loss(batches_of_noise()[0]).backward()
    pair.zero_grad()
    return pair, loss


def processor_seconds() -> float:
    """Of this process and of the children that it has waited for."""
    return sum(os.times()[:4])


def first_step(title: str, how: str) -> tuple[float, float]:
    """Processor seconds to the first loss and gradients, and then the peak memory of the process in MiB."""
    began = processor_seconds()
    pair, loss = loss_of(title, how)
    seconds = processor_seconds() - began
    call = step(loss, pair.parameters())
    for _ in range(50):
        call()
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def of_new_process(title: str, how: str, cache: str) -> tuple[float, float]:
    """What ``first_step`` returns, in a new process with this cache."""
    code = f"from benchmarks.compilers import first_step; print(*first_step({title!r}, {how!r}))"
    # one thread: the compiler's processes are then children, whose time is counted
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    seconds, memory = map(float, done.stdout.split())
    return seconds, memory


def differences(title: str) -> tuple[float, float]:
    """The largest difference of losses and of gradients between the two, each relative to the largest value."""
    found = []
    for how in (OURS, PUBLIC):
        pair, loss = loss_of(title, how)
        torch.manual_seed(1)
        value = loss(batches_of_noise()[0])
        value.backward()
        gradients = [p.grad.flatten() for p in pair.parameters() if p.grad is not None]
        found.append((value.detach(), torch.cat(gradients)))
    (loss_a, gradients_a), (loss_b, gradients_b) = found
    apart = (gradients_a - gradients_b).abs().max() / gradients_a.abs().max()
    return ((loss_a - loss_b).abs() / loss_a.abs()).item(), apart.item()


def ratios(values: dict[str, list[float]]) -> list[float]:
    return [b / a for a, b in zip(values[OURS], values[PUBLIC], strict=True)]


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def run(rounds: int = 3, titles: Sequence[str] = tuple(PAIRS)) -> tuple[dict[str, Any], str]:
    results: dict[str, Any] = {}
    lines = [
        f"### `torch.compile` of the traced graph, times {OURS}",
        "",
        f"Batch of {BATCH}. First step and memory: median of {rounds} pairs of processes (smallest to largest). Step: "
        "median over 15 rounds (quartiles). Times are processor time. Differences are relative to the largest value.",
        "",
        "| | first step, cold | first step, cache on disk | peak memory | step | loss | gradients |",
        "|---|---|---|---|---|---|---|",
    ]
    for title in titles:
        found: dict[str, dict[str, list[float]]] = {
            what: {OURS: [], PUBLIC: []} for what in ("cold", "cached", "memory")
        }
        for number in range(rounds):
            order = (OURS, PUBLIC) if number % 2 == 0 else (PUBLIC, OURS)
            with tempfile.TemporaryDirectory() as folder:
                for what in ("cold", "cached"):
                    for how in order:
                        seconds, memory = of_new_process(title, how, f"{folder}/{how.partition(',')[0]}")
                        found[what][how].append(seconds)
                        if what == "cached":
                            found["memory"][how].append(memory)
        calls = {}
        for how in (OURS, PUBLIC):
            pair, loss = loss_of(title, how)
            calls[how] = step(loss, pair.parameters())
        steps = summary(race(calls, clock=time.process_time), OURS)
        loss_apart, gradients_apart = differences(title)
        results[title] = {"first": found, "step": steps, "loss": loss_apart, "gradients": gradients_apart}
        s = steps[PUBLIC]
        lines.append(
            f"| {title} | {spread(ratios(found['cold']))} | {spread(ratios(found['cached']))} | "
            f"{spread(ratios(found['memory']))} | {s['ratio']:.3f} ({s['ratio_low']:.3f} to {s['ratio_high']:.3f}) | "
            f"{loss_apart:.0e} | {gradients_apart:.0e} |"
        )
    return results, "\n".join(lines)
