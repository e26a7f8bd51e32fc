"""Training and evaluating the rows of an experiment, as far as that is still to be done."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from .. import data as data_sets
from .. import objectives, zoo
from .._files import CheckpointError, FolderError, WriteError, make_folder, write_atomically
from .._lock import own_store
from .._records import seal
from ..data import Splits
from ..errors import UserError
from ..metrics import Estimate
from ..pair import Pair
from ..rng import seeded
from ..run_folder import RunFolder
from ..training import TrainingDiverged, fit
from ..training.config import TrainConfig, default_options, run_record
from . import pictures
from .evaluation import Evaluations, asked_of, shown_if_not_saved
from .experiment import Experiment, Row, Trained
from .kept import OF_TABLES, KeptRuns, OneKeptRun, record_of, seconds_per_epoch, start_of
from .pictures import Pictures
from .table import Result

__all__ = ["NOT_TRAINED", "Runner", "device_of", "options_of_row", "shown_if_not_saved"]

FILLED_IN = ("x_shape", "condition_shape", "likelihood")
"""Options of a pair that have a default and are filled in from the data."""

NOT_TRAINED = "not trained"


@dataclass
class Runner:
    """What trains and evaluates rows; the arguments are those of :func:`~pyro_priors.experiments.reproduce`.

    :param folder: of the paper, with a run folder for each row
    :param loaded: data sets that were read
    """

    folder: Path
    quick: bool
    num_samples: int | None
    max_epochs: int | None
    device: str
    precision: str | None
    features: str
    progress: bool
    loaded: dict[str, Splits] = field(default_factory=dict)

    @cached_property
    def kept_runs(self) -> KeptRuns:
        """The runs that are there without their weights."""
        return KeptRuns(self.folder)

    @property
    def evaluations(self) -> Evaluations:
        """How rows are evaluated."""
        return Evaluations(self.quick, self.num_samples, self.features, self.progress)

    def run_of(self, row: Row) -> RunFolder:
        """The run folder of a row; or its line in ``runs.jsonl``, where there is one and no run in the folder."""
        folder = RunFolder(self.folder / row.name)
        kept = None if folder.holds_a_run else self.kept_runs.find(row.name)
        return folder if kept is None else kept

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
        folder = self.run_of(row)
        begun = folder.holds_a_run or isinstance(folder, OneKeptRun)
        begun_in = folder.config()["train"].get("precision") if begun else None
        config = dataclasses.replace(config, precision=begun_in or self.precision or config.precision)
        return config if self.max_epochs is None else dataclasses.replace(config, max_epochs=self.max_epochs)

    def run(
        self, row: Row, experiment: Experiment, may_train: bool, may_evaluate: bool
    ) -> tuple[Result, Trained | Pictures | None]:
        """Train and evaluate one row, as far as it has to be and may be; with it what the figure is drawn of."""
        try:
            folder = self.run_of(row)
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
        is_kept = isinstance(folder, OneKeptRun)
        if not (is_kept or _is_done(folder, config) or may_train):
            reached = folder.progress()
            status = f"not finished: epoch {reached['epoch']}" if reached else NOT_TRAINED
            if reached and reached.get("diverged"):
                status = f"diverged: {reached['diverged']}"
            return Result(row, status), None
        try:
            if isinstance(folder, OneKeptRun):
                folder.compare(options_of_row(row, config), self.defaults(row), filled_in=FILLED_IN)
                self.started(row, config, folder)
                if folder.record["evaluation"] is None and folder.num_epochs < config.max_epochs:
                    return Result(row, f"not finished: epoch {folder.num_epochs - 1}"), None
                result = self.result(row, config, folder, self.kept(row, experiment, folder))
                return result, self.pictures(experiment, folder, row) if result.estimates else None
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
        pair.to(device_of(self.device), torch.float32).eval()
        trained = Trained(row, pair, data, self.folder.parent / "judges", folder.history())
        try:
            evaluation = self.evaluations.of(trained, experiment, folder, may_evaluate)
        except (KeyboardInterrupt, SystemExit):
            self.say(f"stopped while {row.name} was evaluated: the same command goes on from there")
            raise
        estimates = {name: Estimate(**values) for name, values in evaluation.get("metrics", {}).items()}
        if evaluation:
            self.keep(row, folder, evaluation)
        result = self.result(row, config, folder, estimates, evaluation)
        return result, self.pictures(experiment, folder, row, trained)

    def keep(self, row: Row, folder: RunFolder, evaluation: Mapping[str, Any] | None) -> None:
        """Write what is kept of a run that has ended into ``runs.jsonl``."""
        with shown_if_not_saved(f"the line of {row.name}"):
            self.kept_runs.add([record_of(row.name, folder, evaluation)])

    def pictures(
        self, experiment: Experiment, folder: RunFolder, row: Row, trained: Trained | None = None
    ) -> Trained | Pictures | None:
        """What the figure is drawn of: the row's pictures, kept or new, where it is made of pictures, or the row."""
        if experiment.pictures is None:
            return trained
        file = self.folder / f"{experiment.name.split('/')[1]}-pictures.png"
        weights = folder.weights() or (folder.evaluation() or {}).get("weights")
        kept = pictures.load(file, row.name, weights)
        if kept is None and trained is not None and weights is not None:
            with seeded(0, trained.pair.device), own_store():
                kept = experiment.pictures(trained)
            with shown_if_not_saved(f"the pictures of {row.name}"):
                pictures.save(kept, file, row.name, weights)
                kept = pictures.load(file, row.name, weights)  # what is drawn does not depend on whether they were kept
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
        return Result(
            row,
            "" if estimates else "not evaluated",
            estimates,
            epochs=folder.num_epochs,
            cut_short=folder.num_epochs < intended.max_epochs and not _out_of_patience(history, intended),
            seconds_per_epoch=seconds_per_epoch(folder),
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
        missing = set(asked_of(row, experiment)).difference(known)
        if missing:
            self.say(
                f"{row.name}: its line in {self.kept_runs.file} has no {', '.join(sorted(missing))}, and the weights "
                "are not there: delete the line to train the row again"
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
            folder_of_learned = RunFolder(self.folder / row.start.learned.name)
            self.keep(row.start.learned, folder_of_learned, folder_of_learned.evaluation(**OF_TABLES))
            self.say(f"{row.name} starts from {row.start.learned.name}")
            for one in (pair, learned):
                one.to(device_of(self.device), torch.float32)
            options = {"seed": config.seed, "progress": self.progress, **row.start.options}
            try:
                row.start.how(pair, data, learned.eval(), **options)
            except TrainingDiverged as error:
                return error
        self.started(row, config, folder, begins=folder.progress() is None)
        return self.train(folder, pair, data, objective, config) or pair

    @property
    def whole(self) -> Runner:
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
        found = folder.start() if isinstance(folder, OneKeptRun) else start_of(folder)
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


def options_of_row(row: Row, config: TrainConfig) -> dict[str, Any]:
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


def device_of(name: str) -> torch.device:
    """Return the device of a name, of which ``auto`` is the best that there is."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return torch.device(name)
