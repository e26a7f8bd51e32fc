"""An objective as one compiled graph: a module from batch to loss at the speed of hand-written compiled PyTorch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pyro
import torch
import torch.nn as nn
from pyro import infer
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from .._compile import CompiledFunction
from .._sites import is_normal
from .elbo import ELBO
from .kl_weight import KLWeight, Weight

if TYPE_CHECKING:
    from ..pair import Pair

__all__ = ["CompiledObjective", "compiled"]


def compiled(pair: Pair, objective: infer.ELBO | None = None, max_shapes: int = 8) -> CompiledObjective:
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
    :param max_shapes: most shapes of batches to compile for; the ones after that run eagerly
    :raises ValueError: if the objective has no ``differentiable_loss``
    """
    return CompiledObjective(pair, pair.elbo if objective is None else objective, max_shapes)


class CompiledObjective(nn.Module):
    """What :func:`compiled` returns: ``loss(x, condition)``, equal to the eager objective's up to rounding.

    Model, guide and objective are traced once for each shape of a batch, through Pyro's handlers, and compiled into one
    graph of loss and gradients. That takes some seconds; inductor keeps on disk what it compiled (in
    ``TORCHINDUCTOR_CACHE_DIR``), and the next process starts sooner.

    ================================= ==================================================================================
    loss                              nats per datum for an objective of ours; summed over the batch for one of Pyro's
    noise                             torch's, as the eager objective draws it after the same seed
    parameters                        the pair's own tensors: read at each call, gradients in their ``.grad``
    ``objective.kl_weight``           read at each call: a new weight needs no new graph
    precision, device, train or eval  a graph for each; ``torch.autocast`` too
    handlers around a call            run eagerly, as does what cannot be traced, after one ``EagerWarning`` saying why
    ================================= ==================================================================================

    Pyro's ``Trace_ELBO``, ``TraceMeanField_ELBO`` and ``TraceEnum_ELBO`` are traced as our :class:`ELBO`, which equals
    them, if they draw their particles in one call. While Pyro's validation is on, x outside the support of its
    likelihood is refused at every call; parameters of distributions are not checked.

    What is compiled is the pair as it was: after replacing a network of it call :func:`compiled` again.
    """

    def __init__(
        self, pair: Pair, objective: infer.ELBO, max_shapes: int = 8, say: Callable[[str], None] | None = None
    ) -> None:
        super().__init__()
        if not hasattr(objective, "differentiable_loss"):
            given = objective if isinstance(objective, str) else type(objective).__name__
            raise ValueError(
                f"objective {given} has no differentiable_loss: give one of pyro_priors.objectives, or Pyro's "
                "Trace_ELBO, TraceMeanField_ELBO or TraceEnum_ELBO"
            )
        self.pair = pair
        self.objective: Any = objective
        self._constants = list(inspect.signature(type(objective)).parameters) if isinstance(objective, ELBO) else []
        modules = [pair, *(value for value in vars(objective).values() if isinstance(value, nn.Module))]
        self._compiled = CompiledFunction(self._traced, modules, "loss", max_shapes, otherwise=self.eager, say=say)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """
        :param x: shape ``(batch,) + x_shape``
        :param condition: shape ``(batch,) + condition_shape``
        :returns: the loss, a scalar with gradient
        :raises ValueError: if x is outside the support of its likelihood
        """
        return self.outputs(x, condition, getattr(self.objective, "kl_weight", 1.0))["loss"]

    def outputs(self, x: Tensor, condition: Tensor | None, kl_weight: Weight) -> dict[str, Tensor]:
        """``"loss"`` at this KL weight; for an objective of ours also its bound's parts, batch means at weight 1."""
        KLWeight(kl_weight)  # refuses what is not above 0
        dtype = torch.float32 if x.device.type == "mps" else torch.float64  # float64: a Python number, to the last bit
        tensors = {
            site: torch.as_tensor(number, dtype=dtype, device=x.device)
            for site, number in (kl_weight.items() if isinstance(kl_weight, Mapping) else [("", kl_weight)])
        }
        key = tuple(getattr(self.objective, name) for name in self._constants)
        outputs = self._compiled(x, condition, tensors if isinstance(kl_weight, Mapping) else tensors[""], key=key)
        in_support = outputs.pop(_IN_SUPPORT, None)
        if in_support is not None and pyro.settings.get("validate_distributions_torch") and not in_support:
            raise ValueError(
                "x has values outside the support of its likelihood: a Bernoulli needs 0 and 1 (binarise grey levels, "
                "or choose another likelihood)"
            )
        return outputs

    def eager(self, x: Tensor, condition: Tensor | None, kl_weight: Weight) -> dict[str, Tensor]:
        """The same as :meth:`outputs` without a graph."""
        model, guide = self.pair.model, self.pair.guide
        if isinstance(self.objective, ELBO):
            return _outputs(self.objective, model, guide, x, condition, kl_weight)
        weigh = KLWeight(kl_weight)
        return {"loss": self.objective.differentiable_loss(weigh(model), weigh(guide), x, condition)}

    def _traced(self, x: Tensor, condition: Tensor | None, kl_weight: Weight) -> dict[str, Tensor]:
        with _InSupport() as support:
            if (ours := _ours(self.objective)) is None:
                outputs = self.eager(x, condition, kl_weight)
            else:
                outputs = _outputs(ours, self.pair.model, self.pair.guide, x, condition, kl_weight)
        if ours is not self.objective:
            outputs = {"loss": outputs["loss"] * len(x) if ours is not None else outputs["loss"]}
        return {**outputs, _IN_SUPPORT: support.result}


