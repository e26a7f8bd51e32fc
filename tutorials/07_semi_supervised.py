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
# # A few labels: semi-supervised CP-VAE
#
# Kingma, Rezende, Mohamed and Welling (2014, arXiv:1406.5298) train a classifier on a few labels and many images
# without one. Their model M2 has a class $y$ and a code $z$; the class is observed where the label is known, and summed
# over where it is not:
#
# $$\log p(x, y) \ge \mathcal{L}(x, y) = E_{q(z|x,y)}\big[\log p(x|z,y) + \log p(z|y) + \log p(y) - \log q(z|x,y)\big]$$
#
# $$\log p(x) \ge \mathcal{U}(x) = \sum_y q(y|x) \big[\mathcal{L}(x, y) - \log q(y|x)\big]$$
#
# This is `cp_vae` with a category that is known for some examples. Its condition is integer labels, -1 where unknown.
# Many Pyro users know M2 from [Pyro's example](https://pyro.ai/examples/ss-vae.html). The first half of this tutorial
# writes that example by hand and compares it with `cp_vae`, loss by loss. The second half trains on 100 labels.

# %%
import os

import pyro
import pyro.distributions as dist
import torch
import torch.nn as nn
from pyro.infer import SVI, TraceEnum_ELBO, config_enumerate
from pyro.poutine.messenger import Messenger

import pyro_priors as pp

SMOKE_TEST = "SMOKE_TEST" in os.environ  # a few steps only, for the tests
torch.manual_seed(0)

# %% [markdown]
# ## M2 by hand
# The programs of `examples/vae/ss_vae_M2.py`: one model and one guide for labeled and unlabeled batches, and a second
# pair of programs for the classification loss, equation 9 of the paper. Two things differ here. The class is a number
# and not a one-hot row, because our networks take numbers. And the networks come from outside, so that we can give both
# implementations the same ones. The prior is N(0, I) for all classes, as in M2.

# %%
ALPHA = 46.0  # Pyro's aux_loss_multiplier
digits = pp.data.load("digits", binarise="fixed", labels=100)
pair = pp.create("cp_vae", x_shape=digits.x_shape, z_dim=8, prior="standard", classification_weight=ALPHA).double()


class SSVAE(nn.Module):
    def __init__(self, trunk, encoder_y, encoder_z, decoder, z_dim=8, num_classes=10):
        super().__init__()
        self.trunk, self.encoder_y, self.encoder_z, self.decoder = trunk, encoder_y, encoder_z, decoder
        self.z_dim, self.num_classes = z_dim, num_classes

    def model(self, xs, ys=None):
        pyro.module("ss_vae", self)
        with pyro.plate("data", len(xs)):
            ys = pyro.sample("y", dist.Categorical(logits=xs.new_zeros(self.num_classes)), obs=ys)
            zs = pyro.sample("z", dist.Normal(xs.new_zeros(self.z_dim), 1.0).to_event(1))
            pyro.sample("x", self.decoder(zs, c=ys), obs=xs)

    def guide(self, xs, ys=None):
        with pyro.plate("data", len(xs)):
            features = self.trunk(xs)
            if ys is None:
                ys = pyro.sample("y", self.encoder_y(features))
            pyro.sample("z", self.encoder_z(features, c=ys))

    def model_classify(self, xs, ys):
        pyro.module("ss_vae", self)
        with pyro.plate("data", len(xs)), pyro.poutine.scale(scale=ALPHA):
            pyro.sample("y_aux", self.encoder_y(self.trunk(xs)), obs=ys)

    def guide_classify(self, xs, ys):
        pass


by_hand = SSVAE(pair.guide.trunk, pair.guide.category, pair.guide.latent, pair.model.decoder)

# %% [markdown]
# ## Loss by loss
# Both draw z, so they must get the same noise: a handler puts it in the place of each draw. `cp_vae` draws a z for each
# of the 10 classes, also where the label is known, and gives the others the weight 0. The handwritten programs need the
# noise of the known class alone.


# %%
class GivenNoise(Messenger):
    def __init__(self, noise):
        super().__init__()
        self.noise = noise

    def _pyro_sample(self, msg):
        if msg["name"] == "z" and not msg["done"]:
            base = msg["fn"].base_dist
            msg["value"], msg["done"] = base.loc + base.scale * self.noise, True


def loss_of(model, guide, noise, *args):
    elbo = TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
    with GivenNoise(noise):
        return elbo.differentiable_loss(model, guide, *args)


