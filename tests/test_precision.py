"""Densities in float32 or wider, whatever precision the networks run in."""

import copy
import math

import pyro.distributions as dist
import pytest
import torch
import torch.nn as nn
from torch import Tensor
from torch.testing import assert_close

import pyro_priors as pp
from pairs import BATCH, NAMES, batch, create, randomise, variants
from pyro_priors import guides, models
from pyro_priors._precision import with_float32_parameters
from pyro_priors.nn import (
    LIKELIHOODS,
    ContinuousBernoulli,
    ContinuousBernoulliLikelihood,
    DiscretisedLogistic,
    DiscretisedLogisticLikelihood,
    GaussianHead,
    GaussianLikelihood,
    JointBernoulli,
    RelaxedCategorical,
    make_likelihood,
    positive,
)
from pyro_priors.objectives import ELBO, OBJECTIVES, log_importance_weights
from pyro_priors.priors import FlowPrior, GaussianMixture, GaussianPrior, StandardPrior, VampPrior

HALF = [torch.bfloat16, torch.float16]
OBJECTIVE = {
    **OBJECTIVES,
    "constrained": lambda: OBJECTIVES["constrained"](kappa_squared=5.0),
    "factor": lambda: OBJECTIVES["factor"](hidden=(7, 5)),
    "total-correlation": lambda: OBJECTIVES["total-correlation"](num_data=20),
    "total-correlation-weighted": lambda: OBJECTIVES["total-correlation"](estimator="weighted", num_data=20),
    "elbo-sampled-kl": lambda: ELBO(analytic_kl=False),
    "elbo-particles": lambda: ELBO(num_particles=3),
}


class Outputs:
    """What every network of some modules gives, in order: recorded in one run, and given again in a later one.

    A later run then computes from the same raw numbers, whatever the precision that its own networks run in.
    """

    def __init__(self) -> None:
        self.found: list[Tensor] = []

    def of(self, modules, given=None):
        """Hooks on all parts of the modules, in a ``with`` statement; ``given`` are the outputs of an earlier run."""
        queue = None if given is None else iter(given)

        def hook(module, args, output):
            if not isinstance(output, Tensor):
                return None
            if queue is not None:
                output = next(queue).to(torch.promote_types(output.dtype, torch.float32))
            self.found.append(output.detach())
            return output

        parts = dict.fromkeys(part for module in modules for part in module.modules())
        return _Hooks([part.register_forward_hook(hook) for part in parts])


class _Hooks:
    def __init__(self, handles) -> None:
        self.handles = handles

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()


def terms_of(pair, objective, args, given=None, autocast=False):
    """Terms of a batch at one seed, and what the networks gave."""
    objective.prepare(pair.model, pair.guide, *args)
    networks = [pair, *(value for value in vars(objective).values() if isinstance(value, nn.Module))]
    outputs = Outputs()
    torch.manual_seed(1)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast), outputs.of(networks, given):
        terms = objective.terms(pair.model, pair.guide, *args)
        loss = terms.loss
    return {**terms.parts, **terms.penalties, **terms.own, "loss": loss}, outputs.found


def assert_equal_terms(half, single):
    assert half.keys() == single.keys()
    for name, value in half.items():
        assert value.dtype is single[name].dtype is torch.float32, name
        assert value.isfinite().all(), name
        assert_close(value, single[name], rtol=1e-6, atol=1e-6)


# every distribution, prior, likelihood and objective


@pytest.mark.parametrize("variant", variants(), ids=str)
def test_autocast_equals_float32_at_equal_raw_outputs(variant):
    """All that is computed from the outputs of networks is the same number as without autocast."""
    pair, args, objective = randomise(variant.create()), variant.batch(), ELBO(analytic_kl=False)
    half, given = terms_of(pair, objective, args, autocast=True)
    assert any(value.dtype is torch.bfloat16 for value in given), "the networks do run in bfloat16"
    single, _ = terms_of(pair, objective, args, given)
    assert_equal_terms(half, single)


