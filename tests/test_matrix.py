"""docs/matrix.md is what scripts/matrix.py writes, and the product has everything that there is."""

import runpy
from pathlib import Path

import pytest

import product
import pyro_priors as pp
from pyro_priors.priors import PRIORS
from pyro_priors.zoo.families import FAMILIES


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "matrix.py"))


def test_the_page_is_what_the_script_writes(script):
    """And it shows each cell of family x prior x likelihood: by a check mark, or by the number of a reason."""
    page = script["page"]()
    assert script["PAGE"].read_text(encoding="utf-8") == page, "docs/matrix.md is old: run python scripts/matrix.py"
    rows = [line.strip("| ").split(" | ")[1:] for line in page.splitlines() if line.startswith("| ")]
    shown = [cell for row in rows for cell in row if cell == "✓" or cell.isdigit()]
    refused = sum(cell[:2] in product.REFUSED for cell in product.CELLS)
    assert (len(shown), len(shown) - shown.count("✓")) == (len(product.CELLS), refused) == (432, 40)


def test_the_product_has_every_family_prior_and_likelihood():
    """A new one of the package is in the cells, or this fails. The published code's family is its paper's alone."""

    def of_package(registry):
        return {name for name in registry if registry[name].__module__.startswith("pyro_priors.")}

    assert {family.partition("-")[0] for family in product.FAMILIES} == of_package(FAMILIES) - {"cp_vae_reference"}
    assert {options.name for options in product.PRIORS.values()} == of_package(PRIORS)
    assert set(product.LIKELIHOODS) >= of_package(pp.likelihoods.LIKELIHOODS)
