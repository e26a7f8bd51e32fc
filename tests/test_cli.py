"""The command line from end to end, and what it answers to mistakes."""

import json
import math
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pyro_priors as pp
import runs
from pyro_priors import demo, metrics, zoo
from pyro_priors.cli.arguments import merged
from pyro_priors.cli.main import main

TINY = ["--quiet", "--networks.hidden", "16", "--z-dim", "2", "--train.max-epochs", "2", "--train.device", "cpu"]
DIGITS = ["--data", "digits", "--data.limit", "96", "--train.batch-size", "32"]


def train(out, name, *more):
    return main(["train", *merged([name, *TINY, "--out", str(out)], more)])


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    run = tmp_path_factory.mktemp("cli") / "digits"
    assert train(run, "cp_vae", *DIGITS, "--num-categories", "4") == 0
    return run


@pytest.fixture(scope="module")
def conditional_run(tmp_path_factory):
    run = tmp_path_factory.mktemp("cli") / "conditional"
    assert (
        train(run, "cvae", *DIGITS, "--data.condition-rows", "4", "--objective", "beta", "--objective.beta", "2") == 0
    )
    return run


@pytest.fixture(scope="module")
def toy_run(tmp_path_factory):
    run = tmp_path_factory.mktemp("cli") / "toy"
    assert train(run, "vae", "--data=moons", "--data.limit", "100", "--prior", "gaussian") == 0
    return run


@pytest.fixture(scope="module")
def own_file(tmp_path_factory):
    draw = np.random.default_rng(0)
    arrays = {f"x_{part}": draw.normal(size=(n, 5)) for part, n in (("train", 60), ("valid", 20), ("test", 20))}
    arrays |= {
        f"condition_{part}": draw.normal(size=(len(arrays[f"x_{part}"]), 2)) for part in ("train", "valid", "test")
    }
    path = tmp_path_factory.mktemp("own") / "mine.npz"
    np.savez(path, **arrays)
    return path


# what it does


@pytest.mark.parametrize(
    "options",
    [
        "vae --prior vamp --prior.num-components 5 --prior.learnable-weights",
        "hvae --prior flow --prior.transform spline_coupling --prior.hidden-features 8 9 --z1-dim 3",
    ],
)
def test_options_of_priors(options, tmp_path, capsys):
    name, *options = options.split()
    assert train(tmp_path / "run", name, "--data=moons", "--data.limit", "60", *options) == 0
    config = pp.load(tmp_path / "run").recipe["config"]
    if name == "vae":
        assert config["prior"] == {"name": "vamp", "num_components": 5, "learnable_weights": True}
    else:
        prior = config["prior"]
        assert (prior["transform"], prior["hidden_features"], config["z1_dim"]) == ("spline_coupling", (8, 9), 3)
    assert main(["plot", str(tmp_path / "run")]) == 0
    assert main(["sample", str(tmp_path / "run"), "--num", "4", "--out", str(tmp_path / "samples.npz")]) == 0


@pytest.mark.parametrize("name", ["vae", "hvae"])
def test_pseudo_inputs_start_at_data(name, tmp_path):
    """As from Python, at the grey training images, by the seed of the training; and they are recorded as such."""
    start = ["--prior", "vamp", "--prior.num-components", "5", "--train.seed", "3", "--train.pseudo-inputs", "data"]
    # steps too small to move anything
    assert train(tmp_path / "run", name, *DIGITS, *start, "--train.learning-rate", "1e-30") == 0
    assert json.loads((tmp_path / "run/config.json").read_text())["train"]["pseudo_inputs"] == "data"
    found, other = pp.load(tmp_path / "run").model.prior, pp.load(tmp_path / "run").model.prior
    other.init_from_data(pp.data.load("digits", limit=96).train.x, seed=3)
    torch.testing.assert_close(found.free_pseudo_inputs, other.free_pseudo_inputs)
    assert found.free_pseudo_inputs.std() > 0.2


def test_usage(capsys):
    assert main(["--help"]) == 0
    assert "train PAIR --data NAME|FILE.npz --out RUN" in capsys.readouterr().out
    assert main([]) == 2
    assert main(["train", "--help"]) == 0


