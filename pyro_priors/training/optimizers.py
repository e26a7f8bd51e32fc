"""The optimizer of a training: Adam, AdamW with a weight decay, or one that your factory makes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor
from torch.optim import Optimizer

from .._options import plain, shown
from .._resume import DEPENDS_ON_DEVICE
from ..errors import UserError
from ..pair import Pair
from ..rng import own_generators
from .config import TrainConfig

__all__ = ["Factory", "check_factory", "layout_of", "make_optimizer"]

Factory = Callable[[list[nn.Parameter]], Optimizer]
"""From the parameters of the pair to a torch optimizer of them."""

EXAMPLE = "give a callable such as torch.optim.AdamW, or functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9)"


def make_optimizer(factory: Factory | None, pair: Pair, config: TrainConfig, device: torch.device) -> Optimizer:
    """Return the optimizer of a training: the factory's, or by default Adam, or AdamW with a weight decay.

    :raises ValueError: if the factory does not return an optimizer of all parameters of the pair
    """
    named = dict(pair.named_parameters())
    if factory is None:
        fused = device.type in ("cpu", "cuda")
        if config.weight_decay:
            decay = config.weight_decay
            return torch.optim.AdamW(named.values(), lr=config.learning_rate, weight_decay=decay, fused=fused)
        return torch.optim.Adam(named.values(), lr=config.learning_rate, fused=fused)
    rate = {"lr": config.learning_rate} if _takes_rate(factory) else {}
    try:
        optimizer = factory(list(named.values()), **rate)
    except Exception as error:  # factories are the user's, and raise anything
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(f"optimizer cannot be made from the pair's parameters ({reason}): {EXAMPLE}") from error
    if not isinstance(optimizer, Optimizer):
        raise UserError(f"optimizer must return a torch optimizer, got {shown(optimizer)}: {EXAMPLE}")
    held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    if missing := [name for name, parameter in named.items() if parameter not in held]:
        raise UserError(
            f"optimizer must hold all {len(named)} parameters of the pair, but lacks {len(missing)}, such as "
            f"'{missing[0]}': pass it the parameters that it is given, and hold parts still with frozen"
        )
    if len(held) > len(named):
        raise UserError(
            f"optimizer must hold the pair's {len(named)} parameters only, but holds {len(held) - len(named)} others: "
            "pass it the parameters that it is given"
        )
    return optimizer


def _takes_rate(factory: Factory) -> bool:
    """Return whether the factory takes a learning rate as ``lr`` that is not bound in it."""
    if isinstance(factory, partial) and "lr" in factory.keywords:
        return False
    try:
        return "lr" in inspect.signature(factory).parameters
    except (TypeError, ValueError):  # some callables written in C have no signature
        return False


def check_factory(factory: Any, pair: Pair, config: TrainConfig, to_file: bool) -> dict[str, Any] | None:
    """Check an optimizer factory, and return what a run records of its optimizer: the class, and each group's options.

    :param to_file: whether the state of the optimizer must fit into a run folder
    :returns: ``name`` and ``groups``; None without a factory
    :raises ValueError: if the factory makes no optimizer that ``fit`` can use
    """
    if factory is None:
        return None
    if isinstance(factory, Optimizer) or not callable(factory):
        raise UserError(f"optimizer must be a callable that makes an optimizer, got {shown(factory)}: {EXAMPLE}")
    if config.weight_decay:
        raise UserError(
            f"weight_decay={config.weight_decay:g} is of the default optimizer, but optimizer is given: bind it there, "
            "as in functools.partial(torch.optim.AdamW, weight_decay=0.01)"
        )
    own_rate = not _takes_rate(factory)
    if own_rate and config.learning_rate != TrainConfig.learning_rate:
        raise UserError(
            f"learning_rate is {config.learning_rate:g}, but the optimizer factory sets the rate itself: leave "
            "learning_rate out, or leave lr out of the factory"
        )
    optimizer = make_optimizer(factory, pair, config, pair.device)
    name = type(optimizer).__name__
    step = inspect.signature(optimizer.step).parameters.values()
    if any(one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD for one in step):
        raise UserError(f"optimizer {name} needs a closure in each step, which fit does not give: {EXAMPLE}")
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    for group in groups:
        if type(rate := group.get("lr")) not in (int, float):
            raise UserError(f"optimizer {name} must have a number as lr in each group, got {shown(rate)}: {EXAMPLE}")
        for key, value in group.items():
            if not _is_plain(value):
                raise UserError(
                    f"optimizer {name} has {key}={shown(value)} in a group, which a run cannot record: give numbers, "
                    "strings, booleans or tuples of these"
                )
    if to_file:
        for state in layout_of(partial(make_optimizer, factory, pair, config, pair.device), list(pair.parameters())):
            for key, value in state.items():
                if not isinstance(value, Tensor | bool | int | float | None) or not re.fullmatch(r"\w{1,100}", key):
                    raise UserError(
                        f"optimizer {name} keeps '{key}', a {type(value).__name__}, for each parameter, which a run "
                        "folder cannot keep: leave out= out, or take an optimizer whose state consists of tensors"
                    )
    return {
        "name": name,
        "groups": [{key: value for key, value in group.items() if key not in DEPENDS_ON_DEVICE} for group in groups],
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return type(plain(value)) is type(value) and type(value) in (bool, int, float, str, type(None))


def layout_of(make: Callable[[], Optimizer], parameters: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
    """Return what an optimizer keeps for each parameter, found by two steps along a gradient of zeros.

    The parameters are then as before, and have no gradients.

    :param make: makes the optimizer
    :param parameters: its parameters
    :returns: for each parameter of the optimizer, in its order, values by name; tensors tell shape, type and device
    """
    optimizer = make()
    values = [parameter.detach().clone() for parameter in parameters]
    with own_generators(parameters[0].device):
        for _ in range(2):
            for parameter in parameters:
                parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
            optimizer.step()
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.grad = None
            parameter.copy_(value)
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return [dict(optimizer.state.get(parameter, {})) for parameter in held]
