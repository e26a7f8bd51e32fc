"""A training that diverges ends in TrainingDiverged however it shows; a mistake of the user stays what it is."""

import dataclasses
import json
import math
import re

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn as nn

import pyro_priors as pp
import runs
from pyro_priors import checkpoint
from pyro_priors.cli.main import main
from pyro_priors.objectives import ELBO, Beta
from pyro_priors.tracing import inductor
from pyro_priors.training import loop

OPTIONS = {"progress": False, "batch_size": 32, "learning_rate": 1e-2, "max_epochs": 4}
STEPS = 3
"""Of an epoch."""


@pytest.fixture(scope="module")
def digits():
    return runs.small_data(binarise="none")


@pytest.fixture
def traced(monkeypatch):
    """Graphs run as traced, without the seconds that inductor takes."""
    monkeypatch.setattr(inductor, "compile_graph", lambda graph, inputs: graph)


class Spoiled(nn.Module):
    """A Gaussian decoder whose mean and scale pass through a function once it has been called so many times.

    :param how: from mean and scale to what the decoder returns
    :param after: number of good calls
    :param training: which calls are counted: those of the training, or of the validation
    """

    def __init__(self, how, after, training=True):
        super().__init__()
        self.linear = nn.Linear(2, 64)
        self.how, self.counted = how, training
        self.register_buffer("left", torch.tensor(float(after)))

    def forward(self, z, **given):
        loc = self.linear(z)
        scale = torch.ones_like(loc)
        if self.training == self.counted:
            with torch.no_grad():
                self.left -= 1
            if self.how in TENSORS:  # without a branch, which no graph could hold
                loc, scale = self.how(loc, scale, lambda bad, good: torch.where(self.left < 0, bad, good))
            elif self.left < 0:
                return self.how(loc, scale)
        return dist.Normal(loc, scale).to_event(1)


def nan(loc, scale, choose):
    return loc * choose(math.nan, 1.0), scale


def infinite(loc, scale, choose):
    return loc + choose(math.inf, 0.0), scale


def vanished(loc, scale, choose):
    """Refused by the distribution, and finite."""
    return loc, scale * choose(0.0, 1.0)


def half(loc, scale, choose):
    """Beyond the largest number of half precision, 65,504."""
    return (loc + choose(1e5, 0.0)).half().to(loc), scale


def cholesky(loc, scale):
    """Of a matrix that is finite and not positive."""
    return dist.Normal(loc, torch.linalg.cholesky(-torch.eye(64))[0, 0] + scale).to_event(1)


def cholesky_of_nan(loc, scale):
    return dist.Normal(loc, torch.linalg.cholesky(loc.T @ loc * math.nan)[0, 0] + scale).to_event(1)


def overflow(loc, scale):
    return dist.Normal(loc, scale * math.exp(1000.0)).to_event(1)


def drawn(loc, scale):
    """torch.multinomial refuses NaN with or without validation."""
    torch.multinomial((loc * math.nan).softmax(-1), 1)


class Refusing(nn.Identity):
    """A network with a check of its own."""

    def forward(self, h):
        if not h.isfinite().all():
            raise ValueError("these numbers are not for me")
        return h


def own_check(loc, scale):
    return dist.Normal(Refusing()(nn.Identity()(loc * math.nan)), scale).to_event(1)


def negative_logistic(loc, scale):
    """A logistic of scale -1 has finite densities, and so have the next three."""
    return pp.nn.DiscretisedLogistic(loc, -scale).to_event(1)


def sure_twice(loc, scale):
    return dist.Bernoulli(probs=1.5 * scale + 0 * loc).to_event(1)


def negative_shares(loc, scale):
    """In a distribution that is not that of a site."""
    shares = dist.Categorical(probs=torch.tensor([-1.0, 3.0]))
    return dist.Normal(loc + 0 * shares.logits.sum(), scale).to_event(1)


def empty_interval(loc, scale):
    return dist.Normal(loc + dist.Uniform(2 * scale, scale).low, scale).to_event(1)


TENSORS = (nan, infinite, vanished, half)
PROGRAMS = (cholesky, cholesky_of_nan, overflow, drawn, own_check)
REFUSED = (negative_logistic, sure_twice, negative_shares, empty_interval)
"""What distributions refuse, and nothing else: without validation the loss stays finite."""


def gaussian_pair(digits, decoder):
    return runs.small_pair("vae", digits, likelihood="gaussian", decoder=decoder)


