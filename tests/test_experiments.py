"""Experiments: rows that are trained once, evaluated once, go on where they stopped, and stand beside the published."""

import dataclasses
import io
import json
import os
import re
import shutil
import signal
import statistics
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import pyro_priors as pp
import runs
from pyro_priors import _records, experiments, metrics
from pyro_priors.cli.main import main
from pyro_priors.experiments import (
    Column,
    Experiment,
    Row,
    experiment,
    kept,
    number,
    pictures,
    runner,
    table,
)
from pyro_priors.metrics import Estimate
from pyro_priors.run_folder import RunFolder
from pyro_priors.training import loop

NAME = "test2026/table1"
CONFIG = pp.TrainConfig(max_epochs=2, batch_size=32, device="cpu")


def eight(pair, data):
    return {"eight": Estimate(8.0)}


def row(name, pair="vae", **options):
    small = runs.NETWORKS | {key: options.pop(key) for key in ("prior", "num_categories") if key in options}
    quick = dataclasses.replace(CONFIG, max_epochs=1)
    given = {"train": CONFIG, "quick": quick, "num_samples": 3, "num_data": 20, "categories": "sum"} | options
    return Row(name, pair, "digits", pair_options=small, data_options={"limit": 96}, **given)


ROWS = (
    row("digits-vae", differs=("one thing",)),
    row("digits-cp-4", "cp_vae", num_categories=4, measures=(eight,), differs=("another", "one thing")),
    row("digits-g", prior="gaussian"),
)
EXPERIMENT = Experiment(
    NAME,
    "a test",
    ROWS,
    ("bound", "log_likelihood"),
    (
        Column("negative bound", number("bound", -1), {"digits-vae": 12.34, "digits-g": 56.7}),
        Column("- log p(x)", experiments.log_likelihood(-1, 1)),
        Column("eight", number("eight", digits=0)),
    ),
    ("all differ",),
    lambda trained: pp.plots.image_panels(
        [[pp.plots.shown(one.pair.sample(4)["x_mean"], None, one.data) for one in trained.values()]], list(trained)
    ),
)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(experiment._REGISTRY, NAME, EXPERIMENT)


