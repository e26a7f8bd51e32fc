"""Files that declare more than they hold, or more than fits: refused by one line, before anything is decoded."""

import hashlib
import io
import json
import os
import struct
import zipfile
import zlib

import numpy as np
import pytest
import torch

import pyro_priors as pp
from pyro_priors import _limits, checkpoint
from pyro_priors.data import from_arrays, load
from pyro_priors.data.arrange import arrange
from pyro_priors.data.images import grey_images
from pyro_priors.data.splits import Part, Splits
from pyro_priors.experiments import pictures

X = np.zeros((40, 3), np.float32)


def refused(function, *patterns, error=ValueError):
    """The message of one line, in which all patterns occur."""
    with pytest.raises(error) as caught:
        function()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600, message
    for pattern in patterns:
        assert pattern in message, message
    return message


@pytest.fixture
def undecoded(monkeypatch):
    """Nothing may be decoded."""

    def decode(*args, **kwargs):
        pytest.fail("decoded")

    monkeypatch.setattr(np.lib.format, "read_array", decode)
    monkeypatch.setattr("scipy.io.loadmat", decode)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)


def npy(header: str, content: bytes = bytes(480)) -> bytes:
    """An array file with a header as it is given."""
    text = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


def header_of(shape: str, descr: str = "'<f4'") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"


def write_npz(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)


# arrays


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (
            npy(header_of("(1000000000000, 3)")),
            "x_train declares shape (1000000000000, 3) of float32, 1.2e+13 bytes, but",
        ),
        (npy(header_of(f"({2**40}, {2**40})")), "but contains 480"),
        (npy(header_of(f"(1{'0' * 400}, 3)")), "but contains 480"),
        (npy(header_of("(-1, 3)")), "but contains 480"),
        (npy(header_of("(4, 3)")), "declares shape (4, 3) of float32, 48 bytes, but contains 480"),
        (npy(header_of(f"({2**40},)", "'<U0'"), b""), "0 bytes, but contains 0"),
        (npy(header_of(f"({2**40},)", "'|O'")), "x_train must hold real numbers, got Python objects"),
        (npy(header_of("(40, 3)", "[('a', '|O')]")), "x_train must hold real numbers, got Python objects"),
        (b"\x93NUMPY\x01\x00\xff\xff", "not a readable .npz file"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}", "not a readable .npz file"),
        (b"\x93NUMPY\x07\x00" + bytes(99), "version 7.0 of NumPy's format"),
        (npy("[" * 9000), "not a readable .npz file"),
        (b"cos\nsystem\n(S'false'\ntR.", "not a readable .npz file"),
        (b"", "not a readable .npz file"),
    ],
    ids=range(14),
)
def test_headers_that_declare_other_than_the_file_holds(tmp_path, undecoded, member, said):
    write_npz(tmp_path / "own.npz", {"x_train": member})
    refused(lambda: load(tmp_path / "own.npz"), "own.npz: ", said)


def test_what_decompresses_to_more_than_the_limit_is_not_decompressed(tmp_path, monkeypatch):
    file = tmp_path / "own.npz"
    x = np.zeros((500_000, 10), np.float32)
    x[:, 0] = np.arange(len(x))
    np.savez_compressed(file, x_train=x, notes=x)  # what is not read does not count
    assert file.stat().st_size < 4_000_000
    with monkeypatch.context() as patch:
        patch.setenv("PYRO_PRIORS_MAX_GB", "0.019")
        patch.setattr(np.lib.format, "read_array", lambda *args, **kwargs: pytest.fail("decoded"))
        refused(
            lambda: load(file),
            "own.npz would take 0.02 GB of memory, more than the limit of 0.019 GB (PYRO_PRIORS_MAX_GB): "
            "check the file, or set PYRO_PRIORS_MAX_GB=1",
        )
    for number, reason in (("x", "'x'"), ("-1", "'-1'"), ("nan", "'nan'"), ("0", "'0'"), ("inf", "'inf'")):
        with monkeypatch.context() as patch:
            patch.setenv("PYRO_PRIORS_MAX_GB", number)
            refused(lambda: load(file), f"PYRO_PRIORS_MAX_GB must be a positive number of gigabytes, got {reason}")
    monkeypatch.setenv("PYRO_PRIORS_MAX_GB", "1")
    with pytest.warns(UserWarning, match="x_train"):  # of its spread
        data = load(file)
    assert sum(map(len, data.parts.values())) == 500_000 and "not read: notes" in data.source


