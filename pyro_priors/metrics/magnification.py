"""How much a decoder stretches the latent space, from place to place."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import UserError
from .checks import check_values

__all__ = ["log_magnification"]

AT_ONCE = 1000


@torch.no_grad()
def log_magnification(mean: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    r"""Logarithm of the magnification factor of a map from codes to data.

    .. math:: \mathrm{MF}(z) = \sqrt{\det J^\top J}, \qquad J = \frac{\partial\, \mathrm{mean}(z)}{\partial z}

    In words: the area that a small piece of the latent space has among the data, over its own. The density of the means
    is that of z divided by it, so that data have gaps only where the prior has them or the factor is large.

    One pass for each dimension of z, some codes at a time: a column of J is the derivative by u of what is linear in
    it, :math:`J^\top u`.

    :param mean: from codes, shape ``(num, z_dim)``, to data, shape ``(num,) + x_shape``, each row of its own: such as
        ``lambda z: pair.model.decoder(z).mean``, in evaluation mode
    :param z: shape ``left_shape + (z_dim,)``
    :returns: shape ``left_shape``; minus infinity where a direction is lost
    :raises ValueError: if x has fewer dimensions than z, where the factor is 0 everywhere, or z has values that are not
        finite, or is empty

    References: equation of section 2.3 of Alexej Klushyn, Nutan Chen, Botond Cseke, Justin Bayer and Patrick van der
    Smagt, Increasing the generalisation capacity of conditional VAEs, ICANN 2019. Christopher M. Bishop, Markus
    Svensen and Christopher K. I. Williams, Magnification factors for the SOM and GTM algorithms, 1997.
    """
    check_values("z", z, ..., "z_dim")
    found = []
    for rows in z.reshape(-1, z.shape[-1]).split(AT_ONCE):
        value, pull_back = torch.func.vjp(mean, rows)[:2]
        push_forward = torch.func.vjp(pull_back, torch.zeros_like(value))[1]
        axes = torch.eye(z.shape[-1], dtype=rows.dtype, device=rows.device)
        columns = [push_forward((axis.expand_as(rows),))[0].flatten(1) for axis in axes]
        jacobian = torch.stack(columns, -1)  # (num, x_dim, z_dim)
        if jacobian.shape[-2] < jacobian.shape[-1]:
            raise UserError(
                f"z has {jacobian.shape[-1]} dimensions and x only {jacobian.shape[-2]}: the magnification factor is 0 "
                "everywhere; take a pair with a smaller z_dim"
            )
        found.append(torch.linalg.svdvals(jacobian).log().sum(-1))
    return torch.cat(found).reshape(z.shape[:-1])
