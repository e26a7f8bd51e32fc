"""Options are converted to their declared types at the door, or refused there by name."""

import dataclasses
import enum
import inspect
import json
import math
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated, Literal

import numpy as np
import pyro.distributions as dist
import pytest
import torch
import torch.nn as nn
from pyro import infer

import pyro_priors as pp
from pyro_priors import guides, models, zoo
from pyro_priors._options import MAY_BE_INFINITE, convert_fields, typed
from pyro_priors.data import Augment, DataConfig
from pyro_priors.metrics import JudgeConfig
from pyro_priors.objectives import OBJECTIVES, options_of
from pyro_priors.priors import (
    Flow,
    FlowPrior,
    Gaussian,
    GaussianPrior,
    Mixture,
    MixturePrior,
    StandardPrior,
    Vamp,
    VampPrior,
)

# the mechanism


@typed
def declared(
    whole: int = 1,
    number: float = 0.5,
    infinite: Annotated[float, MAY_BE_INFINITE] = 1.0,
    flag: bool = False,
    text: str = "a",
    choice: Literal["a", "b"] = "a",
    sizes: tuple[int, ...] = (1,),
    names: Sequence[str] = (),
    perhaps: int | None = None,
    anything: object = None,
) -> dict:
    return locals()


class Choice(enum.StrEnum):
    B = "b"


class Whole(enum.IntEnum):
    THREE = 3


GIVEN = [
    ("whole", np.int64(3), 3),
    ("whole", np.uint8(3), 3),
    ("whole", torch.tensor(3), 3),
    ("whole", np.array(3), 3),
    ("whole", Whole.THREE, 3),
    ("number", np.float32(0.25), 0.25),
    ("number", np.longdouble(0.25), 0.25),
    ("number", torch.tensor(0.25, dtype=torch.bfloat16, requires_grad=True), 0.25),
    ("number", np.array(0.25), 0.25),
    ("number", Fraction(1, 4), 0.25),
    ("number", 2, 2),
    ("number", np.int64(2), 2),
    ("infinite", math.inf, math.inf),
    ("infinite", np.float32(math.inf), math.inf),
    ("flag", np.bool_(True), True),
    ("flag", torch.tensor(True), True),
    ("text", np.str_("b"), "b"),
    ("text", np.array("b"), "b"),
    ("choice", Choice.B, "b"),
    ("choice", np.str_("b"), "b"),
    ("sizes", [np.int64(2), 3], (2, 3)),
    ("sizes", np.array([2, 3]), (2, 3)),
    ("sizes", torch.tensor([2, 3]), (2, 3)),
    ("sizes", torch.Size([2, 3]), (2, 3)),
    ("names", np.array(["a", "b"]), ("a", "b")),
    ("perhaps", None, None),
    ("perhaps", np.int8(4), 4),
]


@pytest.mark.parametrize(("name", "given", "expected"), GIVEN, ids=lambda value: type(value).__name__)
def test_options_are_converted_to_pythons_own(name, given, expected):
    for found in (declared(**{name: given})[name], declared(*_up_to(name, given))[name]):
        assert found == expected and type(found) is type(expected)
        if isinstance(found, tuple):
            assert [type(one) for one in found] == [type(one) for one in expected]


def _up_to(name, given):
    """The arguments by place, the last one being ``name``."""
    parameters = [*inspect.signature(declared).parameters.values()]
    defaults = [parameter.default for parameter in parameters]
    return (*defaults[: [parameter.name for parameter in parameters].index(name)], given)


