"""Bound and importance-sampled log p(x) of a trained pair, in float32 and under bfloat16 autocast at the same noise.

Trains ``vae`` on MNIST for a few epochs, found in the folder that ``PYRO_PRIORS_DATA`` names, or downloaded. With a run
folder it takes that run's pair and data instead, and only prints:

    python -m benchmarks.precision runs/NAME
"""

import math
import sys
from typing import Any

import pyro
import torch

import pyro_priors as pp
from pyro_priors.objectives import ELBO
from pyro_priors.rng import seeded
from pyro_priors.run_folder import RunFolder

NUM_IMAGES, NUM_SAMPLES = 500, 500


@torch.no_grad()
def estimates(pair: pp.Pair, part: pp.data.Part, bfloat16: bool) -> dict[str, torch.Tensor]:
    """Bound and log p(x) of each datum."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16), pyro.get_param_store().scope():
        with seeded(0):
            bound = ELBO().terms(pair.model, pair.guide, part.x, part.condition).bound
        with seeded(1):
            log_p = pair.log_prob(part.x, part.condition, num_samples=NUM_SAMPLES, compile="never")
    return {"bound": bound.double(), "log p(x)": log_p.double()}


def trained() -> tuple[pp.Pair, pp.data.Splits]:
    data = pp.data.load("mnist")
    torch.manual_seed(0)
    pair = pp.create("vae", x_shape=data.x_shape, z_dim=40)
    pp.fit(pair, data, max_epochs=5, batch_size=250, learning_rate=2e-3, device="cpu", progress=False)
    return pair, data


def run(folder: str | None = None) -> tuple[dict[str, Any], str]:
    if folder is None:
        pair, data = trained()
    else:
        recipe = RunFolder(folder).config()["data"]
        pair, data = pp.load(folder), pp.data.load(recipe["name"], **recipe["config"])
    pair.eval()
    part = data.test.take(slice(NUM_IMAGES))
    single, half = (estimates(pair, part, bfloat16) for bfloat16 in (False, True))
    results: dict[str, Any] = {}
    lines = [
        f"### Precision: {len(part)} test images of {data.name}, log p(x) by {NUM_SAMPLES} samples",
        "",
        "| | float32 | shift under bfloat16 autocast | largest shift of an image |",
        "|---|---|---|---|",
    ]
    for name, value in single.items():
        shift = half[name] - value
        one = {
            "float32": value.mean().item(),
            "shift": shift.mean().item(),
            "shift_stderr": shift.std().item() / math.sqrt(len(part)),
            "largest": shift.abs().max().item(),
        }
        results[name] = one
        moved = f"{one['shift']:+.3f} ± {one['shift_stderr']:.3f}"
        lines.append(f"| {name} | {one['float32']:.3f} | {moved} | {one['largest']:.2f} |")
    return results, "\n".join(lines)


if __name__ == "__main__":
    print(run(*sys.argv[1:])[1])
