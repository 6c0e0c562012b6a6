"""When a run writes a checkpoint: every so many steps, when an evaluation was the best, and when the run ends."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp

from fnbackprop.experiment import ExperimentError

from ..hooks import Hook
from ..record.run_log import Recorder
from ..step.state import TrainState
from ..stopping import Interrupted, Signals, Terminated
from .checkpoint import CheckpointError, CheckpointWriter

SECONDS_BETWEEN = 600.0  # where no number of steps is given


@dataclasses.dataclass(frozen=True)
class Policy:
    """When to write a checkpoint and which to keep: the options of `train` of these names."""

    checkpoint_every: int | None = None
    keep: int | None = 3
    best: str | None = None
    best_mode: Literal["max", "min"] = "max"

    def __post_init__(self):
        for name in ("checkpoint_every", "keep"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ExperimentError(f"{name} must be an integer of at least 1, or None, not {value!r}.")
        if self.best_mode not in ("max", "min"):
            raise ExperimentError(f'best_mode must be "max" or "min", not {self.best_mode!r}.')


class Saving(Hook):
    """Writes checkpoints of a run, and ends it at a signal.

    Args:
      run: the run's folder.
      settings: what the run's numbers depend on; a run that is resumed must have the same.
      recorder: its records are on the disk before the checkpoint is.
      signals: are asked after each step.
      policy: when to write, and which to keep.
      start: the step that the run goes on from.
      stop: the step it ends at.
      data_state: what to save of the data's place before a step, for data that are no function of the step.
    """

    def __init__(
        self,
        run: Path,
        settings: dict[str, Any],
        recorder: Recorder,
        signals: Signals,
        policy: Policy,
        start: int,
        stop: int,
        data_state: Callable[[int], Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._settings, self._recorder, self._signals = settings, recorder, signals
        self._policy, self._stop = policy, stop
        self._writer = CheckpointWriter(run, policy.keep, policy.best, policy.best_mode)
        self._best_value, self._data_state = self._writer.best_value(), data_state
        self._saved = start if self._writer.last() else None  # the step of the last checkpoint
        self._latest: tuple[int, TrainState] | None = None
        self._clock, self._saved_at = clock, clock()

    def after_step(self, updates: int, state: TrainState) -> None:
        self._latest = updates, state
        is_best = self._is_best(updates)
        if self._is_due(updates) or is_best:
            try:
                self._save(updates, state)
            except CheckpointError as error:
                self._go_on_without(error, updates)
        self._signals.raise_received(updates)

    def _is_due(self, updates: int) -> bool:
        if updates == self._stop:
            return self._policy.checkpoint_every is not None or self._saved is not None
        if self._policy.checkpoint_every is not None:
            return updates % self._policy.checkpoint_every == 0
        # clocks of several processes differ, and all must save at the same step
        return jax.process_count() == 1 and self._clock() - self._saved_at >= SECONDS_BETWEEN

    def _is_best(self, updates: int) -> bool:
        evaluated_at, metrics = self._recorder.evaluation
        name, better = self._policy.best, max if self._policy.best_mode == "max" else min
        if name is None or evaluated_at != updates:
            return False
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
        self._recorder.flush()  # raises if a loss is not finite: such a state is not worth keeping
        self._saved_at = self._clock()
        if _has_nan(state.params):
            self._recorder.say(f"step {updates}: no checkpoint, for there is NaN in the parameters")
            return
        evaluated_at, metrics = self._recorder.evaluation
        self._writer.write(
            state,
            {
                "step": updates,
                "data": None if self._data_state is None else self._data_state(updates),
                "settings": self._settings,
                "metrics": metrics if evaluated_at == updates else {},
                "metrics_bytes": self._recorder.written(),
            },
        )
        self._saved = updates

    def _go_on_without(self, error: CheckpointError, updates: int) -> None:
        """A run that lives is worth more than a checkpoint; but the last one is what the run was for."""
        if updates == self._stop:
            raise error
        self._recorder.say(f"{error} The run goes on, and tries again at the next checkpoint.")

    def close(self, error: BaseException | None) -> None:
        """Save the last state if the run was stopped between two steps, and wait for the disk.

        Raises:
          CheckpointError: the run ended well, but its last checkpoint could not be written.
        """
        try:
            if error is not None and _leaves_a_good_state(error) and self._latest and _is_whole(self._latest[1]):
                self._save(*self._latest)
            self._writer.close()
        except Exception as failure:
            if error is None:
                raise
            self._recorder.say(f"the last state is not saved: {failure}")
        if error is not None and (last := self._writer.last()) is not None:
            self._recorder.say(f"{last.step} steps are saved. To go on from there: resume=True, or --resume")


def _leaves_a_good_state(error: BaseException) -> bool:
    """Not after a NaN; nor after a second Ctrl-C, which wants an end without delay."""
    stopped = isinstance(error, (Interrupted, Terminated))
    return stopped or (isinstance(error, Exception) and not isinstance(error, FloatingPointError))


def _is_whole(state: TrainState) -> bool:
    """Whether the state's memory was not given to a step, which then failed."""
    return not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))


@jax.jit
def _has_nan(tree: Any) -> jax.Array:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.any(jnp.array([jnp.any(jnp.isnan(leaf)) for leaf in leaves], dtype=bool))
