"""What was saved last is what is loaded, nothing else in the folder is touched, and what cannot be saved is refused
before it is trained."""

import copy
import itertools
import json
import math
import os
import shutil

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn as nn
from torch.nn.utils import parametrizations

import pyro_priors as pp
import runs
from pairs import randomise
from pyro_priors import checkpoint, module_state
from pyro_priors.cli.main import main
from pyro_priors.guides import VAEGuide
from pyro_priors.models import VAE
from pyro_priors.nn import Decoder, Encoder, make_likelihood
from pyro_priors.priors import StandardPrior
from pyro_priors.run_folder import RunFolder

SIZES = {"x_shape": (6,), "z_dim": 2, "hidden": (8,)}


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    return pp.data.from_arrays((torch.rand(40, 6, generator=generator) > 0.5).float())


def create(**options):
    return pp.create("vae", **SIZES | options)


def fit(pair, data, out, epochs=1, **options):
    options = {"progress": False, "max_epochs": epochs, "learning_rate": 0.01, "device": "cpu"} | options
    return pp.fit(pair, data, out=out, **options)


# what was saved last is what is loaded


class Folder:
    """A folder with the ways to save into it; each returns what a reader must find afterwards."""

    def __init__(self, path, data):
        self.path, self.data, self.epochs = path, data, 0

    def save(self):
        pair = randomise(create())
        pair.save(self.path)
        return pair

    def save_in_pair(self):
        pair = randomise(create())
        pair.save(self.path / "pair")
        return pair

    def fit(self):
        pair = create()
        fit(pair, self.data, self.path)
        self.epochs = 1
        return pair

    def resume(self):
        pair = create()
        fit(pair, self.data, self.path, self.epochs + 1, resume=True)
        self.epochs += 1
        return pair

    def assert_holds(self, expected):
        weights = create()
        weights.load_weights(self.path)
        assert runs.same_bits(runs.state(pp.load(self.path)), expected)
        assert runs.same_bits(runs.state(weights), expected)


WAYS = ("save", "save_in_pair", "fit", "resume")
MATRIX = [ways for ways in itertools.product(WAYS, repeat=3) if ways[0] != "save_in_pair"]


@pytest.mark.parametrize("ways", MATRIX, ids="-".join)
def test_what_was_saved_last_is_loaded(ways, data, tmp_path):
    """Whichever ways are mixed; or a way is refused, and all is as it was."""
    folder, expected, is_run, replaced = Folder(tmp_path / "folder", data), None, False, False
    for way in ways:
        if way == "save_in_pair" and not is_run:
            return  # another folder
        refused = (way == "fit" and is_run) or (way == "resume" and replaced)
        before = runs.snapshot(tmp_path)
        if refused:
            match = "already contains a run" if way == "fit" else "contains a pair that was saved over the one"
            with pytest.raises(ValueError, match=match):
                getattr(folder, way)()
            assert runs.snapshot(tmp_path) == before
        else:
            expected = runs.state(getattr(folder, way)())
            replaced = is_run and way.startswith("save")
            is_run = is_run or way in ("fit", "resume")
        folder.assert_holds(expected)
        if is_run:
            assert runs.same_bits(runs.saved_pair(folder.path), expected)
            assert RunFolder(folder.path).pair_is_replaced == replaced


def test_saving_what_the_training_left_changes_nothing(data, tmp_path):
    pair = create()
    fit(pair, data, tmp_path)
    before = runs.snapshot(tmp_path)
    pair.save(tmp_path)
    assert runs.snapshot(tmp_path) == before
    pp.load(tmp_path).save(tmp_path / "pair")
    assert runs.snapshot(tmp_path) == before
    fit(create(), data, tmp_path, epochs=2, resume=True)


