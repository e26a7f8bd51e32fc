"""The variational autoencoder with any prior, generative half."""

from typing import ClassVar

import pyro
import torch.nn as nn
from torch import Tensor

from pyro_priors.registration import data_plate, register

__all__ = ["VAE"]


class VAE(nn.Module):
    r"""Variational autoencoder.

    .. math::
        z &\sim p(z) \\
        x &\sim p(x \mid z)

    ======== =================== ===========================================
    site     shape               what
    ======== =================== ===========================================
    ``z``    ``(z_dim,)``        latent code
    ``x``    ``x_shape``         datum
    ======== =================== ===========================================

    :param prior: module without inputs that returns p(z), event shape ``(z_dim,)``
    :param decoder: module from z to p(x|z), event shape ``x_shape``

    Example::

        >>> model = VAE(StandardPrior(40), Decoder(40, (784,), BernoulliLikelihood(1)))
        >>> model(size=64).shape
        torch.Size([64, 784])

    Reference: Diederik P. Kingma and Max Welling, Auto-encoding variational Bayes, ICLR 2014, arXiv:1312.6114. The
    prior is free here; N(0, I) there.
    """

    networks: ClassVar = {"z": "prior", "x": "decoder"}

    def __init__(self, prior: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.prior = prior
        self.decoder = decoder

    def forward(self, x: Tensor | None = None, condition: Tensor | None = None, size: int | None = None) -> Tensor:
        """
        :param x: observed data, shape ``(batch,) + x_shape``, or None to sample them
        :param condition: not used by this model
        :param size: number of data to sample
        :returns: x, observed or sampled
        """
        register("vae.model", self)
        with data_plate(x, condition, size, program=self):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.decoder(z), obs=x)
