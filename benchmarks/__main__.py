"""Run the benchmarks, print their tables and write them to ``results/benchmarks``.

python -m benchmarks [steps breakdown epochs likelihood encoding categories growth start quality precision]
python -m benchmarks [stability compilers]
"""

import json
import platform
import sys
import warnings
from importlib import import_module
from pathlib import Path

import torch

NAMES = (
    "steps",
    "breakdown",
    "epochs",
    "likelihood",
    "encoding",
    "categories",
    "growth",
    "start",
    "quality",
    "precision",
)
ON_REQUEST = ("stability", "compilers")  # of runs that are there; a question that is answered
OUT = Path(__file__).parents[1] / "results" / "benchmarks"


def machine() -> dict[str, str | int]:
    """What the numbers depend on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {"cpu": cpu, "threads": torch.get_num_threads(), "torch": torch.__version__}


def main(names: list[str]) -> None:
    warnings.filterwarnings("ignore", module="torch")
    OUT.mkdir(parents=True, exist_ok=True)
    for name in names or NAMES:
        if name not in NAMES + ON_REQUEST:
            sys.exit(f"benchmark '{name}' is unknown: choose from {', '.join(NAMES + ON_REQUEST)}")
        results, text = import_module(f"benchmarks.{name}").run()
        print(text, "\n", flush=True)
        (OUT / f"{name}.json").write_text(json.dumps({"machine": machine(), "results": results}, indent=1) + "\n")
        (OUT / f"{name}.md").write_text(text + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
