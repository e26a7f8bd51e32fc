"""Losses and every gradient against the papers' equations in plain torch, and against Pyro's own ELBOs.

The same noise on both sides: the seed is set, the programs draw as they always do, and the by-hand side draws
what ``Normal.rsample`` draws, ``torch.normal(zeros, ones)`` of z's shape, after the same seed. z, or z2 and then
z1, is the only draw of a loss (x is observed, c is enumerated), so this needs no handler and runs exactly what users
run; if Pyro ever draws otherwise, every test here fails. All in float64, so that rtol 1e-10 is far above rounding and
far below any wrong term.
"""

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from torch.testing import assert_close

from by_hand import cp_vae, cvae, hvae, sigma_cvae, sigma_cvae_nf, sigma_vae, vae
from pairs import BATCH, MIXTURES_GIVEN_A_CONDITION, NUM_CATEGORIES, batch, create, gradients, latent_sites, randomise
from pyro_priors.objectives import ELBO, Beta, EnumELBO, KLWeight
from pyro_priors.priors.flow import TRANSFORMS as FLOWS

pytestmark = pytest.mark.usefixtures("float64")

SEED = 3
PAIRS = {
    "vae": ("vae", {}, vae),
    "vae-gaussian-prior": ("vae", {"prior": "gaussian"}, vae),
    "vae-mixture": ("vae", {"prior": "mixture"}, vae),
    "vae-mixture-equal-weights": ("vae", {"prior": "mixture", "learnable_weights": False}, vae),
    "vae-vamp": ("vae", {"prior": "vamp"}, vae),
    "vae-vamp-trained-weights": ("vae", {"prior": "vamp", "learnable_weights": True}, vae),
    **{f"vae-{flow}": ("vae", {"prior": "flow", "transform": flow}, vae) for flow in FLOWS},
    "hvae": ("hvae", {}, hvae),
    "hvae-gaussian-prior": ("hvae", {"prior": "gaussian"}, hvae),
    "hvae-mixture": ("hvae", {"prior": "mixture"}, hvae),
    "hvae-vamp": ("hvae", {"prior": "vamp"}, hvae),
    "hvae-flow": ("hvae", {"prior": "flow"}, hvae),
    "cp_vae": ("cp_vae", {}, cp_vae),
    "cvae": ("cvae", {}, cvae),
    "cvae-equation-3": ("cvae", {"condition_decoder": False}, cvae),
    **{name: (name, {}, cvae) for name in MIXTURES_GIVEN_A_CONDITION},
    **{
        f"{name}-equation-2-trained-weights": (name, {"condition_decoder": True, "learnable_weights": True}, cvae)
        for name in MIXTURES_GIVEN_A_CONDITION
    },
    "sigma_vae": ("sigma_vae", {}, sigma_vae),
    "sigma_vae-mixture": ("sigma_vae", {"prior": "mixture"}, sigma_vae),
    "sigma_cvae": ("sigma_cvae", {}, sigma_cvae),
    "sigma_cvae-flow": ("sigma_cvae", {"prior": "flow"}, sigma_cvae),
    "sigma_cvae_nf": ("sigma_cvae_nf", {}, sigma_cvae_nf),
    "sigma_cvae_nf-additive": ("sigma_cvae_nf", {"transform": "additive_coupling"}, sigma_cvae_nf),
    "sigma_cvae_nf-conditioned": (
        "sigma_cvae_nf",
        {"condition_transforms": True, "condition_decoder": False},
        sigma_cvae_nf,
    ),
    "sigma_cvae_nf-none": ("sigma_cvae_nf", {"prior": "gaussian"}, sigma_cvae_nf),
}
SITE_WEIGHTS = {"z": 0.3, "c": 0.7, "z1": 0.4, "z2": 0.6}


def _set_up(key):
    name, options, by_hand = PAIRS[key]
    pair = randomise(create(name, **options))
    return pair, batch(name), by_hand.elbo_by_hand


def _noise(key, num_particles):
    """The noise of each latent site after the seed: shape (particles, batch, size), after a dimension of categories
    if there is one; that of z alone not in a tuple."""
    lead = ((NUM_CATEGORIES,) if key == "cp_vae" else ()) + ((num_particles,) if num_particles > 1 else ())
    torch.manual_seed(SEED)
    found = []
    for size in latent_sites(PAIRS[key][0]).values():
        shape = (*lead, BATCH, size)
        noise = torch.normal(torch.zeros(shape), torch.ones(shape))
        found.append(noise if num_particles > 1 else noise.unsqueeze(-3))
    return found[0] if len(found) == 1 else tuple(found)


def _by_hand(key, pair, args, elbo_by_hand, num_particles=1, **options):
    tensors = pair.state_dict(keep_vars=True)
    leaves = {id(value): value.detach().clone().requires_grad_() for value in tensors.values()}
    state = {name: leaves[id(value)] for name, value in tensors.items()}  # one leaf for what is shared
    condition = args[1] if len(args) > 1 else None
    loss = elbo_by_hand(state, args[0], condition, _noise(key, num_particles), **options)
    names = [name for name, _ in pair.named_parameters()]
    return loss, dict(zip(names, torch.autograd.grad(loss, [state[name] for name in names]), strict=True))


