"""Toy data whose true mean log density is known: what a perfect model would reach."""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from .registry import DataConfig, data_set
from .splits import Part, Splits

__all__: list[str] = []

MIXTURE_MEANS, MIXTURE_SD = np.array([0.1, 1.0]), 0.1
"""Of the data set ``mixture``."""

Sampler = Callable[[int, np.random.Generator], tuple[NDArray, NDArray]]


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
        x, label = sample(size, random)
        parts.append(Part(torch.from_numpy(x.astype(np.float32)), None, torch.from_numpy(label.astype(np.int64))))
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


@data_set("mixture")
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


@data_set("four_gaussians")
def four_gaussians(config: DataConfig) -> Splits:
    """Four Gaussians arranged in a square, two-dimensional (Klushyn et al. 2019, section 4.1 and figure 1).

    The paper gives no numbers. Ours: means (+-1, +-1), standard deviation 0.1, equal weights, 10,000
    training, 2,000 validation and 2,000 test points. The label is the component, 2 [x_1 > 0] + [x_2 > 0] for
    its mean.
    """
    means, sd = np.array([-1.0, 1.0]), 0.1

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


@data_set("moons")
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
