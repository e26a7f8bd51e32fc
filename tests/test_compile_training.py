"""Training and evaluation with compiled steps: the same numbers as eagerly, resumed exactly."""

import warnings

import pyro.distributions as dist
import pytest
import torch
import torch.nn as nn
from pyro import infer
from torch.testing import assert_close

import pyro_priors as pp
import runs
from compiling import SEED
from pairs import NAMES, batch, create, randomise
from pyro_priors.objectives import (
    ELBO,
    Beta,
)
from pyro_priors.tracing import inductor
from pyro_priors.training import loop

pytestmark = pytest.mark.usefixtures("float64")


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
    monkeypatch.setattr("pyro_priors.log_probability.ROWS_PER_CALL", 24)
    pair, args = randomise(create(name)), batch(name, 13)
    found = []
    for how in ("always", "never"):
        torch.manual_seed(SEED)
        found.append(pair.log_prob(*args, num_samples=7, compile=how))
    assert_close(*found, rtol=1e-11, atol=1e-12)
    assert len(traced) == 1
    monkeypatch.setattr("pyro_priors.log_probability.ROWS_THAT_PAY", 13 * 7)
    torch.manual_seed(SEED)
    assert_close(pair.log_prob(*args, num_samples=7), found[0])
    assert len(traced) == 2
    with pytest.raises(ValueError, match="compile must be one of always, auto, never, got 'yes'"):
        pair.log_prob(*args, compile="yes")
