"""Flips and turns of training images: what they do, and that they are a function of seed, epoch and step."""

import pytest
import torch
from torch.testing import assert_close

import pyro_priors as pp
import runs
from pyro_priors.data import Augment, Part, batches
from pyro_priors.data.arrange import arrange
from pyro_priors.data.registry import make_config

SHAPE = (2, 5, 6)


def drawn(augment, num, seed=0):
    return augment.draw(num, torch.Generator().manual_seed(seed))


def test_half_of_the_images_are_flipped_and_the_rest_left():
    """Of n = 400 the flipped are 200 at 4 standard errors (fails at 6 of 100,000 seeds); bits are kept."""
    x = torch.rand(400, *SHAPE)
    augment = Augment(SHAPE, flip=True)
    found = augment.apply(x, drawn(augment, 400))
    flipped = (found == x.flip(-1)).flatten(1).all(1)
    assert (flipped | (found == x).flatten(1).all(1)).all()
    assert abs(flipped.sum() - 200) < 40
    flat = augment.apply(x.flatten(1), drawn(augment, 400))
    assert torch.equal(flat, found.flatten(1))
    assert not torch.equal(found, augment.apply(x, drawn(augment, 400, seed=1)))


@pytest.mark.parametrize("degrees", [90.0, 180.0, -90.0])
def test_a_quarter_turn_is_torchs(float64, degrees):
    """At whole quarters pixels meet pixels, also of images that are not square where the turn leaves the shape."""
    shape = (1, 5, 6) if degrees == 180 else (1, 5, 5)
    x = torch.rand(3, *shape)
    turned = Augment(shape, rotate=180.0).apply(x, torch.tensor([[1.0, torch.pi * degrees / 180, 0, 0, 0, 0, 0]] * 3))
    assert_close(turned, x.rot90(round(degrees / 90), (-2, -1)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 20, 12), (2, 12, 20)])
