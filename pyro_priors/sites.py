"""Questions about the sites of a trace, and effect handlers."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from ._precision import at_least_float32

__all__ = [
    "FromBase",
    "Mode",
    "OptionError",
    "SharedNoise",
    "apply",
    "base_of",
    "check_latent",
    "is_categorical",
    "is_enumerated",
    "is_gaussian",
    "is_normal",
    "is_transformed",
    "sample_sites",
]


class OptionError(ValueError):
    """An option that the programs cannot follow, such as one that names a site which they do not have."""

    def __init__(self, message: str) -> None:
        super().__init__(message.partition("\n")[0])  # Pyro adds the shapes of the whole trace


def check_latent(option: str, names: Iterable[str], latent: Iterable[str]) -> None:
    """Refuse names of latent sites that are not there.

    :param option: what gives the names, for the message
    :param latent: the names of the latent sites
    :raises OptionError: if one is not there
    """
    latent = list(dict.fromkeys(latent))
    for name in names:
        if name not in latent:
            known = f"choose from {', '.join(latent)}" if latent else "this program has no latent site"
            raise OptionError(f"{option} names '{name}', which is not a latent site: {known}")


def sample_sites(trace: poutine.Trace) -> Iterator[tuple[str, Any]]:
    """Names and messages of the sample sites, plates left out, in order."""
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and not site_is_subsample(site):
            yield name, site


def is_enumerated(site: Any) -> bool:
    """Whether Pyro enumerated the site in parallel."""
    return site["infer"].get("_enumerate_dim") is not None


def base_of(fn: dist.Distribution) -> Any:
    """The distribution whose batch dimensions ``to_event`` made event dimensions."""
    while isinstance(fn, dist.Independent):
        fn = fn.base_dist
    return fn


def is_normal(fn: dist.Distribution) -> bool:
    """Whether the distribution is a diagonal Gaussian."""
    return type(base_of(fn)) is dist.Normal


def is_gaussian(fn: dist.Distribution) -> bool:
    """Whether the distribution is a Gaussian over vectors, of a diagonal or a full covariance."""
    return is_normal(fn) or isinstance(fn, dist.MultivariateNormal)


def is_transformed(fn: dist.Distribution) -> bool:
    """Whether the distribution is a base whose points are transformed, such as a flow."""
    return isinstance(base_of(fn), dist.TransformedDistribution)


def is_categorical(fn: dist.Distribution) -> bool:
    """Whether the distribution is over category numbers."""
    return type(base_of(fn)) is dist.Categorical


def apply(function: type[torch.autograd.Function], *args: Tensor) -> Any:
    """Apply an autograd function, also to the tensors with which Pyro tracks on which sites a value depends.

    ``function.apply`` itself computes with them as they are. Its result then has no gradient and no such dependencies.
    """
    if has_torch_function(args):
        return handle_torch_function(function.apply, args, *args)
    return function.apply(*args)


class SharedNoise(Messenger):
    """Effect handler that draws a Gaussian latent site's noise for a whole batch and keeps the rows of one share of it.

    Processes that share a batch and a seed draw together what one process draws alone.

    :param size: size of the whole batch
    :param first: first row of this share
    """

    def __init__(self, size: int, first: int) -> None:
        super().__init__()
        self.size, self.first = size, first

    def _pyro_sample(self, msg: Any) -> None:
        fn = msg["fn"]
        if msg["is_observed"] or msg["done"] or site_is_subsample(msg) or not is_normal(fn):
            return
        data_dim = len(fn.batch_shape) - 1
        shape = list(fn.shape())
        num_rows, shape[data_dim] = shape[data_dim], self.size
        base = base_of(fn)
        # drawn as Normal.rsample draws it, so that the numbers are the same
        noise = torch.normal(base.loc.new_zeros(shape), base.loc.new_ones(shape))
        msg["value"] = base.loc + noise.narrow(data_dim, self.first, num_rows) * base.scale
        msg["done"] = True


class FromBase(Messenger):
    """Effect handler that gives sites with a flow as their distribution what becomes of points of its base.

    :param points: of the base, by site, in place of its draws
    """

    def __init__(self, points: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.points = points

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] not in self.points:
            return
        value = at_least_float32(self.points[msg["name"]])
        for transform in msg["fn"].transforms:
            value = transform(value)
        msg["value"], msg["done"] = value, True


class Mode(Messenger):
    """Effect handler that gives each latent site its most probable category, or its mean, instead of a draw."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["done"] or site_is_subsample(msg):
            return
        fn = msg["fn"]
        msg["value"] = fn.logits.argmax(-1) if is_categorical(fn) else fn.mean
        msg["done"] = True
