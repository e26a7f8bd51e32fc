"""How near generated images are to real ones, in the features of a named network."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from .._options import typed
from .._precision import pair_in_precision_of
from ..data import Splits
from ..data.levels import rows_of
from ..data.splits import PartName
from ..errors import UserError, check_sizes
from ..pair import Pair
from .aggregate import aggregate_posterior, log_prior, low_posterior_samples, prior_samples, upper_site
from .checks import check_pair, check_values
from .distances import distances
from .features import AT_ONCE, Features, _Computed, features_for

__all__ = ["frechet", "image_distances", "kernel_distance", "precision_recall_density_coverage"]


NUM_IMAGES = 10_000
"""Most images of each kind."""


NUM_NEIGHBORS = 5
"""Number of the neighbor whose distance is the reach of a point."""


def _check_features(real: Tensor, generated: Tensor, least: int = 1) -> None:
    """Refuse features that sets of images cannot be compared by; with a NaN the linear algebra ends the process."""
    check_values("real", real, "num_real", "num_features", least=least)
    check_values("generated", generated, "num_generated", real.shape[1], least=least)


@typed
def frechet(real: Tensor, generated: Tensor) -> float:
    r"""Frechet distance of the Gaussians with the moments of two sets of features.

    .. math:: |\mu_r - \mu_g|^2 + \mathrm{tr}\big(\Sigma_r + \Sigma_g - 2 (\Sigma_r \Sigma_g)^{1/2}\big)

    Of few images it is too large, by more the more features there are: compare equal numbers only. With fewer images
    than features the covariances are singular, and rounding may leave a distance near 0 slightly negative.

    :param real: features, shape ``(num_real, num_features)``
    :param generated: features, shape ``(num_generated, num_features)``
    :raises ValueError: if a set has fewer than 2 images, or values that are not finite, or the two have different
        features

    Reference: Martin Heusel et al., GANs trained by a two time-scale update rule converge to a local Nash equilibrium,
    NIPS 2017, arXiv:1706.08500; computed by torchmetrics.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    _check_features(real, generated, least=2)
    with torch.device(real.device):  # where torchmetrics makes its sums
        distance = FrechetInceptionDistance(feature=_Computed(real.shape[1])).set_dtype(torch.float64)
    origin = real.double().mean(0)  # sums of squares keep no digits of spreads far below the mean
    distance.update(real.double() - origin, real=True)
    distance.update(generated.double() - origin, real=False)
    return distance.compute().item()


@typed
def kernel_distance(real: Tensor, generated: Tensor) -> float:
    r"""Kernel distance, KID: the squared maximum mean discrepancy with the kernel :math:`(x^\top y / D + 1)^3`.

    Without bias, whatever the number of images, and so below 0 at times. Of all pairs at once: the usual mean over
    random subsets estimates the same with more noise.

    :param real: features, shape ``(num_real, num_features)``
    :param generated: features, shape ``(num_generated, num_features)``
    :raises ValueError: if a set has fewer than 2 images, or values that are not finite, or the two have different
        features

    Reference: Mikolaj Binkowski, Dougal J. Sutherland, Michael Arbel and Arthur Gretton, Demystifying MMD GANs, ICLR
    2018, arXiv:1801.01401.
    """
    _check_features(real, generated, least=2)
    real, generated = real.double(), generated.double()

    def total(x: Tensor, y: Tensor) -> Tensor:
        sums = [((rows @ y.T) / x.shape[1] + 1).pow(3).sum() for rows in x.split(1000)]
        return torch.stack(sums).sum()

    def among(x: Tensor) -> Tensor:
        own = (x.square().sum(1) / x.shape[1] + 1).pow(3).sum()
        return (total(x, x) - own) / (len(x) * (len(x) - 1))

    across = total(real, generated) / (len(real) * len(generated))
    return (among(real) + among(generated) - 2 * across).item()


@typed
def precision_recall_density_coverage(real: Tensor, generated: Tensor, k: int = NUM_NEIGHBORS) -> dict[str, float]:
    r"""Shares of one set near the other, a point's reach being the distance to its k-th neighbour in its own set.

    ============= ==================================================================================================
    ``precision`` share of the generated within reach of a real one
    ``recall``    share of the real within reach of a generated one
    ``density``   mean number of real ones that a generated one is in reach of, over k; above 1 where they crowd
    ``coverage``  share of the real that have a generated one within their own reach
    ============= ==================================================================================================

    :param real: features, shape ``(num_real, num_features)``
    :param generated: features, shape ``(num_generated, num_features)``
    :param k: number of the neighbour
    :raises ValueError: if a set has no k-th neighbour, or values that are not finite, or the two have different
        features

    References: Tuomas Kynkaanniemi et al., Improved precision and recall metric for assessing generative models,
    NeurIPS 2019, arXiv:1904.06991. Muhammad Ferjad Naeem et al., Reliable fidelity and diversity metrics for generative
    models, ICML 2020, arXiv:2002.09797.
    """
    check_sizes(k=k)
    _check_features(real, generated)
    if min(len(real), len(generated)) <= k:
        raise UserError(f"k is {k}, and the smaller set has {min(len(real), len(generated))}: give more images")
    real, generated = real.double(), generated.double()
    reach_real, reach_generated = (_reach(x, k) for x in (real, generated))
    in_reach = real.new_zeros(len(generated))
    recalled, covered = [], []
    for rows, reach in zip(real.split(1000), reach_real.split(1000), strict=True):
        distance = distances(rows, generated)
        within = distance < reach[:, None]
        in_reach += within.sum(0)
        covered.append(within.any(1))
        recalled.append((distance < reach_generated).any(1))
    return {
        "precision": (in_reach > 0).double().mean().item(),
        "recall": torch.cat(recalled).double().mean().item(),
        "density": in_reach.mean().item() / k,
        "coverage": torch.cat(covered).double().mean().item(),
    }


