"""Convolutional encoders and decoders of images, which may also see a condition and a category."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, cast

import pyro.distributions as dist
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .._options import typed
from ..errors import UserError
from .likelihoods import Likelihood
from .mlp import MLP, JoinedLinear
from .networks import GaussianHead

__all__ = ["NORMALISATIONS", "UPSAMPLING", "ConvDecoder", "ConvEncoder", "ConvTrunk", "is_image"]

NORMALISATIONS = ("auto", "group", "none")
UPSAMPLING = ("auto", "resize", "transposed")


@dataclass(frozen=True)
class _Convolution:
    channels: int
    kernel: int = 4
    stride: int = 2
    padding: int = 1

    def size_after(self, size: int) -> int:
        return (size + 2 * self.padding - self.kernel) // self.stride + 1


@dataclass(frozen=True)
class _Plan:
    """Convolutions from an image to features; slope of the leaky ReLU after each; whether each is normalised."""

    convolutions: tuple[_Convolution, ...]
    slope: float
    normalised: bool
    upsampling: str

    def shapes(self, image_shape: Sequence[int]) -> list[tuple[int, int, int]]:
        """Shape of the image, and of what is there after each convolution."""
        channels, height, width = image_shape
        found = [(channels, height, width)]
        for one in self.convolutions:
            height, width = one.size_after(height), one.size_after(width)
            found.append((one.channels, height, width))
        return found


_HALVE, _TRIM = _Convolution(32), _Convolution(32, kernel=3, stride=1, padding=0)
_PLANS = {
    (28, 28): _Plan((_HALVE, _TRIM, _HALVE, _TRIM), 0.0, False, "transposed"),
    (32, 32): _Plan((_HALVE, _HALVE, _TRIM, _TRIM), 0.0, True, "transposed"),
    (64, 64): _Plan(tuple(map(_Convolution, (32, 64, 128, 256, 256))), 0.2, True, "resize"),
}
"""Of the released code of dpVAE, by height and width: MNIST, SVHN and CelebA."""


def is_image(shape: Sequence[int]) -> bool:
    """Whether convolutions can read it: (channels, height, width) of 2x2 and more."""
    return len(shape) == 3 and min(shape[1:]) >= 2


def _plan(image_shape: Sequence[int], channels: Sequence[int], normalisation: str) -> _Plan:
    plan = _plan_of_size(image_shape, channels)
    return plan if normalisation == "auto" else replace(plan, normalised=normalisation == "group")


def _plan_of_size(image_shape: Sequence[int], channels: Sequence[int]) -> _Plan:
    if not is_image(image_shape):
        raise UserError(
            f"convolutions need images of shape (channels, height, width) of 2x2 and more, got {tuple(image_shape)}: "
            "load images with flatten=False (--data.no-flatten), or use networks='mlp'"
        )
    height, width = image_shape[1:]
    if not channels and (height, width) in _PLANS:
        return _PLANS[height, width]
    most = int(math.log2(min(height, width)))
    if len(channels) > most:
        raise UserError(
            f"channels={tuple(channels)} has {len(channels)} layers, and {height}x{width} is halved {most} times at "
            f"most: give {most} or fewer"
        )
    # halved down to 4 to 7 pixels
    chosen = channels or [32 * 2 ** min(i, 3) for i in range(max(1, most - 2))]
    return _Plan(tuple(map(_Convolution, chosen)), 0.2, True, "resize")


def _each(module: nn.Module, images: Tensor) -> Tensor:
    """A module of batches of images, on any left dimensions."""
    out = module(images.reshape(-1, *images.shape[-3:]))
    return out.reshape(*images.shape[:-3], *out.shape[1:])


def _started(layer: Any) -> Any:
    """The layer at He's initialisation."""
    if isinstance(layer, nn.ConvTranspose2d):  # a pixel of the outcome meets one in stride^2 of the kernel's weights
        nn.init.kaiming_uniform_(layer.weight, mode="fan_out", nonlinearity="relu")
        with torch.no_grad():
            layer.weight.mul_(layer.stride[0])
    else:
        nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _norm(channels: int, plan: _Plan) -> nn.Module:
    return nn.GroupNorm(math.gcd(channels, 8), channels) if plan.normalised else nn.Identity()


