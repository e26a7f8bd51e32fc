"""Training what an experiment lacks, evaluating it, and writing ours beside the published."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import sys
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import data as data_sets
from .. import metrics, objectives, plots, zoo
from .._files import FolderError, WriteError, make_folder, save_figure
from .._lock import own_store
from .._options import path_of, typed
from .._records import read as read_record
from .._records import seal
from .._schemas import Start
from ..checkpoint import CheckpointError, write_atomically
from ..data import Splits
from ..errors import UserError
from ..metrics import Estimate
from ..metrics.evaluate import check_options
from ..metrics.record import DECIDES
from ..pair import Pair
from ..rng import seeded
from ..run_folder import RunFolder
from ..training import TrainingDiverged, fit
from ..training.config import PRECISIONS, TrainConfig, default_options, run_record
from . import pictures
from .experiment import Experiment, Row, Trained, find
from .pictures import Pictures
from .table import Result, markdown, record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Report", "reproduce"]

QUICK_SAMPLES, QUICK_IMAGES = 100, 1000
"""Importance samples, and images of the test part, for log p(x) under ``quick``."""

OF_TABLES: dict[str, Any] = {"part": "test", "seed": 0}
"""What every evaluation is of."""

FILLED_IN = ("x_shape", "condition_shape", "likelihood")
"""Options of a pair that have a default and are filled in from the data."""

CHARACTERS_PER_INCH = 11
"""Of a figure's title."""

NOT_TRAINED = "not trained"


