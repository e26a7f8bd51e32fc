"""Categories that start at clusters, and parts that are held while the rest is trained."""

import dataclasses

import numpy as np
import pytest
import torch

import pyro_priors as pp
import runs
from pyro_priors.clusters import clusters, neighbour_graph
from pyro_priors.metrics import hungarian_accuracy

SIDE = 8


def strokes(size, labelled=False):
    """Images of an upright bar, a level bar or a ring, each turned a little and with noise; their kinds."""
    generator = torch.Generator().manual_seed(0)
    kind = torch.randint(3, (size,), generator=generator)
    x = torch.zeros(3, 1, SIDE, SIDE)
    x[0, :, :, 3:5], x[1, :, 3:5], x[2, :, 1:7, 1:7] = 1.0, 1.0, 1.0
    x[2, :, 3:5, 3:5] = 0.0
    augment = pp.data.Augment((1, SIDE, SIDE), rotate=15.0)
    x = augment.apply(x[kind], augment.draw(size, generator)).flatten(1)
    x = (0.9 * x + 0.05).clamp(0, 1)
    options = {"label_train": kind, "label_valid": kind[:20], "label_test": kind[:20]} if labelled else {}
    ink = x[:20].round()
    data = pp.data.from_arrays(x, ink, ink, name="strokes", **options)
    return dataclasses.replace(data, image_shape=(1, SIDE, SIDE), binarise=True, likelihood="bernoulli"), kind


@pytest.fixture(scope="module")
def learned():
    """Strokes, and a VAE that has seen them."""
    torch.manual_seed(0)
    data, kind = strokes(1500)
    vae = pp.create("vae", x_shape=(SIDE * SIDE,), z_dim=3, hidden=(32,))
    pp.fit(vae, data, max_epochs=80, batch_size=50, learning_rate=5e-3, progress=False)
    return data, kind, vae.eval()


def cp_vae(**options):
    torch.manual_seed(1)
    return pp.create("cp_vae", x_shape=(SIDE * SIDE,), z_dim=3, hidden=(32,), num_categories=3, **options)


def accuracy(category, kind):
    return hungarian_accuracy(category, kind, 3, 3)


@pytest.mark.parametrize("places", ["own", "others"])
def test_the_graph_is_that_of_all_distances(places):
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(40, 3, generator=generator)
    at = codes if places == "own" else torch.randn(40, 3, generator=generator)
    found = neighbour_graph(codes, at, 4).toarray()
    distance = torch.cdist(at, codes)
    distance.fill_diagonal_(torch.inf)
    links = torch.zeros(40, 40).scatter_(1, distance.topk(4, largest=False).indices, 1.0).numpy()
    np.testing.assert_array_equal(found, (links + links.T) / 2)
    assert (found == found.T).all() and not found.diagonal().any()


def test_the_graph_of_few_points_links_all():
    assert (neighbour_graph(torch.arange(3.0)[:, None], torch.zeros(3, 1), 9).toarray() == 1 - np.eye(3)).all()


def test_clusters_follow_the_graph_and_not_the_distance():
    """Two half circles, each around the end of the other: k-means of the points themselves has an accuracy of 0.75."""
    data = pp.data.load("moons")
    points, kind = data.train.x[:600], data.train.label[:600]
    labels, spread = clusters(neighbour_graph(points, points, 5), 2)
    assert hungarian_accuracy(labels, kind, 2, 2) > 0.98 and spread < 0.1
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(300, 2, generator=generator)
    loose, wider = clusters(neighbour_graph(points, points, 5), 3)
    assert wider > spread and len(loose.unique()) == 3
    again, _ = clusters(neighbour_graph(points, points, 5), 3)
    assert torch.equal(loose, again)
    with pytest.raises(ValueError, match=r"num_clusters must be below the number of points, 300, got 300"):
        clusters(neighbour_graph(points, points, 5), 300)


