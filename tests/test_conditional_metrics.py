"""Metrics of conditional generation, by hand and by closed forms."""

import json
import math

import pytest
import torch
from torch.testing import assert_close

import pyro_priors as pp
from pairs import BATCH, MIXTURES_GIVEN_A_CONDITION, batch, create, randomise
from pyro_priors import metrics
from pyro_priors.data.poses import corners_of, drawn_pose, pose_from
from pyro_priors.metrics import components, grasps, magnification

# magnification factor


def test_magnification_of_a_linear_map(float64):
    weight, z = torch.randn(5, 2), torch.randn(3, 4, 2)
    expected = 0.5 * torch.logdet(weight.T @ weight)
    assert_close(metrics.log_magnification(lambda z: z @ weight.T, z), expected.expand(3, 4))


def test_magnification_of_polar_coordinates_is_the_radius(float64):
    def plane(z):
        return z[:, :1] * torch.stack([z[:, 1].cos(), z[:, 1].sin()], -1)

    z = torch.rand(7, 2) + 0.1
    assert_close(metrics.log_magnification(plane, z), z[:, 0].log())
    lost = metrics.log_magnification(lambda z: z[:, :1].expand(-1, 3), z)
    assert (lost == -math.inf).all()


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "continuous_bernoulli"])
def test_magnification_of_a_decoder(float64, likelihood, monkeypatch):
    """sqrt(det J'J) of each code with autograd's Jacobian, whatever is computed at once."""
    decoder = randomise(create("vae", likelihood=likelihood)).model.decoder
    z = torch.randn(9, 2)
    jacobians = [torch.autograd.functional.jacobian(lambda z: decoder(z).mean, row) for row in z]
    expected = torch.stack([0.5 * torch.logdet(j.T @ j) for j in jacobians])
    monkeypatch.setattr(magnification, "AT_ONCE", 4)
    assert_close(metrics.log_magnification(lambda z: decoder(z).mean, z), expected)


def test_magnification_needs_more_data_than_codes():
    with pytest.raises(ValueError, match="z has 2 dimensions and x only 1: .* take a pair with a smaller z_dim"):
        metrics.log_magnification(lambda z: z[:, :1], torch.randn(3, 2))


# variety


def test_variety_by_hand():
    probabilities = torch.tensor(
        [
            [[0.96, 0.02, 0.02], [0.97, 0.02, 0.01], [0.1, 0.9, 0.0], [0.3, 0.3, 0.4]],
            [[0.0, 0.05, 0.95], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.2, 0.2, 0.6]],
        ]
    )
    always, some, sure, certain = metrics.variety(probabilities, [0.0, 0.5, 0.95, 0.99])
    assert always.classes.tolist() == [3, 3] and always.share == 1
    assert some.classes.tolist() == [2, 3] and some.share == 7 / 8
    assert sure.classes.tolist() == [1, 3] and sure.share == 5 / 8
    assert certain.classes.tolist() == [0, 2] and certain.share == 2 / 8
    assert (sure.threshold, sure.mean) == (0.95, 2.0)
    assert sure.stderr == pytest.approx(math.sqrt(2) / math.sqrt(2))


# components of the prior


def test_components_by_hand():
    """Codes on a line, 0.1 apart; of three components one is on it, one never, one given one condition in four."""
    codes = torch.stack([torch.linspace(0, 10, 101), torch.zeros(101)], -1)
    held_out = torch.stack([torch.linspace(0.05, 9.95, 100), torch.zeros(100)], -1)  # 0.05 from the nearest
    locs = torch.tensor([[5.0, 0.0], [2.02, 3.0], [4.0, 0.2]]).repeat(4, 1, 1)
    locs[1, 2, 1] = 0.01
    found = metrics.Components.measure(locs, codes, held_out, num_radii=21)
    assert found.limit == pytest.approx(0.05, rel=1e-3)
    assert_close(found.nearest[0], torch.tensor([0.0, math.hypot(3, 0.02), 0.2]))
    assert found.off.tolist() == [[False, True, True], [False, True, False], *[[False, True, True]] * 2]
    assert found.num_off == 1.75 and found.num_left == 2 and found.stderr == pytest.approx(0.25)
    distances = torch.cdist(locs, codes)  # (conditions, K, codes)
    for i, radius in enumerate(found.radii):
        assert_close(found.counts[:, i], (distances <= radius).sum(-1).float().mean(0))
    assert found.counts[0, -1] == 101 and found.counts[0, 0] == 1


