"""Toy data whose true mean log density, or conditional one, is known: what a perfect model would reach."""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .registry import DataConfig, register_data
from .splits import Part, Splits

__all__ = ["ONE_TO_MANY_HEIGHTS", "ONE_TO_MANY_SD", "inverse_sine_log_density", "one_to_many_log_density"]

MIXTURE_MEANS, MIXTURE_SD = np.array([0.1, 1.0]), 0.1
"""Of the data set ``mixture``."""

ONE_TO_MANY_HEIGHTS, ONE_TO_MANY_SD = ((-0.7, 0.1, 0.8), (-0.3, 0.5), (-0.9, -0.4, 0.2, 0.6), (0.0,)), 0.03
"""Of the data set ``one_to_many``: the targets of conditions in [0, 1), [1, 2), [2, 3) and [3, 4), and their scale."""

Sampler = Callable[[int, np.random.Generator], tuple[NDArray, ...]]
"""From a size and a generator to x, labels or None, and conditions if there are any."""


def _draw(
    name: str,
    sample: Sampler,
    sizes: tuple[int, int, int],
    config: DataConfig,
    *,
    source: str,
    true_log_likelihood: float,
) -> Splits:
    """Three parts, one after the other from one generator."""
    random = np.random.default_rng(config.seed)
    parts = []
    for size in sizes:
        x, label, *condition = sample(size, random)
        given = torch.from_numpy(condition[0].astype(np.float32)) if condition else None
        parts.append(Part(torch.from_numpy(x.astype(np.float32)), given, torch.from_numpy(label.astype(np.int64))))
    train, valid, test = parts
    return Splits(
        name,
        train,
        valid,
        test,
        likelihood="gaussian",
        num_labels=1 + int(label.max()),
        source=source,
        true_log_likelihood=true_log_likelihood,
    )


@register_data("mixture")
def mixture(config: DataConfig) -> Splits:
    """Half N(0.1, 0.1), half N(1, 0.1), one-dimensional (Lavda et al. 2019, section 5.1).

    0.1 is the standard deviation, as in the authors' code; the paper's notation leaves it open. Sizes 50,000,
    10,000 and 10,000: the paper gives the first, the others are ours (the authors' code: 60,000, 20,000 and
    20,000, and a second mean of 0.99). The label is the component.
    """

    def sample(size: int, random: np.random.Generator) -> tuple[NDArray, NDArray]:
        label = random.integers(2, size=size)
        return (MIXTURE_MEANS[label] + MIXTURE_SD * random.standard_normal(size))[:, None], label

    return _draw(
        "mixture",
        sample,
        (50_000, 10_000, 10_000),
        config,
        source=f"drawn with seed {config.seed}; standard deviation 0.1 as in the code of Lavda et al. 2019",
        true_log_likelihood=mixture_log_density(MIXTURE_MEANS, MIXTURE_SD),
    )


FOUR_GAUSSIANS_SD = 0.1


@register_data("four_gaussians")
def four_gaussians(config: DataConfig) -> Splits:
    """Four Gaussians arranged in a square, two-dimensional (Klushyn et al. 2019, section 4.1 and figure 1).

    The paper gives no numbers. Ours: means (+-1, +-1), standard deviation 0.1, equal weights, 10,000
    training, 2,000 validation and 2,000 test points. The label is the component, 2 [x_1 > 0] + [x_2 > 0] for
    its mean.
    """
    means, sd = np.array([-1.0, 1.0]), FOUR_GAUSSIANS_SD

    def sample(size: int, random: np.random.Generator) -> tuple[NDArray, NDArray]:
        side = random.integers(2, size=(size, 2))
        return means[side] + sd * random.standard_normal((size, 2)), 2 * side[:, 0] + side[:, 1]

    return _draw(
        "four_gaussians",
        sample,
        (10_000, 2_000, 2_000),
        config,
        source=f"drawn with seed {config.seed}; means, standard deviation 0.1 and sizes are ours",
        # the two coordinates are independent, each an even mixture of two
        true_log_likelihood=2 * mixture_log_density(means, sd),
    )


@register_data("moons")
def moons(config: DataConfig) -> Splits:
    """Two interleaved half circles with noise 0.05, two-dimensional (Bhalodia et al. 2019, section 4.1).

    scikit-learn's ``make_moons`` as in the authors' code: 2,000 training and 200 validation points; the 200
    test points are ours. The label is the half circle.
    """
    from sklearn.datasets import make_moons

    noise = 0.05
    return _draw(
        "moons",
        lambda size, random: make_moons(size, noise=noise, random_state=int(random.integers(2**32))),
        (2_000, 200, 200),
        config,
        source=f"scikit-learn's make_moons, noise {noise}, seed {config.seed}; the test part is ours",
        true_log_likelihood=_moons_log_density(noise),
    )


