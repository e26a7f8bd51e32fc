"""What every program of the zoo begins with: its batch checked, its parameters made known to Pyro, and the plate over
the batch."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

import pyro
import torch
import torch.nn as nn

from ._hints import check_sizes
from ._options import plain

__all__ = ["BatchCheck", "check_batch", "data_plate", "register", "unregistered"]

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
    return _names[module]


def register(name: str, module: nn.Module) -> None:
    """Register the parameters of ``module`` in Pyro's parameter store; the first line of every program of the zoo.

    It is :func:`pyro.module` without its two silent failures. There, a second module under a name already taken, or
    a module beside a store restored from a file, goes on computing with its own tensors while the optimizer trains
    the ones in the store. Here every module gets a name of its own (``name``, ``name_1``, ...: a second pair in one
    process trains as the first does), and a store that holds other tensors under it is refused.

    Frozen parameters (``requires_grad=False``) are left out.

    :param name: name of the program, such as ``"vae.model"``
    :param module: the module whose parameters the program uses
    :raises RuntimeError: if the parameter store holds foreign tensors under the module's name
    """
    if _unregistered.get():
        return
    full_name = _registered_name(name, module)
    for parameter_name, parameter in module.named_parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.contiguous()  # the store would replace it by a contiguous copy
            stored = pyro.param(f"{full_name}$$${parameter_name}", parameter)
            if stored is not parameter:
                raise RuntimeError(
                    f"the parameter store holds another tensor under '{full_name}$$${parameter_name}', which "
                    "training would change instead of this module's: save and load pairs with pair.save(path) and "
                    "pyro_priors.load(path), not the store, or call pyro.clear_param_store() first"
                )


@contextmanager
def unregistered() -> Iterator[None]:
    """Where :func:`register` does nothing, and programs compute with whatever tensors their modules hold."""
    token = _unregistered.set(True)
    try:
        yield
    finally:
        _unregistered.reset(token)


def data_plate(
    x: torch.Tensor | None, condition: torch.Tensor | None, size: int | None, needs: Sequence[str] = ()
) -> pyro.plate:
    """The plate ``"data"`` of every program of the zoo, as long as the batch that the program was given.

    :param x: observed data, shape ``(batch,) + x_shape``, or None when x is to be sampled
    :param condition: what x is generated given, shape ``(batch,) + condition_shape``, or None
    :param size: the batch size, read only where neither of the two is given
    :param needs: which of ``"x"`` and ``"condition"`` the program cannot do without
    :raises ValueError: if one that is needed is None, all three are None, x and condition differ in length, or size is
        not a positive integer
    """
    for name, value in (("x", x), ("condition", condition)):
        if name in needs and value is None:
            raise ValueError(f"this program needs {name}, and {name} is None: give {name}, one row per datum")
    if x is not None and condition is not None and len(x) != len(condition):
        raise ValueError(f"condition must be as long as x, got {len(condition)} and {len(x)}: give one row per datum")
    given = x if x is not None else condition
    if given is not None:
        return pyro.plate("data", len(given))
    if size is None:
        raise ValueError("a program needs x, condition or size, got none of them: give size=64 to sample 64 data")
    size = plain(size)
    check_sizes(size=size)
    return pyro.plate("data", size)


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