@dataclass(frozen=True)
class Report:
    """What :func:`reproduce` found.

    :param experiment: the experiment
    :param results: one for each of its rows
    :param table: ours beside the published, in Markdown
    :param files: what was written: table (``.json``, ``.md``), bounds by epoch (``-curves.png``) and figure (``.png``)
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
    others go on. Of a run folder the table needs ``config.json``, ``metrics.jsonl`` and ``evaluation.json`` alone:
    where the weights are not kept beside them the row stays in the table, and in the figure where that is of pictures,
    which are kept as ``FIGURE.png``.

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
    runner = _Runner(folder, quick, num_samples, max_epochs, device, precision, features, progress)
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
    with _kept(f"the table of {name}"):
        make_folder(path.parent)
        content = json.dumps(record(experiment, results, quick), indent=1)
        for file, text in ((path.with_suffix(".json"), content), (path.with_suffix(".md"), written)):
            write_atomically(file, text.encode())
            files.append(file)
    if not files:
        return Report(experiment, results, written, files)
    drawn: dict[Path, Figure] = {}
    if any(result.history for result in results):
        drawn[path.with_name(f"{own_name}-curves.png")] = _curves(results)
    if shown and experiment.figure is not None:
        with seeded(0, _device(device)):
            drawn[path.with_suffix(".png")] = experiment.figure(shown)
    what = f"{name}: {experiment.title}{' (quick: a shorter schedule, not comparable)' if quick else ''}"
    with _kept(f"the figure of {name}"):
        for file, figure in drawn.items():
            figure.suptitle(textwrap.fill(what, int(CHARACTERS_PER_INCH * figure.get_figwidth())), fontsize="medium")
            save_figure(figure, file, dpi=120)
            files.append(file)
    return Report(experiment, results, written, files)


@contextmanager
def _kept(what: str) -> Iterator[None]:
    """While something is written that was computed: where it cannot be, a warning says so, and it is still shown."""
    try:
        yield
    except OSError as error:
        warnings.warn(f"{what} is shown but not saved: {error}", RuntimeWarning, stacklevel=4)


def _curves(results: Sequence[Result]) -> Figure:
    """Bounds by epoch, seeds together."""
    runs: dict[str, dict[str, list[Sequence[dict[str, Any]]]]] = {}
    for row, history in ((result.row, result.history) for result in results if result.history):
        runs.setdefault(row.data, {}).setdefault(row.of or row.name, []).append(history)
    return plots.bounds_by_epoch(runs)


@dataclass
class _Runner:
    folder: Path
    quick: bool
    num_samples: int | None
    max_epochs: int | None
    device: str
    precision: str | None
    features: str
    progress: bool
    loaded: dict[str, Splits] = field(default_factory=dict)

    def say(self, line: str) -> None:
        if self.progress:
            print(line, file=sys.stderr, flush=True)

    def data(self, row: Row) -> Splits:
        """The row's data, read once for all rows that share them."""
        key = json.dumps([row.data, dict(row.data_options)])
        if key not in self.loaded:
            self.loaded[key] = data_sets.load(row.data, **row.data_options)
        return self.loaded[key]

    def config(self, row: Row) -> TrainConfig:
        config = dataclasses.replace(row.quick if self.quick else row.train, device=self.device)
        folder = RunFolder(self.folder / row.name)
        begun = folder.holds_a_run or folder.holds_numbers_only
        begun_in = folder.config()["train"].get("precision") if begun else None
        config = dataclasses.replace(config, precision=begun_in or self.precision or config.precision)
        return config if self.max_epochs is None else dataclasses.replace(config, max_epochs=self.max_epochs)

    def run(
        self, row: Row, experiment: Experiment, may_train: bool, may_evaluate: bool
    ) -> tuple[Result, Trained | Pictures | None]:
        """Train and evaluate one row, as far as it has to be and may be; with it what the figure is drawn of."""
        folder = RunFolder(self.folder / row.name)
        try:
            return self.run_in(folder, row, experiment, may_train, may_evaluate)
        except CheckpointError as error:
            if may_train:
                raise
            return Result(row, f"not shown: {error}"), None

    def run_in(
        self, folder: RunFolder, row: Row, experiment: Experiment, may_train: bool, may_evaluate: bool
    ) -> tuple[Result, Trained | Pictures | None]:
        """As :meth:`run`, which marks a row whose folder cannot be read."""
        config = self.config(row)
        if not (folder.holds_numbers_only or _is_done(folder, config) or may_train):
            reached = folder.progress()
            status = f"not finished: epoch {reached['epoch']}" if reached else NOT_TRAINED
            if reached and reached.get("diverged"):
                status = f"diverged: {reached['diverged']}"
            return Result(row, status), None
        try:
            if folder.holds_numbers_only:
                folder.compare(_options(row, config), self.defaults(row), filled_in=FILLED_IN)
                self.started(row, config, folder)
                result = self.result(row, config, folder, self.kept(row, experiment, folder))
                return result, self.pictures(experiment, folder) if result.estimates else None
            data = self.data(row)
            pair = self.pair(row, data)
        except (WriteError, FolderError) as error:  # the rows before it are still shown
            warnings.warn(f"{row.name} is not finished: {error}", RuntimeWarning, stacklevel=3)
            return Result(row, "not finished: its run cannot be written"), None
        except ValueError as error:
            if may_train:
                raise
            return Result(row, f"not shown: {error}"), None
        if isinstance(pair, TrainingDiverged):
            return Result(row, f"diverged: {pair}"), None
        pair.to(_device(self.device), torch.float32).eval()
        trained = Trained(row, pair, data, self.folder.parent / "judges", folder.history())
        try:
            evaluation = self.evaluate(trained, experiment, folder, may_evaluate)
        except (KeyboardInterrupt, SystemExit):
            self.say(f"stopped while {row.name} was evaluated: the same command goes on from there")
            raise
        estimates = {name: Estimate(**values) for name, values in evaluation.get("metrics", {}).items()}
        result = self.result(row, config, folder, estimates, evaluation)
        return result, self.pictures(experiment, folder, trained)

    def pictures(
        self, experiment: Experiment, folder: RunFolder, trained: Trained | None = None
    ) -> Trained | Pictures | None:
        """What the figure is drawn of: the row's pictures, kept or new, where it is made of pictures, or the row."""
        if experiment.pictures is None:
            return trained
        file = folder.path / f"{experiment.name.split('/')[1]}.png"
        weights = folder.weights() or (folder.evaluation() or {}).get("weights")
        kept = pictures.load(file, weights)
        if kept is None and trained is not None and weights is not None:
            with seeded(0, trained.pair.device), own_store():
                kept = experiment.pictures(trained)
            with _kept(f"the pictures of {trained.row.name}"):
                pictures.save(kept, file, weights)
                kept = pictures.load(file, weights)  # what is drawn does not depend on whether they were kept
        return kept

    def result(
        self,
        row: Row,
        config: TrainConfig,
        folder: RunFolder,
        estimates: dict[str, Estimate],
        evaluation: Mapping[str, Any] | None = None,
    ) -> Result:
        """What the table has of a row that has ended.

        :param evaluation: what the estimates are of; the one in the folder when left out, or empty
        """
        history, evaluation = folder.history(), evaluation or folder.evaluation(**OF_TABLES) or {}
        intended = row.quick if self.quick else row.train
        seconds = [line["seconds"] for line in history]
        return Result(
            row,
            "" if estimates else "not evaluated",
            estimates,
            epochs=folder.num_epochs,
            cut_short=folder.num_epochs < intended.max_epochs and not _out_of_patience(history, intended),
            # the first has the compiling in it
            seconds_per_epoch=statistics.median(seconds[1:] or seconds) if seconds else None,
            source=evaluation.get("data", ""),
            precision=config.precision,
            evaluation={key: evaluation.get(key) for key in ("part", "num_samples", "num_data", "categories", "seed")},
            history=history,
        )

    @staticmethod
    def defaults(row: Row) -> dict[str, Any]:
        """The default of each option of a run."""
        pair = {"name": row.pair, "config": zoo.config_of(row.pair, row.pair_options)}
        return default_options(pair, objectives.OBJECTIVES[row.objective])

    def kept(self, row: Row, experiment: Experiment, folder: RunFolder) -> dict[str, Estimate]:
        """The estimates of a run whose weights are not kept; none where it has not all of them."""
        found = folder.evaluation(**OF_TABLES) or {}
        known: Sequence[str] = found.get("asked", ())
        missing = set(_asked(row, experiment)).difference(known)
        if missing:
            self.say(
                f"{row.name}: {folder.path} has no {', '.join(sorted(missing))}, and the weights are not kept: delete "
                "it to train the row again"
            )
            return {}
        return {name: Estimate(**values) for name, values in found["metrics"].items()}

    def pair(self, row: Row, data: Splits) -> Pair | TrainingDiverged:
        """The row's pair, trained as far as that is still to be done."""
        folder, config = RunFolder(self.folder / row.name), self.config(row)
        pair = zoo.create_for(row.pair, data, config.seed, **row.pair_options)
        objective = objectives.OBJECTIVES[row.objective](**row.objective_options)
        if _is_done(folder, config):
            folder.compare(run_record(pair, data, objective, config), self.defaults(row))
            self.started(row, config, folder)
            pair.load_weights(folder.path / "pair")
            return pair
        if row.start is not None and folder.progress() is None:
            learned = self.whole.pair(row.start.learned, data)
            if isinstance(learned, TrainingDiverged):
                return TrainingDiverged(f"{row.start.learned.name}, which it starts from: {learned}")
            self.say(f"{row.name} starts from {row.start.learned.name}")
            for one in (pair, learned):
                one.to(_device(self.device), torch.float32)
            options = {"seed": config.seed, "progress": self.progress, **row.start.options}
            try:
                row.start.how(pair, data, learned.eval(), **options)
            except TrainingDiverged as error:
                return error
        self.started(row, config, folder, begins=folder.progress() is None)
        return self.train(folder, pair, data, objective, config) or pair

    @property
    def whole(self) -> _Runner:
        """The same without a limit on the epochs."""
        return dataclasses.replace(self, max_epochs=None)

    def started(self, row: Row, config: TrainConfig, folder: RunFolder, begins: bool = False) -> None:
        """Write where a training starts into its run folder, or compare it with what is there.

        :raises ValueError: if the run in the folder started from something else
        """
        file = folder.path / "start.json"
        start: dict[str, Any] | None = None
        if row.start is not None:
            parameters = signature(row.start.how).parameters.values()
            options = {p.name: p.default for p in parameters if p.default is not p.empty and p.name != "progress"}
            start = {
                "how": row.start.how.__name__,
                "options": options | {"seed": config.seed} | dict(row.start.options),
                "learned": row.start.learned.name,
                "weights": RunFolder(self.folder / row.start.learned.name).weights(),
            }
        if begins and start is not None:
            make_folder(file.parent)
            write_atomically(file, json.dumps(seal(start), indent=1).encode())
        try:
            found = read_record(file, Start, folder.path)
        except FileNotFoundError:
            found = None
        start = json.loads(json.dumps(start))
        if start is not None and found is not None and start["weights"] is None:
            start["weights"] = found["weights"]  # what it started from need not be kept
        if found != start:
            raise UserError(
                f"{folder.path} holds a run that started from {found}, asked for is {start}: choose another --out"
            )

    def train(
        self, folder: RunFolder, pair: Pair, data: Splits, objective: Any, config: TrainConfig
    ) -> TrainingDiverged | None:
        """Train, or go on where it stopped."""
        try:
            fit(
                pair,
                data,
                objective,
                out=folder.path,
                resume=folder.holds_a_run,
                progress=self.progress,
                config=config,
            )
        except TrainingDiverged as error:
            return error
        except (KeyboardInterrupt, SystemExit):
            self.say(f"stopped in {folder.path}: the same command goes on from there")
            raise
        return None

    def evaluate(
        self, trained: Trained, experiment: Experiment, folder: RunFolder, may_evaluate: bool
    ) -> Mapping[str, Any]:
        """An evaluation with what the experiment asks of the row: from ``evaluation.json`` what is there already,
        computed what is not; empty if something is missing that may not be computed."""
        row, pair, data = trained.row, trained.pair, trained.data
        source = folder.source(pair.saved_digest)  # the run may have another pair when the evaluation ends
        measures = {measure.__name__: partial(measure, pair, data) for measure in row.measures}
        judges = (*row.judges, *experiment.judges)
        measures |= {judge.__name__: partial(judge, trained) for judge in judges}
        asked = _asked(row, experiment)
        samples = self.num_samples or (QUICK_SAMPLES if self.quick else row.num_samples)
        given: dict[str, Any] = OF_TABLES | {"num_samples": samples}
        given["num_data"] = QUICK_IMAGES if self.quick and data.image_shape is not None else row.num_data
        if given["num_data"] >= len(data.test):
            given["num_data"] = 0  # all
        given["categories"] = row.categories
        given["features"] = self.features
        old = folder.evaluation(**OF_TABLES) or {}
        if old.get("weights") != source["weights"] or not metrics.can_be_beside(old, given | {"data": data.source}):
            old = {}
        known = set(old.get("asked", ()))
        if may_evaluate and "log_likelihood" in known and not self.suffices(old, given):
            known.discard("log_likelihood")
        if may_evaluate and old.get("features", "auto") != self.features:
            known.difference_update(DECIDES["features"])
        missing = [name for name in asked if name not in known]
        if missing and not may_evaluate:
            return {}
        if missing:
            self.say(f"evaluating {row.name}: {', '.join(missing)}")
            found: dict[str, Estimate] = {}
            rest = [name for name in missing if name not in measures and name != "log_likelihood"]
            if rest:
                found |= metrics.evaluate(pair, data, metrics=rest, features=self.features, progress=self.progress)
            if "log_likelihood" in missing:
                found |= self.log_likelihood(pair, data, samples, given["num_data"], row.categories)
            for name in missing:
                if name in measures:
                    with seeded(given["seed"], pair.device), own_store():
                        found |= measures[name]()
            new = metrics.record(pair, data, found, missing, **given) | source
            old = metrics.beside(old or None, new)
            with _kept(f"the evaluation of {row.name}"):
                folder.save_evaluation(new, metrics.beside)
        return old

    def suffices(self, old: dict[str, Any], given: dict[str, Any]) -> bool:
        """Whether log p(x) is there: of as many samples as were asked for, or no fewer than a row's own number."""
        of_same_data = old.get("num_data") == given["num_data"]
        if old.get("categories", "sum") != given["categories"]:
            return False
        same = old.get("num_samples") == given["num_samples"]
        more = self.num_samples is None and old.get("num_samples", 0) > given["num_samples"]
        return of_same_data and (same or more)

    def log_likelihood(
        self, pair: Pair, data: Splits, num_samples: int, num_data: int, categories: str
    ) -> dict[str, Estimate]:
        """Log p(x), and where it is of fewer data than the bound, the bound of the same data."""
        options: dict[str, Any] = {"num_samples": num_samples, "categories": categories, "progress": self.progress}
        if not num_data:
            return metrics.evaluate(pair, data, metrics=["log_likelihood"], **options)
        first = dataclasses.replace(data, test=data.test.take(slice(num_data)))
        found = metrics.evaluate(pair, first, metrics=["bound", "log_likelihood"], **options)
        kept = {name: found[name] for name in ("log_likelihood", "bits_per_dim") if name in found}
        return kept | {metrics.OF_SAME: found["bound"]}


