"""Epochs and peak memory, ours and Pythae 0.1.2: same networks, batch and data, each with its own loop and Adam.

Pythae's FactorVAE reconstructs half of each batch and permutes the codes of the other half; ours does both with all.
Each has its own default discriminator.

Each contestant trains in a process of its own, in turn; the first epoch, in which ours compiles, is reported apart.
The data are 20,000 binary images of MNIST's size, noise, as time does not depend on what they show. Pythae binarises
nothing anew; ours is timed with dynamic binarisation too.
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SIZE, BATCH, EPOCHS = 20_000, 100, 4
PEERS = Path(sys.prefix) / "peers"
NAMES: dict[str, tuple[dict[str, Any], str]] = {
    "VAE": ({}, "ELBO"),
    "VAMP": ({"prior": "vamp", "num_components": 500}, "ELBO"),
    "beta-TC": ({}, "TotalCorrelation"),
    "Factor": ({}, "Factor"),
}
"""Options of our pair, and its objective; both with their defaults else."""
CONTESTANTS = ("ours, compiled", "ours, eager", "ours, compiled, dynamic binarisation", "Pythae")


def peak() -> float:
    """Most memory that this process has held, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss of a child begins at its parent's
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def data() -> Any:
    import torch

    torch.manual_seed(0)
    return (torch.rand(SIZE, 784) < 0.13).float()


def train_ours(name: str, contestant: str) -> dict[str, Any]:
    import dataclasses

    import torch

    import pyro_priors as pp

    x = data()
    splits = pp.data.from_arrays(x_train=x, x_valid=x[:100], x_test=x[:100])
    if "dynamic" in contestant:
        splits = dataclasses.replace(splits, binarise=True)
    torch.manual_seed(0)
    options, objective_name = NAMES[name]
    pair = pp.create("vae", x_shape=(784,), z_dim=40, **options)
    objective = getattr(pp.objectives, objective_name)()
    how = "never" if "eager" in contestant else "always"
    history = pp.fit(pair, splits, objective, max_epochs=EPOCHS, batch_size=BATCH, compile=how, progress=False)
    seconds = [record["seconds"] for record in history.epochs]
    found = {"seconds": seconds, "peak": peak()}
    if contestant == "ours, compiled":
        # the steps alone: what an epoch would take if it did nothing else
        objective.begin(SIZE, seed=0)
        loss = pp.compiled(pair, objective)
        optimizer = torch.optim.Adam(pair.parameters(), lr=5e-4, fused=True)
        for _ in range(2):  # the second one counts
            began = time.perf_counter()
            for start in range(0, SIZE, BATCH):
                optimizer.zero_grad()
                loss(x[start : start + BATCH]).backward()
                optimizer.step()
                objective.end_step()
            found["steps"] = time.perf_counter() - began
    return found


def train_pythae(name: str) -> dict[str, Any]:
    sys.path.insert(0, str(PEERS))
    import torch.nn as nn
    from pythae.data.datasets import BaseDataset
    from pythae.models import (
        VAE,
        VAMP,
        BetaTCVAE,
        BetaTCVAEConfig,
        FactorVAE,
        FactorVAEConfig,
        VAEConfig,
        VAMPConfig,
    )
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import AdversarialTrainer, AdversarialTrainerConfig, BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import TrainingCallback

    from .by_hand import HIDDEN, X_DIM, Z_DIM, two_layers

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(two_layers(X_DIM), nn.Linear(HIDDEN, 2 * Z_DIM))

        def forward(self, x: Any) -> Any:
            loc, log_variance = self.layers(x.flatten(1)).chunk(2, -1)
            return ModelOutput(embedding=loc, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(two_layers(Z_DIM), nn.Linear(HIDDEN, X_DIM), nn.Sigmoid())

        def forward(self, z: Any) -> Any:
            return ModelOutput(reconstruction=self.layers(z))

    class Clock(TrainingCallback):
        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
            self.began = time.perf_counter()

        def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
            self.seconds.append(time.perf_counter() - self.began)

    x = data()
    options = {"input_dim": (X_DIM,), "latent_dim": Z_DIM, "reconstruction_loss": "bce"}
    if name == "VAMP":
        model = VAMP(VAMPConfig(**options, number_components=500), Encoder(), Decoder())
    elif name == "beta-TC":
        model = BetaTCVAE(BetaTCVAEConfig(**options, beta=6.0, use_mss=True), Encoder(), Decoder())
    elif name == "Factor":
        model = FactorVAE(FactorVAEConfig(**options, gamma=6.4), Encoder(), Decoder())
    else:
        model = VAE(VAEConfig(**options), Encoder(), Decoder())
    clock = Clock()
    kind, config_of = (
        (AdversarialTrainer, AdversarialTrainerConfig) if name == "Factor" else (BaseTrainer, BaseTrainerConfig)
    )
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(output_dir=folder, num_epochs=EPOCHS, per_device_train_batch_size=BATCH, learning_rate=5e-4)
        data_set = BaseDataset(x, x[:, 0])
        kind(model=model, train_dataset=data_set, training_config=config, callbacks=[clock]).train()
    return {"seconds": clock.seconds, "peak": peak()}


def run(rounds: int = 2) -> tuple[dict[str, Any], str]:
    results: dict[str, Any] = {}
    text = []
    for name in NAMES:
        found: dict[str, list[dict[str, Any]]] = {}
        for _ in range(rounds):
            for contestant in CONTESTANTS:
                command = [sys.executable, "-m", "benchmarks.epochs", name, contestant]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found.setdefault(contestant, []).append(json.loads(done.stdout.splitlines()[-1]))
        ours = [statistics.median(one["seconds"][1:]) for one in found["ours, compiled"]]
        lines = [
            f"### An epoch of {name}: {SIZE:,} images, batches of {BATCH}",
            "",
            "| | seconds | times ours, compiled | first epoch, seconds | peak memory, MiB |",
            "|---|---|---|---|---|",
        ]
        results[name] = {}
        for contestant, values in found.items():
            seconds = [statistics.median(one["seconds"][1:]) for one in values]
            one = {
                "seconds": statistics.median(seconds),
                "ratio": statistics.median(s / o for s, o in zip(seconds, ours, strict=True)),
                "first": statistics.median(one["seconds"][0] for one in values),
                "peak_mib": statistics.median(one["peak"] for one in values),
            }
            results[name][contestant] = one
            row = [one["seconds"], one["ratio"], one["first"]]
            lines.append(f"| {contestant} | {' | '.join(f'{v:.2f}' for v in row)} | {one['peak_mib']:.0f} |")
        steps = [one["steps"] for one in found["ours, compiled"]]
        over = statistics.median(o / s for o, s in zip(ours, steps, strict=True))
        results[name]["epoch over its steps"] = over
        lines += ["", f"Our epoch takes {over:.2f} times its compiled steps alone."]
        text.append("\n".join(lines))
    return results, "\n\n".join(text)


if __name__ == "__main__":
    pair_name, who = sys.argv[1:]
    print(json.dumps(train_pythae(pair_name) if who == "Pythae" else train_ours(pair_name, who)))
