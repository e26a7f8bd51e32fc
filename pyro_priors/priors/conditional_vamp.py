"""Priors p(z|condition) made of the guide's own posterior: the conditional VampPrior, and CDV."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
import torch.nn as nn
from torch import Tensor

from .._options import typed
from .._precision import in_precision_of
from .._sites import base_of, is_normal
from ..registration import check_distribution
from .conditional import ComponentNetwork
from .mixture import GaussianMixture
from .vamp import evaluating

__all__ = ["CDVPrior", "ConditionalVampPrior"]


class ConditionalVampPrior(nn.Module):
    r"""Conditional VampPrior: the mixture of the posteriors of K pseudo-targets (Klushyn et al. 2019, section 2.4).

    .. math:: p(z \mid \mathrm{condition}) = \frac{1}{K} \sum_{k=1}^{K}
        q(z \mid \tilde{x}_k(\mathrm{condition}), \mathrm{condition})

    The encoder is the guide's own. It sees the pseudo-targets of a batch in one call, once in each call of the program
    whatever the number of particles, and in evaluation mode (see :class:`~pyro_priors.priors.VampPrior`).

    ``bounded`` keeps pseudo-targets in [0, 1] by a logistic function: where the decoder's means are under every
    likelihood but the Gaussian, and with a gradient everywhere, which the cut of the unconditional VampPrior, for free
    numbers, has not.

    :param encoder: module from x and the condition to q(z|x,condition), event shape ``(z_dim,)``: the guide's
    :param condition_shape: shape of one condition
    :param x_shape: shape of one datum
    :param num_components: number of pseudo-targets K
    :param hidden: sizes of the hidden layers of the network that gives the pseudo-targets
    :param gated: gated layers instead of ReLU in it
    :param trained_weights: weights that this network gives too; False: 1/K each, as published
    :param bounded: keep the pseudo-targets in [0, 1]
    :param trunk: as in :class:`~pyro_priors.priors.conditional.ComponentNetwork`
    :raises ValueError: in use, if the encoder returns no diagonal Gaussian

    What differs from the paper: it says learned pseudo-targets, and writes them without an argument, beside pseudo
    latents that are functions of the condition. Here both are functions of it, by networks of one kind, so that this
    prior and :class:`CDVPrior` differ in the space of what is learned and in nothing else: that is the comparison which
    the paper makes.

    References: Alexej Klushyn, Nutan Chen, Botond Cseke, Justin Bayer and Patrick van der Smagt, Increasing the
    generalisation capacity of conditional VAEs, ICANN 2019. Jakub M. Tomczak and Max Welling, VAE with a VampPrior,
    AISTATS 2018, arXiv:1705.07120.
    """

    @typed
    def __init__(
        self,
        encoder: nn.Module,
        condition_shape: Sequence[int],
        x_shape: Sequence[int],
        num_components: int = 32,
        hidden: Sequence[int] = (300, 300),
        gated: bool = True,
        trained_weights: bool = False,
        bounded: bool = True,
        trunk: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.bounded = encoder, bounded
        self.network = ComponentNetwork(condition_shape, x_shape, num_components, hidden, gated, trained_weights, trunk)

    def components(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Log-weights of the components, and the pseudo-targets, shape ``left_shape + (K,) + x_shape``."""
        logits, raw = self.network(condition)
        return logits, torch.sigmoid(raw) if self.bounded else raw

    def forward(self, condition: Tensor) -> dist.Distribution:
        """
        :param condition: shape ``left_shape + condition_shape``
        :returns: distribution with batch shape ``left_shape`` and event shape ``(z_dim,)``
        """
        return _mixture_of_posteriors(*self.components(condition), self.encoder, condition, self.network)


