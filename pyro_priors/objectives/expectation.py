"""Expectations under the guide: exact over enumerated categories, a mean over particles."""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ..errors import UserError
from ..sites import is_enumerated, sample_sites
from .categories import SomeCategories

__all__ = ["Expectation", "scale_of"]


class Expectation:
    """Expectation under the guide of a term of any site: exact over enumerated sites, a mean over particles.

    Plates are the rightmost dimensions ("data" the last), enumerated sites lie to the left of them. Of a site that is
    summed over its most probable categories and a drawn one, the mean over the former is subtracted from each term
    before it is weighted, and added again: it does not depend on the draw, the estimate stays unbiased, and its
    gradient no longer grows with the size of the terms. Of a chunk, the expectation is its share of the whole.

    A draw that is not reparameterised has no gradient and is refused, unless ``draws`` says that none is wanted.
    """

    def __init__(self, guide_trace: poutine.Trace, max_plate_nesting: int, draws: bool = False) -> None:
        self.num_plates = max_plate_nesting
        self.log_weight: Tensor | None = None
        self.drawn_dims: list[int] = []
        self.in_chunks = False
        for name, site in sample_sites(guide_trace):
            if site["is_observed"]:
                continue
            if is_enumerated(site):
                fn, value = site["fn"], site["value"]
                in_part = isinstance(fn, SomeCategories)
                # in order: gradients laid out otherwise have other strides in a graph than torch's kernels give them
                log_weight = (fn.log_weight(value) if in_part else fn.log_prob(value)).contiguous()
                self.log_weight = log_weight if self.log_weight is None else self.log_weight + log_weight
                if in_part and fn.first is None:
                    self.drawn_dims.append(site["infer"]["_enumerate_dim"])
                self.in_chunks |= in_part and fn.first is not None
            elif not site["fn"].has_rsample and not draws:
                raise UserError(
                    f"site '{name}' is neither enumerated nor reparameterised: mark it with "
                    'infer={"enumerate": "parallel"}, or use pyro.infer.TraceGraph_ELBO with SVI'
                )

    def __call__(self, name: str, site: Any, term: Tensor) -> Tensor:
        """Shape ``(batch,)`` from a term of shape ``enumerated_shape + plate_shape``."""
        self.check(name, site, term)
        if self.log_weight is not None and (term.dim() > self.num_plates or self.in_chunks):
            weight = self.log_weight.exp()
            dims = tuple(range(-max(term.dim(), weight.dim()), -self.num_plates))
            if self.drawn_dims:
                centre = self._centre(weight, term, dims)
                term = (weight * (term - centre)).sum(dims) + centre
            else:
                term = (weight * term).sum(dims)
        return term.mean(tuple(range(term.dim() - 1))) if term.dim() > 1 else term

    def _centre(self, weight: Tensor, term: Tensor, dims: tuple[int, ...]) -> Tensor:
        """Mean of the term over all categories but the drawn ones, without gradient."""
        weight, term = torch.broadcast_tensors(weight.detach(), term.detach())
        for dim in self.drawn_dims:
            weight, term = (value.narrow(dim, 0, value.shape[dim] - 1) for value in (weight, term))
        return (weight * term).sum(dims) / weight.sum(dims)

    def check(self, name: str, site: Any, term: Tensor) -> None:
        """Refuse a term that is not one number for each datum, particle and enumerated category."""
        frames = [frame for frame in site["cond_indep_stack"] if frame.name == "data"]
        if not frames or term.dim() == 0 or term.shape[-1] != frames[0].size:
            raise UserError(
                f"site '{name}' must lie in the plate 'data' with one log-density per datum, got shape "
                f"{tuple(term.shape)}: sample it within the plate, and declare its event dimensions with .to_event"
            )
        if site["value"].dim() <= site["fn"].event_dim:  # the plate made one such event of each datum
            raise UserError(
                f"site '{name}' has {site['fn'].event_dim} event dimensions, and its values have the shape "
                f"{tuple(site['value'].shape)} with the batch: declare one fewer with .to_event"
            )
        num_enumerated = 0 if self.log_weight is None else self.log_weight.dim() - self.num_plates
        if term.dim() > self.num_plates + max(num_enumerated, 0):
            raise UserError(
                f"site '{name}' has batch shape {tuple(term.shape)}, more dimensions than plates and enumerated "
                "sites: declare its event dimensions with .to_event"
            )


def scale_of(site: Any) -> float | Tensor:
    """What the handlers around a program scale a site by, less what a plate that subsamples puts on it.

    Our losses are means over the batch, and the mean over a subsample already estimates the one over all data.
    """
    scale = site["scale"]
    for frame in site["cond_indep_stack"]:
        if frame.full_size is not None and frame.full_size != frame.size:
            scale = scale * (frame.size / frame.full_size)
    return scale
