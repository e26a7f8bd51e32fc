"""SVHN and CelebA: the official forms made up, the subsets where there are any, and images kept as bytes."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import pyro_priors as pp
from pyro_priors.data import DataConfig, Levels, Part, Splits, batches, load
from pyro_priors.data.arrange import arrange

# bytes that come out as floats


def test_levels_come_out_as_floats():
    k = torch.arange(256, dtype=torch.uint8).reshape(16, 4, 4)
    x = Levels(k)
    assert len(x) == 16 and x.shape == (16, 4, 4) and x.device.type == "cpu"
    floats = k.float() / 255
    for index in (3, slice(2, 5), torch.tensor([5, 1]), (slice(None), slice(1, 2))):
        assert_close(x[index], floats[index], rtol=0, atol=0)
    assert_close(x.index_select(0, torch.tensor([4, 4])), floats[[4, 4]])
    assert_close(torch.cat(list(x.split(5))), floats)
    assert_close(x.flatten(1)[:], floats.flatten(1))
    assert_close(x.to(torch.empty(0, dtype=torch.float64))[:2], k[:2].double() / 255)
    with pytest.raises(ValueError, match="levels must be uint8, got torch.float32"):
        Levels(floats)


def test_batches_of_levels_are_those_of_floats():
    k = torch.randint(256, (23, 1, 3, 3), dtype=torch.uint8)
    found, wanted = (
        batches(Part(x), 5, seed=1, epoch=2, shuffle=shuffle)
        for x, shuffle in ((Levels(k), True), (k.float() / 255, True))
    )
    for (x, _), (other, _) in zip(found, wanted, strict=True):
        assert x.dtype == torch.float32 and torch.equal(x, other)
    assert torch.equal(torch.cat([x for x, _ in batches(Part(Levels(k)), 5, seed=0, epoch=0, shuffle=False)]), k / 255)


def _levels(num, seed):
    generator = torch.Generator().manual_seed(seed)
    return Levels(torch.randint(256, (num, 3, 4, 4), dtype=torch.uint8, generator=generator))


def _splits():
    parts = [
        Part(_levels(num, num), label=torch.arange(num) % 2, attributes=torch.eye(2)[torch.arange(num) % 2])
        for num in (40, 10, 10)
    ]
    return Splits("made", *parts, likelihood="gaussian", image_shape=(3, 4, 4), attribute_names=("even", "odd"))


def test_options_on_levels():
    """Cut, flattened and shortened they stay bytes; attributes are the condition where there are no labels."""
    splits = _splits()
    cut = arrange(splits, DataConfig(condition_rows=1, limit=7))
    assert cut.x_shape == (36,) and cut.condition_shape == (12,) and len(cut.train) == 7
    assert isinstance(cut.train.x, Levels) and isinstance(cut.train.condition, Levels)
    x = splits.train.x[:7]
    assert_close(cut.train.x[:], x[:, :, :3].flatten(1))
    assert_close(cut.train.condition[:], x[:, :, 3:].flatten(1))
    assert cut.train.label.shape == (7,) and cut.train.attributes.shape == (7, 2)
    given = arrange(splits, DataConfig(condition_labels=True, flatten=False))
    assert given.condition_shape == (2,) and torch.equal(given.test.condition, given.test.attributes)
    assert given.x_shape == (3, 4, 4) and "the attributes are the condition" in given.source
    assert "attributes (2,)" in repr(given.train)


@pytest.mark.parametrize("likelihood", ["gaussian", "discretised_logistic"])
def test_a_pair_trained_on_levels_is_that_of_floats(likelihood, tmp_path):
    """The same bits; evaluation and figures read them too."""
    splits = _splits()
    floats = [Part(part.x[:], label=part.label) for part in splits.parts.values()]
    by = {}
    for name, data in (("levels", splits), ("floats", Splits("made", *floats, "gaussian", (3, 4, 4)))):
        torch.manual_seed(0)
        pair = pp.create("vae", x_shape=(3, 4, 4), z_dim=2, hidden=(5,), likelihood=likelihood)
        pp.fit(pair, data, max_epochs=2, batch_size=16, warmup_epochs=1, warmup_sites=("z",), progress=False)
        found = pp.metrics.evaluate(pair, data, num_samples=3, progress=False)
        assert pp.plots.figures(pair, data, [], tmp_path / name)
        by[name] = [*pair.state_dict().values()], found
    for one, other in zip(by["levels"][0], by["floats"][0], strict=True):
        assert torch.equal(one, other)
    assert by["levels"][1] == by["floats"][1]


def test_a_pair_asks_for_rows_of_levels():
    pair, x = pp.create("vae", x_shape=(3, 4, 4), z_dim=2, hidden=(5,), likelihood="gaussian"), _splits().test.x
    with pytest.raises(ValueError, match=r"x must be a tensor, got Levels: give some rows, x\[:1000\]"):
        pair.encode(x)
    assert pair.encode(x[:3])["z"].batch_shape == (3,)


# SVHN


def _mat(folder, part, num):
    from scipy.io import savemat

    folder.mkdir(parents=True, exist_ok=True)
    images = np.zeros((32, 32, 3, num), np.uint8)
    images[0, 1] = np.arange(num) % 256  # row 0, column 1, all channels
    images[:, :, 2] = 7
    savemat(folder / f"{part}_32x32.mat", {"X": images, "y": (np.arange(num) % 10 + 1)[:, None].astype(np.uint8)})


def test_official_svhn(tmp_path):
    """Channels first, digit 0 where the label is 10, the last tenth of train for validation."""
    _mat(tmp_path / "svhn", "train", 61)
    _mat(tmp_path / "svhn", "test", 20)
    splits = load("svhn", root=str(tmp_path), flatten=False)
    assert "official files" in splits.source and "54/7/20 images" in splits.source and "\n" not in splits.source
    assert splits.image_shape == splits.x_shape == (3, 32, 32) and splits.num_labels == 10
    assert splits.likelihood == "gaussian" and not splits.binarise
    for part, first in ((splits.train, 0), (splits.valid, 54), (splits.test, 0)):
        number = torch.arange(first, first + len(part))
        assert torch.equal(part.label, (number + 1) % 10)
        assert_close(part.x[:][:, :2, 0, 1], (number / 255)[:, None].expand(-1, 2))
        assert (part.x[:][:, 2] == 7 / 255).all() and (part.x[:][:, 0, 1] == 0).all()
    assert load("svhn", root=str(tmp_path)).x_shape == (3072,)


def _svhn_subset(folder, num=50, **changed):
    folder.mkdir(exist_ok=True)
    images = np.repeat(np.arange(num, dtype=np.uint8), 3072).reshape(num, 32, 32, 3)
    np.savez(folder / "svhn_10k.npz", **{"images": images, "labels": np.arange(num) % 10} | changed)


def test_svhn_subset(tmp_path):
    _svhn_subset(tmp_path / "svhn")
    splits = load("svhn", root=str(tmp_path))
    assert "svhn_10k.npz, a subset" in splits.source and "split in its order, 40/5/5 images" in splits.source
    values = torch.cat([part.x[:][:, 0] for part in splits.parts.values()])
    assert_close(values, torch.arange(50) / 255)


def test_svhn_errors(tmp_path, monkeypatch):
    import torchvision.datasets

    def refuses(error, message):
        with pytest.raises(error, match=message) as caught:
            load("svhn", root=str(tmp_path))
        assert "\n" not in str(caught.value)

    def offline(*args, **kwargs):
        raise RuntimeError("no network")

    monkeypatch.setattr(torchvision.datasets, "SVHN", offline)
    refuses(
        FileNotFoundError, r"svhn: neither found in .*svhn nor downloaded \(no network\): put train_32x32.mat .*root"
    )
    _svhn_subset(tmp_path / "svhn", labels=np.full(50, 10))
    refuses(ValueError, r"svhn_10k.npz: not readable as images and labels of SVHN \(labels from 10 to 10\): replace it")
    _svhn_subset(tmp_path / "svhn", images=np.zeros((50, 28, 28), np.uint8))
    refuses(ValueError, r"svhn_10k.npz: .*uint8 images of shape \(50, 28, 28\) with 50 labels")
    (tmp_path / "svhn/svhn_10k.npz").write_bytes(b"hello")
    refuses(ValueError, r"svhn_10k.npz: not readable")
    _mat(tmp_path / "svhn", "test", 20)
    (tmp_path / "svhn/train_32x32.mat").write_bytes(b"hello")
    refuses(ValueError, r"train_32x32.mat: not readable as SVHN's 'X' and 'y'")


# CelebA


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Decoded arrays go to a home of the test's own."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("PYRO_PRIORS_CACHE", raising=False)
    return tmp_path / "home/.cache/pyro_priors/decoded"


NAMES = tuple(f"A{i}" for i in range(40))


def _celeba(root, num=20, size=(178, 218), official=False):
    """Grey faces whose level is their number within a white border of 15 pixels; two images for each person."""
    from PIL import Image

    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True, exist_ok=True)
    files = [f"{i + 1:06}.jpg" for i in range(num)]
    border = (size[0] - round(148 / 178 * size[0])) // 2
    for i, name in enumerate(files):
        image = np.full((size[1], size[0], 3), 10 * i, np.uint8)
        image[:, :border] = image[:, -border:] = 255
        Image.fromarray(image).save(folder / "img_align_celeba" / name, quality=100)
    rows = [" ".join("1" if (i + j) % 3 == 0 else "-1" for j in range(40)) for i in range(num)]
    lines = [str(num), " ".join(NAMES), *(f"{name}  {row}" for name, row in zip(files, rows, strict=True))]
    (folder / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    (folder / "identity_CelebA.txt").write_text("".join(f"{name} {i // 2 + 7}\n" for i, name in enumerate(files)))
    if official:
        part_of = [0] * (num - 4) + [1, 1, 2, 2]
        text = "".join(f"{name} {part}\n" for name, part in zip(files, part_of, strict=True))
        (folder / "list_eval_partition.txt").write_text(text)
    return folder


@pytest.mark.parametrize("size", [(178, 218), (89, 109)], ids=["full", "half"])
def test_celeba_is_split_by_identity(tmp_path, home, size):
    _celeba(tmp_path, size=size)
    splits = load("celeba", root=str(tmp_path), flatten=False)
    assert f"20 aligned images of {size[0]}x{size[1]}" in splits.source and "16/2/2 images" in splits.source
    assert "a tenth of the identities each" in splits.source and "\n" not in splits.source
    assert splits.x_shape == splits.image_shape == (3, 64, 64) and splits.attribute_names == NAMES
    assert splits.condition_shape is None and splits.num_labels is None and splits.likelihood == "gaussian"
    people = []
    for part in splits.parts.values():
        x = part.x[:]
        number = (x[:, 0, 32, 32] * 25.5).round().long()
        assert (x - number[:, None, None, None] / 25.5).abs().max() < 0.15  # no white border, up to JPEG's errors
        wanted = torch.tensor([[(i + j) % 3 == 0 for j in range(40)] for i in number.tolist()]).float()
        assert torch.equal(part.attributes, wanted)
        people.append(set((number // 2).tolist()))
    assert [len(one) for one in people] == [8, 1, 1] and len(set.union(*people)) == 10
    other = load("celeba", root=str(tmp_path), seed=1)
    assert other.x_shape == (12288,) and not torch.equal(other.test.attributes, splits.test.attributes)
    given = load("celeba", root=str(tmp_path), condition_labels=True)
    assert given.condition_shape == (40,) and torch.equal(given.train.condition, splits.train.attributes)


def test_the_official_parts_are_0_for_training_1_for_validation_and_2_for_the_test(tmp_path, home):
    folder = _celeba(tmp_path, official=True)
    lines = [f"{i + 1:06}.jpg {part}" for i, part in enumerate([2] * 3 + [0] * 12 + [1] * 5)]
    (folder / "list_eval_partition.txt").write_text("\n".join(lines))
    splits = load("celeba", root=str(tmp_path), flatten=False)
    seen = {name: (part.x[:, 0, 32, 32] * 25.5).round().tolist() for name, part in splits.parts.items()}
    assert seen == {"train": [*range(3, 15)], "valid": [*range(15, 20)], "test": [0, 1, 2]}


def test_celeba_is_downloaded_to_where_it_is_read(tmp_path, home, monkeypatch):
    """As torchvision's class lays it out: below the folder that it is given, in celeba."""
    import torchvision.datasets

    def download(root, split, target_type, download):
        assert download and split == "all" and torchvision.datasets.CelebA.base_folder == "celeba"
        _celeba(Path(root), official=True)

    download.base_folder = torchvision.datasets.CelebA.base_folder
    monkeypatch.setattr(torchvision.datasets, "CelebA", download)
    assert "16/2/2 images" in load("celeba", root=str(tmp_path)).source


