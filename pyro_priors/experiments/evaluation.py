"""Evaluating the rows of an experiment: what is there is not computed again."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from .. import metrics
from .._lock import own_store
from ..data import Splits
from ..metrics import Estimate
from ..metrics.record import DECIDES
from ..pair import Pair
from ..rng import seeded
from ..run_folder import RunFolder
from .experiment import Experiment, Row, Trained
from .kept import OF_TABLES

__all__ = ["Evaluations", "asked_of", "shown_if_not_saved"]

QUICK_SAMPLES, QUICK_IMAGES = 100, 1000
"""Importance samples, and images of the test part, for log p(x) under ``quick``."""


@contextmanager
def shown_if_not_saved(what: str) -> Iterator[None]:
    """While something is written that was computed: where it cannot be, a warning says so, and it is still shown."""
    try:
        yield
    except OSError as error:
        warnings.warn(f"{what} is shown but not saved: {error}", RuntimeWarning, stacklevel=4)


def asked_of(row: Row, experiment: Experiment) -> list[str]:
    """Names of what is evaluated of a row."""
    return [*experiment.metrics, *(one.__name__ for one in (*row.measures, *row.judges, *experiment.judges))]


@dataclass(frozen=True)
class Evaluations:
    """How rows are evaluated.

    :param quick: with fewer importance samples, of fewer images
    :param num_samples: importance samples for log p(x); each row has its own number when None
    :param features: network in whose features images are compared
    :param progress: show lines and bars
    """

    quick: bool
    num_samples: int | None
    features: str
    progress: bool

    def of(self, trained: Trained, experiment: Experiment, folder: RunFolder, may_evaluate: bool) -> Mapping[str, Any]:
        """An evaluation with what the experiment asks of the row: from ``evaluation.json`` what is there already,
        computed what is not; empty if something is missing that may not be computed."""
        row, pair, data = trained.row, trained.pair, trained.data
        source = folder.source(pair.saved_digest)  # the run may have another pair when the evaluation ends
        measures = {measure.__name__: partial(measure, pair, data) for measure in row.measures}
        judges = (*row.judges, *experiment.judges)
        measures |= {judge.__name__: partial(judge, trained) for judge in judges}
        asked = asked_of(row, experiment)
        samples = self.num_samples or (QUICK_SAMPLES if self.quick else row.num_samples)
        given: dict[str, Any] = OF_TABLES | {"num_samples": samples}
        given["num_data"] = QUICK_IMAGES if self.quick and data.image_shape is not None else row.num_data
        if given["num_data"] >= len(data.test):
            given["num_data"] = 0  # all
        given["categories"] = row.categories
        given["features"] = self.features
        old = folder.evaluation(**OF_TABLES) or {}
        if old.get("weights") != source["weights"] or not metrics.can_be_beside(old, given | {"data": data.source}):
            old = {}
        known = set(old.get("asked", ()))
        if may_evaluate and "log_likelihood" in known and not self.suffices(old, given):
            known.discard("log_likelihood")
        if may_evaluate and old.get("features", "auto") != self.features:
            known.difference_update(DECIDES["features"])
        missing = [name for name in asked if name not in known]
        if missing and not may_evaluate:
            return {}
        if missing:
            if self.progress:
                print(f"evaluating {row.name}: {', '.join(missing)}", file=sys.stderr, flush=True)
            found: dict[str, Estimate] = {}
            rest = [name for name in missing if name not in measures and name != "log_likelihood"]
            if rest:
                # which leaves out what does not apply: rows of one table may be of several families
                each = metrics.evaluate_each(pair, data, metrics=rest, features=self.features, progress=self.progress)
                found |= {name: estimate for one in each.values() for name, estimate in one.items()}
            if "log_likelihood" in missing:
                found |= self.log_likelihood(pair, data, samples, given["num_data"], row.categories)
            for name in missing:
                if name in measures:
                    with seeded(given["seed"], pair.device), own_store():
                        found |= measures[name]()
            new = metrics.record(pair, data, found, missing, **given) | source
            old = metrics.beside(old or None, new)
            with shown_if_not_saved(f"the evaluation of {row.name}"):
                folder.save_evaluation(new, metrics.beside)
        return old

    def suffices(self, old: dict[str, Any], given: dict[str, Any]) -> bool:
        """Whether log p(x) is there: of as many samples as were asked for, or no fewer than a row's own number."""
        of_same_data = old.get("num_data") == given["num_data"]
        if old.get("categories", "sum") != given["categories"]:
            return False
        same = old.get("num_samples") == given["num_samples"]
        more = self.num_samples is None and old.get("num_samples", 0) > given["num_samples"]
        return of_same_data and (same or more)

    def log_likelihood(
        self, pair: Pair, data: Splits, num_samples: int, num_data: int, categories: str
    ) -> dict[str, Estimate]:
        """Log p(x), and where it is of fewer data than the bound, the bound of the same data."""
        options: dict[str, Any] = {"num_samples": num_samples, "categories": categories, "progress": self.progress}
        if not num_data:
            return metrics.evaluate(pair, data, metrics=["log_likelihood"], **options)
        first = dataclasses.replace(data, test=data.test.take(slice(num_data)))
        found = metrics.evaluate(pair, first, metrics=["bound", "log_likelihood"], **options)
        kept = {name: found[name] for name in ("log_likelihood", "bits_per_dim") if name in found}
        return kept | {metrics.OF_SAME: found["bound"]}
