"""Priors p(z|condition) that are mixtures: the limits where one is another, ties, calls and modes of the networks."""

import copy
import math
from functools import partial

import pyro.distributions as dist
import pytest
import torch
import torch.nn as nn
from torch.testing import assert_close

import pyro_priors as pp
import runs
from pairs import BATCH, MIXTURES_GIVEN_A_CONDITION, batch, create, gradients, randomise
from pyro_priors.nn import LIKELIHOODS, ConditionMLP, Encoder, GaussianLikelihood
from pyro_priors.priors import ComponentNetwork, ConditionalCDVPrior, Gaussian, GaussianMixture, Mixture, Parts

each_mixture = pytest.mark.parametrize("name", MIXTURES_GIVEN_A_CONDITION)
POSTERIORS = ("cdv_cvae", "cvamp_cvae")
each_of_posteriors = pytest.mark.parametrize("name", POSTERIORS)

K = 9


# limits


def test_cmog_of_one_component_is_the_conditional_gaussian(float64):
    """With the same numbers in both networks, the density at any point and for any shape of conditions."""
    parts = Parts(3, condition_shape=(2, 4), condition_network=partial(ConditionMLP, hidden=(5, 6)))
    mixture, gaussian = Mixture(1).build(parts), Gaussian().build(parts)
    for parameter in mixture.parameters():
        nn.init.normal_(parameter, 0, 0.5)
    gaussian.network.load_state_dict(mixture.network.trunk.state_dict())
    gaussian.head.parameters_of_z.load_state_dict(mixture.network.components.state_dict())
    for shape in ((), (7,), (3, 7)):
        condition, z = torch.randn(*shape, 2, 4), torch.randn(*shape, 3)
        assert mixture(condition).batch_shape == gaussian(condition).batch_shape == shape
        assert_close(mixture(condition).log_prob(z), gaussian(condition).log_prob(z), rtol=1e-12, atol=1e-12)
        assert_close(mixture(condition).mean, gaussian(condition).mean)
        assert_close(mixture(condition).stddev, gaussian(condition).stddev)


@each_of_posteriors
@pytest.mark.parametrize("sees", [True, False])
def test_of_one_component_it_is_the_posterior_at_the_pseudo_target(float64, name, sees):
    """The encoder at the one pseudo-target, for CDV the mean of what the decoder makes of the pseudo latent."""
    pair = randomise(create(name, num_components=1, condition_decoder=sees))
    _, condition = batch(name)
    z, prior = torch.randn(BATCH, 2), pair.model.prior
    _, components = prior.network(condition)
    if name == "cdv_cvae":
        given = {"condition": condition} if sees else {}
        target = pair.model.decoder(components[:, 0], **given).mean
    else:
        target = components[:, 0].sigmoid()
    expected = pair.guide.encoder(target, condition)
    assert_close(prior(condition).log_prob(z), expected.log_prob(z), rtol=1e-12, atol=1e-12)
    assert_close(prior(condition).mean, expected.mean)


@each_mixture
def test_components_one_by_one(float64, name):
    """The mixture of a batch is, for each condition and component, what that one alone gives; for all shapes of
    conditions, and equal where one condition has a batch dimension or none."""
    pair = randomise(create(name))
    prior, condition = pair.model.prior, batch(name)[1]
    p = prior(condition)
    assert type(p) is GaussianMixture and (p.batch_shape, p.event_shape) == ((BATCH,), (2,))
    assert p.loc.shape == p.scale.shape == (BATCH, K, 2)
    _, components = prior.network(condition)
    for i in range(BATCH):
        assert_close(prior(condition[i]).loc, p.loc[i])
        for k in range(K):
            alone = components[i, k]
            if name == "cmog_cvae":
                loc = alone[0]
            else:
                target = pair.model.decoder(alone).mean if name == "cdv_cvae" else alone.sigmoid()
                loc = pair.guide.encoder(target, condition[i]).mean
            assert_close(p.loc[i, k], loc)
    twice = prior(torch.stack([condition, condition + 1]))
    assert twice.batch_shape == (2, BATCH)
    assert_close(twice.loc[0], p.loc)
    assert not torch.allclose(twice.loc[1], p.loc)


@each_mixture
def test_weights(name):
    """Equal as published, or of the condition."""
    condition = torch.randn(BATCH, 8)
    assert torch.equal(create(name).model.prior(condition).logits, torch.zeros(K))
    weights = randomise(create(name, learnable_weights=True)).model.prior(condition).logits.softmax(-1)
    assert weights.shape == (BATCH, K) and weights.std(0).min() > 1e-4


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_pseudo_targets_are_where_the_data_are(likelihood):
    """Of any size under a Gaussian likelihood, 0 or more of counts, and in [0, 1] under the others."""
    for name in POSTERIORS:
        prior = randomise(create(name, likelihood=likelihood), 5.0).model.prior
        _, target = prior.components(torch.randn(BATCH, 8))
        assert target.shape == (BATCH, K, 6)
        assert (target < 0).any() == (likelihood == "gaussian")
        assert (target > 1).any() == (likelihood in ("gaussian", "poisson", "negative_binomial"))


