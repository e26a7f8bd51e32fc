"""Riddhish Bhalodia, Iain Lee and Shireen Elhabian, dpVAEs: fixing sample generation for regularized VAEs, ACCV 2020,
arXiv:1911.10506: figures 1 and 3 to 8 and table 1.

Importing this package registers its experiments.
"""

from . import figures, measures, rows, tables

__all__ = ["figures", "measures", "rows", "tables"]
