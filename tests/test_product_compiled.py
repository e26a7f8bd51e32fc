"""A pairwise cover of the product of family x prior x likelihood x objective, compiled: each pair of values is met.

Every cell of the cover is traced, some 50 seconds in all on a quiet core; machine code is made of a few of them, and
of all in slow tests.
"""

import itertools

import pytest

from compiling import assert_same, compiled_loss, eager
from pairs import randomise
from product import CELLS, batch, create, objective_of, pairs_of, pairwise_cover, trains
from pyro_priors.objectives import OBJECTIVES
from pyro_priors.tracing import CompiledObjective

pytestmark = pytest.mark.usefixtures("float64")

TRAINING = [(*cell, name) for cell in CELLS for name in OBJECTIVES if trains(*cell, name)]
COVER = pairwise_cover(TRAINING)
FEW = [
    next(cell for cell in COVER if cell[:2] == pair)
    for pair in (("hvae", "mixture"), ("cp_vae", "flow"), ("cvae", "cdv"))
]
"""Cells whose machine code is made in fast tests."""


def check(family, prior, likelihood, objective):
    """The loss and every gradient are those of the eager objective on the same noise; nothing ran eagerly."""
    pair = randomise(create(family, prior, likelihood), scale=0.3)
    args = tuple(value.double() for value in batch(family, likelihood))
    loss = CompiledObjective(pair, objective_of(objective), strict=True)
    found = compiled_loss(loss, args, 0.4)
    expected = eager(pair, loss.objective, args, 0.4)
    assert found[0].isfinite()
    assert any(gradient is not None and gradient.any() for gradient in expected[1].values())
    assert_same(found, expected)


@pytest.mark.parametrize("cell", COVER, ids="-".join)
def test_the_graph_of_a_cell_computes_the_same(cell, traced):
    check(*cell)
    assert len(traced) == 1


@pytest.mark.parametrize(
    "cell", [cell if cell in FEW else pytest.param(cell, marks=pytest.mark.slow) for cell in COVER], ids="-".join
)
def test_the_machine_code_of_a_cell_computes_the_same(cell):
    check(*cell)


def test_the_cover_meets_every_pair(capsys):
    """By going through all cells that train, and through the cover; the counts are printed."""
    pairs = [set().union(*map(pairs_of, cells)) for cells in (TRAINING, COVER)]
    assert pairs[0] == pairs[1]
    assert set(COVER) <= set(TRAINING) and len(COVER) == len(set(COVER))
    with capsys.disabled():
        print(
            f"\n{len(TRAINING):,} cells train; {len(COVER)} of them meet all {len(pairs[0])} pairs and are traced, "
            f"{len(FEW)} are compiled in fast tests"
        )
    assert (len(TRAINING), len(pairs[0])) == (2576, 327)
    assert len(COVER) <= 90


def test_a_cover_by_hand():
    """Of three factors with two values, four cells meet all twelve pairs; a pair in no cell is not looked for."""
    cells = list(itertools.product("ab", "cd", "ef"))
    assert len(pairwise_cover(cells)) == 4
    assert pairwise_cover(cells)[0] == ("a", "c", "e")
    assert pairwise_cover([("a", "c", "e"), ("b", "d", "f")]) == [("a", "c", "e"), ("b", "d", "f")]
