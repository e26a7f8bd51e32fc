"""Caches: keyed by content, checked when read, made again when damaged, and never a reason to fail."""

import atexit
import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

import pyro_priors as pp
from pyro_priors import _cache, checkpoint
from pyro_priors.cli import cache as cache_command
from pyro_priors.cli.main import main
from pyro_priors.data import faces, load
from pyro_priors.data.images import grey_images
from pyro_priors.data.splits import Part
from pyro_priors.experiments import pictures
from pyro_priors.metrics import features, judges

NUM = 12
SHAPE = (NUM, 3, 64, 64)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of the test's own, with a compiler's cache that is not shared."""
    monkeypatch.setenv("PYRO_PRIORS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "torchinductor_test"))
    return tmp_path / "cache"


@pytest.fixture
def celeba(tmp_path):
    return make_celeba(tmp_path)


def make_celeba(root):
    """Faces of random pixels without compression, so that files of one size have other contents."""
    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    random = np.random.default_rng(0)
    names = [f"{i + 1:06}.png" for i in range(NUM)]
    for name in names:
        write_face(folder / "img_align_celeba" / name, random.integers(256, size=(109, 89, 3), dtype=np.uint8))
    heads, row = " ".join(f"A{i}" for i in range(40)), " ".join(["1", "-1"] * 20)
    lines = [str(NUM), heads, *(f"{name} {row}" for name in names)]
    (folder / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    parts = [0] * (NUM - 4) + [1, 1, 2, 2]
    text = "".join(f"{name} {part}\n" for name, part in zip(names, parts, strict=True))
    (folder / "list_eval_partition.txt").write_text(text)
    return root


def write_face(file, pixels):
    from PIL import Image

    Image.fromarray(pixels).save(file, compress_level=0)


def images_of(root, **options):
    """All images of the three parts, as bytes."""
    data = load("celeba", root=str(root), flatten=False, **options)
    return torch.cat([part.x.levels for part in data.parts.values()])


@contextmanager
def counted_decoding(monkeypatch):
    calls = []
    decode = faces._face
    with monkeypatch.context() as patch:
        patch.setattr(faces, "_face", lambda file, side: calls.append(file) or decode(file, side))
        yield calls


@contextmanager
def full_disk(num_bytes):
    """No file may grow beyond some bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def another_process_in(folder):
    """The lock of a folder is held elsewhere; a thread stands for a process."""
    begun, may_end = threading.Event(), threading.Event()

    def hold():
        with checkpoint.locked(folder, wait=False):
            begun.set()
            may_end.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert begun.wait(60)
    try:
        yield
    finally:
        may_end.set()
        thread.join()


