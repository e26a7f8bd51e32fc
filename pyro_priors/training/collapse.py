"""Categories that collapse: the posterior of a category uses few of them, or says nothing about x."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ..sites import is_categorical

__all__ = ["CategoryUse"]

LEAST_ENTROPY = 0.4
"""Smallest entropy of the aggregate posterior q(c), as a fraction of log K: with 10 categories, 2.5 of them in use."""
LEAST_INFORMATION = 0.05
"""Smallest mutual information I(x;c), as a fraction of log K: with 10 categories, 0.12 nats."""
STEPS_BEFORE = 500
"""Number of steps at the full weight of the KL before categories are judged: at first none tells anything about x."""


class CategoryUse(Messenger):
    r"""Effect handler around a guide that adds up how its categories are used over the validation data.

    For each latent site with K categories it finds

    .. math:: K_{\mathrm{eff}} = \exp H(q(c)), \qquad I(x; c) = H(q(c)) - \frac{1}{N} \sum_i H(q(c \mid x_i)), \qquad
        q(c) = \frac{1}{N} \sum_i q(c \mid x_i)

    from the posteriors that validation computes anyway. Sites whose posterior depends on another enumerated site are
    left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, Tensor] = {}
        self.sums: dict[str, Tensor] = {}
        """For each site, shape (K + 2,): sums of the probabilities and of the entropy, and the number of examples."""

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["is_observed"] or not is_categorical(msg["fn"]) or msg["fn"].logits.dim() != 2:
            return
        logits = msg["fn"].logits.detach().cpu().double()  # (batch, K)
        probs = logits[logits.isfinite().all(-1)].softmax(-1)  # examples whose label is known tell nothing
        entropy = torch.special.entr(probs).sum()
        self.seen[msg["name"]] = torch.cat([probs.sum(0), torch.stack([entropy, probs.new_tensor(len(probs))])])

    def clear(self) -> None:
        """Begin a new validation."""
        self.seen, self.sums = {}, {}

    def add(self) -> None:
        """Add what the last call of the guide has shown; a call that is repeated counts once."""
        for name, value in self.seen.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.seen = {}

    def warning(self, epoch: int, has_category: bool, reduce: Callable[[Tensor], Tensor] | None = None) -> str | None:
        """Return a one-line warning if the categories of a site have collapsed.

        :param epoch: the epoch that has ended
        :param has_category: whether the guide has a part ``category``, which can be frozen
        :param reduce: sums a tensor over the processes of the training
        """
        for name, sums in self.sums.items():
            *total, entropy, count = (sums if reduce is None else reduce(sums)).tolist()
            if len(total) < 2 or not count:
                continue
            most, mean = math.log(len(total)), torch.tensor(total, dtype=torch.float64, device="cpu") / count
            of_mean = torch.special.entr(mean).sum().item()
            information = max(0.0, of_mean - entropy / count)
            if of_mean >= LEAST_ENTROPY * most and information >= LEAST_INFORMATION * most:
                continue
            remedy = f"warm up its KL (warmup_epochs with warmup_sites=('{name}',))"
            if has_category:
                remedy += ", or begin with pyro_priors.start_at_clusters and hold frozen=('guide.category',) at first"
            return (
                f"the categories of '{name}' have collapsed: after epoch {epoch}, the validation data use "
                f"{math.exp(of_mean):.1f} of {len(total)} categories (exp of the entropy of their mean posterior), and "
                f"{name} tells {information:.2f} nats about x, of {most:.2f} at most: {remedy}"
            )
        return None
