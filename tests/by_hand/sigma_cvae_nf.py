"""The sigma-CVAE with a flow of De (2025, equations 11 to 14), with the sign of the KL's quadratic term put right.

The paper (section 2.3 and appendix C) prints, for each value of z,

    log sigma_p - log sigma_q - (f(z) - mu_p)^2 / (2 sigma_p^2) - log |det df/dz|,

whose third term is minus what minus log N(f(z); mu_p, sigma_p) gives, and leaves out what does not depend on the
parameters. With it the KL would fall without end as f(z) leaves mu_p. Right is, with z = mu_q + sigma_q eps,

    log sigma_p - log sigma_q + (f(z) - mu_p)^2 / (2 sigma_p^2) - eps^2 / 2 - log |det df/dz|.

For its figure 4, which decodes mu_p + sigma_p eps, the missing inverse of f is here too.
"""

import torch
from torch import Tensor

from .cvae import decode, encode
from .formulae import affine, gaussian, kl_normal, perceptron, weight_of
from .sigma import log_optimal_gaussian


def features(state: dict[str, Tensor], condition: Tensor) -> Tensor:
    """What the prior's network makes of the condition."""
    return perceptron(state, "model.prior.network.mlp", condition)


def move(state: dict[str, Tensor], name: str, first: Tensor, h: Tensor) -> Tensor:
    """A coupling's perceptron of the half that stays, and of the features if it sees them: two layers with ReLU."""
    hidden = affine(state, f"{name}.trunk.first", first)
    if f"{name}.trunk.first.condition.weight" in state:
        hidden = hidden + h @ state[f"{name}.trunk.first.condition.weight"].T
    hidden = affine(state, f"{name}.trunk.rest.0", hidden.clamp(min=0)).clamp(min=0)
    return hidden @ state[f"{name}.move.weight"].T + state[f"{name}.move.bias"]


def flow(state: dict[str, Tensor], z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """f(z) and log |det df/dz|: every second coupling sees the values in reverse order (equation 13)."""
    log_det = torch.zeros(len(z))
    for index in range(len([name for name in state if name.endswith(".move.bias")])):
        z = z.flip(-1) if index % 2 else z
        half = z.shape[-1] // 2
        first, second = z[:, :half], z[:, half:]
        moved = move(state, f"model.prior.networks.{index}", first, h)
        t, s = moved[:, : second.shape[-1]], torch.tanh(moved[:, second.shape[-1] :])
        s = s if s.shape[-1] else torch.zeros_like(t)  # volume-preserving
        z = torch.cat([first, second * torch.exp(s) + t], -1)
        z = z.flip(-1) if index % 2 else z
        log_det = log_det + s.sum(-1)
    return z, log_det


def inverse(state: dict[str, Tensor], g: Tensor, h: Tensor) -> Tensor:
    """z with f(z) = g: the couplings undone, the last first."""
    for index in reversed(range(len([name for name in state if name.endswith(".move.bias")]))):
        g = g.flip(-1) if index % 2 else g
        half = g.shape[-1] // 2
        first, second = g[:, :half], g[:, half:]
        moved = move(state, f"model.prior.networks.{index}", first, h)
        t, s = moved[:, : second.shape[-1]], torch.tanh(moved[:, second.shape[-1] :])
        s = s if s.shape[-1] else torch.zeros_like(t)
        g = torch.cat([first, (second - t) * torch.exp(-s)], -1)
        g = g.flip(-1) if index % 2 else g
    return g


def base(state: dict[str, Tensor], h: Tensor) -> tuple[Tensor, Tensor]:
    """Location and scale of the Gaussian that a condition's features give, at the end of the flow or without one."""
    flow = "base." if any(name.startswith("model.prior.networks") for name in state) else ""
    return gaussian(affine(state, f"model.prior.{flow}head.parameters_of_z", h))


def sample_by_hand(state: dict[str, Tensor], condition: Tensor, noise: Tensor) -> Tensor:
    """z of p(z|condition): the inverse of f at mu_p + sigma_p eps."""
    h = features(state, condition)
    mu_p, sigma_p = base(state, h)
    return inverse(state, mu_p + sigma_p * noise, h)


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
    mu_q, sigma_q = encode(state, x, condition)
    h = features(state, condition)
    mu_p, sigma_p = base(state, h)
    has_flow = any(name.startswith("model.prior.networks") for name in state)
    weight = beta * weight_of(kl_weights, "z")
    draws = [mu_q + sigma_q * epsilon for epsilon in noise]
    kls = []
    for z, epsilon in zip(draws, noise, strict=True):
        g, log_det = flow(state, z, h)
        kl = torch.log(sigma_p) - torch.log(sigma_q) + (g - mu_p) ** 2 / (2 * sigma_p**2) - epsilon**2 / 2
        closed = analytic and not has_flow
        kls.append(kl_normal(mu_q, sigma_q, mu_p, sigma_p) if closed else kl.sum(-1) - log_det)
    terms = zip(kls, log_optimal_gaussian(x, [decode(state, z, condition) for z in draws]), strict=True)
    losses = [(weight * kl - log_p).mean() for kl, log_p in terms]
    return sum(losses) / len(losses)
