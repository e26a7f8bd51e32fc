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
# # One to many
#
# Where can this object be grasped? What was the rest of this picture? One question, several answers, and nothing
# between them that is right. A *conditional* VAE has a density for that,
#
# $$p(x \mid \mathrm{condition}) = \int p(x \mid z)\, p(z \mid \mathrm{condition})\, dz$$
#
# (Klushyn et al. 2019, whose letters are y for our x and x for our condition). The decoder does not see the condition:
# all that it says of x has to go through z, so that p(z|condition) must have as many modes as there are answers.
# Here are four such priors on data whose true density is known.

# %%
import os

import torch
from matplotlib.figure import Figure

import pyro_priors as pp
from pyro_priors.data.toys import ONE_TO_MANY_HEIGHTS, ONE_TO_MANY_SD, one_to_many_log_density

SMOKE_TEST = "SMOKE_TEST" in os.environ  # a few steps only, for the tests

# %% [markdown]
# ## Data
# Conditions in [0, 4). In the first quarter there are three answers, then two, four and one, each with a little noise:
# their number and their places change abruptly.

# %%
data = pp.data.load("one_to_many", limit=500 if SMOKE_TEST else 0)


def scatter(panels: dict[str, torch.Tensor], condition: torch.Tensor) -> Figure:
    figure = Figure(figsize=(3 * len(panels), 3.2), layout="constrained")
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, x) in zip(all_axes, panels.items(), strict=True):
        axes.scatter(condition[:, 0], x[:, 0], s=3, linewidth=0)
        axes.set(title=title, xlabel="condition", ylim=(-1.3, 1.3))
    figure.supylabel("x")
    return figure


test = data.test
scatter({"data": test.x}, test.condition)

# %% [markdown]
# ## Four priors, one guide
# `cvae` is the conditional VAE of Sohn et al. (2015): one Gaussian, whose location and scale a network of the condition
# gives, and a decoder that does see the condition. The others have a mixture of K components and a decoder that does
# not. They differ in what the network gives: for `cmog_cvae` the Gaussians themselves; for `cvamp_cvae` pseudo-targets,
# which the guide's encoder turns into Gaussians; for `cdv_cvae` pseudo *latents*, which the model's decoder turns into
# pseudo-targets first.
#
# The data scatter by 0.03 about each answer, and the learned scale of p(x|z) starts at 0.3: the last section shows why.
# The trainings of this page take some minutes.

# %%
EPOCHS = 2 if SMOKE_TEST else 60
NAMES = {"cvae": "CVAE", "cmog_cvae": "CMoG", "cvamp_cvae": "conditional VampPrior", "cdv_cvae": "CDV"}


def train(name: str, init_scale: float = 0.3) -> pp.Pair:
    print(f"training {NAMES[name]}, {EPOCHS} epochs, the scale starting at {init_scale:g}")
    torch.manual_seed(0)
    options = {} if name == "cvae" else {"num_components": 8}
    shapes = {"x_shape": (1,), "condition_shape": (1,), "z_dim": 2, "hidden": (64, 64)}
    pair = pp.create(name, **shapes, likelihood="gaussian", init_scale=init_scale, **options)
    pp.fit(
        pair,
        data,
        max_epochs=EPOCHS,
        batch_size=250,
        learning_rate=5e-3,
        schedule="cosine",
        warmup_epochs=1,
        progress=False,
    )
    return pair.eval()


pairs = {name: train(name) for name in NAMES}

# %% [markdown]
# ## The truth beside the bounds
# Per datum and in nats: the bound, the importance-sampled log-likelihood, and what no model can exceed but by luck, the
# mean log-density of these very test data under the truth. *Off* is the share of samples farther than four standard
# deviations from every answer to their condition: true 0.00006.


# %%
def off(x: torch.Tensor) -> float:
    """Share of samples far from all answers, x one sample for each test condition."""
    near = torch.zeros(len(x), dtype=torch.bool)
    for quarter, answers in enumerate(ONE_TO_MANY_HEIGHTS):
        close = ((x - torch.tensor(answers)).abs() <= 4 * ONE_TO_MANY_SD).any(-1)
        near |= close & (test.condition[:, 0].long() == quarter)
    return (~near).float().mean().item()


def row(title: str, pair: pp.Pair) -> None:
    found = pp.metrics.evaluate(
        pair, data, metrics=["bound", "log_likelihood"], num_samples=10 if SMOKE_TEST else 200, progress=False
    )
    x = pair.sample(len(test), test.condition)["x"]
    print(f"{title:24}{found['bound'].value:10.3f}{found['log_likelihood'].value:10.3f}{off(x):10.4f}")


