"""Data: values checked at the door, exact toys, batches as a function of (seed, epoch, step)."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

import pyro_priors as pp
from pyro_priors.data import DataConfig, Part, Splits, batches, from_arrays, load, names, num_batches, toys
from pyro_priors.data.omniglot import _reduce

TOYS = ["four_gaussians", "mixture", "moons"]
CONDITIONAL_TOYS = {"inverse_sine": toys.inverse_sine_log_density, "one_to_many": toys.one_to_many_log_density}
X = np.random.default_rng(0).random((40, 3)).astype(np.float32)


def _assert_equal(a: list, b: list) -> None:
    assert len(a) == len(b) > 0
    for (x, condition), (other_x, other_condition) in zip(a, b, strict=True):
        assert torch.equal(x, other_x)
        assert (condition is None) == (other_condition is None)
        assert condition is None or torch.equal(condition, other_condition)


def _assert_sound(splits: Splits) -> None:
    """What everything downstream relies on."""
    assert splits.source and "\n" not in splits.source
    for part in splits.parts.values():
        assert part.x.dtype == torch.float32 and part.x.is_contiguous()
        assert part.x.shape == (len(part), *splits.x_shape)
        assert torch.isfinite(part.x).all()
        assert (part.condition is None) == (splits.condition_shape is None)
        if part.condition is not None:
            assert part.condition.dtype == torch.float32 and part.condition.is_contiguous()
            assert part.condition.shape == (len(part), *splits.condition_shape)
        if splits.num_labels is not None:
            assert part.label.dtype == torch.int64 and part.label.shape == (len(part),)
            assert part.label.min() >= 0 and part.label.max() < splits.num_labels


@pytest.fixture(autouse=True)
def global_generators_untouched():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    yield
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


# toys and digits


@pytest.mark.parametrize("name", [*TOYS, *CONDITIONAL_TOYS, "digits"])
def test_is_sound_and_seeded(name):
    splits = load(name)
    _assert_sound(splits)
    again, other = load(name), load(name, seed=1)
    assert torch.equal(splits.train.x, again.train.x)
    assert torch.equal(splits.test.x, again.test.x)
    assert not torch.equal(splits.train.x, other.train.x)
    # the parts are different examples
    assert not torch.equal(splits.valid.x, splits.test.x)


@pytest.mark.parametrize(
    ("name", "sizes", "x_shape", "num_labels"),
    [
        ("mixture", (50_000, 10_000, 10_000), (1,), 2),
        ("four_gaussians", (10_000, 2_000, 2_000), (2,), 4),
        ("moons", (2_000, 200, 200), (2,), 2),
        ("inverse_sine", (10_000, 2_000, 2_000), (1,), 3),
        ("one_to_many", (10_000, 2_000, 2_000), (1,), 4),
        ("digits", (1_297, 250, 250), (64,), 10),
    ],
)
def test_sizes(name, sizes, x_shape, num_labels):
    splits = load(name)
    assert tuple(len(part) for part in splits.parts.values()) == sizes
    assert splits.x_shape == x_shape
    assert splits.num_labels == num_labels


def _log_density(name: str, x: torch.Tensor) -> torch.Tensor:
    """The densities once more, in the plainest form: a mixture over many centres."""
    if name == "mixture":
        centres, sd = torch.tensor([[0.1], [1.0]]), 0.1
    elif name == "four_gaussians":
        centres, sd = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]), 0.1
    else:
        angle = torch.linspace(0, torch.pi, 801)
        outer = torch.stack([angle.cos(), angle.sin()], -1)
        centres, sd = torch.cat([outer, torch.tensor([1.0, 0.5]) - outer]), 0.05
    density = torch.distributions.Normal(centres, sd).log_prob(x[:, None]).sum(-1)
    return density.logsumexp(-1) - np.log(len(centres))


@pytest.mark.parametrize("name", TOYS)
def test_true_log_likelihood_is_the_mean_over_the_sample(name):
    """4 standard errors: fails by chance once in 16,000; n = 50,000, 10,000 and 2,000."""
    splits = load(name)
    values = _log_density(name, splits.train.x)
    error = values.mean().item() - splits.true_log_likelihood
    assert abs(error) < 4 * values.std().item() / len(values) ** 0.5


@pytest.mark.parametrize("name", CONDITIONAL_TOYS)
def test_true_conditional_log_likelihood_is_the_mean_over_the_sample(name):
    """4 standard errors: fails by chance once in 16,000; n = 10,000. Every datum is possible."""
    splits = load(name)
    values = CONDITIONAL_TOYS[name](splits.train.x.double(), splits.train.condition.double())
    assert values.shape == (10_000,) and values.isfinite().all()
    error = values.mean().item() - splits.true_log_likelihood
    assert abs(error) < 4 * values.std().item() / len(values) ** 0.5


@pytest.mark.parametrize(("name", "low", "high"), [("one_to_many", -1.3, 1.2), ("inverse_sine", 0.0, 1.0)])
def test_conditional_densities_integrate_to_one(name, low, high):
    """By midpoints, at 200 conditions; where a density has ends, to the width of a cell."""
    step = (high - low) / 20_000
    x = (low + step * (torch.arange(20_000, dtype=torch.float64) + 0.5))[:, None]
    condition = load(name).test.condition[:200].double()
    mass = CONDITIONAL_TOYS[name](x, condition[:, None]).exp().sum(-1) * step
    assert_array_equal(mass.shape, (200,))
    tolerance = 1e-9 if name == "one_to_many" else 6 * step * CONDITIONAL_TOYS[name](x, condition[:, None]).max().exp()
    assert (mass - 1).abs().max() < tolerance


def test_one_to_many_has_targets_where_it_says():
    """Each quarter of the conditions has all its targets at even odds (4 standard errors), and no others."""
    data = load("one_to_many").train
    for piece, heights in enumerate(toys.ONE_TO_MANY_HEIGHTS):
        here = data.condition[:, 0].long() == piece
        x, label = data.x[here, 0], data.label[here]
        distance = (x[:, None] - torch.tensor(heights)).abs()
        assert torch.equal(distance.argmin(-1), label) and distance.min(-1).values.max() < 6 * toys.ONE_TO_MANY_SD
        share = torch.bincount(label, minlength=len(heights)) / len(label)
        odds = 1 / len(heights)
        assert ((share - odds).abs() <= 4 * (odds * (1 - odds) / len(label)) ** 0.5).all()
    assert data.condition.min() >= 0 and data.condition.max() < 4
    outside = toys.one_to_many_log_density(torch.zeros(2, 1), torch.tensor([[-0.1], [4.0]]))
    assert outside.tolist() == [-np.inf, -np.inf]


def test_inverse_sine_s_labels_are_its_stretches():
    """x + 0.3 sin(2 pi x) rises, falls and rises: all three lead to a condition near 0.5."""
    x = torch.linspace(0, 1, 10_001, dtype=torch.float64)
    rises = (x + 0.3 * torch.sin(2 * torch.pi * x)).diff() > 0
    stretch = torch.bucketize((x[1:] + x[:-1]) / 2, torch.tensor(toys.SINE_TURNS))
    assert torch.equal(rises, stretch != 1)
    data = load("inverse_sine").train
    middle = (data.condition[:, 0] - 0.5).abs() < 0.05
    assert set(data.label[middle].tolist()) == {0, 1, 2}
    assert torch.equal(torch.bucketize(data.x[:, 0], torch.tensor(toys.SINE_TURNS, dtype=torch.float32)), data.label)


def test_inverse_sine_quadrature_is_converged():
    assert toys._inverse_sine_log_likelihood(200) == pytest.approx(load("inverse_sine").true_log_likelihood, abs=1e-9)


def test_true_log_likelihoods():
    """Of K components without overlap: minus the entropy of one, minus log K. Overlap only raises it."""
    one = -0.5 * np.log(2 * np.pi * np.e * 0.1**2)
    assert 0 < load("mixture").true_log_likelihood - (one - np.log(2)) < 3e-5
    assert load("four_gaussians").true_log_likelihood == pytest.approx(2 * one - np.log(4), abs=1e-9)
    narrow = -0.5 * np.log(2 * np.pi * np.e * 0.03**2)
    mean_log_number = np.log([3, 2, 4, 1]).mean()
    assert load("one_to_many").true_log_likelihood == pytest.approx(narrow - mean_log_number, abs=1e-6)


def test_moons_quadrature_is_converged():
    from pyro_priors.data.toys import _moons_log_density

    assert _moons_log_density(0.05, num_angles=400) == pytest.approx(load("moons").true_log_likelihood, abs=1e-10)


def test_labels_of_the_toys():
    mixture, square = load("mixture").train, load("four_gaussians").train
    assert ((mixture.x[:, 0] > 0.55).long() == mixture.label).float().mean() > 0.9999
    assert torch.equal(2 * (square.x[:, 0] > 0).long() + (square.x[:, 1] > 0).long(), square.label)


# options on digits


def test_digits_binarise():
    dynamic, fixed, grey = (load("digits", binarise=mode) for mode in ("dynamic", "fixed", "none"))
    assert [s.binarise for s in (dynamic, fixed, grey)] == [True, False, False]
    assert [s.likelihood for s in (dynamic, fixed, grey)] == [
        "bernoulli",
        "bernoulli",
        "continuous_bernoulli",
    ]
    assert torch.equal(dynamic.train.x, grey.train.x)
    for x in (dynamic.valid.x, dynamic.test.x, fixed.train.x):
        assert set(x.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(dynamic.valid.x, fixed.valid.x)
    assert torch.equal(load("digits", binarise="fixed").train.x, fixed.train.x)
    # a level of 0 or 1 is certain, the others are right on average: 1297 * 64 values, 4 standard errors (1 in
    # 16,000)
    certain = (grey.train.x == 0) | (grey.train.x == 1)
    assert torch.equal(fixed.train.x[certain], grey.train.x[certain])
    for ours, levels in ((fixed.train.x, grey.train.x), (dynamic.valid.x, grey.valid.x)):
        standard_error = (levels * (1 - levels)).sum().sqrt() / levels.numel()
        assert abs(ours.mean() - levels.mean()) < 4 * standard_error


def test_valid_and_test_have_the_bits_of_the_public_recipe():
    """numpy's generator seeded with 777, binomial on valid, then on test."""
    grey, ours = load("digits", binarise="none"), load("digits")
    draws = np.random.RandomState(777)  # noqa: NPY002
    assert_array_equal(ours.valid.x.numpy(), draws.binomial(1, grey.valid.x.numpy()))
    assert_array_equal(ours.test.x.numpy(), draws.binomial(1, grey.test.x.numpy()))