def reproduce(out, **options):
    return experiments.reproduce(NAME, out=out, **{"progress": False, "device": "cpu"} | options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder in which every row is trained and evaluated."""
    out = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(experiment._REGISTRY, NAME, EXPERIMENT)
        return out, reproduce(out)


@pytest.fixture
def counted(monkeypatch):
    """What is trained and what is evaluated from here on."""
    calls = []
    fit, evaluate, each = pp.fit, metrics.evaluate, metrics.evaluate_each
    monkeypatch.setattr(
        "pyro_priors.experiments.runner.fit",
        lambda *args, **given: calls.append(given["out"].name) or fit(*args, **given),
    )
    monkeypatch.setattr(
        metrics, "evaluate", lambda *args, **given: calls.append(given["metrics"]) or evaluate(*args, **given)
    )
    monkeypatch.setattr(
        metrics, "evaluate_each", lambda *args, **given: calls.append(given["metrics"]) or each(*args, **given)
    )
    return calls


def cells(table):
    """The cells of a table by row."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]
    return lines[0], {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[2:]}


# what it does


def test_rows_are_trained_evaluated_and_written(finished):
    out, report = finished
    folder = out / "test2026"
    assert [result.status for result in report.results] == ["", "", ""]
    assert report.files == [folder / f"table1{suffix}" for suffix in (".md", "-curves.png", ".png")]
    assert all(path.stat().st_size > 0 for path in report.files)
    assert (folder / "table1.md").read_text() == report.table
    heads, found = cells(report.table)
    assert heads[:3] == ["row", "published negative bound", "negative bound"]
    for result in report.results:
        name = result.row.name
        pair, data = pp.load(folder / name), pp.data.load("digits", limit=96)
        assert len(runs.records(folder / name)) == 2
        bound = pp.metrics.evaluate(pair, data, metrics=["bound"])["bound"]
        assert found[name]["negative bound"] == f"{-bound.value:.2f} ± {bound.stderr:.2f}"
        first = dataclasses.replace(data, test=data.test.take(slice(20)))
        log_p, same = (
            pp.metrics.evaluate(pair, first, metrics=[name], num_samples=3)[name]
            for name in ("log_likelihood", "bound")
        )
        assert found[name]["- log p(x)"] == f"{-log_p.value:.1f} ± {log_p.stderr:.1f} (bound {-same.value:.1f})"
        assert found[name]["epochs"] == "2"
    published = {name: line["published negative bound"] for name, line in found.items()}
    assert published == {"digits-vae": "12.34", "digits-cp-4": "", "digits-g": "56.70"}
    assert (found["digits-cp-4"]["eight"], found["digits-vae"]["eight"]) == ("8", "")


def test_what_differs_is_said_once_and_pointed_at(finished):
    table = finished[1].table
    notes = dict(re.findall(r"^(\d+)\. (.*)$", table, re.MULTILINE))
    assert "- all differ" in table and "QUICK" not in table
    told = {name: [notes[i] for i in line["notes"].split()] for name, line in cells(table)[1].items()}
    assert told["digits-vae"][0] == "one thing" and told["digits-cp-4"][:2] == ["another", "one thing"]
    assert (
        "log p(x) from 3 importance samples of the first 20 test data, with the bound of the same data"
        in told["digits-g"]
    )
    assert any(note.startswith("data: scikit-learn's load_digits") for note in told["digits-g"])
    assert "ours: 2 epochs, batches of 32, Adam at 0.0005" in told["digits-vae"]


def test_a_schedule_is_told_in_full():
    config = pp.TrainConfig(
        max_epochs=60,
        schedule="cosine",
        warmup_epochs=10,
        warmup_sites=("z",),
        frozen=("guide.category",),
        frozen_epochs=40,
        patience=50,
    )
    assert table._schedule(config) == (
        "60 epochs, batches of 100, Adam at 0.0005, falling along a cosine, the KL of z warmed up over 10, "
        "guide.category held for 40, stopped after 50 without a better validation bound"
    )


def test_a_line_of_each_run_holds_every_estimate(finished):
    out, report = finished
    folder = out / "test2026"
    lines = [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == sorted(one.name for one in ROWS)
    for line in lines:
        run = RunFolder(folder / line["name"])
        assert line["config"] == run.config() and line["evaluation"] == run.evaluation()
        assert line["epochs"] == 2 and line["seconds_per_epoch"] == run.history()[1]["seconds"]
        assert line["curve"]["valid_bound"] == [record["valid_bound"] for record in run.history()]
    (vae,) = (line for line in lines if line["name"] == "digits-vae")
    assert vae["evaluation"]["metrics"].keys() == report.results[0].estimates.keys() >= {"bound", "log_likelihood"}


def test_a_thinned_curve_has_its_ends_and_its_best_epoch():
    history = [
        {"epoch": i, "step": i, "valid_bound": -1 / 3 - abs(i - 313), "train_loss": 1 / 7, "seconds": 1.0}
        for i in range(600)
    ]
    curve = kept.thinned(history)
    assert curve.keys() == {"epoch", "valid_bound", "train_loss"} and 50 <= len(curve["epoch"]) <= 51
    assert curve["epoch"][0] == 0 and curve["epoch"][-1] == 599 and set(curve["train_loss"]) == {0.142857}
    assert curve["epoch"] == sorted(set(curve["epoch"])) and max(b - a for a, b in pairwise(curve["epoch"])) <= 13
    assert max(zip(curve["valid_bound"], curve["epoch"], strict=True)) == (-1 / 3, 313)
    assert kept.thinned(history[:3])["epoch"] == [0, 1, 2] and kept.thinned([]) == {}
    assert kept.thinned(history[:1])["epoch"] == [0]


def test_a_row_is_the_run_of_the_command_line(finished, tmp_path):
    options = "--z-dim 2 --networks.hidden 16 --data digits --data.limit 96 --train.max-epochs 2 --train.batch-size 32"
    assert (
        main(["train", "vae", *options.split(), "--train.device", "cpu", "--quiet", "--out", str(tmp_path / "r")]) == 0
    )
    assert runs.same_bits(runs.saved_pair(tmp_path / "r"), runs.saved_pair(finished[0] / "test2026" / "digits-vae"))


def test_nothing_is_done_twice(finished, counted):
    out, report = finished
    again = reproduce(out)
    assert counted == [] and again.table == report.table


def test_only_what_is_missing_is_computed(finished, counted, monkeypatch):
    out, report = finished
    estimates = report.results[0].estimates
    one = reproduce(out, rows=["vae"], num_samples=5)
    assert counted == [["bound", "log_likelihood"]]
    assert one.results[0].estimates["log_likelihood"] != estimates["log_likelihood"]
    assert one.results[0].estimates["bound"] == estimates["bound"]
    assert [result.status for result in one.results] == ["", "", ""], "what was not asked for is shown as it is"
    counted.clear()
    monkeypatch.setitem(experiment._REGISTRY, NAME, dataclasses.replace(EXPERIMENT, metrics=("bound", "active_units")))
    assert {"bound", "log_likelihood", "active_units_z"} <= reproduce(out, rows=["vae"]).results[0].estimates.keys()
    assert counted == [["active_units"]]
    record = json.loads((out / "test2026" / "digits-vae" / "evaluation.json").read_text())
    assert record["num_samples"] == 5, "the log-likelihood that is there is of five samples still"
    counted.clear()
    monkeypatch.setitem(experiment._REGISTRY, NAME, EXPERIMENT)
    reproduce(out, rows=["vae"])
    assert counted == [], "more samples than the row's own number are not thrown away"
    assert reproduce(out, rows=["vae"], num_samples=3).table == report.table
    assert counted == [["bound", "log_likelihood"]]


def test_an_evaluation_of_the_command_line_counts(finished, counted):
    out, _ = finished
    run = out / "test2026" / "digits-g"
    assert main(["evaluate", str(run), "--metrics", "bound"]) == 0
    counted.clear()
    reproduce(out, rows=["g"])
    assert counted == []  # of so many samples log p(x) is, and it was not asked for
    assert main(["evaluate", str(run), "--num-samples", "3", "--metrics", "log_likelihood"]) == 0
    counted.clear()
    reproduce(out, rows=["g"])
    assert counted == [["bound", "log_likelihood"]]


def test_other_weights_are_evaluated_anew(finished, counted):
    out, report = finished
    folder = RunFolder(out / "test2026" / "digits-g")
    record = folder.evaluation()
    path = folder.path / "evaluation.json"
    runs.write_sealed(path, record | {"weights": "0" * 64})
    assert folder.evaluation() is None
    assert reproduce(out).table == report.table
    assert counted == [["bound"], ["bound", "log_likelihood"]]


def test_a_pair_that_was_saved_over_a_row_s_is_not_shown(finished, counted, tmp_path):
    """Its numbers would stand in the table for those of the training."""
    shutil.copytree(finished[0] / "test2026", tmp_path / "test2026")
    run = tmp_path / "test2026" / "digits-vae"
    pair = pp.load(run)
    for parameter in pair.parameters():
        parameter.data.mul_(1.5)
    pair.save(run)
    result, *others = reproduce(tmp_path, train=False).results
    assert result.estimates == {} and "contains a pair that was saved over the one from the training" in result.status
    assert all(other.estimates for other in others)
    with pytest.raises(ValueError, match="digits-vae/pair contains a pair that was saved over the one"):
        reproduce(tmp_path)
    assert counted == []


def test_a_table_that_cannot_be_written_is_shown(finished, tmp_path, monkeypatch, capsys):
    """What was computed is in the report: the evaluation, the table and the pictures."""
    out = tmp_path / "runs"
    shutil.copytree(finished[0] / "test2026", out / "test2026")
    (out / "test2026" / "digits-vae" / "evaluation.json").unlink()
    changed = dataclasses.replace(EXPERIMENT, pictures=drawn)
    monkeypatch.setitem(experiment._REGISTRY, NAME, changed)
    before = runs.snapshot(out)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(RuntimeWarning) as warned:
        report = reproduce(out)
    told = [str(warning.message) for warning in warned]
    run = out / "test2026"
    for line, (what, file) in zip(
        told,
        [
            ("evaluation of digits-vae", run / "digits-vae" / "evaluation.json"),
            ("line of digits-vae", run / "runs.jsonl"),
            *((f"pictures of {one.name}", run / "table1-pictures.png") for one in ROWS),
            (f"table of {NAME}", run / "table1.md"),
        ],
        strict=True,
    ):
        start = f"the {what} is shown but not saved: {file} cannot be written (No space left on device): free at least "
        assert line.startswith(start) and line.endswith(" bytes there, or choose another place to write to"), line
    assert report.files == [] and report.table == finished[1].table
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("always")  # the command line prints what pytest makes an error
        assert main(["reproduce", NAME, "--out", str(out), "--quiet", "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{report.table}\n" and captured.err.count("\n") == len(told)
    assert runs.snapshot(out) == before


def test_a_table_is_shown_on_an_ascii_terminal(finished, tmp_path, monkeypatch):
    shutil.copytree(finished[0] / "test2026", tmp_path / "test2026")
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    assert main(["reproduce", NAME, "--no-train", "--out", str(tmp_path), "--device", "cpu"]) == 0
    shown = out.buffer.getvalue().decode("ascii")
    assert "±" in finished[1].table and shown.startswith(finished[1].table.replace("±", "+-"))
    assert (tmp_path / "test2026" / "table1.md").read_text(encoding="utf-8") == finished[1].table


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["cp-4"], ["digits-cp-4"]),
        (["digits-vae"], ["digits-vae"]),
        (["digits-*"], ["digits-vae", "digits-cp-4", "digits-g"]),
        (["g", "*-cp-*"], ["digits-cp-4", "digits-g"]),
        ([], ["digits-vae", "digits-cp-4", "digits-g"]),
    ],
)
def test_rows_are_chosen_by_name_end_or_pattern(patterns, expected):
    assert [chosen.name for chosen in EXPERIMENT.select(patterns)] == expected


def test_the_other_rows_are_shown_as_far_as_they_are_there(tmp_path, capsys):
    report = reproduce(tmp_path, rows="vae", progress=True)
    found = cells(report.table)[1]
    assert (
        found["digits-g"]["negative bound"] == "not trained"
        and found["digits-g"]["published negative bound"] == "56.70"
    )
    assert {path.name for path in (tmp_path / "test2026").glob("digits-*")} == {"digits-vae"}
    assert "row 1 of 1: digits-vae" in capsys.readouterr().err
    both = cells(reproduce(tmp_path, rows=["cp-4"]).table)[1]
    assert both["digits-vae"] == found["digits-vae"] | {"notes": both["digits-vae"]["notes"]}
    assert both["digits-cp-4"]["eight"] == "8"


def test_quick_says_that_it_is_not_comparable(tmp_path, finished):
    report = reproduce(tmp_path, rows=["vae"], quick=True)
    assert "QUICK: a shorter schedule" in report.table and "not comparable" in report.table
    run = tmp_path / "test2026-quick" / "digits-vae"
    assert len(runs.records(run)) == 1 and not (tmp_path / "test2026").exists()
    assert json.loads((run / "evaluation.json").read_text())["num_samples"] == 100
    assert report.files[2].stat().st_size > 0


def test_nothing_is_trained_without_leave(tmp_path):
    report = reproduce(tmp_path, train=False)
    assert [result.status for result in report.results] == ["not trained"] * 3
    assert not report.files and not (tmp_path / "test2026").exists(), "a table of nothing takes no other's place"


def without_weights(finished, out):
    """What is kept of the runs, and nothing else."""
    (out / "test2026").mkdir(parents=True)
    for file in finished[0].glob("test2026/*"):
        if file.name == "runs.jsonl" or file.name.endswith("-pictures.png"):
            shutil.copy(file, out / "test2026")


def changed_line(out, name, change):
    """Change the line of a run."""

    def changed(old, new):
        nested = {key for key, one in new.items() if isinstance(one, dict) and isinstance(old.get(key), dict)}
        both = {key: changed(old[key], one) if key in nested else one for key, one in new.items()}
        return {**old, **both}

    there = kept.KeptRuns(out / "test2026")
    there.add([changed(there.find(name).record, change)])


def test_a_table_needs_no_weights(finished, counted, tmp_path, monkeypatch):
    """Of runs whose weights are not kept the same table is made, without the data, and nothing is trained again."""
    monkeypatch.setattr(pp.data, "load", None)
    without_weights(finished, tmp_path)
    for train_too in (False, True):
        report = reproduce(tmp_path, train=train_too)
        assert report.table == finished[1].table and counted == []
        assert [path.name for path in report.files] == ["table1.md", "table1-curves.png"]
    assert report.files[0].read_text() == finished[1].files[0].read_text()
    assert {path.name for path in (tmp_path / "test2026").iterdir() if path.is_dir()} == set()


@pytest.mark.parametrize("pair", ["cvae", "sigma_cvae"])
def test_a_conditional_row_needs_no_weights(pair, tmp_path, monkeypatch):
    """What the data fill in, the shape of the condition among it, is not taken for another option."""
    one = dataclasses.replace(
        row("digits-c", pair), data_options={"limit": 96, "condition_rows": 4, "binarise": "none"}
    )
    monkeypatch.setitem(experiment._REGISTRY, NAME, dataclasses.replace(EXPERIMENT, rows=(one,), figure=None))
    trained = reproduce(tmp_path / "with")
    without_weights((tmp_path / "with",), tmp_path)
    assert reproduce(tmp_path, train=False).table == trained.table and trained.results[0].status == ""


def test_nothing_to_show_is_said_last(tmp_path, capsys):
    assert main(["reproduce", NAME, "--no-train", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith("\nnothing is trained yet, and nothing written: leave --no-train out\n")
    assert not [*tmp_path.iterdir()]


def drawn(one):
    return {"samples": pp.plots.shown(one.pair.sample(4)["x_mean"], None, one.data)}


def test_a_figure_of_pictures_needs_no_weights(finished, counted, tmp_path, monkeypatch):
    """The same figure is drawn where the pictures are kept and the weights are not, and of no other weights."""
    panels = []

    def figure(kept):
        panels.append({name: one["samples"] for name, one in kept.items()})
        return pp.plots.image_panels([[*panels[-1].values()]], [*panels[-1]])

    monkeypatch.setitem(experiment._REGISTRY, NAME, dataclasses.replace(EXPERIMENT, figure=figure, pictures=drawn))
    shutil.copytree(finished[0] / "test2026", tmp_path / "with" / "test2026")
    reproduce(tmp_path / "with")
    monkeypatch.setattr(pp.data, "load", None)
    without_weights((tmp_path / "with",), tmp_path)
    reproduce(tmp_path, train=False)
    assert panels[0].keys() == panels[1].keys() == {one.name for one in ROWS} and counted == []
    for name, images in panels[0].items():
        assert images.shape == (4, 1, 8, 8) and images.std() > 0
        assert torch.equal(images, panels[1][name])
    changed_line(tmp_path, "digits-g", {"evaluation": {"weights": "0" * 64}})
    reproduce(tmp_path, train=False)
    assert "digits-g" not in panels[2] and len(panels[2]) == 2


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_kept_to_8_bits(channels, tmp_path):
    """Of several rows in one file, of different sizes and channels; each is of its own weights."""
    file = tmp_path / "fig.png"
    rows = {
        "one": {"a": torch.rand(5, channels, 4, 7), "b, c": torch.rand(5, channels, 4, 7)},
        "other": {"a": torch.rand(2, 3, 9, 6)},
        "grey": {"a": torch.rand(3, 1, 2, 2)},
    }
    for row, images in rows.items():
        pictures.save(images, file, row, f"w-{row}")
    for row, images in rows.items():
        found = pictures.load(file, row, f"w-{row}")
        assert [*found] == [*images]
        for label in images:
            assert found[label].shape == images[label].shape
            assert (found[label] - images[label]).abs().max() <= 0.5 / 255 + 1e-6
    assert pictures.load(file, "one", "v") is None and pictures.load(tmp_path / "other.png", "one", "w-one") is None
    assert pictures.load(file, "one", None) is None and pictures.load(file, "two", "w-one") is None
    kept_before = pictures.load(file, "other", "w-other")
    pictures.save(rows["grey"], file, "one", "new")
    assert torch.equal(pictures.load(file, "one", "new")["a"], pictures.load(file, "grey", "w-grey")["a"])
    assert torch.equal(pictures.load(file, "other", "w-other")["a"], kept_before["a"])
    whole = file.read_bytes()
    altered = whole[:11] + bytes([whole[11] - 1]) + whole[12:]  # the length of the header
    for damaged in (whole[:-60], b"no image", altered):
        file.write_bytes(damaged)
        with pytest.warns(RuntimeWarning, match=r"fig.png is not used, it is damaged"):
            assert pictures.load(file, "one", "new") is None
    pictures.save(rows["grey"], file, "one", "new")
    assert pictures.load(file, "one", "new") is not None and pictures.load(file, "other", "w-other") is None


def test_damaged_lines_are_told_and_stay(finished, tmp_path):
    """The run of such a line is not shown, the others are, and whoever writes the file leaves the line as it is."""
    without_weights(finished, tmp_path)
    file = tmp_path / "test2026" / "runs.jsonl"
    lines = file.read_bytes().splitlines()
    (damaged,) = (line.replace(b'"z_dim":2', b'"z_dim":3') for line in lines if b'"name":"digits-g"' in line)
    file.write_bytes(b"\n".join([damaged, *(line for line in lines if b'"name":"digits-g"' not in line)]) + b"\n")
    match = r"runs.jsonl has damaged lines, whose runs are not shown: line 1 \(its content does not match its check"
    with pytest.warns(RuntimeWarning, match=match):
        report = reproduce(tmp_path, train=False)
    assert [result.status for result in report.results] == ["", "", "not trained"]
    there = kept.KeptRuns(tmp_path / "test2026")
    with pytest.warns(RuntimeWarning, match=match):
        record = there.find("digits-vae").record
    there.add([record | {"epochs": 7}])
    assert damaged in file.read_bytes().splitlines() and there.find("digits-vae").num_epochs == 7


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"curve": {"epoch": [0, 1], "valid_bound": [1.0]}}, "the columns of its curve have different lengths"),
        ({"epochs": -1}, "epochs must be at least 0 and at most .*, got -1"),
        ({"name": "../x"}, "name must be a name of letters"),
        ({"new": 1}, None),
    ],
)
def test_lines_are_checked(change, match, finished, tmp_path):
    without_weights(finished, tmp_path)
    file = tmp_path / "test2026" / "runs.jsonl"
    record = {key: value for key, value in json.loads(file.read_bytes().splitlines()[0]).items() if key != "sha256"}
    file.write_text(json.dumps(_records.seal(record | change, 16)) + "\n")
    there = kept.KeptRuns(tmp_path / "test2026")
    if match is None:  # what a later version writes beside
        assert there.find(record["name"]) is not None
    else:
        with pytest.warns(RuntimeWarning, match=match):
            assert there.find(record["name"]) is None