@pytest.mark.parametrize("objective", OBJECTIVE)
@pytest.mark.parametrize("name", ["cp_vae", "vae"])
def test_autocast_equals_float32_under_every_objective(name, objective):
    pair = randomise(create(name, likelihood="continuous_bernoulli"))
    args, objective = batch(name, likelihood="continuous_bernoulli"), OBJECTIVE[objective]()
    half, given = terms_of(pair, objective, args, autocast=True)
    single, _ = terms_of(pair, objective, args, given)
    assert_equal_terms(half, single)


@pytest.mark.parametrize("variant", variants(), ids=str)
def test_weights_in_bfloat16_equal_float32_at_equal_raw_outputs(variant):
    """Parameters of priors are bfloat16 then, and data what bfloat16 holds; the densities are those of float32."""
    torch.manual_seed(0)
    pair = randomise(variant.create()).bfloat16()
    args = tuple(value.bfloat16() for value in variant.batch())
    if ("likelihood", "discretised_logistic") in variant.options:
        args = ((args[0] > 0.5).bfloat16(), *args[1:])
    exact = copy.deepcopy(pair).float()
    half, given = terms_of(pair, ELBO(analytic_kl=False), args)
    assert any(value.dtype is torch.bfloat16 for value in given)
    single, _ = terms_of(exact, ELBO(analytic_kl=False), tuple(value.float() for value in args), given)
    assert_equal_terms(half, single)


@pytest.mark.parametrize("objective", OBJECTIVE)
def test_weights_in_bfloat16_under_every_objective(objective):
    pair, args = randomise(create("vae")).bfloat16(), tuple(value.bfloat16() for value in batch("vae"))
    objective = OBJECTIVE[objective]()
    half, given = terms_of(pair, objective, args)
    exact, same = copy.deepcopy(pair).float(), copy.deepcopy(objective)
    assert_equal_terms(half, terms_of(exact, same, tuple(value.float() for value in args), given)[0])
    loss = objective.differentiable_loss(pair.model, pair.guide, *args)
    loss.backward()
    assert all(
        p.grad is not None and p.grad.dtype is torch.bfloat16 and p.grad.isfinite().all() for p in pair.parameters()
    )


@pytest.mark.parametrize("name", NAMES)
def test_importance_weights_and_samples_of_bfloat16(name):
    pair, args = randomise(create(name)).bfloat16().eval(), tuple(value.bfloat16() for value in batch(name))

    def log_weights(pair, args, given=None):
        outputs = Outputs()
        torch.manual_seed(1)
        with torch.no_grad(), outputs.of([pair], given):
            return log_importance_weights(pair.model, pair.guide, *args, num_samples=3), outputs.found

    log_w, given = log_weights(pair, args)
    exact, _ = log_weights(copy.deepcopy(pair).float(), tuple(value.float() for value in args), given)
    assert log_w.shape == (3, BATCH) and log_w.dtype is torch.float32
    assert_close(log_w, exact, rtol=1e-5, atol=1e-5)
    drawn = pair.sample(BATCH, *args[1:])
    assert all(value.dtype in (torch.float32, torch.int64) for value in drawn.values())
    assert pair.reconstruct(*args).dtype is torch.float32
    if pair.num_categories:
        pair.set_aggregate(*args)
        assert pair.aggregate_c.float().sum().item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("flow", ["BPF", "MAF", "NICE", "NSF", "RealNVP"])
def test_flows_of_zuko_in_bfloat16(flow):
    """Its networks in bfloat16, its transforms in float32."""
    pytest.importorskip("zuko")
    options = {"prior": "flow", "transform": f"zuko.{flow}"}
    pair, args = create("vae", **options), batch("vae")
    half, given = terms_of(pair, ELBO(), args, autocast=True)
    assert_equal_terms(half, terms_of(pair, ELBO(), args, given)[0])
    pair = pair.bfloat16()
    half, given = terms_of(pair, ELBO(), tuple(value.bfloat16() for value in args))
    assert_equal_terms(half, terms_of(copy.deepcopy(pair).float(), ELBO(), args, given)[0])


# distributions


