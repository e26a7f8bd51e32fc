"""Every registered pair at a small size, and batches for it.

A new pair needs one entry in ``SMALL``; test_pairs.py then runs its whole body over it, and says so while it
is missing.
"""

import dataclasses
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_priors import zoo
from pyro_priors.nn import LIKELIHOODS
from pyro_priors.pair import Pair
from pyro_priors.priors import CDV, Flow, Gaussian, Mixture, Standard, Vamp
from pyro_priors.priors.flow import TRANSFORMS as FLOWS

# all sizes differ, so that exchanged axes show
SIZES: dict[str, Any] = {"x_shape": (6,), "z_dim": 2, "hidden": (7, 4)}
BATCH = 5
NUM_CATEGORIES = 3
FLOW = {"num_transforms": 3, "hidden_features": (11, 12)}

SMALL: dict[str, dict[str, Any]] = {
    "cdv_cvae": {"condition_shape": (8,), "num_components": 9},
    "cmog_cvae": {"condition_shape": (8,), "num_components": 9},
    "cp_vae": {"num_categories": NUM_CATEGORIES},
    "cp_vae_reference": {"num_categories": NUM_CATEGORIES},
    "cvae": {"condition_shape": (8,)},
    "cvamp_cvae": {"condition_shape": (8,), "num_components": 9},
    "hvae": {"z1_dim": 3},
    "sigma_cvae": {"condition_shape": (8,)},
    "sigma_cvae_nf": {"condition_shape": (8,), **FLOW, "condition_hidden": (7, 9)},
    "sigma_vae": {},
    "vae": {},
}
"""Options of each pair beside SIZES."""

SMALL_PRIORS: dict[str, dict[str, Any]] = {
    "flow": FLOW,
    "mixture": {"num_components": 9},
    "vamp": {"num_components": 9},
    "cdv": {"num_components": 9},
}
"""Options of each prior that has some."""

LATENT: dict[str, dict[str, int]] = {"hvae": {"z2": 2, "z1": 3}}
"""Continuous latent sites, in the guide's order, and their sizes, where they are not z alone."""

MIXTURES_GIVEN_A_CONDITION = ("cdv_cvae", "cmog_cvae", "cvamp_cvae")
"""Pairs whose prior is a mixture that depends on the condition."""

CALIBRATED = ("sigma_cvae", "sigma_cvae_nf", "sigma_vae")
"""Pairs whose likelihood is a Gaussian with an optimal scale."""

UNCONDITIONAL = ("flow", "gaussian", "mixture", "standard", "vamp")
"""Priors that are tested with every pair that takes them without a context."""

NAMES = [name for name in zoo.names() if name in SMALL]

SMALL_OPTIONS = (
    Standard(),
    Gaussian(),
    Mixture(4),
    Vamp(4),
    CDV(4),
    Flow("affine_coupling", **FLOW),
    Flow("spline_coupling", **FLOW, condition_transforms=True),
)
"""Options of priors that are tested in every context."""


def _shown(key: str, value: Any) -> str:
    if not dataclasses.is_dataclass(value):
        return f"{value}".replace(" ", "")
    seeing = "-seeing" if getattr(value, "condition_transforms", False) else ""
    return f"{key}-{value.name}{seeing}"


@dataclasses.dataclass(frozen=True)
class Variant:
    """A pair's name with options that differ from the small ones."""

    name: str
    options: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        return "-".join([self.name, *(_shown(key, value) for key, value in self.options)])

    @property
    def num_enumerated(self) -> int:
        """Number of categories that our objectives enumerate, 0 for none."""
        options = SIZES | SMALL[self.name] | dict(self.options)
        match options.get("category", "enumerated" if self.name == "cp_vae" else "none"):
            case "enumerated":
                return options["num_categories"]
            case "sparse":
                return options["num_enumerated"] + 1
        return 0

    def create(self) -> Pair:
        return create(self.name, **dict(self.options))

    def batch(self, size: int = BATCH) -> tuple[Tensor, ...]:
        return batch(self.name, size, **dict(self.options))


