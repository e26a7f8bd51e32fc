"""One step of a training: loss, gradients, clipping, and the optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
import torch.nn as nn
from pyro import infer
from torch import Tensor

from .._cache import ensure_compiled_folder
from .._precision import condition_like
from ..data import Part
from ..divergence import TrainingDiverged, became_infinite
from ..network_checks import same_buffers
from ..objectives import ELBO
from ..objectives.kl_weight import Weight
from ..pair import Pair
from ..rng import Draws
from ..tracing.function import GRADIENT_NORM
from ..tracing.objective import CompiledObjective
from .config import TrainConfig
from .optimizers import Factory, make_optimizer
from .schedules import kl_weight
from .worker import Worker

__all__ = ["Loss", "Step", "clip"]


class Step:
    """Makes the steps of a training.

    :param worker: the process
    :param objective: the objective
    :param config: options of the training
    :param train: the training part, on the device
    :param binarise: whether its x are gray levels that are binarized in every batch
    :param steps_per_epoch: number of steps in an epoch
    :param draws: detects numbers that other threads draw
    :param factory: makes the optimizer; None for the default
    :param say: takes the line that says why something runs eagerly
    """

    def __init__(
        self,
        worker: Worker,
        objective: infer.ELBO,
        config: TrainConfig,
        train: Part,
        binarise: bool,
        steps_per_epoch: int,
        draws: Draws,
        factory: Factory | None,
        say: Callable[[str], None] | None,
    ) -> None:
        fabric, pair = worker.fabric, worker.pair
        self.worker, self.fabric, self.pair, self.config = worker, fabric, pair, config
        self.train, self.binarise, self.steps_per_epoch, self.draws = train, binarise, steps_per_epoch, draws
        self.objective = objective if isinstance(objective, ELBO) else None
        self.loss = Loss(CompiledObjective(pair, objective, say=say, strict=config.compile == "always"))
        ensure_compiled_folder()  # which optimizers need, whether anything is compiled or not
        self.compute_loss = fabric.setup_module(self.loss)
        self.factory, self.make_optimizer = factory, partial(make_optimizer, factory, pair, config, fabric.device)
        self.own_optimizer = self.make_optimizer()
        self.rates = [float(group["lr"]) for group in self.own_optimizer.param_groups]
        """Learning rate of each group, which the schedule multiplies."""
        self.optimizer = cast(Any, fabric.setup_optimizers(self.own_optimizer))
        """The optimizer as Fabric wraps it."""
        self.parameters = list(pair.parameters())
        self.frozen = [parameter for name in config.frozen for parameter in pair.get_submodule(name).parameters()]
        self.dtype = self.parameters[0].dtype  # as Fabric has made it

    @property
    def learning_rate(self) -> float:
        """The learning rate of the first group."""
        return self.optimizer.param_groups[0]["lr"]

    def set_rates(self, factor: float) -> None:
        """Set the learning rate of each group to a multiple of its first one."""
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor

    def take(self, x: Tensor, condition: Tensor | None, batch_size: int, seed: int) -> tuple[dict[str, float], float]:
        """Make one step on this process's share of a batch, after the generators were seeded.

        :param x: the share, shape ``(n,) + x_shape``
        :param condition: shape ``(n,) + condition_shape``
        :param batch_size: size of the whole batch
        :param seed: what the generators were seeded with
        :returns: loss and parts of the whole batch, and the norm of the gradients before they were clipped
        :raises TrainingDiverged: if the loss or a gradient is NaN or infinite
        """
        config, step = self.config, self.worker.progress.step
        self.loss.kl_weight = kl_weight(config, step, self.steps_per_epoch)
        if self.objective is not None:
            self.objective.begin_step(step)
        # a last, smaller batch comes once an epoch, too seldom for a graph of its own
        is_whole = batch_size == min(config.batch_size, len(self.train))
        self.loss.compiled = bool(self.worker.progress.compile) and is_whole
        # each process averages over its own share, and Fabric then over processes
        self.loss.share = len(x) * self.fabric.world_size / batch_size
        if not len(x):  # a last batch with less than one datum for each process: this one takes part with weight 0
            first = self.train.take(slice(1))
            x, condition = first.x[:], None if first.condition is None else first.condition[:]
            x = x.round() if self.binarise else x
        x = x.to(self.dtype)
        condition = condition_like(condition, x)
        loss, parts, total_norm = self.backward(x, condition, batch_size, seed)
        self.check_draws(x, condition, batch_size, seed)
        if step < config.frozen_epochs * self.steps_per_epoch:
            for parameter in self.frozen:
                parameter.grad = None  # the optimizer passes it over, and remembers nothing of it
            total_norm = None
        norm = clip(self.pair, self.parameters, config.clip_norm, total_norm)
        self.optimizer.step()
        values = {"loss": loss.detach(), **parts}
        if self.worker.has_others:  # what is remembered, and saved, is of the whole batch
            values = {key: self.worker.all_reduce(value, "mean") for key, value in values.items()}
        if self.objective is not None:
            self.objective.observe(values)
            self.objective.end_step()
        return {key: value.item() for key, value in values.items()}, norm

    def backward(
        self, x: Tensor, condition: Tensor | None, batch_size: int, seed: int
    ) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
        """Compute loss, parts and gradients. Return loss, parts, and the norm of the gradients if it is known."""
        worker = self.worker
        norm: Tensor | None = None
        error: Exception | None = None
        in_one = self.loss.in_one and not worker.has_others
        if not in_one:
            self.optimizer.zero_grad()
        try:
            if in_one:
                with self.fabric.autocast():
                    loss, parts, norm = self.loss.backward(x, condition)
            else:
                with worker.noise_of(batch_size):
                    loss, parts = self.compute_loss(_Batch(x, condition))
            _check_finite(loss, parts)
        except Exception as caught:
            self.optimizer.zero_grad()
            error = worker.judged(caught, lambda: self.take_again(x, condition, batch_size, seed))
        worker.raise_together(error)
        if not in_one:
            try:
                self.fabric.backward(loss)
            except Exception as caught:
                error = worker.judged(caught, lambda: self.take_again(x, condition, batch_size, seed))
            if error is not None:  # not together: the other processes wait for this one's gradients
                raise error
        return loss, parts, norm

    def take_again(self, x: Tensor, condition: Tensor | None, batch_size: int, seed: int) -> None:
        """Compute the loss and gradients of the step again, eagerly.

        :raises TrainingDiverged: if they are not finite
        """
        self.worker.seed(seed)
        objective, weight = self.loss.objective, self.loss.kl_weight
        with torch.enable_grad(), self.fabric.autocast(), self.worker.noise_of(batch_size):
            parts = objective.eager(x, condition, weight)
        loss = parts.pop("loss")
        _check_finite(loss, parts)
        named = {name: value for name, value in self.pair.named_parameters() if value.requires_grad}
        gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        for name, gradient in zip(named, gradients, strict=True):
            if gradient is not None and (what := became_infinite({name: gradient}, {})):
                raise TrainingDiverged(f"the gradient of {what}")

    def check_draws(self, x: Tensor, condition: Tensor | None, batch_size: int, seed: int) -> None:
        """Refuse a step during which another thread drew from the generators.

        :raises ValueError: if another thread drew numbers
        """
        if self.worker.has_others:  # these processes run no other threads of the user
            return

        def again() -> int:
            self.worker.seed(seed)
            with torch.no_grad(), self.fabric.autocast(), same_buffers(self.pair):
                self.loss.objective.eager(x, condition, self.loss.kl_weight)
            return self.draws.position()

        self.draws.check(batch_size, self.draws.position(), again, f"step {self.worker.progress.step}")


class _Batch:
    """A batch whose tensors Fabric does not see.

    In mixed precision Fabric would round the data to bfloat16, where 200/255 is no longer a gray level. Only the matrix
    products are cast.
    """

    def __init__(self, x: Tensor, condition: Tensor | None) -> None:
        self.x, self.condition = x, condition


class Loss(nn.Module):
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


def _check_finite(loss: Tensor, parts: dict[str, Tensor]) -> None:
    if not math.isfinite(loss.item()):
        names = [name for name, value in parts.items() if not torch.isfinite(value)]
        where = f" by its {names[0]}" if names else ""
        if names and (names[0] == "reconstruction" or names[0].startswith("kl_")):
            where = f" at site '{'x' if names[0] == 'reconstruction' else names[0].removeprefix('kl_')}'"
        raise TrainingDiverged(f"the loss became {loss.item()}{where}")


def clip(pair: Pair, parameters: list[nn.Parameter], clip_norm: float, total: Tensor | None) -> float:
    """Clip the gradients to a norm (0: do not clip). Return their norm before, which is ``total`` if that is known.

    :raises TrainingDiverged: if the norm is not finite
    """
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
