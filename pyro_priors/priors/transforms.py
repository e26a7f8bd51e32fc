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
from pyro.distributions.torch_transform import TransformModule
from pyro.distributions.transforms.spline import ConditionedSpline
from pyro.nn import AutoRegressiveNN
from torch import Tensor
from torch.distributions import Transform

from .._precision import at_least_float32, in_precision_of
from ..nn import positive, raw_of

__all__ = ["FLOWS", "ActNorm", "FlowNetwork", "Permutation", "Reverse", "rational_quadratic"]

START = 0.01
"""Standard deviation of a network's last weights at the start, which makes every transform begin near the identity."""


class FlowNetwork(nn.Module):
    """Base: a network from part of z to the parameters of a transform of z, made from ``z_dim`` and ``hidden``.

    :param z_dim: size of z, at least 2
    :param hidden: sizes of the hidden layers
    """

    def transform(self) -> Transform:
        """A fresh transform from the base's side, y, to z, event shape ``(z_dim,)``, without memory of another call."""
        raise NotImplementedError


def _started(last: Any) -> Any:
    """The last layer of a network, with its weights at their start."""
    nn.init.normal_(last.weight, 0, START)
    nn.init.zeros_(last.bias)
    return last


def _perceptron(in_dim: int, hidden: Sequence[int], out_dim: int) -> nn.Sequential:
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

    def __init__(self, z_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.split = z_dim // 2
        self.log_scale = _perceptron(self.split, hidden, z_dim - self.split)
        self.loc = _perceptron(self.split, hidden, z_dim - self.split)

    def forward(self, first: Tensor) -> tuple[Tensor, Tensor]:
        """
        :param first: the values that stay, shape ``left_shape + (z_dim // 2,)``
        :returns: shift and log-scale of the others
        """
        first = in_precision_of(self, first)
        return torch.tanh(at_least_float32(self.loc(first))), torch.tanh(at_least_float32(self.log_scale(first)))

    def transform(self) -> Transform:
        return T.AffineCoupling(self.split, self)


class _Autoregressive(FlowNetwork):
    """Base: MADE (Germain et al. 2015), whose outputs for a value of z depend on the values before it alone.

    Its masks follow from the sizes and its order is z's own, so neither is saved; Pyro's own helper draws the order at
    random.
    """

    def __init__(self, z_dim: int, hidden: Sequence[int], outputs: Sequence[int]) -> None:
        super().__init__()
        if min(hidden) < z_dim:
            raise ValueError(
                f"hidden layers of an autoregressive flow must be at least as wide as z, got {tuple(hidden)} for "
                f"z_dim={z_dim}: give ({z_dim}, {z_dim}) or more"
            )
        self.made = AutoRegressiveNN(z_dim, list(hidden), list(outputs), cast(Any, torch.arange(z_dim)))
        _started(self.made.layers[-1])
        for module in self.made.modules():
            for name, buffer in list(module.named_buffers(recurse=False)):
                module.register_buffer(name, buffer, persistent=False)

    def outputs(self, z: Tensor) -> list[Tensor]:
        """Return the network's outputs for z, in float32 or wider."""
        return [at_least_float32(raw) for raw in self.made(in_precision_of(self.made, z))]


class AffineAutoregressive(_Autoregressive):
    r"""Masked autoregressive flow (Papamakarios et al. 2017).

    .. math:: y_i = z_i\, e^{s_i(z_{<i})} + t_i(z_{<i})

    with log-determinant :math:`-\sum s` from y to z. The density takes one pass, a sample one for each value of z. The
    log-scale is :math:`3 \tanh(\cdot / 3)`, which stays within the limits where Pyro clips it, with a gradient that
    belongs to its value.

    Reference: George Papamakarios, Theo Pavlakou and Iain Murray, Masked autoregressive flow for density estimation,
    NIPS 2017, arXiv:1705.07057. The order is reversed from one transform to the next, as there; no batch normalisation.
    """

    def __init__(self, z_dim: int, hidden: Sequence[int]) -> None:
        super().__init__(z_dim, hidden, (1, 1))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """:returns: shift and log-scale of each value, shape of z"""
        loc, raw = self.outputs(z)
        return loc, 3 * torch.tanh(raw / 3)

    def transform(self) -> Transform:
        return _AffineAutoregressive(self).inv


class _AffineAutoregressive(T.AffineAutoregressive):
    """Pyro's, whose inverse fails in another precision than torch's default one: it starts at zeros of that."""

    def _inverse(self, y: Tensor) -> Tensor:
        x = torch.zeros_like(y)
        for _ in range(y.shape[-1]):  # each pass gets one more value right
            loc, log_scale = self.arn(x)
            x = (y - loc) * torch.exp(-log_scale)
        self._cached_log_scale = log_scale
        return x


NUM_BINS, BOUND = 8, 5.0
"""Of the splines: number of bins, and where they end on both sides."""

SPLINE_OUTPUTS = (NUM_BINS, NUM_BINS, NUM_BINS - 1)
"""Numbers that make a spline: widths and heights of its bins, slopes at the knots between them."""


class SplineCoupling(FlowNetwork):
    r"""Coupling by rational-quadratic splines (Durkan et al. 2019): :func:`rational_quadratic` of 8 bins on [-5, 5].

    .. math:: y_{\le d} = z_{\le d}, \qquad y_{> d} = g(z_{> d};\, \theta(z_{\le d}))

    Density and samples cost one pass each. Pyro's SplineCoupling is not the identity at any parameters (the slope at
    both ends of its splines is 0.999, and 1 beyond them), copies the values out there by an index whose length is
    unknown to a compiled graph, and draws random numbers when it is made.

    Reference: Conor Durkan, Artur Bekasov, Iain Murray and George Papamakarios, Neural spline flows, NeurIPS 2019,
    arXiv:1906.04032.
    """

    def __init__(self, z_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.split = z_dim // 2
        self.parameters_of_splines = _perceptron(self.split, hidden, (z_dim - self.split) * sum(SPLINE_OUTPUTS))

    def condition(self, first: Tensor) -> Transform:
        """
        :param first: the values that stay, shape ``left_shape + (z_dim // 2,)``
        :returns: the splines of the others
        """
        raw = at_least_float32(self.parameters_of_splines(in_precision_of(self, first)))
        return _Spline(raw.unflatten(-1, (-1, sum(SPLINE_OUTPUTS))).split(SPLINE_OUTPUTS, -1))

    def transform(self) -> Transform:
        return _SplineCoupling(self).inv


class _SplineCoupling(T.SplineCoupling):
    def __init__(self, network: SplineCoupling) -> None:
        TransformModule.__init__(self, cache_size=1)  # not Pyro's own, which makes splines of its own
        self.split_dim, self.identity, self.upper_spline = network.split, True, cast(Any, network)


class SplineAutoregressive(_Autoregressive):
    r"""Autoregressive rational-quadratic splines (Durkan et al. 2019), with what is said of :class:`SplineCoupling`.

    .. math:: y_i = g(z_i;\, \theta_i(z_{<i}))

    The density takes one pass, a sample one for each value of z.

    Reference: Conor Durkan, Artur Bekasov, Iain Murray and George Papamakarios, Neural spline flows, NeurIPS 2019,
    arXiv:1906.04032.
    """

    def __init__(self, z_dim: int, hidden: Sequence[int]) -> None:
        super().__init__(z_dim, hidden, SPLINE_OUTPUTS)

    def condition(self, z: Tensor) -> Transform:
        """:returns: the spline of each value"""
        return _Spline([raw.transpose(-1, -2) for raw in self.outputs(z)])

    def transform(self) -> Transform:
        return _SplineAutoregressive(self).inv


class _SplineAutoregressive(T.SplineAutoregressive):
    def __init__(self, network: SplineAutoregressive) -> None:
        TransformModule.__init__(self, cache_size=1)
        self.spline = cast(Any, network)


class _Spline(ConditionedSpline):
    """Pyro's transform of one value each, with our splines: its parameters are the three tensors of raw numbers."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        super().__init__(tuple(parameters), bound=BOUND)

    def spline_op(self, x: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        widths, heights, slopes = self._params
        return rational_quadratic(x, widths, heights, slopes, self.bound, **options)


def rational_quadratic(
    x: Tensor, widths: Tensor, heights: Tensor, slopes: Tensor, bound: float, inverse: bool = False, floor: float = 1e-3
) -> tuple[Tensor, Tensor]:
    r"""Monotone rational-quadratic splines on [-bound, bound], the identity outside.

    .. math:: y = y_k + \frac{h\,[\delta\,\theta^2 + s_k\,\theta(1-\theta)]}
        {\delta + (s_k + s_{k+1} - 2\delta)\,\theta(1-\theta)}, \qquad
        \theta = \frac{x - x_k}{w}, \quad \delta = \frac{h}{w}

    in the bin between the knots k and k+1, of width w, height h and slopes :math:`s_k` and :math:`s_{k+1}` at its ends;
    the slope at both ends of the spline is 1. All raw numbers 0 give the identity.

    :param x: shape ``left_shape``
    :param widths: raw widths of the K bins, softmax makes them shares, shape ``left_shape + (K,)``
    :param heights: raw heights, likewise
    :param slopes: raw slopes at the knots between the bins, shape ``left_shape + (K - 1,)``
    :param inverse: evaluate the inverse instead
    :param floor: least share of a bin, and least slope
    :returns: y and the logarithm of its derivative, shape ``left_shape``

    Reference: Conor Durkan, Artur Bekasov, Iain Murray and George Papamakarios, Neural spline flows, NeurIPS 2019,
    arXiv:1906.04032, equations 4 to 8.
    """
    (left_x, width), (left_y, height) = _bins(widths, bound, floor), _bins(heights, bound, floor)  # left_shape + (K,)
    inner_slopes = positive(slopes + raw_of(1.0, floor), floor)
    inside = x.abs() < bound
    v = torch.where(inside, x, 0.0)  # any value inside: where not, neither it nor its gradient is used
    left, last = left_y if inverse else left_x, widths.shape[-1] - 1
    k = (v.unsqueeze(-1) >= left[..., 1:]).sum(-1)

    def at(values: Tensor, index: Tensor) -> Tensor:
        return values.gather(-1, index.unsqueeze(-1)).squeeze(-1)

    x_k, y_k, w, h = at(left_x, k), at(left_y, k), at(width, k), at(height, k)
    s_k = torch.where(k == 0, 1.0, at(inner_slopes, (k - 1).clamp(min=0)))
    s_next = torch.where(k == last, 1.0, at(inner_slopes, k.clamp(max=last - 1)))
    delta = h / w
    if inverse:
        theta, rest = _shares(_within((v - y_k) / h), s_k, s_next, delta)
        y = x_k + theta * w
    else:
        theta = _within((v - x_k) / w)
        rest = 1 - theta
        y = y_k + h * (delta * theta.square() + s_k * theta * rest) / _denominator(theta, rest, s_k, s_next, delta)
    rise = s_next * theta.square() + 2 * delta * theta * rest + s_k * rest.square()
    log_slope = 2 * delta.log() + rise.log() - 2 * _denominator(theta, rest, s_k, s_next, delta).log()
    return torch.where(inside, y, x), torch.where(inside, -log_slope if inverse else log_slope, 0.0)


def _denominator(theta: Tensor, rest: Tensor, s_k: Tensor, s_next: Tensor, delta: Tensor) -> Tensor:
    """Return the denominator of the spline, as a sum of positive numbers."""
    return delta * (theta.square() + rest.square()) + (s_k + s_next) * theta * rest


def _shares(height: Tensor, s_k: Tensor, s_next: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return the shares of a bin's width before and after the point where the spline has a share of its height.

    With :math:`\xi` that share, :math:`d = s_k (1 - \xi) - s_{k+1}\, \xi` and
    :math:`r^2 = d^2 + 4 \delta^2 \xi (1 - \xi)`, the quadratic equation of the paper has the root

    .. math:: \theta = \frac{2 \delta \xi}{d + 2 \delta \xi + r}, \qquad
        1 - \theta = \frac{2 \delta (1 - \xi)}{-d + 2 \delta (1 - \xi) + r}

    r is never 0. The first formula has no cancellation where d is positive, the second none where d is negative. The
    paper's discriminant is a difference; where that rounds to 0, its root has no gradient.
    """
    d = s_k * (1 - height) - s_next * height
    first = d >= 0
    size = torch.where(first, d, -d)  # the absolute value, but with a derivative at 0
    near = 2 * delta * torch.where(first, height, 1 - height)
    r = (d.square() + 4 * delta.square() * height * (1 - height)).sqrt()
    share = near / (size + near + r)
    return torch.where(first, share, 1 - share), torch.where(first, 1 - share, share)


def _within(share: Tensor) -> Tensor:
    """Clamp a share of a bin, which rounding can put outside [0, 1], and keep its gradient."""
    return share + (share.clamp(0, 1) - share).detach()


def _bins(raw: Tensor, bound: float, floor: float) -> tuple[Tensor, Tensor]:
    """Left ends and sizes of the bins of [-bound, bound], of which each has at least the share ``floor``."""
    size = 2 * bound * (floor + (1 - floor * raw.shape[-1]) * raw.softmax(-1))
    return size.cumsum(-1) - size - bound, size


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

    def transform(self) -> Transform:
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

    def transform(self) -> Transform:
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


FLOWS: dict[str, Callable[[int, Sequence[int]], FlowNetwork]] = {
    "affine_autoregressive": AffineAutoregressive,
    "affine_coupling": AffineCoupling,
    "spline_autoregressive": SplineAutoregressive,
    "spline_coupling": SplineCoupling,
}
"""Networks of transforms by name."""
