"""Constrained: the loss at its beta, the rule by which beta moves, and training to a reconstruction error."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn as nn
from pyro.infer import SVI
from torch.testing import assert_close

import pyro_priors as pp
import runs
from pairs import NAMES, batch, create, gradients, randomise
from pyro_priors import checkpoint
from pyro_priors.objectives import Beta, Constrained
from pyro_priors.objectives.constrained import SMALLEST_BETA

FIT = {"progress": False, "batch_size": 32, "max_epochs": 3, "learning_rate": 1e-2, "warmup_epochs": 0}


@pytest.mark.parametrize("num_particles", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_that_of_beta(float64, name, num_particles):
    """Loss, bound, parts and every gradient at this beta, and beta beside the parts."""
    pair, args, found = randomise(create(name)), batch(name), []
    constrained = Constrained(7.0, beta=0.3, num_particles=num_particles)
    for objective in (constrained, Beta(0.3, num_particles=num_particles)):
        objective.kl_weight = 0.8
        torch.manual_seed(1)
        loss = objective(pair.model, pair.guide)(*args)
        torch.manual_seed(1)
        terms = objective.terms(pair.model, pair.guide, *args)
        found.append((loss.detach(), terms.bound.detach(), terms.parts, gradients(pair, loss)))
    assert_close(*found, rtol=1e-12, atol=1e-13)
    assert constrained.terms(pair.model, pair.guide, *args).means()["beta"] == 0.3


def moved(objective, errors):
    """beta after each step with these reconstruction errors."""
    betas = []
    for error in errors:
        objective.observe({"reconstruction": torch.tensor([-error - 1.0, -error + 1.0])})
        objective.end_step()
        betas.append(objective.current_beta)
    return betas


def test_beta_moves_by_the_rule(float64):
    """Against the rule as it stands, step by step: it waits, falls where the mean error is too large, rises to 1."""
    errors = [14.0, 12.0, 9.0, 8.0, 13.0, 14.0, 5.0, 4.0, 4.0]
    objective = Constrained(10.0, beta=0.2, rate=0.05, sharpness=2.0, smoothing=0.5)
    mean, beta, met, expected = None, 0.2, False, []
    for error in errors:
        mean = error if mean is None else 0.5 * mean + 0.5 * error
        delta = mean - 10
        met = met or delta <= 0
        heaviside = 1.0 if delta > 0 else 0.0
        if met:
            f = (1 - heaviside) * math.tanh(2.0 * (beta - 1)) - heaviside
            beta *= math.exp(0.05 * f * delta)
        expected.append(beta)
    assert moved(objective, errors) == pytest.approx(expected, rel=1e-12)
    assert expected[:2] == [0.2, 0.2] and expected[3] > 0.2 > 0 and expected[5] < expected[4] and expected[-1] > 0.2
    objective.end_step()
    assert objective.current_beta == pytest.approx(expected[-1]), "nothing was observed"


@pytest.mark.parametrize("start", [0.3, 1.0, 4.0])
def test_beta_tends_to_one_where_the_constraint_holds(start):
    """From either side, and never across, however large a step; beside 0 it stays above it."""
    slow = moved(Constrained(50.0, beta=start, rate=0.01), [10.0] * 3000)
    assert slow[-1] == pytest.approx(1, abs=1e-3)
    assert all(abs(b - 1) <= abs(a - 1) for a, b in zip(slow, slow[1:], strict=False))
    assert moved(Constrained(5e6, beta=start), [10.0] * 3) == [1.0] * 3
    assert moved(Constrained(5.0, beta=start), [4.0] + [1e9] * 3)[-1] == SMALLEST_BETA


def test_begin_forgets_and_state_resumes():
    one = Constrained(10.0, beta=0.2)
    assert one.state() == {}
    one.load_state({}, torch.device("cpu"))
    moved(one, [9.0, 11.0, 8.0])
    other = Constrained(10.0, beta=0.2)
    other.load_state(one.state(), torch.device("cpu"))
    errors = [12.0, 9.0, 7.0]
    assert moved(other, errors) == moved(one, errors)
    one.begin(100, seed=3)
    assert one.current_beta == 0.2 and one.state() == {}


def test_svi_and_the_loops_of_one_s_own_move_beta():
    for how in ("svi", "eager", "compiled"):
        pair, args = create("vae"), batch("vae")
        objective = Constrained(1000.0, beta=0.2, rate=1e-4)
        if how == "svi":
            SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-3}), objective).step(*args)
        else:
            loss = objective(pair.model, pair.guide) if how == "eager" else pp.compiled(pair, objective)
            loss(*args).backward()
            assert objective.current_beta == 0.2
            objective.end_step()
        assert 0.2 < objective.current_beta < 1, how


def test_beta_is_an_input_of_the_graph(float64, monkeypatch):
    graphs = []
    monkeypatch.setattr(
        "pyro_priors.tracing.inductor.compile_graph", lambda graph, inputs: graphs.append(graph) or graph
    )
    pair, args = randomise(create("vae")), batch("vae")
    compiled = pp.compiled(pair, Constrained(4.0, beta=0.2, rate=0.1))
    seen = []
    for _ in range(4):
        torch.manual_seed(1)
        loss = compiled(*args)
        torch.manual_seed(1)
        assert_close(loss, Beta(compiled.objective.current_beta)(pair.model, pair.guide)(*args))
        compiled.objective.constraint.met = True
        compiled.objective.end_step()
        seen.append(compiled.objective.current_beta)
    assert len(graphs) == 1 and len(set(seen)) == 4


# training


@pytest.fixture(scope="module")
def digits():
    return runs.small_data(size=96)


@pytest.mark.parametrize("compile", ["never", "always"])
def test_fit_reports_beta_and_resumes_exactly(digits, tmp_path, monkeypatch, compile):
    """A second training is as the first; a run that goes on from its state ends as one that was never stopped."""
    monkeypatch.setattr("pyro_priors.tracing.inductor.compile_graph", lambda graph, inputs: graph)
    objective, ends = Constrained(44.0, beta=0.1, rate=0.05, smoothing=0.5), []
    options = FIT | {"compile": compile, "objective": objective}
    for run in ("one", "other"):
        pair = runs.small_pair("vae", digits)
        history = pp.fit(pair, digits, out=tmp_path / run, **options)
        ends.append(runs.state(pair))
    assert runs.same_bits(*ends) and objective.current_beta == 0.1
    betas = [epoch["train_beta"] for epoch in history.epochs]
    assert len(set(betas)) > 1 and all(0 < beta <= 1 for beta in betas) and "valid_beta" not in history.epochs[0]
    names = {name for name in checkpoint.read(tmp_path / "one" / "last", "state")[0] if name.startswith("objective/")}
    assert names == {"objective/beta", "objective/average", "objective/met"}
    pair = runs.small_pair("vae", digits)
    pp.fit(pair, digits, out=tmp_path / "parts", **options | {"max_epochs": 2})
    pp.fit(pair, digits, out=tmp_path / "parts", resume=True, **options)
    assert runs.same_bits(runs.state(pair), ends[0])
    assert runs.records(tmp_path / "parts") == runs.records(tmp_path / "one")


class Linear(nn.Module):
    """z ~ N(0, 1), x ~ N(z, 0.5^2), and the guide z ~ N(w x, variance)."""

    def __init__(self, generative):
        super().__init__()
        self.generative = generative
        self.w, self.log_variance = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(-1.0))

    def forward(self, x=None, condition=None, size=None):
        with pp.data_plate(x, condition, size):
            if not self.generative:
                return pyro.sample("z", dist.Normal(self.w * x, (self.log_variance / 2).exp()).to_event(1))
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)


def test_training_ends_at_the_error_asked_for(float64):
    """At a beta both are in closed form, w = 1 - t and the variance t, t = beta / (4 + beta): an error below that of
    the plain bound asks for the beta which solves for it. Noise of 400 data and of steps leaves some percent."""
    torch.manual_seed(0)
    x = torch.randn(400, 1) * 1.1
    kappa_squared, second_moment = 0.5, x.square().mean().item()
    room = (kappa_squared - 0.5 * math.log(2 * math.pi * 0.25)) / 2  # = second_moment t^2 + t
    t = (math.sqrt(1 + 4 * second_moment * room) - 1) / (2 * second_moment)
    guide, objective = Linear(False), Constrained(kappa_squared, beta=0.05, rate=0.1, smoothing=0.9)
    optimizer = torch.optim.Adam(guide.parameters(), lr=0.02)
    betas = []
    for _ in range(1500):
        loss = objective.differentiable_loss(Linear(True), guide, x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.end_step()
        betas.append(objective.current_beta)
    assert sum(betas[-500:]) / 500 == pytest.approx(4 * t / (1 - t), rel=0.05)
    assert guide.w.item() == pytest.approx(1 - t, abs=0.02)
    assert guide.log_variance.exp().item() == pytest.approx(t, abs=0.02)


REFUSED = {
    "none": (
        lambda: Constrained().loss(*halves(), *batch("vae")),
        "Constrained needs kappa_squared, .*: give one such",
    ),
    "infinite": (lambda: Constrained(math.inf), "kappa_squared must be a finite number or None, got inf"),
    "beta": (lambda: Constrained(1.0, beta=0), "beta must be above 0, got 0"),
    "rate": (lambda: Constrained(1.0, rate=-1), "rate must be above 0, got -1"),
    "sharpness": (lambda: Constrained(1.0, sharpness=0), "sharpness must be above 0, got 0"),
    "smoothing": (lambda: Constrained(1.0, smoothing=1), "smoothing must be from 0 to below 1, got 1: 0.99 is"),
}


def halves():
    pair = create("vae")
    return pair.model, pair.guide


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_sense_is_refused_in_one_line(case):
    do, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as caught:
        do()
    assert "\n" not in str(caught.value)