def _assert_equal(ours, by_hand):
    assert_close(ours[0], by_hand[0], rtol=1e-10, atol=1e-13)
    assert ours[1].keys() == by_hand[1].keys()
    for name, gradient in ours[1].items():
        assert_close(gradient, by_hand[1][name], rtol=1e-10, atol=1e-13, msg=lambda text, name=name: f"{name}: {text}")


CASES = {
    "closed-form": (lambda kind: kind(), {}),
    "sampled-kl": (lambda kind: kind(analytic_kl=False), {"analytic": False}),
    "particles": (lambda kind: kind(num_particles=3), {"num_particles": 3}),
    "particles-sampled-kl": (
        lambda kind: kind(analytic_kl=False, num_particles=3),
        {"analytic": False, "num_particles": 3},
    ),
    "weight": (lambda kind: _weighted(kind(), 0.3), {"kl_weights": 0.3}),
    "tensor-weight": (lambda kind: _weighted(kind(), torch.tensor(0.3)), {"kl_weights": 0.3}),
    "weight-by-site": (lambda kind: _weighted(kind(), SITE_WEIGHTS), {"kl_weights": SITE_WEIGHTS}),
    "weight-sampled-kl-particles": (
        lambda kind: _weighted(kind(analytic_kl=False, num_particles=2), SITE_WEIGHTS),
        {"kl_weights": SITE_WEIGHTS, "analytic": False, "num_particles": 2},
    ),
    "beta": (lambda kind: Beta(beta=2.5), {"beta": 2.5}),
    "beta-in-warm-up": (
        lambda kind: _weighted(Beta(beta=2.5, num_particles=2), SITE_WEIGHTS),
        {"beta": 2.5, "kl_weights": SITE_WEIGHTS, "num_particles": 2},
    ),
}


def _weighted(elbo, weight, key=""):
    elbo.kl_weight = _of_pair(weight, key) if key else weight
    return elbo


def _of_pair(weight, key):
    """Of weights by site those of the pair's own sites: others are refused."""
    sites = {*latent_sites(PAIRS[key][0])} | ({"c"} if key == "cp_vae" else set())
    return {site: weight[site] for site in sites} if isinstance(weight, dict) else weight


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("key", PAIRS)
def test_loss_and_every_gradient_equal_the_equations(key, case):
    """ELBO for all, which enumerates what a guide marks; Beta; particles; weights from outside."""
    pair, args, elbo_by_hand = _set_up(key)
    make, options = CASES[case]
    elbo = make(ELBO)
    elbo.kl_weight = _of_pair(elbo.kl_weight, key)
    torch.manual_seed(SEED)
    loss = elbo(pair.model, pair.guide)(*args)
    _assert_equal((loss, gradients(pair, loss)), _by_hand(key, pair, args, elbo_by_hand, **options))


@pytest.mark.parametrize("case", [case for case in CASES if "beta" not in case])
def test_enum_elbo_equals_the_equations(case):
    """EnumELBO, cp_vae's own, is ELBO with a check."""
    pair, args, elbo_by_hand = _set_up("cp_vae")
    assert type(pair.elbo) is EnumELBO
    make, options = CASES[case]
    elbo = make(EnumELBO)
    elbo.kl_weight = _of_pair(elbo.kl_weight, "cp_vae")
    torch.manual_seed(SEED)
    loss = elbo(pair.model, pair.guide)(*args)
    _assert_equal((loss, gradients(pair, loss)), _by_hand("cp_vae", pair, args, elbo_by_hand, **options))


PYRO = {
    "vae": [(Trace_ELBO, False), (TraceMeanField_ELBO, True), (TraceEnum_ELBO, False)],
    "vae-gaussian-prior": [(Trace_ELBO, False), (TraceMeanField_ELBO, True)],
    "vae-mixture": [(Trace_ELBO, False), (TraceMeanField_ELBO, True)],
    "vae-vamp": [(Trace_ELBO, False), (TraceMeanField_ELBO, True), (TraceEnum_ELBO, False)],
    **{f"vae-{flow}": [(Trace_ELBO, False)] for flow in FLOWS},
    "hvae": [(Trace_ELBO, False), (TraceMeanField_ELBO, True), (TraceEnum_ELBO, False)],
    "hvae-vamp": [(Trace_ELBO, False), (TraceMeanField_ELBO, True)],
    "cvae": [(Trace_ELBO, False), (TraceMeanField_ELBO, True)],
    **{name: [(Trace_ELBO, False), (TraceMeanField_ELBO, True)] for name in MIXTURES_GIVEN_A_CONDITION},
    "cp_vae": [(TraceEnum_ELBO, False)],
    "sigma_vae": [(Trace_ELBO, False), (TraceMeanField_ELBO, True)],
    "sigma_cvae": [(Trace_ELBO, False), (TraceMeanField_ELBO, True)],
    "sigma_cvae_nf": [(Trace_ELBO, False)],
}


