"""Writing checkpoints, and removing old ones.

Retention and the choice of the best are ours: orbax's CheckpointManager removes the old checkpoint as soon as its own
commit is done, before our hashes of the new one are on disk, so a kill in between would leave none that is verified.
"""

import contextlib
import math
import os
import platform
import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from fnbackprop.version import __version__

from ..errors import CheckpointError
from ..run_folder import RunFolder, write_json
from .arrays import describe_leaves, orbax, stored_leaves
from .checkpoint import (
    INFO_FILE,
    STATE_FOLDER,
    Checkpoint,
    best_checkpoint,
    finished_checkpoints,
    list_checkpoints,
)
from .manifest import write_manifest

PACKAGES = ("jax", "jaxlib", "optax", "orbax-checkpoint")


class CheckpointWriter:
    """Writes checkpoints in the background, and removes those that need not be kept.

    Args:
      run: the run's folder.
      keep: how many of the last are kept; None keeps all.
      best: also keep the one that is best by this metric of its evaluation.
      best_mode: whether "max" or "min" is best.
      keep_every: also keep those of the steps that are multiples of it.
    """

    def __init__(
        self,
        run: RunFolder,
        keep: int | None = 3,
        best: str | None = None,
        best_mode: str = "max",
        keep_every: int | None = None,
    ):
        self._run, self._keep, self._best, self._best_mode = run, keep, best, best_mode
        self._keep_every = keep_every
        self._leads = jax.process_index() == 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[Path] | None = None
        self._checkpointer: Any = None

    def best_value(self) -> float:
        """The metric of the best checkpoint that there is; infinitely bad if there is none."""
        worst = -math.inf if self._best_mode == "max" else math.inf
        holder = best_checkpoint(finished_checkpoints(self._run), self._best, self._best_mode) if self._best else None
        return worst if holder is None else holder.metric(self._best)

    def write(self, state: Any, info: dict[str, Any]) -> None:
        """Start to write a checkpoint; returns once the arrays are copied from the device.

        Raises:
          CheckpointError: this or the previous checkpoint cannot be written.
        """
        self.finish()
        folder = self._run.checkpoint(info["step"])
        info = {**info, "versions": versions(), "leaves": describe_leaves(state)}
        with self._naming_the_checkpoint(folder):
            if self._leads:
                Checkpoint(folder).remove()
                folder.mkdir(parents=True)
            self._checkpointer = self._checkpointer or orbax().StandardCheckpointer()
            self._checkpointer.save((folder / STATE_FOLDER).absolute(), stored_leaves(state))
        self._pending = self._thread.submit(self._complete, folder, info)

    def _complete(self, folder: Path, info: dict[str, Any]) -> Path:
        """In the background: wait for orbax, then write the manifest, which makes the checkpoint count."""
        with self._naming_the_checkpoint(folder):
            self._checkpointer.wait_until_finished()
            if self._leads:
                write_json(folder / INFO_FILE, info)
                write_manifest(folder)
        if self._leads:
            self._remove_old()
        return folder

    @contextlib.contextmanager
    def _naming_the_checkpoint(self, folder: Path) -> Iterator[None]:
        """An error of orbax or of the file system becomes a CheckpointError that names the last good checkpoint."""
        try:
            yield
        except Exception as error:
            self._close_checkpointer()  # it would raise this error at the next checkpoint again
            if self._leads:
                Checkpoint(folder).remove()  # makes room on a disk that is full
            before = f"The last one written is {last.folder}." if (last := self.last()) else "There is none before it."
            message = f"the checkpoint {folder} could not be written: {_reason(error)}. {before}"
            raise CheckpointError(message) from None

    def _remove_old(self) -> None:
        every = list_checkpoints(self._run)
        finished = [checkpoint for checkpoint in every if checkpoint.finished]
        kept = finished if self._keep is None else finished[-self._keep :]
        best = best_checkpoint(finished, self._best, self._best_mode) if self._best else None
        for checkpoint in finished:
            for_good = self._keep_every is not None and checkpoint.step % self._keep_every == 0
            if checkpoint not in kept and checkpoint != best and not for_good:
                checkpoint.remove()
        for checkpoint in every:  # orbax's threads may write on after an error, when the folder has been removed
            if not checkpoint.finished and checkpoint.step < finished[-1].step:
                checkpoint.remove()

    def last(self) -> Checkpoint | None:
        """The last checkpoint that counts."""
        return next(reversed(finished_checkpoints(self._run)), None)

    def finish(self) -> None:
        """Wait for the checkpoint being written; raises CheckpointError if it could not be."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Wait, and end the threads; raises CheckpointError if the last checkpoint could not be written."""
        try:
            self.finish()
        finally:
            self._thread.shutdown()
            self._close_checkpointer()

    def _close_checkpointer(self) -> None:
        """Everything has been waited for and each error reported, so whatever it still raises is dropped."""
        checkpointer, self._checkpointer = self._checkpointer, None
        if checkpointer is not None:
            with contextlib.suppress(Exception):
                checkpointer.close()


def _reason(error: BaseException) -> str:
    """The operating system's reason, if the error names one; its first line otherwise."""
    code = getattr(error, "errno", None) or next(iter(re.findall(r"os_error_code='(\d+)'", str(error))), None)
    return os.strerror(int(code)) if code else (str(error) or type(error).__name__).splitlines()[0].rstrip(".")


def versions() -> dict[str, str]:
    """Of Python and of the packages that a run's numbers depend on."""
    packages = {name: version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **packages, "fnbackprop": __version__}
