"""Frantzeska Lavda, Magda Gregorova and Alexandros Kalousis, Improving VAE generations of multimodal data through
data-dependent conditional priors, 2019, arXiv:1911.10885: figures 3 to 9 and table 1.

Importing this package registers its experiments, and the pair ``cp_vae_reference``, the published code of the paper.
"""

from . import clustering, figures, measures, reference, rows, tables

__all__ = ["clustering", "figures", "measures", "reference", "rows", "tables"]
