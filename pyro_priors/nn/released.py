"""Heads and first weights of the published code of Lavda et al. (2019), for the pair ``cp_vae_reference``."""

import math

import pyro.distributions as dist
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .._options import typed
from .._precision import at_least_float32
from .mlp import JoinedLinear
from .relaxed import category_of

__all__ = ["ReleasedCategoricalHead", "ReleasedGaussianHead", "he_"]


class ReleasedCategoricalHead(nn.Module):
    """Categorical whose logits pass an ELU, which keeps them above -1 and leaves them free upwards.

    :param in_dim: size of the features
    :param num_categories: number of categories K
    """

    @typed
    def __init__(self, in_dim: int, num_categories: int) -> None:
        super().__init__()
        self.logits = JoinedLinear(in_dim, num_categories)

    def forward(self, h: Tensor) -> dist.Distribution:
        """
        :param h: features, shape ``left_shape + (in_dim,)``
        :returns: categorical with batch shape ``left_shape``
        """
        return category_of(F.elu(at_least_float32(self.logits(h))), None, self.training)


class ReleasedGaussianHead(nn.Module):
    """Diagonal Gaussian with its log-variance cut off at -6 and 2.

    :param in_dim: size of the features
    :param z_dim: size of the Gaussian
    :param num_categories: number of categories
    """

    @typed
    def __init__(self, in_dim: int, z_dim: int, num_categories: int) -> None:
        super().__init__()
        self.parameters_of_z = JoinedLinear(in_dim, 2 * z_dim, num_categories=num_categories, num_blocks=2)

    def forward(self, h: Tensor, c: Tensor) -> dist.Distribution:
        """
        :param h: features, shape ``left_shape + (in_dim,)``
        :param c: category numbers, shape ``left_shape``, or log-weights, shape ``left_shape + (K,)``
        :returns: distribution with batch shape ``left_shape`` and event shape ``(z_dim,)``
        """
        loc, log_variance = at_least_float32(self.parameters_of_z(h, c=c)).chunk(2, -1)
        return dist.Normal(loc, (0.5 * F.hardtanh(log_variance, -6.0, 2.0)).exp()).to_event(1)


@torch.no_grad()
def he_(module: nn.Module) -> None:
    """Draw the weights of every affine map from N(0, 2 / fan_in), the category's as part of the input's."""
    for part in module.modules():
        if isinstance(part, JoinedLinear):
            fan_in = part.input.in_features + (part.category.num_embeddings if part.category is not None else 0)
            for weighted in (part.input, part.category):
                if weighted is not None:
                    weighted.weight.normal_(0, math.sqrt(2 / fan_in))
