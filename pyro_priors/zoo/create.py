"""Make a pair of a preset's name and the factors that the user chooses, and load one that was saved."""

from __future__ import annotations

import warnings
from dataclasses import fields
from inspect import signature
from typing import Any

import torch.nn as nn

from .._memory import TRAINED, check_memory, refusing_too_many_bytes
from .._options import Seed, plain, shown, typed
from ..data import Splits
from ..errors import UserError
from ..nn.likelihood import LikelihoodOptions
from ..pair import Pair
from ..registration import BatchCheck
from ..rng import seeded
from .families import FAMILIES, Factors, Family
from .networks import NetworkOptions
from .presets import PRESETS
from .recipe import OWN, Recipe, resolve

__all__ = ["create", "create_for", "names"]


def names() -> list[str]:
    """Names of the presets, sorted."""
    return [name for name in PRESETS if PRESETS[name].is_listed]


def create(
    name: str,
    *,
    x_shape: tuple[int, ...] | None = None,
    prior: Any = None,
    likelihood: Any = None,
    networks: str | NetworkOptions | None = None,
    encoder: nn.Module | None = None,
    decoder: nn.Module | None = None,
    **options: Any,
) -> Pair:
    """Make a pair.

    Example::

        >>> pair = create("cp_vae", x_shape=(784,), z_dim=40, num_categories=10)
        >>> pair.model(size=5).shape
        torch.Size([5, 784])
        >>> pair = create("vae", x_shape=(784,), prior="vamp", num_components=100)
        >>> pair = create("vae", x_shape=(784,), prior=priors.Flow(base=priors.Mixture(32)), likelihood="gaussian")

    :param name: one of :func:`names`
    :param x_shape: shape of one example
    :param prior: a name, options of :mod:`pyro_priors.priors`, or a module of your own
    :param likelihood: a name, options of :mod:`pyro_priors.likelihoods`, or a module of your own
    :param networks: a name, or options of :mod:`pyro_priors.networks`
    :param encoder: your own network in the encoder's place: from x (and the condition, in a conditional pair) to a
        distribution over z with event shape ``(z_dim,)``; for ``cp_vae`` the trunk, from x to ``hidden[-1]`` features;
        for ``hvae`` q(z2|x)
    :param decoder: your own network in the decoder's place: from z (and keyword ``c``, or where it sees it
        ``condition``; from z1 and z2 for ``hvae``) to a distribution over x with event shape ``x_shape``. z may have
        dimensions to the left of the batch, for samples and categories, with which ``c`` and ``condition`` broadcast:
        flatten them with ``z.flatten(0, -2)`` for convolutions, and give them back to what these return
    :param options: options of the family, such as ``z_dim``, ``condition_shape`` or, of ``hvae``, ``prior_z1``; and, as
        a shorthand, of a factor, where one factor alone has an option of that name
    :raises ValueError: if a name or an option is unknown (the message names the nearest) or ambiguous, a value is out
        of range, the factors do not fit together, or a network is no module. What your networks return is checked
        whenever the programs run: distributions must be those of ``pyro.distributions``
    """
    chosen = {"prior": prior, "likelihood": likelihood, "networks": networks}
    given = {factor: value for factor, value in chosen.items() if value is not None} | options
    if likelihood is not None and decoder is not None:
        raise UserError(
            f"likelihood={shown(likelihood)} has no effect, because your decoder returns p(x|z) itself: leave "
            "likelihood out"
        )
    if networks is not None and encoder is not None and decoder is not None and name == "vae":
        raise UserError(
            f"networks={shown(networks)} has no effect, because encoder and decoder are your own: leave networks out"
        )
    return make(resolve(name, given, x_shape), encoder, decoder)


