"""The classifier: what it learns, what it takes and gives, what is kept on disk."""

import json
import re
import threading

import pytest
import torch
from torch.testing import assert_close

import pyro_priors as pp
import runs
from pyro_priors import checkpoint, metrics, module_state
from pyro_priors.data import Levels
from pyro_priors.metrics import classifier, judges


def quick(data, folder, **options):
    return metrics.trained_classifier(data, folder, **{"progress": False, "max_epochs": 16} | options)


def record(folder):
    return json.loads((folder / "classifier.json").read_text())


@pytest.fixture(scope="module")
def digits():
    return pp.data.load("digits")


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    return quick(digits, folder), folder


def test_it_learns_the_digits(digits, trained):
    """Grey or binarised: nine in ten of 250 binarised test digits, four standard errors above 0.84; the confident."""
    network, folder = trained
    probabilities = network.probabilities(digits.test.x)
    assert_close(probabilities.sum(-1), torch.ones(250))
    confidence, chosen = probabilities.max(-1)
    right = chosen == digits.test.label
    found = record(folder)
    assert found["accuracy"] == pytest.approx(right.double().mean().item())
    assert found["accuracy"] > 0.84 and found["share_confident"] > 0.2
    confident = confidence >= classifier.CONFIDENT
    assert found["share_confident"] == pytest.approx(confident.double().mean().item())
    assert (
        found["accuracy_confident"] == pytest.approx(right[confident].double().mean().item())
        and right[confident].double().mean() > 0.97
    )
    grey = pp.data.load("digits", binarise="none").test
    assert (network.probabilities(grey.x).argmax(-1) == grey.label).double().mean() > 0.9
    assert not network.training


@pytest.mark.parametrize(
    "shape",
    [(784,), (1, 28, 28), (3, 32, 32), (3, 64, 64), (1, 8, 8), (1, 18, 28)],
    ids=lambda s: "x".join(map(str, s)),
)
def test_it_takes_images_of_any_size_flattened_or_not(shape):
    image_shape = (1, 28, 28) if len(shape) == 1 else shape
    network = metrics.Classifier(image_shape, 7)
    x = torch.rand(2, 3, *shape)
    features, probabilities = network.features(x), network.probabilities(x)
    assert features.shape == (2, 3, 128) and probabilities.shape == (2, 3, 7) and network.num_features == 128
    assert network.training, "it is left in the mode that it was in"
    flat = x.reshape(6, -1)
    assert_close(network.features(flat), features.flatten(0, 1))
    assert_close(network.features(x[0, 0]), features[0, 0], rtol=1e-4, atol=1e-6)
    assert_close(network.head.eval()(features).softmax(-1), probabilities)


def test_chunks_and_bytes_change_nothing(trained, digits, monkeypatch):
    network, _ = trained
    x = torch.randint(256, (25, 1, 8, 8), dtype=torch.uint8)
    expected = network.features(x.float() / 255)
    monkeypatch.setattr(classifier, "AT_ONCE", 4)
    assert_close(network.features(Levels(x)), expected)


def test_it_is_trained_once_and_kept(digits, trained, tmp_path, monkeypatch):
    network, folder = trained
    again = quick(digits, tmp_path / "again", seed=0)
    assert runs.same_bits(runs.state(again), runs.state(network)), "the seed decides"
    assert not runs.same_bits(runs.state(quick(digits, tmp_path / "other", seed=1, max_epochs=1)), runs.state(network))
    before = torch.get_rng_state()
    monkeypatch.setattr(classifier, "train_judge", None)
    assert runs.same_bits(runs.state(quick(digits, folder)), runs.state(network))
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ValueError, match=r"holds a classifier whose training is .*give another folder"):
        quick(digits, folder, seed=3)
    fewer = pp.data.load("digits", limit=100)
    with pytest.raises(ValueError, match=r"holds a classifier whose data is .*give another folder"):
        quick(fewer, folder)
    tensors = next(folder.glob("*.safetensors"))
    content = tensors.read_bytes()
    tensors.write_bytes(content[:-1])
    monkeypatch.undo()
    with pytest.warns(
        RuntimeWarning, match="the classifier is made again, because the cache is damaged: .* truncated or alter"
    ):
        made_again = quick(digits, folder)
    assert runs.same_bits(runs.state(made_again), runs.state(network)) and tensors.read_bytes() == content


def test_of_two_that_need_it_one_trains(tmp_path, capsys):
    folder, network, theirs = tmp_path / "kept", torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    other = threading.Thread(target=judges.kept, args=(network, folder, "linear", {}, pytest.fail))
    with checkpoint.locked(folder, wait=False):
        other.start()
        other.join(0.3)
        assert other.is_alive(), "it waits"
        checkpoint.write(folder, "linear", module_state.tensors_of(theirs), {})
    other.join(30)
    assert torch.equal(network.weight, theirs.weight)
    assert capsys.readouterr().err == f"waiting for another process that is using {folder}\n"


