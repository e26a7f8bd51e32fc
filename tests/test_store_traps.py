"""Traps of Pyro 1.9.2 that were measured (most of them silent), each as a test that passes here.

What Pyro warns of nowhere: modules that train nothing because the parameter store holds others under their
names, global state that an import or a constructor changes, and objectives that return a number for programs
they do not fit.
"""

import copy
import gc
import json
import math
import os
import subprocess
import sys
from functools import partial
from weakref import WeakKeyDictionary

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn as nn
from pyro import infer, poutine
from pyro.infer import SVI, Trace_ELBO
from torch.testing import assert_close

import pyro_priors as pp
from pairs import BATCH, NAMES, batch, create, gradients, randomise
from pyro_priors import registration
from pyro_priors._lock import LOCK
from pyro_priors.guides import VAEGuide
from pyro_priors.models import VAE
from pyro_priors.nn import Decoder, Encoder, make_likelihood
from pyro_priors.objectives import ELBO, Beta, Capacity, EnumELBO, Factor, Info, KLWeight
from pyro_priors.pair import Pair
from pyro_priors.priors import StandardPrior
from pyro_priors.registration import data_plate, register

BERNOULLI = make_likelihood("bernoulli", (6,))

each_pair = pytest.mark.parametrize("name", NAMES)


def _svi(pair, rate=1e-2):
    return SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": rate}), pair.elbo)


def _state(pair):
    return copy.deepcopy(dict(pair.named_parameters()))


def _changed(pair, before):
    return {name for name, parameter in pair.named_parameters() if not torch.equal(parameter, before[name])}


# the parameter store


