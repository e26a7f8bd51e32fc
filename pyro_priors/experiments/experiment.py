"""What an experiment is: rows to train, columns to report, published numbers beside them, a figure of the pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data import Splits
from ..errors import UserError
from ..metrics import OF_SAME, Estimate
from ..pair import Pair
from ..training.config import TrainConfig
from ..zoo import hint
from .pictures import Pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Column",
    "Experiment",
    "Row",
    "Start",
    "Trained",
    "add",
    "find",
    "in_features",
    "log_likelihood",
    "names",
    "number",
    "seeds",
    "validation_bound",
]

Estimates = Mapping[str, Estimate]


@dataclass(frozen=True)
class Start:
    """What is done to a new pair before its training, by what another pair has learned.

    :param learned: row of the other pair, which is trained whole before, in a run folder of its own
    :param how: called as ``how(pair, data, learned_pair, seed=..., progress=..., **options)``; what it does depends on
        these alone
    :param options: further arguments
    """

    learned: Row
    how: Callable[..., object]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One pair to train; rows of several experiments that are equal are trained once.

    :param name: also of its run folder
    :param pair: name in the zoo
    :param data: name of the data set
    :param train: how it is trained
    :param quick: how it is trained under ``--quick``
    :param pair_options: of the pair; what the data fix is filled in
    :param data_options: of the data set
    :param objective: name in :data:`pyro_priors.objectives.OBJECTIVES`
    :param objective_options: of the objective
    :param num_samples: importance samples for log p(x)
    :param num_data: data of the test part whose log p(x) is computed, the first ones; 0: all
    :param categories: in log p(x) summed or drawn (:meth:`~pyro_priors.Pair.log_prob`)
    :param measures: further estimates of the pair and its data, beside the metrics of the experiment
    :param judges: further estimates that take more than these: the row, or a network that judges
    :param differs: what differs from what the paper did
    :param start: where the pair's training starts; None: where it was made
    :param of: of a row that is one of several seeds: their common name (:func:`seeds`)
    """

    name: str
    pair: str
    data: str
    train: TrainConfig
    quick: TrainConfig
    pair_options: Mapping[str, Any] = field(default_factory=dict)
    data_options: Mapping[str, Any] = field(default_factory=dict)
    objective: str = "elbo"
    objective_options: Mapping[str, Any] = field(default_factory=dict)
    num_samples: int = 500
    num_data: int = 0
    categories: str = "sum"
    measures: tuple[Callable[[Pair, Splits], dict[str, Estimate]], ...] = ()
    judges: tuple[Callable[[Trained], dict[str, Estimate]], ...] = ()
    differs: tuple[str, ...] = ()
    start: Start | None = None
    of: str = ""


def seeds(row: Row, num: int) -> tuple[Row, ...]:
    """A row once for each seed 0, 1, ..., called NAME-seed0, NAME-seed1, ...; a table shows them as one, NAME. What a
    row starts from has the same seed.

    :param row: with any seed
    :param num: number of seeds
    """

    return tuple(_of_seed(row, seed) for seed in range(num))


def _of_seed(row: Row, seed: int) -> Row:
    train, quick = (dataclasses.replace(config, seed=seed) for config in (row.train, row.quick))
    start = row.start and dataclasses.replace(row.start, learned=_of_seed(row.start.learned, seed))
    return dataclasses.replace(row, name=f"{row.name}-seed{seed}", train=train, quick=quick, start=start, of=row.name)


@dataclass(frozen=True)
class Column:
    """One column of a table.

    :param title: its head
    :param cell: from the estimates of a row to what is shown, empty where they do not say
    :param published: the paper's numbers by row, shown in a column before this one
    :param digits: decimals of the published numbers
    """

    title: str
    cell: Callable[[Estimates], str]
    published: Mapping[str, float] = field(default_factory=dict)
    digits: int = 2


def number(name: str, sign: int = 1, digits: int = 2) -> Callable[[Estimates], str]:
    """A cell that shows one estimate, ± its standard error.

    :param name: of the estimate
    :param sign: -1 shows its negative
    :param digits: decimals
    """

    def cell(estimates: Estimates) -> str:
        if name not in estimates:
            return ""
        found = estimates[name]
        spread = "" if found.stderr is None else f" ± {found.stderr:.{digits}f}"
        return f"{sign * found.value:.{digits}f}{spread}"

    return cell


def log_likelihood(sign: int = 1, digits: int = 2) -> Callable[[Estimates], str]:
    """A cell that shows log p(x), and in brackets the bound of the same data where they are not the bound's.

    :param sign: -1 shows the negatives
    :param digits: decimals
    """

    def cell(estimates: Estimates) -> str:
        of_same = f" (bound {sign * estimates[OF_SAME].value:.{digits}f})" if OF_SAME in estimates else ""
        return number("log_likelihood", sign, digits)(estimates) + of_same

    return cell


