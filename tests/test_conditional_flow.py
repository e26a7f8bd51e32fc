"""The flow prior given a condition: a density with the determinant it says, whose samples follow it; its networks."""

import copy
from functools import partial

import pyro.distributions as dist
import pytest
import torch
import torch.nn as nn
from torch.testing import assert_close

from pyro_priors.nn import CONDITION_NETWORKS, AttributeConv, ConditionMLP, make_condition_network
from pyro_priors.priors import TRANSFORMS, Flow, Parts

KINDS = {
    **{name: {"transform": name} for name in TRANSFORMS},
    **{f"{name}-seeing": {"transform": name, "condition_transforms": True} for name in TRANSFORMS},
    "conv": {"transform": "joint_affine_coupling", "condition_transforms": True},
}
each_flow = pytest.mark.parametrize("kind", KINDS)
CONDITION = (2, 4)


def parts(kind, z_dim):
    network = partial(make_condition_network, "conv" if kind == "conv" else "mlp")
    hidden = {} if kind == "conv" else {"hidden": (7, 4)}
    return Parts(z_dim, condition_shape=CONDITION, condition_network=partial(network, **hidden))


def flow_prior(kind, z_dim=2, num_transforms=3, spread=0.3):
    """A prior far from the identity and from N(0, I): every parameter drawn anew."""
    torch.manual_seed(1)
    options = Flow(num_transforms=num_transforms, hidden_features=(6, 7), **KINDS[kind])
    prior = options.build(parts(kind, z_dim))
    for parameter in prior.parameters():
        nn.init.normal_(parameter, 0, spread)
    return prior


def to_base(prior, condition, z):
    return prior.to_base(z, condition)


@pytest.mark.parametrize("num_transforms", [1, 2, 5])
@pytest.mark.parametrize("z_dim", [2, 3, 6])
@each_flow
def test_log_density_is_the_gaussian_s_and_autograd_s_determinant(float64, kind, z_dim, num_transforms):
    """Equation 12, point by point, with the determinant of the whole Jacobian of f; f's inverse undoes it."""
    prior = flow_prior(kind, z_dim, num_transforms)
    condition, z = torch.randn(4, *CONDITION), torch.randn(4, z_dim)
    p = prior(condition)
    base = p.base_dist.base_dist
    for i in range(4):
        jacobian = torch.autograd.functional.jacobian(lambda v, i=i: to_base(prior, condition[i], v), z[i])
        g = to_base(prior, condition[i], z[i])
        gaussian = dist.Normal(base.loc[i], base.scale[i]).to_event(1).log_prob(g)
        assert_close(p.log_prob(z)[i], gaussian + jacobian.det().abs().log(), rtol=1e-10, atol=1e-12)
        if kind.startswith("additive_coupling"):
            assert_close(jacobian.det().abs(), torch.ones(()))
        assert_close(prior.from_base(g, condition[i]), z[i], rtol=1e-7, atol=1e-7)


@each_flow
def test_samples_are_the_gaussian_s_through_the_inverse(float64, kind):
    """f of a sample is loc + scale * epsilon, of the noise that the same seed gives: the inverse that the paper's
    recipe for samples lacks."""
    prior, condition = flow_prior(kind, 5), torch.randn(3, *CONDITION)
    p = prior(condition)
    torch.manual_seed(4)
    z = p.sample((7,))
    torch.manual_seed(4)
    g = p.base_dist.sample((7,))
    assert z.shape == (7, 3, 5)
    assert_close(to_base(prior, condition, z), g, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(z, g, atol=0.1)
    assert_close(p.log_prob(z), prior(condition).log_prob(z))  # also of the draw that its transforms remember


@each_flow
def test_a_new_flow_is_near_its_gaussian(float64, kind):
    condition, z = torch.randn(6, *CONDITION), torch.randn(6, 3)
    fresh = Flow(**KINDS[kind]).build(parts(kind, 3))
    assert_close(to_base(fresh, condition, z), z, rtol=0, atol=0.3)


@each_flow
def test_transforms_see_the_condition_only_where_they_are_told_to(float64, kind):
    prior, z = flow_prior(kind, 4), torch.randn(4)
    one, other = (to_base(prior, condition, z) for condition in torch.randn(2, *CONDITION))
    sees = "condition_transforms" in KINDS[kind]
    assert torch.equal(one, other) != sees


@each_flow
def test_every_parameter_has_a_gradient_and_a_copy_is_independent(kind):
    prior, condition = flow_prior(kind, 4), torch.randn(8, *CONDITION)
    twin = copy.deepcopy(prior)
    prior(condition).log_prob(torch.randn(8, 4)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in prior.parameters())
    assert all(parameter.grad is None for parameter in twin.parameters())
    copy.deepcopy(prior)  # also after a backward pass


@each_flow
def test_the_density_of_its_own_draw_has_a_gradient(kind):
    """There the transforms recall how they made the draw, which had none."""
    prior = flow_prior(kind, 4)
    p = prior(torch.randn(64, *CONDITION))
    log_prob = p.log_prob(p.sample())
    assert all(value.any() for value in torch.autograd.grad(log_prob.sum(), list(prior.parameters())))


def test_errors_name_the_remedy():
    with pytest.raises(ValueError, match="a flow needs z_dim of at least 2, got 1: use prior='mixture'"):
        Flow().build(parts("affine_coupling", 1))
    with pytest.raises(ValueError, match="condition_network 'cnov' is unknown: did you mean 'conv'"):
        make_condition_network("cnov", CONDITION)
    with pytest.raises(ValueError, match="condition_network 'xyz' is unknown: choose one of conv, mlp"):
        make_condition_network("xyz", CONDITION)
    with pytest.raises(ValueError, match=r"hidden=\(7,\) belongs to condition_network='mlp', got 'conv': leave it out"):
        make_condition_network("conv", CONDITION, (7,))


@pytest.mark.parametrize("name", CONDITION_NETWORKS)
@pytest.mark.parametrize("shape", [(40,), (10,), (3,), (2, 3)], ids=str)
def test_condition_networks_give_the_features_that_they_name(name, shape):
    network = make_condition_network(name, shape, *[(7, 5)] * (name == "mlp"))
    condition = torch.randn(2, 3, *shape)
    features = network(condition)
    assert features.shape == (2, 3, network.out_dim)
    assert_close(network(condition[1, 2]), features[1, 2])


def test_attribute_conv_equals_its_formula(float64):
    """Two convolutions of kernel 3 and step 2, written out as sums."""
    network, condition = AttributeConv((5,), (2, 3)), torch.randn(5)

    def convolved(values, layer):
        padded = nn.functional.pad(values, (1, 1))
        places = range(0, values.shape[1], 2)
        rows = [(layer.weight * padded[:, i : i + 3]).sum((1, 2)) + layer.bias for i in places]
        return torch.stack(rows, 1).clamp(min=0)

    expected = convolved(convolved(condition[None], network.first), network.second)
    assert_close(network(condition), expected.flatten())
    assert type(make_condition_network("mlp", (5,))) is ConditionMLP
