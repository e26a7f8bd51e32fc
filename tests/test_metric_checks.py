"""What metrics refuse before they compute, in one line, and what they keep of small numbers."""

import dataclasses
import math
import re
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import pyro_priors as pp
from pairs import batch, create
from pyro_priors import metrics
from pyro_priors.metrics.distances import distances
from pyro_priors.priors import GaussianMixture

NAN, INF = float("nan"), float("inf")


def normal(*shape, bad=None, at=(3, 1)):
    """Standard normal numbers, one of them ``bad``."""
    x = torch.randn(*shape)
    if bad is not None:
        x[at] = bad
    return x


def vae():
    return create("vae")


def mixture(num=4):
    return GaussianMixture(torch.zeros(num), torch.randn(num, 2), torch.ones(num, 2))


CATEGORY = torch.tensor([0, 1, 2, 1])
LOG_Q = torch.zeros(9)
POSES = torch.rand(3, 4, 6)

REFUSED = {
    # features
    "frechet nan": (lambda: metrics.frechet(normal(20, 4), normal(20, 4, bad=NAN)), r"generated has NaN or.*\[3, 1\]"),
    "frechet inf": (lambda: metrics.frechet(normal(20, 4, bad=INF), normal(20, 4)), r"real has NaN or inf.*\[3, 1\]"),
    "frechet one": (
        lambda: metrics.frechet(normal(1, 4), normal(20, 4)),
        "real must have at least 2 rows, got 1: give",
    ),
    "frechet one made": (lambda: metrics.frechet(normal(9, 4), normal(1, 4)), "generated must have at least 2 rows"),
    "frechet sizes": (
        lambda: metrics.frechet(normal(9, 4), normal(9, 3)),
        r"generated must have shape \(num_generated, 4\), got \(9, 3\): reshape it",
    ),
    "frechet images": (
        lambda: metrics.frechet(normal(9, 1, 4), normal(9, 4)),
        r"real must have shape \(num_real, num_features\), got \(9, 1, 4\): reshape it",
    ),
    "frechet numpy": (
        lambda: metrics.frechet(normal(9, 4).numpy(), normal(9, 4)),
        r"real must be a tensor, got ndarray: give torch.as_tensor\(real\)",
    ),
    "kernel": (lambda: metrics.kernel_distance(normal(9, 4), normal(9, 4, bad=NAN)), "generated has NaN or infinite"),
    "shares": (
        lambda: metrics.precision_recall_density_coverage(normal(9, 4, bad=NAN), normal(9, 4)),
        "real has NaN or infinite values",
    ),
    "shares k": (
        lambda: metrics.precision_recall_density_coverage(normal(9, 4), normal(9, 4), k=0),
        "k must be a positive integer, got 0",
    ),
    "pairwise one": (lambda: metrics.mean_pairwise_distance(normal(1, 4)), "features must have at least 2 rows, got 1"),
    "pairwise nan": (
        lambda: metrics.mean_pairwise_distance(normal(2, 5, 4, bad=NAN, at=(0, 3, 1))),
        "features has NaN",
    ),
    "images": (
        lambda: metrics.Features("pixels", 4, lambda x: x.flatten(1))(normal(9, 1, 2, 2, bad=NAN, at=(3, 0, 1, 1))),
        r"images has NaN or infinite values, the first at \[3, 0, 1, 1\]",
    ),
    "classifier": (
        lambda: metrics.Classifier((1, 4, 4), 2).probabilities(normal(9, 16, bad=NAN)),
        "x has NaN or infinite values",
    ),
    "classifier none": (
        lambda: metrics.Classifier((1, 4, 4), 2).features(normal(0, 16)),
        r"x is empty, shape \(0, 16\)",
    ),
    # codes
    "neighbors nan": (lambda: metrics.nearest_neighbour_kl(normal(9, 2, bad=NAN), normal(9, 2)), "x has NaN or inf"),
    "neighbors sizes": (
        lambda: metrics.nearest_neighbour_kl(normal(9, 2), normal(9, 3)),
        r"y must have shape \(m, 2\)",
    ),
    "neighbors one": (lambda: metrics.nearest_neighbour_kl(normal(1, 2), normal(9, 2)), "x must have at least 2 rows"),
    "leakage nan": (lambda: metrics.leakage(LOG_Q, normal(9, bad=NAN, at=3), [0.0]), r"log_p has NaN values.*at \[3\]"),
    "leakage inf": (
        lambda: metrics.leakage(normal(9, bad=INF, at=3), LOG_Q, [0.0]),
        "log_q has NaN or infinite values",
    ),
    "leakage sizes": (lambda: metrics.leakage(LOG_Q, normal(8), [0.0]), r"log_p must have shape \(9,\), got \(8,\)"),
    "leakage none": (lambda: metrics.leakage(normal(0), normal(0), [0.0]), "log_q must have at least 1 row, got 0"),
    "quantile": (
        lambda: metrics.leakage_below(LOG_Q, LOG_Q, LOG_Q, 1.5),
        "quantile must be from 0 to 1, got 1.5: 0.01 is the lowest hundredth",
    ),
    "resamples": (
        lambda: metrics.leakage_below(LOG_Q, LOG_Q, LOG_Q, 0.5, 0),
        "num_resamples must be a positive integer, got 0",
    ),
    "prior none": (lambda: metrics.log_prior(vae(), "z", normal(0, 2)), "z must have at least 1 row, got 0"),
    "prior sizes": (lambda: metrics.log_prior(vae(), "z", normal(5, 3)), r"z must have shape \(num, 2\), got \(5, 3\)"),
    "prior nan": (lambda: metrics.log_prior(vae(), "z", normal(5, 2, bad=NAN)), "z has NaN or infinite values"),
    "prior site": (
        lambda: metrics.log_prior(vae(), "z2", normal(5, 2)),
        "site must be a latent site of the pair with a density, got 'z2': did you mean 'z'",
    ),
    "draws site": (lambda: metrics.posterior_draws(vae(), "y", batch("vae")[0]), "site must be a latent .*, got 'y'"),
    "draws num": (lambda: metrics.prior_samples(vae(), "z", 0), "num must be a positive integer, got 0"),
    "low": (
        lambda: metrics.low_posterior_samples(vae(), mixture(), "z", 0),
        "num must be a positive integer",
    ),
    "high": (
        lambda: metrics.high_posterior_samples(vae(), mixture(), "z", 5, 0),
        "of must be a positive integer",
    ),
    "aggregate": (lambda: metrics.aggregate_posterior(vae(), normal(5, 6, bad=NAN)), "x has NaN or infinite values"),
    "aggregate none": (lambda: metrics.aggregate_posterior(vae(), normal(0, 6)), "x must hold at least one datum"),
    "draws nan": (lambda: metrics.posterior_draws(vae(), "z", normal(5, 6, bad=NAN)), "x has NaN or infinite values"),
    "density": (lambda: metrics.log_aggregate(mixture(), normal(5, 3)), r"z must have shape \(num, 2\), got \(5, 3\)"),
    "means none": (lambda: metrics.posterior_means(vae(), normal(0, 6)), "x must have at least 1 row, got 0"),
    "means nan": (lambda: metrics.posterior_means(vae(), normal(5, 6, bad=NAN)), "x has NaN or infinite values"),
    "components none": (
        lambda: metrics.prior_components(create("cvae"), normal(0, 8)),
        "condition must have at least 1 row, got 0",
    ),
    "components of none": (
        lambda: metrics.prior_components(create("sigma_cvae"), normal(5, 8)),
        "the prior of this pair does not see a condition: make a pair such as cmog_cvae",
    ),
    "components of a flow": (
        lambda: metrics.prior_components(create("sigma_cvae_nf"), normal(5, 8)),
        "components are those of Gaussians, and the prior is a .*Distribution",
    ),
    "components": (
        lambda: metrics.Components.measure(normal(2, 3, 2), normal(9, 2, bad=NAN), normal(4, 2)),
        r"codes has NaN or infinite values, the first at \[3, 1\]",
    ),
    "components sizes": (
        lambda: metrics.Components.measure(normal(2, 3, 2), normal(9, 2), normal(4, 3)),
        r"held_out must have shape \(num_held_out, 2\), got \(4, 3\)",
    ),
    "given": (
        lambda: metrics.samples_given(create("cvae"), normal(0, 8), 2),
        "condition must have at least 1 row, got",
    ),
    "magnification": (lambda: metrics.log_magnification(lambda z: z, normal(5, 2, bad=NAN)), "z has NaN or infinite"),
    "units": (lambda: metrics.active_units(normal(5, 2, bad=NAN)), "posterior_means has NaN or infinite values"),
    "units shape": (lambda: metrics.active_units(normal(5)), r"posterior_means must have shape \(num_data, z_dim\)"),
    "categories": (lambda: metrics.active_categories(normal(5, bad=NAN, at=3)), "aggregate has NaN or infinite values"),
    "effective": (lambda: metrics.effective_categories(normal(0)), "aggregate must have at least 1 row, got 0: give"),
    "variety": (
        lambda: metrics.variety(normal(5, 2), [0.5]),
        r"probabilities must have shape \(num_conditions, num_sa",
    ),
    "information": (
        lambda: metrics.factor_information(normal(4, 2), torch.zeros(4, 2), CATEGORY[:, None]),
        "scale must be above 0, got 0.0: give standard deviations",
    ),
    "information nan": (
        lambda: metrics.factor_information(normal(4, 2, bad=NAN), torch.ones(4, 2), CATEGORY[:, None]),
        "loc has NaN or infinite values",
    ),
    "factors": (
        lambda: metrics.factor_information(normal(4, 2), torch.ones(4, 2), CATEGORY[:, None].float()),
        r"factors\[:, 0\] must hold integers, got torch.float32: give factors\[:, 0\].long\(\)",
    ),
    "gap": (
        lambda: metrics.mutual_information_gap(torch.rand(3, 2), CATEGORY[:, None]),
        r"factors must have shape \(N, 2\), got \(4, 1\)",
    ),
    # labels
    "category": (
        lambda: metrics.hungarian_accuracy(CATEGORY, CATEGORY, 2, 3),
        "category must hold integers from 0 to 1, got 2: number them from 0",
    ),
    "label": (
        lambda: metrics.hungarian_accuracy(CATEGORY, CATEGORY - 1, 3, 3),
        "label must hold integers from 0 to 2, got -1: number them from 0",
    ),
    "label sizes": (
        lambda: metrics.hungarian_accuracy(CATEGORY, CATEGORY[:3], 3, 3),
        r"label must have shape \(4,\), got \(3,\): reshape it",
    ),
    "label none": (lambda: metrics.hungarian_accuracy(CATEGORY[:0], CATEGORY[:0], 3, 3), "label must have at least 1"),
    "label float": (
        lambda: metrics.majority_accuracy(CATEGORY, CATEGORY.float(), CATEGORY, CATEGORY, 3, 3),
        r"label must hold integers, got torch.float32: give label.long\(\)",
    ),
    "vote": (
        lambda: metrics.majority_accuracy(CATEGORY, CATEGORY, CATEGORY, CATEGORY + 1, 3, 3),
        "fit_label must hold integers from 0 to 2, got 3",
    ),
    # grasps
    "overlap": (
        lambda: metrics.jaccard(normal(3, 4), normal(4, 2)),
        r"corners must have shape \(..., 4, 2\), got \(3, 4",
    ),
    "overlap nan": (lambda: metrics.jaccard(normal(4, 2), normal(4, 2, bad=NAN)), "others has NaN or infinite values"),
    "agree": (lambda: metrics.agree(normal(5), normal(6)), r"pose must have shape \(..., 6\), got \(5,\)"),
    "rectangles": (
        lambda: metrics.rectangle_metric(POSES, POSES[0], torch.tensor([0, 1, 2, 3])),
        "image must hold integers from 0 to 2, got 3",
    ),
    "scores": (
        lambda: metrics.GraspDiscriminator((1, 16, 16)).scores(normal(5, 6, bad=NAN), torch.zeros(5, 256)),
        "pose has NaN or infinite values",
    ),
    "scores rows": (
        lambda: metrics.GraspDiscriminator((1, 16, 16)).scores(normal(5, 6), torch.zeros(4, 256)),
        r"image must have shape \(5, ...\), got \(4, 256\)",
    ),
    "small images": (
        lambda: metrics.GraspDiscriminator((1, 64, 8)),
        r"image_shape must have a height and a width of at least 16 for 4 con.*, got \(1, 64, 8\): give fewer channels",
    ),
}