def warned(message, function, *arguments, **options):
    """What a function returns, after exactly one warning of one line."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        result = function(*arguments, **options)
    said = [str(one.message) for one in found if one.category is RuntimeWarning]
    assert len(said) == 1 and message in said[0] and "\n" not in said[0], said
    return result


# decoded images


def test_decoded_images_are_keyed_by_content(celeba, cache, tmp_path, monkeypatch):
    before = images_of(celeba)
    assert before.shape == SHAPE
    with counted_decoding(monkeypatch) as calls:
        assert torch.equal(images_of(celeba), before) and not calls
        shutil.copytree(celeba / "celeba", tmp_path / "elsewhere" / "celeba")  # other times, the same contents
        assert torch.equal(images_of(tmp_path / "elsewhere"), before) and not calls
        (entry,) = (cache / "decoded").iterdir()

        file = celeba / "celeba" / "img_align_celeba" / "000003.png"
        state = file.stat()
        write_face(file, np.full((109, 89, 3), 7, np.uint8))
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
        assert file.stat().st_size == state.st_size, "neither size nor time of the change tells"
        after = images_of(celeba)
        assert len(calls) == NUM and (after[2] == 7).all()
        assert torch.equal(torch.cat([after[:2], after[3:]]), torch.cat([before[:2], before[3:]]))
        assert torch.equal(images_of(tmp_path / "elsewhere"), before) and len(calls) == NUM
        images_of(celeba, side=32)
        assert len(calls) == 2 * NUM and len(list((cache / "decoded").iterdir())) == 3
    assert entry.is_dir()


def damages(content):
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    return {"flipped": flipped, "cut": content[:-1], "half": content[:middle], "empty": b"", "longer": content + b"0"}


@pytest.mark.parametrize("name", ["images.npy", "images.json"])
def test_damaged_images_are_decoded_again(celeba, cache, monkeypatch, name):
    before = images_of(celeba)
    (entry,) = (cache / "decoded").iterdir()
    content = (entry / name).read_bytes()
    with counted_decoding(monkeypatch) as calls:
        for number, damaged in enumerate(damages(content).values(), 1):
            (entry / name).write_bytes(damaged)
            found = warned("the decoded data set celeba is made again, because the cache is dam", images_of, celeba)
            assert torch.equal(found, before) and len(calls) == number * NUM
            assert torch.equal(images_of(celeba), before) and len(calls) == number * NUM
            assert {path.name for path in entry.iterdir()} >= {"images.npy", "images.json"}
        (entry / name).unlink()
        if name == "images.npy":
            warned("is made again, because the cache is damaged: ", images_of, celeba)
        else:  # as a process that was killed between the two leaves it
            assert torch.equal(images_of(celeba), before)
        assert len(calls) == 6 * NUM


@pytest.mark.parametrize("preallocates", [True, False])
def test_a_full_disk_below_decoded_images(celeba, cache, monkeypatch, preallocates, capsys):
    """They are decoded into memory, nothing is left, and nothing is decoded in vain where room can be reserved."""
    wanted = images_of(celeba)
    shutil.rmtree(cache)
    if not preallocates:
        monkeypatch.delattr(os, "posix_fallocate")
    capsys.readouterr()
    with counted_decoding(monkeypatch) as calls, full_disk(wanted.numel() // 2):
        found = warned("the decoded data set celeba is not cached, ", images_of, celeba)
    assert torch.equal(found, wanted)
    assert len(calls) == NUM if preallocates else NUM < len(calls) < 2 * NUM
    assert "celeba: decoding 12 images once, into memory (0 MB)\n" in capsys.readouterr().err
    assert not list(cache.rglob("images*")) and not list(cache.rglob("*.tmp"))
    assert torch.equal(images_of(celeba), wanted)


def test_file_systems_that_cannot_reserve_room(celeba, cache, monkeypatch):
    def fallocate(*arguments):
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", fallocate)
    images_of(celeba)
    assert len(list(cache.rglob("images.npy"))) == 1


def test_images_that_fit_neither_disk_nor_memory_are_refused(celeba, cache, monkeypatch):
    monkeypatch.setenv("PYRO_PRIORS_MAX_GB", "0.0001")
    images_of(celeba)  # mapped, and therefore not limited by the memory
    shutil.rmtree(cache)
    with full_disk(100_000), pytest.warns(RuntimeWarning, match="is not cached"), pytest.raises(ValueError) as caught:
        images_of(celeba)
    assert str(caught.value).startswith(
        "celeba at 3x64x64 would take 0.000147 GB of memory, more than the limit of 0.00"
    )


def test_a_cache_that_cannot_be_written(celeba, cache, tmp_path, monkeypatch):
    wanted = images_of(celeba)
    (tmp_path / "file").touch()
    monkeypatch.setenv("PYRO_PRIORS_CACHE", str(tmp_path / "file"))
    found = warned("cannot be written (not a directory): set PYRO_PRIORS_CACHE to another folder", images_of, celeba)
    assert torch.equal(found, wanted)
    found[0] = 1  # writable as the mapped one


def test_what_killed_writers_have_left_is_removed_at_the_next_start(celeba, cache):
    images_of(celeba)
    (entry,) = (cache / "decoded").iterdir()
    killed, complete, busy = (cache / "decoded" / f"celeba_{name}" for name in ("killed", "complete", "busy"))
    shutil.copytree(entry, complete)
    left = [killed / ".images.npy.4194305.tmp", killed / "images.npy", complete / ".images.npy.4194305.tmp"]
    written = busy / ".images.npy.4194305.tmp"
    for file in (*left, written):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(bytes(1000))
    with another_process_in(busy):
        images_of(celeba)
        assert not any(file.exists() for file in left)
        assert written.exists(), "another process is writing it"
    assert {path.name for path in complete.iterdir()} >= {"images.npy", "images.json"}
    images_of(celeba)
    assert not written.exists()


def test_of_two_that_need_images_one_decodes(celeba, cache, monkeypatch):
    found, decode, calls = [], faces._face, []

    def slowly(file, side):
        calls.append(file)
        time.sleep(0.02)
        return decode(file, side)

    monkeypatch.setattr(faces, "_face", slowly)
    threads = [threading.Thread(target=lambda: found.append(images_of(celeba))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 3 and all(torch.equal(one, found[0]) for one in found) and len(calls) == NUM


def test_an_interrupted_decoding_leaves_nothing(celeba, cache, monkeypatch):
    def interrupted(file, side):
        raise KeyboardInterrupt

    monkeypatch.setattr(faces, "_face", interrupted)
    with pytest.raises(KeyboardInterrupt):
        images_of(celeba)
    assert not [path for path in cache.rglob("*") if "images" in path.name]


# networks that evaluate


def linear(folder, seed=0, trained_by=None):
    """A network of the cache, and the number of trainings."""
    torch.manual_seed(seed)
    network, trainings = torch.nn.Linear(3, 2), []

    def train():
        trainings.append(1)
        with torch.no_grad():
            network.weight.fill_(7.0)
            network.bias.fill_(8.0)
        return {"accuracy": 1.0}

    judges.kept(network, folder, "linear", trained_by or {"data": "own"}, train)
    assert (network.weight == 7).all() and (network.bias == 8).all()
    return len(trainings)


def test_damaged_networks_are_trained_again(cache):
    folder = cache / "classifiers" / "own"
    assert (linear(folder), linear(folder)) == (1, 0)
    for file in sorted(folder.glob("linear*")):
        content = file.read_bytes()
        for damaged in damages(content).values():
            file.write_bytes(damaged)
            assert warned("the linear is made again, because the cache is damaged: ", linear, folder) == 1
            assert file.read_bytes() == content and linear(folder) == 0
    next(folder.glob("*.safetensors")).unlink()
    assert warned("the linear is made again, because the cache is damaged: ", linear, folder) == 1


def test_networks_of_other_sizes_are_trained_again(cache):
    """Such as those of another version of the package."""
    folder = cache / "classifiers" / "own"
    checkpoint.write(folder, "linear", {"weight": torch.zeros(5, 5)}, {"data": "own"})
    assert warned("the linear is made again, because the cache is damaged: ", linear, folder) == 1
    assert linear(folder) == 0


def test_networks_that_cannot_be_written_are_used_all_the_same(cache, tmp_path, monkeypatch):
    folder = cache / "classifiers" / "own"
    with full_disk(50):
        assert warned("the linear is not cached, ", linear, folder) == 1
    assert not [path for path in folder.iterdir() if path.name.startswith("linear")]
    assert (linear(folder), linear(folder)) == (1, 0)
    (tmp_path / "file").touch()
    monkeypatch.setenv("PYRO_PRIORS_CACHE", str(tmp_path / "file"))
    assert warned("the linear is not cached, ", linear, tmp_path / "file" / "classifiers" / "own") == 1
    with pytest.raises(ValueError, match="choose another place to write to"):  # a folder that the user named
        monkeypatch.undo()
        linear(tmp_path / "file" / "own")


def test_classifiers_are_keyed_by_all_values(cache, monkeypatch):
    """Not only by the first ones; and not by where the file is, or by what the values are called."""
    found = []
    monkeypatch.setattr(features, "trained_classifier", lambda data, folder, **options: found.append(folder))

    def folder(part="train", row=None, label_row=None, **options):
        x, label = torch.zeros(3000, 1, 4, 4), torch.arange(3000) % 2
        parts = {name: Part(x.clone(), label=label.clone()) for name in ("train", "valid", "test")}
        if row is not None:
            parts[part].x[row] = 1
        if label_row is not None:
            parts[part].label[label_row] = 1
        data = grey_images(options.pop("name", "own"), *parts.values(), num_labels=2, source="", **options)
        features.kept_classifier(data)
        return found[-1]

    usual = folder()
    assert folder() == usual and usual.parent == cache / "classifiers" and usual.name.startswith("own-")
    others = [folder(row=2999), folder("valid", row=2999), folder("test", row=2999), folder(label_row=2998)]
    assert len({usual, *others}) == 5
    strange = folder(name="../../a b/c")
    assert strange.parent == cache / "classifiers" and strange.name.split("-")[0] == "_.._a_b_c"


# pictures of rows


def test_damaged_pictures_are_not_used(tmp_path):
    given = {"samples": torch.rand(3, 1, 4, 4), "data": torch.rand(3, 1, 4, 4)}
    file = tmp_path / "fig.png"
    pictures.save(given, file, "row", "w")
    good = pictures.load(file, "row", "w")
    assert pictures.load(file, "row", "other") is None and pictures.load(tmp_path / "none.png", "row", "w") is None
    content = file.read_bytes()
    for number in range(0, len(content) - 12, 7):  # the last 12 are the end mark
        file.write_bytes(content[:number] + bytes([content[number] ^ 4]) + content[number + 1 :])
        assert warned("fig.png is not used, it is damaged", pictures.load, file, "row", "w") is None, number
    for number in range(0, len(content) - 12, 11):
        file.write_bytes(content[:number])
        assert warned("fig.png is not used, it is damaged", pictures.load, file, "row", "w") is None, number
    file.write_bytes(content)
    assert good.keys() == given.keys() and all(
        torch.equal(pictures.load(file, "row", "w")[name], good[name]) for name in good
    )
    known = {"row": "row", "weights": "w", "labels": ["a", "b"], "num": 3, "size": [1, 4, 4]}
    wrongs = [
        json.dumps({"rows": rows})
        for rows in (
            [],
            [known | {"labels": []}],
            [known | {"num": 4}],
            [known | {"size": [1, 4]}],
            [known | {"size": [3, 4, 4]}],
            [known, known],
            [{"row": "row"}],
        )
    ]
    for wrong in (*wrongs, "[1]", '{"weights": "w"}', "[" * 100_000, "null"):
        from PIL import Image, PngImagePlugin

        text = PngImagePlugin.PngInfo()
        text.add_text("pictures", wrong)
        Image.new("L", (12, 8)).save(file, pnginfo=text)
        assert warned("fig.png is not used, it is damaged", pictures.load, file, "row", "w") is None


# compiled code


@pytest.mark.slow
def test_the_compilers_folder_is_found_as_torch_finds_it(monkeypatch, tmp_path):
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    assert _cache.compiled_folder() == Path(default_cache_dir())
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    assert _cache.compiled_folder() == tmp_path


def test_an_unwritable_compilers_cache_is_replaced_by_a_temporary_one(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setattr(atexit, "register", lambda function, path, **options: made.append(Path(path)))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "file" / "inductor"))
    made = []
    with full_disk(1000):
        _cache.ensure_compiled_folder()  # a temporary one is of no use either
    assert not list(tmp_path.glob("torchinductor_*")) and not made
    warned("compiled code is not cached, ", _cache.ensure_compiled_folder)
    assert [_cache.compiled_folder()] == made and not list(made[0].iterdir())
    _cache.ensure_compiled_folder()  # says no more


def test_a_full_disk_below_the_compiler_runs_eagerly(monkeypatch, tmp_path):
    from compiling import compiled_loss, eager
    from pairs import batch, create, randomise

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    monkeypatch.setattr("pyro_priors.tracing.inductor._machine_code", lambda *arguments: torch.compiler.no_such_thing)
    pair, args = randomise(create("vae")), batch("vae")
    said = r"running eagerly, not compiled: the compiler's cache .*inductor cannot be written \(file too large\)"
    with full_disk(1000), pytest.warns(pp.EagerWarning, match=said):
        found = compiled_loss(pp.compiled(pair), args)
    assert torch.equal(found[0], eager(pair, pair.elbo, args)[0])


def test_only_files_of_the_compilers_cache_are_removed(monkeypatch, tmp_path):
    """Whatever library an error names."""
    from pyro_priors.tracing import inductor

    (tmp_path / "inductor").mkdir()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    library = tmp_path / "libsystem.so"
    library.touch()

    def machine_code(graph, inputs):
        raise ImportError(f"{library}: file too short")

    monkeypatch.setattr(inductor, "_machine_code", machine_code)
    with pytest.raises(ImportError):
        inductor.compile_graph(None, [])
    assert library.exists()


# where it is, and the command


def test_where_the_caches_are(monkeypatch, tmp_path):
    for name in ("PYRO_PRIORS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _cache.cache_folder() == tmp_path / ".cache" / "pyro_priors"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert _cache.cache_folder() == tmp_path / "xdg" / "pyro_priors"
    monkeypatch.setenv("PYRO_PRIORS_CACHE", "~/own")
    assert _cache.cache_folder() == tmp_path / "own"

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("PYRO_PRIORS_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert _cache.cache_folder() == Path(tempfile.gettempdir()) / "pyro_priors"


def command(capsys, *arguments):
    """Exit status, lines of the output and of the errors."""
    status = main(["cache", *arguments])
    out, err = capsys.readouterr()
    return status, out.splitlines(), err.splitlines()


@pytest.fixture
def filled(cache, tmp_path):
    """Three entries, the compiler's cache, data next to them, and something else."""
    sizes = {
        "decoded/celeba_64_ab": 2_500_000,
        "decoded/.7.old.npy": 999,
        "classifiers/digits-12": 1500,
        "MNIST/raw": 5,
    }
    for name, size in sizes.items():
        (cache / name).mkdir(parents=True)
        (cache / name / "content").write_bytes(bytes(size))
        os.utime(cache / name / "content", (1e9, 1e9))
    (cache / "classifiers" / "empty").mkdir()
    compiled = tmp_path / "torchinductor_test"
    (compiled / "ab").mkdir(parents=True)
    (compiled / "ab" / "x.so").write_bytes(bytes(20))
    return cache