known = (digits.train.condition >= 0).nonzero().flatten()[:20]
unknown = (digits.train.condition < 0).nonzero().flatten()[:30]
x_known, x_unknown, y = digits.train.x[known].double(), digits.train.x[unknown].double(), digits.train.condition[known]
noise_known = torch.randn(10, 20, 8, dtype=torch.float64)
noise_unknown = torch.randn(10, 30, 8, dtype=torch.float64)
guide = config_enumerate(by_hand.guide, "parallel", expand=True)

theirs = {
    "labeled": loss_of(by_hand.model, guide, noise_known[y, torch.arange(20)], x_known, y),
    "unlabeled": loss_of(by_hand.model, guide, noise_unknown, x_unknown),
    "classification": loss_of(by_hand.model_classify, by_hand.guide_classify, 0.0, x_known, y),
}

# %% [markdown]
# Ours, by the same ELBO of Pyro's. In evaluation mode there is no classification term, and in training mode there is:
# the difference is that term.

# %%
pair.eval()
ours = {
    "labeled": loss_of(pair.model, pair.guide, noise_known, x_known, y),
    "unlabeled": loss_of(pair.model, pair.guide, noise_unknown, x_unknown, torch.full((30,), -1)),
}
pair.train()
ours["classification"] = loss_of(pair.model, pair.guide, noise_known, x_known, y) - ours["labeled"]
for name, loss in theirs.items():
    print(f"{name:15} by hand {loss.item():14.8f}   cp_vae {ours[name].item():14.8f}")
    torch.testing.assert_close(ours[name], loss, rtol=1e-10, atol=1e-8)

# %% [markdown]
# Pyro's example alternates labeled and unlabeled batches, and takes two steps for each labeled one. In `cp_vae` one
# batch has both kinds of examples, and one loss has all three terms. Its value and every gradient equal the sum:

# %%
x, labels = torch.cat([x_known, x_unknown]), torch.cat([y, torch.full((30,), -1)])
loss = loss_of(pair.model, pair.guide, torch.cat([noise_known, noise_unknown], 1), x, labels)
parameters = [value for value in pair.parameters() if value.requires_grad]
one, three = (torch.autograd.grad(value, parameters) for value in (loss, sum(theirs.values())))
worst = max(((a - b).norm() / b.norm()).item() for a, b in zip(one, three, strict=True) if b.any())
print(
    f"one loss {loss.item():.8f}, the sum of three {sum(theirs.values()).item():.8f}; gradients differ by {worst:.0e}"
)
assert worst < 1e-9

# %% [markdown]
# They are Pyro programs: `SVI` trains them like any other. Our own `pair.elbo` has the same expectation with less
# noise, because the KL of z is in closed form for each category, and it is a mean over the batch instead of a sum.

# %%
svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-3}), TraceEnum_ELBO(max_plate_nesting=1))
print(f"one step of SVI: {svi.step(x, labels) / len(x):.3f} nats per example")
print(pair.elbo.terms(pair.model, pair.guide, x, labels).means())

# %% [markdown]
# ## 100 labels
# `labels=100` keeps the labels of 100 training examples, ten of each class, as the condition of the data. It is -1 for
# the other examples, and for all of the validation and test data, so that their bounds remain bounds of log p(x).
#
# The weight of the classification term is per labeled example. The paper sums over N examples and weighs the mean of
# the term over the labeled ones by 0.1 N: that is `0.1 * N / num_labeled` here, 1.3 for these data.

# %%
digits = pp.data.load("digits", labels=100)
print(digits.source)


def train(weight: float, data: pp.data.Splits) -> float:
    torch.manual_seed(0)
    pair = pp.create("cp_vae", x_shape=data.x_shape, z_dim=8, hidden=(100, 100), classification_weight=weight)
    pp.fit(pair, data, max_epochs=2 if SMOKE_TEST else 60, batch_size=100, learning_rate=2e-3, progress=False)
    category = pair.encode(data.test.x)["c"].probs.argmax(-1)
    return (category == data.test.label).double().mean().item()


for weight in (0.0, 0.1 * len(digits.train) / 100, 30.0):
    print(f"classification weight {weight:5.2f}: test accuracy {train(weight, digits):.3f}")

# %% [markdown]
# In `evaluate` this number is `accuracy`. It needs no matching of categories with classes, because the labels have said
# which category is which. On the command line:
#
#     pyro-priors train cp_vae --data digits --data.labels 100 --classification-weight 1.3 --out runs/semi
#     pyro-priors evaluate runs/semi
#
# For labels of your own, give `pp.data.from_arrays(x, condition_train=labels)` integers, -1 where unknown.
# `pair.sample(64, condition=3)` draws images of a class, and `pair.log_prob(x, labels)` is log p(x, y).
