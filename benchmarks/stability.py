"""How far the clusters of VAEs of different seeds agree, without copies and with them: no label is read.

What ``pp.start_at_clusters`` does with images was settled by this. Its VAEs are those that ``pyro-priors reproduce
lavda2019/clustering`` leaves in ``runs``.
"""

import sys
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

import torch

import pyro_priors as pp
from pyro_priors.clusters import Clustering, clusterings
from pyro_priors.metrics import hungarian_accuracy

RUNS = Path("runs/lavda2019")
SEEDS = {"mnist": 5, "fashion_mnist": 3, "digits": 5}
NUM_CLUSTERS = 10


def tightest(found: Sequence[Clustering]) -> torch.Tensor:
    return min(found, key=lambda one: one.spread).labels


WAYS: dict[str, Callable[[Clustering, list[Clustering]], torch.Tensor]] = {
    "no copies": lambda alone, bent: alone.labels,
    "copies bent by half": lambda alone, bent: bent[0].labels,
    "copies bent": lambda alone, bent: bent[2].labels,
    "by half, the tightest of two": lambda alone, bent: tightest(bent[:2]),
    "bent, the tightest of two": lambda alone, bent: tightest(bent[2:]),
    "the tightest of these four": lambda alone, bent: tightest(bent),
}
"""The last is what ``start_at_clusters`` does."""


@torch.no_grad()
def labels_of(data: pp.data.Splits, seed: int) -> dict[str, torch.Tensor]:
    folder = RUNS / f"{data.name}-learned-seed{seed}"
    if not folder.exists():
        sys.exit(f"{folder} is missing: make it with 'pyro-priors reproduce lavda2019/clustering --row {data.name}-*'")
    vae = pp.load(folder).eval()
    (alone,) = clusterings(vae, data.train, None, NUM_CLUSTERS, seed=seed)
    bent = clusterings(vae, data.train, data.image_shape, NUM_CLUSTERS, seed=seed)
    print(data.name, seed, *(f"{one.bend:g}: {one.spread:.4f}" for one in (alone, *bent)), file=sys.stderr, flush=True)
    return {name: way(alone, bent) for name, way in WAYS.items()}


def run() -> tuple[dict[str, Any], str]:
    results: dict[str, Any] = {}
    lines = [
        f"### Agreement of {NUM_CLUSTERS} clusters between VAEs of different seeds, on the training part",
        "",
        "Hungarian matching of the clusters of one VAE with those of another, as a share of the data: mean of all "
        "pairs of seeds (least). No label is read.",
        "",
        "| | " + " | ".join(f"{name}, {num} seeds" for name, num in SEEDS.items()) + " |",
        "|---" * (len(SEEDS) + 1) + "|",
    ]
    for name, num_seeds in SEEDS.items():
        data = pp.data.load(name)
        found = [labels_of(data, seed) for seed in range(num_seeds)]
        for way in WAYS:
            pairs = combinations([one[way] for one in found], 2)
            agreements = [hungarian_accuracy(a, b, NUM_CLUSTERS, NUM_CLUSTERS) for a, b in pairs]
            results.setdefault(way, {})[name] = {"mean": mean(agreements), "all": agreements}
    for way, of in results.items():
        cells = (f"{one['mean']:.3f} ({min(one['all']):.3f})" for one in of.values())
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return results, "\n".join(lines)