@pytest.mark.parametrize("which", REFUSED)
def test_what_a_metric_cannot_be_computed_of_is_refused_in_one_line(which):
    compute, message = REFUSED[which]
    with pytest.raises(ValueError, match=message) as caught:
        compute()
    assert "\n" not in str(caught.value)


def test_every_public_metric_is_checked():
    """Every function of tensors is in the list above; those of pairs, data and records have tests of their own."""
    others = {"evaluate", "evaluate_each", "condition_fidelity", "diversity", "image_distances", "trained_classifier"}
    others |= {"trained_discriminator", "kept_classifier", "features_for", "pair_scores", "images_of"}
    others |= {"record", "beside", "can_be_beside"}
    others |= {"information", "gaussian_correlation", "linear_probe"}  # test_representation.py
    others |= {"neighbours_label", "neighbours_label_whitened"}
    others |= {"register_metric", "rows", "mean_of"}  # test_metrics.py
    others |= {"digest_of_examples", "keep_examples", "kept_examples", "paired_differences"}  # test_cli_compare.py
    named = set(re.findall(r"metrics\.(\w+)", Path(__file__).read_text()))
    functions = {name for name in metrics.__all__ if name.islower()}
    assert functions - others <= named


# of a pair and its data


def images(num=60, size=8, test=40):
    """Images of one of three pixels, and which it is."""
    label = torch.arange(num) % 3
    x = torch.zeros(num, 1, size, size)
    x[torch.arange(num), 0, label] = 1
    parts = {"train": slice(num), "valid": slice(20), "test": slice(test)}
    return pp.data.from_arrays(
        **{f"x_{name}": x[rows] for name, rows in parts.items()},
        **{f"label_{name}": label[rows] for name, rows in parts.items()},
        name="made",
    )


