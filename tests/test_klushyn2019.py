"""Klushyn et al. 2019: what is measured, on ground truths and by hand, and every figure at a small size."""

import dataclasses
import math

import pyro.distributions as dist
import pytest
import torch
from torch.testing import assert_close

import pyro_priors as pp
import runs
from pairs import BATCH, MIXTURES_GIVEN_A_CONDITION, batch, create, randomise
from pyro_priors import experiments, metrics, plots
from pyro_priors.data.poses import pose_of
from pyro_priors.data.toys import ONE_TO_MANY_HEIGHTS
from pyro_priors.experiments import Row, Trained, klushyn2019
from pyro_priors.metrics import given

FIGURES = [f"klushyn2019/fig{i}" for i in range(1, 8)]


def test_the_experiments():
    names = [name for name in experiments.names() if name.startswith("klushyn2019/")]
    assert names == [*FIGURES, "klushyn2019/table"]
    rows = {row.name: row for name in names for row in experiments.find(name).rows}
    assert {row.name for row in experiments.find("klushyn2019/table").rows} == set(rows)
    for name in names:
        for one in experiments.find(name).rows:
            assert one == rows[one.name], "rows of one name are one row: they share a run folder"
    options = {"z_dim": 32, "num_components": 32}
    assert rows["mnist-cdv"].pair_options == options and rows["fashion-cdv"].data_options == {"condition_rows": 10}
    assert rows["toy-cdv-seed2"].train.warmup_epochs == 1  # the paper's
    assert rows["toy-cdv-slow-seed2"].train == dataclasses.replace(rows["toy-cdv-seed2"].train, warmup_epochs=150)
    assert rows["grasp-cmog-seed2"].pair == "cmog_cvae" and rows["grasp-cmog-seed2"].pair_options["z_dim"] == 16
    of = {row.of or row.name for row in rows.values()}
    assert {f"{data}-{method}" for data in ("toy", "sine", "grasp") for method in klushyn2019.rows.METHODS} < of
    for name in names:
        published = {key for column in experiments.find(name).columns for key in column.published}
        assert published <= of


# samples given a condition


@pytest.mark.parametrize("name", ["cvae", *MIXTURES_GIVEN_A_CONDITION])
def test_samples_given_a_condition(name, monkeypatch):
    """Those of ``Pair.sample``, their means and scales within five standard errors of 4,000 draws, the prior once."""
    pair = randomise(create(name, likelihood="gaussian", scale=0.5))
    condition, calls = batch(name)[1], []
    monkeypatch.setattr(given, "ROWS_AT_ONCE", 3 * 4000)
    handle = pair.model.prior.register_forward_hook(lambda *_: calls.append(len(_[1][0])))
    found = metrics.samples_given(pair, condition, 4000)
    handle.remove()
    assert calls == [3, 2] and pair.training
    shapes = {site: tuple(value.shape) for site, value in found.items()}
    assert shapes == {"z": (BATCH, 4000, 2), "x": (BATCH, 4000, 6), "x_mean": (BATCH, 4000, 6)}
    for i in range(BATCH):
        each = pair.sample(4000, condition[i])
        for site, value in found.items():
            spread = each[site].std(0) + 1e-6
            assert ((value[i].mean(0) - each[site].mean(0)).abs() < 5 * spread * math.sqrt(2 / 4000)).all()
            assert_close(value[i].std(0), each[site].std(0), rtol=0.15, atol=1e-4)
    again = pair.sample(4000, condition[1], z=found["z"][1])
    assert_close(again["x_mean"], found["x_mean"][1])


# toys


@pytest.mark.parametrize("name", ["four_gaussians", "one_to_many", "inverse_sine"])
def test_the_true_log_density_is_that_of_the_data(name):
    """The mean over the 2,000 test data is the expectation within four standard errors."""
    data = pp.data.load(name)
    found = klushyn2019.measures.true_log_density(None, data)["true_log_density"]
    assert abs(found.value - data.true_log_likelihood) < 4 * found.stderr


def drawing(monkeypatch, **drawn):
    """From now on samples of any pair, ``x`` or ``x_mean``, are these, shape ``(num_conditions, num) + x_shape``."""
    monkeypatch.setattr(klushyn2019.measures, "samples_given", lambda pair, condition, num: drawn)


