"""Other versions of torch and Pyro, and a damaged cache: what is missing is named, and everything runs eagerly."""

import ast
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

import pyro_priors as pp
import runs
from compiling import compiled_loss
from pairs import batch, create, randomise
from pyro_priors.cli.main import main
from pyro_priors.tracing import function
from pyro_priors.training import loop

pytestmark = pytest.mark.usefixtures("float64")


INTERNALS = [
    "torch.fx.experimental.proxy_tensor",
    "torch.fx.experimental.symbolic_shapes",
    "torch._guards",
    "torch._inductor",
    "torch._subclasses.fake_tensor",
    "torch.utils._pytree",
]
"""Modules of torch that it may move from one version to the next."""


IMPORT = f"""
import sys, warnings
import torch, pyro, torchvision  # which import what they like
sys.modules |= dict.fromkeys({INTERNALS})
import pyro_priors as pp
pair = pp.create("cp_vae", x_shape=(4,), num_categories=3, z_dim=2, hidden=(5,))
x = torch.ones(6, 4)
pair.elbo.differentiable_loss(pair.model, pair.guide, x).backward()
assert all(parameter.grad.isfinite().all() for parameter in pair.guide.parameters())
assert pair.log_prob(x, num_samples=3).isfinite().all() and pair.sample(5)["x"].shape == (5, 4)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    pp.compiled(pair)(x).backward()
(line,) = [str(warning.message) for warning in said]
assert line.startswith("running eagerly, not compiled: ") and "proxy_tensor" in line, line
"""


def test_the_package_does_without_torchs_internals():
    """They are imported where a graph is made."""
    result = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


PRIVATE = re.compile(r"torch\b(?!\.types|\.ops).*\.(_(?!_)|experimental\b)")
"""Private or experimental modules of torch, and what is in them. Types for annotations and operators are in neither."""


def torch_names(nodes):
    """Yield what is imported, and each dotted name that begins with ``torch``."""
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Attribute) and re.match(r"torch\.[\w.]+$", ast.unparse(node)):
            yield ast.unparse(node)


def test_one_file_reaches_into_torchs_internals():
    """``tracing/inductor.py``, and it imports them where it uses them, never at its top."""
    assert list(filter(PRIVATE.match, ["torch.nn", "torch._guards", "torch.fx.experimental"])) == [
        "torch._guards",
        "torch.fx.experimental",
    ]
    reaching = {}
    for file in [Path(pp.__file__), Path(pp.models.__file__), Path(pp.guides.__file__)]:
        for path in file.parent.rglob("*.py"):
            tree = ast.parse(path.read_text())
            assert not list(filter(PRIVATE.match, torch_names(tree.body))), path
            if found := list(filter(PRIVATE.match, torch_names(ast.walk(tree)))):
                reaching[path] = found
    assert [path.name for path in reaching] == ["inductor.py"], reaching


MISSING = [
    *[("module", name) for name in INTERNALS[:4]],
    ("attribute", "torch.fx.experimental.proxy_tensor.make_fx"),
    ("attribute", "torch._guards.TracingContext"),
    ("attribute", "torch._inductor.compile"),
    ("attribute", "torch.fx.experimental.symbolic_shapes.ShapeEnv"),
    ("attribute", "pyro.poutine.runtime._PYRO_STACK"),
]


OPTIONS = {"progress": False, "batch_size": 32, "learning_rate": 1e-2, "max_epochs": 3, "warmup_epochs": 2, "seed": 7}


@pytest.fixture(scope="module")
def digits():
    return runs.small_data(size=90)


