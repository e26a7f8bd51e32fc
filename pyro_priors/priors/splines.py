"""Rational-quadratic splines as transforms of a flow."""

from collections.abc import Sequence
from typing import Any

import pyro.distributions.transforms as T
import torch
from pyro.distributions.torch_transform import TransformModule
from pyro.distributions.transforms.spline import ConditionedSpline
from torch import Tensor
from torch.distributions import Transform

from .._precision import at_least_float32, in_precision_of
from ..nn import positive, raw_of
from .transforms import Autoregressive, FlowNetwork, Given, joined, perceptron

__all__ = ["SplineAutoregressive", "SplineCoupling", "rational_quadratic"]

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

    def __init__(self, z_dim: int, hidden: Sequence[int], num_features: int = 0) -> None:
        super().__init__()
        self.split = z_dim // 2
        num_outputs = (z_dim - self.split) * sum(SPLINE_OUTPUTS)
        self.parameters_of_splines = perceptron(self.split + num_features, hidden, num_outputs)

    def condition(self, first: Tensor, features: Tensor | None = None) -> Transform:
        """
        :param first: the values that stay, shape ``left_shape + (z_dim // 2,)``
        :param features: shape ``left_shape + (num_features,)``
        :returns: the splines of the others
        """
        raw = at_least_float32(self.parameters_of_splines(in_precision_of(self, joined(first, features))))
        return _Spline(raw.unflatten(-1, (-1, sum(SPLINE_OUTPUTS))).split(SPLINE_OUTPUTS, -1))

    def transform(self, features: Tensor | None = None) -> Transform:
        return _SplineCoupling(self.split, Given(self, features)).inv


class _SplineCoupling(T.SplineCoupling):
    def __init__(self, split: int, network: Any) -> None:
        TransformModule.__init__(self, cache_size=1)  # not Pyro's own, which makes splines of its own
        self.split_dim, self.identity, self.upper_spline = split, True, network


class SplineAutoregressive(Autoregressive):
    r"""Autoregressive rational-quadratic splines (Durkan et al. 2019), with what is said of :class:`SplineCoupling`.

    .. math:: y_i = g(z_i;\, \theta_i(z_{<i}))

    The density takes one pass, a sample one for each value of z.

    Reference: Conor Durkan, Artur Bekasov, Iain Murray and George Papamakarios, Neural spline flows, NeurIPS 2019,
    arXiv:1906.04032.
    """

    def __init__(self, z_dim: int, hidden: Sequence[int], num_features: int = 0) -> None:
        super().__init__(z_dim, hidden, SPLINE_OUTPUTS, num_features)

    def condition(self, z: Tensor, features: Tensor | None = None) -> Transform:
        """:returns: the spline of each value"""
        return _Spline([raw.transpose(-1, -2) for raw in self.outputs(z, features)])

    def transform(self, features: Tensor | None = None) -> Transform:
        return _SplineAutoregressive(Given(self, features)).inv


class _SplineAutoregressive(T.SplineAutoregressive):
    def __init__(self, network: Any) -> None:
        TransformModule.__init__(self, cache_size=1)
        self.spline = network


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
