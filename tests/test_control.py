"""Samples under conditions asked for by name: what the names mean, and that nothing else changes than was asked."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import pyro_priors as pp
import runs
from pyro_priors import conditions
from pyro_priors.cli.main import main
from pyro_priors.data import Levels, Part, Splits

NAMES = ("Male", "Smiling", "Hat", "Beard")
KNOWN = torch.tensor([[0, 0, 0, 0], [1, 1, 0, 1], [0, 1, 1, 0], [1, 0, 0, 1], [0, 1, 0, 0]]).float()


def attributed():
    """Images of 2x3 with four attributes each; no training datum is male with a hat."""
    torch.manual_seed(0)
    parts = [Part(torch.rand(5, 6), KNOWN.clone(), attributes=KNOWN.clone()) for _ in range(3)]
    return Splits("made", *parts, "gaussian", image_shape=(1, 2, 3), attribute_names=NAMES, condition_of="attributes")


def labelled(**options):
    return runs.small_data(binarise="none", condition_labels=True, **options)


def pair_for(data, name="sigma_cvae_nf", **options):
    sizes = {"condition_hidden": (7,)} if name == "sigma_cvae_nf" else {}
    if name == "sigma_cvae_nf" and options.get("prior") != "gaussian":
        sizes["hidden_features"] = (5, 6)
    return runs.small_pair(name, data, **sizes, **options).eval()


# names


def test_texts_say_what_is_wanted():
    data = attributed()
    assert conditions.parse("Male=1, Smiling=-1,Hat=0", data) == {"Male": 1.0, "Smiling": 0.0, "Hat": 0.0}
    assert conditions.parse("label=7", labelled()) == {"7": 1.0}
    named = dataclasses.replace(labelled(), label_names=tuple("abcdefghij"))
    assert conditions.parse("label=c", named) == {"c": 1.0}
    assert data.condition_names == NAMES and labelled().condition_names == tuple("0123456789")
    assert runs.small_data(condition_rows=4).condition_names is None


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("attributes", "Smilling=1", "attribute 'Smilling' is unknown: did you mean 'Smiling'?"),
        ("attributes", "xyz=1", "attribute 'xyz' is unknown: choose one of Male, Smiling, Hat, Beard"),
        ("attributes", "Male=2", r"attribute Male must be 1 \(there\) or 0 or -1 \(not there\), got '2'"),
        ("attributes", "Male", "condition 'Male' must be NAME=VALUE, such as Beard=1"),
        ("attributes", ",", "condition ',' must name at least one attribute"),
        ("attributes", "Male=1,Hat=1, Male=0", "condition 'Male=1,Hat=1, Male=0' names Male twice: name it once"),
        ("label", "label=1,label=1", "condition 'label=1,label=1' names 1 twice: name it once"),
        ("label", "label=11", "condition label '11' is unknown: choose one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"),
        ("label", "digit=1", "condition 'digit' is unknown: give label=CLASS"),
        ("label", "label=1,label=2", "condition 'label=1,label=2' must name one label"),
        ("label", "3", "condition '3' must be NAME=VALUE, such as label=9"),
        ("rows", "Male=1", "the condition of digits has no names, as labels and attributes"),
    ],
)
def test_mistakes_are_told_with_the_nearest_name(kind, text, message):
    data = {"attributes": attributed, "label": labelled, "rows": lambda: runs.small_data(condition_rows=4)}[kind]()
    with pytest.raises(ValueError, match=message) as caught:
        conditions.parse(text, data)
    assert "\n" not in str(caught.value)


def test_other_attributes_are_those_of_data_that_have_what_is_wanted():
    """In turn over all that do; where none has all of it, over those that have most of it, with the rest set."""
    data = attributed()
    found = conditions.condition_of({"Male": 1.0}, data, 3)
    assert torch.equal(found, KNOWN[[1, 3, 1]])
    assert torch.equal(conditions.condition_of({"Smiling": 1.0, "Male": 0.0}, data, 2), KNOWN[[2, 4]])
    found = conditions.condition_of({"Male": 1.0, "Hat": 1.0}, data, 3)  # of a man without, or another with, a hat
    assert torch.equal(found[:, 1], KNOWN[[1, 2, 3], 1]) and found[:, [0, 2]].all()
    assert torch.equal(data.train.condition, KNOWN)
    found = conditions.condition_of({"7": 1.0}, labelled(), 2)
    assert torch.equal(found, torch.eye(10)[[7, 7]])


# pictures


def test_several_conditions_come_in_turn():
    data = labelled()
    made = conditions.asked(pair_for(data), data, ["label=3", "label=5"], 5)
    assert made.condition.argmax(1).tolist() == [3, 5, 3, 5, 3]
    assert made.sites["x_mean"].shape == (5, 64)


def test_a_grid_varies_what_it_names_and_nothing_else():
    """All combinations, the same noise and the same other attributes in each row."""
    data = attributed()
    pair = pair_for(data, "sigma_cvae", prior="standard")
    torch.manual_seed(3)
    made = conditions.grid(pair, data, ["Smiling", "Hat"], "Male=1", num_columns=3)
    assert made.row_labels == ("-Smiling -Hat", "-Smiling +Hat", "+Smiling -Hat", "+Smiling +Hat")
    rows = made.condition.reshape(4, 3, 4)
    assert rows[:, :, 1:3].tolist() == [[[0, 0]] * 3, [[0, 1]] * 3, [[1, 0]] * 3, [[1, 1]] * 3]
    assert rows[:, :, 0].all() and torch.equal(rows[:, :, 3], rows[:1, :, 3].expand(4, 3))
    z = made.sites["z"].reshape(4, 3, -1)
    assert torch.equal(z, z[:1].expand_as(z)) and not torch.equal(z[0, 0], z[0, 1])
    made = conditions.grid(pair_for(labelled()), labelled(), ["label"], num_columns=2)
    assert torch.equal(made.condition, torch.eye(10).repeat_interleave(2, 0)) and made.row_labels[4] == "4"


@pytest.mark.parametrize(
    ("names", "text", "message"),
    [
        (["Male", "Hat", "Male"], "", "a grid varies an attribute once, got Male twice: leave one out"),
        (
            ["Hat", "Male"],
            "Male=1",
            "a grid over Male has rows with and without, got 'Male=1' for all: leave it out of",
        ),
    ],
)
def test_a_grid_is_asked_for_each_attribute_once(names, text, message):
    data = attributed()
    with pytest.raises(ValueError, match=message) as caught:
        conditions.grid(pair_for(data), data, names, text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("picture", ["grid", "between"])
def test_pictures_leave_the_generator_where_one_draw_does(picture):
    """Only the seed of the noise is drawn from torch's generator: two pictures in turn have two noises."""
    data = labelled()
    pair = pair_for(data, "sigma_cvae", prior="standard")
    asked = (["label"],) if picture == "grid" else ("label=3", "label=5")
    torch.manual_seed(4)
    torch.randint(2**31, ())
    expected = torch.get_rng_state()
    torch.manual_seed(4)
    first = getattr(conditions, picture)(pair, data, *asked).sites["z"]
    assert torch.equal(torch.get_rng_state(), expected)
    assert not torch.equal(getattr(conditions, picture)(pair, data, *asked).sites["z"], first)


