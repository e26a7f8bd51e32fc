"""Whether the components of a conditional mixture prior are where the codes of data are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._options import typed
from .._precision import pair_in_precision_of
from ..errors import UserError, check_sizes
from ..pair import Pair
from ..priors import GaussianMixture
from ..sites import base_of, is_normal
from .checks import check_values, standard_error
from .distances import distances

__all__ = ["Components", "posterior_means", "prior_components"]

AT_ONCE = 500
QUANTILE = 0.99
"""Of the distances of held-out codes to the nearest code: a component beyond it is off the manifold."""


@torch.no_grad()
@typed
def posterior_means(pair: Pair, x: Tensor, condition: Tensor | None = None) -> Tensor:
    """Return the means of q(z|x,condition), shape ``(num, z_dim)``, on the CPU and in the precision of x.

    :param pair: the pair
    :param x: shape ``(num,) + x_shape``, on any device
    :param condition: shape ``(num,) + condition_shape``
    :raises ValueError: if x is empty, or x or the condition has values that are not finite
    """
    check_values("x", x, "num", ...)
    if condition is not None:
        check_values("condition", condition, len(x), ...)
    pair, found = pair_in_precision_of(x, pair), []
    like = next(pair.parameters())
    for start in range(0, len(x), AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        part, given = x[rows], None if condition is None else condition[rows].to(like)
        found.append(pair.encode(part.to(like), given)["z"].mean.cpu())
    return torch.cat(found)


@torch.no_grad()
@typed
def prior_components(pair: Pair, condition: Tensor) -> GaussianMixture:
    """p(z|condition) as a mixture, that of a single Gaussian too, on the CPU.

    :param condition: shape ``(num,) + condition_shape``
    :returns: mixture with batch shape ``(num,)`` and event shape ``(z_dim,)``
    :raises ValueError: if the prior does not see the condition, or is neither Gaussian nor a mixture of Gaussians, or
        the condition is empty or has values that are not finite
    """
    check_values("condition", condition, "num", ...)
    if not pair.takes_condition or not getattr(pair.model, "condition_prior", True):
        raise UserError("the prior of this pair does not see a condition: make a pair such as cmog_cvae")
    pair = pair_in_precision_of(condition, pair)
    logits, locs, scales = [], [], []
    for part in condition.split(AT_ONCE):
        with pair.evaluating():
            network: Any = pair.model.prior
            prior = network(part.to(pair.device))
        if not isinstance(prior, GaussianMixture):
            if not is_normal(prior):
                kind = type(base_of(prior)).__name__
                raise UserError(f"components are those of Gaussians, and the prior is a {kind}: take another pair")
            prior = GaussianMixture(prior.mean.new_zeros(1), prior.mean.unsqueeze(-2), prior.stddev.unsqueeze(-2))
        logits.append(prior.logits.expand(len(part), -1).cpu())
        locs.append(prior.loc.cpu())
        scales.append(prior.scale.cpu())
    return GaussianMixture(torch.cat(logits), torch.cat(locs), torch.cat(scales))


@dataclass(frozen=True, eq=False)
class Components:
    r"""Distances of the components of p(z|condition) from the manifold of the encoded data.

    The manifold is a set of codes, the posterior means of training data. A component is on it, given a condition, where
    its mean is no farther from the nearest code than 99% of held-out codes are. A component left the manifold
    altogether if it is off it given more than half of the conditions.

    :param nearest: distance of each component's mean to the nearest code, shape ``(num_conditions, K)``
    :param held_out: distance of each held-out code to the nearest code, shape ``(num_held_out,)``
    :param counts: mean number over the conditions of codes within each of ``radii``, shape ``(K, num_radii)``
    :param radii: shape ``(num_radii,)``
    """

    nearest: Tensor
    held_out: Tensor
    counts: Tensor
    radii: Tensor

    @property
    def limit(self) -> float:
        """Largest distance of a component that is on the manifold."""
        return self.held_out.quantile(QUANTILE).item()

    @property
    def off(self) -> Tensor:
        """Whether each component is off the manifold given each condition, shape ``(num_conditions, K)``."""
        return self.nearest > self.limit

    @property
    def num_off(self) -> float:
        """Mean number over the conditions of components that are off."""
        return self.off.double().sum(-1).mean().item()

    @property
    def stderr(self) -> float:
        """Its standard error over the conditions, NaN for one condition."""
        return standard_error(self.off.sum(-1))

    @property
    def num_left(self) -> int:
        """Number of components that are off given more than half of the conditions."""
        return int((self.off.double().mean(0) > 0.5).sum())

    @classmethod
    @typed
    def measure(cls, locs: Tensor, codes: Tensor, held_out: Tensor, num_radii: int = 100) -> Components:
        """Measure all distances.

        :param locs: means of the components given each condition, shape ``(num_conditions, K, z_dim)``
        :param codes: codes of the training data, shape ``(num_codes, z_dim)``
        :param held_out: codes of other data, shape ``(num_held_out, z_dim)``
        :param num_radii: number of radii
        :raises ValueError: if a tensor is not of its shape, or has values that are not finite

        What differs from the paper (section 4.2 of Klushyn et al. 2019): it shows the number of codes as a function of
        the distance to a component, as ``counts`` does, counts by eye the components that are far, and does not say
        given which condition; ours are of many conditions, and the limit is the data's own. As there, a component is
        known by its mean alone: samples of a broad one (CMoG's may be) lie far from it, those of one as narrow as a
        posterior (VampPrior, CDV) do not.
        """
        check_values("locs", locs, "num_conditions", "K", "z_dim")
        check_values("codes", codes, "num_codes", locs.shape[-1])
        check_values("held_out", held_out, "num_held_out", locs.shape[-1])
        check_sizes(num_radii=num_radii)
        centre = codes.mean(0)
        reach = max((values - centre).norm(dim=-1).max().item() for values in (locs, codes))
        radii = torch.linspace(0, reach, num_radii, dtype=torch.float64, device="cpu").to(codes)
        nearest, counts = [], codes.new_zeros(locs.shape[1], num_radii + 1, dtype=torch.int64)
        for part in locs:
            found = distances(part, codes)  # (K, num_codes)
            nearest.append(found.amin(-1))
            counts.scatter_add_(-1, torch.bucketize(found, radii), torch.ones_like(found, dtype=torch.int64))
        reference = torch.cat([distances(part, codes).amin(-1) for part in held_out.split(AT_ONCE)])
        means = counts.cumsum(-1)[:, :-1].double() / len(locs)
        return cls(torch.stack(nearest), reference, means.to(codes), radii)