def in_features(name: str, digits: int = 1, of_data: bool = False) -> Callable[[Estimates], str]:
    """A cell that shows a distance, with the name of the network in whose features it is: distances are compared within
    one network only.

    :param name: of the estimate
    :param digits: decimals
    :param of_data: show, in brackets too, what is called ``NAME_of_data``, where it is there
    """

    def cell(estimates: Estimates) -> str:
        if name not in estimates:
            return ""
        network = estimates[name].unit.partition("features of ")[2].split(",")[0]
        floor = estimates.get(f"{name}_of_data") if of_data else None
        beside = "" if floor is None else f"{floor.value:.{digits}f}; "
        return f"{number(name, digits=digits)(estimates)} ({beside}{network})"

    return cell


@dataclass(frozen=True)
class Trained:
    """A row whose pair is there, and the data that it was trained on.

    :param row: the row
    :param pair: its pair
    :param data: its data
    :param judges: folder that keeps networks that judge what is generated, each in a folder of its own
    :param history: records of the epochs of its training
    """

    row: Row
    pair: Pair
    data: Splits
    judges: Path = Path("runs/judges")
    history: Sequence[dict[str, Any]] = ()


def validation_bound(trained: Trained) -> dict[str, Estimate]:
    """The bound of the epoch whose weights are kept, on the validation part: what chooses, where anything is chosen."""
    bounds = [line["valid_bound"] for line in trained.history if line.get("valid_bound") is not None]
    bounds = bounds[-1:] if trained.row.train.keep == "last" else bounds
    return {"validation_bound": Estimate(max(bounds), None, "nats per datum")} if bounds else {}


@dataclass(frozen=True)
class Experiment:
    """A table or a figure of a paper.

    :param name: ``"PAPER/EXPERIMENT"``
    :param title: one line: what it shows
    :param rows: what it is made of
    :param metrics: names in :data:`pyro_priors.metrics.METRICS`
    :param columns: of the table
    :param differs: what differs from the paper in all rows
    :param figure: from the rows that are trained, by name, to the figure; or from their pictures, where there are any
    :param pictures: of one row, kept beside its numbers: so it is in the figure without its weights
    :param judges: further estimates of every row, as the row's own
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    metrics: tuple[str, ...]
    columns: tuple[Column, ...]
    differs: tuple[str, ...] = ()
    figure: Callable[[Mapping[str, Any]], Figure] | None = None
    pictures: Callable[[Trained], Pictures] | None = None
    judges: tuple[Callable[[Trained], dict[str, Estimate]], ...] = ()

    def select(self, patterns: Sequence[str]) -> tuple[Row, ...]:
        """The rows that a pattern names, whole or by the end of their names after a hyphen; all without patterns.

        A name that several seeds share stands for them all, and ``seed0`` for the first of each.

        :param patterns: such as ``"cp-10"`` for ``mnist-cp-10``, or ``"*-cp-*"``
        :raises ValueError: if one names no row
        """
        chosen: set[str] = set()
        for pattern in patterns:
            found = [
                row.name
                for row in self.rows
                if any(fnmatchcase(f"-{name}", f"*-{pattern}") for name in (row.name, row.of) if name)
            ]
            if not found:
                names = list(dict.fromkeys(row.of or row.name for row in self.rows))
                near = get_close_matches(pattern, names + [name.split("-", 1)[-1] for name in names], n=1)
                suggestion = f"did you mean '{near[0]}'? " if near else ""
                raise UserError(f"{self.name} has no row '{pattern}': {suggestion}give one of {', '.join(names)}")
            chosen.update(found)
        return tuple(row for row in self.rows if row.name in chosen or not patterns)


_REGISTRY: dict[str, Experiment] = {}


def add(experiment: Experiment) -> None:
    """Register an experiment under its name."""
    _REGISTRY[experiment.name] = experiment


def names() -> list[str]:
    """Names of the experiments, in the order in which they were added."""
    return list(_REGISTRY)


def find(name: str) -> Experiment:
    """The experiment of that name.

    :raises ValueError: if the name is unknown
    """
    of_paper = [one for one in names() if one.startswith(f"{name}/")]
    if of_paper:
        raise UserError(f"experiment '{name}' is a paper: choose one of {', '.join(of_paper)}")
    if name not in _REGISTRY:
        raise UserError(f"experiment '{name}' is unknown: {hint(name, names())}")
    return _REGISTRY[name]
