"""Agreement of a category with labels that training never saw."""

import torch
from torch import Tensor

from .._options import typed

__all__ = ["hungarian_accuracy", "majority_accuracy"]


def label_counts(category: Tensor, label: Tensor, num_categories: int, num_labels: int) -> Tensor:
    """Number of data by category and label, shape ``(num_categories, num_labels)``."""
    index = category.long() * num_labels + label.long()
    return torch.bincount(index, minlength=num_categories * num_labels).reshape(num_categories, num_labels)


def _check_classes(name: str, label: Tensor, num_labels: int) -> None:
    if len(label) and not 0 <= int(label.min()) <= int(label.max()) < num_labels:
        raise ValueError(
            f"{name} must be classes from 0 to {num_labels - 1}, got {int(label.min())} to {int(label.max())}: number "
            "them with names, label = np.unique(label, return_inverse=True)"
        )


@typed
def hungarian_accuracy(category: Tensor, label: Tensor, num_categories: int, num_labels: int) -> float:
    """Share of data whose category is matched with their label, under the one-to-one matching that is best for it.

    With more categories than labels the rest stay unmatched and their data count as wrong. The matching is found on
    the very data it is scored on, as is usual; it has K choices and no more.

    :param category: shape ``(num_data,)``
    :param label: shape ``(num_data,)``
    :raises ValueError: if a label is not from 0 to ``num_labels - 1``
    """
    _check_classes("label", label, num_labels)
    present, label = label.unique(return_inverse=True)  # memory does not grow with num_labels
    counts = label_counts(category, label, num_categories, len(present))
    found = sum(int(counts[c, label]) for c, label in matching(counts).items())
    return found / max(int(counts.sum()), 1)


def matching(counts: Tensor) -> dict[int, int]:
    """Label of each category in the one-to-one matching that covers most data; a category left over has none.

    :param counts: number of data by category and label
    """
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(counts.numpy(), maximize=True)
    return dict(zip(rows.tolist(), columns.tolist(), strict=True))


@typed
def majority_accuracy(
    category: Tensor, label: Tensor, fit_category: Tensor, fit_label: Tensor, num_categories: int, num_labels: int
) -> float:
    """Share of data whose category's majority label, voted on other data, is their label.

    A category without data in the vote stands for no label: its data count as wrong.

    :param category: shape ``(num_data,)``
    :param label: shape ``(num_data,)``
    :param fit_category: categories of the data that vote, usually the training data
    :param fit_label: their labels
    :raises ValueError: if a label is not from 0 to ``num_labels - 1``
    """
    for name, value in (("label", label), ("fit_label", fit_label)):
        _check_classes(name, value, num_labels)
    if not len(fit_label):  # no category stands for a label
        return 0.0
    present, fit_label = fit_label.unique(return_inverse=True)  # memory does not grow with num_labels
    counts = label_counts(fit_category, fit_label, num_categories, len(present))
    winner = torch.where(counts.sum(1) > 0, present.long()[counts.argmax(1)], -1)
    return (winner[category.long()] == label).double().mean().item()
