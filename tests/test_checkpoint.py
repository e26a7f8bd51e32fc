"""Files: what is saved comes back, what is damaged is refused, and a process killed at any point leaves the
last save."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn as nn
from torch.testing import assert_close

import pyro_priors as pp
import runs
from pairs import NAMES, SIZES, batch, create, randomise
from pyro_priors import _files, checkpoint, module_state, zoo
from pyro_priors.checkpoint import CheckpointError
from pyro_priors.citations import BIBTEX
from pyro_priors.guides import VAEGuide
from pyro_priors.models import VAE
from pyro_priors.nn import Decoder, Encoder, make_likelihood
from pyro_priors.pair import Pair
from pyro_priors.priors import StandardPrior


def _names(folder):
    return runs.names(folder)


def _saved(folder, name="cp_vae"):
    pair = randomise(create(name))
    pair.save(folder)
    return pair


def _same(one, other):
    return all(torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())


# round trips


@pytest.mark.parametrize("name", NAMES)
def test_load_gives_back_what_save_wrote(name, tmp_path):
    """Every tensor, the recipe and q(c); the folder holds two files and no pickle; saving again leaves
    two."""
    pair, args = randomise(create(name, gated=False)), batch(name)
    if pair.num_categories:
        pair.set_aggregate(*args)
    pair.save(tmp_path / "deep" / "folder")
    folder = tmp_path / "deep" / "folder"
    loaded = pp.load(folder)
    assert type(loaded) is type(pair) and loaded.recipe == pair.recipe
    assert loaded.state_dict().keys() == pair.state_dict().keys() and _same(loaded, pair)
    assert torch.equal(loaded.reconstruct(*args), pair.reconstruct(*args))
    assert [Path(name).suffix for name in runs.names(folder)] == [".safetensors", ".json"]
    assert json.loads((folder / "pair.json").read_text())["pair"]["config"]["networks"]["gated"] is False

    randomise(pair).save(str(folder))  # a string will do
    assert len(_names(folder)) == 2 and _same(pp.load(str(folder)), pair)


def test_load_takes_a_run_folder(tmp_path):
    """The best pair of a run is in its folder ``pair``."""
    pair = _saved(tmp_path / "pair")
    assert _same(pp.load(tmp_path), pair)


def test_a_pair_in_double_comes_back_in_double(tmp_path):
    pair = randomise(create("vae").double())
    pair.save(tmp_path)
    loaded = pp.load(tmp_path)
    assert loaded.state_dict()["model.decoder.out.input.weight"].dtype is torch.float64
    assert _same(loaded, pair)


def test_write_and_read_hold_any_tensors_and_record(tmp_path):
    tensors = {"a": torch.randn(3, 4).T, "b": torch.arange(5), "c": torch.tensor(1.5, dtype=torch.float64)}
    checkpoint.write(tmp_path, "state", tensors, {"step": 3, "nested": {"list": [1, "two", None]}})
    read, record = checkpoint.read(tmp_path, "state")
    assert read.keys() == tensors.keys()
    for key, value in tensors.items():
        assert read[key].dtype is value.dtype and torch.equal(read[key], value)
    assert record["step"] == 3 and record["nested"] == {"list": [1, "two", None]}


def test_names_in_one_folder_do_not_touch_each_other(tmp_path):
    checkpoint.write(tmp_path, "one", {"a": torch.zeros(1)}, {})
    checkpoint.write(tmp_path, "other", {"a": torch.ones(1)}, {})
    checkpoint.write(tmp_path, "one", {"a": torch.full((1,), 2.0)}, {})
    assert checkpoint.read(tmp_path, "one")[0]["a"].item() == 2
    assert checkpoint.read(tmp_path, "other")[0]["a"].item() == 1
    assert len(_names(tmp_path)) == 4


# damage


def _tensor_file(folder):
    (path,) = folder.glob("*.safetensors")
    return path


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def _alter(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _edit(folder, change):
    path = folder / "pair.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


DAMAGES = {
    "tensors truncated": (lambda folder: _truncate(_tensor_file(folder)), "checksum .*: it is truncated or altered"),
    "a bit of the tensors": (lambda folder: _alter(_tensor_file(folder)), "checksum .*: it is truncated or altered"),
    "tensors empty": (lambda folder: _tensor_file(folder).write_bytes(b""), "checksum"),
    "tensors missing": (
        lambda folder: _tensor_file(folder).unlink(),
        r"safetensors is missing: there is no complete save",
    ),
    "record truncated": (
        lambda folder: _truncate(folder / "pair.json"),
        "pair.json cannot be read .*truncated or altered",
    ),
    "record empty": (lambda folder: (folder / "pair.json").write_bytes(b""), "pair.json cannot be read"),
    "record is no text": (
        lambda folder: (folder / "pair.json").write_bytes(b"\xff\xfe\x00"),
        "pair.json cannot be read",
    ),
    "record is a list": (lambda folder: (folder / "pair.json").write_text("[1]"), "pair.json cannot be read"),
    "record missing": (
        lambda folder: (folder / "pair.json").unlink(),
        "pair.json is missing: there is no complete save in",
    ),
    "record names no tensors": (lambda folder: _edit(folder, lambda r: r.pop("tensors")), "pair.json cannot be read"),
    "checksum altered": (lambda folder: _edit(folder, lambda r: r.update(sha256="0" * 64)), "checksum"),
    "checksum missing": (lambda folder: _edit(folder, lambda r: r.pop("sha256")), "sha256 is missing"),
    "size altered": (
        lambda folder: _edit(folder, lambda r: r["pair"]["config"].update(z_dim=3)),
        "another network|checksum",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_save_is_refused(damage, tmp_path):
    """One clear CheckpointError that names the file, by ``load`` and by ``load_weights``."""
    pair = _saved(tmp_path)
    harm, message = DAMAGES[damage]
    harm(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        pp.load(tmp_path)
    if damage != "size altered":  # that is in the recipe, which load_weights does not read
        before = {key: value.clone() for key, value in pair.state_dict().items()}
        with pytest.raises(CheckpointError, match=message):
            pair.load_weights(tmp_path)
        assert all(torch.equal(value, before[key]) for key, value in pair.state_dict().items())


def test_an_altered_record_that_still_fits_is_refused(tmp_path):
    """Bernoulli made continuous Bernoulli: same tensors, another density."""
    _saved(tmp_path)
    _edit(tmp_path, lambda record: record["pair"]["config"].update(likelihood="continuous_bernoulli"))
    with pytest.raises(CheckpointError):
        pp.load(tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere.pair.json is missing: there is no complete save in .*nowhere"):
        pp.load(tmp_path / "nowhere")


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_refused_comes_with_a_remedy(damage, tmp_path):
    _saved(tmp_path)
    DAMAGES[damage][0](tmp_path)
    with pytest.raises(CheckpointError) as error:
        pp.load(tmp_path)
    assert "\n" not in str(error.value)
    remedies = (checkpoint.RESTORE, "give a folder that pair.save wrote, or the folder of a completed run")
    assert str(error.value).endswith(remedies) or "another network" in str(error.value)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "pair"):
        with pytest.raises(
            ValueError, match=f"^the folder {path} cannot be created .*: choose another place to write to"
        ):
            create("vae").save(path)


def test_another_network_s_save_is_refused_and_nothing_is_loaded(tmp_path):
    """Other names, or other shapes; the pair keeps all its tensors, also those that would have fitted."""
    _saved(tmp_path / "vae", "vae")
    for other, message in (
        (create("cp_vae"), "saved from another network: '.*' is in only one of the two"),
        (create("vae", hidden=(7, 5)), r"'.*' has shape \(.*\) there and \(.*\) here"),
    ):
        before = {key: value.clone() for key, value in other.state_dict().items()}
        with pytest.raises(CheckpointError, match=message):
            other.load_weights(tmp_path / "vae")
        assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())


# killed in between


def _value(folder, name="state"):
    tensors, record = checkpoint.read(folder, name)
    assert tensors["a"].unique().tolist() == [record["number"]]
    return record["number"]


def _write(folder, number, keep_previous=False):
    checkpoint.write(folder, "state", {"a": torch.full((3,), float(number))}, {"number": number}, keep_previous)


def test_the_previous_save_is_kept_if_asked(tmp_path):
    """And only it: three saves leave two records with their tensors."""
    for number in (1, 2, 3):
        _write(tmp_path, number, keep_previous=True)
    assert _value(tmp_path) == 3 and _value(tmp_path, "state.previous") == 2
    assert len(_names(tmp_path)) == 4
    _alter(tmp_path / json.loads((tmp_path / "state.json").read_text())["tensors"])
    with pytest.raises(CheckpointError, match="checksum"):
        _value(tmp_path)
    assert _value(tmp_path, "state.previous") == 2


@pytest.mark.parametrize("keep_previous", [False, True])
@pytest.mark.parametrize("function", ["replace", "fsync"])
@pytest.mark.parametrize("number", [2, 3])
def test_a_save_killed_at_any_point_leaves_the_one_before(number, function, keep_previous, tmp_path, monkeypatch):
    """The first, second, ... call of os.replace or os.fsync never happens: what is read afterwards is the old
    save, whole, and the next save works and removes the dead one's tensors. Also where the same numbers are
    saved again, whose file has the name of the old save's."""

    class Killed(BaseException):
        """What no handler of errors catches."""

    real, calls_of_a_save = getattr(os, function), 3 if keep_previous else 2
    for dies_at in range(calls_of_a_save):
        folder = tmp_path / str(dies_at)
        _write(folder, 1, keep_previous)
        _write(folder, 2, keep_previous)
        calls = []

        def dying(*args, calls=calls, dies_at=dies_at):
            calls.append(args)
            if len(calls) > dies_at:
                raise Killed
            return real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(os, function, dying)
            with pytest.raises(Killed):
                _write(folder, number, keep_previous)
        assert len(calls) == dies_at + 1
        assert _value(folder) == 2
        if keep_previous:
            assert _value(folder, "state.previous") in (1, 2)
        _write(folder, 4, keep_previous)
        assert _value(folder) == 4
        whole = [name for name in _names(folder) if not name.endswith(".tmp")]
        assert len(whole) == (4 if keep_previous else 2), whole
        assert not keep_previous or _value(folder, "state.previous") == 2


