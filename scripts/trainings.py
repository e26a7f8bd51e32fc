"""Run the queue of long trainings in the background, each on one core, at low priority.

    python scripts/trainings.py start     # run what is left of scripts/trainings.txt; safe to call at any time
    python scripts/trainings.py status    # what is done, what runs, what is left
    python scripts/trainings.py pause     # stop the running training without ending it, for a timing
    python scripts/trainings.py go        # let it continue
    python scripts/trainings.py collect   # bring the finished runs into results/, in the compact form

The queue, ``scripts/trainings.txt``, has one command of ``pyro-priors`` a line, and is read again after each. Runs and
logs are in one folder outside the checkout (``PYRO_PRIORS_TRAININGS``, by default ``~/.local/state/pyro_priors``). The
package is installed there from one commit: a change of the checkout does not touch a training. A training that was
killed resumes exactly. A command that failed is reported and skipped. Weights stay in that folder.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
QUEUE = ROOT / "scripts" / "trainings.txt"
HOME = Path(os.environ.get("PYRO_PRIORS_TRAININGS", Path.home() / ".local" / "state" / "pyro_priors"))
SITE, RUNS, LOGS = HOME / "site", HOME / "results", HOME / "logs"


def queued() -> list[str]:
    """The commands of the queue, in order."""
    lines = (line.split("#")[0].strip() for line in QUEUE.read_text().splitlines())
    return [line for line in lines if line]


def listed(name: str) -> list[str]:
    """The commands that ended so: ``done`` or ``failed``."""
    path = HOME / f"{name}.txt"
    return path.read_text().splitlines() if path.exists() else []


def running() -> int | None:
    """The process of :func:`start`, if it is alive."""
    try:
        pid = int((HOME / "pid").read_text())
        os.kill(pid, 0)
    except (OSError, ValueError):
        return None
    return pid


def prepare(commit: str) -> None:
    """Install the commit, and copy the numbers that the checkout has, where they are missing."""
    LOGS.mkdir(parents=True, exist_ok=True)
    if not SITE.exists():
        with tempfile.TemporaryDirectory() as folder:
            code = Path(folder) / "code"
            subprocess.run(["git", "clone", "--quiet", "--shared", str(ROOT), str(code)], check=True)
            subprocess.run(["git", "checkout", "--quiet", commit], cwd=code, check=True)
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(SITE), str(code)]
            subprocess.run(pip, check=True)
    if not RUNS.exists():
        shutil.copytree(ROOT / "results", RUNS)


def start(commit: str, jobs: int) -> None:
    """Run what is left of the queue, and what failed before; the call returns at once."""
    if pid := running():
        sys.exit(f"the queue runs already, as process {pid}")
    prepare(commit)
    (HOME / "failed.txt").unlink(missing_ok=True)  # to be tried again
    if os.fork():
        return
    os.setsid()
    os.nice(19)
    with suppress(OSError):  # Linux may schedule sessions, and processes within each
        Path("/proc/self/autogroup").write_text("19")
    (HOME / "pid").write_text(str(os.getpid()))
    at_work: dict[str, subprocess.Popen[bytes]] = {}
    while True:
        for line, process in list(at_work.items()):
            if (status := process.poll()) is not None:
                with (HOME / ("failed.txt" if status else "done.txt")).open("a") as file:
                    file.write(line + "\n")
                del at_work[line]
        left = [line for line in queued() if line not in [*listed("done"), *listed("failed"), *at_work]]
        for line in left[: jobs - len(at_work)]:
            at_work[line] = run(line)
        if not at_work:
            break
        time.sleep(1)
    (HOME / "pid").unlink()
    os._exit(0)


def run(line: str) -> subprocess.Popen[bytes]:
    """Begin, or resume, one command, on one core."""
    environment = os.environ | {"PYTHONPATH": str(SITE), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pyro_priors.cli", *line.split(), "--out", str(RUNS)]
    with (LOGS / f"{re.sub('[^A-Za-z0-9]+', '-', line)}.log").open("a") as log:
        return subprocess.Popen(command, cwd=HOME, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)


def status() -> None:
    """Print each command with what became of it."""
    done, failed, pid = listed("done"), listed("failed"), running()
    for line in queued():
        state = "done" if line in done else "FAILED" if line in failed else ""
        print(f"{state:8}{line}")
    print(f"the queue {'runs' if pid else 'does not run'}; logs: {LOGS}")


def send(number: signal.Signals) -> None:
    """Send a signal to the queue and to what it runs."""
    pid = running()
    if pid is None:
        sys.exit("the queue does not run")
    os.killpg(pid, number)


def collect() -> None:
    """Bring every run that was trained and evaluated there into ``results``; ``reproduce`` makes the tables."""
    from convert_v1 import convert_results  # which imports the package

    brought = convert_results(RUNS, ROOT / "results", trained_there=True)
    print(f"{brought} runs brought into results: make their tables by pyro-priors reproduce --no-train --out results")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["start", "status", "pause", "go", "collect"])
    parser.add_argument("--commit", default="HEAD", help="what is installed, where nothing is")
    parser.add_argument("--jobs", type=int, default=2, help="commands at a time")
    given = parser.parse_args()
    if given.what == "start":
        start(given.commit, given.jobs)
    elif given.what == "status":
        status()
    elif given.what == "collect":
        collect()
    else:
        send(signal.SIGSTOP if given.what == "pause" else signal.SIGCONT)
