"""Encoding: images per second, eager and compiled, beside what the matrix products alone would take.

``pair.encode`` as it is against the same call as one compiled graph, in the chunks of an evaluation. The ceiling is the
fastest that torch does the encoder's products of matrices here, in the same minutes. Compiling itself is not in the
rates; it is given beside them, with the number of images at which it pays.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import pyro_priors as pp
from pyro_priors.log_probability import ROWS_PER_CALL
from pyro_priors.tracing.function import CompiledFunction

from .timing import products, race

NUM_IMAGES = 10_000
ENCODER = ((784, 600), (300, 600), (300, 80))
"""Inputs and outputs of the encoder's layers, of which the gated ones have two matrices, and so the head."""


def in_chunks(codes: Callable[[Tensor], dict[str, Tensor]], x: Tensor) -> None:
    for part in x.split(ROWS_PER_CALL):
        codes(part)


def run() -> tuple[dict[str, Any], str]:
    torch.manual_seed(0)
    pair = pp.create("vae", x_shape=(784,), z_dim=40)
    pair.eval()
    x = (torch.rand(NUM_IMAGES, 784) < 0.3).float()

    def codes(x: Tensor) -> dict[str, Tensor]:
        q = pair.encode(x)["z"]
        return {"mean": q.mean, "stddev": q.stddev}

    compiled = partial(in_chunks, torch.no_grad()(CompiledFunction(codes, [pair])), x)
    began = time.perf_counter()
    compiled()
    first = time.perf_counter() - began
    eager = partial(in_chunks, codes, x)
    rows = 2 * ROWS_PER_CALL
    ceiling = products(ENCODER, rows, ROWS_PER_CALL)
    seconds = race({"products": ceiling, "eager": eager, "compiled": compiled}, repeats=3)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    top = rows / median["products"]
    rates = {name: NUM_IMAGES / median[name] for name in ("eager", "compiled")}
    results: dict[str, Any] = {name: {"per_second": rate, "share": rate / top} for name, rate in rates.items()}
    gain = 1 / rates["eager"] - 1 / rates["compiled"]  # seconds an image
    start = first - median["compiled"]
    results |= {"compile_seconds": start, "pays_from_images": start / gain if gain > 0 else None}
    pays = f"pays from {start / gain:,.0f} images on" if gain > 0 else "never pays"
    lines = [
        "### Encoding",
        "",
        "| | images per second | share of the matrix products' ceiling |",
        "|---|---|---|",
        *(f"| {name} | {rate:,.0f} | {rate / top:.2f} |" for name, rate in rates.items()),
        "",
        f"Compiling takes {start:.1f} s here (less where inductor's cache is filled, as it may be) and {pays}.",
    ]
    return results, "\n".join(lines)
