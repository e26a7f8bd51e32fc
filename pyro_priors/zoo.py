"""The zoo: names of pairs, and the factories that build them. The only place that knows both halves."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn as nn

from . import checkpoint, guides, models, priors
from ._files import CheckpointError
from ._hints import check_sizes, is_size
from ._hints import hint as hint
from ._memory import TRAINED, TooLarge, Within, check_memory, refusing_too_many_bytes
from ._options import Seed, convert_fields, path_of, plain, typed
from ._records import SavedPair
from ._rng import seeded
from .data import Splits
from .nn import (
    CONDITION_NETWORKS,
    MLP,
    NORMALISATIONS,
    UPSAMPLING,
    CategoricalHead,
    ConditionMLP,
    ConvDecoder,
    ConvEncoder,
    ConvTrunk,
    Decoder,
    Encoder,
    GaussianHead,
    ReleasedCategoricalHead,
    ReleasedGaussianHead,
    Temperature,
    he_,
    likelihoods,
    make_condition_network,
)
from .nn.conv import is_image
from .objectives import ELBO, EnumELBO
from .pair import Pair
from .priors import Parts
from .registration import BatchCheck
from .run_folder import find_pair

__all__ = [
    "PRIORS",
    "CPVAEConfig",
    "CVAEConfig",
    "HVAEConfig",
    "MixtureCVAEConfig",
    "Networks",
    "PairConfig",
    "SigmaCVAEConfig",
    "SigmaCVAENFConfig",
    "SigmaVAEConfig",
    "VAEConfig",
    "config_class",
    "create",
    "create_for",
    "load",
    "names",
    "register_pair",
]


@dataclass(frozen=True)
class PairConfig:
    """What every pair of the zoo is configured by."""

    x_shape: tuple[int, ...]
    """Shape of one datum."""
    z_dim: int = 40
    """Size of the latent code."""
    hidden: tuple[int, ...] = (300, 300)
    """Sizes of the hidden layers of the encoder, and of the decoder."""
    gated: bool = True
    """Gated layers (Dauphin et al. 2017) instead of ReLU."""
    likelihood: str = "bernoulli"
    """p(x|z): bernoulli, continuous_bernoulli, discretised_logistic or gaussian."""
    scale: float | None = None
    """Fixed scale of the gaussian likelihood; learned when left out."""
    start_scale: float | None = None
    """Where the learned scale of the gaussian likelihood starts; at 1 when left out."""
    networks: str = "mlp"
    """Encoder and decoder: mlp (perceptrons) or conv (of images that are not flattened; hidden are the layers between
    convolutions and code, which may be none)."""
    channels: tuple[int, ...] = ()
    """Of conv: channels of its convolutions, each of which halves the image; left out: what the size asks for."""
    upsampling: str = "auto"
    """Of conv's decoder: resize, transposed, or auto, the one that the size asks for."""
    normalisation: str = "auto"
    """Of conv: group, none, or auto, what the size asks for."""

    only_likelihood: ClassVar[str] = ""
    """The one likelihood of a pair that has no choice of them."""

    def __post_init__(self) -> None:
        convert_fields(self)
        if self.only_likelihood and self.likelihood != self.only_likelihood:
            raise ValueError(
                f"likelihood='{self.likelihood}' does not fit this pair, whose likelihood is {self.only_likelihood}: "
                "leave it out"
            )
        choices = {"networks": NETWORKS, "upsampling": UPSAMPLING, "normalisation": NORMALISATIONS}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} '{getattr(self, name)}' is unknown: {hint(getattr(self, name), known)}")
        conv = self.networks == "conv"
        may_be_empty = ("channels", "hidden") if conv else ("channels",)
        for name, value in vars(self).items():
            if name in ("channels", "condition_hidden", "flow_hidden", "hidden") or name.endswith("_shape"):
                empty = not value and name not in may_be_empty
                if empty or not all(map(is_size, value)):
                    own = getattr(type(self), name, ()) or (64,)
                    remedy = f"that of the data, data.{name}" if name.endswith("_shape") else f"{own}"
                    raise ValueError(f"{name} must be a tuple of positive integers, got {value!r}: give {remedy}")
            elif name in _SIZES and value is not None:
                check_sizes(**{name: value})
                if name == "num_transforms" and value > MOST_TRANSFORMS:  # each is built on its own, which takes time
                    raise ValueError(f"num_transforms must be at most {MOST_TRANSFORMS}, got {value} (for example, 10)")
        for name in () if conv else ("channels", "normalisation", "upsampling"):
            if getattr(self, name) != getattr(PairConfig, name):
                raise ValueError(f"{name}={getattr(self, name)!r} belongs to networks='conv': leave it out")


