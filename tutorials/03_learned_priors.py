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
# # Learned priors
#
# What has the prior to do with anything, if a decoder can undo whatever its codes look like? The KL of the bound,
# averaged over the data, is a sum of two (Hoffman and Johnson 2016):
#
# $$E_x\, \mathrm{KL}[q(z \mid x) \,\|\, p(z)] = I(x; z) + \mathrm{KL}[q(z) \,\|\, p(z)], \qquad
# q(z) = E_x\, q(z \mid x)$$
#
# The first is what the code tells about the datum, and is worth its price. The second is pure loss: the *aggregate
# posterior* q(z), where the codes of data are, is not the prior, where samples come from. A prior that is learned can
# close this gap. Here is the same VAE under five priors, with two latent dimensions, so that one can look.

# %%
import os

import pyro.distributions as dist
import torch
from matplotlib.figure import Figure

import pyro_priors as pp

SMOKE_TEST = "SMOKE_TEST" in os.environ  # a few steps only, for the tests

# %% [markdown]
# ## Data
# The 8x8 digits that come with scikit-learn, or with the one word changed MNIST. They keep their grey levels, under a
# Gaussian likelihood of fixed scale: a code then carries some 3.3 nats, and two dimensions get crowded. (Of binarised
# digits it carries 2.3, and the gap is a few hundredths of a nat, too little to see.)

# %%
DATA = "digits"
EPOCHS = 2 if SMOKE_TEST else 60 if DATA == "digits" else 10
data = pp.data.load(DATA, binarise="none", limit=200 if SMOKE_TEST else 0)

# %% [markdown]
# ## Five priors
# One argument changes, and with it what is trained: nothing, a location and scale, twenty Gaussians with their weights,
# twenty *pseudo-inputs* that the encoder turns into Gaussians, or six coupling layers that bend N(0, I).

# %%
PRIORS = {"standard": {}, "gaussian": {}, "mixture": {"num_components": 20}, "vamp": {"num_components": 20}, "flow": {}}


def train(prior: str, **options) -> pp.Pair:
    torch.manual_seed(0)
    pair = pp.create(
        "vae", x_shape=data.x_shape, z_dim=2, prior=prior, likelihood="gaussian", scale=0.25, **PRIORS[prior]
    )
    pp.fit(
        pair,
        data,
        max_epochs=EPOCHS,
        batch_size=50,
        learning_rate=2e-3,
        schedule="cosine",
        warmup_epochs=EPOCHS / 4,
        progress=False,
        **options,
    )
    return pair.eval()


pairs = {prior: train(prior) for prior in PRIORS}

# %% [markdown]
# ## Holes and leaks
# Each prior in grey, 50, 90 and 99% of its mass, under the codes of test data. N(0, I) is round and the codes are not:
# there are *holes*, grey without points, and a sample from a hole is of a code that the decoder was never trained on;
# and *leaks*, points that are at the rim or beyond it, data that are next to never sampled. The Gaussian with trained
# location and scale has the same of both: encoder and decoder could always shift and stretch their codes, so that
# there is nothing for it to learn. The other three take the shape of the codes, and the codes, free to go anywhere,
# move apart.

# %%
torch.manual_seed(0)
pp.plots.prior_density(pairs, data)

# %% [markdown]
# The same in numbers, on the test part in nats per datum. The gap is KL[q(z) || p(z)], with the aggregate posterior of
# a thousand training data for q(z): a mixture of a thousand Gaussians. (Of fewer data it is a more ragged mixture, and
# the gap is larger for that reason alone.)


# %%
@torch.no_grad()
def gap(pair: pp.Pair, x: torch.Tensor) -> float:
    """KL[q(z) || p(z)] in nats, where q(z) is the aggregate posterior of x."""
    q = pair.encode(x)["z"]
    aggregate = pp.priors.GaussianMixture(torch.zeros(len(x)), q.mean, q.stddev)
    z = q.sample((20,))
    return (aggregate.log_prob(z) - pair.model.prior().log_prob(z)).mean().item()


def row(title: str, pair: pp.Pair) -> None:
    found = pp.metrics.evaluate(
        pair, data, metrics=["bound", "log_likelihood"], num_samples=10 if SMOKE_TEST else 500, progress=False
    )
    values = [found[name].value for name in ("bound", "reconstruction", "kl_z", "log_likelihood")]
    values.append(gap(pair, data.train.x[:1000]))
    print(f"{title:10}" + "".join(f"{value:15.3f}" for value in values))


torch.manual_seed(0)
titles = ("bound", "reconstruction", "KL", "log p(x)", "gap")
print(" " * 10 + "".join(f"{title:>15}" for title in titles))
for prior, pair in pairs.items():
    row(prior, pair)

# %% [markdown]
# The more the prior can bend, the smaller the gap. The bound grows by more than the gap shrinks, and most of that is
# reconstruction: codes that may lie where they like are easier to decode. (One seed. The standard error of each bound
# over the 250 test images is 0.6; that of a difference between two priors 0.1 to 0.3, as the images are the same.)
#
# Samples of each: the mean of p(x|z) at draws from the prior, a row each. To the eye they differ less than in numbers:
# in two dimensions digits overlap whatever the prior.

