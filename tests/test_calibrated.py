"""Gaussian likelihoods with a calibrated scale: the optimum, its gradient, the running estimate, the other choices."""

import contextlib
import dataclasses
import math
import warnings

import pytest
import torch
from torch.testing import assert_close

import pyro_priors as pp
import runs
from pairs import CALIBRATED, batch, create, randomise
from pyro_priors import testing
from pyro_priors.data import Augment, batches
from pyro_priors.nn import OptimalGaussianLikelihood, OptimalNormal
from pyro_priors.nn.likelihoods import Gaussian
from pyro_priors.training import loop


def optimal(**options):
    return OptimalGaussianLikelihood(1, **options)


def log_normal(x, loc, scale):
    return (-0.5 * ((x - loc) / scale) ** 2 - math.log(scale) - 0.5 * math.log(2 * math.pi)).sum(-1)


def test_no_other_scale_makes_the_batch_more_probable(float64):
    """The sum over the batch, against a grid of 2,000 scales: the closed form is the grid's maximum, at the grid's
    resolution, once the soft lower end is out of the way."""
    loc, x = torch.randn(4, 6), torch.randn(4, 6)
    likelihood = optimal(min_log_scale=-50.0)
    found = likelihood(loc.unsqueeze(-2)).log_prob(x).sum()
    grid = torch.linspace(0.2, 5.0, 2000)
    values = torch.stack([log_normal(x, loc, scale.item()).sum() for scale in grid])
    assert values.max() <= found
    assert_close(grid[values.argmax()], likelihood.scale((x - loc).square().mean()), atol=3e-3, rtol=0)
    size = x.numel()
    expected = -0.5 * size * (math.log(2 * math.pi * (x - loc).square().mean()) + 1)  # equation 11 and its constant
    assert_close(found.item(), expected)


@pytest.mark.parametrize("spread", [1e-4, 0.01, 1.0, 100.0])
def test_gradient_goes_through_the_scale(float64, spread):
    """Loss and gradient of the formula by hand; far above the lower end the gradient is that of P/2 log MSE."""
    loc, x = torch.randn(4, 6, requires_grad=True), torch.randn(4, 6)
    near = (loc.detach() + spread * x).requires_grad_(False)
    found = optimal()(loc.unsqueeze(-2)).log_prob(near).sum()
    mse = (near - loc).square().mean()
    log_scale = -6 + torch.log1p(torch.exp(0.5 * torch.log(mse) + 6))
    expected = -(0.5 * (near - loc).square() / torch.exp(2 * log_scale) + log_scale + 0.5 * math.log(2 * math.pi)).sum()
    gradients = [torch.autograd.grad(value, loc, retain_graph=True)[0] for value in (found, expected)]
    assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert_close(*gradients, rtol=1e-10, atol=1e-12)
    (plain,) = torch.autograd.grad(-0.5 * x.numel() * torch.log(mse), loc)
    if spread >= 1:
        assert_close(gradients[0], plain, rtol=1e-3, atol=1e-6)


def test_a_batch_that_is_met_exactly_has_a_finite_density_and_gradient():
    loc = torch.zeros(3, 4, requires_grad=True)
    log_prob = optimal()(loc.unsqueeze(-2)).log_prob(torch.zeros(3, 4))
    (gradient,) = torch.autograd.grad(log_prob.sum(), loc)
    assert_close(log_prob, torch.full((3,), 4 * (6 - 0.5 * math.log(2 * math.pi))))
    assert not gradient.any()


def test_particles_share_one_scale(float64):
    """Left dimensions of the decoder's output count as data: the scale is that of all of them together."""
    loc, x = torch.randn(3, 4, 6), torch.randn(4, 6)
    likelihood = optimal()
    found = likelihood(loc.unsqueeze(-2)).log_prob(x)
    scale = likelihood.scale((x - loc).square().mean())
    assert found.shape == (3, 4)
    assert_close(found, log_normal(x, loc, scale.item()))


