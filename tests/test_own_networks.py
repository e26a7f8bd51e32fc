"""Networks of a user's own: what they return is refused where it is wrong, by name, and early."""

import copy
import math
import pickle
import re
import warnings
from importlib import import_module

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn as nn

import pyro_priors as pp
import runs
from pyro_priors import guides, models
from pyro_priors.network_checks import _smallest_share
from pyro_priors.priors import StandardPrior

SIZES = {"x_shape": (6,), "z_dim": 2, "hidden": (8,)}


class Encoder(nn.Module):
    """From x to what a function makes of location and logarithm of the scale."""

    def __init__(self, returns):
        super().__init__()
        self.linear, self.returns = nn.Linear(6, 4), returns

    def forward(self, x):
        return self.returns(*self.linear(x).chunk(2, -1))


class Decoder(nn.Module):
    """From z to what a function makes of six logits."""

    def __init__(self, returns):
        super().__init__()
        self.linear, self.returns = nn.Linear(2, 6), returns

    def forward(self, z):
        return self.returns(self.linear(z))


def normal(loc, log_scale):
    return dist.Normal(loc, log_scale.exp())


def torch_normal(loc, log_scale):
    return torch.distributions.Independent(torch.distributions.Normal(loc, log_scale.exp()), 1)


ENCODERS = {
    "tuple": (lambda loc, scale: (loc, scale), r"of pyro\.distributions, got tuple: .*to_event\(1\)"),
    "None": (lambda loc, scale: None, r"of pyro\.distributions, got None: "),
    "tensor": (lambda loc, scale: loc, r"got a tensor of shape \(\d, 2\): "),
    "torch": (torch_normal, r"got torch\.distributions\.Independent, which Pyro cannot sample: .*import pyro"),
    "no event": (normal, r"event shape \(2,\), got batch shape \(5, 2\) and event shape \(\): .*\.to_event\(1\)"),
    "two events": (
        lambda loc, scale: normal(loc, scale).to_event(2),
        r"event shape \(2,\), got batch shape \(\) and event shape \(5, 2\): .*\.to_event\(1\)",
    ),
    "size": (
        lambda loc, scale: normal(loc.repeat(1, 2), scale.repeat(1, 2)).to_event(1),
        r"event shape \(2,\), got batch shape \(5,\) and event shape \(4,\): .*shape \(\.\.\., 2\)",
    ),
    "rows": (
        lambda loc, scale: normal(loc[:3], scale[:3]).to_event(1),
        r"batch shape \(5,\), got batch shape \(3,\) and event shape \(2,\): return one row .* for each row",
    ),
}

DECODERS = {
    "tuple": (lambda logits: (logits,), r"of pyro\.distributions, got tuple: .*to_event\(1\)"),
    "None": (lambda logits: None, r"got None: "),
    "tensor": (lambda logits: logits, r"got a tensor of shape \(.*, 6\): "),
    "torch": (
        lambda logits: torch.distributions.Independent(torch.distributions.Bernoulli(logits=logits), 1),
        r"got torch\.distributions\.Independent, which Pyro cannot sample: ",
    ),
    "no event": (lambda logits: dist.Bernoulli(logits=logits), r"event shape \(6,\), got .*: .*\.to_event\(1\)"),
    "two events": (
        lambda logits: dist.Bernoulli(logits=logits).to_event(2),
        r"event shape \(6,\), got batch shape .* and event shape \(5, 6\): .*\.to_event\(1\)",
    ),
    "size": (
        lambda logits: dist.Bernoulli(logits=logits[..., 1:]).to_event(1),
        r"event shape \(6,\), got .* and event shape \(5,\): .*shape \(\.\.\., 6\)",
    ),
    "rows": (
        lambda logits: dist.Bernoulli(logits=logits[..., :3, :]).to_event(1),
        r"batch shape \((9, )?5,?\), got batch shape \((9, )?3,?\) .*: return one row of",
    ),
}


def x_of(size=5):
    return (torch.rand(size, 6) < 0.5).float()


CALLS = {
    "elbo": lambda pair: pair.elbo(pair.model, pair.guide)(x_of()),
    "svi": lambda pair: pyro.infer.SVI(
        pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO()
    ).step(x_of()),
    "encode": lambda pair: pair.encode(x_of()),
    "reconstruct": lambda pair: pair.reconstruct(x_of()),
    "log_prob": lambda pair: pair.log_prob(x_of(), num_samples=9),
    "compiled": lambda pair: pp.compiled(pair)(x_of()),
    "sample": lambda pair: pair.sample(5),
    "program": lambda pair: pair.model(size=5),
    "posterior": lambda pair: pair.guide(x_of()),
}


