"""Options of a data set, the folder that it lies in, and the names under which data sets are found."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from .._options import convert_fields, path_of
from .splits import Splits

__all__ = [
    "DataConfig",
    "check_may_download",
    "data_root",
    "data_set",
    "find",
    "make_config",
    "names",
    "without_downloads",
]

Binarise = Literal["dynamic", "fixed", "none"]


@dataclass(frozen=True)
class DataConfig:
    """Options of :func:`load`, and of the command line as ``--data.FIELD``.

    :raises ValueError: if a value is of the wrong type or out of range, or two options contradict each other
    """

    root: str | None = None
    """Folder of the data; default: environment variable PYRO_PRIORS_DATA, else ~/.cache/pyro_priors."""
    binarise: Binarise = "dynamic"
    """Image sets: 'dynamic' draws train afresh in every batch, 'fixed' once, 'none' keeps the grey levels."""
    condition_rows: int = 0
    """Last rows of each image that become the condition, the others x (Klushyn et al. 2019: 10 on MNIST)."""
    condition_labels: bool = False
    """Use the label, one-hot, as the condition; of data without labels the attributes (celeba has 40)."""
    labels: int = 0
    """Number of labeled training examples, as many of each class, for a semi-supervised cp_vae: their class numbers are
    the condition. It is -1, unknown, for the others and in the validation and test parts."""
    flatten: bool = True
    """Images as (channels * height * width,) instead of (channels, height, width)."""
    side: int = 64
    """Of celeba: height and width of the images in pixels (De 2025: 86)."""
    flip: bool = False
    """Exchange left and right in half of the training images, drawn afresh in every batch."""
    rotate: float = 0.0
    """Turn each training image by up to so many degrees to either side, drawn afresh in every batch."""
    limit: int = 0
    """Keep only this many training examples, the first ones; 0 keeps all. For quick trials. Of celeba all images are
    decoded the first time, whatever the limit."""
    seed: int = 0
    """Seed of the split and of the toys."""

    def __post_init__(self) -> None:
        if isinstance(self.root, os.PathLike):
            object.__setattr__(self, "root", os.fspath(self.root))
        convert_fields(self)
        if self.root is not None:
            path_of("root", self.root, "data")
        for name in ("condition_rows", "labels", "limit", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be an integer of 0 or more, got {getattr(self, name)}")
        if self.side < 8:
            raise ValueError(f"side must be an integer of at least 8 pixels, got {self.side!r} (for example, 64)")
        if not 0 <= self.rotate <= 180:
            raise ValueError(f"rotate must be an angle from 0 to 180 degrees, got {self.rotate!r}")
        if self.seed >= 2**32:  # the limit of scikit-learn's and numpy's older generators
            raise ValueError(f"seed must be below 2**32, got {self.seed}")
        set_it = [name for name in ("condition_rows", "condition_labels", "labels") if getattr(self, name)]
        if len(set_it) > 1:
            raise ValueError(f"{' and '.join(set_it)} both set the condition: choose one of them")


Loader = Callable[[DataConfig], Splits]
_loaders: dict[str, Loader] = {}


def data_set(name: str) -> Callable[[Loader], Loader]:
    """Decorator: register a function from :class:`DataConfig` to :class:`Splits` under ``name``.

    A set of grey images returns all its parts grey, shaped (N, channels, height, width), with
    ``binarise=True``:
    :func:`load` then does what the options ask.
    """

    def add(loader: Loader) -> Loader:
        _loaders[name] = loader
        return loader

    return add


def names() -> list[str]:
    """Names of the data sets that :func:`load` knows, sorted."""
    return sorted(_loaders)


def _did_you_mean(word: str, known: list[str]) -> str:
    near = get_close_matches(word, known, n=1)
    return f"did you mean '{near[0]}'? " if near else ""


def find(name: str) -> Loader:
    """The function that loads ``name``; ValueError with a near name for an unknown one."""
    if name not in _loaders:
        raise ValueError(
            f"unknown data set {name!r}: {_did_you_mean(name, names())}give one of {', '.join(names())}, "
            "or a path that ends in .npz"
        )
    return _loaders[name]


def make_config(options: Mapping[str, Any]) -> DataConfig:
    """:class:`DataConfig` from keywords; ValueError with a near name for an unknown one."""
    known = [field.name for field in fields(DataConfig)]
    for name in options:
        if name not in known:
            raise ValueError(
                f"unknown data option {name!r}: {_did_you_mean(name, known)}give one of {', '.join(known)}"
            )
    return DataConfig(**options)


_downloads: ContextVar[bool] = ContextVar("downloads", default=True)


@contextmanager
def without_downloads() -> Iterator[None]:
    """Where data sets are read and never downloaded: into a folder that somebody else's file names, for example."""
    token = _downloads.set(False)
    try:
        yield
    finally:
        _downloads.reset(token)


def check_may_download(name: str, folder: Path) -> None:
    """Refuse to make or fill a folder within :func:`without_downloads`.

    :raises FileNotFoundError: with what to do
    """
    if not _downloads.get():
        raise FileNotFoundError(
            f"{name} is not in {folder}, the folder that the run names, and only a folder of yours is filled by "
            "downloads: give it with --data.root"
        )


def data_root(config: DataConfig) -> Path:
    """Folder of the data: the option, else the environment, else the user's cache."""
    return path_of("root", config.root or os.environ.get("PYRO_PRIORS_DATA") or "~/.cache/pyro_priors", "data")
