"""The command ``pyro-priors evaluate``, which computes the metrics of a run."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from .. import data, metrics
from .._files import FolderError, WriteError
from .._options import Seed, Size
from ..errors import UserError
from ..metrics.evaluate import check_options
from ..metrics.record import DECIDES
from ..pair import Pair
from ..run_folder import RunFolder
from . import parsing
from .opening import OfRun, open_run
from .seeds import mean_and_spread, runs_of_seeds

__all__ = ["run"]


def run(arguments: Sequence[str]) -> None:
    """Run the command.

    :param arguments: the arguments after ``evaluate``
    :raises ValueError: if an argument is wrong
    """
    *others, last = metrics.ON_REQUEST
    all_but = f"Which metrics; when left out all that apply but {', '.join(others)} and {last}."

    @dataclass(frozen=True)
    class Options(OfRun):
        """Evaluate a run: a table on the screen and evaluation.json in its folder."""

        metrics: Annotated[tuple[str, ...], tyro.conf.arg(help=all_but)] = ()
        part: Literal["train", "valid", "test"] = "test"
        """Part of the data."""
        num_samples: Size | None = None
        """Importance samples for each datum's log p(x); 500 when left out."""
        categories: Literal["sum", "draw"] | None = None
        """A category in log p(x): summed, with so many samples for each, or drawn with each sample; sum when left
        out."""
        seed: Seed = 0
        """Seed of the noise."""
        features: str | None = None
        """Feature network of generation and diversity: classifier, efficientnet-lite0, inception or auto; auto when
        left out."""

    options = parsing.parse(Options, arguments, "evaluate")
    own = {name: getattr(options, name) for name in ("num_samples", "categories", "features")}
    computed = options.metrics or [name for name in metrics.METRICS if name not in metrics.ON_REQUEST]
    given: dict[str, Any] = {"num_samples": 500, "categories": "sum", "features": "auto", "seed": options.seed}
    for name, value in own.items():
        if value is not None and set(computed) <= metrics.METRICS.keys() and not set(computed) & set(DECIDES[name]):
            option = f"--{name.replace('_', '-')}"
            raise UserError(
                f"{option} is {value}, and none of the metrics reads it: give --metrics "
                f"{' or '.join(DECIDES[name])}, or leave {option} out"
            )
    given |= {name: value for name, value in own.items() if value is not None}
    check_options(options.metrics, given["features"], given["categories"])
    if (runs := runs_of_seeds(options.run)) is None:
        _evaluate(options, given)
        return
    each = {
        seed: _evaluate(dataclasses.replace(options, run=str(run.path)), given)
        for seed, run in runs.finished_or_refused().items()
    }
    _show_spread(options.run, options.part, each)


def _evaluate(options: Any, given: dict[str, Any]) -> dict[str, metrics.Estimate]:
    """Evaluate one run, show its table and keep it in the run.

    :param options: options of the command
    :param given: options of the metrics
    :raises ValueError: if no metric applies
    """
    folder, pair, splits = open_run(options)
    source = folder.source(pair.saved_digest)  # the run may have another pair when the evaluation ends
    replaced = " (of the pair that was saved over the run's)" if folder.pair_is_replaced else ""
    values: dict[str, Any] = {}
    each = metrics.evaluate_each(pair, splits, options.part, metrics=options.metrics, per_example=values, **given)
    results = {name: estimate for found in each.values() for name, estimate in found.items()}
    left_out = [f"{name} (needs {metrics.NEEDS[name]})" for name in options.metrics if not each[name]]
    if not results:
        raise UserError(f"metrics: none applies to this pair and its data: leave out {', '.join(left_out)}")
    found = metrics.record(pair, splits, results, each, part=options.part, num_data=0, **given) | source
    try:
        part = splits.parts[options.part]
        print(f"{options.run}, {options.part} part of {splits.name} ({len(part)} data){replaced}")
        if left_out:
            print(f"  not of this pair and its data: {', '.join(left_out)}")
        _show(results, pair, splits)
    finally:  # also where nobody reads it
        try:
            _keep(found, folder)
            if values:
                keys = ("seed", "num_samples", "categories", "weights")
                digest = metrics.digest_of_examples(splits, options.part)
                of_each = metrics.PerExample(values, options.part, data=digest, **{key: found[key] for key in keys})
                metrics.keep_examples(folder, of_each)
        except (WriteError, FolderError) as error:
            parsing.warn(f"{error}; the numbers are not kept")
    return results


def _show_spread(run: str, split: str, each: Mapping[int, Mapping[str, metrics.Estimate]]) -> None:
    """Print mean and standard deviation over seeds of the estimates that all runs have."""
    first, *others = each.values()
    names = [name for name in first if all(name in one for one in others)]
    over = f"mean ± standard deviation over {len(each)} seeds" if others else "one seed"
    print(f"{run}, {split} split: {over} ({', '.join(map(str, each))})")
    width = max(map(len, names), default=0) + 2
    for name in names:
        mean, spread = mean_and_spread([one[name].value for one in each.values()])
        shown = f" ± {spread:.4g}" if spread is not None else ""
        print(f"  {name:{width}}{mean:>12.4f}{shown:12} {first[name].unit}")


def _show(results: dict[str, metrics.Estimate], pair: Pair, splits: data.Splits) -> None:
    width = max(map(len, [*results, "q(c), largest first"])) + 2
    for name, estimate in results.items():
        if name.removesuffix("_of_data") in results.keys() - {name}:
            continue  # beside what is generated
        spread = f" ± {estimate.stderr:.4g}" if estimate.stderr is not None else ""
        of_data = f"of data {results[f'{name}_of_data'].value:.4f}; " if f"{name}_of_data" in results else ""
        print(f"  {name:{width}}{estimate.value:>12.4f}{spread:12} {of_data}{estimate.unit}")
    if pair.aggregate_c is not None:
        shares = " ".join(f"{share:.3f}" for share in pair.aggregate_c.sort(descending=True).values[:12].tolist())
        print(f"  {'q(c), largest first':{width}}{shares}{' ...' if pair.num_categories > 12 else ''} (training part)")
    if splits.true_log_likelihood is not None:
        print(f"  {'true log-likelihood':{width}}{splits.true_log_likelihood:>12.4f}{'':12} nats per datum")
    print(end="", flush=True)


def _keep(found: dict[str, Any], folder: RunFolder) -> None:
    """Write an evaluation, and say what became of the ones before."""
    kept, before, file, set_aside = folder.save_evaluation(found, metrics.beside)
    if file.name != "evaluation.json":
        print(f"  {folder.path} has another pair now: these numbers are of the one before, and are in {file.name}")
    if set_aside is not None:
        print(f"  the evaluation before is now {set_aside.name}")
    if before is not None and (lost := [name for name in before["metrics"] if name not in kept["metrics"]]):
        was = f"{before.get('part')} part, seed {before.get('seed')}, features {before.get('features', 'auto')}"
        first = [name for name in lost if not any(name.startswith(f"{other}_") for other in lost)]
        print(f"  {file.name} has no more ({was}): {', '.join(first)}")
