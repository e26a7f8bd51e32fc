"""A run that is stopped anyhow, and resumed, ends with the bits of one that was not."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import warnings

import pytest

import pyro_priors as pp
import runs
from pyro_priors import checkpoint
from pyro_priors.cli.main import main
from pyro_priors.training import loop

# 3 steps an epoch, the last of them smaller
pytestmark = pytest.mark.filterwarnings("ignore:warmup_epochs is")  # trainings are cut short here

OPTIONS = {"progress": False, "batch_size": 32, "learning_rate": 1e-2, "max_epochs": 4, "warmup_epochs": 2, "seed": 7}


@pytest.fixture(scope="module")
def digits():
    return runs.small_data(size=90)


class Crash(BaseException):
    """What stands for a kill within one process."""


def fit(run, data, **options):
    pair = runs.small_pair("cp_vae", data)
    pp.fit(pair, data, out=run, **OPTIONS | options)
    return pair


def fit_until(monkeypatch, step, run, data, before=False, **options):
    """Train up to a step and crash, after it was counted or before."""
    original = loop.Training.train_step

    def crash(self):
        if self.progress.step >= step:
            raise Crash

    def train_step(self, *args):
        if before:
            crash(self)
        original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "train_step", train_step)
        if not before:
            patch.setattr(loop.Training, "stop_if_asked", crash)
        with pytest.raises(Crash):
            fit(run, data, checkpoint_seconds=0, **options)


@pytest.fixture(scope="module")
def uninterrupted(digits, tmp_path_factory):
    run = tmp_path_factory.mktemp("resume") / "uninterrupted"
    return run, runs.state(fit(run, digits))


def assert_same_end(run, pair, uninterrupted):
    other, state = uninterrupted
    assert runs.same_bits(runs.state(pair), state)
    assert runs.same_bits(runs.saved_pair(run), state)
    assert runs.records(run) == runs.records(other)
    ours, theirs = (checkpoint.read(path / "last", "state") for path in (run, other))
    assert runs.same_bits(ours[0], theirs[0])
    assert ours[1]["progress"] == theirs[1]["progress"] and ours[1]["param_groups"] == theirs[1]["param_groups"]


# in one process


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("step", [1, 2, 3, 4, 6, 8, 11])
def test_resume_is_exact_from_any_step(digits, tmp_path, monkeypatch, uninterrupted, step, before):
    fit_until(monkeypatch, step, tmp_path / "run", digits, before)
    pair = fit(tmp_path / "run", digits, resume=True)
    assert_same_end(tmp_path / "run", pair, uninterrupted)


def test_resume_after_each_step_in_turn(digits, tmp_path, monkeypatch, uninterrupted):
    for step in range(1, 12):
        fit_until(monkeypatch, step, tmp_path / "run", digits, before=True, resume=step > 1)
    pair = fit(tmp_path / "run", digits, resume=True)
    assert_same_end(tmp_path / "run", pair, uninterrupted)


def test_what_came_after_the_saved_state_is_trained_again(digits, tmp_path, monkeypatch, uninterrupted):
    # a state after the first epoch's end, then none any more: the second epoch's record has no state
    original = loop.Training.save_is_due
    monkeypatch.setattr(loop.Training, "save_is_due", lambda self: self.progress.epoch < 2 and original(self))
    fit_until(monkeypatch, 8, tmp_path / "run", digits)
    monkeypatch.undo()
    assert len(runs.records(tmp_path / "run")) == 2
    pair = fit(tmp_path / "run", digits, resume=True)
    assert_same_end(tmp_path / "run", pair, uninterrupted)


@pytest.mark.parametrize("options", [{"schedule": "cosine"}, {"patience": 1, "learning_rate": 0.1, "clip_norm": 1.0}])
def test_resume_is_exact_with_schedule_patience_and_clipping(digits, tmp_path, monkeypatch, options):
    whole = tmp_path / "whole"
    state = runs.state(fit(whole, digits, **options))
    fit_until(monkeypatch, 5, tmp_path / "run", digits, **options)
    assert_same_end(tmp_path / "run", fit(tmp_path / "run", digits, resume=True, **options), (whole, state))


@pytest.mark.parametrize("step", [2, 6, 8])
@pytest.mark.parametrize("compile", ["never", pytest.param("always", marks=pytest.mark.slow)])
def test_resume_is_exact_with_frozen_parts(digits, tmp_path, monkeypatch, step, compile):
    """Stopped while they are held, on their release, and after; the optimizer knows nothing of them before it."""
    whole, options = tmp_path / "whole", {"frozen": ("guide.category",), "frozen_epochs": 2, "compile": compile}
    pair = fit(whole, digits, **options)
    state = runs.state(pair)
    fit_until(monkeypatch, step, tmp_path / "run", digits, **options)
    names = [name.split("/") for name in checkpoint.read(tmp_path / "run" / "last", "state")[0]]
    known = {int(name[1]) for name in names if name[0] == "optimizer"}
    every = {i: name for i, (name, _) in enumerate(pair.named_parameters())}
    held = {i for i, name in every.items() if name.startswith("guide.category.")}
    assert held and known == (every.keys() if step == 8 else every.keys() - held)
    assert_same_end(tmp_path / "run", fit(tmp_path / "run", digits, resume=True, **options), (whole, state))


@pytest.mark.parametrize("step", [1, 5, 9])
@pytest.mark.parametrize("compile", ["never", pytest.param("always", marks=pytest.mark.slow)])
def test_resume_is_exact_with_a_discriminator_of_the_objective(digits, tmp_path, monkeypatch, step, compile):
    """Its parameters and its optimizer's state are in ``last/`` too, and go on."""
    whole = tmp_path / "whole"
    options = {"objective": pp.objectives.Factor(hidden=(9, 8), learning_rate=0.01), "compile": compile}
    state = runs.state(fit(whole, digits, **options))
    fit_until(monkeypatch, step, tmp_path / "run", digits, **options)
    assert_same_end(tmp_path / "run", fit(tmp_path / "run", digits, resume=True, **options), (whole, state))
    names = {name for name in checkpoint.read(whole / "last", "state")[0] if name.startswith("objective/")}
    assert {"objective/discriminator/layers.2.weight", "objective/optimizer/0/exp_avg"} < names
    assert options["objective"].discriminator is None, "fit works on a copy"


