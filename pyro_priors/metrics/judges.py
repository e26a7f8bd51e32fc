"""Networks that judge what is generated: trained once on real data, and kept on disk with how they were trained."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from .. import checkpoint
from ..progress import progress_bar

__all__ = ["JudgeConfig", "digest_of", "kept", "train_judge"]

DIGESTED = 1000


@dataclass(frozen=True)
class JudgeConfig:
    """How a network that judges is trained.

    :param seed: seed of weights, batches and whatever else is drawn
    :param max_epochs: epochs at most
    :param patience: epochs without a better validation loss after which it stops
    :param batch_size: size of a batch
    :param learning_rate: of Adam, which falls to 0 along a cosine
    """

    seed: int = 0
    max_epochs: int = 20
    patience: int = 5
    batch_size: int = 128
    learning_rate: float = 1e-3


def digest_of(*values: Any) -> str:
    """Checksum of the first rows of some tensors."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(value[:DIGESTED].contiguous().numpy().tobytes())
    return digest.hexdigest()


def kept(
    network: nn.Module,
    folder: Path,
    name: str,
    trained_by: dict[str, Any],
    train: Callable[[], dict[str, Any]],
) -> None:
    """Fill a network with the weights that a folder keeps, or train it and keep them there.

    :param network: on its device
    :param name: stem of the files
    :param trained_by: what the weights depend on; has to be the same
    :param train: trains the network, and returns what else the record is to hold
    :raises ValueError: if the folder keeps a network of other data or trained in another way
    """
    if not (folder / f"{name}.json").exists():
        found = train()
        checkpoint.write(folder, name, checkpoint.module_state(network), {**trained_by, **found})
        return
    state, record = checkpoint.read(folder, name)
    for key, value in trained_by.items():
        if record.get(key) != value:
            raise ValueError(
                f"folder {folder} holds a {name} whose {key} is {record.get(key)}, asked for is {value}: give another "
                "folder, or delete this one"
            )
    checkpoint.load_module_state(network, state, str(folder))


def train_judge(
    network: nn.Module,
    num_data: int,
    batch_loss: Callable[[Tensor], Tensor],
    valid_loss: Callable[[], float],
    config: JudgeConfig,
    name: str,
    progress: bool,
) -> list[float]:
    """Train, leave the weights of the smallest validation loss in the network, and return that loss by epoch.

    :param batch_loss: of rows of the training part, the network in training mode
    :param valid_loss: of the validation part; sets the mode that it needs
    :param name: what the bar in a terminal says
    """
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.max_epochs)
    losses: list[float] = []
    best: dict[str, Tensor] = {}
    with progress_bar(config.max_epochs * num_data, name, progress) as bar:
        for _ in range(config.max_epochs):
            network.train()
            for rows in torch.randperm(num_data).split(config.batch_size):
                if len(rows) == 1:  # batch statistics need two
                    continue
                optimizer.zero_grad()
                batch_loss(rows).backward()
                optimizer.step()
                bar.update(len(rows))
            schedule.step()
            losses.append(valid_loss())
            if losses[-1] == min(losses):
                best = copy.deepcopy(network.state_dict())
            elif len(losses) - losses.index(min(losses)) > config.patience:
                break
    network.load_state_dict(best)
    return losses