def test_the_command_shows_the_entries(filled, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    status, lines, errors = command(capsys)
    assert status == 0 and not errors
    assert lines[0] == f"caches in {filled}" and lines[-1] == "remove: pyro-priors cache --clear [NAME ...]"
    shown = [" ".join(line.split()) for line in lines[1:-1]]
    assert shown[:3] == [
        "decoded/.7.old.npy 999 B last used 2001-09-09 01:46 decoded images",
        "decoded/celeba_64_ab 2.5 MB last used 2001-09-09 01:46 decoded images",
        "classifiers/digits-12 1.5 kB last used 2001-09-09 01:46 classifier for image metrics",
    ]
    (of_compiler,) = shown[3:]
    assert of_compiler.startswith("compiled 20 B last used ") and f", in {tmp_path}/torchinductor_test" in of_compiler
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("names", "removed"),
    [
        ([], ["decoded/.7.old.npy", "decoded/celeba_64_ab", "classifiers/digits-12"]),
        (["decoded"], ["decoded/.7.old.npy", "decoded/celeba_64_ab"]),
        (["classifiers/digits-12"], ["classifiers/digits-12"]),
        (["decoded/celeba_64_ab", "compiled"], ["decoded/celeba_64_ab", "compiled"]),
    ],
    ids=str,
)
def test_the_command_clears_entries(filled, capsys, names, removed):
    before = {entry.name for entry in _cache.entries()}
    status, lines, errors = command(capsys, "--clear", *names)
    assert status == 0 and not errors and [line.split()[1] for line in lines] == removed
    assert {entry.name for entry in _cache.entries()} == before - set(removed)
    assert (filled / "MNIST" / "raw" / "content").exists(), "data are no cache"


