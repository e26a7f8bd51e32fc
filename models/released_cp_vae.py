"""CP-VAE as its published code has it, generative half."""

from typing import ClassVar

import pyro
import pyro.distributions as dist
import torch
import torch.nn as nn
from torch import Tensor

from pyro_priors._options import typed
from pyro_priors._precision import at_least_float32
from pyro_priors.priors import ReleasedCategoryPrior
from pyro_priors.registration import data_plate, register

__all__ = ["ReleasedCPVAE"]


class ReleasedCPVAE(nn.Module):
    r"""The program that the published code of Lavda et al. (2019) trains, written down.

    In training it decodes what the guide drew, and the guide brings the KL along (:class:`ReleasedCPVAEGuide
    <pyro_priors.guides.ReleasedCPVAEGuide>`): the loss is theirs, and no bound. In evaluation mode it is
    :class:`~pyro_priors.models.CPVAE` with the same networks, so that what was trained meets an honest bound: p(z|c) is
    then, given x, the one of training (bound, log p(x)), and without x the other one that the code samples from
    (samples, and the metrics that ask for the prior's density).

    :param num_categories: number of categories K
    :param prior: the untrained prior
    :param decoder: module from z and keyword c to p(x|z,c), event shape ``x_shape``

    Reference: commit 0ceb836 (30 November 2019) of the authors' cp-vae, models/cp_vae_z_xc.py.
    """

    networks: ClassVar = {"z": "prior", "x": "decoder"}
    category_logits: Tensor

    @typed
    def __init__(self, num_categories: int, prior: ReleasedCategoryPrior, decoder: nn.Module) -> None:
        super().__init__()
        self.prior = prior
        self.decoder = decoder
        self.register_buffer("category_logits", torch.zeros(num_categories), persistent=False)

    def forward(self, x: Tensor | None = None, condition: Tensor | None = None, size: int | None = None) -> Tensor:
        """
        :param x: observed data, shape ``(batch,) + x_shape``, or None to sample them
        :param condition: not used by this model
        :param size: number of data to sample
        :returns: x, observed or sampled
        """
        register("released_cp_vae.model", self)
        with data_plate(x, condition, size, program=self):
            if self.training and x is not None:
                c = pyro.sample("c", _anything_like(self.category_logits))
                z = pyro.sample("z", _anything_like(self.prior.loc[0]))
            else:
                c = pyro.sample("c", dist.Categorical(logits=at_least_float32(self.category_logits)))
                z = pyro.sample("z", self.prior.generated(c) if x is None else self.prior(context=c))
            return pyro.sample("x", self.decoder(z, c=c), obs=x)


def _anything_like(row: Tensor) -> dist.MaskedDistribution:
    """Density 1 for every row of numbers. It has draws, for what runs the model without its guide."""
    return dist.Normal(torch.zeros_like(row), 1.0).to_event(1).mask(torch.zeros_like(row[0], dtype=torch.bool))
