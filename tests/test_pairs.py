"""One body over every registered pair: x objectives x likelihoods x priors, wherever they apply.

A pair that is added to the zoo is tested by one entry in tests/pairs.py.
"""

import copy
import math
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.infer.util import is_validation_enabled
from torch import Tensor
from torch.testing import assert_close

import pyro_priors as pp
from pairs import (
    BATCH,
    NAMES,
    SMALL,
    GivenNoise,
    batch,
    create,
    gradients,
    latent_sites,
    randomise,
    variants,
)
from pyro_priors import zoo
from pyro_priors.data import Part
from pyro_priors.nn import chosen
from pyro_priors.objectives import ELBO, OBJECTIVES, EnumELBO, log_importance_weights
from pyro_priors.sites import is_categorical, is_enumerated, sample_sites

each_pair = pytest.mark.parametrize("name", NAMES)
each_variant = pytest.mark.parametrize("variant", variants(), ids=str)

ELBOS = {
    **OBJECTIVES,
    "constrained": lambda: OBJECTIVES["constrained"](kappa_squared=5.0),
    "factor": lambda: OBJECTIVES["factor"](hidden=(7, 5)),
    "total-correlation": lambda: OBJECTIVES["total-correlation"](num_data=20),
    "total-correlation-weighted-particles": lambda: OBJECTIVES["total-correlation"](
        estimator="weighted", num_data=20, num_particles=3
    ),
    "info-biased": lambda: OBJECTIVES["info"](kernel="inverse_multiquadratic", unbiased=False, num_particles=3),
    "elbo-sampled-kl": lambda: ELBO(analytic_kl=False),
    "elbo-particles": lambda: ELBO(num_particles=3),
    "beta-particles": lambda: OBJECTIVES["beta"](num_particles=3),
    "enum_elbo": EnumELBO,
    "enum_elbo-particles": lambda: EnumELBO(num_particles=3),
    "Trace_ELBO": Trace_ELBO,
    "Trace_ELBO-particles": lambda: Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
    "TraceMeanField_ELBO": TraceMeanField_ELBO,
    "TraceEnum_ELBO": lambda: TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False),
}


ENUMERATED = [name for name in NAMES if create(name).num_categories]
OTHERS = [name for name in NAMES if name not in ENUMERATED]


COMPARES = re.compile("total-correlation|factor|info")


@pytest.mark.parametrize("objective", [key for key in ELBOS if COMPARES.match(key)])
@pytest.mark.parametrize("options", [{"category": "sparse", "num_enumerated": 1}, {"category": "relaxed"}], ids=str)
def test_what_compares_data_refuses_categories_that_are_not_all_summed(objective, options):
    pair, args = create("cp_vae", **options), batch("cp_vae")
    with pytest.raises(
        ValueError, match="site 'c' (has categories of its own|is a RelaxedCategorical): |use ELBO or B"
    ):
        ELBOS[objective]().terms(pair.model, pair.guide, *args)


def _applies(objective, variant):
    """EnumELBO is for pairs that enumerate; Pyro warns where its ELBOs without enumeration meet one; what compares the
    data of a batch sums all categories, or refuses."""
    if COMPARES.match(objective) and ("category" in dict(variant.options) or variant.name == "cp_vae_reference"):
        return False
    if variant.num_enumerated:
        return not objective.startswith(("Trace_", "TraceMeanField_"))
    return not objective.startswith("enum")


def _traces(pair, args, num_particles=1):
    """The two traces of a run, as the pair's own ELBO makes them."""
    (traces,) = type(pair.elbo)(num_particles=num_particles)._get_traces(pair.model, pair.guide, args, {})
    return traces


def test_every_registered_pair_is_tested():
    missing = set(zoo.names()) - set(SMALL)
    assert not missing, f"the pair {min(missing)!r} is not tested: add it to SMALL in tests/pairs.py"
    assert not set(SMALL) - set(zoo.PRESETS)
    assert set(zoo.names()) == set(pp.names())


# training


def _cover():
    """The first variant of each pair under every objective; the others under our own and another, in turn."""
    begun = set()
    for number, variant in enumerate(variants()):
        keys = [key for key in ELBOS if _applies(key, variant)]
        if variant.name in begun:
            first, *others = keys
            keys = [first, others[number % len(others)]]
        begun.add(variant.name)
        yield from ((variant, key) for key in keys)