@pytest.mark.filterwarnings("always::RuntimeWarning")
def test_the_command_leaves_what_is_being_written(filled, capsys):
    with another_process_in(filled / "decoded" / "celeba_64_ab"):
        status, lines, errors = command(capsys, "--clear", "decoded/celeba_64_ab")
    assert status == 0 and lines == ["nothing to remove"]
    assert errors == [
        "pyro-priors: warning: decoded/celeba_64_ab is not removed, because another process is writing to it"
    ]
    assert (filled / "decoded" / "celeba_64_ab" / "content").exists()


def test_the_command_follows_no_link(filled, capsys, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_bytes(bytes(5))
    (filled / "decoded" / "link").symlink_to(tmp_path / "precious")
    (filled / "decoded" / "celeba_64_ab" / "link").symlink_to(tmp_path / "precious")
    assert command(capsys, "--clear", "decoded")[0] == 0
    assert (tmp_path / "precious" / "file").exists() and not list((filled / "decoded").iterdir())


def test_wrong_commands_get_one_line(filled, capsys, monkeypatch, tmp_path):
    for arguments, said in (
        (["all"], "cache takes no argument 'all': give --clear to remove entries"),
        (["--clean"], "cache takes no argument '--clean'"),
        (["--clear", "decode"], "there is no cache entry 'decode': "),
        (["--clear", "classifiers/digits-13"], "did you mean 'classifiers/digits-12'?"),
        (["--clear", "decoded/../MNIST"], "there is no cache entry 'decoded/../MNIST'"),
        (["--clear", "--force"], "--clear takes names of entries, got '--force'"),
        (["--clear", ""], "--clear takes names of entries, got ''"),
    ):
        status, lines, errors = command(capsys, *arguments)
        assert status == 2 and not lines and len(errors) == 1 and said in errors[0], errors
    precious = tmp_path / "home"
    (precious / "documents").mkdir(parents=True)
    (precious / "documents" / "x").write_bytes(bytes(9))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(precious))
    status, lines, errors = command(capsys, "--clear", "compiled")
    assert status == 2 and "TORCHINDUCTOR_CACHE_DIR may name any folder: remove it yourself" in errors[0]
    assert (precious / "documents" / "x").exists()
    assert len(_cache.entries()) == 4


