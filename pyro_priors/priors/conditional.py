"""Priors p(z|condition) whose parameters a network gives: one Gaussian, and a mixture of them."""

from collections.abc import Sequence
from math import prod
from typing import Any

import pyro.distributions as dist
import torch.nn as nn
from torch import Tensor

from .._hints import check_sizes
from .._options import typed
from ..nn import MLP, Encoder, JoinedLinear, positive
from .mixture import GaussianMixture

__all__ = ["ComponentNetwork", "ConditionalGaussianPrior", "ConditionalMixturePrior"]


class ConditionalGaussianPrior(nn.Module):
    """p(z|condition) = N(loc(condition), diag(scale(condition)^2)), the prior of the conditional VAE.

    :param condition_shape: shape of one condition
    :param z_dim: size of z
    :param hidden: sizes of the hidden layers
    :param gated: gated layers instead of ReLU
    :param network: module from the condition to p(z|condition), in the place of a perceptron

    Reference: Kihyuk Sohn, Honglak Lee and Xinchen Yan, Learning structured output representation using deep
    conditional generative models, NIPS 2015.
    """

    @typed
    def __init__(
        self,
        condition_shape: Sequence[int],
        z_dim: int,
        hidden: Sequence[int] = (300, 300),
        gated: bool = True,
        network: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.network = Encoder(condition_shape, z_dim, hidden, gated) if network is None else network

    def forward(self, condition: Tensor) -> dist.Distribution:
        """
        :param condition: shape ``left_shape + condition_shape``
        :returns: distribution with batch shape ``left_shape`` and event shape ``(z_dim,)``
        """
        return self.network(condition)


class ComponentNetwork(nn.Module):
    """f(condition): what the K components of a mixture are made of, and their weights, from one network.

    The affine map to each component's numbers is initialised as one of its own.

    :param condition_shape: shape of one condition
    :param shape: shape of what a component is made of
    :param num_components: number of components K
    :param hidden: sizes of the hidden layers
    :param gated: gated layers instead of ReLU
    :param trained_weights: weights that the condition decides; False: 1/K each
    :param trunk: module from the condition to ``trunk.out_dim`` features, in the place of a perceptron
    """

    @typed
    def __init__(
        self,
        condition_shape: Sequence[int],
        shape: Sequence[int],
        num_components: int,
        hidden: Sequence[int] = (300, 300),
        gated: bool = True,
        trained_weights: bool = False,
        trunk: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_sizes(num_components=num_components)
        self.condition_dim, self.shape = len(condition_shape), (num_components, *shape)
        self.flatten = trunk is None
        network: Any = MLP(prod(condition_shape), hidden, gated) if trunk is None else trunk
        self.trunk, num_features = network, network.out_dim
        self.components = JoinedLinear(num_features, prod(self.shape), num_blocks=num_components)
        self.weights = JoinedLinear(num_features, num_components) if trained_weights else None

    def num_left(self, condition: Tensor) -> int:
        """Number of dimensions of ``left_shape``."""
        return condition.dim() - self.condition_dim

    def forward(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """
        :param condition: shape ``left_shape + condition_shape``
        :returns: unnormalised log-weights, shape ``left_shape + (K,)``, or ``(K,)`` where they are 1/K; and components,
            shape ``left_shape + (K,) + shape``
        """
        h = self.trunk(condition.flatten(-self.condition_dim) if self.flatten else condition)
        components = self.components(h).unflatten(-1, self.shape)
        return components.new_zeros(self.shape[0]) if self.weights is None else self.weights(h), components


class ConditionalMixturePrior(nn.Module):
    r"""Conditional mixture of Gaussians, CMoG (Klushyn et al. 2019, section 2.4).

    .. math:: p(z \mid \mathrm{condition}) = \frac{1}{K} \sum_{k=1}^{K}
        \mathcal{N}(z \mid \mathrm{loc}_k(\mathrm{condition}), \mathrm{diag}(\mathrm{scale}_k(\mathrm{condition})^2))

    with all locations and scales from one network. With one component it is :class:`ConditionalGaussianPrior`.

    :param condition_shape: shape of one condition
    :param z_dim: size of z
    :param num_components: number of components K
    :param hidden: sizes of the hidden layers
    :param gated: gated layers instead of ReLU
    :param trained_weights: weights that the network gives too; False: 1/K each, as published
    :param trunk: as in :class:`ComponentNetwork`

    Reference: Alexej Klushyn, Nutan Chen, Botond Cseke, Justin Bayer and Patrick van der Smagt, Increasing the
    generalisation capacity of conditional VAEs, ICANN 2019.
    """

    @typed
    def __init__(
        self,
        condition_shape: Sequence[int],
        z_dim: int,
        num_components: int = 32,
        hidden: Sequence[int] = (300, 300),
        gated: bool = True,
        trained_weights: bool = False,
        trunk: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.network = ComponentNetwork(
            condition_shape, (2, z_dim), num_components, hidden, gated, trained_weights, trunk
        )

    def forward(self, condition: Tensor) -> dist.Distribution:
        """
        :param condition: shape ``left_shape + condition_shape``
        :returns: distribution with batch shape ``left_shape`` and event shape ``(z_dim,)``
        """
        logits, parameters = self.network(condition)
        loc, raw_scale = parameters.unbind(-2)  # left_shape + (K, z_dim)
        return GaussianMixture(logits, loc, positive(raw_scale))
