"""Training: one visible loop, exact to resume."""

from __future__ import annotations

import dataclasses
import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
import torch.nn as nn
from pyro import infer
from torch import Tensor

from . import checkpoint
from .data import Part, Splits, batches, num_batches
from .objectives import ELBO, KLWeight, options_of
from .pair import Pair
from .run_folder import ResumeState, RunFolder

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["History", "TrainConfig", "TrainingDiverged", "fit"]

SCHEDULES = ("constant", "cosine", "linear")
TRAINING, VALIDATION = 1, 2  # two streams of noise from one seed


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
    """Epochs without a better validation bound, counted from the end of the warm-up, before training stops; 0: never."""
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
    """Lightning Fabric's name of a precision: 32-true, bf16-mixed, 64-true, ..."""

    def __post_init__(self) -> None:
        for name in ("max_epochs", "batch_size", "num_processes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("warmup_epochs", "patience", "clip_norm", "seed", "checkpoint_seconds"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}: 5e-4 is a good start")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got '{self.schedule}'")


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

        >>> history = fit(pair, pyro_priors.data.load("mnist"), max_epochs=200, warmup_epochs=100, patience=50, out="runs/cp")

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
    folder = None
    if out is not None:
        folder = RunFolder(out)
        folder.begin(_record(pair, data, objective, config), resume)
    elif resume:
        raise ValueError("resume=True needs out, the run folder to resume")
    from lightning_fabric import Fabric  # a second to import, and only training needs it

    strategy = "auto" if config.num_processes == 1 else "ddp_spawn"
    fabric = Fabric(
        accelerator=config.device, devices=config.num_processes, strategy=strategy, precision=config.precision
    )
    if config.num_processes == 1:
        fabric.launch()
        return _train(fabric, pair, data, objective, config, folder, resume, progress)
    with _forwarded_signals():
        best, history = fabric.launch(_train_in_process, pair, data, objective, config, folder, resume, progress)
    if history is None:
        raise KeyboardInterrupt
    checkpoint.load_module_state(pair, {key: torch.from_numpy(value) for key, value in best.items()}, "training")
    return history


def _known(options: dict[str, Any]) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    for name in options:
        if name not in names:
            raise ValueError(f"fit has no option '{name}': choose from {', '.join(names)}")
    return options