def test_the_command_of_empty_caches(cache, capsys):
    assert command(capsys) == (0, [f"the caches in {cache} are empty"], [])
    assert command(capsys, "--clear") == (0, ["nothing to remove"], [])
    assert "the caches are empty" in command(capsys, "--clear", "decoded")[2][0]
    status, lines, _ = command(capsys, "--help")
    assert status == 0 and lines[0] == "usage: pyro-priors cache [--clear [NAME ...]]"
    assert [cache_command.size_of(n) for n in (0, 999, 1000, 2_490_000_000, 10**13)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "2.5 GB",
        "10000.0 GB",
    ]


def test_what_was_used_last_is_shown(celeba, cache):
    images_of(celeba)
    (entry,) = _cache.entries()
    for file in entry.path.iterdir():
        os.utime(file, (1e9, 1e9))
    assert _cache.entries()[0].last_use == 1e9
    images_of(celeba)
    assert time.time() - _cache.entries()[0].last_use < 600


# many faults


@pytest.mark.slow
def test_flipped_and_cut_bytes_of_every_cache(celeba, cache, tmp_path):
    """The right values each time: from the cache, or made again after one line."""
    wanted = images_of(celeba)
    folder = cache / "classifiers" / "own"
    linear(folder)
    given = {"samples": torch.rand(3, 1, 8, 8)}
    picture = tmp_path / "fig.png"
    pictures.save(given, picture, "row", "w")
    good = pictures.load(picture, "row", "w")["samples"]

    def same_pictures():
        found = pictures.load(picture, "row", "w")
        return found is None or torch.equal(found["samples"], good)

    uses = {
        next((cache / "decoded").iterdir()): lambda: torch.equal(images_of(celeba), wanted),
        folder: lambda: linear(folder) in (0, 1),
        picture: same_pictures,
    }
    random = np.random.default_rng(0)
    counts = {"flipped": 0, "cut": 0, "made again": 0, "harmless": 0}
    for place, use in uses.items():
        for file in [path for path in ([place] if place.is_file() else place.iterdir()) if path.suffix != ".lock"]:
            content = file.read_bytes()
            if not content:
                continue
            for number in range(120):
                at = int(random.integers(len(content)))
                flip = number % 2 == 0
                changed = (
                    content[:at] + (bytes([content[at] ^ 2 ** int(random.integers(8))]) + content[at + 1 :]) * flip
                )
                file.write_bytes(changed)
                with warnings.catch_warnings(record=True) as said:
                    warnings.simplefilter("always")
                    assert use(), (file, at, flip)
                assert len(said) <= 1 and all("damaged" in str(one.message) for one in said), said
                counts["flipped" if flip else "cut"] += 1
                counts["made again" if said else "harmless"] += 1
                file.write_bytes(content)
    print(f"\n{counts}: the right values every time")
    assert counts["made again"] > 0.95 * (counts["flipped"] + counts["cut"])


