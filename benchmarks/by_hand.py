"""The models as one writes them in plain PyTorch: networks, loss, nothing else. What ours is compared with."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

X_DIM, Z_DIM, HIDDEN = 784, 40, 300
CONDITION_DIM = 280
"""Of a completed image: its last ten rows, part of the 784."""


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


def log_normal(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    return (-0.5 * ((z - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)


class Gaussian(nn.Module):
    """A layer to location and scale."""

    def __init__(self, in_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_dim, 2 * Z_DIM)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        loc, raw_scale = self.linear(h).chunk(2, -1)
        return loc, F.softplus(raw_scale) + 1e-4


class VampVAE(nn.Module):
    """VAE with a VampPrior of 500 pseudo-inputs (Tomczak and Welling 2018)."""

    def __init__(self, num_components: int = 500) -> None:
        super().__init__()
        self.pseudo_inputs = nn.Parameter(0.05 + 0.01 * torch.randn(num_components, X_DIM))
        self.encoder = nn.Sequential(two_layers(X_DIM), Gaussian(HIDDEN))
        self.decoder = nn.Sequential(two_layers(Z_DIM), nn.Linear(HIDDEN, X_DIM))

    def forward(self, x: Tensor) -> Tensor:
        loc, scale = self.encoder(x)
        z = loc + scale * torch.randn_like(loc)
        u_loc, u_scale = self.encoder(self.pseudo_inputs.clamp(0, 1))
        log_prior = torch.logsumexp(log_normal(z.unsqueeze(-2), u_loc, u_scale), -1) - math.log(len(u_loc))
        return (log_normal(z, loc, scale) - log_prior - log_bernoulli(self.decoder(z), x)).mean()


class FlowVAE(nn.Module):
    """VAE with a prior of six affine couplings (Bhalodia et al. 2019)."""

    def __init__(self, num_couplings: int = 6) -> None:
        super().__init__()
        self.encoder = nn.Sequential(two_layers(X_DIM), Gaussian(HIDDEN))
        self.decoder = nn.Sequential(two_layers(Z_DIM), nn.Linear(HIDDEN, X_DIM))

        def network() -> nn.Sequential:
            half = Z_DIM // 2
            layers = [nn.Linear(half, 64), nn.LeakyReLU(), nn.Linear(64, 64), nn.LeakyReLU(), nn.Linear(64, half)]
            return nn.Sequential(*layers, nn.Tanh())

        self.log_scales = nn.ModuleList(network() for _ in range(num_couplings))
        self.shifts = nn.ModuleList(network() for _ in range(num_couplings))

    def forward(self, x: Tensor) -> Tensor:
        loc, scale = self.encoder(x)
        z = loc + scale * torch.randn_like(loc)
        base, log_det = z, torch.zeros(len(x))
        for log_scale, shift in zip(self.log_scales, self.shifts, strict=True):
            stays, moves = base.chunk(2, -1)
            s = log_scale(stays)
            base = torch.cat([stays, (moves - shift(stays)) * torch.exp(-s)], -1).flip(-1)
            log_det = log_det - s.sum(-1)
        log_prior = log_normal(base, torch.zeros(Z_DIM), torch.ones(Z_DIM)) + log_det
        return (log_normal(z, loc, scale) - log_prior - log_bernoulli(self.decoder(z), x)).mean()


class Branched(nn.Module):
    """A layer for each of two inputs, and one for both."""

    def __init__(self, in_dim: int, condition_dim: int) -> None:
        super().__init__()
        self.input, self.condition = Gated(in_dim, HIDDEN), Gated(condition_dim, HIDDEN)
        self.joined = Gated(2 * HIDDEN, HIDDEN)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.joined(torch.cat([self.input(x), self.condition(condition)], -1))


class HVAE(nn.Module):
    """Two levels (Tomczak and Welling 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(two_layers(X_DIM), Gaussian(HIDDEN))
        self.trunk_z1, self.head_z1 = Branched(X_DIM, Z_DIM), Gaussian(HIDDEN)
        self.prior_z1 = nn.Sequential(two_layers(Z_DIM), Gaussian(HIDDEN))
        self.decoder_trunk, self.out = Branched(Z_DIM, Z_DIM), nn.Linear(HIDDEN, X_DIM)

    def forward(self, x: Tensor) -> Tensor:
        loc_2, scale_2 = self.encoder(x)
        z_2 = loc_2 + scale_2 * torch.randn_like(loc_2)
        loc_1, scale_1 = self.head_z1(self.trunk_z1(x, z_2))
        z_1 = loc_1 + scale_1 * torch.randn_like(loc_1)
        kl = normal_kl(loc_2, scale_2) + normal_kl(loc_1, scale_1, *self.prior_z1(z_2))
        return (kl - log_bernoulli(self.out(self.decoder_trunk(z_1, z_2)), x)).mean()


class CDVCVAE(nn.Module):
    """Conditional VAE with the CDV prior of 32 components (Klushyn et al. 2019); the decoder sees z alone."""

    def __init__(self, num_components: int = 32) -> None:
        super().__init__()
        self.pseudo_latents = nn.Sequential(two_layers(CONDITION_DIM), nn.Linear(HIDDEN, num_components * Z_DIM))
        self.encoder = nn.Sequential(two_layers(X_DIM), Gaussian(HIDDEN))
        self.decoder = nn.Sequential(two_layers(Z_DIM), nn.Linear(HIDDEN, X_DIM - CONDITION_DIM))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        loc, scale = self.encoder(torch.cat([x, condition], -1))
        z = loc + scale * torch.randn_like(loc)
        pseudo = self.pseudo_latents(condition).unflatten(-1, (-1, Z_DIM))
        mean = self.decoder(pseudo).sigmoid()
        given = condition.unsqueeze(-2).expand(*mean.shape[:-1], CONDITION_DIM)
        p_loc, p_scale = self.encoder(torch.cat([mean, given], -1))
        log_prior = torch.logsumexp(log_normal(z.unsqueeze(-2), p_loc, p_scale), -1) - math.log(p_loc.shape[-2])
        return (log_normal(z, loc, scale) - log_prior - log_bernoulli(self.decoder(z), x)).mean()


class SigmaCVAENF(nn.Module):
    """Sigma-CVAE with a flow prior (De 2025) of MNIST given its label: four convolutions each way, four couplings."""

    def __init__(self, num_labels: int = 10, num_couplings: int = 4) -> None:
        super().__init__()
        sizes = [(1, 16), (16, 32), (32, 64), (64, 128)]  # 28, 14, 7, 3 and 1 pixels
        self.convolutions = nn.ModuleList(nn.Conv2d(n, m, 4, 2, 1) for n, m in sizes)
        self.seen = nn.Linear(num_labels, 16, bias=False)
        self.head = Gaussian(128)
        self.first = nn.Linear(Z_DIM + num_labels, 128)
        back = zip(sizes[::-1], (1, 1, 0, 0), strict=True)
        self.back = nn.ModuleList(nn.ConvTranspose2d(m, n, 4, 2, 1, left_over) for (n, m), left_over in back)
        self.prior = nn.Sequential(Gated(num_labels, HIDDEN), Gated(HIDDEN, HIDDEN), Gaussian(HIDDEN))
        half = Z_DIM // 2
        self.moves = nn.ModuleList(
            nn.Sequential(nn.Linear(half, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2 * half))
            for _ in range(num_couplings)
        )

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        h = x
        for i, convolution in enumerate(self.convolutions):
            h = convolution(h) if i else convolution(h) + self.seen(label)[..., None, None]
            h = F.leaky_relu(h, 0.2)
        loc, scale = self.head(h.flatten(1))
        z = loc + scale * torch.randn_like(loc)
        h = self.first(torch.cat([z, label], -1))[..., None, None]
        for layer in self.back:
            h = layer(F.leaky_relu(h, 0.2))
        error = (x - h).square().mean()
        log_scale = F.softplus(0.5 * error.log() + 6) - 6
        log_p = -x[0].numel() * (0.5 * error * torch.exp(-2 * log_scale) + log_scale + 0.5 * math.log(2 * math.pi))
        base, log_det = z, torch.zeros(len(x))
        for move in self.moves:
            stays, moves = base.chunk(2, -1)
            shift, raw = move(stays).chunk(2, -1)
            s = torch.tanh(raw)
            base = torch.cat([stays, moves * torch.exp(s) + shift], -1).flip(-1)
            log_det = log_det + s.sum(-1)
        log_prior = log_normal(base, *self.prior(label)) + log_det
        return (log_normal(z, loc, scale) - log_prior).mean() - log_p
