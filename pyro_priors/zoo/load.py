"""Load pairs that were saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn

from .. import checkpoint, module_state
from .._files import CheckpointError
from .._memory import TooLarge, Within
from .._options import path_of, typed
from .._schemas import SavedPair
from ..errors import UserError
from ..pair import Pair
from ..run_folder import find_pair
from .create import make
from .recipe import resolve

__all__ = ["load"]


@typed
def load(
    path: str | Path,
    *,
    encoder: nn.Module | None = None,
    decoder: nn.Module | None = None,
    prior: nn.Module | None = None,
    prior_z1: nn.Module | None = None,
    likelihood: nn.Module | None = None,
) -> Pair:
    """Load the pair that was saved last under a path, by :meth:`Pair.save` or by :func:`pyro_priors.fit`.

    :param path: a folder that was given to ``save``, or a run folder, whose pair is that of the best validation bound
        unless another one was saved over it
    :param encoder: the module of your own that the pair was created with, if it was; likewise the others
    :raises CheckpointError: if the save is incomplete or altered, or does not describe a pair of its tensors
    :raises ValueError: if the pair has modules of your own that are not given, or others are given, or it is not of the
        zoo
    """
    folder = find_pair(path_of("path", path))
    tensors, record = checkpoint.read(folder, "pair", SavedPair, path_of("path", path))
    recipe = record["pair"]
    if recipe is None:
        raise UserError(
            f"{folder} holds a pair that is not of the zoo: build it and call its load_weights({str(folder)!r})"
        )
    modules = {
        "encoder": encoder,
        "decoder": decoder,
        "prior": prior,
        "prior_z1": prior_z1,
        "likelihood": likelihood,
    }
    if missing := [key for key in recipe["own_networks"] if modules[key] is None]:
        arguments = ", ".join(f"{key}=..." for key in missing)
        raise UserError(
            f"{folder} was saved with your own {' and '.join(missing)}: load it from Python, load(path, {arguments})"
        )
    for key, module in modules.items():
        if module is not None and key not in recipe["own_networks"]:
            record_of = recipe["config"].get(key)
            name = f" '{record_of['name']}'" if isinstance(record_of, Mapping) else ""
            raise UserError(
                f"{key} was given, but {folder} was saved with the library's own {key}{name}: leave {key} out"
            )
    pair = _made_of(recipe, modules, folder / "pair.json", sum(tensor.numel() for tensor in tensors.values()))
    dtypes = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    if len(dtypes) == 1 and dtypes <= TRAINED_IN:  # of what is not saved too
        pair.to(next(iter(dtypes)))
    module_state.load_module_state(pair, tensors, str(folder), in_its_precision=True)
    pair.saved_digest = record["sha256"]
    return pair


TRAINED_IN = {torch.float64, torch.float32, torch.bfloat16, torch.float16}


def _made_of(recipe: Mapping[str, Any], modules: dict[str, Any], file: Path, num_values: int) -> Pair:
    """Make the pair of a recipe that was read from a file.

    :param num_values: number of values that the file holds tensors for; a pair of many more is not made
    :raises CheckpointError: if the recipe is not that of such a pair
    """
    own = {key: module for key, module in modules.items() if module is not None}
    try:
        config = {key: tuple(value) if isinstance(value, list) else value for key, value in recipe["config"].items()}
        networks = {key: own.pop(key, None) for key in ("encoder", "decoder")}
        given = config | own
        with Within(4 * num_values + 2**24):
            return make(resolve(recipe["name"], given, given.pop("x_shape", None)), **networks)
    except (ValueError, RuntimeError, TypeError, OverflowError, AttributeError, KeyError) as error:
        # torch has several for sizes out of range
        if any(modules.values()) and not isinstance(error, TooLarge):  # of the modules that were given, perhaps
            raise
        what = f"{file} does not describe a pair ({' '.join(str(error).split())[:300]})"
        raise CheckpointError(what, "restore it from a copy, or load it with the version that saved it") from error
