"""Priors: modules that return a Pyro distribution over z, and the options that build them.

Names such as ``"flow"`` stand for the options here, ``Flow()``. Each prior is in one file, for every context: none, a
category, a condition (:class:`Prior`).
"""

from .base import PRIORS, Parts, Prior, PriorOptions, register_prior
from .cdv import CDV, CDVPrior, ConditionalCDVPrior
from .components import ComponentNetwork
from .flow import TRANSFORMS, Flow, FlowPrior
from .gaussian import ConditionalGaussianPrior, Gaussian, GaussianPrior
from .gaussian_mixture import GaussianMixture
from .mixture import ConditionalMixturePrior, Mixture, MixturePrior
from .standard import Standard, StandardPrior
from .vamp import ConditionalVampPrior, Vamp, VampPrior

__all__ = [
    "CDV",
    "PRIORS",
    "TRANSFORMS",
    "CDVPrior",
    "ComponentNetwork",
    "ConditionalCDVPrior",
    "ConditionalGaussianPrior",
    "ConditionalMixturePrior",
    "ConditionalVampPrior",
    "Flow",
    "FlowPrior",
    "Gaussian",
    "GaussianMixture",
    "GaussianPrior",
    "Mixture",
    "MixturePrior",
    "Parts",
    "Prior",
    "PriorOptions",
    "Standard",
    "StandardPrior",
    "Vamp",
    "VampPrior",
    "register_prior",
]
