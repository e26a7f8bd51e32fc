"""Make a pair of a preset's name and the factors that the user chooses, and load one that was saved."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn

from .. import checkpoint
from .._files import CheckpointError
from .._memory import TRAINED, TooLarge, Within, check_memory, refusing_too_many_bytes
from .._options import Seed, path_of, plain, shown, typed
from .._records import SavedPair
from ..data import Splits
from ..errors import hint
from ..nn.likelihood import LIKELIHOODS, Likelihood, LikelihoodOptions
from ..pair import Pair
from ..priors import PRIORS, PriorOptions
from ..registration import BatchCheck
from ..registry import Registry
from ..rng import seeded
from ..run_folder import find_pair
from .families import FAMILIES, Factors, Family
from .networks import NETWORKS, NetworkOptions
from .presets import PRESETS

__all__ = [
    "OWN",
    "REGISTRIES",
    "Recipe",
    "choose",
    "citations_of",
    "config_of",
    "create",
    "create_for",
    "defaults",
    "load",
    "names",
    "resolve",
]

OPTIONS = (PriorOptions, LikelihoodOptions, NetworkOptions)

REGISTRIES: dict[str, Registry[Any]] = {
    "prior": PRIORS,
    "prior_z1": PRIORS,
    "likelihood": LIKELIHOODS,
    "networks": NETWORKS,
}
"""What names of a factor are looked up in."""

OWN = ("prior", "prior_z1", "likelihood", "encoder", "decoder")
"""Parts of a pair that a user may give as modules."""


@dataclass(frozen=True)
class Recipe:
    """What a pair is made of.

    :param name: name of the preset
    :param x_shape: shape of one example
    :param family: options of the family
    :param factors: options of each factor, or modules
    """

    name: str
    x_shape: tuple[int, ...]
    family: Family
    factors: Mapping[str, Any]

    def config(self) -> dict[str, Any]:
        """As JSON holds it: the family's options, and of each factor its name and options."""
        config: dict[str, Any] = {"x_shape": self.x_shape} | _fields(self.family)
        return config | {factor: _recorded(options) for factor, options in self.factors.items()}

    def sizes(self) -> Iterator[tuple[int, str, Any]]:
        """Yield every size, with the path and the value of the option that holds it."""
        for path, options in (("", self.family), *self.factors.items()):
            yield from _sizes(path, options)
        for size in self.x_shape:
            yield size, "x_shape", self.x_shape


def _fields(options: Any) -> dict[str, Any]:
    return {one.name: _recorded(getattr(options, one.name)) for one in fields(options)}


def _recorded(value: Any) -> Any:
    if isinstance(value, nn.Module):
        return {"name": None, "class": f"{type(value).__module__}.{type(value).__qualname__}"}
    return {"name": value.name, **_fields(value)} if isinstance(value, OPTIONS) else value


def _sizes(path: str, options: Any) -> Iterator[tuple[int, str, Any]]:
    if not is_dataclass(options):
        return
    for one in fields(options):
        value, name = getattr(options, one.name), f"{path}.{one.name}" if path else one.name
        if is_dataclass(value):
            yield from _sizes(name, value)
        for size in value if isinstance(value, tuple) else (value,):
            if type(size) is int:
                yield size, name, value


def names() -> list[str]:
    """Names of the presets, sorted."""
    return [name for name in PRESETS if PRESETS[name].is_listed]


def resolve(name: str, given: Mapping[str, Any], x_shape: Any = None) -> Recipe:
    """What a pair is made of, from a preset's name and what the user gives.

    :param name: one of :func:`names`
    :param given: factors by name, options or module, and options of the family or, where one factor alone has such an
        option, of that factor; None for a factor means its default
    :param x_shape: shape of one example
    :raises ValueError: if a name or an option is unknown, belongs to two factors or to none, or is out of range
    """
    preset = PRESETS[plain(name)]
    family_class = FAMILIES[preset.family]
    left = dict(given)
    factors: dict[str, Any] = {}
    for factor, default_name in family_class.factors.items():
        default = preset.factors.get(factor) or REGISTRIES[factor][default_name]()
        factors[factor] = choose(factor, left.pop(factor, None), default)
    own = {one.name for one in fields(family_class)}
    of_family = dict(preset.options) | {option: left.pop(option) for option in list(left) if option in own}
    for option, value in left.items():
        factor, path = _place(name, option, value, factors, own)
        factors[factor] = _replaced(factors[factor], path, value)
    if x_shape is None:
        raise ValueError(
            f"pair '{name}' needs x_shape, the shape of one example: give x_shape=(784,) for flattened MNIST"
        )
    return Recipe(name, _shape(x_shape), family_class(**of_family), factors)