def test_celeba_bears_empty_lines(tmp_path, home):
    folder = _celeba(tmp_path, official=True)
    usual = load("celeba", root=str(tmp_path))
    for name in ("list_attr_celeba.txt", "list_eval_partition.txt"):
        lines = (folder / name).read_text().splitlines()
        (folder / name).write_text("\n".join([*lines[:1], "", *lines[1:5], " ", *lines[5:]]) + "\n\n")
    other = load("celeba", root=str(tmp_path))
    assert other.source == usual.source and torch.equal(other.test.attributes, usual.test.attributes)


def test_celeba_is_decoded_once_and_mapped(tmp_path, home, monkeypatch):
    """The official parts follow each other, so the mapped file itself is what they hold; writing changes no file."""
    folder = _celeba(tmp_path, official=True)
    splits = load("celeba", root=str(tmp_path))
    assert "the official parts, 16/2/2 images" in splits.source
    (entry,) = home.iterdir()
    array = entry / "images.npy"
    assert np.load(array).shape == (20, 3, 64, 64)
    before = array.read_bytes()
    first = splits.train.x.levels[0].clone()
    splits.train.x.levels[0] = 1
    assert array.read_bytes() == before

    from pyro_priors.data import faces

    monkeypatch.setattr(faces, "_face", None)
    again = load("celeba", root=str(tmp_path))
    assert torch.equal(again.train.x.levels[0], first)
    assert pickle.loads(pickle.dumps(again.train.x)).shape == (16, 12288)
    monkeypatch.undo()
    monkeypatch.setenv("HOME", str(home.parents[2]))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    (folder / "img_align_celeba/000001.jpg").write_bytes(b"no picture")  # other contents: decoded again
    with pytest.raises(ValueError, match=r"000001.jpg: not a readable image .*: replace it"):
        load("celeba", root=str(tmp_path))
    assert array.read_bytes() == before


