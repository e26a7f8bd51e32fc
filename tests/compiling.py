"""Compiled objectives and eager ones on the same noise, and what to compare of them."""

import torch
from pyro import infer
from torch.testing import assert_close

from pyro_priors.objectives import (
    ELBO,
    Beta,
    Capacity,
    Constrained,
    Factor,
    Info,
    KLWeight,
    TotalCorrelation,
)

SEED = 3


def eager(pair, objective, args, kl_weight=1.0):
    """Loss and gradients of the objective as Pyro runs it."""
    pair.zero_grad()
    torch.manual_seed(SEED)
    if isinstance(objective, ELBO):
        objective.kl_weight = kl_weight
        loss = objective.differentiable_loss(pair.model, pair.guide, *args)
    else:
        weigh = KLWeight(kl_weight)
        loss = objective.differentiable_loss(weigh(pair.model), weigh(pair.guide), *args)
    loss.backward()
    return loss.detach(), take_gradients(pair)


def compiled_loss(loss, args, kl_weight=1.0):
    """Loss and gradients of a compiled objective."""
    loss.pair.zero_grad()
    torch.manual_seed(SEED)
    found = loss.outputs(*args, *(None,) * (2 - len(args)), kl_weight)["loss"]
    found.backward()
    return found.detach(), take_gradients(loss.pair)


def take_gradients(pair):
    found = {name: parameter.grad for name, parameter in pair.named_parameters()}
    pair.zero_grad()
    return found


def assert_same(ours, expected, rtol=1e-10, atol=1e-12):
    assert_close(ours[0], expected[0], rtol=rtol, atol=atol)
    assert ours[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        if gradient is None:
            assert ours[1][name] is None, name
        else:  # sums that cancel are rounded as their terms are
            scale = max(1.0, gradient.abs().max().item())
            message = lambda text, name=name: f"{name}: {text}"  # noqa: E731
            assert_close(ours[1][name], gradient, rtol=rtol, atol=atol * scale, msg=message)


OBJECTIVES = {
    "elbo": lambda: ELBO(),
    "sampled-kl": lambda: ELBO(analytic_kl=False),
    "particles": lambda: ELBO(num_particles=3),
    "beta": lambda: Beta(beta=2.5),
    "capacity": lambda: Capacity(),
    "constrained": lambda: Constrained(kappa_squared=5.0, beta=0.4),
    "total-correlation": lambda: TotalCorrelation(num_data=20),
    "factor": lambda: Factor(hidden=(7, 9)),
    "info": lambda: Info(lambd=10.0),
}


STOCK = {
    "Trace_ELBO": lambda: infer.Trace_ELBO(),
    "Trace_ELBO-particles": lambda: infer.Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
    "TraceMeanField_ELBO": lambda: infer.TraceMeanField_ELBO(),
    "TraceEnum_ELBO": lambda: infer.TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False),
}
