"""Data: toys with known densities, shapes with known factors, images, grasps, and any ``.npz`` of one's own."""

import dataclasses
import hashlib
import os
from typing import Any

from .._options import path_of, plain, shown
from ..errors import UserError
from . import faces, grasps, house_numbers, images, omniglot, shapes, toys  # noqa: F401  (they register their data sets)
from .arrange import arrange
from .augment import Augment
from .batches import batches, num_batches
from .files import from_arrays, read_npz
from .levels import Levels
from .registry import DATA, DataConfig, find, make_config, names, register_data
from .splits import Part, Splits

__all__ = [
    "DATA",
    "Augment",
    "DataConfig",
    "Levels",
    "Part",
    "Splits",
    "batches",
    "from_arrays",
    "load",
    "names",
    "num_batches",
    "register_data",
]


def load(name: str | os.PathLike, **config: Any) -> Splits:
    """Load a data set by name, or one's own from a file.

    >>> data = load("digits", condition_rows=4)
    >>> data.x_shape, data.condition_shape, data.likelihood, data.binarise
    ((32,), (32,), 'bernoulli', True)

    :param name: one of :func:`names`, or the path of an ``.npz`` file with ``x_train`` and, as far as there
        are any, ``x_valid``, ``x_test``, ``condition_train``, ..., ``label_train``, ..., ``attributes_train``, ...,
        ``attribute_names`` (see :func:`from_arrays`)
    :param config: options, the fields of :class:`DataConfig`
    :raises ValueError: if the name, an option or the data are not what they must be; the message says what to
        do
    :raises FileNotFoundError: if files are missing and cannot be downloaded; the message says what to put
        where
    """
    if not isinstance(name := plain(name), str | os.PathLike):
        raise UserError(f"name must be that of a data set, or a path, got {shown(name)} (for example, 'mnist')")
    options = make_config(config)
    if options.root is not None:  # a run that remembers it may be used from another folder
        options = dataclasses.replace(options, root=str(path_of("root", options.root, "data").absolute()))
    recipe: dict[str, Any] = {"name": os.fspath(name), "config": dataclasses.asdict(options)}
    if os.fspath(name).endswith(".npz"):
        file = path_of("name", name, "mine.npz").resolve()
        splits = read_npz(file, seed=options.seed)
        # a run is resumed on the same file with the same contents only
        with file.open("rb") as content:
            recipe |= {"name": str(file), "sha256": hashlib.file_digest(content, "sha256").hexdigest()}
    else:
        splits = find(os.fspath(name))(options)
    splits = dataclasses.replace(arrange(splits, options), recipe=recipe)
    object.__setattr__(splits, "as_loaded", True)  # frozen for others
    return splits