@pytest.mark.parametrize("mode", ["dynamic", "fixed", "none"])
@pytest.mark.parametrize("flatten", [True, False])
def test_condition_rows(mode, flatten):
    whole = load("digits", binarise=mode, flatten=False)
    halved = load("digits", binarise=mode, flatten=flatten, condition_rows=3)
    _assert_sound(halved)
    assert halved.image_shape == (1, 5, 8) and halved.condition_image_shape == (1, 3, 8)
    assert halved.x_shape == ((40,) if flatten else (1, 5, 8))
    assert halved.condition_shape == ((24,) if flatten else (1, 3, 8))
    for name, part in halved.parts.items():
        x, condition = part.x.reshape(-1, 1, 5, 8), part.condition.reshape(-1, 1, 3, 8)
        assert torch.equal(x, whole.parts[name].x[..., :5, :])
        if name == "train" and mode == "dynamic":
            assert set(condition.unique().tolist()) == {0.0, 1.0}
        else:
            assert torch.equal(condition, whole.parts[name].x[..., 5:, :])


def test_condition_labels():
    splits = load("digits", condition_labels=True)
    _assert_sound(splits)
    assert splits.condition_shape == (10,)
    assert torch.equal(splits.valid.condition.argmax(1), splits.valid.label)
    assert torch.equal(splits.valid.condition.sum(1), torch.ones(250))
    assert load("mixture", condition_labels=True).condition_shape == (2,)


