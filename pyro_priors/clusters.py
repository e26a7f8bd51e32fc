"""Where the categories of CP-VAE may start: at the clusters of what another pair has learned, without labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .data import Augment, Part, Splits, batches
from .guides import CPVAEGuide
from .metrics.components import posterior_means

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from .pair import Pair

__all__ = ["BENT", "clusters", "neighbour_graph", "start_at_clusters"]

BENT = {"rotate": 20.0, "shear": 0.3, "zoom": 0.15, "shift": 0.05}
"""How far images are bent: what leaves a drawing the same drawing, to the eye."""


def start_at_clusters(
    pair: Pair,
    data: Splits,
    learned: Pair,
    *,
    bend: bool = True,
    num_neighbours: int = 5,
    num_draws: int = 2,
    epochs: int = 8,
    batch_size: int = 250,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> Tensor:
    """Train q(c|x) of a ``cp_vae`` to tell the clusters of another pair's codes apart.

    Example::

        >>> vae = pp.create("vae", x_shape=data.x_shape, z_dim=40)
        >>> pp.fit(vae, data, max_epochs=40)
        >>> pair = pp.create("cp_vae", x_shape=data.x_shape, z_dim=40, own_category_network=True)
        >>> pp.start_at_clusters(pair, data, vae)
        >>> pp.fit(pair, data, max_epochs=50, frozen=("guide.category",), frozen_epochs=40)

    The bound alone finds categories of little meaning, or one: the KL of c draws q(c|x) to uniform before the decoder
    has learned to use it. Here q(c|x) is given something to say first, and held until the rest has learned to listen;
    freed, it stays.

    The clusters are :func:`clusters` of the :func:`neighbour_graph` of the posterior means of the training data. Of
    images each is linked to the neighbours of two bent copies of itself too, so that what looks the same but for a
    slant is one cluster and not two. Copies are drawn ``num_draws`` times, bent as :data:`BENT` says and by half of
    it, and the tightest clusters are taken, as Ng, Jordan and Weiss choose their scale. No label is read. q(c|x) then
    learns the clusters by cross-entropy, from images bent and binarised anew. Nothing else of the pair is changed;
    torch's global generator is neither read nor changed.

    :param pair: ``cp_vae``; with ``own_category_network`` nothing of q(z|x,c) is trained along
    :param data: whose training part is used
    :param learned: pair with a code ``z``, such as a trained ``vae``
    :param bend: use copies; images only
    :param num_neighbours: of each datum, and of each copy
    :param num_draws: how often copies are drawn, and clusters found
    :param epochs: over the training part, of the network of q(c|x)
    :param batch_size: of these
    :param learning_rate: of these, Adam's
    :param seed: of copies, clusters, order and binarisation
    :returns: the clusters of the training data, shape ``(N,)``
    :raises ValueError: if the pair is no ``cp_vae``, or an option is out of range

    Reference: ours. What it is made of: Andrew Ng, Michael Jordan and Yair Weiss, On spectral clustering, NIPS 2001.
    """
    guide = pair.guide
    if not isinstance(guide, CPVAEGuide) or pair.num_categories is None:
        raise ValueError(f"pair must be a cp_vae, which has categories to start, got {type(guide).__name__}")
    for name, value in (("num_neighbours", num_neighbours), ("num_draws", num_draws), ("epochs", epochs)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    image_shape = data.image_shape if bend else None
    with torch.no_grad():
        labels = _tightest(learned, data.train, image_shape, pair.num_categories, num_neighbours, num_draws, seed)
    bent = None if image_shape is None else _bent(image_shape, 1.0)

    part = dataclasses.replace(data.train, condition=labels[:, None])  # batches brings it along
    networks = [guide.category] if guide.category_sees_x else [guide.trunk, guide.category]
    optimizer = torch.optim.Adam([p for one in networks for p in one.parameters()], lr=learning_rate)
    was_training, device = pair.training, pair.device
    pair.train()
    for epoch in range(epochs):
        for x, label in batches(part, batch_size, seed=seed, epoch=epoch, binarise=data.binarise, augment=bent):
            assert label is not None
            x = x.to(device)
            q_c = guide.category(x if guide.category_sees_x else guide.trunk(x))
            optimizer.zero_grad()
            (-q_c.log_prob(label[:, 0].to(device)).mean()).backward()
            optimizer.step()
    optimizer.zero_grad()
    pair.train(was_training)
    return labels


def _bent(image_shape: Sequence[int], much: float) -> Augment:
    return Augment(tuple(image_shape), False, *(much * BENT[name] for name in ("rotate", "shear", "zoom", "shift")))


def _tightest(
    learned: Pair,
    part: Part,
    image_shape: Sequence[int] | None,
    num_clusters: int,
    num_neighbours: int,
    num_draws: int,
    seed: int,
) -> Tensor:
    """The tightest of the clusters that copies, bent by half and whole, give; without them those of the data alone."""
    codes = posterior_means(learned, part.x)
    own = neighbour_graph(codes, codes, num_neighbours)
    if image_shape is None:
        return clusters(own, num_clusters, seed)[0]
    generator, rows, found = torch.Generator().manual_seed(seed), torch.arange(len(part)).split(1000), []
    for how in (_bent(image_shape, 0.5), _bent(image_shape, 1.0)):
        for _ in range(num_draws):
            graph = own
            for _ in range(2):
                drawn = how.draw(len(part), generator)
                copies = [posterior_means(learned, how.apply(part.x[i], drawn[i])) for i in rows]
                graph = graph + neighbour_graph(codes, torch.cat(copies), num_neighbours)
            found.append(clusters(graph, num_clusters, seed))
    return min(found, key=lambda one: one[1])[0]


def neighbour_graph(codes: Tensor, places: Tensor, num_neighbours: int = 5) -> csr_array:
    """Who is near whom: the mean over both directions of 1 for each of the nearest.

    :param codes: points, shape ``(N, z_dim)``
    :param places: where each point looks for its nearest others, shape ``(N, z_dim)``: ``codes``, or those of copies
    :param num_neighbours: how many it is linked to
    :returns: symmetric weights, shape ``(N, N)``, without loops; graphs of several places add up
    """
    from scipy.sparse import csr_array
    from sklearn.neighbors import NearestNeighbors

    num = len(codes)
    k, own = min(num_neighbours, num - 1), np.arange(num)
    search = NearestNeighbors(n_neighbors=k + 1, algorithm="brute").fit(codes.numpy())
    found = search.kneighbors(places.numpy(), return_distance=False)
    alone = ~(found == own[:, None]).any(1)  # where a point is not among its own neighbours, the farthest goes
    found[alone, -1] = own[alone]
    others = found[found != own[:, None]]
    weights = csr_array((np.ones(num * k), (np.repeat(own, k), others)), (num, num))
    return (weights + weights.T) / 2


def clusters(graph: csr_array, num_clusters: int, seed: int = 0) -> tuple[Tensor, float]:
    """Spectral clustering (Ng, Jordan and Weiss 2001): k-means of the rows, brought to length 1, of the leading
    eigenvectors of :math:`D^{-1/2} W D^{-1/2}`.

    :param graph: symmetric weights W, shape ``(N, N)``; D has its row sums
    :param num_clusters: number of clusters, and of eigenvectors, below N
    :param seed: of the first vector, and of k-means, the best of ten starts
    :returns: cluster of each point, shape ``(N,)``, and the mean squared distance of the rows from their centres:
        the smaller, the tighter the clusters
    :raises ValueError: if there are not more points than clusters
    """
    from scipy.sparse import diags_array
    from scipy.sparse.linalg import eigsh
    from sklearn.cluster import KMeans

    num = graph.shape[0]
    if not num > num_clusters:
        raise ValueError(f"num_clusters must be below the number of points, {num}, got {num_clusters}")
    inverse_root = diags_array(1 / np.sqrt(np.maximum(graph.sum(1), 1e-12)))
    start = np.random.RandomState(seed).rand(num)
    # to the last digit: a graph in parts has the largest eigenvalue once for each, a coarse search finds one of them
    _, vectors = eigsh(inverse_root @ graph @ inverse_root, k=num_clusters, which="LA", v0=start, tol=0)
    rows = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    found = KMeans(num_clusters, n_init=10, random_state=seed).fit(rows)
    return torch.from_numpy(found.labels_).long(), float(found.inertia_) / num
