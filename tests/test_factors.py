"""Shapes made from factors, and the mutual information of codes with them."""

import dataclasses
import math

import pytest
import torch
from torch.testing import assert_close

import pyro_priors as pp
from pyro_priors.data.shapes import FACTORS
from pyro_priors.metrics import evaluate, factor_information, mutual_information_gap


def test_shapes_are_all_combinations_once():
    splits = pp.data.load("shapes", flatten=False)
    assert [len(part) for part in splits.parts.values()] == [5000, 680, 2000]
    assert splits.x_shape == (1, 32, 32) and splits.likelihood == "bernoulli" and splits.binarise
    assert splits.attribute_names == tuple(FACTORS) and splits.factor_sizes == (3, 5, 8, 8, 8)
    values = torch.cat([part.attributes for part in splits.parts.values()])
    assert len(values.unique(dim=0)) == 7680 == math.prod(splits.factor_sizes)
    grey = pp.data.load("shapes", flatten=False, binarise="none")
    images = torch.cat([part.x for part in grey.parts.values()])
    assert images.min() == 0 and images.max() == 1 and len(images.flatten(1).unique(dim=0)) == 7680
    assert torch.equal(splits.train.label, splits.train.attributes[:, 0].long())
    again, other = pp.data.load("shapes"), pp.data.load("shapes", seed=1)
    assert torch.equal(again.test.x, splits.test.x.flatten(1)) and not torch.equal(other.test.x, again.test.x)


def test_shapes_are_where_and_as_large_as_their_factors_say():
    """Of squares and ellipses the centre of mass within a twentieth of a pixel, and the area within 6%; none but
    the largest touch the rim."""
    part = pp.data.load("shapes", flatten=False).train
    shape, scale, _, horizontal, vertical = part.attributes.T
    area = part.x.sum((1, 2, 3))
    radius = 4 + scale
    wanted = torch.where(shape == 0, (1.5 * radius) ** 2, math.pi * 0.55 * radius**2)
    known = shape < 2
    assert ((area - wanted).abs() < 0.06 * wanted)[known].all()
    middle = torch.arange(32) + 0.5
    for axis, place in ((2, horizontal), (1, vertical)):
        mass = part.x[:, 0].sum(axis - 1 if axis == 2 else axis + 1)
        centre = (mass * middle).sum(1) / area
        assert ((centre - (9 + 2 * place)).abs() < 0.05)[known].all()
    inner = part.x[known & (scale < 4)]
    assert not inner[..., 0].any() and not inner[..., -1, :].any()


def test_information_is_that_of_two_gaussians():
    """z ~ N(+-1, 0.5) for two values at even odds, by quadrature; 5 standard errors of 3,000 data and 0.01 for the
    finite mixture. A value of z that knows nothing has none."""
    torch.manual_seed(0)
    v = torch.arange(3000) % 2
    loc = torch.stack([2.0 * v - 1, torch.zeros(3000)], -1)
    found = factor_information(loc, torch.full((3000, 2), 0.5), v[:, None])
    grid = torch.linspace(-6, 6, 20_001, dtype=torch.float64)
    each = torch.distributions.Normal(torch.tensor([[-1.0], [1.0]], dtype=torch.float64), 0.5).log_prob(grid)
    both = each.logsumexp(0) - math.log(2)
    wanted = (0.5 * each.exp() * (each - both)).sum() * (grid[1] - grid[0])
    assert found.shape == (2, 1)
    assert abs(found[0, 0] - wanted) < 0.01 + 5 * 0.3 / math.sqrt(3000)
    assert abs(found[1, 0]) < 1e-6