def test_components_are_measured_where_the_codes_are():
    """In the codes' precision, whatever the default is; on their device by the same two lines."""
    locs, codes = torch.randn(3, 4, 2, dtype=torch.float64), torch.randn(50, 2, dtype=torch.float64)
    found = metrics.Components.measure(locs, codes, codes[:10] + 0.1)
    assert {value.dtype for value in (found.nearest, found.held_out, found.counts, found.radii)} == {torch.float64}


@pytest.mark.parametrize("name", ["cvae", *MIXTURES_GIVEN_A_CONDITION])
def test_components_of_each_pair(float64, name, monkeypatch):
    pair = randomise(create(name))
    x, condition = batch(name)
    monkeypatch.setattr(components, "AT_ONCE", 2)
    mixture, z = metrics.prior_components(pair, condition), torch.randn(BATCH, 2)
    assert mixture.loc.shape == (BATCH, 1 if name == "cvae" else 9, 2)
    assert_close(mixture.log_prob(z), pair.model.prior(condition).log_prob(z))
    assert_close(metrics.posterior_means(pair, x, condition), pair.encode(x, condition)["z"].mean)


# rectangles


def pose(x=0.0, y=0.0, opening=1.0, jaw=1.0, degrees=0.0):
    """A pose in an image of side 2, lengths in its units."""
    numbers = (torch.tensor(value, dtype=torch.get_default_dtype()) for value in ([x + 1, y + 1], [opening, jaw]))
    return pose_from(*numbers, torch.tensor(math.radians(degrees)), 2)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (pose(), 1),
        (pose(degrees=90), 1),
        (pose(x=0.5), 1 / 3),
        (pose(x=0.5, y=0.5), 0.25 / 1.75),
        (pose(opening=0.5), 1 / 2),
        (pose(opening=0.5, jaw=0.5, degrees=45), 0.25),
        (pose(degrees=45), 2 * (math.sqrt(2) - 1) / (2 - 2 * (math.sqrt(2) - 1))),
        (pose(opening=2.0, jaw=0.5), 0.5 / 1.5),
        (pose(x=1.0), 0),
        (pose(x=1.5, degrees=30), 0),
        (pose(jaw=0.0), 0),
        (pose(opening=0.0, jaw=0.0), 0),
    ],
    ids=["same", "quarter turn", "half", "corner", "inside", "turned inside", "octagon", "cross", "touching", "apart"]
    + ["line", "point"],
)
def test_overlap_of_a_unit_square(other, expected):
    a, b = corners_of(pose(), 2), corners_of(other, 2)
    assert grasps.jaccard(a, b).item() == pytest.approx(expected, abs=1e-6)
    assert grasps.jaccard(b, a.flip(0)).item() == pytest.approx(expected, abs=1e-6), "the order around does not matter"


def test_a_drawn_pose_is_the_same_rectangle(float64):
    """Of any six numbers; sine and cosine are those of one angle, lengths those of no less than a point, and a known
    pose stays as it is."""
    poses = 2 * torch.randn(200, 6)
    drawn = drawn_pose(poses)
    assert_close(corners_of(drawn), corners_of(poses))
    assert_close(drawn[:, 4:].norm(dim=-1), torch.ones(200))
    assert (drawn[:, 2:4] >= -1).all() and (poses[:, 2:4] < -1).any()
    assert_close(drawn_pose(drawn), drawn)


def test_overlap_of_turned_rectangles_with_common_edges(float64):
    """Corners on the edges of the other but for rounding: moved along its own axis by half, and half as open."""
    for degrees, (opening, jaw) in zip(360 * torch.rand(500), torch.rand(500, 2) + 0.2, strict=True):
        turn = degrees.deg2rad()
        whole = corners_of(pose(0, 0, opening, jaw, degrees))
        moved = corners_of(pose(opening / 2 * turn.cos(), -opening / 2 * turn.sin(), opening, jaw, degrees))
        narrow = corners_of(pose(0, 0, opening / 2, jaw, degrees))
        assert grasps.jaccard(whole, moved).item() == pytest.approx(1 / 3, abs=1e-6)
        assert grasps.jaccard(whole, narrow).item() == pytest.approx(1 / 2, abs=1e-6)


