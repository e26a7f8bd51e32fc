"""Wrong command lines and wrong calls, generated from the options' own types: each ends in one line.

The line names the argument and the value, and says what to do. Nothing is written.
"""

import contextlib
import dataclasses
import inspect
import os
import re
import subprocess
import sys
import traceback
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np
import pytest
import torch

import pyro_priors as pp
import runs
from pyro_priors._options import MAY_BE_INFINITE
from pyro_priors._terminal import until_unread
from pyro_priors.cli.arguments import groups
from pyro_priors.cli.main import main

REMEDY = re.compile(
    r"\b(give|leave|choose|see|use|make|rename|restore|take|load|drop|reshape|train|put|write|draw)\b"
    r"|did you mean|for example|one of|from 0|must (be|end|name)"
)

RUNS = {
    "toy": "vae --data moons --data.limit 60 --prior gaussian",
    "digits": "cp_vae --data digits --data.limit 60 --num-categories 3",
    "conditional": "sigma_cvae --data digits --data.limit 60 --data.condition-labels --data.binarise none",
}
TINY = "--quiet --networks.hidden 8 --z-dim 2 --train.max-epochs 1 --train.device cpu"


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
        return tuple(get_args(one)[0] if get_origin(one) is Annotated else one for one in found if one is not NoneType)

    @property
    def is_flag(self) -> bool:
        """Whether it takes no value."""
        return self.kinds == (bool,) and NoneType not in get_args(self.declared)

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
        patch.setattr("pyro_priors.cli.parsing.parse", parse)
        main(arguments)
    return found


HUGE = str(2**64)
NUMBERS = ["", "many", "²", "３", "nan", "1e400"]
OF_TYPE: dict[Any, list[str]] = {
    int: [*NUMBERS, "1.5", "-1", "0", HUGE, f"-{HUGE}", "None "],
    float: [*NUMBERS, "inf", "-1", "1,5"],
    bool: ["maybe"],
    str: ["", " ", "nonsense", "a\nb", "a\x1bb"],
}
"""Texts that are wrong for an option of a type, or for most of them."""

RIGHT: dict[str, set[str]] = {
    "data.condition-rows": {"0"},
    "edit": {"0"},
    "data.labels": {"0"},
    "data.limit": {"0"},
    "data.root": {"nonsense"},
    "data.seed": {"0"},
    "objective.alpha": {"-1"},
    "objective.kappa-squared": {"-1"},
    "objective.num-steps": {"0"},
    "out": {"nonsense"},
    "seed": {"0"},
    "train.patience": {"0"},
    "train.seed": {"0"},
}
"""Those of them that are right, by option."""

MAY_REPEAT, MAY_BE_EMPTY = {"row"}, {"pair.channels"}


def wrong_values(option: Option) -> Iterator[str]:
    """Values that are not of the option's type, or not in its range."""
    for kind in option.kinds:
        if get_origin(kind) is Literal:
            values = ["nonsense", "", get_args(kind)[0].upper()]
        else:
            values = OF_TYPE[get_args(kind)[0] if get_origin(kind) is tuple else kind]
        for value in values:
            is_right = value in RIGHT.get(option.name, ()) or (value in ("inf", "1e400") and option.may_be_infinite)
            if not is_right:
                yield value


def command_lines(base: list[str], options: list[Option]) -> Iterator[tuple[str, str, list[str]]]:
    """Wrong command lines: the option, the value that a message must show, and the arguments."""
    for option in options:
        flag = f"--{option.name}"
        without = [token for name, tokens in groups(base) if name != option.name for token in tokens]
        misspelled = f"--{option.name[:-1]}{'x' if option.name[-1] != 'x' else 'y'}"
        yield misspelled[2:], misspelled, [*without, misspelled]
        if option.is_flag:
            yield option.name, "yes", [*without, f"{flag}=yes"]
            yield option.name, flag, [*without, flag, flag]
            continue
        for value in wrong_values(option):
            yield option.name, value, [*without, flag, value]
        yield misspelled[2:], misspelled, [*without, f"{misspelled}=1"]
        if option.name not in MAY_BE_EMPTY:
            yield option.name, "", [*without, flag]
        if option.name not in MAY_REPEAT:
            yield option.name, "7", [*without, flag, "7", f"{flag}=8"]
            yield option.name, "8", [*without, flag, "7", f"{flag.replace('-', '_').replace('__', '--', 1)}=8"]


