"""Networks and likelihoods: densities that sum to one, samplers that agree with them, layers that equal their
formulae."""

import math

import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.testing import assert_close

import pyro_priors as pp
from by_hand import formulae, hvae
from pyro_priors import likelihoods
from pyro_priors.nn import (
    LIKELIHOODS,
    MLP,
    BernoulliLikelihood,
    BranchedMLP,
    CategoricalHead,
    ContinuousBernoulli,
    Decoder,
    DiscretisedLogistic,
    Encoder,
    GaussianHead,
    GaussianLikelihood,
    JoinedLinear,
    JointBernoulli,
    make_likelihood,
    positive,
)

LEVELS = torch.arange(256) / 255
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])

# densities


def _total(loc, scale, dtype):
    levels = torch.arange(256, dtype=dtype) / 255
    d = DiscretisedLogistic(torch.tensor(loc, dtype=dtype), torch.tensor(scale, dtype=dtype))
    return d.log_prob(levels).exp().sum().item()


@DTYPES
@settings(deadline=None, max_examples=60, derandomize=True)
@given(loc=st.floats(0, 1), log_scale=st.floats(math.log(1e-2), math.log(1e2)))
@example(loc=0.0, log_scale=math.log(1e-2))
@example(loc=1.0, log_scale=math.log(1e-2))
@example(loc=0.5, log_scale=math.log(1e-2))
@example(loc=0.0, log_scale=math.log(1e2))
@example(loc=1.0, log_scale=math.log(1e2))
def test_discretised_logistic_sums_to_one(dtype, loc, log_scale):
    """The 256 levels exhaust the mass, at the smallest scale a decoder can give (1e-2) and at locations on
    the rim."""
    assert _total(loc, math.exp(log_scale), dtype) == pytest.approx(1, abs=1e-11 if dtype is torch.float64 else 3e-5)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(loc=st.floats(0, 1), log_scale=st.floats(math.log(1e-2), math.log(1e2)), k=st.integers(0, 255))
def test_discretised_logistic_is_the_difference_of_the_cdf(loc, log_scale, k):
    """Against the formula of the docstring, where that one still has digits: at least 1e-6 of mass."""
    scale = math.exp(log_scale)

    def cdf(level):
        return 0.0 if level < 0 else 1.0 if level >= 255 else stats.logistic.cdf((level + 0.5) / 255, loc, scale)

    expected = cdf(k) - cdf(k - 1)
    d = DiscretisedLogistic(torch.tensor(loc, dtype=torch.float64), torch.tensor(scale, dtype=torch.float64))
    if expected > 1e-6:
        assert d.log_prob(torch.tensor(k / 255, dtype=torch.float64)).exp().item() == pytest.approx(expected, rel=1e-8)


def test_discretised_logistic_in_the_tail_keeps_its_digits():
    """100 scales from the location the mass is about e^-100: the difference of cdfs is 0 there in float32,
    this is not."""
    d = DiscretisedLogistic(torch.tensor(1.0), torch.tensor(1e-2))
    exact = -100 + 0.5 / 255 / 1e-2  # log sigma(upper) at level 0, the lower tail
    assert d.log_prob(torch.tensor(0.0)).item() == pytest.approx(exact, rel=1e-5)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(loc=st.floats(0, 1), log_scale=st.floats(math.log(1e-2), math.log(1e2)))
@example(loc=0.0, log_scale=math.log(1e-2))
def test_discretised_logistic_has_the_mean_of_its_levels(loc, log_scale):
    """What is shown of a decoder, and not the location, which the clipped tails pull away from."""
    d = DiscretisedLogistic(torch.tensor(loc, dtype=torch.float64), torch.tensor(log_scale, dtype=torch.float64).exp())
    levels = torch.arange(256, dtype=torch.float64) / 255
    assert d.mean.item() == pytest.approx((levels * d.log_prob(levels).exp()).sum().item(), abs=2e-5)