def test_continuous_bernoulli_of_a_sure_decoder_under_autocast():
    """784 black pixels at logits -99.5: log 99.5 each."""
    decoder = pp.nn.Decoder(2, (784,), ContinuousBernoulliLikelihood(1), hidden=(5,))
    nn.init.zeros_(decoder.out.input.weight)
    nn.init.constant_(decoder.out.input.bias, -99.5)
    with torch.autocast("cpu", torch.bfloat16):
        log_p = decoder(torch.zeros(1, 2)).log_prob(torch.zeros(784))
    assert log_p.item() == pytest.approx(784 * math.log(99.5), rel=1e-6)


@pytest.mark.parametrize("how", ["autocast", "weights"])
def test_eager_and_compiled_agree(how):
    """The loss of a pair on black images whose decoder is as sure of them."""
    pair = pp.create("vae", x_shape=(784,), hidden=(5,), z_dim=2, likelihood="continuous_bernoulli")
    with torch.no_grad():
        pair.model.decoder.out.input.weight.zero_()
        pair.model.decoder.out.input.bias.fill_(-99.5)
    x, found = torch.zeros(4, 784), []
    if how == "weights":
        pair, x = pair.bfloat16(), x.bfloat16()
    loss = pp.compiled(pair)
    for compute in (lambda: loss(x), lambda: pair.elbo.differentiable_loss(pair.model, pair.guide, x)):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
            found.append(compute().item())
    compiled, eager = found
    assert compiled == pytest.approx(eager, rel=1e-5)
    assert eager == pytest.approx(-784 * math.log(99.5), abs=10)


@pytest.mark.parametrize("dtype", HALF)
def test_levels_of_a_discretised_logistic_sum_to_one_for_half_outputs(dtype):
    raw = torch.tensor([[0.3], [-2.0]], dtype=dtype)
    levels = torch.arange(256) / 255
    log_p = DiscretisedLogisticLikelihood(1)(raw).log_prob(levels.unsqueeze(-1))
    assert log_p.exp().sum().item() == pytest.approx(1, abs=3e-5)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihoods_convert_what_they_read(name, dtype):
    likelihood = make_likelihood(name, (1,))
    raw = (3 * torch.randn(likelihood.num_outputs, 50)).to(dtype)
    x = (torch.rand(50) < 0.5).float()
    found, expected = likelihood(raw).log_prob(x), likelihood(raw.float()).log_prob(x)
    assert found.dtype is torch.float32 and torch.equal(found, expected)
    assert torch.equal(likelihood(raw).log_prob(x.to(dtype)), expected)
    assert likelihood(raw).sample().dtype is likelihood(raw).mean.dtype is torch.float32


class OwnLikelihood(pp.nn.Likelihood):
    def forward(self, raw):
        return dist.Laplace(raw.squeeze(-1 - self.event_dim), 1.0).to_event(self.event_dim)


def test_likelihoods_of_others_read_float32():
    assert OwnLikelihood(1)(torch.randn(1, 5).bfloat16()).base_dist.loc.dtype is torch.float32


@pytest.mark.parametrize("dtype", HALF)
def test_distributions_made_of_half_parameters_are_in_float32(dtype):
    logits, loc = torch.randn(4, 3).to(dtype), torch.randn(4, 3, 2).to(dtype)
    z, mixture = torch.randn(4, 2), GaussianMixture(logits, loc, loc.exp())
    assert torch.equal(mixture.log_prob(z), GaussianMixture(logits.float(), loc.float(), loc.exp().float()).log_prob(z))
    relaxed = RelaxedCategorical(torch.tensor(0.7, dtype=dtype), logits=logits)
    single = RelaxedCategorical(torch.tensor(0.7, dtype=dtype).float(), logits=logits.float())
    c = single.sample()
    assert torch.equal(relaxed.log_prob(c), single.log_prob(c))
    assert torch.equal(relaxed.expand((2, 4)).log_prob(c), single.log_prob(c).expand(2, 4))
    for kind in (ContinuousBernoulli, lambda logits: JointBernoulli(dist.Bernoulli(logits=logits), 0)):
        assert torch.equal(kind(logits).log_prob(torch.ones(3)), kind(logits.float()).log_prob(torch.ones(3)))
    scale = logits.exp()
    assert torch.equal(
        DiscretisedLogistic(logits, scale).log_prob(torch.ones(3)),
        DiscretisedLogistic(logits.float(), scale.float()).log_prob(torch.ones(3)),
    )
    assert positive(logits).dtype is torch.float32 and torch.equal(positive(logits), positive(logits.float()))
    assert GaussianHead(3, 2).to(dtype)(logits).base_dist.scale.dtype is torch.float32


