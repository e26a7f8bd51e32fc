"""What the tables of Lavda et al. (2019) train, and the published numbers.

Rows are called ``DATA-METHOD[-K]``, with the paper's methods.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ...training.config import TrainConfig
from ..experiment import Row, seeds
from .measures import true_log_density, two_modes, two_modes_of_prior

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "cp": ("cp_vae", {}),
    "vae": ("vae", {}),
    "mg": ("vae", {"prior": "mixture", "num_components": 500}),
    "vp": ("vae", {"prior": "vamp", "num_components": 500}),
    "hvae": ("hvae", {}),
    "hvp": ("hvae", {"prior": "vamp", "num_components": 500}),
}
"""The paper's methods, in the order of its table: pair and options."""

MANY = 150
"""Number of categories from which on CP is trained with the sparse estimate."""

# section 5: batches of 100, Adam at 5e-4, warm-up of 100 epochs, early stopping; a patience of 50 as in the recipe of
# the baselines (Tomczak and Welling 2018) and in the released code. At most 2,000 epochs there, 600 here
FULL = TrainConfig(max_epochs=600, warmup_epochs=100, patience=50, batch_size=100, learning_rate=5e-4, compile="always")
QUICK = TrainConfig(max_epochs=40, warmup_epochs=10, batch_size=250, learning_rate=2e-3, schedule="cosine")

# a third of the epochs in larger batches; lavda2019/schedule compares it with the paper's
FAST = dataclasses.replace(QUICK, max_epochs=200, compile="always")
FULL_CP, FAST_CP, QUICK_CP = (dataclasses.replace(config, warmup_sites=("z",)) for config in (FULL, FAST, QUICK))
"""Of CP, of which a long warm-up of both KLs left all data in one category (results/README.md)."""

NUM_SEEDS = 3

DIFFERS = {
    "cp": (
        "published: in the released code, which may not be what made the table, the decoder sees a relaxed category of "
        "which only the categorical's KL is charged, and p(z|c) is not trained; ours sums over the categories exactly "
        "and trains p(z|c)",
        "published: the KL of every site is warmed up; ours: that of z alone",
    ),
    "mg": (
        "published: the average of the components' log-densities, a lower bound of the mixture's, and components that "
        "are not trained; ours is the mixture's own density, its weights trained too",
    ),
    "vp": (),
    "vae": (),
    "hvae": ("the KL of z1 given z2, and of z2, in closed form; in the recipe of the baselines sampled",),
    "hvp": ("the KL of z1 given z2 in closed form; in the recipe of the baselines sampled",),
}

DIFFERS_MANY = ("trained with the sparse estimate: the most probable categories exactly, one draw for the rest",)


def _row(data: str, method: str, k: int | None = None) -> Row:
    pair, options = METHODS[method]
    many = method == "cp" and k is not None and k >= MANY
    if method == "cp":
        options = {"num_categories": k} | ({"category": "sparse"} if many else {})
    elif k is not None:
        options = options | {"num_components": k}
    return Row(
        name="-".join([data, method, *([str(k)] if k else [])]),
        pair=pair,
        data=data,
        train=FAST_CP if method == "cp" else FAST,
        quick=QUICK_CP if method == "cp" else QUICK,
        pair_options=options,
        num_samples=5000,
        categories="draw" if method == "cp" else "sum",
        differs=DIFFERS[method] + (DIFFERS_MANY if many else ()),
    )


def _long(row: Row) -> Row:
    """The row by the paper's schedule, cut short at 600 epochs."""
    train = FULL_CP if row.pair == "cp_vae" else FULL
    return dataclasses.replace(row, name=f"{row.name}-600", train=train, num_data=2000)


# Table 1: negative variational lower bounds on the test data, by method, for each K
SIZES = {"mnist": (10, 150, 500), "omniglot": (50, 500)}

PUBLISHED = {
    "mnist": {
        "cp": (84.76, 86.84, 88.63),
        "vae": (88.75,),
        "mg": (89.43, 88.96, 88.85),
        "vp": (87.94, 86.55, 86.07),
        "hvae": (86.7,),
        "hvp": (85.90, 85.09, 85.01),
    },
    "omniglot": {
        "cp": (114.31, 114.14),
        "vae": (115.06,),
        "mg": (116.31, 116.12),
        "vp": (114.01, 113.74),
        "hvae": (110.81,),
        "hvp": (110.50, 110.16),
    },
}