def test_a_run_goes_on_when_the_pair_that_was_saved_over_its_own_is_moved_away(data, tmp_path):
    pair = create()
    start = copy.deepcopy(pair)
    fit(start, data, tmp_path / "whole", epochs=3)
    fit(pair, data, tmp_path / "run", epochs=2)
    randomise(create()).save(tmp_path / "run")
    with pytest.raises(ValueError, match=r"run/pair contains a pair that .*: move it to another folder to resume"):
        fit(create(), data, tmp_path / "run", epochs=3, resume=True)
    shutil.move(tmp_path / "run" / "pair", tmp_path / "mine")
    fit(create(), data, tmp_path / "run", epochs=3, resume=True)
    assert runs.same_bits(runs.saved_pair(tmp_path / "run"), runs.saved_pair(tmp_path / "whole"))
    assert runs.records(tmp_path / "run") == runs.records(tmp_path / "whole")


def test_a_pair_saved_into_an_interrupted_run_is_loaded(data, tmp_path, monkeypatch):
    """Before the training has left a pair of its own, and beside one that was there before the training."""
    randomise(create()).save(tmp_path)
    first = runs.state(pp.load(tmp_path))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pp.training.loop.Training, "validate", lambda self: os.kill(os.getpid(), 2) or {"bound": 0.0})
        fit(create(), data, tmp_path, epochs=3)
    assert (tmp_path / "last").exists() and not (tmp_path / "pair").exists()
    assert runs.same_bits(runs.state(pp.load(tmp_path)), first)
    pair = randomise(create())
    pair.save(tmp_path)
    assert runs.same_bits(runs.state(pp.load(tmp_path)), runs.state(pair))


@pytest.mark.parametrize("place", ["run", "run/pair"])
@pytest.mark.parametrize(
    ("other", "match"),
    [
        (
            lambda: create(z_dim=3),
            r"has pair\.config\.z_dim=2, but this pair has 3: save the pair",
        ),
        (
            lambda: pp.create("hvae", **SIZES),
            r"has pair\.name='vae', but this pair has 'hvae': save",
        ),
        (
            lambda: _own_programs(),
            r"has pair=\{.*\}, but this pair has None: save the pair in another folder",
        ),
    ],
)
def test_a_pair_of_other_options_is_not_saved_into_a_run(place, other, match, data, tmp_path):
    fit(create(), data, tmp_path / "run")
    before = runs.snapshot(tmp_path)
    with pytest.raises(ValueError, match=match):
        other().save(tmp_path / place)
    assert runs.snapshot(tmp_path) == before


def _own_programs():
    decoder = Decoder(2, (6,), make_likelihood("bernoulli", (1,)), (5,))
    return pp.Pair(VAE(StandardPrior(2), decoder), VAEGuide(Encoder((6,), 2, (5,))))


def test_a_pair_that_is_not_of_the_zoo_loads_the_weights_of_a_run_folder(data, tmp_path):
    pair, other = _own_programs(), _own_programs()
    fit(pair, data, tmp_path)
    other.load_weights(tmp_path)
    assert runs.same_bits(runs.state(other), runs.state(pair))
    randomise(pair).save(tmp_path)
    other.load_weights(tmp_path)
    assert runs.same_bits(runs.state(other), runs.state(pair))


def test_nothing_is_saved_into_a_run_of_which_only_the_numbers_are_kept(data, tmp_path):
    fit(create(), data, tmp_path)
    run = RunFolder(tmp_path)
    run.save_evaluation({"part": "test", "seed": 0, "metrics": {}} | run.source(run.weights()))
    for name in ("pair", "last"):
        shutil.rmtree(tmp_path / name)
    assert RunFolder(tmp_path).holds_numbers_only
    with pytest.raises(ValueError, match="contains the results of a run without its weights: save the pair in ano"):
        create().save(tmp_path)
    assert RunFolder(tmp_path).holds_numbers_only


