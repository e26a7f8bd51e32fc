"""What is reported of a trained pair: numbers per datum, each with its standard error."""

from .aggregate import (
    Leakage,
    aggregate_posterior,
    high_posterior_samples,
    leakage,
    leakage_below,
    log_aggregate,
    log_prior,
    low_posterior_samples,
    nearest_neighbour_kl,
    posterior_draws,
    prior_samples,
)
from .classifier import Classifier, trained_classifier
from .clustering import hungarian_accuracy, majority_accuracy
from .components import Components, posterior_means, prior_components
from .evaluate import evaluate, evaluate_each
from .examples import PerExample, digest_of_examples, keep_examples, kept_examples, paired_differences
from .factors import factor_information, mutual_information_gap
from .features import FEATURES, Features, features_for, kept_classifier
from .fidelity import condition_fidelity, diversity, mean_pairwise_distance
from .generation import frechet, image_distances, kernel_distance, precision_recall_density_coverage
from .given import samples_given
from .grasps import GraspDiscriminator, agree, images_of, jaccard, pair_scores, rectangle_metric, trained_discriminator
from .judges import JudgeConfig
from .latent import active_categories, active_units, effective_categories
from .magnification import log_magnification
from .record import OF_SAME, beside, can_be_beside, record
from .registry import METRICS, NEEDS, ON_REQUEST, Context, Estimate, mean_of, register_metric, rows
from .representation import (
    gaussian_correlation,
    information,
    linear_probe,
    neighbours_label,
    neighbours_label_whitened,
)
from .variety import Variety, variety

__all__ = [
    "FEATURES",
    "METRICS",
    "NEEDS",
    "OF_SAME",
    "ON_REQUEST",
    "Classifier",
    "Components",
    "Context",
    "Estimate",
    "Features",
    "GraspDiscriminator",
    "JudgeConfig",
    "Leakage",
    "PerExample",
    "Variety",
    "active_categories",
    "active_units",
    "aggregate_posterior",
    "agree",
    "beside",
    "can_be_beside",
    "condition_fidelity",
    "digest_of_examples",
    "diversity",
    "effective_categories",
    "evaluate",
    "evaluate_each",
    "factor_information",
    "features_for",
    "frechet",
    "gaussian_correlation",
    "high_posterior_samples",
    "hungarian_accuracy",
    "image_distances",
    "images_of",
    "information",
    "jaccard",
    "keep_examples",
    "kept_classifier",
    "kept_examples",
    "kernel_distance",
    "leakage",
    "leakage_below",
    "linear_probe",
    "log_aggregate",
    "log_magnification",
    "log_prior",
    "low_posterior_samples",
    "majority_accuracy",
    "mean_of",
    "mean_pairwise_distance",
    "mutual_information_gap",
    "nearest_neighbour_kl",
    "neighbours_label",
    "neighbours_label_whitened",
    "pair_scores",
    "paired_differences",
    "posterior_draws",
    "posterior_means",
    "precision_recall_density_coverage",
    "prior_components",
    "prior_samples",
    "record",
    "rectangle_metric",
    "register_metric",
    "rows",
    "samples_given",
    "trained_classifier",
    "trained_discriminator",
    "variety",
]
