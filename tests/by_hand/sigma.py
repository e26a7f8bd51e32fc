"""What the three pairs of De (2025) share: the reconstruction at the scale that makes the batch most probable."""

import math

import torch
from torch import Tensor


def log_optimal_gaussian(x: Tensor, locs: list[Tensor]) -> list[Tensor]:
    """Equation 9 at the scale of equation 10, which is one number for all values of all data and draws; the logarithm
    of the scale ends softly at -6 (the code of Rybkin et al. 2021). One term for each draw, shape ``(batch,)``."""
    errors = [(x - loc) ** 2 for loc in locs]
    mse = sum(error.mean() for error in errors) / len(errors)
    log_sigma = -6 + torch.log1p(torch.exp(torch.log(torch.sqrt(mse)) + 6))
    constant = 0.5 * math.log(2 * math.pi)
    return [-(error / (2 * torch.exp(log_sigma) ** 2) + log_sigma + constant).sum(-1) for error in errors]
