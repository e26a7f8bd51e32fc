"""Time to quality: minutes to a test bound of -88.75 and of -86 nats on MNIST, with the papers' networks.

Each goal has the schedule that reached it soonest of the few that were tried (results/README.md); minutes are those of
the whole training, compiling and validation included. MNIST is found in the folder that ``PYRO_PRIORS_DATA`` names, or
downloaded.
"""

import time
from typing import Any

import torch

import pyro_priors as pp

SCHEDULES: dict[float, dict[str, Any]] = {-88.75: {"max_epochs": 40}, -86.0: {"max_epochs": 150}}
COMMON = {"batch_size": 250, "learning_rate": 2e-3, "schedule": "cosine", "warmup_epochs": 10}


def run(seed: int = 0) -> tuple[dict[str, Any], str]:
    data = pp.data.load("mnist")
    results: dict[str, Any] = {}
    lines = [
        "### Time to quality: `vae` with a flow prior on MNIST",
        "",
        "| goal, test bound | epochs | minutes | test bound reached | log p(x), 500 samples, of 1,000 images |",
        "|---|---|---|---|---|",
    ]
    for goal, schedule in SCHEDULES.items():
        torch.manual_seed(seed)
        pair = pp.create("vae", x_shape=data.x_shape, z_dim=40, prior="flow")
        began = time.perf_counter()
        history = pp.fit(pair, data, seed=seed, progress=False, **COMMON | schedule)
        minutes = (time.perf_counter() - began) / 60
        bound = pp.metrics.evaluate(pair, data, metrics=["bound"], progress=False)["bound"]
        pair.eval()
        torch.manual_seed(seed)
        log_p = pair.log_prob(data.test.x[:1000], num_samples=500)
        one = {
            "epochs": len(history.epochs),
            "minutes": minutes,
            "bound": bound.value,
            "stderr": bound.stderr,
            "log_likelihood": log_p.mean().item(),
            "log_likelihood_stderr": (log_p.std() / len(log_p) ** 0.5).item(),
            "seconds_per_epoch": sum(record["seconds"] for record in history.epochs) / len(history.epochs),
        }
        results[str(goal)] = {**COMMON, **schedule, "seed": seed, **one}
        lines.append(
            f"| {goal} | {one['epochs']} | {minutes:.1f} | {bound.value:.2f} ± {bound.stderr:.2f} | "
            f"{one['log_likelihood']:.2f} ± {one['log_likelihood_stderr']:.2f} |"
        )
    return results, "\n".join(lines)
