"""Fidelity to a condition and diversity under one, of pairs and judges whose answers are known."""

import copy
import dataclasses
import math
import re

import pyro.distributions as dist
import pytest
import torch
import torch.nn as nn
from torch.testing import assert_close

import pyro_priors as pp
import runs
from pyro_priors.data import Part, Splits
from pyro_priors.metrics import (
    FEATURES,
    METRICS,
    ON_REQUEST,
    Features,
    condition_fidelity,
    diversity,
    evaluate,
    fidelity,
    frechet,
    image_distances,
    mean_pairwise_distance,
)
from pyro_priors.metrics.judges import weights_of

NAMES = ("first", "second", "third", "fourth")


class Shows(nn.Module):
    """A decoder whose image is the condition, but for what it forgets, with the code's noise in its last row.

    :param forgets: attributes that are never there
    """

    def __init__(self, forgets=(), noise=0.0):
        super().__init__()
        self.forgets, self.noise = forgets, noise if callable(noise) else lambda seen: noise

    def forward(self, z, condition=None):
        seen = condition.clone()
        for k in self.forgets:
            seen[..., k] = 0.0
        image = torch.cat([seen, self.noise(seen) * z[..., :4].tanh().abs()], -1)
        return dist.Normal(image.unflatten(-1, (1, 2, 4)), 0.1).to_event(3)


class Reads(nn.Module):
    """A judge that reads the condition off the image's first row."""

    def __init__(self, attributes):
        super().__init__()
        self.attributes = attributes

    def probabilities(self, x):
        return x.reshape(len(x), 2, 4)[:, 0]


def made(kind):
    torch.manual_seed(0)
    if kind == "label":
        label = torch.arange(40) % 4
        condition = torch.eye(4)[label]
    else:
        condition = (torch.rand(40, 4) < torch.tensor([0.5, 0.1, 0.9, 0.0])).float()
    x = torch.stack([condition, torch.rand(40, 4)], 1)[:, None]
    if kind == "label":
        part = Part(x, condition, label)
        options = {"num_labels": 4, "label_names": NAMES, "condition_of": "label"}
    else:
        part = Part(x, condition, attributes=condition)
        options = {"attribute_names": NAMES, "condition_of": "attributes"}
    return Splits("made", part, part, part, "gaussian", image_shape=(1, 2, 4), **options)


def pair_that(data, **options):
    shows = Shows(**options)
    return pp.create("sigma_cvae", x_shape=data.x_shape, condition_shape=(4,), z_dim=4, hidden=(5,), decoder=shows)


def test_labels_are_found_where_they_are_shown():
    data = made("label")
    found = condition_fidelity(pair_that(data), data, Reads(False))
    assert {name: value[0] for name, value in found.items()} == dict.fromkeys(found, 1.0)
    assert found.keys() == {
        f"fidelity{key}{suffix}" for key in ("", *(f"_{n}" for n in NAMES)) for suffix in ("", "_of_data")
    }
    found = condition_fidelity(pair_that(data, forgets=(2,)), data, Reads(False))
    assert found["fidelity"][0] == 0.75 and found["fidelity_third"][0] == 0.0 and found["fidelity_of_data"][0] == 1.0
    assert found["fidelity"][1] == pytest.approx(math.sqrt(0.75 * 0.25 / 40))


def test_rare_attributes_count_as_much_as_common_ones():
    """One that is never shown has a balanced accuracy of a half, however rare it is; one that no datum has has none."""
    data = made("attributes")
    found = condition_fidelity(pair_that(data, forgets=(1, 2)), data, Reads(True))
    assert found["fidelity_first"][0] == 1.0
    assert found["fidelity_second"][0] == found["fidelity_third"][0] == 0.5
    assert "fidelity_fourth" not in found and found["fidelity"][0] == pytest.approx(2 / 3)
    condition = data.test.condition
    plain = 1 - (condition[:, 1].mean() + condition[:, 2].mean()) / 4
    assert found["fidelity_plain"][0] == pytest.approx(plain.item()) and found["fidelity_of_data"][0] == 1.0


def test_the_error_of_a_fidelity_to_attributes_is_that_of_drawing_images_anew(float64):
    """What a judge finds in each image is drawn 3,000 times, rightness of one image's attributes tied together: the
    standard deviation of the fidelity is the standard error within 6% (that of 3,000 draws is known within 1.3)."""
    generator = torch.Generator().manual_seed(0)
    asked = torch.rand(300, 3, generator=generator) < torch.tensor([0.5, 0.2, 0.9])
    values, errors = [], []
    for _ in range(3000):
        blurred = torch.rand(300, 1, generator=generator) < 0.4  # then nothing of the image is sure
        sure = torch.where(blurred, 0.5, torch.tensor([0.99, 0.9, 0.95]))
        found = asked ^ (torch.rand(300, 3, generator=generator) > sure)
        judged = fidelity._of_attributes(found.double(), asked, NAMES[:3], torch.full((3,), 0.5))
        values.append([value for value, *_ in judged.values()])
        errors.append([error for _, error, _ in judged.values()])
    spread, told = torch.tensor(values).std(0), torch.tensor(errors).square().mean(0).sqrt()
    assert_close(told, spread, rtol=0.06, atol=0)
    alone = told[2:].square().sum().sqrt() / 3
    assert told[0] > 1.1 * alone  # of attributes that were independent


