"""Convert run folders and saved pairs that the first version wrote.

    python scripts/convert_v1.py FOLDER ...    # every run and pair below these folders; what is converted already stays

``config.json``, ``evaluation*.json``, ``start.json`` and each line of ``metrics.jsonl`` get the checksum that reading
them asks for. The tensors of a saved pair get the names that they have now. The script stays until the trainings that
were begun before are in ``results/``.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from safetensors.torch import load

from pyro_priors._records import DIGITS_OF_A_LINE, seal
from pyro_priors.checkpoint import write_atomically
from pyro_priors.run_folder import save_pair

SEALED = ("config.json", "evaluation*.json", "start.json")


def convert(folder: Path) -> int:
    """Seal the files of every run below a folder, and return how many were without a checksum."""
    converted = 0
    for config in folder.rglob("config.json"):
        for file in (file for pattern in SEALED for file in config.parent.glob(pattern)):
            record = json.loads(file.read_bytes())
            if "sha256" not in record:
                write_atomically(file, json.dumps(seal(record), indent=1).encode())
                converted += 1
        history = config.parent / "metrics.jsonl"
        lines = [json.loads(line) for line in history.read_text().splitlines()] if history.exists() else []
        if any("sha256" not in line for line in lines):
            sealed = [line if "sha256" in line else seal(line, DIGITS_OF_A_LINE) for line in lines]
            write_atomically(history, "".join(json.dumps(line) + "\n" for line in sealed).encode())
            converted += 1
    return converted


MIXTURES = {r"^(model\.prior\.network\.trunk)\.(?=first\.|rest\.)": r"\1.mlp."}
NAMES = {
    "cdv_cvae": MIXTURES,
    "cmog_cvae": MIXTURES,
    "cvae": {
        r"^model\.prior\.network\.head\.": "model.prior.head.",
        r"^model\.prior\.network\.trunk\.(?=first\.|rest\.)": "model.prior.network.mlp.",
        r"^model\.prior\.network\.trunk\.": "model.prior.network.",
    },
    "cvamp_cvae": MIXTURES,
    "hvae": {
        r"^model\.prior_z1\.network\.head\.": "model.prior_z1.head.",
        r"^model\.prior_z1\.network\.trunk\.": "model.prior_z1.network.mlp.",
    },
    "sigma_cvae_nf": {
        r"^model\.prior\.couplings\.": "model.prior.networks.",
        r"^model\.prior\.head\.": "model.prior.base.head.",
    },
}
"""Patterns of names of tensors, and what stands for them now, by the name of the pair."""


def convert_pairs(folder: Path) -> int:
    """Rename the tensors of every saved pair below a folder, and return how many had old names."""
    converted = 0
    for file in sorted(folder.rglob("pair.json")):
        record = json.loads(file.read_bytes())
        recipe = record["pair"]
        if recipe is None or recipe["config"].get("flow") == "none":
            continue
        tensors = load((file.parent / record["tensors"]).read_bytes())
        renamed = tensors
        for pattern, now in NAMES.get(recipe["name"], {}).items():
            renamed = {re.sub(pattern, now, name): tensor for name, tensor in renamed.items()}
        if renamed.keys() != tensors.keys():
            save_pair(file.parent, renamed, recipe)
            converted += 1
    return converted


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    for argument in sys.argv[1:]:
        print(f"{argument}: {convert(Path(argument))} files and {convert_pairs(Path(argument))} pairs converted")
