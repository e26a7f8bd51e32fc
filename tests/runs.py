"""What the tests of training share: small data, small pairs, run folders compared, and a pair without noise.

Spawned processes import this module by its name, so it holds all that is sent to them.
"""

import dataclasses
import hashlib
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn as nn
from torch import Tensor

import pyro_priors as pp
from pyro_priors import _records, checkpoint, module_state, zoo
from pyro_priors.data import Splits
from pyro_priors.objectives import ELBO
from pyro_priors.run_folder import ResumeState, RunFolder
from pyro_priors.training import schedules

NETWORKS: dict[str, Any] = {"z_dim": 2, "hidden": (16,)}


def small_data(name: str = "digits", size: int = 96, held_out: int = 40, **options: Any) -> Splits:
    """The first data of each part."""
    data = pp.data.load(name, limit=size, **options)
    valid, test = (part.take(slice(held_out)) for part in (data.valid, data.test))
    return dataclasses.replace(data, valid=valid, test=test)


def is_conditional(name: str) -> bool:
    return any(field.name == "condition_shape" for field in dataclasses.fields(zoo.FAMILIES[zoo.PRESETS[name].family]))


def small_pair(name: str, data: Splits, seed: int = 0, **options: Any) -> pp.Pair:
    """A pair that fits the data, the same one for the same seed."""
    likelihood = zoo.PRESETS[name].factors.get("likelihood") or data.likelihood
    config = NETWORKS | {"x_shape": data.x_shape, "likelihood": likelihood} | options
    if "decoder" in options:  # which returns p(x|z) itself
        del config["likelihood"]
    if is_conditional(name):
        config["condition_shape"] = data.condition_shape
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return pp.create(name, **config)


def state(pair: nn.Module) -> dict[str, Tensor]:
    """A copy of the pair's tensors."""
    return {key: value.clone() for key, value in module_state.tensors_of(pair).items()}


def same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def validation_bound(pair: pp.Pair, data: Splits, seed: int = 0) -> float:
    """The bound on the validation part with the noise of the training's own validation."""
    pair.eval()
    with torch.random.fork_rng(), pyro.get_param_store().scope(), torch.no_grad():
        torch.manual_seed(schedules.seed_of(seed, schedules.VALIDATION, 0))
        terms = ELBO().terms(pair.model, pair.guide, data.valid.x, data.valid.condition)
    pair.train()
    return terms.bound.double().sum().item() / len(data.valid)


