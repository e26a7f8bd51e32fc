"""A normalizing flow as the prior."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pyro.distributions as dist
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Size, Tensor
from torch.distributions import Transform

from .._options import typed
from .._precision import at_least_float32
from ..errors import check_sizes, hint, is_size
from .base import Parts, Prior, PriorOptions, as_options, register_prior
from .gaussian import Gaussian
from .splines import SplineAutoregressive, SplineCoupling
from .standard import Standard, StandardPrior
from .transforms import (
    ActNorm,
    AdditiveCoupling,
    AffineAutoregressive,
    AffineCoupling,
    FlowNetwork,
    JointAffineCoupling,
    Permutation,
    Reverse,
)
from .zuko_flows import PREFIX, ZukoFlow

if TYPE_CHECKING:
    from torch.types import _size

__all__ = ["TRANSFORMS", "Flow", "FlowDistribution", "FlowPrior"]

TRANSFORMS: dict[str, Callable[[int, Sequence[int], int], FlowNetwork]] = {
    "additive_coupling": AdditiveCoupling,
    "affine_autoregressive": AffineAutoregressive,
    "affine_coupling": AffineCoupling,
    "joint_affine_coupling": JointAffineCoupling,
    "spline_autoregressive": SplineAutoregressive,
    "spline_coupling": SplineCoupling,
}
"""Networks of transforms by name."""

_CITATIONS = {
    "additive_coupling": ("dinh2015",),
    "affine_autoregressive": ("papamakarios2017",),
    "affine_coupling": ("dinh2017",),
    "joint_affine_coupling": ("dinh2017",),
    "spline_autoregressive": ("durkan2019",),
    "spline_coupling": ("durkan2019",),
}

PERMUTATIONS = ("random", "reverse")

MOST_TRANSFORMS = 1000
"""Most transforms of a flow: each is built on its own, which takes time."""


@register_prior("flow", citations=("bhalodia2019",))
@dataclass(frozen=True)
class Flow(PriorOptions):
    """A base distribution that learnable bijections transform (Bhalodia et al. 2019; given a condition, De 2025)."""

    transform: str = "affine_coupling"
    """Transforms: affine_coupling, joint_affine_coupling, additive_coupling, spline_coupling, affine_autoregressive,
    spline_autoregressive, or one of the package zuko: zuko.BPF, MAF, NICE, NSF or RealNVP."""
    num_transforms: int = 6
    """Number of transforms."""
    hidden_features: tuple[int, ...] = (64, 64)
    """Sizes of the hidden layers in each transform."""
    permutation: str = "reverse"
    """Of z between two transforms: reverse, or random, drawn once."""
    actnorm: bool = False
    """A learnable scale and shift of each value after each transform."""
    base: PriorOptions | str | None = None
    """Distribution that the flow starts from: standard, gaussian, mixture, or their options. Left out: standard, or,
    where there is a category or a condition, gaussian, which then depends on it."""
    condition_transforms: bool = False
    """Transforms that depend on the category or the condition too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        known = (*TRANSFORMS, f"{PREFIX}NAME")
        if self.transform not in TRANSFORMS and not self.transform.startswith(PREFIX):
            raise ValueError(f"transform '{self.transform}' is unknown: {hint(self.transform, known)}")
        if not self.hidden_features or not all(map(is_size, self.hidden_features)):
            raise ValueError(
                f"hidden_features must be a tuple of positive integers, got {self.hidden_features!r} (for example, "
                "(64, 64))"
            )
        if self.permutation not in PERMUTATIONS:
            raise ValueError(f"permutation must be one of {', '.join(PERMUTATIONS)}, got '{self.permutation}'")
        if self.num_transforms > MOST_TRANSFORMS:
            raise ValueError(
                f"num_transforms must be at most {MOST_TRANSFORMS}, got {self.num_transforms} (for example, 10)"
            )
        if isinstance(self.base, str):
            object.__setattr__(self, "base", as_options(self.base))

    @property
    def citations(self) -> tuple[str, ...]:
        """Keys of the papers behind the transforms."""
        return _CITATIONS.get(self.transform, ())

    def build(self, parts: Parts) -> "FlowPrior":
        context = parts.context
        network = parts.features() if context == "condition" else None
        base_parts = parts if network is None else parts.given_features(network.out_dim)
        base: Any = self.base or (Standard() if context == "none" else Gaussian())
        if base.name in ("cdv", "vamp"):
            raise ValueError(
                f"prior '{base.name}' cannot be the base of a flow: its components are codes, which are on the other "
                "side of the flow; use base='mixture'"
            )
        num_features = parts.num_categories if network is None else network.out_dim
        return FlowPrior(
            parts.z_dim,
            self.transform,
            self.num_transforms,
            self.hidden_features,
            self.permutation,
            self.actnorm,
            base.build(base_parts),
            network,
            parts.num_categories,
            num_features if self.condition_transforms else 0,
        )


