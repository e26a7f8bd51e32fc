"""``pyro-priors compare``, and the values per example that ``evaluate`` keeps for it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import pyro_priors as pp
import runs
from pyro_priors import checkpoint
from pyro_priors.cli.main import main
from pyro_priors.metrics import PerExample, digest_of_examples, keep_examples, kept_examples, paired_differences
from pyro_priors.run_folder import RunFolder

TINY = ["--quiet", "--networks.hidden", "8", "--z-dim", "2", "--train.device", "cpu", "--train.max-epochs", "1"]
DIGITS = ["--data", "digits", "--data.limit", "64"]
EVALUATE = ["--metrics", "bound", "log_likelihood", "active_units", "--num-samples", "3"]


def train(out, *more):
    assert main(["train", "vae", *DIGITS, *TINY, *more, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two runs, and a folder of two seeds, evaluated."""
    folder = tmp_path_factory.mktemp("compare")
    train(folder / "plain")
    train(folder / "vamp", "--prior", "vamp", "--prior.num-components", "4", "--objective", "beta")
    train(folder / "seeds", "--prior", "gaussian", "--seeds", "0", "1")
    for name in ("plain", "vamp", "seeds"):
        assert main(["evaluate", str(folder / name), *EVALUATE]) == 0
    return folder


@pytest.fixture
def here(folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / "runs")
    monkeypatch.chdir(tmp_path / "runs")
    return Path()


def values_of(name):
    return kept_examples(RunFolder(name)).values


def one_line(capsys):
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


# what is kept


