"""`backward="both"`: the run uses the manual gradient and compares it with the automatic one at regular steps."""

import json
import math
from typing import Any

import jax

from fnbackprop.blocks.fusing.rewriting import with_blocks
from fnbackprop.comparing.arrays import relative_error
from fnbackprop.comparing.comparison import Comparison, GradientMismatch
from fnbackprop.comparing.gradient_sources import value_and_grad_by
from fnbackprop.comparing.pipeline import compare
from fnbackprop.comparing.results import LeafComparison, Verdict
from fnbackprop.experiment import Experiment

from .layout import Layout
from .record.run_log import RunLog
from .run_folder import RunFolder, write_json
from .step.loss_gradient import loss_in_precision, split_batch
from .step.mixed_precision import precision_of
from .step.state import TrainState


class GradientCheck:
    """Compares the two gradients before a step; raises GradientMismatch when they disagree.

    The first time with `fb.compare`, which measures how much error rounding explains in each leaf. After that, one
    compiled program checks both gradients against these bounds, and `fb.compare` is called again if a leaf exceeds its.

    Args:
      experiment: what is trained.
      every: steps between two comparisons.
      log: reports what cannot be written.
      folder: the run's; its `comparison.json` has the last result of `fb.compare` and the largest error since. None
        writes nothing.
      layout: of a run on a mesh.
      update: the name of the update, if a step makes several.
      fuse: the manual gradient is that of the loss with blocks in it; the automatic one, of the loss as it is.
    """

    def __init__(
        self,
        experiment: Experiment,
        every: int,
        log: RunLog,
        folder: RunFolder | None = None,
        layout: Layout | None = None,
        update: str = "",
        fuse: bool = False,
    ):
        self._plain = loss_in_precision(experiment, precision_of(experiment.precision))
        self._loss = with_blocks(self._plain) if fuse else self._plain
        self._every, self._layout, self._accumulate = every, layout, experiment.accumulate
        self._log, self._path = log, None if folder is None else folder.comparison_of(update)
        self._comparison: Comparison | None = None
        self._allowed: list[float] = []
        self._noisy: set[int] = set()  # leaves in which rounding explained any error
        self._steps: list[int] = []  # of the comparison, and of the checks since
        self._largest: list[float] = []  # the largest error of each leaf since
        self._both = jax.jit(self._both_gradients)

    def before_step(self, step: int, state: TrainState, batch: Any) -> None:
        if step % self._every:
            return
        if self._accumulate > 1:  # one microbatch, for more may not fit
            arrays, whole = split_batch(batch, self._accumulate)
            batch = whole([array[0] for array in arrays])
        key = jax.random.fold_in(state.key, state.step)
        model_state = () if state.model_state is None else (state.model_state,)
        arguments = self._gathered((state.params, batch, key, *model_state))
        if self._comparison is None or self._exceeds_bounds(step, *arguments):
            self._compare(step, *arguments)

    def close(self, error: BaseException | None) -> None:
        if len(self._steps) > 1:
            self._write()

    def _gathered(self, arguments: Any) -> Any:
        """The arguments on every device, so that this process can read them."""
        if self._layout is None:
            return arguments
        return jax.jit(lambda tree: tree, out_shardings=self._layout.replicated)(arguments)

    def _both_gradients(self, *arguments: Any) -> tuple[Any, Any]:
        with jax.default_matmul_precision("highest"):  # as `fb.compare` has it
            manual, automatic = (
                value_and_grad_by(backward)(loss, has_aux=True)(*arguments)[1]
                for backward, loss in (("manual", self._loss), ("automatic", self._plain))
            )
        return manual, automatic

    def _exceeds_bounds(self, step: int, *arguments: Any) -> bool:
        """Whether the error of some leaf exceeds its bound; NaN does."""
        manual, automatic = map(jax.tree.leaves, jax.device_get(self._both(*arguments)))
        errors = [relative_error(ours, theirs) for ours, theirs in zip(manual, automatic, strict=True)]
        if any(not e <= allowed for e, allowed in zip(errors, self._allowed, strict=True)):
            return True
        self._steps.append(step)
        self._largest = list(map(max, self._largest, errors))
        return False

    def _compare(self, step: int, *arguments: Any) -> None:
        self._comparison = compare(self._loss, *arguments, directions=0)
        self._steps, self._largest = [step], [0.0] * len(self._comparison.leaves)
        self._allowed = [self._limit(i, leaf) for i, leaf in enumerate(self._comparison.leaves)]
        self._write()
        if self._comparison.verdict in (Verdict.FAIL, Verdict.NON_FINITE):
            raise GradientMismatch(self._comparison)

    def _limit(self, i: int, leaf: LeafComparison) -> float:
        """The error above which `fb.compare` is called again: 0 if the leaf was zero, or noise for the first time."""
        first = leaf.verdict is Verdict.NOISE_LIMITED and i not in self._noisy
        if first:
            self._noisy.add(i)
        return 0.0 if first or math.isnan(leaf.allowed) else leaf.allowed

    def _write(self) -> None:
        """Write `comparison.json`; a full disk is no reason to lose the run."""
        if self._path is None:
            return
        found = json.loads(self._comparison.to_json())
        for leaf, largest in zip(found["leaves"], self._largest, strict=True):
            leaf["largest"] = largest
        try:
            write_json(self._path, found | {"steps": self._steps})
        except OSError as error:
            self._log.say(f"{self._path} cannot be written: {error}")
