"""Distributions over x that likelihoods return, and that torch and Pyro do not have in this form."""

from typing import TYPE_CHECKING, Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import constraints
from torch import Size, Tensor

from .._precision import HALF, at_least_float32, with_float32_parameters
from ..sites import apply

if TYPE_CHECKING:
    from torch.types import _size

__all__ = [
    "ContinuousBernoulli",
    "DiscretisedLogistic",
    "JointBernoulli",
    "MultivariateNormal",
    "NegativeBinomial",
    "Poisson",
    "check_binary",
    "check_levels",
]


def check_binary(x: Tensor) -> None:
    """Refuse what is no datum of a Bernoulli likelihood.

    :raises ValueError: if a value is neither 0 nor 1
    """
    wrong = x[(x != 0) & (x != 1)]
    if wrong.numel():
        raise ValueError(
            f"x must be 0 or 1 for likelihood='bernoulli', got {wrong[0].item():g}: binarise it with "
            "(x > 0.5).float(), or make the pair with likelihood='continuous_bernoulli' for values from 0 to 1, or "
            "'gaussian' for any"
        )


def check_levels(x: Tensor) -> None:
    """Refuse gray levels in a precision that rounds them.

    :raises ValueError: if x is in half precision and a value is neither 0 nor 1
    """
    wrong = x[(x != 0) & (x != 1)] if x.dtype in HALF else x[:0]
    if wrong.numel():
        raise ValueError(
            f"x must be gray levels k/255, of which {x.dtype} holds 0 and 1 alone, got {wrong[0].item():g}: give x and "
            "the pair in float32"
        )


class JointBernoulli(dist.Independent):
    r"""Independent Bernoullis as one event, whose density takes one logarithm for 32 values.

    .. math:: \log p(x) = \sum_i (x_i - [l_i > 0])\, l_i - \log\big(1 + e^{-|l_i|}\big), \qquad l = \mathrm{logits}

    The factors :math:`1 + e^{-|l_i|}` are multiplied in pairs. Each is stored as its excess over 1, by
    :math:`(1 + a)(1 + b) - 1 = a + b + ab`, so that a small one keeps its digits. Value and derivatives equal those of
    ``Bernoulli(logits=...).to_event()`` to rounding. Logits in half precision are converted to float32.

    :param base_dist: Bernoulli with the event's dimensions among its batch dimensions
    :param reinterpreted_batch_ndims: number of the event's dimensions
    """

    def log_prob(self, value: Tensor) -> Tensor:
        logits, num = at_least_float32(self.base_dist.logits), self.reinterpreted_batch_ndims
        if not num:
            return with_float32_parameters(self.base_dist).log_prob(value)
        if self.base_dist._validate_args:
            try:
                self.base_dist._validate_sample(value)
            except ValueError:
                check_binary(value)
                raise
        dtype = torch.promote_types(logits.dtype, value.dtype)
        logits, x = torch.broadcast_tensors(logits.to(dtype), value.to(dtype))
        return apply(_LogBernoulli, logits.flatten(-num), x.flatten(-num))


