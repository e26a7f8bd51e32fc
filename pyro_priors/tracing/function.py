"""From Pyro programs to machine code: a function of tensors, traced once through Pyro's handlers and compiled.

``torch.compile`` on a program of Pyro breaks into hundreds of pieces. Here the handlers run once, over fake tensors,
and what they do to tensors is recorded: loss and gradients together, so that autograd's rules hold as they did in the
programs (``detach``, ``no_grad``, backward passes of your own). That one graph is then compiled. Parameters and buffers
are inputs of the graph; nothing of them is copied into it.

============= ==========================================================================
file          subject
============= ==========================================================================
``function``  when to trace, when to reuse a graph, when to run eagerly
``held``      the parameters and buffers of modules, and how a graph's inputs replace them
``graph``     a compiled graph: its outputs by name, its gradients as autograd wants them
``inductor``  all that is torch's own business and may move from one version to the next
============= ==========================================================================
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import pyro
import torch
import torch.nn as nn
from pyro.poutine import runtime
from pyro.poutine.messenger import Messenger
from torch import Tensor

from .._cache import ensure_compiled_folder
from ..errors import UserError
from ..registration import NetworkError, unregistered
from ..sites import OptionError, SharedNoise
from . import inductor
from .graph import Graph, Tensors, WithGradients
from .held import Held

__all__ = ["CompiledFunction", "EagerWarning"]


class EagerWarning(UserWarning):
    """What was to be compiled runs eagerly: as right, not as fast."""


class CompiledFunction:
    """A function that runs programs of some modules, compiled once for each kind of arguments that it meets.

    The modules' parameters and buffers are inputs of the graph, read at every call: training, loading, ``to`` and
    networks replaced go on as ever. Random numbers are drawn by torch's generator in the order in which the function
    draws them: after one seed a compiled call and an eager one see the same noise. What else the function reads becomes
    a constant of the graph: ``key`` must tell what of it can change. Calls and the making of graphs are the caller's to
    serialize, with the lock of :mod:`pyro_priors._lock`.

    What cannot be traced or compiled runs eagerly, after one :class:`EagerWarning` that says why; so do programs that
    leave something behind in their modules other than the new values of buffers, and what comes after ``max_graphs``.

    :param function: from tensors, in whatever nesting, to tensors by name
    :param modules: all modules whose tensors the function reads
    :param loss: name of the scalar output that is differentiated, with respect to every tensor that requires a
        gradient; None for no gradient
    :param max_graphs: most kinds of arguments to compile for
    :param otherwise: what runs eagerly, in place of the function
    :param say: what takes the line that says why something runs eagerly, in place of the warning
    :param strict: raise ValueError, with the cause, instead of running eagerly
    """

    def __init__(
        self,
        function: Callable[..., Tensors],
        modules: Sequence[nn.Module],
        loss: str | None = None,
        max_graphs: int = 16,
        otherwise: Callable[..., Tensors] | None = None,
        say: Callable[[str], None] | None = None,
        strict: bool = False,
    ) -> None:
        self.function, self.modules, self.loss, self.max_graphs = function, list(modules), loss, max_graphs
        self.strict = strict
        self.otherwise = function if otherwise is None else otherwise
        self.say = _warn if say is None else say
        self._graphs: dict[Any, Graph | None] = {}
        self._held: Held | None = None
        self._said: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Without the graphs, which a copy compiles for itself."""
        return {**vars(self), "_graphs": {}, "_held": None}

    def __call__(self, *args: Any, key: Any = None) -> Tensors:
        """
        :param args: arguments of the function
        :param key: hashable; a graph serves for one key only
        :returns: what the function returns; ``loss`` has a gradient, the others none
        """
        differentiate = self.loss is not None and torch.is_grad_enabled()
        graph, inputs = self._graph(args, (key, differentiate))
        if graph is None:
            return self.otherwise(*args)
        with torch.autocast(inputs[0].device.type, enabled=False):  # its casts are part of the graph
            if not differentiate:
                with torch.no_grad():
                    return graph(inputs)[0]
            outputs: Tensors = {}
            wanted = [value for value in inputs if value.requires_grad]
            loss = WithGradients.apply(graph, inputs, outputs, self.loss, *wanted)
            return {**outputs, str(self.loss): loss}

    @torch.enable_grad()
    def backward(self, *args: Any, key: Any = None) -> Tensors:
        """The function and the backward pass of its loss in one, at less cost than one after the other.

        ``.grad`` of the first module's parameters is replaced, by None where the loss does not reach them; to that of
        the other modules' is added.

        :param args: as of a call
        :param key: as of a call
        :returns: what the function returns, without gradients, and ``"gradient_norm"``: the 2-norm of the gradients of
            the first module's parameters
        """
        graph, inputs = self._graph(args, (key, "backward"))
        held = cast(Held, self._held)
        for parameter in held.of_first:
            parameter.grad = None
        if graph is None or inductor.have_hooks(held.tensors):
            outputs = self(*args, key=key)
            with torch.autocast(inputs[0].device.type, enabled=False):  # the casts of the loss alone decide
                outputs[str(self.loss)].backward()
            outputs = {name: value.detach() for name, value in outputs.items()}
            return {**outputs, GRADIENT_NORM: _norm([value.grad for value in held.of_first], inputs[0])}
        with torch.no_grad(), torch.autocast(inputs[0].device.type, enabled=False):
            outputs, gradients = graph(inputs)
        for value, gradient in zip([value for value in inputs if value.requires_grad], gradients, strict=True):
            if gradient is not None:
                value.grad = gradient if value.grad is None else value.grad + gradient
        return outputs

    def _graph(self, args: Any, key: tuple[Any, bool | str]) -> tuple[Graph | None, list[Tensor]]:
        """The graph for a call, None if it is to run eagerly, and the graph's inputs."""
        given: list[Tensor] = []
        structure = _nesting(args, given)
        if self._held is None or not self._held.is_current(self.modules):
            self._held = Held(self.modules)
        inputs = self._held.tensors + given
        device = inputs[0].device.type
        kind = (
            key,
            structure,
            self._held.structure,
            tuple([(value.shape, value.stride(), value.dtype, value.device, value.requires_grad) for value in inputs]),
            torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device),
            torch.get_default_dtype(),
            _handlers(),
        )
        graph = self._graphs.get(kind)
        if graph is None and kind not in self._graphs:
            if len(self._graphs) < self.max_graphs:
                graph = self._graphs[kind] = self._compile(self._held, inputs, args, key[1])
            else:  # not remembered: what changes at every call would fill the memory
                self._give_up(f"{self.max_graphs} shapes or settings came before this one")
        return graph, inputs

    def _compile(self, held: Held, inputs: list[Tensor], args: Any, differentiate: bool | str) -> Graph | None:
        try:
            inductor.check_hooks()
            _check_handlers()
            if _handlers() is None:
                raise ValueError("it was called within effect handlers, which a graph could not follow")
            ensure_compiled_folder()
            with inductor.quiet():
                return self._trace(held, inputs, args, differentiate)
        except (NetworkError, OptionError):  # the eager programs would raise the same
            raise
        except Exception as error:  # whatever it is: the eager programs run, or say it better
            self._give_up(str(error).strip().partition("\n")[0] or type(error).__name__, error)
            return None

    def _give_up(self, reason: str, error: Exception | None = None) -> None:
        if self.strict:
            raise UserError(
                f"compile is 'always', but torch {torch.__version__} cannot compile this: {reason} (compile='auto' "
                "runs it eagerly)"
            ) from error
        if reason not in self._said:
            self._said.add(reason)
            self.say(f"running eagerly, not compiled: {reason}")

    def _trace(self, held: Held, inputs: list[Tensor], args: Any, differentiate: bool | str) -> Graph:
        names: list[str] = []
        copies = held.copies()

        def flat(*values: Tensor) -> list[Tensor | None]:
            given = iter(values[len(held.tensors) :])
            with held.holding(copies, values):
                outputs = self.function(*_replaced(args, given))
            gradients: Sequence[Tensor | None] = ()
            if differentiate:
                wanted = [value for value in values if value.requires_grad]
                if not wanted:
                    raise ValueError("no parameter requires a gradient")
                # a parameter that the loss does not reach gets None, as from backward()
                gradients = torch.autograd.grad(outputs[str(self.loss)], wanted, allow_unused=True)
            if differentiate == "backward":
                of_first = {id(values[held.numbers[id(value)]]) for value in held.of_first}
                counted = [g for value, g in zip(wanted, gradients, strict=True) if id(value) in of_first]
                outputs = {**outputs, GRADIENT_NORM: _norm(counted, values[0])}
            names[:] = outputs
            return [*(value.detach() for value in outputs.values()), *gradients]

        with unregistered(), pyro.settings.context(**NO_VALIDATION), torch.set_grad_enabled(bool(differentiate)):
            torch.clear_autocast_cache()
            with pyro.get_param_store().scope() as store:
                graph = inductor.traced(flat, inputs)
            torch.clear_autocast_cache()
        if store["params"]:
            raise ValueError("a program calls pyro.param or pyro.module: begin it with pyro_priors.register instead")
        constants = [getattr(graph, str(node.target)) for node in graph.graph.nodes if node.op == "get_attr"]
        if any(constant.requires_grad and id(constant) not in held.numbers for constant in constants):
            raise ValueError("a program uses a parameter that is not in a module of the pair")
        # a constant would keep its value when the module's tensor changes
        if any(id(constant) in held.numbers for constant in constants):
            raise ValueError("a program reads a tensor of its module from where tracing could not replace it")
        with torch.no_grad(), torch.autocast(inputs[0].device.type, enabled=False):
            return Graph(inductor.compile_graph(graph, inputs), names)