class ConvTrunk(nn.Module):
    r"""From images to features: convolutions, then a perceptron.

    Without ``channels``, the convolutions are those of the released code of Bhalodia et al. (2019) for its data:

    ======== =====================================================================================
    28x28    32 channels each: 4x4 of stride 2, 3x3, 4x4 of stride 2, 3x3; ReLU
    32x32    32 channels each: 4x4 of stride 2 twice, 3x3 twice; normalised, ReLU
    64x64    4x4 of stride 2 to 32, 64, 128, 256, 256 channels; normalised, leaky ReLU of slope 0.2
    others   as 64x64, with 32, 64, 128, 256, ... channels down to 4 to 7 pixels
    ======== =====================================================================================

    The condition joins in the first convolution: an image of the same size as further channels of x, anything else as
    feature maps that are constant over the image, whose values are affine in it (of another image in features of it, by
    a trunk of its own). Written as a sum, x and condition may have any left dimensions that broadcast.

    What differs from that code: group normalisation (Wu and He 2018) in the place of batch normalisation, so that the
    density of a datum depends on no other datum; and the slope, which there is 1 by mistake.

    :param x_shape: (channels, height, width)
    :param hidden: sizes of the perceptron's layers; none: the features are what the convolutions give
    :param gated: gated layers in the perceptron instead of ReLU
    :param condition_shape: shape of one condition, None for none; of three dimensions it is taken for an image
    :param channels: channels of each convolution, every one of which halves the image
    :param normalisation: after each convolution but a decoder's last: ``group``, ``none``, or ``auto``, as in the table
    :raises ValueError: if x_shape is no image, or halved too often

    Reference: Riddhish Bhalodia, Iain Lee and Shireen Elhabian, dpVAEs: fixing sample generation for regularized VAEs,
    ACCV 2020, arXiv:1911.10506.
    """

    @typed
    def __init__(
        self,
        x_shape: Sequence[int],
        hidden: Sequence[int] = (256,),
        gated: bool = False,
        condition_shape: Sequence[int] | None = None,
        channels: Sequence[int] = (),
        normalisation: str = "auto",
    ) -> None:
        super().__init__()
        plan = _plan(x_shape, channels, normalisation)
        shapes, self.slope = plan.shapes(x_shape), plan.slope
        self.convolutions = nn.ModuleList(
            _started(nn.Conv2d(shape[0], one.channels, one.kernel, one.stride, one.padding))
            for shape, one in zip(shapes, plan.convolutions, strict=False)
        )
        self.norms = nn.ModuleList(_norm(one.channels, plan) for one in plan.convolutions)
        self.join = _Join(condition_shape, x_shape, plan.convolutions[0], normalisation) if condition_shape else None
        num_features = prod(shapes[-1])
        self.perceptron = MLP(num_features, hidden, gated) if hidden else None
        self.out_dim = hidden[-1] if hidden else num_features

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """
        :param x: shape ``left_shape + x_shape``
        :param condition: shape ``left_shape + condition_shape``
        :returns: shape ``left_shape + (out_dim,)``, after broadcasting
        """
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            x = _each(convolution, x)
            if not i and self.join is not None:
                x = x + self.join(condition)
            x = F.leaky_relu(_each(norm, x), self.slope)
        features = x.flatten(-3)
        return features if self.perceptron is None else self.perceptron(features)


class _Condition(nn.Module):
    """A condition as a vector: an image through convolutions of its own, anything else flattened."""

    def __init__(self, shape: Sequence[int], normalisation: str) -> None:
        super().__init__()
        self.trunk = ConvTrunk(shape, normalisation=normalisation) if is_image(shape) else nn.Flatten(-len(shape))
        self.out_dim = self.trunk.out_dim if isinstance(self.trunk, ConvTrunk) else prod(shape)

    def forward(self, condition: Tensor) -> Tensor:
        return self.trunk(condition)


