"""The terms of one bound, and losses whose gradients are known."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from ..errors import StateError

__all__ = ["Terms"]


@dataclass
class Terms:
    """The bound of one batch, term by term.

    :param parts: per datum, shape ``(batch,)``, at weight 1: ``"reconstruction"``, the expected log-likelihood, and
        ``"kl_SITE"`` for each latent site
    :param scales: what the objective multiplies each part and penalty with in the loss; 1 for the reconstruction
    :param penalties: what an objective adds to the loss and not to the bound, by name: scalars of the whole batch, in
        nats per datum or in the units that the objective states, at weight 1
    :param own: losses of the objective's own networks, by name: their gradients go along with the loss's, their values
        are no part of it
    :param whole: the loss, where it was computed chunk by chunk, and the parts have no gradient
    """

    parts: dict[str, Tensor]
    scales: dict[str, float | Tensor]
    penalties: dict[str, Tensor] = field(default_factory=dict)
    own: dict[str, Tensor] = field(default_factory=dict)
    whole: Tensor | None = None

    @property
    def bound(self) -> Tensor:
        """The evidence lower bound at weight 1, shape ``(batch,)``."""
        signed = (-value if name.startswith("kl_") else value for name, value in self.parts.items())
        return cast(Tensor, sum(signed))

    @property
    def loss(self) -> Tensor:
        """Mean over the batch of the weighted KL less the reconstruction, and the weighted penalties, a scalar."""
        if self.whole is not None:
            return self.whole
        terms = [
            (self.scales[name] * (value if name.startswith("kl_") else -value)).mean()
            for name, value in self.parts.items()
        ]
        terms += [self.scales[name] * value for name, value in self.penalties.items()]
        terms += [value - value.detach() for value in self.own.values()]
        return cast(Tensor, sum(terms))

    def means(self) -> dict[str, Tensor]:
        """Parts, penalties and losses of own networks as scalars without gradient: means over the batch at weight 1."""
        found = {**self.parts, **self.penalties, **self.own}
        return {name: value.detach().mean() for name, value in found.items()}


def leaves_of(loss: Tensor) -> list[Tensor]:
    """The tensors that a backward pass would leave a gradient in."""
    found, seen, todo = [], set(), [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):  # the end of the graph
            found.append(node.variable)
        todo.extend(next_node for next_node, _ in node.next_functions)
    return found


class WithGradients(torch.autograd.Function):
    """A loss whose gradients by some leaves are known."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor], *leaves: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise StateError("a loss with chunk_size has no second derivatives: leave chunk_size out")
        return (None, None, *(gradient * factor for gradient in ctx.gradients))
