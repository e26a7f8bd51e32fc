"""Networks that judge what is generated: trained once on real data, and kept on disk with how they were trained."""

from __future__ import annotations

import copy
import hashlib
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from .. import _files, checkpoint, module_state
from .._cache import cache_folder, cached, ensure_compiled_folder
from .._options import convert_fields
from ..data import Levels, Splits
from ..data.splits import add_values
from ..errors import UserError, hint
from ..progress import progress_bar

__all__ = [
    "Judge",
    "JudgeConfig",
    "calibrate",
    "check_rows",
    "digest_of",
    "judge_config",
    "kept",
    "train_judge",
    "weights_of",
]


@dataclass(frozen=True)
class JudgeConfig:
    """How a network that judges is trained.

    :param seed: seed of weights, batches and whatever else is drawn
    :param max_epochs: epochs at most
    :param patience: epochs without a better validation loss after which it stops
    :param batch_size: size of a batch, at least 2
    :param learning_rate: of Adam, which falls to 0 along a cosine
    :raises ValueError: if a value is of the wrong type or out of range
    """

    seed: int = 0
    max_epochs: int = 20
    patience: int = 5
    batch_size: int = 128
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        convert_fields(self)
        for name, least in (("seed", 0), ("max_epochs", 1), ("patience", 0), ("batch_size", 2)):
            if getattr(self, name) < least:
                raise UserError(f"{name} must be an integer of at least {least}, got {getattr(self, name)!r}")
        if not self.learning_rate > 0:
            raise UserError(f"learning_rate must be above 0, got {self.learning_rate}: 1e-3 is a good start")


def judge_config(name: str, options: Mapping[str, Any]) -> JudgeConfig:
    """:class:`JudgeConfig` from keywords; ValueError with a near name for an unknown one.

    :param name: of the network, for the message
    """
    known = [field.name for field in fields(JudgeConfig)]
    for option in options:
        if option not in known:
            raise UserError(f"{name} has no option '{option}': {hint(option, known)}")
    return JudgeConfig(**options)


class Judge(nn.Module):
    """What networks that judge have in common: images that they take, and a temperature that divides their logits.

    :param image_shape: (channels, height, width)
    :param temperature_shape: one temperature for each value of this shape
    :param device: where the temperature is made
    :param dtype: its type
    """

    temperature: Tensor

    def __init__(
        self,
        image_shape: Sequence[int],
        temperature_shape: Sequence[int] = (),
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if len(image_shape) != 3:
            raise UserError(f"image_shape must be (channels, height, width), got {tuple(image_shape)}")
        self.image_shape = tuple(image_shape)
        self.register_buffer("temperature", torch.ones(tuple(temperature_shape), device=device, dtype=dtype))

    def images(self, x: Tensor) -> Tensor:
        """Images in one row each, flattened or not, as the network takes them, on its device."""
        return x.reshape(-1, *self.image_shape).to(self.temperature)


def calibrate(network: Judge, logits: Tensor, loss: Callable[[Tensor], Tensor]) -> None:
    """Set the temperature to the one of the smallest loss (Guo et al. 2017).

    :param logits: of validation data, the temperature being 1, on the CPU
    :param loss: of such logits in double precision, a mean
    """
    logits = logits.double()
    log_temperature = logits.new_zeros(network.temperature.shape, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(logits / log_temperature.exp())
        value.backward()
        return value

    optimizer.step(closure)
    network.temperature.copy_(log_temperature.detach().exp())


def check_rows(data: Splits) -> None:
    """Refuse data that no network can be trained on: batch statistics need two examples.

    :raises ValueError: if the training part has fewer
    """
    if len(data.train) < 2:
        raise UserError(f"the training part of {data.name} must have at least 2 examples, got {len(data.train)}")


def digest_of(*values: Any) -> str:
    """Return a checksum of all values of some tensors, whatever the shape of their rows.

    :param values: tensors, or :class:`~pyro_priors.data.Levels`
    """
    digest = hashlib.sha256()
    for value in values:
        tensor = value.levels if isinstance(value, Levels) else value
        digest.update(f"{len(tensor)} {tensor.dtype}".encode())
        add_values(digest, tensor)
    return digest.hexdigest()


def weights_of(network: nn.Module) -> str:
    """Checksum of a network's weights: judges of one number judged by one and the same."""
    values = [value.detach().cpu().contiguous().numpy().tobytes() for value in network.state_dict().values()]
    return hashlib.sha256(b"".join(values)).hexdigest()[:8]


def kept(
    network: nn.Module,
    folder: Path,
    name: str,
    trained_by: dict[str, Any],
    train: Callable[[], dict[str, Any]],
) -> None:
    """Fill a network with the weights that a folder keeps, or train it and keep them there.

    Of several processes that need it one trains, and the others wait. Weights that are damaged are replaced, after a
    warning; where they cannot be written, a warning says so and the network is trained all the same.

    :param network: on its device
    :param name: stem of the files
    :param trained_by: what the weights depend on; has to be the same
    :param train: trains the network, and returns what else the record is to hold
    :raises ValueError: if the folder keeps a network of other data or trained in another way, or if it cannot be made
        and is not of the cache
    """
    if cache_folder() not in folder.absolute().parents:  # the user's choice, which they can change
        _files.make_folder(folder)

    def read() -> bool | None:
        if not (folder / f"{name}.json").exists():
            return None
        state, record = checkpoint.read(folder, name)
        for key, value in trained_by.items():
            if record.get(key) != value:
                raise UserError(
                    f"folder {folder} holds a {name} whose {key} is {record.get(key)}, asked for is {value}: give "
                    "another folder, or delete this one"
                )
        module_state.load_module_state(network, state, str(folder))
        with suppress(OSError):
            os.utime(folder / f"{name}.json")  # the last use
        return True

    def train_and_write() -> bool:
        found = train()
        try:
            own = cache_folder() in folder.absolute().parents
            checkpoint.write(folder, name, module_state.tensors_of(network), {**trained_by, **found}, in_cache=own)
        except OSError as error:
            warnings.warn(
                f"the {name} is not cached, because {folder} cannot be written ({error.strerror or error}): it will be "
                "trained again",
                RuntimeWarning,
                stacklevel=2,
            )
        return True

    cached(folder, f"the {name}", read, train_and_write, lambda: bool(train()))


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
    :raises ValueError: if a loss is NaN or infinite
    """
    ensure_compiled_folder()  # which optimizers need
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.max_epochs)
    losses: list[float] = []
    best: dict[str, Tensor] = {}
    with progress_bar(config.max_epochs * num_data, name, progress) as bar:
        for _ in range(config.max_epochs):
            network.train()
            for rows in torch.randperm(num_data, device="cpu").split(config.batch_size):
                if len(rows) == 1:  # batch statistics need two
                    continue
                optimizer.zero_grad()
                loss = batch_loss(rows)
                _stop_unless_finite(loss.item(), "training", name, config)
                loss.backward()
                optimizer.step()
                bar.update(len(rows))
            schedule.step()
            losses.append(valid_loss())
            _stop_unless_finite(losses[-1], "validation", name, config)
            if losses[-1] == min(losses):
                best = copy.deepcopy(network.state_dict())
            elif len(losses) - losses.index(min(losses)) > config.patience:
                break
    network.load_state_dict(best)
    return losses


def _stop_unless_finite(loss: float, which: str, name: str, config: JudgeConfig) -> None:
    if not math.isfinite(loss):
        raise UserError(
            f"the {which} loss of the {name} became {loss} at learning_rate={config.learning_rate}: lower it, or look "
            "for NaN in the data"
        )
