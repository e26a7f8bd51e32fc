"""BibTeX of the papers behind a pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from .._options import typed
from ..citations import BIBTEX
from ..errors import UserError
from ..pair import Pair
from ..priors import PRIORS, PriorOptions
from ..registry import Registry
from .families import FAMILIES
from .presets import PRESETS
from .recipe import REGISTRIES, from_record, recorded

__all__ = ["citation"]


@typed
def citation(pair: Pair) -> str:
    """BibTeX of the papers behind a pair, and of Pyro.

    :param pair: a pair of the zoo
    :raises ValueError: if the pair is not of the zoo
    """
    if pair.recipe is None:
        raise UserError("this pair is not of the zoo: only those know the papers behind them")
    papers = citations_of(pair)
    return "\n\n".join(BIBTEX[key] for key in (*papers, "bingham2019"))


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
    options = from_record(registry, record)
    keys = list(registry.entry(record["name"]).citations)
    keys += getattr(options, "citations", ())
    for value in vars(options).values():
        if isinstance(value, PriorOptions):
            keys += _citations(PRIORS, recorded(value))
    return keys
