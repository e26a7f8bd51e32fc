"""Training: the options, and :func:`fit`."""

from __future__ import annotations

import copy
import dataclasses
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from numpy.typing import ArrayLike
from pyro import infer
from torch import Tensor

from .. import module_state
from .._options import shown, typed
from ..data import Splits
from ..errors import UserError
from ..network_checks import check_networks, check_smallest_batch
from ..objectives import ELBO
from ..pair import Pair
from ..run_folder import RunFolder
from .arrays import as_splits, to_like
from .callbacks import check_callbacks
from .checks import (
    check_chunks,
    check_fits,
    check_frozen,
    check_precision,
    check_sites,
    check_training_memory,
    multiplies_bfloat16,
    summary_writer,
)
from .config import TrainConfig, default_options, run_record
from .optimizers import Factory, check_factory
from .processes import check_is_sent, run_training
from .progress import History

__all__ = ["fit"]


@typed
def fit(
    pair: Pair,
    data: Splits | ArrayLike | Tensor | tuple[Any, Any],
    objective: infer.ELBO | None = None,
    *,
    optimizer: Factory | None = None,
    callbacks: Iterable[Any] = (),
    out: str | Path | RunFolder | None = None,
    resume: bool = False,
    progress: bool = True,
    config: TrainConfig | None = None,
    **options: Any,
) -> History:
    """Train a pair, and leave in it the weights with the best validation bound, or the last ones if ``keep="last"``.

    Example::

        >>> history = fit(pair, pyro_priors.data.load("mnist"), max_epochs=200, warmup_epochs=100, out="runs/cp")

    ``data`` may be arrays or tensors: ``fit(pair, x)``, or ``fit(pair, (x, condition))``. As
    :func:`pyro_priors.data.from_arrays` does, ``fit`` then draws a validation and a test part from them with ``seed``,
    a tenth each. A line on stderr says so, unless ``progress=False``.

    An optimizer of your own is a callable from parameters to a torch optimizer::

        >>> fit(pair, data, optimizer=torch.optim.RAdam, learning_rate=1e-3)
        >>> fit(pair, data, optimizer=functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9), schedule="cosine")

    A callable that takes ``lr`` gets ``learning_rate``, unless ``lr`` is bound in it. The schedule multiplies the
    learning rate of each group. Optimizers whose step needs a closure, such as LBFGS, are refused.

    A callback is an object with one or both of two methods, and ``on_epoch_end`` is enough to prune a sweep::

        >>> class Prune:
        ...     def __init__(self, trial):
        ...         self.trial = trial
        ...
        ...     def on_epoch_end(self, record):
        ...         self.trial.report(record["valid_bound"], record["epoch"])
        ...         return self.trial.should_prune()
        >>> history = fit(pair, data, callbacks=[Prune(trial)])

    ========================== =========================================================================================
    ``on_step_end(state)``     called after each step with a :class:`~pyro_priors.training.TrainingState`
    ``on_epoch_end(record)``   called after each validation with the record of the epoch, a line of ``metrics.jsonl``
    ``state_dict()``           returns its state: numbers, strings, tensors, arrays, and lists, tuples and dicts of them
    ``load_state_dict(state)`` takes this state when a run is resumed; tensors in it are on the CPU
    ========================== =========================================================================================

    The training stops when a method returns True or calls ``state.stop()``; a step's epoch ends with that step, and is
    validated and recorded. A run that a callback has stopped stays stopped when it is resumed. If a callback raises an
    error, the state is saved as after that step or epoch, and the error passes on; the pair then holds the weights of
    the last step, and callbacks later in the list miss that step or epoch. Callbacks need a single process. They may
    draw from torch's generators, which are seeded again before each step.

    To resume a run, give the optimizer and the callbacks again. Their states are part of the resume state, so that the
    run ends with the same bits as an uninterrupted one.

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
    :param data: from :func:`pyro_priors.data.load` or :func:`pyro_priors.data.from_arrays`; or x, shape
        ``(N,) + x_shape``, as an array or tensor; or a tuple of x and the condition, shape ``(N,) + condition_shape``
    :param objective: an objective of this package, or Pyro's Trace_ELBO, TraceMeanField_ELBO or TraceEnum_ELBO, whose
        sum over the batch is divided by the batch size; by default ``pair.elbo``
    :param optimizer: makes the optimizer from the list of the pair's parameters; by default Adam, or AdamW with
        ``weight_decay``
    :param callbacks: callbacks, called in this order
    :param out: the run folder, as a path or a RunFolder; without it nothing is written. From then on
        :func:`pyro_priors.load` returns the trained pair, even if :meth:`Pair.save` has written to the folder before
    :param resume: resume the run in ``out`` with the same options, data, optimizer and callbacks, or start it if there
        is no state yet. The data file may have moved, and in-memory arrays may be other objects: their checksums are
        compared
    :param progress: show a progress bar, or plain lines if the output is not a terminal
    :param config: all options at once
    :param options: fields of :class:`TrainConfig`
    :raises ValueError: if an option is out of range; the optimizer or a callback is not as described above; data and
        pair do not fit; a network does not return what its program needs, or cannot be trained on a batch of one datum
        that ``batch_size`` leaves; a tensor of the pair could not be saved or restored; ``out`` contains another run,
        or a pair that was saved over that of the run to be resumed; nothing can be compiled with ``compile="always"``;
        parameters or a step need more memory than the machine has; or another thread draws from torch's generators
        during a step
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
        raise UserError(f"config must be a TrainConfig, got {shown(config)}: give TrainConfig(max_epochs=100)")
    config = dataclasses.replace(config or TrainConfig(), **_known(options))
    pair = getattr(pair, "_orig_mod", pair)  # what torch.compile(pair) wraps
    objective = copy.copy(pair.elbo if objective is None else objective)
    given, data = data, as_splits(pair, data, config.seed)
    if progress and data is not given:
        print(f"data: {data.source}", file=sys.stderr)
    if not hasattr(objective, "differentiable_loss"):
        name = objective if isinstance(objective, str) else type(objective).__name__
        raise UserError(
            f"objective {name} has no differentiable_loss: give one of pyro_priors.objectives, such as Beta(4.0), "
            "or Pyro's Trace_ELBO(), TraceMeanField_ELBO() or TraceEnum_ELBO(); use SVI to train with others"
        )
    if isinstance(objective, ELBO):
        if objective.kl_weight != 1.0:
            raise UserError(
                f"the objective's kl_weight is {objective.kl_weight}, but fit sets the weight of each step: give "
                "warmup_epochs, or Beta(beta), and leave kl_weight at 1.0"
            )
        objective.begin(len(data.train), config.seed)
        if objective.couples_batch and config.num_processes > 1:
            raise UserError(
                f"num_processes is {config.num_processes}, but {type(objective).__name__} compares the data of a batch "
                "with each other, and each process has only a share of them: give num_processes=1"
            )
    coupled = [type(module).__name__ for module in pair.modules() if getattr(module, "couples_batch", False)]
    if config.num_processes > 1 and coupled:
        raise UserError(
            f"num_processes is {config.num_processes}, but {coupled[0]} computes with a whole batch, and each process "
            "has only a share of it: give num_processes=1, or scale='learned' in place of an optimal scale"
        )
    callbacks = check_callbacks(callbacks, config.num_processes)
    check_fits(pair, data)
    check_training_memory(pair, data, objective, config.batch_size)
    check_precision(data, config.precision)
    first = to_like(data.train.take(slice(2)), next(pair.parameters()))
    rows = first.x[:], None if first.condition is None else first.condition[:]  # bytes come out as numbers
    check_networks(pair, *rows)
    check_smallest_batch(pair, *rows, len(data.train), config.batch_size, config.num_processes)
    check_sites(pair, data, config.warmup_sites)
    check_frozen(pair, config.frozen)
    check_chunks(pair, data, objective)
    if config.tensorboard:
        summary_writer()
    if len(data.valid) < config.num_processes:
        raise UserError(
            f"num_processes is {config.num_processes}, but the validation part has {len(data.valid)} data: give fewer"
        )
    of_optimizer = check_factory(optimizer, pair, config, out is not None)
    to_file = out is not None or config.num_processes > 1
    module_state.check_module(pair, to_file)
    if out is not None:
        pair.check_parts()
    if config.num_processes > 1:
        check_is_sent(pair, objective, optimizer, config.num_processes)
    if isinstance(objective, ELBO) and out is not None:
        module_state.check_tensors(objective.state())
    if resume and out is None:
        raise UserError("resume=True needs out: give the run folder to resume")
    if config.precision.startswith("bf16") and not multiplies_bfloat16(config.device):
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
        return run_training(pair, data, objective, config, None, resume, progress, optimizer, callbacks)
    with folder.locked():
        known, digest = default_options(pair.recipe, type(objective)), resume and folder.is_of_arrays
        folder.begin(run_record(pair, data, objective, config, digest, of_optimizer, callbacks), resume, known)
        return run_training(pair, data, objective, config, folder, resume, progress, optimizer, callbacks)


def _known(options: dict[str, Any]) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    for name in options:
        if name not in names:
            raise UserError(f"fit has no option '{name}': choose from {', '.join(names)}")
    return options


def _start_pseudo_inputs(pair: Pair, data: Splits, config: TrainConfig) -> None:
    if config.pseudo_inputs == "random":
        return
    starts = [module.init_from_data for module in pair.modules() if hasattr(module, "init_from_data")]
    if not starts:
        raise UserError(
            "pseudo_inputs is 'data', but the pair has no VampPrior with learnable pseudo-inputs: make a vae or hvae "
            "with prior='vamp' (--prior vamp), or leave pseudo_inputs out"
        )
    for start in starts:
        cast(Any, start)(data.train.x, data.train.condition, config.seed)