def test_off_the_targets(monkeypatch):
    """The truth: next to nothing off, all ten found; one target of each quarter; one wide Gaussian, whose middle is
    near enough to one target of four, and of which the share between two targets is known."""
    data = pp.data.load("one_to_many")
    targets, quarter = klushyn2019.measures._targets(data.test.condition)
    assert (
        targets[quarter == 1][0, :2].tolist() == pytest.approx([-0.3, 0.5])
        and targets[quarter == 1][0, 2:].isinf().all()
    )
    number = torch.tensor([3, 2, 4, 1])[quarter]
    which = (torch.rand(2000, 10) * number[:, None]).long()
    true = targets.gather(1, which)[..., None] + 0.03 * torch.randn(2000, 10, 1)
    one = targets[:, :1, None] + 0.03 * torch.randn(2000, 10, 1)
    gaussian = dist.Normal(0.0, 0.6).sample((2000, 10, 1))
    expected = {"true": (true, 0.0, 10), "one": (one, 0.0, 4), "gaussian": (gaussian, 0.5, 1)}
    for x, off, modes in expected.values():
        drawing(monkeypatch, x=x)
        found = klushyn2019.measures.off_the_targets(None, data)
        assert found["modes_found"].value == modes and found["modes_found"].unit == "of 10"
        if off:
            assert found["off_modes"].value > off
        else:
            assert found["off_modes"].value < 0.0006  # ten times what it should be
    cdf, between = dist.Normal(0.0, 0.6).cdf, []
    for heights in ONE_TO_MANY_HEIGHTS:
        inner = torch.tensor(heights).sort().values
        between.append((cdf(inner[1:] - 0.12) - cdf(inner[:-1] + 0.12)).sum())
    share = (torch.stack(between) * quarter.bincount() / 2000).sum().item()
    assert found["between_modes"].value == pytest.approx(share, abs=4 * (0.25 / 20_000) ** 0.5)
    # x, and not its mean, decides
    drawing(monkeypatch, x=one + 10, x_mean=one)
    found = klushyn2019.measures.off_the_targets(None, data)
    assert found["off_modes"].value == 1 and found["between_modes"].value == 0


def test_off_the_curve(monkeypatch):
    """Draws of the truth are possible, those of a Gaussian over all mostly not; one that is 0.01 off is let pass."""
    data = pp.data.load("inverse_sine")
    true = data.test.x[:, None].expand(-1, 10, 1)
    for x, low, high in ((true, 0, 0), (true + 0.01, 0, 0), (dist.Normal(0.5, 0.5).sample(true.shape), 0.4, 0.9)):
        drawing(monkeypatch, x=x)
        assert low <= klushyn2019.measures.off_the_curve(None, data)["off_modes"].value <= high


def test_off_the_gaussians():
    class Drawn:
        def __init__(self, sd):
            self.sd = sd

        def sample(self, num):
            return {"x": 2.0 * torch.randint(2, (num, 2)) - 1 + self.sd * torch.randn(num, 2)}

    found = klushyn2019.measures.off_the_gaussians(Drawn(0.1), None)["off_modes"]
    # P(chi^2 of 2 degrees > 16), four standard errors
    assert found.value == pytest.approx(math.exp(-8), abs=4 * (math.exp(-8) / 20_000) ** 0.5)
    assert klushyn2019.measures.off_the_gaussians(Drawn(0.4), None)["off_modes"].value > 0.5


# images


class Labels:
    """In the place of a classifier: images with more ink in the left half are of class 0, else 1, and sure where the
    halves differ by more than 2 pixels."""

    def __init__(self):
        self.seen = []

    def probabilities(self, images):
        self.seen.append(images)
        halves = images[..., :4].sum((-1, -2, -3)) - images[..., 4:].sum((-1, -2, -3))
        return torch.stack([halves, -halves], -1).softmax(-1)


@pytest.fixture
def completed(monkeypatch, tmp_path):
    """A pair of the digits' upper halves given the lower, and what stands in for a classifier."""
    labels = Labels()
    monkeypatch.setattr(klushyn2019.measures, "trained_classifier", lambda data, folder, **config: labels)
    monkeypatch.setattr(klushyn2019.measures, "CONDITIONS_AT_ONCE", 16)
    data = runs.small_data(condition_rows=4)
    config = pp.TrainConfig(max_epochs=1)
    row = Row("mnist-cdv", "cdv_cvae", "digits", config, config)
    return Trained(row, runs.small_pair("cdv_cvae", data, num_components=5), data, tmp_path), labels


