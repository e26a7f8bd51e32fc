"""Training: :func:`fit` and its options."""

from ..divergence import TrainingDiverged
from .fit import TrainConfig, fit

__all__ = ["TrainConfig", "TrainingDiverged", "fit"]