def test_with_pyro_module_a_second_module_of_one_name_trains_nothing():
    """The trap itself, so that it is seen when Pyro mends it: no error, no warning, and dead tensors."""
    modules = [nn.Linear(1, 1), nn.Linear(1, 1)]
    before = copy.deepcopy(modules[1].state_dict())
    for module in modules:

        def model(x, module=module):
            pyro.module("net", module)
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(module(x), 1.0).to_event(1), obs=x)

        svi = SVI(model, lambda x: None, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
        svi.step(torch.ones(3, 1))
    assert all(torch.equal(value, before[key]) for key, value in modules[1].state_dict().items())


@each_pair
def test_two_pairs_train_interleaved_as_each_does_alone(name):
    """Steps of two pairs in turn: each step changes every parameter of its own pair and none of the other's,
    and at the same seeds each ends exactly where a copy ends that trains alone."""
    pairs, args = [create(name), create(name)], batch(name)
    alone = copy.deepcopy(pairs)
    svis = [_svi(pair) for pair in pairs]
    for step in range(3):
        for turn, other in ((0, 1), (1, 0)):
            mine, theirs = _state(pairs[turn]), _state(pairs[other])
            torch.manual_seed(step)
            svis[turn].step(*args)
            assert _changed(pairs[turn], mine) == mine.keys()
            assert not _changed(pairs[other], theirs)
    for pair, twin in zip(pairs, alone, strict=True):
        svi = _svi(twin)
        for step in range(3):
            torch.manual_seed(step)
            svi.step(*args)
        assert not _changed(pair, dict(twin.named_parameters()))


def test_pairs_of_different_kinds_share_no_names():
    """Every parameter of every pair is in the store; one that both halves share is there under two names."""
    pairs = [create(name) for name in NAMES]
    for name, pair in zip(NAMES, pairs, strict=True):
        _svi(pair).step(*batch(name))
    stored = {id(value) for value in pyro.get_param_store()._params.values()}
    assert stored == {id(parameter) for pair in pairs for parameter in pair.parameters()}


@each_pair
def test_a_restored_store_beside_fresh_modules_is_refused(name, tmp_path, monkeypatch):
    """Store saved, "new process" (names start anew), store loaded, pair created: Pyro would train the loaded
    tensors and compute with the fresh ones. Here the first step is an error that names the remedy, and
    nothing has changed."""
    gc.collect()  # pairs of other tests, whose names come again here, leave the store now and not later
    with LOCK:
        pass
    monkeypatch.setattr(registration, "_counters", {})
    monkeypatch.setattr(registration, "_names", WeakKeyDictionary())
    args, trained = batch(name), create(name)
    _svi(trained).step(*args)
    pyro.get_param_store().save(tmp_path / "store.pt")
    pyro.clear_param_store()

    monkeypatch.setattr(registration, "_counters", {})
    monkeypatch.setattr(registration, "_names", WeakKeyDictionary())
    pyro.get_param_store().load(tmp_path / "store.pt")
    stored = copy.deepcopy(dict(pyro.get_param_store().items()))
    pair = create(name)
    before = _state(pair)
    with pytest.raises(RuntimeError, match=r"store holds another tensor under '\w+\.guide\$\$\$.*pair\.save\(path\)"):
        _svi(pair).step(*args)
    assert not _changed(pair, before)
    assert all(torch.equal(value, stored[key]) for key, value in pyro.get_param_store().items())
    pyro.clear_param_store()  # the remedy
    _svi(pair).step(*args)
    assert _changed(pair, before) == before.keys()


@each_pair
def test_what_one_does_with_a_pair_leaves_the_store_untouched(name):
    """Of a pair in training and of one that never was; the training goes on afterwards."""
    pyro.param("sentinel", torch.ones(2))
    trained, args = create(name), batch(name)
    svi = _svi(trained)
    svi.step(*args)
    params = dict(pyro.get_param_store()._params)
    values = copy.deepcopy(params)
    condition = args[1] if len(args) > 1 else None
    for pair in (trained, create(name)):
        pair.sample(BATCH, condition)
        pair.encode(*args)
        pair.reconstruct(*args)
        pair.log_prob(*args, num_samples=2)
        if pair.num_categories:
            pair.set_aggregate(*args)
            pair.sample(BATCH, condition, c="aggregate")
    after = dict(pyro.get_param_store()._params)
    assert after.keys() == params.keys()
    assert all(after[key] is params[key] and torch.equal(after[key], values[key]) for key in after)
    before = _state(trained)
    svi.step(*args)
    assert _changed(trained, before) == before.keys()


def test_frozen_parameters_stay_as_they_are():
    """requires_grad=False is heeded: Pyro's store would switch it on again."""
    pair, args = create("vae"), batch("vae")
    pair.guide.requires_grad_(False)
    before = _state(pair)
    _svi(pair).step(*args)
    assert _changed(pair, before) == {name for name in before if name.startswith("model.")}
    assert not any(parameter.requires_grad for parameter in pair.guide.parameters())


def test_a_parameter_that_is_not_contiguous_trains():
    """A transposed weight, or a convolution in channels_last, is as good a parameter as another."""
    pair, args = create("vae"), batch("vae")
    weight = pair.model.decoder.out.input.weight
    weight.data = weight.data.T.contiguous().T
    assert not weight.is_contiguous()
    before = _state(pair)
    _svi(pair).step(*args)
    assert _changed(pair, before) == before.keys()


# shared networks


class EncoderPrior(nn.Module):
    """A prior made with the guide's encoder, as VampPrior's is: the posterior at one trained pseudo-input."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder
        self.pseudo_input = nn.Parameter(torch.rand(6))

    def forward(self):
        return self.encoder(self.pseudo_input)


def _tied_pair():
    encoder = Encoder((6,), 2, (5,))
    return Pair(VAE(EncoderPrior(encoder), Decoder(2, (6,), BERNOULLI, (5,))), VAEGuide(encoder))


def _assert_tied(pair):
    assert pair.model.prior.encoder is pair.guide.encoder
    names = [name for name, _ in pair.named_parameters()]
    assert not any(name.startswith("guide.") for name in names)  # each parameter once, under its first name


def test_a_shared_network_stays_one_under_copy_dtype_save_and_load(tmp_path):
    """safetensors refuses shared memory and deepcopy of the halves would untie them; Pair owns the tie."""
    pair, args = _tied_pair(), batch("vae")
    _assert_tied(pair)
    _assert_tied(copy.deepcopy(pair))
    _assert_tied(copy.deepcopy(pair).double())
    pair.save(tmp_path)
    other = _tied_pair()
    other.load_weights(tmp_path)
    _assert_tied(other)
    assert torch.equal(other.reconstruct(*args), pair.reconstruct(*args))


def test_a_shared_network_is_trained_once_by_both_halves():
    """Under ELBOModule and under SVI (where it is registered twice): one step of plain gradient descent at
    rate 1 goes along the one gradient of the sum, once."""
    pair, args = _tied_pair(), batch("vae")
    loss_of = pair.elbo(pair.model, pair.guide)
    assert len(list(loss_of.parameters())) == len(list(pair.parameters()))
    torch.manual_seed(1)
    gradient = gradients(pair, loss_of(*args))
    before = _state(pair)
    torch.manual_seed(1)
    SVI(pair.model, pair.guide, pyro.optim.SGD({"lr": 1.0}), pair.elbo).step(*args)
    for name, parameter in pair.named_parameters():
        assert_close(parameter.detach(), before[name].detach() - gradient[name])


# global state

GLOBALS = """
import json, random, sys
import numpy, pyro, torch
from pyro.infer.util import is_validation_enabled

flag = sys.argv[1] == "True"
pyro.enable_validation(flag)
pyro.param("sentinel", torch.ones(2))

def state():
    return {
        "python": hash(random.getstate()), "numpy": str(numpy.random.get_state()),
        "torch": torch.get_rng_state().tolist(),
        "dtype": str(torch.get_default_dtype()), "store": sorted(pyro.get_param_store().keys()),
        "validation": [is_validation_enabled(), torch.distributions.Distribution._validate_args],
        "determinism": [torch.are_deterministic_algorithms_enabled(), torch.get_num_threads(), torch.is_grad_enabled()],
    }

before = state()
import pyro_priors as pp
after_import = state()
options = {"cp_vae": {"num_categories": 3}, "cvae": {"condition_shape": (2,)}}
def build():
    given = {n: options["cvae"] if "cvae" in n else options.get(n, {}) for n in sys.argv[2:]}
    pairs = [pp.create(n, x_shape=(4,), z_dim=2, hidden=(3,), **own) for n, own in given.items()]
    return [pp.objectives.ELBO(), pp.objectives.Beta(), [p.detach() for pair in pairs for p in pair.parameters()]][-1]
first, second = build(), build()
torch.manual_seed(3)
third = build()
torch.manual_seed(3)
fourth = build()
same = lambda a, b: all(torch.equal(x, y) for x, y in zip(a, b))
after = state()
drawn = {"torch"}  # the networks' starting values are drawn, and from the global generator
print(json.dumps({
    "import": [k for k in before if before[k] != after_import[k]],
    "construction": [k for k in before if before[k] != after[k] and k not in drawn],
    "reseeds": same(first, second), "obeys the seed": same(third, fourth),
}))
"""


def test_import_and_construction_change_no_global_state():
    """No generator, default dtype, validation flag (whichever way it is set) or store changes by an import;
    by a construction none but torch's generator, from which the starting values come and which is not seeded
    anew."""
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", GLOBALS, str(flag), *NAMES], stdout=subprocess.PIPE, env=os.environ, text=True
        )
        for flag in (True, False)
    ]
    for run in runs:
        out, _ = run.communicate()
        assert run.returncode == 0
        expected = {"import": [], "construction": [], "reseeds": False, "obeys the seed": True}
        assert json.loads(out.splitlines()[-1]) == expected


# objectives refuse what they would get wrong


@pytest.mark.parametrize("weight", [0, 0.0, -1.0, {"z": 0.0}, float("nan")])
def test_kl_weight_0_is_refused_by_name_and_remedy(weight):
    """Pyro's poutine.scale(scale=0) fails in the middle of a trace; a warm-up that starts at 0 is the usual
    way there."""
    site = "z" if isinstance(weight, dict) else "every latent site"
    with pytest.raises(
        ValueError, match=f"the KL weight of {site} must be above 0, got .*: start a warm-up at 1/steps"
    ):
        KLWeight(weight)
    with pytest.raises(ValueError, match="must be above 0"):
        elbo = ELBO()
        elbo.kl_weight = weight
        pair = create("vae")
        elbo.loss(pair.model, pair.guide, *batch("vae"))


def test_objectives_refuse_values_that_make_no_sense():
    with pytest.raises(ValueError, match=r"beta must be above 0, got 0\.0: beta=1 is the plain bound"):
        Beta(beta=0.0)
    with pytest.raises(ValueError, match="num_particles must be at least 1, got 0"):
        ELBO(num_particles=0)


@pytest.mark.parametrize(
    "weights", [(0.5, 0.1), (0.5, None), (None, 0.5), (torch.tensor(0.5), None), (None, torch.tensor(0.5))]
)
def test_different_weights_on_the_two_programs_are_refused(weights):
    """Each half of a KL with its own weight is no KL; a weight on one program only is the usual way there."""
    pair = create("vae")
    programs = [
        program if weight is None else KLWeight(weight)(program)
        for program, weight in zip((pair.model, pair.guide), weights, strict=True)
    ]
    with pytest.raises(
        ValueError, match="site 'z' is scaled by .* in the model and by .* in the guide: put the same KL"
    ):
        ELBO().loss(*programs, *batch("vae"))


def test_the_weight_leaves_the_likelihood_alone():
    """poutine.scale around both programs weighs the reconstruction too, KLWeight does not; and weights
    multiply."""
    pair, args = create("vae"), batch("vae")
    with KLWeight(0.5), KLWeight({"z": 0.5}):
        trace = poutine.trace(pair.model).get_trace(*args)
    assert trace.nodes["z"]["scale"] == 0.25
    assert trace.nodes["x"]["scale"] == 1


class Program(nn.Module):
    """A model or guide with one defect. Data have one value or as many values as there are data, where a
    forgotten ``to_event`` broadcasts without an error."""

    def __init__(self, x_dim, defect="", categories=False, guide=False):
        super().__init__()
        self.defect, self.categories, self.guide = defect, categories, guide
        self.x_to_z, self.z_to_x = nn.Linear(x_dim, 2), nn.Linear(2, x_dim)
        self.table = nn.Parameter(torch.randn(BATCH, 2))
        self.logits = nn.Parameter(torch.randn(BATCH))

    def forward(self, x=None, condition=None, size=None):
        register("defective", self)
        if self.defect == "outside plate":
            pyro.sample("w", dist.Normal(self.table[0, 0], 1.0))
        with data_plate(x, condition, size):
            loc = self.x_to_z(x) if self.guide else torch.zeros(2)
            if self.categories and not (self.guide and self.defect == "model side"):
                mark = {"sequential": "sequential", "unmarked": None}.get(self.defect, "parallel")
                infer = {"enumerate": mark} if mark and (self.guide or self.defect == "model side") else {}
                loc = loc + self.table[pyro.sample("c", dist.Categorical(logits=self.logits), infer=infer)]
            z = pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))
            if not self.guide:
                d = dist.Normal(self.z_to_x(z), 1.0)
                pyro.sample("x", d if self.defect == "to_event" else d.to_event(1), obs=x)


def _programs(x_dim, defect, categories):
    return [Program(x_dim, defect, categories, guide) for guide in (False, True)]


@pytest.mark.parametrize("num_particles", [1, 3, BATCH])
@pytest.mark.parametrize("categories", [False, True])
@pytest.mark.parametrize("x_dim", [1, BATCH])
def test_a_forgotten_to_event_is_refused(x_dim, categories, num_particles):
    """With one value per datum, or as many as data, everything broadcasts: also with as many categories as
    data. Pyro's plates see it only where the number of particles differs from that of the data."""
    model, guide = _programs(x_dim, "to_event", categories)
    with pytest.raises(ValueError, match="declare its event dimensions with .to_event|Shape mismatch inside plate"):
        ELBO(num_particles=num_particles).loss(model, guide, torch.randn(BATCH, x_dim))


@pytest.mark.parametrize("num_particles", [1, 3])
def test_a_site_outside_the_plate_is_refused(num_particles):
    """One global latent has no loss per datum."""
    model, guide = _programs(2, "outside plate", False)
    with pytest.raises(ValueError, match="site 'w' must lie in the plate 'data' with one log-density per datum"):
        ELBO(num_particles=num_particles).loss(model, guide, torch.randn(BATCH, 2))


def test_a_discrete_site_that_nobody_enumerates_is_refused():
    """Its gradient would silently be missing."""
    model, guide = _programs(2, "unmarked", True)
    with pytest.raises(ValueError, match="site 'c' is neither enumerated nor reparameterised: mark it with infer="):
        ELBO().loss(model, guide, torch.randn(BATCH, 2))


def test_sequential_enumeration_is_refused():
    model, guide = _programs(2, "sequential", True)
    with pytest.raises(ValueError, match='marked infer={"enumerate": "sequential"}: mark it "parallel"'):
        ELBO().loss(model, guide, torch.randn(BATCH, 2))


@pytest.mark.filterwarnings("ignore:Found vars in model but not guide")
def test_enumeration_in_the_model_is_refused():
    """Pyro raises there too, once scales differ."""
    model, guide = _programs(2, "model side", True)
    with pytest.raises(ValueError, match="site 'c' of the model is not in the guide: sample it there too"):
        ELBO().loss(model, guide, torch.randn(BATCH, 2))


def test_enum_elbo_refuses_a_guide_that_enumerates_nothing():
    pair = create("vae")
    with pytest.raises(ValueError, match="EnumELBO found nothing to enumerate: mark a discrete site of the guide"):
        EnumELBO().loss(pair.model, pair.guide, *batch("vae"))


def test_x_and_condition_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="condition must be as long as x, got 3 and 5: give one row per datum"):
        data_plate(torch.zeros(5, 2), torch.zeros(3, 2), None)


