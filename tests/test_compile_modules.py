"""Compiled objectives read the pair's own modules at every call: their tensors, buffers, modes, ties and attributes."""

import contextlib
import copy
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn as nn
from torch.testing import assert_close

import pyro_priors as pp
from compiling import SEED, assert_same, compiled_loss, eager
from pairs import batch, create, randomise
from pyro_priors.tracing import function
from pyro_priors.tracing.graph import Graph
from pyro_priors.tracing.held import Held

pytestmark = pytest.mark.usefixtures("float64")


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


def test_machine_code_moves_buffers_and_keeps_the_order_of_noise():
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


def test_objects_that_take_a_freed_one_s_place_are_others(traced):
    """An id is given again once its object is gone; a graph made for the first is not for the second."""
    pair, args = create("vae", encoder=Habits("mask")), batch("vae")
    loss = pp.compiled(pair)
    for factor in (1.0, 2.0, 3.0, 4.0):
        pair.guide.encoder.mask = torch.full((4,), factor)
        assert_same(compiled_loss(loss, args), eager(pair, pair.elbo, args))
    assert len(traced) == 4


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
