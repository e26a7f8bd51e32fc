"""Likelihoods p(x|z): what a decoder's output is read as, one per kind of data, and the options that build them.

Names such as ``"gaussian"`` stand for the options here, ``Gaussian()``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn as nn
from torch import Tensor

from .._options import typed
from . import distributions
from .likelihood import (
    LIKELIHOODS,
    Likelihood,
    LikelihoodOptions,
    make_likelihood,
    register_likelihood,
)
from .mlp import positive, raw_of
from .optimal import OptimalGaussianLikelihood

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "BernoulliLikelihood",
    "ContinuousBernoulli",
    "ContinuousBernoulliLikelihood",
    "DiscretisedLogistic",
    "DiscretisedLogisticLikelihood",
    "Gaussian",
    "GaussianLikelihood",
    "Likelihood",
    "LikelihoodOptions",
    "NegativeBinomial",
    "NegativeBinomialLikelihood",
    "OptimalGaussianLikelihood",
    "Poisson",
    "PoissonLikelihood",
    "make_likelihood",
    "register_likelihood",
]


@register_likelihood("bernoulli")
@dataclass(frozen=True)
class Bernoulli(LikelihoodOptions):
    """Binary data: independent Bernoulli distributions."""

    def build(self, x_shape: Sequence[int]) -> BernoulliLikelihood:
        return BernoulliLikelihood(len(x_shape))


class BernoulliLikelihood(Likelihood):
    """Binary data: independent Bernoulli with the decoder's output as logits. x must be 0 or 1."""

    x_range, values = (0.0, 1.0), "binary values"

    def forward(self, raw: Tensor) -> dist.Distribution:
        return distributions.JointBernoulli(dist.Bernoulli(logits=self._only(raw)), self.event_dim)

    def check(self, x: Tensor) -> None:
        distributions.check_binary(x)


@register_likelihood("continuous_bernoulli")
@dataclass(frozen=True)
class ContinuousBernoulli(LikelihoodOptions):
    """Grey levels in [0, 1]: a Bernoulli with its normalizing constant (Loaiza-Ganem and Cunningham 2019)."""

    def build(self, x_shape: Sequence[int]) -> ContinuousBernoulliLikelihood:
        return ContinuousBernoulliLikelihood(len(x_shape))


class ContinuousBernoulliLikelihood(Likelihood):
    """Grey levels in [0, 1]: a Bernoulli with its missing normalising constant
    (:class:`~pyro_priors.nn.ContinuousBernoulli`)."""

    x_range = (0.0, 1.0)

    def forward(self, raw: Tensor) -> dist.Distribution:
        return distributions.ContinuousBernoulli(self._only(raw)).to_event(self.event_dim)


@register_likelihood("discretised_logistic")
@dataclass(frozen=True)
class DiscretisedLogistic(LikelihoodOptions):
    """Grey levels k/255: a logistic density integrated over each of 256 bins (Kingma et al. 2016)."""

    def build(self, x_shape: Sequence[int]) -> DiscretisedLogisticLikelihood:
        return DiscretisedLogisticLikelihood(len(x_shape))


class DiscretisedLogisticLikelihood(Likelihood):
    """Grey levels k/255: a logistic density integrated over each of 256 bins
    (:class:`~pyro_priors.nn.DiscretisedLogistic`)."""

    num_outputs, x_range, values = 2, (0.0, 1.0), "256 levels"

    def forward(self, raw: Tensor) -> dist.Distribution:
        loc, scale = raw.unbind(-1 - self.event_dim)
        return distributions.DiscretisedLogistic(torch.sigmoid(loc), positive(scale, floor=1e-2)).to_event(
            self.event_dim
        )

    def check(self, x: Tensor) -> None:
        distributions.check_levels(x)
        super().check(x)
        if x.numel() and ((255 * x).round() - 255 * x).abs().max() > 1e-3:
            raise ValueError(
                "x must be gray levels k/255 for likelihood='discretised_logistic', got others: use "
                "likelihood='continuous_bernoulli'"
            )


SCALES = ("learned", "optimal", "per_channel")
START_SCALES = (1e-3, 1e2)
"""Least and greatest, of a learned scale."""


