"""The evidence lower bound in nats per datum: closed-form KL where there is one, categories summed exactly.

Scale of the numbers: every loss, bound and part here is a **mean over the data of the batch**, in nats. The batch size
is read off the plate ``"data"``. Pyro's stock ELBOs sum over the batch instead; with our programs they do so as always.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import TraceEnum_ELBO
from pyro.infer.util import is_validation_enabled
from pyro.util import check_model_guide_match, check_traceenum_requirements
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from .._files import CheckpointError
from .._lock import LOCK
from .._options import typed
from .._precision import at_least_float32, with_float32_parameters
from .._reading import RESTORE
from ..nn.distributions import DiscretisedLogistic, check_levels
from ..sites import base_of, check_latent, is_categorical, is_enumerated, is_gaussian, is_normal, sample_sites
from .categories import Chunk, SomeCategories, Sparse
from .kl_weight import KLWeightOfPair, Weight

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
    :param whole: the loss, where it was computed chunk by chunk, and the parts have no gradient
    """

    parts: dict[str, Tensor]
    scales: dict[str, float | Tensor]
    penalties: dict[str, Tensor] = field(default_factory=dict)
    own: dict[str, Tensor] = field(default_factory=dict)
    whole: Tensor | None = None

    @property
    def bound(self) -> Tensor:
        """The evidence lower bound at weight 1, shape ``(batch,)``."""
        signed = (-value if name.startswith("kl_") else value for name, value in self.parts.items())
        return cast(Tensor, sum(signed))

    @property
    def loss(self) -> Tensor:
        """Mean over the batch of the weighted KL less the reconstruction, and the weighted penalties, a scalar."""
        if self.whole is not None:
            return self.whole
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
    of a site are Gaussian, of a diagonal or a full covariance, the KL is in closed form, for each enumerated category
    (equations 8 and 9 of Lavda et al. 2019; Pyro's TraceEnum_ELBO samples it). Where the prior is anything else, it is
    the sampled :math:`\log q(z|x) - \log p(z)`. Sites that the guide marks with ``infer={"enumerate": "parallel"}``
    are summed exactly.

    It stands wherever Pyro takes an ELBO: in ``SVI``, as ``ELBO()(pair.model, pair.guide)``, and in
    :func:`pyro_priors.fit`.
    Every latent site must be enumerated or reparameterised, and be in the plate ``"data"``. All terms are computed in
    float32 or wider, whatever precision the networks run in.

    Of a site that is also marked ``"num_enumerated": m`` only the m most probable categories are summed, and one that
    is drawn from the rest stands for these: an unbiased estimate of loss and gradient at the cost of m + 1 categories
    (Liu et al. 2019). With ``chunk_size`` all are summed, so many at a time: gradients are taken chunk by chunk, and
    memory is that of one chunk. In both the KL of the category itself is in closed form.

    :param analytic_kl: closed-form KL where both sides are Gaussian; False samples it
    :param num_particles: number of samples of z for each datum, drawn in one call of the programs
    :param chunk_size: most categories of an enumerated site that are handled at once; all when left out
    :raises ValueError: if an option is of the wrong type or out of range; in use, if a site is neither enumerated nor
        reparameterised, is outside the plate ``"data"``, or is scaled differently in model and guide, if ``kl_weight``
        names a latent site that is not there, or ``chunk_size`` is given with a site marked ``num_enumerated``
        or with a likelihood whose scale is found from the whole batch

    An objective of one's own extends ``_terms``, or ``weigh``. What it may need besides, which does nothing here:

    ======================= ========================================================================================
    :meth:`begin`           called by :func:`pyro_priors.fit` on its copy of the objective, before the training
    :meth:`begin_step`      called by ``fit`` before each step; in a loop of your own, call it yourself
    :meth:`observe`         called with the parts of a batch, or their means, after its loss and before the next
    :meth:`end_step`        called by ``fit`` and ``SVI`` after each backward pass; elsewhere call it yourself
    :meth:`state`           kept by ``fit`` in ``last/``, and given to :meth:`load_state` when a run is resumed
    ``scheduled``           names of attributes that change from step to step: in a compiled graph inputs, as
                            ``kl_weight`` is
    ``couples_batch``       True if the loss is no mean of terms of each datum alone, so that processes cannot share it
    ======================= ========================================================================================

    References: Frantzeska Lavda, Magda Gregorova and Alexandros Kalousis, Improving VAE generations of multimodal data
    through data-dependent conditional priors, 2019, arXiv:1911.10885. Runjing Liu et al., Rao-Blackwellized stochastic
    gradients for discrete distributions, ICML 2019, arXiv:1810.04777.
    """

    @typed
    def __init__(self, analytic_kl: bool = True, num_particles: int = 1, chunk_size: int | None = None) -> None:
        if num_particles < 1:
            raise ValueError(f"num_particles must be at least 1, got {num_particles}")
        if chunk_size is not None and chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1, got {chunk_size}: leave it out to handle all at once")
        super().__init__(
            num_particles=num_particles,
            vectorize_particles=True,
            max_plate_nesting=1,
            strict_enumeration_warning=False,
        )
        self.analytic_kl = analytic_kl
        self.chunk_size = chunk_size
        self.kl_weight = 1.0
        self.exact = False

    exact: bool
    """Sum over all categories of sites that are marked ``num_enumerated``, too; evaluations set it."""

    kl_weight: Weight
    """Weight of the KL, set from outside by a schedule: for all latent sites or by site name; the bound has 1."""

    scheduled: ClassVar[tuple[str, ...]] = ()
    couples_batch: ClassVar[bool] = False

    def begin(self, num_data: int, seed: int) -> None:
        """Fill in what depends on the training data and was not given, and forget what a training has left."""

    def begin_step(self, step: int) -> None:
        """Set what changes from step to step; steps are counted from 0."""

    def observe(self, parts: Mapping[str, Tensor]) -> None:
        """Take the parts of a step's batch, or their means, for :meth:`end_step`."""

    def end_step(self) -> None:
        """Train the objective's own networks by the gradients of the last backward pass."""

    def state(self) -> dict[str, Tensor]:
        """What a resumed training must find again, besides its options and its step."""
        return {}

    def load_state(self, state: dict[str, Tensor], device: torch.device) -> None:
        """Restore what :meth:`state` gave.

        :raises CheckpointError: if it is not what :meth:`state` gives
        """
        if state:
            raise CheckpointError(f"the state has tensors of an objective, and {type(self).__name__} has none", RESTORE)

    def prepare(self, model: torch.nn.Module, guide: torch.nn.Module, *args) -> None:
        """Make networks of the objective's own for these programs, if it has some and they are not yet made."""

    def weigh(self, program: Callable) -> Callable:
        """The program with its latent sites weighted; what objectives with weights of their own extend."""
        return KLWeightOfPair(self.kl_weight)(program)

    @LOCK
    def terms(self, model: torch.nn.Module, guide: torch.nn.Module, *args, **kwargs) -> Terms:
        """The bound's terms for a batch, averaged over the particles; arguments as the programs'."""
        if self.chunk_size is not None:
            return self._terms_in_chunks(model, guide, args, kwargs)
        (traces,) = self._get_traces(model, guide, args, kwargs)
        return self._terms(*traces)

    def _terms_in_chunks(self, model: torch.nn.Module, guide: torch.nn.Module, args, kwargs) -> Terms:
        """The sum of the chunks' terms; each chunk is differentiated before the next one begins."""
        size = cast(int, self.chunk_size)
        loss = torch.zeros((), dtype=torch.float32, device="cpu")  # at least, whatever torch's defaults are
        parts, scales = cast(dict[str, Tensor], {}), cast(dict[str, float | Tensor], {})
        penalties: dict[str, Tensor] = {}
        gradients: dict[Tensor, Tensor] = {}
        # what an x was computed of is needed by the next chunk as well; all else of a chunk's graph is freed with it
        computed = any(isinstance(value, Tensor) and value.grad_fn is not None for value in (*args, *kwargs.values()))
        first = num = 0
        while first == 0 or first < num:
            chunk = Chunk(first, size, self.exact)
            (traces,) = self._get_traces(model, chunk(guide), args, kwargs)
            if len(chunk.sites) != 1:
                raise ValueError(
                    f"chunk_size={size} needs one enumerated category, got sites {', '.join(chunk.sites) or 'none'}: "
                    "leave chunk_size out"
                )
            (num,) = chunk.sites.values()
            terms = self._terms(*traces)
            leaves = _leaves(terms.loss)
            if leaves:
                found = torch.autograd.grad(terms.loss, leaves, retain_graph=computed)
                for leaf, gradient in zip(leaves, found, strict=True):
                    gradients[leaf] = gradients[leaf] + gradient if leaf in gradients else gradient
            loss, scales = loss + terms.loss.detach(), terms.scales
            parts = {name: value.detach() + parts.get(name, 0.0) for name, value in terms.parts.items()}
            penalties = {name: value.detach() + penalties.get(name, 0.0) for name, value in terms.penalties.items()}
            first += size
            del terms, traces  # before the next chunk is computed
        if gradients:
            loss = cast(Tensor, _WithGradients.apply(loss, list(gradients.values()), *gradients))
        return Terms(parts, scales, penalties, whole=loss)

    def differentiable_loss(self, model, guide, *args, **kwargs) -> Tensor:
        """:returns: the loss in nats per datum, a scalar with gradient"""
        terms = self.terms(model, guide, *args, **kwargs)
        self.observe(terms.parts)
        return terms.loss

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
        guide = guide if self.exact else Sparse()(guide)
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
        if isinstance(self.kl_weight, Mapping):
            sites = [site for trace in (model_trace, guide_trace) for site in sample_sites(trace)]
            check_latent("kl_weight", self.kl_weight, [name for name, site in sites if not site["is_observed"]])
        if is_validation_enabled():
            check_model_guide_match(model_trace, guide_trace, self.max_plate_nesting)
            check_traceenum_requirements(model_trace, guide_trace)
        for trace in (model_trace, guide_trace):
            for _, site in sample_sites(trace):
                if is_validation_enabled() and isinstance(base_of(site["fn"]), DiscretisedLogistic):
                    check_levels(site["value"])  # before it is converted
                # a user's own networks may return narrower parameters
                site["fn"], site["value"] = with_float32_parameters(site["fn"]), at_least_float32(site["value"])
        return model_trace, guide_trace

    def _terms(self, model_trace: poutine.Trace, guide_trace: poutine.Trace) -> Terms:
        expect = Expectation(guide_trace, self.max_plate_nesting)
        reconstruction = cast(Tensor, 0.0)
        parts: dict[str, Tensor] = {}
        penalties: dict[str, Tensor] = {}
        scales: dict[str, float | Tensor] = {"reconstruction": 1.0}
        for name, site in sample_sites(model_trace):
            if site["is_observed"]:
                fn = base_of(site["fn"])
                if expect.log_weight is not None and hasattr(fn, "weight") and fn.training:
                    if expect.in_chunks:
                        raise ValueError(
                            f"chunk_size cannot be used with the likelihood of site '{name}', which looks at all "
                            "categories together (scale='optimal'): leave chunk_size out, or take scale='learned'"
                        )
                    fn.weight = expect.log_weight.exp()
                log_prob = scale_and_mask(site["fn"].log_prob(site["value"]), scale_of(site), site["mask"])
                reconstruction = reconstruction + expect(name, site, log_prob)
            elif name not in guide_trace.nodes:
                raise ValueError(
                    f"site '{name}' of the model is not in the guide: sample it there too, marked "
                    'infer={"enumerate": "parallel"} if it is to be summed exactly'
                )
            else:
                closed = in_order(name, model_trace, guide_trace)
                kl = expect(name, site, self._kl(name, site, guide_trace.nodes[name], closed))
                parts[f"kl_{name}"], scales[f"kl_{name}"] = kl, scale_of(site)
        for name, site in sample_sites(guide_trace):
            if name not in model_trace.nodes:  # such as a pyro.factor: a term of the guide's own
                log_prob = scale_and_mask(site["fn"].log_prob(site["value"]), 1.0, site["mask"])
                if site["infer"].get("is_penalty"):  # of add_to_loss
                    penalties[name], scales[name] = expect(name, site, log_prob).mean(), scale_of(site)
                else:
                    parts[f"kl_{name}"], scales[f"kl_{name}"] = expect(name, site, log_prob), scale_of(site)
        return Terms({"reconstruction": reconstruction, **parts}, scales, penalties)

    def _kl(self, name: str, p_site: Any, q_site: Any, closed: bool) -> Tensor:
        """KL of one latent site, closed if it may be, or sampled, shape (enumerated...) + plates, at weight 1."""
        p_scale, q_scale = p_site["scale"], q_site["scale"]
        # two tensors are not compared, as that would stop a compiled step; what they multiply is
        inner = [site.get("scale_before_weight", site["scale"]) for site in (p_site, q_site)]
        if _differ(p_scale, q_scale) or _differ(*inner):
            raise ValueError(
                f"site '{name}' is scaled by {p_scale} in the model and by {q_scale} in the guide: put the same KL "
                "weight on both programs"
            )
        p, q = p_site["fn"], q_site["fn"]
        if closed and self.analytic_kl and is_gaussian(p) and is_gaussian(q):
            kl = gaussian_kl(q, p)
        elif closed and isinstance(q, SomeCategories) and is_categorical(p):
            kl = (q.probs * torch.where(q.logits == -math.inf, 0.0, q.logits - p.logits)).sum(-1)
        else:
            log_q = q.log_prob(q_site["value"])
            kl = log_q - p.log_prob(q_site["value"])
            if is_categorical(q):  # 0 log 0 is 0: a category that is masked has no part in the sum
                kl = torch.where(log_q == -math.inf, 0.0, kl)
        return scale_and_mask(kl, 1.0, p_site["mask"])


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


def _differ(one: float | Tensor, other: float | Tensor) -> bool:
    both = isinstance(one, Tensor) and isinstance(other, Tensor)
    return not both and (isinstance(one, Tensor) or isinstance(other, Tensor) or one != other)


def _leaves(loss: Tensor) -> list[Tensor]:
    """The tensors that a backward pass would leave a gradient in."""
    found, seen, todo = [], set(), [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):  # the end of the graph
            found.append(node.variable)
        todo.extend(next_node for next_node, _ in node.next_functions)
    return found


class _WithGradients(torch.autograd.Function):
    """A loss whose gradients by some leaves are known."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor], *leaves: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("a loss with chunk_size has no second derivatives: leave chunk_size out")
        return (None, None, *(gradient * factor for gradient in ctx.gradients))


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
                raise ValueError(
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
            raise ValueError(
                f"site '{name}' must lie in the plate 'data' with one log-density per datum, got shape "
                f"{tuple(term.shape)}: sample it within the plate, and declare its event dimensions with .to_event"
            )
        if site["value"].dim() <= site["fn"].event_dim:  # the plate made one such event of each datum
            raise ValueError(
                f"site '{name}' has {site['fn'].event_dim} event dimensions, and its values have the shape "
                f"{tuple(site['value'].shape)} with the batch: declare one fewer with .to_event"
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
