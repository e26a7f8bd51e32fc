"""The objective of beta-TCVAE."""

import math
from typing import ClassVar, Literal

import torch
from pyro import poutine
from torch import Tensor

from .._options import typed
from ..errors import UserError, is_size
from .code import Code, read_code, values_of
from .elbo import ELBO
from .terms import Terms

__all__ = ["TotalCorrelation"]


class TotalCorrelation(ELBO):
    r"""beta-TCVAE: the KL in three parts, each with a factor of its own.

    .. math::
        \mathrm{KL} = \underbrace{E \log \frac{q(z|x)}{q(z)}}_{\text{mutual information}}
            + \underbrace{E \log \frac{q(z)}{\prod_d q(z_d)}}_{\text{total correlation}}
            + \underbrace{E \log \frac{\prod_d q(z_d)}{p(z)}}_{\text{dimension-wise KL}}, \qquad
        q(z) = \frac{1}{N} \sum_{n=1}^N q(z \mid x_n)

    .. math:: -E_q \log p(x|z) + \mathrm{KL} + (\alpha - 1)\, \mathrm{MI} + (\beta - 1)\, \mathrm{TC}
        + (\gamma - 1)\, \mathrm{DKL}

    in nats per datum: alpha, beta and gamma multiply the three. The KL is the bound's, in closed form where it can be;
    with ``analytic_kl=False`` it is the sum of the three estimates and the loss the paper's to the letter. With all
    three factors 1 it is the plain bound. A warm-up multiplies all of the second line but the reconstruction.

    The aggregate posterior q(z) is estimated from the M data of the batch:

    ============== ========================================================================================
    ``stratified`` :math:`q(z_i) \approx \sum_j w_{ij} q(z_i|x_j)`, without bias: with m = M - 1,
                   :math:`w_{ii} = 1/N`, :math:`w_{ij} = (N-m)/(Nm)` for j the row after i, 1/m for the others
    ``weighted``   :math:`w_{ij} = 1/(NM)`; too small, by about log N nats for q(z) and for each
                   :math:`q(z_d)`, so that the total correlation comes out about (D - 1) log N too large
    ============== ========================================================================================

    That takes ``M * M * z_dim`` numbers for each category. The logarithm makes both estimates of log q(z) too small:
    the first one by little where the posteriors of a batch overlap, and by nats where they do not, so that the parts
    that training reports are no values to read (of N(0, I) in two dimensions, M = 100, N = 50,000 and posteriors of
    scale 0.03, log q(z) by 2.7 and the total correlation, which is 0, by 1.8). Batches of one datum say nothing of
    q(z): q(z|x) stands for it, and two of the three parts are 0. Batches larger than N are refused.

    What is regularised: ``z``; of ``hvae`` the upper code ``z2``, the KL of ``z1`` given it staying as it is; in a
    conditional pair q(z) is over data and conditions, and the third part takes p(z|condition). Of ``cp_vae`` it is z
    **within each category**: q(z|c) in the place of q(z), the mean over q(c), and p(z|c), which is a product, as the
    prior, so that categories may lie anywhere and the KL of c stays as it is. With a flow as the prior log p(z) is its
    whole density, and the third part no sum over dimensions.

    With a prior that is trained, gamma above beta pays for correlation: the third part is KL(q(z) || p(z)) less TC, so
    that where the prior follows the codes the last term is :math:`(\beta - \gamma)\, \mathrm{TC}`.

    :param alpha: factor of the mutual information, 0 or more
    :param beta: factor of the total correlation, 0 or more
    :param gamma: factor of the dimension-wise KL, 0 or more
    :param estimator: ``"stratified"`` or ``"weighted"``
    :param num_data: number N of training data; ``fit`` fills it in, and refuses another
    :param analytic_kl: the KL in closed form where there is one, or sampled
    :param num_particles: draws of the latent variables for each datum; each particle of a batch is a batch of its own
        to the estimators
    :raises ValueError: if an option is out of range; in use, if ``num_data`` is not given or smaller than the batch, or
        the posterior is no product over the values of z

    What differs from public code: the stratified weights are those of the paper's appendix, where its own code (and
    its ports) sets the two special ones in columns 0 and 1 of every row; ``weighted`` has the :math:`1/(NM)` that some
    leave out; the third part has a flow's log-determinant, which dpVAE's leaves out; nothing is summed over the batch.

    Reference: Ricky T. Q. Chen, Xuechen Li, Roger Grosse and David Duvenaud, Isolating sources of disentanglement in
    variational autoencoders, NeurIPS 2018, arXiv:1802.04942.
    """

    couples_batch: ClassVar[bool] = True

    @typed
    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 6.0,
        gamma: float = 1.0,
        estimator: Literal["stratified", "weighted"] = "stratified",
        num_data: int | None = None,
        analytic_kl: bool = True,
        num_particles: int = 1,
    ) -> None:
        super().__init__(analytic_kl, num_particles)
        for name, value in (("alpha", alpha), ("beta", beta), ("gamma", gamma)):
            if not value >= 0:
                raise UserError(f"{name} must be 0 or more, got {value}: all three 1 is the plain bound")
        if num_data is not None and not is_size(num_data):
            raise UserError(f"num_data must be a positive integer, got {num_data!r}: leave it out for fit")
        self.alpha, self.beta, self.gamma, self.estimator, self.num_data = alpha, beta, gamma, estimator, num_data
        self._num_data_of_training: int | None = None  # beside the one given, which is what a run records

    def begin(self, num_data: int, seed: int) -> None:
        """Fill in the number of training data, for where none was given; ValueError for another."""
        if self.num_data not in (None, num_data):
            raise UserError(f"num_data is {self.num_data}, but there are {num_data} training data: leave it out")
        self._num_data_of_training = num_data

    def _terms(self, model_trace: poutine.Trace, guide_trace: poutine.Trace) -> Terms:
        terms = super()._terms(model_trace, guide_trace)
        code = read_code(model_trace, guide_trace, self.max_plate_nesting, "TotalCorrelation")
        log_qz_x = code.posterior.log_prob(code.z)
        log_qz, log_qz_each = self._log_aggregate(code)
        factors = {
            "mutual_information": (log_qz_x - log_qz, self.alpha - 1),
            "total_correlation": (log_qz - log_qz_each, self.beta - 1),
            "dimension_wise_kl": (log_qz_each - code.prior.log_prob(code.z), self.gamma - 1),
        }
        for name, (term, factor) in factors.items():
            terms.penalties[name], terms.scales[name] = code.expectation(term), factor * code.scale
        return terms

    def _log_aggregate(self, code: Code) -> tuple[Tensor, Tensor]:
        """log q(z|c) and the sum over d of log q(z_d|c) at each draw, both of the code's shape."""
        values = values_of(code, "TotalCorrelation")
        # row i of the batch to the left of all: each draw under the posteriors of all data j
        log_q_ij = values.log_prob(code.z.movedim(-2, 0).unsqueeze(-2))  # (M,) + shape + (z_dim,)
        log_w = self._log_weights(code.z)
        log_w = log_w.reshape(len(log_w), *(1,) * (log_q_ij.dim() - 3), -1)  # (M, ..., M)
        if code.log_q is not None:
            log_w = log_w + code.log_q
        joint = torch.logsumexp(log_w + log_q_ij.sum(-1), -1)
        each = torch.logsumexp(log_w.unsqueeze(-1) + log_q_ij, -2)
        if code.log_q is not None:  # of the category: q(z, c) / q(c)
            if self.estimator == "stratified":
                log_qc = torch.logsumexp(log_w, -1)
            else:
                log_qc = torch.logsumexp(code.log_q, -1) - math.log(code.z.shape[-2])
            joint, each = joint - log_qc, each - log_qc.unsqueeze(-1)
        return joint.movedim(0, -1), each.sum(-1).movedim(0, -1)

    def _log_weights(self, z: Tensor) -> Tensor:
        """log w_ij, shape ``(M, M)``."""
        size, num_data = z.shape[-2], self.num_data or self._num_data_of_training
        if num_data is None:
            raise UserError(
                "TotalCorrelation needs num_data, the number of training data: give num_data=60000, or train with fit, "
                "which fills it in"
            )
        if size > num_data:
            raise UserError(f"num_data is {num_data}, but the batch has {size} data: give the number of training data")
        if size == 1:
            return z.new_zeros(1, 1)
        if self.estimator == "weighted":
            return z.new_full((size, size), -math.log(num_data * size))
        others = size - 1
        own = torch.eye(size, dtype=z.dtype, device=z.device)
        after = own.roll(1, 1)
        w = own / num_data + after * (num_data - others) / (num_data * others) + (1 - own - after) / others
        return w.log()
