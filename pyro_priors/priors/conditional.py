"""Priors p(z|condition)."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch.nn as nn
from torch import Tensor

from ..nn import Encoder

__all__ = ["ConditionalGaussianPrior"]


class ConditionalGaussianPrior(nn.Module):
    """p(z|condition) = N(loc(condition), diag(scale(condition)^2)), the prior of the conditional VAE.

    :param condition_shape: shape of one condition
    :param z_dim: size of z
    :param hidden: sizes of the hidden layers
    :param gated: gated layers instead of ReLU

    Reference: Kihyuk Sohn, Honglak Lee and Xinchen Yan, Learning structured output representation using deep
    conditional generative models, NIPS 2015.
    """

    def __init__(
        self, condition_shape: Sequence[int], z_dim: int, hidden: Sequence[int] = (300, 300), gated: bool = True
    ) -> None:
        super().__init__()
        self.network = Encoder(condition_shape, z_dim, hidden, gated)

    def forward(self, condition: Tensor) -> dist.Distribution:
        """
        :param condition: shape ``left_shape + condition_shape``
        :returns: distribution with batch shape ``left_shape`` and event shape ``(z_dim,)``
        """
        return self.network(condition)
