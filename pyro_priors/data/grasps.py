"""Cornell grasping: poses of a gripper (x), given the image of an object (the condition)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._limits import Refused, check_bytes, decoding, open_image, read_arrays
from ..errors import MissingFileError, UserError
from .poses import pose_from, pose_of
from .registry import DataConfig, data_root, register_data
from .splits import Part, Splits

__all__: list[str] = []

SIDE = 64
CROP = 320
"""Side of what is cut out of the middle of an official image, 640 x 480 pixels."""

MOST_PIXELS = 2**24
"""Largest image that is decoded, in pixels."""

MOST_CORNERS = 10**6
"""Bytes of the largest file of corners that is read."""

VIEWS, VIEWS_SIDE = "cornell_64_gray.npz", 224

BLOCK = 20
"""Images of neighbouring numbers that stay together in the split: about six objects in three or four positions each."""

MARGIN = 4
"""Numbers beside a block that is held out whose images may show an object of it."""


@dataclass(frozen=True)
class _Grasps:
    """Grey images, shape ``(N, 64, 64)``, the official number of each, and poses with the row of the image of each."""

    images: NDArray
    numbers: NDArray
    poses: Tensor
    image: NDArray
    source: str


@register_data("cornell")
def cornell(config: DataConfig) -> Splits:
    """Cornell grasping (Jiang et al. 2011; Lenz et al. 2015): x is a pose, six numbers, its condition an image.

    The poses are those of :data:`~pyro_priors.data.poses.POSE`, the images 64x64, grey, in [0, 1]. An image with n
    grasps is the condition of n examples, which follow each other. The folder ``cornell`` of the data folder has one of

    1. the official files, in subfolders or not: an image ``pcd####r.png`` and corners ``pcd####cpos.txt`` each. The
       middle 320x320 pixels are kept and reduced by area averaging; rectangles with NaN are skipped.
    2. ``cornell_64_gray.npz``: several turned and shifted views of each image, angles rounded to 10 degrees.

    Grasps with their centre outside of the image are left out. All views take 0.5 GB of memory as float32.

    Neither form says which images show one object in several positions (Cornell: 885 images of 244 objects); those have
    neighbouring official numbers. The images, in the order of their numbers, are therefore cut into blocks of about 20;
    a tenth of the blocks each, drawn with ``seed``, are the test and the validation part. Images within 4 numbers of
    the test part are in neither of the others, and those within 4 of the validation part not in the training part: an
    object in up to 5 images of consecutive numbers is in one part only. The parts are so by image, and nearly by
    object; things of a kind, such as several shoes, may still be in two parts.

    What the paper leaves open is ours: how 640x480 became its 250x250 and then 64x64 pixels (320 is that of Redmon and
    Angelova 2015), the numbers of a pose, and the split.
    """
    folder = data_root(config) / "cornell"
    corners = sorted(folder.rglob("pcd[0-9][0-9][0-9][0-9]cpos.txt"))
    if corners:
        grasps = _official(folder, corners)
    elif (folder / VIEWS).is_file():
        grasps = _views(folder / VIEWS)
    else:
        raise MissingFileError(
            f"cornell: no pcd####cpos.txt with pcd####r.png, nor {VIEWS}, in {folder}: put the official files there, "
            "or set PYRO_PRIORS_DATA (or the option root) to the folder that has cornell/"
        )
    return _split(grasps, config.seed)


def _official(folder: Path, files: list[Path]) -> _Grasps:
    pictures = {path.name: path for path in folder.rglob("pcd*r.png")}
    images, poses, image = [], [], []
    for row, file in enumerate(files):
        picture = file.name.replace("cpos.txt", "r.png")
        if picture not in pictures:
            raise MissingFileError(f"{file} has no image: put {picture} into {folder}")
        grey, corner = _grey(pictures[picture])
        rectangles = _rectangles(file)
        images.append(grey)
        poses.append(pose_of(rectangles - rectangles.new_tensor(corner), CROP))
        image += [row] * len(rectangles)
    numbers = np.array([int(file.name[3:7]) for file in files])
    source = f"official files, the middle {CROP}x{CROP} pixels of each image"
    return _Grasps(np.stack(images), numbers, torch.cat(poses), np.array(image, dtype=int), source)


def _grey(file: Path) -> tuple[NDArray, tuple[float, float]]:
    """The middle of an image at 64x64, and where its upper left corner was."""
    from PIL import Image

    with decoding(file, "a readable image"), open_image(file) as image:
        width, height = image.size
        left, top = (width - CROP) // 2, (height - CROP) // 2
        if min(left, top) < 0:
            raise Refused(f"{file} has {width}x{height} pixels, fewer than {CROP}x{CROP}: give the official 640x480")
        if width * height > MOST_PIXELS:
            raise Refused(
                f"{file} has {width}x{height} pixels, more than the limit of {MOST_PIXELS}: give the official 640x480"
            )
        middle = image.convert("L").crop((left, top, left + CROP, top + CROP))
    return np.asarray(middle.resize((SIDE, SIDE), Image.Resampling.BOX)), (left, top)


def _rectangles(file: Path) -> Tensor:
    """Corners in pixels, shape ``(num, 4, 2)``; four lines ``x y`` each, less the rectangles with NaN."""
    with decoding(file, "four lines 'x y' for each rectangle"):
        if file.stat().st_size > MOST_CORNERS:
            raise ValueError(f"it has {file.stat().st_size} bytes, more than the limit of {MOST_CORNERS}")
        numbers = np.array(file.read_text().split(), dtype=np.float64)
        corners = torch.from_numpy(numbers.reshape(-1, 4, 2)).float()
    return corners[corners.isfinite().all((1, 2))]


def _views(file: Path) -> _Grasps:
    with decoding(file, "readable as views of 64x64 pixels with rectangles"):
        names = ("images", "source_image", "rect_image_index", "rect_cx_cy_w_h_224", "rect_theta_deg")
        arrays, _ = read_arrays(file, names)
        images, numbers, image, rectangles, angles = (arrays[name] for name in names)
        if images.dtype != np.uint8 or images.shape[1:] != (SIDE, SIDE) or numbers.shape != images.shape[:1]:
            raise ValueError(f"{images.dtype} images of shape {images.shape} with {len(numbers)} sources")
        if rectangles.shape != (len(image), 4) or angles.shape != image.shape:
            raise ValueError(f"{len(image)} rectangles with shapes {rectangles.shape} and {angles.shape}")
        if image.dtype.kind not in "iu" or not ((image >= 0) & (image < len(images))).all():
            raise ValueError("rect_image_index holds other than rows of images")
        if not np.isin(numbers, range(10_000)).all():
            raise ValueError("source_image holds other than official numbers, from 0 to 9999")
        places = torch.from_numpy(rectangles).float()
        poses = pose_from(places[:, :2], places[:, 2:], torch.from_numpy(angles).float().deg2rad(), VIEWS_SIDE)
        if not poses.isfinite().all():
            raise ValueError("a rectangle is not finite")
        check_bytes(f"{file}", 4 * SIDE**2 * len(image))  # each grasp gets its image, as float32
        order = np.argsort(image, kind="stable")
        grasps = _Grasps(images, numbers.astype(int), poses[torch.from_numpy(order)], image[order], f"views in {VIEWS}")
    return grasps


def _split(grasps: _Grasps, seed: int) -> Splits:
    inside = (grasps.poses[:, :2].abs() <= 1).all(1).numpy()
    numbers, number_of_pose = np.unique(grasps.numbers), grasps.numbers[grasps.image]
    chosen = _numbers(numbers, seed)
    train, valid, test = (_part(grasps, inside & np.isin(number_of_pose, part)) for part in chosen)
    left_out = len(numbers) - sum(map(len, chosen))
    return Splits(
        "cornell",
        train,
        valid,
        test,
        likelihood="gaussian",
        condition_image_shape=(1, SIDE, SIDE),
        source=f"{grasps.source}; {'/'.join(str(len(part)) for part in chosen)} images by blocks of about {BLOCK} "
        f"neighbouring numbers, seed {seed}, {left_out} images within {MARGIN} numbers of held-out blocks left out; "
        f"{(~inside).sum()} of {len(inside)} grasps left out, their centres lie outside",
    )


def _numbers(numbers: NDArray, seed: int) -> tuple[NDArray, NDArray, NDArray]:
    """Numbers of the images of train, valid and test, of all numbers in their order."""
    if len(numbers) < 3 * BLOCK:
        raise UserError(f"cornell: {len(numbers)} images, too few for three parts: give at least {3 * BLOCK}")
    blocks = np.array_split(numbers, len(numbers) // BLOCK)
    held_out = max(1, round(len(blocks) / 10))
    order = np.random.default_rng(seed).permutation(len(blocks))
    chosen = order[2 * held_out :], order[:held_out], order[held_out : 2 * held_out]
    train, valid, test = (np.sort(np.concatenate([blocks[i] for i in part])) for part in chosen)
    valid = _apart(valid, test)
    return _apart(_apart(train, valid), test), valid, test


def _apart(numbers: NDArray, others: NDArray) -> NDArray:
    """The numbers farther than the margin from each of the others."""
    return numbers[np.abs(numbers[:, None] - others).min(1) > MARGIN]


def _part(grasps: _Grasps, rows: NDArray) -> Part:
    images = torch.from_numpy(grasps.images[grasps.image[rows]]).to(torch.float32).div_(255)
    return Part(grasps.poses[torch.from_numpy(rows)], images.unsqueeze(1))
