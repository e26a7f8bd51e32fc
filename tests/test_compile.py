"""Compiled objectives against the eager ones: same noise, same loss, same gradients, same errors.

What is traced is compared for every pair, objective and setting, run without inductor (``traced``); that inductor's
code computes the same is compared for one objective of every pair. All in float64 unless precision is the question.
"""

import ast
import contextlib
import copy
import os
import pickle
import re
import subprocess
import sys
import types
import warnings
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn as nn
from pyro import infer, poutine
from torch.testing import assert_close

import pyro_priors as pp
import runs
from pairs import MIXTURES_GIVEN_A_CONDITION, NAMES, Variant, batch, create, randomise, variants
from pyro_priors import registration
from pyro_priors.cli.main import main
from pyro_priors.objectives import (
    ELBO,
    Beta,
    Capacity,
    Constrained,
    EnumELBO,
    Factor,
    Info,
    KLWeight,
    TotalCorrelation,
)
from pyro_priors.tracing import CompiledObjective, function, inductor
from pyro_priors.tracing.graph import Graph
from pyro_priors.tracing.held import Held
from pyro_priors.training import loop

pytestmark = pytest.mark.usefixtures("float64")

SEED = 3


@pytest.fixture
def traced(monkeypatch):
    """Traced and run as traced, without the seconds that inductor takes; the list grows with each graph."""
    graphs = []

    def run_as_traced(graph, inputs):
        graphs.append(graph)
        return graph

    monkeypatch.setattr(inductor, "compile_graph", run_as_traced)
    return graphs


def eager(pair, objective, args, kl_weight=1.0):
    """Loss and gradients of the objective as Pyro runs it."""
    pair.zero_grad()
    torch.manual_seed(SEED)
    if isinstance(objective, ELBO):
        objective.kl_weight = kl_weight
        loss = objective.differentiable_loss(pair.model, pair.guide, *args)
    else:
        weigh = KLWeight(kl_weight)
        loss = objective.differentiable_loss(weigh(pair.model), weigh(pair.guide), *args)
    loss.backward()
    return loss.detach(), take_gradients(pair)


def compiled_loss(loss, args, kl_weight=1.0):
    """Loss and gradients of a compiled objective."""
    loss.pair.zero_grad()
    torch.manual_seed(SEED)
    found = loss.outputs(*args, *(None,) * (2 - len(args)), kl_weight)["loss"]
    found.backward()
    return found.detach(), take_gradients(loss.pair)


def take_gradients(pair):
    found = {name: parameter.grad for name, parameter in pair.named_parameters()}
    pair.zero_grad()
    return found


def assert_same(ours, expected, rtol=1e-10, atol=1e-12):
    assert_close(ours[0], expected[0], rtol=rtol, atol=atol)
    assert ours[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        if gradient is None:
            assert ours[1][name] is None, name
        else:  # sums that cancel are rounded as their terms are
            scale = max(1.0, gradient.abs().max().item())
            message = lambda text, name=name: f"{name}: {text}"  # noqa: E731
            assert_close(ours[1][name], gradient, rtol=rtol, atol=atol * scale, msg=message)


OBJECTIVES = {
    "elbo": lambda: ELBO(),
    "sampled-kl": lambda: ELBO(analytic_kl=False),
    "particles": lambda: ELBO(num_particles=3),
    "beta": lambda: Beta(beta=2.5),
    "capacity": lambda: Capacity(),
    "constrained": lambda: Constrained(kappa_squared=5.0, beta=0.4),
    "total-correlation": lambda: TotalCorrelation(num_data=20),
    "factor": lambda: Factor(hidden=(7, 9)),
    "info": lambda: Info(lambd=10.0),
}
STOCK = {
    "Trace_ELBO": lambda: infer.Trace_ELBO(),
    "Trace_ELBO-particles": lambda: infer.Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
    "TraceMeanField_ELBO": lambda: infer.TraceMeanField_ELBO(),
    "TraceEnum_ELBO": lambda: infer.TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False),
}


def weights_of(pair):
    trace = poutine.trace(pair.guide).get_trace(*batch_of(pair))
    latent = [name for name, site in trace.nodes.items() if site["type"] == "sample" and name != "data"]
    return dict(zip(latent, (0.3, 0.7), strict=False))


def batch_of(pair):
    return batch(pair.recipe["name"], **{k: v for k, v in pair.recipe["config"].items() if k == "likelihood"})


# the traced graph


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", NAMES)
def test_every_pair_under_every_objective(name, objective, traced):
    pair, args = randomise(create(name)), batch(name)
    loss = pp.compiled(pair, OBJECTIVES[objective]())
    for weight in (1.0, 0.3, torch.tensor(0.6)):
        assert_same(compiled_loss(loss, args, weight), eager(pair, loss.objective, args, weight))
    assert len(traced) == 1, "a new weight needs no new graph"
    by_site = weights_of(pair)
    assert_same(compiled_loss(loss, args, by_site), eager(pair, loss.objective, args, by_site))
    assert len(traced) == 2


@pytest.mark.parametrize("variant", variants(), ids=str)
def test_every_variant(variant: Variant, traced):
    """All likelihoods, priors, shapes and activations."""
    pair, args = randomise(variant.create()), variant.batch()
    assert_same(compiled_loss(pp.compiled(pair), args), eager(pair, pair.elbo, args))
    assert len(traced) == 1


@pytest.mark.parametrize("max_graphs", [1, 0], ids=["compiled", "eager"])
@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradients_in_one_call(name, max_graphs, traced):
    """Equal to loss and backward pass one after the other; what gradients the pair had before is gone."""
    pair, args, objective = randomise(create(name)), batch(name), Factor(hidden=(7, 9))
    expected = eager(pair, objective, args, 0.3)
    own = [2 * parameter.grad for parameter in objective.discriminator.parameters()]  # to which it adds
    for parameter in pair.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    loss = CompiledObjective(pair, objective, max_graphs, say=lambda line: None)
    torch.manual_seed(SEED)
    outputs = loss.outputs(*args, *(None,) * (2 - len(args)), 0.3, backward=True)
    assert len(traced) == max_graphs
    for parameter, gradient in zip(objective.discriminator.parameters(), own, strict=True):
        assert_close(parameter.grad, gradient)
    norm = sum(p.grad.square().sum() for p in pair.parameters() if p.grad is not None).sqrt()
    assert_close(outputs.pop("gradient_norm"), norm)
    assert not any(value.requires_grad for value in outputs.values())
    assert_same((outputs["loss"], take_gradients(pair)), expected)
    torch.manual_seed(SEED)
    assert outputs.keys() == loss.outputs(*args, *(None,) * (2 - len(args)), 0.3).keys()


def _fits(name, objective):
    """A guide that enumerates is for TraceEnum_ELBO alone; a prior that is no Gaussian under TraceMeanField_ELBO runs
    eagerly."""
    if name == "cp_vae":
        return "Enum" in objective
    return name not in (*MIXTURES_GIVEN_A_CONDITION, "sigma_cvae_nf") or "MeanField" not in objective


