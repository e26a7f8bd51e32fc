"""Under another default device, or default type, of torch: the same numbers, to the last bit, on the same device.

The meta device stands for a GPU: what is made there by mistake has no values, and whatever reads them fails.
"""

import ast
import copy
import dataclasses
import io
import itertools
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import pyro_priors as pp
import runs
from pyro_priors import conditions as control
from pyro_priors import metrics, plots
from pyro_priors.experiments import bhalodia2019, klushyn2019, lavda2019
from pyro_priors.metrics import grasps
from pyro_priors.objectives import ELBO, Capacity, Constrained, Factor, Info, TotalCorrelation

DEFAULTS = ("meta", "float64")


@contextmanager
def default(which):
    """Torch's default device is meta, or its default type float64."""
    if which == "meta":
        torch.set_default_device("meta")
    if which == "float64":
        torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)


def same(one, other):
    """Whether two results are of the same types and devices, and equal to the last bit."""
    if isinstance(one, torch.Tensor):
        return one.device == other.device and one.dtype == other.dtype and torch.equal(one, other)
    if dataclasses.is_dataclass(one):
        return all(same(getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(one))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or (one != one and other != other)


def assert_unchanged(which, compute):
    found = []
    for setting in ("", which):
        torch.manual_seed(0)
        with default(setting):
            found.append(compute())
    assert same(*found)


def picture(figure):
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=40)
    return file.getvalue()


# data


@pytest.mark.parametrize("which", DEFAULTS)
@pytest.mark.parametrize(
    "load",
    [
        lambda: pp.data.from_arrays((torch.arange(240, device="cpu") % 3 == 0).reshape(60, 4).float(), seed=3),
        lambda: pp.data.load("digits", binarise="fixed", condition_rows=2),
        lambda: pp.data.load("moons"),
        lambda: pp.data.load("one_to_many"),
    ],
    ids=["arrays", "binarised once", "moons", "one_to_many"],
)
def test_data(which, load):
    assert_unchanged(which, lambda: [(part.x, part.condition, part.label) for part in load().parts.values()])


@pytest.mark.parametrize("which", DEFAULTS)
def test_batches(which):
    data = runs.small_data(binarise="none", flip=True, rotate=20)
    how = {"seed": 1, "epoch": 2, "binarise": True, "augment": data.augment}
    assert_unchanged(which, lambda: list(pp.data.batches(data.train, 40, **how)))


# training

PAIRS = {
    "vae": ("vae", {}, {}),
    "vae-vamp": ("vae", {"prior": "vamp", "num_components": 5}, {}),
    "hvae": ("hvae", {}, {}),
    "cp_vae": ("cp_vae", {"num_categories": 3}, {}),
    "cp_vae-sparse": ("cp_vae", {"num_categories": 5, "category": "sparse", "num_enumerated": 2}, {}),
    "cp_vae-relaxed": ("cp_vae", {"num_categories": 3, "category": "relaxed"}, {}),
    "cp_vae-reference": ("cp_vae_reference", {"num_categories": 3}, {}),
    "sigma_vae": ("sigma_vae", {}, {"binarise": "none", "rotate": 10}),
    "cvae": ("cvae", {}, {"binarise": "none", "condition_labels": True}),
    "sigma_cvae_nf": ("sigma_cvae_nf", {"num_transforms": 2}, {"binarise": "none", "condition_labels": True}),
    "cmog_cvae": ("cmog_cvae", {"num_components": 3}, {"binarise": "none", "condition_labels": True}),
    "cdv_cvae": ("cdv_cvae", {"num_components": 3}, {"binarise": "none", "condition_labels": True}),
}


def made(name):
    pair_name, options, of_data = PAIRS[name]
    data = runs.small_data(**of_data)
    return runs.small_pair(pair_name, data, **options), data


