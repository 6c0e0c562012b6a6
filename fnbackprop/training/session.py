"""What surrounds the steps of a run: its first state, its batches, its log, its checkpoints."""

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import jax

from fnbackprop.experiment import ExperimentError

from .callbacks import Patience, ask
from .checkpoints.compatibility import require_own_state
from .checkpoints.resuming import Beginning, begin
from .checkpoints.schedule import CheckpointSchedule
from .claim import Claim
from .compiling import Programs, StepFunction
from .data.batch_shapes import BatchShapes
from .data.first_batch import first_batch
from .data.prefetching import batches_of
from .data.streams import Stream
from .first_notes import first_notes
from .layout import Layout, make_layout
from .loggers.group import Loggers
from .looks import looks_at
from .mesh import leads, make_mesh
from .peers import watched_peers
from .record.model_file import write_model
from .record.nonfinite_batch import keep_nonfinite_batch
from .record.run_description import RunDescription
from .record.run_log import RunLog
from .record.throughput import amount_of
from .run import Run
from .run_folder import RunFolder
from .step.several_updates import metrics_of_made
from .step.state import TrainState, abstract_state, adopted_state, initial_state, part_of
from .stopping import Signals
from .trial import Trial

LAYER_POINTS = 200  # how many steps of a run write the gradient norm of every layer