@pytest.mark.parametrize(("variant", "objective"), list(_cover()), ids=str)
def test_every_parameter_is_trained(variant, objective):
    """A finite gradient that is not zero for every parameter, and one number from loss, differentiable_loss
    and loss_and_grads at the same draw; validation is on meanwhile."""
    assert is_validation_enabled() and torch.distributions.Distribution._validate_args
    pair, args = variant.create(), variant.batch()
    elbo = ELBOS[objective]()
    values = []
    for method in (elbo.loss, elbo.differentiable_loss, elbo.loss_and_grads):
        torch.manual_seed(1)
        values.append(torch.as_tensor(method(pair.model, pair.guide, *args)).item())
    assert math.isfinite(values[0])
    assert values == pytest.approx([values[0]] * 3, rel=1e-5)
    for name, parameter in pair.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"
        assert parameter.grad.isfinite().all() and parameter.grad.any(), f"{name} has gradient {parameter.grad}"


@each_variant
def test_svi_trains_every_parameter_also_of_a_second_pair(variant):
    """Two pairs of one kind in one process under SVI, the second made after the first has trained: three
    steps of each change every parameter, and all of them are in the store."""
    for _ in range(2):
        pair, args = variant.create(), variant.batch()
        before = copy.deepcopy(pair.state_dict())
        svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-2}), pair.elbo)
        losses = [svi.step(*args) for _ in range(3)]
        assert all(map(math.isfinite, losses))
        stored = {id(value) for value in pyro.get_param_store()._params.values()}
        for name, parameter in pair.named_parameters():
            assert not torch.equal(parameter, before[name]), name
            assert id(parameter) in stored


@each_pair
@pytest.mark.parametrize("objective", ["elbo", "beta"])
def test_losses_are_per_datum(float64, name, objective):
    """Every datum twice, at the same (zero) noise: the same loss and gradients, and each part twice."""
    pair, args = randomise(create(name)), batch(name)
    twice = tuple(torch.cat([arg, arg]) for arg in args)
    elbo = OBJECTIVES[objective]()
    with GivenNoise(0.0):
        once_loss, twice_loss = elbo(pair.model, pair.guide)(*args), elbo(pair.model, pair.guide)(*twice)
        once, doubled = elbo.terms(pair.model, pair.guide, *args), elbo.terms(pair.model, pair.guide, *twice)
    assert_close(once_loss, twice_loss)
    first, second = gradients(pair, once_loss), gradients(pair, twice_loss)
    for key, gradient in first.items():
        assert_close(gradient, second[key])
    for part, value in once.parts.items():
        assert_close(doubled.parts[part], torch.cat([value, value]))


# programs


@pytest.mark.parametrize("num_particles", [1, 3])
@each_variant
def test_sites_plates_and_shapes(variant, num_particles):
    """Both programs, also under three vectorised particles and an enumerated category: the same latent sites,
    each in the plate "data", with batch shape (enumerated), (particles), batch, and x observed."""
    pair, args = variant.create(), variant.batch()
    model_trace, guide_trace = _traces(pair, args, num_particles)
    model_sites, guide_sites = dict(sample_sites(model_trace)), dict(sample_sites(guide_trace))
    assert model_sites.keys() - {"x"} == guide_sites.keys()
    assert model_sites["x"]["is_observed"] and model_sites["x"]["value"] is args[0]
    plates = ((num_particles,) if num_particles > 1 else ()) + (BATCH,)
    enumerated = any(is_enumerated(site) for site in guide_sites.values())
    assert enumerated == bool(variant.num_enumerated)
    for site_name, site in [*model_sites.items(), *guide_sites.items()]:
        assert "data" in [frame.name for frame in site["cond_indep_stack"]], site_name
        log_prob = site["fn"].log_prob(site["value"])
        full = ((variant.num_enumerated,) if enumerated else ()) + plates
        wanted = full[-log_prob.dim() :]
        assert log_prob.shape == wanted and log_prob.dim() in (len(plates), len(full)), site_name
    assert model_sites["x"]["fn"].event_shape == args[0].shape[1:]
    for site_name, size in latent_sites(variant.name).items():
        lead = ((variant.num_enumerated,) if enumerated else ()) + plates
        assert guide_sites[site_name]["value"].shape == (*lead, size)


