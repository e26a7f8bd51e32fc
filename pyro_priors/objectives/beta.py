"""The beta-VAE objective."""

from collections.abc import Callable

from .._options import typed
from ..errors import UserError
from .elbo import ELBO
from .kl_weight import KLWeight

__all__ = ["Beta"]


class Beta(ELBO):
    r"""beta-VAE: the bound with its KL multiplied by beta.

    .. math:: -E_q \log p(x \mid z) + \beta\, \mathrm{KL}(q(z \mid x) \,\|\, p(z))

    in nats per datum. Every latent site is weighted, an enumerated category too; a warm-up multiplies beta. At
    ``beta=1`` it is the plain bound; above it, a looser bound with a smaller KL.

    :param beta: the factor, above 0
    :param analytic_kl: the KL in closed form where there is one, or sampled
    :param num_particles: draws of the latent variables for each datum
    :raises ValueError: if beta is not above 0

    Reference: Irina Higgins et al., beta-VAE: learning basic visual concepts with a constrained variational framework,
    ICLR 2017.
    """

    @typed
    def __init__(self, beta: float = 4.0, analytic_kl: bool = True, num_particles: int = 1) -> None:
        super().__init__(analytic_kl, num_particles)
        if not beta > 0:
            raise UserError(f"beta must be above 0, got {beta}: beta=1 is the plain bound")
        self.beta = beta

    def weigh(self, program: Callable) -> Callable:
        """The program with its latent sites weighted by the schedule and by beta."""
        return KLWeight(self.beta)(super().weigh(program))
