"""The command line, ``pyro-priors COMMAND``: finds the command, and prints its errors."""

import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from platform import python_version

import pyro
import torch

from .. import __version__, zoo
from .._memory import is_exhausted
from .._terminal import one_line, printable, until_unread
from ..errors import UserError
from ..registry import IMPORTED, import_by_name
from ..training import TrainingDiverged
from . import cache, compare, encode, evaluate, plot, reconstruct, reproduce, resume, sample, train
from . import list as list_command
from .grammar import taken
from .parsing import warn

__all__ = ["main"]

USAGE = """usage: pyro-priors COMMAND ...

  list [GROUP]                                what can be chosen by name, with a line for each; list prior.flow: options
  train PAIR --data NAME|FILE.npz --out RUN   train a pair; --objective NAME; --seeds 0 1 2: one run for each
  resume RUN                                  resume training with the run's options; --train.max-epochs 200
  evaluate RUN                                table on the screen, and RUN/evaluation.json
  compare RUN RUN ...                         a table of runs, best first, with paired differences; --out table.json
  sample RUN --num 64 --out samples.png       samples as a picture or .npz; --category 3; --condition 0 1;
                                              by name: --condition "Male=1,Smiling=-1", --grid, --to, --edit
  encode RUN --out codes.npz                  posterior means and scales, probabilities of categories, labels
  reconstruct RUN --out reconstructions.png   examples and their reconstructions, as a picture or .npz
  plot RUN                                    every figure, in RUN/figures
  reproduce PAPER/EXPERIMENT                  a table or figure of a paper: trains what is missing, puts ours beside the
                                              published; --row NAME; --quick; --no-train; interrupted, it goes on
  cache                                       what is kept to be used again; --clear removes it

pyro-priors --version prints the version.
pyro-priors --import MODULE COMMAND ... imports a module of yours first, which registers priors or other parts.
pyro-priors COMMAND --help lists the options of a command; of train, with a pair: pyro-priors train cp_vae --help"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    :param arguments: ``sys.argv[1:]`` when left out
    :returns: exit status: 0; 1 when training diverged, one of its processes was killed, or there is a bug; 2 for an
        error that the user can fix, after one line with the argument, the value and the remedy; 130 when interrupted
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with printable(sys.stdout, sys.stderr), until_unread(), warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: warn(str(message))
        if not arguments or arguments[0] in ("-h", "--help"):
            print(USAGE)
            return 0 if arguments else 2
        if arguments == ["--version"]:
            libraries = f"Python {python_version()}, torch {torch.__version__}, Pyro {pyro.__version__}"
            print(f"pyro-priors {__version__} ({libraries})")
            return 0
        return _run(*arguments)


def _run(*arguments: str) -> int:
    try:
        command, *rest = _imported(arguments)
        if command not in COMMANDS:
            raise UserError(f"command '{command}' is unknown: {zoo.hint(command, list(COMMANDS))}")
        COMMANDS[command](rest)
        print(end="", flush=True)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return _report(error)
    return 0


def _report(error: Exception) -> int:
    """Print an error: its message if the user can fix it, else the whole traceback. Return the exit status."""
    if isinstance(error, TrainingDiverged | ChildProcessError):
        return _fail(error, 1)
    if isinstance(error, UserError | OSError):
        return _fail(error, 2)
    if is_exhausted(error):
        reason = str(error).partition("\n")[0] or "no reason is given"
        return _fail(MemoryError(f"the memory is exhausted ({reason}): give smaller sizes, or smaller batches"), 2)
    traceback.print_exception(error)
    where = f"pyro_priors, or in {' or '.join(IMPORTED)}" if IMPORTED else "pyro_priors"
    print(f"pyro-priors: this is a bug in {where}: report it with the lines above", file=sys.stderr)
    return 1


def _imported(arguments: Sequence[str]) -> list[str]:
    """Import the modules that ``--import`` names before the command, and return the other arguments."""
    rest = list(arguments)
    while rest and rest[0].split("=")[0] == "--import":
        module, rest = taken([rest[0], *rest[1:2]], "import")[0], rest[1 if "=" in rest[0] else 2 :]
        import_by_name(str(module))
    if not rest:
        raise UserError(f"--import needs a command after it: one of {', '.join(COMMANDS)}")
    return rest


def _fail(error: Exception, status: int) -> int:
    print(f"pyro-priors: error: {one_line(str(error))}", file=sys.stderr)
    return status


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "list": list_command.run,
    "train": train.run,
    "resume": resume.run,
    "evaluate": evaluate.run,
    "compare": compare.run,
    "sample": sample.run,
    "encode": encode.run,
    "reconstruct": reconstruct.run,
    "plot": plot.run,
    "reproduce": reproduce.run,
    "cache": cache.run,
}

if __name__ == "__main__":
    sys.exit(main())