@pytest.mark.parametrize("which", DEFAULTS)
@pytest.mark.parametrize(
    ("name", "objective", "options"),
    [
        *((name, None, {}) for name in PAIRS),
        ("vae-vamp", None, {"pseudo_inputs": "data"}),
        ("vae", None, {"compile": "always"}),
        ("vae", Capacity(num_steps=3), {}),
        ("vae", TotalCorrelation(), {}),
        ("vae", Factor(hidden=(5,)), {"compile": "always"}),
        ("vae", Info(), {}),
        ("vae", Constrained(kappa_squared=30.0), {}),
        ("cp_vae", Factor(hidden=(5,)), {}),
        ("cp_vae", ELBO(chunk_size=2), {}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, ELBO) else value if isinstance(value, str) else "",
)
def test_training(which, name, objective, options, monkeypatch):
    monkeypatch.setattr("pyro_priors.tracing.inductor.compile_graph", lambda graph, inputs: graph)
    pair, data = made(name)

    def train():
        trained = copy.deepcopy(pair)
        how = {"max_epochs": 2, "batch_size": 40, "warmup_epochs": 1, "progress": False} | options
        history = pp.fit(trained, data, objective, **how)
        return runs.state(trained), [{**line, "seconds": 0} for line in history.epochs]

    assert_unchanged(which, train)


@pytest.mark.slow
@pytest.mark.parametrize("which", DEFAULTS)
def test_compiled_training(which):
    """By inductor itself."""
    pair, data = made("vae")

    def train():
        trained = copy.deepcopy(pair)
        pp.fit(trained, data, max_epochs=1, batch_size=40, compile="always", progress=False)
        return runs.state(trained)

    assert_unchanged(which, train)


@pytest.mark.parametrize("which", DEFAULTS)
def test_a_start_at_clusters(which):
    learned, data = made("vae")
    pair = runs.small_pair("cp_vae", data, num_categories=3)

    def start():
        started = copy.deepcopy(pair)
        return pp.start_at_clusters(started, data, learned, epochs=1), runs.state(started)

    assert_unchanged(which, start)


# pairs


@pytest.mark.parametrize("which", DEFAULTS)
@pytest.mark.parametrize("name", PAIRS)
def test_what_one_does_with_a_pair(which, name, tmp_path):
    """Samples, codes, reconstructions, log p(x), evaluations and figures."""
    pair, data = made(name)
    x, condition = data.test.x[:3], None if data.test.condition is None else data.test.condition[:3]
    metric_names = [name for name in metrics.METRICS if name not in ("generation", "fidelity", "diversity")]
    if pair.num_categories:  # figures are drawn with it
        pair.set_aggregate(data.test.x)

    def use():
        codes = pair.encode(x, condition)
        found = {
            "sample": pair.sample(3, condition),
            "codes": [codes[site].probs if site == "c" else codes[site].mean for site in codes],
            "reconstruct": pair.reconstruct(x, condition),
            "log_prob": pair.log_prob(x, condition, 2),
            "evaluate": metrics.evaluate(pair, data, metrics=metric_names, num_samples=2, progress=False),
            "figures": [path.read_bytes() for path in plots.figures(pair, data, [], tmp_path)],
        }
        if pair.num_categories:
            pair.set_aggregate(data.test.x)
            found["aggregate"] = pair.aggregate_c.clone()
            found["by number"] = pair.sample(3, c=[0, 1, 2])
            found["confusion"] = picture(plots.confusion(pair, data))
        return found

    assert_unchanged(which, use)


@pytest.mark.parametrize("which", DEFAULTS)
def test_figures_of_codes(which):
    data = pp.data.load("moons")
    data = dataclasses.replace(data, train=data.train.take(slice(100)))
    options = {"likelihood": "gaussian", "prior": "flow", "num_transforms": 2}
    pair = runs.small_pair("vae", data, **options)
    start, end = [0.0, 0.0], [1.0, 0.5]

    def draw():
        return [
            picture(plots.pockets(pair, data)),
            picture(plots.leakage_curves({"row": {"title": (pair, data)}}, [-5.0, -3.0], 100)),
            picture(plots.magnification(pair, data, 50)),
            picture(plots.histograms({"samples": data.test.x[:, 0]}, *data.test.x.sort(0).values.T)),
            *(plots.path(pair, start, end, 4, in_base) for in_base in (False, True)),
            pair.sample(2, z0=start),
        ]

    assert_unchanged(which, draw)


@pytest.mark.parametrize("which", DEFAULTS)
@pytest.mark.parametrize("name", ["cvae", "sigma_cvae_nf"])
def test_conditions(which, name):
    pair, data = made(name)

    def ask():
        return [
            control.asked(pair, data, ["label=3", "label=1"], 3),
            control.grid(pair, data, ["label"], num_columns=2),
            control.between(pair, data, "label=3", "label=1", 2, 3),
            control.edited(pair, data, [0, 1], "label=3", transport=True),
            metrics.samples_given(pair, data.test.condition[:2], 2),
        ]

    assert_unchanged(which, ask)


@pytest.mark.parametrize("which", DEFAULTS)
def test_attributes_and_completions(which):
    x, attributes = torch.rand(60, 1, 4, 4), torch.randint(2, (60, 2)).float()
    data = pp.data.from_arrays(x, condition_train=attributes, attributes_train=attributes, name="made")
    data = dataclasses.replace(data, condition_of="attributes")
    pair = runs.small_pair("cvae", data, likelihood="gaussian")
    below = runs.small_data(binarise="none", condition_rows=3)
    completes = runs.small_pair("cvae", below)

    def draw():
        return [
            control.asked(pair, data, ["1=1"], 3),
            control.grid(pair, data, ["0"], "1=1", 2),
            control.between(completes, below, ",".join(["0.5"] * 24), ",".join(["0.1"] * 24), 2, 3),
            picture(plots.completions([(below, {"cvae": completes})], 3, 3)),
        ]

    assert_unchanged(which, draw)


# experiments


@pytest.mark.parametrize("which", DEFAULTS)
def test_measures_and_figures_of_experiments(which):
    moons, mixture, targets, curve, four = (
        pp.data.load(name) for name in ("moons", "mixture", "one_to_many", "inverse_sine", "four_gaussians")
    )
    flow = runs.small_pair("vae", moons, prior="flow", num_transforms=2)
    one_dimension = runs.small_pair("cp_vae", mixture, num_categories=2)
    one_dimension.set_aggregate(mixture.train.x)
    of_targets, of_curve = (runs.small_pair("cvae", data) for data in (targets, curve))
    clouds = runs.small_pair("vae", four)
    images = runs.small_data(binarise="none")
    faces = runs.small_pair("sigma_vae", images, prior="flow", num_transforms=2)
    row = SimpleNamespace(name="mnist-vae-dp", of="", data="mnist", pair_options={"prior": "flow"})
    trained = SimpleNamespace(pair=faces, data=images, row=row)

    def measure():
        return [
            bhalodia2019.measures.off_manifold(flow, moons),
            bhalodia2019.measures.train_gap(flow, moons),
            metrics.information(flow, moons),
            metrics.gaussian_correlation(flow, moons),
            bhalodia2019.figures.traversals(3, 1)(trained),
            bhalodia2019.figures.by_dimension(trained, 1, 3),
            bhalodia2019.figures.samples_and_low_posterior(trained, 4),
            lavda2019.measures.two_modes(one_dimension, mixture),
            lavda2019.measures.true_log_density(one_dimension, mixture),
            lavda2019.figures._true_density(),
            klushyn2019.measures.off_the_targets(of_targets, targets),
            klushyn2019.measures.off_the_curve(of_curve, curve),
            klushyn2019.measures.off_the_gaussians(clouds, four),
            *(klushyn2019.measures.true_log_density(clouds, data) for data in (targets, curve, four)),
            picture(klushyn2019.figures.priors_by_condition({"": SimpleNamespace(pair=of_targets)}, 20)),
        ]

    assert_unchanged(which, measure)


# networks that judge, and numbers


@pytest.mark.parametrize("which", DEFAULTS)
def test_generated_images(which, tmp_path, monkeypatch):
    """By a classifier that is trained each time, from the same weights on."""
    pair, data = made("cvae")
    folders = map(str, itertools.count())

    def judge():
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / next(folders)))
        names = ["generation", "fidelity", "diversity"]
        return metrics.evaluate(pair, data, metrics=names, features="classifier", progress=False)

    assert_unchanged(which, judge)


