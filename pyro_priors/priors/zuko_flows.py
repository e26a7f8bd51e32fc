"""Flows of the package zuko as priors."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch.distributions import Transform

from .._options import typed
from .transforms import FlowNetwork

__all__ = ["PREFIX", "ZukoFlow"]

PREFIX = "zuko."

FLOWS = ("BPF", "MAF", "NICE", "NSF", "RealNVP")
CUT_OFF = ("GF", "NAF", "SOSPF", "UNAF")
"""Which zuko inverts by bisection between -10 and 10, where their draws end while their density does not."""


class ZukoFlow(FlowNetwork):
    """A flow of zuko from N(0, I) to z, as one transform of :class:`~pyro_priors.priors.FlowPrior`.

    It begins where zuko lets it begin, which is not near the identity, and costs what it costs there: the samples of
    BPF, MAF and NSF take z_dim passes each, those of BPF bisections besides.

    :param flow: ``"zuko."`` and the name of one of zuko's classes, such as ``"zuko.NSF"``
    :param z_dim: size of z
    :param num_transforms: number of its transforms
    :param hidden: sizes of the hidden layers of its networks
    :raises ValueError: if the package is not installed, or has no such flow that can be sampled everywhere

    Importing zuko turns the validation of all of torch's distributions off; here it is left as it was.
    """

    @typed
    def __init__(self, flow: str, z_dim: int, num_transforms: int, hidden: Sequence[int]) -> None:
        super().__init__()
        name = flow.removeprefix(PREFIX)
        if name in CUT_OFF:
            raise ValueError(
                f"flow '{flow}' cannot be sampled beyond -10 and 10, where zuko's bisection ends: choose one of "
                f"{', '.join(PREFIX + one for one in FLOWS)}"
            )
        if name not in FLOWS:
            near = get_close_matches(name, FLOWS, n=1)
            hint = f"did you mean '{PREFIX}{near[0]}'?" if near else f"choose one of {', '.join(FLOWS)}"
            raise ValueError(f"flow '{flow}' is unknown: {hint}")
        options: dict[str, Any] = {"transforms": num_transforms, "hidden_features": tuple(hidden)}
        self.flow = getattr(_flows(), name)(z_dim, **options)

    def transform(self) -> Transform:
        return self.flow.transform().inv  # zuko's goes from z to the base


def _flows() -> Any:
    """``zuko.flows``, imported without its change of a global setting."""
    distribution: Any = torch.distributions.Distribution
    validates = distribution._validate_args
    try:
        import zuko
    except ImportError:
        raise ValueError("flow 'zuko.NAME' needs the package zuko: pip install pyro-priors[flows]") from None
    finally:
        distribution.set_default_validate_args(validates)
    return zuko.flows
