"""Omniglot at 28x28 from whichever form of it lies in the data folder."""

import io
import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._files import write_atomically
from .._limits import decoding, read_arrays, read_mat
from ..errors import MissingFileError
from .images import grey_images
from .registry import DataConfig, check_may_download, data_root, register_data
from .splits import Part, Splits

__all__: list[str] = []

SIDE, FULL_SIDE = 28, 105
NUM_VALID = 1_345
NUM_ALPHABETS = 50
NUM_DRAWINGS, NUM_TEST_DRAWINGS = 20, 5  # of each character


@register_data("omniglot")
def omniglot(config: DataConfig) -> Splits:
    """Handwritten characters of 50 alphabets (Lake et al. 2015), 28x28, ink = 1; the label is the alphabet.

    The first of these that the data folder has:

    1. ``omniglot/chardata.mat`` of Burda et al. (2016), the form that the literature's numbers are on: 24,345
       training images, of which the last 1,345 after a shuffle with ``seed`` are the validation part, and
       8,070 test images.
    2. ``omniglot/omniglot_105.npz``, the official 105x105 drawings (bits packed), reduced here by area
       averaging.
    3. torchvision's download of the official drawings, which is then kept as 2.

    In 2 and 3 the split is ours: 5 random drawings of each of the 1,623 characters are the test part (8,115),
    the other 15 give 23,000 training and 1,345 validation images. 15 x 1,623 is the size of Burda's training
    part too, but neither the drawings nor the pixels are the same: numbers are close to the literature's, not
    comparable to the last digit.
    """
    folder = data_root(config) / "omniglot"
    if (folder / "chardata.mat").is_file():
        return _burda(folder / "chardata.mat", config.seed)
    packed = folder / "omniglot_105.npz"
    if not packed.is_file():
        check_may_download("omniglot", folder)
        _download(packed)
    return _official(packed, config.seed)


