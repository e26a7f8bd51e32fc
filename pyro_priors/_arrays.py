"""Arrays that hold less, or more, than their values: sparse and masked ones are refused, and not read in part."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import UserError

__all__ = ["check_dense"]


def check_dense(argument: str, values: Any) -> None:
    """Refuse arrays and tensors that are sparse, masked, nested or without values.

    :param argument: name to call them by in errors, such as ``"x_train"``
    :raises ValueError: if they are
    """
    if isinstance(values, Tensor):
        if isinstance(values, torch.masked.MaskedTensor):
            raise UserError(f"{argument} is a masked tensor: fill the masked values in, {argument}.to_tensor(0.0)")
        if values.is_nested:
            raise UserError(f"{argument} must be a rectangular array: its rows differ in shape")
        if values.layout is not torch.strided:
            raise UserError(f"{argument} is sparse ({values.layout}): give {argument}.to_dense()")
        if values.is_meta:
            raise UserError(f"{argument} is on the device meta, where it has no values: give one with values")
    elif hasattr(values, "toarray"):
        raise UserError(f"{argument} is sparse ({type(values).__name__}): give {argument}.toarray()")
    elif np.ma.isMaskedArray(values) and (num := int(np.ma.getmaskarray(values).sum())):
        raise UserError(
            f"{argument} is a masked array with {num} masked values: fill them in, {argument}.filled(0.0), or leave "
            "these examples out"
        )
