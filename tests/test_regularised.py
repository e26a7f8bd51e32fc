"""Capacity, TotalCorrelation, Factor and Info: against the papers' equations, what is known exactly, and in use.

The equations are in tests/by_hand/regularised.py. Noise is shared as in test_by_hand.py: the guide's draws come first,
then what the objective draws itself.
"""

import copy
import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn as nn
from pyro.infer import SVI
from torch.testing import assert_close

import pyro_priors as pp
import runs
from by_hand import regularised
from pairs import BATCH, NAMES, NUM_CATEGORIES, GivenNoise, batch, create, latent_sites, randomise
from pyro_priors.objectives import ELBO, Beta, Capacity, Factor, Info, TotalCorrelation
from pyro_priors.objectives.code import Code
from pyro_priors.objectives.factor import Discriminator, exchange_values
from pyro_priors.objectives.info import squared_mmd
from pyro_priors.run_folder import RunFolder

SEED = 3
NUM_DATA = 40
PAIRS = {
    "vae": ("vae", {}),
    "vae-gaussian-prior": ("vae", {"prior": "gaussian"}),
    "vae-mixture": ("vae", {"prior": "mixture"}),
    "vae-vamp": ("vae", {"prior": "vamp"}),
    "vae-flow": ("vae", {"prior": "flow"}),
    "hvae": ("hvae", {}),
    "hvae-flow": ("hvae", {"prior": "flow"}),
    "cp_vae": ("cp_vae", {}),
    "cvae": ("cvae", {}),
}


def set_capacity(objective, capacity=0.7):
    objective.current_capacity = capacity
    return objective


def weighted(objective, weight):
    objective.kl_weight = weight
    return objective


SITE_WEIGHTS = {"z": 0.3, "c": 0.7, "z1": 0.4, "z2": 0.6}
CASES = {
    "capacity": lambda: set_capacity(Capacity(gamma=3.0)),
    "capacity-above": lambda: set_capacity(Capacity(gamma=3.0, analytic_kl=False), 1000.0),
    "capacity-weights": lambda: weighted(set_capacity(Capacity(gamma=3.0)), SITE_WEIGHTS),
    "stratified": lambda: TotalCorrelation(0.7, 5.0, 1.6, num_data=NUM_DATA),
    "stratified-all-data": lambda: TotalCorrelation(0.7, 5.0, 1.6, num_data=BATCH),
    "stratified-sampled-kl": lambda: TotalCorrelation(0.7, 5.0, 1.6, num_data=NUM_DATA, analytic_kl=False),
    "weighted": lambda: TotalCorrelation(0.7, 5.0, 1.6, "weighted", NUM_DATA),
    "stratified-weights": lambda: weighted(TotalCorrelation(0.7, 5.0, 1.6, num_data=NUM_DATA), SITE_WEIGHTS),
    "factor": lambda: Factor(2.5, hidden=(7, 9)),
    "factor-weight": lambda: weighted(Factor(2.5, hidden=(7,), analytic_kl=False), 0.3),
    "info": lambda: Info(0.2, 30.0),
    "info-biased-kernel": lambda: Info(-0.4, 30.0, "inverse_multiquadratic", 0.7, unbiased=False),
    "info-weights": lambda: weighted(Info(0.2, 30.0, bandwidth=2.0, analytic_kl=False), SITE_WEIGHTS),
}


def noise_of(name):
    torch.manual_seed(SEED)
    lead = (NUM_CATEGORIES,) if name == "cp_vae" else ()
    shapes = [(*lead, BATCH, size) for size in latent_sites(name).values()]
    return [torch.normal(torch.zeros(shape), torch.ones(shape)) for shape in shapes]


def prior_draws(pair, name, state, codes):
    """What the objective draws of the prior after the guide's draws: by its formula, or of a mixture as it draws."""
    shape = (*((NUM_CATEGORIES,) if name == "cp_vae" else ()), *codes[0].z.shape)
    if codes[0].prior is None and not hasattr(pair.model.prior, "networks"):
        return [pair.model.prior().expand(shape[:-1]).sample()]
    return regularised.draws_by_hand(state, codes, torch.normal(torch.zeros(shape), torch.ones(shape)))


