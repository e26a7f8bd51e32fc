"""The conditional variational autoencoder, inference half."""

from typing import ClassVar

import pyro
import torch.nn as nn
from torch import Tensor

from pyro_priors.registration import data_plate, register

__all__ = ["CVAEGuide"]


class CVAEGuide(nn.Module):
    r"""Amortised posterior :math:`z \sim q(z \mid x, \mathrm{condition})`.

    :param encoder: module from x, shape ``(batch,) + x_shape``, and the condition, shape
        ``(batch,) + condition_shape``, to q(z|x,condition), event shape ``(z_dim,)``

    Reference: Kihyuk Sohn, Honglak Lee and Xinchen Yan, Learning structured output representation using deep
    conditional generative models, NIPS 2015.
    """

    networks: ClassVar = {"z": "encoder"}

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor | None = None, condition: Tensor | None = None, size: int | None = None) -> None:
        """
        :param x: observed data, shape ``(batch,) + x_shape``
        :param condition: shape ``(batch,) + condition_shape``
        :param size: not used by this guide
        """
        register("cvae.guide", self)
        with data_plate(x, condition, size, needs=["x", "condition"], program=self):
            pyro.sample("z", self.encoder(x, condition))