def test_a_relaxed_category_meets_its_prior_in_float32_under_autocast():
    """The weighted means of locations and scales are products of matrices, which autocast would lower."""
    prior, c = GaussianPrior(3, 5), torch.randn(7, 5).log_softmax(-1)
    expected = prior(c)
    with torch.autocast("cpu", torch.bfloat16):
        found = prior(c)
    assert torch.equal(found.base_dist.loc, expected.base_dist.loc)
    assert torch.equal(found.base_dist.scale, expected.base_dist.scale)


def test_a_vamp_prior_of_another_family_is_in_float32():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(6, 2)

        def forward(self, x):
            return dist.Laplace(self.out(x), 1.0).to_event(1)

    prior, z = VampPrior(Encoder(), (6,), 4).bfloat16(), torch.randn(5, 2)
    log_p = prior().log_prob(z)
    assert log_p.dtype is torch.float32
    assert_close(log_p, _laplace_mixture(prior.encoder.out(prior.pseudo_inputs).float(), z))


def _laplace_mixture(loc, z):
    log_q = dist.Laplace(loc, 1.0).to_event(1).log_prob(z.unsqueeze(-2))
    return torch.logsumexp(log_q, -1) - math.log(len(loc))


def test_the_running_scale_stays_in_float32():
    """In bfloat16 moves of the estimate below its rounding would be none."""
    likelihood = pp.nn.OptimalGaussianLikelihood(1)
    likelihood.observe(torch.tensor(0.123456), 100)
    likelihood.bfloat16()
    assert likelihood.squared_error.dtype is torch.float32
    assert likelihood.squared_error.item() == pytest.approx(0.123456)
    assert likelihood.double().squared_error.dtype is torch.float64


# networks of users


class OwnEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(6, 4)

    def forward(self, x):
        assert x.dtype is self.out.weight.dtype
        loc, raw_scale = self.out(x).chunk(2, -1)
        return dist.Normal(loc, nn.functional.softplus(raw_scale)).to_event(1)


class OwnDecoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(2, 6)

    def forward(self, z):
        return dist.Bernoulli(logits=self.out(z)).to_event(1)


@pytest.mark.parametrize("prior", ["standard", "mixture", "vamp", "flow"])
def test_networks_of_others_get_their_own_precision_and_densities_are_in_float32(prior):
    """Under autocast and with weights in bfloat16; KL and density are those of the parameters that they returned."""
    pair = create("vae", prior=prior, encoder=OwnEncoder(), decoder=OwnDecoder())
    (x,) = batch("vae")
    with torch.autocast("cpu", torch.bfloat16):
        parts = ELBO().terms(pair.model, pair.guide, x).parts
        posterior = pair.encode(x)["z"]
    assert {value.dtype for value in parts.values()} == {torch.float32}
    assert posterior.base_dist.scale.dtype is torch.float32
    if prior == "standard":
        expected = torch.distributions.kl_divergence(posterior.base_dist, dist.Normal(torch.zeros(2), 1.0)).sum(-1)
        assert_close(parts["kl_z"], expected, rtol=1e-6, atol=1e-6)
    pair.bfloat16()
    parts = ELBO().terms(pair.model, pair.guide, x.bfloat16()).parts
    assert {value.dtype for value in parts.values()} == {torch.float32}
    assert pair.sample(3)["x"].shape == (3, 6)
    assert pair.log_prob(x.bfloat16(), num_samples=3).dtype is torch.float32


