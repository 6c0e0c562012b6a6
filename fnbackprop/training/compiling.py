"""Programs that a run needs soon, compiled by threads while the main one does something else."""

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from fnbackprop.experiment import Experiment

from .evaluating import context_of
from .layout import Layout
from .step.state import TrainState, abstract_state

StepFunction = Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]


class CompiledAhead:
    """A function, whose program can be compiled by a thread before it is first called.

    JAX finds the program when the function is called with arguments of the same shapes and dtypes, as if it had
    compiled it then; otherwise that call compiles another. A function that `jax.jit` has not made is only called.

    Args:
      function: of pytrees of arrays.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> double = CompiledAhead(jax.jit(lambda x: 2 * x))
      >>> double.begin(jnp.float32(3))
      >>> print(double(jnp.float32(4)))
      8.0
    """

    def __init__(self, function: Callable[..., Any]):
        self._function = function
        self._thread: threading.Thread | None = None

    @property
    def has_begun(self) -> bool:
        """Whether a thread compiles it, or has done so."""
        return self._thread is not None

    def begin(self, *args: Any) -> None:
        """Trace the function, and let a thread compile it. What goes wrong, goes wrong again where it is called.

        Args:
          args: as it will be called with, or `jax.ShapeDtypeStruct` in the place of arrays.
        """
        if not hasattr(self._function, "lower") or not _may_compile_ahead():
            return
        with contextlib.suppress(Exception):
            # The interpreter waits for it when it ends: it must not go while the compiler is at work.
            self._thread = threading.Thread(target=_compile, args=(self._function.lower(*args),), name="compile ahead")
            self._thread.start()

    def __call__(self, *args: Any) -> Any:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        return self._function(*args)


def _may_compile_ahead() -> bool:
    return not jax.config.jax_disable_jit and jax.process_count() == 1  # type: ignore[attr-defined]


def _compile(lowered: jax.stages.Lowered) -> None:
    with contextlib.suppress(Exception):
        lowered.compile()


class Programs:
    """The step and the evaluation of a run.

    Args:
      experiment: has an `evaluate`, or none.
      step: not compiled yet.
      layout: of a run on a mesh.
    """

    def __init__(self, experiment: Experiment, step: StepFunction, layout: Layout | None):
        self.step = CompiledAhead(compiled(step, layout))
        self._experiment, self._layout = experiment, layout
        self._evaluation = CompiledAhead(experiment.evaluate or (lambda *_: {}))

    def begin_step(self, batch: Any) -> TrainState | None:
        """Let a thread compile the step before there is a state: `init` is called for its shapes alone.

        Returns:
          those of the state; None if they are not known, or of no use.
        """
        if self._is_placed(batch) or not _may_compile_ahead():
            return None
        try:
            shapes = abstract_state(self._experiment)
        except Exception:  # init needs numbers, or is broken
            return None
        self.step.begin(shapes, batch)
        return shapes

    def begin(self, state: TrainState, batch: Any, folder: Path | None) -> None:
        """Let threads compile the evaluation and, if that has not begun, the step."""
        if self._is_placed(batch):
            return
        if not self.step.has_begun:
            self.step.begin(state, batch)
        if self._experiment.evaluate is not None:
            self._evaluation.begin(*state.evaluated, *context_of(self._experiment, state, folder))

    def _is_placed(self, batch: Any) -> bool:
        """Whether a mesh or a batch decides where the state is after the first step."""
        return self._layout is not None or any(getattr(leaf, "committed", False) for leaf in jax.tree.leaves(batch))

    def evaluate(self, state: TrainState, folder: Path | None) -> Any:
        """What the experiment's `evaluate` returns."""
        return self._evaluation(*state.evaluated, *context_of(self._experiment, state, folder))


def compiled(step: StepFunction, layout: Layout | None = None) -> StepFunction:
    """The step as one program, which reuses the memory of the state it is given and keeps its placement."""
    if layout is None:
        return jax.jit(step, donate_argnums=0)
    return jax.jit(step, donate_argnums=0, out_shardings=(layout.state, layout.replicated))
