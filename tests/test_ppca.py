"""Probabilistic PCA, where log p(x) and the posterior are known: bound and importance sampling against the
truth.

Statistical tests repeat one datum n times, so that one call gives n independent single-sample estimates with
their standard error. Seeds are fixed; at 4 standard errors a right program fails at 6 of 100,000 seeds.
"""

import math

import pytest
import torch
from pyro.infer import Trace_ELBO
from torch.testing import assert_close

from linear_gaussian import X_DIM, log_evidence, mixture_of_ppca, ppca
from pyro_priors.objectives import ELBO, log_importance_weights

pytestmark = pytest.mark.usefixtures("float64")

EXACT = {"rtol": 0.0, "atol": 1e-8}
OFF = {"shift": 0.2, "factor": 1.3}


def _standard_errors(values, truth):
    return (values.mean() - truth) / (values.std() / math.sqrt(len(values)))


def test_with_the_posterior_as_guide_the_bound_is_log_p_of_x_at_every_draw():
    """log p(x,z) - log q(z|x) is then the same for all z, so the sampled KL gives log p(x) without any
    noise."""
    pair, x = ppca(), torch.randn(7, X_DIM)
    (truth,) = log_evidence(pair, x)
    for num_particles in (1, 3):
        for _ in range(3):
            elbo = ELBO(analytic_kl=False, num_particles=num_particles)
            assert_close(elbo.terms(pair.model, pair.guide, x).bound, truth, **EXACT)
            assert_close(elbo.loss(pair.model, pair.guide, x), -truth.mean().item(), **EXACT)
    assert_close(Trace_ELBO().loss(pair.model, pair.guide, x), -truth.sum().item(), **EXACT)


def test_with_a_closed_form_kl_the_bound_is_log_p_of_x_in_expectation():
    """The closed form takes the noise out of one half of it only: n = 20,000, 4 standard errors."""
    pair = ppca()
    x = torch.randn(1, X_DIM)
    bound = pair.elbo.terms(pair.model, pair.guide, x.expand(20_000, X_DIM)).bound.detach()
    assert bound.std() > 0.1  # noise there is
    assert abs(_standard_errors(bound, log_evidence(pair, x).item())) < 4


@pytest.mark.parametrize("num_samples", [1, 7, 1000])
@pytest.mark.parametrize("build", [ppca, mixture_of_ppca])
def test_with_the_posterior_as_guide_importance_sampling_is_exact_at_any_number_of_samples(build, num_samples):
    """Every weight is p(x). With categories each weight is the sum over c of p(c) p(x|c), whatever q(c|x) is:
    a weight that forgot p(c), divided by q(c|x) or averaged in logarithms would show."""
    pair, x = build(), 2 * torch.randn(150, X_DIM)  # more data than log_prob takes in one chunk
    log_p_given_c = log_evidence(pair, x)
    truth = log_p_given_c.logsumexp(0) - math.log(len(log_p_given_c))
    assert_close(pair.log_prob(x, num_samples=num_samples), truth, **EXACT)
    log_w = log_importance_weights(pair.model, pair.guide, x[:4], num_samples=min(num_samples, 7))
    assert log_w.shape == (min(num_samples, 7), 4)
    assert_close(log_w, truth[:4].expand_as(log_w), **EXACT)


@pytest.mark.parametrize("analytic_kl", [True, False])
def test_another_guide_loses_exactly_its_kl_from_the_posterior(analytic_kl):
    """E bound = log p(x) - KL(q || posterior), the KL from its formula: n = 20,000, 4 standard errors."""
    pair = ppca(**OFF)
    x = torch.randn(1, X_DIM)
    gap = pair.guide.encoder.kl().item()
    assert gap > 0.1
    elbo = ELBO(analytic_kl=analytic_kl)
    bound = elbo.terms(pair.model, pair.guide, x.expand(20_000, X_DIM)).bound.detach()
    assert abs(_standard_errors(bound, log_evidence(pair, x).item() - gap)) < 4


@pytest.mark.parametrize("build", [ppca, mixture_of_ppca])
def test_another_guide_s_weights_have_mean_p_of_x(build):
    """E w = p(x), which is what makes the estimate consistent: n = 20,000, 4 standard errors. The guide is
    wider than the posterior, so the weights have a variance."""
    pair = build(**OFF)
    x = torch.randn(1, X_DIM)
    log_p_given_c = log_evidence(pair, x)
    truth = log_p_given_c.logsumexp(0) - math.log(len(log_p_given_c))
    w = (log_importance_weights(pair.model, pair.guide, x, num_samples=20_000) - truth).exp().detach().squeeze(-1)
    assert w.std() > 0.1
    assert abs(_standard_errors(w, 1.0)) < 4


def test_another_guide_s_estimate_climbs_from_the_bound_to_log_p_of_x():
    """Means over n = 2,000 copies of a datum at 1, 2, 5 and 1,000 samples: the first is the bound, each is
    above the one before, none above log p(x), the last within 0.002 of it. All at 4 standard errors or more:
    6 of 100,000 seeds fail."""
    pair = ppca(**OFF)
    x = torch.randn(1, X_DIM)
    (truth,) = log_evidence(pair, x).detach()
    copies = x.expand(2000, X_DIM)
    means, errors = [], []
    for num_samples in (1, 2, 5, 1000):
        estimate = pair.log_prob(copies, num_samples=num_samples)
        means.append(estimate.mean().item())
        errors.append((estimate.std() / math.sqrt(len(copies))).item())
    bound = (truth - pair.guide.encoder.kl()).item()
    assert abs(means[0] - bound) < 4 * errors[0]
    assert all(low < high for low, high in zip(means[:-1], means[1:], strict=True)), means
    assert all(mean < truth.item() + 4 * error for mean, error in zip(means, errors, strict=True))
    assert errors[-1] < 5e-4
    assert abs(means[-1] - truth.item()) < 2e-3


def test_the_estimate_does_not_depend_on_how_it_is_chunked():
    """Many data, many samples: chunks of both, against one call, at 4 standard errors of their difference (n
    = 230)."""
    pair = ppca(**OFF)
    x = torch.randn(230, X_DIM)
    chunked = pair.log_prob(x, num_samples=400)
    log_w = log_importance_weights(pair.model, pair.guide, x, num_samples=400).detach()
    at_once = log_w.logsumexp(0) - math.log(400)
    assert chunked.shape == (230,)
    assert abs(_standard_errors(chunked - at_once, 0.0)) < 4
    assert (chunked - at_once).abs().max() < 0.5
