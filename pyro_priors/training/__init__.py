"""Training: :func:`fit` and its options."""

from ..divergence import TrainingDiverged
from .callbacks import TrainingState
from .config import TrainConfig
from .fit import fit

__all__ = ["TrainConfig", "TrainingDiverged", "TrainingState", "fit"]
