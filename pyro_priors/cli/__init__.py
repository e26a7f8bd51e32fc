"""The command line, ``pyro-priors``."""

from .main import main

__all__ = ["main"]