def test_the_next_save_sweeps_what_a_killed_process_left(tmp_path):
    killed = f"{_files.HOST}-123456789-0123abcd.tmp"
    (tmp_path / f".state.json.{killed}").write_bytes(b"half")
    (tmp_path / f".state-0123456789abcdef.safetensors.{killed}").write_bytes(b"half")
    _write(tmp_path, 1)
    assert len(_names(tmp_path)) == 2


def test_shared_tensors_are_written_once(tmp_path):
    """And come back shared, with the first of their names in the file."""
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    checkpoint.write(tmp_path, "net", module_state.tensors_of(net), {})
    tensors, _ = checkpoint.read(tmp_path, "net")
    assert tensors.keys() == {"0.weight", "0.bias", "1.bias"}
    assert safetensors.torch.load_file(_tensor_file(tmp_path)).keys() == tensors.keys()
    other = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    other[1].weight = other[0].weight
    module_state.load_module_state(other, tensors, "here")
    assert other[1].weight is other[0].weight
    assert_close(other(torch.ones(2)), net(torch.ones(2)))


# networks of one's own


def test_a_pair_with_networks_of_ones_own_needs_them_again(tmp_path):
    """They are not in the record; with them the load is complete."""
    torch.manual_seed(1)
    encoder = Encoder((6,), 2, (5,))
    decoder = Decoder(2, (6,), make_likelihood("bernoulli", (1,)), (5,), gated=False)
    pair = pp.create("vae", **SIZES, encoder=encoder, decoder=decoder)
    assert pair.guide.encoder is encoder and pair.model.decoder is decoder
    assert pair.recipe["own_networks"] == ["encoder", "decoder"]
    pair.save(tmp_path)
    with pytest.raises(
        ValueError, match=r"own encoder and decoder: load it from Python, load\(path, encoder=\.\.\., dec"
    ):
        pp.load(tmp_path)
    own = {
        "encoder": Encoder((6,), 2, (5,)),
        "decoder": Decoder(2, (6,), make_likelihood("bernoulli", (1,)), (5,), gated=False),
    }
    with pytest.raises(ValueError, match=r"own decoder: load it from Python, load\(path, decoder=\.\.\.\)"):
        pp.load(tmp_path, encoder=own["encoder"])
    assert _same(pp.load(tmp_path, **own), pair)
    with pytest.raises(CheckpointError, match="saved from another network"):
        pp.load(tmp_path, encoder=Encoder((6,), 2, (4,)), decoder=own["decoder"])


