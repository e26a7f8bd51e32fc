"""Callbacks of a training: what they are given, how they stop it, and what they remember when it is resumed."""

import math
import random

import numpy as np
import pytest
import torch

import pyro_priors as pp
import runs
from pyro_priors.run_folder import RunFolder
from pyro_priors.training import loop
from pyro_priors.training.packing import pack_values, unpack_values
from test_resume import assert_same_end, fit_until

# 90 examples: 3 steps an epoch, the last of them smaller
OPTIONS = {"progress": False, "batch_size": 32, "learning_rate": 1e-2, "max_epochs": 4, "seed": 7}


@pytest.fixture(scope="module")
def digits():
    return runs.small_data(size=90)


class Listener:
    """Notes what it is called with."""

    def __init__(self):
        self.steps, self.records = [], []

    def on_step_end(self, state):
        assert state.parts.keys() >= {"reconstruction", "kl_z"} and "loss" not in state.parts
        self.steps.append((state.epoch, state.step, state.loss, state.learning_rate, state.gradient_norm))

    def on_epoch_end(self, record):
        self.records.append(record)


class Averaging:
    """Acts on the training by what it remembers: pulls the weights to their running average, with noise of its own."""

    def __init__(self, pair):
        self.pair, self.average, self.random, self.seen = pair, None, np.random.default_rng(3), {0: (1.5, None)}

    def on_step_end(self, state):
        now = torch.nn.utils.parameters_to_vector(self.pair.parameters()).detach()
        self.average = now if self.average is None else 0.9 * self.average + 0.1 * now
        self.seen[state.step] = (state.loss, math.nan)
        pull = 0.5 * self.random.random() + 0.1 * torch.rand(()).item()
        torch.nn.utils.vector_to_parameters(now + pull * (self.average - now), self.pair.parameters())

    def state_dict(self):
        return {"average": self.average, "random": self.random.bit_generator.state, "seen": self.seen}

    def load_state_dict(self, state):
        self.average, self.random.bit_generator.state, self.seen = state["average"], state["random"], state["seen"]


class StopAt:
    """Stops the training after a step or an epoch."""

    def __init__(self, step=None, epoch=None, call=False, error=None):
        self.step, self.epoch, self.call, self.error = step, epoch, call, error

    def on_step_end(self, state):
        return self.stop(state) if state.step == self.step else None

    def on_epoch_end(self, record):
        return record["epoch"] == self.epoch and self.stop(None)

    def stop(self, state):
        if self.error is not None:
            raise self.error
        if self.call:
            return state.stop()
        return np.True_


def fit(digits, callbacks, seed=0, **options):
    pair = runs.small_pair("vae", digits, seed=seed)
    given = [callback(pair) if isinstance(callback, type) else callback for callback in callbacks]
    return pair, pp.fit(pair, digits, callbacks=given, **OPTIONS | options)


# what they are given


