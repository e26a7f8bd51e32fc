"""fit: what it trains, what it keeps, when it stops, and what it leaves alone."""

import dataclasses
import json
import math
import random
import subprocess
import sys
from importlib import import_module

import numpy as np
import pyro
import pytest
import torch
from pyro import infer

import pyro_priors as pp
import runs
from pyro_priors.objectives import ELBO, Beta
from pyro_priors.training import loop

QUICK = {"progress": False, "batch_size": 32, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def digits():
    return runs.small_data()


@pytest.fixture(scope="module")
def moons():
    return runs.small_data("moons")


@pytest.fixture
def scripted(monkeypatch):
    """The validation bounds that a training is to see, and the states of the pair that were validated."""

    def script(bounds):
        seen, left = [], iter(bounds)

        def validate(self):
            seen.append(runs.state(self.pair))
            return {"bound": next(left)}

        monkeypatch.setattr(loop.Training, "validate", validate)
        return seen

    return script


# training


@pytest.mark.parametrize("name", pp.names())
@pytest.mark.parametrize("source", ["moons", "digits"])
def test_every_pair_learns(name, source):
    options = {}
    if runs.is_conditional(name):
        options = {"condition_rows": 4} if source == "digits" else {"condition_labels": True}
    data = runs.small_data(source, size=320, **options)
    pair = runs.small_pair(name, data)
    before = runs.validation_bound(pair, data)
    history = pp.fit(pair, data, max_epochs=10, **QUICK)
    assert len(history.epochs) == 10 and history.stopped == "max_epochs"
    # the untrained bounds are about -45 (digits), -23 (half of it) and -4 (moons); ten epochs gain far more than this
    assert runs.validation_bound(pair, data) > before + (0.5 if source == "moons" else 4)


def test_the_best_weights_are_held(digits):
    pair = runs.small_pair("vae", digits)
    # so fast that the bound goes up and down
    history = pp.fit(pair, digits, max_epochs=25, seed=3, **QUICK | {"learning_rate": 0.1})
    bounds = [record["valid_bound"] for record in history.epochs]
    assert history.best_epoch == bounds.index(max(bounds)) < 24
    assert runs.validation_bound(pair, digits, seed=3) == max(bounds)


def test_the_best_weights_are_those_of_the_best_epoch(digits, scripted):
    seen = scripted([-5.0, -3.0, -4.0, -3.0])
    pair = runs.small_pair("vae", digits)
    history = pp.fit(pair, digits, max_epochs=4, **QUICK)
    assert history.best_epoch == 1
    assert runs.same_bits(runs.state(pair), seen[1]) and not runs.same_bits(seen[1], seen[3])


def test_pair_is_in_training_mode_only_while_it_trains(digits, monkeypatch):
    modes = []
    original = ELBO.terms
    monkeypatch.setattr(
        ELBO, "terms", lambda self, model, *a, **k: modes.append(model.training) or original(self, model, *a, **k)
    )
    pp.fit(runs.small_pair("vae", digits), digits, max_epochs=1, **QUICK)
    assert modes == [True, True, True, False]


# the weight of the KL


def test_warmup_rises_linearly_to_1(digits, monkeypatch):
    weights = []
    original = loop._Loss.forward

    def forward(self, *args):
        weights.append(self.kl_weight)
        return original(self, *args)

    monkeypatch.setattr(loop._Loss, "forward", forward)
    history = pp.fit(runs.small_pair("vae", digits), digits, max_epochs=3, warmup_epochs=2, **QUICK)
    assert weights == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1, 1, 1])
    assert [record["kl_weight"] for record in history.epochs] == pytest.approx([0.5, 1, 1])


