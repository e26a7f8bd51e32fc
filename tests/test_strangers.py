"""Run folders that somebody else has written: nothing that they hold leads out of the folder, ends in a traceback, or
is taken for what a training wrote when it is not.

The checksums find accidents. A stranger can compute them, so most tests here write files whose checksums are right.
"""

import copy
import json
import math
import os
import random
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import pyro_priors as pp
import runs
from pyro_priors import _records, _schemas, checkpoint, experiments
from pyro_priors._files import locked
from pyro_priors.checkpoint import CheckpointError
from pyro_priors.cli.main import main
from pyro_priors.data.registry import without_downloads
from pyro_priors.experiments.kept import KeptRuns
from pyro_priors.objectives import ELBO, Constrained, Factor
from pyro_priors.run_folder import RunFolder

RESULTS = Path(__file__).parents[1] / "results"
TRAIN = ["train", "cp_vae", "--data", "digits", "--data.limit", "64", "--networks.hidden", "8", "--z-dim", "2"]
TRAIN += ["--num-categories", "3", "--train.max-epochs", "2", "--train.batch-size", "32", "--train.device", "cpu"]
EVALUATE = ["--metrics", "bound"]


def command(arguments):
    """What the command line returns, its warnings printed as anywhere but under pytest."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        return main(arguments)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two epochs and its evaluation."""
    run = tmp_path_factory.mktemp("strangers") / "run"
    assert command([*TRAIN, "--quiet", "--out", str(run)]) == 0
    assert command(["evaluate", str(run), *EVALUATE]) == 0
    return run


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it to be altered."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def change_json(file, change):
    """Alter a sealed file, and seal it again."""
    record = runs.unsealed(file)
    changed = change(record)
    runs.write_sealed(file, record if changed is None else changed)


def change_saved(folder, name, change, tensors_too=None):
    """Alter a save of tensors and a record, with the right checksum for both."""
    tensors, record = checkpoint.read(folder, name)
    record = {key: value for key, value in record.items() if key not in ("format", "tensors", "sha256")}
    change(record)
    if tensors_too is not None:
        tensors_too(tensors)
    for path in folder.iterdir():
        path.unlink()
    checkpoint.write(folder, name, tensors, record)


def one_line(status, capsys):
    """The only line of standard error of a command that failed."""
    captured = capsys.readouterr()
    assert status == 2, captured.err
    *warned, error = captured.err.splitlines()
    assert error.startswith("pyro-priors: error: ") and "Traceback" not in captured.out + captured.err
    assert all(line.startswith("pyro-priors: warning: ") for line in warned), captured.err
    return error


# names and places


def test_a_seed_of_an_evaluation_is_no_path(run, capsys):
    """Before, the evaluation was copied to ``evaluation-test-seedX.json``, whatever X was."""
    victim = run.parent / "settings.json"
    victim.write_text("precious")
    change_json(run / "evaluation.json", lambda record: record.update(seed="x/../../settings", payload="evil"))
    damaged = (run / "evaluation.json").read_bytes()
    (run / "evaluation-test-seedx").mkdir()
    assert command(["evaluate", str(run), *EVALUATE]) == 0
    told = capsys.readouterr().err
    assert victim.read_text() == "precious"
    assert "evaluation.json cannot be read (seed must be an integer, got 'x/../../settings')" in told
    assert RunFolder(run).evaluation()["seed"] == 0
    (kept,) = run.glob("evaluation-damaged-*.json")
    assert kept.read_bytes() == damaged


@pytest.mark.parametrize("name", ["{outside}", "../run2/{name}", "/dev/zero", "pair.json", "", ["a"], None, "\x1b[2J"])
def test_a_record_names_no_file_but_its_own(name, run):
    (tensors,) = (run / "pair").glob("*.safetensors")
    shutil.copytree(run / "pair", run / "run2")
    outside = run.parent / tensors.name
    shutil.copy(tensors, outside)
    if isinstance(name, str):
        name = name.format(outside=outside, name=tensors.name)
    record = json.loads((run / "pair/pair.json").read_text()) | {"tensors": name}
    (run / "pair/pair.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="pair.json (cannot be read|names the tensor file)") as error:
        pp.load(run)
    assert "\x1b" not in str(error.value) and "\n" not in str(error.value)


FILES = ["config.json", "evaluation.json", "metrics.jsonl", "pair/pair.json", "last/state.json", "tensors"]


def place_of(run, name):
    return next((run / "pair").glob("*.safetensors")) if name == "tensors" else run / name


def read_all(run):
    """What is read of a run, and the one-line errors and warnings on the way."""
    folder, told, found = RunFolder(run), [], {}
    readers = {
        "config": folder.config,
        "history": folder.history,
        "evaluation": folder.evaluation,
        "state": folder.load_state,
        "progress": folder.progress,
        "pair": lambda: runs.state(pp.load(run)),
    }
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for name, read in readers.items():
            try:
                found[name] = read()
            except (CheckpointError, FileNotFoundError) as error:
                told.append(str(error))
    told += [str(warning.message) for warning in warned]
    assert not any("\n" in line for line in told)
    return found, told


@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "link out", "loop", "large"])
@pytest.mark.parametrize("name", FILES)
def test_only_regular_files_inside_the_folder_are_opened(name, kind, run, tmp_path):
    """A read of a pipe would wait forever; one of a device may do anything."""
    path = place_of(run, name)
    moved = tmp_path / "moved"
    path.rename(moved)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "large":
        with path.open("wb") as file:
            file.truncate(2**40 if name == "tensors" else 2**29)  # a file with a hole, which takes no space
    else:
        path.symlink_to({"device": Path("/dev/zero"), "link out": moved, "loop": path}[kind])
    _, told = read_all(run)
    reason = {
        "fifo": "it is not a regular file",
        "device": "is a link to a place outside",
        "folder": "it is not a regular file",
        "link out": "is a link to a place outside",
        "loop": "cannot be read",
        "large": "more than the maximum",
    }[kind]
    assert told and all(str(path) in line for line in told) and re.search(reason, told[0]), told


