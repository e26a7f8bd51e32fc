"""The program of the published code of Lavda et al. (2019), quirks included, as a family of its own.

It is registered as a user would register one: nothing in the library knows of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .. import guides, models, priors
from ..nn import ReleasedCategoricalHead, ReleasedGaussianHead, Temperature, he_
from ..pair import Pair
from ..zoo import Factors, Family, register_family, register_preset

__all__ = ["ReferenceCPVAE"]


@register_family("cp_vae_reference", citations=("lavda2019",))
@dataclass(frozen=True)
class ReferenceCPVAE(Family):
    """The programs and the start of the published code of CP-VAE, in place of the paper's."""

    num_categories: int = 10
    """Number of categories K."""

    factors: ClassVar[dict[str, str]] = {"likelihood": "bernoulli", "networks": "mlp"}

    def build(self, factors: Factors) -> Pair:
        num = self.num_categories
        decoder = factors.make_decoder(self.z_dim, num_categories=num)
        trunk = factors.networks.trunk(factors.x_shape) if factors.encoder is None else factors.encoder
        num_features = self.encoder_event(factors)["features"][0]
        heads = ReleasedCategoricalHead(num_features, num), ReleasedGaussianHead(num_features, self.z_dim, num)
        for part in (trunk, decoder, *heads):
            he_(part)
        untrained = priors.ReleasedCategoryPrior(num, self.z_dim)
        guide = guides.ReleasedCPVAEGuide(trunk, *heads, untrained, Temperature())
        return Pair(models.ReleasedCPVAE(num, untrained, decoder), guide, num_categories=num)

    def encoder_event(self, factors: Factors) -> dict[str, tuple[int, ...]]:
        hidden = getattr(factors.networks, "hidden", ())
        return {"features": (hidden[-1] if hidden else 0,)}


register_preset(
    "cp_vae_reference",
    "cp_vae_reference",
    "CP-VAE as its published code has it (Lavda et al. 2019), for comparison",
    is_listed=False,
)