def test_variety_of_classes(completed):
    trained, labels = completed
    torch.manual_seed(0)
    found = klushyn2019.measures.variety_of_classes(trained)
    assert [len(images) for images in labels.seen] == [160, 160, 80]
    images, condition = torch.cat(labels.seen), trained.data.test.condition
    assert images.shape == (400, 1, 8, 8)
    assert torch.equal(images[:, 0, 4:].reshape(40, 10, 32), condition[:, None].expand(-1, 10, -1))
    assert images[:10, 0, :4].std(0).max() > 0, "ten different completions"
    probabilities = labels.probabilities(images).unflatten(0, (40, 10))
    for one in metrics.variety(probabilities, klushyn2019.measures.THRESHOLDS):
        estimate = found[f"variety_{one.threshold}"]
        assert (estimate.value, estimate.stderr) == (one.mean, one.stderr)
        assert found[f"clear_{one.threshold}"].value == one.share
    assert found["variety_0.5"].value >= found["variety_0.99"].value


def test_components_off(completed):
    """Of five components four stand on codes of training data, given any condition, and one is far from all."""
    data = completed[0].data
    pair = runs.small_pair("cmog_cvae", data, num_components=5)
    x, condition = next(pp.data.batches(data.train, 1000, seed=0, epoch=0, binarise=True, shuffle=False))
    codes, affine = metrics.posterior_means(pair, x, condition), pair.model.prior.network.components.input
    with torch.no_grad():
        affine.weight.zero_()
        affine.bias.unflatten(0, (5, 2, 2))[:, 0] = torch.cat([torch.full((1, 2), 100.0), codes[:4]])
    found = klushyn2019.measures.components_off(pair, data)
    assert found["components_off"] == metrics.Estimate(1.0, 0.0, "of 5")
    assert found["components_left"] == metrics.Estimate(1, None, "of 5")


# grasps


def grasp_data(num_images=6, each=3):
    """Images of 64x64, with some grasps each, which follow each other."""
    corners = torch.rand(num_images * each, 1, 2) * 30 + torch.tensor([[0.0, 10], [20, 10], [20, 0], [0, 0]])
    x = pose_of(corners + 5)
    condition = torch.rand(num_images, 1, 64, 64).repeat_interleave(each, 0)
    parts = {f"x_{part}": x for part in ("train", "valid", "test")}
    data = pp.data.from_arrays(**parts, **{f"condition_{part}": condition for part in ("train", "valid", "test")})
    return dataclasses.replace(data, name="cornell")


def test_grasps(monkeypatch, tmp_path):
    """Two known grasps of each image and one of the next: two in three agree, all images have one that does."""

    class Scores:  # 1 at the right, 0.95 below the middle of the left half
        def scores(self, pose, image):
            return torch.where(pose[..., 0] > 0, 1.0, torch.where(pose[..., 1] > 0, 0.95, 0.0))

    data = grasp_data()
    monkeypatch.setattr(klushyn2019.measures, "trained_discriminator", lambda data, folder, **config: Scores())
    x = data.test.x.unflatten(0, (6, 3))
    far = x[:, :1] + torch.tensor([4.0, 0, 0, 0, 0, 0])
    poses = torch.cat([x[:, :2], far], 1)
    drawing(monkeypatch, x_mean=poses)
    found = klushyn2019.measures.grasps_by_metric(Trained(None, runs.small_pair("cvae", data), data, tmp_path))
    assert found["rectangle"].value == pytest.approx(2 / 3) and found["rectangle_any"].value == 1
    assert found["certain"].value == pytest.approx((poses[..., 0] > 0).double().mean().item())
    assert found["certain_of_known"].value == pytest.approx((data.test.x[:, 0] > 0).double().mean().item())
    known, others = metrics.pair_scores(Scores(), data.test)
    assert found["certain_of_others"].value == pytest.approx((others == 1).double().mean().item())
    likely = (Scores().scores(poses, None) > 0).double().mean().item()
    assert found["likely"].value == pytest.approx(likely) and likely > found["certain"].value
    assert found["likely_of_known"].value == pytest.approx((known > 0).double().mean().item())
    assert found["likely_of_others"].value == pytest.approx((others > 0).double().mean().item())


def test_images_count_alike():
    """One of two grasps of the first image, and all three of the second."""
    found = klushyn2019.measures._by_image(torch.tensor([True, False, True, True, True]), torch.tensor([0, 0, 1, 1, 1]))
    assert found.tolist() == [0.5, 1.0]


# figures


