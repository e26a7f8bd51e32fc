"""The smallest KL whose reconstruction is good enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from pyro import poutine
from torch import Tensor

from .._files import CheckpointError
from .._options import typed
from .._reading import RESTORE
from .._resume import check_shapes
from ..errors import UserError
from .elbo import ELBO
from .kl_weight import KLWeight
from .terms import Terms

__all__ = ["Constrained"]

SMALLEST_BETA = 1e-6
"""Pyro refuses weights of 0."""


class Constrained(ELBO):
    r"""Constrained optimisation of a VAE: the smallest KL under a bound on the reconstruction error.

    .. math:: \min \mathrm{KL}(q(z \mid x) \,\|\, p(z)) \quad\text{such that}\quad
        C = -E_q \log p(x \mid z) \le \kappa^2

    as steps along :math:`C + \beta\, \mathrm{KL}`, whose Lagrange multiplier :math:`1/\beta` follows the constraint:

    .. math::
        \hat{C} &\leftarrow \alpha\, \hat{C} + (1 - \alpha)\, C, \qquad \delta = \hat{C} - \kappa^2 \\
        \beta &\leftarrow \beta\, \exp(-\nu\, \delta) && \text{where } \delta > 0 \\
        \beta &\leftarrow \beta\, \exp(\nu \tanh(\tau (\beta - 1))\, \delta) && \text{elsewhere}

    all in nats per datum. In words: beta begins small and stays until the reconstruction has been good enough for the
    first time; then it falls where the bound is broken, and tends to 1 where it holds. A training that ends at
    ``beta=1`` is one of the plain bound, reached from good reconstructions; one whose beta stays below 1 cannot have
    both.
    The weights that ``fit`` keeps are those of the best bound on the validation part, as always, whether the constraint
    holds there or not.
    It stands in the place of a warm-up: give ``warmup_epochs=0`` to :func:`pyro_priors.fit`, or the two are multiplied.

    ``current_beta`` is beta, and what ``train_beta`` of a run reports. It moves in :meth:`end_step`, which ``fit`` and
    ``SVI`` call; a loop of your own has to::

        >>> loss = objective(pair.model, pair.guide)(x)   # or pyro_priors.compiled(pair, objective)(x)
        >>> loss.backward()
        >>> optimizer.step()
        >>> objective.end_step()

    :param kappa_squared: the largest reconstruction error, minus the expected log-likelihood, in nats per datum: above
        what a training with a small beta reaches. Of continuous data it can be below 0. Needed in use
    :param beta: where beta begins, above 0
    :param rate: nu, per nat, above 0: the smaller, the slower beta moves
    :param sharpness: tau, above 0: the smaller, the slower beta comes near 1
    :param smoothing: alpha, from 0 to below 1
    :param analytic_kl: the KL in closed form where there is one, or sampled
    :param num_particles: draws of the latent variables for each datum
    :raises ValueError: if a number is out of range; in use, if ``kappa_squared`` is not given

    What differs from the paper: its hierarchical prior and importance-weighted bound are not here, any pair and its KL
    are; the constraint is the likelihood's own, for any likelihood (with a fixed scale s of D Gaussian values a squared
    error e is :math:`e / 2 s^2 + D \log(s \sqrt{2 \pi})` nats), where its authors bound what they call the
    reconstruction error; beta does not cross 1; the constants are ours.

    References: Alexej Klushyn, Nutan Chen, Richard Kurle, Botond Cseke and Patrick van der Smagt, Learning hierarchical
    priors in VAEs, NeurIPS 2019, arXiv:1905.04982. Danilo J. Rezende and Fabio Viola, Taming VAEs, 2018,
    arXiv:1810.00597.
    """

    scheduled: ClassVar[tuple[str, ...]] = ("current_beta",)
    current_beta: float | Tensor

    @typed
    def __init__(
        self,
        kappa_squared: float | None = None,
        beta: float = 0.01,
        rate: float = 1e-3,
        sharpness: float = 3.0,
        smoothing: float = 0.99,
        analytic_kl: bool = True,
        num_particles: int = 1,
    ) -> None:
        super().__init__(analytic_kl, num_particles)
        for name, value in (("beta", beta), ("rate", rate), ("sharpness", sharpness)):
            if not value > 0:
                raise UserError(f"{name} must be above 0, got {value}")
        if not 0 <= smoothing < 1:
            raise UserError(f"smoothing must be from 0 to below 1, got {smoothing}: 0.99 is the usual one")
        self.kappa_squared, self.beta, self.rate = kappa_squared, beta, rate
        self.sharpness, self.smoothing = sharpness, smoothing
        self.begin(0, seed=0)

    def begin(self, num_data: int, seed: int) -> None:
        """Begin with beta as it was given, and with no memory of errors."""
        self.current_beta = self.beta
        self.constraint = _Constraint()

    def weigh(self, program: Callable) -> Callable:
        """The program with its latent sites weighted by the schedule and by beta."""
        return KLWeight(self.current_beta)(super().weigh(program))

    def _terms(self, model_trace: poutine.Trace, guide_trace: poutine.Trace) -> Terms:
        if self.kappa_squared is None:
            raise UserError(
                "Constrained needs kappa_squared, the largest reconstruction error in nats per datum: give one such as "
                "a plain training reaches, kappa_squared=80 (--objective.kappa-squared 80)"
            )
        terms = super()._terms(model_trace, guide_trace)
        like = terms.parts["reconstruction"]
        terms.penalties["beta"] = torch.as_tensor(self.current_beta, dtype=like.dtype, device=like.device)
        terms.scales["beta"] = 0.0  # for the record of a run alone
        return terms

    def observe(self, parts: Mapping[str, Tensor]) -> None:
        """Take the reconstruction error of a step."""
        self.constraint.observed = -parts["reconstruction"].detach().mean()

    def end_step(self) -> None:
        """Move beta by the error of the last step."""
        held = self.constraint
        if held.observed is None or self.kappa_squared is None:
            return
        error, held.observed = held.observed.item(), None
        held.average = error if held.average is None else self.smoothing * held.average + (1 - self.smoothing) * error
        excess, beta = held.average - self.kappa_squared, float(self.current_beta)
        held.met = held.met or excess <= 0
        if held.met and excess > 0:
            self.current_beta = max(SMALLEST_BETA, beta * math.exp(-self.rate * excess))
        elif held.met:
            exponent = self.rate * math.tanh(self.sharpness * (beta - 1)) * excess
            moved = beta * math.exp(min(exponent, 700.0))
            self.current_beta = min(1.0, moved) if beta < 1 else max(1.0, moved)

    def state(self) -> dict[str, Tensor]:
        """beta, the mean error and whether the constraint was ever met; nothing before the first step."""
        held = self.constraint
        if held.average is None:
            return {}
        numbers = {"beta": float(self.current_beta), "average": held.average, "met": float(held.met)}
        return {name: torch.tensor(value, dtype=torch.float64, device="cpu") for name, value in numbers.items()}

    def load_state(self, state: dict[str, Tensor], device: torch.device) -> None:
        """Restore what :meth:`state` gave.

        :raises CheckpointError: if it is not what :meth:`state` gives
        """
        if state:
            check_shapes(state, dict.fromkeys(("average", "beta", "met"), ((), torch.float64)))
            if not state["beta"].item() > 0:
                raise CheckpointError(f"the objective's beta must be above 0, got {state['beta'].item()}", RESTORE)
            self.current_beta = state["beta"].item()
            self.constraint = _Constraint(state["average"].item(), bool(state["met"].item()))


@dataclass(eq=False)
class _Constraint:
    """What is remembered of the errors; an object, so that its numbers are no part of what a graph is compiled for."""

    average: float | None = None
    met: bool = False
    observed: Tensor | None = None
