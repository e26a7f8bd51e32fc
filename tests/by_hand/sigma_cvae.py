"""The sigma-CVAE without flow of De (2025, equation 14 with p(z|y) = p(z)); the paper's y is our condition."""

from torch import Tensor

from .cvae import decode, encode
from .formulae import weight_of
from .priors import kl_to_prior
from .sigma import log_optimal_gaussian


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
    draws = [loc + scale * epsilon for epsilon in noise]
    terms = zip(draws, log_optimal_gaussian(x, [decode(state, z, condition) for z in draws]), strict=True)
    losses = [(weight * kl_to_prior(state, z, loc, scale, analytic) - log_p).mean() for z, log_p in terms]
    return sum(losses) / len(losses)