@each_variant
def test_a_draw_of_z_is_drawn_for_each_particle_and_category(variant):
    """No draw is shared: all values of z's noise differ, over particles, categories and data."""
    pair, args = variant.create(), variant.batch()
    _, guide_trace = _traces(pair, args, num_particles=3)
    for name, size in latent_sites(variant.name).items():
        z = guide_trace.nodes[name]
        noise = ((z["value"] - z["fn"].mean) / z["fn"].stddev).detach().flatten()
        assert len(noise.unique()) > 0.9 * noise.numel()  # some may coincide by rounding
        assert len(noise) == 3 * BATCH * size * max(1, variant.num_enumerated)


@each_pair
def test_programs_need_something_to_size_their_plate(name):
    pair = create(name)
    with pytest.raises(
        ValueError, match="needs x, condition or size, got none of them|needs condition, and condition is None"
    ):
        pair.model()


# what one does with a pair


@each_variant
def test_sample(variant):
    """One row per sample of every site, within the support; means beside them; no gradient."""
    pair, args = variant.create(), variant.batch()
    given = {"condition": args[1][0]} if len(args) > 1 else {}
    drawn = pair.sample(7, **given)
    latent = latent_sites(variant.name)
    z = next(iter(latent))
    sites = {"x", *latent} | ({"c"} if pair.num_categories else set())
    assert drawn.keys() == sites | {"x_mean"}
    assert drawn["x"].shape == drawn["x_mean"].shape == (7, *args[0].shape[1:])
    assert all(drawn[name].shape == (7, size) for name, size in latent.items())
    assert not any(value.requires_grad for value in drawn.values())
    assert all(value.isfinite().all() for value in drawn.values())
    low, high = pair.likelihood.x_range
    assert drawn["x"].min() >= low and drawn["x"].max() <= high
    assert drawn["x_mean"].min() >= low and drawn["x_mean"].max() <= high
    pair.likelihood.check(drawn["x"])
    fixed = pair.sample(7, **{z: torch.tensor([1.0, -2.0])}, **given)
    assert_close(fixed[z], torch.tensor([[1.0, -2.0]]).expand(7, 2))
    if given:
        assert pair.sample(BATCH, condition=args[1])["x"].shape == args[0].shape
    with pytest.raises(ValueError, match="'w' is not a site of this model: its sites are "):
        pair.sample(7, w=torch.zeros(2), **given)
    with pytest.raises(ValueError, match="'w' is not a site of this model: its sites are "):
        pair.sample(7, w=1.0, **given)
    for wrong, message in (
        (torch.zeros(3, 2), r"must have shape \(2,\), one for all samples, or \(7, 2\), one for each, got \(3, 2\)"),
        ([0.0, 1.0, 2.0], r"must have shape \(2,\), .*, got \(3,\): reshape it"),
        ([math.nan, 0.0], r"has NaN or infinite values, the first at \[0\]"),
        ("a", "must be a tensor of numbers, got 'a'"),
        (None, "must be a tensor of numbers, got None"),
    ):
        with pytest.raises(ValueError, match=f"^{z} {message}"):
            pair.sample(7, **{z: wrong}, **given)
    assert_close(pair.sample(7, **{z: [1, -2]}, **given)[z], fixed[z])
    with pytest.raises(ValueError, match="size must be a positive integer, got 0"):
        pair.sample(0, **given)


