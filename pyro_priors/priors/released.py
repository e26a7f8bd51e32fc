"""The prior of the published code of Lavda et al. (2019)."""

import pyro.distributions as dist
import torch
import torch.nn as nn
from torch import Tensor
from torch.distributions import kl_divergence

from .._options import typed
from .._precision import at_least_float32
from ..errors import check_sizes

__all__ = ["ReleasedCategoryPrior"]


class ReleasedCategoryPrior(nn.Module):
    r"""One diagonal Gaussian per category that is never trained and is read in two ways.

    .. math:: \mathrm{loc}, r \sim U(0, 1), \qquad \mathrm{scale} = 1 + e^{r / 2} \text{ in training}, \qquad
        \mathrm{scale} = e^{r} \text{ in generation}

    so that in training all categories share, for all practical purposes, one Gaussian with scales from 2 to 2.65.

    :param num_categories: number of categories K
    :param z_dim: size of z
    """

    loc: Tensor
    raw_scale: Tensor

    @typed
    def __init__(self, num_categories: int, z_dim: int) -> None:
        super().__init__()
        check_sizes(num_categories=num_categories, z_dim=z_dim)
        self.register_buffer("loc", torch.rand(num_categories, z_dim))
        self.register_buffer("raw_scale", torch.rand(num_categories, z_dim))

    def forward(self, context: Tensor) -> dist.TorchDistribution:
        """p(z|c) as the training reads it.

        :param context: category numbers, shape ``left_shape``
        :returns: distribution with batch shape ``left_shape`` and event shape ``(z_dim,)``
        """
        loc, raw_scale = self._of(context)
        return dist.Normal(loc, 1 + (raw_scale / 2).exp()).to_event(1)

    def generated(self, c: Tensor) -> dist.TorchDistribution:
        """p(z|c) as the generation reads it, otherwise as :meth:`forward`."""
        loc, raw_scale = self._of(c)
        return dist.Normal(loc, raw_scale.exp()).to_event(1)

    def _of(self, c: Tensor) -> tuple[Tensor, Tensor]:
        c = c.long()
        return at_least_float32(self.loc[c]), at_least_float32(self.raw_scale[c])

    def kl(self, q_z: dist.TorchDistribution) -> Tensor:
        """KL of a posterior of batch shape ``(batch,)`` from p(z|c), for each c: shape ``(batch, K)``."""
        every = torch.arange(len(self.loc), device=self.loc.device)
        return kl_divergence(q_z.expand((len(self.loc), *q_z.batch_shape)), self(every[:, None])).movedim(0, -1)