@pytest.mark.parametrize("which", DEFAULTS)
def test_a_discriminator_of_grasps(which, tmp_path):
    poses, images = torch.randn(60, 6), torch.rand(60, 1, 16, 16)
    data = pp.data.from_arrays(poses, condition_train=images, name="made")
    folders = map(str, itertools.count())

    def judge():
        folder = tmp_path / next(folders)
        discriminator = metrics.trained_discriminator(data, folder, max_epochs=2, progress=False)
        image = torch.arange(len(data.test), device="cpu")
        agrees = metrics.rectangle_metric(data.test.x[:, None], data.test.x, image)
        shown = picture(plots.grasps({"data": [data.test.x[:2]]}, data.test.condition[:1]))
        return runs.state(discriminator), grasps.pair_scores(discriminator, data.test), agrees, shown

    assert_unchanged(which, judge)


@pytest.mark.parametrize("which", DEFAULTS)
def test_metrics_of_tensors(which):
    x, y, label = torch.randn(60, 3), torch.randn(40, 3), torch.arange(60) % 3

    def measure():
        return {
            "frechet": metrics.frechet(x, y),
            "kernel": metrics.kernel_distance(x, y),
            "shares": metrics.precision_recall_density_coverage(x, y),
            "neighbors": metrics.nearest_neighbour_kl(x, y),
            "leakage": metrics.leakage_below(x[:, 0], x[:, 1], y[:, 0], 0.5, 3),
            "components": metrics.Components.measure(x[None], y, y[:5] + 0.1),
            "information": metrics.factor_information(x, x.exp(), label[:, None]),
            "magnification": metrics.log_magnification(lambda z: 2 * z, x),
            "accuracy": metrics.hungarian_accuracy(label, 2 - label, 3, 3),
            "variety": metrics.variety(x[None].softmax(-1), [0.5]),
            "distance": metrics.mean_pairwise_distance(x),
        }

    assert_unchanged(which, measure)


