"""A mixture of Gaussians as the prior: learnable, one for each category, or from a network of the condition."""

from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn as nn
from torch import Tensor

from .._options import typed
from .._precision import at_least_float32
from ..errors import check_sizes
from ..nn import chosen, positive, raw_of
from .base import Parts, Prior, PriorOptions, register_prior
from .components import ComponentNetwork, keep_logits
from .gaussian_mixture import GaussianMixture

__all__ = ["ConditionalMixturePrior", "Mixture", "MixturePrior", "default_size"]


def default_size(num_components: int | None, parts: Parts) -> int:
    """The number of components: 500 of a prior without a context, 32 for each category or condition."""
    if num_components is not None:
        return num_components
    return 500 if parts.context == "none" else 32


@register_prior("mixture")
@dataclass(frozen=True)
class Mixture(PriorOptions):
    """A mixture of K diagonal Gaussians; K for each category, or from a network (CMoG of Klushyn et al. 2019)."""

    num_components: int | None = None
    """Number of Gaussians; left out: 500, or 32 for each category or condition."""
    learnable_weights: bool | None = None
    """Learnable weights of the Gaussians, or 1/K each; left out: learnable without a context, else 1/K."""

    def build(self, parts: Parts) -> Prior:
        num_components = default_size(self.num_components, parts)
        learnable = parts.context == "none" if self.learnable_weights is None else self.learnable_weights
        if parts.context == "condition":
            network = ComponentNetwork(
                parts.features(), parts.condition_shape, (2, parts.z_dim), num_components, learnable
            )
            return ConditionalMixturePrior(network)
        return MixturePrior(parts.z_dim, num_components, learnable, parts.num_categories)


class MixturePrior(Prior):
    r"""A mixture of K diagonal Gaussians with learnable weights, locations and scales, or one for each category.

    .. math:: p(z) = \sum_{k=1}^{K} w_k\, \mathcal{N}(z \mid \mathrm{loc}_k, \mathrm{diag}(\mathrm{scale}_k^2))

    The weights start uniform, the scales at 1 and the locations at draws from N(0, 1/z_dim), for the reason given at
    :class:`~pyro_priors.priors.GaussianPrior`.

    With ``learnable_weights=False`` it is the baseline MG of Lavda et al. (2019, section 5), whose text says equal
    weights. Their released code averages the components' log-densities in place of their densities, a lower bound of
    the mixture, and trains none of their parameters; here the density is the mixture's own, and all are trained.

    :param z_dim: size of z
    :param num_components: number of components K, of each category where there are some
    :param learnable_weights: learnable weights; False: 1/K each
    :param num_categories: number of categories, 0 for none
    """

    logits: Tensor

    @typed
    def __init__(
        self, z_dim: int, num_components: int, learnable_weights: bool = True, num_categories: int = 0
    ) -> None:
        super().__init__()
        check_sizes(num_components=num_components, z_dim=z_dim)
        left = (num_categories,) if num_categories else ()
        self.num_categories = num_categories
        keep_logits(self, torch.zeros(*left, num_components), learnable_weights)
        self.loc = nn.Parameter(torch.randn(*left, num_components, z_dim) / z_dim**0.5)
        self.raw_scale = nn.Parameter(torch.full((*left, num_components, z_dim), raw_of(1.0)))

    def forward(self, context: Tensor | None = None) -> dist.Distribution:
        """
        :param context: category numbers, shape ``left_shape``, or log-weights of a relaxed category, shape
            ``left_shape + (num_categories,)``: then the weighted means of the parameters; not used without categories
        :returns: distribution with batch shape ``left_shape``, or ``()``, and event shape ``(z_dim,)``
        """
        logits, loc, scale = self.logits, at_least_float32(self.loc), positive(self.raw_scale)
        if self.num_categories:
            c: Any = context
            with torch.autocast(loc.device.type, enabled=False):  # which would multiply in half precision
                logits, loc = chosen(at_least_float32(logits), c), chosen(loc, c)
                scale = chosen(scale, c)
        return GaussianMixture(logits, loc, scale)


class ConditionalMixturePrior(Prior):
    r"""Conditional mixture of Gaussians, CMoG (Klushyn et al. 2019, section 2.4).

    .. math:: p(z \mid \mathrm{condition}) = \frac{1}{K} \sum_{k=1}^{K}
        \mathcal{N}(z \mid \mathrm{loc}_k(\mathrm{condition}), \mathrm{diag}(\mathrm{scale}_k(\mathrm{condition})^2))

    with all locations and scales from one network. With one component it is
    :class:`~pyro_priors.priors.ConditionalGaussianPrior`.

    :param network: gives K components of shape ``(2, z_dim)``

    Reference: Alexej Klushyn, Nutan Chen, Botond Cseke, Justin Bayer and Patrick van der Smagt, Increasing the
    generalisation capacity of conditional VAEs, ICANN 2019.
    """

    @typed
    def __init__(self, network: ComponentNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, context: Tensor | None = None) -> dist.Distribution:
        """
        :param context: conditions, shape ``left_shape + condition_shape``
        :returns: distribution with batch shape ``left_shape`` and event shape ``(z_dim,)``
        """
        logits, parameters = self.network(context)
        loc, raw_scale = parameters.unbind(-2)  # left_shape + (K, z_dim)
        return GaussianMixture(logits, loc, positive(raw_scale))
