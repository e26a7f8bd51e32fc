"""Two processes on the CPU give what one gives on the same global batches."""

import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

import pyro_priors as pp
import runs
from pyro_priors import checkpoint
from pyro_priors.cli.main import main

# the decoder of tests/runs.py is spawned by that name; numpy and gloo must find one core each
OPTIONS = {"progress": False, "batch_size": 16, "learning_rate": 1e-2, "precision": "64-true", "device": "cpu"}


def fit(num_processes, size=53, **options):
    pair = runs.given_noise_pair()
    options = OPTIONS | {"max_epochs": 4, "warmup_epochs": 2} | options
    history = pp.fit(pair, runs.given_noise_data(size), num_processes=num_processes, **options)
    return pair, history


def assert_equal(one, two):
    """The same to rounding error: sums over 16 data are taken in another order, and Adam divides by small roots."""
    for key, tensor in runs.state(one[0]).items():
        assert tensor.dtype is torch.float64
        torch.testing.assert_close(runs.state(two[0])[key], tensor, rtol=1e-12, atol=1e-13)
    for ours, theirs in zip(two[1].epochs, one[1].epochs, strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours.keys() - {"seconds"}:
            # the loss leaves Fabric in float32
            assert ours[key] == pytest.approx(theirs[key], rel=1e-11 if key.startswith("valid") else 1e-5), key
    assert two[1].best_epoch == one[1].best_epoch


# batches of 16, 16, 16 and 5 (shares of 2 and 3), or 1 (a process without data)
@pytest.mark.parametrize("size", [53, pytest.param(49, marks=pytest.mark.slow)])
def test_two_processes_give_the_same_parameters_as_one(size, tmp_path):
    one = fit(1, size)
    two = fit(2, size, out=tmp_path / "run")
    assert_equal(one, two)
    assert runs.same_bits(runs.saved_pair(tmp_path / "run"), runs.state(two[0]))
    assert len(runs.records(tmp_path / "run")) == 4


@pytest.mark.parametrize(
    ("name", "compile"),
    [
        ("cp_vae", "never"),
        pytest.param("cp_vae", "always", marks=pytest.mark.slow),
        pytest.param("cvae", "never", marks=pytest.mark.slow),
    ],
)
def test_processes_share_the_noise_of_a_batch(name, compile):
    """Pairs of the zoo, whose guides draw noise: both processes draw one process's noise and keep their rows of it.
    So do graphs, each of a share's rows."""
    data = pp.data.load("digits", limit=53, condition_rows=4 if name == "cvae" else 0)
    config = {"x_shape": data.x_shape, "z_dim": 2, "hidden": (8,)}
    config |= {"condition_shape": data.condition_shape} if name == "cvae" else {"num_categories": 3}
    found = []
    for num_processes in (1, 2):
        torch.manual_seed(0)
        pair = pp.create(name, **config)
        options = OPTIONS | {"num_processes": num_processes, "max_epochs": 2, "compile": compile}
        found.append((pair.double(), pp.fit(pair, data, **options)))
    (one, one_history), (two, two_history) = found
    for key, tensor in runs.state(one).items():
        torch.testing.assert_close(runs.state(two)[key].to(tensor), tensor, rtol=1e-9, atol=1e-11)
    bounds = [[record["valid_bound"] for record in history.epochs] for history in (one_history, two_history)]
    assert bounds[0] == pytest.approx(bounds[1], rel=1e-9)


def test_pairs_larger_than_a_pipe_come_back():
    """What a process leaves behind must not wait in a pipe, which holds 64 KiB, for one that waits for its end."""
    data = pp.data.load("digits", limit=20)
    pair = pp.create("vae", x_shape=data.x_shape, z_dim=2, hidden=(300,))
    before = runs.state(pair)
    pp.fit(pair, data, num_processes=2, max_epochs=1, **OPTIONS | {"precision": "32-true"})
    assert not runs.same_bits(runs.state(pair), before)


@pytest.mark.parametrize("fails", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_processes_end_without_taking_the_interpreter_down(tmp_path, fails):
    """A thread of gloo that asks for the interpreter meanwhile would abort the process."""
    usual = multiprocessing.get_context("spawn").Process(target=runs.TakenDown, args=(tmp_path / "usual",))
    usual.start()
    usual.join()
    assert [path.name for path in tmp_path.iterdir()] == ["usual"]  # so it would be seen

    data = runs.small_data(size=32)
    pair = runs.small_pair("vae", data, decoder=runs.LeavesTakenDown(2, 64, tmp_path, fails))
    with pytest.raises(Exception, match="the decoder fails in both") if fails else nullcontext():
        pp.fit(pair, data, num_processes=2, max_epochs=1, **OPTIONS | {"precision": "32-true"})
    assert [path.name for path in tmp_path.iterdir()] == ["usual"]


def test_the_bound_of_the_given_noise_pair_is_that_of_the_gaussian():
    """The pair of these tests is a VAE: its KL is log q - log p at the given draw."""
    pair, data = runs.given_noise_pair(), runs.given_noise_data()
    x, noise = data.test.x.double(), data.test.condition.double()
    loc, log_scale = pair.guide.head(pair.guide.hidden(x).tanh()).chunk(2, -1)
    z = loc + log_scale.exp() * noise
    log_q = (-0.5 * noise**2 - log_scale).sum(-1) - math.log(2 * math.pi)
    log_p = (-0.5 * z**2).sum(-1) - math.log(2 * math.pi)
    terms = pair.elbo.terms(pair.model, pair.guide, x, noise)
    torch.testing.assert_close(terms.parts["kl_z"], log_q - log_p)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 2), (1, 2), (2, 1)])