def records(run: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl`` without the one number that the clock decides, and the checksum of it."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("seconds", "sha256")} for line in lines]


def unsealed(file: Path) -> dict[str, Any]:
    """Return what a file of a run holds besides its checksum."""
    return {key: value for key, value in json.loads(file.read_bytes()).items() if key != "sha256"}


def write_sealed(file: Path, record: dict[str, Any]) -> None:
    """Write a file of a run with a checksum that is right."""
    file.write_text(json.dumps(_records.seal(record)))


def saved_pair(run: Path) -> dict[str, Tensor]:
    """The tensors in ``pair/``."""
    return checkpoint.read(run / "pair", "pair")[0]


def names(folder: Path) -> list[str]:
    """Names of what a folder holds but its locks, in order."""
    return sorted(path.name for path in folder.iterdir() if not is_lock(path))


def is_lock(path: Path) -> bool:
    """Whether a file is one of the locks that writers leave."""
    return path.name.startswith(".") and path.name.endswith(".lock")


def snapshot(folder: Path) -> dict[str, str]:
    """Checksum of every file below a folder but the locks, which are empty."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not is_lock(path)
    }


class FullDisk(RunFolder):
    """A run folder whose disk is full from the third state on."""

    num_states = 0

    def save_state(self, state: ResumeState) -> None:
        import resource  # not on Windows

        self.num_states += 1
        if self.num_states == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
        super().save_state(state)


class GivenNoiseModel(nn.Module):
    """z ~ N(0, I), x ~ N(W z + b, 1)."""

    def __init__(self, x_dim: int, z_dim: int) -> None:
        super().__init__()
        self.decoder = nn.Linear(z_dim, x_dim)

    def forward(self, x: Tensor | None = None, condition: Tensor | None = None, size: int | None = None) -> Tensor:
        pp.register("given_noise.model", self)
        with pp.data_plate(x, condition, size):
            prior = self.decoder.weight.new_zeros(self.decoder.in_features)
            z = pyro.sample("z", dist.Normal(prior, 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)


class GivenNoiseGuide(nn.Module):
    """q(z|x) = N(loc, scale), its draw made with the noise that the condition holds.

    The site is a Delta at the draw, and its log-density is that of the Gaussian: the bound is that of the VAE.
    """

    def __init__(self, x_dim: int, z_dim: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(x_dim, 8)
        self.head = nn.Linear(8, 2 * z_dim)

    def forward(self, x: Tensor, condition: Tensor | None = None, size: int | None = None) -> None:
        pp.register("given_noise.guide", self)
        with pp.data_plate(x, condition, size):
            loc, log_scale = self.head(self.hidden(x).tanh()).chunk(2, -1)
            posterior = dist.Normal(loc, log_scale.exp()).to_event(1)
            z = loc + log_scale.exp() * condition
            pyro.sample("z", dist.Delta(z, log_density=posterior.log_prob(z), event_dim=1))


def given_noise_pair(x_dim: int = 3, z_dim: int = 2) -> pp.Pair:
    """A float64 pair whose noise is part of the data, so that processes cannot differ in it."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return pp.Pair(GivenNoiseModel(x_dim, z_dim), GivenNoiseGuide(x_dim, z_dim)).double()


def given_noise_data(size: int = 53, x_dim: int = 3, z_dim: int = 2) -> Splits:
    """Gaussian x, noise as the condition; 53 data in batches of 16 leave a last one of 5."""
    generator = torch.Generator().manual_seed(2)
    arrays = {
        f"{kind}_{part}": torch.randn(length, dim, generator=generator)
        for part, length in (("train", size), ("valid", 21), ("test", 5))
        for kind, dim in (("x", x_dim), ("condition", z_dim))
    }
    return pp.data.from_arrays(**arrays)


class Failing(nn.Module):
    """A decoder whose logits turn into NaN at a call.

    :param after: number of good calls
    :param backward: spoil the gradient and not the value
    :param rank: fail in this process alone
    :param in_training: in which mode calls are counted, and fail
    :param error: raise it instead
    """

    def __init__(
        self,
        z_dim: int,
        x_dim: int,
        after: int,
        backward: bool = False,
        rank: int | None = None,
        in_training: bool = True,
        error: Exception | None = None,
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(z_dim, x_dim)
        self.left, self.backward, self.rank, self.in_training, self.error = after, backward, rank, in_training, error

    def forward(self, z: Tensor, **given: Any) -> dist.Distribution:
        logits = self.linear(z)
        if self.training == self.in_training and (self.rank is None or self.rank == torch.distributed.get_rank()):
            self.left -= 1
            if self.left < 0 and self.error is not None:
                raise self.error
            if self.left < 0 and self.backward:
                logits.register_hook(lambda gradient: gradient * float("nan"))
            elif self.left < 0:
                logits = logits * float("nan")
        return dist.Bernoulli(logits=logits).to_event(1)


class TakenDown:
    """Writes a file when the interpreter is taken down around it."""

    def __init__(self, place: Path) -> None:
        # modules are taken down first
        self.finalizing, self.create = sys.is_finalizing, partial(os.open, str(place), os.O_CREAT)
        sys.taken_down_at_the_end = self  # type: ignore[attr-defined]

    def __del__(self) -> None:
        if self.finalizing():
            self.create()


class LeavesTakenDown(nn.Linear):
    """A decoder that leaves a ``TakenDown`` in each process that calls it.

    :param fails: it raises in them
    """

    def __init__(self, z_dim: int, x_dim: int, folder: Path, fails: bool) -> None:
        super().__init__(z_dim, x_dim)
        self.folder, self.fails = folder, fails

    def forward(self, z: Tensor, **given: Any) -> dist.Distribution:
        if torch.distributed.is_initialized():
            TakenDown(self.folder / str(torch.distributed.get_rank()))
            if self.fails:
                raise RuntimeError("the decoder fails in both processes")
        return dist.Bernoulli(logits=super().forward(z)).to_event(1)
