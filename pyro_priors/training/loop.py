"""The training loop, visible from the first step to the last."""

from __future__ import annotations

import dataclasses
import math
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, cast

import numpy as np
import torch
import torch.nn as nn
from pyro import infer
from torch import Tensor

from .. import checkpoint
from .._cache import ensure_compiled_folder
from .._files import CheckpointError, WriteError
from .._lock import LOCK, own_store
from .._precision import condition_like
from .._reading import RESTORE
from .._resume import check_finite, check_optimizer, check_progress
from ..data import Part, Splits, batches, num_batches
from ..divergence import TrainingDiverged, became_infinite, cause
from ..network_checks import of_network, same_buffers
from ..objectives import ELBO
from ..objectives.kl_weight import Weight
from ..pair import Pair
from ..progress import ProgressBar
from ..rng import Draws, own_generators
from ..run_folder import ResumeState, RunFolder
from ..sites import SharedNoise
from ..tracing.function import GRADIENT_NORM
from ..tracing.objective import CompiledObjective
from .signals import stop_signals

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from .config import TrainConfig

__all__ = ["History", "Training", "TrainingDiverged", "summary_writer", "to_like"]

TRAINING, VALIDATION, CALIBRATION = 1, 2, 3  # streams of noise from one seed
VALIDATION_BATCH_SIZE = 500
NUM_CALIBRATED = 2000
"""Maximum number of training data from which the scale is estimated after an epoch with augmented images."""

STEPS_THAT_PAY = 5000
"""Minimum number of steps for which ``compile="auto"`` compiles; for fewer, compiling takes longer than it saves. The
choice depends on no measurement and is stored, so that a run computes the same wherever it is interrupted."""


@dataclass
class History:
    """The history of a training.

    :param epochs: one record per epoch, the lines of ``metrics.jsonl``; losses and bounds are in nats per datum
    :param best_epoch: epoch whose weights the pair has: the one with the best validation bound, or with ``keep="last"``
        the last one
    :param stopped: why training ended: ``"max_epochs"`` or ``"patience"``
    """

    epochs: list[dict[str, Any]]
    best_epoch: int
    stopped: str


