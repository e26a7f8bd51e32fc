"""From Pyro programs to machine code: a function of tensors, traced once through Pyro's handlers and compiled.

``torch.compile`` on a program of Pyro breaks into hundreds of pieces. Here the handlers run once, over fake tensors,
and what they do to tensors is recorded by ``make_fx``: loss and gradients together, so that autograd's rules hold as
they did in the programs (``detach``, ``no_grad``, backward passes of one's own). Inductor then compiles that one graph.
Parameters and buffers are inputs of the graph; nothing of them is copied into it.

This module relies on internals of torch and Pyro, which another version may move. They are imported where a graph is
made and never at the top of a module, so that without them everything runs eagerly.
"""

from __future__ import annotations

import copy
import logging
import operator
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, cast

import pyro
import torch
import torch.nn as nn
from pyro.poutine import runtime
from pyro.poutine.messenger import Messenger
from torch import Tensor

from .._cache import compiled_folder, ensure_compiled_folder, why_unwritable
from ..errors import StateError, UserError
from ..registration import NetworkError, unregistered
from ..rng import starting_threads
from ..sites import OptionError, SharedNoise

__all__ = ["CompiledFunction", "EagerWarning"]

Tensors = dict[str, Tensor]


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
        self._graphs: dict[Any, _Graph | None] = {}
        self._held: _Held | None = None
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
            loss = _WithGradients.apply(graph, inputs, outputs, self.loss, *wanted)
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
        held = cast(_Held, self._held)
        for parameter in held.of_first:
            parameter.grad = None
        if graph is None or any(value._backward_hooks or value._post_accumulate_grad_hooks for value in held.tensors):
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

    def _graph(self, args: Any, key: tuple[Any, bool | str]) -> tuple[_Graph | None, list[Tensor]]:
        """The graph for a call, None if it is to run eagerly, and the graph's inputs."""
        given: list[Tensor] = []
        structure = _nesting(args, given)
        if self._held is None or not self._held.is_current(self.modules):
            self._held = _Held(self.modules)
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

    def _compile(self, held: _Held, inputs: list[Tensor], args: Any, differentiate: bool | str) -> _Graph | None:
        try:
            _check_internals()
            if _handlers() is None:
                raise ValueError("it was called within effect handlers, which a graph could not follow")
            ensure_compiled_folder()
            with _quiet():
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

    def _trace(self, held: _Held, inputs: list[Tensor], args: Any, differentiate: bool | str) -> _Graph:
        from torch.fx.experimental.proxy_tensor import make_fx

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
                # on fake tensors: nothing is computed and no random number drawn
                graph = make_fx(
                    flat, {torch.ops.aten.addmm.default: _addmm}, tracing_mode="fake", _allow_non_fake_inputs=True
                )(*inputs)
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
            return _Graph(compile_graph(graph, inputs), names)


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


class _Held:
    """The parts of some modules, their parameters and buffers, each once, and where they are.

    :param modules: the modules
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.modules = list(modules)
        self.parts = list(dict.fromkeys(part for module in modules for part in module.modules()))
        self.tensors: list[Tensor] = []
        self.numbers: dict[int, int] = {}
        structure: list[Any] = []
        for part in self.parts:
            structure.append((type(part), part.training))
            for owner in (part._parameters, part._buffers):
                for name, tensor in owner.items():
                    number = None if tensor is None else self.numbers.setdefault(id(tensor), len(self.tensors))
                    if tensor is not None and number == len(self.tensors):
                        self.tensors.append(tensor)
                    structure.append((name, number))
            structure.extend(_plain(vars(part)).items())
        self.of_first = list(modules[0].parameters())
        self.structure = tuple(structure)
        """What tells apart modules of other types, modes, names, ties or attributes."""
        self._types = [type(part) for part in self.parts]
        owners = [(vars(part), part._parameters, part._buffers, part._modules) for part in self.parts]
        self._owners: list[dict[str, Any]] = list(chain.from_iterable(owners))
        self._names, self._values, self._sizes = self._look()
        plain = [value for part in self.parts for value in vars(part).values() if isinstance(value, Tensor)]
        self._versions = [(value, value._version) for value in plain]

    def is_current(self, modules: Sequence[nn.Module]) -> bool:
        """Whether all is the very same that was found, which costs less to ask than to look anew."""
        return (
            len(modules) == len(self.modules)
            and all(map(operator.is_, modules, self.modules))
            and list(map(type, self.parts)) == self._types
            and all(map(operator.is_, map(vars, self.parts), self._owners[::4]))
            and self._holds_the_same()
            and all(value._version == version for value, version in self._versions)
        )

    def _look(self) -> tuple[list[str], list[Any], list[int]]:
        values = chain.from_iterable(map(dict.values, self._owners))
        return list(chain.from_iterable(self._owners)), list(values), list(map(len, self._owners))

    def _holds_the_same(self) -> bool:
        names, values, sizes = self._look()
        return sizes == self._sizes and names == self._names and all(map(operator.is_, values, self._values))

    def copies(self) -> list[dict[str, Any]]:
        """The parts' attributes, copied as far as a program could change them; parts and tensors are the same."""
        memo: dict[int, Any] = {id(part): part for part in self.parts} | {id(tensor): tensor for tensor in self.tensors}
        found = []
        for part in self.parts:
            found.append(
                {
                    name: value if name in _OF_MODULES else copy.deepcopy(value, memo)
                    for name, value in vars(part).items()
                }
            )
        return found

    @contextmanager
    def holding(self, copies: list[dict[str, Any]], tensors: Sequence[Tensor]) -> Iterator[None]:
        """The modules with copies of their attributes, and with other tensors in the place of theirs.

        :raises ValueError: at the end, if the programs have set an attribute or written to a tensor that is no buffer:
            a graph would not do that again
        """
        own = [vars(part) for part in self.parts]
        for copied in copies:
            for kind in ("_parameters", "_buffers"):
                copied[kind] = {
                    name: None if tensor is None else tensors[self.numbers[id(tensor)]]
                    for name, tensor in copied[kind].items()
                }
        before = [_plain(copied) | _held(copied) for copied in copies]
        try:
            for part, copied in zip(self.parts, copies, strict=True):
                part.__dict__ = copied
            yield
            for part, then in zip(self.parts, before, strict=True):
                now = _plain(vars(part)) | _held(vars(part))
                if changed := [name for name in {**then, **now} if then.get(name) != now.get(name)]:
                    raise ValueError(
                        f"a program sets '{changed[0]}' of {type(part).__name__}, which a graph would not: register it "
                        "as a buffer and change that in place"
                    )
        finally:
            for part, attributes in zip(self.parts, own, strict=True):
                part.__dict__ = attributes


