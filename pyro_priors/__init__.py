"""Variational autoencoders with learned priors, as Pyro programs.

Names that most scripts need are here; the parts are :mod:`~pyro_priors.models`, :mod:`~pyro_priors.guides`,
:mod:`~pyro_priors.priors`, :mod:`~pyro_priors.nn`, :mod:`~pyro_priors.objectives`, :mod:`~pyro_priors.data`,
:mod:`~pyro_priors.metrics`, :mod:`~pyro_priors.plots`, :mod:`~pyro_priors.conditions` and
:mod:`~pyro_priors.experiments`.
"""

from importlib.metadata import PackageNotFoundError, version

from . import conditions, data, experiments, metrics, nn, objectives, plots, priors, testing
from ._files import CheckpointError
from .clusters import start_at_clusters
from .errors import UserError
from .nn import likelihoods
from .pair import Pair
from .registration import data_plate, register
from .tracing import EagerWarning, compiled
from .training import TrainConfig, TrainingDiverged, fit
from .zoo import create, load, names, networks
from .zoo.citations import citation

try:
    __version__ = version("pyro-priors")
except PackageNotFoundError:  # run from a tree that is not installed
    __version__ = "0+unknown"

__all__ = [
    "CheckpointError",
    "EagerWarning",
    "Pair",
    "TrainConfig",
    "TrainingDiverged",
    "UserError",
    "citation",
    "compiled",
    "conditions",
    "create",
    "data",
    "data_plate",
    "experiments",
    "fit",
    "likelihoods",
    "load",
    "metrics",
    "names",
    "networks",
    "nn",
    "objectives",
    "plots",
    "priors",
    "register",
    "start_at_clusters",
    "testing",
]