def test_a_link_inside_the_folder_is_followed(run):
    (run / "kept").mkdir()
    (run / "config.json").rename(run / "kept/config.json")
    (run / "config.json").symlink_to("kept/config.json")
    link = run.parent / "link"
    link.symlink_to(run)  # the folder itself is where the user says
    assert RunFolder(link).config()["pair"]["name"] == "cp_vae" and pp.load(link)


@pytest.mark.parametrize("name", ["pair", "last", "figures"])
def test_a_folder_of_a_run_is_no_link_out_of_it(name, run, tmp_path, capsys):
    elsewhere = tmp_path / "elsewhere"
    if (run / name).exists():
        (run / name).rename(elsewhere)
    elsewhere.mkdir(exist_ok=True)
    (run / name).symlink_to(elsewhere)
    before = runs.snapshot(elsewhere)
    words = ["resume", str(run), "--quiet", "--train.max-epochs", "3"] if name == "last" else ["plot", str(run)]
    assert f"{run / name}" in (line := one_line(command(words), capsys)) and "is a link to a place outside" in line
    assert runs.snapshot(elsewhere) == before


# schemas


def put(place, value):
    """A change of a record: the value at a place such as ``train.seed``; None at the end of the place removes it."""

    def change(record):
        *path, last = [int(key) if key.isdigit() else key for key in place.split("/")]
        for key in path:
            record = record[key]
        if value is REMOVED:
            del record[last]
        else:
            record[last] = value

    return change


REMOVED = object()

WRONG = [
    ("config.json", "pair", REMOVED, "pair is missing"),
    ("config.json", "pair", [], "pair must be an object or null, got []"),
    ("config.json", "pair/name", "../vae", "pair.name must be a name of letters"),
    ("config.json", "pair/own_networks", ["model"], "pair.own_networks[0] must be one of 'encoder', 'decoder'"),
    ("config.json", "pair/more", 1, "pair has an unknown key 'more'"),
    ("config.json", "data/name", 3, "data.name must be a string, got 3"),
    ("config.json", "data/name", "a\x1b[2Jb", "data.name must be a string without control characters"),
    ("config.json", "data/name", "a" * 5000, "data.name must have at most 4096 characters, got 5000"),
    ("config.json", "data/config/seed", "0", "data.config.seed must be an integer, got '0'"),
    ("config.json", "data/config/binarise", "no", "data.config.binarise must be one of 'dynamic', 'fixed', 'none'"),
    ("config.json", "data/sha256", "0", "data.sha256 must be a checksum of 64 hexadecimal digits"),
    ("config.json", "objective", None, "objective must be an object, got None"),
    ("config.json", "train/max_epochs", "120", "train.max_epochs must be an integer, got '120'"),
    ("config.json", "train/batch_size", 32.5, "train.batch_size must be an integer, got 32.5"),
    ("config.json", "train/learning_rate", float("nan"), "train.learning_rate must be a finite number, got nan"),
    ("config.json", "train/clip_norm", float("nan"), "train.clip_norm must be a number, got nan"),
    ("config.json", "train/tensorboard", 1, "train.tensorboard must be true or false, got 1"),
    ("config.json", "train/warmup_sites", "z", "train.warmup_sites must be a list, got 'z'"),
    ("config.json", "command", "train", "command must be a list, got 'train'"),
    ("config.json", "command/1", 3, "command[1] must be a string, got 3"),
    ("config.json", "versions", {"torch": 2}, "versions.torch must be a string, got 2"),
    ("evaluation.json", "part", "../x", "part must be one of 'train', 'valid', 'test', got '../x'"),
    ("evaluation.json", "seed", True, "seed must be an integer, got True"),
    ("evaluation.json", "seed", -1, "seed must be at least 0"),
    ("evaluation.json", "metrics", [], "metrics must be an object, got []"),
    ("evaluation.json", "metrics/bound", 3.0, "metrics.bound must be an object, got 3.0"),
    ("evaluation.json", "metrics/bound/value", "3", "metrics.bound.value must be a number, got '3'"),
    ("evaluation.json", "metrics/bound/value", REMOVED, "metrics.bound.value is missing"),
    ("evaluation.json", "metrics/bound/other", 1, "metrics.bound has an unknown key 'other'"),
    ("evaluation.json", "asked", ["bound", 3], "asked[1] must be a string, got 3"),
    ("evaluation.json", "weights", "others", "weights must be a checksum of 64 hexadecimal digits, got 'others'"),
    ("evaluation.json", "epochs", 1.5, "epochs must be an integer or null, got 1.5"),
    ("evaluation.json", "aggregate_c", [2.0], "aggregate_c[0] must be at least 0 and at most 1.001, got 2.0"),
    ("evaluation.json", "num_samples", 10**30, "num_samples must be at least 0"),
]


