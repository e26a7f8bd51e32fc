"""Arrays at the door: gray levels, units, labels, and what is not numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch

import pyro_priors as pp
from pyro_priors.data import Levels, from_arrays, load

X = np.random.default_rng(0).random((40, 3)).astype(np.float32)
PARTS = ("train", "valid", "test")

IMAGES = (np.arange(40 * 12).reshape(40, 1, 4, 3) * 7) % 256


@pytest.mark.parametrize("dtype", ["u1", "i2", "i8", "f4", "f8", ">f4", "u8"])
def test_whole_numbers_to_255_are_gray_levels_kept_as_bytes(dtype):
    """One line says so; the values are k/255 exactly, and a quarter of the memory of floats."""
    assert IMAGES.max() == 255
    message = (
        r"^x_train holds whole numbers from 0 to 255, which are taken as gray levels k/255: if they are anything else, "
        r"standardize them"
    )
    with pytest.warns(UserWarning, match=message) as told:
        splits = from_arrays(IMAGES.astype(dtype), IMAGES[:7].astype(dtype))
    assert len(told) == 1 and Path(told[0].filename) == Path(__file__)
    assert splits.likelihood == "continuous_bernoulli" and splits.image_shape == (1, 4, 3)
    for part in splits.parts.values():
        assert isinstance(part.x, Levels) and part.x.levels.dtype is torch.uint8
    assert torch.equal(splits.valid.x[:], torch.from_numpy(IMAGES[:7]).float() / 255)


def test_gray_levels_from_tensors_and_of_two_values():
    with pytest.warns(UserWarning, match="^x_train holds whole numbers from 0 to 255, .* gray levels"):
        splits = from_arrays(torch.from_numpy(IMAGES).to(torch.bfloat16).round())
    assert isinstance(splits.train.x, Levels)
    masks = np.where(IMAGES > 99, 255, 0).astype("u1")
    with pytest.warns(UserWarning, match="gray levels"):
        splits = from_arrays(masks, masks, masks)
    assert splits.likelihood == "bernoulli" and torch.equal(splits.test.x[:], torch.from_numpy(masks).float() / 255)
    with pytest.warns(UserWarning, match="gray levels"):
        again = from_arrays(masks, likelihood="gaussian")
    assert again.likelihood == "gaussian" and isinstance(again.train.x, Levels)
    assert from_arrays(again.train.x, again.valid.x, again.test.x).likelihood == "bernoulli", "without a second line"
    with pytest.raises(ValueError, match=r"x_train does not fit likelihood='bernoulli': x must be 0 or 1"):
        from_arrays(IMAGES.astype("u1"), likelihood="bernoulli")


def test_levels_of_one_part_make_those_of_all():
    """A dark part in bytes holds levels too; a part in [0, 1] next to one in bytes is a mistake."""
    images = IMAGES.astype("u1")
    with pytest.warns(UserWarning, match="gray levels"):
        splits = from_arrays(images, np.ones_like(images[:5]))
    assert splits.valid.x[:].unique().tolist() == pytest.approx([1 / 255])
    with pytest.raises(
        ValueError, match=r"^x_valid has torch.float32 values from 0 to 0.98.*, but another part has gray"
    ):
        from_arrays(images, (images[:5] / 255).astype("f4"))
    with pytest.raises(ValueError, match=r"^x_valid has torch.float32 values from 0 to 1, but another part has gray"):
        from_arrays(images, (images[:5] > 99).astype("f4"))
    with pytest.raises(ValueError, match="^x_valid must be Levels as another part is"):
        from_arrays(splits.train.x, (images[:5] / 255).astype("f4"))


def test_conditions_are_gray_levels_too():
    with pytest.warns(UserWarning, match="^condition_train holds whole numbers from 0 to 255, .* gray levels"):
        splits = from_arrays(X, condition_train=IMAGES.astype("u1"))
    assert isinstance(splits.train.condition, Levels) and splits.condition_image_shape == (1, 4, 3)
    pair = pp.create("cvae", x_shape=(3,), condition_shape=(1, 4, 3), z_dim=2, hidden=(5,), likelihood="gaussian")
    history = pp.fit(pair, splits, max_epochs=1, warmup_epochs=1, warmup_sites=("z",), progress=False)
    assert np.isfinite(history.epochs[0]["valid_bound"])


@pytest.mark.parametrize(
    ("x", "what"),
    [
        (np.arange(40 * 3).reshape(40, 3) % 17, "numbers from 0 to 16"),
        ((np.arange(40 * 3).reshape(40, 3) % 17).astype("f4"), "numbers from 0 to 16"),
        (IMAGES[:, 0, 0].astype("f4") + 0.25, None),
        (np.minimum(IMAGES, 254.5), "numbers from 0 to 254.5"),
        (np.minimum(IMAGES, 254), "numbers from 0 to 254"),
    ],
)
def test_other_numbers_up_to_255_are_left_as_they_are_and_told(x, what):
    """Counts, ratings, or levels with fewer values: nothing is changed, and nothing is silent."""
    with pytest.warns(UserWarning) as told:
        splits = from_arrays(x, x, x)
    assert splits.likelihood == "gaussian" and torch.equal(splits.train.x, torch.from_numpy(x).float())
    (line,) = (str(one.message) for one in told)
    start = f"x_train holds {what}, which are used unchanged" if what else "x_train has values around"
    assert line.startswith(start)
    assert "standardize" in line


def test_gaussian_by_name_keeps_whole_numbers():
    with pytest.warns(UserWarning, match=r"^x_train has values around 120 with a spread of .*: standardize them"):
        splits = from_arrays(IMAGES.astype("f4"), likelihood="gaussian")
    assert splits.train.x.max() == 255


RANDOM = np.random.default_rng(0).standard_normal((40, 3))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            1e-6 * RANDOM,
            r"^x_train has values around .*e-0[78] with a spread of [89].*e-07.*: standardize them, \(x -",
        ),
        (1e-6 * np.abs(RANDOM), "^x_train has values around .* with a spread of .*e-07, far"),
        (1e6 * RANDOM, r"^x_train has values around .* with a spread of [89].*e\+05"),
        (1e6 + RANDOM, r"^x_train has values around 1e\+06 with a spread of 0.9.* in column 0|^x_train .* 1e\+06"),
        (RANDOM * [1, 1e-6, 1], "^x_train has values around .* with a spread of .*e-07 in column 1, far from 0 and 1"),
        (RANDOM * [1, 1, 1000], "^x_train has values around .* with a spread of"),
        (1e-6 * RANDOM.reshape(40, 1, 1, 3), r"^x_train .*: standardize them, \(x - x.mean\(\)\) / x.std\(\)"),
    ],
)
def test_units_far_from_1_are_told(x, message):
    with pytest.warns(UserWarning, match=message) as told:
        splits = from_arrays(x)
    assert len(told) == 1
    rows = torch.cat([part.x for part in splits.parts.values()])
    assert torch.equal(rows.sort(0).values, torch.from_numpy(x).float().sort(0).values), "and nothing is changed"


def test_units_of_conditions_are_told():
    with pytest.warns(UserWarning, match="^condition_train has values around .* with a spread of .*e-07"):
        from_arrays(X, condition_train=1e-6 * RANDOM)


@pytest.mark.parametrize(
    "x",
    [
        RANDOM,
        0.05 * RANDOM,
        30 * RANDOM,
        np.zeros((40, 3)),
        np.full((40, 3), 1e-7),
        np.eye(40, dtype="f4"),
        np.where(np.arange(40 * 900).reshape(40, 900) == 5, 0.9, 0.0),
        np.linspace(0, 1, 120).reshape(40, 3),
    ],
)
def test_common_units_are_not_told(x):
    from_arrays(x)
    from_arrays(X, condition_train=x)


class Frame:
    """What pandas' DataFrame is to numpy."""

    def __init__(self, values):
        self.values = values

    def to_numpy(self, dtype=None):
        return self.values.astype(dtype)

    def __array__(self, dtype=None, copy=None):
        return self.values


