"""Recordings of a revision of fnbackprop, or of the working tree: made once, and kept in a temporary folder.

A recording is made in a process of its own, whose path begins with a folder that holds that revision's `fnbackprop`
alone; the programs come from the working tree.
"""

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from io import BytesIO
from pathlib import Path

from .programs import ROOT, SOURCES

PACKAGE = "fnbackprop"
CACHE = Path(tempfile.gettempdir()) / f"fnbackprop-jaxprs-{os.getuid()}"
DEVICES = "--xla_force_host_platform_device_count=8"


class Recording:
    """The jaxprs of a package folder's parent, being made in a process, or read from the cache."""

    def __init__(self, home: Path, pattern: str = "*"):
        self.file = CACHE / f"{_digest(home, pattern)}.json"
        self.process = None if self.file.exists() else self._start(home, pattern)

    def _start(self, home: Path, pattern: str) -> subprocess.Popen:
        CACHE.mkdir(exist_ok=True)
        path = os.pathsep.join(map(str, (home, ROOT)))
        environment = os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": DEVICES}
        self.partial = self.file.with_suffix(f".{os.getpid()}")
        command = [sys.executable, "-P", "-W", "ignore", "-m", "tests.campaigns.jaxprs.record"]
        return subprocess.Popen([*command, str(self.partial), pattern], env=environment, cwd=home)

    def texts(self) -> dict[str, str]:
        """The canonical jaxpr of each program, by its name."""
        if self.process is not None:
            if self.process.wait():
                raise SystemExit(f"the recording of {self.file} failed")
            self.partial.replace(self.file)
        return json.loads(self.file.read_text(encoding="utf-8"))


def extract(revision: str, folder: Path) -> Path:
    """A folder that holds the package of a revision, and nothing else."""
    archive = subprocess.run(["git", "archive", revision, PACKAGE], cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return folder


def link(folder: Path) -> Path:
    """A folder that holds the package of the working tree, and nothing else."""
    folder.mkdir()
    (folder / PACKAGE).symlink_to(ROOT / PACKAGE)
    return folder


def _digest(home: Path, pattern: str) -> str:
    """Of all that decides a recording: the package, the programs, the versions."""
    found = hashlib.sha256(f"{pattern} {sys.version} {version('jax')}".encode())
    package = home / PACKAGE
    sources = [*sorted(package.resolve().rglob("*.py")), *(p for s in SOURCES for p in sorted(ROOT.glob(s)))]
    for path in sources:
        inside = path.relative_to(package.resolve() if path.is_relative_to(package.resolve()) else ROOT)
        found.update(str(inside).encode() + path.read_bytes())
    return found.hexdigest()[:20]
