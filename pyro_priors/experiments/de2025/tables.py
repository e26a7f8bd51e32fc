"""The tables and figures of De (2025)."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

from ..experiment import Column, Estimates, Experiment, add, in_features, log_likelihood, number, seeds
from .figures import ASKED, condition_pictures, means_by_method, reconstruction_pictures
from .rows import FIGURE_ROWS, FIRST, FLOWS, NUM_SEEDS, PUBLISHED_FID, PUBLISHED_NLL, ROWS, longer, row_of

OURS = (
    "NLL: ours is - log p(x|condition), in nats of the Gaussian density at the scale that is given beside it; "
    "importance-sampled, so too large in expectation, by what is not known and grows with the KL (next to nothing in "
    "rows of unit variance): rows are compared by their bounds too",
    "FID, KID, diversity: in features of the network in brackets; compared within one network only",
    "fidelity: share of means of p(x|z,condition) that a classifier of real images finds to be of the label; of faces "
    "the mean over the attributes of the balanced accuracy, 0.5 for images that do not heed them; of data: that of "
    "real images",
    "diversity: mean distance of images under one condition, images of nothing included, so that it means little where "
    "fidelity is low; of data: within each label, of faces, hardly two of which have the same attributes, over the "
    "first 1,000",
)

PUBLISHED = (
    "published NLL: 'on the reconstructed data' of 86x86x3 = 22188 values. That of the first row cannot be one of unit "
    "variance, which is at least 22188/2 log 2 pi = 20389. Read as 22188 (log s + log(2 pi)/2 + 1/2) with the scale s "
    "that fits afterwards, the three are s = 0.200, 0.183 and 0.179: the column 'NLL at best scale' has that reading "
    "of ours, by the error of reconstructions from a draw of q(z|x,condition); an inference, which takes values "
    "between 0 and 1 for granted: the paper says nothing of either. Ours are of fewer values, and not comparable",
    "published FID: Inception features of 86x86 faces, 40,000 of them: ours are compared among each other alone",
    "published: 160,000 faces of 86x86; ours: 64x64 of as many faces as are there, flipped and turned by up to 10 "
    "degrees, by identity apart; no normalisation, and leaky ReLU: the paper says nothing of either",
    "published: stopped by the likelihood of the test data; ours: the weights of the best bound of the validation part",
)


def _beside_data(name: str, digits: int = 3) -> Any:
    """A cell of an estimate, and of the same of real images."""

    def cell(estimates: Estimates) -> str:
        of_data = f"{name}_of_data"
        if name not in estimates or of_data not in estimates:
            return ""
        return f"{number(name, digits=digits)(estimates)} ({estimates[of_data].value:.{digits}f})"

    return cell


COLUMNS = (
    Column("NLL", log_likelihood(-1, 1), PUBLISHED_NLL, digits=0),
    Column("bits/dim", number("bits_per_dim", digits=3)),
    Column("scale", number("scale", digits=4)),
    Column("NLL at best scale", number("nll_at_best_scale", digits=1)),
    Column("KL", number("kl_z", digits=1)),
    Column("FID", in_features("frechet", 2), PUBLISHED_FID, digits=1),
    Column("KID", in_features("kernel_distance", 4)),
    Column("fidelity (of data)", _beside_data("fidelity")),
    Column("diversity (of data)", in_features("diversity", 2, of_data=True)),
)

UNPUBLISHED = tuple(dataclasses.replace(column, published={}) for column in COLUMNS)
METRICS = ("bound", "log_likelihood", "scale", "generation", "fidelity", "diversity")


add(
    Experiment(
        "de2025/table1",
        "negative log-likelihood, Frechet distance, fidelity to the condition and diversity",
        rows=ROWS,
        metrics=METRICS,
        columns=COLUMNS,
        differs=OURS + PUBLISHED,
    )
)


add(
    Experiment(
        "de2025/flows",
        "MNIST: priors of the condition without flow, with volume-preserving and affine ones, and ones that see it",
        rows=tuple(row for row in ROWS if row.of == "mnist-sigma-nf")
        + tuple(one for method in FLOWS for one in seeds(row_of("mnist", method), NUM_SEEDS)),
        metrics=METRICS,
        columns=(Column("bound", number("bound", digits=1)), *UNPUBLISHED),
        differs=OURS,
    )
)


add(
    Experiment(
        "de2025/longer",
        "MNIST, first seed: whether twice the epochs leave a difference between the priors",
        rows=FIRST + tuple(map(longer, FIRST)),
        metrics=METRICS,
        columns=(Column("bound", number("bound", digits=1)), *UNPUBLISHED),
        differs=OURS,
    )
)


PICTURES = ("published: pictures of faces only",)


add(
    Experiment(
        "de2025/fig3",
        "reconstructions of test images",
        rows=FIGURE_ROWS,
        metrics=("bound", "scale"),
        columns=(
            Column("bound", number("bound", digits=1)),
            Column("scale", number("scale", digits=4)),
            Column("squared error", number("squared_error", digits=5)),
        ),
        differs=(*PICTURES, "pictures: of the mean of q(z|x,condition); squared error: of a draw of it"),
        figure=partial(means_by_method, first="data"),
        pictures=reconstruction_pictures,
    )
)


add(
    Experiment(
        "de2025/fig5",
        "images generated under a condition, a row for each",
        rows=FIGURE_ROWS,
        metrics=("bound", "fidelity", "diversity"),
        columns=(
            Column("fidelity (of data)", _beside_data("fidelity")),
            Column("diversity (of data)", in_features("diversity", 2, of_data=True)),
        ),
        differs=(
            *PICTURES,
            f"faces, by row: {'; '.join(ASKED)}; the other attributes are those of training faces that have these, or "
            "most of them",
        ),
        figure=means_by_method,
        pictures=condition_pictures,
    )
)
