"""Priors: shapes, mass one, and a category's row as the Gaussian that it is."""

import math

import pytest
import torch
from torch.testing import assert_close

from pyro_priors.priors import CategoryPrior, ConditionalGaussianPrior, GaussianPrior, StandardPrior

PRIORS = {
    "category": (lambda z_dim: CategoryPrior(3, z_dim), lambda: (torch.tensor(1),)),
    "conditional": (lambda z_dim: ConditionalGaussianPrior((4,), z_dim, (5,)), lambda: (torch.ones(4),)),
    "gaussian": (GaussianPrior, lambda: ()),
    "standard": (StandardPrior, lambda: ()),
}


def _prior(name, z_dim):
    make, args = PRIORS[name]
    prior = make(z_dim)
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, 0, 0.5)
    return prior(*args())


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("z_dim", [1, 2])
def test_integrates_to_one(float64, name, z_dim):
    """Trapezoid over 10 scales to each side of the mean, in one and two dimensions."""
    p = _prior(name, z_dim)
    assert (p.batch_shape, p.event_shape) == ((), (z_dim,))
    axes = [torch.linspace(-10, 10, 401) * p.stddev[d] + p.mean[d] for d in range(z_dim)]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    mass = p.log_prob(grid).exp()
    for axis in reversed(axes):
        mass = torch.trapezoid(mass, axis, dim=-1)
    assert mass.item() == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("name", PRIORS)
def test_draws_have_the_mean_and_scale_of_the_density(name):
    """Mean and variance of n = 20,000 draws in two dimensions at 4 standard errors: fails at 3 of 10,000
    seeds."""
    p = _prior(name, 2)
    draws = (p.sample((20_000,)) - p.mean) / p.stddev
    assert (draws.mean(0).abs() < 4 / math.sqrt(20_000)).all()
    assert ((draws.square().mean(0) - 1).abs() < 4 * math.sqrt(2 / 20_000)).all()


def test_category_prior_s_row_is_its_gaussian(float64):
    """Any left dimensions of c, the enumerated ones too; the log-density by its formula."""
    prior = CategoryPrior(3, 2)
    torch.nn.init.normal_(prior.raw_scale)
    for shape in ((), (5,), (3, 1), (3, 1, 1)):
        c = torch.randint(3, shape)
        p = prior(c)
        assert (p.batch_shape, p.event_shape) == (shape, (2,))
        z = torch.randn(*shape, 2)
        scale = torch.log1p(prior.raw_scale.exp())[c] + 1e-4
        expected = -0.5 * ((z - prior.loc[c]) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)
        assert_close(p.log_prob(z), expected.sum(-1))


def test_priors_start_where_they_say():
    """Scale 1 up to the floor of 1e-4; the Gaussian at N(0, I); the standard one has nothing to train or
    save."""
    assert_close(GaussianPrior(2)().mean, torch.zeros(2))
    assert_close(GaussianPrior(2)().stddev, torch.ones(2), rtol=0, atol=2e-4)
    category = CategoryPrior(3, 2)
    assert category.loc.std() > 0.1
    assert_close(category(torch.tensor(2)).stddev, torch.ones(2), rtol=0, atol=2e-4)
    assert not list(StandardPrior(2).parameters()) and not StandardPrior(2).state_dict()


def test_conditional_prior_moves_with_its_condition():
    """One Gaussian per condition, images flattened."""
    prior = ConditionalGaussianPrior((2, 3), 4, (5,))
    condition = torch.randn(7, 2, 3)
    p = prior(condition)
    assert (p.batch_shape, p.event_shape) == ((7,), (4,))
    assert p.mean.std(0).min() > 1e-3 and p.stddev.std(0).min() > 1e-4
    assert_close(prior(condition[2]).mean, p.mean[2])
