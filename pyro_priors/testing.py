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

import numpy as np
import pyro.distributions as dist
import torch
import torch.nn as nn
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from . import module_state
from ._precision import condition_like
from .errors import UserError
from .objectives import ELBO
from .pair import Pair
from .priors import Parts, PriorOptions
from .rng import seeded
from .sites import base_of, is_normal

__all__ = ["Comparison", "check_density", "check_draws", "check_elbo", "check_pair", "check_prior"]


def check_density(p: dist.TorchDistribution, num_draws: int = 20_000, seed: int = 0) -> None:
    """Check a density of one or two dimensions: it integrates to one, and its draws follow it.

    The mass is integrated on a grid whose lines are quantiles of the draws, so that narrow parts and heavy tails have
    lines too, and which reaches beyond the draws by half of their range on each side. It must be 1 to within 0.01. Mass
    that lies further away is not seen. For the draws see :func:`check_draws`.

    :param p: distribution with batch shape ``()`` and event shape ``(1,)`` or ``(2,)``
    :param num_draws: number of draws
    :param seed: of the draws; torch's generator is left as it was
    :raises ValueError: if ``p`` has other shapes
    :raises AssertionError: with the mass, or the statistic
    """
    _check_shape(p)
    with torch.no_grad(), seeded(seed, torch.device("cpu")):
        draws: Any = p.sample(torch.Size((num_draws,)))
    check_draws(p, draws)


def _check_shape(p: Any) -> None:
    """Refuse what is no distribution over one point of one or two dimensions."""
    if not isinstance(p, torch.distributions.Distribution):
        raise UserError(f"the density must be a distribution of torch or Pyro, got {type(p).__name__}")
    shape = tuple(p.event_shape)
    if tuple(p.batch_shape) or shape not in ((1,), (2,)):
        raise UserError(
            f"the density must have batch shape () and event shape (1,) or (2,), got {tuple(p.batch_shape)} and "
            f"{shape}: make the prior with z_dim=2, and end it with .to_event(1)"
        )


CELLS = 16
"""Cells of the test in each dimension."""

LINES = {1: 64, 2: 16}
"""Lines of the grid in each cell, by the number of dimensions."""


@torch.no_grad()
def check_draws(p: Any, draws: Tensor) -> None:
    """Check that draws of one or two dimensions follow a density that integrates to one.

    One half of the draws gives the grid, by the quantiles of each dimension. The other half is counted in 16 cells in
    each dimension and compared with the density, integrated over each cell: a chi-squared test over the cells that
    expect 10 draws or more, the rest as one. It fails at about 1 of 10,000 seeds for a density that is right and that
    the grid resolves: 256 lines in each of two dimensions, 1,024 in one.

    :param p: distribution with batch shape ``()`` and event shape ``(1,)`` or ``(2,)``
    :param draws: shape ``(num_draws,) + event_shape``
    :raises ValueError: if ``p`` has other shapes
    :raises AssertionError: with the mass or the statistic, or where too few cells expect 10 draws
    """
    from scipy.stats import chi2

    _check_shape(p)
    half, num_lines = len(draws) // 2, LINES[draws.shape[-1]]
    grids = [_grid(one, num_lines) for one in draws[:half].double().unbind(-1)]
    mass = _mass(p, draws, [lines for lines, _ in grids])
    total = mass.sum().item()
    assert abs(total - 1) < 1e-2, f"the density integrates to {total:.4f}, and not to 1"
    for d, (_, first) in enumerate(grids):
        mass = mass.narrow(d, first, CELLS * num_lines).unflatten(d, (CELLS, num_lines)).sum(d + 1)
    counted = draws[half:].double().cpu()
    edges = [lines[first : first + CELLS * num_lines + 1 : num_lines].contiguous() for lines, first in grids]
    counts = torch.histogramdd(counted, bins=edges).hist.flatten()
    expected = len(counted) * mass.flatten()
    enough = expected >= 10
    least = 8 * draws.shape[-1]
    assert enough.sum() > least, f"only {enough.sum()} cells expect 10 draws or more: draw more, got {len(draws)}"
    expected = torch.cat([expected[enough], len(counted) - expected[enough].sum()[None]])
    counts = torch.cat([counts[enough], len(counted) - counts[enough].sum()[None]])
    statistic = ((counts - expected).square() / expected.clamp(min=1)).sum().item()
    share = chi2.sf(statistic, len(expected) - 1)
    assert share > 1e-4, (
        f"the draws do not follow the density: chi-squared is {statistic:.0f} on {len(expected) - 1} degrees of freedom"
    )