@register_data("one_to_many")
def one_to_many(config: DataConfig) -> Splits:
    """Conditions in [0, 4), each with 3, 2, 4 or 1 targets; both one-dimensional (Klushyn et al. 2019, figure 2).

    The condition is uniform, x one of the targets of its quarter, at even odds, plus N(0, 0.03^2): number and places of
    the targets change abruptly at 1, 2 and 3. The paper takes a set of Tang and Salakhutdinov (NIPS 2013) whose formula
    is published nowhere; this one is ours, of the same kind, with a known density
    (:func:`one_to_many_log_density`). 10,000 training, 2,000 validation and 2,000 test points. The label is the number
    of the target in its quarter, from below.
    """
    num_targets = np.array([len(heights) for heights in ONE_TO_MANY_HEIGHTS])
    table = np.array([heights + (0.0,) * (num_targets.max() - len(heights)) for heights in ONE_TO_MANY_HEIGHTS])

    def sample(size: int, random: np.random.Generator) -> tuple[NDArray, NDArray, NDArray]:
        # as float32 before the quarter is decided, so that no rounding moves a condition to the next one
        condition = (random.integers(4 * 2**20, size=size) / 2**20).astype(np.float32)
        piece = condition.astype(np.int64)
        label = random.integers(num_targets[piece])
        x = table[piece, label] + ONE_TO_MANY_SD * random.standard_normal(size)
        return x[:, None], label, condition[:, None]

    return _draw(
        "one_to_many",
        sample,
        (10_000, 2_000, 2_000),
        config,
        source=f"drawn with seed {config.seed}; targets, standard deviation {ONE_TO_MANY_SD} and sizes are ours",
        true_log_likelihood=float(
            np.mean([mixture_log_density(np.array(heights), ONE_TO_MANY_SD) for heights in ONE_TO_MANY_HEIGHTS])
        ),
    )


def one_to_many_log_density(x: Tensor, condition: Tensor) -> Tensor:
    """log p(x|condition) of the data set ``one_to_many``.

    :param x: shape ``left_shape + (1,)``
    :param condition: in [0, 4), shape ``left_shape + (1,)``
    :returns: shape ``left_shape``
    """
    density = torch.full(torch.broadcast_shapes(x.shape, condition.shape), -math.inf, dtype=x.dtype, device=x.device)
    for piece, heights in enumerate(ONE_TO_MANY_HEIGHTS):
        each = torch.distributions.Normal(x.new_tensor(heights), ONE_TO_MANY_SD).log_prob(x)  # left_shape + (targets,)
        here = (condition >= piece) & (condition < piece + 1)
        density = torch.where(here, each.logsumexp(-1, keepdim=True) - math.log(len(heights)), density)
    return density.squeeze(-1)


@register_data("inverse_sine")
def inverse_sine(config: DataConfig) -> Splits:
    r"""Bishop's inverse problem: which x had the sine as its outcome; condition and x one-dimensional.

    .. math:: x \sim U(0, 1), \qquad \mathrm{condition} = x + 0.3 \sin(2 \pi x) + U(-0.1, 0.1)

    Up to three stretches of x lead to one condition. p(x|condition) is uniform over them
    (:func:`inverse_sine_log_density`). 10,000 training, 2,000 validation and 2,000 test points are ours. The label is
    the stretch: x before, between and after the turns of the sine.

    Reference: Christopher M. Bishop, Mixture density networks, 1994; one of the three sets of Tang and Salakhutdinov
    (NIPS 2013), from whom Klushyn et al. (2019) take theirs.
    """

    def sample(size: int, random: np.random.Generator) -> tuple[NDArray, NDArray, NDArray]:
        x = random.random(size)
        condition = _sine(x) + random.uniform(-SINE_NOISE, SINE_NOISE, size)
        return x[:, None], np.digitize(x, SINE_TURNS), condition[:, None]

    return _draw(
        "inverse_sine",
        sample,
        (10_000, 2_000, 2_000),
        config,
        source=f"drawn with seed {config.seed}; sizes are ours",
        true_log_likelihood=_inverse_sine_log_likelihood(),
    )


SINE_NOISE = 0.1
SINE_TURNS = np.arccos(-1 / (0.6 * math.pi)) / (2 * math.pi) * np.array([1, -1]) + np.array([0, 1])
"""Where x + 0.3 sin(2 pi x) turns, in (0, 1)."""


def _sine(x: NDArray) -> NDArray:
    return x + 0.3 * np.sin(2 * math.pi * x)


def inverse_sine_log_density(x: Tensor, condition: Tensor) -> Tensor:
    """log p(x|condition) of the data set ``inverse_sine``, -infinity where x cannot be.

    :param x: shape ``left_shape + (1,)``
    :param condition: shape ``left_shape + (1,)``
    :returns: shape ``left_shape``
    """
    width = torch.from_numpy(_allowed_width(condition.double().cpu().numpy())).clamp(min=torch.finfo(x.dtype).tiny)
    band = (x + 0.3 * torch.sin(2 * math.pi * x) - condition).abs() <= SINE_NOISE
    allowed = (x > 0) & (x < 1) & band
    return torch.where(allowed, -width.log().to(x), -math.inf).squeeze(-1)


