"""Likelihoods p(x|z): the distributions that a decoder's output is read as, one per kind of data."""

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn as nn
import torch.nn.functional as F
from pyro.distributions import constraints
from torch import Size, Tensor
from torch.types import _size

from .._hints import hint
from .._sites import apply
from .mlp import positive, raw_of

__all__ = [
    "LIKELIHOODS",
    "BernoulliLikelihood",
    "ContinuousBernoulli",
    "ContinuousBernoulliLikelihood",
    "DiscretisedLogistic",
    "DiscretisedLogisticLikelihood",
    "GaussianLikelihood",
    "JointBernoulli",
    "Likelihood",
    "check_binary",
    "make_likelihood",
]


class Likelihood(nn.Module):
    """Base: a map from a decoder's output to a distribution over x.

    :param event_dim: number of dimensions of one datum, ``len(x_shape)``
    """

    num_outputs = 1
    """Numbers that the decoder must produce for each value of x."""

    def __init__(self, event_dim: int) -> None:
        super().__init__()
        self.event_dim = event_dim

    def forward(self, raw: Tensor) -> dist.Distribution:
        """
        :param raw: the decoder's output, shape ``left_shape + (num_outputs,) + x_shape``
        :returns: distribution with batch shape ``left_shape`` and event shape ``x_shape``
        """
        raise NotImplementedError


class BernoulliLikelihood(Likelihood):
    """Binary data: independent Bernoulli with the decoder's output as logits. x must be 0 or 1."""

    def forward(self, raw: Tensor) -> dist.Distribution:
        return JointBernoulli(dist.Bernoulli(logits=self._only(raw)), self.event_dim)

    def _only(self, raw: Tensor) -> Tensor:
        return raw.squeeze(-1 - self.event_dim)


class ContinuousBernoulliLikelihood(BernoulliLikelihood):
    """Grey levels in [0, 1]: a Bernoulli with its missing normalising constant (:class:`ContinuousBernoulli`)."""

    def forward(self, raw: Tensor) -> dist.Distribution:
        return ContinuousBernoulli(self._only(raw)).to_event(self.event_dim)


START_SCALES = (1e-3, 1e2)
"""Least and greatest, of a learned scale."""


class GaussianLikelihood(BernoulliLikelihood):
    """Real data: N(loc, scale^2) with the decoder's output as loc and one scale for all values, or for each channel.

    :param event_dim: number of dimensions of one datum
    :param scale: the fixed scale, in units of x; learned when None
    :param num_channels: size of x's first dimension, each value of which learns a scale; None for one scale
    :param start_scale: where a learned scale starts. Where it is far above the scale of the data, codes are worth less
        than their KL until it has fallen, and may carry nothing ever after
    """

    def __init__(
        self,
        event_dim: int,
        scale: float | None = None,
        num_channels: int | None = None,
        start_scale: float = 1.0,
    ) -> None:
        super().__init__(event_dim)
        if scale is not None and not scale > 0:
            raise ValueError(f"scale must be positive, got {scale}: give scale=0.1, or leave it out to learn it")
        if not START_SCALES[0] <= start_scale <= START_SCALES[1]:
            raise ValueError(
                f"start_scale must be from {START_SCALES[0]:g} to {START_SCALES[1]:g}, got {start_scale:g}: give about "
                "the standard deviation that a good reconstruction leaves"
            )
        self.fixed_scale = scale
        shape = () if num_channels is None else (num_channels, *(1,) * (event_dim - 1))
        self.raw_scale = nn.Parameter(torch.full(shape, raw_of(start_scale))) if scale is None else None

    def forward(self, raw: Tensor) -> dist.Distribution:
        scale: Any = self.fixed_scale if self.raw_scale is None else positive(self.raw_scale)
        return dist.Normal(self._only(raw), scale).to_event(self.event_dim)


class DiscretisedLogisticLikelihood(Likelihood):
    """Grey levels k/255: a logistic density integrated over each of 256 bins (:class:`DiscretisedLogistic`)."""

    num_outputs = 2

    def forward(self, raw: Tensor) -> dist.Distribution:
        loc, scale = raw.unbind(-1 - self.event_dim)
        return DiscretisedLogistic(torch.sigmoid(loc), positive(scale, floor=1e-2)).to_event(self.event_dim)


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


