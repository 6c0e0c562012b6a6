"""`backward="both"`: training by the manual backward, with the automatic one beside it every so many steps."""

from typing import Any

import jax

from fnbackprop import trees
from fnbackprop.comparing.gradients import compare
from fnbackprop.comparing.leaves import relative_error
from fnbackprop.comparing.verdict import GradientMismatch, Verdict
from fnbackprop.comparing.witnesses import value_and_grad_by
from fnbackprop.experiment import Experiment, ExperimentError

from .gradients import loss_in_precision, split_batch
from .hooks import Hook
from .precision import precision_of
from .sharding import Layout
from .state import TrainState


class GradientCheck(Hook):
    """Compares the two gradients of the step that follows; raises GradientMismatch when they part.

    The first time by `fb.compare`, which measures what rounding explains for each leaf. From then on both gradients
    are held to that by one compiled program, and `fb.compare` is asked again if one leaf is beyond it.
    """

    def __init__(self, experiment: Experiment, every: int, layout: Layout | None = None):
        if every < 1:
            raise ExperimentError(f"compare_every must be at least 1, not {every}.")
        self._loss = loss_in_precision(experiment, precision_of(experiment.precision))
        self._every, self._layout, self._accumulate = every, layout, experiment.accumulate
        self._allowed: dict[str, float] | None = None
        self._both = jax.jit(self._both_gradients)

    def before_step(self, step: int, state: TrainState, batch: Any) -> None:
        if step % self._every:
            return
        if self._accumulate > 1:  # one microbatch, for more may not fit
            arrays, whole = split_batch(batch, self._accumulate)
            batch = whole([array[0] for array in arrays])
        key = jax.random.fold_in(state.key, state.step)
        arguments = self._gathered((state.params, batch, key))
        if self._allowed is None or self._parted(*arguments):
            self._compare(*arguments)

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

    def _parted(self, params: Any, batch: Any, key: jax.Array) -> bool:
        """Whether some leaf is further off than was allowed before; NaN is."""
        manual, automatic = jax.device_get(self._both(params, batch, key))
        pairs = zip(trees.leaves_with_paths(automatic), jax.tree.leaves(manual), strict=True)
        return any(not relative_error(ours, theirs) <= self._allowed[path] for (path, theirs), ours in pairs)

    def _compare(self, params: Any, batch: Any, key: jax.Array) -> None:
        comparison = compare(self._loss, params, batch, key, directions=0)
        if comparison.verdict in (Verdict.FAIL, Verdict.NON_FINITE):
            raise GradientMismatch(comparison)
        paths = [path for path, _ in trees.leaves_with_paths(params)]
        allowed = [leaf.allowed for leaf in comparison.leaves]
        self._allowed = {path: 0.0 if a != a else a for path, a in zip(paths, allowed, strict=True)}  # two zeros: NaN
