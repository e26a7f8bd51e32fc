"""The command ``pyro-priors encode``, which writes the posteriors of a run's examples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyro.distributions as dist
import torch

from .._options import Size
from ..errors import UserError
from . import parsing
from .opening import OfRun, open_run, rows_of_split
from .writing import output_path, write_arrays

__all__ = ["run"]


def run(arguments: Sequence[str]) -> None:
    """Run the command.

    :param arguments: the arguments after ``encode``
    :raises ValueError: if an argument is wrong, or a posterior has no mean
    """

    @dataclass(frozen=True)
    class Options(OfRun):
        """Write the posteriors of a run's examples: of each latent site the means (z_mean) and scales (z_scale), of a
        category the probabilities (c_probs), and row numbers (row) and labels (label)."""

        out: str = "codes.npz"
        """Arrays (.npz)."""
        split: Literal["train", "valid", "test"] = "test"
        """Split of the data."""
        num: Size | None = None
        """Number of examples, from the first on; all when left out."""

    options = parsing.parse(Options, arguments, "encode")
    out = output_path(options.out, [".npz"], "codes.npz")
    _, pair, splits = open_run(options)
    found: dict[str, list[torch.Tensor]] = {}
    without_scale: set[str] = set()
    for batch in rows_of_split(pair, splits, options.split, options.num):
        for site, posterior in pair.encode(batch.x, batch.condition).items():
            for name, value in _codes(site, posterior, without_scale).items():
                found.setdefault(name, []).append(value)
        found.setdefault("row", []).append(batch.row)
        if batch.label is not None:
            found.setdefault("label", []).append(batch.label)
    for site in sorted(without_scale):
        parsing.warn(f"{site}_scale is left out: the posterior of {site} has no standard deviation")
    arrays = {name: torch.cat(values) for name, values in found.items()}
    write_arrays(out, arrays)
    print(f"{len(arrays['row'])} examples in {out}: {', '.join(arrays)}")


def _codes(site: str, posterior: Any, without_scale: set[str]) -> dict[str, torch.Tensor]:
    """Return the arrays of one site.

    :param without_scale: gets the site if its posterior has no standard deviation
    :raises ValueError: if its posterior has no mean
    """
    if site == "c":
        return {"c_probs": posterior.probs.cpu()}
    try:
        found = {f"{site}_mean": posterior.mean.cpu()}
    except NotImplementedError:
        kind = posterior
        while isinstance(kind, dist.Independent):
            kind = kind.base_dist
        raise UserError(
            f"the posterior of {site} ({type(kind).__name__}) has no mean: encode in Python, with pair.encode(x)"
        ) from None
    try:
        found[f"{site}_scale"] = posterior.stddev.cpu()
    except NotImplementedError:
        without_scale.add(site)
    return found
