"""Several processes of one run on this machine, which find each other by the environment, as on any cluster.

python -m tests.training.processes    # 4 processes, one of them killed; then 2, then 1, go on
"""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def start(count: int, arguments: Sequence[str], devices_each: int, folder: Path) -> list[subprocess.Popen]:
    """Start `fnbackprop ARGUMENTS` that often, as processes of one run with CPU devices."""
    flags = f"--xla_force_host_platform_device_count={devices_each}"
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
