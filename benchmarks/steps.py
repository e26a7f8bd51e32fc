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
PAIRS: dict[str, tuple[str, type[nn.Module], dict[str, Any]]] = {
    "vae": ("vae", by_hand.VAE, {}),
    "cp_vae, 10 categories": ("cp_vae", by_hand.CPVAE, {"num_categories": 10}),
    "vae, VampPrior of 500": ("vae", by_hand.VampVAE, {"prior": "vamp", "num_components": 500}),
    "vae, flow of 6 affine couplings": ("vae", by_hand.FlowVAE, {"prior": "flow"}),
    "hvae": ("hvae", by_hand.HVAE, {}),
    "cdv_cvae, 32 components": ("cdv_cvae", by_hand.CDVCVAE, {"num_components": 32}),
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


def contestants(title: str) -> dict[str, Callable[[], Any]]:
    name, hand, options = PAIRS[title]

    rest = by_hand.CONDITION_DIM if name == "cdv_cvae" else 0

    def make() -> pp.Pair:
        sizes = {"x_shape": (by_hand.X_DIM - rest,)} | ({"condition_shape": (rest,)} if rest else {})
        return pp.create(name, **sizes, z_dim=by_hand.Z_DIM, **options)

    def given(loss: Callable[..., Any]) -> Callable[[Tensor], Any]:
        """Of an image in two parts, x and condition, where the pair has one."""
        return (lambda x: loss(x[:, :-rest], x[:, -rest:])) if rest else loss

    eager, compiled = hand(), hand()
    pairs = [make() for _ in range(3)]
    module = pairs[0].elbo(pairs[0].model, pairs[0].guide)
    given(module)(batches_of_noise()[0])  # registers the parameters
    svi = SVI(pairs[1].model, pairs[1].guide, pyro.optim.Adam({"lr": 5e-4}), pairs[1].elbo)
    found = cycle(batches_of_noise())
    return {
        "by hand, eager": step(given(eager), eager.parameters()),
        "by hand, torch.compile": step(given(torch.compile(compiled)), compiled.parameters()),
        "ours, SVI.step": lambda: given(svi.step)(next(found)),
        "ours, ELBOModule": step(given(module), pairs[0].parameters()),
        OURS: step(given(pp.compiled(pairs[2])), pairs[2].parameters()),
    }


def run() -> tuple[dict[str, Any], str]:
    results, text = {}, []
    for title in PAIRS:
        torch.manual_seed(0)
        repeats = 3 if "cdv" in title else 20  # 3,200 rows through encoder and decoder in each of its steps
        results[title] = summary(race(contestants(title), repeats=repeats), OURS)
        text.append(table(f"One training step of {title}, batch of {BATCH}", results[title], OURS))
    return results, "\n\n".join(text)