def loss_by_hand(objective, pair, name, state, own, args):
    """The objective's loss, and what its own network minimises, from the equations."""
    noise = noise_of(name)
    condition = args[1] if len(args) > 1 else None
    parts = regularised.parts_by_hand(name, state, args[0], condition, noise, objective.analytic_kl)
    w = dict.fromkeys(parts.kl, objective.kl_weight)
    if isinstance(objective.kl_weight, dict):
        w = {site: objective.kl_weight[site] for site in parts.kl}
    kl = sum(w[site] * value for site, value in parts.kl.items())
    code_weight = w["z2" if name == "hvae" else "z"]
    match objective:
        case Capacity():
            capacity = sum(w.values()) / len(w) * objective.current_capacity
            return objective.gamma * (kl - capacity).abs() - parts.reconstruction
        case TotalCorrelation(alpha=a, beta=b, gamma=c):
            found = regularised.decomposition_by_hand(parts.codes, objective.num_data, objective.estimator)
            penalty = (a - 1) * found[0] + (b - 1) * found[1] + (c - 1) * found[2]
            if not objective.analytic_kl:  # the paper's own form: each part with its factor, and no KL
                penalty = a * found[0] + b * found[1] + c * found[2]
                kl = kl - code_weight * parts.kl["z2" if name == "hvae" else "z"]
            return kl + code_weight * penalty - parts.reconstruction
        case Info(alpha=a, lambd=lambd):
            draws = prior_draws(pair, name, state, parts.codes)
            mmd = regularised.mmd_by_hand(parts.codes, draws, objective.kernel, objective.bandwidth, objective.unbiased)
            if name == "hvae":
                kl = kl - a * w["z2"] * parts.kl["z2"]
            else:
                kl = (1 - a) * kl
            return kl + code_weight * (a + lambd - 1) * mmd - parts.reconstruction
        case Factor():
            z_dim = parts.codes[0].z.shape[-1]
            lead = (NUM_CATEGORIES,) if name == "cp_vae" else ()
            uniform = torch.rand(*lead, z_dim, BATCH)
            start = torch.rand(*lead, z_dim, 1) if lead else None
            correlation, own_loss = regularised.factor_by_hand(own, parts.codes, uniform, start)
            loss = kl + code_weight * objective.gamma * correlation - parts.reconstruction
            return loss + own_loss - own_loss.detach()


def objective_of(case, name):
    """The objective of a case, with weights of the sites that the pair has."""
    objective = CASES[case]()
    if isinstance(objective.kl_weight, dict):
        sites = {*latent_sites(name), *(["c"] if name == "cp_vae" else [])}
        objective.kl_weight = {site: weight for site, weight in objective.kl_weight.items() if site in sites}
    return objective


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("key", PAIRS)
def test_loss_and_every_gradient_equal_the_equations(float64, key, case):
    """The discriminator's gradients too."""
    name, options = PAIRS[key]
    pair, args, objective = randomise(create(name, **options)), batch(name), objective_of(case, name)
    objective.prepare(pair.model, pair.guide, *args)
    own = objective.discriminator if isinstance(objective, Factor) else nn.Module()
    with torch.no_grad():
        for parameter in own.parameters():
            parameter.normal_(0, 0.7)
    torch.manual_seed(SEED)
    loss = objective(pair.model, pair.guide)(*args)
    loss.backward()

    leaves = {id(value): value.detach().clone().requires_grad_() for value in pair.state_dict(keep_vars=True).values()}
    state = {key: leaves[id(value)] for key, value in pair.state_dict(keep_vars=True).items()}
    own_state = {key: value.detach().clone().requires_grad_() for key, value in own.named_parameters()}
    expected = loss_by_hand(objective, pair, name, state, own_state, args)
    expected.backward()
    assert_close(loss, expected, rtol=1e-10, atol=1e-13)
    for found, leaf in ((pair, state), (own, own_state)):
        for parameter_name, parameter in found.named_parameters():
            by_hand = leaf[parameter_name].grad
            assert by_hand is not None, parameter_name
            assert_close(
                parameter.grad,
                by_hand,
                rtol=1e-10,
                atol=1e-11,
                msg=lambda text, parameter_name=parameter_name: f"{parameter_name}: {text}",
            )


