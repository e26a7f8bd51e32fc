"""CP-VAE, inference half."""

from typing import Any, ClassVar

import pyro
import torch.nn as nn
from torch import Tensor

from pyro_priors._options import typed
from pyro_priors.registration import check_features, data_plate, register

__all__ = ["CPVAEGuide"]


class CPVAEGuide(nn.Module):
    r"""Two-level posterior of CP-VAE (Lavda et al. 2019, equation 6), with the category enumerated.

    .. math::
        c &\sim q(c \mid x) \\
        z &\sim q(z \mid x, c)

    Under an ELBO that enumerates, c has shape ``(K, 1)`` and z has a draw of its own for every category, shape
    ``(K, batch, z_dim)``.

    :param trunk: module from x, shape ``(batch,) + x_shape``, to features
    :param category: module from features to q(c|x), or from x where it has a network of its own
    :param latent: module from features and c to q(z|x,c), event shape ``(z_dim,)``
    :param num_enumerated: number of most probable categories that our objectives sum exactly, one drawn from the rest
        standing for these (:class:`~pyro_priors.objectives.ELBO`); None for all. Pyro's own objectives sum all
    :param category_sees_x: the category's network is its own, and reads x

    Where ``category`` returns what has no categories to enumerate, such as a relaxed one, c is a draw of it.

    What differs from the paper: it writes q(z|x,c) as a function of the probabilities of q(c|x); its code passes one
    relaxed draw. Here q(z|x,c) is a function of the category itself, as equation 8 needs. The "gated layer for the
    hierarchical conditioning" is, as in the released code, the join of features and category before the affine map to
    location and scale: the category shifts both, it does not multiply the features.

    Reference: Frantzeska Lavda, Magda Gregorova and Alexandros Kalousis, Improving VAE generations of multimodal data
    through data-dependent conditional priors, 2019, arXiv:1911.10885.
    """

    networks: ClassVar = {"c": "category", "z": "latent"}

    @typed
    def __init__(
        self,
        trunk: nn.Module,
        category: nn.Module,
        latent: nn.Module,
        num_enumerated: int | None = None,
        category_sees_x: bool = False,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.category = category
        self.latent = latent
        self.num_enumerated = num_enumerated
        self.category_sees_x = category_sees_x

    def forward(self, x: Tensor | None = None, condition: Tensor | None = None, size: int | None = None) -> None:
        """
        :param x: observed data, shape ``(batch,) + x_shape``
        :param condition: not used by this guide
        :param size: not used by this guide
        """
        register("cp_vae.guide", self)
        with data_plate(x, condition, size, needs=["x"], program=self):
            features = check_features(self.trunk(x), self, x)
            q_c = self.category(x if self.category_sees_x else features)
            how: Any = {"enumerate": "parallel", "num_enumerated": self.num_enumerated}
            c = pyro.sample("c", q_c, infer=how if getattr(q_c, "has_enumerate_support", False) else {})
            pyro.sample("z", self.latent(features, c=c))
