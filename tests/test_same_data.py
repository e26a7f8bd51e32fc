"""A run goes on, and is evaluated, on the data that it was trained on: wherever these are now, and on no others."""

import dataclasses
import hashlib
import json
import pickle
import shutil

import numpy as np
import pytest
import torch

import pyro_priors as pp
import runs
from pyro_priors.cli.main import main
from pyro_priors.data import Augment, Levels, Part, Splits, splits

ARRAYS = {}
for index, (part, size) in enumerate((("train", 30), ("valid", 8), ("test", 9))):
    draw = np.random.default_rng(index)
    ARRAYS |= {
        f"x_{part}": draw.normal(size=(size, 6)).astype("float32"),
        f"condition_{part}": draw.normal(size=(size, 2)).astype("float32"),
        f"label_{part}": np.arange(size) % 3,
        f"attributes_{part}": (draw.normal(size=(size, 4)) > 0).astype("float32"),
    }


def digest(data):
    return data.described(digest=True)["arrays"]


def fit(data, out, epochs=1, **options):
    pair = runs.small_pair("cvae", data)
    pp.fit(pair, data, out=out, max_epochs=epochs, progress=False, device="cpu", **options)
    return pair


# digests


def test_the_digest_is_sha256_of_types_shapes_and_bytes():
    found = digest(pp.data.from_arrays(**ARRAYS))
    for part in ("train", "valid", "test"):
        expected = hashlib.sha256(b"binarize=False augment=None" if part == "train" else b"")
        for kind, dtype in (("x", "float32"), ("condition", "float32"), ("label", "int64"), ("attributes", "float32")):
            values = ARRAYS[f"{kind}_{part}"]
            expected.update(f"{kind} Tensor torch.{dtype} {values.shape}".encode())
            expected.update(values.astype(dtype).tobytes())
        assert found[part] == expected.hexdigest()


@pytest.mark.parametrize("convert", [torch.from_numpy, np.ndarray.tolist, lambda x: x.astype(float, order="F")])
def test_the_same_values_have_the_same_digest(convert):
    """As arrays, tensors or lists, in any layout."""
    arrays = {name: values if name.startswith("label") else convert(values) for name, values in ARRAYS.items()}
    assert digest(pp.data.from_arrays(**arrays)) == digest(pp.data.from_arrays(**ARRAYS))


@pytest.mark.parametrize("size", [1, 24, 25, 2**20])
def test_the_digest_does_not_depend_on_how_much_is_read_at_once(size, monkeypatch):
    expected = digest(pp.data.from_arrays(**ARRAYS))
    monkeypatch.setattr(splits, "BYTES_AT_ONCE", size)
    assert digest(pp.data.from_arrays(**ARRAYS)) == expected


@pytest.mark.parametrize("part", ["train", "valid", "test"])
@pytest.mark.parametrize("kind", ["x", "condition", "label", "attributes"])
def test_one_other_value_gives_its_part_another_digest(part, kind):
    before = digest(pp.data.from_arrays(**ARRAYS))
    values = ARRAYS[f"{kind}_{part}"].copy()
    values.flat[-1] = abs(1 - values.flat[-1])
    after = digest(pp.data.from_arrays(**ARRAYS | {f"{kind}_{part}": values}))
    assert {name for name in before if before[name] != after[name]} == {part}


def test_type_shape_kind_and_use_are_part_of_the_digest():
    x = torch.arange(24.0).reshape(4, 6)
    given = {
        "x": Part(x),
        "float64": Part(x.double()),
        "shape": Part(x.reshape(6, 4)),
        "image": Part(x.reshape(4, 2, 3)),
        "rows": Part(x.flip(0)),
        "condition too": Part(x, condition=x),
        "attributes": Part(x, attributes=x),
        "levels": Part(Levels(x.byte())),
        "bytes": Part(x.byte()),
    }
    data = [Splits("arrays", part, Part(x), Part(x), "gaussian") for part in given.values()]
    data.append(dataclasses.replace(data[0], binarise=True))
    data.append(dataclasses.replace(data[0], augment=Augment((1, 2, 3), flip=True)))
    found = [digest(one)["train"] for one in data]
    assert len({*found}) == len(found)
    assert len({digest(one)["test"] for one in data}) == 1