# %%
torch.manual_seed(0)
drawn = torch.cat([pair.sample(16)["x_mean"] for pair in pairs.values()])
pp.plots.image_grid(pp.plots.shown(drawn, None, data), 16, "samples of each prior", list(pairs))

# %% [markdown]
# ## The mixture: a logarithm of a sum
#
# $$\log p(z) = \log \sum_k w_k\, \mathcal N(z \mid \mathrm{loc}_k, \mathrm{scale}_k^2)$$
#
# There are two ways to get this wrong. One is to average the logarithms, as the published baseline of Lavda et al.
# (2019) does: by Jensen's inequality that is below the mixture everywhere, and it is no density. It falls off like
# *one* Gaussian in the middle, and charges a code for being far from every component but its own. The other is to
# take the sum as it stands: far from all components each term is too small for a float, the logarithm of 0 is -inf and
# its gradient NaN. `torch.logsumexp` takes the largest term out of the sum first.

# %%
mixture = pairs["mixture"].model.prior()  # a prior is a module that returns a Pyro distribution
log_w = mixture.logits.log_softmax(-1)


def each(z: torch.Tensor) -> torch.Tensor:
    """Log-density of each component at z, shape ``(num, K)``."""
    return dist.Normal(mixture.loc, mixture.scale).to_event(1).log_prob(z.unsqueeze(-2))


ways = {
    "log of the sum": lambda z: torch.logsumexp(log_w + each(z), -1),
    "mean of the logs": lambda z: (log_w.exp() * each(z)).sum(-1),
    "sum as it stands": lambda z: (log_w.exp() * each(z).exp()).sum(-1).log(),
}
line = torch.linspace(-15, 15, 301)
plane = torch.cartesian_prod(line, line)
area = (line[1] - line[0]) ** 2
for name, way in ways.items():
    far = torch.full((2,), 60.0, requires_grad=True)
    (gradient,) = torch.autograd.grad(way(far[None]).sum(), far)
    integral = (way(plane).exp().sum() * area).item()
    print(f"{name}: integral {integral:.3f}; at (60, 60) {way(far[None]).item():.0f}, gradient {gradient.tolist()}")

torch.testing.assert_close(ways["log of the sum"](plane), mixture.log_prob(plane), rtol=1e-4, atol=1e-4)

# %% [markdown]
# ## The VampPrior: data that never were
# Its components are posteriors of pseudo-inputs, $p(z) = \frac{1}{K} \sum_k q(z \mid u_k)$, images that are trained
# with the rest and shown to the guide's own encoder (Tomczak and Welling 2018). So the prior has no parameters in the
# code space at all, and is a small aggregate posterior by construction. Pseudo-inputs, and below each the mean of
# p(x|z) at its code:


# %%
def pseudo_inputs(pair: pp.Pair) -> Figure:
    with torch.no_grad():
        u = pair.model.prior.pseudo_inputs
    images = torch.cat([u, pair.reconstruct(u)])
    return pp.plots.image_grid(pp.plots.shown(images, None, data), len(u), "pseudo-inputs", ["u", "mean at its code"])


pseudo_inputs(pairs["vamp"])

# %% [markdown]
# They start as noise, and need not look like data, only have the codes that a component is wanted at: what matters is
# where the encoder puts them. With `pseudo_inputs="data"` (`--train.pseudo-inputs data`) they start at training images,
# and keep something of their looks; but some have moved to the codes of other digits than they show. On these digits
# both starts end at the same bound, within its error.

# %%
from_data = train("vamp", pseudo_inputs="data")
row("from data", from_data)
pseudo_inputs(from_data)

# %% [markdown]
# ## The flow: N(0, I), pushed
# A sample of a flow is a sample of N(0, I) that went through its transforms, and the density follows from how much they
# stretch the plane there. Each point keeps its colour, the angle that it had before.

# %%
prior = pairs["flow"].model.prior
with torch.no_grad():
    torch.manual_seed(0)
    z_0 = torch.randn(3000, 2)
    z = prior.from_base(z_0)
    torch.manual_seed(0)
    torch.testing.assert_close(prior().sample((3000,)), z, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(prior.to_base(z), z_0, rtol=1e-3, atol=1e-3)

figure = Figure(figsize=(8, 3.9), layout="constrained")
circle = torch.linspace(0, 2 * torch.pi, 400)
for axes, title, points, push in zip(
    figure.subplots(1, 2), ("$z_0$, from N(0, I)", "$z$, pushed"), (z_0, z), (lambda z: z, prior.from_base), strict=True
):
    axes.scatter(*points.T, s=4, c=torch.atan2(z_0[:, 1], z_0[:, 0]), cmap="hsv", linewidth=0)
    for radius in (1, 2, 3):
        with torch.no_grad():
            axes.plot(*push(radius * torch.stack([circle.cos(), circle.sin()], -1)).T, color="black", linewidth=0.8)
    axes.set(title=title, aspect="equal")
figure