class JointBernoulli(dist.Independent):
    r"""Independent Bernoullis as one event, whose density takes one logarithm for many values.

    .. math:: \log p(x) = \sum_i (x_i - [l_i > 0])\, l_i - \log\big(1 + e^{-|l_i|}\big), \qquad l = \mathrm{logits}

    Each factor :math:`1 + e^{-|l_i|}` lies between 1 and 2, so that a hundred of them can be multiplied before one
    logarithm is taken of all. It equals ``Bernoulli(logits=...).to_event()``, to the same rounding; of logits in half
    precision the sum is in float32, as that of torch is under autocast: hundreds of nats have no decimals in bfloat16.

    :param base_dist: Bernoulli with the event's dimensions among its batch dimensions
    :param reinterpreted_batch_ndims: number of the event's dimensions
    """

    def log_prob(self, value: Tensor) -> Tensor:
        logits, num = self.base_dist.logits, self.reinterpreted_batch_ndims
        if not num:
            return self.base_dist.log_prob(value)
        if self.base_dist._validate_args:
            try:
                self.base_dist._validate_sample(value)
            except ValueError:
                check_binary(value)
                raise
        x = value.flatten(-num)
        at_least_float = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(-num)
        wrong = (x - (at_least_float > 0).to(at_least_float)) * at_least_float  # 0 where the sign of the logit is right
        return wrong.sum(-1) - apply(_SumLog, at_least_float)


class _SumLog(torch.autograd.Function):
    """Sum of log(1 + exp(-|logits|)) over the last dimension."""

    generate_vmap_rule = True
    largest_product = 120  # of factors up to 2: float32 holds 2**127

    @staticmethod
    def forward(logits: Tensor) -> Tensor:
        size = logits.shape[-1]
        num_factors = max(n for n in range(1, _SumLog.largest_product + 1) if size % n == 0)
        factors = 1 + torch.exp(-logits.abs().unflatten(-1, (-1, num_factors)))
        return factors.prod(-1).log().sum(-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (logits,) = ctx.saved_tensors
        slope = torch.sigmoid(-logits.abs())
        return gradient.unsqueeze(-1) * torch.where(logits > 0, -slope, slope)


class ContinuousBernoulli(dist.TorchDistribution):
    r"""Continuous Bernoulli that stays a density where the logits are large.

    .. math:: p(x) = \frac{\eta\, e^{\eta x}}{e^{\eta} - 1}, \qquad 0 \le x \le 1, \quad \eta = \mathrm{logits}

    torch's class takes its constant from probabilities that it clamps one rounding step away from 0 and 1: in float32
    it integrates to 0.80 at logits 20 and to 0.16 at logits 100, and its mean stops at 0.937. Here all is computed from
    the logits, by series near 0.

    :param logits: shape ``batch_shape``

    Reference: Gabriel Loaiza-Ganem and John P. Cunningham, The continuous Bernoulli: fixing a pervasive error in
    variational autoencoders, NeurIPS 2019, arXiv:1907.06845.
    """

    arg_constraints = {"logits": constraints.real}
    support = constraints.unit_interval
    has_rsample = False

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: _size, _instance: object = None) -> "ContinuousBernoulli":
        return ContinuousBernoulli(self.logits.expand(batch_shape), validate_args=False)

    def _series_below(self) -> tuple[Tensor, Tensor]:
        """Where the series serve, and the logits' size elsewhere, 1 there."""
        size = self.logits.abs()
        return size < 0.1, torch.where(size < 0.1, 1.0, size)

    @property
    def mean(self) -> Tensor:
        small, size = self._series_below()
        eta = self.logits
        series = eta / 12 - eta**3 / 720 + eta**5 / 30240
        return 0.5 + torch.where(small, series, eta.sign() * (0.5 / torch.tanh(size / 2) - 1 / size))

    def sample(self, sample_shape: _size = ()) -> Tensor:
        with torch.no_grad():
            u = torch.rand(self._extended_shape(Size(sample_shape)), dtype=self.logits.dtype, device=self.logits.device)
            size = self.logits.abs().clamp(min=1e-4)  # uniform to one part in 10^4 there
            x = (-torch.log1p(u * torch.expm1(-size)) / size).clamp(0, 1)  # of density falling in x
            return torch.where(self.logits < 0, x, 1 - x)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        small, size = self._series_below()
        eta = self.logits
        series = eta**2 / 24 - eta**4 / 2880 + eta**6 / 181440
        log_norm = torch.where(small, series, size / 2 + torch.log(-torch.expm1(-size) / size))  # at x = 1/2
        return eta * (value - 0.5) - log_norm


