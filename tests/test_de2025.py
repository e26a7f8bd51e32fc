"""The experiments of De (2025): rows that are pairs of the zoo, what is measured of them, and their figures."""

import dataclasses
import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch

import pyro_priors as pp
from pyro_priors import experiments, zoo
from pyro_priors.data import Part, Splits
from pyro_priors.experiments import Trained, de2025
from pyro_priors.experiments.table import Result, markdown
from pyro_priors.metrics import Estimate

ATTRIBUTES = ("Bald", "Black_Hair", "Blond_Hair", "Eyeglasses", "Goatee", "Heavy_Makeup", "Male", "Smiling")
ATTRIBUTES += ("Wearing_Hat", "Wearing_Lipstick")


def small(name, size=16):
    """Data of each name's kind, without the data: images of 16x16."""
    torch.manual_seed(0)
    channels = 3 if name == "celeba" else 1
    condition = (torch.rand(30, 10) < 0.5).float() if name == "celeba" else torch.eye(10)[torch.arange(30) % 10]
    known = {"attributes": condition} if name == "celeba" else {"label": condition.argmax(1)}
    part = Part(torch.rand(30, channels, size, size), condition, **known)
    options = {"attribute_names": ATTRIBUTES, "condition_of": "attributes"}
    if name != "celeba":
        options = {"num_labels": 10, "condition_of": "label"}
    return Splits(name, part, part.take(slice(10)), part.take(slice(10)), "gaussian", (channels, size, size), **options)


def trained(row):
    data = small(row.data)
    options = row.pair_options | {"channels": (4, 8), "z_dim": 3}
    return Trained(row, zoo.create_for(row.pair, data, 0, **options).eval(), data)


def test_the_rows_of_the_paper_and_more():
    names = [name for name in experiments.names() if name.startswith("de2025/")]
    assert names == ["de2025/table1", "de2025/flows", "de2025/longer", "de2025/fig3", "de2025/fig5"]
    rows = {row.name: row for name in names for row in experiments.find(name).rows}
    for name in names:
        for one in experiments.find(name).rows:
            assert one == rows[one.name], "rows of one name are one row: they share a run folder"
            assert zoo.config_of(one.pair, one.pair_options), one.name  # which refuses options that there are not
            pp.data.DataConfig(**one.data_options)
    table = experiments.find("de2025/table1")
    assert len(table.select(["mnist-sigma-nf"])) == 3 and len(table.select(["seed0"])) == 6
    assert [row.name for row in table.select(["celeba-*"])] == list(de2025.rows.PUBLISHED_NLL)
    longer, usual = rows["mnist-sigma-nf-longer-seed0"], rows["mnist-sigma-nf-seed0"]
    assert longer.train == dataclasses.replace(usual.train, max_epochs=2 * usual.train.max_epochs)
    assert longer.pair_options == usual.pair_options and len(experiments.find("de2025/longer").rows) == 4
    assert rows["mnist-gaussian-seed0"].pair_options["scale"] == 1.0
    assert rows["celeba-sigma-nf"].pair_options["condition_network"] == "conv"


@pytest.mark.parametrize("name", ["mnist-gaussian-seed0", "fashion_mnist-sigma-seed1", "celeba-sigma-nf"])
def test_rows_are_pairs_of_images_of_their_size(name):
    """Four convolutions each way give images of the size that goes in, that of the paper's faces too."""
    (row,) = experiments.find("de2025/table1").select([name])
    for size in (64, 86) if row.data == "celeba" else (28,):
        data = small(row.data, size)
        pair = zoo.create_for(row.pair, data, 0, **row.pair_options)
        x, condition = data.test.x[:2], data.test.condition[:2]
        assert pair.reconstruct(x, condition).shape == x.shape
        assert len(pair.guide.encoder.trunk.convolutions) == len(pair.model.decoder.layers) == 4


def test_rows_of_one_seed_start_at_the_same_networks():
    """So that a difference between methods is one of pairs of runs."""
    found = []
    for name in ("sigma", "sigma-nf", "gaussian"):
        (row,) = experiments.find("de2025/table1").select([f"mnist-{name}-seed1"])
        pair = zoo.create_for(row.pair, small(row.data, 28), row.train.seed, **row.pair_options)
        networks = {"encoder": pair.guide.encoder, "decoder": pair.model.decoder}
        found.append({f"{k}.{n}": p for k, network in networks.items() for n, p in network.named_parameters()})
    assert found[0].keys() == found[1].keys() == found[2].keys()
    assert all(torch.equal(value, other[key]) for other in found[1:] for key, value in found[0].items())


def test_what_the_published_likelihood_may_be():
    """The three numbers of the paper, from the scales that REFERENCE gives for them: s = 0.200, 0.183, 0.179."""
    size = 3 * 86 * 86
    assert size / 2 * math.log(2 * math.pi) > 20_389 > max(de2025.rows.PUBLISHED_NLL.values())
    for published, scale in zip(de2025.rows.PUBLISHED_NLL.values(), (0.2, 0.183, 0.179), strict=True):
        assert size * (math.log(scale) + 0.5 * math.log(2 * math.pi) + 0.5) == pytest.approx(published, abs=70)