def test_calls_that_end_at_the_same_time_keep_each_other_s_lines(finished, tmp_path):
    records = [kept.KeptRuns(finished[0] / "test2026").find("digits-g").record | {"name": f"r{i}"} for i in range(20)]
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(kept.KeptRuns(tmp_path).add, [record]) for record in records]:
            done.result()
    assert set(kept.KeptRuns(tmp_path).names()) == {record["name"] for record in records}


def test_a_run_that_is_there_stands_for_its_line(finished, counted, tmp_path):
    """And a row whose line is deleted is trained again."""
    shutil.copytree(finished[0] / "test2026", tmp_path / "test2026")
    changed_line(tmp_path, "digits-g", {"evaluation": {"metrics": {"bound": {"value": 5.0}}}})
    assert reproduce(tmp_path, train=False).table == finished[1].table
    assert kept.KeptRuns(tmp_path / "test2026").find("digits-g").evaluation()["metrics"]["bound"]["value"] < 0
    shutil.rmtree(tmp_path / "test2026" / "digits-g")
    assert reproduce(tmp_path).table == finished[1].table and counted == []
    file = tmp_path / "test2026" / "runs.jsonl"
    file.write_bytes(b"".join(line for line in file.read_bytes().splitlines(True) if b'"name":"digits-g"' not in line))
    again = reproduce(tmp_path, rows=["g"])
    assert counted[0] == "digits-g" and again.results[2].estimates == finished[1].results[2].estimates


