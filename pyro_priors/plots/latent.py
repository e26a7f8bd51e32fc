"""Figures of codes: where aggregate posterior and prior differ, what is generated there, and paths between codes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .. import _options
from .._arrays import check_dense
from .._lock import LOCK
from .._options import Size, typed
from .._precision import pair_in_precision_of
from ..data import Splits
from ..errors import check_sizes
from ..metrics import log_magnification
from ..metrics.aggregate import (
    aggregate_posterior,
    high_posterior_samples,
    leakage,
    log_aggregate,
    log_prior,
    low_posterior_samples,
    prior_samples,
    upper_site,
)
from ..metrics.checks import check_finite
from ..pair import Pair
from .images import first_rows, new_figure
from .toys import line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "MASSES",
    "latent_scatter",
    "leakage_curves",
    "magnification",
    "path",
    "planar_site",
    "pockets",
    "prior_density",
]


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
            raise ValueError(f"{wanted}, got {_options.shown(value)}: give a tensor") from None
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
def latent_scatter(pair: Pair, data: Splits, num: Size = 2000) -> Figure:
    """Posterior means of test data, coloured by label or else by category, over samples of the prior in grey.

    Of a hierarchy the upper code. With more than two dimensions on the first two principal axes of the posterior means;
    with one against the first value of x.
    """
    pair = pair_in_precision_of(data.train.x, pair)
    x, condition = first_rows(data.test, num, pair)
    codes = pair.encode(x, condition)
    drawn = pair.sample(len(x), condition, **({"c": "aggregate"} if pair.num_categories else {}))
    site = next(name for name in codes if name != "c")
    posterior, prior = codes[site].mean, drawn[site]
    names = [f"{site} 1", f"{site} 2"]
    if posterior.shape[-1] == 1:
        posterior, prior = (
            torch.cat(z, -1) for z in ((posterior, x.flatten(1)[:, :1]), (prior, drawn["x"].flatten(1)[:, :1]))
        )
        names = [site, "x"]
    elif posterior.shape[-1] > 2:
        centre = posterior.mean(0)
        axes_of_means = torch.linalg.svd(posterior - centre, full_matrices=False).Vh[:2].T
        posterior, prior = (posterior - centre) @ axes_of_means, (prior - centre) @ axes_of_means
        names = ["principal axis 1", "principal axis 2"]
    figure, axes = new_figure(5, 4.5)
    axes.scatter(*prior.cpu().numpy().T, s=3, color="lightgrey")
    label, title = data.test.label, "label"
    if label is None and "c" in codes:
        label, title = codes["c"].probs.argmax(-1).cpu(), "c"
    if label is None:
        axes.scatter(*posterior.cpu().numpy().T, s=3)
    else:
        points = axes.scatter(*posterior.cpu().numpy().T, s=3, c=label[: len(x)].numpy(), cmap="tab10")
        _legend(axes, points, title, label)
    drawn_from = "p(z|c), c of q(c)," if pair.num_categories else "the prior"
    axes.set(xlabel=names[0], ylabel=names[1], title=f"posterior means, and samples of {drawn_from} (grey)")
    return figure


def _legend(axes: Any, points: Any, title: str, label: Tensor) -> None:
    """Each label with its colour, or ten values of many."""
    elements = points.legend_elements(num=None if len(label.unique()) <= 20 else 10)
    axes.legend(*elements, title=title, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))


MASSES = (0.99, 0.9, 0.5)
"""Shares of the prior's mass that the contours of :func:`prior_density` enclose."""


