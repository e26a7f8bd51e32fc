"""What a graph cannot hold runs eagerly, after one line that says why; mistakes get the eager objective's own line."""

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn as nn
from pyro import infer, poutine

import pyro_priors as pp
from compiling import STOCK, assert_same, compiled_loss, eager
from pairs import batch, create, randomise
from pyro_priors import registration
from pyro_priors.objectives import (
    ELBO,
    EnumELBO,
)
from pyro_priors.tracing import CompiledObjective, inductor

pytestmark = pytest.mark.usefixtures("float64")


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


def test_the_number_of_kinds_is_a_cause_too(traced):
    pair = create("vae")
    objective = CompiledObjective(pair, pair.elbo, max_graphs=1, strict=True)
    objective(*batch("vae", 5))
    with pytest.raises(ValueError, match="cannot compile this: 1 shapes or settings came before this one"):
        objective(*batch("vae", 6))


def test_a_compiler_that_fails_leaves_the_eager_objective(monkeypatch):
    def fail(graph, inputs):
        raise RuntimeError("No working C++ compiler found\nsecond line")

    monkeypatch.setattr(inductor, "compile_graph", fail)
    pair, args = create("vae"), batch("vae")
    with pytest.warns(pp.EagerWarning, match="^running eagerly, not compiled: No working C.. compiler found$"):
        found = compiled_loss(pp.compiled(pair), args)
    assert_same(found, eager(pair, pair.elbo, args))
