"""A saved state, compared with the training that resumes from it, and loaded into it."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from .. import module_state
from .._files import CheckpointError
from .._reading import RESTORE
from .._resume import check_finite, check_optimizer, check_own_optimizer, check_progress
from ..divergence import became_infinite
from ..errors import UserError
from ..run_folder import ResumeState, RunFolder
from .callbacks import Callbacks
from .optimizers import layout_of
from .progress import Progress
from .step import Step

__all__ = ["restore"]


def restore(saved: ResumeState, folder: RunFolder, step: Step, callbacks: Callbacks) -> None:
    """Load a saved state, after it has been compared with this training.

    :param saved: the state
    :param folder: the run folder, for errors
    :param step: whose pair, optimizer, objective and progress take the state
    :param callbacks: the callbacks, which take their states
    :raises CheckpointError: if the state does not fit this training; then nothing is loaded
    :raises ValueError: if the state has more epochs than this training
    """
    source, config, worker, pair = str(folder.path / "last"), step.config, step.worker, step.pair
    progress = Progress(**saved.progress)
    check_progress(source, dataclasses.asdict(progress), len(step.train), config.batch_size, step.steps_per_epoch)
    if progress.epoch > config.max_epochs:
        raise UserError(
            f"max_epochs is {config.max_epochs}, but the run in {folder.path} has trained {progress.epoch} epochs: "
            f"give at least {progress.epoch}, or train again in another --out"
        )
    fresh, is_healthy = module_state.tensors_of(pair), not progress.diverged
    fitting = module_state.fit_to_module(pair, saved.pair, str(folder.path), exact=True)
    if saved.best:
        best = module_state.fit_to_module(pair, saved.best, str(folder.path), exact=True)
        check_finite(source, _under("best/", best), _under("best/", fresh))
    groups, parameters = step.optimizer.state_dict()["param_groups"], _in_order(step)
    frozen = step.frozen if progress.step <= config.frozen_epochs * step.steps_per_epoch else []
    if step.factory is None:
        moments = saved.optimizer["state"]
        groups = check_optimizer(
            source, saved.optimizer, groups, parameters, progress.step, finite=is_healthy, frozen=frozen
        )
    else:
        layout = layout_of(step.make_optimizer, step.parameters)
        num_steps = progress.step if set(parameters) - set(frozen) else 0
        moments, groups = check_own_optimizer(source, saved.optimizer, groups, layout, num_steps, finite=is_healthy)
    if is_healthy:
        check_finite(source, _under("objective/", saved.objective))
    if is_healthy and (what := became_infinite(fitting, fresh)):
        # killed between the step that diverged and the one that would have found it
        progress.diverged = f"{what} before step {progress.step} (epoch {progress.epoch})"
    if step.objective is not None:
        step.objective.load_state(saved.objective, step.fabric.device)
    elif saved.objective:
        raise CheckpointError(f"{source} has tensors of an objective, but this objective has none", RESTORE)
    if progress.stopped == "patience" and (not config.patience or progress.wait < config.patience):
        progress.stopped = ""  # the patience is larger now
    callbacks.load(saved.callbacks)
    worker.progress, worker.best = progress, saved.best
    module_state.load_module_state(pair, saved.pair, str(folder.path))
    step.optimizer.load_state_dict({"state": moments, "param_groups": groups})
    if step.factory is not None:  # load_state_dict has converted it to the types of the parameters
        for index, values in moments.items():
            step.own_optimizer.state[parameters[index]] = values


def _in_order(step: Step) -> list[Tensor]:
    """Return the parameters in the order of the optimizer."""
    return [parameter for group in step.optimizer.param_groups for parameter in group["params"]]


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
