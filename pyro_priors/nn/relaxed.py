"""A category relaxed into weights that have a gradient."""

import math
from typing import TYPE_CHECKING

import pyro.distributions as dist
import torch
import torch.nn as nn
import torch.nn.functional as F
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

from .._options import typed
from .._precision import at_least_float32

if TYPE_CHECKING:
    from torch.types import _size

__all__ = ["RelaxedCategorical", "Temperature", "category_of", "chosen"]


class RelaxedCategorical(ExpRelaxedCategorical, TorchDistributionMixin):
    r"""Concrete or Gumbel-Softmax distribution over weights of K categories, on their logarithms.

    .. math:: \log w_k = \frac{a_k + g_k}{\tau} - \log \sum_j \exp \frac{a_j + g_j}{\tau}, \qquad
        g_k \sim \mathrm{Gumbel}(0, 1)

    with the logits :math:`a` and the temperature :math:`\tau`. Weights near 0 and 1 are common, and their density is
    not finite in floating point; that of their logarithms is, and the KL of two such distributions is the same. The
    largest weight is the k-th with the categorical's probability.

    Both parameters are converted to float32 where they are narrower: uniform draws end at 1 - 1/128 in bfloat16.

    :param temperature: positive scalar
    :param logits: unnormalised, shape ``left_shape + (K,)``

    References: Chris J. Maddison, Andriy Mnih and Yee Whye Teh, The concrete distribution, ICLR 2017, arXiv:1611.00712.
    Eric Jang, Shixiang Gu and Ben Poole, Categorical reparameterization with Gumbel-softmax, ICLR 2017,
    arXiv:1611.01144.
    """

    support = constraints.real_vector

    def __init__(self, temperature: Tensor, logits: Tensor, validate_args: bool | None = None) -> None:
        temperature, logits = at_least_float32(temperature), at_least_float32(logits)
        super().__init__(temperature, logits=logits, validate_args=validate_args)

    def expand(self, batch_shape: "_size", _instance: object = None) -> "RelaxedCategorical":
        new = self._get_checked_instance(RelaxedCategorical, _instance)
        return super().expand(batch_shape, new)


class Temperature(nn.Module):
    r"""Temperature of relaxed categories, which falls from epoch to epoch e.

    .. math:: \tau_e = \max\big(e^{-\mathrm{rate} \cdot e (e + 1) / 2},\; \mathrm{floor}\big)

    This is the schedule of the published code of Lavda et al. (2019), which multiplies by :math:`e^{-\mathrm{rate}
    \cdot e}` once in each epoch: 0.86 at epoch 100, and the floor at epoch 215. ``fit`` calls :meth:`start_epoch`;
    a training loop of one's own must.

    :param rate: how fast it falls
    :param floor: least temperature
    """

    value: Tensor
    relaxes_category = True
    """Whether the programs of training are of a relaxed category, and those of evaluation are not."""

    @typed
    def __init__(self, rate: float = 3e-5, floor: float = 0.5) -> None:
        super().__init__()
        self.rate, self.floor = rate, floor
        self.register_buffer("value", torch.ones(()))

    def start_epoch(self, epoch: int) -> None:
        """Set the temperature of an epoch, counted from 0."""
        self.value.fill_(max(math.exp(-self.rate * epoch * (epoch + 1) / 2), self.floor))

    def forward(self) -> Tensor:
        """:returns: the temperature, a scalar"""
        return self.value


def category_of(logits: Tensor, temperature: Temperature | None, training: bool) -> TorchDistributionMixin:
    """A categorical; in training with a temperature the relaxed one, of whose weights at evaluation one is 1.

    Both are in float32 or wider: in bfloat16 probabilities do not sum to one.
    """
    if temperature is None or not training:
        return dist.Categorical(logits=at_least_float32(logits))
    return RelaxedCategorical(temperature(), logits)


def chosen(table: Tensor, c: Tensor) -> Tensor:
    """Rows of a table for category numbers, or their means for the log-weights of a relaxed category.

    :param table: shape ``(K,) + shape``
    :param c: category numbers of any integer type, shape ``left_shape``, or log-weights, shape ``left_shape + (K,)``
    :returns: shape ``left_shape + shape``
    :raises ValueError: if a number is negative, or K or more: -1, an unknown category, is not the last one
    """
    if not c.is_floating_point():
        try:  # not table[c], which takes -1 as the last row
            rows = F.embedding(c.long(), table.reshape(len(table), -1))
        except IndexError:
            wrong = c[(c < 0) | (c >= len(table))]
            raise ValueError(
                f"category numbers must be from 0 to {len(table) - 1}, got {int(wrong.flatten()[0])}"
            ) from None
        return rows.reshape(*c.shape, *table.shape[1:])
    weights = c.exp().to(table.dtype)
    return weights @ table if table.dim() == 2 else (weights @ table.flatten(1)).unflatten(-1, table.shape[1:])