def test_decoding_is_announced_and_goes_to_the_cache(tmp_path, home, monkeypatch, capsys):
    _celeba(tmp_path)
    load("celeba", root=str(tmp_path), limit=2)
    said = capsys.readouterr().err
    assert said == f"celeba: decoding 20 images once, into {next(home.iterdir())} (0 MB)\n"
    load("celeba", root=str(tmp_path))
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    load("celeba", root=str(tmp_path))
    assert len(list((tmp_path / "elsewhere/pyro_priors/decoded").iterdir())) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the specification has ignored
    load("celeba", root=str(tmp_path))
    assert capsys.readouterr().err.count("\n") == 1 and len(list(home.iterdir())) == 1


def test_celeba_of_another_side(tmp_path, home):
    """That of De (2025), kept beside the usual one, with the attributes as the condition."""
    _celeba(tmp_path)
    usual, other = (load("celeba", root=str(tmp_path), flatten=False, condition_labels=True, side=n) for n in (64, 86))
    assert other.x_shape == other.image_shape == (3, 86, 86) and "at 86x86" in other.source
    assert usual.x_shape == (3, 64, 64) and len(list(home.iterdir())) == 2
    assert other.condition_shape == (40,) and torch.equal(other.test.condition, usual.test.attributes)
    with pytest.raises(ValueError, match="side must be an integer of at least 8 pixels, got 3"):
        load("celeba", root=str(tmp_path), side=3)


