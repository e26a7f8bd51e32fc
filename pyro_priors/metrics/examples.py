"""Values per example that an evaluation keeps in the run folder, from which runs are compared example by example.

They are in ``RUN/examples/SPLIT-seedN.json`` and the safetensors file that it names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import _files, checkpoint
from .._files import PATIENCE, CheckpointError
from .._reading import RESTORE
from .._schemas import Examples
from ..data import Splits
from ..data.levels import Levels
from ..data.splits import add_values
from ..errors import UserError
from ..run_folder import RunFolder
from .checks import standard_error
from .registry import Estimate

__all__ = ["PER_EXAMPLE", "PerExample", "digest_of_examples", "keep_examples", "kept_examples", "paired_differences"]

PER_EXAMPLE = ("elbo", "log_likelihood")
"""Quantities that are kept for each example, in nats."""


@dataclass(frozen=True)
class PerExample:
    """Values for each example of a split, in its order.

    :param values: by name of :data:`PER_EXAMPLE`, each of shape ``(num_examples,)``, in nats
    :param split: ``"train"``, ``"valid"`` or ``"test"``
    :param seed: seed of the noise
    :param data: checksum of the examples, from :func:`digest_of_examples`
    :param weights: checksum of the pair
    :param num_samples: importance samples for log p(x)
    :param categories: how log p(x) treats a category: ``"sum"`` or ``"draw"``
    """

    values: Mapping[str, Tensor]
    split: str
    seed: int
    data: str
    weights: str | None
    num_samples: int = 0
    categories: str = "sum"


def digest_of_examples(data: Splits, split: str) -> str:
    """Return a checksum of the values of x and the condition in a split, whatever the shape of one example.

    Data with another binarization, order, limit or condition have another checksum. Flattened images have that of the
    images.

    :param data: the data
    :param split: ``"train"``, ``"valid"`` or ``"test"``
    """
    examples = data.parts[split]
    found = hashlib.sha256(f"{len(examples)} {data.binarise and split == 'train'}".encode())
    for name, values in (("x", examples.x), ("condition", examples.condition)):
        if values is not None:
            tensor = values.levels if isinstance(values, Levels) else values
            found.update(f" {name} {tensor.dtype} {tensor[:1].numel()} ".encode())
            add_values(found, tensor)
    return found.hexdigest()


def keep_examples(folder: RunFolder, found: PerExample) -> None:
    """Write values per example into a run folder, with those of earlier evaluations of the same pair and examples.

    Nothing is written if there are no values, or if the run now has another pair.

    :raises WriteError: if a file cannot be written
    :raises FolderError: if the folder cannot be created
    """
    if not found.values or found.weights != folder.weights():
        return
    with _files.locked(folder.path, wait=True, name="evaluation", patience=PATIENCE):
        try:
            before = kept_examples(folder, found.split, found.seed)
        except CheckpointError:  # damaged: it is replaced
            before = None
        values = dict(found.values)
        of_log_p = found
        if before is not None and (before.data, before.weights) == (found.data, found.weights):
            values = {**before.values, **values}
            of_log_p = found if "log_likelihood" in found.values else before
        record = {
            "split": found.split,
            "seed": found.seed,
            "data": found.data,
            "weights": found.weights,
            "num_samples": of_log_p.num_samples,
            "categories": of_log_p.categories,
        }
        tensors = {name: value.detach().cpu().double() for name, value in values.items()}
        checkpoint.write(folder.inside("examples"), _name(found.split, found.seed), tensors, {"examples": record})


def kept_examples(folder: RunFolder, split: str = "test", seed: int = 0) -> PerExample | None:
    """Return the values per example in a run folder; None if there are none of its current pair.

    :param split: the split
    :param seed: seed of the noise
    :raises CheckpointError: if a file is damaged
    """
    place, name = folder.inside("examples"), _name(split, seed)
    if not (place / f"{name}.json").exists():
        return None
    tensors, record = checkpoint.read(place, name, Examples, folder.path)
    about = record["examples"]
    sizes = {tuple(value.shape) for value in tensors.values()}
    wrong = [key for key, value in tensors.items() if key not in PER_EXAMPLE or value.dtype is not torch.float64]
    if wrong or len(sizes) != 1 or len(next(iter(sizes))) != 1 or (about["split"], about["seed"]) != (split, seed):
        raise CheckpointError(f"{place / name}.json has other values than an evaluation keeps: it was altered", RESTORE)
    if about["weights"] != folder.weights():
        return None
    return PerExample(tensors, **about)


def _name(split: str, seed: int) -> str:
    return f"{split}-seed{seed}"


def paired_differences(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, Estimate]:
    """Return the mean of one minus the other over the same examples, with its standard error over them.

    Example::

        >>> values = {"elbo": torch.tensor([1.0, 2.0, 4.0])}
        >>> paired_differences(values, {"elbo": torch.zeros(3)})["elbo"].value
        2.3333333333333335

    :param one: values by quantity, each of shape ``(num_examples,)``
    :param other: the same; quantities that only one of them has are left out
    :returns: by quantity, in nats per example
    :raises ValueError: if the numbers of examples differ
    """
    found: dict[str, Any] = {}
    for name in one:
        if name not in other:
            continue
        if one[name].shape != other[name].shape:
            raise UserError(
                f"{name} must be of the same examples, got {len(one[name])} and {len(other[name])}: evaluate both on "
                "the same data"
            )
        difference = one[name].double() - other[name].double()
        stderr = standard_error(difference) if len(difference) > 1 else None
        found[name] = Estimate(difference.mean().item(), stderr, "nats per example")
    return found
