"""Presets: the familiar names, each a family with the factors and options that its paper describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from ..errors import UserError, hint
from ..nn.likelihoods import Gaussian as GaussianLikelihood
from ..priors import CDV, Flow, Mixture, Standard, Vamp
from ..registry import Registry
from .families import FAMILIES

__all__ = ["PRESETS", "Preset", "register_preset"]


@dataclass(frozen=True)
class Preset:
    """A family with defaults of its own.

    :param family: name of the family
    :param factors: options of factors, by the factor; others are the family's
    :param options: options of the family
    :param text: what it is, in one line
    :param is_listed: whether :func:`pyro_priors.names` has it
    """

    family: str
    factors: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""
    is_listed: bool = True


PRESETS: Registry[Preset] = Registry("pair")
"""Presets by name."""


def register_preset(
    name: str,
    family: str,
    text: str = "",
    citations: Sequence[str] = (),
    factors: Mapping[str, Any] | None = None,
    is_listed: bool = True,
    **options: Any,
) -> None:
    """Register a family with defaults of its own under a name, by which :func:`pyro_priors.create` makes it.

    Example::

        register_preset("small_vae", "vae", "A VAE with a code of two.", z_dim=2, factors={"prior": Flow()})

    :param name: an identifier
    :param family: name of a registered family
    :param text: what it is, in one line
    :param citations: keys of :data:`pyro_priors.citations.BIBTEX`, or BibTeX entries
    :param factors: options of factors, by the factor
    :param is_listed: whether :func:`pyro_priors.names` has it
    :param options: options of the family
    :raises ValueError: if the name is taken, or the family is unknown or has no such option
    """
    known = [one.name for one in fields(FAMILIES[family])]
    if unknown := [option for option in options if option not in known]:
        raise UserError(f"family '{family}' has no option '{unknown[0]}': {hint(unknown[0], known)}")
    PRESETS.add(name, Preset(family, factors or {}, options, text, is_listed), citations)


_OPTIMAL = {"likelihood": GaussianLikelihood("optimal")}
_KLUSHYN, _DE = ("klushyn2019",), ("de2025", "rybkin2021")

register_preset("vae", "vae", "variational autoencoder, N(0, I) as the prior")
register_preset("hvae", "hvae", "two codes (Tomczak and Welling 2018), N(0, I) as the prior of the upper one")
register_preset("cp_vae", "cp_vae", "a category, and a Gaussian prior of z for each (Lavda et al. 2019)")
register_preset("cvae", "cvae", "conditional VAE (Sohn et al. 2015), a Gaussian of the condition as prior", _KLUSHYN)
register_preset(
    "cmog_cvae",
    "cvae",
    "conditional VAE with a mixture of Gaussians of the condition (Klushyn et al. 2019)",
    _KLUSHYN,
    {"prior": Mixture(32, False)},
    condition_decoder=False,
)
register_preset(
    "cvamp_cvae",
    "cvae",
    "conditional VAE with a conditional VampPrior (Klushyn et al. 2019)",
    _KLUSHYN,
    {"prior": Vamp(32)},
    condition_decoder=False,
)
register_preset(
    "cdv_cvae",
    "cvae",
    "conditional VAE with the decoder-based VampPrior CDV (Klushyn et al. 2019)",
    _KLUSHYN,
    {"prior": CDV(32)},
    condition_decoder=False,
)
register_preset("sigma_vae", "vae", "VAE with the scale that fits each batch (Rybkin et al. 2021)", _DE[1:], _OPTIMAL)
register_preset(
    "sigma_cvae",
    "cvae",
    "conditional VAE with p(z), and the scale that fits each batch (De 2025)",
    _DE,
    _OPTIMAL | {"prior": Standard()},
    condition_prior=False,
)
register_preset(
    "sigma_cvae_nf",
    "cvae",
    "conditional VAE with a flow to a Gaussian of the condition, and the scale that fits each batch (De 2025)",
    (*_DE, "kim2021"),
    _OPTIMAL | {"prior": Flow("joint_affine_coupling", 4)},
)