def test_overlap_of_any_rectangles(float64):
    """Against the share of points of a fine grid in both over those in either, whose error is some edges' cells."""
    side = torch.linspace(-2, 2, 401)
    grid = torch.cartesian_prod(side, side)

    def rectangles():
        places, sizes, degrees = torch.rand(40, 2) - 0.5, torch.rand(40, 2) + 0.3, 180 * torch.rand(40)
        poses = [pose(*place, *size, turn) for place, size, turn in zip(places, sizes, degrees, strict=True)]
        return corners_of(torch.stack(poses), 2) - 1

    a, b = rectangles(), rectangles()
    in_a, in_b = (grasps._inside(grid, corners) for corners in (a, b))
    expected = (in_a & in_b).sum(-1) / (in_a | in_b).sum(-1)
    assert_close(grasps.jaccard(a, b), expected.double(), rtol=0, atol=0.02)


def test_agreement():
    """Overlap above a quarter, angles of the opening less than 30 degrees apart, half turns the same."""
    square = pose()
    assert grasps.agree(square, pose(degrees=29)) and not grasps.agree(square, pose(degrees=31))
    assert grasps.agree(square, pose(degrees=-29)) and grasps.agree(square, pose(degrees=171))
    assert not grasps.agree(square, pose(degrees=90))
    assert grasps.agree(square, pose(x=0.59)) and not grasps.agree(square, pose(x=0.61))  # 0.41 / 1.59 = 0.258


def test_rectangle_metric_by_hand():
    truth = torch.stack([pose(), pose(x=2.0), pose(degrees=45)])
    image = torch.tensor([0, 0, 1])
    generated = torch.stack(
        [torch.stack([pose(x=2.1), pose(degrees=45)]), torch.stack([pose(x=2.1), pose(degrees=40)])]
    )
    assert grasps.rectangle_metric(generated, truth, image).tolist() == [[True, False], [False, True]]


def test_rectangle_metric_is_where_the_poses_are():
    """On another device than the CPU, of which the meta device is the one that every machine has."""
    generated, truth = (torch.zeros(*shape, 6, device="meta") for shape in ((3, 10), (7,)))
    found = grasps.rectangle_metric(generated, truth, torch.zeros(7, dtype=torch.long, device="meta"))
    assert found.shape == (3, 10) and found.device.type == "meta"


def test_images_of_a_part():
    condition = torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.0, 2.0], [1.0, 2.0]])
    images, image = grasps.images_of(pp.data.Part(torch.zeros(4, 6), condition))
    assert images.tolist() == [[1, 2], [0, 2], [1, 2]] and image.tolist() == [0, 0, 1, 2]


# the discriminator


def grasp_data(sizes=(2000, 400, 1000)):
    """Bright images with wide grasps, dark ones with narrow ones, in equal numbers, all else noise: the ratio of
    densities is 2 for what belongs together, and 0 for the rest."""
    arrays = {}
    for part, size in zip(("train", "valid", "test"), sizes, strict=True):
        kind = (torch.arange(size) % 2).float()
        x = 0.3 * torch.randn(size, 6)
        x[:, 2] += 2 * kind - 1
        arrays[f"x_{part}"] = x
        arrays[f"condition_{part}"] = 0.2 + 0.5 * kind[:, None, None, None] + 0.1 * torch.rand(size, 1, 16, 16)
    return pp.data.from_arrays(**arrays)


