"""Encoders and decoders: networks that return Pyro distributions."""

from collections.abc import Sequence
from math import prod

import pyro.distributions as dist
import torch.nn as nn
from torch import Tensor

from .._options import typed
from .._precision import at_least_float32
from .likelihoods import Likelihood
from .mlp import MLP, BranchedMLP, JoinedLinear, positive
from .relaxed import Temperature, category_of

__all__ = ["CategoricalHead", "CategoryEncoder", "Decoder", "Encoder", "GaussianHead"]


def _flat(x: Tensor | None, shape: Sequence[int]) -> Tensor | None:
    return x if x is None or len(shape) == 1 else x.flatten(-len(shape))


class GaussianHead(nn.Module):
    """Diagonal Gaussian whose loc and scale are affine in features and, optionally, a category.

    :param in_dim: size of the features
    :param z_dim: size of the Gaussian
    :param num_categories: number of categories, 0 for none
    """

    @typed
    def __init__(self, in_dim: int, z_dim: int, num_categories: int = 0) -> None:
        super().__init__()
        self.z_dim = z_dim
        self.parameters_of_z = JoinedLinear(in_dim, 2 * z_dim, num_categories=num_categories, num_blocks=2)

    def forward(self, h: Tensor, c: Tensor | None = None) -> dist.Distribution:
        """
        :param h: features, shape ``left_shape + (in_dim,)``
        :param c: category numbers, shape ``left_shape``
        :returns: distribution with batch shape ``left_shape`` and event shape ``(z_dim,)``
        """
        loc, raw_scale = at_least_float32(self.parameters_of_z(h, c=c)).chunk(2, -1)
        return dist.Normal(loc, positive(raw_scale)).to_event(1)


class CategoricalHead(nn.Module):
    """Categorical whose logits are affine in features.

    :param in_dim: size of the features
    :param num_categories: number of categories K
    :param temperature: of the relaxed category that it is in training; None for a categorical always
    """

    @typed
    def __init__(self, in_dim: int, num_categories: int, temperature: Temperature | None = None) -> None:
        super().__init__()
        self.logits = JoinedLinear(in_dim, num_categories)
        self.temperature = temperature

    def forward(self, h: Tensor) -> dist.Distribution:
        """
        :param h: features, shape ``left_shape + (in_dim,)``
        :returns: categorical with batch shape ``left_shape``, or a relaxed one
        """
        return category_of(self.logits(h), self.temperature, self.training)


class CategoryEncoder(nn.Module):
    """q(z|x,c) as one network, of the two parts that a guide has of it.

    :param trunk: module from x to features
    :param latent: module from features and keyword c to q(z|x,c)
    """

    @typed
    def __init__(self, trunk: nn.Module, latent: nn.Module) -> None:
        super().__init__()
        self.trunk, self.latent = trunk, latent

    def forward(self, x: Tensor, c: Tensor) -> dist.Distribution:
        """
        :param x: shape ``(batch,) + x_shape``
        :param c: category numbers, shape ``(batch,)``
        :returns: distribution with batch shape ``(batch,)`` and event shape ``(z_dim,)``
        """
        return self.latent(self.trunk(x), c=c)


class Encoder(nn.Module):
    """q(z|x) or q(z|x,condition): a perceptron that ends in a diagonal Gaussian.

    :param x_shape: shape of one datum; flattened inside
    :param z_dim: size of z
    :param hidden: sizes of the hidden layers
    :param gated: gated layers instead of ReLU
    :param condition_shape: shape of one condition, None for none
    :param branched: x and condition pass a layer each before they join (:class:`BranchedMLP`)
    """

    broadcasts = True
    """Several x may share a condition whose left dimensions broadcast with theirs: its part is computed once."""

    @typed
    def __init__(
        self,
        x_shape: Sequence[int],
        z_dim: int,
        hidden: Sequence[int] = (300, 300),
        gated: bool = True,
        condition_shape: Sequence[int] | None = None,
        branched: bool = False,
    ) -> None:
        super().__init__()
        self.x_shape, self.condition_shape = tuple(x_shape), tuple(condition_shape or ())
        condition_dim = prod(self.condition_shape) if condition_shape else 0
        self.trunk: nn.Module
        if branched:
            self.trunk = BranchedMLP(prod(x_shape), condition_dim, hidden, gated)
        else:
            self.trunk = MLP(prod(x_shape), hidden, gated, condition_dim)
        self.head = GaussianHead(hidden[-1], z_dim)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> dist.Distribution:
        """
        :param x: shape ``left_shape + x_shape``
        :param condition: shape ``left_shape + condition_shape``
        :returns: distribution with batch shape ``left_shape`` and event shape ``(z_dim,)``
        """
        return self.head(self.trunk(_flat(x, self.x_shape), _flat(condition, self.condition_shape)))


class Decoder(nn.Module):
    """p(x|z), p(x|z,c) or p(x|z,condition): a perceptron that ends in a likelihood.

    :param z_dim: size of z
    :param x_shape: shape of one datum
    :param likelihood: what the output is read as
    :param hidden: sizes of the hidden layers
    :param gated: gated layers instead of ReLU
    :param condition_shape: shape of one condition, None for none
    :param num_categories: number of categories, 0 for none
    :param branched: z and condition pass a layer each before they join (:class:`BranchedMLP`); for no categories
    """

    broadcasts = True
    """Several z may share a condition whose left dimensions broadcast with theirs: its part is computed once."""

    @typed
    def __init__(
        self,
        z_dim: int,
        x_shape: Sequence[int],
        likelihood: Likelihood,
        hidden: Sequence[int] = (300, 300),
        gated: bool = True,
        condition_shape: Sequence[int] | None = None,
        num_categories: int = 0,
        branched: bool = False,
    ) -> None:
        super().__init__()
        self.x_shape, self.condition_shape = tuple(x_shape), tuple(condition_shape or ())
        condition_dim = prod(self.condition_shape) if condition_shape else 0
        self.trunk: nn.Module
        if branched:
            self.trunk = BranchedMLP(z_dim, condition_dim, hidden, gated)
        else:
            self.trunk = MLP(z_dim, hidden, gated, condition_dim, num_categories)
        self.out = JoinedLinear(hidden[-1], likelihood.num_outputs * prod(x_shape), num_blocks=likelihood.num_outputs)
        self.likelihood = likelihood

    def forward(self, z: Tensor, condition: Tensor | None = None, c: Tensor | None = None) -> dist.Distribution:
        """
        :param z: shape ``left_shape + (z_dim,)``
        :param condition: shape ``left_shape + condition_shape``
        :param c: category numbers, shape ``left_shape``
        :returns: distribution with batch shape ``left_shape`` and event shape ``x_shape``
        """
        out = self.out(self.trunk(z, _flat(condition, self.condition_shape), c))
        return self.likelihood(out.unflatten(-1, (self.likelihood.num_outputs, *self.x_shape)))
