"""Training: one visible loop, exact to resume."""

from __future__ import annotations

import dataclasses
import math
import re
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import numpy as np
import pyro
import torch
import torch.nn as nn
from pyro import infer, poutine
from torch import Tensor

from . import checkpoint
from ._sites import sample_sites
from .data import Part, Splits, batches, num_batches
from .objectives import ELBO, KLWeight, options_of
from .pair import Pair
from .progress import ProgressBar
from .run_folder import ResumeState, RunFolder
from .signals import forwarded_signals, stop_signals

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["History", "TrainConfig", "TrainingDiverged", "fit"]

SCHEDULES = ("constant", "cosine", "linear")
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("32-true", "64-true", "bf16-mixed", "bf16-true")
TRAINING, VALIDATION = 1, 2  # two streams of noise from one seed
VALIDATION_BATCH_SIZE = 500


class TrainingDiverged(ArithmeticError):
    """The loss or a gradient became NaN or infinite; the pair holds the last good state."""


@dataclass(frozen=True)
class TrainConfig:
    """How to train."""

    max_epochs: int = 100
    """Most epochs to train for."""
    batch_size: int = 100
    """Data per step, over all processes."""
    learning_rate: float = 5e-4
    """Learning rate of Adam."""
    schedule: str = "constant"
    """Learning rate over the epochs: constant, cosine or linear (the latter two end at 0)."""
    warmup_epochs: float = 0.0
    """Epochs over which the weight of the KL rises linearly to 1."""
    warmup_sites: tuple[str, ...] = ()
    """Latent sites whose KL is warmed up; all of them when empty."""
    patience: int = 0
    """Epochs without a better validation bound, from the end of the warm-up on, before training stops; 0: never."""
    clip_norm: float = 0.0
    """Largest norm of the gradient, all parameters together; 0: no clipping."""
    seed: int = 0
    """Seed of order, binarisation and noise."""
    checkpoint_seconds: float = 30.0
    """Seconds between two writings of the resume state."""
    tensorboard: bool = False
    """Write TensorBoard events into the run folder."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    num_processes: int = 1
    """Processes that share each batch."""
    precision: str = "32-true"
    """Precision, by Lightning Fabric's names: 32-true, 64-true, bf16-mixed or bf16-true."""

    def __post_init__(self) -> None:
        for name in ("max_epochs", "batch_size", "num_processes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("warmup_epochs", "patience", "clip_norm", "seed", "checkpoint_seconds"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}: 5e-4 is a good start")
        for name, known in (("schedule", SCHEDULES), ("device", DEVICES), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got '{getattr(self, name)}'")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device is 'cuda', but torch finds no CUDA device here: use auto or cpu")
        if self.device == "mps" and not torch.backends.mps.is_available():
            raise ValueError("device is 'mps', but torch finds no Apple GPU here: use auto or cpu")


@dataclass
class History:
    """What a training did.

    :param epochs: one record per epoch, the lines of ``metrics.jsonl``; losses and bounds in nats per datum
    :param best_epoch: epoch with the best validation bound, whose weights the pair holds
    :param stopped: why it ended: ``"max_epochs"`` or ``"patience"``
    """

    epochs: list[dict[str, Any]]
    best_epoch: int
    stopped: str