def test_steps_between_two_conditions():
    data = labelled()
    made = conditions.between(pair_for(data), data, "label=3", "label=5", num_rows=2, steps=5)
    condition = made.condition.reshape(2, 5, 10)
    assert made.num_columns == 5
    for row in condition:
        assert_close(row[:, 3], torch.linspace(1, 0, 5))
        assert_close(row[:, 5], torch.linspace(0, 1, 5))
        assert_close(row.sum(1), torch.ones(5))
    data = attributed()
    made = conditions.between(pair_for(data), data, "Male=1", "Hat=1", num_rows=2, steps=3)
    assert torch.equal(made.condition.reshape(2, 3, 4)[:, :, 0], torch.ones(2, 3))  # what the end leaves unnamed stays
    assert_close(made.condition.reshape(2, 3, 4)[:, :, 2], torch.tensor([[0.0, 0.5, 1.0]] * 2))
    with pytest.raises(ValueError, match="steps must be at least 2, the two ends, got 1"):
        conditions.between(pair_for(data), data, "Male=1", "Hat=1", steps=1)


def test_between_and_grids_have_one_noise_along_a_line():
    data = labelled()
    pair = pair_for(data, "sigma_cvae", prior="standard")
    z = conditions.between(pair, data, "label=3", "label=5", num_rows=2, steps=5).sites["z"].reshape(2, 5, -1)
    assert torch.equal(z, z[:, :1].expand_as(z)) and not torch.equal(z[0], z[1])


