"""From Pyro programs to machine code: a function of tensors, traced once through Pyro's handlers and compiled.

``torch.compile`` on a program of Pyro breaks into hundreds of pieces. Here the handlers run once, over fake tensors,
and what they do to tensors is recorded by ``make_fx``: loss and gradients together, so that autograd's rules hold as
they did in the programs (``detach``, ``no_grad``, backward passes of one's own). Inductor then compiles that one graph.
Parameters and buffers are inputs of the graph; nothing of them is copied into it.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
import torch
import torch.nn as nn
from pyro.poutine import runtime
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from ._sites import SharedNoise
from .registration import unregistered

__all__ = ["CompiledFunction", "EagerWarning"]

Tensors = dict[str, Tensor]


class EagerWarning(UserWarning):
    """What was to be compiled runs eagerly: as right, not as fast."""


class CompiledFunction:
    """A function that runs programs of some modules, compiled once for each kind of arguments that it meets.

    The modules' tensors are read at every call: training, loading and ``to`` go on as ever. Numbers that the function
    reads from elsewhere become constants of the graph; ``key`` must tell those that can change. Random numbers are
    drawn by torch's generator in the order in which the function draws them: after one seed a compiled call and an
    eager one see the same noise.

    A kind that cannot be traced or compiled, or one more than ``max_kinds``, runs eagerly, after one
    :class:`EagerWarning` that says why.

    :param function: from tensors, in whatever nesting, to tensors by name
    :param modules: all modules whose tensors the function reads
    :param loss: name of the scalar output that is differentiated, with respect to every tensor that requires a
        gradient; None for no gradient
    :param max_kinds: most kinds of arguments to compile for
    :param otherwise: what runs eagerly, in place of the function
    :param say: what takes the line that says why something runs eagerly, in place of the warning
    """

    def __init__(
        self,
        function: Callable[..., Tensors],
        modules: Sequence[nn.Module],
        loss: str | None = None,
        max_kinds: int = 8,
        otherwise: Callable[..., Tensors] | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.function, self.modules, self.loss, self.max_kinds = function, list(modules), loss, max_kinds
        self.otherwise = function if otherwise is None else otherwise
        self.say = _warn if say is None else say
        self._slots = _slots(self.modules)
        self._graphs: dict[Any, _Graph | None] = {}

    def __call__(self, *args: Any, key: Any = None) -> Tensors:
        """
        :param args: arguments of the function
        :param key: hashable; a graph serves for one key only
        :returns: what the function returns; ``loss`` has a gradient, the others none
        """
        given, structure = tree_flatten(args)
        inputs = [owner[name] for (owner, name), *_ in self._slots] + [value for value in given if value is not None]
        differentiate = self.loss is not None and torch.is_grad_enabled()
        device = inputs[0].device.type
        kind = (
            key,
            differentiate,
            repr(structure),
            tuple(None if value is None else value.shape for value in given),
            tuple((value.dtype, value.device, value.requires_grad) for value in inputs),
            tuple(module.training for module in self.modules),
            torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device),
            _handlers(),
        )
        if kind not in self._graphs:
            self._graphs[kind] = self._compile(inputs, args, differentiate)
        graph = self._graphs[kind]
        if graph is None:
            return self.otherwise(*args)
        with torch.autocast(device, enabled=False):  # its casts are part of the graph
            if not differentiate:
                with torch.no_grad():
                    return graph(inputs)[0]
            outputs: Tensors = {}
            wanted = [value for value in inputs if value.requires_grad]
            loss = _WithGradients.apply(graph, inputs, outputs, self.loss, *wanted)
            return {**outputs, str(self.loss): loss}

    def _compile(self, inputs: list[Tensor], args: tuple[Any, ...], differentiate: bool) -> _Graph | None:
        try:
            if len(self._graphs) >= self.max_kinds:
                raise ValueError(f"it was compiled for {self.max_kinds} shapes or settings before this one")
            if _handlers() is None:
                raise ValueError("it was called within effect handlers, which a graph could not follow")
            with _quiet():
                return self._trace(inputs, args, differentiate)
        except Exception as error:  # whatever it is: the eager programs run, or say it better
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            self.say(f"running eagerly, not compiled: {reason}")
            return None

    def _trace(self, inputs: list[Tensor], args: tuple[Any, ...], differentiate: bool) -> _Graph:
        from torch.fx.experimental.proxy_tensor import make_fx

        names: list[str] = []
        num_held = len(self._slots)

        def flat(*values: Tensor) -> list[Tensor | None]:
            given = iter(values[num_held:])
            with self._holding(values[:num_held]):
                outputs = self.function(*tree_map(lambda arg: None if arg is None else next(given), args))
            names[:] = outputs
            gradients: Sequence[Tensor | None] = ()
            if differentiate:
                wanted = [value for value in values if value.requires_grad]
                # a parameter that the loss does not reach gets None, as from backward()
                gradients = torch.autograd.grad(outputs[str(self.loss)], wanted, allow_unused=True)
            return [*(value.detach() for value in outputs.values()), *gradients]

        with unregistered(), pyro.settings.context(**_NO_VALIDATION), torch.set_grad_enabled(differentiate):
            torch.clear_autocast_cache()
            with pyro.get_param_store().scope() as store:
                # on fake tensors: nothing is computed and no random number drawn
                graph = make_fx(
                    flat, {torch.ops.aten.addmm.default: _addmm}, tracing_mode="fake", _allow_non_fake_inputs=True
                )(*inputs)
            torch.clear_autocast_cache()
        if store["params"]:
            raise ValueError("a program calls pyro.param or pyro.module: begin it with pyro_priors.register instead")
        constants = [getattr(graph, str(node.target)) for node in graph.graph.nodes if node.op == "get_attr"]
        if any(constant.requires_grad for constant in constants):
            raise ValueError("a program uses a parameter that is not in a module of the pair")
        with torch.no_grad(), torch.autocast(inputs[0].device.type, enabled=False):
            return _Graph(compile_graph(graph, inputs), names)

    @contextmanager
    def _holding(self, tensors: Sequence[Tensor]) -> Iterator[None]:
        """The modules with other tensors in the place of their own."""
        own = [owner[name] for (owner, name), *_ in self._slots]
        try:
            self._put(tensors)
            yield
        finally:
            self._put(own)

    def _put(self, tensors: Sequence[Tensor]) -> None:
        for places, tensor in zip(self._slots, tensors, strict=True):
            for owner, name in places:
                owner[name] = tensor


def compile_graph(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Sequence[Tensor]]:
    """The graph as machine code, for tensors like these."""
    import torch._inductor

    # random numbers by torch's own generators, so that they are the eager ones
    return torch._inductor.compile(graph, inputs, options={"fallback_random": True})


def _addmm(bias: Tensor, a: Tensor, b: Tensor, beta: float = 1, alpha: float = 1) -> Any:
    """Product and bias apart. On a CPU addmm copies the bias into every row first; inductor adds it for nothing to what
    follows. In half precision one rounding would become two."""
    if a.device.type != "cpu" or a.dtype not in (torch.float32, torch.float64):
        return NotImplemented
    return alpha * torch.mm(a, b) + beta * bias


class _Graph:
    """A compiled graph: from inputs to outputs by name, and gradients."""

    def __init__(self, run: Callable[..., Sequence[Tensor]], names: list[str]) -> None:
        self.run, self.names = run, names

    def __call__(self, inputs: list[Tensor]) -> tuple[Tensors, Sequence[Tensor | None]]:
        values = self.run(*inputs)
        return dict(zip(self.names, values, strict=False)), values[len(self.names) :]


class _WithGradients(torch.autograd.Function):
    """The loss of a graph that has computed its gradients too, as a node of autograd's graph."""

    @staticmethod
    def forward(ctx: Any, graph: _Graph, inputs: list[Tensor], outputs: Tensors, loss: str, *wanted: Tensor) -> Tensor:
        found, ctx.gradients = graph(inputs)
        outputs.update(found)
        return outputs[loss]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("backward a second time through a compiled loss: compute the loss again")
        gradients, ctx.gradients = ctx.gradients, None  # the parameters take them over, without a copy
        if factor.device.type != "cpu" or factor.item() != 1:  # asking another device would wait for it
            gradients = [None if gradient is None else gradient * factor for gradient in gradients]
        return (None, None, None, None, *gradients)


_NO_VALIDATION = dict.fromkeys(
    ("validate_distributions_pyro", "validate_distributions_torch", "validate_infer", "validate_poutine"), False
)


def _warn(line: str) -> None:
    warnings.warn(EagerWarning(line), stacklevel=5)


def _slots(modules: Sequence[nn.Module]) -> list[list[tuple[dict[str, Any], str]]]:
    """For each parameter and buffer all the places that hold it, as dictionary and key."""
    places: dict[int, list[tuple[dict[str, Any], str]]] = {}
    seen: set[int] = set()
    for module in (part for whole in modules for part in whole.modules()):
        if id(module) in seen:
            continue
        seen.add(id(module))
        for owner in (module._parameters, module._buffers):
            for name, tensor in owner.items():
                if tensor is not None:
                    places.setdefault(id(tensor), []).append((owner, name))
    return list(places.values())


def _handlers() -> tuple[tuple[int, int], ...] | None:
    """What tells apart the effect handlers around a call; None if a graph cannot depend on one of them."""
    stack = runtime._PYRO_STACK
    return tuple((h.size, h.first) for h in stack) if all(isinstance(h, SharedNoise) for h in stack) else None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch says about itself while it compiles."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
