"""Convolutional encoders and decoders: the plans of the released code, conditions, left dimensions."""

import re
from math import prod

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.testing import assert_close

import pyro_priors as pp
from pyro_priors.nn import ConvDecoder, ConvEncoder, ConvTrunk, make_likelihood

SHAPES = {
    "mnist": ((1, 28, 28), [(32, 14), (32, 12), (32, 6), (32, 4)], 0.0, False, "transposed"),
    "svhn": ((3, 32, 32), [(32, 16), (32, 8), (32, 6), (32, 4)], 0.0, True, "transposed"),
    "celeba": ((3, 64, 64), [(32, 32), (64, 16), (128, 8), (256, 4), (256, 2)], 0.2, True, "resize"),
    "other": ((1, 40, 40), [(32, 20), (64, 10), (128, 5)], 0.2, True, "resize"),
}
"""Image, channels and side after each convolution, slope, normalised, the decoder's way up."""


@pytest.mark.parametrize("name", SHAPES)
def test_plans_are_those_of_the_released_code(name):
    image, sizes, slope, normalised, upsampling = SHAPES[name]
    trunk = ConvTrunk(image, hidden=())
    seen = []
    for convolution in trunk.convolutions:
        convolution.register_forward_hook(lambda *args: seen.append(tuple(args[-1].shape[1:])))
    assert trunk(torch.rand(2, *image)).shape == (2, trunk.out_dim) == (2, sizes[-1][0] * sizes[-1][1] ** 2)
    assert seen == [(channels, side, side) for channels, side in sizes]
    assert trunk.slope == slope and isinstance(trunk.norms[0], nn.GroupNorm) is normalised
    decoder = ConvDecoder(2, image, make_likelihood("gaussian", (1, 1, 1)), hidden=())
    back = []
    for layer in decoder.layers:
        layer.register_forward_hook(lambda *args: back.append(tuple(args[-1].shape[1:])))
    assert decoder(torch.randn(2, 2)).event_shape == image
    assert back == [*((channels, side, side) for channels, side in sizes[-2::-1]), image]
    assert any(isinstance(module, nn.Upsample) for module in decoder.modules()) is (upsampling == "resize")


def test_the_slope_is_real():
    """The released code's slope is 1 by mistake, its network for CelebA linear but for the normalisation."""
    trunk = ConvTrunk((3, 64, 64), hidden=())
    x = torch.randn(1, 3, 64, 64)
    h = trunk.norms[0](trunk.convolutions[0](x))
    wanted = torch.where(h > 0, h, 0.2 * h)
    assert_close(F.leaky_relu(h, trunk.slope), wanted)
    assert not torch.allclose(trunk(x) + trunk(-x), 2 * trunk(0 * x), atol=1e-2)


@pytest.mark.parametrize("image", [(1, 28, 28), (3, 64, 64)], ids=str)
def test_trunk_equals_its_layers_by_hand(float64, image):
    trunk = ConvTrunk(image, hidden=(7,))
    x = torch.rand(3, *image)
    h = x
    for convolution, norm in zip(trunk.convolutions, trunk.norms, strict=True):
        h = norm(F.conv2d(h, convolution.weight, convolution.bias, convolution.stride, convolution.padding))
        h = torch.maximum(h, trunk.slope * h)
    assert_close(trunk(x), F.relu(trunk.perceptron.first.input(h.flatten(1))))


@pytest.mark.parametrize("image", [(1, 28, 28), (3, 32, 32), (2, 7, 5), (1, 18, 28)], ids=str)
@pytest.mark.parametrize("upsampling", ["auto", "resize", "transposed"])
def test_decoders_give_every_size_back(image, upsampling):
    decoder = ConvDecoder(3, image, make_likelihood("discretised_logistic", (1, 1, 1)), upsampling=upsampling)
    found = decoder(torch.randn(4, 5, 3))
    assert found.batch_shape == (4, 5) and found.event_shape == image
    loss = -found.log_prob((found.mean * 255).round() / 255).sum()
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in decoder.parameters())