def test_another_program_s_config_makes_no_run(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    pair = randomise(create())
    pair.save(tmp_path)
    assert (tmp_path / "pair.json").exists() and not (tmp_path / "pair").exists()
    assert runs.same_bits(runs.state(pp.load(tmp_path)), runs.state(pair))


def test_two_folders_of_pairs_one_in_the_other_are_two(tmp_path):
    """A pair saved into ``models`` does not reach into ``models/pair``, which is no run's."""
    inner, outer = randomise(create()), randomise(create())
    inner.save(tmp_path / "pair")
    assert runs.same_bits(runs.state(pp.load(tmp_path)), runs.state(inner))
    outer.save(tmp_path)
    assert runs.same_bits(runs.state(pp.load(tmp_path)), runs.state(outer))
    assert runs.same_bits(runs.state(pp.load(tmp_path / "pair")), runs.state(inner))


def test_a_run_is_known_through_links(data, tmp_path):
    fit(create(), data, tmp_path / "run")
    (tmp_path / "latest").symlink_to(tmp_path / "run")
    (tmp_path / "weights").symlink_to(tmp_path / "run" / "pair")
    for link in ("latest", "weights"):
        pair = randomise(create())
        pair.save(tmp_path / link)
        for path in ("run", "run/pair", "latest", "weights"):
            assert runs.same_bits(runs.state(pp.load(tmp_path / path)), runs.state(pair))
        assert RunFolder(tmp_path / "run").pair_is_replaced


def test_an_evaluation_is_never_taken_for_that_of_another_pair(tmp_path, capsys):
    """Numbers of a pair that was saved over the run's are not the run's, and the other way round."""
    run = tmp_path / "run"
    options = ["--quiet", "--networks.hidden", "8", "--z-dim", "2", "--train.max-epochs", "1", "--data.limit", "60"]
    assert main(["train", "vae", "--data", "moons", *options, "--out", str(run)]) == 0
    evaluate = ["evaluate", str(run), "--metrics", "bound"]
    assert main(evaluate) == 0
    own = RunFolder(run).evaluation()
    assert own["epochs"] == 1 and "saved over" not in capsys.readouterr().out
    randomise(pp.load(run)).save(run)
    assert RunFolder(run).evaluation() is None
    assert main(evaluate) == 0
    assert "(of the pair that was saved over the run's)" in capsys.readouterr().out.splitlines()[0]
    other = RunFolder(run).evaluation()
    assert other["epochs"] is None and other["metrics"]["bound"] != own["metrics"]["bound"]


# what a save removes

OTHERS = (
    "pair-epoch10.safetensors",
    "pair-0123456789abcdef.safetensors",
    "pair-0123456789abcdef.json",
    "pair.best.json",
    ".pair-notes.tmp",
    ".pairs.tmp",
    ".pair.12.tmp",
    "state-0123456789abcdef.safetensors",
)


def test_a_save_removes_the_file_that_it_replaces_alone(tmp_path):
    for name in OTHERS:
        (tmp_path / name).write_text(name)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (tmp_path / "pair-fedcba9876543210.safetensors").symlink_to(outside / "kept")
    (tmp_path / "pair-00.safetensors").mkdir()
    others = set(os.listdir(tmp_path))
    for number in range(3):
        pair = randomise(create())
        pair.save(tmp_path)
        found = set(runs.names(tmp_path))
        assert found >= others
        assert len(found - others) == 2, number  # pair.json, and the one that it names
    assert all((tmp_path / name).read_text() == name for name in OTHERS)
    assert (outside / "kept").read_text() == "kept"
    assert runs.same_bits(runs.state(pp.load(tmp_path)), runs.state(pair))


def test_a_copy_of_a_save_is_kept(tmp_path):
    pair = randomise(create())
    pair.save(tmp_path)
    (tensors,) = tmp_path.glob("*.safetensors")
    shutil.copy(tensors, tmp_path / "pair-epoch10.safetensors")
    content = tensors.read_bytes()
    randomise(create()).save(tmp_path)
    assert not tensors.exists() and (tmp_path / "pair-epoch10.safetensors").read_bytes() == content


def test_names_that_begin_alike_do_not_touch_each_other(tmp_path):
    for number in range(2):
        for name in ("judge", "judge-2", "judge.previous"):
            checkpoint.write(tmp_path, name, {"a": torch.full((2,), float(number))}, {"name": name})
    for name in ("judge", "judge-2", "judge.previous"):
        tensors, record = checkpoint.read(tmp_path, name)
        assert tensors["a"].tolist() == [1, 1] and record["name"] == name


def test_a_record_that_names_a_foreign_file_does_not_have_it_removed(tmp_path):
    (tmp_path / "precious.safetensors").touch()
    folder = tmp_path / "pair"
    create().save(folder)
    for name in ("../precious.safetensors", "notes.txt", ["a"], None):
        (folder / "notes.txt").touch()
        record = json.loads((folder / "pair.json").read_text()) | {"tensors": name}
        (folder / "pair.json").write_text(json.dumps(record))
        create().save(folder)
        assert (tmp_path / "precious.safetensors").exists() and (folder / "notes.txt").exists()


def test_the_state_before_a_damaged_one_takes_its_place(tmp_path):
    for number in (1.0, 2.0):
        checkpoint.write(tmp_path, "state", {"a": torch.full((2,), number)}, {}, keep_previous=True)
    (tmp_path / "state-mine.safetensors").touch()
    checkpoint.restore_previous(tmp_path, "state")
    assert checkpoint.read(tmp_path, "state")[0]["a"].tolist() == [1, 1]
    assert len(runs.names(tmp_path)) == 4  # two records, the one file of both, and the user's


@pytest.mark.parametrize("number", range(2))
def test_a_full_disk_leaves_the_save_before(number, tmp_path, monkeypatch):
    pair = randomise(create())
    pair.save(tmp_path)
    files, calls = runs.names(tmp_path), []

    def full(*args):
        calls.append(args)
        if len(calls) > number:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(os, "fsync", full)
        randomise(create()).save(tmp_path)
    assert runs.names(tmp_path) == files
    assert runs.same_bits(runs.state(pp.load(tmp_path)), runs.state(pair))


# modules of any kind


class OwnDecoder(nn.Module):
    """A decoder with whatever torch allows in it."""

    def __init__(self, change):
        super().__init__()
        self.linear = nn.Linear(2, 6)
        change(self)

    def forward(self, z):
        logits = self.linear(z)
        if hasattr(self, "shift"):
            logits = logits + self.shift
        return dist.Bernoulli(logits=logits).to_event(1)


def buffer(make, persistent=True, name="shift"):
    return lambda module: module.register_buffer(name, make(), persistent=persistent)


def parameter(make):
    return lambda module: module.register_parameter("shift", nn.Parameter(make()))


def one_memory(module):
    statistics = torch.linspace(-1, 1, 12).reshape(2, 6)
    module.register_buffer("shift", statistics[0])
    module.register_buffer("statistics", statistics)


def one_buffer(module):
    module.register_buffer("shift", torch.linspace(-1, 1, 6))
    module.register_buffer("again", module.shift)
    module.part = nn.Module()
    module.part.register_buffer("third", module.shift)


def one_parameter(module):
    module.again, module.inner = module.linear, nn.Linear(2, 6)
    module.inner.weight = module.linear.weight
    module.inner.bias = nn.Parameter(module.linear.bias.detach())  # in the same memory


def replaced(wrap):
    def change(module):
        module.linear = wrap(module.linear)

    return change


def transposed(module):
    module.linear.weight.data = module.linear.weight.data.T.contiguous().T


SAVED = {
    "compiled": replaced(lambda linear: torch.compile(linear, backend="eager")),
    "one memory": one_memory,
    "one buffer": one_buffer,
    "one parameter": one_parameter,
    "expanded": buffer(lambda: torch.full((1,), 0.5).expand(6)),
    "expanded parameter": parameter(lambda: torch.full((1,), 0.5).expand(6)),
    "not contiguous": buffer(lambda: torch.linspace(-1, 1, 12).reshape(6, 2)[:, 0]),
    "transposed parameter": transposed,
    "overlapping": buffer(lambda: torch.linspace(-1, 1, 7).as_strided((2, 6), (1, 1))[:1]),
    "weight_norm": replaced(parametrizations.weight_norm),
    "orthogonal": replaced(parametrizations.orthogonal),
    "old weight_norm": replaced(nn.utils.weight_norm),
    "spectral_norm": replaced(nn.utils.spectral_norm),
    "integers": buffer(lambda: torch.arange(6)),
    "bool": buffer(lambda: torch.ones(6, dtype=torch.bool), name="mask"),
    "no values": buffer(lambda: torch.zeros(0, 3), name="empty"),
    "one number": buffer(lambda: torch.tensor(0.5)),
    "NaN": buffer(lambda: torch.full((3,), math.nan), name="unset"),
    "half": buffer(lambda: torch.full((6,), 0.5, dtype=torch.float16)),
    "double": buffer(lambda: torch.full((3,), 0.1, dtype=torch.float64), name="table"),
    "a buffer with a gradient": buffer(lambda: torch.full((6,), 0.5, requires_grad=True)),
}


def own(change):
    torch.manual_seed(1)
    return create(decoder=OwnDecoder(change))


def assert_equal(one, other):
    """The same names, types and values, NaN included."""
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=0, atol=0, equal_nan=True)