@pytest.mark.parametrize(("loc", "scale"), [(0.0, 0.01), (0.3, 0.02), (0.5, 0.3), (1.0, 0.05), (0.9, 5.0)])
def test_discretised_logistic_draws_what_log_prob_says(loc, scale):
    """Chi-square over levels joined to at least 5 expected draws, n = 20,000; fails at 1 of 10,000 seeds."""
    d = DiscretisedLogistic(torch.tensor(loc), torch.tensor(scale))
    draws = d.sample((20_000,))
    level = (draws * 255).round().long()
    assert_close(draws, LEVELS[level])  # only levels
    _assert_frequencies(torch.bincount(level, minlength=256), d.log_prob(LEVELS).exp() * 20_000)


def _assert_frequencies(observed, expected):
    """Chi-square with bins joined from the left until each expects 5."""
    joined, seen, wanted = [], 0.0, 0.0
    for count, expectation in zip(observed.tolist(), expected.tolist(), strict=True):
        seen, wanted = seen + count, wanted + expectation
        if wanted >= 5:
            joined.append([seen, wanted])
            seen = wanted = 0.0
    joined[-1][0] += seen
    joined[-1][1] += wanted
    counts, expectations = zip(*joined, strict=True)
    total = sum(counts) / sum(expectations)
    assert total == pytest.approx(1, abs=1e-3)
    if len(counts) > 1:
        assert stats.chisquare(counts, [total * value for value in expectations]).pvalue > 1e-4


LOGITS = [0.0, 1e-6, 1e-3, 0.0999, 0.1001, 1.0, 5.0, 14.0, 20.0, 40.0, 100.0]


@DTYPES
@pytest.mark.parametrize("logits", LOGITS + [-value for value in LOGITS[1:]])
def test_continuous_bernoulli_integrates_to_one_and_has_its_mean(dtype, logits):
    """Simpson's rule on 20,001 points. torch's own integrates to 0.16 at logits 100 in float32, with mean
    0.937."""
    d = ContinuousBernoulli(torch.tensor(logits, dtype=dtype))
    x = torch.linspace(0, 1, 20_001, dtype=dtype)
    density = d.log_prob(x).double().exp()
    weights = torch.full_like(density, 4 / 3).scatter_(0, torch.arange(0, 20_001, 2), 2 / 3)
    weights[0] = weights[-1] = 1 / 3
    weights /= 20_000
    tolerance = 1e-9 if dtype is torch.float64 else 2e-5
    assert (weights * density).sum().item() == pytest.approx(1, abs=tolerance)
    assert d.mean.item() == pytest.approx((weights * density * x).sum().item(), abs=tolerance)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(logits=st.floats(-15, 15), x=st.floats(0, 1))
def test_continuous_bernoulli_is_torchs_where_that_one_is_right(logits, x):
    """float64; near 0 torch's series ends after the fourth power and differs by up to 1e-8."""
    eta = torch.tensor(logits, dtype=torch.float64)
    ours, theirs = ContinuousBernoulli(eta), dist.ContinuousBernoulli(logits=eta)
    value = torch.tensor(x, dtype=torch.float64)
    assert_close(ours.log_prob(value), theirs.log_prob(value), rtol=0, atol=1e-7)
    assert_close(ours.mean, theirs.mean, rtol=0, atol=1e-7)


def test_continuous_bernoulli_has_the_exponential_family_s_gradient():
    """d log p / d logits = x - mean, on both sides of where the series end, and at 0."""
    for logits in (0.0, 0.0999, 0.1001, -0.0999, -0.1001, 3.0, -50.0):
        eta = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
        d = ContinuousBernoulli(eta)
        (gradient,) = torch.autograd.grad(d.log_prob(torch.tensor(0.3, dtype=torch.float64)), eta)
        assert gradient.item() == pytest.approx(0.3 - d.mean.item(), abs=1e-10)


@pytest.mark.parametrize("logits", [0.0, 0.05, -3.0, 3.0, 30.0, -30.0])
def test_continuous_bernoulli_draws_what_log_prob_says(logits):
    """Kolmogorov-Smirnov against the integrated density, n = 5,000; fails at 1 of 10,000 seeds."""
    draws = ContinuousBernoulli(torch.tensor(logits)).sample((5000,)).double().numpy()

    def cdf(x):
        return x if logits == 0 else (math.e ** (logits * x) - 1) / math.expm1(logits)

    assert stats.kstest(draws, cdf).pvalue > 1e-4


