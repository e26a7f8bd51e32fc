"""The checks that users run on what is theirs: what is right passes, what is wrong is told."""

import math

import pyro.distributions as dist
import pytest
import torch
import torch.nn as nn

import pyro_priors as pp
from by_hand import cp_vae, cvae, vae
from pairs import batch, create, randomise
from priors_of import CASES, CONTEXTS, build
from pyro_priors import testing


class Wrong(nn.Module):
    """Standard normal, whose density or draws are another's; or with a parameter that does nothing."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.idle = kind, nn.Parameter(torch.zeros(()))

    def forward(self, context=None):
        kind, idle = self.kind, self.idle

        class Distribution(dist.Normal):
            def log_prob(self, value):
                found = super().log_prob(value) + (0.1 if kind == "mass" else 0.0)
                return found if kind == "idle" else found + 0 * idle

            def sample(self, sample_shape=()):
                return super().sample(sample_shape) * (1.05 if kind == "draws" else 1.0)

        return Distribution(torch.zeros(2), torch.ones(2)).to_event(1)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("mass", r"the density integrates to 1\.\d+, and not to 1"),
        ("draws", "the draws do not follow the density: chi-squared is"),
        ("idle", "the density does not depend on the parameter 'idle'"),
    ],
)
def test_a_prior_that_is_wrong_is_told(kind, message):
    with pytest.raises(AssertionError, match=message):
        testing.check_prior(Wrong(kind))


@pytest.mark.parametrize(
    ("name", "context"), [case for case in CASES if case[0] in ("gaussian-full", "mixture", "vamp", "affine_coupling")]
)
def test_priors_of_ours_pass(name, context):
    prior = build(name, context, 2)
    state = torch.get_rng_state()
    testing.check_prior(prior, *CONTEXTS[context]())
    assert torch.equal(torch.get_rng_state(), state)


HANDS = {"vae": vae, "cvae": cvae, "cp_vae": cp_vae}


@pytest.mark.parametrize("name", HANDS)
def test_a_handwritten_loss_is_compared_parameter_by_parameter(name):
    pair, args = randomise(create(name)), batch(name)

    def right(parameters, *given):
        x, *condition, noise = given
        one_particle = noise["z"].unsqueeze(-3)  # of each category where there are some
        return HANDS[name].elbo_by_hand(parameters, x, *(condition or [None]), one_particle)

    found = testing.check_elbo(pair, right, *args)
    assert math.isclose(found.loss, found.by_hand, rel_tol=1e-10) and max(found.gradients.values()) < 1e-9

    def wrong(parameters, *given):
        bias = parameters["model.decoder.out.input.bias"]
        return right(parameters, *given) + (0.1 * (bias - bias.detach())).sum()  # the same value, another gradient

    with pytest.raises(AssertionError, match=r"losses differ[^\n]*\n.*\ngradient of model.decoder.out"):
        testing.check_elbo(pair, wrong, *args)
    with pytest.raises(AssertionError, match=r"loss: -?\d"):
        testing.check_elbo(pair, lambda *given: right(*given) + 1.0, *args)


def test_pyro_s_own_objectives_are_compared_too():
    from pyro.infer import Trace_ELBO

    pair, args = randomise(create("vae")), batch("vae")

    def sampled(parameters, x, noise):
        return vae.elbo_by_hand(parameters, x, None, noise["z"][None], analytic=False)

    testing.check_elbo(pair, sampled, *args, objective=Trace_ELBO())


@pytest.mark.parametrize("name", ["vae", "cp_vae", "cvae"])
def test_pairs_of_ours_pass(name):
    testing.check_pair(randomise(create(name)), *batch(name))


def test_a_parameter_without_effect_is_told():
    pair = create("vae")
    pair.model.decoder.idle = nn.Parameter(torch.zeros(3))
    with pytest.raises(AssertionError, match="the loss does not depend on the parameters model.decoder.idle"):
        testing.check_pair(pair, *batch("vae"))


def test_what_is_no_density_to_check_is_refused():
    with pytest.raises(ValueError, match=r"density must have batch shape \(\) and event shape \(1,\) or \(2,\), got"):
        testing.check_density(dist.Normal(torch.zeros(3), 1.0).to_event(1))
    assert pp.testing is testing


RIGHT = {
    "uniform": dist.Uniform(torch.full((2,), -3.0), torch.full((2,), 3.0)).to_event(1),
    "cauchy": dist.Cauchy(torch.zeros(2), torch.ones(2)).to_event(1),
    "student": dist.StudentT(1.5, torch.zeros(2), 1.0).to_event(1),
    "gamma": dist.Gamma(torch.tensor([0.3]), torch.tensor([1.0])).to_event(1),
    "narrow": pp.priors.GaussianMixture(torch.zeros(2), torch.zeros(2, 1), torch.tensor([[0.003], [5.0]])),
    "narrow-2": pp.priors.GaussianMixture(torch.zeros(2), torch.zeros(2, 2), torch.tensor([[0.003] * 2, [5.0] * 2])),
}


@pytest.mark.parametrize("name", RIGHT)
def test_narrow_parts_heavy_tails_and_bounded_supports_are_right(name):
    """Five seeds each. Two failures would be 1 in 10^5 if each failed at 1 of 1,000."""
    failed = []
    for seed in range(5):
        try:
            testing.check_density(RIGHT[name], seed=seed)
        except AssertionError as error:
            failed.append(str(error))
    assert len(failed) <= 1, failed


class Unsaved(nn.Module):
    """A prior that depends on a tensor which its state lacks."""

    def __init__(self):
        super().__init__()
        self.shift = torch.randn(2)

    def forward(self):
        return dist.Normal(self.shift, torch.ones(2)).to_event(1)


def test_a_tensor_that_is_not_saved_is_told():
    with pytest.raises(AssertionError, match="is not in its state_dict .make it a buffer"):
        testing.check_prior(lambda: Unsaved())
    testing.check_prior(pp.priors.Flow())
    for wrong, got in {Unsaved: "Unsaved", "flow": "'flow'"}.items():
        with pytest.raises(ValueError, match=f"prior must be a module, options, or a function .*, got {got}"):
            testing.check_prior(wrong)
    with pytest.raises(ValueError, match=r"got \(\) and \(3,\): make the prior with z_dim=2"):
        testing.check_prior(pp.priors.Flow().build(pp.priors.Parts(3)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda loss: loss * math.nan, "the two losses differ"),
        (lambda loss: -loss, "it has the opposite sign"),
        (lambda loss: 3 * loss, "it is the sum over the batch: return the mean"),
        (lambda loss: loss.item(), "by_hand must return a tensor of one number with a gradient, got float"),
        (lambda loss: loss.expand(3), r"by_hand must return .* got a tensor of shape \(3,\): return the mean"),
        (lambda loss: loss.detach(), "by_hand must return .* got a tensor without"),
    ],
)
def test_a_handwritten_loss_that_is_none_is_told(change, message):
    pair, (x, *_) = randomise(create("vae")), batch("vae")
    x = x[:3]

    def by_hand(parameters, x, noise):
        return change(vae.elbo_by_hand(parameters, x, None, noise["z"].unsqueeze(-3)))

    with pytest.raises((AssertionError, ValueError), match=message):
        testing.check_elbo(pair, by_hand, x)
