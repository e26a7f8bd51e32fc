"""Pairs saved by an earlier version still load and still have the loss that they had (tests/golden/regenerate.py)."""

import importlib.util
import json
from pathlib import Path

import pytest

import pyro_priors as pp

GOLDEN = Path(__file__).parent / "golden"
LOSSES = json.loads((GOLDEN / "losses.json").read_text())


STARTS = json.loads((GOLDEN / "starts.json").read_text())


@pytest.fixture(scope="module")
def regenerate():
    specification = importlib.util.spec_from_file_location("regenerate", GOLDEN / "regenerate.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_every_pair_has_an_old_save():
    missing = set(pp.names()) - LOSSES.keys()
    assert not missing, f"add {sorted(missing)} to CONFIGS in tests/golden/regenerate.py and run it"


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_old_save_loads_with_its_old_loss(name, regenerate):
    pair = pp.load(GOLDEN / name)
    assert regenerate.loss_of(pair) == pytest.approx(LOSSES[name], rel=1e-5)


@pytest.mark.parametrize("name", sorted(STARTS))
def test_first_weights_at_a_seed_are_those_of_before(name, regenerate):
    assert STARTS.keys() == LOSSES.keys()
    assert regenerate.loss_of(regenerate.start_of(name)) == pytest.approx(STARTS[name], rel=1e-5)
