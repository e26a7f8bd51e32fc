"""Networks that return distributions: encoders, decoders, and the likelihoods that decoders end in."""

from .calibrated import CALIBRATIONS, OptimalGaussianLikelihood, OptimalNormal, make_calibrated
from .conditions import CONDITION_NETWORKS, AttributeConv, ConditionMLP, make_condition_network
from .conv import NORMALISATIONS, UPSAMPLING, ConvDecoder, ConvEncoder, ConvTrunk
from .likelihoods import (
    LIKELIHOODS,
    BernoulliLikelihood,
    ContinuousBernoulli,
    ContinuousBernoulliLikelihood,
    DiscretisedLogistic,
    DiscretisedLogisticLikelihood,
    GaussianLikelihood,
    JointBernoulli,
    Likelihood,
    make_likelihood,
)
from .mlp import MLP, BranchedMLP, JoinedLinear, positive, raw_of
from .networks import CategoricalHead, CategoryEncoder, Decoder, Encoder, GaussianHead
from .relaxed import RelaxedCategorical, Temperature, category_of, chosen
from .released import ReleasedCategoricalHead, ReleasedGaussianHead, he_

__all__ = [
    "CALIBRATIONS",
    "CONDITION_NETWORKS",
    "LIKELIHOODS",
    "MLP",
    "NORMALISATIONS",
    "UPSAMPLING",
    "AttributeConv",
    "BernoulliLikelihood",
    "BranchedMLP",
    "CategoricalHead",
    "CategoryEncoder",
    "ConditionMLP",
    "ContinuousBernoulli",
    "ContinuousBernoulliLikelihood",
    "ConvDecoder",
    "ConvEncoder",
    "ConvTrunk",
    "Decoder",
    "DiscretisedLogistic",
    "DiscretisedLogisticLikelihood",
    "Encoder",
    "GaussianHead",
    "GaussianLikelihood",
    "JoinedLinear",
    "JointBernoulli",
    "Likelihood",
    "OptimalGaussianLikelihood",
    "OptimalNormal",
    "RelaxedCategorical",
    "ReleasedCategoricalHead",
    "ReleasedGaussianHead",
    "Temperature",
    "category_of",
    "chosen",
    "he_",
    "make_calibrated",
    "make_condition_network",
    "make_likelihood",
    "positive",
    "raw_of",
]
