"""Trained bijections of a flow: Pyro's transforms, made anew for every call around networks that hold the parameters.

Pyro's modules of transforms remember their last input, output and log-determinant. Kept from one step to the next they
return stale values for the same tensor after an optimizer's step, cannot be copied after a backward pass, and hold the
fake tensors of a compilation. A network here is a module that remembers nothing. Its ``transform()`` is a fresh object
of Pyro's, whose memory lasts as long as the distribution that it belongs to and saves that a second pass for the
log-determinant.

What else was found in Pyro 1.9.2, and is mended here: see each class.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import pyro.distributions.transforms as T
import torch
import torch.nn as nn
from pyro.distributions import constraints
from pyro.nn import AutoRegressiveNN, ConditionalAutoRegressiveNN
from torch import Tensor
from torch.distributions import Transform

from .._precision import at_least_float32, in_precision_of
from ..errors import UserError
from ..nn import MLP

__all__ = [
    "ActNorm",
    "AdditiveCoupling",
    "AffineAutoregressive",
    "AffineCoupling",
    "Autoregressive",
    "FlowNetwork",
    "Given",
    "JointAffineCoupling",
    "Permutation",
    "Reverse",
    "ScaleAndShift",
    "Shift",
    "joined",
    "perceptron",
]

START = 0.01
"""Standard deviation of a network's last weights at the start, which makes every transform begin near the identity."""


class FlowNetwork(nn.Module):
    """Base: a network from part of z, and features of a context, to the parameters of a transform of z.

    :param z_dim: size of z, at least 2
    :param hidden: sizes of the hidden layers
    :param num_features: number of features that the network sees, 0 for none
    """

    goes_to_base = False
    """Whether :meth:`transform` goes from z to the base, and not from the base to z."""

    def transform(self, features: Tensor | None = None) -> Transform:
        """Return a fresh transform, event shape ``(z_dim,)``, without memory of another call.

        :param features: shape ``left_shape + (num_features,)``, None where there are none
        """
        raise NotImplementedError


def joined(values: Tensor, features: Tensor | None) -> Tensor:
    """Values and features in one vector; their left dimensions broadcast."""
    if features is None:
        return values
    left = torch.broadcast_shapes(values.shape[:-1], features.shape[:-1])
    return torch.cat([values.expand(*left, -1), features.to(values.dtype).expand(*left, -1)], -1)


class Given:
    """A network whose features are given; Pyro's transforms call it with values of z alone."""

    def __init__(self, network: Any, features: Tensor | None) -> None:
        self.network, self.features = network, features

    def __call__(self, values: Tensor) -> Any:
        return self.network(values, self.features)

    def condition(self, values: Tensor) -> Transform:
        return self.network.condition(values, self.features)


def _started(last: Any) -> Any:
    """The last layer of a network, with its weights at their start."""
    nn.init.normal_(last.weight, 0, START)
    nn.init.zeros_(last.bias)
    return last


def perceptron(in_dim: int, hidden: Sequence[int], out_dim: int) -> nn.Sequential:
    """Return a perceptron with leaky ReLU, whose last weights are small."""
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(in_dim, size), nn.LeakyReLU()]
        in_dim = size
    return nn.Sequential(*layers, _started(nn.Linear(in_dim, out_dim)))