@pytest.mark.parametrize("name", ENUMERATED)
def test_sample_with_a_category_fixed_or_from_the_aggregate(name):
    """c fixed for all, c per row, c from its uniform prior, and c from the aggregate posterior, which is
    uniform until it is set: the frequencies of n = 6,000 draws each within 4 standard errors (fails at 4 of
    10,000 seeds)."""
    pair = create(name)
    assert pair.sample(5, c=2)["c"].tolist() == [2] * 5
    assert pair.sample(3, c=[2, 0, 1])["c"].tolist() == [2, 0, 1]
    with torch.no_grad():
        pair.model.prior.loc[1] = 100.0
    z = pair.sample(4, c=[0, 1, 1, 2])["z"]
    assert (z.mean(-1) > 50).tolist() == [False, True, True, False]
    for wrong in (pair.num_categories, -1, 0.5, True):
        with pytest.raises(ValueError, match=f"c must be a category from 0 to {pair.num_categories - 1}, got"):
            pair.sample(2, c=wrong)
    with pytest.raises(ValueError, match=r"^c must be a category from 0 to \d, got \[\]"):
        pair.sample(2, c=torch.empty(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="c must be a category, .*'aggregate', got 'all'"):
        pair.sample(2, c="all")

    (x,) = randomise(pair) and batch(name, 40)
    assert_close(pair.aggregate_c, torch.full((pair.num_categories,), 1 / pair.num_categories))
    pair.set_aggregate(x)
    expected = pair.encode(x)["c"].probs.mean(0)
    assert_close(pair.aggregate_c, expected)
    assert expected.max() - expected.min() > 0.1
    uniform = torch.full_like(expected, 1 / pair.num_categories)
    for how, probability in (("aggregate", expected), ("prior", uniform)):
        drawn = pair.sample(6000, c=how)["c"]
        frequency = torch.bincount(drawn, minlength=pair.num_categories) / 6000
        assert ((frequency - probability).abs() < 4 * (probability * (1 - probability) / 6000).sqrt()).all(), how


INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16, torch.uint32, torch.uint64]


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize(
    ("name", "options"), [("cp_vae", {}), ("cp_vae", {"category": "relaxed"}), ("cp_vae_reference", {})], ids=str
)
def test_categories_of_every_integer_type_are_numbers(name, options, dtype):
    """Torch takes uint8 for a mask where it indexes, and refuses other types: each gives what int64 gives."""
    pair, c = randomise(create(name, **options)), torch.tensor([2, 0, 1, 2])

    def drawn(c):
        torch.manual_seed(0)
        return pair.sample(4, c=c)

    expected = drawn(c)
    for given in (c.to(dtype), c.to(dtype).numpy(), list(c.to(dtype).numpy())):
        found = drawn(given)
        assert found["c"].dtype is torch.int64 and found["c"].tolist() == [2, 0, 1, 2]
        assert all(torch.equal(found[site], value) for site, value in expected.items())
    assert torch.equal(drawn(c[:1].to(dtype).expand(4))["z"], drawn(2)["z"])
    assert torch.equal(drawn(c.to(dtype)[0])["z"], drawn(np.int8(2))["z"])
    with pytest.raises(ValueError, match="^c must be a category from 0 to 2, got"):
        pair.sample(1, c=torch.tensor(3).to(dtype))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
@pytest.mark.parametrize("name", ["cp_vae", "cp_vae_reference"])
def test_networks_take_categories_of_every_integer_type(name, dtype):
    """Priors, decoders and heads by hand, and programs that are conditioned on a category."""
    pair, c = randomise(create(name)).eval(), torch.tensor([2, 0, 1, 2])
    z = torch.randn(4, pair.model.prior.loc.shape[1])
    h = torch.randn(4, pair.guide.latent.parameters_of_z.input.in_features)
    for use in (
        lambda c: pair.model.prior(c).mean,
        lambda c: pair.model.decoder(z, c=c).mean,
        lambda c: pair.guide.latent(h, c).mean,
        lambda c: chosen(pair.model.prior.loc, c),
    ):
        assert torch.equal(use(c.to(dtype)), use(c))
    traces = []
    for given in (c, c.to(dtype)):
        torch.manual_seed(0)
        traces.append(poutine.trace(poutine.condition(pair.model, {"c": given})).get_trace(size=4))
    assert torch.equal(traces[0].nodes["x"]["fn"].mean, traces[1].nodes["x"]["fn"].mean)


