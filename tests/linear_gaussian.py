"""Pairs whose every integral is known: linear decoders, Gaussian noise, and a diagonal posterior.

x given z and c is N(W z + b_c, noise^2 I) with orthogonal columns of W, so W'W is diagonal, and with it the
posterior of z under a diagonal Gaussian prior: a diagonal guide contains it.
"""

import math

import pyro.distributions as dist
import torch
import torch.nn as nn
from torch import Tensor

from pyro_priors.guides import CPVAEGuide, VAEGuide
from pyro_priors.models import CPVAE, VAE
from pyro_priors.objectives import EnumELBO
from pyro_priors.pair import Pair
from pyro_priors.priors import GaussianPrior, StandardPrior

X_DIM, Z_DIM, NUM_CATEGORIES, NOISE = 5, 2, 3, 0.7


class LinearDecoder(nn.Module):
    """p(x|z,c) = N(W z + b_c, noise^2 I)."""

    def __init__(self) -> None:
        super().__init__()
        columns, _ = torch.linalg.qr(torch.randn(X_DIM, Z_DIM))
        weight = columns * torch.linspace(0.8, 1.5, Z_DIM)  # (X_DIM, Z_DIM)
        self.weight = nn.Parameter(weight.contiguous())
        self.bias = nn.Parameter(torch.randn(NUM_CATEGORIES, X_DIM))

    def forward(self, z: Tensor, c: Tensor | None = None) -> dist.Distribution:
        bias = self.bias[0] if c is None else self.bias[c]
        return dist.Normal(z @ self.weight.T + bias, NOISE).to_event(1)


class Posterior(nn.Module):
    """The exact p(z|x,c), or with ``loc`` shifted by ``shift`` and ``scale`` multiplied by ``factor``."""

    def __init__(self, prior: nn.Module, decoder: LinearDecoder, shift: float = 0.0, factor: float = 1.0) -> None:
        super().__init__()
        self.prior, self.decoder = prior, decoder
        self.shift, self.factor = shift, factor

    def exact(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """loc and scale by completing the square."""
        prior = (self.prior() if c is None else self.prior(c)).base_dist
        weight = self.decoder.weight
        bias = self.decoder.bias[0] if c is None else self.decoder.bias[c]
        precision = prior.scale**-2 + weight.square().sum(0) / NOISE**2
        loc = (prior.loc / prior.scale**2 + (x - bias) @ weight / NOISE**2) / precision
        return loc, precision**-0.5

    def forward(self, x: Tensor, c: Tensor | None = None) -> dist.Distribution:
        loc, scale = self.exact(x, c)
        return dist.Normal(loc + self.shift, scale * self.factor).to_event(1)

    def kl(self) -> Tensor:
        """KL(guide || posterior) where there are no categories; it is the same at every x."""
        _, scale = self.exact(torch.zeros(1, X_DIM))
        shift = (self.shift / scale) ** 2
        return 0.5 * (self.factor**2 + shift - 1 - 2 * math.log(self.factor)).sum()


class ConstantCategory(nn.Module):
    """q(c|x) that is the same at every x."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.randn(NUM_CATEGORIES))

    def forward(self, x: Tensor) -> dist.Distribution:
        return dist.Categorical(logits=self.logits.expand(len(x), NUM_CATEGORIES))


def ppca(**posterior) -> Pair:
    """Probabilistic PCA (Tipping and Bishop 1999) with its posterior, or a perturbed one, as guide."""
    prior, decoder = StandardPrior(Z_DIM), LinearDecoder()
    return Pair(VAE(prior, decoder), VAEGuide(Posterior(prior, decoder, **posterior)))


def mixture_of_ppca(**posterior) -> Pair:
    """A CP-VAE of linear decoders: mixture of Gaussians in x, with p(z|x,c) as guide's latent."""
    prior, decoder = GaussianPrior(Z_DIM, NUM_CATEGORIES), LinearDecoder()
    with torch.no_grad():
        prior.raw_scale.normal_()
    guide = CPVAEGuide(nn.Identity(), ConstantCategory(), Posterior(prior, decoder, **posterior))
    return Pair(CPVAE(NUM_CATEGORIES, prior, decoder), guide, EnumELBO(), NUM_CATEGORIES)


def log_evidence(pair: Pair, x: Tensor) -> Tensor:
    """log p(x|c) of each category by the closed form N(W m_c + b_c, W S_c W' + noise^2 I), shape ``(K,
    batch)``; K is 1 without categories."""
    weight, bias = pair.model.decoder.weight, pair.model.decoder.bias
    rows = []
    for k in range(max(1, pair.num_categories)):
        prior = (pair.model.prior(torch.tensor(k)) if pair.num_categories else pair.model.prior()).base_dist
        covariance = weight @ torch.diag(prior.scale**2) @ weight.T + NOISE**2 * torch.eye(X_DIM)
        rows.append(torch.distributions.MultivariateNormal(weight @ prior.loc + bias[k], covariance).log_prob(x))
    return torch.stack(rows)
