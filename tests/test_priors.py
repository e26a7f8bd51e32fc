"""Priors: mass one, draws that follow the density, gradients, and the limits where one prior is another."""

import copy
import io
import math
from functools import partial

import pyro.distributions as dist
import pyro.distributions.transforms as T
import pytest
import torch
import torch.nn as nn
from torch.testing import assert_close

import pyro_priors as pp
import runs
from pairs import BATCH, SMALL_PRIORS, batch, create, gradients, randomise
from priors_of import CASES, CONTEXTS, NUM_CATEGORIES, OPTIONS, build, parts_of
from pyro_priors.nn import ConditionMLP, Encoder
from pyro_priors.priors import (
    TRANSFORMS,
    FlowPrior,
    GaussianMixture,
    GaussianPrior,
    MixturePrior,
    StandardPrior,
    VampPrior,
    gaussian_mixture,
    splines,
)
from pyro_priors.priors.splines import rational_quadratic
from pyro_priors.testing import check_draws
from pyro_priors.tracing import inductor

SMOOTH = [case for case in CASES if not isinstance(OPTIONS[case[0]], pp.priors.Flow)]
FLOW_CASES = [case for case in CASES if isinstance(OPTIONS[case[0]], pp.priors.Flow)]
GAUSSIANS = [(name, context) for name, context in SMOOTH if name.startswith(("standard", "gaussian"))]

each_flow = pytest.mark.parametrize("flow", TRANSFORMS)
each_case = pytest.mark.parametrize(("name", "context"), CASES)


def _module(name, context, z_dim, scale=None):
    """The prior with every parameter drawn anew; splines less wildly, so that a grid sees their bins."""
    prior = build(name, context, z_dim)
    scale = (0.25 if "spline" in name else 0.5) if scale is None else scale
    for parameter in prior.parameters():
        nn.init.normal_(parameter, 0, scale)
    return prior


def _prior(name, context, z_dim):
    return _module(name, context, z_dim)(*CONTEXTS[context]())


# every prior, in every context


@pytest.mark.parametrize(("name", "context"), SMOOTH)
@pytest.mark.parametrize("z_dim", [1, 2])
def test_integrates_to_one(float64, name, context, z_dim):
    """Trapezoid over 10 scales to each side of the mean, in one and two dimensions."""
    p = _prior(name, context, z_dim)
    assert (p.batch_shape, p.event_shape) == ((), (z_dim,))
    axes = [torch.linspace(-10, 10, 401) * p.stddev[d] + p.mean[d] for d in range(z_dim)]
    assert _mass(p, axes).item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(("name", "context"), FLOW_CASES)
def test_a_flow_integrates_to_one(float64, name, context):
    """Trapezoid over the box of 20,000 draws, half as wide again on each side. The kinks of networks and splines leave
    errors up to 1e-4 here; a wrong log-determinant is one of 0.1 and more."""
    p = _prior(name, context, 2)
    assert (p.batch_shape, p.event_shape) == ((), (2,))
    assert _mass(p, _box(p, 501)).item() == pytest.approx(1, abs=5e-4)


def _mass(p, axes):
    with torch.no_grad():
        mass = p.log_prob(torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)).exp()
    for axis in reversed(axes):
        mass = torch.trapezoid(mass, axis, dim=-1)
    return mass


def _box(p, num):
    draws = p.sample((20_000,))
    low, high = draws.min(0).values, draws.max(0).values
    margin = (high - low) / 2
    return [torch.linspace(a, b, num) for a, b in zip(low - margin, high + margin, strict=True)]


@pytest.mark.parametrize(("name", "context"), GAUSSIANS)
def test_draws_have_the_mean_and_scale_of_the_density(name, context):
    """Mean and variance of n = 20,000 draws in two dimensions at 4 standard errors: fails at 3 of 10,000
    seeds."""
    p = _prior(name, context, 2)
    draws = (p.sample((20_000,)) - p.mean) / p.stddev
    assert (draws.mean(0).abs() < 4 / math.sqrt(20_000)).all()
    assert ((draws.square().mean(0) - 1).abs() < 4 * math.sqrt(2 / 20_000)).all()


@each_case
def test_draws_follow_the_density(float64, name, context):
    p = _prior(name, context, 2)
    draws = p.sample((20_000,))
    assert draws.shape == (20_000, 2) and not draws.requires_grad
    check_draws(p, draws)


@pytest.mark.parametrize(("name", "context"), [case for case in CASES if case[0] != "standard"])
@pytest.mark.parametrize("z_dim", [2, 3])
def test_the_density_has_a_gradient_for_every_parameter(name, context, z_dim):
    """At given points, at draws of another distribution object, and at the object's own draws."""
    prior = _module(name, context, z_dim, 0.3)
    given = (torch.arange(NUM_CATEGORIES)[:, None],) if context == "category" else CONTEXTS[context]()
    p, other = prior(*given), prior(*given)
    for draw in (lambda shape: torch.randn(*shape, z_dim), other.sample, p.sample):
        prior.zero_grad()
        z = draw((50,))
        p.log_prob(z).sum().backward(retain_graph=True)
        for key, parameter in prior.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), key


