"""A run that is killed again and again, against the same run undisturbed: `python -m tests.campaigns soak`.

    python -m tests.campaigns soak --steps 1000 --kills 25 --seed 0     # about 4 minutes on 2 cores
    python -m tests.campaigns soak --of state --steps 300 --kills 8     # a model state, and averages; or --of updates
    python -m tests.campaigns soak --of sweep --steps 100 --kills 6     # a sweep of four runs, two at a time

Each life of the run is a process of its own, which goes on by `--resume`, and is killed by SIGKILL at a random moment:
while JAX starts, while a checkpoint is read, between two steps, while one is written. A sweep goes on by its own
command; it is killed with its runs, or one of them before the others. At the end the parameters, the optimizer's state
and every byte of the metrics file must be those of the undisturbed run; exit status 1 if not.
"""

import argparse
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from fnbackprop.training.checkpoints.checkpoint import list_checkpoints
from fnbackprop.training.checkpoints.resuming import load_checkpoint
from fnbackprop.training.run_folder import RunFolder, find_runs

from ..training.checkpoints.test_checkpoint import assert_same_bits
from ..training.survivor import Config, experiment

ROOT = pathlib.Path(__file__).parents[2]
EVERY = 7  # steps between two checkpoints
POINTS = {"hidden": (3, 4), "learning_rate": (0.01, 0.02)}  # of a sweep


@dataclass(frozen=True)
class Subject:
    """What is killed: a run of one kind, or a sweep of plain runs."""

    kind: str
    steps: int

    @property
    def is_sweep(self) -> bool:
        return self.kind == "sweep"

    @property
    def records(self) -> int:
        """How many records the metrics files of all its runs will have, about."""
        return self.steps * (4 if self.is_sweep else 1)

    def begin(self, directory: pathlib.Path) -> subprocess.Popen:
        """Begin, or go on; the process is the first of a group of its own."""
        if self.is_sweep:
            swept = [f"--{name.replace('_', '-')}={','.join(map(str, values))}" for name, values in POINTS.items()]
            words = ["fnbackprop", "sweep", "tests/training/survivor.py", *swept, "--parallel", "2"]
        else:
            words = ["tests.training.survivor", "train", "--resume", "--kind", self.kind]
        options = ["--steps", str(self.steps), "--checkpoint-every", str(EVERY), "--keep", "2"]
        command = [sys.executable, "-m", *words, *options, "--directory", str(directory)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PAUSE": "0.02"}
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)

    def config(self, run: RunFolder) -> Config:
        """That of one of its runs."""
        found = run.read_description()["config"]
        return Config(**found)


def finish(subject: Subject, directory: pathlib.Path) -> None:
    assert subject.begin(directory).wait() == 0, f"{directory} did not finish"


def kill_at_random(process: subprocess.Popen, place: pathlib.Path, ahead: int, draw: random.Random) -> str:
    """Kill at a random moment of starting up, or when at most so many records have been added; says where."""
    if draw.random() < 0.2:
        time.sleep(draw.uniform(0, 4))
    else:
        goal = records(place) + draw.randrange(ahead)
        while records(place) < goal and process.poll() is None:
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.2))
    if process.poll() is not None:
        return "too late"
    children = children_of(process.pid)
    if children and draw.random() < 0.5:
        os.kill(draw.choice(children), signal.SIGKILL)  # one run first: the sweep goes on with the next
        time.sleep(draw.uniform(0, 3))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return cut_off(place)


def children_of(process: int) -> list[int]:
    """The runs of a sweep."""
    threads = pathlib.Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for thread in threads for child in thread.read_text().split()]


def records(place: pathlib.Path) -> int:
    """How many records the metrics files have."""
    runs = (*place.glob("survivor/metrics.jsonl"), *place.glob("*-sweep/*/survivor/metrics.jsonl"))
    return sum(path.read_bytes().count(b"\n") for path in runs)


def cut_off(place: pathlib.Path) -> str:
    if any(not found.finished for run in find_runs(place) for found in list_checkpoints(run)):
        return "within a checkpoint"
    return "elsewhere"


def soak(subject: Subject, kills: int, seed: int, directory: pathlib.Path) -> bool:
    """Run it both ways; returns whether they are equal."""
    finish(subject, directory / "undisturbed")
    draw, struck, killed = random.Random(seed), Counter(), directory / "killed"
    while struck.total() < kills:
        process = subject.begin(killed)
        what = kill_at_random(process, killed, max(2, 3 * subject.records // (2 * kills)), draw)
        if what == "too late":
            print(f"all was over after {struck.total()} kills: take more steps", flush=True)
            return False
        struck[what] += 1
        done = [found.step for run in find_runs(killed) for found in list_checkpoints(run) if found.finished]
        print(f"kill {struck.total()}, {what}; the last checkpoint is of step {max(done, default=0)}", flush=True)
    finish(subject, killed)
    sizes = [equal(subject, run, directory) for run in find_runs(directory / "undisturbed")]
    assert len(find_runs(killed)) == len(sizes), "there are other runs"
    told = f"{subject.steps} steps of {subject.kind}, {struck.total()} kills ({dict(struck)})"
    print(f"{told}: the states of {len(sizes)} runs and {sum(sizes)} bytes of metrics are equal")
    return True


def equal(subject: Subject, run: RunFolder, directory: pathlib.Path) -> int:
    """Compare a run with the one that was killed; returns the bytes of its metrics."""
    same = RunFolder(directory / "killed" / run.path.relative_to(directory / "undisturbed"))
    made = experiment(subject.config(run))
    assert_same_bits(*(load_checkpoint(made, directory=found.path) for found in (same, run)))
    one, other = (found.metrics.read_bytes() for found in (same, run))
    assert one == other, f"the metrics of {run.path} differ"
    return len(one)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--of", choices=["plain", "state", "updates", "sweep"], default="plain")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        subject = Subject(options.of, options.steps)
        return 0 if soak(subject, options.kills, options.seed, pathlib.Path(folder)) else 1