GRADIENT_NORM = "gradient_norm"


def _nesting(value: Any, tensors: list[Tensor]) -> Any:
    """Describe nested tuples, lists, dicts and None by something hashable, and append their tensors to a list."""
    if isinstance(value, dict):
        return (dict, *[(name, _nesting(one, tensors)) for name, one in value.items()])
    if isinstance(value, tuple | list):
        return (type(value), *[_nesting(one, tensors) for one in value])
    if value is not None:
        tensors.append(value)
    return value is None


def _replaced(value: Any, tensors: Iterator[Tensor]) -> Any:
    """Build the same nesting of other tensors."""
    if isinstance(value, dict):
        return {name: _replaced(one, tensors) for name, one in value.items()}
    if isinstance(value, tuple | list):
        return type(value)([_replaced(one, tensors) for one in value])
    return None if value is None else next(tensors)


def _norm(gradients: Sequence[Tensor | None], like: Tensor) -> Tensor:
    """The 2-norm of all of them together, 0 of none."""
    norms = [torch.linalg.vector_norm(gradient) for gradient in gradients if gradient is not None]
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else like.new_zeros(())


NO_VALIDATION = dict.fromkeys(
    ("validate_distributions_pyro", "validate_distributions_torch", "validate_infer", "validate_poutine"), False
)
"""Settings of Pyro under which nothing is refused."""


def _warn(line: str) -> None:
    warnings.warn(EagerWarning(line), stacklevel=6)


def _check_handlers() -> None:
    """Check that Pyro tells which effect handlers are around a call.

    :raises ValueError: if it does not
    """
    with Messenger() as handler:
        if not any(one is handler for one in getattr(runtime, "_PYRO_STACK", ())):
            raise ValueError(f"Pyro {pyro.__version__} does not keep its effect handlers in a stack")


def _handlers() -> tuple[tuple[int, int], ...] | None:
    """What tells apart the effect handlers around a call; None if a graph cannot depend on one of them."""
    stack = getattr(runtime, "_PYRO_STACK", ())  # where it is missing there are no graphs
    known = [handler for handler in stack if isinstance(handler, SharedNoise)]
    if len(known) < len(stack):
        return None
    return tuple((handler.size, handler.first) for handler in known)
