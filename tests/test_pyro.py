"""What Pyro offers for programs works with every program of the zoo: inspection, its other objectives, prediction."""

import pyro
import pytest
import torch
from pyro import infer
from pyro.infer import inspect

import pairs
from pyro_priors.sites import sample_sites

ALL = pairs.variants()
PLAIN = [
    variant
    for variant in ALL
    if len(variant.options) <= 2
    and {name for name, _ in variant.options} <= {"likelihood", "prior", "scale", "category"}
    and dict(variant.options).get("likelihood", "bernoulli") == "bernoulli"
]
"""Every pair with every prior, of one likelihood."""


def latent_sites(variant):
    return [*(["c"] if variant.name.startswith("cp_vae") else []), *pairs.latent_sites(variant.name)]


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("variant", ALL, ids=str)
def test_inspection_finds_the_sites_and_what_they_depend_on(variant, training):
    """Model and guide, given data and, of the model, none."""
    pair, batch = variant.create().train(training), variant.batch()
    latent = latent_sites(variant)
    relations = inspect.get_model_relations(pair.model, batch)
    assert relations["observed"] == ["x"]
    assert set(relations["plate_sample"]["data"]) == {*latent, "x"}
    upstream = set(relations["sample_sample"]["x"])
    assert upstream <= set(latent) and (upstream or "reference" in str(variant))
    inspect.generate_graph_specification(relations, render_params=True)  # what pyro.render_model draws
    without = inspect.get_model_relations(pair.model, (None, *(batch[1:] or (None,)), pairs.BATCH))
    assert not without["observed"] and set(without["sample_dist"]) == {*latent, "x"}
    of_guide = inspect.get_model_relations(pair.guide, batch)
    assert set(of_guide["sample_dist"]) == set(latent)
    assert set(inspect.get_dependencies(pair.model, batch)["prior_dependencies"]) == {*latent, "x"}
    inspect.get_dependencies(pair.guide, batch)


def test_inspection_of_a_hierarchy():
    pair, batch = pairs.create("hvae"), pairs.batch("hvae")
    relations = inspect.get_model_relations(pair.model, batch)
    assert relations["sample_sample"] == {"z2": [], "z1": ["z2"], "x": ["z2", "z1"]}
    assert relations["sample_dist"] == {"z2": "Normal", "z1": "Normal", "x": "Bernoulli"}
    assert inspect.get_dependencies(pair.model, batch)["posterior_dependencies"] == {
        "z2": {"z2": set(), "z1": set(), "x": set()},
        "z1": {"z1": set(), "x": set()},
    }


def test_a_handler_that_replaces_a_parameter_is_still_refused():
    """The networks compute with their own tensors."""
    pair, batch = pairs.create("vae"), pairs.batch("vae")
    name, parameter = next(iter(pair.model.named_parameters()))
    program = pyro.poutine.substitute(pair.model, data={name: torch.zeros_like(parameter)})
    with pytest.raises(RuntimeError, match=r"holds another tensor under 'vae\.model"):
        pyro.poutine.trace(program).get_trace(*batch)


@pytest.mark.parametrize("variant", PLAIN, ids=str)
def test_a_parameter_of_both_programs_has_one_name(variant):
    pair, batch = variant.create(), variant.batch()
    pair.guide(*batch)
    pair.model(None, *(batch[1:] or (None,)), pairs.BATCH)
    store = pyro.get_param_store()
    stored = list(dict(store.named_parameters()).values())
    trained = [parameter for parameter in pair.parameters() if parameter.requires_grad]
    assert len(stored) == len(trained) and {id(one) for one in stored} == {id(one) for one in trained}
    assert all(store.param_name(parameter) in store for parameter in trained)


def loss_and_gradients(objective, pair, batch, seed):
    for parameter in pair.parameters():
        parameter.grad = None
    torch.manual_seed(seed)
    loss = objective.loss_and_grads(pair.model, pair.guide, *batch)
    gradients = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in pair.named_parameters()
    }
    return loss, gradients


def assert_same(one, other):
    assert one[0] == pytest.approx(other[0], rel=1e-4)
    for name, gradient in one[1].items():
        size = max(1.0, other[1][name].abs().max().item())
        assert torch.allclose(gradient, other[1][name], rtol=1e-3, atol=1e-4 * size), name


ENUMERATES = {"max_plate_nesting": 1}


@pytest.mark.filterwarnings("ignore:(?s).*If you want to enumerate:UserWarning")
@pytest.mark.parametrize("variant", PLAIN, ids=str)
def test_the_gradient_of_a_stochastic_graph_is_that_of_the_others(variant):
    """Pyro tracks draws without a gradient through both programs by a type of tensor of its own."""
    pair, batch = variant.create(), variant.batch()
    expected = loss_and_gradients(infer.Trace_ELBO(), pair, batch, seed=1)
    found = loss_and_gradients(infer.TraceGraph_ELBO(), pair, batch, seed=1)
    if variant.name == "cp_vae" and "c" in pair.encode(*batch):  # another estimate of the category's gradient
        for gradients in (expected[1], found[1]):
            for name in [name for name in gradients if name.startswith(("guide.category", "guide.trunk"))]:
                del gradients[name]
    assert_same(found, expected)


