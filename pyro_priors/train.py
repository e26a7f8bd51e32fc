"""Training: the options, and :func:`fit`."""

from __future__ import annotations

import atexit
import copy
import dataclasses
import io
import logging
import math
import os
import pickle
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import pyro
import torch
from pyro import infer, poutine
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException
from torch.nn.parameter import is_lazy

from . import checkpoint, zoo
from ._files import CheckpointError, WriteError, write_atomically
from ._lock import own_store
from ._memory import TRAINED, check_memory
from ._networks import check_networks, check_smallest_batch
from ._options import MAY_BE_INFINITE, convert_fields, plain, shown, typed
from ._precision import first_rounded
from ._rng import seeded
from ._sites import check_latent, sample_sites
from .data import DataConfig, Levels, Splits
from .data.units import WHITE
from .loop import History, Training, TrainingDiverged, summary_writer, to_like
from .nn import check_labels
from .objectives import ELBO, options_of
from .pair import Pair
from .run_folder import RunFolder
from .signals import forwarded_signals

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["History", "TrainConfig", "TrainingDiverged", "fit"]

SCHEDULES = ("constant", "cosine", "linear")
COMPILE = ("always", "auto", "never")
PSEUDO_INPUTS = ("data", "random")
KEPT = ("best", "last")
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("32-true", "64-true", "bf16-mixed", "bf16-true")


