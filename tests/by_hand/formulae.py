"""Layers and densities, each as its formula."""

import math

import torch
from torch import Tensor


def softplus(raw: Tensor) -> Tensor:
    """log(1 + e^raw)."""
    return torch.log1p(torch.exp(raw))


def scale_of(raw: Tensor) -> Tensor:
    """softplus and the floor of 1e-4 that the library names."""
    return softplus(raw) + 1e-4


def gated(weight: Tensor, bias: Tensor, x: Tensor, joined: Tensor | float = 0.0) -> Tensor:
    """(W x + b) * sigmoid(V x + d), Dauphin et al. 2017; W, b are the first halves of the stored tensors."""
    out = x @ weight.T + bias + joined
    half = out.shape[-1] // 2
    return out[..., :half] / (1 + torch.exp(-out[..., half:]))


def affine(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.input.weight"].T + state[f"{name}.input.bias"]


def perceptron(state: dict[str, Tensor], name: str, x: Tensor, joined: Tensor | float = 0.0) -> Tensor:
    """Two gated layers; ``joined`` is what a condition or a category adds to the first."""
    first, second = f"{name}.first.input", f"{name}.rest.0.input"
    h = gated(state[f"{first}.weight"], state[f"{first}.bias"], x, joined)
    return gated(state[f"{second}.weight"], state[f"{second}.bias"], h)


def gaussian(parameters: Tensor) -> tuple[Tensor, Tensor]:
    """loc and scale of a head's output: the first half, and the second made positive."""
    half = parameters.shape[-1] // 2
    return parameters[..., :half], scale_of(parameters[..., half:])


def log_normal(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """log N(z | loc, diag(scale^2))."""
    return (-0.5 * ((z - loc) / scale) ** 2 - torch.log(scale) - 0.5 * math.log(2 * math.pi)).sum(-1)


def kl_normal(loc: Tensor, scale: Tensor, prior_loc: Tensor, prior_scale: Tensor) -> Tensor:
    """KL(N(loc, scale^2) || N(prior_loc, prior_scale^2)), diagonal."""
    variances = (scale / prior_scale) ** 2
    distance = ((loc - prior_loc) / prior_scale) ** 2
    return 0.5 * (variances + distance - 1 - torch.log(variances)).sum(-1)


def log_bernoulli(x: Tensor, logits: Tensor) -> Tensor:
    """x log sigma(l) + (1 - x) log(1 - sigma(l)), summed over the values of x."""
    return (x * logits - softplus(logits)).sum(-1)


def weight_of(kl_weights: float | dict[str, float], site: str) -> float:
    return kl_weights.get(site, 1.0) if isinstance(kl_weights, dict) else kl_weights
