# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # CP-VAE: a prior for each category
#
# Lavda, Gregorova and Kalousis (2019, arXiv:1911.10885) give a VAE a category $c$ beside its code $z$, and each
# category a Gaussian prior of its own, learned with the rest:
#
# $$c \sim \mathrm{Uniform}\{1..K\}, \quad z \sim p(z \mid c), \quad x \sim p(x \mid z, c); \qquad
# q(c, z \mid x) = q(c \mid x)\, q(z \mid x, c)$$
#
# In Pyro the category is *enumerated*: the guide marks it with `infer={"enumerate": "parallel"}`, the programs run once
# with all K values along a new dimension, and the bound sums over them exactly. No relaxation, no temperature.

# %%
import os

import torch

import pyro_priors as pp

SMOKE_TEST = "SMOKE_TEST" in os.environ  # a few steps only, for the tests
torch.manual_seed(0)

# %% [markdown]
# ## The toy of Figures 3 and 4
# Half of the data from N(0.1, 0.1), half from N(1, 0.1), where 0.1 is the standard deviation as in the authors' code.
# The density is known, so there is a ceiling that no bound can pass in expectation, and on a test part by sampling
# noise alone.

# %%
toy = pp.data.load("mixture", limit=1_000 if SMOKE_TEST else 10_000)
print(f"true log-likelihood: {toy.true_log_likelihood:.4f} nats per datum")

# %% [markdown]
# The KL is warmed up over the first half of the training. Without it the scale of the likelihood, which starts at 1,
# covers both modes before the latents have anything to say, and they never get to say it.


# %%
def train_toy(name: str, **config) -> pp.Pair:
    torch.manual_seed(0)
    pair = pp.create(name, x_shape=toy.x_shape, z_dim=1, hidden=(32, 32), likelihood="gaussian", **config)
    epochs = 2 if SMOKE_TEST else 20
    pp.fit(pair, toy, max_epochs=epochs, warmup_epochs=epochs / 2, learning_rate=2e-3, progress=False)
    found = pp.metrics.evaluate(pair, toy, metrics=["bound", "log_likelihood"], num_samples=100, progress=False)
    print(f"{name} {config}: bound {found['bound'].value:.4f}, log-likelihood {found['log_likelihood'].value:.4f}")
    return pair


vae = train_toy("vae")
cp_2 = train_toy("cp_vae", num_categories=2)
cp_150 = train_toy("cp_vae", num_categories=5 if SMOKE_TEST else 150)

# %% [markdown]
# Figure 3: data and samples. The samples of CP-VAE draw c from the aggregate posterior, $q(c) = E_x\, q(c \mid x)$
# (equation 14), as the paper does.

# %%
pp.plots.density(vae, toy)

# %%
pp.plots.density(cp_2, toy, c="aggregate")

# %%
pp.plots.density(cp_150, toy, c="aggregate")

# %% [markdown]
# Figure 4: 150 categories for two modes, samples from the aggregate posterior (above) and from the uniform prior
# (below). The paper, with a relaxed category, sees categories fall out of use, and samples of the prior go astray in
# them. Summed exactly, and warmed up with the rest, all of them stay in use here and the two figures hardly differ.

# %%
pp.plots.density(cp_150, toy)

# %%
pp.plots.aggregate_category(cp_150)

# %% [markdown]
# ## Digits
# The 8x8 digits need no download; with the one word changed to `"mnist"` the same cell trains on MNIST (`z_dim=40`, and
# hours instead of a minute). No label is used in training.

# %%
DATA = "digits"
digits = pp.data.load(DATA)
pair = pp.create("cp_vae", x_shape=digits.x_shape, z_dim=2 if DATA == "digits" else 40, num_categories=10)
history = pp.fit(
    pair, digits, max_epochs=2 if SMOKE_TEST else 100, batch_size=32, learning_rate=2e-3, progress=not SMOKE_TEST
)

# %%
for name, estimate in pp.metrics.evaluate(pair, digits, num_samples=10 if SMOKE_TEST else 200, progress=False).items():
    print(f"{name:22} {estimate.value:9.3f} {estimate.unit}")

# %% [markdown]
# Figure 7: one row for each category, code drawn from that category's prior.

# %%
pp.plots.categories(pair, digits)

# %% [markdown]
# The same pair under Pyro's own `TraceEnum_ELBO`, which samples the KL of z instead of taking its closed form: the same
# expectation, more noise, and a sum over the batch.

# %%
from pyro.infer import TraceEnum_ELBO

x = digits.valid.x[:100]
print(
    pair.elbo.loss(pair.model, pair.guide, x), TraceEnum_ELBO(max_plate_nesting=1).loss(pair.model, pair.guide, x) / 100
)