@pytest.mark.filterwarnings("ignore")  # what torch has deprecated
@pytest.mark.parametrize("kind", SAVED)
def test_modules_that_torch_allows_are_trained_saved_and_loaded(kind, data, tmp_path):
    """Into a module of other values: a resumed run and a loaded pair have those of the run, and compute the same."""
    pair = own(SAVED[kind])
    fit(pair, data, tmp_path)
    torch.manual_seed(2)
    assert_equal(pair, loaded := pp.load(tmp_path, decoder=OwnDecoder(SAVED[kind])))
    x = data.test.x
    assert torch.equal(loaded.reconstruct(x), pair.reconstruct(x))
    other = own(SAVED[kind])
    fit(other, data, tmp_path, epochs=2, resume=True)
    whole = own(SAVED[kind])
    fit(whole, data, tmp_path / "whole", epochs=2)
    assert_equal(whole, other)


def inference():
    with torch.inference_mode():
        return torch.ones(6)


class WithState(nn.Linear):
    def get_extra_state(self):
        return {"calls": 1}

    def set_extra_state(self, state):
        pass


def quantized():
    return torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.quint8)


NOT_IN_FILES = getattr(torch, "float8_e8m0fnu", torch.float8_e4m3fnuz)
"""A type of tensors that the declared versions of safetensors do not hold."""