@pytest.mark.parametrize(
    "objective",
    [
        pp.objectives.Capacity(capacity=2.0, num_steps=8),
        pp.objectives.TotalCorrelation(),
        pp.objectives.Info(lambd=10.0),
    ],
    ids=["capacity", "total-correlation", "info"],
)
def test_resume_is_exact_with_penalties(digits, tmp_path, monkeypatch, objective):
    whole = tmp_path / "whole"
    state = runs.state(fit(whole, digits, objective=objective))
    fit_until(monkeypatch, 5, tmp_path / "run", digits, objective=objective)
    end = fit(tmp_path / "run", digits, resume=True, objective=objective)
    assert_same_end(tmp_path / "run", end, (whole, state))


def test_resume_of_a_finished_run_changes_nothing(digits, tmp_path, uninterrupted):
    run = tmp_path / "run"
    fit(run, digits)
    before = runs.snapshot(run)
    pair = fit(run, digits, resume=True)
    assert_same_end(run, pair, uninterrupted)
    assert runs.snapshot(run) == before


def test_resume_with_more_epochs(digits, tmp_path, uninterrupted):
    run = tmp_path / "run"
    fit(run, digits, max_epochs=2)
    pair = fit(run, digits, resume=True)  # 4 epochs
    assert_same_end(run, pair, uninterrupted)
    assert json.loads((run / "config.json").read_text())["train"]["max_epochs"] == 4


def test_resume_with_fewer_epochs_than_trained_is_refused(digits, tmp_path):
    run = tmp_path / "run"
    fit(run, digits, max_epochs=3)
    before = runs.snapshot(run)
    with pytest.raises(ValueError, match="max_epochs is 2, but the run in .* has trained 3 epochs: give at least 3"):
        fit(run, digits, resume=True, max_epochs=2)
    assert runs.snapshot(run) == before


