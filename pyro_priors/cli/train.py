"""The command ``pyro-priors train``, which trains a pair into a run folder."""

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any

from .. import data, objectives, zoo
from .._files import WriteError
from .._options import path_of
from ..data import DataConfig
from ..errors import UserError
from ..run_folder import RunFolder
from ..training import fit
from ..training.config import TrainConfig
from ..training.progress import History
from . import parsing
from .arguments import check_once
from .grammar import choose_factors, grouped, helped, options_of_family, plain_options, taken
from .seeds import best_elbo, runs_of_seeds, split_seeds, train_seeds

__all__ = ["run"]

MANY_PIXELS = 4096
"""Values of an image above which perceptrons are warned of."""


def run(arguments: Sequence[str]) -> None:
    """Run the command.

    :param arguments: the arguments after ``train``
    :raises ValueError: if an argument is wrong
    """
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        raise UserError(f"train needs the name of a pair first: one of {', '.join(zoo.names())}")
    if arguments[0] in ("-h", "--help"):
        print(
            "usage: pyro-priors train PAIR --data NAME --out FOLDER [options]\n\n"
            f"PAIR is one of {', '.join(zoo.names())}; its options: pyro-priors train PAIR --help\n"
            "--prior, --likelihood, --networks and --objective NAME choose its factors (see pyro-priors list), whose\n"
            "options are --prior.OPTION and so on: pyro-priors train PAIR --prior NAME --help shows them\n"
            f"NAME of --data is a file .npz or one of {', '.join(data.names())}"
        )
        return
    check_once(arguments[1:])
    seeds, rest = split_seeds(arguments)
    if seeds is not None and not {"-h", "--help"}.intersection(rest):
        train_seeds(seeds, rest, train_one, trained)
        return
    out = taken(rest, "out")[0]
    if out and (runs := runs_of_seeds(out, "--out")) is not None:
        shown = " ".join(map(str, runs.seeds))
        raise UserError(f"out is {out}, which has the runs of the seeds {shown}: choose another --out, or give --seeds")
    history = train_one(rest, RunFolder)
    print(f"{trained(history)}; now: pyro-priors evaluate {out}")


def train_one(arguments: Sequence[str], folder_of: Callable[[str, Sequence[str]], RunFolder]) -> History:
    """Train one run.

    :param arguments: the arguments after ``train``
    :param folder_of: makes the run folder from a path and the command that starts the run
    :raises ValueError: if an argument is wrong
    """
    name = arguments[0]
    if name not in zoo.names():
        raise UserError(f"pair '{name}' is unknown: {zoo.hint(name, zoo.names())}")
    data_name, rest = taken(arguments[1:], "data")
    objective_name, rest = taken(rest, "objective")
    if objective_name is not None and objective_name not in objectives.OBJECTIVES:
        known = sorted(objectives.OBJECTIVES)
        raise UserError(f"objective '{objective_name}' is unknown: {zoo.hint(objective_name, known)}")
    objective_class = objectives.OBJECTIVES[objective_name or "elbo"]
    known_options = signature(objective_class).parameters
    factors, chosen, rest = choose_factors(name, rest)
    for argument in rest:
        option = argument.removeprefix("--objective.").removeprefix("no-").split("=")[0].replace("-", "_")
        if argument.startswith("--objective.") and option not in known_options:
            raise UserError(
                f"objective '{objective_name or 'elbo'}' has no option {argument}: {zoo.hint(option, known_options)}, "
                "or another --objective"
            )
    groups_of_factors = {factor: (grouped(options),) * 2 for factor, options in factors.items() if options is not None}
    more: dict[str, tuple[Any, Any]] = {
        "out": (helped(str, "Run folder to write."), dataclasses.MISSING),
        "seeds": (helped(tuple[int, ...], "Train one run for each of these seeds, in OUT/seed-N."), ()),
        "resume": (helped(bool, "Resume the run in --out, with the same options."), False),
        "quiet": (helped(bool, "Show no progress."), False),
        **groups_of_factors,
        "objective": (objective_class, objective_class),
        "data": (DataConfig, DataConfig),
        "train": (TrainConfig, TrainConfig),
    }
    text = (
        f"Train a pair: {zoo.PRESETS[name].text}. Further options choose its parts by name: --data NAME or FILE.npz, "
        f"--objective, {', '.join('--' + factor.replace('_', '-') for factor in factors)} (see pyro-priors list)."
    )
    Options = options_of_family(name, more, text, ["condition_shape"])
    options = parsing.parse(Options, rest, f"train {name}")
    out = path_of("--out", options.out)
    if in_the_way := next((one for one in (out, *out.parents) if one.is_file()), None):
        which = "which" if in_the_way == out else f"and {in_the_way}"
        raise UserError(f"out is {options.out}, {which} is a file: choose the name of a new folder")
    if data_name is None:
        raise UserError(f"train needs --data: a file .npz or one of {', '.join(data.names())}")
    command = _command([name, f"--data={data_name}", f"--objective={objective_name or 'elbo'}", *chosen, *rest])
    splits = data.load(data_name, **dataclasses.asdict(options.data))
    given = {one.name: getattr(options, one.name) for one in dataclasses.fields(type(options).__mro__[1])}
    given |= {factor: plain_options(getattr(options, factor)) for factor in groups_of_factors}
    pair = zoo.create_for(name, splits, options.train.seed, **given)
    pixels = math.prod(splits.image_shape or ())
    if given["networks"].name == "mlp" and pixels > MANY_PIXELS:
        warnings.warn(
            f"the perceptrons of images of {pixels} values are huge, and slow to train and to save: convolutions are "
            "--networks conv --data.no-flatten",
            stacklevel=1,
        )
    if splits.condition_shape is not None and not (pair.takes_condition or pair.takes_labels):
        warnings.warn(f"{name} takes no condition: it is trained on x alone", stacklevel=1)
    if not options.quiet:
        binary = splits.likelihood == "bernoulli" and not data_name.endswith(".npz")
        how = f"; binarised {'in every batch' if splits.binarise else 'once'} (--data.binarise)" if binary else ""
        print(f"data: {splits.source}{how}")
    try:
        return fit(
            pair,
            splits,
            options.objective,
            out=folder_of(options.out, command),
            resume=options.resume,
            progress=not options.quiet,
            config=options.train,
        )
    except WriteError as error:
        if error.history is not None and error.history.epochs:
            print(trained(error.history))
        raise


def trained(history: History) -> str:
    """Describe a training in one line."""
    last = max((record["epoch"] for record in history.epochs), default=history.best_epoch)
    found = best_elbo(history)
    bound = math.nan if found is None else found  # of a run whose metrics.jsonl has lost lines
    return (
        f"trained {last + 1} epochs, stopped by {history.stopped}; best validation bound {bound:.3f} nats per datum, "
        f"of epoch {history.best_epoch}"
    )


def _command(arguments: list[str]) -> list[str]:
    """Arguments that begin the same training from any folder, but for ``--out`` and ``--resume``."""
    _, kept = taken([argument for argument in arguments if argument != "--resume"], "out")
    for name in ("data", "data.root"):
        path, kept = taken(kept, name)
        if path is not None:
            is_path = name == "data.root" or path.endswith(".npz")
            kept.append(f"--{name}={path_of(f'--{name}', path).absolute() if is_path else path}")
    return kept