def test_the_running_estimate_is_a_mean_that_decays(float64):
    """Over the squared errors of the batches of training, by their sizes, each 0.75 as much as the next: that of a
    last, smaller batch moves it less."""
    likelihood = optimal(momentum=0.25)
    errors, sizes = torch.rand(9) + 0.5, torch.tensor([5, 5, 5, 5, 1, 5, 5, 5, 1])
    for step, (error, size) in enumerate(zip(errors, sizes.tolist(), strict=True), 1):
        likelihood(torch.zeros(size, 1, 4)).log_prob(error.sqrt().expand(size, 4))
        weights = sizes[:step] * 0.75 ** torch.arange(step - 1, -1, -1)
        assert_close(likelihood.squared_error, (weights * errors[:step]).sum() / weights.sum())
    assert_close(likelihood.num_values, 4 * weights.sum())
    likelihood.recalibrate()
    likelihood(torch.zeros(5, 1, 4)).log_prob(torch.full((5, 4), 3.0))
    assert_close(likelihood.squared_error, torch.tensor(9.0))


@pytest.mark.parametrize("size", [1e-5, 1.0, 1e5])
def test_the_running_estimate_of_one_batch_is_that_batch_s(size):
    likelihood, x = optimal(min_log_scale=-20.0), size * torch.randn(100, 3)
    likelihood(torch.zeros(100, 1, 3)).log_prob(x)
    assert likelihood.squared_error == x.square().mean()
    assert_close(likelihood.eval().scale(), x.square().mean().sqrt() + math.exp(-20), rtol=1e-2, atol=0)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_batch_of_no_finite_error_leaves_the_running_estimate(compiled):
    """Its loss is not finite, or it is refused; the batches after it, and the evaluation, are as without it."""
    data = runs.small_data(binarise="none")
    pair = runs.small_pair("sigma_vae", data)
    x = data.train.x[:20].clone()
    likelihood = pair.model.decoder.likelihood
    loss = pp.compiled(pair) if compiled else pair.elbo(pair.model, pair.guide)
    loss(x)
    before = [likelihood.squared_error.clone(), likelihood.num_values.clone()]
    for value in (math.inf, math.nan):
        x[3, 5] = value
        with contextlib.suppress(ValueError):
            assert not loss(x).isfinite()
        with contextlib.suppress(ValueError):  # an eager q(z|x) may have refused it before p(x|z) was asked
            likelihood(torch.zeros_like(x)).log_prob(x)
    assert [likelihood.squared_error, likelihood.num_values] == before


def test_in_evaluation_the_scale_is_frozen_and_the_density_integrates_to_one(float64):
    """Also within a batch the log-density of one datum does not depend on the others, and nothing moves."""
    likelihood = optimal().eval()
    likelihood.squared_error.fill_(0.04)
    scale = likelihood.scale()
    assert_close(scale.item(), math.exp(-6 + math.log1p(math.exp(6 + 0.5 * math.log(0.04)))))
    d = likelihood(torch.full((1, 1), 0.3))
    x = torch.linspace(-3, 3, 20_001)[:, None]
    assert_close(torch.trapezoid(d.log_prob(x).exp(), x[:, 0]).item(), 1.0, rtol=1e-10, atol=0)
    assert_close(d.log_prob(x[:3]), d.log_prob(x)[:3])
    assert likelihood.squared_error == 0.04 and likelihood.num_values == 0


def test_samples_have_the_running_scale():
    """Standard deviation of n = 40,000 draws within 4 of its standard errors: fails at 6 of 100,000 seeds."""
    likelihood = optimal()
    likelihood.squared_error.fill_(0.25)
    d = likelihood(torch.zeros(1, 1))
    draws = d.sample((40_000,))
    assert abs(draws.std() - likelihood.scale()) < 4 * likelihood.scale() / math.sqrt(80_000)
    assert likelihood.num_values == 0


def test_expanding_keeps_what_it_is():
    """A plate expands what it is given: in training the scale is still that of the values."""
    likelihood = optimal()
    base = OptimalNormal(torch.zeros(1, 4), likelihood)
    wide = base.expand((3, 4))
    assert type(wide) is OptimalNormal and wide.batch_shape == (3, 4)
    wide.log_prob(torch.full((3, 4), 2.0))
    assert_close(likelihood.squared_error, torch.tensor(4.0))