@pytest.mark.slow
def test_flipped_and_cut_bytes_of_data_files(tmp_path, celeba, cache):
    """One line, or the values as far as no checksum covers them; never an error of another kind."""
    from scipy.io import savemat

    x = np.random.default_rng(0).random((60, 8)).astype(np.float32)
    np.savez(tmp_path / "own.npz", x_train=x, label_train=np.arange(60) % 3)
    np.savez_compressed(tmp_path / "packed.npz", x_train=x, label_train=np.arange(60) % 3)
    (tmp_path / "svhn").mkdir()
    images = np.random.default_rng(0).integers(256, size=(32, 32, 3, 12), dtype=np.uint8)
    for part in ("train", "test"):
        savemat(tmp_path / "svhn" / f"{part}_32x32.mat", {"X": images, "y": np.arange(12) % 10}, do_compression=True)
    attributes = celeba / "celeba" / "list_attr_celeba.txt"
    uses = {
        tmp_path / "own.npz": lambda: load(tmp_path / "own.npz"),
        tmp_path / "packed.npz": lambda: load(tmp_path / "packed.npz"),
        tmp_path / "svhn" / "train_32x32.mat": lambda: load("svhn", root=str(tmp_path)),
        attributes: lambda: images_of(celeba),
        celeba / "celeba" / "img_align_celeba" / "000002.png": lambda: images_of(celeba),
    }
    random = np.random.default_rng(0)
    counts = {"one line": 0, "accepted": 0}
    for file, use in uses.items():
        content = file.read_bytes()
        for number in range(100):
            at = int(random.integers(min(len(content), 2000) if number % 3 else len(content)))
            flip = number % 2 == 0
            file.write_bytes(
                content[:at] + (bytes([content[at] ^ 2 ** int(random.integers(8))]) + content[at + 1 :]) * flip
            )
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    use()
                counts["accepted"] += 1
            except (ValueError, FileNotFoundError) as error:
                assert "\n" not in str(error) and len(str(error)) < 600, error
                counts["one line"] += 1
        file.write_bytes(content)
    print(f"\n{counts} of {sum(counts.values())} damaged files of data")
    assert counts["one line"] > 0.5 * sum(counts.values())