def fit(
    pair: Pair,
    data: Splits,
    objective: infer.ELBO | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    config: TrainConfig | None = None,
    **options: Any,
) -> History:
    """Train a pair with Adam; afterwards it holds the weights of the best validation bound.

    Example::

        >>> history = fit(pair, pyro_priors.data.load("mnist"), max_epochs=200, warmup_epochs=100, out="runs/cp")

    Validation is the bound at KL weight 1 on the validation part, at the same noise after every epoch. Order,
    binarisation and noise are functions of ``seed`` and the step: a run that is killed at any moment and resumed ends
    with the same bits as one that was not, on the same machine. Nothing global is changed: the parameter store and
    the state of torch's random generators are as before when it returns.

    SIGINT and SIGTERM end the current step, write the resume state and raise KeyboardInterrupt or SystemExit.

    :param pair: what to train, in place
    :param data: from :func:`pyro_priors.data.load` or :func:`pyro_priors.data.from_arrays`
    :param objective: an objective of ours, or an ELBO of Pyro's (its sum over the batch is divided by the batch size);
        ``pair.elbo`` when left out
    :param out: run folder; without one nothing is written
    :param resume: go on with the run in ``out``, with the same options; from the beginning if it has no state yet
    :param progress: show a bar, or plain lines when the output is no terminal
    :param config: all options at once
    :param options: fields of :class:`TrainConfig`
    :raises ValueError: if an option is out of range, data and pair do not fit, or ``out`` holds another run
    :raises TrainingDiverged: if the loss or a gradient becomes NaN or infinite
    :raises CheckpointError: if the run to be resumed cannot be read
    """
    config = dataclasses.replace(config or TrainConfig(), **_known(options))
    objective = pair.elbo if objective is None else objective
    _check_fits(pair, data)
    _check_sites(pair, data, config.warmup_sites)
    if config.tensorboard:
        _summary_writer()
    if len(data.valid) < config.num_processes:
        raise ValueError(f"num_processes is {config.num_processes}, but the validation part has {len(data.valid)} data")
    folder = None
    if out is not None:
        folder = RunFolder(out)
        folder.begin(_record(pair, data, objective, config), resume)
    elif resume:
        raise ValueError("resume=True needs out, the run folder to resume")
    from lightning_fabric import Fabric  # a second to import, and only training needs it

    strategy = "auto" if config.num_processes == 1 else "ddp_spawn"
    fabric = Fabric(
        accelerator=config.device,
        devices=config.num_processes,
        strategy=strategy,
        precision=cast(Any, config.precision),
    )
    if config.num_processes == 1:
        fabric.launch()
        return _Training(fabric, pair, data, objective, config, folder, resume, progress).run()
    with forwarded_signals():
        # Fabric gives each process its own copy of a module among the arguments, and refuses frozen dataclasses there
        rest = (data, objective, config, folder, resume, progress)
        trained = fabric.launch(partial(_train_in_process, rest), pair)
    if isinstance(trained, int):
        raise KeyboardInterrupt if trained == 128 + signal.SIGINT else SystemExit(trained)
    best, outcome = trained
    checkpoint.load_module_state(pair, {key: torch.from_numpy(value) for key, value in best.items()}, "training")
    if isinstance(outcome, TrainingDiverged):
        raise outcome
    return outcome


def _known(options: dict[str, Any]) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    for name in options:
        if name not in names:
            raise ValueError(f"fit has no option '{name}': choose from {', '.join(names)}")
    return options


def _check_fits(pair: Pair, data: Splits) -> None:
    config = (pair.recipe or {}).get("config", {})
    if "x_shape" in config and tuple(config["x_shape"]) != data.x_shape:
        raise ValueError(
            f"the pair was made for x_shape={tuple(config['x_shape'])}, but {data.name} has {data.x_shape}"
        )
    if "condition_shape" in config and tuple(config["condition_shape"]) != data.condition_shape:
        raise ValueError(
            f"the pair was made for condition_shape={tuple(config['condition_shape'])}, but {data.name} has "
            f"{data.condition_shape}: load the data with condition_rows or condition_labels, or give condition_*"
        )
    likelihood = config.get("likelihood")
    if likelihood == "bernoulli" and data.likelihood != "bernoulli":
        raise ValueError(
            f"likelihood='bernoulli' needs x of 0 and 1, but {data.name} has other values: "
            f"use likelihood='{data.likelihood}'"
        )


@torch.no_grad()
def _check_sites(pair: Pair, data: Splits, sites: tuple[str, ...]) -> None:
    if not sites:
        return
    first = _to(data.train.take(slice(2)), next(pair.parameters()))
    with torch.random.fork_rng(), pyro.get_param_store().scope():
        trace = poutine.trace(pair.guide).get_trace(first.x, first.condition)
    latent = [name for name, site in sample_sites(trace) if not site["is_observed"]]
    for site in sites:
        if site not in latent:
            raise ValueError(f"warmup_sites names '{site}', which is no latent site: choose from {', '.join(latent)}")