def test_gaussian_integrates_to_one():
    """Trapezoid over 12 scales to each side, for the fixed and the learned scale (which starts at 1)."""
    for scale in (None, 0.1, 2.0):
        likelihood = GaussianLikelihood(1, scale)
        d = likelihood(torch.tensor([[0.7]]))
        width = 1.0 if scale is None else scale
        assert d.base_dist.scale.item() == pytest.approx(width, abs=2e-4)
        x = torch.linspace(0.7 - 12 * width, 0.7 + 12 * width, 4001)
        assert torch.trapezoid(d.log_prob(x.unsqueeze(-1)).exp(), x).item() == pytest.approx(1, abs=1e-5)


def test_bernoulli_sums_to_one():
    likelihood = BernoulliLikelihood(1)
    d = likelihood(torch.randn(1, 3))
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    assert d.log_prob(corners).exp().sum().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("size", [0.0, 1.0, 10.0, 100.0, 1e4])
@pytest.mark.parametrize("shape", [(784,), (1,), (113,), (127,), (28, 28), (240,)], ids=str)
def test_many_bernoullis_at_once_are_as_exact_as_the_usual_sum(shape, size):
    """In float32 beside float64's usual sum; saturated logits do not overflow the products."""
    logits = torch.randn(3, 5, *shape) * size
    x = (torch.rand(5, *shape) < 0.5).float()
    num = len(shape)
    joint, usual = JointBernoulli(dist.Bernoulli(logits=logits), num), dist.Bernoulli(logits=logits).to_event(num)
    exact = dist.Bernoulli(logits=logits.double()).to_event(num).log_prob(x.double())
    error, usual_error = ((d.log_prob(x) - exact).abs().max() for d in (joint, usual))
    assert joint.batch_shape == usual.batch_shape and joint.event_shape == usual.event_shape
    # as far off as the usual sum of as many terms of that size, give or take the order of summing
    assert error <= max(3 * usual_error, 1e-6 * exact.abs().max(), 1e-7 * math.prod(shape))


@pytest.mark.parametrize(("num", "size"), [(784, 5.0), (784, 20.0), (12288, 20.0), (2, 3e38)])
def test_many_bernoullis_at_once_are_exact_where_the_decoder_is_sure_and_right(num, size):
    """No probability above 1: large terms that cancel are not summed apart."""
    x = (torch.rand(200, num) < 0.5).float()
    logits = (2 * x - 1) * size * (0.5 + 0.5 * torch.rand(200, num))
    joint, usual = JointBernoulli(dist.Bernoulli(logits=logits), 1), dist.Bernoulli(logits=logits).to_event(1)
    exact = dist.Bernoulli(logits=logits.double()).to_event(1).log_prob(x.double())
    found = joint.log_prob(x)
    assert (found <= 0).all()
    assert (found - exact).abs().max() <= 3 * (usual.log_prob(x) - exact).abs().max() + 1e-7 * num


@pytest.mark.parametrize("shape", [(784,), (6,), (2, 3)], ids=str)
def test_many_bernoullis_at_once_have_every_derivative(float64, shape):
    """Value, gradient, the gradient's gradient, Jacobians and vmap, to rounding error."""
    logits = (3 * torch.randn(2, *shape)).requires_grad_()
    x = (torch.rand(2, *shape) < 0.5).double()
    num = len(shape)

    def joint(logits):
        return JointBernoulli(dist.Bernoulli(logits=logits, validate_args=False), num).log_prob(x)

    def usual(logits):
        return dist.Bernoulli(logits=logits, validate_args=False).to_event(num).log_prob(x)

    assert_close(joint(logits), usual(logits), rtol=1e-12, atol=1e-12)
    first, expected = (torch.autograd.grad(f(logits).sum(), logits, create_graph=True)[0] for f in (joint, usual))
    assert_close(first, expected, rtol=1e-12, atol=1e-14)
    second, expected = (torch.autograd.grad(g.square().sum(), logits)[0] for g in (first, expected))
    assert_close(second, expected, rtol=1e-10, atol=1e-13)
    assert_close(torch.func.jacrev(joint)(logits), torch.func.jacrev(usual)(logits), rtol=1e-12, atol=1e-14)
    stacked = torch.stack([logits, 2 * logits])
    assert_close(torch.func.vmap(joint)(stacked), torch.stack([usual(one) for one in stacked]))


