"""Time of one training step: by hand, through Pyro, and ours; same networks, same batches, Adam, in one run."""

from collections.abc import Callable
from dataclasses import dataclass, field
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


def alone(x: Tensor) -> tuple[Tensor, ...]:
    return (x,)


def completed(x: Tensor) -> tuple[Tensor, ...]:
    """An image, and its last rows as the condition."""
    return x[:, : -by_hand.CONDITION_DIM], x[:, -by_hand.CONDITION_DIM :]


def labelled(x: Tensor) -> tuple[Tensor, ...]:
    """An image that is not flattened, and a label."""
    return x.view(-1, 1, 28, 28), torch.eye(10)[torch.arange(len(x)) % 10]


@dataclass(frozen=True)
class Race:
    """A pair, the same by hand, and what both are given of a flattened image."""

    pair: str
    by_hand: type[nn.Module]
    options: dict[str, Any] = field(default_factory=dict)
    arguments: Callable[[Tensor], tuple[Tensor, ...]] = alone
    repeats: int = 20


CONV: dict[str, Any] = {"networks": "conv", "hidden": (), "channels": (16, 32, 64, 128), "upsampling": "transposed"}
RACES = {
    "vae": Race("vae", by_hand.VAE),
    "cp_vae, 10 categories": Race("cp_vae", by_hand.CPVAE, {"num_categories": 10}),
    "vae, VampPrior of 500": Race("vae", by_hand.VampVAE, {"prior": "vamp", "num_components": 500}),
    "vae, flow of 6 affine couplings": Race("vae", by_hand.FlowVAE, {"prior": "flow"}),
    "hvae": Race("hvae", by_hand.HVAE),
    # 3,200 rows through encoder and decoder in each of its steps
    "cdv_cvae, 32 components": Race("cdv_cvae", by_hand.CDVCVAE, {"num_components": 32}, completed, repeats=3),
    "sigma_cvae_nf, convolutions": Race(
        "sigma_cvae_nf", by_hand.SigmaCVAENF, CONV | {"normalisation": "none"}, labelled
    ),
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


def contestants(one: Race) -> dict[str, Callable[[], Any]]:
    x, *condition = one.arguments(batches_of_noise()[0])
    sizes = {"x_shape": x.shape[1:]} | ({"condition_shape": condition[0].shape[1:]} if condition else {})
    pairs = [pp.create(one.pair, **sizes, z_dim=by_hand.Z_DIM, **one.options) for _ in range(3)]

    def given(loss: Callable[..., Any]) -> Callable[[Tensor], Any]:
        return lambda x: loss(*one.arguments(x))

    eager, compiled = one.by_hand(), one.by_hand()
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
    for title, one in RACES.items():
        torch.manual_seed(0)
        results[title] = summary(race(contestants(one), repeats=one.repeats), OURS)
        text.append(table(f"One training step of {title}, batch of {BATCH}", results[title], OURS))
    return results, "\n\n".join(text)