@pytest.mark.parametrize("sites", [("z",), ("c",), ("c", "z"), ()])
def test_warmup_weighs_the_sites_it_names(digits, sites):
    # one step of 96 data, whose parts the record holds at weight 1
    with pytest.warns(UserWarning, match="training ends at a KL weight of 0.1"):
        history = pp.fit(
            runs.small_pair("cp_vae", digits),
            digits,
            max_epochs=1,
            warmup_epochs=10,
            warmup_sites=sites,
            **QUICK | {"batch_size": 96},
        )
    (record,) = history.epochs
    weight = {site: 0.1 if site in (sites or ("c", "z")) else 1.0 for site in ("c", "z")}
    assert record["kl_weight"] == (dict.fromkeys(sites, 0.1) if sites else 0.1)
    expected = -record["train_reconstruction"] + sum(weight[site] * record[f"train_kl_{site}"] for site in weight)
    assert record["train_loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("objective", [None, infer.TraceEnum_ELBO(max_plate_nesting=1)])
def test_warmup_of_an_unknown_site_is_refused(digits, tmp_path, objective):
    pair = runs.small_pair("cp_vae", digits)
    before = runs.state(pair)
    with pytest.raises(ValueError, match=r"warmup_sites names 'y', which is not a latent site: choose from c, z"):
        pp.fit(pair, digits, objective, warmup_epochs=1, warmup_sites=("z", "y"), out=tmp_path / "run", **QUICK)
    assert runs.same_bits(runs.state(pair), before) and not list(tmp_path.iterdir())


def test_an_unfinished_warmup_leaves_the_pairs_elbo_at_weight_1(digits):
    pair = runs.small_pair("vae", digits)
    with pytest.warns(
        UserWarning, match=r"warmup_epochs is 10 and max_epochs 1: training ends at a KL weight of 0\.1,"
    ):
        pp.fit(pair, digits, max_epochs=1, warmup_epochs=10, **QUICK)
    assert pair.elbo.kl_weight == 1.0


# when it stops


def test_the_last_weights_are_kept_where_asked_for(digits, scripted, tmp_path):
    """Whatever the validation bound says; without it those of the best."""
    states = {}
    for keep in ("best", "last"):
        scripted([-3.0, -1.0, -2.0, -2.5])
        pair = runs.small_pair("vae", digits)
        history = pp.fit(pair, digits, max_epochs=4, keep=keep, out=tmp_path / keep, **QUICK)
        assert history.best_epoch == {"best": 1, "last": 3}[keep]
        states[keep] = runs.state(pair)
    scripted([-1.0, -1.0, -1.0, 0.0])
    pair = runs.small_pair("vae", digits)
    pp.fit(pair, digits, max_epochs=4, **QUICK)
    assert runs.same_bits(states["last"], runs.state(pair)) and not runs.same_bits(states["last"], states["best"])
    with pytest.raises(ValueError, match="keep must be one of best, last, got 'first'"):
        pp.fit(pair, digits, keep="first")


@pytest.mark.filterwarnings("ignore:warmup_epochs is")
@pytest.mark.parametrize(
    ("first", "patience", "epochs"), [(0, 2, 3), (3, 2, 5), (2.5, 1, 4), (0, 0, 8), (6, 1, 7), (20, 1, 8)]
)
@pytest.mark.parametrize("what", ["warmup", "frozen"])
def test_patience_is_counted_from_the_end_of_warmup_and_frozen_parts(digits, scripted, what, first, patience, epochs):
    scripted([-float(epoch) for epoch in range(8)])
    pair = runs.small_pair("vae", digits)
    options = {f"{what}_epochs": first, "frozen": ("guide",) if what == "frozen" and first else ()}
    history = pp.fit(pair, digits, max_epochs=8, patience=patience, **options, **QUICK)
    assert len(history.epochs) == epochs
    assert history.stopped == ("patience" if epochs < 8 else "max_epochs")
    assert history.best_epoch == 0


def test_a_better_bound_ends_the_waiting(digits, scripted):
    scripted([-5.0, -6.0, -4.0, -4.0, -4.5, -4.0])
    history = pp.fit(runs.small_pair("vae", digits), digits, max_epochs=50, patience=2, **QUICK)
    assert (len(history.epochs), history.best_epoch, history.stopped) == (5, 2, "patience")


def test_weights_that_do_not_move_stop_the_training(digits):
    options = QUICK | {"learning_rate": 1e-30}
    history = pp.fit(runs.small_pair("vae", digits), digits, max_epochs=50, patience=3, **options)
    assert (len(history.epochs), history.stopped) == (4, "patience")
    assert len({record["valid_bound"] for record in history.epochs}) == 1  # the same noise every time


@pytest.mark.parametrize("category", ["sparse", "relaxed"])
def test_validation_sums_as_many_categories_as_training(digits, category):
    """And is not the bound with all of them summed."""
    pair = runs.small_pair("cp_vae", digits, category=category, num_enumerated=2)
    history = pp.fit(pair, digits, max_epochs=1, **QUICK)
    ours = history.epochs[0]["valid_bound"]
    assert ours == pytest.approx(runs.validation_bound(pair, digits), rel=1e-6)
    for module in pair.modules():
        if hasattr(module, "num_enumerated"):
            module.num_enumerated = None
    assert ours != pytest.approx(runs.validation_bound(pair, digits), rel=1e-5)


def test_buffers_of_frozen_parts_go_on(moons):
    pair = runs.small_pair("sigma_vae", moons)
    start = runs.state(pair)
    pp.fit(pair, moons, max_epochs=1, frozen=("model",), frozen_epochs=1, **QUICK)
    moved = {name for name, value in runs.state(pair).items() if not torch.equal(value, start[name])}
    estimate = {f"model.decoder.likelihood.{name}" for name in ("squared_error", "num_values")}
    assert {name for name in moved if name.startswith("model.")} == estimate


# learning rate and clipping


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", [1, 1, 1, 1]),
        ("linear", [1, 3 / 4, 2 / 4, 1 / 4]),
        ("cosine", [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]),
    ],
)
def test_schedules(digits, schedule, factors):
    history = pp.fit(runs.small_pair("vae", digits), digits, max_epochs=4, schedule=schedule, **QUICK)
    assert [record["learning_rate"] for record in history.epochs] == pytest.approx([1e-2 * f for f in factors])