def _check_fits(pair: Pair, data: Splits) -> None:
    config = (pair.recipe or {}).get("config", {})
    if "x_shape" in config and tuple(config["x_shape"]) != data.x_shape:
        raise ValueError(f"the pair was made for x_shape={tuple(config['x_shape'])}, but {data.name} has {data.x_shape}")
    if "condition_shape" in config and tuple(config["condition_shape"]) != data.condition_shape:
        raise ValueError(
            f"the pair was made for condition_shape={tuple(config['condition_shape'])}, but {data.name} has "
            f"{data.condition_shape}: load the data with condition_rows or condition_labels, or give condition_*"
        )
    likelihood = config.get("likelihood")
    if likelihood == "bernoulli" and data.likelihood != "bernoulli":
        raise ValueError(
            f"likelihood='bernoulli' needs x of 0 and 1, but {data.name} has other values: use likelihood='{data.likelihood}'"
        )


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
        self.objective = objective
        self.kl_weight: float | Mapping[str, float] = 1.0

    def forward(self, x: Tensor, condition: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        model, guide = self.pair.model, self.pair.guide
        if isinstance(self.objective, ELBO):
            self.objective.kl_weight = self.kl_weight
            terms = self.objective.terms(model, guide, x, condition)
            return terms.loss, {name: value.detach().mean() for name, value in terms.parts.items()}
        weigh = KLWeight(self.kl_weight)
        return self.objective.differentiable_loss(weigh(model), weigh(guide), x, condition) / len(x), {}


def _train_in_process(fabric: Fabric, pair: Pair, *args: Any) -> tuple[dict[str, Any] | None, History | None]:
    # numpy arrays go back through the queue by value; tensors would go by a handle of a process that is about to end
    try:
        history = _train(fabric, pair, *args)
    except (KeyboardInterrupt, SystemExit):
        return None, None
    return {key: value.cpu().numpy() for key, value in checkpoint.module_state(pair).items()}, history


def _train(
    fabric: Fabric,
    pair: Pair,
    data: Splits,
    objective: infer.ELBO,
    config: TrainConfig,
    folder: RunFolder | None,
    resume: bool,
    show_progress: bool,
) -> History:
    from .progress import ProgressBar

    writes = folder is not None and fabric.is_global_zero
    train, valid = (_on_device(part, fabric.device) for part in (data.train, data.valid))
    steps_per_epoch = num_batches(train, config.batch_size)
    fused = fabric.device.type in ("cpu", "cuda")
    loss_module = _Loss(pair, objective)
    optimizer = torch.optim.Adam(pair.parameters(), lr=config.learning_rate, fused=fused)
    compute_loss, optimizer = fabric.setup(loss_module, optimizer)

    state = _Progress()
    best: dict[str, Tensor] = {}
    history: list[dict[str, Any]] = []
    saved = folder.load_state() if folder is not None and resume else None
    if saved is not None:
        state = _Progress(**saved.progress)
        checkpoint.load_module_state(pair, saved.pair, str(folder.path))
        best = saved.best
        optimizer.load_state_dict(saved.optimizer)
        history = folder.truncate_history(state.epoch) if writes else folder.history()[: state.epoch]

    def save() -> None:
        if writes:
            tensors = checkpoint.module_state(pair)
            folder.save_state(ResumeState(dataclasses.asdict(state), tensors, best, optimizer.state_dict()))

    devices = [fabric.device] if fabric.device.type == "cuda" else []
    bar = ProgressBar(config.max_epochs * steps_per_epoch, state.step, enabled=show_progress and fabric.is_global_zero)
    board = _tensorboard(folder) if writes and config.tensorboard else None
    with (
        torch.random.fork_rng(devices),
        pyro.get_param_store().scope(),
        _stop_signals() as signals,
        bar,
    ):
        last_saved = time.monotonic()
        while state.epoch < config.max_epochs and not state.stopped:
            began = time.monotonic()
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * _schedule(config.schedule, state.epoch / config.max_epochs)
            epoch_batches = batches(
                train,
                config.batch_size,
                seed=config.seed,
                epoch=state.epoch,
                binarise=data.binarise,
                rank=fabric.global_rank,
                world_size=fabric.world_size,
                start=state.step_in_epoch,
            )
            for x, condition in epoch_batches:
                batch_size = min(config.batch_size, len(train) - state.step_in_epoch * config.batch_size)
                if batch_size >= fabric.world_size:  # a last batch with less than one datum each is left out
                    loss_module.kl_weight = _kl_weight(config, state.step, steps_per_epoch)
                    # a seed for each step makes the noise a function of the step: nothing to store, exact to resume
                    torch.manual_seed(_seed_of(config.seed, TRAINING, state.step, fabric.global_rank))
                    try:
                        loss, parts = compute_loss(x, condition)
                        # each process averages its own share; Fabric averages over processes
                        loss = loss * (len(x) * fabric.world_size / batch_size)
                        _check_finite(loss, parts, state)
                        optimizer.zero_grad()
                        fabric.backward(loss)
                        norm = _clip(pair, config.clip_norm, state)
                    except (TrainingDiverged, ValueError) as error:
                        _diverged(error, pair, best, folder if writes else None, state)
                    optimizer.step()
                    state.add({"loss": loss.item(), **{key: value.item() for key, value in parts.items()}}, batch_size, norm)
                state.step += 1
                state.step_in_epoch += 1
                bar.step(state.step, state.epoch, state.means().get("loss"))
                stop = signals.received
                if fabric.world_size > 1:  # every process must leave at the same step
                    stop = int(fabric.all_reduce(torch.tensor(float(stop), device=fabric.device), reduce_op="max"))
                if stop:
                    save()
                    bar.note(f"stopped by {signal.Signals(stop).name} at step {state.step}" + _resume_hint(folder))
                    signals.raise_for(stop)
                if time.monotonic() - last_saved > config.checkpoint_seconds and state.step_in_epoch < steps_per_epoch:
                    save()
                    last_saved = time.monotonic()
            warmed_up = state.epoch + 1 >= config.warmup_epochs
            record = {"epoch": state.epoch, "step": state.step, "kl_weight": _logged_weight(loss_module.kl_weight)}
            record |= {f"train_{key}": value for key, value in state.means().items()}
            record |= {"learning_rate": optimizer.param_groups[0]["lr"]}
            record |= {f"valid_{key}": value for key, value in _validate(fabric, pair, valid, config).items()}
            record |= {"seconds": round(time.monotonic() - began, 3)}
            if not math.isfinite(record["valid_bound"]):
                error = TrainingDiverged("the validation bound")
                _diverged(error, pair, best, folder if writes else None, state)
            if record["valid_bound"] > state.best_bound:
                state.best_bound, state.best_epoch, state.wait = record["valid_bound"], state.epoch, 0
                best = {key: value.clone() for key, value in checkpoint.module_state(pair).items()}
            elif warmed_up:
                state.wait += 1
            if not warmed_up:
                state.wait = 0
            if config.patience and state.wait >= config.patience:
                state.stopped = "patience"
            history.append(record)
            if writes:
                folder.append(record)
            if board is not None:
                for key, value in record.items():
                    board.add_scalar(key, value, state.step)
            bar.epoch(record)
            state.next_epoch()
            ended = state.stopped or state.epoch >= config.max_epochs
            if ended or time.monotonic() - last_saved > config.checkpoint_seconds:
                save()
                last_saved = time.monotonic()
        checkpoint.load_module_state(pair, best, "training")
        if pair.aggregate_c is not None:
            pair.set_aggregate(_binarised(train, data, config), train.condition)
        if writes:
            folder.save_pair(checkpoint.module_state(pair), pair.recipe)
    if board is not None:
        board.close()
    return History(history, state.best_epoch, state.stopped or "max_epochs")


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


def _on_device(part: Part, device: torch.device) -> Part:
    tensors = {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
    return Part(**{name: None if value is None else value.to(device) for name, value in tensors.items()})


def _seed_of(seed: int, purpose: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence((seed, purpose, step, rank)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _schedule(name: str, done: float) -> float:
    """Factor of the learning rate when the share ``done`` of the epochs is done."""
    return {"constant": 1.0, "linear": 1.0 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[name]


def _kl_weight(config: TrainConfig, step: int, steps_per_epoch: int) -> float | dict[str, float]:
    warmup_steps = config.warmup_epochs * steps_per_epoch
    weight = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    return dict.fromkeys(config.warmup_sites, weight) if config.warmup_sites else weight


def _logged_weight(weight: float | Mapping[str, float]) -> float:
    return next(iter(weight.values())) if isinstance(weight, Mapping) else weight


def _check_finite(loss: Tensor, parts: dict[str, Tensor], state: _Progress) -> None:
    if not torch.isfinite(loss):
        sites = [name.removeprefix("kl_") for name, value in parts.items() if not torch.isfinite(value)]
        where = f" at site '{'x' if sites[0] == 'reconstruction' else sites[0]}'" if sites else ""
        raise TrainingDiverged(f"the loss became {loss.item()}{where}")


def _clip(pair: Pair, clip_norm: float, state: _Progress) -> float:
    """Clip the gradients to the norm, 0 for none, and return the norm that they had."""
    norm = nn.utils.clip_grad_norm_(pair.parameters(), clip_norm or math.inf).item()
    if not math.isfinite(norm):
        bad = next(key for key, p in pair.named_parameters() if p.grad is not None and not p.grad.isfinite().all())
        raise TrainingDiverged(f"the gradient of '{bad}' became {norm}")
    return norm


def _diverged(
    error: Exception, pair: Pair, best: dict[str, Tensor], folder: RunFolder | None, state: _Progress
) -> None:
    """Leave pair and folder in the last good state and say where it ended.

    :raises TrainingDiverged: always
    """
    what = str(error)
    if not isinstance(error, TrainingDiverged):
        # with validation on, Pyro refuses parameters that are NaN before a loss is computed
        if "nan" not in what and "inf" not in what and "constraint" not in what:
            raise error
        what = "a distribution refused its parameters (" + " ".join(what.split())[:200] + ")"
    kept = "the pair holds the weights before that step"
    if best:
        checkpoint.load_module_state(pair, best, "training")
        kept = f"the pair holds the best weights, of epoch {state.best_epoch}"
    if folder is not None:
        folder.save_pair(checkpoint.module_state(pair), pair.recipe)
        kept += f", saved in {folder.path / 'pair'}"
    raise TrainingDiverged(
        f"{what} at step {state.step} (epoch {state.epoch}): {kept}; a smaller learning_rate or clip_norm=1 may help"
    ) from error


@torch.no_grad()
def _validate(fabric: Fabric, pair: Pair, valid: Part, config: TrainConfig) -> dict[str, float]:
    """Means of the bound at weight 1 and of its parts over the validation part."""
    torch.manual_seed(_seed_of(config.seed, VALIDATION, 0, fabric.global_rank))
    elbo = ELBO()
    sums: dict[str, Tensor] = {}
    pair.eval()
    for x, condition in batches(
        valid, 5 * config.batch_size, seed=0, epoch=0, shuffle=False, rank=fabric.global_rank, world_size=fabric.world_size
    ):
        if len(x):
            terms = elbo.terms(pair.model, pair.guide, x, condition)
            for name, value in {"bound": terms.bound, **terms.parts}.items():
                sums[name] = sums.get(name, 0) + value.sum().double()
    pair.train()
    return {name: (fabric.all_reduce(value, reduce_op="sum") / len(valid)).item() for name, value in sums.items()}


def _binarised(train: Part, data: Splits, config: TrainConfig) -> Tensor:
    """The training data as one epoch shows them."""
    if not data.binarise:
        return train.x
    return torch.cat([x for x, _ in batches(train, 1000, seed=config.seed, epoch=0, binarise=True, shuffle=False)])


def _resume_hint(folder: RunFolder | None) -> str:
    return "" if folder is None else f"; the state is in {folder.path}: resume it with --resume (resume=True)"


def _tensorboard(folder: RunFolder) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError("tensorboard=True needs the package tensorboard: pip install pyro-priors[tensorboard]") from None
    return SummaryWriter(str(folder.path / "tensorboard"))


class _Signals:
    """SIGINT or SIGTERM, remembered until the step is done."""

    received = 0

    def raise_for(self, number: int) -> None:
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


@contextmanager
def _stop_signals() -> Iterator[_Signals]:
    signals = _Signals()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield signals
        return

    def remember(number: int, frame: Any) -> None:
        signals.received = number

    old = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextmanager
def _forwarded_signals() -> Iterator[None]:
    """Hand SIGTERM on to the processes that train; SIGINT reaches them from the terminal."""
    import multiprocessing
    import os

    def forward(number: int, frame: Any) -> None:
        for process in multiprocessing.active_children():
            os.kill(process.pid, number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = {signal.SIGTERM: signal.signal(signal.SIGTERM, forward), signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