def test_levels_are_digested_as_bytes():
    """Also where they are mapped from a file, and of another layout."""
    levels = torch.arange(24, dtype=torch.uint8).reshape(4, 6)
    whole, strided = (
        Splits("a", Part(Levels(one)), Part(levels), Part(levels), "bernoulli")
        for one in (levels, levels.T.contiguous().T)
    )
    assert digest(whole) == digest(strided)


def test_what_a_recipe_gives_needs_no_digest():
    data = pp.data.load("digits", limit=20)
    assert data.described() == data.recipe and "arrays" not in data.recipe
    assert pickle.loads(pickle.dumps(data)).described() == data.recipe
    changed = dataclasses.replace(data, train=data.train.take(slice(10)))
    assert changed.described() == data.recipe | {"arrays": digest(changed)}
    assert changed.described()["arrays"]["test"] == data.described(digest=True)["arrays"]["test"]


# resuming on arrays


def test_a_run_on_arrays_goes_on_with_the_same_values(tmp_path):
    fit(pp.data.from_arrays(**ARRAYS), tmp_path / "run")
    whole = fit(pp.data.from_arrays(**ARRAYS), tmp_path / "whole", epochs=2)
    tensors = {name: torch.from_numpy(values) for name, values in ARRAYS.items()}
    pair = fit(pp.data.from_arrays(**tensors, name="another name"), tmp_path / "run", epochs=2, resume=True)
    assert runs.same_bits(runs.state(pair), runs.state(whole))
    config = json.loads((tmp_path / "run" / "config.json").read_text())["data"]
    assert config == {"name": "another name", "config": None, "arrays": digest(pp.data.from_arrays(**ARRAYS))}


OTHERS = {
    f"{kind}_{part}": (f"{kind}_{part}", part)
    for kind in ("x", "condition", "label", "attributes")
    for part in ("train", "valid", "test")
}


@pytest.fixture(scope="module")
def run_on_arrays(tmp_path_factory):
    run = tmp_path_factory.mktemp("arrays") / "run"
    fit(pp.data.from_arrays(**ARRAYS), run)
    return run


@pytest.mark.parametrize("name", OTHERS)
def test_a_run_on_arrays_does_not_go_on_with_others(name, run_on_arrays):
    name, part = OTHERS[name]
    values = ARRAYS[name].copy()
    values[0] = abs(1 - values[0])
    before = runs.snapshot(run_on_arrays)
    match = rf"^the run in .*run was trained on other arrays \(the {part} part differs\): give the same"
    with pytest.raises(ValueError, match=match):
        fit(pp.data.from_arrays(**ARRAYS | {name: values}), run_on_arrays, epochs=2, resume=True)
    assert runs.snapshot(run_on_arrays) == before


def test_fewer_or_reshaped_arrays_are_others(run_on_arrays):
    fewer = {name: values[:-1] if name.endswith("train") else values for name, values in ARRAYS.items()}
    without = {name: values for name, values in ARRAYS.items() if not name.startswith("label")}
    for arrays, part in ((fewer, "train"), (without, "train")):
        with pytest.raises(ValueError, match=f"the {part} part differs"):
            fit(pp.data.from_arrays(**arrays), run_on_arrays, epochs=2, resume=True)


