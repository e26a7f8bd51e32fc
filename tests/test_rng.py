"""Torch's generators: seeded for a while and as before afterwards, also where there are several GPUs."""

import pytest
import torch

import pyro_priors as pp
import runs
from pyro_priors import metrics, zoo
from pyro_priors.cli.main import main
from pyro_priors.rng import seeded


def test_the_generator_is_as_it_was():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with seeded(5):
        one = torch.rand(4)
    with pytest.raises(ZeroDivisionError), seeded(5, torch.device("cpu")):
        assert torch.equal(torch.rand(4), one)
        raise ZeroDivisionError
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("device", ["cuda", "cuda:1", torch.device("cuda", 0)], ids=str)
def test_the_generator_of_one_gpu_is_as_it_was(device, monkeypatch):
    """Of the device that is named, and of no other."""
    saved, restored = [], []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: saved.append(device) or "state")
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: restored.append((state, device)))
    with seeded(0, device):
        assert saved == [torch.device(device)] and not restored
    assert restored == [("state", torch.device(device))]


@pytest.fixture
def several_gpus(monkeypatch):
    """What torch warns of on such a machine is an error here, and what touches one of them fails."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)  # optimizers ask
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)  # those of torch 2.6 do
    monkeypatch.setattr(torch.random, "_fork_rng_warned_already", False)


def test_what_runs_on_the_cpu_leaves_several_gpus_alone(several_gpus, tmp_path, capsys):
    with pytest.raises(UserWarning, match="without explicitly specifying which devices"), torch.random.fork_rng():
        pass
    data = runs.small_data(binarise="none", condition_labels=True)
    pair = zoo.create_for("sigma_cvae", data, 0, z_dim=2, hidden=(8,))
    images = pp.data.load("digits", limit=200)
    metrics.trained_classifier(images, tmp_path / "classifier", max_epochs=1, progress=False)
    arrays = {f"x_{part}": torch.randn(20, 6) for part in ("train", "valid", "test")}
    arrays |= {f"condition_{part}": torch.rand(20, 1, 16, 16) for part in ("train", "valid", "test")}
    grasps = pp.data.from_arrays(**arrays)
    metrics.trained_discriminator(grasps, tmp_path / "discriminator", max_epochs=1, progress=False)
    pp.conditions.grid(pair, data, ["label"], num_columns=2)


@pytest.mark.parametrize("command", ["sample --num 2", "plot"])
def test_commands_leave_several_gpus_alone(command, tmp_path, monkeypatch, capsys):
    options = "--data.limit 96 --train.max-epochs 1 --train.device cpu --z-dim 2"
    assert main(f"train vae --data digits --out {tmp_path / 'run'} --quiet {options}".split()) == 0
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)  # those of torch 2.6 do
    monkeypatch.setattr(torch.random, "_fork_rng_warned_already", False)
    name, *rest = command.split()
    out = ["--out", str(tmp_path / "s.npz")] if name == "sample" else []
    assert main([name, str(tmp_path / "run"), *rest, *out]) == 0, capsys.readouterr().err
