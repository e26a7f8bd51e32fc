"""What mixtures are made of: a network that gives their components, and posteriors as components."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isinf, prod
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .._options import typed
from .._precision import at_least_float32, in_precision_of, with_float32_parameters
from ..errors import UserError, check_sizes
from ..nn import JoinedLinear
from ..registration import check_distribution
from ..sites import base_of, is_normal
from .gaussian_mixture import GaussianMixture

__all__ = ["ComponentNetwork", "evaluating", "in_range", "keep_logits", "mixture_of", "posteriors_given", "together"]


class ComponentNetwork(nn.Module):
    """f(condition): what the K components of a mixture are made of, and their weights, from one network.

    The affine map to each component's numbers is initialised as one of its own.

    :param trunk: module from conditions to ``trunk.out_dim`` features
    :param condition_shape: shape of one condition
    :param shape: shape of what a component is made of
    :param num_components: number of components K
    :param learnable_weights: weights that depend on the condition; False: 1/K each
    """

    @typed
    def __init__(
        self,
        trunk: nn.Module,
        condition_shape: Sequence[int],
        shape: Sequence[int],
        num_components: int,
        learnable_weights: bool = False,
    ) -> None:
        super().__init__()
        check_sizes(num_components=num_components)
        self.condition_dim, self.shape = len(condition_shape), (num_components, *shape)
        num_features: Any = trunk.out_dim
        self.trunk = trunk
        self.components = JoinedLinear(num_features, prod(self.shape), num_blocks=num_components)
        self.weights = JoinedLinear(num_features, num_components) if learnable_weights else None

    def num_left(self, condition: Tensor) -> int:
        """Number of dimensions of ``left_shape``."""
        return condition.dim() - self.condition_dim

    def forward(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """
        :param condition: shape ``left_shape + condition_shape``
        :returns: unnormalised log-weights, shape ``left_shape + (K,)``, or ``(K,)`` where they are 1/K; and components,
            shape ``left_shape + (K,) + shape``
        """
        h = self.trunk(condition)
        components = self.components(h).unflatten(-1, self.shape)
        return components.new_zeros(self.shape[0]) if self.weights is None else self.weights(h), components


def keep_logits(module: nn.Module, logits: Tensor, learnable: bool) -> None:
    """Give a module unnormalized log-weights ``logits``: a parameter, or a buffer that is not saved."""
    if learnable:
        module.logits = nn.Parameter(logits)
    else:
        module.register_buffer("logits", logits, persistent=False)


def in_range(free: Tensor, x_range: tuple[float, float]) -> Tensor:
    """Map free numbers into a range by a function whose gradient is nowhere 0."""
    low, high = x_range
    if isinf(low):
        return free
    return low + F.softplus(free) if isinf(high) else low + (high - low) * torch.sigmoid(free)


def mixture_of(logits: Tensor, components: dist.Distribution) -> dist.Distribution:
    """The mixture of some components: :class:`GaussianMixture`, or Pyro's where they are not diagonal Gaussians.

    :param logits: unnormalised log-weights, shape ``(K,)``
    :param components: distribution with batch shape ``batch_shape + (K,)`` and event shape ``(z_dim,)``
    :returns: distribution with batch shape ``batch_shape`` and event shape ``(z_dim,)``
    """
    if not is_normal(components):
        categories = dist.Categorical(logits=at_least_float32(logits))
        return dist.MixtureSameFamily(categories, with_float32_parameters(components))
    base = base_of(components)
    return GaussianMixture(logits, base.loc, base.scale)


def posteriors_given(encoder: nn.Module, x: Tensor, context: Tensor, num_left: int) -> tuple[Tensor, Tensor]:
    """Location and scale of q(z|x_k,context) of K values for each context, in one call of the encoder.

    :param encoder: from x and the context to diagonal Gaussians
    :param x: shape ``left_shape + (K,) + x_shape``
    :param context: shape ``left_shape + context_shape``
    :param num_left: number of dimensions of ``left_shape``
    :returns: two tensors of shape ``left_shape + (K, z_dim)``
    :raises ValueError: if the encoder returns anything else
    """
    shape = x.shape[: num_left + 1]
    values, contexts = together(encoder, in_precision_of(encoder, x), context, num_left)
    with evaluating(encoder):
        posterior = encoder(values, contexts)
    left_shape = values.shape[: values.dim() - x.dim() + len(shape)]
    check_distribution(posterior, f"encoder ({type(encoder).__name__})", left_shape)
    if not is_normal(posterior):
        raise UserError(
            f"the encoder returns {type(base_of(posterior)).__name__}, and this prior needs a mixture of diagonal "
            "Gaussians: return Normal(loc, scale).to_event(1), or use prior='mixture'"
        )
    base = base_of(posterior)
    return base.loc.reshape(*shape, -1), base.scale.reshape(*shape, -1)


def together(called: nn.Module, values: Tensor, context: Tensor, num_left: int) -> tuple[Tensor, Tensor]:
    """K values for each context, and the contexts, as a network takes them.

    A module with the attribute ``broadcasts`` computes with each context once. Another gets one row for each value.

    :param values: shape ``left_shape + (K,) + shape``
    """
    context = context.unsqueeze(num_left)
    if getattr(called, "broadcasts", False):
        return values, context
    context = context.expand(*values.shape[: num_left + 1], *context.shape[num_left + 1 :])
    return values.flatten(0, num_left), context.flatten(0, num_left)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Where a module is in evaluation mode; afterwards each part of it is in the mode that it was in."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
