"""What a training in several processes needs."""

from __future__ import annotations

import atexit
import io
import logging
import os
import pickle
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from pyro import infer
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from .. import checkpoint, module_state
from .._files import CheckpointError, WriteError, write_atomically
from ..data import Splits
from ..divergence import TrainingDiverged
from ..errors import UserError
from ..pair import Pair
from ..run_folder import RunFolder
from .config import TrainConfig
from .loop import Training
from .optimizers import Factory
from .progress import History
from .signals import forwarded_signals

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["check_is_sent", "run_training"]


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


class _Sender(pickle.Pickler):
    """Pickle what is sent to other processes, without the values of its tensors."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return NotImplemented
        if value.requires_grad and not value.is_leaf:
            raise ValueError("a tensor that was computed from parameters is not a leaf of autograd's graph")
        return type(None), ()


def check_is_sent(pair: Pair, objective: infer.ELBO, optimizer: Factory | None, num_processes: int) -> None:
    """Check that the pair, the objective and the optimizer's factory can be sent to other processes.

    :raises ValueError: if one cannot be pickled
    """
    for what, given in (("the pair and its objective", (pair, objective)), ("the optimizer's factory", optimizer)):
        try:
            _Sender(io.BytesIO()).dump(given)
        except Exception as error:  # modules have many ways to refuse
            reason = str(error).strip().partition("\n")[0].partition(". ")[0]
            raise UserError(
                f"num_processes is {num_processes}, but {what} cannot be sent to other processes ({reason}): give "
                "num_processes=1"
            ) from None


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
        content = checkpoint.pack(module_state.tensors_of(pair))
        try:
            write_atomically(result, pickle.dumps((content, pair.saved_digest, outcome)))
        except WriteError as error:  # the disk of temporary files is full too
            failed = outcome if isinstance(outcome, Exception) else error
            write_atomically(result, pickle.dumps((None, None, failed)))
    return 0


def run_training(
    pair: Pair,
    data: Splits,
    objective: infer.ELBO,
    config: TrainConfig,
    folder: RunFolder | None,
    resume: bool,
    progress: bool,
    optimizer: Factory | None = None,
    callbacks: Sequence[Any] = (),
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
        rest = (data, objective, config, folder, resume, progress, optimizer, callbacks)
        return Training(fabric, pair, *rest).run()
    with forwarded_signals(), tempfile.TemporaryDirectory() as place:
        # Fabric gives each process its own copy of a module among the arguments, and refuses frozen dataclasses there
        rest = (data, objective, config, folder, resume, progress, optimizer, ())
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
        module_state.load_module_state(pair, checkpoint.unpack(content), "training")
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