def generated_lines() -> Iterator[tuple[str, str, list[str]]]:
    """Wrong lines of every command; options that several commands or pairs share are tried once."""
    tiny = [*TINY.split(), "--data", "digits", "--data.limit", "60", "--out", "new"]
    names = ["vae", *(name for name in pp.names() if name != "vae")]  # what all pairs share, of one that is simple
    given = {name: ["--data.condition-labels"] if "cvae" in name else [] for name in names}
    bases = [["train", name, *tiny, *given[name]] for name in names]
    bases += [["train", "vae", "--objective", name, *tiny] for name in sorted(pp.objectives.OBJECTIVES)]
    bases += [["evaluate", "toy"], ["plot", "toy"], ["reproduce", "bhalodia2019/fig1", "--no-train"]]
    bases += [["sample", "toy", "--out", "new.npz"]]
    bases += [["sample", "conditional", "--out", "new.npz", "--condition", "label=1"]]
    bases += [["encode", "toy", "--out", "new.npz"], ["reconstruct", "toy", "--out", "new.npz"]]
    bases += [["compare", "toy", "digits"]]
    seen: set[tuple[Any, ...]] = set()
    for base in bases:
        options = [one for one in parsed_options(base) if (kind_of(base), one.name) not in seen and not one.positional]
        seen |= {(kind_of(base), one.name) for one in options}
        yield from command_lines(base, options)


def kind_of(base: list[str]) -> tuple[str, ...]:
    return tuple(base[:2]) if base[0] == "sample" else tuple(base[:1])


