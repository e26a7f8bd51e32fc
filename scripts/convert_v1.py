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
from typing import Any

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
            pair = record.get("pair") if file.name == "config.json" else None
            is_flat = isinstance(pair, dict) and not isinstance(pair["config"].get("networks"), dict)
            if is_flat:
                record["pair"] = pair | converted_pair(pair["name"], pair["config"])
            if is_flat or "sha256" not in record:
                content = {key: value for key, value in record.items() if key != "sha256"}
                write_atomically(file, json.dumps(seal(content), indent=1).encode())
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
    "cp_vae": {r"^guide\.trunk\.1\.": "guide.trunk.mlp."},
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


def converted_pair(name: str, old: dict[str, Any]) -> dict[str, Any]:
    """Name and options of a pair as they are now, from those of the first version."""
    return {"name": "cp_vae_reference" if old.get("released_code") else name, "config": options_of(name, old)}


def options_of(name: str, old: dict[str, Any]) -> dict[str, Any]:
    """The options of a pair as they are now, from the flat ones of the first version."""
    default = {
        "gated": True, "hidden": [300, 300], "likelihood": "bernoulli", "networks": "mlp", "channels": [],
        "upsampling": "auto", "normalisation": "auto", "prior": "standard", "num_components": 500, "num_transforms": 6,
        "flow": "affine_coupling", "flow_hidden": [64, 64], "permutation": "reverse", "actnorm": False,
        "condition_network": "mlp", "condition_hidden": [300, 300], "couplings_see_condition": False,
        "calibration": "optimal" if name.startswith("sigma") else None, "trained_weights": None,
    }  # fmt: skip
    get = (default | old).get
    networks = {"name": get("networks"), "hidden": get("hidden"), "gated": get("gated")}
    if get("networks") == "conv":
        networks |= {key: get(key) for key in ("channels", "upsampling", "normalisation")}
    likelihood: dict[str, Any] = {"name": get("likelihood")}
    if get("calibration") is not None:
        scale = {"learned_by_channel": "per_channel", "fixed": get("scale") or 1.0}.get(
            get("calibration"), get("calibration")
        )
        likelihood = {"name": "gaussian", "scale": scale, "init_scale": get("start_scale")}
    elif get("likelihood") == "gaussian":
        scale = "learned" if get("scale") is None else get("scale")
        likelihood |= {"scale": scale, "init_scale": get("start_scale")}
    flow = {"name": "flow", "num_transforms": get("num_transforms"), "hidden_features": get("flow_hidden")}
    new = {"x_shape": get("x_shape"), "z_dim": get("z_dim"), "likelihood": likelihood, "networks": networks}
    prior: dict[str, Any] = {"name": get("prior")}
    match name:
        case "cdv_cvae" | "cmog_cvae" | "cvamp_cvae":
            kind = {"cdv_cvae": "cdv", "cmog_cvae": "mixture", "cvamp_cvae": "vamp"}[name]
            prior = {
                "name": kind,
                "num_components": get("num_components"),
                "learnable_weights": bool(get("trained_weights")),
            }
        case "cvae" | "cp_vae":
            prior = {"name": "gaussian"}
        case "sigma_cvae_nf" if get("flow") == "none":
            prior = {"name": "gaussian"}
        case "sigma_cvae_nf":
            transform = {"additive": "additive_coupling", "affine": "joint_affine_coupling"}[get("flow")]
            prior = {**flow, "transform": transform, "condition_transforms": get("couplings_see_condition")}
        case _ if get("prior") == "flow":
            prior = {**flow, "transform": get("flow"), "permutation": get("permutation"), "actnorm": get("actnorm")}
        case _ if get("prior") in ("mixture", "vamp"):
            learnable = get("trained_weights") if get("prior") == "mixture" else bool(get("trained_weights"))
            prior |= {"num_components": get("num_components"), "learnable_weights": learnable}
    if old.get("released_code"):
        return new | {"num_categories": get("num_categories")}
    new["prior"] = prior
    if name == "hvae":
        new |= {"z1_dim": get("z1_dim"), "prior_z1": {"name": "gaussian"}}
    if name == "cp_vae":
        new |= {key: get(key) for key in ("num_categories", "category", "own_category_network") if key in old}
        if get("category", "enumerated") != "enumerated":
            new["num_enumerated"] = None if get("num_enumerated") == 10 else get("num_enumerated")
    if "condition_shape" in old:
        new["condition_shape"] = get("condition_shape")
        if name == "sigma_cvae":
            new["condition_prior"] = False
        else:
            new["condition_decoder"] = get("decoder_sees_condition", name in ("cvae", "sigma_cvae_nf"))
    if name == "sigma_cvae_nf":
        new["condition_network"] = "auto" if get("condition_network") == "mlp" else "conv"
        new["condition_hidden"] = [] if list(get("condition_hidden")) == [300, 300] else get("condition_hidden")
    return new


def convert_pairs(folder: Path) -> int:
    """Rename the tensors and options of every saved pair below a folder, and return how many had old names."""
    converted = 0
    for file in sorted(folder.rglob("pair.json")):
        record = json.loads(file.read_bytes())
        recipe = record["pair"]
        if recipe is None or isinstance(recipe["config"].get("networks"), dict):
            continue
        tensors = load((file.parent / record["tensors"]).read_bytes())
        patterns = {} if recipe["config"].get("flow") == "none" else NAMES.get(recipe["name"], {})
        for pattern, now in patterns.items():
            tensors = {re.sub(pattern, now, name): tensor for name, tensor in tensors.items()}
        save_pair(file.parent, tensors, recipe | converted_pair(recipe["name"], recipe["config"]))
        converted += 1
    return converted


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    for argument in sys.argv[1:]:
        print(f"{argument}: {convert(Path(argument))} files and {convert_pairs(Path(argument))} pairs converted")
