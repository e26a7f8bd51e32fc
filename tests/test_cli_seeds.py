"""``train --seeds``: one run for each seed below one folder, resumed and evaluated as a whole."""

import json
import re
import shutil
import statistics
from pathlib import Path

import numpy as np
import pytest

import pyro_priors as pp
import runs
from pyro_priors.cli import train as train_command
from pyro_priors.cli.main import main
from pyro_priors.cli.seeds import mean_and_spread, runs_of_seeds
from pyro_priors.run_folder import RunFolder

TINY = ["--quiet", "--networks.hidden", "8", "--z-dim", "2", "--train.device", "cpu", "--data.limit", "60"]
TRAIN = ["train", "vae", "--data", "moons", *TINY, "--train.max-epochs", "2"]


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    out = tmp_path_factory.mktemp("seeds") / "runs"
    assert main([*TRAIN, "--seeds", "0", "1", "5", "--out", str(out)]) == 0
    return out


@pytest.fixture
def own(three, tmp_path):
    return Path(shutil.copytree(three, tmp_path / "runs"))


def last_line(capsys):
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


def test_each_seed_is_the_run_of_that_seed(three, tmp_path):
    assert runs.names(three) == ["seed-0", "seed-1", "seed-5", "seeds.json"]
    for seed in (0, 5):
        alone = tmp_path / str(seed)
        assert main([*TRAIN, "--train.seed", str(seed), "--out", str(alone)]) == 0
        assert runs.same_bits(runs.saved_pair(three / f"seed-{seed}"), runs.saved_pair(alone))
        assert runs.records(three / f"seed-{seed}") == runs.records(alone)
    found = runs_of_seeds(three)
    assert found.seeds == (0, 1, 5) and "--seeds" not in found.command
    assert not any("seed" in word for word in found.command)


def test_the_training_says_mean_and_spread(tmp_path, capsys):
    assert main([*TRAIN, "--seeds=3", "4", "--out", str(tmp_path / "runs")]) == 0
    out = capsys.readouterr().out
    best = [float(value) for value in re.findall(r"^seed \d: .*validation bound (\S+) nats", out, re.MULTILINE)]
    mean, spread = re.search(r"ELBO (\S+) ± (\S+) \(standard deviation over 2 seeds\)", out).groups()
    assert float(mean) == pytest.approx(statistics.mean(best), abs=1e-3)
    assert float(spread) == pytest.approx(statistics.stdev(best), abs=2e-3)
    assert out.endswith(f"now: pyro-priors evaluate {tmp_path / 'runs'}\n")


def interrupted(monkeypatch, in_seed):
    """Raise KeyboardInterrupt after the first epoch of a seed."""
    append = RunFolder.append

    def stop(self, record):
        append(self, record)
        if self.path.name == f"seed-{in_seed}":
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "append", stop)


@pytest.mark.parametrize("how", ["resume", "the same command"])
def test_an_interrupted_training_trains_what_is_missing(how, three, tmp_path, monkeypatch):
    """Bit for bit, wherever it stopped: between two runs and in one."""
    out = tmp_path / "runs"
    command = [*TRAIN, "--seeds", "0", "1", "5", "--out", str(out)]
    with monkeypatch.context() as patch:
        interrupted(patch, 1)
        assert main(command) == 130
    assert (out / "seed-1").exists() and not (out / "seed-5").exists()
    before = runs.snapshot(out / "seed-0")
    assert main(["resume", str(out)] if how == "resume" else [*command, "--resume"]) == 0
    for seed in (0, 1, 5):
        assert runs.same_bits(runs.saved_pair(out / f"seed-{seed}"), runs.saved_pair(three / f"seed-{seed}"))
        assert runs.records(out / f"seed-{seed}") == runs.records(three / f"seed-{seed}")
    after = runs.snapshot(out / "seed-0")
    assert {name for name in before if before[name] != after[name]} <= {"config.json"}


