"""The figures of Bhalodia et al. (2020), from trained rows or from their pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ... import plots
from ...data import Splits
from ...data.levels import rows_of
from ...metrics import (
    aggregate_posterior,
    low_posterior_samples,
)
from ...metrics.aggregate import upper_site
from ...pair import Pair
from ..experiment import Trained
from ..pictures import Pictures
from .measures import THRESHOLDS
from .rows import title_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def pockets(trained: Mapping[str, Trained]) -> Figure:
    """Codes and samples of each row on the moons, a panel for each."""
    data = next(iter(trained.values())).data
    return plots.pockets({title_of(one.row): one.pair for one in trained.values()}, data)


def leakage_scores(trained: Mapping[str, Trained]) -> Figure:
    """Leakage over thresholds, a row of panels for each data set."""
    rows: dict[str, dict[str, tuple[Pair, Splits]]] = {}
    for one in trained.values():
        rows.setdefault(one.row.data, {})[title_of(one.row)] = one.pair, one.data
    return plots.leakage_curves(rows, THRESHOLDS)


def _low_posterior(one: Trained, num: int) -> Tensor:
    x = rows_of(one.data.train.x, slice(10_000))
    site = upper_site(one.pair, x)
    z = low_posterior_samples(one.pair, aggregate_posterior(one.pair, x), site, num)
    return plots.shown(one.pair.sample(num, **{site: z})["x_mean"], None, one.data)


def samples_and_low_posterior(one: Trained, num: int = 25) -> Pictures:
    """Means of p(x|z) for draws of the prior, and for those with the lowest aggregate posterior."""
    samples = plots.shown(one.pair.sample(num)["x_mean"], None, one.data)
    return {"samples": samples, "low posterior": _low_posterior(one, num)}


def without_and_with_dp(pictures: Mapping[str, Pictures]) -> Figure:
    """A row for each data set and method; samples and low-posterior samples, without and with dp."""
    by_row: dict[str, Pictures] = {}
    for name, one in pictures.items():
        prior = "dp" if name.endswith("-dp") else "N(0, I)"
        panels = {f"{prior}: {what}": images[:16] for what, images in one.items()}
        by_row[name.removesuffix("-dp")] = {**by_row.get(name.removesuffix("-dp"), {}), **panels}
    columns = [f"{prior}: {what}" for prior in ("N(0, I)", "dp") for what in ("samples", "low posterior")]
    figure = plots.image_panels([[found.get(c) for c in columns] for found in by_row.values()], columns, [*by_row])
    figure.set_size_inches(*(0.7 * figure.get_size_inches()))  # of 24 panels of photographs a file of a megabyte
    return figure


def traversals(num: int, num_paths: int) -> Callable[[Trained], Pictures]:
    """Paths from the first test image to the second, from the third to the fourth, and so on: straight in z, and with
    a flow also straight in z0."""

    def draw(one: Trained) -> Pictures:
        rows: dict[str, Tensor] = {}
        codes = one.pair.encode(one.data.test.x[: 2 * num_paths].to(one.pair.device))["z"].mean
        for i in range(num_paths):
            start, end = codes[2 * i : 2 * i + 2]
            ways = (False, True) if one.row.pair_options.get("prior") == "flow" else (False,)
            for in_base in ways:
                z = plots.path(one.pair, start, end, num, in_base)
                label = f"{title_of(one.row)}, {'z0' if in_base else 'z'} ({i + 1})"
                rows[label] = plots.shown(one.pair.sample(num, z=z)["x_mean"], None, one.data)
        return rows

    return draw


def rows_of_all(pictures: Mapping[str, Pictures]) -> Figure:
    """All pictures of all rows, a line for each."""
    return plots.image_rows({label: images for one in pictures.values() for label, images in one.items()})


def by_dimension(one: Trained, num_rows: int = 10, num: int = 11) -> Pictures:
    """One value of z varied at a time, from -3 to 3 standard deviations of its posterior means; those first whose
    posterior means vary most."""
    codes = one.pair.encode(one.data.test.x[:500].to(one.pair.device))["z"].mean
    spread, rows = codes.std(0), {}
    for d in spread.argsort(descending=True)[:num_rows].tolist():
        z = codes[0].repeat(num, 1)
        z[:, d] = codes[:, d].mean() + torch.linspace(-3, 3, num, dtype=z.dtype, device=z.device) * spread[d]
        rows[f"z {d + 1}"] = plots.shown(one.pair.sample(num, z=z)["x_mean"], None, one.data)
    return rows
