"""Parts of a data set, and the checks that every value passes once, at the door."""

import hashlib
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .augment import Augment
from .levels import Levels, rows_of

__all__ = ["Part", "Splits", "check_labels", "check_unit_interval", "check_values"]


# eq=False: comparing tensors elementwise has no truth value; parts are compared by identity
@dataclass(frozen=True, eq=False, repr=False)
class Part:
    """One part of a data set (train, valid or test). All tensors share the first dimension N.

    :param x: the data, float32, shape ``(N,) + x_shape``; of large images :class:`~pyro_priors.data.Levels`, bytes that
        come out as floats when they are indexed
    :param condition: what x is generated given, float32, shape ``(N,) + condition_shape``
    :param label: classes 0, ..., ``num_labels - 1``, int64, shape ``(N,)``; used only to report
    :param attributes: what else is known of each datum, float32, shape ``(N, num_attributes)``; used only to report
    """

    x: Tensor
    condition: Tensor | None = None
    label: Tensor | None = None
    attributes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        shapes = [f"x {tuple(self.x.shape[1:])}"]
        if self.condition is not None:
            shapes.append(f"condition {tuple(self.condition.shape[1:])}")
        if self.label is not None:
            shapes.append("label")
        if self.attributes is not None:
            shapes.append(f"attributes {tuple(self.attributes.shape[1:])}")
        return f"Part({len(self)} of {', '.join(shapes)})"

    def take(self, index: Tensor | slice) -> "Part":
        """The examples at ``index``, a slice or a tensor of positions."""
        rest = (self.condition, self.label, self.attributes)
        condition, label, attributes = (None if values is None else rows_of(values, index) for values in rest)
        return Part(rows_of(self.x, index), condition, label, attributes)


@dataclass(frozen=True, eq=False)
class Splits:
    """A data set in its three parts, with what a model must know about it.

    :param name: name of the data set
    :param likelihood: what fits the values: ``"bernoulli"``, ``"gaussian"``, ``"continuous_bernoulli"`` or
        ``"discretised_logistic"``
    :param image_shape: (channels, height, width) of x when it is an image, also when x is flattened
    :param condition_image_shape: the same for the condition
    :param num_labels: number of classes, None without labels
    :param label_names: names of the classes; their numbers when left out
    :param condition_of: ``"label"`` or ``"attributes"`` where the condition is these (one-hot, or 0 and 1)
    :param attribute_names: names of the attributes, in the order of their columns; None without
    :param factor_sizes: number of values of each attribute, where the attributes are the independent factors that the
        data were made of, counted from 0; None for others
    :param binarise: True when ``train.x`` holds grey levels in [0, 1] that are to be binarised afresh in
        every batch (dynamic binarisation; see :func:`batches`); ``valid`` and ``test`` are binarised once
        already
    :param augment: what is done to the images of ``train`` at random, in every batch
    :param source: one line: which form was found, how it was split, what differs from the paper's split
    :param true_log_likelihood: mean log density in nats per datum where the density is known (toys)
    :param recipe: name and options that :func:`load` was called with, for the record of a run; None for arrays

    ``dataclasses.replace(data, train=...)`` gives other data under the old recipe: a run records them as arrays.
    """

    name: str
    train: Part
    valid: Part
    test: Part
    likelihood: str
    image_shape: tuple[int, ...] | None = None
    condition_image_shape: tuple[int, ...] | None = None
    num_labels: int | None = None
    label_names: tuple[str, ...] | None = None
    condition_of: str | None = None
    attribute_names: tuple[str, ...] | None = None
    factor_sizes: tuple[int, ...] | None = None
    binarise: bool = False
    augment: Augment | None = None
    source: str = ""
    true_log_likelihood: float | None = None
    recipe: dict[str, Any] | None = None
    as_loaded: bool = field(default=False, init=False, repr=False)
    """Whether :func:`load` gives the same again by the recipe; ``dataclasses.replace`` takes this back."""

    def described(self, digest: bool = False) -> dict[str, Any]:
        """Return what a run records of its data: the recipe, and the digest of data that the recipe does not give.

        The digest is one SHA-256 for each part. It covers the dtype, shape and values of x, condition, label and
        attributes, and whether x is binarized or augmented in every batch. The arrays are read once, 16 MiB at a time:
        a gigabyte takes one to three seconds.

        :param digest: include the digest in any case
        :returns: ``name``, ``config`` (None of arrays), ``sha256`` of a file, and the digests by part as ``arrays``
        """
        found = dict(self.recipe or {"name": self.name, "config": None})
        if digest or not self.as_loaded:
            found["arrays"] = {
                name: _digest(part, f"binarize={self.binarise} augment={self.augment}" if name == "train" else "")
                for name, part in self.parts.items()
            }
        return found

    @property
    def x_shape(self) -> tuple[int, ...]:
        """Shape of one datum."""
        return tuple(self.train.x.shape[1:])

    @property
    def condition_shape(self) -> tuple[int, ...] | None:
        """Shape of one condition, None for data without."""
        return None if self.train.condition is None else tuple(self.train.condition.shape[1:])

    @property
    def condition_names(self) -> tuple[str, ...] | None:
        """Names of the values of a condition that is a label or attributes; None for another, or none."""
        if self.condition_of == "attributes":
            return self.attribute_names
        if self.condition_of == "label" and self.num_labels is not None:
            return self.label_names or tuple(map(str, range(self.num_labels)))
        return None

    @property
    def parts(self) -> dict[str, Part]:
        """The three parts by name."""
        return {"train": self.train, "valid": self.valid, "test": self.test}


