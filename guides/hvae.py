"""The variational autoencoder with two levels of latent codes, inference half."""

from typing import ClassVar

import pyro
import torch.nn as nn
from torch import Tensor

from pyro_priors.registration import data_plate, register

__all__ = ["HVAEGuide"]


class HVAEGuide(nn.Module):
    r"""Amortised posterior of two levels, the upper one first (Tomczak and Welling 2018).

    .. math::
        z_2 &\sim q(z_2 \mid x) \\
        z_1 &\sim q(z_1 \mid x, z_2)

    :param encoder: module from x, shape ``(batch,) + x_shape``, to q(z2|x), event shape ``(z_dim,)``
    :param encoder_z1: module from x and z2, shape ``left_shape + (batch, z_dim)``, to q(z1|x,z2), event shape
        ``(z1_dim,)``

    Reference: Jakub M. Tomczak and Max Welling, VAE with a VampPrior, AISTATS 2018, arXiv:1705.07120.
    """

    networks: ClassVar = {"z2": "encoder", "z1": "encoder_z1"}

    def __init__(self, encoder: nn.Module, encoder_z1: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.encoder_z1 = encoder_z1

    def forward(self, x: Tensor | None = None, condition: Tensor | None = None, size: int | None = None) -> None:
        """
        :param x: observed data, shape ``(batch,) + x_shape``
        :param condition: not used by this guide
        :param size: not used by this guide
        """
        register("hvae.guide", self)
        with data_plate(x, condition, size, needs=["x"], program=self):
            z2 = pyro.sample("z2", self.encoder(x))
            pyro.sample("z1", self.encoder_z1(x, z2))