REFUSED = [
    ("whole", 8.0, "whole must be an integer, got 8.0 (for example, 1)"),
    ("whole", np.float64(8), "whole must be an integer, got 8.0 (for example, 1)"),
    ("whole", True, "whole must be an integer, got True (for example, 1)"),
    ("whole", np.bool_(True), "whole must be an integer, got True (for example, 1)"),
    ("whole", None, "whole must be an integer, got None (for example, 1)"),
    ("whole", "3", "whole must be an integer, got '3' (for example, 1)"),
    ("whole", torch.ones(2, dtype=int), "whole must be an integer, got Tensor of shape (2,) (for example, 1)"),
    ("whole", nn.Linear(2, 2), "whole must be an integer, got Linear (for example, 1)"),
    ("number", "1e-3", "number must be a finite number, got '1e-3' (for example, 0.5)"),
    ("number", math.inf, "number must be a finite number, got inf (for example, 0.5)"),
    ("number", math.nan, "number must be a finite number, got nan (for example, 0.5)"),
    ("number", 10**400, "number must be a finite number, got 1000"),
    ("number", 1j, "number must be a finite number, got complex (for example, 0.5)"),
    ("number", False, "number must be a finite number, got False (for example, 0.5)"),
    ("infinite", math.nan, "infinite must be a number, got nan (for example, 1.0)"),
    ("flag", 1, "flag must be True or False, got 1 (for example, True)"),
    ("flag", "yes", "flag must be True or False, got 'yes' (for example, True)"),
    ("text", 3, "text must be a string, got 3 (for example, 'a')"),
    ("text", b"a", "text must be a string, got b'a' (for example, 'a')"),
    ("choice", "c", "choice must be one of a, b, got 'c'"),
    ("sizes", 64, "sizes must be a tuple of integers, got 64 (for example, (1,))"),
    ("sizes", (64, 2.0), "sizes must be a tuple of integers, got (64, 2.0) (for example, (1,))"),
    ("sizes", "64", "sizes must be a tuple of integers, got '64' (for example, (1,))"),
    ("sizes", np.ones((2, 2), int), "sizes must be a tuple of integers, got ndarray of shape (2, 2) (for exam"),
    ("names", "guide", "names must be a tuple of strings, got 'guide' (for example, ('guide',))"),
    ("perhaps", 2.5, "perhaps must be an integer or None, got 2.5 (for example, 10)"),
]


