"""Agreement of a category with labels that training never saw."""

import torch
from torch import Tensor

from .._options import Size, typed
from .checks import check_categories

__all__ = ["hungarian_accuracy", "majority_accuracy"]


def label_counts(
    category: Tensor, label: Tensor, num_categories: int, num_labels: int, name: str = "category"
) -> Tensor:
    """Return the number of examples by category and label, shape ``(num_categories, num_labels)``.

    :raises ValueError: if the two are not integers of these ranges, one for each example
    """
    category = check_categories(name, category, below=num_categories)
    index = category * num_labels + check_categories("label", label, len(category), num_labels)
    return torch.bincount(index, minlength=num_categories * num_labels).reshape(num_categories, num_labels)


@typed
def hungarian_accuracy(category: Tensor, label: Tensor, num_categories: Size, num_labels: Size) -> float:
    """Share of data whose category is matched with their label, under the one-to-one matching that is best for it.

    With more categories than labels the rest stay unmatched and their data count as wrong. The matching is found on
    the very data it is scored on, as is usual; it has K choices and no more.

    :param category: integers below ``num_categories``, shape ``(num_data,)``
    :param label: integers below ``num_labels``, shape ``(num_data,)``
    :raises ValueError: if the two are not that, or empty
    """
    present, label = check_categories("label", label, below=num_labels).unique(return_inverse=True)
    counts = label_counts(category, label, num_categories, len(present))  # labels may be large numbers
    return sum(int(counts[c, label]) for c, label in matching(counts).items()) / len(label)


def matching(counts: Tensor) -> dict[int, int]:
    """Label of each category in the one-to-one matching that covers most data; a category left over has none.

    :param counts: number of data by category and label
    """
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(counts.numpy(), maximize=True)
    return dict(zip(rows.tolist(), columns.tolist(), strict=True))


@typed
def majority_accuracy(
    category: Tensor, label: Tensor, fit_category: Tensor, fit_label: Tensor, num_categories: Size, num_labels: Size
) -> float:
    """Share of data whose category's majority label, voted on other data, is their label.

    A category without data in the vote stands for no label: its data count as wrong.

    :param category: integers below ``num_categories``, shape ``(num_data,)``
    :param label: integers below ``num_labels``, shape ``(num_data,)``
    :param fit_category: categories of the data that vote, usually the training data
    :param fit_label: their labels
    :raises ValueError: if these are not integers of these ranges, one for each example, or empty
    """
    category = check_categories("category", category, below=num_categories)
    label = check_categories("label", label, len(category), num_labels)
    present, voted = check_categories("fit_label", fit_label, below=num_labels).unique(return_inverse=True)
    counts = label_counts(fit_category, voted, num_categories, len(present), "fit_category")
    winner = torch.where(counts.sum(1) > 0, present[counts.argmax(1)], -1)
    return (winner[category] == label).double().mean().item()
