"""The VAE of Kingma and Welling (2014, equation 3) with any prior; with a trained Gaussian it is CP1 of Lavda et al.
(2019, equation 15)."""

from torch import Tensor

from .formulae import affine, log_bernoulli, perceptron, weight_of
from .priors import encode, kl_to_prior


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
    loc, scale = encode(state, x)
    weight = beta * weight_of(kl_weights, "z")
    losses = []
    for epsilon in noise:
        z = loc + scale * epsilon
        logits = affine(state, "model.decoder.out", perceptron(state, "model.decoder.trunk", z))
        kl = kl_to_prior(state, z, loc, scale, analytic)
        losses.append((weight * kl - log_bernoulli(x, logits)).mean())
    return sum(losses) / len(losses)