def _grid(draws: Tensor, num_lines: int) -> tuple[Tensor, int]:
    """Return the lines of the grid in one dimension, in order, and the first one of the cells.

    Between them are quantiles of the draws; in their tails, each line has twice as many draws beyond it as the next.
    """
    draws = draws.cpu().sort().values
    num = len(draws)
    rest = num // 200
    inner = draws[
        torch.linspace(rest, num - 1 - rest, CELLS * num_lines + 1, dtype=torch.float64, device=draws.device)
        .round()
        .long()
    ]
    beyond = [0, *(2**k for k in range(64) if 2**k < rest)]
    margin = (draws[-1] - draws[0]) / 2 * torch.linspace(1, 0, 33, dtype=draws.dtype, device=draws.device)[:-1]
    low, high = draws[beyond], draws[[num - 1 - k for k in reversed(beyond)]]
    lines = torch.cat([draws[0] - margin, low, inner, high, draws[-1] + margin.flip(0)])
    return lines, len(margin) + len(low)


def _mass(p: Any, draws: Tensor, grids: list[Tensor]) -> Tensor:
    """Integrate a density over each cell of a grid, by three Gaussian points in each dimension."""
    nodes, shares = (torch.from_numpy(found) for found in np.polynomial.legendre.leggauss(3))
    points = [((lines[:-1] + lines[1:]) / 2)[:, None] + (lines.diff() / 2)[:, None] * nodes for lines in grids]
    weights = [((lines.diff() / 2)[:, None] * shares).flatten() for lines in grids]
    grid = torch.stack(torch.meshgrid(*(one.flatten() for one in points), indexing="ij"), -1).flatten(0, -2).to(draws)
    density = torch.cat([_density(p, some, draws[0]) for some in grid.split(100_000)]).double().cpu()
    density = density.reshape([len(one) for one in weights])
    for d, weight in enumerate(weights):
        density = (density.movedim(d, -1) * weight).unflatten(-1, (-1, len(nodes))).sum(-1).movedim(-1, d)
    return density


def _density(p: Any, z: Tensor, inside: Tensor) -> Tensor:
    """Return the density at points, which is 0 outside the support.

    :param inside: a point of the support
    """
    belongs = p.support.check(z)
    belongs = belongs if belongs.dim() == 1 else belongs.all(-1)
    return torch.where(belongs, p.log_prob(torch.where(belongs[:, None], z, inside)).exp(), 0.0)


def check_prior(
    prior: nn.Module | PriorOptions | Callable[[], nn.Module],
    context: Tensor | int | None = None,
    seed: int = 0,
) -> None:
    """Check a prior of one or two dimensions: density, draws, gradients, copies, and its state.

    Example::

        >>> check_prior(lambda: MyPrior(2))
        >>> check_prior(MyConditionalPrior(2, condition_shape=(3,)), torch.randn(3))
        >>> check_prior(pp.priors.Flow())

    :param prior: module from the context to a distribution with event shape ``(1,)`` or ``(2,)``; or a function without
        arguments that makes one, or options of a prior without a context. Of these two, a second one is made that loads
        the state of the first, and must have its density: tensors that are not in the ``state_dict`` are found so
    :param context: what it is given: None, a category number, or one condition
    :param seed: of the draws; torch's generator is left as it was
    :raises ValueError: if ``prior`` is no prior, or has more dimensions
    :raises AssertionError: with what is wrong
    """
    if isinstance(prior, PriorOptions):
        options = prior
        return check_prior(lambda: options.build(Parts(2)), context, seed)
    make = None if isinstance(prior, nn.Module) else prior
    if make is not None and (not callable(make) or isinstance(make, type)):
        name = make.__name__ if isinstance(make, type) else repr(make)
        raise UserError(f"prior must be a module, options, or a function that makes a module, got {name}")
    with seeded(seed, torch.device("cpu")):
        module: Any = prior if make is None else make()
    if isinstance(context, int):
        context = torch.tensor(context, device="cpu")
    given = () if context is None else (context,)
    check_density(module(*given), seed=seed)
    p = module(*given)
    with seeded(seed, torch.device("cpu")):
        z = module(*given).sample(torch.Size((50,)))
    named = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    log_p = p.log_prob(z).sum()
    gradients: Any = [None] * len(named)
    if log_p.requires_grad:
        gradients = torch.autograd.grad(log_p, list(named.values()), allow_unused=True)
    for name, gradient in zip(named, gradients, strict=True):
        assert gradient is not None, f"the density does not depend on the parameter '{name}'"
        assert gradient.isfinite().all(), f"the gradient of '{name}' is not finite"
    density = module(*given).log_prob(z)
    assert torch.equal(copy.deepcopy(module)(*given).log_prob(z), density), "a copy has another density"
    if make is not None:
        with seeded(seed + 1, torch.device("cpu")):
            twin: Any = make()
        twin.load_state_dict(module.state_dict())
        assert torch.equal(twin(*given).log_prob(z), density), (
            "a second prior that loads the state of the first has another density: some tensor that it depends on is "
            "not in its state_dict (make it a buffer: self.register_buffer(name, tensor))"
        )


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

    _check_given(pair, x, condition)
    own = [] if pair.recipe is None else pair.recipe["own_networks"]
    if missing := [key for key in own if key not in parts]:
        arguments = ", ".join(f"{key}=..." for key in missing)
        raise UserError(
            f"the pair has your own {' and '.join(missing)}, which a load asks for: give "
            f"check_pair(pair, x, {arguments}), freshly made"
        )
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
            state, again = module_state.tensors_of(pair), module_state.tensors_of(load(folder, **parts))
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


