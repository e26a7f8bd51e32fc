"""Time and memory of a compiled training step of ``cp_vae`` with 10, 50, 150 and 500 categories, four ways.

Full: all categories at once. Chunked: all, 50 at a time; these steps run eagerly. Sparse: the 10 most probable, and one
of the rest. Relaxed: one draw of weights. The steps of all are timed in turn in one process; peak memory is that of a
process of its own for each, over that of one that has made the pair and the compiled module only.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import pyro_priors as pp
from pyro_priors.objectives import EnumELBO

from .epochs import peak
from .steps import step
from .timing import race, summary

NUMBERS = (10, 50, 150, 500)
CHUNK_SIZE = 50
BASE = "full, 10"
WAYS: dict[str, tuple[dict[str, Any], Callable[[], Any]]] = {
    "full": ({}, EnumELBO),
    "chunked": ({}, partial(EnumELBO, chunk_size=CHUNK_SIZE)),
    "sparse": ({"category": "sparse"}, EnumELBO),
    "relaxed": ({"category": "relaxed"}, pp.objectives.ELBO),
}


def make(way: str, num_categories: int) -> Callable[[], None]:
    options, objective = WAYS[way]
    pair = pp.create("cp_vae", x_shape=(784,), z_dim=40, num_categories=num_categories, **options)
    return step(pp.compiled(pair, objective()), pair.parameters())


def applies(way: str, num_categories: int) -> bool:
    """Ten categories are neither more than a chunk nor more than the most probable ones."""
    return num_categories > 10 or way in ("full", "relaxed")


def memory(way: str, num_categories: int) -> float:
    """MiB that three steps add to a process."""
    command = [sys.executable, "-m", "benchmarks.categories", way, str(num_categories)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def run() -> tuple[dict[str, Any], str]:
    contestants = [(way, num) for num in NUMBERS for way in WAYS if applies(way, num)]
    steps = {}
    for way, num in contestants:
        torch.manual_seed(0)
        steps[f"{way}, {num}"] = make(way, num)
    found = summary(race(steps, rounds=7, repeats=3), BASE)
    lines = [
        "### One compiled training step of cp_vae, batch of 100",
        "",
        f"| category, K | ms (quartiles) | times {BASE} | MiB that three steps add |",
        "|---|---|---|---|",
    ]
    results: dict[str, Any] = {}
    for way, num in contestants:
        s = found[f"{way}, {num}"]
        results[f"{way}, {num}"] = s | {"mib": memory(way, num)}
        lines.append(
            f"| {way}, {num} | {s['ms']:.1f} ({s['ms_low']:.1f} to {s['ms_high']:.1f}) | {s['ratio']:.2f} "
            f"({s['ratio_low']:.2f} to {s['ratio_high']:.2f}) | {results[f'{way}, {num}']['mib']:.0f} |"
        )
    return results, "\n".join(lines)


if __name__ == "__main__":
    call = make(sys.argv[1], int(sys.argv[2]))
    before = peak()
    for _ in range(3):
        call()
    print(json.dumps(peak() - before))
