"""Figures of codes: where aggregate posterior and prior differ, what is generated there, and paths between codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ._arrays import check_dense
from ._hints import check_sizes
from ._lock import LOCK
from ._options import Size, shown, typed
from ._precision import pair_in_precision_of
from .data import Splits
from .metrics.aggregate import (
    aggregate_posterior,
    high_posterior_samples,
    leakage,
    log_aggregate,
    log_prior,
    low_posterior_samples,
    prior_samples,
    upper_site,
)
from .metrics.checks import check_finite
from .pair import Pair

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["image_rows", "leakage_curves", "path", "pockets"]

LOW, HIGH = "tab:red", "tab:green"
NUM_CODES, NUM_EXTREME, MOST_COLUMNS = 1000, 100, 6


@LOCK
@typed
def path(
    pair: Pair, start: ArrayLike | Tensor, end: ArrayLike | Tensor, num: Size = 10, in_base: bool = False
) -> Tensor:
    """Codes on the straight line between two, or on what a flow makes of the straight line in its base.

    The straight line in the base, the generation space, does not leave where the prior has its mass for as long as its
    ends are there; its image in z bends around pockets (section 5.3 of Bhalodia et al. 2019).

    :param start: shape ``(z_dim,)``
    :param end: shape ``(z_dim,)``
    :param num: number of codes, the ends included
    :param in_base: straight in the base of the pair's flow prior
    :returns: shape ``(num, z_dim)``
    :raises ValueError: if an end is no code of the pair, or the prior is no flow, and ``in_base`` is asked for
    """
    check_sizes(num=num)
    prior: Any = pair.model.prior
    own = next(pair.parameters())
    z_dim = pair._configured("z_dim")
    ends: list[Tensor] = []
    for name, value in (("start", start), ("end", end)):
        wanted = f"{name} must be one code, of shape ({z_dim or 'z_dim'},)"
        check_dense(name, value)
        try:
            code = torch.as_tensor(value, dtype=own.dtype, device=own.device)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"{wanted}, got {shown(value)}: give a tensor") from None
        if code.dim() != 1 or z_dim and len(code) != z_dim:
            raise ValueError(f"{wanted}, got {tuple(code.shape)}: reshape it")
        check_finite(name, code)
        ends.append(code)
    first, last = ends
    if in_base and not hasattr(prior, "to_base"):
        raise ValueError("in_base was asked for, and the prior of this pair is no flow: leave it out")
    if in_base and (pair.num_categories or (pair.takes_condition and getattr(pair.model, "condition_prior", 1))):
        raise ValueError("in_base was asked for, and the flow of this pair may depend on a context: leave it out")
    share = torch.linspace(0, 1, num, dtype=own.dtype, device=own.device)[:, None]
    with torch.no_grad():
        if in_base:
            first, last = prior.to_base(first[None])[0], prior.to_base(last[None])[0]
        line = first + share * (last - first)
        return prior.from_base(line) if in_base else line


@typed
def pockets(pairs: Pair | Mapping[str, Pair], data: Splits) -> Figure:
    """What comes of pockets and leaks, for two-dimensional data and codes, one column for each pair, six side by side.

    Above samples, and the data in grey. In the middle codes: draws of the aggregate posterior of the training part
    (blue) and of the prior (grey), the tenth of prior draws that the aggregate posterior likes least (low posterior,
    red: in pockets) and the tenth of the aggregate posterior's that the prior likes least (high posterior, green:
    leaks). Below what these two are decoded to.

    :param pairs: a pair, or several by title
    :param data: their data
    :raises ValueError: if there is no pair, or codes or data are not of two dimensions, or the data have a condition
    """
    from matplotlib.figure import Figure

    from .plots import planar_site

    pairs = {"": pairs} if isinstance(pairs, Pair) else pairs
    if not pairs:
        raise ValueError("pairs is empty: give one pair, or several by title")
    if data.x_shape != (2,) or not all(planar_site(pair, data) for pair in pairs.values()):
        raise ValueError(
            f"pockets draws data and codes of two dimensions that depend on no condition, and {data.name} with this "
            "pair has others: use prior_density for the codes alone, or leakage_curves"
        )
    num_bands, num_columns = -(-len(pairs) // MOST_COLUMNS), min(len(pairs), MOST_COLUMNS)
    figure = Figure(figsize=(2.7 * num_columns + 2, 8.2 * num_bands), layout="constrained")
    all_axes = figure.subplots(3 * num_bands, num_columns, squeeze=False)
    columns = [axes for band in range(num_bands) for axes in all_axes[3 * band : 3 * band + 3].T]
    for axes in columns[len(pairs) :]:
        for one in axes:
            one.set_axis_off()
    x = data.train.x[:NUM_CODES]
    for (title, pair), axes in zip(pairs.items(), columns, strict=False):
        pair = pair_in_precision_of(data.train.x, pair)
        q, site = aggregate_posterior(pair, data.train.x), upper_site(pair, x)
        low, high = (draw(pair, q, site, NUM_EXTREME) for draw in (low_posterior_samples, high_posterior_samples))
        for row in (axes[0], axes[2]):
            row.scatter(*x.T, s=2, color="0.8", label="data")
            row.set(xlim=(-1.7, 2.7), ylim=(-1.3, 1.8), xlabel="$x_1$", ylabel="$x_2$")
        axes[0].set_title(title, fontsize="medium")
        axes[0].scatter(*pair.sample(NUM_CODES)["x_mean"].cpu().T, s=2, color="black", label="samples")
        axes[1].scatter(*prior_samples(pair, site, NUM_CODES).cpu().T, s=2, color="0.75", label="prior")
        axes[1].scatter(*q.sample((NUM_CODES,)).cpu().T, s=2, color="tab:blue", label="aggregate posterior")
        for z, colour, name in ((low, LOW, "low posterior"), (high, HIGH, "high posterior")):
            axes[1].scatter(*z.cpu().T, s=5, color=colour, label=name)
            decoded = pair.sample(len(z), **{site: z})["x_mean"].cpu()
            axes[2].scatter(*decoded.T, s=5, color=colour, label=f"{name}, decoded")
        axes[1].set(xlabel="$z_1$", ylabel="$z_2$")
    for row in all_axes:
        there = [axes for axes in row if axes.axison]
        there[-1].legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2)
        for axes in row[1:]:
            axes.set_ylabel("")
    return figure


QUANTILES = (0.0001, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)


@typed
def leakage_curves(
    rows: Mapping[str, Mapping[str, tuple[Pair, Splits]]], thresholds: Sequence[float], num: Size = 5000
) -> Figure:
    """Leakage scores over thresholds in nats, and the share of the aggregate posterior below quantiles of the prior.

    Titles that differ in ``"dp"`` and hyphens alone share a colour, the one with it drawn through, the other dashed. On
    the right the dotted line is where nothing leaks: as many draws of the aggregate posterior below a quantile as of
    the prior.

    :param rows: pair and its data by title, in rows of panels by the name of the row; the aggregate posterior is that
        of at most 5,000 training data
    :param thresholds: of log p(z), in nats
    :param num: draws of each aggregate posterior, and of each prior
    """
    from matplotlib.figure import Figure

    if not rows:
        raise ValueError("rows is empty: give pairs with their data by title, in a row or more")
    figure = Figure(figsize=(12, 4.2 * len(rows)), layout="constrained")
    for (row, pairs), (left, right) in zip(rows.items(), figure.subplots(len(rows), 2, squeeze=False), strict=True):
        colours: dict[str, str] = {}
        for title, (pair, data) in pairs.items():
            colour = colours.setdefault(title.replace("dp", "").replace("-", ""), f"C{len(colours)}")
            style = {"color": colour, "linestyle": "-" if "dp" in title else "--", "marker": ".", "label": title}
            pair, x = pair_in_precision_of(data.train.x, pair), data.train.x[:5000]
            q, site = aggregate_posterior(pair, x), upper_site(pair, x)
            z = q.sample((num,))
            log_q, log_p = log_aggregate(q, z).cpu(), log_prior(pair, site, z).cpu()
            left.plot(thresholds, [one.score for one in leakage(log_q, log_p, thresholds)], **style)
            of_prior = log_prior(pair, site, prior_samples(pair, site, num)).cpu()
            taus = of_prior.quantile(of_prior.new_tensor(QUANTILES)).tolist()
            right.plot(QUANTILES, [one.share for one in leakage(log_q, log_p, taus)], **style)
        right.plot(QUANTILES, QUANTILES, color="black", linestyle=":")
        left.set(title=row, xlabel="threshold of log p(z), nats", ylabel="leakage score, nats")
        right.set(
            title=row,
            xlabel="quantile of log p(z) under the prior",
            ylabel="share of the aggregate posterior below",
        )
        right.set_xscale("log")
        right.set_yscale("symlog", linthresh=1e-4)
        right.set_ylim(bottom=-2e-5)
        right.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5), handlelength=4)
    return figure


@typed
def image_rows(rows: Mapping[str, Tensor]) -> Figure:
    """Rows of images, each with its label.

    :param rows: images by label, each of shape ``(num, channels, height, width)`` with the same number
    """
    from .plots import image_grid

    return image_grid(
        torch.cat([images.cpu() for images in rows.values()]), len(next(iter(rows.values()))), "", [*rows]
    )
