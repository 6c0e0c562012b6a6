"""`backward="both"`: training by the manual backward, with the automatic one beside it every so many steps."""

import json
import math
from pathlib import Path
from typing import Any

import jax

from fnbackprop.comparing.arrays import relative_error
from fnbackprop.comparing.comparison import Comparison, GradientMismatch
from fnbackprop.comparing.gradient_sources import value_and_grad_by
from fnbackprop.comparing.pipeline import compare
from fnbackprop.comparing.results import LeafComparison, Verdict
from fnbackprop.experiment import Experiment, ExperimentError

from .checkpoints.manifest import write_json
from .hooks import Hook
from .record.run_log import Recorder
from .record.run_report import COMPARISON_FILE
from .sharding_rules import Layout
from .step.loss_gradient import loss_in_precision, split_batch
from .step.mixed_precision import precision_of
from .step.state import TrainState


class GradientCheck(Hook):
    """Compares the two gradients of the step that follows; raises GradientMismatch when they part.

    The first time by `fb.compare`, which measures what rounding explains for each leaf. From then on both gradients
    are held to that by one compiled program, and `fb.compare` is asked again if one leaf is beyond it.

    Args:
      experiment: what is trained.
      every: steps between two comparisons.
      recorder: is told what cannot be written.
      folder: the run's, whose `comparison.json` is the last answer of `fb.compare`, with the largest error since; None
        writes nothing.
      layout: of a run on a mesh.
    """

    def __init__(
        self,
        experiment: Experiment,
        every: int,
        recorder: Recorder,
        folder: Path | None = None,
        layout: Layout | None = None,
    ):
        if every < 1:
            raise ExperimentError(f"compare_every must be at least 1, not {every}.")
        self._loss = loss_in_precision(experiment, precision_of(experiment.precision))
        self._every, self._layout, self._accumulate = every, layout, experiment.accumulate
        self._recorder, self._folder = recorder, folder
        self._comparison: Comparison | None = None
        self._allowed: list[float] = []
        self._noisy: set[int] = set()  # the leaves of which rounding explained anything
        self._steps: list[int] = []  # at which the comparison was made, and held since
        self._largest: list[float] = []  # the largest error of each leaf since
        self._both = jax.jit(self._both_gradients)

    def before_step(self, step: int, state: TrainState, batch: Any) -> None:
        if step % self._every:
            return
        if self._accumulate > 1:  # one microbatch, for more may not fit
            arrays, whole = split_batch(batch, self._accumulate)
            batch = whole([array[0] for array in arrays])
        key = jax.random.fold_in(state.key, state.step)
        arguments = self._gathered((state.params, batch, key))
        if self._comparison is None or self._parted(step, *arguments):
            self._compare(step, *arguments)

    def close(self, error: BaseException | None) -> None:
        if len(self._steps) > 1:
            self._write()

    def _gathered(self, arguments: Any) -> Any:
        """The arguments on every device, so that this process can read them."""
        if self._layout is None:
            return arguments
        return jax.jit(lambda tree: tree, out_shardings=self._layout.replicated)(arguments)

    def _both_gradients(self, params: Any, batch: Any, key: jax.Array) -> tuple[Any, Any]:
        with jax.default_matmul_precision("highest"):  # as `fb.compare` has it
            manual, automatic = (
                value_and_grad_by(backward)(self._loss, has_aux=True)(params, batch, key)[1]
                for backward in ("manual", "automatic")
            )
        return manual, automatic

    def _parted(self, step: int, params: Any, batch: Any, key: jax.Array) -> bool:
        """Whether some leaf is further off than was allowed before; NaN is."""
        manual, automatic = map(jax.tree.leaves, jax.device_get(self._both(params, batch, key)))
        errors = [relative_error(ours, theirs) for ours, theirs in zip(manual, automatic, strict=True)]
        if any(not e <= allowed for e, allowed in zip(errors, self._allowed, strict=True)):
            return True
        self._steps.append(step)
        self._largest = list(map(max, self._largest, errors))
        return False

    def _compare(self, step: int, params: Any, batch: Any, key: jax.Array) -> None:
        self._comparison = compare(self._loss, params, batch, key, directions=0)
        self._steps, self._largest = [step], [0.0] * len(self._comparison.leaves)
        self._allowed = [self._limit(i, leaf) for i, leaf in enumerate(self._comparison.leaves)]
        self._write()
        if self._comparison.verdict in (Verdict.FAIL, Verdict.NON_FINITE):
            raise GradientMismatch(self._comparison)

    def _limit(self, i: int, leaf: LeafComparison) -> float:
        """From which error `fb.compare` is asked again: any, of a leaf that was zero, or noise for the first time."""
        first = leaf.verdict is Verdict.NOISE_LIMITED and i not in self._noisy
        if first:
            self._noisy.add(i)
        return 0.0 if first or math.isnan(leaf.allowed) else leaf.allowed

    def _write(self) -> None:
        """Write `comparison.json`; a full disk is no reason to lose the run."""
        if self._folder is None:
            return
        found = json.loads(self._comparison.to_json())
        for leaf, largest in zip(found["leaves"], self._largest, strict=True):
            leaf["largest"] = largest
        try:
            write_json(self._folder / COMPARISON_FILE, found | {"steps": self._steps})
        except OSError as error:
            self._recorder.say(f"{self._folder / COMPARISON_FILE} cannot be written: {error}")