def _shape(value: Any) -> tuple[int, ...]:
    @dataclass(frozen=True)
    class _Shape(Family):
        x_shape: tuple[int, ...] = ()

    return _Shape(x_shape=value).x_shape


def choose(factor: str, given: Any, default: Any) -> Any:
    """The options of a factor, or a module, from whatever may stand for them."""
    registry, kind = REGISTRIES[factor], factor.partition("_")[0]
    if given is None:
        return default
    if isinstance(given, Mapping):
        return _from_record(registry, given)
    given = plain(given)
    if isinstance(given, str):
        return default if given == default.name else registry[given]()
    if isinstance(given, nn.Module) and factor in OWN and (kind != "likelihood" or isinstance(given, Likelihood)):
        return given
    if isinstance(given, nn.Module) and kind == "likelihood":
        raise ValueError(
            f"likelihood must be a pyro_priors.nn.Likelihood, got {type(given).__name__}: derive it from that class"
        )
    if isinstance(given, type):
        raise ValueError(f"{factor} is the class {given.__name__}: give an instance, such as {given.__name__}()")
    if not is_dataclass(given) or registry.name_of(type(given)) is None:
        whose = f"pyro_priors.{'networks' if kind == 'networks' else kind + 's'}"
        module = ", or a module of your own" if factor in OWN else ""
        raise ValueError(
            f"{factor} must be one of {', '.join(registry)}, options of {whose}{module}, got {shown(given)}"
        )
    return given


