"""Priors: modules that return a Pyro distribution over z, for the model to sample from."""

from .category import CategoryPrior
from .conditional import ConditionalGaussianPrior
from .gaussian import GaussianPrior
from .standard import StandardPrior

__all__ = ["CategoryPrior", "ConditionalGaussianPrior", "GaussianPrior", "StandardPrior"]