def test_the_discriminator_gives_the_ratio_of_densities(tmp_path, monkeypatch):
    """2 / (2 + 1) where image and pose belong together and 0 elsewhere; kept, and read again."""
    torch.manual_seed(0)
    data = grasp_data()
    network = metrics.trained_discriminator(data, tmp_path, max_epochs=8, progress=False)
    true = network.scores(data.test.x, data.test.condition)
    other = network.scores(data.test.x.roll(1, 0), data.test.condition)
    assert true.shape == (1000,) and not network.training
    assert true.mean().item() == pytest.approx(2 / 3, abs=0.04)
    assert other.mean().item() < 0.04
    several = network.scores(torch.stack([data.test.x, data.test.x.roll(1, 0)], 1), data.test.condition)
    assert_close(several, torch.stack([true, other], 1))
    same = data.test.x * torch.tensor([1.0, 1.0, 1.0, 1.0, 0.3, 0.3])  # sine and cosine of no angle, the same rectangle
    assert_close(network.scores(same, data.test.condition), true)
    record = json.loads((tmp_path / "discriminator.json").read_text())
    pairs, others = metrics.pair_scores(network, data.test)
    assert_close(pairs, true)
    for share, scores in (("pairs", pairs), ("others", others)):
        assert record[f"share_above_99_of_{share}"] == (scores >= grasps.CERTAIN).double().mean()
    # of all pairs a half belong together and a half of the others do: three quarters are told right
    assert record["accuracy"] == pytest.approx(0.75, abs=0.03)
    assert record["share_above_99_of_pairs"] == record["share_above_99_of_others"] == 0
    monkeypatch.setattr(grasps, "train_judge", None)
    again = metrics.trained_discriminator(data, tmp_path, max_epochs=8, progress=False)
    assert_close(again.scores(data.test.x, data.test.condition), true)
    with pytest.raises(ValueError, match="holds a discriminator whose training is"):
        metrics.trained_discriminator(data, tmp_path, max_epochs=9, progress=False)
    with pytest.raises(ValueError, match="data must have poses as x and images as conditions, moons has not: use 'cor"):
        metrics.trained_discriminator(pp.data.load("moons"), tmp_path)


def test_the_discriminator_is_calibrated_on_the_validation_part(tmp_path, monkeypatch):
    """A network whose logits are five times as large gets five times the temperature, so the same scores, and they are
    right where the network's own are not: 2 / (2 + 1) of those that score so belong together."""
    torch.manual_seed(0)
    data = grasp_data()
    train = grasps.train_judge

    def too_sure(network, *others):
        losses = train(network, *others)
        with torch.no_grad():
            for parameter in network.of_both[-1].parameters():
                parameter.mul_(5)
        return losses

    known = metrics.trained_discriminator(data, tmp_path / "known", max_epochs=6, progress=False)
    monkeypatch.setattr(grasps, "train_judge", too_sure)
    network = metrics.trained_discriminator(data, tmp_path / "sure", max_epochs=6, progress=False)
    assert network.temperature.shape == () and network.temperature.item() == pytest.approx(
        5 * known.temperature.item(), rel=1e-3
    )
    scores = network.scores(data.test.x, data.test.condition)
    assert_close(scores, known.scores(data.test.x, data.test.condition), rtol=1e-3, atol=1e-4)
    assert scores.mean().item() == pytest.approx(2 / 3, abs=0.04)
    own = (network.logits(data.test.x, data.test.condition) * network.temperature).sigmoid()
    assert own.mean() > 0.8
    assert_close(network.scores(data.test.x, data.test.condition), scores)


def test_conditions_of_a_part():
    with pytest.raises(ValueError, match="the part has no conditions, and they are needed here: give data of a cond"):
        grasps.images_of(pp.data.Part(torch.zeros(4, 6)))


def test_mirrored_pairs_are_pairs():
    """The image of a rectangle's pixels and its pose, mirrored at random: they still belong together."""
    side = 64
    y, x = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
    points = torch.stack([x, y], -1).reshape(-1, 2)
    given = torch.tensor([[0.3, -0.2, 0.1, -0.6, math.sin(1.0), math.cos(1.0)]])

    def drawn(pose):
        return grasps._inside(points.double(), corners_of(pose, side).double()).float().reshape(1, 1, side, side)

    seen = set()
    for _ in range(20):
        mirrored, image = grasps._mirrored(given, drawn(given[0]))
        assert_close(image, drawn(mirrored[0]))
        seen.add(tuple(mirrored[0].sign().tolist()))
    assert len(seen) == 4
