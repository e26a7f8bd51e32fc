"""Values and gradients of every density at parameters from 1e-8 to 1e8, and where functions saturate.

What is right is float64's, or that of 50 digits. A branch that ``where`` discards, a clamp, or a product that overflows
must leave no NaN and no missing gradient.
"""

import math
from collections.abc import Callable

import mpmath
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence
from torch.testing import assert_close

import pyro_priors as pp
from pyro_priors.experiments.lavda2019.reference import ReferenceGaussianHead
from pyro_priors.nn import (
    LIKELIHOODS,
    ContinuousBernoulli,
    DiscretisedLogistic,
    JointBernoulli,
    OptimalGaussianLikelihood,
    RelaxedCategorical,
    make_likelihood,
    positive,
)
from pyro_priors.objectives.categories import SomeCategories
from pyro_priors.objectives.info import squared_mmd
from pyro_priors.priors import FlowPrior, GaussianMixture
from pyro_priors.priors.flow import TRANSFORMS as FLOWS
from pyro_priors.priors.flow import FlowDistribution
from pyro_priors.priors.splines import rational_quadratic
from pyro_priors.priors.transforms import ScaleAndShift

SIZES = [1e-8, 1e-4, 0.0999, 0.1001, 1.0, 17.0, 90.0, 1e3, 1e6, 4e7, 1e8]
RAW = torch.tensor([0.0, *SIZES, *(-size for size in SIZES)])
PAIRS = torch.cartesian_prod(RAW, RAW)
LARGEST = 1e38
"""Near the largest number of float32: what exceeds it may be infinite."""


def assert_right(density: Callable[..., Tensor], *inputs: Tensor, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    """Value and gradients in float32 are those of float64 at the same inputs."""
    found = []
    for dtype in (torch.float32, torch.float64):
        given = [value.to(dtype).requires_grad_() for value in inputs]
        value = density(*given)
        found.append([value.detach(), *torch.autograd.grad(value.sum(), given)])
    for single, double in zip(*found, strict=True):
        counts = double.abs() < LARGEST
        assert double.isfinite().all()
        assert single[counts].isfinite().all()
        assert_close(single[counts].double(), double[counts], rtol=rtol, atol=atol)


@pytest.mark.parametrize("x", [0.0, 77 / 255, 1.0])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihoods(name, x):
    if name in ("bernoulli", "poisson", "negative_binomial") and 0 < x < 1:
        pytest.skip("no value of such a distribution")
    likelihood = make_likelihood(name, (1,))
    raw = PAIRS.unsqueeze(-1) if likelihood.num_outputs == 2 else RAW[:, None, None]  # (..., num_outputs, 1)
    assert_right(lambda raw: likelihood.to(raw.dtype)(raw).log_prob(torch.tensor([x]).to(raw)), raw)


@pytest.mark.parametrize("x", [0.0, 1e-6, 0.3, 1.0])
def test_continuous_bernoulli_and_its_mean_by_fifty_digits(x):
    """d log p / d logits = x - mean; NaN from logits of 4e7 on where the powers of a discarded series overflow."""
    logits = RAW.clone().requires_grad_()
    d, value = ContinuousBernoulli(logits), torch.tensor(x)
    log_p, mean = d.log_prob(value), d.mean
    (slope,) = torch.autograd.grad(log_p.sum(), logits)
    (variance,) = torch.autograd.grad(mean.sum(), logits)
    assert variance.isfinite().all()
    with mpmath.workdps(50):
        for i, eta in enumerate(map(mpmath.mpf, RAW.tolist())):
            right_mean = 1 / -mpmath.expm1(-eta) - 1 / eta if eta else mpmath.mpf(0.5)
            log_norm = mpmath.log(mpmath.expm1(eta) / eta) if eta else mpmath.mpf(0)
            right = mpmath.mpf(value.item()) * eta - log_norm
            assert log_p[i].item() == pytest.approx(float(right), rel=1e-6, abs=1e-6)
            assert mean[i].item() == pytest.approx(float(right_mean), rel=1e-5, abs=1e-6)
            assert slope[i].item() == pytest.approx(float(mpmath.mpf(value.item()) - right_mean), rel=1e-5, abs=3e-6)


def test_continuous_bernoulli_at_its_end_has_the_gradient_one_over_the_logit():
    """Where x is the end that the density rises to, d log p / d logits tends to 1 / logits."""
    logits = torch.tensor([4e7, -4e7, 1e8], requires_grad=True)
    log_p = ContinuousBernoulli(logits).log_prob(torch.tensor([1.0, 0.0, 1.0]))
    assert_close(log_p, logits.detach().abs().log(), rtol=1e-6, atol=0)
    (slope,) = torch.autograd.grad(log_p.sum(), logits)
    assert_close(slope, 1 / logits.detach(), rtol=1e-6, atol=0)


# many Bernoullis at once


def joint(logits: Tensor, x: Tensor) -> Tensor:
    return JointBernoulli(dist.Bernoulli(logits=logits, validate_args=False), 1).log_prob(x)


def derivatives(logits: Tensor, x: Tensor) -> list[Tensor]:
    """Value, first and second derivative."""
    logits = logits.clone().requires_grad_()
    value = joint(logits, x)
    (first,) = torch.autograd.grad(value.sum(), logits, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), logits)
    return [value.detach(), first.detach(), second]


