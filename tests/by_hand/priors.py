"""The priors of z, or of z2: log-densities from the papers' formulae."""

import math

import torch
from torch import Tensor

from .formulae import affine, gaussian, kl_normal, log_normal, perceptron, scale_of, softplus
from .sigma_cvae_nf import flow as flow_to_base


def encode(state: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """loc and scale of the guide's q(z|x), or q(z2|x)."""
    return gaussian(affine(state, "guide.encoder.head.parameters_of_z", perceptron(state, "guide.encoder.trunk", x)))


def kl_to_prior(state: dict[str, Tensor], z: Tensor, loc: Tensor, scale: Tensor, analytic: bool) -> Tensor:
    """KL of N(loc, scale^2) to the prior, or where that is no Gaussian, or not analytic, its estimate at z."""
    if is_gaussian(state) and analytic:
        return kl_normal(loc, scale, *gaussian_prior(state, z))
    return log_normal(z, loc, scale) - log_prior(state, z)


def log_prior(state: dict[str, Tensor], z: Tensor) -> Tensor:
    """log p(z) of whichever prior the state is of, shape ``(batch,)``."""
    if is_gaussian(state):
        return log_normal(z, *gaussian_prior(state, z))
    if "model.prior.free_pseudo_inputs" in state:  # Tomczak and Welling (2018): the encoder at the pseudo-inputs
        pseudo_inputs = state["model.prior.free_pseudo_inputs"]
        return log_mixture(state, z, *encode(state, torch.minimum(pseudo_inputs.relu(), torch.ones(()))))
    if "model.prior.loc" in state:
        return log_mixture(state, z, state["model.prior.loc"], scale_of(state["model.prior.raw_scale"]))
    return log_flow(state, z)


def is_gaussian(state: dict[str, Tensor]) -> bool:
    names = [name for name in state if name.startswith("model.prior.")]
    return not names or sorted(state[name].dim() for name in names) == [1, 1]


def gaussian_prior(state: dict[str, Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    if "model.prior.loc" in state:
        return state["model.prior.loc"], scale_of(state["model.prior.raw_scale"])
    return torch.zeros_like(z), torch.ones_like(z)


def log_mixture(state: dict[str, Tensor], z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """log sum_k w_k N(z | loc_k, scale_k^2), as it stands; weights 1/K where none are trained."""
    logits = state.get("model.prior.logits", torch.zeros(len(loc)))
    weights = torch.exp(logits) / torch.exp(logits).sum()
    densities = [torch.exp(log_normal(z, loc[k], scale[k])) for k in range(len(loc))]
    return torch.log(sum(weight * density for weight, density in zip(weights, densities, strict=True)))


def log_flow(state: dict[str, Tensor], z: Tensor) -> Tensor:
    """log N(g(z); 0, I) + log|det dg/dz| (Bhalodia et al. 2019): the transforms undone, the last first; those of De
    (2025) go to the base, the first first."""
    if "model.prior.networks.0.move.weight" in state:
        g, log_det = flow_to_base(state, z, z)
        return log_normal(g, torch.zeros_like(g), torch.ones_like(g)) + log_det
    num_transforms = 1 + max(int(name.split(".")[3]) for name in state if name.startswith("model.prior.networks."))
    log_det = torch.zeros(len(z))
    for index in reversed(range(num_transforms)):
        name = f"model.prior.networks.{index}"
        z = z.flip(-1) if index % 2 else z  # every second transform sees z in reverse
        z, term = undo(state, name, z)
        z = z.flip(-1) if index % 2 else z
        log_det = log_det + term
    return log_normal(z, torch.zeros_like(z), torch.ones_like(z)) + log_det


def undo(state: dict[str, Tensor], name: str, z: Tensor) -> tuple[Tensor, Tensor]:
    """What a transform makes z of, and the log-determinant of that, for z of two values."""
    first, second = z[:, :1], z[:, 1:]
    if f"{name}.loc.0.weight" in state:  # affine coupling, Dinh et al. (2017)
        loc = torch.tanh(dense(state, f"{name}.loc", first, 0.01))
        log_scale = torch.tanh(dense(state, f"{name}.log_scale", first, 0.01))
        return torch.cat([first, (second - loc) * torch.exp(-log_scale)], -1), -log_scale.sum(-1)
    if f"{name}.parameters_of_splines.0.weight" in state:  # spline coupling, Durkan et al. (2019)
        raw = dense(state, f"{name}.parameters_of_splines", first, 0.01)
        y, log_slope = spline(second[:, 0], raw[:, :8], raw[:, 8:16], raw[:, 16:])
        return torch.cat([first, y[:, None]], -1), log_slope
    of_first, of_second = made(state, name, first)  # Papamakarios et al. (2017): z_2's parameters see z_1 alone
    if of_first.shape[-1] == 2:
        loc, log_scale = (torch.stack([of_first[:, i], of_second[:, i]], -1) for i in range(2))
        log_scale = 3 * torch.tanh(log_scale / 3)
        return z * torch.exp(log_scale) + loc, log_scale.sum(-1)
    values, log_slopes = zip(
        *(
            spline(value, raw[:, :8], raw[:, 8:16], raw[:, 16:])
            for value, raw in ((z[:, 0], of_first), (z[:, 1], of_second))
        ),
        strict=True,
    )
    return torch.stack(values, -1), sum(log_slopes)


def dense(state: dict[str, Tensor], name: str, h: Tensor, slope: float, layers: tuple[int, ...] = (0, 2, 4)) -> Tensor:
    """Perceptron with leaky ReLU."""
    for layer in layers:
        h = h @ state[f"{name}.{layer}.weight"].T + state[f"{name}.{layer}.bias"]
        if layer != layers[-1]:
            h = torch.where(h > 0, h, slope * h)
    return h


def made(state: dict[str, Tensor], name: str, first: Tensor) -> tuple[Tensor, Tensor]:
    """Parameters of both values: the first's are biases, the second's a perceptron of the first value."""
    own = dict(state)
    own[f"{name}.made.layers.0.weight"] = state[f"{name}.made.layers.0.weight"][:, :1]
    out = dense(own, f"{name}.made.layers", first, 0.0, layers=(0, 1, 2))
    bias = state[f"{name}.made.layers.2.bias"]
    return bias[0::2].expand(len(first), -1), out[:, 1::2]  # outputs: parameter by parameter, each of both values


def spline(x: Tensor, widths: Tensor, heights: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
    """Durkan et al. (2019), equations 4 and 5, bin by bin: 8 bins on [-5, 5], the identity outside."""
    share = [0.001 + 0.992 * torch.exp(raw) / torch.exp(raw).sum(-1, keepdim=True) for raw in (widths, heights)]
    slope_one = math.log(math.expm1(0.999))
    slope = [torch.ones_like(x), *(0.001 + softplus(slopes + slope_one)).unbind(-1), torch.ones_like(x)]
    y, log_slope = x, torch.zeros_like(x)
    left, low = torch.full_like(x, -5.0), torch.full_like(x, -5.0)
    for k in range(8):
        w, h = 10 * share[0][:, k], 10 * share[1][:, k]
        xi, s = (x - left) / w, h / w
        bottom = s + (slope[k + 1] + slope[k] - 2 * s) * xi * (1 - xi)
        value = low + h * (s * xi**2 + slope[k] * xi * (1 - xi)) / bottom
        rise = s**2 * (slope[k + 1] * xi**2 + 2 * s * xi * (1 - xi) + slope[k] * (1 - xi) ** 2) / bottom**2
        here = (x >= left) & (x < left + w) & (x.abs() < 5)
        y = torch.where(here, value, y)
        log_slope = torch.where(here, torch.log(torch.where(here, rise, 1.0)), log_slope)
        left, low = left + w, low + h
    return y, log_slope
