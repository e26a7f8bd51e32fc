"""Semi-supervised ``cp_vae``: labels as the condition, against the equations, brute force and Pyro's own ELBO."""

import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from pyro.optim import SGD
from torch.testing import assert_close

import pyro_priors as pp
from by_hand.semi_supervised import loss_by_hand
from pairs import BATCH, NUM_CATEGORIES, SIZES, GivenNoise, batch, create, gradients, randomise
from pyro_priors.nn import RelaxedCategorical, Temperature, category_of, restricted
from pyro_priors.objectives import ELBO, Beta, EnumELBO, KLWeight, compiled
from pyro_priors.testing import check_elbo
from test_product import LIKELIHOODS, PRIORS, REFUSED
from test_product import batch as batch_of_product
from test_product import create as create_of_product

pytestmark = pytest.mark.usefixtures("float64")

LABELS = {
    "labeled": [0, 1, 2, 2, 0],
    "unlabeled": [-1] * 5,
    "mixed": [0, -1, 2, -1, 1],
}
ALPHA = 2.5
SITE_WEIGHTS = {"z": 0.3, "c": 0.7}


def _pair(**options):
    return randomise(create("cp_vae", **options))


def _labels(kind, dtype=torch.int64):
    return torch.tensor(LABELS[kind], dtype=dtype)


def _by_hand(pair, x, y, noise, **options):
    """Loss and gradients of the equations at the pair's parameters."""
    state = {name: value.detach().clone().requires_grad_() for name, value in pair.state_dict().items()}
    noise = noise if noise.dim() == 4 else noise.unsqueeze(1)
    loss = loss_by_hand(state, x, y, noise, **options)
    names = [name for name, _ in pair.named_parameters()]
    found = torch.autograd.grad(loss, [state[name] for name in names], allow_unused=True)
    return loss, dict(zip(names, found, strict=True))


def _gradients(pair, loss):
    named = dict(pair.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, list(named.values()), allow_unused=True), strict=True))


def _assert_equal(pair, loss, by_hand, divisor=1):
    assert_close(loss / divisor, by_hand[0], rtol=1e-10, atol=1e-13)
    for name, gradient in _gradients(pair, loss / divisor).items():
        other = by_hand[1][name]
        zero = torch.zeros_like(pair.get_parameter(name))
        gradient, other = (zero if one is None else one for one in (gradient, other))
        assert_close(gradient, other, rtol=1e-10, atol=1e-13, msg=lambda text, name=name: f"{name}: {text}")


def _weighted(elbo, weight):
    elbo.kl_weight = weight
    return elbo


CASES = {
    "closed-form": (EnumELBO(), {}),
    "sampled-kl": (ELBO(analytic_kl=False), {"analytic": False}),
    "beta": (Beta(beta=2.5), {"beta": 2.5}),
    "weight-by-site": (_weighted(ELBO(), SITE_WEIGHTS), {"kl_weights": SITE_WEIGHTS}),
    "chunks": (EnumELBO(chunk_size=2), {}),
    "particles": (ELBO(num_particles=2), {}),
}


@pytest.mark.parametrize("alpha", [0.0, ALPHA])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", LABELS)
def test_loss_and_every_gradient_equal_the_equations(kind, case, alpha):
    """Labeled, unlabeled and mixed batches, with p(c) learnable, at the same noise of z for each category."""
    pair, (x,), y = _pair(classification_weight=alpha, prior_c="learnable"), batch("cp_vae"), _labels(kind)
    elbo, options = CASES[case]
    num_particles = 2 if case == "particles" else 1
    lead = (2,) if case == "particles" else ()
    noise = torch.randn(NUM_CATEGORIES, *lead, BATCH, SIZES["z_dim"])
    if case == "chunks":  # which are drawn one after the other
        noise = noise[:1].expand(NUM_CATEGORIES, BATCH, SIZES["z_dim"])
    with GivenNoise(noise[0] if case == "chunks" else noise):
        loss = elbo(pair.model, pair.guide)(x, y)
    assert num_particles == elbo.num_particles
    _assert_equal(pair, loss, _by_hand(pair, x, y, noise, classification_weight=alpha, **options))


