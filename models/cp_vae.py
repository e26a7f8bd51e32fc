"""CP-VAE, the variational autoencoder with a categorical conditional prior, generative half."""

from typing import ClassVar

import pyro
import torch
import torch.nn as nn
from torch import Tensor

from pyro_priors._options import typed
from pyro_priors.nn import Temperature, category_of, restricted
from pyro_priors.registration import data_plate, register

__all__ = ["CPVAE"]


class CPVAE(nn.Module):
    r"""CP-VAE (Lavda et al. 2019, equations 3 to 5), also semi-supervised (Kingma et al. 2014).

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

    The condition is the label y of each example, -1 where it is unknown. A known label is the observed category: the
    density of c is then p(c) [c = y], whose draws are y. In nats per example, the bound of a labeled example is that
    of log p(x, y), and the bound of another one that of log p(x) (equations 6 and 7 of
    Kingma et al., who write the negative bounds):

    .. math::
        \mathcal{L}(x, y) &= E_{q(z \mid x, y)}\big[\log p(x \mid z, y) + \log p(z \mid y) + \log p(y)
            - \log q(z \mid x, y)\big] \\
        \mathcal{U}(x) &= \sum_c q(c \mid x) \big[\mathcal{L}(x, c) - \log q(c \mid x)\big]

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
    :class:`~pyro_priors.priors.GaussianPrior`). From Kingma et al.: p(z|c) is a prior for each category where theirs,
    model M2, is N(0, I) for all (``prior="standard"``); labeled and other examples share a batch; and the term
    :math:`-\log p(y)` is part of the KL of c, so that a KL weight scales it.

    References: Frantzeska Lavda, Magda Gregorova and Alexandros Kalousis, Improving VAE generations of multimodal data
    through data-dependent conditional priors, 2019, arXiv:1911.10885. Diederik P. Kingma, Danilo J. Rezende, Shakir
    Mohamed and Max Welling, Semi-supervised learning with deep generative models, NIPS 2014, arXiv:1406.5298.
    """

    networks: ClassVar = {"z": "prior", "x": "decoder"}
    takes_labels: ClassVar = True
    """Whether the condition is integer labels, -1 where unknown, and may be left out."""
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
        :param condition: integer labels from 0 to K-1, -1 where unknown, shape ``(batch,)`` or ``(batch, 1)``; None
            where all are unknown
        :param size: number of data to sample
        :returns: x, observed or sampled
        :raises ValueError: if the condition is not such labels
        """
        register("cp_vae.model", self)
        with data_plate(x, condition, size, program=self):
            p_c = category_of(self.category_logits, self.temperature, self.training)
            c = pyro.sample("c", restricted(p_c, condition))
            z = pyro.sample("z", self.prior(context=c))
            return pyro.sample("x", self.decoder(z, c=c), obs=x)
