"""What every prior is: a module from a context to a distribution over z, and options that build it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from math import prod
from typing import Any, TypeVar

import pyro.distributions as dist
import torch.nn as nn
from torch import Tensor

from .._options import convert_fields
from ..errors import UserError, check_sizes, is_size
from ..nn import ConditionMLP
from ..registry import Registry

__all__ = ["PRIORS", "Parts", "Prior", "PriorOptions", "as_options", "register_prior"]


class Prior(nn.Module):
    """p(z), or p(z|context): a module that returns a Pyro distribution.

    The context is what a family gives its prior:

    ========= ====================================================== ========================================
    context   what :meth:`forward` gets                              families
    ========= ====================================================== ========================================
    none      nothing                                                ``vae``, ``hvae``, ``cvae`` with a p(z)
    category  numbers, ``left_shape``, or, of a relaxed category,    ``cp_vae``
              log-weights, ``left_shape + (num_categories,)``
    condition a tensor, ``left_shape + condition_shape``             ``cvae``, and z1 given z2 in ``hvae``
    ========= ====================================================== ========================================

    Any other ``nn.Module`` with such a ``forward`` is a prior too. These methods are used where a module has them:

    ``init_from_data(x, condition, seed)``
        start the parameters at training data, where :func:`pyro_priors.fit` is given ``pseudo_inputs="data"``
    ``to_base(z, context)`` and ``from_base(z0, context)``
        of a prior that is a bijection of a simpler one: the points of that one, and back
    ``start_epoch(epoch)``
        called before each epoch of the training
    """

    def forward(self, context: Tensor | None = None) -> dist.Distribution:
        """
        :param context: None, category numbers, or conditions
        :returns: distribution with event shape ``(z_dim,)`` and a batch shape that broadcasts with ``left_shape``
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Parts:
    """What a prior may be built from: the sizes and networks of the pair that it belongs to.

    :param z_dim: size of z
    :param num_categories: number of categories where the context is a category, else 0
    :param condition_shape: shape of one condition where the context is a condition, else ``()``
    :param x_shape: shape of one example
    :param x_range: least and largest value that x may have, infinite where there is no limit
    :param encoder: the guide's network, from x, and the context where there is one, to q(z|x,...); None where there is
        no such network
    :param decoder: the model's network, from z to p(x|z,...); None where it needs more than z and the context
    :param decoder_context: how the decoder takes the context: by the keyword ``"c"`` or ``"condition"``, ``"z2"`` for
        its second position, or ``""`` where it does not see it
    :param condition_network: from ``condition_shape`` to a module from conditions to ``module.out_dim`` features
    :param is_relaxed: whether the category is relaxed in training, so that it has no number
    """

    z_dim: int
    num_categories: int = 0
    condition_shape: tuple[int, ...] = ()
    x_shape: tuple[int, ...] = ()
    x_range: tuple[float, float] = (0.0, 1.0)
    encoder: nn.Module | None = None
    decoder: nn.Module | None = None
    decoder_context: str = ""
    condition_network: Callable[[Sequence[int]], nn.Module] = ConditionMLP
    is_relaxed: bool = False

    def __post_init__(self) -> None:
        check_sizes(z_dim=self.z_dim)
        if self.num_categories and self.condition_shape:
            raise UserError(
                f"a prior has one context, got num_categories={self.num_categories} and "
                f"condition_shape={self.condition_shape}: leave one of them out"
            )

    @property
    def context(self) -> str:
        """``"none"``, ``"category"`` or ``"condition"``."""
        if self.num_categories:
            return "category"
        return "condition" if self.condition_shape else "none"

    def check_numbered(self, prior: str) -> None:
        """Raise ValueError where the category has no number, which the prior of this name needs."""
        if self.is_relaxed:
            raise UserError(
                f"prior '{prior}' needs the number of a category, and a relaxed category has none: use prior='mixture',"
                " or category='enumerated'"
            )

    def features(self) -> Any:
        """Return a new network from conditions to features; ``out_dim`` is their number."""
        return self.condition_network(self.condition_shape)

    def given_features(self, num_features: int) -> Parts:
        """Return parts whose condition is a vector of features that another network has already made."""
        return replace(self, condition_shape=(num_features,), condition_network=_Features)


class _Features(nn.Module):
    """Features as they are."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.out_dim = prod(shape)

    def forward(self, features: Tensor) -> Tensor:
        return features


@dataclass(frozen=True)
class PriorOptions:
    """Base of the options of a prior: a frozen dataclass whose :meth:`build` makes the module."""

    def __post_init__(self) -> None:
        convert_fields(self)
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name.startswith("num_") and value is not None and not is_size(value):
                raise UserError(f"{one.name} must be a positive integer, got {value!r} (for example, 10)")

    def build(self, parts: Parts) -> nn.Module:
        """Return the prior.

        :param parts: of the pair
        :raises ValueError: if there is no such prior of these parts
        """
        raise NotImplementedError

    @property
    def name(self) -> str:
        """The name under which these options are registered."""
        return PRIORS.name_of(type(self)) or type(self).__name__


PRIORS: Registry[type[PriorOptions]] = Registry("prior")
"""Options of priors by name."""

Options = TypeVar("Options", bound=type[PriorOptions])


def register_prior(name: str, citations: Sequence[str] = ()) -> Callable[[Options], Options]:
    """Register a class of options, so that :func:`pyro_priors.create` and the command line know the prior by its name.

    Example::

        @register_prior("student_t")
        @dataclass(frozen=True)
        class StudentT(PriorOptions):
            df: float = 5.0

            def build(self, parts: Parts) -> nn.Module:
                return StudentTPrior(parts.z_dim, self.df)

    :param name: an identifier
    :param citations: keys of :data:`pyro_priors.citations.BIBTEX`, or BibTeX entries
    :raises ValueError: if the name is taken
    """

    def add(options: Options) -> Options:
        PRIORS.add(name, options, citations)
        return options

    return add


def as_options(prior: str | PriorOptions) -> PriorOptions:
    """Return the options that a name stands for: that prior's defaults.

    :raises ValueError: if the name is unknown
    """
    return prior if isinstance(prior, PriorOptions) else PRIORS[prior]()
