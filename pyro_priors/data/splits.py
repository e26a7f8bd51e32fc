"""Parts of a data set, and the checks that every value passes once, when data enter the library."""

import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from .._options import checked
from .augment import Augment
from .levels import Levels, rows_of

__all__ = ["Part", "PartName", "Splits", "add_values"]


PartName = Literal["train", "valid", "test"]
"""Names of the parts of a data set."""


# eq=False: comparing tensors elementwise has no truth value; parts are compared by identity
@dataclass(frozen=True, eq=False, repr=False)
class Part:
    """One part of a data set (train, valid or test). All tensors share the first dimension N.

    :param x: the data, float32, shape ``(N,) + x_shape``; for large images :class:`~pyro_priors.data.Levels`, bytes
        that become floats when they are indexed
    :param condition: the condition given which x is generated, float32, shape ``(N,) + condition_shape``; or labels of
        a semi-supervised pair, int64, shape ``(N,)``, -1 where unknown
    :param label: classes 0, ..., ``num_labels - 1``, int64, shape ``(N,)``; used only in reports
    :param attributes: further attributes of each datum, float32, shape ``(N, num_attributes)``; used only in reports
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
        """Return the examples at ``index``, a slice or a tensor of positions."""
        if isinstance(index, Tensor) and index.dtype is not torch.bool:
            index = index.long()  # torch takes uint8 for a mask
        rest = (self.condition, self.label, self.attributes)
        condition, label, attributes = (None if values is None else rows_of(values, index) for values in rest)
        return Part(rows_of(self.x, index), condition, label, attributes)


@checked("Splits", "pyro_priors.data.from_arrays(x_train)")
@dataclass(frozen=True, eq=False)
class Splits:
    """A data set in three parts, with the properties that a model needs.

    :param name: name of the data set
    :param likelihood: the likelihood that fits the values: ``"bernoulli"``, ``"gaussian"``, ``"continuous_bernoulli"``
        or ``"discretised_logistic"``
    :param image_shape: (channels, height, width) of x if it is an image, even if x is flattened
    :param condition_image_shape: the same for the condition
    :param num_labels: number of classes; None if there are no labels
    :param label_names: names of the classes; by default their numbers
    :param condition_of: ``"label"`` or ``"attributes"`` if the condition is one of these (one-hot, or 0 and 1)
    :param attribute_names: names of the attributes, in the order of their columns; None if there are none
    :param factor_sizes: number of values of each attribute, if the attributes are the independent factors of variation
        of the data, counted from 0; None otherwise
    :param binarise: True if ``train.x`` contains gray levels in [0, 1] that are binarized again in every batch (dynamic
        binarization; see :func:`batches`); ``valid`` and ``test`` are already binarized
    :param augment: random augmentation of the images of ``train`` in every batch
    :param source: one line: the form of the data that was found, how it was split, and differences from the paper's
        split
    :param true_log_likelihood: mean log density in nats per datum, if the density is known (toys)
    :param recipe: name and options with which :func:`load` was called, for the record of a run; None for arrays

    ``dataclasses.replace(data, train=...)`` returns other data with the old recipe: a run records these data as arrays.
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
    """Whether :func:`load` returns the same data from the recipe; ``dataclasses.replace`` resets this."""

    def described(self, digest: bool = False) -> dict[str, Any]:
        """Return what a run records of its data: the recipe, and a digest if the recipe does not reproduce the data.

        The digest is one SHA-256 for each part. It covers the dtype, shape and values of x, condition, label and
        attributes, and whether x is binarized or augmented in every batch. The arrays are read once, 16 MiB at a time.
        A gigabyte takes one to three seconds.

        :param digest: always include the digest
        :returns: ``name``, ``config`` (None for arrays), ``sha256`` of a file, and the digests by part as ``arrays``
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
        """Shape of one condition, ``()`` of labels; None if there is no condition."""
        return None if self.train.condition is None else tuple(self.train.condition.shape[1:])

    @property
    def condition_names(self) -> tuple[str, ...] | None:
        """Names of the values of a condition that consists of a label or attributes; None otherwise."""
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
"""Bytes of an array that are read at a time to compute its digest."""


def _digest(part: Part, use: str) -> str:
    found = hashlib.sha256(use.encode())
    for kind in ("x", "condition", "label", "attributes"):
        values = getattr(part, kind)
        if values is None:
            continue
        tensor = values.levels if isinstance(values, Levels) else values
        found.update(f"{kind} {type(values).__name__} {tensor.dtype} {tuple(tensor.shape)}".encode())
        add_values(found, tensor)
    return found.hexdigest()


def add_values(digest: Any, tensor: Tensor) -> None:
    """Update a checksum of :mod:`hashlib` with the values of a tensor, some rows at a time."""
    bytes_of_row = tensor[:1].numel() * tensor.element_size()
    for rows in tensor.split(max(1, BYTES_AT_ONCE // max(1, bytes_of_row))):
        digest.update(rows.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())


MOST_LABELS, LABELS_PER_CLASS = 1000, 10
"""Maximum number of labels, or of labels per label that occurs: larger labels count as identifiers."""
