"""When a run writes a checkpoint: at regular steps, when an evaluation is the best so far, and when the run ends."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnbackprop.experiment import ExperimentError

from ..data.first_batch import Fingerprint
from ..errors import CheckpointError
from ..record.run_log import RunLog
from ..run import Run
from ..run_folder import RunFolder
from ..step.state import TrainState
from ..stopping import Interrupted, Terminated
from .writer import CheckpointWriter

SECONDS_BETWEEN = 600.0  # where no number of steps is given
LOOKED_AT_HERE = 1 << 26  # bytes: of so few, a look at them takes less time than to compile one for the device


class CheckpointSchedule:
    """Writes the checkpoints of a run when they are due.

    Args:
      run: says when to write, and which to keep.
      folder: the run's.
      log: its metrics are on the disk before the checkpoint is.
      start: the first step.
      data_state: the position of the data before a step, to be saved if `batch` is not a function of the step.
      batch: the fingerprint of the run's data.
    """

    def __init__(
        self,
        run: Run,
        folder: RunFolder,
        log: RunLog,
        start: int,
        data_state: Callable[[int], Any] | None = None,
        batch: Fingerprint | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._run, self._log, self._data_state, self._batch = run, log, data_state, batch
        self._writer = CheckpointWriter(folder, run.keep, run.best, run.best_direction, run.keep_every)
        self._best_value = self._writer.best_value()
        self._saved = start if self._writer.last() else None  # the step of the last checkpoint
        self._latest: tuple[int, TrainState] | None = None
        self._clock, self._saved_at = clock, clock()

    def reached(self, updates: int, state: TrainState) -> None:
        """Note the state after this number of updates: from here on, whatever ends the run, it can be saved."""
        self._latest = updates, state

    def save_if_due(self, updates: int, state: TrainState, asked: bool = False) -> None:
        """Write a checkpoint of the state, after this number of updates, if one is due or asked for."""
        self.reached(updates, state)
        is_best, asked = self._is_best(updates), asked and self._run.checkpoint_every != 0
        if self._is_due(updates) or is_best or asked:
            try:
                self._save(updates, state)
            except CheckpointError as error:
                self._go_on_without(error, updates)

    def _is_due(self, updates: int) -> bool:
        if self._run.checkpoint_every == 0:
            return False
        if updates == self._run.stop or (self._run.keep_every and updates % self._run.keep_every == 0):
            return True
        if self._run.checkpoint_every is not None:
            return updates % self._run.checkpoint_every == 0
        # clocks of several processes differ, and all must save at the same step
        return jax.process_count() == 1 and self._clock() - self._saved_at >= SECONDS_BETWEEN

    def _is_best(self, updates: int) -> bool:
        evaluated_at, metrics = self._log.evaluation
        name = self._run.best
        if name is None or evaluated_at != updates:
            return False
        better = max if self._run.best_direction == "max" else min
        if name not in metrics:
            raise ExperimentError(f"evaluate returns no {name!r} to choose the best by, but: {', '.join(metrics)}.")
        before, self._best_value = self._best_value, better(metrics[name], self._best_value)
        return self._best_value != before

    def _save(self, updates: int, state: TrainState) -> None:
        if updates == self._saved:
            return
        try:
            self._writer.finish()
        except CheckpointError as error:  # of the checkpoint before
            self._go_on_without(error, self._saved)
        self._log.flush()  # raises if a loss is not finite: such a state is not worth keeping
        self._saved_at = self._clock()
        if _has_nan(state.params):
            self._log.say(f"step {updates}: no checkpoint, for there is NaN in the parameters")
            return
        evaluated_at, metrics = self._log.evaluation
        self._writer.write(
            state,
            {
                "step": updates,
                "data": None if self._data_state is None else self._data_state(updates),
                "batch": self._batch,
                "settings": self._run.settings,
                "metrics": metrics if evaluated_at == updates else {},
                "metrics_bytes": self._log.sync(),
            },
        )
        self._saved = updates

    def _go_on_without(self, error: CheckpointError, updates: int) -> None:
        """Report the error and go on: the run is worth more than one checkpoint. Raise it if that was the last."""
        if updates == self._run.stop:
            raise error
        self._log.say(f"{error} The run goes on, and tries again at the next checkpoint.")

    def close(self, error: BaseException | None) -> None:
        """Save the last state if the run was stopped between two steps, and wait for the disk.

        Raises:
          CheckpointError: the run ended well, but its last checkpoint could not be written.
        """
        try:
            if _is_of_one_process(error):  # writing, and waiting for it, takes all of them
                return
            if self._is_to_be_saved(error):
                self._save(*self._latest)
            self._writer.close()
        except Exception as failure:
            if error is None:
                raise
            self._log.say(f"the last state is not saved: {failure}")
        if error is not None and (last := self._writer.last()) is not None:
            self._log.say(f"{last.step} steps are saved. To go on from there: resume=True, or --resume")

    def _is_to_be_saved(self, error: BaseException | None) -> bool:
        if error is None or self._latest is None or self._run.checkpoint_every == 0:
            return False
        return _leaves_a_good_state(error) and _is_whole(self._latest[1])


def _is_of_one_process(error: BaseException | None) -> bool:
    """Whether this is the error of one of several processes, which the others may not have."""
    return error is not None and jax.process_count() > 1 and not isinstance(error, (Interrupted, Terminated))


def _leaves_a_good_state(error: BaseException) -> bool:
    """Whether to save after this error: not after a NaN, nor after a second Ctrl-C, which ends at once."""
    stopped = isinstance(error, (Interrupted, Terminated))
    return stopped or (isinstance(error, Exception) and not isinstance(error, FloatingPointError))


def _is_whole(state: TrainState) -> bool:
    """Whether the state still has its memory: it was not donated to a step that then failed."""
    return not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def _has_nan(tree: Any) -> bool:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    if jax.process_count() == 1 and sum(leaf.nbytes for leaf in leaves) <= LOOKED_AT_HERE:
        return any(np.isnan(leaf).any() for leaf in jax.device_get(leaves))
    return bool(_has_nan_on_device(leaves))


@jax.jit
def _has_nan_on_device(leaves: list[jax.Array]) -> jax.Array:
    return jnp.any(jnp.array([jnp.any(jnp.isnan(leaf)) for leaf in leaves], dtype=bool))
