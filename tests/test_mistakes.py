"""Wrong command lines and wrong calls, generated from the options' own types: each ends in one line.

The line names the argument and the value, and says what to do. Nothing is written.
"""

import contextlib
import dataclasses
import inspect
import io
import re
import traceback
import typing
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np
import pytest
import torch
import tyro

import pyro_priors as pp
import runs
from pyro_priors import cli
from pyro_priors._options import MAY_BE_INFINITE
from pyro_priors.cli import main

REMEDY = re.compile(
    r"\b(give|leave|choose|see|use|make|rename|restore|take|load|drop|reshape|train|put)\b|did you mean|for example"
    r"|one of|choose|from 0|must be|must end"
)

RUNS = {
    "toy": "vae --data moons --data.limit 60 --pair.prior gaussian",
    "digits": "cp_vae --data digits --data.limit 60 --pair.num-categories 3",
    "conditional": "sigma_cvae --data digits --data.limit 60 --data.condition-labels --data.binarise none",
}
TINY = "--quiet --pair.hidden 8 --pair.z-dim 2 --train.max-epochs 1 --train.device cpu"


@pytest.fixture(scope="module")
def playground(tmp_path_factory):
    """A folder with three runs and files to be mistaken about."""
    folder = tmp_path_factory.mktemp("mistakes")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, options in RUNS.items():
            assert main(["train", *options.split(), *TINY.split(), "--out", name]) == 0
    (folder / "file").write_text("text")
    (folder / "text.npz").write_text("text")
    (folder / "folder.png").mkdir()
    (folder / "folder.npz").mkdir()
    return folder


# command lines


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a command, as tyro is given it."""

    name: str
    declared: Any
    default: Any
    positional: bool = False

    @property
    def kinds(self) -> tuple[Any, ...]:
        """The types that a value may have, without None."""
        declared = self.declared
        while get_origin(declared) is Annotated:
            declared = get_args(declared)[0]
        found = get_args(declared) if get_origin(declared) in (Union, UnionType) else (declared,)
        return tuple(one for one in found if one is not NoneType)

    @property
    def may_be_infinite(self) -> bool:
        return MAY_BE_INFINITE in getattr(self.declared, "__metadata__", ())


def options_of(owner: Any, prefix: str = "") -> Iterator[Option]:
    """The options of a dataclass, or of a class by its constructor."""
    if dataclasses.is_dataclass(owner):
        hints = typing.get_type_hints(owner, include_extras=True)
        defaults = {field.name: field.default for field in dataclasses.fields(owner)}
    else:
        hints = typing.get_type_hints(owner.__init__)
        defaults = {name: one.default for name, one in inspect.signature(owner).parameters.items()}
    for field, default in defaults.items():
        metadata = list(getattr(hints[field], "__metadata__", ()))
        name = next((one.name for one in metadata if getattr(one, "name", None)), field.replace("_", "-"))
        if any("Suppress" in repr(one) for one in metadata):
            continue
        option = Option(prefix + name, hints[field], default, any("Positional" in repr(one) for one in metadata))
        (first, *_) = option.kinds
        if isinstance(first, type) and first not in (bool, int, float, str) and get_origin(first) is None:
            yield from options_of(first, f"{prefix}{name}.")
        else:
            yield option


def parsed_options(arguments: list[str]) -> list[Option]:
    """The options that a command gives to tyro."""
    found: list[Option] = []

    def parse(options, arguments, command):
        found.extend(options_of(options))
        raise SystemExit

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(SystemExit):
        patch.setattr(cli, "_parse", parse)
        main(arguments)
    return found


HUGE = str(2**64)
NUMBERS = ["", "many", "²", "３", "nan", "1e400"]
OF_TYPE: dict[Any, list[str]] = {
    int: [*NUMBERS, "1.5", "-1", "0", HUGE, "-" + HUGE, "None "],
    float: [*NUMBERS, "inf", "-1", "1,5"],
    bool: ["maybe"],
    str: ["", " ", "nonsense", "a\nb"],
}

# which of these values are right, by option; other options take none of them
ZERO_OR_MORE = {"0"}
RIGHT: dict[str, set[str]] = {
}


def wrong_values(option: Option) -> Iterator[list[str]]:
    """Values that are not of the option's type, or not in its range."""
    for kind in option.kinds:
        if get_origin(kind) is Literal:
            values = ["nonsense", "", get_args(kind)[0].upper()]
        elif get_origin(kind) is tuple:
            values = OF_TYPE[get_args(kind)[0]]
        elif kind is bool and NoneType not in get_args(option.declared):
            continue
        else:
            values = OF_TYPE[kind]
        for value in values:
            if value in RIGHT.get(option.name, ()) or (value == "inf" and option.may_be_infinite):
                continue
            if value == "1e400" and option.may_be_infinite:
                continue
            yield [value]


