"""Measures of representations: information, correlation and labels read from codes, on codes that are known."""

import math

import pytest
import torch

import pyro_priors as pp
from pyro_priors import metrics
from pyro_priors.data import Part, Splits


def test_information_and_correlation_of_codes_are_known():
    """Two clusters of data, each at a code of its own, far apart along the diagonal: log 2 nats of information, and as
    many of total correlation, as one value of the code gives the other away."""

    class Encoder(torch.nn.Module):
        def forward(self, x):
            import pyro.distributions as dist

            return dist.Normal(torch.where(x > 0, 5.0, -5.0)[:, :1].expand(-1, 2), 0.5).to_event(1)

    x = torch.ones(400, 2)
    x[200:] = -1
    data = pp.data.from_arrays(x, x, x, likelihood="gaussian")
    pair = pp.create("vae", x_shape=(2,), z_dim=2, hidden=(4,), encoder=Encoder(), likelihood="gaussian")
    found = metrics.information(pair, data)
    assert found["information"].value == pytest.approx(math.log(2), abs=1e-4)
    assert found["total_correlation"].value == pytest.approx(math.log(2), abs=1e-4)


class _Affine(torch.nn.Module):
    """Codes that are an affine map of the data, with next to no noise."""

    def __init__(self, matrix, scale=1e-3):
        super().__init__()
        self.matrix, self.scale = matrix, scale

    def forward(self, x):
        import pyro.distributions as dist

        return dist.Normal(x @ self.matrix.T, self.scale).to_event(1)


def _of_codes(matrix, label=None):
    x = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    part = Part(x, label=(x[:, 0] > 0).long() if label is None else label(x))
    options = {"encoder": _Affine(torch.tensor(matrix)), "likelihood": "gaussian"}
    pair = pp.create("vae", x_shape=(2,), z_dim=2, hidden=(4,), **options)
    return pair, Splits("made", part, part, part, "gaussian", num_labels=2)


def test_gaussian_correlation_is_that_of_the_codes():
    """-log(1 - rho^2) / 2 for two codes of correlation rho, whatever their scales."""
    for matrix, rho in (
        ([[1.0, 0.0], [0.0, 7.0]], 0.0),
        ([[1.0, 0.0], [0.8, 0.6]], 0.8),
        ([[3.0, 0.0], [-6, 8]], -0.6),
    ):
        found = metrics.gaussian_correlation(*_of_codes(matrix))["gaussian_correlation"]
        assert found.value == pytest.approx(-math.log(1 - rho**2) / 2, abs=0.03) and found.unit == "nats"


def test_whitened_neighbours_do_not_see_an_affine_map():
    """A label that a narrow direction of the code tells: lost to Euclidean neighbours, not to these."""
    shares = [
        (metrics.neighbours_label_whitened(*made), metrics.neighbours_label(*made))
        for made in (_of_codes([[1.0, 0.0], [0.0, 1.0]]), _of_codes([[0.001, 0.0], [3.0, 50.0]]))
    ]
    (whitened, plain), (moved, lost) = [tuple(one.popitem()[1].value for one in both) for both in shares]
    assert whitened > 0.95 and plain > 0.95 and moved == pytest.approx(whitened, abs=0.01) and lost < 0.8


def test_a_linear_probe_reads_what_codes_tell():
    """Codes that are the data: a label that is the side of a line, and attributes of which one is told and one is
    drawn."""
    x = torch.randn(600, 2, generator=torch.Generator().manual_seed(0))
    told = (x.sum(1) > 0).long()
    drawn = torch.rand(600, generator=torch.Generator().manual_seed(1)) < 0.3

    class Encoder(torch.nn.Module):
        def forward(self, x):
            import pyro.distributions as dist

            return dist.Normal(x, 0.1).to_event(1)

    pair = pp.create("vae", x_shape=(2,), z_dim=2, hidden=(4,), encoder=Encoder(), likelihood="gaussian")
    part = Part(x, label=told)
    data = Splits("made", part, part, part, "gaussian", num_labels=2)
    assert metrics.linear_probe(pair, data)["linear_probe"].value > 0.98
    part = Part(x, attributes=torch.stack([told, drawn], 1).float())
    data = Splits("made", part, part, part, "gaussian", attribute_names=("told", "drawn"))
    assert 0.7 < metrics.linear_probe(pair, data)["linear_probe"].value < 0.82
