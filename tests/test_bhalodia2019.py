"""The experiments of Bhalodia et al. 2019: rows that differ in the prior alone, measures, and every figure."""

import dataclasses
import math

import pytest
import torch
from torch.testing import assert_close

import pyro_priors as pp
from pyro_priors import experiments, metrics, objectives, zoo
from pyro_priors.experiments import Trained, bhalodia2019
from pyro_priors.metrics import Estimate

FIGURES = [f"bhalodia2019/fig{i}" for i in (1, 3, 4, 5, 6, 7, 8)]


def test_rows_with_and_without_dp_differ_in_the_prior_alone():
    moons, table = (experiments.find(f"bhalodia2019/{name}") for name in ("moons", "table1"))
    assert len(moons.rows) == 12 * 5 and len(table.rows) == 12 * 3
    for rows in (bhalodia2019.rows.MOONS, bhalodia2019.rows.ROWS):
        for name, row in rows.items():
            if not name.endswith("-dp"):
                dp = rows[f"{name}-dp"]
                assert dp.pair_options == row.pair_options | {"prior": "flow"} and "prior" not in row.pair_options
                assert dataclasses.replace(dp, name=row.name, pair_options=row.pair_options) == row
    assert {one.train.seed for one in moons.select(["moons-info-dp"])} == set(range(5))
    assert len(moons.select(["seed0"])) == 12 and len(table.select(["mnist-*"])) == 12
    for name in FIGURES:
        known = {row.name: row for row in (*moons.rows, *table.rows)}
        assert all(known[row.name] == row for row in experiments.find(name).rows), "trained once"


def test_published_numbers_are_table_1_s():
    fid, low, gap, likelihood = (bhalodia2019.rows.published_numbers(index) for index in range(4))
    assert len(fid) == len(low) == len(gap) == len(likelihood) == 36 == len(bhalodia2019.rows.ROWS.keys() & fid.keys())
    assert fid["mnist-vae"] == 137.4 and low["mnist-beta-tc"] == 200.3 and gap["svhn-vae-dp"] == 13.02
    assert likelihood["celeba-factor-dp"] == 12.2 and gap["celeba-beta-tc-dp"] == 90.3 and low["svhn-factor"] == 108.5


def test_titles():
    titles = {name: bhalodia2019.rows.title_of(row) for name, row in bhalodia2019.rows.MOONS_FIRST.items()}
    assert titles["moons-beta-h"] == "beta-VAE-H" and titles["moons-beta-tc-dp"] == "beta-TC-dpVAE"
    assert len(set(titles.values())) == 12


def test_a_distance_names_its_network():
    found = {"frechet": Estimate(12.34, None, "in features of inception, 10000 images")}
    assert experiments.in_features("frechet")(found) == "12.3 (inception)"
    found["frechet_of_data"] = Estimate(1.5)
    assert experiments.in_features("frechet", 2, of_data=True)(found) == "12.34 (1.50; inception)"
    del found["frechet_of_data"]
    assert experiments.in_features("frechet", 2, of_data=True)(found) == "12.34 (inception)"
    assert experiments.in_features("frechet")({}) == ""


def test_no_distance_is_shown_without_its_network():
    """In no table: neither these, nor what is counted in the same features."""
    of_features = {"frechet", "frechet_low_posterior", "frechet_low_prior", "kernel_distance"}
    of_features |= {"precision", "recall", "density", "coverage"}
    one = Estimate(1.0, None, "distance in features of NETWORK, 5 images")
    estimates = {name: one for key in (*of_features, "diversity") for name in (key, f"{key}_of_data")}
    shown = 0
    for name in experiments.names():
        for column in experiments.find(name).columns:
            try:
                cell = column.cell(estimates)
            except KeyError:  # of others
                continue
            shown += bool(cell)
            assert not cell or "NETWORK" in cell, (name, column.title)
    assert shown >= 10