def test_gaps_of_known_codes():
    """One value of z for each factor: 1. Both factors in both values, turned by 45 degrees: 0."""
    torch.manual_seed(0)
    factors = torch.cartesian_prod(torch.arange(4), torch.arange(5)).repeat(60, 1)
    loc, scale = factors.float(), torch.full((1200, 2), 0.01)
    gap = mutual_information_gap(factor_information(loc, scale, factors), factors)
    assert_close(gap, torch.ones(2, dtype=gap.dtype), rtol=0, atol=0.01)
    turned = torch.stack([loc[:, 0] + 5 * loc[:, 1], loc[:, 0] + 7 * loc[:, 1]], -1)
    gap = mutual_information_gap(factor_information(turned, scale, factors), factors)
    assert_close(gap, torch.zeros(2, dtype=gap.dtype), rtol=0, atol=0.01)


def test_gap_by_hand():
    factors = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 2]])
    information = torch.tensor([[0.6, 0.1], [0.2, 0.5], [0.1, 0.9]])
    entropy = torch.tensor([math.log(2), 1.5 * math.log(2)])
    assert_close(mutual_information_gap(information, factors), torch.tensor([0.4, 0.4]) / entropy)
    with pytest.raises(ValueError, match="a gap is between two values of the code, and this one has 1"):
        mutual_information_gap(information[:1], factors)


def test_a_factor_that_does_not_vary_has_no_gap():
    """Whatever rounding leaves of its information, which is 0."""
    factors = torch.stack([torch.zeros(300), torch.arange(300) % 2], -1).long()
    for information in (torch.tensor([[1e-9, 0.6], [0.0, 0.1]]), factor_information(*torch.rand(2, 300, 2), factors)):
        gap = mutual_information_gap(information, factors)
        assert gap[0].isnan() and gap[1].isfinite()


def test_a_factor_that_does_not_vary_is_left_out_of_the_mean():
    data = pp.data.load("shapes", binarise="none")
    square = (data.test.attributes[:, 0] == 0).nonzero()[:200, 0]
    data = dataclasses.replace(data, test=data.test.take(square))
    torch.manual_seed(0)
    pair = pp.create("vae", x_shape=(1024,), z_dim=2, hidden=(4,), likelihood="continuous_bernoulli")
    found = {name: one.value for name, one in evaluate(pair, data, metrics=["factors"], progress=False).items()}
    varying = [f"mutual_information_gap_{name}" for name in FACTORS if name != "shape"]
    assert found.keys() == {"mutual_information_gap", *varying}
    assert found["mutual_information_gap"] == pytest.approx(sum(found[name] for name in varying) / 4)


def test_the_metric():
    """An encoder that reads where the shape is has a gap at its place and none elsewhere."""

    class Place(torch.nn.Module):
        def forward(self, x):
            import pyro.distributions as dist

            x = x.unflatten(-1, (32, 32))
            middle = torch.arange(32) - 15.0
            area = x.sum((-2, -1))
            loc = torch.stack([(x.sum(-2) * middle).sum(-1) / area, (x.sum(-1) * middle).sum(-1) / area], -1)
            return dist.Normal(loc, 0.3).to_event(1)

    data = pp.data.load("shapes")
    pair = pp.create("vae", x_shape=(1024,), z_dim=2, hidden=(4,), encoder=Place())
    found = evaluate(pair, data, metrics=["factors"], progress=False)
    by = {name.removeprefix("mutual_information_gap"): one.value for name, one in found.items()}
    assert by["_horizontal"] > 0.7 and by["_vertical"] > 0.7 and max(by["_shape"], by["_scale"], by["_angle"]) < 0.1
    assert by[""] == pytest.approx(sum(by[f"_{name}"] for name in FACTORS) / 5)
    other = pp.create("vae", x_shape=(64,), z_dim=2, hidden=(4,))
    with pytest.raises(ValueError, match="none of the metrics applies to this pair and its data"):
        evaluate(other, pp.data.load("digits"), metrics=["factors"], progress=False)


def test_the_gap_of_a_large_factor_needs_no_table_of_its_values():
    """Memory for 10^15 counts is not to be had."""
    information = torch.tensor([[math.log(2)], [0.0]])
    factors = torch.tensor([[0], [10**15]])
    assert_close(mutual_information_gap(information, factors), torch.ones(1))