def test_resume_with_more_patience_goes_on(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(loop.Training, "validate", lambda self: {"bound": -float(self.progress.epoch)})
    run = tmp_path / "run"
    options = {"warmup_epochs": 0, "max_epochs": 6}
    fit(run, digits, patience=2, **options)
    assert len(runs.records(run)) == 3
    fit(run, digits, patience=2, resume=True, **options)
    assert len(runs.records(run)) == 3
    fit(run, digits, patience=4, resume=True, **options)
    assert len(runs.records(run)) == 5
    fit(run, digits, patience=0, resume=True, **options)
    assert len(runs.records(run)) == 6


def test_resume_of_an_empty_folder_starts_from_the_beginning(digits, tmp_path, uninterrupted):
    (tmp_path / "empty").mkdir()
    for run in (tmp_path / "empty", tmp_path / "missing"):
        assert_same_end(run, fit(run, digits, resume=True), uninterrupted)


def test_a_killed_run_says_nothing_of_why_it_stopped(digits, tmp_path, monkeypatch):
    folder = pp.run_folder.RunFolder(tmp_path / "run")
    assert folder.stopped() is None
    fit_until(monkeypatch, 4, folder.path, digits)
    assert folder.stopped() is None


def test_a_run_says_that_it_stopped_by_patience(digits, tmp_path, monkeypatch):
    run, bounds = tmp_path / "run", iter([-3.0, -2.0, -2.5, -2.25])
    monkeypatch.setattr(loop.Training, "validate", lambda self: {"bound": next(bounds)})
    pair, options = runs.small_pair("vae", digits), OPTIONS | {"warmup_epochs": 0, "max_epochs": 9, "patience": 2}
    history = pp.fit(pair, digits, out=run, **options)
    assert history.stopped == "patience: no better validation bound since epoch 1"
    assert pp.run_folder.RunFolder(run).stopped() == history.stopped
    assert pp.fit(pair, digits, out=run, resume=True, **options).stopped == history.stopped
    shorter = pp.fit(pair, digits, out=run, resume=True, **options | {"patience": 3, "max_epochs": 4})
    assert shorter.stopped == "max_epochs"


def test_a_run_that_ended_before_its_first_state_counts_as_empty(digits, tmp_path, monkeypatch, uninterrupted):
    run = tmp_path / "run"
    fit_until(monkeypatch, 0, run, digits, before=True)
    assert {*runs.names(run)} == {"config.json", "metrics.jsonl"}
    assert_same_end(run, fit(run, digits), uninterrupted)


def test_a_folder_with_a_run_is_not_overwritten(digits, tmp_path):
    run = tmp_path / "run"
    fit(run, digits, max_epochs=1)
    before = runs.snapshot(run)
    with pytest.raises(ValueError, match=r"run already contains a run: resume it \(--resume, resume=True\) or choose"):
        fit(run, digits)
    assert runs.snapshot(run) == before


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"learning_rate": 0.02}, r"train.learning_rate is 0.02, but the run in .*run was started with 0.01"),
        ({"seed": 8}, r"train.seed is 8, .* started with 7"),
        ({"batch_size": 30}, r"train.batch_size is 30, .* started with 32"),
        ({"objective": pp.objectives.Beta(2.0)}, r"objective.name is 'beta'"),
    ],
)
def test_resume_with_another_option_is_refused(digits, tmp_path, changed, match):
    run = tmp_path / "run"
    fit(run, digits, max_epochs=1)
    before = runs.snapshot(run)
    with pytest.raises(ValueError, match=match):
        fit(run, digits, resume=True, **changed)
    assert runs.snapshot(run) == before


def test_a_run_from_before_an_option_existed_had_its_default(digits, tmp_path, uninterrupted):
    run = tmp_path / "run"
    fit(run, digits, max_epochs=2)
    config = json.loads((run / "config.json").read_text())
    del config["train"]["pseudo_inputs"], config["train"]["warmup_sites"]
    runs.write_sealed(run / "config.json", config)
    with pytest.raises(ValueError, match=r"train.warmup_sites is \['z'\], but .* was started with \[\]"):
        fit(run, digits, resume=True, warmup_sites=("z",))
    assert_same_end(run, fit(run, digits, resume=True), uninterrupted)
    assert json.loads((run / "config.json").read_text())["train"]["pseudo_inputs"] == "random"


