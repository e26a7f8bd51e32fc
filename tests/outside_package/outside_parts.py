"""What a package from outside adds to pyro_priors: a prior, a likelihood, an objective, data and a metric."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

import pyro_priors as pp
from pyro_priors.objectives import ELBO, Terms


@pp.priors.register_prior("outside_student")
@dataclass(frozen=True)
class Student(pp.priors.PriorOptions):
    """A Student t of learnable scale."""

    df: float = 5.0
    """Degrees of freedom."""

    def build(self, parts: pp.priors.Parts) -> nn.Module:
        return StudentPrior(parts.z_dim, self.df)


class StudentPrior(pp.priors.Prior):
    """p(z) = t(z | df, 0, scale), the same for every context."""

    def __init__(self, z_dim: int, df: float) -> None:
        super().__init__()
        self.df = df
        self.raw_scale = nn.Parameter(torch.zeros(z_dim))

    def forward(self, context: Tensor | None = None) -> dist.Distribution:
        return dist.StudentT(self.df, torch.zeros_like(self.raw_scale), F.softplus(self.raw_scale) + 0.1).to_event(1)


@pp.likelihoods.register_likelihood("outside_laplace")
@dataclass(frozen=True)
class Laplace(pp.likelihoods.LikelihoodOptions):
    """Laplace noise."""

    width: float = 0.5
    """Scale of the noise, in units of x."""

    def build(self, x_shape: Sequence[int]) -> pp.nn.Likelihood:
        return LaplaceLikelihood(len(x_shape), self.width)


class LaplaceLikelihood(pp.nn.Likelihood):
    """Laplace noise around the decoder's output."""

    x_range = (-float("inf"), float("inf"))

    def __init__(self, event_dim: int, width: float) -> None:
        super().__init__(event_dim)
        self.width = width

    def forward(self, raw: Tensor) -> dist.Distribution:
        return dist.Laplace(raw.squeeze(-1 - self.event_dim), self.width).to_event(self.event_dim)


@pp.objectives.register_objective("outside-tempered")
class Tempered(ELBO):
    """The ELBO with its reconstruction weighed.

    :param power: weight of the reconstruction
    """

    def __init__(self, power: float = 1.0) -> None:
        super().__init__()
        self.power = power

    def _terms(self, model_trace: Any, guide_trace: Any) -> Terms:
        terms = super()._terms(model_trace, guide_trace)
        terms.scales["reconstruction"] = self.power
        return terms


@pp.data.register_data("outside_line")
def line(config: pp.data.DataConfig) -> pp.data.Splits:
    """Points near a line in four dimensions."""
    generator = torch.Generator().manual_seed(config.seed)
    t = torch.rand(200, 1, generator=generator)
    noise = 0.1 * torch.randn(200, 4, generator=generator)
    return pp.data.from_arrays((t * torch.tensor([1.0, -1.0, 0.5, 2.0]) + noise).numpy(), name="outside_line")


@pp.metrics.register_metric("outside_spread", needs="data in more than one dimension")
def spread(context: pp.metrics.Context) -> dict[str, pp.metrics.Estimate]:
    """Standard deviation of x over its dimensions."""
    if context.data.x_shape == (1,):
        return {}
    each = [x.std(-1) for x, _ in pp.metrics.rows(context, context.part)]
    return {"outside_spread": pp.metrics.mean_of(torch.cat(each), "units of x")}