class CDVPrior(nn.Module):
    r"""Conditional decoder-based Vamp prior, CDV (Klushyn et al. 2019, equation 4).

    .. math:: p(z \mid \mathrm{condition}) = \frac{1}{K} \sum_{k=1}^{K}
        q(z \mid \mu(\tilde{z}_k(\mathrm{condition})), \mathrm{condition})

    with :math:`\mu(z)` the mean of p(x|z). In words: one network gives K pseudo latents, the decoder makes data of them
    and the encoder codes these again, so that a component cannot leave the codes of what the pair can generate.

    Encoder and decoder are the guide's and the model's own, and their gradients come from both places. Each sees all
    components of a batch in one call, once in each call of the program whatever the number of particles, and in
    evaluation mode: dropout and batch statistics belong to data. Of binary data the encoder is shown probabilities.

    :param encoder: module from x and the condition to q(z|x,condition), event shape ``(z_dim,)``: the guide's
    :param decoder: module from z, and where it sees it keyword condition, to p(x|z) or p(x|z,condition): the model's
    :param condition_shape: shape of one condition
    :param z_dim: size of z
    :param num_components: number of pseudo latents K
    :param hidden: sizes of the hidden layers of the network that gives the pseudo latents
    :param gated: gated layers instead of ReLU in it
    :param trained_weights: weights that this network gives too; False: 1/K each, as published
    :param decoder_sees_condition: call the decoder with the condition too
    :param trunk: as in :class:`~pyro_priors.priors.conditional.ComponentNetwork`
    :raises ValueError: in use, if the encoder returns no diagonal Gaussian

    Reference: Alexej Klushyn, Nutan Chen, Botond Cseke, Justin Bayer and Patrick van der Smagt, Increasing the
    generalisation capacity of conditional VAEs, ICANN 2019.
    """

    @typed
    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        condition_shape: Sequence[int],
        z_dim: int,
        num_components: int = 32,
        hidden: Sequence[int] = (300, 300),
        gated: bool = True,
        trained_weights: bool = False,
        decoder_sees_condition: bool = False,
        trunk: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.decoder_sees_condition = decoder_sees_condition
        self.network = ComponentNetwork(
            condition_shape, (z_dim,), num_components, hidden, gated, trained_weights, trunk
        )

    def components(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Log-weights of the components, and the decoded means, shape ``left_shape + (K,) + x_shape``."""
        logits, pseudo_latents = self.network(condition)
        z, given = _together(self.decoder, pseudo_latents, condition, self.network)
        with evaluating(self.decoder):
            decoded = self.decoder(z, condition=given) if self.decoder_sees_condition else self.decoder(z)
        check_distribution(decoded, f"decoder ({type(self.decoder).__name__})", z.shape[:-1])
        return logits, decoded.mean.reshape(pseudo_latents.shape[:-1] + decoded.event_shape)

    def forward(self, condition: Tensor) -> dist.Distribution:
        """
        :param condition: shape ``left_shape + condition_shape``
        :returns: distribution with batch shape ``left_shape`` and event shape ``(z_dim,)``
        """
        return _mixture_of_posteriors(*self.components(condition), self.encoder, condition, self.network)


def _mixture_of_posteriors(
    logits: Tensor, x: Tensor, encoder: nn.Module, condition: Tensor, network: ComponentNetwork
) -> GaussianMixture:
    """q(z|x_k,condition) as the components of a mixture; x has shape ``left_shape + (K,) + x_shape``."""
    shape = x.shape[: network.num_left(condition) + 1]
    values, conditions = _together(encoder, in_precision_of(encoder, x), condition, network)
    with evaluating(encoder):
        posterior = encoder(values, conditions)
    left_shape = values.shape[: values.dim() - x.dim() + len(shape)]
    check_distribution(posterior, f"encoder ({type(encoder).__name__})", left_shape)
    if not is_normal(posterior):
        raise ValueError(
            f"the encoder returns {type(base_of(posterior)).__name__}, and this prior needs a mixture of diagonal "
            "Gaussians: return Normal(loc, scale).to_event(1), or use cmog_cvae"
        )
    base = base_of(posterior)
    return GaussianMixture(logits, base.loc.reshape(*shape, -1), base.scale.reshape(*shape, -1))


def _together(called: nn.Module, values: Tensor, condition: Tensor, network: ComponentNetwork) -> tuple[Tensor, Tensor]:
    """K values for each condition, and the conditions, as a network takes them.

    A module with the attribute ``broadcasts`` computes with each condition once. Another gets one row for each value.

    :param values: shape ``left_shape + (K,) + shape``
    """
    num_left = network.num_left(condition)
    condition = condition.unsqueeze(num_left)
    if getattr(called, "broadcasts", False):
        return values, condition
    condition = condition.expand(*values.shape[: num_left + 1], *condition.shape[num_left + 1 :])
    return values.flatten(0, num_left), condition.flatten(0, num_left)
