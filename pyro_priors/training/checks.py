"""Checks before a training: that the options suit the pair, the data and the machine."""

from __future__ import annotations

import math
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import torch
from pyro import infer, poutine
from torch.nn.parameter import is_lazy

from .. import zoo
from .._lock import own_store
from .._memory import TRAINED, check_memory
from .._precision import first_rounded
from ..data import Levels, Splits
from ..data.units import WHITE
from ..nn import check_labels
from ..pair import Pair
from ..rng import seeded
from ..sites import check_latent, sample_sites
from .loop import to_like

if TYPE_CHECKING:
    pass


def multiplies_bfloat16(device: str) -> bool:
    """Return whether the device has instructions for products in bfloat16."""
    if device != "cpu" and (torch.cuda.is_available() or torch.backends.mps.is_available()):
        return True
    try:
        return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    except (AttributeError, RuntimeError):  # a torch that does not report it: give no warning
        return True


def check_fits(pair: Pair, data: Splits) -> None:
    """Check that the shapes of the data are those of the pair."""
    config = (pair.recipe or {}).get("config", {})
    if "x_shape" in config and tuple(config["x_shape"]) != data.x_shape:
        raise ValueError(
            f"the pair was made for x_shape={tuple(config['x_shape'])}, but {data.name} has {data.x_shape}: make it "
            "with x_shape=data.x_shape, or give data of that shape"
        )
    if "condition_shape" in config and tuple(config["condition_shape"]) != data.condition_shape:
        raise ValueError(
            f"the pair was made for condition_shape={tuple(config['condition_shape'])}, but {data.name} has "
            f"{data.condition_shape}: make it with condition_shape=data.condition_shape, or load the data with other "
            "condition_rows or condition_labels"
        )
    if pair.takes_labels:
        for name, part in data.parts.items():
            _check_labels(pair, data, name, part.condition)
    if pair.likelihood is None or data.binarise:  # of binarized data x is drawn as 0 and 1
        return
    for name, part in data.parts.items():
        x = part.x.levels.unique() / WHITE if isinstance(part.x, Levels) else part.x
        try:
            pair.likelihood.check(x)
        except ValueError as error:
            raise ValueError(f"the {name} part of {data.name} does not fit the pair: {error}") from None


def _check_labels(pair: Pair, data: Splits, name: str, condition: Any) -> None:
    if condition is None:
        return
    try:
        check_labels("condition", condition, pair.num_categories)
    except ValueError as error:
        raise ValueError(
            f"the {name} part of {data.name} does not fit the pair, whose condition is labels: {error}; load(..., "
            f"labels=100) makes labels the condition, and {pair.num_categories} is the pair's num_categories"
        ) from None


def check_training_memory(pair: Pair, data: Splits, objective: infer.ELBO, batch_size: int) -> None:
    """Refuse a training whose parameters, or whose step, cannot fit into memory."""
    held = sum(value.numel() * value.element_size() for value in pair.parameters() if not is_lazy(value))
    check_memory(TRAINED * held, f"training the pair's {held / 2**30:,.1f} GiB of parameters", "make a smaller pair")
    config = (pair.recipe or {}).get("config") or {}
    rows = min(batch_size, len(data.train)) * getattr(objective, "num_particles", 1)
    if config.get("category") == "enumerated":
        rows *= min(pair.num_categories, getattr(objective, "chunk_size", None) or pair.num_categories)
    # the mean of x and its gradient, and the distances from the components of a mixture
    num_components = (config.get("prior") or {}).get("num_components") or 0
    values = max(
        2 * math.prod(data.x_shape), num_components * (1 if "condition_shape" in config else config.get("z_dim", 1))
    )
    remedy = "give a smaller batch_size, or fewer components or categories"
    check_memory(4 * rows * values, f"batch_size={batch_size} ({rows:,} rows in a step)", remedy)


def check_precision(data: Splits, precision: str) -> None:
    """Refuse data that the precision would round: the loss would be that of different data."""
    if precision != "bf16-true":
        return
    for name in ("train", "valid"):
        if name == "train" and data.binarise:  # shown as 0 and 1
            continue
        for x in data.parts[name].x.split(1000):
            if (first := first_rounded(x, torch.bfloat16)) is not None:
                raise ValueError(
                    f"precision='bf16-true' would round x of the {name} part, {first[0]:.6g} to {first[1]:.6g}: use "
                    "precision='bf16-mixed', which does not change the data, or '32-true'"
                )


@torch.no_grad()
def _latent_sites(pair: Pair, data: Splits) -> dict[str, Any]:
    """Return the latent sites of the guide on two examples, by name."""
    first = to_like(data.train.take(slice(2)), next(pair.parameters()))
    with seeded(0, pair.device), own_store():
        condition = None if first.condition is None else first.condition[:]  # bytes come out as numbers
        trace = poutine.trace(pair.guide).get_trace(first.x[:], condition)
    return {name: site for name, site in sample_sites(trace) if not site["is_observed"]}


def check_sites(pair: Pair, data: Splits, sites: tuple[str, ...]) -> None:
    """Check that ``warmup_sites`` are latent sites of the pair."""
    if sites:
        check_latent("warmup_sites", sites, _latent_sites(pair, data))


def check_frozen(pair: Pair, frozen: tuple[str, ...]) -> None:
    """Check that ``frozen`` names parts of the pair."""
    parts = [name for name, module in pair.named_modules() if name and any(True for _ in module.parameters())]
    for name in frozen:
        if name not in parts:
            near = zoo.hint(name, parts) if get_close_matches(name, parts, n=1) else zoo.hint(name, _upper(parts))
            raise ValueError(f"frozen names '{name}', which is not a part of the pair: {near}")


def check_chunks(pair: Pair, data: Splits, objective: infer.ELBO) -> None:
    """Check that ``chunk_size`` of the objective suits the number of categories."""
    size = getattr(objective, "chunk_size", None)
    if size is None:
        return
    category = ((pair.recipe or {}).get("config") or {}).get("category")
    if category == "sparse":
        raise ValueError(
            f"chunk_size={size} sums all categories, but the pair sums only a few (category='sparse'): leave out one "
            "of the two"
        )
    sites = _latent_sites(pair, data)
    if not any(site["infer"].get("enumerate") == "parallel" for site in sites.values()):
        raise ValueError(
            f"chunk_size={size} needs one enumerated category, got sites {', '.join(sites)}: leave chunk_size out"
        )


def _upper(parts: list[str]) -> list[str]:
    return [name for name in parts if name.count(".") <= 1]