@pytest.mark.parametrize("left_out", [False, True], ids=["all rows", "first row"])
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn(name, left_out, tmp_path, monkeypatch):
    monkeypatch.setattr(klushyn2019.measures, "trained_classifier", lambda data, folder, **config: Labels())
    found = experiments.find(name)
    sources = {"cornell": grasp_data(), "four_gaussians": runs.small_data("four_gaussians")}
    sources["one_to_many"] = runs.small_data("one_to_many")
    trained = {}
    for one in found.rows[: 1 if left_out else None]:
        data = sources.get(one.data) or runs.small_data(condition_rows=4)
        kept = {"num_components": 5} if "num_components" in one.pair_options else {}
        kept |= {"prior": one.pair_options["prior"]} if "prior" in one.pair_options else {}
        trained[one.name] = Trained(one, runs.small_pair(one.pair, data, **kept).eval(), data, tmp_path)
    figure = found.figure(trained)
    figure.savefig(tmp_path / "figure.png", dpi=50)
    methods = len({one.pair for one in found.rows[: 1 if left_out else None]})
    count = {"fig1": 3, "fig2": methods + 1, "fig3": 9, "fig4": 1 if left_out else 8, "fig5": 2, "fig6": methods}
    count["fig7"] = 6 * (methods + 1)
    assert len(figure.axes) == count[name.split("/")[1]]
    assert all(axes.has_data() for axes in figure.axes[: 1 if name.endswith("fig5") and left_out else None])


def test_toys_are_drawn_at_the_schedule_of_the_better_validation_bound(tmp_path):
    """The slow CMoG has the better mean, though not the better first seed; of the slow CVAE nothing is known."""
    rows = {row.name: row for row in experiments.find("klushyn2019/fig2").rows}
    data, trained = runs.small_data("one_to_many"), {}
    for name, bound in (
        ("toy-cvae-seed0", -2.0),
        ("toy-cmog-seed0", 1.0),
        ("toy-cmog-seed1", -1.0),
        ("toy-cvae-slow-seed0", None),
        ("toy-cmog-slow-seed0", 0.5),
        ("toy-cmog-slow-seed1", 0.0),
    ):
        pair = runs.small_pair(rows[name].pair, data, **({"num_components": 5} if "cmog" in name else {}))
        history = [{"valid_bound": bound and bound - 1}, {"valid_bound": bound}, {}]
        trained[name] = Trained(rows[name], pair.eval(), data, tmp_path, history)
    found = klushyn2019.figures._best_schedules(trained)
    assert found == {"CVAE": trained["toy-cvae-seed0"], "CMoG-CVAE, slow": trained["toy-cmog-slow-seed0"]}
    axes = experiments.find("klushyn2019/fig2").figure(trained).axes
    assert [one.get_title() for one in axes] == ["data", "CVAE", "CMoG-CVAE, slow"]


def test_completions_are_beside_their_images():
    """First column the image, then means of p(x|z); below all the same condition; the line between, on the right."""
    data = runs.small_data(condition_rows=4)
    pair = runs.small_pair("cmog_cvae", data, num_components=3)
    axes = plots.completions([(data, {"one": pair, "other": pair})], num_rows=3, num_columns=2).axes
    assert [panel.get_title() for panel in axes] == ["one", "other"]
    grid = torch.tensor(axes[0].images[0].get_array())[..., 0]
    whole = runs.small_data().test.x.reshape(-1, 8, 8)
    for row in range(3):
        for column in range(3):
            image = grid[1 + 9 * row : 9 + 9 * row, 1 + 9 * column : 9 + 9 * column]
            assert torch.equal(image[4:], whole[row, 4:])
            assert torch.equal(image[:4], whole[row, :4]) == (column == 0)
    (line, *_) = axes[0].lines
    assert list(line.get_ydata()) == [4.5, 4.5] and list(line.get_xdata()) == [9.5, 26.5]
    with pytest.raises(ValueError, match="completions draws images that a condition completes, digits has none"):
        plots.completions([(runs.small_data(), {"one": pair})])


def test_magnification_needs_two_dimensions():
    moons = runs.small_data("moons")
    digits = runs.small_data()
    for pair, data in ((runs.small_pair("vae", moons, z_dim=3), moons), (runs.small_pair("vae", digits), digits)):
        with pytest.raises(ValueError, match="magnification draws codes and data of two dimensions"):
            plots.magnification(pair, data)


def test_grasps_are_drawn_where_they_are():
    """A pose in the middle, opening half as wide as the image's side, from pixel 16 to pixel 48 of 64."""
    pose = torch.tensor([[0.0, 0.0, 1.0, 0.0, 0.0, 1.0]])
    axes = plots.grasps({"known": [pose], "none": [pose[:0]]}, torch.rand(1, 1, 64, 64)).axes
    edges = [(list(line.get_xdata()), list(line.get_ydata()), line.get_color()) for line in axes[0].lines]
    assert edges[0] == ([15.5, 47.5], [23.5, 23.5], "red") and edges[1] == ([47.5, 47.5], [23.5, 39.5], "black")
    assert len(edges) == 4 and not axes[1].lines and axes[0].get_ylabel() == "known"
