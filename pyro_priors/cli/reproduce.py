"""The command ``pyro-priors reproduce``, which reproduces the tables and figures of papers."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from .. import experiments
from . import parsing

__all__ = ["run"]


def run(arguments: Sequence[str]) -> None:
    """Run the command.

    :param arguments: the arguments after ``reproduce``
    :raises ValueError: if an argument is wrong
    """

    @dataclass(frozen=True)
    class Options:
        """Train what is missing of a table or figure of a paper, evaluate it, and put ours beside the published."""

        experiment: tyro.conf.Positional[str]
        """PAPER/EXPERIMENT, see pyro-priors list."""
        row: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
        """Only these rows: a name, its end, or a pattern such as '*-cp-*'; may be given again."""
        quick: bool = False
        """A shorter schedule and fewer samples, not comparable with the paper; its runs are in OUT/PAPER-quick."""
        out: str = "runs"
        """Folder of the runs, which are OUT/PAPER/ROW."""
        train: bool = True
        """Train what is missing; --no-train shows what is there."""
        num_samples: int | None = None
        """Importance samples for log p(x); each row has its own number when left out."""
        max_epochs: int | None = None
        """Train to this epoch at most, for now."""
        device: str = "auto"
        """auto, cpu, cuda or mps."""
        precision: str | None = None
        """Of the trainings that this begins, such as bf16-mixed; one that was begun goes on in its own."""
        features: str = "auto"
        """Network in whose features images are compared: auto, classifier, efficientnet-lite0 or inception."""
        quiet: bool = False
        """Show no progress."""

    options = parsing.parse(Options, arguments, "reproduce")
    given = dataclasses.asdict(options)
    name, rows, quiet = given.pop("experiment"), given.pop("row"), given.pop("quiet")
    report = experiments.reproduce(name, rows=rows, progress=not quiet, **given)
    print(report.table)
    if report.files:
        print("\n".join(map(str, report.files)))
    elif not any(result.history for result in report.results):
        print("nothing is trained yet, and nothing written: leave --no-train out")