@pytest.mark.parametrize(
    ("file", "place", "value", "message"), WRONG, ids=[f"{w[0]} {w[1]} {i}" for i, w in enumerate(WRONG)]
)
def test_a_wrong_value_is_told_with_its_file_and_field(file, place, value, message, run):
    change_json(run / file, put(place, value))
    if file == "config.json":
        with pytest.raises(CheckpointError, match="^[^\n]*$") as error:
            RunFolder(run).config()
        line = str(error.value)
    else:
        with pytest.warns(RuntimeWarning) as warned:
            assert RunFolder(run).evaluation() is None
        line = str(warned[0].message)
    assert line.startswith(f"{run / file} cannot be read ({message}"), line


CONTENTS = {
    "a list": (b"[]", "it must be an object, got []"),
    "a number": (b"3", "it must be an object, got 3"),
    "brackets": (b"[" * 100_000, "its brackets are nested more than 32 levels deep"),
    "brackets in a value": (b'{"pair": ' + b'{"a":' * 100_000, "its brackets are nested more than 32 levels deep"),
    "quotes": (b'"\\' * 200_000, "Unterminated string"),
    "digits": (b'{"pair": ' + b"9" * 10_000 + b"}", "Exceeds the limit"),
    "nothing": (b"", "Expecting value"),
    "no text": (b"\xff\xfe\x00", "can't decode"),
    "another encoding": ('{"pair": null}'.encode("utf-16-le"), "Expecting"),
}


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("file", ["config.json", "evaluation.json", "pair/pair.json", "last/state.json"])
def test_a_file_of_something_else_is_told(content, file, run):
    (run / file).write_bytes(CONTENTS[content][0])
    _, told = read_all(run)
    assert told and str(run / file) in told[0] and CONTENTS[content][1] in told[0], told


def test_brackets_in_texts_are_no_nesting(run):
    change_json(run / "config.json", put("versions", {"a": '["' + "[{" * 500 + '\\"'}))
    assert RunFolder(run).config()["versions"]["a"].endswith('{\\"')


def test_what_another_version_added_is_kept():
    """At the top of a record; what the checksum covers includes it."""
    found = _records.parse(json.dumps(_records.seal(EPOCH | {"new": [1]}), indent=1).encode(), _schemas.Epoch)
    assert found == EPOCH | {"new": [1]}


EPOCH = {"epoch": 0, "step": 3, "learning_rate": 0.01, "seconds": 1.0, "valid_bound": -1.5, "kl_weight": {"z": 0.5}}


def test_the_results_are_what_the_schemas_say(capsys):
    """Every run that is kept with the package, without a warning."""
    files, num = sorted(RESULTS.rglob("runs.jsonl")), 0
    for file in files:
        runs_of_paper = KeptRuns(file.parent)
        for name in runs_of_paper.names():
            run = runs_of_paper.find(name)
            assert run.config()["pair"]["name"] and (run.evaluation() is None or run.evaluation()["metrics"])
            assert not run.history() or run.history()[-1]["epoch"] == run.num_epochs - 1
            num += 1
    assert len(files) == 9 and num >= 389
    with capsys.disabled():
        print(f" {num} runs in {len(files)} files of results: all as the schemas say")


# checksums


