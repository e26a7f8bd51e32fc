"""Which KL terms have a closed form, and that of two Gaussians."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from ..sites import base_of, is_normal, sample_sites


def gaussian_kl(q: Any, p: Any) -> Tensor:
    """Return KL(q || p) of two Gaussians over vectors, each of a diagonal or a full covariance, in closed form.

    :param q: event shape ``(z_dim,)``
    :param p: the same event shape
    :returns: shape of the two batch shapes, broadcast; nats
    """
    if is_normal(p) and is_normal(q):
        return kl_divergence(q, p)
    return kl_divergence(_full(q), _full(p))


def _full(fn: Any) -> MultivariateNormal:
    """Return the Gaussian with its covariance as a matrix."""
    if not is_normal(fn):
        return fn
    base = base_of(fn)
    return MultivariateNormal(base.loc, scale_tril=torch.diag_embed(base.scale))


def in_order(name: str, model_trace: poutine.Trace, guide_trace: poutine.Trace) -> bool:
    """Whether all latent sites before this one in the model come before it in the guide too.

    Otherwise the prior of this site may depend, by what the guide draws after it, on its own value, and a closed form
    would miss that.
    """
    before = [
        {
            other
            for other in itertools.takewhile(lambda other: other != name, (key for key, _ in sample_sites(trace)))
            if other in guide_trace.nodes
        }
        for trace in (model_trace, guide_trace)
    ]
    return before[0] <= before[1]


def differ(one: float | Tensor, other: float | Tensor) -> bool:
    """Return whether two weights differ, as far as that can be known without comparing tensors."""
    both = isinstance(one, Tensor) and isinstance(other, Tensor)
    return not both and (isinstance(one, Tensor) or isinstance(other, Tensor) or one != other)
