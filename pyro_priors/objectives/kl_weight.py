"""The effect handler that weighs the KL of the latent sites from outside the programs."""

from collections.abc import Mapping
from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

__all__ = ["KLWeight", "Weight"]

Weight = float | Tensor | Mapping[str, float | Tensor]
"""One weight for all latent sites, or a weight for each site by name; a site that is not named has weight 1."""


class KLWeight(Messenger):
    r"""Effect handler that scales the log-densities of all latent sites, and of them alone.

    Around model and guide it turns the bound into :math:`E_q \log p(x|z) - w\,\mathrm{KL}(q(z|x) \| p(z))`, also when a
    category is enumerated and with a weight per site. Programs stay free of weights, and it works with Pyro's
    Trace_ELBO, TraceMeanField_ELBO and TraceEnum_ELBO::

        >>> weigh = KLWeight(0.1)
        >>> svi = SVI(KLWeight(0.1)(pair.model), KLWeight(0.1)(pair.guide), optimizer, Trace_ELBO())

    It is :func:`pyro.poutine.scale` less the observed sites.

    :param weight: number above 0 (Pyro refuses 0), or scalar tensor, or a mapping from site names to these
    :raises ValueError: if a weight that is a number is not above 0
    """

    def __init__(self, weight: Weight) -> None:
        super().__init__()
        for site, value in weight.items() if isinstance(weight, Mapping) else (("every latent site", weight),):
            if not isinstance(value, Tensor) and not value > 0:
                raise ValueError(f"the KL weight of {site} must be above 0, got {value}: start a warm-up at 1/steps")
        self.weight = weight

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or site_is_subsample(msg):
            return
        weight = self.weight.get(msg["name"], 1.0) if isinstance(self.weight, Mapping) else self.weight
        msg.setdefault("scale_before_weight", msg["scale"])
        msg["scale"] = weight * msg["scale"]
