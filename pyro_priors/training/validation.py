"""The validation after each epoch, and what else is computed at its end."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
import torch.nn as nn
from torch import Tensor

from ..data import Part, batches
from ..divergence import TrainingDiverged, became_infinite
from ..objectives import ELBO
from ..rng import Draws
from .collapse import CategoryUse
from .config import TrainConfig
from .schedules import CALIBRATION, VALIDATION, seed_of
from .worker import Worker

__all__ = ["Validation", "check_bound"]

VALIDATION_BATCH_SIZE = 500
NUM_CALIBRATED = 2000
"""Maximum number of training data from which the scale is estimated after an epoch with augmented images."""


class Validation:
    """Computes the bound on the validation part, at weight 1 and always at the same noise.

    :param worker: the process
    :param config: options of the training
    :param train: the training part, on the device
    :param valid: the validation part, on the device
    :param draws: detects numbers that other threads draw
    :param give_way: lets a waiting thread run, after each batch
    """

    def __init__(
        self,
        worker: Worker,
        config: TrainConfig,
        train: Part,
        valid: Part,
        draws: Draws,
        give_way: Callable[[], None],
    ) -> None:
        self.worker, self.pair, self.config = worker, worker.pair, config
        self.train, self.valid, self.draws, self.give_way = train, valid, draws, give_way
        self.categories = CategoryUse()

    @torch.no_grad()
    def sums(self) -> dict[str, Tensor]:
        """Sum the bound and its parts over this process's share of the validation data.

        If the guide marks a category with ``num_enumerated``, the bound is the estimate of the training, which does not
        sum over all categories. :func:`~pyro_priors.metrics.evaluate` computes the full sum.
        """
        fabric = self.worker.fabric
        rank, world_size = fabric.global_rank, fabric.world_size
        self.worker.seed(seed_of(self.config.seed, VALIDATION, 0))
        elbo, guide = ELBO(), cast(Any, self.categories(self.pair.guide))
        sums: dict[str, Tensor] = {}
        self.categories.clear()
        self.pair.eval()
        size = max(min(VALIDATION_BATCH_SIZE, self.pair.batch_at_once), world_size)
        found = batches(self.valid, size, seed=0, epoch=0, shuffle=False, rank=rank, world_size=world_size)
        try:
            for step, (x, condition) in enumerate(found):
                if len(x):
                    num = min(size, len(self.valid) - step * size)
                    compute = partial(elbo.terms, self.pair.model, guide, x, condition)
                    with self.worker.noise_of(num):
                        if self.worker.has_others:
                            terms = compute()
                        else:
                            terms = self.draws.alone(("validation", num), compute, "a validation")
                    for name, value in {"bound": terms.bound, **terms.parts}.items():
                        sums[name] = sums.get(name, 0.0) + value.cpu().double().sum()
                    self.categories.add()
                self.give_way()
        finally:
            self.pair.train()
        return sums

    @torch.no_grad()
    def means(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """Return the means over the validation part of what :meth:`sums` has summed in each process."""
        if self.worker.has_others:
            sums = {name: self.worker.all_reduce(value, "sum") for name, value in sums.items()}
        return {name: value.item() / len(self.valid) for name, value in sums.items()}

    @torch.no_grad()
    def collapse(self, epoch: int) -> str | None:
        """Return a warning if the categories have collapsed; see :mod:`pyro_priors.training.collapse`."""
        reduce = partial(self.worker.all_reduce, how="sum") if self.worker.has_others else None
        return self.categories.warning(epoch, hasattr(self.pair.guide, "category"), reduce)

    @torch.no_grad()
    def calibrate(self) -> None:
        """Show training data as they are, not augmented, to modules with running estimates, which forget others."""
        restarts = [module.recalibrate for module in self.pair.modules() if hasattr(module, "recalibrate")]
        if not restarts:
            return
        for restart in restarts:
            cast(Any, restart)()
        self.worker.seed(seed_of(self.config.seed, CALIBRATION, self.worker.progress.epoch))
        part, elbo = self.train.take(slice(NUM_CALIBRATED)), ELBO()
        for x, condition in batches(part, VALIDATION_BATCH_SIZE, seed=0, epoch=0, shuffle=False):
            terms = elbo.terms(self.pair.model, self.pair.guide, x, condition)
            check_bound("calibration", terms.bound.sum().item())

    def check_parameters(self) -> None:
        """Check the parameters after the last step of an epoch.

        :raises TrainingDiverged: if a trained parameter has become NaN or infinite
        """
        named = {name: value.detach() for name, value in self.pair.named_parameters() if value.requires_grad}
        # one number suffices, unless finite values have an infinite norm
        if not nn.utils.get_total_norm(list(named.values())).isfinite():
            self.worker.check_tensors(named)

    @torch.no_grad()
    def set_aggregate(self, shown: Part) -> None:
        """Set the pair's aggregate posterior over the training data.

        :raises TrainingDiverged: if it is not finite
        """
        self.pair.set_aggregate(shown.x, shown.condition)
        if what := became_infinite({"aggregate_c": cast(Tensor, self.pair.aggregate_c)}, {}):
            raise TrainingDiverged(what)


def check_bound(of: str, bound: float) -> None:
    """Refuse a bound that is not finite.

    :raises TrainingDiverged: if it is NaN or infinite
    """
    if not math.isfinite(bound):
        raise TrainingDiverged(f"the {of} bound became {bound}")