def diverge(pair, data, objective=None, **options):
    """The message of the training's end, after what every divergence leaves was checked."""
    best, original = [runs.state(pair)], loop.Training.end_epoch

    def end_epoch(self, seconds):
        original(self, seconds)
        if self.progress.best_epoch == self.progress.epoch - 1:
            best.append(runs.state(self.pair))

    with pytest.MonkeyPatch.context() as patch, pytest.raises(pp.TrainingDiverged) as caught:
        patch.setattr(loop.Training, "end_epoch", end_epoch)
        pp.fit(pair, data, objective, **OPTIONS | options)
    assert runs.same_bits(runs.state(pair), best[-1])
    assert all(tensor.isfinite().all() for tensor in runs.state(pair).values())
    assert pair.training
    if "out" in options:
        assert runs.same_bits(runs.saved_pair(options["out"]), best[-1])
        assert len(runs.records(options["out"])) == len(best) - 1
    message = str(caught.value)
    assert "\n" not in message and "a smaller learning_rate or clip_norm=1 may help" in message
    return message


@pytest.mark.parametrize("validation", [True, False], ids=["validated", "unvalidated"])
@pytest.mark.parametrize("compile", ["never", "always"])
@pytest.mark.parametrize("how", TENSORS)
def test_in_a_step(digits, tmp_path, traced, how, compile, validation):
    pair = gaussian_pair(digits, Spoiled(how, after=7))
    with pyro.validation_enabled(validation):
        message = diverge(pair, digits, out=tmp_path / "run", compile=compile)
    assert re.match(r"the loss became -?(nan|inf) at site 'x' at step 7 \(epoch 2\): the pair has the best", message)


@pytest.mark.parametrize("validation", [True, False], ids=["validated", "unvalidated"])
@pytest.mark.parametrize("how", PROGRAMS)
def test_in_a_step_by_an_error(digits, tmp_path, how, validation):
    pair = gaussian_pair(digits, Spoiled(how, after=7))
    with pyro.validation_enabled(validation):
        message = diverge(pair, digits, out=tmp_path / "run")
    assert " at step 7 (epoch 2): the pair has the best weights, from epoch " in message


@pytest.mark.parametrize("validation", [True, False], ids=["validated", "unvalidated"])
@pytest.mark.parametrize("how", [*TENSORS, *PROGRAMS])
def test_in_validation(digits, tmp_path, how, validation):
    pair = gaussian_pair(digits, Spoiled(how, after=1, training=False))
    with pyro.validation_enabled(validation):
        message = diverge(pair, digits, out=tmp_path / "run")
    assert " at step 6 (epoch 1): the pair has the best weights, from epoch 0, saved in " in message


@pytest.mark.parametrize(("after", "training"), [(7, True), (1, False)], ids=["step", "validation"])
@pytest.mark.parametrize("how", REFUSED)
def test_by_what_only_a_distribution_refuses(digits, how, after, training):
    digits = dataclasses.replace(digits, likelihood="gaussian")
    message = diverge(gaussian_pair(digits, Spoiled(how, after, training)), digits)
    assert message.startswith("a distribution refused its parameters (") or " became nan at " in message
    with pytest.raises(ValueError, match="parameter |Uniform is not defined"):
        pp.fit(gaussian_pair(digits, Spoiled(how, after=0)), digits, **OPTIONS)


def test_by_a_scale_of_the_posterior_whose_square_is_in_the_kl(digits):
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.scale = nn.Linear(64, 2), nn.Parameter(torch.full((2,), 0.5))

        def forward(self, x):
            loc = self.linear(x)
            return dist.Normal(loc, self.scale.expand(loc.shape)).to_event(1)

    pair = runs.small_pair("vae", digits, likelihood="gaussian", encoder=Encoder(), scale=0.05)
    message = diverge(pair, digits, learning_rate=1.0, max_epochs=20)
    assert "a distribution refused its parameters (Expected parameter scale" in message


@pytest.mark.parametrize("validation", [True, False], ids=["validated", "unvalidated"])
def test_a_prior_refuses_a_draw(digits, validation):
    """No distribution checks its parameters here; the first that refuses is the prior, a value that is NaN."""
    pair = gaussian_pair(digits, Spoiled(nan, after=10**6))
    calls = []

    def spoil(module, args, output):
        calls.append(output)
        loc = output.base_dist.loc * (math.nan if len(calls) > 7 else 1)
        return dist.Normal(loc, 1.0, validate_args=False).to_event(1)

    pair.guide.encoder.register_forward_hook(spoil)
    with pyro.validation_enabled(validation):
        assert "became nan" in diverge(pair, digits, ELBO(analytic_kl=False))