NETWORKS = ("conv", "mlp")

PRIORS = ("flow", "gaussian", "mixture", "standard", "vamp")
"""Unconditional priors."""

MOST_TRANSFORMS = 1000
"""Most transforms of a flow."""

_SIZES = ("num_categories", "num_components", "num_enumerated", "num_transforms", "z1_dim", "z_dim")


@dataclass(frozen=True)
class VAEConfig(PairConfig):
    """Variational autoencoder with any prior."""

    prior: str = "standard"
    """p(z): standard, gaussian (trained location and scale), mixture (of trained Gaussians), vamp (Tomczak and
    Welling 2018) or flow (Bhalodia et al. 2019)."""
    num_components: int = 500
    """Of a mixture: number of Gaussians. Of vamp: number of pseudo-inputs."""
    trained_weights: bool | None = None
    """Trained weights of the components, or 1/K each; left out: trained in a mixture, 1/K in vamp."""
    flow: str = "affine_coupling"
    """Transforms of a flow: affine_coupling, spline_coupling, affine_autoregressive, spline_autoregressive, or one of
    the package zuko: zuko.BPF, MAF, NICE, NSF or RealNVP."""
    num_transforms: int = 6
    """Number of transforms of a flow."""
    flow_hidden: tuple[int, ...] = (64, 64)
    """Sizes of the hidden layers in each transform of a flow."""
    permutation: str = "reverse"
    """Of z between two transforms of a flow: reverse, or random, drawn once."""
    actnorm: bool = False
    """A trained scale and shift of each value after each transform of a flow."""

    def __post_init__(self) -> None:
        if not isinstance(plain(self.prior), str):
            raise ValueError(
                f"prior must be one of {', '.join(sorted(PRIORS))}, got {type(self.prior).__name__}: one of your own "
                "goes into programs, Pair(models.VAE(prior, decoder), guides.VAEGuide(encoder))"
            )
        super().__post_init__()
        if self.prior not in PRIORS:
            raise ValueError(f"prior '{self.prior}' is unknown: {hint(self.prior, sorted(PRIORS))}")
        for name, owners in _PRIORS_OF_OPTIONS.items():
            if self.prior not in owners and getattr(self, name) != getattr(VAEConfig, name):
                raise ValueError(
                    f"{name}={getattr(self, name)!r} belongs to prior={' or '.join(map(repr, owners))}, got "
                    f"prior='{self.prior}': leave it out"
                )


_PRIORS_OF_OPTIONS = {
    "num_components": ("mixture", "vamp"),
    "trained_weights": ("mixture", "vamp"),
    "flow": ("flow",),
    "num_transforms": ("flow",),
    "flow_hidden": ("flow",),
    "permutation": ("flow",),
    "actnorm": ("flow",),
}


@dataclass(frozen=True)
class HVAEConfig(VAEConfig):
    """Variational autoencoder with two codes (Tomczak and Welling 2018): z_dim and prior are the upper one's."""

    z1_dim: int | None = None
    """Size of the lower code; z_dim when left out."""


CATEGORIES = ("enumerated", "relaxed", "sparse")