class Relaxed(nn.Module):
    """A relaxed category by the pattern that equals the hand-written loss: the draw by hand, a Delta site, a
    factor."""

    def __init__(self, guide):
        super().__init__()
        self.guide = guide
        self.to_logits, self.to_x = nn.Linear(6, 3), nn.Linear(3, 6)

    def forward(self, x=None, condition=None, size=None):
        register("relaxed", self)
        with data_plate(x, condition, size):
            if self.guide:
                logits = self.to_logits(x)
                relaxed = torch.softmax(logits - torch.log(-torch.log(torch.rand_like(logits))), -1)
                pyro.sample("c", dist.Delta(relaxed, event_dim=1))
                q = dist.Categorical(logits=logits)
                kl = (q.probs * (q.logits + torch.tensor(3.0).log())).sum(-1)
                pyro.factor("kl_c", kl, has_rsample=True)
            else:
                simplex = dist.constraints.simplex
                c = pyro.sample("c", dist.ImproperUniform(simplex, (), torch.Size((3,))))
                pyro.sample("x", dist.Bernoulli(logits=self.to_x(c)).to_event(1), obs=x)


@pytest.mark.filterwarnings("ignore:Found non-auxiliary vars in guide but not model")
def test_a_relaxed_category_with_a_factor_in_the_guide_is_counted_as_pyro_counts_it(float64):
    """Loss and gradients are Trace_ELBO's over the batch size; the relaxed site itself adds no density."""
    pair, args = randomise(Pair(Relaxed(False), Relaxed(True))), batch("vae")
    torch.manual_seed(1)
    ours = pair.elbo(pair.model, pair.guide)(*args)
    torch.manual_seed(1)
    pyros = Trace_ELBO().differentiable_loss(pair.model, pair.guide, *args) / BATCH
    assert_close(ours, pyros)
    used = [pair.model.to_x.weight, pair.guide.to_logits.weight]
    for mine, theirs in zip(torch.autograd.grad(ours, used), torch.autograd.grad(pyros, used), strict=True):
        assert_close(mine, theirs)