@pytest.mark.parametrize("how", [nan, vanished])
def test_at_the_first_validation_the_weights_at_the_start_are_kept(digits, tmp_path, how):
    pair = gaussian_pair(digits, Spoiled(how, after=0, training=False))
    message = diverge(pair, digits, out=tmp_path / "run")
    assert " at step 3 (epoch 0): the pair has its initial weights, saved in " in message


@pytest.mark.parametrize("objective", [None, Beta(beta=2.0), pyro.infer.Trace_ELBO()], ids=["elbo", "beta", "pyro"])
def test_an_absurd_learning_rate(objective):
    data = runs.small_data()  # one step an epoch: the first to see the weights is the validation
    message = diverge(runs.small_pair("vae", data), data, objective, batch_size=96, learning_rate=1e30)
    assert re.search(r" became -?(nan|inf).* at step 1 \(epoch 0\): ", message)


def test_a_parameter_that_the_last_step_of_an_epoch_spoils(digits, monkeypatch):
    """It reaches the loss in training alone: no validation would see it."""

    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 64)
            self.shift = nn.Parameter(torch.zeros(64))

        def forward(self, z, **given):
            loc = self.linear(z)
            return dist.Normal(loc + self.shift if self.training else loc, 1.0).to_event(1)

    pair = gaussian_pair(digits, Shifted())
    original = loop.Training.train_step

    def train_step(self, *args):
        original(self, *args)
        if self.progress.step == 2 * STEPS - 1:
            pair.model.decoder.shift.data[3] = math.inf

    monkeypatch.setattr(loop.Training, "train_step", train_step)
    assert diverge(pair, digits).startswith("'model.decoder.shift' became inf at step 6 (epoch 1): ")


def test_parameters_whose_norm_overflows_are_finite(digits):
    decoder = Spoiled(nan, after=10**6)
    decoder.unused = nn.Parameter(torch.full((2,), 3e38))
    history = pp.fit(gaussian_pair(digits, decoder), digits, **OPTIONS)
    assert len(history.epochs) == 4


def test_a_parameter_that_is_not_trained_may_become_infinite(digits):
    """Networks that are pruned set weights to minus infinity themselves."""

    class Pruned(Spoiled):
        def forward(self, z, **given):
            self.mask.data[0] = -math.inf
            return super().forward(z + 0 * self.mask.exp().sum(), **given)

    decoder = Pruned(nan, after=10**6)
    decoder.mask = nn.Parameter(torch.zeros(2), requires_grad=False)
    history = pp.fit(gaussian_pair(digits, decoder), digits, **OPTIONS)
    assert len(history.epochs) == 4


def test_infinity_that_a_module_returns_by_design_and_a_mistake(digits):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.distances, self.linear, self.calls = nn.Identity(), nn.Linear(2, 64), 0

        def forward(self, z, **given):
            nearest = self.distances(torch.tensor([math.inf, 1.0])).amin()
            self.calls += self.training
            if self.calls > 7:
                raise RuntimeError("my own mistake")
            return dist.Normal(nearest * self.linear(z), 1.0).to_event(1)

    with pytest.raises(RuntimeError, match="my own mistake"):
        pp.fit(gaussian_pair(digits, Masked()), digits, **OPTIONS)


def test_what_was_infinite_from_the_start_may_stay(digits):
    """Masks hold minus infinity, as buffers and in what modules return."""
    decoder = Spoiled(nan, after=10**6)
    decoder.register_buffer("mask", torch.tensor([0.0, -math.inf]))
    history = pp.fit(gaussian_pair(digits, decoder), digits, **OPTIONS)
    assert len(history.epochs) == 4


def test_in_a_gradient_that_torch_refuses(digits):
    """Anomaly detection raises in the backward pass, before a gradient can be looked at."""
    pair = runs.small_pair("vae", runs.small_data(), decoder=runs.Failing(2, 64, after=4, backward=True))
    with torch.autograd.set_detect_anomaly(True), pytest.warns(UserWarning, match="[Aa]nomaly|Error detected in"):
        message = diverge(pair, runs.small_data())
    assert message.startswith("the gradient of 'model.decoder.linear.weight' became nan at step 4 (epoch 1)")


