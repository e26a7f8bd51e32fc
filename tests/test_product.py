"""The product: family x prior x likelihood x objective. Every cell trains, or is refused in one line."""

import itertools
from typing import Any

import pytest
import torch

import pyro_priors as pp
from pyro_priors.nn.likelihoods import Gaussian as GaussianLikelihood
from pyro_priors.objectives import OBJECTIVES
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


@pytest.mark.parametrize(("family", "prior", "likelihood"), CELLS)
def test_a_cell_trains_or_is_refused(family, prior, likelihood):
    """A loss and a gradient that are finite under every objective; every parameter is trained by the bound; samples
    and codes have their shapes."""
    torch.manual_seed(0)
    if (family, prior) in REFUSED:
        with pytest.raises(ValueError, match=f"^{REFUSED[family, prior]}.*: use "):
            create(family, prior, likelihood)
        return
    pair, args = create(family, prior, likelihood), batch(family, likelihood)
    for name in OBJECTIVES:
        objective = OBJECTIVES[name](**OPTIONS.get(name, {}))
        objective.begin(12, 0)
        pair.zero_grad()
        if family == "cp_vae-relaxed" and name in COMPARES:
            with pytest.raises(ValueError, match=r"site 'c' is a RelaxedCategorical: use ELBO or Beta"):
                objective(pair.model, pair.guide)(*args)
            continue
        loss = objective(pair.model, pair.guide)(*args)
        loss.backward()
        assert loss.isfinite(), name
        gradients = {key: parameter.grad for key, parameter in pair.named_parameters()}
        assert all(gradient is None or gradient.isfinite().all() for gradient in gradients.values()), name
        if name == "elbo":
            assert not [key for key, gradient in gradients.items() if gradient is None or not gradient.any()]
    drawn = pair.sample(5, *(condition[:5] for condition in args[1:]))
    assert drawn["x"].shape == drawn["x_mean"].shape == (5, 6)
    pair.likelihood.check(drawn["x"])
    assert pair.log_prob(*args, num_samples=3).isfinite().all()


def test_the_cells_are_counted(capsys):
    """How many there are, and how many are refused."""
    refused = sum((family, prior) in REFUSED for family, prior, _ in CELLS)
    compared = sum(family == "cp_vae-relaxed" and (family, prior) not in REFUSED for family, prior, _ in CELLS)
    cells, none = len(CELLS) * len(OBJECTIVES), refused * len(OBJECTIVES) + compared * len(COMPARES)
    with capsys.disabled():
        print(f"\n{cells:,} cells of family x prior x likelihood x objective: {cells - none:,} train, {none:,} refused")
    assert (cells, none) == (3024, 448)
    assert {family for family, _ in REFUSED} < set(FAMILIES) and {prior for _, prior in REFUSED} <= set(PRIORS)