def test_what_is_there_in_one_image_only_has_no_standard_error():
    asked = torch.zeros(10, 2, dtype=torch.bool)
    asked[0, 0] = asked[:5, 1] = True
    found = fidelity._of_attributes(torch.rand(10, 2), asked, NAMES[:2], torch.tensor([0.1, 0.5]))
    assert found["_first"][1] is None and found[""][1] is None
    assert found["_second"][1] is not None and found["_plain"][1] is not None


def test_real_images_are_judged_from_the_part_that_is_asked_for():
    data = made("label")
    blank = dataclasses.replace(
        data, train=Part(torch.zeros_like(data.train.x), data.train.condition, data.train.label)
    )
    assert condition_fidelity(pair_that(data), blank, Reads(False))["fidelity_of_data"][0] == 1.0


def test_an_attribute_is_found_above_its_share_of_the_training_part():
    """Probabilities of a third of those that are there: below a half, above what is rare, below what is common."""
    data = made("attributes")
    share = data.train.condition.mean(0)
    reads = Reads(True)
    reads.probabilities = lambda x, read=reads.probabilities: 0.3 * read(x)
    found = condition_fidelity(pair_that(data), data, reads)
    for k, name in enumerate(NAMES[:3]):
        assert found[f"fidelity_{name}"][0] == (1.0 if share[k] < 0.3 else 0.5)
    assert found["fidelity_plain"][0] == pytest.approx(1 - share[:4].mean().item())
    assert 0 < share[1] < 0.3 < share[0]


def test_the_unit_names_the_weights_that_judged():
    data = made("label")
    units = [condition_fidelity(pair_that(data), data, judge)["fidelity"][2] for judge in (Reads(False), Reads(False))]
    assert units[0] == units[1] and re.fullmatch(r"share of images, by the classifier [0-9a-f]{8}", units[0])
    judges = [nn.Linear(2, 2), nn.Linear(2, 2)]
    assert weights_of(judges[0]) == weights_of(copy.deepcopy(judges[0])) != weights_of(judges[1])


def test_mean_pairwise_distance_by_hand(float64):
    x = torch.randn(3, 5, 4)
    for k in range(3):
        pairs = [(x[k, i] - x[k, j]).norm() for i in range(5) for j in range(5) if i != j]
        assert_close(mean_pairwise_distance(x)[k], sum(pairs) / 20)


@pytest.mark.parametrize("kind", ["label", "attributes"])
def test_diversity_is_what_varies_under_one_condition(kind):
    """0 for a pair that shows nothing but the condition; more for one that shows its noise."""
    data = made(kind)
    found = [diversity(pair_that(data, noise=noise), data, lambda x: x.flatten(1), "pixels") for noise in (0, 0.5, 1)]
    values = [one["diversity"][0] for one in found]
    assert values[0] == pytest.approx(0, abs=1e-6) and 0 < values[1] < values[2]
    assert found[0]["diversity_of_data"][0] > 0 and found[2]["diversity"][2] == "pixels"
    if kind == "label":  # within each class: all but the row of the condition
        rows = torch.stack([data.test.x[k::4].flatten(1) for k in range(4)])
        expected = mean_pairwise_distance(rows)
        assert found[0]["diversity_of_data"][0] == pytest.approx(expected.mean().item())
        assert [found[0][f"diversity_{name}_of_data"][0] for name in NAMES] == pytest.approx(expected.tolist())


def test_each_condition_has_a_diversity_of_its_own():
    """Of a pair whose images vary under one class alone; one of a single image in the data has none there."""
    data = made("label")
    test = data.test.take(torch.tensor([0, 1, 3, *range(4, 40, 4), *range(5, 40, 4), *range(7, 40, 4), 2]))
    data = dataclasses.replace(data, test=test)
    pair = pair_that(data, noise=1.0)
    pair.model.decoder.noise = lambda seen: seen[..., 1:2]
    found = diversity(pair, data, lambda x: x.flatten(1), "pixels")
    each = [found[f"diversity_{name}"][0] for name in NAMES]
    assert each[1] > 0.1 and each[0] == each[2] == each[3] == pytest.approx(0, abs=1e-6)
    assert found["diversity"][0] == pytest.approx(each[1] / 4)
    assert found["diversity"][1] == pytest.approx(torch.tensor(each).std().item() / 2)
    assert found.keys() - {f"diversity_{name}" for name in NAMES} == {
        "diversity",
        "diversity_of_data",
        *(f"diversity_{name}_of_data" for name in NAMES if name != "third"),
    }