@pytest.mark.parametrize("num_particles", [1, 3])
@pytest.mark.parametrize("weight", [1.0, 0.3, SITE_WEIGHTS], ids=["1", "0.3", "by-site"])
@pytest.mark.parametrize(
    ("key", "pyros", "analytic"), [(key, *pyros) for key, listed in PYRO.items() for pyros in listed]
)
def test_pyros_own_elbos_sum_what_ours_average(key, pyros, analytic, weight, num_particles):
    """Trace_ELBO, TraceMeanField_ELBO and TraceEnum_ELBO on the same programs, weighed by the same handler,
    divided by the batch size, equal ours and the equations: the programs are Pyro programs, and the handler
    works outside ours."""
    pair, args, elbo_by_hand = _set_up(key)
    elbo = pyros(
        num_particles=num_particles,
        vectorize_particles=True,
        max_plate_nesting=1,
        strict_enumeration_warning=False,
    )
    weigh = KLWeight(_of_pair(weight, key))
    torch.manual_seed(SEED)
    loss = elbo.differentiable_loss(weigh(pair.model), weigh(pair.guide), *args) / BATCH
    pyros_own = loss, gradients(pair, loss)
    _assert_equal(
        pyros_own,
        _by_hand(key, pair, args, elbo_by_hand, kl_weights=weight, analytic=analytic, num_particles=num_particles),
    )
    ours = _weighted(ELBO(analytic_kl=analytic, num_particles=num_particles), weight, key)
    torch.manual_seed(SEED)
    loss = ours(pair.model, pair.guide)(*args)
    _assert_equal((loss, gradients(pair, loss)), pyros_own)


@pytest.mark.parametrize("key", PAIRS)
def test_svi_steps_along_the_equations_gradient(key):
    """One step of SVI with plain gradient descent at rate 1 moves every parameter by its by-hand gradient,
    and loss, differentiable_loss, loss_and_grads and the step return one number."""
    pair, args, elbo_by_hand = _set_up(key)
    loss, expected = _by_hand(key, pair, args, elbo_by_hand)
    before = {name: parameter.detach().clone() for name, parameter in pair.named_parameters()}
    for method in (pair.elbo.loss, pair.elbo.differentiable_loss, pair.elbo.loss_and_grads):
        torch.manual_seed(SEED)
        value = method(pair.model, pair.guide, *args)
        assert_close(torch.as_tensor(value).item(), loss.item(), rtol=1e-10, atol=1e-13)
    _assert_equal((loss, {name: parameter.grad for name, parameter in pair.named_parameters()}), (loss, expected))
    pair.zero_grad()
    svi = SVI(pair.model, pair.guide, pyro.optim.SGD({"lr": 1.0}), pair.elbo)
    torch.manual_seed(SEED)
    assert_close(svi.step(*args), loss.item(), rtol=1e-10, atol=1e-13)
    for name, parameter in pair.named_parameters():
        assert_close(parameter.detach(), before[name] - expected[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("key", PAIRS)
def test_terms_are_the_equations_parts(key):
    """The parts reported of a batch: at weight 1 whatever the objective weighs, and they add up to loss and
    bound."""
    pair, args, elbo_by_hand = _set_up(key)
    elbo = _weighted(Beta(beta=2.5), SITE_WEIGHTS, key)
    torch.manual_seed(SEED)
    terms = elbo.terms(pair.model, pair.guide, *args)
    latent = {*latent_sites(PAIRS[key][0])} | ({"c"} if key == "cp_vae" else set())
    assert terms.parts.keys() == {"reconstruction"} | {f"kl_{name}" for name in latent}
    assert all(part.shape == (BATCH,) for part in terms.parts.values())
    bound, _ = _by_hand(key, pair, args, elbo_by_hand)
    assert_close(-terms.bound.mean(), bound, rtol=1e-10, atol=1e-13)
    weighted, _ = _by_hand(key, pair, args, elbo_by_hand, kl_weights=SITE_WEIGHTS, beta=2.5)
    assert_close(terms.loss, weighted, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("key", ["sigma_cvae_nf", "sigma_cvae_nf-additive", "sigma_cvae_nf-conditioned"])
def test_samples_of_the_flow_prior_go_through_the_inverse_by_hand(key):
    """The pair's own samples at the same noise, and p(x|z,condition) at them."""
    pair, (_, condition), _ = _set_up(key)
    torch.manual_seed(SEED)
    drawn = pair.sample(BATCH, condition)
    torch.manual_seed(SEED)
    noise = torch.normal(torch.zeros(BATCH, 2), torch.ones(BATCH, 2))
    z = sigma_cvae_nf.sample_by_hand(dict(pair.state_dict()), condition, noise)
    assert_close(drawn["z"], z, rtol=1e-10, atol=1e-12)