class _LogBernoulli(torch.autograd.Function):
    """Sum over the last dimension of the log-probabilities of x under these logits, both of one shape."""

    generate_vmap_rule = True
    num_doublings = 5
    """One logarithm serves ``2**5`` factors of at most 2; float32 holds products of 127 of them."""

    @staticmethod
    def forward(logits: Tensor, x: Tensor) -> Tensor:
        excess, left_over = torch.exp(-logits.abs()), []
        for _ in range(_LogBernoulli.num_doublings):
            half = excess.shape[-1] // 2
            if not half:
                break
            a, b, *odd = excess.split(half, -1)
            excess = torch.addcmul(a + b, a, b)
            left_over += odd
        # x * logits and relu(logits) cancel exactly where the sign of the logit is right
        return (x * logits - logits.relu()).sum(-1) - torch.cat([excess, *left_over], -1).log1p().sum(-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        logits, x = ctx.saved_tensors
        gradient = gradient.unsqueeze(-1)
        right = (logits > 0).to(logits.dtype)
        small = torch.sigmoid(logits - 2 * logits.relu())  # sigmoid(-|logits|), differentiable at 0 too
        slope = (x - right) + (2 * right - 1) * small  # x - sigmoid(logits), exact where the difference is small
        return gradient * slope, gradient * logits if ctx.needs_input_grad[1] else None


class ContinuousBernoulli(dist.TorchDistribution):
    r"""Continuous Bernoulli that stays a density where the logits are large.

    .. math:: p(x) = \frac{\eta\, e^{\eta x}}{e^{\eta} - 1}, \qquad 0 \le x \le 1, \quad \eta = \mathrm{logits}

    torch's class takes its constant from probabilities that it clamps one rounding step away from 0 and 1: in float32
    it integrates to 0.80 at logits 20 and to 0.16 at logits 100, and its mean stops at 0.937. Here all is computed from
    the logits, by series near 0. Logits in half precision are converted to float32.

    :param logits: shape ``batch_shape``

    Reference: Gabriel Loaiza-Ganem and John P. Cunningham, The continuous Bernoulli: fixing a pervasive error in
    variational autoencoders, NeurIPS 2019, arXiv:1907.06845.
    """

    arg_constraints = {"logits": constraints.real}
    support = constraints.unit_interval
    has_rsample = False

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = at_least_float32(logits)
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: "_size", _instance: object = None) -> "ContinuousBernoulli":
        return ContinuousBernoulli(self.logits.expand(batch_shape), validate_args=False)

    def _by_size(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return where the series apply, the logits to evaluate them at, and the size to evaluate other formulas at.

        Both are bounded a little beyond where they apply. So each formula has a finite gradient where ``torch.where``
        discards it; an infinite one times 0 is NaN.
        """
        size = self.logits.abs()
        return size < 0.1, F.hardtanh(self.logits, -0.2, 0.2), F.threshold(size, 0.05, 0.05)

    @property
    def mean(self) -> Tensor:
        small, eta, size = self._by_size()
        square = eta.square()
        series = 0.5 + eta * (1 / 12 - square * (1 / 720 - square / 30240))
        lower = 1 / size + torch.exp(-size) / torch.expm1(-size)  # of negative logits
        return torch.where(small, series, torch.where(self.logits > 0, 1 - lower, lower))

    def sample(self, sample_shape: "_size" = ()) -> Tensor:
        with torch.no_grad():
            u = torch.rand(self._extended_shape(Size(sample_shape)), dtype=self.logits.dtype, device=self.logits.device)
            size = self.logits.abs().clamp(min=1e-4)  # uniform to one part in 10^4 there
            x = (-torch.log1p(u * torch.expm1(-size)) / size).clamp(0, 1)  # of density falling in x
            return torch.where(self.logits < 0, x, 1 - x)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        value = at_least_float32(value)
        small, eta, size = self._by_size()
        square = eta.square()
        series = eta * (value - 0.5) - square * (1 / 24 - square * (1 / 2880 - square / 181440))
        # relative to the end that the density rises to, where no large numbers are subtracted from each other
        of_end = (value - (self.logits > 0).to(value.dtype)) * self.logits
        return torch.where(small, series, of_end - torch.log(-torch.expm1(-size) / size))


class _Levels(constraints.Constraint):
    """The unit interval, of which half precision holds no gray level but 0 and 1."""

    def check(self, value: Tensor) -> Tensor:
        return (value == 0) | (value == 1) if value.dtype in HALF else (value >= 0) & (value <= 1)


class DiscretisedLogistic(dist.TorchDistribution):
    r"""Logistic distribution rounded to the grey levels 0, 1/255, ..., 1.

    .. math::
        P(k/255) = \sigma\!\left(\tfrac{(k + 1/2)/255 - \mathrm{loc}}{\mathrm{scale}}\right)
                 - \sigma\!\left(\tfrac{(k - 1/2)/255 - \mathrm{loc}}{\mathrm{scale}}\right)

    with the lower tail added to level 0 and the upper to level 1, so that the levels sum to one. In words: each level
    has the mass of the logistic density between the middles to its neighbours. The difference is computed as
    :math:`\sigma(a)\,\sigma(-b)\,(1 - e^{b-a})`, which is exact far out in the tails.

    Parameters in half precision are converted to float32. Half precision rounds all levels but 0 and 1, so that other
    values in it are refused.

    The public code that this replaces (vae_vampprior) uses bins of width 1/256 on levels spaced by 1/255 and an
    additive 1e-7 in the logarithm; neither sums to one.

    :param loc: shape ``batch_shape``, in units of x
    :param scale: positive, broadcastable with loc
    :raises ValueError: in use, while validation is on, for a value outside [0, 1], or one in half precision that is
        neither 0 nor 1

    Reference: Diederik P. Kingma et al., Improving variational inference with inverse autoregressive flow, NIPS 2016,
    arXiv:1606.04934.
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}
    support = _Levels()
    has_rsample = False
    levels = 256

    def __init__(self, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        self.loc, self.scale = torch.broadcast_tensors(at_least_float32(loc), at_least_float32(scale))
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: "_size", _instance: object = None) -> "DiscretisedLogistic":
        return DiscretisedLogistic(self.loc.expand(batch_shape), self.scale.expand(batch_shape), validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The mean, less what rounding to the levels changes: below 2e-5 for scales of 0.01 and more."""
        upper, lower = F.softplus(self.loc / self.scale), F.softplus((self.loc - 1) / self.scale)
        # the same for a wide logistic, of which the difference keeps no digits
        wide = -torch.log1p(torch.sigmoid(self.loc / self.scale) * torch.expm1(-1 / self.scale.clamp(min=1)))
        return (self.scale * torch.where(self.scale < 1, upper - lower, wide)).clamp(0, 1)

    def sample(self, sample_shape: "_size" = ()) -> Tensor:
        shape = self._extended_shape(Size(sample_shape))
        with torch.no_grad():
            u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device).clamp(min=1e-12)
            x = self.loc + self.scale * (u.log() - (-u).log1p())
            return (x.clamp(0, 1) * (self.levels - 1)).round() / (self.levels - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            try:
                self._validate_sample(value)
            except ValueError:
                check_levels(value)
                raise
        value = at_least_float32(value)
        half = 0.5 / (self.levels - 1)
        upper = (value + half - self.loc) / self.scale
        lower = (value - half - self.loc) / self.scale
        inner = F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(-2 * half / self.scale))
        below_top = torch.where(value < half, F.logsigmoid(upper), inner)
        return torch.where(value > 1 - half, F.logsigmoid(-lower), below_top)


class MultivariateNormal(dist.MultivariateNormal):
    """Pyro's, whose draws are products of float32 matrices under autocast too: bfloat16 would round each draw."""

    def rsample(self, sample_shape: "_size" = ()) -> Tensor:
        with torch.autocast(self.loc.device.type, enabled=False):
            return super().rsample(Size(sample_shape))


class Poisson(dist.Poisson):
    r"""Pyro's, with :math:`x \log \lambda - \lambda - \log x!` computed in float64.

    For counts above about 10,000 the three terms cancel to less than float32 resolves. The result is float32, or
    float64 if the rate is. Apple GPUs have no float64: there the density is computed in float32.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        value = at_least_float32(value)
        if self._validate_args:
            self._validate_sample(value)
        rate, x = _in_float64(self.rate, value)
        return (x.xlogy(rate) - rate - (x + 1).lgamma()).to(self.rate.dtype)


class NegativeBinomial(dist.NegativeBinomial):
    """Pyro's, computed in float64 as :class:`Poisson` is.

    Its factorials cancel for large counts, and for a large ``total_count`` (data that are hardly more dispersed than a
    Poisson's), in the gradient too.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        value = at_least_float32(value)
        if self._validate_args:
            self._validate_sample(value)
        r, logits, x = _in_float64(self.total_count, self.logits, value)
        log_p = r * F.logsigmoid(-logits) + x * F.logsigmoid(logits)
        return (log_p + (r + x).lgamma() - (x + 1).lgamma() - r.lgamma()).to(self.logits.dtype)


def _in_float64(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return the tensors in float64 where their device has it."""
    return tensors if tensors[0].device.type == "mps" else tuple(tensor.double() for tensor in tensors)