BYTES_AT_ONCE = 2**24
"""Of an array while its digest is taken."""


def _digest(part: Part, use: str) -> str:
    found = hashlib.sha256(use.encode())
    for kind in ("x", "condition", "label", "attributes"):
        values = getattr(part, kind)
        if values is None:
            continue
        tensor = values.levels if isinstance(values, Levels) else values
        found.update(f"{kind} {type(values).__name__} {tensor.dtype} {tuple(tensor.shape)}".encode())
        bytes_of_row = tensor[:1].numel() * tensor.element_size()
        for rows in tensor.split(max(1, BYTES_AT_ONCE // max(1, bytes_of_row))):
            found.update(rows.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def _numbers(argument: str, values: ArrayLike | Tensor) -> Tensor:
    """``values`` as a new tensor of its own memory, or a ValueError when they are no real numbers."""
    if isinstance(values, Tensor):
        if values.is_complex():
            raise ValueError(f"{argument} must hold real numbers, got {values.dtype}: give real and imaginary parts")
        return values.detach().cpu().clone()
    try:
        array = np.asarray(values)
    except ValueError:  # nested lists of unequal lengths
        raise ValueError(f"{argument} must be a rectangular array: its rows differ in shape") from None
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{argument} must hold real numbers, got dtype {array.dtype}: convert with .astype('float32')")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)  # torch has few operations on wider unsigned integers
    # a copy in the machine's byte order, so that later changes to the caller's array do not reach the data
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


def check_values(argument: str, values: ArrayLike | Tensor) -> Tensor:
    """``values`` as a float32 tensor of shape ``(N,) + shape``.

    :param argument: name to call it by in errors, such as ``"x_train"``
    :raises ValueError: if the values are no real numbers, not at least two-dimensional, empty, NaN or
        infinite
    """
    numbers = _numbers(argument, values)
    if numbers.dtype is torch.uint8 and numbers.numel() and numbers.max() > 1:
        raise ValueError(
            f"{argument} is uint8 with values up to {numbers.max()}: divide grey levels by 255 for values in [0, 1], "
            "or give other numbers as float32"
        )
    x = numbers.to(torch.float32)
    if x.ndim < 2:
        raise ValueError(
            f"{argument} must have shape (N, ...), one row per example, got {tuple(x.shape)}: "
            f"for one number per example use {argument}[:, None]"
        )
    if x.numel() == 0:
        raise ValueError(f"{argument} is empty, shape {tuple(x.shape)}: give at least one example of one value")
    finite = torch.isfinite(x)
    if not finite.all():
        bad = (~finite).nonzero()
        raise ValueError(
            f"{argument} holds {len(bad)} NaN or infinite float32 values, the first at index "
            f"{tuple(bad[0].tolist())}: remove these examples or fill them in"
        )
    return x


def check_labels(argument: str, labels: ArrayLike | Tensor, num_examples: int) -> Tensor:
    """``labels`` as an int64 tensor of shape ``(num_examples,)``.

    :raises ValueError: if the labels are not integers, negative or not one per example
    """
    label = _numbers(argument, labels)
    if label.is_floating_point() or label.dtype == torch.bool:
        raise ValueError(f"{argument} must hold integers, got {label.dtype}: convert with .astype('int64')")
    if label.shape != (num_examples,):
        raise ValueError(
            f"{argument} must have shape ({num_examples},), one class per example, got {tuple(label.shape)}: "
            "for one-hot rows use .argmax(1)"
        )
    if label.min() < 0:
        raise ValueError(
            f"{argument} must be 0, 1, 2, ..., got {int(label.min())} at index {int(label.argmin())}: "
            "number the classes from 0"
        )
    return label.to(torch.int64)


def check_attributes(argument: str, attributes: ArrayLike | Tensor) -> Tensor:
    """``attributes`` as a float32 tensor of shape ``(N, num_attributes)``.

    :raises ValueError: if they are not 0 or 1, or of another shape
    """
    found = check_values(argument, attributes)
    if found.ndim != 2 or not ((found == 0) | (found == 1)).all():
        raise ValueError(
            f"{argument} must be 0 or 1, shape (N, num_attributes), got {found.min():g} to {found.max():g}, shape "
            f"{tuple(found.shape)}: of -1 and 1 give attributes > 0, and other values as a condition"
        )
    return found


def check_unit_interval(argument: str, x: Tensor) -> None:
    """Refuse values outside [0, 1], where grey levels and probabilities live.

    :raises ValueError: with the smallest and largest value
    """
    low, high = (value.item() for value in torch.aminmax(x))
    if low < 0 or high > 1:
        remedy = "divide by 255" if low >= 0 and 1 < high <= 255 and math.floor(high) == high else "rescale"
        raise ValueError(f"{argument} must lie in [0, 1], got values from {low:g} to {high:g}: {remedy} first")