@pytest.mark.parametrize("file", ["config.json", "evaluation.json", "metrics.jsonl"])
def test_a_flipped_digit_is_told(file, run):
    """Before, another digit in ``config.json`` evaluated on another split, silently."""
    content = (run / file).read_text()
    digits = [match.start(1) for match in re.finditer(r"[:\[ ]-?(\d)", content)]
    assert len(digits) > 15
    whole, _ = read_all(run)
    for position in digits[:: max(1, len(digits) // 20)]:
        other = str((int(content[position]) + 1) % 10)
        (run / file).write_text(content[:position] + other + content[position + 1 :])
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            found = read_one(run, file, told := [])
        told += [str(warning.message) for warning in warned]
        assert told and str(run / file) in told[0] and len(told) == 1, position
        assert found is None or found != whole[NAMES[file]]


NAMES = {"config.json": "config", "evaluation.json": "evaluation", "metrics.jsonl": "history"}


def read_one(run, file, told):
    try:
        return getattr(RunFolder(run), NAMES[file])()
    except CheckpointError as error:
        told.append(str(error))


def test_an_evaluation_on_an_altered_split_is_refused(run, capsys):
    text = (run / "config.json").read_text()
    (run / "config.json").write_text(text.replace('"limit": 64', '"limit": 63'))
    line = one_line(command(["evaluate", str(run), *EVALUATE]), capsys)
    assert "config.json cannot be read (its content does not match its checksum)" in line


def test_a_file_without_a_checksum_is_not_read(run, capsys):
    (run / "config.json").write_text(json.dumps(runs.unsealed(run / "config.json")))
    assert "sha256 must be a checksum of 64 hexadecimal digits" in one_line(command(["plot", str(run)]), capsys)


# lines and evaluations that are damaged


def test_damaged_lines_are_told_and_kept_aside(run):
    first, second = (run / "metrics.jsonl").read_text().splitlines()
    cut, repeated = second[: len(second) // 2], first
    (run / "metrics.jsonl").write_text(f"{first}\n{cut}\n{repeated}\n{second}\n")
    with pytest.warns(RuntimeWarning, match=r"damaged lines, which are skipped: line 2 \(Unterminated .* and 1 more"):
        assert [line["epoch"] for line in RunFolder(run).history()] == [0, 1]
    assert not RunFolder(run).damaged_file.exists(), "reading changes nothing"
    with pytest.warns(RuntimeWarning, match=r"damaged in line 2 .*; damaged lines \(2\) are kept in metrics\.damaged"):
        resume(run, max_epochs=3)
    assert RunFolder(run).damaged_file.read_text() == f"{cut}\n{repeated}\n"
    assert [line["epoch"] for line in RunFolder(run).history()] == [0, 1, 2]


def test_a_lost_line_is_kept_aside_too(run):
    first, second = (run / "metrics.jsonl").read_text().splitlines()
    altered = first.replace('"valid_bound": -', '"valid_bound": -1')
    (run / "metrics.jsonl").write_text(f"{altered}\n{second}")
    with pytest.warns(RuntimeWarning, match="lacks the lines of 1 of 2 epochs.*; damaged lines .1. are kept in"):
        resume(run)
    assert RunFolder(run).damaged_file.read_text() == f"{altered}\n"


def test_a_cut_evaluation_is_kept_aside(run, capsys):
    content = (run / "evaluation.json").read_bytes()[:-10]
    (run / "evaluation.json").write_bytes(content)
    assert command(["evaluate", str(run), *EVALUATE]) == 0
    captured = capsys.readouterr()
    (kept,) = run.glob("evaluation-damaged-*.json")
    assert kept.read_bytes() == content and captured.err.count("evaluation.json cannot be read") == 1
    assert RunFolder(run).evaluation()["metrics"].keys() >= {"bound"}


# states


def resume(run, **options):
    """Resume the run in Python."""
    data = pp.data.load("digits", limit=64)
    pair = pp.zoo.create_for("cp_vae", data, 0, hidden=(8,), z_dim=2, num_categories=3)
    options = {"max_epochs": 2, "batch_size": 32, "device": "cpu"} | options
    before = runs.state(pair)
    try:
        pp.fit(pair, data, ELBO(), out=run, resume=True, progress=False, **options)
    except CheckpointError:
        assert runs.same_bits(runs.state(pair), before), "nothing is loaded"
        raise
    return pair


def largest_moment(tensors):
    return max((key for key in tensors if key.endswith("exp_avg")), key=lambda key: tensors[key].numel())


def moments(change):
    """A change of the largest first moment."""
    return lambda tensors: tensors.update({(key := largest_moment(tensors)): change(tensors[key])})


def tensor(name, change):
    return lambda tensors: tensors.update({name: change(tensors[name])})


def with_value(tensors, value):
    tensors = tensors.clone()
    tensors.view(-1)[0] = value
    return tensors


WEIGHT = "model.decoder.out.input.weight"
STATES = {
    "a moment of one value": (moments(lambda one: torch.zeros(1)), r"exp_avg must be of type float32 and shape"),
    "a moment without values": (moments(lambda one: torch.zeros(0)), "exp_avg must be of type float32 and shape"),
    "a large moment": (moments(lambda one: torch.zeros(1000, 1000)), "exp_avg must be of type float32 and shape"),
    "a moment that is turned": (moments(lambda one: one.T.contiguous()), "exp_avg must be of type float32 and shape"),
    "a moment in double": (moments(lambda one: one.double()), "got type float64 and shape"),
    "a moment of integers": (moments(lambda one: one.long()), "got type int64 and shape"),
    "a moment of NaN": (moments(lambda one: one * float("nan")), "exp_avg' contains nan"),
    "a negative square": (tensor("optimizer/0/exp_avg_sq", lambda one: -1 - one), "has negative values"),
    "no moment": (lambda t: t.pop(largest_moment(t)), "must have step, exp_avg and exp_avg_sq, got"),
    "a moment more": (
        lambda t: t.update({"optimizer/0/max_exp_avg_sq": torch.zeros(1)}),
        "must have step, exp_avg and",
    ),
    "no optimizer": (
        lambda t: [t.pop(key) for key in [*t] if key.startswith("optimizer/")],
        "its optimizer state is empty after 4 steps",
    ),
    "another name of a parameter": (
        lambda t: t.update({"optimizer/00/step": torch.ones(())}),
        "which no training writes",
    ),
    "a parameter more": (lambda t: t.update({"optimizer/999/step": torch.zeros(())}), "has a parameter 999, but the"),
    "a step of shape (1,)": (tensor("optimizer/0/step", lambda one: one[None]), "step must be a scalar float"),
    "a step of -1": (tensor("optimizer/0/step", lambda one: one * 0 - 1), "step must be an integer from 1 to 4"),
    "a step beyond": (tensor("optimizer/0/step", lambda one: one + 1), "step must be an integer from 1 to 4"),
    "a weight of one value": (tensor(f"pair/{WEIGHT}", lambda one: torch.zeros(1)), r"has shape \(1,\) there"),
    "a weight in double": (tensor(f"pair/{WEIGHT}", lambda one: one.double()), "is float64 there and float32 here"),
    "a complex weight": (tensor(f"pair/{WEIGHT}", lambda one: one.bool()), "is bool there and float32 here"),
    "no weight": (lambda t: t.pop(f"pair/{WEIGHT}"), "is in only one of the two"),
    "a best weight of one value": (tensor(f"best/{WEIGHT}", lambda one: torch.zeros(1)), r"has shape \(1,\) there"),
    "a best weight of infinity": (
        tensor(f"best/{WEIGHT}", lambda one: with_value(one, torch.inf)),
        "best/.*contains inf",
    ),
    "a tensor of something": (lambda t: t.update({"something": torch.zeros(1)}), "a tensor 'something', which no"),
    "a tensor of somewhere": (lambda t: t.update({"../x/y": torch.zeros(1)}), "a tensor '../x/y', which no training"),
    "a parameter with a name": (lambda t: t.update({"optimizer/x/step": torch.zeros(())}), "which no training writes"),
    "an objective": (lambda t: t.update({"objective/x": torch.zeros(1)}), "tensors of an objective, and ELBO has"),
}


@pytest.mark.parametrize("kind", STATES)
def test_tensors_of_a_state_are_checked_before_they_are_loaded(kind, run):
    """Before, fused Adam read and wrote past the end of a moment that was too small."""
    change, message = STATES[kind]
    change_saved(run / "last", "state", lambda record: None, change)
    with pytest.raises(CheckpointError, match=message) as error:
        resume(run, max_epochs=3)
    assert "\n" not in str(error.value)


RECORDS = {
    "progress": ([], "progress must be an object"),
    "progress/epoch": (-1, "progress.epoch must be at least 0"),
    "progress/step": (5, "progress.step must be 4, got 5"),
    "progress/step_in_epoch": (3, "progress.step_in_epoch must be at most 2"),
    "progress/count": (7, "progress.count must be 0"),
    "progress/best_epoch": (2, "progress.best_epoch must be below 2"),
    "progress/best_bound": (float("inf"), "progress.best_bound must be finite"),
    "progress/wait": (9, "progress.wait must be at most 3"),
    "progress/stopped": ("never", "progress.stopped must be '', 'patience' or 'a callback: NAME', got 'never'"),
    "progress/sums": ({"loss": "1"}, "progress.sums.loss must be a number"),
    "progress/more": (1, "progress has an unknown key 'more'"),
    "progress/compile": ("yes", "progress.compile must be true or false or null"),
    "param_groups": ([], "param_groups must have 1 entries, got 0"),
    "param_groups/0": (3, r"param_groups\[0\] must be an object"),
    "param_groups/0/lr": (float("nan"), r"param_groups\[0\].lr must be a finite, non-negative number"),
    "param_groups/0/betas": ([0.5, 0.5], r"param_groups\[0\].betas must be \[0.9, 0.999\], got \[0.5, 0.5\]"),
    "param_groups/0/params": ([0], r"param_groups\[0\].params must be \[0, 1"),
    "param_groups/0/weight_decay": (1.0, r"param_groups\[0\].weight_decay must be 0, got 1.0"),
}


@pytest.mark.parametrize("place", RECORDS)
def test_the_record_of_a_state_is_checked(place, run):
    value, message = RECORDS[place]
    file = run / "last" / "state.json"
    tensors, record = checkpoint.read(run / "last", "state")
    put(place, value)(record)
    digest = checkpoint.digest_of(tensors, record)
    for path in (run / "last").iterdir():
        path.unlink()
    name = f"state-{digest[:16]}.safetensors"
    (run / "last" / name).write_bytes(checkpoint.pack(tensors))
    file.write_text(json.dumps(record | {"tensors": name, "sha256": digest}))
    with pytest.raises(CheckpointError, match=message) as error:
        resume(run, max_epochs=3)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("sums", [{"loss": 1e6}, {"loss": float("inf")}])
def test_sums_of_no_data_are_refused(sums, run):
    change_saved(run / "last", "state", lambda record: record["progress"].update(sums=sums))
    with pytest.raises(CheckpointError, match="progress.sums must be|progress.sums.loss must be"):
        resume(run, max_epochs=3)


def test_more_epochs_than_are_asked_for(run):
    (run / "metrics.jsonl").unlink()
    with pytest.raises(ValueError, match="max_epochs is 1, but the run in .* has trained 2 epochs: give at least 2"):
        resume(run, max_epochs=1)


def test_a_state_whose_weights_had_become_nan_is_one_that_diverged(run):
    """Written between the step that diverged and the next one, which would have found it."""
    change = tensor(f"pair/{WEIGHT}", lambda one: with_value(one, torch.nan))
    change_saved(run / "last", "state", lambda record: None, change)
    best = checkpoint.read(run / "last", "state")[0]
    with pytest.raises(pp.TrainingDiverged, match=f"has already diverged: '{WEIGHT}' became nan before step 4"):
        pair = None
        data = pp.data.load("digits", limit=64)
        pair = pp.zoo.create_for("cp_vae", data, 0, hidden=(8,), z_dim=2, num_categories=3)
        pp.fit(pair, data, ELBO(), out=run, resume=True, progress=False, max_epochs=3, batch_size=32, device="cpu")
    assert torch.equal(runs.state(pair)[WEIGHT], best[f"best/{WEIGHT}"])


OBJECTIVES = {
    "factor: no matrix": (Factor, lambda s: s.pop("discriminator/layers.0.weight"), "must have a matrix"),
    "factor: other shape": (Factor, put("discriminator_layers.1.bias", None), "must be of type float32 and shape"),
    "factor: NaN": (Factor, None, "contains nan"),
    "factor: moment": (Factor, None, "exp_avg must be of type float32 and shape"),
    "constrained: name": (Constrained, lambda s: s.pop("met"), "'met' is in only one of"),
    "constrained: beta": (Constrained, lambda s: s.update(beta=-s["beta"]), "beta must be above 0"),
    "constrained: NaN": (Constrained, lambda s: s.update(average=s["average"] * torch.nan), "'average' contains nan"),
    "constrained: shape": (
        Constrained,
        lambda s: s.update(met=torch.zeros(2)),
        "'met' must be of type float64",
    ),
}


def alter(kind, state):
    if kind == "factor: other shape":
        state["discriminator/layers.1.bias"] = torch.zeros(7)
    elif kind == "factor: NaN":
        state["discriminator/layers.1.bias"] = state["discriminator/layers.1.bias"] * torch.nan
    elif kind == "factor: moment":
        state["optimizer/0/exp_avg"] = torch.zeros(1)
    else:
        OBJECTIVES[kind][1](state)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_the_state_of_an_objective_is_checked(kind):
    of, _, message = OBJECTIVES[kind]
    if of is Factor:
        objective = Factor(hidden=(5,))
        objective._make(2, 1, torch.zeros(()))
        objective.discriminator(torch.randn(3, 2)).sum().backward()
        objective.end_step()
    else:
        objective = Constrained(1.0)
        objective.observe({"reconstruction": torch.tensor(-2.0)})
        objective.end_step()
    state = {name: value.clone() for name, value in objective.state().items()}
    again = copy.copy(objective)
    again.begin(0, 0)
    again.load_state(dict(state), torch.device("cpu"))
    assert runs.same_bits(again.state(), state)
    alter(kind, state)
    again.begin(0, 0)
    with pytest.raises(CheckpointError, match=message):
        again.load_state(state, torch.device("cpu"))
    assert again.state() == {}


# pairs

RECIPES = {
    "a name that is unknown": (put("pair/name", "vaf"), r"does not describe a pair \(pair 'vaf' is unknown"),
    "an option that is unknown": (put("pair/config/z", 3), "has no option 'z'"),
    "an argument of load": (put("pair/config/encoder", 3), "has no option 'encoder'"),
    "no shape": (put("pair/config/x_shape", REMOVED), "needs x_shape"),
    "a text for a number": (put("pair/config/z_dim", "2"), "z_dim must be an integer, got '2'"),
    "another size": (put("pair/config/z_dim", 3), r"another network: '.*' has shape"),
    "a huge code": (put("pair/config/z_dim", 10**9), "does not describe a pair"),
    "huge layers": (
        put("pair/config/hidden", [10**5, 10**5]),
        "needs more than .* (values that are|GiB of memory)|allocate memory",
    ),
    "many layers": (put("pair/config/hidden", [1] * 30_000), "needs more than .* values that are not in its"),
    "many categories": (put("pair/config/num_categories", 10**8), "needs more than .* values that are not in its"),
    "a size beyond": (put("pair/config/z_dim", 2**62), "does not describe a pair"),
}


@pytest.mark.parametrize("kind", RECIPES)
def test_a_recipe_of_another_pair_is_told(kind, run):
    change, message = RECIPES[kind]
    change_saved(run / "pair", "pair", change)
    with pytest.raises(CheckpointError, match=message) as error:
        pp.load(run)
    assert "\n" not in str(error.value)


def test_files_of_tensors_that_are_none(run):
    """With the right checksum, as a stranger would write them."""
    record = checkpoint.read(run / "pair", "pair")[1]
    for content in (b"", b"\xff" * 8, b"\x10" + bytes(7) + b'{"a": [[[[[[[[', os.urandom(500)):
        digest = checkpoint._digest(content, record)
        name = f"pair-{digest[:16]}.safetensors"
        (run / "pair" / name).write_bytes(content)
        (run / "pair" / "pair.json").write_text(json.dumps(record | {"tensors": name, "sha256": digest}))
        with pytest.raises(CheckpointError, match=f"{name} cannot be read: it is not a valid safetensors file"):
            pp.load(run)


def test_a_pair_of_nan_is_not_evaluated(run, capsys):
    change_saved(run / "pair", "pair", lambda record: None, tensor(WEIGHT, lambda one: one * torch.nan))
    line = one_line(command(["evaluate", str(run), *EVALUATE]), capsys)
    assert f"has NaN or infinite values in '{WEIGHT}'" in line


# commands


@pytest.mark.parametrize(
    "arguments",
    [
        ["--tyro-write-completion", "bash", "{outside}"],
        ["--tyro-print-completion", "bash"],
        ["--out", "{outside}"],
        ["--out={outside}"],
        ["--resume"],
        ["--help"],
        ["-h"],
        ["--train.no-such", "3"],
        ["--prior.x-shape.more", "3"],
    ],
)
def test_resume_takes_only_options_of_the_training_from_a_run(arguments, run, capsys):
    """tyro itself has an option that writes a file anywhere."""
    outside = run.parent / "outside"
    arguments = [argument.format(outside=outside) for argument in arguments]
    change_json(run / "config.json", lambda record: record.update(command=[*record["command"], *arguments]))
    line = one_line(command(["resume", str(run), "--quiet"]), capsys)
    assert f"has a command with the argument '{arguments[0]}', which resume does not take from a file" in line
    assert not outside.exists()


@pytest.mark.parametrize("words", [["--help"], ["../vae"], ["vaf", "--data=digits"]])
def test_a_command_begins_with_a_pair(words, run, capsys):
    change_json(run / "config.json", put("command", words))
    assert f"the argument '{words[0]}'" in one_line(command(["resume", str(run)]), capsys)


def test_a_run_does_not_say_how_many_processes_it_takes(run, capsys, monkeypatch):
    more = ["--train.num-processes", "64", "--train.max-epochs=3"]
    change_json(run / "config.json", lambda record: record.update(command=[*record["command"], *more]))
    used, fit = [], pp.fit

    def noted(*args, config, **given):
        used.append(config)
        return fit(*args, config=config, **given)

    monkeypatch.setattr("pyro_priors.cli.train.fit", noted)
    assert command(["resume", str(run), "--quiet"]) == 0
    assert used[0].num_processes == 1 and used[0].max_epochs == 3
    told = capsys.readouterr().err
    assert "warning: --train.num-processes 64 is not taken from" in told
    assert command(["resume", str(run), "--quiet", "--train.num-processes", "1"]) == 0
    assert "is not taken" not in capsys.readouterr().err
    assert command(["resume", "--help"]) == 0
    assert "not --train.num-processes: give it again" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("name", ["evaluate", "resume"])
def test_a_folder_of_data_that_a_run_names_is_not_made(name, run, capsys):
    """A data set that is not there is downloaded into it."""
    root = run.parent / "data"

    def change(record):
        record["data"]["config"]["root"] = str(root)
        record["command"].append(f"--data.root={root}")

    change_json(run / "config.json", change)
    assert "data.root" in one_line(command([name, str(run)]), capsys) and not root.exists()


def test_a_row_that_cannot_be_read_is_marked(tmp_path):
    """The others are shown."""
    found = experiments.find("lavda2019/fig3")
    (tmp_path / "lavda2019").mkdir()
    lines = (RESULTS / "lavda2019" / "runs.jsonl").read_bytes().splitlines()
    names = [json.loads(line)["name"] for line in lines]
    damaged, *others = [row.name for row in found.rows if row.name in names]
    lines[names.index(damaged)] = lines[names.index(damaged)].replace(b'"seed":0', b'"seed":1', 1)
    (tmp_path / "lavda2019" / "runs.jsonl").write_bytes(b"\n".join(lines))
    with pytest.warns(
        RuntimeWarning, match=rf"line {names.index(damaged) + 1} \(its content does not match its checksum"
    ):
        report = experiments.reproduce(found.name, out=tmp_path, train=False)
    statuses = {one.row.name: one for one in report.results}
    assert statuses[damaged].status == "not trained"
    assert others and all(statuses[name].estimates for name in others)


# many


def mutated(content, draw):
    """The content with a byte altered, lost or added, cut, or with a part repeated; never as it was."""
    at = draw.randrange(len(content))
    kind = draw.choice(["flip", "digit", "cut", "lose", "add", "repeat", "zeros"])
    if kind == "flip":
        return content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :]
    if kind == "digit":
        places = [i for i, byte in enumerate(content) if 48 <= byte < 58] or [at]
        at = draw.choice(places)
        return content[:at] + bytes([48 + (content[at] - 48 + 1) % 10]) + content[at + 1 :]
    if kind == "cut":
        return content[:at]
    if kind == "lose":
        return content[:at] + content[at + 1 :]
    if kind == "add":
        return content[:at] + bytes([draw.randrange(256)]) + content[at:]
    if kind == "repeat":
        return content[:at] + content[max(0, at - 20) :]
    return content[:at] + bytes(len(content) - at)


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if hasattr(one, "__dataclass_fields__"):
        return same(vars(one), vars(other))
    return one == other


def fuzz(run, num, seed, capsys):
    draw = random.Random(seed)
    whole, told = read_all(run)
    assert not told
    files = [
        path for path in sorted(run.rglob("*")) if path.is_file() and path.suffix in (".json", ".jsonl", ".safetensors")
    ]
    # the last state is read while it is whole, and the one before it then
    files = [path for path in files if "previous" not in path.name]
    in_use = {json.loads((run / "last/state.json").read_text())["tensors"], *(p.name for p in (run / "pair").iterdir())}
    files = [path for path in files if path.suffix != ".safetensors" or path.name in in_use]
    counts = {"told": 0, "the same values": 0}
    for index in range(num):
        path = files[index % len(files)]
        copied = run.parent / "fuzzed"
        shutil.rmtree(copied, ignore_errors=True)
        shutil.copytree(run, copied)
        target = copied / path.relative_to(run)
        content = target.read_bytes()
        if (altered := mutated(content, draw)) == content:
            continue
        target.write_bytes(altered)
        found, told = read_all(copied)
        if told:
            counts["told"] += 1
            continue
        assert same(found, whole), f"silently accepted: {path.name}"
        counts["the same values"] += 1
    with capsys.disabled():
        print(f" {num} altered files: {counts}, no traceback, none accepted with other values")
    assert counts["told"] > 0.8 * num


@pytest.mark.parametrize(("num", "seed"), [(28, 0), pytest.param(700, 1, marks=pytest.mark.slow)])
def test_accidents_are_told(num, seed, run, capsys):
    fuzz(run, num, seed, capsys)


VALUES = [None, True, -1, 0, 1, 2**70, 1.5, -1e308, float("nan"), float("inf"), "", "x", "../x", "\x00", [], {}, [[]]]


def places(record, prefix=""):
    items = enumerate(record) if isinstance(record, list) else record.items() if isinstance(record, dict) else ()
    for key, value in items:
        yield f"{prefix}{key}"
        yield from places(value, f"{prefix}{key}/")


def swap(file, num, draw):
    """Changes of one value each of a record to a value of another kind."""
    record = json.loads(file.read_text())
    found = [place for place in places(record) if place.split("/")[0] not in ("sha256", "tensors", "format")]
    return [(draw.choice(found), draw.choice(VALUES)) for _ in range(num)]


@pytest.mark.parametrize("num", [1, pytest.param(60, marks=pytest.mark.slow)])
def test_strangers_values_end_in_one_line(num, run, capsys):
    """Values of other kinds under right checksums, by the commands that read them: an exit status, and no traceback."""
    draw, counts = random.Random(2), {0: 0, 1: 0, 2: 0}
    copied = run.parent / "fuzzed"
    commands = {
        "config.json": [["evaluate", str(copied), *EVALUATE], ["resume", str(copied), "--quiet"]],
        "evaluation.json": [["evaluate", str(copied), *EVALUATE]],
        "pair/pair.json": [["evaluate", str(copied), *EVALUATE]],
        "last/state.json": [["resume", str(copied), "--quiet", "--train.max-epochs", "3"]],
        "metrics.jsonl": [["resume", str(copied), "--quiet", "--train.max-epochs", "3"]],
    }
    for name, of_file in commands.items():
        source = run / name if name != "metrics.jsonl" else run / "epoch.json"
        if name == "metrics.jsonl":
            source.write_text((run / name).read_text().splitlines()[-1])
        for place, value in swap(source, num, draw):
            shutil.rmtree(copied, ignore_errors=True)
            shutil.copytree(run, copied)
            if "/" in name:
                folder, stem = copied / name.split("/")[0], Path(name).stem
                tensors, record = checkpoint.read(folder, stem)
                put(place, value)(record)
                digest = checkpoint.digest_of(tensors, record)
                for path in folder.iterdir():
                    path.unlink()
                tensor_file = f"{stem}-{digest[:16]}.safetensors"
                (folder / tensor_file).write_bytes(checkpoint.pack(tensors))
                (folder / f"{stem}.json").write_text(json.dumps(record | {"tensors": tensor_file, "sha256": digest}))
            elif name == "metrics.jsonl":
                first, last = (copied / name).read_text().splitlines()
                record = {key: one for key, one in json.loads(last).items() if key != "sha256"}
                put(place, value)(record)
                (copied / name).write_text(f"{first}\n{json.dumps(_records.seal(record, 16))}\n")
            else:
                change_json(copied / name, put(place, value))
            for words in of_file:
                status = command(words)  # an error of another kind is raised
                errors = capsys.readouterr().err.splitlines()
                assert status in counts and "Traceback" not in "".join(errors), (name, place, value)
                assert sum(line.startswith("pyro-priors: error: ") for line in errors) == (status != 0), errors
                counts[status] += 1
    with capsys.disabled():
        print(f" {sum(counts.values())} commands on strangers' values, by exit status: {counts}, no traceback")


# what was found by attacking it


def test_links_in_place_of_the_folders_of_a_run_are_not_followed_by_resume(tmp_path, finished):
    for name in ("last", "pair"):
        run, outside = tmp_path / f"run-{name}", tmp_path / f"outside-{name}"
        shutil.copytree(finished, run)
        shutil.rmtree(run / name)
        outside.mkdir()
        (run / name).symlink_to(outside)
        assert main(["resume", str(run), "--train.max-epochs", "40"]) == 2
        assert list(outside.iterdir()) == []


def test_a_name_that_could_not_be_read_again_is_refused_before_the_training(tmp_path):
    with pytest.raises(ValueError, match="^name must be at most 200 printable characters, got 'my.*data'"):
        pp.data.from_arrays(torch.rand(20, 3), name="my\tdata")
    others = {"tab\tbed": np.zeros(1), "y" * 5000: np.zeros(1)}
    np.savez(tmp_path / "mine.npz", x_train=np.random.rand(20, 3), **others)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = pp.data.load(str(tmp_path / "mine.npz")).source
    assert source.isprintable() and len(source) < 500


def test_a_folder_that_a_stranger_s_run_names_is_not_filled_by_downloads(tmp_path):
    for name in ("mnist", "celeba", "svhn", "omniglot"):
        message = "only a folder of yours is filled by downloads"
        with without_downloads(), pytest.raises(FileNotFoundError, match=message):
            pp.data.load(name, root=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_place_of_a_lock_is_refused(tmp_path):
    (tmp_path / "target").write_text("")
    (tmp_path / ".lock").symlink_to(tmp_path / "target")
    message = "[.]lock is not a regular file and cannot serve as a lock: remove it$"
    with pytest.raises(ValueError, match=message), locked(tmp_path, wait=False):
        pass


@pytest.mark.parametrize("path", ["~nobody-of-this-name/x", "y" * 300, "a\0b"])
def test_paths_that_the_system_cannot_have_are_told(path, capsys):
    with pytest.raises(ValueError, match="^path is not a valid path here"):
        pp.load(path)
    assert main(["evaluate", path]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("value", [math.nan, -0.1, 5.0])
def test_an_aggregate_posterior_that_is_no_distribution_is_told(tmp_path, value, capsys):
    options = ["--data", "moons", "--data.limit", "40", "--train.max-epochs", "1", "--quiet"]
    assert main(["train", "cp_vae", *options, "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    saved, record = checkpoint.read(tmp_path / "run" / "pair", "pair")
    saved["aggregate_c"][0] = value
    checkpoint.write(tmp_path / "run" / "pair", "pair", saved, {"pair": record["pair"]})
    assert main(["sample", str(tmp_path / "run"), "--category", "aggregate", "--out", str(tmp_path / "x.npz")]) == 2
    assert "has an aggregate posterior that is no distribution" in capsys.readouterr().err
