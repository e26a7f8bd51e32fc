"""``make demo``: train CP-VAE, evaluate it, and draw its figures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from .cli.main import main

__all__ = ["demo"]


# 1,297 images of 64 pixels: a small code and small batches
OPTIONS = {"digits": ["--z-dim", "2", "--train.batch-size", "32", "--train.learning-rate", "2e-3"]}


def demo(data: str = "digits") -> int:
    """Train ``cp_vae`` on a data set, evaluate it and draw its figures in ``runs/demo-DATA``.

    A run that is there already goes on where it stopped, and is not trained again when it is complete: delete the
    folder to begin anew.

    :param data: ``"digits"`` needs no download; any other name of :func:`pyro_priors.data.names` works too
    :returns: exit status
    """
    out = Path("runs") / f"demo-{data}"
    resume = ["--resume"] if (out / "config.json").exists() else []
    commands: list[Sequence[str]] = [
        ["train", "cp_vae", "--data", data, "--out", str(out), *OPTIONS.get(data, []), *resume],
        ["evaluate", str(out)],
        ["plot", str(out)],
    ]
    for command in commands:
        print(f"\n$ pyro-priors {' '.join(command)}", flush=True)
        if status := main(command):
            return status
    print(f"\nLook at {out / 'figures' / 'categories.png'}: one row of digits for each category.")
    return 0


if __name__ == "__main__":
    sys.exit(demo(*sys.argv[1:]))