@pytest.mark.parametrize(("name", "given", "message"), REFUSED)
def test_options_of_another_type_are_refused_by_name(name, given, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        declared(**{name: given})


def test_what_is_not_declared_as_a_type_of_ours_is_passed_on():
    thing = object()
    assert declared(anything=thing)["anything"] is thing
    with pytest.raises(ValueError, match="^declared has no argument 'wole': did you mean 'whole'"):
        declared(wole=1)
    assert inspect.signature(declared).parameters["whole"].annotation is int


def test_annotations_of_every_kind_are_read():
    """Postponed ones, those of base classes, and those that name what only a type checker sees."""
    space = {"dataclass": dataclasses.dataclass, "convert_fields": convert_fields}
    source = (
        "from __future__ import annotations\n"
        "@dataclass(frozen=True)\n"
        "class Base:\n"
        "    size: int = 3\n"
        "    what: NotThere = None\n"
        "    def __post_init__(self): convert_fields(self)\n"
        "@dataclass(frozen=True)\n"
        "class Derived(Base):\n"
        "    rate: float = 0.5\n"
    )
    import sys
    import types

    module = types.ModuleType("made_up_options")
    sys.modules[module.__name__] = module
    vars(module).update(space)
    exec(source, vars(module))  # noqa: S102
    made = module.Derived(size=np.int64(4), rate=np.float32(0.25), what=thing) if (thing := object()) else None
    assert dataclasses.astuple(dataclasses.replace(made, what=None)) == (4, None, 0.25) and made.what is thing
    with pytest.raises(ValueError, match=r"^size must be an integer, got 4.0 \(for example, 3\)"):
        module.Derived(size=4.0)


# everywhere


def _is_typed(function):
    while hasattr(function, "__wrapped__"):
        if function.__code__ is declared.__code__:
            return True
        function = function.__wrapped__
    return False


def test_every_constructor_with_options_converts_them():
    """Of priors, networks, objectives, models and guides."""
    classes = [
        value
        for module in (pp.priors, pp.nn, pp.objectives, models, guides)
        for value in (getattr(module, name) for name in module.__all__)
        if isinstance(value, type) and not issubclass(value, dist.Distribution | pp.tracing.CompiledObjective)
    ]
    ours = {bool, float, int, int | None, float | None, str, Sequence[int], tuple[int, ...]}
    left_out = []
    for value in classes:
        own = None if dataclasses.is_dataclass(value) else vars(value).get("__init__")  # those convert their fields
        hints = inspect.get_annotations(own, eval_str=False) if own is not None else {}
        named = {str(one) for one in ours} | {one.__name__ for one in ours if isinstance(one, type)}
        if any((str(hint) if isinstance(hint, str) else hint) in named | ours for hint in hints.values()):
            left_out += [] if _is_typed(own) else [value.__name__]
    assert len(classes) > 40 and not left_out


OPTIONS_OF_PAIRS = {
    "vae": {"prior": "mixture", "num_components": 3, "learnable_weights": True},
    "hvae": {"z1_dim": 3, "likelihood": "gaussian", "scale": 0.5},
    "cp_vae": {"num_categories": 3, "own_category_network": True},
    "cvae": {"condition_decoder": False},
    "cdv_cvae": {"num_components": 3},
    "sigma_vae": {"scale": "learned", "init_scale": 0.25},
    "sigma_cvae": {"scale": 0.5},
    "sigma_cvae_nf": {"num_transforms": 2, "hidden_features": (4,), "condition_transforms": True},
}
KINDS = {
    "numpy": lambda value: np.array(value)[()] if not isinstance(value, tuple) else np.array(value),
    "arrays": np.array,
    "torch": lambda value: value if isinstance(value, str) else torch.tensor(value),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OPTIONS_OF_PAIRS)
def test_pairs_of_other_numbers_are_those_of_pythons_own(name, kind, tmp_path):
    plain = {"x_shape": (4,), "z_dim": 2, "hidden": (5,), "gated": False} | OPTIONS_OF_PAIRS[name]
    if "condition_shape" in {field.name for field in dataclasses.fields(zoo.FAMILIES[zoo.PRESETS[name].family])}:
        plain["condition_shape"] = (3,)
    given = {option: KINDS[kind](value) for option, value in plain.items()}
    for folder, options in (("plain", plain), ("given", given)):
        torch.manual_seed(0)
        pp.create(name, **options).save(tmp_path / folder)
    assert (tmp_path / "plain/pair.json").read_bytes() == (tmp_path / "given/pair.json").read_bytes()
    assert pp.load(tmp_path / "given").recipe == pp.load(tmp_path / "plain").recipe


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"likelihood": "gaussian", "scale": math.inf}, "scale must be a finite number or a string, got inf"),
        ({"likelihood": "gaussian", "init_scale": math.nan}, "init_scale must be a finite number or None, got nan"),
        ({"gated": 1}, "gated must be True or False, got 1"),
        ({"z_dim": np.float32(3)}, "z_dim must be an integer, got 3.0"),
        ({"hidden": np.array([3.0])}, r"hidden must be a tuple of integers, got ndarray of shape \(1,\)"),
        ({"likelihood": 3}, "likelihood must be one of bernoulli, .*, got 3"),
        ({"x_shape": 4}, r"x_shape must be a tuple of integers, got 4 \(for example, \(4,\)\)"),
    ],
)
def test_options_of_pairs_of_another_type_are_refused(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        pp.create("vae", **{"x_shape": (4,)} | options)


def test_whole_numbers_stay_as_they_are_in_what_is_saved():
    """An integer serves as a float, and is written as it was given."""
    config = zoo.resolve("vae", {"likelihood": "gaussian", "scale": 1}, (4,)).config()
    assert json.dumps(config["likelihood"]["scale"]) == "1"
    assert json.dumps(dataclasses.asdict(pp.TrainConfig(warmup_epochs=3))["warmup_epochs"]) == "3"


def test_a_config_of_ones_own_is_converted_too():
    @dataclasses.dataclass(frozen=True)
    class Own(pp.priors.PriorOptions):
        depth: int = 2
        sharpness: float = 0.5

    assert Own(depth=np.int64(3), sharpness=np.float32(0.25)).depth == 3
    with pytest.raises(ValueError, match=r"^depth must be an integer, got 3.0 \(for example, 2\)"):
        Own(depth=3.0)


def _data(num=20):
    x = (torch.rand(num, 4, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    return pp.data.from_arrays(x, x[:5], x[:5], label_train=np.arange(num) % 2, label_valid=[0] * 5, label_test=[1] * 5)


TRAINING = {
    "max_epochs": 2,
    "batch_size": 8,
    "learning_rate": 0.0078125,
    "warmup_epochs": 0.5,
    "warmup_sites": ("z",),
    "frozen": ("model.decoder",),
    "frozen_epochs": 0.5,
    "patience": 3,
    "clip_norm": 0.5,
    "seed": 3,
    "checkpoint_seconds": 0.0,
    "tensorboard": False,
    "compile": "never",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_with_other_numbers_is_the_same_to_the_byte(kind, tmp_path):
    given = {name: value if isinstance(value, tuple) else KINDS[kind](value) for name, value in TRAINING.items()}
    for folder, options in (("plain", TRAINING), ("given", given)):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            pair = pp.create("vae", x_shape=(4,), z_dim=2, hidden=(5,))
        pp.fit(pair, _data(), out=tmp_path / folder, progress=np.bool_(False), **options)
    for file in ("config.json", "pair/pair.json"):
        assert (tmp_path / "plain" / file).read_bytes() == (tmp_path / "given" / file).read_bytes()


TRAINING_REFUSED = [
    ({"max_epochs": 1.5}, r"max_epochs must be an integer, got 1.5 \(for example, 100\)"),
    ({"batch_size": 8.0}, r"batch_size must be an integer, got 8.0 \(for example, 100\)"),
    ({"learning_rate": "1e-3"}, r"learning_rate must be a finite number, got '1e-3' \(for example, 0.0005\)"),
    ({"learning_rate": True}, "learning_rate must be a finite number, got True"),
    ({"seed": None}, r"seed must be an integer, got None \(for example, 10\)"),
    ({"seed": 2**63}, "seed must be an integer of at most 64 bits, got 9223372036854775808"),
    ({"warmup_epochs": math.inf}, "warmup_epochs must be a finite number, got inf"),
    ({"patience": 2.5}, "patience must be an integer, got 2.5"),
    ({"tensorboard": 1}, "tensorboard must be True or False, got 1"),
    ({"schedule": None}, r"schedule must be a string, got None \(for example, 'constant'\)"),
    ({"frozen": (3,)}, r"frozen must be a tuple of strings, got \(3,\)"),
    ({"warmup_sites": "z"}, r"warmup_sites must be a tuple of names of latent sites, got 'z': give \('z',\)"),
    ({"clip_norm": math.nan}, "clip_norm must be a number, got nan"),
    ({"resume": 1, "out": "x"}, "resume must be True or False, got 1"),
    ({"config": {"max_epochs": 1}}, r"config must be a TrainConfig, got \{'max_epochs': 1\}: give TrainConfig\("),
]


@pytest.mark.parametrize(("options", "message"), TRAINING_REFUSED)
def test_options_of_a_training_of_another_type_are_refused(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        pp.fit(pp.create("vae", x_shape=(4,), z_dim=2, hidden=(5,)), _data(), progress=False, **options)


def test_what_may_be_infinite_is():
    """Parts held for good, gradients measured and not clipped, a state written at the end alone."""
    pair = pp.create("vae", x_shape=(4,), z_dim=2, hidden=(5,))
    before = {name: value.clone() for name, value in pair.model.named_parameters()}
    how = {"frozen": ("model",), "frozen_epochs": math.inf, "clip_norm": math.inf, "checkpoint_seconds": math.inf}
    history = pp.fit(pair, _data(), max_epochs=2, batch_size=8, progress=False, **how)
    assert all(torch.equal(value, before[name]) for name, value in pair.model.named_parameters())
    assert history.epochs[-1]["train_largest_gradient_norm"] > 0


OBJECTIVE_OPTIONS = {
    "beta": {"beta": 2.0, "analytic_kl": False, "num_particles": 2},
    "capacity": {"gamma": 0.5, "capacity": 2.0, "num_steps": 7},
    "constrained": {"kappa_squared": 2.0, "beta": 0.5, "rate": 0.25, "sharpness": 2.0, "smoothing": 0.5},
    "elbo": {"analytic_kl": False, "num_particles": 2, "chunk_size": 3},
    "factor": {"gamma": 0.5, "hidden": (4, 5), "learning_rate": 0.25},
    "info": {"alpha": 0.5, "lambd": 2.0, "kernel": "gaussian", "bandwidth": 0.5, "unbiased": False},
    "total-correlation": {"alpha": 0.5, "beta": 2.0, "gamma": 0.5, "estimator": "weighted", "num_data": 7},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_of_other_numbers_are_those_of_pythons_own(name, kind):
    plain = OBJECTIVE_OPTIONS[name]
    made = [OBJECTIVES[name](**plain), OBJECTIVES[name](**{key: KINDS[kind](value) for key, value in plain.items()})]
    assert json.dumps(options_of(made[0])) == json.dumps(options_of(made[1]))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("beta", {"beta": "4"}, r"beta must be a finite number, got '4' \(for example, 4.0\)"),
        ("beta", {"beta": math.inf}, "beta must be a finite number, got inf"),
        ("elbo", {"num_particles": 2.0}, r"num_particles must be an integer, got 2.0 \(for example, 1\)"),
        ("elbo", {"num_particles": True}, "num_particles must be an integer, got True"),
        ("elbo", {"chunk_size": 2.5}, "chunk_size must be an integer or None, got 2.5"),
        ("elbo", {"analytic_kl": "no"}, "analytic_kl must be True or False, got 'no'"),
        ("constrained", {"kappa_squared": "80"}, "kappa_squared must be a finite number or None, got '80'"),
        ("factor", {"hidden": 64}, "hidden must be a tuple of integers, got 64"),
        ("total-correlation", {"num_data": 7.0}, "num_data must be an integer or None, got 7.0"),
        ("info", {"unbiased": None}, "unbiased must be True or False, got None"),
    ],
)
def test_options_of_objectives_of_another_type_are_refused(name, options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        OBJECTIVES[name](**options)


PRIORS = {
    "standard": (StandardPrior, {"z_dim": 3}),
    "gaussian": (GaussianPrior, {"z_dim": 3}),
    "category": (GaussianPrior, {"num_categories": 2, "z_dim": 3}),
    "mixture": (MixturePrior, {"num_components": 2, "z_dim": 3, "learnable_weights": False}),
    "flow": (FlowPrior, {"z_dim": 3, "num_transforms": 2, "hidden": (4,), "actnorm": True}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PRIORS)
def test_priors_of_other_numbers_are_those_of_pythons_own(name, kind):
    make, plain = PRIORS[name]
    states = []
    for options in (plain, {key: KINDS[kind](value) for key, value in plain.items()}):
        torch.manual_seed(0)
        states.append(make(**options).state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StandardPrior(2.0), "z_dim must be an integer, got 2.0"),
        (lambda: MixturePrior(3, 2, learnable_weights="no"), "learnable_weights must be True or False, got 'no'"),
        (lambda: FlowPrior(2, hidden=64), "hidden must be a tuple of integers, got 64"),
        (lambda: Flow(num_transforms=2.0), "num_transforms must be an integer, got 2.0"),
        (lambda: Flow(hidden_features=64), "hidden_features must be a tuple of integers, got 64"),
        (lambda: Vamp(learnable_weights="no"), "learnable_weights must be True or False, got 'no'"),
        (lambda: Mixture("4"), "num_components must be an integer or None, got '4'"),
        (lambda: Gaussian(3), "covariance must be a string, got 3"),
        (lambda: VampPrior(None, 3), r"x_shape must be a tuple of integers, got 3 \(for example, \(3,\)\)"),
        (lambda: pp.nn.MLP(3, 64), r"hidden must be a tuple of integers, got 64 \(for example, \(64,\)\)"),
        (lambda: pp.nn.Temperature(rate="fast"), "rate must be a finite number, got 'fast'"),
        (lambda: pp.nn.GaussianLikelihood(1, scale=math.inf), "scale must be a finite number or None, got inf"),
        (lambda: models.CPVAE(3.0, None, None), "num_categories must be an integer, got 3.0"),
    ],
)
def test_options_of_modules_of_another_type_are_refused(make, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make()


# data, judges, metrics, samples


def test_options_of_data_are_converted_and_recorded_as_pythons_own():
    given = {"condition_rows": np.int64(4), "flatten": np.bool_(False), "rotate": np.float32(0.5), "limit": np.array(9)}
    plain = {"condition_rows": 4, "flatten": False, "rotate": 0.5, "limit": 9}
    assert json.dumps(dataclasses.asdict(DataConfig(**given))) == json.dumps(dataclasses.asdict(DataConfig(**plain)))
    found = pp.data.load(np.str_("digits"), limit=np.int64(9), seed=torch.tensor(3))
    assert len(found.train) == 9 and json.dumps(found.recipe) == json.dumps(
        pp.data.load("digits", limit=9, seed=3).recipe
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": True}, r"limit must be an integer, got True \(for example, 10\)"),
        ({"flip": 1}, "flip must be True or False, got 1"),
        ({"rotate": math.nan}, "rotate must be a finite number, got nan"),
        ({"rotate": True}, "rotate must be a finite number, got True"),
        ({"side": 64.0}, r"side must be an integer, got 64.0 \(for example, 64\)"),
        ({"root": 3}, "root must be a string or None, got 3"),
        ({"seed": None}, "seed must be an integer.*, got None"),
    ],
)
def test_options_of_data_of_another_type_are_refused(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        pp.data.load("digits", **options)


def test_augmentation_and_judges_are_converted():
    assert Augment(np.array([1, 8, 8]), np.bool_(True), np.float32(0.5)) == Augment((1, 8, 8), True, 0.5)
    with pytest.raises(ValueError, match="^rotate must be a finite number, got '20'"):
        Augment((1, 8, 8), rotate="20")
    assert json.dumps(dataclasses.asdict(JudgeConfig(max_epochs=np.int64(3), learning_rate=np.float32(0.5)))) == (
        json.dumps(dataclasses.asdict(JudgeConfig(max_epochs=3, learning_rate=0.5)))
    )
    with pytest.raises(ValueError, match="^learning_rate must be a finite number, got '1e-3'"):
        JudgeConfig(learning_rate="1e-3")


def test_options_of_metrics_are_converted():
    data, pair = _data(), pp.create("vae", x_shape=(4,), z_dim=2, hidden=(5,))
    plain = pp.metrics.evaluate(pair, data, metrics="log_likelihood", num_samples=3, seed=1, progress=False)
    given = pp.metrics.evaluate(
        pair,
        data,
        np.str_("test"),
        metrics=np.array(["log_likelihood"]),
        num_samples=np.int64(3),
        seed=torch.tensor(1),
        progress=np.bool_(False),
    )
    assert given == plain
    for options, message in {
        "num_samples must be a positive integer, got 3.0": {"num_samples": 3.0},
        "seed must be an integer from 0 to 2**63 - 1, got None": {"seed": None},
        "progress must be True or False, got 1": {"progress": 1},
        "metrics must be a string or a tuple of strings, got 3": {"metrics": 3},
        "part must be one of train, valid, test, got 0": {"part": 0},
    }.items():
        with pytest.raises(ValueError, match=f"^{re.escape(options)}"):
            pp.metrics.evaluate(pair, data, **message)


def test_arguments_of_sample_and_log_prob_are_converted():
    pair, x = pp.create("vae", x_shape=(4,), z_dim=2, hidden=(5,)), torch.zeros(3, 4)
    torch.manual_seed(0)
    plain = pair.sample(3)
    for size in (np.int64(3), torch.tensor(3), np.array(3)):
        torch.manual_seed(0)
        assert torch.equal(pair.sample(size)["z"], plain["z"])
    assert torch.equal(pair.sample(2, z=np.ones((2, 2)))["z"], torch.ones(2, 2))
    torch.manual_seed(0)
    expected = pair.log_prob(x, num_samples=2)
    torch.manual_seed(0)
    assert torch.equal(pair.log_prob(x, num_samples=np.uint8(2), progress=np.bool_(False)), expected)
    assert pair.model(size=np.int64(3)).shape == (3, 4)
    for call, message in (
        (lambda: pair.sample(3.0), "size must be an integer, got 3.0"),
        (lambda: pair.sample(True), "size must be an integer, got True"),
        (lambda: pair.log_prob(x, num_samples=None), "num_samples must be an integer, got None"),
        (lambda: pair.log_prob(x, progress="no"), "progress must be True or False, got 'no'"),
        (lambda: pair.model(size=3.0), "size must be a positive integer, got 3.0"),
        (lambda: pp.compiled(pair, max_graphs=2.0), "max_graphs must be a positive integer, got 2.0"),
        (lambda: pp.Pair(pair.model, pair.guide, num_categories=2.0), "num_categories must be an integer, got 2.0"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            call()


@pytest.mark.parametrize("elbo", [infer.Trace_ELBO, pp.objectives.ELBO])
def test_a_kl_weight_of_numpy_is_the_number(elbo):
    pair, x = pp.create("vae", x_shape=(4,), z_dim=2, hidden=(5,)), torch.zeros(3, 4)
    losses = []
    for weight in (0.25, np.float32(0.25), np.array(0.25), {"z": np.float64(0.25)}, torch.tensor(0.25)):
        torch.manual_seed(0)
        weigh = pp.objectives.KLWeight(weight)
        losses.append(float(elbo().loss(weigh(pair.model), weigh(pair.guide), x)))
    assert losses == pytest.approx([losses[0]] * len(losses), rel=1e-6)
    for weight, message in (("0.1", "a number above 0, got '0.1'"), (True, "a number above 0, got True"),
                            (math.inf, "finite, got inf"), ({"z": None}, "a number above 0, got None")):  # fmt: skip
        with pytest.raises(ValueError, match=f"^the KL weight of .* must be {message}"):
            pp.objectives.KLWeight(weight)
