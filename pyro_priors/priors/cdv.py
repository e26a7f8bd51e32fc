"""The decoder-based VampPrior, CDV, of Klushyn et al. (2019), without a context too and given a category."""

from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn as nn
from torch import Tensor

from .._options import typed
from ..errors import UserError, check_sizes
from ..nn import chosen
from ..registration import check_distribution
from .base import Parts, Prior, PriorOptions, register_prior
from .components import ComponentNetwork, evaluating, keep_logits, mixture_of, posteriors_given, together
from .gaussian_mixture import GaussianMixture
from .mixture import default_size

__all__ = ["CDV", "CDVPrior", "ConditionalCDVPrior"]


@register_prior("cdv", citations=("klushyn2019",))
@dataclass(frozen=True)
class CDV(PriorOptions):
    """The mixture of the posteriors of what K pseudo latents are decoded to (Klushyn et al. 2019)."""

    num_components: int | None = None
    """Number of pseudo latents; left out: 500, or 32 for each category or condition."""
    learnable_weights: bool = False
    """Learnable weights of the components; 1/K each otherwise, as published."""

    def build(self, parts: Parts) -> Prior:
        if parts.encoder is None or parts.decoder is None:
            missing = "encoder of the guide" if parts.encoder is None else "decoder, which needs more than this code"
            raise UserError(f"prior 'cdv' needs the {missing}, and cannot have it here: use prior='vamp' or 'mixture'")
        parts.check_numbered("cdv")
        num_components, shape = default_size(self.num_components, parts), (parts.z_dim,)
        if parts.context == "condition":
            network = ComponentNetwork(
                parts.features(), parts.condition_shape, shape, num_components, self.learnable_weights
            )
            return ConditionalCDVPrior(parts.encoder, parts.decoder, network, parts.decoder_context)
        return CDVPrior(
            parts.encoder, parts.decoder, parts.z_dim, num_components, self.learnable_weights, parts.num_categories
        )


class CDVPrior(Prior):
    r"""CDV with K learnable pseudo latents, or K for each category.

    .. math:: p(z) = \sum_{k=1}^{K} w_k\, q(z \mid \mu(\tilde{z}_k)), \qquad
        p(z \mid c) = \sum_{k=1}^{K} w_{ck}\, q(z \mid \mu(\tilde{z}_{ck}, c), c)

    with :math:`\mu` the mean of p(x|z) or p(x|z,c). That is equation 4 of Klushyn et al. (2019) without a condition:
    ours. The pseudo latents start at draws from N(0, I), the weights at 1/K. See :class:`ConditionalCDVPrior`.

    :param encoder: module from x, and category numbers where there are some, to q(z|x) or q(z|x,c): the guide's
    :param decoder: module from z, and keyword ``c`` where there are categories, to p(x|z) or p(x|z,c): the model's
    :param z_dim: size of z
    :param num_components: number of pseudo latents K, of each category where there are some
    :param learnable_weights: learnable weights; False: 1/K each
    :param num_categories: number of categories, 0 for none
    :raises ValueError: in use, if there are categories, and the encoder returns anything but a diagonal Gaussian
    """

    logits: Tensor

    @typed
    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        z_dim: int,
        num_components: int = 500,
        learnable_weights: bool = False,
        num_categories: int = 0,
    ) -> None:
        super().__init__()
        check_sizes(num_components=num_components, z_dim=z_dim)
        self.encoder, self.decoder, self.num_categories = encoder, decoder, num_categories
        left = (num_categories,) if num_categories else ()
        self.pseudo_latents = nn.Parameter(torch.randn(*left, num_components, z_dim))
        keep_logits(self, torch.zeros(*left, num_components), learnable_weights)

    def forward(self, context: Tensor | None = None) -> dist.Distribution:
        """
        :param context: category numbers, shape ``left_shape``; not used without categories
        :returns: distribution with batch shape ``left_shape``, or ``()``, and event shape ``(z_dim,)``
        """
        if self.num_categories:
            c: Any = context
            every = torch.arange(self.num_categories, device=self.logits.device)
            x = decoded_means(self.decoder, self.pseudo_latents, every, 1, "c")
            loc, scale = posteriors_given(self.encoder, x, every, 1)
            return GaussianMixture(chosen(self.logits, c), chosen(loc, c), chosen(scale, c))
        with evaluating(self.decoder):
            decoded = self.decoder(self.pseudo_latents)
        check_distribution(decoded, f"decoder ({type(self.decoder).__name__})", self.logits.shape)
        with evaluating(self.encoder):
            posterior = self.encoder(decoded.mean)
        check_distribution(posterior, f"encoder ({type(self.encoder).__name__})", self.logits.shape)
        return mixture_of(self.logits, posterior)