def test_resume_is_exact_where_pseudo_inputs_started_at_data(digits, tmp_path):
    def fit_vamp(name, **options):
        pair = runs.small_pair("vae", digits, prior="vamp", num_components=5)
        pp.fit(pair, digits, out=tmp_path / name, **OPTIONS | {"pseudo_inputs": "data"} | options)
        return pair

    state = runs.state(fit_vamp("whole"))
    fit_vamp("run", max_epochs=2)
    with pytest.raises(ValueError, match="train.pseudo_inputs is 'random', but .* was started with 'data'"):
        fit_vamp("run", resume=True, pseudo_inputs="random")
    assert_same_end(tmp_path / "run", fit_vamp("run", resume=True), (tmp_path / "whole", state))


def test_resume_with_another_pair_or_other_data_is_refused(digits, tmp_path):
    run = tmp_path / "run"
    fit(run, digits, max_epochs=1)
    with pytest.raises(ValueError, match=r"pair.config.num_categories is 4, but .* started with 10"):
        pair = runs.small_pair("cp_vae", digits, num_categories=4)
        pp.fit(pair, digits, out=run, resume=True, **OPTIONS)
    with pytest.raises(ValueError, match=r"data.config.limit is 60, but .* started with 90"):
        fit(run, runs.small_data(size=60), resume=True)


# signals


@pytest.mark.parametrize(("number", "error", "code"), [(15, SystemExit, 143), (2, KeyboardInterrupt, None)])
@pytest.mark.parametrize("step", [2, 6, 7])
def test_a_signal_ends_the_step_and_writes_the_state(
    digits, tmp_path, monkeypatch, uninterrupted, number, error, code, step
):
    run = tmp_path / "run"
    original = loop.Training.train_step

    def train_step(self, *args):
        if self.progress.step == step - 1:
            os.kill(os.getpid(), number)
        original(self, *args)

    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch, pytest.raises(error) as caught:
        patch.setattr(loop.Training, "train_step", train_step)
        fit(run, digits)
    assert code is None or caught.value.code == code
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert checkpoint.read(run / "last", "state")[1]["progress"]["step"] == step
    assert pp.run_folder.RunFolder(run).stopped() == f"signal {signal.Signals(number).name}"
    assert_same_end(run, fit(run, digits, resume=True), uninterrupted)
    assert pp.run_folder.RunFolder(run).stopped() == "max_epochs"


def test_an_interrupted_command_has_status_130(tmp_path, monkeypatch):
    monkeypatch.setattr(loop.Training, "train_step", lambda self, *args: os.kill(os.getpid(), signal.SIGINT))
    assert main(command(tmp_path / "run", "--quiet")) == 130


def test_a_signal_without_a_folder_ends_the_training_too(digits, monkeypatch):
    original = loop.Training.validate
    monkeypatch.setattr(loop.Training, "validate", lambda self: os.kill(os.getpid(), 15) or original(self))
    with pytest.raises(SystemExit):
        pp.fit(runs.small_pair("cp_vae", digits), digits, **OPTIONS)


# states that were damaged


def _truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "truncated": _truncate,
    "flipped": _flip,
    "emptied": lambda path: path.write_bytes(b""),
    "removed": os.remove,
}


def _damage(run, name, kind, damage):
    """Damage one of the two files of a state, the record or the tensors that it names."""
    record = run / "last" / f"{name}.json"
    DAMAGES[damage](record if kind == "record" else record.parent / json.loads(record.read_bytes())["tensors"])


@pytest.mark.parametrize(
    ("kind", "damage"),
    [(kind, damage) for kind in ("tensors", "record") for damage in DAMAGES],
)
def test_a_damaged_state_is_refused_and_the_one_before_it_used(
    digits, tmp_path, monkeypatch, uninterrupted, kind, damage
):
    run = tmp_path / "run"
    fit_until(monkeypatch, 8, run, digits)
    _damage(run, "state", kind, damage)
    with pytest.warns(
        RuntimeWarning, match=r"state.*(missing|truncated or altered).*continuing from the previous state"
    ):
        pair = fit(run, digits, resume=True)
    assert_same_end(run, pair, uninterrupted)