def test_the_limit_is_half_of_the_memory_and_names_no_remedy_beyond_it(monkeypatch):
    monkeypatch.delenv("PYRO_PRIORS_MAX_GB", raising=False)
    monkeypatch.setattr(_limits, "_memory", lambda: 24 * 10**9)
    assert _limits.most_bytes() == 12 * 10**9
    _limits.check_bytes("x", 12 * 10**9)
    message = refused(lambda: _limits.check_bytes("x", 12 * 10**9 + 1), "the limit of 12 GB (half of the memory)")
    assert message.endswith("set PYRO_PRIORS_MAX_GB=13")
    assert refused(lambda: _limits.check_bytes("x", 10**400), "x would take ").endswith("check the file")


def test_zips_that_lie_are_nested_or_encrypted(tmp_path):
    inner = io.BytesIO()
    np.savez_compressed(inner, x_train=X)
    write_npz(tmp_path / "nested.npz", {"x_train": inner.getvalue()})
    refused(lambda: load(tmp_path / "nested.npz"), "nested.npz: not a readable .npz file")
    np.savez(tmp_path / "good.npz", x_train=X)
    good = (tmp_path / "good.npz").read_bytes()
    central = good.rindex(b"PK\x01\x02")
    for offset, value in ((24, 100), (24, 2**31)):  # the size that the directory declares
        content = bytearray(good)
        content[central + offset : central + offset + 4] = struct.pack("<I", value)
        (tmp_path / "lies.npz").write_bytes(content)
        refused(lambda: load(tmp_path / "lies.npz"), "lies.npz: not a readable .npz file")
    content = bytearray(good)
    for flags in (good.index(b"PK\x03\x04") + 6, central + 8):
        content[flags] |= 1
    (tmp_path / "encrypted.npz").write_bytes(content)
    refused(lambda: load(tmp_path / "encrypted.npz"), "encrypted.npz: not a readable .npz file", "encrypted")


@pytest.mark.parametrize(
    ("folder", "file", "key"),
    [
        ("svhn", "svhn_10k.npz", "images"),
        ("omniglot", "omniglot_105.npz", "images_packed"),
        ("cornell", "cornell_64_gray.npz", "images"),
    ],
)
def test_arrays_of_data_sets(tmp_path, undecoded, folder, file, key):
    (tmp_path / folder).mkdir()
    write_npz(tmp_path / folder / file, {key: npy(header_of("(1000000000000, 3)", "'|u1'"))})
    refused(
        lambda: load(folder, root=str(tmp_path)), f"{file}: not readable as", f"{key} declares shape (1000000000000"
    )


def test_matrices_of_data_sets(tmp_path, monkeypatch):
    from scipy.io import savemat

    (tmp_path / "omniglot").mkdir()
    (tmp_path / "svhn").mkdir()
    zeros = np.zeros((784, 4000))
    file = tmp_path / "omniglot" / "chardata.mat"
    savemat(file, {"data": zeros, "testdata": zeros[:, :5]}, do_compression=True)
    assert file.stat().st_size < 50_000
    with monkeypatch.context() as patch:
        patch.setenv("PYRO_PRIORS_MAX_GB", "0.02")
        patch.setattr("scipy.io.loadmat", lambda *args, **kwargs: pytest.fail("decoded"))
        refused(lambda: load("omniglot", root=str(tmp_path)), "chardata.mat would take 0.0251 GB", "of 0.02 GB")
    savemat(file, {"data": {"a": zeros}, "testdata": zeros[:, :5]})
    refused(lambda: load("omniglot", root=str(tmp_path)), "chardata.mat: not Burda's", "'data' is a struct")
    one_hot = np.eye(50)[:, :50]
    savemat(file, {"data": zeros, "testdata": zeros, "target": one_hot, "testtarget": one_hot})
    refused(lambda: load("omniglot", root=str(tmp_path)), "chardata.mat: not Burda's", "other numbers of columns")
    images = np.zeros((32, 32, 3, 20), np.uint8)
    for part, label in (("train", np.full(20, 300)), ("test", np.full(20, 2.5))):
        savemat(tmp_path / "svhn" / f"{part}_32x32.mat", {"X": images, "y": label})
    refused(
        lambda: load("svhn", root=str(tmp_path)), "train_32x32.mat: not readable as SVHN's", "labels from 300 to 300"
    )
    savemat(tmp_path / "svhn" / "train_32x32.mat", {"X": images, "y": np.full(20, 10)})
    refused(
        lambda: load("svhn", root=str(tmp_path)), "test_32x32.mat: not readable as SVHN's", "labels from 2.5 to 2.5"
    )


