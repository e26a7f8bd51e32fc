"""What every test starts from: an empty parameter store, one seed, float32, validation on."""

import pyro
import pytest
import torch

from pyro_priors.tracing import inductor


@pytest.fixture(autouse=True)
def clean_slate():
    """The same state before every test, and nothing of it left behind."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    torch.set_default_dtype(torch.float32)
    with pyro.validation_enabled(True):
        yield
    torch.set_default_dtype(torch.float32)
    pyro.clear_param_store()


@pytest.fixture
def float64(clean_slate):
    """Default dtype float64, for comparisons to rounding error; float32 again afterwards."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def traced(monkeypatch):
    """Traced and run as traced, without the seconds that inductor takes; the list grows with each graph."""
    graphs = []

    def run_as_traced(graph, inputs):
        graphs.append(graph)
        return graph

    monkeypatch.setattr(inductor, "compile_graph", run_as_traced)
    return graphs