@dataclass(frozen=True)
class TrainConfig:
    """Options of a training."""

    max_epochs: int = 100
    """Maximum number of epochs."""
    batch_size: int = 100
    """Number of data per step, over all processes."""
    learning_rate: float = 5e-4
    """Learning rate of Adam."""
    schedule: str = "constant"
    """Schedule of the learning rate over the epochs: constant, cosine or linear. The last two decrease towards 0."""
    warmup_epochs: float = 0.0
    """Number of epochs over which the weight of the KL rises linearly to 1."""
    warmup_sites: tuple[str, ...] = ()
    """Latent sites whose KL is warmed up; all of them when empty."""
    frozen: tuple[str, ...] = ()
    """Parts of the pair, such as guide.category, whose parameters are not trained during the first frozen_epochs."""
    frozen_epochs: Annotated[float, MAY_BE_INFINITE] = 0.0
    """Number of epochs, to the step, during which the parameters of the frozen parts do not change. They are trained
    from
    then on. Buffers, such as the running estimate of an optimal scale, are always updated."""
    patience: int = 0
    """Number of epochs without a better validation bound after which training stops, counted from the end of the
    warm-up
    and of frozen_epochs. 0 disables early stopping."""
    keep: str = "best"
    """Weights that the pair has after training: best (by the validation bound) or last. Use last if the schedule
    decides
    when to stop, or if the bound does not measure the objective."""
    clip_norm: Annotated[float, MAY_BE_INFINITE] = 0.0
    """Maximum norm of the gradient of all parameters together. 0 disables clipping."""
    seed: int = 0
    """Seed of data order, binarization and noise."""
    pseudo_inputs: str = "random"
    """Initial pseudo-inputs of a VampPrior: random (as the pair was created) or data (training data drawn with the
    seed,
    plus a little noise)."""
    checkpoint_seconds: Annotated[float, MAY_BE_INFINITE] = 30.0
    """Seconds between two saves of the resume state."""
    compile: str = "auto"
    """Compile the step: auto, always or never. auto compiles if the training has enough steps to pay for it. If nothing
    can
    be compiled, auto runs eagerly after a one-line message with the reason, and always raises ValueError."""
    tensorboard: bool = False
    """Write TensorBoard events to the run folder."""
    device: str = "auto"
    """Device: auto, cpu, cuda or mps."""
    num_processes: int = 1
    """Number of processes that share each batch."""
    precision: str = "32-true"
    """Precision, by Lightning Fabric's names: 32-true, 64-true, bf16-mixed or bf16-true. 64-true and bf16-true convert
    the pair. Densities and KL terms are in float32 or wider in all of them. bf16-true refuses data that bfloat16
    rounds. Processors without bfloat16 instructions are slower in bfloat16 than in 32-true. In bfloat16 the gradient of
    a category's posterior, a difference of sums of hundreds of nats, is mostly rounding error while the categories
    differ
    little."""

    def __post_init__(self) -> None:
        for name, what in (("frozen", "parts"), ("warmup_sites", "latent sites")):
            if isinstance(names := plain(getattr(self, name)), str):
                raise ValueError(f"{name} must be a tuple of names of {what}, got '{names}': give ('{names}',)")
        convert_fields(self)
        for name in ("max_epochs", "batch_size", "num_processes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("warmup_epochs", "frozen_epochs", "patience", "clip_norm", "seed", "checkpoint_seconds"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.seed >= 2**63:  # the largest that torch's generators take
            raise ValueError(f"seed must be below 2**63, got {self.seed}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}: 5e-4 is a good start")
        for name, known in (
            ("schedule", SCHEDULES),
            ("device", DEVICES),
            ("precision", PRECISIONS),
            ("compile", COMPILE),
            ("pseudo_inputs", PSEUDO_INPUTS),
            ("keep", KEPT),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got '{getattr(self, name)}'")
        if bool(self.frozen) != bool(self.frozen_epochs):
            raise ValueError(
                f"frozen={self.frozen} and frozen_epochs={self.frozen_epochs:g} belong together: give both, or neither"
            )
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device is 'cuda', but torch finds no CUDA device here: use auto or cpu")
        if self.device == "mps" and not torch.backends.mps.is_available():
            raise ValueError("device is 'mps', but torch finds no Apple GPU here: use auto or cpu")


@typed
def fit(
    pair: Pair,
    data: Splits,
    objective: infer.ELBO | None = None,
    *,
    out: str | Path | RunFolder | None = None,
    resume: bool = False,
    progress: bool = True,
    config: TrainConfig | None = None,
    **options: Any,
) -> History:
    """Train a pair with Adam, and leave in it the weights with the best validation bound, or the last ones if
    ``keep="last"``.

    Example::

        >>> history = fit(pair, pyro_priors.data.load("mnist"), max_epochs=200, warmup_epochs=100, out="runs/cp")

    Validation computes the bound at KL weight 1 on the validation part, with the same noise after every epoch. For a
    sparse or relaxed category it sums the ``num_enumerated`` most probable categories and draws one from the rest,
    while an evaluation sums all. Order, binarization and noise are functions of ``seed`` and the step. On the same
    machine, a run that is killed at any moment and resumed therefore ends with the same bits as an uninterrupted run.
    No global state changes: the parameter store and torch's random generators are restored at the end.

    Several processes share each batch and its noise. If the latent sites are Gaussian, they end with the parameters of
    one process, up to the order of sums. For other sites, each process draws the same noise for its own share.
    Objectives that compare the data of a batch with each other (Capacity, TotalCorrelation, Factor, Info) need a single
    process.

    ``fit`` uses a copy of the objective, and sets its number of training data if the objective needs one and has none.
    Networks that the objective trains, such as Factor's discriminator, are initialized from ``seed``.

    On SIGINT or SIGTERM, the training finishes the current step, writes the resume state and raises KeyboardInterrupt
    or SystemExit. A training outside the main thread does not handle signals.

    Several threads may train pairs, and use this package otherwise, at the same time. A training lets other threads run
    after each step and each batch of its validation, and ends with the same bits as a training that runs alone. A
    thread that draws from torch's global generators during a step would change that step. The training detects this and
    raises ValueError: give that thread its own ``torch.Generator``. Your own loop with Pyro's ``SVI`` has no such
    protection: run it while no other thread uses this package.

    Before the training, the programs run on two rows of data with several samples, as in ``pair.log_prob``. A network
    that cannot handle samples is thus found before the training, and not after it. If a step will have a single datum,
    the programs also run on one datum in training mode, where batch statistics fail.

    :param pair: the pair, which is trained in place
    :param data: from :func:`pyro_priors.data.load` or :func:`pyro_priors.data.from_arrays`
    :param objective: an objective of this package, or Pyro's Trace_ELBO, TraceMeanField_ELBO or TraceEnum_ELBO, whose
        sum over the batch is divided by the batch size; by default ``pair.elbo``
    :param out: the run folder, as a path or a RunFolder; without it nothing is written. From then on
        :func:`pyro_priors.load` returns the trained pair, even if :meth:`Pair.save` has written to the folder before
    :param resume: resume the run in ``out`` with the same options and data, or start it if there is no state yet. The
        data file may have moved, and in-memory arrays may be other objects: their checksums are compared
    :param progress: show a progress bar, or plain lines if the output is not a terminal
    :param config: all options at once
    :param options: fields of :class:`TrainConfig`
    :raises ValueError: if an option is out of range; data and pair do not fit; a network does not return what its
        program needs, or cannot be trained on a batch of one datum that ``batch_size`` leaves; a tensor of the pair
        could not be saved or restored; ``out`` contains another run, or a pair that was saved over that of the run to
        be resumed; nothing can be compiled with ``compile="always"``; parameters or a step need more memory than the
        machine has; or another thread draws from torch's generators during a step
    :raises TrainingDiverged: if the loss, a gradient, a parameter or the validation bound becomes NaN or infinite, or a
        distribution refuses its parameters. The pair, and ``out``, then hold the best weights so far, or the initial
        ones if no epoch has ended. Resuming a run that has diverged raises this at once
    :raises CheckpointError: if the run to be resumed cannot be read, or a file cannot be written, for example on a full
        disk. The last state is then unchanged, and the run can be resumed from it. The attribute ``history`` of the
        error has the epochs so far. The pair holds the weights of the last step, or the final weights if training was
        complete
    :raises ChildProcessError: if one of several processes was killed; a run with ``out`` can be resumed
    """
    if config is not None and not isinstance(config, TrainConfig):
        raise ValueError(f"config must be a TrainConfig, got {shown(config)}: give TrainConfig(max_epochs=100)")
    config = dataclasses.replace(config or TrainConfig(), **_known(options))
    pair = getattr(pair, "_orig_mod", pair)  # what torch.compile(pair) wraps
    objective = copy.copy(pair.elbo if objective is None else objective)
    if not isinstance(data, Splits):
        raise ValueError(f"data must be Splits, got {type(data).__name__}: give pyro_priors.data.from_arrays(x_train)")
    if not hasattr(objective, "differentiable_loss"):
        given = objective if isinstance(objective, str) else type(objective).__name__
        raise ValueError(
            f"objective {given} has no differentiable_loss: give one of pyro_priors.objectives, such as Beta(4.0), "
            "or Pyro's Trace_ELBO(), TraceMeanField_ELBO() or TraceEnum_ELBO(); use SVI to train with others"
        )
    if isinstance(objective, ELBO):
        if objective.kl_weight != 1.0:
            raise ValueError(
                f"the objective's kl_weight is {objective.kl_weight}, but fit sets the weight of each step: give "
                "warmup_epochs, or Beta(beta), and leave kl_weight at 1.0"
            )
        objective.begin(len(data.train), config.seed)
        if objective.couples_batch and config.num_processes > 1:
            raise ValueError(
                f"num_processes is {config.num_processes}, but {type(objective).__name__} compares the data of a batch "
                "with each other, and each process has only a share of them: give num_processes=1"
            )
    coupled = [type(module).__name__ for module in pair.modules() if getattr(module, "couples_batch", False)]
    if config.num_processes > 1 and coupled:
        raise ValueError(
            f"num_processes is {config.num_processes}, but {coupled[0]} computes with a whole batch, and each process "
            "has only a share of it: give num_processes=1, or scale='learned' in place of an optimal scale"
        )
    _check_fits(pair, data)
    _check_memory(pair, data, objective, config.batch_size)
    _check_precision(data, config.precision)
    first = to_like(data.train.take(slice(2)), next(pair.parameters()))
    rows = first.x[:], None if first.condition is None else first.condition[:]  # bytes come out as numbers
    check_networks(pair, *rows)
    check_smallest_batch(pair, *rows, len(data.train), config.batch_size, config.num_processes)
    _check_sites(pair, data, config.warmup_sites)
    _check_frozen(pair, config.frozen)
    _check_chunks(pair, data, objective)
    if config.tensorboard:
        summary_writer()
    if len(data.valid) < config.num_processes:
        raise ValueError(
            f"num_processes is {config.num_processes}, but the validation part has {len(data.valid)} data: give fewer"
        )
    to_file = out is not None or config.num_processes > 1
    checkpoint.check_module(pair, to_file)
    if out is not None:
        pair.check_parts()
    if config.num_processes > 1:
        _check_is_sent(pair, objective, config.num_processes)
    if isinstance(objective, ELBO) and out is not None:
        checkpoint.check_tensors(objective.state())
    if resume and out is None:
        raise ValueError("resume=True needs out: give the run folder to resume")
    if config.precision.startswith("bf16") and not _multiplies_bfloat16(config.device):
        warnings.warn(
            f"precision='{config.precision}': this processor has no bfloat16 instructions, and is slower in "
            "bfloat16 than in 32-true",
            RuntimeWarning,
            stacklevel=3,
        )
    if config.warmup_epochs > config.max_epochs:
        warnings.warn(
            f"warmup_epochs is {config.warmup_epochs:g} and max_epochs {config.max_epochs}: training ends at a KL "
            f"weight of {config.max_epochs / config.warmup_epochs:.2g}, below the weight 1 of the bound",
            stacklevel=3,
        )
    folder = out if out is None or isinstance(out, RunFolder) else RunFolder(out)
    _start_pseudo_inputs(pair, data, config)
    pair.saved_digest = None
    if folder is None:
        return _train(pair, data, objective, config, None, resume, progress)
    with folder.locked():
        known = defaults(pair.recipe, type(objective))
        folder.begin(record(pair, data, objective, config, resume and folder.is_of_arrays), resume, known)
        return _train(pair, data, objective, config, folder, resume, progress)


def _train(
    pair: Pair,
    data: Splits,
    objective: infer.ELBO,
    config: TrainConfig,
    folder: RunFolder | None,
    resume: bool,
    progress: bool,
) -> History:
    """Train in this process, or in ``config.num_processes`` processes."""
    from lightning_fabric import Fabric  # a second to import, and only training needs it

    strategy = "auto" if config.num_processes == 1 else "ddp_spawn"
    fabric = Fabric(
        accelerator=config.device,
        devices=config.num_processes,
        strategy=strategy,
        precision=cast(Any, config.precision),
    )
    if config.num_processes == 1:
        fabric.launch()
        return Training(fabric, pair, data, objective, config, folder, resume, progress).run()
    with forwarded_signals(), tempfile.TemporaryDirectory() as place:
        # Fabric gives each process its own copy of a module among the arguments, and refuses frozen dataclasses there
        rest = (data, objective, config, folder, resume, progress)
        result = Path(place) / "result"
        try:
            with _quiet(logging.getLogger("torch.multiprocessing.spawn")):
                status = fabric.launch(partial(_train_in_process, rest, result), pair)
        except (ProcessExitedException, ProcessRaisedException) as error:
            status = 0
            if not result.exists():  # the process that writes was stopped
                _raise_of_killed(error, result, folder)
                raise
        if status:
            raise KeyboardInterrupt if status == 128 + signal.SIGINT else SystemExit(status)
        content, digest, outcome = pickle.loads(result.read_bytes())
    if config.precision in ("64-true", "bf16-true"):  # as Fabric does to the pair itself in a single process
        pair.to(torch.float64 if config.precision == "64-true" else torch.bfloat16)
    if content is not None:
        checkpoint.load_module_state(pair, checkpoint.unpack(content), "training")
        pair.saved_digest = digest
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Let a logger report only errors."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _raise_of_killed(
    error: ProcessExitedException | ProcessRaisedException, result: Path, folder: RunFolder | None
) -> None:
    """Raise an error that names the killed process, if one was killed.

    :param error: the error of one of the processes, which may have lost the connection to the killed one
    :param result: each process writes a file next to this path when it begins, and another when it returns or raises
    :param folder: the run folder
    :raises ChildProcessError: if a process was killed
    """
    killed, how = [], ""
    if isinstance(error, ProcessExitedException):
        killed, how = [error.error_index], f" ({error.signal_name or f'exit code {error.exit_code}'})"
    else:
        began = sorted(int(file.name.rpartition("-")[2]) for file in result.parent.glob("began-*"))
        killed = [rank for rank in began if not result.with_name(f"ended-{rank}").exists()]
    if killed:
        go_on = "train again" if folder is None else f"resume the run in {folder.path} from its last state"
        raise ChildProcessError(
            f"process {killed[0]} of the training was killed{how}, perhaps because memory ran out: {go_on}"
        ) from error


def _multiplies_bfloat16(device: str) -> bool:
    if device != "cpu" and (torch.cuda.is_available() or torch.backends.mps.is_available()):
        return True
    try:
        return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    except (AttributeError, RuntimeError):  # a torch that does not report it: give no warning
        return True


def _known(options: dict[str, Any]) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    for name in options:
        if name not in names:
            raise ValueError(f"fit has no option '{name}': choose from {', '.join(names)}")
    return options


def _check_fits(pair: Pair, data: Splits) -> None:
    config = (pair.recipe or {}).get("config", {})
    if "x_shape" in config and tuple(config["x_shape"]) != data.x_shape:
        raise ValueError(
            f"the pair was made for x_shape={tuple(config['x_shape'])}, but {data.name} has {data.x_shape}: make it "
            "with x_shape=data.x_shape, or give data of that shape"
        )
    if "condition_shape" in config and tuple(config["condition_shape"]) != data.condition_shape:
        raise ValueError(
            f"the pair was made for condition_shape={tuple(config['condition_shape'])}, but {data.name} has "
            f"{data.condition_shape}: make it with condition_shape=data.condition_shape, or load the data with other "
            "condition_rows or condition_labels"
        )
    if pair.takes_labels:
        for name, part in data.parts.items():
            _check_labels(pair, data, name, part.condition)
    if pair.likelihood is None or data.binarise:  # of binarized data x is drawn as 0 and 1
        return
    for name, part in data.parts.items():
        x = part.x.levels.unique() / WHITE if isinstance(part.x, Levels) else part.x
        try:
            pair.likelihood.check(x)
        except ValueError as error:
            raise ValueError(f"the {name} part of {data.name} does not fit the pair: {error}") from None


def _check_labels(pair: Pair, data: Splits, name: str, condition: Any) -> None:
    if condition is None:
        return
    try:
        check_labels("condition", condition, pair.num_categories)
    except ValueError as error:
        raise ValueError(
            f"the {name} part of {data.name} does not fit the pair, whose condition is labels: {error}; load(..., "
            f"labels=100) makes labels the condition, and {pair.num_categories} is the pair's num_categories"
        ) from None


def _check_memory(pair: Pair, data: Splits, objective: infer.ELBO, batch_size: int) -> None:
    """Refuse a training whose parameters, or whose step, cannot fit into memory."""
    held = sum(value.numel() * value.element_size() for value in pair.parameters() if not is_lazy(value))
    check_memory(TRAINED * held, f"training the pair's {held / 2**30:,.1f} GiB of parameters", "make a smaller pair")
    config = (pair.recipe or {}).get("config") or {}
    rows = min(batch_size, len(data.train)) * getattr(objective, "num_particles", 1)
    if config.get("category") == "enumerated":
        rows *= min(pair.num_categories, getattr(objective, "chunk_size", None) or pair.num_categories)
    # the mean of x and its gradient, and the distances from the components of a mixture
    num_components = (config.get("prior") or {}).get("num_components") or 0
    values = max(
        2 * math.prod(data.x_shape), num_components * (1 if "condition_shape" in config else config.get("z_dim", 1))
    )
    remedy = "give a smaller batch_size, or fewer components or categories"
    check_memory(4 * rows * values, f"batch_size={batch_size} ({rows:,} rows in a step)", remedy)


def _check_precision(data: Splits, precision: str) -> None:
    """Refuse data that the precision would round: the loss would be that of different data."""
    if precision != "bf16-true":
        return
    for name in ("train", "valid"):
        if name == "train" and data.binarise:  # shown as 0 and 1
            continue
        for x in data.parts[name].x.split(1000):
            if (first := first_rounded(x, torch.bfloat16)) is not None:
                raise ValueError(
                    f"precision='bf16-true' would round x of the {name} part, {first[0]:.6g} to {first[1]:.6g}: use "
                    "precision='bf16-mixed', which does not change the data, or '32-true'"
                )


@torch.no_grad()
def _latent_sites(pair: Pair, data: Splits) -> dict[str, Any]:
    """Return the latent sites of the guide on two examples, by name."""
    first = to_like(data.train.take(slice(2)), next(pair.parameters()))
    with seeded(0, pair.device), own_store():
        condition = None if first.condition is None else first.condition[:]  # bytes come out as numbers
        trace = poutine.trace(pair.guide).get_trace(first.x[:], condition)
    return {name: site for name, site in sample_sites(trace) if not site["is_observed"]}


def _check_sites(pair: Pair, data: Splits, sites: tuple[str, ...]) -> None:
    if sites:
        check_latent("warmup_sites", sites, _latent_sites(pair, data))


def _check_frozen(pair: Pair, frozen: tuple[str, ...]) -> None:
    parts = [name for name, module in pair.named_modules() if name and any(True for _ in module.parameters())]
    for name in frozen:
        if name not in parts:
            near = zoo.hint(name, parts) if get_close_matches(name, parts, n=1) else zoo.hint(name, _upper(parts))
            raise ValueError(f"frozen names '{name}', which is not a part of the pair: {near}")


def _check_chunks(pair: Pair, data: Splits, objective: infer.ELBO) -> None:
    size = getattr(objective, "chunk_size", None)
    if size is None:
        return
    category = ((pair.recipe or {}).get("config") or {}).get("category")
    if category == "sparse":
        raise ValueError(
            f"chunk_size={size} sums all categories, but the pair sums only a few (category='sparse'): leave out one "
            "of the two"
        )
    sites = _latent_sites(pair, data)
    if not any(site["infer"].get("enumerate") == "parallel" for site in sites.values()):
        raise ValueError(
            f"chunk_size={size} needs one enumerated category, got sites {', '.join(sites)}: leave chunk_size out"
        )


class _Sender(pickle.Pickler):
    """Pickle what is sent to other processes, without the values of its tensors."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return NotImplemented
        if value.requires_grad and not value.is_leaf:
            raise ValueError("a tensor that was computed from parameters is not a leaf of autograd's graph")
        return type(None), ()


def _check_is_sent(pair: Pair, objective: infer.ELBO, num_processes: int) -> None:
    try:
        _Sender(io.BytesIO()).dump((pair, objective))
    except Exception as error:  # modules have many ways to refuse
        reason = str(error).strip().partition("\n")[0].partition(". ")[0]
        raise ValueError(
            f"num_processes is {num_processes}, but the pair and its objective cannot be sent to other processes "
            f"({reason}): give num_processes=1"
        ) from None


def _upper(parts: list[str]) -> list[str]:
    return [name for name in parts if name.count(".") <= 1]


def _start_pseudo_inputs(pair: Pair, data: Splits, config: TrainConfig) -> None:
    if config.pseudo_inputs == "random":
        return
    starts = [module.init_from_data for module in pair.modules() if hasattr(module, "init_from_data")]
    if not starts:
        raise ValueError(
            "pseudo_inputs is 'data', but the pair has no VampPrior with learnable pseudo-inputs: make a vae or hvae "
            "with prior='vamp' (--prior vamp), or leave pseudo_inputs out"
        )
    for start in starts:
        cast(Any, start)(data.train.x, data.train.condition, config.seed)


def record(
    pair: Pair, data: Splits, objective: infer.ELBO, config: TrainConfig, digest: bool = False
) -> dict[str, Any]:
    """Return the content of ``config.json`` of a run folder.

    :param digest: always include the digest of the data, as for :meth:`Splits.described`
    """
    from . import __version__

    return {
        "pair": pair.recipe,
        "data": data.described(digest),
        "objective": options_of(objective),
        "train": dataclasses.asdict(config),
        "versions": {"pyro_priors": __version__, "torch": torch.__version__, "pyro": pyro.__version__},
    }


def defaults(pair: dict[str, Any] | None, objective: type[infer.ELBO]) -> dict[str, Any]:
    """Return the default of each option of a pair of the zoo and an objective, in the form of :func:`record`.

    :param pair: name and options of the pair, None for one that is not of the zoo
    """

    def of(config_class: type) -> dict[str, Any]:
        fields = dataclasses.fields(config_class)
        return {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}

    parameters = signature(objective).parameters.values() if issubclass(objective, ELBO) else ()
    return {
        "pair": {"config": {} if pair is None else zoo.defaults(pair["name"], pair["config"])},
        "data": {"config": of(DataConfig)},
        "objective": {"config": {p.name: p.default for p in parameters if p.default is not p.empty}},
        "train": of(TrainConfig),
    }


@contextmanager
def _interpreter_left_standing() -> Iterator[None]:
    """End this process without finalizing the interpreter.

    A thread of gloo may drop its last tensors late, and using an interpreter that is being finalized aborts the
    process. Functions that are registered with ``atexit`` inside this context are still called. Functions that were
    registered before, by imports, are not.
    """
    status = 1

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    atexit.register(leave)
    yield
    status = 0


@_interpreter_left_standing()
def _train_in_process(rest: tuple[Any, ...], result: Path, fabric: Fabric, pair: Pair) -> int:
    """Run the training in one of several processes. Return the exit status of a signal that stopped it, or 0."""
    from tqdm import tqdm

    # by default it makes a semaphore, which a killed process leaves to the system, with a warning
    tqdm.set_lock(threading.RLock())
    result.with_name(f"began-{fabric.global_rank}").touch()
    try:
        return _outcome(rest, result, fabric, pair)
    finally:  # also where it raises, but not where it is killed
        result.with_name(f"ended-{fabric.global_rank}").touch()


def _outcome(rest: tuple[Any, ...], result: Path, fabric: Fabric, pair: Pair) -> int:
    outcome: History | TrainingDiverged | CheckpointError
    try:
        outcome = Training(fabric, pair, *rest).run()
    except (TrainingDiverged, CheckpointError) as error:  # the pair is needed as well
        outcome = error
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except SystemExit as stop:
        return int(stop.code or 0)
    if fabric.is_global_zero:
        # by a file: Fabric's queue holds no more than a pipe does until this process has ended
        content = checkpoint.pack(checkpoint.module_state(pair))
        try:
            write_atomically(result, pickle.dumps((content, pair.saved_digest, outcome)))
        except WriteError as error:  # the disk of temporary files is full too
            failed = outcome if isinstance(outcome, Exception) else error
            write_atomically(result, pickle.dumps((None, None, failed)))
    return 0
