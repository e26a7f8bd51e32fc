"""A normalising flow to a Gaussian of the condition, as the prior p(z|condition)."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, cast

import pyro.distributions as dist
import pyro.distributions.transforms as T
import torch
import torch.nn as nn
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Transform

from .._hints import check_sizes, hint
from .._options import typed
from .._precision import at_least_float32
from ..nn import MLP, GaussianHead, make_condition_network
from .flow import FlowDistribution
from .transforms import START, Reverse

__all__ = ["CONDITIONAL_FLOWS", "AdditiveCoupling", "ConditionalFlowPrior"]

CONDITIONAL_FLOWS = ("additive", "affine", "none")
"""Kinds of flow of :class:`ConditionalFlowPrior`."""


class ConditionalFlowPrior(nn.Module):
    r"""p(z|condition) of a flow f to a Gaussian that a network gives (De 2025, equation 12; Kim et al. 2021).

    .. math::
        p(z \mid \mathrm{condition}) = \mathcal{N}\big(f(z) \mid \mathrm{loc}(\mathrm{condition}),
            \mathrm{diag}(\mathrm{scale}(\mathrm{condition})^2)\big)
            \left| \det \frac{\partial f(z)}{\partial z} \right|

    In words: where f takes z is Gaussian given the condition. A sample is :math:`z = f^{-1}(\mathrm{loc} +
    \mathrm{scale} \odot \epsilon)`. f is a chain of couplings, each of which moves the second half of z by what a
    perceptron makes of the first, with all values in reverse order between two of them:

    ============ ===================================================== ================================================
    ``flow``     :math:`g_{>d}`, with :math:`g_{\le d} = z_{\le d}`     log-determinant
    ============ ===================================================== ================================================
    ``additive`` :math:`z_{>d} + t(z_{\le d})`                          0: volume-preserving, as in VITS (Kim et al.)
    ``affine``   :math:`z_{>d} \odot e^{s(z_{\le d})} + t(z_{\le d})`   sum of s (Dinh et al. 2017), as De
    ``none``     z itself: the prior is that Gaussian                  0
    ============ ===================================================== ================================================

    with :math:`d = \lfloor \mathrm{z\_dim}/2 \rfloor` and :math:`|s| < 1` (tanh). Training begins near the identity.

    :param condition_shape: shape of one condition
    :param z_dim: size of z, at least 2 with couplings
    :param flow: kind of coupling
    :param num_transforms: number of couplings; 4 in VITS
    :param flow_hidden: sizes of the hidden layers of each coupling's perceptron; two of them in the paper
    :param hidden: sizes of the hidden layers of the condition's perceptron
    :param gated: gated layers of that instead of ReLU
    :param condition_network: what reads the condition: ``mlp``, or ``conv``, the paper's (see
        :class:`~pyro_priors.nn.AttributeConv`)
    :param conditioned: the couplings see the condition's features too (as those of VITS may see a speaker); not in the
        paper
    :raises ValueError: if a name is unknown, or z has one dimension only

    What differs from the paper: its KL has the quadratic term :math:`(f(z) - \mathrm{loc})^2 / 2\,\mathrm{scale}^2`
    with a minus sign, which would push f(z) away from loc; here the KL is :math:`\log q(z) - \log p(z)`, where it has a
    plus. Its recipe for samples stops at :math:`\mathrm{loc} + \mathrm{scale} \odot \epsilon`, without
    :math:`f^{-1}`, which gives the decoder points of the other space; here samples come from p(z|condition). That
    :math:`|s| < 1`, and that one perceptron gives s and t of a coupling, is ours.

    References: Tuhin Subhra De, Improving conditional VAE with approximation using normalizing flows, 2025,
    arXiv:2511.08946. Jaehyeon Kim, Jungil Kong and Juhee Son, Conditional variational autoencoder with adversarial
    learning for end-to-end text-to-speech, ICML 2021, arXiv:2106.06103. Laurent Dinh, Jascha Sohl-Dickstein and Samy
    Bengio, Density estimation using Real NVP, ICLR 2017, arXiv:1605.08803.
    """

    @typed
    def __init__(
        self,
        condition_shape: Sequence[int],
        z_dim: int,
        flow: str = "affine",
        num_transforms: int = 4,
        flow_hidden: Sequence[int] = (64, 64),
        hidden: Sequence[int] = (300, 300),
        gated: bool = True,
        condition_network: str = "mlp",
        conditioned: bool = False,
    ) -> None:
        super().__init__()
        if flow not in CONDITIONAL_FLOWS:
            raise ValueError(f"flow '{flow}' is unknown: {hint(flow, CONDITIONAL_FLOWS)}")
        check_sizes(z_dim=z_dim, num_transforms=num_transforms)
        if z_dim < 2 and flow != "none":
            raise ValueError(f"couplings need z_dim of at least 2, got {z_dim}: use flow='none' for one dimension")
        network: Any = make_condition_network(condition_network, condition_shape, hidden, gated)
        self.network = network
        self.head = GaussianHead(network.out_dim, z_dim)
        seen = network.out_dim if conditioned else 0
        num = 0 if flow == "none" else num_transforms
        self.couplings = nn.ModuleList(_Coupling(z_dim, flow_hidden, flow, seen) for _ in range(num))

    def transforms(self, h: Tensor) -> list[Transform]:
        """Fresh transforms whose chain is f, from z to the Gaussian's side, in order.

        :param h: features of the condition, shape ``left_shape + (out_dim,)``
        """
        couplings = cast(Iterable[_Coupling], self.couplings)
        found = [transform for coupling in couplings for transform in (coupling.condition(h), Reverse())]
        return found[:-1] if len(self.couplings) % 2 else found  # each value ends in its own place

    def forward(self, condition: Tensor) -> dist.Distribution:
        """
        :param condition: shape ``left_shape + condition_shape``
        :returns: distribution with batch shape ``left_shape`` and event shape ``(z_dim,)``; a Gaussian without
            couplings
        """
        h = self.network(condition)
        base, forward = self.head(h), self.transforms(h)
        return FlowDistribution(base, [transform.inv for transform in reversed(forward)]) if forward else base


class _Coupling(dist.ConditionalTransformModule):
    """A perceptron from the half of z that stays, and the condition's features, to the move of the other half."""

    def __init__(self, z_dim: int, hidden: Sequence[int], flow: str, condition_dim: int) -> None:
        super().__init__()
        self.split, self.affine = z_dim // 2, flow == "affine"
        self.trunk = MLP(self.split, hidden, gated=False, condition_dim=condition_dim)
        self.move = nn.Linear(hidden[-1], (2 if self.affine else 1) * (z_dim - self.split))
        nn.init.normal_(self.move.weight, 0, START)
        nn.init.zeros_(self.move.bias)

    def forward(self, h: Tensor, first: Tensor) -> Tensor:
        """
        :param h: features of the condition, shape ``left_shape + (condition_dim,)``
        :param first: the values that stay, shape ``left_shape + (z_dim // 2,)``
        :returns: the shift of the others, and in an affine coupling their raw log-scale after it
        """
        return at_least_float32(self.move(self.trunk(first, h)))

    def loc_and_log_scale(self, h: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        """The two halves of an affine coupling's move; Pyro would clip log-scales below -5 and above 3."""
        loc, raw = self(h, first).chunk(2, -1)
        return loc, torch.tanh(raw)

    def condition(self, context: Tensor) -> Transform:
        """A fresh transform from z towards the Gaussian's side, given the condition's features."""
        if self.affine:
            return T.AffineCoupling(self.split, partial(self.loc_and_log_scale, context))
        return AdditiveCoupling(self.split, partial(self, context))


class AdditiveCoupling(Transform):
    r"""Volume-preserving coupling (Dinh et al. 2015): :math:`g_{>d} = z_{>d} + t(z_{\le d})`.

    :param split: number d of values that stay
    :param shift: t, from shape ``left_shape + (d,)`` to ``left_shape + (z_dim - d,)``

    Reference: Laurent Dinh, David Krueger and Yoshua Bengio, NICE: non-linear independent components estimation, ICLR
    workshop 2015, arXiv:1410.8516.
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, split: int, shift: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.split, self.shift = split, shift

    def _call(self, x: Tensor) -> Tensor:
        first, second = x[..., : self.split], x[..., self.split :]
        return torch.cat([first, second + self.shift(first)], -1)

    def _inverse(self, y: Tensor) -> Tensor:
        first, second = y[..., : self.split], y[..., self.split :]
        return torch.cat([first, second - self.shift(first)], -1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return x.new_zeros(x.shape[:-1])
