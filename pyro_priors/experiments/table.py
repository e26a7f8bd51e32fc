"""The table of an experiment: ours beside the published, and what differs."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..metrics import Estimate
from ..training.config import TrainConfig
from .experiment import Experiment, Row

__all__ = ["Result", "markdown"]


@dataclass(frozen=True)
class Result:
    """What is there of one row.

    :param row: the row
    :param status: why there are no numbers, or empty
    :param estimates: its numbers
    :param epochs: epochs that it was trained for
    :param cut_short: whether it could have been trained for more
    :param seconds_per_epoch: median over the epochs
    :param source: what the data are
    :param precision: of the training
    :param evaluation: how the numbers were computed
    :param history: records of the epochs
    """

    row: Row
    status: str
    estimates: dict[str, Estimate] = field(default_factory=dict)
    epochs: int = 0
    cut_short: bool = False
    seconds_per_epoch: float | None = None
    source: str = ""
    precision: str = "32-true"
    evaluation: dict[str, Any] = field(default_factory=dict)
    history: Sequence[dict[str, Any]] = ()


def markdown(experiment: Experiment, results: Sequence[Result], quick: bool) -> str:
    """The table in Markdown, with what differs below it."""
    heads = ["row"]
    for column in experiment.columns:
        heads += [f"published {column.title}"] if column.published else []
        heads.append(column.title)
    heads += ["epochs", "s/epoch", "notes"]
    notes: list[str] = []
    lines = [_line(experiment, result, quick, notes) for result in _together(results)]
    widths = [max(len(line[i]) for line in [heads, *lines]) for i in range(len(heads))]

    def join(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))} |"

    text = [f"# {experiment.name}: {experiment.title}", ""]
    if quick:
        most = max(row.quick.max_epochs for row in experiment.rows)
        text += [
            f"QUICK: a shorter schedule, of {most} epochs at most, and fewer importance samples: not comparable with "
            "the published numbers.",
            "",
        ]
    text += [join(heads), join(["-" * width for width in widths]), *map(join, lines), ""]
    text += [f"- {note}" for note in experiment.differs]
    text += [f"{i}. {note}" for i, note in enumerate(notes, 1)]
    return "\n".join(text) + "\n"


def _together(results: Sequence[Result]) -> list[Result]:
    """The results, those of the seeds of a row as one."""
    by_name: dict[str, list[Result]] = {}
    for result in results:
        by_name.setdefault(result.row.of or result.row.name, []).append(result)
    return [_of_seeds(name, found) if found[0].row.of else found[0] for name, found in by_name.items()]


def _of_seeds(name: str, results: list[Result]) -> Result:
    """One result of several seeds: of each estimate that all of them have the mean, ± the standard deviation."""
    there = [result for result in results if result.estimates]
    first = dataclasses.replace((there or results)[0].row, name=name)
    if not there:
        return dataclasses.replace(results[0], row=first)
    over = "± standard error over the data" if len(there) == 1 else "mean ± standard deviation over them"
    of = f"seed {first.train.seed} alone" if len(results) == 1 else f"{len(there)} of {len(results)} seeds"
    row = dataclasses.replace(first, differs=(*first.differs, f"{of}, {over}"))
    estimates = {}
    for key, one in there[0].estimates.items():
        values = [result.estimates[key].value for result in there if key in result.estimates]
        if len(values) == len(there):
            spread = statistics.stdev(values) if len(values) > 1 else one.stderr
            estimates[key] = Estimate(statistics.mean(values), spread, one.unit)
    return dataclasses.replace(
        there[0],
        row=row,
        estimates=estimates,
        cut_short=any(result.cut_short for result in there),
        epochs=max(result.epochs for result in there),
    )


def _line(experiment: Experiment, result: Result, quick: bool, notes: list[str]) -> list[str]:
    """The cells of a row; its notes are added to those that are there."""
    cells = [result.row.name]
    status = result.status
    for column in experiment.columns:
        if column.published:
            number = column.published.get(result.row.name)
            cells.append("" if number is None else f"{number:.{column.digits}f}")
        cells.append(status or column.cell(result.estimates))
        status = "" if not result.status else " "  # said once
    epochs = f"{result.epochs}, cut short" if result.cut_short else str(result.epochs or "")
    seconds = "" if result.seconds_per_epoch is None else f"{result.seconds_per_epoch:.3g}"
    numbers = []
    for note in _notes(experiment, result, quick):
        if note not in notes:
            notes.append(note)
        numbers.append(str(notes.index(note) + 1))
    return [*cells, epochs, seconds, " ".join(numbers)]


def _schedule(config: TrainConfig) -> str:
    found = [f"{config.max_epochs} epochs", f"batches of {config.batch_size}", f"Adam at {config.learning_rate:g}"]
    if config.schedule != "constant":
        found[-1] += f", falling {'along a cosine' if config.schedule == 'cosine' else 'linearly'}"
    if config.warmup_epochs:
        sites = f" of {' and '.join(config.warmup_sites)}" if config.warmup_sites else ""
        found.append(f"the KL{sites} warmed up over {config.warmup_epochs:g}")
    if config.frozen:
        found.append(f"{' and '.join(config.frozen)} held for {config.frozen_epochs:g}")
    if config.keep == "last":
        found.append("the last weights kept")
    if config.patience:
        found.append(f"stopped after {config.patience} without a better validation bound")
    return ", ".join(found)


def _notes(experiment: Experiment, result: Result, quick: bool) -> list[str]:
    found = list(result.row.differs)
    if result.epochs:
        found.append(f"ours: {_schedule(result.row.quick if quick else result.row.train)}")
    if result.epochs and result.row.start is not None:
        learned = result.row.start.learned
        found.append(f"starts from a {learned.pair}: {_schedule(learned.quick if quick else learned.train)}")
    if result.source:
        found.append(f"data: {result.source}")
    if result.precision != "32-true":
        found.append(f"trained in {result.precision}, evaluated in float32")
    if "log_likelihood" in experiment.metrics and "log_likelihood" in result.estimates:
        size = result.evaluation["num_data"]
        of = f" of the first {size} test data, with the bound of the same data" if size else ""
        drawn = ", c drawn along with z" if result.evaluation.get("categories") == "draw" else ""
        found.append(f"log p(x) from {result.evaluation['num_samples']} importance samples{drawn}{of}")
    return found
