"""How many different things are generated given one condition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .._options import typed
from .checks import check_values, standard_error

__all__ = ["Variety", "variety"]


@dataclass(frozen=True, eq=False)
class Variety:
    """Variety at one threshold.

    :param threshold: least probability of a class at which a sample is clearly of it
    :param classes: number of different classes among the clear samples of each condition, shape ``(num_conditions,)``
    :param share: share of all samples that are clear
    """

    threshold: float
    classes: Tensor
    share: float

    @property
    def mean(self) -> float:
        """Mean number of classes over the conditions."""
        return self.classes.double().mean().item()

    @property
    def stderr(self) -> float:
        """Its standard error over the conditions, NaN for one condition."""
        return standard_error(self.classes)


@typed
def variety(probabilities: Tensor, thresholds: Sequence[float]) -> list[Variety]:
    """Number of classes of the samples of each condition, of those that a classifier is sure of.

    A sample that shows nothing would add a class by chance: the threshold leaves it out, and the share that is left
    says how many are. Both fall with the threshold, so that neither means much without the other.

    :param probabilities: of each class, shape ``(num_conditions, num_samples, num_classes)``: such as
        :meth:`Classifier.probabilities` gives
    :param thresholds: each in [0, 1]
    :raises ValueError: if the probabilities are not of that shape, or have values that are not finite

    Reference: section 4.2 of Klushyn et al. (2019), who count what "could be clearly assigned" and name no threshold.
    """
    check_values("probabilities", probabilities, "num_conditions", "num_samples", "num_classes")
    confidence, chosen = probabilities.max(-1)
    classes = torch.nn.functional.one_hot(chosen, probabilities.shape[-1]).bool()  # (conditions, samples, classes)
    found = []
    for threshold in thresholds:
        clear = confidence >= threshold
        different = (classes & clear.unsqueeze(-1)).any(1).sum(-1)
        found.append(Variety(float(threshold), different.cpu(), clear.double().mean().item()))
    return found