def _burda(path: Path, seed: int) -> Splits:
    with decoding(path, "Burda's chardata.mat with 'data' and 'testdata'"):
        content = read_mat(path, ("data", "testdata", "target", "testtarget"))
        train, test = (
            Part(_burda_images(content[f"{prefix}data"]), None, _burda_labels(content.get(f"{prefix}target")))
            for prefix in ("", "test")
        )
        if any(part.label is not None and len(part.label) != len(part) for part in (train, test)):
            raise ValueError("'target' and 'testtarget' have other numbers of columns")
    if train.label is None or test.label is None:
        train, test = Part(train.x), Part(test.x)
    order = torch.randperm(len(train), generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
    return grey_images(
        "omniglot",
        train.take(order[:-NUM_VALID]),
        train.take(order[-NUM_VALID:]),
        test,
        num_labels=None if train.label is None else NUM_ALPHABETS,
        source=f"Burda's chardata.mat; valid: the last {NUM_VALID} of train after a shuffle with seed {seed}",
    )


def _burda_images(columns: NDArray) -> Tensor:
    """One image per column, each stored column by column (MATLAB's order)."""
    images = columns.T.astype(np.float32).reshape(-1, 1, SIDE, SIDE)
    return torch.from_numpy(images.swapaxes(-1, -2).copy())


def _burda_labels(one_hot: NDArray | None) -> Tensor | None:
    # labels only serve reports: a file without them is as good
    if one_hot is None or one_hot.shape[0] != NUM_ALPHABETS:
        return None
    return torch.from_numpy(one_hot.argmax(0)).long()


def _official(path: Path, seed: int) -> Splits:
    what = f"readable as packed 105x105 drawings, {NUM_DRAWINGS} of each character"
    with decoding(path, what, "remove it to have it made from torchvision's download"):
        arrays, _ = read_arrays(path, ("images_packed", "character", "alphabet"))
        packed, character, alphabet = arrays["images_packed"], arrays["character"], arrays["alphabet"]
        if packed.shape[1:] != (-(-(FULL_SIDE**2) // 8),) or not len(packed) == len(character) == len(alphabet):
            raise ValueError(f"shapes are {packed.shape}, {character.shape} and {alphabet.shape}")
        if (np.unique(character, return_counts=True)[1] != NUM_DRAWINGS).any():
            raise ValueError("a character has another number of drawings")
        if not np.isin(alphabet, range(NUM_ALPHABETS)).all():
            raise ValueError(f"alphabets are numbered from {alphabet.min()} to {alphabet.max()}")
        x = _reduce(packed)
        # 5 of each character's drawings at random: sort by character and, within it, by a random number
        random = np.random.default_rng(seed)
        order = np.lexsort((random.random(len(x)), character)).reshape(-1, NUM_DRAWINGS)
    test = order[:, :NUM_TEST_DRAWINGS].flatten()
    rest = random.permutation(order[:, NUM_TEST_DRAWINGS:].flatten())
    everything = Part(x, None, torch.from_numpy(alphabet.astype(np.int64)))
    parts = [everything.take(torch.from_numpy(i)) for i in (rest[:-NUM_VALID], rest[-NUM_VALID:], test)]
    return grey_images(
        "omniglot",
        *parts,
        num_labels=NUM_ALPHABETS,
        source=f"official 105x105 drawings, our reduction to 28x28 by area averaging and our split "
        f"{'/'.join(str(len(part)) for part in parts)} with seed {seed}: not Burda's chardata.mat",
    )


def _reduce(packed: NDArray) -> Tensor:
    """Packed bits of 105x105 bitmaps to grey 28x28 images by area averaging, (N, 1, 28, 28)."""
    edges = np.arange(SIDE + 1) * FULL_SIDE / SIDE
    pixel = np.arange(FULL_SIDE)
    # weight (28, 105): the share of each new pixel that an old one covers
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    weight = torch.from_numpy(overlap.clip(0) * SIDE / FULL_SIDE).to(torch.float32)
    reduced = []
    for rows in np.array_split(packed, max(1, len(packed) // 2048)):  # as floats at once they would fill 1.4 GB
        bits = np.unpackbits(rows, axis=1, count=FULL_SIDE**2)
        images = torch.from_numpy(bits).to(torch.float32)
        columns = (images.reshape(-1, FULL_SIDE) @ weight.T).reshape(-1, FULL_SIDE, SIDE)  # (n, 105, 28)
        both = columns.transpose(1, 2).reshape(-1, FULL_SIDE) @ weight.T  # (n * 28, 28), transposed images
        reduced.append(both.reshape(-1, 1, SIDE, SIDE).transpose(-1, -2))
    return torch.cat(reduced).clamp_(0, 1)  # sums of weights may exceed 1 by a rounding error


def _download(packed: Path) -> None:
    """Fetch the official drawings through torchvision and keep them as one file of packed bits."""
    from torchvision.datasets import Omniglot

    root = packed.parent.parent
    try:
        sets = [Omniglot(str(root), background=background, download=True) for background in (True, False)]
        bits, characters, alphabets = [], [], []
        for drawings in sets:
            for image, character in drawings:
                bits.append(np.packbits(np.asarray(image).flatten() == 0))  # black ink on white
                characters.append(drawings._characters[character])
                alphabets.append(os.path.dirname(characters[-1]))
        content = io.BytesIO()
        np.savez_compressed(
            content,
            images_packed=np.stack(bits),
            character=np.unique(characters, return_inverse=True)[1],
            alphabet=np.unique(alphabets, return_inverse=True)[1],
        )
        packed.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(packed, content.getvalue())
    except (OSError, RuntimeError, ValueError) as error:
        raise MissingFileError(
            f"omniglot: not found in {packed.parent} nor downloaded to {root} ({error}): put Burda's "
            "chardata.mat in the first, or set PYRO_PRIORS_DATA (or the option root) to the folder "
            "that has omniglot/"
        ) from error
