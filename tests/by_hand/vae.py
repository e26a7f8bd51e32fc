"""The VAE of Kingma and Welling (2014, equation 3), and CP1 of Lavda et al. (2019, equation 15): a trained
prior."""

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
    """:param noise: standard normal, shape ``(num_particles, batch, z_dim)``"""
    loc, scale = gaussian(
        affine(state, "guide.encoder.head.parameters_of_z", perceptron(state, "guide.encoder.trunk", x))
    )
    if "model.prior.loc" in state:
        prior_loc, prior_scale = state["model.prior.loc"], scale_of(state["model.prior.raw_scale"])
    else:
        prior_loc, prior_scale = torch.zeros_like(loc), torch.ones_like(loc)
    weight = beta * weight_of(kl_weights, "z")
    losses = []
    for epsilon in noise:
        z = loc + scale * epsilon
        logits = affine(state, "model.decoder.out", perceptron(state, "model.decoder.trunk", z))
        if analytic:
            kl = kl_normal(loc, scale, prior_loc, prior_scale)
        else:
            kl = log_normal(z, loc, scale) - log_normal(z, prior_loc, prior_scale)
        losses.append((weight * kl - log_bernoulli(x, logits)).mean())
    return sum(losses) / len(losses)