def test_networks_of_ones_own_are_modules_and_options_of_the_zoos_are_told():
    decoder = Decoder(2, (6,), make_likelihood("gaussian", (1,)), (5,))
    with pytest.raises(ValueError, match=r"encoder must be a torch.nn.Module, got the class Encoder: give an instance"):
        pp.create("vae", **SIZES, encoder=Encoder)
    with pytest.raises(
        ValueError, match="likelihood='gaussian' has no effect, because your decoder returns p.x.z. itself"
    ):
        pp.create("vae", **SIZES, likelihood="gaussian", scale=0.1, decoder=decoder)
    message = "is an option of the library's own decoder and has no effect on yours: leave it out"
    with pytest.warns(UserWarning, match=f"scale=1.0 {message}"):
        pp.create("sigma_vae", **SIZES, scale=1.0, decoder=decoder)


def test_cp_vae_takes_a_trunk_of_ones_own(tmp_path):
    """From x to ``hidden[-1]`` features."""
    trunk = nn.Sequential(nn.Linear(6, 4), nn.Tanh())
    pair = create("cp_vae", encoder=trunk)
    assert pair.guide.trunk is trunk
    pair.elbo(pair.model, pair.guide)(*batch("cp_vae")).backward()
    assert trunk[0].weight.grad.any()
    pair.save(tmp_path)
    assert _same(pp.load(tmp_path, encoder=nn.Sequential(nn.Linear(6, 4), nn.Tanh())), pair)