NEUTRAL = {
    "beta": lambda: Beta(1.0),
    "capacity": lambda: Capacity(gamma=1.0, capacity=0.0),
    "total-correlation": lambda: TotalCorrelation(1.0, 1.0, 1.0, num_data=NUM_DATA),
    "total-correlation-sampled-kl": lambda: TotalCorrelation(1.0, 1.0, 1.0, num_data=NUM_DATA, analytic_kl=False),
    "factor": lambda: Factor(gamma=0.0, hidden=(7,)),
    "info": lambda: Info(alpha=0.0, lambd=1.0),
}


@pytest.mark.parametrize("objective", NEUTRAL)
@pytest.mark.parametrize("name", NAMES)
def test_at_its_neutral_setting_each_is_the_plain_bound(float64, name, objective):
    # far from each other, so that the KL is above 0 also where it is sampled, and Capacity's distance the KL
    pair, args, objective = randomise(create(name), 1.0), batch(name), NEUTRAL[objective]()
    found = []
    for elbo in (objective, ELBO(analytic_kl=objective.analytic_kl)):
        for weight in (1.0, 0.3):
            objective.prepare(pair.model, pair.guide, *args)
            elbo.kl_weight = weight
            pair.zero_grad()
            torch.manual_seed(SEED)
            loss = elbo(pair.model, pair.guide)(*args)
            loss.backward()
            found.append([loss.detach(), *(parameter.grad for parameter in pair.parameters())])
    for regularised_one, plain in zip(found[:2], found[2:], strict=True):
        assert_close(regularised_one, plain, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", NAMES)
def test_the_bound_is_untouched(float64, name, case):
    """Parts and bound are those of ELBO; the penalties are beside them, and add up with them to the loss."""
    pair, args, objective = randomise(create(name)), batch(name), objective_of(case, name)
    objective.prepare(pair.model, pair.guide, *args)
    found = []
    for elbo in (objective, ELBO(analytic_kl=objective.analytic_kl)):
        torch.manual_seed(SEED)
        found.append(elbo.terms(pair.model, pair.guide, *args))
    ours, plain = found
    assert_close(ours.parts, plain.parts, rtol=1e-12, atol=0)
    assert_close(ours.bound, plain.bound, rtol=1e-12, atol=0)
    assert ours.penalties and not plain.penalties and all(value.dim() == 0 for value in ours.penalties.values())
    assert not ours.penalties.keys() & ours.parts.keys()
    signs = {name: -1 if name == "reconstruction" else 1 for name in ours.parts | ours.penalties}
    loss = sum(sign * ours.scales[name] * ours.means()[name] for name, sign in signs.items())
    assert_close(ours.loss, loss, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("estimator", ["stratified", "weighted"])
@pytest.mark.parametrize("name", NAMES)
def test_the_three_parts_of_the_kl_are_the_sampled_kl(float64, name, estimator):
    pair, args = randomise(create(name)), batch(name)
    terms = TotalCorrelation(estimator=estimator, num_data=NUM_DATA, analytic_kl=False).terms(
        pair.model, pair.guide, *args
    )
    code = "kl_z2" if name == "hvae" else "kl_z"
    assert_close(sum(terms.penalties.values()), terms.parts[code].mean(), rtol=1e-11, atol=0)


@pytest.mark.parametrize("name", ["vae", "cp_vae"])
def test_particles_are_batches_of_their_own(float64, name):
    """The penalty of three particles is the mean of theirs, at the same noise."""
    pair, args = randomise(create(name)), batch(name)
    lead = (NUM_CATEGORIES,) if name == "cp_vae" else ()
    noise = torch.randn(*lead, 3, BATCH, 2)
    single = []
    for particle in range(3):
        with GivenNoise(noise[..., particle, :, :]):
            single.append(TotalCorrelation(num_data=NUM_DATA).terms(pair.model, pair.guide, *args).penalties)
    with GivenNoise(noise):
        together = TotalCorrelation(num_data=NUM_DATA, num_particles=3).terms(pair.model, pair.guide, *args).penalties
    for key, value in together.items():
        assert_close(value, sum(one[key] for one in single) / 3)


# what is known exactly


class Aggregate(nn.Module):
    """z ~ N(0, I), x ~ N(z, 1), and the guide z ~ N(x, scale^2): the aggregate posterior is that of x, blurred."""

    def __init__(self, generative, scale=0.5):
        super().__init__()
        self.generative, self.scale = generative, scale

    def forward(self, x=None, condition=None, size=None):
        with pp.data_plate(x, condition, size):
            if not self.generative:
                return pyro.sample("z", dist.Normal(x, self.scale).to_event(1))
            z = pyro.sample("z", dist.Normal(torch.zeros(x.shape[-1]), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


COVARIANCE = torch.tensor([[1.0, 0.8, 0.2], [0.8, 1.5, -0.4], [0.2, -0.4, 0.8]])


def gaussian_data(size):
    root = torch.linalg.cholesky(COVARIANCE.to(torch.get_default_dtype()))
    return torch.randn(size, 3) @ root.T


def exact_total_correlation(covariance):
    return 0.5 * (covariance.diagonal().log().sum() - torch.logdet(covariance)).item()


def test_total_correlation_of_a_gaussian_aggregate():
    """All 2000 data in one batch: 1/2 (sum log variances - log det), up to the sampling of x and z; the mutual
    information likewise. Standard error of each about 0.03 (of 2000 draws), the tolerance 4 of them."""
    covariance = COVARIANCE + 0.25 * torch.eye(3)
    terms = TotalCorrelation(num_data=2000).terms(Aggregate(True), Aggregate(False), gaussian_data(2000))
    assert terms.penalties["total_correlation"].item() == pytest.approx(exact_total_correlation(covariance), abs=0.1)
    information = 0.5 * torch.logdet(covariance / 0.25).item()
    assert terms.penalties["mutual_information"].item() == pytest.approx(information, abs=0.12)


def test_stratified_weights_have_no_bias(float64):
    """Every batch that holds a datum, in every order: the mean estimate of q(z) is the density itself."""
    num_data, size = 6, 4
    density = torch.rand(num_data)  # q(z|x_n) at some z
    for estimator, factor in (("stratified", 1.0), ("weighted", None)):
        w = TotalCorrelation(estimator=estimator, num_data=num_data)._log_weights(torch.zeros(size, 1)).exp()
        for row in range(size):
            estimates = []
            for others in itertools.permutations(range(1, num_data), size - 1):
                order = [*others[:row], 0, *others[row:]]  # datum 0 is in this row
                estimates.append(w[row] @ density[order])
            if factor is not None:
                assert_close(torch.stack(estimates).mean(), density.mean(), rtol=1e-12, atol=0)
    assert_close(w, torch.full((size, size), 1 / (num_data * size)))


def test_bias_and_spread_of_both_estimators(float64):
    """N=200, M=50, D=3, 300 batches against the exact sums over all data, by draws of these. Bias of log q(z) and of
    the total correlation: stratified -0.11 and -0.04, weighted -5.17 and 10.67 (log N = 5.30, (D - 1) log N = 10.60).
    The standard deviation over batches is 0.07 and 0.06 for both."""
    data, size = gaussian_data(200), 50
    z = data + 0.5 * torch.randn_like(data)
    values = dist.Normal(data, 0.5).log_prob(z.unsqueeze(1))  # (draw, datum, d)
    log_q, log_each = (values.sum(-1).logsumexp(1) - math.log(200), (values.logsumexp(1) - math.log(200)).sum(-1))
    found = {}
    for estimator in ("stratified", "weighted"):
        objective = TotalCorrelation(estimator=estimator, num_data=200)
        errors = []
        for _ in range(300):
            rows = torch.randperm(200)[:size]
            code = _code(data[rows], z[rows])
            joint, each = objective._log_aggregate(code)
            errors.append(torch.stack([(joint - log_q[rows]).mean(), (joint - each - (log_q - log_each)[rows]).mean()]))
        errors = torch.stack(errors)
        found[estimator] = (errors.mean(0), errors.std(0))
    for estimator, expected in (("stratified", [-0.11, -0.04]), ("weighted", [-5.17, 10.67])):
        bias, spread = found[estimator]
        assert_close(bias, torch.tensor(expected), rtol=0, atol=0.03)
        assert_close(spread, torch.tensor([0.07, 0.06]), rtol=0, atol=0.02)


@pytest.mark.parametrize(("size", "z_dim", "nats"), [(100, 2, 0.08), (50, 64, 0.64)])
def test_noise_of_a_sampled_kl_under_the_absolute_value(float64, size, z_dim, nats):
    """What the docstring of Capacity says: mean deviation of log q(z|x) over a batch, 4,000 batches."""
    posterior = dist.Normal(torch.zeros(z_dim), 0.3)
    means = posterior.log_prob(posterior.sample((4000, size))).sum(-1).mean(1)
    found = (means + posterior.entropy().sum()).abs().mean().item()
    assert found == pytest.approx(math.sqrt(z_dim / (math.pi * size)), rel=0.06)
    assert found == pytest.approx(nats, rel=0.06)


def test_narrow_posteriors_make_the_stratified_estimates_too_small(float64):
    """q(z) = N(0, I) in two dimensions, N=50,000, M=100: what the docstring says of posteriors of scale 0.03."""
    scale, size, errors = 0.03, 100, []
    objective = TotalCorrelation(num_data=50_000)
    for _ in range(100):
        x = math.sqrt(1 - scale**2) * torch.randn(size, 2)
        z = x + scale * torch.randn_like(x)
        joint, each = objective._log_aggregate(_code(x, z, scale))
        truth = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
        errors.append(torch.stack([(joint - truth).mean(), (joint - each).mean()]))
    assert_close(torch.stack(errors).mean(0), torch.tensor([-2.7, -1.8]), rtol=0, atol=0.15)


def _code(x, z, scale=0.5):
    posterior, prior = dist.Normal(x, scale).to_event(1), dist.Normal(torch.zeros_like(x), 1.0).to_event(1)
    return Code("z", z, posterior, prior, None, None, 1.0, (), 0)


@pytest.mark.parametrize("shift", [0.0, 1.0])
@pytest.mark.parametrize("unbiased", [True, False])
def test_mean_of_the_discrepancy_is_the_exact_one(unbiased, shift):
    """N(0, I) against N(shift, I) under the Gaussian kernel: E k = (1 + 4/C)^(-D/2) exp(-|shift|^2 / (C + 4)); 4000
    batches, within 4 standard errors (fails 1 in 16,000). The biased one is 2 (1 - E k) / M above the discrepancy of
    M (M - 1) pairs of each."""
    size, z_dim, bandwidth = 10, 3, 0.8
    c = 2 * bandwidth**2 * z_dim
    z, y = torch.randn(4000, size, z_dim), torch.randn(4000, size, z_dim) + shift
    found = squared_mmd(z, y, bandwidth=bandwidth, unbiased=unbiased)
    same = (1 + 4 / c) ** (-z_dim / 2)
    other = same * math.exp(-z_dim * shift**2 / (c + 4))
    expected = 2 * (same - other) + (0 if unbiased else 2 * (1 - same) / size)
    assert abs(found.mean().item() - expected) < 4 * found.std().item() / math.sqrt(4000)
    assert unbiased or found.min() >= 0


def test_discrepancy_without_bias_under_shared_conditions():
    """z_i and y_i of one condition, equal in law given it: the mean is 0 within 4 standard errors, and would not be if
    the pairs (i, i) were in."""
    condition = 3 * torch.randn(4000, 10, 2)
    z, y = condition + torch.randn(4000, 10, 2), condition + torch.randn(4000, 10, 2)
    found, pairs_in = squared_mmd(z, y), squared_mmd(z, y, unbiased=False)
    assert abs(found.mean().item()) < 4 * found.std().item() / math.sqrt(4000)
    assert pairs_in.mean() > 0.05
    assert squared_mmd(z[:1, :1], y[:1, :1]).item() == 0


def test_exchanged_values_are_permutations_and_follow_weights():
    """Without weights every column is a permutation, and not the same; of weights, 20,000 rows follow their shares,
    as closely as systematic resampling has it, sums of 20,000 numbers in float32 aside."""
    z = torch.arange(50.0).unsqueeze(-1).expand(50, 2)
    found = exchange_values(z)
    assert torch.equal(found.sort(0).values, z) and not torch.equal(found[:, 0], found[:, 1])
    weight = torch.tensor([0.5, 0.25, 0.0, 0.25])[torch.arange(4).repeat(5000)]
    z = torch.arange(4.0).repeat(5000).unsqueeze(-1)
    counts = torch.bincount(exchange_values(z, weight)[:, 0].long(), minlength=4)
    assert_close(counts.double(), torch.tensor([10_000, 5000, 0, 5000], dtype=torch.float64), rtol=0, atol=20)


def test_the_trained_discriminator_is_the_log_ratio():
    """A Gaussian pair of correlation 0.8: log q(z) / prod q(z_d) is known. 600 steps, 500 codes each, by the objective
    itself with its end_step; at 4000 fresh codes the error of D has a root mean square below 0.2 and its mean is the
    total correlation, 0.51, within 0.08."""
    rho, scale = 0.8, 1e-3
    objective = Factor(hidden=(32, 32), learning_rate=3e-3)
    covariance = torch.tensor([[1.0, rho], [rho, 1.0]])
    root = torch.linalg.cholesky(covariance).T
    for _ in range(600):
        loss = objective(Aggregate(True, scale), Aggregate(False, scale))(torch.randn(500, 2) @ root)
        loss.backward()
        objective.end_step()
    z = torch.randn(4000, 2) @ root
    joint = dist.MultivariateNormal(torch.zeros(2), covariance).log_prob(z)
    exact = joint - dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    with torch.no_grad():
        found = objective.discriminator(z)
    assert (found - exact).square().mean().sqrt() < 0.2
    assert found.mean().item() == pytest.approx(-0.5 * math.log(1 - rho**2), abs=0.08)


# schedules, training, and what is refused


def test_the_capacity_rises_with_the_steps():
    objective = Capacity(capacity=10.0, num_steps=4)
    assert objective.current_capacity == 10
    found = []
    for step in range(6):
        objective.begin_step(step)
        found.append(objective.current_capacity)
    assert found == [0, 2.5, 5, 7.5, 10, 10]
    objective = Capacity(capacity=10.0, num_steps=0)
    objective.begin_step(0)
    assert objective.current_capacity == 10


def test_svi_trains_the_discriminator():
    """loss_and_grads, which SVI calls, ends with the discriminator's own step; loss leaves it as it is."""
    pair, args, objective = create("vae"), batch("vae"), Factor(hidden=(7,))
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-2}), objective)
    svi.step(*args)
    before = copy.deepcopy(objective.discriminator.state_dict())
    svi.evaluate_loss(*args)
    assert all(torch.equal(value, before[name]) for name, value in objective.discriminator.state_dict().items())
    svi.step(*args)
    for name, value in objective.discriminator.state_dict().items():
        assert not torch.equal(value, before[name]), name
    stored = {id(value) for value in pyro.get_param_store()._params.values()}
    assert not stored & {id(parameter) for parameter in objective.discriminator.parameters()}


def test_one_category_is_none_to_the_discriminator():
    """Its total correlation is that of D(z) without a category; it trains, and its state is restored."""
    pair, (x,), objective = create("cp_vae", num_categories=1), batch("cp_vae"), Factor(hidden=(7,))

    def terms(of):
        with GivenNoise(0.0):
            return of.terms(pair.model, pair.guide, x)

    found = terms(objective)
    z = pair.encode(x)["z"].mean
    assert objective.discriminator.category is None and objective.discriminator.size == (2, 1)
    assert_close(found.penalties["total_correlation"], objective.discriminator(z).mean())
    assert_close(terms(Factor(0.0, hidden=(7,))).loss, terms(ELBO()).loss)
    found.loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in objective.discriminator.parameters())
    objective.end_step()
    other = Factor(hidden=(7,))
    other.load_state(objective.state(), torch.device("cpu"))
    one, again = (terms(of).penalties["total_correlation"] for of in (objective, other))
    assert torch.equal(one, again) and one != found.penalties["total_correlation"]