class ConditionalCDVPrior(Prior):
    r"""Conditional decoder-based Vamp prior, CDV (Klushyn et al. 2019, equation 4).

    .. math:: p(z \mid \mathrm{condition}) = \frac{1}{K} \sum_{k=1}^{K}
        q(z \mid \mu(\tilde{z}_k(\mathrm{condition})), \mathrm{condition})

    with :math:`\mu(z)` the mean of p(x|z). In words: one network gives K pseudo latents, the decoder makes data of them
    and the encoder codes these again, so that a component cannot leave the codes of what the pair can generate.

    Encoder and decoder are the guide's and the model's own, and their gradients come from both places. Each sees all
    components of a batch in one call, once in each call of the program for any number of particles, and in evaluation
    mode: dropout and batch statistics belong to data. Of binary data the encoder is shown probabilities.

    :param encoder: module from x and the condition to q(z|x,condition), event shape ``(z_dim,)``: the guide's
    :param decoder: module from z, and the condition where it sees it, to p(x|z) or p(x|z,condition): the model's
    :param network: gives K components of shape ``(z_dim,)``
    :param decoder_context: how the decoder takes the condition: ``"condition"``, a keyword; ``"z2"``, its second
        position; ``""``, not at all
    :raises ValueError: in use, if the encoder returns anything but a diagonal Gaussian

    Reference: Alexej Klushyn, Nutan Chen, Botond Cseke, Justin Bayer and Patrick van der Smagt, Increasing the
    generalisation capacity of conditional VAEs, ICANN 2019.
    """

    @typed
    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, network: ComponentNetwork, decoder_context: str = ""
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.decoder_context = decoder_context
        self.network = network

    def components(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Log-weights of the components, and the decoded means, shape ``left_shape + (K,) + x_shape``."""
        logits, pseudo_latents = self.network(condition)
        num_left = self.network.num_left(condition)
        return logits, decoded_means(self.decoder, pseudo_latents, condition, num_left, self.decoder_context)

    def forward(self, context: Tensor | None = None) -> dist.Distribution:
        """
        :param context: conditions, shape ``left_shape + condition_shape``
        :returns: distribution with batch shape ``left_shape`` and event shape ``(z_dim,)``
        """
        condition: Any = context
        logits, x = self.components(condition)
        return GaussianMixture(logits, *posteriors_given(self.encoder, x, condition, self.network.num_left(condition)))


def decoded_means(decoder: nn.Module, z: Tensor, context: Tensor, num_left: int, takes: str) -> Tensor:
    """The means of p(x|z,context) of K codes for each context, in one call of the decoder.

    :param z: shape ``left_shape + (K, z_dim)``
    :param context: shape ``left_shape + context_shape``
    :param num_left: number of dimensions of ``left_shape``
    :param takes: how the decoder takes the context: by this keyword, ``"z2"`` by position, ``""`` not at all
    :returns: shape ``left_shape + (K,) + x_shape``
    """
    codes, contexts = together(decoder, z, context, num_left)
    with evaluating(decoder):
        if takes == "z2":
            decoded = decoder(codes, contexts)
        else:
            decoded = decoder(codes, **({takes: contexts} if takes else {}))
    check_distribution(decoded, f"decoder ({type(decoder).__name__})", codes.shape[:-1])
    return decoded.mean.reshape(z.shape[:-1] + decoded.event_shape)
