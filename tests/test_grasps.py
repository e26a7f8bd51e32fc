"""Cornell grasping: poses and rectangles, both forms of the data made up, and the views where there are any."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from pyro_priors.data import grasps, load
from pyro_priors.data.poses import POSE, corners_of, pose_from, pose_of


def _poses(num):
    angle = math.pi * (torch.rand(num) - 0.5)
    return torch.cat([2 * torch.rand(num, 4) - 1, torch.stack([(2 * angle).sin(), (2 * angle).cos()], -1)], -1)


# poses


@pytest.mark.parametrize("side", [64, 1.0, 224])
def test_poses_and_corners_are_inverse(float64, side):
    """There and back; the rectangle turned by pi has the same pose, and one turned by pi/2 has another."""
    pose = _poses(500).reshape(5, 100, 6)
    corners = corners_of(pose, side)
    assert corners.shape == (5, 100, 4, 2) and len(POSE) == 6
    assert_close(pose_of(corners, side), pose)
    assert_close(pose_of(corners.roll(2, -2), side), pose)
    assert not torch.allclose(pose_of(corners.roll(1, -2), side), pose)
    again = corners_of(pose_of(corners, side), side)
    turned = (again - corners).abs().amax((-2, -1)) > 1e-6 * side
    assert_close(torch.where(turned[..., None, None], again.roll(2, -2), again), corners)


def test_a_rectangle_by_hand():
    """Side 64, centre (16, 48), opening 12 up to the right at 30 degrees, jaw 8."""
    pose = pose_from(torch.tensor([16.0, 48.0]), torch.tensor([12.0, 8.0]), torch.tensor(math.pi / 6), 64)
    assert_close(pose, torch.tensor([-0.5, 0.5, -0.25, -0.5, math.sqrt(3) / 2, 0.5]))
    along, across = torch.tensor([math.sqrt(3), -1.0]) * 3, torch.tensor([1.0, math.sqrt(3)]) * 2
    centre = torch.tensor([16.0, 48.0])
    expected = [centre - along - across, centre + along - across, centre + along + across, centre - along + across]
    assert_close(corners_of(pose), torch.stack(expected))


def test_generated_numbers_are_poses():
    """Sine and cosine of no angle count by their ratio; lengths below 0 are 0."""
    pose = torch.tensor([[0.0, 0.0, -0.5, 0.2, 3.0, 3.0], [0.0, 0.0, -1.5, 0.2, 0.0, 0.1]])
    same = torch.tensor([[0.0, 0.0, -0.5, 0.2, 0.5**0.5, 0.5**0.5], [0.0, 0.0, -1.0, 0.2, 0.0, 1.0]])
    assert_close(corners_of(pose), corners_of(same))


# both forms, made up


def _assert_sound(splits):
    assert splits.likelihood == "gaussian" and splits.num_labels is None and splits.x_shape == (6,)
    assert splits.condition_image_shape == (1, 64, 64) and splits.condition_shape == (4096,)
    assert splits.source and "\n" not in splits.source
    for part in splits.parts.values():
        assert part.x.dtype == part.condition.dtype == torch.float32
        assert part.x.shape == (len(part), 6) and part.condition.shape == (len(part), 4096)
        assert part.condition.min() >= 0 and part.condition.max() <= 1
        assert part.x[:, :4].abs().max() <= 1
        assert_close(part.x[:, 4:].square().sum(-1), torch.ones(len(part)))


def _official(folder, num=60):
    """Images whose grey level is their number, in two folders, with two grasps each and one of NaN."""
    from PIL import Image

    (folder / "02").mkdir(parents=True)
    (folder / "01").mkdir()
    for i in range(num):
        name = f"{folder}/{'02' if i < 7 else '01'}/pcd{100 + i:04}"
        image = np.full((480, 640, 3), 4 * i, np.uint8)
        image[:, :160] = 255  # to the left of what is kept
        Image.fromarray(image).save(f"{name}r.png")
        corners = corners_of(pose_from(*map(torch.tensor, ([320.0 + i, 240.0], [40.0, 20.0], 0.5)), 640), 640)
        lines = [f"{x:.3f} {y:.3f} " for x, y in corners]
        second = [f"{x + 30:.3f} {y:.3f}" for x, y in corners]
        Path(f"{name}cpos.txt").write_text("\n".join([*lines, "NaN NaN", *lines[1:], *second]) + "\n")


def test_official_files(tmp_path):
    """The middle of the image at 64x64; rectangles in its frame, those with NaN skipped; parts by the numbers in the
    files' names, whatever folders they lie in."""
    _official(tmp_path / "cornell")
    splits = load("cornell", root=str(tmp_path))
    _assert_sound(splits)
    assert "official files" in splits.source
    seen = []
    for part in splits.parts.values():
        level = part.condition[:, 0] * 255 / 4
        assert_close(part.condition, part.condition[:, :1].expand(-1, 4096))
        centres = (part.x[:, :2] + 1) / 2 * 320
        number = torch.arange(len(part)) % 2  # the grasps of an image follow each other
        assert_close(centres[:, 0], 160 + level + 30 * number, rtol=0, atol=1e-2)
        assert_close(centres[:, 1], torch.full((len(part),), 160.0), rtol=0, atol=1e-2)
        assert_close(part.x[:, 2:4], torch.tensor([-0.5, -0.75]).expand(len(part), 2), rtol=0, atol=1e-4)
        assert_close(part.x[:, 4], torch.full((len(part),), math.sin(1.0)), rtol=0, atol=1e-4)
        seen.append(level.round().int().unique())
        assert len(part) == 2 * len(seen[-1])
    assert f"{'/'.join(str(len(part)) for part in seen)} images by blocks of about 20 neigh" in splits.source
    _assert_apart(*seen)
    other = load("cornell", root=str(tmp_path), seed=1, flatten=False)
    assert other.condition_shape == (1, 64, 64)
    assert not torch.equal(other.test.condition.flatten(1), splits.test.condition)