class _Join(nn.Module):
    """What a condition adds to the outcome of the first convolution."""

    def __init__(self, shape: Sequence[int], x_shape: Sequence[int], first: _Convolution, normalisation: str) -> None:
        super().__init__()
        self.is_like_x = len(shape) == 3 and tuple(shape[1:]) == tuple(x_shape[1:])
        self.vector = None if self.is_like_x else _Condition(shape, normalisation)
        self.map: nn.Module
        if self.vector is None:
            self.map = nn.Conv2d(shape[0], first.channels, first.kernel, first.stride, first.padding, bias=False)
        else:
            self.map = nn.Linear(self.vector.out_dim, first.channels, bias=False)
        _started(self.map)

    def forward(self, condition: Tensor) -> Tensor:
        if self.vector is None:
            return _each(self.map, condition)
        return self.map(self.vector(condition))[..., None, None]


class ConvEncoder(nn.Module):
    """q(z|x) or q(z|x,condition) of images: a :class:`ConvTrunk` that ends in a diagonal Gaussian.

    Example::

        >>> ConvEncoder((3, 32, 32), 32)(torch.rand(5, 3, 32, 32)).event_shape
        torch.Size([32])

    :param x_shape: (channels, height, width)
    :param z_dim: size of z
    :param hidden: as in :class:`ConvTrunk`, likewise the others
    """

    broadcasts = True
    """Several x may share a condition whose left dimensions broadcast with theirs: its part is computed once."""

    @typed
    def __init__(
        self,
        x_shape: Sequence[int],
        z_dim: int,
        hidden: Sequence[int] = (256,),
        gated: bool = False,
        condition_shape: Sequence[int] | None = None,
        channels: Sequence[int] = (),
        normalisation: str = "auto",
    ) -> None:
        super().__init__()
        self.trunk = ConvTrunk(x_shape, hidden, gated, condition_shape, channels, normalisation)
        self.head = GaussianHead(self.trunk.out_dim, z_dim)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> dist.Distribution:
        """
        :param x: shape ``left_shape + x_shape``
        :param condition: shape ``left_shape + condition_shape``
        :returns: distribution with batch shape ``left_shape`` and event shape ``(z_dim,)``
        """
        return self.head(self.trunk(x, condition))