# gradients, ties


@each_of_posteriors
def test_the_prior_s_gradient_reaches_what_it_is_made_of(name):
    """The density alone, of codes held fixed: f, the encoder, and under CDV the decoder up to its mean."""
    pair = randomise(create(name))
    condition = batch(name)[1]
    pair.model.prior(condition).log_prob(torch.randn(BATCH, 2)).sum().backward()
    reached = {key.split(".")[1] for key, p in pair.model.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"network", "encoder"} | ({"decoder"} if name == "cdv_cvae" else set())
    for key, parameter in pair.model.prior.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.any(), key


@each_of_posteriors
@pytest.mark.parametrize("sees", [True, False])
def test_the_networks_are_the_pair_s_own(name, sees, tmp_path):
    """One module, one set of tensors: when made, copied, moved, saved and loaded; a step moves it in all places."""
    pair = create(name, condition_decoder=sees)
    pair.save(tmp_path / "pair")
    loaded = pp.load(tmp_path / "pair")
    x, condition = batch(name)
    for tied in (pair, copy.deepcopy(pair), loaded, copy.deepcopy(pair).double()):
        prior, given = tied.model.prior, condition.to(next(tied.parameters()))
        assert prior.encoder is tied.guide.encoder
        owned = {"encoder": tied.guide.encoder}
        if name == "cdv_cvae":
            assert prior.decoder is tied.model.decoder
            owned["decoder"] = tied.model.decoder
        keys = [key for key, _ in tied.named_parameters()]
        assert len(keys) == len({id(parameter) for parameter in tied.parameters()})
        for network in owned.values():
            before = prior(given).loc.detach()
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter += 0.5
            assert not torch.equal(prior(given).loc, before)
    assert pair.model.prior.encoder is not copy.deepcopy(pair).guide.encoder
    pair.load_state_dict(loaded.state_dict())
    assert torch.equal(loaded.reconstruct(x, condition), pair.reconstruct(x, condition))


# calls and modes


class _Counting(nn.Module):
    """A network of one's own, with dropout and batch statistics, for rows with one batch dimension alone."""

    def __init__(self, sizes, out):
        super().__init__()
        self.drop, self.normalise = nn.Dropout(0.5), nn.BatchNorm1d(sum(sizes))
        self.out = nn.Linear(sum(sizes), out)
        self.seen = []

    def forward(self, *rows, condition=None):
        rows = rows if condition is None else (*rows, condition)
        self.seen.append((*(len(part) for part in rows), self.training, self.drop.training))
        return self.read(self.out(self.drop(self.normalise(torch.cat(rows, -1)))))


class _OwnEncoder(_Counting):
    def __init__(self):
        super().__init__((6, 8), 2)

    def read(self, out):
        return dist.Normal(out, 1.0).to_event(1)


class _OwnDecoder(_Counting):
    def __init__(self, sees=False):
        super().__init__((2, 8) if sees else (2,), 6)

    def read(self, out):
        return dist.Bernoulli(logits=out).to_event(1)


@each_of_posteriors
@pytest.mark.parametrize("num_particles", [1, 4])
@pytest.mark.parametrize("sees", [True, False])
def test_all_components_pass_in_one_call_and_in_evaluation_mode(name, num_particles, sees):
    """A loss encodes the data once in training mode, and K pseudo-targets of each condition once in evaluation mode,
    whatever the number of particles; likewise the decoder under CDV. Networks of one's own see rows with one batch
    dimension; batch statistics are those of the data; every part is then in the mode that it was in."""
    encoder, decoder = _OwnEncoder(), _OwnDecoder(sees)
    pair = create(name, encoder=encoder, decoder=decoder, condition_decoder=sees)
    encoder.drop.eval()
    args = batch(name)
    if num_particles == 1:
        pair.elbo(pair.model, pair.guide)(*args).backward()
        rows = (BATCH, BATCH) if sees else (BATCH,)
        of_components = [(*(K * size for size in rows), False, False)] if name == "cdv_cvae" else []
        assert decoder.seen == [*of_components, (*rows, True, True)]
        assert decoder.normalise.num_batches_tracked == 1
    else:
        decoder.forward = lambda z, condition=None: dist.Bernoulli(logits=z.repeat_interleave(3, -1)).to_event(1)
        type(pair.elbo)(num_particles=num_particles)(pair.model, pair.guide)(*args)
    assert encoder.seen == [(BATCH, BATCH, True, False), (K * BATCH, K * BATCH, False, False)]
    assert encoder.training and encoder.normalise.training and not encoder.drop.training
    assert encoder.normalise.num_batches_tracked == 1
    assert decoder.training and decoder.drop.training
    encoder.seen.clear()
    pair.sample(20, args[1][0])
    assert encoder.seen == [(K * 20, K * 20, False, False)]