@pytest.mark.parametrize("name", pp.names())
def test_help_of_train_lists_every_group(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", name, "--help"])
    assert stop.value.code == 0
    output = capsys.readouterr().out
    for option in ("--z-dim", "--likelihood", "--data.limit", "--train.max-epochs", "--out", "--resume"):
        assert option in output
    # sizes that the data fix are no options
    assert "x-shape" not in output and "condition-shape" not in output


def test_help_of_evaluate_says_what_is_left_out(capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "when left out all that apply but leakage, generation, fidelity and diversity." in words
    assert set(metrics.ON_REQUEST) == {"generation", "fidelity", "diversity", "leakage"}


def test_train_on_digits(digits_run):
    assert {path.name for path in digits_run.iterdir()} >= {"config.json", "metrics.jsonl", "pair", "last"}
    config = json.loads((digits_run / "config.json").read_text())
    pair = config["pair"]["config"]
    assert pair["x_shape"] == [64] and pair["likelihood"] == {"name": "bernoulli"} and pair["num_categories"] == 4
    assert pair["networks"] == {"name": "mlp", "hidden": [16], "gated": True}
    assert config["train"]["max_epochs"] == 2 and config["data"]["config"]["limit"] == 96
    assert len(runs.records(digits_run)) == 2
    assert pp.load(digits_run).num_categories == 4


def test_train_of_the_command_line_is_that_of_python(digits_run):
    data = pp.data.load("digits", limit=96)
    torch.manual_seed(0)
    pair = pp.create("cp_vae", x_shape=(64,), z_dim=2, hidden=(16,), num_categories=4)
    pp.fit(pair, data, max_epochs=2, batch_size=32, progress=False, device="cpu")
    assert runs.same_bits(runs.saved_pair(digits_run), runs.state(pair))


def test_train_says_what_it_did(tmp_path, capsys):
    arguments = [option for option in TINY if option != "--quiet"]
    assert main(["train", "vae", *arguments, *DIGITS, "--out", str(tmp_path / "run")]) == 0
    captured = capsys.readouterr()
    assert "data: scikit-learn's load_digits" in captured.out and "; binarised in every batch (--data.b" in captured.out
    assert re.search(
        r"trained 2 epochs, stopped by max_epochs; best validation bound -\d+\.\d+ nats per datum, of epoch [01]",
        captured.out,
    )
    assert re.search(r"epoch 0: loss \d+\.\d+, validation bound -\d+\.\d+ nats per datum, \d+ s left", captured.err)


@pytest.mark.filterwarnings("default")
def test_train_warns_of_what_is_hardly_meant(tmp_path, capsys):
    values = np.random.default_rng(0).random((40, 3, 40, 40), np.float32)
    np.savez(tmp_path / "colour.npz", x_train=values, label_train=np.arange(40) % 4)
    options = ["--data", str(tmp_path / "colour.npz"), "--data.condition-labels", "--networks.hidden", "3"]
    assert train(tmp_path / "run", "vae", *options) == 0
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("pyro-priors: warning: the perceptrons of images of 4800 values are huge")
    assert second == "pyro-priors: warning: vae takes no condition: it is trained on x alone"


def test_conditional_objective(conditional_run):
    config = json.loads((conditional_run / "config.json").read_text())
    assert config["objective"]["name"] == "beta" and config["objective"]["config"]["beta"] == 2
    assert config["pair"]["config"]["condition_shape"] == [32] and config["pair"]["config"]["x_shape"] == [32]


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("capacity", "--objective.capacity 3 --objective.num-steps 4", {"capacity": 3.0, "num_steps": 4}),
        ("constrained", "--objective.kappa-squared 20 --objective.beta 0.1", {"kappa_squared": 20.0, "beta": 0.1}),
        ("total-correlation", "--objective.estimator weighted", {"estimator": "weighted", "num_data": None}),
        ("factor", "--objective.hidden 9 8 --objective.gamma 2", {"hidden": [9, 8], "gamma": 2.0}),
        ("info", "--objective.no-unbiased --objective.lambd 5", {"unbiased": False, "lambd": 5.0}),
    ],
)
def test_regularised_objectives(name, options, expected, tmp_path):
    """By their names, with options, on a flow; resumed, they find what they were begun with."""
    run = tmp_path / "run"
    arguments = [
        "vae",
        *DIGITS,
        "--prior",
        "flow",
        "--prior.hidden-features",
        "8",
        "--objective",
        name,
        *options.split(),
    ]
    assert train(run, *arguments) == 0
    config = json.loads((run / "config.json").read_text())["objective"]
    assert config["name"] == name and config["config"] | expected == config["config"]
    assert train(run, *arguments, "--resume", "--train.max-epochs", "3") == 0
    assert len(runs.records(run)) == 3


def test_evaluate(digits_run, capsys):
    assert main(["evaluate", str(digits_run), "--num-samples", "5", "--seed", "1"]) == 0
    output = capsys.readouterr().out
    record = json.loads((digits_run / "evaluation.json").read_text())
    assert (record["part"], record["num_samples"], record["seed"]) == ("test", 5, 1)
    assert record["data"].startswith("scikit-learn's load_digits")
    pair, data = pp.load(digits_run), pp.data.load("digits", limit=96)
    expected = pp.metrics.evaluate(pair, data, num_samples=5, seed=1)
    assert record["metrics"].keys() == expected.keys()
    for name, estimate in expected.items():
        assert record["metrics"][name] == {"value": estimate.value, "stderr": estimate.stderr, "unit": estimate.unit}
        assert re.search(rf"^  {name} +{estimate.value:.4f} .*{re.escape(estimate.unit)}$", output, re.MULTILINE)
    assert "250 data" in output and "±" in output


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_runs_of_any_precision_are_evaluated_and_drawn(precision, tmp_path):
    run = tmp_path / "run"
    assert train(run, "vae", *DIGITS, "--train.precision", precision) == 0
    assert main(["evaluate", str(run), "--num-samples", "3"]) == 0
    assert math.isfinite(json.loads((run / "evaluation.json").read_text())["metrics"]["log_likelihood"]["value"])
    assert main(["sample", str(run), "--num", "3", "--out", str(tmp_path / "s.png")]) == 0
    assert main(["plot", str(run)]) == 0