FITTING = [(name, objective) for name in NAMES for objective in STOCK if _fits(name, objective)]


@pytest.mark.parametrize(("name", "objective"), FITTING)
def test_pyros_own_objectives(name, objective, traced):
    """Summed over the batch, as they are."""
    pair, args = randomise(create(name)), batch(name)
    loss = pp.compiled(pair, STOCK[objective]())
    for weight in (1.0, 0.3):
        assert_same(compiled_loss(loss, args, weight), eager(pair, loss.objective, args, weight))
    assert len(traced) == 1


@pytest.mark.parametrize("name", NAMES)
def test_parts_are_the_means_of_the_bounds_terms(name, traced):
    pair, args = randomise(create(name)), batch(name)
    torch.manual_seed(SEED)
    outputs = pp.compiled(pair, Beta(beta=2.5)).outputs(*args, *(None,) * (2 - len(args)), 0.3)
    torch.manual_seed(SEED)
    terms = ELBO().terms(pair.model, pair.guide, *args)
    assert outputs.keys() == {"loss"} | terms.parts.keys()
    for part, value in terms.parts.items():
        assert_close(outputs[part], value.mean())
        assert not outputs[part].requires_grad


def test_batches_of_other_sizes_and_kinds_have_graphs_of_their_own(traced):
    pair = randomise(create("cp_vae"))
    loss = pp.compiled(pair)
    for size in (5, 3, 5, 1, 3):
        args = batch("cp_vae", size)
        assert_same(compiled_loss(loss, args), eager(pair, pair.elbo, args))
    assert len(traced) == 3
    pair.float()
    args = tuple(value.float() for value in args)
    assert_same(compiled_loss(loss, args), eager(pair, pair.elbo, args), rtol=1e-5, atol=1e-6)
    assert len(traced) == 4


def test_shapes_beyond_the_most_run_eagerly(traced):
    pair = create("vae")
    loss = pp.compiled(pair, max_graphs=2)
    for size in (1, 2):
        compiled_loss(loss, batch("vae", size))
    args = batch("vae", 3)
    with pytest.warns(pp.EagerWarning, match="2 shapes or settings came before this one"):
        found = compiled_loss(loss, args)
    assert_same(found, eager(pair, pair.elbo, args))
    compiled_loss(loss, args)  # said once
    assert len(traced) == 2


def test_an_option_of_the_objective_that_changes_is_seen(traced):
    pair, args = randomise(create("vae")), batch("vae")
    loss = pp.compiled(pair, Beta(beta=2.0))
    first = compiled_loss(loss, args)
    loss.objective.beta = 3.0
    second = compiled_loss(loss, args)
    assert second[0] > first[0]
    assert_same(second, eager(pair, loss.objective, args))


def test_the_objectives_own_weight_is_read_and_left(traced):
    pair, args = randomise(create("vae")), batch("vae")
    objective = ELBO()
    loss = pp.compiled(pair, objective)
    for weight in (1.0, 0.2):
        objective.kl_weight = weight
        torch.manual_seed(SEED)
        found = loss(*args)
        assert objective.kl_weight == weight
        torch.manual_seed(SEED)
        assert_close(found, objective(pair.model, pair.guide)(*args))
    with pytest.raises(ValueError, match="must be above 0, got 0"):
        loss.outputs(args[0], None, 0)


def test_a_capacity_is_an_input_of_the_graph(traced):
    pair, args = randomise(create("vae")), batch("vae")
    loss = pp.compiled(pair, Capacity(capacity=4.0, num_steps=8))
    expected, found = [], []
    for step in (0, 1, 5, 100):
        loss.objective.begin_step(step)
        found.append(compiled_loss(loss, args))
        assert_same(found[-1], eager(pair, loss.objective, args))
        expected.append(min(4.0, step / 2))
        assert loss.objective.current_capacity == expected[-1], "the graph leaves it"
    assert len(traced) == 1 and len({value.item() for value, _ in found}) == 4


@pytest.mark.parametrize("objective", ["factor", "total-correlation", "capacity", "info"])
@pytest.mark.parametrize("name", NAMES)
def test_penalties_are_reported_as_by_the_eager_objective(name, objective, traced):
    pair, args, elbo = randomise(create(name)), batch(name), OBJECTIVES[objective]()
    torch.manual_seed(SEED)
    outputs = pp.compiled(pair, elbo).outputs(*args, *(None,) * (2 - len(args)), 0.3)
    elbo.kl_weight = 0.3
    torch.manual_seed(SEED)
    terms = elbo.terms(pair.model, pair.guide, *args)
    assert outputs.keys() == {"loss"} | terms.means().keys()
    for key, value in {"loss": terms.loss.detach(), **terms.means()}.items():
        assert_close(outputs[key].detach(), value)


def check_discriminator(steps=4):
    """Steps of pair and discriminator, compiled and eagerly from the same start: the same parameters of both."""
    ends = []
    for how in ("compiled", "eager"):
        torch.manual_seed(SEED)
        pair, args, objective = randomise(create("cp_vae")), batch("cp_vae"), Factor(hidden=(7, 9), learning_rate=0.05)
        loss = pp.compiled(pair, objective)
        optimizer = torch.optim.Adam(pair.parameters(), lr=0.01)
        for step in range(steps):
            torch.manual_seed(step)
            if how == "compiled":
                loss(*args).backward()
            else:
                objective.differentiable_loss(pair.model, pair.guide, *args).backward()
            optimizer.step()
            objective.end_step()
            pair.zero_grad()
        assert all(parameter.grad is None for parameter in objective.discriminator.parameters())
        ends.append([*pair.parameters(), *objective.discriminator.parameters()])
    assert_close(ends[0], ends[1], rtol=1e-9, atol=1e-11)
    first = Factor(hidden=(7, 9))
    first.prepare(pair.model, pair.guide, *args)
    assert not torch.equal(first.discriminator.layers[1].weight, objective.discriminator.layers[1].weight)


def test_a_compiled_discriminator_learns_as_the_eager_one(traced):
    check_discriminator()
    assert len(traced) == 1


def test_making_the_discriminator_draws_no_number_and_leaves_no_trace(traced):
    pair, args, objective = create("cp_vae"), batch("cp_vae"), Factor(hidden=(7,))
    random = torch.get_rng_state()
    objective.prepare(pair.model, pair.guide, *args)
    assert torch.equal(torch.get_rng_state(), random)
    assert not pyro.get_param_store().keys()
    assert all(parameter.grad is None for parameter in pair.parameters())