def test_many_bernoullis_at_once_expand_validate_and_take_half_precision():
    d = JointBernoulli(dist.Bernoulli(logits=torch.randn(1, 784)), 1)
    expanded = d.expand([4, 3])
    assert type(expanded) is JointBernoulli and expanded.batch_shape == (4, 3)
    x = d.sample()
    assert_close(expanded.log_prob(x), d.log_prob(x).expand(4, 3))
    with pytest.raises(ValueError, match="support|x must be 0 or 1"):
        d.log_prob(torch.full((1, 784), 0.5))
    logits, x = torch.randn(5, 784).bfloat16(), (torch.rand(5, 784) < 0.5).bfloat16()
    half = JointBernoulli(dist.Bernoulli(logits=logits), 1).log_prob(x)
    assert_close(half, JointBernoulli(dist.Bernoulli(logits=logits.float()), 1).log_prob(x.float()), rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        usual = dist.Bernoulli(logits=logits).to_event(1).log_prob(x.float())
    assert half.dtype is usual.dtype is torch.float32
    assert_close(half, usual)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_means_are_the_samplers(name):
    """The mean of n = 20,000 draws is the distribution's mean at 4 standard errors, for 24 values: fails at
    15 of 10,000 seeds."""
    likelihood = make_likelihood(name, (4, 6))
    raw = 1.5 * torch.randn(likelihood.num_outputs, 4, 6)
    d = likelihood(raw)
    draws = d.sample((20_000,))
    assert draws.shape == (20_000, 4, 6)
    error = draws.std(0) / math.sqrt(20_000)
    assert ((draws.mean(0) - d.mean).abs() < 4 * error + 2e-5).all()


@pytest.mark.parametrize("name", LIKELIHOODS)
@pytest.mark.parametrize("size", [0.0, 1e-30, 20.0, 1e4])
def test_extreme_outputs_of_a_decoder_give_finite_densities_and_gradients(name, size):
    """Values at both rims of the support, decoder outputs of both signs up to 1e4, float32."""
    likelihood = make_likelihood(name, (1,))
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 2).T  # (2, 4)
    raw = (size * signs[: likelihood.num_outputs]).requires_grad_()
    for value in (torch.zeros(4), torch.ones(4)):
        log_prob = likelihood(raw).log_prob(value)
        (gradient,) = torch.autograd.grad(log_prob, raw)
        assert log_prob.isfinite().all() and gradient.isfinite().all()


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihoods_have_the_shapes_that_they_name(name):
    """Left dimensions are batch, and ``expand``, which a plate calls, keeps the numbers."""
    likelihood = make_likelihood(name, (2, 3))
    d = likelihood(torch.randn(7, 1, likelihood.num_outputs, 2, 3))
    assert (d.batch_shape, d.event_shape) == ((7, 1), (2, 3))
    wide = d.expand((7, 5))
    value = torch.ones(5, 2, 3)
    assert wide.batch_shape == (7, 5) and wide.sample().shape == (7, 5, 2, 3)
    assert_close(wide.log_prob(value), d.log_prob(value))


@pytest.mark.parametrize("name", ["bernoulli", "continuous_bernoulli", "discretised_logistic"])
def test_values_outside_the_support_are_refused(name):
    """Grey data in a Bernoulli, or numbers outside [0, 1], are the most frequent silent mistakes of this
    trade."""
    likelihood = make_likelihood(name, (1,))
    d = likelihood(torch.zeros(likelihood.num_outputs, 3))
    bad = torch.full((3,), 0.5 if name == "bernoulli" else 1.5)
    with pytest.raises(ValueError, match="support|x must be 0 or 1"):
        d.log_prob(bad)


