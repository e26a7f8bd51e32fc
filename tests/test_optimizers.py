"""Optimizers of your own, and the weight decay of the default one."""

from functools import partial

import pytest
import torch

import pyro_priors as pp
import runs
from pyro_priors import checkpoint
from test_resume import assert_same_end, fit_until

# 90 examples: 3 steps an epoch, the last of them smaller
OPTIONS = {"progress": False, "batch_size": 32, "max_epochs": 4, "seed": 7}
SGD = partial(torch.optim.SGD, lr=1e-3, momentum=0.9)


@pytest.fixture(scope="module")
def digits():
    return runs.small_data(size=90)


def fit(run, data, optimizer=None, **options):
    pair = runs.small_pair("cp_vae", data)
    pp.fit(pair, data, out=run, optimizer=optimizer, **OPTIONS | options)
    return pair


class Counting(torch.optim.Optimizer):
    """Keeps numbers and None for each parameter, numbers in its group, and a state that is made when it is."""

    def __init__(self, params, lr=1e-3):
        super().__init__(params, {"lr": lr, "k": 0, "grown": 1.0, "fixed": "word"})
        for group in self.param_groups:
            for parameter in group["params"]:
                # of another type than the parameter, which load_state_dict would convert
                self.state[parameter] = {
                    "calls": 0,
                    "size": 1.0,
                    "none": None,
                    "wide": torch.zeros(2, dtype=torch.float64),
                }

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["k"] += 1
            group["grown"] *= 1.01
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                state["calls"] += 1
                state["size"] = 0.9 * state["size"] + 0.1 * parameter.grad.abs().mean().item()
                state["wide"] += parameter.grad.double().sum() / 3
                scale = group["grown"] / (state["calls"] * state["size"] + 0.1) + 1e-3 * state["wide"].sum().item()
                parameter -= group["lr"] * scale * parameter.grad


def by_parts(parameters):
    few, many = [p for p in parameters if p.dim() < 2], [p for p in parameters if p.dim() >= 2]
    return torch.optim.AdamW([{"params": many, "weight_decay": 0.1}, {"params": few, "lr": 1e-2}], lr=1e-3)


# what they do


def test_the_factory_of_the_default_gives_the_default(digits):
    plain = fit(None, digits, learning_rate=1e-2)
    for factory in (
        torch.optim.Adam,
        partial(torch.optim.Adam, lr=1e-2),
        lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
    ):
        takes = factory is torch.optim.Adam
        own = fit(None, digits, factory, **({"learning_rate": 1e-2} if takes else {}))
        # the default is fused, which rounds otherwise
        for key, value in runs.state(plain).items():
            torch.testing.assert_close(runs.state(own)[key], value, rtol=1e-3, atol=1e-4)
    fused = fit(None, digits, partial(torch.optim.Adam, fused=True), learning_rate=1e-2)
    assert runs.same_bits(runs.state(fused), runs.state(plain))


def gradients_of_a_step(digits, **options):
    """The parameters before and after one step, and the gradients in it."""
    found = {}

    class Look:
        def on_step_end(self, state):
            found["gradients"] = {
                name: p.grad.clone() for name, p in state.pair.named_parameters() if p.grad is not None
            }
            found["rate"] = state.learning_rate

    pair = runs.small_pair("vae", digits)
    before = {name: p.detach().clone() for name, p in pair.named_parameters()}
    pp.fit(pair, digits, callbacks=[Look()], keep="last", **OPTIONS | {"batch_size": 90, "max_epochs": 1} | options)
    after = {name: p.detach() for name, p in pair.named_parameters()}
    return before, found["gradients"], after, found["rate"]


def test_a_step_of_sgd_by_hand(digits):
    """The second epoch's step by hand: momentum, and the schedule times the factory's learning rate."""
    factory = partial(torch.optim.SGD, lr=0.02, momentum=0.9)
    before, gradients, after, rate = gradients_of_a_step(digits, optimizer=factory)
    assert rate == 0.02
    for name, value in before.items():
        torch.testing.assert_close(after[name], value - 0.02 * gradients[name])
    _, first, middle, _ = gradients_of_a_step(digits, optimizer=factory, schedule="linear", max_epochs=1)
    pair_before, second, last, rate = gradients_of_a_step(digits, optimizer=factory, schedule="linear", max_epochs=2)
    assert rate == 0.02 * (1 - 1 / 2)
    for name, value in pair_before.items():
        start = value - 0.02 * first[name]
        torch.testing.assert_close(middle[name], start)
        torch.testing.assert_close(last[name], start - 0.01 * (0.9 * first[name] + second[name]))


