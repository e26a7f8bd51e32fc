"""Pairs trained in float64 or bfloat16 are used in the data's precision, from Python as from the command line."""

import copy
import dataclasses
import io
import json

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import pyro_priors as pp
import runs
from pyro_priors import conditions as control
from pyro_priors import metrics, plots
from pyro_priors._precision import pair_in_precision_of
from pyro_priors.cli.main import main
from pyro_priors.data import Part

PRECISIONS = {"64-true": torch.float64, "bf16-true": torch.bfloat16}
DRAWN = {"64-true": torch.float64, "bf16-true": torch.float32}
"""Of draws and densities: float32 or wider."""
PAIRS = {
    "vae": {"prior": "flow", "num_transforms": 2},
    "hvae": {"prior": "vamp", "num_components": 4},
    "cp_vae": {"num_categories": 3},
    "sigma_cvae_nf": {"num_transforms": 2},
    "cvae": {},
}


def trained(name, precision, **of_data):
    """A pair after an epoch, and its data."""
    conditional = runs.is_conditional(name)
    of_data |= {"condition_labels": True, "binarise": "none"} if conditional else {}
    data = runs.small_data(**of_data)
    pair = runs.small_pair(name, data, **PAIRS.get(name, {}))
    pp.fit(pair, data, max_epochs=1, batch_size=40, precision=precision, progress=False, compile="never")
    assert next(pair.parameters()).dtype is PRECISIONS[precision]
    return pair, data


def as_command_line(pair):
    """The pair as the command line takes it: in float32."""
    return copy.deepcopy(pair).to(torch.float32)


def picture(figure):
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=40)
    return file.getvalue()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", PAIRS)
def test_evaluations_and_figures_are_those_of_the_pair_in_float32(precision, name, tmp_path):
    """All metrics and all figures, from the same noise; the pair stays as it was."""
    pair, data = trained(name, precision)
    before, was_training = runs.state(pair), pair.training
    made = metrics.Features("pixels", 64, lambda x: x.flatten(1))

    def use(one):
        found = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(metrics.FEATURES, "pixels", lambda data, device: made)
            names = [name for name in metrics.METRICS if name != "fidelity"]
            found.append(metrics.evaluate(one, data, metrics=names, num_samples=3, features="pixels", progress=False))
        torch.manual_seed(0)
        found.append([path.read_bytes() for path in plots.figures(one, data, [], tmp_path)])
        return found

    assert use(pair) == use(as_command_line(pair))
    assert runs.same_bits(runs.state(pair), before) and pair.training == was_training