def make(recipe: Recipe, encoder: nn.Module | None = None, decoder: nn.Module | None = None, copies: int = 1) -> Pair:
    """Make the pair of a recipe.

    :param copies: copies of the parameters that must fit into the memory
    :raises ValueError: as :func:`create`
    """
    for key, network in (("encoder", encoder), ("decoder", decoder)):
        if network is not None and not isinstance(network, nn.Module):
            given = f"the class {network.__name__}" if isinstance(network, type) else repr(network)
            raise UserError(f"{key} must be a torch.nn.Module, got {given}: give an instance, such as Net()")
    family, factors = recipe.family, Factors(recipe.x_shape, encoder=encoder, decoder=decoder, **recipe.factors)
    if decoder is not None and (option := _without_effect(recipe)):
        warnings.warn(
            f"{option} is an option of the library's own decoder and has no effect on yours: leave it out", stacklevel=4
        )
    largest, path, value = max(recipe.sizes(), key=lambda found: found[0])
    of_option = f"{path}={value}", f"give a smaller {path}"
    check_memory(4 * copies * largest, *of_option)  # torch takes no size beyond 64 bits
    with refusing_too_many_bytes(copies, *of_option):
        pair = family.build(factors)
    own = [key for key in OWN if isinstance(getattr(factors, key), nn.Module)]
    for key in ("prior", "prior_z1"):
        if key in own:
            _check_signature(key, getattr(factors, key), family)
    pair.recipe = {"name": recipe.name, "config": recipe.config(), "own_networks": own}
    pair.made_of = pair.parts()
    shapes: dict[str, Any] = {"x": recipe.x_shape}
    if hasattr(family, "condition_shape"):  # others check their labels themselves, or take no condition
        shapes["condition"] = family.condition_shape
    check = BatchCheck(**shapes)
    for program in (pair.model, pair.guide):
        program.register_forward_pre_hook(check, with_kwargs=True)
    # what your networks must return; the programs compare
    of_encoder: Any = {} if encoder is None else family.encoder_event(factors)
    of_decoder: Any = {} if decoder is None else {"x": recipe.x_shape}
    pair.guide.event_shapes, pair.model.event_shapes = of_encoder, of_encoder | of_decoder
    return pair


def _check_signature(key: str, prior: Any, family: Family) -> None:
    """Refuse a prior of your own whose ``forward`` does not take what the family gives it."""
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    if key == "prior_z1":
        args, kwargs, wanted = (None,), {}, "forward(self, z2)"
    elif hasattr(family, "num_categories"):
        args, kwargs, wanted = (), {"context": None}, "forward(self, context), with the category as context"
    elif getattr(family, "condition_prior", False):
        args, kwargs, wanted = (None,), {}, "forward(self, condition)"
    else:
        args, kwargs, wanted = (), {}, "forward(self)"
    try:
        signature(prior.forward).bind(*args, **kwargs)
    except TypeError:
        given = signature(prior.forward)
        raise UserError(
            f"{key} ({type(prior).__name__}) must have the method {wanted}, got forward{given} without self"
        ) from None


def _without_effect(recipe: Recipe) -> str:
    """The first option of the likelihood that a decoder of your own does not read; nothing where all are defaults."""
    likelihood = recipe.factors["likelihood"]
    if not isinstance(likelihood, LikelihoodOptions) or likelihood == PRESETS[recipe.name].factors.get("likelihood"):
        return ""
    changed = [one.name for one in fields(likelihood) if getattr(likelihood, one.name) != one.default]
    return f"{changed[0]}={getattr(likelihood, changed[0])!r}" if changed else ""


@typed
def create_for(name: str, data: Splits, seed: Seed, **given: Any) -> Pair:
    """Make a pair for some data: the pair that ``pyro-priors train`` begins with.

    Sizes that the data fix are filled in from them, and the networks start from the seed; torch's generator is left as
    it was.

    :param name: one of :func:`names`
    :param data: what the pair is to be trained on
    :param seed: seed of the training
    :param given: as for :func:`create`; ``likelihood="auto"``, or none, is the one that fits the data, unless the
        preset has one of its own
    :raises ValueError: as :func:`create`, or if a conditional pair gets data without a condition
    """
    preset = PRESETS[plain(name)]
    if given.get("likelihood", "auto") in (None, "auto"):
        given["likelihood"] = preset.factors.get("likelihood") or data.likelihood
    if any(one.name == "condition_shape" for one in fields(FAMILIES[preset.family])):
        if data.condition_shape == ():
            raise UserError(
                f"the condition of {data.name} is labels, and pair '{name}' needs rows of numbers: give "
                "--data.condition-labels, which makes them one-hot, or a pair such as cp_vae"
            )
        if data.condition_shape is None:
            raise UserError(
                f"pair '{name}' needs data with a condition, {data.name} has none: give --data.condition-rows N (the "
                "last rows of each image), --data.condition-labels, or a file with condition_train"
            )
        given["condition_shape"] = data.condition_shape
    encoder, decoder = given.pop("encoder", None), given.pop("decoder", None)
    recipe = resolve(name, given, data.x_shape)
    was_gray = data.image_shape is not None and data.recipe is not None and not data.recipe["name"].endswith(".npz")
    is_gaussian = getattr(recipe.factors["likelihood"], "name", "") == "gaussian"
    if is_gaussian and data.likelihood == "bernoulli" and was_gray:
        warnings.warn(
            f"p(x|z) is a Gaussian of gray levels, and the images of {data.name} are black and white: load them with "
            "binarise='none' (--data.binarise none), or take a pair whose likelihood is bernoulli",
            stacklevel=3,
        )
    with seeded(seed):
        return make(recipe, encoder, decoder, copies=TRAINED)
