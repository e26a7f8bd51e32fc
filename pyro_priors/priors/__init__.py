"""Priors: modules that return a Pyro distribution over z, for the model to sample from."""

from .category import CategoryPrior
from .conditional import ConditionalGaussianPrior
from .flow import FlowPrior
from .gaussian import GaussianPrior
from .mixture import GaussianMixture, MixturePrior
from .released import ReleasedCategoryPrior
from .standard import StandardPrior
from .vamp import VampPrior

__all__ = [
    "CategoryPrior",
    "ConditionalGaussianPrior",
    "FlowPrior",
    "GaussianMixture",
    "GaussianPrior",
    "MixturePrior",
    "ReleasedCategoryPrior",
    "StandardPrior",
    "VampPrior",
]
