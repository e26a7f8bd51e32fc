"""The command ``pyro-priors compare``, which compares runs."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from .. import metrics, zoo
from .._files import make_folder, write_atomically
from .._options import Seed, path_of
from ..errors import UserError
from ..metrics.examples import PER_EXAMPLE
from ..run_folder import RunFolder
from . import parsing
from .opening import check_imports, existing_run
from .seeds import mean_and_spread, runs_of_seeds

__all__ = ["run"]

ELBO, LOG_P = "bound", "log_likelihood"
"""Names of the two quantities in an evaluation."""
TITLES = {"elbo": "ELBO", LOG_P: "log p(x)", "valid_elbo": "validation ELBO"}
"""Titles of the quantities by which runs are ordered."""


@dataclass(frozen=True)
class Number:
    """A number of a run, or its mean over seeds.

    :param value: the number
    :param spread: standard error over examples, or standard deviation over seeds; None if there is none
    """

    value: float
    spread: float | None = None


@dataclass
class Compared:
    """What is compared of a run, or of the runs of several seeds.

    :param name: path of the run
    :param seeds: seeds of the runs, empty for one run
    :param pair: name of the pair
    :param prior: name of its prior
    :param objective: name of the objective
    :param numbers: ``elbo``, ``log_likelihood`` and ``valid_elbo``, as far as they are known
    :param active_units: active units of each site, and of how many
    :param parameters: number of parameters
    :param seconds: duration of the training in seconds
    :param data: checksum of the examples; empty if no values are kept for each example
    :param per_example: by quantity, values for each example, averaged over seeds
    :param kind: kind of values of x of which p(x) is a probability or a density
    :param num_samples: importance samples for log p(x)
    """

    name: str
    seeds: list[int]
    pair: str
    prior: str
    objective: str
    numbers: dict[str, Number]
    active_units: dict[str, tuple[float, int]]
    parameters: int | None
    seconds: float
    data: str = ""
    per_example: Mapping[str, Tensor] = field(default_factory=dict)
    kind: str = ""
    num_samples: int = 0


USAGE = """usage: pyro-priors compare RUN RUN ... [options]