def test_errors_of_likelihoods_name_the_remedy():
    with pytest.raises(ValueError, match="likelihood 'bernouli' is unknown: did you mean 'bernoulli'"):
        make_likelihood("bernouli", (1,))
    with pytest.raises(ValueError, match="likelihood 'xyz' is unknown: choose one of bernoulli, "):
        make_likelihood("xyz", (1,))
    with pytest.raises(ValueError, match=r"init_scale=0\.1 is for a learned scale, and scale is 0\.2: give only"):
        likelihoods.Gaussian(0.2, init_scale=0.1)
    with pytest.raises(ValueError, match=r"scale must be positive, got 0\.0: give scale=0\.1"):
        likelihoods.Gaussian(0.0)
    with pytest.raises(ValueError, match="scale must be a positive number or one of learned, optimal, per_ch"):
        likelihoods.Gaussian("best")
    with pytest.raises(ValueError, match="init_scale must be a finite number or None, got nan"):
        likelihoods.Gaussian(init_scale=math.nan)
    with pytest.raises(ValueError, match=r"scale='per_channel' needs images, .*, got \(4,\): load them with"):
        likelihoods.Gaussian("per_channel").build((4,))
    for start in (0.0, -1.0, 1e4):
        with pytest.raises(ValueError, match=f"init_scale must be from 0.001 to 100, got {start:g}: give about"):
            make_likelihood(likelihoods.Gaussian(init_scale=start), (1,))


COUNTS = torch.tensor([0.0, 1.0, 2.0, 7.0, 300.0])


def test_counts_have_the_probabilities_of_scipy(float64):
    """Poisson by its rate, negative binomial by its mean and inverse dispersion: softplus of the outputs."""
    raw, mean = torch.linspace(-3, 40, 5), F.softplus(torch.linspace(-3, 40, 5)) + 1e-4
    found = make_likelihood("poisson", (5,))(raw[None]).log_prob(COUNTS.double())
    assert_close(found.item(), stats.poisson.logpmf(COUNTS, mean).sum(), rtol=1e-12, atol=0)
    likelihood = make_likelihood("negative_binomial", (5,)).double()
    with torch.no_grad():
        likelihood.raw_inverse_dispersion.copy_(torch.linspace(-2, 5, 5))
    r = F.softplus(torch.linspace(-2, 5, 5)) + 1e-4
    d = likelihood(raw[None])
    assert_close(
        d.log_prob(COUNTS.double()).item(), stats.nbinom.logpmf(COUNTS, r, r / (r + mean)).sum(), rtol=1e-9, atol=0
    )
    assert_close(d.mean, mean)
    assert_close(d.variance, mean + mean.square() / r)


@pytest.mark.parametrize("name", ["poisson", "negative_binomial"])
@pytest.mark.parametrize("wrong", [-1.0, 0.5, math.nan])
def test_what_is_no_count_is_named(name, wrong):
    x = torch.tensor([0.0, wrong, 3.0])
    with pytest.raises(ValueError, match=rf"x must be counts 0, 1, 2, \.\.\. for likelihood='{name}', got {wrong:g}"):
        make_likelihood(name, (3,)).check(x)
    make_likelihood(name, (3,)).check(torch.tensor([0.0, 2.0, 1e6]))


@pytest.mark.parametrize("name", ["poisson", "negative_binomial"])
def test_pairs_of_counts_train(name):
    x = torch.poisson(torch.rand(60, 6) * 5)
    data = pp.data.from_arrays(x, likelihood=name)
    pair = pp.create("vae", x_shape=(6,), z_dim=2, hidden=(8,), likelihood=name, prior="vamp", num_components=4)
    assert pair.model.prior.x_range == (0.0, math.inf)
    history = pp.fit(pair, data, max_epochs=5, batch_size=20, learning_rate=1e-2, progress=False)
    assert history.epochs[-1]["valid_bound"] > history.epochs[0]["valid_bound"]
    found = pp.metrics.evaluate(pair, data, metrics=("bound", "log_likelihood"), num_samples=50, progress=False)
    assert found["bits_per_dim"].unit == "bits per dimension, of counts"
    assert torch.equal(pair.sample(5)["x"], pair.sample(5)["x"].round()) or pair.sample(5)["x"].min() >= 0
    with pytest.raises(ValueError, match="does not fit the pair: x must be counts"):
        pp.fit(pair, pp.data.from_arrays(x + 0.5), max_epochs=1, progress=False)


@pytest.mark.parametrize("start", [1e-3, 0.1, 1.0, 100.0])
def test_a_learned_scale_starts_where_it_is_said(start):
    pair = pp.create("cvae", x_shape=(2,), condition_shape=(3,), z_dim=2, likelihood="gaussian", init_scale=start)
    by_channel = likelihoods.Gaussian("per_channel", start).build((3, 4, 4))
    scale = pair.model.decoder(torch.zeros(1, 2), condition=torch.zeros(1, 3)).base_dist.scale
    assert_close(scale, torch.full_like(scale, start), rtol=1e-5, atol=0)
    assert_close(positive(by_channel.raw_scale), torch.full((3, 1, 1), start), rtol=1e-5, atol=0)
    assert pair.model.decoder.likelihood.raw_scale.requires_grad


