"""Convert run folders, saved pairs and results that the first version wrote.

    python scripts/convert_v1.py FOLDER ...              # every run and pair below; what is converted already stays
    python scripts/convert_v1.py --results FROM TO       # every run below FROM/PAPER into TO/PAPER/runs.jsonl

``config.json``, ``evaluation*.json``, ``start.json`` and each line of ``metrics.jsonl`` get the checksum that reading
them asks for. The tensors of a saved pair get the names that they have now. With ``--results`` nothing below FROM is
changed: its runs become lines, without their weights, and their pictures strips of ``FIGURE-pictures.png``; rows that
are only in a table, ``FROM/PAPER/*.json``, become lines without curves. The script stays until the trainings that were
begun before are in ``results/``.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load

from pyro_priors import experiments
from pyro_priors._records import DIGITS_OF_A_LINE, seal
from pyro_priors.checkpoint import write_atomically
from pyro_priors.experiments import pictures
from pyro_priors.experiments.evaluation import asked_of
from pyro_priors.experiments.kept import OF_TABLES, KeptRuns, record_of
from pyro_priors.experiments.runner import options_of_row
from pyro_priors.run_folder import RunFolder, save_pair

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


WEIGHTS = ("pair", "last", "judges", "figures")
"""Folders of a run that are left out of the results."""

ROWS = {"mnist-cp-10-released": "mnist-cp-10-reference"}
"""Names of rows that were renamed."""


def convert_results(source: Path, to: Path, trained_there: bool = False) -> int:
    """Bring the runs below a folder into the compact form, and return how many.

    :param source: has a folder for each paper, with a run folder for each row
    :param to: has a folder for each paper, with ``runs.jsonl`` and the pictures of rows; what is there stays, but for
        the runs that are brought
    :param trained_there: only the runs whose weights are there, and that are evaluated: the others were copied
    """
    brought = 0
    for paper in sorted(path for path in source.iterdir() if path.is_dir()):
        records = []
        for run in sorted(path.parent for path in paper.rglob("config.json")):
            if trained_there and not ((run / "pair" / "pair.json").exists() and (run / "evaluation.json").exists()):
                continue
            with tempfile.TemporaryDirectory() as temporary:
                copied = Path(temporary) / run.name
                shutil.copytree(run, copied, ignore=shutil.ignore_patterns(*WEIGHTS, ".*"))
                convert(copied)
                name = run.name if run != paper else paper.name
                folder = RunFolder(copied)
                record = record_of(ROWS.get(name, name), folder, folder.evaluation(**OF_TABLES))
            if trained_there and record["evaluation"] is None:
                continue
            records.append(record)
            for file in run.glob("fig*.png"):
                if (kept := _pictures_in(file)) is not None:
                    images, weights = kept
                    (to / paper.name).mkdir(parents=True, exist_ok=True)
                    pictures.save(images, to / paper.name / f"{file.stem}-pictures.png", record["name"], weights)
        for file in paper.glob("*-pictures.png"):
            for record in records:
                weights = (record["evaluation"] or {}).get("weights")
                if (images := pictures.load(file, record["name"], weights)) is not None:
                    (to / paper.name).mkdir(parents=True, exist_ok=True)
                    pictures.save(images, to / paper.name / file.name, record["name"], weights)
        there = {record["name"] for record in records} | set(KeptRuns(to / paper.name).names())
        records += [] if trained_there else [one for one in _only_in_tables(paper) if one["name"] not in there]
        if records:
            KeptRuns(to / paper.name).add(records)
            brought += len(records)
    return brought


def _pictures_in(file: Path) -> tuple[Mapping[str, torch.Tensor], str] | None:
    """Return the pictures of a row and the checksum of their weights, from a file of its own."""
    from PIL import Image

    with Image.open(file, formats=["PNG"]) as image:
        if "pictures" not in image.info:
            return None
        known = json.loads(image.info["pictures"])
        if "rows" in known:
            return None
        labels, num = known["labels"], known["num"]
        levels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        size = (len(labels), image.height // len(labels), num, image.width // num)
    images = levels.reshape(*size, -1).permute(0, 2, 4, 1, 3) / 255
    return dict(zip(labels, images, strict=True)), known["weights"]


def _only_in_tables(paper: Path) -> list[dict[str, Any]]:
    """Return lines of the rows of a paper's tables, ``*.json``; curves are not in them."""
    quick = paper.name.endswith("-quick")
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(paper.glob("*.json")):
        table = json.loads(file.read_text())
        if table.get("experiment") not in experiments.names():
            continue
        sources = _sources(file.with_suffix(".md"))
        experiment = experiments.find(table["experiment"])
        rows = {row.name: row for row in experiment.rows}
        for old in table["rows"]:
            if (row := rows.get(old["name"])) is None or not (old["metrics"] or old["status"].startswith("not fin")):
                continue
            config = dataclasses.replace(row.quick if quick else row.train, precision=old["precision"])
            given = json.loads(json.dumps(dataclasses.asdict(config) | {"precision": old["train"]["precision"]}))
            if differ := {name for name, value in given.items() if old["train"].get(name, value) != value}:
                raise ValueError(f"{file}: the row {row.name} was trained with other {', '.join(sorted(differ))}")
            options = json.loads(json.dumps(options_of_row(row, config)))
            options["pair"] |= {"own_networks": []}
            line = {
                "name": row.name,
                "config": options,
                "evaluation": None,
                "epochs": old["epochs"] or int(old["status"].rpartition(" ")[2]) + 1,
                "seconds_per_epoch": old["seconds_per_epoch"],
                "curve": {},
            }
            if old["metrics"]:
                categories = old["evaluation"].get("categories")
                line["evaluation"] = old["evaluation"] | {
                    "data": sources[row.of or row.name],
                    "asked": asked_of(row, experiment),
                    "metrics": old["metrics"],
                    **({} if categories is None else {"categories": categories}),
                }
            if (before := found.setdefault(row.name, line)) is not line and old["metrics"]:
                known = before["evaluation"]
                known["metrics"] |= old["metrics"]  # of the same weights, so that the same names have the same numbers
                known["asked"] = list(dict.fromkeys([*known["asked"], *line["evaluation"]["asked"]]))
                known |= {key: value for key, value in line["evaluation"].items() if known.get(key) is None}
    return [*found.values()]


def _sources(table: Path) -> dict[str, str]:
    """Return what the notes below a table say of the data of each row."""
    text = table.read_text()
    notes = dict(re.findall(r"^(\d+)\. data: (.*)$", text, re.MULTILINE))
    lines = [line.split("|") for line in text.splitlines() if line.startswith("| ")]
    numbers = {line[1].strip(): line[-2].split() for line in lines}
    return {name: "".join(notes.get(number, "") for number in of) for name, of in numbers.items()}


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] == "--results":
        print(f"{convert_results(Path(sys.argv[2]), Path(sys.argv[3]))} runs brought into {sys.argv[3]}")
        sys.exit()
    if len(sys.argv) < 2 or sys.argv[1].startswith("--"):
        sys.exit(__doc__)
    for argument in sys.argv[1:]:
        print(f"{argument}: {convert(Path(argument))} files and {convert_pairs(Path(argument))} pairs converted")