def test_clipping_bounds_the_norm_of_all_gradients_together(digits, monkeypatch):
    norms = []
    original = loop._clip

    def clip(pair, parameters, clip_norm, total):
        before = original(pair, parameters, clip_norm, total)
        norms.append((before, math.sqrt(sum(p.grad.square().sum().item() for p in pair.parameters()))))
        return before

    monkeypatch.setattr(loop, "_clip", clip)
    for clip_norm in (0.5, 0.0):
        norms.clear()
        history = pp.fit(runs.small_pair("vae", digits), digits, max_epochs=1, clip_norm=clip_norm, **QUICK)
        for before, after in norms:
            assert after == pytest.approx(min(before, clip_norm or math.inf), rel=1e-4)
        # what is recorded is the norm before
        assert history.epochs[0]["train_largest_gradient_norm"] == max(before for before, _ in norms) > 0.5


# reproducibility, and what is left alone


def test_the_seed_decides_every_bit(digits):
    found = {}
    for run, seed in (("a", 5), ("b", 5), ("c", 6)):
        pair = runs.small_pair("cp_vae", digits)
        torch.manual_seed(ord(run))  # torch's own state plays no part
        history = pp.fit(pair, digits, max_epochs=2, seed=seed, **QUICK)
        for record in history.epochs:
            del record["seconds"]
        found[run] = runs.state(pair), history.epochs
    assert runs.same_bits(found["a"][0], found["b"][0]) and found["a"][1] == found["b"][1]
    assert not runs.same_bits(found["a"][0], found["c"][0])