class TwoLevels(nn.Module):
    """z1, z2 given z1: draws whose order counts; a running mean in a buffer; a detached branch; a parameter unused."""

    def __init__(self, generative):
        super().__init__()
        self.generative = generative
        self.head = nn.Linear(3, 2)
        self.scale = nn.Parameter(torch.tensor(0.2))
        self.unused = nn.Parameter(torch.ones(2))
        self.register_buffer("running", torch.zeros(()))

    def forward(self, x=None, condition=None, size=None):
        pp.register("two_levels", self)
        with pp.data_plate(x, condition, size):
            if self.generative:
                z1 = pyro.sample("z1", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                z2 = pyro.sample("z2", dist.Normal(z1, self.scale.exp()).to_event(1))
                with torch.no_grad():
                    shift = self.scale * 3
                loc = (z1 + z2 + shift).sum(-1, keepdim=True) * self.head.weight[0] + self.scale.detach()
                with torch.no_grad():
                    self.running.mul_(0.9).add_(loc.mean())
                return pyro.sample("x", dist.Normal(loc + self.running, 1.0).to_event(1), obs=x)
            loc = self.head(x)
            z1 = pyro.sample("z1", dist.Normal(loc, self.scale.exp()).to_event(1))
            pyro.sample("z2", dist.Normal(loc * z1, 0.5).to_event(1))


def two_levels():
    torch.manual_seed(0)
    return pp.Pair(TwoLevels(True), TwoLevels(False))


def check_state_and_noise(steps=3):
    x = torch.randn(4, 3)
    one, other = two_levels(), two_levels()
    other.unused = one.unused = None
    loss = pp.compiled(one)
    for _ in range(steps):
        assert_same(compiled_loss(loss, (x,)), eager(other, other.elbo, (x,)))
        assert_close(one.model.running, other.model.running)
    assert one.model.running != 0
    # the generator stands where the eager programs leave it
    compiled_loss(loss, (x,))
    after = torch.get_rng_state()
    eager(other, other.elbo, (x,))
    assert torch.equal(torch.get_rng_state(), after)


def test_buffers_move_noise_keeps_its_order_and_autograds_rules_hold(traced):
    check_state_and_noise()


def test_tracing_draws_no_number_and_leaves_no_trace(traced):
    pair, args = create("cp_vae"), batch("cp_vae")
    before = {name: id(value) for name, value in pair.state_dict(keep_vars=True).items()}
    settings = pyro.settings.get()
    random = torch.get_rng_state()
    loss = pp.compiled(pair)
    held = Held([pair])
    loss._compiled._trace(held, [*held.tensors, *args, torch.tensor(1.0)], (*args, None, torch.tensor(1.0)), True)
    assert torch.equal(torch.get_rng_state(), random)
    assert pyro.settings.get() == settings
    assert not pyro.get_param_store().keys()
    loss(*args)
    assert not pyro.get_param_store().keys()
    assert {name: id(value) for name, value in pair.state_dict(keep_vars=True).items()} == before
    assert all(type(value) is nn.Parameter for value in pair.parameters())


# errors, and what runs eagerly


def test_a_user_s_mistake_is_named_as_by_the_eager_objective(traced):
    pair = create("vae")
    with pytest.warns(pp.EagerWarning), pytest.raises(ValueError, match="this program needs x, and x is None"):
        pair.guide.forward = lambda x=None, condition=None, size=None: type(pair.guide).forward(pair.guide, None)
        pp.compiled(pair)(*batch("vae"))
    pair = create("vae")
    with (
        pytest.warns(pp.EagerWarning, match="found nothing to enumerate"),
        pytest.raises(ValueError, match="found not"),
    ):
        pp.compiled(pair, EnumELBO())(*batch("vae"))
    with pytest.raises(ValueError, match="objective str has no differentiable_loss|objective elbo has no"):
        pp.compiled(pair, "elbo")


def test_x_outside_the_support_is_refused_at_every_call(traced):
    pair = create("vae")
    loss = pp.compiled(pair)
    loss(*batch("vae"))
    grey = torch.full((5, 6), 0.5)
    with pytest.raises(
        ValueError, match="outside the support of its distribution: NaN, or of a Bernoulli others than 0 and 1"
    ):
        loss(grey)
    with pyro.validation_enabled(False):
        assert loss(grey).isfinite()
    with pytest.raises(ValueError, match="outside the support"):
        loss(torch.full((5, 6), torch.nan))


class Store(nn.Module):
    """A guide with a parameter of the store."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, x, condition=None, size=None):
        with pp.data_plate(x, condition, size):
            loc = pyro.param("loc", torch.zeros(2)) * self.weight
            pyro.sample("z", dist.Normal(loc, 1.0).expand([len(x), 2]).to_event(1))


class Foreign(nn.Module):
    """A guide that reads a parameter which no module of the pair holds."""

    def __init__(self, what):
        super().__init__()
        self.what = what
        self.others = [nn.Parameter(torch.ones(2))]

    def forward(self, x, condition=None, size=None):
        pp.register("foreign.guide", self)
        with pp.data_plate(x, condition, size):
            loc = torch.zeros(2)
            if self.what == "parameter":
                loc = loc + self.others[0]
            elif x.mean() > 10:
                loc = loc + 1
            pyro.sample("z", dist.Normal(loc, 1.0).expand([len(x), 2]).to_event(1))


@pytest.mark.parametrize(
    ("guide", "reason"),
    [
        (Store(), "a program calls pyro.param or pyro.module: begin it with pyro_priors.register"),
        (Foreign("parameter"), "a program uses a parameter that is not in a module of the pair"),
        (Foreign("branch"), "running eagerly, not compiled: "),
    ],
    ids=["store", "foreign", "branch"],
)
def test_what_a_graph_cannot_hold_runs_eagerly_after_one_line(guide, reason, traced):
    model = create("vae").model
    pair, args = pp.Pair(model, guide), batch("vae")
    loss = pp.compiled(pair)
    with pytest.warns(pp.EagerWarning, match=reason) as said:
        found = compiled_loss(loss, args)
    assert len(said) == 1 and "\n" not in str(said[0].message)
    assert_same(found, eager(pair, pair.elbo, args))
    assert_same(compiled_loss(loss, args), eager(pair, pair.elbo, args))


def test_pyros_objectives_that_ours_does_not_equal_run_eagerly(traced):
    """Particles drawn one after the other; TraceMeanField_ELBO where a site is not Gaussian."""
    pair, args = randomise(create("vae")), batch("vae")
    stock = infer.Trace_ELBO(num_particles=2)
    with pytest.warns(pp.EagerWarning):
        found = compiled_loss(pp.compiled(pair, stock), args)
    assert_same(found, eager(pair, stock, args))
    pair.model.prior.forward = lambda: dist.Laplace(torch.zeros(2), 1.0).to_event(1)
    stock = infer.TraceMeanField_ELBO()
    with pytest.warns(pp.EagerWarning, match="site 'z' is not Gaussian, which TraceMeanField_ELBO"):
        found = compiled_loss(pp.compiled(pair, stock), args)
    assert_same(found, eager(pair, stock, args))
    ours = ELBO()
    assert_same(compiled_loss(pp.compiled(pair, ours), args), eager(pair, ours, args))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pyro's, that the category is marked for enumeration
def test_pyros_objectives_run_themselves_where_a_site_is_enumerated(traced):
    """Trace_ELBO samples the category, with a surrogate for its gradient; TraceMeanField_ELBO refuses it."""
    pair, args = randomise(create("cp_vae")), batch("cp_vae")
    lines = []
    loss = CompiledObjective(pair, infer.Trace_ELBO(), say=lines.append)
    assert_same(compiled_loss(loss, args), eager(pair, loss.objective, args))
    loss = CompiledObjective(pair, infer.TraceMeanField_ELBO(), say=lines.append)
    with pytest.raises(NotImplementedError, match="fully reparameterized"):
        compiled_loss(loss, args)
    assert lines == [
        f"running eagerly, not compiled: site 'c' is enumerated, which {name} does not"
        for name in ("Trace_ELBO", "TraceMeanField_ELBO")
    ]


@pytest.mark.parametrize("objective", STOCK)
def test_pyros_objectives_run_themselves_where_a_plate_subsamples(objective, traced, monkeypatch):
    """They scale the batch's sum up to all data; ours is a mean in either case."""
    pair, args = randomise(create("vae")), batch("vae")
    subsampled = pyro.plate("data", 1000, subsample=torch.arange(5))
    monkeypatch.setattr(registration, "_plate", lambda size, program: subsampled)
    loss = pp.compiled(pair, STOCK[objective]())
    with pytest.warns(pp.EagerWarning, match="is in a plate that subsamples"):
        found = compiled_loss(loss, args)
    assert_same(found, eager(pair, loss.objective, args))
    assert_same(compiled_loss(pp.compiled(pair), args), eager(pair, pair.elbo, args))


def test_scales_within_one_program_are_refused_as_eagerly(traced):
    """The KL weight is a tensor in a graph; what it multiplies is compared all the same."""
    pair, args = create("vae"), batch("vae")
    original = pair.model.forward
    pair.model.forward = lambda x=None, condition=None, size=None: poutine.scale(original, scale=0.1)(
        x, condition, size
    )
    with pytest.warns(pp.EagerWarning), pytest.raises(ValueError, match="site 'z' is scaled by 0.1 in the model"):
        pp.compiled(pair)(*args)


class Habits(nn.Module):
    """An encoder that does what a graph could not."""

    def __init__(self, what):
        super().__init__()
        self.what, self.linear = what, nn.Linear(6, 4)
        self.dropout, self.norm = nn.Dropout(0.5), nn.BatchNorm1d(4)
        self.register_buffer("running", torch.zeros(()))
        self.count = torch.zeros(())
        self.category = dist.Categorical(probs=torch.tensor([0.2, 0.8]))

    def forward(self, x):
        h = self.linear(x)
        match self.what:
            case "dropout":
                h = self.dropout(h)
            case "norm":
                h = self.norm(h)
            case "buffer":
                self.running = 0.9 * self.running + h.detach().mean()
                h = h + self.running
            case "attribute":
                self.last = h.detach()
            case "tensor":
                h = h + self.count.add_(1)
            case "mask":
                h = h * self.mask
            case "lazy":
                h = h + self.category.entropy()
        return dist.Normal(h[..., :2], h[..., 2:].exp()).to_event(1)


@pytest.mark.parametrize("what", ["dropout", "norm"])
def test_each_part_is_in_the_mode_that_it_is_in(what, traced):
    pair, args = create("vae", encoder=Habits(what)), batch("vae")
    loss = pp.compiled(pair)
    for change in (lambda: None, pair.guide.eval, pair.guide.encoder.dropout.train, pair.train):
        change()
        state = copy.deepcopy(pair.state_dict())
        found = compiled_loss(loss, args)
        pair.load_state_dict(state)  # what batch norm remembers
        assert_same(found, eager(pair, pair.elbo, args))
    assert len(traced) == 3


@pytest.mark.parametrize(
    ("what", "reason"),
    [("buffer", "sets 'running' of"), ("attribute", "sets 'last' of"), ("tensor", "sets 'count' of")],
)
def test_what_programs_leave_in_their_modules_is_left_eagerly(what, reason, traced):
    one, other = (create("vae", encoder=Habits(what)) for _ in range(2))
    other.load_state_dict(one.state_dict())
    args = batch("vae")
    loss = pp.compiled(one)
    with pytest.warns(pp.EagerWarning, match=reason):
        found = compiled_loss(loss, args)
    assert_same(found, eager(other, other.elbo, args))
    for _ in range(2):
        assert_same(compiled_loss(loss, args), eager(other, other.elbo, args))
    copy.deepcopy(one)


def test_distributions_that_remember_keep_no_fake_tensor(traced):
    pair, args = create("vae", encoder=Habits("lazy")), batch("vae")
    assert_same(compiled_loss(pp.compiled(pair), args), eager(pair, pair.elbo, args))
    assert len(traced) == 1
    pair.guide.encoder.category.sample()


def test_networks_tied_untied_and_changed_are_read_anew(traced):
    pair, args = randomise(create("vae")), batch("vae")
    loss = pp.compiled(pair)
    pair.model.decoder.trunk.first.input.bias = pair.guide.encoder.trunk.first.input.bias
    assert_same(compiled_loss(loss, args), eager(pair, pair.elbo, args))
    pair.model.decoder.trunk.first.input.bias = nn.Parameter(torch.full((14,), 2.0))
    pyro.clear_param_store()
    assert_same(compiled_loss(loss, args), eager(pair, pair.elbo, args))
    nn.utils.parametrizations.weight_norm(pair.guide.encoder.head.parameters_of_z.input)
    pyro.clear_param_store()
    assert_same(compiled_loss(loss, args), eager(pair, pair.elbo, args))
    pair.guide.encoder.head.parameters_of_z.input.bias = None
    pyro.clear_param_store()
    assert_same(compiled_loss(loss, args), eager(pair, pair.elbo, args))


def test_tensors_of_other_strides_have_graphs_of_their_own():
    """By machine code, which is made for strides."""
    pair, (x,) = randomise(create("vae")), batch("vae")
    loss = pp.compiled(pair)
    for same in (x, x.t().contiguous().t(), torch.cat([x, x], 1)[:, :6]):
        assert_same(compiled_loss(loss, (same,)), eager(pair, pair.elbo, (same,)))


class OfUser(ELBO):
    """An objective with options that are no attributes, and a state."""

    def __init__(self, gamma=2.0, **options):
        super().__init__(**options)
        self._gamma, self.listed, self.calls = gamma, [1], 0

    def terms(self, *args, **kwargs):
        self.calls += 1
        found = super().terms(*args, **kwargs)
        found.parts["reconstruction"] = found.parts["reconstruction"] * self._gamma + self.calls
        return found


def test_objects_that_take_a_freed_one_s_place_are_others(traced):
    """An id is given again once its object is gone; a graph made for the first is not for the second."""
    pair, args = create("vae", encoder=Habits("mask")), batch("vae")
    loss = pp.compiled(pair)
    for factor in (1.0, 2.0, 3.0, 4.0):
        pair.guide.encoder.mask = torch.full((4,), factor)
        assert_same(compiled_loss(loss, args), eager(pair, pair.elbo, args))
    assert len(traced) == 4


def test_what_changes_at_every_call_is_not_remembered_for_ever(traced):
    pair, args = randomise(create("vae")), batch("vae")
    loss = pp.compiled(pair, OfUser(), max_graphs=2)
    with pytest.warns(pp.EagerWarning, match="2 shapes or settings came before") as said:
        for _ in range(6):
            compiled_loss(loss, args)
    assert len(said) == 1 and len(loss._compiled._graphs) == 2


def test_objectives_of_users(traced):
    pair, args = randomise(create("vae")), batch("vae")
    for gamma in (2.0, 3.0):
        loss, expected = pp.compiled(pair, OfUser(gamma)), OfUser(gamma)
        for _ in range(3):
            expected.calls = loss.objective.calls
            assert_same(compiled_loss(loss, args), eager(pair, expected, args))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda pair: pp.compiled("vae"), "pair must be a Pair, got 'vae'"),
        (lambda pair: pp.compiled(pair, ELBO), "objective <class .*ELBO'> has no differentiable_loss: give one of"),
        (lambda pair: pp.compiled(pair)(torch.ones(5, 7)), r"x must have shape \(batch, 6\), got \(5, 7\)"),
        (lambda pair: pp.compiled(pair)([1.0]), "x must be a tensor, got list"),
    ],
)
def test_mistakes_get_one_line(call, message, traced):
    with pytest.raises(ValueError, match=message):
        call(create("vae"))


