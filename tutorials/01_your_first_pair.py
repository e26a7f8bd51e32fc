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
# # Your first pair
#
# A variational autoencoder is two Pyro programs: a *model* that says how data come about, and a *guide* that says how
# the latent code of a datum is inferred. This tutorial writes both by hand, with a prior that is learned, trains them
# with plain `pyro.infer.SVI`, and then gets the same pair from the zoo: same weights, same noise, equal losses.

# %%
import copy
import math
import os

import pyro
import pyro.distributions as dist
import torch
import torch.nn as nn
import torch.nn.functional as F
from pyro.infer import SVI, Trace_ELBO

import pyro_priors as pp

SMOKE_TEST = "SMOKE_TEST" in os.environ  # a few steps only, for the tests
NUM_EPOCHS = 1 if SMOKE_TEST else 30

# %% [markdown]
# ## Data
# 1,797 handwritten digits of 8x8 pixels that come with scikit-learn. A Bernoulli likelihood needs binary pixels, so the
# grey levels are binarised; here once, to keep the loop short.

# %%
digits = pp.data.load("digits", binarise="fixed")
x_train, x_valid = digits.train.x, digits.valid.x
x_train.shape, x_train.unique()

# %% [markdown]
# ## A model with a learned prior
#
# $$z \sim \mathcal N(\mathrm{loc}, \mathrm{diag}(\mathrm{scale}^2)), \qquad
# x \sim \mathrm{Bernoulli}(\mathrm{decoder}(z))$$
#
# Location and scale of the prior are parameters like any other. `pyro.module` makes the tensors known to SVI, and the
# plate says that the rows of the batch are independent.


# %%
class Model(nn.Module):
    def __init__(self, x_dim: int, z_dim: int, hidden: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(z_dim))
        self.raw_scale = nn.Parameter(torch.full((z_dim,), math.log(math.expm1(1 - 1e-4))))  # a scale of 1
        self.decoder = nn.Sequential(nn.Linear(z_dim, hidden), nn.ReLU(), nn.Linear(hidden, x_dim))

    def forward(self, x: torch.Tensor) -> None:
        pyro.module("model", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.loc, F.softplus(self.raw_scale) + 1e-4).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)


# %% [markdown]
# ## A guide
# It samples the same sites as the model, less the observed one: $z \sim q(z \mid x)$.


# %%
class Guide(nn.Module):
    def __init__(self, x_dim: int, z_dim: int, hidden: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(x_dim, hidden), nn.ReLU(), nn.Linear(hidden, 2 * z_dim))

    def forward(self, x: torch.Tensor) -> None:
        pyro.module("guide", self)
        with pyro.plate("data", len(x)):
            loc, raw_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, F.softplus(raw_scale) + 1e-4).to_event(1))


# %% [markdown]
# ## Plain SVI
# Pyro's `Trace_ELBO` sums over the batch, so the loss of an epoch is divided by the number of data: nats per datum.

# %%
Z_DIM, HIDDEN, BATCH_SIZE = 8, 64, 50
torch.manual_seed(0)
model, guide = Model(64, Z_DIM, HIDDEN), Guide(64, Z_DIM, HIDDEN)
model_at_start, guide_at_start = copy.deepcopy(model), copy.deepcopy(guide)


def train(svi: SVI) -> list[float]:
    """Loss of each epoch, in nats per datum."""
    torch.manual_seed(1)
    losses = []
    for _ in range(NUM_EPOCHS):
        batches = x_train[torch.randperm(len(x_train))].split(BATCH_SIZE)
        losses.append(sum(svi.step(x) for x in batches) / len(x_train))
    return losses


losses_by_hand = train(SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO()))
print(f"first epoch {losses_by_hand[0]:.2f}, last epoch {losses_by_hand[-1]:.2f} nats per datum")

# %% [markdown]
# ## The same from the zoo
# `prior="gaussian"` is the prior above. Of the networks only the order of the calls differs, so the weights can be
# copied name by name; with the same noise the losses are then the same, step for step.

# %%
pair = pp.create("vae", x_shape=(64,), z_dim=Z_DIM, hidden=(HIDDEN,), gated=False, prior="gaussian")
twins = {
    pair.model.prior.loc: model_at_start.loc,
    pair.model.prior.raw_scale: model_at_start.raw_scale,
    pair.model.decoder.trunk.first.input.weight: model_at_start.decoder[0].weight,
    pair.model.decoder.trunk.first.input.bias: model_at_start.decoder[0].bias,
    pair.model.decoder.out.input.weight: model_at_start.decoder[2].weight,
    pair.model.decoder.out.input.bias: model_at_start.decoder[2].bias,
    pair.guide.encoder.trunk.first.input.weight: guide_at_start.encoder[0].weight,
    pair.guide.encoder.trunk.first.input.bias: guide_at_start.encoder[0].bias,
    pair.guide.encoder.head.parameters_of_z.input.weight: guide_at_start.encoder[2].weight,
    pair.guide.encoder.head.parameters_of_z.input.bias: guide_at_start.encoder[2].bias,
}
with torch.no_grad():
    for ours, by_hand in twins.items():
        ours.copy_(by_hand)

losses_of_zoo = train(SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO()))
torch.testing.assert_close(losses_of_zoo, losses_by_hand, rtol=1e-4, atol=0.0)

# %% [markdown]
# ## What the zoo adds
# `pair.elbo` is an ELBO of Pyro's interface too. It returns nats per datum, so it needs no division, and it takes the
# KL between two Gaussians in closed form, so its gradients are less noisy.

# %%
SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-3}), pair.elbo).evaluate_loss(x_valid)

# %% [markdown]
# A pair also samples, encodes, reconstructs, and estimates log p(x) by importance sampling; `pp.fit` trains with
# validation, early stopping and exact resume; `pair.save` writes safetensors and JSON.

# %%
print(pair.sample(5)["x"].shape, pair.encode(x_valid)["z"].mean.shape, pair.reconstruct(x_valid).shape)
log_p = pair.log_prob(x_valid, num_samples=20 if SMOKE_TEST else 500)
print(f"log p(x) on the validation part: {log_p.mean():.2f} nats per datum")

# %%
history = pp.fit(pair, digits, max_epochs=NUM_EPOCHS, learning_rate=1e-3, batch_size=BATCH_SIZE, progress=False)
print(f"best validation bound: {history.epochs[history.best_epoch]['valid_bound']:.2f} nats per datum")