def test_the_reading_is_the_density_at_the_scale_that_fits():
    (row,) = experiments.find("de2025/table1").select(["mnist-sigma-nf-seed0"])
    one = trained(row)
    torch.manual_seed(0)
    found = de2025.measures.reconstruction(one.pair, one.data)
    x, condition, pair = one.data.test.x, one.data.test.condition, one.pair
    torch.manual_seed(0)
    q = pair.guide.encoder(x, condition)
    mean = pair.model.decoder(q.mean + q.stddev * torch.randn_like(q.mean), condition=condition).mean
    mse, size = (mean - x).square().mean().item(), math.prod(one.data.x_shape)
    assert found["squared_error"].value == pytest.approx(mse, rel=1e-5)
    stderr = (mean - x).square().flatten(1).mean(1).std().item() / math.sqrt(len(x))
    assert found["squared_error"].stderr == pytest.approx(stderr, rel=1e-3)
    errors = torch.full((size,), math.sqrt(mse))
    expected = -torch.distributions.Normal(0.0, math.sqrt(mse)).log_prob(errors).sum().item()
    assert found["nll_at_best_scale"].value == pytest.approx(expected, rel=1e-5)
    assert found["best_scale"].value == pytest.approx(math.sqrt(mse))


def test_cells_show_ours_beside_that_of_data():
    (row,) = experiments.find("de2025/table1").select(["celeba-sigma"])
    estimates = {name: Estimate(value, None, "") for name, value in (("fidelity", 0.6), ("fidelity_of_data", 0.9))}
    text = markdown(experiments.find("de2025/table1"), [Result(row, "", estimates)], quick=False)
    assert "0.600 (0.900)" in text and "-6223" in text and "173.5" in text


class Shows(torch.nn.Module):
    """A decoder whose image has the condition's values in its first row."""

    def __init__(self, channels):
        super().__init__()
        self.channels = channels

    def forward(self, z, condition=None):
        image = torch.zeros(*z.shape[:-1], self.channels, 16, 16)
        image[..., :, 0, :10] = condition[..., None, :]
        return dist.Normal(image, 0.1).to_event(3)


def test_a_row_of_figure_5_is_one_condition_of_those_that_are_named():
    """And the attributes that are not named are those of training data that agree."""
    (row,) = experiments.find("de2025/fig5").select(["celeba-sigma"])
    one = trained(row)
    one.pair.model.decoder = Shows(3)
    num = len(de2025.figures.ASKED)
    shown = de2025.figures.condition_pictures(one)["means"].reshape(num, num, 3, 16, 16)[..., 0, 0, :10]
    known = one.data.train.condition
    for images, text in zip(shown, de2025.figures.ASKED, strict=True):
        for item in text.split(","):
            name, value = item.split("=")
            assert (images[:, ATTRIBUTES.index(name)] == max(int(value), 0)).all(), text
    assert any((row == known).all(1).any() for row in shown.reshape(-1, 10))
    (row,) = experiments.find("de2025/fig5").select(["mnist-sigma-seed0"])
    one = trained(row)
    one.pair.model.decoder = Shows(1)
    labels = de2025.figures.condition_pictures(one)["means"].reshape(10, 10, -1, 16, 16)[:, :, 0, 0, :10]
    assert torch.equal(labels, torch.eye(10)[:, None].expand(10, 10, 10))


def test_figures_have_each_method_under_its_title():
    """Columns are the methods of table 1 in its order, rows the data; what is not there leaves its place empty."""
    found = experiments.find("de2025/fig5")
    level = {row.name: (i + 1) / 10 for i, row in enumerate(found.rows)}
    there = {name: {"means": torch.full((4, 1, 8, 8), value)} for name, value in level.items()}
    figure = found.figure(there)
    panels = [axes for axes in figure.axes if axes.images]
    titles = [axes.get_title() for axes in panels[:3]]
    assert titles == [title for title, *_ in de2025.rows.METHODS.values()]
    seen = [float(np.median(np.asarray(axes.images[0].get_array()))) for axes in panels]
    order = [f"{data}-{method}" for data in ("mnist", "fashion_mnist", "celeba") for method in de2025.rows.METHODS]
    expected = [level.get(name, level.get(f"{name}-seed0")) for name in order]
    assert seen == pytest.approx(expected, abs=0.01)
    del there["mnist-sigma-seed0"]
    axes = found.figure(there).axes[:3]
    seen = [float(np.median(np.asarray(one.images[0].get_array()))) if one.images else None for one in axes]
    assert seen == [pytest.approx(expected[0], abs=0.01), None, pytest.approx(expected[2], abs=0.01)]


@pytest.mark.parametrize("left_out", [False, True], ids=["all rows", "first row"])
@pytest.mark.parametrize("name", ["de2025/fig3", "de2025/fig5"])
def test_every_figure_is_drawn(name, left_out, tmp_path):
    found = experiments.find(name)
    there = {row.name: found.pictures(trained(row)) for row in found.rows[: 1 if left_out else None]}
    figure = found.figure(there)
    figure.savefig(tmp_path / "figure.png", dpi=50)
    columns = 3 if name == "de2025/fig5" else 4
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == (columns - 2 if left_out else 3 * columns)
