"""Objectives and importance weights on programs that are not the zoo's: plates that subsample, masks, odd sites."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn as nn
from pyro.infer import Trace_ELBO, TraceGraph_ELBO

import pyro_priors as pp
from pyro_priors.objectives import ELBO, log_importance_weights


class Model(nn.Module):
    """z ~ N(0, I), x ~ N(Wz, I) of two values, in a plate of ``size`` data of which the batch is a subsample."""

    def __init__(self, size=None, event_dim=1, mask=None, extra=False):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0, 0.5], [-0.3, 2.0]]))
        self.size, self.event_dim, self.mask, self.extra = size, event_dim, mask, extra

    def forward(self, x):
        pp.register("model", self)
        with pyro.plate("data", self.size or len(x), subsample=torch.arange(len(x))):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            if self.extra:
                z = z + pyro.sample("extra", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            likelihood = dist.Normal(z @ self.weight.T, 1.0).to_event(self.event_dim)
            pyro.sample("x", likelihood if self.mask is None else likelihood.mask(self.mask), obs=x)


class Guide(nn.Module):
    def __init__(self, size=None):
        super().__init__()
        self.loc = nn.Linear(2, 2)
        self.size = size

    def forward(self, x):
        pp.register("guide", self)
        with pyro.plate("data", self.size or len(x), subsample=torch.arange(len(x))):
            pyro.sample("z", dist.Normal(self.loc(x), 0.7).to_event(1))


X = torch.tensor([[0.3, -1.0], [2.0, 0.1], [-0.7, 0.4]])


@pytest.mark.parametrize("analytic_kl", [True, False])
def test_a_plate_that_subsamples_leaves_the_mean_over_the_batch(analytic_kl):
    """Pyro scales the sites by 1000 / 3 and sums; ours is a mean, which needs no scale, for the bound's parts too."""
    found = []
    for size in (None, 1000):
        torch.manual_seed(0)
        guide = Guide(size)
        terms = ELBO(analytic_kl).terms(Model(size), guide, X)
        found.append((terms.loss.item(), terms.bound.mean().item()))
    assert found[1][0] == pytest.approx(found[0][0])
    assert found[1][1] == pytest.approx(found[0][1]) == pytest.approx(-found[0][0])
    torch.manual_seed(0)
    model, guide = Model(1000), Guide(1000)
    torch.manual_seed(1)
    pyros = Trace_ELBO().loss(model, guide, X) / 1000
    torch.manual_seed(1)
    assert ELBO(analytic_kl=False).loss(model, guide, X) == pytest.approx(pyros, rel=1e-5)


def test_importance_weights_respect_a_mask():
    """With all of x masked the weights have mean 1: n = 20,000, within 4 standard errors (fails 1 in 16,000)."""
    weights = log_importance_weights(Model(mask=torch.tensor(False)), Guide(), X, num_samples=20_000).exp()
    error = weights.std(0) / math.sqrt(len(weights))
    assert ((weights.mean(0) - 1).abs() < 4 * error).all()


@pytest.mark.filterwarnings("ignore:Found vars in model but not guide")
@pytest.mark.parametrize("call", [ELBO().loss, lambda *args: log_importance_weights(*args, num_samples=2)])
def test_a_latent_site_without_a_partner_is_refused(call):
    with pytest.raises(ValueError, match="site 'extra'"):
        call(Model(extra=True), Guide(), X)


@pytest.mark.parametrize("num_samples", [1, 2, 5])
def test_importance_weights_refuse_a_forgotten_event_dimension(num_samples):
    with pytest.raises(ValueError, match=r"\.to_event|Shape mismatch inside plate"):
        log_importance_weights(Model(event_dim=0), Guide(), X[:2], num_samples=num_samples)


@pytest.mark.parametrize("num_samples", [1, 2, 3, 5])
def test_an_event_dimension_too_many_is_refused(num_samples):
    """The whole batch would be one datum: three of them, and the plate would count it three times."""
    told = r"site 'x' has 2 event dimensions, and its values have the shape \(3, 2\) with the batch: declare one fewer"
    for objective in (ELBO(), ELBO(analytic_kl=False)):
        with pytest.raises(ValueError, match=told):
            objective.loss(Model(event_dim=2), Guide(), X)
    with pytest.raises(ValueError, match=told if num_samples in (1, 3) else "Shape mismatch inside plate"):
        log_importance_weights(Model(event_dim=2), Guide(), X, num_samples=num_samples)


def test_fit_refuses_an_elbo_without_a_differentiable_loss():
    data = pp.data.load("digits", limit=20)
    pair = pp.create("vae", x_shape=data.x_shape, z_dim=2, hidden=(4,))
    with pytest.raises(
        ValueError, match="TraceGraph_ELBO has no differentiable_loss: give one of pyro_priors.objectives"
    ):
        pp.fit(pair, data, TraceGraph_ELBO(), progress=False)


@pytest.mark.parametrize(
    ("data", "likelihood", "message"),
    [
        ("moons", "continuous_bernoulli", "the train part of moons does not fit the pair: x must be in .0, 1., got"),
        (
            "digits",
            "discretised_logistic",
            "the train part of digits does not fit the pair: x must be gray levels",
        ),
    ],
)
def test_values_that_a_likelihood_cannot_have_are_refused(data, likelihood, message):
    splits = pp.data.load(data, **({"binarise": "none"} if data == "digits" else {}))
    pair = pp.create("vae", x_shape=splits.x_shape, z_dim=2, hidden=(4,), likelihood=likelihood)
    with pytest.raises(ValueError, match=message):
        pp.fit(pair, splits, progress=False, max_epochs=1)


@pytest.mark.parametrize("name", ["cp_vae", "cvae"])
def test_a_code_that_only_follows_its_prior_is_not_active(name):
    """q(z|x,.) = p(z|.): the posterior's mean moves with the category or the condition, and says nothing of x."""
    data = pp.data.load("digits", condition_rows=4 if name == "cvae" else 0)
    options = {"condition_shape": data.condition_shape} if name == "cvae" else {"num_categories": 10}
    pair = pp.create(name, x_shape=data.x_shape, z_dim=3, hidden=(8,), **options)
    pair.guide = _PriorAsGuide(pair.model, name)
    found = pp.metrics.evaluate(pair, data, metrics=["active_units", "bound"], progress=False)
    assert found["kl_z"].value == pytest.approx(0, abs=1e-6)
    assert found["active_units_z"].value == 0


class _PriorAsGuide(nn.Module):
    def __init__(self, model, name):
        super().__init__()
        self.prior, self.name = model.prior, name
        self.category = nn.Linear(64, 10)

    def forward(self, x, condition=None, size=None):
        with pp.data_plate(x, condition, size):
            given = condition
            if self.name == "cp_vae":
                logits = 50 * self.category(x)
                given = pyro.sample("c", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})
            pyro.sample("z", self.prior(given))