def test_evaluate_keeps_the_values_of_each_example(folder):
    kept = kept_examples(RunFolder(folder / "plain"))
    record = json.loads((folder / "plain/evaluation.json").read_text())
    for name, known in (("elbo", "bound"), ("log_likelihood", "log_likelihood")):
        assert kept.values[name].shape == (250,) and kept.values[name].dtype is torch.float64
        estimate = record["metrics"][known]
        assert kept.values[name].mean().item() == pytest.approx(estimate["value"], rel=1e-6)
        stderr = kept.values[name].std().item() / 250**0.5
        assert stderr == pytest.approx(estimate["stderr"], rel=1e-6)
    pair, data = pp.load(folder / "plain").eval(), pp.data.load("digits", limit=64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        expected = pair.log_prob(data.test.x, num_samples=3)
    torch.testing.assert_close(kept.values["log_likelihood"], expected.double())
    assert (kept.split, kept.seed, kept.num_samples, kept.weights) == ("test", 0, 3, record["weights"])
    assert kept.data == digest_of_examples(data, "test")


def test_an_evaluation_later_adds_its_values(here):
    before = values_of("plain")
    assert main(["evaluate", "plain", "--metrics", "bound"]) == 0
    assert torch.equal(values_of("plain")["log_likelihood"], before["log_likelihood"])
    assert kept_examples(RunFolder("plain")).num_samples == 3
    assert main(["evaluate", "plain", "--metrics", "log_likelihood", "--num-samples", "2"]) == 0
    after = kept_examples(RunFolder("plain"))
    assert torch.equal(after.values["elbo"], before["elbo"]) and after.num_samples == 2
    assert not torch.equal(after.values["log_likelihood"], before["log_likelihood"])
    # other splits and seeds are beside them
    assert main(["evaluate", "plain", "--metrics", "bound", "--part", "valid", "--seed", "3"]) == 0
    assert len(kept_examples(RunFolder("plain"), "valid", 3).values["elbo"]) == 250
    assert kept_examples(RunFolder("plain"), "valid") is None
    assert torch.equal(values_of("plain")["elbo"], before["elbo"])


def test_values_of_another_pair_are_neither_kept_nor_read(here):
    run = RunFolder("plain")
    found = kept_examples(run)
    before = runs.snapshot(here / "plain/examples")
    keep_examples(run, PerExample({"elbo": torch.zeros(250)}, "test", 0, found.data, "0" * 64))
    keep_examples(run, PerExample({}, "test", 0, found.data, found.weights))
    assert runs.snapshot(here / "plain/examples") == before
    assert main(["resume", "plain", "--train.max-epochs", "2"]) == 0
    assert kept_examples(run) is None
    # the old values are not mixed with those of the new pair
    keep_examples(run, PerExample({"elbo": torch.zeros(250)}, "test", 0, found.data, run.weights()))
    assert kept_examples(run).values.keys() == {"elbo"}


def test_the_checksum_of_examples_is_of_their_values():
    data = pp.data.load("digits", limit=64)
    digest = digest_of_examples(data, "test")
    assert digest == digest_of_examples(pp.data.load("digits", limit=9, flatten=False), "test")
    others = [pp.data.load("digits", seed=1), pp.data.load("digits", binarise="none")]
    others += [pp.data.load("digits", condition_labels=True), runs.small_data("digits", 64, 249)]
    assert len({digest, *(digest_of_examples(one, "test") for one in others)}) == 5
    dynamic, fixed = (digest_of_examples(pp.data.load("digits", binarise=how), "train") for how in ("dynamic", "fixed"))
    assert dynamic != fixed


def damaged(here, how):
    (tensors,) = (here / "plain/examples").glob("*.safetensors")
    record = here / "plain/examples/test-seed0.json"
    if how == "cut":
        tensors.write_bytes(tensors.read_bytes()[:-5])
    elif how == "no record":
        record.write_text("{")
    else:
        known = kept_examples(RunFolder("plain"))
        about = {"split": "test", "seed": 0, "data": known.data, "weights": known.weights}
        wrong = {
            "name": {"other": torch.zeros(3).double()},
            "dtype": {"elbo": torch.zeros(3)},
            "sizes": {"elbo": torch.zeros(3).double(), "log_likelihood": torch.zeros(2).double()},
            "shape": {"elbo": torch.zeros(3, 2).double()},
        }[how]
        checkpoint.write(here / "plain/examples", "test-seed0", wrong, {"examples": about})


@pytest.mark.parametrize("how", ["cut", "no record", "name", "dtype", "sizes", "shape"])
def test_damaged_values_are_one_line_and_are_replaced(how, here, capsys):
    damaged(here, how)
    assert main(["compare", "plain", "vamp"]) == 2
    assert "examples" in one_line(capsys)
    assert main(["evaluate", "plain", *EVALUATE]) == 0
    assert main(["compare", "plain", "vamp"]) == 0


# differences


def test_paired_differences_by_hand():
    one = {"elbo": torch.tensor([1.0, 2.0, 6.0]), "log_likelihood": torch.ones(3)}
    found = paired_differences(one, {"elbo": torch.tensor([0.0, 3.0, 2.0])})
    assert found.keys() == {"elbo"}
    # 1, -1 and 4: mean 4/3, variance 19/3
    assert found["elbo"].value == pytest.approx(4 / 3)
    assert found["elbo"].stderr == pytest.approx((19 / 3 / 3) ** 0.5)
    assert found["elbo"].unit == "nats per example"
    assert paired_differences({"elbo": torch.ones(1)}, {"elbo": torch.zeros(1)})["elbo"].stderr is None
    with pytest.raises(pp.UserError, match="elbo must be of the same examples, got 3 and 2"):
        paired_differences(one, {"elbo": torch.ones(2)})


def test_a_paired_difference_is_more_precise_than_two_means():
    """What runs share cancels: the examples differ by far more than the runs."""
    draw = torch.Generator().manual_seed(0)
    hard = 10 * torch.randn(500, generator=draw, dtype=torch.float64)
    one, other = (hard + 0.1 * torch.randn(500, generator=draw, dtype=torch.float64) for _ in range(2))
    assert paired_differences({"elbo": one}, {"elbo": other})["elbo"].stderr < 0.05 * one.std().item() / 500**0.5


def test_compare_shows_a_table_best_first(here, capsys):
    capsys.readouterr()
    assert main(["compare", "plain", "seeds", "vamp", "--out", "deep/table.json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(Path("deep/table.json").read_text())
    assert (found["split"], found["ordered_by"]) == ("test", "log_likelihood")
    assert lines[0] == "best first by log p(x); test split, nats per example"
    log_p = [run["log_likelihood"]["value"] for run in found["runs"]]
    assert log_p == sorted(log_p, reverse=True)
    names = [run["run"] for run in found["runs"]]
    assert [line.split()[0] for line in lines[2:5]] == names and sorted(names) == ["plain", "seeds", "vamp"]
    by_name = {run["run"]: run for run in found["runs"]}
    assert {name: (one["prior"], one["objective"]) for name, one in by_name.items()} == {
        "plain": ("standard", "elbo"),
        "vamp": ("vamp", "beta"),
        "seeds": ("gaussian", "elbo"),
    }
    for name in ("plain", "vamp"):
        estimates = json.loads((here / name / "evaluation.json").read_text())["metrics"]
        assert by_name[name]["elbo"] == {"value": estimates["bound"]["value"], "spread": estimates["bound"]["stderr"]}
        assert by_name[name]["active_units"]["z"] == {"value": estimates["active_units_z"]["value"], "of": 2}
        size = sum(parameter.numel() for parameter in pp.load(here / name).parameters())
        assert by_name[name]["parameters"] == size
        assert by_name[name]["valid_elbo"]["value"] == runs.records(here / name)[0]["valid_bound"]
        history = (here / name / "metrics.jsonl").read_text().splitlines()
        assert by_name[name]["seconds"] == sum(json.loads(line)["seconds"] for line in history)
    each = [json.loads((here / f"seeds/seed-{seed}/evaluation.json").read_text())["metrics"] for seed in (0, 1)]
    elbo = [one["bound"]["value"] for one in each]
    assert by_name["seeds"]["elbo"]["value"] == pytest.approx(np.mean(elbo))
    assert by_name["seeds"]["elbo"]["spread"] == pytest.approx(np.std(elbo, ddof=1))
    assert (by_name["seeds"]["seeds"], by_name["seeds"]["spread_over"]) == ([0, 1], "seeds")
    assert "seeds (2 seeds)" in "\n".join(lines)
    assert "±: standard error over examples; standard deviation over seeds, for several seeds" in lines


def test_compare_pairs_the_examples(here, capsys):
    assert main(["compare", "plain", "seeds", "vamp", "--out", "table.json"]) == 0
    found = json.loads(Path("table.json").read_text())
    values = {name: {key: one.numpy() for key, one in values_of(name).items()} for name in ("plain", "vamp")}
    each = [values_of(f"seeds/seed-{seed}") for seed in (0, 1)]
    values["seeds"] = {key: (each[0][key] + each[1][key]).numpy() / 2 for key in each[0]}
    assert len(found["differences"]) == 6
    for one in found["differences"]:
        difference = values[one["run"]][one["quantity"]] - values[one["minus"]][one["quantity"]]
        assert one["value"] == pytest.approx(difference.mean(), abs=1e-12)
        assert one["stderr"] == pytest.approx(difference.std(ddof=1) / 250**0.5)
        assert one["num_examples"] == 250
    best = found["runs"][0]["run"]
    assert f"{best} less the others, over seed means, paired over 250 examples:" in capsys.readouterr().out


def test_runs_that_were_not_evaluated_are_ordered_by_validation(here, capsys):
    shutil.rmtree("plain/examples")
    Path("plain/evaluation.json").unlink()
    assert main(["compare", "vamp", "plain"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("best first by validation ELBO;")
    assert "no values per example of plain: pyro-priors evaluate RUN --part test" in out and "paired" not in out
    row = next(line for line in out.splitlines() if line.startswith("plain "))
    assert row.split()[1:5] == ["standard", "elbo", "-", "-"]


def test_other_numbers_of_samples_are_told(here, capsys):
    assert main(["evaluate", "plain", "--metrics", "log_likelihood", "--num-samples", "2"]) == 0
    assert main(["compare", "plain", "vamp"]) == 0
    assert "log p(x) is of other numbers of importance samples: 2, 3" in capsys.readouterr().out


def test_other_examples_are_refused_in_one_line(here, capsys):
    train("other", "--data.seed", "1")
    assert main(["evaluate", "other", *EVALUATE]) == 0
    capsys.readouterr()
    assert main(["compare", "plain", "vamp", "other"]) == 2
    assert "other was evaluated on other examples than plain (the test splits differ in data, order, bin" in one_line(
        capsys
    )


def test_another_binarization_is_refused_in_one_line(here, capsys):
    train("gray", "--data.binarise", "none")
    assert main(["evaluate", "gray", *EVALUATE]) == 0
    capsys.readouterr()
    assert main(["compare", "plain", "gray"]) == 2
    assert "plain has p(x) of binary values, gray of a density: their nats cannot be compared" in one_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "compare needs at least two run folders first, got 0: give two or more, such as runs/a runs/b"),
        (["plain"], "compare needs at least two run folders first, got 1"),
        (["plain", "plain"], "plain is given twice: give each run once"),
        (["plain", "nothing"], "nothing is not a run folder: it has no config.json"),
        (["plain", "vamp", "--split", "tests"], "--split must be one of train, valid, test, got 'tests'"),
        (["plain", "vamp", "--splt", "test"], "compare has no option --splt: did you mean '--split'?"),
        (["plain", "vamp", "--out", "table.csv"], "--out must end in .json, got 'table.csv': give comparison.json"),
        (["--split", "test", "plain", "vamp"], "compare cannot use the argument 'plain'"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(arguments, message, here, capsys):
    before = runs.snapshot(here)
    assert main(["compare", *arguments]) == 2
    assert message in one_line(capsys)
    assert runs.snapshot(here) == before


def test_help(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["compare", "--help"])
    out = capsys.readouterr().out
    assert "compare RUN RUN ..." in out and "--split" in out and "--out" in out
