"""Checkpoints of a run: `runs/<name>/checkpoints/step_00000040/`, each with

    state/          the arrays, by orbax-checkpoint
    info.json       step, settings, versions, metrics, and the path, shape and dtype of every array
    manifest.json   size and SHA-256 of every file above: written last, it makes the checkpoint count

Nothing is pickled: to read a checkpoint cannot run code.
"""

import contextlib
import dataclasses
import functools
import logging
import math
import os
import platform
import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import jax

from fnbackprop import trees
from fnbackprop.version import __version__

from ..record.run_log import RunError
from .manifest import MANIFEST_FILE, damage, is_finished, read_json, write_json, write_manifest

CHECKPOINTS_FOLDER = "checkpoints"
PREFIX = "step_"
STATE_FOLDER = "state"
INFO_FILE = "info.json"
PACKAGES = ("jax", "jaxlib", "optax", "orbax-checkpoint")


class CheckpointError(RunError):
    """A checkpoint could not be written, read, or does not belong to the run; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """One checkpoint's folder, finished or not."""

    folder: Path

    @property
    def step(self) -> int:
        """How many updates had been made."""
        return int(self.folder.name.removeprefix(PREFIX))

    @property
    def finished(self) -> bool:
        return is_finished(self.folder)

    def damage(self) -> str | None:
        """What is wrong with it, or None: every byte is checked."""
        problem = damage(self.folder)
        if problem is None and self.info()["step"] != self.step:
            return f"its folder was renamed: it is of step {self.info()['step']}"
        return problem

    def info(self) -> dict[str, Any]:
        return read_json(self.folder / INFO_FILE)

    def metric(self, name: str) -> float:
        """An evaluation's metric; NaN if there is none."""
        try:
            return float(self.info()["metrics"].get(name, math.nan))
        except (OSError, ValueError, TypeError, KeyError):
            return math.nan

    def remove(self) -> None:
        """What makes it count goes first: what a kill in the midst of this leaves is an unfinished one."""
        for name in (MANIFEST_FILE, INFO_FILE):
            (self.folder / name).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def list_checkpoints(run: Path) -> list[Checkpoint]:
    """All checkpoints of a run's folder, the oldest first, unfinished ones too."""
    names = [folder for folder in (run / CHECKPOINTS_FOLDER).glob(f"{PREFIX}*") if folder.is_dir()]
    numbered = [folder for folder in names if folder.name.removeprefix(PREFIX).isdecimal()]
    return sorted(map(Checkpoint, numbered), key=lambda checkpoint: checkpoint.step)


def best_checkpoint(checkpoints: Sequence[Checkpoint], metric: str, mode: Literal["max", "min"]) -> Checkpoint | None:
    """The one whose evaluation was the best; None if no checkpoint has this metric."""
    measured = [checkpoint for checkpoint in checkpoints if not math.isnan(checkpoint.metric(metric))]
    sign = 1 if mode == "max" else -1
    return max(measured, key=lambda checkpoint: sign * checkpoint.metric(metric), default=None)


# ---------------------------------------------------------------- arrays


def stored_leaves(tree: Any) -> list[jax.Array]:
    """The arrays of a state as they are stored: keys as their data, and without those that have no element."""
    return [leaf for leaf in map(_as_data, jax.tree.leaves(tree)) if leaf.size]


def _is_key(leaf: jax.Array) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _as_data(leaf: jax.Array) -> jax.Array:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def describe_leaves(tree: Any) -> dict[str, str]:
    """Path -> dtype and shape, like "float32[3,4]", of every leaf."""
    return {path: f"{x.dtype}[{','.join(map(str, x.shape))}]" for path, x in trees.leaves_with_paths(tree)}