def command_lines(base: list[str], options: list[Option]) -> Iterator[tuple[str, str, list[str]]]:
    """Wrong command lines: the option, the value that a message must show, and the arguments."""
    for option in options:
        if option.positional:
            continue
        flag = f"--{option.name}"
        without = without_option(base, option.name)
        is_flag = option.kinds == (bool,) and NoneType not in get_args(option.declared)
        for values in wrong_values(option):
            yield option.name, values[0], [*without, flag, *values]
        misspelled = f"--{option.name[:-1]}{'x' if option.name[-1] != 'x' else 'y'}"
        if is_flag:
            yield option.name, "yes", [*without, f"{flag}=yes"]
            yield option.name, flag, [*without, flag, flag]
            yield misspelled[2:], misspelled, [*without, misspelled]
        else:
            yield option.name, flag, [*without, flag]
            yield misspelled[2:], misspelled, [*without, misspelled, "1"]
            yield option.name, "8", [*without, flag, "7", f"{flag}=8"]


def without_option(arguments: list[str], name: str) -> list[str]:
    from pyro_priors._arguments import groups

    return [token for found, tokens in groups(arguments) if found != name for token in tokens]


def all_command_lines() -> Iterator[tuple[str, str, list[str]]]:
    """Wrong lines of every command; options that several commands or pairs share are tried once."""
    tiny = [*TINY.split(), "--data", "digits", "--data.limit", "60", "--out", "new"]
    bases = [["train", name, *tiny] for name in ("vae", "cp_vae", "hvae", "cvae", "sigma_cvae_nf", "cdv_cvae")]
    bases += [["train", "vae", "--objective", name, *tiny] for name in sorted(pp.objectives.OBJECTIVES)]
    bases += [["evaluate", "toy"], ["sample", "toy"], ["sample", "conditional"], ["plot", "toy"]]
    bases += [["reproduce", "bhalodia2019/fig1", "--no-train"]]
    seen: set[tuple[Any, ...]] = set()
    for base in bases:
        options = [one for one in parsed_options(base) if (base[0], base[-1] == "conditional", one.name) not in seen]
        seen |= {(base[0], base[-1] == "conditional", one.name) for one in options}
        yield from command_lines(base, options)


def test_wrong_command_lines(playground, monkeypatch, capsys):
    monkeypatch.chdir(playground)
    before = {path: path.stat().st_mtime_ns for path in playground.rglob("*")}
    lines, bad, messages = list(all_command_lines()), [], set()
    import time
    for name, value, arguments in lines:
        t = time.time()
        try:
            status = main(arguments)
        except BaseException as error:
            status = f"{type(error).__name__}: {error}"
        captured = capsys.readouterr()
        errors = captured.err.splitlines()
        message = captured.err.removeprefix("pyro-priors: error: ")
        last = name.rpartition(".")[2]
        after = {path: path.stat().st_mtime_ns for path in playground.rglob("*")}
        problems = [
            what
            for what, is_so in {
                f"status {status}": status != 2,
                f"{len(errors)} lines": len(errors) != 1 or not captured.err.startswith("pyro-priors: error: "),
                "option": last not in message and last.replace("-", "_") not in message,
                "value": value.strip() and value not in message and repr(value)[1:-1] not in message,
                "remedy": not REMEDY.search(message),
                "output": captured.out,
                "written": after != before,
                f"slow {time.time() - t:.1f}": time.time() - t > 2,
            }.items()
            if is_so
        ]
        before = after
        messages.add(re.sub(r"'[^']*'|\d+", "", message))
        if problems:
            bad.append(f"{' '.join(problems)} | {' '.join(map(repr, arguments))[-120:]} | {message.strip()[:300]}")
    print("\n".join(bad))
    print(f"{len(lines)} wrong command lines, {len(messages)} kinds of messages, {len(bad)} bad")
    assert not bad


