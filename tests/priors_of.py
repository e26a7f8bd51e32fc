"""Every prior in every context at a small size: what the tests of priors go over.

A new prior needs one entry in ``OPTIONS``.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from pyro_priors.nn import (
    MLP,
    BernoulliLikelihood,
    CategoryEncoder,
    ConditionMLP,
    Decoder,
    Encoder,
    GaussianHead,
)
from pyro_priors.priors import CDV, TRANSFORMS, Flow, Gaussian, Mixture, Parts, PriorOptions, Standard, Vamp

NUM_CATEGORIES, CONDITION_SHAPE = 3, (4,)

CONTEXTS: dict[str, Callable[[], tuple[Tensor, ...]]] = {
    "none": lambda: (),
    "category": lambda: (torch.tensor(1),),
    "condition": lambda: (torch.ones(4),),
}
"""Arguments of a prior for a single draw, by context."""

FLOWS: dict[str, PriorOptions] = {name: Flow(name, 3, (7, 8)) for name in TRANSFORMS}
FLOWS_OF_CONTEXT: dict[str, PriorOptions] = {
    f"{name}-seeing": Flow(name, 3, (7, 8), condition_transforms=True) for name in TRANSFORMS
}

OPTIONS: dict[str, PriorOptions] = {
    "standard": Standard(),
    "gaussian": Gaussian(),
    "gaussian-full": Gaussian("full"),
    "mixture": Mixture(4, True),
    "mixture-equal-weights": Mixture(4, False),
    "vamp": Vamp(4),
    "vamp-learnable-weights": Vamp(4, True),
    "cdv": CDV(4),
    "cdv-learnable-weights": CDV(4, True),
    "flow-of-mixture": Flow("affine_coupling", 3, (7, 8), base=Mixture(3)),
    "flow-random": Flow("affine_coupling", 3, (7, 8), permutation="random", actnorm=True),
    **FLOWS,
    **FLOWS_OF_CONTEXT,
}
"""Options of priors, by what they are called in the names of tests."""

CASES = [
    (name, context) for name in OPTIONS for context in CONTEXTS if not (name.endswith("-seeing") and context == "none")
]


def parts_of(context: str, z_dim: int, x_range: tuple[float, float] = (0.0, 1.0), **changes: Any) -> Parts:
    """Parts of a small pair with data of shape ``(3,)``."""
    given: dict[str, Any] = {
        "x_shape": (3,),
        "x_range": x_range,
        "condition_network": partial(ConditionMLP, hidden=(5,)),
    }
    match context:
        case "none":
            given |= {
                "encoder": Encoder((3,), z_dim, (5,)),
                "decoder": Decoder(z_dim, (3,), BernoulliLikelihood(1), (5,)),
            }
        case "category":
            given |= {
                "num_categories": NUM_CATEGORIES,
                "encoder": CategoryEncoder(MLP(3, (5,)), GaussianHead(5, z_dim, NUM_CATEGORIES)),
                "decoder": Decoder(z_dim, (3,), BernoulliLikelihood(1), (5,), num_categories=NUM_CATEGORIES),
                "decoder_context": "c",
            }
        case "condition":
            given |= {
                "condition_shape": CONDITION_SHAPE,
                "encoder": Encoder((3,), z_dim, (5,), condition_shape=CONDITION_SHAPE),
                "decoder": Decoder(z_dim, (3,), BernoulliLikelihood(1), (5,), condition_shape=CONDITION_SHAPE),
                "decoder_context": "condition",
            }
    return Parts(z_dim, **given | changes)


def build(name: str, context: str, z_dim: int, **changes: Any) -> nn.Module:
    """The prior of that name, made of the parts of that context."""
    return OPTIONS[name].build(parts_of(context, z_dim, **changes))