@pytest.mark.parametrize("precision", PRECISIONS)
def test_python_and_the_command_line_tell_the_same(precision, tmp_path, capsys):
    data = pp.data.load("digits", limit=200)
    pair = runs.small_pair("cp_vae", data, num_categories=3)
    run = tmp_path / "run"
    pp.fit(pair, data, max_epochs=1, precision=precision, progress=False, compile="never", out=run)
    found = metrics.evaluate(pair, data, num_samples=3, progress=False)
    assert main(["evaluate", str(run), "--num-samples", "3"]) == 0
    told = json.loads((run / "evaluation.json").read_text())["metrics"]
    assert told == {name: dataclasses.asdict(one) for name, one in found.items()}
    assert main(["sample", str(run), "--num", "4", "--seed", "5", "--out", str(tmp_path / "drawn.npz")]) == 0
    with torch.random.fork_rng():
        torch.manual_seed(5)
        drawn = pair_in_precision_of(data.train.x, pair).sample(4)
    assert np.array_equal(np.load(tmp_path / "drawn.npz")["x_mean"], drawn["x_mean"].numpy())


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["cvae", "sigma_cvae_nf"])
def test_conditions_are_asked_for_and_changed(precision, name):
    pair, data = trained(name, precision)

    def ask(one):
        torch.manual_seed(0)
        return [
            control.asked(one, data, ["label=3", "label=1"], 3),
            control.grid(one, data, ["label"], num_columns=2),
            control.between(one, data, "label=3", "label=1", 2, 3),
            control.edited(one, data, [0, 1], "label=3"),
            control.edited(one, data, [0, 1], "label=3", transport=True),
        ]

    for found, expected in zip(ask(pair), ask(as_command_line(pair)), strict=True):
        assert runs.same_bits(found.sites, expected.sites) and torch.equal(found.condition, expected.condition)
        assert {value.dtype for value in found.sites.values()} == {torch.float32}
    x, condition = data.test.x[:3], data.test.condition[:3]
    z = as_command_line(pair).encode(x, condition)["z"].mean
    moved = control.moved(pair, z, condition, condition.roll(1, 0))
    assert torch.equal(moved, control.moved(as_command_line(pair), z, condition, condition.roll(1, 0)))
    own = control.moved(pair, z.to(PRECISIONS[precision]), condition, condition.roll(1, 0))
    assert own.dtype is DRAWN[precision]
    assert_close(own.float(), moved, rtol=0, atol=1e-5 if precision == "64-true" else 0.2)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_computes_in_its_own_precision_what_it_is_given_in_it(precision, name):
    """Samples of every site, codes, reconstructions and log p(x); near those of float32."""
    pair, data = trained(name, precision)
    dtype, single = PRECISIONS[precision], as_command_line(pair)
    x, condition = data.test.x[:5], None if data.test.condition is None else data.test.condition[:5]
    own = (x.to(dtype), None if condition is None else condition.to(dtype))
    drawn = pair.sample(5, condition)
    for site, value in drawn.items():
        assert value.dtype is (torch.int64 if site == "c" else DRAWN[precision]) and value.isfinite().all(), site
    near = {"rtol": 0, "atol": 1e-5} if precision == "64-true" else {"rtol": 0.05, "atol": 0.05}
    assert pair.reconstruct(*own).dtype is DRAWN[precision]
    assert_close(pair.reconstruct(*own).float(), single.reconstruct(x, condition), **near)
    log_p = pair.log_prob(*own, 2000)
    assert log_p.dtype is torch.promote_types(dtype, torch.float32)
    assert_close(log_p.float(), single.log_prob(x, condition, 2000), rtol=0, atol=2.0)
    if pair.num_categories:
        pair.set_aggregate(own[0])
        single.set_aggregate(x)
        assert_close(pair.aggregate_c.float(), single.aggregate_c, rtol=0, atol=0.01)
    with pytest.raises(ValueError, match=f"x must be {dtype}, as the pair's weights are, got torch.float32: give x.to"):
        pair.encode(x, condition)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_functions_of_codes_take_data_as_they_are(precision):
    """Aggregate posterior, densities, draws and components."""
    pair, data = trained("vae", precision)
    single, x = as_command_line(pair), data.test.x

    def measure(one):
        torch.manual_seed(0)
        q = metrics.aggregate_posterior(one, x)
        z = metrics.low_posterior_samples(one, q, "z", 5)
        return [
            q.loc,
            q.scale,
            z,
            metrics.log_prior(one, "z", z),
            metrics.log_aggregate(q, z),
            metrics.high_posterior_samples(one, q, "z", 5),
            metrics.posterior_draws(one, "z", x),
            metrics.posterior_means(one, x),
        ]

    for found, expected in zip(measure(pair), measure(single), strict=True):
        assert found.dtype is torch.float32 and torch.equal(found, expected)
    pair, data = trained("cvae", precision)
    condition = data.test.condition
    found, expected = (metrics.prior_components(one, condition) for one in (pair, as_command_line(pair)))
    assert torch.equal(found.loc, expected.loc) and torch.equal(found.scale, expected.scale)
    assert metrics.samples_given(pair, condition[:2], 3)["z"].dtype is DRAWN[precision]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_figures_of_planar_codes(precision):
    data = pp.data.load("moons")
    parts = {"train": data.train.take(slice(100)), "valid": data.valid, "test": data.test}
    # numbers that bfloat16 holds: it would round others, which a training refuses
    data = dataclasses.replace(data, **{name: Part(part.x.bfloat16().float()) for name, part in parts.items()})
    pair = runs.small_pair("vae", data, likelihood="gaussian", prior="flow", num_transforms=2)
    pp.fit(pair, data, max_epochs=1, precision=precision, progress=False, compile="never")

    def draw(one):
        torch.manual_seed(0)
        return [
            picture(plots.pockets(one, data)),
            picture(plots.leakage_curves({"row": {"title": (one, data)}}, [-5.0, -3.0], 100)),
            picture(plots.magnification(one, data, 50)),
            picture(plots.prior_density({"one": one}, data, 50)),
            picture(plots.density(one, data, 50)),
            picture(plots.latent_scatter(one, data, 50)),
        ]

    assert draw(pair) == draw(as_command_line(pair))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("own", [False, True], ids=["trunk", "own network"])
def test_categories_start_at_clusters_in_any_precision(precision, own):
    """The clusters of float32 codes, and q(c|x) as float32 trains it, rounded once."""
    learned, data = trained("vae", precision)
    pair = runs.small_pair("cp_vae", data, num_categories=3, own_category_network=own)
    single, other = copy.deepcopy(pair), copy.deepcopy(pair).to(torch.bfloat16)
    rounded = copy.deepcopy(other).to(torch.float32)
    expected = pp.start_at_clusters(single, data, as_command_line(learned), epochs=2)
    assert torch.equal(pp.start_at_clusters(pair, data, learned, epochs=2), expected)
    assert runs.same_bits(runs.state(pair), runs.state(single))
    assert torch.equal(pp.start_at_clusters(other, data, learned, epochs=2), expected)
    assert torch.equal(pp.start_at_clusters(rounded, data, learned, epochs=2), expected)
    assert runs.same_bits(runs.state(other), runs.state(rounded.to(torch.bfloat16)))


def test_a_pair_in_the_precision_of_its_data_is_itself():
    pair = runs.small_pair("vae", runs.small_data())
    assert pair_in_precision_of(torch.zeros(2), pair) is pair
    assert pair_in_precision_of(pp.data.Levels(torch.zeros(2, 1, dtype=torch.uint8)), pair) is pair
    assert pair_in_precision_of(torch.zeros(2, dtype=torch.int64), pair) is pair
    copied = pair_in_precision_of(torch.zeros(2, dtype=torch.float64), pair)
    assert copied is not pair and copied.guide.encoder is not pair.guide.encoder
    assert {value.dtype for value in copied.parameters()} == {torch.float64}
    assert {value.dtype for value in pair.parameters()} == {torch.float32}


def test_data_in_float64_are_evaluated_in_float64():
    """As before: a float64 pair with such data is not copied."""
    data = runs.small_data()
    parts = {name: dataclasses.replace(part, x=part.x.double()) for name, part in data.parts.items()}
    data = dataclasses.replace(data, **parts)
    pair = runs.small_pair("vae", data).double()
    found = metrics.evaluate(pair, data, metrics=["bound"], progress=False)["bound"]
    torch.manual_seed(0)
    terms = pp.objectives.ELBO().terms(pair.model, pair.guide, data.test.x)
    assert found.value == terms.bound.mean().item()