class DiscretisedLogistic(dist.TorchDistribution):
    r"""Logistic distribution rounded to the grey levels 0, 1/255, ..., 1.

    .. math::
        P(k/255) = \sigma\!\left(\tfrac{(k + 1/2)/255 - \mathrm{loc}}{\mathrm{scale}}\right)
                 - \sigma\!\left(\tfrac{(k - 1/2)/255 - \mathrm{loc}}{\mathrm{scale}}\right)

    with the lower tail added to level 0 and the upper to level 1, so that the levels sum to one. In words: each level
    has the mass of the logistic density between the middles to its neighbours. The difference is computed as
    :math:`\sigma(a)\,\sigma(-b)\,(1 - e^{b-a})`, which is exact far out in the tails.

    The public code that this replaces (vae_vampprior) uses bins of width 1/256 on levels spaced by 1/255 and an
    additive 1e-7 in the logarithm; neither sums to one.

    :param loc: shape ``batch_shape``, in units of x
    :param scale: positive, broadcastable with loc

    Reference: Diederik P. Kingma et al., Improving variational inference with inverse autoregressive flow, NIPS 2016,
    arXiv:1606.04934.
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.unit_interval
    has_rsample = False
    levels = 256

    def __init__(self, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: _size, _instance: object = None) -> "DiscretisedLogistic":
        return DiscretisedLogistic(self.loc.expand(batch_shape), self.scale.expand(batch_shape), validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The mean, less what rounding to the levels changes: below 2e-5 for scales of 0.01 and more."""
        upper, lower = F.softplus(self.loc / self.scale), F.softplus((self.loc - 1) / self.scale)
        return (self.scale * (upper - lower)).clamp(0, 1)

    def sample(self, sample_shape: _size = ()) -> Tensor:
        shape = self._extended_shape(Size(sample_shape))
        with torch.no_grad():
            u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device).clamp(min=1e-12)
            x = self.loc + self.scale * (u.log() - (-u).log1p())
            return (x.clamp(0, 1) * (self.levels - 1)).round() / (self.levels - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        half = 0.5 / (self.levels - 1)
        upper = (value + half - self.loc) / self.scale
        lower = (value - half - self.loc) / self.scale
        inner = F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(-2 * half / self.scale))
        below_top = torch.where(value < half, F.logsigmoid(upper), inner)
        return torch.where(value > 1 - half, F.logsigmoid(-lower), below_top)


LIKELIHOODS: dict[str, Callable[..., Likelihood]] = {
    "bernoulli": BernoulliLikelihood,
    "continuous_bernoulli": ContinuousBernoulliLikelihood,
    "discretised_logistic": DiscretisedLogisticLikelihood,
    "gaussian": GaussianLikelihood,
}


def make_likelihood(
    name: str, event_dim: int, scale: float | None = None, start_scale: float | None = None
) -> Likelihood:
    """The likelihood of that name.

    :param name: one of ``LIKELIHOODS``
    :param event_dim: number of dimensions of one datum, ``len(x_shape)``
    :param scale: the fixed scale of the Gaussian, learned when None
    :param start_scale: where the learned scale of the Gaussian starts, at 1 when None
    :raises ValueError: if the name is unknown, a scale is out of range, or given to another likelihood than the
        Gaussian, or both are given
    """
    if name not in LIKELIHOODS:
        raise ValueError(f"likelihood '{name}' is unknown: {hint(name, LIKELIHOODS)}")
    if scale is not None and start_scale is not None:
        raise ValueError(
            f"start_scale={start_scale:g} is of a learned scale, and scale={scale:g} is fixed: leave one of the two out"
        )
    if name == "gaussian":
        return GaussianLikelihood(event_dim, scale, start_scale=1.0 if start_scale is None else start_scale)
    for option, value in (("scale", scale), ("start_scale", start_scale)):
        if value is not None:
            raise ValueError(
                f"{option}={value:g} belongs to likelihood='gaussian', got likelihood='{name}': leave it out"
            )
    return LIKELIHOODS[name](event_dim)