torch.manual_seed(0)
print(f"{'':24}{'bound':>10}{'log p':>10}{'off':>10}")
for name, pair in pairs.items():
    row(NAMES[name], pair)
print(f"{'truth':24}{'':10}{one_to_many_log_density(test.x, test.condition).mean():10.3f}")

# %% [markdown]
# The one Gaussian is last by far, and has more than a third of its samples off. Sixty epochs are few: the bounds of the
# three mixtures are three to four tenths of a nat below those of 300 epochs and 16 components in `results/`, where 8 to
# 11% of their samples are off from this start, and 1% of CDV's where the scale starts at 1. In which order the three
# come is not to be read from one seed.

# %%
torch.manual_seed(0)
scatter({NAMES[name]: pair.sample(len(test), test.condition)["x"] for name, pair in pairs.items()}, test.condition)

# %% [markdown]
# ## The prior by condition
# Samples of the CDV prior, coloured by what they are decoded to. There is a group for each answer, and after so short a
# training there are some left over from other conditions. A code that two conditions share is decoded to the same x,
# since the decoder knows nothing else.

# %%
torch.manual_seed(0)
given = torch.tensor([[0.5], [1.5], [2.5], [3.5]])
drawn = pp.metrics.samples_given(pairs["cdv_cvae"], given, 500)
figure = Figure(figsize=(12, 3.2), layout="constrained")
all_axes = figure.subplots(1, 4, sharex=True, sharey=True)
for axes, condition, z, x in zip(all_axes, given, drawn["z"], drawn["x_mean"], strict=True):
    points = axes.scatter(*z.T, c=x[:, 0], s=4, linewidth=0, cmap="turbo", vmin=-1, vmax=1)
    axes.set(title=f"condition {condition.item():g}", xlabel="z 1", ylabel="z 2")
figure.colorbar(points, ax=all_axes, label="mean of p(x|z)")
figure

# %% [markdown]
# ## Equation 4 by hand
#
# $$p(z \mid \mathrm{condition}) = \frac{1}{K} \sum_{k=1}^K q(z \mid \mu(\tilde z_k(\mathrm{condition})),
# \mathrm{condition})$$
#
# with $\mu$ the mean of the decoder. A component can only be where the encoder puts something that the decoder can
# make: it is drawn to the codes of data, and does not wait far from them for outliers.

# %%
pair = pairs["cdv_cvae"]
prior, condition, z = pair.model.prior, torch.tensor([1.5]), torch.randn(2)
with torch.no_grad():
    _, pseudo_latents = prior.network(condition)  # (K, 2)
    pseudo_targets = pair.model.decoder(pseudo_latents).mean  # (K, 1)
    components = pair.guide.encoder(pseudo_targets, condition.expand(len(pseudo_targets), 1))
    by_hand = components.log_prob(z).logsumexp(0) - torch.tensor(len(pseudo_targets)).log()
    torch.testing.assert_close(prior(condition).log_prob(z), by_hand, rtol=1e-4, atol=1e-4)
print("pseudo-targets:", " ".join(f"{value:.2f}" for value in pseudo_targets[:, 0].sort().values))

# %% [markdown]
# ## Why one Gaussian is not enough
# A sample from between two groups of codes is decoded to something between two answers, unless the decoder changes so
# fast there that hardly any z falls between: the *magnification factor*, how much area of x a piece of z becomes, would
# have to be infinite. Four Gaussians in a square, one prior N(0, I), no condition:

# %%
four = pp.data.load("four_gaussians", limit=500 if SMOKE_TEST else 0)
torch.manual_seed(0)
vae = pp.create("vae", x_shape=(2,), z_dim=2, hidden=(64, 64), likelihood="gaussian")
options = {"max_epochs": EPOCHS, "warmup_epochs": 1, "batch_size": 250, "learning_rate": 5e-3}
pp.fit(vae, four, schedule="cosine", progress=False, **options)
torch.manual_seed(0)
pp.plots.magnification(vae.eval(), four)

# %% [markdown]
# ## Where the scale starts
# A Gaussian p(x|z) whose scale starts at 1, the default, is far wider than these data: codes are worth little to it at
# first, less than their KL costs. Under the mixture of Gaussians posterior and prior then become one, the KL is 0, and
# nothing is left that would draw them apart again. CDV, whose prior is made of the posterior, gets away from there, and
# in the end further than from 0.3. (One seed; five, and 300 epochs, are in `results/`: `pyro-priors reproduce
# klushyn2019/fig2`.)

# %%
torch.manual_seed(0)
print(f"{'the scale starts at 1':24}{'bound':>10}{'log p':>10}{'off':>10}")
for name in ("cmog_cvae", "cdv_cvae"):
    row(NAMES[name], train(name, init_scale=1.0))
