"""What every program of the zoo begins with: its batch checked, its parameters made known to Pyro, and the plate over
the batch."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from math import prod
from typing import Any, cast
from weakref import WeakKeyDictionary

import pyro
import torch
import torch.nn as nn
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.ops.provenance import detach_provenance
from pyro.util import ignore_jit_warnings

from ._lock import drop_with
from ._options import plain
from .errors import check_sizes

__all__ = [
    "BatchCheck",
    "NetworkError",
    "add_to_loss",
    "check_batch",
    "check_distribution",
    "check_features",
    "data_plate",
    "register",
    "unregistered",
]

_unregistered: ContextVar[bool] = ContextVar("unregistered", default=False)
_counters: dict[str, itertools.count] = {}
_names: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


def _registered_name(name: str, module: nn.Module) -> str:
    """``name`` for the first module of that name in this process, ``name_1``, ``name_2``, ... for later ones.

    Names are kept beside the modules and not on them: a deep copy is another module and gets another name.
    """
    if module not in _names:
        number = next(_counters.setdefault(name, itertools.count()))
        _names[module] = name if number == 0 else f"{name}_{number}"
        drop_with(module, f"{_names[module]}$$$")
    return _names[module]


def register(name: str, module: nn.Module) -> None:
    """Register the parameters of ``module`` in Pyro's parameter store; the first line of every program of the zoo.

    It is :func:`pyro.module` without its two silent failures. There, a second module under a name already taken, or
    a module beside a store restored from a file, goes on computing with its own tensors while the optimizer trains
    the ones in the store. Here every module gets a name of its own (``name``, ``name_1``, ...: a second pair in one
    process trains as the first does), and a store that holds other tensors under it is refused.

    Frozen parameters (``requires_grad=False``) are left out. The parameters leave the store when nobody holds the
    module any more, so keep the pair until you have saved the store.

    :param name: name of the program, such as ``"vae.model"``
    :param module: the module whose parameters the program uses
    :raises RuntimeError: if the parameter store holds foreign tensors under the module's name
    :raises NetworkError: if a network has a PyroParam, which keeps its value in the store under a name of its own
    """
    if _unregistered.get():
        return
    full_name, store = _registered_name(name, module), pyro.get_param_store()
    for parameter_name, parameter in module.named_parameters():
        if parameter.requires_grad:
            _check_plain(parameter_name, module)
            if not parameter.is_contiguous():  # the store would replace it by a contiguous copy
                # not for all: torch can deadlock where another thread computes with a parameter whose data are set
                parameter.data = parameter.data.contiguous()
            # one that both programs use is one parameter, under the name that it got first
            store_name = store.param_name(parameter) or f"{full_name}$$${parameter_name}"
            # handlers of pyro.infer.inspect wrap what the store returns
            if detach_provenance(pyro.param(store_name, parameter)) is not parameter:
                raise RuntimeError(
                    f"the parameter store holds another tensor under '{store_name}', which "
                    "training would change instead of this module's: save and load pairs with pair.save(path) and "
                    "pyro_priors.load(path), not the store, or call pyro.clear_param_store() first"
                )


def _check_plain(parameter_name: str, module: nn.Module) -> None:
    path, _, last = parameter_name.rpartition(".")
    own_name = last.removesuffix("_unconstrained")
    if own_name != last and own_name in getattr(module.get_submodule(path), "_pyro_params", {}):
        raise NetworkError(
            f"{path} has the PyroParam '{own_name}', which Pyro shares by its name with other pairs: use an "
            f"nn.Parameter, and constrain it in forward (for example, torch.nn.functional.softplus(self.{own_name}))"
        )


@contextmanager
def unregistered() -> Iterator[None]:
    """Where :func:`register` does nothing, and programs compute with whatever tensors their modules hold."""
    token = _unregistered.set(True)
    try:
        yield
    finally:
        _unregistered.reset(token)


def add_to_loss(name: str, term: torch.Tensor, weight: float = 1.0) -> None:
    """Add a term of each datum to the loss, and not to the bound: a factor of the guide, within its plate.

    Our objectives report its mean over the batch, at weight 1, as a penalty. Pyro's add ``weight * term`` to their sum
    over the batch.

    :param name: name of the site
    :param term: in nats, shape ``(batch,)``
    :param weight: above 0
    """
    marked: Any = {"is_penalty": True}
    with poutine.scale(scale=weight), poutine.infer_config(config_fn=lambda site: marked):
        pyro.factor(name, term, has_rsample=True)


def data_plate(
    x: torch.Tensor | None,
    condition: torch.Tensor | None,
    size: int | None,
    needs: Sequence[str] = (),
    program: nn.Module | None = None,
) -> pyro.plate:
    """The plate ``"data"`` of every program of the zoo, as long as the batch that the program was given.

    :param x: observed data, shape ``(batch,) + x_shape``, or None when x is to be sampled
    :param condition: what x is generated given, shape ``(batch,) + condition_shape``, or None
    :param size: the batch size, read only where neither of the two is given
    :param needs: which of ``"x"`` and ``"condition"`` the program cannot do without
    :param program: the program, whose attribute ``networks`` maps a site to the attribute that holds its network; what
        these networks return is checked where it is sampled. None for no check
    :raises ValueError: if one that is needed is None, all three are None, or x and condition differ in length, or size
        is not a positive integer
    """
    for name, value in (("x", x), ("condition", condition)):
        if name in needs and value is None:
            raise ValueError(f"this program needs {name}, and {name} is None: give {name}, one row per datum")
    if x is not None and condition is not None and len(x) != len(condition):
        raise ValueError(f"condition must be as long as x, got {len(condition)} and {len(x)}: give one row per datum")
    given = x if x is not None else condition
    if given is not None:
        return _plate(len(given), program)
    if size is None:
        raise ValueError("a program needs x, condition or size, got none of them: give size=64 to sample 64 data")
    size = plain(size)
    check_sizes(size=size)
    return _plate(size, program)


def _plate(size: int, program: nn.Module | None) -> pyro.plate:
    return pyro.plate("data", size) if program is None else _CheckedPlate(size, program)


class NetworkError(ValueError):
    """A network returned something that its program cannot use."""

    def __init__(self, message: str) -> None:
        super().__init__(message.partition("\n")[0])  # without the table of shapes that Pyro's handlers add


class _CheckedPlate(pyro.plate):
    """The plate ``"data"`` of a program that says which networks its sites come from.

    :param size: number of data
    :param program: the program
    """

    def __init__(self, size: int, program: Any) -> None:
        super().__init__("data", size)
        self.program = program
        self.drawn: tuple[int, ...] = ()

    def _process_message(self, msg: Any) -> None:
        if msg["type"] == "sample" and msg["name"] in self.program.networks:
            event_shape = getattr(self.program, "event_shapes", {}).get(msg["name"])
            dim = cast(int, self.dim)  # known within the plate
            left_shape = [1] * (-dim - len(self.drawn)) + list(self.drawn)
            left_shape[dim] = self.subsample_size
            check_distribution(msg["fn"], self._network(msg), left_shape, event_shape)
        super()._process_message(msg)

    @ignore_jit_warnings(["Converting a tensor to a Python"])
    def _postprocess_message(self, msg: Any) -> None:
        super()._postprocess_message(msg)
        if msg["type"] != "sample" or msg["name"] not in self.program.networks:
            return
        shape, event_shape = tuple(msg["value"].shape), tuple(msg["fn"].event_shape)
        num_left = len(shape) - len(event_shape)
        if num_left < 1 or shape[num_left:] != event_shape:
            raise NetworkError(
                f"{self._network(msg)} returned a distribution with event shape {event_shape}, but the values of "
                f"'{msg['name']}' have shape {shape}, batch included: return one with the event shape of these values, "
                "or make encoder, prior and decoder for the same z_dim and x_shape"
            )
        self.drawn = shape[:num_left]

    def _network(self, msg: Any) -> str:
        name = self.program.networks[msg["name"]]
        return f"{name} ({type(getattr(self.program, name)).__name__})"


@ignore_jit_warnings(["Converting a tensor to a Python"])
def check_distribution(
    given: Any, network: str, left_shape: Sequence[int], event_shape: Sequence[int] | None = None
) -> None:
    """Raise an error unless a network returned a distribution of Pyro with one event for each row of its input.

    :param given: what the network returned
    :param network: its name, for the message
    :param left_shape: shape of the rows, with which its batch shape must broadcast
    :param event_shape: shape of the event, None where any will do
    :raises NetworkError: if it is anything else
    """
    if not isinstance(given, TorchDistributionMixin):
        found = "None" if given is None else type(given).__name__
        if isinstance(given, torch.Tensor):
            found = f"a tensor of shape {tuple(given.shape)}"
        elif isinstance(given, torch.distributions.Distribution):
            found = f"{type(given).__module__.rpartition('.')[0]}.{type(given).__name__}, which Pyro cannot sample"
        num = 1 if event_shape is None else len(event_shape)
        raise NetworkError(
            f"{network} must return a distribution of pyro.distributions, got {found}: return one such as "
            f"dist.Normal(loc, scale).to_event({num}), after import pyro.distributions as dist"
        )
    batch, event = tuple(given.batch_shape), tuple(given.event_shape)
    got = f"got batch shape {batch} and event shape {event}"
    if event_shape is not None and event != tuple(event_shape):
        num, sizes = len(event_shape), ", ".join(map(str, event_shape))
        remedy = f"its parameters must have shape (..., {sizes})"
        if (batch + event)[-num:] == tuple(event_shape):
            remedy = f"declare {num} of its dimensions as the event, .to_event({num})"
        raise NetworkError(
            f"{network} must return a distribution with event shape {tuple(event_shape)}, {got}: {remedy}"
        )
    right = zip(reversed(batch), reversed(tuple(left_shape)), strict=False)
    if any(one != 1 and other != 1 and one != other for one, other in right):
        remedy = "return one row of parameters for each row of the input"
        if not event:
            remedy = "declare its last dimension as the event, .to_event(1)"
        elif event_shape is None and network.startswith("prior") and len(batch) <= 1:
            remedy = "return one distribution, of batch shape (), or one for each row of the input"
        if batch[-1:] == (prod(left_shape),):
            remedy = "keep the dimensions to the left of the event, logits.reshape(*z.shape[:-1], *x_shape)"
        raise NetworkError(
            f"{network} must return a distribution with batch shape {tuple(left_shape)}, {got}: {remedy}"
        )


def check_features(features: Any, guide: Any, x: torch.Tensor | None) -> Any:
    """Return what the trunk of a guide returned, or refuse it where it is not what the guide's heads take.

    :param features: what the trunk returned
    :param guide: the guide; its ``event_shapes["features"]`` is the shape of one row, missing where any will do
    :param x: what the trunk was given
    :raises NetworkError: if it is no tensor of one such row for each row of x
    """
    shape = getattr(guide, "event_shapes", {}).get("features")
    if x is None or shape is None:
        return features
    wanted = (len(x), *shape)
    if not isinstance(features, torch.Tensor) or tuple(features.shape) != wanted:
        is_tensor = isinstance(features, torch.Tensor)
        found = f"a tensor of shape {tuple(features.shape)}" if is_tensor else type(features).__name__
        raise NetworkError(
            f"encoder ({type(guide.trunk).__name__}) must return features, a tensor of shape {wanted}, got {found}: "
            "change its last layer, or hidden, whose last size is the number of features"
        )
    return features


def check_batch(name: str, value: Any, dtype: torch.dtype, shape: Sequence[int] | None) -> None:
    """Refuse what is no batch: one row for each datum, of the weights' dtype and of the shape that a pair was made for.

    :param name: what it is, for the message
    :param value: the batch
    :param dtype: of the weights
    :param shape: of one datum, None where any will do
    :raises ValueError: if it is none
    """
    if not isinstance(value, torch.Tensor):
        kind = type(value).__name__
        remedy = f"some rows, {name}[:1000]" if kind == "Levels" else f"torch.as_tensor({name})"
        raise ValueError(f"{name} must be a tensor, got {kind}: give {remedy}")
    if value.layout is not torch.strided:
        raise ValueError(f"{name} is sparse ({value.layout}): give {name}.to_dense()")
    if not value.is_floating_point():
        raise ValueError(f"{name} must hold floating-point values, got {value.dtype}: give {name}.to({dtype})")
    if value.dtype is not dtype:
        raise ValueError(
            f"{name} must be {dtype}, as the pair's weights are, got {value.dtype}: give {name}.to({dtype}), or take "
            f"the pair there with pair.to({value.dtype})"
        )
    if shape and tuple(value.shape[1:]) != tuple(shape):
        given = ", ".join(map(str, shape))
        raise ValueError(
            f"{name} must have shape (batch, {given}), got {tuple(value.shape)}: reshape it, or give a batch of one "
            f"with {name}[None]"
        )
    if not value.dim() or not len(value):
        raise ValueError(
            f"{name} must hold at least one datum, got shape {tuple(value.shape)}: leave empty batches out"
        )


class BatchCheck:
    """Forward pre-hook of a pair's programs: SVI, Pyro's ELBOs and a call of one's own get the same checks as a pair's
    methods. Without it a single datum would be taken for a batch of its own pixels.

    :param shapes: of one datum, by name of the program's argument, None where it has none
    """

    def __init__(self, **shapes: Sequence[int] | None) -> None:
        self.shapes = shapes

    def __call__(self, program: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = dict(zip(self.shapes, args, strict=False)) | kwargs
        own = next(program.parameters(), None)
        for name, shape in self.shapes.items():
            if own is not None and given.get(name) is not None:
                check_batch(name, given[name], own.dtype, shape)
