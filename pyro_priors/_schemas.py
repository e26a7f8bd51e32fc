"""What each JSON file of a run folder may hold.

Each file has one dataclass, whose annotations are its schema: types, ranges, lengths and characters. A field without a
default must be present. :mod:`pyro_priors._records` reads files and compares them with these schemas.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from ._options import MAY_BE_INFINITE

__all__ = [
    "Config",
    "Epoch",
    "Evaluation",
    "Examples",
    "Pictures",
    "SavedPair",
    "SeedsOfRuns",
    "Start",
    "State",
    "Tensors",
]


@dataclass(frozen=True)
class Between:
    """The range of a number."""

    least: float
    most: float = math.inf


@dataclass(frozen=True)
class Like:
    """The form of a string.

    :param pattern: regular expression that the whole string must match; None for no constraint
    :param what: the pattern in words, for messages
    :param most: maximum number of characters
    """

    pattern: str | None
    what: str
    most: int = 4096


@dataclass(frozen=True)
class OptionsOf:
    """A dict whose values must have the types of the fields of the same names in a dataclass.

    :param module: the module of this package that defines the dataclass
    :param name: the name of the dataclass, which is imported when it is first needed
    """

    module: str
    name: str


ANY_NUMBER = "may be infinite or NaN"
"""Declare a computed number, which may be infinite or NaN."""

# fields

Count = Annotated[int, Between(0, 2**63 - 1)]
Number = Annotated[float, ANY_NUMBER]
Digest = Annotated[str, Like("[0-9a-f]{64}", "a checksum of 64 hexadecimal digits")]
Name = Annotated[str, Like(r"[\w.+-]{1,200}", "a name of letters, digits and . _ + -")]
Message = Annotated[str, Like(None, "a string", 100_000)]


@dataclass(frozen=True)
class _Recipe:
    """A pair of the zoo: its name and options."""

    name: Name
    config: dict[str, Any]
    own_networks: tuple[Literal["encoder", "decoder", "prior", "prior_z1", "likelihood"], ...]


@dataclass(frozen=True)
class _Data:
    """The data of a run: how they were loaded, or the digests of in-memory arrays."""

    name: str
    config: Annotated[dict[str, Any] | None, OptionsOf("data", "DataConfig")]
    sha256: Digest = ""
    arrays: dict[Literal["train", "valid", "test"], Digest] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class _Objective:
    name: Name
    config: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class _Optimizer:
    """An optimizer that the caller of ``fit`` made: its class, and the options of each group."""

    name: Name
    groups: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class _Estimate:
    value: Number
    stderr: Number | None
    unit: str


@dataclass(frozen=True)
class Progress:
    """The progress of a training. :mod:`pyro_priors._resume` compares it with the training that resumes."""

    epoch: Count
    step: Count
    step_in_epoch: Count
    best_bound: Annotated[float, MAY_BE_INFINITE]
    best_epoch: Annotated[int, Between(-1, 2**63 - 1)]
    wait: Count
    stopped: Annotated[str, Like("(|patience|a callback: .*)", "'', 'patience' or 'a callback: NAME'")] = ""
    diverged: Message = ""
    compile: bool | None = None
    sums: dict[str, Number] = dataclasses.field(default_factory=dict)
    count: Count = 0
    largest_norm: Annotated[float, Between(0)] = 0.0


# files


@dataclass(frozen=True)
class Config:
    """``config.json``: the options of a run."""

    pair: _Recipe | None
    data: _Data | None
    objective: _Objective
    train: Annotated[dict[str, Any], OptionsOf("training.config", "TrainConfig")]
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    optimizer: _Optimizer | None = None
    callbacks: tuple[Name, ...] = ()
    command: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """``evaluation.json``: estimates, what they estimate, and how they were computed."""

    part: Literal["train", "valid", "test"]
    seed: Count
    metrics: dict[str, _Estimate]
    data: str = ""
    asked: tuple[str, ...] = ()
    num_samples: Count = 0
    num_data: Count | None = None
    categories: Literal["sum", "draw"] | None = None
    features: Name | None = None
    weights: Digest | None = None
    epochs: Count | None = None
    aggregate_c: tuple[Annotated[float, Between(0, 1.001)], ...] = ()
    true_log_likelihood: float = 0.0


@dataclass(frozen=True)
class Epoch:
    """A line of ``metrics.jsonl``. Further terms of the loss and the bound are numbers, finite or not."""

    epoch: Count
    step: Count
    learning_rate: Annotated[float, Between(0)]
    seconds: Annotated[float, Between(0)]
    valid_bound: float
    kl_weight: float | dict[str, float] = 1.0
    train_loss: float = 0.0
    train_largest_gradient_norm: Annotated[float, Between(0)] = 0.0


@dataclass(frozen=True)
class Start:
    """``start.json``: what the training of an experiment's row started from."""

    how: str
    options: dict[str, Any]
    learned: str
    weights: Digest | None


@dataclass(frozen=True)
class Tensors:
    """A record that names a separate file of tensors."""

    format: Literal[1]
    tensors: Annotated[str, Like(r"[\w.+-]+\.safetensors", "the name of a .safetensors file in the same folder", 255)]
    sha256: Digest


@dataclass(frozen=True)
class SavedPair(Tensors):
    """``pair.json``: a pair."""

    pair: _Recipe | None
    replaced: bool = False


@dataclass(frozen=True)
class State(Tensors):
    """``state.json``: the state from which a training resumes."""

    progress: Progress
    param_groups: tuple[dict[str, Any], ...]
    stopped: str = ""


@dataclass(frozen=True)
class KeptRun:
    """A line of ``runs.jsonl``: what is kept of a run of an experiment without its weights."""

    name: Name
    config: Config
    epochs: Count
    seconds_per_epoch: Annotated[float, Between(0)] | None
    evaluation: Evaluation | None
    curve: dict[str, tuple[Number, ...]]
    start: Start | None = None


@dataclass(frozen=True)
class _RowPictures:
    """The pictures of one row in a PNG."""

    row: Name
    weights: Name
    labels: tuple[str, ...]
    num: Annotated[int, Between(1, 2**20)]
    size: tuple[Annotated[int, Between(1, 2**16)], ...]


@dataclass(frozen=True)
class Pictures:
    """The text stored inside the PNG with the pictures of a figure, which describes its images."""

    rows: tuple[_RowPictures, ...]


@dataclass(frozen=True)
class SeedsOfRuns:
    """``seeds.json``: the seeds of the runs in a folder, and the command that trains them."""

    seeds: tuple[Count, ...]
    command: tuple[str, ...]
    imports: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Examples:
    split: Literal["train", "valid", "test"]
    seed: Count
    data: Digest
    weights: Digest | None
    num_samples: Count = 0
    categories: Literal["sum", "draw"] = "sum"


@dataclass(frozen=True)
class Examples(Tensors):
    """``examples/SPLIT-seedN.json``: values for each example of a split."""

    examples: _Examples