def test_a_damaged_state_never_becomes_the_previous_one(digits, tmp_path, monkeypatch):
    run = tmp_path / "run"
    fit_until(monkeypatch, 8, run, digits)
    _damage(run, "state", "tensors", "flipped")
    # killed in the middle of the next writing, when the previous state is replaced already
    original = checkpoint.write_atomically

    def write_atomically(path, content):
        if path.name == "state.json" and json.loads(content)["progress"]["step"] > 7:
            raise Crash
        original(path, content)

    monkeypatch.setattr(checkpoint, "write_atomically", write_atomically)
    with pytest.raises(Crash), pytest.warns(RuntimeWarning, match="continuing from the previous state"):
        fit(run, digits, resume=True, checkpoint_seconds=0)
    monkeypatch.undo()
    assert pp.run_folder.RunFolder(run).load_state().progress["step"] == 7


def test_two_damaged_states_are_an_error(digits, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    fit_until(monkeypatch, 8, run, digits)
    for name in ("state.previous", "state"):
        _damage(run, name, "tensors", "truncated")
    with pytest.raises(pp.CheckpointError, match="truncated or altered"), pytest.warns(RuntimeWarning):
        fit(run, digits, resume=True)


def test_a_state_of_other_networks_is_an_error(digits, tmp_path):
    fit(tmp_path / "run", digits, max_epochs=1)
    pair = runs.small_pair("cp_vae", digits, hidden=(17,))
    pair.recipe = runs.small_pair("cp_vae", digits).recipe
    with pytest.raises(pp.CheckpointError, match=r"another network: '.*' has shape \(32, 2\) there and \(34, 2\) here"):
        pp.fit(pair, digits, out=tmp_path / "run", resume=True, **OPTIONS)


@pytest.mark.parametrize("line", [0, 2, 3, None], ids=["first", "inner", "last", "file"])
def test_lines_of_the_history_that_are_lost_cost_nothing_else(digits, tmp_path, uninterrupted, line):
    """Every weight is that of the training that was never stopped; the lines that are left are kept."""
    run = tmp_path / "run"
    fit(run, digits, max_epochs=3 if line != 3 else 4)
    kept = runs.records(run)
    if line is None:
        (run / "metrics.jsonl").unlink()
    else:
        lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
        (run / "metrics.jsonl").write_text("".join([*lines[:line], lines[line][:20] + "\n", *lines[line + 1 :]]))
    num = len(kept) if line is None else 1
    with pytest.warns(RuntimeWarning, match=f"lacks the lines of {num} of {len(kept)} epochs: the training continues"):
        pair = fit(run, digits, resume=True)
    assert runs.same_bits(runs.state(pair), uninterrupted[1])
    left = [] if line is None else [record for record in kept if record["epoch"] != line]
    assert runs.records(run)[: len(left)] == left


# processes that are killed

COMMAND = ["train", "cp_vae", "--data", "digits", "--data.limit", "160", "--networks.hidden", "16", "--z-dim", "2"]
COMMAND += [
    "--num-categories",
    "3",
    "--train.batch-size",
    "4",
    "--train.learning-rate",
    "0.01",
    "--train.seed",
    "3",
]
COMMAND += ["--train.warmup-epochs", "0.5", "--train.device", "cpu"]
EPOCHS = 8  # of 40 steps


def command(out, *more, epochs=EPOCHS, seconds="0"):
    options = ["--train.max-epochs", str(epochs), "--train.checkpoint-seconds", seconds, "--out", str(out)]
    return [*COMMAND, *options, *more]


def start(out, *more, **options):
    arguments = [sys.executable, "-m", "pyro_priors.cli", *command(out, *more, **options)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_state(process, run, newer_than=-1.0):
    """Until the run has written a state of its own; False when it ended first."""
    file = run / "last" / "state.json"
    limit = time.monotonic() + 120
    while process.poll() is None:
        if file.exists() and file.stat().st_mtime_ns > newer_than:
            return True
        assert time.monotonic() < limit, "no state was written"
        time.sleep(0.01)
    return False


@pytest.fixture(scope="module")
def uninterrupted_run(tmp_path_factory):
    run = tmp_path_factory.mktemp("resume") / "uninterrupted"
    assert main(command(run, "--quiet", seconds="1000")) == 0
    return run


def assert_same_run(run, other):
    assert runs.same_bits(runs.saved_pair(run), runs.saved_pair(other))
    assert runs.records(run) == runs.records(other) and len(runs.records(run)) == EPOCHS
    assert runs.same_bits(checkpoint.read(run / "last", "state")[0], checkpoint.read(other / "last", "state")[0])
    assert not list(run.glob("pair/.*.tmp"))


def kill_and_resume(run, delays):
    """Start, kill -9 the given seconds after the first new state, resume, kill, ...; returns the number of kills."""
    killed = 0
    for delay in delays:
        file = run / "last" / "state.json"
        newest = file.stat().st_mtime_ns if file.exists() else -1
        process = start(run, "--resume", "--quiet")
        running = wait_for_state(process, run, newest)
        if running:
            time.sleep(delay)
            process.kill()
        _, errors = process.communicate(timeout=120)
        assert "Traceback" not in errors, errors
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, errors
        killed += 1
    return killed


def stop(process, number, status, run):
    """Send the signal that is to end a running training, and check how it ends."""
    process.send_signal(number)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == status, errors
    assert "Traceback" not in output + errors
    if number != signal.SIGKILL:
        text = rf"stopped by {number.name} at step (\d+); its state is in .*run: continue with --resume"
        saved = checkpoint.read(run / "last", "state")[1]["progress"]["step"]
        assert saved == int(re.search(text, errors)[1])


STATUS = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}


@pytest.mark.parametrize(
    "numbers",
    [
        (signal.SIGKILL, signal.SIGTERM),
        pytest.param((signal.SIGINT, signal.SIGKILL, signal.SIGINT, signal.SIGTERM), marks=pytest.mark.slow),
    ],
)
def test_kill_9_and_signals_are_bit_identical(tmp_path, uninterrupted_run, numbers):
    run, newest = tmp_path / "run", -1
    for number in numbers:
        process = start(run, "--resume")
        assert wait_for_state(process, run, newest)
        time.sleep(0.1)
        stop(process, number, STATUS[number], run)
        newest = (run / "last" / "state.json").stat().st_mtime_ns
    assert not (run / "pair").exists()
    assert main(command(run, "--resume", "--quiet", seconds="1000")) == 0
    assert_same_run(run, uninterrupted_run)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_many_kills_at_random_moments(tmp_path, uninterrupted_run, seed):
    draw = random.Random(seed)
    run = tmp_path / "run"
    killed = kill_and_resume(run, (draw.uniform(0, 0.6) for _ in range(8)))
    assert killed >= 3
    assert main(command(run, "--resume", "--quiet", seconds="1000")) == 0
    assert_same_run(run, uninterrupted_run)


@pytest.mark.slow
def test_kills_at_any_moment_of_the_process(tmp_path, uninterrupted_run):
    """Also while Python starts, and in the middle of writing: the delay is counted from the start."""
    draw = random.Random(4)
    run = tmp_path / "run"
    for _ in range(8):
        process = start(run, "--resume", "--quiet")
        time.sleep(draw.uniform(2, 9))
        process.kill()
        _, errors = process.communicate()
        assert "Traceback" not in errors, errors
    assert main(command(run, "--resume", "--quiet", seconds="1000")) == 0
    assert_same_run(run, uninterrupted_run)


def test_two_damaged_states_on_the_command_line(tmp_path, capsys):
    run = tmp_path / "run"
    assert main(command(run, "--quiet", epochs=1, seconds="0")) == 0
    for path in run.glob("last/*.safetensors"):
        _truncate(path)
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # the command line prints what pytest makes an error
        assert main(command(run, "--quiet", "--resume", epochs=1)) == 2
    *warned, error = capsys.readouterr().err.splitlines()
    assert re.match(
        r"pyro-priors: error: .*state-.*\.safetensors does not match the checksum .* truncated or altered", error
    )
    assert len(warned) == 1 and warned[0].startswith("pyro-priors: warning: ")