# the kind

MADE = {"arange", "as_tensor", "empty", "eye", "full", "linspace", "logspace", "ones", "rand", "randint", "randn"}
MADE |= {"randperm", "tensor", "zeros"}
OF_DEFAULT_TYPE = {"empty", "eye", "linspace", "logspace", "ones", "rand", "randn", "zeros"}


def test_every_tensor_that_is_made_says_where_and_of_which_type():
    """But for parameters and buffers, which the constructors of modules make where torch's defaults say."""
    package = Path(pp.__file__).parent
    found = []
    programs = (Path(module.__file__).parent for module in (pp.models, pp.guides))
    for file in itertools.chain(package.rglob("*.py"), *(folder.glob("*.py") for folder in programs)):
        tree = ast.parse(file.read_text())
        constructors = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
        within = {id(node) for constructor in constructors for node in ast.walk(constructor)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and id(node) not in within and ast.unparse(node.func).startswith("torch."):
                name, given = ast.unparse(node.func).removeprefix("torch."), {word.arg for word in node.keywords}
                needed = {"device"} if name in MADE else set()
                needed |= {"dtype"} if name in OF_DEFAULT_TYPE else set()
                if needed - given or name == "Generator" and not node.args:
                    found.append(f"{file.name}:{node.lineno}: {ast.unparse(node)}")
    assert not found
