"""A normalising flow as the prior."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, cast

import pyro.distributions as dist
import torch
import torch.nn as nn
from torch import Size, Tensor
from torch.distributions import Transform

from .._hints import check_sizes, hint
from .._options import typed
from .._precision import at_least_float32
from .standard import StandardPrior
from .transforms import FLOWS, ActNorm, FlowNetwork, Permutation, Reverse
from .zuko_flows import PREFIX, ZukoFlow

if TYPE_CHECKING:
    from torch.types import _size

__all__ = ["FlowDistribution", "FlowPrior"]

PERMUTATIONS = ("random", "reverse")


class FlowPrior(nn.Module):
    r"""N(0, I) pushed through trained bijections: the decoupled prior of dpVAE (Bhalodia et al. 2019).

    .. math::
        z_0 &\sim \mathcal{N}(0, I) \\
        z &= f_n(\cdots f_1(z_0)) \\
        \log p(z) &= \log \mathcal{N}(g(z) \mid 0, I) + \log \left| \det \frac{\partial g}{\partial z} \right|,
            \qquad g = f_1^{-1} \circ \cdots \circ f_n^{-1}

    In words: a code has the density of the Gaussian point it comes from, times the volume that the way back spreads it
    over. :math:`z_0` is the paper's generation space, z its representation space; :meth:`to_base` is its g.

    ========================= ============================================ ===================== ======================
    ``flow``                  each f, see :mod:`~pyro_priors.priors.transforms`  log p(z)        a sample
    ========================= ============================================ ===================== ======================
    ``affine_coupling``       Dinh et al. 2017, as in dpVAE                one pass              one pass
    ``spline_coupling``       Durkan et al. 2019                           one pass              one pass
    ``affine_autoregressive`` Papamakarios et al. 2017                     one pass              ``z_dim`` passes
    ``spline_autoregressive`` Durkan et al. 2019                           one pass              ``z_dim`` passes
    ``zuko.NAME``             a flow of the package zuko, such as          as zuko has it        as zuko has it
                              ``zuko.NSF``: :class:`ZukoFlow
                              <pyro_priors.priors.zuko_flows.ZukoFlow>`
    ========================= ============================================ ===================== ======================

    Every second transform sees z in reverse order, so a coupling moves the half that the one before it left; or with
    ``permutation="random"`` each sees it in an order of its own, drawn when the prior is made: in the second
    those values come to the half that a coupling moves that the first has left. Training
    begins near the identity (the networks' last weights are small), where the prior is near N(0, I); that is ours. With
    the last weights at 0 it is N(0, I).

    :param z_dim: size of z, at least 2
    :param flow: name of the transforms
    :param num_transforms: number of transforms n; 6 in the released code of dpVAE
    :param hidden: sizes of the hidden layers of each transform's networks; 64 and 64 in that code
    :param permutation: ``"reverse"`` or ``"random"``
    :param actnorm: a trained scale and shift of each value after each transform
    :raises ValueError: if the name is unknown, z has one dimension only, or the networks of an autoregressive flow are
        narrower than z

    Example::

        >>> prior = FlowPrior(2)
        >>> z = prior().sample((5,))
        >>> prior.from_base(prior.to_base(z)).allclose(z, atol=1e-5)
        True

    What differs from the paper: with an odd ``z_dim`` the masks of the released code are the smaller half and its
    complement in turns; here every coupling moves the middle value.

    Reference: Riddhish Bhalodia, Iain Lee and Shireen Elhabian, dpVAEs: fixing sample generation for regularized VAEs,
    ACCV 2020, arXiv:1911.10506.
    """

    @typed
    def __init__(
        self,
        z_dim: int,
        flow: str = "affine_coupling",
        num_transforms: int = 6,
        hidden: Sequence[int] = (64, 64),
        permutation: str = "reverse",
        actnorm: bool = False,
    ) -> None:
        super().__init__()
        if permutation not in PERMUTATIONS:
            raise ValueError(f"permutation must be one of {', '.join(PERMUTATIONS)}, got '{permutation}'")
        if flow not in FLOWS and not flow.startswith(PREFIX):
            raise ValueError(f"flow '{flow}' is unknown: {hint(flow, (*FLOWS, f'{PREFIX}NAME'))}")
        check_sizes(z_dim=z_dim, num_transforms=num_transforms)
        if z_dim < 2:
            raise ValueError(f"a flow needs z_dim of at least 2, got {z_dim}: use prior='mixture' for one dimension")
        self.base = StandardPrior(z_dim)
        if flow.startswith(PREFIX):
            if permutation != "reverse" or actnorm:
                raise ValueError(f"flow '{flow}' is zuko's as a whole: leave permutation and actnorm out")
            self.networks = nn.ModuleList([ZukoFlow(flow, z_dim, num_transforms, hidden)])
        else:
            self.networks = nn.ModuleList(FLOWS[flow](z_dim, hidden) for _ in range(num_transforms))
        self.norms = nn.ModuleList(ActNorm(z_dim) for _ in range(num_transforms)) if actnorm else None
        self.orders: nn.ModuleList | None = None
        if permutation == "random":
            self.orders, unmoved = nn.ModuleList(), torch.arange(z_dim) < z_dim // 2
            for _ in range(num_transforms - 1):
                order = torch.randperm(z_dim)
                order = order[unmoved[order].int().argsort(stable=True)]  # to the half that a coupling moves
                unmoved = unmoved[order]
                unmoved[z_dim // 2 :] = False
                self.orders.append(Permutation(order))

    def transforms(self) -> list[Transform]:
        """Fresh transforms from z0 to z, in order."""
        found: list[Transform] = []
        for i, network in enumerate(cast(Iterable[FlowNetwork], self.networks)):
            found.append(network.transform())
            if self.norms is not None:
                found.append(cast(FlowNetwork, self.norms[i]).transform())
            if self.orders is None:
                found.append(Reverse())
            elif i < len(self.orders):
                found.append(cast(FlowNetwork, self.orders[i]).transform())
        # an even number of reversals leaves each value in its place
        return found[:-1] if self.orders is None and len(self.networks) % 2 else found

    def to_base(self, z: Tensor) -> Tensor:
        """The point of N(0, I) that z comes from.

        :param z: shape ``left_shape + (z_dim,)``
        :returns: the same shape
        """
        z = at_least_float32(z)
        for transform in reversed(self.transforms()):
            z = transform.inv(z)
        return z

    def from_base(self, z_0: Tensor) -> Tensor:
        """What becomes of a point of N(0, I).

        :param z_0: shape ``left_shape + (z_dim,)``
        :returns: the same shape
        """
        z_0 = at_least_float32(z_0)
        for transform in self.transforms():
            z_0 = transform(z_0)
        return z_0

    def forward(self) -> dist.Distribution:
        """:returns: distribution with batch shape ``()`` and event shape ``(z_dim,)``"""
        return FlowDistribution(self.base(), self.transforms())


class FlowDistribution(dist.TransformedDistribution):
    """Pyro's, in float32 or wider, whose density of its own sample has a gradient: there the transforms recall how they
    made it, without."""

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(at_least_float32(value))

    def sample(self, sample_shape: "_size" = ()) -> Tensor:
        return super().sample(Size(sample_shape)).clone()
