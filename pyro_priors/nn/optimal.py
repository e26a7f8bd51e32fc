"""The Gaussian likelihood whose scale is the best one of each batch, in closed form."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor

from .._options import typed
from .._precision import HALF, at_least_float32
from .likelihood import Likelihood

if TYPE_CHECKING:
    from torch.types import _size

__all__ = ["OptimalGaussianLikelihood", "OptimalNormal"]


class OptimalGaussianLikelihood(Likelihood):
    r"""N(loc, scale^2) with the decoder's output as loc and the scale that makes the batch most probable.

    .. math::
        \mathrm{scale}^2 = \arg\max_{s^2} \log \mathcal{N}(x \mid \mathrm{loc}, s^2 I)
            = \frac{1}{P} \lVert x - \mathrm{loc} \rVert^2

    (De 2025, equation 10; Rybkin et al. 2021). P counts all values of all data of the batch, particles included: one
    scalar. Where an enumerated category is summed, the squared error of each category counts with q(c|x), as in the
    bound: :math:`\mathrm{scale}^2 = \frac{1}{P} \sum_c q(c \mid x) \lVert x - \mathrm{loc}_c \rVert^2`. Our objectives
    pass these weights; in Pyro's own ELBOs all categories count the same, and the scale is then not the best one.
    With it the reconstruction is :math:`-\frac{P}{2} \log \mathrm{MSE}` and a constant (De's equation 11); its
    gradient goes through the scale too. :math:`\log \mathrm{scale}` then passes :math:`-6 + \mathrm{softplus}(\cdot +
    6)`, as in the code of Rybkin et al., so that a batch that is met exactly has a finite density; scales far above
    :math:`e^{-6}` are hardly moved (0.1 becomes 0.1025).

    ============= ======================================================================================================
    mode          scale
    ============= ======================================================================================================
    training      that of the values whose log-density is asked for; each such call moves the running estimate
    evaluation    the running estimate of the squared error, frozen: of validation, importance weights and samples
    ============= ======================================================================================================

    In training the number is therefore the largest likelihood of the batch under any scale (less what the softclip
    costs, about ``size * (exp(-6) / scale) ** 2`` nats for data of so many values: 0.6 of MNIST at a scale of 0.09),
    and not a density of x; in evaluation it is a density. Samples have the running scale in both modes. The estimate is
    a mean over the batches by their sizes, in which those before count ``1 - momentum`` as much; it is a buffer, and
    goes into every checkpoint. Where training images are bent at random (``rotate`` and the like), they are smoother
    than others, and their error smaller: :func:`pyro_priors.fit` finds the estimate of each epoch anew, from training
    data as they are.

    :param event_dim: number of dimensions of one datum
    :param momentum: weight of a batch in the running estimate, where all are of one size
    :param min_log_scale: lower end of the scale's logarithm; in the units of x, so for values in [0, 1] or near them

    References: Oleh Rybkin, Kostas Daniilidis and Sergey Levine, Simple and effective VAE training with calibrated
    decoders, ICML 2021, arXiv:2006.13202. Tuhin Subhra De, Improving conditional VAE with approximation using
    normalizing flows, 2025, arXiv:2511.08946. The code of Rybkin et al. evaluates with the scale of the evaluation's
    own batch, which is optimistic and depends on the batch (De does not say what the paper does); here it is frozen.
    """

    squared_error: Tensor
    num_values: Tensor
    has_scale = True

    @typed
    def __init__(self, event_dim: int, momentum: float = 0.1, min_log_scale: float = -6.0) -> None:
        super().__init__(event_dim)
        self.momentum, self.min_log_scale = momentum, min_log_scale
        self.register_buffer("squared_error", torch.ones(()))
        self.register_buffer("num_values", torch.zeros(()))

    def forward(self, raw: Tensor) -> dist.Distribution:
        return OptimalNormal(self._only(raw), self).to_event(self.event_dim)

    def scale(self, squared_error: Tensor | None = None) -> Tensor:
        """The scale, a scalar, that belongs to a mean squared error; the running one when left out."""
        error = at_least_float32(self.squared_error if squared_error is None else squared_error)
        log_scale = 0.5 * error.clamp(min=torch.finfo(error.dtype).tiny).log()
        return torch.exp(self.min_log_scale + F.softplus(log_scale - self.min_log_scale))

    @torch.no_grad()
    def observe(self, squared_error: Tensor, num_values: int) -> None:
        """Move the running estimate by a batch's mean squared error, a scalar, of so many values.

        A batch whose error is not finite, and whose loss shows it, leaves the estimate as it was.
        """
        known = squared_error.isfinite()
        total = (1 - self.momentum) * self.num_values + num_values
        moved = torch.lerp(self.squared_error, squared_error.to(self.squared_error), num_values / total)
        self.num_values.copy_(torch.where(known, total, self.num_values))
        self.squared_error.copy_(torch.where(known, moved, self.squared_error))

    def _apply(self, fn: Callable, recurse: bool = True) -> "OptimalGaussianLikelihood":
        """Convert the module, but keep its running estimate in float32: half precision rounds small moves to 0."""
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, value in before.items():
            if getattr(self, name).dtype in HALF:
                setattr(self, name, value.to(getattr(self, name).device))
        return self

    couples_batch = True
    """The scale in training is that of the whole batch, so that processes cannot share one."""

    def recalibrate(self) -> None:
        """Forget the running estimate: the next batch is all that it knows of."""
        self.num_values.zero_()


class OptimalNormal(dist.Normal):
    """Gaussian of a scale that, in training, is found from the values whose log-density is asked for.

    :param loc: shape ``batch_shape``
    :param likelihood: whose running estimate gives the scale, and is moved in training
    """

    weight: Tensor | None = None
    """Weight of each category in the squared error, shape ``enumerated_shape + (..., batch)``, which sums to 1 over the
    categories. An objective that sums over categories sets it to q(c|x)."""

    def __init__(self, loc: Tensor, likelihood: OptimalGaussianLikelihood, validate_args: bool | None = None) -> None:
        self.likelihood, self.training = likelihood, likelihood.training
        super().__init__(loc, likelihood.scale(), validate_args=validate_args)

    def expand(self, batch_shape: "_size", _instance: object = None) -> "OptimalNormal":
        return OptimalNormal(self.loc.expand(batch_shape), self.likelihood, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        if not self.training:
            return super().log_prob(value)
        error = (value - self.loc).square()
        if self.weight is None:
            squared_error, num_values = error.mean(), error.numel()
        else:
            of_each = error.flatten(-self.likelihood.event_dim).mean(-1) if self.likelihood.event_dim else error
            weight = self.weight.expand(torch.broadcast_shapes(self.weight.shape, of_each.shape))
            squared_error, num_values = (weight * of_each).sum() / weight.sum(), value.numel()
        self.likelihood.observe(squared_error, num_values)
        return dist.Normal(self.loc, self.likelihood.scale(squared_error)).log_prob(value)
