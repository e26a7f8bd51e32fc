"""The two-level VAE of Tomczak and Welling (2018): log p(x|z1,z2) less the KL of z1 given z2, and that of z2."""

from torch import Tensor

from .formulae import affine, gated, gaussian, kl_normal, log_bernoulli, log_normal, perceptron, weight_of
from .priors import encode, kl_to_prior


def branched(state: dict[str, Tensor], name: str, x: Tensor, condition: Tensor) -> Tensor:
    """A gated layer of each, and one of both."""

    def layer(part: str, h: Tensor, joined: Tensor | float = 0.0) -> Tensor:
        return gated(state[f"{name}.{part}.first.input.weight"], state[f"{name}.{part}.first.input.bias"], h, joined)

    joined = layer("condition", condition) @ state[f"{name}.joined.first.condition.weight"].T
    return layer("joined", layer("input", x), joined)


def elbo_by_hand(
    state: dict[str, Tensor],
    x: Tensor,
    condition: None,
    noise: tuple[Tensor, Tensor],
    kl_weights: float | dict[str, float] = 1.0,
    beta: float = 1.0,
    analytic: bool = True,
) -> Tensor:
    """:param noise: standard normal of z2 and of z1, each of shape ``(num_particles, batch, size)``"""
    loc_2, scale_2 = encode(state, x)
    losses = []
    for epsilon_2, epsilon_1 in zip(*noise, strict=True):
        z_2 = loc_2 + scale_2 * epsilon_2
        h = branched(state, "guide.encoder_z1.trunk", x, z_2)
        loc_1, scale_1 = gaussian(affine(state, "guide.encoder_z1.head.parameters_of_z", h))
        z_1 = loc_1 + scale_1 * epsilon_1
        h = perceptron(state, "model.prior_z1.network.mlp", z_2)
        prior_1 = gaussian(affine(state, "model.prior_z1.head.parameters_of_z", h))
        logits = affine(state, "model.decoder.out", branched(state, "model.decoder.trunk", z_1, z_2))
        if analytic:
            kl_1 = kl_normal(loc_1, scale_1, *prior_1)
        else:
            kl_1 = log_normal(z_1, loc_1, scale_1) - log_normal(z_1, *prior_1)
        kl_2 = kl_to_prior(state, z_2, loc_2, scale_2, analytic)
        kl = weight_of(kl_weights, "z1") * kl_1 + weight_of(kl_weights, "z2") * kl_2
        losses.append((beta * kl - log_bernoulli(x, logits)).mean())
    return sum(losses) / len(losses)