Compare runs that were evaluated: a table, best first, and paired differences over the examples.
A folder of train --seeds counts as one run, with means over its seeds."""


def run(arguments: Sequence[str]) -> None:
    """Run the command.

    :param arguments: the arguments after ``compare``
    :raises ValueError: if an argument is wrong, or the runs cannot be compared
    """

    @dataclass(frozen=True)
    class Options:
        """Options of compare."""

        split: Literal["train", "valid", "test"] = "test"
        """Split of the data on which the runs were evaluated."""
        seed: Seed = 0
        """Seed of the noise with which they were evaluated."""
        out: str | None = None
        """Write the comparison as JSON to this file."""

    if any(argument in ("-h", "--help") for argument in arguments):
        print(f"{USAGE}\n")
        arguments = ["--help"]
    first_option = next((i for i, one in enumerate(arguments) if one.startswith("-")), len(arguments))
    names, rest = arguments[:first_option], arguments[first_option:]
    options = parsing.parse(Options, rest, "compare")
    if len(names) < 2:
        raise UserError(
            f"compare needs at least two run folders first, got {len(names)}: give two or more, such as runs/a runs/b"
        )
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise UserError(f"{twice[0]} is given twice: give each run once")
    out = None if options.out is None else path_of("--out", options.out, "comparison.json")
    if out is not None and out.suffix != ".json":
        raise UserError(f"--out must end in .json, got '{options.out}': give comparison.json")
    found = [_compared(name, options.split, options.seed) for name in names]
    _check_comparable(found, options.split)
    order = _order(found)
    found.sort(key=lambda one: -one.numbers[order].value if order in one.numbers else math.inf)
    differences = _differences(found)
    print("\n".join(_table(found, order, differences, options.split)))
    if out is not None:
        make_folder(out.parent)
        write_atomically(out, json.dumps(_as_json(found, order, differences, options), indent=1).encode())
        print(f"written to {out}")


def _compared(name: str, split: str, seed: int) -> Compared:
    """Read what is compared of a run, or of the runs of several seeds."""
    of_seeds = runs_of_seeds(name)
    if of_seeds is None:
        return _of_run(existing_run(name), name, split, seed)
    each = {number: _of_run(run, name, split, seed) for number, run in of_seeds.finished_or_refused().items()}
    runs = [*each.values()]
    numbers: dict[str, Number] = {}
    for key in TITLES:
        values = [one.numbers[key].value for one in runs if key in one.numbers]
        if len(values) == len(runs):
            numbers[key] = Number(*mean_and_spread(values))
    _check_comparable(runs, split)
    quantities = [key for key in PER_EXAMPLE if all(key in one.per_example for one in runs)]
    first = runs[0]
    return Compared(
        name,
        [*each],
        first.pair,
        first.prior,
        first.objective,
        numbers,
        {
            site: (statistics.fmean(one.active_units[site][0] for one in runs), most)
            for site, (_, most) in first.active_units.items()
            if all(site in one.active_units for one in runs)
        },
        first.parameters,
        statistics.fmean(one.seconds for one in runs),
        first.data if quantities else "",
        {key: torch.stack([one.per_example[key] for one in runs]).mean(0) for key in quantities},
        first.kind,
        min(one.num_samples for one in runs),
    )


def _of_run(folder: RunFolder, name: str, split: str, seed: int) -> Compared:
    config = folder.config()
    check_imports(folder.path, config.get("imports", ()))
    evaluation = folder.evaluation(split, seed) or {"metrics": {}}
    history = folder.history()
    estimates = evaluation["metrics"]
    numbers = {
        key: Number(estimates[known]["value"], estimates[known]["stderr"])
        for key, known in (("elbo", ELBO), (LOG_P, LOG_P))
        if known in estimates
    }
    if history:
        numbers["valid_elbo"] = Number(max(record["valid_bound"] for record in history))
    active = {
        key.removeprefix("active_units_"): (one["value"], int(one["unit"].split()[-1]))
        for key, one in estimates.items()
        if key.startswith("active_units_")
    }
    kept = metrics.kept_examples(folder, split, seed)
    recipe = config["pair"] or {"name": "-", "config": {}}
    prior = recipe["config"].get("prior")
    parameters, kind = _size_and_kind(folder.path)
    return Compared(
        name,
        [],
        recipe["name"],
        str(prior["name"]) if isinstance(prior, dict) and "name" in prior else "-",
        config["objective"]["name"],
        numbers,
        active,
        parameters,
        sum(record["seconds"] for record in history),
        "" if kept is None else kept.data,
        {} if kept is None else kept.values,
        kind,
        0 if LOG_P not in estimates else evaluation.get("num_samples", 0),
    )


def _size_and_kind(path: Path) -> tuple[int | None, str]:
    """Return number of parameters and kind of p(x) of a pair; None and "" if it needs modules from Python."""
    if not (path / "pair" / "pair.json").exists():
        return None, ""
    try:
        pair = zoo.load(path)
    except UserError as error:
        parsing.warn(f"the number of parameters is left out: {error}")
        return None, ""
    kind = "" if pair.likelihood is None else pair.likelihood.values
    return sum(parameter.numel() for parameter in pair.parameters()), kind


def _check_comparable(found: Sequence[Compared], split: str) -> None:
    """Refuse runs whose log-likelihoods are of other examples, or of another kind.

    :raises ValueError: with two such runs
    """
    of_kind = [one for one in found if one.kind]
    for one in of_kind[1:]:
        if one.kind != of_kind[0].kind:
            raise UserError(
                f"{of_kind[0].name} has p(x) of {of_kind[0].kind}, {one.name} of {one.kind}: their nats cannot be "
                "compared, compare runs of one likelihood"
            )
    of_data = [one for one in found if one.data]
    for one in of_data[1:]:
        if one.data != of_data[0].data:
            raise UserError(
                f"{one.name} was evaluated on other examples than {of_data[0].name} (the {split} splits differ in "
                "data, order, binarization or condition): evaluate both on the same data"
            )


def _order(found: Sequence[Compared]) -> str:
    """Return the quantity by which runs are ordered: the first that all have."""
    in_order = (LOG_P, "elbo", "valid_elbo")
    return next((key for key in in_order if all(key in one.numbers for one in found)), "valid_elbo")


def _differences(found: Sequence[Compared]) -> list[dict[str, Any]]:
    """Return the paired differences of each two runs, the better one less the other."""
    return [
        {
            "run": one.name,
            "minus": other.name,
            "quantity": quantity,
            "value": estimate.value,
            "stderr": estimate.stderr,
            "num_examples": len(one.per_example[quantity]),
        }
        for i, one in enumerate(found)
        for other in found[i + 1 :]
        for quantity, estimate in metrics.paired_differences(one.per_example, other.per_example).items()
    ]


def _shown(number: Number | None) -> str:
    if number is None:
        return "-"
    return f"{number.value:.3f}" + ("" if number.spread is None else f" ± {number.spread:.2g}")


def _table(found: Sequence[Compared], order: str, differences: Sequence[dict[str, Any]], split: str) -> list[str]:
    """Return the lines of the comparison."""
    head = ["run", "prior", "objective", *TITLES.values(), "active units", "parameters", "seconds"]
    rows = [
        [
            one.name + (f" ({len(one.seeds)} seeds)" if one.seeds else ""),
            one.prior,
            one.objective,
            *(_shown(one.numbers.get(key)) for key in TITLES),
            " ".join(f"{value:g}/{most}" for value, most in one.active_units.values()) or "-",
            "-" if one.parameters is None else f"{one.parameters:,}",
            f"{one.seconds:.0f}",
        ]
        for one in found
    ]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [f"best first by {TITLES[order]}; {split} split, nats per example"]
    for row in [head, *rows]:
        lines.append("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    spreads = ["standard error over examples"] if any(not one.seeds for one in found) else []
    spreads += ["standard deviation over seeds, for several seeds"] if any(one.seeds for one in found) else []
    lines.append(f"±: {'; '.join(spreads)}")
    samples = {one.num_samples for one in found if one.num_samples}
    if len(samples) > 1:
        lines.append(f"log p(x) is of other numbers of importance samples: {', '.join(map(str, sorted(samples)))}")
    of_best = [one for one in differences if one["run"] == found[0].name]
    if of_best:
        over = "over seed means, " if any(one.seeds for one in found) else ""
        lines.append(f"{found[0].name} less the others, {over}paired over {of_best[0]['num_examples']} examples:")
        width = max(len(one["minus"]) for one in of_best)
        for one in of_best:
            number = Number(one["value"], one["stderr"])
            lines.append(f"  {one['minus']:{width}}  {TITLES[one['quantity']]:8}  {_shown(number)}")
    if without := [one.name for one in found if not one.per_example]:
        lines.append(f"no values per example of {', '.join(without)}: pyro-priors evaluate RUN --part {split}")
    return lines


def _as_json(
    found: Sequence[Compared], order: str, differences: Sequence[dict[str, Any]], options: Any
) -> dict[str, Any]:
    """Return the comparison as JSON has it."""
    runs = [
        {
            "run": one.name,
            "seeds": one.seeds,
            "pair": one.pair,
            "prior": one.prior,
            "objective": one.objective,
            **{key: asdict(one.numbers[key]) if key in one.numbers else None for key in TITLES},
            "spread_over": "seeds" if one.seeds else "examples",
            "num_samples": one.num_samples,
            "active_units": {site: {"value": value, "of": most} for site, (value, most) in one.active_units.items()},
            "parameters": one.parameters,
            "seconds": one.seconds,
        }
        for one in found
    ]
    about = {"split": options.split, "seed": options.seed, "ordered_by": order, "unit": "nats per example"}
    return {**about, "runs": runs, "differences": list(differences)}
