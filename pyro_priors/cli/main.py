"""The command line: ``pyro-priors list | train | evaluate | sample | plot | reproduce | cache``."""

import contextlib
import dataclasses
import io
import math
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from .. import conditions, data, experiments, metrics, objectives, plots, priors, zoo
from .._files import FolderError, WriteError, make_folder, save_figure, write_atomically
from .._memory import is_exhausted
from .._options import Seed, Size, path_of
from .._reading import RESTORE
from .._terminal import one_line, printable, until_unread
from ..checkpoint import CheckpointError
from ..data import DataConfig
from ..data.registry import without_downloads
from ..metrics.evaluate import check_options
from ..metrics.record import DECIDES
from ..nn import likelihoods
from ..pair import Pair
from ..registry import import_by_name, load_plugins
from ..rng import seeded
from ..run_folder import MAY_CHANGE, RunFolder
from ..training import TrainingDiverged, fit
from ..training.config import TrainConfig
from ..training.loop import History
from ..zoo.create import REGISTRIES
from . import cache as cache_command
from .arguments import check_arguments, check_once, groups, integer, merged
from .grammar import choose_factors, grouped, helped, options_of_family, plain_options, taken

__all__ = ["main"]

USAGE = """usage: pyro-priors COMMAND ...

  list                                        pairs, priors, objectives, data, metrics, experiments
  train PAIR --data NAME|FILE.npz --out RUN   train a pair; --objective NAME
  resume RUN                                  go on where its training stopped, with its options; --train.max-epochs 200
  evaluate RUN                                table on the screen, and RUN/evaluation.json
  sample RUN --num 64 --out samples.png       samples as a picture or .npz; --category 3; --condition 0 1;
                                              by name: --condition "Male=1,Smiling=-1", --grid, --to, --edit
  plot RUN                                    every figure, in RUN/figures
  reproduce PAPER/EXPERIMENT                  a table or figure of a paper: trains what is missing, puts ours beside the
                                              published; --row NAME; --quick; --no-train; interrupted, it goes on
  cache                                       what is kept to be used again; --clear removes it

pyro-priors --import MODULE COMMAND ... imports a module of yours first, which registers priors or other parts.
pyro-priors COMMAND --help lists the options of a command; of train, with a pair: pyro-priors train cp_vae --help"""


MANY_PIXELS = 4096
"""Values of an image above which perceptrons are warned of."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    :param arguments: ``sys.argv[1:]`` when left out
    :returns: exit status: 0; 1 when training diverged or one of its processes was killed; 2 for a user's mistake, after
        one line that names the argument, the value and the remedy; 130 when interrupted
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with printable(sys.stdout, sys.stderr), until_unread(), warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: _warn(str(message))
        if not arguments or arguments[0] in ("-h", "--help"):
            print(USAGE)
            return 0 if arguments else 2
        return _run(*arguments)


def _warn(message: str) -> None:
    print(f"pyro-priors: warning: {message}", file=sys.stderr)


def _run(*arguments: str) -> int:
    try:
        command, *rest = _imported(arguments)
        if command not in COMMANDS:
            raise ValueError(f"command '{command}' is unknown: {zoo.hint(command, list(COMMANDS))}")
        COMMANDS[command](rest)
        print(end="", flush=True)
    except (TrainingDiverged, ChildProcessError) as error:
        return _fail(error, 1)
    except (CheckpointError, OSError) as error:
        return _fail(error, 2)
    except ValueError as error:
        # our own code raises these for the user to read; from any other place one is a bug, shown whole
        if not _is_ours(error):
            raise
        return _fail(error, 2)
    except (MemoryError, RuntimeError) as error:
        if not is_exhausted(error):
            raise
        reason = str(error).partition("\n")[0] or "no reason is given"
        return _fail(MemoryError(f"the memory is exhausted ({reason}): give smaller sizes, or smaller batches"), 2)
    except KeyboardInterrupt:
        return 130
    return 0


def _imported(arguments: Sequence[str]) -> list[str]:
    """Import the modules that ``--import`` names before the command, and return the other arguments."""
    rest = list(arguments)
    while rest and rest[0].split("=")[0] == "--import":
        module, rest = taken([rest[0], *rest[1:2]], "import")[0], rest[1 if "=" in rest[0] else 2 :]
        import_by_name(str(module))
    if not rest:
        raise ValueError(f"--import needs a command after it: one of {', '.join(COMMANDS)}")
    return rest


def _check_imports(folder: RunFolder) -> None:
    """Refuse a run that was trained with modules which are not imported; a file alone imports nothing.

    :raises ValueError: with the first of them
    """
    for module in folder.config().get("imports", ()):
        if module not in sys.modules:
            raise ValueError(
                f"{folder.path} was trained with --import {module}, which may register its parts: give it again, "
                f"pyro-priors --import {module} COMMAND ..."
            )


def _is_ours(error: Exception) -> bool:
    """Whether code of this package raised it."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__", "").split(".")[0] in ("pyro_priors", "__main__")


