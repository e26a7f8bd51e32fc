"""Saves that must always load, and their losses at fixed weights and noise.

Run ``python tests/golden/regenerate.py NAME ...`` for a new pair only: an old save that no longer loads, or whose loss
has changed, is what tests/test_golden.py is there to find.
"""

import json
import sys
from pathlib import Path

import torch

import pyro_priors as pp

HERE = Path(__file__).parent
SIZES = {"x_shape": (6,), "z_dim": 2, "hidden": (4, 3)}
FLOW = {"prior": "flow", "num_transforms": 3, "hidden_features": (5, 4)}
SIGMA_NF = {"condition_shape": (2,), "num_transforms": 3, "hidden_features": (5, 4), "condition_hidden": (3, 5)}
CONFIGS = {
    "cdv_cvae": {"condition_shape": (2,), "num_components": 5},
    "cmog_cvae": {"condition_shape": (2,), "num_components": 5, "learnable_weights": True},
    "cp_vae": {"num_categories": 3},
    "cvae": {"condition_shape": (2,)},
    "cvamp_cvae": {"condition_shape": (2,), "num_components": 5},
    "hvae": {"z1_dim": 3, "prior": "vamp", "num_components": 5},
    "sigma_cvae": {"condition_shape": (2,), "prior": "mixture", "num_components": 5},
    "sigma_cvae_nf": SIGMA_NF,
    "sigma_cvae_nf-additive": {**SIGMA_NF, "transform": "additive_coupling", "condition_transforms": True},
    "sigma_vae": {},
    "vae": {"prior": "gaussian", "likelihood": "gaussian"},
    "vae-affine_coupling": FLOW,
    "vae-mixture": {"prior": "mixture", "num_components": 5},
    "vae-spline_autoregressive": {**FLOW, "transform": "spline_autoregressive"},
}
"""Options beside SIZES, by the name of the folder: a pair's, and what it is saved for."""


def loss_of(pair: pp.Pair) -> float:
    """The loss, in nats per datum, on four data at the noise of seed 0."""
    x = torch.tensor([[float(row >> column & 1) for column in range(6)] for row in (3, 21, 42, 57)])
    torch.manual_seed(0)
    return pair.elbo.loss(pair.model, pair.guide, x, x[:, :2] if pair.takes_condition else None)


def start_of(name: str) -> pp.Pair:
    """The pair with its first weights at seed 0."""
    torch.manual_seed(0)
    return pp.create(name.partition("-")[0], **SIZES | CONFIGS[name])


if __name__ == "__main__":
    losses, starts = (json.loads((HERE / file).read_text()) for file in ("losses.json", "starts.json"))
    for name in sys.argv[1:] or sorted(CONFIGS.keys() - losses.keys()):
        pair = start_of(name)
        pair.save(HERE / name)
        losses[name] = starts[name] = loss_of(pair)
    for file, content in (("losses.json", losses), ("starts.json", starts)):
        (HERE / file).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