def _rows(data: str) -> dict[str, float]:
    """The published numbers on a data set by the names of their rows, which it enters among :data:`ROWS`."""
    found = {}
    for method, numbers in PUBLISHED[data].items():
        for k, value in zip(SIZES[data] if len(numbers) > 1 else (None,), numbers, strict=True):
            row = _row(data, method, k)
            ROWS[row.name], found[row.name] = row, value
    return found


ROWS: dict[str, Row] = {}
MNIST, OMNIGLOT = _rows("mnist"), _rows("omniglot")

# "the number of categories within the discrete latent variable to 1 ... simple VAE ... but a learnable prior"
CP1 = dataclasses.replace(_row("mnist", "vae"), name="mnist-cp-1", pair_options={"prior": "gaussian"})
TEN = ("mnist-cp-10", "mnist-vae", "mnist-mg-10", "mnist-vp-10", "mnist-hvae", "mnist-hvp-10")
LONG = {name: _long(ROWS[name]) for name in TEN}
LONG_CP1 = _long(CP1)
FIRST = {row.name: seeds(row, 1)[0] for row in (*ROWS.values(), CP1)}
"""The first seed of each row, by the row's name."""

REFERENCE_IMPLEMENTATION = dataclasses.replace(
    LONG["mnist-cp-10"],
    name="mnist-cp-10-reference",
    train=FULL,
    quick=QUICK,
    pair="cp_vae_reference",
    pair_options={"num_categories": 10},
    differs=(
        "the published code's loss, prior and first weights, trained by plain Adam, weights picked by an honest bound; "
        "relaxed 'bound': the number that this code reports, and no bound; negative bound and log p(x): of the same "
        "weights with a category in the place of its relaxation",
    ),
)

PUBLISHED_BOUNDS = {
    **MNIST,
    **OMNIGLOT,
    **{row.name: MNIST[name] for name, row in LONG.items()},
    REFERENCE_IMPLEMENTATION.name: MNIST["mnist-cp-10"],
}

SPARSE = dataclasses.replace(
    ROWS["mnist-cp-10"],
    name="mnist-cp-10-sparse",
    pair_options={"num_categories": 10, "category": "sparse", "num_enumerated": 2},
    differs=("trained with the two most probable categories summed and one drawn from the other eight",),
)

RELAXED = tuple(
    dataclasses.replace(
        row,
        name=f"{row.name}-relaxed",
        pair_options={"num_categories": row.pair_options["num_categories"], "category": "relaxed"},
        differs=("trained by the bound of a relaxed category, evaluated with a category",),
    )
    for row in (ROWS["mnist-cp-10"], ROWS["mnist-cp-150"])
)

# The toy, section 5.1, with smaller networks and a shorter schedule than section 5 has for "all our experiments": z of
# 40 and 300-300 for 100 epochs and more say no more of one dimension.

TOY_FULL = TrainConfig(
    max_epochs=10, warmup_epochs=3, batch_size=100, learning_rate=5e-3, schedule="cosine", compile="always"
)

TOY_QUICK = dataclasses.replace(TOY_FULL, max_epochs=4, warmup_epochs=1)


def _toy(name: str, pair: str, **options: Any) -> Row:
    return Row(
        name,
        pair,
        "mixture",
        TOY_FULL,
        TOY_QUICK,
        pair_options={"z_dim": 1, "hidden": (64, 64)} | options,
        num_samples=100,
        measures=(true_log_density, two_modes, *((two_modes_of_prior,) if pair == "cp_vae" else ())),
        differs=DIFFERS["mg"] if options.get("prior") == "mixture" else (),
    )


TOY_CP_150 = _toy("toy-cp-150", "cp_vae", num_categories=150)

TOYS = {
    "CP, K=2": _toy("toy-cp-2", "cp_vae", num_categories=2),
    "CP, K=150": TOY_CP_150,
    "VAE": _toy("toy-vae", "vae"),
    "VAE, trained Gaussian prior": _toy("toy-cp-1", "vae", prior="gaussian"),
    "MG, K=2": _toy("toy-mg-2", "vae", prior="mixture", num_components=2),
    "MG, K=150": _toy("toy-mg-150", "vae", prior="mixture", num_components=150),
}