def test_weight_decay_by_hand(digits):
    """Decoupled: the step of Adam is the same, and each parameter shrinks by learning rate times decay."""
    options = {"learning_rate": 1e-2}
    before, gradients, plain, _ = gradients_of_a_step(digits, **options)
    _, same, decayed, _ = gradients_of_a_step(digits, **options, weight_decay=3.0)
    for name, value in before.items():
        assert torch.equal(gradients[name], same[name])
        step = plain[name] - value
        torch.testing.assert_close(decayed[name], (1 - 1e-2 * 3.0) * value + step)
        # the first step of Adam is the sign of the gradient, where that is not tiny
        large = gradients[name].abs() > 1e-4
        torch.testing.assert_close(step[large], -1e-2 * gradients[name][large].sign(), rtol=1e-2, atol=1e-6)


def test_groups_keep_their_learning_rates(digits):
    pair = runs.small_pair("vae", digits)
    rates = []

    class Look:
        def on_step_end(self, state):
            rates.append(state.learning_rate)

    pp.fit(pair, digits, optimizer=by_parts, callbacks=[Look()], schedule="cosine", **OPTIONS)
    assert rates[0] == 1e-3 and rates[6] == pytest.approx(0.5e-3)


# resuming


@pytest.mark.parametrize(
    ("factory", "options"),
    [
        (SGD, {}),
        (partial(torch.optim.SGD, lr=1e-3), {}),
        (torch.optim.RAdam, {"learning_rate": 1e-2, "frozen": ("guide.category",), "frozen_epochs": 2}),
        (partial(torch.optim.NAdam, foreach=False), {"schedule": "cosine"}),
        (torch.optim.ASGD, {"precision": "64-true"}),
        (torch.optim.Adagrad, {"precision": "64-true", "learning_rate": 1e-2}),
        (torch.optim.Rprop, {}),
        (by_parts, {}),
        (Counting, {"learning_rate": 1e-2, "frozen": ("guide.category",), "frozen_epochs": 2}),
        (None, {"weight_decay": 0.1}),
    ],
    ids=["momentum", "sgd", "radam", "nadam", "asgd", "adagrad", "rprop", "groups", "counting", "decay"],
)
def test_resume_is_exact_with_any_optimizer(digits, tmp_path, monkeypatch, factory, options):
    whole, run = tmp_path / "whole", tmp_path / "run"
    state = runs.state(fit(whole, digits, factory, **options))
    monkeypatch.setattr("test_resume.fit", lambda run, data, **more: fit(run, data, factory, **options, **more))
    fit_until(monkeypatch, 5, run, digits)
    assert_same_end(run, fit(run, digits, factory, resume=True, **options), (whole, state))


@pytest.mark.parametrize(
    ("first", "then", "options", "match"),
    [
        (SGD, None, {}, "was trained with optimizer=SGD, and optimizer is None now: give the same optimizer to fit"),
        (None, SGD, {}, "was trained with optimizer=None, and optimizer is SGD now"),
        (SGD, partial(SGD, momentum=0.8), {}, r"optimizer.groups is .*'momentum': 0.8.* was started with .*0.9"),
        (None, None, {"weight_decay": 0.1}, "train.weight_decay is 0.1, but .* was started with 0.0"),
    ],
)
def test_resume_with_another_optimizer_is_refused(digits, tmp_path, first, then, options, match):
    run = tmp_path / "run"
    fit(run, digits, first, max_epochs=1)
    before = runs.snapshot(run)
    with pytest.raises(ValueError, match=match) as caught:
        fit(run, digits, then, resume=True, **options)
    assert "\n" not in str(caught.value) and runs.snapshot(run) == before


