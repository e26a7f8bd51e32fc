"""The options of :func:`load` that change a data set: binarize, cut out a condition, flatten, shorten."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .._limits import check_bytes
from ..errors import UserError
from .augment import Augment
from .checks import UNKNOWN, check_below
from .levels import Levels
from .registry import DataConfig
from .splits import Part, Splits

__all__ = ["arrange"]

FIXED_SEED = 777
"""Seed of everything that is binarized once; it is that of the public recipe, jmtomczak/vae_vampprior."""


def arrange(splits: Splits, config: DataConfig) -> Splits:
    """Apply the options in the order of their dependencies.

    :raises ValueError: if an option does not fit the data set
    """
    if config.limit:
        splits = _limit(splits, config.limit)
    if splits.binarise:
        splits = _binarise(splits, config.binarise)
    elif config.binarise == "fixed":
        raise UserError(f"binarise='fixed' needs a data set of gray images, but {splits.name} is not one: drop it")
    if config.condition_rows:
        splits = _condition_on_rows(splits, config.condition_rows)
    if config.condition_labels:
        splits = _condition_on_labels(splits)
    if config.labels:
        splits = _keep_labels(splits, config.labels, config.seed)
    if config.flip or config.rotate:
        splits = _augment(splits, config)
    return _flatten(splits) if config.flatten else splits


def _map(splits: Splits, change: Callable[[Part], Part]) -> Splits:
    return replace(splits, train=change(splits.train), valid=change(splits.valid), test=change(splits.test))


def _limit(splits: Splits, limit: int) -> Splits:
    if limit >= len(splits.train):
        return splits
    source = f"{splits.source}; only the first {limit} of {len(splits.train)} training examples"
    return replace(splits, train=splits.train.take(slice(limit)), source=source)


def _binarise(splits: Splits, mode: str) -> Splits:
    if mode == "none":
        return replace(splits, likelihood="continuous_bernoulli", binarise=False)
    # numpy's binomial, first valid and then test, gives exactly the bits of the public recipe on MNIST
    draws = np.random.RandomState(FIXED_SEED)  # noqa: NPY002
    valid, test = (
        replace(part, x=torch.from_numpy(draws.binomial(1, part.x.numpy())).to(part.x.dtype))
        for part in (splits.valid, splits.test)
    )
    train = splits.train if mode == "dynamic" else replace(splits.train, x=_binarise_once(splits.train.x))
    return replace(splits, train=train, valid=valid, test=test, likelihood="bernoulli", binarise=mode == "dynamic")


def _binarise_once(x: Tensor) -> Tensor:
    # the recipe has no fixed bits for train, so the faster generator is used
    generator = torch.Generator("cpu").manual_seed(FIXED_SEED)
    return torch.rand(x.shape, generator=generator, dtype=torch.float32, device="cpu").lt_(x)


def _condition_on_rows(splits: Splits, rows: int) -> Splits:
    """Completion (Klushyn et al. 2019): the last rows are the condition, and the other rows are generated.

    With dynamic binarization, the condition of the training part is binarized once, and x in every batch.
    """
    if splits.image_shape is None:
        raise UserError(
            f"condition_rows={rows} needs a data set of images, but {splits.name} has x_shape {splits.x_shape}: drop it"
        )
    _refuse_second_condition(splits, "condition_rows")
    channels, height, width = splits.image_shape
    if rows >= height:
        raise UserError(f"condition_rows must be below the image height {height}, got {rows}: take fewer")

    def cut(part: Part) -> Part:
        # contiguous copies: the uncut images can be freed, and batches are gathered from dense rows
        condition = _each(part.x, lambda x: x[..., -rows:, :].contiguous())
        if splits.binarise and part is splits.train:
            condition = _binarise_once(condition)
        return replace(part, x=_each(part.x, lambda x: x[..., :-rows, :].contiguous()), condition=condition)

    return replace(
        _map(splits, cut),
        image_shape=(channels, height - rows, width),
        condition_image_shape=(channels, rows, width),
        source=f"{splits.source}; the last {rows} rows are the condition",
    )


def _each(x: Any, change: Callable[[Tensor], Tensor]) -> Any:
    return Levels(change(x.levels), x.dtype) if isinstance(x, Levels) else change(x)


def _condition_on_labels(splits: Splits) -> Splits:
    if splits.num_labels is None and splits.attribute_names is not None:
        _refuse_second_condition(splits, "condition_labels")
        given = _map(splits, lambda part: replace(part, condition=part.attributes))
        source = f"{splits.source}; the attributes are the condition"
        return replace(given, source=source, condition_of="attributes")
    if splits.num_labels is None:
        raise UserError(
            f"condition_labels needs labels, but {splits.name} has none: give label_train or attributes_train, or "
            "drop the option"
        )
    _refuse_second_condition(splits, "condition_labels")
    num_labels = splits.num_labels
    for name, part in splits.parts.items():
        assert part.label is not None  # num_labels says so
        check_below(f"label_{name}", part.label, num_labels)
    num_data = sum(map(len, splits.parts.values()))
    check_bytes(f"condition_labels with {num_data} rows of {num_labels} classes", 8 * num_data * num_labels)

    def one_hot(part: Part) -> Part:
        assert part.label is not None  # num_labels says so
        return replace(part, condition=F.one_hot(part.label.long(), num_labels).to(part.x.dtype))

    source = f"{splits.source}; the label is the condition"
    return replace(_map(splits, one_hot), source=source, condition_of="label")


def _keep_labels(splits: Splits, num: int, seed: int) -> Splits:
    """Semi-supervision (Kingma et al. 2014): some labels of the training part are known, drawn with a seed."""
    if splits.num_labels is None:
        raise UserError(f"labels={num} needs labels, but {splits.name} has none: give label_train, or drop the option")
    _refuse_second_condition(splits, "labels")
    if num < splits.num_labels:
        raise UserError(
            f"labels must be at least {splits.num_labels}, one for each class of {splits.name}, got {num}: give more"
        )
    num_labels = splits.num_labels

    def keep(part: Part) -> Part:
        assert part.label is not None  # num_labels says so
        condition = torch.full_like(part.label, UNKNOWN)
        if part is splits.train:
            known = _balanced(part.label, num_labels, seed)[:num]
            condition[known] = part.label[known]
        return replace(part, condition=condition)

    num_known = min(num, len(splits.train))
    source = f"{splits.source}; {num_known} labels of the training part are known, drawn with seed {seed}"
    return replace(_map(splits, keep), source=source)


def _balanced(label: Tensor, num_labels: int, seed: int) -> Tensor:
    """Positions in a random order: one of each class, then a second one of each, and so on."""
    order = torch.randperm(len(label), generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
    order = order[label[order].argsort(stable=True)]  # class by class, at random within each
    each = torch.bincount(label, minlength=num_labels)
    place = torch.arange(len(label), device="cpu") - (each.cumsum(0) - each).repeat_interleave(each)  # in its class
    return order[place.argsort(stable=True)]


def _augment(splits: Splits, config: DataConfig) -> Splits:
    if splits.image_shape is None:
        raise UserError(
            f"flip and rotate need a data set of images, but {splits.name} has x_shape {splits.x_shape}: drop them"
        )
    if splits.condition_image_shape is not None:
        raise UserError(
            "flip and rotate would change x but not the condition, which is the rest of its image: drop them"
        )
    if config.rotate and splits.likelihood == "bernoulli" and not splits.binarise:
        raise UserError(
            "rotate interpolates, so that binary images would not stay 0 and 1: give binarise='dynamic' or 'none'"
        )
    turned = [f"turned by up to {config.rotate:g} degrees"] if config.rotate else []
    what = " and ".join([*(["flipped"] if config.flip else []), *turned])
    augment = Augment(splits.image_shape, config.flip, float(config.rotate))
    return replace(splits, augment=augment, source=f"{splits.source}; training images {what} at random")


def _refuse_second_condition(splits: Splits, option: str) -> None:
    if splits.condition_shape is not None:
        raise UserError(f"{option} would replace the condition that {splits.name} already has: drop the option")


def _flatten(splits: Splits) -> Splits:
    def flat(part: Part) -> Part:
        x, condition = part.x, part.condition
        if splits.image_shape is not None:
            x = x.flatten(1)
        if condition is not None and splits.condition_image_shape is not None:
            condition = condition.flatten(1)
        return replace(part, x=x, condition=condition)

    return _map(splits, flat)
