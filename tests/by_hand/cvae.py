"""The conditional VAEs of Klushyn et al. (2019, equations 2 to 4); their x is our condition, their y our x."""

import torch
from torch import Tensor

from .formulae import (
    affine,
    gaussian,
    kl_normal,
    log_bernoulli,
    log_normal,
    perceptron,
    scale_of,
    weight_of,
)


def encode(state: dict[str, Tensor], x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
    """loc and scale of the guide's q(z|x,condition)."""
    seen = condition @ state["guide.encoder.trunk.first.condition.weight"].T
    h = perceptron(state, "guide.encoder.trunk", x, seen)
    return gaussian(affine(state, "guide.encoder.head.parameters_of_z", h))


def decode(state: dict[str, Tensor], z: Tensor, condition: Tensor) -> Tensor:
    """Logits of p(x|z,condition) (equation 2), or of p(x|z) (equation 3)."""
    seen: Tensor | float = 0.0
    if "model.decoder.trunk.first.condition.weight" in state:
        seen = condition @ state["model.decoder.trunk.first.condition.weight"].T
    return affine(state, "model.decoder.out", perceptron(state, "model.decoder.trunk", z, seen))


def components(state: dict[str, Tensor], condition: Tensor, z_dim: int) -> list[tuple[Tensor, Tensor]]:
    """loc and scale of each component of the prior, one by one."""
    rows = affine(
        state, "model.prior.network.components", perceptron(state, "model.prior.network.trunk.mlp", condition)
    )
    if "model.prior.decoder.out.input.weight" in state:  # CDV, equation 4
        each = rows.split(z_dim, -1)
        targets = [1 / (1 + torch.exp(-decode(state, z_k, condition))) for z_k in each]
        return [encode(state, x_k, condition) for x_k in targets]
    if "model.prior.encoder.head.parameters_of_z.input.weight" in state:  # pseudo-targets between 0 and 1
        x_dim = state["guide.encoder.trunk.first.input.weight"].shape[1]
        return [encode(state, 1 / (1 + torch.exp(-row)), condition) for row in rows.split(x_dim, -1)]
    return [(row[:, :z_dim], scale_of(row[:, z_dim:])) for row in rows.split(2 * z_dim, -1)]


def log_mixture(state: dict[str, Tensor], z: Tensor, condition: Tensor) -> Tensor:
    """log sum_k w_k N(z | loc_k, scale_k^2), as it stands; weights 1/K where the network gives none."""
    each = components(state, condition, z.shape[-1])
    weights = [torch.full((len(z),), 1 / len(each))] * len(each)
    if "model.prior.network.weights.input.weight" in state:
        h = perceptron(state, "model.prior.network.trunk.mlp", condition)
        odds = torch.exp(affine(state, "model.prior.network.weights", h))
        weights = [odds[:, k] / odds.sum(-1) for k in range(len(each))]
    return torch.log(sum(w * torch.exp(log_normal(z, *part)) for w, part in zip(weights, each, strict=True)))


def elbo_by_hand(
    state: dict[str, Tensor],
    x: Tensor,
    condition: Tensor,
    noise: Tensor,
    kl_weights: float | dict[str, float] = 1.0,
    beta: float = 1.0,
    analytic: bool = True,
) -> Tensor:
    """:param noise: standard normal, shape ``(num_particles, batch, z_dim)``"""
    loc, scale = encode(state, x, condition)
    weight = beta * weight_of(kl_weights, "z")
    losses = []
    for epsilon in noise:
        z = loc + scale * epsilon
        if "model.prior.network.components.input.weight" in state:
            kl = log_normal(z, loc, scale) - log_mixture(state, z, condition)
        else:
            h = perceptron(state, "model.prior.network.mlp", condition)
            prior = gaussian(affine(state, "model.prior.head.parameters_of_z", h))
            sampled = log_normal(z, loc, scale) - log_normal(z, *prior)
            kl = kl_normal(loc, scale, *prior) if analytic else sampled
        losses.append((weight * kl - log_bernoulli(x, decode(state, z, condition))).mean())
    return sum(losses) / len(losses)
