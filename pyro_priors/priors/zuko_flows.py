"""Flows of the package zuko as priors."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor
from torch.distributions import Transform

from .._options import typed
from .._precision import at_least_float32, in_precision_of
from ..errors import UserError
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
    :param num_features: number of features of a context that it sees, 0 for none
    :raises ValueError: if the package is not installed, or has no such flow that can be sampled everywhere

    Importing zuko turns the validation of all of torch's distributions off; here it is left as it was.
    """

    goes_to_base = True

    @typed
    def __init__(
        self, flow: str, z_dim: int, num_transforms: int, hidden: Sequence[int], num_features: int = 0
    ) -> None:
        super().__init__()
        name = flow.removeprefix(PREFIX)
        if name in CUT_OFF:
            raise UserError(
                f"flow '{flow}' cannot be sampled beyond -10 and 10, where zuko's bisection ends: choose one of "
                f"{', '.join(PREFIX + one for one in FLOWS)}"
            )
        if name not in FLOWS:
            near = get_close_matches(name, FLOWS, n=1)
            hint = f"did you mean '{PREFIX}{near[0]}'?" if near else f"choose one of {', '.join(FLOWS)}"
            raise UserError(f"flow '{flow}' is unknown: {hint}")
        options: dict[str, Any] = {"transforms": num_transforms, "hidden_features": tuple(hidden)}
        self.flow = getattr(_flows(), name)(z_dim, num_features, **options)
        for path, module in self.flow.named_modules():
            if path.endswith(".hyper"):  # the networks, between which zuko computes transforms
                module.register_forward_pre_hook(_to_network)
                module.register_forward_hook(_from_network)

    def transform(self, features: Tensor | None = None) -> Transform:
        return self.flow.transform(features)


def _to_network(network: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    return (in_precision_of(network, args[0]),)


def _from_network(network: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
    return at_least_float32(output)


def _flows() -> Any:
    """``zuko.flows``, imported without its change of a global setting."""
    distribution: Any = torch.distributions.Distribution
    validates = distribution._validate_args
    try:
        import zuko
    except ImportError:
        raise UserError("flow 'zuko.NAME' needs the package zuko: pip install pyro-priors[flows]") from None
    finally:
        distribution.set_default_validate_args(validates)
    return zuko.flows