def _from_record(registry: Registry[Any], record: Mapping[str, Any]) -> Any:
    """The options of a record of :meth:`Recipe.config`."""
    options = registry[record.get("name")]
    values = {
        key: _from_record(registry, value) if isinstance(value, Mapping) else value
        for key, value in record.items()
        if key != "name"
    }
    known = [one.name for one in fields(options)]
    if unknown := [key for key in values if key not in known]:
        raise ValueError(f"{registry.kind} '{record['name']}' has no option '{unknown[0]}'")
    return options(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def _paths(options: Any, option: str) -> Iterator[tuple[str, ...]]:
    """Yield where options, and options in them, have one of that name."""
    if not is_dataclass(options):
        return
    for one in fields(options):
        if one.name == option:
            yield (option,)
        for path in _paths(getattr(options, one.name), option):
            yield (one.name, *path)


def _place(
    name: str, option: str, value: Any, factors: Mapping[str, Any], own: set[str]
) -> tuple[str, tuple[str, ...]]:
    """The one factor that has an option, and where.

    :raises ValueError: if none has it, or several
    """
    found = [(factor, path) for factor, options in factors.items() for path in _paths(options, option)]
    if len(found) == 1:
        return found[0]
    if found:
        paths = " and ".join(".".join((factor, *path)) for factor, path in found)
        raise ValueError(f"'{option}' is an option of {paths}: give it to one of them, {found[0][0]}=...({option}=...)")
    owners = {
        factor: [key for key in REGISTRIES[factor] if option in (one.name for one in fields(REGISTRIES[factor][key]))]
        for factor in factors
    }
    for factor, keys in owners.items():
        if keys:
            now = getattr(factors[factor], "name", type(factors[factor]).__name__)
            raise ValueError(
                f"{option}={shown(plain(value))} belongs to {factor}={' or '.join(map(repr, keys))}, got "
                f"{factor}='{now}': leave it out"
            )
    known = sorted({"x_shape"} | own | set(factors) | {one.name for each in factors.values() for one in _of(each)})
    raise ValueError(f"pair '{name}' has no option '{option}': {hint(option, known)}")


def _of(options: Any) -> Any:
    return fields(options) if is_dataclass(options) else ()


def _replaced(options: Any, path: tuple[str, ...], value: Any) -> Any:
    first, *rest = path
    return replace(options, **{first: _replaced(getattr(options, first), tuple(rest), value) if rest else value})


def create(
    name: str,
    *,
    x_shape: tuple[int, ...] | None = None,
    prior: Any = None,
    likelihood: Any = None,
    networks: str | NetworkOptions | None = None,
    encoder: nn.Module | None = None,
    decoder: nn.Module | None = None,
    **options: Any,
) -> Pair:
    """Make a pair.

    Example::

        >>> pair = create("cp_vae", x_shape=(784,), z_dim=40, num_categories=10)
        >>> pair.model(size=5).shape
        torch.Size([5, 784])
        >>> pair = create("vae", x_shape=(784,), prior="vamp", num_components=100)
        >>> pair = create("vae", x_shape=(784,), prior=priors.Flow(base=priors.Mixture(32)), likelihood="gaussian")

    :param name: one of :func:`names`
    :param x_shape: shape of one example
    :param prior: a name, options of :mod:`pyro_priors.priors`, or a module of your own
    :param likelihood: a name, options of :mod:`pyro_priors.likelihoods`, or a module of your own
    :param networks: a name, or options of :mod:`pyro_priors.networks`
    :param encoder: your own network in the encoder's place: from x (and the condition, in a conditional pair) to a
        distribution over z with event shape ``(z_dim,)``; for ``cp_vae`` the trunk, from x to ``hidden[-1]`` features;
        for ``hvae`` q(z2|x)
    :param decoder: your own network in the decoder's place: from z (and keyword ``c``, or where it sees it
        ``condition``; from z1 and z2 for ``hvae``) to a distribution over x with event shape ``x_shape``. z may have
        dimensions to the left of the batch, for samples and categories, with which ``c`` and ``condition`` broadcast:
        flatten them with ``z.flatten(0, -2)`` for convolutions, and give them back to what these return
    :param options: options of the family, such as ``z_dim``, ``condition_shape`` or, of ``hvae``, ``prior_z1``; and, as
        a shorthand, of a factor, where one factor alone has an option of that name
    :raises ValueError: if a name or an option is unknown (the message names the nearest) or ambiguous, a value is out
        of range, the factors do not fit together, or a network is no module. What your networks return is checked
        whenever the programs run: distributions must be those of ``pyro.distributions``
    """
    chosen = {"prior": prior, "likelihood": likelihood, "networks": networks}
    given = {factor: value for factor, value in chosen.items() if value is not None} | options
    if likelihood is not None and decoder is not None:
        raise ValueError(
            f"likelihood={shown(likelihood)} has no effect, because your decoder returns p(x|z) itself: leave "
            "likelihood out"
        )
    if networks is not None and encoder is not None and decoder is not None and name == "vae":
        raise ValueError(
            f"networks={shown(networks)} has no effect, because encoder and decoder are your own: leave networks out"
        )
    return make(resolve(name, given, x_shape), encoder, decoder)


def make(recipe: Recipe, encoder: nn.Module | None = None, decoder: nn.Module | None = None, copies: int = 1) -> Pair:
    """Make the pair of a recipe.

    :param copies: copies of the parameters that must fit into the memory
    :raises ValueError: as :func:`create`
    """
    for key, network in (("encoder", encoder), ("decoder", decoder)):
        if network is not None and not isinstance(network, nn.Module):
            given = f"the class {network.__name__}" if isinstance(network, type) else repr(network)
            raise ValueError(f"{key} must be a torch.nn.Module, got {given}: give an instance, such as Net()")
    family, factors = recipe.family, Factors(recipe.x_shape, encoder=encoder, decoder=decoder, **recipe.factors)
    if decoder is not None and (option := _without_effect(recipe)):
        warnings.warn(
            f"{option} is an option of the library's own decoder and has no effect on yours: leave it out", stacklevel=4
        )
    largest, path, value = max(recipe.sizes(), key=lambda found: found[0])
    of_option = f"{path}={value}", f"give a smaller {path}"
    check_memory(4 * copies * largest, *of_option)  # torch takes no size beyond 64 bits
    with refusing_too_many_bytes(copies, *of_option):
        pair = family.build(factors)
    own = [key for key in OWN if isinstance(getattr(factors, key), nn.Module)]
    for key in ("prior", "prior_z1"):
        if key in own:
            _check_signature(key, getattr(factors, key), family)
    pair.recipe = {"name": recipe.name, "config": recipe.config(), "own_networks": own}
    pair.made_of = pair.parts()
    shapes: dict[str, Any] = {"x": recipe.x_shape}
    if hasattr(family, "condition_shape"):  # others check their labels themselves, or take no condition
        shapes["condition"] = family.condition_shape
    check = BatchCheck(**shapes)
    for program in (pair.model, pair.guide):
        program.register_forward_pre_hook(check, with_kwargs=True)
    # what your networks must return; the programs compare
    of_encoder: Any = {} if encoder is None else family.encoder_event(factors)
    of_decoder: Any = {} if decoder is None else {"x": recipe.x_shape}
    pair.guide.event_shapes, pair.model.event_shapes = of_encoder, of_encoder | of_decoder
    return pair


def _check_signature(key: str, prior: Any, family: Family) -> None:
    """Refuse a prior of your own whose ``forward`` does not take what the family gives it."""
    if key == "prior_z1":
        args, kwargs, wanted = (None,), {}, "forward(self, z2)"
    elif hasattr(family, "num_categories"):
        args, kwargs, wanted = (), {"context": None}, "forward(self, context), with the category as context"
    elif getattr(family, "condition_prior", False):
        args, kwargs, wanted = (None,), {}, "forward(self, condition)"
    else:
        args, kwargs, wanted = (), {}, "forward(self)"
    try:
        signature(prior.forward).bind(*args, **kwargs)
    except TypeError:
        given = signature(prior.forward)
        raise ValueError(
            f"{key} ({type(prior).__name__}) must have the method {wanted}, got forward{given} without self"
        ) from None


def _without_effect(recipe: Recipe) -> str:
    """The first option of the likelihood that a decoder of your own does not read; nothing where all are defaults."""
    likelihood = recipe.factors["likelihood"]
    if not isinstance(likelihood, LikelihoodOptions) or likelihood == PRESETS[recipe.name].factors.get("likelihood"):
        return ""
    changed = [one.name for one in fields(likelihood) if getattr(likelihood, one.name) != one.default]
    return f"{changed[0]}={getattr(likelihood, changed[0])!r}" if changed else ""


@typed
def create_for(name: str, data: Splits, seed: Seed, **given: Any) -> Pair:
    """Make a pair for some data: the pair that ``pyro-priors train`` begins with.

    Sizes that the data fix are filled in from them, and the networks start from the seed; torch's generator is left as
    it was.

    :param name: one of :func:`names`
    :param data: what the pair is to be trained on
    :param seed: seed of the training
    :param given: as for :func:`create`; ``likelihood="auto"``, or none, is the one that fits the data, unless the
        preset has one of its own
    :raises ValueError: as :func:`create`, or if a conditional pair gets data without a condition
    """
    preset = PRESETS[plain(name)]
    if given.get("likelihood", "auto") in (None, "auto"):
        given["likelihood"] = preset.factors.get("likelihood") or data.likelihood
    if any(one.name == "condition_shape" for one in fields(FAMILIES[preset.family])):
        if data.condition_shape == ():
            raise ValueError(
                f"the condition of {data.name} is labels, and pair '{name}' needs rows of numbers: give "
                "--data.condition-labels, which makes them one-hot, or a pair such as cp_vae"
            )
        if data.condition_shape is None:
            raise ValueError(
                f"pair '{name}' needs data with a condition, {data.name} has none: give --data.condition-rows N (the "
                "last rows of each image), --data.condition-labels, or a file with condition_train"
            )
        given["condition_shape"] = data.condition_shape
    encoder, decoder = given.pop("encoder", None), given.pop("decoder", None)
    recipe = resolve(name, given, data.x_shape)
    was_gray = data.image_shape is not None and data.recipe is not None and not data.recipe["name"].endswith(".npz")
    is_gaussian = getattr(recipe.factors["likelihood"], "name", "") == "gaussian"
    if is_gaussian and data.likelihood == "bernoulli" and was_gray:
        warnings.warn(
            f"p(x|z) is a Gaussian of gray levels, and the images of {data.name} are black and white: load them with "
            "binarise='none' (--data.binarise none), or take a pair whose likelihood is bernoulli",
            stacklevel=3,
        )
    with seeded(seed):
        return make(recipe, encoder, decoder, copies=TRAINED)


@typed
def load(
    path: str | Path,
    *,
    encoder: nn.Module | None = None,
    decoder: nn.Module | None = None,
    prior: nn.Module | None = None,
    prior_z1: nn.Module | None = None,
    likelihood: nn.Module | None = None,
) -> Pair:
    """Load the pair that was saved last under a path, by :meth:`Pair.save` or by :func:`pyro_priors.fit`.

    :param path: a folder that was given to ``save``, or a run folder, whose pair is that of the best validation bound
        unless another one was saved over it
    :param encoder: the module of your own that the pair was created with, if it was; likewise the others
    :raises CheckpointError: if the save is incomplete or altered, or does not describe a pair of its tensors
    :raises ValueError: if the pair has modules of your own that are not given, or others are given, or it is not of the
        zoo
    """
    folder = find_pair(path_of("path", path))
    tensors, record = checkpoint.read(folder, "pair", SavedPair, path_of("path", path))
    recipe = record["pair"]
    if recipe is None:
        raise ValueError(
            f"{folder} holds a pair that is not of the zoo: build it and call its load_weights({str(folder)!r})"
        )
    modules = {
        "encoder": encoder,
        "decoder": decoder,
        "prior": prior,
        "prior_z1": prior_z1,
        "likelihood": likelihood,
    }
    if missing := [key for key in recipe["own_networks"] if modules[key] is None]:
        arguments = ", ".join(f"{key}=..." for key in missing)
        raise ValueError(
            f"{folder} was saved with your own {' and '.join(missing)}: load it from Python, load(path, {arguments})"
        )
    for key, module in modules.items():
        if module is not None and key not in recipe["own_networks"]:
            record_of = recipe["config"].get(key)
            name = f" '{record_of['name']}'" if isinstance(record_of, Mapping) else ""
            raise ValueError(
                f"{key} was given, but {folder} was saved with the library's own {key}{name}: leave {key} out"
            )
    pair = _made_of(recipe, modules, folder / "pair.json", sum(tensor.numel() for tensor in tensors.values()))
    dtypes = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    if len(dtypes) == 1 and dtypes <= TRAINED_IN:  # of what is not saved too
        pair.to(next(iter(dtypes)))
    checkpoint.load_module_state(pair, tensors, str(folder), in_its_precision=True)
    pair.saved_digest = record["sha256"]
    return pair


TRAINED_IN = {torch.float64, torch.float32, torch.bfloat16, torch.float16}


def _made_of(recipe: Mapping[str, Any], modules: dict[str, Any], file: Path, num_values: int) -> Pair:
    """Make the pair of a recipe that was read from a file.

    :param num_values: number of values that the file holds tensors for; a pair of many more is not made
    :raises CheckpointError: if the recipe is not that of such a pair
    """
    own = {key: module for key, module in modules.items() if module is not None}
    try:
        config = {key: tuple(value) if isinstance(value, list) else value for key, value in recipe["config"].items()}
        networks = {key: own.pop(key, None) for key in ("encoder", "decoder")}
        given = config | own
        with Within(4 * num_values + 2**24):
            return make(resolve(recipe["name"], given, given.pop("x_shape", None)), **networks)
    except (ValueError, RuntimeError, TypeError, OverflowError, AttributeError, KeyError) as error:
        # torch has several for sizes out of range
        if any(modules.values()) and not isinstance(error, TooLarge):  # of the modules that were given, perhaps
            raise
        what = f"{file} does not describe a pair ({' '.join(str(error).split())[:300]})"
        raise CheckpointError(what, "restore it from a copy, or load it with the version that saved it") from error


def config_of(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a pair in the form of :meth:`Recipe.config`, without what data fill in where nothing is said."""
    preset = PRESETS[name]
    shapes = {one.name: (1,) for one in fields(FAMILIES[preset.family]) if one.name.endswith("_shape")}
    config = resolve(name, shapes | dict(given), (1,)).config()
    said = {*given, *preset.factors}
    return {
        option: value
        for option, value in config.items()
        if not option.endswith("_shape") and (option != "likelihood" or option in said)
    }


def defaults(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The default of each option of a pair but for shapes, in the form of :meth:`Recipe.config`.

    :param name: of the preset
    :param config: options of the pair, whose factors decide which options there are
    """
    return config_of(name, {}) | {
        factor: _defaults(registry[config[factor]["name"]], config[factor])
        for factor, registry in REGISTRIES.items()
        if factor in config and config[factor]["name"] is not None
    }


def _defaults(options: Any, record: Mapping[str, Any]) -> dict[str, Any]:
    found = {"name": record["name"]} | {one.name: one.default for one in fields(options)}
    if isinstance(base := record.get("base"), Mapping):
        found["base"] = _defaults(PRIORS[base["name"]], base)
    return found


def citations_of(pair: Pair) -> tuple[str, ...]:
    """Keys of the papers behind a pair of the zoo, each once."""
    recipe: Any = pair.recipe
    preset = PRESETS.entry(recipe["name"])
    family = FAMILIES.entry(preset.value.family)
    keys = list(preset.citations) + list(family.citations)
    own = {one.name: recipe["config"][one.name] for one in fields(family.value) if one.name in recipe["config"]}
    keys += getattr(family.value(**own), "citations", ())
    for factor in FAMILIES[preset.value.family].factors:
        record = recipe["config"][factor]
        if record["name"] is not None:
            keys += _citations(REGISTRIES[factor], record)
    return tuple(dict.fromkeys(keys))


def _citations(registry: Registry[Any], record: Mapping[str, Any]) -> list[str]:
    options = _from_record(registry, record)
    keys = list(registry.entry(record["name"]).citations)
    keys += getattr(options, "citations", ())
    for value in vars(options).values():
        if isinstance(value, PriorOptions):
            keys += _citations(PRIORS, _recorded(value))
    return keys