def test_the_conditions_of_the_part_are_those_of_its_distances(monkeypatch):
    """Images that show their condition, and nothing else, are at the distance by hand from the real ones."""
    monkeypatch.setitem(FEATURES, "pixels", lambda data, device: Features("pixels", 8, lambda x: x.flatten(1)))
    data = made("label")
    data = dataclasses.replace(data, test=data.test.take(torch.tensor([*range(0, 40, 4), *range(1, 40, 4), 2, 3])))
    found = image_distances(pair_that(data), data, features="pixels")
    shown = torch.stack([data.test.condition, torch.zeros(22, 4)], 1)[:, None]
    assert found["frechet"][0] == pytest.approx(frechet(data.test.x.flatten(1), shown.flatten(1)), rel=1e-4)
    others = torch.stack([data.test.condition.roll(1, 1), torch.zeros(22, 4)], 1)[:, None]
    assert frechet(data.test.x.flatten(1), others.flatten(1)) > 0.3 + found["frechet"][0]


def test_conditions_without_names_are_refused():
    data = dataclasses.replace(made("label"), condition_of=None)
    with pytest.raises(ValueError, match="fidelity is to a condition that is a label or attributes, and that of made"):
        condition_fidelity(pair_that(data), data, Reads(False))
    with pytest.raises(ValueError, match="diversity is that of images under a label or attributes, and made has no"):
        diversity(pair_that(data), data, lambda x: x.flatten(1), "pixels")


def test_pairs_that_take_no_condition_are_evaluated_as_if_there_were_none(monkeypatch):
    """Gap, leakage and tenths of the prior's draws are the same where the data come with labels as a condition."""
    monkeypatch.setitem(FEATURES, "pixels", lambda data, device: Features("pixels", 64, lambda x: x.flatten(1)))
    given, plain = (runs.small_data(binarise="none", condition_labels=with_labels) for with_labels in (True, False))
    pair = runs.small_pair("sigma_vae", given)
    found, expected = (
        evaluate(pair, data, metrics=["prior_gap", "leakage", "generation"], features="pixels", progress=False)
        for data in (given, plain)
    )
    assert found == expected and {"symmetric_kl", "leaked_0.01", "frechet_low_posterior"} <= found.keys()


def test_both_are_metrics_that_are_asked_for(tmp_path, monkeypatch):
    """With the classifier of the data, trained once below the home; nothing for a pair without such a condition."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    data = runs.small_data(binarise="none", condition_labels=True)
    assert {"fidelity", "diversity"} <= METRICS.keys() and {"fidelity", "diversity"} <= set(ON_REQUEST)
    pair = runs.small_pair("sigma_cvae", data)
    found = evaluate(pair, data, metrics=["fidelity", "diversity", "scale"], progress=False)
    assert 0 <= found["fidelity"].value <= 1 and found["fidelity"].unit.startswith("share of images")
    assert found["fidelity_of_data"].value > found["fidelity"].value  # nothing is trained but the classifier
    assert found["diversity"].unit == "distance in features of classifier of digits"
    likelihood = pair.model.decoder.likelihood
    assert found["scale"].value == pytest.approx(likelihood.scale().item())
    plain = runs.small_data()
    with pytest.raises(ValueError, match="none of the metrics applies to this pair and its data"):
        evaluate(runs.small_pair("vae", plain), plain, metrics=["fidelity", "diversity", "scale"])


@pytest.mark.parametrize("scale", ["optimal", "learned", "per_channel", 0.7])
def test_the_scale_of_a_gaussian_is_told(scale):
    colour = torch.rand(3, 60, 3, 4, 4)
    data = pp.data.from_arrays(*colour, likelihood="gaussian")
    pair = runs.small_pair("sigma_vae", data, scale=scale)
    likelihood = pair.model.decoder.likelihood
    with torch.no_grad():
        if scale == "optimal":
            likelihood.squared_error.fill_(0.04)
        elif scale != 0.7:
            raw = likelihood.raw_scale
            raw.copy_(torch.tensor([0.1, 1.0, 3.0])[: raw.numel()].reshape(raw.shape))
    expected = {0.7: 0.7, "optimal": math.exp(-6) + 0.2, "learned": math.log1p(math.exp(0.1))}
    each = [math.log1p(math.exp(raw)) for raw in (0.1, 1.0, 3.0)]
    expected["per_channel"] = math.sqrt(sum(one**2 for one in each) / 3)
    found = evaluate(pair, data, metrics=["scale"], progress=False)["scale"]
    assert (
        found.value == pytest.approx(expected[scale], rel=1e-3)
        and found.unit == "standard deviation of p(x|z), units of x"
    )
