"""What the codes of a pair say about the data: information, correlation, and labels that can be read from them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..data import Splits
from ..data.levels import rows_of
from ..pair import Pair
from ..priors import GaussianMixture
from .aggregate import aggregate_posterior, log_aggregate, posterior_draws, upper_site
from .checks import DoesNotApply
from .registry import Estimate
from .standard import NUM_MIXED

__all__ = [
    "gaussian_correlation",
    "information",
    "linear_probe",
    "neighbours_label",
    "neighbours_label_whitened",
]

NUM_DRAWS = 5000
"""Codes that are drawn."""


def information(pair: Pair, data: Splits) -> dict[str, Estimate]:
    """What the codes tell of the data, I(x; z), and their total correlation, by the mixture of the posteriors of the
    training part, of 10,000 data at most. For codes of few dimensions and wide posteriors: the first is at most the
    logarithm of their number, and where it comes near that, the second counts how far apart the codes are."""
    x = rows_of(data.train.x, slice(NUM_MIXED))
    q = aggregate_posterior(pair, x)
    of = torch.randint(len(q.loc), (NUM_DRAWS,), device=q.loc.device)
    own = torch.distributions.Normal(q.loc[of], q.scale[of])
    z = own.sample()
    told = own.log_prob(z).sum(-1) - log_aggregate(q, z)
    each = [
        log_aggregate(GaussianMixture(q.logits, q.loc[:, d : d + 1], q.scale[:, d : d + 1]), z[:, d : d + 1])
        for d in range(z.shape[1])
    ]
    correlation = log_aggregate(q, z) - torch.stack(each).sum(0)
    return {
        name: Estimate(values.double().mean().item(), values.double().std().item() / math.sqrt(NUM_DRAWS), "nats")
        for name, values in (("information", told), ("total_correlation", correlation))
    }


def gaussian_correlation(pair: Pair, data: Splits) -> dict[str, Estimate]:
    r"""Total correlation of a Gaussian with the correlations R of the codes, :math:`-\tfrac12 \log \det R`, of one draw
    for each datum of the training part, of 10,000 at most. It knows linear dependence only, of codes of any size.

    Reference: Francesco Locatello et al., Challenging common assumptions in the unsupervised learning of disentangled
    representations, ICML 2019, arXiv:1811.12359 (appendix)."""
    x = rows_of(data.train.x, slice(NUM_MIXED))
    draws = posterior_draws(pair, upper_site(pair, x), x)
    return {
        "gaussian_correlation": Estimate(-torch.linalg.slogdet(draws.double().T.corrcoef())[1].item() / 2, None, "nats")
    }


def linear_probe(pair: Pair, data: Splits) -> dict[str, Estimate]:
    """Accuracy on the test part of a logistic regression from codes (posterior means) to the label; of attributes the
    mean balanced accuracy of one for each."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, test = (_codes_of(pair, part.x) for part in (data.train, data.test))
    if data.train.attributes is None or data.test.attributes is None:
        of_train, of_test = _labels_of(data)
        judge = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(train, of_train)
        share = judge.score(test, of_test)
        return {"linear_probe": Estimate(share, math.sqrt(share * (1 - share) / len(test)), "share of data")}
    found = []
    for known, asked in zip(data.train.attributes.T > 0.5, data.test.attributes.T > 0.5, strict=True):
        if known.any() and not known.all():
            judge = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500, class_weight="balanced"))
            found.append(balanced_accuracy_score(asked, judge.fit(train, known).predict(test)))
    return {"linear_probe": Estimate(sum(found) / len(found), None, "balanced accuracy, mean of the attributes")}


def _labels_of(data: Splits) -> tuple[Tensor, Tensor]:
    """Return the labels of the training and the test split.

    :raises DoesNotApply: if the data have none
    """
    train, test = data.train.label, data.test.label
    if train is None or test is None:
        raise DoesNotApply(f"{data.name} has no labels, which this measure compares codes with: give label_train=...")
    return train, test


def _codes_of(pair: Pair, x: Any) -> Tensor:
    """Posterior means of the first site."""
    found = [pair.encode(part.to(pair.device)) for part in x.split(1000)]
    return torch.cat([next(iter(q.values())).mean.cpu() for q in found])


def neighbours_label(pair: Pair, data: Splits) -> dict[str, Estimate]:
    """Accuracy of the label that most of the 10 nearest training codes (posterior means) have: what the representation
    still tells apart."""
    from sklearn.neighbors import KNeighborsClassifier

    of_train, of_test = _labels_of(data)
    judge = KNeighborsClassifier(10).fit(_codes_of(pair, data.train.x), of_train)
    share = judge.score(_codes_of(pair, data.test.x), of_test)
    return {"neighbours_label": Estimate(share, math.sqrt(share * (1 - share) / len(data.test)), "share of data")}


def neighbours_label_whitened(pair: Pair, data: Splits) -> dict[str, Estimate]:
    """As :func:`neighbours_label`, by distances that no affine map of the codes changes (Mahalanobis): of codes whose
    training part has the identity for its covariance. With a flow prior their shape is free, so that Euclidean ones
    compare shapes as well."""
    from sklearn.neighbors import KNeighborsClassifier

    of_train, of_test = _labels_of(data)
    train, test = (_codes_of(pair, part.x).double() for part in (data.train, data.test))
    root = torch.linalg.cholesky(train.T.cov())
    train, test = (torch.linalg.solve_triangular(root, z.T, upper=False).T for z in (train, test))
    share = KNeighborsClassifier(10).fit(train, of_train).score(test, of_test)
    return {"neighbours_label_whitened": Estimate(share, math.sqrt(share * (1 - share) / len(test)), "share of data")}