def test_a_data_set_that_was_changed_in_memory_is_another(tmp_path):
    """Its recipe says what it was loaded by."""
    data = pp.data.load("digits", limit=60, condition_rows=4)
    changed = dataclasses.replace(data, train=data.train.take(torch.arange(59, -1, -1)))
    fit(data, tmp_path / "loaded")
    fit(changed, tmp_path / "changed")
    with pytest.raises(ValueError, match="trained on digits as loaded, but these data are in-memory arrays: load"):
        fit(changed, tmp_path / "loaded", epochs=2, resume=True)
    with pytest.raises(ValueError, match=r"other arrays .the train part differs"):
        fit(data, tmp_path / "changed", epochs=2, resume=True)
    fit(dataclasses.replace(changed, source="again"), tmp_path / "changed", epochs=2, resume=True)
    fit(pp.data.load("digits", limit=60, condition_rows=4), tmp_path / "loaded", epochs=2, resume=True)


def test_a_run_on_arrays_goes_on_with_the_file_that_they_are_in(tmp_path):
    fit(pp.data.from_arrays(**ARRAYS), tmp_path / "run")
    np.savez(tmp_path / "file.npz", **ARRAYS)
    fit(pp.data.load(tmp_path / "file.npz"), tmp_path / "run", epochs=2, resume=True)
    assert "arrays" in json.loads((tmp_path / "run" / "config.json").read_text())["data"]
    fit(pp.data.from_arrays(**ARRAYS), tmp_path / "run", epochs=3, resume=True)


def test_a_run_whose_arrays_left_no_record_goes_on(tmp_path):
    """As the first version wrote them; from then on there is one."""
    run = tmp_path / "run"
    fit(pp.data.from_arrays(**ARRAYS), run)
    config = runs.unsealed(run / "config.json")
    runs.write_sealed(run / "config.json", config | {"data": None})
    fit(pp.data.from_arrays(**ARRAYS), run, epochs=2, resume=True)
    assert json.loads((run / "config.json").read_text())["data"] == config["data"]


# files that have moved

TINY = ["--quiet", "--networks.hidden", "8", "--z-dim", "2", "--train.max-epochs", "1", "--train.device", "cpu"]


@pytest.fixture
def moved(tmp_path, monkeypatch):
    """A run whose file is somewhere else now, beside a file of other data under the old name."""
    monkeypatch.chdir(tmp_path)
    np.savez("a.npz", **ARRAYS)
    assert main(["train", "cvae", "--data", "a.npz", *TINY, "--out", "run"]) == 0
    (tmp_path / "there").mkdir()
    shutil.move("a.npz", "there/b.npz")
    np.savez("other.npz", **ARRAYS | {"x_test": ARRAYS["x_test"] + 1})
    return tmp_path


