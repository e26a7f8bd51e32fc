"""The conditional variational autoencoder, generative half."""

import pyro
import torch.nn as nn
from torch import Tensor

from pyro_priors.registration import data_plate, register

__all__ = ["CVAE"]


class CVAE(nn.Module):
    r"""Conditional variational autoencoder (Sohn et al. 2015; Klushyn et al. 2019, equation 2).

    .. math::
        z &\sim p(z \mid \mathrm{condition}) \\
        x &\sim p(x \mid z, \mathrm{condition})

    ============= ===================== =====================================
    site          shape                 what
    ============= ===================== =====================================
    ``z``         ``(z_dim,)``          latent code
    ``x``         ``x_shape``           datum (the papers' y)
    ============= ===================== =====================================

    ``condition``, shape ``condition_shape``, is what both papers call x.

    :param prior: module from the condition to p(z|condition), event shape ``(z_dim,)``
    :param decoder: module from z and keyword condition to p(x|z,condition), event shape ``x_shape``

    References: Kihyuk Sohn, Honglak Lee and Xinchen Yan, Learning structured output representation using deep
    conditional generative models, NIPS 2015. Alexej Klushyn, Nutan Chen, Botond Cseke, Justin Bayer and Patrick van
    der Smagt, Increasing the generalisation capacity of conditional VAEs, ICANN 2019.
    """

    def __init__(self, prior: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.prior = prior
        self.decoder = decoder

    def forward(self, x: Tensor | None = None, condition: Tensor | None = None, size: int | None = None) -> Tensor:
        """
        :param x: observed data, shape ``(batch,) + x_shape``, or None to sample them
        :param condition: shape ``(batch,) + condition_shape``
        :param size: not used by this model: the condition has the batch size
        :returns: x, observed or sampled
        """
        register("cvae.model", self)
        with data_plate(x, condition, size, needs=["condition"]):
            z = pyro.sample("z", self.prior(condition))
            return pyro.sample("x", self.decoder(z, condition=condition), obs=x)
