"""What ``evaluation.json`` keeps of evaluations, which may come one after the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from ..data import Splits
from ..pair import Pair
from .registry import Estimate

__all__ = ["OF_SAME", "beside", "can_be_beside", "record"]

OF_SAME = "bound_of_same_data"
"""Name of the bound of the data that log p(x) was computed of, where those are not all."""

DECIDES = {
    "num_samples": ("log_likelihood",),
    "num_data": ("log_likelihood",),
    "categories": ("log_likelihood",),
    "features": ("generation", "diversity"),
}
"""Metrics that an option of an evaluation decides, of those options that do not decide them all."""

DEFAULTS = {"features": "auto", "categories": "sum", "num_data": 0}
"""Options that records of before there were they do not have."""


def record(
    pair: Pair, data: Splits, results: Mapping[str, Estimate], asked: Iterable[str], **given: Any
) -> dict[str, Any]:
    """An evaluation as ``evaluation.json`` keeps it.

    :param pair: the pair
    :param data: its data
    :param results: estimates by name
    :param asked: names of the metrics that were computed, also of those that gave nothing
    :param given: how it was evaluated: the part, the seed, and the options in :data:`DECIDES`
    """
    estimates = {name: dataclasses.asdict(one) for name, one in results.items()}
    found = {"data": data.source, **given, "asked": sorted(asked), "metrics": estimates}
    if pair.aggregate_c is not None:
        found["aggregate_c"] = pair.aggregate_c.tolist()
    if data.true_log_likelihood is not None:
        found["true_log_likelihood"] = data.true_log_likelihood
    return found


def can_be_beside(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether two evaluations are of the same data and noise."""
    return all(old.get(key) == new[key] for key in ("part", "seed", "data"))


def beside(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> dict[str, Any]:
    """A new evaluation with what an old one has and it has not, as far as the options of the new one leave that valid.

    :param old: a record; None where there is none, and ignored if it is of other data or noise
    :param new: a record
    :returns: a record whose options are those that each metric was computed with
    """
    if old is None or not can_be_beside(old, new):
        return dict(new)
    old, computed = {**DEFAULTS, **old}, set(new["asked"])
    options: dict[str, Any] = {}
    kept, estimates = set(old.get("asked", ())), dict(old["metrics"])
    for option, decided in DECIDES.items():
        if not computed.intersection(decided):
            options[option] = old.get(option)
        elif old.get(option) != new[option]:
            kept -= set(decided)
            if option == "features":
                estimates = {name: one for name, one in estimates.items() if "features of" not in one["unit"]}
    if "log_likelihood" in computed:
        estimates = {name: one for name, one in estimates.items() if name != OF_SAME}
    return {**new, **options, "asked": sorted(kept | computed), "metrics": estimates | new["metrics"]}
