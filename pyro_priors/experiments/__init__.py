"""Experiments of the papers: each table and figure as data, and what trains, evaluates and writes them.

One package per paper holds its rows (what to train), the published numbers and what differs; :func:`reproduce` does
the rest, as does ``pyro-priors reproduce PAPER/EXPERIMENT``.
"""

from . import bhalodia2019, de2025, klushyn2019, lavda2019  # noqa: F401  (they register their experiments)
from .experiment import (
    Column,
    Experiment,
    Row,
    Start,
    Trained,
    add,
    find,
    in_features,
    log_likelihood,
    names,
    number,
    seeds,
)
from .run import Report, reproduce
from .table import Result

__all__ = [
    "Column",
    "Experiment",
    "Report",
    "Result",
    "Row",
    "Start",
    "Trained",
    "add",
    "find",
    "in_features",
    "log_likelihood",
    "names",
    "number",
    "reproduce",
    "seeds",
]
