"""Priors and likelihoods of a user's own: given as modules, or registered under a name."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
    from pyro_priors.cli.main import main

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


# a package of somebody else's

OUTSIDE = Path(__file__).parent / "outside_package"


def command(*arguments, cwd, path=OUTSIDE):
    environment = os.environ | {"PYTHONPATH": str(path)}
    line = [sys.executable, "-m", "pyro_priors.cli", *map(str, arguments)]
    return subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True)


def test_a_package_from_outside_adds_a_prior_a_likelihood_and_an_objective(tmp_path):
    """Trained, listed, resumed and evaluated on the command line; a run asks for the module that it was trained with,
    and a file alone imports nothing."""
    add = ["--import", "outside_parts"]
    small = ["--data=digits", "--data.limit", "96", "--z-dim", "2", "--networks.hidden", "8", "--train.device", "cpu"]
    chosen = ["--prior", "outside_student", "--prior.df", "4", "--likelihood", "outside_laplace", "--objective"]
    train = [*add, "train", "vae", *small, *chosen, "outside-tempered", "--objective.power", "0.5", "--quiet"]
    done = command(*train, "--train.max-epochs", "1", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["imports"] == ["outside_parts"] and config["pair"]["config"]["prior"]["df"] == 4
    assert config["objective"] == {"name": "outside-tempered", "config": {"power": 0.5}}
    listed = command(*add, "list", cwd=tmp_path).stdout
    assert all(name in listed for name in ("outside_student", "outside_laplace", "outside-tempered"))
    for words in (["evaluate", "run"], ["resume", "run", "--train.max-epochs", "2"]):
        told = command(*words, cwd=tmp_path)
        assert told.returncode == 2 and told.stderr.count("\n") == 1
        assert "was trained with --import outside_parts, which may register its parts: give it again" in told.stderr
    assert command(*add, "resume", "run", "--train.max-epochs", "2", cwd=tmp_path).returncode == 0
    assert len(runs.records(tmp_path / "run")) == 2
    evaluated = command(*add, "evaluate", "run", "--num-samples", "3", cwd=tmp_path)
    assert evaluated.returncode == 0 and "bound" in evaluated.stdout, evaluated.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--import"], "--import needs a value: give one"),
        (["--import", "outside_parts"], "--import needs a command after it: one of "),
        (["--import", "no.such_module", "list"], "--import no.such_module cannot be imported (ModuleNotFoundError: "),
        (["list", "--import", "outside_parts"], "list has no option --import"),
    ],
)
def test_a_mistake_of_an_import_is_one_line(arguments, message, tmp_path):
    told = command(*arguments, cwd=tmp_path)
    assert told.returncode == 2 and message in told.stderr and told.stderr.count("\n") == 1


def test_a_plugin_of_an_installed_package_is_found_by_name(tmp_path):
    """By its entry point, when a name is asked for that is unknown."""
    info = tmp_path / "outside_parts-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-parts\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pyro_priors.plugins]\nparts = outside_parts\nbroken = no_such_module\n")
    path = os.pathsep.join(map(str, (OUTSIDE, tmp_path)))
    script = "import pyro_priors as pp; print(pp.create('vae', x_shape=(6,), prior='outside_student').recipe['config'])"
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert "'prior': {'name': 'outside_student', 'df': 5.0}" in done.stdout, done.stderr
    assert "the plugin broken (no_such_module) cannot be loaded: No module named 'no_such_module'" in done.stderr
    listed = command("list", cwd=tmp_path, path=path).stdout
    assert "outside_laplace" in listed


def test_the_checks_of_the_library_pass_for_parts_of_your_own():
    pp.testing.check_prior(StudentPrior(2), torch.tensor(1))
    prior, likelihood = StudentPrior(), LaplaceLikelihood(1)
    sizes = {"x_shape": (6,), "z_dim": 2, "hidden": (5,), "num_categories": 3}
    pair = pp.create("cp_vae", **sizes, prior=prior, likelihood=likelihood)
    pp.testing.check_pair(pair, torch.randn(8, 6), prior=StudentPrior(), likelihood=LaplaceLikelihood(1))


class Own(torch.nn.Module):
    """A decoder, or an encoder, that returns a distribution over 6 or 2 values."""

    def __init__(self, of, to, kind):
        super().__init__()
        self.linear, self.kind = torch.nn.Linear(of, to), kind

    def forward(self, value):
        return self.kind(self.linear(value)).to_event(1)


def own_decoder():
    return Own(2, 6, lambda raw: dist.Bernoulli(logits=raw))


def own_encoder():
    return Own(6, 2, lambda raw: dist.Normal(raw, 1.0))


class OwnPrior(torch.nn.Module):
    """A Laplace prior whose forward has another signature."""

    def __init__(self, event=True):
        super().__init__()
        self.event = event

    def forward(self, c):
        return dist.Laplace(torch.zeros(2), torch.ones(2)).to_event(1)


class WithoutEvent(torch.nn.Module):
    """A prior that forgets its event dimension."""

    def forward(self):
        return dist.Normal(torch.zeros(2), torch.ones(2))


SMALL = {"x_shape": (6,), "z_dim": 2, "hidden": (5,)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: pp.create("vae", **SMALL, decoder=own_decoder(), likelihood="gaussian"),
            "likelihood='gaussian' has no effect, because your decoder returns p.x.z. itself: leave likelihood out",
        ),
        (
            lambda: pp.create(
                "vae", x_shape=(6,), z_dim=2, encoder=own_encoder(), decoder=own_decoder(), networks="mlp"
            ),
            "networks='mlp' has no effect, because encoder and decoder are your own: leave networks out",
        ),
        (lambda: pp.create("vae", **SMALL, prior=pp.priors.Flow), r"prior is the class Flow: give .* such as Flow\(\)"),
        (
            lambda: pp.create("vae", **SMALL, likelihood=torch.nn.Linear(1, 1)),
            "likelihood must be a pyro_priors.nn.Likelihood, got Linear: derive it from that class",
        ),
        (
            lambda: pp.create("cp_vae", **SMALL, num_categories=3, prior=OwnPrior()),
            r"prior \(OwnPrior\) must have the method forward\(self, context\), .* got forward\(c\)",
        ),
        (
            lambda: pp.create("vae", **SMALL, prior=OwnPrior()),
            r"prior \(OwnPrior\) must have the method forward\(self\), got forward\(c\) without self",
        ),
        (
            lambda: pp.create("vae", **SMALL, prior=WithoutEvent()).log_prob(torch.zeros(3, 6)),
            r"prior \(WithoutEvent\) must .* declare its last dimension as the event, .to_event\(1\)",
        ),
        (
            lambda: pp.testing.check_pair(pp.create("vae", **SMALL, prior=StudentPrior(2)), torch.zeros(3, 6)),
            r"the pair has your own prior, which a load asks for: give check_pair\(pair, x, prior=...\), freshly made",
        ),
        (
            lambda: pp.create("cp_vae", **SMALL, num_categories=3).sample(4, c="aggregate"),
            r"c='aggregate' needs the aggregate posterior, which is not set: call pair.set_aggregate\(x_train\)",
        ),
        (
            lambda: pp.metrics.evaluate(
                pp.create("vae", **SMALL), pp.data.from_arrays(torch.rand(20, 6).round()), metrics=["categories"]
            ),
            r"metrics that do not apply to this pair and its data \(categories needs .*\): leave them out",
        ),
    ],
)
def test_what_has_no_effect_or_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_module_is_not_put_in_the_place_of_a_part_of_the_library(tmp_path):
    pp.create("vae", **SMALL).save(tmp_path)
    with pytest.raises(ValueError, match="prior was given, but .* the library's own prior 'standard': leave prior out"):
        pp.load(tmp_path, prior=StudentPrior(2))
