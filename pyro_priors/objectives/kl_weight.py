"""The effect handler that weighs the KL of the latent sites from outside the programs."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from .._options import plain, shown
from ..errors import UserError
from ..sites import check_latent

__all__ = ["KLWeight", "KLWeightOfPair", "Weight"]

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
    :raises ValueError: if a weight that is not a tensor is not a finite number above 0; in use, if the program has no
        latent site of a name in the mapping
    """

    strict: ClassVar = True
    """Refuse names that are not latent sites of the program."""

    def __init__(self, weight: Weight) -> None:
        super().__init__()
        for site, value in weight.items() if isinstance(weight, Mapping) else (("every latent site", weight),):
            number = value if isinstance(value, Tensor) else plain(value)
            if isinstance(number, Tensor):
                continue
            if type(number) not in (int, float):
                raise UserError(f"the KL weight of {site} must be a number above 0, got {shown(value)}")
            if not number > 0:
                raise UserError(f"the KL weight of {site} must be above 0, got {value}: start a warm-up at 1/steps")
            if math.isinf(number):
                raise UserError(f"the KL weight of {site} must be finite, got {value}: 1 is the plain bound")
        self.weight = weight if isinstance(weight, Mapping | Tensor) else plain(weight)
        self._latent: list[str] = []

    def __enter__(self) -> Any:
        self._latent = []
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        if self.strict and isinstance(self.weight, Mapping) and error[0] is None:
            check_latent("kl_weight", self.weight, self._latent)

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or site_is_subsample(msg):
            return
        weight: Any = self.weight
        if isinstance(weight, Mapping):
            self._latent.append(msg["name"])
            weight = weight.get(msg["name"], 1.0)
            weight = weight if isinstance(weight, Tensor) else plain(weight)
        msg.setdefault("scale_before_weight", msg["scale"])
        msg["scale"] = weight * msg["scale"]


class KLWeightOfPair(KLWeight):
    """The same for model and guide with one mapping: a site may be in one of the two only, and the caller checks."""

    strict = False