@pytest.mark.parametrize("alpha", [0.0, ALPHA])
@pytest.mark.parametrize("kind", LABELS)
def test_pyros_trace_enum_elbo_sums_what_ours_averages(kind, alpha):
    """TraceEnum_ELBO on the same programs equals the equations, with and without KL weights around them."""
    pair, (x,), y = _pair(classification_weight=alpha), batch("cp_vae"), _labels(kind)
    noise = torch.randn(NUM_CATEGORIES, BATCH, SIZES["z_dim"])
    for weight in (1.0, 0.3, SITE_WEIGHTS):
        weigh = KLWeight(weight)
        with GivenNoise(noise):
            loss = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(weigh(pair.model), weigh(pair.guide), x, y)
        options = {"kl_weights": weight, "analytic": False, "classification_weight": alpha}
        _assert_equal(pair, loss, _by_hand(pair, x, y, noise, **options), BATCH)


def test_svi_steps_along_the_gradient():
    pair, (x,), y = _pair(classification_weight=ALPHA), batch("cp_vae"), _labels("mixed")
    noise = torch.randn(NUM_CATEGORIES, BATCH, SIZES["z_dim"])
    loss, expected = _by_hand(pair, x, y, noise, classification_weight=ALPHA)
    before = {name: value.detach().clone() for name, value in pair.named_parameters()}
    with GivenNoise(noise):
        assert_close(SVI(pair.model, pair.guide, SGD({"lr": 1.0}), pair.elbo).step(x, y), loss.item())
    for name, value in pair.named_parameters():
        assert_close(value.detach(), before[name] - expected[name], rtol=1e-10, atol=1e-12)


def test_check_elbo_takes_labels():
    pair, (x,), y = _pair(), batch("cp_vae"), _labels("mixed")

    def by_hand(parameters, x, y, noise):
        return loss_by_hand(parameters, x, y, noise["z"].unsqueeze(1))

    check_elbo(pair, by_hand, x, y)


def test_of_the_sparse_category_a_label_is_the_only_one_with_mass():
    """Labeled examples are exact whatever is drawn from the rest, at the cost of two categories."""
    pair = _pair(category="sparse", num_enumerated=1, classification_weight=ALPHA)
    (x,), y = batch("cp_vae"), _labels("labeled")
    noise = torch.randn(1, BATCH, SIZES["z_dim"]).expand(NUM_CATEGORIES, -1, -1)
    for seed in range(3):
        torch.manual_seed(seed)
        with GivenNoise(noise[0]):
            loss = pair.elbo(pair.model, pair.guide)(x, y)
            assert poutine.trace(pair.guide).get_trace(x, y).nodes["z"]["value"].shape == (BATCH, SIZES["z_dim"])
        _assert_equal(pair, loss, _by_hand(pair, x, y, noise, classification_weight=ALPHA))