NOT_HELD = r"cannot be saved: a safetensors file cannot store it \({}\): use a dense tensor of real numbers$"
REFUSED = {
    "lazy": (
        replaced(lambda linear: nn.LazyLinear(6)),
        r"'model\.decoder\.linear\.weight' cannot be saved: it belongs to a lazy module .*: call that network once",
    ),
    "sparse": (
        buffer(lambda: torch.eye(6).to_sparse(), name="table"),
        r"'model\.decoder\.table' " + NOT_HELD.format("float32 tensor, sparse_coo, on cpu"),
    ),
    "sparse parameter": (
        parameter(lambda: torch.ones(6).to_sparse()),
        r"'model\.decoder\.shift' " + NOT_HELD.format("float32 tensor, sparse_coo, on cpu"),
    ),
    "quantized": (
        buffer(quantized, name="table"),
        r"'model\.decoder\.table' " + NOT_HELD.format("quint8 tensor, strided, on cpu"),
    ),
    "complex": (
        parameter(lambda: torch.ones(6, dtype=torch.complex64)),
        r"'model\.decoder\.shift' cannot be saved: it is complex \(torch\.complex64\): keep its real",
    ),
    "complex of twice the size": (
        buffer(lambda: torch.ones(6, dtype=torch.complex128), name="table"),
        r"'model\.decoder\.table' cannot be saved: it is complex \(torch\.complex128\): keep its real",
    ),
    "a type that files do not have": (
        buffer(lambda: torch.ones(6).to(NOT_IN_FILES), name="table"),
        r"'model\.decoder\.table' " + NOT_HELD.format(f"{str(NOT_IN_FILES)[6:]} tensor, strided, on cpu"),
    ),
    "meta": (
        buffer(lambda: torch.ones(6, device="meta"), name="table"),
        r"'model\.decoder\.table' " + NOT_HELD.format("float32 tensor, strided, on meta"),
    ),
    "inference": (
        buffer(inference, name="table"),
        r"'model\.decoder\.table' cannot be restored: it was made under torch\.inference_mode\(\): make it outside",
    ),
    "extra state": (
        replaced(lambda linear: WithState(2, 6)),
        r"'model\.decoder\.linear\._extra_state' cannot be saved: .* contains a dict that is not a parameter or buffer",
    ),
}


