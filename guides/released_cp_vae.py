"""CP-VAE as its published code has it, inference half."""

import math
from typing import ClassVar

import pyro
import pyro.distributions as dist
import torch.nn as nn
from torch import Tensor

from pyro_priors.nn import RelaxedCategorical, Temperature
from pyro_priors.priors import ReleasedCategoryPrior
from pyro_priors.registration import check_features, data_plate, register

__all__ = ["ReleasedCPVAEGuide"]


class ReleasedCPVAEGuide(nn.Module):
    r"""The loss that the published code of Lavda et al. (2019) minimises, written down as a guide.

    .. math:: -\log p(x \mid z, \tilde c') + \beta \Big[ \sum_k \pi_k\, \mathrm{KL}(q(z \mid x, \tilde c) \,\|\,
        p(z \mid k)) + \log K + \sum_k \pi_k \log \pi_k \Big], \qquad z \sim q(z \mid x, \tilde c)

    with two independent relaxed draws :math:`\tilde c, \tilde c'` of the category, soft in evaluation too. It is no
    bound: the decoder sees a continuous vector of K weights, of which only the KL of a category is charged; and one
    posterior, at the relaxed draw, stands for those of all categories. In evaluation mode the guide is
    :class:`~pyro_priors.guides.CPVAEGuide` with the same networks. Several particles would be copies of one draw: leave
    ``num_particles`` at 1.

    :param trunk: module from x, shape ``(batch,) + x_shape``, to features
    :param category: module from features to q(c|x)
    :param latent: module from features and c to q(z|x,c), event shape ``(z_dim,)``
    :param prior: the model's prior, whose KL is part of the loss
    :param temperature: of the relaxed draws

    What differs from the code: its optimizer normalises the gradient of each tensor, ours is Adam; it adds 1e-12 within
    the logarithm; its beta rises once an epoch, ours in every step; it picks weights by this loss on the validation
    data, ``fit`` by the honest bound.

    Reference: commit 0ceb836 (30 November 2019) of the authors' cp-vae, models/cp_vae_z_xc.py.
    """

    networks: ClassVar = {"c": "category", "z": "latent"}

    def __init__(
        self,
        trunk: nn.Module,
        category: nn.Module,
        latent: nn.Module,
        prior: ReleasedCategoryPrior,
        temperature: Temperature,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.category = category
        self.latent = latent
        self.prior = prior
        self.temperature = temperature

    def forward(self, x: Tensor | None = None, condition: Tensor | None = None, size: int | None = None) -> None:
        """
        :param x: observed data, shape ``(batch,) + x_shape``
        :param condition: not used by this guide
        :param size: not used by this guide
        """
        register("released_cp_vae.guide", self)
        with data_plate(x, condition, size, needs=["x"], program=self):
            features = check_features(self.trunk(x), self, x)
            q_c = self.category(features)
            if not self.training:
                c = pyro.sample("c", q_c, infer={"enumerate": "parallel"})
                pyro.sample("z", self.latent(features, c=c))
                return
            relaxed = RelaxedCategorical(self.temperature(), logits=q_c.logits)
            q_z = self.latent(features, c=relaxed.rsample())
            kl_c = math.log(q_c.probs.shape[-1]) + (q_c.probs * q_c.logits).sum(-1)
            kl_z = (q_c.probs * self.prior.kl(q_z)).sum(-1)
            pyro.sample("c", dist.Delta(relaxed.rsample(), kl_c, event_dim=1))
            pyro.sample("z", dist.Delta(q_z.rsample(), kl_z, event_dim=1))