def _allowed_width(condition: NDArray) -> NDArray:
    """Length of all x in (0, 1) that can lead to a condition."""
    return _share_below(condition + SINE_NOISE) - _share_below(condition - SINE_NOISE)


def _share_below(value: NDArray) -> NDArray:
    """Share of x in (0, 1) with x + 0.3 sin(2 pi x) below a value: the sum over the three stretches."""
    ends = np.array([0.0, *SINE_TURNS, 1.0])
    low, high = (np.broadcast_to(end, (*np.shape(value), 3)).copy() for end in (ends[:-1], ends[1:]))
    rising, value = np.array([1, -1, 1]), np.asarray(value)[..., None]
    for _ in range(52):  # bisection, to the last bit
        middle = (low + high) / 2
        before = rising * (_sine(middle) - value) < 0
        low, high = np.where(before, middle, low), np.where(before, high, middle)
    share = np.where(rising > 0, low - ends[:-1], ends[1:] - low)
    return share.sum(-1)


def _inverse_sine_log_likelihood(num: int = 64) -> float:
    """E[log p(x|condition)] by Gauss-Legendre quadrature of -5 w log w, with w(condition) the allowed width.

    The width has kinks where the band around a condition reaches a turn of the sine or an end of (0, 1): between them,
    with nodes that crowd at both sides, the rule converges fast.
    """
    turns = _sine(np.array([0.0, *SINE_TURNS, 1.0]))
    edges = np.unique(np.concatenate([turns - SINE_NOISE, turns + SINE_NOISE]))
    nodes, weights = np.polynomial.legendre.leggauss(num)
    angle, slope = 0.25 * math.pi * (nodes + 1) * 2, 0.5 * math.pi * weights
    t, w = 0.5 * (1 - np.cos(angle)), 0.5 * np.sin(angle) * slope  # on (0, 1), square roots at its ends smoothed
    total = 0.0
    for left, right in zip(edges, edges[1:], strict=False):
        width = np.maximum(_allowed_width(left + (right - left) * t), np.finfo(float).tiny)
        total += (right - left) * float((w * -width * np.log(width)).sum()) / (2 * SINE_NOISE)
    return total


def mixture_log_density(means: NDArray, sd: float) -> float:
    """E[log p(x)] for an even mixture of N(means, sd), by the trapezoidal rule.

    The rule converges faster than any power of the step for such smooth, vanishing integrands: step sd/10
    leaves errors below 1e-12.
    """
    step = sd / 10
    x = np.arange(means.min() - 12 * sd, means.max() + 12 * sd, step)[:, None]
    log_parts = -0.5 * ((x - means) / sd) ** 2 - math.log(sd * math.sqrt(2 * math.pi) * len(means))
    log_density = np.logaddexp.reduce(log_parts, axis=1)
    return float(step * (np.exp(log_density) * log_density).sum())


def _moons_log_density(noise: float, num_angles: int = 128) -> float:
    """E[log p(x)] for the two moons with angles uniform in (0, pi), by quadrature in double precision.

    make_moons spaces its angles evenly instead of drawing them, which changes the mean by less than its
    noise. The half circles are images of each other under x -> (1, 0.5) - x, so the expectation over the
    first one suffices. Gauss-Legendre in the angle, the trapezoidal rule on the plane: both converge
    exponentially here.
    """
    nodes, weights = np.polynomial.legendre.leggauss(num_angles)  # on (-1, 1), weights add up to 2
    angle = 0.5 * math.pi * (nodes + 1)
    circle = np.stack([np.cos(angle), np.sin(angle)])  # (2, num_angles)
    step, reach = 0.4 * noise, 8 * noise
    axes = (np.arange(-1 - reach, 1 + reach, step), np.arange(-reach, 1 + reach, step))

    def density(mirror: bool) -> NDArray:
        # the Gaussian factorises over the axes: a product of two matrices instead of an array of grid x
        # angles
        centre = np.array([[1.0], [0.5]]) - circle if mirror else circle
        factors = [
            np.exp(-0.5 * ((axis[:, None] - points) / noise) ** 2) / (noise * math.sqrt(2 * math.pi))
            for axis, points in zip(axes, centre, strict=True)
        ]
        return (factors[0] * weights / 2) @ factors[1].T

    first, second = density(mirror=False), density(mirror=True)
    mean_density = np.maximum(0.5 * (first + second), np.finfo(float).tiny)  # far corners underflow, at weight 0
    return float(step**2 * (first * np.log(mean_density)).sum())