@pytest.mark.parametrize(
    ("alter", "match"),
    [
        (lambda t: t | {"optimizer/0/momentum_buffer": torch.zeros(3)}, "optimizer/0/momentum_buffer must be of type"),
        (
            lambda t: t | {"optimizer/0/more": torch.zeros(3)},
            "optimizer/0 must have momentum_buffer, got momentum_buffer",
        ),
        (lambda t: t | {"optimizer/99/momentum_buffer": torch.zeros(3)}, "its optimizer has a parameter 99, but"),
        (
            lambda t: t | {"optimizer/0/momentum_buffer": t["optimizer/0/momentum_buffer"] * float("nan")},
            "'optimizer/0/momentum_buffer' contains nan",
        ),
        (lambda t: {k: v for k, v in t.items() if not k.startswith("optimizer")}, "state is empty after 3 steps"),
    ],
)
def test_altered_states_of_an_optimizer_are_refused(digits, tmp_path, alter, match):
    run = tmp_path / "run"
    fit(run, digits, SGD, max_epochs=1)
    tensors, record = checkpoint.read(run / "last", "state")
    record = {key: value for key, value in record.items() if key not in ("format", "tensors", "sha256")}
    checkpoint.write(run / "last", "state", alter(tensors), record)
    with pytest.raises(pp.CheckpointError, match=match):
        fit(run, digits, SGD, resume=True)


# mistakes


class NeedsClosure(torch.optim.SGD):
    def step(self, closure):
        return super().step(closure)


class KeepsLists(torch.optim.SGD):
    def step(self, closure=None):
        super().step()
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["history"] = [1]


def of_others(parameters):
    return torch.optim.SGD([*parameters, torch.nn.Parameter(torch.zeros(1))])


@pytest.mark.parametrize(
    ("factory", "options", "match"),
    [
        ("adam", {}, "optimizer must be a callable that makes an optimizer, got 'adam': give a callable such as"),
        (
            torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]),
            {},
            "that makes an optimizer, got SGD: give a callable",
        ),
        (lambda parameters: None, {}, "optimizer must return a torch optimizer, got None"),
        (
            lambda parameters: torch.optim.SGD([]),
            {},
            "cannot be made from the pair's parameters .*empty parameter list",
        ),
        (lambda parameters: torch.optim.SGD(parameters[1:]), {}, r"all \d+ parameters .* lacks 1, such as 'model\."),
        (of_others, {}, r"optimizer must hold the pair's \d+ parameters only, but holds 1 others"),
        (torch.optim.LBFGS, {}, "optimizer LBFGS needs a closure in each step, which fit does not give"),
        (NeedsClosure, {}, "optimizer NeedsClosure needs a closure"),
        (KeepsLists, {}, "optimizer KeepsLists keeps 'history', a list, for each parameter, which a run folder cannot"),
        (partial(torch.optim.Adam, lr=torch.tensor(0.1)), {}, "optimizer Adam must have a number as lr in each group"),
        (SGD, {"learning_rate": 0.1}, "learning_rate is 0.1, but the optimizer factory sets the rate itself"),
        (SGD, {"weight_decay": 0.1}, "weight_decay=0.1 is of the default optimizer, but optimizer is given: bind it"),
        (None, {"weight_decay": -0.1}, "weight_decay must be 0 or more, got -0.1"),
        (lambda parameters: SGD(parameters), {"num_processes": 2}, "the optimizer's factory cannot be sent to other"),
    ],
)
def test_mistakes_are_refused_before_the_training(digits, tmp_path, factory, options, match):
    pair = runs.small_pair("vae", digits)
    before = runs.state(pair)
    with pytest.raises(ValueError, match=match) as caught:
        pp.fit(pair, digits, optimizer=factory, out=tmp_path / "run", **OPTIONS | options)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()
    assert runs.same_bits(runs.state(pair), before)


@pytest.mark.slow
def test_two_processes_train_with_an_own_optimizer():
    found = []
    for num_processes in (1, 2):
        pair = runs.given_noise_pair()
        options = {"progress": False, "batch_size": 16, "precision": "64-true", "device": "cpu", "max_epochs": 3}
        pp.fit(pair, runs.given_noise_data(), optimizer=SGD, num_processes=num_processes, **options)
        found.append(runs.state(pair))
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, rtol=1e-12, atol=1e-13)