_IN_SUPPORT = "x in support"


def _outputs(
    elbo: ELBO,
    model: nn.Module,
    guide: nn.Module,
    x: Tensor,
    condition: Tensor | None,
    kl_weight: Weight,
) -> dict[str, Tensor]:
    before, elbo.kl_weight = elbo.kl_weight, kl_weight
    try:
        terms = elbo.terms(model, guide, x, condition)
    finally:  # the objective is the user's, or the pair's: a schedule leaves nothing in it
        elbo.kl_weight = before
    return {"loss": terms.loss, **{name: value.detach().mean() for name, value in terms.parts.items()}}


def _ours(objective: infer.ELBO) -> ELBO | None:
    """The ELBO of ours that an objective is, or equals but for the division by the batch size."""
    if isinstance(objective, ELBO):
        return objective
    equal: dict[type, ELBO] = {
        infer.Trace_ELBO: ELBO(analytic_kl=False, num_particles=objective.num_particles),
        infer.TraceEnum_ELBO: ELBO(analytic_kl=False, num_particles=objective.num_particles),
        infer.TraceMeanField_ELBO: _MeanField(num_particles=objective.num_particles),
    }
    in_one_call = objective.num_particles == 1 or objective.vectorize_particles
    return equal.get(type(objective)) if in_one_call else None


class _MeanField(ELBO):
    """TraceMeanField_ELBO where ours has its closed forms: Pyro knows more of them, and some of them are wrong (that of
    a Delta leaves out its log_density)."""

    def _kl(self, name: str, p_site: Any, q_site: Any) -> Tensor:
        if not (is_normal(p_site["fn"]) and is_normal(q_site["fn"])):
            raise ValueError(
                f"site '{name}' is not Gaussian in both programs, which TraceMeanField_ELBO treats its way"
            )
        return super()._kl(name, p_site, q_site)


class _InSupport(Messenger):
    """Effect handler that asks whether observed values lie in the support of their distributions."""

    def __init__(self) -> None:
        super().__init__()
        self.result = torch.ones((), dtype=torch.bool)

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["is_observed"] and not site_is_subsample(msg):
            self.result = self.result & msg["fn"].support.check(msg["value"]).all()
