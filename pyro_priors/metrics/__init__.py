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
from .evaluate import METRICS, Estimate, evaluate, record
from .latent import active_categories, active_units, effective_categories

__all__ = [
    "METRICS",
    "Classifier",
    "Estimate",
    "Leakage",
    "active_categories",
    "active_units",
    "aggregate_posterior",
    "effective_categories",
    "evaluate",
    "high_posterior_samples",
    "hungarian_accuracy",
    "leakage",
    "log_aggregate",
    "log_prior",
    "low_posterior_samples",
    "majority_accuracy",
    "nearest_neighbour_kl",
    "record",
    "trained_classifier",
]
