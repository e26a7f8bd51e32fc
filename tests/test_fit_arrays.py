"""``fit`` on arrays and tensors in place of splits."""

import numpy as np
import pytest
import torch

import pyro_priors as pp
import runs
from pyro_priors.run_folder import RunFolder

OPTIONS = {"progress": False, "batch_size": 32, "max_epochs": 2, "seed": 3}


@pytest.fixture(scope="module")
def values():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(100, 5, generator=generator).round()
    return x, torch.randn(100, 2, generator=generator)


def pair_of(name="vae", **options):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return pp.create(name, **{"x_shape": (5,), "z_dim": 2, "hidden": (8,)} | options)


@pytest.mark.parametrize(
    "convert", [lambda x: x, lambda x: x.numpy(), lambda x: x.double().numpy(), lambda x: x.tolist()]
)
def test_an_array_is_split_as_from_arrays_splits_it(values, convert):
    given, explicit = pair_of(), pair_of()
    history = pp.fit(given, convert(values[0]), **OPTIONS)
    other = pp.fit(explicit, pp.data.from_arrays(values[0], seed=3), **OPTIONS)
    assert runs.same_bits(runs.state(given), runs.state(explicit))
    assert [one["valid_bound"] for one in history.epochs] == [one["valid_bound"] for one in other.epochs]


@pytest.mark.parametrize("convert", [lambda x: x, lambda x: x.numpy()])
def test_a_condition_comes_second(values, convert):
    x, condition = values
    given, explicit = (pair_of("cvae", condition_shape=(2,), likelihood="bernoulli") for _ in range(2))
    pp.fit(given, (convert(x), convert(condition)), **OPTIONS)
    pp.fit(explicit, pp.data.from_arrays(x, condition_train=condition, seed=3), **OPTIONS)
    assert runs.same_bits(runs.state(given), runs.state(explicit))


def test_labels_may_be_the_condition(values):
    """Of a semi-supervised pair, -1 where unknown."""
    labels = torch.arange(100) % 5 - 1
    given, explicit = (pair_of("cp_vae", num_categories=4) for _ in range(2))
    pp.fit(given, (values[0].numpy(), labels.numpy()), **OPTIONS)
    pp.fit(explicit, pp.data.from_arrays(values[0], condition_train=labels, seed=3), **OPTIONS)
    assert runs.same_bits(runs.state(given), runs.state(explicit))
    plain = pair_of("cp_vae", num_categories=4)
    pp.fit(plain, values[0], **OPTIONS)
    assert not runs.same_bits(runs.state(given), runs.state(plain))


def test_the_split_is_said(values, capsys):
    pp.fit(pair_of(), values[0], **OPTIONS | {"progress": True, "max_epochs": 1})
    said = "data: valid and test: 10 random examples each, split off the training part with seed 3\n"
    assert said in capsys.readouterr().err
    pp.fit(pair_of(), values[0], **OPTIONS | {"max_epochs": 1})
    assert capsys.readouterr().err == ""


def test_the_pair_says_how_values_are_read():
    """Gray levels as floats from 0 to 255 are guessed as bytes, but not for a Gaussian."""
    x = torch.arange(256.0)[:, None].expand(256, 5).contiguous()
    gaussian = pair_of(likelihood="gaussian")
    with pytest.warns(UserWarning, match="spread"):
        pp.fit(gaussian, x, **OPTIONS | {"max_epochs": 1})
    with pytest.warns(UserWarning, match="gray levels"):
        pp.fit(pair_of(likelihood="continuous_bernoulli"), x, **OPTIONS | {"max_epochs": 1})


def test_a_run_on_arrays_is_resumed_on_the_same_arrays(values, tmp_path):
    whole, run = pair_of(), pair_of()
    pp.fit(whole, values[0], out=tmp_path / "whole", **OPTIONS)
    pp.fit(run, values[0], out=tmp_path / "run", **OPTIONS | {"max_epochs": 1})
    resumed = pair_of()
    pp.fit(resumed, values[0].numpy(), out=tmp_path / "run", resume=True, **OPTIONS)
    assert runs.same_bits(runs.state(resumed), runs.state(whole))
    assert RunFolder(tmp_path / "run").is_of_arrays
    with pytest.raises(ValueError, match=r"on other arrays \(the train part differs\)"):
        pp.fit(resumed, 1 - values[0], out=tmp_path / "run", resume=True, **OPTIONS)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ("mnist", r"data must be Splits, got 'mnist': give pyro_priors.data.load\('mnist'\)"),
        (3, r"data must be Splits, got int: give pyro_priors.data.from_arrays\(x_train\), an array or tensor x, or"),
        ((torch.ones(9, 5),), r"data must be x or \(x, condition\), got a tuple of 1"),
        ((torch.ones(90, 5), torch.ones(80, 2)), "condition_train must have one row per row of x_train, got 80 for 90"),
        (torch.ones(90, 4), r"the pair was made for x_shape=\(5,\), but arrays has \(4,\)"),
        (torch.ones(2, 5), "x_train has 2 examples, too few to split off valid and test"),
        (np.full((90, 5), np.nan), "x_train holds 450 NaN"),
        (torch.full((90, 5), 0.5), "x_train does not fit likelihood='bernoulli'"),
    ],
)
def test_mistakes_are_refused_in_one_line(data, match):
    with pytest.raises(ValueError, match=match) as caught:
        pp.fit(pair_of(), data, **OPTIONS)
    assert "\n" not in str(caught.value)


def test_a_part_is_not_all_of_the_data(values):
    part = pp.data.from_arrays(values[0]).train
    with pytest.raises(ValueError, match=r"got one Part of them: give the Splits, or \(part.x, part.condition\)"):
        pp.fit(pair_of(), part, **OPTIONS)