def _fail(error: Exception, status: int) -> int:
    print(f"pyro-priors: error: {one_line(str(error))}", file=sys.stderr)
    return status


def _parse(options: Any, arguments: Sequence[str], command: str) -> Any:
    """``tyro.cli`` on checked arguments, with its framed error messages folded into one line."""
    if not {"-h", "--help"}.intersection(arguments):
        check_arguments(options, arguments, command)
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            return tyro.cli(options, args=list(arguments), prog=f"pyro-priors {command}")
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        # the first line is the frame's title; what follows the message is help; frames may be ASCII
        lines = (line.strip("╭─╮│╰╯├┤| ") for line in captured.getvalue().splitlines()[1:])
        message = re.split(
            "For full helptext|Argument helptext", " ".join(line for line in lines if line.strip("-+ "))
        )[0]
        message = re.sub(r"^Error parsing [\w.]+: ", "", message.strip())
        raise ValueError(f"{message} (see pyro-priors {command} --help)") from None


def _list(arguments: list[str]) -> None:
    @dataclass
    class Options:
        """What there is: pairs, priors, objectives, data, metrics, experiments."""

    _parse(Options, arguments, "list")
    load_plugins()
    rows = {
        "pairs": zoo.names(),
        "priors": list(priors.PRIORS),
        "likelihoods": list(likelihoods.LIKELIHOODS),
        "networks": list(zoo.NETWORKS),
        "objectives": sorted(objectives.OBJECTIVES),
        "data": [*data.names(), "FILE.npz"],
        "metrics": list(metrics.METRICS),
    }
    lines = [f"{name:12}{'  '.join(values)}" for name, values in rows.items()]
    for i, name in enumerate(sorted(experiments.names())):
        lines.append(f"{'' if i else 'experiments':12}{name:22}{experiments.find(name).title}")
    print("\n".join(lines))


