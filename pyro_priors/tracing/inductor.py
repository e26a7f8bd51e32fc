"""All that is torch's own business: tracing into a graph, and compiling that graph to machine code.

Only this file of the package reaches into torch's private and experimental modules. They are imported where they are
used and never at the top, so that without them everything runs eagerly.

The public ``torch.compile(graph)`` gives the same numbers to the last bit, but takes 1.10 to 1.53 times as long to a
first step with a warm cache (cold: 1.03 to 1.08), and 1.01 to 1.07 times per step (``benchmarks/compilers.py``).
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._cache import compiled_folder, why_unwritable
from ..errors import UserError
from ..rng import starting_threads

__all__ = ["check_hooks", "compile_graph", "have_hooks", "quiet", "traced"]

HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


def check_hooks() -> None:
    """Check that :func:`have_hooks` can answer.

    :raises ValueError: if this version of torch keeps hooks elsewhere
    """
    for name in HOOKS:
        if not hasattr(torch.Tensor, name):
            raise ValueError(f"torch's tensors have no {name}")


def have_hooks(tensors: Sequence[Tensor]) -> bool:
    """Whether a user's hook waits for the gradient of one of the tensors."""
    return any(value._backward_hooks or value._post_accumulate_grad_hooks for value in tensors)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what torch says about itself while it compiles."""
    loggers = [logging.getLogger(name) for name in ("torch.utils.cpp_extension", "torch._subclasses.fake_tensor")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def traced(function: Callable[..., Any], inputs: Sequence[Tensor]) -> torch.fx.GraphModule:
    """The operations that a function applies to tensors like these, as a graph.

    It runs on fake tensors: nothing is computed and no random number drawn.

    :param function: from tensors to a list of tensors and None
    :param inputs: tensors with the shapes, strides, types and devices of its arguments
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    decompositions = {torch.ops.aten.addmm.default: _addmm}
    return make_fx(function, decompositions, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)


def _addmm(bias: Tensor, a: Tensor, b: Tensor, beta: float = 1, alpha: float = 1) -> Any:
    """Product and bias apart. On a CPU addmm copies the bias into every row first; inductor adds it for nothing to what
    follows. In half precision one rounding would become two."""
    if a.device.type != "cpu" or a.dtype not in (torch.float32, torch.float64):
        return NotImplemented
    return alpha * torch.mm(a, b) + beta * bias


def compile_graph(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Sequence[Tensor]]:
    """The graph as machine code, for tensors like these.

    :raises ValueError: if the compiler's cache cannot be written
    """
    removed: set[Path] = set()
    while True:
        try:
            with starting_threads():
                return _machine_code(graph, inputs)
        except Exception as error:
            folder = compiled_folder()
            if why := why_unwritable(folder):
                raise UserError(
                    f"the compiler's cache {folder} cannot be written ({why}): set TORCHINDUCTOR_CACHE_DIR to a folder "
                    "that can"
                ) from error
            # what a process was writing when it was killed stays in inductor's cache, cut short, and is in the way for
            # ever; one graph may have several such files
            match = re.search(r"(\S+\.so): file too short", str(error))
            cut_short = None if match is None else Path(match[1]).resolve()
            if cut_short is None or cut_short in removed or folder.resolve() not in cut_short.parents:
                raise
            removed.add(cut_short)
            cut_short.unlink(missing_ok=True)


def _machine_code(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Sequence[Tensor]]:
    import torch._inductor
    from torch._guards import TracingContext, tracing
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    # inductor looks into its cache of whole graphs only where it finds a shape environment; of fake tensors made by
    # itself some sizes would stay open
    mode = FakeTensorMode(shape_env=ShapeEnv())
    fixed: list[Any] = [mode.from_tensor(value, static_shapes=True) for value in inputs]
    # random numbers by torch's own generators, so that they are the eager ones
    options: dict[str, Any] = {"fallback_random": True}
    if torch.__version__ < "2.8":  # there a graph that is found in the cache raises an error outside of torch.compile
        options["fx_graph_cache"] = False
    with tracing(TracingContext(mode)):
        return torch._inductor.compile(graph, fixed, options=options)