def test_limit():
    splits, whole = load("digits", limit=100), load("digits")
    assert torch.equal(splits.train.x, whole.train.x[:100])
    assert torch.equal(splits.test.x, whole.test.x)
    assert "first 100 of 1297" in splits.source
    assert load("digits", limit=5000).source == whole.source


# arrays and files


def test_from_arrays_splits_off_what_is_missing():
    label = np.arange(40) % 3
    splits = from_arrays(X, condition_train=X[:, :1], label_train=label, seed=3)
    _assert_sound(splits)
    assert [len(part) for part in splits.parts.values()] == [32, 4, 4]
    assert "valid and test: 4 random examples each" in splits.source and "seed 3" in splits.source
    assert splits.num_labels == 3
    # every example is in exactly one part, with its own condition and label
    rows = torch.cat([part.x for part in splits.parts.values()])
    assert sorted(rows[:, 0].tolist()) == sorted(X[:, 0].tolist())
    for part in splits.parts.values():
        assert torch.equal(part.condition, part.x[:, :1])
        assert part.label.tolist() == [label[np.flatnonzero(X[:, 0] == v.item())[0]] for v in part.x[:, 0]]
    only_test = from_arrays(X, X[:7])
    assert [len(part) for part in only_test.parts.values()] == [36, 7, 4]
    assert from_arrays(X, X, X).source == "given parts"


@pytest.mark.parametrize(
    ("x", "likelihood"),
    [
        ((X > 0.5).astype(int), "bernoulli"),
        (X > 0.5, "bernoulli"),
        (X.astype(np.float64), "continuous_bernoulli"),
        (torch.tensor(X), "continuous_bernoulli"),
        (X * 2, "gaussian"),
        (X.astype(">f4") - 1, "gaussian"),
    ],
)
def test_from_arrays_guesses_the_likelihood(x, likelihood):
    splits = from_arrays(x)
    _assert_sound(splits)
    assert splits.likelihood == likelihood
    assert from_arrays(x, likelihood="gaussian").likelihood == "gaussian"


@pytest.mark.parametrize("values", [X.copy(), torch.tensor(X)])
def test_from_arrays_copies(values):
    splits = from_arrays(values, values, values)
    values[:] = 7
    assert splits.train.x.max() <= 1
    assert splits.valid.x.data_ptr() != splits.train.x.data_ptr()


def test_npz(tmp_path):
    path = tmp_path / "own.npz"
    images = X.reshape(-1, 1, 1, 3).repeat(4, axis=2)
    np.savez(path, x_train=images, x_test=images[:5], label_train=np.arange(40), label_test=np.arange(5), extra=1)
    splits = load(path)
    _assert_sound(splits)
    assert splits.name == "own" and splits.x_shape == (12,) and splits.image_shape == (1, 4, 3)
    assert splits.likelihood == "continuous_bernoulli" and not splits.binarise
    assert splits.source.startswith("own.npz, valid: 4 random") and splits.source.endswith("not read: extra")
    cut = load(str(path), condition_rows=1, flatten=False, limit=6)
    assert cut.x_shape == (1, 3, 3) and cut.condition_shape == (1, 1, 3) and len(cut.train) == 6
    assert load(path, condition_labels=True).condition_shape == (40,)


