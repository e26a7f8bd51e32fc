"""The models as one writes them in plain PyTorch: networks, loss, nothing else. What ours is compared with."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

X_DIM, Z_DIM, HIDDEN = 784, 40, 300


class Gated(nn.Module):
    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_dim, 2 * out_dim)

    def forward(self, x: Tensor) -> Tensor:
        return F.glu(self.linear(x), -1)


def two_layers(in_dim: int) -> nn.Sequential:
    return nn.Sequential(Gated(in_dim, HIDDEN), Gated(HIDDEN, HIDDEN))


def normal_kl(loc: Tensor, scale: Tensor, prior_loc: Tensor | float = 0.0, prior_scale: Tensor | float = 1.0) -> Tensor:
    ratio = (scale / prior_scale) ** 2
    return 0.5 * (ratio + ((loc - prior_loc) / prior_scale) ** 2 - 1 - ratio.log()).sum(-1)


def log_bernoulli(logits: Tensor, x: Tensor) -> Tensor:
    return -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)


class VAE(nn.Module):
    """The loss of a batch, nats per datum."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(two_layers(X_DIM), nn.Linear(HIDDEN, 2 * Z_DIM))
        self.decoder = nn.Sequential(two_layers(Z_DIM), nn.Linear(HIDDEN, X_DIM))

    def forward(self, x: Tensor) -> Tensor:
        loc, raw_scale = self.encoder(x).chunk(2, -1)
        scale = F.softplus(raw_scale) + 1e-4
        z = loc + scale * torch.randn_like(loc)
        return (normal_kl(loc, scale) - log_bernoulli(self.decoder(z), x)).mean()


class CPVAE(nn.Module):
    """Lavda et al. 2019 with all categories in one batch, shape (K, batch, ...)."""

    def __init__(self, num_categories: int = 10) -> None:
        super().__init__()
        self.num_categories = num_categories
        self.trunk = two_layers(X_DIM)
        self.category = nn.Linear(HIDDEN, num_categories)
        self.latent = nn.Linear(HIDDEN, 2 * Z_DIM)
        self.latent_of_category = nn.Parameter(0.1 * torch.randn(num_categories, 1, 2 * Z_DIM))
        self.prior_loc = nn.Parameter(torch.randn(num_categories, 1, Z_DIM) / Z_DIM**0.5)
        self.prior_raw_scale = nn.Parameter(torch.full((num_categories, 1, Z_DIM), 0.54))
        self.first = nn.Linear(Z_DIM, 2 * HIDDEN)
        self.first_of_category = nn.Parameter(0.1 * torch.randn(num_categories, 1, 2 * HIDDEN))
        self.rest = nn.Sequential(Gated(HIDDEN, HIDDEN), nn.Linear(HIDDEN, X_DIM))

    def forward(self, x: Tensor) -> Tensor:
        h = self.trunk(x)
        log_q = self.category(h).log_softmax(-1).T
        q = log_q.exp()
        loc, raw_scale = (self.latent(h) + self.latent_of_category).chunk(2, -1)
        scale = F.softplus(raw_scale) + 1e-4
        z = loc + scale * torch.randn_like(loc)
        logits = self.rest(F.glu(self.first(z) + self.first_of_category, -1))
        kl_z = normal_kl(loc, scale, self.prior_loc, F.softplus(self.prior_raw_scale) + 1e-4)
        kl_c = (q * log_q).sum(0) + math.log(self.num_categories)
        return (kl_c + (q * (kl_z - log_bernoulli(logits, x))).sum(0)).mean()
