"""The families: four programs, each with the options that are not those of a factor, and how it is put together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, ClassVar, TypeVar, cast

import torch.nn as nn

from .. import guides, models
from .._options import convert_fields
from ..errors import hint, is_size
from ..nn import (
    CONDITION_NETWORKS,
    CategoricalHead,
    CategoryEncoder,
    ConditionMLP,
    GaussianHead,
    Temperature,
    make_condition_network,
)
from ..nn.likelihood import Likelihood, LikelihoodOptions
from ..objectives import ELBO, EnumELBO
from ..pair import Pair
from ..priors import Parts, PriorOptions
from ..registry import Registry
from .networks import NetworkOptions

__all__ = ["CPVAE", "CVAE", "FAMILIES", "HVAE", "VAE", "Factors", "Family", "register_family"]


@dataclass(frozen=True)
class Factors:
    """What a family is put together from, next to its own options.

    :param x_shape: shape of one example
    :param likelihood: options of the likelihood, or a module
    :param networks: options of the networks
    :param prior: options of the prior, or a module
    :param prior_z1: options of p(z1|z2), or a module; for ``hvae``
    :param encoder: a network of your own in place of the encoder
    :param decoder: a network of your own in place of the decoder
    """

    x_shape: tuple[int, ...]
    likelihood: Any
    networks: NetworkOptions
    prior: Any = None
    prior_z1: Any = None
    encoder: nn.Module | None = None
    decoder: nn.Module | None = None

    def make_likelihood(self) -> Likelihood:
        """Return the likelihood."""
        if isinstance(self.likelihood, LikelihoodOptions):
            return self.likelihood.build(self.x_shape)
        return self.likelihood

    def make_encoder(self, z_dim: int, **options: Any) -> nn.Module:
        """Return the encoder: yours, or one of ``networks``."""
        return self.networks.encoder(self.x_shape, z_dim, **options) if self.encoder is None else self.encoder

    def make_decoder(self, z_dim: int, **options: Any) -> nn.Module:
        """Return the decoder: yours, or one of ``networks``."""
        if self.decoder is not None:
            return self.decoder
        return self.networks.decoder(z_dim, self.x_shape, self.make_likelihood(), **options)

    def make_prior(self, prior: Any, z_dim: int, network: Any, /, **parts: Any) -> nn.Module:
        """Return a prior of options, or a module as it is.

        :param network: the decoder of the pair, whose likelihood says which values x may have
        :param parts: further fields of :class:`~pyro_priors.priors.Parts`
        """
        if not isinstance(prior, PriorOptions):
            return prior
        likelihood: Any = getattr(network, "likelihood", None)
        likelihood = self.make_likelihood() if likelihood is None else likelihood
        x_range = getattr(likelihood, "x_range", (-math.inf, math.inf))
        given = {"condition_network": self.networks.condition_network} | parts
        return prior.build(Parts(z_dim, x_shape=self.x_shape, x_range=x_range, **given))


@dataclass(frozen=True)
class Family:
    """Base of the options of a family: a frozen dataclass whose :meth:`build` makes the pair.

    At one seed the networks start alike under every prior: they are made first.
    """

    z_dim: int = 40
    """Size of the latent code."""

    factors: ClassVar[dict[str, str]] = {"prior": "standard", "likelihood": "bernoulli", "networks": "mlp"}
    """Factors of the family, and the name of what each is when nothing is said."""

    def __post_init__(self) -> None:
        convert_fields(self)
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name.startswith("num_") or one.name.endswith("_dim"):
                if value is not None and not is_size(value):
                    raise ValueError(f"{one.name} must be a positive integer, got {value!r} (for example, 10)")
            elif one.name.endswith("_shape") and not (value and all(map(is_size, value))):
                raise ValueError(
                    f"{one.name} must be a tuple of positive integers, got {value!r}: give that of the data, "
                    f"data.{one.name}"
                )

    def build(self, factors: Factors) -> Pair:
        """Return the pair."""
        raise NotImplementedError

    def encoder_event(self, factors: Factors) -> dict[str, tuple[int, ...]]:
        """Return the site, or ``"features"``, that an encoder of your own gives, and the shape of its event."""
        return {"z": (self.z_dim,)}


FAMILIES: Registry[type[Family]] = Registry("family")
"""Options of families by name."""

Options = TypeVar("Options", bound=type[Family])


def register_family(name: str, citations: Sequence[str] = ()) -> Callable[[Options], Options]:
    """Register a family under a name, by which presets refer to it."""

    def add(options: Options) -> Options:
        FAMILIES.add(name, options, citations)
        return options

    return add


@register_family("vae", citations=("kingma2014",))
@dataclass(frozen=True)
class VAE(Family):
    """Variational autoencoder: p(z) p(x|z)."""

    def build(self, factors: Factors) -> Pair:
        encoder, decoder = factors.make_encoder(self.z_dim), factors.make_decoder(self.z_dim)
        prior = factors.make_prior(factors.prior, self.z_dim, decoder, encoder=encoder, decoder=decoder)
        return Pair(models.VAE(prior, decoder), guides.VAEGuide(encoder))


@register_family("hvae", citations=("kingma2014", "tomczak2018"))
@dataclass(frozen=True)
class HVAE(Family):
    """Variational autoencoder with two codes (Tomczak and Welling 2018): p(z2) p(z1|z2) p(x|z1,z2)."""

    z1_dim: int | None = None
    """Size of the lower code z1; z_dim, the size of z2, when left out."""

    factors: ClassVar[dict[str, str]] = Family.factors | {"prior_z1": "gaussian"}

    def build(self, factors: Factors) -> Pair:
        z1_dim, z2_shape = self.z1_dim or self.z_dim, (self.z_dim,)
        encoder = factors.make_encoder(self.z_dim)
        encoder_z1 = factors.networks.encoder(factors.x_shape, z1_dim, condition_shape=z2_shape, branched=True)
        decoder = factors.make_decoder(z1_dim, condition_shape=z2_shape, branched=True)
        prior = factors.make_prior(factors.prior, self.z_dim, decoder, encoder=encoder)
        given = {"encoder": encoder_z1, "decoder": decoder, "decoder_context": "z2", "condition_shape": z2_shape}
        prior_z1 = factors.make_prior(factors.prior_z1, z1_dim, decoder, **given)
        return Pair(models.HVAE(prior, prior_z1, decoder), guides.HVAEGuide(encoder, encoder_z1))

    def encoder_event(self, factors: Factors) -> dict[str, tuple[int, ...]]:
        return {"z2": (self.z_dim,)}


CATEGORIES = ("enumerated", "relaxed", "sparse")
PRIORS_OF_C = ("learnable", "uniform")


@register_family("cp_vae", citations=("lavda2019",))
@dataclass(frozen=True)
class CPVAE(Family):
    """CP-VAE (Lavda et al. 2019): p(c) p(z|c) p(x|z,c), with a category c."""

    num_categories: int = 10
    """Number of categories K."""
    prior_c: str = "uniform"
    """p(c): uniform or learnable."""
    category: str = "enumerated"
    """How training handles the category: enumerated (all summed), sparse (the most probable ones summed, one drawn from
    the rest; Liu et al. 2019) or relaxed (Gumbel-softmax). Evaluation sums all."""
    num_enumerated: int | None = None
    """Of a sparse category: number of most probable categories that are summed, all of them where less than two would
    be left to draw from; likewise of a relaxed one, in the validation during training; 10 when left out."""
    own_category_network: bool = False
    """q(c|x) has layers of its own, and does not share those of q(z|x,c)."""
    classification_weight: float = 0.0
    """Weight of -log q(y|x) in the loss of each labeled example (Kingma et al. 2014: 0.1 times the number of examples
    for each labeled one)."""

    factors: ClassVar[dict[str, str]] = Family.factors | {"prior": "gaussian"}

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (("category", CATEGORIES), ("prior_c", PRIORS_OF_C)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} '{getattr(self, name)}' is unknown: {hint(getattr(self, name), known)}")
        if not (0 <= self.classification_weight < math.inf):
            raise ValueError(
                f"classification_weight must be a finite number of 0 or more, got {self.classification_weight!r} (for "
                "example, 10.0)"
            )
        if self.category == "enumerated" and self.num_enumerated is not None:
            raise ValueError(
                f"num_enumerated={self.num_enumerated} belongs to category='sparse' or 'relaxed', got "
                "category='enumerated', which sums all: leave it out"
            )

    def build(self, factors: Factors) -> Pair:
        num, relaxed = self.num_categories, self.category == "relaxed"
        decoder = factors.make_decoder(self.z_dim, num_categories=num)
        trunk = self.trunk(factors)
        num_features: int = (
            self.encoder_event(factors)["features"][0] if factors.encoder is not None else cast(Any, trunk).out_dim
        )
        temperature = Temperature() if relaxed else None
        category: nn.Module = CategoricalHead(num_features, num, temperature)
        if self.own_category_network:
            category = nn.Sequential(factors.networks.trunk(factors.x_shape), category)
        latent = GaussianHead(num_features, self.z_dim, num)
        given = {"encoder": CategoryEncoder(trunk, latent), "decoder": decoder, "decoder_context": "c"}
        prior = factors.make_prior(factors.prior, self.z_dim, decoder, num_categories=num, is_relaxed=relaxed, **given)
        num_enumerated = None if self.category == "enumerated" else self.num_enumerated or 10
        return Pair(
            models.CPVAE(num, prior, decoder, temperature, self.prior_c == "learnable"),
            guides.CPVAEGuide(
                trunk, category, latent, num_enumerated, self.own_category_network, self.classification_weight
            ),
            ELBO() if relaxed else EnumELBO(),
            num_categories=num,
        )

    @property
    def citations(self) -> tuple[str, ...]:
        """Papers behind the options that are not the defaults."""
        return ("kingma2014semi",) if self.classification_weight else ()

    def trunk(self, factors: Factors) -> nn.Module:
        """Return the network from x to features: yours, or one of ``networks``."""
        if factors.encoder is None:
            return factors.networks.trunk(factors.x_shape)
        if self.own_category_network:
            raise ValueError(
                "own_category_network=True makes a second network like the encoder, and cannot make one like yours: "
                "leave one of the two out, or give Pair(model, guide) a CPVAEGuide of your networks"
            )
        return factors.encoder

    def encoder_event(self, factors: Factors) -> dict[str, tuple[int, ...]]:
        hidden: Any = getattr(factors.networks, "hidden", ())
        return {"features": (hidden[-1] if hidden else 0,)}


@register_family("cvae", citations=("sohn2015",))
@dataclass(frozen=True)
class CVAE(Family):
    """Conditional VAE (Sohn et al. 2015): p(z|condition) p(x|z,condition)."""

    condition_shape: tuple[int, ...] = ()
    """Shape of one condition."""
    condition_decoder: bool = True
    """p(x|z,condition) (Klushyn et al. 2019, equation 2) or, without, p(x|z) (equation 3)."""
    condition_prior: bool = True
    """p(z|condition) or, without, p(z), of every prior."""
    condition_network: str = "auto"
    """Network that reads the condition for the prior: auto, as the encoder reads it; mlp; or conv (1-D convolutions
    along attributes, as De 2025)."""
    condition_hidden: tuple[int, ...] = ()
    """Sizes of the layers of that network, if it is a perceptron; those of the networks when left out."""

    factors: ClassVar[dict[str, str]] = Family.factors | {"prior": "gaussian"}

    def __post_init__(self) -> None:
        super().__post_init__()
        known = ("auto", *CONDITION_NETWORKS)
        if self.condition_network not in known:
            raise ValueError(
                f"condition_network '{self.condition_network}' is unknown: {hint(self.condition_network, known)}"
            )
        if not all(map(is_size, self.condition_hidden)):
            raise ValueError(
                f"condition_hidden must be a tuple of positive integers, got {self.condition_hidden!r} (for example, "
                "(300, 300))"
            )
        if self.condition_network == "conv" and self.condition_hidden:
            raise ValueError(
                f"condition_hidden={self.condition_hidden} belongs to condition_network='mlp', got 'conv': leave it out"
            )

    def build(self, factors: Factors) -> Pair:
        shape = self.condition_shape
        decoder = factors.make_decoder(self.z_dim, condition_shape=shape if self.condition_decoder else None)
        encoder = factors.make_encoder(self.z_dim, condition_shape=shape)
        given: dict[str, Any] = {}
        if self.condition_prior:
            given = {"encoder": encoder, "condition_shape": shape, "decoder": decoder}
            given["decoder_context"] = "condition" if self.condition_decoder else ""
        if self.condition_network == "conv":
            given["condition_network"] = partial(make_condition_network, "conv")
        elif self.condition_network == "mlp" or self.condition_hidden:
            networks: Any = factors.networks
            hidden = self.condition_hidden or getattr(networks, "hidden", ()) or (300, 300)
            given["condition_network"] = partial(ConditionMLP, hidden=hidden, gated=getattr(networks, "gated", True))
        prior = factors.make_prior(factors.prior, self.z_dim, decoder, **given)
        return Pair(
            models.CVAE(prior, decoder, self.condition_decoder, self.condition_prior), guides.CVAEGuide(encoder)
        )
