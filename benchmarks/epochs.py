"""Epochs and peak memory, ours and Pythae 0.1.2: same networks, batch and data, each with its own loop and Adam.

Pythae's FactorVAE reconstructs half of each batch and permutes the codes of the other half; ours does both with all.
Each has its own default discriminator.

Each contestant trains in a process of its own, and all of them epoch by epoch in turn; the first epoch, in which ours
compiles with an empty cache, is reported apart. An epoch ends when the next could begin: ours validates 100 images and
both keep their best weights, and the last one with the end of the training. Beside them stand our compiled steps alone,
in a plain loop. The data are 20,000 binary images of MNIST's size, noise, as time does not depend on what they show.
Pythae binarises nothing anew; ours is timed with dynamic binarisation too.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .timing import summary

SIZE, BATCH = 20_000, 100
PEERS = Path(sys.prefix) / "peers"
NAMES: dict[str, tuple[dict[str, Any], str, int]] = {
    "VAE": ({}, "ELBO", 10),
    "VAMP": ({"prior": "vamp", "num_components": 500}, "ELBO", 6),
    "beta-TC": ({}, "TotalCorrelation", 6),
    "Factor": ({}, "Factor", 4),
}
"""Options of our pair, and its objective, both with their defaults else; epochs, of which the first is apart."""
OURS, STEPS, PEER = "ours, compiled", "its compiled steps alone", "Pythae"
CONTESTANTS = (OURS, "ours, eager", "ours, compiled, dynamic binarisation", STEPS, PEER)


class Clock:
    """What a contestant shows of its epochs."""

    began: float | None = None

    def next_epoch(self) -> None:
        """Write the seconds of the epoch that ends here, and wait for the next turn."""
        self.end()
        print("ready", flush=True)
        if not sys.stdin.readline():
            sys.exit("the benchmark has ended")
        self.began = time.perf_counter()

    def end(self) -> None:
        if self.began is not None:
            print(f"epoch {time.perf_counter() - self.began}", flush=True)


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


def train_ours(name: str, contestant: str, clock: Clock) -> None:
    import dataclasses

    import torch

    import pyro_priors as pp
    from pyro_priors.training.loop import Training

    x = data()
    splits = pp.data.from_arrays(x_train=x, x_valid=x[:100], x_test=x[:100])
    if "dynamic" in contestant:
        splits = dataclasses.replace(splits, binarise=True)
    torch.manual_seed(0)
    options, objective_name, num_epochs = NAMES[name]
    pair = pp.create("vae", x_shape=(784,), z_dim=40, **options)
    objective = getattr(pp.objectives, objective_name)()
    if contestant == STEPS:
        objective.begin(SIZE, seed=0)
        loss = pp.compiled(pair, objective)
        optimizer = torch.optim.Adam(pair.parameters(), lr=5e-4, fused=True)
        for _ in range(num_epochs):
            clock.next_epoch()
            for start in range(0, SIZE, BATCH):
                loss.outputs(x[start : start + BATCH], None, 1.0, backward=True)
                optimizer.step()
                objective.end_step()
        return
    train_epoch = Training.train_epoch

    def in_turn(training: Training) -> None:
        clock.next_epoch()
        train_epoch(training)

    Training.train_epoch = in_turn  # type: ignore[method-assign]
    how = "never" if "eager" in contestant else "always"
    pp.fit(pair, splits, objective, max_epochs=num_epochs, batch_size=BATCH, compile=how, progress=False)


def train_pythae(name: str, clock: Clock) -> None:
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

    class Turns(TrainingCallback):
        def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
            clock.next_epoch()

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
    kind, config_of = (
        (AdversarialTrainer, AdversarialTrainerConfig) if name == "Factor" else (BaseTrainer, BaseTrainerConfig)
    )
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(
            output_dir=folder, num_epochs=NAMES[name][2], per_device_train_batch_size=BATCH, learning_rate=5e-4
        )
        data_set = BaseDataset(x, x[:, 0])
        kind(model=model, train_dataset=data_set, training_config=config, callbacks=[Turns()]).train()


class Contestant:
    """A process that trains, one epoch at a time."""

    def __init__(self, name: str, who: str) -> None:
        command, pipe = [sys.executable, "-m", "benchmarks.epochs", name, who], subprocess.PIPE
        self.cache = tempfile.TemporaryDirectory()
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        own_cache = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": self.cache.name}
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self.errors, text=True, env=own_cache)
        self.answer("ready")

    def answer(self, *words: str) -> str:
        """The next line that begins with one of the words."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(words):
                return line
        self.errors.seek(0)
        raise RuntimeError(f"{self.process.args} ended: {self.errors.read()[-2000:]}")

    def epoch(self) -> float:
        """Its seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        seconds = float(self.answer("epoch").split()[1])
        self.last = self.answer("ready", "peak")
        return seconds

    def peak(self) -> float:
        """The most memory that it has held, in MiB, after its last epoch."""
        return float(self.last.split()[1])

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.cache.cleanup()
        self.errors.close()


def run() -> tuple[dict[str, Any], str]:
    results: dict[str, Any] = {}
    text = []
    for name, (_, _, num_epochs) in NAMES.items():
        contestants = {who: Contestant(name, who) for who in CONTESTANTS}
        try:
            first = {who: one.epoch() for who, one in contestants.items()}
            seconds: dict[str, list[float]] = {who: [] for who in CONTESTANTS}
            for _ in range(num_epochs - 1):
                for who, one in contestants.items():
                    seconds[who].append(one.epoch())
            peaks = {who: one.peak() for who, one in contestants.items()}
        finally:
            for one in contestants.values():
                one.end()
        found = summary(seconds, OURS)
        over = statistics.median(o / s for o, s in zip(seconds[OURS], seconds[STEPS], strict=True))
        results[name] = {who: one | {"first": first[who], "peak_mib": peaks[who]} for who, one in found.items()}
        results[name]["epoch over its steps"] = over
        lines = [
            f"### An epoch of {name}: {SIZE:,} images, batches of {BATCH}, {num_epochs - 1} epochs of each in turn",
            "",
            f"| | seconds | times {OURS} (quartiles) | first epoch, seconds | peak memory, MiB |",
            "|---|---|---|---|---|",
        ]
        for who, one in found.items():
            ratio = f"{one['ratio']:.2f} ({one['ratio_low']:.2f} to {one['ratio_high']:.2f})"
            lines.append(f"| {who} | {one['ms'] / 1e3:.2f} | {ratio} | {first[who]:.2f} | {peaks[who]:.0f} |")
        lines += ["", f"Our epoch takes {over:.2f} times its compiled steps alone."]
        text.append("\n".join(lines))
    return results, "\n\n".join(text)


if __name__ == "__main__":
    pair_name, contestant_name = sys.argv[1:]
    shown = Clock()
    if contestant_name == PEER:
        train_pythae(pair_name, shown)
    else:
        train_ours(pair_name, contestant_name, shown)
    shown.end()
    print(f"peak {peak()}", flush=True)