_OF_MODULES = frozenset(vars(nn.Module()))


def _plain(attributes: dict[str, Any]) -> dict[str, Any]:
    """What a module's attributes are beside its parameters, buffers and parts: numbers and names by value, objects by
    identity, a tensor with the count of what was written to it."""
    found: dict[str, Any] = {}
    for name, value in attributes.items():
        if name not in _OF_MODULES:
            by_value = value is None or type(value) in (bool, int, float, str)
            found[name] = value if by_value else (_Same(value), value._version if isinstance(value, Tensor) else 0)
    return found


class _Same:
    """Equal to the same object alone, which it keeps from being freed and its id from being given to another."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def _held(attributes: dict[str, Any]) -> dict[str, Any]:
    return {
        name: id(value) for kind in ("_parameters", "_buffers", "_modules") for name, value in attributes[kind].items()
    }


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
        self._to_copy: list[int] | None = None
        self._seen_again = False

    def __call__(self, inputs: list[Tensor]) -> tuple[Tensors, Sequence[Tensor | None]]:
        """The gradients each in storage of its own, laid out as what it is the gradient of."""
        values = list(self.run(*inputs))
        outputs, gradients = dict(zip(self.names, values, strict=False)), values[len(self.names) :]
        if gradients:
            wanted = [value for value in inputs if value.requires_grad]
            if not self._seen_again:  # machine code does the same at every call: check until two calls agree
                found = _to_copy(wanted, gradients, [*inputs, *outputs.values()])
                self._seen_again, self._to_copy = found == self._to_copy, found
            for number in self._to_copy or ():
                gradients[number] = torch.empty_like(wanted[number]).copy_(gradients[number])
        return outputs, gradients


def _to_copy(wanted: list[Tensor], gradients: list[Any], others: list[Tensor]) -> list[int]:
    """Numbers of the gradients that cannot be a ``.grad`` as they are: strided otherwise than their tensor, which fused
    optimizers do not heed, or in memory that something else is in."""
    taken = {value.untyped_storage().data_ptr() for value in others}
    found = []
    for number, (value, gradient) in enumerate(zip(wanted, gradients, strict=True)):
        if gradient is None:
            continue
        place = gradient.untyped_storage().data_ptr()
        if gradient.stride() != value.stride() or place in taken:
            found.append(number)
        taken.add(place)
    return found


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
            raise StateError("backward a second time through a compiled loss: compute the loss again")
        gradients, ctx.gradients = ctx.gradients, None  # the parameters take them over, without a copy
        if factor.device.type != "cpu" or factor.item() != 1:  # asking another device would wait for it
            gradients = [None if gradient is None else gradient * factor for gradient in gradients]
        return (None, None, None, None, *gradients)


NO_VALIDATION = dict.fromkeys(
    ("validate_distributions_pyro", "validate_distributions_torch", "validate_infer", "validate_poutine"), False
)
"""Settings of Pyro under which nothing is refused."""


def _warn(line: str) -> None:
    warnings.warn(EagerWarning(line), stacklevel=6)


def _check_internals() -> None:
    """Check that torch and Pyro have what each call of a graph relies on.

    :raises ValueError: if something is missing
    """
    for name in ("_backward_hooks", "_post_accumulate_grad_hooks"):
        if not hasattr(torch.Tensor, name):
            raise ValueError(f"torch's tensors have no {name}")
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


@contextmanager
def _quiet() -> Iterator[None]:
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
