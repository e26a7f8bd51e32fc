"""Categories summed in part: the most probable ones and one drawn from the rest, chunks, and the relaxed category."""

import math
from contextlib import nullcontext
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch.distributions import RelaxedOneHotCategorical
from torch.testing import assert_close

import pyro_priors as pp
from by_hand.formulae import affine, gaussian, log_bernoulli, log_normal, perceptron, scale_of
from pairs import GivenNoise, batch, create, gradients, randomise
from pyro_priors.experiments.lavda2019.tables import INFORMATION
from pyro_priors.metrics import Estimate, active_categories, effective_categories, evaluate
from pyro_priors.nn import RelaxedCategorical, Temperature, category_of
from pyro_priors.objectives import ELBO, Beta, EnumELBO, KLWeight, log_importance_weights
from pyro_priors.objectives.categories import SomeCategories
from pyro_priors.registration import data_plate

pytestmark = pytest.mark.usefixtures("float64")

NUM = 7


def _sparse(num_enumerated, **options):
    pair = create("cp_vae", num_categories=NUM, category="sparse", num_enumerated=num_enumerated, **options)
    return randomise(pair)


def _as(values, expand):
    return values[:, None]


def _assert_same_gradients(pair, one, other):
    theirs = gradients(pair, other)
    for name, gradient in gradients(pair, one).items():
        assert_close(gradient, theirs[name], rtol=1e-10, atol=1e-13, msg=lambda text, name=name: f"{name}: {text}")


# sparse: the most probable ones, and one of the rest


@pytest.mark.parametrize(
    "kind", [EnumELBO, Beta, partial(EnumELBO, analytic_kl=False)], ids=["elbo", "beta", "sampled"]
)
@pytest.mark.parametrize("num_enumerated", [1, 3, NUM - 2])
def test_over_all_draws_the_sparse_estimate_is_the_whole_sum(num_enumerated, kind, monkeypatch):
    """Each category of the rest is drawn in its turn, and loss and gradients are weighted by the probability of that
    draw, at the same noise of z: together they are those of full enumeration, at 1e-10."""
    pair, (x,) = _sparse(num_enumerated), batch("cp_vae", 1)
    exact, sparse = kind(), kind()
    exact.exact = True
    with GivenNoise(0.7):
        whole = exact(pair.model, pair.guide)(x)
    log_q = pair.encode(x)["c"].logits[0]
    order = log_q.argsort(descending=True)
    rest = order[num_enumerated:]
    estimate = 0.0
    for drawn, share in zip(rest, log_q[rest].softmax(0), strict=True):
        values = torch.cat([order[:num_enumerated], drawn[None]])
        monkeypatch.setattr(SomeCategories, "enumerate_support", partial(_as, values))
        with GivenNoise(0.7):
            estimate = estimate + share * sparse(pair.model, pair.guide)(x)
    assert_close(estimate, whole, rtol=1e-10, atol=1e-13)
    _assert_same_gradients(pair, estimate, whole)


def test_the_rest_is_drawn_by_its_probabilities():
    """20,000 draws, each for one member of a batch: the top is the top, the rest comes in proportion to q(c), within 4
    standard errors; the weights are q of the top and all that is left."""
    logits = torch.tensor([1.0, -0.3, 0.4, 2.0, -1.0])
    q = logits.softmax(0)
    some = SomeCategories(logits.expand(20_000, 5), 2)
    values = some.enumerate_support(expand=False)
    assert values.shape == (3, 20_000)
    assert (values[0] == 3).all() and (values[1] == 0).all()
    left = 1 - q[0] - q[3]
    for c in (1, 2, 4):
        share = (values[2] == c).double().mean()
        wanted = q[c] / left
        assert abs(share - wanted) < 4 * math.sqrt(wanted * (1 - wanted) / 20_000)
    weight = some.log_weight(values).exp()
    assert_close(weight, torch.stack([q[3], q[0], left])[:, None].expand(3, 20_000))


def test_a_rest_without_mass_has_a_finite_gradient():
    """q(c|x) in one category to the last bit: the drawn one weighs nothing, and nothing is NaN."""
    pair, (x,) = _sparse(1), batch("cp_vae")
    with torch.no_grad():
        pair.guide.category.logits.input.weight.zero_()
        pair.guide.category.logits.input.bias.copy_(torch.tensor([900.0] + [0.0] * (NUM - 1)))
    loss = pair.elbo(pair.model, pair.guide)(x)
    assert all(gradient.isfinite().all() for gradient in gradients(pair, loss).values())


