"""The zoo: presets, families and networks by name, and the functions that make and load pairs of them."""

from ..errors import hint
from .citations import citations_of
from .create import create, create_for, names
from .families import FAMILIES, Factors, Family, register_family
from .load import load
from .networks import NETWORKS, NetworkOptions, register_networks
from .presets import PRESETS, Preset, register_preset
from .recipe import Recipe, config_of, defaults, resolve

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
