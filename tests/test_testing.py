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

    with pytest.raises(AssertionError, match=r"loss is another[^\n]*\n.*\ngradient of model.decoder.out"):
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
    with pytest.raises(ValueError, match=r"p must have batch shape \(\) and event shape \(1,\) or \(2,\), got"):
        testing.check_density(dist.Normal(torch.zeros(3), 1.0).to_event(1))
    assert pp.testing is testing