@pytest.mark.filterwarnings("ignore")  # torch's, of prototypes
@pytest.mark.parametrize("num_processes", [1, 2])
@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_saved_is_refused_before_it_is_trained(kind, num_processes, data, tmp_path, monkeypatch):
    change, match = REFUSED[kind]
    pair = own(change)
    monkeypatch.setattr(pp.training.loop.Training, "run", None)
    with pytest.raises(ValueError, match=match) as error:
        fit(pair, data, tmp_path / "run", num_processes=num_processes)
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", sorted(set(REFUSED) - {"inference"}))
def test_save_refuses_what_it_cannot_save(kind, tmp_path):
    change, match = REFUSED[kind]
    with pytest.raises(ValueError, match=match):
        own(change).save(tmp_path / "pair")
    assert not (tmp_path / "pair").exists()


def test_a_lazy_module_that_has_run_once_is_saved_and_loaded_into_one_that_has_not(data, tmp_path):
    """The remedy of the error; torch loads a state into lazy modules too."""
    change = REFUSED["lazy"][0]
    decoder = OwnDecoder(change)
    decoder(torch.zeros(1, 2))
    pair = create(decoder=decoder)
    fit(pair, data, tmp_path)
    loaded = pp.load(tmp_path, decoder=OwnDecoder(change))
    assert torch.equal(loaded.reconstruct(data.test.x), pair.reconstruct(data.test.x))


def test_a_buffer_that_is_not_persistent_is_the_module_s_own(data, tmp_path):
    pair = own(buffer(lambda: torch.full((6,), 0.5), persistent=False))
    fit(pair, data, tmp_path)
    assert "model.decoder.shift" not in runs.saved_pair(tmp_path)
    other = pp.load(tmp_path, decoder=OwnDecoder(buffer(lambda: torch.full((6,), -0.5), persistent=False)))
    assert other.model.decoder.shift.tolist() == [-0.5] * 6


def test_the_check_leaves_the_pair_as_it_is():
    pair = own(one_memory)
    before, objects = runs.state(pair), dict(pair.named_buffers()) | dict(pair.named_parameters())
    module_state.check_module(pair, to_file=True)
    assert runs.same_bits(runs.state(pair), before)
    after = dict(pair.named_buffers()) | dict(pair.named_parameters())
    assert all(after[name] is value for name, value in objects.items())


@pytest.mark.parametrize("part", ["pair", "model", "guide", "guide.encoder", "model.decoder"])
def test_compiled_modules_have_their_own_names(part, tmp_path):
    """Whatever torch.compile was applied to: saved from it, loaded into it, and without it on either side."""
    pair, plain = create(), create()
    compiled = torch.compile(pair.get_submodule("" if part == "pair" else part), backend="eager")
    if part == "pair":
        compiled_pair = compiled
    else:
        compiled_pair, (owner, _, name) = pair, part.rpartition(".")
        setattr(pair.get_submodule(owner), name, compiled)
    state = module_state.tensors_of(compiled_pair)
    assert [*state] == [*module_state.tensors_of(plain)]
    compiled_pair.save(tmp_path / "compiled")
    assert runs.same_bits(runs.state(pp.load(tmp_path / "compiled")), state)
    plain.save(tmp_path / "plain")
    compiled_pair.load_weights(tmp_path / "plain")
    assert runs.same_bits(runs.state(compiled_pair), runs.state(plain))