OTHERS = r"""
 | command '' | choose
lst | 'lst' | list
tra\nin | tra in | train
évaluate | évaluate | evaluate
-v | -v | choose
TRAIN | TRAIN | choose
list all | all | choose
list priors all | all | one group
list prior.flo | flo | flow
compare toy | 1 | runs/b
compare toy new | new | run folder
compare toy file | file | run folder
encode toy toy --out new.npz | toy | leave it out
encode toy --out new.png | new.png | npz
encode toy --out new.npz --num 1000000 | 1000000 | fewer
reconstruct toy --out new.png | moons | npz
reconstruct toy --out folder.npz | folder.npz | file
train vae --data digits --out new --seeds 0 0 | 0 | once
train vae --data digits --out new --seeds 0 --train.seed 1 | --train.seed | leave
train | name of a pair | one of
train --quiet | name of a pair | one of
train  --quiet | pair '' | choose
train vea --data digits --out new | vea | vae
train vae vae --data digits --out new | 'vae' | leave it out
train vae --out new | --data | one of
train vae --data digits | --out | see
train vae --data folder.npz --out new | folder.npz | give the path
train vae --data text.npz --out new | text.npz | numpy.savez
train vae --data file --out new | file | give one of
train vae --data digits --data moons --out new | digits | moons
train vae --data digits --out file | file | choose
train vae --data digits --out file/new | file/new | choose
train vae --data digits --out new --out other | new | other
train vae --data digits --out new --quiet --no-quiet | --quiet | --no-quiet
train vae --data digits --out new --objective bta | bta | beta
train vae --data digits --out new --objective beta --objective elbo | beta | elbo
train vae --data digits --out new --objective | --objective | value
train vae --data digits --out new --objective.beta 2 | --objective.beta | --objective
train vae --data digits --out new --networks.hidden 1000000000 | hidden | GiB
train vae --data digits --out new --z-dim 1000000000000 | z_dim | GiB
train vae --data digits --out new --prior mixture --prior.num-components 1000000000000 | num_components | GiB
train vae --data digits --out new --prior flow --prior.num-transforms 1000000000000 | num_transforms | 1000
train cp_vae --data digits --out new --num-categories 1000000000000 | num_categories | GiB
resume | run folder | runs
resume new | new | run folder
resume file | file | run folder
resume toy more | more | leave it out
resume toy --out other | --out other | leave
resume toy --resume | --resume | leave
resume toy --train.max-epochs 2 --train.max-epochs 3 | 2 | 3
resume toy --train.max-epoch 3 | --train.max-epoch | --train.max-epochs
resume toy --train.max-epochs | --train.max-epochs | value
resume toy --train.max-epochs many | many | integer
resume toy --data | --data | value
evaluate | RUN | first
evaluate new | new | run folder
evaluate file | file | run folder
evaluate text.npz | text.npz | run folder
evaluate toy toy | toy | leave it out
evaluate toy --metrics bond | bond | bound
evaluate toy --metrics bound --features vgg | vgg | generation
evaluate toy --metrics bound --features classifier | classifier | generation
evaluate toy --metrics bound --num-samples 3 | 3 | log_likelihood
evaluate toy --metrics bound --categories draw | draw | log_likelihood
evaluate toy --metrics generation --features vgg | vgg | classifier
evaluate toy --part tets | tets | test
evaluate toy --seed=-1 | -1 | integer
evaluate toy --data moons --data moons | moons | once
evaluate toy --data digits | digits | leave
evaluate toy --no-data | --no-data | --data
sample file | file | run folder
sample toy --out folder.npz | folder.npz | file
sample digits --out folder.png | folder.png | file
sample toy --out new.jpg | new.jpg | png
sample toy --out file/new.npz | file | choose
sample toy --out new.npz --category ² | ² | leave it out
sample digits --out new.png --category ² | ² | category
sample digits --out new.png --category ３ | ３ | category
sample digits --out new.png --category 1.0 | 1.0 | category
sample digits --out new.png --category -1 | -1 | 0 to 2
sample digits --out new.png --category 3 | 3 | 0 to 2
sample toy --out new.npz --category prior | prior | leave it out
sample digits --out new.png --condition 0 | 0 | leave it out
sample toy --out new.npz --grid label | --grid | train one
sample toy --out new.npz --edit 0 | --edit | train one
sample toy --out new.npz --transport | --transport | --edit
sample toy --out new.npz --num 1000000000000 | num | GiB
sample conditional --out new.png --condition label=11 | 11 | choose
sample conditional --out new.png --condition labl=1 | labl | label
sample conditional --out new.png --condition 0 label=1 | label=1 | choose
sample conditional --out new.png --condition ² | ² | label
sample conditional --out new.png --condition 99999 | 99999 | 0 to
sample conditional --out new.png --grid label --num 3 | 3 | leave it out
sample conditional --out new.png --grid label --to label=1 | --grid | choose
sample conditional --out new.png --to label=1 | --to | --condition
sample conditional --out new.png --edit 0 | --edit | --condition
sample conditional --out new.png --edit 99999 --condition label=1 | 99999 | 0 to
plot new | new | run folder
plot file | file | run folder
plot toy figures | figures | leave it out
cache all | all | give --clear
cache --cler | --cler | give --clear
cache --clear nonsense | nonsense | cache
reproduce | EXPERIMENT | first
reproduce bhalodia2019 | bhalodia2019 | choose
reproduce bhalodia2019/fig2 | bhalodia2019/fig2 | bhalodia2019/fig
reproduce bhalodia2019/fig1 --out file | file | folder
reproduce bhalodia2019/fig1 --row nonsense | nonsense | give one of
reproduce bhalodia2019/fig1 --features vgg | vgg | choose
reproduce bhalodia2019/fig1 --precision 8 | 8 | one of
reproduce bhalodia2019/fig1 --max-epochs 0 | 0 | at least 1
"""
"""Lines of other kinds: the arguments, and two words of the message."""