def test_positions_and_images_of_every_integer_type_are_numbers():
    part, grasps = Part(torch.arange(8.0).reshape(4, 2)), torch.rand(3, 2, 6)
    truth, image = grasps[:, 0], torch.arange(3)
    expected = pp.metrics.rectangle_metric(grasps, truth, image)
    assert expected[:, 0].all()
    for dtype in (torch.uint8, torch.int32):
        assert torch.equal(part.take(torch.tensor([3, 0], dtype=dtype)).x, part.x[[3, 0]])
        assert torch.equal(pp.metrics.rectangle_metric(grasps, truth, image.to(dtype)), expected)
    assert torch.equal(part.take(torch.tensor([True, False, False, True])).x, part.x[[0, 3]])


@pytest.mark.parametrize("name", ["vae", "hvae"])
def test_sample_from_points_of_a_flow_s_base(float64, name):
    """z0 is where the prior's density is taken; one point for all, or one each."""
    pair = randomise(create(name, prior="flow"), 0.3)
    site, prior = next(iter(latent_sites(name))), pair.model.prior
    z0 = torch.randn(5, 2)
    drawn = pair.sample(5, z0=z0)
    assert drawn.keys() == pair.sample(5).keys()
    assert_close(prior.to_base(drawn[site]), z0)
    assert_close(drawn[site], prior.from_base(z0))
    assert_close(pair.sample(3, z0=z0[0])[site], prior.from_base(z0[:1]).expand(3, -1))
    with pytest.raises(ValueError, match=f"z0 and {site} were both given"):
        pair.sample(5, z0=z0, **{site: z0})
    with pytest.raises(ValueError, match=r"z0 must have shape \(2,\), .*, got \(3,\): reshape it"):
        pair.sample(5, z0=torch.zeros(3))
    with pytest.raises(ValueError, match="z0 was given, but the prior of this pair is not a flow: give z, or use"):
        create(name).sample(5, z0=z0)


@pytest.mark.parametrize("name", OTHERS)
def test_aggregate_belongs_to_pairs_with_a_category(name):
    pair = create(name)
    with pytest.raises(ValueError, match="this pair has no category"):
        pair.set_aggregate(*batch(name))
    with pytest.raises(ValueError, match="if the pair has categories, 'aggregate', got 'aggregate'|condition is None"):
        pair.sample(2, c="aggregate")


@each_variant
def test_encode_and_reconstruct(variant):
    """A distribution for each latent site, at the most probable category and the mean of those before it; the
    reconstruction is p(x|...)'s mean at the posterior's mean and so has no noise in it."""
    pair, args = variant.create(), variant.batch()
    codes = pair.encode(*args)
    latent = latent_sites(variant.name)
    assert codes.keys() == {*latent} | ({"c"} if pair.num_categories else set())
    for code in codes.values():
        assert code.batch_shape == (BATCH,)
    for name, size in latent.items():
        assert codes[name].event_shape == (size,) and not codes[name].mean.requires_grad
    if "z1" in codes:
        assert_close(codes["z1"].mean, pair.guide.encoder_z1(args[0], codes["z2"].mean).mean)
    if pair.num_categories:
        assert is_categorical(codes["c"]) and codes["c"].probs.shape == (BATCH, pair.num_categories)
        most_probable = codes["c"].probs.argmax(-1)
        expected = pair.guide.latent(pair.guide.trunk(args[0]), most_probable)
        assert_close(codes["z"].mean, expected.mean)
    first, second = pair.reconstruct(*args), pair.reconstruct(*args)
    assert first.shape == args[0].shape and not first.requires_grad
    assert torch.equal(first, second)
    given = {"condition": args[1]} if len(args) > 1 else {}
    at = {name: codes[name].mean for name in latent}
    at |= {"c": codes["c"].probs.argmax(-1)} if pair.num_categories else {}
    trace = poutine.trace(poutine.condition(pair.model, at)).get_trace(None, size=BATCH, **given)
    assert_close(first, trace.nodes["x"]["fn"].mean)


