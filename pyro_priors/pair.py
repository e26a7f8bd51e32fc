"""A pair: the model and the guide of one variational autoencoder, with methods to sample, evaluate and save them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from numpy.typing import ArrayLike
from pyro import infer, poutine
from torch import Tensor

from . import checkpoint, module_state
from ._arrays import check_dense
from ._lock import LOCK, own_store
from ._memory import check_memory
from ._options import checked, path_of, plain, shown, typed
from ._precision import at_least_float32, convert_draws, with_float32_parameters
from ._schemas import SavedPair
from .errors import UserError
from .log_probability import ROWS_PER_CALL, log_probability
from .nn import Likelihood
from .objectives import ELBO
from .pair_arguments import check_finite, check_given, check_values, conditions_of, fixed_values
from .run_folder import find_pair, save_pair
from .sites import FromBase, Mode, sample_sites

__all__ = ["Pair"]

ROWS_AT_ONCE = 2**15
"""Maximum number of rows (data x categories) in one call of the programs that holds all categories at once."""

PARTS = ("prior", "prior_z1", "decoder", "decoder.likelihood", "encoder", "encoder_z1", "trunk", "category", "latent")
"""Networks of the programs of the zoo, by their names in model or guide."""


@checked("a Pair", "pyro_priors.create('vae', x_shape=(784,))")
class Pair(nn.Module):
    """The model and the guide of one variational autoencoder, with the ELBO that trains them.

    Both halves are modules whose ``forward(x=None, condition=None, size=None)`` is a Pyro program. A network that they
    share is one module in both, and remains one under ``to``, ``copy.deepcopy``, ``save`` and ``load``. Pairs of the
    zoo come from :func:`pyro_priors.create`. You can also make a pair from any two programs of this form.

    The methods below run the programs in evaluation mode. They do not change Pyro's parameter store and compute no
    gradients. They take and return tensors on the device of the pair.

    Several threads may call these methods on one or several pairs, even during a training. The calls run one after the
    other, and a training lets them run between its steps. Calls of ``model`` and ``guide``, and of Pyro's ``SVI``, are
    not protected: make them in one thread. The distributions that :meth:`encode` and :meth:`posterior_and_prior` return
    may share the transforms of a flow prior: use them in one thread, too.

    :param model: generative half, with latent sites and the site ``"x"`` in the plate ``"data"``
    :param guide: inference half
    :param elbo: the ELBO of this pair; by default :class:`~pyro_priors.objectives.ELBO`
    :param num_categories: number of categories of site ``"c"``, 0 if there is none
    :param recipe: name and options with which :func:`pyro_priors.create` built the pair, for saving
    :raises ValueError: if a half is not a module
    """

    @typed
    def __init__(
        self,
        model: nn.Module,
        guide: nn.Module,
        elbo: infer.ELBO | None = None,
        num_categories: int = 0,
        recipe: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        for name, program in (("model", model), ("guide", guide)):
            if not isinstance(program, nn.Module):
                raise UserError(
                    f"{name} must be a torch.nn.Module whose forward(x=None, condition=None, size=None) is a Pyro "
                    f"program, got {shown(program)}: give one, for example from pyro_priors.models or .guides"
                )
        self.model = model
        self.guide = guide
        self.elbo = ELBO() if elbo is None else elbo
        self.num_categories = num_categories
        self.recipe = recipe
        self.made_of: dict[str, tuple[Any, ...]] | None = None
        self._saved: list[str | None] = [None]  # in a list: a graph is compiled again if an attribute changes
        convert_draws((model, guide))
        self.aggregate_c: Tensor | None
        like = next(self.parameters(), torch.empty(0))
        uniform = like.new_full((num_categories,), 1 / num_categories) if num_categories else None
        self.register_buffer("aggregate_c", uniform)

    def parts(self) -> dict[str, tuple[Any, ...]]:
        """Describe each network of the programs: its class, and of the library's own the options that it holds."""
        found = {}
        for program in ("model", "guide"):
            for name in PARTS:
                part: Any = getattr(self, program)
                for step in name.split("."):
                    part = getattr(part, step, None)
                part = getattr(part, "_orig_mod", part)  # what torch.compile wraps
                if isinstance(part, nn.Module):
                    is_ours = type(part).__module__.startswith("pyro_priors.")
                    options = {key: value for key, value in vars(part).items() if key[0] != "_" and key != "training"}
                    held = [
                        (key, value) for key, value in options.items() if isinstance(value, int | float | str | tuple)
                    ]
                    found[f"{program}.{name}"] = (type(part), *(sorted(held, key=str) if is_ours else ()))
        return found

    def check_parts(self) -> None:
        """Refuse a pair of the zoo whose networks are not those that its recipe makes.

        :raises ValueError: with the first network that was replaced, or changed
        """
        if self.made_of is None or (now := self.parts()) == self.made_of:
            return
        name = next(key for key in {**self.made_of, **now} if now.get(key) != self.made_of.get(key))
        kinds = [of[name][0].__name__ if name in of else "no module" for of in (now, self.made_of)]
        what = f"{name} is a {kinds[0]}, but the pair was made with a {kinds[1]}"
        if kinds[0] == kinds[1]:
            what = f"{name} has other options than the {kinds[0]} that the pair was made with"
        raise UserError(
            f"{what}, which a load would bring back: give the part to create, as in create(..., prior=part), or "
            "make a pyro_priors.Pair of the programs"
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Pair:
        super()._apply(fn, recurse)
        convert_draws((self.model, self.guide))
        return self

    @property
    def saved_digest(self) -> str | None:
        """Checksum of the last save that the weights were loaded from or saved to. Training resets it to None."""
        return self._saved[0]

    @saved_digest.setter
    def saved_digest(self, digest: str | None) -> None:
        self._saved[0] = digest

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device

    @property
    def likelihood(self) -> Likelihood | None:
        """What the decoder's output is read as; None where a decoder of your own has no ``likelihood``."""
        found = getattr(getattr(self.model, "decoder", None), "likelihood", None)
        return found if isinstance(found, Likelihood) else None

    @property
    def takes_condition(self) -> bool:
        """Whether the programs take a condition; assumed to be True for a pair of your own programs."""
        return bool(self.recipe is None or self._configured("condition_shape"))

    @property
    def takes_labels(self) -> bool:
        """Whether the condition is integer labels, -1 where unknown, and may be left out, as in ``cp_vae``."""
        return bool(getattr(self.model, "takes_labels", False))

    @property
    def batch_at_once(self) -> int:
        """Maximum number of data in one call of the programs that enumerates all categories."""
        return max(1, ROWS_AT_ONCE // max(1, self.num_categories))

    @LOCK
    @torch.no_grad()
    @typed
    def sample(self, size: int = 1, condition: ArrayLike | Tensor | None = None, **fixed: Any) -> dict[str, Tensor]:
        """Return ancestral samples.

        Example::

            >>> pair.sample(64, c=3)["x"].shape      # 64 data of category 3
            >>> pair.sample(64, c="aggregate")       # c from the aggregate posterior, as the figures of Lavda et al.
            >>> pair.sample(64, z0=torch.zeros(2))   # with a flow prior: from this point of its base

        :param size: number of samples
        :param condition: one condition for all samples, shape ``condition_shape``, or one for each, shape
            ``(size,) + condition_shape``; for ``cp_vae`` one label, or one for each, -1 to draw the category from p(c)
        :param fixed: values for sites: one value for all samples, or ``size`` values. For ``c`` also ``"aggregate"``,
            which draws from the aggregate posterior (equation 14) that training or :meth:`set_aggregate` has set, or
            ``"prior"``, which is the default. With a flow prior also ``z0``, points of its base (the generation space
            of Bhalodia et al. 2019), which determine the value of the flow prior's site
        :returns: one tensor of ``size`` rows for each site, and ``"x_mean"``, the mean of p(x|...), which is usually
            shown for a Bernoulli likelihood
        :raises ValueError: if a name is not a site of the model, a value is not finite or has the wrong shape, or a
            condition is given to a pair that takes none
        """
        if size < 1:
            raise UserError(f"size must be a positive integer, got {size!r} (for example, 64)")
        if condition is None and self._configured("condition_shape"):
            raise UserError("condition is None, but this pair needs one: give one condition, or one for each sample")
        if condition is not None and not (self.takes_condition or self.takes_labels):
            raise UserError("condition was given, but this pair takes none: leave it out, or train a conditional pair")
        widest = max((module.out_features for module in self.modules() if isinstance(module, nn.Linear)), default=0)
        of_one = 2 * math.prod(self._configured("x_shape") or ()) + widest  # x, its mean, and a layer
        check_memory(4 * size * of_one, f"size={size} (--num)", "draw fewer samples at a time")
        if condition is not None:
            condition = conditions_of(self, condition, size)
            if self.takes_labels and "c" in fixed and (condition >= 0).any():
                raise UserError("c and condition were both given, and both set the category: give only one")
        if isinstance(c := plain(fixed.get("c")), str) and c == "prior":
            del fixed["c"]
        values, bases = fixed_values(self, fixed, size, condition)
        with self.evaluating(), FromBase(bases):
            program = poutine.condition(self.model, values)
            trace = poutine.trace(program).get_trace(None, condition, size)
        sites = dict(sample_sites(trace))
        return {name: site["value"] for name, site in sites.items()} | {"x_mean": sites["x"]["fn"].mean}

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Put the pair in evaluation mode with an empty parameter store, and keep other threads from running programs.

        Modes and store are restored at the end.
        """
        with LOCK:
            modes = {module: module.training for module in self.modules()}
            self.eval()
            try:
                with own_store():
                    yield
            finally:
                for module, training in modes.items():
                    module.training = training

    def _configured(self, option: str) -> Any:
        return ((self.recipe or {}).get("config") or {}).get(option)

    @LOCK
    @torch.no_grad()
    @typed
    def encode(self, x: Tensor, condition: Tensor | None = None) -> dict[str, Any]:
        """Return the posterior of each latent site.

        If a site depends on another site, its posterior is given that site's most probable category or mean. Labels of
        ``cp_vae`` need not be given: q(c|x) is then the classifier; the category of a known label is that label.

        Example::

            >>> codes = pair.encode(x)
            >>> codes["z"].mean, codes["c"].probs

        :param x: shape ``(batch,) + x_shape``
        :param condition: shape ``(batch,) + condition_shape``
        :returns: the distributions by site, each with batch shape ``(batch,)``
        """
        check_given(self, x, condition)
        check_finite("x", x)
        trace = self._mode_trace(x, condition)
        latent = [(name, site["fn"]) for name, site in sample_sites(trace) if not site["is_observed"]]
        return {name: with_float32_parameters(fn) for name, fn in latent}

    @LOCK
    @torch.no_grad()
    @typed
    def posterior_and_prior(self, x: Tensor, condition: Tensor | None = None) -> dict[str, tuple[Any, Any]]:
        """Return the posterior of each latent site, as :meth:`encode` does, and its prior at the same values of other
        sites.

        :param x: shape ``(batch,) + x_shape``
        :param condition: shape ``(batch,) + condition_shape``
        :returns: posterior and prior by site
        """
        check_given(self, x, condition)
        check_finite("x", x)
        guide_trace = self._mode_trace(x, condition)
        model_trace = self._replayed(guide_trace, condition, len(x))
        latent = [(name, site["fn"]) for name, site in sample_sites(guide_trace) if not site["is_observed"]]
        both = [(name, posterior, model_trace.nodes[name]["fn"]) for name, posterior in latent]
        return {name: (with_float32_parameters(q), with_float32_parameters(p)) for name, q, p in both}

    @LOCK
    @torch.no_grad()
    @typed
    def reconstruct(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return the mean of p(x|...) at the posterior's most probable category and mean.

        :param x: shape ``(batch,) + x_shape``
        :param condition: shape ``(batch,) + condition_shape``
        :returns: shape ``(batch,) + x_shape``
        """
        check_given(self, x, condition)
        check_finite("x", x)
        decoded: Any = self._replayed(self._mode_trace(x, condition), condition, len(x)).nodes["x"]["fn"]
        return decoded.mean

    def _mode_trace(self, x: Tensor, condition: Tensor | None) -> poutine.Trace:
        with self.evaluating(), Mode():
            return poutine.trace(self.guide).get_trace(x, condition)

    def _replayed(self, guide_trace: poutine.Trace, condition: Tensor | None, size: int) -> poutine.Trace:
        with self.evaluating(), Mode():  # of x, too: no draw is needed
            program = poutine.replay(self.model, trace=guide_trace)
            return poutine.trace(program).get_trace(None, condition, size)

    @LOCK
    @torch.no_grad()
    @typed
    def log_prob(
        self,
        x: Tensor,
        condition: Tensor | None = None,
        num_samples: int = 5000,
        compile: str = "auto",
        progress: bool = False,
        categories: str = "sum",
    ) -> Tensor:
        r"""Return importance-sampled log p(x), or log p(x|condition), of each datum.

        .. math:: \log \frac{1}{S} \sum_{s=1}^S w_s \le \log p(x) \text{ in expectation}

        with the weights of :func:`~pyro_priors.objectives.log_importance_weights`. Categories are summed exactly, with
        S draws of z for each, or drawn along with z. The expected estimate increases towards log p(x) with S (Burda et
        al. 2016, arXiv:1509.00519). Memory use does not grow with S. Given labels y of ``cp_vae``, it is log p(x, y) of
        the labeled examples, and log p(x) of the others.

        :param x: shape ``(batch,) + x_shape``
        :param condition: shape ``(batch,) + condition_shape``
        :param num_samples: number of samples S for each datum
        :param compile: ``"always"``, ``"never"``, or ``"auto"``, which compiles if there is enough work to pay for it.
            The noise is the same, and the result is equal up to rounding. If nothing can be compiled, ``"auto"`` runs
            eagerly
        :param progress: show a progress bar in a terminal
        :param categories: ``"sum"``, or ``"draw"``, which costs 1/K and adds the variance of c
        :returns: shape ``(batch,)``, in nats
        :raises ValueError: if an argument is out of range, or nothing can be compiled with ``compile="always"``
        """
        if num_samples < 1:
            raise UserError(f"num_samples must be a positive integer, got {num_samples!r} (for example, 5000)")
        if compile not in ("always", "auto", "never"):
            raise UserError(f"compile must be one of always, auto, never, got {compile!r}")
        check_given(self, x, condition)
        check_values(self, x)
        return log_probability(self, x, condition, num_samples, compile, progress, categories)

    @LOCK
    @torch.no_grad()
    @typed
    def set_aggregate(self, x: Tensor, condition: Tensor | None = None) -> None:
        """Set the aggregate posterior of the category to the mean of q(c|x) over these data (equation 14).

        :param x: shape ``(num_data,) + x_shape``
        :param condition: shape ``(num_data,) + condition_shape``
        """
        if self.aggregate_c is None:
            raise UserError("this pair has no category, and so no aggregate posterior of c: use a pair such as cp_vae")
        for name, value in (("x", x), ("condition", condition)):
            check_dense(name, value)
            if value is not None and not len(value):
                raise UserError(f"{name} must hold at least one datum, got shape {tuple(value.shape)}: give more")
        total = at_least_float32(torch.zeros_like(self.aggregate_c))
        for start in range(0, len(x), ROWS_PER_CALL):
            rows = slice(start, start + ROWS_PER_CALL)
            given = None if condition is None else condition[rows].to(self.device)
            total += self.encode(x[rows].to(self.device), given)["c"].probs.sum(0)
        self.aggregate_c.copy_(total / len(x))

    @typed
    def save(self, path: str | Path) -> None:
        """Save the pair as ``pair.json`` and the safetensors file that it names.

        :func:`pyro_priors.load` and :meth:`load_weights` return what was saved last to a path, by a training or by this
        method. Saving replaces the pair in the folder, and does not change any other file.

        A run folder of :func:`pyro_priors.fit` has one place for a pair, its folder ``pair``. Saving to the run folder
        replaces the pair from the training. The run is then evaluated and sampled with the new pair, and cannot be
        resumed until you move that pair away.

        Several threads and processes may save to one folder. The saves run one after the other, and a reader always
        gets one complete pair.

        :param path: the folder, created if missing
        :raises CheckpointError: if a file cannot be written; the previous pair in the folder is then unchanged
        :raises ValueError: if a network was replaced since the pair was made, if a tensor cannot be saved, the
            folder cannot be created, or the folder belongs to a run whose pair has other options, or to a run
            without its weights
        """
        self.check_parts()
        tensors = module_state.tensors_of(self)
        module_state.check_tensors(tensors)
        with LOCK:  # all of one moment, also of a pair in training
            tensors = {name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()}
        self.saved_digest = save_pair(path_of("path", path), tensors, self.recipe)

    @typed
    def load_weights(self, path: str | Path) -> None:
        """Load the tensors that were last saved to a path into this pair. Use this for pairs that are not of the zoo.

        :param path: a folder that was given to :meth:`save`, or a run folder
        :raises CheckpointError: if the save is incomplete or altered, or comes from other networks
        """
        folder = find_pair(path_of("path", path))
        tensors, record = checkpoint.read(folder, "pair", SavedPair, path_of("path", path))
        module_state.load_module_state(self, tensors, str(folder))
        self.saved_digest = record["sha256"]