def other_lines() -> Iterator[tuple[list[str], list[str]]]:
    for line in OTHERS[1:-1].splitlines():
        arguments, *words = line.split(" | ")
        yield arguments.encode().decode("unicode_escape" if "\\" in arguments else "utf-8").split(" "), words


def problems_of(status: Any, captured: Any, words: list[str]) -> list[str]:
    """What is wrong with how a wrong command line ended."""
    lines = captured.err.splitlines()
    problems = [] if status == 2 else [f"status {status}"]
    if len(lines) != 1 or not captured.err.startswith("pyro-priors: error: "):
        problems.append(f"{len(lines)} lines on stderr")
    if captured.out:
        problems.append(f"{captured.out[:50]!r} on stdout")
    problems += [f"no {word!r}" for word in words if word not in captured.err]
    return problems if REMEDY.search(captured.err) else [*problems, "no remedy"]


def files_in(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def status_of(arguments: list[str]) -> Any:
    try:
        return main(arguments)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("share", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_wrong_command_lines(share, playground, monkeypatch, capsys):
    """Each ends in one line, with exit status 2; one of four in the fast suite."""
    monkeypatch.chdir(playground)
    before, bad, messages = files_in(playground), [], set()
    generated = list(generated_lines())[::share]
    for name, value, arguments in generated:
        status, captured = status_of(arguments), capsys.readouterr()
        problems = problems_of(status, captured, [] if value.strip() != value or not value.isprintable() else [value])
        last = name.rpartition(".")[2].removesuffix("s")  # of several metrics one is named
        if not any(word in captured.err for word in (last, last.replace("-", "_"), SAID_AS.get(name, last))):
            problems.append(f"no {last}")
        messages.add(re.sub(r"'[^']*'|-?\d+", "", captured.err))
        if problems:
            bad.append(f"{arguments[:2]} ... {arguments[-3:]}: {'; '.join(problems)}: {captured.err.strip()[:250]}")
    print(f"{len(generated)} wrong command lines, {len(messages)} different messages: {len(bad)} without one line")
    assert len(generated) > 300 and len(messages) > 100
    assert not bad, "\n".join(bad)
    assert files_in(playground) == before


def test_other_wrong_command_lines(playground, monkeypatch, capsys):
    monkeypatch.chdir(playground)
    before, bad, lines = files_in(playground), [], list(other_lines())
    for arguments, words in lines:
        status, captured = status_of(arguments), capsys.readouterr()
        if problems := problems_of(status, captured, words):
            bad.append(f"{' '.join(arguments)}: {'; '.join(problems)}: {captured.err.strip()[:300]}")
    print(f"{len(lines)} further wrong command lines: {len(bad)} without one line")
    assert not bad, "\n".join(bad)
    assert files_in(playground) == before


@pytest.mark.slow
def test_wrong_command_lines_in_processes_of_their_own(playground):
    before, bad, lines = files_in(playground), [], list(other_lines())[::3]
    script = Path(sys.executable).with_name("pyro-priors")
    for arguments, words in lines:
        done = subprocess.run([script, *arguments], cwd=playground, capture_output=True, text=True, timeout=120)
        captured = types.SimpleNamespace(out=done.stdout, err=done.stderr)
        if problems := problems_of(done.returncode, captured, words):
            bad.append(f"{' '.join(arguments)}: {'; '.join(problems)}: {captured.err.strip()[:300]}")
    print(f"{len(lines)} wrong command lines in processes: {len(bad)} without one line")
    assert not bad, "\n".join(bad)
    assert files_in(playground) == before


# calls


@pytest.fixture(scope="module")
def calls():
    """Right calls of the public functions, by name: the function and its arguments."""
    torch.manual_seed(0)
    digits = runs.small_data("digits", 60, 20)
    labeled = runs.small_data("digits", 60, 20, condition_labels=True)
    moons = runs.small_data("moons", 60, 20)
    planar = runs.small_pair("vae", moons, prior="flow", hidden_features=(4,))
    cp_vae = runs.small_pair("cp_vae", digits, num_categories=3, own_category_network=True)
    vae = runs.small_pair("vae", digits)
    cvae = runs.small_pair("sigma_cvae", labeled)
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
        "conditions.asked": {"pair": cvae, "data": labeled, "texts": ["label=3"], "num": 2},
        "conditions.grid": {"pair": cvae, "data": labeled, "names": ["label"], "num_columns": 2},
        "conditions.between": {"pair": cvae, "data": labeled, "start": "label=1", "end": "label=2", "num_rows": 1},
        "conditions.edited": {"pair": cvae, "data": labeled, "rows": [0], "text": "label=2"},
        "conditions.condition_of": {"wanted": {"3": 1.0}, "data": labeled, "num": 2},
        "conditions.parse": {"text": "label=3", "data": labeled},
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
        "metrics.prior_components": {"pair": cvae, "condition": labeled.test.condition[:2]},
        "metrics.factor_information": {"loc": z, "scale": z.exp(), "factors": torch.tensor([[0], [1]] * 3)},
        "metrics.mutual_information_gap": {"information": z.abs()[:2], "factors": torch.tensor([[0, 0], [1, 1]] * 3)},
        "metrics.mean_pairwise_distance": {"features": z},
        "metrics.frechet": {"real": z.double(), "generated": z.double()},
        "metrics.kernel_distance": {"real": z.double(), "generated": z.double()},
        "metrics.precision_recall_density_coverage": {"real": z.double(), "generated": z.double(), "k": 2},
        "metrics.image_distances": of,
        "metrics.features_for": {"name": "auto", "data": digits},
        "metrics.samples_given": {"pair": cvae, "condition": labeled.test.condition[:2], "num": 2},
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
    "to": "condition",
    "create.name": "pair",
    "data.load.name": "data set",
    "experiments.reproduce.name": "experiment",
    "experiments.reproduce.rows": "row",
    "conditions.asked.texts": "condition",
    "conditions.between.start": "condition",
    "conditions.between.end": "condition",
    "conditions.edited.text": "condition",
    "conditions.grid.text": "a grid",
    "conditions.grid.names": "a grid",
    "conditions.parse.text": "condition",
    "metrics.evaluate.metrics": "metric",
    "metrics.evaluate_each.metrics": "metric",
    "metrics.features_for.name": "features",
    "plots.reconstructions.num": "x",
}
"""What a message calls an argument whose name says less."""

RIGHT_CALLS: dict[str, list[Any]] = {
    "conditions.grid.text": [""],
    "data.from_arrays.name": ["", "nonsense"],
    "experiments.reproduce.out": ["nonsense"],
    "fit.out": ["nonsense"],
    "load.path": ["nonsense"],
    "metrics.active_units.threshold": [-1.0],
    "Pair.load_weights.path": ["nonsense"],
    "Pair.sample.condition": [[1.0]],
    "Pair.save.path": ["nonsense"],
    "plots.figures.folder": ["nonsense"],
    "plots.image_grid.title": ["", "nonsense"],
    "start_at_clusters.seed": [0],
}
"""Values of other functions' wrong ones that are right here."""

SUFFIXED = "x"


ANY_SHAPE = ("metrics.jaccard", "metrics.mean_pairwise_distance")
"""Functions whose tensors may have dimensions to the left."""


def wrong_tensors(right: torch.Tensor, any_shape: bool) -> list[torch.Tensor]:
    """Tensors like a right one that are empty, sparse, of other shapes, or have NaN."""
    found = [right[:0], right.to_sparse()] + ([] if any_shape else [right[(None,) * 4]])
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
                values = [*values, *wrong_tensors(call[parameter.name], name in ANY_SHAPE)]
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
        return "" if "\n" not in message and re.search(said, message) and REMEDY.search(message) else message
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"


def test_wrong_calls(calls, tmp_path, monkeypatch):
    """Each raises ValueError, or CheckpointError, with one line."""
    monkeypatch.chdir(tmp_path)
    bad, made = [], list(wrong_calls(calls))
    for name, argument, value in made:
        function, call = calls[name]
        said = f"{argument}|{SAID_AS.get(f'{name}.{argument}', argument)}"
        if problem := problem_of_call(function, {**call, argument: value}, said):
            bad.append(f"{name}({argument}={str(value)[:40]!r}): {problem[:200]!r}")
    print(f"{len(made)} wrong calls of {len(calls)} functions: {len(bad)} without one line")
    assert len(made) > 1000
    assert not bad, "\n".join(bad)
    assert not list(tmp_path.rglob("*"))


# memory


def test_sizes_that_exhaust_the_memory_are_refused_before_anything_is_allocated():
    data = runs.small_data("digits", 60, 20)
    config: dict[str, Any] = {"x_shape": (64,), "z_dim": 2, "hidden": (8,)}
    pair = pp.create("vae", **config)
    x = data.test.x[:4]
    mixture = runs.small_pair("vae", data, prior="mixture", num_components=4)
    for options, words in (
        ({"hidden": (10**9,)}, r"networks\.hidden=\(1000000000,\) needs more than \d"),
        ({"hidden": (8, 10**12)}, r"networks\.hidden=\(8, 1000000000000\) needs more than"),
        ({"z_dim": 10**12}, "z_dim=1000000000000 needs more than"),
        ({"prior": "mixture", "num_components": 10**12}, r"prior\.num_components=1000000000000 needs more than"),
    ):
        with pytest.raises(ValueError, match=rf"^{words}.* GiB of memory, but the machine has .*: give a smaller"):
            pp.create("vae", **config | options)
    for call, words in (
        (lambda: pair.sample(10**12), "size=1000000000000 .*needs more than"),
        (lambda: pp.objectives.log_importance_weights(pair.model, pair.guide, x, num_samples=10**12), "num_samples="),
        (
            lambda: pp.fit(pair, data, pp.objectives.Beta(num_particles=10**12), progress=False),
            "batch_size=100 .* rows",
        ),
    ):
        with pytest.raises(ValueError, match=f"^{words}.* GiB of memory, but the machine has"):
            call()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyro_priors._memory.total_memory", lambda: 5.5 * sum(4 * p.numel() for p in pair.parameters()))
        with pytest.raises(
            ValueError,
            match="^(x|networks.hidden|prior.num_components|z_dim)[a-z_]*=.* needs more than .*: give a",
        ):
            pp.zoo.create_for("vae", data, 0, hidden=(80,), z_dim=2)
        pp.create("vae", **config)
        with pytest.raises(
            ValueError, match="^training the pair's .* of parameters needs more than .*: make a smaller"
        ):
            pp.fit(mixture, data, progress=False)


# output that nobody reads


@pytest.mark.parametrize(
    "command", ["list", "train vae --help", "--help", "reproduce bhalodia2019/fig1 --no-train", "evaluate toy"]
)
@pytest.mark.slow
def test_a_reader_that_has_read_enough_is_no_error(command, playground):
    """The table of an evaluation is long enough for a second write to fail."""
    script = Path(sys.executable).with_name("pyro-priors")
    piped = f"set -o pipefail; {script} {command} 2> errors | true"
    done = subprocess.run(["bash", "-c", piped], cwd=playground, capture_output=True, text=True, timeout=300)
    errors = (playground / "errors").read_text()
    (playground / "errors").unlink()
    assert (done.returncode, [line for line in errors.splitlines() if "holds no run" not in line]) == (0, [])


def test_what_is_written_after_the_reader_has_gone_is_dropped():
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stream, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        with until_unread():
            for _ in range(3):
                print("x" * 100_000, flush=True)
