"""The variational autoencoder, inference half."""

from typing import ClassVar

import pyro
import torch.nn as nn
from torch import Tensor

from pyro_priors.registration import data_plate, register

__all__ = ["VAEGuide"]


class VAEGuide(nn.Module):
    r"""Amortised posterior :math:`z \sim q(z \mid x)`.

    :param encoder: module from x, shape ``(batch,) + x_shape``, to q(z|x), event shape ``(z_dim,)``

    Reference: Diederik P. Kingma and Max Welling, Auto-encoding variational Bayes, ICLR 2014, arXiv:1312.6114.
    """

    networks: ClassVar = {"z": "encoder"}

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor | None = None, condition: Tensor | None = None, size: int | None = None) -> None:
        """
        :param x: observed data, shape ``(batch,) + x_shape``
        :param condition: not used by this guide
        :param size: not used by this guide
        """
        register("vae.guide", self)
        with data_plate(x, condition, size, needs=["x"], program=self):
            pyro.sample("z", self.encoder(x))
