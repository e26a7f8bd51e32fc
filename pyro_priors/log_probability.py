"""Importance-sampled log p(x) of a pair, in batches, compiled where that pays."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .network_checks import explaining
from .objectives import log_importance_weights
from .progress import progress_bar
from .rng import alone
from .tracing.function import CompiledFunction

if TYPE_CHECKING:
    from .pair import Pair

__all__ = ["ROWS_PER_CALL", "log_probability"]

ROWS_PER_CALL = 2**12
"""Rows (data x samples x categories) that pass a network in one call of an evaluation. This bounds the memory and keeps
the activations of a perceptron with some hundred units in the processor's caches."""

VALUES_PER_CALL = 2**23
"""Maximum number of values of x in such a call, if that means fewer rows: convolutions have many features per value."""

ROWS_THAT_PAY = 2**21
"""Minimum number of rows for which an evaluation is compiled; for fewer, compiling takes longer than it saves."""


def log_probability(
    pair: Pair,
    x: Tensor,
    condition: Tensor | None,
    num_samples: int,
    compile: str,
    progress: bool,
    categories: str,
) -> Tensor:
    """Return log p(x); see :meth:`pyro_priors.Pair.log_prob` for the arguments."""
    num_categories = 1 if categories == "draw" else max(1, pair.num_categories)
    rows = max(1, min(ROWS_PER_CALL, VALUES_PER_CALL // x[0].numel()) // num_categories)
    batch = min(100, rows, len(x))
    samples = min(max(1, rows // batch), num_samples)

    def log_sum(x: Tensor, condition: Tensor | None, num: int = samples) -> dict[str, Tensor]:
        log_w = log_importance_weights(pair.model, pair.guide, x, condition, num_samples=num, categories=categories)
        return {"log_sum": log_w.to(torch.promote_types(log_w.dtype, torch.float32)).logsumexp(0)}

    in_bulk: Callable[..., dict[str, Tensor]] = log_sum
    if compile == "always" or compile == "auto" and len(x) * num_samples * num_categories >= ROWS_THAT_PAY:
        in_bulk = CompiledFunction(log_sum, [pair], strict=compile == "always")
    estimates = []
    first = x[:2].to(pair.device), None if condition is None else condition[:2].to(pair.device)
    bar = progress_bar(len(x), "log-likelihood", progress)
    with pair.evaluating(), bar, explaining(pair, *first):
        for start in range(0, len(x), batch):
            part = x[start : start + batch].to(pair.device)
            given = None if condition is None else condition[start : start + batch].to(pair.device)
            at_least = torch.promote_types(part.dtype, torch.float32)
            total = torch.full((len(part),), -math.inf, dtype=at_least, device=part.device)
            for done in range(0, num_samples, samples):
                num = min(samples, num_samples - done)
                # the remainders are too small for a separate graph
                full = num == samples and len(part) == batch
                run = partial(in_bulk, part, given) if full else partial(log_sum, part, given, num)
                found = alone((len(part), num), run, "the evaluation of log p(x)")
                total = torch.logaddexp(total, found["log_sum"].to(at_least))
            estimates.append(total - math.log(num_samples))
            bar.update(len(part))
    return torch.cat(estimates)