def test_files_of_mnist_that_are_too_large(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    file = raw / "train-images-idx3-ubyte"
    file.touch()
    os.truncate(file, 10**12)  # without any block on the disk
    refused(lambda: load("mnist", root=str(tmp_path)), "idx3-ubyte has 1000000000000 bytes, more than the 47040016")


def test_files_of_mnist_whose_headers_lie(tmp_path):
    def idx(magic, *sizes, content):
        return struct.pack(f">{1 + len(sizes)}I", magic, *sizes) + content

    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)

    def write(images, labels):
        for part in ("train", "t10k"):
            (raw / f"{part}-images-idx3-ubyte").write_bytes(images)
            (raw / f"{part}-labels-idx1-ubyte").write_bytes(labels)

    four = idx(0x801, 4, content=bytes(4))
    for images, labels in (
        (idx(0x803, 2**31, 28, 28, content=bytes(784)), four),
        (idx(0x803, 4, 14, 14, content=bytes(4 * 14 * 14)), four),
        (idx(0x803, 4, 28, 28, content=bytes(4 * 784)), idx(0x801, 3, content=bytes(3))),
    ):
        write(images, labels)
        refused(lambda: load("mnist", root=str(tmp_path)), "mnist: neither read from", error=FileNotFoundError)


# tensors


@pytest.mark.parametrize(
    "header",
    [
        {"x": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}},
        {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"x": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 8]}},
        {"x": {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}},
        {"x": {"dtype": "XYZ", "shape": [2], "data_offsets": [0, 8]}},
        {"x": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}},
        {"x": [1, 2]},
        None,
    ],
    ids=str,
)
def test_tensors_that_declare_other_than_the_file_holds(tmp_path, header):
    """Under a right checksum, as in a file that somebody else has made."""
    text = json.dumps(header).encode()
    content = struct.pack("<Q", len(text) if header else 2**60) + text + bytes(8)
    refused(lambda: checkpoint.unpack(content), "safetensors", error=pp.CheckpointError)
    digest = hashlib.sha256(content + b"{}").hexdigest()
    record = {"format": 1, "tensors": f"pair-{digest[:16]}.safetensors", "sha256": digest}
    (tmp_path / "pair.json").write_text(json.dumps(record))
    (tmp_path / record["tensors"]).write_bytes(content)
    refused(lambda: checkpoint.read(tmp_path, "pair"), error=pp.CheckpointError)


# images


