"""The variational autoencoder with two levels of latent codes, generative half."""

from typing import ClassVar

import pyro
import torch.nn as nn
from torch import Tensor

from pyro_priors.registration import data_plate, register

__all__ = ["HVAE"]


class HVAE(nn.Module):
    r"""Hierarchical variational autoencoder with two levels (Tomczak and Welling 2018).

    .. math::
        z_2 &\sim p(z_2) \\
        z_1 &\sim p(z_1 \mid z_2) \\
        x &\sim p(x \mid z_1, z_2)

    ======== =================== ===========================================
    site     shape               what
    ======== =================== ===========================================
    ``z2``   ``(z_dim,)``        upper latent code
    ``z1``   ``(z1_dim,)``       lower latent code
    ``x``    ``x_shape``         datum
    ======== =================== ===========================================

    :param prior: module without inputs that returns p(z2), event shape ``(z_dim,)``
    :param prior_z1: module from z2 to p(z1|z2), event shape ``(z1_dim,)``
    :param decoder: module from z1 and z2 to p(x|z1,z2), event shape ``x_shape``

    If ``prior_z1`` is Gaussian, both sides of z1 are, given the guide's draw of z2. Its KL is then in closed form; the
    paper's code samples it.

    Reference: Jakub M. Tomczak and Max Welling, VAE with a VampPrior, AISTATS 2018, arXiv:1705.07120. The prior is free
    here; N(0, I) or the VampPrior there.
    """

    networks: ClassVar = {"z2": "prior", "z1": "prior_z1", "x": "decoder"}

    def __init__(self, prior: nn.Module, prior_z1: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.prior = prior
        self.prior_z1 = prior_z1
        self.decoder = decoder

    def forward(self, x: Tensor | None = None, condition: Tensor | None = None, size: int | None = None) -> Tensor:
        """
        :param x: observed data, shape ``(batch,) + x_shape``, or None to sample them
        :param condition: not used by this model
        :param size: number of data to sample
        :returns: x, observed or sampled
        """
        register("hvae.model", self)
        with data_plate(x, condition, size, program=self):
            z2 = pyro.sample("z2", self.prior())
            z1 = pyro.sample("z1", self.prior_z1(z2))
            return pyro.sample("x", self.decoder(z1, z2), obs=x)
