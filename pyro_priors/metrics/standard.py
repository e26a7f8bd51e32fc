"""The metrics of the library, by name."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ..data import Part
from ..objectives import ELBO
from .aggregate import (
    aggregate_posterior,
    leakage_below,
    log_aggregate,
    log_prior,
    nearest_neighbour_kl,
    posterior_draws,
    prior_samples,
    upper_site,
)
from .clustering import hungarian_accuracy, majority_accuracy
from .factors import factor_information, mutual_information_gap
from .features import features_for, kept_classifier
from .fidelity import condition_fidelity, diversity
from .generation import image_distances
from .latent import active_categories, active_units, effective_categories
from .registry import Context, Estimate, mean_of, register_metric, rows

NUM_DRAWS = 5000
"""Draws of aggregate posterior and prior for the gap between them."""


NUM_MIXED = 10_000
"""Most data whose posteriors the aggregate posterior is a mixture of."""


CONDITIONAL = "a conditional pair of images, whose condition is a label or attributes (--data.condition-labels)"


LEAKAGE_QUANTILES = (0.001, 0.01, 0.1)
"""Of log p(z) under the prior: thresholds of leakage that mean the same whatever the prior."""


@register_metric("bound")
def _bound(context: Context) -> dict[str, Estimate]:
    """The evidence lower bound at weight 1 and its parts, one sample of z for each datum.

    Where the category is relaxed in training, also what the training programs give, whatever that is worth.
    """
    elbo = ELBO()
    elbo.exact = True
    found: dict[str, list[Tensor]] = {}
    for x, condition in rows(context, context.part):
        terms = elbo.terms(context.pair.model, context.pair.guide, x, condition)
        for name, value in {"bound": terms.bound, **terms.parts}.items():
            found.setdefault(name, []).append(value.cpu())
    if any(getattr(module, "relaxes_category", False) for module in context.pair.modules()):
        before = [(buffer, buffer.clone()) for buffer in context.pair.buffers()]
        context.pair.train()
        for x, condition in rows(context, context.part):
            terms = elbo.terms(context.pair.model, context.pair.guide, x, condition)
            found.setdefault("relaxed_bound", []).append(terms.bound.cpu())
        context.pair.eval()
        for buffer, value in before:  # running statistics of a network of one's own
            buffer.copy_(value)
    context.per_example["elbo"] = torch.cat(found["bound"])
    return {name: mean_of(torch.cat(values)) for name, values in found.items()}


@register_metric("log_likelihood")
def _log_likelihood(context: Context) -> dict[str, Estimate]:
    """Importance-sampled log p(x), the category summed or drawn; bits per dimension too where x is continuous."""
    found = list(rows(context, context.part))
    x, conditions = torch.cat([x for x, _ in found]), [given for _, given in found if given is not None]
    condition = torch.cat(conditions) if conditions else None
    how: Any = {"progress": context.progress, "categories": context.categories}
    log_p = context.pair.log_prob(x, condition, context.num_samples, **how).cpu()
    context.per_example["log_likelihood"] = log_p
    results = {"log_likelihood": mean_of(log_p)}
    if context.data.likelihood != "bernoulli":
        size = math.prod(context.data.x_shape)
        likelihood = context.pair.likelihood
        kind = f"of {'a density' if likelihood is None else likelihood.values}"
        if kind == "of a density" and context.data.image_shape is not None:
            kind += " of values from 0 to 1, not dequantised (of levels from 0 to 255 it is log2 255 = 7.99 more)"
        results["bits_per_dim"] = mean_of(-log_p / (size * math.log(2)), f"bits per dimension, {kind}")
    return results


def _codes(context: Context, part: str) -> dict[str, Tensor]:
    """Posterior means of z by site, and q(c|x), without labels, as ``"c"``."""
    found: dict[str, list[Tensor]] = {}
    for x, condition in rows(context, part):
        for name, posterior in context.pair.encode(x, None if context.pair.takes_labels else condition).items():
            code = posterior.probs if name == "c" else posterior.mean
            found.setdefault(name, []).append(code.cpu())
    return {name: torch.cat(values) for name, values in found.items()}


@register_metric("active_units")
def _active_units(context: Context) -> dict[str, Estimate]:
    """Active units of each continuous site, of how many: of the posterior's mean less the prior's."""
    found: dict[str, list[Tensor]] = {}
    for x, condition in rows(context, context.part):
        for name, (q, p) in context.pair.posterior_and_prior(x, condition).items():
            if name != "c":
                found.setdefault(name, []).append((q.mean - _centre(p)).cpu())
    return {
        f"active_units_{name}": Estimate(active_units(torch.cat(means)), None, f"of {means[0].shape[-1]}")
        for name, means in found.items()
    }


def _first(context: Context) -> Tensor:
    """Data of the part, as many of the first as its mixture is made of."""
    num, found = 0, []
    for x, _ in rows(context, context.part):
        found.append(x[: NUM_MIXED - num])
        num += len(found[-1])
        if num == NUM_MIXED:
            break
    return torch.cat(found)


def _centre(prior: Any) -> Tensor:
    """The prior's mean; of a flow, which knows none, what it makes of its base's mean."""
    if not isinstance(prior, dist.TransformedDistribution):
        return prior.mean
    centre = prior.base_dist.mean
    for transform in prior.transforms:
        centre = transform(centre)
    return centre


@register_metric("prior_gap", needs="a pair that takes no condition")
def _prior_gap(context: Context) -> dict[str, Estimate]:
    """KL of the aggregate posterior of the part from the prior, and the reverse, by draws of each and exact densities;
    their sum, and that sum as nearest neighbours estimate it of one draw for each datum.

    The exact densities are those of a mixture of so many data. In many dimensions it is thin, and the KL that of the
    number of data: where q(z) of all data is N(0, I), posteriors of scale 0.3 give a symmetric KL of 134 nats in 32
    dimensions (1,000 data) and of 316 in 64 (10,000). The nearest neighbours of single draws are free of that.
    """
    if _is_conditional(context):
        return {}
    x = _first(context)
    q, site = aggregate_posterior(context.pair, x), upper_site(context.pair, x)
    z_q, z_p = q.sample((NUM_DRAWS,)), prior_samples(context.pair, site, NUM_DRAWS)
    forward, backward = (
        sign * (log_aggregate(q, z) - log_prior(context.pair, site, z)).cpu() for z, sign in ((z_q, 1), (z_p, -1))
    )
    both = mean_of(forward + backward)  # independent draws, in pairs
    found = {
        "kl_aggregate_prior": mean_of(forward, "nats"),
        "kl_prior_aggregate": mean_of(backward, "nats"),
        "symmetric_kl": Estimate(both.value, both.stderr, "nats"),
    }
    if len(x) > 1:  # one has no neighbours
        single = posterior_draws(context.pair, site, x[:NUM_DRAWS])
        neighbours = nearest_neighbour_kl(single, z_p) + nearest_neighbour_kl(z_p, single)
        found["symmetric_kl_neighbours"] = Estimate(neighbours, None, "nats")
    return found


@register_metric("leakage", needs="a pair that takes no condition", on_request=True)
def _leakage(context: Context) -> dict[str, Estimate]:
    """Leakage scores at quantiles of log p(z) under the prior, the share of the aggregate posterior below each, as
    large as the quantile where nothing leaks, and share times score. A score of which there are no draws is left out.
    """
    if _is_conditional(context):
        return {}
    x = _first(context)
    q, site = aggregate_posterior(context.pair, x), upper_site(context.pair, x)
    z = q.sample((NUM_DRAWS,))
    log_q, log_p = log_aggregate(q, z).cpu(), log_prior(context.pair, site, z).cpu()
    of_prior = log_prior(context.pair, site, prior_samples(context.pair, site, NUM_DRAWS)).cpu()
    found: dict[str, Estimate] = {}
    for quantile in LEAKAGE_QUANTILES:
        one, spread = leakage_below(log_q, log_p, of_prior, quantile)
        there = f"below the prior's {100 * quantile:g}% quantile"
        if one.share:
            stderr = None if math.isnan(one.stderr) else one.stderr
            found[f"leakage_{quantile:g}"] = Estimate(one.score, stderr, f"nats, mean log q(z)/p(z) {there}")
        found[f"leaked_{quantile:g}"] = Estimate(one.leaked, one.leaked_stderr, f"nats of KL(q(z) || p(z)) {there}")
        found[f"share_below_{quantile:g}"] = Estimate(one.share, spread, f"share of the aggregate posterior {there}")
    return found


@register_metric("categories", needs="a pair with categories")
def _categories(context: Context) -> dict[str, Estimate]:
    """Active and effective number of categories of the aggregate posterior on this part."""
    if not context.pair.num_categories:
        return {}
    aggregate = _codes(context, context.part)["c"].double().mean(0)
    unit = f"of {len(aggregate)}"
    return {
        "active_categories": Estimate(active_categories(aggregate), None, unit),
        "effective_categories": Estimate(effective_categories(aggregate), None, unit),
    }


@register_metric("accuracy", needs="a pair with categories, and labelled data")
def _accuracy(context: Context) -> dict[str, Estimate]:
    """Agreement of the most probable category with the labels, by Hungarian matching and the training part's vote; of
    a pair trained with labels as its condition also without either, as a classifier."""
    part: Part = context.data.parts[context.part]
    num_labels, train_label = context.data.num_labels, context.data.train.label
    if not context.pair.num_categories or num_labels is None or part.label is None or train_label is None:
        return {}
    sizes = (context.pair.num_categories, num_labels)
    category = _codes(context, context.part)["c"].argmax(-1)
    train_category = _codes(context, "train")["c"].argmax(-1)
    values = {
        "accuracy_hungarian": hungarian_accuracy(category, part.label, *sizes),
        "accuracy_majority": majority_accuracy(category, part.label, train_category, train_label, *sizes),
    }
    if context.pair.takes_labels and context.data.condition_shape == ():
        values["accuracy"] = (category == part.label.cpu()).double().mean().item()
    return {
        name: Estimate(value, math.sqrt(value * (1 - value) / len(part)), "share of data")
        for name, value in values.items()
    }


@register_metric(
    "factors", needs="data of known factors, and a pair without categories whose code has two dimensions or more"
)
def _factors(context: Context) -> dict[str, Estimate]:
    """Mutual information gap of each factor that the data were made of, and its mean over them; of the upper code.

    A factor that does not vary in the part has no gap, and is left out.
    """
    part = context.data.parts[context.part]
    if context.data.factor_sizes is None or part.attributes is None or context.pair.num_categories:
        return {}
    encoded = [context.pair.encode(x, given) for x, given in rows(context, context.part)]
    site = next(iter(encoded[0]))
    loc, scale = (torch.cat([getattr(q[site], name).cpu() for q in encoded]) for name in ("mean", "stddev"))
    if loc.shape[-1] < 2:
        return {}
    factors = part.attributes.long()
    gaps = mutual_information_gap(factor_information(loc, scale, factors), factors)
    names = context.data.attribute_names or ()
    found = {f"mutual_information_gap_{name}": gap for name, gap in zip(names, gaps, strict=True)}
    found = {"mutual_information_gap": gaps.nanmean()} | found
    unit = "share of the factor's entropy"
    return {name: Estimate(gap.item(), None, unit) for name, gap in found.items() if not gap.isnan()}


@register_metric("scale", needs="a Gaussian p(x|z)")
def _scale(context: Context) -> dict[str, Estimate]:
    """Scale of a Gaussian p(x|z) that is one number, or has one for each channel: their root mean square."""
    likelihood = context.pair.likelihood
    if likelihood is None or not likelihood.has_scale:
        return {}
    given: Any = likelihood(next(context.pair.parameters()).new_zeros(1, *context.data.x_shape))
    return {"scale": Estimate(given.variance.mean().sqrt().item(), None, "standard deviation of p(x|z), units of x")}


@register_metric("generation", needs="images", on_request=True)
def _generation(context: Context) -> dict[str, Estimate]:
    """Distances between generated and real images, in the features of a network that each unit names."""
    if context.data.image_shape is None:
        return {}
    found = image_distances(context.pair, context.data, context.part, context.features)
    return {name: Estimate(value, None, unit) for name, (value, unit) in found.items()}


def _is_conditional(context: Context) -> bool:
    return context.data.condition_shape is not None and context.pair.takes_condition


def _is_controlled(context: Context) -> bool:
    """Whether the pair takes a condition of images that has names."""
    named = context.data.condition_names is not None and context.data.image_shape is not None
    return named and context.pair.takes_condition


@register_metric("fidelity", needs=CONDITIONAL, on_request=True)
def _fidelity(context: Context) -> dict[str, Estimate]:
    """Whether generated images have the condition that was asked for, by a classifier of these data."""
    if not _is_controlled(context):
        return {}
    classifier = kept_classifier(context.data, context.pair.device)
    found = condition_fidelity(context.pair, context.data, classifier, context.part)
    return {name: Estimate(*values) for name, values in found.items()}


@register_metric("diversity", needs=CONDITIONAL, on_request=True)
def _diversity(context: Context) -> dict[str, Estimate]:
    """How different images generated under one condition are, in the features of a network that the unit names."""
    if not _is_controlled(context):
        return {}
    network = features_for(context.features, context.data, context.pair.device)
    unit = f"distance in features of {network.name}"
    found = diversity(context.pair, context.data, network, unit, context.part)
    return {name: Estimate(*values) for name, values in found.items()}