def test_attributes_of_ones_own_are_asked_for_by_name(tmp_path):
    """As those of CelebA: a condition when that is wanted, in the order of the file."""
    path = tmp_path / "own.npz"
    known = (np.arange(80).reshape(40, 2) % 3 == 0).astype(np.uint8)
    np.savez(path, x_train=X, attributes_train=known, attribute_names=np.array(["Round", "Dark_Blue"]))
    splits = load(path)
    assert splits.condition_shape is None and splits.attribute_names == ("Round", "Dark_Blue")
    given = load(path, condition_labels=True)
    assert given.condition_names == ("Round", "Dark_Blue") and given.condition_of == "attributes"
    assert "not read" not in given.source and given.source.endswith("the attributes are the condition")
    rows = [X.tolist().index(row) for row in given.train.x.tolist()]
    assert torch.equal(given.train.condition, torch.from_numpy(known)[rows].float())
    wanted = pp.conditions.parse("Round=1,Dark_Blue=-1", given)
    assert torch.equal(pp.conditions.condition_of(wanted, given, 3), torch.tensor([[1.0, 0.0]] * 3))
    assert from_arrays(X, attributes_train=known).attribute_names == ("0", "1")
    as_bytes = from_arrays(X, attributes_train=known, attribute_names=np.array([b"Round", b"Blue"]))
    assert as_bytes.attribute_names == ("Round", "Blue")
    np.savez(path, x_train=X, attributes_train=known, attribute_names=np.array(["Round", "Blue"], dtype=object))
    with pytest.raises(ValueError, match=r"attribute_names must hold text, got Python objects: save .astype\('str'\)"):
        load(path)


def test_arrays_whose_names_are_misspelt_are_told(tmp_path):
    path = tmp_path / "own.npz"
    np.savez(path, x_train=X, conditions_train=X, x_val=X, notes=X, y_train=X)
    with pytest.warns(UserWarning) as told:
        splits = load(path)
    told = [str(one.message) for one in told]
    assert told == [f"{path}: conditions_train is not read: did you mean 'condition_train'?",
                    f"{path}: x_val is not read: did you mean 'x_valid'?"]  # fmt: skip
    assert splits.source.endswith("not read: conditions_train, x_val, notes, y_train")


# errors


