"""A pair: the model and the guide of one variational autoencoder, with methods to sample, evaluate and save them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn as nn
from numpy.typing import ArrayLike
from pyro import infer, poutine
from torch import Tensor

from . import checkpoint
from ._arrays import check_dense
from ._lock import LOCK, own_store
from ._memory import check_memory
from ._options import checked, path_of, plain, shown, typed
from ._precision import at_least_float32, convert_draws, with_float32_parameters
from ._records import SavedPair
from .network_checks import explaining
from .nn import Likelihood, check_labels
from .objectives import ELBO, log_importance_weights
from .progress import progress_bar
from .registration import check_batch
from .rng import alone, own_generators
from .run_folder import find_pair, save_pair
from .sites import FromBase, Mode, is_transformed, sample_sites
from .tracing.function import CompiledFunction

__all__ = ["Pair"]

ROWS_PER_CALL = 2**12
"""Rows (data x samples x categories) that pass a network in one call of an evaluation. This bounds the memory and keeps
the activations of a perceptron with some hundred units in the processor's caches."""

VALUES_PER_CALL = 2**23
"""Maximum number of values of x in such a call, if that means fewer rows: convolutions have many features per value."""

ROWS_AT_ONCE = 2**15
"""Maximum number of rows (data x categories) in one call of the programs that holds all categories at once."""