def test_all_runs_are_trained_longer(own, tmp_path):
    assert main(["resume", str(own), "--train.max-epochs", "3", "--quiet"]) == 0
    assert [len(runs.records(own / f"seed-{seed}")) for seed in (0, 1, 5)] == [3, 3, 3]
    # the folder remembers it
    shutil.rmtree(own / "seed-1")
    assert main(["resume", str(own)]) == 0
    assert len(runs.records(own / "seed-1")) == 3


def test_a_seed_can_be_added(own):
    assert main([*TRAIN, "--seeds", "0", "1", "5", "6", "--out", str(own), "--resume"]) == 0
    assert runs_of_seeds(own).seeds == (0, 1, 5, 6) and len(runs.records(own / "seed-6")) == 2


def test_evaluate_shows_mean_and_spread_over_seeds(own, capsys):
    assert main(["evaluate", str(own), "--metrics", "bound", "active_units"]) == 0
    out = capsys.readouterr().out
    each = [json.loads((own / f"seed-{seed}/evaluation.json").read_text())["metrics"] for seed in (0, 1, 5)]
    head, *rows = out[out.index(f"{own}, test split") :].splitlines()
    assert head == f"{own}, test split: mean ± standard deviation over 3 seeds (0, 1, 5)"
    assert [row.split()[0] for row in rows] == ["bound", "reconstruction", "kl_z", "active_units_z"]
    for row in rows:
        name, mean, _, spread, *unit = row.split()
        values = [one[name]["value"] for one in each]
        assert float(mean) == pytest.approx(np.mean(values), abs=1e-4)
        assert float(spread) == pytest.approx(np.std(values, ddof=1), rel=1e-3)
        assert " ".join(unit) == each[0][name]["unit"]


def test_a_run_that_is_not_finished_is_left_out(own, capsys):
    shutil.rmtree(own / "seed-1" / "pair")
    assert main(["evaluate", str(own), "--metrics", "bound"]) == 0
    captured = capsys.readouterr()
    assert "standard deviation over 2 seeds (0, 5)" in captured.out
    assert "the runs of seeds 1 in" in captured.err and f"pyro-priors resume {own}" in captured.err
    shutil.rmtree(own / "seed-5" / "pair")
    assert main(["evaluate", str(own), "--metrics", "bound"]) == 0
    assert "test split: one seed (0)" in capsys.readouterr().out
    shutil.rmtree(own / "seed-0" / "pair")
    assert main(["evaluate", str(own)]) == 2
    assert "has no finished run yet" in last_line(capsys)