def read_state(checkpoint: Checkpoint, like: Any) -> Any:
    """The state of a checkpoint with the structure, dtypes and shardings of `like`; its values are not used."""
    target = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding) for leaf in stored_leaves(like)]
    try:
        with _orbax().StandardCheckpointer() as checkpointer:
            stored = iter(checkpointer.restore((checkpoint.folder / STATE_FOLDER).absolute(), target))
    except Exception as error:  # whatever orbax and the file system may raise
        raise CheckpointError(f"{checkpoint.folder} is whole, but cannot be read: {error}") from error

    def rebuilt(leaf: jax.Array) -> jax.Array:
        if not leaf.size:
            return leaf
        data = next(stored)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf)) if _is_key(leaf) else data

    return jax.tree.map(rebuilt, like)


@functools.cache
def _orbax() -> Any:
    """orbax.checkpoint, which takes a second to import, and is quiet here: what it raises, we tell."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import orbax.checkpoint

    logging.getLogger("absl").addFilter(lambda record: "orbax" not in Path(record.pathname).parts)
    return orbax.checkpoint


# ---------------------------------------------------------------- writing


class CheckpointWriter:
    """Writes checkpoints while the run goes on, and removes those that are not to be kept.

    Args:
      run: the run's folder.
      keep: how many of the last are kept; None keeps all.
      best: also keep the one that is best by this metric of its evaluation.
      best_mode: whether "max" or "min" is best.
    """

    def __init__(self, run: Path, keep: int | None = 3, best: str | None = None, best_mode: str = "max"):
        self._run, self._keep, self._best, self._best_mode = run, keep, best, best_mode
        self._leads = jax.process_index() == 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[Path] | None = None
        self._checkpointer: Any = None

    def best_value(self) -> float:
        """The metric of the best checkpoint that there is; infinitely bad if there is none."""
        worst = -math.inf if self._best_mode == "max" else math.inf
        holder = best_checkpoint(self._finished(), self._best, self._best_mode) if self._best else None
        return worst if holder is None else holder.metric(self._best)

    def write(self, state: Any, info: dict[str, Any]) -> None:
        """Begin a checkpoint of a state; returns once its arrays are copied from the device.

        Raises:
          CheckpointError: this or the previous checkpoint cannot be written.
        """
        self.finish()
        folder = self._run / CHECKPOINTS_FOLDER / f"{PREFIX}{info['step']:08}"
        info = {**info, "versions": versions(), "leaves": describe_leaves(state)}
        with self._telling_failure(folder):
            if self._leads:
                Checkpoint(folder).remove()
                folder.mkdir(parents=True)
            self._checkpointer = self._checkpointer or _orbax().StandardCheckpointer()
            self._checkpointer.save((folder / STATE_FOLDER).absolute(), stored_leaves(state))
        self._pending = self._thread.submit(self._complete, folder, info)

    def _complete(self, folder: Path, info: dict[str, Any]) -> Path:
        """In the background: wait for orbax, then add what makes it count."""
        with self._telling_failure(folder):
            self._checkpointer.wait_until_finished()
            if self._leads:
                write_json(folder / INFO_FILE, info)
                write_manifest(folder)
        if self._leads:
            self._remove_old()
        return folder

    @contextlib.contextmanager
    def _telling_failure(self, folder: Path) -> Iterator[None]:
        """Whatever orbax and the file system raise becomes a CheckpointError that names the last good checkpoint."""
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
        finished = self._finished()
        kept = finished if self._keep is None else finished[-self._keep :]
        best = best_checkpoint(finished, self._best, self._best_mode) if self._best else None
        for checkpoint in finished:
            if checkpoint not in kept and checkpoint != best:
                checkpoint.remove()

    def last(self) -> Checkpoint | None:
        """The last checkpoint that counts."""
        return next(reversed(self._finished()), None)

    def _finished(self) -> list[Checkpoint]:
        return [checkpoint for checkpoint in list_checkpoints(self._run) if checkpoint.finished]

    def finish(self) -> None:
        """Wait until the checkpoint that was begun counts; raises CheckpointError if it could not be written."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """End the threads; raises CheckpointError if the last checkpoint could not be written."""
        try:
            self.finish()
        finally:
            self._thread.shutdown()
            self._close_checkpointer()

    def _close_checkpointer(self) -> None:
        """What matters has been waited for, and what it still may raise has been told."""
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
