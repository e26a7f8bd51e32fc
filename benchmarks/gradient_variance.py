"""Variance of the gradient with the KL of z in closed form for each category, and with the KL sampled.

Trains ``cp_vae`` on scikit-learn's digits and, before training and at the best of 5 and of 50 epochs (Adam starts
anew at 5), takes the gradient of one batch under many noises, with :class:`pyro_priors.objectives.EnumELBO` (closed
form, equations 8 and 9 of Lavda et al. 2019) and with Pyro's ``TraceEnum_ELBO`` (sampled). Prints and writes, for
three seeds, the total variance (trace of the covariance) over all parameters, over the guide's and over the prior's,
and the ratio sampled / closed form. The closed form's gradient of the prior has no noise at all, so there is no ratio
for it.

    python benchmarks/gradient_variance.py [results/gradient_variance.json]
"""

import json
import sys
from pathlib import Path

import torch
from pyro.infer import TraceEnum_ELBO

import pyro_priors as pp

NUM_DRAWS, BATCH_SIZE = 400, 100
STAGES = (0, 5, 50)
GROUPS = {"all": "", "guide": "guide.", "prior": "model.prior."}


def total_variance(loss, pair: pp.Pair, x: torch.Tensor) -> dict[str, float]:
    """Trace of the covariance of the gradient of ``loss(pair.model, pair.guide)(x) / scale`` over noises, by group."""
    gradients = []
    for draw in range(NUM_DRAWS):
        torch.manual_seed(draw)
        pair.zero_grad()
        loss(x).backward()
        gradients.append([p.grad.flatten().clone() for p in pair.parameters()])
    variances = {
        name: torch.stack(rows).var(0).sum().item()
        for (name, _), rows in zip(pair.named_parameters(), zip(*gradients, strict=True), strict=True)
    }
    return {group: sum(v for k, v in variances.items() if k.startswith(prefix)) for group, prefix in GROUPS.items()}


def main(out: str | None = None) -> None:
    digits = pp.data.load("digits", binarise="fixed")
    x = digits.valid.x[:BATCH_SIZE]
    rows = []
    for seed in range(3):
        torch.manual_seed(seed)
        pair = pp.create("cp_vae", x_shape=digits.x_shape, z_dim=8, num_categories=10, hidden=(100,))
        trained = 0
        for stage in STAGES:
            if stage > trained:
                pp.fit(pair, digits, max_epochs=stage - trained, learning_rate=1e-3, seed=seed, progress=False)
                trained = stage
            ours = pp.objectives.EnumELBO()(pair.model, pair.guide)
            pyros = TraceEnum_ELBO(max_plate_nesting=1)(pair.model, pair.guide)
            closed = total_variance(ours, pair, x)
            sampled = total_variance(lambda x, elbo=pyros: elbo(x) / len(x), pair, x)
            ratios = {group: sampled[group] / closed[group] for group in ("all", "guide")}
            rows.append({"seed": seed, "epochs": stage, "closed_form": closed, "sampled": sampled, "ratio": ratios})
            print(f"seed {seed}, {stage:3} epochs: sampled / closed form " + str(ratios))
    if out is not None:
        record = {"num_draws": NUM_DRAWS, "batch_size": BATCH_SIZE, "z_dim": 8, "num_categories": 10, "rows": rows}
        Path(out).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:2])