ROWS_THAT_PAY = 2**21
"""Minimum number of rows for which an evaluation is compiled; for fewer, compiling takes longer than it saves."""


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
                raise ValueError(
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
        raise ValueError(
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
            raise ValueError(f"size must be a positive integer, got {size!r} (for example, 64)")
        if condition is None and self._configured("condition_shape"):
            raise ValueError("condition is None, but this pair needs one: give one condition, or one for each sample")
        if condition is not None and not (self.takes_condition or self.takes_labels):
            raise ValueError("condition was given, but this pair takes none: leave it out, or train a conditional pair")
        widest = max((module.out_features for module in self.modules() if isinstance(module, nn.Linear)), default=0)
        of_one = 2 * math.prod(self._configured("x_shape") or ()) + widest  # x, its mean, and a layer
        check_memory(4 * size * of_one, f"size={size} (--num)", "draw fewer samples at a time")
        if condition is not None:
            condition = self._conditions(condition, size)
            if self.takes_labels and "c" in fixed and (condition >= 0).any():
                raise ValueError("c and condition were both given, and both set the category: give only one")
        if isinstance(c := plain(fixed.get("c")), str) and c == "prior":
            del fixed["c"]
        values, bases = self._fixed(fixed, size, condition)
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

    def _fixed(
        self, fixed: dict[str, Any], size: int, condition: Tensor | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Values of what :meth:`sample` was given, one for each sample: by site, and of a flow's base by its site."""
        values: dict[str, Tensor] = {}
        bases: dict[str, Tensor] = {}
        if "c" in fixed:
            values["c"] = self._categories(fixed["c"], size)
        if not fixed.keys() - {"c"}:
            return values, bases
        with self.evaluating(), own_generators(self.device):
            trace = poutine.trace(self.model).get_trace(None, None if condition is None else condition[:1], 1)
        sites = dict(sample_sites(trace))
        shapes = {name: tuple(site["fn"].event_shape) for name, site in sites.items()}
        of_flow = next((name for name, site in sites.items() if is_transformed(site["fn"])), None)
        for name in fixed.keys() - {"c"}:
            if name not in (*shapes, "z0"):
                raise ValueError(f"'{name}' is not a site of this model: its sites are {', '.join(shapes)}")
            if name == "z0" and of_flow is None:
                raise ValueError("z0 was given, but the prior of this pair is not a flow: give z, or use prior='flow'")
            if name == "z0" and of_flow in fixed:
                raise ValueError(f"z0 and {of_flow} were both given, but z0 determines {of_flow}: give only one")
            site = of_flow if of_flow is not None and name == "z0" else name
            shape = shapes[site]
            value = self._numbers(name, fixed[name]).to(next(self.parameters()))
            _check_finite(name, value)
            if tuple(value.shape) not in (shape, (size, *shape)):
                raise ValueError(
                    f"{name} must have shape {shape}, one for all samples, or {(size, *shape)}, one for each, got "
                    f"{tuple(value.shape)}: reshape it, or give another size"
                )
            (bases if name == "z0" else values)[site] = value.expand(size, *shape)
        return values, bases

    def _categories(self, value: Any, size: int) -> Tensor:
        value = [plain(one) for one in value] if isinstance(value, list | tuple) else plain(value)
        if isinstance(value, str):
            if value != "aggregate" or self.aggregate_c is None:
                raise ValueError(
                    f"c must be a category, 'prior', or, if the pair has categories, 'aggregate', got '{value}'"
                )
            probs = at_least_float32(self.aggregate_c)
            if self.num_categories > 1 and bool((self.aggregate_c == self.aggregate_c[0]).all()):  # as it was made
                raise ValueError(
                    "c='aggregate' needs the aggregate posterior, which is not set: call pair.set_aggregate(x_train), "
                    "as fit does"
                )
            return dist.Categorical(probs=probs).sample((size,))
        if not self.num_categories:
            raise ValueError("c was given, but this pair has no category: leave it out, or use a pair such as cp_vae")
        value = self._numbers("c", value)
        numbers = not (value.is_floating_point() or value.is_complex() or value.dtype is torch.bool)
        c = value.long() if numbers else value  # other types than int64 do not index, or index as a mask
        if not numbers or not c.numel() or c.min() < 0 or c.max() >= self.num_categories:
            raise ValueError(f"c must be a category from 0 to {self.num_categories - 1}, got {value.tolist()}")
        return self._row_each("c", c, size, 0)

    def _numbers(self, name: str, value: Any) -> Tensor:
        check_dense(name, value)
        try:
            return torch.as_tensor(value, device=self.device)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"{name} must be a tensor of numbers, got {value!r}") from None

    def _conditions(self, condition: Any, size: int) -> Tensor:
        """Return a condition for each of ``size`` samples."""
        like = next(self.parameters())
        given = self._numbers("condition", condition)
        if self.takes_labels:
            labels = check_labels("condition", given.reshape(-1) if given.dim() == 0 else given, self.num_categories)
            return self._row_each("condition", labels[0] if given.dim() == 0 else labels, size, 0)
        condition = given.to(like)
        shape = tuple(self._configured("condition_shape") or ())
        if shape and tuple(condition.shape) not in (shape, (size, *shape)):
            classes = given.dim() < 2 and not given.is_floating_point() and len(shape) == 1 < shape[0]
            one_hot = f"; for class numbers, give torch.nn.functional.one_hot(condition, {shape[0]})" if classes else ""
            raise ValueError(
                f"condition must have shape {shape}, one for all samples, or {(size, *shape)}, one for each, got "
                f"{tuple(condition.shape)}: reshape it, or give another size{one_hot}"
            )
        _check_finite("condition", condition)
        return self._row_each("condition", condition, size, len(shape) or max(condition.dim() - 1, 1))

    def _configured(self, option: str) -> Any:
        return ((self.recipe or {}).get("config") or {}).get(option)

    def _check(self, x: Tensor, condition: Tensor | None) -> None:
        """Refuse tensors that are not batches of floating-point rows with the shapes that the pair was made for."""
        for name, value in (("x", x), ("condition", condition)):
            if value is None and (name == "x" or self._configured("condition_shape")):
                raise ValueError(f"{name} is None, but this pair needs it: give {name}, one row per datum")
            if name == "condition" and value is not None and self.takes_labels:
                check_labels("condition", value, self.num_categories)
            elif value is not None and (name == "x" or self.takes_condition):
                own = next(self.parameters()).dtype
                check_batch(name, value, own, self._configured(f"{name}_shape"))
        if condition is not None:
            if len(condition) != len(x):
                raise ValueError(
                    f"condition must be as long as x, got {len(condition)} and {len(x)}: give one per datum"
                )
            _check_finite("condition", condition)

    def _check_values(self, x: Tensor) -> None:
        """While Pyro's validation is on, refuse values outside the support of the likelihood."""
        if not pyro.settings.get("validate_distributions_torch"):
            return
        _check_finite("x", x)
        if self.likelihood is not None:
            self.likelihood.check(x)

    def _row_each(self, name: str, value: Tensor, size: int, event_dim: int) -> Tensor:
        value = value.to(self.device)
        if value.dim() == event_dim:
            return value.expand(size, *value.shape)
        if value.dim() == event_dim + 1 and len(value) == size:
            return value
        raise ValueError(f"{name} must be one value or {size} values, got shape {tuple(value.shape)}: reshape it")

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
        self._check(x, condition)
        _check_finite("x", x)
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
        self._check(x, condition)
        _check_finite("x", x)
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
        self._check(x, condition)
        _check_finite("x", x)
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
            raise ValueError(f"num_samples must be a positive integer, got {num_samples!r} (for example, 5000)")
        if compile not in ("always", "auto", "never"):
            raise ValueError(f"compile must be one of always, auto, never, got {compile!r}")
        self._check(x, condition)
        self._check_values(x)
        num_categories = 1 if categories == "draw" else max(1, self.num_categories)
        rows = max(1, min(ROWS_PER_CALL, VALUES_PER_CALL // x[0].numel()) // num_categories)
        batch = min(100, rows, len(x))
        samples = min(max(1, rows // batch), num_samples)

        def log_sum(x: Tensor, condition: Tensor | None, num: int = samples) -> dict[str, Tensor]:
            log_w = log_importance_weights(self.model, self.guide, x, condition, num_samples=num, categories=categories)
            return {"log_sum": log_w.to(torch.promote_types(log_w.dtype, torch.float32)).logsumexp(0)}

        in_bulk: Callable[..., dict[str, Tensor]] = log_sum
        if compile == "always" or compile == "auto" and len(x) * num_samples * num_categories >= ROWS_THAT_PAY:
            in_bulk = CompiledFunction(log_sum, [self], strict=compile == "always")
        estimates = []
        first = x[:2].to(self.device), None if condition is None else condition[:2].to(self.device)
        bar = progress_bar(len(x), "log-likelihood", progress)
        with self.evaluating(), bar, explaining(self, *first):
            for start in range(0, len(x), batch):
                part = x[start : start + batch].to(self.device)
                given = None if condition is None else condition[start : start + batch].to(self.device)
                at_least = torch.promote_types(part.dtype, torch.float32)
                total = torch.full((len(part),), -math.inf, dtype=at_least, device=part.device)
                for done in range(0, num_samples, samples):
                    num = min(samples, num_samples - done)
                    # the remainders are too small for a separate graph
                    full = num == samples and len(part) == batch
                    run = partial(in_bulk, part, given) if full else partial(log_sum, part, given, num)
                    found = alone((len(part), num), run, "the evaluation of log p(x)")
                    total = torch.logaddexp(total, found["log_sum"].to(at_least))
                estimates.append(total - math.log(num_samples))
                bar.update(len(part))
        return torch.cat(estimates)

    @LOCK
    @torch.no_grad()
    @typed
    def set_aggregate(self, x: Tensor, condition: Tensor | None = None) -> None:
        """Set the aggregate posterior of the category to the mean of q(c|x) over these data (equation 14).

        :param x: shape ``(num_data,) + x_shape``
        :param condition: shape ``(num_data,) + condition_shape``
        """
        if self.aggregate_c is None:
            raise ValueError("this pair has no category, and so no aggregate posterior of c: use a pair such as cp_vae")
        for name, value in (("x", x), ("condition", condition)):
            check_dense(name, value)
            if value is not None and not len(value):
                raise ValueError(f"{name} must hold at least one datum, got shape {tuple(value.shape)}: give more")
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
        tensors = checkpoint.module_state(self)
        checkpoint.check_tensors(tensors)
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
        checkpoint.load_module_state(self, tensors, str(folder))
        self.saved_digest = record["sha256"]


def _check_finite(name: str, value: Tensor) -> None:
    if not value.is_meta and not value.isfinite().all():  # on the device meta tensors have no values
        first = (~value.isfinite()).nonzero()[0].tolist()
        raise ValueError(f"{name} has NaN or infinite values, the first at {first}: leave such data out")
