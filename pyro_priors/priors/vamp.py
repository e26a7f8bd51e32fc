"""The variational mixture of posteriors prior of Tomczak and Welling (2018)."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyro.distributions as dist
import torch
import torch.nn as nn
from torch import Tensor

from .._hints import check_sizes
from .._options import Seed, typed
from ..registration import check_distribution
from .mixture import mixture_of

__all__ = ["VampPrior"]


class VampPrior(nn.Module):
    r"""VampPrior: the mixture of the posteriors of K trained pseudo-inputs (Tomczak and Welling 2018).

    .. math:: p(z) = \sum_{k=1}^{K} w_k\, q(z \mid u_k), \qquad w_k = 1/K

    In words: the aggregate posterior is the best prior a bound can have, and K inputs, trained with the rest, stand for
    the data in it. The encoder is the guide's own, and its gradient comes from both places. It sees the pseudo-inputs
    once in each call of the program, whatever the number of particles, and in evaluation mode: dropout and batch
    statistics belong to data.

    ``bounded`` keeps pseudo-inputs in [0, 1], where the data of all likelihoods but the Gaussian are: as published they
    are free numbers cut off there (``hardtanh``), so that one below 0 or above 1 gets no gradient. Unlike hardtanh, and
    torch's clamp, the cut passes the gradient at 0 and 1 themselves: pseudo-inputs can start at binary data.

    :param encoder: module from x, shape ``(K,) + x_shape``, to q(z|x), event shape ``(z_dim,)``: the guide's
    :param x_shape: shape of one datum
    :param num_components: number of pseudo-inputs K
    :param trained_weights: train the weights too; False: 1/K each, as published
    :param bounded: keep the pseudo-inputs in [0, 1]
    :param mean: pseudo-inputs start at draws from N(mean, std^2), by default as published for MNIST and Omniglot
    :param std: see mean

    What differs from the paper's code: its samples are one of each of the first N components, here they are samples of
    the mixture. For a start at training images see :meth:`start_at_data`.

    Reference: Jakub M. Tomczak and Max Welling, VAE with a VampPrior, AISTATS 2018, arXiv:1705.07120.
    """

    logits: Tensor

    @typed
    def __init__(
        self,
        encoder: nn.Module,
        x_shape: Sequence[int],
        num_components: int = 500,
        trained_weights: bool = False,
        bounded: bool = True,
        mean: float = 0.05,
        std: float = 0.01,
    ) -> None:
        super().__init__()
        check_sizes(num_components=num_components)
        if not 0 <= std < math.inf:
            raise ValueError(f"std must be 0 or more, got {std}: 0.01 is what was published")
        self.encoder = encoder
        self.bounded = bounded
        self.free_pseudo_inputs = nn.Parameter(mean + std * torch.randn(num_components, *x_shape))
        logits = torch.zeros(num_components)
        if trained_weights:
            self.logits = nn.Parameter(logits)
        else:
            self.register_buffer("logits", logits, persistent=False)

    @property
    def pseudo_inputs(self) -> Tensor:
        """What the encoder is shown, shape ``(K,) + x_shape``."""
        free = self.free_pseudo_inputs
        return torch.where(free < 0, 0.0, torch.where(free > 1, 1.0, free)) if self.bounded else free

    @torch.no_grad()
    def set_pseudo_inputs(self, x: Tensor) -> None:
        """Start the pseudo-inputs at data.

        Example::

            >>> pair = pyro_priors.create("vae", x_shape=(784,), prior="vamp", num_components=500)
            >>> pair.model.prior.set_pseudo_inputs(data.train.x[:500])

        :param x: shape ``(K,) + x_shape``
        :raises ValueError: if x has another shape, or values outside [0, 1] where the pseudo-inputs are bounded
        """
        wanted = tuple(self.free_pseudo_inputs.shape)
        if tuple(x.shape) != wanted:
            raise ValueError(f"pseudo-inputs must have shape {wanted}, got {tuple(x.shape)}: give one row for each")
        if self.bounded and not (x.min() >= 0 and x.max() <= 1):
            raise ValueError(
                f"pseudo-inputs must be in [0, 1], got values from {x.min():.4g} to {x.max():.4g}: rescale them"
            )
        self.free_pseudo_inputs.copy_(x)

    @torch.no_grad()
    @typed
    def start_at_data(self, x: Tensor, seed: Seed = 0, noise: float = 0.01) -> None:
        """Start the pseudo-inputs at K of these data, drawn without replacement, with noise added.

        The paper's code takes the first K training images and adds noise of 0.01, so that half of the pixels of 0 and 1
        leave [0, 1] and never get a gradient again; here they are put back to the bound, where they do.

        Example::

            >>> pair = pyro_priors.create("vae", x_shape=(784,), prior="vamp", num_components=500)
            >>> pair.model.prior.start_at_data(data.train.x)

        :param x: shape ``(num_data,) + x_shape``; grey levels where binarisation is dynamic, as in that code
        :param seed: of the draw and the noise; torch's own generator is neither read nor changed
        :param noise: standard deviation of the noise
        :raises ValueError: if there are fewer data than components, or what :meth:`set_pseudo_inputs` raises
        """
        free = self.free_pseudo_inputs
        if len(x) < len(free):
            remedy = f"make the prior with {len(x)} or fewer" if len(x) else "give data"
            raise ValueError(
                f"num_components is {len(free)}, more than the {len(x)} data that pseudo-inputs are to start at: "
                f"{remedy}"
            )
        generator = torch.Generator("cpu").manual_seed(seed)
        chosen = torch.randperm(len(x), generator=generator, device="cpu")[: len(free)]
        self.set_pseudo_inputs(x[chosen.to(x.device)])
        drawn = torch.randn(free.shape, generator=generator, dtype=free.dtype, device="cpu")
        free.add_(noise * drawn.to(free.device))
        if self.bounded:
            free.clamp_(0, 1)

    def forward(self) -> dist.Distribution:
        """:returns: distribution with batch shape ``()`` and event shape ``(z_dim,)``"""
        with evaluating(self.encoder):
            posterior = self.encoder(self.pseudo_inputs)
        check_distribution(posterior, f"encoder ({type(self.encoder).__name__})", self.logits.shape)
        return mixture_of(self.logits, posterior)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Where a module is in evaluation mode; afterwards each part of it is in the mode that it was in."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