@each_of_posteriors
def test_networks_of_one_s_own_give_what_ours_give(float64, name):
    """The same encoder and decoder behind an interface without ``broadcasts``: rows one by one, the same numbers."""

    class Plain(nn.Module):
        def __init__(self, inner, num_dims):
            super().__init__()
            self.inner, self.num_dims = inner, num_dims

        def forward(self, rows, condition=None):
            assert rows.dim() == self.num_dims and (condition is None or len(condition) == len(rows))
            return self.inner(rows, condition)

    options = {"x_shape": (2, 3), "condition_shape": (4, 2), "condition_decoder": True}
    ours = randomise(create(name, **options))
    prior = copy.deepcopy(ours.model.prior)
    prior.encoder = Plain(prior.encoder, 3)
    if name == "cdv_cvae":
        prior.decoder = Plain(prior.decoder, 2)
    condition = torch.randn(BATCH, 4, 2)
    for given in (condition, condition[0], condition.expand(3, BATCH, 4, 2)):
        one, other = prior(given), ours.model.prior(given)
        assert one.batch_shape == other.batch_shape == given.shape[:-2]
        assert_close(one.loc, other.loc, rtol=1e-12, atol=1e-12)
        assert_close(one.scale, other.scale, rtol=1e-12, atol=1e-12)


@each_of_posteriors
def test_a_posterior_that_is_no_gaussian_is_refused(name):
    class StudentEncoder(nn.Module):
        def forward(self, x, condition):
            return dist.StudentT(5.0, x[..., :2], 1.0).to_event(1)

    pair = create(name, encoder=StudentEncoder())
    with pytest.raises(ValueError, match=r"the encoder returns StudentT, .*Gaussians: .*or use prior='mixture'"):
        pair.sample(2, torch.zeros(8))


# what the decoder sees


@pytest.mark.parametrize("name", ["cvae", *MIXTURES_GIVEN_A_CONDITION])
def test_what_the_decoder_sees(name):
    """p(x|z) is one for all conditions (equation 3), or not (equation 2), which is cvae's default alone; a decoder of
    one's own that is not to see the condition is called without it."""
    assert pp.create(name, x_shape=(6,), condition_shape=(8,)).model.condition_decoder == (name == "cvae")
    for sees in (True, False):
        pair = randomise(create(name, condition_decoder=sees))
        one, other = (pair.sample(1, condition, z=torch.ones(2))["x_mean"] for condition in torch.randn(2, 8))
        assert torch.equal(one, other) != sees
        own = create(name, decoder=_OwnDecoder(sees), condition_decoder=sees)
        loss = own.elbo(own.model, own.guide)(*batch(name))
        assert all(gradient.any() for gradient in gradients(own, loss).values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_components": 0}, "num_components must be a positive integer, got 0"),
        ({"num_component": 3}, "pair 'cdv_cvae' has no option 'num_component': did you mean 'num_components'?"),
        ({"condition_shape": ()}, r"condition_shape must be a tuple of positive integers, got \(\)"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        create("cdv_cvae", **options)
    with pytest.raises(ValueError, match=r"num_components=3 belongs to prior='cdv' or 'mixture' or 'vamp', got"):
        create("cvae", num_components=3)


def test_citations():
    keys = {name: pp.citation(create(name)) for name in ("cvae", *MIXTURES_GIVEN_A_CONDITION)}
    assert all("klushyn2019" in text and "sohn2015" in text for text in keys.values())
    assert [name for name, text in keys.items() if "tomczak2018" in text] == ["cvamp_cvae"]


# training


@each_mixture
def test_fit_trains_and_evaluates(name, tmp_path):
    """Three epochs raise the bound, and what is saved is what is loaded; the metrics apply."""
    data = runs.small_data(condition_rows=4)
    pair = runs.small_pair(name, data, num_components=5)
    before = runs.state(pair)
    options = {"max_epochs": 3, "warmup_epochs": 1, "batch_size": 16, "learning_rate": 5e-3, "progress": False}
    history = pp.fit(pair, data, out=tmp_path / "run", **options)
    assert history.epochs[-1]["valid_bound"] > history.epochs[0]["valid_bound"]
    assert all(not torch.equal(value, before[tensor]) for tensor, value in pair.named_parameters())
    loaded = pp.load(tmp_path / "run")
    assert runs.same_bits(runs.state(loaded), runs.state(pair))
    found = pp.metrics.evaluate(pair, data, num_samples=5, progress=False)
    assert all(math.isfinite(estimate.value) for estimate in found.values())


def test_gaussian_data_pass_the_decoder_s_mean(float64):
    """With a fixed scale, which is no part of the mean: the pseudo-targets are the decoder's locations."""
    encoder, likelihood = Encoder((3,), 2, (5,), condition_shape=(4,)), GaussianLikelihood(1, 0.1)

    class OwnDecoder(nn.Module):
        broadcasts = True

        def forward(self, z):
            return likelihood(torch.cat([z, z[..., :1] ** 2], -1).unsqueeze(-2))

    prior = ConditionalCDVPrior(encoder, OwnDecoder(), ComponentNetwork(ConditionMLP((4,), (5,)), (4,), (2,), 3))
    condition = torch.randn(6, 4)
    z = prior.network(condition)[1]
    assert_close(prior.components(condition)[1], torch.cat([z, z[..., :1] ** 2], -1))