@pytest.mark.parametrize("num", [784, 783, 1, 2, 113])
@pytest.mark.parametrize("size", [0.0, 1e-8, 1.0, 10.0, 17.0, 30.0, 80.0])
@pytest.mark.parametrize("x", [0.0, 1.0])
def test_many_bernoullis_keep_small_terms_in_value_and_derivatives(num, size, x):
    """Relative to each, in float32: 784 logits of 17 at x = 1 are -3.2457e-5 together, and not 0."""
    for sign in (1.0, -1.0):
        logits, given = torch.full((1, num), sign * size), torch.full((1, num), x)
        logit = logits[0, 0].double()
        wrong = (2 * x - 1) * logit  # what the log-probability is log sigmoid of
        value, first, second = derivatives(logits, given)
        right = -num * (torch.log1p(torch.exp(-wrong.abs())) + (-wrong).clamp(min=0))
        assert value.item() == pytest.approx(right.item(), rel=2e-6)
        slope = (2 * x - 1) * torch.sigmoid(-wrong)
        assert_close(first.double(), slope.expand(1, num), rtol=1e-6, atol=0)
        curvature = -torch.sigmoid(logit) * torch.sigmoid(-logit)
        assert_close(second.double(), curvature.expand(1, num), rtol=1e-5, atol=0)


def test_many_bernoullis_by_number():
    value, _, _ = derivatives(torch.full((784,), 17.0), torch.ones(784))
    assert value.item() == pytest.approx(-3.2457e-5, rel=1e-4)
    for zero in (0.0, -0.0):
        _, first, second = derivatives(torch.full((784,), zero), torch.ones(784))
        assert_close(first, torch.full((784,), 0.5))
        assert_close(second, torch.full((784,), -0.25))


def test_many_bernoullis_are_the_usual_sum_to_rounding():
    """Logits of all sizes together, as a decoder gives them: within a few roundings of float64."""
    logits = torch.randn(20, 784) * torch.logspace(-3, 2, 20)[:, None]
    x = (torch.rand(20, 784) < torch.sigmoid(logits)).float()
    exact = dist.Bernoulli(logits=logits.double()).to_event(1).log_prob(x.double())
    assert_close(joint(logits, x).double(), exact, rtol=5e-7, atol=0)


def test_many_bernoullis_under_vmap():
    logits, x = torch.tensor([[17.0, 0.0, -40.0], [1.0, 30.0, 0.0]]), torch.tensor([1.0, 0.0, 0.0])
    one = [derivatives(row, x) for row in logits]
    assert torch.equal(torch.func.vmap(joint, in_dims=(0, None))(logits, x), torch.stack([value for value, *_ in one]))
    first = torch.func.vmap(torch.func.grad(joint), in_dims=(0, None))(logits, x)
    assert torch.equal(first, torch.stack([slope for _, slope, _ in one]))
    hessian = torch.func.vmap(torch.func.jacrev(torch.func.grad(joint)), in_dims=(0, None))(logits, x)
    assert_close(hessian.diagonal(dim1=-2, dim2=-1), torch.stack([second for *_, second in one]), rtol=1e-6, atol=0)