def test_a_network_without_layers_is_a_network():
    trunk = nn.Sequential()
    assert create("cp_vae", x_shape=(4,), encoder=trunk).guide.trunk is trunk


def test_a_pair_that_is_not_of_the_zoo_says_how_to_load_it(tmp_path):
    def build():
        decoder = Decoder(2, (6,), make_likelihood("bernoulli", (1,)), (5,))
        return Pair(VAE(StandardPrior(2), decoder), VAEGuide(Encoder((6,), 2, (5,))))

    pair, other = build(), build()
    pair.save(tmp_path)
    with pytest.raises(ValueError, match="holds a pair that is not of the zoo: build it and call its load_weights"):
        pp.load(tmp_path)
    other.load_weights(tmp_path)
    assert _same(other, pair)


# the zoo's errors


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cp_vea", {}, "pair 'cp_vea' is unknown: did you mean 'cp_vae'?"),
        ("transformer", {}, "pair 'transformer' is unknown: choose one of cdv_cvae, cmog_cvae, cp_vae,"),
        ("vae", {"zdim": 3}, "pair 'vae' has no option 'zdim': did you mean 'z_dim'?"),
        ("vae", {"num_categories": 3}, "pair 'vae' has no option 'num_categories': choose one of gated, hidden,"),
        ("vae", {"prior": "standart"}, "prior 'standart' is unknown: did you mean 'standard'?"),
        ("vae", {"prior": "xyz"}, "prior 'xyz' is unknown: choose one of cdv, flow, gaussian, "),
        (
            "vae",
            {"prior": 3},
            "prior must be one of cdv, flow, gaussian, mixture, standard, vamp, options of pyro_priors",
        ),
        ("vae", {"prior": pp.priors.Flow}, "prior is the class Flow: give an instance, such as Flow()"),
        ("vae", {"likelihood": pp.priors.Flow()}, "likelihood must be one of bernoulli, continuous_bernoulli, "),
        (
            "vae",
            {"networks": nn.Linear(2, 2)},
            "networks must be one of conv, mlp, options of pyro_priors.networks, got",
        ),
        ("cp_vae", {"prior_c": "learned"}, "prior_c 'learned' is unknown: did you mean 'learnable'?"),
        (
            "vae",
            {"prior": pp.priors.Flow(base="mixture"), "prior_z1": "flow"},
            "pair 'vae' has no option 'prior_z1': did you mean 'prior'?",
        ),
        (
            "hvae",
            {"prior": "vamp", "prior_z1": "vamp", "num_components": 3},
            "'num_components' is an option of prior.num_components and prior_z1.num_components: give it to one of",
        ),
        (
            "cvae",
            {"condition_shape": (3,), "condition_prior": False, "prior": "vamp"},
            "needs the encoder of the guide",
        ),
        ("hvae", {"prior": "cdv"}, "prior 'cdv' needs the decoder, which needs more than this code"),
        ("cp_vae", {"prior": "vamp", "category": "relaxed"}, "a relaxed category has none: use prior='mixture'"),
        (None, {}, "pair 'None' is unknown: choose one of cdv_cvae, "),
        ("cp_vae", {"category": None}, "category must be a string, got None (for example, 'enumerated')"),
        (
            "vae",
            {"prior": "mixture", "learnable_weights": "no"},
            "learnable_weights must be True, False or None, got 'no'",
        ),
        (
            "vae",
            {"likelihood": "gaussian", "scale": "0.1"},
            "scale must be a positive number or one of learned, optimal, per_channel, got '0.1'",
        ),
        (
            "vae",
            {"prior": "flow", "hidden_features": 64},
            "hidden_features must be a tuple of integers, got 64 (for example, (64, 64))",
        ),
        ("vae", {"likelihood": "gausian"}, "likelihood 'gausian' is unknown: did you mean 'gaussian'?"),
        ("vae", {"scale": 0.1}, "scale=0.1 belongs to likelihood='gaussian', got likelihood='bernoulli': leave it out"),
        ("vae", {"likelihood": "gaussian", "scale": -1.0}, "scale must be positive, got -1.0: give scale=0.1"),
        ("vae", {"z_dim": 0}, "z_dim must be a positive integer, got 0"),
        ("vae", {"z_dim": 2.5}, "z_dim must be an integer, got 2.5 (for example, 40)"),
        ("vae", {"hidden": ()}, "hidden must be a tuple of positive integers, got ()"),
        ("vae", {"hidden": (300, -1)}, "hidden must be a tuple of positive integers, got (300, -1)"),
        ("vae", {"x_shape": ()}, "x_shape must be a tuple of positive integers, got ()"),
        ("cp_vae", {"num_categories": 0}, "num_categories must be a positive integer, got 0"),
        ("hvae", {"z1_dim": 0}, "z1_dim must be a positive integer, got 0"),
        ("vae", {"prior": "vamp", "num_components": 0}, "num_components must be a positive integer, got 0"),
        (
            "vae",
            {"num_components": 9},
            "num_components=9 belongs to prior='cdv' or 'mixture' or 'vamp', got prior='st",
        ),
        (
            "vae",
            {"prior": "mixture", "num_transforms": 4},
            "num_transforms=4 belongs to prior='flow', got prior='mixtur",
        ),
        (
            "vae",
            {"prior": "flow", "hidden_features": []},
            "hidden_features must be a tuple of positive integers, got",
        ),
        (
            "vae",
            {"prior": "flow", "transform": "affine"},
            "transform 'affine' is unknown: choose one of additive_coup",
        ),
        (
            "vae",
            {"prior": "flow", "transform": "spline_copling"},
            "transform 'spline_copling' is unknown: did you mean 'spline_co",
        ),
        ("vae", {"prior": "flow", "z_dim": 1}, "a flow needs z_dim of at least 2, got 1: use prior='mixture'"),
        (
            "vae",
            {"prior": "flow", "transform": "affine_autoregressive", "z_dim": 9, "hidden_features": (9, 8)},
            "hidden layers of an autoregressive flow must be at least as wide as z, got (9, 8) for z_dim=9: give",
        ),
    ],
)
def test_a_wrong_option_is_named_with_the_nearest_right_one(name, options, message):
    with pytest.raises(ValueError) as error:
        pp.create(name, **SIZES | options)
    assert message in str(error.value)


