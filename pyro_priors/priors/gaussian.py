"""One Gaussian as the prior: learnable, one for each category, or from a network of the condition."""

from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn as nn
from torch import Tensor

from .._options import typed
from .._precision import at_least_float32
from ..errors import check_sizes
from ..nn import GaussianHead, JoinedLinear, chosen, positive, raw_of
from ..nn.distributions import MultivariateNormal
from .base import Parts, Prior, PriorOptions, register_prior

__all__ = ["ConditionalGaussianPrior", "Gaussian", "GaussianPrior"]

COVARIANCES = ("diagonal", "full")


@register_prior("gaussian")
@dataclass(frozen=True)
class Gaussian(PriorOptions):
    """A learnable Gaussian; one for each category (Lavda et al. 2019), or from a network (Sohn et al. 2015)."""

    covariance: str = "diagonal"
    """Covariance of z: diagonal or full (footnote 3 of Lavda et al. 2019)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.covariance not in COVARIANCES:
            raise ValueError(f"covariance must be one of {', '.join(COVARIANCES)}, got {self.covariance!r}")

    def build(self, parts: Parts) -> Prior:
        if parts.context == "condition":
            return ConditionalGaussianPrior(parts.features(), parts.z_dim, self.covariance)
        return GaussianPrior(parts.z_dim, parts.num_categories, self.covariance)


class GaussianPrior(Prior):
    r"""A Gaussian with learnable location and scale, or one for each category (equation 5 of Lavda et al. 2019).

    .. math:: p(z \mid c) = \mathcal{N}(z \mid \mathrm{loc}_c, \mathrm{diag}(\mathrm{scale}_c^2))

    Without categories it starts at N(0, I), and a VAE with it is the model that Lavda et al. (equation 15) call CP1.

    With categories the scales start at 1 and the locations at draws from N(0, 1/z_dim), so that
    :math:`|\mathrm{loc}_c|^2 \approx 1` for every ``z_dim``. Draws from N(0, 1) would have a squared length of about
    ``z_dim``: the categories would begin many nats apart for a posterior that begins near the origin. That start is
    ours; the paper names none. The published implementation never trains these numbers, and reads the same ones as a
    log-variance in training and as a standard deviation in generation. Here both are parameters, read in one way.

    :param z_dim: size of z
    :param num_categories: number of categories, 0 for none
    :param covariance: ``"diagonal"``, or ``"full"``: the Cholesky factor has a learnable lower triangle, which starts
        at 0
    """

    @typed
    def __init__(self, z_dim: int, num_categories: int = 0, covariance: str = "diagonal") -> None:
        super().__init__()
        check_sizes(z_dim=z_dim)
        shape = (num_categories, z_dim) if num_categories else (z_dim,)
        self.num_categories = num_categories
        self.loc = nn.Parameter(torch.randn(shape) / z_dim**0.5 if num_categories else torch.zeros(shape))
        self.raw_scale = nn.Parameter(torch.full(shape, raw_of(1.0)))
        num_lower = z_dim * (z_dim - 1) // 2 if covariance == "full" else 0
        self.lower = nn.Parameter(torch.zeros(*shape[:-1], num_lower)) if num_lower else None

    def forward(self, context: Tensor | None = None) -> dist.Distribution:
        """
        :param context: category numbers, shape ``left_shape``, or log-weights of a relaxed category, shape
            ``left_shape + (num_categories,)``: then the weighted means of the parameters; not used without categories
        :returns: distribution with batch shape ``left_shape``, or ``()``, and event shape ``(z_dim,)``
        """
        loc, scale = at_least_float32(self.loc), positive(self.raw_scale)
        lower = None if self.lower is None else at_least_float32(self.lower)
        if self.num_categories:
            c: Any = context
            with torch.autocast(loc.device.type, enabled=False):  # which would multiply in half precision
                loc, scale = chosen(loc, c), chosen(scale, c)
                lower = None if lower is None else chosen(lower, c)
        return _gaussian(loc, scale, lower)


class ConditionalGaussianPrior(Prior):
    """p(z|condition) = N(loc(condition), diag(scale(condition)^2)), the prior of the conditional VAE.

    :param network: module from conditions to ``network.out_dim`` features
    :param z_dim: size of z
    :param covariance: ``"diagonal"``, or ``"full"``: the network also gives the lower triangle of the Cholesky factor,
        which starts at 0

    Reference: Kihyuk Sohn, Honglak Lee and Xinchen Yan, Learning structured output representation using deep
    conditional generative models, NIPS 2015.
    """

    @typed
    def __init__(self, network: nn.Module, z_dim: int, covariance: str = "diagonal") -> None:
        super().__init__()
        num_features: Any = network.out_dim
        self.network = network
        self.head = GaussianHead(num_features, z_dim)
        num_lower = z_dim * (z_dim - 1) // 2 if covariance == "full" else 0
        self.lower = JoinedLinear(num_features, num_lower) if num_lower else None
        if self.lower is not None:
            nn.init.zeros_(self.lower.input.weight)

    def forward(self, context: Tensor | None = None) -> dist.Distribution:
        """
        :param context: conditions, shape ``left_shape + condition_shape``
        :returns: distribution with batch shape ``left_shape`` and event shape ``(z_dim,)``
        """
        h = self.network(context)
        base = self.head(h)
        if self.lower is None:
            return base
        normal = base.base_dist
        return _gaussian(normal.loc, normal.scale, at_least_float32(self.lower(h)))


def _gaussian(loc: Tensor, scale: Tensor, lower: Tensor | None) -> dist.Distribution:
    """The Gaussian of a location, a scale, and, of a full covariance, what its Cholesky factor has below them."""
    if lower is None:
        return dist.Normal(loc, scale).to_event(1)
    row, column = torch.tril_indices(loc.shape[-1], loc.shape[-1], -1, device=loc.device)
    factor = torch.diag_embed(scale)
    factor[..., row, column] = lower
    return MultivariateNormal(loc, scale_tril=factor)