def test_in_the_calibration_of_an_epoch():
    data = dataclasses.replace(runs.small_data(binarise="none"), augment=pp.data.Augment((1, 8, 8)))
    pair = runs.small_pair("sigma_vae", data)
    calls = []

    def spoil(module, args, output):
        if output.batch_shape[-1] < 3:  # what a training tries first, on two rows and on one
            return None
        calls.append(len(output.mean))
        if calls[-1] == 96 and len(calls) > 3 * STEPS:  # the training data, as they are, after the third epoch
            return dist.Normal(output.mean * math.nan, 1.0).to_event(1)

    pair.model.decoder.register_forward_hook(spoil)
    assert " at step 9 (epoch 2): " in diverge(pair, data)


@pytest.mark.parametrize("validation", [True, False], ids=["validated", "unvalidated"])
def test_in_the_aggregate_posterior(tmp_path, validation):
    data = runs.small_data()
    pair = runs.small_pair("cp_vae", data)

    def spoil(module, args, output):
        if not module.training and len(args[0]) == 96:
            return dist.Categorical(logits=output.logits * math.nan)

    pair.guide.category.register_forward_hook(spoil)
    with pyro.validation_enabled(validation):
        message = diverge(pair, data, out=tmp_path / "run")
    assert "'aggregate_c' became nan at step 12 (epoch 4): the pair has the best weights, from epoch " in message
    assert torch.equal(pair.aggregate_c, torch.full_like(pair.aggregate_c, 1 / len(pair.aggregate_c)))
    with pytest.raises(pp.TrainingDiverged, match="has already diverged: 'aggregate_c' became nan at step 12"):
        pp.fit(runs.small_pair("cp_vae", data), data, out=tmp_path / "run", resume=True, **OPTIONS)


# mistakes


def mistake(kind):
    def raising(loc, scale):
        raise kind("no constraint is satisfied: NaN, inf")

    return raising


@pytest.mark.parametrize("compile", ["never", "always"])
@pytest.mark.parametrize("kind", [ValueError, KeyError, RuntimeError, AssertionError])
@pytest.mark.parametrize(("training", "after"), [(True, 0), (True, 7), (False, 1)])
def test_an_error_of_the_user_s_own(digits, tmp_path, traced, monkeypatch, kind, training, after, compile):
    monkeypatch.setattr(loop, "STEPS_THAT_PAY", 0)
    pair = gaussian_pair(digits, Spoiled(mistake(kind), after, training))
    with pytest.raises(kind, match="no constraint is satisfied"):
        options = {"compile": "never"} if compile == "never" else {"progress": True}
        pp.fit(pair, digits, out=tmp_path / "run", **OPTIONS | options)
    assert not (tmp_path / "run" / "pair").exists()


def test_a_mistake_that_names_another_error_as_its_cause(digits):
    """One that was made and never raised has no traceback."""

    def chained(loc, scale):
        raise RuntimeError("my own mistake") from ValueError("never raised")

    with pytest.raises(RuntimeError, match="my own mistake"):
        pp.fit(gaussian_pair(digits, Spoiled(chained, after=7)), digits, **OPTIONS)


def negative(loc, scale):
    return dist.Normal(loc, -scale).to_event(1)


def test_what_a_distribution_refuses_at_the_first_step_is_a_mistake(digits):
    """Nothing has been trained, and all that the networks return is finite."""
    with pytest.raises(ValueError, match="parameter scale"):
        pp.fit(gaussian_pair(digits, Spoiled(negative, after=0)), digits, **OPTIONS)
    assert "became nan" in diverge(gaussian_pair(digits, Spoiled(negative, after=7)), digits)


def test_a_matrix_that_has_no_root_at_the_first_step_is_a_mistake(digits):
    with pytest.raises(torch.linalg.LinAlgError):
        pp.fit(gaussian_pair(digits, Spoiled(cholesky, after=0)), digits, **OPTIONS)


def test_nan_at_the_first_step_is_a_divergence(digits):
    for how in (nan, infinite, drawn, own_check):
        message = diverge(gaussian_pair(digits, Spoiled(how, after=0)), digits)
        assert " at step 0 (epoch 0): the pair has its initial weights" in message


@pytest.mark.parametrize("part", ["train", "valid"])
def test_data_outside_the_support_are_a_mistake(digits, part):
    """A Gamma has no density below 0: without validation it would be NaN, and that is not the training's doing."""

    class Positive(nn.Linear):
        def forward(self, z, **given):
            return dist.Gamma(super().forward(z).exp(), 1.0).to_event(1)

    x = {name: torch.rand(40, 64) + 0.1 for name in ("train", "valid")}
    x[part][-1] = -1.0
    data = pp.data.from_arrays(x_train=x["train"], x_valid=x["valid"])
    with pytest.raises(ValueError, match="within the support"):
        pp.fit(gaussian_pair(data, Positive(2, 64)), data, **OPTIONS)


