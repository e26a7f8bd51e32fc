"""Checks, on two rows of data, that a pair's networks support trainings and evaluations."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.nn.parameter import is_lazy

from ._memory import is_exhausted
from .divergence import refused_parameters
from .errors import UserError
from .objectives import ELBO
from .objectives.categories import Chunk
from .registration import NetworkError
from .rng import own_generators

if TYPE_CHECKING:
    from .pair import Pair

__all__ = ["check_networks", "check_smallest_batch", "explaining", "same_buffers"]


def check_networks(pair: Pair, x: Tensor, condition: Tensor | None) -> None:
    """Run the programs with all categories and two samples for each row, as ``log_prob`` does.

    Programs that do not name their networks are skipped. Programs that fail in a plain call are skipped too, because
    the training raises a clearer error.

    :param pair: the pair
    :param x: one or two rows of data
    :param condition: as many conditions, or None
    :raises NetworkError: if a network cannot handle dimensions to the left of the batch
    """
    model, guide = pair.model, pair.guide
    if not hasattr(model, "networks") or not hasattr(guide, "networks"):
        return
    elbo = ELBO(num_particles=2)
    elbo.exact = True
    with own_generators(pair.device), pair.evaluating(), pyro.validation_enabled(False), torch.no_grad():
        with same_buffers(pair):
            fails_anyway = _error_of(lambda: _run(pair, x, condition)) is not None
        if fails_anyway:
            return
        with same_buffers(pair):
            error = _error_of(lambda: elbo._get_traces(model, Chunk(0, 2, exact=True)(guide), (x, condition), {}))
    if error is not None:
        raise NetworkError(
            f"{_place_of(error, pair)} cannot handle dimensions to the left of the batch, which samples and categories "
            f"add ({_line_of(error)}): make it compute with z.flatten(0, -2), return the result as "
            ".reshape(*z.shape[:-1], *x_shape), and expand a condition or category to z.shape[:-1]"
        ) from error


@contextmanager
def explaining(pair: Pair, x: Tensor, condition: Tensor | None) -> Iterator[None]:
    """Replace an error by that of :func:`check_networks`, if the networks fail that check."""
    try:
        yield
    except NetworkError:
        raise
    except Exception:
        check_networks(pair, x, condition)
        raise


def check_smallest_batch(
    pair: Pair, x: Tensor, condition: Tensor | None, num_data: int, batch_size: int, num_processes: int
) -> None:
    """Run the programs in training mode on one row, if the training will have a batch of one row.

    :param pair: the pair
    :param x: two rows of data, or one if there is only one
    :param condition: as many conditions, or None
    :param num_data: number of training data
    :param batch_size: data per step, over all processes
    :param num_processes: number of processes that share a batch
    :raises ValueError: if they fail on one row but not on two, as batch statistics do
    """
    if _smallest_share(num_data, batch_size, num_processes) > 1:
        return
    first = None if condition is None else condition[:1]
    with own_generators(pair.device), _training(pair), pyro.validation_enabled(True), torch.no_grad():
        error = _error_of(lambda: _run(pair, x[:1], first))
        if error is None or len(x) > 1 and _error_of(lambda: _run(pair, x, condition)) is not None:
            return
    share = "a last batch" if num_processes == 1 else f"one of {num_processes} processes a batch"
    nearest = sorted(range(1, num_data + 1), key=lambda size: abs(size - batch_size))
    better = next((size for size in nearest if _smallest_share(num_data, size, num_processes) > 1), None)
    raise UserError(
        f"batch_size={batch_size} leaves {share} of 1 of the {num_data} training examples, on which "
        f"{_place_of(error, pair)} cannot be trained ({_line_of(error)}): give "
        f"{'more data' if better is None else f'batch_size={better}'}"
    ) from error


def _smallest_share(num_data: int, batch_size: int, num_processes: int) -> int:
    """Return the smallest number of data in a step of a process; a process that gets none runs the programs on one."""
    last = num_data % batch_size or batch_size
    return max(1, min(num_data, batch_size, last) // num_processes)


def _run(pair: Pair, x: Tensor, condition: Tensor | None) -> None:
    trace = poutine.trace(pair.guide).get_trace(x, condition)
    poutine.trace(poutine.replay(pair.model, trace=trace)).get_trace(x, condition)


def _error_of(run: Callable[[], object]) -> Exception | None:
    """Return the error that ``run`` raises, unless memory ran out; errors that name the network are raised."""
    try:
        run()
    except NetworkError:
        raise
    except Exception as error:
        return None if is_exhausted(error) else error
    return None


@contextmanager
def _training(pair: Pair) -> Iterator[None]:
    """Put the pair in training mode; restore modes, buffers and the parameter store at the end."""
    with pair.evaluating(), same_buffers(pair):
        pair.train()
        yield


@contextmanager
def same_buffers(pair: Pair) -> Iterator[None]:
    """Replace the buffers by copies, because networks may count their calls in them; restore the buffers at the end."""
    before = [(module, dict(module._buffers)) for module in pair.modules()]
    copies = {buffer: buffer if is_lazy(buffer) else buffer.clone() for buffer in pair.buffers()}
    try:
        for module, buffers in before:
            for name, buffer in buffers.items():
                module._buffers[name] = copies.get(buffer) if buffer is not None else None
        yield
    finally:
        for module, buffers in before:
            module._buffers.update(buffers)


def of_network(error: Exception, pair: Pair) -> Exception:
    """Return a one-line error that names the network if a distribution refused its output, or the error itself."""
    if isinstance(error, NetworkError) or not refused_parameters(error):
        return error
    found = NetworkError(
        f"{_place_of(error, pair)} computes parameters that the distribution refuses "
        f"({_line_of(error).removesuffix(', but found invalid values:')}): make them valid, for example a scale by "
        "torch.nn.functional.softplus"
    )
    found.__cause__ = error
    return found


def _place_of(error: BaseException, pair: Pair) -> str:
    """Return the name and class of the innermost module of the pair in which an error was raised."""
    names, found = {module: name for name, module in pair.named_modules() if name}, "a network"
    for frame, _ in traceback.walk_tb(_cause_of(error).__traceback__):
        module = frame.f_locals.get("self")
        if isinstance(module, torch.nn.Module) and module in names:
            found = f"{names[module]} ({type(module).__name__})"
    return found


def _line_of(error: BaseException) -> str:
    cause = _cause_of(error)
    return str(cause).strip().partition("\n")[0] or type(cause).__name__


def _cause_of(error: BaseException) -> BaseException:
    """Return the error without the table of shapes that Pyro's handlers add."""
    while error.__cause__ is not None and str(error).startswith(str(error.__cause__)):
        error = error.__cause__
    return error
