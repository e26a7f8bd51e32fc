"""What is written is whole or as it was before: several writers, full disks, kills, and pairs replaced meanwhile.

Full disks are made by a limit on the size of files in a child process (RLIMIT_FSIZE), which the system enforces.
"""

import errno
import io
import json
import os
import pickle
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import warnings
import weakref
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from pyro.infer import SVI
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

import pyro_priors as pp
import runs
from pairs import batch, create, randomise
from pyro_priors import _files, checkpoint, experiments, metrics, plots
from pyro_priors._files import CheckpointError, WriteError, locked, write_atomically
from pyro_priors.cli.main import main
from pyro_priors.run_folder import RunFolder
from pyro_priors.training import processes

TINY = ["--quiet", "--networks.hidden", "16", "--z-dim", "2", "--train.device", "cpu", "--train.compile", "never"]
DIGITS = ["--data", "digits", "--data.limit", "96", "--train.batch-size", "32", "--train.checkpoint-seconds", "0"]


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if not runs.is_lock(path))


def hidden(folder):
    return [name for name in names(folder) if Path(name).name.startswith(".")]


def forked(function):
    """Start a copy of this process that calls a function; 0 is its exit status if that returns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # this process may have threads
        process = os.fork()
    if not process:
        try:
            torch.set_num_threads(1)
            function()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    return process


def ended(process):
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def limit_files(size):
    """Refuse every file of this process that grows beyond a size, as a full disk does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def told_in_child(arguments, before=lambda: None):
    """Exit status, errors and output of a command line, run by a copy of this process."""
    reading, writing = os.pipe()

    def run():
        before()
        sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
        told = [main(arguments), sys.stderr.getvalue(), sys.stdout.getvalue()]
        os.write(writing, json.dumps(told).encode())

    process = forked(run)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    assert ended(process) == 0
    return json.loads(told)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of three epochs, never to be changed."""
    folder = tmp_path_factory.mktemp("writers") / "run"
    assert main(["train", "vae", *TINY, *DIGITS, "--train.max-epochs", "3", "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def copied(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


# one file


def test_temporary_files_of_processes_that_have_ended_are_removed(tmp_path):
    dead = ended_pid()
    leftovers = [f".a.json.{_files.HOST}-{dead}-0123abcd.tmp", f".b.{_files.HOST}-{os.getpid()}-0123abcd.tmp"]
    others = [f".a.json.{_files.HOST}-{os.getppid()}-0123abcd.tmp", f".a.json.00000000-{dead}-0123abcd.tmp"]
    others += [".a.json.tmp", f"a.json.{_files.HOST}-{dead}-0123abcd.tmp", f".a.{_files.HOST}-{dead}.tmp"]
    for name in leftovers + others:
        (tmp_path / name).touch()
    write_atomically(tmp_path / "c.json", b"new")
    assert names(tmp_path) == sorted([*others, "c.json"])
    long_ago = time.time() - _files.FORGOTTEN - 60
    for name in others:
        os.utime(tmp_path / name, (long_ago, long_ago))
    write_atomically(tmp_path / "c.json", b"newer")
    assert names(tmp_path) == sorted([*others[2:], "c.json"])  # of another machine, or of a process with its number
    assert (tmp_path / "c.json").read_bytes() == b"newer"


def ended_pid():
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


CAUSES = {
    errno.ENOSPC: "No space left on device): free at least 1,234,567 bytes there, or choose another place to write to",
    errno.EDQUOT: "Disk quota exceeded): free at least 1,234,567 bytes there, or choose another place to write to",
    errno.EACCES: "Permission denied): make its folder writable, or choose another place to write to",
    errno.EROFS: "Read-only file system): make its folder writable, or choose another place to write to",
    errno.EIO: "Input/output error): choose another place to write to",
}


@pytest.mark.parametrize("number", CAUSES)
@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_a_write_that_fails_says_file_cause_and_remedy(number, call, tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def fail(*args, **options):
        raise OSError(number, os.strerror(number))

    if call == "open":
        monkeypatch.setattr(_files, "open", fail, raising=False)
    else:
        monkeypatch.setattr(os, call, fail)
    with pytest.raises(WriteError) as caught:
        write_atomically(path, bytes(1_234_567))
    assert str(caught.value) == f"{path} cannot be written ({CAUSES[number]}"
    assert caught.value.errno == number and isinstance(caught.value, OSError | CheckpointError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert names(tmp_path) == ["file"] and path.read_bytes() == b"before"


def test_a_write_that_is_interrupted_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", b"content")
    assert names(tmp_path) == []


def test_a_temporary_file_that_another_machine_removes_is_written_again(tmp_path, monkeypatch):
    original, calls = os.replace, []

    def replace(source, target):
        calls.append(source)
        if len(calls) < 3:
            os.unlink(source)
        original(source, target)

    monkeypatch.setattr(os, "replace", replace)
    write_atomically(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content" and len(calls) == 3 and names(tmp_path) == ["file"]


def test_a_line_is_added_whole_or_not_at_all(tmp_path):
    path = tmp_path / "lines"
    _files.append(path, "one\n")

    def full():
        limit_files(20)
        with pytest.raises(WriteError, match=r"lines cannot be written \(File too large\): free at least 101 bytes"):
            _files.append(path, 100 * "x" + "\n")

    assert ended(forked(full)) == 0
    assert path.read_text() == "one\n"
    _files.append(path, "two\n")
    assert path.read_text() == "one\ntwo\n"


def test_a_figure_is_replaced_whole(tmp_path):
    path, figure = tmp_path / "figure.png", Figure(figsize=(2, 1))
    _files.save_figure(figure, path, dpi=50)
    before = path.read_bytes()

    def full():
        limit_files(100)
        with pytest.raises(WriteError, match=r"figure.png cannot be written \(File too large\): free at least "):
            _files.save_figure(figure, path, dpi=100)

    assert ended(forked(full)) == 0
    assert path.read_bytes() == before and names(tmp_path) == ["figure.png"]
    _files.save_figure(figure, path, dpi=100)
    with Image.open(path) as image:
        assert image.size == (200, 100)


def test_every_file_of_the_package_is_written_in_one_place():
    """Caches of data have writers of their own."""
    writes = re.compile(r"""\.savefig\(|np\.savez|write_text\(|write_bytes\(|\bopen\([^)]*["'][wax]b?["']""")
    package = Path(pp.__file__).parent
    found = {
        str(file.relative_to(package)): [line.strip() for line in file.read_text().splitlines() if writes.search(line)]
        for file in package.rglob("*.py")
        if file.parts[-2] != "data"
    }
    assert {name: lines for name, lines in found.items() if lines} == {
        "_files.py": [
            'with open(temporary, "xb") as file:',
            'with open(path, "ab", buffering=0) as file:',
            'figure.savefig(buffer, format=path.suffix.removeprefix("."), **options)',
        ],
        "cli/writing.py": ["np.savez(buffer, **content)"],
    }


# locks


def test_a_lock_keeps_others_out(tmp_path):
    with locked(tmp_path, wait=False):
        with locked(tmp_path, wait=False):  # this thread has it
            pass
        with locked(tmp_path, wait=False, name="other"):
            assert sorted(os.listdir(tmp_path)) == [".lock", ".other.lock"]
        caught = []

        def try_it():
            try:
                with locked(tmp_path, wait=False):
                    pass
            except BlockingIOError as error:
                caught.append(str(error))

        thread = threading.Thread(target=try_it)
        thread.start()
        thread.join()
        assert caught == [f"another process is using {tmp_path}"]
        child = forked(lambda: pytest.raises(BlockingIOError, locked(tmp_path / ".", wait=False).__enter__))
        assert ended(child) == 0
    assert not any(path.stat().st_size for path in tmp_path.iterdir())


def test_a_killed_process_frees_its_lock(tmp_path):
    def hold():
        with locked(tmp_path / "folder", wait=False):
            time.sleep(600)

    process = forked(hold)
    while not (tmp_path / "folder" / ".lock").exists():
        time.sleep(0.01)
    time.sleep(0.05)
    with pytest.raises(BlockingIOError), locked(tmp_path / "folder", wait=False):
        pass
    os.kill(process, signal.SIGKILL)
    assert ended(process) == -signal.SIGKILL
    with locked(tmp_path / "folder", wait=False):
        pass
    assert names(tmp_path) == ["folder"]


def test_many_who_wait_get_the_lock_one_after_the_other(tmp_path):
    """A counter that is read and written loses nothing."""
    counter = tmp_path / "counter"
    counter.write_text("0")

    def count():
        for _ in range(20):
            with locked(tmp_path, wait=True, name="counter", patience=60):
                number = int(counter.read_text())
                time.sleep(0.0005)
                counter.write_text(str(number + 1))

    threads = [threading.Thread(target=count) for _ in range(2)]
    processes = [forked(count) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert [ended(process) for process in processes] == [0, 0]
    for thread in threads:
        thread.join()
    assert counter.read_text() == "80" and names(tmp_path) == ["counter"]


def test_a_folder_that_cannot_be_written_to_needs_no_lock(tmp_path, monkeypatch):
    """No warning: where something is to be written, the write says what is wrong."""
    original = os.open

    def read_only(path, flags, *args, **options):
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return original(path, flags, *args, **options)

    pair = randomise(create("vae"))
    pair.save(tmp_path)
    monkeypatch.setattr(os, "open", read_only)
    with locked(tmp_path, wait=False):
        pass
    assert runs.same_bits(runs.state(pp.load(tmp_path)), runs.state(pair))


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_is_warned_of_once(number, tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def none(*args):
        raise OSError(number, os.strerror(number))

    _files._warn_of_no_locks.cache_clear()
    monkeypatch.setattr(fcntl, "flock", none)
    pair = randomise(create("vae"))
    with pytest.warns(RuntimeWarning) as warned:
        pair.save(tmp_path / "one")
        pair.save(tmp_path / "other")
    assert [str(one.message) for one in warned] == [
        "the file system does not support locks: let only one process at a time write to a folder on it"
    ]
    assert runs.same_bits(runs.state(pp.load(tmp_path / "other")), runs.state(pair))
    monkeypatch.undo()
    pair.save(tmp_path / "one")


def test_a_lock_that_is_a_link_is_refused_and_leaves_what_it_points_to(tmp_path):
    (tmp_path / "precious").write_text("kept")
    (tmp_path / ".pair.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(ValueError, match=r"\.pair\.lock is not a regular file and cannot serve as a lock: remove it$"):
        create("vae").save(tmp_path)
    assert (tmp_path / "precious").read_text() == "kept"
    (tmp_path / ".pair.lock").unlink()
    create("vae").save(tmp_path)
    assert pp.load(tmp_path)


# pairs in one folder


def two_pairs():
    pairs = [randomise(create("vae")) for _ in range(2)]
    return pairs, [runs.state(pair) for pair in pairs]


def save_and_read(folder, num_tries, num_saves, make):
    """Two writers at a time, started by ``make``, and a reader; returns the counts of saves and of reads."""
    pairs, states = two_pairs()
    num_read = 0
    for _ in range(num_tries):
        shutil.rmtree(folder, ignore_errors=True)
        writers = [make(lambda pair=pair: [pair.save(folder) for _ in range(num_saves)]) for pair in pairs]
        while not (folder / "pair.json").exists():
            time.sleep(0.0001)
        while any(is_running() for is_running, _ in writers):
            found = runs.state(pp.load(folder))
            assert any(runs.same_bits(found, state) for state in states)
            num_read += 1
        assert [result() for _, result in writers] == [0, 0]
        found = runs.state(pp.load(folder))
        assert any(runs.same_bits(found, state) for state in states)
        assert len(names(folder)) == 2  # one pair, and nothing else
    return 2 * num_tries * num_saves, num_read


def in_process(function):
    process, status = forked(function), []

    def is_running():
        if not status:
            found, code = os.waitpid(process, os.WNOHANG)
            status.extend([os.waitstatus_to_exitcode(code)] if found else [])
        return not status

    return is_running, lambda: status[0]


def in_thread(function):
    done = []
    thread = threading.Thread(target=lambda: (function(), done.append(0)))
    thread.start()
    return thread.is_alive, lambda: done[0]


@pytest.mark.parametrize("make", [in_process, in_thread])
def test_two_who_save_into_one_folder_leave_whole_pairs(make, tmp_path):
    num_saved, num_read = save_and_read(tmp_path / "shared", 3, 10, make)
    assert num_saved == 60 and num_read


@pytest.mark.slow
@pytest.mark.parametrize("make", [in_process, in_thread])
def test_many_saves_into_one_folder(make, tmp_path, capsys):
    num_saved, num_read = save_and_read(tmp_path / "shared", 60, 10, make)
    with capsys.disabled():
        print(f"\n{num_saved} saves by two writers at a time, {num_read} reads meanwhile: all whole")


def test_a_reader_reads_again_what_is_replaced_meanwhile(tmp_path, monkeypatch):
    """Between its readings of the record and of the tensors, twice."""
    pairs, states = two_pairs()
    pairs[0].save(tmp_path)
    original, calls = checkpoint.read_file, []

    def read_file(path, *given):
        if path.suffix == ".safetensors":
            calls.append(path.name)
            if len(calls) < 3:
                with monkeypatch.context() as patch:
                    patch.setattr(checkpoint, "read_file", original)
                    pairs[len(calls) % 2].save(tmp_path)
        return original(path, *given)

    monkeypatch.setattr(checkpoint, "read_file", read_file)
    assert runs.same_bits(runs.state(pp.load(tmp_path)), states[0])
    assert len(calls) == 3
    monkeypatch.undo()
    next(tmp_path.glob("*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match="is missing: there is no complete save"):
        pp.load(tmp_path)


def test_a_pair_that_changes_while_it_is_saved_is_saved_of_one_moment(tmp_path):
    """A save waits until a step that runs in another thread has ended."""
    pair = create("vae")
    inside, done = threading.Event(), threading.Event()

    def change():
        with pp._lock.LOCK, torch.no_grad():
            parameters = list(pair.parameters())
            for number, parameter in enumerate(parameters):
                parameter.fill_(7.0)
                if number == len(parameters) // 2:
                    inside.set()
                    done.wait(0.3)

    thread = threading.Thread(target=change)
    thread.start()
    inside.wait()
    pair.save(tmp_path)
    thread.join()
    assert all((parameter == 7).all() for parameter in pp.load(tmp_path).parameters())


def test_a_full_disk_leaves_the_pair_before_and_says_how_many_bytes_it_takes(tmp_path):
    (pair, other), (state, _) = two_pairs()
    pair.save(tmp_path)
    before = runs.snapshot(tmp_path)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())

    def full():
        limit_files(200)
        match = rf"pair-[0-9a-f]{{16}}\.safetensors cannot be written \(File too large\): free at least {size:,} bytes"
        with pytest.raises(WriteError, match=match):
            other.save(tmp_path)

    assert ended(forked(full)) == 0
    assert runs.snapshot(tmp_path) == before
    assert runs.same_bits(runs.state(pp.load(tmp_path)), state)


def kill_saves(folder, num_kills, draw):
    """Kill processes that save without end; returns how many kills left a temporary file."""
    pairs, states = two_pairs()
    pairs[0].save(folder)
    num_left = 0
    for number in range(num_kills):

        def save():
            while True:
                for pair in pairs:
                    pair.save(folder)

        process = forked(save)
        time.sleep(draw.uniform(0.02, 0.15))
        os.kill(process, signal.SIGKILL)
        assert ended(process) == -signal.SIGKILL
        num_left += len(names(folder)) > 2
        found = runs.state(pp.load(folder))
        assert any(runs.same_bits(found, state) for state in states), number
        pairs[number % 2].save(folder)
        assert len(names(folder)) == 2, names(folder)
        assert runs.same_bits(runs.state(pp.load(folder)), states[number % 2])
    return num_left


def test_saves_that_are_killed_leave_a_whole_pair(tmp_path):
    kill_saves(tmp_path, 8, random.Random(0))


@pytest.mark.slow
def test_many_saves_that_are_killed(tmp_path, capsys):
    num_left = kill_saves(tmp_path, 120, random.Random(1))
    with capsys.disabled():
        print(f"\n120 kills of saves, {num_left} of them left files: all pairs whole, nothing left after the next save")


# evaluations


def test_an_evaluation_is_of_the_weights_that_were_loaded(copied, monkeypatch, capsys):
    """The pair is replaced while it is evaluated: the numbers are kept as those of the pair before."""
    assert main(["evaluate", str(copied), "--metrics", "bound"]) == 0
    folder = RunFolder(copied)
    old, known = folder.weights(), folder.evaluation()
    assert known["weights"] == old == pp.load(copied).saved_digest
    original = metrics.evaluate_each

    def replaced(*args, **options):
        found = original(*args, **options)
        randomise(pp.load(copied)).save(copied)
        return found

    monkeypatch.setattr(metrics, "evaluate_each", replaced)
    capsys.readouterr()
    assert main(["evaluate", str(copied), "--metrics", "active_units"]) == 0
    monkeypatch.undo()
    name = f"evaluation-test-seed0-{old[:16]}.json"
    lines = capsys.readouterr().out.splitlines()
    assert "saved over" not in lines[0]
    told = f"  {copied} has another pair now: these numbers are of the one before, and are in {name}"
    assert told in lines and lines.count(told) == 1
    kept = runs.unsealed(copied / name)
    assert kept["weights"] == old and kept["epochs"] == 3 and kept["asked"] == ["active_units"]
    assert runs.unsealed(copied / "evaluation.json") == known  # of the pair before, as it was
    assert folder.weights() != old and folder.evaluation() is None
    assert main(["evaluate", str(copied), "--metrics", "active_units"]) == 0
    found = folder.evaluation()
    assert found["weights"] == folder.weights() and "bound" not in found["metrics"]
    # a second number of the pair before comes to the first
    record = kept | {"asked": ["bound"], "metrics": {"bound": known["metrics"]["bound"]}}
    assert folder.save_evaluation(record, metrics.beside).file == copied / name
    assert json.loads((copied / name).read_text())["asked"] == ["active_units", "bound"]
    assert folder.evaluation() == found


def test_evaluations_that_end_at_the_same_time_all_land(copied):
    """Of one part, and of two: each thread reads, waits and writes."""
    folder = RunFolder(copied)
    source = folder.source(folder.weights())

    def save(part, name):
        def merge(before, new):
            time.sleep(0.05)
            return metrics.beside(before, new)

        estimate = {"value": 1.0, "stderr": None, "unit": "nats per datum"}
        new = {"part": part, "seed": 0, "data": "digits", "asked": [name], "metrics": {name: estimate}}
        given = {"num_samples": 3, "num_data": 0, "categories": "sum", "features": "auto"}
        RunFolder(copied).save_evaluation(new | given | source, merge)

    wanted = [(part, f"number {i}") for i in range(3) for part in ("test", "valid")]
    threads = [threading.Thread(target=save, args=one) for one in wanted[:4]]
    processes = [forked(lambda one=one: save(*one)) for one in wanted[4:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [ended(process) for process in processes] == [0, 0]
    for part in ("test", "valid"):
        assert folder.evaluation(part)["asked"] == [f"number {i}" for i in range(3)], part
    assert not hidden(copied)


def test_training_resets_the_digest_of_a_pair_and_a_save_sets_it(tmp_path):
    data = runs.small_data()
    pair = runs.small_pair("vae", data)
    assert pair.saved_digest is None
    pair.save(tmp_path / "one")
    first = pair.saved_digest
    assert first == json.loads((tmp_path / "one" / "pair.json").read_text())["sha256"]
    options = {"max_epochs": 1, "progress": False, "device": "cpu", "compile": "never"}
    pp.fit(pair, data, **options)
    assert pair.saved_digest is None
    pp.fit(pair, data, out=tmp_path / "run", **options)
    assert pair.saved_digest == RunFolder(tmp_path / "run").weights() != first
    pair.load_weights(tmp_path / "one")
    assert pair.saved_digest == first


# full disks, by the command line


FILLING = """
import resource, sys, torch
from pyro_priors.cli.main import main
from pyro_priors.run_folder import RunFolder

method, call, size, *arguments = sys.argv[1:]
original, calls = getattr(RunFolder, method), []

def limited(self, *args):
    calls.append(args)
    if len(calls) == int(call):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), resource.RLIM_INFINITY))
    return original(self, *args)

setattr(RunFolder, method, limited)
torch.set_num_threads(1)
sys.exit(main(arguments))
"""


def trained_on_a_disk_that_fills(method, call, size, arguments):
    """Exit status, errors and output of a command line, run by another process: torch cannot train in every fork.

    :param method: of RunFolder, from the beginning of which no file can grow beyond a size
    :param call: number of that call, from 1
    """
    command = [sys.executable, "-c", FILLING, method, str(call), str(size), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True)
    return ended.returncode, ended.stderr, ended.stdout


def last_step(folder):
    return json.loads((folder / "last" / "state.json").read_text())["progress"]["step"]


def test_a_full_disk_during_training_leaves_the_last_state(run, tmp_path):
    """From the third state on there is no room: one line, with the bytes that it takes; resumed, it ends the same."""
    out = tmp_path / "run"
    arguments = ["train", "vae", *TINY, *DIGITS, "--train.max-epochs", "3", "--out", str(out)]

    status, errors, output = trained_on_a_disk_that_fills("save_state", 3, 1000, arguments)
    assert status == 2 and re.fullmatch(
        r"trained 1 epochs, stopped by a file .*; best validation bound .*, of epoch 0\n", output
    )
    found = re.fullmatch(
        rf"pyro-priors: error: {out}/last/state-[0-9a-f]{{16}}\.safetensors cannot be written \(File too large\): free "
        r"at least ([0-9,]+) bytes there, or choose another place to write to; then resume the run, whose last state "
        r"is from step 2\n",
        errors,
    )
    assert found, errors
    last = out / "last" / "state.json"
    size = last.stat().st_size + (out / "last" / json.loads(last.read_text())["tensors"]).stat().st_size
    assert int(found[1].replace(",", "")) == pytest.approx(size, abs=200)  # but for some digits of the record
    assert last_step(out) == 2 and not hidden(out) and not (out / "pair").exists()
    assert main([*arguments, "--resume"]) == 0
    assert runs.same_bits(runs.saved_pair(out), runs.saved_pair(run)) and runs.records(out) == runs.records(run)


def test_a_full_disk_at_the_end_of_a_training_shows_its_result(run, tmp_path):
    out = tmp_path / "run"
    arguments = ["train", "vae", *TINY, *DIGITS, "--train.max-epochs", "3", "--out", str(out)]

    status, errors, output = trained_on_a_disk_that_fills("save_pair", 1, 1000, arguments)
    assert status == 2 and errors.count("\n") == 1 and "pair/pair-" in errors
    assert errors.endswith("; then resume the run, whose last state is from step 9\n")
    best = max(runs.records(run), key=lambda line: line["valid_bound"])
    bound = f"best validation bound {best['valid_bound']:.3f} nats per datum, of epoch {best['epoch']}\n"
    assert output == f"trained 3 epochs, stopped by a file that cannot be written; {bound}"
    assert main([*arguments, "--resume"]) == 0
    assert runs.same_bits(runs.saved_pair(out), runs.saved_pair(run)) and not hidden(out)


def test_a_full_disk_for_the_curves_ends_a_training(run, tmp_path):
    out = tmp_path / "run"
    arguments = ["train", "vae", *TINY, *DIGITS, "--train.max-epochs", "3", "--out", str(out)]

    status, errors, output = trained_on_a_disk_that_fills("append", 2, 100, arguments)
    assert status == 2 and errors.count("\n") == 1 and f"{out}/metrics.jsonl cannot be written" in errors
    assert re.fullmatch(r"trained 2 epochs, .*; best validation bound -[0-9.]+ nats per datum, of epoch 1\n", output)
    assert len(runs.records(out)) == 1
    assert main([*arguments, "--resume"]) == 0
    assert runs.same_bits(runs.saved_pair(out), runs.saved_pair(run)) and runs.records(out) == runs.records(run)


def test_a_training_that_diverges_on_a_full_disk_says_both(tmp_path, monkeypatch):
    data = runs.small_data()
    pair = runs.small_pair("vae", data, decoder=runs.Failing(2, 64, after=4))

    def full(self, tensors, recipe):
        raise WriteError(self.path / "pair" / "pair.json", errno.ENOSPC, "No space left on device", 1000)

    monkeypatch.setattr(RunFolder, "save_pair", full)
    options = {"max_epochs": 3, "progress": False, "device": "cpu", "compile": "never", "batch_size": 32}
    match = r"nan.* from epoch 0, which are not saved \(.*pair.json cannot be written \(No space left on device\)"
    with pytest.raises(pp.TrainingDiverged, match=match):
        pp.fit(pair, data, out=tmp_path / "run", **options)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("sample", "samples.npz"),
        ("sample", "samples.png"),
        ("encode", "codes.npz"),
        ("reconstruct", "reconstructions.npz"),
        ("reconstruct", "reconstructions.png"),
    ],
)
def test_outputs_that_cannot_be_written_leave_those_before(command, name, run, tmp_path):
    out = tmp_path / name
    arguments = [command, str(run), "--num", "8", "--out", str(out)]
    assert main(arguments) == 0
    before = out.read_bytes()
    status, errors, output = told_in_child(arguments, lambda: limit_files(100))
    assert (status, output) == (2, "") and errors.count("\n") == 1
    assert errors.startswith(f"pyro-priors: error: {out} cannot be written (File too large): free at least ")
    assert out.read_bytes() == before and names(tmp_path) == [name]
    if name == "samples.npz":
        with np.load(out) as arrays:
            assert arrays["x_mean"].shape == (8, 64)


def test_values_per_example_that_cannot_be_written_leave_the_table(copied, tmp_path):
    arguments = ["evaluate", str(copied), "--metrics", "bound"]
    status, errors, output = told_in_child(arguments, lambda: limit_files(1800))
    assert status == 0 and "  bound " in output
    assert errors.startswith("pyro-priors: warning: ") and errors.endswith("; the numbers are not kept\n")
    assert "examples/test-seed0-" in errors and (copied / "evaluation.json").exists()
    assert names(copied / "examples") == []


def test_a_folder_is_no_file_for_samples(run, tmp_path, capsys):
    (tmp_path / "x.png").mkdir()
    assert main(["sample", str(run), "--out", str(tmp_path / "x.png")]) == 2
    error = (
        f"--out is {tmp_path / 'x.png'}, which is a folder: give the name of a file, such as {tmp_path}/x.png/samples."
    )
    assert capsys.readouterr().err.startswith(f"pyro-priors: error: {error}")


def test_figures_are_named_as_they_are_written(copied, monkeypatch):
    """Up to the one that fails."""

    def fill():
        original, calls = plots.run.save_figure, []

        def save_figure(figure, path, **options):
            calls.append(path)
            if len(calls) == 2:
                limit_files(100)
            original(figure, path, **options)

        plots.run.save_figure = save_figure

    status, errors, output = told_in_child(["plot", str(copied)], fill)
    assert status == 2 and errors.count("\n") == 1 and "samples.png cannot be written (File too large)" in errors
    assert output == f"{copied / 'figures' / 'reconstructions.png'}\n"
    assert names(copied / "figures") == ["reconstructions.png"]


def test_an_evaluation_on_a_full_disk_ends_in_the_table_and_one_line(copied):
    status, errors, output = told_in_child(["evaluate", str(copied), "--metrics", "bound"], lambda: limit_files(10))
    assert status == 0 and "nats per datum" in output and errors.count("\n") == 1
    assert errors.startswith(
        f"pyro-priors: warning: {copied}/evaluation.json cannot be written (File too large): free "
    )
    assert errors.endswith(" bytes there, or choose another place to write to; the numbers are not kept\n")
    assert not (copied / "evaluation.json").exists() and not hidden(copied)


def test_rows_that_cannot_be_trained_for_want_of_space_leave_the_table_of_the_others(tmp_path, monkeypatch):
    config = pp.TrainConfig(max_epochs=1, batch_size=32, device="cpu")
    shared = {"pair_options": runs.NETWORKS, "data_options": {"limit": 96}, "train": config, "quick": config}
    rows = [experiments.Row(name, "vae", "digits", num_samples=3, num_data=20, **shared) for name in ("one", "two")]
    column = experiments.Column("bound", experiments.number("bound", 1), {})
    experiment = experiments.Experiment("test2027/table1", "a test", rows, ("bound",), [column])
    monkeypatch.setitem(experiments.experiment._REGISTRY, experiment.name, experiment)
    original = RunFolder.save_state

    def save_state(self, state):
        if self.path.name == "one":
            raise WriteError(self.path / "last" / "state.json", errno.ENOSPC, "No space left on device", 1000)
        original(self, state)

    monkeypatch.setattr(RunFolder, "save_state", save_state)
    with pytest.warns(RuntimeWarning) as warned:
        report = experiments.reproduce(experiment.name, out=tmp_path, device="cpu", progress=False)
    (told,) = [str(one.message) for one in warned]
    assert told.startswith(f"one is not finished: {tmp_path}/test2027/one/last/state.json cannot be written (No space ")
    assert "free at least 1,000 bytes there" in told and told.endswith("nothing of the training is saved yet")
    assert [result.status for result in report.results] == ["not finished: its run cannot be written", ""]
    assert report.results[1].estimates["bound"].value < 0 and len(report.files) >= 2
    monkeypatch.undo()
    monkeypatch.setitem(experiments.experiment._REGISTRY, experiment.name, experiment)
    report = experiments.reproduce(experiment.name, out=tmp_path, device="cpu", progress=False)
    assert [result.status for result in report.results] == ["", ""]


def test_the_start_of_a_run_removes_what_killed_ones_have_left(copied):
    killed = f"{_files.HOST}-{ended_pid()}-0123abcd.tmp"
    left = [
        ".config.json", ".metrics.jsonl", ".evaluation.json", "last/.state.json", "figures/.latent.png",
        "pair/.pair-0123456789abcdef.safetensors",
    ]  # fmt: skip
    (copied / "figures").mkdir()
    for name in left:
        (copied / f"{name}.{killed}").touch()
    orphan = copied / "pair" / "pair-0123456789abcdef.safetensors"  # written, but its record was not
    orphan.touch()
    orphan.with_name(f".{orphan.name}.tmp").touch()
    (copied / ".lock").touch()
    assert main(["resume", str(copied), "--quiet"]) == 0
    assert not hidden(copied) and not orphan.exists()


# several processes


def test_a_killed_worker_is_named_in_one_line(tmp_path):
    result, run = tmp_path / "result", RunFolder("runs/x")
    killed = ProcessExitedException("process 1 terminated with signal SIGKILL", 1, 4, -9, "SIGKILL")
    with pytest.raises(ChildProcessError) as caught:
        processes._raise_of_killed(killed, result, run)
    assert str(caught.value) == (
        "process 1 of the training was killed (SIGKILL), perhaps because memory ran out: resume the run in runs/x from "
        "its last state"
    )
    lost = ProcessRaisedException("Connection closed by peer", 0, 3)  # by the one that lost the killed one
    for name in ("began-0", "began-1", "ended-0"):
        (tmp_path / name).touch()
    with pytest.raises(ChildProcessError, match="^process 1 of the training was killed, perhaps .*: train again$"):
        processes._raise_of_killed(lost, result, None)
    (tmp_path / "ended-1").touch()
    processes._raise_of_killed(lost, result, None)  # none was killed: the error itself is raised


WORKERS = ["--train.num-processes", "2", "--train.max-epochs", "6"]


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_a_worker_that_is_killed_ends_the_run_which_can_be_resumed(which, tmp_path, capsys):
    arguments = ["train", "vae", *TINY, *DIGITS, *WORKERS]
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert main([*arguments, "--out", str(whole)]) == 0
    command = [sys.executable, "-m", "pyro_priors.cli", *arguments, "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (out / "last" / "state.previous.json").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    workers = [
        int(folder.name)
        for folder in Path("/proc").glob("[0-9]*")
        if b"spawn_main" in read(folder / "cmdline") and f"PPid:\t{process.pid}\n".encode() in read(folder / "status")
    ]
    assert len(workers) == 2, workers
    os.kill(sorted(workers)[which], signal.SIGKILL)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and output == ""
    told = [line for line in errors.splitlines() if line.strip("-") and "distributed" not in line]  # by Fabric
    killed = f"pyro-priors: error: process {which} of the training was killed (SIGKILL), perhaps because memory ran out"
    assert [line.replace("killed,", "killed (SIGKILL),") for line in told] == [
        f"{killed}: resume the run in {out} from its last state"
    ]
    assert 0 < last_step(out) < 18 and not (out / "pair").exists()
    assert main([*arguments, "--out", str(out), "--resume"]) == 0
    assert runs.same_bits(runs.saved_pair(out), runs.saved_pair(whole)) and runs.records(out) == runs.records(whole)
    assert not hidden(out)
    with capsys.disabled():
        print(f"\nworker {which} killed: one line, and the resumed run has the bits of an uninterrupted run")


def read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.slow
def test_a_full_disk_of_two_processes_ends_in_one_line(tmp_path):
    """The process that writes says it; the other one would say that it lost the connection."""
    options = {"max_epochs": 3, "batch_size": 32, "checkpoint_seconds": 0, "num_processes": 2}
    options |= {"progress": False, "device": "cpu", "compile": "never"}
    data, pairs = runs.small_data(), {}
    for name, folder in (("whole", RunFolder), ("run", runs.FullDisk)):
        pairs[name] = runs.small_pair("vae", data)
        if name == "run":
            match = r"last/state-[0-9a-f]{16}\.safetensors cannot be written \(File too large\): free at least .* 2$"
            with pytest.raises(WriteError, match=match) as caught:
                pp.fit(pairs[name], data, out=folder(tmp_path / name), **options)
            assert [line["epoch"] for line in caught.value.history.epochs] == [0]
        else:
            pp.fit(pairs[name], data, out=folder(tmp_path / name), **options)
    assert last_step(tmp_path / "run") == 2 and not hidden(tmp_path / "run")
    pair = runs.small_pair("vae", data)
    pp.fit(pair, data, out=tmp_path / "run", resume=True, **options)
    assert runs.same_bits(runs.state(pair), runs.state(pairs["whole"]))
    assert pair.saved_digest == RunFolder(tmp_path / "run").weights()


KILLS = """
    import os, random, signal, sys, time, warnings
    from pathlib import Path
    import lightning_fabric, sklearn.datasets, torch
    from pyro_priors.cli.main import main

    torch.set_num_threads(1)
    arguments, run, seed, most = sys.argv[4:], Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    draw, killed, left = random.Random(seed), 0, 0
    for _ in range(most):
        state = run / "last" / "state.json"
        newest = state.stat().st_mtime_ns if state.exists() else -1
        process = os.fork()
        if not process:
            os._exit(main(arguments))
        while not (state.exists() and state.stat().st_mtime_ns > newest) and not os.waitpid(process, os.WNOHANG)[0]:
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.1))
        try:
            os.kill(process, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        except (ProcessLookupError, ChildProcessError):
            break
        if status == 0:
            break
        assert status == -9, status
        killed += 1
        left += any(path.suffix == ".tmp" for path in run.rglob(".*"))
    print(killed, left)
    process = os.fork()
    if not process:
        os._exit(main(arguments))
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
"""


@pytest.mark.slow
def test_trainings_that_are_killed_end_the_same_and_leave_nothing(tmp_path, capsys):
    small = ["4" if option == "32" else option for option in DIGITS]  # of the batch
    arguments = ["train", "vae", *TINY, *small, "--train.max-epochs", "40"]
    whole, num_killed, num_left = tmp_path / "whole", 0, 0
    assert main([*arguments, "--train.checkpoint-seconds", "1000", "--out", str(whole)]) == 0
    for seed in range(2):
        out = tmp_path / str(seed)
        command = [sys.executable, "-c", textwrap.dedent(KILLS), str(out), str(seed), "20"]
        done = subprocess.run(
            [*command, *arguments, "--out", str(out), "--resume"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        killed, left = map(int, done.stdout.split()[:2])
        assert runs.same_bits(runs.saved_pair(out), runs.saved_pair(whole)) and runs.records(out) == runs.records(whole)
        assert not hidden(out)
        num_killed, num_left = num_killed + killed, num_left + left
    assert num_killed >= 20
    with capsys.disabled():
        print(f"\n{num_killed} kills of trainings, {num_left} left temporary files: all ended bit for bit, none stays")


# Pyro's parameter store


def test_the_store_lets_pairs_go_that_nobody_holds():
    gone = []
    for _ in range(3):
        pair = create("vae")
        SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-2}), pair.elbo).step(*batch("vae"))
        assert {id(one) for one in pyro.get_param_store()._params.values()} == {id(one) for one in pair.parameters()}
        gone += [weakref.ref(parameter) for parameter in pair.parameters()]
        del pair
        assert not pyro.get_param_store()
    assert not any(reference() is not None for reference in gone)


def test_what_others_hold_stays_in_the_store():
    pyro.param("mine", torch.ones(2))
    pair, other = create("vae"), create("vae")
    for one in (pair, other):
        SVI(one.model, one.guide, pyro.optim.Adam({"lr": 1e-2}), one.elbo).step(*batch("vae"))
    values = {id(one) for one in other.parameters()}
    del pair, one
    store = pyro.get_param_store()
    assert {id(value) for name, value in store._params.items() if name != "mine"} == values and "mine" in store
    assert store._param_to_name.keys() == set(store._params.values()) and store._constraints.keys() == store.keys()
    guide = other.guide
    names_of_guide = {name for name in store if name.startswith("vae.guide")}
    del other  # its guide is held
    assert set(store) == names_of_guide | {"mine"} and guide is not None


def test_a_pair_that_is_dropped_while_the_store_is_exchanged_leaves_it_afterwards():
    pair = create("vae")
    pair.model(*batch("vae"))
    assert pyro.get_param_store()
    with pp._lock.own_store():
        del pair
        assert not pyro.get_param_store()
    assert not pyro.get_param_store()
