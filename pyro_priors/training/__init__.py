"""Training: :func:`fit` and its options."""

from ..divergence import TrainingDiverged
from .config import TrainConfig
from .fit import fit

__all__ = ["TrainConfig", "TrainingDiverged", "fit"]