def _asked(row: Row, experiment: Experiment) -> list[str]:
    """Names of what is evaluated of a row."""
    return [*experiment.metrics, *(one.__name__ for one in (*row.measures, *row.judges, *experiment.judges))]


def _options(row: Row, config: TrainConfig) -> dict[str, Any]:
    """What a row says of its run, in the form of ``config.json``."""
    config_of_pair = zoo.config_of(row.pair, row.pair_options)
    return {
        "pair": {"name": row.pair, "config": config_of_pair},
        "data": {"name": row.data, "config": dict(row.data_options)},
        "objective": {"name": row.objective, "config": dict(row.objective_options)},
        "train": dataclasses.asdict(config),
    }


def _is_done(folder: RunFolder, config: TrainConfig) -> bool:
    """Whether the training has ended, by these options, and left its pair."""
    progress = folder.progress()
    if progress is None or folder.weights() is None or progress.get("diverged"):
        return False
    stopped = bool(progress["stopped"]) and _out_of_patience(folder.history(), config)
    return stopped or progress["epoch"] >= config.max_epochs


def _out_of_patience(history: Sequence[dict[str, Any]], config: TrainConfig) -> bool:
    """Whether a training ended since its validation bound was not bettered for so many epochs."""
    if not config.patience or not history:
        return False
    best = max(history, key=lambda line: line["valid_bound"])["epoch"]
    counted_from = max(best, math.ceil(max(config.warmup_epochs, config.frozen_epochs)) - 1)
    return history[-1]["epoch"] - counted_from >= config.patience


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return torch.device(name)
