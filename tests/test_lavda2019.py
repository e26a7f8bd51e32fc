"""Lavda et al. 2019: rows that are pairs of the zoo, what is measured of the toy, and every figure."""

import pytest
import torch

import pyro_priors as pp
import runs
from pyro_priors import experiments, zoo
from pyro_priors.experiments import Trained, lavda2019


def test_the_experiments_of_lavda2019():
    names = [name for name in experiments.names() if name.startswith("lavda2019/")]
    others = {"categories", "clustering", "samples", "schedule", "table1"}
    assert {name.split("/")[1] for name in names} == {*(f"fig{i}" for i in range(3, 10)), *others}
    rows = {row.name: row for name in names for row in experiments.find(name).rows}
    assert rows["mnist-vp-150-seed0"].pair_options == {"prior": "vamp", "num_components": 150}
    cp1 = rows["mnist-cp-1-seed0"]
    assert cp1.pair_options == {"prior": "gaussian"} and cp1.pair == "vae"
    assert rows["mnist-vae-600"].train.max_epochs == 600 and rows["mnist-vae-seed2"].train.seed == 2
    for name in names:
        for one in experiments.find(name).rows:
            assert one == rows[one.name], "rows of one name are one row: they share a run folder"


def images(shape=(1, 28, 28)):
    """A data set of the size of MNIST's images, without the images."""
    x = (torch.rand(30, *shape) < 0.5).float()
    return pp.data.from_arrays(
        x,
        x[:10],
        x[:10],
        label_train=torch.arange(30) % 3,
        label_valid=torch.arange(10) % 3,
        label_test=torch.arange(10) % 3,
        name="images",
    )


def test_every_row_is_a_pair_of_the_zoo():
    toy = runs.small_data("mixture")
    for name in (name for name in experiments.names() if name.startswith("lavda2019/")):
        for one in experiments.find(name).rows:
            assert zoo.config_of(one.pair, one.pair_options), one.name  # which refuses options that there are not
            if one.pair_options.get("networks") == "conv":  # in test_bhalodia2019, at the sizes of their data
                continue
            data = toy if one.data == "mixture" else images((784,))
            if runs.is_conditional(one.pair):
                data = runs.small_data("one_to_many")
            if one.pair_options.get("num_components", 0) <= 16:
                assert zoo.create_for(one.pair, data, 0, **one.pair_options).recipe["name"] == one.pair


@pytest.mark.parametrize("left_out", [False, True], ids=["all rows", "first row"])
@pytest.mark.parametrize("name", [f"lavda2019/fig{i}" for i in range(3, 10)])
def test_every_figure_is_drawn(name, left_out, tmp_path, monkeypatch):
    monkeypatch.setattr(lavda2019.measures, "NUM_DRAWN", 500)
    found = experiments.find(name)
    trained = {}
    for one in found.rows[: 1 if left_out else None]:
        data = runs.small_data("mixture" if one.data == "mixture" else "digits")
        kept = {key: value for key, value in one.pair_options.items() if key in ("prior", "num_categories")}
        pair = runs.small_pair(
            one.pair, data, **kept | ({"num_components": 5} if "num_components" in one.pair_options else {})
        )
        if pair.num_categories:
            pair.set_aggregate(data.train.x)
        trained[one.name] = Trained(one, pair.eval(), data)
    drawn_of = {key: found.pictures(one) for key, one in trained.items()} if found.pictures else trained
    figure = found.figure(drawn_of)
    figure.savefig(tmp_path / "figure.png", dpi=50)
    shown = [axes for axes in figure.axes if axes.images or axes.patches]
    count = {"fig3": len(trained), "fig4": 2, "fig6": len(trained), "fig8": len(trained), "fig9": len(trained)}
    assert len(shown) == count.get(name.split("/")[1], 1)


def test_two_modes_of_the_ground_truth_and_of_one_gaussian():
    label = torch.arange(100_000) % 2
    truth = torch.tensor([0.1, 1.0])[label] + 0.1 * torch.randn(100_000)
    found = {name: one.value for name, one in lavda2019.measures._modes_of(truth).items()}
    assert found["total_variation"] < 0.015
    # P(|u| > 3) / 2, four standard errors of 100,000 draws
    assert found["between_modes"] == pytest.approx(0.00135, abs=4 * (0.00135 / 100_000) ** 0.5)
    assert found["lower_mode"] == pytest.approx(0.5, abs=4 * 0.5 / 100_000**0.5)
    one_gaussian = truth.mean() + truth.std() * torch.randn(100_000)
    found = {name: one.value for name, one in lavda2019.measures._modes_of(one_gaussian).items()}
    assert found["total_variation"] > 0.3 and found["between_modes"] > 0.2
    recovered = lavda2019.tables._recovered()
    assert (
        recovered(lavda2019.measures._modes_of(truth)) == "yes"
        and recovered(lavda2019.measures._modes_of(one_gaussian)) == "no"
    )
    lower = truth[label == 0]
    assert recovered(lavda2019.measures._modes_of(lower)) == "no"


def test_the_toy_is_measured_by_its_samples(monkeypatch):
    data = runs.small_data("mixture")
    pair = runs.small_pair("cp_vae", data, num_categories=3)
    pair.set_aggregate(data.train.x)
    asked = []
    original = pp.Pair.sample
    monkeypatch.setattr(lavda2019.measures, "NUM_DRAWN", 500)
    monkeypatch.setattr(
        pp.Pair, "sample", lambda self, size, **fixed: asked.append(fixed) or original(self, size, **fixed)
    )
    assert lavda2019.measures.two_modes(pair, data).keys() == {"total_variation", "between_modes", "lower_mode"}
    assert all(name.endswith("_of_prior") for name in lavda2019.measures.two_modes_of_prior(pair, data))
    lavda2019.measures.two_modes(runs.small_pair("vae", data), data)
    assert asked == [{"c": "aggregate"}, {"c": "prior"}, {}]
    assert data.true_log_likelihood == lavda2019.tables.TRUE_LOG_LIKELIHOOD