def test_distance_from_the_half_circles():
    x = torch.tensor([[0.0, 1.0], [1.0, 0.5], [1.0, -0.5], [0.0, 0.7], [2.0, 0.5], [3.0, 0.5]])
    wanted = torch.tensor([0.0, math.hypot(1, 0.5) - 1, 0.0, 0.2, 0.0, 1.0])
    assert_close(bhalodia2019.measures._distance(x), wanted, rtol=0, atol=2e-3)
    noisy = bhalodia2019.measures._distance(pp.data.load("moons").train.x)
    assert (noisy > bhalodia2019.measures.OFF).double().mean() < 0.01


def _untrained(row, data):
    pair = zoo.create_for(row.pair, data, 0, **row.pair_options).eval()
    objective = objectives.OBJECTIVES[row.objective](**row.objective_options)
    return Trained(row, pair, data), objective


def _of_moons(names):
    data = pp.data.load("moons", limit=300)
    return {name: _untrained(bhalodia2019.rows.MOONS_FIRST[name], data)[0] for name in names}


@pytest.mark.parametrize("name", ["moons-vae", "moons-vae-dp"])
def test_measures_of_the_moons(name):
    one = _of_moons([name])[name]
    off, gap = (
        bhalodia2019.measures.off_manifold(one.pair, one.data),
        bhalodia2019.measures.train_gap(one.pair, one.data),
    )
    assert off.keys() == {f"off_{kind}" for kind in ("low_posterior", "prior", "high_posterior", "aggregate")}
    assert all(0 <= estimate.value <= 1 for estimate in off.values())
    assert gap["train_symmetric_kl"].value > 0 and 0 <= gap["train_share_below_1%"].value <= 1
    same = pp.metrics.evaluate(  # what the metrics say of a test part that is the training part
        one.pair, dataclasses.replace(one.data, test=one.data.train), metrics=["prior_gap", "leakage"], progress=False
    )
    same_quantity = {"symmetric_kl": "symmetric_kl", "share_below_1%": "share_below_0.01", "leaked_1%": "leaked_0.01"}
    for ours, theirs in same_quantity.items():
        found, expected = gap[f"train_{ours}"], same[theirs]
        assert abs(found.value - expected.value) <= 4 * math.hypot(found.stderr or 0, expected.stderr or 0) + 1e-3
    told = metrics.information(one.pair, one.data)
    assert 0 < told["information"].value < math.log(len(one.data.train))
    assert 0.4 < metrics.neighbours_label(one.pair, one.data)["neighbours_label"].value <= 1


def test_an_exact_pair_has_no_pockets_and_a_bad_one_has():
    """A decoder that puts every code on the upper half circle, whatever the prior; and one that puts none there."""

    class Decoder(torch.nn.Module):
        def __init__(self, radius):
            super().__init__()
            self.radius = radius

        def forward(self, z):
            angle = torch.special.ndtr(z[..., 0]) * math.pi
            import pyro.distributions as dist

            return dist.Normal(self.radius * torch.stack([angle.cos(), angle.sin()], -1), 0.05).to_event(1)

    data = pp.data.load("moons", limit=200)
    for radius, off in ((1.0, 0.0), (4.0, 1.0)):
        pair = pp.create("vae", x_shape=(2,), z_dim=2, hidden=(4,), decoder=Decoder(radius))
        found = bhalodia2019.measures.off_manifold(pair, data)
        assert found["off_prior"].value == off
        assert found["off_low_posterior"].value == off


