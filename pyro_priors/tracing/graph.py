"""A compiled graph as a node of autograd: outputs by name, and gradients that can be a ``.grad`` as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import StateError

__all__ = ["Graph", "Tensors", "WithGradients"]

Tensors = dict[str, Tensor]


class Graph:
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


class WithGradients(torch.autograd.Function):
    """The loss of a graph that has computed its gradients too, as a node of autograd's graph."""

    @staticmethod
    def forward(ctx: Any, graph: Graph, inputs: list[Tensor], outputs: Tensors, loss: str, *wanted: Tensor) -> Tensor:
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