class ConvDecoder(nn.Module):
    """p(x|z), p(x|z,c) or p(x|z,condition) of images: the way back of :class:`ConvTrunk`, ending in a likelihood.

    Where the trunk halves, the decoder doubles, in one of two ways: ``resize`` repeats each pixel and convolves with
    3x3; ``transposed`` has a transposed 4x4 convolution. ``auto`` is that of the released code: ``transposed`` for
    28x28 and 32x32, ``resize`` for 64x64, and for others. The condition joins as a vector at the first affine map, an
    image after convolutions of its own; so does a category.

    :param z_dim: size of z
    :param x_shape: (channels, height, width)
    :param likelihood: what the output is read as
    :param hidden: as in :class:`ConvTrunk`, likewise the others
    :param num_categories: number of categories, 0 for none
    :param upsampling: ``auto``, ``resize`` or ``transposed``
    """

    broadcasts = True
    """Several z may share a condition whose left dimensions broadcast with theirs: its part is computed once."""

    @typed
    def __init__(
        self,
        z_dim: int,
        x_shape: Sequence[int],
        likelihood: Likelihood,
        hidden: Sequence[int] = (256,),
        gated: bool = False,
        condition_shape: Sequence[int] | None = None,
        num_categories: int = 0,
        channels: Sequence[int] = (),
        upsampling: str = "auto",
        normalisation: str = "auto",
    ) -> None:
        super().__init__()
        plan = _plan(x_shape, channels, normalisation)
        shapes = plan.shapes(x_shape)
        resize = (plan.upsampling if upsampling == "auto" else upsampling) == "resize"
        self.slope, self.first_shape, self.likelihood = plan.slope, shapes[-1], likelihood
        self.condition = _Condition(condition_shape, normalisation) if condition_shape else None
        condition_dim = 0 if self.condition is None else self.condition.out_dim
        self.perceptron = MLP(z_dim, hidden, gated, condition_dim, num_categories) if hidden else None
        last = (hidden[-1],) if hidden else (z_dim, condition_dim, num_categories)
        in_dim, *joined = last
        self.first = JoinedLinear(in_dim, prod(shapes[-1]), *joined)
        out_channels = [likelihood.num_outputs * x_shape[0], *(shape[0] for shape in shapes[1:-1])]
        steps = list(zip(plan.convolutions, out_channels, shapes, shapes[1:], strict=False))[::-1]
        self.layers = nn.ModuleList(_back(one, out, before, after, resize) for one, out, before, after in steps)
        self.norms = nn.ModuleList(_norm(channels, plan) for channels in out_channels[:0:-1])

    def forward(self, z: Tensor, condition: Tensor | None = None, c: Tensor | None = None) -> dist.Distribution:
        """
        :param z: shape ``left_shape + (z_dim,)``
        :param condition: shape ``left_shape + condition_shape``
        :param c: category numbers, shape ``left_shape``
        :returns: distribution with batch shape ``left_shape`` and event shape ``x_shape``
        """
        given = None if self.condition is None else self.condition(condition)
        h = self.first(z, given, c) if self.perceptron is None else self.first(self.perceptron(z, given, c))
        h = F.leaky_relu(h, self.slope).unflatten(-1, self.first_shape)
        for layer, norm in zip(self.layers, self.norms, strict=False):
            h = F.leaky_relu(_each(norm, _each(layer, h)), self.slope)
        out = _each(self.layers[-1], h)
        return self.likelihood(out.unflatten(-3, (self.likelihood.num_outputs, -1)))


class _RepeatedEdges(nn.Module):
    """As nn.ReplicationPad2d(1), whose backward pass fails in some compiled graphs (torch 2.15)."""

    def forward(self, x: Tensor) -> Tensor:
        for dim in (-2, -1):
            x = torch.cat([x.narrow(dim, 0, 1), x, x.narrow(dim, -1, 1)], dim)
        return x


class _Doubled(nn.Sequential):
    """Repeats each pixel to 2x2 and convolves with 3x3: as one transposed convolution, whose 4x4 kernel holds the sums
    of the weights that meet the same pixel. But for the edges it needs four ninths of the products, and
    nothing of twice the size."""

    def forward(self, x: Tensor) -> Tensor:
        _, edges, last = self
        convolution = cast(nn.Conv2d, last)
        kernel = F.avg_pool2d(convolution.weight, 2, 1, 1, divisor_override=1).transpose(0, 1).flip(-2, -1)
        return F.conv_transpose2d(edges(x), kernel, convolution.bias, stride=2, padding=3)


def _back(
    one: _Convolution, out_channels: int, before: tuple[int, int, int], after: tuple[int, int, int], resize: bool
) -> nn.Module:
    """From features of shape ``after`` back to the size of ``before``, which ``one`` made them of."""
    size = before[1:]
    if resize and one.stride > 1:
        convolution = _started(nn.Conv2d(after[0], out_channels, 3))
        # of 2x2 the edges cost more than that saves
        doubles = min(after[1:]) > 2 and all(n == 2 * half for n, half in zip(size, after[1:], strict=True))
        return (_Doubled if doubles else nn.Sequential)(nn.Upsample(size), _RepeatedEdges(), convolution)
    height, width = ((n - 1) * one.stride - 2 * one.padding + one.kernel for n in after[1:])
    left_over = (size[0] - height, size[1] - width)
    layer = nn.ConvTranspose2d(after[0], out_channels, one.kernel, one.stride, one.padding, left_over)
    return _started(layer)
