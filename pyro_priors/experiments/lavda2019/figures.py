"""The figures of Lavda et al. (2019), from trained rows or from their pictures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ... import plots
from ...data.toys import MIXTURE_MEANS, MIXTURE_SD
from ..experiment import Trained
from ..pictures import Pictures
from .measures import draw_x
from .rows import CP1, METHODS, TOY_CP_150, TOYS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _true_density() -> tuple[Tensor, Tensor]:
    x = torch.linspace(-0.5, 1.6, 400, dtype=torch.float64, device="cpu")
    means = torch.from_numpy(MIXTURE_MEANS)
    return x, torch.distributions.Normal(means, MIXTURE_SD).log_prob(x[:, None]).exp().mean(-1)


def by_toy(trained: Mapping[str, Trained]) -> Figure:
    """Samples of the toy by each method, over the true density."""
    there = {title: trained[row.name].pair for title, row in TOYS.items() if row.name in trained}
    return plots.histograms({title: draw_x(pair) for title, pair in there.items()}, *_true_density())


def by_choice_of_c(trained: Mapping[str, Trained]) -> Figure:
    """Samples of the toy by CP, with c from the aggregate posterior and from the uniform prior."""
    pair = trained[TOY_CP_150.name].pair
    titles = {"aggregate": "c from the aggregate posterior", "prior": "c from the uniform prior"}
    return plots.histograms({title: draw_x(pair, c) for c, title in titles.items()}, *_true_density())


def _method_of(name: str) -> tuple[str, str]:
    """Method and K of a row's name, as the figures show them."""
    _, method, *k = re.sub(r"-(600|seed\d+)$", "", name).split("-")
    return method.upper(), f"K={k[0]}" if k else ""


def _name_of(name: str) -> str:
    return "CP1" if name.startswith(CP1.name) else _method_of(name)[0]


def reconstruction_pictures(one: Trained, num: int = 20) -> Pictures:
    """Test images, and the means of their reconstructions."""
    x = one.data.test.x[:num]
    images = {"data": x, "reconstructions": one.pair.reconstruct(x.to(one.pair.device))}
    return {label: plots.shown(values, None, one.data) for label, values in images.items()}


def reconstructions(pictures: Mapping[str, Pictures]) -> Figure:
    """Test images, and below them the reconstructions of each row."""
    first = next(iter(pictures.values()))
    return plots.image_rows(
        {"data": first["data"]} | {_name_of(name): one["reconstructions"] for name, one in pictures.items()}
    )


def generations(pictures: Mapping[str, Pictures]) -> Figure:
    """A panel of samples for each row."""
    return plots.image_panels([[one["samples"] for one in pictures.values()]], [_name_of(name) for name in pictures])


def by_method(pictures: Mapping[str, Pictures], num: int = 25) -> Figure:
    """A panel of samples for each method and K; methods without K in the first column."""
    found = {_method_of(name): one["samples"][:num] for name, one in pictures.items()}
    methods = [name.upper() for name in METHODS if any(method == name.upper() for method, _ in found)]
    sizes = sorted({k for _, k in found if k}, key=lambda k: int(k[2:])) or [""]
    panels = [[found.get((m, k), found.get((m, "")) if k == sizes[0] else None) for k in sizes] for m in methods]
    return plots.image_panels(panels, sizes, methods)