def _bad(index, value):
    x = X.copy()
    x[index] = value
    return x


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": X.astype(str)}, r"x_train must hold real numbers, got dtype <U.*: convert with .astype"),
        ({"x_train": X.astype(object)}, r"x_train must hold real numbers, got dtype object"),
        ({"x_train": X.astype(complex)}, r"x_train must hold real numbers, got dtype complex128"),
        ({"x_train": torch.tensor(X) + 0j}, r"x_train must hold real numbers, got torch.complex64"),
        ({"x_train": [[1.0, 2.0], [3.0]]}, r"x_train must be a rectangular array"),
        (
            {"x_train": _bad([3, 9], np.nan)},
            r"x_train holds 6 NaN or infinite .* first at index \(3, 0\): remove",
        ),
        ({"x_train": X, "x_test": _bad((5, 1), np.inf)}, r"x_test holds 1 NaN .* first at index \(5, 1\)"),
        ({"x_train": X.astype(np.float64) * 1e300}, r"x_train holds .* which is beyond the largest float32, 3.4e38"),
        ({"x_train": X[:0]}, r"x_train is empty, shape \(0, 3\): give at least one"),
        ({"x_train": X, "x_valid": X[:, :0]}, r"x_valid is empty, shape \(40, 0\)"),
        ({"x_train": X[:, 0]}, r"x_train must have shape \(N, ...\).* got \(40,\): .*x_train\[:, None\]"),
        ({"x_train": X[:2]}, r"x_train has 2 examples, too few to split off valid and test"),
        (
            {"x_train": X, "x_test": X[:, :2]},
            r"x_test must have rows of shape \(3,\) as x_train has, got \(2,\)",
        ),
        (
            {"x_train": X, "condition_train": X[:9]},
            r"condition_train must have one row per row of x_train, got 9 for 40",
        ),
        ({"x_train": X, "condition_train": _bad(0, np.nan)}, r"condition_train holds 3 NaN"),
        (
            {"x_train": X, "x_test": X, "condition_train": X},
            r"condition_test is missing while condition_train is given",
        ),
        (
            {"x_train": X, "x_test": X, "condition_test": X},
            r"condition_train is missing while condition_test is given",
        ),
        ({"x_train": X, "condition_train": np.arange(40) - 2}, "condition_train must be labels .* got -2 at index 0"),
        ({"x_train": X, "condition_train": X[:, 0]}, r"condition_train must .* use condition_train\[:, None\]"),
        (
            {"x_train": X, "attributes_train": X},
            r"attributes_train must be 0 or 1, .* shape \(40, 3\): for -1 and 1, give",
        ),
        ({"x_train": X, "attributes_train": np.ones((40, 2, 2))}, r"must be 0 or 1, .* got 1 to 1, shape \(40, 2, 2\)"),
        ({"x_train": X, "attributes_train": np.ones((9, 2))}, r"attributes_train must have one row per row of x_train"),
        (
            {"x_train": X, "attributes_train": np.ones((40, 2)), "attribute_names": ["a"]},
            r"attribute_names must be 2 different names, got a: one a column",
        ),
        (
            {"x_train": X, "attributes_train": np.ones((40, 2)), "attribute_names": ["a", "b c"]},
            r"attribute_names must be without '=', ',' and spaces, got 'b c'",
        ),
        (
            {"x_train": X, "attributes_train": np.ones((40, 2)), "attribute_names": ["a", "plain"]},
            r"attribute name 'plain' is that of a number of the evaluation: choose another",
        ),
        ({"x_train": X, "attribute_names": ["a"]}, r"attribute_names are given without attributes_train: give both"),
        ({"x_train": X, "condition_valid": X}, r"x_valid is missing: give it, or leave out the valid part"),
        (
            {"x_train": X, "x_test": X, "label_train": np.zeros(40, int)},
            r"label_test is missing while label_train",
        ),
        (
            {"x_train": X, "label_train": np.zeros(40)},
            r"label_train must hold integers, got torch.float64: convert",
        ),
        (
            {"x_train": X, "label_train": np.array(["a"] * 40)},
            r"label_train must hold real numbers, got dtype <U1: number the classes, names, label = np.unique",
        ),
        (
            {"x_train": X, "label_train": np.arange(40) - 2},
            r"label_train must be 0, 1, 2, .*, got -2 at index 0: number",
        ),
        ({"x_train": X, "label_train": np.arange(39)}, r"label_train must have shape \(40,\).* got \(39,\)"),
        (
            {"x_train": X, "label_train": np.eye(40, dtype=int)},
            r"got \(40, 40\): for one-hot rows use .argmax",
        ),
        ({"x_train": X, "likelihood": "poison"}, r"likelihood 'poison' is unknown: did you mean 'poisson'"),
        (
            {"x_train": X, "likelihood": "bernoulli"},
            r"x_train does not fit likelihood='bernoulli': x must be 0 or 1",
        ),
        (
            {"x_train": X - 2, "likelihood": "continuous_bernoulli"},
            r"x must be in \[0, 1\], got values from -1.*: rescale",
        ),
    ],
)
def test_from_arrays_errors(arrays, message):
    with pytest.raises(ValueError, match=message):
        from_arrays(**arrays)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        (
            "mnits",
            {},
            r"unknown data set 'mnits': did you mean 'mnist'\? give one of celeba, cornell, .*or a path .* \.npz",
        ),
        ("qqqq", {}, r"unknown data set 'qqqq': give one of celeba, cornell, digits, fashion_mnist"),
        (
            "digits",
            {"binarize": "none"},
            r"unknown data option 'binarize': did you mean 'binarise'\? give one of root",
        ),
        ("digits", {"binarise": "yes"}, r"binarise must be one of dynamic, fixed, none, got 'yes'"),
        ("digits", {"condition_rows": 8}, r"condition_rows must be below the image height 8, got 8"),
        ("digits", {"condition_rows": -1}, r"condition_rows must be an integer of 0 or more, got -1"),
        ("digits", {"limit": 2.5}, r"limit must be an integer, got 2.5 \(for example, 10\)"),
        ("digits", {"seed": 2**32}, r"seed must be below 2\*\*32, got 4294967296"),
        ("digits", {"flatten": "no"}, r"flatten must be True or False, got 'no'"),
        (
            "digits",
            {"condition_rows": 4, "condition_labels": True},
            r"both set the condition: choose one of them",
        ),
        ("moons", {"condition_rows": 1}, r"condition_rows=1 needs a data set of images, but moons has x_shape \(2,\)"),
        ("moons", {"binarise": "fixed"}, r"binarise='fixed' needs a data set of gray images, but moons is not"),
    ],
)
def test_load_errors(name, config, message):
    with pytest.raises(ValueError, match=message):
        load(name, **config)


