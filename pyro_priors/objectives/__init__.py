"""Objectives: ELBOs of Pyro's interface whose loss is in nats per datum, and the handler that weighs the KL."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from pyro import infer

from ..errors import UserError
from .beta import Beta
from .capacity import Capacity
from .constrained import Constrained
from .elbo import ELBO, EnumELBO
from .factor import Factor
from .importance import log_importance_weights
from .info import Info
from .kl_weight import KLWeight
from .terms import Terms
from .total_correlation import TotalCorrelation

OBJECTIVES: dict[str, type[ELBO]] = {
    "beta": Beta,
    "capacity": Capacity,
    "constrained": Constrained,
    "elbo": ELBO,
    "factor": Factor,
    "info": Info,
    "total-correlation": TotalCorrelation,
}
"""Objectives by their names on the command line. ``elbo`` enumerates what a guide marks for enumeration."""

Kind = TypeVar("Kind", bound=type[ELBO])


def register_objective(name: str) -> Callable[[Kind], Kind]:
    """Register a class of objectives, so that the command line and the records of runs know it by its name.

    Example::

        @register_objective("half")
        class Half(ELBO):
            \"""Half of the KL.\"""

    Its constructor's arguments are its options. They must be attributes of the same names.

    :param name: as in ``--objective NAME``
    :raises ValueError: if the name is taken, or the class is no ELBO of this package
    """

    def add(kind: Kind) -> Kind:
        if name in OBJECTIVES:
            raise UserError(
                f"objective '{name}' is already registered by {OBJECTIVES[name].__module__}: choose another"
            )
        if not (isinstance(kind, type) and issubclass(kind, ELBO)):
            raise UserError(f"objective '{name}' must be a class of pyro_priors.objectives.ELBO, got {kind!r}")
        OBJECTIVES[name] = kind
        return kind

    return add


def options_of(objective: infer.ELBO) -> dict[str, Any]:
    """Name and constructor arguments of an objective, for the record of a run."""
    names: dict[type[infer.ELBO], str] = {kind: name for name, kind in OBJECTIVES.items()}
    name = names.get(type(objective), type(objective).__name__)
    if not isinstance(objective, ELBO):
        return {"name": name}
    arguments = inspect.signature(type(objective)).parameters
    return {"name": name, "config": {argument: getattr(objective, argument) for argument in arguments}}


__all__ = [
    "ELBO",
    "OBJECTIVES",
    "Beta",
    "Capacity",
    "Constrained",
    "EnumELBO",
    "Factor",
    "Info",
    "KLWeight",
    "Terms",
    "TotalCorrelation",
    "log_importance_weights",
    "options_of",
    "register_objective",
]
