"""The factors of the product at a small size, which cells of it cannot be, and a cover of those that can."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch

import pyro_priors as pp
from pyro_priors.nn.likelihoods import Gaussian as GaussianLikelihood
from pyro_priors.objectives import ELBO, OBJECTIVES
from pyro_priors.priors import CDV, Flow, Gaussian, Mixture, Standard, Vamp

FAMILIES: dict[str, dict[str, Any]] = {
    "vae": {},
    "hvae": {"z1_dim": 3},
    "cp_vae": {"num_categories": 3},
    "cp_vae-relaxed": {"num_categories": 3, "category": "relaxed"},
    "cvae": {"condition_shape": (4,)},
    "cvae-free": {"condition_shape": (4,), "condition_prior": False},
}
"""The four families, ``cp_vae`` also with a relaxed category, ``cvae`` also with a prior that sees no condition."""

SMALL = {"num_transforms": 2, "hidden_features": (5, 6)}
PRIORS = {
    "standard": Standard(),
    "gaussian": Gaussian(),
    "gaussian-full": Gaussian("full"),
    "mixture": Mixture(4, True),
    "vamp": Vamp(4),
    "cdv": CDV(4),
    "flow": Flow(**SMALL),
    "flow-of-mixture": Flow(**SMALL, base=Mixture(3)),
    "flow-seeing": Flow("spline_coupling", **SMALL, condition_transforms=True),
}
LIKELIHOODS = {
    **{name: name for name in pp.likelihoods.LIKELIHOODS},
    "gaussian-fixed": GaussianLikelihood(0.5),
    "gaussian-optimal": GaussianLikelihood("optimal"),
}
Cell = tuple[str, str, str, str]
CELLS = list(itertools.product(FAMILIES, PRIORS, LIKELIHOODS))

REFUSED = {
    ("hvae", "cdv"): "prior 'cdv' needs the decoder, which needs more than this code",
    ("cp_vae-relaxed", "vamp"): "prior 'vamp' needs the number of a category, and a relaxed category has none",
    ("cp_vae-relaxed", "cdv"): "prior 'cdv' needs the number of a category, and a relaxed category has none",
    ("cvae-free", "vamp"): "prior 'vamp' needs the encoder of the guide, and this place has none",
    ("cvae-free", "cdv"): "prior 'cdv' needs the encoder of the guide, and cannot have it here",
}
"""Cells that cannot be, whatever the likelihood and the objective, and what is said of them."""

OPTIONS = {"constrained": {"kappa_squared": 5.0}}
"""Options of objectives that have some without a default."""

COMPARES = ("factor", "info", "total-correlation")
"""Objectives that regularize a continuous code: a relaxed category comes before it."""


def create(family: str, prior: str, likelihood: str) -> pp.Pair:
    sizes = {"x_shape": (6,), "z_dim": 2, "hidden": (7, 4)}
    factors = {"prior": PRIORS[prior], "likelihood": LIKELIHOODS[likelihood]}
    return pp.create(family.partition("-")[0], **sizes, **FAMILIES[family], **factors)


def batch(family: str, likelihood: str) -> tuple[torch.Tensor, ...]:
    x = torch.rand(12, 6)
    match likelihood.partition("-")[0]:
        case "bernoulli":
            x = x.round()
        case "discretised_logistic":
            x = (255 * x).round() / 255
        case "poisson" | "negative_binomial":
            x = torch.poisson(5 * x)
    return (x, torch.randn(12, 4)) if "condition_shape" in FAMILIES[family] else (x,)


def objective_of(name: str, num_examples: int = 12) -> ELBO:
    """The objective of that name at the begin of a training on so many examples."""
    objective = OBJECTIVES[name](**OPTIONS.get(name, {}))
    objective.begin(num_examples, 0)
    return objective


def trains(family: str, prior: str, likelihood: str, objective: str) -> bool:
    """Whether a cell can be."""
    return (family, prior) not in REFUSED and not (family == "cp_vae-relaxed" and objective in COMPARES)


def pairs_of(cell: Sequence[str]) -> set[tuple[tuple[int, str], ...]]:
    """The pairs of values in a cell, each value with the number of its factor."""
    return set(itertools.combinations(enumerate(cell), 2))


def pairwise_cover(cells: Sequence[Cell]) -> list[Cell]:
    """Cells in which each pair of values that any cell has is met at least once, as few as a greedy choice needs.

    Each next cell has the most pairs that were not met before, and is the first of those.
    """
    left = set().union(*map(pairs_of, cells))
    found = []
    while left:
        found.append(max(cells, key=lambda cell: len(pairs_of(cell) & left)))
        left -= pairs_of(found[-1])
    return found
