"""Compiled objectives against the eager ones: same noise, same loss, same gradients.

What is traced is compared for every pair, objective and setting, run without inductor (``traced``); that inductor's
code computes the same is compared for one objective of every pair. All in float64 unless precision is the question.
"""

import pyro
import pytest
import torch
from pyro import poutine
from torch.testing import assert_close

import pyro_priors as pp
from compiling import OBJECTIVES, SEED, STOCK, assert_same, compiled_loss, eager, take_gradients
from pairs import MIXTURES_GIVEN_A_CONDITION, NAMES, Variant, batch, create, randomise, variants
from pyro_priors.objectives import (
    ELBO,
    Beta,
    Capacity,
    Factor,
)
from pyro_priors.tracing import CompiledObjective, function

pytestmark = pytest.mark.usefixtures("float64")


def weights_of(pair):
    trace = poutine.trace(pair.guide).get_trace(*batch_of(pair))
    latent = [name for name, site in trace.nodes.items() if site["type"] == "sample" and name != "data"]
    return dict(zip(latent, (0.3, 0.7), strict=False))


def batch_of(pair):
    return batch(pair.recipe["name"], **{k: v for k, v in pair.recipe["config"].items() if k == "likelihood"})


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", NAMES)
def test_every_pair_under_every_objective(name, objective, traced):
    pair, args = randomise(create(name)), batch(name)
    loss = pp.compiled(pair, OBJECTIVES[objective]())
    for weight in (1.0, 0.3, torch.tensor(0.6)):
        assert_same(compiled_loss(loss, args, weight), eager(pair, loss.objective, args, weight))
    assert len(traced) == 1, "a new weight needs no new graph"
    by_site = weights_of(pair)
    assert_same(compiled_loss(loss, args, by_site), eager(pair, loss.objective, args, by_site))
    assert len(traced) == 2


@pytest.mark.parametrize("variant", variants(), ids=str)
def test_every_variant(variant: Variant, traced):
    """All likelihoods, priors, shapes and activations."""
    pair, args = randomise(variant.create()), variant.batch()
    assert_same(compiled_loss(pp.compiled(pair), args), eager(pair, pair.elbo, args))
    assert len(traced) == 1


@pytest.mark.parametrize("max_graphs", [1, 0], ids=["compiled", "eager"])
@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradients_in_one_call(name, max_graphs, traced):
    """Equal to loss and backward pass one after the other; what gradients the pair had before is gone."""
    pair, args, objective = randomise(create(name)), batch(name), Factor(hidden=(7, 9))
    expected = eager(pair, objective, args, 0.3)
    own = [2 * parameter.grad for parameter in objective.discriminator.parameters()]  # to which it adds
    for parameter in pair.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    loss = CompiledObjective(pair, objective, max_graphs, say=lambda line: None)
    torch.manual_seed(SEED)
    outputs = loss.outputs(*args, *(None,) * (2 - len(args)), 0.3, backward=True)
    assert len(traced) == max_graphs
    for parameter, gradient in zip(objective.discriminator.parameters(), own, strict=True):
        assert_close(parameter.grad, gradient)
    norm = sum(p.grad.square().sum() for p in pair.parameters() if p.grad is not None).sqrt()
    assert_close(outputs.pop("gradient_norm"), norm)
    assert not any(value.requires_grad for value in outputs.values())
    assert_same((outputs["loss"], take_gradients(pair)), expected)
    torch.manual_seed(SEED)
    assert outputs.keys() == loss.outputs(*args, *(None,) * (2 - len(args)), 0.3).keys()


def _fits(name, objective):
    """A guide that enumerates is for TraceEnum_ELBO alone; a prior that is no Gaussian under TraceMeanField_ELBO runs
    eagerly."""
    if name == "cp_vae":
        return "Enum" in objective
    return name not in (*MIXTURES_GIVEN_A_CONDITION, "sigma_cvae_nf") or "MeanField" not in objective


FITTING = [(name, objective) for name in NAMES for objective in STOCK if _fits(name, objective)]


@pytest.mark.parametrize(("name", "objective"), FITTING)
def test_pyros_own_objectives(name, objective, traced):
    """Summed over the batch, as they are."""
    pair, args = randomise(create(name)), batch(name)
    loss = pp.compiled(pair, STOCK[objective]())
    for weight in (1.0, 0.3):
        assert_same(compiled_loss(loss, args, weight), eager(pair, loss.objective, args, weight))
    assert len(traced) == 1


@pytest.mark.parametrize("name", NAMES)
def test_parts_are_the_means_of_the_bounds_terms(name, traced):
    pair, args = randomise(create(name)), batch(name)
    torch.manual_seed(SEED)
    outputs = pp.compiled(pair, Beta(beta=2.5)).outputs(*args, *(None,) * (2 - len(args)), 0.3)
    torch.manual_seed(SEED)
    terms = ELBO().terms(pair.model, pair.guide, *args)
    assert outputs.keys() == {"loss"} | terms.parts.keys()
    for part, value in terms.parts.items():
        assert_close(outputs[part], value.mean())
        assert not outputs[part].requires_grad