def _record(pair: Pair, data: Splits, objective: infer.ELBO, config: TrainConfig) -> dict[str, Any]:
    from . import __version__

    return {
        "pair": pair.recipe,
        "data": data.recipe,
        "objective": options_of(objective),
        "train": dataclasses.asdict(config),
        "versions": {"pyro_priors": __version__, "torch": torch.__version__, "pyro": pyro.__version__},
    }


class _Loss(nn.Module):
    """The objective as a module from batch to loss, so that Fabric can wrap it."""

    def __init__(self, pair: Pair, objective: infer.ELBO) -> None:
        super().__init__()
        self.pair = pair
        self.objective: Any = objective  # Pyro's base class does not declare differentiable_loss
        self.kl_weight: float | Mapping[str, float] = 1.0
        self.share = 1.0

    def forward(self, x: Tensor, condition: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        model, guide = self.pair.model, self.pair.guide
        if isinstance(self.objective, ELBO):
            before, self.objective.kl_weight = self.objective.kl_weight, self.kl_weight
            try:
                terms = self.objective.terms(model, guide, x, condition)
            finally:  # the objective is the user's, or the pair's: the warm-up leaves nothing in it
                self.objective.kl_weight = before
            parts = {name: value.detach().mean() * self.share for name, value in terms.parts.items()}
            return terms.loss * self.share, parts
        weigh = KLWeight(self.kl_weight)
        loss = self.objective.differentiable_loss(weigh(model), weigh(guide), x, condition) / len(x)
        return loss * self.share, {}


def _train_in_process(
    rest: tuple[Any, ...], fabric: Fabric, pair: Pair
) -> tuple[dict[str, Any], History | TrainingDiverged] | int:
    """What one of several processes runs; returns the exit status instead when a signal stopped it."""
    outcome: History | TrainingDiverged
    try:
        outcome = _Training(fabric, pair, *rest).run()
    except TrainingDiverged as error:  # the pair that it leaves is wanted as well
        outcome = error
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except SystemExit as stop:
        return int(stop.code or 0)
    # numpy arrays go back through the queue by value; tensors would go by a handle of a process that is about to end
    state = {key: value.cpu() for key, value in checkpoint.module_state(pair).items()}
    # numpy has no bfloat16, and float32 holds each of its values
    arrays = {key: (v.float() if v.dtype is torch.bfloat16 else v).numpy() for key, v in state.items()}
    return arrays, outcome


class _Training:
    """The loop: epochs of steps, a validation after each, and a state on disk from which it goes on exactly."""

    def __init__(
        self,
        fabric: Fabric,
        pair: Pair,
        data: Splits,
        objective: infer.ELBO,
        config: TrainConfig,
        folder: RunFolder | None,
        resume: bool,
        show_progress: bool,
    ) -> None:
        self.fabric, self.pair, self.data, self.config, self.folder = fabric, pair, data, config, folder
        self.writer = folder if fabric.is_global_zero else None
        self.train = _to(data.train, torch.empty(0, device=fabric.device))
        self.steps_per_epoch = num_batches(self.train, config.batch_size)
        self.loss_module = _Loss(pair, objective)
        fused = fabric.device.type in ("cpu", "cuda")
        optimizer = torch.optim.Adam(pair.parameters(), lr=config.learning_rate, fused=fused)
        self.compute_loss, self.optimizer = fabric.setup(self.loss_module, optimizer)
        # Fabric gives the batches of the training the precision of the parameters; the rest does not go through it
        self.valid = _to(data.valid, next(pair.parameters()))
        self.progress = _Progress()
        self.best: dict[str, Tensor] = {}
        self.history: list[dict[str, Any]] = []
        if folder is not None and resume and (saved := folder.load_state()) is not None:
            self.progress = _Progress(**saved.progress)
            if not config.patience or self.progress.wait < config.patience:  # the patience may be given anew
                self.progress.stopped = ""
            self.best = saved.best
            checkpoint.load_module_state(pair, saved.pair, str(folder.path))
            self.optimizer.load_state_dict(saved.optimizer)
            self.history = folder.history()[: self.progress.epoch]
        if self.writer is not None:  # what came after the saved state is trained again
            self.writer.rewrite_history(self.history)
        total = config.max_epochs * self.steps_per_epoch
        self.bar = ProgressBar(total, self.progress.step, enabled=show_progress and fabric.is_global_zero)
        self.board = None
        if self.writer is not None and config.tensorboard:
            self.board = _summary_writer()(str(self.writer.path / "tensorboard"))
        self.last_saved = time.monotonic()

    def run(self) -> History:
        """Train to the end and leave the best weights in the pair."""
        devices = [self.fabric.device] if self.fabric.device.type == "cuda" else []
        progress, config = self.progress, self.config
        with torch.random.fork_rng(devices), pyro.get_param_store().scope(), stop_signals() as self.signals, self.bar:
            while progress.epoch < config.max_epochs and not progress.stopped:
                began = time.monotonic()
                self.train_epoch()
                self.end_epoch(seconds=time.monotonic() - began)
                if progress.stopped or progress.epoch == config.max_epochs or self.save_is_due():
                    self.save()
            checkpoint.load_module_state(self.pair, self.best, "training")
            if self.pair.aggregate_c is not None:
                shown = Part(_binarised(self.train, self.data, config), self.train.condition)
                shown = _to(shown, next(self.pair.parameters()))
                self.pair.set_aggregate(shown.x, shown.condition)
            if self.writer is not None:
                self.writer.save_pair(checkpoint.module_state(self.pair), self.pair.recipe)
        if self.board is not None:
            self.board.close()
        return History(self.history, progress.best_epoch, progress.stopped or "max_epochs")

    def train_epoch(self) -> None:
        """The steps of one epoch that are still to be done."""
        progress, config, world_size = self.progress, self.config, self.fabric.world_size
        learning_rate = config.learning_rate * _schedule(config.schedule, progress.epoch / config.max_epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        for x, condition in batches(
            self.train,
            config.batch_size,
            seed=config.seed,
            epoch=progress.epoch,
            binarise=self.data.binarise,
            rank=self.fabric.global_rank,
            world_size=world_size,
            start=progress.step_in_epoch,
        ):
            batch_size = min(config.batch_size, len(self.train) - progress.step_in_epoch * config.batch_size)
            try:
                self.train_step(x, condition, batch_size)
            except (TrainingDiverged, ValueError) as error:
                self.diverged(error)
            progress.step += 1
            progress.step_in_epoch += 1
            self.bar.step(progress.step, progress.epoch, progress.means().get("loss"))
            self.stop_if_asked()
            if self.save_is_due() and progress.step_in_epoch < self.steps_per_epoch:
                self.save()

    def train_step(self, x: Tensor, condition: Tensor | None, batch_size: int) -> None:
        """One step on this process's share of a batch of ``batch_size``."""
        progress, config = self.progress, self.config
        # a seed for each step makes the noise a function of the step: nothing to store, exact to resume
        torch.manual_seed(_seed_of(config.seed, TRAINING, progress.step, self.fabric.global_rank))
        self.loss_module.kl_weight = _kl_weight(config, progress.step, self.steps_per_epoch)
        # each process averages over its own share, and Fabric then over processes
        self.loss_module.share = len(x) * self.fabric.world_size / batch_size
        if not len(x):  # a last batch with less than one datum for each process: this one takes part with weight 0
            first = self.train.take(slice(1))
            x, condition = first.x, first.condition
            x = x.round() if self.data.binarise else x
        error: Exception | None = None
        try:
            loss, parts = self.compute_loss(x, condition)
            _check_finite(loss, parts)
        except (TrainingDiverged, ValueError) as caught:
            error = caught
        self.raise_together(error)
        self.optimizer.zero_grad()
        self.fabric.backward(loss)
        norm = _clip(self.pair, config.clip_norm)
        self.optimizer.step()
        values = {"loss": loss.detach(), **parts}
        if self.fabric.world_size > 1:  # what is remembered, and saved, is of the whole batch
            values = {key: self.all_reduce(value, "mean") for key, value in values.items()}
        progress.add({key: value.item() for key, value in values.items()}, batch_size, norm)

    def all_reduce(self, value: Tensor, how: str) -> Tensor:
        """The value's mean, sum or maximum over the processes."""
        return cast(Tensor, self.fabric.all_reduce(value.to(self.fabric.device), reduce_op=how)).cpu()

    def raise_together(self, error: Exception | None) -> None:
        """Raise an error of one process in all of them, so that none waits for the others' gradients."""
        if self.fabric.world_size > 1:
            failed = self.all_reduce(torch.tensor(float(error is not None)), "max")
            if failed and error is None:
                error = TrainingDiverged("the loss became NaN or infinite in another process")
        if error is not None:
            raise error

    def end_epoch(self, seconds: float) -> None:
        """Validate, remember the best, count the patience, write the epoch's record."""
        progress, config = self.progress, self.config
        valid = self.validate()
        if not math.isfinite(valid["bound"]):
            self.diverged(TrainingDiverged(f"the validation bound became {valid['bound']}"))
        record = {
            "epoch": progress.epoch,
            "step": progress.step,
            "kl_weight": _kl_weight(config, progress.step - 1, self.steps_per_epoch),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            **{f"train_{key}": value for key, value in progress.means().items()},
            **{f"valid_{key}": value for key, value in valid.items()},
            "seconds": round(seconds, 3),
        }
        progress.wait += 1
        if valid["bound"] > progress.best_bound:
            progress.best_bound, progress.best_epoch, progress.wait = valid["bound"], progress.epoch, 0
            self.best = {key: value.clone() for key, value in checkpoint.module_state(self.pair).items()}
        if progress.epoch < config.warmup_epochs:
            progress.wait = 0
        elif config.patience and progress.wait >= config.patience:
            progress.stopped = "patience"
        self.history.append(record)
        if self.writer is not None:
            self.writer.append(record)
        if self.board is not None:
            for key, value in record.items():
                if isinstance(value, int | float):
                    self.board.add_scalar(key, value, progress.step)
        self.bar.epoch(record)
        progress.next_epoch()

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Means of the bound at weight 1 and of its parts over the validation part, at the same noise every time."""
        rank, world_size = self.fabric.global_rank, self.fabric.world_size
        torch.manual_seed(_seed_of(self.config.seed, VALIDATION, 0, rank))
        elbo = ELBO()
        sums: dict[str, Tensor] = {}
        self.pair.eval()
        size = max(VALIDATION_BATCH_SIZE, world_size)
        for x, condition in batches(self.valid, size, seed=0, epoch=0, shuffle=False, rank=rank, world_size=world_size):
            if len(x):
                terms = elbo.terms(self.pair.model, self.pair.guide, x, condition)
                for name, value in {"bound": terms.bound, **terms.parts}.items():
                    sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64)) + value.cpu().double().sum()
        self.pair.train()
        if world_size > 1:
            sums = {name: self.all_reduce(value, "sum") for name, value in sums.items()}
        return {name: value.item() / len(self.valid) for name, value in sums.items()}

    def save_is_due(self) -> bool:
        """Whether the last writing of the state is long enough ago."""
        return time.monotonic() - self.last_saved >= self.config.checkpoint_seconds

    def save(self) -> None:
        """Write the state from which :meth:`run` goes on."""
        if self.writer is not None:
            tensors = checkpoint.module_state(self.pair)
            record = dataclasses.asdict(self.progress)
            self.writer.save_state(ResumeState(record, tensors, self.best, self.optimizer.state_dict()))
        self.last_saved = time.monotonic()

    def stop_if_asked(self) -> None:
        """After SIGINT or SIGTERM: write the state and end with what the signal stands for."""
        number = self.signals.received
        if self.fabric.world_size > 1:  # all processes must leave at the same step
            number = int(self.all_reduce(torch.tensor(float(number)), "max"))
        if number:
            self.save()
            hint = "" if self.folder is None else f", its state is in {self.folder.path}: go on with --resume"
            self.bar.note(f"stopped by {signal.Signals(number).name} at step {self.progress.step}{hint}")
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    def diverged(self, error: Exception) -> NoReturn:
        """Leave pair and folder in the last good state and say where training ended.

        :raises TrainingDiverged: always, unless the error is another one
        """
        what = str(error)
        if not isinstance(error, TrainingDiverged):
            if "satisfy the constraint" not in what:
                raise error
            # validation refuses parameters that are NaN before a loss is computed of them; Pyro lists the sites before
            sites = [site for site in re.findall(r"(\S+) dist\b", what) if site != "data"]
            where = f"at the site after '{sites[-1]}'" if sites else "at the first site of a program"
            what = f"a distribution {where} refused its parameters ({' '.join(what.split())[:160]} ...)"
        progress, kept = self.progress, "the pair holds the weights before that step"
        if self.best:
            checkpoint.load_module_state(self.pair, self.best, "training")
            kept = f"the pair holds the best weights, of epoch {progress.best_epoch}"
        if self.writer is not None:
            self.writer.save_pair(checkpoint.module_state(self.pair), self.pair.recipe)
            kept += f", saved in {self.writer.path / 'pair'}"
        raise TrainingDiverged(
            f"{what} at step {progress.step} (epoch {progress.epoch}): {kept}; a smaller learning_rate or clip_norm=1 "
            "may help"
        ) from error


@dataclass
class _Progress:
    """Where the training is; what the loop must remember between two steps besides tensors."""

    epoch: int = 0
    step: int = 0
    step_in_epoch: int = 0
    best_bound: float = -math.inf
    best_epoch: int = -1
    wait: int = 0
    stopped: str = ""
    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0
    largest_norm: float = 0.0

    def add(self, values: dict[str, float], count: int, norm: float) -> None:
        for key, value in values.items():
            self.sums[key] = self.sums.get(key, 0.0) + value * count
        self.count += count
        self.largest_norm = max(self.largest_norm, norm)

    def means(self) -> dict[str, float]:
        means = {key: value / self.count for key, value in self.sums.items()}
        return means | {"largest_gradient_norm": self.largest_norm} if means else means

    def next_epoch(self) -> None:
        self.epoch += 1
        self.step_in_epoch = 0
        self.sums, self.count, self.largest_norm = {}, 0, 0.0


def _to(part: Part, like: Tensor) -> Part:
    """x and condition of the part on the device and in the precision of another tensor."""
    return Part(part.x.to(like), None if part.condition is None else part.condition.to(like))


def _seed_of(seed: int, purpose: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence((seed, purpose, step, rank)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _schedule(name: str, done: float) -> float:
    """Factor of the learning rate when the share ``done`` of the epochs is done."""
    return {"constant": 1.0, "linear": 1.0 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[name]


def _kl_weight(config: TrainConfig, step: int, steps_per_epoch: int) -> float | dict[str, float]:
    warmup_steps = config.warmup_epochs * steps_per_epoch
    weight = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    return dict.fromkeys(config.warmup_sites, weight) if config.warmup_sites else weight


def _check_finite(loss: Tensor, parts: dict[str, Tensor]) -> None:
    if not torch.isfinite(loss):
        sites = [name.removeprefix("kl_") for name, value in parts.items() if not torch.isfinite(value)]
        where = f" at site '{'x' if sites[0] == 'reconstruction' else sites[0]}'" if sites else ""
        raise TrainingDiverged(f"the loss became {loss.item()}{where}")


def _clip(pair: Pair, clip_norm: float) -> float:
    """Clip the gradients to the norm, 0 for none, and return the norm that they had."""
    norm = nn.utils.clip_grad_norm_(pair.parameters(), clip_norm or math.inf).item()
    if not math.isfinite(norm):
        bad = next(key for key, p in pair.named_parameters() if p.grad is not None and not p.grad.isfinite().all())
        raise TrainingDiverged(f"the gradient of '{bad}' became {norm}")
    return norm


def _binarised(train: Part, data: Splits, config: TrainConfig) -> Tensor:
    """The training data as one epoch shows them."""
    if not data.binarise:
        return train.x
    return torch.cat([x for x, _ in batches(train, 1000, seed=config.seed, epoch=0, binarise=True, shuffle=False)])


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError(
            "tensorboard=True needs the package tensorboard: pip install pyro-priors[tensorboard]"
        ) from None
    return SummaryWriter