def test_handlers_around_a_call_are_heeded(traced):
    pair, args = randomise(create("vae")), batch("vae")
    loss = pp.compiled(pair)
    compiled_loss(loss, args)
    with poutine.scale(scale=2.0), pytest.warns(pp.EagerWarning, match="called within effect handlers"):
        found = compiled_loss(loss, args)
    with poutine.scale(scale=2.0):
        expected = eager(pair, pair.elbo, args)
    assert_same(found, expected)
    assert_same(compiled_loss(loss, args), eager(pair, pair.elbo, args))


def test_a_compiler_that_fails_leaves_the_eager_objective(monkeypatch):
    def fail(graph, inputs):
        raise RuntimeError("No working C++ compiler found\nsecond line")

    monkeypatch.setattr(inductor, "compile_graph", fail)
    pair, args = create("vae"), batch("vae")
    with pytest.warns(pp.EagerWarning, match="^running eagerly, not compiled: No working C.. compiler found$"):
        found = compiled_loss(pp.compiled(pair), args)
    assert_same(found, eager(pair, pair.elbo, args))


# the pair's own tensors


def test_parameters_stay_the_pairs_own(traced, tmp_path):
    pair, args = randomise(create("cp_vae")), batch("cp_vae")
    names = list(pair.state_dict())
    loss = pp.compiled(pair)
    compiled_loss(loss, args)
    assert list(pair.state_dict()) == names
    assert [id(p) for p in loss.parameters()] == [id(p) for p in pair.parameters()]
    # moved in place, loaded from a file, replaced by another tensor: all are read
    pair.save(tmp_path / "pair")
    other = randomise(create("cp_vae"))
    with torch.no_grad():
        for parameter, value in zip(pair.parameters(), other.parameters(), strict=True):
            parameter.copy_(value)
    assert_same(compiled_loss(loss, args), eager(other, other.elbo, args))
    pair.load_weights(tmp_path / "pair")
    assert_same(compiled_loss(loss, args), eager(pair, pair.elbo, args))
    pair.model.prior.loc = nn.Parameter(torch.zeros_like(pair.model.prior.loc))
    pyro.clear_param_store()  # which holds the former one
    assert_same(compiled_loss(loss, args), eager(pair, pair.elbo, args))
    assert len(traced) == 1


