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
# # Decoupled priors
#
# A regulariser changes where codes lie, and with it what is sampled: what is good for the representation can be bad
# for generation. Bhalodia et al. (2019) name two ways in which it goes wrong. A *pocket* is where the prior has mass
# and the aggregate posterior has none: samples from there are decoded by a network that never saw such a code. A *leak*
# is the reverse: codes of data that the prior all but never draws.
#
# Their remedy is a prior with two spaces. A point $z_0$ of the *generation space* is drawn from N(0, I); a bijection
# $f$ takes it to $z = f(z_0)$ in the *representation space*, where encoder, decoder and regulariser live:
#
# $$\log p(z) = \log \mathcal N(g(z) \mid 0, I) + \log \left| \det \frac{\partial g}{\partial z} \right|,
# \qquad g = f^{-1}$$
#
# The codes may take whatever shape the regulariser wants, and f learns it.
#
# A notebook in a file: opened with jupytext its figures are shown, run as a script nothing is drawn. It takes about a
# minute and a half on one core.

# %%
import os

import torch
from matplotlib.figure import Figure

import pyro_priors as pp
from pyro_priors.experiments import bhalodia2019
from pyro_priors.metrics import aggregate_posterior

SMOKE_TEST = "SMOKE_TEST" in os.environ  # a few steps only, for the tests
EPOCHS = 2 if SMOKE_TEST else 80
data = pp.data.load("moons", limit=300 if SMOKE_TEST else 0)

# %% [markdown]
# ## Two objectives, two priors
# The plain bound, and beta-VAE, whose KL counts five times. Each with N(0, I), and with six affine couplings of two
# small networks each. Only `prior=` changes; every other option is the same.

# %%
OBJECTIVES = {"VAE": pp.objectives.ELBO(), "beta-VAE": pp.objectives.Beta(5.0)}


def train(objective: pp.objectives.ELBO, prior: str) -> pp.Pair:
    torch.manual_seed(0)
    pair = pp.create(
        "vae", x_shape=(2,), z_dim=2, hidden=(100, 50), gated=False, likelihood="gaussian", scale=0.05, prior=prior
    )
    pp.fit(
        pair,
        data,
        objective,
        max_epochs=EPOCHS,
        batch_size=100,
        learning_rate=2e-3,
        schedule="cosine",
        progress=False,
    )
    return pair.eval()


pairs = {}
for name, objective in OBJECTIVES.items():
    pairs[name] = train(objective, "standard")
    pairs[name.replace("VAE", "dpVAE")] = train(objective, "flow")

# %% [markdown]
# ## Pockets
# Above samples over data; in the middle codes, draws of the prior in grey and of the aggregate posterior in blue. Red
# is the tenth of the prior's draws that the aggregate posterior likes least, *low-posterior* samples; below, what
# becomes of them. Green is the reverse.

# %%
torch.manual_seed(0)
pp.plots.pockets(pairs, data)

# %% [markdown]
# Codes of two half circles are two curves, with nothing between them, and N(0, I) has most of its mass there: its
# samples bridge the moons. The flow moves the mass to the curves.
#
# The same in numbers. sKL is KL[q(z) || p(z)] + KL[p(z) || q(z)], with the density of the aggregate posterior of all
# training data and that of the flow, log-determinant included. "off" is the share of samples that are more than 0.15
# from both half circles, three times the noise of the data.

# %%
print(f"{'':14}{'bound':>10}{'sKL':>10}{'samples off':>14}{'low off':>10}")
for name, pair in pairs.items():
    torch.manual_seed(0)
    bound = pp.metrics.evaluate(pair, data, metrics=["bound"], progress=False)["bound"]
    gap, off = bhalodia2019.measures.train_gap(pair, data), bhalodia2019.measures.off_manifold(pair, data)
    numbers = [bound, gap["train_symmetric_kl"], off["off_prior"], off["off_low_posterior"]]
    print(
        f"{name:14}" + "".join(f"{one.value:{width}.3f}" for one, width in zip(numbers, (10, 10, 14, 10), strict=True))
    )

# %% [markdown]
# With N(0, I) half of all samples are off the moons, a third under beta-VAE; with the flow a few in a hundred, and the
# bound, which pays for the gap, is better too. What is left: a continuous f cannot tear the plane in two, so a thin
# bridge of the prior always joins the moons, and there are many of the red points of a dpVAE. Red points are a tenth of
# all samples by definition, those where the fewest codes of data are, and many of them stay off; "samples off" says how
# much of the mass is on the bridge. (One seed.)
#
# ## Walking in $z_0$
# A straight line in z from a code of one moon to one of the other crosses the pocket. The straight line in the base
# does not leave where the prior has mass: its image in z goes around. `sample(z=...)` and `sample(z0=...)` start from
# either.

# %%
pair = pairs["dpVAE"]
with torch.no_grad():
    codes = pair.encode(data.test.x)["z"].mean
first, second = (codes[data.test.label == label] for label in (0, 1))
start, end = first[first[:, 0].argmin()], second[second[:, 0].argmax()]
paths = {
    way: pp.plots.path(pair, start, end, 60, in_base=way == "straight in z0")
    for way in ("straight in z", "straight in z0")
}

figure = Figure(figsize=(8, 3.8), layout="constrained")
left, right = figure.subplots(1, 2)
left.scatter(*aggregate_posterior(pair, data.train.x).sample((1000,)).cpu().T, s=2, color="0.8")
right.scatter(*data.train.x[:1000].T, s=2, color="0.8")
for way, z in paths.items():
    left.plot(*z.T, marker=".", label=way)
    right.plot(*pair.sample(len(z), z=z)["x_mean"].T, marker=".")
left.set(title="codes", xlabel="$z_1$", ylabel="$z_2$")
right.set(title="decoded", xlabel="$x_1$", ylabel="$x_2$")
left.legend()
figure

# %% [markdown]
# The two ways to start are one: the base's points, pushed.

# %%
prior = pair.model.prior
z0 = torch.randn(5, 2)
with torch.no_grad():
    torch.testing.assert_close(pair.sample(5, z0=z0)["z"], prior.from_base(z0))

# %% [markdown]
# ## Regularisers in the representation space
# Every objective works with every prior: what it regularises is z, and wherever it needs log p(z) it gets the flow's.
# Here the three parts that beta-TCVAE takes the KL apart into, of the trained pairs: what the code says of the datum,
# how far its values are from independent, and how far their product is from the prior. With a flow the last is no sum
# over dimensions, and it may be below 0, where the flow's prior is nearer to the codes than the product of their
# marginals is.

# %%
objective = pp.objectives.TotalCorrelation(num_data=len(data.train))
x = data.train.x[:1000]
for name, pair in pairs.items():
    torch.manual_seed(0)
    with torch.no_grad():
        parts = objective.terms(pair.model, pair.guide, x, None).penalties
    print(f"{name:14}" + "  ".join(f"{part} {value.item():.2f}" for part, value in parts.items()))

# %% [markdown]
# ## More
# `transform="spline_coupling"`, `num_transforms=12`, `permutation="random"`, `actnorm=True` or
# `transform="zuko.NSF"` bend more.
# The whole comparison, six objectives without and with the flow from five seeds each, is one command, as are the
# figures of the paper:
#
#     pyro-priors reproduce bhalodia2019/moons
#     pyro-priors reproduce bhalodia2019/fig3
