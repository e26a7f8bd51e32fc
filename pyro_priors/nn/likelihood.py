"""What every likelihood is: a map from a decoder's output to a distribution over x, and options that build it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import pyro.distributions as dist
import torch.nn as nn
from torch import Tensor

from .._options import convert_fields, typed
from .._precision import at_least_float32
from ..registry import Registry

__all__ = ["LIKELIHOODS", "Likelihood", "LikelihoodOptions", "make_likelihood", "register_likelihood"]


class Likelihood(nn.Module):
    """Base: a map from a decoder's output to a distribution over x.

    A call converts an output in half precision to float32 before :meth:`forward` reads it. In a class of your own, set
    :attr:`num_outputs` and :attr:`x_range` where they differ from the defaults, 1 and any number. Example::

        >>> class LaplaceLikelihood(Likelihood):
        ...     num_outputs = 2
        ...
        ...     def forward(self, raw):
        ...         loc, raw_scale = raw.unbind(-1 - self.event_dim)
        ...         return dist.Laplace(loc, torch.nn.functional.softplus(raw_scale)).to_event(self.event_dim)

    :param event_dim: number of dimensions of one example, ``len(x_shape)``
    """

    num_outputs = 1
    """Numbers that the decoder must produce for each value of x: set it to 2 for a location and a scale, say."""

    x_range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    """Least and largest value that x may have, infinite where there is no limit."""

    values = "a density"
    """What p(x|...) is of, for units: a density, or discrete values such as ``"256 levels"``."""

    has_scale = False
    """Whether p(x|...) is a Gaussian whose scale does not depend on z, which is then a metric."""

    @typed
    def __init__(self, event_dim: int) -> None:
        super().__init__()
        self.event_dim = event_dim

    def __call__(self, raw: Tensor) -> Any:
        return super().__call__(at_least_float32(raw))

    def forward(self, raw: Tensor) -> dist.Distribution:
        """
        :param raw: the decoder's output, shape ``left_shape + (num_outputs,) + x_shape``
        :returns: distribution with batch shape ``left_shape`` and event shape ``x_shape``
        """
        raise NotImplementedError

    def check(self, x: Tensor) -> None:
        """Refuse values that this likelihood cannot be of.

        :param x: any examples
        :raises ValueError: with the first such value, and what to do
        """
        low, high = self.x_range
        if x.numel() and not (x.min() >= low and x.max() <= high):
            raise ValueError(
                f"x must be {'0 or more' if math.isinf(high) else 'in [0, 1]'}, got values from {x.min():.4g} to "
                f"{x.max():.4g}: rescale them, or use likelihood='gaussian'"
            )

    def _only(self, raw: Tensor) -> Tensor:
        """The one output."""
        return raw.squeeze(-1 - self.event_dim)


@dataclass(frozen=True)
class LikelihoodOptions:
    """Base of the options of a likelihood: a frozen dataclass whose :meth:`build` makes the module."""

    def __post_init__(self) -> None:
        convert_fields(self)

    def build(self, x_shape: Sequence[int]) -> Likelihood:
        """Return the likelihood of examples of this shape."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """The name under which these options are registered."""
        return LIKELIHOODS.name_of(type(self)) or type(self).__name__


LIKELIHOODS: Registry[type[LikelihoodOptions]] = Registry("likelihood")
"""Options of likelihoods by name."""

Options = TypeVar("Options", bound=type[LikelihoodOptions])


def register_likelihood(name: str, citations: Sequence[str] = ()) -> Callable[[Options], Options]:
    """Register a class of options, so that :func:`pyro_priors.create` and the command line know it by its name.

    Example::

        @register_likelihood("laplace")
        @dataclass(frozen=True)
        class Laplace(LikelihoodOptions):
            def build(self, x_shape: Sequence[int]) -> Likelihood:
                return LaplaceLikelihood(len(x_shape))

    :param name: an identifier
    :param citations: keys of :data:`pyro_priors.citations.BIBTEX`, or BibTeX entries
    :raises ValueError: if the name is taken
    """

    def add(options: Options) -> Options:
        LIKELIHOODS.add(name, options, citations)
        return options

    return add


def make_likelihood(likelihood: str | LikelihoodOptions, x_shape: Sequence[int]) -> Likelihood:
    """Return the likelihood of a name, with its default options, or of options.

    :param likelihood: one of ``LIKELIHOODS``, or options
    :param x_shape: shape of one example
    :raises ValueError: if the name is unknown, or the options do not fit the shape
    """
    options = likelihood if isinstance(likelihood, LikelihoodOptions) else LIKELIHOODS[likelihood]()
    return options.build(x_shape)