@dataclass(frozen=True)
class CPVAEConfig(PairConfig):
    """CP-VAE (Lavda et al. 2019): a category, and a trained Gaussian prior of z for each."""

    num_categories: int = 10
    """Number of categories K."""
    category: str = "enumerated"
    """How training handles the category: enumerated (all summed), sparse (the most probable ones summed, one drawn from
    the rest; Liu et al. 2019) or relaxed (Gumbel-softmax). Evaluation sums all."""
    num_enumerated: int = 10
    """Of a sparse category: number of most probable categories that are summed, all of them where less than two would
    be left to draw from; of a relaxed one likewise, in the validation during training."""
    own_category_network: bool = False
    """q(c|x) has layers of its own, beside those of q(z|x,c), which it shares otherwise."""
    released_code: bool = False
    """The programs and the start of the published code, quirks included, instead of the paper's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.category not in CATEGORIES:
            raise ValueError(f"category '{self.category}' is unknown: {hint(self.category, CATEGORIES)}")
        if self.category == "enumerated" and self.num_enumerated != CPVAEConfig.num_enumerated:
            raise ValueError(
                f"num_enumerated={self.num_enumerated} belongs to category='sparse' or 'relaxed', got "
                "category='enumerated', which sums all: leave it out"
            )
        if self.released_code and self.category != "enumerated":
            raise ValueError(
                f"category='{self.category}' has no released_code: its category is relaxed in a way of its own; leave "
                "one of the two out"
            )
        if self.released_code and self.own_category_network:
            raise ValueError("released_code=True has no own_category_network: leave one of the two out")


@dataclass(frozen=True)
class CVAEConfig(PairConfig):
    """Conditional VAE (Sohn et al. 2015): p(z|condition) p(x|z,condition)."""

    condition_shape: tuple[int, ...] = ()
    """Shape of one condition."""
    decoder_sees_condition: bool = True
    """p(x|z,condition) (Klushyn et al. 2019, equation 2) or, without, p(x|z) (equation 3)."""


@dataclass(frozen=True)
class MixtureCVAEConfig(CVAEConfig):
    """Conditional VAE with a mixture of K components as p(z|condition) (Klushyn et al. 2019)."""

    decoder_sees_condition: bool = False
    """p(x|z,condition) (equation 2) or, without, p(x|z) (equation 3, the paper's for this prior)."""
    num_components: int = 32
    """Number of components K."""
    trained_weights: bool = False
    """Weights of the components that depend on the condition, or 1/K each, as published."""


CALIBRATIONS = ("fixed", "learned", "learned_by_channel", "optimal")
"""Ways to find the scale of a Gaussian likelihood."""


@dataclass(frozen=True)
class _CalibratedConfig(PairConfig):
    """A pair whose likelihood is a Gaussian with a calibrated scale."""

    likelihood: str = "gaussian"
    """p(x|z): gaussian; no other."""
    scale: float | None = None
    """The scale of calibration='fixed', 1 when left out."""
    calibration: str = "optimal"
    """Scale of the Gaussian: optimal (of each batch, in closed form), learned, learned_by_channel or fixed."""

    only_likelihood: ClassVar[str] = "gaussian"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.calibration not in CALIBRATIONS:
            raise ValueError(f"calibration '{self.calibration}' is unknown: {hint(self.calibration, CALIBRATIONS)}")


@dataclass(frozen=True)
class SigmaVAEConfig(_CalibratedConfig, VAEConfig):
    """Sigma-VAE (Rybkin et al. 2021): a VAE whose Gaussian has the scale that fits each batch best."""


@dataclass(frozen=True)
class SigmaCVAEConfig(_CalibratedConfig, VAEConfig):
    """Sigma-CVAE (De 2025): p(z) p(x|z,condition), with the scale that fits each batch best.

    What differs from the paper: q(z|x,condition), as in its section 3.1; its appendix A.2 has q(z|x) for this prior."""

    condition_shape: tuple[int, ...] = ()
    """Shape of one condition."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prior == "vamp":
            raise ValueError(
                "prior='vamp' needs an encoder of x alone, and this one sees the condition: use prior='mixture' or "
                "'flow', or pair 'cvamp_cvae'"
            )


@dataclass(frozen=True)
class SigmaCVAENFConfig(_CalibratedConfig, CVAEConfig):
    """Sigma-CVAE with a flow prior (De 2025): p(z|condition) p(x|z,condition).

    Not as in the paper, whose KL has the quadratic term with the wrong sign, and whose samples lack the inverse of the
    flow: see :class:`~pyro_priors.priors.ConditionalFlowPrior`.
    """

    flow: str = "affine"
    """Couplings of the prior's flow: affine, additive (volume-preserving) or none."""
    num_transforms: int = 4
    """Number of couplings."""
    flow_hidden: tuple[int, ...] = (64, 64)
    """Sizes of the hidden layers in each coupling."""
    couplings_see_condition: bool = False
    """Couplings that depend on the condition too; the paper's do not."""
    condition_network: str = "mlp"
    """What reads the condition for the prior: mlp, or conv (1-D convolutions along the attributes, the paper's)."""
    condition_hidden: tuple[int, ...] = (300, 300)
    """Sizes of the layers of that mlp."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (
            ("flow", ("additive", "affine", "none")),
            ("condition_network", sorted(CONDITION_NETWORKS)),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} '{getattr(self, name)}' is unknown: {hint(getattr(self, name), known)}")
        for option in ("num_transforms", "flow_hidden", "couplings_see_condition") if self.flow == "none" else ():
            value = getattr(self, option)
            if value != getattr(SigmaCVAENFConfig, option):
                raise ValueError(f"{option}={value!r} belongs to flow='affine' or 'additive', got 'none': leave it out")
        if self.flow != "none" and self.z_dim < 2:
            raise ValueError(f"couplings need z_dim of at least 2, got {self.z_dim}: use flow='none' for one dimension")
        if self.condition_network == "conv" and self.condition_hidden != SigmaCVAENFConfig.condition_hidden:
            raise ValueError(
                f"condition_hidden={self.condition_hidden} belongs to condition_network='mlp', got 'conv': leave it out"
            )


OF_OUR_DECODER = ("calibration", "scale", "start_scale", "upsampling")
"""Options that mean nothing to a decoder of one's own."""


@dataclass(frozen=True)
class Networks:
    """A user's own networks, each standing for the one that a factory would build."""

    encoder: nn.Module | None = None
    decoder: nn.Module | None = None


@dataclass(frozen=True)
class _Entry:
    config_class: type[PairConfig]
    factory: Callable[[Any, Networks], Pair]
    citations: tuple[str, ...]


_CITATIONS_OF_PRIORS = {"flow": ("bhalodia2019",), "vamp": ("tomczak2018",)}
_CITATIONS_OF_FLOWS = {
    "additive": ("dinh2015",),
    "affine": ("dinh2017",),
    "affine_autoregressive": ("papamakarios2017",),
    "affine_coupling": ("dinh2017",),
    "spline_autoregressive": ("durkan2019",),
    "spline_coupling": ("durkan2019",),
}


_REGISTRY: dict[str, _Entry] = {}


def register_pair(name: str, config_class: type[PairConfig], citations: Sequence[str] = ()) -> Callable:
    """Decorator that puts a factory ``(config, networks) -> Pair`` into the zoo under a name.

    :param name: what :func:`create` calls it
    :param config_class: frozen dataclass of its options
    :param citations: keys of :data:`pyro_priors.citations.BIBTEX`
    """

    def add(factory: Callable[[Any, Networks], Pair]) -> Callable[[Any, Networks], Pair]:
        if name in _REGISTRY:
            raise ValueError(f"pair '{name}' is registered already: choose another name")
        _REGISTRY[name] = _Entry(config_class, factory, tuple(citations))
        return factory

    return add


def names() -> list[str]:
    """Names of the pairs of the zoo, sorted."""
    return sorted(_REGISTRY)


def _entry(name: str) -> _Entry:
    if not isinstance(name, str) or name not in _REGISTRY:
        raise ValueError(f"pair '{name}' is unknown: {hint(name, names())}")
    return _REGISTRY[name]


def config_class(name: str) -> type[PairConfig]:
    """The dataclass of a pair's options.

    :raises ValueError: if the name is unknown
    """
    return _entry(name).config_class


def citations_of(name: str, config: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """Keys of the papers behind a pair, each once.

    :param name: one of :func:`names`
    :param config: its options, for the papers behind its prior
    """
    config = config or {}
    keys = _entry(name).citations + _CITATIONS_OF_PRIORS.get(config.get("prior", ""), ())
    if config.get("prior") == "flow" or "prior" not in config:
        keys += _CITATIONS_OF_FLOWS.get(config.get("flow", ""), ())
    return tuple(dict.fromkeys(keys))


def create(name: str, *, encoder: nn.Module | None = None, decoder: nn.Module | None = None, **config: Any) -> Pair:
    """Build a pair.

    Example::

        >>> pair = create("cp_vae", x_shape=(784,), z_dim=40, num_categories=10)
        >>> pair.model(size=5).shape
        torch.Size([5, 784])

    :param name: one of :func:`names`
    :param encoder: your own network in the encoder's place: from x (and the condition, in a conditional pair) to a
        distribution over z with event shape ``(z_dim,)``; for ``cp_vae`` the trunk, from x to ``hidden[-1]`` features;
        for ``hvae`` q(z2|x)
    :param decoder: your own network in the decoder's place: from z (and keyword ``c``, or where it sees it
        ``condition``; from z1 and z2 for ``hvae``) to a distribution over x with event shape ``x_shape``. z may have
        dimensions to the left of the batch, for samples and categories, with which ``c`` and ``condition`` broadcast:
        flatten them with ``z.flatten(0, -2)`` for convolutions, and give them back to what these return
    :param config: fields of the pair's config dataclass; ``x_shape`` always, ``condition_shape`` for conditional pairs
    :raises ValueError: if a name or an option is unknown (the message names the nearest), a value is out of range, or a
        network is no module. What your networks return is checked whenever the programs run: distributions must be
        those of ``pyro.distributions``
    """
    return _create(name, encoder, decoder, config, copies=1)


def _create(
    name: str, encoder: nn.Module | None, decoder: nn.Module | None, config: dict[str, Any], copies: int
) -> Pair:
    """As :func:`create`; ``copies`` of the parameters must fit into the memory."""
    name = plain(name)
    entry = _entry(name)
    fields = [field.name for field in dataclasses.fields(entry.config_class)]
    for option in config:
        if option not in fields:
            raise ValueError(f"pair '{name}' has no option '{option}': {hint(option, fields)}")
    if "x_shape" not in config:
        raise ValueError(
            f"pair '{name}' needs x_shape, the shape of one datum: give x_shape=(784,) for flattened MNIST"
        )
    for key, network in (("encoder", encoder), ("decoder", decoder)):
        if network is not None and not isinstance(network, nn.Module):
            given = f"the class {network.__name__}" if isinstance(network, type) else repr(network)
            raise ValueError(f"{key} must be a torch.nn.Module, got {given}: give an instance, such as Net()")
    built = entry.config_class(**config)
    for option in OF_OUR_DECODER if decoder is not None else ():
        value = getattr(built, option, None)
        if value != getattr(entry.config_class, option, None):
            warnings.warn(
                f"{option}={value!r} is of the zoo's own decoder, and does nothing to yours: leave it out", stacklevel=3
            )
    largest, option = max((size, key) for key in _sizes_of(built) for size in _as_sizes(getattr(built, key)))
    of_option = f"{option}={getattr(built, option)}", f"give a smaller {option}"
    check_memory(4 * copies * largest, *of_option)  # torch takes no size beyond 64 bits
    with refusing_too_many_bytes(copies, *of_option):
        pair = entry.factory(built, Networks(encoder, decoder))
    own = [key for key, network in (("encoder", encoder), ("decoder", decoder)) if network is not None]
    pair.recipe = {"name": name, "config": dataclasses.asdict(built), "own_networks": own}
    check = BatchCheck(x=built.x_shape, condition=getattr(built, "condition_shape", None))
    for program in (pair.model, pair.guide):
        program.register_forward_pre_hook(check, with_kwargs=True)
    # what your networks must return; the programs compare
    of_encoder: Any = {} if encoder is None else _event_of_encoder(built)
    of_decoder: Any = {} if decoder is None else {"x": built.x_shape}
    pair.guide.event_shapes, pair.model.event_shapes = of_encoder, of_encoder | of_decoder
    return pair


def _sizes_of(config: PairConfig) -> list[str]:
    """Names of the options that decide how large the networks are; those that the data fix come last."""
    names = [key for key in vars(config) if key in _SIZES or key.endswith("hidden") or key == "channels"]
    return [*names, *(key for key in vars(config) if key.endswith("_shape"))]


def _as_sizes(value: Any) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else value or ()


def _event_of_encoder(config: PairConfig) -> dict[str, tuple[int, ...]]:
    """What the ``encoder`` of :func:`create` returns: its site, or features, and their shape."""
    if isinstance(config, CPVAEConfig):
        return {"features": (config.hidden[-1] if config.hidden else 0,)}
    return {"z2" if isinstance(config, HVAEConfig) else "z": (config.z_dim,)}


@typed
def create_for(name: str, data: Splits, seed: Seed, **config: Any) -> Pair:
    """Build a pair for some data: the pair that ``pyro-priors train`` begins with.

    Sizes that the data fix are filled in from them, and the networks start from the seed; torch's generator is left as
    it was.

    :param name: one of :func:`names`
    :param data: what the pair is to be trained on
    :param seed: seed of the training
    :param config: as for :func:`create`; ``likelihood="auto"``, or none, is the one that fits the data
    :raises ValueError: as :func:`create`, or if a conditional pair gets data without a condition
    """
    config |= {"x_shape": data.x_shape}
    if config.get("likelihood", "auto") == "auto":
        config["likelihood"] = config_class(name).only_likelihood or data.likelihood
    if any(field.name == "condition_shape" for field in dataclasses.fields(config_class(name))):
        if data.condition_shape is None:
            raise ValueError(
                f"pair '{name}' needs data with a condition, {data.name} has none: give --data.condition-rows N (the "
                "last rows of each image), --data.condition-labels, or a file with condition_train"
            )
        config["condition_shape"] = data.condition_shape
    was_grey = data.image_shape is not None and data.recipe is not None and not data.recipe["name"].endswith(".npz")
    if config["likelihood"] == "gaussian" and data.likelihood == "bernoulli" and was_grey:
        warnings.warn(
            f"p(x|z) is a Gaussian of grey levels, and the images of {data.name} are black and white: load them with "
            "binarise='none' (--data.binarise none), or take a pair whose likelihood is bernoulli",
            stacklevel=3,
        )
    with seeded(seed):
        return _create(name, config.pop("encoder", None), config.pop("decoder", None), config, copies=TRAINED)


@typed
def load(path: str | Path, *, encoder: nn.Module | None = None, decoder: nn.Module | None = None) -> Pair:
    """Load the pair that was saved last under a path, by :meth:`Pair.save` or by :func:`pyro_priors.fit`.

    :param path: a folder that was given to ``save``, or a run folder, whose pair is that of the best validation bound
        unless another one was saved over it
    :param encoder: the network of your own that the pair was created with, if it was
    :param decoder: likewise
    :raises CheckpointError: if the save is incomplete or altered, or does not describe a pair of its tensors
    :raises ValueError: if the pair has networks of your own that are not given, or is not of the zoo
    """
    folder = find_pair(path_of("path", path))
    tensors, record = checkpoint.read(folder, "pair", SavedPair, path_of("path", path))
    recipe = record["pair"]
    if recipe is None:
        raise ValueError(
            f"{folder} holds a pair that is not of the zoo: build it and call its load_weights({str(folder)!r})"
        )
    given = {"encoder": encoder, "decoder": decoder}
    missing = [key for key in recipe["own_networks"] if given[key] is None]
    if missing:
        arguments = ", ".join(f"{key}=..." for key in missing)
        raise ValueError(
            f"{folder} was saved with your own {' and '.join(missing)}: load it from Python, load(path, {arguments})"
        )
    pair = _made_of(recipe, given, folder / "pair.json", sum(tensor.numel() for tensor in tensors.values()))
    dtypes = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    if len(dtypes) == 1 and dtypes <= TRAINED_IN:  # of what is not saved too
        pair.to(next(iter(dtypes)))
    checkpoint.load_module_state(pair, tensors, str(folder), in_its_precision=True)
    pair.saved_digest = record["sha256"]
    return pair


TRAINED_IN = {torch.float64, torch.float32, torch.bfloat16, torch.float16}


def _made_of(recipe: Mapping[str, Any], networks: dict[str, nn.Module | None], file: Path, num_values: int) -> Pair:
    """Build the pair of a recipe that was read from a file.

    :param num_values: number of values that the file holds tensors for; a pair of many more is not built
    :raises CheckpointError: if the recipe is not that of such a pair
    """
    own = any(network is not None for network in networks.values())
    try:
        known = {field.name for field in dataclasses.fields(config_class(recipe["name"]))}
        if unknown := recipe["config"].keys() - known:
            raise ValueError(f"pair '{recipe['name']}' has no option '{min(unknown)}'")
        with Within(4 * num_values + 2**24):
            return create(recipe["name"], **networks, **recipe["config"])
    except (ValueError, RuntimeError, TypeError, OverflowError) as error:  # torch has several for sizes out of range
        if own and not isinstance(error, TooLarge):  # of the networks that were given, perhaps
            raise
        what = f"{file} does not describe a pair ({' '.join(str(error).split())[:300]})"
        raise CheckpointError(what, "restore it from a copy, or load it with the version that saved it") from error


def _options_of_prior(config: VAEConfig) -> priors.PriorOptions:
    """The options of a pair's unconditional prior."""
    match config.prior:
        case "flow":
            return priors.Flow(
                config.flow, config.num_transforms, config.flow_hidden, config.permutation, config.actnorm
            )
        case "mixture":
            return priors.Mixture(config.num_components, config.trained_weights is not False)
        case "vamp":
            return priors.Vamp(config.num_components, config.trained_weights is True)
    return priors.PRIORS[config.prior]()


def _parts(config: PairConfig, encoder: nn.Module | None = None, **options: Any) -> Parts:
    x_range = likelihoods.make_likelihood(config.likelihood, config.x_shape).x_range
    return Parts(
        config.z_dim,
        x_shape=config.x_shape,
        x_range=x_range,
        encoder=encoder,
        condition_network=partial(_condition_network, config),
        **options,
    )


def _condition_network(config: PairConfig, shape: Sequence[int]) -> nn.Module:
    """A new network from conditions to features."""
    if config.networks == "conv" and is_image(shape):
        return ConvTrunk(shape, config.hidden, config.gated)
    return ConditionMLP(shape, config.hidden, config.gated)


def _of_conv(config: PairConfig) -> dict[str, Any]:
    return {"channels": config.channels, "normalisation": config.normalisation}


def _options_of_likelihood(config: PairConfig) -> likelihoods.LikelihoodOptions:
    if isinstance(config, _CalibratedConfig):
        scale: float | str = {"learned_by_channel": "per_channel"}.get(config.calibration, config.calibration)
        if scale == "fixed":
            scale = 1.0 if config.scale is None else config.scale
        elif config.scale is not None:
            raise ValueError(
                f"scale={config.scale} belongs to calibration='fixed', got calibration='{config.calibration}': leave "
                "it out"
            )
        return likelihoods.Gaussian(scale, config.start_scale)
    if config.likelihood == "gaussian":
        return likelihoods.Gaussian("learned" if config.scale is None else config.scale, config.start_scale)
    for option in ("scale", "start_scale"):
        if (value := getattr(config, option)) is not None:
            raise ValueError(
                f"{option}={value:g} belongs to likelihood='gaussian', got likelihood='{config.likelihood}': leave it "
                "out"
            )
    return likelihoods.LIKELIHOODS[config.likelihood]()


def _encoder(config: PairConfig, networks: Networks, **options: Any) -> nn.Module:
    if networks.encoder is not None:
        return networks.encoder
    return _made_encoder(config, config.x_shape, config.z_dim, **options)


def _made_encoder(
    config: PairConfig,
    x_shape: Sequence[int],
    z_dim: int,
    condition_shape: Sequence[int] | None = None,
    branched: bool = False,
) -> nn.Module:
    if config.networks == "conv":  # x and condition have maps of their own there already
        return ConvEncoder(x_shape, z_dim, config.hidden, config.gated, condition_shape, **_of_conv(config))
    return Encoder(x_shape, z_dim, config.hidden, config.gated, condition_shape, branched)


def _decoder(config: PairConfig, networks: Networks, **options: Any) -> nn.Module:
    if networks.decoder is not None:
        return networks.decoder
    likelihood = _options_of_likelihood(config).build(config.x_shape)
    z_dim = options.pop("z_dim", config.z_dim)
    if config.networks == "conv":
        options.pop("branched", None)
        options |= _of_conv(config) | {"upsampling": config.upsampling}
        return ConvDecoder(z_dim, config.x_shape, likelihood, config.hidden, config.gated, **options)
    return Decoder(z_dim, config.x_shape, likelihood, config.hidden, config.gated, **options)


@register_pair("sigma_vae", SigmaVAEConfig, citations=("rybkin2021", "kingma2014"))
@register_pair("vae", VAEConfig, citations=("kingma2014",))
def _vae(config: VAEConfig, networks: Networks) -> Pair:
    encoder = _encoder(config, networks)
    prior = _options_of_prior(config).build(_parts(config, encoder))
    return Pair(models.VAE(prior, _decoder(config, networks)), guides.VAEGuide(encoder))


@register_pair("hvae", HVAEConfig, citations=("kingma2014", "tomczak2018"))
def _hvae(config: HVAEConfig, networks: Networks) -> Pair:
    encoder = _encoder(config, networks)
    prior = _options_of_prior(config).build(_parts(config, encoder))
    z1_dim, z2_shape = config.z1_dim or config.z_dim, (config.z_dim,)
    prior_z1 = priors.ConditionalGaussianPrior(ConditionMLP(z2_shape, config.hidden, config.gated), z1_dim)
    encoder_z1 = _made_encoder(config, config.x_shape, z1_dim, z2_shape, branched=True)
    decoder = _decoder(config, networks, z_dim=z1_dim, condition_shape=z2_shape, branched=True)
    return Pair(models.HVAE(prior, prior_z1, decoder), guides.HVAEGuide(encoder, encoder_z1))


def _trunk(config: PairConfig) -> tuple[nn.Module, int]:
    """From x to features, and their number."""
    if config.networks == "conv":
        conv = ConvTrunk(config.x_shape, config.hidden, config.gated, **_of_conv(config))
        return conv, conv.out_dim
    mlp = MLP(prod(config.x_shape), config.hidden, config.gated)
    return nn.Sequential(nn.Flatten(-len(config.x_shape)), mlp), config.hidden[-1]


@register_pair("cp_vae", CPVAEConfig, citations=("lavda2019",))
def _cp_vae(config: CPVAEConfig, networks: Networks) -> Pair:
    num = config.num_categories
    decoder = _decoder(config, networks, num_categories=num)
    if networks.encoder is None:
        trunk, h_dim = _trunk(config)
    elif config.own_category_network:
        raise ValueError(
            "own_category_network=True makes a second network like the encoder, and cannot make one like yours: leave "
            "one of the two out, or give Pair(model, guide) a CPVAEGuide of your networks"
        )
    else:
        trunk, h_dim = networks.encoder, config.hidden[-1] if config.hidden else 0
    if config.released_code:
        heads = ReleasedCategoricalHead(h_dim, num), ReleasedGaussianHead(h_dim, config.z_dim, num)
        for part in (trunk, decoder, *heads):
            he_(part)
        untrained = priors.ReleasedCategoryPrior(num, config.z_dim)
        guide = guides.ReleasedCPVAEGuide(trunk, *heads, untrained, Temperature())
        return Pair(models.ReleasedCPVAE(num, untrained, decoder), guide, num_categories=num)
    temperature = Temperature() if config.category == "relaxed" else None
    category: nn.Module = CategoricalHead(h_dim, num, temperature)
    if config.own_category_network:
        category = nn.Sequential(_trunk(config)[0], category)
    latent = GaussianHead(h_dim, config.z_dim, num)
    num_enumerated = None if config.category == "enumerated" else config.num_enumerated
    return Pair(
        models.CPVAE(num, priors.GaussianPrior(config.z_dim, num), decoder, temperature),
        guides.CPVAEGuide(trunk, category, latent, num_enumerated, config.own_category_network),
        ELBO() if temperature else EnumELBO(),
        num_categories=num,
    )


def _conditional(config: CVAEConfig, networks: Networks) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder of a conditional pair."""
    seen = config.condition_shape if config.decoder_sees_condition else None
    decoder = _decoder(config, networks, condition_shape=seen)
    return _encoder(config, networks, condition_shape=config.condition_shape), decoder


def _conditional_pair(config: CVAEConfig, prior: nn.Module, encoder: nn.Module, decoder: nn.Module) -> Pair:
    return Pair(models.CVAE(prior, decoder, config.decoder_sees_condition), guides.CVAEGuide(encoder))


@register_pair("cvae", CVAEConfig, citations=("sohn2015", "klushyn2019"))
def _cvae(config: CVAEConfig, networks: Networks) -> Pair:
    prior = priors.Gaussian().build(_parts(config, condition_shape=config.condition_shape))
    return _conditional_pair(config, prior, *_conditional(config, networks))


@register_pair("sigma_cvae", SigmaCVAEConfig, citations=("de2025", "rybkin2021", "sohn2015"))
def _sigma_cvae(config: SigmaCVAEConfig, networks: Networks) -> Pair:
    decoder = _decoder(config, networks, condition_shape=config.condition_shape)  # first: as in sigma_cvae_nf
    encoder = _encoder(config, networks, condition_shape=config.condition_shape)
    prior = _options_of_prior(config).build(_parts(config, encoder))
    return Pair(models.CVAE(prior, decoder, prior_sees_condition=False), guides.CVAEGuide(encoder))


@register_pair("sigma_cvae_nf", SigmaCVAENFConfig, citations=("de2025", "kim2021", "rybkin2021", "sohn2015"))
def _sigma_cvae_nf(config: SigmaCVAENFConfig, networks: Networks) -> Pair:
    encoder, decoder = _conditional(config, networks)  # before the prior: at one seed those of sigma_cvae
    network = partial(_network_of_attributes, config)
    parts = dataclasses.replace(_parts(config, condition_shape=config.condition_shape), condition_network=network)
    options: priors.PriorOptions = priors.Gaussian()
    if config.flow != "none":
        transform = {"additive": "additive_coupling", "affine": "joint_affine_coupling"}[config.flow]
        options = priors.Flow(
            transform,
            config.num_transforms,
            config.flow_hidden,
            condition_transforms=config.couplings_see_condition,
        )
    return _conditional_pair(config, options.build(parts), encoder, decoder)


def _network_of_attributes(config: SigmaCVAENFConfig, shape: Sequence[int]) -> nn.Module:
    return make_condition_network(config.condition_network, shape, config.condition_hidden, config.gated)


@register_pair("cmog_cvae", MixtureCVAEConfig, citations=("klushyn2019", "sohn2015"))
def _cmog_cvae(config: MixtureCVAEConfig, networks: Networks) -> Pair:
    options = priors.Mixture(config.num_components, config.trained_weights)
    prior = options.build(_parts(config, condition_shape=config.condition_shape))
    return _conditional_pair(config, prior, *_conditional(config, networks))


@register_pair("cvamp_cvae", MixtureCVAEConfig, citations=("klushyn2019", "tomczak2018", "sohn2015"))
def _cvamp_cvae(config: MixtureCVAEConfig, networks: Networks) -> Pair:
    encoder, decoder = _conditional(config, networks)
    options = priors.Vamp(config.num_components, config.trained_weights)
    prior = options.build(_parts(config, encoder, condition_shape=config.condition_shape))
    return _conditional_pair(config, prior, encoder, decoder)


@register_pair("cdv_cvae", MixtureCVAEConfig, citations=("klushyn2019", "sohn2015"))
def _cdv_cvae(config: MixtureCVAEConfig, networks: Networks) -> Pair:
    encoder, decoder = _conditional(config, networks)
    options = priors.CDV(config.num_components, config.trained_weights)
    takes = "condition" if config.decoder_sees_condition else ""
    given = {"condition_shape": config.condition_shape, "decoder": decoder, "decoder_context": takes}
    return _conditional_pair(config, options.build(_parts(config, encoder, **given)), encoder, decoder)
