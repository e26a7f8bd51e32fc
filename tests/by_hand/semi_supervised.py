"""Semi-supervised CP-VAE: equations 6, 7 and 9 of Kingma et al. (2014), one example after another."""

import torch
from torch import Tensor

from .cp_vae import category_logits
from .formulae import affine, gaussian, kl_normal, log_bernoulli, log_normal, perceptron, scale_of, weight_of


def loss_by_hand(
    state: dict[str, Tensor],
    x: Tensor,
    y: Tensor,
    noise: Tensor,
    kl_weights: float | dict[str, float] = 1.0,
    beta: float = 1.0,
    analytic: bool = True,
    classification_weight: float = 0.0,
) -> Tensor:
    """:param y: labels, -1 where unknown, shape ``(batch,)``
    :param noise: standard normal, shape ``(K, num_particles, batch, z_dim)``"""
    h = perceptron(state, "guide.trunk.mlp", x)
    logits = category_logits(state, x, h)
    log_q = logits - torch.log(torch.exp(logits).sum(-1, keepdim=True))  # log q(c|x), shape (batch, K)
    weights = state.get("model.category_logits", torch.zeros(log_q.shape[-1]))
    log_p = weights - torch.log(torch.exp(weights).sum())
    weight_c = beta * weight_of(kl_weights, "c")
    given_c = [
        bound_given(state, x, h, k, noise[k], beta * weight_of(kl_weights, "z"), analytic) for k in range(len(log_p))
    ]
    loss = torch.zeros(())
    for i, label in enumerate(y.tolist()):
        if label >= 0:  # equation 6, and the last term of equation 9
            loss = loss - (given_c[label][i] + weight_c * log_p[label]) - classification_weight * log_q[i, label]
        else:  # equation 7
            for k, given_k in enumerate(given_c):
                loss = loss - torch.exp(log_q[i, k]) * (given_k[i] + weight_c * (log_p[k] - log_q[i, k]))
    return loss / len(x)


def bound_given(
    state: dict[str, Tensor], x: Tensor, h: Tensor, k: int, noise: Tensor, weight: float, analytic: bool
) -> Tensor:
    """E log p(x|z,k) less the weighted KL of z, of all examples with category k, shape ``(batch,)``."""
    latent = "guide.latent.parameters_of_z"
    loc, scale = gaussian(affine(state, latent, h) + state[f"{latent}.category.weight"][k])
    prior_loc, prior_scale = state["model.prior.loc"][k], scale_of(state["model.prior.raw_scale"][k])
    bound = torch.zeros(len(x))
    for epsilon in noise:
        z = loc + scale * epsilon
        seen = state["model.decoder.trunk.first.category.weight"][k]
        x_logits = affine(state, "model.decoder.out", perceptron(state, "model.decoder.trunk", z, seen))
        if analytic:
            kl = kl_normal(loc, scale, prior_loc, prior_scale)
        else:
            kl = log_normal(z, loc, scale) - log_normal(z, prior_loc, prior_scale)
        bound = bound + (log_bernoulli(x, x_logits) - weight * kl) / len(noise)
    return bound
