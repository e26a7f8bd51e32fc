"""Training what an experiment lacks, evaluating it, and writing ours beside the published."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import plots
from .._files import CheckpointError, make_folder, save_figure, write_atomically
from .._options import path_of, typed
from ..errors import UserError
from ..metrics.evaluate import check_options
from ..rng import seeded
from ..training.config import PRECISIONS
from .experiment import Experiment, find
from .runner import NOT_TRAINED, Runner, device_of, shown_if_not_saved
from .table import Result, markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Report", "reproduce"]

CHARACTERS_PER_INCH = 11
"""Of a figure's title."""


@dataclass(frozen=True)
class Report:
    """What :func:`reproduce` found.

    :param experiment: the experiment
    :param results: one for each of its rows
    :param table: ours beside the published, in Markdown
    :param files: what was written: table (``.md``), bounds by epoch (``-curves.png``) and figure (``.png``)
    """

    experiment: Experiment
    results: list[Result]
    table: str
    files: list[Path]


@typed
def reproduce(
    name: str,
    *,
    rows: str | Sequence[str] = (),
    quick: bool = False,
    out: str | Path = "runs",
    train: bool = True,
    num_samples: int | None = None,
    max_epochs: int | None = None,
    device: str = "auto",
    precision: str | None = None,
    features: str = "auto",
    progress: bool = True,
) -> Report:
    """Train what is missing of an experiment, evaluate it, and put ours beside the published.

    Example::

        >>> report = pp.experiments.reproduce("lavda2019/table1", quick=True, rows=["vae", "cp-10"])
        >>> print(report.table)

    Each row has a run folder, ``out/PAPER/ROW``, or ``out/PAPER-quick/ROW``; table and figure lie beside them under the
    name of the experiment. A row that is trained is not trained again, one that was interrupted goes on, and numbers
    are computed once for the same weights, data and number of samples. A row whose training diverges is marked, and the
    others go on.

    What the table needs of each run is kept in ``runs.jsonl`` beside the table, a line for each run: its options, its
    evaluation and its thinned curve. A row that has a line and no run folder, because it was trained elsewhere or its
    folder was deleted, stays in the table and is not trained again; delete the line to train it. It stays in the figure
    where that is of pictures, which are kept in ``FIGURE-pictures.png``.

    :param name: one of :func:`names`
    :param rows: which rows to train and evaluate, by their names, the ends of their names, or patterns such as
        ``"*-cp-*"``; all when empty. The others are shown as far as they are there
    :param quick: a shorter schedule and fewer samples; not comparable with the paper, and table and figure say so
    :param out: folder of the runs
    :param train: train what is missing; False shows what is there, and says of a run of other options that it is one
    :param num_samples: importance samples for log p(x); each row has its own number when left out
    :param max_epochs: train to this epoch at most for now; without it, the same call goes on (where the learning rate
        falls to the last epoch, it is not as if it had not stopped). What a row starts from is trained whole
    :param device: ``auto``, ``cpu``, ``cuda`` or ``mps``, for training and evaluation
    :param precision: of the trainings that this call begins, such as ``"bf16-mixed"``, up to twice as fast where the
        processor has bfloat16; one that was begun goes on in its own. Evaluation is in float32 always
    :param features: network in whose features images are compared (:func:`~pyro_priors.metrics.features_for`)
    :param progress: show lines and bars
    :raises ValueError: if a name is unknown, an option is out of range, or a run folder holds a run of other options
    """
    experiment = find(name)
    chosen = experiment.select([rows] if isinstance(rows, str) else rows)
    for option, value in (("num_samples", num_samples), ("max_epochs", max_epochs)):
        if value is not None and value < 1:
            raise UserError(f"{option} must be at least 1, got {value} (for example, 10)")
    check_options((), features, "sum")
    if precision is not None and precision not in PRECISIONS:
        raise UserError(f"precision must be one of {', '.join(PRECISIONS)}, got '{precision}'")
    paper, own_name = name.split("/")
    place = path_of("out", out)
    if place.exists() and not place.is_dir():
        raise UserError(f"out is {out}, which is a file: choose the name of a folder")
    folder = place / f"{paper}{'-quick' if quick else ''}"
    runner = Runner(folder, quick, num_samples, max_epochs, device, precision, features, progress)
    for row in chosen:
        try:
            runner.config(row)  # a mistake in the options is told before anything is done
        except CheckpointError:  # what is only shown is marked
            if train:
                raise
    results, shown = [], {}
    for row in experiment.rows:
        if train and row in chosen:
            runner.say(f"row {chosen.index(row) + 1} of {len(chosen)}: {row.name}")
        result, drawn_of = runner.run(row, experiment, may_train=train and row in chosen, may_evaluate=row in chosen)
        results.append(result)
        if drawn_of is not None:
            shown[row.name] = drawn_of
    written = markdown(experiment, results, quick)
    if not train and all(result.status == NOT_TRAINED for result in results):
        runner.say(f"{runner.folder} holds no run of {name}: nothing is written")
        return Report(experiment, results, written, [])
    path = runner.folder / own_name
    files: list[Path] = []
    with shown_if_not_saved(f"the table of {name}"):
        make_folder(path.parent)
        write_atomically(path.with_suffix(".md"), written.encode())
        files.append(path.with_suffix(".md"))
    if not files:
        return Report(experiment, results, written, files)
    drawn: dict[Path, Figure] = {}
    if any(result.history for result in results):
        drawn[path.with_name(f"{own_name}-curves.png")] = _curves(results)
    if shown and experiment.figure is not None:
        with seeded(0, device_of(device)):
            drawn[path.with_suffix(".png")] = experiment.figure(shown)
    what = f"{name}: {experiment.title}{' (quick: a shorter schedule, not comparable)' if quick else ''}"
    with shown_if_not_saved(f"the figure of {name}"):
        for file, figure in drawn.items():
            figure.suptitle(textwrap.fill(what, int(CHARACTERS_PER_INCH * figure.get_figwidth())), fontsize="medium")
            save_figure(figure, file, dpi=120)
            files.append(file)
    return Report(experiment, results, written, files)


def _curves(results: Sequence[Result]) -> Figure:
    """Bounds by epoch, seeds together."""
    runs: dict[str, dict[str, list[Sequence[dict[str, Any]]]]] = {}
    for row, history in ((result.row, result.history) for result in results if result.history):
        runs.setdefault(row.data, {}).setdefault(row.of or row.name, []).append(history)
    return plots.bounds_by_epoch(runs)
