"""Networks from a condition to features."""

from collections.abc import Callable, Sequence
from math import prod

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .._options import typed
from ..errors import UserError, hint
from .mlp import MLP

__all__ = ["CONDITION_NETWORKS", "AttributeConv", "ConditionMLP", "make_condition_network"]


class ConditionMLP(nn.Module):
    """Perceptron of the flattened condition.

    :param condition_shape: shape of one condition
    :param hidden: sizes of the layers
    :param gated: gated layers instead of ReLU
    """

    @typed
    def __init__(self, condition_shape: Sequence[int], hidden: Sequence[int] = (300, 300), gated: bool = True) -> None:
        super().__init__()
        self.num_dims, self.out_dim = len(condition_shape), hidden[-1]
        self.mlp = MLP(prod(condition_shape), hidden, gated)

    def forward(self, condition: Tensor) -> Tensor:
        """
        :param condition: shape ``left_shape + condition_shape``
        :returns: shape ``left_shape + (out_dim,)``
        """
        return self.mlp(condition.flatten(-self.num_dims))


class AttributeConv(nn.Module):
    """Two one-dimensional convolutions along the attributes, ReLU after each: "Encoder p" of De (2025, section 3.1).

    Kernels of 3, steps of 2, and ``channels`` are ours: the paper names none of them. Such a network sees an order in
    the attributes, which is that of their names in CelebA's file and means nothing; :class:`ConditionMLP` sees none.

    :param condition_shape: shape of one condition; flattened inside
    :param channels: numbers of channels of the two layers

    Reference: Tuhin Subhra De, Improving conditional VAE with approximation using normalizing flows, 2025,
    arXiv:2511.08946.
    """

    @typed
    def __init__(self, condition_shape: Sequence[int], channels: Sequence[int] = (16, 32)) -> None:
        super().__init__()
        self.num_dims = len(condition_shape)
        first, second = channels
        self.first = nn.Conv1d(1, first, 3, stride=2, padding=1)
        self.second = nn.Conv1d(first, second, 3, stride=2, padding=1)
        self.out_dim = second * -(-prod(condition_shape) // 4)

    def forward(self, condition: Tensor) -> Tensor:
        """
        :param condition: shape ``left_shape + condition_shape``
        :returns: shape ``left_shape + (out_dim,)``
        """
        flat = condition.flatten(-self.num_dims)
        h = F.relu(self.second(F.relu(self.first(flat.reshape(-1, 1, flat.shape[-1])))))
        return h.flatten(1).unflatten(0, flat.shape[:-1]) if flat.dim() > 1 else h.flatten()


HIDDEN = (300, 300)

CONDITION_NETWORKS: dict[str, Callable[[Sequence[int], Sequence[int], bool], nn.Module]] = {
    "conv": lambda condition_shape, hidden, gated: AttributeConv(condition_shape),
    "mlp": ConditionMLP,
}
"""Networks from a condition to ``out_dim`` features, by name."""


@typed
def make_condition_network(
    name: str, condition_shape: Sequence[int], hidden: Sequence[int] = HIDDEN, gated: bool = True
) -> nn.Module:
    """The network of that name.

    :param name: one of ``CONDITION_NETWORKS``
    :param condition_shape: shape of one condition
    :param hidden: sizes of the layers of ``mlp``; ``conv`` has none of them
    :param gated: gated layers of ``mlp`` instead of ReLU
    :raises ValueError: if the name is unknown, or ``hidden`` is given for ``conv``
    """
    if name not in CONDITION_NETWORKS:
        raise UserError(f"condition_network '{name}' is unknown: {hint(name, CONDITION_NETWORKS)}")
    if name == "conv" and tuple(hidden) != HIDDEN:
        raise UserError(f"hidden={tuple(hidden)} belongs to condition_network='mlp', got 'conv': leave it out")
    return CONDITION_NETWORKS[name](condition_shape, hidden, gated)
