"""The objective of InfoVAE with the maximum mean discrepancy."""

from typing import ClassVar, Literal

import torch
from pyro import poutine
from torch import Tensor

from .._options import typed
from .._precision import at_least_float32
from ..errors import UserError
from .code import Code, read_code
from .elbo import ELBO
from .terms import Terms

__all__ = ["Info", "squared_mmd"]


class Info(ELBO):
    r"""InfoVAE: less of the KL, and a distance between aggregate posterior and prior in its place.

    .. math:: -E_q \log p(x \mid z) + (1 - \alpha)\, \mathrm{KL}(q(z \mid x) \,\|\, p(z))
        + (\alpha + \lambda - 1)\, \mathrm{MMD}^2(q(z), p(z))

    in nats per datum, but for the discrepancy, which has no unit. With ``alpha=0`` and ``lambd=1`` it is the plain
    bound; with ``alpha=1`` and ``lambd=1`` the MMD-VAE, without KL. A warm-up multiplies all but the reconstruction.

    The discrepancy is between the codes of the batch and as many draws of the prior:

    .. math:: \mathrm{MMD}^2 = \frac{1}{M(M-1)} \sum_{i \neq j}
        k(z_i, z_j) + k(y_i, y_j) - k(z_i, y_j) - k(z_j, y_i), \qquad z_i \sim q(z|x_i),\ y_i \sim p(z)

    without bias, also where :math:`y_i` is drawn given the condition of :math:`x_i`; it may be below 0, and a batch of
    one datum has 0. With ``unbiased=False`` the terms of i = j are in, and :math:`1/M^2` in front: never below 0, too
    large by about :math:`2 (1 - E\,k) / M`. With :math:`C = 2\, \mathrm{bandwidth}^2 D` the kernels are

    ============================= =========================================
    ``gaussian``                  :math:`\exp(-|z - y|^2 / C)`
    ``inverse_multiquadratic``    :math:`C / (C + |z - y|^2)`
    ============================= =========================================

    What is regularised: ``z``; of ``hvae`` the upper code ``z2``, the KL of ``z1`` given it staying at 1; in a
    conditional pair z, with one y for each datum's condition. Of ``cp_vae`` it is category and code together: a kernel
    that is 0 between two categories, summed exactly over them, and ``1 - alpha`` on the KL of both. The draws y of a
    flow or a Gaussian prior carry a gradient to it, those of a mixture or VampPrior do not: such a prior learns by the
    KL alone, and alpha=1, which leaves none, is refused.

    :param alpha: at most 1
    :param lambd: the paper's lambda, at least 1 - alpha
    :param kernel: ``"gaussian"`` or ``"inverse_multiquadratic"``
    :param bandwidth: above 0
    :param unbiased: which of the two estimators
    :param analytic_kl: the KL in closed form where there is one, or sampled
    :param num_particles: draws of the latent variables for each datum; each particle of a batch is a batch of its own
        to the estimator
    :raises ValueError: if an option is out of range; in use with alpha=1, if draws of the prior have no gradient

    What differs from public code: that of MMD-VAE and dpVAE has :math:`\exp(-|z - y|^2 / D^2)`, which is
    ``bandwidth=sqrt(D/2)`` here, and the biased estimator; dpVAE's adds this mean to a KL and a reconstruction summed
    over the batch, so that its lambda of 1000 is one of 1000 / 24 here.

    References: Shengjia Zhao, Jiaming Song and Stefano Ermon, InfoVAE: balancing learning and inference in variational
    autoencoders, AAAI 2019, arXiv:1706.02262. Arthur Gretton et al., A kernel two-sample test, JMLR 13, 2012 (lemma 6).
    """

    couples_batch: ClassVar[bool] = True

    @typed
    def __init__(
        self,
        alpha: float = 0.0,
        lambd: float = 1000.0,
        kernel: Literal["gaussian", "inverse_multiquadratic"] = "gaussian",
        bandwidth: float = 1.0,
        unbiased: bool = True,
        analytic_kl: bool = True,
        num_particles: int = 1,
    ) -> None:
        super().__init__(analytic_kl, num_particles)
        if not alpha <= 1:
            raise UserError(f"alpha must be at most 1, got {alpha}: alpha=0 and lambd=1 is the plain bound")
        if not alpha + lambd >= 1:
            raise UserError(f"lambd must be at least 1 - alpha = {1 - alpha}, got {lambd}")
        if not bandwidth > 0:
            raise UserError(f"bandwidth must be above 0, got {bandwidth}")
        self.alpha, self.lambd, self.kernel, self.bandwidth, self.unbiased = alpha, lambd, kernel, bandwidth, unbiased

    def _terms(self, model_trace: poutine.Trace, guide_trace: poutine.Trace) -> Terms:
        terms = super()._terms(model_trace, guide_trace)
        code = read_code(model_trace, guide_trace, self.max_plate_nesting, "Info")
        if self.alpha == 1 and not code.prior.has_rsample:
            raise UserError(
                f"alpha=1 leaves the prior of site '{code.name}' without a gradient, as its draws have none: choose "
                "alpha below 1, or another prior, such as a flow"
            )
        for name in (code.name, *code.enumerated):
            terms.scales[f"kl_{name}"] = (1 - self.alpha) * terms.scales[f"kl_{name}"]
        terms.penalties["squared_mmd"] = self._squared_mmd(code)
        terms.scales["squared_mmd"] = (self.alpha + self.lambd - 1) * code.scale
        return terms

    def _squared_mmd(self, code: Code) -> Tensor:
        y = at_least_float32(code.prior.rsample() if code.prior.has_rsample else code.prior.sample())
        q, p = (None if log_c is None else log_c.exp() for log_c in (code.log_q, code.log_p))
        return code.over_categories(squared_mmd(code.z, y, q, p, self.kernel, self.bandwidth, self.unbiased))


def squared_mmd(
    z: Tensor,
    y: Tensor,
    z_weight: Tensor | None = None,
    y_weight: Tensor | None = None,
    kernel: str = "gaussian",
    bandwidth: float = 1.0,
    unbiased: bool = True,
) -> Tensor:
    """Estimate of the squared maximum mean discrepancy of two sets of points, as in :class:`Info`.

    :param z: points, shape ``left_shape + (M, z_dim)``
    :param y: points, of the same shape
    :param z_weight: what each point counts, shape ``left_shape + (M,)``; 1 when left out
    :param y_weight: likewise
    :param kernel: as in :class:`Info`
    :param bandwidth: as in :class:`Info`
    :param unbiased: as in :class:`Info`
    :returns: shape ``left_shape``
    """
    size, z_dim = z.shape[-2:]
    scale = 2 * bandwidth**2 * z_dim

    def k(a: Tensor, b: Tensor, a_weight: Tensor | None, b_weight: Tensor | None) -> Tensor:
        squares = (a.unsqueeze(-2) - b.unsqueeze(-3)).square().sum(-1)  # (..., M, M)
        found = torch.exp(-squares / scale) if kernel == "gaussian" else scale / (scale + squares)
        found = found if a_weight is None else a_weight.unsqueeze(-1) * found
        return found if b_weight is None else found * b_weight.unsqueeze(-2)

    terms = k(z, z, z_weight, z_weight) + k(y, y, y_weight, y_weight) - 2 * k(z, y, z_weight, y_weight)
    if unbiased:
        terms = terms * (1 - torch.eye(size, dtype=z.dtype, device=z.device))
    return terms.sum((-2, -1)) / (size * max(size - 1, 1) if unbiased else size**2)