def _reach(x: Tensor, k: int) -> Tensor:
    """Distance of each point to its k-th neighbour."""
    # a point is its own nearest
    return torch.cat([distances(rows, x).kthvalue(k + 1, 1).values for rows in x.split(1000)])


_REAL: WeakKeyDictionary[Splits, dict[tuple[str, str, int], Tensor]] = WeakKeyDictionary()


@typed
def image_distances(
    pair: Pair, data: Splits, part: PartName = "test", features: str = "auto"
) -> dict[str, tuple[float, str]]:
    """Distances between a part of the data and as many generated images, 10,000 at most: means of p(x|...).

    ``frechet_low_posterior`` is that of images from the tenth of the prior's draws that the aggregate posterior of the
    training part, of 10,000 data at most, likes least (section 4.1 of Bhalodia et al. 2019, where no share is named).
    Beside it stands ``frechet_low_prior``, of the tenth that the prior itself likes least: what more the first is than
    the second tells of pockets. A conditional pair generates one image for each condition of the part, and has no such
    tenths. ``frechet_of_data`` is that of as many training images: what there is to reach.

    :param pair: the pair
    :param data: its data, images
    :param part: ``"train"``, ``"valid"`` or ``"test"``
    :param features: as in :func:`features_for`
    :returns: value and unit by name; the unit names the network
    :raises ValueError: if the part has too few images for the neighbors of a point, the pair has parameters that are
        not finite, or the network is not to be had
    """
    if len(data.parts[part]) <= NUM_NEIGHBORS:
        raise UserError(
            f"generation needs at least {NUM_NEIGHBORS + 1} images, and the {part} part of {data.name} has "
            f"{len(data.parts[part])}: evaluate a larger part"
        )
    check_pair(pair)
    pair = pair_in_precision_of(data.train.x, pair)
    network = features_for(features, data, pair.device)
    found = data.parts[part]
    num = min(NUM_IMAGES, len(found))
    real = _REAL.setdefault(data, {})
    key = (network.name, part, num)
    if key not in real:
        real[key] = _features_of(data, found.x, network, num)
    given = found.condition[:num] if found.condition is not None and pair.takes_condition else None
    generated = _generated(pair, data, network, num, given)
    unit, tests = f"in features of {network.name}, {num} images", {"frechet": frechet(real[key], generated)}
    if given is None:
        x = rows_of(data.train.x, slice(NUM_IMAGES))
        q, site = aggregate_posterior(pair, x), upper_site(pair, x)
        z = low_posterior_samples(pair, q, site, num)
        low = _generated(pair, data, network, num, None, site, z)
        tests["frechet_low_posterior"] = frechet(real[key], low)
        z = prior_samples(pair, site, 10 * num)
        z = z[log_prior(pair, site, z).argsort()[:num]]
        tests["frechet_low_prior"] = frechet(real[key], _generated(pair, data, network, num, None, site, z))
    if part != "train":
        own = (network.name, "train", num)
        if own not in real:
            real[own] = _features_of(data, data.train.x, network, num)
        if len(real[own]) == num:
            tests["frechet_of_data"] = frechet(real[key], real[own])
    tests["kernel_distance"] = kernel_distance(real[key], generated)
    tests |= precision_recall_density_coverage(real[key], generated)
    return {name: (value, unit) for name, value in tests.items()}


def _features_of(data: Splits, x: Tensor, network: Features, num: int) -> Tensor:
    parts = (x[start : start + AT_ONCE] for start in range(0, min(num, len(x)), AT_ONCE))
    return torch.cat([network(_images(part, data)) for part in parts])[:num]


def _images(x: Tensor, data: Splits) -> Tensor:
    return x.reshape(len(x), *data.image_shape) if data.image_shape is not None else x


def _generated(
    pair: Pair,
    data: Splits,
    network: Features,
    num: int,
    condition: Tensor | None,
    site: str = "",
    z: Tensor | None = None,
) -> Tensor:
    """Features of generated images, of given codes where there are any."""
    found = []
    for start in range(0, num, AT_ONCE):
        rows = slice(start, min(start + AT_ONCE, num))
        fixed = {} if z is None else {site: z[rows]}
        given = None if condition is None else condition[rows]
        drawn = pair.sample(rows.stop - rows.start, given, **fixed)
        found.append(network(_images(drawn["x_mean"], data)))
    return torch.cat(found)
