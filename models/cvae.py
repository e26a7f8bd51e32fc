"""The conditional variational autoencoder, generative half."""

from typing import ClassVar

import pyro
import torch.nn as nn
from torch import Tensor

from pyro_priors._options import typed
from pyro_priors.registration import data_plate, register

__all__ = ["CVAE"]


class CVAE(nn.Module):
    r"""Conditional variational autoencoder (Sohn et al. 2015; Klushyn et al. 2019, equations 2 and 3).

    .. math::
        z &\sim p(z \mid \mathrm{condition}) \quad\text{or}\quad p(z) \\
        x &\sim p(x \mid z, \mathrm{condition}) \quad\text{or}\quad p(x \mid z)

    The decoder of the original conditional VAE sees the condition (equation 2). Where it does not (equation 3), z has
    to carry all that the condition says of x. Where the prior does not (De 2025, figure 1, middle), z carries what the
    condition does not say.

    ============= ===================== =====================================
    site          shape                 what
    ============= ===================== =====================================
    ``z``         ``(z_dim,)``          latent code
    ``x``         ``x_shape``           datum (the papers' y)
    ============= ===================== =====================================

    ``condition``, shape ``condition_shape``, is what Sohn et al. and Klushyn et al. call x, and De calls y.

    :param prior: module from the condition, where it sees it, to the prior of z, event shape ``(z_dim,)``
    :param decoder: module from z, and where it sees it keyword condition, to p(x|...), event shape ``x_shape``
    :param condition_decoder: equation 2; False: equation 3
    :param condition_prior: p(z|condition); False: p(z), of a prior that takes no input

    References: Kihyuk Sohn, Honglak Lee and Xinchen Yan, Learning structured output representation using deep
    conditional generative models, NIPS 2015. Alexej Klushyn, Nutan Chen, Botond Cseke, Justin Bayer and Patrick van
    der Smagt, Increasing the generalisation capacity of conditional VAEs, ICANN 2019. Tuhin Subhra De, Improving
    conditional VAE with approximation using normalizing flows, 2025, arXiv:2511.08946.
    """

    networks: ClassVar = {"z": "prior", "x": "decoder"}

    @typed
    def __init__(
        self,
        prior: nn.Module,
        decoder: nn.Module,
        condition_decoder: bool = True,
        condition_prior: bool = True,
    ) -> None:
        super().__init__()
        self.prior = prior
        self.decoder = decoder
        self.condition_decoder = condition_decoder
        self.condition_prior = condition_prior

    def forward(self, x: Tensor | None = None, condition: Tensor | None = None, size: int | None = None) -> Tensor:
        """
        :param x: observed data, shape ``(batch,) + x_shape``, or None to sample them
        :param condition: shape ``(batch,) + condition_shape``
        :param size: not used by this model: the condition has the batch size
        :returns: x, observed or sampled
        """
        register("cvae.model", self)
        with data_plate(x, condition, size, needs=["condition"], program=self):
            z = pyro.sample("z", self.prior(condition) if self.condition_prior else self.prior())
            decoded = self.decoder(z, condition=condition) if self.condition_decoder else self.decoder(z)
            return pyro.sample("x", decoded, obs=x)
