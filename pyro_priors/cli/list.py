"""The command ``pyro-priors list``, which shows what can be chosen by name."""

from collections.abc import Sequence
from dataclasses import dataclass

from .. import data, experiments, metrics, objectives, priors, zoo
from ..nn import likelihoods
from ..registry import load_plugins
from . import parsing

__all__ = ["run"]


def run(arguments: Sequence[str]) -> None:
    """Run the command.

    :param arguments: the arguments after ``list``
    :raises ValueError: if it is given an argument
    """

    @dataclass
    class Options:
        """What there is: pairs, priors, objectives, data, metrics, experiments."""

    parsing.parse(Options, arguments, "list")
    load_plugins()
    rows = {
        "pairs": zoo.names(),
        "priors": list(priors.PRIORS),
        "likelihoods": list(likelihoods.LIKELIHOODS),
        "networks": list(zoo.NETWORKS),
        "objectives": sorted(objectives.OBJECTIVES),
        "data": [*data.names(), "FILE.npz"],
        "metrics": list(metrics.METRICS),
    }
    lines = [f"{name:12}{'  '.join(values)}" for name, values in rows.items()]
    for i, name in enumerate(sorted(experiments.names())):
        lines.append(f"{'' if i else 'experiments':12}{name:22}{experiments.find(name).title}")
    print("\n".join(lines))