def test_the_centre_takes_the_size_of_the_terms_out_of_the_gradient(monkeypatch):
    """Variance of the gradient over 100 seeds, with and without the mean over the most probable categories subtracted;
    a likelihood of 784 pixels, of which a constant part is common to all categories."""
    pair = _sparse(2, x_shape=(784,))
    x = torch.ones(2, 784)

    def variance():
        found = []
        for seed in range(100):
            torch.manual_seed(seed)
            loss = pair.elbo(pair.model, pair.guide)(x)
            found.append(torch.cat([value.flatten() for value in gradients(pair, loss).values()]))
        return torch.stack(found).var(0).sum()

    with_centre = variance()
    monkeypatch.setattr("pyro_priors.objectives.expectation.Expectation._centre", lambda self, weight, term, dims: 0.0)
    assert variance() > 3 * with_centre


def test_evaluations_sum_all_categories():
    """What is sparse in training is exact in importance weights and in the metrics."""
    pair, x = _sparse(2).float(), batch("cp_vae", 8)[0].float()
    full = create("cp_vae", num_categories=NUM).float()
    full.load_state_dict(pair.state_dict())
    data = pp.data.from_arrays(x.numpy(), x.numpy(), x.numpy())
    for one, other in (
        (lambda p: log_importance_weights(p.model, p.guide, x, num_samples=3), torch.equal),
        (lambda p: p.log_prob(x, num_samples=3), torch.equal),
        (lambda p: torch.tensor(evaluate(p, data, metrics=["bound"], progress=False)["bound"].value), torch.equal),
    ):
        torch.manual_seed(0)
        found = one(pair)
        torch.manual_seed(0)
        assert other(found, one(full))


@pytest.mark.parametrize("num_enumerated", [None, 2])
def test_drawn_categories_estimate_the_same_log_p(num_enumerated):
    """The weights are p(x, z, c) / q(z, c | x) of the draws, one row of networks for each, and their mean is that of
    the weights with c summed: within 4 standard errors of 20,000, wrong at one of 16,000 seeds."""
    pair, (x,) = _sparse(num_enumerated) if num_enumerated else create("cp_vae", num_categories=NUM), batch("cp_vae", 3)
    pair.eval()
    with poutine.trace() as guide_trace, torch.no_grad(), pyro.plate("particles", 7, dim=-2):
        torch.manual_seed(0)
        pair.guide(x)
    with poutine.trace() as model_trace, torch.no_grad(), pyro.plate("particles", 7, dim=-2):
        poutine.replay(pair.model, guide_trace.trace)(x)
    sites = [(model_trace.trace.nodes[name], 1) for name in "czx"] + [(guide_trace.trace.nodes[n], -1) for n in "cz"]
    torch.manual_seed(0)
    log_w = log_importance_weights(pair.model, pair.guide, x, num_samples=7, categories="draw")
    torch.manual_seed(0)
    assert_close(pair.log_prob(x, num_samples=7, categories="draw"), log_w.logsumexp(0) - math.log(7))
    assert_close(log_w, sum(sign * site["fn"].log_prob(site["value"]) for site, sign in sites).expand(7, 3))
    means, errors = [], []
    for categories in ("sum", "draw"):
        torch.manual_seed(1)
        with torch.no_grad():
            log_w = log_importance_weights(pair.model, pair.guide, x, num_samples=20_000, categories=categories)
        means.append(log_w.exp().mean(0))
        errors.append(log_w.exp().std(0) / 20_000**0.5)
    assert ((means[0] - means[1]).abs() < 4 * (errors[0] ** 2 + errors[1] ** 2).sqrt()).all()
    with pytest.raises(ValueError, match="categories must be one of sum, draw, got 'some'"):
        pair.log_prob(x, categories="some")