def test_plot_draws_the_curves_over_seeds(own, monkeypatch, capsys):
    drawn = {}
    original = pp.plots.curves_of_seeds
    monkeypatch.setattr(pp.plots, "curves_of_seeds", lambda given: drawn.update(given) or original(given))
    assert main(["plot", str(own)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == str(own / "figures/curves.png")
    assert (own / "figures/curves.png").stat().st_size > 1000 and [*drawn] == [0, 1, 5]
    (axes,) = original(drawn).axes
    assert axes.get_title() == "mean ± standard deviation over 3 seeds"
    line = axes.lines[1]
    expected = [[record["valid_bound"] for record in history] for history in drawn.values()]
    np.testing.assert_allclose(line.get_ydata(), np.mean(expected, 0))
    low, high = axes.collections[1].get_datalim(axes.transData).intervaly
    mean, spread = np.mean(expected, 0), np.std(expected, 0, ddof=1)
    np.testing.assert_allclose([low, high], [(mean - spread).min(), (mean + spread).max()])


def test_a_run_that_diverges_leaves_the_others(tmp_path, monkeypatch, capsys):
    original = train_command.fit

    def fit(*args, config, **given):
        if config.seed == 1:
            raise pp.TrainingDiverged("the loss is nan: lower the learning rate")
        return original(*args, config=config, **given)

    monkeypatch.setattr(train_command, "fit", fit)
    assert main([*TRAIN, "--seeds", "0", "1", "2", "--out", str(tmp_path / "runs")]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert errors == [
        "pyro-priors: warning: seed 1: the loss is nan: lower the learning rate",
        "pyro-priors: error: the training of seed 1 diverged: the loss is nan: lower the learning rate",
    ]
    assert len(runs.records(tmp_path / "runs/seed-2")) == 2


MISTAKES = {
    "--seeds": "--seeds must be integers from 0 to 2**63 - 1, got no value",
    "--seeds 0 x": "--seeds must be integers from 0 to 2**63 - 1, got 0 x (for example, --seeds 0 1 2)",
    "--seeds -1": "--seeds must be integers from 0",
    "--seeds 1.5": "--seeds must be integers from 0",
    "--seeds 1 2 1": "--seeds has 1 twice: give each seed once",
    "--no-seeds": "--seeds must be integers",
    "--seeds 1 --seeds 2": "--seeds is given twice",
    "--seeds 1 --train.seed 2": "--seeds and --train.seed both set the seed: leave --train.seed out",
    "--seeds 1 --prior flo": "prior 'flo' is unknown: did you mean 'flow'?",
    "--seeds 1 --train.max-epoch 3": "train vae has no option --train.max-epoch: did you mean",
}


@pytest.mark.parametrize("given", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(given, tmp_path, capsys):
    assert main([*TRAIN, *given.split(), "--out", str(tmp_path / "runs")]) == 2
    assert MISTAKES[given] in last_line(capsys)
    assert not (tmp_path / "runs").exists()


def test_no_out_is_one_line(capsys):
    assert main([*TRAIN, "--seeds", "0"]) == 2
    assert "train needs --out: give the folder of the runs" in last_line(capsys)


def test_folders_are_not_mixed_up(own, tmp_path, capsys):
    before = runs.snapshot(own)
    for arguments, message in (
        ([*TRAIN, "--seeds", "0", "1", "5", "--out", str(own)], "already has runs of the seeds 0 1 5: resume them"),
        ([*TRAIN, "--seeds", "0", "9", "--out", str(own), "--resume"], "--seeds lacks 1 5, of which"),
        ([*TRAIN, "--out", str(own)], "has the runs of the seeds 0 1 5: choose another --out, or give --seeds"),
        ([*TRAIN, "--seeds", "0", "--out", str(own / "seed-0")], "which is the folder of one run: choose another"),
        ([*TRAIN, "--seeds", "0", "1", "5", "--out", str(own), "--resume", "--train.clip-norm=3"], "clip_norm is 3"),
        (["resume", str(own), "--seeds", "3"], "has its own seeds: leave --seeds out"),
        (["resume", str(own), "--train.seed", "3"], "has its own seeds: leave --seeds out"),
        (["sample", str(own)], f"has the runs of several seeds: give one of them, such as {own / 'seed-0'}"),
    ):
        assert main(arguments) == 2
        assert message in last_line(capsys)
        assert runs.snapshot(own) == before


def test_a_command_from_a_stranger_is_checked(own, capsys):
    for change, message in (
        ({"command": ["vae", "--out=/tmp/other"]}, "the argument '--out=/tmp/other', which resume does not take"),
        ({"command": ["no_pair"]}, "the argument 'no_pair', which resume does not take from a file"),
        ({"seeds": [-1]}, "seeds.json cannot be read"),
    ):
        record = runs.unsealed(own / "seeds.json")
        (other := own.parent / "other").mkdir(exist_ok=True)
        runs.write_sealed(other / "seeds.json", record | change)
        assert main(["resume", str(other)]) == 2
        assert message in last_line(capsys)
        assert runs.names(other) == ["seeds.json"]
    (other / "seeds.json").write_text("{")
    assert main(["evaluate", str(other)]) == 2
    assert "seeds.json cannot be read" in last_line(capsys)


def test_mean_and_spread():
    assert mean_and_spread([1.0]) == (1.0, None)
    assert mean_and_spread([1.0, 3.0]) == (2.0, pytest.approx(2**0.5))