def test_a_callback_sees_each_step_and_each_epoch(digits):
    listener = Listener()
    _, history = fit(digits, [listener], schedule="linear")
    assert [step[:2] for step in listener.steps] == [(step // 3, step + 1) for step in range(12)]
    assert listener.records == history.epochs
    for epoch, record in enumerate(history.epochs):
        of_epoch = listener.steps[3 * epoch : 3 * epoch + 3]
        sizes = (32, 32, 26)
        mean = sum(size * step[2] for size, step in zip(sizes, of_epoch, strict=True)) / 90
        assert mean == pytest.approx(record["train_loss"], rel=1e-12)
        assert max(step[4] for step in of_epoch) == record["train_largest_gradient_norm"]
        assert {step[3] for step in of_epoch} == {1e-2 * (1 - epoch / 4)}


def test_a_callback_that_looks_changes_no_bit(digits):
    class Draws(Listener):
        def on_step_end(self, state):
            assert state.pair.sample(3)["x"].shape == (3, 64)
            torch.randn(7)

    plain, listened = (runs.state(fit(digits, callbacks)[0]) for callbacks in ([], [Listener(), Draws()]))
    assert runs.same_bits(plain, listened)


def test_what_a_callback_does_to_a_record_stays_with_it(digits, tmp_path):
    class Clears:
        def on_epoch_end(self, record):
            record.clear()

    _, history = fit(digits, [Clears()], out=tmp_path / "run", max_epochs=2)
    assert [record["epoch"] for record in history.epochs] == [0, 1]
    assert len(runs.records(tmp_path / "run")) == 2


# how they stop it


@pytest.mark.parametrize("call", [False, True])
def test_a_step_that_stops_the_training_ends_its_epoch(digits, tmp_path, call):
    run = tmp_path / "run"
    pair, history = fit(digits, [StopAt(step=5, call=call)], out=run)
    assert [(record["epoch"], record["step"]) for record in history.epochs] == [(0, 3), (1, 5)]
    assert history.stopped == "a callback: StopAt"
    # the same steps with fewer examples in the second epoch, and the same validation
    assert history.epochs[1]["valid_bound"] == runs.validation_bound(pair, digits, seed=7)
    before = runs.snapshot(run)
    resumed, again = fit(digits, [StopAt()], out=run, resume=True)
    assert runs.same_bits(runs.state(resumed), runs.state(pair)) and again == history
    assert {name for name, digest in runs.snapshot(run).items() if before[name] != digest} <= {"pair/pair.json"}


def test_an_epoch_that_stops_the_training(digits, tmp_path):
    pair, history = fit(digits, [Listener(), StopAt(epoch=1)], out=tmp_path / "run", patience=1)
    assert (len(history.epochs), history.stopped) == (2, "a callback: StopAt")
    shorter, _ = fit(digits, [], max_epochs=2)
    assert runs.same_bits(runs.state(pair), runs.state(shorter))
    assert RunFolder(tmp_path / "run").stopped() == "a callback: StopAt"


def test_the_pruning_of_the_docstring(digits):
    class Trial:
        reports = []

        def report(self, value, step):
            self.reports.append((step, value))

        def should_prune(self):
            return len(self.reports) == 3

    class Prune:
        def __init__(self, trial):
            self.trial = trial

        def on_epoch_end(self, record):
            self.trial.report(record["valid_bound"], record["epoch"])
            return self.trial.should_prune()

    trial = Trial()
    _, history = fit(digits, [Prune(trial)])
    assert trial.reports == [(record["epoch"], record["valid_bound"]) for record in history.epochs]
    assert len(trial.reports) == 3


@pytest.mark.parametrize("where", [{"step": 5}, {"step": 6}, {"epoch": 1}, {"epoch": 3}])
def test_a_callback_that_raises_leaves_a_state_to_resume_from(digits, tmp_path, where):
    whole, pair = tmp_path / "whole", fit(digits, [StopAt(), Averaging], out=tmp_path / "whole")[0]
    run = tmp_path / "run"
    # the callback that fails comes last, so that the other has seen the step
    with pytest.raises(RuntimeError, match="out of luck") as caught:
        fit(digits, [Averaging, StopAt(**where, error=RuntimeError("out of luck"))], out=run)
    assert type(caught.value) is RuntimeError
    assert RunFolder(run).stopped() == "an error of a callback: RuntimeError"
    assert RunFolder(run).progress()["step"] == where.get("step", 3 * where.get("epoch", 0) + 3)
    resumed, _ = fit(digits, [Averaging, StopAt()], out=run, resume=True)
    assert runs.same_bits(runs.state(resumed), runs.state(pair))
    assert runs.records(run) == runs.records(whole)


# what they remember


@pytest.fixture(scope="module")
def uninterrupted(digits, tmp_path_factory):
    run = tmp_path_factory.mktemp("callbacks") / "uninterrupted"
    pair, _ = fit(digits, [Averaging], out=run)
    plain, _ = fit(digits, [])
    assert not runs.same_bits(runs.state(plain), runs.state(pair)), "the callback acts on the training"
    return run, runs.state(pair)


@pytest.mark.parametrize("step", [1, 3, 5, 11])
def test_resume_is_exact_with_a_callback_that_remembers(digits, tmp_path, monkeypatch, uninterrupted, step):
    run = tmp_path / "run"
    monkeypatch.setattr("test_resume.fit", lambda run, data, **options: fit(data, [Averaging], out=run, **options))
    fit_until(monkeypatch, step, run, digits)
    pair, _ = fit(digits, [Averaging], out=run, resume=True)
    assert_same_end(run, pair, uninterrupted)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ([], r"callbacks=\[Averaging\], and callbacks is None now: give the same callbacks"),
        ([Listener()], r"callbacks=\[Averaging\], and callbacks is \[Listener\] now"),
        ([Averaging, Listener()], r"callbacks is \[Averaging, Listener\] now"),
    ],
)
def test_resume_with_other_callbacks_is_refused(digits, tmp_path, given, match):
    run = tmp_path / "run"
    fit(digits, [Averaging], out=run, max_epochs=1)
    before = runs.snapshot(run)
    with pytest.raises(ValueError, match=match) as caught:
        fit(digits, given, out=run, resume=True)
    assert "\n" not in str(caught.value) and runs.snapshot(run) == before


