"""Several processes of one run on this machine, which find each other by the environment, as on any cluster.

python -m tests.training.processes    # 4 processes, one of them killed; then 2, then 1, go on
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def start(count: int, arguments: Sequence[str], devices_each: int, folder: Path) -> list[subprocess.Popen]:
    """Start `fnbackprop ARGUMENTS` that often, as processes of one run with CPU devices."""
    flags = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices_each}"  # the last counts
    )
    common = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    if count > 1:
        common |= {"JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}", "JAX_NUM_PROCESSES": str(count)}
    command = [sys.executable, "-c", "import sys; from fnbackprop.cli import main; sys.exit(main())", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [
        subprocess.Popen(command, cwd=folder, env=common | {"JAX_PROCESS_ID": str(i)}, **pipes) for i in range(count)
    ]


def finish(processes: Sequence[subprocess.Popen], timeout: float) -> list[tuple[int, str, str]]:
    """Status, stdout (without what Gloo prints) and stderr of each; those that are late are killed."""
    try:
        texts = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, _ours(out), err) for process, (out, err) in zip(processes, texts, strict=True)]


def _ours(out: str) -> str:
    return "".join(line for line in out.splitlines(keepends=True) if not line.startswith("[Gloo]"))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


# ---------------------------------------------------------------- four processes, one of them killed

STEPS = 120


def main(folder: Path) -> None:
    """A run of 4 processes loses one; 2 go on, lose one too, and 1 ends it: the run is as one that lost none."""
    from tests.training.test_processes import FILE

    (folder / "regression.py").write_text(FILE)
    train = ["train", "regression.py", "--mesh", "data=4", "--steps", str(STEPS), "--checkpoint-every", "10"]
    whole = finish(start(1, [*train, "--directory", "whole"], devices_each=4, folder=folder), 300)
    print(f"undisturbed, 1 process: {describe(whole)}")
    for count, until in ((4, 30), (2, 70)):
        processes = start(count, [*train, "--resume"], devices_each=4 // count, folder=folder)
        step = wait_for_checkpoint(folder / "runs/regression", until)
        processes[-1].kill()
        print(f"{count} processes, one killed after the checkpoint of step {step}: {describe(finish(processes, 300))}")
    print(f"1 process goes on: {describe(finish(start(1, [*train, '--resume'], 4, folder), 300))}")
    distance, rows = largest_distance(folder / "whole/regression", folder / "runs/regression")
    print(f"{rows} records in both runs; the largest relative distance of a number is {distance:.1e}")
    sys.exit(0 if distance < 1e-4 and rows >= STEPS else 1)


def wait_for_checkpoint(run: Path, step: int) -> int:
    """Wait until there is a finished checkpoint of this step or a later one; returns its step."""
    from fnbackprop.training.checkpoints.checkpoint import list_checkpoints
    from fnbackprop.training.run_folder import RunFolder

    for _ in range(3000):
        found = [checkpoint.step for checkpoint in list_checkpoints(RunFolder(run)) if checkpoint.finished]
        if found and found[-1] >= step:
            return found[-1]
        time.sleep(0.1)
    raise TimeoutError(f"{run} has no checkpoint of step {step} after 300 s")


def describe(found: list[tuple[int, str, str]]) -> str:
    """The statuses, and the last line that was printed."""
    lines = [line for _, out, err in found for line in (out or err).splitlines()]
    return f"statuses {[status for status, _, _ in found]}, {lines[-1] if lines else 'silent'}"


def largest_distance(one: Path, other: Path) -> tuple[float, int]:
    """Of two runs' metrics: the largest relative distance, and how many records they have. Both must be complete."""
    from fnbackprop.training.run_folder import read_metrics

    records = read_metrics(one), read_metrics(other)
    assert [record.keys() for record in records[0]] == [record.keys() for record in records[1]]
    pairs = ((a[name], b[name]) for a, b in zip(*records, strict=True) for name in a)
    return max(abs(a - b) / max(abs(a), 1e-30) for a, b in pairs), len(records[0])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))