# calls


@pytest.fixture(scope="module")
def calls():
    """Right calls of the public functions, by name: the function and its arguments."""
    torch.manual_seed(0)
    digits = runs.small_data("digits", 60, 20)
    labelled = runs.small_data("digits", 60, 20, condition_labels=True)
    moons = runs.small_data("moons", 60, 20)
    planar = runs.small_pair("vae", moons, prior="flow", flow_hidden=(4,))
    cp_vae = runs.small_pair("cp_vae", digits, num_categories=3, own_category_network=True)
    vae = runs.small_pair("vae", digits)
    cvae = runs.small_pair("sigma_cvae", labelled)
    x, z = digits.test.x[:4], torch.randn(6, 2)
    category, label = torch.tensor([0, 1, 2, 0]), torch.tensor([0, 1, 1, 0])
    images = digits.test.x.reshape(-1, 1, 8, 8)
    q = pp.metrics.aggregate_posterior(planar, moons.train.x)
    history = [{"epoch": 0, "train_loss": 1.0, "valid_bound": -1.0, "seconds": 1.0}]
    of = {"pair": vae, "data": digits}
    calls: dict[str, dict[str, Any]] = {
        "fit": {**of, "progress": False, "max_epochs": 1},
        "create": {"name": "cp_vae", "x_shape": (4,), "z_dim": 2, "hidden": (4,), "num_categories": 3},
        "load": {"path": "nowhere"},
        "start_at_clusters": {"pair": cp_vae, "data": digits, "learned": vae},
        "citation": {"pair": vae},
        "compiled": {"pair": vae, "max_graphs": 1},
        "Pair.sample": {"size": 2},
        "Pair.encode": {"x": x},
        "Pair.reconstruct": {"x": x},
        "Pair.posterior_and_prior": {"x": x},
        "Pair.log_prob": {"x": x, "num_samples": 2},
        "Pair.set_aggregate": {"x": x},
        "Pair.save": {"path": "nowhere"},
        "Pair.load_weights": {"path": "nowhere"},
        "data.load": {"name": "moons", "limit": 60},
        "data.from_arrays": {"x_train": np.zeros((40, 3), np.float32)},
        "experiments.reproduce": {"name": "bhalodia2019/fig1", "train": False},
        "control.asked": {"pair": cvae, "data": labelled, "texts": ["label=3"], "num": 2},
        "control.grid": {"pair": cvae, "data": labelled, "names": ["label"], "num_columns": 2},
        "control.between": {"pair": cvae, "data": labelled, "start": "label=1", "end": "label=2", "num_rows": 1},
        "control.edited": {"pair": cvae, "data": labelled, "rows": [0], "text": "label=2"},
        "control.condition_of": {"wanted": {"3": 1.0}, "data": labelled, "num": 2},
        "control.parse": {"text": "label=3", "data": labelled},
        "metrics.evaluate": {**of, "metrics": "bound"},
        "metrics.evaluate_each": {**of, "metrics": "bound"},
        "metrics.aggregate_posterior": {"pair": planar, "x": moons.test.x},
        "metrics.posterior_draws": {"pair": planar, "site": "z", "x": moons.test.x},
        "metrics.log_prior": {"pair": planar, "site": "z", "z": z},
        "metrics.prior_samples": {"pair": planar, "site": "z", "num": 2},
        "metrics.log_aggregate": {"q": q, "z": z},
        "metrics.nearest_neighbour_kl": {"x": z, "y": z + 1},
        "metrics.leakage": {"log_q": z[:, 0], "log_p": z[:, 1], "thresholds": [0.0]},
        "metrics.leakage_below": {"log_q": z[:, 0], "log_p": z[:, 1], "of_prior": z[:, 0], "quantile": 0.5},
        "metrics.low_posterior_samples": {"pair": planar, "q": q, "site": "z", "num": 2},
        "metrics.high_posterior_samples": {"pair": planar, "q": q, "site": "z", "num": 2},
        "metrics.hungarian_accuracy": {"category": category, "label": label, "num_categories": 3, "num_labels": 2},
        "metrics.majority_accuracy": {
            "category": category,
            "label": label,
            "fit_category": category,
            "fit_label": label,
            "num_categories": 3,
            "num_labels": 2,
        },
        "metrics.posterior_means": {"pair": vae, "x": x},
        "metrics.prior_components": {"pair": cvae, "condition": labelled.test.condition[:2]},
        "metrics.factor_information": {"loc": z, "scale": z.exp(), "factors": torch.tensor([[0], [1]] * 3)},
        "metrics.mutual_information_gap": {"information": z.abs()[:2], "factors": torch.tensor([[0, 0], [1, 1]] * 3)},
        "metrics.mean_pairwise_distance": {"features": z},
        "metrics.frechet": {"real": z.double(), "generated": z.double()},
        "metrics.kernel_distance": {"real": z.double(), "generated": z.double()},
        "metrics.precision_recall_density_coverage": {"real": z.double(), "generated": z.double(), "k": 2},
        "metrics.image_distances": of,
        "metrics.features_for": {"name": "auto", "data": digits},
        "metrics.samples_given": {"pair": cvae, "condition": labelled.test.condition[:2], "num": 2},
        "metrics.active_units": {"posterior_means": z},
        "metrics.active_categories": {"aggregate": torch.full((3,), 1 / 3)},
        "metrics.effective_categories": {"aggregate": torch.full((3,), 1 / 3)},
        "metrics.variety": {"probabilities": torch.full((2, 3), 0.4), "thresholds": [0.5]},
        "metrics.jaccard": {"corners": torch.rand(2, 4, 2), "others": torch.rand(2, 4, 2)},
        "plots.image_grid": {"images": images[:2], "num_columns": 2},
        "plots.reconstructions": {**of, "num": 2},
        "plots.samples": {**of, "num": 2},
        "plots.samples_by_category": {"pair": cp_vae, "data": digits, "num": 2, "max_rows": 1},
        "plots.categories": {"pair": cp_vae, "data": digits, "num_columns": 2, "max_rows": 1},
        "plots.confusion": {"pair": cp_vae, "data": digits, "num_columns": 2},
        "plots.aggregate_category": {"pair": cp_vae},
        "plots.latent_scatter": {**of, "num": 9},
        "plots.prior_density": {"pairs": planar, "data": moons, "num": 9},
        "plots.magnification": {"pair": planar, "data": moons, "num": 9},
        "plots.density": {"pair": planar, "data": moons, "num": 9},
        "plots.pockets": {"pairs": planar, "data": moons},
        "plots.path": {"pair": planar, "start": z[0], "end": z[1], "num": 2},
        "plots.leakage_curves": {"rows": {"a": {"b": (planar, moons)}}, "thresholds": [0.0], "num": 9},
        "plots.figures": {**of, "history": history, "folder": "nowhere"},
        "plots.curves": {"history": history},
    }
    return {name: (function_of(name, cp_vae if "aggregate" in name else vae), call) for name, call in calls.items()}