def test_many_bernoullis_have_a_gradient_by_their_values(float64):
    """Which relaxed values need; x and logits broadcast."""
    logits, x = torch.randn(3, 5, 7, requires_grad=True), torch.rand(5, 7, requires_grad=True)
    assert torch.autograd.gradcheck(joint, (logits, x))
    assert torch.autograd.gradgradcheck(joint, (logits, x))


def test_many_bernoullis_in_machine_code():
    """A decoder that is sure and right of 784 pixels: what it costs, and the gradient of that."""
    pair = pp.create("vae", x_shape=(784,), z_dim=2, hidden=(5,))
    with torch.no_grad():
        pair.model.decoder.out.input.weight.zero_()
        pair.model.decoder.out.input.bias.fill_(17.0)
    loss = pp.compiled(pair)
    outputs = loss.outputs(torch.ones(3, 784), None, 1.0, backward=True)
    assert outputs["reconstruction"].item() == pytest.approx(-784 * math.log1p(math.exp(-17)), rel=1e-6)
    slope = torch.sigmoid(torch.tensor(-17.0, dtype=torch.float64)).item()
    assert_close(pair.model.decoder.out.input.bias.grad, torch.full((784,), -slope), rtol=1e-5, atol=0)


# Gaussians, mixtures and categories


@pytest.mark.parametrize("z", [0.0, 1.0, 1e4])
def test_gaussians_and_their_kl(z):
    loc, raw_scale = PAIRS.T
    assert_right(lambda loc, raw: dist.Normal(loc, positive(raw)).log_prob(torch.tensor(z).to(loc)), loc, raw_scale)

    def kl(loc: Tensor, raw: Tensor) -> Tensor:
        p, q = dist.Normal(torch.tensor(z).to(loc), torch.tensor(1.0).to(loc)), dist.Normal(loc, positive(raw))
        return torch.stack([kl_divergence(p, q), kl_divergence(q, p)])

    for which in range(2):
        assert_right(lambda loc, raw: kl(loc, raw)[which], loc, raw_scale)  # noqa: B023


def test_mixtures():
    """Components of every size of location and scale, weights up to certainty. Shares of components are as exact as the
    differences of their log-densities, of which those in the thousands have four decimals."""
    loc, raw_scale = PAIRS.T.unsqueeze(-1)  # (K, 1)
    z = RAW.unsqueeze(-1)

    def density(logits: Tensor, loc: Tensor, raw_scale: Tensor, z: Tensor) -> Tensor:
        return GaussianMixture(logits, loc, positive(raw_scale)).log_prob(z)

    for size in (1e-8, 1.0, 1e8):
        torch.manual_seed(0)
        assert_right(density, size * torch.randn(len(PAIRS)), loc, raw_scale, z, rtol=1e-3, atol=1e-3)
    loc, raw_scale, z = torch.cartesian_prod(RAW, RAW, RAW).T[..., None, None]  # one component each, far from z
    assert_right(density, torch.zeros(len(z), 1), loc, raw_scale, z.squeeze(-1))


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_relaxed_categories(temperature):
    for size in (0.0, *SIZES):
        torch.manual_seed(0)
        logits, log_weights = size * torch.randn(20, 5), (size * torch.randn(20, 5)).log_softmax(-1)
        assert_right(
            lambda logits, c: RelaxedCategorical(torch.tensor(temperature).to(logits), logits=logits).log_prob(c),
            logits,
            log_weights,
        )


