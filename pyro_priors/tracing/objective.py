"""An objective as one compiled graph: a module from batch to loss at the speed of hand-written compiled PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyro
import torch
import torch.nn as nn
from pyro import infer, poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from .._lock import LOCK
from .._options import Size, typed
from ..errors import UserError
from ..objectives.elbo import ELBO
from ..objectives.kl import in_order
from ..objectives.kl_weight import KLWeight, Weight
from ..objectives.terms import Terms
from ..pair_arguments import check_given
from ..sites import is_enumerated, is_normal, sample_sites
from .function import CompiledFunction

if TYPE_CHECKING:
    from ..pair import Pair

__all__ = ["CompiledObjective", "compiled"]


@typed
def compiled(pair: Pair, objective: infer.ELBO | None = None, max_graphs: Size = 16) -> CompiledObjective:
    """The objective of a pair as a compiled module from batch to loss.

    Example::

        >>> loss = compiled(pair)
        >>> optimizer = torch.optim.Adam(pair.parameters(), lr=5e-4)
        >>> for x in batches:
        ...     optimizer.zero_grad()
        ...     loss(x).backward()
        ...     optimizer.step()

    :param pair: model and guide; it goes on owning its parameters
    :param objective: an objective of ours or of Pyro's; ``pair.elbo`` when left out
    :param max_graphs: most graphs to compile, one for each shape of a batch and setting; what comes after them runs
        eagerly
    :raises ValueError: if the pair is none, or the objective has no ``differentiable_loss``

    Several threads may call it: the calls run one after the other.
    """
    if not hasattr(pair, "model"):
        raise UserError(f"pair must be a Pair, got {pair!r}: give pyro_priors.create(...) or Pair(model, guide)")
    return CompiledObjective(pair, pair.elbo if objective is None else objective, max_graphs)


class CompiledObjective(nn.Module):
    """What :func:`compiled` returns: ``loss(x, condition)``, equal to the eager objective's up to rounding.

    Model, guide and objective are traced once for each shape of a batch, through Pyro's handlers, and compiled into one
    graph of loss and gradients. That takes some seconds; inductor keeps on disk what it compiled (in
    ``TORCHINDUCTOR_CACHE_DIR``), and the next process starts sooner.

    =================================== ================================================================================
    loss                                nats per datum for an objective of ours; summed over the batch for one of Pyro's
    noise                               torch's, as the eager objective draws it after the same seed
    parameters and buffers              the pair's own: read at each call, gradients in their ``.grad``
    ``objective.kl_weight``, capacity,  read at each call: a new weight needs no new graph
    constrained beta
    objective's own networks, and beta  trained, and moved, by ``objective.end_step()``, after ``backward``
    precision, device, train and eval,  a graph for each, ``torch.autocast`` too
    attributes of networks, objective
    handlers around a call              run eagerly, as does what cannot be traced, after one ``EagerWarning`` that says
                                        why
    =================================== ================================================================================

    Pyro's ``Trace_ELBO``, ``TraceMeanField_ELBO`` and ``TraceEnum_ELBO`` are traced as our :class:`ELBO` where it
    equals them: particles drawn in one call, nothing subsampled, no enumerated site under the first two, Gaussian sites
    under the second. While Pyro's validation is on, observed values outside the support of their distribution are
    refused at every call; parameters of distributions are not checked.
    """

    def __init__(
        self,
        pair: Pair,
        objective: infer.ELBO,
        max_graphs: Size = 16,
        say: Callable[[str], None] | None = None,
        strict: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(objective, type) or not hasattr(objective, "differentiable_loss"):
            given = objective if isinstance(objective, str | type) else type(objective).__name__
            raise UserError(
                f"objective {given} has no differentiable_loss: give one of pyro_priors.objectives, as Beta(beta=4.0), "
                "or Pyro's Trace_ELBO(), TraceMeanField_ELBO() or TraceEnum_ELBO()"
            )
        self.pair = pair
        self.objective: Any = objective
        self._compiled = CompiledFunction(
            self._traced, [pair], "loss", max_graphs, otherwise=self.eager, say=say, strict=strict
        )

    @LOCK
    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """
        :param x: shape ``(batch,) + x_shape``
        :param condition: shape ``(batch,) + condition_shape``
        :returns: the loss, a scalar with gradient
        :raises ValueError: if x or condition are not what the pair was made for, or x is outside the support of its
            likelihood
        """
        check_given(self.pair, x, condition)
        outputs = self.outputs(x, condition, getattr(self.objective, "kl_weight", 1.0))
        if isinstance(self.objective, ELBO):
            self.objective.observe(outputs)
        return outputs["loss"]

    def outputs(
        self, x: Tensor, condition: Tensor | None, kl_weight: Weight, backward: bool = False
    ) -> dict[str, Tensor]:
        """``"loss"`` at this KL weight; for an objective of ours also its bound's parts and its penalties, batch means
        at weight 1. Threads are the caller's to serialize.

        With ``backward`` all of them without gradient, which ``.grad`` of the parameters is set to at once, and
        ``"gradient_norm"``, the 2-norm of those of the pair's.
        """
        KLWeight(kl_weight)  # refuses what is not above 0
        by_site = dict(kl_weight) if isinstance(kl_weight, Mapping) else {"": kl_weight}
        dtype = torch.float32 if x.device.type == "mps" else torch.float64  # float64: a Python number, to the last bit
        tensors = {site: torch.as_tensor(number, dtype=dtype, device=x.device) for site, number in by_site.items()}
        weight = tensors if isinstance(kl_weight, Mapping) else tensors[""]
        names = getattr(self.objective, "scheduled", ())
        scheduled = [torch.as_tensor(getattr(self.objective, name), dtype=dtype, device=x.device) for name in names]
        if isinstance(self.objective, ELBO):
            self.objective.prepare(self.pair.model, self.pair.guide, x, condition)
        own = (value for value in vars(self.objective).values() if isinstance(value, nn.Module))
        self._compiled.modules = [self.pair, *own]
        compute = self._compiled.backward if backward else self._compiled
        outputs = compute(x, condition, weight, scheduled, key=_key(self.objective))
        for name in [name for name in outputs if name.startswith(_SUPPORT)]:
            if not outputs.pop(name) and pyro.settings.get("validate_distributions_torch"):
                raise UserError(
                    f"{name.removeprefix(_SUPPORT)} has values outside the support of its distribution: NaN, or of a "
                    "Bernoulli others than 0 and 1 (binarise grey levels, choose another likelihood, or "
                    "pyro.enable_validation(False))"
                )
        return outputs

    def eager(
        self, x: Tensor, condition: Tensor | None, kl_weight: Weight, scheduled: Sequence[Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The same as :meth:`outputs` without a graph."""
        model, guide = self.pair.model, self.pair.guide
        if isinstance(self.objective, ELBO):
            return _loss_and_parts(self.objective, model, guide, x, condition, kl_weight, scheduled)
        weigh = KLWeight(kl_weight)
        return {"loss": self.objective.differentiable_loss(weigh(model), weigh(guide), x, condition)}

    def _traced(
        self, x: Tensor, condition: Tensor | None, kl_weight: Weight, scheduled: Sequence[Tensor] = ()
    ) -> dict[str, Tensor]:
        if getattr(self.objective, "chunk_size", None) is not None:
            raise ValueError("chunk_size bounds the memory of eager steps, one graph would hold all chunks")
        with _InSupport() as support:
            if (equal := _equal_of_ours(self.objective)) is None:
                outputs = self.eager(x, condition, kl_weight, scheduled)
            else:
                found = _loss_and_parts(equal, self.pair.model, self.pair.guide, x, condition, kl_weight)
                outputs = {"loss": found["loss"] * len(x)}
        return {**outputs, **support.found}