def function_of(name, pair):
    owner: Any = pp
    for part in name.split("."):
        owner = pair if part == "Pair" else getattr(owner, part)
    return owner


NO_TENSORS: list[Any] = [None, "x", [1.0], 3]
WRONG: dict[str, list[Any]] = {
    "int": ["many", 1.5, True, float("nan"), [3], -1, 0, 2**64],
    "Size": ["many", 1.5, True, float("nan"), [3], -1, 0, 2**64],
    "Seed": ["many", 1.5, True, float("nan"), [3], -1, 2**64],
    "float": ["many", True, float("nan"), float("inf"), [0.5], None, -1.0],
    "bool": [1, "yes", None],
    "str": [3, None, "", "nonsense", b"a"],
    "Tensor": NO_TENSORS,
    "Pair": [None, "vae", torch.nn.Linear(2, 2)],
    "Splits": [None, "moons", {"x": 1}],
    "Sequence": [3, None, [None]],
    "Mapping": [3, None, "x"],
    "Path": [3, None, "", b"x"],
    "device": ["tpu", 1.5, None],
}
"""Wrong values of arguments by the type that their function declares."""

SAID_AS = {
    "create.name": "pair",
    "data.load.name": "data set",
    "experiments.reproduce.name": "experiment",
    "experiments.reproduce.rows": "row",
    "control.asked.texts": "condition",
    "control.between.start": "condition",
    "control.between.end": "condition",
    "control.edited.text": "condition",
    "control.grid.text": "a grid",
    "control.grid.names": "a grid",
    "control.parse.text": "condition",
    "metrics.evaluate.metrics": "metric",
    "metrics.evaluate_each.metrics": "metric",
    "metrics.features_for.name": "features",
    "plots.reconstructions.num": "x",
}
"""What a message calls an argument whose name says less."""