def test_categories_that_are_summed_in_part():
    for size in (0.0, *SIZES):
        torch.manual_seed(0)
        logits, prior = size * torch.randn(20, 5), torch.randn(5).double()
        top = logits.topk(2, -1).indices
        rest = torch.ones_like(logits).scatter(-1, top, 0.0).argmax(-1, keepdim=True)
        value = torch.cat([top, rest], -1).movedim(-1, 0)
        assert_right(lambda logits: SomeCategories(logits, 2).log_weight(value), logits)  # noqa: B023

        def kl(logits: Tensor) -> Tensor:
            q = SomeCategories(logits, 2)
            return (q.probs * (q.logits - prior.to(logits))).sum(-1)  # noqa: B023

        assert_right(kl, logits)


@pytest.mark.parametrize("size", SIZES)
def test_the_optimal_scale(size):
    """In training the scale is found from the values; a batch that is met all but exactly has a gradient too."""
    torch.manual_seed(0)
    loc, x = size * torch.randn(4, 3), torch.zeros(4, 3)
    assert_right(lambda loc: OptimalGaussianLikelihood(1).to(loc.dtype)(loc.unsqueeze(-2)).log_prob(x.to(loc)), loc)


def test_heads_of_the_reference_implementation():
    h, c = PAIRS, torch.zeros(len(PAIRS), dtype=torch.int64)
    head = ReferenceGaussianHead(2, 1, 1)

    def density(h: Tensor) -> Tensor:
        return head.to(h.dtype)(h, c).log_prob(torch.zeros(1).to(h))

    assert_right(density, h, atol=1e-2)  # an affine map of numbers of all sizes loses the digits of the smaller


def test_discrepancies():
    for size in SIZES:
        torch.manual_seed(0)
        z, y = size * torch.randn(6, 2), torch.randn(6, 2)
        for kernel in ("gaussian", "inverse_multiquadratic"):
            assert_right(lambda z, y: squared_mmd(z, y, kernel=kernel), z, y)  # noqa: B023


# flows


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("size", [1e-8, 1.0, 10.0, 1e3, 1e5, 1e8])
def test_splines(size, inverse):
    """200,000 values and gradients in float32, and 99.9% of the slopes as float64 has them: the rest lie at knots."""
    torch.manual_seed(0)
    num = 200_000
    inputs = [10 * torch.rand(num) - 5, *(size * torch.randn(num, k) for k in (8, 8, 7))]
    found = []
    for dtype in (torch.float32, torch.float64):
        given = [value.to(dtype).requires_grad_() for value in inputs]
        y, log_slope = rational_quadratic(*given, 5.0, inverse=inverse)
        gradients = torch.autograd.grad((y + log_slope).sum(), given)
        assert all(value.isfinite().all() for value in (y, log_slope, *gradients))
        found.append((y.detach(), log_slope.detach(), gradients[0]))
    for single, double in zip(*found, strict=True):
        error = (single.double() - double).abs() / (1 + double.abs())
        assert error.quantile(0.999) < 3e-3


@pytest.mark.parametrize("size", [1e-8, 1.0, 10.0, 1e3, 1e5])
def test_the_inverse_spline_has_the_gradients_of_the_implicit_function(float64, size):
    """With v = f(y, p): dy/dv = 1/f', dy/dp = -(df/dp)/f', and the logarithm of the slope is minus f's."""
    torch.manual_seed(0)
    parameters = [(size * torch.randn(2000, k)).requires_grad_() for k in (8, 8, 7)]
    v = (10 * torch.rand(2000) - 5).requires_grad_()
    y, log_slope = rational_quadratic(v, *parameters, 5.0, inverse=True)
    found = torch.autograd.grad(y.sum(), [v, *parameters])
    at = y.detach().requires_grad_()
    again, forward_log_slope = rational_quadratic(at, *parameters, 5.0)
    by_y, *by_parameters = torch.autograd.grad(again.sum(), [at, *parameters])
    slope = by_y.detach()
    assert_close(again, v, rtol=0, atol=1e-7)
    smooth = (log_slope + forward_log_slope).abs() < 1e-6  # elsewhere y lies at a knot, to rounding
    assert smooth.double().mean() > 0.99
    assert_close(found[0][smooth], 1 / slope[smooth], rtol=1e-5, atol=1e-8)
    for one, other in zip(found[1:], by_parameters, strict=True):
        assert_close(one[smooth], (-other / slope[:, None])[smooth], rtol=1e-4, atol=1e-6)