class FlowPrior(Prior):
    r"""A base distribution pushed through learnable bijections: the decoupled prior of dpVAE (Bhalodia et al. 2019).

    .. math::
        z_0 &\sim p_0(z_0 \mid \mathrm{context}) \\
        z &= f_n(\cdots f_1(z_0)) \\
        \log p(z \mid \mathrm{context}) &= \log p_0(g(z) \mid \mathrm{context})
            + \log \left| \det \frac{\partial g}{\partial z} \right|, \qquad g = f_1^{-1} \circ \cdots \circ f_n^{-1}

    In words: a code has the density of the base's point that it comes from, times the volume that the way back spreads
    it over. In dpVAE there is no context, and :math:`p_0` is N(0, I); :math:`z_0` is that paper's generation space, z
    its representation space, and :meth:`to_base` its g. In De (2025, equation 12; Kim et al. 2021) the base is a
    Gaussian whose location and scale a network gives. A category or a condition may reach the base, each f, or both.

    ========================= =============================================== =================== ====================
    ``transform``             each f, see :mod:`~pyro_priors.priors.transforms` log p(z)          a sample
    ========================= =============================================== =================== ====================
    ``affine_coupling``       Dinh et al. 2017, as in dpVAE                   one pass            one pass
    ``joint_affine_coupling`` Dinh et al. 2017, as De 2025                    one pass            one pass
    ``additive_coupling``     Dinh et al. 2015: volume-preserving, as in VITS one pass            one pass
    ``spline_coupling``       Durkan et al. 2019                              one pass            one pass
    ``affine_autoregressive`` Papamakarios et al. 2017                        one pass            ``z_dim`` passes
    ``spline_autoregressive`` Durkan et al. 2019                              one pass            ``z_dim`` passes
    ``zuko.NAME``             a flow of the package zuko, such as             as zuko has it      as zuko has it
                              ``zuko.NSF``: :class:`ZukoFlow
                              <pyro_priors.priors.zuko_flows.ZukoFlow>`
    ========================= =============================================== =================== ====================

    Every second transform sees z in reverse order, so that a coupling moves the half that the one before it left. With
    ``permutation="random"`` each sees it in an order of its own, drawn when the prior is made; in the second transform
    the values that the first has left come to the half that a coupling moves. Training begins near the identity (the
    networks' last weights are small), where the prior is near its base; that is ours. With the last weights at 0 it is
    the base.

    :param z_dim: size of z, at least 2
    :param transform: name of the transforms
    :param num_transforms: number of transforms n; 6 in the released code of dpVAE, 4 in VITS
    :param hidden: sizes of the hidden layers of each transform's networks; 64 and 64 in the released code of dpVAE
    :param permutation: ``"reverse"`` or ``"random"``
    :param actnorm: a learnable scale and shift of each value after each transform
    :param base: module from the context to :math:`p_0`; N(0, I) when left out. Where there is a ``network``, the base
        sees its features in the place of the condition
    :param network: module from conditions to features, for the base and the transforms; None without a condition
    :param num_categories: number of categories, 0 for none
    :param num_features: number of features that the transforms see: those of the network, or one for each category; 0:
        the transforms do not depend on the context
    :raises ValueError: if z has one dimension only, or the networks of an autoregressive flow are narrower than z

    Example::

        >>> prior = FlowPrior(2)
        >>> z = prior().sample((5,))
        >>> prior.from_base(prior.to_base(z)).allclose(z, atol=1e-5)
        True

    What differs from dpVAE: with an odd ``z_dim`` the masks of the released code are the smaller half and its
    complement in turns; here every coupling moves the middle value.

    What differs from De (2025): its KL has the quadratic term :math:`(f(z) - \mathrm{loc})^2 / 2\,\mathrm{scale}^2`
    with a minus sign, which would push f(z) away from loc; here the KL is :math:`\log q(z) - \log p(z)`, where it has a
    plus. Its recipe for samples stops at :math:`\mathrm{loc} + \mathrm{scale} \odot \epsilon`, without
    :math:`f^{-1}`, which gives the decoder points of the other space; here samples come from p(z|condition).

    References: Riddhish Bhalodia, Iain Lee and Shireen Elhabian, dpVAEs: fixing sample generation for regularized VAEs,
    ACCV 2020, arXiv:1911.10506. Tuhin Subhra De, Improving conditional VAE with approximation using normalizing flows,
    2025, arXiv:2511.08946. Jaehyeon Kim, Jungil Kong and Juhee Son, Conditional variational autoencoder with
    adversarial learning for end-to-end text-to-speech, ICML 2021, arXiv:2106.06103.
    """

    @typed
    def __init__(
        self,
        z_dim: int,
        transform: str = "affine_coupling",
        num_transforms: int = 6,
        hidden: Sequence[int] = (64, 64),
        permutation: str = "reverse",
        actnorm: bool = False,
        base: nn.Module | None = None,
        network: nn.Module | None = None,
        num_categories: int = 0,
        num_features: int = 0,
    ) -> None:
        super().__init__()
        check_sizes(z_dim=z_dim, num_transforms=num_transforms)
        if z_dim < 2:
            raise ValueError(f"a flow needs z_dim of at least 2, got {z_dim}: use prior='mixture' for one dimension")
        self.num_categories, self.sees_features = num_categories, num_features > 0
        self.network = network
        self.base = StandardPrior(z_dim) if base is None else base
        if transform.startswith(PREFIX):
            if permutation != "reverse" or actnorm:
                raise ValueError(f"transform '{transform}' is zuko's as a whole: leave permutation and actnorm out")
            networks = [cast(FlowNetwork, ZukoFlow(transform, z_dim, num_transforms, hidden, num_features))]
        else:
            networks = [TRANSFORMS[transform](z_dim, hidden, num_features) for _ in range(num_transforms)]
        self.networks, self.goes_to_base = nn.ModuleList(networks), networks[0].goes_to_base
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

    def _seen(self, context: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """What the base sees of the context, and what the transforms see."""
        if self.network is not None:
            features = self.network(context)
            return features, features if self.sees_features else None
        if not (self.num_categories and self.sees_features):
            return context, None
        c: Any = context
        weights = c.exp() if c.is_floating_point() else F.one_hot(c.long(), self.num_categories)
        return context, weights.to(next(self.networks.parameters()).dtype)

    def _transforms(self, features: Tensor | None) -> list[Transform]:
        found: list[Transform] = []
        for i, network in enumerate(cast(Iterable[FlowNetwork], self.networks)):
            found.append(network.transform(features))
            if self.norms is not None:
                found.append(cast(FlowNetwork, self.norms[i]).transform())
            if self.orders is None:
                found.append(Reverse())
            elif i < len(self.orders):
                found.append(cast(FlowNetwork, self.orders[i]).transform())
        if self.orders is None and len(self.networks) % 2:
            found = found[:-1]  # an even number of reversals leaves each value in its place
        return [transform.inv for transform in reversed(found)] if self.goes_to_base else found

    def transforms(self, context: Tensor | None = None) -> list[Transform]:
        """Fresh transforms from z0 to z, in order.

        :param context: as for :meth:`forward`
        """
        return self._transforms(self._seen(context)[1])

    def to_base(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """The point of the base that z comes from.

        :param z: shape ``left_shape + (z_dim,)``
        :param context: as for :meth:`forward`
        :returns: the same shape
        """
        z = at_least_float32(z)
        for transform in reversed(self.transforms(context)):
            z = transform.inv(z)
        return z

    def from_base(self, z_0: Tensor, context: Tensor | None = None) -> Tensor:
        """What becomes of a point of the base.

        :param z_0: shape ``left_shape + (z_dim,)``
        :param context: as for :meth:`forward`
        :returns: the same shape
        """
        z_0 = at_least_float32(z_0)
        for transform in self.transforms(context):
            z_0 = transform(z_0)
        return z_0

    def forward(self, context: Tensor | None = None) -> dist.Distribution:
        """
        :param context: category numbers, shape ``left_shape``, log-weights of a relaxed category, shape
            ``left_shape + (num_categories,)``, or conditions, shape ``left_shape + condition_shape``
        :returns: distribution with batch shape ``left_shape``, or ``()`` where nothing depends on the context, and
            event shape ``(z_dim,)``
        """
        seen, features = self._seen(context)
        base: Any = self.base(seen)
        if features is not None:
            base = base.expand(torch.broadcast_shapes(base.batch_shape, features.shape[:-1]))
        return FlowDistribution(base, self._transforms(features))


class FlowDistribution(dist.TransformedDistribution):
    """Pyro's, in float32 or wider, whose density of its own sample has a gradient: there the transforms recall how they
    made it, without."""

    def log_prob(self, value: Tensor) -> Tensor:
        value = at_least_float32(value)
        if value.shape[-1:] != self.event_shape:
            raise ValueError(
                f"the last dimension of z must be z_dim, {self.event_shape[0]}, got shape {tuple(value.shape)}"
            )
        return super().log_prob(value.expand(torch.broadcast_shapes(value.shape, self.batch_shape + self.event_shape)))

    def sample(self, sample_shape: "_size" = ()) -> Tensor:
        return super().sample(Size(sample_shape)).clone()
