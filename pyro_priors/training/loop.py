"""The training loop, visible from the first step to the last."""

from __future__ import annotations

import dataclasses
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, cast

import torch
from pyro import infer
from torch import Tensor

from .. import module_state
from .._files import WriteError
from .._lock import LOCK, own_store
from ..data import Part, Splits, batches, num_batches
from ..divergence import TrainingDiverged
from ..objectives import ELBO
from ..pair import Pair
from ..progress import ProgressBar
from ..rng import Draws, own_generators
from ..run_folder import ResumeState, RunFolder
from .arrays import binarized, to_like
from .callbacks import Callbacks, TrainingState
from .checks import summary_writer
from .collapse import STEPS_BEFORE
from .optimizers import Factory
from .progress import History, Progress
from .restore import restore
from .schedules import TRAINING, kl_weight, rate_factor, seed_of
from .signals import stop_signals
from .step import Step
from .validation import Validation, check_bound
from .worker import Worker

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from .config import TrainConfig

__all__ = ["Training"]

STEPS_THAT_PAY = 5000
"""Minimum number of steps for which ``compile="auto"`` compiles; for fewer, compiling takes longer than it saves. The
choice depends on no measurement and is stored, so that a run computes the same wherever it is interrupted."""


class Training:
    """The training loop: epochs of steps, a validation after each, and a state on disk for exact resume.

    :param fabric: Lightning's, which knows the device and the other processes
    :param pair: the pair, which is trained in place
    :param data: the data
    :param objective: the objective
    :param config: the options
    :param folder: the run folder; None if nothing is to be written
    :param resume: resume the run in the folder
    :param show_progress: show a progress bar or lines
    :param factory: makes the optimizer; None for the default
    :param callbacks: the callbacks
    """

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
        factory: Factory | None = None,
        callbacks: Sequence[Any] = (),
    ) -> None:
        self.fabric, self.pair, self.data, self.config, self.folder = fabric, pair, data, config, folder
        self.writer = folder if fabric.is_global_zero else None
        self.train = to_like(data.train, torch.empty(0, dtype=torch.float32, device=fabric.device))
        self.steps_per_epoch = num_batches(self.train, config.batch_size)
        total = config.max_epochs * self.steps_per_epoch
        self.bar: ProgressBar
        say = (lambda line: self.bar.note(line)) if show_progress else None
        self.objective = objective if isinstance(objective, ELBO) else None
        self.worker, draws = Worker(fabric, pair), Draws(fabric.device)
        given = self.train, data.binarise, self.steps_per_epoch, draws
        self.step = Step(self.worker, objective, config, *given, factory=factory, say=say)
        valid = to_like(data.valid, self.step.parameters[0])
        self.validation = Validation(self.worker, config, self.train, valid, draws, self.give_way)
        self.was_warned = False
        self.history: list[dict[str, Any]] = []
        self.state = TrainingState(pair, config.max_epochs, self.steps_per_epoch)
        self.callbacks = Callbacks(callbacks, self.state)
        saved = folder.load_state() if folder is not None and resume else None
        self.saved_step = -1 if saved is None else saved.progress["step"]
        if folder is not None and saved is not None:
            restore(saved, folder, self.step, self.callbacks)
            self.history = folder.history_before(self.progress.epoch)
        if config.compile != "auto":
            self.progress.compile = config.compile == "always"
        elif self.progress.compile is None:  # a resumed run computes as before, even with more epochs
            self.progress.compile = total >= STEPS_THAT_PAY
        if not self.worker.best:  # before the first validation, a training that diverges leaves these weights
            self.worker.best = self.copy_of_pair()
        self.bar = ProgressBar(total, self.progress.step, enabled=show_progress and fabric.is_global_zero)
        if resume and saved is None:
            self.bar.note("there is no state to resume: starting from the beginning")
        self.board = None
        if self.writer is not None and config.tensorboard:
            self.board = summary_writer()(str(self.writer.inside("tensorboard")))
        self.last_saved = time.monotonic()

    @property
    def progress(self) -> Progress:
        """How far the training is."""
        return self.worker.progress

    # from the beginning to the end

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
            failed.history = self.done("a file that cannot be written")
            raise failed from None

    def train_to_the_end(self) -> History:
        """Train the remaining epochs, and save the result."""
        progress, config = self.progress, self.config
        if self.writer is not None:  # what came after the saved state is trained again
            self.writer.rewrite_history(self.history)
        self.is_outermost = not LOCK.is_owned
        with own_generators(self.fabric.device), own_store(), stop_signals() as self.signals, self.bar:
            if progress.diverged:  # the same steps would end the same way
                module_state.load_module_state(self.pair, self.worker.best, "training")
                raise self.outcome(f"the run in {cast(RunFolder, self.folder).path} has already diverged: ")
            while progress.epoch < config.max_epochs and not progress.stopped:
                began = time.monotonic()
                self.train_epoch()
                self.end_epoch(seconds=time.monotonic() - began)
                is_over = bool(progress.stopped) or progress.epoch == config.max_epochs
                if is_over or self.save_is_due():
                    self.save(progress.reason if is_over else "")
            module_state.load_module_state(self.pair, self.worker.best, "training")
            if self.pair.aggregate_c is not None:
                shown = Part(binarized(self.train, self.data, config.seed), self.train.condition)
                shown = to_like(shown, next(self.pair.parameters()))
                self.guarded(lambda: self.validation.set_aggregate(shown))
            if self.writer is not None:
                self.save_pair(self.writer)
        if self.board is not None:
            self.board.close()
        return self.done(progress.reason)

    def done(self, stopped: str) -> History:
        """Return the history of the training so far."""
        return History(self.history, self.progress.best_epoch, stopped)

    # an epoch

    def train_epoch(self) -> None:
        """Run the remaining steps of one epoch."""
        progress, config = self.progress, self.config
        self.step.set_rates(rate_factor(config.schedule, progress.epoch / config.max_epochs))
        for module in self.pair.modules():
            if (start_epoch := getattr(module, "start_epoch", None)) is not None:
                start_epoch(progress.epoch)
        # a seed for each step makes the noise a function of the step: nothing to store, exact to resume
        left = range(progress.step, progress.step + self.steps_per_epoch - progress.step_in_epoch)
        # made at once: between steps one would take ten times as long
        seeds = [seed_of(config.seed, TRAINING, step) for step in left]
        found = batches(
            self.train,
            config.batch_size,
            seed=config.seed,
            epoch=progress.epoch,
            binarise=self.data.binarise,
            rank=self.fabric.global_rank,
            world_size=self.fabric.world_size,
            start=progress.step_in_epoch,
            augment=self.data.augment,
        )
        for seed, (x, condition) in zip(seeds, found, strict=True):
            self.worker.seed(seed)
            batch_size = min(config.batch_size, len(self.train) - progress.step_in_epoch * config.batch_size)
            try:
                self.train_step(x, condition, batch_size, seed)
            except TrainingDiverged as error:
                self.diverged(error)
            progress.step += 1
            progress.step_in_epoch += 1
            self.bar.step(progress.step, progress.epoch, progress.means().get("loss"))
            if self.callbacks.see_steps:
                self.call_back("on_step_end", self.state)
                if progress.stopped:  # the epoch ends here
                    return
            self.stop_if_asked()
            if self.save_is_due() and progress.step_in_epoch < self.steps_per_epoch:
                self.save()
            self.give_way()

    def train_step(self, x: Tensor, condition: Tensor | None, batch_size: int, seed: int) -> None:
        """Run one step on this process's share of a batch of ``batch_size``, after the generators were seeded."""
        values, norm = self.step.take(x, condition, batch_size, seed)
        self.progress.add(values, batch_size, norm)
        parts = {name: value for name, value in values.items() if name != "loss"}
        self.state.epoch, self.state.step = self.progress.epoch, self.progress.step + 1
        self.state.loss, self.state.parts, self.state.gradient_norm = values["loss"], parts, norm
        self.state.learning_rate = self.step.learning_rate

    def give_way(self) -> None:
        """Let a waiting thread run its programs, if there is one."""
        if self.is_outermost:  # a context around the training holds the lock for a purpose of its own
            LOCK.give_way()

    def end_epoch(self, seconds: float) -> None:
        """Validate, remember the best weights, update the patience and write the record of the epoch."""
        progress, config = self.progress, self.config
        self.guarded(self.validation.check_parameters)
        if self.data.augment is not None:
            self.guarded(self.validation.calibrate)
        valid = self.validate()
        try:
            check_bound("validation", valid["bound"])
        except TrainingDiverged as error:
            self.diverged(error)
        record = {
            "epoch": progress.epoch,
            "step": progress.step,
            "kl_weight": kl_weight(config, progress.step - 1, self.steps_per_epoch),
            "learning_rate": self.step.learning_rate,
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
            self.worker.best = self.copy_of_pair()
        if progress.epoch < max(config.warmup_epochs, config.frozen_epochs):
            progress.wait = 0
        elif config.patience and progress.wait >= config.patience and not progress.stopped:
            progress.stopped = "patience"
        self.history.append(record)
        if self.writer is not None:
            self.writer.append(record)
        if self.board is not None:
            for key, value in record.items():
                if isinstance(value, int | float):
                    self.board.add_scalar(key, value, progress.step)
        self.bar.epoch(record)
        self.warn_of_collapse()
        progress.next_epoch()
        self.call_back("on_epoch_end", dict(record))

    def validate(self) -> dict[str, float]:
        """Return the means of the bound at weight 1 and of its parts over the validation part."""

        def again() -> None:
            check_bound("validation", self.validation.sums()["bound"].item())

        return self.validation.means(self.guarded(self.validation.sums, again))

    def warn_of_collapse(self) -> None:
        """Warn once if the categories of the pair have collapsed, some time after the warm-up has ended."""
        config, progress = self.config, self.progress
        at_full_weight = progress.step - max(config.warmup_epochs, config.frozen_epochs) * self.steps_per_epoch
        if self.was_warned or at_full_weight < STEPS_BEFORE:
            return
        line = self.validation.collapse(progress.epoch)
        if line is not None:
            self.was_warned = True
            if self.fabric.is_global_zero:
                warnings.warn(line, stacklevel=2)

    def call_back(self, hook: str, given: Any) -> None:
        """Call a hook of the callbacks. If one raises, save the state, and pass the error on."""
        try:
            stopped_by = self.callbacks.call(hook, given)
        except BaseException as error:
            try:
                self.save(f"an error of a callback: {type(error).__name__}")
            except Exception as failed:
                error.add_note(f"the state of the training is not saved: {failed}")
            raise
        if stopped_by:
            self.progress.stopped = f"a callback: {stopped_by}"

    # what is kept

    def copy_of_pair(self) -> dict[str, Tensor]:
        """Copy the pair's tensors."""
        return {key: value.clone() for key, value in module_state.tensors_of(self.pair).items()}

    def save_pair(self, writer: RunFolder) -> None:
        """Write the pair, and store the checksum of the save in it."""
        self.pair.saved_digest = writer.save_pair(module_state.tensors_of(self.pair), self.pair.recipe)

    def save_is_due(self) -> bool:
        """Return whether it is time to save the state again."""
        return time.monotonic() - self.last_saved >= self.config.checkpoint_seconds

    def save(self, stopped: str = "") -> None:
        """Save the state from which :meth:`run` resumes.

        :param stopped: why the training stops here, empty if it goes on
        """
        if self.writer is not None:
            state = ResumeState(
                progress=dataclasses.asdict(self.progress),
                pair=module_state.tensors_of(self.pair),
                best=self.worker.best,
                optimizer=self.step.optimizer.state_dict(),
                objective={} if self.objective is None else self.objective.state(),
                callbacks=self.callbacks.tensors(),
                stopped=stopped,
            )
            self.writer.save_state(state)
            self.saved_step = self.progress.step
        self.last_saved = time.monotonic()

    # what ends it early

    def stop_if_asked(self) -> None:
        """After SIGINT or SIGTERM, save the state and raise KeyboardInterrupt or SystemExit."""
        number = self.signals.received
        if self.worker.has_others:  # all processes must leave at the same step
            number = int(self.worker.all_reduce(torch.tensor(float(number), device="cpu"), "max"))
        if number:
            name = signal.Signals(number).name
            self.save(f"signal {name}")
            hint = "" if self.folder is None else f"; its state is in {self.folder.path}: continue with --resume"
            self.bar.note(f"stopped by {name} at step {self.progress.step}{hint}")
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

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
            error = self.worker.judged(caught, again or compute)
        try:
            self.worker.raise_together(error)
        except TrainingDiverged as diverged:
            self.diverged(diverged)
        return result

    def diverged(self, error: TrainingDiverged) -> NoReturn:
        """Restore the best weights in pair and folder, record the divergence in the state, and raise it.

        :raises TrainingDiverged: always
        """
        progress = self.progress
        progress.diverged = f"{error} at step {progress.step} (epoch {progress.epoch})"
        module_state.load_module_state(self.pair, self.worker.best, "training")
        if self.writer is not None:
            try:
                self.save_pair(self.writer)
                self.save("divergence")
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
