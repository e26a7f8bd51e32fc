"""The command ``pyro-priors plot``, which draws the figures of a run."""

from collections.abc import Sequence
from dataclasses import dataclass

from .. import plots
from .._files import make_folder, save_figure
from .._reading import check_inside
from ..errors import UserError
from ..rng import seeded
from . import parsing
from .opening import OfRun, open_run
from .seeds import runs_of_seeds

__all__ = ["run"]


def run(arguments: Sequence[str]) -> None:
    """Run the command.

    :param arguments: the arguments after ``plot``
    :raises ValueError: if an argument is wrong
    """

    @dataclass(frozen=True)
    class Options(OfRun):
        """Draw every figure of a run into its folder. For a folder of train --seeds, draw the curves over its seeds."""

    options = parsing.parse(Options, arguments, "plot")
    if (runs := runs_of_seeds(options.run)) is not None:
        histories = {seed: history for seed in runs.seeds if (history := runs.run(seed).history())}
        if not histories:
            raise UserError(f"{options.run} has no finished epoch to draw: train it (pyro-priors resume {options.run})")
        path = runs.path / "figures" / "curves.png"
        check_inside(path, runs.path)
        make_folder(path.parent)
        save_figure(plots.curves_of_seeds(histories), path, dpi=120)
        print(path)
        print(f"the figures of one run: pyro-priors plot {runs.run(next(iter(histories))).path}")
        return
    folder, pair, splits = open_run(options)
    with seeded(0, pair.device):
        for path in plots.saved_figures(pair, splits, folder.history(), folder.inside("figures")):
            print(path, flush=True)
