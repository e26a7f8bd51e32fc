"""Priors: modules that return a Pyro distribution over z, for the model to sample from."""

from .category import CategoryPrior
from .conditional import ComponentNetwork, ConditionalGaussianPrior, ConditionalMixturePrior
from .conditional_flow import CONDITIONAL_FLOWS, ConditionalFlowPrior
from .conditional_vamp import CDVPrior, ConditionalVampPrior
from .flow import FlowPrior
from .gaussian import GaussianPrior
from .mixture import GaussianMixture, MixturePrior
from .released import ReleasedCategoryPrior
from .standard import StandardPrior
from .vamp import VampPrior

__all__ = [
    "CONDITIONAL_FLOWS",
    "CDVPrior",
    "CategoryPrior",
    "ComponentNetwork",
    "ConditionalFlowPrior",
    "ConditionalGaussianPrior",
    "ConditionalMixturePrior",
    "ConditionalVampPrior",
    "FlowPrior",
    "GaussianMixture",
    "GaussianPrior",
    "MixturePrior",
    "ReleasedCategoryPrior",
    "StandardPrior",
    "VampPrior",
]