@register_likelihood("gaussian")
@dataclass(frozen=True)
class Gaussian(LikelihoodOptions):
    """Real data: a Gaussian whose scale is fixed, learned, or optimal."""

    scale: float | str = "learned"
    """Scale in units of x: a number, learned, per_channel (learned, one for each channel of images), or optimal (that
    of each batch, in closed form; Rybkin et al. 2021)."""
    init_scale: float | None = None
    """Start of a learned scale; 1 when left out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.scale, str):
            if self.scale not in SCALES:
                raise ValueError(f"scale must be a positive number or one of {', '.join(SCALES)}, got '{self.scale}'")
        elif not self.scale > 0:
            raise ValueError(f"scale must be positive, got {self.scale}: give scale=0.1, or leave it out to learn it")
        if self.init_scale is not None and self.scale not in ("learned", "per_channel"):
            raise ValueError(
                f"init_scale={self.init_scale:g} is for a learned scale, and scale is {self.scale}: give only one of "
                "them"
            )

    def build(self, x_shape: Sequence[int]) -> GaussianLikelihood | OptimalGaussianLikelihood:
        if self.scale == "optimal":
            return OptimalGaussianLikelihood(len(x_shape))
        if self.scale == "per_channel" and len(x_shape) != 3:
            raise ValueError(
                f"scale='per_channel' needs images, x_shape=(channels, height, width), got {tuple(x_shape)}: load them "
                "with flatten=False (--data.no-flatten), or use scale='learned'"
            )
        fixed = None if isinstance(self.scale, str) else self.scale
        num_channels = x_shape[0] if self.scale == "per_channel" else None
        return GaussianLikelihood(
            len(x_shape), fixed, num_channels, 1.0 if self.init_scale is None else self.init_scale
        )


class GaussianLikelihood(Likelihood):
    """Real data: N(loc, scale^2) with the decoder's output as loc and one scale for all values, or for each channel.

    :param event_dim: number of dimensions of one example
    :param scale: the fixed scale, in units of x; learned when None
    :param num_channels: size of x's first dimension, each value of which learns a scale; None for one scale
    :param init_scale: where a learned scale starts. Where it is far above the scale of the data, codes are worth less
        than their KL until it has fallen, and may carry nothing ever after
    """

    has_scale = True

    @typed
    def __init__(
        self,
        event_dim: int,
        scale: float | None = None,
        num_channels: int | None = None,
        init_scale: float = 1.0,
    ) -> None:
        super().__init__(event_dim)
        if scale is not None and not scale > 0:
            raise ValueError(f"scale must be positive, got {scale}: give scale=0.1, or leave it out to learn it")
        if not START_SCALES[0] <= init_scale <= START_SCALES[1]:
            raise ValueError(
                f"init_scale must be from {START_SCALES[0]:g} to {START_SCALES[1]:g}, got {init_scale:g}: give about "
                "the standard deviation that a good reconstruction leaves"
            )
        self.fixed_scale = scale
        shape = () if num_channels is None else (num_channels, *(1,) * (event_dim - 1))
        self.raw_scale = nn.Parameter(torch.full(shape, raw_of(init_scale))) if scale is None else None

    def forward(self, raw: Tensor) -> dist.Distribution:
        scale: Any = self.fixed_scale if self.raw_scale is None else positive(self.raw_scale)
        return dist.Normal(self._only(raw), scale).to_event(self.event_dim)


@register_likelihood("poisson")
@dataclass(frozen=True)
class Poisson(LikelihoodOptions):
    """Counts: independent Poisson distributions."""

    def build(self, x_shape: Sequence[int]) -> PoissonLikelihood:
        return PoissonLikelihood(len(x_shape))


class PoissonLikelihood(Likelihood):
    """Counts 0, 1, 2, ...: independent Poisson distributions, whose rates are softplus of the decoder's output."""

    x_range, values = (0.0, math.inf), "counts"

    def forward(self, raw: Tensor) -> dist.Distribution:
        return distributions.Poisson(positive(self._only(raw))).to_event(self.event_dim)

    def check(self, x: Tensor) -> None:
        _check_counts(x, "poisson")


@register_likelihood("negative_binomial")
@dataclass(frozen=True)
class NegativeBinomial(LikelihoodOptions):
    """Counts that vary more than Poisson's: independent negative binomial distributions of learned dispersion."""

    def build(self, x_shape: Sequence[int]) -> NegativeBinomialLikelihood:
        return NegativeBinomialLikelihood(x_shape)


class NegativeBinomialLikelihood(Likelihood):
    r"""Counts 0, 1, 2, ...: negative binomial distributions with the mean of each value from the decoder.

    .. math:: p(x) = \frac{\Gamma(x + r)}{x!\, \Gamma(r)} \Big(\frac{r}{r + m}\Big)^r \Big(\frac{m}{r + m}\Big)^x,
        \qquad \mathrm{var}\, x = m + m^2 / r

    with the mean m, softplus of the decoder's output, and for each value of x one learned r, the inverse dispersion,
    which starts at 1. That is the parametrization of single-cell models (Lopez et al. 2018).

    :param x_shape: shape of one example

    Reference: Romain Lopez, Jeffrey Regier, Michael B. Cole, Michael I. Jordan and Nir Yosef, Deep generative modeling
    for single-cell transcriptomics, Nature Methods 2018.
    """

    x_range, values = (0.0, math.inf), "counts"

    @typed
    def __init__(self, x_shape: Sequence[int]) -> None:
        super().__init__(len(x_shape))
        self.raw_inverse_dispersion = nn.Parameter(torch.full(tuple(x_shape), raw_of(1.0)))

    def forward(self, raw: Tensor) -> dist.Distribution:
        mean, r = positive(self._only(raw)), positive(self.raw_inverse_dispersion)
        return distributions.NegativeBinomial(r, logits=mean.log() - r.log()).to_event(self.event_dim)

    def check(self, x: Tensor) -> None:
        _check_counts(x, "negative_binomial")


def _check_counts(x: Tensor, name: str) -> None:
    wrong = x[(x < 0) | (x != x.round())]
    if wrong.numel():
        raise ValueError(
            f"x must be counts 0, 1, 2, ... for likelihood='{name}', got {wrong[0].item():g}: use "
            "likelihood='gaussian' for other numbers"
        )