@pytest.mark.parametrize("call", [name for name in CALLS if name not in ("sample", "program")])
@pytest.mark.parametrize("kind", ENCODERS)
def test_what_an_encoder_returns_is_checked_at_the_first_call(kind, call):
    returns, message = ENCODERS[kind]
    pair = pp.create("vae", **SIZES, encoder=Encoder(returns))
    with pytest.raises(ValueError, match=rf"^encoder \(Encoder\) must return a distribution .*{message}[^\n]*$"):
        CALLS[call](pair)


@pytest.mark.parametrize("call", [name for name in CALLS if name not in ("encode", "posterior")])
@pytest.mark.parametrize("kind", DECODERS)
def test_what_a_decoder_returns_is_checked_at_the_first_call(kind, call):
    returns, message = DECODERS[kind]
    pair = pp.create("vae", **SIZES, decoder=Decoder(returns))
    with pytest.raises(ValueError, match=rf"^decoder \(Decoder\) must return a distribution .*({message})[^\n]*$"):
        CALLS[call](pair)


@pytest.mark.parametrize("name", ["vae", "hvae", "sigma_vae"])
@pytest.mark.parametrize("kind", ["tuple", "torch", "None"])
def test_a_prior_that_shares_the_encoder_names_it(name, kind):
    """Samples do not run the guide."""
    pair = pp.create(name, **SIZES, prior="vamp", num_components=3, encoder=Encoder(ENCODERS[kind][0]))
    with pytest.raises(ValueError, match=r"^encoder \(Encoder\) must return a distribution of pyro"):
        pair.sample(2)


class Conditional(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x, condition):
        return self.network(x)


@pytest.mark.parametrize("name", ["cvamp_cvae", "cdv_cvae"])
def test_a_conditional_prior_that_shares_the_networks_names_them(name):
    options = {**SIZES, "condition_shape": (3,), "num_components": 4}
    pair = pp.create(name, **options, encoder=Conditional(Encoder(ENCODERS["tuple"][0])))
    with pytest.raises(ValueError, match=r"^encoder \(Conditional\) must return a distribution of pyro.*got tuple"):
        pair.sample(2, torch.zeros(3))
    if name == "cdv_cvae":
        pair = pp.create(name, **options, decoder=Decoder(DECODERS["None"][0]))
        with pytest.raises(ValueError, match=r"^decoder \(Decoder\) must return a distribution of pyro.*got None"):
            pair.sample(2, torch.zeros(3))


class Trunk(nn.Module):
    def __init__(self, returns, num=8):
        super().__init__()
        self.linear, self.returns = nn.Linear(6, num), returns

    def forward(self, x):
        return self.returns(self.linear(x))


@pytest.mark.parametrize(
    ("returns", "num", "found"),
    [
        (lambda h: h, 7, r"a tensor of shape \(5, 7\)"),
        (lambda h: (h, h), 8, "tuple"),
        (lambda h: dist.Normal(h, 1.0).to_event(1), 8, "Independent"),
        (lambda h: h[:2], 8, r"a tensor of shape \(2, 8\)"),
        (lambda h: h.unsqueeze(-1), 8, r"a tensor of shape \(5, 8, 1\)"),
    ],
)
@pytest.mark.parametrize("name", ["cp_vae", "cp_vae_reference"])
def test_what_the_trunk_of_a_cp_vae_returns_is_checked(returns, num, found, name):
    pair = pp.create(name, **SIZES, num_categories=3, encoder=Trunk(returns, num))
    message = rf"^encoder \(Trunk\) must return features, a tensor of shape \(5, 8\), got {found}: "
    for call in (lambda: pair.encode(x_of()), lambda: pair.elbo(pair.model, pair.guide)(x_of())):
        with pytest.raises(ValueError, match=message):
            call()