def test_frozen_parameters_have_no_gradient(traced):
    pair, args = randomise(create("vae")), batch("vae")
    loss = pp.compiled(pair)
    compiled_loss(loss, args)
    for parameter in pair.model.decoder.parameters():
        parameter.requires_grad_(False)
    found = compiled_loss(loss, args)
    assert_same(found, eager(pair, pair.elbo, args))
    assert found[1]["model.decoder.out.input.weight"] is None
    assert len(traced) == 2


def test_a_parameter_in_two_places_gets_one_gradient(traced):
    pair, args = randomise(create("vae")), batch("vae")
    trunk = pair.guide.encoder.trunk
    trunk.rest[0].input.bias = trunk.rest[0].input.bias
    pair.model.decoder.trunk.first.input.bias = trunk.first.input.bias  # both of twice 7
    found = compiled_loss(pp.compiled(pair), args)
    assert_same(found, eager(pair, pair.elbo, args))


def test_backward_scales_adds_up_and_runs_once(traced):
    pair, args = randomise(create("vae")), batch("vae")
    loss = pp.compiled(pair)
    _, expected = compiled_loss(loss, args)
    for _ in range(2):
        torch.manual_seed(SEED)
        (3 * loss(*args)).backward()
    for name, parameter in pair.named_parameters():
        assert_close(parameter.grad, 6 * expected[name])
    found = loss(*args)
    found.backward()
    with pytest.raises(RuntimeError, match="a second time|compute the loss again"):
        found.backward()
    with torch.no_grad():
        assert not loss(*args).requires_grad
    assert loss(*args).requires_grad


def test_copies_are_independent_and_pickles_are_whole(traced):
    pair, args = randomise(create("cp_vae")), batch("cp_vae")
    loss = pp.compiled(pair)
    before = compiled_loss(loss, args)
    other = copy.deepcopy(loss)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert_same(compiled_loss(loss, args), before)
    assert_same(compiled_loss(other, args), eager(other.pair, other.pair.elbo, args))
    assert_same(compiled_loss(pickle.loads(pickle.dumps(loss)), args), before)


def test_under_autocast_casts_are_those_of_the_eager_objective(traced):
    pair, args = randomise(create("vae", hidden=(32, 32))).float(), tuple(value.float() for value in batch("vae"))
    loss = pp.compiled(pair)
    whole = compiled_loss(loss, args)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half, expected = compiled_loss(loss, args), eager(pair, pair.elbo, args)
    assert_same(half, expected, rtol=1e-4, atol=1e-5)
    assert half[0] != whole[0]
    assert len(traced) == 2
    assert_same(compiled_loss(loss, args), whole)


# with inductor


@pytest.mark.parametrize("name", NAMES)
def test_machine_code_computes_the_same(name):
    """Any weight, several seeds, and the generator left where the eager objective leaves it."""
    pair, args = randomise(create(name)), batch(name)
    loss = pp.compiled(pair)
    for weight in (1.0, 0.3):
        assert_same(compiled_loss(loss, args, weight), eager(pair, pair.elbo, args, weight))
    torch.manual_seed(SEED)
    drawn = [loss(*args).item() for _ in range(3)]
    after = torch.get_rng_state()
    torch.manual_seed(SEED)
    assert [pair.elbo.differentiable_loss(pair.model, pair.guide, *args).item() for _ in range(3)] == pytest.approx(
        drawn, rel=1e-10
    )
    assert torch.equal(torch.get_rng_state(), after)
    assert len(set(drawn)) == 3, "fresh noise at every call"


