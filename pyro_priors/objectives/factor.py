"""The objective of FactorVAE, with its discriminator."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn as nn
import torch.nn.functional as F
from pyro import poutine
from torch import Tensor

from .._files import CheckpointError
from .._lock import own_store
from .._options import typed
from .._precision import at_least_float32
from .._reading import RESTORE
from .._resume import check_optimizer, check_shapes
from ..errors import UserError, is_size
from ..rng import own_generators
from .code import Code, read_code
from .elbo import ELBO
from .terms import Terms

__all__ = ["Discriminator", "Factor"]

OWN = "discriminator/"
"""What the names of the discriminator's tensors begin with in a state."""


class Factor(ELBO):
    r"""FactorVAE: the bound, and a total correlation that a discriminator estimates.

    .. math:: -E_q \log p(x \mid z) + \mathrm{KL}(q(z \mid x) \,\|\, p(z)) + \gamma\, E_{q(z)} D(z), \qquad
        D(z) \to \log \frac{q(z)}{\prod_d q(z_d)}

    .. math:: L_D = \tfrac12 E_{q(z)} \log(1 + e^{-D(z)}) + \tfrac12 E_{\prod_d q(z_d)} \log(1 + e^{D(z)})

    in nats per datum. D is a network, trained by :math:`L_D` to tell the codes of a batch from the same with each value
    taken from another datum; the loss holds it fixed. With ``gamma=0`` it is the plain bound. A warm-up multiplies KL
    and gamma.

    One backward pass leaves both gradients: the pair's by the loss, D's by :math:`L_D` in ``.grad`` of the parameters
    of ``discriminator``. :meth:`end_step` then makes a step of D's own Adam (betas 0.5 and 0.9);
    :func:`pyro_priors.fit` and ``SVI`` call it, a loop of your own has to::

        >>> loss = objective(pair.model, pair.guide)(x)   # or pyro_priors.compiled(pair, objective)(x)
        >>> loss.backward()
        >>> optimizer.step()
        >>> objective.end_step()

    The discriminator is made at the first call, when the size of the code is known, from the ``seed`` of ``fit`` (0
    elsewhere) and with no number of torch's generators; ``fit`` begins each training with a new one, keeps it and its
    optimizer in ``last/``, and resumes them exactly.

    What is regularised: ``z``; of ``hvae`` the upper code ``z2``; in a conditional pair q(z) is over data and
    conditions. Of ``cp_vae`` it is z **within each category**, as in :class:`TotalCorrelation`: D sees the category
    too, real codes count q(c|x), and the others are drawn with q(c|x) as weights. The total correlation is taken in
    the space of z, whatever the prior: a flow enters by the KL alone.

    :param gamma: factor of the total correlation, 0 or more
    :param hidden: sizes of the discriminator's hidden layers
    :param learning_rate: of its Adam
    :param analytic_kl: the KL in closed form where there is one, or sampled
    :param num_particles: draws of the latent variables for each datum; values of codes are exchanged within a particle
    :raises ValueError: if a number is out of range; in use, if codes come in another size than at first

    What differs from the paper: its discriminator's codes to be permuted come from a second batch, here from the same
    one (their distribution is the same); its two outputs are one here, their difference; He's initialisation, with
    small last weights, so that D begins near 0. In dpVAE's code gamma stands beside sums over the batch: its 1000 is
    about 42 here.

    Reference: Hyunjik Kim and Andriy Mnih, Disentangling by factorising, ICML 2018, arXiv:1802.05983.
    """

    couples_batch: ClassVar[bool] = True

    @typed
    def __init__(
        self,
        gamma: float = 6.4,
        hidden: tuple[int, ...] = (1000, 1000, 1000, 1000, 1000),
        learning_rate: float = 1e-4,
        analytic_kl: bool = True,
        num_particles: int = 1,
    ) -> None:
        super().__init__(analytic_kl, num_particles)
        if not gamma >= 0:
            raise UserError(f"gamma must be 0 or more, got {gamma}: gamma=0 is the plain bound")
        if not hidden or not all(map(is_size, hidden)):
            raise UserError(f"hidden must be a tuple of positive integers, got {hidden!r}: give (1000,)")
        if not learning_rate > 0:
            raise UserError(f"learning_rate must be above 0, got {learning_rate}: 1e-4 is a good start")
        self.gamma, self.hidden, self.learning_rate = gamma, hidden, learning_rate
        self.begin(0, seed=0)

    discriminator: Discriminator | None
    """Made at the first call."""
    optimizer: torch.optim.Optimizer | None
    """The discriminator's."""

    def begin(self, num_data: int, seed: int) -> None:
        """Forget the discriminator; the next one begins from this seed."""
        self.discriminator, self.optimizer, self.seed = None, None, seed

    def prepare(self, model: nn.Module, guide: nn.Module, *args) -> None:
        """Make the discriminator, if it is not made yet, by one call of the programs that leaves no trace."""
        if self.discriminator is None:
            devices = [arg.device for arg in args if isinstance(arg, Tensor)]
            with torch.no_grad(), own_generators(devices[0]), own_store():
                self.terms(model, guide, *args)

    def end_step(self) -> None:
        """One step of the discriminator's optimizer, along the gradients of the last backward pass."""
        if self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad()

    def state(self) -> dict[str, Tensor]:
        """The discriminator's parameters and its optimizer's state; nothing before the first call."""
        if self.discriminator is None or self.optimizer is None:
            return {}
        found = {f"{OWN}{name}": value.detach() for name, value in self.discriminator.named_parameters()}
        for index, values in self.optimizer.state_dict()["state"].items():
            found |= {f"optimizer/{index}/{name}": value for name, value in values.items()}
        return found

    def load_state(self, state: dict[str, Tensor], device: torch.device) -> None:
        """Make the discriminator and its optimizer of what :meth:`state` gave.

        :raises CheckpointError: if it is not what :meth:`state` gives
        """
        if not state:
            return
        of_optimizer: dict[int, dict[str, Tensor]] = {}
        weights: dict[str, Tensor] = {}
        for name, value in state.items():
            if moment := re.fullmatch(r"optimizer/(\d{1,9})/(\w+)", name):
                of_optimizer.setdefault(int(moment[1]), {})[moment[2]] = value
            else:
                weights[name] = value
        first, category = weights.get(f"{OWN}layers.0.weight"), weights.get(f"{OWN}category")
        if first is None or first.dim() != 2 or first.dtype not in (torch.float32, torch.float64):
            raise CheckpointError("the objective's state must have a matrix discriminator/layers.0.weight", RESTORE)
        num_categories = 1 if category is None or not category.dim() else len(category)
        self._make(first.shape[1], num_categories, first.to(device))
        assert self.discriminator is not None and self.optimizer is not None
        own = {f"{OWN}{name}": parameter for name, parameter in self.discriminator.named_parameters()}
        groups = self.optimizer.state_dict()["param_groups"]
        saved = {"state": of_optimizer, "param_groups": json.loads(json.dumps(groups))}
        try:
            check_shapes(weights, {name: (tuple(one.shape), one.dtype) for name, one in own.items()})
            check_optimizer("the objective", saved, groups, own.values(), 2**63, finite=False)
        except CheckpointError:
            self.discriminator, self.optimizer = None, None
            raise
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(weights[name])
        self.optimizer.load_state_dict({"state": of_optimizer, "param_groups": groups})

    def _make(self, z_dim: int, num_categories: int, like: Tensor) -> None:
        generator = torch.Generator("cpu").manual_seed(self.seed)
        at_least = torch.promote_types(like.dtype, torch.float32)
        discriminator = Discriminator(z_dim, self.hidden, num_categories, generator, at_least)
        self.discriminator = discriminator.to(like)
        fused = like.device.type in ("cpu", "cuda")
        parameters = self.discriminator.parameters()
        self.optimizer = torch.optim.Adam(parameters, self.learning_rate, betas=(0.5, 0.9), fused=fused)

    def _discriminator_for(self, code: Code) -> Discriminator:
        z, size = code.z, (code.z.shape[-1], code.num_categories)
        if self.discriminator is None:
            self._make(*size, z)
        assert self.discriminator is not None
        if self.discriminator.size != size:
            raise UserError(
                f"Factor met codes of {size[0]} values and {size[1]} categories, and before of "
                f"{self.discriminator.size[0]} and {self.discriminator.size[1]}: use one objective for each pair"
            )
        return self.discriminator

    def _terms(self, model_trace: poutine.Trace, guide_trace: poutine.Trace) -> Terms:
        terms = super()._terms(model_trace, guide_trace)
        code = read_code(model_trace, guide_trace, self.max_plate_nesting, "Factor")
        discriminator = self._discriminator_for(code)
        category = code.category if code.num_categories > 1 else None
        terms.penalties["total_correlation"] = code.expectation(discriminator(code.z, category, fixed=True))
        terms.scales["total_correlation"] = self.gamma * code.scale

        z, q = code.z.detach(), None if code.log_q is None else code.log_q.detach().exp()
        real = F.softplus(-discriminator(z, category))
        exchanged = F.softplus(discriminator(exchange_values(z, q), category))
        if q is not None:
            real, exchanged = q * real, q.mean(-1, keepdim=True) * exchanged
        terms.own["discriminator_loss"] = 0.5 * code.over_categories(real + exchanged)
        return terms


