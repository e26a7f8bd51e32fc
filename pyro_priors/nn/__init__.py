"""Networks that return distributions: encoders, decoders, and the likelihoods that decoders end in."""

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
from .mlp import MLP, JoinedLinear, positive, raw_of
from .networks import CategoricalHead, Decoder, Encoder, GaussianHead

__all__ = [
    "LIKELIHOODS",
    "MLP",
    "BernoulliLikelihood",
    "CategoricalHead",
    "ContinuousBernoulli",
    "ContinuousBernoulliLikelihood",
    "Decoder",
    "DiscretisedLogistic",
    "DiscretisedLogisticLikelihood",
    "Encoder",
    "GaussianHead",
    "GaussianLikelihood",
    "JoinedLinear",
    "JointBernoulli",
    "Likelihood",
    "make_likelihood",
    "positive",
    "raw_of",
]