def _check_given(pair: Any, x: Any, condition: Any) -> None:
    """Refuse a pair that is none, and data that are no tensors."""
    if not isinstance(pair, Pair):
        raise UserError(f"pair must be a pyro_priors.Pair, got {type(pair).__name__}: give the pair first, then x")
    for name, value in {"x": x, "condition": condition}.items():
        if not isinstance(value, Tensor) and not (name == "condition" and value is None):
            raise UserError(f"{name} must be a tensor, got {type(value).__name__}: give torch.as_tensor({name})")


def _check_loss(loss: Any) -> None:
    """Refuse a handwritten loss that is no number with a gradient."""
    wanted = "by_hand must return a tensor of one number with a gradient"
    if not isinstance(loss, Tensor):
        raise UserError(f"{wanted}, got {type(loss).__name__}: return the loss itself, without .item()")
    if loss.dim():
        raise UserError(f"{wanted}, got a tensor of shape {tuple(loss.shape)}: return the mean over the batch")
    if not loss.requires_grad:
        raise UserError(f"{wanted}, got a tensor without: compute it from `parameters`, without .detach()")


def _guess(found: Comparison, num: int) -> str:
    """Return the likely cause of a difference of the losses, if one of the usual ones fits."""
    ratio = found.by_hand / found.loss if found.loss else math.nan
    for factor, cause in (
        (-1, "it has the opposite sign: return the negative ELBO"),
        (num, "it is the sum over the batch: return the mean over the batch"),
        (-num, "it is the ELBO, summed over the batch: return the negative ELBO, a mean over the batch"),
    ):
        if abs(ratio / factor - 1) < 1e-6 and num > 1:
            return f"; the handwritten one is {factor:g} times the pair's, so {cause}"
    return ""


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
    :raises ValueError: if an argument is of another kind, or ``by_hand`` returns no number with a gradient
    :raises AssertionError: with the parameters whose gradients differ, the worst first
    """
    _check_given(pair, x, condition)
    if objective is not None and not hasattr(objective, "differentiable_loss"):
        raise UserError(f"objective must be an ELBO, such as pp.objectives.Beta(4.0), got {objective!r}")
    pair = copy.deepcopy(pair).double()
    x = x.double()
    condition = condition_like(condition, x)
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
    _check_loss(own)
    theirs = torch.autograd.grad(own, list(parameters.values()), allow_unused=True)
    gradients = {}
    for (name, value), one, other in zip(parameters.items(), ours, theirs, strict=True):
        one, other = (torch.zeros_like(value) if g is None else g for g in (one, other))
        gradients[name] = ((one - other).abs().max() / one.abs().max().clamp(min=1e-300)).item() if one.numel() else 0.0
        if not one.any() and not other.any():
            gradients[name] = 0.0
    found = Comparison(loss.item(), own.item(), gradients)
    same = abs(found.loss - found.by_hand) <= rtol * max(1.0, abs(found.loss))  # False for NaN
    close = all(difference <= 1e3 * rtol for difference in gradients.values())
    assert same and close, f"the two losses differ (rtol {rtol:g}){_guess(found, len(x))}\n{found}"
    return found
