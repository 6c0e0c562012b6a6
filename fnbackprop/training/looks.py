"""What looks at a run before its steps. Each is imported by the runs that have it: all together take as long as a small
program takes to compile."""

from collections.abc import Iterator
from typing import Any

from fnbackprop.experiment import Experiment

from .layout import Layout
from .record.run_log import RunLog
from .run import Run
from .run_folder import RunFolder


def looks_at(
    run: Run, part: Experiment, update: str, log: RunLog, folder: RunFolder | None, layout: Layout | None
) -> Iterator[Any]:
    """What looks at one update: `before_step(step, state, batch) -> metrics, or None`, and maybe `close(error)`.

    Args:
      run: what `train` was asked to do.
      part: the update, as an experiment.
      update: its name, "" if there are no others.
      log: where it speaks.
      folder: the run's; None writes nothing.
      layout: of a run on a mesh.
    """
    if run.backward == "both":
        from .gradient_check import GradientCheck

        yield GradientCheck(part, run.compare_every, log, folder, layout, update, run.fuse)
    if run.balance_every is not None:
        from .step_balance import StepBalance

        yield StepBalance(part, run.balance_every)
    if run.watch:
        from .watch_steps import WatchSteps

        yield WatchSteps(part, run.watch, log, update)
