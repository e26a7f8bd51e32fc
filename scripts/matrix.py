"""Write docs/matrix.md: which family goes with which prior, likelihood and objective, and why the others do not.

python scripts/matrix.py

The cells are those of tests/product.py, each of which tests/test_product.py runs. Here each pair is created, and each
objective computes a loss; what they raise is the reason that the page gives.
"""

import sys
from pathlib import Path

import pyro
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import product  # noqa: E402

PAGE = ROOT / "docs" / "matrix.md"

TITLES = {
    "vae": "`vae`: p(z) p(x|z)",
    "hvae": "`hvae`: p(z2) p(z1|z2) p(x|z1,z2)",
    "cp_vae": "`cp_vae`: p(c) p(z|c) p(x|z,c)",
    "cp_vae-relaxed": '`cp_vae` with `category="relaxed"`',
    "cvae": "`cvae`: p(z|condition) p(x|z,condition)",
    "cvae-free": "`cvae` with `condition_prior=False`: p(z) p(x|z,condition)",
}
PRIORS = {
    "gaussian-full": "gaussian, full covariance",
    "flow-of-mixture": "flow of a mixture",
    "flow-seeing": "flow, couplings see the context",
}
LIKELIHOODS = {
    "gaussian": "gaussian, learned scale",
    "gaussian-fixed": "gaussian, fixed scale",
    "gaussian-optimal": "gaussian, optimal scale",
}
"""How the page names what tests/product.py names shorter."""

INTRO = """<!-- Written by scripts/matrix.py. Change that, or the cells in tests/product.py, and run it again. -->

# What goes with what

Family, prior, likelihood and objective are independent choices. This page lists the combinations that the tests run:
{cells:,} cells, of which {train:,} train and {none:,} are refused.
A refusal is one line with the reason and what to use instead.

* A cell with ✓ trains under every objective in the list below the table. A number refers to a reason below the table.
* The tables of `hvae` are about `prior`, for p(z2). Its `prior_z1`, for p(z1|z2), takes every prior.
* `tests/test_product.py` computes the loss and the gradients of every cell. `tests/test_product_compiled.py` compares
  compiled and eager steps in some of the cells, so that each pair of choices occurs.
"""


def refusal(call) -> str:
    """The message of the ValueError that a call raises, or nothing."""
    try:
        call()
    except ValueError as error:
        return str(error)
    return ""


def loss(family: str, objective: str) -> torch.Tensor:
    """A loss of the family with its first prior and likelihood."""
    pair = product.create(family, "gaussian", "bernoulli")
    return product.objective_of(objective)(pair.model, pair.guide)(*product.batch(family, "bernoulli"))


def section(family: str) -> list[str]:
    """The table of one family, the reasons below it, and its objectives."""
    reasons: list[str] = []
    columns = [LIKELIHOODS.get(name, name) for name in sorted(product.LIKELIHOODS)]
    lines = [f"## {TITLES[family]}", "", f"| prior | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for prior in product.PRIORS:
        cells = []
        for likelihood in sorted(product.LIKELIHOODS):
            why = refusal(lambda prior=prior, likelihood=likelihood: product.create(family, prior, likelihood))
            if why and why not in reasons:
                reasons.append(why)
            cells.append(f"{reasons.index(why) + 1}" if why else "✓")
        lines.append(f"| {PRIORS.get(prior, prior)} | {' | '.join(cells)} |")
    lines += ["", *(f"{number}. {why}" for number, why in enumerate(reasons, 1)), *([""] if reasons else [])]
    refused: dict[str, list[str]] = {}
    for objective in product.OBJECTIVES:
        refused.setdefault(refusal(lambda objective=objective: loss(family, objective)), []).append(objective)
    lines.append(f"* Objectives: {', '.join(f'`{name}`' for name in refused.pop('', []))}.")
    for why, names in refused.items():
        lines.append(f"* Refused: {', '.join(f'`{name}`' for name in names)}: {why}.")
    return lines


def page() -> str:
    """The whole page."""
    cells = [(*cell, objective) for cell in product.CELLS for objective in product.OBJECTIVES]
    train = sum(product.trains(*cell) for cell in cells)
    parts = [INTRO.format(cells=len(cells), train=train, none=len(cells) - train)]
    with torch.random.fork_rng(devices=[]), pyro.get_param_store().scope():
        parts += ["\n".join([*section(family), ""]) for family in product.FAMILIES]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
