"""Random damage to checkpoints: `python -m tests.campaigns corruption --count 300 --seed 0` (2 minutes on 2 cores).

A run with checkpoints after 10, 20, 30 and 40 steps is copied, one to eight of its files are damaged at random (a bit
flipped, a file cut off, emptied, lost, lengthened, exchanged with another one, a folder renamed, ...), and it is
resumed. Then either the state is, to the bit, that of the checkpoint which the run says it goes on from, and every
newer one is named as damaged; or there is a CheckpointError, nothing is changed, and no checkpoint was whole. Exit
status 1 if not.
"""

import argparse
import pathlib
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence

from fnbackprop.training.checkpoints.checkpoint import list_checkpoints
from fnbackprop.training.checkpoints.resuming import begin, load_checkpoint
from fnbackprop.training.errors import CheckpointError
from fnbackprop.training.loop import train
from fnbackprop.training.run import Run
from fnbackprop.training.run_folder import RunFolder
from fnbackprop.training.step.state import initial_state

from ..training.checkpoints.test_checkpoint import assert_same_bits
from ..training.survivor import Config, experiment

MADE = experiment(Config())


# ---------------------------------------------------------------- what may happen to a file


def flip_a_bit(path, draw):
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def cut_off(path, draw):
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])


def empty(path, draw):
    path.write_bytes(b"")


def lose(path, draw):
    path.unlink()


def lengthen(path, draw):
    path.write_bytes(path.read_bytes() + draw.randbytes(draw.randrange(1, 100)))


def scramble_a_block(path, draw):
    content = path.read_bytes()
    start = draw.randrange(len(content))
    block = draw.randbytes(min(512, len(content) - start))
    path.write_bytes(content[:start] + block + content[start + len(block) :])


def take_from_another(path, draw):
    """The file of the same name of another checkpoint: each whole in itself."""
    inside = path.relative_to(folder_of(path))
    others = [folder / inside for folder in folder_of(path).parent.iterdir() if (folder / inside).exists()]
    shutil.copyfile(draw.choice(others), path.with_name("copied"))
    path.with_name("copied").rename(path)


def add_a_file(path, draw):
    path.with_name(f"stray{draw.randrange(10)}").write_bytes(draw.randbytes(20))


def lose_its_folder(path, draw):
    shutil.rmtree(path.parent)


def become_another_step(path, draw):
    folder = folder_of(path)
    new = folder.with_name(f"step_{draw.randrange(100):08}")
    if not new.exists():
        folder.rename(new)


def take_all_arrays_from_another(path, draw):
    folder = folder_of(path)
    other = draw.choice(sorted(folder.parent.iterdir()))
    if other != folder and (other / "state").exists():
        shutil.rmtree(folder / "state", ignore_errors=True)
        shutil.copytree(other / "state", folder / "state")


HARMS = (flip_a_bit, flip_a_bit, flip_a_bit, cut_off, empty, lose, lengthen, scramble_a_block, take_from_another)
HARMS += (add_a_file, lose_its_folder, become_another_step, take_all_arrays_from_another)


def folder_of(path: pathlib.Path) -> pathlib.Path:
    """The checkpoint's folder that a file lies in."""
    return next(parent for parent in path.parents if parent.parent.name == "checkpoints")


def harm(run: pathlib.Path, draw: random.Random) -> str:
    """Damage a file of a checkpoint, the newest being the likeliest; says what was done."""
    folders = sorted(folder for folder in (run / "checkpoints").iterdir() if any(folder.rglob("*")))
    folder = folders[-1] if draw.random() < 0.6 else draw.choice(folders)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    if not files:
        return "nothing"
    path, act = draw.choice(files), draw.choice(HARMS)
    act(path, draw)
    return f"{act.__name__} {path.relative_to(run)}"


# ---------------------------------------------------------------- what must come of it


def files_in(folder: pathlib.Path) -> dict[pathlib.Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check(run: pathlib.Path, states: dict, draw: random.Random) -> str:
    """Resume the damaged run; returns how it ended, and raises if that was wrong."""
    before, files = list_checkpoints(RunFolder(run)), files_in(run)
    try:
        found = begin(Run(MADE, directory=run.parent, resume=True), RunFolder(run), initial_state(MADE))
    except CheckpointError as error:
        assert files_in(run) == files, "something was changed"
        assert "is damaged: " in str(error) and all(found.damage() for found in before if found.finished)
        return "refused, none is whole"
    state, notes = found.state, found.notes
    step = int(state.step)
    assert_same_bits(state, states[step])
    for found in before:
        if found.step > step:
            assert any(str(found.folder) in note for note in notes), f"nothing is said of {found.folder}"
    assert step == 0 or any(f"going on from step {step}" in note for note in notes)
    if step:
        assert_same_bits(load_checkpoint(MADE, directory=run.parent), states[step])
    return f"resumed at step {step}" if step else "began anew, none is finished"


def corrupt(count: int, seed: int, directory: pathlib.Path) -> int:
    """Damage and resume so many times; returns how often it went wrong."""
    train(MADE, directory=directory / "whole", checkpoint_every=10, keep=None, progress=False)
    states = {step: load_checkpoint(MADE, directory=directory / "whole", step=step) for step in (10, 20, 30, 40)}
    states[0] = initial_state(MADE)
    ends, wrong = Counter(), 0
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        run = directory / "damaged" / "survivor"
        shutil.copytree(directory / "whole" / "survivor", run)
        done = [harm(run, draw) for _ in range(draw.choice((1, 1, 1, 2, 3, 8)))]
        try:
            ends[check(run, states, draw)] += 1
        except Exception as error:
            wrong += 1
            print(f"WRONG, number {number}: {'; '.join(done)}\n  {type(error).__name__}: {error}", flush=True)
        shutil.rmtree(directory / "damaged")
    print(f"{count} corruptions, {wrong} went wrong; the others: {dict(sorted(ends.items()))}")
    return wrong


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        return 1 if corrupt(options.count, options.seed, pathlib.Path(folder)) else 0
