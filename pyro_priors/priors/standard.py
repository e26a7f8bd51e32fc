"""The standard normal prior."""

from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor

from .._options import typed
from .._precision import at_least_float32
from ..errors import check_sizes
from .base import Parts, Prior, PriorOptions, register_prior

__all__ = ["Standard", "StandardPrior"]


@register_prior("standard")
@dataclass(frozen=True)
class Standard(PriorOptions):
    """N(0, I), the same for every context."""

    def build(self, parts: Parts) -> "StandardPrior":
        return StandardPrior(parts.z_dim)


class StandardPrior(Prior):
    """p(z) = N(0, I): nothing to learn, and the same for every context.

    :param z_dim: size of z

    Reference: Diederik P. Kingma and Max Welling, Auto-encoding variational Bayes, ICLR 2014, arXiv:1312.6114.
    """

    loc: Tensor
    scale: Tensor

    @typed
    def __init__(self, z_dim: int) -> None:
        super().__init__()
        check_sizes(z_dim=z_dim)
        self.register_buffer("loc", torch.zeros(z_dim), persistent=False)
        self.register_buffer("scale", torch.ones(z_dim), persistent=False)

    def forward(self, context: Tensor | None = None) -> dist.Distribution:
        """
        :param context: not used
        :returns: distribution with batch shape ``()`` and event shape ``(z_dim,)``
        """
        return dist.Normal(at_least_float32(self.loc), at_least_float32(self.scale)).to_event(1)
