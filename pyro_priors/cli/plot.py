"""The command ``pyro-priors plot``, which draws the figures of a run."""

from collections.abc import Sequence
from dataclasses import dataclass

from .. import plots
from ..rng import seeded
from . import parsing
from .opening import OfRun, open_run

__all__ = ["run"]


def run(arguments: Sequence[str]) -> None:
    """Run the command.

    :param arguments: the arguments after ``plot``
    :raises ValueError: if an argument is wrong
    """

    @dataclass(frozen=True)
    class Options(OfRun):
        """Draw every figure of a run into its folder."""

    options = parsing.parse(Options, arguments, "plot")
    folder, pair, splits = open_run(options)
    with seeded(0, pair.device):
        for path in plots.saved_figures(pair, splits, folder.history(), folder.inside("figures")):
            print(path, flush=True)