def test_batches_of_other_sizes_and_kinds_have_graphs_of_their_own(traced):
    pair = randomise(create("cp_vae"))
    loss = pp.compiled(pair)
    for size in (5, 3, 5, 1, 3):
        args = batch("cp_vae", size)
        assert_same(compiled_loss(loss, args), eager(pair, pair.elbo, args))
    assert len(traced) == 3
    pair.float()
    args = tuple(value.float() for value in args)
    assert_same(compiled_loss(loss, args), eager(pair, pair.elbo, args), rtol=1e-5, atol=1e-6)
    assert len(traced) == 4


def test_an_option_of_the_objective_that_changes_is_seen(traced):
    pair, args = randomise(create("vae")), batch("vae")
    loss = pp.compiled(pair, Beta(beta=2.0))
    first = compiled_loss(loss, args)
    loss.objective.beta = 3.0
    second = compiled_loss(loss, args)
    assert second[0] > first[0]
    assert_same(second, eager(pair, loss.objective, args))


def test_the_objectives_own_weight_is_read_and_left(traced):
    pair, args = randomise(create("vae")), batch("vae")
    objective = ELBO()
    loss = pp.compiled(pair, objective)
    for weight in (1.0, 0.2):
        objective.kl_weight = weight
        torch.manual_seed(SEED)
        found = loss(*args)
        assert objective.kl_weight == weight
        torch.manual_seed(SEED)
        assert_close(found, objective(pair.model, pair.guide)(*args))
    with pytest.raises(ValueError, match="must be above 0, got 0"):
        loss.outputs(args[0], None, 0)


def test_a_capacity_is_an_input_of_the_graph(traced):
    pair, args = randomise(create("vae")), batch("vae")
    loss = pp.compiled(pair, Capacity(capacity=4.0, num_steps=8))
    expected, found = [], []
    for step in (0, 1, 5, 100):
        loss.objective.begin_step(step)
        found.append(compiled_loss(loss, args))
        assert_same(found[-1], eager(pair, loss.objective, args))
        expected.append(min(4.0, step / 2))
        assert loss.objective.current_capacity == expected[-1], "the graph leaves it"
    assert len(traced) == 1 and len({value.item() for value, _ in found}) == 4


@pytest.mark.parametrize("objective", ["factor", "total-correlation", "capacity", "info"])
@pytest.mark.parametrize("name", NAMES)
def test_penalties_are_reported_as_by_the_eager_objective(name, objective, traced):
    pair, args, elbo = randomise(create(name)), batch(name), OBJECTIVES[objective]()
    torch.manual_seed(SEED)
    outputs = pp.compiled(pair, elbo).outputs(*args, *(None,) * (2 - len(args)), 0.3)
    elbo.kl_weight = 0.3
    torch.manual_seed(SEED)
    terms = elbo.terms(pair.model, pair.guide, *args)
    assert outputs.keys() == {"loss"} | terms.means().keys()
    for key, value in {"loss": terms.loss.detach(), **terms.means()}.items():
        assert_close(outputs[key].detach(), value)


def check_discriminator(steps=4):
    """Steps of pair and discriminator, compiled and eagerly from the same start: the same parameters of both."""
    ends = []
    for how in ("compiled", "eager"):
        torch.manual_seed(SEED)
        pair, args, objective = randomise(create("cp_vae")), batch("cp_vae"), Factor(hidden=(7, 9), learning_rate=0.05)
        loss = pp.compiled(pair, objective)
        optimizer = torch.optim.Adam(pair.parameters(), lr=0.01)
        for step in range(steps):
            torch.manual_seed(step)
            if how == "compiled":
                loss(*args).backward()
            else:
                objective.differentiable_loss(pair.model, pair.guide, *args).backward()
            optimizer.step()
            objective.end_step()
            pair.zero_grad()
        assert all(parameter.grad is None for parameter in objective.discriminator.parameters())
        ends.append([*pair.parameters(), *objective.discriminator.parameters()])
    assert_close(ends[0], ends[1], rtol=1e-9, atol=1e-11)
    first = Factor(hidden=(7, 9))
    first.prepare(pair.model, pair.guide, *args)
    assert not torch.equal(first.discriminator.layers[1].weight, objective.discriminator.layers[1].weight)


def test_a_compiled_discriminator_learns_as_the_eager_one(traced):
    check_discriminator()
    assert len(traced) == 1


def test_making_the_discriminator_draws_no_number_and_leaves_no_trace(traced):
    pair, args, objective = create("cp_vae"), batch("cp_vae"), Factor(hidden=(7,))
    random = torch.get_rng_state()
    objective.prepare(pair.model, pair.guide, *args)
    assert torch.equal(torch.get_rng_state(), random)
    assert not pyro.get_param_store().keys()
    assert all(parameter.grad is None for parameter in pair.parameters())


