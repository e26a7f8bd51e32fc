"""A Gaussian prior with trained location and scale."""

import pyro.distributions as dist
import torch
import torch.nn as nn

from .._hints import check_sizes
from .._options import typed
from .._precision import at_least_float32
from ..nn import positive, raw_of

__all__ = ["GaussianPrior"]


class GaussianPrior(nn.Module):
    """p(z) = N(loc, diag(scale^2)) with both trained, starting at N(0, I).

    With it a VAE is the model that Lavda et al. (2019, equation 15) call CP1: CP-VAE with a single category.

    :param z_dim: size of z
    """

    @typed
    def __init__(self, z_dim: int) -> None:
        super().__init__()
        check_sizes(z_dim=z_dim)
        self.loc = nn.Parameter(torch.zeros(z_dim))
        self.raw_scale = nn.Parameter(torch.full((z_dim,), raw_of(1.0)))

    def forward(self) -> dist.Distribution:
        """:returns: distribution with batch shape ``()`` and event shape ``(z_dim,)``"""
        return dist.Normal(at_least_float32(self.loc), positive(self.raw_scale)).to_event(1)
