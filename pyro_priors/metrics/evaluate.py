"""The evaluation of a pair on one part of its data."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from .._options import Seed, Size, typed
from .._precision import pair_in_precision_of
from ..data import Splits
from ..data.splits import PartName
from ..errors import UserError, hint
from ..pair import Pair
from ..rng import noticing, own_generators, seed_generators
from . import standard  # noqa: F401  (it registers the metrics)
from .checks import DoesNotApply, check_pair
from .features import FEATURES
from .registry import METRICS, NEEDS, ON_REQUEST, Context, Estimate

__all__ = ["check_options", "evaluate", "evaluate_each"]


@typed
def evaluate(
    pair: Pair,
    data: Splits,
    part: PartName = "test",
    *,
    metrics: str | Sequence[str] = (),
    num_samples: Size = 500,
    seed: Seed = 0,
    features: str = "auto",
    progress: bool = True,
    categories: str = "sum",
) -> dict[str, Estimate]:
    """Evaluate a pair.

    Means are over the data of the part, with their standard errors over them, but for the gap between prior and
    aggregate posterior and for leakage, which are over draws; all is computed in chunks, so that
    memory stays bounded whatever the number of samples. Noise is drawn from ``seed`` and torch's generators are left as
    they were. Numbers that another thread draws from them meanwhile would change it, and are refused; to notice them,
    short metrics are computed twice where other threads run. A pair in another precision than its data is evaluated
    through a copy in theirs.

    :param pair: the pair
    :param data: its data
    :param part: ``"train"``, ``"valid"`` or ``"test"``; a training part with dynamic binarisation is binarised once
    :param metrics: names from :data:`METRICS`; when empty all but those :data:`ON_REQUEST`. What does not apply to the
        pair and its data is left out; a warning says so where the kind of posterior is the reason
    :param num_samples: importance samples for each datum's log p(x)
    :param seed: seed of the noise
    :param features: network that generated images are compared in (:func:`~pyro_priors.metrics.features_for`)
    :param progress: show a bar in a terminal
    :param categories: in log p(x) summed or drawn (:meth:`pyro_priors.Pair.log_prob`)
    :returns: estimates by name
    :raises ValueError: if a part or a metric is unknown, the pair was made for other data or has parameters that are
        not finite, x has values that are not finite, or another thread draws from torch's generators
    """
    each = evaluate_each(
        pair,
        data,
        part,
        metrics=metrics,
        num_samples=num_samples,
        seed=seed,
        features=features,
        progress=progress,
        categories=categories,
    )
    if metrics and not any(each.values()):
        needs = "; ".join(f"{name} needs {NEEDS[name]}" if name in NEEDS else name for name in each)
        raise DoesNotApply(f"none of the metrics applies to this pair and its data ({needs}): leave them out")
    return {name: estimate for found in each.values() for name, estimate in found.items()}


@typed
def evaluate_each(
    pair: Pair,
    data: Splits,
    part: PartName = "test",
    *,
    metrics: str | Sequence[str] = (),
    num_samples: Size = 500,
    seed: Seed = 0,
    features: str = "auto",
    progress: bool = True,
    categories: str = "sum",
    per_example: dict[str, Any] | None = None,
) -> dict[str, dict[str, Estimate]]:
    """As :func:`evaluate`, by metric: nothing of one that does not apply.

    :param per_example: a dict that gets the values for each example, ``"elbo"`` and ``"log_likelihood"``, each of shape
        ``(num_examples,)`` in nats, if they are computed
    """
    if not isinstance(data, Splits):
        raise UserError(f"data must be Splits, got {type(data).__name__}: give pyro_priors.data.from_arrays(x_train)")
    if isinstance(metrics, str):
        metrics = (metrics,)
    check_options(metrics, features, categories)
    made_for = pair._configured("x_shape")
    if made_for and tuple(made_for) != tuple(data.x_shape):
        raise UserError(
            f"the pair was made for x_shape={tuple(made_for)}, but {data.name} has {data.x_shape}: give its own data"
        )
    check_pair(pair)
    pair = pair_in_precision_of(data.train.x, pair)
    kept = {} if per_example is None else per_example
    context = Context(pair, data, part, num_samples, features, progress, categories, kept)
    results: dict[str, dict[str, Estimate]] = {}
    with own_generators(pair.device), pair.evaluating(), torch.no_grad(), noticing(pair.device) as draws:
        for name in metrics or [name for name in METRICS if name not in ON_REQUEST]:
            seed_generators(seed, pair.device)
            # log p(x), the longest, notices numbers of other threads batch by batch
            compute, confirm = partial(METRICS[name], context), name != "log_likelihood"
            try:
                results[name] = draws.alone(name, compute, f"the evaluation of {name}", confirm)
            except (DoesNotApply, NotImplementedError) as error:  # a distribution may have no mean
                if metrics:
                    raise
                warnings.warn(
                    f"the metric {name} is left out: {error or 'a distribution has no such value'}",
                    RuntimeWarning,
                    stacklevel=3,
                )
                results[name] = {}
    return results


def check_options(metrics: Sequence[str], features: str, categories: str) -> None:
    """Refuse options of :func:`evaluate` that are out of range.

    :raises ValueError: with the name and the value of the first
    """
    for name in metrics:
        if name not in METRICS:
            raise UserError(f"metric '{name}' is unknown: {hint(name, METRICS)}")
    if features not in ("auto", *FEATURES):
        raise UserError(f"features '{features}' is unknown: {hint(features, ('auto', *FEATURES))}")
    if categories not in ("sum", "draw"):
        raise UserError(f"categories must be one of sum, draw, got {categories!r}")