# layers


@settings(deadline=None, max_examples=30, derandomize=True)
@given(raw=st.floats(-1e30, 1e30))
def test_positive_is_above_its_floor(raw):
    value = positive(torch.tensor(raw), floor=1e-3).item()
    assert value >= 1e-3 * (1 - 1e-6) and math.isfinite(value)


@pytest.mark.parametrize("num_categories", [0, 3])
@pytest.mark.parametrize("condition_dim", [0, 2])
def test_joined_linear_is_the_affine_map_of_the_concatenation(float64, condition_dim, num_categories):
    layer = JoinedLinear(5, 4, condition_dim, num_categories)
    x, condition, c = torch.randn(6, 5), torch.randn(6, 2), torch.tensor([0, 1, 2, 2, 1, 0])
    inputs, weights = [x], [layer.input.weight]
    if condition_dim:
        inputs, weights = [*inputs, condition], [*weights, layer.condition.weight]
    if num_categories:
        one_hot = torch.nn.functional.one_hot(c, 3).to(x.dtype)
        inputs, weights = [*inputs, one_hot], [*weights, layer.category.weight.T]
    expected = torch.cat(inputs, -1) @ torch.cat(weights, -1).T + layer.input.bias
    assert_close(layer(x, condition, c), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("num_blocks", [1, 2])
def test_joined_linear_starts_as_glorot_of_the_concatenation(num_blocks):
    """Uniform within sqrt(6 / (fan_in + fan_out)), fan_in of all inputs, fan_out of one block: some 20,000
    draws reach 0.999 of the bound (fails at e^-20), and their variance is a third of its square at 5 standard
    errors."""
    layer = JoinedLinear(50, 200 * num_blocks, 20, 30, num_blocks)
    bound = math.sqrt(6 / (100 + 200))
    weights = torch.cat(
        [p.detach().flatten() for p in (layer.input.weight, layer.condition.weight, layer.category.weight)]
    )
    assert 0.999 * bound < weights.abs().max() <= bound
    assert weights.square().mean().item() == pytest.approx(bound**2 / 3, rel=5 * math.sqrt(0.8 / len(weights)))
    assert not layer.input.bias.any()


@pytest.mark.parametrize("gated", [True, False])
def test_mlp_equals_its_formula(float64, gated):
    net = MLP(5, (4, 3), gated, condition_dim=2, num_categories=3)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter)
    x, condition, c = torch.randn(6, 5), torch.randn(6, 2), torch.tensor([0, 1, 2, 2, 1, 0])
    joined = condition @ net.first.condition.weight.T + net.first.category.weight[c]
    if gated:
        expected = formulae.perceptron(
            {f"net.{key}": value for key, value in net.state_dict().items()}, "net", x, joined
        )
    else:
        first, second = net.first.input, net.rest[0].input
        h = (x @ first.weight.T + first.bias + joined).clamp(min=0)
        expected = (h @ second.weight.T + second.bias).clamp(min=0)
    assert net.out_dim == expected.shape[-1] == 3
    assert_close(net(x, condition, c), expected, rtol=1e-12, atol=1e-12)


def test_branched_mlp_equals_its_formula(float64):
    """A gated layer of each input and one of both, joined as in a concatenation; x of a batch meets many draws of the
    condition for each; one hidden size or several."""
    for hidden in ((7,), (7, 4), (7, 4, 3)):
        network = BranchedMLP(6, 2, hidden)
        x, condition = torch.randn(5, 6), torch.randn(3, 5, 2)
        out = network(x, condition)
        assert out.shape == (3, 5, hidden[-1])
        assert_close(out[1, 2], network(x[2], condition[1, 2]))
        assert not torch.allclose(out[0], out[1])
    network = BranchedMLP(6, 2, (7, 4))
    state = {f"n.{name}": value for name, value in network.state_dict().items()}
    assert_close(network(x, condition), hvae.branched(state, "n", x, condition))
    weight = torch.cat([network.joined.first.input.weight, network.joined.first.condition.weight], -1)
    both = torch.cat([network.input(x).expand(3, 5, 7), network.condition(condition)], -1)
    joined = both @ weight.T + network.joined.first.input.bias
    assert_close(network(x, condition), torch.nn.functional.glu(joined, -1))