def _views(folder, **changed):
    folder.mkdir(exist_ok=True)
    image = np.repeat(np.arange(140), 3)[::-1].copy()
    sizes = np.tile(np.array([56.0, 112.0, 40.0, 20.0], np.float32), (420, 1))
    sizes[0] = [230.0, 100.0, 40.0, 20.0]
    arrays = {
        "images": np.repeat(np.arange(140, dtype=np.uint8), 4096).reshape(140, 64, 64),
        "source_image": (np.arange(140) // 2 + 100).astype(np.uint8),
        "rect_image_index": image,
        "rect_cx_cy_w_h_224": sizes,
        "rect_theta_deg": np.full(420, -30, np.int16),
    }
    np.savez(folder / "cornell_64_gray.npz", **arrays | changed)


def test_views(tmp_path):
    """Both views of an image are in one part; a grasp whose centre lies outside is left out, and said to be."""
    _views(tmp_path / "cornell")
    splits = load("cornell", root=str(tmp_path))
    _assert_sound(splits)
    views = [(part.condition[:, 0] * 255).round() for part in splits.parts.values()]
    numbers = [view.div(2, rounding_mode="floor").unique() for view in views]
    _assert_apart(*numbers)
    left_out = 70 - sum(map(len, numbers))
    assert f"{'/'.join(str(len(part)) for part in numbers)} images by blocks of about 20 neigh" in splits.source
    assert f"{left_out} images within 4 numbers" in splits.source and "1 of 420 grasps left out" in splits.source
    assert sum(map(len, views)) == 6 * (70 - left_out) - (139 in torch.cat(views))
    for view in views:
        assert torch.equal(view.unique()[::2] + 1, view.unique()[1::2])
    expected = torch.tensor([-0.5, 0.0, 40 / 56 - 1, 20 / 56 - 1, -math.sin(math.pi / 3), math.cos(math.pi / 3)])
    assert_close(splits.train.x, expected.expand(len(splits.train), 6))


def _assert_apart(train, valid, test):
    """A held-out image has no neighbour in another part, and held-out ones come in blocks of neighbours."""
    for one, other in ((train, valid), (train, test), (valid, test)):
        assert (one[:, None] - other).abs().min() > 4
    for part in (valid, test):
        assert (part[1:] - part[:-1] == 1).double().mean() > 0.8


@pytest.mark.parametrize("seed", range(20))
def test_neighbouring_images_are_in_one_part(seed):
    """Of numbers with gaps, as Cornell's have, the parts are a tenth each, less what lies beside another part."""
    numbers = np.sort(np.random.default_rng(1).permutation(np.arange(100, 1000))[:708])
    parts = grasps._numbers(numbers, seed)
    train, valid, test = map(torch.from_numpy, parts)
    for one, other in ((train, valid), (train, test), (valid, test)):
        assert (one[:, None] - other).abs().min() > 4
    assert 80 <= len(test) <= 84 and 60 <= len(valid) <= 84 and len(train) > 470
    together = np.concatenate(parts)
    assert np.isin(together, numbers).all() and len(np.unique(together)) == len(together)
    rows = np.searchsorted(numbers, parts[2])
    assert (np.diff(rows) > 1).sum() <= 3, "four blocks of neighbours"
    again, other = grasps._numbers(numbers, seed), grasps._numbers(numbers, seed + 100)
    assert all(map(np.array_equal, again, parts)) and not np.array_equal(other[2], parts[2])
    assert min(map(len, grasps._numbers(np.arange(60), seed))) >= 12


def test_errors(tmp_path):
    root, folder = str(tmp_path), tmp_path / "cornell"

    def refuses(error, message):
        with pytest.raises(error, match=message) as caught:
            load("cornell", root=root)
        assert "\n" not in str(caught.value)

    refuses(
        FileNotFoundError, r"cornell: no pcd####cpos.txt with .* in .*cornell: put the official files .*PYRO_PRIORS"
    )
    _views(folder, images=np.zeros((140, 32, 32), np.uint8))
    refuses(ValueError, r"gray.npz: not readable as .*images of shape \(140, 32, 32\) with 140 sources\): replace")
    _views(folder, rect_image_index=np.full(420, 140))
    refuses(ValueError, r"gray.npz: not readable as views of 64x64 pixels with rectangles")
    _views(folder, source_image=np.zeros(140))
    refuses(ValueError, r"cornell: 1 images, too few for three parts: give at least 60")
    (folder / "cornell_64_gray.npz").write_bytes(b"hello")
    refuses(ValueError, r"gray.npz: not readable as views")
    _official(folder, 3)
    refuses(ValueError, r"cornell: 3 images, too few for three parts: give at least 60")
    corners, picture = folder / "02/pcd0101cpos.txt", folder / "02/pcd0101r.png"
    corners.write_text("1 2\n3 4\n5 6\n")
    refuses(ValueError, r"pcd0101cpos.txt: not four lines 'x y' for each rectangle \(.*\): replace it")
    corners.write_text("1 2\n3 4\n5 six\n7 8\n")
    refuses(ValueError, r"pcd0101cpos.txt: not four lines 'x y' for each rectangle \(.*six.*\): replace it")
    picture.write_bytes(b"no picture")
    refuses(ValueError, r"pcd0101r.png: not a readable image")
    from PIL import Image

    Image.new("L", (200, 480)).save(picture)
    refuses(ValueError, r"pcd0101r.png has 200x480 pixels, fewer than 320x320: give the official 640x480")
    picture.unlink()
    refuses(FileNotFoundError, r"pcd0101cpos.txt has no image: put pcd0101r.png into ")


# the views, where there are any


@pytest.mark.skipif(
    not (Path(os.environ.get("PYRO_PRIORS_DATA") or "/nonexistent") / "cornell").exists(),
    reason="PYRO_PRIORS_DATA has no cornell",
)
def test_cornell():
    splits = load("cornell")
    _assert_sound(splits)
    if "views" in splits.source:
        assert [len(part) for part in splits.parts.values()] == [22_724, 2_604, 5_191]
        assert "511/75/81 images by blocks of about 20 neighbouring numbers" in splits.source
        opening, jaw = splits.train.x[:, 2:4].unbind(-1)
        assert 0.85 < (opening > jaw).float().mean() < 0.9
        # angles are rounded to 10 degrees
        degrees = torch.atan2(splits.train.x[:, 4], splits.train.x[:, 5]).rad2deg() / 20
        assert_close(degrees, degrees.round(), rtol=0, atol=1e-3)
