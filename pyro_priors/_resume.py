"""Checks of a resume state against the training that resumes from it, before any of it is loaded.

An optimizer trusts the shapes of its state: fused Adam writes past the end of a moment that is too small.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from ._files import CheckpointError
from ._reading import RESTORE

__all__ = ["as_tensor", "check_finite", "check_optimizer", "check_own_optimizer", "check_progress", "check_shapes"]

MOMENTS = ("exp_avg", "exp_avg_sq")

DEPENDS_ON_DEVICE = ("capturable", "differentiable", "foreach", "fused")
"""Options that decide how an optimizer computes. They may differ on the machine that resumes the training."""


def _refuse(source: str, what: str) -> NoReturn:
    raise CheckpointError(f"{source} cannot be resumed ({what}): it was altered", RESTORE)


def check_finite(source: str, tensors: Mapping[str, Tensor], like: Mapping[str, Tensor] | None = None) -> None:
    """Refuse tensors with NaN or infinite values.

    :param source: where they come from, for the message
    :param like: tensors of the same names; where these are NaN or infinite, ``tensors`` may be too
    :raises CheckpointError: with the name of the first such tensor
    """
    for name, tensor in tensors.items():
        bad = ~tensor.isfinite()
        if like is not None and name in like:
            bad &= like[name].to(tensor.device).isfinite()
        if bad.any():
            _refuse(source, f"'{name}' contains {tensor[bad][0].item()}")


def check_shapes(state: Mapping[str, Tensor], wanted: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> None:
    """Compare the tensors of an objective's state with what that objective writes.

    :param wanted: shape and type of each tensor, by name
    :raises CheckpointError: if names, shapes or types differ, or a value is NaN or infinite
    """
    source = "the objective"
    if other := sorted(state.keys() ^ wanted.keys()):
        _refuse(source, f"'{other[0][:100]}' is in only one of the state and the objective")
    for name, (shape, dtype) in wanted.items():
        if tuple(state[name].shape) != shape or state[name].dtype is not dtype:
            like = f"of type {str(dtype).removeprefix('torch.')} and shape {shape}"
            _refuse(source, f"'{name}' must be {like}, got {_described(state[name])}")
    check_finite(source, state)


def check_optimizer(
    source: str,
    state: Mapping[str, Any],
    own_groups: Sequence[Mapping[str, Any]],
    parameters: Iterable[Tensor],
    most_steps: int,
    finite: bool = True,
    frozen: Iterable[Tensor] = (),
) -> list[dict[str, Any]]:
    """Compare the state dict of an Adam optimizer with the optimizer into which it will be loaded.

    :param source: where the state comes from, for the message
    :param state: the state dict, with ``state`` and ``param_groups``
    :param own_groups: ``param_groups`` of the newly created optimizer
    :param parameters: the parameters that it optimizes, in its order
    :param most_steps: number of steps that were trained
    :param finite: whether moments must be finite; they need not be if the training has diverged
    :param frozen: parameters that were not trained in any of these steps
    :returns: the optimizer's own groups, with the learning rates of the state
    :raises CheckpointError: if names, shapes, types or values do not fit the optimizer
    """
    parameters = list(parameters)
    untrained = set(frozen)
    trained = [parameter for parameter in parameters if parameter.requires_grad and parameter not in untrained]
    if most_steps and trained and not state["state"]:
        _refuse(source, f"its optimizer state is empty after {most_steps} steps")
    for index, values in state["state"].items():
        if not 0 <= index < len(parameters):
            _refuse(
                source, f"its optimizer has a parameter {index}, but the pair has only {len(parameters)} parameters"
            )
        place, parameter = f"optimizer/{index}", parameters[index]
        if values.keys() != {"step", *MOMENTS}:
            _refuse(source, f"{place} must have step, {' and '.join(MOMENTS)}, got {', '.join(sorted(values))}")
        step = values["step"]
        if step.shape != () or step.dtype not in (torch.float32, torch.float64):
            _refuse(source, f"{place}/step must be a scalar float tensor, got {_described(step)}")
        if not (1 <= step.item() <= most_steps and step.item().is_integer()):
            _refuse(
                source, f"{place}/step must be an integer from 1 to {most_steps}, the steps trained, got {step.item()}"
            )
        for name in MOMENTS:
            moment = values[name]
            if moment.shape != parameter.shape or moment.dtype is not parameter.dtype:
                wanted = f"of {_described(parameter)}, like its parameter"
                _refuse(source, f"{place}/{name} must be {wanted}, got {_described(moment)}")
            if finite:
                check_finite(source, {f"{place}/{name}": moment})
        if finite and bool((values["exp_avg_sq"] < 0).any()):
            _refuse(source, f"{place}/exp_avg_sq has negative values, but it is a mean of squares")
    return _groups(source, state["param_groups"], own_groups)


def as_tensor(value: Tensor | float) -> Tensor:
    """Return a number of an optimizer's state as a tensor that holds it exactly, and a tensor as it is."""
    if isinstance(value, Tensor):
        return value
    return torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None, device="cpu")


