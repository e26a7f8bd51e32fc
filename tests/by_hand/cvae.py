"""The conditional VAE of Klushyn et al. (2019, equation 2); its x is our condition, its y our x."""

from torch import Tensor

from .formulae import affine, gaussian, kl_normal, log_bernoulli, log_normal, perceptron, weight_of


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
    encoder, prior, decoder = "guide.encoder", "model.prior.network", "model.decoder"
    h = perceptron(state, f"{encoder}.trunk", x, condition @ state[f"{encoder}.trunk.first.condition.weight"].T)
    loc, scale = gaussian(affine(state, f"{encoder}.head.parameters_of_z", h))
    h = perceptron(state, f"{prior}.trunk", condition)
    prior_loc, prior_scale = gaussian(affine(state, f"{prior}.head.parameters_of_z", h))
    weight = beta * weight_of(kl_weights, "z")
    losses = []
    for epsilon in noise:
        z = loc + scale * epsilon
        seen = condition @ state[f"{decoder}.trunk.first.condition.weight"].T
        logits = affine(state, f"{decoder}.out", perceptron(state, f"{decoder}.trunk", z, seen))
        if analytic:
            kl = kl_normal(loc, scale, prior_loc, prior_scale)
        else:
            kl = log_normal(z, loc, scale) - log_normal(z, prior_loc, prior_scale)
        losses.append((weight * kl - log_bernoulli(x, logits)).mean())
    return sum(losses) / len(losses)