class Training:
    """The training loop: epochs of steps, a validation after each, and a state on disk for exact resume."""

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
        self.train = to_like(data.train, torch.empty(0, dtype=torch.float32, device=fabric.device))
        self.steps_per_epoch = num_batches(self.train, config.batch_size)
        total = config.max_epochs * self.steps_per_epoch
        self.bar: ProgressBar
        say = (lambda line: self.bar.note(line)) if show_progress else None
        self.objective = objective if isinstance(objective, ELBO) else None
        self.loss_module = _Loss(CompiledObjective(pair, objective, say=say, strict=config.compile == "always"))
        ensure_compiled_folder()  # which optimizers need, whether anything is compiled or not
        fused = fabric.device.type in ("cpu", "cuda")
        optimizer = torch.optim.Adam(pair.parameters(), lr=config.learning_rate, fused=fused)
        self.compute_loss, self.optimizer = fabric.setup(self.loss_module, optimizer)
        self.parameters = list(pair.parameters())
        self.frozen = [parameter for name in config.frozen for parameter in pair.get_submodule(name).parameters()]
        self.dtype = self.parameters[0].dtype  # as Fabric has made it
        self.valid = to_like(data.valid, self.parameters[0])
        self.progress = _Progress()
        self.draws = Draws(fabric.device)
        self.best: dict[str, Tensor] = {}
        self.history: list[dict[str, Any]] = []
        saved = folder.load_state() if folder is not None and resume else None
        self.saved_step = -1 if saved is None else saved.progress["step"]
        if folder is not None and saved is not None:
            self.load(saved, folder)
            self.history = folder.history_before(self.progress.epoch)
        if config.compile != "auto":
            self.progress.compile = config.compile == "always"
        elif self.progress.compile is None:  # a resumed run computes as before, even with more epochs
            self.progress.compile = total >= STEPS_THAT_PAY
        if not self.best:  # before the first validation, a training that diverges leaves these weights
            self.best = self.copy_of_pair()
        self.bar = ProgressBar(total, self.progress.step, enabled=show_progress and fabric.is_global_zero)
        if resume and saved is None:
            self.bar.note("there is no state to resume: starting from the beginning")
        self.board = None
        if self.writer is not None and config.tensorboard:
            self.board = summary_writer()(str(self.writer.inside("tensorboard")))
        self.last_saved = time.monotonic()

    def load(self, saved: ResumeState, folder: RunFolder) -> None:
        """Load a saved state, after it has been compared with this training.

        :raises CheckpointError: if the state does not fit this training; then nothing is loaded
        :raises ValueError: if the state has more epochs than this training
        """
        source, config = str(folder.path / "last"), self.config
        progress = _Progress(**saved.progress)
        given = dataclasses.asdict(progress)
        check_progress(source, given, len(self.train), config.batch_size, self.steps_per_epoch)
        if progress.epoch > config.max_epochs:
            raise ValueError(
                f"max_epochs is {config.max_epochs}, but the run in {folder.path} has trained {progress.epoch} epochs: "
                f"give at least {progress.epoch}, or train again in another --out"
            )
        fresh, is_healthy = checkpoint.module_state(self.pair), not progress.diverged
        fitting = checkpoint.fit_to_module(self.pair, saved.pair, str(folder.path), exact=True)
        if saved.best:
            best = checkpoint.fit_to_module(self.pair, saved.best, str(folder.path), exact=True)
            check_finite(source, _under("best/", best), _under("best/", fresh))
        own_groups = self.optimizer.state_dict()["param_groups"]
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        frozen = self.frozen if progress.step <= config.frozen_epochs * self.steps_per_epoch else ()
        groups = check_optimizer(
            source, saved.optimizer, own_groups, parameters, progress.step, finite=is_healthy, frozen=frozen
        )
        if is_healthy:
            check_finite(source, _under("objective/", saved.objective))
        if is_healthy and (what := became_infinite(fitting, fresh)):
            # killed between the step that diverged and the one that would have found it
            progress.diverged = f"{what} before step {progress.step} (epoch {progress.epoch})"
        if self.objective is not None:
            self.objective.load_state(saved.objective, self.fabric.device)
        elif saved.objective:
            raise CheckpointError(f"{source} has tensors of an objective, but this objective has none", RESTORE)
        self.progress = progress
        if not config.patience or progress.wait < config.patience:  # the patience may be larger now
            progress.stopped = ""
        self.best = saved.best
        checkpoint.load_module_state(self.pair, saved.pair, str(folder.path))
        self.optimizer.load_state_dict({"state": saved.optimizer["state"], "param_groups": groups})

    def run(self) -> History:
        """Train to the end, and leave the best weights in the pair.

        :raises TrainingDiverged: if the training diverges, or diverged before it was resumed
        :raises WriteError: if a file of the run cannot be written; the last state is then unchanged
        """
        try:
            return self.train_to_the_end()
        except WriteError as error:
            then = "nothing of the training is saved yet"
            if self.saved_step >= 0:
                then = f"then resume the run, whose last state is from step {self.saved_step}"
            failed = error.and_then(then)
            failed.history = self.done()
            raise failed from None

    def train_to_the_end(self) -> History:
        """Train the remaining epochs, and save the result."""
        progress, config = self.progress, self.config
        if self.writer is not None:  # what came after the saved state is trained again
            self.writer.rewrite_history(self.history)
        self.is_outermost = not LOCK.is_owned
        with own_generators(self.fabric.device), own_store(), stop_signals() as self.signals, self.bar:
            if progress.diverged:  # the same steps would end the same way
                checkpoint.load_module_state(self.pair, self.best, "training")
                raise self.outcome(f"the run in {cast(RunFolder, self.folder).path} has already diverged: ")
            while progress.epoch < config.max_epochs and not progress.stopped:
                began = time.monotonic()
                self.train_epoch()
                self.end_epoch(seconds=time.monotonic() - began)
                if progress.stopped or progress.epoch == config.max_epochs or self.save_is_due():
                    self.save()
            checkpoint.load_module_state(self.pair, self.best, "training")
            if self.pair.aggregate_c is not None:
                shown = Part(_binarised(self.train, self.data, config), self.train.condition)
                shown = to_like(shown, next(self.pair.parameters()))
                self.guarded(lambda: self.set_aggregate(shown))
            if self.writer is not None:
                self.save_pair(self.writer)
        if self.board is not None:
            self.board.close()
        return self.done()

    def done(self) -> History:
        """Return the history of the training so far."""
        return History(self.history, self.progress.best_epoch, self.progress.stopped or "max_epochs")

    def save_pair(self, writer: RunFolder) -> None:
        """Write the pair, and store the checksum of the save in it."""
        self.pair.saved_digest = writer.save_pair(checkpoint.module_state(self.pair), self.pair.recipe)

    def train_epoch(self) -> None:
        """Run the remaining steps of one epoch."""
        progress, config, world_size = self.progress, self.config, self.fabric.world_size
        learning_rate = config.learning_rate * _schedule(config.schedule, progress.epoch / config.max_epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        for module in self.pair.modules():
            if (start_epoch := getattr(module, "start_epoch", None)) is not None:
                start_epoch(progress.epoch)
        # a seed for each step makes the noise a function of the step: nothing to store, exact to resume
        left = range(progress.step, progress.step + self.steps_per_epoch - progress.step_in_epoch)
        # made at once: between steps one would take ten times as long
        seeds = [_seed_of(config.seed, TRAINING, step) for step in left]
        found = batches(
            self.train,
            config.batch_size,
            seed=config.seed,
            epoch=progress.epoch,
            binarise=self.data.binarise,
            rank=self.fabric.global_rank,
            world_size=world_size,
            start=progress.step_in_epoch,
            augment=self.data.augment,
        )
        for seed, (x, condition) in zip(seeds, found, strict=True):
            self.seed(seed)
            batch_size = min(config.batch_size, len(self.train) - progress.step_in_epoch * config.batch_size)
            try:
                self.train_step(x, condition, batch_size, seed)
            except TrainingDiverged as error:
                self.diverged(error)
            progress.step += 1
            progress.step_in_epoch += 1
            self.bar.step(progress.step, progress.epoch, progress.means().get("loss"))
            self.stop_if_asked()
            if self.save_is_due() and progress.step_in_epoch < self.steps_per_epoch:
                self.save()
            self.give_way()

    def give_way(self) -> None:
        """Let a waiting thread run its programs, if there is one."""
        if self.is_outermost:  # a context around the training holds the lock for a purpose of its own
            LOCK.give_way()

    def train_step(self, x: Tensor, condition: Tensor | None, batch_size: int, seed: int) -> None:
        """Run one step on this process's share of a batch of ``batch_size``, after the generators were seeded."""
        progress, config = self.progress, self.config
        self.loss_module.kl_weight = _kl_weight(config, progress.step, self.steps_per_epoch)
        if self.objective is not None:
            self.objective.begin_step(progress.step)
        # a last, smaller batch comes once an epoch, too seldom for a graph of its own
        self.loss_module.compiled = bool(self.progress.compile) and batch_size == min(
            config.batch_size, len(self.train)
        )
        # each process averages over its own share, and Fabric then over processes
        self.loss_module.share = len(x) * self.fabric.world_size / batch_size
        if not len(x):  # a last batch with less than one datum for each process: this one takes part with weight 0
            first = self.train.take(slice(1))
            x, condition = first.x[:], None if first.condition is None else first.condition[:]
            x = x.round() if self.data.binarise else x
        x = x.to(self.dtype)
        condition = condition_like(condition, x)
        loss, parts, total_norm = self.backward(x, condition, batch_size, seed)
        self.check_draws(x, condition, batch_size, seed)
        if progress.step < config.frozen_epochs * self.steps_per_epoch:
            for parameter in self.frozen:
                parameter.grad = None  # Adam passes it over, and remembers nothing of it
            total_norm = None
        norm = _clip(self.pair, self.parameters, config.clip_norm, total_norm)
        self.optimizer.step()
        values = {"loss": loss.detach(), **parts}
        if self.fabric.world_size > 1:  # what is remembered, and saved, is of the whole batch
            values = {key: self.all_reduce(value, "mean") for key, value in values.items()}
        if self.objective is not None:
            self.objective.observe(values)
            self.objective.end_step()
        progress.add({key: value.item() for key, value in values.items()}, batch_size, norm)

    def check_draws(self, x: Tensor, condition: Tensor | None, batch_size: int, seed: int) -> None:
        """Refuse a step during which another thread drew from the generators.

        :raises ValueError: if another thread drew numbers
        """
        if self.fabric.world_size > 1:  # these processes run no other threads of the user
            return

        def again() -> int:
            self.seed(seed)
            with torch.no_grad(), self.fabric.autocast(), same_buffers(self.pair):
                self.loss_module.objective.eager(x, condition, self.loss_module.kl_weight)
            return self.draws.position()

        self.draws.check(batch_size, self.draws.position(), again, f"step {self.progress.step}")

    def backward(
        self, x: Tensor, condition: Tensor | None, batch_size: int, seed: int
    ) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
        """Compute loss, parts and gradients. Return loss, parts, and the norm of the gradients if it is known."""
        norm: Tensor | None = None
        error: Exception | None = None
        in_one = self.loss_module.in_one and self.fabric.world_size == 1
        if not in_one:
            self.optimizer.zero_grad()
        try:
            if in_one:
                with self.fabric.autocast():
                    loss, parts, norm = self.loss_module.backward(x, condition)
            else:
                with self.noise_of(batch_size):
                    loss, parts = self.compute_loss(_Batch(x, condition))
            _check_finite(loss, parts)
        except Exception as caught:
            self.optimizer.zero_grad()
            error = self.judged(caught, lambda: self.step_again(x, condition, batch_size, seed))
        self.raise_together(error)
        if not in_one:
            try:
                self.fabric.backward(loss)
            except Exception as caught:
                error = self.judged(caught, lambda: self.step_again(x, condition, batch_size, seed))
            if error is not None:  # not together: the other processes wait for this one's gradients
                raise error
        return loss, parts, norm

    def step_again(self, x: Tensor, condition: Tensor | None, batch_size: int, seed: int) -> None:
        """Compute the loss and gradients of the step again, eagerly.

        :raises TrainingDiverged: if they are not finite
        """
        self.seed(seed)
        objective, weight = self.loss_module.objective, self.loss_module.kl_weight
        with torch.enable_grad(), self.fabric.autocast(), self.noise_of(batch_size):
            parts = objective.eager(x, condition, weight)
        loss = parts.pop("loss")
        _check_finite(loss, parts)
        named = {name: value for name, value in self.pair.named_parameters() if value.requires_grad}
        gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        for name, gradient in zip(named, gradients, strict=True):
            if gradient is not None and (what := became_infinite({name: gradient}, {})):
                raise TrainingDiverged(f"the gradient of {what}")

    def seed(self, seed: int) -> None:
        """Seed the generators that programs use; :func:`torch.manual_seed` takes 90 times as long."""
        device = self.fabric.device
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        elif device.type == "mps":
            torch.mps.manual_seed(seed)

    def noise_of(self, batch_size: int) -> AbstractContextManager:
        """Return a context in which several processes draw noise for the whole batch, and each keeps its own rows."""
        rank, world_size = self.fabric.global_rank, self.fabric.world_size
        return SharedNoise(batch_size, rank * batch_size // world_size) if world_size > 1 else nullcontext()

    def all_reduce(self, value: Tensor, how: str) -> Tensor:
        """Return the mean, sum or maximum of a value over the processes."""
        return cast(Tensor, self.fabric.all_reduce(value.to(self.fabric.device), reduce_op=how)).cpu()

    def raise_together(self, error: Exception | None) -> None:
        """Raise an error of one process in all processes, so that none waits for the gradients of another."""
        if self.fabric.world_size > 1:
            number = 0 if error is None else self.fabric.global_rank + 1
            number = int(self.all_reduce(torch.tensor(float(number), device="cpu"), "max"))
            if number:
                own = (isinstance(error, TrainingDiverged), type(error).__name__, str(error))
                diverged, kind, text = self.fabric.broadcast(own, src=number - 1)
                if error is None and diverged:
                    error = TrainingDiverged(text)
                elif error is None:
                    error = RuntimeError(f"process {number - 1} raised {kind}: {text}")
        if error is not None:
            raise error

    def judged(self, error: Exception, again: Callable[[], object]) -> Exception:
        """Return a :class:`TrainingDiverged` if an error is caused by a divergence, otherwise the error itself.

        :param error: the error that was raised
        :param again: repeats the computation that raised it
        """
        try:
            if not isinstance(error, TrainingDiverged):
                self.check_tensors(checkpoint.module_state(self.pair))
            found = cause(error, again, first_step=not self.progress.step)
        except TrainingDiverged as diverged:
            found = diverged
        except Exception:  # the original error is more helpful than this one
            found = None
        if found is None or found is error:
            return of_network(error, self.pair)
        found.__cause__ = error
        return found

    def check_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Compare tensors of the pair with the best weights.

        :raises TrainingDiverged: if a tensor is NaN or infinite where the best weights are finite
        """
        if what := became_infinite(tensors, self.best):
            raise TrainingDiverged(what)

    def guarded(self, compute: Callable[[], Any], again: Callable[[], object] | None = None) -> Any:
        """Return what ``compute`` returns. If it raises in one process, all processes raise.

        :param compute: the computation, which is called once
        :param again: the same computation, but raises :class:`TrainingDiverged` if the result is not finite; by default
            ``compute``
        :raises TrainingDiverged: if the training has diverged, after :meth:`diverged` has restored pair and folder
        """
        result, error = None, None
        try:
            result = compute()
        except Exception as caught:
            error = self.judged(caught, again or compute)
        try:
            self.raise_together(error)
        except TrainingDiverged as diverged:
            self.diverged(diverged)
        return result

    def end_epoch(self, seconds: float) -> None:
        """Validate, remember the best weights, update the patience and write the record of the epoch."""
        progress, config = self.progress, self.config
        self.guarded(self.check_parameters)
        if self.data.augment is not None:
            self.guarded(self.calibrate)
        valid = self.validate()
        try:
            _check_bound("validation", valid["bound"])
        except TrainingDiverged as error:
            self.diverged(error)
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
        is_better = valid["bound"] > progress.best_bound
        if is_better:
            progress.best_bound, progress.wait = valid["bound"], 0
        if is_better or config.keep == "last":
            progress.best_epoch = progress.epoch
            self.best = self.copy_of_pair()
        if progress.epoch < max(config.warmup_epochs, config.frozen_epochs):
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

    def copy_of_pair(self) -> dict[str, Tensor]:
        """Copy the pair's tensors."""
        return {key: value.clone() for key, value in checkpoint.module_state(self.pair).items()}

    def check_parameters(self) -> None:
        """Check the parameters after the last step of an epoch.

        :raises TrainingDiverged: if a trained parameter has become NaN or infinite
        """
        named = {name: value.detach() for name, value in self.pair.named_parameters() if value.requires_grad}
        # one number suffices, unless finite values have an infinite norm
        if not nn.utils.get_total_norm(list(named.values())).isfinite():
            self.check_tensors(named)

    @torch.no_grad()
    def set_aggregate(self, shown: Part) -> None:
        """Set the pair's aggregate posterior over the training data.

        :raises TrainingDiverged: if it is not finite
        """
        self.pair.set_aggregate(shown.x, shown.condition)
        if what := became_infinite({"aggregate_c": cast(Tensor, self.pair.aggregate_c)}, {}):
            raise TrainingDiverged(what)

    @torch.no_grad()
    def calibrate(self) -> None:
        """Show training data as they are, not augmented, to modules with running estimates, which forget others."""
        restarts = [module.recalibrate for module in self.pair.modules() if hasattr(module, "recalibrate")]
        if not restarts:
            return
        for restart in restarts:
            cast(Any, restart)()
        self.seed(_seed_of(self.config.seed, CALIBRATION, self.progress.epoch))
        part, elbo = self.train.take(slice(NUM_CALIBRATED)), ELBO()
        for x, condition in batches(part, VALIDATION_BATCH_SIZE, seed=0, epoch=0, shuffle=False):
            terms = elbo.terms(self.pair.model, self.pair.guide, x, condition)
            _check_bound("calibration", terms.bound.sum().item())

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return the means of the bound at weight 1 and of its parts over the validation part, always at the same
        noise.

        If the guide marks a category with ``num_enumerated``, the bound is the estimate of the training, which does not
        sum over all categories. :func:`~pyro_priors.metrics.evaluate` computes the full sum.
        """

        def again() -> None:
            _check_bound("validation", self.validation_sums()["bound"].item())

        sums = self.guarded(self.validation_sums, again)
        if self.fabric.world_size > 1:
            sums = {name: self.all_reduce(value, "sum") for name, value in sums.items()}
        return {name: value.item() / len(self.valid) for name, value in sums.items()}

    def validation_sums(self) -> dict[str, Tensor]:
        """Sum the bound and its parts over this process's share of the validation data."""
        rank, world_size = self.fabric.global_rank, self.fabric.world_size
        self.seed(_seed_of(self.config.seed, VALIDATION, 0))
        elbo = ELBO()
        sums: dict[str, Tensor] = {}
        self.pair.eval()
        size = max(min(VALIDATION_BATCH_SIZE, self.pair.batch_at_once), world_size)
        found = batches(self.valid, size, seed=0, epoch=0, shuffle=False, rank=rank, world_size=world_size)
        try:
            for step, (x, condition) in enumerate(found):
                if len(x):
                    num = min(size, len(self.valid) - step * size)
                    compute = partial(elbo.terms, self.pair.model, self.pair.guide, x, condition)
                    with self.noise_of(num):
                        if world_size > 1:
                            terms = compute()
                        else:
                            terms = self.draws.alone(("validation", num), compute, "a validation")
                    for name, value in {"bound": terms.bound, **terms.parts}.items():
                        sums[name] = sums.get(name, 0.0) + value.cpu().double().sum()
                self.give_way()
        finally:
            self.pair.train()
        return sums

    def save_is_due(self) -> bool:
        """Return whether it is time to save the state again."""
        return time.monotonic() - self.last_saved >= self.config.checkpoint_seconds

    def save(self) -> None:
        """Save the state from which :meth:`run` resumes."""
        if self.writer is not None:
            tensors = checkpoint.module_state(self.pair)
            record = dataclasses.asdict(self.progress)
            own = {} if self.objective is None else self.objective.state()
            self.writer.save_state(ResumeState(record, tensors, self.best, self.optimizer.state_dict(), own))
            self.saved_step = self.progress.step
        self.last_saved = time.monotonic()

    def stop_if_asked(self) -> None:
        """After SIGINT or SIGTERM, save the state and raise KeyboardInterrupt or SystemExit."""
        number = self.signals.received
        if self.fabric.world_size > 1:  # all processes must leave at the same step
            number = int(self.all_reduce(torch.tensor(float(number), device="cpu"), "max"))
        if number:
            self.save()
            hint = "" if self.folder is None else f"; its state is in {self.folder.path}: continue with --resume"
            self.bar.note(f"stopped by {signal.Signals(number).name} at step {self.progress.step}{hint}")
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    def diverged(self, error: TrainingDiverged) -> NoReturn:
        """Restore the best weights in pair and folder, record the divergence in the state, and raise it.

        :raises TrainingDiverged: always
        """
        progress = self.progress
        progress.diverged = f"{error} at step {progress.step} (epoch {progress.epoch})"
        checkpoint.load_module_state(self.pair, self.best, "training")
        if self.writer is not None:
            try:
                self.save_pair(self.writer)
                self.save()
            except WriteError as failed:
                raise self.outcome(not_saved=str(failed)) from error
        raise self.outcome() from error

    def outcome(self, before: str = "", not_saved: str = "") -> TrainingDiverged:
        """Describe a training that has diverged: how, where, and which weights the pair has now."""
        kept = "the pair has its initial weights"
        if self.progress.best_epoch >= 0:
            kept = f"the pair has the {self.config.keep} weights, from epoch {self.progress.best_epoch}"
        remedy = "a smaller learning_rate or clip_norm=1 may help"
        if not_saved:
            kept += f", which are not saved ({not_saved})"
        elif self.folder is not None:
            kept += f", saved in {self.folder.path / 'pair'}"
            remedy += ", in another folder"
        return TrainingDiverged(f"{before}{self.progress.diverged}: {kept}; {remedy}")


class _Batch:
    """A batch whose tensors Fabric does not see. In mixed precision Fabric would round the data to bfloat16, where
    200/255
    is no longer a gray level. Only the matrix products are cast."""

    def __init__(self, x: Tensor, condition: Tensor | None) -> None:
        self.x, self.condition = x, condition


class _Loss(nn.Module):
    """The objective as a module from batch to loss, which Fabric can wrap."""

    def __init__(self, objective: CompiledObjective) -> None:
        super().__init__()
        self.objective = objective
        self.compiled = False
        self.kl_weight: Weight = 1.0
        self.share = 1.0

    def forward(self, batch: _Batch) -> tuple[Tensor, dict[str, Tensor]]:
        compute = self.objective.outputs if self.compiled else self.objective.eager
        outputs = compute(batch.x, batch.condition, self.kl_weight)
        factor = self.share
        if not isinstance(self.objective.objective, ELBO):  # Pyro's own sum over the batch
            factor /= len(batch.x)
        if factor != 1:
            outputs = {name: value * factor for name, value in outputs.items()}
        return outputs.pop("loss"), outputs

    @property
    def in_one(self) -> bool:
        """Whether :meth:`backward` can be used: the step is compiled, and the loss only needs differentiation."""
        return self.compiled and self.share == 1 and isinstance(self.objective.objective, ELBO)

    def backward(self, x: Tensor, condition: Tensor | None) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Compute the gradients of the parameters. Return the loss, its parts, and the norm of the gradients."""
        outputs = self.objective.outputs(x, condition, self.kl_weight, backward=True)
        return outputs.pop("loss"), outputs, outputs.pop(GRADIENT_NORM)


@dataclass
class _Progress:
    """The progress of a training: what the loop must remember between two steps, besides tensors."""

    epoch: int = 0
    step: int = 0
    step_in_epoch: int = 0
    best_bound: float = -math.inf
    best_epoch: int = -1
    wait: int = 0
    stopped: str = ""
    diverged: str = ""
    compile: bool | None = None
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


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def to_like(part: Part, like: Tensor) -> Part:
    """Return x and condition of a part on the device and in the precision of another tensor."""
    return Part(part.x.to(like), condition_like(part.condition, like))


def _seed_of(seed: int, purpose: int, step: int) -> int:
    return int(np.random.SeedSequence((seed, purpose, step)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _schedule(name: str, done: float) -> float:
    """Return the factor of the learning rate after a fraction ``done`` of the epochs."""
    return {"constant": 1.0, "linear": 1.0 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[name]


def _kl_weight(config: TrainConfig, step: int, steps_per_epoch: int) -> float | dict[str, float]:
    warmup_steps = config.warmup_epochs * steps_per_epoch
    weight = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    return dict.fromkeys(config.warmup_sites, weight) if config.warmup_sites else weight


def _check_bound(of: str, bound: float) -> None:
    if not math.isfinite(bound):
        raise TrainingDiverged(f"the {of} bound became {bound}")


def _check_finite(loss: Tensor, parts: dict[str, Tensor]) -> None:
    if not math.isfinite(loss.item()):
        names = [name for name, value in parts.items() if not torch.isfinite(value)]
        where = f" by its {names[0]}" if names else ""
        if names and (names[0] == "reconstruction" or names[0].startswith("kl_")):
            where = f" at site '{'x' if names[0] == 'reconstruction' else names[0].removeprefix('kl_')}'"
        raise TrainingDiverged(f"the loss became {loss.item()}{where}")


def _clip(pair: Pair, parameters: list[nn.Parameter], clip_norm: float, total: Tensor | None) -> float:
    """Clip the gradients to a norm (0: do not clip). Return their norm before, which is ``total`` if that is known."""
    if total is None:
        total = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    norm = total.item()
    if not math.isfinite(norm):
        bad = [key for key, p in pair.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
        where = f" of '{bad[0]}'" if bad else "'s norm"  # finite numbers can have an infinite norm
        raise TrainingDiverged(f"the gradient{where} became {norm}")
    if clip_norm:
        nn.utils.clip_grads_with_norm_(parameters, clip_norm, total)
    return norm


def _binarised(train: Part, data: Splits, config: TrainConfig) -> Tensor:
    """Return the training data as the model sees them in one epoch."""
    if not data.binarise:
        return train.x
    return torch.cat([x for x, _ in batches(train, 1000, seed=config.seed, epoch=0, binarise=True, shuffle=False)])


def summary_writer() -> Any:
    """Return TensorBoard's writer class, or raise an error that says how to install it."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError(
            "tensorboard=True needs the package tensorboard: pip install pyro-priors[tensorboard]"
        ) from None
    return SummaryWriter
