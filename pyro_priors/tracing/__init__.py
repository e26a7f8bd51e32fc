"""Compiled steps: a Pyro program is traced once through Pyro's handlers, and the graph is compiled to machine code."""

from .function import CompiledFunction, EagerWarning
from .objective import CompiledObjective, compiled

__all__ = ["CompiledFunction", "CompiledObjective", "EagerWarning", "compiled"]
