"""``pyro-priors encode`` and ``reconstruct``, and ``sample`` without the data."""

import shutil

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from PIL import Image

import pyro_priors as pp
from pyro_priors.cli import reconstruct
from pyro_priors.cli.main import main

TINY = ["--quiet", "--networks.hidden", "8", "--z-dim", "2", "--train.device", "cpu", "--train.max-epochs", "1"]
DIGITS = ["--data", "digits", "--data.limit", "64"]


def train(out, name, *more):
    assert main(["train", name, *TINY, *more, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("codes")
    train(folder / "vae", "vae", *DIGITS)
    train(folder / "cp", "cp_vae", *DIGITS, "--num-categories", "3")
    train(folder / "hvae", "hvae", *DIGITS, "--z1-dim", "3")
    train(folder / "halves", "cvae", *DIGITS, "--data.condition-rows", "4")
    train(folder / "moons", "vae", "--data", "moons", "--data.limit", "60")
    return folder


@pytest.fixture
def here(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    return tmp_path


def arrays_of(command, out, *arguments):
    assert main([command, *arguments, "--out", str(out)]) == 0
    with np.load(out) as arrays:
        return dict(arrays)


def one_line(capsys):
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and captured.out == "", captured
    return captured.err


# encode


@pytest.mark.parametrize(
    ("run", "options", "sites"),
    [("vae", {}, ["z"]), ("cp", {}, ["z"]), ("hvae", {}, ["z2", "z1"]), ("halves", {"condition_rows": 4}, ["z"])],
)
def test_encode_writes_the_posteriors(run, options, sites, here, capsys):
    found = arrays_of("encode", here / "codes.npz", run)
    data = pp.data.load("digits", limit=64, **options)
    expected = pp.load(run).eval().encode(data.test.x, data.test.condition)
    for site in sites:
        np.testing.assert_allclose(found[f"{site}_mean"], expected[site].mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found[f"{site}_scale"], expected[site].stddev, rtol=1e-5)
        assert (found[f"{site}_scale"] > 0).all()
    names = {f"{site}_{what}" for site in sites for what in ("mean", "scale")} | {"row", "label"}
    if run == "cp":
        names |= {"c_probs"}
        np.testing.assert_allclose(found["c_probs"], expected["c"].probs, rtol=1e-5)
        np.testing.assert_allclose(found["c_probs"].sum(1), 1, rtol=1e-5)
    assert found.keys() == names
    assert (found["row"] == np.arange(250)).all() and (found["label"] == data.test.label.numpy()).all()
    assert capsys.readouterr().out.startswith(f"250 examples in {here / 'codes.npz'}: ")


def test_a_split_and_a_number_are_chosen(here):
    data = pp.data.load("digits", limit=64)
    found = arrays_of("encode", here / "codes.npz", "vae", "--split", "valid", "--num", "7")
    expected = pp.load("vae").eval().encode(data.valid.x[:7])["z"]
    np.testing.assert_allclose(found["z_mean"], expected.mean, rtol=1e-5, atol=1e-6)
    assert (found["label"] == data.valid.label[:7].numpy()).all() and len(found["row"]) == 7


def test_batches_are_put_together_in_order(here, monkeypatch):
    whole = arrays_of("encode", here / "codes.npz", "cp")
    monkeypatch.setattr("pyro_priors.cli.opening.ROWS_AT_ONCE", 60)
    parts = arrays_of("encode", here / "codes.npz", "cp")
    assert whole.keys() == parts.keys()
    for name in whole:
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-5, atol=1e-6)


def test_training_images_are_binarized_once(here):
    found = arrays_of("reconstruct", here / "x.npz", "vae", "--split", "train")
    assert set(np.unique(found["x"])) == {0, 1} and len(found["x"]) == 64
    again = arrays_of("reconstruct", here / "y.npz", "vae", "--split", "train")
    assert (again["x"] == found["x"]).all()


def test_data_without_labels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("a.npz", x_train=np.random.default_rng(0).random((60, 4), np.float32))
    train("run", "vae", "--data", "a.npz")
    assert arrays_of("encode", "codes.npz", "run", "--num", "5").keys() == {"z_mean", "z_scale", "row"}


class NoMean(dist.Normal):
    @property
    def mean(self):
        raise NotImplementedError


class NoScale(dist.Normal):
    @property
    def variance(self):
        raise NotImplementedError


def test_posteriors_without_mean_or_scale(here, monkeypatch, capsys):
    def posterior(kind):
        return lambda self, x, condition=None: {"z": kind(torch.zeros(len(x), 2), torch.ones(len(x), 2)).to_event(1)}

    capsys.readouterr()
    monkeypatch.setattr(pp.Pair, "encode", posterior(NoMean))
    assert main(["encode", "vae", "--out", str(here / "codes.npz")]) == 2
    assert "the posterior of z (NoMean) has no mean: encode in Python, with pair.encode(x)" in one_line(capsys)
    assert not (here / "codes.npz").exists()
    monkeypatch.setattr(pp.Pair, "encode", posterior(NoScale))
    assert arrays_of("encode", here / "codes.npz", "vae").keys() == {"z_mean", "row", "label"}
    assert "z_scale is left out: the posterior of z has no standard deviation" in capsys.readouterr().err


# reconstruct


@pytest.mark.parametrize(("run", "options"), [("vae", {}), ("cp", {}), ("hvae", {}), ("halves", {"condition_rows": 4})])
def test_reconstruct_writes_the_means(run, options, here):
    found = arrays_of("reconstruct", here / "x.npz", run)
    data = pp.data.load("digits", limit=64, **options)
    expected = pp.load(run).eval().reconstruct(data.test.x, data.test.condition)
    np.testing.assert_allclose(found["reconstruction"], expected, rtol=1e-5, atol=1e-6)
    assert (found["x"] == data.test.x.numpy()).all() and (found["row"] == np.arange(250)).all()
    if run == "halves":
        assert (found["condition"] == data.test.condition.numpy()).all()
    assert found.keys() == {"x", "reconstruction", "row", "label", *(["condition"] if run == "halves" else [])}


@pytest.mark.parametrize(("num", "shown"), [([], 20), (["--num", "3"], 3), (["--num", "25"], 25)])
@pytest.mark.parametrize("run", ["vae", "halves"])
def test_reconstruct_draws_examples_above_reconstructions(run, num, shown, here, monkeypatch, capsys):
    drawn = []
    original = reconstruct._picture
    monkeypatch.setattr(reconstruct, "_picture", lambda *given: drawn.append(given) or original(*given))
    assert main(["reconstruct", run, "--out", str(here / "x.png"), *num]) == 0
    with Image.open(here / "x.png") as image:
        image.load()
        assert min(image.size) > 50
    ((images, means),) = drawn
    # with the condition, which is half of the image
    assert images.shape == means.shape == (shown, 1, 8, 8)
    assert set(images.unique().tolist()) == {0, 1} and not means.equal(images)
    assert capsys.readouterr().out.endswith(f"{shown} examples in {here / 'x.png'}\n")


def test_the_picture_has_each_example_above_its_reconstruction(monkeypatch):
    drawn = []
    monkeypatch.setattr("pyro_priors.plots.image_grid", lambda *given: drawn.append(given))
    images = torch.arange(12.0).reshape(12, 1, 1, 1) / 100
    reconstruct._picture(images, images + 0.5)
    ((grid, columns, _, labels),) = drawn
    assert columns == 10 and labels == ["data", "mean"] * 2
    rows = grid.flatten().reshape(4, 10)
    torch.testing.assert_close(rows[1], rows[0] + 0.5)
    torch.testing.assert_close(rows[2, :2], torch.tensor([0.10, 0.11]))
    torch.testing.assert_close(rows[3, :2], torch.tensor([0.60, 0.61]))
    assert (rows[2:, 2:] == 0.5).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("encode vae --out codes.png", "--out must end in .npz, got 'codes.png': give codes.npz"),
        ("encode vae --num 251", "--num is 251, but the test split of digits has 250 examples: give fewer"),
        ("encode vae --split tests", "--split must be one of train, valid, test, got 'tests'"),
        ("encode nothing", "nothing is not a run folder"),
        ("reconstruct vae --out x.jpg", "--out must end in .png or .npz, got 'x.jpg': give reconstructions.png"),
        ("reconstruct moons", "moons has no images to draw: write arrays with --out reconstructions.npz"),
        ("reconstruct vae --num 0", "--num must be a positive integer or None, got 0"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(arguments, message, folder, here, capsys):
    before = sorted(folder.rglob("*"))
    assert main(arguments.split()) == 2
    assert message in one_line(capsys)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("command", ["encode", "reconstruct"])
def test_an_interruption_writes_nothing(command, here, monkeypatch):
    def interrupt(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(pp.Pair, command, interrupt)
    assert main([command, "vae", "--out", str(here / "x.npz")]) == 130
    assert not list(here.iterdir())


# sample without the data


@pytest.fixture
def without_data(tmp_path, monkeypatch):
    """Unconditional runs on files that are gone."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for name, shape in (("flat", (9,)), ("odd", (5,)), ("image", (1, 8, 8)), ("color", (3, 4, 4))):
        np.savez(f"{name}.npz", x_train=draw.random((60, *shape), np.float32))
        more = ["--networks", "conv", "--data.no-flatten"] if name == "image" else []
        train(name, "cp_vae" if name == "flat" else "vae", "--data", f"{name}.npz", *more)
        (tmp_path / f"{name}.npz").unlink()
    return tmp_path


def test_an_unconditional_run_is_sampled_without_its_data(without_data, capsys):
    for name, size in (("flat", 9), ("odd", 5), ("image", 64), ("color", 48)):
        found = arrays_of("sample", without_data / "x.npz", name, "--num", "3")
        assert found["x_mean"].reshape(3, -1).shape == (3, size) and "z" in found
    assert arrays_of("sample", without_data / "x.npz", "flat", "--category", "aggregate")["c"].shape == (64,)
    capsys.readouterr()
    assert main(["sample", "image", "--out", "image.png"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["sample", "flat", "--out", "flat.png"]) == 0
    told = capsys.readouterr().err
    assert "the images are drawn with 3x3 pixels, without the data (" in told and "flat.npz, which" in told
    for name in ("image", "flat"):
        with Image.open(f"{name}.png") as image:
            image.load()
    assert main(["sample", "odd", "--out", "odd.png"]) == 2
    assert "the shape of the images is not known without the data (" in one_line(capsys)
    assert main(["sample", "flat", "--condition", "0", "--out", "x.npz"]) == 2
    assert "--condition 0: this pair takes no condition, leave it out" in one_line(capsys)
    assert main(["sample", "flat", "--grid", "label", "--out", "x.npz"]) == 2
    assert "--grid label needs a conditional pair" in one_line(capsys)


def test_the_samples_are_those_with_the_data(here, folder, monkeypatch):
    with_data = arrays_of("sample", here / "x.npz", "vae", "--data", "digits", "--num", "5")
    without = arrays_of("sample", here / "y.npz", "vae", "--num", "5")
    assert all((with_data[name] == without[name]).all() for name in with_data)
    monkeypatch.setattr("pyro_priors.data.load", None)
    assert (arrays_of("sample", here / "z.npz", "vae", "--num", "5")["x"] == without["x"]).all()


def test_a_conditional_run_needs_its_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    arrays = {f"{kind}_train": draw.random((60, size), np.float32) for kind, size in (("x", 4), ("condition", 2))}
    np.savez("a.npz", **arrays)
    train("run", "cvae", "--data", "a.npz")
    shutil.move("a.npz", "b.npz")
    capsys.readouterr()
    assert main(["sample", "run", "--out", "x.npz"]) == 2
    assert "a.npz, which run was trained on, is no longer there" in one_line(capsys)
    assert main(["sample", "run", "--out", "x.npz", "--data", "b.npz"]) == 0
