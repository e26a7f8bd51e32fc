"""The product: family x prior x likelihood x objective. Every cell trains, or is refused in one line."""

import pytest
import torch

from product import CELLS, FAMILIES, PRIORS, REFUSED, batch, create, objective_of, trains
from pyro_priors.objectives import OBJECTIVES


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
        objective = objective_of(name)
        pair.zero_grad()
        if not trains(family, prior, likelihood, name):
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
    cells = len(CELLS) * len(OBJECTIVES)
    none = sum(not trains(*cell, objective) for cell in CELLS for objective in OBJECTIVES)
    with capsys.disabled():
        print(f"\n{cells:,} cells of family x prior x likelihood x objective: {cells - none:,} train, {none:,} refused")
    assert (cells, none) == (3024, 448)
    assert {family for family, _ in REFUSED} < set(FAMILIES) and {prior for _, prior in REFUSED} <= set(PRIORS)