def test_programs_of_ours_with_your_networks_are_checked_without_create():
    """As far as they tell: shapes of the event are those of other networks, or of x."""
    decoder = Decoder(lambda logits: dist.Bernoulli(logits=logits).to_event(1))
    for kind in ("tuple", "torch", "rows"):
        pair = pp.Pair(models.VAE(StandardPrior(2), decoder), guides.VAEGuide(Encoder(ENCODERS[kind][0])))
        with pytest.raises(ValueError, match=r"^encoder \(Encoder\) must return a distribution"):
            pair.encode(x_of())
    wide = pp.Pair(models.VAE(StandardPrior(2), decoder), guides.VAEGuide(Encoder(ENCODERS["size"][0])))
    with pytest.raises(ValueError, match=r"^prior \(StandardPrior\) .* event shape \(2,\), but the values of 'z' have"):
        wide.reconstruct(x_of())
    right = guides.VAEGuide(Encoder(lambda loc, scale: normal(loc, scale).to_event(1)))
    for kind in ("no event", "two events", "size"):
        pair = pp.Pair(models.VAE(StandardPrior(2), Decoder(DECODERS[kind][0])), right)
        with pytest.raises(ValueError, match=r"^decoder \(Decoder\) (must return|returned a distribution with event)"):
            pair.elbo(pair.model, pair.guide)(x_of())


def right_pair(**networks):
    made = {
        "encoder": Encoder(lambda loc, scale: normal(loc, scale).to_event(1)),
        "decoder": Decoder(lambda logits: dist.Bernoulli(logits=logits).to_event(1)),
    }
    return pp.create("vae", **SIZES, **{**made, **networks})


class Bernoullis(nn.Module):
    """Of one row of logits for all, that does not see z."""

    def __init__(self, *shape):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(*shape, 6))

    def forward(self, z):
        return dist.Bernoulli(logits=self.logits).to_event(1)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_networks_whose_batch_broadcasts_are_right(shape):
    pair, x = right_pair(decoder=Bernoullis(*shape)), x_of()
    terms = pair.elbo.terms(pair.model, pair.guide, x)
    assert torch.allclose(terms.parts["reconstruction"], torch.full((5,), -6 * math.log(2)))
    assert pair.log_prob(x, num_samples=3).isfinite().all()
    assert pair.sample(4)["x"].shape == (4, 6)
    pp.fit(pair, pp.data.from_arrays(x_of(20)), max_epochs=1, progress=False)


def test_checks_leave_nothing_on_your_networks():
    encoder, decoder = right_pair().guide.encoder, Decoder(lambda logits: dist.Bernoulli(logits=logits).to_event(1))
    before = [set(vars(module)) for network in (encoder, decoder) for module in network.modules()]
    pair = right_pair(encoder=encoder, decoder=decoder)
    pp.fit(pair, pp.data.from_arrays(x_of(20)), max_epochs=1, batch_size=19, progress=False)
    pair.log_prob(x_of(), num_samples=2)
    networks = [module for network in (encoder, decoder) for module in network.modules()]
    assert [set(vars(module)) for module in networks] == before
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_state_dict_hooks")
    assert not any(getattr(module, name) for module in networks for name in hooks)
    assert pair.guide.encoder is encoder and pair.model.decoder is decoder


