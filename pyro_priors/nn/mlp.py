"""Multilayer perceptrons, plain and gated, whose first layer may also see a condition and a category."""

import math
from collections.abc import Sequence

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .._options import typed
from .._precision import at_least_float32, in_precision_of
from ..errors import UserError
from .relaxed import chosen

__all__ = ["MLP", "BranchedMLP", "JoinedLinear", "positive", "raw_of"]


def positive(raw: Tensor, floor: float = 1e-4) -> Tensor:
    """A positive number from an unconstrained one: ``softplus(raw) + floor``.

    The one helper behind every scale of the library. Softplus grows linearly where ``exp`` overflows; the floor keeps
    densities finite where a scale would shrink to nothing.

    :param raw: unconstrained tensor of any shape
    :param floor: the smallest value returned
    :returns: the shape of ``raw``, in float32 or wider
    """
    return F.softplus(at_least_float32(raw)) + floor


def raw_of(value: float, floor: float = 1e-4) -> float:
    """What :func:`positive` makes ``value`` of, for a parameter's start."""
    return math.log(math.expm1(value - floor))


class JoinedLinear(nn.Module):
    r"""Affine map of an input joined with an optional condition and an optional category.

    .. math:: W x + V\, \mathrm{condition} + U_c + b

    This equals an affine map of the concatenation ``[x, condition, one_hot(c)]``, and is initialised as one (Glorot
    and Bengio 2010, with the fan-in of the concatenation). Written as a sum it needs no one-hot vectors and no
    concatenation, so the three may have any left batch dimensions that broadcast: a category enumerated along a new
    dimension, shape ``(K, 1)``, meets features of shape ``(batch, in_dim)``.

    :param in_dim: size of x
    :param out_dim: size of the output
    :param condition_dim: size of the condition, 0 for none
    :param num_categories: number of categories K, 0 for none
    :param num_blocks: number of equal blocks that the output consists of, each initialised as a map of its own (a gated
        layer has two)
    """

    @typed
    def __init__(
        self, in_dim: int, out_dim: int, condition_dim: int = 0, num_categories: int = 0, num_blocks: int = 1
    ) -> None:
        super().__init__()
        self.input = nn.Linear(in_dim, out_dim)
        self.condition = nn.Linear(condition_dim, out_dim, bias=False) if condition_dim else None
        self.category = nn.Embedding(num_categories, out_dim) if num_categories else None
        fan_in, fan_out = in_dim + condition_dim + num_categories, out_dim // num_blocks
        bound = math.sqrt(6 / (fan_in + fan_out))
        for module in (self.input, self.condition, self.category):
            if module is not None:
                nn.init.uniform_(module.weight, -bound, bound)
        nn.init.zeros_(self.input.bias)

    def forward(self, x: Tensor, condition: Tensor | None = None, c: Tensor | None = None) -> Tensor:
        """
        :param x: shape ``left_shape + (in_dim,)``
        :param condition: shape ``left_shape + (condition_dim,)``; ignored where ``condition_dim`` is 0
        :param c: category numbers, shape ``left_shape``, or log-weights of a relaxed category, shape
            ``left_shape + (K,)``; ignored where ``num_categories`` is 0
        :returns: shape ``left_shape + (out_dim,)`` after broadcasting
        """
        out = self.input(in_precision_of(self, x))
        if self.condition is not None:
            out = out + self.condition(None if condition is None else in_precision_of(self, condition))
        if self.category is not None and c is not None and c.is_floating_point():
            out = out + chosen(self.category.weight, c)
        elif self.category is not None:
            out = out + self.category(c if c is None else c.long())
        return out


class MLP(nn.Module):
    r"""Multilayer perceptron with ReLU, or with the gated layers of Dauphin et al. (2017).

    A gated layer is :math:`(W x + b) \odot \sigma(V x + d)`; condition and category join at the first layer.

    Example::

        >>> MLP(784, (300, 300))(torch.rand(5, 784)).shape
        torch.Size([5, 300])
        >>> decoder = MLP(40, (300, 300), num_categories=10)
        >>> decoder(torch.randn(10, 5, 40), c=torch.arange(10).unsqueeze(-1)).shape  # every category at once
        torch.Size([10, 5, 300])

    :param in_dim: size of the input
    :param hidden: sizes of the layers, at least one; the last is the size of the output
    :param gated: gated layers instead of ReLU
    :param condition_dim: size of the condition, 0 for none
    :param num_categories: number of categories, 0 for none

    Reference: Yann N. Dauphin, Angela Fan, Michael Auli and David Grangier, Language modeling with gated
    convolutional networks, ICML 2017, arXiv:1612.08083.
    """

    @typed
    def __init__(
        self,
        in_dim: int,
        hidden: Sequence[int],
        gated: bool = True,
        condition_dim: int = 0,
        num_categories: int = 0,
    ) -> None:
        super().__init__()
        if not hidden:
            raise UserError(f"hidden must name at least one layer size, got {hidden!r}: give hidden=(300, 300)")
        self.gated = gated
        self.out_dim = hidden[-1]
        blocks = 2 if gated else 1
        self.first = JoinedLinear(in_dim, blocks * hidden[0], condition_dim, num_categories, blocks)
        self.rest = nn.ModuleList(
            JoinedLinear(size, blocks * next_size, num_blocks=blocks)
            for size, next_size in zip(hidden[:-1], hidden[1:], strict=True)
        )

    def _activate(self, out: Tensor) -> Tensor:
        return F.glu(out, dim=-1) if self.gated else F.relu(out)

    def forward(self, x: Tensor, condition: Tensor | None = None, c: Tensor | None = None) -> Tensor:
        """
        :param x: shape ``left_shape + (in_dim,)``
        :param condition: shape ``left_shape + (condition_dim,)``
        :param c: category numbers, shape ``left_shape``
        :returns: shape ``left_shape + (hidden[-1],)``
        """
        h = self._activate(self.first(x, condition, c))
        for layer in self.rest:
            h = self._activate(layer(h))
        return h


class BranchedMLP(nn.Module):
    """Multilayer perceptron of an input and a condition, each of which passes a layer of its own before they join.

    Of the two hidden sizes (300, 300) the first is that of both branches, the second that of the layer that joins them;
    a single size serves for all three.

    :param in_dim: size of the input
    :param condition_dim: size of the condition
    :param hidden: sizes of the layers, at least one; the last is the size of the output
    :param gated: gated layers instead of ReLU

    Reference: the two-level model of Jakub M. Tomczak and Max Welling, VAE with a VampPrior, AISTATS 2018,
    arXiv:1705.07120.
    """

    @typed
    def __init__(self, in_dim: int, condition_dim: int, hidden: Sequence[int], gated: bool = True) -> None:
        super().__init__()
        self.input = MLP(in_dim, hidden[:1], gated)
        self.condition = MLP(condition_dim, hidden[:1], gated)
        self.joined = MLP(hidden[0], hidden[1:] or hidden, gated, condition_dim=hidden[0])

    def forward(self, x: Tensor, condition: Tensor | None = None, c: Tensor | None = None) -> Tensor:
        """
        :param x: shape ``left_shape + (in_dim,)``
        :param condition: shape ``left_shape + (condition_dim,)``
        :param c: not used by this network
        :returns: shape ``left_shape + (hidden[-1],)``, after broadcasting
        """
        return self.joined(self.input(x), self.condition(condition))
