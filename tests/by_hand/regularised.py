"""The regularised objectives from their papers' equations: densities as they stand, sums as loops over data.

Each pair's bound is computed in the same plain way, and the code that is regularised is given for every category.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .cp_vae import category_logits
from .formulae import affine, gaussian, kl_normal, log_bernoulli, log_normal, perceptron, scale_of
from .hvae import branched
from .priors import encode, gaussian_prior, is_gaussian, kl_to_prior, log_prior

NUM_FLOWS = 3


@dataclass
class Code:
    """The code of one category: q(c|x) per datum, Gaussian posterior, draw, log p(z|c) there."""

    q: Tensor
    loc: Tensor
    scale: Tensor
    z: Tensor
    log_prior: Tensor
    prior: tuple[Tensor, Tensor] | None = None


@dataclass
class Parts:
    """Means over the batch."""

    reconstruction: Tensor
    kl: dict[str, Tensor]
    codes: list[Code]


def parts_by_hand(
    name: str, state: dict[str, Tensor], x: Tensor, condition: Tensor | None, noise: Sequence[Tensor], analytic: bool
) -> Parts:
    """:param noise: standard normal of each latent site in the guide's order; of cp_vae's z for every category"""
    return {"vae": vae, "hvae": hvae, "cvae": cvae, "cp_vae": cp_vae}[name](state, x, condition, noise, analytic)


def vae(state, x, condition, noise, analytic):
    loc, scale = encode(state, x)
    z = loc + scale * noise[0]
    logits = affine(state, "model.decoder.out", perceptron(state, "model.decoder.trunk", z))
    kl = kl_to_prior(state, z, loc, scale, analytic).mean()
    prior = gaussian_prior(state, z) if is_gaussian(state) else None
    code = Code(torch.ones(len(x)), loc, scale, z, log_prior(state, z), prior)
    return Parts(log_bernoulli(x, logits).mean(), {"z": kl}, [code])


def hvae(state, x, condition, noise, analytic):
    loc, scale = encode(state, x)
    z_2 = loc + scale * noise[0]
    h = branched(state, "guide.encoder_z1.trunk", x, z_2)
    loc_1, scale_1 = gaussian(affine(state, "guide.encoder_z1.head.parameters_of_z", h))
    z_1 = loc_1 + scale_1 * noise[1]
    h = perceptron(state, "model.prior_z1.network.mlp", z_2)
    prior_1 = gaussian(affine(state, "model.prior_z1.head.parameters_of_z", h))
    logits = affine(state, "model.decoder.out", branched(state, "model.decoder.trunk", z_1, z_2))
    kl_1 = kl_normal(loc_1, scale_1, *prior_1)
    if not analytic:
        kl_1 = log_normal(z_1, loc_1, scale_1) - log_normal(z_1, *prior_1)
    kl = {"z2": kl_to_prior(state, z_2, loc, scale, analytic).mean(), "z1": kl_1.mean()}
    prior = gaussian_prior(state, z_2) if is_gaussian(state) else None
    code = Code(torch.ones(len(x)), loc, scale, z_2, log_prior(state, z_2), prior)
    return Parts(log_bernoulli(x, logits).mean(), kl, [code])


def cvae(state, x, condition, noise, analytic):
    encoder, network, decoder = "guide.encoder", "model.prior.network", "model.decoder"
    h = perceptron(state, f"{encoder}.trunk", x, condition @ state[f"{encoder}.trunk.first.condition.weight"].T)
    loc, scale = gaussian(affine(state, f"{encoder}.head.parameters_of_z", h))
    h = perceptron(state, f"{network}.mlp", condition)
    prior = gaussian(affine(state, "model.prior.head.parameters_of_z", h))
    z = loc + scale * noise[0]
    seen = condition @ state[f"{decoder}.trunk.first.condition.weight"].T
    logits = affine(state, f"{decoder}.out", perceptron(state, f"{decoder}.trunk", z, seen))
    log_p = log_normal(z, *prior)
    kl = kl_normal(loc, scale, *prior) if analytic else log_normal(z, loc, scale) - log_p
    code = Code(torch.ones(len(x)), loc, scale, z, log_p, prior)
    return Parts(log_bernoulli(x, logits).mean(), {"z": kl.mean()}, [code])


def cp_vae(state, x, condition, noise, analytic):
    h = perceptron(state, "guide.trunk.mlp", x)
    logits = category_logits(state, x, h)
    q = torch.exp(logits) / torch.exp(logits).sum(-1, keepdim=True)
    num_categories = q.shape[-1]
    kl_c = (q * (torch.log(q) + math.log(num_categories))).sum(-1).mean()
    reconstruction, kl_z, codes = 0.0, 0.0, []
    for k in range(num_categories):
        head = "guide.latent.parameters_of_z"
        raw = affine(state, head, h) + state[f"{head}.category.weight"][k]
        loc, scale = gaussian(raw)
        z = loc + scale * noise[0][k]
        prior = state["model.prior.loc"][k], scale_of(state["model.prior.raw_scale"][k])
        log_p = log_normal(z, *prior)
        kl = kl_normal(loc, scale, *prior) if analytic else log_normal(z, loc, scale) - log_p
        seen = state["model.decoder.trunk.first.category.weight"][k]
        x_logits = affine(state, "model.decoder.out", perceptron(state, "model.decoder.trunk", z, seen))
        reconstruction = reconstruction + (q[:, k] * log_bernoulli(x, x_logits)).mean()
        kl_z = kl_z + (q[:, k] * kl).mean()
        codes.append(Code(q[:, k], loc, scale, z, log_p, prior))
    return Parts(reconstruction, {"z": kl_z, "c": kl_c}, codes)


def density(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """N(z | loc, scale^2) of each value."""
    return torch.exp(-0.5 * ((z - loc) / scale) ** 2) / (scale * math.sqrt(2 * math.pi))


def weight_by_hand(i: int, j: int, size: int, num_data: int, estimator: str) -> float:
    """w_ij: Chen et al. (2018), appendix C.1 (weighted) and C.2 (stratified, M there being one less)."""
    if estimator == "weighted":
        return 1 / (num_data * size)
    m = size - 1
    if i == j:
        return 1 / num_data
    return (num_data - m) / (num_data * m) if j == (i + 1) % size else 1 / m


def decomposition_by_hand(codes: Sequence[Code], num_data: int, estimator: str) -> tuple[Tensor, Tensor, Tensor]:
    """Mutual information, total correlation and dimension-wise KL, within each category."""
    size = len(codes[0].z)
    found = [torch.zeros(()) for _ in range(3)]
    for code in codes:
        for i in range(size):
            z = code.z[i]
            joint, each, category = 0.0, 0.0, 0.0
            for j in range(size):
                w = weight_by_hand(i, j, size, num_data, estimator) * code.q[j]
                values = density(z, code.loc[j], code.scale[j])
                joint, each, category = joint + w * values.prod(), each + w * values, category + w
            if estimator == "weighted":
                category = code.q.mean()
            joint, each = joint / category, each / category
            log_q_x = torch.log(density(z, code.loc[i], code.scale[i])).sum()
            log_each = torch.log(each).sum()
            terms = (log_q_x - torch.log(joint), torch.log(joint) - log_each, log_each - code.log_prior[i])
            found = [total + code.q[i] * term / size for total, term in zip(found, terms, strict=True)]
    return found[0], found[1], found[2]


def mmd_by_hand(codes: Sequence[Code], draws: Sequence[Tensor], kernel: str, bandwidth: float, unbiased: bool):
    """Gretton et al. (2012): lemma 6, or equation 5; a kernel that is 0 between categories, whose prior is 1/K."""
    size, z_dim = codes[0].z.shape
    c = 2 * bandwidth**2 * z_dim

    def k(a, b):
        squares = ((a - b) ** 2).sum()
        return torch.exp(-squares / c) if kernel == "gaussian" else c / (c + squares)

    total, p = torch.zeros(()), 1 / len(codes)
    for code, y in zip(codes, draws, strict=True):
        z, q = code.z, code.q
        for i in range(size):
            for j in range(size):
                if i != j or not unbiased:
                    total = total + q[i] * q[j] * k(z[i], z[j]) + p * p * k(y[i], y[j])
                    total = total - q[i] * p * k(z[i], y[j]) - q[j] * p * k(z[j], y[i])
    return total / (size * (size - 1) if unbiased else size * size)


def discriminator_by_hand(state: dict[str, Tensor], z: Tensor, k: int) -> Tensor:
    """Leaky ReLU of slope 0.2 between affine maps; the category is one more column of weights in the first."""
    num_layers = sum(name.endswith("weight") for name in state)
    for index in range(num_layers):
        z = torch.where(z > 0, z, 0.2 * z) if index else z
        z = z @ state[f"layers.{index}.weight"].T + state[f"layers.{index}.bias"]
        if not index and "category" in state:
            z = z + state["category"][k]
    return z[:, 0]


def factor_by_hand(state: dict[str, Tensor], codes: Sequence[Code], noise: Tensor, start: Tensor | None):
    """Total correlation under the discriminator, and its loss: Kim and Mnih (2018), equation 3 and algorithm 2.

    :param noise: uniform, shape ``(K, z_dim, batch)``, or without categories ``(z_dim, batch)``; its order permutes
    :param start: uniform, shape ``(K, z_dim, 1)``; None without categories
    """
    noise = noise if start is not None else noise[None]
    correlation, loss = torch.zeros(()), torch.zeros(())
    for k, code in enumerate(codes):
        fixed = {name: value.detach() for name, value in state.items()}
        correlation = correlation + (code.q * discriminator_by_hand(fixed, code.z, k)).mean()
        z, q, size = code.z.detach(), code.q.detach(), len(code.z)
        exchanged = torch.empty_like(z)
        for d in range(z.shape[1]):
            order = sorted(range(size), key=lambda i, d=d, k=k: noise[k, d, i].item())
            for i in range(size):
                row = order[i]
                if start is not None:  # the row at which the shares of q(c|x) pass the point
                    point, row = (order[i] + start[k, d, 0].item()) / size, 0
                    while row < size - 1 and q[: row + 1].sum() / q.sum() < point:
                        row += 1
                exchanged[i, d] = z[row, d]
        # 1/2 of the cross-entropies, by sigmoids
        p_real = 1 / (1 + torch.exp(-discriminator_by_hand(state, z, k)))
        p_exchanged = 1 / (1 + torch.exp(-discriminator_by_hand(state, exchanged, k)))
        loss = loss - 0.5 * (q * torch.log(p_real)).mean() - 0.5 * q.mean() * torch.log(1 - p_exchanged).mean()
    return correlation, loss


def draws_by_hand(state: dict[str, Tensor], codes: Sequence[Code], noise: Tensor) -> list[Tensor]:
    """Draws of a Gaussian prior, one for each category, or of affine couplings, from standard normal noise."""
    if codes[0].prior is not None:
        noise = noise if noise.dim() == 3 else noise[None]
        return [code.prior[0] + code.prior[1] * noise[k] for k, code in enumerate(codes)]
    z = noise
    for index in range(NUM_FLOWS):
        name = f"model.prior.networks.{index}"
        z = z.flip(-1) if index % 2 else z  # every second transform sees z in reverse
        first, second = z[:, :1], z[:, 1:]
        loc, log_scale = (torch.tanh(leaky(state, f"{name}.{part}", first)) for part in ("loc", "log_scale"))
        z = torch.cat([first, second * torch.exp(log_scale) + loc], -1)
        z = z.flip(-1) if index % 2 else z
    return [z]


def leaky(state: dict[str, Tensor], name: str, h: Tensor) -> Tensor:
    for layer in (0, 2, 4):
        h = h @ state[f"{name}.{layer}.weight"].T + state[f"{name}.{layer}.bias"]
        h = torch.where(h > 0, h, 0.01 * h) if layer < 4 else h
    return h