@pytest.mark.parametrize("image", [(3, 64, 64), (2, 24, 40), (1, 28, 28)], ids=str)
def test_resizing_equals_its_parts(float64, image):
    """Upsampling, edges repeated, a 3x3 convolution: where the size doubles, by one transposed convolution."""
    decoder = ConvDecoder(3, image, make_likelihood("gaussian", (1, 1, 1)), channels=(4, 5, 6), upsampling="resize")
    z = torch.randn(3, decoder.first_shape[0] * decoder.first_shape[1] * decoder.first_shape[2])
    h, seen = z.unflatten(-1, decoder.first_shape).requires_grad_(), []
    for layer in decoder.layers:
        size, convolution = layer[0].size, layer[2]
        ours = layer(h)
        wide = F.pad(F.interpolate(h, size, mode="nearest"), (1, 1, 1, 1), mode="replicate")
        parts = F.conv2d(wide, convolution.weight, convolution.bias)
        assert_close(ours, parts)
        weight, inputs = torch.randn_like(ours), [h, *convolution.parameters()]
        for one, other in zip(*(torch.autograd.grad((f * weight).sum(), inputs) for f in (ours, parts)), strict=True):
            assert_close(one, other)
        seen.append(type(layer).__name__)
        h = ours.detach().requires_grad_()
    assert seen == ["Sequential" if image[1] == 28 else "_Doubled", "_Doubled", "_Doubled"]


@pytest.mark.slow
@pytest.mark.parametrize("image", [(3, 64, 64), (1, 28, 28), (1, 43, 43)], ids=str)
def test_resizing_compiles(float64, image):
    """The backward pass of nn.ReplicationPad2d does not, beside a transposed convolution (torch 2.15)."""
    pair = pp.create("vae", x_shape=image, networks="conv", upsampling="resize", likelihood="gaussian", scale=0.2)
    x = torch.rand(4, *image)
    module, parameters = pair.elbo(pair.model, pair.guide), list(pair.parameters())
    both = [_seeded_gradients(loss, x, parameters) for loss in (module, pp.compiled(pair))]
    for one, other in zip(*both, strict=True):
        assert_close(one, other, rtol=1e-9, atol=1e-9)


def _seeded_gradients(loss, x, parameters):
    torch.manual_seed(3)
    return torch.autograd.grad(loss(x), parameters)


def test_a_datum_depends_on_no_other(float64):
    encoder = ConvEncoder((3, 32, 32), 4)
    x = torch.rand(6, 3, 32, 32)
    alone = torch.cat([encoder(one[None]).mean for one in x])
    assert_close(encoder(x).mean, alone)


@pytest.mark.parametrize("name", ["vae", "cp_vae", "cvae"])
def test_normalisation_is_everywhere_or_nowhere(name):
    """Of encoder, decoder, prior and the networks of a condition; ``auto`` is what the size asks for."""
    condition = {"condition_shape": (1, 16, 16)} if name == "cvae" else {}
    for size, auto in ((28, False), (32, True), (24, True)):
        for normalisation, expected in (("auto", auto), ("group", True), ("none", False)):
            pair = pp.create(
                name, x_shape=(1, size, size), networks="conv", channels=(), normalisation=normalisation, **condition
            )
            for program in (pair.model, pair.guide):
                own = {key: module for key, module in program.named_modules() if ".norms." in key}
                of_x = [module for key, module in own.items() if not re.search("condition|join|prior", key)]
                given = [module for key, module in own.items() if re.search("condition|join|prior", key)]
                assert all(isinstance(module, nn.GroupNorm) is expected for module in of_x)
                if normalisation != "auto":
                    assert all(isinstance(module, nn.GroupNorm) is expected for module in given)
                assert of_x and bool(given) is bool(condition)


CONDITIONS = {"vector": (3,), "same size": (2, 12, 10), "other image": (1, 4, 9), "matrix": (2, 5)}


@pytest.mark.parametrize("kind", CONDITIONS)
def test_conditions_broadcast(float64, kind):
    """Conditions of left shape (1, 5) with x and z of (4, 5), and with the same conditions repeated."""
    shape = CONDITIONS[kind]
    encoder = ConvEncoder((1, 12, 10), 3, condition_shape=shape)
    decoder = ConvDecoder(3, (1, 12, 10), make_likelihood("bernoulli", (1, 1, 1)), condition_shape=shape)
    condition, x, z = torch.randn(1, 5, *shape), torch.rand(4, 5, 1, 12, 10), torch.randn(4, 5, 3)
    repeated = condition.expand(4, 5, *shape)
    assert_close(encoder(x, condition).mean, encoder(x, repeated).mean)
    assert_close(decoder(z, condition).mean, decoder(z, repeated).mean)
    assert not torch.allclose(encoder(x, condition).mean, encoder(x, condition + 1).mean)
    assert not torch.allclose(decoder(z, condition).mean, decoder(z, condition + 1).mean)


