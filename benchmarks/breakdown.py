"""Where a training step of the plain VAE goes: its products of matrices alone, then each thing that comes on top.

All are timed in turn. What is above the products is all that a library could save; Pythae has the same products.
"""

from collections.abc import Callable
from typing import Any

import torch

import pyro_priors as pp

from .timing import race, summary

BATCH = 100
LAYERS = ((784, 600), (300, 600), (300, 80), (40, 600), (300, 600), (300, 784))
"""Inputs and outputs of the layers, of which the gated ones have two matrices, and so the encoder's head."""


def products_of_a_step() -> Callable[[], None]:
    """Forward, gradient of the weights, and gradient of the inputs, which the first layer does not need."""
    pairs = []
    for i, (n, m) in enumerate(LAYERS):
        x, weight, g = torch.randn(BATCH, n), torch.randn(m, n), torch.randn(BATCH, m)
        pairs += [(x, weight.t()), (g.t(), x)] + ([(g, weight)] if i else [])
    outs = [a @ b for a, b in pairs]

    def call() -> None:
        for (a, b), out in zip(pairs, outs, strict=True):
            torch.mm(a, b, out=out)

    return call


def run() -> tuple[dict[str, Any], str]:
    torch.manual_seed(0)
    pair = pp.create("vae", x_shape=(784,), z_dim=40)
    loss = pp.compiled(pair, pp.objectives.ELBO())
    optimizer = torch.optim.Adam(pair.parameters(), lr=1e-6, fused=True)
    x = (torch.rand(BATCH, 784) < 0.13).float()

    def gradient() -> None:
        loss.outputs(x, None, 1.0, backward=True)["gradient_norm"].item()

    def step() -> None:
        gradient()
        optimizer.step()

    contestants = {
        "its products of matrices": products_of_a_step(),
        "loss, gradient and its norm, compiled": gradient,
        "and Adam, fused": step,
    }
    found = summary(race(contestants), "and Adam, fused")
    lines = ["### A training step of vae, batch of 100, part by part", "", "| | ms, all before it included | share |"]
    lines.append("|---|---|---|")
    lines += [f"| {name} | {one['ms']:.2f} | {one['ratio']:.2f} |" for name, one in found.items()]
    return dict(found), "\n".join(lines)