SLOW_DECODING = """
import sys, time
from pyro_priors.data import faces, load
decode = faces._face
def slowly(file, side):
    time.sleep(0.05)
    return decode(file, side)
faces._face = slowly
print("begins", flush=True)
load("celeba", root=sys.argv[1])
"""


@pytest.mark.slow
def test_writers_that_are_killed_leave_nothing_for_long(celeba, cache, tmp_path):
    wanted, kills = images_of(celeba), 0
    shutil.rmtree(cache)
    for wait in (0.0, 0.1, 0.3):
        process = subprocess.Popen(
            [sys.executable, "-c", SLOW_DECODING, str(celeba)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "begins\n"
        while not list(cache.rglob("*.tmp")) and process.poll() is None:
            time.sleep(0.005)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        kills += len(list(cache.rglob("*.tmp")))
    assert kills == 3
    assert torch.equal(images_of(celeba), wanted) and not list(cache.rglob("*.tmp"))
    print(f"\n{kills} writers killed: the next start removed what they left, and decoded the same images")


FULL_DISK = """
import os, resource, sys, warnings
import torch
from pyro_priors.data import load
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
warnings.simplefilter("always")
data = load("celeba", root=sys.argv[1])
print(int(torch.cat([part.x.levels for part in data.parts.values()]).long().sum()))
"""


@pytest.mark.slow
def test_a_process_on_a_full_disk_ends_well(celeba, cache):
    """Not by the signal that writing to a map of a file without blocks ends in."""
    wanted = int(images_of(celeba).long().sum())
    for size in (0, 100_000, 147_500):
        shutil.rmtree(cache)
        command = [sys.executable, "-c", FULL_DISK, str(celeba), str(size)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == 0 and int(ended.stdout) == wanted, ended.stderr
        assert "the decoded data set celeba is not cached" in ended.stderr and not list(cache.rglob("images*"))
        cache.mkdir(exist_ok=True)
