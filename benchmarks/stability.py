"""How far the clusters that ``start_at_clusters`` may find agree between VAEs of different seeds, and with the labels.

The agreement between seeds needs no label, and that with the labels decides nothing: it is reported. The VAEs are those
that ``pyro-priors reproduce lavda2019/clustering`` leaves in ``runs``.
"""

import sys
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from sklearn.cluster import KMeans

import pyro_priors as pp
from pyro_priors.clusters import clusterings, tightest
from pyro_priors.metrics import hungarian_accuracy

RUNS = Path("runs/lavda2019")
SEEDS = {"mnist": 5, "fashion_mnist": 3, "digits": 5}
NUM_CLUSTERS = 10
RECIPE = "copies bent by half, the tightest of two"


@torch.no_grad()
def labels_of(data: pp.data.Splits, seed: int) -> dict[str, torch.Tensor]:
    """Clusters of the training part, by the way they are found."""
    folder = RUNS / f"{data.name}-learned-seed{seed}"
    if not folder.exists():
        how = f"pyro-priors reproduce lavda2019/clustering --row {data.name}-clusters"
        sys.exit(f"{folder} is missing: '{how}' makes it")
    vae, x = pp.load(folder).eval(), data.train.x
    (alone,) = clusterings(vae, data.train, NUM_CLUSTERS, image_shape=None, seed=seed)
    half, whole = (
        clusterings(vae, data.train, NUM_CLUSTERS, image_shape=data.image_shape, bend=bend, seed=seed)
        for bend in (0.5, 1.0)
    )
    pixels = KMeans(NUM_CLUSTERS, n_init=10, random_state=seed).fit(x.flatten(1).numpy()).labels_
    spreads = " ".join(f"{one.spread:.4f}" for one in (alone, *half, *whole))
    print(data.name, seed, spreads, file=sys.stderr, flush=True)
    return {
        "k-means of the pixels": torch.from_numpy(pixels).long(),
        "no copies": alone.labels,
        "copies bent by half": half[0].labels,
        "copies bent": whole[0].labels,
        RECIPE: tightest(half),
        "copies bent, the tightest of two": tightest(whole),
    }


def run() -> tuple[dict[str, Any], str]:
    results: dict[str, Any] = {}
    for name, num_seeds in SEEDS.items():
        data = pp.data.load(name)
        assert data.train.label is not None
        found = [labels_of(data, seed) for seed in range(num_seeds)]
        for way in found[0]:
            each = [one[way] for one in found]
            results.setdefault(way, {})[name] = {
                "between_seeds": [
                    hungarian_accuracy(a, b, NUM_CLUSTERS, NUM_CLUSTERS) for a, b in combinations(each, 2)
                ],
                "with_labels": [hungarian_accuracy(a, data.train.label, NUM_CLUSTERS, NUM_CLUSTERS) for a in each],
            }
    columns = {"between_seeds": "between seeds", "with_labels": "with labels"}
    heads = [f"{name}, {num} seeds, {what}" for name, num in SEEDS.items() for what in columns.values()]
    lines = [
        f"### Agreement of {NUM_CLUSTERS} clusters of the training part: mean (least)",
        "",
        "| | " + " | ".join(heads) + " |",
        "|---" * (len(heads) + 1) + "|",
    ]
    for way, of in results.items():
        cells = [f"{mean(one[key]):.3f} ({min(one[key]):.3f})" for one in of.values() for key in columns]
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return results, "\n".join(lines)
