"""Figures: the right files, axes that say what they show, pixels where they belong."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
import torch.nn as nn
from PIL import Image

import pyro_priors as pp
import runs
from pyro_priors import metrics, plots

HISTORY = [
    {"epoch": epoch, "train_loss": 50.0 - epoch, "valid_bound": -51.0 + epoch, "valid_kl_z": 1.0, "valid_kl_c": 0.5}
    for epoch in range(3)
]

# data, options of the data, pair, options of the pair, files
CASES = {
    "digits": (
        "digits",
        {},
        "cp_vae",
        {"num_categories": 3},
        "reconstructions samples categories aggregate_category latent prior_density curves",
    ),
    "digits-vae": ("digits", {"binarise": "none"}, "vae", {"z_dim": 5}, "reconstructions samples latent curves"),
    "digits-images": ("digits", {"flatten": False}, "vae", {"z_dim": 1}, "reconstructions samples latent curves"),
    "digits-cvae": ("digits", {"condition_rows": 4}, "cvae", {}, "reconstructions samples latent curves"),
    "digits-cvae-label": ("digits", {"condition_labels": True}, "cvae", {}, "reconstructions samples latent curves"),
    "digits-hvae": (
        "digits",
        {},
        "hvae",
        {"prior": "vamp", "num_components": 4},
        "reconstructions samples latent prior_density curves",
    ),
    "mixture": ("mixture", {}, "cp_vae", {"z_dim": 1, "num_categories": 2}, "density aggregate_category latent curves"),
    "moons": ("moons", {}, "vae", {}, "density latent prior_density curves"),
    "moons-cvae": ("moons", {"condition_labels": True}, "cvae", {"z_dim": 1}, "density latent curves"),
}


@pytest.fixture(params=CASES)
def case(request):
    data_name, data_options, name, options, files = CASES[request.param]
    data = runs.small_data(data_name, held_out=30, **data_options)
    pair = runs.small_pair(name, data, **options)
    pair.eval()
    if pair.num_categories:
        pair.set_aggregate(data.train.x)
    return data, pair, files.split()


def pixels(path):
    with Image.open(path) as image:
        image.load()
        return image.size, image.convert("L").getextrema()


def test_every_figure_is_drawn(case, tmp_path):
    data, pair, files = case
    paths = plots.figures(pair, data, HISTORY, tmp_path / "run" / "figures")
    assert paths == [tmp_path / "run" / "figures" / f"{name}.png" for name in files]
    assert sorted(path.name for path in (tmp_path / "run" / "figures").iterdir()) == sorted(path.name for path in paths)
    for path in paths:
        (width, height), (darkest, brightest) = pixels(path)
        assert width > 100 and height > 60 and darkest < 100 and brightest > 200


def test_without_a_history_there_are_no_curves(tmp_path):
    data = runs.small_data("moons")
    names = [path.stem for path in plots.figures(runs.small_pair("vae", data), data, [], tmp_path)]
    assert names == ["density", "latent", "prior_density"]


def labels(figure):
    return [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes]


def test_axes_are_labelled():
    moons, mixture, digits = (runs.small_data(name) for name in ("moons", "mixture", "digits"))
    assert labels(plots.density(runs.small_pair("vae", moons), moons)) == [("$x_1$", "$x_2$")]
    assert labels(plots.density(runs.small_pair("vae", mixture), mixture)) == [("x", "density")]
    assert labels(plots.latent_scatter(runs.small_pair("vae", moons), moons)) == [("z 1", "z 2")]
    assert labels(plots.latent_scatter(runs.small_pair("vae", moons, z_dim=1), moons)) == [("z", "x")]
    assert labels(plots.latent_scatter(runs.small_pair("hvae", moons, z1_dim=3), moons)) == [("z2 1", "z2 2")]
    five = runs.small_pair("vae", digits, z_dim=5)
    assert labels(plots.latent_scatter(five, digits)) == [("principal axis 1", "principal axis 2")]
    assert labels(plots.aggregate_category(runs.small_pair("cp_vae", digits))) == [
        ("category, the most used first", "probability")
    ]
    assert labels(plots.curves(HISTORY)) == [("epoch", "nats per datum"), ("epoch", "nats per datum (validation)")]


def test_curves_show_the_history():
    left, right = plots.curves(HISTORY).axes
    loss, bound = left.lines
    assert list(loss.get_xdata()) == [0, 1, 2] and list(loss.get_ydata()) == [-50, -49, -48]
    assert list(bound.get_ydata()) == [-51, -50, -49]
    assert [line.get_label() for line in right.lines] == ["KL of z", "KL of c"]
    assert list(right.lines[0].get_ydata()) == [1, 1, 1]


def test_bounds_of_many_runs_by_data_and_seed():
    better = [record | {"valid_bound": record["valid_bound"] + 10} for record in HISTORY]
    figure = plots.bounds_by_epoch({"mnist": {"a": [HISTORY, better], "b": [HISTORY]}, "moons": {"c": [better]}})
    mnist, moons = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["mnist", "moons"]
    first, second, other = mnist.lines
    assert list(first.get_ydata()) == [-51, -50, -49] and list(second.get_ydata()) == [-41, -40, -39]
    assert first.get_color() == second.get_color() != other.get_color()
    assert [text.get_text() for text in mnist.get_legend().get_texts()] == ["a", "b"]
    assert list(moons.lines[0].get_xdata()) == [0, 1, 2]


def shown_image(figure):
    """The picture in a figure of :func:`pyro_priors.plots.image_grid`, one channel."""
    return torch.tensor(figure.axes[0].images[0].get_array())[..., 0]


def cell(grid, row, column, height, width):
    """One image of a grid, whose frames are one pixel wide."""
    top, left = 1 + row * (height + 1), 1 + column * (width + 1)
    return grid[top : top + height, left : left + width]


def test_image_grid_puts_each_pixel_where_it_belongs():
    images = torch.arange(5 * 2 * 3).reshape(5, 1, 2, 3) / 29
    figure = plots.image_grid(images, 3, "title", ["first", "second"])
    grid = shown_image(figure)
    assert grid.shape == (1 + 2 * 3, 1 + 3 * 4)
    for i in range(5):
        torch.testing.assert_close(cell(grid, i // 3, i % 3, 2, 3), images[i, 0])
    assert (grid[::3] == 0.5).all() and (grid[:, ::4] == 0.5).all()  # frames
    assert (cell(grid, 1, 2, 2, 3) == 0.5).all()  # no sixth image
    axes = figure.axes[0]
    assert axes.get_title() == "title"
    assert [text.get_text() for text in axes.get_yticklabels()] == ["first", "second"]
    # each label at the middle of its row
    assert list(axes.get_yticks()) == [1.5, 4.5]
    top, bottom = sorted(axes.get_ylim())
    assert top < 1.5 < 4.5 < bottom


def test_image_grid_clips_and_takes_colours():
    images = torch.full((2, 3, 4, 4), 0.25)
    images[0, 0], images[1, 2] = 7.0, -1.0
    array = torch.tensor(plots.image_grid(images, 2).axes[0].images[0].get_array())
    assert array[2, 2].tolist() == [1.0, 0.25, 0.25] and array[2, 7].tolist() == [0.25, 0.25, 0.0]


def test_the_condition_is_shown_below_x():
    data = runs.small_data(condition_rows=3)
    whole = runs.small_data()
    images = plots.shown(data.test.x, data.test.condition, data)
    assert torch.equal(images, whole.test.x.reshape(-1, 1, 8, 8))
    assert plots.shown(data.test.x, None, data).shape == (40, 1, 5, 8)


def test_reconstructions_are_below_their_data():
    data = runs.small_data()
    pair = runs.small_pair("vae", data)
    grid = shown_image(plots.reconstructions(pair, data, num=4))
    mean = pair.reconstruct(data.test.x[:4])
    for i in range(4):
        torch.testing.assert_close(cell(grid, 0, i, 8, 8), data.test.x[i].reshape(8, 8))
        torch.testing.assert_close(cell(grid, 1, i, 8, 8), mean[i].reshape(8, 8), atol=1e-4, rtol=1e-4)


def test_categories_are_sorted_by_use(monkeypatch):
    data = runs.small_data()
    pair = runs.small_pair("cp_vae", data, num_categories=4)
    pair.aggregate_c.copy_(torch.tensor([0.1, 0.2, 0.6, 0.1]))
    drawn = []
    original = pp.Pair.sample
    monkeypatch.setattr(pp.Pair, "sample", lambda self, size, c: drawn.append((size, c)) or original(self, size, c=c))
    figure = plots.categories(pair, data, num_columns=5, max_rows=3)
    assert drawn[:2] == [(5, 2), (5, 1)] and len(drawn) == 3
    texts = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert texts[:2] == ["c=2  60%", "c=1  20%"]
    assert figure.axes[0].get_title() == "samples by category, the 3 most used of 4, with q(c)"
    assert shown_image(figure).shape == (1 + 3 * 9, 1 + 5 * 9)


def test_confusion_counts_the_labels_of_each_category():
    """Numbers by a loop over the data; rows in the order of the labels that the best matching gives them."""
    torch.manual_seed(0)
    data = pp.data.load("digits", limit=100)
    pair = pp.create("cp_vae", x_shape=(64,), z_dim=2, hidden=(8,), num_categories=3)
    with torch.no_grad():  # categories of different use, none empty
        pair.guide.category.logits.input.weight.mul_(20)
    category = pair.encode(data.test.x)["c"].probs.argmax(-1)
    counts = [[0] * 10 for _ in range(3)]
    for c, label in zip(category.tolist(), data.test.label.tolist(), strict=True):
        counts[c][label] += 1
    assert all(map(sum, counts))
    matchings = itertools.permutations(range(10), 3)
    labels = max(matchings, key=lambda labels: sum(counts[c][label] for c, label in enumerate(labels)))
    right = plots.confusion(pair, data).axes[1]
    order = [int(text.get_text().removeprefix("c=")) for text in right.get_yticklabels()]
    matched = [counts[c][label] for c, label in enumerate(labels)]
    assert sorted(order) == [0, 1, 2]
    shown = {
        (round(text.get_position()[1]), round(text.get_position()[0])): int(text.get_text()) for text in right.texts
    }
    assert [[shown[i, j] for j in range(10)] for i in range(3)] == [counts[c] for c in order]
    assert sum(matched) == sum(
        counts[c][label] for c, label in metrics.clustering.matching(torch.tensor(counts)).items()
    )
    assert order == sorted(range(3), key=metrics.clustering.matching(torch.tensor(counts)).get)
    with pytest.raises(ValueError, match="got data digits with 10 labels and a pair with no categories"):
        plots.confusion(pp.create("vae", x_shape=(64,)), data)


def test_density_counts_the_samples_beyond_the_data(monkeypatch):
    """Half of the samples far out: what is drawn of them has half of the data's mass."""
    data = runs.small_data("mixture")
    pair = runs.small_pair("vae", data)
    x = data.test.x
    half = torch.cat([x[: len(x) // 2], torch.full((len(x) - len(x) // 2, 1), 10.0)])
    monkeypatch.setattr(pp.Pair, "sample", lambda self, size, condition: {"x": half})
    axes = plots.density(pair, data).axes[0]
    (outline,) = (patch for patch in axes.patches if len(patch.get_xy()) > 2 and not patch.get_fill())
    across, up = torch.as_tensor(outline.get_xy()).double().T
    assert (across.diff() * up[1:]).sum().abs().item() == pytest.approx(0.5, abs=0.01)
    bars = [patch for patch in axes.patches if patch is not outline]
    assert sum(bar.get_height() * bar.get_width() for bar in bars) == pytest.approx(1)


def test_aggregate_category_bars_are_sorted():
    data = runs.small_data()
    pair = runs.small_pair("cp_vae", data, num_categories=3)
    pair.aggregate_c.copy_(torch.tensor([0.2, 0.7, 0.1]))
    axes = plots.aggregate_category(pair).axes[0]
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([0.7, 0.2, 0.1])
    assert axes.lines[0].get_ydata()[0] == pytest.approx(1 / 3)
    many = runs.small_pair("cp_vae", data, num_categories=30)
    assert plots.aggregate_category(many).axes[0].get_xlabel() == "rank of the category, the most used first"


def test_latent_scatter_shows_posterior_means_over_samples_of_the_prior():
    data = runs.small_data("moons")
    pair = runs.small_pair("vae", data)
    prior, posterior = plots.latent_scatter(pair, data).axes[0].collections
    torch.testing.assert_close(
        torch.tensor(posterior.get_offsets()), pair.encode(data.test.x)["z"].mean, check_dtype=False
    )
    assert torch.equal(torch.tensor(posterior.get_array()), data.test.label)
    assert len(prior.get_offsets()) == 40
    unlabelled = dataclasses.replace(data, test=dataclasses.replace(data.test, label=None))
    assert len(plots.latent_scatter(pair, unlabelled).axes[0].collections) == 2


class GivenPrior(nn.Module):
    """A prior that is a mixture of two Gaussians far apart, of which one has 80% of the mass."""

    def forward(self):
        loc = torch.tensor([[-6.0, 0.0], [6.0, 3.0]])
        return pp.priors.GaussianMixture(torch.tensor([0.8, 0.2]).log(), loc, torch.tensor([[0.5, 1.0], [1.0, 0.5]]))


def regions(axes):
    """Of each grey, outermost first: the prior's mass in it, counted by its samples, and where its outline is."""
    contours = axes.collections[0]
    sample = GivenPrior()().sample((20_000,)).numpy()
    paths = contours.get_paths()
    return [np.array([path.contains_points(sample) for path in paths[i:]]).any(0).mean() for i in range(len(paths))]


def test_prior_density_shows_the_mass_of_the_prior_and_draws_of_the_posterior():
    """Each grey holds its mass within 0.02, some four standard errors of levels and count at 50%."""
    data = runs.small_data("moons")
    pair = runs.small_pair("vae", data)
    pair.model.prior = GivenPrior()
    with torch.random.fork_rng():
        axes = plots.prior_density(pair, data, num=10_000).axes[0]
    assert regions(axes) == pytest.approx(plots.MASSES, abs=0.02)
    grey, points = axes.collections
    inner = grey.get_paths()[-1].vertices
    assert inner[:, 0].max() < -4, "half of the mass, the densest, is in the larger mode alone"
    q = pair.encode(data.test.x)["z"]
    drawn = torch.tensor(points.get_offsets())
    assert ((drawn - q.mean) / q.stddev).abs().max() < 5 and (drawn - q.mean).abs().max() > 1e-3
    assert torch.equal(torch.tensor(points.get_array()), data.test.label)


def test_prior_densities_side_by_side():
    data = runs.small_data("moons")
    pairs = {prior: runs.small_pair("vae", data, prior=prior) for prior in ("standard", "flow")}
    pairs["two levels"] = runs.small_pair("hvae", data, z1_dim=3)
    figure = plots.prior_density(pairs, data)
    assert [axes.get_title() for axes in figure.axes] == list(pairs)
    assert labels(figure) == [("z 1", "z 2"), ("z 1", "z 2"), ("z2 1", "z2 2")]
    unlabelled = dataclasses.replace(data, test=dataclasses.replace(data.test, label=None))
    assert plots.prior_density(pairs["flow"], unlabelled).axes[0].get_legend() is None


def test_prior_density_needs_two_dimensions_and_no_condition():
    moons, conditional = runs.small_data("moons"), runs.small_data("moons", condition_labels=True)
    for pair, data in (
        (runs.small_pair("vae", moons, z_dim=3), moons),
        (runs.small_pair("cvae", conditional), conditional),
    ):
        with pytest.raises(ValueError, match="two dimensions that depend on no condition, .*: use latent_scatter"):
            plots.prior_density(pair, data)


def test_pyplot_is_left_alone(tmp_path):
    import sys

    data = runs.small_data("moons")
    before = "matplotlib.pyplot" in sys.modules and len(sys.modules["matplotlib.pyplot"].get_fignums())
    plots.figures(runs.small_pair("vae", data), data, HISTORY, tmp_path)
    assert ("matplotlib.pyplot" in sys.modules and len(sys.modules["matplotlib.pyplot"].get_fignums())) == before


def test_a_legend_names_the_labels_that_there_are():
    data = pp.data.load("one_to_many", limit=50)
    pair = pp.zoo.create_for("cvae", data, 0, z_dim=2, hidden=(5,))
    (axes,) = pp.plots.latent_scatter(pair, data).axes
    assert len(axes.get_legend().get_texts()) == 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda pair, data: plots.path(pair, torch.zeros(3), torch.zeros(2)),
            r"^start must be one code, of shape \(2,\)",
        ),
        (
            lambda pair, data: plots.path(pair, [0, 0], [[1, 1]]),
            r"^end must be one code, of shape \(2,\), got \(1, 2\)",
        ),
        (
            lambda pair, data: plots.path(pair, [0, 0], [1, 1], 2.5),
            "^num must be a positive integer, got 2.5",
        ),
        (lambda pair, data: plots.pockets({}, data), "^pairs is empty: give one pair"),
        (
            lambda pair, data: plots.pockets(pair, pp.data.load("digits", limit=50)),
            "^pockets draws data and codes of two",
        ),
        (lambda pair, data: plots.leakage_curves({}, [-3.0]), "^rows is empty: give pairs"),
    ],
)
def test_plots_of_pockets_and_paths_refuse_in_one_line(call, message):
    data = pp.data.load("moons", limit=60)
    pair = pp.create("vae", x_shape=(2,), z_dim=2, hidden=(4,), prior="flow", likelihood="gaussian")
    with pytest.raises(ValueError, match=message):
        call(pair, data)
    assert plots.path(pair, [0, 0], [1, 1], 5).shape == (5, 2)
    assert plots.pockets(pair, data).axes