class Sparse:
    """What scipy's matrices are to numpy."""

    def toarray(self):
        return X


@pytest.mark.parametrize(
    "x",
    [
        X.tolist(),
        [*torch.from_numpy(X)],
        tuple(X),
        Frame(X),
        torch.from_numpy(X).requires_grad_(),
        [row.requires_grad_() for row in torch.from_numpy(X)],
        torch.from_numpy(X).double(),
        X.astype(np.longdouble),
        X.astype(">f8"),
        np.asfortranarray(X),
        X[::-1][::-1],
        np.broadcast_to(X, (40, 3)),
        np.ma.masked_array(X, np.zeros(X.shape, bool)),
        np.ma.masked_array(X),
    ],
    ids=lambda x: type(x).__name__,
)
def test_arrays_of_every_kind_are_converted(x):
    splits = from_arrays(x, x, x)
    assert torch.equal(splits.train.x, torch.from_numpy(X)) and splits.train.x.is_contiguous()
    assert not splits.train.x.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.uint16, torch.int8])
def test_tensors_of_every_type_are_converted(dtype):
    x = (torch.arange(120).reshape(40, 3) % 2).to(dtype)
    splits = from_arrays(x, x, x)
    assert splits.likelihood == "bernoulli" and torch.equal(splits.train.x, x.to(torch.float32))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (Sparse(), r"x_train is sparse \(Sparse\): give x_train.toarray\(\)"),
        (torch.from_numpy(X).to_sparse(), r"x_train is sparse \(torch.sparse_coo\): give x_train.to_dense\(\)"),
        (
            np.ma.masked_array(X, X > 0.9),
            r"x_train is a masked array with \d+ masked values: fill them in, x_train",
        ),
        (torch.empty(40, 3, device="meta"), "x_train is on the device meta"),
        (Frame(X.astype(object)), r"x_train must .* got dtype object: convert with .to_numpy\(dtype='float32'\)"),
        (np.full((40, 3), "2020-01-01", "M8[D]"), r"x_train must .* got dtype datetime64\[D\]: give numbers, \(dates"),
        (
            np.full((40, 3), 1, "m8[D]"),
            r"x_train must hold real numbers, got dtype timedelta64\[D\]: give numbers",
        ),
        ([torch.zeros(3), torch.zeros(2)], "x_train must be a rectangular array: its rows differ in shape"),
        ((row for row in X), r"x_train must hold real numbers, got dtype object"),
        ({"a": X}, r"x_train must hold real numbers, got dtype object"),
        (
            torch.nested.nested_tensor([torch.zeros(3), torch.zeros(2)], layout=torch.jagged),
            "x_train must be a rec",
        ),
        (np.zeros((40, 3), [("a", "f4")]), "x_train must hold real numbers, got dtype"),
    ],
)
def test_what_is_not_an_array_of_numbers_is_refused(x, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        from_arrays(x)
    with pytest.raises(ValueError, match=f"^{message.replace('x_train', 'condition_train')}"):
        from_arrays(X, condition_train=x)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (
            ["cat", "dog"] * 20,
            r"got dtype <U3: number the classes, names, label = np.unique\(label, return_inverse",
        ),
        (np.array(["cat", "dog"] * 20, object), r"got dtype object: number the classes, names, label = np.unique\("),
        (np.array([b"cat", b"dog"] * 20), r"got dtype \|S3: number the classes, names, label = np.unique\("),
        (
            10**9 + np.arange(40) % 3,
            r"got 3 different labels up to 1000000002: number the classes, names, label = np",
        ),
        (
            2**63 + (np.arange(40) % 3).astype("u8"),
            r"got torch.float64: number the classes, names, label = np",
        ),
        ([2**70, 1] * 20, r"got dtype object: number the classes, names, label = np.unique\("),
        (np.ma.masked_array(np.arange(40), np.arange(40) > 30), r"is a masked array with 9 masked values"),
    ],
)
def test_labels_that_are_not_class_numbers_name_what_makes_them(label, message):
    with pytest.raises(ValueError, match=f"^label_train .*{message}"):
        from_arrays(X, label_train=label)