def test_a_compiled_pair_is_trained_as_the_pair(data, tmp_path):
    pairs = [create() for _ in range(2)]
    pairs[1].load_state_dict(pairs[0].state_dict())
    for pair, name in ((pairs[0], "plain"), (torch.compile(pairs[1]), "compiled")):
        fit(pair, data, tmp_path / name)
    assert runs.same_bits(runs.saved_pair(tmp_path / "compiled"), runs.saved_pair(tmp_path / "plain"))
    assert runs.same_bits(runs.state(pp.load(tmp_path / "compiled")), runs.state(pairs[1]))


def test_saves_of_the_wrapper_s_names_are_loaded(tmp_path):
    """As fit(torch.compile(pair)) wrote them once."""
    pair = create()
    tensors = {f"_orig_mod.{name}": value for name, value in module_state.tensors_of(pair).items()}
    checkpoint.write(tmp_path, "pair", tensors, {"pair": pair.recipe})
    assert runs.same_bits(runs.state(pp.load(tmp_path)), runs.state(pair))


class Program(nn.Module):
    """Half of a pair whose halves share what they are given."""

    def __init__(self, name, weight, table, guide):
        super().__init__()
        self.name, self.guide, self.weight = name, guide, weight
        self.register_buffer("table", table)

    def forward(self, x=None, condition=None, size=None):
        pp.register(self.name, self)
        with pp.data_plate(x, condition, size):
            loc = x @ self.weight.T if self.guide else self.table.new_zeros(2)
            z = pyro.sample("z", dist.Normal(loc + self.table, 1.0).to_event(1))
            if not self.guide:
                return pyro.sample("x", dist.Bernoulli(logits=z @ self.weight).to_event(1), obs=x)


def tied_pair():
    torch.manual_seed(3)
    weight, table = nn.Parameter(torch.randn(2, 6)), torch.randn(2)
    return pp.Pair(Program("tied.model", weight, table, False), Program("tied.guide", weight, table, True))


@pytest.mark.parametrize("before", [torch.float32, torch.float64])
@pytest.mark.parametrize("after", [torch.float32, torch.float64])
def test_ties_across_the_programs_are_saved_and_stay(before, after, data, tmp_path):
    """Of a parameter in one file; `to` makes two buffers of one, and they are loaded from and into either."""
    pair, other = tied_pair().to(before), randomise(tied_pair()).to(after)
    other.guide.table.fill_(9.0)
    pair.save(tmp_path)
    assert {*checkpoint.read(tmp_path, "pair")[0]} == {"model.weight", "model.table", "guide.table"}
    other.load_weights(tmp_path)
    assert other.model.weight is other.guide.weight
    for name, value in pair.state_dict().items():
        assert torch.equal(other.state_dict()[name].float(), value.float()), name


def test_a_tied_pair_is_trained_in_double_and_resumed(data, tmp_path):
    whole, pair = tied_pair(), tied_pair()
    fit(whole, data, tmp_path / "whole", epochs=2, precision="64-true")
    fit(tied_pair(), data, tmp_path / "run", precision="64-true")
    fit(pair, data, tmp_path / "run", epochs=2, precision="64-true", resume=True)
    assert runs.same_bits(runs.state(pair), runs.state(whole))
    assert pair.model.weight is pair.guide.weight and pair.model.weight.dtype is torch.float64


def test_two_tensors_are_not_loaded_into_one(tmp_path):
    pair = tied_pair()
    pair.model.table = pair.model.table + 1
    pair.save(tmp_path)
    with pytest.raises(pp.CheckpointError, match=r"'model\.table' and 'guide\.table' are two tensors there"):
        tied_pair().load_weights(tmp_path)