@pytest.mark.parametrize("num", [1, 5])
def test_generation_needs_images_enough_for_neighbors(num):
    data = images(test=num)
    pair = pp.create("vae", x_shape=(1, 8, 8), z_dim=2, hidden=(8,))
    message = f"generation needs at least 6 images, and the test part of made has {num}: evaluate a larger part"
    with pytest.raises(ValueError, match=f"^{message}$"):
        metrics.evaluate(pair, data, metrics=["generation"], progress=False)
    with pytest.raises(ValueError, match=message):
        metrics.image_distances(pair, data)


def test_six_images_are_enough(monkeypatch):
    made = metrics.Features("pixels", 64, lambda x: x.flatten(1))
    monkeypatch.setitem(metrics.FEATURES, "pixels", lambda data, device: made)
    pair = pp.create("vae", x_shape=(1, 8, 8), z_dim=2, hidden=(8,))
    found = metrics.image_distances(pair, images(test=6), features="pixels")
    assert all(math.isfinite(value) for value, _ in found.values()) and found["frechet"][0] > 0


@pytest.mark.parametrize("name", ["evaluate", "image_distances", "condition_fidelity", "diversity"])
def test_a_pair_that_diverged_is_refused(name):
    data = images()
    pair = pp.create("vae", x_shape=(1, 8, 8), z_dim=2, hidden=(8,))
    with torch.no_grad():
        next(pair.model.decoder.parameters()).flatten()[1] = NAN
    first = next(name for name, value in pair.named_parameters() if value.isnan().any())
    others = {"condition_fidelity": (None,), "diversity": (None, "")}
    message = f"pair has NaN or infinite values in {re.escape(first)}: give a pair whose training did not diverge"
    with pytest.raises(ValueError, match=f"^{message}$"):
        getattr(metrics, name)(pair, data, *others.get(name, ()))


