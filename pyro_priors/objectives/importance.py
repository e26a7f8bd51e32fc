"""Importance weights, from which log p(x) is estimated datum by datum."""

import torch
from torch import Tensor, nn

from .._sites import is_enumerated, sample_sites
from .elbo import ELBO

__all__ = ["log_importance_weights"]


def log_importance_weights(model: nn.Module, guide: nn.Module, *args, num_samples: int = 1, **kwargs) -> Tensor:
    r"""Logarithms of importance weights whose mean is an unbiased estimate of p(x).

    .. math:: w_s = \sum_c p(c)\, \frac{p(z_{sc} \mid c)\, p(x \mid z_{sc}, c)}{q(z_{sc} \mid x, c)}, \qquad
        z_{sc} \sim q(z \mid x, c), \qquad E\, w_s = p(x)

    Enumerated categories are summed exactly, with their prior probabilities and a draw of z for each; without one,
    :math:`w_s = p(x, z_s) / q(z_s \mid x)`. KL weights play no part.

    :param model: a program with its plate ``"data"``
    :param guide: its guide
    :param args: arguments of the programs, x first
    :param num_samples: number of samples S for each datum, in one call of the programs
    :returns: shape ``(S, batch)``, in nats
    """
    (traces,) = ELBO(num_particles=num_samples)._get_traces(model, guide, args, kwargs)
    model_trace, guide_trace = traces
    log_w = sum(site["fn"].log_prob(site["value"]) for _, site in sample_sites(model_trace))
    for name, site in sample_sites(guide_trace):
        if not is_enumerated(site) and name in model_trace.nodes:
            log_w = log_w - site["fn"].log_prob(site["value"])
    num_plates = 1 if num_samples == 1 else 2
    if log_w.dim() > num_plates:
        log_w = torch.logsumexp(log_w, tuple(range(-log_w.dim(), -num_plates)))
    return log_w.reshape(num_samples, -1)
