"""CP-VAE, inference half."""

from typing import Any, ClassVar

import pyro
import torch.nn as nn
from torch import Tensor

from pyro_priors._options import typed
from pyro_priors.nn import classification_loss, restricted
from pyro_priors.registration import add_to_loss, check_features, data_plate, register

__all__ = ["CPVAEGuide"]


class CPVAEGuide(nn.Module):
    r"""Two-level posterior of CP-VAE (Lavda et al. 2019, equation 6), with the category enumerated.

    .. math::
        c &\sim q(c \mid x) \\
        z &\sim q(z \mid x, c)

    Under an ELBO that enumerates, c has shape ``(K, 1)`` and z has a draw of its own for every category, shape
    ``(K, batch, z_dim)``.

    The condition is the label y of each example, -1 where it is unknown. Where it is known, all mass of q(c|x,y) is on
    y, and the other categories have weight 0 in the sum. They are computed all the same: where most examples are
    labeled, ``num_enumerated=1`` gives their exact bound at the cost of two categories.

    With a classification weight :math:`\alpha`, training adds the classification term of Kingma et al. (2014, equation
    9) to the loss, and not to the bound. It is in nats, for each labeled example, and 0 for the others:

    .. math:: \frac{1}{B} \sum_{i=1}^{B} [y_i \text{ known}] \cdot \big(-\alpha \log q(y_i \mid x_i)\big)

    :param trunk: module from x, shape ``(batch,) + x_shape``, to features
    :param category: module from features to q(c|x), or from x where it has a network of its own
    :param latent: module from features and c to q(z|x,c), event shape ``(z_dim,)``
    :param num_enumerated: number of most probable categories that our objectives sum exactly, one drawn from the rest
        standing for these (:class:`~pyro_priors.objectives.ELBO`); None for all. Pyro's own objectives sum all
    :param category_sees_x: the category's network is its own, and reads x
    :param classification_weight: weight :math:`\alpha` of the classification term for each labeled example

    Where ``category`` returns what has no categories to enumerate, such as a relaxed one, c is a draw of it.

    What differs from the paper: it writes q(z|x,c) as a function of the probabilities of q(c|x); its code passes one
    relaxed draw. Here q(z|x,c) is a function of the category itself, as equation 8 needs. The "gated layer for the
    hierarchical conditioning" is, as in the released code, the join of features and category before the affine map to
    location and scale: the category shifts both, it does not multiply the features. Kingma et al. sum over the data and
    weigh the mean of the classification term over the labeled examples by 0.1 N: per labeled example that is
    ``classification_weight=0.1 * num_examples / num_labeled``.

    References: Frantzeska Lavda, Magda Gregorova and Alexandros Kalousis, Improving VAE generations of multimodal data
    through data-dependent conditional priors, 2019, arXiv:1911.10885. Diederik P. Kingma, Danilo J. Rezende, Shakir
    Mohamed and Max Welling, Semi-supervised learning with deep generative models, NIPS 2014, arXiv:1406.5298.
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
        classification_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.category = category
        self.latent = latent
        self.num_enumerated = num_enumerated
        self.category_sees_x = category_sees_x
        self.classification_weight = classification_weight

    def forward(self, x: Tensor | None = None, condition: Tensor | None = None, size: int | None = None) -> None:
        """
        :param x: observed data, shape ``(batch,) + x_shape``
        :param condition: integer labels from 0 to K-1, -1 where unknown, shape ``(batch,)`` or ``(batch, 1)``; None
            where all are unknown
        :param size: not used by this guide
        """
        register("cp_vae.guide", self)
        with data_plate(x, condition, size, needs=["x"], program=self):
            features = check_features(self.trunk(x), self, x)
            q_c = self.category(x if self.category_sees_x else features)
            how: Any = {"enumerate": "parallel", "num_enumerated": self.num_enumerated, "labels": condition is not None}
            q_c_y = restricted(q_c, condition, normalized=True)
            c = pyro.sample("c", q_c_y, infer=how if getattr(q_c, "has_enumerate_support", False) else {})
            pyro.sample("z", self.latent(features, c=c))
            if condition is not None and self.classification_weight and self.training:
                add_to_loss("classification", classification_loss(q_c, condition), self.classification_weight)