def test_evaluate_says_what_does_not_apply(toy_run, capsys):
    assert main(["evaluate", str(toy_run), "--metrics", "bound", "factors", "--part", "valid"]) == 0
    assert "not of this pair and its data: factors (needs data of known factors, and" in capsys.readouterr().out


def test_help_of_train_names_pairs_data_and_objectives(capsys):
    assert main(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "pyro-priors train PAIR --help" in shown and all(name in shown for name in ("cp_vae", "factor", "moons"))


def test_evaluate_chosen_metrics_on_another_part(toy_run, capsys):
    assert main(["evaluate", str(toy_run), "--metrics", "bound", "active_units", "--part", "valid"]) == 0
    record = json.loads((toy_run / "evaluation.json").read_text())
    assert record["part"] == "valid"
    assert record["metrics"].keys() == {"bound", "reconstruction", "kl_z", "active_units_z"}
    assert record["true_log_likelihood"] == pp.data.load("moons").true_log_likelihood
    assert "true log-likelihood" in capsys.readouterr().out
    bound = record["metrics"]["bound"]
    # what is asked for later comes beside it, unless it is of other data
    assert main(["evaluate", str(toy_run), "--metrics", "log_likelihood", "--num-samples", "5", "--part", "valid"]) == 0
    beside = json.loads((toy_run / "evaluation.json").read_text())
    assert beside["metrics"].keys() == record["metrics"].keys() | {"log_likelihood", "bits_per_dim"}
    assert (beside["num_samples"], beside["metrics"]["bound"]) == (5, bound)
    assert main(["evaluate", str(toy_run), "--metrics", "bound", "--part", "valid"]) == 0
    record = json.loads((toy_run / "evaluation.json").read_text())
    assert record["metrics"] == beside["metrics"] and record["num_samples"] == 5, "of which log p(x) is still"
    assert {"active_units", "bound", "log_likelihood"} <= set(record["asked"])
    assert main(["evaluate", str(toy_run), "--metrics", "log_likelihood", "--num-samples", "7", "--part", "valid"]) == 0
    record = json.loads((toy_run / "evaluation.json").read_text())
    assert record["num_samples"] == 7 and record["metrics"]["bound"] == bound
    assert record["metrics"]["log_likelihood"] != beside["metrics"]["log_likelihood"]
    out = capsys.readouterr().out
    assert "evaluation.json has" not in out and "is now" not in out
    assert main(["evaluate", str(toy_run), "--metrics", "bound"]) == 0
    assert "  the evaluation before is now evaluation-valid-seed0.json\n" in capsys.readouterr().out
    assert json.loads((toy_run / "evaluation-valid-seed0.json").read_text()) == record
    record = json.loads((toy_run / "evaluation.json").read_text())
    assert record["metrics"].keys() == {"bound", "reconstruction", "kl_z"} and record["metrics"]["bound"] != bound
    assert main(["evaluate", str(toy_run), "--metrics", "categories"]) == 2
    error = capsys.readouterr().err
    assert "metrics: none applies to this pair and its data: leave out categories (needs a pair with cat" in error
    assert json.loads((toy_run / "evaluation.json").read_text()) == record
    # and back: what was found of that part is not computed again, nor lost
    assert main(["evaluate", str(toy_run), "--metrics", "active_units", "--part", "valid"]) == 0
    back = json.loads((toy_run / "evaluation.json").read_text())
    assert back["metrics"]["bound"] == bound and "log_likelihood" in back["metrics"] and back["part"] == "valid"
    assert json.loads((toy_run / "evaluation-test-seed0.json").read_text()) == record


def test_data_that_changed_or_went_since_the_training_are_refused(tmp_path, capsys):
    file, run = tmp_path / "mine.npz", tmp_path / "run"
    x = np.random.default_rng(0).normal(size=(60, 3)).astype("float32")
    np.savez(file, x_train=x)
    train = ["train", "vae", "--data", str(file), "--out", str(run), "--quiet", "--networks.hidden", "4"]
    train += ["--z-dim", "2", "--train.max-epochs", "1"]
    assert main(train) == 0 and main(["evaluate", str(run), "--metrics", "bound"]) == 0
    np.savez(file, x_train=3 * x)
    capsys.readouterr()
    for command in (["evaluate"], ["plot"], ["encode", "--out", "s.npz"], ["reconstruct", "--out", "s.npz"]):
        assert main([command[0], str(run), *command[1:]]) == 2
        assert capsys.readouterr().err == (
            f"pyro-priors: error: {file} has changed since {run} was trained on it: put that file back\n"
        )
    assert main(merged(train, ["--resume", "--train.max-epochs", "2"])) == 2
    assert "error: the run in" in capsys.readouterr().err
    file.unlink()
    assert main(["evaluate", str(run)]) == 2
    assert capsys.readouterr().err == (
        f"pyro-priors: error: {file}, which {run} was trained on, is no longer there: put it back, or give its new "
        "place with --data\n"
    )


def test_a_reader_that_has_read_enough_is_no_error():
    command = f"set -o pipefail; {sys.executable} -m pyro_priors.cli list | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("category", [None, "3", "0", "aggregate", "prior"])
def test_sample_arrays(digits_run, tmp_path, category):
    out = tmp_path / "deep" / "samples.npz"
    more = [] if category is None else ["--category", category]
    assert main(["sample", str(digits_run), "--num", "12", "--out", str(out), "--seed", "5", *more]) == 0
    with np.load(out) as arrays:
        assert arrays["x"].shape == arrays["x_mean"].shape == (12, 64) and arrays["z"].shape == (12, 2)
        assert set(np.unique(arrays["x"])) <= {0, 1}
        assert ((arrays["x_mean"] > 0) & (arrays["x_mean"] < 1)).all()
        assert arrays["c"].shape == (12,) and (arrays["c"] < 4).all()
        if category in ("0", "3"):
            assert (arrays["c"] == int(category)).all()


def test_the_seed_decides_the_samples(toy_run, tmp_path):
    found = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        out = tmp_path / f"{name}.npz"
        assert main(["sample", str(toy_run), "--num", "3", "--out", str(out), "--seed", seed]) == 0
        found.append(np.load(out)["x"])
    assert np.array_equal(found[0], found[1]) and not np.array_equal(found[0], found[2])


def test_sample_picture(digits_run, tmp_path, capsys):
    out = tmp_path / "samples.png"
    assert main(["sample", str(digits_run), "--num", "16", "--out", str(out)]) == 0
    with Image.open(out) as image:
        image.load()
        assert min(image.size) > 50
    assert f"16 samples in {out}" in capsys.readouterr().out


def test_sample_given_conditions(conditional_run, tmp_path):
    out = tmp_path / "samples.npz"
    assert main(["sample", str(conditional_run), "--num", "5", "--condition", "3", "8", "--out", str(out)]) == 0
    data = pp.data.load("digits", limit=96, condition_rows=4)
    pair = pp.load(conditional_run).eval()
    torch.manual_seed(0)
    expected = pair.sample(5, data.test.condition[[3, 8, 3, 8, 3]])
    with np.load(out) as arrays:
        np.testing.assert_allclose(arrays["x_mean"], expected["x_mean"], rtol=1e-6)
    assert main(["sample", str(conditional_run), "--num", "300", "--out", str(tmp_path / "all.png")]) == 0
    assert (tmp_path / "all.png").stat().st_size > 0


@pytest.mark.parametrize("kind", ["digits_run", "conditional_run", "toy_run"])
def test_plot(kind, request, capsys):
    run = request.getfixturevalue(kind)
    capsys.readouterr()  # of its training, where this test is the first to need it
    assert main(["plot", str(run)]) == 0
    paths = capsys.readouterr().out.split()
    assert paths and all(Path(path).parent == run / "figures" and Path(path).stat().st_size > 0 for path in paths)
    assert any(path.endswith("curves.png") for path in paths)


def test_a_file_of_ones_own(own_file, tmp_path, capsys):
    run = tmp_path / "run"
    assert train(run, "cvae", "--data", str(own_file)) == 0
    config = json.loads((run / "config.json").read_text())["pair"]["config"]
    assert (config["x_shape"], config["condition_shape"]) == ([5], [2])
    assert config["likelihood"] == {"name": "gaussian", "scale": "learned", "init_scale": None}
    assert main(["evaluate", str(run), "--num-samples", "3"]) == 0
    assert "bits_per_dim" in json.loads((run / "evaluation.json").read_text())["metrics"]
    assert main(["sample", str(run), "--num", "3", "--out", str(tmp_path / "s.npz"), "--condition", "19"]) == 0
    assert main(["plot", str(run)]) == 0


def test_resume_on_the_command_line(digits_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    assert train(run, "cp_vae", *DIGITS, "--num-categories", "4", "--resume", "--train.max-epochs", "3") == 0
    assert len(runs.records(run)) == 3


@pytest.mark.parametrize(
    "arguments",
    [
        "cp_vae --data digits --data.limit 96 --category sparse --num-enumerated 2 --train.warmup-epochs 2",
        "cvae --data digits --data.limit 96 --data.condition-rows 4 --objective beta --objective.beta 2",
        "vae --data moons --prior flow --prior.hidden-features 8 7 --objective total-correlation "
        "--train.warmup-epochs 2 --train.warmup-sites z",
        "cvae --data FILE --objective factor --objective.hidden 9 8 --train.clip-norm 5 --train.seed 3",
        "vae --data digits --data.limit 96 --prior vamp --prior.num-components 5 "
        "--train.pseudo-inputs data --train.frozen model.prior --train.frozen-epochs 2.5 --train.keep last",
        "sigma_cvae_nf --data digits --data.limit 96 --data.condition-labels --data.binarise none",
    ],
)
def test_resume_needs_the_folder_alone(arguments, own_file, tmp_path, monkeypatch):
    """Every option is that of the run, and the bits are those of a run that never stopped."""
    monkeypatch.chdir(own_file.parent)
    arguments = arguments.replace("FILE", own_file.name).split()
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert train(whole, *arguments, "--train.max-epochs", "3") == 0
    assert train(run, *arguments) == 0
    monkeypatch.chdir(tmp_path)
    assert main(["resume", "run", "--train.max-epochs", "3"]) == 0
    assert runs.same_bits(runs.saved_pair(run), runs.saved_pair(whole))
    assert runs.records(run) == runs.records(whole)
    assert (run / "config.json").read_text() == (whole / "config.json").read_text()
    assert main(["resume", "run"]) == 0  # nothing is left to do
    assert runs.records(run) == runs.records(whole)


def test_resume_of_a_killed_training(tmp_path):
    """Before its first state too, when it begins again."""
    arguments = merged([*TINY, *DIGITS], ["--train.checkpoint-seconds", "0", "--train.max-epochs", "4"])
    assert main(["train", "vae", *arguments, "--out", str(tmp_path / "whole")]) == 0
    for moment in ("config.json", "last/state.json", "pair/pair.json"):
        run = tmp_path / moment.replace("/", "-")
        command = [sys.executable, "-m", "pyro_priors.cli", "train", "vae", *arguments, "--out", str(run)]
        process = subprocess.Popen(command)
        while not (run / moment).exists() and process.poll() is None:
            time.sleep(0.002)
        process.kill()
        process.wait()
        assert main(["resume", str(run)]) == 0
        assert runs.same_bits(runs.saved_pair(run), runs.saved_pair(tmp_path / "whole"))
        assert runs.records(run) == runs.records(tmp_path / "whole")


def test_a_root_may_be_given_from_where_one_is(tmp_path, monkeypatch):
    root = tmp_path / "root"
    root.mkdir()
    monkeypatch.chdir(tmp_path)
    assert train("run", "vae", *DIGITS, "--data.root", "root") == 0
    monkeypatch.chdir("/")
    assert main(["resume", str(tmp_path / "run"), "--train.max-epochs", "3"]) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["config"]["root"] == str(root)


def test_resume_is_of_what_the_command_line_began(tmp_path, capsys):
    digits = pp.data.load("digits", limit=96)
    pp.fit(zoo.create_for("vae", digits, 0, hidden=(8,)), digits, out=tmp_path / "run", progress=False, max_epochs=1)
    before = runs.snapshot(tmp_path)
    assert main(["resume", str(tmp_path / "run"), "--train.max-epochs", "2"]) == 2
    assert capsys.readouterr().err == (
        f"pyro-priors: error: {tmp_path / 'run'} does not say which command began it (reproduce, Python or an older "
        "version did): give that again; train with --resume, fit with resume=True\n"
    )
    assert runs.snapshot(tmp_path) == before


def test_divergence_has_status_1(tmp_path, capsys):
    assert train(tmp_path / "run", "vae", *DIGITS, "--train.learning-rate", "1e25") == 1
    captured = capsys.readouterr()
    assert re.fullmatch(r"pyro-priors: error: .* at step 1 \(epoch 0\): .*\n", captured.err)


def test_demo(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    seen = []
    monkeypatch.setattr(demo, "main", lambda command: seen.append(command) or 0)
    assert demo.demo() == 0
    assert [command[0] for command in seen] == ["train", "evaluate", "plot"]
    assert all(str(Path("runs") / "demo-digits") in command for command in seen)
    assert "--resume" not in seen[0]
    (tmp_path / "runs/demo-digits").mkdir(parents=True)
    (tmp_path / "runs/demo-digits/config.json").write_text("{}")
    assert demo.demo() == 0
    assert seen[3] == [*seen[0], "--resume"], "what is there is gone on with, and never removed"
    assert (tmp_path / "runs/demo-digits/config.json").exists()
    monkeypatch.setattr(demo, "main", lambda command: 2)
    assert demo.demo() == 2


# mistakes: exit status 2, one line, and nothing written

MISTAKES = {
    "command": ("tarin vae", r"command 'tarin' is unknown: did you mean 'train'\?"),
    "pair": ("train cp_vea --data digits --out new", r"pair 'cp_vea' is unknown: did you mean 'cp_vae'\?"),
    "no pair": ("train --data digits --out new", r"train needs the name of a pair first: one of .*cp_vae"),
    "no data": ("train vae --out new", r"train needs --data: a file \.npz or one of .*digits"),
    "no value": ("train vae --data --out new", r"--data needs a value"),
    "data": ("train vae --data digit --out new", r"unknown data set 'digit': did you mean 'digits'\?"),
    "no out": ("train vae --data digits", r"--out"),
    "no file": ("train vae --data missing.npz --out new", r"missing\.npz: no such file; give the path"),
    "bad file": (
        "train vae --data bad.npz --out new",
        r"bad\.npz: not a readable \.npz file \(File is not a zip file\): write it with numpy\.savez",
    ),
    "NaN": ("train vae --data nan.npz --out new", r"nan\.npz: x_train .*(NaN|nan|finite)"),
    "no x_train": ("train vae --data other.npz --out new", r"other\.npz: has no x_train, only y"),
    "option": ("train vae --data digits --out new --train.max-epoch 3", r"--train\.max-epoch"),
    "pair option": (
        "train vae --data digits --out new --num-categories 3",
        r"vae has no option --num-categories",
    ),
    "no number": ("train vae --data digits --out new --train.max-epochs many", r"max-epochs.*many|many.*max-epochs"),
    "max_epochs": ("train vae --data digits --out new --train.max-epochs 0", r"max_epochs must be at least 1, got 0"),
    "rate": (
        "train vae --data digits --out new --train.learning-rate 0",
        r"learning_rate must be above 0, got 0.*5e-4",
    ),
    "seed": ("train vae --data digits --out new --train.seed -1", r"seed must be 0 or more, got -1"),
    "schedule": (
        "train vae --data digits --out new --train.schedule step",
        r"schedule must be one of constant, .* 'step'",
    ),
    "precision": (
        "train vae --data digits --out new --train.precision 8",
        r"precision must be one of 32-true.*got '8'",
    ),
    "device": ("train vae --data digits --out new --train.device tpu", r"device must be one of auto, cpu.*got 'tpu'"),
    "no device": (
        "train vae --data digits --out new --train.device mps",
        r"device is 'mps', but torch finds no Apple GPU",
    ),
    "warmup": (
        "train vae --data digits --out new --train.warmup-epochs 1 --train.warmup-sites c",
        r"warmup_sites names 'c', which is not a latent site: choose from z",
    ),
    "prior": (
        "train vae --data digits --out new --prior flo",
        r"prior 'flo' is unknown: did you mean 'flow'\?",
    ),
    "pseudo-inputs": (
        "train vae --data digits --out new --train.pseudo-inputs test",
        r"pseudo_inputs must be one of data, random, got 'test'",
    ),
    "no pseudo-inputs": (
        "train vae --data digits --out new --train.pseudo-inputs data",
        r"pseudo_inputs is 'data', but the pair has no VampPrior with learnable .*--prior vamp.*or leave",
    ),
    "too few data": (
        "train vae --data digits --data.limit 96 --out new --prior vamp --train.pseudo-inputs data",
        r"num_components is 500, but only 96 examples are there for .* to start at: make .* num_components=96 or fewer",
    ),
    "likelihood": ("train vae --data digits --out new --likelihood bernouli", r"likelihood.*bernouli"),
    "z_dim": ("train vae --data digits --out new --z-dim 0", r"z_dim must be a positive integer, got 0"),
    "objective": (
        "train vae --data digits --out new --objective bta",
        r"objective 'bta' is unknown: did you mean 'beta'\?",
    ),
    "beta": ("train vae --data digits --out new --objective beta --objective.beta 0", r"beta must be above 0, got 0"),
    "objective option": ("train vae --data digits --out new --objective.beta 2", r"--objective\.beta"),
    "bernoulli": (
        "train vae --data moons --out new --likelihood bernoulli",
        r"does not fit the pair: x must be 0 or 1 for likelihood='bernoulli'",
    ),
    "rows": ("train cvae --data digits --out new --data.condition-rows 8", r"condition_rows must be below .* 8, got 8"),
    "no images": (
        "train cvae --data moons --out new --data.condition-rows 1",
        r"condition_rows=1 needs a data set of images, but moons",
    ),
    "no condition": (
        "train cvae --data digits --out new",
        r"'cvae' needs data with a condition, digits has none: give --data",
    ),
    "limit": ("train vae --data digits --out new --data.limit -3", r"limit must be an integer of 0 or more, got -3"),
    "taken": (
        "train cp_vae --data digits --out RUN",
        r"RUN already contains a run: resume it \(--resume.*or choose another --out",
    ),
    "other options": (
        "train vae --data digits --out RUN --resume",
        r"(pair|data|train)\.\S+ is .* was started with .*: give that",
    ),
    "out is a file": ("train vae --data digits --out bad.npz", r"out is bad\.npz, which is a file"),
    "out below a file": ("train vae --data digits --out bad.npz/run", r"bad\.npz/run"),
    "no run": ("evaluate new", r"new is not a run folder: it has no config\.json"),
    "metric": ("evaluate RUN --metrics bond", r"metric 'bond' is unknown: did you mean 'bound'\?"),
    "metric of other data": (
        "evaluate RUN --metrics factors",
        r"metrics: none applies to this pair and its data: leave out factors \(needs data of known factors, and",
    ),
    "number": (
        "train vae --data digits --out new --objective beta --objective.beta inf",
        r"beta must be a finite number",
    ),
    "num_data": (
        "train vae --data digits --data.limit 96 --out new --objective total-correlation --objective.num-data 50",
        r"num_data is 50, but there are 96 training data: leave it out",
    ),
    "part": ("evaluate RUN --part tets", r"--part.*tets|tets.*--part"),
    "num_samples": ("evaluate RUN --num-samples 0", r"--num-samples must be a positive integer or None, got 0"),
    "sample no run": ("sample new", r"new is not a run folder"),
    "suffix": ("sample RUN --out samples.jpg", r"--out must end in \.png or \.npz, got 'samples\.jpg'"),
    "num": ("sample RUN --num 0", r"--num must be a positive integer or None, got 0"),
    "category": ("sample RUN --category 7", r"c must be a category from 0 to 3, got 7"),
    "negative category": ("sample RUN --category -1", r"c must be a category from 0 to 3, got -1|--category"),
    "category word": ("sample RUN --category three", r"c must be a category, .*'aggregate'.*got 'three'"),
    "condition": ("sample RUN --condition 0", "--condition 0: this pair takes no condition"),
    "broken pair": ("plot BROKEN", r"pair-.*safetensors does not match the checksum .*truncated or altered"),
    "broken config": ("plot UNREADABLE", r"config\.json cannot be read .*truncated or altered"),
    "empty config": ("evaluate EMPTY", r"config\.json cannot be read \(\w+ is missing\): .* restore it from a copy"),
    "list in config": (
        "sample LIST",
        r"config\.json cannot be read \(it must be an object, got \[1\]\): .* restore it",
    ),
    "data in config": (
        "plot NODATA",
        r"config\.json cannot be read \(data must be an object or null, got 3\): .* restore",
    ),
    "sample below a file": (
        "sample RUN --out bad.npz/x.npz",
        r"the folder bad\.npz cannot be created \(it is a file\)",
    ),
    "unfinished": (
        "evaluate UNFINISHED",
        r"UNFINISHED has no finished pair yet: go on training it \(pyro-priors resume UNFINISHED\)",
    ),
    "resume no run": ("resume new", r"new is not a run folder: it has no config\.json"),
    "resume a list": ("resume LIST", r"config\.json cannot be read \(it must be an object, got \[1\]\)"),
    "resume to less": ("resume RUN --train.max-epochs 1", r"max_epochs is 1, but the run in RUN has trained 2 epochs"),
    "resume on no device": ("resume RUN --train.device cuda", r"device is 'cuda', but torch finds no CUDA device here"),
    "resume on a word": ("resume RUN --train.device gpu", r"device must be one of auto, cpu, cuda, mps, got 'gpu'"),
    "resume what": ("resume", r"resume needs a run folder first"),
    "resume an option": ("resume --train.max-epochs 3", r"resume needs a run folder first"),
    "resume with others": (
        "resume RUN --train.batch-size 3",
        r"train\.batch_size is 3, but the run in RUN was started with 32: give that",
    ),
    "surplus": ("plot RUN more", r"more"),
    "list": ("list everything", r"everything"),
}

if torch.cuda.is_available():
    del MISTAKES["resume on no device"]
if torch.backends.mps.is_available():
    del MISTAKES["no device"]


@pytest.fixture(scope="module")
def playground(digits_run, tmp_path_factory):
    """A folder with a run, damaged runs and files to be mistaken about."""
    folder = tmp_path_factory.mktemp("playground")
    altered = {"EMPTY": {}, "LIST": [1], "NODATA": json.loads((digits_run / "config.json").read_text()) | {"data": 3}}
    for name in ("RUN", "BROKEN", "UNREADABLE", "UNFINISHED", *altered):
        shutil.copytree(digits_run, folder / name)
    for name, config in altered.items():
        (folder / name / "config.json").write_text(json.dumps(config))
    (tensors,) = (folder / "BROKEN" / "pair").glob("*.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:-5])
    (folder / "UNREADABLE" / "config.json").write_text("{")
    shutil.rmtree(folder / "UNFINISHED" / "pair")
    (folder / "bad.npz").write_text("no archive")
    np.savez(folder / "nan.npz", x_train=np.full((50, 3), np.nan))
    np.savez(folder / "other.npz", y=np.zeros((50, 3)))
    return folder


def assert_one_line(status, output, errors, match):
    assert status == 2
    lines = errors.splitlines()
    assert len(lines) == 1 and lines[0].startswith("pyro-priors: error: "), errors
    assert re.search(match, lines[0]), lines[0]
    assert not re.search("---|[─│╭]", lines[0])  # no frame
    assert "Traceback" not in output + errors


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_changes_nothing(mistake, playground, monkeypatch, capsys):
    arguments, match = MISTAKES[mistake]
    monkeypatch.chdir(playground)
    before = runs.snapshot(playground), sorted(playground.rglob("*"))
    status = main(arguments.split())
    captured = capsys.readouterr()
    assert_one_line(status, captured.out, captured.err, match)
    assert (runs.snapshot(playground), sorted(playground.rglob("*"))) == before


@pytest.mark.parametrize("mistake", ["pair", pytest.param("category", marks=pytest.mark.slow), "taken"])
def test_a_mistake_in_a_process_of_its_own(mistake, playground):
    arguments, match = MISTAKES[mistake]
    before = runs.snapshot(playground)
    script = Path(sys.executable).with_name("pyro-priors")
    done = subprocess.run([script, *arguments.split()], cwd=playground, capture_output=True, text=True, check=False)
    assert_one_line(done.returncode, done.stdout, done.stderr, match)
    assert runs.snapshot(playground) == before


# paths


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Another home, and another current folder, which is to stay empty."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


def test_a_tilde_is_the_home_in_every_path_option(home, capsys):
    """As a shell leaves it in '~/run' and --out=~/run."""
    draw = np.random.default_rng(0)
    np.savez(home / "own.npz", x_train=draw.random((60, 1, 4, 4)))
    run = home / "runs" / "own"
    assert train("~/runs/own", "vae", "--data=~/own.npz") == 0
    assert (run / "pair" / "pair.json").exists()
    assert json.loads((run / "config.json").read_bytes())["data"]["name"] == str(home / "own.npz")
    assert main(["resume", "~/runs/own", "--train.max-epochs", "3"]) == 0
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3
    assert main(["evaluate", "~/runs/own", "--metrics", "bound"]) == 0 and (run / "evaluation.json").exists()
    assert main(["sample", "~/runs/own", "--out=~/pictures/some.png"]) == 0 and (home / "pictures/some.png").exists()
    assert main(["plot", "~/runs/own"]) == 0 and (run / "figures" / "samples.png").exists()
    assert main(["train", "vae", "--data", "digits", "--data.root", "~/data", *TINY, "--out", "~/runs/digits"]) == 0
    config = json.loads((home / "runs/digits/config.json").read_bytes())
    assert config["data"]["config"]["root"] == str(home / "data")
    assert f"--data.root={home / 'data'}" in config["command"]
    assert main(["reproduce", "lavda2019/table1", "--no-train", "--out", "~/papers"]) == 0
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train vae --data moons --out=", "--out needs a value, got '': give one"),
        ("train vae --data moons --out new --data.root=", "--data.root needs a value, got '': give one"),
        ("train vae --data= --out new", "--data needs a value, got '': give one"),
        ("sample RUN --out=", "--out needs a value, got '': give one"),
        ("evaluate RUN --data=", "--data needs a value, got '': give one"),
        ("evaluate RUN --data.root=", "--data.root needs a value, got '': give one"),
        ("reproduce lavda2019/table1 --no-train --out=", "--out needs a value, got '': give one"),
        (["evaluate", ""], "run must be a path, got ''"),
        (["sample", ""], "run must be a path, got ''"),
        (["plot", ""], "run must be a path, got ''"),
        (["resume", ""], "run must be a path, got ''"),
    ],
)
def test_an_empty_path_is_refused(command, message, toy_run, home, capsys):
    command = command.split() if isinstance(command, str) else command
    assert main([str(toy_run) if word == "RUN" else word for word in command]) == 2
    err = capsys.readouterr().err
    assert re.search(f"^pyro-priors: error: .*{message}", err) and err.count("\n") == 1
    assert not list(Path().iterdir())


def test_paths_in_python_are_those_of_the_command_line(home):
    data = pp.data.from_arrays(torch.zeros(20, 4))
    pair = pp.create("vae", x_shape=(4,), z_dim=2, hidden=(5,))
    pair.save("~/saved")
    pp.load("~/saved").load_weights(Path("~/saved"))
    pp.fit(pair, data, out="~/run", max_epochs=1, progress=False)
    assert pp.load("~/run").recipe == pair.recipe
    pp.plots.figures(pair, data, [], "~/figures")
    assert {path.name for path in home.iterdir()} >= {"saved", "run", "figures"}
    images = pp.data.load("digits", limit=50, root="~/data")
    pp.metrics.trained_classifier(images, "~/judge", max_epochs=1, progress=False)
    assert (home / "judge" / "classifier.json").exists() and not list(Path().iterdir())
    calls: dict = {
        "path": [lambda path: pair.save(path), lambda path: pp.load(path), lambda path: pair.load_weights(path)],
        "folder": [
            lambda path: pp.plots.figures(pair, data, [], path),
            lambda path: pp.metrics.trained_classifier(images, path),
        ],
    }
    before = {key: value.clone() for key, value in pair.state_dict().items()}
    for argument, uses in calls.items():
        for use in uses:
            for path, shown in (("", "''"), (3, "3"), (None, "None")):
                with pytest.raises(ValueError, match=f"^{argument} must be a path, got {shown}"):
                    use(path)
    for path, shown in (("", "''"), (3, "3")):
        with pytest.raises(ValueError, match=f"^out must be a path, got {shown}"):
            pp.fit(pair, data, out=path)
    with pytest.raises(ValueError, match="^out must be a path, got ''"):
        pp.experiments.reproduce("lavda2019/table1", out="", train=False)
    with pytest.raises(ValueError, match="^root must be a path, got ''"):
        pp.data.load("digits", root="")
    with pytest.raises(ValueError, match="^name must be that of a data set, or a path, got 3"):
        pp.data.load(3)
    assert all(torch.equal(value, before[key]) for key, value in pair.state_dict().items())
    assert not list(Path().iterdir())
