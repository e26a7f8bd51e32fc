"""Importance weights, from which log p(x) is estimated datum by datum."""

from typing import Any, cast

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from torch import Tensor, nn

from .._lock import LOCK
from .._memory import check_memory
from .._options import Size, typed
from ..errors import UserError
from ..sites import is_enumerated, sample_sites
from .elbo import ELBO
from .expectation import Expectation

__all__ = ["log_importance_weights"]


@LOCK
@typed
def log_importance_weights(
    model: nn.Module, guide: nn.Module, *args, num_samples: Size = 1, categories: str = "sum", **kwargs
) -> Tensor:
    r"""Logarithms of importance weights whose mean is an unbiased estimate of p(x).

    .. math:: w_s = \sum_c p(c)\, \frac{p(z_{sc} \mid c)\, p(x \mid z_{sc}, c)}{q(z_{sc} \mid x, c)}, \qquad
        z_{sc} \sim q(z \mid x, c), \qquad E\, w_s = p(x)

    Enumerated categories are summed exactly, with their prior probabilities and a draw of z for each; without one,
    :math:`w_s = p(x, z_s) / q(z_s \mid x)`. With ``categories="draw"`` a category is drawn along with z,
    :math:`w_s = p(x, z_s, c_s) / q(z_s, c_s \mid x)`, at 1/K of the cost: unbiased too, with a variance of c besides,
    and without a gradient by q(c|x). KL weights play no part. The programs run in the mode that they are in: those of
    a relaxed category belong in evaluation mode, as :meth:`pyro_priors.Pair.log_prob` has them.

    :param model: a program with its plate ``"data"``
    :param guide: its guide
    :param args: arguments of the programs, x first
    :param num_samples: number of samples S for each datum, in one call of the programs
    :param categories: ``"sum"`` or ``"draw"``: what becomes of categories that the guide has enumerated
    :returns: shape ``(S, batch)``, in nats
    :raises ValueError: as the objectives do, if the programs do not fit each other, or a site is not one number for
        each datum; if ``categories`` is neither
    """
    if categories not in ("sum", "draw"):
        raise UserError(f"categories must be one of sum, draw, got {categories!r}")
    if args and isinstance(args[0], Tensor):
        num_bytes = args[0].element_size() * args[0].numel() * num_samples
        check_memory(num_bytes, f"num_samples={num_samples}", "give fewer, several times: log_prob does")
    drawn: Any = {"enumerate": None, "num_enumerated": None}
    inference: Any = poutine.infer_config(guide, lambda site: drawn) if categories == "draw" else guide
    elbo = ELBO(num_particles=num_samples)
    elbo.exact = True
    ((model_trace, guide_trace),) = elbo._get_traces(model, inference, args, kwargs)
    num_plates = elbo.max_plate_nesting
    expectation = Expectation(guide_trace, num_plates, draws=categories == "draw")
    log_w = cast(Tensor, 0.0)
    for trace, other, sign in ((model_trace, guide_trace, 1), (guide_trace, model_trace, -1)):
        for name, site in sample_sites(trace):
            if not site["is_observed"] and name not in other.nodes:
                raise UserError(f"site '{name}' is in one of the two programs only: every latent site needs both")
            if name not in model_trace.nodes or (trace is guide_trace and is_enumerated(site)):
                continue
            term = scale_and_mask(site["fn"].log_prob(site["value"]), 1.0, site["mask"])
            expectation.check(name, site, term)
            log_w = log_w + sign * term
    if log_w.dim() > num_plates:
        log_w = torch.logsumexp(log_w, tuple(range(-log_w.dim(), -num_plates)))
    return log_w.reshape(num_samples, -1)