@pytest.fixture(scope="module")
def digits():
    return runs.small_data(size=65)  # batches of 32, 32 and one datum


FIT = {"progress": False, "batch_size": 32, "max_epochs": 2, "learning_rate": 1e-2}


@pytest.mark.parametrize("compile", ["never", "always"])
@pytest.mark.parametrize(
    ("objective", "penalties"),
    [
        (Capacity(capacity=3.0, num_steps=4), {"distance_to_capacity"}),
        (TotalCorrelation(), {"mutual_information", "total_correlation", "dimension_wise_kl"}),
        (Factor(hidden=(9, 8)), {"total_correlation", "discriminator_loss"}),
        (Info(lambd=5.0), {"squared_mmd"}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, ELBO) else "",
)
def test_fit_fills_in_and_reports(digits, monkeypatch, objective, penalties, compile):
    """The penalties are in the record, batches of one datum go, and a second training is as the first."""
    monkeypatch.setattr("pyro_priors.tracing.inductor.compile_graph", lambda graph, inputs: graph)
    before, ends = dict(vars(objective)), []
    for _ in range(2):
        pair = runs.small_pair("vae", digits)
        history = pp.fit(pair, digits, objective, compile=compile, **FIT)
        ends.append(runs.state(pair))
    assert runs.same_bits(*ends)
    assert vars(objective) == before
    assert {f"train_{name}" for name in penalties} <= history.epochs[-1].keys()
    assert all(math.isfinite(value) for value in history.epochs[-1].values() if isinstance(value, float))
    assert not {f"valid_{name}" for name in penalties} & history.epochs[-1].keys()
    best = history.epochs[history.best_epoch]
    assert best["valid_bound"] == pytest.approx(runs.validation_bound(pair, digits), rel=1e-6)


def test_the_number_of_data_is_that_of_the_training_part_and_no_other(digits, tmp_path):
    ends = []
    with pytest.raises(ValueError, match="num_data is 1000, but there are 65 training data: leave it out"):
        pp.fit(runs.small_pair("vae", digits), digits, TotalCorrelation(num_data=1000), **FIT)
    for given in (None, 65):
        pair, run = runs.small_pair("vae", digits), tmp_path / str(given)
        pp.fit(pair, digits, TotalCorrelation(num_data=given), out=run, **FIT)
        ends.append(runs.state(pair))
        assert RunFolder(run).config()["objective"]["config"]["num_data"] == given
    assert runs.same_bits(ends[0], ends[1])


def test_a_discriminator_that_diverges_is_named(digits, monkeypatch):
    monkeypatch.setattr(Discriminator, "forward", lambda self, z, c=None, fixed=False: z.sum(-1) * math.nan)
    with pytest.raises(pp.TrainingDiverged, match="the loss became nan by its total_correlation at step 0"):
        pp.fit(runs.small_pair("vae", digits), digits, Factor(hidden=(4,)), **FIT)


@pytest.mark.parametrize(
    "objective", [Capacity(), TotalCorrelation(), Factor(), Info()], ids=lambda o: type(o).__name__
)
def test_several_processes_are_refused(digits, objective):
    match = f"num_processes is 2, but {type(objective).__name__} compares the data of a batch with each other"
    with pytest.raises(ValueError, match=match):
        pp.fit(runs.small_pair("vae", digits), digits, objective, num_processes=2, **FIT)


class Correlated(Aggregate):
    """A posterior that is no product over the values of z, or none at all."""

    def __init__(self, what):
        super().__init__(False)
        self.what = what

    def forward(self, x=None, condition=None, size=None):
        with pp.data_plate(x, condition, size):
            if self.what == "full":
                pyro.sample("z", dist.MultivariateNormal(x, torch.eye(3)))


def call(objective, x=None, guide=None):
    x = torch.randn(4, 3) if x is None else x
    return objective.loss(Aggregate(True), guide or Aggregate(False), x)


REFUSED = {
    "no-num-data": (lambda: call(TotalCorrelation()), "TotalCorrelation needs num_data, the number of training data"),
    "few-data": (lambda: call(TotalCorrelation(num_data=3)), "num_data is 3, but the batch has 4 data: give the"),
    "not-a-product": (
        lambda: call(TotalCorrelation(num_data=9), guide=Correlated("full")),
        "a product over the values of the code, and that of site 'z' is MultivariateNormal: use Factor or Info",
    ),
    "another-size": (
        lambda: two_sizes(),
        "codes of 2 values and 1 categories, and before of 3 and 1: use one objective",
    ),
    "no-gradient": (
        lambda: Info(alpha=1.0).loss(*programs("mixture"), *batch("vae")),
        "alpha=1 leaves the prior of site 'z' without a gradient",
    ),
    "gamma": (lambda: Capacity(gamma=0), "gamma must be above 0, got 0"),
    "capacity": (lambda: Capacity(capacity=-1), "capacity must be 0 or more, got -1"),
    "steps": (lambda: Capacity(num_steps=-1), "num_steps must be a non-negative integer, got -1"),
    "beta": (lambda: TotalCorrelation(beta=-1), "beta must be 0 or more, got -1"),
    "estimator": (
        lambda: TotalCorrelation(estimator="mss"),
        "estimator must be one of stratified, weighted, got",
    ),
    "num-data": (lambda: TotalCorrelation(num_data=0), "num_data must be a positive integer, got 0"),
    "alpha": (lambda: Info(alpha=1.5), "alpha must be at most 1, got 1.5"),
    "lambd": (lambda: Info(alpha=0.5, lambd=0.2), "lambd must be at least 1 - alpha = 0.5, got 0.2"),
    "kernel": (lambda: Info(kernel="rbf"), "kernel must be one of gaussian, inverse_multiquadratic, got 'rbf'"),
    "bandwidth": (lambda: Info(bandwidth=0), "bandwidth must be above 0, got 0"),
    "factor": (lambda: Factor(gamma=-1), "gamma must be 0 or more, got -1"),
    "hidden": (lambda: Factor(hidden=()), r"hidden must be a tuple of positive integers, got \(\)"),
    "rate": (lambda: Factor(learning_rate=0), "learning_rate must be above 0, got 0"),
}


def programs(prior):
    pair = create("vae", prior=prior)
    return pair.model, pair.guide


def two_sizes():
    objective = Factor(hidden=(4,))
    call(objective)
    call(objective, torch.randn(4, 2))


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_sense_is_refused_in_one_line(case):
    do, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as caught:
        do()
    assert "\n" not in str(caught.value)


class OnlyCategory(nn.Module):
    def __init__(self, generative, code=False):
        super().__init__()
        self.generative, self.code = generative, code

    def forward(self, x=None, condition=None, size=None):
        with pp.data_plate(x, condition, size):
            infer = {"enumerate": "parallel", "expand": True} if self.code else {"enumerate": "parallel"}
            c = pyro.sample("c", dist.Categorical(torch.ones(3) / 3), infer=infer)
            if self.code:
                pyro.sample("z", dist.Normal(torch.zeros(4, 2), 1.0).to_event(1))
            if self.generative:
                pyro.sample("x", dist.Normal(c.unsqueeze(-1).expand(*c.shape, 3).to(x), 1.0).to_event(1), obs=x)


def test_a_guide_without_a_continuous_code_is_refused():
    with pytest.raises(ValueError, match="Factor regularises a continuous code, and this guide has none: use ELBO"):
        Factor().loss(OnlyCategory(True), OnlyCategory(False), torch.randn(4, 3))
    assert math.isfinite(Capacity().loss(OnlyCategory(True), OnlyCategory(False), torch.randn(4, 3)))


def test_categories_of_each_datum_s_own_are_refused():
    """As of a site of which only the probable ones are enumerated."""
    with pytest.raises(ValueError, match="Info compares the data within each category, and site 'c' has categories"):
        Info().loss(OnlyCategory(True, code=True), OnlyCategory(False, code=True), torch.randn(4, 3))
