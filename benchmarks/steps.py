"""Time of one training step: by hand, through Pyro, and ours; same networks, same batches, Adam, in one run."""

from collections.abc import Callable
from itertools import cycle
from typing import Any

import pyro
import torch
import torch.nn as nn
from pyro.infer import SVI
from torch import Tensor

import pyro_priors as pp

from . import by_hand
from .timing import race, summary, table

BATCH, OURS = 100, "ours, compiled"
PAIRS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "vae": (by_hand.VAE, {}),
    "cp_vae": (by_hand.CPVAE, {"num_categories": 10}),
}


def batches_of_noise(size: int = BATCH) -> list[Tensor]:
    return [(torch.rand(size, by_hand.X_DIM) < 0.3).float() for _ in range(20)]


def step(loss: Callable[[Tensor], Tensor], parameters: Any, size: int = BATCH) -> Callable[[], None]:
    """One step of fused Adam on the next batch."""
    optimizer = torch.optim.Adam(list(parameters), lr=5e-4, fused=True)
    found = cycle(batches_of_noise(size))

    def call() -> None:
        optimizer.zero_grad()
        loss(next(found)).backward()
        optimizer.step()

    return call


def contestants(name: str) -> dict[str, Callable[[], Any]]:
    hand, options = PAIRS[name]

    def make() -> pp.Pair:
        return pp.create(name, x_shape=(by_hand.X_DIM,), z_dim=by_hand.Z_DIM, **options)

    eager, compiled = hand(), hand()
    pairs = [make() for _ in range(3)]
    module = pairs[0].elbo(pairs[0].model, pairs[0].guide)
    module(batches_of_noise()[0])  # registers the parameters
    svi = SVI(pairs[1].model, pairs[1].guide, pyro.optim.Adam({"lr": 5e-4}), pairs[1].elbo)
    found = cycle(batches_of_noise())
    return {
        "by hand, eager": step(eager, eager.parameters()),
        "by hand, torch.compile": step(torch.compile(compiled), compiled.parameters()),
        "ours, SVI.step": lambda: svi.step(next(found)),
        "ours, ELBOModule": step(module, pairs[0].parameters()),
        OURS: step(pp.compiled(pairs[2]), pairs[2].parameters()),
    }


def run() -> tuple[dict[str, Any], str]:
    results, text = {}, []
    for name in PAIRS:
        torch.manual_seed(0)
        results[name] = summary(race(contestants(name)), OURS)
        text.append(table(f"One training step, `{name}`, batch of {BATCH}", results[name], OURS))
    return results, "\n\n".join(text)
