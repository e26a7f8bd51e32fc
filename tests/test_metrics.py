"""Metrics: hand-made cases, and every number of an evaluation computed a second time."""

import dataclasses
import math

import numpy as np
import pyro
import pytest
import torch

import pyro_priors as pp
import runs
from pyro_priors import log_probability, metrics
from pyro_priors.objectives import ELBO

# clustering


def test_hungarian_accuracy_of_permuted_labels_is_1():
    label = torch.tensor([0, 0, 1, 1, 2, 2, 2])
    category = torch.tensor([2, 0, 1])[label]
    assert metrics.hungarian_accuracy(category, label, 3, 3) == 1.0


@pytest.mark.parametrize(
    ("category", "label", "num_categories", "num_labels", "expected"),
    [
        # two categories share label 0: only the larger one is matched with it
        ([0, 0, 0, 1, 1, 2], [0, 0, 0, 0, 0, 1], 3, 2, 4 / 6),
        # everything in one category: the largest label
        ([1, 1, 1, 1], [0, 1, 1, 2], 3, 3, 2 / 4),
        # greedy would take (0, 0) with 3 and leave (1, 1) with 0; the best matching is 2 + 3
        ([0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 0, 0, 0], 2, 2, 5 / 8),
        # fewer categories than labels
        ([0, 0, 1, 1], [0, 0, 2, 1], 2, 3, 3 / 4),
    ],
)
def test_hungarian_accuracy_by_hand(category, label, num_categories, num_labels, expected):
    found = metrics.hungarian_accuracy(torch.tensor(category), torch.tensor(label), num_categories, num_labels)
    assert found == pytest.approx(expected)


def test_majority_accuracy_by_hand():
    # votes: category 0 stands for label 1, category 1 for label 0, category 2 for label 1; category 3 has no vote
    fit_category = torch.tensor([0, 0, 0, 1, 1, 2])
    fit_label = torch.tensor([1, 1, 0, 0, 0, 1])
    category = torch.tensor([0, 0, 1, 2, 3, 3])
    label = torch.tensor([1, 0, 0, 1, 0, 1])
    assert metrics.majority_accuracy(category, label, fit_category, fit_label, 4, 2) == pytest.approx(3 / 6)


# the latent space


def test_active_units_by_hand():
    x = torch.linspace(-1, 1, 101)
    # standard deviations of x: 0.586; variances here 0.34, 0.0137, 0.0086, 0
    means = torch.stack([x, 0.2 * x, 0.158 * x, torch.full_like(x, 5.0)], -1)
    assert metrics.active_units(means) == 2
    assert metrics.active_units(means, threshold=0.005) == 3
    assert metrics.active_units(means, threshold=0.1) == 1


def test_categories_by_hand():
    even = torch.full((8,), 1 / 8)
    assert metrics.active_categories(even) == 8
    assert metrics.effective_categories(even) == pytest.approx(8)
    one = torch.tensor([1.0, 0, 0, 0])
    assert metrics.active_categories(one) == 1
    assert metrics.effective_categories(one) == pytest.approx(1)
    # a tenth of an even share of four is 0.025
    assert metrics.active_categories(torch.tensor([0.5, 0.451, 0.025, 0.024])) == 3
    assert metrics.effective_categories(torch.tensor([0.5, 0.25, 0.25, 0])) == pytest.approx(2**1.5)


# evaluate


@pytest.fixture(scope="module")
def digits():
    return runs.small_data(size=60, held_out=40)


@pytest.fixture(scope="module")
def trained(digits):
    pair = runs.small_pair("cp_vae", digits, num_categories=4)
    pp.fit(pair, digits, max_epochs=15, batch_size=20, learning_rate=1e-2, progress=False)
    return pair


def assert_mean_of(estimate, values, unit="nats per datum"):
    values = np.asarray(values, dtype=np.float64)
    assert estimate.value == pytest.approx(values.mean(), rel=1e-6)
    assert estimate.stderr == pytest.approx(values.std(ddof=1) / math.sqrt(len(values)), rel=1e-5)
    assert estimate.unit == unit


