"""Convert run folders that were written before their files carried checksums.

    python scripts/convert_v1.py FOLDER ...    # every run below these folders; what is converted already stays

``config.json``, ``evaluation*.json``, ``start.json`` and each line of ``metrics.jsonl`` get the checksum that reading
them asks for. The script stays until the trainings that were begun before are in ``results/``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pyro_priors._records import DIGITS_OF_A_LINE, seal
from pyro_priors.checkpoint import write_atomically

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


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    for argument in sys.argv[1:]:
        print(f"{argument}: {convert(Path(argument))} files converted")