def test_pyros_own_objective_sums_all(monkeypatch):
    """TraceEnum_ELBO knows nothing of num_enumerated, and goes on summing every category, compiled too."""
    from pyro.infer import TraceEnum_ELBO

    pair, (x,) = _sparse(2), batch("cp_vae")
    full = create("cp_vae", num_categories=NUM)
    full.load_state_dict(pair.state_dict())
    losses = []
    for one in (pair, full):
        torch.manual_seed(0)
        losses.append(TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(one.model, one.guide, x))
    assert torch.equal(*losses)
    monkeypatch.setattr("pyro_priors.tracing.inductor.compile_graph", lambda graph, inputs: graph)
    torch.manual_seed(0)
    compiled = pp.compiled(pair, TraceEnum_ELBO(max_plate_nesting=1))
    assert_close(compiled(x), losses[0], rtol=1e-10, atol=0)


@pytest.mark.parametrize("num_enumerated", [NUM - 1, NUM, NUM + 5])
def test_so_many_that_none_is_left_is_full_enumeration(num_enumerated):
    pair, (x,) = _sparse(num_enumerated), batch("cp_vae")
    losses = []
    for exact in (False, True):
        elbo = EnumELBO()
        elbo.exact = exact
        torch.manual_seed(0)
        losses.append(elbo(pair.model, pair.guide)(x))
    assert torch.equal(*losses)


# chunks


@pytest.mark.parametrize("chunk_size", [1, 2, 3, NUM - 1, NUM, 50])
@pytest.mark.parametrize(
    "options", [{}, {"analytic_kl": False}, {"num_particles": 3}], ids=["closed", "sampled", "particles"]
)
def test_chunks_add_up_to_the_whole(chunk_size, options):
    """Loss, parts and gradients equal those of all categories at once, at the same noise and with weights."""
    pair, (x,) = randomise(create("cp_vae", num_categories=NUM)), batch("cp_vae")
    whole, chunked = ELBO(**options), ELBO(**options, chunk_size=chunk_size)
    for elbo in (whole, chunked):
        elbo.kl_weight = {"z": 0.3, "c": 0.7}
    with GivenNoise(0.7):
        expected, found = whole.terms(pair.model, pair.guide, x), chunked.terms(pair.model, pair.guide, x)
    assert_close(found.loss, expected.loss, rtol=1e-10, atol=1e-13)
    for name, part in expected.parts.items():
        assert_close(found.parts[name], part.detach(), rtol=1e-10, atol=1e-13)
    _assert_same_gradients(pair, 2 * found.loss, 2 * expected.loss)


def test_a_chunk_is_all_that_is_in_memory():
    """The largest tensor that a chunked loss keeps or passes is as large with 3 categories as with 300."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                Largest.size = max(Largest.size, out.untyped_storage().nbytes())
            return out

    pair, x = create("cp_vae", num_categories=300, x_shape=(500,)), torch.ones(20, 500)
    sizes = []
    for elbo in (EnumELBO(chunk_size=3), EnumELBO()):
        Largest.size = 0
        with Largest():
            elbo(pair.model, pair.guide)(x).backward()
        sizes.append(Largest.size)
    assert sizes[0] <= 3 * 20 * 500 * 8 and sizes[1] >= 300 * 20 * 500 * 8


def test_chunks_have_the_gradient_of_every_leaf():
    """Of a parameter of Pyro's store, of x and what it was computed of, of a weight: none is left out, as a function
    of modules alone would."""
    pair, (x,) = randomise(create("cp_vae", num_categories=NUM)), batch("cp_vae")
    origin, weight = (0.5 * x).requires_grad_(), torch.tensor(0.6).requires_grad_()

    def guide(x, *args, **kwargs):
        return pair.guide(x * pyro.param("factor", torch.tensor(1.5)))

    losses = []
    for elbo in (EnumELBO(), EnumELBO(chunk_size=3)):
        elbo.kl_weight = weight
        with GivenNoise(0.7):
            loss = elbo.differentiable_loss(pair.model, KLWeight(0.5)(guide), (2 * origin).clamp(0, 1))
        leaves = [origin, weight, pyro.param("factor").unconstrained(), *pair.parameters()]
        losses.append((loss, *torch.autograd.grad(loss, leaves)))
    for one, other in zip(*losses, strict=True):
        assert_close(one, other, rtol=1e-10, atol=1e-13)


def test_chunks_without_a_gradient_and_with_a_second_one():
    pair, (x,) = create("cp_vae", num_categories=NUM), batch("cp_vae")
    loss = EnumELBO(chunk_size=3)(pair.model, pair.guide)(x)
    with pytest.raises(RuntimeError, match="a loss with chunk_size has no second derivatives: leave chunk_size out"):
        torch.autograd.grad(loss, list(pair.parameters()), create_graph=True)
    pair.requires_grad_(False)
    assert not EnumELBO(chunk_size=3)(pair.model, pair.guide)(x).requires_grad


def test_chunks_are_not_compiled():
    """A graph of all chunks would keep all of them in memory, as was measured."""
    pair, (x,) = randomise(create("cp_vae", num_categories=NUM)), batch("cp_vae")
    elbo = EnumELBO(chunk_size=3)
    losses = []
    for loss in (elbo(pair.model, pair.guide), pp.compiled(pair, elbo)):
        torch.manual_seed(0)
        with pytest.warns(pp.EagerWarning, match="one graph would hold all chunks") if len(losses) else nullcontext():
            losses.append(loss(x))
    assert torch.equal(*losses)
    _assert_same_gradients(pair, *losses)


class Backwards(torch.nn.Module):
    """z and then c: the prior of c depends on what the guide draws after it."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(2, NUM))
        self.mean = torch.nn.Parameter(torch.randn(NUM, 2))

    def model(self, x, condition=None, size=None):
        with data_plate(x, condition, size):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("c", dist.Categorical(logits=z @ self.weight))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x, condition=None, size=None, num_enumerated=None):
        with data_plate(x, condition, size):
            infer = {"enumerate": "parallel", "num_enumerated": num_enumerated}
            c = pyro.sample("c", dist.Categorical(logits=x @ self.weight), infer=infer)
            pyro.sample("z", dist.Normal(self.mean[c], 0.5).to_event(1))


