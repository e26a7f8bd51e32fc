"""Whether what is generated has the condition that was asked for, and how different it is given one condition."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .._options import typed
from .._precision import pair_in_precision_of
from ..data import Splits
from ..data.splits import PartName
from ..errors import UserError, check_sizes
from ..pair import Pair
from .checks import check_pair, check_values, standard_error
from .classifier import Classifier
from .distances import distances
from .judges import weights_of

__all__ = ["condition_fidelity", "diversity", "mean_pairwise_distance"]

NUM_IMAGES = 10_000
"""Most generated images of a fidelity."""

AT_ONCE = 500

Found = dict[str, tuple[float, float | None, str]]


@typed
def condition_fidelity(pair: Pair, data: Splits, classifier: Classifier, part: PartName = "test") -> Found:
    """Share of generated images in which a classifier of real ones finds what was asked for.

    One image for each condition of the part, 10,000 at most: the mean of p(x|z,condition) at a z of the prior. Of
    labels the share whose most probable class is the one asked for. Of attributes, most of which are rare, the mean
    over the attributes of the balanced accuracy (of the share found where it was asked for, and of the share not found
    where it was not): 0.5 for images that do not depend on the condition. For it an attribute counts as found where its
    probability is above its share of the training part, the threshold that is best if probabilities are right: one of a
    half a rare attribute would hardly ever pass. Beside it stands the plain accuracy, at a threshold of a half.

    ================================= ===================================================================
    ``fidelity``                      of generated images
    ``fidelity_of_data``              of the part's own images, which generated ones, more typical, may exceed
    ``fidelity_NAME``                 of a class or an attribute
    ``fidelity_plain``, ``..of_data`` of attributes: the accuracy
    ================================= ===================================================================

    :param pair: a conditional pair
    :param data: its data, whose condition is a label or attributes
    :param classifier: of the label, or of the attributes, of these data
    :param part: whose conditions are asked for
    :returns: value, standard error over the images (attributes of one image need not be independent; None where an
        attribute is there, or not there, in one image only) and unit by name; the unit says which classifier judged, by
        its weights
    :raises ValueError: if the condition is neither, the pair takes none, or has parameters that are not finite
    """
    check_pair(pair)
    if not pair.takes_condition:
        raise UserError("fidelity is to a condition, and this pair takes none: make a conditional pair")
    names, known = data.condition_names, data.parts[part].condition
    if names is None or known is None:
        raise UserError(
            f"fidelity is to a condition that is a label or attributes, and that of {data.name} is not: load it with "
            "condition_labels=True"
        )
    pair = pair_in_precision_of(data.train.x, pair)
    asked = known[:NUM_IMAGES] > 0.5  # (num, num_names)
    in_training = data.train.condition
    assert in_training is not None
    prevalence = (in_training > 0.5).double().mean(0)
    judged_by = f", by the classifier {weights_of(classifier)}"
    seen: dict[str, list[Tensor]] = {"": [], "_of_data": []}
    for start in range(0, len(asked), AT_ONCE):
        rows = slice(start, min(start + AT_ONCE, len(asked)))
        drawn = pair.sample(rows.stop - rows.start, known[rows])["x_mean"].clamp(0, 1)
        for suffix, images in (("", drawn), ("_of_data", data.parts[part].x[rows])):
            seen[suffix].append(classifier.probabilities(images).cpu())
    found: Found = {}
    for suffix, parts in seen.items():
        probabilities = torch.cat(parts)
        judge = _of_attributes if classifier.attributes else _of_labels
        judged = judge(probabilities, asked, names, prevalence)
        found |= {
            f"fidelity{key}{suffix}": (value, error, f"{unit}{judged_by}")
            for key, (value, error, unit) in judged.items()
        }
    return {name: value for name, value in found.items() if not math.isnan(value[0])}


def _of_labels(probabilities: Tensor, asked: Tensor, names: tuple[str, ...], prevalence: Tensor) -> Found:
    label = asked.double().argmax(1)
    right = (probabilities.argmax(1) == label).double()
    each = {f"_{name}": _share(right[label == k]) for k, name in enumerate(names)}
    return {"": _share(right), **each}


def _of_attributes(probabilities: Tensor, asked: Tensor, names: tuple[str, ...], prevalence: Tensor) -> Found:
    right, plain = (probabilities > prevalence) == asked, (probabilities > 0.5) == asked
    right, plain, there = right.double(), plain.double(), torch.stack([asked, ~asked]).double()  # (2, num, num_names)
    num = there.sum(1, keepdim=True)
    share = (right * there).sum(1, keepdim=True) / num  # of those that have it, and of those that do not
    balanced = share.mean((0, 1))
    moved = ((right - share) * there / (num * (num - 1)).sqrt()).sum(0) / 2  # by each image, each balanced accuracy
    known = ~balanced.isnan()  # an attribute that all have, or none, has no balanced accuracy

    def of(value: Tensor, error: Tensor, unit: str) -> tuple[float, float | None, str]:
        return value.item(), None if error.isnan() else error.item(), unit

    each = plain.mean(1)
    found: Found = {
        "": of(balanced[known].mean(), moved[:, known].mean(1).norm(), "mean balanced accuracy of the attributes"),
        "_plain": of(each.mean(), each.new_tensor(standard_error(each)), "mean accuracy of the attributes"),
    }
    of_each = {f"_{name}": of(balanced[k], moved[:, k].norm(), "balanced accuracy") for k, name in enumerate(names)}
    return found | of_each


def _share(right: Tensor) -> tuple[float, float | None, str]:
    value = right.mean().item() if len(right) else math.nan
    return value, math.sqrt(value * (1 - value) / max(len(right), 1)) if len(right) else None, "share of images"


@typed
def mean_pairwise_distance(features: Tensor) -> Tensor:
    """Mean Euclidean distance of two different rows.

    :param features: shape ``left_shape + (num, num_features)``
    :returns: shape ``left_shape``
    :raises ValueError: if there are fewer than 2 rows, or values that are not finite
    """
    check_values("features", features, ..., "num", "num_features", least=2)
    num = features.shape[-2]
    return distances(features, features).sum((-2, -1)) / (num * (num - 1))


@typed
def diversity(
    pair: Pair,
    data: Splits,
    features: Callable[[Tensor], Tensor],
    unit: str,
    part: PartName = "test",
    num_conditions: int = 20,
    num_images: int = 50,
) -> Found:
    """Mean distance of two images generated under one condition, in the features of a network.

    Of a label every class is a condition; of attributes the first of the part. Beside it that of the part's own images:
    of a label within each class, of attributes, of which hardly two images have the same, over all of them.

    ===================================== =====================================================
    ``diversity``, ``..of_data``          mean over the conditions
    ``diversity_NAME``, ``..of_data``     of a class
    ===================================== =====================================================

    :param pair: a conditional pair
    :param data: its data
    :param features: from images, shape ``(num, *image_shape)``, to ``(num, num_features)``
    :param unit: what names the network
    :param part: whose conditions are asked for
    :param num_conditions: most conditions of attributes
    :param num_images: images of each condition
    :returns: value, standard error over the conditions and unit by name
    :raises ValueError: if the condition is neither, ``num_images`` is below 2, or the pair has parameters that are not
        finite
    """
    check_pair(pair)
    check_sizes(num_conditions=num_conditions, num_images=num_images)
    if num_images < 2:
        raise UserError(f"num_images must be at least 2, got {num_images}: a diversity compares two images")
    pair = pair_in_precision_of(data.train.x, pair)
    known, shape = data.parts[part].condition, data.image_shape
    if data.condition_names is None or known is None or shape is None:
        raise UserError(
            f"diversity is that of images under a label or attributes, and {data.name} has no such condition: load it "
            "with condition_labels=True"
        )

    def spread(images: Tensor) -> Tensor:
        if len(images) < 2:
            return torch.tensor(math.nan, dtype=torch.float64, device="cpu")
        return mean_pairwise_distance(features(images.reshape(len(images), *shape).cpu())).double().cpu()

    if data.condition_of == "label":
        conditions = torch.eye(len(data.condition_names), dtype=known.dtype, device=known.device)
        label = known.argmax(1)
        rows = [(label == k).nonzero()[:num_images, 0] for k in range(len(conditions))]
        real = torch.stack([spread(data.parts[part].x[index]) for index in rows])
    else:
        conditions = known[:num_conditions]
        real = spread(data.parts[part].x[: num_conditions * num_images])[None]
    made = torch.stack(
        [spread(pair.sample(num_images, one)["x_mean"].clamp(0, 1)) for one in conditions]  # one condition for all
    )
    found: Found = {}
    for suffix, values in (("", made), ("_of_data", real)):
        there = values[~values.isnan()]
        error = standard_error(there) if len(there) > 1 else None
        if len(there):
            found[f"diversity{suffix}"] = there.mean().item(), error, unit
        if data.condition_of == "label":
            each = zip(data.condition_names, values.tolist(), strict=True)
            found |= {f"diversity_{name}{suffix}": (value, None, unit) for name, value in each if not math.isnan(value)}
    return found
