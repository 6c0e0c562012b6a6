"""Which folder a run is written to, and the lock that keeps every other process out of it meanwhile.

A new run has a folder of its own: `runs/<name>`, or `<name>-2`, `<name>-3` ... if there are others. Two that start at
once get one each, for a folder can be made only once. The lock is the operating system's: it ends with its process,
however that ends, and never has to be removed by hand. Where there are none (on Windows, and in some network file
systems), new runs are kept apart all the same, and whoever goes on with an earlier run is warned.
"""

import json
import os
import shutil
import socket
import warnings
from contextlib import suppress
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from .checkpoints.checkpoint import finished_checkpoints
from .errors import CheckpointError
from .run import Run
from .run_folder import RunFolder, numbered, read_json, runs_of

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]


class Claim:
    """A run's folder, locked; a context manager that unlocks it. It removes the folder if nothing was written; after an
    error, a new run's also if there was no step.

    Of several processes, process 0 chooses and locks, and the others are told which it is.

    Attributes:
      folder: where the run is written.

    Raises:
      CheckpointError: it is to go on in a folder in which another process runs, or a folder cannot be made.
    """

    def __init__(self, run: Run):
        self._lock: int | None = None
        self._is_new = False
        number = 0
        if jax.process_index() == 0:
            number = self._take(run)
        if jax.process_count() > 1:
            number = int(multihost_utils.broadcast_one_to_all(np.int32(number)))
        self.folder = numbered(run.directory, run.name, number)

    def __enter__(self) -> "Claim":
        return self

    def __exit__(self, *error: object) -> None:
        if self._lock is None:
            return
        if any(error) and self._is_new and self.folder.is_bare():
            shutil.rmtree(self.folder.path, ignore_errors=True)
        _unlock(self.folder, self._lock)

    def _take(self, run: Run) -> int:
        """The number of the run, whose folder is then locked."""
        earlier = runs_of(run.directory, run.name)
        number = _to_go_on(earlier, run)
        if number is None:
            number = _new_folder(run, max(earlier, default=0) + 1)
        folder = numbered(run.directory, run.name, number)
        self._is_new, self._lock = number not in earlier, _locked(folder)
        if self._lock is None:
            holder = _holder(folder)
            raise CheckpointError(
                f"{folder.path} is in use: {holder} trains there. Wait for it or stop it; or begin another run, "
                "without resume and overwrite, which gets a folder of its own."
            )
        if self._lock < 0 and number in earlier:
            warnings.warn(
                f"{folder.path} cannot be locked here: nothing would keep a second process from writing to it. See to "
                "it that none trains there.",
                stacklevel=2,
            )
        return number


def _to_go_on(earlier: dict[int, RunFolder], run: Run) -> int | None:
    """The number of the earlier run whose folder is used: the newest, or to resume, the newest with a checkpoint."""
    if run.overwrite:
        return max(earlier, default=None)
    if not run.resume:
        return None
    saved = [number for number, folder in earlier.items() if finished_checkpoints(folder)]
    begun = [number for number, folder in earlier.items() if folder.read_description()["status"] != "finished"]
    return max(saved or begun, default=None)


def _new_folder(run: Run, number: int) -> int:
    """Make the first folder from this number on that nobody else has made."""
    if not numbered(run.directory, run.name, 1).path.exists():
        number = 1
    while True:
        path = numbered(run.directory, run.name, number).path
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            if not path.is_dir():
                raise CheckpointError(f"the run's folder {path} cannot be made: there is a file.") from None
            number += 1
        except OSError as error:
            raise CheckpointError(f"the run's folder {path} cannot be made: {error.strerror}.") from None
        else:
            return number


def _locked(folder: RunFolder) -> int | None:
    """Lock the folder: the lock's file descriptor, -1 where there are no locks; None if another process has it."""
    if fcntl is None:
        return -1
    while True:
        try:
            lock = os.open(folder.lock, os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        except OSError:  # a file system without locks, or one that is full
            return -1
        if _is_file(folder.lock, lock):
            os.truncate(lock, 0)
            os.write(lock, json.dumps({"id": os.getpid(), "host": socket.gethostname()}).encode())
            return lock
        os.close(lock)  # removed by its holder just now


def _is_file(path: Path, descriptor: int) -> bool:
    try:
        return os.stat(path).st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def _unlock(folder: RunFolder, lock: int) -> None:
    if lock >= 0:
        folder.lock.unlink(missing_ok=True)
        os.close(lock)
    with suppress(OSError):  # it is not empty, as it should be
        folder.path.rmdir()


def _holder(folder: RunFolder) -> str:
    try:
        process = read_json(folder.lock)
        return f"process {process['id']} on {process['host']}"
    except (OSError, ValueError, TypeError, KeyError):
        return "another process"
