"""What a pair is made of: from names and options to the options of each factor, and as JSON holds it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch.nn as nn

from .._options import plain, shown
from ..errors import UserError, hint
from ..nn.likelihood import LIKELIHOODS, Likelihood, LikelihoodOptions
from ..priors import PRIORS, PriorOptions
from ..registry import Registry
from .families import FAMILIES, Family
from .networks import NETWORKS, NetworkOptions
from .presets import PRESETS

__all__ = ["OWN", "REGISTRIES", "Recipe", "choose", "config_of", "defaults", "resolve"]


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
        config: dict[str, Any] = {"x_shape": self.x_shape} | fields_of(self.family)
        return config | {factor: recorded(options) for factor, options in self.factors.items()}

    def sizes(self) -> Iterator[tuple[int, str, Any]]:
        """Yield every size, with the path and the value of the option that holds it."""
        for path, options in (("", self.family), *self.factors.items()):
            yield from sizes_in(path, options)
        for size in self.x_shape:
            yield size, "x_shape", self.x_shape


def fields_of(options: Any) -> dict[str, Any]:
    return {one.name: recorded(getattr(options, one.name)) for one in fields(options)}


def recorded(value: Any) -> Any:
    if isinstance(value, nn.Module):
        return {"name": None, "class": f"{type(value).__module__}.{type(value).__qualname__}"}
    return {"name": value.name, **fields_of(value)} if isinstance(value, OPTIONS) else value


def sizes_in(path: str, options: Any) -> Iterator[tuple[int, str, Any]]:
    if not is_dataclass(options):
        return
    for one in fields(options):
        value, name = getattr(options, one.name), f"{path}.{one.name}" if path else one.name
        if is_dataclass(value):
            yield from sizes_in(name, value)
        for size in value if isinstance(value, tuple) else (value,):
            if type(size) is int:
                yield size, name, value


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
        raise UserError(
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
        return from_record(registry, given)
    given = plain(given)
    if isinstance(given, str):
        return default if given == default.name else registry[given]()
    if isinstance(given, nn.Module) and factor in OWN and (kind != "likelihood" or isinstance(given, Likelihood)):
        return given
    if isinstance(given, nn.Module) and kind == "likelihood":
        raise UserError(
            f"likelihood must be a pyro_priors.nn.Likelihood, got {type(given).__name__}: derive it from that class"
        )
    if isinstance(given, type):
        raise UserError(f"{factor} is the class {given.__name__}: give an instance, such as {given.__name__}()")
    if not is_dataclass(given) or registry.name_of(type(given)) is None:
        whose = f"pyro_priors.{'networks' if kind == 'networks' else kind + 's'}"
        module = ", or a module of your own" if factor in OWN else ""
        raise UserError(
            f"{factor} must be one of {', '.join(registry)}, options of {whose}{module}, got {shown(given)}"
        )
    return given


def from_record(registry: Registry[Any], record: Mapping[str, Any]) -> Any:
    """The options of a record of :meth:`Recipe.config`."""
    options = registry[record.get("name")]
    values = {
        key: from_record(registry, value) if isinstance(value, Mapping) else value
        for key, value in record.items()
        if key != "name"
    }
    known = [one.name for one in fields(options)]
    if unknown := [key for key in values if key not in known]:
        raise UserError(f"{registry.kind} '{record['name']}' has no option '{unknown[0]}'")
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
        raise UserError(f"'{option}' is an option of {paths}: give it to one of them, {found[0][0]}=...({option}=...)")
    owners = {
        factor: [key for key in REGISTRIES[factor] if option in (one.name for one in fields(REGISTRIES[factor][key]))]
        for factor in factors
    }
    for factor, keys in owners.items():
        if keys:
            now = getattr(factors[factor], "name", type(factors[factor]).__name__)
            raise UserError(
                f"{option}={shown(plain(value))} belongs to {factor}={' or '.join(map(repr, keys))}, got "
                f"{factor}='{now}': leave it out"
            )
    known = sorted({"x_shape"} | own | set(factors) | {one.name for each in factors.values() for one in _of(each)})
    raise UserError(f"pair '{name}' has no option '{option}': {hint(option, known)}")


def _of(options: Any) -> Any:
    return fields(options) if is_dataclass(options) else ()


def _replaced(options: Any, path: tuple[str, ...], value: Any) -> Any:
    first, *rest = path
    return replace(options, **{first: _replaced(getattr(options, first), tuple(rest), value) if rest else value})


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
    for key, value in record.items():
        if isinstance(value, Mapping) and "name" in value:  # a prior in a prior
            found[key] = _defaults(PRIORS[value["name"]], value)
    return found
