"""The zoo: presets, families and networks by name, and the functions that make and load pairs of them."""

from ..errors import hint
from .create import Recipe, citations_of, config_of, create, create_for, defaults, load, names, resolve
from .families import FAMILIES, Factors, Family, register_family
from .networks import NETWORKS, NetworkOptions, register_networks
from .presets import PRESETS, Preset, register_preset

__all__ = [
    "FAMILIES",
    "NETWORKS",
    "PRESETS",
    "Factors",
    "Family",
    "NetworkOptions",
    "Preset",
    "Recipe",
    "citations_of",
    "config_of",
    "create",
    "create_for",
    "defaults",
    "hint",
    "load",
    "names",
    "register_family",
    "register_networks",
    "register_preset",
    "resolve",
]