RIGHT_CALLS: dict[str, list[Any]] = {
    "control.grid.text": [""],
    "data.from_arrays.name": ["", "nonsense"],
    "experiments.reproduce.out": ["nonsense"],
    "fit.out": ["nonsense"],
    "load.path": ["nonsense"],
    "metrics.active_units.threshold": [-1.0],
    "metrics.variety.thresholds": [3],
    "Pair.load_weights.path": ["nonsense"],
    "Pair.sample.condition": [[1.0]],
    "Pair.save.path": ["nonsense"],
    "plots.figures.folder": ["nonsense"],
    "plots.image_grid.title": ["", "nonsense"],
    "start_at_clusters.seed": [0],
}
"""Values of other functions' wrong ones that are right here."""

SUFFIXED = "x"


def wrong_tensors(right: torch.Tensor) -> list[torch.Tensor]:
    """Tensors like a right one that are empty, sparse, of other shapes, or have NaN."""
    found = [right[:0], right.to_sparse(), right[(None,) * 4]]
    return [*found, right * float("nan")] if right.is_floating_point() else found


def wrong_calls(calls) -> Iterator[tuple[str, str, Any]]:
    """Wrong calls: the function, the argument and the value."""
    for name, (function, call) in calls.items():
        parameters = inspect.signature(function).parameters
        for parameter in parameters.values():
            annotation = parameter.annotation
            text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
            text = "str" if "PartName" in text or "Literal" in text else re.sub(r"\[.*\]", "", text)
            kind = next((word for word in re.findall(r"\w+", text) if word in WRONG), None)
            if kind is None or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                continue
            values = WRONG[kind]
            if kind == "Tensor" and isinstance(call.get(parameter.name), torch.Tensor):
                values = [*values, *wrong_tensors(call[parameter.name])]
            for value in values:
                right = RIGHT_CALLS.get(f"{name}.{parameter.name}", ())
                is_right = any(type(one) is type(value) and one == value for one in right)
                if not is_right and not (value is None and "None" in str(annotation)):
                    yield name, parameter.name, value
        if not any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
            yield name, f"{[*parameters][-1]}{SUFFIXED}", 1


def problem_of_call(function, call: dict[str, Any], said: str) -> str:
    """What is wrong with what a wrong call raises; nothing if it is one line with the argument and a remedy."""
    try:
        function(**call)
    except (ValueError, pp.CheckpointError) as error:
        message = str(error)
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if not frame.f_globals["__name__"].startswith("pyro_priors"):
            return f"raised elsewhere: {message}"
        return "" if "\n" not in message and said in message and REMEDY.search(message) else message
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"


@pytest.mark.parametrize("share", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_wrong_calls(share, calls, tmp_path, monkeypatch):
    """Each raises ValueError with one line; one of three in the fast suite."""
    monkeypatch.chdir(tmp_path)
    bad, made = [], list(wrong_calls(calls))[::share]
    for name, argument, value in made:
        function, call = calls[name]
        said = SAID_AS.get(f"{name}.{argument}", argument)
        if problem := problem_of_call(function, {**call, argument: value}, said):
            bad.append(f"{name}({argument}={str(value)[:40]!r}): {problem[:200]!r}")
    print(f"{len(made)} wrong calls of {len(calls)} functions: {len(bad)} without one line")
    assert len(made) > 200
    assert not bad, "\n".join(bad)
    assert not list(tmp_path.rglob("*"))
