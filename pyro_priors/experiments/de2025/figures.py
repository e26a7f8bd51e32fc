"""The figures of De (2025), from the pictures of rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ... import conditions, plots
from ..experiment import Trained
from ..pictures import Pictures
from .rows import FIGURE_ROWS, METHODS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def means_by_method(pictures: Mapping[str, Pictures], first: str = "") -> Figure:
    """A row for each data set: its means by each method, beside ``first``, a picture that they have in common."""
    by_data: dict[str, dict[str, Pictures]] = {}
    for row in FIGURE_ROWS:
        if row.name in pictures:
            method = (row.of or row.name).removeprefix(f"{row.data}-")
            by_data.setdefault(row.data, {})[method] = pictures[row.name]
    panels: list[list[Tensor | None]] = []
    for found in by_data.values():
        means = [found[method]["means"] if method in found else None for method in METHODS]
        panels.append([next(iter(found.values()))[first], *means] if first else means)
    titles = [title for title, *_ in METHODS.values()]
    return plots.image_panels(panels, [first, *titles] if first else titles, [*by_data])


def reconstruction_pictures(one: Trained, num: int = 25) -> Pictures:
    """Test images, and the means of their reconstructions."""
    part = one.data.test
    assert part.condition is not None  # of all data here
    x, condition = part.x[:num].to(one.pair.device), part.condition[:num].to(one.pair.device)
    means = one.pair.reconstruct(x, condition)
    return {"data": plots.shown(x, None, one.data), "means": plots.shown(means, None, one.data)}


ASKED = (
    "Male=1,Eyeglasses=1,Smiling=-1",
    "Male=-1,Blond_Hair=1,Smiling=1",
    "Male=1,Bald=1",
    "Male=-1,Black_Hair=1,Heavy_Makeup=1,Wearing_Lipstick=1",
    "Male=1,Goatee=1,Wearing_Hat=1",
    "Male=1,Heavy_Makeup=1,Wearing_Lipstick=1",
)
"""What is asked for, a row each; the last is the paper's example, which it calls unlikely, the others are ours."""


def condition_pictures(one: Trained) -> Pictures:
    """Means of p(x|z, condition), as many of each condition as there are conditions."""
    if one.data.condition_of == "label":
        texts = [f"label={name}" for name in one.data.condition_names or ()]
    else:
        texts = list(ASKED)
    each = [conditions.condition_of(conditions.parse(text, one.data), one.data, len(texts)) for text in texts]
    condition = torch.cat(each)
    return {"means": plots.shown(one.pair.sample(len(condition), condition)["x_mean"], None, one.data)}