def test_evaluations_refuse_what_is_no_data_and_values_that_are_not_finite():
    data = images()
    pair = pp.create("vae", x_shape=(1, 8, 8), z_dim=2, hidden=(8,))
    with pytest.raises(ValueError, match=r"data must be Splits, got Tensor: give pyro_priors.data.from_arrays\("):
        metrics.evaluate(pair, data.test.x)
    data.test.x[3, 0, 1, 2] = NAN
    with pytest.raises(ValueError, match=r"x has NaN or infinite values, the first at \[3, 0, 1, 2\]: leave out"):
        metrics.evaluate(pair, data, progress=False)


@pytest.mark.parametrize("train", [metrics.trained_classifier, metrics.trained_discriminator])
def test_a_network_that_judges_is_not_trained_on_one_example(train, tmp_path):
    poses = {f"x_{part}": torch.zeros(1, 6) for part in ("train", "valid", "test")}
    poses |= {f"condition_{part}": torch.zeros(1, 1, 16, 16) for part in ("train", "valid", "test")}
    of_images = train is metrics.trained_classifier
    data = images() if of_images else pp.data.from_arrays(**poses, name="made")
    data = dataclasses.replace(data, train=data.train.take(slice(1)))
    with pytest.raises(ValueError, match="the training part of made must have at least 2 examples, got 1"):
        train(data, tmp_path)