@each_variant
def test_log_prob(variant):
    """One number per datum, above the bound: 400 copies of a datum give the bound's mean with its standard
    error, and one estimate with 400 samples; below it by 4 standard errors would be wrong at 3 of 100,000
    seeds, Jensen's gap aside."""
    pair, args = variant.create(), variant.batch()
    estimate = pair.log_prob(*args, num_samples=400)
    assert estimate.shape == (BATCH,) and estimate.isfinite().all() and not estimate.requires_grad
    copies = tuple(arg[:1].expand(400, *arg.shape[1:]) for arg in args)
    pair.eval()  # where an optimal scale is frozen, a relaxed category a category
    with torch.no_grad():
        bound = pair.elbo.terms(pair.model, pair.guide, *copies).bound
    assert estimate[0] > bound.mean() - 4 * bound.std() / math.sqrt(400)
    with pytest.raises(ValueError, match="num_samples must be a positive integer, got 0 .for example, 5000."):
        pair.log_prob(*args, num_samples=0)
    log_w = log_importance_weights(pair.model, pair.guide, *args, num_samples=3)
    assert log_w.shape == (3, BATCH)  # one weight per datum; Pyro's vectorized_importance_weights has one per batch


def test_fixed_values_leave_the_noise_of_the_others_alone():
    pair, z2 = create("hvae"), torch.randn(2)
    torch.manual_seed(0)
    drawn = pair.sample(4, z2=z2)["x"]
    torch.manual_seed(0)
    with pair.evaluating():
        assert torch.equal(drawn, poutine.condition(pair.model, {"z2": z2.expand(4, -1)})(size=4))


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (0.5, {}, r"x must be 0 or 1 for likelihood='bernoulli', got 0.5: binarise it with \(x > 0.5\).float\(\)"),
        (math.nan, {}, "x has NaN or infinite values, the first at "),
        (1.0, {"num_samples": "10"}, "num_samples must be an integer, got '10'"),
        (1.0, {"num_samples": 2.5}, "num_samples must be an integer, got 2.5"),
    ],
)
def test_log_prob_refuses_in_one_line(x, options, message):
    pair, (data,) = create("vae"), batch("vae")
    with pytest.raises(ValueError, match=f"^{message}"):
        pair.log_prob(torch.full_like(data, x), **options)


def test_log_prob_of_a_pair_in_half_precision_is_summed_in_float32():
    """Of hundreds of nats bfloat16 holds no decimals: the estimates of one datum agree to what its products lose."""
    pair = randomise(create("vae")).bfloat16()
    (x,) = batch("vae")
    log_p = pair.log_prob(x.bfloat16(), num_samples=200)
    assert log_p.dtype is torch.float32
    assert_close(log_p, pair.float().log_prob(x.float(), num_samples=200), rtol=0, atol=0.5)


@pytest.mark.parametrize("name", OTHERS)
def test_log_prob_is_renyi_s_bound_at_alpha_0(name):
    """Pyro's RenyiELBO(alpha=0) is the importance-weighted bound, summed over the batch: equal at the same
    seed."""
    pair, args = create(name).eval(), batch(name)
    renyi = RenyiELBO(alpha=0, num_particles=50, vectorize_particles=True, max_plate_nesting=1)
    torch.manual_seed(1)
    pyros = -renyi.loss(pair.model, pair.guide, *args)
    torch.manual_seed(1)
    assert pair.log_prob(*args, num_samples=50).sum().item() == pytest.approx(pyros, rel=1e-5)


def test_data_of_another_precision_are_refused_in_one_line():
    pair, (x,) = pp.create("vae", x_shape=(6,), z_dim=2, hidden=(5,)), (torch.rand(3, 6).double(),)
    for call in (pair.encode, pair.log_prob, pair.reconstruct):
        with pytest.raises(
            ValueError, match=r"x must be torch.float32, .* got torch.float64: give x.to\(torch.float32"
        ):
            call(x)
    assert pair.double().encode(x)["z"].mean.dtype is torch.float64


NO_BATCHES: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "one datum": (
        lambda x: x[0],
        r"must have shape \(batch, \d+\), got \(\d+,\): .* a batch of one",
    ),
    "a number": (lambda x: x[0, 0], r"must have shape \(batch, \d+\), got \(\)"),
    "another shape": (lambda x: x[:, :-1], r"must have shape \(batch, \d+\)"),
    "whole numbers": (lambda x: x.long(), r"must hold floating-point values, got torch.int64: give {name}.to\(torch"),
    "another precision": (lambda x: x.double(), r"must be torch.float32, as the pair's weights are"),
    "numpy": (lambda x: x.numpy(), r"must be a tensor, got ndarray: give torch.as_tensor\({name}\)"),
    "none": (lambda x: x[:0], r"must hold at least one datum, got shape \(0, \d+\)"),
}