@each_case
def test_any_left_dimensions_of_the_context(float64, name, context):
    """None, a batch, an enumerated category or particles: each row is the prior of its own context."""
    prior = _module(name, context, 2, 0.3)
    if context == "none":
        p, z = prior(), torch.randn(6, 5, 2)
        assert p.batch_shape == ()
        assert_close(p.expand((6, 5)).log_prob(z), p.log_prob(z))
        assert_close(p.log_prob(z)[4, 2], p.log_prob(z[4, 2]))
        return
    enumerated = torch.arange(NUM_CATEGORIES)[:, None]
    for given in (enumerated, torch.randint(3, (4, 5))) if context == "category" else (torch.randn(4, 5, 4),):
        left = given.shape if context == "category" else given.shape[:-1]
        p, z = prior(given), torch.randn(6, left[0], 5, 2)
        assert p.batch_shape == (() if name == "standard" else left) and p.event_shape == (2,)
        found = p.log_prob(z)
        assert found.shape == (6, left[0], 5)
        assert_close(p.expand((6, left[0], 5)).log_prob(z), found)
        for i, j in ((0, 0), (left[0] - 1, left[1] - 1)):
            assert_close(prior(given[i, j]).log_prob(z[2, i, j]), found[2, i, j])
        draws = p.expand((left[0], 5)).sample()
        assert draws.shape == (left[0], 5, 2)
        assert_close(p.log_prob(draws), prior(given).log_prob(draws))


@pytest.mark.parametrize("name", OPTIONS)
def test_the_weights_of_a_relaxed_category_are_means_of_parameters(float64, name):
    """At one weight of 1 they are that category's, to the floor of log-weights; priors of encoders have none."""
    if name.startswith(("vamp", "cdv")):
        with pytest.raises(ValueError, match="needs the number of a category, and a relaxed category has none: use"):
            build(name, "category", 2, is_relaxed=True)
        return
    prior, z = _module(name, "category", 2, 0.3), torch.randn(5, 2)
    weights = torch.full((NUM_CATEGORIES,), -1e9)
    weights[1] = 0.0
    assert_close(prior(weights).log_prob(z), prior(torch.tensor(1)).log_prob(z), rtol=1e-12, atol=1e-12)
    even = torch.full((5, NUM_CATEGORIES), -math.log(NUM_CATEGORIES))
    assert prior(even).log_prob(z).isfinite().all()


