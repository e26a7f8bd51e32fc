"""How the time of a compiled step grows with K, z_dim, batch and samples: the slope of log time over log size.

A slope of 1 is proportional growth; below it, costs that do not grow are shared among more.
"""

import math
import statistics
from collections.abc import Callable
from typing import Any

import torch

import pyro_priors as pp
from pyro_priors.objectives import ELBO

from .steps import step
from .timing import race


def make(name: str, size: int = 100, num_particles: int = 1, **options: Any) -> Callable[[], None]:
    pair = pp.create(name, **{"x_shape": (784,), "z_dim": 40, **options})
    loss = pp.compiled(pair, ELBO(num_particles=num_particles))
    return step(loss, pair.parameters(), size)


AXES: dict[str, tuple[tuple[int, ...], Callable[[int], Callable[[], None]]]] = {
    "cp_vae, categories K": ((5, 10, 20, 50), lambda n: make("cp_vae", num_categories=n)),
    "vae, z_dim": ((10, 40, 160), lambda n: make("vae", z_dim=n)),
    "vae, batch": ((50, 100, 200, 400, 800), lambda n: make("vae", size=n)),
    "vae, samples of z": ((1, 4, 16), lambda n: make("vae", num_particles=n)),
}


def slope(sizes: tuple[int, ...], seconds: list[float]) -> float:
    """Least-squares slope of log seconds over log size."""
    x, y = [math.log(s) for s in sizes], [math.log(s) for s in seconds]
    return statistics.linear_regression(x, y).slope


def run() -> tuple[dict[str, Any], str]:
    results: dict[str, Any] = {}
    lines = ["### Growth of a compiled step", "", "| | sizes | ms | slope, log over log |", "|---|---|---|---|"]
    for title, (sizes, of_size) in AXES.items():
        torch.manual_seed(0)
        found = race({str(size): of_size(size) for size in sizes}, rounds=7, repeats=5)
        seconds = [statistics.median(found[str(size)]) for size in sizes]
        results[title] = {"sizes": sizes, "seconds": seconds, "slope": slope(sizes, seconds)}
        shown = ", ".join(f"{1e3 * value:.1f}" for value in seconds)
        lines.append(f"| {title} | {', '.join(map(str, sizes))} | {shown} | {results[title]['slope']:.2f} |")
    return results, "\n".join(lines)
