"""The sigma-VAE of Rybkin et al. (2021), which De (2025, equations 5 and 11) begins with: the VAE with any prior."""

from torch import Tensor

from .formulae import affine, perceptron, weight_of
from .priors import encode, kl_to_prior
from .sigma import log_optimal_gaussian


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
    draws = [loc + scale * epsilon for epsilon in noise]
    x_hats = [affine(state, "model.decoder.out", perceptron(state, "model.decoder.trunk", z)) for z in draws]
    terms = zip(draws, log_optimal_gaussian(x, x_hats), strict=True)
    losses = [(weight * kl_to_prior(state, z, loc, scale, analytic) - log_p).mean() for z, log_p in terms]
    return sum(losses) / len(losses)