def test_data_are_edited_from_their_own_code():
    """In rows of three: as it is, reconstructed, and decoded from the same code under the new condition."""
    data = attributed()
    pair = pair_for(data)
    made = conditions.edited(pair, data, [2, 0], "Male=1")
    images, condition = made.sites["x_mean"].reshape(2, 3, 6), made.condition.reshape(2, 3, 4)
    x, known = data.test.x[[2, 0]], KNOWN[[2, 0]]
    assert torch.equal(images[:, 0], x) and torch.equal(condition[:, 1], known)
    assert_close(images[:, 1], pair.reconstruct(x, known))
    new = known.clone()
    new[:, 0] = 1
    assert torch.equal(condition[:, 2], new)
    z = pair.encode(x, known)["z"].mean
    assert_close(images[:, 2], pair.sample(2, new, z=z)["x_mean"])
    moved = conditions.edited(pair, data, [2, 0], "Male=1", transport=True).sites["x_mean"].reshape(2, 3, 6)
    assert torch.equal(moved[:, :2], images[:, :2]) and not torch.allclose(moved[:, 2], images[:, 2])
    with pytest.raises(ValueError, match=r"rows to edit \(--edit\) must be of the test part, 0 to 4, got 5"):
        conditions.edited(pair, data, [5], "Male=1")


def test_images_kept_as_bytes_are_edited_too():
    """As the faces are: the same as of floats."""
    data = attributed()
    levels = Levels((255 * data.test.x).round().byte())
    pair, kept = pair_for(data), dataclasses.replace(data, test=dataclasses.replace(data.test, x=levels))
    floats = dataclasses.replace(data, test=dataclasses.replace(data.test, x=levels[:]))
    made, expected = (conditions.edited(pair, one, [2, 0], "Male=1").sites["x_mean"] for one in (kept, floats))
    assert torch.equal(made, expected)