def test_diversity_compares_two_images():
    with pytest.raises(ValueError, match="num_images must be at least 2, got 1: a diversity compares two images"):
        metrics.diversity(vae(), images(), lambda x: x, "", num_images=1)


# where there is one of something: no standard error, and no warning


def test_one_draw_has_no_spread():
    (one,) = metrics.leakage(torch.tensor([2.0]), torch.tensor([-1.0]), [0.0])
    assert (one.score, one.share, one.leaked) == (3.0, 1.0, 3.0)
    assert math.isnan(one.stderr) and math.isnan(one.leaked_stderr)
    one, spread = metrics.leakage_below(torch.tensor([2.0]), torch.tensor([-1.0]), torch.tensor([0.0]), 0.5, 1)
    assert one.leaked == 3.0 and math.isnan(one.leaked_stderr) and math.isnan(spread)


def test_what_the_prior_never_draws_leaks_without_bound():
    log_p = torch.tensor([-INF, -1.0, -2.0])
    one, other = metrics.leakage(torch.zeros(3), log_p, [-1.5, -5.0])
    assert one.score == one.leaked == INF and one.share == pytest.approx(2 / 3)
    assert other.score == INF and other.share == pytest.approx(1 / 3)


def test_one_condition_has_no_standard_error():
    (found,) = metrics.variety(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), [0.5])
    assert found.mean == 2 and math.isnan(found.stderr)
    codes = torch.randn(20, 2)
    components = metrics.Components.measure(codes[None, :3] + 9, codes, codes[:5] + 0.01)
    assert components.num_off == 3 and math.isnan(components.stderr)


def test_one_image_has_an_accuracy_without_standard_error():
    found = metrics.fidelity._of_attributes(
        torch.tensor([[0.9, 0.9]]), torch.tensor([[True, False]]), ("one", "other"), torch.tensor([0.5, 0.5])
    )
    assert found["_plain"] == (0.5, None, "mean accuracy of the attributes")


# small numbers keep their digits


@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_distances_of_near_points_are_exact(offset):
    """In float32, of points 0.001 apart and a few units from the origin, beside float64."""
    x, y = offset + 0.001 * torch.randn(100, 5), offset + 0.001 * torch.randn(80, 5)
    expected = (x.double()[:, None] - y.double()).norm(dim=-1)
    assert_close(distances(x, y), expected.float(), rtol=1e-5, atol=0)
    assert distances(x, x).diagonal().count_nonzero() == 0
    assert distances(x.bfloat16(), y.bfloat16()).dtype == torch.float32


def test_components_near_the_codes_are_on_the_manifold():
    """Codes and components 0.001 apart at norm 7, among more than torch compares one by one."""
    codes = 5 + 0.001 * torch.randn(300, 2)
    locs = 5 + 0.001 * torch.randn(4, 40, 2)
    found = metrics.Components.measure(locs, codes, 5 + 0.001 * torch.randn(50, 2))
    nearest = (locs.double()[:, :, None] - codes.double()).norm(dim=-1).amin(-1)
    assert_close(found.nearest, nearest.float(), rtol=1e-4, atol=1e-8)
    assert found.held_out.median() < 3e-4 and found.num_off < 10