def test_every_number_by_hand(digits, trained):
    results = metrics.evaluate(trained, digits, num_samples=7, seed=3)
    test = digits.test
    trained.eval()
    with torch.no_grad():
        torch.manual_seed(3)
        terms = ELBO().terms(trained.model, trained.guide, test.x, None)
        assert_mean_of(results["bound"], terms.bound)
        for part in ("reconstruction", "kl_c", "kl_z"):
            assert_mean_of(results[part], terms.parts[part])
        torch.manual_seed(3)
        assert_mean_of(results["log_likelihood"], trained.log_prob(test.x, num_samples=7))
        codes = trained.encode(test.x)
        q = codes["c"].probs
        train_q = trained.encode(_binarised(digits))["c"].probs
        prior_z = trained.posterior_and_prior(test.x)["z"][1]
    beyond_prior = (codes["z"].mean - prior_z.mean).double().var(0)
    assert results["active_units_z"] == metrics.Estimate(int((beyond_prior > 0.01).sum()), None, "of 2")
    assert results["active_categories"].value == int((q.mean(0) >= 0.1 / 4).sum())
    p = q.double().mean(0).numpy()
    assert results["effective_categories"].value == pytest.approx(np.exp(-(p * np.log(p)).sum()))
    category, train_category = q.argmax(-1), train_q.argmax(-1)
    right = 0
    for k in range(4):
        labels = digits.train.label[train_category == k]
        if len(labels):
            right += int((test.label[category == k] == labels.bincount().argmax()).sum())
    share = right / len(test)
    found = results["accuracy_majority"]
    assert found.value == pytest.approx(share)
    assert found.stderr == pytest.approx(math.sqrt(share * (1 - share) / len(test)))
    assert found.unit == "share of data"
    hungarian = metrics.hungarian_accuracy(category, test.label, 4, 10)
    assert results["accuracy_hungarian"].value == hungarian
    assert "bits_per_dim" not in results
    assert set(results) == {
        *("bound", "reconstruction", "kl_c", "kl_z", "log_likelihood", "active_units_z", "active_categories"),
        *("effective_categories", "accuracy_hungarian", "accuracy_majority"),
        *("kl_aggregate_prior", "kl_prior_aggregate", "symmetric_kl", "symmetric_kl_neighbours"),
    }


def _binarised(data):
    found = pp.data.batches(data.train, 1000, seed=0, epoch=0, binarise=True, shuffle=False)
    return next(found)[0]


def test_the_bound_is_below_the_likelihood_which_grows_with_the_samples(digits, trained):
    few, many = (metrics.evaluate(trained, digits, num_samples=n) for n in (1, 300))
    assert many["bound"].value <= many["log_likelihood"].value
    # of 40 data, n=1 against n=300: the gap is a large part of a nat
    assert few["log_likelihood"].value < many["log_likelihood"].value
    assert few["bound"] == many["bound"]


def test_the_standard_error_shrinks_with_the_root_of_the_data():
    data = pp.data.load("moons")
    pair = runs.small_pair("vae", data)
    wide = metrics.evaluate(pair, data, "train", metrics=["bound"])["bound"]  # 2,000
    narrow = metrics.evaluate(pair, data, "test", metrics=["bound"])["bound"]  # 200
    assert narrow.stderr / wide.stderr == pytest.approx(math.sqrt(10), rel=0.25)


@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_parts(digits, trained, part):
    results = metrics.evaluate(trained, digits, part, metrics=["bound"])
    x = _binarised(digits) if part == "train" else digits.parts[part].x
    with torch.no_grad():
        torch.manual_seed(0)
        assert_mean_of(results["bound"], ELBO().terms(trained.model, trained.guide, x, None).bound)


def test_a_metric_alone_gives_what_it_gives_among_all(digits, trained):
    everything = metrics.evaluate(trained, digits, num_samples=5)
    for name in set(metrics.METRICS).difference(metrics.ON_REQUEST, ["factors", "scale"]):  # of other data
        alone = metrics.evaluate(trained, digits, metrics=[name], num_samples=5)
        assert alone and all(everything[key] == value for key, value in alone.items())