def test_a_pair_of_ones_own_trains_without_the_zoo():
    """Any two programs of the form make a pair."""
    pair = Pair(
        VAE(StandardPrior(2), Decoder(2, (6,), BERNOULLI, (5,))),
        VAEGuide(Encoder((6,), 2, (5,))),
    )
    before = _state(pair)
    _svi(pair).step(*batch("vae"))
    assert _changed(pair, before) == before.keys()
    assert pair.recipe is None and pair.sample(4)["x"].shape == (4, 6)


# options that name sites which are not there

UNKNOWN = "^kl_weight names 'zz', which is not a latent site: choose from z$"


@pytest.mark.parametrize("weight", [{"zz": 0.5}, {"z": 0.5, "zz": 2.0}, {"x": 0.5}])
@pytest.mark.parametrize("program", ["model", "guide"])
def test_the_weight_of_an_unknown_site_is_refused_by_the_handler(program, weight):
    """Around either program, as a decorator or a context: one line, and Pyro's stack is as it was before."""
    pair, args = create("vae"), batch("vae")
    message = UNKNOWN if "zz" in weight else "^kl_weight names 'x', which is not a latent site: choose from z$"
    with pytest.raises(ValueError, match=message):
        KLWeight(weight)(getattr(pair, program))(*args)
    with pytest.raises(ValueError, match=message), KLWeight(weight):
        getattr(pair, program)(*args)
    weigh = KLWeight({"z": 0.5})
    trace = poutine.trace(weigh(getattr(pair, program))).get_trace(*args)
    assert trace.nodes["z"]["scale"] == 0.5, "and nothing is left of the handlers before"