def test_a_callback_that_no_longer_remembers_is_refused(digits, tmp_path):
    fit(digits, [Averaging], out=tmp_path / "run", max_epochs=1)
    forgetful = type("Averaging", (Listener,), {})()
    with pytest.raises(pp.CheckpointError, match="has a state of callback Averaging, which now has no state_dict"):
        fit(digits, [forgetful], out=tmp_path / "run", resume=True)


def test_states_are_packed_exactly():
    generator = torch.Generator().manual_seed(5)
    value = {
        "text": "a\n'ü", "numbers": [1, -(2**200), 0.1, math.inf, True, None], "pairs": ((1,), ()), 3: {"deep": [[]]},
        (1, 2): "key", "python": random.Random(1).getstate(), "torch": generator.get_state(),
        "half": torch.tensor([1.5], dtype=torch.bfloat16), "empty": torch.zeros(0, 2), "scalar": torch.tensor(3),
        "array": np.arange(6.0).reshape(2, 3)[:, ::2], "number": np.float32(0.1),
    }  # fmt: skip
    found = unpack_values(pack_values(value, "it"), "it")
    assert found.keys() == value.keys()
    for key, one in value.items():
        other = found[key]
        assert type(other) is type(one), key
        if isinstance(one, torch.Tensor):
            assert other.dtype == one.dtype and torch.equal(other, one)
        else:
            np.testing.assert_equal(other, one)


@pytest.mark.parametrize("text", [None, "{", '{"tensor": "0"}', '{"list": 3}', '{"other": 1}', "[" * 100000])
def test_altered_states_are_refused(text):
    tensors = {} if text is None else {"json": torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)}
    with pytest.raises(pp.CheckpointError, match="the state of it cannot be read"):
        unpack_values(tensors, "it")


# mistakes


class WithoutHook:
    def on_epoch_ends(self, record):
        pass


class HalfState(Listener):
    def state_dict(self):
        return {}


class Unpackable(HalfState):
    def load_state_dict(self, state):
        pass

    def state_dict(self):
        return {"seen": [1, {2, 3}]}


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (Listener(), r"callbacks must be a list, got Listener: give callbacks=\[callback\]"),
        (3, "callbacks must be a list, got 3"),
        ([Listener], r"callbacks\[0\] is Listener, a class: give an instance, Listener\(...\)"),
        ([Listener(), WithoutHook()], r"callbacks\[1\] is WithoutHook, which has neither method on_step_end nor"),
        ([HalfState()], r"callbacks\[0\] is HalfState, which needs both state_dict and load_state_dict"),
        (
            [Unpackable()],
            r"callback Unpackable has a set in its state\['seen'\]\[1\], which a resume state cannot keep",
        ),
    ],
)
def test_mistakes_are_refused_before_the_training(digits, tmp_path, given, match):
    pair = runs.small_pair("vae", digits)
    with pytest.raises(ValueError, match=match) as caught:
        pp.fit(pair, digits, callbacks=given, out=tmp_path / "run", **OPTIONS)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_an_answer_that_is_neither_true_nor_none_is_refused(digits):
    class Answers:
        def on_epoch_end(self, record):
            return record["valid_bound"]

    with pytest.raises(ValueError, match=r"on_epoch_end of Answers returned -\d.*: return True to stop"):
        fit(digits, [Answers()])


def test_callbacks_need_one_process(digits):
    with pytest.raises(ValueError, match="num_processes is 2, but callbacks run in a training of one process only"):
        fit(digits, [Listener()], num_processes=2)


def test_a_state_that_cannot_be_saved_does_not_hide_the_error_of_the_callback(digits, monkeypatch):
    def save(self, stopped):
        raise OSError("the disk is full")

    monkeypatch.setattr(loop.Training, "save", save)
    with pytest.raises(RuntimeError, match="first") as caught:
        fit(digits, [StopAt(step=1, error=RuntimeError("first"))])
    assert caught.value.__notes__ == ["the state of the training is not saved: the disk is full"]