@pytest.mark.parametrize(("scale", "num"), [(0.5, 0), ("learned", 1), ("per_channel", 3), ("optimal", 0)])
def test_every_scale_makes_a_gaussian_over_images(scale, num):
    likelihood = Gaussian(scale).build((3, 2, 2))
    d = likelihood(torch.zeros(5, 1, 3, 2, 2))
    assert (d.batch_shape, d.event_shape) == ((5,), (3, 2, 2))
    assert d.log_prob(torch.ones(5, 3, 2, 2)).isfinite().all()
    assert sum(p.numel() for p in likelihood.parameters()) == num


def test_each_channel_has_its_own_scale(float64):
    likelihood = Gaussian("per_channel").build((2, 1, 3))
    with torch.no_grad():
        likelihood.raw_scale.copy_(torch.tensor([0.3, 1.2])[:, None, None])
    x = torch.randn(4, 2, 1, 3)
    found = likelihood(torch.zeros(4, 1, 2, 1, 3)).log_prob(x)
    scales = [math.log1p(math.exp(raw)) + 1e-4 for raw in (0.3, 1.2)]
    assert_close(found, sum(log_normal(x[:, i, 0], torch.zeros(3), scales[i]) for i in range(2)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"scale": "optimum"},
            "scale must be a positive number or one of learned, optimal, per_channel, got 'optimum'",
        ),
        ({"init_scale": 0.3}, r"init_scale=0\.3 is for a learned scale, and scale is optimal: give only one"),
        ({"scale": 0.3, "init_scale": 0.3}, "init_scale=0.3 is for a learned scale, and scale is 0.3: give only one"),
        ({"scale": "per_channel"}, r"needs images, x_shape=\(channels, height, width\), got \(4,\): load"),
        ({"scale": -1}, "scale must be positive, got -1: give scale=0.1, or leave it out"),
    ],
    ids=["unknown", "start of optimal", "start of fixed", "channels", "negative"],
)
def test_errors_name_the_remedy(options, message):
    with pytest.raises(ValueError, match=message):
        pp.create("sigma_vae", x_shape=(4,), **options)


# in pairs


@pytest.mark.parametrize("name", CALIBRATED)
def test_a_compiled_step_moves_the_running_scale_as_an_eager_one(float64, name):
    """Also by inductor's code; validation and samples read it, and leave it."""
    torch.manual_seed(1)
    pair = randomise(create(name))
    twin, args = create(name), batch(name)
    twin.load_state_dict(pair.state_dict())
    loss = pp.compiled(pair)
    for seed in range(3):
        for step in (lambda: loss(*args), lambda: twin.elbo.differentiable_loss(twin.model, twin.guide, *args)):
            torch.manual_seed(seed)
            step()
        ours, expected = (one.model.decoder.likelihood for one in (pair, twin))
        assert_close(ours.squared_error, expected.squared_error, rtol=1e-10, atol=0)
        assert_close(ours.num_values, expected.num_values, rtol=1e-10, atol=0)
    moved = ours.num_values.clone()
    pair.log_prob(*args, num_samples=3)
    pair.sample(3, *(arg[0] for arg in args[1:]))
    pair.eval()
    loss(*args)
    assert torch.equal(ours.num_values, moved)


@pytest.mark.parametrize("name", CALIBRATED)
def test_the_bound_of_a_validation_has_the_frozen_scale_and_is_a_bound(name):
    """Of each datum alone: the same in a batch of one, and the scale that ``fit`` left."""
    data = runs.small_data(binarise="none", condition_labels=name != "sigma_vae")
    pair = runs.small_pair(name, data)
    history = pp.fit(pair, data, max_epochs=2, batch_size=32, learning_rate=1e-2, progress=False)
    likelihood = pair.model.decoder.likelihood
    seen = likelihood.num_values.clone()
    assert seen > 0
    assert history.epochs[history.best_epoch]["valid_bound"] == pytest.approx(runs.validation_bound(pair, data))
    pair.eval()
    part = data.test.take(slice(4))
    given = () if part.condition is None else (part.condition,)
    whole = pair.elbo.terms(pair.model, pair.guide, part.x, *given)
    assert whole.bound.isfinite().all() and torch.equal(likelihood.num_values, seen)