class Picklable(nn.Module):
    """A decoder that a process can be sent; it returns what it should not."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 6)

    def forward(self, z):
        return self.linear(z)


def test_checks_survive_copies_pickles_and_saves(tmp_path):
    pair = pp.create("vae", **SIZES, decoder=Picklable())
    pair.save(tmp_path)
    copies = [
        copy.deepcopy(pair),
        pickle.loads(pickle.dumps(pair)),
        pp.load(tmp_path, decoder=Picklable()),
    ]
    for one in copies:
        with pytest.raises(ValueError, match=r"^decoder \(Picklable\) must return a distribution.*\(1\)"):
            one.sample()
    replaced = right_pair()
    replaced.sample()
    replaced.model.decoder = Picklable()
    with pytest.raises(ValueError, match=r"^decoder \(Picklable\) must return a distribution"):
        replaced.sample()


def test_a_compiled_pair_says_it_once():
    pair = right_pair(encoder=Encoder(ENCODERS["tuple"][0]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an EagerWarning would say it first
        with pytest.raises(ValueError, match=r"^encoder \(Encoder\) must return"):
            pp.compiled(pair)(x_of())


class Images(nn.Module):
    """A decoder of images, by one of the ways to reshape what a linear layer gives."""

    def __init__(self, reshape, restores):
        super().__init__()
        self.linear, self.convolution = nn.Linear(2, 32), nn.ConvTranspose2d(8, 1, 4, 4)
        self.reshape, self.restores = reshape, restores

    def forward(self, z):
        logits = self.convolution(self.reshape(self.linear(z)))
        if self.restores:
            logits = logits.reshape(*z.shape[:-1], 1, 8, 8)
        return dist.Bernoulli(logits=logits).to_event(3)


FOLDING = {
    "view(-1)": (
        lambda h: h.view(-1, 8, 2, 2),
        r"^decoder \(Images\) .* with batch shape \(\d, \d\), got batch shape \(\d+,\) .*: keep the dimensions to the",
    ),
    "view(len)": (
        lambda h: h.view(len(h), 8, 2, 2),
        r"^model\.decoder \(Images\) cannot handle dimensions to the left of the batch, .* \(shape .* is invalid",
    ),
}


@pytest.mark.parametrize("kind", FOLDING)
def test_a_decoder_that_folds_dimensions_is_found_before_training_and_in_log_prob(kind):
    reshape, message = FOLDING[kind]
    options = {"x_shape": (1, 8, 8), "z_dim": 2, "hidden": (8,)}
    pair = pp.create("vae", **options, decoder=Images(reshape, restores=False))
    data = pp.data.from_arrays((torch.rand(100, 1, 8, 8) > 0.5).float())
    before = runs.state(pair)
    with pytest.raises(ValueError, match=message):
        pp.fit(pair, data, max_epochs=1, progress=False)
    assert runs.same_bits(runs.state(pair), before)
    with pytest.raises(ValueError, match=message):
        pair.log_prob(data.test.x[:6], num_samples=7)
    right = pp.create("vae", **options, decoder=Images(lambda h: h.reshape(-1, 8, 2, 2), restores=True))
    pp.fit(right, data, max_epochs=1, progress=False)
    assert right.log_prob(data.test.x[:6], num_samples=7).isfinite().all()


class Joined(nn.Module):
    """A decoder that joins z with a category or a condition, for which both must have the same shape."""

    def __init__(self, num, broadcasts):
        super().__init__()
        self.linear, self.num, self.broadcasts = nn.Linear(2 + num, 6), num, broadcasts

    def forward(self, z, c=None, condition=None):
        other = condition if c is None else nn.functional.one_hot(c, self.num).to(z.dtype)
        if self.broadcasts:
            left_shape = torch.broadcast_shapes(z.shape[:-1], other.shape[:-1])
            z, other = (value.expand(*left_shape, -1) for value in (z, other))
        return dist.Bernoulli(logits=self.linear(torch.cat([z, other], -1))).to_event(1)


@pytest.mark.parametrize("name", ["cp_vae", "cvae"])
def test_a_decoder_that_joins_without_broadcasting_is_found_before_training(name):
    options = {"num_categories": 3} if name == "cp_vae" else {"condition_shape": (3,)}
    arrays = {f"x_{part}": x_of(20) for part in ("train", "valid", "test")}
    if name == "cvae":
        arrays |= {f"condition_{part}": torch.rand(20, 3) for part in ("train", "valid", "test")}
    data = pp.data.from_arrays(**arrays)
    with pytest.raises(ValueError, match=r"^model\.decoder \(Joined\) cannot handle .*expand a condition or category"):
        pp.fit(pp.create(name, **SIZES, **options, decoder=Joined(3, False)), data, max_epochs=1, progress=False)
    pp.fit(pp.create(name, **SIZES, **options, decoder=Joined(3, True)), data, max_epochs=1, progress=False)


def test_an_encoder_of_the_lower_code_that_folds_is_found_before_training():
    class Lower(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6 + 2, 6)

        def forward(self, x, z):
            loc, scale = self.linear(torch.cat([x, z], -1)).chunk(2, -1)
            return normal(loc, scale).to_event(1)

    pair = pp.create("hvae", **SIZES, z1_dim=3)
    pair.guide.encoder_z1 = Lower()
    with pytest.raises(ValueError, match=r"^guide\.encoder_z1 \(Lower\) cannot handle dimensions to the left"):
        pp.fit(pair, pp.data.from_arrays(x_of(20)), max_epochs=1, progress=False)


class Normalized(nn.Module):
    """An encoder with batch statistics."""

    def __init__(self, norm=None):
        super().__init__()
        self.linear, self.norm = nn.Linear(6, 4), nn.BatchNorm1d(4) if norm is None else norm

    def forward(self, x):
        loc, scale = self.norm(self.linear(x)).chunk(2, -1)
        return normal(loc, scale).to_event(1)


class ByHand(nn.Module):
    def forward(self, h):
        return (h - h.mean(0)) / h.std(0) if self.training else h


def test_a_last_batch_of_one_is_refused_before_training_where_batch_statistics_need_two():
    data, pair = pp.data.from_arrays(x_of(101), x_of(20), x_of(20)), right_pair(encoder=Normalized())
    before = runs.state(pair)
    message = (
        r"^batch_size=100 leaves a last batch of 1 of the 101 training examples, on which guide\.encoder\.norm "
        r"\(BatchNorm1d\) cannot be trained \(Expected more than 1 value .*\): give batch_size=99$"
    )
    with pytest.raises(ValueError, match=message):
        pp.fit(pair, data, max_epochs=1, progress=False)
    assert runs.same_bits(runs.state(pair), before)
    pp.fit(pair, data, max_epochs=1, batch_size=99, progress=False)


@pytest.mark.filterwarnings("ignore:std\\(\\). degrees of freedom:UserWarning")
def test_so_are_batch_statistics_of_your_own():
    data, pair = pp.data.from_arrays(x_of(101), x_of(20), x_of(20)), right_pair(encoder=Normalized(ByHand()))
    with pytest.raises(ValueError, match=r"^batch_size=50 leaves .* on which guide\.encoder \(Normalized\) cannot be"):
        pp.fit(pair, data, max_epochs=1, batch_size=50, progress=False)


def test_a_last_batch_of_one_is_no_matter_to_other_networks():
    """Not even to batch statistics over the places of an image."""
    data = pp.data.from_arrays(x_of(11), x_of(5), x_of(5))
    pp.fit(right_pair(), data, max_epochs=1, batch_size=10, progress=False)
    places = nn.Sequential(nn.Unflatten(-1, (2, 2)), nn.BatchNorm1d(2), nn.Flatten())
    pair = right_pair(encoder=Normalized(places))
    pp.fit(pair, data, max_epochs=1, batch_size=10, progress=False)
    assert pair.guide.encoder.norm[1].num_batches_tracked == 2  # those of the training alone


def test_a_single_datum_has_no_better_batch_size():
    data = pp.data.from_arrays(x_of(1), x_of(3), x_of(3))
    with pytest.raises(ValueError, match=r"leaves a last batch of 1 of the 1 training examples, .*: give more data$"):
        pp.fit(right_pair(encoder=Normalized()), data, max_epochs=1, progress=False)


def test_processes_with_one_datum_are_refused_as_well():
    data = pp.data.from_arrays(x_of(103), x_of(20), x_of(20))
    message = r"^batch_size=100 leaves one of 2 processes a batch of 1 of the 103 .*: give batch_size=99$"
    with pytest.raises(ValueError, match=message):  # 3 data for 2
        pp.fit(right_pair(encoder=Normalized()), data, max_epochs=1, num_processes=2, progress=False)


@pytest.mark.parametrize(
    ("num_data", "batch_size", "num_processes", "expected"),
    [(101, 100, 1, 1), (100, 100, 1, 100), (99, 100, 1, 99), (102, 100, 1, 2), (103, 100, 2, 1), (104, 100, 2, 2),
     (100, 1, 1, 1), (8, 8, 4, 2), (101, 100, 4, 1), (7, 100, 4, 1)],
)  # fmt: skip
def test_the_smallest_share(num_data, batch_size, num_processes, expected):
    assert _smallest_share(num_data, batch_size, num_processes) == expected


def test_many_sparse_categories_are_tried_two_at_a_time(monkeypatch):
    """The check costs what a step costs, not a sum over all categories."""
    data = pp.data.from_arrays(x_of(20), x_of(5), x_of(5))
    pair = pp.create("cp_vae", **SIZES, num_categories=1000, category="sparse", num_enumerated=3)
    sizes = []
    pair.model.decoder.register_forward_pre_hook(lambda module, args: sizes.append(args[0].shape[:-1].numel()))
    monkeypatch.setattr(import_module("pyro_priors.training.fit"), "run_training", lambda *args: None)
    pp.fit(pair, data, max_epochs=1, progress=False)
    assert sizes and max(sizes) == 2 * 2 * 2, "particles, categories, rows"


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError(), RuntimeError("can't allocate memory")])
def test_memory_that_runs_out_says_nothing_about_a_network(error, monkeypatch):
    class Large(Decoder):
        def forward(self, z):
            if z.dim() > 2:
                raise error
            return super().forward(z)

    pair = right_pair(decoder=Large(lambda logits: dist.Bernoulli(logits=logits).to_event(1)))
    history = pp.fit(pair, pp.data.from_arrays(x_of(20)), max_epochs=1, progress=False)
    assert len(history.epochs) == 1


def test_what_fails_in_any_case_is_left_to_the_training():
    """It knows the step, and what it leaves in the pair."""
    pair = right_pair()
    with torch.no_grad():
        next(pair.parameters()).fill_(float("nan"))
    with pytest.raises(pp.TrainingDiverged, match="at step 0"):
        pp.fit(pair, pp.data.from_arrays(x_of(11)), max_epochs=1, batch_size=10, progress=False)

    class Broken(nn.Module):
        def forward(self, z):
            raise RuntimeError("this decoder is not written yet")

    with pytest.raises(RuntimeError, match=re.escape("this decoder is not written yet")):
        pp.fit(right_pair(decoder=Broken()), pp.data.from_arrays(x_of(11)), max_epochs=1, progress=False)


def test_checks_before_a_training_change_nothing_that_it_computes():
    """Not its generators, nor buffers, nor modes."""
    data, pair = pp.data.from_arrays(x_of(41)), right_pair(encoder=Normalized(nn.Dropout(0.5)))
    twin = copy.deepcopy(pair)
    torch.manual_seed(3)
    pp.fit(pair, data, max_epochs=2, batch_size=20, progress=False)
    drawn = torch.rand(())
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(()))
    pp.fit(twin, data, max_epochs=2, batch_size=20, progress=False)
    assert runs.same_bits(runs.state(pair), runs.state(twin))


class WithPyroParam(pyro.nn.PyroModule):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 2)
        self.scale = pyro.nn.PyroParam(torch.ones(2), dist.constraints.positive)

    def forward(self, x):
        return dist.Normal(self.linear(x), self.scale).to_event(1)


def test_a_pyro_param_is_refused_by_name():
    """The store knows it as "scale", whichever network it is of: a second pair would train the first one's."""
    pair, data = right_pair(encoder=WithPyroParam()), pp.data.from_arrays(x_of(20))
    message = r"^encoder has the PyroParam 'scale', .*: use an nn.Parameter, and constrain it in forward"
    for call in (
        lambda: pp.fit(pair, data, max_epochs=1, progress=False),
        lambda: pair.elbo.loss(*halves(pair), x_of()),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    pyro.clear_param_store()


def halves(pair):
    return pair.model, pair.guide


def test_parameters_that_a_distribution_refuses_name_the_network():
    """One line, where torch's error has the whole tensor."""
    data = pp.data.from_arrays(x_of(20))
    encoder = Encoder(lambda loc, scale: dist.Normal(loc, -scale).to_event(1))
    decoder = Decoder(lambda logits: dist.Bernoulli(probs=logits.exp() + 1).to_event(1))
    for networks, place, name in (
        ({"encoder": encoder}, "guide.encoder", "scale"),
        ({"decoder": decoder}, "model.decoder", "probs"),
    ):
        message = rf"^{place} \(\w+\) computes parameters that the distribution refuses \(Expected parameter {name} "
        with pytest.raises(ValueError, match=message) as caught:
            pp.fit(right_pair(**networks), data, max_epochs=1, progress=False)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("call", ["encode", "reconstruct", "posterior_and_prior", "log_prob"])
def test_data_that_are_not_finite_are_refused_by_every_method(call):
    x = x_of()
    x[1, 2] = math.nan
    with pytest.raises(ValueError, match=r"^x has NaN or infinite values, the first at \[1, 2\]: leave such data out$"):
        getattr(right_pair(), call)(x)


class LaplaceEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 2)

    def forward(self, x):
        return dist.Laplace(self.linear(x), 1.0).to_event(1)


def test_a_metric_that_does_not_apply_takes_no_other_with_it():
    pair, data = right_pair(encoder=LaplaceEncoder()), pp.data.from_arrays(x_of(40))
    with pytest.warns(RuntimeWarning, match="^the metric prior_gap is left out: the posterior of site 'z' is Laplace"):
        found = pp.metrics.evaluate(pair, data, num_samples=5, progress=False)
    assert {"bound", "kl_z", "log_likelihood", "active_units_z"} <= found.keys()
    with pytest.raises(ValueError, match="^the posterior of site 'z' is Laplace"):
        pp.metrics.evaluate(pair, data, metrics="prior_gap", progress=False)
