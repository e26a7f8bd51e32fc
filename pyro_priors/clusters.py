"""Where the categories of CP-VAE may start: at the clusters of what another pair has learned, without labels."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from . import module_state
from ._lock import LOCK
from ._options import Seed, typed
from ._precision import pair_in_precision_of
from .data import Augment, Part, Splits, batches
from .divergence import TrainingDiverged, became_infinite, cause
from .errors import UserError, check_sizes
from .guides import CPVAEGuide
from .metrics.components import posterior_means
from .pair import Pair
from .progress import progress_bar

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["BENT", "Clustering", "clusterings", "clusters", "neighbour_graph", "start_at_clusters", "tightest"]

BENT = {"rotate": 20.0, "shear": 0.3, "zoom": 0.15, "shift": 0.05}
"""How far images are bent: what leaves a drawing the same drawing, to the eye."""


@typed
def start_at_clusters(
    pair: Pair,
    data: Splits,
    learned: Pair,
    *,
    bend: bool = True,
    num_neighbours: int = 5,
    num_draws: int = 2,
    epochs: int = 8,
    batch_size: int | None = None,
    learning_rate: float = 1e-3,
    seed: Seed = 0,
    progress: bool = False,
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
    freed, it stays, or nearly so, where it had learned the clusters well.

    The clusters are :func:`clusters` of the :func:`neighbour_graph` of the posterior means of the training data. Of
    images each is linked to the neighbours of two copies of itself too, bent by half of :data:`BENT`, so that what
    looks the same but for a slant is one cluster and not two. Copies are drawn ``num_draws`` times, and the tightest
    clusters are taken, as Ng, Jordan and Weiss choose their scale. No label is read. q(c|x) then learns the clusters by
    cross-entropy, from images bent (by the whole) and binarised anew. Nothing else of the pair is changed; torch's
    global generator is neither read nor changed.

    Without ``own_category_network`` q(c|x) reads the features of q(z|x,c): the layers of both are trained here, and to
    hold q(c|x) in :func:`~pyro_priors.fit` is to hold them too, ``frozen=("guide.category", "guide.trunk")``.

    :param pair: ``cp_vae``, with a category of any kind
    :param data: whose training part is used, without its condition
    :param learned: pair with a code ``z`` of x alone, such as a trained ``vae``
    :param bend: use copies; images only
    :param num_neighbours: of each datum, and of each copy
    :param num_draws: how often copies are drawn, and clusters found
    :param epochs: over the training part, of the network of q(c|x)
    :param batch_size: of these; 250, or a fiftieth of fewer than 12,500 data, when left out
    :param learning_rate: of these, Adam's
    :param seed: of copies, clusters, order and binarisation
    :param progress: show a bar in a terminal
    :returns: the clusters of the training data, shape ``(N,)``
    :raises ValueError: if pair, data and learned do not fit, or an option is out of range
    :raises TrainingDiverged: if the network of q(c|x) becomes NaN or infinite; the pair is then as it was

    Reference: ours. What it is made of: Andrew Ng, Michael Jordan and Yair Weiss, On spectral clustering, NIPS 2001.
    """
    whole = {"num_neighbours": num_neighbours, "num_draws": num_draws, "epochs": epochs}
    check_sizes(**(whole if batch_size is None else whole | {"batch_size": batch_size}))
    if not 0 < learning_rate < math.inf:
        raise UserError(f"learning_rate must be above 0, got {learning_rate}: 1e-3 is a good start")
    if seed >= 2**32:  # the limit of scikit-learn's generators
        raise UserError(f"seed must be below 2**32, got {seed} (for example, 0)")
    guide = _checked_guide(pair, data, learned)
    image_shape = data.image_shape if bend else None
    batch_size = batch_size or max(1, min(250, len(data.train) // 50))
    steps = epochs + (2 if image_shape is None else 1 + 3 * num_draws)
    with progress_bar(steps, "clusters", progress) as bar:
        with torch.no_grad():
            found = clusterings(
                learned,
                data.train,
                pair.num_categories,
                image_shape=image_shape,
                num_neighbours=num_neighbours,
                num_draws=num_draws,
                seed=seed,
                progress=bar.update,
            )
        labels = tightest(found)
        bent = None if image_shape is None else _bent(image_shape, 1.0)
        own = nn.Sequential(*([] if guide.category_sees_x else [guide.trunk]), guide.category)
        half = torch.finfo(next(own.parameters()).dtype).bits < 32  # in which most steps would be rounded away
        # a copy is trained: other threads may use the pair meanwhile, and it stays as it was where this diverges
        networks = copy.deepcopy(own).float() if half else copy.deepcopy(own)
        like = next(networks.parameters())
        optimizer = torch.optim.Adam(networks.parameters(), lr=learning_rate)
        networks.train()
        for epoch in range(epochs):
            shown = batches(data.train, batch_size, seed=seed, epoch=epoch, binarise=data.binarise, augment=bent)
            told = batches(Part(labels[:, None]), batch_size, seed=seed, epoch=epoch)  # in the same order
            for (x, _), (label, _) in zip(shown, told, strict=True):
                x = x.to(like)
                try:
                    loss = _loss(networks, x, label)
                except Exception as error:  # a distribution may have refused what diverged
                    _check_finite(networks)
                    again = partial(_loss, networks, x, label)
                    if (divergence := cause(error, again, first_step=not optimizer.state)) is not None:
                        raise _diverged(str(divergence)) from error
                    raise
                optimizer.zero_grad()
                loss.backward()
                with torch.device("cpu"):  # where Adam counts its steps, whatever torch's default is
                    optimizer.step()
            bar.update()
            _check_finite(networks)
        with LOCK:
            own.load_state_dict(networks.state_dict())
    return labels


def _loss(networks: nn.Module, x: Tensor, label: Tensor) -> Tensor:
    # by the logits, which a relaxed category has too
    loss = -networks(x).logits.gather(-1, label.to(x.device)).mean()
    if not loss.isfinite():
        raise TrainingDiverged(f"the loss became {loss.item()}")
    return loss


def _check_finite(networks: nn.Module) -> None:
    if what := became_infinite(module_state.tensors_of(networks), {}):
        raise _diverged(what)


def _diverged(what: str) -> TrainingDiverged:
    return TrainingDiverged(
        f"{what} while the network of q(c|x) learned the clusters: the pair is as it was; a smaller learning_rate "
        "may help"
    )


def _checked_guide(pair: Pair, data: Splits, learned: Pair) -> CPVAEGuide:
    """The guide of the pair; what does not fit is refused before minutes are spent on it."""
    if not isinstance(data, Splits):
        raise UserError(f"data must be Splits, got {type(data).__name__}: give pyro_priors.data.from_arrays(x_train)")
    for name, one in (("pair", pair), ("learned", learned)):
        if not isinstance(one, Pair):
            raise UserError(f"{name} must be a Pair, got {type(one).__name__}: give one of pyro_priors.create")
        config = (one.recipe or {}).get("config", {})
        if "condition_shape" in config:
            raise UserError(
                f"{name} must be a pair without condition, got one for condition_shape={config['condition_shape']}: "
                "clusters are of x alone, give a vae"
            )
        if tuple(config.get("x_shape", data.x_shape)) != data.x_shape:
            raise UserError(
                f"{name} was made for x_shape={tuple(config['x_shape'])}, but {data.name} has {data.x_shape}: give one "
                "that was made for these data"
            )
    guide, num = pair.guide, pair.num_categories
    if not isinstance(guide, CPVAEGuide):
        raise UserError(
            f"pair must be a cp_vae, which has categories to start, got {type(guide).__name__}"
            ": make it with pyro_priors.create('cp_vae')"
        )
    if not num:
        raise UserError("pair has num_categories=0: say how many its guide has, Pair(..., num_categories=K)")
    if len(data.train) <= num:
        raise UserError(
            f"pair has num_categories={num}, and the training part of {data.name} has {len(data.train)} data, too few "
            "for so many clusters: make the pair with fewer categories, or give more data"
        )
    for name, parameter in learned.named_parameters():
        if not parameter.detach().isfinite().all():
            raise UserError(f"learned has values that are not finite, of {name}: give a pair that did not diverge")
    sites = pair_in_precision_of(data.train.x, learned).encode(data.train.x[:2].to(learned.device))
    if "z" not in sites:
        raise UserError(f"learned must have a site z, got sites {', '.join(sites)}: give a vae")
    return guide


def _codes(learned: Pair, x: Tensor) -> Tensor:
    return posterior_means(learned, x).float()


def _bent(image_shape: Sequence[int], much: float) -> Augment:
    return Augment(tuple(image_shape), False, *(much * BENT[name] for name in ("rotate", "shear", "zoom", "shift")))


class Clustering(NamedTuple):
    """Clusters of the codes of a part.

    :param labels: cluster of each datum, shape ``(N,)``
    :param spread: how loose the clusters are, as :func:`clusters` has it
    """

    labels: Tensor
    spread: float


def tightest(found: Sequence[Clustering]) -> Tensor:
    """The labels of the clusters of least spread."""
    return min(found, key=lambda one: one.spread).labels


@typed
def clusterings(
    learned: Pair,
    part: Part,
    num_clusters: int,
    *,
    image_shape: Sequence[int] | None,
    bend: float = 0.5,
    num_neighbours: int = 5,
    num_draws: int = 2,
    seed: Seed = 0,
    progress: Callable[[], object] = lambda: None,
) -> list[Clustering]:
    """What :func:`start_at_clusters` chooses the tightest of: clusters that copies give, drawn anew for each; without
    ``image_shape`` those of the data alone, once.

    How far those of pairs learned from different seeds agree (:func:`~pyro_priors.metrics.hungarian_accuracy` of one
    with the other) tells without labels whether they can be trusted.

    :param bend: how much copies are bent, as a multiple of :data:`BENT`
    :param progress: called after each of the graphs and clusterings
    """
    learned = pair_in_precision_of(part.x, learned)
    codes = _codes(learned, part.x)
    own = neighbour_graph(codes, codes, num_neighbours)
    progress()
    if image_shape is None:
        found = Clustering(*clusters(own, num_clusters, seed))
        progress()
        return [found]
    generator, all_found = torch.Generator("cpu").manual_seed(seed), []
    rows = torch.arange(len(part), device="cpu").split(1000)
    how = _bent(image_shape, bend)
    for _ in range(num_draws):
        graph = own
        for _ in range(2):
            drawn = how.draw(len(part), generator)
            copies = [_codes(learned, how.apply(part.x[i], drawn[i])) for i in rows]
            graph = graph + neighbour_graph(codes, torch.cat(copies), num_neighbours)
            progress()
        all_found.append(Clustering(*clusters(graph, num_clusters, seed)))
        progress()
    return all_found


@typed
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


@typed
def clusters(graph: csr_array, num_clusters: int, seed: Seed = 0) -> tuple[Tensor, float]:
    """Spectral clustering (Ng, Jordan and Weiss 2001): k-means of the rows, brought to length 1, of the leading
    eigenvectors of :math:`D^{-1/2} W D^{-1/2}`.

    The largest eigenvalue is 1, once for each part of a graph that is in several, unlinked parts. Of more parts than
    clusters the smallest are taken together: each other one is a cluster.

    :param graph: symmetric weights W, shape ``(N, N)``; D has its row sums, and a point without links is a part
    :param num_clusters: number of clusters, and of eigenvectors, below N
    :param seed: of the first vector, and of k-means, the best of ten starts
    :returns: cluster of each point, shape ``(N,)``, and the mean squared distance of the rows from their centres:
        the smaller, the tighter the clusters
    :raises ValueError: if there are not more points than clusters
    """
    from sklearn.cluster import KMeans

    num = graph.shape[0]
    if not num > num_clusters:
        raise UserError(f"num_clusters must be below the number of points, {num}, got {num_clusters}")
    vectors = _leading(graph, num_clusters, np.random.RandomState(seed).rand(num))
    rows = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = KMeans(num_clusters, n_init=10, random_state=seed).fit(rows)
    return torch.from_numpy(found.labels_).long(), float(found.inertia_) / num


def _leading(graph: csr_array, num: int, start: np.ndarray) -> np.ndarray:
    """The leading eigenvectors in columns, shape ``(N, num)``; of more parts than that, sums of some of theirs."""
    from scipy.sparse import diags_array
    from scipy.sparse.csgraph import connected_components
    from scipy.sparse.linalg import LinearOperator, eigsh

    root = np.sqrt(np.maximum(graph.sum(1), 1e-12))  # of a point without links not 0
    matrix = diags_array(1 / root) @ graph @ diags_array(1 / root)
    num_parts, part = connected_components(graph, directed=False)
    if num_parts == 1:
        return eigsh(matrix, k=num, which="LA", v0=start, tol=0)[1]
    # Lanczos from one vector would find a few of the equal eigenvalues; but their vectors are known
    largest_first = np.argsort(np.argsort(-np.bincount(part), kind="stable"))
    part = np.minimum(largest_first[part], num - 1)
    known = np.where(part[:, None] == np.arange(part.max() + 1), root[:, None], 0.0)
    known /= np.linalg.norm(known, axis=0)
    left = num - known.shape[1]
    if not left:
        return known
    # the known are moved from 1 to -2, below all others
    rest = LinearOperator(matrix.shape, lambda vector: matrix @ vector - 3 * (known @ (known.T @ vector)), dtype=float)
    others = eigsh(rest, k=left, which="LA", v0=start - known @ (known.T @ start), tol=0)[1]
    return np.hstack([known, others])