@pytest.mark.parametrize(
    "options",
    [
        {"transform": "joint_affine_coupling", "condition_transforms": True},
        {"transform": "additive_coupling", "condition_transforms": True},
        {"transform": "spline_coupling", "condition_transforms": True},
        {"prior": "gaussian"},
    ],
    ids=lambda options: next(iter(options.values())),
)
def test_a_moved_code_keeps_its_place_in_the_prior(options):
    """The noise that a code has under one condition it has under the other: a sample of the first is moved to the
    sample of the second at the same seed; back is the identity."""
    data = attributed()
    pair = pair_for(data, **options)
    for parameter in pair.model.prior.parameters():
        torch.nn.init.normal_(parameter, 0, 0.3)
    one, other = KNOWN[:3], KNOWN[2:]
    z = []
    for condition in (one, other):
        torch.manual_seed(1)
        z.append(pair.sample(3, condition)["z"])
    assert_close(conditions.moved(pair, z[0], one, other), z[1], rtol=1e-4, atol=1e-5)
    assert_close(conditions.moved(pair, z[0], one, one), z[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(*z, atol=1e-2)


def test_codes_of_other_priors_stay_or_are_refused():
    data = attributed()
    z = torch.randn(5, 2)
    assert conditions.moved(pair_for(data, "sigma_cvae", prior="mixture", num_components=3), z, KNOWN, KNOWN) is z
    pair = runs.small_pair("cmog_cvae", data, num_components=3)
    with pytest.raises(ValueError, match="a code is moved along a Gaussian prior, .* is GaussianMixture: leave"):
        conditions.moved(pair, z, KNOWN, KNOWN)


def test_mistakes_from_python():
    data, pair = labelled(), pair_for(labelled())
    unconditional = runs.small_pair("sigma_vae", data)
    for call in (
        lambda pair, data: conditions.asked(pair, data, ["label=3"], 2),
        lambda pair, data: conditions.grid(pair, data, ["label"]),
        lambda pair, data: conditions.between(pair, data, "label=3", "label=5"),
        lambda pair, data: conditions.edited(pair, data, [0], "label=3"),
    ):
        with pytest.raises(ValueError, match="this pair takes no condition: make a conditional one, such as sigma"):
            call(unconditional, data)
        with pytest.raises(ValueError, match="digits has no condition: load it as in training, with condition_labels"):
            call(pair, runs.small_data(binarise="none"))
    for message, call in {
        r"num must be a positive integer, got 0": lambda: conditions.asked(pair, data, ["label=3"], 0),
        r"texts must hold at least one text, got none": lambda: conditions.asked(pair, data, [], 2),
        r"texts must be a tuple of strings, got 'label=3' \(for example, \('label=3',\)\)": lambda: conditions.asked(
            pair, data, "label=3", 2
        ),
        r"names must be a tuple of strings, got 'label'": lambda: conditions.grid(pair, data, "label"),
        r"names must hold at least one text, got none": lambda: conditions.grid(pair, data, []),
        r"num_columns must be a positive integer, got 0": lambda: conditions.grid(pair, data, ["label"], num_columns=0),
        r"num_rows must be a pos.*, got 0": lambda: conditions.between(pair, data, "label=3", "label=5", num_rows=0),
        r"steps must be at least 2, .* got 1": lambda: conditions.between(pair, data, "label=3", "label=5", steps=1),
        r"rows to edit .* 0 to 39, got none": lambda: conditions.edited(pair, data, [], "label=3"),
        r"for class numbers, .*one_hot\(condition, 10\)": lambda: pair.sample(3, torch.tensor([3, 4, 5])),
    }.items():
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_columns_of_pictures_are_named():
    data, pair = labelled(), pair_for(labelled())
    assert conditions.edited(pair, data, [0], "label=3").column_labels == ("data", "reconstruction", "label=3")
    assert conditions.between(pair, data, "label=3", "label=5", steps=4).column_labels == ("label=3", "", "", "label=5")


# from the command line


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("control") / "run"
    options = "--data.condition-labels --data.binarise none --data.limit 96 --train.max-epochs 1 --z-dim 2"
    assert main(f"train sigma_cvae_nf --data digits --out {folder} --quiet {options}".split()) == 0
    return folder


@pytest.mark.parametrize(
    ("arguments", "num"),
    [
        ("--condition label=3 --num 5", 5),
        ("--condition 0 1 --num 5", 5),
        ("--grid label", 80),
        ("--condition label=3 --to label=5 --num 16", 16),
        ("--condition label=3 --edit 0 4", 6),
        ("--condition label=3 --edit 0 4 --transport", 6),
    ],
)
def test_samples_on_the_command_line(run, tmp_path, arguments, num, capsys):
    assert main(["sample", str(run), "--out", str(tmp_path / "s.npz"), *arguments.split()]) == 0
    arrays = np.load(tmp_path / "s.npz")
    assert arrays["x_mean"].shape == (num, 64) and arrays["condition"].shape == (num, 10)
    assert main(["sample", str(run), "--out", str(tmp_path / "s.png"), *arguments.split()]) == 0
    assert (tmp_path / "s.png").stat().st_size > 1000
    assert f"{num} samples in" in capsys.readouterr().out


def test_evaluation_of_what_is_controlled(run, tmp_path, monkeypatch, capsys):
    """What real images have is beside what generated ones have; another network replaces what is in its features."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert main(["evaluate", str(run), "--metrics", "fidelity", "diversity", "scale"]) == 0
    lines = capsys.readouterr().out.splitlines()
    record = json.loads((run / "evaluation.json").read_text())
    metrics = record["metrics"]
    (line,) = (line for line in lines if line.startswith("  fidelity_3 "))
    assert f"{metrics['fidelity_3']['value']:.4f}" in line
    assert f"of data {metrics['fidelity_3_of_data']['value']:.4f}; share of images" in line
    assert not any(line.startswith("  fidelity_3_of_data") for line in lines) and len(lines) == 1 + 11 + 11 + 1
    assert main(["evaluate", str(run), "--metrics", "generation", "--features", "classifier"]) == 0
    new = json.loads((run / "evaluation.json").read_text())
    assert "has no more (test part, seed 0, features auto): diversity\n" in capsys.readouterr().out
    assert new["asked"] == ["fidelity", "generation", "scale"] and new["features"] == "classifier"
    assert (
        "diversity" not in new["metrics"]
        and "diversity_3" not in new["metrics"]
        and new["metrics"]["fidelity_3"] == metrics["fidelity_3"]
    )


def test_edited_codes_move_where_that_is_asked_for(run, tmp_path):
    made = []
    for i, how in enumerate(([], ["--transport"])):
        out = str(tmp_path / f"{i}.npz")
        assert main(["sample", str(run), "--out", out, "--condition", "label=3", "--edit", "0", "4", *how]) == 0
        made.append(np.load(out)["x_mean"].reshape(2, 3, 64))
    assert (made[0][:, :2] == made[1][:, :2]).all() and (made[0][:, 2] != made[1][:, 2]).any(-1).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--condition label=33", "label '33' is unknown: choose one of 0, 1, 2"),
        ("--condition label=3 4", "--condition label=3 4: rows of the test part, and names, are two ways: choose one"),
        ("--condition label=3 --edit 0 3000", "rows to edit (--edit) must be of the test part, 0 to 249, got 0 3000"),
        ("--condition label=3 --to label=3", "from 'label=3' to 'label=3' nothing changes: ask for another"),
        ("--grid lable", "a grid over the classes of digits is 'label', got lable"),
        ("--grid label --condition label=3", "a grid over the classes leaves nothing else to ask for, got 'label=3'"),
        ("--grid label --edit 0", "--grid and --edit are two pictures: choose one of them"),
        ("--edit 0", "--edit 0 needs one --condition by name or value: give one, such as label=9"),
        (
            "--to label=3 --condition 0",
            "--to label=3 needs one --condition by name or value: give one, such as label=9",
        ),
        ("--condition label=3 --transport", "--transport belongs to --edit"),
        ("--condition 3 250", "--condition must be rows of the test part, 0 to 249, got 3 250"),
    ],
)
def test_mistakes_on_the_command_line(run, arguments, message, capsys):
    assert main(["sample", str(run), *arguments.split()]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--condition label=3", "--condition label=3: this pair takes no condition, leave it out"),
        ("--condition 3", "--condition 3: this pair takes no condition, leave it out"),
        (
            "--grid label",
            "--grid label needs a conditional pair, and this one takes no condition: train one, such as sig",
        ),
        ("--condition label=3 --edit 0", "--edit 0 needs a conditional pair, and this one takes no condition"),
    ],
)
def test_a_pair_without_a_condition_is_asked_for_none(arguments, message, tmp_path, capsys):
    """Though its data have one."""
    data = pp.data.load("digits", limit=96, binarise="none", condition_labels=True)
    pair = runs.small_pair("sigma_vae", data)
    pp.fit(pair, data, max_epochs=1, out=tmp_path / "run", progress=False)
    assert main(["sample", str(tmp_path / "run"), *arguments.split()]) == 2
    assert message in capsys.readouterr().err
    with pytest.raises(ValueError, match="none of the metrics applies to this pair and its data"):
        pp.metrics.evaluate(pair, data, metrics=["fidelity", "diversity"], progress=False)
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run"), "--metrics", "fidelity"]) == 2
    assert "leave out fidelity (needs a conditional pair of images, whose" in capsys.readouterr().err
    with pytest.raises(ValueError, match="fidelity is to a condition, and this pair takes none"):
        pp.metrics.condition_fidelity(pair, data, None)


def test_conditions_without_names_are_given_by_value():
    data = pp.data.load("one_to_many", limit=20)
    pair = pair_for(data, "cdv_cvae", likelihood="gaussian", num_components=2)
    made = conditions.asked(pair, data, ["0.5", "2.5"], 5)
    assert made.condition.tolist() == [[0.5], [2.5], [0.5], [2.5], [0.5]]
    with pytest.raises(ValueError, match="the condition of one_to_many has 1 values: give that many"):
        conditions.asked(pair, data, ["0.5,2.5"], 5)
    with pytest.raises(ValueError, match="has no names.*or give its values, such as 0.5"):
        conditions.asked(pair, data, ["Male=1"], 5)
    line = conditions.between(pair, data, "0.5", "2.5", num_rows=2, steps=3)
    assert line.condition.tolist() == [[0.5], [1.5], [2.5]] * 2
    made = conditions.edited(pair, data, [1, 0], "2.5")
    assert torch.equal(made.condition.reshape(2, 3)[:, 0], data.test.condition[[1, 0], 0])
    assert made.condition.reshape(2, 3)[:, 2].tolist() == [2.5, 2.5]
    with pytest.raises(
        ValueError, match="a grid is over labels or attributes, and the condition of one_to_many has no"
    ):
        conditions.grid(pair, data, ["label"])