@pytest.mark.parametrize(
    ("arrays", "config", "message"),
    [
        ({"x_trian": X}, {}, r"own.npz: has no x_train, only x_trian: add it"),
        ({}, {}, r"own.npz: has no x_train, only nothing"),
        (
            {"x_train": X.astype(object)},
            {},
            r"own.npz: x_train must hold real numbers, got Python objects: save",
        ),
        ({"x_train": _bad(0, np.nan)}, {}, r"own.npz: x_train holds 3 NaN"),
        (
            {"x_train": X},
            {"condition_labels": True},
            r"condition_labels needs labels, but own has none: give label_train",
        ),
        ({"x_train": X}, {"condition_rows": 1}, r"needs a data set of images, but own has x_shape \(3,\)"),
        (
            {"x_train": X, "condition_train": X, "label_train": np.arange(40)},
            {"condition_labels": True},
            r"condition_labels would replace the condition that own already has: drop the option",
        ),
    ],
)
def test_npz_errors(tmp_path, arrays, config, message):
    np.savez(tmp_path / "own.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "own.npz", **config)


def test_unreadable_npz(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.npz: no such file; give the path of an \.npz file"):
        load(tmp_path / "none.npz")
    np.savez(tmp_path / "good.npz", x_train=X)
    good = (tmp_path / "good.npz").read_bytes()
    np.save(tmp_path / "array.npy", X)
    altered = bytearray(good)
    altered[len(good) // 2] ^= 255
    contents = [b"", b"hello", good[:-60], bytes(altered), (tmp_path / "array.npy").read_bytes()]
    for content in contents:
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(
            ValueError, match=r"bad\.npz: not a readable \.npz file( \(.*\))?: write it with numpy"
        ) as error:
            load(tmp_path / "bad.npz")
        assert "pickle" not in str(error.value), "which is no advice to a reader of text"


@pytest.mark.parametrize(
    ("name", "kind", "where"),
    [
        ("mnist", "MNIST", r"MNIST/raw .*no network.* put .*train-images-idx3-ubyte"),
        ("fashion_mnist", "FashionMNIST", r"FashionMNIST/raw .*no network.* put .*t10k-labels-idx1-ubyte"),
        ("omniglot", "Omniglot", r"omniglot nor .*no network.* put Burda's chardata\.mat"),
    ],
)
def test_missing_files_say_what_to_put_where(monkeypatch, tmp_path, name, kind, where):
    import torchvision.datasets

    class Offline:
        def __init__(self, *args, **kwargs):
            raise RuntimeError("no network")

    Offline.__name__ = kind
    monkeypatch.setattr(torchvision.datasets, kind, Offline)
    monkeypatch.setenv("PYRO_PRIORS_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=rf"^{name}: .*{where}.*PYRO_PRIORS_DATA"):
        load(name)


def test_root_comes_from_option_environment_home(monkeypatch, tmp_path):
    from pyro_priors.data.registry import data_root

    monkeypatch.setenv("PYRO_PRIORS_DATA", str(tmp_path))
    assert data_root(DataConfig()) == tmp_path
    assert data_root(DataConfig(root="elsewhere")) == Path("elsewhere")
    monkeypatch.delenv("PYRO_PRIORS_DATA")
    assert data_root(DataConfig()) == Path.home() / ".cache" / "pyro_priors"


def test_names():
    toys = ["four_gaussians", "inverse_sine", "mixture", "moons", "one_to_many"]
    assert names() == sorted(
        ["celeba", "cornell", "digits", "fashion_mnist", "mnist", "omniglot", "shapes", "svhn", *toys]
    )


def test_repr_shows_shapes_not_values():
    text = repr(load("digits", condition_rows=4))
    assert "Part(1297 of x (32,), condition (32,), label)" in text and len(text) < 800


# batches

PART = Part(torch.tensor(X), torch.arange(40.0)[:, None])


def _epoch(**options) -> list:
    return list(batches(PART, 12, **{"seed": 5, "epoch": 2, **options}))


@pytest.mark.parametrize("binarise", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_are_a_function_of_seed_epoch_step(binarise, shuffle):
    options = {"binarise": binarise, "shuffle": shuffle}
    epoch = _epoch(**options)
    assert [len(x) for x, _ in epoch] == [12, 12, 12, 4] and num_batches(PART, 12) == 4
    torch.rand(3, generator=torch.Generator().manual_seed(1))
    _assert_equal(epoch, _epoch(**options))
    for start in range(4):
        _assert_equal(epoch[start:], _epoch(**options, start=start))
    assert _epoch(**options, start=4) == []
    for other in ({"seed": 6}, {"epoch": 3}):
        changed = torch.cat([x for x, _ in _epoch(**options, **other)])
        same = torch.equal(changed, torch.cat([x for x, _ in epoch]))
        assert same == (not binarise and not shuffle)


def test_an_epoch_has_every_example_once_with_its_condition():
    for shuffle in (False, True):
        x, condition = (torch.cat(values) for values in zip(*_epoch(shuffle=shuffle), strict=True))
        index = condition[:, 0].long()
        assert torch.equal(x, PART.x[index])
        assert sorted(index.tolist()) == list(range(40))
        assert (index.tolist() == list(range(40))) == (not shuffle)


def test_shuffled_order_does_not_depend_on_the_noise():
    for (_, plain), (_, noisy) in zip(_epoch(), _epoch(binarise=True), strict=True):
        assert torch.equal(plain, noisy)


@pytest.mark.parametrize("binarise", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("world_size", [2, 3, 5, 7])
def test_ranks_make_up_the_batch_of_one_process(binarise, shuffle, world_size):
    options = {"binarise": binarise, "shuffle": shuffle}
    ranks = [_epoch(**options, rank=r, world_size=world_size) for r in range(world_size)]
    sizes = [[len(x) for x, _ in rank] for rank in ranks]
    assert np.ptp(sizes, axis=0).max() <= 1
    joined = [tuple(torch.cat(values) for values in zip(*step, strict=True)) for step in zip(*ranks, strict=True)]
    _assert_equal(_epoch(**options), joined)


def test_dynamic_binarisation_has_the_grey_level_as_its_mean():
    """400 epochs of 40 x 3 values; 5 standard errors on each of 120 means fail by chance once in 14,000."""
    part = Part(torch.cat([PART.x[:-2], torch.zeros(1, 3), torch.ones(1, 3)]))
    drawn = torch.stack(
        [
            torch.cat([x for x, _ in batches(part, 12, seed=0, epoch=e, binarise=True, shuffle=False)])
            for e in range(400)
        ]
    )
    assert drawn.dtype == torch.float32 and set(drawn.unique().tolist()) == {0.0, 1.0}
    standard_error = (part.x * (1 - part.x) / 400).sqrt()
    assert ((drawn.mean(0) - part.x).abs() <= 5 * standard_error).all()
    # draws of different epochs are independent: their covariance vanishes within 5 standard errors
    rest = (drawn - part.x)[:, :-2] / (part.x * (1 - part.x)).sqrt()[:-2]
    lagged = rest[1:] * rest[:-1]
    assert abs(lagged.mean()) < 5 * lagged.std() / lagged.numel() ** 0.5


def test_binarising_leaves_the_part_as_it_was():
    before = PART.x.clone()
    for shuffle in (False, True):
        _epoch(binarise=True, shuffle=shuffle)
    assert torch.equal(PART.x, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, r"batch_size must be at least 1, got 0"),
        ({"rank": 2, "world_size": 2}, r"rank must be in 0\.\.world_size-1, got rank=2 and world_size=2"),
        ({"world_size": 0}, r"got rank=0 and world_size=0"),
        ({"seed": -1}, r"seed must be 0 or more, got -1"),
        ({"epoch": -1}, r"epoch must be 0 or more, got -1"),
        ({"start": -1}, r"start must be 0 or more, got -1"),
    ],
)
def test_batches_errors(options, message):
    with pytest.raises(ValueError, match=message):
        batches(PART, **{"batch_size": 12, "seed": 0, "epoch": 0, **options})


# Omniglot's forms, made up


def test_area_averaging_keeps_the_mean_and_uniform_images():
    bits = np.random.default_rng(0).integers(0, 2, (3, 105, 105)).astype(np.uint8)
    bits[1] = 1
    bits[2, :15, :30] = 1  # 15 = 4 new pixels of 3.75
    bits[2, 15:] = bits[2, :, 30:] = 0
    reduced = _reduce(np.packbits(bits.reshape(3, -1), axis=1))
    assert reduced.shape == (3, 1, 28, 28)
    assert reduced.mean((1, 2, 3)).numpy() == pytest.approx(bits.mean((1, 2)), abs=1e-6)
    assert (reduced[1] - 1).abs().max() < 1e-6
    expected = torch.zeros(28, 28)
    expected[:4, :8] = 1
    assert (reduced[2, 0] - expected).abs().max() < 1e-6
    # one pixel by hand: new pixel (0, 1) covers old rows 0..3.75 and old columns 3.75..7.5
    rows, columns = np.array([1, 1, 1, 0.75]), np.array([0.25, 1, 1, 1, 0.5])
    assert reduced[0, 0, 0, 1].item() == pytest.approx(rows @ bits[0, :4, 3:8] @ columns / 3.75**2, abs=1e-6)


def test_omniglot_chardata(tmp_path):
    from scipy.io import savemat

    random = np.random.default_rng(0)
    train, test = random.random((784, 1400)), random.random((784, 30))
    alphabet = random.integers(50, size=1430)
    one_hot = np.eye(50)[:, alphabet]
    (tmp_path / "omniglot").mkdir()
    file = tmp_path / "omniglot" / "chardata.mat"
    savemat(file, {"data": train, "testdata": test, "target": one_hot[:, :1400], "testtarget": one_hot[:, 1400:]})
    splits = load("omniglot", root=str(tmp_path), binarise="none")
    _assert_sound(splits)
    assert [len(part) for part in splits.parts.values()] == [55, 1345, 30]
    # the public code: .reshape(-1, 28, 28).reshape(-1, 784, order='F')
    recipe = test.T.astype("float32").reshape(-1, 28, 28).reshape(-1, 784, order="F")
    assert_array_equal(splits.test.x.numpy(), recipe)
    assert_array_equal(splits.test.label, alphabet[1400:])
    assert "Burda" in splits.source

    savemat(file, {"data": train, "testdata": test + 1})
    with pytest.raises(ValueError, match=r"omniglot: test.x must lie in \[0, 1\], got values from 1"):
        load("omniglot", root=str(tmp_path))
    file.write_bytes(b"no matlab")
    with pytest.raises(ValueError, match=r"chardata\.mat: not Burda's chardata.mat .*: replace it"):
        load("omniglot", root=str(tmp_path))
    file.rename(file.with_name("omniglot_105.npz"))
    with pytest.raises(ValueError, match=r"omniglot_105\.npz: not readable .*: remove it"):
        load("omniglot", root=str(tmp_path))


def test_omniglot_download_is_kept_as_packed_bits(monkeypatch, tmp_path):
    import torchvision.datasets

    class Drawings:
        def __init__(self, root, background, download):
            self._characters = [f"{'A' if background else 'B'}/character{i:02}" for i in range(50)]

        def __iter__(self):
            for i in range(50 * 20):
                image = np.full((105, 105), 255, np.uint8)
                image[: 1 + i // 20] = 0
                yield image, i // 20

    monkeypatch.setattr(torchvision.datasets, "Omniglot", Drawings)
    splits = load("omniglot", root=str(tmp_path), binarise="none")
    _assert_sound(splits)
    assert [len(part) for part in splits.parts.values()] == [155, 1345, 500]
    assert "our reduction" in splits.source
    assert [f.name for f in (tmp_path / "omniglot").iterdir()] == ["omniglot_105.npz"]
    monkeypatch.delattr(torchvision.datasets, "Omniglot")
    assert torch.equal(load("omniglot", root=str(tmp_path), binarise="none").test.x, splits.test.x)


# real images, where there are any


def _needs(*paths: str) -> pytest.MarkDecorator:
    root = Path(os.environ.get("PYRO_PRIORS_DATA") or "/nonexistent")
    return pytest.mark.skipif(
        not all((root / path).exists() for path in paths), reason=f"PYRO_PRIORS_DATA has no {paths[0]}"
    )


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("mnist", marks=_needs("MNIST/raw/train-images-idx3-ubyte")),
        pytest.param("fashion_mnist", marks=_needs("FashionMNIST/raw/train-images-idx3-ubyte")),
    ],
)
def test_mnist(name):
    splits = load(name)
    _assert_sound(splits)
    assert [len(part) for part in splits.parts.values()] == [50_000, 10_000, 10_000]
    assert splits.x_shape == (784,) and splits.image_shape == (1, 28, 28) and splits.num_labels == 10
    assert splits.binarise and splits.train.x.max() == 1 and len(splits.train.x[:500].unique()) > 200
    assert set(splits.test.x.unique().tolist()) == {0.0, 1.0}
    completion = load(name, condition_rows=10, limit=1000)
    assert completion.x_shape == (18 * 28,) and completion.condition_shape == (280,)
    if name == "mnist":
        assert splits.test.label[:5].tolist() == [7, 2, 1, 0, 4] and splits.train.label[:3].tolist() == [
            5,
            0,
            4,
        ]


@_needs("omniglot/omniglot_105.npz")
def test_omniglot_official():
    splits = load("omniglot", binarise="none")
    _assert_sound(splits)
    assert splits.x_shape == (784,) and splits.num_labels == 50
    if "our split" in splits.source:
        assert [len(part) for part in splits.parts.values()] == [23_000, 1_345, 8_115]
        # alphabets in equal shares: 5 of 20 drawings of each character are test
        counts = [torch.bincount(part.label, minlength=50) for part in splits.parts.values()]
        assert torch.equal(3 * counts[2], counts[0] + counts[1])
    assert 0.05 < splits.train.x.mean() < 0.2


@pytest.mark.parametrize("dtype", ["float64", "int64"])
def test_differences_that_float32_does_not_hold_are_refused(dtype):
    """Time stamps, for example: between numbers of 10^9 float32 knows differences of 128."""
    values = np.stack([np.arange(100), 10**9 + np.arange(100)], 1).astype(dtype)
    message = r"^x_train has values around 1e\+09 with a spread of 28.9 \(column 1\), .*: subtract the mean first"
    with pytest.raises(ValueError, match=message):
        from_arrays(values)
    kept = from_arrays(values - values.mean(0).astype(dtype), likelihood="gaussian").train.x
    assert len(kept.unique(dim=0)) == len(kept)
    from_arrays(np.full((20, 1), 10**9 + 1, dtype))  # a constant loses no difference


def test_values_beyond_float32_are_called_too_large():
    with pytest.raises(
        ValueError, match=r"^x_train holds 1e\+300 at index \(1, 0\), which is beyond the largest float32"
    ):
        from_arrays(np.array([[0.0], [1e300], [2.0]]))


def test_a_column_that_only_rounding_varies_is_taken():
    """Such as 0.3 and 0.1 + 0.2: their difference is float64's own rounding."""
    values = np.stack([np.random.default_rng(0).normal(size=100), np.where(np.arange(100) % 2, 0.3, 0.1 + 0.2)], 1)
    assert values[:, 1].std() > 0
    parts = from_arrays(values, likelihood="gaussian").parts.values()
    assert all((part.x[:, 1] == np.float32(0.3)).all() for part in parts)