def test_resume_with_two_processes(tmp_path, before, after):
    one = fit(1)
    fit(before, max_epochs=2, out=tmp_path / "run")
    two = fit(after, out=tmp_path / "run", resume=True)
    assert_equal(one, two)


@pytest.mark.slow
def test_nan_in_one_process_stops_all_with_the_best_weights_kept(tmp_path):
    data = runs.small_data(size=96)
    pair = runs.small_pair("vae", data, decoder=runs.Failing(2, 64, after=8, rank=1))
    options = OPTIONS | {"batch_size": 32, "max_epochs": 5, "precision": "32-true"}
    with pytest.raises(pp.TrainingDiverged, match=r"at step 8 \(epoch 2\): the pair has the best weights, from epoch"):
        pp.fit(pair, data, num_processes=2, out=tmp_path / "run", **options)
    assert runs.same_bits(runs.saved_pair(tmp_path / "run"), runs.state(pair))
    assert all(tensor.isfinite().all() for tensor in runs.state(pair).values())
    assert len(runs.records(tmp_path / "run")) == 2


@pytest.mark.slow
def test_nan_in_the_validation_of_one_process_stops_all(tmp_path):
    data = runs.small_data(size=96)
    pair = runs.small_pair("vae", data, decoder=runs.Failing(2, 64, after=2, rank=1, in_training=False))
    options = OPTIONS | {"batch_size": 32, "max_epochs": 5, "precision": "32-true"}
    match = r"^the validation bound became nan at step 9 \(epoch 2\): the pair has the best weights, from epoch"
    with pytest.raises(pp.TrainingDiverged, match=match):
        pp.fit(pair, data, num_processes=2, out=tmp_path / "run", **options)
    assert runs.same_bits(runs.saved_pair(tmp_path / "run"), runs.state(pair))
    assert len(runs.records(tmp_path / "run")) == 2
    with pytest.raises(pp.TrainingDiverged, match="has already diverged: the validation bound became nan at step 9"):
        pp.fit(pair, data, num_processes=2, out=tmp_path / "run", resume=True, **options)


@pytest.mark.slow
@pytest.mark.parametrize("in_training", [True, False])
def test_a_mistake_in_one_process_is_no_divergence_and_stops_all(tmp_path, in_training):
    data = runs.small_data(size=96)
    decoder = runs.Failing(2, 64, after=2, rank=1, in_training=in_training, error=ValueError("my own mistake"))
    pair = runs.small_pair("vae", data, decoder=decoder)
    options = OPTIONS | {"batch_size": 32, "max_epochs": 5, "precision": "32-true"}
    with pytest.raises(Exception, match="my own mistake") as caught:
        pp.fit(pair, data, num_processes=2, out=tmp_path / "run", **options)
    assert not isinstance(caught.value, pp.TrainingDiverged)
    assert not (tmp_path / "run" / "pair").exists()


@pytest.mark.slow
def test_two_processes_with_binarised_images_and_bfloat16():
    data = runs.small_data(size=33)  # the last batch has one datum
    pair = runs.small_pair("cp_vae", data)
    options = OPTIONS | {"precision": "bf16-true", "max_epochs": 2}
    history = pp.fit(pair, data, num_processes=2, **options)
    assert len(history.epochs) == 2
    assert all(math.isfinite(record["valid_bound"]) for record in history.epochs)
    assert pair.aggregate_c.sum().item() == pytest.approx(1, abs=0.02)


def test_fewer_validation_data_than_processes_are_refused():
    with pytest.raises(ValueError, match="num_processes is 30, but the validation part has 21 data"):
        fit(30)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_the_parent_ends_all_processes_cleanly(tmp_path, number, status):
    arguments = ["train", "vae", "--data", "digits", "--data.limit", "320", "--networks.hidden", "16", "--z-dim", "2"]
    arguments += ["--train.batch-size", "8", "--train.checkpoint-seconds", "0", "--train.device", "cpu"]
    arguments += ["--train.num-processes", "2", "--train.max-epochs", "6"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert main([*arguments, "--out", str(whole), "--quiet"]) == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "pyro_priors.cli", *arguments, "--out", str(run)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    limit = time.monotonic() + 200
    while not (run / "last" / "state.json").exists():
        assert process.poll() is None and time.monotonic() < limit, process.communicate()
        time.sleep(0.05)
    process.send_signal(number)  # to the parent alone
    output, errors = process.communicate(timeout=120)
    assert process.returncode == status, errors
    assert "Traceback" not in output + errors
    assert f"stopped by {number.name} at step" in errors
    limit = time.monotonic() + 10
    while left := _processes_of(process.pid):
        assert time.monotonic() < limit, left
        time.sleep(0.1)
    step = checkpoint.read(run / "last", "state")[1]["progress"]["step"]
    assert 0 < step < 240
    assert main([*arguments, "--out", str(run), "--quiet", "--resume"]) == 0
    assert runs.same_bits(runs.saved_pair(run), runs.saved_pair(whole))
    assert runs.records(run) == runs.records(whole)


def _processes_of(session: int) -> list[str]:
    """Processes of a session that still run (Linux)."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(folder.name)) == session and "(zombie)" not in (folder / "status").read_text():
                found.append((folder / "cmdline").read_text())
        except OSError:
            continue
    return found
