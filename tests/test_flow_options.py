"""Flow priors with random permutations and actnorm, and flows of zuko."""

import math
import subprocess
import sys

import pytest
import torch
import torch.nn as nn
from torch.testing import assert_close

import pyro_priors as pp
from pyro_priors.priors import FlowPrior, StandardPrior
from pyro_priors.priors.flow import TRANSFORMS as FLOWS
from pyro_priors.priors.zuko_flows import CUT_OFF
from pyro_priors.priors.zuko_flows import FLOWS as ZUKO_FLOWS
from pyro_priors.testing import check_draws

OPTIONS = {"random": {"permutation": "random"}, "actnorm": {"actnorm": True}}
OPTIONS["both"] = OPTIONS["random"] | OPTIONS["actnorm"]


def _assert_change_of_variables(prior, z, tolerance=1e-8):
    jacobian = torch.stack([torch.autograd.functional.jacobian(prior.to_base, point) for point in z])
    z_0 = prior.to_base(z)
    expected = StandardPrior(z.shape[-1])().log_prob(z_0) + torch.linalg.slogdet(jacobian).logabsdet
    assert_close(prior().log_prob(z), expected, rtol=tolerance, atol=tolerance)
    assert_close(prior.from_base(z_0), z, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("flow", FLOWS)
def test_density_is_the_change_of_variables(float64, flow, options):
    torch.manual_seed(0)
    prior = FlowPrior(5, flow, 4, (7, 8), **OPTIONS[options])
    for parameter in prior.parameters():
        nn.init.normal_(parameter, 0, 0.3)
    _assert_change_of_variables(prior, 2 * torch.randn(10, 5))
    prior().rsample((4,)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in prior.parameters())


def test_random_orders_are_saved_and_differ():
    torch.manual_seed(0)
    prior, other = (FlowPrior(6, num_transforms=5, permutation="random") for _ in range(2))
    orders = [tuple(network.order.tolist()) for network in prior.orders]
    assert len(orders) == 4 and len(set(orders)) > 1 and all(sorted(order) == list(range(6)) for order in orders)
    z = torch.randn(3, 6)
    other.load_state_dict(prior.state_dict())
    assert_close(other().log_prob(z), prior().log_prob(z), rtol=0, atol=0)


@pytest.mark.parametrize(("z_dim", "num_transforms"), [(2, 2), (5, 2), (64, 2), (64, 6)])
def test_random_orders_leave_no_value_untouched(z_dim, num_transforms):
    """Every value of z depends on its own of the base in another way than by the identity: some coupling moves it."""
    torch.manual_seed(0)
    for _ in range(5):
        prior = FlowPrior(z_dim, num_transforms=num_transforms, permutation="random")
        for parameter in prior.parameters():
            nn.init.normal_(parameter, 0, 0.5)
        kept, moved = torch.arange(z_dim), torch.zeros(z_dim, dtype=torch.bool)
        for i in range(num_transforms):
            moved[kept[z_dim // 2 :]] = True
            kept = kept[prior.orders[i].order] if i < len(prior.orders) else kept
        assert moved.all()
        z_0 = torch.randn(z_dim)
        z = prior.from_base(z_0)
        assert not (z.sort().values[:, None] == z_0).any(), "a value comes out as it went in"


def test_actnorm_by_hand(float64):
    """With couplings at the identity: a Gaussian with the product of the scales."""
    prior = FlowPrior(2, num_transforms=2, actnorm=True)
    for network in prior.networks:
        for parameter in network.parameters():
            nn.init.zeros_(parameter)
    with torch.no_grad():
        prior.norms[0].log_scale.copy_(torch.tensor([0.3, -0.2]))
        prior.norms[0].loc.copy_(torch.tensor([1.0, 2.0]))
        prior.norms[1].log_scale.copy_(torch.tensor([0.1, 0.5]))  # after the reversal
    scale = torch.tensor([0.3 + 0.5, -0.2 + 0.1]).exp()
    loc = torch.tensor([1.0 * math.exp(0.5), 2.0 * math.exp(0.1)])
    z = torch.randn(7, 2)
    assert_close(prior().log_prob(z), torch.distributions.Normal(loc, scale).log_prob(z).sum(-1))


@pytest.mark.parametrize("name", ["vae", "hvae"])
def test_pairs_take_the_options(name, tmp_path):
    options = {"permutation": "random", "actnorm": True, "transform": "spline_coupling", "num_transforms": 3}
    pair = pp.create(name, x_shape=(6,), z_dim=4, hidden=(5,), prior="flow", hidden_features=(8,), **options)
    pair.save(tmp_path)
    z = torch.randn(3, 4)
    assert_close(pp.load(tmp_path).model.prior().log_prob(z), pair.model.prior().log_prob(z), rtol=0, atol=0)


def test_errors():
    def refuses(message, **options):
        with pytest.raises(ValueError, match=message) as caught:
            pp.create("vae", **{"x_shape": (6,), "prior": "flow"} | options)
        assert "\n" not in str(caught.value)

    refuses("permutation must be one of random, reverse, got 'shuffle'", permutation="shuffle")
    refuses(r"actnorm=True belongs to prior='flow', got prior='mixture'", prior="mixture", actnorm=True)
    refuses(r"flow 'zuko.NFS' is unknown: did you mean 'zuko.NSF'\?", transform="zuko.NFS")
    refuses(r"transform 'zuko.NSF' is zuko's as a whole: leave perm", transform="zuko.NSF", actnorm=True)
    refuses(r"transform 'qqqq' is unknown: choose one of .*, zuko.NAME", transform="qqqq")


# zuko


def test_without_zuko(monkeypatch):
    monkeypatch.setitem(sys.modules, "zuko", None)
    with pytest.raises(ValueError, match=r"flow 'zuko.NAME' needs the package zuko: pip install pyro-priors\[flows\]"):
        FlowPrior(2, "zuko.NSF")


@pytest.mark.parametrize("flow", ZUKO_FLOWS)
def test_zuko_s_flows_are_changes_of_variables(float64, flow):
    """Those inverted by bisection to its precision."""
    pytest.importorskip("zuko")
    torch.manual_seed(0)
    prior = FlowPrior(3, f"zuko.{flow}", 2, (8, 8))
    _assert_change_of_variables(prior, 0.7 * torch.randn(5, 3), 1e-5)


@pytest.mark.parametrize(
    "flow", [pytest.param(flow, marks=[pytest.mark.slow] if flow == "BPF" else []) for flow in ZUKO_FLOWS]
)
def test_draws_of_zuko_s_flows_follow_their_density(float64, flow):
    """Far out too: the draws of some flows that zuko inverts by bisection end at 10, and those are refused."""
    pytest.importorskip("zuko")
    torch.manual_seed(0)
    prior = FlowPrior(2, f"zuko.{flow}", 2, (8, 8))
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
        p = prior()
        check_draws(p, p.sample((20_000,)))
        far = 30 * torch.randn(50, 2)
        assert_close(prior.from_base(prior.to_base(far)), far, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("flow", CUT_OFF)
def test_flows_of_zuko_whose_draws_are_cut_off_are_refused(flow):
    with pytest.raises(ValueError, match=rf"flow 'zuko.{flow}' cannot be sampled beyond -10 and 10, .*: choose one of"):
        FlowPrior(2, f"zuko.{flow}")


def test_a_pair_with_a_flow_of_zuko_trains_and_is_saved(tmp_path):
    pytest.importorskip("zuko")
    data = pp.data.load("moons", limit=200)
    torch.manual_seed(0)
    options = {"prior": "flow", "transform": "zuko.NSF", "num_transforms": 2, "hidden_features": (16,)}
    pair = pp.create("vae", x_shape=(2,), z_dim=2, hidden=(20,), likelihood="gaussian", **options)
    before = {name: value.clone() for name, value in pair.model.prior.named_parameters()}
    history = pp.fit(pair, data, max_epochs=10, batch_size=50, learning_rate=1e-2, progress=False, compile="never")
    assert history.epochs[-1]["valid_bound"] > history.epochs[0]["valid_bound"]
    assert any(not torch.equal(value, before[name]) for name, value in pair.model.prior.named_parameters())
    pair.save(tmp_path)
    x, found = data.test.x[:5], []
    for one in (pair, pp.load(tmp_path)):
        torch.manual_seed(1)
        found.append(one.log_prob(x, num_samples=5))
    assert_close(*found)
    assert pair.sample(3, z0=torch.zeros(2))["z"].shape == (3, 2)


def test_validation_stays_as_it_was():
    """Importing zuko turns it off for all; in a process of its own, since it is imported once."""
    pytest.importorskip("zuko")
    code = (
        "import torch, pyro_priors as pp\n"
        "for flag in (True, False):\n"
        "    torch.distributions.Distribution.set_default_validate_args(flag)\n"
        "    pp.priors.FlowPrior(2, 'zuko.NSF')\n"
        "    assert torch.distributions.Distribution._validate_args is flag\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