def test_images_that_are_bent_leave_the_scale_of_images_as_they_are():
    """Blurred by the turn, what a still pair is trained on is nearer to its reconstructions: the estimate is the error
    of the training data themselves all the same, from as many of them as there are."""
    data = runs.small_data(size=100, binarise="none")
    bent = dataclasses.replace(data, augment=Augment((1, 8, 8), rotate=45.0))
    found = {}
    for one in (data, bent):
        pair = runs.small_pair("sigma_vae", one)
        pp.fit(pair, one, max_epochs=1, batch_size=50, learning_rate=1e-12, progress=False)
        found[one is bent] = pair.model.decoder.likelihood
        assert found[one is bent].num_values > 0

    def error(x):
        draws = [pair.sample(len(x), z=pair.encode(x)["z"].sample())["x_mean"] for _ in range(50)]
        return (torch.stack(draws) - x).square().mean()

    truth = error(data.train.x)
    assert error(next(batches(bent.train, 100, seed=0, epoch=0, augment=bent.augment))[0]) < 0.95 * truth
    assert_close(found[False].squared_error, truth, rtol=0.02, atol=0)
    assert_close(found[True].squared_error, truth, rtol=0.02, atol=0)


@pytest.mark.parametrize("bent", [False, True], ids=["as they are", "bent"])
@pytest.mark.parametrize("step", [1, 4, 7])
def test_resume_is_exact_with_a_running_scale(tmp_path, monkeypatch, step, bent):
    """The estimate is in the checkpoint, and goes on from there."""
    data = runs.small_data(binarise="none", condition_labels=True, rotate=10.0 if bent else 0.0)
    options = {"max_epochs": 3, "batch_size": 32, "checkpoint_seconds": 0.0, "progress": False, "compile": "never"}
    whole = runs.small_pair("sigma_cvae_nf", data)
    pp.fit(whole, data, out=tmp_path / "whole", **options)
    original = loop.Training.train_step

    def stop_at(self, *args):
        if self.progress.step == step:
            raise KeyboardInterrupt
        original(self, *args)

    monkeypatch.setattr(loop.Training, "train_step", stop_at)
    with pytest.raises(KeyboardInterrupt):
        pp.fit(runs.small_pair("sigma_cvae_nf", data), data, out=tmp_path / "run", **options)
    monkeypatch.undo()
    pair = runs.small_pair("sigma_cvae_nf", data)
    pp.fit(pair, data, out=tmp_path / "run", resume=True, **options)
    assert runs.same_bits(runs.state(pair), runs.state(whole))
    assert "model.decoder.likelihood.squared_error" in runs.saved_pair(tmp_path / "run")
    assert runs.records(tmp_path / "run") == runs.records(tmp_path / "whole")


def test_several_processes_have_no_common_optimum():
    data = runs.small_data(binarise="none")
    with pytest.raises(ValueError, match="num_processes is 2, but OptimalGaussianLikelihood computes with a whole"):
        pp.fit(runs.small_pair("sigma_vae", data), data, num_processes=2, max_epochs=1, progress=False)


def test_what_does_not_fit_together_is_said():
    sizes = {"x_shape": (6,), "condition_shape": (3,)}
    with pytest.raises(ValueError, match="prior 'vamp' needs the encoder of the guide, and this place has none: use"):
        pp.create("sigma_cvae", prior="vamp", **sizes)
    with pytest.raises(ValueError, match="condition_network 'cnov' is unknown: did you mean 'conv'"):
        pp.create("sigma_cvae_nf", condition_network="cnov", **sizes)
    with pytest.raises(ValueError, match=r"condition_hidden=\(7,\) belongs to condition_network='mlp', got 'conv': le"):
        pp.create("sigma_cvae_nf", condition_network="conv", condition_hidden=(7,), **sizes)
    with pytest.raises(ValueError, match="a flow needs z_dim of at least 2, got 1"):
        pp.create("sigma_cvae_nf", z_dim=1, **sizes)
    for option, value in (("num_transforms", 2), ("hidden_features", (7,)), ("condition_transforms", True)):
        with pytest.raises(ValueError, match=f"{option}=.* belongs to prior='flow', got prior='gaussian': leave"):
            pp.create("sigma_cvae_nf", prior="gaussian", **{option: value}, **sizes)