@pytest.mark.parametrize("mistake", NO_BATCHES)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_batch_is_refused_by_the_programs_too(name, mistake):
    """SVI and Pyro's ELBOs as the pair's methods: a single datum is no batch of its own pixels."""
    pair, args = create(name), batch(name)
    spoil, message = NO_BATCHES[mistake]
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-3}), pair.elbo)
    for position, argument in enumerate(("x", "condition")[: len(args)]):
        given = (*args[:position], spoil(args[position]), *args[position + 1 :])
        for call in (svi.step, pair.guide, pair.model, pair.encode, pair.log_prob):
            with pytest.raises(ValueError, match=f"^{argument} {message.format(name=argument)}"):
                call(*given)


# copies and files


@each_variant
def test_a_deep_copy_is_independent_and_trains(variant):
    """The copy's parameters are its own: training it leaves the original as it was, and the other way
    about."""
    pair, args = variant.create(), variant.batch()
    SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-2}), pair.elbo).step(*args)
    twin = copy.deepcopy(pair)
    assert type(twin.elbo) is type(pair.elbo) and twin.elbo is not pair.elbo and twin.recipe == pair.recipe
    for trained, other in ((twin, pair), (pair, twin)):
        before, frozen = copy.deepcopy(trained.state_dict()), copy.deepcopy(other.state_dict())
        SVI(trained.model, trained.guide, pyro.optim.Adam({"lr": 1e-2}), trained.elbo).step(*args)
        for name, _ in trained.named_parameters():
            assert not torch.equal(trained.state_dict()[name], before[name]), name
        for name, value in other.state_dict().items():
            assert torch.equal(value, frozen[name]), name


@each_variant
def test_state_dict_carries_a_pair_over(variant):
    """Loaded into another pair of the same kind, the outputs are the same; nothing but parameters, shared ones in
    both places, q(c), a temperature, the estimate of an optimal scale and the prior that the released code does not
    train is in it."""
    pair, other, args = randomise(variant.create()), variant.create(), variant.batch()
    state = pair.state_dict()
    parameters = {name for name, _ in pair.named_parameters(remove_duplicate=False)}
    fixed = {"temperature.value", "prior.loc", "prior.raw_scale", "aggregate_c"}
    fixed |= {"likelihood.squared_error", "likelihood.num_values"}
    assert state.keys() == parameters | {name for name in state if name.endswith(tuple(fixed))}
    other.load_state_dict(state)
    assert torch.equal(other.reconstruct(*args), pair.reconstruct(*args))


@each_variant
def test_double_and_float(variant):
    """A pair in double computes in double, and equals the float one to rounding; back in float it is what it
    was."""
    pair, args = variant.create(), variant.batch()
    single = pair.reconstruct(*args)
    doubles = tuple(arg.double() for arg in args)
    pair.double()
    double = pair.reconstruct(*doubles)
    assert double.dtype is torch.float64
    assert_close(double.float(), single, rtol=1e-4, atol=1e-4)
    loss = pair.elbo(pair.model, pair.guide)(*doubles)
    loss.backward()
    assert loss.dtype is torch.float64 and pair.log_prob(*doubles, num_samples=3).dtype is torch.float64
    given = {"condition": doubles[1]} if len(args) > 1 else {}
    assert pair.sample(BATCH, **given)["x"].dtype is torch.float64
    assert torch.equal(pair.float().reconstruct(*args), single)


FRESH = """
import sys, torch, pyro_priors as pp
folder, names = sys.argv[1], sys.argv[2:]
for name in names:
    pair = pp.load(f"{folder}/{name}")
    args = torch.load(f"{folder}/{name}/args.pt")
    torch.manual_seed(5)
    drawn = pair.sample(4, condition=args[1][0] if len(args) > 1 else None)
    torch.manual_seed(5)
    outputs = [pair.reconstruct(*args), pair.log_prob(*args, num_samples=9)]
    outputs += [*drawn.values(), *pair.state_dict().values()]
    torch.save(outputs, f"{folder}/{name}/outputs.pt")
"""


