"""Figures. Each function returns a matplotlib figure; only :func:`figures` and :func:`saved_figures` write files."""

from .categories import aggregate_category, categories, confusion, samples_by_category
from .images import completions, grasps, image_grid, image_panels, image_rows, reconstructions, samples, shown
from .latent import MASSES, latent_scatter, leakage_curves, magnification, path, planar_site, pockets, prior_density
from .run import bounds_by_epoch, curves, curves_of_seeds, figures, saved_figures
from .toys import density, histograms

__all__ = [
    "MASSES",
    "aggregate_category",
    "bounds_by_epoch",
    "categories",
    "completions",
    "confusion",
    "curves",
    "curves_of_seeds",
    "density",
    "figures",
    "grasps",
    "histograms",
    "image_grid",
    "image_panels",
    "image_rows",
    "latent_scatter",
    "leakage_curves",
    "magnification",
    "path",
    "planar_site",
    "pockets",
    "prior_density",
    "reconstructions",
    "samples",
    "samples_by_category",
    "saved_figures",
    "shown",
]
