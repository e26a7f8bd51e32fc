"""Networks as a factor of a pair: which encoder, decoder and network of the condition, and their sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch.nn as nn

from .._options import convert_fields
from ..errors import UserError, hint, is_size
from ..nn import NORMALISATIONS, UPSAMPLING, ConditionMLP, ConvDecoder, ConvEncoder, ConvTrunk, Decoder, Encoder
from ..nn.conv import is_image
from ..registry import Registry

__all__ = ["MLP", "NETWORKS", "Conv", "NetworkOptions", "register_networks"]


@dataclass(frozen=True)
class NetworkOptions:
    """Base of the options of a pair's networks: a frozen dataclass whose methods make them."""

    def __post_init__(self) -> None:
        convert_fields(self)

    def encoder(self, x_shape: Sequence[int], z_dim: int, **options: Any) -> nn.Module:
        """Return a network from x, and a condition, to q(z|x) or q(z|x,condition).

        :param options: ``condition_shape``, None for none; ``branched``: x and condition pass a layer each first
        """
        raise NotImplementedError

    def decoder(self, z_dim: int, x_shape: Sequence[int], likelihood: nn.Module, **options: Any) -> nn.Module:
        """Return a network from z, and a condition or a category, to p(x|z,...).

        :param options: ``condition_shape``, None for none; ``num_categories``, 0 for none; ``branched``
        """
        raise NotImplementedError

    def trunk(self, x_shape: Sequence[int]) -> Any:
        """Return a network from x to ``out_dim`` features."""
        raise NotImplementedError

    def condition_network(self, condition_shape: Sequence[int]) -> Any:
        """Return a network from a condition to ``out_dim`` features, for a prior."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """The name under which these options are registered."""
        return NETWORKS.name_of(type(self)) or type(self).__name__


NETWORKS: Registry[type[NetworkOptions]] = Registry("networks")
"""Options of networks by name."""

Options = TypeVar("Options", bound=type[NetworkOptions])


def register_networks(name: str, citations: Sequence[str] = ()) -> Callable[[Options], Options]:
    """Register a class of options, so that :func:`pyro_priors.create` and the command line know it by its name."""

    def add(options: Options) -> Options:
        NETWORKS.add(name, options, citations)
        return options

    return add


def check_layers(options: Any, may_be_empty: Sequence[str] = ()) -> None:
    """Refuse fields of layer sizes that are not positive integers."""
    for one in fields(options):
        value = getattr(options, one.name)
        if isinstance(value, tuple) and not (all(map(is_size, value)) and (value or one.name in may_be_empty)):
            example = one.default or (64,)
            raise UserError(f"{one.name} must be a tuple of positive integers, got {value!r} (for example, {example})")


@register_networks("mlp")
@dataclass(frozen=True)
class MLP(NetworkOptions):
    """Multilayer perceptrons of flattened data."""

    hidden: tuple[int, ...] = (300, 300)
    """Sizes of the hidden layers of the encoder, and of the decoder."""
    gated: bool = True
    """Gated layers (Dauphin et al. 2017) instead of ReLU."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layers(self)

    def encoder(self, x_shape: Sequence[int], z_dim: int, **options: Any) -> Encoder:
        return Encoder(x_shape, z_dim, self.hidden, self.gated, **options)

    def decoder(self, z_dim: int, x_shape: Sequence[int], likelihood: Any, **options: Any) -> Decoder:
        return Decoder(z_dim, x_shape, likelihood, self.hidden, self.gated, **options)

    def trunk(self, x_shape: Sequence[int]) -> ConditionMLP:
        return ConditionMLP(x_shape, self.hidden, self.gated)

    def condition_network(self, condition_shape: Sequence[int]) -> ConditionMLP:
        return ConditionMLP(condition_shape, self.hidden, self.gated)


@register_networks("conv")
@dataclass(frozen=True)
class Conv(NetworkOptions):
    """Convolutions of images, which are not flattened, with the networks of Bhalodia et al. (2019) at their sizes."""

    hidden: tuple[int, ...] = (300, 300)
    """Sizes of the layers between convolutions and code, of which there may be none."""
    gated: bool = True
    """Gated layers (Dauphin et al. 2017) instead of ReLU between convolutions and code."""
    channels: tuple[int, ...] = ()
    """Channels of the convolutions, each of which halves the image; chosen by the size when left out."""
    upsampling: str = "auto"
    """Of the decoder: resize, transposed, or auto, which chooses by the size."""
    normalisation: str = "auto"
    """After convolutions: group, none, or auto, which chooses by the size."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layers(self, may_be_empty=("channels", "hidden"))
        for name, known in (("upsampling", UPSAMPLING), ("normalisation", NORMALISATIONS)):
            if getattr(self, name) not in known:
                raise UserError(f"{name} '{getattr(self, name)}' is unknown: {hint(getattr(self, name), known)}")

    def _convolutions(self) -> dict[str, Any]:
        return {"channels": self.channels, "normalisation": self.normalisation}

    def encoder(self, x_shape: Sequence[int], z_dim: int, **options: Any) -> ConvEncoder:
        options.pop("branched", None)  # x and condition have maps of their own already
        return ConvEncoder(x_shape, z_dim, self.hidden, self.gated, **options, **self._convolutions())

    def decoder(self, z_dim: int, x_shape: Sequence[int], likelihood: Any, **options: Any) -> ConvDecoder:
        options.pop("branched", None)
        options |= self._convolutions() | {"upsampling": self.upsampling}
        return ConvDecoder(z_dim, x_shape, likelihood, self.hidden, self.gated, **options)

    def trunk(self, x_shape: Sequence[int]) -> ConvTrunk:
        return ConvTrunk(x_shape, self.hidden, self.gated, **self._convolutions())

    def condition_network(self, condition_shape: Sequence[int]) -> Any:
        if is_image(condition_shape):
            return ConvTrunk(condition_shape, self.hidden, self.gated, normalisation=self.normalisation)
        return ConditionMLP(condition_shape, self.hidden or (300, 300), self.gated)