@pytest.mark.parametrize("dtype", ["u1", "i1", "i4", "u2", "u4", "u8", ">i8"])
def test_labels_of_every_integer_type_are_classes(dtype):
    splits = from_arrays(X, X, X, **{f"label_{part}": (np.arange(40) % 3).astype(dtype) for part in PARTS})
    assert splits.train.label.dtype is torch.int64 and splits.num_labels == 3


def test_labels_may_leave_classes_out():
    """Some of the classes of a larger set keep their numbers, up to ten for each that is there, or a thousand."""
    assert from_arrays(X, label_train=np.array([0, 999] * 20)).num_labels == 1000
    with pytest.raises(ValueError, match="^label_train must be 0, 1, 2, ..., got 2 different labels up to 1000"):
        from_arrays(X, label_train=np.array([0, 1000] * 20))
    with pytest.raises(ValueError, match="^label_test .* got 41 different labels up to 12345"):
        from_arrays(X, X, X, label_train=np.arange(40), label_valid=np.arange(40), label_test=[12345] * 40)


def test_the_same_of_files(tmp_path):
    """Bytes in a file are levels; text, Python objects and identifiers as labels are refused with the file's name."""
    path = tmp_path / "own.npz"
    np.savez(path, x_train=IMAGES.astype("u1"), label_train=(np.arange(40) % 3).astype("u1"))
    with pytest.warns(UserWarning, match="^x_train holds whole numbers from 0 to 255, .* gray levels"):
        splits = load(path, condition_rows=1)
    assert isinstance(splits.train.x, Levels) and isinstance(splits.train.condition, Levels)
    for label in (np.array(["cat", "dog"] * 20), np.array(["cat", "dog"] * 20, object), 10**9 + np.arange(40) % 3):
        np.savez(path, x_train=X, label_train=label)
        with pytest.raises(
            ValueError, match=r"own.npz: label_train must .*names, label = np.unique\(label, return_inv"
        ):
            load(path)