class Session:
    """What `train` needs around its steps, opened in order and closed in the reverse order; a context manager.

    Args:
      run: what `train` was asked to do.
      step: not compiled yet.
      layout: of a run on a mesh.

    Attributes:
      state: the state before the first step, new or from a checkpoint.
      step: as one program; of a new run on one device, it is being compiled when the session has been opened.

    Raises:
      ExperimentError: the state that is given is of another experiment, or past the step to stop at.
      CheckpointError: the run to go on with is in use, or cannot be resumed.
    """

    def __init__(self, run: Run, step: StepFunction, layout: Layout | None = None):
        self._run, self._layout = run, layout
        self._title = f"{run.name}, {run.backward} backward"
        self._programs = Programs(run.experiment, step, layout)
        self.step: StepFunction = self._programs.step
        self._stream = run.experiment.batch if isinstance(run.experiment.batch, Stream) else None
        self._shapes, self._first_batch = BatchShapes(run.experiment.batch_shapes), True
        self._batch_seconds = math.inf  # what one takes to make, as far as is known
        self._signals: Signals | None = None
        self._looks: list[tuple[str, Any]] = []  # what is looked at before a step, each of the update of this name
        self._profile: Any = None
        self._measured: dict[str, float] = {}  # of the step that is next
        self._checkpoints: CheckpointSchedule | None = None
        self._patience = None if run.patience is None else Patience(run.best or "", run.best_direction, run.patience)
        self._stopped_by, self._asks_to_save = "", False

    def __enter__(self) -> "Session":
        with ExitStack() as stack:
            self._peers = stack.enter_context(watched_peers(self._run.batch_timeout))
            self._folder = None if self._run.directory is None else stack.enter_context(Claim(self._run)).folder
            with Trial(self._run, self._folder) as trial:
                self._begin(trial)
                self._signals = stack.enter_context(Signals())
                if self._first < self._run.stop:
                    self._notes += trial.finish(self.state, self._data_state(self._first), self._written)
            self._open(stack)
            self._stack = stack.pop_all()  # closed by __exit__; here, only if opening failed
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._stack.__exit__(*error)

    def _begin(self, trial: Trial) -> None:
        """Find the state and the data to begin with; threads begin the trial and compile while `init` computes."""
        run, experiment, first = self._run, self._run.experiment, None
        if run.state is not None:
            require_own_state(experiment, run.state)
            state = adopted_state(run.state, self._layout)
        else:
            if not run.resume and run.stop > 0:
                first = first_batch(experiment.batch, 0)
                shapes = self._programs.begin_step(first.batch)
                if not run.overwrite:  # which makes room on the disk
                    trial.begin(shapes, self._data_state(0))
            state = initial_state(experiment, self._layout)
        beginning, restore = Beginning(state, []), self._restore_stream if self._stream else None
        if self._folder is not None:
            beginning = begin(run, self._folder, state, restore)
        self.state, self._notes, self._data = beginning
        self._first = int(self.state.step)
        if self._first > run.stop:
            raise ExperimentError(
                f"the state has {self._first} steps behind it, but the run is to stop at step {run.stop}. Steps are "
                "counted from the beginning: ask for more."
            )
        if self._data is None and self._first < run.stop:
            first = first or first_batch(experiment.batch, self._first)
            self._data, self._batch_seconds = first.fingerprint, first.seconds
            self._programs.begin(self.state, first.batch, self._written)

    def _restore_stream(self, step: int, saved: Any) -> None:
        """Go to where the data were; that it may take a while is told, before there is a log."""
        self._stream.restore(step, saved)
        if (count := self._stream.to_skip(step)) and self._run.progress and leads():
            print(
                f"{self._run.name}: skipping {count} batches that were used: the iterator cannot be told to", flush=True
            )

    def _open(self, stack: ExitStack) -> None:
        run, first, experiment, folder = self._run, self._first, self._run.experiment, self._folder
        written = folder if leads() else None
        self._log = RunLog(run.name, written, start=first, stop=run.stop, progress=run.progress and leads())
        log = stack.enter_context(self._log)
        log.most_skipped = experiment.skip_nonfinite or 0
        log.layers_every = max(1, experiment.steps // LAYER_POINTS)
        stack.callback(log.say_what_is_there, self._title)
        self._description = RunDescription(run, written, log, self.state)
        _close_with_error(stack, self._description.close)
        if run.loggers and leads():
            log.loggers = Loggers(run.loggers, log.say)
            log.loggers.start(self._description.run_start())
        if run.profile and written is not None:
            from .record.profiling import Profile

            self._profile = Profile(experiment, written, log, first, run.stop)
            _close_with_error(stack, self._profile.close)
        if run.balance_every is not None:
            from .record.run_watch import RunWatch

            log.watch = RunWatch()
        for name, part in experiment.parts.items():
            for look in looks_at(run, part, name, log, written, self._layout):
                if hasattr(look, "close"):
                    _close_with_error(stack, look.close)
                self._looks.append((name, look))
        _close_with_error(stack, lambda error: keep_nonfinite_batch(experiment, folder, error))
        if folder is not None:
            self._checkpoints = CheckpointSchedule(run, folder, log, first, self._data_state, self._data)
            _close_with_error(stack, self._checkpoints.close)
        for note in self._notes:
            log.say(note)
        place = None if self._layout is None else self._layout.place
        ahead, seconds = run.prefetch, self._batch_seconds
        batches = batches_of(experiment.batch, first, run.stop, place=place, ahead=ahead, seconds=seconds)
        self._batches = stack.enter_context(batches)
        if first and folder is not None:
            self._make_up_evaluation(folder)
        if self._patience is not None and first and folder is not None:
            self._stopped_by = self._patience.resume(folder.read_metrics())
        self._began = time.monotonic()

    def _data_state(self, step: int) -> Any:
        """Where the data are before a step, if `batch` is not a function of it."""
        return None if self._stream is None else self._stream.state(step)

    def steps(self) -> Iterator[int]:
        """The steps to make, until the last or until something asks for a stop."""
        for step in range(self._first, self._run.stop):
            if self._stopped_by:
                return
            yield step

    def batch(self, step: int, state: TrainState) -> Any:
        """The batch of a step that this state comes before; raises ExperimentError if its shapes are not those of the
        first, and Interrupted or Terminated, with the state, if a signal comes meanwhile."""
        self._peers.waits_for_batch(step)
        with nullcontext() if self._signals is None else self._signals.waiting(state):
            batch = self._batches(step)
        self._peers.has_batch(step)
        for note in first_notes(self._run, self.state, batch) if self._first_batch else ():
            self._log.say(note)
        self._first_batch = False
        if (line := self._shapes.look(batch, step)) is not None:
            self._log.say(f"{self._run.name}  {line}")
        return batch

    def inspect(self, step: int, state: TrainState, batch: Any) -> None:
        """Before a step: what `profile`, `backward="both"`, `balance_every` and `watch` look at."""
        if self._log.amount is None:
            self._log.amount = amount_of(batch)
        if self._profile is not None:
            self._profile.before_step(step, state, batch)
        self._measured = {}
        for update, look in self._looks:
            found = look.before_step(step, part_of(state, update), batch) or {}
            self._measured |= {f"{update}/{name}" if update else name: value for name, value in found.items()}

    def record(self, step: int, state: TrainState, metrics: dict[str, jax.Array]) -> None:
        """Record the metrics of a step that led to this state; the device may still be computing them."""
        made = metrics_of_made(self._run.experiment.updates, step, metrics)
        self._log.add_step(step, {**made, **self._measured})
        self._description.step = step + 1
        if self._checkpoints is not None:
            self._checkpoints.reached(step + 1, state)
        if self._profile is not None:
            self._profile.after_step(step + 1, state)

    def evaluate(self, updates: int, state: TrainState) -> None:
        """Evaluate every `experiment.evaluate_every` updates, and at the end."""
        every = self._run.experiment.evaluate_every
        if updates == self._run.stop or (every is not None and updates % every == 0):
            self._evaluate(updates, state)

    def _make_up_evaluation(self, folder: RunFolder) -> None:
        """Evaluate where a run that is resumed ended, if that was due and failed."""
        rows = folder.read_metrics()
        made = any(row["step"] == self._first and name.startswith("evaluate/") for row in rows for name in row)
        if rows and not made:
            self.evaluate(self._first, self.state)

    def _evaluate(self, updates: int, state: TrainState) -> None:
        if self._run.experiment.evaluate is None or self._log.evaluation[0] == updates:
            return
        self._log.flush()
        self._log.add_evaluation(updates, self._programs.evaluate(state, self._written))

    @property
    def _written(self) -> Path | None:
        """The run's folder, if this process writes there."""
        return self._folder.path if self._folder is not None and leads() else None

    def consult(self, updates: int, state: TrainState, metrics: dict[str, Any]) -> None:
        """Ask the callbacks, and look whether `patience` is at its end; a run that stops is evaluated."""
        evaluated_at, evaluation = self._log.evaluation
        asks = ask(self._run.callbacks, updates, state, metrics, evaluation if evaluated_at == updates else {})
        if asks & {"evaluate", "stop"}:
            self._evaluate(updates, state)
        if "stop" in asks:
            self._stopped_by = "as a callback asked"
        elif self._patience is not None:
            self._stopped_by = self._patience.look(*self._log.evaluation)
        if updates < self._run.stop:
            self._description.stopped_by = self._stopped_by
        self._asks_to_save = bool(self._stopped_by) or "checkpoint" in asks

    def save(self, updates: int, state: TrainState) -> None:
        """Write a checkpoint if one is due; raises Interrupted or Terminated if a signal has ended the run."""
        if self._checkpoints is not None:
            self._checkpoints.save_if_due(updates, state, self._asks_to_save)
        if self._signals is not None:
            self._signals.raise_received(updates, state)

    def finish(self, state: TrainState) -> None:
        """Wait for the last step, write the model, draw the curves, and say how long the run took."""
        run, first = self._run, self._first
        self._log.flush()
        if self._folder is not None and run.checkpoint_every != 0:
            write_model(self._folder, state, self._log)
        last = int(state.step)
        if first == last:
            why = f", {self._stopped_by}" if self._stopped_by else ""
            self._log.say(f"{run.name}: has made its {last} steps already{why}")
            return
        if last < run.stop:
            self._log.say(f"{run.name}: ends after step {last} of {run.stop}, {self._stopped_by}")
        self._log.draw_curves(self._title)  # while the last checkpoint is written
        steps = f"{last} steps" if first == 0 else f"{last - first} steps to step {last}"
        if self._log.watch is not None and (words := self._log.watch.in_words()):
            self._log.say(f"{run.name}: {words}")
        self._log.say(f"{run.name}: {steps}, {time.monotonic() - self._began:.1f} s, {run.backward} backward")


def layout_of(run: Run) -> Layout | None:
    """How the run is placed on its mesh; None on one device. Several processes use all their devices along "data"."""
    mesh = {"data": -1} if run.mesh is None and jax.process_count() > 1 else run.mesh
    return None if mesh is None else make_layout(run.experiment, make_mesh(mesh), abstract_state(run.experiment))


def _close_with_error(stack: ExitStack, close: Any) -> None:
    """When the stack is closed, call `close(error)`, where `error` is what ended the run too early, or None."""
    stack.push(lambda kind, error, trace: close(error))