def test_masks_and_a_mistake(digits):
    """Minus infinity in what a module returns is no sign of a divergence."""

    class Masks(nn.Module):
        def forward(self, h):
            return h.masked_fill(torch.ones_like(h).bool(), -math.inf)

    def masked(loc, scale):
        Masks()(loc)
        raise ValueError("my own")

    with pytest.raises(ValueError, match="my own"):
        pp.fit(gaussian_pair(digits, Spoiled(masked, after=7)), digits, **OPTIONS)


# what is left


def test_a_run_that_diverged_says_so_when_it_is_resumed(digits, tmp_path, monkeypatch):
    message = diverge(gaussian_pair(digits, Spoiled(nan, after=7)), digits, out=tmp_path / "run")
    before = runs.snapshot(tmp_path / "run")
    monkeypatch.setattr(loop.Training, "train_epoch", lambda self: pytest.fail("it trains"))
    pair = gaussian_pair(digits, Spoiled(nan, after=7))
    with pytest.raises(pp.TrainingDiverged) as caught:
        pp.fit(pair, digits, out=tmp_path / "run", resume=True, **OPTIONS | {"max_epochs": 9})
    assert str(caught.value) == f"the run in {tmp_path / 'run'} has already diverged: {message}"
    assert runs.same_bits(runs.state(pair), runs.saved_pair(tmp_path / "run"))
    after = runs.snapshot(tmp_path / "run")
    assert {**before, "config.json": ""} == {**after, "config.json": ""}


def test_the_weights_at_the_start_outlive_an_interruption(digits, tmp_path, monkeypatch):
    """Stopped within the first epoch and resumed, a training that diverges leaves what it did uninterrupted."""

    class Stop(Exception):
        pass

    def stop(self):
        if self.progress.step == 1:
            self.save()
            raise Stop

    pair = gaussian_pair(digits, Spoiled(nan, after=2))
    start = runs.state(pair)
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(loop.Training, "stop_if_asked", stop)
        pp.fit(pair, digits, out=tmp_path / "run", **OPTIONS)
    with pytest.raises(pp.TrainingDiverged, match="at step 2 .* has its initial weights"):
        pp.fit(pair, digits, out=tmp_path / "run", resume=True, **OPTIONS)
    assert runs.same_bits(runs.state(pair), start) and runs.same_bits(runs.saved_pair(tmp_path / "run"), start)


@pytest.mark.parametrize("batch_size", [100, 50], ids=["at validation", "in a step"])
def test_one_line_and_a_status(batch_size, tmp_path, capsys):
    """The first to see the weights of the only step of an epoch is the validation."""
    run = tmp_path / "run"
    arguments = [
        "vae",
        "--data",
        "digits",
        "--data.limit",
        "100",
        "--train.learning-rate",
        "1e30",
        "--networks.hidden",
        "8",
        "--train.batch-size",
        str(batch_size),
    ]
    assert main(["train", *arguments, "--train.max-epochs", "1", "--quiet", "--out", str(run)]) == 1
    first = capsys.readouterr().err
    assert re.fullmatch(
        r"pyro-priors: error: .* at step 1 \(epoch 0\): the pair has its initial weights, saved in "
        r".*/run/pair; a smaller learning_rate or clip_norm=1 may help, in another folder\n",
        first,
    )
    assert (run / "pair" / "pair.json").exists()
    assert main(["resume", str(run)]) == 1
    again = capsys.readouterr().err
    assert f"error: the run in {run} has already diverged: " in again and again.count("\n") == 1
    assert first.removeprefix("pyro-priors: error: ") in again


def test_a_state_of_before_has_no_word_of_divergence(digits, tmp_path):
    """States of the first version, which have no such field, are resumed."""
    pp.fit(gaussian_pair(digits, Spoiled(nan, after=10**6)), digits, out=tmp_path / "run", **OPTIONS)
    tensors, record = checkpoint.read(tmp_path / "run" / "last", "state")
    del record["progress"]["diverged"]
    own = {key: record[key] for key in ("progress", "param_groups")}
    checkpoint.write(tmp_path / "run" / "last", "state", tensors, own)
    pair = gaussian_pair(digits, Spoiled(nan, after=10**6))
    history = pp.fit(pair, digits, out=tmp_path / "run", resume=True, **OPTIONS | {"max_epochs": 5})
    assert len(history.epochs) == 5
    assert json.loads((tmp_path / "run" / "last" / "state.json").read_text())["progress"]["diverged"] == ""
