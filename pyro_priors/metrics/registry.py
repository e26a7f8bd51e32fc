"""Metrics by name: what each is given, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from .._options import Size
from .._precision import condition_like
from ..data import Splits, batches
from ..data.splits import PartName
from ..errors import UserError
from ..pair import Pair
from .checks import check_finite, standard_error

__all__ = ["METRICS", "NEEDS", "ON_REQUEST", "Context", "Estimate", "mean_of", "register_metric", "rows"]


BATCH_SIZE = 500


@dataclass(frozen=True)
class Estimate:
    """One number of an evaluation.

    :param value: the number
    :param stderr: standard error of the mean over the data; None where the number is no mean
    :param unit: such as ``"nats per datum"``
    """

    value: float
    stderr: float | None = None
    unit: str = "nats per datum"


METRICS: dict[str, Callable[[Context], dict[str, Estimate]]] = {}
"""Metrics by name; one that does not apply to a pair or its data gives nothing."""


NEEDS: dict[str, str] = {}
"""What a metric applies to, of those that do not apply to all pairs and data."""


ON_REQUEST: list[str] = []
"""Metrics that are computed only where they are named: three take a network that may be missing or untrained, and
leakage says in six numbers what prior_gap says in one."""


Metric = TypeVar("Metric", bound=Callable[[Any], dict[str, Any]])


def register_metric(name: str, needs: str = "", on_request: bool = False) -> Callable[[Metric], Metric]:
    """Register a function that computes a metric, so that :func:`evaluate` and the command line know it by its name.

    Example::

        @register_metric("rate")
        def rate(context: Context) -> dict[str, Estimate]:
            \"""KL of all latent sites.\"""
            kl = [pair_kl(context.pair, x, condition) for x, condition in rows(context, context.part)]
            return {"rate": mean_of(torch.cat(kl))}

    The function runs without gradients, in evaluation mode, with torch's generators seeded. It returns its numbers by
    name, or nothing where it does not apply.

    :param name: an identifier
    :param needs: what it applies to, if not to all pairs and data: "a pair with categories"
    :param on_request: compute it only where it is named
    :raises ValueError: if the name is taken, or is no identifier
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise UserError(f"the name of a metric must be an identifier, got {name!r} (for example, 'rate')")
    if name in METRICS:
        taken_by = METRICS[name].__module__
        raise UserError(f"metric '{name}' is already registered by {taken_by}: choose another name")

    def add(function: Metric) -> Metric:
        METRICS[name] = function
        if needs:
            NEEDS[name] = needs
        if on_request:
            ON_REQUEST.append(name)
        return function

    return add


@dataclass(frozen=True)
class Context:
    """What a metric is computed from.

    :param pair: the pair, in the precision of the data
    :param data: its data
    :param part: ``"train"``, ``"valid"`` or ``"test"``
    :param num_samples: importance samples for each example's log p(x)
    :param features: network that generated images are compared in
    :param progress: show a bar in a terminal
    :param categories: in log p(x) ``"sum"`` or ``"draw"``
    :param per_example: gets values for each example, by name
    """

    pair: Pair
    data: Splits
    part: PartName
    num_samples: Size
    features: str
    progress: bool
    categories: str
    per_example: dict[str, Any]


def rows(context: Context, part: str) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Batches of a part, binarised once where it holds grey levels for a binary likelihood."""
    binarise = context.data.binarise and part == "train"
    size = min(BATCH_SIZE, context.pair.batch_at_once)
    found = batches(context.data.parts[part], size, seed=0, epoch=0, binarise=binarise, shuffle=False)
    like = next(context.pair.parameters())
    for x, given in found:
        check_finite("x", x)
        yield x.to(like), condition_like(given, like)


def mean_of(values: Tensor, unit: str = "nats per datum") -> Estimate:
    """Return the mean of one value for each example, with its standard error."""
    values = values.double()
    return Estimate(values.mean().item(), standard_error(values) if len(values) > 1 else None, unit)