def check_own_optimizer(
    source: str,
    state: Mapping[str, Any],
    own_groups: Sequence[Mapping[str, Any]],
    layout: Sequence[Mapping[str, Any]],
    most_steps: int,
    finite: bool = True,
) -> tuple[dict[int, dict[str, Any]], list[dict[str, Any]]]:
    """Compare the state dict of any optimizer with what that optimizer keeps.

    :param source: where the state comes from, for the message
    :param state: the state dict, with ``state`` and ``param_groups``; its values are tensors, also of numbers
    :param own_groups: ``param_groups`` of the newly created optimizer
    :param layout: what the optimizer keeps for each parameter after a step, as values by name
    :param most_steps: number of steps that were trained
    :param finite: whether tensors must be finite; they need not be if the training has diverged
    :returns: the state by parameter, with numbers as the optimizer keeps them, and its groups, with the numbers of the
        state
    :raises CheckpointError: if names, shapes, types or values do not fit the optimizer
    """
    if most_steps and any(layout) and not state["state"]:
        _refuse(source, f"its optimizer state is empty after {most_steps} steps")
    found: dict[int, dict[str, Any]] = {}
    for index, values in state["state"].items():
        if not 0 <= index < len(layout):
            _refuse(source, f"its optimizer has a parameter {index}, but the pair has only {len(layout)} parameters")
        place, kept = f"optimizer/{index}", layout[index]
        names = sorted(name for name, value in kept.items() if value is not None)
        if sorted(values) != names:
            _refuse(source, f"{place} must have {', '.join(names)}, got {', '.join(sorted(values))}")
        found[index] = dict.fromkeys(kept)
        for name in names:
            like, value = kept[name], values[name]
            wanted = as_tensor(like)
            if value.shape != wanted.shape or value.dtype is not wanted.dtype:
                _refuse(source, f"{place}/{name} must be of {_described(wanted)}, got {_described(value)}")
            if finite:
                check_finite(source, {f"{place}/{name}": value})
            found[index][name] = value.to(wanted.device) if isinstance(like, Tensor) else value.item()
    return found, _groups(source, state["param_groups"], own_groups, numbers=True)


def _groups(
    source: str, groups: Any, own_groups: Sequence[Mapping[str, Any]], numbers: bool = False
) -> list[dict[str, Any]]:
    """
    :param numbers: accept and keep other numbers in groups, which some optimizers change in each step
    """
    if len(groups) != len(own_groups):
        _refuse(source, f"param_groups must have {len(own_groups)} entries, got {len(groups)}")
    made = []
    for index, (found, own) in enumerate(zip(groups, own_groups, strict=True)):
        rate = found.get("lr")
        if type(rate) not in (int, float) or not (math.isfinite(rate) and rate >= 0):
            _refuse(source, f"param_groups[{index}].lr must be a finite, non-negative number, got {str(rate)[:80]}")
        changed: dict[str, Any] = {"lr": rate}
        for name in own.keys() & found.keys() - {"lr", *DEPENDS_ON_DEVICE}:
            value = list(own[name]) if isinstance(own[name], tuple) else own[name]
            is_number = type(found[name]) is type(value) and type(value) in (int, float) and math.isfinite(found[name])
            if numbers and is_number:
                changed[name] = found[name]
            elif found[name] != value:
                _refuse(source, f"param_groups[{index}].{name} must be {str(value)[:80]}, got {str(found[name])[:80]}")
        made.append({**own, **changed})
    return made


def check_progress(
    source: str, progress: Mapping[str, Any], num_data: int, batch_size: int, steps_per_epoch: int
) -> None:
    """Refuse counters that are impossible for a training with this number of data and steps.

    :param source: where they come from, for the message
    :param progress: the counters, with the types and ranges of the schema
    :raises CheckpointError: with the name of the first impossible counter
    """
    epoch, in_epoch = progress["epoch"], progress["step_in_epoch"]
    shown = min(in_epoch * batch_size, num_data)
    best, sums = progress["best_bound"], progress["sums"]
    least = most = epoch * steps_per_epoch + in_epoch
    if epoch and progress["stopped"] not in ("", "patience"):  # a callback may have ended the last epoch
        least = most - steps_per_epoch + 1
    for name, holds, wanted in (
        ("step_in_epoch", in_epoch <= steps_per_epoch, f"at most {steps_per_epoch}, the number of steps in an epoch"),
        ("step", least <= progress["step"] <= most, f"{most}" if least == most else f"from {least} to {most}"),
        ("count", progress["count"] == shown, f"{shown}, the number of data in {in_epoch} steps"),
        ("best_epoch", progress["best_epoch"] < max(epoch, 0) or progress["best_epoch"] == -1, f"below {epoch}"),
        (
            "sums",
            bool(sums) == (shown > 0) and all(map(math.isfinite, sums.values())),
            f"finite sums over {shown} data, or empty for none",
        ),
        ("wait", progress["wait"] <= epoch + 1, f"at most {epoch + 1}"),
        ("best_bound", best < math.inf and (best > -math.inf or progress["best_epoch"] < 0), "finite"),
    ):
        if not holds:
            _refuse(source, f"progress.{name} must be {wanted}, got {progress[name]}")


def _described(tensor: Tensor) -> str:
    return f"type {str(tensor.dtype).removeprefix('torch.')} and shape {tuple(tensor.shape)}"