@pytest.mark.parametrize("name", ["sigma_vae", "vae"])
def test_a_gaussian_of_black_and_white_images_is_warned_of(name):
    options = {"likelihood": "gaussian"} if name == "vae" else {}
    with pytest.warns(UserWarning, match="a Gaussian of gray levels, and the images of digits are black and white: "):
        pp.zoo.create_for(name, runs.small_data(), 0, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pp.zoo.create_for(name, runs.small_data(binarise="none"), 0, **options)
        pp.zoo.create_for("vae", runs.small_data(), 0)
        own = torch.rand(3, 40, 1, 4, 4).round()  # which nothing makes grey
        pp.zoo.create_for(name, pp.data.from_arrays(*own), 0, **options)


@pytest.mark.parametrize("likely", [False, True])
def test_the_error_of_a_category_counts_with_its_probability(float64, likely):
    """Loss and every gradient of cp_vae with an optimal scale, by hand; with one category that is nearly certain, the
    scale is that of its error, whatever the others decode to."""
    pair = pp.create("cp_vae", x_shape=(6,), num_categories=4, z_dim=2, hidden=(5,), likelihood=Gaussian("optimal"))
    pair = randomise(pair.double())
    x = torch.rand(3, 6)
    if likely:
        last = [module for module in pair.guide.category.modules() if isinstance(module, torch.nn.Linear)][-1]
        with torch.no_grad():
            last.weight.zero_()
            last.bias.copy_(torch.tensor([40.0, 0.0, 0.0, 0.0]))
    given = testing._GivenNoise()

    def guide(*args, **kwargs):
        with given:
            return pair.guide(*args, **kwargs)

    loss = pair.elbo.differentiable_loss(pair.model, guide, x)

    features = pair.guide.trunk(x)
    log_q = pair.guide.category(features).logits.log_softmax(-1)
    errors, kls = [], []
    for c in range(4):
        numbers = torch.full((3,), c)
        q, p = pair.guide.latent(features, c=numbers).base_dist, pair.model.prior(context=numbers).base_dist
        z = q.loc + q.scale * given.noise["z"].flatten(0, -3)[c]
        loc = pair.model.decoder(z, c=numbers).base_dist.loc
        errors.append((x - loc).square().sum(-1))
        kls.append(torch.distributions.kl_divergence(q, p).sum(-1))
    error, kl, weight = torch.stack(errors, -1), torch.stack(kls, -1), log_q.exp()
    mse = (weight * error).sum() / x.numel()
    log_scale = -6 + torch.log1p(torch.exp(0.5 * torch.log(mse) + 6))
    reconstruction = -(weight * error).sum(-1) / (2 * torch.exp(2 * log_scale)) - 6 * (
        log_scale + 0.5 * math.log(2 * math.pi)
    )
    kl_c = (weight * (log_q + math.log(4))).sum(-1)
    expected = (kl_c + (weight * kl).sum(-1) - reconstruction).mean()

    assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    for one, other in zip(
        *(torch.autograd.grad(value, list(pair.parameters())) for value in (loss, expected)), strict=True
    ):
        assert_close(one, other, rtol=1e-10, atol=1e-12)
    (likelihood,) = (module for module in pair.modules() if isinstance(module, OptimalGaussianLikelihood))
    assert_close(likelihood.squared_error, mse.detach())
    if likely:
        assert_close(mse, error[:, 0].sum() / x.numel())


def test_an_optimal_scale_is_not_found_from_a_part_of_the_categories(float64):
    pair = pp.create("cp_vae", x_shape=(6,), num_categories=4, z_dim=2, likelihood=Gaussian("optimal")).double()
    with pytest.raises(ValueError, match="chunk_size cannot be used with the likelihood of site 'x'.*leave chunk_size"):
        pp.objectives.ELBO(chunk_size=2).loss(pair.model, pair.guide, torch.rand(3, 6))
    with pair.evaluating():  # the scale is given
        chunks = pp.objectives.ELBO(chunk_size=2).terms(pair.model, pair.guide, torch.rand(3, 6))
    assert chunks.bound.isfinite().all()