def test_saved_pairs_are_the_same_in_a_fresh_process(tmp_path):
    """Save, load in a new interpreter: reconstruction, log p(x), samples at the same seed and all tensors,
    bit by bit."""
    saved = {str(variant): (randomise(variant.create()), variant.batch()) for variant in variants()}
    for name, (pair, args) in saved.items():
        pair.save(tmp_path / name)
        torch.save(args, tmp_path / name / "args.pt")
    subprocess.run([sys.executable, "-c", FRESH, str(tmp_path), *saved], check=True)
    for name, (pair, args) in saved.items():
        torch.manual_seed(5)
        drawn = pair.sample(4, condition=args[1][0] if len(args) > 1 else None)
        torch.manual_seed(5)
        here = [
            pair.reconstruct(*args),
            pair.log_prob(*args, num_samples=9),
            *drawn.values(),
            *pair.state_dict().values(),
        ]
        there = torch.load(tmp_path / name / "outputs.pt")
        assert len(here) == len(there) > 4
        for mine, other in zip(here, there, strict=True):
            assert torch.equal(mine, other), name


CONDITIONS = [
    (torch.zeros(2), r"condition must have shape \(3,\), one for all samples, or \(4, 3\), one for each, got \(2,\)"),
    (torch.zeros(5, 3), r"got \(5, 3\): reshape it, or give another size"),
    (torch.tensor([0.0, math.nan, 1.0]), r"condition has NaN or infinite values, the first at \[1\]: leave"),
    ("7", "condition must be a tensor of numbers, got '7'"),
]


@pytest.mark.parametrize(("condition", "message"), CONDITIONS)
def test_samples_of_a_condition_that_is_none(condition, message):
    pair = pp.create("cvae", x_shape=(6,), condition_shape=(3,), z_dim=2, hidden=(5,))
    with pytest.raises(ValueError, match=message) as caught:
        pair.sample(4, condition)
    assert "\n" not in str(caught.value)


def test_a_condition_of_a_pair_that_takes_none_is_refused():
    pair = pp.create("vae", x_shape=(6,), z_dim=2, hidden=(5,))
    with pytest.raises(ValueError, match="condition was given, but this pair takes none: leave it out"):
        pair.sample(4, torch.zeros(3))


@pytest.mark.parametrize("name", ["model", "guide"])
def test_a_half_that_is_no_module_is_refused(name):
    pair = pp.create("vae", x_shape=(6,), z_dim=2, hidden=(5,))
    halves = {"model": pair.model, "guide": pair.guide} | {name: lambda x: x}
    message = rf"{name} must be a torch\.nn\.Module whose forward\(.*\) is a Pyro program, got function: give one"
    with pytest.raises(ValueError, match=message):
        pp.Pair(**halves)


def test_conditions_of_any_numbers_are_taken():
    pair = pp.create("cvae", x_shape=(6,), condition_shape=(3,), z_dim=2, hidden=(5,))
    for condition in (torch.tensor([1, 0, 2]), [1.0, 0.0, 2.0], torch.tensor([1, 0, 2], dtype=torch.float64)):
        torch.manual_seed(0)
        found = pair.sample(4, condition)["x_mean"]
        torch.manual_seed(0)
        assert torch.equal(found, pair.sample(4, torch.tensor([1.0, 0.0, 2.0]))["x_mean"])


def test_conditions_are_as_many_as_data():
    pair = pp.create("cvae", x_shape=(6,), condition_shape=(3,), z_dim=2, hidden=(5,))
    for call in (pair.log_prob, pair.encode, pair.reconstruct):
        with pytest.raises(ValueError, match="condition must be as long as x, got 5 and 4: give one per datum"):
            call(torch.zeros(4, 6), torch.zeros(5, 3))
    with pytest.raises(ValueError, match=r"condition has NaN or infinite values, the first at \[2, 0\]"):
        pair.log_prob(torch.zeros(4, 6), torch.tensor([0, 0, math.inf, 0])[:, None].expand(4, 3))
    with pytest.raises(ValueError, match="num must be at least 1, got 0"):
        pp.metrics.samples_given(pair, torch.zeros(4, 3), 0)
