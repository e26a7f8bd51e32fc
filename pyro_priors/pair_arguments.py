"""What a pair is given: checks of x and conditions, and values for sites of a sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from ._arrays import check_dense
from ._options import plain
from ._precision import at_least_float32
from .errors import UserError
from .nn import check_labels
from .registration import check_batch
from .rng import own_generators
from .sites import is_transformed, sample_sites

if TYPE_CHECKING:
    from .pair import Pair

__all__ = ["check_finite", "check_given", "check_values", "conditions_of", "fixed_values"]


def fixed_values(
    pair: Pair, fixed: dict[str, Any], size: int, condition: Tensor | None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Values of what :meth:`sample` was given, one for each sample: by site, and of a flow's base by its site."""
    values: dict[str, Tensor] = {}
    bases: dict[str, Tensor] = {}
    if "c" in fixed:
        values["c"] = categories_of(pair, fixed["c"], size)
    if not fixed.keys() - {"c"}:
        return values, bases
    with pair.evaluating(), own_generators(pair.device):
        trace = poutine.trace(pair.model).get_trace(None, None if condition is None else condition[:1], 1)
    sites = dict(sample_sites(trace))
    shapes = {name: tuple(site["fn"].event_shape) for name, site in sites.items()}
    of_flow = next((name for name, site in sites.items() if is_transformed(site["fn"])), None)
    for name in fixed.keys() - {"c"}:
        if name not in (*shapes, "z0"):
            raise UserError(f"'{name}' is not a site of this model: its sites are {', '.join(shapes)}")
        if name == "z0" and of_flow is None:
            raise UserError("z0 was given, but the prior of this pair is not a flow: give z, or use prior='flow'")
        if name == "z0" and of_flow in fixed:
            raise UserError(f"z0 and {of_flow} were both given, but z0 determines {of_flow}: give only one")
        site = of_flow if of_flow is not None and name == "z0" else name
        shape = shapes[site]
        value = numbers_of(pair, name, fixed[name]).to(next(pair.parameters()))
        check_finite(name, value)
        if tuple(value.shape) not in (shape, (size, *shape)):
            raise UserError(
                f"{name} must have shape {shape}, one for all samples, or {(size, *shape)}, one for each, got "
                f"{tuple(value.shape)}: reshape it, or give another size"
            )
        (bases if name == "z0" else values)[site] = value.expand(size, *shape)
    return values, bases


def categories_of(pair: Pair, value: Any, size: int) -> Tensor:
    """Return a category for each of ``size`` samples."""
    value = [plain(one) for one in value] if isinstance(value, list | tuple) else plain(value)
    if isinstance(value, str):
        if value != "aggregate" or pair.aggregate_c is None:
            raise UserError(
                f"c must be a category, 'prior', or, if the pair has categories, 'aggregate', got '{value}'"
            )
        probs = at_least_float32(pair.aggregate_c)
        if pair.num_categories > 1 and bool((pair.aggregate_c == pair.aggregate_c[0]).all()):  # as it was made
            raise UserError(
                "c='aggregate' needs the aggregate posterior, which is not set: call pair.set_aggregate(x_train), "
                "as fit does"
            )
        return dist.Categorical(probs=probs).sample((size,))
    if not pair.num_categories:
        raise UserError("c was given, but this pair has no category: leave it out, or use a pair such as cp_vae")
    value = numbers_of(pair, "c", value)
    numbers = not (value.is_floating_point() or value.is_complex() or value.dtype is torch.bool)
    c = value.long() if numbers else value  # other types than int64 do not index, or index as a mask
    if not numbers or not c.numel() or c.min() < 0 or c.max() >= pair.num_categories:
        raise UserError(f"c must be a category from 0 to {pair.num_categories - 1}, got {value.tolist()}")
    return row_for_each(pair, "c", c, size, 0)


def numbers_of(pair: Pair, name: str, value: Any) -> Tensor:
    """Return a value as a tensor on the pair's device."""
    check_dense(name, value)
    try:
        return torch.as_tensor(value, device=pair.device)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"{name} must be a tensor of numbers, got {value!r}") from None


def conditions_of(pair: Pair, condition: Any, size: int) -> Tensor:
    """Return a condition for each of ``size`` samples."""
    like = next(pair.parameters())
    given = numbers_of(pair, "condition", condition)
    if pair.takes_labels:
        labels = check_labels("condition", given.reshape(-1) if given.dim() == 0 else given, pair.num_categories)
        return row_for_each(pair, "condition", labels[0] if given.dim() == 0 else labels, size, 0)
    condition = given.to(like)
    shape = tuple(pair._configured("condition_shape") or ())
    if shape and tuple(condition.shape) not in (shape, (size, *shape)):
        classes = given.dim() < 2 and not given.is_floating_point() and len(shape) == 1 < shape[0]
        one_hot = f"; for class numbers, give torch.nn.functional.one_hot(condition, {shape[0]})" if classes else ""
        raise UserError(
            f"condition must have shape {shape}, one for all samples, or {(size, *shape)}, one for each, got "
            f"{tuple(condition.shape)}: reshape it, or give another size{one_hot}"
        )
    check_finite("condition", condition)
    return row_for_each(pair, "condition", condition, size, len(shape) or max(condition.dim() - 1, 1))


def check_given(pair: Pair, x: Tensor, condition: Tensor | None) -> None:
    """Refuse tensors that are not batches of floating-point rows with the shapes that the pair was made for."""
    for name, value in (("x", x), ("condition", condition)):
        if value is None and (name == "x" or pair._configured("condition_shape")):
            raise UserError(f"{name} is None, but this pair needs it: give {name}, one row per datum")
        if name == "condition" and value is not None and pair.takes_labels:
            check_labels("condition", value, pair.num_categories)
        elif value is not None and (name == "x" or pair.takes_condition):
            own = next(pair.parameters()).dtype
            check_batch(name, value, own, pair._configured(f"{name}_shape"))
    if condition is not None:
        if len(condition) != len(x):
            raise UserError(f"condition must be as long as x, got {len(condition)} and {len(x)}: give one per datum")
        check_finite("condition", condition)


def check_values(pair: Pair, x: Tensor) -> None:
    """While Pyro's validation is on, refuse values outside the support of the likelihood."""
    if not pyro.settings.get("validate_distributions_torch"):
        return
    check_finite("x", x)
    if pair.likelihood is not None:
        pair.likelihood.check(x)


def row_for_each(pair: Pair, name: str, value: Tensor, size: int, event_dim: int) -> Tensor:
    """Return one row for each of ``size`` samples."""
    value = value.to(pair.device)
    if value.dim() == event_dim:
        return value.expand(size, *value.shape)
    if value.dim() == event_dim + 1 and len(value) == size:
        return value
    raise UserError(f"{name} must be one value or {size} values, got shape {tuple(value.shape)}: reshape it")


def check_finite(name: str, value: Tensor) -> None:
    """Refuse a tensor with NaN or infinity."""
    if not value.is_meta and not value.isfinite().all():  # on the device meta tensors have no values
        first = (~value.isfinite()).nonzero()[0].tolist()
        raise UserError(f"{name} has NaN or infinite values, the first at {first}: leave such data out")