@torch.no_grad()
@typed
def prior_density(pairs: Pair | Mapping[str, Pair], data: Splits, num: Size = 2000) -> Figure:
    """The prior of a two-dimensional code in grey, under one draw of q(z|x) for each of some test data, by label.

    The draws together are the aggregate posterior, which the prior has to meet. Grey without points is a hole: samples
    there are of codes that the decoder was never trained on. Points beyond the grey are a leak: codes of data that
    are next to never sampled. The three greys hold 50, 90 and 99% of the prior's mass, each in the smallest region
    that does.

    Of a hierarchy the upper code; of a pair with categories the mixture of their priors, and q(z|x) at the most
    probable one.

    :param pairs: a pair, or several by title, side by side
    :param data: their data
    :param num: number of test data, and of samples of the prior that place the contours
    :raises ValueError: if a code is not of two dimensions, or the data have a condition
    """
    from matplotlib.figure import Figure

    named = {"prior and aggregate posterior": pairs} if isinstance(pairs, Pair) else pairs
    figure = Figure(figsize=(3.6 * len(named) + 1, 3.9), layout="constrained")
    label = data.test.label
    for axes, (title, pair) in zip(figure.subplots(1, len(named), squeeze=False)[0], named.items(), strict=True):
        pair = pair_in_precision_of(data.train.x, pair)
        site = planar_site(pair, data)
        if not site:
            raise ValueError(
                f"prior_density draws codes of two dimensions that depend on no condition, and {data.name} with this "
                "pair has others: use latent_scatter"
            )
        prior = pair.sample(num)[site]
        posterior = pair.encode(first_rows(data.test, num, pair)[0])[site].sample()
        ends = torch.cat([prior, posterior]).quantile(prior.new_tensor([0.002, 0.998]), 0).cpu()
        margin = 0.08 * (ends[1] - ends[0])
        first, second = (line(*ends, 150) for ends in zip(ends[0] - margin, ends[1] + margin, strict=True))
        grid = torch.cartesian_prod(first, second).to(prior)
        log_p = log_prior(pair, site, grid).unflatten(0, (150, 150)).T.cpu()
        levels = log_prior(pair, site, prior).quantile(1 - prior.new_tensor(MASSES)).tolist()
        greys = ["0.92", "0.82", "0.68"]
        axes.contourf(first, second, log_p, [*levels, math.inf], colors=greys)
        colours = {"color": "black"} if label is None else {"c": label[:num], "cmap": "tab10"}
        points = axes.scatter(*posterior.cpu().T, s=9, linewidth=0, **colours)
        axes.set(title=title, xlabel=f"{site} 1", ylabel=f"{site} 2")
    if label is not None:
        _legend(axes, points, "label", label)
    return figure


@typed
def planar_site(pair: Pair, data: Splits) -> str:
    """The latent site that :func:`prior_density` can draw, or nothing."""
    if data.condition_shape:
        return ""
    x, _ = first_rows(data.test, 1, pair)
    site = upper_site(pair, x)
    return site if pair.encode(x)[site].event_shape == (2,) else ""


@torch.no_grad()
@typed
def magnification(pair: Pair, data: Splits, num: Size = 1000) -> Figure:
    """The codes of test data over the decoder's magnification factor, and samples (Fig. 1 of Klushyn et al. 2019).

    Left: one draw of q(z|x) for each datum by label, over the common logarithm of the factor in grey
    (:func:`~pyro_priors.metrics.log_magnification`). Right: the data in grey under samples.

    :param pair: an unconditional pair with a decoder of its own and a code of two dimensions
    :param data: their data, of two dimensions too
    :param num: number of test data, and of samples
    :raises ValueError: if code or data are not of two dimensions
    """
    from matplotlib.figure import Figure

    pair = pair_in_precision_of(data.train.x, pair)
    site = planar_site(pair, data)
    if not site or data.x_shape != (2,):
        raise ValueError(f"magnification draws codes and data of two dimensions, {data.name} with this pair has others")
    drawn, x = pair.sample(num), data.test.x[:num]
    z = pair.encode(x.to(pair.device))[site].sample().cpu()
    prior = drawn[site].cpu()
    low, high = torch.cat([z, prior]).aminmax(dim=0)
    first, second = (line(*ends, 200) for ends in zip(low.tolist(), high.tolist(), strict=True))
    decoder: Any = pair.model.decoder
    grid = torch.cartesian_prod(first, second).to(next(pair.parameters()))
    with pair.evaluating():
        factor = log_magnification(lambda z: decoder(z).mean, grid).reshape(200, 200).T.cpu() / math.log(10)
    lowest = factor.quantile(0.02).item()  # where it is all but 0 it says no more
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    mesh = left.pcolormesh(
        *(values.numpy() for values in (first, second, factor)), cmap="Greys", shading="nearest", vmin=lowest
    )
    figure.colorbar(mesh, ax=left, label="magnification factor, common logarithm")
    colours = {} if data.test.label is None else {"c": data.test.label[:num], "cmap": "tab10", "vmax": 9}
    left.scatter(*z.T, s=4, linewidth=0, **colours)
    left.set(xlabel=f"{site} 1", ylabel=f"{site} 2", title="codes of data, and magnification factor")
    right.scatter(*x.T, s=4, linewidth=0, color="lightgrey", label="data")
    right.scatter(*drawn["x"].cpu().T, s=4, linewidth=0, label="samples")
    right.set(xlabel="$x_1$", ylabel="$x_2$", title=f"{num:,} samples")
    right.legend(loc="center")
    return figure
