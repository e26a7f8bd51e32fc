"""Data with a few labels, and the training and the evaluation of a semi-supervised ``cp_vae`` on them."""

import dataclasses

import numpy as np
import pytest
import torch

import pyro_priors as pp
from pyro_priors.cli.main import main


def test_data_keep_as_many_labels_of_each_class():
    data = pp.data.load("digits", labels=43)
    condition, label = data.train.condition, data.train.label
    known = condition >= 0
    assert data.condition_shape == () and condition.dtype == torch.int64
    assert (condition[known] == label[known]).all() and known.sum() == 43
    assert sorted(torch.bincount(condition[known]).tolist()) == [4] * 7 + [5] * 3
    assert (data.valid.condition == -1).all() and (data.test.condition == -1).all()
    assert "43 labels of the training part are known, drawn with seed 0" in data.source
    again, other = (pp.data.load("digits", labels=43, seed=seed) for seed in (0, 1))
    assert torch.equal(again.train.condition, condition)
    assert not torch.equal(other.train.condition >= 0, known)
    assert (pp.data.load("digits", labels=10**6).train.condition == label).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": 3}, "^labels must be at least 10, one for each class of digits, got 3: "),
        ({"labels": -1}, "^labels must be an integer of 0 or more, got -1"),
        ({"labels": 10, "condition_rows": 2}, "^condition_rows and labels both set the condition: choose one"),
        ({"labels": 10, "condition_labels": True}, "^condition_labels and labels both set the condition: choose one"),
    ],
)
def test_wrong_options_of_the_data_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        pp.data.load("digits", **options)


def test_data_without_labels_are_refused(tmp_path):
    np.savez(tmp_path / "mine.npz", x_train=np.eye(30, dtype="float32"))
    with pytest.raises(ValueError, match="^labels=10 needs labels, but mine has none: give label_train"):
        pp.data.load(tmp_path / "mine.npz", labels=10)


def test_arrays_may_have_labels_as_their_condition():
    x = torch.rand(40, 6).round().numpy()
    labels = torch.arange(40) % 4 - 1
    data = pp.data.from_arrays(x, condition_train=labels.numpy())
    assert data.condition_shape == () and data.train.condition.dtype == torch.int64
    parts = torch.cat([part.condition for part in data.parts.values()])
    assert torch.equal(parts.sort().values, labels.sort().values)
    with pytest.raises(
        ValueError, match=r"^condition_train must be labels 0, 1, 2, \.\.\., or -1 .*, got -5 at index 1"
    ):
        pp.data.from_arrays(x[:2], condition_train=torch.tensor([0, -5]).numpy())
    with pytest.raises(ValueError, match="^the condition of arrays is labels, and pair 'cvae' needs rows of numbers"):
        pp.zoo.create_for("cvae", data, 0)
    pair = pp.create("cp_vae", x_shape=(6,), z_dim=2, hidden=(4,), num_categories=2)
    with pytest.raises(ValueError, match="^the train part of .* does not fit the pair, .* got 2 at index .* num_categ"):
        pp.fit(pair, data, max_epochs=1, progress=False)
    rows = pp.data.from_arrays(x, condition_train=x)
    with pytest.raises(ValueError, match="^the train part of .* whose condition is labels: .* got torch.float32"):
        pp.fit(pair, rows, max_epochs=1, progress=False)
    plain = pp.create("vae", x_shape=(6,), z_dim=2, hidden=(4,))
    pp.fit(plain, data, max_epochs=1, progress=False)  # on x alone


def test_a_few_labels_make_a_classifier(tmp_path):
    """Training on the digits with 100 labels, through fit and its run folder, resumed too. The accuracy is 0.85 at this
    seed, and 0.1 is chance."""
    data = pp.data.load("digits", labels=100)
    options = {"batch_size": 100, "learning_rate": 2e-3, "progress": False}
    torch.manual_seed(0)
    pair = pp.create("cp_vae", x_shape=(64,), z_dim=8, hidden=(64, 64), classification_weight=10.0)
    pp.fit(pair, data, max_epochs=10, out=tmp_path / "run", **options)
    history = pp.fit(pair, data, max_epochs=20, out=tmp_path / "run", resume=True, **options)
    losses = [record["train_classification"] for record in history.epochs]
    assert losses[-1] < 0.3 * losses[0]
    found = pp.metrics.evaluate(pair, data, metrics=["accuracy", "bound"], progress=False)
    assert found["accuracy"].value > 0.7
    assert found.keys() >= {"accuracy_hungarian", "accuracy_majority"}
    plain = pp.metrics.evaluate(pair, pp.data.load("digits"), metrics=["accuracy", "bound"], progress=False)
    assert "accuracy" not in plain and plain["bound"].value == pytest.approx(found["bound"].value, abs=1e-4)
    loaded = pp.load(tmp_path / "run")
    assert torch.equal(loaded.encode(data.test.x)["c"].probs, pair.encode(data.test.x)["c"].probs)
    part = dataclasses.replace(data.test, condition=data.test.label)
    assert pp.metrics.evaluate(pair, dataclasses.replace(data, test=part), metrics="bound", progress=False)


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_labels_are_integers_in_every_precision(precision):
    data = pp.data.load("digits", labels=100, limit=200)
    pair = pp.create("cp_vae", x_shape=(64,), z_dim=2, hidden=(8,), classification_weight=10.0)
    pp.fit(pair, data, max_epochs=1, precision=precision, progress=False)
    assert pp.metrics.evaluate(pair, data, metrics=["accuracy"], progress=False)["accuracy"].value >= 0


def test_the_command_line_trains_it(tmp_path, capsys):
    run, sizes = str(tmp_path / "run"), ["--z-dim", "2", "--networks.hidden", "8", "--train.max-epochs", "1", "--quiet"]
    data = ["--data", "digits", "--data.labels", "50", "--data.limit", "200"]
    assert main(["train", "cp_vae", *data, "--classification-weight", "5", *sizes, "--out", run]) == 0
    assert main(["evaluate", run, "--num-samples", "2"]) == 0
    assert "accuracy  " in capsys.readouterr().out
    assert main(["sample", run, "--num", "4", "--out", str(tmp_path / "s.png")]) == 0
    assert main(["plot", run]) == 0
    assert not capsys.readouterr().err
    assert main(["train", "cvae", *data, *sizes, "--out", str(tmp_path / "other")]) == 2
    assert "the condition of digits is labels, and pair 'cvae' needs rows of numbers" in capsys.readouterr().err
