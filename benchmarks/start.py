"""Time to begin: imports, and the first loss and gradient, eager, compiled cold and with inductor's cache on disk."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

IMPORTS = {"import pyro": "import pyro", "import pyro_priors": "import pyro_priors"}

FIRST_STEP = """
import time
began = time.perf_counter()
import torch
import pyro_priors as pp
imported = time.perf_counter()
pair = pp.create("{name}", x_shape=(784,), z_dim=40)
loss = {loss}
loss((torch.rand(100, 784) < 0.3).float()).backward()
print(imported - began, time.perf_counter() - imported)
"""
EAGER, COMPILED = "pair.elbo(pair.model, pair.guide)", "pp.compiled(pair)"


def seconds_of(code: str, **environment: str) -> tuple[float, list[float]]:
    """Seconds of a new process, and the numbers that it prints."""
    began = time.perf_counter()
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | environment)
    return time.perf_counter() - began, [float(word) for word in done.stdout.split()]


def run(rounds: int = 7) -> tuple[dict[str, Any], str]:
    found: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(rounds):
        for name, code in IMPORTS.items():
            found[name].append(seconds_of(code)[0])
    ratios = [o / t for o, t in zip(found["import pyro_priors"], found["import pyro"], strict=True)]
    results: dict[str, Any] = {name: statistics.median(values) for name, values in found.items()}
    results["import, ratio"] = statistics.median(ratios)
    lines = [
        "### Time to begin",
        "",
        f"`import pyro_priors` takes {results['import, ratio']:.2f} times `import pyro` "
        f"({results['import pyro_priors']:.2f} and {results['import pyro']:.2f} s, process included).",
        "",
        "| first loss and gradient after the import, seconds | eager | compiled, cold | compiled, cache on disk |",
        "|---|---|---|---|",
    ]
    for name in ("vae", "cp_vae"):
        values: dict[str, list[float]] = {"eager": [], "cold": [], "cached": []}
        for _ in range(3):
            values["eager"].append(seconds_of(FIRST_STEP.format(name=name, loss=EAGER))[1][1])
            with tempfile.TemporaryDirectory() as cache:
                for how in ("cold", "cached"):
                    code = FIRST_STEP.format(name=name, loss=COMPILED)
                    values[how].append(seconds_of(code, TORCHINDUCTOR_CACHE_DIR=cache)[1][1])
        one = {how: statistics.median(seconds) for how, seconds in values.items()}
        results[f"first step, {name}"] = one
        lines.append(f"| `{name}` | {one['eager']:.2f} | {one['cold']:.2f} | {one['cached']:.2f} |")
    return results, "\n".join(lines)