def test_sizes_may_be_of_numpy(tmp_path):
    pair = pp.create("vae", x_shape=(np.int64(6),), z_dim=np.int64(2), hidden=(np.int32(5),))
    pair.save(tmp_path)  # as JSON
    assert pp.load(tmp_path).sample(3)["z"].shape == (3, 2)


def test_what_every_pair_needs_is_asked_for():
    with pytest.raises(ValueError, match=r"pair 'vae' needs x_shape, the shape of one example: give x_shape=\(784,\)"):
        pp.create("vae")
    with pytest.raises(ValueError, match="condition_shape must be"):
        pp.create("cvae", x_shape=(6,))
    with pytest.raises(ValueError, match="pair 'vea' is unknown: did you mean 'vae'"):
        pp.create("vea", x_shape=(6,))


@pytest.mark.parametrize("options", [{"hidden": 300}, {"x_shape": 784}])
def test_a_number_in_place_of_sizes_is_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        pp.create("vae", **SIZES | options)


def test_a_category_is_refused_where_there_is_none():
    with pytest.raises(ValueError, match="'c' is not a site of this model|no category"):
        create("vae").sample(2, c=1)


@pytest.mark.parametrize("method", ["sample", "encode", "reconstruct", "log_prob"])
def test_a_missing_condition_is_asked_for(method):
    pair = create("cvae")
    with pytest.raises(ValueError, match="condition"):
        getattr(pair, method)(4 if method == "sample" else batch("cvae")[0])


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="pair 'vae' is already registered by pyro_priors.zoo.presets: choose another"):
        zoo.register_preset("vae", "vae")
    with pytest.raises(ValueError, match="family 'vea' is unknown: did you mean 'vae'"):
        zoo.register_preset("other", "vea")
    with pytest.raises(ValueError, match="family 'vae' has no option 'zdim': did you mean 'z_dim'"):
        zoo.register_preset("other", "vae", zdim=3)
    assert "other" not in pp.names()