@pytest.mark.parametrize(
    "objective", ["capacity", *(pytest.param(name, marks=pytest.mark.slow) for name in ("total-correlation", "info"))]
)
def test_machine_code_of_penalties(objective):
    pair, args = randomise(create("vae", prior="flow")), batch("vae")
    loss = pp.compiled(pair, OBJECTIVES[objective]())
    assert_same(compiled_loss(loss, args, 0.4), eager(pair, loss.objective, args, 0.4))


@pytest.mark.slow
def test_machine_code_trains_the_discriminator():
    check_discriminator()


def test_machine_code_moves_buffers_and_keeps_the_order_of_noise():
    check_state_and_noise()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "objective"), [*FITTING, *((name, own) for name in NAMES for own in OBJECTIVES)])
def test_machine_code_for_every_objective(name, objective):
    pair, args = randomise(create(name)), batch(name)
    loss = pp.compiled(pair, (OBJECTIVES | STOCK)[objective]())
    assert_same(compiled_loss(loss, args, 0.4), eager(pair, loss.objective, args, 0.4))


@pytest.mark.slow
@pytest.mark.parametrize("variant", variants(), ids=str)
def test_machine_code_for_every_variant(variant: Variant):
    pair, args = randomise(variant.create()), variant.batch()
    assert_same(compiled_loss(pp.compiled(pair), args), eager(pair, pair.elbo, args))


FIRST_CALL = """
import warnings
import torch
import pyro_priors as pp
warnings.simplefilter("error", pp.EagerWarning)
pair = pp.create("vae", x_shape=(6,), z_dim=2, hidden=(7,))
pp.compiled(pair)(torch.ones(5, 6)).backward()
from torch._dynamo.utils import counters
print(counters["inductor"]["fxgraph_cache_hit"])
"""


@pytest.mark.slow
def test_the_next_process_finds_what_was_compiled(tmp_path):
    """Inductor's cache of whole graphs is in use, which it leaves out without a word where it dislikes a graph.

    It is not in use before torch 2.8; the second process compiles there too.
    """
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", FIRST_CALL]
    hits = [subprocess.run(command, env=environment, check=True, capture_output=True).stdout for _ in range(2)]
    assert [int(hit) for hit in hits] == [0, int(torch.__version__ >= "2.8")]


# in training and evaluation

OPTIONS = {"progress": False, "batch_size": 32, "learning_rate": 1e-2, "max_epochs": 3, "warmup_epochs": 2, "seed": 7}


@pytest.fixture(scope="module")
def digits():
    return runs.small_data(size=90)


@pytest.mark.parametrize(
    "objective",
    [None, Beta(beta=2.0), infer.TraceEnum_ELBO(max_plate_nesting=1)],
    ids=["own", "beta", "TraceEnum_ELBO"],
)
def test_a_compiled_training_is_the_eager_one(digits, objective, traced):
    """Whole batches through the graph, the last and smaller one of each epoch eagerly; a warm-up needs no new graph."""
    ends = []
    for how in ("always", "never"):
        pair = runs.small_pair("cp_vae", digits)
        history = pp.fit(pair, digits, objective, compile=how, precision="64-true", **OPTIONS)
        ends.append((runs.state(pair), [{**record, "seconds": 0} for record in history.epochs]))
    assert len(traced) == 1
    for name, value in ends[1][0].items():
        assert_close(ends[0][0][name], value, rtol=1e-9, atol=1e-11)
    for ours, expected in zip(ends[0][1], ends[1][1], strict=True):
        assert ours == pytest.approx(expected, rel=1e-5)


class SumOfTwo(nn.Module):
    """W + V as weight: two parameters with one gradient."""

    def __init__(self):
        super().__init__()
        self.w, self.v = nn.Parameter(0.1 * torch.randn(72, 2)), nn.Parameter(torch.zeros(72, 2))

    def forward(self, z):
        return dist.Bernoulli(logits=nn.functional.linear(z, self.w + self.v)).to_event(1)


class ChannelsLast(nn.Module):
    """A convolution whose gradient is laid out otherwise than its weight."""

    def __init__(self):
        super().__init__()
        self.convolution, self.head = nn.Conv2d(2, 6, 3), nn.Linear(96, 4)

    def forward(self, x):
        x = x.reshape(-1, 2, 6, 6).contiguous(memory_format=torch.channels_last)
        loc, log_scale = self.head(self.convolution(x).relu().flatten(1)).chunk(2, -1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)


def check_own_networks():
    torch.manual_seed(SEED)
    x = (torch.rand(100, 72) < 0.4).double()
    data = pp.data.from_arrays(x_train=x, x_valid=x[:10])
    for clip_norm in (0.0, 1.0):
        ends = []
        for how in ("always", "never"):
            torch.manual_seed(SEED)
            pair = pp.create("vae", x_shape=(72,), z_dim=2, encoder=ChannelsLast(), decoder=SumOfTwo())
            options = OPTIONS | {"learning_rate": 0.01, "batch_size": 40, "precision": "64-true"}
            pp.fit(pair, data, compile=how, clip_norm=clip_norm, **options)
            ends.append(list(pair.parameters()))
        assert_close(ends[0], ends[1], rtol=1e-8, atol=1e-10)


def test_gradients_are_laid_out_as_their_parameters_and_share_no_memory(traced):
    check_own_networks()
    assert len(traced) == 2


@pytest.mark.slow
def test_gradients_of_machine_code_are_laid_out_as_their_parameters_and_share_no_memory():
    check_own_networks()


def test_a_part_that_is_switched_off_stays_as_it_is(digits, traced):
    pair = runs.small_pair("vae", digits)
    pair.elbo.differentiable_loss(
        pair.model, pair.guide, digits.train.x[:5].round().double()
    ).backward()  # a gradient from before
    for parameter in pair.model.parameters():
        parameter.requires_grad_(False)
    before = [parameter.clone() for parameter in pair.model.parameters()]
    pp.fit(pair, digits, compile="always", clip_norm=1.0, **OPTIONS)
    assert traced and all(map(torch.equal, before, pair.model.parameters()))


def test_hooks_of_gradients_run(digits, traced):
    pair = runs.small_pair("vae", digits)
    before = [parameter.clone() for parameter in pair.model.parameters()]
    hooks = [parameter.register_hook(torch.zeros_like) for parameter in pair.model.parameters()]
    pp.fit(pair, digits, compile="always", **OPTIONS)
    assert traced and hooks and all(map(torch.equal, before, pair.model.parameters()))


def test_an_attribute_that_becomes_a_buffer_is_seen(traced):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.tensor(2.0)

    module = Scaled()
    compiled_function = function.CompiledFunction(lambda x: {"y": x * module.scale}, [module])
    x = torch.ones(2)
    assert compiled_function(x)["y"].tolist() == [2, 2]
    scale = module.scale
    del module.scale
    module.register_buffer("scale", scale)
    module.scale.data = torch.tensor(5.0)
    assert compiled_function(x)["y"].tolist() == [5, 5]