COMMANDS = {
    "evaluate": ["evaluate", "run", "--metrics", "bound"],
    "sample": ["sample", "run", "--num", "3", "--out", "samples.npz"],
    "plot": ["plot", "run"],
    "resume": ["resume", "run", "--train.max-epochs", "2"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("old", ["gone", "other data"])
def test_a_file_that_has_moved_is_given_by_its_new_place(command, old, moved, capsys):
    if old == "other data":
        shutil.copy("other.npz", "a.npz")
    arguments = COMMANDS[command]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    if old == "gone" and command != "resume":
        assert error == (
            f"pyro-priors: error: {moved / 'a.npz'}, which run was trained on, is no longer there: put it back, or "
            "give its new place with --data\n"
        )
    before = runs.snapshot(moved)
    assert main([*arguments, "--data", "other.npz"]) == 2
    error = capsys.readouterr().err
    expected = (
        "the run in run was trained on another data file"
        if command == "resume"
        else f"--data other.npz is not the file that run was trained on, {moved / 'a.npz'}: its checksum differs"
    )
    assert error.startswith(f"pyro-priors: error: {expected}") and len(error.splitlines()) == 1
    assert runs.snapshot(moved) == before
    assert main([*arguments, "--data", "there/b.npz"]) == 0
    recorded = json.loads((moved / "run" / "config.json").read_text())["data"]["name"]
    assert recorded == str(moved / ("there/b.npz" if command == "resume" else "a.npz"))
    if command == "resume":  # which writes the place down
        assert main([*COMMANDS["evaluate"]]) == 0
        assert main(["resume", "run", "--train.max-epochs", "3"]) == 0


def test_a_file_that_has_moved_goes_on_in_python(moved):
    data = pp.data.load("there/b.npz")
    pair = pp.zoo.create_for("cvae", data, 0, hidden=(8,), z_dim=2)
    pp.fit(pair, data, out="run", resume=True, max_epochs=2, progress=False, device="cpu")
    assert json.loads((moved / "run" / "config.json").read_text())["data"]["name"] == str(moved / "there/b.npz")


def test_evaluations_of_a_file_that_has_moved_are_of_the_same_data(moved, capsys):
    shutil.move("there/b.npz", "a.npz")
    assert main(["evaluate", "run", "--metrics", "bound"]) == 0
    first = json.loads((moved / "run" / "evaluation.json").read_text())
    shutil.move("a.npz", "there/b.npz")
    assert main(["evaluate", "run", "--metrics", "active_units", "--data", "there/b.npz"]) == 0
    second = json.loads((moved / "run" / "evaluation.json").read_text())
    assert second["metrics"]["bound"] == first["metrics"]["bound"] and "active_units_z" in second["metrics"]
    assert second["data"] == first["data"] and first["data"].startswith("a.npz, ")


def test_a_named_data_set_is_no_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.savez("a.npz", **ARRAYS)
    assert main(["train", "vae", "--data", "moons", "--data.limit", "60", *TINY, "--out", "run"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "run", "--metrics", "bound", "--data", "a.npz"]) == 2
    error = capsys.readouterr().err
    assert error == "pyro-priors: error: --data is a.npz, but run was trained on moons: leave --data out\n"
    assert main(["evaluate", "run", "--metrics", "bound", "--data", "moons"]) == 0


def test_a_folder_of_data_that_has_moved_is_given_by_its_new_place(tmp_path, monkeypatch):
    """``--data.root``, as for the training."""
    monkeypatch.chdir(tmp_path)
    found = []
    load = pp.data.load
    monkeypatch.setattr(pp.data, "load", lambda name, **config: found.append(config["root"]) or load(name, **config))
    assert (
        main(["train", "vae", "--data", "moons", "--data.limit", "60", "--data.root", "old", *TINY, "--out", "run"])
        == 0
    )
    for command in COMMANDS.values():
        assert main([*command, "--data.root", "new"]) == 0
        assert found.pop() == "new"
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["config"]["root"] == str(tmp_path / "new")


@pytest.mark.parametrize("shape", [(6,), (1, 2, 3)])
def test_a_run_on_arrays_is_evaluated_with_a_file_of_them(shape, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arrays = {n: v.reshape(-1, *shape) if n.startswith("x") else v for n, v in ARRAYS.items()}
    data = pp.data.from_arrays(**arrays)
    pp.fit(pp.zoo.create_for("cvae", data, 0, hidden=(8,), z_dim=2), data, out="run", max_epochs=1, progress=False)
    np.savez_compressed("mine.npz", **{n: v.astype(float) if n.startswith("x") else v for n, v in arrays.items()})
    np.savez("other.npz", **arrays | {"x_valid": 2 * arrays["x_valid"]})
    for name in ("evaluate", "sample", "plot"):
        assert main(COMMANDS[name]) == 2
        error = capsys.readouterr().err
        assert error == (
            "pyro-priors: error: run was trained on arrays in memory: give --data FILE.npz that holds them "
            "(numpy.savez), or evaluate it from Python, where they are\n"
        )
        assert main([*COMMANDS[name], "--data", "other.npz"]) == 2
        error = capsys.readouterr().err
        assert error.startswith(
            "pyro-priors: error: run was trained on arrays in memory, and other.npz does not hold them: its valid part"
        )
        assert main([*COMMANDS[name], "--data", "mine.npz"]) == 0
