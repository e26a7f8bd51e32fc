"""What is reported of a trained pair: numbers per datum, each with its standard error."""

from .clustering import hungarian_accuracy, majority_accuracy
from .evaluate import METRICS, Estimate, evaluate, record
from .latent import active_categories, active_units, effective_categories

__all__ = [
    "METRICS",
    "Estimate",
    "active_categories",
    "active_units",
    "effective_categories",
    "evaluate",
    "hungarian_accuracy",
    "majority_accuracy",
    "record",
]
