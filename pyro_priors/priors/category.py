"""The categorical conditional prior p(z|c) of Lavda et al. (2019)."""

import pyro.distributions as dist
import torch
import torch.nn as nn
from torch import Tensor

from .._hints import check_sizes
from .._options import typed
from .._precision import at_least_float32
from ..nn import chosen, positive, raw_of

__all__ = ["CategoryPrior"]


class CategoryPrior(nn.Module):
    r"""One trained diagonal Gaussian per category (equation 5 of Lavda et al. 2019).

    .. math:: p(z \mid c) = \mathcal{N}(z \mid \mathrm{loc}_c, \mathrm{diag}(\mathrm{scale}_c^2))

    The published implementation never trains these (they are not parameters there) and reads the same numbers as a
    log-variance in training and as a standard deviation in generation. Here both are parameters, read one way.
    The scales start at 1 and the locations at draws from N(0, 1/z_dim), so that :math:`|\mathrm{loc}_c|^2 \approx 1`
    whatever ``z_dim`` is: from N(0, 1) it would be about ``z_dim``, and the categories would begin many nats apart for
    a posterior that begins near the origin. That is ours; the paper names no start.

    :param num_categories: number of categories K
    :param z_dim: size of z
    """

    @typed
    def __init__(self, num_categories: int, z_dim: int) -> None:
        super().__init__()
        check_sizes(num_categories=num_categories, z_dim=z_dim)
        self.loc = nn.Parameter(torch.randn(num_categories, z_dim) / z_dim**0.5)
        self.raw_scale = nn.Parameter(torch.full((num_categories, z_dim), raw_of(1.0)))

    def forward(self, c: Tensor) -> dist.Distribution:
        """
        :param c: category numbers, shape ``left_shape``, or log-weights of a relaxed category, shape
            ``left_shape + (K,)``: then the weighted means of locations and scales
        :returns: distribution with batch shape ``left_shape`` and event shape ``(z_dim,)``
        """
        with torch.autocast(c.device.type, enabled=False):  # which would multiply in half precision
            loc, scale = chosen(at_least_float32(self.loc), c), chosen(positive(self.raw_scale), c)
        return dist.Normal(loc, scale).to_event(1)