def test_mlp_needs_a_layer():
    with pytest.raises(
        ValueError, match=r"hidden must name at least one layer size, got \(\): give hidden=\(300, 300\)"
    ):
        MLP(5, ())


def test_an_enumerated_category_broadcasts_through_decoder_and_head(float64):
    """c of shape (K, 1) against a batch, also under a dimension of particles: each slice is the network at
    that c."""
    decoder = Decoder(2, (2, 3), make_likelihood("discretised_logistic", (1, 1)), (5, 4), num_categories=3)
    head = GaussianHead(5, 2, num_categories=3)
    z, h = torch.randn(3, 7, 4, 2), torch.randn(4, 5)
    c = torch.arange(3).reshape(3, 1, 1)
    x, q = decoder(z, c=c), head(h, c)
    assert (x.batch_shape, x.event_shape) == ((3, 7, 4), (2, 3))
    assert (q.batch_shape, q.event_shape) == ((3, 1, 4), (2,))
    for k in range(3):
        given_k = torch.full((7, 4), k)
        assert_close(x.mean[k], decoder(z[k], c=given_k).mean)
        assert_close(q.mean[k, 0], head(h, given_k[0]).mean)


@pytest.mark.parametrize("condition_shape", [None, (4,), (2, 2)])
def test_networks_take_data_and_conditions_of_any_shape_and_left_dimensions(condition_shape):
    """Images flatten in row order, so a network of images equals the one of vectors with the same weights."""
    encoder = Encoder((2, 3), 2, (5,), condition_shape=condition_shape)
    flat = Encoder((6,), 2, (5,), condition_shape=condition_shape and (math.prod(condition_shape),))
    flat.load_state_dict(encoder.state_dict())
    x = torch.randn(7, 4, 2, 3)
    condition = torch.randn(7, 4, *condition_shape) if condition_shape else None
    q = encoder(x, condition)
    assert (q.batch_shape, q.event_shape) == ((7, 4), (2,))
    flat_condition = condition.reshape(7, 4, -1) if condition_shape else None
    assert_close(q.mean, flat(x.reshape(7, 4, 6), flat_condition).mean)
    assert (q.stddev > 0).all()


def test_categorical_head_is_a_softmax_of_an_affine_map(float64):
    head = CategoricalHead(5, 3)
    h = torch.randn(4, 5)
    logits = h @ head.logits.input.weight.T + head.logits.input.bias
    assert_close(head(h).probs, logits.exp() / logits.exp().sum(-1, keepdim=True))


@pytest.mark.parametrize("count", [3.0, 1e4, 1e5, 1e6, 1e7])
def test_large_counts_keep_their_digits(count):
    """float32 against float64, and float64 against the form in deviances (Loader 2000), which does not cancel."""
    from pyro_priors.nn.distributions import NegativeBinomial, Poisson

    x, rate = torch.tensor(count), torch.tensor(count * 1.001)
    deviance = count * math.log(count / rate.item()) + rate.item() - count
    stirling = 1 / (12 * count) - 1 / (360 * count**3) + 1 / (1260 * count**5)
    expected = -0.5 * math.log(2 * math.pi * count) - stirling - deviance
    assert math.isclose(Poisson(rate).log_prob(x).item(), expected, rel_tol=1e-4)
    for r in (2.5, 1e4):
        total = torch.tensor(r, requires_grad=True)
        wide = torch.tensor(r, dtype=torch.float64, requires_grad=True)
        found = NegativeBinomial(total, logits=rate.log() - total.log()).log_prob(x)
        right = NegativeBinomial(wide, logits=rate.double().log() - wide.log()).log_prob(x.double())
        assert found.dtype is torch.float32
        assert math.isclose(found.item(), right.item(), rel_tol=1e-4)
        gradients = [torch.autograd.grad(value, of)[0].item() for value, of in ((found, total), (right, wide))]
        assert math.isclose(*gradients, rel_tol=2e-2, abs_tol=1e-9)