def test_a_weight_may_name_a_site_of_the_guide_alone():
    """An auxiliary variable: the KL that stands in the bound is its log-density under the guide."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(x, 1.0).to_event(1), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(u, 1.0).to_event(1))

    objective = ELBO()
    objective.kl_weight = {"u": 0.5}
    terms = objective.terms(model, guide, torch.randn(4, 2))
    assert terms.scales == {"reconstruction": 1.0, "kl_z": 1.0, "kl_u": 0.5}
    objective.kl_weight = {"zz": 0.5}
    with pytest.raises(ValueError, match="^kl_weight names 'zz', which is not a latent site: choose from z, u$"):
        objective.terms(model, guide, torch.randn(4, 2))


def test_an_error_of_the_program_is_not_hidden_by_that_of_the_weight():
    pair = create("vae")
    with pytest.raises(ValueError, match="x must have shape"):
        KLWeight({"zz": 0.5})(pair.guide)(torch.zeros(2, 3))


@pytest.mark.parametrize("elbo", [infer.Trace_ELBO(), infer.TraceMeanField_ELBO(), infer.TraceEnum_ELBO()])
def test_the_weight_of_an_unknown_site_is_refused_in_svi_by_hand(elbo):
    pair, weigh = create("vae"), KLWeight({"zz": 0.5})
    before = {name: value.clone() for name, value in pair.named_parameters()}
    svi = infer.SVI(weigh(pair.model), weigh(pair.guide), pyro.optim.SGD({"lr": 0.1}), elbo)
    with pytest.raises(ValueError, match=UNKNOWN):
        svi.step(*batch("vae"))
    assert all(torch.equal(value, before[name]) for name, value in pair.named_parameters())


@pytest.mark.parametrize("make", [ELBO, partial(Beta, 2.0), partial(Capacity, 2.0), partial(Info, 0.5), Factor])
def test_the_weight_of_an_unknown_site_is_refused_by_every_objective(make):
    pair, objective = create("vae"), make()
    objective.kl_weight = {"z": 0.5, "zz": 0.5}
    for use in (objective.loss, objective.terms, objective.differentiable_loss):
        with pytest.raises(ValueError, match=UNKNOWN):
            use(pair.model, pair.guide, *batch("vae"))
    objective.kl_weight = {"z": 0.5}
    assert math.isfinite(objective.loss(pair.model, pair.guide, *batch("vae")))


def test_the_weight_of_an_unknown_site_is_refused_by_compiled_objectives():
    """In one line: no warning that the step is not compiled comes before it."""
    pair, objective = create("vae"), ELBO()
    objective.kl_weight = {"zz": 0.5}
    loss = pp.compiled(pair, objective)
    for _ in range(2):
        with pytest.raises(ValueError, match=UNKNOWN):
            loss(*batch("vae"))
    with pytest.raises(ValueError, match=UNKNOWN):
        loss.outputs(*batch("vae"), None, {"z": 1.0, "zz": 0.5}, backward=True)


@pytest.mark.parametrize("weight", [{"zz": 0.5}, {"z": 0.5}, 0.5])
def test_fit_refuses_an_objective_with_a_weight_that_it_would_replace(weight, tmp_path):
    data = pp.data.from_arrays(torch.zeros(20, 4))
    pair, objective = pp.create("vae", x_shape=(4,), z_dim=2, hidden=(5,)), ELBO()
    objective.kl_weight = weight
    with pytest.raises(ValueError, match=r"^the objective's kl_weight is .*0.5.*, but fit sets the weight of each"):
        pp.fit(pair, data, objective, progress=False, out=tmp_path / "run")
    assert not list(tmp_path.iterdir()) and objective.kl_weight == weight


def test_chunks_of_a_category_that_is_summed_in_part_are_refused_by_hand_too():
    """fit refuses them by the pair's options; by hand the guide's marks tell. To sum all, say so."""
    pair, args = create("cp_vae", category="sparse", num_enumerated=1), batch("cp_vae")
    elbo = ELBO(chunk_size=2)
    with pytest.raises(ValueError, match=r"^chunk_size=2 sums all categories, but site 'c' is marked num_enumerated"):
        elbo.loss(pair.model, pair.guide, *args)
    whole = ELBO()
    elbo.exact = whole.exact = True
    # the KL of the category has no noise, and is a sum over all of them
    chunked, expected = (one.terms(pair.model, pair.guide, *args).parts["kl_c"] for one in (elbo, whole))
    assert_close(chunked, expected)


def test_chunks_without_a_category_are_refused_before_a_training(tmp_path):
    data = pp.data.from_arrays(torch.zeros(20, 4))
    pair = pp.create("vae", x_shape=(4,), z_dim=2, hidden=(5,))
    with pytest.raises(ValueError, match="^chunk_size=2 needs one enumerated category, got sites z: leave chunk_size"):
        pp.fit(pair, data, ELBO(chunk_size=2), progress=False, out=tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "use",
    [
        lambda pair, x: pp.metrics.prior_samples(pair, "zz", 3),
        lambda pair, x: pp.metrics.log_prior(pair, "zz", torch.zeros(2, 2)),
        lambda pair, x: pp.metrics.posterior_draws(pair, "zz", x),
    ],
)
def test_metrics_of_an_unknown_site_are_refused(use):
    with pytest.raises(
        ValueError, match="^site must be a latent site of the pair with a density, got 'zz': did you mean 'z'"
    ):
        use(create("vae"), *batch("vae"))


def test_metrics_of_an_unknown_part_are_refused():
    pair, data = pp.create("vae", x_shape=(4,)), pp.data.from_arrays(torch.zeros(20, 4))
    for use in (
        lambda: pp.metrics.evaluate(pair, data, "tets"),
        lambda: pp.metrics.condition_fidelity(pair, data, None, "tets"),
        lambda: pp.metrics.diversity(pair, data, torch.flatten, "", "tets"),
        lambda: pp.metrics.image_distances(pair, data, "tets"),
    ):
        with pytest.raises(ValueError, match="^part must be one of train, valid, test, got 'tets'$"):
            use()