def test_a_condition_of_the_same_size_is_further_channels(float64):
    trunk = ConvTrunk((1, 12, 10), (), condition_shape=(2, 12, 10))
    x, condition = torch.rand(3, 1, 12, 10), torch.rand(3, 2, 12, 10)
    first = trunk.convolutions[0]
    weight = torch.cat([first.weight, trunk.join.map.weight], 1)
    wanted = F.conv2d(torch.cat([x, condition], 1), weight, first.bias, first.stride, first.padding)
    assert_close(first(x) + trunk.join(condition), wanted)


def test_a_vector_is_constant_maps(float64):
    trunk = ConvTrunk((1, 12, 10), (), condition_shape=(4,))
    joined = trunk.join(torch.randn(3, 4))
    assert joined.shape == (3, 32, 1, 1)


def test_categories_broadcast(float64):
    decoder = ConvDecoder(3, (1, 8, 8), make_likelihood("bernoulli", (1, 1, 1)), num_categories=4)
    z, c = torch.randn(4, 5, 3), torch.arange(4)[:, None]
    found = decoder(z, c=c).mean
    for k in range(4):
        assert_close(found[k], decoder(z[k], c=torch.full((5,), k)).mean)


@pytest.mark.parametrize("shape", [(1, 1, 28), (3, 28, 1), (2, 1, 1)])
@pytest.mark.parametrize("name", ["cvae", "cmog_cvae", "cvamp_cvae", "cdv_cvae", "sigma_cvae", "sigma_cvae_nf"])
def test_conditions_thinner_than_images_are_vectors(name, shape):
    """Such as the last row of an image: the very pair that has the same values in one dimension."""
    common = {"x_shape": (1, 8, 9), "z_dim": 2, "networks": "conv", "hidden": (6,), "likelihood": "gaussian"}
    x, condition, losses = torch.rand(4, 1, 8, 9), torch.rand(4, *shape), []
    for condition_shape in (shape, (prod(shape),)):
        torch.manual_seed(0)
        pair = pp.create(name, condition_shape=condition_shape, **common)
        given = condition.reshape(4, *condition_shape)
        losses.append(pair.elbo.loss(pair.model, pair.guide, x, given))
        losses.append(pair.sample(4, given)["x_mean"].sum().item())
        assert not torch.equal(pair.encode(x, given)["z"].mean, pair.encode(x, given + 1)["z"].mean)
    assert losses[:2] == losses[2:]


def test_errors():
    def refuses(message, name="vae", **options):
        with pytest.raises(ValueError, match=message) as caught:
            pp.create(name, **{"x_shape": (1, 28, 28), "networks": "conv"} | options)
        assert "\n" not in str(caught.value)

    refuses(
        r"images of shape \(channels, height, width\) .* got \(784,\): load images with flatten=False", x_shape=(784,)
    )
    refuses(r"got \(1, 28, 1\)", x_shape=(1, 28, 1))
    refuses(r"networks 'con' is unknown: did you mean 'conv'\?", networks="con")
    refuses(r"upsampling 'transpose' is unknown: did you mean 'transposed'\?", upsampling="transpose")
    refuses(r"normalisation 'batch' is unknown: choose one of auto, group, none", normalisation="batch")
    refuses(r"normalisation='none' belongs to networks='conv', got", networks="mlp", normalisation="none")
    refuses(r"channels=\(8,\) belongs to networks='conv', got networks='mlp'", networks="mlp", channels=(8,))
    refuses(r"upsampling='resize' belongs to networks='conv', got networks='mlp'", networks="mlp", upsampling="resize")
    refuses(
        r"channels=\(8, 8, 8, 8, 8\) has 5 layers, and 28x28 is halved 4 times at most: give 4 or fewer",
        channels=(8,) * 5,
    )
    refuses(r"channels must be a tuple of positive integers, got \(0,\)", channels=(0,))
    refuses(r"hidden must be a tuple of positive integers, got \(\)", networks="mlp", hidden=())
    assert pp.create("vae", x_shape=(1, 28, 28), networks="conv", hidden=(), channels=(8, 8)).sample(2)["x"].shape == (
        2,
        1,
        28,
        28,
    )


@pytest.mark.slow
def test_a_step_compiles():
    torch.manual_seed(0)
    data = torch.rand(40, 3, 16, 16)
    pair = pp.create("vae", x_shape=(3, 16, 16), z_dim=2, networks="conv", likelihood="gaussian", prior="flow")
    compiled, eager = pp.compiled(pair), pair.elbo(pair.model, pair.guide)
    torch.manual_seed(1)
    one = compiled(data)
    torch.manual_seed(1)
    assert_close(one, eager(data), rtol=1e-4, atol=1e-3)
    one.backward()
    assert all(parameter.grad is not None for parameter in pair.parameters())
