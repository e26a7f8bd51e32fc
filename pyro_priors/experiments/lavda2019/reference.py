"""The published code of Lavda et al. (2019), quirks included: the pair ``cp_vae_reference``, for comparison.

It is registered through the interface that is open to every user: nothing else in the library knows of it.

Reference: commit 0ceb836 (30 November 2019) of the authors' cp-vae, models/cp_vae_z_xc.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import pyro
import pyro.distributions as dist
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import kl_divergence

from ...nn import JoinedLinear, RelaxedCategorical, Temperature, category_of
from ...pair import Pair
from ...registration import check_features, data_plate, register
from ...zoo import Factors, Family, register_family, register_preset

__all__ = [
    "ReferenceCPVAE",
    "ReferenceCategoricalHead",
    "ReferenceGaussianHead",
    "ReferenceGuide",
    "ReferenceModel",
    "ReferencePrior",
]


class ReferenceModel(nn.Module):
    r"""The program that the published code of Lavda et al. (2019) trains, written down.

    In training it decodes what the guide drew, and the guide brings the KL along (:class:`ReferenceGuide`): the loss is
    theirs, and no bound. In evaluation mode it is :class:`~pyro_priors.models.CPVAE` with the same networks, so that
    what was trained meets an honest bound: p(z|c) is then, given x, the one of training (bound, log p(x)), and without
    x the other one that the code samples from (samples, and the metrics that ask for the prior's density).

    :param num_categories: number of categories K
    :param prior: the untrained prior
    :param decoder: module from z and keyword c to p(x|z,c), event shape ``x_shape``
    """

    networks: ClassVar = {"z": "prior", "x": "decoder"}
    category_logits: Tensor

    def __init__(self, num_categories: int, prior: ReferencePrior, decoder: nn.Module) -> None:
        super().__init__()
        self.prior = prior
        self.decoder = decoder
        self.register_buffer("category_logits", torch.zeros(num_categories), persistent=False)

    def forward(self, x: Tensor | None = None, condition: Tensor | None = None, size: int | None = None) -> Tensor:
        """
        :param x: observed data, shape ``(batch,) + x_shape``, or None to sample them
        :param condition: not used by this model
        :param size: number of data to sample
        :returns: x, observed or sampled
        """
        register("reference_implementation.model", self)
        with data_plate(x, condition, size, program=self):
            if self.training and x is not None:
                c = pyro.sample("c", _anything_like(self.category_logits))
                z = pyro.sample("z", _anything_like(self.prior.loc[0]))
            else:
                c = pyro.sample("c", dist.Categorical(logits=_at_least_float32(self.category_logits)))
                z = pyro.sample("z", self.prior.generated(c) if x is None else self.prior(context=c))
            return pyro.sample("x", self.decoder(z, c=c), obs=x)


def _anything_like(row: Tensor) -> dist.MaskedDistribution:
    """Density 1 for every row of numbers. It has draws, for what runs the model without its guide."""
    return dist.Normal(torch.zeros_like(row), 1.0).to_event(1).mask(torch.zeros_like(row[0], dtype=torch.bool))


class ReferenceGuide(nn.Module):
    r"""The loss that the published code of Lavda et al. (2019) minimises, written down as a guide.

    .. math:: -\log p(x \mid z, \tilde c') + \beta \Big[ \sum_k \pi_k\, \mathrm{KL}(q(z \mid x, \tilde c) \,\|\,
        p(z \mid k)) + \log K + \sum_k \pi_k \log \pi_k \Big], \qquad z \sim q(z \mid x, \tilde c)

    with two independent relaxed draws :math:`\tilde c, \tilde c'` of the category, soft in evaluation too. It is no
    bound: the decoder sees a continuous vector of K weights, of which only the KL of a category is charged; and one
    posterior, at the relaxed draw, stands for those of all categories. In evaluation mode the guide is
    :class:`~pyro_priors.guides.CPVAEGuide` with the same networks. Several particles would be copies of one draw: leave
    ``num_particles`` at 1.

    :param trunk: module from x, shape ``(batch,) + x_shape``, to features
    :param category: module from features to q(c|x)
    :param latent: module from features and c to q(z|x,c), event shape ``(z_dim,)``
    :param prior: the model's prior, whose KL is part of the loss
    :param temperature: of the relaxed draws

    What differs from the code: its optimizer normalises the gradient of each tensor, ours is Adam; it adds 1e-12 within
    the logarithm; its beta rises once an epoch, ours in every step; it picks weights by this loss on the validation
    data, ``fit`` by the honest bound.
    """

    networks: ClassVar = {"c": "category", "z": "latent"}

    def __init__(
        self,
        trunk: nn.Module,
        category: nn.Module,
        latent: nn.Module,
        prior: ReferencePrior,
        temperature: Temperature,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.category = category
        self.latent = latent
        self.prior = prior
        self.temperature = temperature

    def forward(self, x: Tensor | None = None, condition: Tensor | None = None, size: int | None = None) -> None:
        """
        :param x: observed data, shape ``(batch,) + x_shape``
        :param condition: not used by this guide
        :param size: not used by this guide
        """
        register("reference_implementation.guide", self)
        with data_plate(x, condition, size, needs=["x"], program=self):
            features = check_features(self.trunk(x), self, x)
            q_c = self.category(features)
            if not self.training:
                c = pyro.sample("c", q_c, infer={"enumerate": "parallel"})
                pyro.sample("z", self.latent(features, c=c))
                return
            relaxed = RelaxedCategorical(self.temperature(), logits=q_c.logits)
            q_z = self.latent(features, c=relaxed.rsample())
            kl_c = math.log(q_c.probs.shape[-1]) + (q_c.probs * q_c.logits).sum(-1)
            kl_z = (q_c.probs * self.prior.kl(q_z)).sum(-1)
            pyro.sample("c", dist.Delta(relaxed.rsample(), kl_c, event_dim=1))
            pyro.sample("z", dist.Delta(q_z.rsample(), kl_z, event_dim=1))


class ReferencePrior(nn.Module):
    r"""One diagonal Gaussian per category that is never trained and is read in two ways.

    .. math:: \mathrm{loc}, r \sim U(0, 1), \qquad \mathrm{scale} = 1 + e^{r / 2} \text{ in training}, \qquad
        \mathrm{scale} = e^{r} \text{ in generation}

    so that in training all categories share, for all practical purposes, one Gaussian with scales from 2 to 2.65.

    :param num_categories: number of categories K
    :param z_dim: size of z
    """

    loc: Tensor
    raw_scale: Tensor

    def __init__(self, num_categories: int, z_dim: int) -> None:
        super().__init__()
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
        return _at_least_float32(self.loc[c]), _at_least_float32(self.raw_scale[c])

    def kl(self, q_z: dist.TorchDistribution) -> Tensor:
        """KL of a posterior of batch shape ``(batch,)`` from p(z|c), for each c: shape ``(batch, K)``."""
        every = torch.arange(len(self.loc), device=self.loc.device)
        return kl_divergence(q_z.expand((len(self.loc), *q_z.batch_shape)), self(every[:, None])).movedim(0, -1)


class ReferenceCategoricalHead(nn.Module):
    """Categorical whose logits pass an ELU, which keeps them above -1 and leaves them free upwards.

    :param in_dim: size of the features
    :param num_categories: number of categories K
    """

    def __init__(self, in_dim: int, num_categories: int) -> None:
        super().__init__()
        self.logits = JoinedLinear(in_dim, num_categories)

    def forward(self, h: Tensor) -> dist.Distribution:
        """
        :param h: features, shape ``left_shape + (in_dim,)``
        :returns: categorical with batch shape ``left_shape``
        """
        return category_of(F.elu(_at_least_float32(self.logits(h))), None, self.training)


class ReferenceGaussianHead(nn.Module):
    """Diagonal Gaussian with its log-variance cut off at -6 and 2.

    :param in_dim: size of the features
    :param z_dim: size of the Gaussian
    :param num_categories: number of categories
    """

    def __init__(self, in_dim: int, z_dim: int, num_categories: int) -> None:
        super().__init__()
        self.parameters_of_z = JoinedLinear(in_dim, 2 * z_dim, num_categories=num_categories, num_blocks=2)

    def forward(self, h: Tensor, c: Tensor) -> dist.Distribution:
        """
        :param h: features, shape ``left_shape + (in_dim,)``
        :param c: category numbers, shape ``left_shape``, or log-weights, shape ``left_shape + (K,)``
        :returns: distribution with batch shape ``left_shape`` and event shape ``(z_dim,)``
        """
        loc, log_variance = _at_least_float32(self.parameters_of_z(h, c=c)).chunk(2, -1)
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


def _at_least_float32(value: Tensor) -> Tensor:
    return value.to(torch.promote_types(value.dtype, torch.float32))


@register_family("cp_vae_reference", citations=("lavda2019",))
@dataclass(frozen=True)
class ReferenceCPVAE(Family):
    """The programs and the start of the published code of CP-VAE, in place of the paper's."""

    num_categories: int = 10
    """Number of categories K."""

    factors: ClassVar[dict[str, str]] = {"likelihood": "bernoulli", "networks": "mlp"}

    def build(self, factors: Factors) -> Pair:
        num = self.num_categories
        decoder = factors.make_decoder(self.z_dim, num_categories=num)
        trunk = factors.networks.trunk(factors.x_shape) if factors.encoder is None else factors.encoder
        num_features = self.encoder_event(factors)["features"][0]
        heads = ReferenceCategoricalHead(num_features, num), ReferenceGaussianHead(num_features, self.z_dim, num)
        for part in (trunk, decoder, *heads):
            he_(part)
        untrained = ReferencePrior(num, self.z_dim)
        guide = ReferenceGuide(trunk, *heads, untrained, Temperature())
        return Pair(ReferenceModel(num, untrained, decoder), guide, num_categories=num)

    def encoder_event(self, factors: Factors) -> dict[str, tuple[int, ...]]:
        hidden = getattr(factors.networks, "hidden", ())
        return {"features": (hidden[-1] if hidden else 0,)}


register_preset(
    "cp_vae_reference",
    "cp_vae_reference",
    "CP-VAE as its published code has it (Lavda et al. 2019), for comparison",
    is_listed=False,
)
