"""Priors and likelihoods of a user's own: given as modules, or registered under a name."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import pyro.distributions as dist
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

import pyro_priors as pp
import runs
from pyro_priors.nn.likelihood import LIKELIHOODS
from pyro_priors.priors import PRIORS


class StudentPrior(pp.priors.Prior):
    """A Student t of learnable scale, moved by the mean of the context where there is one."""

    def __init__(self, z_dim=2, df=5.0):
        super().__init__()
        self.df = df
        self.raw_scale = nn.Parameter(torch.zeros(z_dim))
        self.slope = nn.Parameter(torch.ones(()))

    def forward(self, context=None):
        loc = torch.zeros_like(self.raw_scale)
        if context is not None:
            moved = context.float() if not context.is_floating_point() else context.mean(-1)
            loc = loc + self.slope * moved.unsqueeze(-1)
        return dist.StudentT(self.df, loc, F.softplus(self.raw_scale) + 0.1).to_event(1)


class LaplaceLikelihood(pp.nn.Likelihood):
    x_range = (-float("inf"), float("inf"))

    def forward(self, raw):
        return dist.Laplace(raw.squeeze(-1 - self.event_dim), 0.5).to_event(self.event_dim)


@dataclass(frozen=True)
class Student(pp.priors.PriorOptions):
    """A Student t."""

    df: float = 5.0
    """Degrees of freedom."""

    def build(self, parts):
        return StudentPrior(parts.z_dim, self.df)


@dataclass(frozen=True)
class Laplace(pp.likelihoods.LikelihoodOptions):
    """Laplace noise."""

    def build(self, x_shape: Sequence[int]):
        return LaplaceLikelihood(len(x_shape))


@pytest.fixture
def registered(monkeypatch):
    for registry in (PRIORS, LIKELIHOODS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    pp.priors.register_prior("student")(Student)
    pp.likelihoods.register_likelihood("laplace")(Laplace)


CASES = {
    "vae": {},
    "hvae": {"z1_dim": 2},
    "cp_vae": {"num_categories": 3},
    "cvae": {},
    "cvae-free": {"condition_prior": False},
}


def data_for(name):
    return runs.small_data(condition_rows=4 if name.startswith("cvae") else 0, binarise="none")


def trained(name, out, **factors):
    data = data_for(name)
    pair = runs.small_pair(name.partition("-")[0], data, **CASES[name], **factors)
    pp.fit(pair, data, out=out, max_epochs=1, batch_size=32, progress=False)
    return pair, data


@pytest.mark.parametrize("name", CASES)
def test_a_prior_and_a_likelihood_given_as_modules(name, tmp_path):
    """They train, are told of, are asked for by ``load``, and are evaluated."""
    prior, likelihood = StudentPrior(), LaplaceLikelihood(1)
    before = prior.raw_scale.detach().clone()
    pair, data = trained(name, tmp_path / "run", prior=prior, likelihood=likelihood)
    assert pair.model.prior is prior and pair.likelihood is likelihood
    assert not torch.equal(prior.raw_scale, before)
    assert pair.recipe["own_networks"] == ["prior", "likelihood"]
    assert pair.recipe["config"]["prior"]["class"].endswith("StudentPrior")
    with pytest.raises(
        ValueError, match=r"own prior and likelihood: load it from Python, load\(path, prior=\.\.\., lik"
    ):
        pp.load(tmp_path / "run")
    loaded = pp.load(tmp_path / "run", prior=StudentPrior(), likelihood=LaplaceLikelihood(1))
    assert runs.same_bits(runs.state(loaded), runs.state(pair))
    found = pp.metrics.evaluate(pair, data, metrics=("bound", "log_likelihood"), num_samples=5, progress=False)
    assert found["bound"].value < 1e4


@pytest.mark.parametrize("name", CASES)
def test_registered_parts_are_known_by_name(name, registered, tmp_path):
    """To ``create``, with options, and to ``load``, without more."""
    pair, _ = trained(name, tmp_path / "run", prior="student", likelihood="laplace", df=7.0)
    assert type(pair.model.prior) is StudentPrior and pair.model.prior.df == 7.0
    assert pair.recipe["config"]["prior"] == {"name": "student", "df": 7.0}
    loaded = pp.load(tmp_path / "run")
    assert loaded.model.prior.df == 7.0 and runs.same_bits(runs.state(loaded), runs.state(pair))
    with pytest.raises(ValueError, match="prior 'studen' is unknown: did you mean 'student'"):
        pp.create("vae", x_shape=(6,), prior="studen")


def test_p_of_z1_given_z2_is_a_prior_like_any_other(tmp_path):
    data = data_for("hvae")
    pair = runs.small_pair("hvae", data, prior_z1=StudentPrior(2))
    assert pair.recipe["own_networks"] == ["prior_z1"]
    pair.save(tmp_path)
    loaded = pp.load(tmp_path, prior_z1=StudentPrior(2))
    assert runs.same_bits(runs.state(loaded), runs.state(pair))
    assert loaded.sample(3)["z1"].shape == (3, 2)


def test_registered_parts_are_options_of_the_command_line(registered, tmp_path, capsys):
    from pyro_priors.cli import main

    small = ["--data=digits", "--data.limit", "96", "--train.max-epochs", "1", "--z-dim", "2", "--quiet"]
    chosen = ["--prior", "student", "--prior.df", "9", "--likelihood", "laplace", "--networks.hidden", "8"]
    assert main(["train", "vae", *small, *chosen, "--train.device", "cpu", "--out", str(tmp_path / "run")]) == 0
    assert pp.load(tmp_path / "run").model.prior.df == 9.0
    assert main(["list"]) == 0
    assert "student" in capsys.readouterr().out


def test_a_factor_that_is_unknown_where_it_is_loaded_is_named(registered, tmp_path):
    """In another process, which registered nothing."""
    runs.small_pair("vae", data_for("vae"), prior="student").save(tmp_path)
    lines = ["import pyro_priors as pp", "try:", f"    pp.load({str(tmp_path)!r})"]
    script = "\n".join([*lines, "except pp.CheckpointError as error:", "    print(error)"])
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "prior 'student' is unknown" in told


def test_a_part_that_was_replaced_is_not_saved_as_another(tmp_path):
    """Of another class, or with other options; a compiled part, another mode and other numbers are the same part."""
    data = data_for("vae")
    pair = runs.small_pair("vae", data, prior="gaussian")
    pair.double().float().eval()
    pair.save(tmp_path / "pair")
    before = pair.model.prior
    pair.model.prior = StudentPrior()
    match = (
        "model.prior is a StudentPrior, but the pair was made with a GaussianPrior, which a load would bring back: give"
    )
    with pytest.raises(ValueError, match=match):
        pair.save(tmp_path / "pair")
    with pytest.raises(ValueError, match=match):
        pp.fit(pair, data, out=tmp_path / "run", max_epochs=1, progress=False)
    assert not (tmp_path / "run").exists()
    pp.fit(pair, data, max_epochs=1, progress=False)  # nothing is written
    pair.model.prior = before
    pair.model.decoder.likelihood = pp.likelihoods.Gaussian("optimal").build((64,))
    with pytest.raises(
        ValueError, match=r"model\.decoder\.likelihood is a OptimalGaussianLikelihood, but the pair was"
    ):
        pair.save(tmp_path / "pair")
    flows = [
        runs.small_pair("vae", data, prior="flow", num_transforms=n, permutation=p)
        for n, p in ((2, "reverse"), (3, "reverse"))
    ]
    flows[0].model.prior.goes_to_base = True
    with pytest.raises(
        ValueError, match="model.prior has other options than the FlowPrior that the pair was made with"
    ):
        flows[0].save(tmp_path / "flow")
    flows[1].model.decoder = torch.compile(flows[1].model.decoder)
    flows[1].save(tmp_path / "flow")
    assert type(pp.load(tmp_path / "flow").model.prior) is pp.priors.FlowPrior