def test_each_tensor_comes_back_in_its_own_precision(tmp_path):
    pair = create(decoder=OwnDecoder(buffer(lambda: torch.full((6,), 0.1))))
    pair.bfloat16().model.decoder.shift = torch.full((6,), 0.1, dtype=torch.float64)
    pair.save(tmp_path)
    loaded = pp.load(tmp_path, decoder=OwnDecoder(buffer(lambda: torch.zeros(6))))
    assert loaded.model.decoder.linear.weight.dtype is torch.bfloat16
    assert loaded.model.decoder.shift.dtype is torch.float64
    assert_equal(pair, loaded)


# several processes


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("wrap", "reason"),
    [
        (parametrizations.weight_norm, r"Serialization of parametrized modules is only supported through state_dict"),
    ],
)
def test_a_pair_that_cannot_be_sent_to_processes_is_refused_first(wrap, reason, data, tmp_path):
    match = rf"num_processes is 2, but the pair .* cannot be sent .*\({reason}.*\): give num_processes=1$"
    with pytest.raises(ValueError, match=match):
        fit(own(replaced(wrap)), data, tmp_path / "run", num_processes=2)
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore")
def test_what_processes_have_trained_comes_back_as_it_is(data, tmp_path):
    """Buffers in one memory, names of a compiled module, and types that numpy does not have."""

    pair = own(several)
    fit(pair, data, tmp_path, num_processes=2)
    assert runs.same_bits(runs.state(pair), runs.saved_pair(tmp_path))
    assert_equal(pair, pp.load(tmp_path, decoder=OwnDecoder(several)))
    assert pair.model.decoder.small.dtype is torch.bfloat16


def several(module):
    one_memory(module)
    module.register_buffer("small", torch.full((3,), 0.1, dtype=torch.bfloat16))
    module.linear = torch.compile(module.linear, backend="eager")


# states of objectives


class Remembering(pp.objectives.ELBO):
    def state(self):
        return {"seen": torch.ones(2, dtype=torch.complex64)}


def test_a_state_of_an_objective_that_cannot_be_saved_is_refused_first(data, tmp_path):
    with pytest.raises(ValueError, match=r"'seen' cannot be saved: it is complex"):
        fit(create(), data, tmp_path / "run", objective=Remembering())
    assert not (tmp_path / "run").exists()


def test_a_training_in_which_all_is_frozen_at_first_is_resumed(tmp_path):
    """Its optimizer remembers nothing until the first part is trained."""
    data, how = (
        runs.small_data(),
        {"frozen": ("model", "guide"), "frozen_epochs": 2, "batch_size": 32, "progress": False},
    )
    pair = runs.small_pair("vae", data)
    pp.fit(pair, data, out=tmp_path / "run", max_epochs=1, **how)
    pp.fit(pair, data, out=tmp_path / "run", max_epochs=3, resume=True, **how)
    whole = runs.small_pair("vae", data)
    pp.fit(whole, data, out=tmp_path / "whole", max_epochs=3, **how)
    assert runs.same_bits(runs.state(pair), runs.state(whole))


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl"])
def test_a_training_leaves_files_of_other_programs_alone(tmp_path, name):
    (tmp_path / name).write_text('{"lr": 0.1}')
    data = runs.small_data()
    with pytest.raises(ValueError, match=rf"{name} exists, but was not written by a training: choose another --out"):
        pp.fit(runs.small_pair("vae", data), data, out=tmp_path, max_epochs=1, progress=False)
    assert (tmp_path / name).read_text() == '{"lr": 0.1}'


@pytest.mark.parametrize("content", ['{"shoes": 2}', "[1, 2]"])
def test_a_save_leaves_a_file_of_another_program_alone(tmp_path, content):
    (tmp_path / "pair.json").write_text(content)
    with pytest.raises(
        ValueError, match=r"pair.json was not written by a save: choose another folder, or move it away$"
    ):
        runs.small_pair("vae", runs.small_data()).save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["pair.json"]
    assert (tmp_path / "pair.json").read_text() == content