# citations


@pytest.mark.parametrize("name", NAMES)
def test_citation_prints_the_papers_and_pyro(name):
    """Every key of a pair's is there, as an entry that BibTeX can read: balanced braces, its own key."""
    pair = create(name)
    text = pp.citation(pair)
    keys = (*zoo.citations_of(pair), "bingham2019")
    assert len(keys) > 1
    for key in keys:
        assert BIBTEX[key] in text
    assert text.count("\n@") + 1 == len(keys)
    assert text.count("{") == text.count("}")


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({"prior": "mixture"}, ()),
        ({"prior": "vamp"}, ("tomczak2018",)),
        ({"prior": "flow"}, ("bhalodia2019", "dinh2017")),
        ({"prior": "flow", "transform": "spline_coupling"}, ("bhalodia2019", "durkan2019")),
        ({"prior": "flow", "transform": "affine_autoregressive"}, ("bhalodia2019", "papamakarios2017")),
    ],
)
def test_citation_names_the_papers_of_the_prior(options, keys):
    text = pp.citation(create("vae", **options))
    assert text == "\n\n".join(BIBTEX[key] for key in ("kingma2014", *keys, "bingham2019"))
    assert text.count("{") == text.count("}")
    assert pp.citation(create("hvae", prior="vamp")).count("tomczak2018vae") == 1


def test_citation_is_for_pairs_of_the_zoo():
    with pytest.raises(ValueError, match="this pair is not of the zoo"):
        pp.citation(Pair(nn.Identity(), nn.Identity()))