def test_low_and_high_posterior_samples_are_told_apart():
    """Codes of data in the right half plane, a prior in both: a decoder that is on the moons there and off them on the
    left puts nearly all low-posterior samples off, no high-posterior one, and half of the prior's."""

    class Decoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = torch.nn.Parameter(torch.zeros(()))  # which says where the pair is

        def forward(self, z):
            angle = torch.special.ndtr(z[..., 1]) * math.pi
            radius = torch.where(z[..., 0] > 0, 1.0, 4.0)
            import pyro.distributions as dist

            return dist.Normal(radius[..., None] * torch.stack([angle.cos(), angle.sin()], -1), 0.05).to_event(1)

    class Encoder(torch.nn.Module):
        def forward(self, x):
            import pyro.distributions as dist

            return dist.Normal(torch.stack([torch.full_like(x[:, 0], 1.5), 0 * x[:, 1]], -1), 0.3).to_event(1)

    data = pp.data.load("moons", limit=200)
    given = {"decoder": Decoder(), "encoder": Encoder()}
    pair = pp.create("vae", x_shape=(2,), z_dim=2, hidden=(4,), **given)
    found = bhalodia2019.measures.off_manifold(pair, data)
    assert found["off_low_posterior"].value > 0.95 and found["off_high_posterior"].value == 0.0
    assert found["off_aggregate"].value < 0.01 and 0.45 < found["off_prior"].value < 0.55


def test_paths():
    """Straight in z, or in the base; with the ends where they were asked for."""
    torch.manual_seed(0)
    pair = pp.create("vae", x_shape=(2,), z_dim=2, hidden=(4,), prior="flow").double()
    for parameter in pair.model.prior.parameters():
        torch.nn.init.normal_(parameter, 0, 0.3)
    start, end = torch.randn(2, 2, dtype=torch.float64)
    straight, bent = (pp.plots.path(pair, start, end, 7, in_base) for in_base in (False, True))
    for z in (straight, bent):
        assert_close(z[[0, -1]], torch.stack([start, end]))
    assert_close(straight.diff(dim=0), ((end - start) / 6).expand(6, 2))
    base = pair.model.prior.to_base(bent)
    assert_close(base.diff(dim=0), ((base[-1] - base[0]) / 6).expand(6, 2))
    assert not torch.allclose(straight, bent)
    with pytest.raises(ValueError, match="in_base was asked for, and the prior of this pair is no flow: leave it out"):
        pp.plots.path(pp.create("vae", x_shape=(2,), z_dim=2), start, end, in_base=True)


@pytest.mark.parametrize("name", ["fig1", "fig3", "fig4"])
def test_figures_of_the_moons(name, tmp_path):
    experiment = experiments.find(f"bhalodia2019/{name}")
    trained = _of_moons(["moons-beta-h", "moons-beta-h-dp"] if name != "fig3" else ["moons-vae", "moons-info"])
    torch.manual_seed(0)
    figure = experiment.figure({bhalodia2019.rows.MOONS_FIRST[key].name: one for key, one in trained.items()})
    figure.savefig(tmp_path / "figure.png")
    titles = {axes.get_title() for axes in figure.axes} | {
        line.get_label() for axes in figure.axes for line in axes.lines
    }
    assert any("beta-dpVAE-H" in title for title in titles) or name == "fig3"


@pytest.mark.parametrize("name", ["fig5", "fig6", "fig7", "fig8"])
def test_figures_of_images(name, tmp_path):
    """Of untrained pairs and noise."""
    experiment = experiments.find(f"bhalodia2019/{name}")
    trained = {}
    for row in experiment.rows[-2:]:
        shape = (1, 28, 28) if row.data == "mnist" else (3, 64, 64)
        x = torch.rand(30, *shape)
        trained[row.name] = _untrained(row, pp.data.from_arrays(x, x, x, name=row.data, likelihood="gaussian"))[0]
    torch.manual_seed(0)
    pictures = {key: experiment.pictures(one) for key, one in trained.items()}
    experiment.figure(pictures).savefig(tmp_path / "figure.png")


@pytest.mark.parametrize("name", bhalodia2019.rows.ROWS)
def test_rows_of_images_can_be_trained(name):
    """Pair, objective and one finite loss of each row, on noise of its size."""
    row = bhalodia2019.rows.ROWS[name]
    x = torch.rand(6, *{"mnist": (1, 28, 28), "svhn": (3, 32, 32), "celeba": (3, 64, 64)}[row.data])
    one, objective = _untrained(row, pp.data.from_arrays(x, x, x, likelihood="gaussian"))
    objective.begin(6, 0)
    assert objective(one.pair.model, one.pair.guide)(x).isfinite()
