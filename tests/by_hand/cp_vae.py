"""CP-VAE: equations 7 to 9 of Lavda et al. (2019), every category in its turn."""

import math

import torch
from torch import Tensor

from .formulae import affine, gaussian, kl_normal, log_bernoulli, log_normal, perceptron, scale_of, weight_of


def elbo_by_hand(
    state: dict[str, Tensor],
    x: Tensor,
    condition: None,
    noise: Tensor,
    kl_weights: float | dict[str, float] = 1.0,
    beta: float = 1.0,
    analytic: bool = True,
) -> Tensor:
    """:param noise: standard normal, shape ``(K, num_particles, batch, z_dim)``"""
    h = perceptron(state, "guide.trunk.mlp", x)
    logits = category_logits(state, x, h)
    q = torch.exp(logits) / torch.exp(logits).sum(-1, keepdim=True)  # q(c|x), shape (batch, K)
    num_categories = q.shape[-1]
    kl_c = (q * torch.log(q)).sum(-1) + math.log(num_categories)  # equation 9
    weight_z, weight_c = beta * weight_of(kl_weights, "z"), beta * weight_of(kl_weights, "c")
    loss = (weight_c * kl_c).mean()
    for k in range(num_categories):
        latent = "guide.latent.parameters_of_z"
        loc, scale = gaussian(affine(state, latent, h) + state[f"{latent}.category.weight"][k])
        prior_loc, prior_scale = state["model.prior.loc"][k], scale_of(state["model.prior.raw_scale"][k])
        for epsilon in noise[k]:
            z = loc + scale * epsilon
            seen = state["model.decoder.trunk.first.category.weight"][k]
            x_logits = affine(state, "model.decoder.out", perceptron(state, "model.decoder.trunk", z, seen))
            if analytic:
                kl_z = kl_normal(loc, scale, prior_loc, prior_scale)
            else:
                kl_z = log_normal(z, loc, scale) - log_normal(z, prior_loc, prior_scale)
            # equations 7 (A) and 8 (B2)
            loss = loss + (q[:, k] * (weight_z * kl_z - log_bernoulli(x, x_logits))).mean() / len(noise[k])
    return loss


def category_logits(state: dict[str, Tensor], x: Tensor, h: Tensor) -> Tensor:
    """Of q(c|x), from the features that q(z|x,c) has too, or by a network of its own."""
    if any(name.startswith("guide.category.logits") for name in state):
        return affine(state, "guide.category.logits", h)
    return affine(state, "guide.category.1.logits", perceptron(state, "guide.category.0.1", x))