def test_celeba_errors(tmp_path, home, monkeypatch):
    import torchvision.datasets
    from PIL import Image

    def refuses(error, message):
        with pytest.raises(error, match=message) as caught:
            load("celeba", root=str(tmp_path))
        assert "\n" not in str(caught.value)

    def offline(*args, **kwargs):
        raise RuntimeError("no network")

    monkeypatch.setattr(torchvision.datasets, "CelebA", offline)
    refuses(
        FileNotFoundError,
        r"celeba: neither found in .*celeba nor downloaded \(no network\): try again later, put img_align_celeba/",
    )

    class FileURLRetrievalError(Exception):
        """As gdown's."""

    def quota(*args, **kwargs):
        raise FileURLRetrievalError("Failed to retrieve file url:\n\n\tToo many users have viewed this file." * 9)

    monkeypatch.setattr(torchvision.datasets, "CelebA", quota)
    refuses(
        FileNotFoundError, r"downloaded \(Failed to retrieve file url: Too many users .*\): try again later, put img"
    )
    folder = _celeba(tmp_path)
    attributes, identity = folder / "list_attr_celeba.txt", folder / "identity_CelebA.txt"
    text = identity.read_text()
    identity.write_text(text.replace("000003.jpg", "000003.png"))
    refuses(ValueError, r"identity_CelebA.txt: not a line 'NAME NUMBER' for each image \('000003.jpg'\): replace it")
    identity.unlink()
    refuses(FileNotFoundError, r"identity_CelebA.txt is missing: put it there")
    identity.write_text(text)
    (folder / "list_eval_partition.txt").write_text(text)
    refuses(ValueError, r"list_eval_partition.txt must hold 0, 1 or 2 for train, valid or test, got 7: replace it")
    (folder / "list_eval_partition.txt").write_text("".join(f"{i + 1:06}.jpg 0\n" for i in range(20)))
    refuses(ValueError, r"celeba: a part has no images in .*: give images of all three parts")
    image = folder / "img_align_celeba/000002.jpg"
    Image.new("RGB", (100, 218)).save(image)
    refuses(ValueError, r"000002.jpg has 100x218 pixels: give the aligned 178x218, or half that")
    image.unlink()
    refuses(FileNotFoundError, r"000002.jpg is listed but cannot be read")
    attributes.write_text(attributes.read_text().replace("000003.jpg  1", "000003.jpg  2"))
    attributes.write_text(attributes.read_text().replace("000003.jpg  -1", "000003.jpg  2"))
    refuses(ValueError, r"list_attr_celeba.txt: not CelebA's list of 40 attributes of -1 or 1 .*: replace it")
    attributes.unlink()
    refuses(FileNotFoundError, r"list_attr_celeba.txt is missing: put it there")


# the subsets, where there are any


def _needs(path):
    there = (Path(os.environ.get("PYRO_PRIORS_DATA") or "/nonexistent") / path).exists()
    return pytest.mark.skipif(not there, reason=f"PYRO_PRIORS_DATA has no {path}")


@_needs("svhn")
def test_svhn():
    splits = load("svhn", flatten=False)
    if "subset" in splits.source:
        assert [len(part) for part in splits.parts.values()] == [8000, 1000, 1000]
    assert splits.train.label.bincount(minlength=10).argmax() == 1
    assert 0.3 < splits.test.x[:].mean() < 0.6


@_needs("celeba")
def test_celeba():
    """Faces are lighter than their corners' average is not; the middle of all is skin: more red than blue."""
    splits = load("celeba", flatten=False)
    assert splits.attribute_names[20] == "Male" and 0.3 < splits.train.attributes[:, 20].mean() < 0.5
    middle = splits.test.x[:500].mean(0)[:, 24:48, 20:44].mean((1, 2))
    assert middle[0] > middle[1] > middle[2]
