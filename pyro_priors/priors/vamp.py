"""The variational mixture of posteriors prior of Tomczak and Welling (2018), also given a category or a condition."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isinf
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn as nn
from torch import Tensor

from .._options import Seed, typed
from ..errors import check_sizes
from ..nn import chosen
from ..registration import check_distribution
from .base import Parts, Prior, PriorOptions, register_prior
from .components import ComponentNetwork, evaluating, in_range, keep_logits, mixture_of, posteriors_given
from .gaussian_mixture import GaussianMixture
from .mixture import default_size

__all__ = ["ConditionalVampPrior", "Vamp", "VampPrior"]


@register_prior("vamp", citations=("tomczak2018",))
@dataclass(frozen=True)
class Vamp(PriorOptions):
    """VampPrior: the mixture of the posteriors of K pseudo-inputs (Tomczak and Welling 2018)."""

    num_components: int | None = None
    """Number of pseudo-inputs; left out: 500, or 32 for each category or condition."""
    learnable_weights: bool = False
    """Learnable weights of the components; 1/K each otherwise, as published."""

    def build(self, parts: Parts) -> Prior:
        if parts.encoder is None:
            raise ValueError(
                "prior 'vamp' needs the encoder of the guide, and this place has none: use prior='mixture'"
            )
        parts.check_numbered("vamp")
        num_components = default_size(self.num_components, parts)
        if parts.context == "condition":
            network = ComponentNetwork(
                parts.features(), parts.condition_shape, parts.x_shape, num_components, self.learnable_weights
            )
            return ConditionalVampPrior(parts.encoder, network, parts.x_range)
        return VampPrior(
            parts.encoder, parts.x_shape, num_components, self.learnable_weights, parts.x_range, parts.num_categories
        )


_STARTS = {(0.0, 1.0): (0.05, 0.01), (0.0, inf): (1.0, 0.5), (-inf, inf): (0.0, 1.0)}
"""Mean and standard deviation that pseudo-inputs start with, by the range of x; in [0, 1] as published."""


class VampPrior(Prior):
    r"""VampPrior: the mixture of the posteriors of K learnable pseudo-inputs (Tomczak and Welling 2018).

    .. math:: p(z) = \sum_{k=1}^{K} w_k\, q(z \mid u_k), \qquad w_k = 1/K

    In words: the aggregate posterior is the best prior that a bound can have, and K inputs, trained with the rest,
    stand for the data in it. Given a category it is :math:`p(z|c) = \sum_k w_{ck}\, q(z \mid u_{ck}, c)`, with K
    pseudo-inputs for each category.

    The encoder is the guide's own, and its gradient comes from both places. It sees the pseudo-inputs once in each call
    of the program, for any number of particles, and in evaluation mode: dropout and batch statistics belong to data.

    Pseudo-inputs stay in the range of x: as published they are free numbers that are cut off there (``hardtanh``), so
    that one outside gets no gradient. Unlike hardtanh, and torch's clamp, the cut passes the gradient at the ends of
    the range: pseudo-inputs can start at binary data.

    :param encoder: module from x, shape ``(K,) + x_shape``, to q(z|x), event shape ``(z_dim,)``: the guide's. Given a
        category, from x and category numbers, both with one row for each, to diagonal Gaussians q(z|x,c)
    :param x_shape: shape of one example
    :param num_components: number of pseudo-inputs K, of each category where there are some
    :param learnable_weights: learnable weights; False: 1/K each, as published
    :param x_range: least and largest value of x
    :param num_categories: number of categories, 0 for none
    :raises ValueError: in use, if there are categories, and the encoder returns anything but a diagonal Gaussian

    What differs from the paper's code: its samples are one of each of the first N components, here they are samples of
    the mixture. For a start at training images see :meth:`init_from_data`.

    Reference: Jakub M. Tomczak and Max Welling, VAE with a VampPrior, AISTATS 2018, arXiv:1705.07120.
    """

    logits: Tensor

    @typed
    def __init__(
        self,
        encoder: nn.Module,
        x_shape: Sequence[int],
        num_components: int = 500,
        learnable_weights: bool = False,
        x_range: tuple[float, float] = (0.0, 1.0),
        num_categories: int = 0,
    ) -> None:
        super().__init__()
        check_sizes(num_components=num_components)
        self.encoder, self.num_categories = encoder, num_categories
        self.x_range = x_range
        left = (num_categories,) if num_categories else ()
        mean, std = _STARTS.get(self.x_range, (0.0, 1.0))
        self.free_pseudo_inputs = nn.Parameter(mean + std * torch.randn(*left, num_components, *x_shape))
        keep_logits(self, torch.zeros(*left, num_components), learnable_weights)

    @property
    def pseudo_inputs(self) -> Tensor:
        """What the encoder is shown, shape ``(K,) + x_shape``, or ``(num_categories, K) + x_shape``."""
        low, high = self.x_range
        free: Tensor = self.free_pseudo_inputs
        if not isinf(high):
            free = torch.where(free > high, high, free)
        return free if isinf(low) else torch.where(free < low, low, free)

    @torch.no_grad()
    def set_pseudo_inputs(self, x: Tensor) -> None:
        """Set the pseudo-inputs.

        Example::

            >>> pair = pyro_priors.create("vae", x_shape=(784,), prior="vamp", num_components=500)
            >>> pair.model.prior.set_pseudo_inputs(data.train.x[:500])

        :param x: shape ``(K,) + x_shape``, or ``(num_categories, K) + x_shape``
        :raises ValueError: if x has another shape, or values outside the range of x
        """
        wanted, (low, high) = tuple(self.free_pseudo_inputs.shape), self.x_range
        if tuple(x.shape) != wanted:
            raise ValueError(f"pseudo-inputs must have shape {wanted}, got {tuple(x.shape)}: give one row for each")
        if not (x.min() >= low and x.max() <= high):
            raise ValueError(
                f"pseudo-inputs must be in [{low:g}, {high:g}], got values from {x.min():.4g} to {x.max():.4g}: "
                "rescale them"
            )
        self.free_pseudo_inputs.copy_(x)

    @torch.no_grad()
    @typed
    def init_from_data(self, x: Tensor, condition: Tensor | None = None, seed: Seed = 0, noise: float = 0.01) -> None:
        """Start the pseudo-inputs at training examples, drawn without replacement, with noise added.

        The paper's code takes the first K training images and adds noise of 0.01, so that half of the pixels of 0 and 1
        leave [0, 1] and never get a gradient again; here they are put back to the bound, where they do.

        Example::

            >>> pair = pyro_priors.create("vae", x_shape=(784,), prior="vamp", num_components=500)
            >>> pair.model.prior.init_from_data(data.train.x)

        :param x: shape ``(num_data,) + x_shape``; gray levels where binarization is dynamic, as in that code
        :param condition: not used
        :param seed: of the draw and the noise; torch's own generator is neither read nor changed
        :param noise: standard deviation of the noise
        :raises ValueError: if there are fewer examples than pseudo-inputs, or what :meth:`set_pseudo_inputs` raises
        """
        free = self.free_pseudo_inputs
        num = self.logits.numel()
        if len(x) < num:
            groups = self.num_categories or 1
            each = f"{num // groups} for each of {groups} categories" if self.num_categories else f"{num}"
            most = len(x) // groups
            remedy = f"make the prior with num_components={most} or fewer" if most else "give more data"
            raise ValueError(
                f"num_components is {each}, but only {len(x)} examples are there for {num} pseudo-inputs to start at: "
                f"{remedy}"
            )
        generator = torch.Generator("cpu").manual_seed(seed)
        rows = torch.randperm(len(x), generator=generator, device="cpu")[:num]
        self.set_pseudo_inputs(x[rows.to(x.device)].reshape(free.shape))
        drawn = torch.randn(free.shape, generator=generator, dtype=free.dtype, device="cpu")
        free.add_(noise * drawn.to(free.device))
        free.clamp_(*self.x_range)

    def forward(self, context: Tensor | None = None) -> dist.Distribution:
        """
        :param context: category numbers, shape ``left_shape``; not used without categories
        :returns: distribution with batch shape ``left_shape``, or ``()``, and event shape ``(z_dim,)``
        """
        if self.num_categories:
            c: Any = context
            every = torch.arange(self.num_categories, device=self.logits.device)
            loc, scale = posteriors_given(self.encoder, self.pseudo_inputs, every, 1)
            return GaussianMixture(chosen(self.logits, c), chosen(loc, c), chosen(scale, c))
        with evaluating(self.encoder):
            posterior = self.encoder(self.pseudo_inputs)
        check_distribution(posterior, f"encoder ({type(self.encoder).__name__})", self.logits.shape)
        return mixture_of(self.logits, posterior)


class ConditionalVampPrior(Prior):
    r"""Conditional VampPrior: the mixture of the posteriors of K pseudo-targets (Klushyn et al. 2019, section 2.4).

    .. math:: p(z \mid \mathrm{condition}) = \frac{1}{K} \sum_{k=1}^{K}
        q(z \mid \tilde{x}_k(\mathrm{condition}), \mathrm{condition})

    The encoder is the guide's own. It sees the pseudo-targets of a batch in one call, once in each call of the program
    for any number of particles, and in evaluation mode (see :class:`VampPrior`).

    Pseudo-targets stay in the range of x by a function with a gradient everywhere (a logistic one in [0, 1]), which the
    cut of the unconditional VampPrior, made for free numbers, does not have.

    :param encoder: module from x and the condition to q(z|x,condition), event shape ``(z_dim,)``: the guide's
    :param network: gives K components of shape ``x_shape``
    :param x_range: least and largest value of x
    :raises ValueError: in use, if the encoder returns anything but a diagonal Gaussian

    What differs from the paper: it says learned pseudo-targets, and writes them without an argument, next to pseudo
    latents that are functions of the condition. Here both are functions of it, by networks of one kind, so that this
    prior and :class:`~pyro_priors.priors.ConditionalCDVPrior` differ in the space of what is learned and in nothing
    else: that is the comparison which the paper makes.

    References: Alexej Klushyn, Nutan Chen, Botond Cseke, Justin Bayer and Patrick van der Smagt, Increasing the
    generalisation capacity of conditional VAEs, ICANN 2019. Jakub M. Tomczak and Max Welling, VAE with a VampPrior,
    AISTATS 2018, arXiv:1705.07120.
    """

    @typed
    def __init__(
        self, encoder: nn.Module, network: ComponentNetwork, x_range: tuple[float, float] = (0.0, 1.0)
    ) -> None:
        super().__init__()
        self.encoder, self.x_range = encoder, x_range
        self.network = network

    def components(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Log-weights of the components, and the pseudo-targets, shape ``left_shape + (K,) + x_shape``."""
        logits, free = self.network(condition)
        return logits, in_range(free, self.x_range)

    def forward(self, context: Tensor | None = None) -> dist.Distribution:
        """
        :param context: conditions, shape ``left_shape + condition_shape``
        :returns: distribution with batch shape ``left_shape`` and event shape ``(z_dim,)``
        """
        condition: Any = context
        logits, x = self.components(condition)
        return GaussianMixture(logits, *posteriors_given(self.encoder, x, condition, self.network.num_left(condition)))