def _train(arguments: list[str]) -> None:
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        raise ValueError(f"train needs the name of a pair first: one of {', '.join(zoo.names())}")
    if arguments[0] in ("-h", "--help"):
        print(
            "usage: pyro-priors train PAIR --data NAME --out FOLDER [options]\n\n"
            f"PAIR is one of {', '.join(zoo.names())}; its options: pyro-priors train PAIR --help\n"
            "--prior, --likelihood, --networks and --objective NAME choose its factors (see pyro-priors list), whose\n"
            "options are --prior.OPTION and so on: pyro-priors train PAIR --prior NAME --help shows them\n"
            f"NAME of --data is a file .npz or one of {', '.join(data.names())}"
        )
        return
    name = arguments[0]
    if name not in zoo.names():
        raise ValueError(f"pair '{name}' is unknown: {zoo.hint(name, zoo.names())}")
    check_once(arguments[1:])
    data_name, rest = taken(arguments[1:], "data")
    objective_name, rest = taken(rest, "objective")
    if objective_name is not None and objective_name not in objectives.OBJECTIVES:
        known = sorted(objectives.OBJECTIVES)
        raise ValueError(f"objective '{objective_name}' is unknown: {zoo.hint(objective_name, known)}")
    objective_class = objectives.OBJECTIVES[objective_name or "elbo"]
    known_options = signature(objective_class).parameters
    factors, chosen, rest = choose_factors(name, rest)
    for argument in rest:
        option = argument.removeprefix("--objective.").removeprefix("no-").split("=")[0].replace("-", "_")
        if argument.startswith("--objective.") and option not in known_options:
            raise ValueError(
                f"objective '{objective_name or 'elbo'}' has no option {argument}: {zoo.hint(option, known_options)}, "
                "or another --objective"
            )
    groups_of_factors = {factor: (grouped(options),) * 2 for factor, options in factors.items() if options is not None}
    more: dict[str, tuple[Any, Any]] = {
        "out": (helped(str, "Run folder to write."), dataclasses.MISSING),
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
    options = _parse(Options, rest, f"train {name}")
    out = path_of("--out", options.out)
    if in_the_way := next((one for one in (out, *out.parents) if one.is_file()), None):
        which = "which" if in_the_way == out else f"and {in_the_way}"
        raise ValueError(f"out is {options.out}, {which} is a file: choose the name of a new folder")
    if data_name is None:
        raise ValueError(f"train needs --data: a file .npz or one of {', '.join(data.names())}")
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
        history = fit(
            pair,
            splits,
            options.objective,
            out=RunFolder(options.out, command),
            resume=options.resume,
            progress=not options.quiet,
            config=options.train,
        )
    except WriteError as error:
        if error.history is not None and error.history.epochs:
            print(_trained(error.history))
        raise
    print(f"{_trained(history)}; now: pyro-priors evaluate {options.out}")


def _trained(history: History) -> str:
    bounds = {record["epoch"]: record["valid_bound"] for record in history.epochs}
    bound = bounds.get(history.best_epoch, math.nan)  # of a run whose metrics.jsonl has lost lines
    return (
        f"trained {max(bounds, default=history.best_epoch) + 1} epochs; best validation bound {bound:.3f} nats per "
        f"datum, of epoch {history.best_epoch}"
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


ASKED_AGAIN = ("num_processes",)
"""Options of --train that a run's files do not decide: what a run costs this machine is the user's word."""


def _resume(arguments: list[str]) -> None:
    asked = ", ".join(f"--train.{name.replace('_', '-')}" for name in ASKED_AGAIN)
    if arguments[:1] in (["-h"], ["--help"]):
        print(
            "usage: pyro-priors resume RUN [options of train]\n\n"
            "Goes on where the training of RUN stopped: gives the command that began it again, with --resume.\n"
            f"Options that may be others: {', '.join(MAY_CHANGE).replace('_', '-')} (of --train), and --data FILE or "
            "--data.root FOLDER, where the same data are now\n"
            "Taken from RUN/config.json, which somebody else may have written: the pair and its factors, the "
            "objective, the data and their place, and the options of these and of --train. Nothing else is taken, "
            f"and not {asked}: give it again"
        )
        return
    if not arguments or arguments[0].startswith("-"):
        raise ValueError("resume needs a run folder first: give it, as pyro-priors resume runs/cp")
    run, *more = arguments
    check_once(more)
    for name, tokens in groups(more):
        if name in ("out", "resume"):
            raise ValueError(f"resume writes into {run} itself, got {' '.join(tokens)}: leave --{name} out")
        if not name and tokens:
            raise ValueError(f"resume cannot use the argument {tokens[0]!r}: leave it out (see pyro-priors resume -h)")
    folder = _run_folder(run)
    _check_imports(folder)
    command = folder.config().get("command")
    if not command:
        raise ValueError(
            f"{run} does not say which command began it (reproduce, Python or an older version did): give that again; "
            "train with --resume, fit with resume=True"
        )
    command = _taken_from_run(command, folder.path / "config.json", more)
    of_run = "data.root" in dict(groups(command)) and "data.root" not in dict(groups(more))
    with without_downloads() if of_run else contextlib.nullcontext():
        _train([*merged(command, more), f"--out={run}", "--resume"])


def _run_folder(run: str) -> RunFolder:
    path = path_of("run", run)
    if path.is_file():
        raise ValueError(f"run is {run}, which is a file: give the run folder, such as runs/vae")
    if not (path / "config.json").exists():
        raise FileNotFoundError(f"{run} is not a run folder: it has no config.json; give a folder that train wrote")
    return RunFolder(path)


def _taken_from_run(command: Sequence[str], file: Path, more: Sequence[str]) -> list[str]:
    """The arguments of a command in a run's files, less those that only the user may give.

    :param command: the pair and options of ``train``
    :param file: where it was read, for the message
    :param more: what the user gives
    :raises CheckpointError: if it has an argument that ``train`` does not record
    """

    def refuse(argument: str) -> CheckpointError:
        what = f"{file} has a command with the argument '{argument}', which resume does not take from a file"
        return CheckpointError(what, "give the command yourself: pyro-priors train ... --resume")

    name, *rest = command
    if name not in zoo.names():
        raise refuse(name)
    known = {"data", "objective", "quiet", *_options_of_pair(name)}
    known |= {f"data.{one.name}" for one in dataclasses.fields(DataConfig)}
    known |= {f"train.{one.name}" for one in dataclasses.fields(TrainConfig)}
    known |= {f"objective.{one}" for kind in objectives.OBJECTIVES.values() for one in signature(kind).parameters}
    kept: list[str] = []
    skipped: list[str] = []
    is_asked = False
    for argument in rest:
        if argument.startswith("--"):
            option = argument[2:].split("=", 1)[0].replace("-", "_")
            group, dot, last = option.rpartition(".")
            if option not in known and f"{group}{dot}{last.removeprefix('no_')}" not in known:
                raise refuse(argument)
            is_asked = group == "train" and last in ASKED_AGAIN
        elif re.match("-[^0-9.]", argument):
            raise refuse(argument)
        (skipped if is_asked else kept).append(argument)
    for option, exists in (("data", Path.is_file), ("data.root", Path.is_dir)):
        place, _ = taken(kept, option)
        is_path = option != "data" or str(place).endswith(".npz")
        if place is not None and is_path and taken(list(more), option)[0] is None and not exists(Path(place)):
            raise FileNotFoundError(
                f"{place}, which {file.parent} was trained on, is no longer there: put it back, or give its new place "
                f"with --{option}"
            )
    if skipped and not any(argument.startswith(f"--train.{_dashed(one)}") for argument in more for one in ASKED_AGAIN):
        _warn(f"{' '.join(skipped)} is not taken from {file}: give it again where it is wanted")
    return [name, *kept]


def _options_of_pair(name: str) -> set[str]:
    """Paths of the options that a pair, and its factors whichever they are, may have."""
    family = zoo.FAMILIES[zoo.PRESETS[name].family]
    known = {one.name for one in dataclasses.fields(family)}
    for factor in family.factors:
        registry = REGISTRIES[factor]
        options = {one.name for key in registry for one in dataclasses.fields(registry[key])}
        known |= {factor, *(f"{factor}.{option}" for option in options)}
        known |= {f"{factor}.{'base.' * depth}{option}" for option in options for depth in (1, 2)}
    return known


def _dashed(option: str) -> str:
    return option.replace("_", "-")


@dataclass(frozen=True)
class _OfRun:
    """Options of the commands that read a run."""

    run: tyro.conf.Positional[str]
    """Run folder."""
    data: str | None = None
    """File of the data, where it is not where it was when the run was trained; or a file of the arrays in memory that
    the run was trained on. It must hold the same data."""
    data_root: Annotated[str | None, tyro.conf.arg(name="data.root")] = None
    """Folder of the data, where it is not where it was when the run was trained."""


def _open_run(options: _OfRun) -> tuple[RunFolder, Pair, data.Splits]:
    path, given = options.run, options.data
    folder = _run_folder(path)
    _check_imports(folder)
    recipe = folder.config()["data"]
    if recipe is None or (recipe["config"] is None and not given):
        remedy = "" if recipe is None else "give --data FILE.npz that holds them (numpy.savez), or "
        raise ValueError(f"{path} was trained on arrays in memory: {remedy}evaluate it from Python, where they are")
    if not (folder.path / "pair" / "pair.json").exists():
        raise FileNotFoundError(f"{path} has no finished pair yet: go on training it (pyro-priors resume {path})")
    pair = zoo.load(folder.path).to(torch.float32)  # as the data are, whatever it was trained in
    pair.eval()
    for parameter_name, parameter in pair.named_parameters():
        if not parameter.isfinite().all():
            raise CheckpointError(
                f"the pair in {path} has NaN or infinite values in '{parameter_name}'",
                "train it again in another --out",
            )
    if (shares := pair.aggregate_c) is not None and not (
        (shares >= 0).all() and abs(shares.double().sum().item() - 1) < 1e-2
    ):
        raise CheckpointError(
            f"the pair in {path} has an aggregate posterior that is no distribution ({shares.tolist()})",
            "train it again in another --out",
        )
    name = given or recipe["name"]
    if not given and name.endswith(".npz") and not Path(name).is_file():
        raise FileNotFoundError(
            f"{name}, which {path} was trained on, is no longer there: put it back, or give its new place with --data"
        )
    config = _config_of_data(recipe["config"] or {"flatten": False}, options, folder)  # arrays in memory are as given
    of_run = config.get("root") is not None and not options.data_root
    with without_downloads() if of_run else contextlib.nullcontext():
        splits = data.load(name, **config)
    if "arrays" in recipe:
        found = splits.described(digest=True)["arrays"]
        if changed := [part for part, digest in recipe["arrays"].items() if found.get(part) != digest]:
            raise ValueError(
                f"{path} was trained on arrays in memory, and {name} does not hold them: its {changed[0]} part differs"
            )
    elif recipe.get("sha256") not in (None, (splits.recipe or {}).get("sha256")):
        if given:
            raise ValueError(
                f"--data {given} is not the file that {path} was trained on, {recipe['name']}: its checksum differs"
            )
        raise ValueError(f"{name} has changed since {path} was trained on it: put that file back")
    elif given and "sha256" in recipe:  # under the old name, so that evaluations from before are of the same data
        old, new = Path(recipe["name"]), Path(name)
        splits = dataclasses.replace(splits, name=old.stem, source=splits.source.replace(new.name, old.name, 1))
    elif name != recipe["name"]:
        raise ValueError(f"--data is {given}, but {path} was trained on {recipe['name']}: leave --data out")
    return folder, pair, splits


def _config_of_data(config: dict[str, Any], options: _OfRun, folder: RunFolder) -> dict[str, Any]:
    """The options of the run's data, with the folder that the user gives.

    :raises CheckpointError: if the run's options are not those of data
    :raises FileNotFoundError: if its folder is not there; only the user's own is made, and filled by downloads
    """
    try:
        data.DataConfig(**config)
    except (TypeError, ValueError) as error:
        what = f"{folder.path / 'config.json'} does not describe data that can be loaded ({error})"
        raise CheckpointError(what, RESTORE) from None
    if options.data_root:
        return {**config, "root": options.data_root}
    root = config.get("root")
    if root is not None and not Path(root).is_dir():
        raise FileNotFoundError(
            f"{root}, the folder of the data that {folder.path} was trained on, is not there: give its new place with "
            "--data.root"
        )
    return config


def _evaluate(arguments: list[str]) -> None:
    *others, last = metrics.ON_REQUEST
    all_but = f"Which metrics; when left out all that apply but {', '.join(others)} and {last}."

    @dataclass(frozen=True)
    class Options(_OfRun):
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

    options = _parse(Options, arguments, "evaluate")
    own = {name: getattr(options, name) for name in ("num_samples", "categories", "features")}
    computed = options.metrics or [name for name in metrics.METRICS if name not in metrics.ON_REQUEST]
    given: dict[str, Any] = {"num_samples": 500, "categories": "sum", "features": "auto", "seed": options.seed}
    for name, value in own.items():
        if value is not None and set(computed) <= metrics.METRICS.keys() and not set(computed) & set(DECIDES[name]):
            option = f"--{name.replace('_', '-')}"
            raise ValueError(
                f"{option} is {value}, and none of the metrics reads it: give --metrics "
                f"{' or '.join(DECIDES[name])}, or leave {option} out"
            )
    given |= {name: value for name, value in own.items() if value is not None}
    check_options(options.metrics, given["features"], given["categories"])
    folder, pair, splits = _open_run(options)
    source = folder.source(pair.saved_digest)  # the run may have another pair when the evaluation ends
    replaced = " (of the pair that was saved over the run's)" if folder.pair_is_replaced else ""
    each = metrics.evaluate_each(pair, splits, options.part, metrics=options.metrics, **given)
    results = {name: estimate for found in each.values() for name, estimate in found.items()}
    left_out = [f"{name} (needs {metrics.NEEDS[name]})" for name in options.metrics if not each[name]]
    if not results:
        raise ValueError(f"metrics: none applies to this pair and its data: leave out {', '.join(left_out)}")
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
        except (WriteError, FolderError) as error:
            _warn(f"{error}; the numbers are not kept")


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


def _sample(arguments: list[str]) -> None:
    @dataclass(frozen=True)
    class Options(_OfRun):
        """Sample from a run: means of p(x|...) as a picture, or all sites in an .npz."""

        out: str = "samples.png"
        """Picture (.png) or arrays (.npz)."""
        num: Size | None = None
        """Number of samples, 64 when left out; with --to rounded up to whole rows of eight; not with --grid and
        --edit, which decide it."""
        category: str | None = None
        """Of a pair with categories: a number, prior, or aggregate (the aggregate posterior); prior when left out."""
        condition: tuple[str, ...] = ()
        """Of a conditional pair: rows of the test part whose conditions are used, in turn; or conditions by name, such
        as "Male=1,Smiling=-1" or label=7, or where they have no names by value, with a point: 0.5 or 1.0,2.0."""
        grid: tuple[str, ...] = ()
        """A row for each combination of these attributes, or for each class: label. The other attributes are those of
        training faces that have all of these."""
        to: str | None = None
        """A condition by name or value: eight steps from --condition to this one in each row."""
        edit: tuple[int, ...] = ()
        """Rows of the test part: each as it is, reconstructed, and under --condition."""
        transport: bool = False
        """With --edit: move the code along the prior with the condition, instead of keeping it, which may leave the
        picture as it was; nothing where the prior does not see the condition."""
        seed: Seed = 0
        """Seed of the noise."""

    options = _parse(Options, arguments, "sample")
    out = path_of("--out", options.out)
    if out.suffix not in (".png", ".npz"):
        raise ValueError(f"--out must end in .png or .npz, got '{options.out}': give samples.png")
    if out.is_dir():
        raise ValueError(f"--out is {out}, which is a folder: give the name of a file, such as {out / 'samples.png'}")
    if options.num is None:
        options = dataclasses.replace(options, num=64)
    elif options.grid or options.edit:
        raise ValueError(
            f"--num is {options.num}, but --grid and --edit decide how many pictures there are: leave it out"
        )
    _, pair, splits = _open_run(options)
    if out.suffix == ".png" and splits.image_shape is None:
        raise ValueError(f"{splits.name} has no images to draw: write arrays with --out samples.npz, or draw with plot")
    make_folder(out.parent)
    fixed: dict[str, Any] = {}
    if options.category is not None:
        if not pair.num_categories:
            raise ValueError(f"--category {options.category}: this pair has no categories, leave it out")
        number = integer(options.category)
        fixed["c"] = options.category if number is None else number
    with seeded(options.seed, pair.device):
        if (made := _controlled(options, pair, splits)) is None:
            condition = _conditions_of_rows(options, pair, splits)
            made = conditions.Controlled(pair.sample(options.num, condition, **fixed), condition, 8)
    drawn = made.sites | ({} if made.condition is None else {"condition": made.condition})
    if out.suffix == ".npz":
        import numpy as np

        arrays: dict[str, Any] = {name: value.cpu().numpy() for name, value in drawn.items()}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        write_atomically(out, buffer.getvalue())
    else:
        images = plots.shown(drawn["x_mean"], made.condition, splits)
        figure = plots.image_grid(images, made.num_columns, "", made.row_labels, made.column_labels)
        save_figure(figure, out, dpi=120, bbox_inches="tight")
    print(f"{len(drawn['x_mean'])} samples in {out}")


def _conditions_of_rows(options: Any, pair: Pair, splits: data.Splits) -> Any:
    """Conditions of the test part: of the rows that --condition names, or the first ones."""
    known = splits.test.condition
    if known is None or not pair.takes_condition:
        if options.condition:
            raise ValueError(f"--condition {' '.join(options.condition)}: this pair takes no condition, leave it out")
        return None
    rows = [int(row) for row in options.condition] or list(range(min(options.num, len(splits.test))))
    if not all(0 <= row < len(splits.test) for row in rows):
        given = " ".join(options.condition)
        raise ValueError(f"--condition must be rows of the test part, 0 to {len(splits.test) - 1}, got {given}")
    return known[[rows[i % len(rows)] for i in range(options.num)]]


def _controlled(options: Any, pair: Pair, splits: data.Splits) -> conditions.Controlled | None:
    """What is asked for by name; None where it is not."""
    are_rows = [integer(text) is not None for text in options.condition]
    by_name = not all(are_rows)
    if by_name and any(are_rows) and splits.condition_names is not None and pair.takes_condition:
        given = " ".join(options.condition)
        raise ValueError(f"--condition {given}: rows of the test part, and names, are two ways: choose one of them")
    ways = {"--grid": options.grid, "--to": options.to, "--edit": options.edit}
    chosen = [name for name, given in ways.items() if given]
    if len(chosen) > 1:
        raise ValueError(f"{' and '.join(chosen)} are two pictures: choose one of them")
    shown = " ".join(map(str, [ways[chosen[0]]] if options.to else ways[chosen[0]])) if chosen else ""
    if chosen and not (pair.takes_condition and splits.test.condition is not None):
        raise ValueError(
            f"{chosen[0]} {shown} needs a conditional pair, and this one takes no condition: train one, such as "
            f"{conditions.CONDITIONAL}"
        )
    if options.transport and not options.edit:
        raise ValueError("--transport belongs to --edit: leave it out, or name rows of the test part with --edit")
    if chosen in (["--to"], ["--edit"]) and (len(options.condition) != 1 or not by_name):
        rows = " (whole numbers are rows of the test part)" if options.condition and not by_name else ""
        raise ValueError(
            f"{chosen[0]} {shown} needs one --condition by name or value: give one, such as {_example(splits)}{rows}"
        )
    if options.grid:
        return conditions.grid(pair, splits, options.grid, ",".join(options.condition))
    if options.to:
        return conditions.between(pair, splits, options.condition[0], options.to, -(-options.num // 8))
    if options.edit:
        return conditions.edited(pair, splits, options.edit, options.condition[0], options.transport)
    if by_name and pair.takes_condition and splits.test.condition is not None:
        return conditions.asked(pair, splits, options.condition, options.num)
    return None


def _example(splits: data.Splits) -> str:
    if splits.condition_names is None:
        size = math.prod(splits.condition_shape or ())
        return ",".join(["0.5"] * min(size, 3)) + (",..." if size > 3 else "")
    names = splits.condition_names
    return f"label={names[-1]}" if splits.condition_of == "label" else f"{names[-1]}=1"


def _plot(arguments: list[str]) -> None:
    @dataclass(frozen=True)
    class Options(_OfRun):
        """Draw every figure of a run into its folder."""

    options = _parse(Options, arguments, "plot")
    folder, pair, splits = _open_run(options)
    with seeded(0, pair.device):
        for path in plots.saved_figures(pair, splits, folder.history(), folder.inside("figures")):
            print(path, flush=True)


def _reproduce(arguments: list[str]) -> None:
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

    options = _parse(Options, arguments, "reproduce")
    given = dataclasses.asdict(options)
    name, rows, quiet = given.pop("experiment"), given.pop("row"), given.pop("quiet")
    report = experiments.reproduce(name, rows=rows, progress=not quiet, **given)
    print(report.table)
    if report.files:
        print("\n".join(map(str, report.files)))
    elif not any(result.history for result in report.results):
        print("nothing is trained yet, and nothing written: leave --no-train out")


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "list": _list,
    "train": _train,
    "resume": _resume,
    "evaluate": _evaluate,
    "sample": _sample,
    "plot": _plot,
    "reproduce": _reproduce,
    "cache": cache_command.run,
}

if __name__ == "__main__":
    sys.exit(main())