def test_a_full_covariance_that_is_diagonal_is_the_diagonal_gaussian(float64):
    for context, given in CONTEXTS.items():
        full, diagonal = _module("gaussian-full", context, 3), build("gaussian", context, 3)
        diagonal.load_state_dict({key: value for key, value in full.state_dict().items() if "lower" not in key})
        for key, parameter in full.named_parameters():
            if "lower" in key:
                nn.init.zeros_(parameter)
        z = torch.randn(6, 3)
        assert_close(full(*given()).log_prob(z), diagonal(*given()).log_prob(z), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("context", CONTEXTS)
def test_mixtures_of_one_component_are_gaussians(float64, context):
    """A mixture of one Gaussian is that Gaussian; a VampPrior and CDV of one the encoder's at what it is shown."""
    parts, given = parts_of(context, 2), CONTEXTS[context]()
    z = torch.randn(6, 2)
    vamp, cdv = pp.priors.Vamp(1).build(parts), pp.priors.CDV(1).build(parts)
    for prior in (vamp, cdv):
        for parameter in prior.parameters():
            nn.init.normal_(parameter, 0, 0.5)
        if context == "condition":
            x = prior.components(given[0])[1][0]
            expected = parts.encoder(x, given[0])
        elif prior is vamp:
            x = prior.pseudo_inputs[1] if given else prior.pseudo_inputs
            expected = parts.encoder(x, given[0].expand(1)) if given else parts.encoder(x)
        else:
            latents = prior.pseudo_latents[1] if given else prior.pseudo_latents
            x = parts.decoder(latents, **({"c": given[0]} if given else {})).mean
            expected = parts.encoder(x, given[0].expand(1)) if given else parts.encoder(x)
        assert_close(prior(*given).log_prob(z), expected.log_prob(z), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("x_range", [(0.0, 1.0), (0.0, math.inf), (-math.inf, math.inf)], ids=str)
@pytest.mark.parametrize("context", CONTEXTS)
def test_pseudo_inputs_stay_in_the_range_of_x(context, x_range):
    prior = build("vamp", context, 2, x_range=x_range)
    for parameter in prior.parameters():
        nn.init.normal_(parameter, 0, 3)
    x = prior.components(torch.randn(50, 4))[1] if context == "condition" else prior.pseudo_inputs
    assert x.min() >= x_range[0] and x.max() <= x_range[1]
    assert (x < 0).any() == (x_range[0] < 0) and (x > 1).any() == (x_range[1] > 1)


def test_a_flow_s_base_is_on_the_other_side_than_codes():
    for base in (pp.priors.Vamp(3), "cdv"):
        with pytest.raises(ValueError, match="cannot be the base of a flow: .* use base='mixture'"):
            pp.priors.Flow(base=base).build(parts_of("none", 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pp.priors.Flow("afine_coupling"), "transform 'afine_coupling' is unknown: did you mean 'affine_coup"),
        (lambda: pp.priors.Flow(base="mixtur"), "prior 'mixtur' is unknown: did you mean 'mixture'"),
        (lambda: pp.priors.Flow(num_transforms=1001), "num_transforms must be at most 1000, got 1001"),
        (lambda: pp.priors.Flow(permutation="none"), "permutation must be one of random, reverse, got 'none'"),
        (lambda: pp.priors.Gaussian("spherical"), "covariance must be one of diagonal, full, got 'spherical'"),
        (lambda: pp.priors.Mixture(0), "num_components must be a positive integer, got 0"),
        (lambda: pp.priors.Vamp(2.5), "num_components must be an integer or None, got 2.5"),
        (lambda: pp.priors.Vamp().build(parts_of("none", 2, encoder=None)), "prior 'vamp' needs the encoder of the gu"),
        (lambda: pp.priors.CDV().build(parts_of("none", 2, decoder=None)), "prior 'cdv' needs the decoder, which need"),
        (lambda: parts_of("category", 2, condition_shape=(3,)), "a prior has one context, got num_categories=3 and"),
        (lambda: pp.priors.register_prior("flow")(pp.priors.Standard), "prior 'flow' is already registered by pyro_p"),
        (lambda: pp.priors.register_prior("my prior")(pp.priors.Standard), "the name of a prior must be an identifi"),
    ],
)
def test_options_that_are_none_are_named(make, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make()


def test_priors_start_where_they_say():
    """Scale 1 up to the floor of 1e-4; the Gaussian at N(0, I); the standard one has nothing to train or
    save; a mixture at equal weights; pseudo-inputs at their mean; flows near N(0, I)."""
    assert_close(GaussianPrior(2)().mean, torch.zeros(2))
    assert_close(GaussianPrior(2)().stddev, torch.ones(2), rtol=0, atol=2e-4)
    category = GaussianPrior(2, 3)
    assert category.loc.std() > 0.1
    assert_close(category(torch.tensor(2)).stddev, torch.ones(2), rtol=0, atol=2e-4)
    assert not list(StandardPrior(2).parameters()) and not StandardPrior(2).state_dict()
    p = MixturePrior(40, 300)()
    assert_close(p.logits.softmax(-1), torch.full((300,), 1 / 300))
    assert_close(p.scale, torch.ones(300, 40), rtol=0, atol=2e-4)
    assert p.loc.square().sum(-1).mean().item() == pytest.approx(1, abs=0.1)
    vamp = VampPrior(Encoder((784,), 2, (5,)), (784,), 50)
    assert vamp.pseudo_inputs.mean().item() == pytest.approx(0.05, abs=1e-3)
    assert vamp.pseudo_inputs.std().item() == pytest.approx(0.01, abs=1e-3)
    z = torch.randn(20, 5)
    for flow in TRANSFORMS:
        assert_close(FlowPrior(5, flow)().log_prob(z), StandardPrior(5)().log_prob(z), rtol=0, atol=0.5)


# one Gaussian for each category or condition


def test_category_prior_s_row_is_its_gaussian(float64):
    """Any left dimensions of c, the enumerated ones too; the log-density by its formula."""
    prior = GaussianPrior(2, 3)
    torch.nn.init.normal_(prior.raw_scale)
    for shape in ((), (5,), (3, 1), (3, 1, 1)):
        c = torch.randint(3, shape)
        p = prior(c)
        assert (p.batch_shape, p.event_shape) == (shape, (2,))
        z = torch.randn(*shape, 2)
        scale = torch.log1p(prior.raw_scale.exp())[c] + 1e-4
        expected = -0.5 * ((z - prior.loc[c]) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)
        assert_close(p.log_prob(z), expected.sum(-1))


def test_conditional_prior_moves_with_its_condition():
    """One Gaussian per condition, images flattened."""
    prior = pp.priors.ConditionalGaussianPrior(ConditionMLP((2, 3), (5,)), 4)
    condition = torch.randn(7, 2, 3)
    p = prior(condition)
    assert (p.batch_shape, p.event_shape) == ((7,), (4,))
    assert p.mean.std(0).min() > 1e-3 and p.stddev.std(0).min() > 1e-4
    assert_close(prior(condition[2]).mean, p.mean[2])


# mixtures


SHAPES = {
    "plain": ((4,), (4, 3), (), (7, 3)),
    "left": ((4,), (4, 3), (), (5, 7, 3)),
    "batch": ((2, 4), (2, 4, 3), (2,), (2, 3)),
    "particles": ((2, 4), (2, 4, 3), (2,), (5, 2, 3)),
    "equal-weights": ((4,), (2, 4, 3), (2,), (6, 2, 3)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_gaussian_mixture_is_pyro_s_mixture(float64, shape):
    """Log-density and all its gradients, mean, variance and expansion, against MixtureSameFamily; whole and in pieces
    of a few numbers, which the components do not fill evenly."""
    logits_shape, loc_shape, batch_shape, z_shape = SHAPES[shape]
    logits, loc, z = (torch.randn(s).requires_grad_() for s in (logits_shape, loc_shape, z_shape))
    scale = torch.rand(loc_shape).add(0.1).requires_grad_()
    ours = GaussianMixture(logits, loc, scale)
    weights = dist.Categorical(logits=logits.expand(*batch_shape, -1))
    pyros = dist.MixtureSameFamily(weights, dist.Normal(loc, scale).to_event(1))
    assert (ours.batch_shape, ours.event_shape) == (pyros.batch_shape, pyros.event_shape) == (batch_shape, (3,))
    assert_close(ours.mean, pyros.mean)
    assert_close(ours.variance, pyros.variance)

    def compare():
        found = ours.log_prob(z), pyros.log_prob(z)
        assert_close(*found, rtol=1e-12, atol=1e-12)
        mine, theirs = (torch.autograd.grad(value.sum(), (logits, loc, scale, z), retain_graph=True) for value in found)
        for one, other in zip(mine, theirs, strict=True):
            assert_close(one, other, rtol=1e-10, atol=1e-12)

    compare()
    for at_once in (1, 30, 70):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gaussian_mixture, "VALUES_AT_ONCE", at_once)
            compare()
    wide = ours.expand((6, *batch_shape))
    assert wide.batch_shape == (6, *batch_shape) and wide.mean.shape == (6, *batch_shape, 3)
    point = torch.zeros(3)
    assert_close(wide.log_prob(point), pyros.expand((6, *batch_shape)).log_prob(point))
    assert wide.sample((2,)).shape == (2, 6, *batch_shape, 3)


def test_each_member_of_a_batch_of_mixtures_draws_from_its_own_components():
    """Components 100 apart: which member a draw is of, and which of its components. n = 4,000 draws of each, the
    frequencies within 4 standard errors of the weights (fails at 4 of 10,000 seeds)."""
    loc = 1000.0 * torch.arange(2).view(2, 1, 1) + 100.0 * torch.arange(1, 4).view(3, 1)
    weights = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    p = GaussianMixture(weights.log(), loc, torch.ones(2, 3, 1))
    for draws in (p.sample((4000,)), p.expand((4000, 2)).sample()):
        assert draws.shape == (4000, 2, 1)
        member, component = (draws / 1000).round().squeeze(-1), ((draws % 1000) / 100).round().squeeze(-1)
        assert_close(member, torch.arange(2.0).expand(4000, 2))
        frequency = torch.stack([(component == 1 + k).float().mean(0) for k in range(3)], -1)
        assert ((frequency - weights).abs() < 4 * (weights * (1 - weights) / 4000).sqrt()).all()


def test_a_mixture_of_narrow_components_keeps_its_digits():
    """Scales of 1e-3 at locations of 10 in float32: the log-density is right to 1e-5 of itself, which products of
    matrices in place of squares of differences would miss by many nats."""
    loc, z = 10 + torch.randn(20, 40), 10 + torch.randn(5, 40)
    z = torch.cat([z, loc[:5] + 1e-3 * torch.randn(5, 40)])
    single = GaussianMixture(torch.zeros(20), loc, torch.full((20, 40), 1e-3))
    double = GaussianMixture(torch.zeros(20).double(), loc.double(), torch.full((20, 40), 1e-3).double())
    assert_close(single.log_prob(z).double(), double.log_prob(z.double()), rtol=1e-5, atol=1e-2)


def test_far_from_every_component_the_density_is_finite_with_a_gradient():
    prior = MixturePrior(2, 3)
    z = torch.full((2,), 1e4, requires_grad=True)
    value = prior().log_prob(z)
    value.backward()
    assert value.isfinite() and value < -1e7 and z.grad.isfinite().all() and z.grad.any()


def test_a_mixture_of_one_component_is_a_gaussian(float64):
    prior, z = MixturePrior(3, 1), torch.randn(6, 3)
    nn.init.normal_(prior.raw_scale)
    scale = torch.log1p(prior.raw_scale[0].exp()) + 1e-4
    expected = dist.Normal(prior.loc[0], scale).to_event(1)
    assert_close(prior().log_prob(z), expected.log_prob(z), rtol=1e-12, atol=1e-12)
    assert_close(prior().mean, expected.mean)
    assert_close(prior().stddev, expected.stddev)


def test_a_mixture_refuses_parameters_that_are_none():
    with pytest.raises(ValueError, match="satisfy the constraint"):
        GaussianMixture(torch.zeros(2), torch.zeros(2, 3), -torch.ones(2, 3))
    with pytest.raises(ValueError, match="satisfy the constraint"):
        GaussianMixture(torch.zeros(2), torch.full((2, 3), math.nan), torch.ones(2, 3))


# VampPrior


def test_a_vamp_prior_of_one_component_is_the_posterior_of_its_pseudo_input(float64):
    pair = create("vae", prior="vamp", num_components=1)
    prior, z = pair.model.prior, torch.randn(6, 2)
    posterior = pair.guide.encoder(prior.pseudo_inputs[0])
    assert_close(prior().log_prob(z), posterior.log_prob(z), rtol=1e-12, atol=1e-12)
    assert_close(prior().mean, posterior.mean)


@pytest.mark.parametrize("name", ["vae", "hvae"])
def test_the_vamp_prior_has_the_guide_s_encoder(name, tmp_path):
    """One module, one set of tensors: when made, copied, moved, saved and loaded; a step moves it in both places."""
    pair = create(name, prior="vamp")
    pair.save(tmp_path / "pair")
    loaded = pp.load(tmp_path / "pair")
    for tied in (pair, copy.deepcopy(pair), loaded, copy.deepcopy(pair).double()):
        assert tied.model.prior.encoder is tied.guide.encoder
        keys = [name for name, _ in tied.named_parameters()]
        assert not any(key.startswith("guide.encoder.") for key in keys)  # counted once, under the model's name
        before = tied.model.prior().log_prob(torch.zeros(2, dtype=next(tied.parameters()).dtype))
        with torch.no_grad():
            tied.guide.encoder.head.parameters_of_z.input.bias += 0.5
        assert not torch.equal(tied.model.prior().log_prob(torch.zeros_like(before).expand(2)), before)
    assert pair.model.prior.encoder is not copy.deepcopy(pair).guide.encoder
    x = batch(name)[0]
    assert torch.equal(loaded.reconstruct(x), pair.reconstruct(x))


class _Counting(nn.Module):
    """An encoder with dropout and batch statistics that counts its calls."""

    def __init__(self, x_dim, z_dim):
        super().__init__()
        self.normalise, self.drop = nn.BatchNorm1d(x_dim), nn.Dropout(0.5)
        self.out = nn.Linear(x_dim, z_dim)
        self.seen = []

    def forward(self, x):
        self.seen.append((len(x), self.training, self.drop.training))
        return dist.Normal(self.out(self.drop(self.normalise(x))), 1.0).to_event(1)


@pytest.mark.parametrize("num_particles", [1, 4])
def test_pseudo_inputs_are_encoded_once_a_call_and_in_evaluation_mode(num_particles):
    """A loss encodes the data once in training mode and the pseudo-inputs once in evaluation mode, whatever the number
    of particles; batch statistics are those of the data; every part is then in the mode that it was in."""
    encoder = _Counting(6, 2)
    pair = create("vae", prior="vamp", encoder=encoder)
    encoder.drop.eval()
    pair.elbo.__class__(num_particles=num_particles)(pair.model, pair.guide)(*batch("vae"))
    assert encoder.seen == [(BATCH, True, False), (9, False, False)]
    assert encoder.training and encoder.normalise.training and not encoder.drop.training
    assert encoder.normalise.num_batches_tracked == 1
    encoder.drop.train()
    z = torch.randn(3, 2)
    assert torch.equal(pair.model.prior().log_prob(z), pair.model.prior().log_prob(z))
    encoder.seen.clear()
    pair.sample(50)
    assert len(encoder.seen) == 1
    encoder.out.weight.data.fill_(math.nan)
    with pytest.raises(ValueError, match="satisfy the constraint"):
        pair.model.prior()
    assert encoder.training and encoder.drop.training


def test_pseudo_inputs_start_at_data():
    """Any of the training data, binary ones too, which then have a gradient in every value."""
    pair, x = create("vae", prior="vamp"), torch.randint(2, (9, 6)).float()
    prior = pair.model.prior
    prior.set_pseudo_inputs(x)
    assert torch.equal(prior.pseudo_inputs, x)
    prior().log_prob(torch.zeros(2)).backward()
    assert prior.free_pseudo_inputs.grad.ne(0).all()
    images = create("vae", prior="vamp", x_shape=(2, 3)).model.prior
    with pytest.raises(ValueError, match=r"must have shape \(9, 2, 3\), got \(9, 6\): give one row for each"):
        images.set_pseudo_inputs(x)
    with pytest.raises(ValueError, match=r"must have shape \(9, 6\), got \(10, 6\)"):
        prior.set_pseudo_inputs(torch.zeros(10, 6))
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"must be in \[0, 1\], got values from .*: rescale them"):
            prior.set_pseudo_inputs(torch.full((9, 6), wrong))


def nearest(prior, x):
    """Row of x that is nearest to each pseudo-input."""
    return torch.cdist(prior.free_pseudo_inputs, x).argmin(-1)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_pseudo_inputs_start_at_a_draw_of_data(likelihood):
    """Near different rows, the same for the same seed; where bounded, in [0, 1] and with a gradient in every value."""
    prior, x = create("vae", prior="vamp", likelihood=likelihood).model.prior, torch.randint(2, (40, 6)).float()
    x = x + torch.arange(40)[:, None] / 100 * (1 - 2 * x)  # rows apart from each other, still in [0, 1]
    before = torch.get_rng_state()
    prior.init_from_data(x, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    first, rows = prior.pseudo_inputs.detach().clone(), nearest(prior, x)
    assert len(rows.unique()) == 9
    noise = prior.free_pseudo_inputs.detach() - x[rows]
    assert 0.005 < noise.std() < 0.015 and noise.ne(0).any(-1).all()
    prior().log_prob(torch.zeros(2)).backward()
    assert prior.free_pseudo_inputs.grad.ne(0).all()
    prior.init_from_data(x, seed=3)
    assert torch.equal(prior.pseudo_inputs, first)
    prior.init_from_data(x, seed=4)
    assert nearest(prior, x).tolist() != rows.tolist()
    prior.init_from_data(x[:9], noise=0.0)
    assert torch.equal(prior.free_pseudo_inputs.detach().sort(0).values, x[:9].sort(0).values)


def test_pseudo_inputs_need_data_enough():
    prior = create("vae", prior="vamp").model.prior
    with pytest.raises(
        ValueError,
        match="num_components is 9, but only 8 examples .* start at: make the prior with num_components=8 or fewer",
    ):
        prior.init_from_data(torch.zeros(8, 6))
    with pytest.raises(ValueError, match="but only 0 examples are there .* start at: give more data"):
        prior.init_from_data(torch.zeros(0, 6))
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        prior.init_from_data(torch.full((20, 6), 2.0))


@pytest.mark.parametrize(
    ("size", "make"),
    [
        ("z_dim", StandardPrior),
        ("z_dim", GaussianPrior),
        ("z_dim", lambda size: MixturePrior(size, 2)),
        ("num_components", partial(MixturePrior, 2)),
        ("num_components", partial(VampPrior, None, (3,))),
        ("z_dim", FlowPrior),
        ("num_transforms", lambda size: FlowPrior(2, num_transforms=size)),
    ],
)
@pytest.mark.parametrize("value", [0, -1, 2.5, True, "3"])
def test_sizes_that_are_none_are_named(size, make, value):
    wanted = "a positive integer" if type(value) is int else "an integer"
    with pytest.raises(ValueError, match=f"^{size} must be {wanted}, got {value!r}"):
        make(value)


@pytest.mark.parametrize("likelihood", ["bernoulli", "continuous_bernoulli", "discretised_logistic", "gaussian"])
def test_pseudo_inputs_are_where_the_data_are(likelihood):
    """In [0, 1] whatever training makes of them; of any size under a Gaussian likelihood."""
    prior = create("vae", prior="vamp", likelihood=likelihood).model.prior
    nn.init.normal_(prior.free_pseudo_inputs, 0.5, 2)
    outside = ((prior.pseudo_inputs < 0) | (prior.pseudo_inputs > 1)).any()
    assert outside == (likelihood == "gaussian")
    assert prior.x_range == ((-math.inf, math.inf) if likelihood == "gaussian" else (0.0, 1.0))


def test_an_encoder_that_is_no_diagonal_gaussian(float64):
    """The mixture of any posterior, by Pyro's own."""

    class StudentEncoder(nn.Module):
        def forward(self, x):
            return dist.StudentT(5.0, x[..., :2], 1.0).to_event(1)

    prior = VampPrior(StudentEncoder(), (6,), 4)
    z = torch.randn(3, 2)
    each = torch.stack([dist.StudentT(5.0, u[:2], 1.0).to_event(1).log_prob(z) for u in prior.pseudo_inputs])
    assert_close(prior().log_prob(z), each.logsumexp(0) - math.log(4))
    assert prior().sample((7,)).shape == (7, 2)


# flows


@each_flow
@pytest.mark.parametrize("z_dim", [2, 3, 5])
@pytest.mark.parametrize("num_transforms", [1, 2, 3])
def test_log_density_is_the_base_s_and_autograd_s_jacobian(float64, flow, z_dim, num_transforms):
    """log N(g(z); 0, I) + log|det dg/dz| with the Jacobian that autograd finds of g, also beyond the splines' ends; and
    the way back, z to z0 to z, by which a draw is made."""
    prior = FlowPrior(z_dim, flow, num_transforms, (7, 8))
    for parameter in prior.parameters():
        nn.init.normal_(parameter, 0, 0.3)
    z = 3 * torch.randn(20, z_dim)
    z[0] = 7.0
    jacobian = torch.stack([torch.autograd.functional.jacobian(prior.to_base, point) for point in z])
    z_0 = prior.to_base(z)
    expected = StandardPrior(z_dim)().log_prob(z_0) + torch.linalg.slogdet(jacobian).logabsdet
    assert_close(prior().log_prob(z), expected, rtol=1e-9, atol=1e-9)
    assert_close(prior.from_base(z_0), z, rtol=1e-7, atol=1e-7)
    assert_close(prior.to_base(prior.from_base(z)), z, rtol=1e-7, atol=1e-7)
    torch.manual_seed(2)
    drawn = prior().sample((20,))
    torch.manual_seed(2)
    assert_close(drawn, prior.from_base(StandardPrior(z_dim)().sample((20,))))
    if num_transforms > 1:
        moved = jacobian - torch.eye(z_dim)
        assert moved.abs().amax((0, 2)).gt(1e-6).all(), "every value of z is transformed"


@each_flow
@pytest.mark.parametrize("num_transforms", [1, 4, 5])
def test_with_its_last_weights_at_zero_a_flow_is_the_identity(float64, flow, num_transforms):
    """N(0, I), each value of z in its own place, whatever the other weights."""
    prior, z = FlowPrior(5, flow, num_transforms, (7, 8)), 4 * torch.randn(30, 5)
    for parameter in prior.parameters():
        nn.init.normal_(parameter, 0, 0.5)
    for network in prior.networks:
        layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
        lasts = [layers[2], layers[5]] if flow == "affine_coupling" else layers[-1:]
        for last in lasts:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
    assert_close(prior.to_base(z), z, rtol=1e-12, atol=1e-12)
    assert_close(prior.from_base(z), z, rtol=1e-12, atol=1e-12)
    assert_close(prior().log_prob(z), StandardPrior(5)().log_prob(z), rtol=1e-12, atol=1e-12)


def test_the_affine_coupling_is_pyro_s_and_the_paper_s(float64):
    """Against dpVAE's block, z = m z0 + (1 - m)(z0 exp(s(m z0)) + t(m z0)), with its masks in turns."""
    prior = FlowPrior(4, num_transforms=6)
    for parameter in prior.parameters():
        nn.init.normal_(parameter, 0, 0.3)
    z_0 = torch.randn(9, 4)
    z = z_0
    for index, network in enumerate(prior.networks):
        kept = slice(0, 2) if index % 2 == 0 else slice(2, 4)
        moved = slice(2, 4) if index % 2 == 0 else slice(0, 2)
        order = (lambda v: v) if index % 2 == 0 else (lambda v: v.flip(-1))
        t, s = map(order, network(order(z[:, kept])))
        parts = {kept.start: z[:, kept], moved.start: z[:, moved] * torch.exp(s) + t}
        z = torch.cat([parts[0], parts[2]], -1)
    assert_close(prior.from_base(z_0), z, rtol=1e-12, atol=1e-12)


@each_flow
def test_nothing_of_a_call_is_left_in_a_flow(flow):
    """The same tensor after a step has the new density; after a backward pass the prior can be copied and pickled; it
    holds parameters and nothing else, and its state is theirs."""
    prior, z = FlowPrior(3, flow, 3, (7, 8)), torch.randn(8, 3, requires_grad=True)
    attributes = {name: set(vars(module)) for name, module in prior.named_modules()}
    before = prior().log_prob(z)
    before.sum().backward()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter += 0.2
    after = prior().log_prob(z)
    assert not torch.allclose(before, after)
    twin = copy.deepcopy(prior)
    assert torch.equal(twin().log_prob(z), after)
    torch.save(prior, stream := io.BytesIO())
    stream.seek(0)
    assert torch.equal(torch.load(stream, weights_only=False)().log_prob(z), after)
    assert prior.state_dict().keys() == {name for name, _ in prior.named_parameters()}
    assert {name: set(vars(module)) for name, module in prior.named_modules()} == attributes


@each_flow
@pytest.mark.parametrize("num_transforms", [1, 2])
def test_what_a_distribution_recalls_of_its_draw_is_right(float64, flow, num_transforms):
    """The log-density of its own draw, for which the transforms need not be undone, is that of another object; also
    where it has just found the density of other values."""
    prior = FlowPrior(3, flow, num_transforms, (7, 8))
    for parameter in prior.parameters():
        nn.init.normal_(parameter, 0, 0.3)
    p = prior()
    for draw in (lambda: p.rsample((5,)), lambda: p.expand((5,)).rsample(), lambda: p.sample((5,))):
        p.log_prob(torch.randn(5, 3))
        z = draw()
        assert_close(p.log_prob(z), prior().log_prob(z), rtol=1e-9, atol=1e-9)
        assert_close(p.expand((5,)).log_prob(z), prior().log_prob(z), rtol=1e-9, atol=1e-9)


@each_flow
def test_a_flow_computes_in_its_own_precision(flow):
    """float64 while torch's default is float32: there Pyro's own autoregressive transform cannot draw."""
    prior = FlowPrior(3, flow, 2, (7, 8)).double()
    z = prior().sample((5,))
    assert z.dtype is prior().log_prob(z).dtype is prior.to_base(z).dtype is torch.float64
    assert_close(prior.from_base(prior.to_base(z)), z, rtol=1e-9, atol=1e-9)


def test_pyro_s_traps_are_still_there():
    """What the transforms of ours go around: when one of these fails, something can be simplified."""
    flow = T.affine_autoregressive(3, [8]).double()
    with pytest.raises(RuntimeError, match="same dtype"):
        flow.inv(torch.randn(5, 3, dtype=torch.float64))
    spline = T.Spline(1, 8, 3.0, "quadratic")
    with torch.no_grad():
        spline.unnormalized_widths.zero_()
        spline.unnormalized_heights.zero_()
        spline.unnormalized_derivatives.fill_(math.log(math.expm1(0.999)))
    x = torch.tensor([[-2.999]])
    assert abs(spline.log_abs_det_jacobian(x, spline(x)).item()) > 5e-4
    coupling = T.affine_coupling(3)
    coupling.inv(torch.randn(5, 3))
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(coupling)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("size", [0.1, 3.0, 30.0])
def test_splines_are_monotone_with_the_slope_they_say(float64, inverse, size):
    """Increasing over the ends and all knots, derivative as autograd finds it, inverse and back; flat and steep."""
    raw = [size * torch.randn(8), size * torch.randn(8), size * torch.randn(7)]
    x = torch.linspace(-6, 6, 4001).requires_grad_()
    raw = [values.expand(len(x), -1) for values in raw]
    y, log_slope = rational_quadratic(x, *raw, bound=5.0, inverse=inverse)
    assert (y.diff() > 0).all()
    (slope,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
    assert_close(slope.log(), log_slope, rtol=1e-6, atol=1e-6)
    assert_close(rational_quadratic(y.detach(), *raw, bound=5.0, inverse=not inverse)[0], x, rtol=1e-6, atol=1e-6)
    outside = x.abs() >= 5
    assert torch.equal(y[outside], x[outside]) and not log_slope[outside].any()


@pytest.mark.parametrize("inverse", [False, True])
def test_splines_stay_finite(inverse):
    """float32, raw numbers of any size, values at knots, at the ends, and far beyond: value, slope and gradients."""
    for size in (1.0, 30.0, 1e4):
        raw = [(size * torch.randn(200, num)).requires_grad_() for num in (8, 8, 7)]
        x = torch.cat([torch.linspace(-5, 5, 161), torch.tensor([-1e30, -7.0, 7.0, 1e30]), torch.randn(35)])
        x.requires_grad_()
        y, log_slope = rational_quadratic(x, *raw, bound=5.0, inverse=inverse)
        assert y.isfinite().all() and log_slope.isfinite().all()
        if not inverse:  # what a density differentiates
            for gradient in torch.autograd.grad((y / (1 + y.abs())).sum() + log_slope.sum(), [x, *raw]):
                assert gradient.isfinite().all()


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("size", [2.0, 5.0, 30.0])
def test_splines_stay_finite_beside_their_knots(size, inverse):
    """float32, the last three numbers below each inner knot, where rounding leaves the bin on the wrong side: of these
    420,000 values 1 in 1,000 had a NaN for its slope where this was not seen to."""
    raw = [size * torch.randn(20_000, num) for num in (8, 8, 7)]
    x, _ = splines._bins(raw[1 if inverse else 0], 5.0, 1e-3)
    for _ in range(3):
        x = torch.nextafter(x, torch.tensor(-9.0))
        for knot in range(1, 8):
            y, log_slope = rational_quadratic(x[:, knot], *raw, bound=5.0, inverse=inverse)
            assert y.isfinite().all() and log_slope.isfinite().all()


# pairs


COMBINATIONS = {
    "vae-mixture": ("vae", {"prior": "mixture"}),
    "vae-vamp": ("vae", {"prior": "vamp"}),
    "vae-vamp-trained-weights": ("vae", {"prior": "vamp", "learnable_weights": True}),
    **{f"vae-{flow}": ("vae", {"prior": "flow", "transform": flow}) for flow in TRANSFORMS},
    **{f"hvae-{prior}": ("hvae", {"prior": prior}) for prior in ("standard", *SMALL_PRIORS) if prior != "cdv"},
}


@pytest.mark.parametrize("key", COMBINATIONS)
def test_a_traced_loss_is_the_eager_one(key, float64, monkeypatch):
    """Every prior traces into one graph, run here without inductor: loss and all gradients at the same noise."""
    monkeypatch.setattr(inductor, "compile_graph", lambda graph, inputs: graph)
    name, options = COMBINATIONS[key]
    pair, (x,) = randomise(create(name, **options)), batch(name)
    compiled = pp.compiled(pair)
    for seed in range(2):
        torch.manual_seed(seed)
        eager = pair.elbo(pair.model, pair.guide)(x)
        torch.manual_seed(seed)
        traced = compiled(x)
        assert_close(traced, eager, rtol=1e-10, atol=1e-12)
        expected = gradients(pair, eager)
        for parameter, gradient in gradients(pair, traced).items():
            assert_close(
                gradient, expected[parameter], rtol=1e-10, atol=1e-12, msg=lambda text, p=parameter: f"{p}: {text}"
            )
        with torch.no_grad():  # parameters are read anew
            for parameter in pair.parameters():
                parameter += 0.1
    copy.deepcopy(pair)


@pytest.mark.parametrize("key", COMBINATIONS)
def test_fit_trains_and_evaluates_every_prior(key, tmp_path):
    """Three epochs raise the bound, and what is saved is what is loaded; the metrics apply to every prior."""
    name, options = COMBINATIONS[key]
    data = runs.small_data()
    pair = runs.small_pair(name, data, **SMALL_PRIORS.get(options["prior"], {}) | options)
    before = runs.state(pair)
    history = pp.fit(pair, data, max_epochs=3, batch_size=16, learning_rate=5e-3, out=tmp_path / "run", progress=False)
    assert history.epochs[-1]["valid_bound"] > history.epochs[0]["valid_bound"]
    assert all(not torch.equal(value, before[tensor]) for tensor, value in pair.named_parameters())
    loaded = pp.load(tmp_path / "run")
    assert runs.same_bits(runs.state(loaded), runs.state(pair))
    found = pp.metrics.evaluate(pair, data, num_samples=5, progress=False)
    assert all(math.isfinite(estimate.value) for estimate in found.values())
    assert set(found) >= {f"active_units_{site}" for site in (("z1", "z2") if name == "hvae" else ("z",))}


def test_the_kl_of_a_full_covariance_is_in_closed_form(float64):
    """Against torch's, and the same for every draw."""
    pair = randomise(pp.create("vae", x_shape=(4,), z_dim=5, prior=pp.priors.Gaussian("full")).double())
    x = torch.rand(3, 4).round()
    found = [pp.objectives.ELBO().terms(pair.model, pair.guide, x).parts["kl_z"] for _ in range(2)]
    q, p = pair.guide.encoder(x).base_dist, pair.model.prior()
    expected = torch.distributions.kl_divergence(
        torch.distributions.MultivariateNormal(q.loc, torch.diag_embed(q.scale**2)), p
    )
    for kl in found:
        assert_close(kl, expected, rtol=1e-10, atol=1e-12)


def test_draws_of_a_full_covariance_are_float32_under_autocast():
    prior = randomise(pp.priors.Gaussian("full").build(pp.priors.Parts(40)))
    draws = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            draws.append(prior().rsample((50,)))
    assert torch.equal(*draws)


@pytest.mark.parametrize("name", ["NSF", "MAF", "BPF", "NICE", "RealNVP"])
def test_create_makes_conditional_flows_of_zuko(name):
    prior = pp.priors.Flow(f"zuko.{name}", 2, (8,), condition_transforms=True)
    pair = pp.create("cvae", x_shape=(6,), z_dim=3, condition_shape=(2,), prior=prior)
    assert pair.log_prob(torch.rand(2, 6).round(), torch.rand(2, 2), num_samples=2).isfinite().all()


def test_a_code_of_another_size_is_refused_by_a_flow():
    with pytest.raises(ValueError, match=r"the last dimension of z must be z_dim, 3, got shape \(5, 1\)"):
        pp.priors.Flow().build(pp.priors.Parts(3))().log_prob(torch.zeros(5, 1))


@pytest.mark.parametrize("options", [pp.priors.Gaussian(), pp.priors.Gaussian("full"), pp.priors.Mixture(2)])
def test_an_unknown_category_is_not_the_last_one(options):
    prior = options.build(pp.priors.Parts(3, num_categories=4))
    for number in (-1, 4):
        with pytest.raises(ValueError, match=f"category numbers must be from 0 to 3, got {number}"):
            prior(torch.tensor([0, number]))
