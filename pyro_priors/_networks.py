"""Whether a pair's networks can do what trainings and evaluations ask of them, found out on two rows of data."""

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

from ._divergence import refused_parameters
from ._memory import is_exhausted
from ._rng import own_generators
from .objectives import ELBO
from .objectives.categories import Chunk
from .registration import NetworkError

if TYPE_CHECKING:
    from .pair import Pair

__all__ = ["check_networks", "check_smallest_batch", "explaining", "same_buffers"]


def check_networks(pair: Pair, x: Tensor, condition: Tensor | None) -> None:
    """Run the programs with all categories and two samples for each row, as ``log_prob`` runs them.

    Programs that do not name their networks are left out. So is what fails in a plain call too: a training says that
    better.

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
            f"add ({_line_of(error)}): compute with z.flatten(0, -2), return .reshape(*z.shape[:-1], *x_shape) of the "
            "result, and expand a condition or category to z.shape[:-1]"
        ) from error


@contextmanager
def explaining(pair: Pair, x: Tensor, condition: Tensor | None) -> Iterator[None]:
    """Where an error raises what :func:`check_networks` has to say about it instead, if anything."""
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
    """Run the programs in training mode on one row, if a training will do so.

    :param pair: the pair
    :param x: two rows of data, or one where there are no more
    :param condition: as many conditions, or None
    :param num_data: number of training data
    :param batch_size: data per step, over all processes
    :param num_processes: number of processes that share a batch
    :raises ValueError: if they fail on one row and not on two, as batch statistics do
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
    raise ValueError(
        f"batch_size={batch_size} leaves {share} of 1 of the {num_data} training data, on which "
        f"{_place_of(error, pair)} cannot be trained ({_line_of(error)}): give "
        f"{'more data' if better is None else f'batch_size={better}'}"
    ) from error


def _smallest_share(num_data: int, batch_size: int, num_processes: int) -> int:
    """Fewest data on which a process runs the programs in a step; one that gets none runs them on one."""
    last = num_data % batch_size or batch_size
    return max(1, min(num_data, batch_size, last) // num_processes)


def _run(pair: Pair, x: Tensor, condition: Tensor | None) -> None:
    trace = poutine.trace(pair.guide).get_trace(x, condition)
    poutine.trace(poutine.replay(pair.model, trace=trace)).get_trace(x, condition)


def _error_of(run: Callable[[], object]) -> Exception | None:
    """What is raised, if it does not name the network itself, and memory did not run out."""
    try:
        run()
    except NetworkError:
        raise
    except Exception as error:
        return None if is_exhausted(error) else error
    return None


@contextmanager
def _training(pair: Pair) -> Iterator[None]:
    """Training mode; afterwards modes, buffers and the parameter store are as before."""
    with pair.evaluating(), same_buffers(pair):
        pair.train()
        yield


@contextmanager
def same_buffers(pair: Pair) -> Iterator[None]:
    """Copies stand in for the buffers, in which networks may count their calls; afterwards the buffers are back."""
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
    """Return the error in one line that names the network, where a distribution refused what the network computed."""
    if isinstance(error, NetworkError) or not refused_parameters(error):
        return error
    found = NetworkError(
        f"{_place_of(error, pair)} computes parameters that their distribution refuses "
        f"({_line_of(error).removesuffix(', but found invalid values:')}): make them valid, for example a scale with "
        "torch.nn.functional.softplus"
    )
    found.__cause__ = error
    return found


def _place_of(error: BaseException, pair: Pair) -> str:
    """Name and class of the innermost module of the pair in which an error was raised."""
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
    """The error without the table of shapes that Pyro's handlers add to it."""
    while error.__cause__ is not None and str(error).startswith(str(error.__cause__)):
        error = error.__cause__
    return error
