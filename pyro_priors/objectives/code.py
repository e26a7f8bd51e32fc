"""The code of a batch, as the regularised objectives read it off the traces."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from ..nn import RelaxedCategorical
from ..sites import base_of, is_enumerated, sample_sites
from .elbo import Expectation, scale_of

__all__ = ["Code", "read_code", "values_of"]


@dataclass
class Code:
    """One latent site of a batch, and the enumerated categories that it was drawn for.

    ``shape`` is ``enumerated_shape + particles_shape + (batch,)``; both may be ``()``.

    :param name: name of the site
    :param z: draws, shape ``shape + (z_dim,)``
    :param posterior: q(z|x,c), batch shape ``shape``
    :param prior: p(z|c), batch shape ``shape``
    :param log_q: log q(c|x), shape ``shape``; None without a category
    :param log_p: log p(c), shape ``shape``; None without a category
    :param scale: the KL weight of the site
    :param enumerated: names of the enumerated sites
    :param num_enumerated: number of the enumerated dimensions
    """

    name: str
    z: Tensor
    posterior: dist.TorchDistribution
    prior: dist.TorchDistribution
    log_q: Tensor | None
    log_p: Tensor | None
    scale: float | Tensor
    enumerated: tuple[str, ...]
    num_enumerated: int

    @property
    def num_categories(self) -> int:
        """Number of categories, all enumerated sites together; 1 without any."""
        return prod(self.z.shape[: self.num_enumerated])

    @property
    def category(self) -> Tensor:
        """Number of the category of each draw, from 0, shape ``shape``."""
        shape = self.z.shape[:-1]
        enumerated = shape[: self.num_enumerated]
        numbers = torch.arange(self.num_categories, device=self.z.device).reshape(enumerated)
        return numbers.reshape(*enumerated, *(1,) * (len(shape) - len(enumerated))).expand(shape)

    def over_categories(self, term: Tensor) -> Tensor:
        """Sum over the categories and mean over what is to the right of them, a scalar."""
        return term.sum(tuple(range(self.num_enumerated))).mean() if self.num_enumerated else term.mean()

    def expectation(self, term: Tensor) -> Tensor:
        """Mean over the batch and particles of a term of shape ``shape``, exact over the categories: a scalar."""
        return self.over_categories(term if self.log_q is None else self.log_q.exp() * term)


def read_code(model_trace: poutine.Trace, guide_trace: poutine.Trace, max_plate_nesting: int, user: str) -> Code:
    """The first continuous latent site of the guide: ``z``, or of two levels the upper one, ``z2``.

    :param user: name of the objective, for messages
    :raises ValueError: if there is none, or its event is not one row of numbers
    """
    latent: list[tuple[str, Any]] = [
        (name, site)
        for name, site in sample_sites(guide_trace)
        if not site["is_observed"] and name in model_trace.nodes
    ]
    enumerated = [name for name, site in latent if is_enumerated(site)]
    continuous = [(name, site) for name, site in latent if not is_enumerated(site)]
    if not continuous:
        raise ValueError(f"{user} regularises a continuous code, and this guide has none: use ELBO or Beta")
    name, q_site = continuous[0]
    p_site: Any = model_trace.nodes[name]
    if isinstance(base_of(q_site["fn"]), RelaxedCategorical | dist.Delta):
        raise ValueError(
            f"{user} regularises a code with a density of its own, and site '{name}' is a "
            f"{type(base_of(q_site['fn'])).__name__}: use ELBO or Beta, or a category that is enumerated"
        )
    if len(q_site["fn"].event_shape) != 1 or p_site["mask"] is not None:
        raise ValueError(
            f"{user} regularises rows of numbers, one for each datum: site '{name}' must have one event dimension and "
            "no mask, declare it with .to_event(1)"
        )
    log_q = Expectation(guide_trace, max_plate_nesting).log_weight if enumerated else None
    shape = torch.broadcast_shapes(q_site["value"].shape[:-1], () if log_q is None else log_q.shape)
    log_p = None
    for site in enumerated:
        found: Any = model_trace.nodes[site]
        if dict(latent)[site]["infer"].get("labels"):
            raise ValueError(
                f"{user} compares the data within each category, which a batch may have none of where labels of site "
                f"'{site}' are known: use ELBO or Beta, or leave out the labels"
            )
        if found["value"].shape[-1] != 1:
            raise ValueError(
                f"{user} compares the data within each category, and site '{site}' has categories of its own for each "
                "datum: use ELBO or Beta, or sum all of them (category='enumerated', no num_enumerated)"
            )
        term = found["fn"].log_prob(found["value"])
        log_p = term if log_p is None else log_p + term
    if log_q is not None:
        # as fake tensors of a graph have it: torch's rules for the strides of softplus's gradient are not its own
        log_q = log_q.expand(shape).contiguous()
    return Code(
        name,
        q_site["value"].expand(*shape, -1),
        q_site["fn"].expand(shape),
        p_site["fn"].expand(shape),
        log_q,
        None if log_p is None else log_p.expand(shape),
        scale_of(p_site),
        tuple(enumerated),
        len(shape) - max_plate_nesting if enumerated else 0,
    )


def values_of(code: Code, user: str) -> dist.Distribution:
    """q(z|x,c) as the distribution of each value of z alone, batch shape ``shape + (z_dim,)``.

    :raises ValueError: if it is no product over the values of z
    """
    base = base_of(code.posterior)
    if base is code.posterior or base.event_shape:
        raise ValueError(
            f"{user} needs a posterior that is a product over the values of the code, and that of site '{code.name}' "
            f"is {type(code.posterior).__name__}: use Factor or Info, or a guide with Normal(...).to_event(1)"
        )
    return base
