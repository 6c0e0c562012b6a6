"""A run that is killed again and again, against the same run undisturbed: `python -m tests.campaigns soak`.

    python -m tests.campaigns soak --steps 1000 --kills 25 --seed 0     # about 4 minutes on 2 cores

Each life of the run is a process of its own, which goes on by `--resume`, and is killed by SIGKILL at a random moment:
while JAX starts, while a checkpoint is read, between two steps, while one is written. At the end the parameters, the
optimizer's state and every byte of the metrics file must be those of the undisturbed run; exit status 1 if not.
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

from fnbackprop.training.checkpoints.checkpoint import list_checkpoints
from fnbackprop.training.checkpoints.resuming import load_checkpoint
from fnbackprop.training.run_folder import RunFolder

from ..training.checkpoints.test_checkpoint import assert_same_bits
from ..training.survivor import Config, experiment

ROOT = pathlib.Path(__file__).parents[2]
EVERY = 7  # steps between two checkpoints


def begin(directory: pathlib.Path, steps: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.training.survivor", "train", "--directory", str(directory), "--resume"]
    options = ["--steps", str(steps), "--checkpoint-every", str(EVERY), "--keep", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PAUSE": "0.02"}
    return subprocess.Popen([*command, *options], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)


def kill_at_random(process: subprocess.Popen, run: pathlib.Path, steps: int, draw: random.Random) -> str:
    """Kill at a random moment of starting up, or when the run has come about so many steps further; says where."""
    if draw.random() < 0.2:
        time.sleep(draw.uniform(0, 4))
    else:
        goal = records(run) + draw.randrange(steps)
        while records(run) < goal and process.poll() is None:
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.2))
    if process.poll() is not None:
        return "too late"
    process.send_signal(signal.SIGKILL)
    process.wait()
    return cut_off(run)


def records(run: pathlib.Path) -> int:
    """How many records the metrics file has."""
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def cut_off(run: pathlib.Path) -> str:
    if any(not found.finished for found in list_checkpoints(RunFolder(run))):
        return "within a checkpoint"
    return "elsewhere"


def soak(steps: int, kills: int, seed: int, directory: pathlib.Path) -> bool:
    """Run it both ways; returns whether they are equal."""
    assert begin(directory / "undisturbed", steps).wait() == 0
    draw, struck = random.Random(seed), Counter()
    run = directory / "killed" / "survivor"
    while struck.total() < kills:
        what = kill_at_random(begin(directory / "killed", steps), run, 3 * steps // (2 * kills), draw)
        if what == "too late":
            print(f"the run was over after {struck.total()} kills: take more steps", flush=True)
            return False
        struck[what] += 1
        done = [found.step for found in list_checkpoints(RunFolder(run)) if found.finished]
        print(f"kill {struck.total()}, {what}; the last checkpoint is of step {max(done, default=0)}", flush=True)
    assert begin(directory / "killed", steps).wait() == 0
    made = experiment(Config(steps=steps))
    assert_same_bits(*(load_checkpoint(made, directory=directory / name) for name in ("killed", "undisturbed")))
    one, other = ((directory / name / "survivor" / "metrics.jsonl").read_bytes() for name in ("killed", "undisturbed"))
    assert one == other, "the metrics differ"
    print(f"{steps} steps, {struck.total()} kills ({dict(struck)}): state and {len(one)} bytes of metrics are equal")
    return True


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        return 0 if soak(options.steps, options.kills, options.seed, pathlib.Path(folder)) else 1
