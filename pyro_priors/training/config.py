"""The options of a training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Annotated, Any

import pyro
import torch
from pyro import infer

from .. import zoo
from .._options import MAY_BE_INFINITE, convert_fields, plain
from ..data import DataConfig, Splits
from ..errors import UserError
from ..objectives import ELBO, options_of
from ..pair import Pair

__all__ = ["TrainConfig", "default_options", "run_record"]


SCHEDULES = ("constant", "cosine", "linear")
COMPILE = ("always", "auto", "never")
PSEUDO_INPUTS = ("data", "random")
KEPT = ("best", "last")
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("32-true", "64-true", "bf16-mixed", "bf16-true")


@dataclass(frozen=True)
class TrainConfig:
    """Options of a training."""

    max_epochs: int = 100
    """Maximum number of epochs."""
    batch_size: int = 100
    """Number of data per step, over all processes."""
    learning_rate: float = 5e-4
    """Learning rate of Adam."""
    weight_decay: float = 0.0
    """Decoupled weight decay of all parameters: above 0 the optimizer is AdamW (Loshchilov and Hutter 2019), which
    multiplies each parameter by 1 - learning_rate * weight_decay in each step, whatever its gradient is."""
    schedule: str = "constant"
    """Schedule of the learning rate over the epochs: constant, cosine or linear. The last two decrease towards 0."""
    warmup_epochs: float = 0.0
    """Number of epochs over which the weight of the KL rises linearly to 1."""
    warmup_sites: tuple[str, ...] = ()
    """Latent sites whose KL is warmed up; all of them when empty."""
    frozen: tuple[str, ...] = ()
    """Parts of the pair, such as guide.category, whose parameters are not trained during the first frozen_epochs."""
    frozen_epochs: Annotated[float, MAY_BE_INFINITE] = 0.0
    """Number of epochs, to the step, during which the parameters of the frozen parts do not change. They are trained
    from then on. Buffers, such as the running estimate of an optimal scale, are always updated."""
    patience: int = 0
    """Number of epochs without a better validation bound after which training stops, counted from the end of the
    warm-up and of frozen_epochs. 0 disables early stopping."""
    keep: str = "best"
    """Weights that the pair has after training: best (by the validation bound) or last. Use last if the schedule
    decides when to stop, or if the bound does not measure the objective."""
    clip_norm: Annotated[float, MAY_BE_INFINITE] = 0.0
    """Maximum norm of the gradient of all parameters together. 0 disables clipping."""
    seed: int = 0
    """Seed of data order, binarization and noise."""
    pseudo_inputs: str = "random"
    """Initial pseudo-inputs of a VampPrior: random (as the pair was created) or data (training data drawn with the
    seed, plus a little noise)."""
    checkpoint_seconds: Annotated[float, MAY_BE_INFINITE] = 30.0
    """Seconds between two saves of the resume state."""
    compile: str = "auto"
    """Compile the step: auto, always or never. auto compiles if the training has enough steps to pay for it. If nothing
    can be compiled, auto runs eagerly after a one-line message with the reason, and always raises ValueError."""
    tensorboard: bool = False
    """Write TensorBoard events to the run folder."""
    device: str = "auto"
    """Device: auto, cpu, cuda or mps."""
    num_processes: int = 1
    """Number of processes that share each batch."""
    precision: str = "32-true"
    """Precision, by Lightning Fabric's names: 32-true, 64-true, bf16-mixed or bf16-true. 64-true and bf16-true convert
    the pair. Densities and KL terms are in float32 or wider in all of them. bf16-true refuses data that bfloat16
    rounds. Processors without bfloat16 instructions are slower in bfloat16 than in 32-true. In bfloat16 the gradient of
    a category's posterior, a difference of sums of hundreds of nats, is mostly rounding error while the categories
    differ little."""

    def __post_init__(self) -> None:
        for name, what in (("frozen", "parts"), ("warmup_sites", "latent sites")):
            if isinstance(names := plain(getattr(self, name)), str):
                raise UserError(f"{name} must be a tuple of names of {what}, got '{names}': give ('{names}',)")
        convert_fields(self)
        for name in ("max_epochs", "batch_size", "num_processes"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in (
            "weight_decay",
            "warmup_epochs",
            "frozen_epochs",
            "patience",
            "clip_norm",
            "seed",
            "checkpoint_seconds",
        ):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.seed >= 2**63:  # the largest that torch's generators take
            raise UserError(f"seed must be below 2**63, got {self.seed}")
        if not self.learning_rate > 0:
            raise UserError(f"learning_rate must be above 0, got {self.learning_rate}: 5e-4 is a good start")
        for name, known in (
            ("schedule", SCHEDULES),
            ("device", DEVICES),
            ("precision", PRECISIONS),
            ("compile", COMPILE),
            ("pseudo_inputs", PSEUDO_INPUTS),
            ("keep", KEPT),
        ):
            if getattr(self, name) not in known:
                raise UserError(f"{name} must be one of {', '.join(known)}, got '{getattr(self, name)}'")
        if bool(self.frozen) != bool(self.frozen_epochs):
            raise UserError(
                f"frozen={self.frozen} and frozen_epochs={self.frozen_epochs:g} belong together: give both, or neither"
            )
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError("device is 'cuda', but torch finds no CUDA device here: use auto or cpu")
        if self.device == "mps" and not torch.backends.mps.is_available():
            raise UserError("device is 'mps', but torch finds no Apple GPU here: use auto or cpu")


def run_record(
    pair: Pair,
    data: Splits,
    objective: infer.ELBO,
    config: TrainConfig,
    digest: bool = False,
    optimizer: dict[str, Any] | None = None,
    callbacks: Sequence[Any] = (),
) -> dict[str, Any]:
    """Return the content of ``config.json`` of a run folder.

    :param digest: always include the digest of the data, as for :meth:`Splits.described`
    :param optimizer: class and groups of an optimizer that is not the default one
    :param callbacks: the callbacks, of which the names of the classes are recorded
    """
    from .. import __version__

    return {
        "pair": pair.recipe,
        "data": data.described(digest),
        "objective": options_of(objective),
        "train": dataclasses.asdict(config),
        "versions": {"pyro_priors": __version__, "torch": torch.__version__, "pyro": pyro.__version__},
        **({} if optimizer is None else {"optimizer": optimizer}),
        **({"callbacks": [type(callback).__name__ for callback in callbacks]} if callbacks else {}),
    }


def default_options(pair: dict[str, Any] | None, objective: type[infer.ELBO]) -> dict[str, Any]:
    """Return the default of each option of a pair of the zoo and an objective, in the form of :func:`run_record`.

    :param pair: name and options of the pair, None for one that is not of the zoo
    """

    def of(config_class: type) -> dict[str, Any]:
        fields = dataclasses.fields(config_class)
        return {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}

    parameters = signature(objective).parameters.values() if issubclass(objective, ELBO) else ()
    return {
        "pair": {"config": {} if pair is None else zoo.defaults(pair["name"], pair["config"])},
        "data": {"config": of(DataConfig)},
        "objective": {"config": {p.name: p.default for p in parameters if p.default is not p.empty}},
        "train": of(TrainConfig),
    }