@pytest.mark.parametrize("how", ["always", "never"])
def test_mixed_precision_does_not_round_the_data(how, monkeypatch):
    seen = []
    original = ELBO.terms
    monkeypatch.setattr(ELBO, "terms", lambda self, *args: seen.append(args[2]) or original(self, *args))
    x = torch.rand(70, 64) ** 2
    data = pp.data.from_arrays(x_train=x, x_valid=x[:10])
    pair = pp.create("vae", x_shape=(64,), z_dim=2, hidden=(5,), likelihood="continuous_bernoulli").float()
    pp.fit(pair, data, compile=how, precision="bf16-mixed", **OPTIONS)
    assert {value.dtype for value in seen} == {torch.float32}


def test_auto_compiles_where_the_steps_pay(digits, traced, monkeypatch):
    pair = runs.small_pair("vae", digits)
    pp.fit(pair, digits, **OPTIONS)
    assert not traced
    monkeypatch.setattr(loop, "STEPS_THAT_PAY", 9)
    pp.fit(pair, digits, **OPTIONS)
    assert len(traced) == 1
    with pytest.raises(ValueError, match="compile must be one of always, auto, never, got 'yes'"):
        pp.fit(pair, digits, compile="yes")


@pytest.mark.filterwarnings("ignore:warmup_epochs is")
@pytest.mark.parametrize("first", [1, 3])
def test_a_run_goes_on_as_it_began(digits, tmp_path, traced, monkeypatch, first):
    """More epochs than at first would pay for a graph, and fewer would not: the one that was begun is kept."""
    monkeypatch.setattr(loop, "STEPS_THAT_PAY", 6)
    pair = runs.small_pair("vae", digits)
    for epochs, resume in ((first, False), (4, True)):
        pp.fit(pair, digits, out=tmp_path / "run", resume=resume, **OPTIONS | {"max_epochs": epochs})
    assert len(traced) == (0 if first == 1 else 2)


def test_a_training_that_cannot_be_compiled_says_so_and_goes_on(digits, monkeypatch, capsys):
    def fail(graph, inputs):
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(inductor, "compile_graph", fail)
    ends = []
    monkeypatch.setattr(loop, "STEPS_THAT_PAY", 0)
    for options in ({"compile": "never"}, {"compile": "auto", "progress": True}):
        pair = runs.small_pair("vae", digits)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pp.fit(pair, digits, **OPTIONS | options)
        ends.append(runs.state(pair))
    assert runs.same_bits(*ends)
    assert capsys.readouterr().err.count("running eagerly, not compiled: No working C++ compiler found") == 1
    match = r"compile is 'always', but torch \S+ cannot compile this: No working C\+\+ compiler found \(compile='auto'"
    with pytest.raises(ValueError, match=match) as caught:
        pp.fit(pair, digits, **OPTIONS | {"compile": "always"})
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_compiled_training_resumes_exactly(digits, tmp_path, monkeypatch):
    """By machine code: the run that was stopped in an epoch's middle ends with the bits of the one that was not."""
    torch.set_default_dtype(torch.float32)

    class Crash(BaseException):
        pass

    def crash(self):
        if self.progress.step >= 5:
            raise Crash

    def fit(out, **options):
        pair = runs.small_pair("cp_vae", digits)
        pp.fit(pair, digits, out=out, compile="always", **OPTIONS | options)
        return runs.state(pair)

    whole = fit(tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(loop.Training, "stop_if_asked", crash)
        fit(tmp_path / "run", checkpoint_seconds=0)
    assert runs.same_bits(fit(tmp_path / "run", resume=True), whole)
    assert runs.records(tmp_path / "run") == runs.records(tmp_path / "whole")


@pytest.mark.parametrize("name", NAMES)
def test_compiled_log_likelihood_is_the_eager_one(name, traced, monkeypatch):
    """Whole chunks by the graph, what is left over eagerly, on the same noise."""
    monkeypatch.setattr("pyro_priors.pair.ROWS_PER_CALL", 24)
    pair, args = randomise(create(name)), batch(name, 13)
    found = []
    for how in ("always", "never"):
        torch.manual_seed(SEED)
        found.append(pair.log_prob(*args, num_samples=7, compile=how))
    assert_close(*found, rtol=1e-11, atol=1e-12)
    assert len(traced) == 1
    monkeypatch.setattr("pyro_priors.pair.ROWS_THAT_PAY", 13 * 7)
    torch.manual_seed(SEED)
    assert_close(pair.log_prob(*args, num_samples=7), found[0])
    assert len(traced) == 2
    with pytest.raises(ValueError, match="compile must be one of always, auto, never, got 'yes'"):
        pair.log_prob(*args, compile="yes")


def test_machine_code_cut_short_is_made_anew(monkeypatch, tmp_path):
    """What killed processes leave in inductor's cache: each file goes, and the graph is compiled again."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    files, calls = [tmp_path / "some.main.so", tmp_path / "other.main.so"], []

    def machine_code(graph, inputs):
        left = [file for file in files if file.exists()]
        calls.append(len(left))
        if left:
            raise ImportError(f"{left[0]}: file too short")
        return graph

    monkeypatch.setattr("pyro_priors.tracing.inductor._machine_code", machine_code)
    for file in files:
        file.touch()
    pair, args = randomise(create("vae")), batch("vae")
    compiled_loss(pp.compiled(pair), args)
    assert calls == [2, 1, 0]


def test_machine_code_that_comes_back_cut_short_is_given_up(monkeypatch, tmp_path):
    """As on a full disk: the pair runs eagerly, and says why."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    calls = []

    def machine_code(graph, inputs):
        calls.append(graph)
        raise ImportError(f"{tmp_path}/some.main.so: file too short")

    monkeypatch.setattr("pyro_priors.tracing.inductor._machine_code", machine_code)
    pair, args = randomise(create("vae")), batch("vae")
    with pytest.warns(pp.EagerWarning, match="file too short"):
        compiled_loss(pp.compiled(pair), args)
    assert len(calls) == 2


# other versions of torch and Pyro

INTERNALS = [
    "torch.fx.experimental.proxy_tensor",
    "torch.fx.experimental.symbolic_shapes",
    "torch._guards",
    "torch._inductor",
    "torch._subclasses.fake_tensor",
    "torch.utils._pytree",
]
"""Modules of torch that it may move from one version to the next."""

IMPORT = f"""
import sys, warnings
import torch, pyro, torchvision  # which import what they like
sys.modules |= dict.fromkeys({INTERNALS})
import pyro_priors as pp
pair = pp.create("cp_vae", x_shape=(4,), num_categories=3, z_dim=2, hidden=(5,))
x = torch.ones(6, 4)
pair.elbo.differentiable_loss(pair.model, pair.guide, x).backward()
assert all(parameter.grad.isfinite().all() for parameter in pair.guide.parameters())
assert pair.log_prob(x, num_samples=3).isfinite().all() and pair.sample(5)["x"].shape == (5, 4)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    pp.compiled(pair)(x).backward()
(line,) = [str(warning.message) for warning in said]
assert line.startswith("running eagerly, not compiled: ") and "proxy_tensor" in line, line
"""


def test_the_package_does_without_torchs_internals():
    """They are imported where a graph is made."""
    result = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


PRIVATE = re.compile(r"torch\b(?!\.types|\.ops).*\.(_(?!_)|experimental\b)")
"""Private or experimental modules of torch, and what is in them. Types for annotations and operators are in neither."""


def torch_names(nodes):
    """Yield what is imported, and each dotted name that begins with ``torch``."""
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Attribute) and re.match(r"torch\.[\w.]+$", ast.unparse(node)):
            yield ast.unparse(node)