@pytest.mark.parametrize(("kind", "name"), MISSING, ids=[name for _, name in MISSING])
def test_what_is_missing_is_told_in_one_line(digits, monkeypatch, capsys, kind, name):
    """auto goes on eagerly after one line, always ends with one, and both name what is missing."""
    monkeypatch.setattr(loop, "STEPS_THAT_PAY", 0)
    pairs = [runs.small_pair("vae", digits) for _ in range(3)]
    pp.fit(pairs[0], digits, compile="never", **OPTIONS)
    if kind == "module":
        monkeypatch.setitem(sys.modules, name, None)
    elif name.startswith("pyro"):  # a version that keeps its handlers elsewhere has no such name; this one needs it
        monkeypatch.setattr(function, "runtime", types.SimpleNamespace())
    else:
        monkeypatch.delattr(name)
    cause = "handlers" if name.startswith("pyro") else name.rpartition(".")[2]
    pp.fit(pairs[1], digits, **OPTIONS | {"progress": True})
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "not compiled" in line]
    assert line.startswith("running eagerly, not compiled: ") and cause in line
    assert runs.same_bits(runs.state(pairs[0]), runs.state(pairs[1]))
    with pytest.raises(ValueError, match=f"compile is 'always', but torch .* cannot compile this: .*{cause}") as caught:
        pp.fit(pairs[2], digits, compile="always", **OPTIONS)
    assert "\n" not in str(caught.value)


def test_always_names_the_cause_on_the_command_line(monkeypatch, tmp_path, capsys):
    monkeypatch.delattr("torch._inductor.compile")
    torch.set_default_dtype(torch.float32)
    arguments = ["train", "vae", "--data", "digits", "--data.limit", "100", "--train.compile", "always", "--quiet"]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(
        r"pyro-priors: error: compile is 'always', but torch .* cannot compile this: .*compile.*\n", error
    )


def test_log_likelihood_that_is_always_compiled_names_the_cause(monkeypatch):
    monkeypatch.delattr("torch._inductor.compile")
    pair, args = randomise(create("vae")), batch("vae", 13)
    with pytest.raises(ValueError, match="compile is 'always', but torch .* cannot compile this: .*'compile'"):
        pair.log_prob(*args, num_samples=7, compile="always")
    monkeypatch.setattr("pyro_priors.log_probability.ROWS_THAT_PAY", 0)
    with pytest.warns(pp.EagerWarning, match="running eagerly, not compiled: .*'compile'"):
        assert pair.log_prob(*args, num_samples=7).isfinite().all()


def test_machine_code_cut_short_is_made_anew(monkeypatch, tmp_path):
    """What killed processes leave in inductor's cache: each file goes, and the graph is compiled again."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    files, calls = [tmp_path / "some.main.so", tmp_path / "other.main.so"], []

    def machine_code(graph, inputs):
        left = [file for file in files if file.exists()]
        calls.append(len(left))
        if left:
            raise ImportError(f"{left[0]}: file too short")
        return graph

    monkeypatch.setattr("pyro_priors.tracing.inductor._machine_code", machine_code)
    for file in files:
        file.touch()
    pair, args = randomise(create("vae")), batch("vae")
    compiled_loss(pp.compiled(pair), args)
    assert calls == [2, 1, 0]


def test_machine_code_that_comes_back_cut_short_is_given_up(monkeypatch, tmp_path):
    """As on a full disk: the pair runs eagerly, and says why."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    calls = []

    def machine_code(graph, inputs):
        calls.append(graph)
        raise ImportError(f"{tmp_path}/some.main.so: file too short")

    monkeypatch.setattr("pyro_priors.tracing.inductor._machine_code", machine_code)
    pair, args = randomise(create("vae")), batch("vae")
    with pytest.warns(pp.EagerWarning, match="file too short"):
        compiled_loss(pp.compiled(pair), args)
    assert len(calls) == 2


FIRST_CALL = """
import warnings
import torch
import pyro_priors as pp
warnings.simplefilter("error", pp.EagerWarning)
pair = pp.create("vae", x_shape=(6,), z_dim=2, hidden=(7,))
pp.compiled(pair)(torch.ones(5, 6)).backward()
from torch._dynamo.utils import counters
print(counters["inductor"]["fxgraph_cache_hit"])
"""


@pytest.mark.slow
def test_the_next_process_finds_what_was_compiled(tmp_path):
    """Inductor's cache of whole graphs is in use, which it leaves out without a word where it dislikes a graph.

    It is not in use before torch 2.8; the second process compiles there too.
    """
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", FIRST_CALL]
    hits = [subprocess.run(command, env=environment, check=True, capture_output=True).stdout for _ in range(2)]
    assert [int(hit) for hit in hits] == [0, int(torch.__version__ >= "2.8")]
