"""Tuhin Subhra De, Improving conditional VAE with approximation using normalizing flows, 2025, arXiv:2511.08946:
table 1 and figures 3 and 5, a table of flows beside the paper's, and one of a longer training.

Importing this package registers its experiments.
"""

from . import figures, measures, rows, tables

__all__ = ["figures", "measures", "rows", "tables"]