def test_programs_of_others_keep_their_draws():
    """Their networks get what they drew; the densities of it are in float32."""
    encoder, decoder = OwnEncoder().bfloat16(), OwnDecoder().bfloat16()
    model = models.VAE(StandardPrior(2).bfloat16(), decoder)
    pair = pp.Pair(model, guides.VAEGuide(encoder))
    terms = ELBO().terms(pair.model, pair.guide, torch.ones(3, 6).bfloat16())
    assert {value.dtype for value in terms.parts.values()} == {torch.float32}


class OwnCategory(nn.Module):
    def __init__(self, num=10):
        super().__init__()
        self.out = nn.Linear(64, num)

    def forward(self, x):
        return dist.Categorical(logits=self.out(x))


@pytest.mark.parametrize("how", ["autocast", "weights"])
def test_categories_of_your_own_network_have_probabilities_that_sum_to_one(how):
    """In half precision they were divided by a sum of few digits: off by a percent, and the bound by nats."""
    options = {"z_dim": 2, "hidden": (5,), "num_categories": 10, "own_category_network": True}
    pair = pp.create("cp_vae", x_shape=(64,), **options)
    pair.guide.category = OwnCategory()
    x = torch.randint(2, (8, 64)).float()
    if how == "weights":
        pair, x = pair.bfloat16(), x.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        raw, q = pair.guide.category.out(x).float(), pair.encode(x)["c"]
        parts = ELBO().terms(pair.model, pair.guide, x).parts
    assert_close(q.logits, raw.log_softmax(-1), rtol=0, atol=2e-2)  # the network's own rounding
    assert_close(q.logits.exp().sum(-1), torch.ones(8), rtol=0, atol=1e-6)
    assert_close(parts["kl_c"], (q.probs * (q.logits + math.log(10))).sum(-1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["logits", "probs"])
@pytest.mark.parametrize("kind", ["Categorical", "OneHotCategorical", "MixtureSameFamily"])
def test_every_categorical_sums_to_one(kind, name):
    logits = 3 * torch.randn(5, 10).bfloat16()
    categories = dist.Categorical(**{name: logits if name == "logits" else logits.float().softmax(-1).bfloat16()})
    if kind == "Categorical":
        found = with_float32_parameters(categories)
    elif kind == "OneHotCategorical":
        found = with_float32_parameters(dist.OneHotCategorical(**{name: getattr(categories, name)}))._categorical
    else:
        components = dist.Normal(torch.zeros(5, 10).bfloat16(), 1.0)
        found = with_float32_parameters(dist.MixtureSameFamily(categories, components)).mixture_distribution
    assert_close(found.probs.sum(-1), torch.ones(5), rtol=0, atol=1e-6)
    assert_close(found.logits.exp(), found.probs, rtol=1e-5, atol=1e-7)
    assert_close(found.expand((3, 5)).log_prob(torch.tensor(2)), found.logits[:, 2].expand(3, 5))


@pytest.mark.parametrize("event_dim", [0, 1])
def test_transforms_of_a_distribution_are_in_float32(event_dim):
    """Their log-determinants are sums of hundreds of terms, of which bfloat16 keeps two digits."""
    loc, scale, z = torch.zeros(784), torch.full((784,), 0.1).bfloat16(), 0.1 * torch.randn(784)

    def made(dtype):
        base = dist.Normal(loc.to(dtype), torch.ones(784, dtype=dtype)).to_event(event_dim)
        affine = torch.distributions.transforms.AffineTransform(loc.to(dtype), scale.to(dtype), event_dim=event_dim)
        composed = torch.distributions.ComposeTransform([affine, affine.inv, affine])
        return dist.TransformedDistribution(base, [composed]).to_event(1 - event_dim)

    half = made(torch.bfloat16)
    expected = made(torch.float64).log_prob(z.double())
    assert_close(with_float32_parameters(half).log_prob(z).double(), expected, rtol=1e-5, atol=0)
    own = half if event_dim else half.base_dist
    assert own.transforms[0].parts[0].scale.dtype is torch.bfloat16, "the given distribution stays as it was"


def test_nothing_is_converted_where_nothing_is_narrow():
    normal = dist.Normal(torch.zeros(3), torch.ones(3)).to_event(1)
    assert with_float32_parameters(normal) is normal
    half = dist.Normal(torch.zeros(3).bfloat16(), torch.ones(3).bfloat16()).to_event(1)
    converted = with_float32_parameters(half)
    assert type(converted) is type(half) and converted.event_shape == half.event_shape
    assert converted.base_dist.loc.dtype is torch.float32 and half.base_dist.loc.dtype is torch.bfloat16
    bernoulli = dist.Bernoulli(logits=torch.randn(3).bfloat16())
    assert with_float32_parameters(bernoulli).log_prob(torch.ones(3)).dtype is torch.float32


def test_a_flow_keeps_the_digits_of_a_half_draw():
    """What is in half precision is the draw: its density is that of float32."""
    prior, z = FlowPrior(2), torch.randn(5, 2).bfloat16()
    assert torch.equal(prior().log_prob(z), prior().log_prob(z.float()))
    assert prior.to_base(z).dtype is torch.float32


# data that a precision rounds


def gray(num=20):
    return (torch.randint(256, (num, 6)) / 255).float()


@pytest.mark.parametrize("likelihood", ["continuous_bernoulli", "gaussian", "discretised_logistic"])
def test_training_in_bfloat16_refuses_data_that_it_rounds(likelihood, tmp_path):
    x = torch.full((20, 6), 200 / 255)
    pair, out = pp.create("vae", x_shape=(6,), z_dim=2, hidden=(5,), likelihood=likelihood), tmp_path / "run"
    data = pp.data.from_arrays(x, x[:5])
    message = (
        "^precision='bf16-true' would round x of the train part, 0.784314 to 0.785156: use precision='bf16-mixed', "
        "which does not change the data, or '32-true'$"
    )
    with pytest.raises(ValueError, match=message):
        pp.fit(pair, data, max_epochs=1, precision="bf16-true", progress=False, out=out)
    assert not out.exists()
    assert next(pair.parameters()).dtype is torch.float32
    halves = torch.full((20, 6), 0.5)
    with pytest.raises(ValueError, match="of the valid part, 0.784314 to 0.785156"):
        pp.fit(pair, pp.data.from_arrays(halves.round(), x[:5]), max_epochs=1, precision="bf16-true", progress=False)


def test_training_in_bfloat16_takes_data_that_it_holds():
    x = (torch.randint(2, (20, 6)) / 2).float()
    pair = pp.create("vae", x_shape=(6,), z_dim=2, hidden=(5,), likelihood="gaussian")
    history = pp.fit(
        pair, pp.data.from_arrays(x, x[:5]), max_epochs=1, batch_size=5, precision="bf16-true", progress=False
    )
    assert math.isfinite(history.epochs[0]["valid_bound"])
    assert next(pair.parameters()).dtype is torch.bfloat16


@pytest.mark.parametrize("dtype", HALF)
def test_gray_levels_in_half_precision_are_refused(dtype):
    pair, x = create("vae", likelihood="discretised_logistic").to(dtype), gray().to(dtype)
    x[0, 0] = 200 / 255
    message = (
        f"x must be gray levels k/255, of which {dtype} holds 0 and 1 alone, got 0.78.*: give x and the pair in fl"
    )
    with pytest.raises(ValueError, match=f"^{message}"):
        DiscretisedLogisticLikelihood(1)(torch.zeros(2, 1, dtype=dtype)).log_prob(x[:1, :1])
    with pytest.raises(ValueError, match="x must be gray levels k/255"):
        pair.log_prob(x, num_samples=2)
    with pytest.raises(ValueError, match="x has values outside the support|x must be gray levels k/255"):
        pp.compiled(pair)(x)
    assert pair.log_prob(x.round(), num_samples=2).isfinite().all()


def test_a_learned_scale_of_bfloat16_is_read_in_float32():
    """softplus of the parameter in bfloat16 would be off by one part in 256, which is 1 nat of 784 values."""
    likelihood = GaussianLikelihood(1, init_scale=0.1).bfloat16()
    exact = positive(likelihood.raw_scale.double()).item()
    assert likelihood(torch.zeros(1, 3).bfloat16()).base_dist.scale.double()[0].item() == pytest.approx(exact, rel=1e-6)
