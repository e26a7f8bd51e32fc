"""The evidence lower bound in nats per datum: closed-form KL where there is one, categories summed exactly.

Scale of the numbers: every loss, bound and part here is a **mean over the data of the batch**, in nats. The batch size
is read off the plate ``"data"``. Pyro's stock ELBOs sum over the batch instead; with our programs they do so as always.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import TraceEnum_ELBO
from pyro.infer.util import is_validation_enabled
from pyro.util import check_model_guide_match, check_traceenum_requirements
from torch import Tensor
from torch.distributions import kl_divergence

from .._sites import is_enumerated, is_normal, sample_sites
from .kl_weight import KLWeight, Weight

__all__ = ["ELBO", "EnumELBO", "Expectation", "Terms", "scale_of"]


@dataclass
class Terms:
    """The bound of one batch, term by term.

    :param parts: per datum, shape ``(batch,)``, at weight 1: ``"reconstruction"``, the expected log-likelihood, and
        ``"kl_SITE"`` for each latent site
    :param scales: what the objective multiplies each part and penalty with in the loss; 1 for the reconstruction
    :param penalties: what an objective adds to the loss and not to the bound, by name: scalars of the whole batch, in
        nats per datum or in the units that the objective states, at weight 1
    :param own: losses of the objective's own networks, by name: their gradients go along with the loss's, their values
        are no part of it
    """

    parts: dict[str, Tensor]
    scales: dict[str, float | Tensor]
    penalties: dict[str, Tensor] = field(default_factory=dict)
    own: dict[str, Tensor] = field(default_factory=dict)

    @property
    def bound(self) -> Tensor:
        """The evidence lower bound at weight 1, shape ``(batch,)``."""
        signed = (-value if name.startswith("kl_") else value for name, value in self.parts.items())
        return cast(Tensor, sum(signed))

    @property
    def loss(self) -> Tensor:
        """Mean over the batch of the weighted KL less the reconstruction, and the weighted penalties, a scalar."""
        terms = [
            (self.scales[name] * (value if name.startswith("kl_") else -value)).mean()
            for name, value in self.parts.items()
        ]
        terms += [self.scales[name] * value for name, value in self.penalties.items()]
        terms += [value - value.detach() for value in self.own.values()]
        return cast(Tensor, sum(terms))

    def means(self) -> dict[str, Tensor]:
        """Parts, penalties and losses of own networks as scalars without gradient: means over the batch at weight 1."""
        found = {**self.parts, **self.penalties, **self.own}
        return {name: value.detach().mean() for name, value in found.items()}


class ELBO(TraceEnum_ELBO):
    r"""Evidence lower bound in nats per datum.

    .. math:: \mathcal{L} = \frac{1}{B} \sum_{i=1}^{B} \Big[ E_{q} \log p(x_i \mid z, c)
        - w_z\, E_{q(c|x_i)} \mathrm{KL}(q(z \mid x_i, c) \,\|\, p(z \mid c))
        - w_c\, \mathrm{KL}(q(c \mid x_i) \,\|\, p(c)) \Big]

    In words: the mean over the batch of the reconstruction less the weighted KL of each latent site. Where both sides
    of a site are Gaussian the KL is in closed form, for each enumerated category (equations 8 and 9 of Lavda et al.
    2019; Pyro's TraceEnum_ELBO samples it); where the prior is anything else it is the sampled
    :math:`\log q(z|x) - \log p(z)`. Sites that the guide marks with ``infer={"enumerate": "parallel"}`` are summed
    exactly.

    It stands wherever Pyro takes an ELBO: in ``SVI``, as ``ELBO()(pair.model, pair.guide)``, and in
    :func:`pyro_priors.fit`.
    Every latent site must be enumerated or reparameterised, and be in the plate ``"data"``.

    :param analytic_kl: closed-form KL where both sides are Gaussian; False samples it
    :param num_particles: number of samples of z for each datum, drawn in one call of the programs
    :raises ValueError: in use, if a site is neither enumerated nor reparameterised, is outside the plate ``"data"``,
        or is scaled differently in model and guide

    An objective of one's own extends ``_terms``, or ``weigh``. What it may need besides, which does nothing here:

    ======================= ========================================================================================
    :meth:`begin`           called by :func:`pyro_priors.fit` on its copy of the objective, before the training
    :meth:`begin_step`      called by ``fit`` before each step; in a loop of your own, call it yourself
    :meth:`end_step`        called by ``fit`` and ``SVI`` after each backward pass; elsewhere call it yourself
    :meth:`state`           kept by ``fit`` in ``last/``, and given to :meth:`load_state` when a run is resumed
    ``scheduled``           names of attributes that change from step to step: in a compiled graph inputs, as
                            ``kl_weight`` is
    ``couples_data``        True if the loss is no mean of terms of each datum alone, so that processes cannot share it
    ======================= ========================================================================================

    Reference: Frantzeska Lavda, Magda Gregorova and Alexandros Kalousis, Improving VAE generations of multimodal data
    through data-dependent conditional priors, 2019, arXiv:1911.10885.
    """

    def __init__(self, analytic_kl: bool = True, num_particles: int = 1) -> None:
        if num_particles < 1:
            raise ValueError(f"num_particles must be at least 1, got {num_particles}")
        super().__init__(
            num_particles=num_particles,
            vectorize_particles=True,
            max_plate_nesting=1,
            strict_enumeration_warning=False,
        )
        self.analytic_kl = analytic_kl
        self.kl_weight = 1.0

    kl_weight: Weight
    """Weight of the KL, set from outside by a schedule: for all latent sites or by site name; the bound has 1."""

    scheduled: ClassVar[tuple[str, ...]] = ()
    couples_data: ClassVar[bool] = False

    def begin(self, num_data: int, seed: int) -> None:
        """Fill in what depends on the training data and was not given, and forget what a training has left."""

    def begin_step(self, step: int) -> None:
        """Set what changes from step to step; steps are counted from 0."""

    def end_step(self) -> None:
        """Train the objective's own networks by the gradients of the last backward pass."""

    def state(self) -> dict[str, Tensor]:
        """What a resumed training must find again, besides its options and its step."""
        return {}

    def load_state(self, state: dict[str, Tensor], device: torch.device) -> None:
        """Restore what :meth:`state` gave."""

    def prepare(self, model: torch.nn.Module, guide: torch.nn.Module, *args) -> None:
        """Make networks of the objective's own for these programs, if it has some and they are not yet made."""

    def weigh(self, program: Callable) -> Callable:
        """The program with its latent sites weighted; what objectives with weights of their own extend."""
        return KLWeight(self.kl_weight)(program)

    def terms(self, model: torch.nn.Module, guide: torch.nn.Module, *args, **kwargs) -> Terms:
        """The bound's terms for a batch, averaged over the particles; arguments as the programs'."""
        (traces,) = self._get_traces(model, guide, args, kwargs)
        return self._terms(*traces)

    def differentiable_loss(self, model, guide, *args, **kwargs) -> Tensor:
        """:returns: the loss in nats per datum, a scalar with gradient"""
        return self.terms(model, guide, *args, **kwargs).loss

    def loss_and_grads(self, model, guide, *args, **kwargs) -> float:
        """Add the loss's gradients to the parameters'.

        :returns: the loss in nats per datum
        """
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward()
        self.end_step()
        return loss.item()

    def loss(self, model, guide, *args, **kwargs) -> float:
        """:returns: the loss in nats per datum, without gradient"""
        with torch.no_grad():
            return self.differentiable_loss(model, guide, *args, **kwargs).item()

    def _get_traces(self, model, guide, args, kwargs) -> Iterator[tuple[poutine.Trace, poutine.Trace]]:
        traces = list(super()._get_traces(self.weigh(model), self.weigh(guide), args, kwargs))
        if len(traces) > 1:
            raise ValueError(
                'a site of the guide is marked infer={"enumerate": "sequential"}: mark it "parallel", one call sums it'
            )
        return iter(traces)

    def _get_trace(self, model, guide, args, kwargs) -> tuple[poutine.Trace, poutine.Trace]:
        # Pyro's computes all log-densities here; ours leaves out those that a closed-form KL makes needless.
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
        if is_validation_enabled():
            check_model_guide_match(model_trace, guide_trace, self.max_plate_nesting)
            check_traceenum_requirements(model_trace, guide_trace)
        return model_trace, guide_trace

    def _terms(self, model_trace: poutine.Trace, guide_trace: poutine.Trace) -> Terms:
        expect = Expectation(guide_trace, self.max_plate_nesting)
        reconstruction = cast(Tensor, 0.0)
        parts: dict[str, Tensor] = {}
        scales: dict[str, float | Tensor] = {"reconstruction": 1.0}
        for name, site in sample_sites(model_trace):
            if site["is_observed"]:
                log_prob = scale_and_mask(site["fn"].log_prob(site["value"]), scale_of(site), site["mask"])
                reconstruction = reconstruction + expect(name, site, log_prob)
            elif name not in guide_trace.nodes:
                raise ValueError(
                    f"site '{name}' of the model is not in the guide: sample it there too, marked "
                    'infer={"enumerate": "parallel"} if it is to be summed exactly'
                )
            else:
                kl = expect(name, site, self._kl(name, site, guide_trace.nodes[name]))
                parts[f"kl_{name}"], scales[f"kl_{name}"] = kl, scale_of(site)
        for name, site in sample_sites(guide_trace):
            if name not in model_trace.nodes:  # such as a pyro.factor: a term of the guide's own
                log_prob = scale_and_mask(site["fn"].log_prob(site["value"]), 1.0, site["mask"])
                parts[f"kl_{name}"], scales[f"kl_{name}"] = expect(name, site, log_prob), scale_of(site)
        return Terms({"reconstruction": reconstruction, **parts}, scales)

    def _kl(self, name: str, p_site: Any, q_site: Any) -> Tensor:
        """KL of one latent site, exact or sampled, shape (enumerated...) + plates, at weight 1."""
        p_scale, q_scale = p_site["scale"], q_site["scale"]
        # two tensors are not compared, as that would stop a compiled step; what they multiply is
        inner = [site.get("scale_before_weight", site["scale"]) for site in (p_site, q_site)]
        if _differ(p_scale, q_scale) or _differ(*inner):
            raise ValueError(
                f"site '{name}' is scaled by {p_scale} in the model and by {q_scale} in the guide: put the same KL "
                "weight on both programs"
            )
        p, q = p_site["fn"], q_site["fn"]
        if self.analytic_kl and is_normal(p) and is_normal(q):
            kl = kl_divergence(q, p)
        else:
            kl = q.log_prob(q_site["value"]) - p.log_prob(q_site["value"])
        return scale_and_mask(kl, 1.0, p_site["mask"])


def _differ(one: float | Tensor, other: float | Tensor) -> bool:
    both = isinstance(one, Tensor) and isinstance(other, Tensor)
    return not both and (isinstance(one, Tensor) or isinstance(other, Tensor) or one != other)


class EnumELBO(ELBO):
    """:class:`ELBO` for guides with an enumerated category, such as CP-VAE's: refuses a guide that enumerates nothing.

    :raises ValueError: in use, if no site of the guide is marked ``infer={"enumerate": "parallel"}``
    """

    def _terms(self, model_trace: poutine.Trace, guide_trace: poutine.Trace) -> Terms:
        if not any(is_enumerated(site) for _, site in sample_sites(guide_trace)):
            raise ValueError(
                "EnumELBO found nothing to enumerate: mark a discrete site of the guide with "
                'infer={"enumerate": "parallel"}, or use ELBO'
            )
        return super()._terms(model_trace, guide_trace)


class Expectation:
    """Expectation under the guide of a term of any site: exact over enumerated sites, a mean over particles.

    Plates are the rightmost dimensions ("data" the last), enumerated sites lie to the left of them.
    """

    def __init__(self, guide_trace: poutine.Trace, max_plate_nesting: int) -> None:
        self.num_plates = max_plate_nesting
        self.log_weight: Tensor | None = None
        for name, site in sample_sites(guide_trace):
            if site["is_observed"]:
                continue
            if is_enumerated(site):
                log_prob = site["fn"].log_prob(site["value"])
                self.log_weight = log_prob if self.log_weight is None else self.log_weight + log_prob
            elif not site["fn"].has_rsample:
                raise ValueError(
                    f"site '{name}' is neither enumerated nor reparameterised: mark it with "
                    'infer={"enumerate": "parallel"}, or use pyro.infer.TraceGraph_ELBO with SVI'
                )

    def __call__(self, name: str, site: Any, term: Tensor) -> Tensor:
        """Shape ``(batch,)`` from a term of shape ``enumerated_shape + plate_shape``."""
        self.check(name, site, term)
        if term.dim() > self.num_plates and self.log_weight is not None:
            term = (self.log_weight.exp() * term).sum(
                tuple(range(-max(term.dim(), self.log_weight.dim()), -self.num_plates))
            )
        return term.mean(tuple(range(term.dim() - 1))) if term.dim() > 1 else term

    def check(self, name: str, site: Any, term: Tensor) -> None:
        """Refuse a term that is not one number for each datum, particle and enumerated category."""
        frames = [frame for frame in site["cond_indep_stack"] if frame.name == "data"]
        if not frames or term.dim() == 0 or term.shape[-1] != frames[0].size:
            raise ValueError(
                f"site '{name}' must lie in the plate 'data' with one log-density per datum, got shape "
                f"{tuple(term.shape)}: sample it within the plate, and declare its event dimensions with .to_event"
            )
        num_enumerated = 0 if self.log_weight is None else self.log_weight.dim() - self.num_plates
        if term.dim() > self.num_plates + max(num_enumerated, 0):
            raise ValueError(
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
