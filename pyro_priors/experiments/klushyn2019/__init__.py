"""Alexej Klushyn, Nutan Chen, Botond Cseke, Justin Bayer and Patrick van der Smagt, Increasing the generalisation
capacity of conditional VAEs, ICANN 2019: figures 1 to 7, and as a table all that is measured.

Importing this package registers its experiments.
"""

from . import figures, measures, rows, tables

__all__ = ["figures", "measures", "rows", "tables"]
