"""What happens beside the steps of a run: evaluation, checkpoints, traces, ... each a hook.

The loop calls every hook before and after each step, in their order. A hook that acts only now and then returns at
once at the other steps: a hook that does nothing costs about 0.1 us.
"""

from typing import Any

from fnbackprop.experiment import Experiment

from .record.run_log import Recorder
from .step.state import TrainState


class Hook:
    """Does nothing; a hook overrides what it needs. None of them may keep `state`: the next step reuses its memory."""

    def before_step(self, step: int, state: TrainState, batch: Any) -> None:
        """Called with what the step will be given."""

    def after_step(self, updates: int, state: TrainState) -> None:
        """Called when so many updates have been made (the device may still be busy with the last)."""

    def close(self, error: BaseException | None) -> None:
        """Called once at the end of the run, with what ended it too early, if anything did; the last hook first."""


class Evaluation(Hook):
    """Evaluates every `experiment.evaluate_every` updates, and at the end."""

    def __init__(self, experiment: Experiment, stop: int, recorder: Recorder):
        self._experiment, self._stop, self._recorder = experiment, stop, recorder

    def after_step(self, updates: int, state: TrainState) -> None:
        every = self._experiment.evaluate_every
        if updates == self._stop or (every is not None and updates % every == 0):
            self._recorder.flush()
            self._recorder.evaluated(updates, self._experiment.evaluate(state.averaged))
