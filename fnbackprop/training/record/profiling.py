"""`--profile`: a trace of a few steps for Perfetto, and the speed of a step relative to the peak of the device."""

import time
from typing import Any

import jax

from fnbackprop.experiment import Experiment

from ..run_folder import RunFolder
from ..step.state import TrainState
from .flops import peak_of, step_flops
from .run_log import RunLog
from .throughput import short

WARM_UP, TIMED, TRACED = 3, 10, 3  # steps, one after the other


class Profile:
    """Times some steps, then traces a few; in a short run, as many as there are.

    Args:
      experiment: what is trained.
      folder: the run's; the trace goes below it.
      log: reports the result.
      start, stop: the first step, and the one after the last.
    """

    def __init__(self, experiment: Experiment, folder: RunFolder, log: RunLog, start: int, stop: int):
        self._experiment, self._folder, self._log = experiment, folder.profile, log
        steps = stop - start
        warm_up, traced = min(WARM_UP, max(1, steps // 3)), min(TRACED, max(1, steps // 3))
        self._time_from = start + warm_up
        self._trace_from = max(self._time_from, min(self._time_from + TIMED, stop - traced))
        self._trace_until = min(self._trace_from + traced, stop)
        self._flops, self._tracing, self._began = 0, False, 0.0

    def before_step(self, step: int, state: TrainState, batch: Any) -> None:
        if step == self._time_from:
            self._flops = sum(self._flops_of(part, state, batch) for part in self._experiment.parts.values())
            jax.block_until_ready(state)
            self._began = time.perf_counter()
        if step == self._trace_from:
            jax.block_until_ready(state)
            self._say_speed(step - self._time_from, time.perf_counter() - self._began)
            jax.profiler.start_trace(str(self._folder), create_perfetto_trace=True)
            self._tracing = True

    @staticmethod
    def _flops_of(part: Experiment, state: TrainState, batch: Any) -> int:
        arguments = part.loss_arguments(state.params, batch, state.key, state.model_state)
        return step_flops(part.loss, *arguments)

    def after_step(self, updates: int, state: TrainState) -> None:
        if updates == self._trace_until and self._tracing:
            jax.block_until_ready(state)
            self._end()

    def close(self, error: BaseException | None) -> None:
        if self._tracing:
            self._end()

    def _end(self) -> None:
        self._tracing = False
        jax.profiler.stop_trace()
        traces = sorted(self._folder.rglob("*perfetto_trace.json.gz"))
        self._log.say(f"profile: open {traces[-1] if traces else self._folder} in https://ui.perfetto.dev")

    def _say_speed(self, steps: int, seconds: float) -> None:
        if not steps:
            return
        lines = describe_speed(seconds / steps, self._flops, self._log.amount, jax.devices())
        self._log.say("profile: " + ", ".join(lines))


def describe_speed(seconds: float, flops: int, amount: Any, devices: list[Any]) -> list[str]:
    """The time, throughput and utilisation of a step, in a few words each.

    Args:
      seconds: of a step.
      flops: of a step, on all devices together.
      amount: of data in a step, if it is known.
      devices: all of the run's.
    """
    words = [f"{seconds * 1e3:.4g} ms a step"]
    if amount is not None:
        words.append(f"{short(amount.count / seconds)} {amount.unit}/s")
    words.append(f"{short(flops)}FLOP a step, {short(flops / seconds)}FLOP/s")
    kind, peak = devices[0].device_kind, peak_of(devices[0].device_kind)
    if peak is None:
        return [*words, f"utilisation unknown (no peak on record for {kind})"]
    used = flops / seconds / (peak * len(devices))
    return [*words, f"{used:.1%} of {short(peak * len(devices))}FLOP/s in bfloat16 ({len(devices)} x {kind})"]
