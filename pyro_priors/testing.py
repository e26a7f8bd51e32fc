"""Checks for priors, pairs and objectives of your own: the ones that the library's own pass.

Each raises AssertionError with what is wrong. Pytest is not needed.
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn as nn
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from . import checkpoint
from .errors import UserError
from .objectives import ELBO
from .pair import Pair
from .rng import seeded
from .sites import base_of, is_normal

__all__ = ["Comparison", "check_density", "check_draws", "check_elbo", "check_pair", "check_prior"]


def check_density(p: dist.TorchDistribution, num_draws: int = 20_000, seed: int = 0) -> None:
    """Check a density of one or two dimensions: it integrates to one, and its draws follow it.

    The mass is found by the trapezoid rule on the box of the draws, half as wide again on each side, to 1e-2: a mass
    that is far from all draws is not seen. For the draws see :func:`check_draws`.

    :param p: distribution with batch shape ``()`` and event shape ``(1,)`` or ``(2,)``
    :param num_draws: number of draws
    :param seed: of the draws; torch's generator is left as it was
    :raises AssertionError: with the mass, or the statistic
    """
    shape = tuple(p.event_shape)
    if tuple(p.batch_shape) or shape not in ((1,), (2,)):
        raise UserError(f"p must have batch shape () and event shape (1,) or (2,), got {tuple(p.batch_shape)}, {shape}")
    with torch.no_grad(), seeded(seed, torch.device("cpu")):
        draws: Any = p.sample(torch.Size((num_draws,)))
        low, high = draws.amin(0), draws.amax(0)
        margin = (high - low) / 2
        ends = zip((low - margin).tolist(), (high + margin).tolist(), strict=True)
        axes = [torch.linspace(a, b, 801, dtype=draws.dtype, device=draws.device) for a, b in ends]
        mass: Any = p.log_prob(torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)).exp()
        for axis in reversed(axes):
            mass = torch.trapezoid(mass, axis, dim=-1)
        assert abs(mass.item() - 1) < 1e-2, f"the density integrates to {mass.item():.4f}, and not to 1"
        check_draws(p, draws)


@torch.no_grad()
def check_draws(p: Any, draws: Tensor) -> None:
    """Check that draws of one or two dimensions follow a density.

    They are counted in the cells of a grid, and compared with the density, integrated over each cell by 25 midpoints in
    each dimension: a chi-squared test over the cells that expect 10 draws or more, the rest as one. It fails at 1 of
    10,000 seeds for a density that is right.

    :param p: distribution with batch shape ``()`` and event shape ``(1,)`` or ``(2,)``
    :param draws: shape ``(num_draws,) + event_shape``
    :raises AssertionError: with the statistic, or where too few cells expect 10 draws
    """
    from scipy.stats import chi2

    cells, fine, dim = 16, 25, draws.shape[-1]
    ends = [(draws[:, d].quantile(0.001).item(), draws[:, d].quantile(0.999).item()) for d in range(dim)]
    axes = [torch.linspace(a, b, cells + 1, dtype=draws.dtype, device=draws.device) for a, b in ends]
    steps = [(axis[1] - axis[0]).item() / fine for axis in axes]
    middles = [
        axis[0] + step * (torch.arange(cells * fine, dtype=draws.dtype, device=draws.device) + 0.5)
        for axis, step in zip(axes, steps, strict=True)
    ]
    density = p.log_prob(torch.stack(torch.meshgrid(*middles, indexing="ij"), -1)).exp()
    for step in steps:
        density = density * step
    for d in range(dim):
        density = density.unflatten(d, (cells, fine)).sum(d + 1)
    expected = len(draws) * density.flatten()
    counted = torch.histogramdd(draws.cpu(), bins=[axis.cpu() for axis in axes]).hist.flatten().to(expected)
    enough = expected >= 10
    assert enough.sum() > 8 * dim, f"only {enough.sum()} cells expect 10 draws or more: draw more, got {len(draws)}"
    expected = torch.cat([expected[enough], len(draws) - expected[enough].sum()[None]])
    counted = torch.cat([counted[enough], len(draws) - counted[enough].sum()[None]])
    statistic = ((counted - expected).square() / expected.clamp(min=1)).sum().item()
    share = chi2.sf(statistic, len(expected) - 1)
    assert share > 1e-4, (
        f"the draws do not follow the density: chi-squared is {statistic:.0f} on {len(expected) - 1} degrees of freedom"
    )


def check_prior(prior: nn.Module, context: Tensor | None = None, seed: int = 0) -> None:
    """Check a prior of two dimensions at most: density, draws, gradients, copies, and its state.

    Example::

        >>> check_prior(MyPrior(2))
        >>> check_prior(MyConditionalPrior(2, condition_shape=(3,)), torch.randn(3))

    :param prior: module from the context to a distribution with event shape ``(1,)`` or ``(2,)``
    :param context: what it is given: None, a category number, or one condition
    :param seed: of the draws; torch's generator is left as it was
    :raises AssertionError: with what is wrong
    """
    given = () if context is None else (context,)
    check_density(prior(*given), seed=seed)
    p = prior(*given)
    with seeded(seed, torch.device("cpu")):
        z = prior(*given).sample(torch.Size((50,)))
    named = {name: parameter for name, parameter in prior.named_parameters() if parameter.requires_grad}
    log_p = p.log_prob(z).sum()
    gradients: Any = [None] * len(named)
    if log_p.requires_grad:
        gradients = torch.autograd.grad(log_p, list(named.values()), allow_unused=True)
    for name, gradient in zip(named, gradients, strict=True):
        assert gradient is not None, f"the density does not depend on the parameter '{name}'"
        assert gradient.isfinite().all(), f"the gradient of '{name}' is not finite"
    twin = copy.deepcopy(prior)
    assert torch.equal(twin(*given).log_prob(z), prior(*given).log_prob(z)), "a copy has another density"
    twin.load_state_dict(prior.state_dict())
    assert torch.equal(twin(*given).log_prob(z), prior(*given).log_prob(z)), "its state is not all that it is"


def check_pair(pair: Pair, x: Tensor, condition: Tensor | None = None, **parts: nn.Module) -> None:
    """Check a pair on a batch: every parameter is trained, a save gives it back, and compiled it computes the same.

    :param pair: the pair, left as it was
    :param x: shape ``(batch,) + x_shape``
    :param condition: shape ``(batch,) + condition_shape``
    :param parts: modules of your own that :func:`pyro_priors.load` asks for, freshly made
    :raises AssertionError: with what is wrong
    """
    from .tracing import compiled
    from .zoo import load

    twin = copy.deepcopy(pair)
    losses = []
    for objective in (twin.elbo(twin.model, twin.guide), compiled(twin)):
        twin.zero_grad()
        with seeded(0, twin.device):
            loss = objective(x, condition)
        loss.backward()
        losses.append((loss.item(), {name: value.grad for name, value in twin.named_parameters()}))
    (eager, gradients), (graph, found) = losses
    assert math.isfinite(eager), f"the loss is {eager}"
    idle = [name for name, gradient in gradients.items() if gradient is None or not gradient.any()]
    assert not idle, f"the loss does not depend on the parameters {', '.join(idle)}"
    assert abs(eager - graph) <= 1e-4 * max(1.0, abs(eager)), f"the loss is {eager}, and compiled {graph}"
    for name, gradient in gradients.items():
        other: Any = found[name]
        close = torch.allclose(gradient, other, rtol=1e-3, atol=1e-5)  # type: ignore[arg-type]
        assert close, f"the compiled gradient of '{name}' is another"
    with tempfile.TemporaryDirectory() as folder:
        pair.save(folder)
        if pair.recipe is not None:
            state, again = checkpoint.module_state(pair), checkpoint.module_state(load(folder, **parts))
            assert state.keys() == again.keys() and all(torch.equal(state[name], again[name]) for name in state), (
                "the pair that was saved is loaded as another"
            )


class _GivenNoise(Messenger):
    """Draws each latent Gaussian site of the guide as ``loc + scale * noise``, and keeps the noise by site."""

    def __init__(self) -> None:
        super().__init__()
        self.noise: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["done"] or site_is_subsample(msg):
            return
        if not is_normal(msg["fn"]):
            if not msg["infer"].get("enumerate"):
                raise UserError(
                    f"site '{msg['name']}' of the guide is a {type(base_of(msg['fn'])).__name__}: the noise of a "
                    "Gaussian, or of a category that is enumerated, can be shared"
                )
            return
        base = base_of(msg["fn"])
        noise = torch.normal(torch.zeros_like(base.loc), torch.ones_like(base.scale))
        self.noise[msg["name"]] = noise
        msg["value"], msg["done"] = base.loc + base.scale * noise, True


@dataclass(frozen=True)
class Comparison:
    """A loss and its gradient, ours and by hand.

    :param loss: ours, in nats per example
    :param by_hand: the handwritten one
    :param gradients: by parameter the largest difference of the two gradients, relative to the largest of ours
    """

    loss: float
    by_hand: float
    gradients: Mapping[str, float]

    def __str__(self) -> str:
        lines = [f"loss: {self.loss:.12g}, by hand {self.by_hand:.12g}"]
        worst = sorted(self.gradients.items(), key=lambda found: -found[1])
        return "\n".join(lines + [f"gradient of {name}: {difference:.1e}" for name, difference in worst])


def check_elbo(
    pair: Pair,
    by_hand: Callable[..., Tensor],
    x: Tensor,
    condition: Tensor | None = None,
    objective: Any = None,
    rtol: float = 1e-10,
    seed: int = 0,
) -> Comparison:
    """Compare a handwritten loss with the pair's at the same noise, in float64: the value, and every gradient.

    Example::

        >>> def by_hand(parameters, x, noise):
        ...     loc, scale = my_encoder(parameters, x)
        ...     z = loc + scale * noise["z"]
        ...     return (my_kl(loc, scale) - my_log_likelihood(parameters, x, z)).mean()
        >>> print(check_elbo(pair, by_hand, x))

    :param pair: the pair, left as it was; its guide draws Gaussians, or categories that are enumerated
    :param by_hand: from the pair's parameters by name, x, the condition where there is one, and standard normal noise
        by site, shape ``(batch, z_dim)``, with the categories to its left, to the loss: the negative ELBO in nats per
        example, a mean over the batch
    :param x: shape ``(batch,) + x_shape``
    :param condition: shape ``(batch,) + condition_shape``
    :param objective: an objective; the pair's ELBO when left out
    :param rtol: largest relative difference of the losses; 1,000 times that of a gradient, by its largest number
    :param seed: of the noise; torch's generator is left as it was
    :returns: both losses, and the differences of the gradients
    :raises AssertionError: with the parameters whose gradients differ, the worst first
    """
    pair = copy.deepcopy(pair).double()
    x, condition = x.double(), None if condition is None else condition.double()
    elbo: Any = copy.copy(pair.elbo if objective is None else objective)
    given = _GivenNoise()

    def guide(*args: Any, **kwargs: Any) -> Any:
        with given:
            return pair.guide(*args, **kwargs)

    with seeded(seed, pair.device):
        loss = elbo.differentiable_loss(pair.model, guide, x, condition)
    if not isinstance(elbo, ELBO):
        loss = loss / len(x)  # Pyro's own sum over the batch
    parameters = {name: value for name, value in pair.named_parameters() if value.requires_grad}
    ours = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    own = by_hand(dict(pair.named_parameters()), *((x,) if condition is None else (x, condition)), given.noise)
    theirs = torch.autograd.grad(own, list(parameters.values()), allow_unused=True)
    gradients = {}
    for (name, value), one, other in zip(parameters.items(), ours, theirs, strict=True):
        one, other = (torch.zeros_like(value) if g is None else g for g in (one, other))
        gradients[name] = ((one - other).abs().max() / one.abs().max().clamp(min=1e-300)).item() if one.numel() else 0.0
        if not one.any() and not other.any():
            gradients[name] = 0.0
    found = Comparison(loss.item(), own.item(), gradients)
    differs = abs(found.loss - found.by_hand) > rtol * max(1.0, abs(found.loss))
    worse = {name: difference for name, difference in gradients.items() if difference > 1e3 * rtol}
    assert not differs and not worse, f"the handwritten loss is another (rtol {rtol:g})\n{found}"
    return found
