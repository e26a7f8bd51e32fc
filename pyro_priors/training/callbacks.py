"""Callbacks: code of yours that runs after each step and each epoch of a training, and may stop it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .._files import CheckpointError
from .._options import plain, shown
from .._reading import RESTORE
from ..errors import UserError
from ..pair import Pair
from .packing import pack_values, unpack_values

__all__ = ["Callbacks", "TrainingState", "check_callbacks"]

HOOKS = ("on_step_end", "on_epoch_end")


@dataclass
class TrainingState:
    """What ``on_step_end`` of a callback is given. It is one object for the whole training, updated after each step.

    :param pair: the pair in training
    :param max_epochs: maximum number of epochs
    :param steps_per_epoch: number of steps in an epoch
    :param epoch: number of the epoch, counted from 0
    :param step: number of steps so far, over all epochs
    :param loss: the loss of the step, in nats per example
    :param parts: the parts of the loss at weight 1, such as ``reconstruction`` and ``kl_z``, in nats per example; empty
        for an objective of Pyro's
    :param gradient_norm: 2-norm of the gradient of all parameters, before it is clipped
    :param learning_rate: learning rate of the optimizer's first group
    """

    pair: Pair
    max_epochs: int
    steps_per_epoch: int
    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    gradient_norm: float = 0.0
    learning_rate: float = 0.0
    stops: bool = field(default=False, repr=False)

    def stop(self) -> None:
        """Stop the training. A step's epoch ends with that step, and is validated and recorded as any other."""
        self.stops = True


class Callbacks:
    """The callbacks of one training.

    :param callbacks: as returned by :func:`check_callbacks`
    :param state: what they are given after a step
    """

    def __init__(self, callbacks: Iterable[Any], state: TrainingState) -> None:
        self.callbacks, self.state = tuple(callbacks), state
        self.see_steps = any(hasattr(callback, "on_step_end") for callback in self.callbacks)

    def call(self, hook: str, given: Any) -> str:
        """Call a hook of each callback that has it. Return the name of the first one that stops the training, or ''."""
        stopped_by = ""
        for callback in self.callbacks:
            if (function := getattr(callback, hook, None)) is None:
                continue
            answer = plain(function(given))
            name = type(callback).__name__
            if answer is not None and type(answer) is not bool:
                raise UserError(
                    f"{hook} of {name} returned {shown(answer)}: return True to stop the training, and None otherwise"
                )
            if (answer or self.state.stops) and not stopped_by:
                stopped_by = name
        return stopped_by

    def tensors(self) -> dict[str, Tensor]:
        """Return the states of the callbacks as tensors, named by the callback's number."""
        return _states(self.callbacks)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Give each callback the state that :meth:`tensors` returned.

        :raises CheckpointError: if a state is missing, or belongs to no callback
        """
        states: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            number, _, name = key.partition("/")
            states.setdefault(number, {})[name] = value
        for index, callback in enumerate(self.callbacks):
            packed, name = states.pop(str(index), None), type(callback).__name__
            if (packed is None) != (not hasattr(callback, "state_dict")):
                holds = "has no state" if packed is None else "has a state"
                now = "has one" if packed is None else "has no state_dict"
                raise CheckpointError(f"the resume state {holds} of callback {name}, which now {now}", RESTORE)
            if packed is not None:
                callback.load_state_dict(unpack_values(packed, f"callback {name}"))
        if states:
            raise CheckpointError("the resume state has the states of more callbacks than the run", RESTORE)


def _states(callbacks: Iterable[Any]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for number, callback in enumerate(callbacks):
        if hasattr(callback, "state_dict"):
            packed = pack_values(callback.state_dict(), f"callback {type(callback).__name__}")
            tensors |= {f"{number}/{name}": tensor for name, tensor in packed.items()}
    return tensors


def check_callbacks(callbacks: Any, num_processes: int) -> tuple[Any, ...]:
    """Return callbacks as a tuple.

    :param num_processes: number of processes of the training
    :raises ValueError: if one has no hook, or a state that cannot be saved or loaded, or there are several processes
    """
    if hasattr(callbacks, "on_step_end") or hasattr(callbacks, "on_epoch_end") or not isinstance(callbacks, Iterable):
        raise UserError(f"callbacks must be a list, got {shown(callbacks)}: give callbacks=[callback]")
    found = tuple(callbacks)
    for number, callback in enumerate(found):
        place = f"callbacks[{number}] is {shown(callback)}"
        if isinstance(callback, type):
            raise UserError(f"{place}, a class: give an instance, {callback.__name__}(...)")
        if not any(callable(getattr(callback, hook, None)) for hook in HOOKS):
            raise UserError(f"{place}, which has neither method {' nor '.join(HOOKS)}: give it one of them")
        if hasattr(callback, "state_dict") != hasattr(callback, "load_state_dict"):
            raise UserError(f"{place}, which needs both state_dict and load_state_dict: give it both, or neither")
    if found and num_processes > 1:
        raise UserError(
            f"num_processes is {num_processes}, but callbacks run in a training of one process only: give "
            "num_processes=1, or leave callbacks out"
        )
    _states(found)
    return found
