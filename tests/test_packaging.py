"""What a user installs: sdist -> wheel -> a fresh environment, and the guards of models/ and guides/."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOT_SOURCE = {"build", "data", "dist", "results", "runs"}  # besides hidden folders, at the top of the tree

SMOKE = """
import importlib.util
from importlib.metadata import distribution
from pathlib import Path

import pyro_priors, pyro_priors.models, pyro_priors.guides

for module in (pyro_priors, pyro_priors.models, pyro_priors.guides):
    print(Path(module.__file__).resolve())
for name in ("models", "guides"):
    assert importlib.util.find_spec(name) is None, f"a top-level {name} is importable"
tops = {path.parts[0] for path in distribution("pyro-priors").files}
assert not tops & {"models", "guides", "tests", "tutorials", "benchmarks"}, tops
"""


def run(*command, cwd, code=0):
    """Run a command with none of Python's own variables; what it printed, or an assertion that shows it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    words = [str(word) for word in command]
    result = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True)
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout + result.stderr


def ignored(folder, names):
    """What is left out of the copy of the tree, in the form that shutil.copytree asks for."""
    if Path(folder) != ROOT:
        return {"__pycache__"}
    return {name for name in names if name in NOT_SOURCE or name.startswith(".") or name.endswith(".egg-info")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel from the sdist of a copy of the tree, so that building leaves nothing in the tree itself."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "tree", ignore=ignored)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, folder / "tree", cwd=folder)
    (sdist,) = folder.glob("pyro_priors-*.tar.gz")
    (wheel,) = folder.glob("pyro_priors-*.whl")
    assert sdist.name.removesuffix(".tar.gz") == wheel.name.removesuffix("-py3-none-any.whl")
    return wheel


def test_the_wheel_holds_every_module_and_nothing_else(wheel):
    expected = {"pyro_priors/py.typed"}
    for source, installed in [
        ("pyro_priors", "pyro_priors"),
        ("models", "pyro_priors/models"),
        ("guides", "pyro_priors/guides"),
    ]:
        for path in (ROOT / source).rglob("*.py"):
            expected.add(f"{installed}/{path.relative_to(ROOT / source).as_posix()}")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == expected, "add the folder to `packages` in setup.cfg"


def test_the_wheel_works_in_a_fresh_environment(wheel, tmp_path):
    fresh = tmp_path / "fresh"
    run(sys.executable, "-m", "venv", "--without-pip", fresh, cwd=tmp_path)
    scripts = fresh / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    # The dependencies are borrowed from this environment. A path file adds the folder alone: the path files
    # inside it, the editable install's among them, are not read, so that the wheel is what gets imported.
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(run(python, "-P", "-c", where, cwd=tmp_path).strip()).resolve()
    borrowed = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    (site / "borrowed.pth").write_text("\n".join(borrowed) + "\n")

    files = run(python, "-P", "-W", "error", "-c", SMOKE, cwd=tmp_path).split()
    assert files == [
        str(site / "pyro_priors" / part) for part in ("__init__.py", "models/__init__.py", "guides/__init__.py")
    ]
    assert "train" in run(scripts / "pyro-priors", "--help", cwd=tmp_path)


@pytest.mark.parametrize("half", ["models", "guides"])
def test_the_two_folders_cannot_be_imported_as_top_level_packages(half):
    message = run(sys.executable, "-c", f"import {half}", cwd=ROOT, code=1).splitlines()[-1]
    assert message.startswith(f"ImportError: this folder is the package pyro_priors.{half}, but was imported as {half}")
    assert f"`import pyro_priors.{half}`" in message