def test_the_inverse_spline_has_every_derivative(float64):
    """At raw parameters 0 too, where the spline is the identity: in the middle of a bin its two formulas meet."""
    torch.manual_seed(0)
    for parameters in ([torch.zeros(9, k) for k in (8, 8, 7)], [torch.randn(9, k) for k in (8, 8, 7)]):
        for value in parameters:
            value.requires_grad_()
        v = torch.linspace(-4.9, 4.8, 9)
        v[4] = 0.625  # the middle of a bin of the identity

        def both(v, *parameters):
            return torch.stack(rational_quadratic(v, *parameters, 5.0, inverse=True))

        assert torch.autograd.gradcheck(both, (v.requires_grad_(), *parameters))
        assert torch.autograd.gradgradcheck(both, (v, *parameters))


def test_scales_and_shifts():
    """The log-determinant is the log-scale itself, where its exponential is infinite or 0 too."""
    log_scale, loc = PAIRS.T

    def density(log_scale: Tensor, loc: Tensor) -> Tensor:
        base = dist.Normal(torch.zeros(1).to(loc), torch.ones(1).to(loc)).to_event(1)
        z = loc.detach().unsqueeze(-1)  # where the base is 0, so that no square overflows
        transform = [ScaleAndShift(log_scale.unsqueeze(-1), z)]
        return torch.stack([FlowDistribution(base, transform).log_prob(z)])

    positive_scales = log_scale > -80  # below, 1 / scale is infinite
    assert_right(density_without_unused(density), log_scale[positive_scales], loc[positive_scales])


def density_without_unused(density: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same with a gradient, of 0, by each input."""
    return lambda *inputs: density(*inputs) + sum(0.0 * value.sum() for value in inputs)


def _is_of_last_layer(name: str) -> bool:
    return any(part in name for part in ("log_scale.4", "loc.4", "parameters_of_splines.4", "made.layers.2"))


@pytest.mark.parametrize("size", [1e-8, 1e-2, 1.0, 1e2, 1e4, 1e8])
@pytest.mark.parametrize("flow", FLOWS)
def test_flows_have_finite_gradients(flow, size):
    """Raw outputs of the networks, and codes, of each size; the density of the flow's own draws too."""
    torch.manual_seed(0)
    prior = FlowPrior(4, flow, 1, (8, 8), actnorm=True)  # several would multiply the sizes
    with torch.no_grad():
        for name, parameter in prior.networks.named_parameters():
            parameter.normal_(0, size if _is_of_last_layer(name) else 0.3)
    for z in (torch.randn(50, 4), size * torch.randn(50, 4), prior().sample((50,))):
        z = z.clamp(-1e8, 1e8).requires_grad_()
        log_p = prior().log_prob(z)
        gradients = torch.autograd.grad(log_p.sum(), [z, *prior.parameters()])
        assert log_p.isfinite().all() and all(value.isfinite().all() for value in gradients)
    drawn = prior().rsample((50,))
    gradients = torch.autograd.grad(prior().log_prob(drawn).sum(), list(prior.parameters()))
    assert drawn.isfinite().all() and all(value.isfinite().all() for value in gradients)


@pytest.mark.parametrize("scale", [1e-3, 0.5, 1.0, 1e2, 1e4, 1e8])
@pytest.mark.parametrize("loc", [-1e3, 0.0, 0.5, 0.9, 1e3])
def test_the_mean_of_a_clipped_logistic(loc, scale):
    """Against the integral of P(x > u) over [0, 1], in float64 by Gauss and Legendre."""
    nodes, weights = np.polynomial.legendre.leggauss(2000)
    u = torch.tensor((nodes + 1) / 2)
    expected = (torch.tensor(weights / 2) * torch.sigmoid((loc - u) / scale)).sum()
    found = DiscretisedLogistic(torch.tensor(loc), torch.tensor(scale)).mean
    assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)