def test_one_file_reaches_into_torchs_internals():
    """``tracing/inductor.py``, and it imports them where it uses them, never at its top."""
    assert list(filter(PRIVATE.match, ["torch.nn", "torch._guards", "torch.fx.experimental"])) == [
        "torch._guards",
        "torch.fx.experimental",
    ]
    reaching = {}
    for file in [Path(pp.__file__), Path(pp.models.__file__), Path(pp.guides.__file__)]:
        for path in file.parent.rglob("*.py"):
            tree = ast.parse(path.read_text())
            assert not list(filter(PRIVATE.match, torch_names(tree.body))), path
            if found := list(filter(PRIVATE.match, torch_names(ast.walk(tree)))):
                reaching[path] = found
    assert [path.name for path in reaching] == ["inductor.py"], reaching


MISSING = [
    *[("module", name) for name in INTERNALS[:4]],
    ("attribute", "torch.fx.experimental.proxy_tensor.make_fx"),
    ("attribute", "torch._guards.TracingContext"),
    ("attribute", "torch._inductor.compile"),
    ("attribute", "torch.fx.experimental.symbolic_shapes.ShapeEnv"),
    ("attribute", "pyro.poutine.runtime._PYRO_STACK"),
]


@pytest.mark.parametrize(("kind", "name"), MISSING, ids=[name for _, name in MISSING])
def test_what_is_missing_is_told_in_one_line(digits, monkeypatch, capsys, kind, name):
    """auto goes on eagerly after one line, always ends with one, and both name what is missing."""
    monkeypatch.setattr(loop, "STEPS_THAT_PAY", 0)
    pairs = [runs.small_pair("vae", digits) for _ in range(3)]
    pp.fit(pairs[0], digits, compile="never", **OPTIONS)
    if kind == "module":
        monkeypatch.setitem(sys.modules, name, None)
    elif name.startswith("pyro"):  # a version that keeps its handlers elsewhere has no such name; this one needs it
        monkeypatch.setattr(function, "runtime", types.SimpleNamespace())
    else:
        monkeypatch.delattr(name)
    cause = "handlers" if name.startswith("pyro") else name.rpartition(".")[2]
    pp.fit(pairs[1], digits, **OPTIONS | {"progress": True})
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "not compiled" in line]
    assert line.startswith("running eagerly, not compiled: ") and cause in line
    assert runs.same_bits(runs.state(pairs[0]), runs.state(pairs[1]))
    with pytest.raises(ValueError, match=f"compile is 'always', but torch .* cannot compile this: .*{cause}") as caught:
        pp.fit(pairs[2], digits, compile="always", **OPTIONS)
    assert "\n" not in str(caught.value)


def test_always_names_the_cause_on_the_command_line(monkeypatch, tmp_path, capsys):
    monkeypatch.delattr("torch._inductor.compile")
    torch.set_default_dtype(torch.float32)
    arguments = ["train", "vae", "--data", "digits", "--data.limit", "100", "--train.compile", "always", "--quiet"]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(
        r"pyro-priors: error: compile is 'always', but torch .* cannot compile this: .*compile.*\n", error
    )


def test_log_likelihood_that_is_always_compiled_names_the_cause(monkeypatch):
    monkeypatch.delattr("torch._inductor.compile")
    pair, args = randomise(create("vae")), batch("vae", 13)
    with pytest.raises(ValueError, match="compile is 'always', but torch .* cannot compile this: .*'compile'"):
        pair.log_prob(*args, num_samples=7, compile="always")
    monkeypatch.setattr("pyro_priors.pair.ROWS_THAT_PAY", 0)
    with pytest.warns(pp.EagerWarning, match="running eagerly, not compiled: .*'compile'"):
        assert pair.log_prob(*args, num_samples=7).isfinite().all()


def test_the_number_of_kinds_is_a_cause_too(traced):
    pair = create("vae")
    objective = CompiledObjective(pair, pair.elbo, max_graphs=1, strict=True)
    objective(*batch("vae", 5))
    with pytest.raises(ValueError, match="cannot compile this: 1 shapes or settings came before this one"):
        objective(*batch("vae", 6))


def test_tensors_that_tracing_cannot_replace_are_no_constants(monkeypatch, traced):
    """Were modules to keep their tensors elsewhere, a graph would hold those of its first call for ever."""
    monkeypatch.setattr(Held, "holding", lambda self, copies, tensors: contextlib.nullcontext())
    pair, args = randomise(create("sigma_vae")), batch("sigma_vae")
    for parameter in pair.model.parameters():
        parameter.requires_grad_(False)
    pair.eval()
    with pytest.warns(pp.EagerWarning, match="not compiled: "):
        found = compiled_loss(pp.compiled(pair), args)
    assert_same(found, eager(pair, pair.elbo, args))
    # without a gradient no parameter shows that it was not replaced
    loss = pp.compiled(pair)
    with torch.no_grad(), pytest.warns(pp.EagerWarning, match="from where tracing could not replace it"):
        loss(*args)


def test_layouts_are_looked_at_until_two_calls_agree():
    """As what is copied must be, were machine code to lay out gradients differently at another call."""
    like = torch.zeros(2, 3, requires_grad=True)
    other = torch.ones(3, 2).T
    returned = iter([torch.ones(2, 3), other, torch.ones(2, 3), torch.ones(2, 3), other])
    graph = Graph(lambda *inputs: [torch.zeros(()), next(returned)], ["loss"])
    strides = [graph([like])[1][0].stride() for _ in range(5)]
    assert strides == [(3, 1)] * 4 + [(1, 2)]  # the last is not looked at any more


def test_arguments_of_other_nesting_have_graphs_of_their_own():
    """The kind of a call is hashable, whatever torch's own trees are."""
    one, two = torch.ones(2), torch.zeros(2)
    nestings = [(one, two), (one, None), ({"a": one, "b": two},), ({"a": one, "c": two},), ([one, two],), (one, (two,))]
    found = []
    for value in nestings:
        tensors = []
        found.append(function._nesting(value, tensors))
        replaced = function._replaced(value, iter([tensor + 1 for tensor in tensors]))
        again = []
        assert function._nesting(replaced, again) == found[-1]
        assert [tensor.tolist() for tensor in again] == [(tensor + 1).tolist() for tensor in tensors]
    assert len(set(found)) == len(nestings)
