"""Checks of the arrays that users give: numbers, labels, attributes."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .._arrays import check_dense
from .._options import shown
from ..errors import UserError
from .splits import LABELS_PER_CLASS, MOST_LABELS

__all__ = [
    "AS_NUMBERS",
    "CLASSES",
    "UNKNOWN",
    "check_attributes",
    "check_below",
    "check_known_labels",
    "check_labels",
    "check_num_labels",
    "check_unit_interval",
    "check_values",
    "read_numbers",
]


UNKNOWN = -1
"""Label of an example whose class is not known, in a condition that consists of labels."""


AS_NUMBERS = "convert with .astype('float32')"


CLASSES = "names, label = np.unique(label, return_inverse=True), over all parts together"
"""Expression that converts any labels to class numbers, for messages."""


_REMEDIES = {
    "M": "give numbers, (dates - dates.min()) / np.timedelta64(1, 'D')",
    "m": "give numbers, times / np.timedelta64(1, 's')",
    "c": "give real and imaginary parts",
}
"""Remedies for arrays of other kinds than numbers, by NumPy's kind letter."""


def read_numbers(argument: str, values: ArrayLike | Tensor, text: str = AS_NUMBERS) -> Tensor:
    """Return numbers as a CPU tensor of a type that torch can compute with. The tensor may share their memory.

    :param argument: name of the argument for errors, such as ``"x_train"``
    :param text: remedy for text and Python objects, for errors
    :raises ValueError: if the values are not real numbers, or are sparse, masked or not rectangular
    """
    if isinstance(values, list | tuple) and values and all(isinstance(row, Tensor) for row in values):
        if len({row.shape for row in values}) > 1:
            raise UserError(f"{argument} must be a rectangular array: its rows differ in shape")
        values = torch.stack(list(values))
    check_dense(argument, values)
    if isinstance(values, Tensor):
        return _tensor(argument, values)
    try:
        array = np.asarray(values)
    except ValueError:  # nested lists of unequal lengths
        raise UserError(f"{argument} must be a rectangular array: its rows differ in shape") from None
    except (RuntimeError, TypeError) as error:
        raise UserError(f"{argument} must be an array of numbers, got {shown(values)} ({error})") from None
    kind = array.dtype.kind
    if kind not in "biuf":
        remedy = _REMEDIES.get(kind, text)
        if hasattr(values, "to_numpy"):  # a frame of columns of several types
            remedy = remedy.replace(".astype('float32')", ".to_numpy(dtype='float32')")
        raise UserError(f"{argument} must hold real numbers, got dtype {array.dtype}: {remedy}")
    if kind == "u" and array.dtype.itemsize > 1:  # torch has few operations on wider unsigned integers
        fits = array.dtype.itemsize < 8 or not array.size or array.max() < 2**63
        array = array.astype(np.int64 if fits else np.float64)
    if kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    shares = array.flags.writeable and array.dtype.isnative and all(stride >= 0 for stride in array.strides)
    return torch.from_numpy(array if shares else np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


def _tensor(argument: str, values: Tensor) -> Tensor:
    if values.is_complex():
        raise UserError(f"{argument} must hold real numbers, got {values.dtype}: give real and imaginary parts")
    if values.is_quantized:
        raise UserError(f"{argument} must hold real numbers, got {values.dtype}: give {argument}.dequantize()")
    values = values.detach().cpu()
    if values.dtype in (torch.uint16, torch.uint32, torch.uint64):
        return read_numbers(argument, values.numpy())
    return values.float() if values.is_floating_point() and values.dtype.itemsize == 1 else values


def check_values(argument: str, values: ArrayLike | Tensor) -> Tensor:
    """Return ``values`` as a float32 tensor of shape ``(N,) + shape``, in its own memory.

    :param argument: name of the argument for errors, such as ``"x_train"``
    :raises ValueError: if the values are not real numbers, not at least two-dimensional, empty, NaN or infinite
    """
    numbers = read_numbers(argument, values)
    # a copy, so that later changes to the caller's array do not reach the data
    x = numbers.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    if x.ndim < 2:
        raise UserError(
            f"{argument} must have shape (N, ...), one row per example, got {tuple(x.shape)}: "
            f"for one number per example use {argument}[:, None]"
        )
    if x.numel() == 0:
        raise UserError(f"{argument} is empty, shape {tuple(x.shape)}: give at least one example of one value")
    finite = torch.isfinite(x)
    if not finite.all():
        bad = (~finite).nonzero()
        if torch.isfinite(given := numbers[tuple(bad[0])]):
            raise UserError(
                f"{argument} holds {given.item():.4g} at index {tuple(bad[0].tolist())}, which is beyond the largest "
                "float32, 3.4e38: rescale the values"
            )
        raise UserError(
            f"{argument} holds {len(bad)} NaN or infinite float32 values, the first at index "
            f"{tuple(bad[0].tolist())}: remove these examples or fill them in"
        )
    _check_rounding(argument, numbers, x)
    return x


def _check_rounding(argument: str, numbers: Tensor, x: Tensor) -> None:
    """Refuse columns whose differences float32 cannot represent, such as differences of 1 between numbers of 1e9."""
    if numbers.dtype not in (torch.float64, torch.int64, torch.int32):
        return
    wide, narrow = numbers.flatten(1), x.flatten(1)
    mean = torch.stack([rows.double().sum(0) for rows in wide.split(1000)]).sum(0) / len(wide)
    lost, squares = torch.zeros_like(mean), torch.zeros_like(mean)
    for rows, rounded in zip(wide.split(1000), narrow.split(1000), strict=True):
        lost = torch.maximum(lost, (rounded.double() - rows.double()).abs().amax(0))
        squares += (rows.double() - mean).square().sum(0)
    spread = (squares / len(wide)).sqrt()
    bad = (lost > 0.1 * spread) & (spread > 1e-12 * mean.abs())  # less is float64's own rounding
    if bad.any():
        column = int(bad.int().argmax())
        raise UserError(
            f"{argument} has values around {mean[column].item():.4g} with a spread of {spread[column].item():.3g} "
            f"(column {column}), but float32 has 7 digits: subtract the mean first, {argument} - {argument}.mean(0)"
        )


def check_labels(argument: str, labels: ArrayLike | Tensor, num_examples: int) -> Tensor:
    """Return ``labels`` as an int64 tensor of shape ``(num_examples,)``.

    :raises ValueError: if the labels are not integers, negative or not one per example
    """
    label = read_numbers(argument, labels, f"number the classes, {CLASSES}")
    if label.is_floating_point() or label.dtype == torch.bool:
        too_large = str(getattr(labels, "dtype", "")).endswith("uint64")
        remedy = f"number the classes, {CLASSES}" if too_large else "convert with .astype('int64')"
        raise UserError(f"{argument} must hold integers, got {label.dtype}: {remedy}")
    if label.shape != (num_examples,):
        raise UserError(
            f"{argument} must have shape ({num_examples},), one class per example, got {tuple(label.shape)}: "
            "for one-hot rows use .argmax(1)"
        )
    label = label.to(torch.int64, copy=True)
    if label.min() < 0:
        raise UserError(
            f"{argument} must be 0, 1, 2, ..., got {int(label.min())} at index {int(label.argmin())}: "
            "number the classes from 0"
        )
    return label


def check_known_labels(argument: str, labels: ArrayLike | Tensor) -> Tensor:
    """Return ``labels``, -1 where unknown, as an int64 tensor of shape ``(N,)``.

    :raises ValueError: if a label is below -1
    """
    label = read_numbers(argument, labels).to(torch.int64, copy=True)
    if label.numel() and label.min() < UNKNOWN:
        raise UserError(
            f"{argument} must be labels 0, 1, 2, ..., or {UNKNOWN} where unknown, got {int(label.min())} at index "
            f"{int(label.argmin())}: number the classes, {CLASSES}"
        )
    return label


def check_num_labels(labels: Mapping[str, Tensor]) -> int:
    """Return the number of classes, on which the cost of computations with labels depends.

    :param labels: int64, shape ``(num_examples,)``, by the name of the argument
    :raises ValueError: if the labels are identifiers instead of class numbers: far larger than the number of classes
    """
    largest = {argument: int(label.max()) for argument, label in labels.items()}
    argument = max(largest, key=lambda name: largest[name])
    num_labels, num_different = 1 + largest[argument], len(torch.cat([*labels.values()]).unique())
    if num_labels > max(MOST_LABELS, LABELS_PER_CLASS * num_different):
        raise UserError(
            f"{argument} must be 0, 1, 2, ..., got {num_different} different labels up to {largest[argument]}: number "
            f"the classes, {CLASSES}"
        )
    return num_labels


def check_below(argument: str, label: Tensor, num_labels: int) -> None:
    """Refuse labels that are not 0, 1, ..., ``num_labels - 1``.

    :raises ValueError: with the first wrong label
    """
    if (wrong := label[(label < 0) | (label >= num_labels)]).numel():
        raise UserError(
            f"{argument} must be integers from 0 to {num_labels - 1}, got {int(wrong[0])}: number the classes, "
            f"{CLASSES}"
        )


def check_attributes(argument: str, attributes: ArrayLike | Tensor) -> Tensor:
    """Return ``attributes`` as a float32 tensor of shape ``(N, num_attributes)``.

    :raises ValueError: if the attributes are not 0 or 1, or have another shape
    """
    found = check_values(argument, attributes)
    if found.ndim != 2 or not ((found == 0) | (found == 1)).all():
        raise UserError(
            f"{argument} must be 0 or 1, shape (N, num_attributes), got {found.min():g} to {found.max():g}, shape "
            f"{tuple(found.shape)}: for -1 and 1, give attributes > 0; other values can be a condition"
        )
    return found


def check_unit_interval(argument: str, x: Tensor) -> None:
    """Refuse values outside [0, 1], the range of gray levels and probabilities.

    :raises ValueError: with the smallest and largest value
    """
    low, high = (value.item() for value in torch.aminmax(x))
    if not math.isfinite(low + high):
        raise UserError(f"{argument} holds NaN or infinite values: remove these examples or fill them in")
    if low < 0 or high > 1:
        remedy = "divide by 255" if low >= 0 and 1 < high <= 255 and math.floor(high) == high else "rescale"
        raise UserError(f"{argument} must lie in [0, 1], got values from {low:g} to {high:g}: {remedy} first")
