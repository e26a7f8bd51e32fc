"""What depends on the step or the epoch alone: seeds, the learning rate and the weight of the KL."""

from __future__ import annotations

import math

import numpy as np

from .config import TrainConfig

__all__ = ["CALIBRATION", "TRAINING", "VALIDATION", "kl_weight", "rate_factor", "seed_of"]

TRAINING, VALIDATION, CALIBRATION = 1, 2, 3  # streams of noise from one seed


def seed_of(seed: int, stream: int, step: int) -> int:
    """Return the seed of the noise of a step in one of the streams."""
    return int(np.random.SeedSequence((seed, stream, step)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def rate_factor(name: str, done: float) -> float:
    """Return the factor of the learning rate after a fraction ``done`` of the epochs."""
    return {"constant": 1.0, "linear": 1.0 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[name]


def kl_weight(config: TrainConfig, step: int, steps_per_epoch: int) -> float | dict[str, float]:
    """Return the weight of the KL in a step, for all latent sites or by site."""
    warmup_steps = config.warmup_epochs * steps_per_epoch
    weight = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    return dict.fromkeys(config.warmup_sites, weight) if config.warmup_sites else weight