def test_numbers_without_weights_are_of_the_row_s_own_options(finished, counted, tmp_path, monkeypatch, capsys):
    without_weights(finished, tmp_path)
    other = dataclasses.replace(ROWS[0], pair_options=ROWS[0].pair_options | {"z_dim": 3})
    more = dataclasses.replace(EXPERIMENT, rows=(other, *ROWS[1:]), metrics=(*EXPERIMENT.metrics, "active_units"))
    monkeypatch.setitem(experiment._REGISTRY, NAME, more)
    found = cells(reproduce(tmp_path, rows=["g"], progress=True).table)[1]
    assert found["digits-vae"]["negative bound"].startswith("not shown: pair.config.z_dim is 3, but the run in ")
    assert found["digits-g"]["negative bound"] == "not evaluated" and counted == []
    told = capsys.readouterr().err
    assert "digits-g: its line in " in told
    assert (
        "runs.jsonl has no active_units, and the weights are not there: delete the line to train the row again" in told
    )
    with pytest.raises(ValueError, match=r"pair\.config\.z_dim is 3, but the run in"):
        reproduce(tmp_path, rows=["vae"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"config": {"pair": {"config": {"z_dim": 3}}}}, r"not shown: pair.config.z_dim is 2, but the run in "),
        ({"config": {"data": {"config": {"seed": 3}}}}, r"not shown: data.config.seed is 0, but the run in "),
        ({"config": {"train": {"clip_norm": 1.0}}}, r"not shown: train.clip_norm is 0.0, but the run in "),
        (
            {"config": {"objective": {"config": {"num_particles": 2}}}},
            r"not shown: objective.config.num_particles is ",
        ),
        ({"evaluation": {"part": "valid"}}, "not evaluated"),
        ({"evaluation": {"seed": 1}}, "not evaluated"),
        ({"evaluation": {"epochs": 1}}, "not evaluated"),
        ({"evaluation": None, "epochs": 1}, "not finished: epoch 0"),
    ],
)
def test_numbers_without_weights_are_those_of_the_row(change, told, finished, tmp_path):
    """What the row leaves at its default is at its default, and the evaluation of the test part and the last epoch."""
    without_weights(finished, tmp_path)
    changed_line(tmp_path, "digits-g", change)
    found = cells(reproduce(tmp_path, rows=["vae"], train=False).table)[1]
    assert re.match(told, found["digits-g"]["negative bound"])
    assert found["digits-vae"]["epochs"] == "2"


