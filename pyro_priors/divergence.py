"""Decide whether a training diverged from its numbers, never from the text of an error."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyro
import torch
import torch.nn as nn
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Distribution
from torch.overrides import TorchFunctionMode

from .tracing.function import NO_VALIDATION

__all__ = ["TrainingDiverged", "became_infinite", "cause", "refused_parameters"]

_linalg: Any = torch.linalg  # its stubs lack the error
NUMERICAL = (_linalg.LinAlgError, OverflowError, FloatingPointError)
"""Errors that arithmetic raises."""


class TrainingDiverged(ArithmeticError):
    """The loss, a gradient or a parameter became NaN or infinite, or a distribution refused what the networks compute.

    The pair holds the best weights of the training, or its initial weights if no epoch has ended.
    """


def cause(error: Exception, again: Callable[[], object], first_step: bool) -> TrainingDiverged | None:
    """Return the divergence that caused an error, if there is one.

    The computation that raised the error runs once more, without validation. The training diverged if the second run

    * ends with a loss or gradient that is not finite, or
    * raises after a network, a distribution or an argument of a torch function contained NaN or infinity, or
    * raises an arithmetic error, such as for a matrix without a Cholesky factor.

    It also diverged if a distribution refused its parameters, such as a scale of -1.

    Before the first step has ended, nothing has been trained. Then only NaN or infinity from the networks count, and a
    scale of -1 is a mistake in the network. Data outside the support of a finite distribution never count.

    :param error: the error that was raised
    :param again: repeats the computation, and raises :class:`TrainingDiverged` if its result is not finite
    :param first_step: whether no step has ended yet
    :returns: the divergence, which is ``error`` itself if that is a :class:`TrainingDiverged`; None if the error has
        another cause
    """
    if isinstance(error, TrainingDiverged):
        return error
    watch = _Watch()
    try:
        unvalidated, unexamined = pyro.settings.context(**NO_VALIDATION), torch.autograd.set_detect_anomaly(False)
        with unvalidated, unexamined, watch, _Refusals(watch):
            again()
    except TrainingDiverged as found:
        diverged = not watch.data_refused and (bool(watch.found) or not first_step)
        return found if diverged else None
    except Exception as repeated:
        if watch.found and not watch.data_refused:
            return TrainingDiverged(watch.found)
        if isinstance(repeated, NUMERICAL) and not first_step:
            return TrainingDiverged(f"a computation failed ({' '.join(str(repeated).split())[:160]})")
    if not first_step and refused_parameters(error):
        return TrainingDiverged(f"a distribution refused its parameters ({' '.join(str(error).split())[:160]})")
    return None


def became_infinite(tensors: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> str | None:
    """Describe the first tensor with values that are NaN or infinite now and were finite before."""
    for name, tensor in tensors.items():
        bad = ~tensor.isfinite()
        if name in before:
            bad &= before[name].isfinite().to(bad.device)  # a state that was read is on the CPU
        if bad.any():
            return f"'{name}' became {tensor[bad][0].item()}"
    return None


class _Refusals(TorchFunctionMode):
    """Show a watch the arguments of each torch function that raises, such as a draw from probabilities of NaN."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        try:
            return function(*args, **(kwargs or {}))
        except Exception:
            self.watch.note(f"an argument of torch's {function.__name__}", args)
            raise


class _Watch(Messenger):
    """Record the first NaN or infinity in outputs of modules, and in the distributions and values of sites.

    Infinity in the output of a module is ignored, because networks mask values and measure distances with it. Infinite
    attributes of distributions, such as bounds, are ignored too: those that matter make the loss infinite.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found = ""
        self.data_refused = False

    def __enter__(self) -> _Watch:
        self._hook = nn.modules.module.register_module_forward_hook(self._returned)
        return super().__enter__()

    def __exit__(self, *exc_info: Any) -> None:
        self._hook.remove()
        super().__exit__(*exc_info)

    def _returned(self, module: nn.Module, args: Any, output: Any) -> None:
        self.note(f"the output of a {type(module).__name__}", output, infinity=False)

    def _pyro_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg):
            self.note(f"the distribution of site '{msg['name']}'", msg["fn"], infinity=False)

    def _pyro_post_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            return
        if not msg["is_observed"]:
            self.note(f"the value of site '{msg['name']}'", msg["value"])
        elif not self.found and not _in_support(msg["fn"], msg["value"]):
            self.data_refused = True

    def note(self, what: str, value: Any, infinity: bool = True) -> None:
        if not self.found and (number := next(_not_finite(value, infinity), None)) is not None:
            self.found = f"{what} became {number}"


def _not_finite(value: Any, infinity: bool) -> Iterator[float]:
    """Yield NaN, and optionally plus infinity, from nested tensors and distributions."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            bad = value.isnan() | value.isposinf() if infinity else value.isnan()
            if bad.any():
                yield value[bad][0].item()
    elif isinstance(value, Distribution):
        for attribute in vars(value).values():
            yield from _not_finite(attribute, infinity=False)
    elif isinstance(value, dict):
        for one in value.values():
            yield from _not_finite(one, infinity)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _not_finite(one, infinity)


def refused_parameters(error: BaseException) -> bool:
    """Return whether the error, or its cause, comes from the checks of a distribution's parameters."""
    while error.__cause__ is not None:  # Pyro raises errors again, with the shapes of the trace
        error = error.__cause__
    frames = traceback.extract_tb(error.__traceback__)  # none where an error was made and not raised
    return bool(frames) and frames[-1].name == "__init__" and Path(frames[-1].filename).parent.name == "distributions"


def _in_support(distribution: Any, value: Tensor) -> bool:
    try:
        return bool(distribution.support.check(value).all())
    except NotImplementedError:  # it has no support to ask
        return True
