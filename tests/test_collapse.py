"""A pair whose categories collapse says so during the training, and one whose categories do not is silent."""

import math
import re
import warnings

import pytest
import torch
from torch import nn

import pyro_priors as pp
import runs
from pyro_priors.objectives import ELBO, Beta
from pyro_priors.training import collapse
from pyro_priors.training.collapse import CategoryUse

# 3 steps an epoch
OPTIONS = {"progress": False, "batch_size": 32, "learning_rate": 1e-2, "seed": 7, "compile": "never"}


@pytest.fixture(scope="module")
def digits():
    return runs.small_data(size=96)


@pytest.fixture
def early(monkeypatch):
    """Judge categories after two epochs at the full weight."""
    monkeypatch.setattr("pyro_priors.training.loop.STEPS_BEFORE", 6)


def in_one_category(pair):
    """The pair with a posterior that gives all examples to category 0, from where no gradient leads back."""
    last = [module for module in pair.guide.category.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        last.bias[0] += 60.0
    return pair


def caught(pair, data, objective=None, **options):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        pp.fit(pair, data, objective, **OPTIONS | options)
    return [str(one.message) for one in found if "collapsed" in str(one.message)]


@pytest.mark.parametrize("category", ["enumerated", "sparse", "relaxed"])
def test_one_category_for_all(digits, early, category):
    pair = in_one_category(runs.small_pair("cp_vae", digits, category=category))
    (line,) = caught(pair, digits, max_epochs=5)
    assert line == (
        "the categories of 'c' have collapsed: after epoch 1, the validation data use 1.0 of 10 categories (exp of the "
        "entropy of their mean posterior), and c tells 0.00 nats about x, of 2.30 at most: warm up its KL "
        "(warmup_epochs with warmup_sites=('c',)), or begin with pyro_priors.start_at_clusters and hold "
        "frozen=('guide.category',) at first"
    )


def test_all_categories_for_each(digits, early):
    """A KL that weighs too much: q(c|x) is the prior."""
    (line,) = caught(runs.small_pair("cp_vae", digits), digits, Beta(100.0), max_epochs=30)
    used, told = map(float, re.search(r"use ([\d.]+) of 10 .* tells ([\d.]+) nats", line).groups())
    assert used > 5 and told < 0.05 * math.log(10)


def test_the_warmup_comes_first(digits, early):
    pair = in_one_category(runs.small_pair("cp_vae", digits))
    assert re.search("after epoch 4,", caught(pair, digits, max_epochs=6, warmup_epochs=3)[0])
    pair = in_one_category(runs.small_pair("cp_vae", digits))
    held = {"frozen": ("guide.category",), "frozen_epochs": math.inf}
    assert caught(pair, digits, max_epochs=4, **held) == []


def test_nothing_is_said_of_short_trainings(digits):
    assert collapse.STEPS_BEFORE == 500
    assert caught(in_one_category(runs.small_pair("cp_vae", digits)), digits, max_epochs=10) == []


def test_categories_in_use_and_pairs_without_any_are_silent(early):
    data = runs.small_data(size=320)
    pair = runs.small_pair("cp_vae", data)
    options = {"max_epochs": 60, "warmup_epochs": 40, "warmup_sites": ("c",)}
    assert caught(pair, data, **options) == []
    posterior = pair.encode(data.valid.x)["c"].probs.double()
    entropy = torch.special.entr(posterior).sum(-1).mean()
    told = torch.special.entr(posterior.mean(0)).sum() - entropy
    assert told > 0.05 * math.log(10), "the categories do tell something"
    assert caught(runs.small_pair("vae", data), data, max_epochs=4) == []


def test_examples_of_known_labels_are_left_out(digits):
    pair, use, x = runs.small_pair("cp_vae", digits).eval(), CategoryUse(), digits.valid.x
    labels = torch.where(torch.arange(len(x)) < 30, torch.arange(len(x)) % 10, -1)
    with torch.no_grad():
        ELBO().terms(pair.model, use(pair.guide), x, labels)
        use.add()
        posterior = pair.encode(x[30:])["c"].probs.double()
    assert use.sums["c"][-1] == len(x) - 30
    torch.testing.assert_close(use.sums["c"][:10], posterior.sum(0), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("batches", [1, 3])
def test_the_numbers_by_hand(digits, batches):
    pair = runs.small_pair("cp_vae", digits).eval()
    for parameter in pair.guide.category.parameters():
        parameter.data.mul_(5.0)
    use, x = CategoryUse(), digits.valid.x
    with torch.no_grad():
        for part in x.chunk(batches):
            for _ in range(2):  # a repetition counts once
                ELBO().terms(pair.model, use(pair.guide), part)
            use.add()
        posterior = pair.encode(x)["c"].probs.double()
    *total, entropy, count = use.sums["c"]
    torch.testing.assert_close(torch.stack(total), posterior.sum(0), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(entropy, -(posterior * posterior.log()).sum(), rtol=1e-6, atol=1e-7)
    assert count == len(x) and use.sums.keys() == {"c"}


def use_of(probs):
    """What is seen of posteriors, shape ``(N, K)``."""
    use = CategoryUse()
    sums = probs.sum(0).double(), torch.special.entr(probs.double()).sum()[None], torch.tensor([float(len(probs))])
    use.sums = {"c": torch.cat(sums)}
    return use


@pytest.mark.parametrize(
    ("probs", "match"),
    [
        (torch.eye(10), None),
        (torch.full((9, 10), 0.1), "10.0 of 10 .* 0.00 nats"),
        (torch.eye(10)[[0, 1, 2]], None),
        (torch.eye(10)[[0, 1]], "2.0 of 10 .* 0.69 nats"),
        (torch.eye(2), None),
        (torch.eye(2)[[0, 0, 0]], "1.0 of 2 .* 0.00 nats"),
        (torch.ones(4, 1), None),
    ],
)
def test_what_counts_as_collapsed(probs, match):
    line = use_of(probs).warning(3, has_category=False)
    assert (line is None) == (match is None)
    if match:
        assert re.search(match, line) and "start_at_clusters" not in line


def test_processes_add_up():
    use = use_of(torch.eye(10)[[0, 1, 2, 3, 4]])
    assert use.warning(0, False, lambda sums: sums + use_of(torch.eye(10)[[5, 6]]).sums["c"]) is None
    line = use.warning(0, False, lambda sums: sums + use_of(torch.eye(10)[[0] * 500]).sums["c"])
    assert "1.1 of 10" in line
