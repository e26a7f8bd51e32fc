"""Objectives: ELBOs of Pyro's interface whose loss is in nats per datum, and the handler that weighs the KL."""

import inspect
from typing import Any

from pyro import infer

from .beta import Beta
from .compile import CompiledObjective, compiled
from .elbo import ELBO, EnumELBO, Terms
from .importance import log_importance_weights
from .kl_weight import KLWeight

OBJECTIVES: dict[str, type[ELBO]] = {"beta": Beta, "elbo": ELBO}
"""Objectives by their names on the command line. ``elbo`` enumerates what a guide marks for enumeration."""


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
    "CompiledObjective",
    "EnumELBO",
    "KLWeight",
    "Terms",
    "compiled",
    "log_importance_weights",
    "options_of",
]