def test_tensors_of_other_strides_have_graphs_of_their_own():
    """By machine code, which is made for strides."""
    pair, (x,) = randomise(create("vae")), batch("vae")
    loss = pp.compiled(pair)
    for same in (x, x.t().contiguous().t(), torch.cat([x, x], 1)[:, :6]):
        assert_same(compiled_loss(loss, (same,)), eager(pair, pair.elbo, (same,)))


class OfUser(ELBO):
    """An objective with options that are no attributes, and a state."""

    def __init__(self, gamma=2.0, **options):
        super().__init__(**options)
        self._gamma, self.listed, self.calls = gamma, [1], 0

    def terms(self, *args, **kwargs):
        self.calls += 1
        found = super().terms(*args, **kwargs)
        found.parts["reconstruction"] = found.parts["reconstruction"] * self._gamma + self.calls
        return found


def test_what_changes_at_every_call_is_not_remembered_for_ever(traced):
    pair, args = randomise(create("vae")), batch("vae")
    loss = pp.compiled(pair, OfUser(), max_graphs=2)
    with pytest.warns(pp.EagerWarning, match="2 shapes or settings came before") as said:
        for _ in range(6):
            compiled_loss(loss, args)
    assert len(said) == 1 and len(loss._compiled._graphs) == 2


def test_objectives_of_users(traced):
    pair, args = randomise(create("vae")), batch("vae")
    for gamma in (2.0, 3.0):
        loss, expected = pp.compiled(pair, OfUser(gamma)), OfUser(gamma)
        for _ in range(3):
            expected.calls = loss.objective.calls
            assert_same(compiled_loss(loss, args), eager(pair, expected, args))


def test_under_autocast_casts_are_those_of_the_eager_objective(traced):
    pair, args = randomise(create("vae", hidden=(32, 32))).float(), tuple(value.float() for value in batch("vae"))
    loss = pp.compiled(pair)
    whole = compiled_loss(loss, args)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half, expected = compiled_loss(loss, args), eager(pair, pair.elbo, args)
    assert_same(half, expected, rtol=1e-4, atol=1e-5)
    assert half[0] != whole[0]
    assert len(traced) == 2
    assert_same(compiled_loss(loss, args), whole)


@pytest.mark.parametrize("name", NAMES)
def test_machine_code_computes_the_same(name):
    """Any weight, several seeds, and the generator left where the eager objective leaves it."""
    pair, args = randomise(create(name)), batch(name)
    loss = pp.compiled(pair)
    for weight in (1.0, 0.3):
        assert_same(compiled_loss(loss, args, weight), eager(pair, pair.elbo, args, weight))
    torch.manual_seed(SEED)
    drawn = [loss(*args).item() for _ in range(3)]
    after = torch.get_rng_state()
    torch.manual_seed(SEED)
    assert [pair.elbo.differentiable_loss(pair.model, pair.guide, *args).item() for _ in range(3)] == pytest.approx(
        drawn, rel=1e-10
    )
    assert torch.equal(torch.get_rng_state(), after)
    assert len(set(drawn)) == 3, "fresh noise at every call"


@pytest.mark.parametrize(
    "objective", ["capacity", *(pytest.param(name, marks=pytest.mark.slow) for name in ("total-correlation", "info"))]
)
def test_machine_code_of_penalties(objective):
    pair, args = randomise(create("vae", prior="flow")), batch("vae")
    loss = pp.compiled(pair, OBJECTIVES[objective]())
    assert_same(compiled_loss(loss, args, 0.4), eager(pair, loss.objective, args, 0.4))


@pytest.mark.slow
def test_machine_code_trains_the_discriminator():
    check_discriminator()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "objective"), [*FITTING, *((name, own) for name in NAMES for own in OBJECTIVES)])
def test_machine_code_for_every_objective(name, objective):
    pair, args = randomise(create(name)), batch(name)
    loss = pp.compiled(pair, (OBJECTIVES | STOCK)[objective]())
    assert_same(compiled_loss(loss, args, 0.4), eager(pair, loss.objective, args, 0.4))


@pytest.mark.slow
@pytest.mark.parametrize("variant", variants(), ids=str)
def test_machine_code_for_every_variant(variant: Variant):
    pair, args = randomise(variant.create()), variant.batch()
    assert_same(compiled_loss(pp.compiled(pair), args), eager(pair, pair.elbo, args))


def test_arguments_of_other_nesting_have_graphs_of_their_own():
    """The kind of a call is hashable, whatever torch's own trees are."""
    one, two = torch.ones(2), torch.zeros(2)
    nestings = [(one, two), (one, None), ({"a": one, "b": two},), ({"a": one, "c": two},), ([one, two],), (one, (two,))]
    found = []
    for value in nestings:
        tensors = []
        found.append(function._nesting(value, tensors))
        replaced = function._replaced(value, iter([tensor + 1 for tensor in tensors]))
        again = []
        assert function._nesting(replaced, again) == found[-1]
        assert [tensor.tolist() for tensor in again] == [(tensor + 1).tolist() for tensor in tensors]
    assert len(set(found)) == len(nestings)