def test_components_count_more_codes_than_float32_can():
    """2**24 + 1 is no float32: each code beyond would be lost."""
    near = torch.zeros(1, 1)
    codes, conditions = torch.zeros(2**12 + 2, 1), 2**12
    codes[0] = 1.0
    found = metrics.Components.measure(near.expand(conditions, 1, 1), codes, near, num_radii=2)
    assert found.counts.tolist() == [[2**12 + 1, 2**12 + 1]]


def test_diversity_of_images_that_hardly_differ():
    features = 2 + 1e-3 * torch.randn(50, 16)
    exact = features.double()
    expected = (exact[:, None] - exact).norm(dim=-1).sum() / (50 * 49)
    assert metrics.mean_pairwise_distance(features).item() == pytest.approx(expected.item(), rel=1e-5)
    assert metrics.mean_pairwise_distance(features[:1].expand(50, -1)).item() == 0


def test_information_is_as_exact_as_the_codes_are():
    """In float64 to rounding, with counts whose logarithms float32 holds to 7 digits only."""
    label = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    loc, scale = torch.randn(7, 2, dtype=torch.float64), torch.rand(7, 2, dtype=torch.float64) + 0.1
    torch.manual_seed(1)
    found = metrics.factor_information(loc, scale, label[:, None])
    torch.manual_seed(1)
    z = torch.normal(loc, scale)
    for d in range(2):
        log_q = torch.distributions.Normal(loc[:, d], scale[:, d]).log_prob(z[:, d, None])
        terms = [
            math.log(log_q[n][label == label[n]].exp().mean().item()) - math.log(log_q[n].exp().mean().item())
            for n in range(7)
        ]
        assert found[d, 0].item() == pytest.approx(sum(terms) / 7, abs=1e-14)


@pytest.mark.parametrize("size", [1.0, 1e-6, 1e-12, 1e-100])
@pytest.mark.parametrize("place", [0.0, 30.0])
def test_overlaps_do_not_depend_on_the_size(size, place):
    """Of a rectangle with itself 1, moved by half of its length 1/3, apart 0; to the digits of its corners."""
    if place:
        size = max(size, 1e-9)  # the smallest whose corners have seven digits there
    along, across = torch.tensor([[0.955, -0.295], [0.295, 0.955]], dtype=torch.float64)
    signs = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]], dtype=torch.float64)

    def rectangle(shift):
        corners = signs[:, :1] * along / 2 + signs[:, 1:] * across / 4
        return place + size * (corners + shift * along)

    one, exact = rectangle(0.0), 1e-12 + 1e-14 * place / size
    assert metrics.jaccard(one, one).item() == pytest.approx(1, abs=1e-9)
    assert metrics.jaccard(one, one.roll(1, 0)).item() == pytest.approx(1, abs=1e-9)
    assert metrics.jaccard(one, rectangle(0.5)).item() == pytest.approx(1 / 3, abs=exact)
    assert metrics.jaccard(one, rectangle(2.0)).item() == 0


def test_tiny_grasps_that_are_the_same_agree():
    """Of sides of a millionth of the image, in float32."""
    pose = torch.tensor([0.3, -0.2, -1 + 4e-7, -1 + 2e-7, 0.0, 1.0])
    assert metrics.agree(pose, pose) and not metrics.agree(pose, pose + torch.tensor([1e-5, 0, 0, 0, 0, 0]))


def test_labels_of_any_integers():
    """uint8 is not multiplied in uint8, and large numbers are no sizes."""
    category, label = torch.arange(300) % 20, torch.arange(300) % 20
    assert metrics.hungarian_accuracy(category.to(torch.uint8), label.to(torch.uint8), 20, 20) == 1
    ids = 10**9 + label
    assert metrics.hungarian_accuracy(category, ids, 20, 10**9 + 20) == 1
    assert metrics.majority_accuracy(category, ids, category, ids, 20, 10**9 + 20) == 1