def png(width, height, content=b"", **text):
    """A picture of one bit a pixel that declares its size, and holds what it is given."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    texts = b"".join(chunk(b"tEXt", name.encode() + b"\0" + value.encode()) for name, value in text.items())
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + texts + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")


SIZES = [(20_000, 20_000), (10_000, 10_000), (5_000, 5_000)]
"""Of 400 megapixels, which Pillow refuses, of 100, of which it warns, and of 25."""


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pictures_of_megapixels(tmp_path, monkeypatch, undecoded, size):
    monkeypatch.setenv("PYRO_PRIORS_CACHE", str(tmp_path / "cache"))
    faces = tmp_path / "celeba"
    (faces / "img_align_celeba").mkdir(parents=True)
    (faces / "img_align_celeba" / "1.jpg").write_bytes(png(*size))
    names, row = " ".join(f"A{i}" for i in range(40)), " ".join(["1"] * 40)
    (faces / "list_attr_celeba.txt").write_text(f"1\n{names}\n1.jpg {row}\n")
    limit = "89478485" if size[0] > 5_000 else ""  # Pillow's
    limit = "178956970" if size[0] > 10_000 else limit
    refused(lambda: load("celeba", root=str(tmp_path)), "1.jpg", limit or "5000x5000 pixels")
    assert not list((tmp_path / "cache").rglob("*.npy"))

    grasps = tmp_path / "cornell"
    grasps.mkdir()
    (grasps / "pcd0100r.png").write_bytes(png(*size))
    (grasps / "pcd0100cpos.txt").write_text("1 2\n3 4\n5 6\n7 8\n")
    refused(lambda: load("cornell", root=str(tmp_path)), "pcd0100r.png", limit or "more than the limit of 16777216")

    known = {"row": "row", "weights": "w", "labels": ["a"], "num": 1, "size": [3, size[1], size[0]]}
    kept = json.dumps({"rows": [known]})
    (tmp_path / "fig.png").write_bytes(png(*size, pictures=kept))
    if limit:
        with pytest.warns(RuntimeWarning, match=rf"fig.png is not used, it is damaged \(.*{limit}"):
            assert pictures.load(tmp_path / "fig.png", "row", "w") is None


def test_formats_that_start_other_programs_are_not_opened(tmp_path):
    file = tmp_path / "pcd0100r.png"
    file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 640 480\n%%EndComments\nshowpage\n")
    with pytest.raises(Exception, match="cannot identify"), _limits.open_image(file):
        pass


def test_corners_in_a_file_that_is_too_large(tmp_path):
    (tmp_path / "cornell").mkdir()
    (tmp_path / "cornell" / "pcd0100r.png").write_bytes(_png_of_zeros(640, 480))
    file = tmp_path / "cornell" / "pcd0100cpos.txt"
    file.touch()
    os.truncate(file, 10**12)
    refused(lambda: load("cornell", root=str(tmp_path)), "cpos.txt: not four lines", "more than the limit of 1000000")


def _png_of_zeros(width, height):
    return png(width, height, bytes((1 + -(-width // 8)) * height))


# tables and labels


NAMES = " ".join(f"A{i}" for i in range(40))
ROW = " ".join(["1", "-1"] * 20)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (f"1\n{NAMES}\n1.jpg {ROW.replace('-1', '300', 1)}\n", "1.jpg has 300"),
        (f"1\n{NAMES}\n1.jpg {ROW.replace('-1', '-128', 1)}\n", "1.jpg has -128"),
        (f"1\n{NAMES}\n1.jpg {ROW.replace('-1', 'nan', 1)}\n", "1.jpg has nan"),
        (f"1\n{NAMES}\n1.jpg {ROW.replace('-1', '9' * 5000, 1)}\n", "1.jpg has "),
        (f"1\n{NAMES}\n1.jpg {ROW} 1\n", "1.jpg has 41 values"),
        (f"2\n{NAMES}\n1.jpg {ROW}\n2.jpg {ROW[:-3]}\n", "2.jpg has 39 values"),
        (f"1\n{NAMES} A40\n1.jpg {ROW}\n", "41 names"),
        (f"1\n{NAMES}\n../../1.jpg {ROW}\n", "../../1.jpg is not the name of a file"),
        (f"1\n{NAMES}\n/etc/passwd {ROW}\n", "/etc/passwd is not the name of a file"),
        (f"1\n{NAMES}\n", "list_attr_celeba.txt: not CelebA's list"),
        ("", "list_attr_celeba.txt: not CelebA's list"),
        (b"\xff\xfe\x00", "list_attr_celeba.txt: not CelebA's list"),
    ],
    ids=range(12),
)
def test_attribute_tables_with_impossible_values(tmp_path, table, said):
    (tmp_path / "celeba" / "img_align_celeba").mkdir(parents=True)
    table = table if isinstance(table, bytes) else table.encode()
    (tmp_path / "celeba" / "list_attr_celeba.txt").write_bytes(table)
    refused(lambda: load("celeba", root=str(tmp_path)), "list_attr_celeba.txt: not CelebA's list of 40 attr", said)


@pytest.mark.parametrize("number", [f"{2**70}", "nan", "1 2", "", "9" * 5000], ids=range(5))
def test_identities_with_impossible_values(tmp_path, monkeypatch, number):
    from pyro_priors.data import faces

    (tmp_path / "celeba" / "img_align_celeba").mkdir(parents=True)
    (tmp_path / "celeba" / "list_attr_celeba.txt").write_text(f"1\n{NAMES}\n1.jpg {ROW}\n")
    (tmp_path / "celeba" / "identity_CelebA.txt").write_text(f"1.jpg {number}\n")
    monkeypatch.setattr(faces, "_decoded", lambda files, side: np.zeros((1, 3, 64, 64), np.uint8))
    refused(lambda: load("celeba", root=str(tmp_path)), "identity_CelebA.txt: not a line 'NAME NUMBER' for each image")


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (
            {"label_train": np.full(40, 2**40)},
            "label_train must be 0, 1, 2, ..., got 1 different labels up to 10995116",
        ),
        ({"label_train": np.full(40, 2**63, np.uint64)}, "label_train must hold integers"),
        ({"label_train": np.full(40, np.nan)}, "label_train must hold integers"),
        ({"label_train": np.full(40, -(2**40))}, "label_train must be 0, 1, 2, ..., got -1099511627776"),
        ({"attributes_train": np.full((40, 2), 2**40)}, "attributes_train must be 0 or 1"),
        ({"attributes_train": np.full((40, 2), np.nan)}, "attributes_train holds 80 NaN"),
        ({"attributes_train": np.full((40, 2), -128, np.int8)}, "attributes_train must be 0 or 1"),
        (
            {"attributes_train": np.ones((40, 2)), "attribute_names": np.array([b"\xff", b"a"])},
            "attribute_names must be",
        ),
    ],
    ids=range(8),
)
def test_labels_and_attributes_with_impossible_values(tmp_path, arrays, said):
    np.savez(tmp_path / "own.npz", x_train=X, **arrays)
    refused(lambda: load(tmp_path / "own.npz", condition_labels=True), f"own.npz: {said}")


def test_ragged_tables():
    refused(lambda: from_arrays([[1.0], [1.0, 2.0]]), "x_train must be a rectangular array")
    ragged = [["a"], ["b", "c"]]
    given = {"attributes_train": np.ones((40, 2)), "attribute_names": ragged}
    refused(lambda: from_arrays(X, **given), "attribute_names must be a list of text")


def test_a_one_hot_condition_is_not_allocated_beyond_the_limit(tmp_path, monkeypatch):
    """As many classes as examples: the labels are all right, and their one-hot rows would fill the memory."""
    monkeypatch.setattr(torch.nn.functional, "one_hot", lambda *args: pytest.fail("allocated"))
    monkeypatch.setattr(_limits, "_memory", lambda: 24 * 10**9)
    num = 60_000
    part = Part(torch.zeros(num, 1), label=torch.arange(num))
    config = pp.data.DataConfig(condition_labels=True)
    for num_labels, size in ((num, "86.4 GB"), (2**40, "1.58e+09 GB")):
        splits = Splits("own", part, part, part, likelihood="gaussian", num_labels=num_labels)
        said = f"condition_labels with 180000 rows of {num_labels} classes would take {size} of memory, more than"
        refused(lambda splits=splits: arrange(splits, config), said)
    splits = Splits("own", part, part, part, likelihood="gaussian", num_labels=5)
    refused(lambda: arrange(splits, config), "label_train must be integers from 0 to 4, got 5")


def test_gray_images_with_impossible_values():
    def made(x, label=0):
        part = Part(torch.full((4, 1, 2, 2), x), label=torch.full((4,), label))
        return lambda: grey_images("own", part, part, part, num_labels=10, source="")

    assert made(0.5)().num_labels == 10
    refused(made(float("nan")), "own: train.x holds NaN or infinite values")
    refused(made(float("inf")), "own: train.x holds NaN or infinite values")
    refused(made(2.0), "own: train.x must lie in [0, 1], got values from 2 to 2")
    refused(made(0.5, 2**40), "own: train.label must be integers from 0 to 9, got 1099511627776")
    refused(made(0.5, -1), "own: train.label must be integers from 0 to 9, got -1")