def exchange_values(z: Tensor, weight: Tensor | None = None) -> Tensor:
    """Codes whose values come from different rows, each in an order of its own: draws of the product of marginals.

    :param z: shape ``left_shape + (M, z_dim)``
    :param weight: what each row counts, shape ``left_shape + (M,)``: then rows are drawn, by systematic resampling; of
        equal weights that is a permutation
    :returns: shape of z
    """
    by_value = z.transpose(-2, -1)  # left_shape + (z_dim, M)
    at_least = torch.promote_types(z.dtype, torch.float32)  # in half precision there would be ties
    noise = torch.rand(by_value.shape, dtype=at_least, device=z.device)
    order = noise.argsort(-1)
    if weight is not None:
        shares = (weight / weight.sum(-1, keepdim=True)).to(noise.dtype).cumsum(-1)  # left_shape + (M,)
        points = (order + torch.rand_like(noise[..., :1])) / z.shape[-2]
        order = torch.searchsorted(shares.unsqueeze(-2).expand_as(points).contiguous(), points)
        order = order.clamp(max=z.shape[-2] - 1)
    return by_value.gather(-1, order).transpose(-2, -1)


class Discriminator(nn.Module):
    """D(z), or D(z, c): a perceptron with leaky ReLU of slope 0.2 and one output.

    :param z_dim: size of z
    :param hidden: sizes of the hidden layers
    :param num_categories: number of categories, 1 for none
    :param generator: what the weights are drawn from, and on whose device; torch's defaults when left out
    :param dtype: type of the weights; torch's default when left out
    """

    @typed
    def __init__(
        self,
        z_dim: int,
        hidden: Sequence[int],
        num_categories: int = 1,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        device = torch.get_default_device() if generator is None else generator.device
        made: Any = {"device": device, "dtype": dtype}
        self.size = (z_dim, num_categories)
        sizes = (z_dim, *hidden, 1)
        pairs = zip(sizes, sizes[1:], strict=False)
        layers = [nn.utils.skip_init(nn.Linear, size, after, **made) for size, after in pairs]
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight, 0.2, generator=generator)
            nn.init.zeros_(layer.bias)
        nn.init.normal_(layers[-1].weight, 0, 0.01, generator=generator)
        self.layers = nn.ModuleList(layers)
        self.category = nn.Parameter(torch.empty(num_categories, hidden[0], **made)) if num_categories > 1 else None
        if self.category is not None:  # one column of weights for each category
            nn.init.normal_(self.category, 0, 1, generator=generator)

    def forward(self, z: Tensor, category: Tensor | None = None, fixed: bool = False) -> Tensor:
        """
        :param z: shape ``left_shape + (z_dim,)``
        :param category: category numbers, shape ``left_shape``
        :param fixed: without gradient for the parameters, with one for z
        :returns: shape ``left_shape``
        """
        weights = {name: value.detach() if fixed else value for name, value in self.named_parameters()}
        for index in range(len(self.layers)):
            if index:
                z = F.leaky_relu(z, 0.2)
            z = F.linear(z, weights[f"layers.{index}.weight"], weights[f"layers.{index}.bias"])
            if not index and category is not None:
                z = z + weights["category"][category.long()]
        return at_least_float32(z.squeeze(-1))