@pytest.mark.parametrize("end", ["well", "diverged", "64-true"])
def test_nothing_global_is_changed(digits, end, monkeypatch):
    mine = pyro.param("mine", torch.tensor(3.0))
    torch.manual_seed(11)
    before = torch.get_rng_state(), np.random.get_state(), random.getstate(), dict(pyro.get_param_store().items())  # noqa: NPY002
    pair = runs.small_pair("vae", digits)
    if end == "diverged":
        monkeypatch.setattr(loop.Training, "validate", lambda self: {"bound": math.nan})
        with pytest.raises(pp.TrainingDiverged):
            pp.fit(pair, digits, max_epochs=1, **QUICK)
    else:
        pp.fit(pair, digits, max_epochs=1, precision="64-true" if end == "64-true" else "32-true", **QUICK)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1][1]) and random.getstate() == before[2]  # noqa: NPY002
    assert list(pyro.get_param_store().keys()) == ["mine"] and pyro.param("mine") is mine
    assert torch.get_default_dtype() is torch.float32
    assert pyro.infer.util.is_validation_enabled()


def test_without_a_folder_nothing_is_written(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pp.fit(runs.small_pair("vae", digits), digits, max_epochs=1, checkpoint_seconds=0, **QUICK)
    assert not list(tmp_path.iterdir())


# objectives


@pytest.mark.parametrize(
    ("name", "ours", "pyros"),
    [
        ("vae", ELBO(), infer.TraceMeanField_ELBO()),
        ("vae", ELBO(analytic_kl=False), infer.Trace_ELBO()),
        ("cp_vae", ELBO(analytic_kl=False), infer.TraceEnum_ELBO(max_plate_nesting=1)),
    ],
)
def test_pyros_own_elbo_trains_as_ours_does(digits, name, ours, pyros):
    data = dataclasses.replace(digits, train=digits.train.take(slice(90)))  # the last batch is smaller
    pairs, losses = [], []
    for objective in (ours, pyros):
        pairs.append(runs.small_pair(name, data))
        history = pp.fit(pairs[-1], data, objective, max_epochs=3, warmup_epochs=2, **QUICK)
        losses.append([record["train_loss"] for record in history.epochs])
    # equal noise, so equal up to the order of the sums
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for one, other in zip(pairs[0].parameters(), pairs[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)


def test_beta_multiplies_the_kl(digits):
    options = QUICK | {"max_epochs": 1, "batch_size": 96}
    (record,) = pp.fit(runs.small_pair("vae", digits), digits, Beta(3.0), **options).epochs
    assert record["train_loss"] == pytest.approx(3 * record["train_kl_z"] - record["train_reconstruction"], rel=1e-6)
    # validation is at weight 1
    assert record["valid_bound"] == pytest.approx(record["valid_reconstruction"] - record["valid_kl_z"], rel=1e-6)


def test_a_larger_beta_has_a_smaller_kl():
    data = runs.small_data(size=320)
    kl = {}
    for beta in (1.0, 10.0):
        history = pp.fit(runs.small_pair("vae", data), data, Beta(beta), max_epochs=15, **QUICK)
        kl[beta] = history.epochs[-1]["valid_kl_z"]
    assert kl[10.0] < 0.5 * kl[1.0]


# NaN and infinity


def _diverging(digits, tmp_path, **failing):
    decoder = runs.Failing(2, 64, **failing)
    pair = runs.small_pair("vae", digits, decoder=decoder)
    with pytest.raises(pp.TrainingDiverged) as caught:
        pp.fit(pair, digits, max_epochs=5, out=tmp_path / "run", **QUICK)
    return pair, str(caught.value)


@pytest.mark.parametrize("validation", [True, False])
def test_nan_stops_with_the_best_weights_kept(digits, tmp_path, validation, monkeypatch):
    seen = []
    original = loop.Training.validate
    monkeypatch.setattr(loop.Training, "validate", lambda self: seen.append(runs.state(self.pair)) or original(self))
    with pyro.validation_enabled(validation):
        pair, message = _diverging(digits, tmp_path, after=7)
    # three steps an epoch: the eighth step is the second of the third epoch
    assert "at step 7 (epoch 2)" in message and "the pair has the best weights, from epoch" in message
    assert "learning_rate" in message
    assert "the loss became nan at site 'x'" in message  # the same words with and without validation
    lines = runs.records(tmp_path / "run")
    assert len(lines) == 2
    best = max(range(2), key=lambda epoch: lines[epoch]["valid_bound"])
    assert runs.same_bits(runs.state(pair), seen[best])
    assert all(tensor.isfinite().all() for tensor in runs.state(pair).values())
    assert str(tmp_path / "run" / "pair") in message
    loaded = pp.load(tmp_path / "run", decoder=runs.Failing(2, 64, after=0))
    assert runs.same_bits(runs.state(loaded), runs.state(pair))


def test_nan_before_the_first_validation_keeps_the_weights_at_the_start(digits, tmp_path):
    pair, message = _diverging(digits, tmp_path, after=2)
    assert "at step 2 (epoch 0): the pair has its initial weights" in message
    assert runs.same_bits(runs.state(pair), runs.saved_pair(tmp_path / "run"))
    assert all(tensor.isfinite().all() for tensor in runs.state(pair).values())


def test_nan_of_a_gradient_names_the_parameter(digits, tmp_path):
    pair, message = _diverging(digits, tmp_path, after=4, backward=True)
    assert "the gradient of '" in message and "became nan at step 4 (epoch 1)" in message
    assert all(tensor.isfinite().all() for tensor in runs.state(pair).values())


def test_nan_of_the_validation_bound(digits, scripted):
    seen = scripted([-3.0, math.nan])
    pair = runs.small_pair("vae", digits)
    with pytest.raises(pp.TrainingDiverged, match=r"the validation bound became nan at step 6 \(epoch 1\)"):
        pp.fit(pair, digits, max_epochs=5, **QUICK)
    assert runs.same_bits(runs.state(pair), seen[0])


def test_an_absurd_learning_rate_diverges_and_says_so(digits):
    pair = runs.small_pair("vae", digits)
    with pytest.raises(pp.TrainingDiverged, match="a smaller learning_rate or clip_norm=1 may help"):
        pp.fit(pair, digits, max_epochs=3, **QUICK | {"learning_rate": 1e25})
    assert all(tensor.isfinite().all() for tensor in runs.state(pair).values())


def test_an_error_of_the_users_own_program_is_not_taken_for_divergence(digits, monkeypatch):
    monkeypatch.setattr(pp.models.VAE, "forward", lambda self, *a, **k: (_ for _ in ()).throw(ValueError("my own")))
    with pytest.raises(ValueError, match="^my own"):
        pp.fit(runs.small_pair("vae", digits), digits, max_epochs=1, **QUICK)


# wrong input


@pytest.mark.parametrize(
    ("name", "created_for", "match"),
    [
        ("vae", {"x_shape": (63,)}, r"the pair was made for x_shape=\(63,\), but digits has \(64,\)"),
        ("cvae", {"condition_shape": (5,)}, r"made for condition_shape=\(5,\), but digits has None: .*condition_rows"),
    ],
)
def test_data_that_do_not_fit_are_refused(digits, tmp_path, name, created_for, match):
    pair = pp.create(name, **runs.NETWORKS | {"x_shape": (64,)} | created_for)
    with pytest.raises(ValueError, match=match):
        pp.fit(pair, digits, out=tmp_path / "run", progress=False)
    assert not list(tmp_path.iterdir())


def test_bernoulli_on_grey_data_is_refused():
    data = runs.small_data(binarise="none")
    pair = runs.small_pair("vae", data, likelihood="bernoulli")
    with pytest.raises(ValueError, match="does not fit the pair: x must be 0 or 1 .*'continuous_bernoulli'"):
        pp.fit(pair, data, progress=False)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_epoch": 3}, "fit has no option 'max_epoch': choose from max_epochs"),
        ({"max_epochs": 0}, "max_epochs must be at least 1, got 0"),
        ({"batch_size": -1}, "batch_size must be at least 1, got -1"),
        ({"num_processes": 0}, "num_processes must be at least 1, got 0"),
        ({"warmup_epochs": -0.5}, "warmup_epochs must be 0 or more, got -0.5"),
        ({"warmup_epochs": math.nan}, "warmup_epochs must be a finite number, got nan"),
        ({"patience": -1}, "patience must be 0 or more"),
        ({"clip_norm": -1.0}, "clip_norm must be 0 or more"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"checkpoint_seconds": -1}, "checkpoint_seconds must be 0 or more"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0.0"),
        ({"learning_rate": math.inf}, "learning_rate must be a finite number, got inf"),
        ({"learning_rate": math.nan}, "learning_rate must be a finite number, got nan"),
        ({"schedule": "cosin"}, "schedule must be one of constant, cosine, linear, got 'cosin'"),
        ({"precision": "32"}, "precision must be one of 32-true.*got '32'"),
        ({"device": "tpu"}, "device must be one of auto, cpu, cuda, mps, got 'tpu'"),
        ({"resume": True}, "resume=True needs out"),
        ({"num_processes": 41}, "num_processes is 41, but the validation part has 40 data"),
    ],
)
def test_wrong_options_are_refused(digits, options, match):
    pair = runs.small_pair("vae", digits)
    before = runs.state(pair)
    with pytest.raises(ValueError, match=match):
        pp.fit(pair, digits, progress=False, **options)
    assert runs.same_bits(runs.state(pair), before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_is_refused():
    with pytest.raises(ValueError, match="device is 'cuda', but torch finds no CUDA device here"):
        pp.TrainConfig(device="cuda")


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is an Apple GPU")
def test_mps_without_a_device_is_refused():
    with pytest.raises(ValueError, match="device is 'mps', but torch finds no Apple GPU here"):
        pp.TrainConfig(device="mps")


# records


def test_records_and_run_folder(digits, tmp_path):
    run = tmp_path / "deep" / "run"
    pair = runs.small_pair("cp_vae", digits)
    history = pp.fit(pair, digits, Beta(2.0), max_epochs=2, out=run, **QUICK)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(line.pop("sha256") for line in lines)
    assert lines == history.epochs
    parts = {"reconstruction", "kl_c", "kl_z"}
    keys = {"epoch", "step", "kl_weight", "learning_rate", "seconds", "train_loss", "train_largest_gradient_norm"}
    keys |= {f"train_{part}" for part in parts} | {f"valid_{part}" for part in parts | {"bound"}}
    assert all(line.keys() == keys for line in lines)
    assert [(line["epoch"], line["step"]) for line in lines] == [(0, 3), (1, 6)]
    config = json.loads((run / "config.json").read_text())
    assert config["pair"]["name"] == "cp_vae" and config["pair"]["config"]["networks"]["hidden"] == [16]
    assert config["objective"] == {"name": "beta", "config": {"beta": 2.0, "analytic_kl": True, "num_particles": 1}}
    assert config["data"]["name"] == "digits" and config["data"]["config"]["limit"] == 96
    assert config["train"]["max_epochs"] == 2 and config["versions"].keys() == {"pyro_priors", "torch", "pyro"}
    assert runs.same_bits(runs.saved_pair(run), runs.state(pair))
    assert runs.same_bits(runs.state(pp.load(run)), runs.state(pair))
    assert {*runs.names(run)} == {"config.json", "metrics.jsonl", "pair", "last"}
    assert not list(run.rglob("*.tmp"))


def test_means_of_the_records_weigh_each_datum_alike(digits):
    # a learning rate that moves nothing: the closed-form KL over batches of 40, 40 and 16 is that over all 96
    data = dataclasses.replace(
        digits, binarise=False, train=dataclasses.replace(digits.train, x=digits.train.x.round())
    )
    options = QUICK | {"learning_rate": 1e-30, "max_epochs": 1}
    pair = runs.small_pair("vae", data)
    whole, parts = (pp.fit(pair, data, **options | {"batch_size": size}).epochs[0] for size in (96, 40))
    assert whole["train_kl_z"] == pytest.approx(parts["train_kl_z"], rel=1e-5)


def test_tensorboard(digits, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    history = pp.fit(runs.small_pair("vae", digits), digits, max_epochs=2, out=run, tensorboard=True, **QUICK)
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    scalars = events.Scalars("valid_bound")
    assert [scalar.step for scalar in scalars] == [3, 6]
    expected = [record["valid_bound"] for record in history.epochs]
    assert [scalar.value for scalar in scalars] == pytest.approx(expected, rel=1e-6)


def test_tensorboard_that_is_not_installed(digits, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"pip install pyro-priors\[tensorboard\]"):
        pp.fit(runs.small_pair("vae", digits), digits, out=tmp_path / "run", tensorboard=True, **QUICK)
    assert not list(tmp_path.iterdir())


# precision


@pytest.mark.parametrize("name", ["vae", "cp_vae"])
@pytest.mark.parametrize(
    ("precision", "dtype", "rel"),
    [("64-true", torch.float64, 0.02), ("bf16-mixed", torch.float32, 0.02), ("bf16-true", torch.bfloat16, 0.05)],
)
def test_precisions(digits, name, precision, dtype, rel):
    pair = runs.small_pair(name, digits)
    (record,) = pp.fit(pair, digits, max_epochs=1, precision=precision, **QUICK).epochs
    (reference,) = pp.fit(runs.small_pair(name, digits), digits, max_epochs=1, **QUICK).epochs
    assert next(pair.parameters()).dtype is dtype
    assert record["valid_bound"] == pytest.approx(reference["valid_bound"], rel=rel)


def test_bfloat16_without_its_products(digits, monkeypatch):
    """Where it is emulated: there a first epoch of hvae with a VampPrior took about 230 s for 59 in float32."""
    monkeypatch.setattr(import_module("pyro_priors.training.fit"), "multiplies_bfloat16", lambda device: False)
    with pytest.warns(RuntimeWarning, match="precision='bf16-mixed': this processor has no bfloat16 instructions"):
        pp.fit(runs.small_pair("vae", digits), digits, max_epochs=1, precision="bf16-mixed", **QUICK)


# the aggregate posterior of the category


@pytest.mark.parametrize("source", ["moons", "digits"])
def test_the_aggregate_posterior_is_set(source):
    data = runs.small_data(source)
    pair = runs.small_pair("cp_vae", data, num_categories=4)
    pp.fit(pair, data, max_epochs=2, seed=9, **QUICK)
    x = data.train.x
    if data.binarise:
        (x,) = (x for x, _ in pp.data.batches(data.train, 96, seed=9, epoch=0, binarise=True, shuffle=False))
    expected = pair.encode(x)["c"].probs.mean(0)
    torch.testing.assert_close(pair.aggregate_c, expected)
    assert pair.aggregate_c.sum().item() == pytest.approx(1, abs=1e-6)
    assert not torch.allclose(pair.aggregate_c, torch.full((4,), 0.25), atol=1e-4)


def test_a_folder_is_trained_by_one_process_at_a_time(tmp_path, digits):
    """The lock is another process's, which is then killed: no lock is left behind."""
    code = (
        "import sys, time\nfrom pyro_priors.run_folder import RunFolder\n"
        "with RunFolder(sys.argv[1]).locked():\n    print('locked', flush=True)\n    time.sleep(600)\n"
    )
    out = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", code, str(out)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "locked\n"
        try:
            with pytest.raises(ValueError, match="another process is training in .*: wait for it, or choose another"):
                pp.fit(runs.small_pair("vae", digits), digits, max_epochs=1, out=out, progress=False)
        finally:
            other.kill()
    pp.fit(runs.small_pair("vae", digits), digits, max_epochs=1, out=out, progress=False)
