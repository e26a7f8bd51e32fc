"""What is reported of a trained pair: numbers per datum, each with its standard error."""

from .aggregate import (
    Leakage,
    aggregate_posterior,
    high_posterior_samples,
    leakage,
    log_aggregate,
    log_prior,
    low_posterior_samples,
    nearest_neighbour_kl,
)
from .classifier import Classifier, trained_classifier
from .clustering import hungarian_accuracy, majority_accuracy
from .components import Components, posterior_means, prior_components
from .evaluate import METRICS, Estimate, evaluate, record
from .given import samples_given
from .grasps import GraspDiscriminator, agree, images_of, jaccard, rectangle_metric, trained_discriminator
from .judges import JudgeConfig
from .latent import active_categories, active_units, effective_categories
from .magnification import log_magnification
from .variety import Variety, variety

__all__ = [
    "METRICS",
    "Classifier",
    "Components",
    "Estimate",
    "GraspDiscriminator",
    "JudgeConfig",
    "Leakage",
    "Variety",
    "active_categories",
    "active_units",
    "aggregate_posterior",
    "agree",
    "effective_categories",
    "evaluate",
    "high_posterior_samples",
    "hungarian_accuracy",
    "images_of",
    "jaccard",
    "leakage",
    "log_aggregate",
    "log_magnification",
    "log_prior",
    "low_posterior_samples",
    "majority_accuracy",
    "nearest_neighbour_kl",
    "posterior_means",
    "prior_components",
    "record",
    "rectangle_metric",
    "samples_given",
    "trained_classifier",
    "trained_discriminator",
    "variety",
]
