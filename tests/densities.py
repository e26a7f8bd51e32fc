"""Whether draws in two dimensions follow a density."""

from typing import Any

import scipy.stats
import torch
from torch import Tensor


def assert_draws_follow(p: Any, draws: Tensor) -> None:
    """Draws in two dimensions counted in the cells of a grid, against the density integrated over each (by 25 x 25
    midpoints): chi-squared over the cells that expect 10 and more, the rest as one. Fails at 1 of 10,000 seeds.

    :param p: distribution of event shape ``(2,)``
    :param draws: shape ``(num, 2)``
    """
    cells, fine = 16, 25
    axes = [torch.linspace(draws[:, d].quantile(0.001), draws[:, d].quantile(0.999), cells + 1) for d in range(2)]
    steps = [(axis[1] - axis[0]) / fine for axis in axes]
    middles = [axis[0] + step * (torch.arange(cells * fine) + 0.5) for axis, step in zip(axes, steps, strict=True)]
    with torch.no_grad():
        density = p.log_prob(torch.stack(torch.meshgrid(*middles, indexing="ij"), -1)).exp() * steps[0] * steps[1]
    expected = len(draws) * density.unflatten(1, (cells, fine)).unflatten(0, (cells, fine)).sum((1, 3)).flatten()
    counted = torch.histogramdd(draws, bins=axes).hist.flatten()
    enough = expected >= 10
    expected = torch.cat([expected[enough], len(draws) - expected[enough].sum()[None]])
    counted = torch.cat([counted[enough], len(draws) - counted[enough].sum()[None]])
    assert len(expected) > 20
    statistic = ((counted - expected).square() / expected).sum().item()
    assert scipy.stats.chi2.sf(statistic, len(expected) - 1) > 1e-4
