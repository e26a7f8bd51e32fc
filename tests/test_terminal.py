"""Output on terminals and logs of any encoding, and what is shown when it cannot be written."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest

import runs
from pyro_priors import _files
from pyro_priors._terminal import ascii_of, printable
from pyro_priors.cli.main import main
from pyro_priors.run_folder import RunFolder

TINY = ["--quiet", "--networks.hidden", "8", "--z-dim", "2", "--train.max-epochs", "1", "--train.device", "cpu"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = tmp_path_factory.mktemp("terminal") / "run"
    assert main(["train", "vae", "--data", "moons", "--data.limit", "60", *TINY, "--out", str(run)]) == 0
    return run


def stream(encoding, errors="strict"):
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors, write_through=True)


def written(one):
    one.flush()
    return one.buffer.getvalue()


# characters


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain text", "plain text"),
        ("1.5 ± 0.2", "1.5 +- 0.2"),
        ("café, Ångström, naïve", "cafe, Angstrom, naive"),
        ("3 × 4 − 5 ≤ 6 … “so” ‘it’ – is", "3 x 4 - 5 <= 6 ... \"so\" 'it' - is"),
        ("╭─ options ─╮", "+- options -+"),
        ("│ 50% │█▌  │", "| 50% |##  |"),
        ("½ ﬁ ② x²", "1/2 fi 2 x2"),
        ("Straße, Łódź, Ærø", "Strasse, Lodz, AEro"),
        ("中, \udce9, 😀, σ", "\\u4e2d, \\udce9, \\U0001f600, \\u03c3"),
    ],
)
def test_characters_have_equivalents_in_ascii(text, expected):
    assert ascii_of(text) == expected
    with printable(out := stream("ascii")):
        out.write(text)
    assert written(out).decode("ascii") == expected


def test_what_an_encoding_has_is_left_alone():
    for encoding, expected in (("utf-8", "± é 中".encode()), ("latin-1", "± é ".encode("latin-1") + b"\\u4e2d")):
        with printable(out := stream(encoding)):
            out.write("± é 中")
        assert written(out) == expected
    with printable(out := stream("utf-8")):
        out.write("file \udce9")  # the name of a file that is not UTF-8
    assert written(out) == b"file \\udce9"


def test_streams_are_as_before_afterwards():
    out, text = stream("ascii", "backslashreplace"), io.StringIO()
    with printable(out, text, None):
        text.write("±")
    assert out.errors == "backslashreplace" and text.getvalue() == "±"
    closed = stream("ascii")
    with printable(closed):
        closed.close()


def test_the_command_line_leaves_the_streams_as_they_were(run, capsys):
    before = sys.stdout.errors, sys.stderr.errors
    assert main(["evaluate", str(run), "--metrics", "bound"]) == 0
    assert main(["evaluate", str(run), "--metrics", "bond"]) == 2
    assert (sys.stdout.errors, sys.stderr.errors) == before
    assert "±" in capsys.readouterr().out


def ascii_terminal(monkeypatch):
    """Standard output and error that are strict about ASCII."""
    streams = [stream("ascii"), stream("ascii")]
    for name, one in zip(("stdout", "stderr"), streams, strict=True):
        monkeypatch.setattr(sys, name, one)
    return streams


def test_every_command_works_on_an_ascii_terminal(tmp_path, monkeypatch):
    """With names that are not ASCII: of folders, files, arrays and attributes."""
    draw = np.random.default_rng(0)
    place = tmp_path / "données – 中"
    place.mkdir()
    monkeypatch.chdir(place)
    names = np.array(["rouge±", "été"])
    attributes = (draw.random((60, 2)) > 0.5).astype("float32")
    np.savez("é.npz", x_train=draw.normal(size=(60, 3, 4, 4)), attributes_train=attributes, attribute_names=names)
    out, err = ascii_terminal(monkeypatch)
    options = [option for option in TINY if option != "--quiet"] + ["--data.condition-labels"]
    assert main(["train", "cvae", "--data", "é.npz", *options, "--out", "läufe"]) == 0
    assert main(["resume", "läufe", "--train.max-epochs", "2"]) == 0
    assert main(["evaluate", "läufe", "--num-samples", "3"]) == 0
    assert main(["sample", "läufe", "--num", "2", "--condition", "rouge±=1", "--out", "bild±.npz"]) == 0
    assert main(["plot", "läufe"]) == 0
    assert main(["evaluate", "nichts–da"]) == 2
    assert main(["sample", "läufe", "--condition", "grün=1", "--out", "x.npz"]) == 2
    assert main(["train", "vaé", "--data", "é.npz"]) == 2
    for arguments in (["list"], ["--help"], ["resume", "--help"]):
        assert main(arguments) == 0
    for arguments in (["train", "vae", "--help"], ["evaluate", "--help"]):
        with pytest.raises(SystemExit, match="0"):
            main(arguments)
    shown, told = written(out).decode("ascii"), written(err).decode("ascii")
    assert " +- " in shown and "e.npz" in shown and "laufe" in shown and "bild+-.npz" in shown
    assert "nichts-da is not a run folder" in told and "pair 'vae' is unknown: did you mean 'vae'?" in told
    assert "--z-dim" in shown


def test_an_ascii_log_of_a_process(run):
    """As in a container or under cron: the streams are those that Python makes."""
    command = [sys.executable, "-m", "pyro_priors.cli", "evaluate", str(run), "--metrics", "bound", "active_units"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    found = json.loads((run / "evaluation.json").read_text())["metrics"]["bound"]
    line = next(line for line in done.stdout.decode("ascii").splitlines() if line.startswith("  bound "))
    assert line.split() == ["bound", f"{found['value']:.4f}", "+-", f"{found['stderr']:.4g}", "nats", "per", "datum"]


# shown before it is written


EVALUATE = ["--metrics", "bound"]


def test_an_evaluation_is_shown_before_it_is_written(run, monkeypatch, capsys):
    shown = []
    original = RunFolder.save_evaluation

    def save(self, *args):
        shown.append(capsys.readouterr().out)
        return original(self, *args)

    monkeypatch.setattr(RunFolder, "save_evaluation", save)
    assert main(["evaluate", str(run), *EVALUATE]) == 0
    assert "nats per datum" in shown[0] and "true log-likelihood" in shown[0]


@pytest.mark.parametrize(
    ("number", "what"), [(13, "Permission denied"), (28, "No space left on device"), (30, "Read-o")]
)
@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_a_run_that_cannot_be_written_to_is_evaluated(number, what, call, run, monkeypatch, capsys):
    """With the same numbers, and one line at the end; nothing in the folder has changed."""
    for _ in range(2):  # after the first the evaluation before is of this seed too
        capsys.readouterr()
        assert main(["evaluate", str(run), *EVALUATE, "--seed", "7"]) == 0
    expected, before = capsys.readouterr().out, runs.snapshot(run)

    def fail(*args, **options):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        if call == "open":
            patch.setattr(_files, "open", fail, raising=False)
        else:
            patch.setattr(os, call, fail)
        assert main(["evaluate", str(run), *EVALUATE, "--seed", "7"]) == 0
    captured = capsys.readouterr()
    assert captured.out == expected
    (line,) = captured.err.splitlines()
    assert line.startswith(f"pyro-priors: warning: {run / 'evaluation.json'} cannot be written ({what}")
    assert runs.snapshot(run) == before


def test_an_evaluation_that_nobody_reads_is_written(run):
    """A reader such as head may have read enough."""
    (run / "evaluation.json").unlink(missing_ok=True)
    evaluate = f"{sys.executable} -m pyro_priors.cli evaluate {run} --metrics bound"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {evaluate} | true"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "bound" in json.loads((run / "evaluation.json").read_text())["metrics"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_an_evaluation_that_cannot_be_shown_is_written(run):
    (run / "evaluation.json").unlink(missing_ok=True)
    evaluate = f"{sys.executable} -m pyro_priors.cli evaluate {run} --metrics bound"
    done = subprocess.run(["bash", "-c", f"{evaluate} > /dev/full"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        "pyro-priors: error: the output cannot be written (No space left on device): send it to another place\n"
    )
    assert "bound" in json.loads((run / "evaluation.json").read_text())["metrics"]