@pytest.mark.filterwarnings("ignore:(?s).*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:(?s).*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:(?s).*If you want to enumerate:UserWarning")
@pytest.mark.parametrize("name", ["Trace_ELBO", "TraceGraph_ELBO", "TraceEnum_ELBO", "TraceMeanField_ELBO"])
@pytest.mark.parametrize("variant", PLAIN, ids=str)
def test_jit_objectives_give_what_their_eager_ones_give(variant, name):
    options = ENUMERATES if name == "TraceEnum_ELBO" else {}
    pair, batch = variant.create(), variant.batch()
    eager, jit = getattr(infer, name)(**options), getattr(infer, f"Jit{name}")(ignore_jit_warnings=True, **options)
    drawn = sample_sites(pyro.poutine.trace(pair.guide).get_trace(*batch))
    if name == "TraceMeanField_ELBO" and not all(site["fn"].has_rsample for _, site in drawn):
        with pytest.raises(NotImplementedError, match="fully reparameterized"):
            jit.loss_and_grads(pair.model, pair.guide, *batch)
        return
    jit.loss_and_grads(pair.model, pair.guide, *batch)
    found = loss_and_gradients(jit, pair, batch, seed=1)
    expected = loss_and_gradients(eager, pair, batch, seed=1)
    if name == "TraceMeanField_ELBO":  # Pyro traces it in each call, with two draws before the one that counts
        torch.manual_seed(1)
        for _ in range(2):
            eager.loss(pair.model, pair.guide, *batch)
        state = torch.get_rng_state()
        expected = loss_and_gradients(_FromState(eager, state), pair, batch, seed=1)
    assert_same(found, expected)


class _FromState:
    def __init__(self, objective, state):
        self.objective, self.state = objective, state

    def loss_and_grads(self, *args):
        torch.set_rng_state(self.state)
        return self.objective.loss_and_grads(*args)


OTHERS = {
    "TraceGraph_ELBO": {},
    "TraceEnum_ELBO": ENUMERATES,
    "TraceMeanField_ELBO": {},
    "TraceTMC_ELBO": ENUMERATES,
    "RenyiELBO": {"alpha": 0.5, "num_particles": 3, "vectorize_particles": True, **ENUMERATES},
    "TraceTailAdaptive_ELBO": {"num_particles": 3, "vectorize_particles": True, **ENUMERATES},
    "ReweightedWakeSleep": {"num_particles": 2},
}


@pytest.mark.filterwarnings("ignore:(?s).*If you want to enumerate:UserWarning")
@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("variant", PLAIN, ids=str)
def test_svi_trains_both_programs_by_any_objective_of_pyro(variant, name):
    pair, batch = variant.create(), variant.batch()
    before = {parameter: parameter.clone() for parameter in pair.parameters()}
    svi = infer.SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-2}), getattr(infer, name)(**OTHERS[name]))
    try:
        losses = [svi.step(*batch) for _ in range(2)]
    except NotImplementedError as error:  # of a category, says Pyro
        assert variant.name == "cp_vae" and "fully reparameterized" in str(error)
        return
    if name != "TraceTailAdaptive_ELBO":  # which has no loss to return
        assert torch.tensor(losses).isfinite().all()
    for program in (pair.model, pair.guide):
        assert any(not torch.equal(parameter, before[parameter]) for parameter in program.parameters())


@pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites:UserWarning")
@pytest.mark.parametrize("variant", PLAIN, ids=str)
def test_objectives_as_modules_own_the_parameters_of_the_pair(variant):
    pair, batch = variant.create(), variant.batch()
    for objective in (infer.TraceEnum_ELBO(**ENUMERATES), pair.elbo):
        module = objective(pair.model, pair.guide)
        assert {id(one) for one in module.parameters()} == {id(one) for one in pair.parameters()}
        module(*batch).backward()
        assert all(one.grad is None or one.grad.isfinite().all() for one in pair.parameters())


@pytest.mark.parametrize("parallel", [False, True], ids=["one by one", "at once"])
@pytest.mark.parametrize("variant", PLAIN, ids=str)
def test_predictive_draws_from_prior_and_posterior(variant, parallel):
    pair, batch = variant.create().eval(), variant.batch()
    given = (None, *(batch[1:] or (None,)), pairs.BATCH)
    prior = infer.Predictive(pair.model, num_samples=3, parallel=parallel)(*given)
    assert prior["x"].reshape(3, *batch[0].shape).shape[0] == 3
    posterior = infer.Predictive(pair.model, guide=pair.guide, num_samples=3, parallel=parallel)(*batch)
    for site, size in pairs.latent_sites(variant.name).items():
        assert posterior[site].numel() == prior[site].numel() == 3 * pairs.BATCH * size


@pytest.mark.parametrize("guide", [infer.autoguide.AutoNormal, infer.autoguide.AutoDelta])
@pytest.mark.parametrize("name", ["vae", "hvae", "cvamp_cvae", "sigma_cvae_nf"])
def test_guides_that_pyro_makes_fit_the_models(name, guide):
    pair, batch = pairs.create(name), pairs.batch(name)
    made = guide(pair.model)
    svi = infer.SVI(pair.model, made, pyro.optim.Adam({"lr": 1e-2}), infer.Trace_ELBO())
    assert all(torch.tensor([svi.step(*batch) for _ in range(2)]).isfinite())
    for site, size in pairs.latent_sites(name).items():
        assert made.median(*batch)[site].shape == (pairs.BATCH, size)
