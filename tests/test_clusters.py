"""Categories that start at clusters, and parts that are held while the rest is trained."""

import dataclasses
import io

import numpy as np
import pyro
import pytest
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import KMeans
from torch.testing import assert_close
from tqdm import tqdm

import pyro_priors as pp
import runs
from pyro_priors import clusters as module
from pyro_priors.clusters import clusters, neighbour_graph
from pyro_priors.data import Augment, Part, batches
from pyro_priors.metrics import hungarian_accuracy
from pyro_priors.training import loop

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


def create(name, **options):
    torch.manual_seed(1)
    return pp.create(name, **{"x_shape": (SIDE * SIDE,), "z_dim": 3, "hidden": (32,)} | options)


def cp_vae(**options):
    return create("cp_vae", num_categories=3, **options)


def few(data, size=200):
    return dataclasses.replace(data, train=data.train.take(slice(size)))


def accuracy(category, kind):
    return hungarian_accuracy(category, kind, 3, 3)


def blobs(sizes, apart, seed=0):
    """The graph of Gaussian points around corners of a simplex, and whose each is."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    points = apart * torch.eye(10)[kind, :] + torch.randn(len(kind), 10, generator=generator)
    return neighbour_graph(points, points, 5), kind


def two_parts():
    """Of four and five points, each linked to all others of its own."""
    weights = np.random.RandomState(0).rand(9, 9) + 0.1
    weights[:4, 4:] = weights[4:, :4] = 0.0
    np.fill_diagonal(weights, 0.0)
    return csr_array(weights + weights.T)


def by_all_eigenvectors(graph, num_clusters):
    """Ng, Jordan and Weiss 2001, section 2, steps 2 to 4."""
    weights = graph.toarray()
    root = np.sqrt(weights.sum(1))
    _, vectors = np.linalg.eigh(weights / root / root[:, None])
    rows = vectors[:, -num_clusters:]
    return rows / np.linalg.norm(rows, axis=1)[:, None]


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
    """Two half circles, each around the end of the other: k-means of the points themselves has an accuracy of 0.79."""
    data = pp.data.load("moons")
    points, kind = data.train.x[:600], data.train.label[:600]
    by_distance = torch.from_numpy(KMeans(2, n_init=10, random_state=0).fit(points.numpy()).labels_).long()
    assert hungarian_accuracy(by_distance, kind, 2, 2) == pytest.approx(0.79, abs=0.01)
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


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("sizes", "apart", "num_parts", "num_clusters"),
    [
        ((120, 60, 30), 4.0, 1, 3),
        ((120, 60, 30), 4.0, 1, 4),
        ((200, 50, 10, 7), 60.0, 4, 4),
        ((200, 50, 10, 7), 60.0, 4, 5),
        ((100,) * 3, 60.0, 3, 5),
    ],
    ids=["connected", "connected-more", "parts", "parts-and-one", "equal-parts-and-more"],
)
def test_clusters_are_those_of_all_eigenvectors(sizes, apart, num_parts, num_clusters, seed):
    graph, _ = blobs(sizes, apart, seed)
    assert connected_components(graph)[0] == num_parts
    expected = by_all_eigenvectors(graph, num_clusters)
    vectors = module._leading(graph, num_clusters, np.random.RandomState(seed).rand(len(expected)))
    rows = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(rows @ rows.T, expected @ expected.T, atol=1e-6)  # the same but for a rotation
    labels, spread = clusters(graph, num_clusters, seed)
    if num_clusters == len(sizes):  # of others k-means has several local optima, and a rotation changes its starts
        found = KMeans(num_clusters, n_init=10, random_state=seed).fit(expected)
        assert hungarian_accuracy(labels, torch.from_numpy(found.labels_).long(), num_clusters, num_clusters) == 1
        assert spread == pytest.approx(found.inertia_ / len(expected), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    "sizes", [(100,) * 3, (100,) * 10, (200, 50, 10, 7), (7, 200, 10, 50)], ids=["3", "10", "unequal", "in-any-order"]
)
def test_each_part_of_a_graph_is_a_cluster(sizes, seed):
    """Also where the largest eigenvalue is there ten times."""
    graph, kind = blobs(sizes, 60.0, seed)
    labels, spread = clusters(graph, len(sizes), seed)
    assert hungarian_accuracy(labels, kind, len(sizes), len(sizes)) == 1 and spread < 1e-12


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_smallest_of_more_parts_than_clusters_are_one(seed):
    graph, kind = blobs((10, 200, 7, 50), 60.0, seed)
    labels, spread = clusters(graph, 3, seed)
    assert hungarian_accuracy(labels, torch.tensor([0, 1, 0, 2])[kind], 3, 3) == 1 and spread < 1e-12


@pytest.mark.parametrize("graph", [blobs((200, 50, 10, 7), 60.0)[0], two_parts()], ids=["positive", "negative"])
def test_eigenvectors_of_a_graph_in_parts(graph):
    """They span what all eigenvectors of as many leading eigenvalues do, negative ones too."""
    weights = graph.toarray()
    root = np.sqrt(weights.sum(1))
    values, every = np.linalg.eigh(weights / root / root[:, None])
    assert (values[-7] < -0.1) == (len(weights) == 9) and values[-7] - values[-8] > 1e-3
    found, expected = module._leading(graph, 7, np.random.RandomState(1).rand(len(weights))), every[:, -7:]
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-9)


def test_a_point_without_links_is_a_part():
    graph, _ = blobs((30,), 0.0)
    alone = np.zeros((31, 31))
    alone[:30, :30] = graph.toarray()
    labels, spread = clusters(csr_array(alone), 2)
    assert (labels[:30] == labels[0]).all() and labels[30] != labels[0] and spread < 1e-12


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


def test_the_network_learns_from_images_bent_and_binarised(learned):
    """As a loop of its own by cross-entropy does, over three batches and a smaller one an epoch."""
    data, _, vae = learned
    data, (pair, other) = few(data), (cp_vae(own_category_network=True) for _ in range(2))
    labels = pp.start_at_clusters(pair, data, vae, epochs=2, batch_size=60, learning_rate=3e-3, seed=4)
    optimizer = torch.optim.Adam(other.guide.category.parameters(), lr=3e-3)
    bent = Augment((1, SIDE, SIDE), rotate=20.0, shear=0.3, zoom=0.15, shift=0.05)
    numbered = Part(data.train.x, torch.arange(200)[:, None])
    for epoch in range(2):
        for x, number in batches(numbered, 60, seed=4, epoch=epoch, binarise=True, augment=bent):
            optimizer.zero_grad()
            F.cross_entropy(other.guide.category(x).logits, labels[number[:, 0]]).backward()
            optimizer.step()
    for name, value in other.state_dict().items():
        assert_close(pair.state_dict()[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("num_draws", [1, 4])
def test_the_tightest_of_all_draws_is_taken(learned, monkeypatch, num_draws):
    data, _, vae = learned
    data, graphs, spreads = few(data), [], [0.5, 0.4, 0.3, 0.1, 0.2, 0.6]

    def scripted(graph, num_clusters, seed):
        graphs.append(graph)
        return (torch.arange(200) < len(graphs)).long(), spreads[len(graphs) - 1]

    monkeypatch.setattr(module, "clusters", scripted)
    labels = pp.start_at_clusters(cp_vae(), data, vae, num_draws=num_draws, epochs=1)
    assert len(graphs) == num_draws and labels.sum() == {1: 1, 4: 4}[num_draws]
    for i, graph in enumerate(graphs):
        assert graph.sum() == 3 * 5 * 200  # each datum's neighbours, and those of two copies
        assert all((graph != other).nnz for other in graphs[:i])


@pytest.mark.parametrize(("bend", "rotate"), [(0.5, 10.0), (1.0, 20.0)])
def test_copies_are_bent_as_much_as_is_said(learned, bend, rotate):
    """The graph is that of the codes, of their neighbours and of those of two copies of each."""
    data, _, vae = learned
    part, generator = few(data).train, torch.Generator().manual_seed(3)
    how = Augment((1, SIDE, SIDE), rotate=rotate, shear=0.3 * bend, zoom=0.15 * bend, shift=0.05 * bend)
    codes = vae.encode(part.x)["z"].mean.detach()
    graph = neighbour_graph(codes, codes, 4)
    for _ in range(2):
        copies = how.apply(part.x, how.draw(len(part), generator))
        graph = graph + neighbour_graph(codes, vae.encode(copies)["z"].mean.detach(), 4)
    wanted, spread = clusters(graph, 3, 3)
    options = {"image_shape": (1, SIDE, SIDE), "num_neighbours": 4, "seed": 3}
    found = module.clusterings(vae, part, 3, **options, bend=bend)
    assert len(found) == 2 and torch.equal(found[0].labels, wanted) and found[0].spread == pytest.approx(spread)


def test_few_data_have_smaller_batches(learned):
    """A fiftieth of 200 data, as many steps as many data have."""
    data, _, vae = learned
    pair, other = cp_vae(), cp_vae()
    pp.start_at_clusters(pair, few(data), vae, epochs=1)
    pp.start_at_clusters(other, few(data), vae, epochs=1, batch_size=4)
    assert runs.same_bits(runs.state(pair), runs.state(other))


@pytest.mark.parametrize("own", [True, False])
def test_a_relaxed_category_starts_as_any_other(learned, own):
    data, _, vae = learned
    data, options = few(data), {"own_category_network": own}
    pair, other = cp_vae(category="relaxed", **options), cp_vae(**options)
    for one in (pair, other):
        pp.start_at_clusters(one, data, vae, epochs=2)
    assert runs.same_bits(runs.state(pair.guide.category), runs.state(other.guide.category) | _temperature(pair))
    assert runs.same_bits(runs.state(pair.guide.trunk), runs.state(other.guide.trunk))


def _temperature(pair):
    return {name: value for name, value in runs.state(pair.guide.category).items() if "temperature" in name}


@pytest.mark.parametrize("fails", [False, True])
def test_the_mode_of_each_module_stays(learned, monkeypatch, fails):
    data, _, vae = learned
    pair = cp_vae().eval()
    pair.guide.trunk.train()
    modes = [one.training for one in pair.modules()]

    def failing(module, *args):
        assert module.training
        raise RuntimeError("in the middle")

    if fails:
        pair.guide.category.register_forward_hook(failing)
        with pytest.raises(RuntimeError, match="in the middle"):
            pp.start_at_clusters(pair, few(data), vae, epochs=1, bend=False)
    else:
        pp.start_at_clusters(pair, few(data), vae, epochs=1, bend=False)
    assert [one.training for one in pair.modules()] == modes
    assert all(parameter.grad is None for parameter in pair.parameters())


@pytest.mark.parametrize(
    ("dtype", "learned_dtype"),
    [(torch.float64, torch.float32), (torch.float32, torch.float64), (torch.bfloat16, torch.bfloat16)],
    ids=["pair", "learned", "bfloat16"],
)
def test_pairs_in_another_precision(learned, dtype, learned_dtype):
    data, kind, vae = learned
    pair, other = cp_vae().to(dtype), create("vae").to(learned_dtype)
    other.load_state_dict(vae.state_dict())
    labels = pp.start_at_clusters(pair, data, other, batch_size=50, learning_rate=1e-2)
    assert accuracy(labels, kind) > 0.97
    category = pair.encode(data.train.x.to(dtype))["c"].probs.argmax(-1)
    assert (category == labels).double().mean() > 0.97
    assert next(pair.parameters()).dtype is dtype


def test_labels_and_conditions_are_not_read(learned):
    _, _, vae = learned
    plain, (labelled, kind) = strokes(200)[0], strokes(200, labelled=True)
    conditional = dataclasses.replace(plain, train=dataclasses.replace(plain.train, condition=F.one_hot(kind).float()))
    found = []
    for data in (plain, labelled, conditional):
        pair = cp_vae()
        found.append({"labels": pp.start_at_clusters(pair, data, vae, epochs=2)} | runs.state(pair))
    assert labelled.train.label is not None and plain.train.label is None
    assert runs.same_bits(found[0], found[1]) and runs.same_bits(found[0], found[2])


def test_data_that_are_no_images_have_no_copies(learned):
    data, kind, vae = learned
    flat = dataclasses.replace(data, image_shape=None)
    ours, other = (
        pp.start_at_clusters(cp_vae(), one, vae, epochs=1, bend=bend) for one, bend in ((flat, True), (data, False))
    )
    assert torch.equal(ours, other)


@pytest.mark.parametrize("options", [{}, {"num_draws": 1, "epochs": 3}, {"bend": False}], ids=str)
def test_the_bar_ends_full(learned, monkeypatch, options):
    data, _, vae = learned
    bars = []

    def bar(total, what, enabled):
        bars.append((tqdm(total=total, desc=what, file=io.StringIO()), enabled))
        return bars[-1][0]

    monkeypatch.setattr(module, "progress_bar", bar)
    for progress in ({}, {"progress": True}):
        pp.start_at_clusters(cp_vae(), few(data), vae, **options, **progress)
    assert [enabled for _, enabled in bars] == [False, True]
    assert all(bar.n == bar.total for bar, _ in bars)


@pytest.mark.parametrize("validation", [True, False])
def test_a_network_that_diverges_leaves_the_pair_as_it_was(learned, validation):
    data, _, vae = learned
    pair = cp_vae()
    before = runs.state(pair)
    match = r"^.* became -?(nan|inf) while the network of q\(c\|x\) learned the clusters: the pair is as it was"
    with pyro.validation_enabled(validation), pytest.raises(pp.TrainingDiverged, match=match):
        pp.start_at_clusters(pair, few(data), vae, bend=False, learning_rate=1e37)
    assert runs.same_bits(runs.state(pair), before)


CONDITIONAL = {"condition_shape": (2,)}
FITS = {"pair": cp_vae, "learned": lambda: create("vae"), "data": lambda: strokes(50)[0]}


def diverged():
    pair = create("vae")
    with torch.no_grad():
        next(pair.guide.parameters())[0, 0] = torch.inf
    return pair


def without_number():
    whole = cp_vae()
    return pp.Pair(whole.model, whole.guide)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"pair": lambda: create("vae")},
            r"pair must be a cp_vae.*got VAEGuide: make it with",
        ),
        (
            {"pair": lambda: create("cp_vae_reference", num_categories=3)},
            r"pair must be a cp_vae.*got ReferenceGuide",
        ),
        ({"pair": without_number}, r"pair has num_categories=0: say how many its guide has, Pair\(.*num_categories=K"),
        (
            {"learned": diverged},
            r"learned has values that are not finite, of guide.*: give a pair that did not diverge",
        ),
        ({"pair": lambda: cp_vae().guide}, r"pair must be a Pair, got CPVAEGuide: give pyro_priors.create"),
        (
            {"pair": lambda: create("cp_vae", x_shape=(63,))},
            r"pair was made for x_shape=\(63,\), but strokes has \(64,\)",
        ),
        ({"learned": lambda: create("vae", x_shape=(63,))}, r"learned was made for x_shape=\(63,\), but strokes has"),
        ({"learned": lambda: create("cvae", **CONDITIONAL)}, r"learned must be a pair without condition, got .*\(2,\)"),
        ({"learned": lambda: create("hvae")}, r"learned must have a site z, got sites z2, z1: give a vae"),
        ({"learned": lambda: torch.nn.Linear(64, 3)}, r"learned must be a Pair, got Linear: give pyro_priors.create"),
        ({"data": lambda: torch.rand(50, 64)}, r"data must be Splits, got Tensor: give pyro_priors.data.from_arrays"),
        (
            {"data": lambda: strokes(3)[0]},
            r"pair has num_categories=3, and the training part of strokes has 3 data, too",
        ),
        ({"num_draws": 0}, r"num_draws must be a positive integer, got 0"),
        ({"num_neighbours": 0}, r"num_neighbours must be a positive integer, got 0"),
        ({"epochs": 0}, r"epochs must be a positive integer, got 0"),
        ({"batch_size": 0}, r"batch_size must be a positive integer, got 0"),
        ({"learning_rate": 0.0}, r"learning_rate must be above 0, got 0.0: 1e-3 is a good start"),
        ({"learning_rate": float("nan")}, r"learning_rate must be a finite number, got nan"),
        ({"seed": -1}, r"seed must be an integer from 0 to .*, got -1"),
        ({"epochs": 1.5}, r"epochs must be an integer, got 1.5"),
        ({"seed": 0.5}, r"seed must be an integer from 0 to .*, got 0.5"),
        ({"seed": 2**32}, r"seed must be below 2..32, got 4294967296"),
    ],
    ids=range(22),
)
def test_what_cannot_start_is_refused_at_once(monkeypatch, changed, message):
    monkeypatch.setattr(module, "neighbour_graph", None)
    given = {name: changed.get(name, make)() for name, make in FITS.items()}
    options = {name: value for name, value in changed.items() if name not in FITS}
    with pytest.raises(ValueError, match=message) as caught:
        pp.start_at_clusters(**given, **options)
    assert "\n" not in str(caught.value)


# parts that are held


@pytest.mark.parametrize(("frozen_epochs", "steps"), [(0.1, 1), (1, 3), (1.5, 5), (2, 6)])
def test_frozen_parts_stay_for_their_epochs_and_move_then(monkeypatch, frozen_epochs, steps):
    """To the step, of three an epoch."""
    pair, (data, _) = cp_vae(), strokes(90)
    start, train_step, held, others = runs.state(pair), loop.Training.train_step, [], []

    def watched(self, *args):
        train_step(self, *args)
        same = {name for name, value in runs.state(pair).items() if torch.equal(value, start[name])}
        held.append({name for name in start if name.startswith("guide.category.")} <= same)
        others.append(any(name.startswith("guide.latent.") for name in same))

    monkeypatch.setattr(loop.Training, "train_step", watched)
    options = {"frozen": ("guide.category",), "frozen_epochs": frozen_epochs}
    pp.fit(pair, data, max_epochs=2, batch_size=30, learning_rate=1e-2, progress=False, **options)
    assert held == [step < steps for step in range(6)] and not any(others)


def test_what_holds_the_category(learned):
    """Of a network that shares its layers these too."""
    data, _, _ = learned
    data = few(data)

    def moves(*frozen, **options):
        pair = cp_vae(**options)
        before = pair.encode(data.valid.x)["c"].probs
        pp.fit(pair, data, max_epochs=1, progress=False, frozen=frozen, frozen_epochs=1)
        return not torch.equal(pair.encode(data.valid.x)["c"].probs, before)

    assert moves("guide.category") and not moves("guide.category", "guide.trunk")
    assert not moves("guide.category", own_category_network=True)


def test_frozen_parts_that_are_none():
    data, _ = strokes(50)
    for options, message in (
        (
            {"frozen": ("guide.categroy",), "frozen_epochs": 1},
            r"frozen names 'guide.categroy', .* did you mean 'guide.category'",
        ),
        (
            {"frozen": ("z",), "frozen_epochs": 1},
            r"frozen names 'z', .*: choose one of model, model.\w+, [^.]*(model.\w+, )*guide, (guide.\w+(, |$))*$",
        ),
        (
            {"frozen": (torch.nn.Linear(2, 2),), "frozen_epochs": 1},
            r"frozen must be a tuple of strings, got \(Linear",
        ),
        ({"warmup_sites": "z"}, r"warmup_sites must be a tuple of names of latent sites, got 'z': give \('z',\)"),
        ({"frozen": ("guide.category",)}, r"frozen=\('guide.category',\) and frozen_epochs=0 belong together"),
        ({"frozen_epochs": 2}, r"frozen=\(\) and frozen_epochs=2 belong together"),
        ({"frozen": ("guide.category",), "frozen_epochs": -1}, r"frozen_epochs must be 0 or more, got -1"),
        (
            {"frozen": "guide.category", "frozen_epochs": 1},
            r"frozen must be a tuple of names of parts, got 'guide.category': give \('guide.category',\)",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            pp.fit(cp_vae(), data, max_epochs=1, progress=False, **options)


def test_own_category_network_and_what_does_not_fit_it():
    pair = cp_vae(own_category_network=True)
    shared = cp_vae()
    assert sum(p.numel() for p in pair.guide.parameters()) > sum(p.numel() for p in shared.guide.parameters())
    with pytest.raises(ValueError, match="own_category_network=True makes a second network like the encoder"):
        cp_vae(own_category_network=True, encoder=torch.nn.Linear(SIDE * SIDE, 32))
