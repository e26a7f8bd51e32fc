"""Networks that return distributions: encoders, decoders, and the likelihoods that decoders end in."""

from .conditions import CONDITION_NETWORKS, AttributeConv, ConditionMLP, make_condition_network
from .conv import NORMALISATIONS, UPSAMPLING, ConvDecoder, ConvEncoder, ConvTrunk
from .distributions import ContinuousBernoulli, DiscretisedLogistic, JointBernoulli
from .labels import check_labels, classification_loss, restricted
from .likelihood import LIKELIHOODS, Likelihood, LikelihoodOptions, make_likelihood, register_likelihood
from .likelihoods import (
    BernoulliLikelihood,
    ContinuousBernoulliLikelihood,
    DiscretisedLogisticLikelihood,
    GaussianLikelihood,
    NegativeBinomialLikelihood,
    PoissonLikelihood,
)
from .mlp import MLP, BranchedMLP, JoinedLinear, positive, raw_of
from .networks import CategoricalHead, CategoryEncoder, Decoder, Encoder, GaussianHead
from .optimal import OptimalGaussianLikelihood, OptimalNormal
from .relaxed import RelaxedCategorical, Temperature, category_of, chosen

__all__ = [
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
    "LikelihoodOptions",
    "NegativeBinomialLikelihood",
    "OptimalGaussianLikelihood",
    "OptimalNormal",
    "PoissonLikelihood",
    "RelaxedCategorical",
    "Temperature",
    "category_of",
    "check_labels",
    "chosen",
    "classification_loss",
    "make_condition_network",
    "make_likelihood",
    "positive",
    "raw_of",
    "register_likelihood",
    "restricted",
]