def test_numbers_without_weights_know_what_their_run_started_from(finished, tmp_path):
    without_weights(finished, tmp_path)
    start = {"how": "start", "options": {}, "learned": "other", "weights": None}
    changed_line(tmp_path, "digits-g", {"start": start})
    found = cells(reproduce(tmp_path, rows=["vae"], train=False).table)[1]
    assert "holds a run that started from {'how': 'start', " in found["digits-g"]["negative bound"]


def test_numbers_without_weights_are_not_overwritten(finished, tmp_path, capsys):
    leave = shutil.ignore_patterns("pair", "last", "figures")
    run = tmp_path / "digits-vae"
    shutil.copytree(finished[0] / "test2026" / "digits-vae", run, ignore=leave)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    command = ["train", "vae", "--data", "digits", "--train.max-epochs", "1", "--quiet", "--out", str(run)]
    for how in ([], ["--resume"]):
        assert main([*command, *how]) == 2
        assert "contains the results of a run without its weights" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_finished_runs_are_collected_as_reproduce_keeps_them(finished, tmp_path, monkeypatch):
    """From folders of runs alone, which stay as they are; runs that are not evaluated, or whose weights are not there,
    are left out of a collection, and lines and pictures that are there stay."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))
    from convert_v1 import convert_results

    monkeypatch.setitem(experiment._REGISTRY, NAME, dataclasses.replace(EXPERIMENT, pictures=drawn, figure=None))
    shutil.copytree(finished[0] / "test2026", tmp_path / "runs" / "test2026")
    reproduce(tmp_path / "runs")
    there, to = tmp_path / "runs" / "test2026", tmp_path / "results" / "test2026"
    (there / "digits-g" / "evaluation.json").unlink()
    shutil.rmtree(there / "digits-cp-4" / "pair")
    to.mkdir(parents=True)
    kept.KeptRuns(to).add([kept.KeptRuns(there).find("digits-g").record | {"name": "other"}])
    before = runs.snapshot(there)
    assert convert_results(tmp_path / "runs", tmp_path / "results", trained_there=True) == 1
    assert runs.snapshot(there) == before and set(kept.KeptRuns(to).names()) == {"digits-vae", "other"}
    ours, line = kept.KeptRuns(to).find("digits-vae"), kept.KeptRuns(there).find("digits-vae")
    assert ours.record == line.record
    sheets = [pictures.load(one / "table1-pictures.png", "digits-vae", line.weights()) for one in (there, to)]
    assert torch.equal(sheets[0]["samples"], sheets[1]["samples"])
    assert not (to / "digits-vae").exists()


RESULTS = Path(__file__).parents[1] / "results"
BEFORE = {("lavda2019", "fig5"), ("lavda2019", "fig6"), ("lavda2019", "fig8")}
"""Tables of rows that were trained for 600 epochs, until those of the fast schedule are there."""

KEPT = [
    (folder.name, name)
    for name in experiments.names()
    for folder in (RESULTS / name.split("/")[0], RESULTS / f"{name.split('/')[0]}-quick")
    if {row.name for row in experiments.find(name).rows} & set(kept.KeptRuns(folder).names())
    and (folder / f"{name.split('/')[1]}.md").exists()
    and (folder.name, name.split("/")[1]) not in BEFORE
]


@pytest.mark.parametrize(("folder", "name"), KEPT, ids=["-".join(pair) for pair in KEPT])
def test_the_tables_of_the_results_are_those_of_the_runs_beside_them(folder, name, tmp_path):
    (tmp_path / folder).mkdir()
    for file in (RESULTS / folder).glob("*"):
        if file.name == "runs.jsonl" or file.name.endswith("-pictures.png"):
            shutil.copy(file, tmp_path / folder)
    report = experiments.reproduce(name, quick=folder.endswith("-quick"), out=tmp_path, train=False, progress=False)
    assert report.files[0].read_text() == (RESULTS / folder / f"{name.split('/')[1]}.md").read_text()
    sheet = tmp_path / folder / f"{name.split('/')[1]}-pictures.png"
    if sheet.exists() and {row.name for row in experiments.find(name).rows} & set(pictures._read(sheet)):
        assert report.files[-1].name == f"{name.split('/')[1]}.png", "the figure is drawn again, too"


def test_the_results_have_tables_of_runs():
    known = {("lavda2019", "lavda2019/clustering"), ("lavda2019-quick", "lavda2019/table1")}
    known |= {("klushyn2019", "klushyn2019/table"), ("de2025", "de2025/table1")}
    assert known | {("bhalodia2019", "bhalodia2019/moons"), ("bhalodia2019-quick", "bhalodia2019/table1")} <= set(KEPT)


@pytest.mark.parametrize("warmup", [0, 2.5])
@pytest.mark.parametrize("bounds", [(1, 2, 3, 4), (3, 2, 1, 0, -1), (1, 2, 3, 2, 2, 1), (3, 3, 3, 3, 3, 3)])
def test_a_history_tells_whether_its_patience_ran_out(bounds, warmup):
    """As the loop counts it: from the best epoch or the end of the warm-up on, whichever is later."""
    config = dataclasses.replace(CONFIG, patience=2, warmup_epochs=warmup)
    best, wait, stopped = -1.0, 0, False
    history = []
    for epoch, bound in enumerate(bounds):
        history.append({"epoch": epoch, "valid_bound": bound})
        wait = 0 if bound > best or epoch < warmup else wait + 1
        best, stopped = max(best, bound), wait >= 2
        assert runner._out_of_patience(history, config) == stopped
        assert not runner._out_of_patience(history, CONFIG)


def test_training_cut_short_goes_on(tmp_path, finished):
    report = reproduce(tmp_path, rows=["vae"], max_epochs=1)
    assert cells(report.table)[1]["digits-vae"]["epochs"] == "1, cut short"
    report = reproduce(tmp_path, rows=["vae"])
    assert cells(report.table)[1]["digits-vae"]["epochs"] == "2"
    ours, other = (runs.saved_pair(out / "test2026" / "digits-vae") for out in (tmp_path, finished[0]))
    assert runs.same_bits(ours, other)


def test_a_row_keeps_the_precision_that_it_was_begun_in(tmp_path):
    reproduce(tmp_path, rows=["vae"], max_epochs=1, precision="64-true")
    report = reproduce(tmp_path, rows=["vae"])
    config = json.loads((tmp_path / "test2026" / "digits-vae" / "config.json").read_text())
    assert config["train"]["precision"] == "64-true"
    assert "trained in 64-true, evaluated in float32" in report.table
    report = reproduce(tmp_path, rows=["cp-4"], precision="bf16-mixed", max_epochs=1)
    assert [result.precision for result in report.results[:2]] == ["64-true", "bf16-mixed"]
    assert [result.status for result in report.results[:2]] == ["", ""]


def test_an_interrupted_command_goes_on(tmp_path, finished, monkeypatch, capsys):
    original, steps = loop.Training.train_step, []

    def train_step(self, *args):
        steps.append(None)
        if len(steps) == 8:  # in the second row
            os.kill(os.getpid(), signal.SIGINT)
        original(self, *args)

    command = ["reproduce", NAME, "--out", str(tmp_path), "--device", "cpu"]
    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "train_step", train_step)
        assert main(command) == 130
    assert "digits-cp-4: the same command goes on from there" in capsys.readouterr().err
    found = cells(reproduce(tmp_path, train=False).table)[1]
    assert found["digits-cp-4"]["negative bound"] == "not finished: epoch 0"
    assert found["digits-vae"]["epochs"] == "2"
    assert main(command) == 0
    output = capsys.readouterr().out
    assert "| digits-cp-4 |" in output and "table1.png" in output
    for name in ("digits-vae", "digits-cp-4", "digits-g"):
        ours, other = (runs.saved_pair(out / "test2026" / name) for out in (tmp_path, finished[0]))
        assert runs.same_bits(ours, other)


def test_a_row_that_diverges_is_marked(tmp_path, monkeypatch):
    wild = dataclasses.replace(ROWS[0], train=dataclasses.replace(CONFIG, learning_rate=1e25))
    monkeypatch.setitem(experiment._REGISTRY, NAME, dataclasses.replace(EXPERIMENT, rows=(wild, ROWS[2])))
    found = cells(reproduce(tmp_path).table)[1]
    assert re.search(r"diverged: .* at step 1", found["digits-vae"]["negative bound"])
    assert found["digits-g"]["epochs"] == "2"
    # it is marked again without being trained again, or looked for
    monkeypatch.setattr(loop.Training, "train_epoch", lambda self: pytest.fail("it trains"))
    found = cells(reproduce(tmp_path).table)[1]
    assert re.search(
        r"diverged: the run in .* has already diverged: .* at step 1", found["digits-vae"]["negative bound"]
    )
    found = cells(reproduce(tmp_path, train=False).table)[1]
    assert re.search(r"^diverged: .* at step 1 \(epoch 0\)$", found["digits-vae"]["negative bound"])


def test_a_row_that_diverges_in_its_first_validation_is_marked(tmp_path, monkeypatch):
    one_step = dataclasses.replace(CONFIG, learning_rate=1e30, batch_size=96)
    wild = dataclasses.replace(ROWS[0], train=one_step)
    monkeypatch.setitem(experiment._REGISTRY, NAME, dataclasses.replace(EXPERIMENT, rows=(wild, ROWS[2])))
    found = cells(reproduce(tmp_path).table)[1]
    assert re.search(r"diverged: .* at step 1 \(epoch 0\): the pair has", found["digits-vae"]["negative bound"])
    assert found["digits-g"]["epochs"] == "2"


def test_an_option_newer_than_the_run_may_be_at_its_default(finished, counted):
    out, report = finished
    file = out / "test2026" / "digits-g" / "config.json"
    content = file.read_text()
    config = runs.unsealed(file)
    del config["pair"]["config"]["networks"]["gated"]
    del config["train"]["clip_norm"], config["data"]["config"]["flatten"]
    runs.write_sealed(file, config)
    try:
        assert reproduce(out).table == report.table
        del config["pair"]["config"]["z_dim"]  # which is not at its default
        runs.write_sealed(file, config)
        with pytest.raises(ValueError, match=r"pair\.config\.z_dim is 2, but the run in .* was started with 40"):
            reproduce(out)
    finally:
        file.write_text(content)
    assert counted == []


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ("lavda2019/table2", r"experiment 'lavda2019/table2' is unknown: did you mean 'lavda2019/table1'\?"),
        ("lavda", r"experiment 'lavda' is unknown: "),
        ("lavda2019", r"experiment 'lavda2019' is a paper: choose one of lavda2019/table1, .*lavda2019/fig3"),
        ("lavda2019/table1 --row hvp-11", r"has no row 'hvp-11': did you mean 'hvp-10'\? give one of mnist-cp-10, "),
        ("lavda2019/table1 --num-samples 0", r"num_samples must be at least 1, got 0"),
        ("lavda2019/table1 --features inceptoin", r"features 'inceptoin' is unknown: did you mean 'inception'"),
        ("lavda2019/table1 --max-epochs 0", r"max_epochs must be at least 1, got 0"),
        (f"{NAME} --device tpu", r"device must be one of auto, cpu.*got 'tpu'"),
        (f"{NAME} --rows vae", r"--rows"),
        ("", r"EXPERIMENT|experiment"),
    ],
    ids=["experiment", "paper", "whole", "row", "num_samples", "features", "max_epochs", "device", "option", "nothing"],
)
def test_a_mistake_is_one_line(arguments, match, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", *arguments.split()]) == 2
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1 and re.search(match, captured.err), captured.err
    assert list(tmp_path.iterdir()) == []


def test_seeds_are_runs_of_their_own_and_one_line(tmp_path, monkeypatch):
    """Two seeds of a row, of which the table shows mean and standard deviation; one is shown as it is."""

    def judged(trained):
        seed = trained.row.quick.seed
        some = {"not in all": Estimate(7.0, 0.5)} if seed == 0 else {}
        return {"judged": Estimate(float(seed), 0.5), "folder": Estimate(len(trained.judges.parts))} | some

    three = experiments.seeds(row("digits-vae", train=CONFIG, judges=(judged,)), 3)
    assert [one.name for one in three] == [f"digits-vae-seed{seed}" for seed in range(3)]
    assert [(one.of, one.train.seed, one.quick.seed) for one in three] == [("digits-vae", s, s) for s in range(3)]
    columns = (*EXPERIMENT.columns, Column("judged", number("judged")), Column("some", number("not in all")))
    seeded = dataclasses.replace(EXPERIMENT, rows=(*three, ROWS[2]), columns=columns)
    monkeypatch.setitem(experiment._REGISTRY, NAME, seeded)
    none = cells(reproduce(tmp_path, train=False, quick=True).table)[1]
    assert list(none) == ["digits-vae", "digits-g"] and none["digits-vae"]["negative bound"] == "not trained"
    first = reproduce(tmp_path, rows=["seed0"], quick=True)
    estimates = [result.estimates for result in first.results]
    assert estimates[0]["folder"].value == len((tmp_path / "judges").parts)
    line = cells(first.table)[1]["digits-vae"]
    assert (
        line["judged"] == "0.00 ± 0.50"
        and line["some"] == "7.00 ± 0.50"
        and line["published negative bound"] == "12.34"
    )
    assert "1 of 3 seeds, ± standard error over the data" in first.table
    both = reproduce(tmp_path, rows=["seed[12]"], quick=True, max_epochs=1)
    assert (tmp_path / "test2026-quick" / "digits-vae-seed2" / "pair").exists()
    bounds = [-result.estimates["bound"].value for result in both.results[:3]]
    line = cells(both.table)[1]["digits-vae"]
    assert line["negative bound"] == f"{statistics.mean(bounds):.2f} ± {statistics.stdev(bounds):.2f}"
    assert line["judged"] == "1.00 ± 1.00" and line["some"] == "" and len(set(bounds)) == 3
    assert "3 of 3 seeds, mean ± standard deviation over them" in both.table
    assert [one.name for one in seeded.select(["digits-vae"])] == [one.name for one in three]
    with pytest.raises(
        ValueError, match=r"no row 'digits-vea': did you mean 'digits-vae'\? give one of digits-vae, dig"
    ):
        seeded.select(["digits-vea"])


def test_a_row_starts_from_another(tmp_path, monkeypatch):
    """It is begun by the pair of the same seed, trained whole before in a folder of its own; interrupted, it goes on
    and ends as one that was not interrupted; and the folder knows what it started from."""
    started = []

    def start(pair, data, learned, *, much=1.0, seed=0, progress=False):
        assert not learned.training and len(runs.records(learned_by(seed))) == CONFIG.max_epochs
        assert runs.same_bits(runs.state(learned), runs.saved_pair(learned_by(seed)))
        started.append((seed, much))
        pair.model.decoder.load_state_dict(learned.model.decoder.state_dict())

    def learned_by(seed):
        return out / "test2026" / f"digits-before-seed{seed}"

    def use(of_start):
        two = experiments.seeds(row("digits-after", start=of_start), 2)
        monkeypatch.setitem(experiment._REGISTRY, NAME, dataclasses.replace(EXPERIMENT, rows=two, figure=None))
        return two

    before = row("digits-before", train=CONFIG)
    two = use(experiments.Start(before, start, {"much": 2.0}))
    assert [one.start.learned.name for one in two] == ["digits-before-seed0", "digits-before-seed1"]
    assert [one.start.learned.train.seed for one in two] == [0, 1]

    cut = out = tmp_path / "cut"
    reproduce(out, rows=["digits-after-seed1"], max_epochs=1)
    run = out / "test2026" / "digits-after-seed1"
    assert started == [(1, 2.0)] and len(runs.records(run)) == 1 and not learned_by(0).exists()
    found = runs.unsealed(run / "start.json")
    weights = json.loads((learned_by(1) / "pair" / "pair.json").read_text())["sha256"]
    options = {"much": 2.0, "seed": 1}
    assert found == {"how": "start", "options": options, "learned": "digits-before-seed1", "weights": weights}
    reproduce(out, rows=["digits-after-seed1"])
    assert started == [(1, 2.0)] and len(runs.records(run)) == CONFIG.max_epochs

    whole = out = tmp_path / "whole"
    table = reproduce(out, rows=["digits-after-seed1"]).table
    ours, other = (runs.saved_pair(one / "test2026" / "digits-after-seed1") for one in (cut, whole))
    assert started == [(1, 2.0)] * 2 and runs.same_bits(ours, other)
    assert "starts from a vae: 2 epochs" in table

    shutil.rmtree(learned_by(1))  # need not be kept
    assert "1 of 2 seeds" in reproduce(out, train=False).table
    for other_start in (None, experiments.Start(before, start)):
        use(other_start)
        with pytest.raises(
            ValueError, match=r"digits-after-seed1 holds a run that started from .*: choose another --out$"
        ):
            reproduce(out, rows=["digits-after-seed1"])
        assert "holds a run that started from" in reproduce(out, train=False).results[1].status


def test_other_features_are_computed_anew(finished, counted, monkeypatch):
    """What is in the features of a network is of the network that was asked for last, and nothing else is computed."""
    metrics = ("bound", "log_likelihood", "diversity")
    monkeypatch.setitem(experiment._REGISTRY, NAME, dataclasses.replace(EXPERIMENT, metrics=metrics))
    evaluated = finished[0] / "test2026" / "digits-g" / "evaluation.json"
    for features in ("auto", "efficientnet-lite0", "auto"):
        for again in (False, True):
            counted.clear()
            reproduce(finished[0], rows=["g"], features=features)
            assert counted == ([] if again else [["diversity"]])
        assert json.loads(evaluated.read_text())["features"] == features


def test_a_row_that_was_not_asked_for_may_be_of_other_options(finished, monkeypatch):
    other = dataclasses.replace(ROWS[0], pair_options=ROWS[0].pair_options | {"z_dim": 3})
    monkeypatch.setitem(experiment._REGISTRY, NAME, dataclasses.replace(EXPERIMENT, rows=(other, *ROWS[1:])))
    found = cells(reproduce(finished[0], rows=["g"]).table)[1]
    assert found["digits-vae"]["negative bound"].startswith("not shown: pair.config.z_dim is 3, but the run in ")
    assert found["digits-g"]["epochs"] == "2"
    with pytest.raises(ValueError, match=r"pair\.config\.z_dim is 3, but the run in"):
        reproduce(finished[0], rows=["vae"])


def test_what_a_row_starts_from_diverges(tmp_path, monkeypatch):
    bad = dataclasses.replace(CONFIG, learning_rate=1e30)
    one = row("digits-after", start=experiments.Start(row("digits-before", train=bad), None))
    monkeypatch.setitem(experiment._REGISTRY, NAME, dataclasses.replace(EXPERIMENT, rows=(one,), figure=None))
    assert "| diverged: digits-before, which it starts from: " in reproduce(tmp_path).table
