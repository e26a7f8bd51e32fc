"""What the tables of Klushyn et al. (2019) train.

Rows are called ``DATA-METHOD[-VARIANT]``, with the paper's methods.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ...training.config import TrainConfig
from ..experiment import (
    Row,
    seeds,
    validation_bound,
)
from .measures import (
    components_off,
    grasps_by_metric,
    off_the_curve,
    off_the_gaussians,
    off_the_targets,
    true_log_density,
    variety_of_classes,
)

METHODS = {"cvae": "CVAE", "cmog": "CMoG-CVAE", "cvamp": "conditional VampPrior", "cdv": "CDV-CVAE"}
"""The methods, and how figures call them."""


def _of_method(method: str, num_components: int, **options: Any) -> dict[str, Any]:
    """Pair and options of a method."""
    if method == "cvae":
        return {"pair": "cvae", "pair_options": options}
    return {"pair": f"{method}_cvae", "pair_options": options | {"num_components": num_components}}


# Toys, section 4.1. The paper's own is not to be had. A long warm-up, 'slow', is a variant.

TOY = TrainConfig(
    max_epochs=300, warmup_epochs=1, batch_size=250, learning_rate=5e-3, schedule="cosine", compile="always"
)

TOY_QUICK = dataclasses.replace(TOY, max_epochs=100)

SLOW: dict[str, Any] = {
    "train": dataclasses.replace(TOY, warmup_epochs=150),
    "quick": dataclasses.replace(TOY_QUICK, warmup_epochs=50),
}

NO_WARMUP: dict[str, Any] = {
    "train": dataclasses.replace(TOY, warmup_epochs=0),
    "quick": dataclasses.replace(TOY_QUICK, warmup_epochs=0),
}

CONSTRAINED: dict[str, Any] = {
    "objective": "constrained",
    "objective_options": {"kappa_squared": -1.9, "rate": 1e-2},
    **NO_WARMUP,
}

NUM_SEEDS = 5
TOY_NETWORKS: dict[str, Any] = {"z_dim": 2, "hidden": (64, 64)}
TOY_COMPONENTS = 16


def _four(name: str, **options: Any) -> tuple[Row, ...]:
    row = Row(
        f"four-{name}",
        "vae",
        "four_gaussians",
        TOY,
        TOY_QUICK,
        pair_options=TOY_NETWORKS | options,
        measures=(true_log_density, off_the_gaussians),
    )
    return seeds(row, NUM_SEEDS)


def _toy(
    method: str, variant: str = "", data: str = "one_to_many", num: int = NUM_SEEDS, **options: Any
) -> tuple[Row, ...]:
    networks = TOY_NETWORKS | options.pop("pair_options", {})
    short, measure = ("toy", off_the_targets) if data == "one_to_many" else ("sine", off_the_curve)
    row = Row(
        "-".join(filter(None, (short, method, variant))),
        data=data,
        **_of_method(method, TOY_COMPONENTS, **networks),
        **{"train": TOY, "quick": TOY_QUICK} | options,
        measures=(true_log_density, measure),
        judges=(validation_bound,),
    )
    return seeds(row, num)


FOUR = (*_four("vae"), *_four("mixture", prior="mixture", num_components=4))
TOYS = tuple(row for method in METHODS for row in _toy(method))
SLOW_TOYS = tuple(row for method in METHODS for row in _toy(method, "slow", **SLOW))

NARROW_TOYS = tuple(
    row
    for method in METHODS
    for row in _toy(method, "narrow", pair_options={"likelihood": "gaussian", "init_scale": 0.3})
)

TOYS_OTHERWISE = (
    *_toy("cvae", "eq3", num=3, pair_options={"condition_decoder": False}),
    *(row for method in METHODS for row in _toy(method, "constrained", num=3, **CONSTRAINED)),
    *(
        row
        for method in ("cmog", "cdv")
        for row in _toy(method, "weights", num=3, pair_options={"learnable_weights": True})
    ),
)

SINES = tuple(row for method in METHODS for row in _toy(method, data="inverse_sine", num=2))

# MNIST and Fashion-MNIST, section 4.2

IMAGES = TrainConfig(
    max_epochs=30, warmup_epochs=1, batch_size=100, learning_rate=1e-3, schedule="cosine", compile="always"
)

IMAGES_QUICK = TrainConfig(
    max_epochs=8, warmup_epochs=1, batch_size=250, learning_rate=2e-3, schedule="cosine", compile="always"
)


def _images(short: str, data: str, method: str, variant: str = "", **options: Any) -> Row:
    return Row(
        "-".join(filter(None, (short, method, variant))),
        data=data,
        **_of_method(method, 32, z_dim=32),
        **{"train": IMAGES, "quick": IMAGES_QUICK} | options,
        data_options={"condition_rows": 10},
        measures=(components_off,),
        judges=(variety_of_classes,),
    )


MNIST, FASHION = (
    tuple(_images(short, data, method) for method in METHODS)
    for short, data in (("mnist", "mnist"), ("fashion", "fashion_mnist"))
)

MNIST_OTHERWISE = tuple(
    _images(
        "mnist",
        "mnist",
        method,
        "slow",
        train=dataclasses.replace(IMAGES, warmup_epochs=10),
        quick=dataclasses.replace(IMAGES_QUICK, warmup_epochs=2),
    )
    for method in ("cmog", "cdv")
)

# Grasping, section 4.3
# 4,096 pixels that are all above 0: a step of Adam moves a layer's inputs by thousands of times the learning rate

GRASPS = TrainConfig(
    max_epochs=40,
    warmup_epochs=1,
    batch_size=128,
    learning_rate=2e-4,
    schedule="cosine",
    clip_norm=10.0,
    compile="always",
)

GRASPS_QUICK = dataclasses.replace(GRASPS, max_epochs=15)


def _grasps(method: str) -> tuple[Row, ...]:
    row = Row(
        f"grasp-{method}",
        data="cornell",
        **_of_method(method, 16, z_dim=16, likelihood="gaussian", init_scale=0.1),
        train=GRASPS,
        quick=GRASPS_QUICK,
        num_samples=100,
        judges=(grasps_by_metric,),
    )
    return seeds(row, 3)


GRASPING = tuple(row for method in METHODS for row in _grasps(method))