def test_attributes(tmp_path):
    """Two attributes, brightness of the upper half of the red channel and of the whole green one, and a third that is
    a coin: the first two are learned, the third is not, and no more than a few coins are called with confidence."""

    def arrays(num, part):
        attributes = torch.rand(num, 3) < 0.5
        x = 0.5 * torch.rand(num, 3, 12, 12)
        x[:, 0, :6] += 0.3 * attributes[:, 0, None, None]
        x[:, 1] += 0.3 * attributes[:, 1, None, None, None].squeeze(-1)
        return {f"x_{part}": x, f"condition_{part}": 2.0 * attributes - 1}

    data = pp.data.from_arrays(**arrays(1000, "train"), **arrays(300, "valid"), **arrays(500, "test"))
    network = quick(data, tmp_path, target="condition")
    found = record(tmp_path)
    assert min(found["accuracy"][:2]) > 0.99 and abs(found["accuracy"][2] - 0.5) < 0.1  # 4.5 standard errors
    assert min(found["share_confident"][:2]) > 0.9 and found["share_confident"][2] < 0.05
    probabilities = network.probabilities(data.test.x)
    assert probabilities.shape == (500, 3)
    right = ((probabilities > 0.5) == (data.test.condition > 0)).double().mean(0)
    assert_close(right, torch.tensor(found["accuracy"], dtype=torch.float64))


@pytest.mark.parametrize("attributes", [False, True])
def test_the_temperature_makes_probabilities_of_logits(attributes):
    """Logits that are a number of times too large, of targets drawn from the right ones: the temperature is that.
    Its standard error with 40,000 data is below 0.02."""
    factor = torch.tensor([3.0, 0.5, 2.0]) if attributes else torch.tensor(3.0)
    logits = torch.randn(40_000, 3) * 1.5
    if attributes:
        target = torch.bernoulli(logits.sigmoid())
    else:
        target = torch.distributions.Categorical(logits=logits).sample()
    network = metrics.Classifier((1, 4, 4), 3, attributes)
    network._in_chunks = lambda _, x: x
    classifier._calibrate(network, logits * factor, target)
    assert_close(network.temperature / factor, torch.ones_like(factor), rtol=0, atol=0.08)


def test_it_stops_early_with_the_best_weights(tmp_path):
    """Labels without any meaning: the validation loss grows from the first epochs on."""
    x, label = torch.rand(300, 1, 8, 8), torch.randint(4, (300,))
    data = pp.data.from_arrays(
        x, x[:100].flip(-1), x[:50], label_train=label, label_valid=label[100:200], label_test=label[:50]
    )
    network = quick(data, tmp_path, max_epochs=60, patience=3, learning_rate=5e-3)
    losses = record(tmp_path)["valid_loss"]
    assert len(losses) == losses.index(min(losses)) + 4 < 60
    logits = classifier._logits(network, data.valid.x) * network.temperature
    loss = torch.nn.functional.cross_entropy(logits, data.valid.label)
    assert loss.item() == pytest.approx(min(losses), rel=1e-5)


def test_mistakes_are_named(digits, tmp_path):
    moons = pp.data.load("moons")
    for data, options, message in (
        (moons, {}, "data must hold images, moons has x_shape"),
        (digits, {"target": "labels"}, "target must be one of label, attributes, condition, got 'labels'"),
        (digits, {"target": "condition"}, "target is 'condition', and the train part has none: choose another one of"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            quick(data, tmp_path, **options)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"image_shape must be \(channels, height, width\), got \(784,\)"):
        metrics.Classifier((784,), 10)
    with pytest.raises(ValueError, match=r"x must have rows of shape \(1, 8, 8\), or flattened, got \(2, 63\): this"):
        metrics.Classifier((1, 8, 8), 10).features(torch.zeros(2, 63))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rat": 0.1}, "classifier has no option 'learning_rat': did you mean 'learning_rate'?"),
        ({"epochs": 3}, "classifier has no option 'epochs': did you mean 'max_epochs'?"),
        ({"xyz": 3}, "classifier has no option 'xyz': choose one of seed, max_epochs, patience, batch_size, learning_"),
        ({"max_epochs": 0}, "max_epochs must be an integer of at least 1, got 0"),
        ({"max_epochs": 2.0}, "max_epochs must be an integer, got 2.0"),
        ({"patience": -1}, "patience must be an integer of at least 0, got -1"),
        ({"batch_size": 1}, "batch_size must be an integer of at least 2, got 1"),
        ({"seed": True}, "seed must be an integer, got True"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number, got nan"),
    ],
    ids=str,
)
def test_options_are_checked(digits, tmp_path, options, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        quick(digits, tmp_path, **options)
    assert "\n" not in str(caught.value) and not runs.names(tmp_path)


@pytest.mark.parametrize("part", ["train", "valid"])
def test_a_loss_that_is_no_number_is_said(part, tmp_path):
    images = {name: torch.rand(40, 1, 8, 8) for name in ("train", "valid", "test")}
    labels = {f"label_{name}": torch.arange(40) % 2 for name in images}
    data = pp.data.from_arrays(**{f"x_{name}": x for name, x in images.items()}, **labels)
    data.parts[part].x[3] = float("nan")
    which = {"train": "training", "valid": "validation"}[part]
    message = f"the {which} loss of the classifier became nan at learning_rate=0.001: lower it, or look for NaN in the"
    with pytest.raises(ValueError, match=message) as caught:
        quick(data, tmp_path)
    assert "\n" not in str(caught.value) and not runs.names(tmp_path)