class AffineCoupling(FlowNetwork):
    r"""Affine coupling (Dinh et al. 2017) with the networks of Bhalodia et al. (2019).

    .. math:: z_{\le d} = y_{\le d}, \qquad z_{> d} = y_{> d} \odot e^{s(y_{\le d})} + t(y_{\le d})

    with :math:`d = \lfloor \mathrm{z\_dim}/2 \rfloor` and log-determinant :math:`\sum s`. s and t are perceptrons that
    end in tanh, as in the released code: a transform scales by at most e and shifts by at most 1. Density and samples
    cost one pass each. Pyro clips log-scales to [-5, 3] and keeps the gradient as if it had not; here |s| < 1.

    References: Laurent Dinh, Jascha Sohl-Dickstein and Samy Bengio, Density estimation using Real NVP, ICLR 2017,
    arXiv:1605.08803. Riddhish Bhalodia, Iain Lee and Shireen Elhabian, dpVAEs: fixing sample generation for regularized
    VAEs, ACCV 2020, arXiv:1911.10506.
    """

    def __init__(self, z_dim: int, hidden: Sequence[int], num_features: int = 0) -> None:
        super().__init__()
        self.split = z_dim // 2
        self.log_scale = perceptron(self.split + num_features, hidden, z_dim - self.split)
        self.loc = perceptron(self.split + num_features, hidden, z_dim - self.split)

    def forward(self, first: Tensor, features: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """
        :param first: the values that stay, shape ``left_shape + (z_dim // 2,)``
        :param features: shape ``left_shape + (num_features,)``
        :returns: shift and log-scale of the others
        """
        first = in_precision_of(self, joined(first, features))
        return torch.tanh(at_least_float32(self.loc(first))), torch.tanh(at_least_float32(self.log_scale(first)))

    def transform(self, features: Tensor | None = None) -> Transform:
        return T.AffineCoupling(self.split, Given(self, features))


class JointAffineCoupling(FlowNetwork):
    r"""Affine coupling (Dinh et al. 2017) from z to the base, with one perceptron for shift and log-scale.

    .. math:: y_{\le d} = z_{\le d}, \qquad y_{> d} = z_{> d} \odot e^{s(z_{\le d})} + t(z_{\le d})

    with :math:`d = \lfloor \mathrm{z\_dim}/2 \rfloor` and log-determinant :math:`\sum s`. That is the coupling of De
    (2025). :math:`|s| < 1` by tanh, and that one perceptron gives
    both, is ours; the shift has no limit.

    References: Laurent Dinh, Jascha Sohl-Dickstein and Samy Bengio, Density estimation using Real NVP, ICLR 2017,
    arXiv:1605.08803. Tuhin Subhra De, Improving conditional VAE with approximation using normalizing flows, 2025,
    arXiv:2511.08946.
    """

    goes_to_base, num_moves = True, 2

    def __init__(self, z_dim: int, hidden: Sequence[int], num_features: int = 0) -> None:
        super().__init__()
        self.split = z_dim // 2
        self.trunk = MLP(self.split, hidden, gated=False, condition_dim=num_features)
        self.move = _started(nn.Linear(hidden[-1], self.num_moves * (z_dim - self.split)))

    def forward(self, first: Tensor, features: Tensor | None = None) -> Any:
        """
        :param first: the values that stay, shape ``left_shape + (z_dim // 2,)``
        :param features: shape ``left_shape + (num_features,)``
        :returns: shift and log-scale of the others
        """
        loc, raw = at_least_float32(self.move(self.trunk(first, features))).chunk(2, -1)
        return loc, torch.tanh(raw)

    def transform(self, features: Tensor | None = None) -> Transform:
        return T.AffineCoupling(self.split, Given(self, features))


class AdditiveCoupling(JointAffineCoupling):
    r"""Volume-preserving coupling (Dinh et al. 2015), as in VITS: :math:`y_{> d} = z_{> d} + t(z_{\le d})`.

    References: Laurent Dinh, David Krueger and Yoshua Bengio, NICE: non-linear independent components estimation, ICLR
    workshop 2015, arXiv:1410.8516. Jaehyeon Kim, Jungil Kong and Juhee Son, Conditional variational autoencoder with
    adversarial learning for end-to-end text-to-speech, ICML 2021, arXiv:2106.06103.
    """

    num_moves = 1

    def forward(self, first: Tensor, features: Tensor | None = None) -> Tensor:
        """:returns: the shift of the others"""
        return at_least_float32(self.move(self.trunk(first, features)))

    def transform(self, features: Tensor | None = None) -> Transform:
        return Shift(self.split, Given(self, features))


class Shift(Transform):
    """:math:`y_{> d} = x_{> d} + t(x_{\\le d})`, whose log-determinant is 0.

    :param split: number d of values that stay
    :param shift: t, from shape ``left_shape + (d,)`` to ``left_shape + (z_dim - d,)``
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


class Autoregressive(FlowNetwork):
    """Base: MADE (Germain et al. 2015), whose outputs for a value of z depend on the values before it alone.

    Its masks follow from the sizes and its order is z's own, so neither is saved; Pyro's own helper draws the order at
    random.
    """

    def __init__(self, z_dim: int, hidden: Sequence[int], outputs: Sequence[int], num_features: int = 0) -> None:
        super().__init__()
        if min(hidden) < z_dim:
            raise UserError(
                f"hidden layers of an autoregressive flow must be at least as wide as z, got {tuple(hidden)} for "
                f"z_dim={z_dim}: give ({z_dim}, {z_dim}) or more"
            )
        order: Any = torch.arange(z_dim)
        if num_features:
            self.made = ConditionalAutoRegressiveNN(z_dim, num_features, list(hidden), list(outputs), order)
        else:
            self.made = AutoRegressiveNN(z_dim, list(hidden), list(outputs), order)
        _started(self.made.layers[-1])
        for module in self.made.modules():
            for name, buffer in list(module.named_buffers(recurse=False)):
                module.register_buffer(name, buffer, persistent=False)

    def outputs(self, z: Tensor, features: Tensor | None) -> list[Tensor]:
        """Return the network's outputs for z, in float32 or wider."""
        z = in_precision_of(self.made, z)
        if features is not None:
            left = torch.broadcast_shapes(z.shape[:-1], features.shape[:-1])
            z, features = z.expand(*left, -1), in_precision_of(self.made, features)
            return [at_least_float32(raw) for raw in self.made(z, features.expand(*left, -1))]
        return [at_least_float32(raw) for raw in self.made(z)]


class AffineAutoregressive(Autoregressive):
    r"""Masked autoregressive flow (Papamakarios et al. 2017).

    .. math:: y_i = z_i\, e^{s_i(z_{<i})} + t_i(z_{<i})

    with log-determinant :math:`-\sum s` from y to z. The density takes one pass, a sample one for each value of z. The
    log-scale is :math:`3 \tanh(\cdot / 3)`, which stays within the limits where Pyro clips it, with a gradient that
    belongs to its value.

    Reference: George Papamakarios, Theo Pavlakou and Iain Murray, Masked autoregressive flow for density estimation,
    NIPS 2017, arXiv:1705.07057. The order is reversed from one transform to the next, as there; no batch normalisation.
    """

    def __init__(self, z_dim: int, hidden: Sequence[int], num_features: int = 0) -> None:
        super().__init__(z_dim, hidden, (1, 1), num_features)

    def forward(self, z: Tensor, features: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """:returns: shift and log-scale of each value, shape of z"""
        loc, raw = self.outputs(z, features)
        return loc, 3 * torch.tanh(raw / 3)

    def transform(self, features: Tensor | None = None) -> Transform:
        return _AffineAutoregressive(cast(Any, Given(self, features))).inv


class _AffineAutoregressive(T.AffineAutoregressive):
    """Pyro's, whose inverse fails in another precision than torch's default one: it starts at zeros of that."""

    def _inverse(self, y: Tensor) -> Tensor:
        x = torch.zeros_like(y)
        for _ in range(y.shape[-1]):  # each pass gets one more value right
            loc, log_scale = self.arn(x)
            x = (y - loc) * torch.exp(-log_scale)
        self._cached_log_scale = log_scale
        return x


class Reverse(Transform):
    """z with its values in reverse order: between two transforms, so that each value is transformed, and by others."""

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def _call(self, x: Tensor) -> Tensor:
        return x.flip(-1)

    _inverse = _call

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return x.new_zeros(x.shape[:-1])


class Permutation(FlowNetwork):
    """z with its values in another order, which is saved: in the place of :class:`Reverse`.

    :param order: a permutation, int64, shape ``(z_dim,)``
    """

    order: Tensor

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        self.register_buffer("order", order)

    def transform(self, features: Tensor | None = None) -> Transform:
        return T.Permute(self.order)


class ActNorm(FlowNetwork):
    r"""A trained scale and shift of each value, :math:`z = y\, e^s + t`, which begin at 1 and 0.

    What differs from Kingma and Dhariwal (2018): no start from the first batch. In a prior the batch is at the far end
    of the flow, and N(0, I), where it begins, has mean 0 and variance 1 already.

    Reference: Diederik P. Kingma and Prafulla Dhariwal, Glow: generative flow with invertible 1x1 convolutions, NeurIPS
    2018, arXiv:1807.03039.
    """

    def __init__(self, z_dim: int) -> None:
        super().__init__()
        self.log_scale, self.loc = nn.Parameter(torch.zeros(z_dim)), nn.Parameter(torch.zeros(z_dim))

    def transform(self, features: Tensor | None = None) -> Transform:
        return ScaleAndShift(at_least_float32(self.log_scale), at_least_float32(self.loc))


class ScaleAndShift(Transform):
    r""":math:`z = y\, e^s + t`, whose log-determinant is read off s: finite where :math:`e^s` overflows.

    :param log_scale: s, shape ``(z_dim,)``
    :param loc: t, shape ``(z_dim,)``
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, log_scale: Tensor, loc: Tensor) -> None:
        super().__init__()
        self.log_scale, self.loc = log_scale, loc

    def _call(self, x: Tensor) -> Tensor:
        return x * self.log_scale.exp() + self.loc

    def _inverse(self, y: Tensor) -> Tensor:
        return (y - self.loc) * (-self.log_scale).exp()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.log_scale.sum(-1).expand(x.shape[:-1])
