"""Importance-sampled log p(x): images x samples per second beside what the matrix products alone would take.

The rate is that of the samples beyond the first quarter of a call, so that what a call takes to begin (tracing, and
inductor's cache) is apart. The ceiling is the fastest that torch does the decoder's products of matrices here, in the
same minutes; everything else (encoder, noise, gates, densities) counts as loss.
"""

import statistics
from functools import partial
from typing import Any

import torch

import pyro_priors as pp

from .timing import products, race

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "vae": ("vae", {}),
    "cp_vae, 10 categories": ("cp_vae", {"num_categories": 10}),
}
ROWS = 2**17
DECODER = ((40, 600), (300, 600), (300, 784))
"""Inputs and outputs of the decoder's layers, of which the gated ones have two matrices."""


def run() -> tuple[dict[str, Any], str]:
    results: dict[str, Any] = {}
    lines = [
        "### Importance-sampled log p(x)",
        "",
        "| | images x samples per second | share of the matrix products' ceiling | seconds to begin, each call |",
        "|---|---|---|---|",
    ]
    for title, (name, options) in CASES.items():
        torch.manual_seed(0)
        pair = pp.create(name, x_shape=(784,), z_dim=40, **options)
        num_categories = max(1, pair.num_categories)
        x = (torch.rand(100, 784) < 0.3).float()
        num_samples = ROWS // len(x) // num_categories
        calls = {
            f"{how} {times}": partial(pair.log_prob, x, num_samples=times * num_samples, compile=how)
            for how in ("never", "always")
            for times in (1, 4)
        }
        seconds = race({"products": products(DECODER, ROWS), **calls}, rounds=3, repeats=1)
        top = ROWS / statistics.median(seconds["products"]) / num_categories
        for how, label in (("never", "eager"), ("always", "compiled")):
            short, long = (statistics.median(seconds[f"{how} {times}"]) for times in (1, 4))
            rate = len(x) * 3 * num_samples / (long - short)
            start = max(0.0, short - len(x) * num_samples / rate)
            results[f"{title}, {label}"] = {"per_second": rate, "share": rate / top, "start_seconds": start}
            lines.append(f"| {title}, {label} | {rate:,.0f} | {rate / top:.2f} | {start:.1f} |")
    return results, "\n".join(lines)