def test_condition_classes_as_text_are_sent_to_labels():
    with pytest.raises(
        ValueError, match="^condition_train must hold real numbers, got dtype <U1: convert .* give classes as labels"
    ):
        from_arrays(X, condition_train=np.array([["a"], ["b"]] * 20))


def test_what_pairs_are_given_is_not_sparse_or_masked():
    pair, x = pp.create("vae", x_shape=(3,), z_dim=2, hidden=(5,)), torch.zeros(4, 3)
    for use in (pair.encode, pair.reconstruct, pair.log_prob, pair.guide):
        with pytest.raises(ValueError, match=r"^x is sparse \(torch.sparse_coo\): give x.to_dense\(\)"):
            use(x.to_sparse())
    z = np.ones((4, 2))
    with pytest.raises(ValueError, match="^z is a masked array with 4 masked values: fill them in, z.filled"):
        pair.sample(4, z=np.ma.masked_array(z, z * [0, 1] > 0))
    with pytest.raises(ValueError, match=r"^z is sparse \(Sparse\): give z.toarray\(\)"):
        pair.sample(4, z=Sparse())
    assert pair.sample(4, z=np.ma.masked_array(z))["z"].tolist() == z.tolist()


def test_accuracies_do_not_grow_with_the_labels():
    """Counts by category and label are of the labels that occur."""
    from pyro_priors.metrics import hungarian_accuracy, majority_accuracy

    category, label = torch.tensor([0, 0, 1, 1, 2], dtype=torch.uint8), 10**9 + torch.tensor([5, 5, 0, 5, 7])
    num = 2 * 10**9
    assert hungarian_accuracy(category, label, 3, num) == pytest.approx(4 / 5)
    assert majority_accuracy(category, label, category, label, 3, num) == pytest.approx(4 / 5)
    assert majority_accuracy(category, label, category[:2], label[:2], 3, num) == pytest.approx(2 / 5)
    with pytest.raises(ValueError, match="^label must hold integers from 0 to 9, got 1000000007: number them from 0$"):
        hungarian_accuracy(category, label, 3, 10)