def test_the_seed_decides(digits, trained):
    one, same, other = (metrics.evaluate(trained, digits, num_samples=3, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one["log_likelihood"].value != other["log_likelihood"].value
    assert one["accuracy_hungarian"] == other["accuracy_hungarian"]


@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_changed(digits, trained, training):
    trained.train(training)
    pyro.param("mine", torch.tensor(1.0))
    before = runs.state(trained), torch.get_rng_state()
    metrics.evaluate(trained, digits, num_samples=2)
    assert runs.same_bits(runs.state(trained), before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
    assert list(pyro.get_param_store().keys()) == ["mine"]
    assert trained.training is training


def test_chunks_change_the_noise_and_nothing_else(digits, trained, monkeypatch):
    whole = metrics.evaluate(trained, digits, num_samples=60)
    monkeypatch.setattr("pyro_priors.metrics.registry.BATCH_SIZE", 7)
    monkeypatch.setattr(log_probability, "ROWS_PER_CALL", 400)
    chunked = metrics.evaluate(trained, digits, num_samples=60)
    for name in ("active_units_z", "active_categories", "accuracy_hungarian", "accuracy_majority"):
        assert chunked[name] == whole[name]
    assert chunked["kl_c"].value == pytest.approx(whole["kl_c"].value, rel=1e-5)
    # each of the 40 estimates differs by its Monte Carlo error, some tenths of a nat at 60 samples
    assert chunked["log_likelihood"].value == pytest.approx(whole["log_likelihood"].value, abs=0.15)
    # the bound has one sample for each of 40 data; the z-part of its noise is some nats for each
    assert chunked["bound"].value == pytest.approx(whole["bound"].value, abs=6 * whole["bound"].stderr)


def test_memory_is_bounded_whatever_the_number_of_samples(digits, trained, monkeypatch):
    rows = []
    decoder = trained.model.decoder
    handle = decoder.register_forward_hook(lambda module, inputs, output: rows.append(math.prod(output.batch_shape)))
    monkeypatch.setattr(log_probability, "ROWS_PER_CALL", 2**10)
    try:
        found = metrics.evaluate(trained, digits, metrics=["log_likelihood"], num_samples=600)
    finally:
        handle.remove()
    assert max(rows) <= 2**10
    # categories x samples x data, none left out and none twice
    assert sum(rows) == 4 * 600 * 40
    assert math.isfinite(found["log_likelihood"].value)


def test_a_condition_is_passed_on():
    data = runs.small_data(condition_rows=4)
    pair = runs.small_pair("cvae", data)
    results = metrics.evaluate(pair, data, num_samples=5)
    torch.manual_seed(0)
    with torch.no_grad():
        terms = ELBO().terms(pair.model, pair.guide, data.test.x, data.test.condition)
    assert_mean_of(results["bound"], terms.bound)
    # labels are there, categories are not
    assert set(results) == {"bound", "reconstruction", "kl_z", "log_likelihood", "active_units_z"}
    with pytest.raises(ValueError, match="none of the metrics applies to this pair and its data"):
        metrics.evaluate(pair, data, metrics=["categories", "accuracy"])


def test_bits_per_dimension():
    data = runs.small_data(binarise="none")
    pair = runs.small_pair("vae", data)
    results = metrics.evaluate(pair, data, num_samples=5)
    bits, nats = results["bits_per_dim"], results["log_likelihood"]
    assert bits.value == pytest.approx(-nats.value / (64 * math.log(2)))
    assert bits.stderr == pytest.approx(nats.stderr / (64 * math.log(2)))
    assert bits.unit.startswith("bits per dimension, of a density of values from 0 to 1, not dequantised")


def test_one_datum_has_no_standard_error(digits):
    data = dataclasses.replace(digits, test=digits.test.take(slice(1)))
    results = metrics.evaluate(runs.small_pair("vae", data), data, num_samples=2)
    assert results["bound"].stderr is None and math.isfinite(results["bound"].value)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"part": "tets"}, "part must be one of train, valid, test, got 'tets'"),
        ({"metrics": ["bond"]}, "metric 'bond' is unknown: did you mean 'bound'?"),
        ({"metrics": ["bound", "qqq"]}, "metric 'qqq' is unknown: choose one of bound, log_likelihood"),
        ({"num_samples": 0}, "num_samples must be a positive integer, got 0"),
    ],
)
def test_wrong_arguments_are_refused(digits, trained, arguments, match):
    with pytest.raises(ValueError, match=match):
        metrics.evaluate(trained, digits, **arguments)


def test_a_metric_is_registered_once_and_by_a_name():
    for name, message in {
        "bound": "metric 'bound' is already registered by pyro",
        "a b": "must be an identifier",
    }.items():
        with pytest.raises(pp.UserError, match=message):
            metrics.register_metric(name)(lambda context: {})
