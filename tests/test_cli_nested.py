"""Priors in priors on the command line, whatever the field is called."""

import json
from dataclasses import dataclass, field

import pytest
import torch.nn as nn

import pyro_priors as pp
import runs
from pyro_priors.cli.grammar import grouped, nested_fields, plain_options
from pyro_priors.cli.main import main
from pyro_priors.priors import Flow, Mixture, PriorOptions, Standard, Vamp
from pyro_priors.priors.base import PRIORS
from pyro_priors.registry import Entry

TINY = ["--quiet", "--networks.hidden", "8", "--z-dim", "2", "--train.device", "cpu", "--data.limit", "60"]
TRAIN = ["train", "vae", "--data", "moons", *TINY, "--train.max-epochs", "1"]


@dataclass(frozen=True)
class Either(PriorOptions):
    """The first of two priors, or the second."""

    first_prior: PriorOptions = field(default_factory=Standard)
    """The prior that is taken."""
    second: PriorOptions | None = None
    """Another prior, which is built and not used."""
    use_second: bool = False
    """Take the second."""

    def build(self, parts) -> nn.Module:
        return (self.second if self.use_second else self.first_prior).build(parts)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(PRIORS._entries, "either", Entry("either", Either))


def test_fields_that_hold_priors_are_found_by_their_type():
    assert nested_fields(Either) == ("first_prior", "second")
    assert nested_fields(Flow) == ("base",) and nested_fields(Vamp) == ()


def test_groups_hold_the_options_that_are_given():
    given = Either(Flow(base=Mixture(3)), None, True)
    assert plain_options(grouped(given)()) == given


def test_a_prior_in_a_prior_is_chosen_by_the_path_of_its_field(tmp_path):
    chosen = ["--prior", "either", "--prior.first-prior", "flow", "--prior.first-prior.base", "mixture"]
    chosen += ["--prior.first-prior.base.num-components", "3", "--prior.first-prior.num-transforms", "1"]
    chosen += [
        "--prior.second",
        "mixture",
        "--prior.second.num-components",
        "4",
        "--prior.first-prior.hidden-features",
        "5",
    ]
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert main([*TRAIN, *chosen, "--out", str(run)]) == 0
    prior = json.loads((run / "config.json").read_text())["pair"]["config"]["prior"]
    assert (prior["name"], prior["first_prior"]["name"], prior["second"]["name"]) == ("either", "flow", "mixture")
    assert prior["first_prior"]["base"]["num_components"] == 3 and prior["second"]["num_components"] == 4
    assert prior["first_prior"]["num_transforms"] == 1
    flow = pp.load(run).model.prior
    assert type(flow) is pp.priors.FlowPrior and type(flow.base) is pp.priors.MixturePrior
    # resumed exactly, and from the folder alone
    assert main(["resume", str(run), "--train.max-epochs", "2"]) == 0
    longer = ["2" if word == "1" and TRAIN[i - 1] == "--train.max-epochs" else word for i, word in enumerate(TRAIN)]
    assert main([*longer, *chosen, "--out", str(whole)]) == 0
    assert runs.same_bits(runs.saved_pair(run), runs.saved_pair(whole))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--prior.first-prior flo", "prior 'flo' is unknown: did you mean 'flow'?"),
        ("--prior.second.num-components 3", "train vae has no option --prior.second.num-components"),
        ("--prior.first-prior.num-components 3", "train vae has no option --prior.first-prior.num-components"),
        ("--prior.second mixture --prior.second.num-components 0", "num_components must be a positive integer, got 0"),
    ],
)
def test_a_mistake_is_one_line(given, message, tmp_path, capsys):
    assert main([*TRAIN, "--prior", "either", *given.split(), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()