@pytest.mark.parametrize("category", ["sparse", "relaxed"])
def test_a_mixed_batch_is_its_labeled_and_its_other_examples(category):
    """Of a category that is drawn, at the same draws: the rows with a label are those of the equations, and the others
    are those of the pair without labels, in loss and gradients."""
    pair = _pair(category=category, num_enumerated=1, classification_weight=ALPHA)
    (x,), y, elbo = batch("cp_vae"), _labels("mixed"), ELBO()
    noise = torch.randn(1, BATCH, SIZES["z_dim"]).expand(NUM_CATEGORIES, -1, -1)
    with GivenNoise(noise[0]):
        torch.manual_seed(0)
        loss = elbo(pair.model, pair.guide)(x, y)
        torch.manual_seed(0)
        without = elbo.terms(pair.model, pair.guide, x).bound
    known = y >= 0
    state = dict(pair.named_parameters())
    labeled = loss_by_hand(state, x[known], y[known], noise[:, known].unsqueeze(1), classification_weight=ALPHA)
    both = (labeled * known.sum() - without[~known].sum()) / BATCH
    assert_close(loss, both, rtol=1e-10, atol=1e-13)
    ours, theirs = gradients(pair, loss), gradients(pair, both)
    for name, gradient in ours.items():
        assert_close(gradient, theirs[name], rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("analytic_kl", [True, False])
def test_the_unlabeled_bound_is_the_labeled_ones_weighted_by_brute_force(analytic_kl):
    """Equation 7: sum_c q(c|x) (L(x, c) - log q(c|x)), each L by a batch that is labeled c throughout."""
    pair, (x,), elbo = _pair(prior_c="learnable"), batch("cp_vae"), ELBO(analytic_kl)
    noise = torch.randn(NUM_CATEGORIES, BATCH, SIZES["z_dim"])
    log_q = pair.encode(x)["c"].logits
    with GivenNoise(noise):
        whole = elbo.terms(pair.model, pair.guide, x).bound
        each = [elbo.terms(pair.model, pair.guide, x, torch.full((BATCH,), k)).bound for k in range(NUM_CATEGORIES)]
    by_force = sum(log_q[:, k].exp() * (each[k] - log_q[:, k]) for k in range(NUM_CATEGORIES))
    assert_close(whole, by_force, rtol=1e-10, atol=1e-13)


def test_without_labels_nothing_has_changed():
    """No condition, and one of unknown labels only, are the same numbers, and no further site."""
    pair, (x,) = _pair(classification_weight=ALPHA), batch("cp_vae")
    for condition in (None, _labels("unlabeled"), _labels("unlabeled")[:, None], _labels("unlabeled", torch.int8)):
        torch.manual_seed(0)
        terms = pair.elbo.terms(pair.model, pair.guide, x, condition)
        torch.manual_seed(0)
        plain = pair.elbo.terms(pair.model, pair.guide, x)
        assert_close(terms.loss, plain.loss, rtol=1e-12, atol=0)
        assert plain.parts.keys() == terms.parts.keys() == {"reconstruction", "kl_c", "kl_z"}
        assert not plain.penalties and all(not value for value in terms.penalties.values())


def test_the_classification_term_is_a_penalty_of_training():
    """Of the loss and not of the bound, a mean over the batch to which labeled examples alone contribute, and absent in
    evaluation mode."""
    pair, (x,), y = _pair(classification_weight=ALPHA), batch("cp_vae"), _labels("mixed")
    log_q, known = pair.encode(x)["c"].logits, y >= 0
    with GivenNoise(0.5):
        terms = pair.elbo.terms(pair.model, pair.guide, x, y)
        pair.eval()
        plain = pair.elbo.terms(pair.model, pair.guide, x, y)
    mean = -log_q[known, y[known]].sum() / BATCH
    assert_close(terms.penalties["classification"], mean, rtol=1e-12, atol=0)
    assert_close(terms.bound, plain.bound, rtol=0, atol=0)
    assert_close(terms.loss, plain.loss + ALPHA * mean, rtol=1e-12, atol=0)
    assert not plain.penalties


@pytest.mark.parametrize("category", ["enumerated", "sparse", "relaxed"])
def test_log_prob_given_labels_is_the_joint_density(category):
    """log p(x) is the sum over y of p(x, y) at the same noise; of a mixed batch each row has its own."""
    options = {} if category == "enumerated" else {"num_enumerated": 1}
    pair, (x,), y = _pair(category=category, prior_c="learnable", **options), batch("cp_vae"), _labels("mixed")
    found = []
    for condition in (None, y, *(torch.full((BATCH,), k) for k in range(NUM_CATEGORIES))):
        torch.manual_seed(0)
        found.append(pair.log_prob(x, condition, num_samples=7, compile="never"))
    whole, mixed, *each = found
    # the mean over samples is taken within each category
    assert_close(torch.stack(each).logsumexp(0), whole, rtol=1e-10, atol=1e-12)
    known = y >= 0
    assert_close(mixed[~known], whole[~known], rtol=1e-10, atol=1e-12)
    assert_close(mixed[known], torch.stack(each)[y[known], known.nonzero()[:, 0]], rtol=1e-10, atol=1e-12)
    drawn = pair.log_prob(x, _labels("labeled"), num_samples=7, categories="draw", compile="never")
    assert drawn.isfinite().all()


def test_draws_and_posteriors_follow_the_labels():
    pair, (x,), y = _pair(), batch("cp_vae"), _labels("mixed")
    known = y >= 0
    assert (pair.sample(BATCH, y)["c"][known] == y[known]).all()
    assert (pair.sample(4, 2)["c"] == 2).all() and (pair.sample(4, torch.tensor(1))["c"] == 1).all()
    assert len(pair.sample(500, -1)["c"].unique()) == NUM_CATEGORIES
    plain, given = pair.encode(x)["c"].probs, pair.encode(x, y)["c"].probs
    assert_close(given[~known], plain[~known])
    assert_close(given[known], torch.nn.functional.one_hot(y[known], NUM_CATEGORIES).double())
    assert pair.reconstruct(x, y).shape == x.shape
    q, p = pair.posterior_and_prior(x, y)["c"]
    assert q.batch_shape == p.batch_shape == (BATCH,)
    pair.set_aggregate(x, _labels("labeled"))
    assert_close(pair.aggregate_c, torch.tensor([0.4, 0.2, 0.4]))


@pytest.mark.parametrize("temperature", [None, Temperature()])
def test_restricted_is_the_density_of_category_and_label(temperature):
    """p(c) [c = y] of a model, [c = y] of a guide, p(c) where the label is unknown; expanded too."""
    logits, y = torch.randn(3), torch.tensor([2, -1])
    p = category_of(logits, temperature, training=True)
    for normalized in (False, True):
        fn = restricted(p, y, normalized).expand((4, 2))
        value = fn.sample()
        log_p = fn.log_prob(value)
        assert log_p.shape == (4, 2)
        assert_close(log_p[:, 0], torch.tensor(0.0 if normalized else logits.log_softmax(-1)[2].item()).expand(4))
        assert_close(log_p[:, 1], p.log_prob(value[:, 1]))
        if temperature is None:
            assert (value[:, 0] == 2).all()
            assert (fn.log_prob(torch.zeros(4, 2).long())[:, 0] == -torch.inf).all()
        else:
            assert isinstance(fn, RelaxedCategorical)
            assert_close(value[:, 0].exp(), torch.tensor([0.0, 0.0, 1.0]).expand(4, 3))
    assert restricted(p, None) is p


WRONG = [
    (torch.randn(5, 3), r"^condition must hold integer labels, got torch.float32: .* 0 to 2, -1 .*argmax\(-1\)$"),
    (torch.zeros(5), r"^condition must hold integer labels, got torch.float32: .*condition.long\(\)$"),
    (torch.zeros(5, dtype=torch.bool), r"^condition must hold integer labels, got torch.bool: "),
    (torch.zeros(5, 3).long(), r"^condition must have shape \(batch,\), one label for each example, got \(5, 3\): "),
    (torch.tensor([0, 1, 3, 0, 0]), r"^condition must hold labels from 0 to 2, or -1 .*, got 3 at index 2: "),
    (torch.tensor([0, 1, -2, 0, 0]), r"^condition must hold labels from 0 to 2, or -1 .*, got -2 at index 2: "),
    (torch.zeros(4).long(), r"^condition must be as long as x, got 4 and 5: "),
]


@pytest.mark.parametrize(("condition", "message"), WRONG)
def test_other_conditions_are_refused(condition, message):
    pair, (x,) = _pair(), batch("cp_vae")
    for call in (
        lambda: pair.encode(x, condition),
        lambda: pair.log_prob(x, condition, 2),
        lambda: pair.elbo(pair.model, pair.guide)(x, condition),
        lambda: compiled(pair)(x, condition),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_other_uses_are_refused():
    pair, (x,), y = _pair(), batch("cp_vae"), _labels("mixed")
    with pytest.raises(ValueError, match="^classification_weight must be a finite number of 0 or more, got -1 "):
        create("cp_vae", classification_weight=-1)
    with pytest.raises(ValueError, match="^c and condition were both given"):
        pair.sample(BATCH, y, c=1)
    with pytest.raises(ValueError, match="labels from 0 to 2"):
        pair.sample(BATCH, 7)
    for name in ("factor", "info", "total-correlation"):
        objective = pp.objectives.OBJECTIVES[name]()
        objective.begin(12, 0)
        with pytest.raises(ValueError, match=r"labels of site 'c' are known: use ELBO or Beta"):
            objective(pair.model, pair.guide)(x, y)


@pytest.mark.parametrize("category", ["enumerated", "sparse", "relaxed"])
@pytest.mark.parametrize(
    ("prior", "likelihood"),
    [*((prior, "bernoulli") for prior in PRIORS), *(("gaussian", likelihood) for likelihood in LIKELIHOODS)],
)
def test_a_cell_trains_with_labels(category, prior, likelihood):
    """Every prior and every likelihood with every kind of category: loss and gradients are finite, and a labeled batch
    is that of one category."""
    torch.manual_seed(0)
    family = "cp_vae-relaxed" if category == "relaxed" else "cp_vae"
    if (family, prior) in REFUSED:
        pytest.skip("refused whatever the condition")
    pair, (x,) = create_of_product(family, prior, likelihood), batch_of_product(family, likelihood)
    if category == "sparse":
        pair.guide.num_enumerated = 1
    y = torch.tensor([0, -1, 2, 1] * 3)
    for objective in (ELBO(), Beta(2.0), pp.objectives.Constrained(5.0)):
        objective.begin(12, 0)
        loss = objective(pair.model, pair.guide)(x, y)
        found = _gradients(pair, loss)
        assert loss.isfinite()
        assert all(gradient is None or gradient.isfinite().all() for gradient in found.values())
    assert pair.log_prob(x, y, num_samples=3).isfinite().all()
    assert pair.sample(12, y)["x"].shape == x.shape


@pytest.mark.parametrize("category", ["enumerated", "sparse", "relaxed"])
def test_a_compiled_step_equals_the_eager_one(category):
    """At the same seed, labels of every kind of batch, with one graph for all of one shape."""
    options = {} if category == "enumerated" else {"num_enumerated": 1}
    pair = _pair(category=category, classification_weight=ALPHA, **options)
    (x,), step = batch("cp_vae"), compiled(pair)
    for kind in LABELS:
        y, found = _labels(kind), []
        for loss_of in (pair.elbo(pair.model, pair.guide), step):
            torch.manual_seed(1)
            loss = loss_of(x, y)
            found.append((loss, _gradients(pair, loss)))
        (one, ours), (other, theirs) = found
        assert_close(one, other, rtol=1e-9, atol=1e-12)
        for name, gradient in ours.items():
            assert_close(gradient, theirs[name], rtol=1e-8, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")
    with pytest.raises(ValueError, match="got 9 at index 0"):
        step(x, torch.tensor([9, 0, 0, 0, 0]))


def test_pyros_other_elbos_draw_the_category():
    """Trace_ELBO needs no enumeration where all labels are known, and its expectation is the same."""
    pair, (x,), y = _pair(), batch("cp_vae"), _labels("labeled")
    noise = torch.randn(1, BATCH, SIZES["z_dim"]).expand(NUM_CATEGORIES, -1, -1)
    with GivenNoise(noise[0]), pytest.warns(UserWarning, match="enumerate"):
        loss = Trace_ELBO().differentiable_loss(pair.model, pair.guide, x, y)
    assert_close(loss / BATCH, _by_hand(pair, x, y, noise, analytic=False)[0], rtol=1e-10, atol=0)


def test_saving_and_loading_keep_it(tmp_path):
    pair, (x,), y = _pair(classification_weight=ALPHA), batch("cp_vae"), _labels("mixed")
    pair.save(tmp_path)
    loaded = pp.load(tmp_path)
    assert loaded.guide.classification_weight == ALPHA and loaded.takes_labels
    losses = []
    for one in (pair, loaded):
        with GivenNoise(0.3):
            losses.append(one.elbo.loss(one.model, one.guide, x, y))
    assert losses[0] == losses[1]
    assert "Semi-supervised" in pp.citation(loaded)
    assert "Semi-supervised" not in pp.citation(create("cp_vae"))