@pytest.mark.parametrize("own", [True, False])
def test_categories_start_at_the_clusters(learned, own):
    data, kind, vae = learned
    pair, before = cp_vae(own_category_network=own), torch.get_rng_state()
    start = {name: value.clone() for name, value in pair.state_dict().items()}
    labels = pp.start_at_clusters(pair, data, vae, batch_size=50, learning_rate=1e-2)
    assert torch.equal(torch.get_rng_state(), before) and pair.training
    assert accuracy(labels, kind) > 0.97
    category = pair.encode(data.train.x)["c"].probs.argmax(-1)
    assert (category == labels).double().mean() > 0.97
    trained = ("guide.category",) if own else ("guide.category", "guide.trunk")
    for name, value in pair.state_dict().items():
        assert torch.equal(value, start[name]) != name.startswith(trained), name
    assert all(parameter.grad is None for parameter in pair.parameters())
    other = cp_vae(own_category_network=own)
    assert torch.equal(pp.start_at_clusters(other, data, vae, batch_size=50, learning_rate=1e-2), labels)
    assert runs.same_bits(runs.state(other), runs.state(pair))


def test_labels_are_not_read(learned):
    _, kind, vae = learned
    found = [
        pp.start_at_clusters(cp_vae(), strokes(1500, labelled)[0], vae, epochs=1, bend=False)
        for labelled in (False, True)
    ]
    assert torch.equal(*found)


def test_data_that_are_no_images_have_no_copies(learned):
    data, kind, vae = learned
    flat = dataclasses.replace(data, image_shape=None)
    ours, other = (
        pp.start_at_clusters(cp_vae(), one, vae, epochs=1, bend=bend) for one, bend in ((flat, True), (data, False))
    )
    assert torch.equal(ours, other)


def test_what_cannot_start(learned):
    data, _, vae = learned
    with pytest.raises(ValueError, match=r"pair must be a cp_vae, which has categories to start, got VAEGuide"):
        pp.start_at_clusters(vae, data, vae)
    with pytest.raises(ValueError, match=r"num_draws must be at least 1, got 0"):
        pp.start_at_clusters(cp_vae(), data, vae, num_draws=0)


# parts that are held


def test_frozen_parts_stay_for_their_epochs_and_move_then(learned):
    data, _, _ = learned
    options = {"batch_size": 100, "learning_rate": 1e-2, "progress": False, "frozen": ("guide.category",)}

    def category(max_epochs, frozen_epochs):
        pair = cp_vae()
        start = [value.clone() for value in pair.guide.category.parameters()]
        others = [value.clone() for value in pair.guide.latent.parameters()]
        pp.fit(pair, data, max_epochs=max_epochs, frozen_epochs=frozen_epochs, **options)
        assert not any(map(torch.equal, others, pair.guide.latent.parameters()))
        return all(map(torch.equal, start, pair.guide.category.parameters()))

    assert category(2, 2) and category(1, 1.5)
    assert not category(2, 1) and not category(2, 1.5)


def test_frozen_parts_that_are_none():
    data, _ = strokes(50)
    for options, message in (
        (
            {"frozen": ("guide.categroy",), "frozen_epochs": 1},
            r"frozen names 'guide.categroy', .* did you mean 'guide.category'",
        ),
        ({"frozen": ("guide.category",)}, r"frozen=\('guide.category',\) and frozen_epochs=0 belong together"),
        ({"frozen_epochs": 2}, r"frozen=\(\) and frozen_epochs=2 belong together"),
        ({"frozen": ("guide.category",), "frozen_epochs": -1}, r"frozen_epochs must be 0 or more, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            pp.fit(cp_vae(), data, max_epochs=1, progress=False, **options)


def test_own_category_network_and_what_does_not_fit_it():
    pair = cp_vae(own_category_network=True)
    shared = cp_vae()
    assert sum(p.numel() for p in pair.guide.parameters()) > sum(p.numel() for p in shared.guide.parameters())
    with pytest.raises(ValueError, match="own_category_network=True is nothing that released_code has"):
        cp_vae(own_category_network=True, released_code=True)
    with pytest.raises(ValueError, match="own_category_network=True makes a second network like the encoder"):
        cp_vae(own_category_network=True, encoder=torch.nn.Linear(SIDE * SIDE, 32))