_SUPPORT = "support of "


def _key(objective: infer.ELBO) -> tuple[Any, ...]:
    """What an objective is at this moment, less the KL's weight and what else is scheduled, which are inputs."""
    inputs = ("kl_weight", *getattr(objective, "scheduled", ()))
    found = {name: value for name, value in vars(objective).items() if name not in inputs}
    return tuple((name, value if isinstance(value, Hashable) else repr(value)) for name, value in found.items())


def _loss_and_parts(
    elbo: ELBO,
    model: nn.Module,
    guide: nn.Module,
    x: Tensor,
    condition: Tensor | None,
    kl_weight: Weight,
    scheduled: Sequence[Tensor] | None = None,
) -> dict[str, Tensor]:
    set_here: dict[str, Any] = {"kl_weight": kl_weight}
    if scheduled is not None:
        set_here |= zip(elbo.scheduled, scheduled, strict=True)
    before = {name: getattr(elbo, name) for name in set_here}
    try:
        for name, value in set_here.items():
            setattr(elbo, name, value)
        terms = elbo.terms(model, guide, x, condition)
    finally:  # the objective is the user's, or the pair's: a schedule leaves nothing in it
        for name, value in before.items():
            setattr(elbo, name, value)
    return {"loss": terms.loss, **terms.means()}


def _equal_of_ours(objective: infer.ELBO) -> ELBO | None:
    """An ELBO of ours that equals one of Pyro's but for the division by the batch size, or refuses to."""
    if objective.num_particles > 1 and not objective.vectorize_particles:
        return None
    for stock in (infer.Trace_ELBO, infer.TraceMeanField_ELBO, infer.TraceEnum_ELBO):
        if type(objective) is stock:
            return _Stock(stock, objective.num_particles)
    return None


class _Stock(ELBO):
    """Our ELBO in the place of one of Pyro's: refuses traces of which the two would make different numbers."""

    def __init__(self, stock: type[infer.ELBO], num_particles: int) -> None:
        super().__init__(stock is infer.TraceMeanField_ELBO, num_particles)
        self.stock = stock
        self.exact = True  # Pyro's sums all categories

    def _terms(self, model_trace: poutine.Trace, guide_trace: poutine.Trace) -> Terms:
        for trace in (model_trace, guide_trace):
            for name, site in sample_sites(trace):
                if any(frame.full_size not in (None, frame.size) for frame in site["cond_indep_stack"]):
                    raise ValueError(
                        f"site '{name}' is in a plate that subsamples, for which {self.stock.__name__} scales"
                    )
                if is_enumerated(site) and self.stock is not infer.TraceEnum_ELBO:
                    raise ValueError(f"site '{name}' is enumerated, which {self.stock.__name__} does not")
                if self.analytic_kl and not site["is_observed"] and not in_order(name, model_trace, guide_trace):
                    raise ValueError(
                        f"site '{name}' comes in another order in model and guide, where {self.stock.__name__} is wrong"
                    )
                # Pyro has other closed forms, some of them wrong: that of a Delta leaves out its log_density
                if self.analytic_kl and not site["is_observed"] and not is_normal(site["fn"]):
                    raise ValueError(f"site '{name}' is not Gaussian, which {self.stock.__name__} treats its own way")
        return super()._terms(model_trace, guide_trace)


class _InSupport(Messenger):
    """Effect handler that asks of each observed site whether its values lie in the support of its distribution."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, Tensor] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["is_observed"] and not site_is_subsample(msg):
            self.found[_SUPPORT + msg["name"]] = msg["fn"].support.check(msg["value"]).all()