def test_no_closed_form_where_the_orders_differ(monkeypatch):
    """A prior p(c|z) of a guide that draws z after c: full, chunked and, over all draws, sparse sums agree."""
    programs, x = Backwards(), torch.randn(1, 2)
    with GivenNoise(0.7):
        whole = ELBO().terms(programs.model, programs.guide, x)
        chunked = ELBO(chunk_size=2).terms(programs.model, programs.guide, x)
    assert_close(chunked.parts["kl_c"], whole.parts["kl_c"].detach(), rtol=1e-10, atol=1e-13)
    log_q = (x @ programs.weight).log_softmax(-1)[0].detach()
    order, sparse = log_q.argsort(descending=True), 0.0
    for drawn, share in zip(order[2:], log_q[order[2:]].softmax(0), strict=True):
        values = torch.cat([order[:2], drawn[None]])
        monkeypatch.setattr(SomeCategories, "enumerate_support", partial(_as, values))
        with GivenNoise(0.7):
            terms = ELBO().terms(programs.model, partial(programs.guide, num_enumerated=2), x)
        sparse = sparse + share * terms.parts["kl_c"]
    assert_close(sparse, whole.parts["kl_c"], rtol=1e-10, atol=1e-13)


def test_no_closed_form_of_gaussians_where_the_orders_differ():
    def model(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            z2 = pyro.sample("z2", dist.Normal(3 * z1, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z2, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(x, 1.0).to_event(1))
            pyro.sample("z1", dist.Normal(0.5 * z2, 1.0).to_event(1))

    x, parts = torch.randn(5, 2), []
    for analytic in (True, False):
        torch.manual_seed(0)
        parts.append(ELBO(analytic).terms(model, guide, x).parts["kl_z2"])
    assert torch.equal(*parts)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_neither_draws_nor_weighs_coarsely(dtype):
    """500 even categories: each tenth of them is drawn in a tenth of 20,000 draws, within 4 standard errors."""
    some = SomeCategories(torch.zeros(20_000, 500, dtype=dtype), 1)
    values = some.enumerate_support(expand=False)
    assert_close(some.log_weight(values).exp().sum(0), torch.ones(20_000, dtype=torch.float32))
    share = torch.bincount(values[1] // 50, minlength=10) / 20_000
    assert (share - 0.1).abs().max() < 4 * math.sqrt(0.09 / 20_000)


def test_what_cannot_be_chunked_is_refused():
    pair, args = create("vae"), batch("vae")
    with pytest.raises(ValueError, match="chunk_size=2 needs one enumerated category, got sites none: leave chunk_siz"):
        ELBO(chunk_size=2)(pair.model, pair.guide)(*args)
    with pytest.raises(ValueError, match="num_enumerated of site 'c' must be at least 1, got 0"):
        programs = Backwards()
        ELBO().terms(programs.model, partial(programs.guide, num_enumerated=0), torch.randn(3, 2))
    with pytest.raises(ValueError, match="chunk_size must be at least 1, got 0"):
        EnumELBO(chunk_size=0)


# relaxed


def test_the_relaxed_density_is_torchs_on_the_simplex():
    """By change of variables: the density of the weights is that of their logarithms over the product of the weights.
    Of two categories it integrates to one."""
    logits, temperature = torch.tensor([0.3, -1.0, 0.8]), torch.tensor(0.7)
    ours, theirs = RelaxedCategorical(temperature, logits=logits), RelaxedOneHotCategorical(temperature, logits=logits)
    log_weights = ours.sample((50,))
    assert_close(log_weights.exp().sum(-1), torch.ones(50))
    assert_close(ours.log_prob(log_weights) - log_weights.sum(-1), theirs.log_prob(log_weights.exp()))
    odds = torch.linspace(-60, 60, 100_001)
    both = torch.stack([torch.nn.functional.logsigmoid(odds), torch.nn.functional.logsigmoid(-odds)], -1)
    # w = sigmoid(odds), dw = w (1 - w) d odds, and the density of w is that of the logarithms over w (1 - w)
    density = RelaxedCategorical(temperature, logits=logits[:2]).log_prob(both).exp()
    assert_close(torch.trapezoid(density, odds), torch.tensor(1.0), rtol=1e-8, atol=0)


def test_the_largest_weight_is_drawn_by_the_categorical():
    logits = torch.tensor([0.3, -1.0, 0.8])
    drawn = RelaxedCategorical(torch.tensor(0.5), logits=logits).sample((20_000,)).argmax(-1)
    for c, wanted in enumerate(logits.softmax(0)):
        assert abs((drawn == c).double().mean() - wanted) < 4 * math.sqrt(wanted * (1 - wanted) / 20_000)


def test_the_temperature_falls_as_published():
    """REFERENCE values of the released code: .962 at epoch 50, .859 at 100, .712 at 150, .547 at 200, .5 from 215."""
    temperature, published = Temperature(), {0: 1.0, 50: 0.962, 100: 0.859, 150: 0.712, 200: 0.547, 215: 0.5, 900: 0.5}
    for epoch, value in published.items():
        temperature.start_epoch(epoch)
        assert temperature().item() == pytest.approx(value, abs=1e-3)
    temperature.start_epoch(214)
    assert temperature().item() > 0.5


def test_the_relaxed_bound_equals_the_equations():
    """log p(x|z,w) + log p(z|w) + log p(w) - log q(z|x,w) - log q(w|x), with the two densities of w those of torch on
    the simplex, everything in the places of the one-hot category linear in w."""
    pair, (x,) = randomise(create("cp_vae", category="relaxed")), batch("cp_vae")
    state = dict(pair.state_dict(keep_vars=True))
    for module in pair.modules():
        if isinstance(module, Temperature):
            module.start_epoch(120)
            temperature = module()
    torch.manual_seed(0)
    loss = ELBO(analytic_kl=False)(pair.model, pair.guide)(x)

    torch.manual_seed(0)
    h = perceptron(state, "guide.trunk.mlp", x)
    logits = affine(state, "guide.category.logits", h)
    q_w = RelaxedOneHotCategorical(temperature, logits=logits)
    w = q_w.rsample()
    latent = "guide.latent.parameters_of_z"
    loc, scale = gaussian(affine(state, latent, h) + w @ state[f"{latent}.category.weight"])
    z = loc + scale * torch.normal(torch.zeros_like(loc), torch.ones_like(loc))
    prior_loc, prior_scale = w @ state["model.prior.loc"], w @ scale_of(state["model.prior.raw_scale"])
    seen = w @ state["model.decoder.trunk.first.category.weight"]
    x_logits = affine(state, "model.decoder.out", perceptron(state, "model.decoder.trunk", z, seen))
    p_w = RelaxedOneHotCategorical(temperature, logits=torch.zeros(logits.shape[-1]))
    kl_z = log_normal(z, loc, scale) - log_normal(z, prior_loc, prior_scale)
    by_hand = (q_w.log_prob(w) - p_w.log_prob(w) + kl_z - log_bernoulli(x, x_logits)).mean()
    assert_close(loss, by_hand, rtol=1e-10, atol=1e-13)
    _assert_same_gradients(pair, loss, by_hand)


def test_a_relaxed_category_is_a_category_in_evaluation():
    """In evaluation mode the programs are those of the enumerated pair, and every method of a pair is evaluation."""
    pair, (x,) = randomise(create("cp_vae", category="relaxed")), batch("cp_vae")
    full = create("cp_vae")
    full.load_state_dict({name: value for name, value in pair.state_dict().items() if "temperature" not in name})
    assert pair.training
    for method in (lambda p: p.log_prob(x, num_samples=2), lambda p: p.reconstruct(x), lambda p: p.sample(4)["x"]):
        torch.manual_seed(0)
        found = method(pair)
        torch.manual_seed(0)
        assert torch.equal(found, method(full))
    assert pair.training and pair.guide.category.training
    pair.eval()
    losses = []
    for one in (pair, full):
        torch.manual_seed(0)
        losses.append(EnumELBO()(one.model, one.guide)(x))
    assert torch.equal(*losses)


def test_training_lowers_the_temperature():
    data = pp.data.from_arrays(*[(torch.rand(20, 6) < 0.5).float().numpy()] * 3)
    torch.set_default_dtype(torch.float32)
    pair = create("cp_vae", category="relaxed")
    pp.fit(pair, data, max_epochs=3, batch_size=10, progress=False)
    assert pair.guide.category.temperature is pair.model.temperature
    assert pair.model.temperature().item() == pytest.approx(math.exp(-3e-5 * 3))


# the released code


def test_sparse_categories_are_not_trained_in_chunks():
    data = pp.data.from_arrays(torch.zeros(20, 6), torch.zeros(5, 6), torch.zeros(5, 6))
    pair = pp.create("cp_vae", x_shape=(6,), category="sparse", num_enumerated=2)
    with pytest.raises(ValueError, match=r"chunk_size=4 sums all categories, but the pair sums only a few .*: leave"):
        pp.fit(pair, data, EnumELBO(chunk_size=4), progress=False)


@pytest.mark.parametrize("temperature", [None, Temperature()])
def test_categories_are_single_precision_at_least(temperature):
    """In bfloat16, as logits are under autocast, uniform draws are multiples of 1/128, and weights sum to no one."""
    logits = torch.tensor([6.0] + 9 * [0.0]).bfloat16().expand(20_000, 10)
    torch.manual_seed(0)
    q = category_of(logits, temperature, training=True)
    c = q.sample()
    if temperature is not None:
        assert_close(c.exp().sum(-1), torch.ones(20_000), rtol=0, atol=1e-5, check_dtype=False)
        c = c.argmax(-1)
    share = (c != 0).double().mean()
    expected = 9 / (9 + math.exp(6))
    assert abs(share - expected) < 4 * math.sqrt(expected / 20_000), "of the draws another than the most probable"
    assert q.logits.dtype is torch.float32


def test_a_relaxed_bound_leaves_running_statistics_alone():
    class Normalised(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(6)
            self.out_dim = 6

        def forward(self, x):
            return self.norm(x)

    data = pp.data.from_arrays(*((torch.rand(30, 6) < 0.5).float() for _ in range(3)))
    pair = pp.create("cp_vae", x_shape=(6,), z_dim=2, hidden=(6,), category="relaxed", encoder=Normalised()).float()
    before = {name: buffer.clone() for name, buffer in pair.named_buffers()}
    assert "relaxed_bound" in evaluate(pair, data, metrics=["bound"], progress=False)
    assert all(torch.equal(buffer, before[name]) for name, buffer in pair.named_buffers())


@pytest.mark.parametrize("epoch", [0, 120])
def test_the_loss_of_the_reference_implementation_equals_its_equation(epoch):
    """Two soft draws; one posterior, at the first of them, against all components; the KL of a category; the numbers of
    the prior read as a log-variance through a softplus of 0.5; logits through an ELU; log-variances cut off."""
    pair, (x,) = randomise(create("cp_vae_reference")), batch("cp_vae")
    pair.guide.temperature.start_epoch(epoch)
    state = dict(pair.state_dict(keep_vars=True))
    torch.manual_seed(0)
    loss = ELBO()(pair.model, pair.guide)(x)

    torch.manual_seed(0)
    h = perceptron(state, "guide.trunk.mlp", x)
    logits = torch.nn.functional.elu(affine(state, "guide.category.logits", h))
    relaxed = RelaxedOneHotCategorical(torch.tensor(math.exp(-3e-5 * epoch * (epoch + 1) / 2)), logits=logits)
    first = relaxed.rsample()
    latent = "guide.latent.parameters_of_z"
    loc, log_variance = (affine(state, latent, h) + first @ state[f"{latent}.category.weight"]).chunk(2, -1)
    log_variance = log_variance.clamp(-6, 2)
    second = relaxed.rsample()
    z = loc + (log_variance / 2).exp() * torch.normal(torch.zeros_like(loc), torch.ones_like(loc))
    seen = second @ state["model.decoder.trunk.first.category.weight"]
    x_logits = affine(state, "model.decoder.out", perceptron(state, "model.decoder.trunk", z, seen))
    pi = logits.softmax(-1)
    loss_by_hand = (pi * pi.log()).sum(-1) + math.log(pi.shape[-1]) - log_bernoulli(x, x_logits)
    for k in range(pi.shape[-1]):
        prior_log_variance = torch.nn.functional.softplus(state["model.prior.raw_scale"][k], beta=0.5)
        squares = (log_variance.exp() + (loc - state["model.prior.loc"][k]) ** 2) / prior_log_variance.exp()
        kl = 0.5 * (prior_log_variance - log_variance + squares - 1).sum(-1)
        loss_by_hand = loss_by_hand + pi[:, k] * kl
    assert_close(loss, loss_by_hand.mean(), rtol=1e-10, atol=1e-13)
    _assert_same_gradients(pair, loss, loss_by_hand.mean())


def test_the_prior_of_the_reference_implementation_is_not_trained_and_is_read_in_two_ways():
    """Scales from 2 to 2.65 in training, e^r in generation; the first weights have variance 2 / fan_in."""
    pair = create("cp_vae_reference", num_categories=50, z_dim=20, hidden=(100, 100))
    prior = pair.model.prior
    assert pair.guide.prior is prior and not list(prior.parameters())
    c = torch.arange(50)
    assert prior(c).stddev.min() >= 2 and prior(c).stddev.max() <= 1 + math.exp(0.5)
    assert_close(prior.generated(c).stddev, prior.raw_scale.exp())
    z = pair.sample(20_000, c=3)["z"]
    assert ((z.std(0) / prior.raw_scale[3].exp()).log().abs() < 0.05).all()
    weight = pair.model.decoder.trunk.first.input.weight
    assert weight.var().item() == pytest.approx(2 / (20 + 50), rel=0.05)


def test_the_reference_implementation_meets_an_honest_bound_in_evaluation():
    """In evaluation mode the bound lies below log p(x) (the mean of 500 draws, 5000 importance samples)."""
    pair, (x,) = create("cp_vae_reference"), batch("cp_vae")
    log_p = pair.log_prob(x, num_samples=5000)
    pair.eval()
    terms = EnumELBO(num_particles=500).terms(pair.model, pair.guide, x)
    assert terms.parts.keys() == {"reconstruction", "kl_c", "kl_z"}
    assert (terms.bound < log_p + 0.01).all()


# options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"category": "spares"}, "category 'spares' is unknown: did you mean 'sparse'?"),
        (
            {"num_enumerated": 3},
            "num_enumerated=3 belongs to category='sparse' or 'relaxed', got category='enumerated'",
        ),
        ({"category": "sparse", "num_enumerated": 0}, "num_enumerated must be a positive integer, got 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        create("cp_vae", **options)


def test_information_of_the_table_is_that_of_the_posteriors():
    q = torch.randn(50, NUM).softmax(-1)
    by_hand = (q * (q / q.mean(0)).log()).sum(-1).mean()
    aggregate = q.mean(0)
    estimates = {
        "kl_c": Estimate((q * (q * NUM).log()).sum(-1).mean().item(), None, "nats per datum"),
        "active_categories": Estimate(active_categories(aggregate), None, f"of {NUM}"),
        "effective_categories": Estimate(effective_categories(aggregate), None, f"of {NUM}"),
    }
    assert INFORMATION.cell(estimates) == f"{by_hand:.2f}"
    assert INFORMATION.cell({}) == ""