def variants() -> list[Variant]:
    """Each pair with every prior and every likelihood, with images, with ReLU, and every kind of flow."""
    found = []
    for name in NAMES:
        fields = {field.name for field in dataclasses.fields(zoo.FAMILIES[zoo.PRESETS[name].family])}
        free = name in ("vae", "hvae", "sigma_vae", "sigma_cvae")
        priors = [(("prior", prior),) for prior in UNCONDITIONAL] if free else [()]
        if name == "sigma_cvae":  # whose encoder sees more than x
            priors.remove((("prior", "vamp"),))
        likelihoods = [("likelihood", likelihood) for likelihood in LIKELIHOODS]
        if name in CALIBRATED:
            likelihoods = [("scale", scale) for scale in ("optimal", "learned")]
        first, *others = likelihoods  # each prior once, and each likelihood once
        found += [Variant(name, (first, *prior)) for prior in priors]
        found += [Variant(name, (likelihood, *priors[i % len(priors)])) for i, likelihood in enumerate(others)]
        images: list[tuple[str, Any]] = [("x_shape", (2, 3))]
        if "condition_shape" in fields:
            images.append(("condition_shape", (4, 2)))
        conv: list[tuple[str, Any]] = [("networks", "conv"), ("x_shape", (2, 6, 5))]
        if "condition_shape" in fields:
            found.append(Variant(name, (*conv, ("upsampling", "transposed"))))
            conv.append(("condition_shape", (1, 6, 5)))
        found += [
            Variant(name, tuple(conv)),
            Variant(name, tuple(images)),
            Variant(name, (("gated", False), ("hidden", (32, 32)))),
        ]
    found += [Variant("vae", (("prior", "flow"), ("transform", flow))) for flow in FLOWS if flow != "affine_coupling"]
    found += [
        Variant("vae", (("prior", "cdv"),)),
        Variant("vae", (("prior", "flow"), ("base", Mixture(4)))),
        Variant("vae", (("prior", Gaussian("full")),)),
        Variant(
            "vae", (("prior", "vamp"), ("learnable_weights", True), ("likelihood", "gaussian"), ("x_shape", (2, 3)))
        ),
        Variant("hvae", (("prior", "vamp"), ("hidden", (5,)))),
        *(Variant("hvae", (("prior_z1", options),)) for options in SMALL_OPTIONS),
        *(Variant("cp_vae", (("prior", options),)) for options in SMALL_OPTIONS if options.name != "gaussian"),
        *(Variant("cvae", (("prior", options),)) for options in SMALL_OPTIONS if options.name in ("flow", "standard")),
        Variant("cvae", (("prior", Mixture(4)), ("condition_prior", False))),
        Variant("cp_vae", (("prior_c", "learnable"),)),
        Variant("cp_vae", (("category", "sparse"), ("num_enumerated", 1))),
        Variant("cp_vae", (("category", "relaxed"), ("num_enumerated", 1))),
        Variant("cp_vae", (("own_category_network", True),)),
        Variant("cp_vae", (("own_category_network", True), ("networks", "conv"), ("x_shape", (2, 6, 5)))),
        Variant("cp_vae_reference"),
        Variant("cvae", (("condition_decoder", False),)),
        Variant("sigma_vae", (("scale", "per_channel"), ("x_shape", (2, 3, 4)))),
        Variant("sigma_cvae", (("scale", 0.3),)),
        Variant("sigma_cvae_nf", (("transform", "additive_coupling"), ("condition_transforms", True))),
        Variant("sigma_cvae_nf", (("prior", "gaussian"), ("condition_decoder", False))),
        Variant(
            "sigma_cvae_nf",
            (("condition_network", "conv"), ("condition_hidden", ()), ("condition_transforms", True)),
        ),
    ]
    for name in MIXTURES_GIVEN_A_CONDITION:
        found.append(Variant(name, (("condition_decoder", True), ("learnable_weights", True), ("hidden", (5,)))))
    return found


def create(name: str, **options: Any) -> Pair:
    """The small pair of that name."""
    small = SIZES | SMALL[name]
    if "prior" in options:  # without the options of the preset's own
        small = {key: value for key, value in small.items() if key not in ("num_components", *FLOW)}
        if isinstance(options["prior"], str):
            small |= SMALL_PRIORS.get(options["prior"], {})
    return zoo.create(name, **small | options)


def latent_sites(name: str) -> dict[str, int]:
    """The pair's continuous latent sites and their sizes."""
    return LATENT.get(name, {"z": SIZES["z_dim"]})


def batch(name: str, size: int = BATCH, **options: Any) -> tuple[Tensor, ...]:
    """Arguments of the pair's programs: x that its likelihood allows, and a condition where it has one."""
    options = SIZES | SMALL[name] | options
    x = torch.rand(size, *options["x_shape"])
    match "gaussian" if name in CALIBRATED else options.get("likelihood", "bernoulli"):
        case "bernoulli":
            x = (x < 0.5).to(x.dtype)
        case "discretised_logistic":
            x = (x * 255).round() / 255
        case "gaussian":
            x = torch.randn_like(x)
        case "poisson" | "negative_binomial":
            x = torch.poisson(3 * x)
    return (x, torch.randn(size, *options["condition_shape"])) if "condition_shape" in options else (x,)


def randomise(pair: Pair, scale: float = 0.5) -> Pair:
    """The pair with every parameter drawn anew, so that no bias or offset is 0 by its start."""
    with torch.no_grad():
        for parameter in pair.parameters():
            parameter.normal_(0, scale)
    return pair


def gradients(pair: Pair, loss: Tensor) -> dict[str, Tensor]:
    """Gradient of a loss by parameter name."""
    named = dict(pair.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


class GivenNoise(Messenger):
    """Effect handler: ``loc + scale * noise`` in place of the draw of each latent Gaussian site of the guide.

    What is conditioned on stays conditioned, and the model is replayed as ever.
    """

    def __init__(self, noise: Tensor | float) -> None:
        super().__init__()
        self.noise = noise

    def _pyro_sample(self, msg: dict) -> None:
        base = getattr(msg["fn"], "base_dist", None)
        if not msg["done"] and not msg["is_observed"] and type(base).__name__ == "Normal":
            msg["value"] = base.loc + base.scale * self.noise
            msg["done"] = True