def test_a_turn_is_one_of_pixels_also_where_images_are_not_square(float64, shape):
    """Read off an image whose values are its coordinates in pixels, away from the edges."""
    _, height, width = shape
    x = torch.zeros(1, *shape)
    x[:, 0], x[:, 1] = torch.arange(width) - width / 2 + 0.5, torch.arange(height)[:, None] - height / 2 + 0.5
    angle = torch.tensor(0.3)
    turned = Augment(shape, rotate=30.0).apply(x, torch.tensor([[1.0, angle, 0, 0, 0, 0, 0]]))
    (w, h), middle = x[0], (slice(height // 2 - 3, height // 2 + 3), slice(width // 2 - 3, width // 2 + 3))
    assert_close(turned[0, 0][middle], (angle.cos() * w - angle.sin() * h)[middle], rtol=0, atol=1e-12)
    assert_close(turned[0, 1][middle], (angle.sin() * w + angle.cos() * h)[middle], rtol=0, atol=1e-12)


def test_shear_zoom_and_shift_take_pixels_where_they_say(float64):
    """Read off an image whose values are its coordinates, away from the edges; rows are 6 wide and 10 high."""
    shape, x = (2, 20, 12), torch.zeros(4, 2, 20, 12)
    x[:, 0], x[:, 1] = torch.arange(12.0) - 5.5, torch.arange(20.0)[:, None] - 9.5
    augment = Augment(shape, shear=0.2, zoom=0.1, shift=0.25)
    what = torch.zeros(4, 7)
    what[:, 0] = 1.0
    what[0, 2], what[1, 3], what[2, 4], what[3, 5], what[3, 6] = 0.2, 0.1, -0.1, 0.25, -0.1
    found, middle = augment.apply(x, what), (slice(6, 14), slice(4, 7))
    w, h = x[0, 0], x[0, 1]
    for i, (column, row) in enumerate([(w + 0.2 * h, h), (1.1 * w, h), (w, 0.9 * h), (w + 3, h - 2)]):
        assert_close(found[i, 0][middle], column[middle], rtol=0, atol=1e-12)
        assert_close(found[i, 1][middle], row[middle], rtol=0, atol=1e-12)
    many = drawn(augment, 2000)[:, 1:]
    for column, most in zip(many.T, (0.0, 0.2, 0.1, 0.1, 0.25, 0.25), strict=True):
        assert column.abs().max() <= most and column.abs().max() >= 0.99 * most


@pytest.mark.parametrize(("drawn_zoom", "width"), [(0.15, 41 / 1.15), (-0.15, 41 / 0.85)])
def test_zoom_scales_what_is_read(drawn_zoom, width):
    """A bar of 41 pixels, whose bounds at a zoom of 0.15 are 35.7 and 48.2, as high as it was."""
    x = torch.zeros(1, 1, 81, 81)
    x[..., 30:50, 20:61] = 1.0
    found = Augment((1, 81, 81), zoom=0.15).apply(x, torch.tensor([[1.0, 0, 0, drawn_zoom, 0, 0, 0]]))
    assert found[0, 0, 40].sum().item() == pytest.approx(width, abs=0.1)
    assert found[0, 0, :, 40].sum().item() == pytest.approx(20, abs=0.1)


def test_small_turns_are_within_their_angle_and_keep_the_middle():
    """A bright ring around the middle stays, a point at the rim moves by its distance times the angle at most."""
    augment = Augment((1, 41, 41), rotate=10.0)
    angles = drawn(augment, 2000)[:, 1]
    limit = torch.pi / 18
    assert angles.abs().max() <= limit and angles.abs().max() > 0.99 * limit and angles.mean().abs() < 0.01
    x = torch.zeros(50, 1, 41, 41)
    x[:, 0, 20, 36] = 1.0  # 16 pixels to the right of the middle
    found = augment.apply(x, drawn(augment, 50))
    mass = found.flatten(1).sum(1)
    rows = torch.arange(41.0)
    height = (found.sum((1, 3)) * rows).sum(1) / mass - 20
    assert_close(height, -16 * torch.sin(angles[:50]), atol=0.15, rtol=0)
    assert found.min() >= 0 and found.max() <= 1


def test_batches_draw_it_anew_and_alike():
    """Another epoch, step or seed is another draw; the same is the same, from any start and in every process."""
    part = Part(torch.rand(23, *SHAPE))
    augment = Augment(SHAPE, True, 20.0)

    def epoch(**options):
        return [x for x, _ in batches(part, 8, augment=augment, **{"seed": 1, "epoch": 0, "shuffle": False} | options)]

    whole = epoch()
    assert [len(x) for x in whole] == [8, 8, 7]
    assert all(map(torch.equal, whole, epoch()))
    assert all(map(torch.equal, whole[2:], epoch(start=2)))
    shares = [epoch(rank=rank, world_size=3) for rank in range(3)]
    for step, x in enumerate(whole):
        assert torch.equal(torch.cat([share[step] for share in shares]), x)
    for other in (epoch(epoch=1), epoch(seed=2)):
        assert not any(map(torch.equal, whole, other))
    same = Part(part.x[:1].expand(16, *SHAPE))
    first, second = (x for x, _ in batches(same, 8, seed=0, epoch=0, augment=augment))
    assert not torch.equal(first, second)
    noise = [x for x, _ in batches(part, 8, seed=1, epoch=0, binarise=True, augment=augment)]
    assert all(((x == 0) | (x == 1)).all() for x in noise)


def test_data_say_what_is_done_to_them():
    data = pp.data.load("digits", flip=True, rotate=10)
    assert data.augment == Augment((1, 8, 8), True, 10.0)
    assert data.source.endswith("training images flipped and turned by up to 10 degrees at random")
    assert pp.data.load("digits").augment is None


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("moons", {"flip": True}, "flip and rotate need a data set of images, but moons has x_shape"),
        (
            "digits",
            {"flip": True, "condition_rows": 4},
            "would change x but not the condition, which is the rest of its",
        ),
        (
            "digits",
            {"rotate": 5.0, "binarise": "fixed"},
            "rotate interpolates, so that binary images would not",
        ),
        ("digits", {"rotate": -1.0}, "rotate must be an angle from 0 to 180 degrees, got -1"),
        ("digits", {"flip": 1}, "flip must be True or False, got 1"),
    ],
    ids=["no-images", "rows", "binary", "angle", "flip"],
)
def test_what_makes_no_sense_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        pp.data.load(name, **options)


def test_training_sees_it_and_validation_does_not(tmp_path):
    """And it is part of what a run is resumed by."""
    plain, turned = runs.small_data(), runs.small_data(rotate=30.0)
    ends = []
    for data in (plain, turned):
        pair = runs.small_pair("vae", data)
        history = pp.fit(pair, data, max_epochs=1, out=tmp_path / str(len(ends)), progress=False)
        assert history.epochs[0]["valid_bound"] == pytest.approx(runs.validation_bound(pair, plain), rel=1e-6)
        ends.append(runs.state(pair))
    assert not runs.same_bits(*ends)
    with pytest.raises(ValueError, match="rotate"):
        pp.fit(runs.small_pair("vae", plain), plain, max_epochs=1, out=tmp_path / "1", resume=True, progress=False)


def test_arranging_flattens_after_the_shape_is_known():
    data = pp.data.load("digits", flip=True, flatten=False)
    flat = arrange(data, make_config({"flip": False}))
    assert flat.augment == data.augment and flat.x_shape == (64,)
