"""CP-VAE, the variational autoencoder with a categorical conditional prior, generative half."""

from typing import ClassVar

import pyro
import torch
import torch.nn as nn
from torch import Tensor

from pyro_priors._options import typed
from pyro_priors.nn import Temperature, category_of
from pyro_priors.registration import data_plate, register

__all__ = ["CPVAE"]


class CPVAE(nn.Module):
    r"""CP-VAE (Lavda et al. 2019, equations 3 to 5).

    .. math::
        c &\sim \mathrm{Categorical}(1/K, \dots, 1/K) \\
        z &\sim p(z \mid c) = \mathcal{N}(\mathrm{loc}_c, \mathrm{diag}(\mathrm{scale}_c^2)) \\
        x &\sim p(x \mid z, c)

    ======== =================== ===========================================
    site     shape               what
    ======== =================== ===========================================
    ``c``    ``()``              category, 0 to K-1
    ``z``    ``(z_dim,)``        latent code
    ``x``    ``x_shape``         datum
    ======== =================== ===========================================

    :param num_categories: number of categories K
    :param prior: module from keyword context, the category, to p(z|c), event shape ``(z_dim,)``
    :param decoder: module from z and keyword c to p(x|z,c), event shape ``x_shape``
    :param temperature: of the relaxed category that c is in training; None for a category always
    :param learnable_c: learnable weights of p(c), which start at 1/K; False: 1/K each, as the paper's

    With a temperature, c stands in training for the log-weights of all categories, shape ``(K,)``, which are
    :class:`~pyro_priors.nn.RelaxedCategorical` here and in the guide: what is trained is then a bound of this relaxed
    program, whose category is a category again in evaluation mode.

    What differs from the paper: c is summed exactly by the guide's enumeration instead of being relaxed, so that the
    bound is one; and the prior is trained (the released code leaves it where it started: see
    :class:`~pyro_priors.priors.GaussianPrior`).

    Reference: Frantzeska Lavda, Magda Gregorova and Alexandros Kalousis, Improving VAE generations of multimodal data
    through data-dependent conditional priors, 2019, arXiv:1911.10885.
    """

    networks: ClassVar = {"z": "prior", "x": "decoder"}
    category_logits: Tensor

    @typed
    def __init__(
        self,
        num_categories: int,
        prior: nn.Module,
        decoder: nn.Module,
        temperature: Temperature | None = None,
        learnable_c: bool = False,
    ) -> None:
        super().__init__()
        self.prior = prior
        self.decoder = decoder
        self.temperature = temperature
        if learnable_c:
            self.category_logits = nn.Parameter(torch.zeros(num_categories))
        else:
            self.register_buffer("category_logits", torch.zeros(num_categories), persistent=False)

    def forward(self, x: Tensor | None = None, condition: Tensor | None = None, size: int | None = None) -> Tensor:
        """
        :param x: observed data, shape ``(batch,) + x_shape``, or None to sample them
        :param condition: not used by this model
        :param size: number of data to sample
        :returns: x, observed or sampled
        """
        register("cp_vae.model", self)
        with data_plate(x, condition, size, program=self):
            c = pyro.sample("c", category_of(self.category_logits, self.temperature, self.training))
            z = pyro.sample("z", self.prior(context=c))
            return pyro.sample("x", self.decoder(z, c=c), obs=x)
