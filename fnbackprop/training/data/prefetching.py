"""The next batches, made by a thread while the device computes the current step, unless they are made at once."""

import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np

from fnbackprop.experiment import ExperimentError

QUICK = 2e-4  # seconds: to hand a batch over from a thread takes about as long
MOST_LOST = 0.02  # seconds: some batches on end are late where another thread or program has the processor


def batches_of(
    batch: Callable[[int], Any],
    start: int,
    stop: int,
    *,
    place: Callable[[Any], Any] | None = None,
    ahead: int = 2,
    seconds: float = math.inf,
) -> AbstractContextManager[Callable[[int], Any]]:
    """A `Prefetch`; or a function that makes each batch when it is called, if none is to be made ahead, or as long as
    that is quick.

    Args:
      batch, start, stop, place, ahead: as of `Prefetch`.
      seconds: what one batch took to make; infinite if that is not known.

    Raises:
      ExperimentError: `ahead` is negative.
    """
    if ahead < 0:
        raise ExperimentError(f"prefetch must be at least 0 batches, not {ahead}.")
    place = place or to_device
    if not ahead:
        return contextlib.nullcontext(lambda step: place(own_copy(batch(step))))
    if seconds > QUICK:
        return Prefetch(batch, start, stop, place=place, ahead=ahead)
    return WhileQuick(batch, stop, place=place, ahead=ahead)


class WhileQuick:
    """`batch(step)`, made when it is called until that costs time; then by a `Prefetch`.

    It does when two batches on end are slow, and the time that was lost by slow ones is more than what quick ones have
    gained since.

    Args:
      batch, stop, place, ahead: as of `Prefetch`.
      clock: seconds.
    """

    def __init__(
        self,
        batch: Callable[[int], Any],
        stop: int,
        *,
        place: Callable[[Any], Any],
        ahead: int,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._batch, self._stop, self._place, self._ahead, self._clock = batch, stop, place, ahead, clock
        self._was_slow, self._lost = False, 0.0
        self._prefetch: Prefetch | None = None

    def __enter__(self) -> "WhileQuick":
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._prefetch is not None:
            self._prefetch.close()

    def __call__(self, step: int) -> Any:
        """The batch of this step, which must be the one after the last."""
        if self._prefetch is not None:
            return self._prefetch(step)
        began = self._clock()
        found = self._place(own_copy(self._batch(step)))
        over = self._clock() - began - QUICK
        was_slow, self._was_slow, self._lost = self._was_slow, over > 0, max(self._lost + over, 0.0)
        if self._lost > MOST_LOST and was_slow and self._was_slow and step + 1 < self._stop:
            self._prefetch = Prefetch(self._batch, step + 1, self._stop, place=self._place, ahead=self._ahead)
        return found


def to_device(batch: Any) -> Any:
    """The batch on the default device.

    Where that is the host, numpy's arrays stay, in the dtypes that JAX has: a compiled step takes them at once, and
    `jax.device_put` needs longer than a small step. A step that is not compiled hands the loss what it is given, and
    under `jax.transfer_guard` only what is put on a device goes there.
    """
    compiled = jax.default_backend() == "cpu" and not jax.config.jax_disable_jit  # type: ignore[attr-defined]
    guarded = jax.config.jax_transfer_guard_host_to_device not in (None, "allow")  # type: ignore[attr-defined]
    leaves, structure = jax.tree.flatten(batch)
    if not compiled or guarded or not all(isinstance(leaf, np.ndarray) for leaf in leaves):
        return jax.device_put(batch)
    return structure.unflatten(leaf.astype(jax.dtypes.canonicalize_dtype(leaf.dtype), copy=False) for leaf in leaves)


SECONDS_TO_END = 5.0


class Prefetch:
    """`batch(step)` for the steps from `start` to `stop`, in order; a few are made ahead and put on the devices.

    A context manager: leaving it ends the thread. An error of `batch` is raised again at the step that it belongs to,
    with its own traceback.

    Args:
      batch: the pure function, called in the thread with start, start + 1, ..., stop - 1.
      start, stop: the range of steps.
      place: puts a batch on the devices; it too is called in the thread.
      ahead: the largest number of batches made ahead, at least 1.
    """

    def __init__(
        self,
        batch: Callable[[int], Any],
        start: int,
        stop: int,
        *,
        place: Callable[[Any], Any] = jax.device_put,
        ahead: int = 2,
    ):
        self._batch, self._place = batch, place
        self._steps, self._settings = range(start, stop), _settings()
        self._ready: queue.Queue = queue.Queue(maxsize=ahead)
        self._ended, self._error = threading.Event(), None
        self._thread = threading.Thread(target=self._work, name="prefetch", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Prefetch":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def __call__(self, step: int) -> Any:
        """The batch of this step, which must be the one after the last."""
        if self._error is None:
            made_for, batch, self._error = self._ready.get()
        if self._error is not None:
            raise self._error
        if made_for != step:
            raise RuntimeError(f"batch({step}) was asked for, but the next is batch({made_for})")
        return batch

    def close(self) -> None:
        """End the thread; waits for the batch that it is making, but not for ever: it may never come."""
        self._ended.set()
        while not self._ready.empty():  # it may wait for room
            self._ready.get_nowait()
        self._thread.join(SECONDS_TO_END)

    def _work(self) -> None:
        with _set(self._settings):
            for step in self._steps:
                try:
                    self._ready.put((step, self._place(own_copy(self._batch(step))), None))
                except BaseException as error:
                    self._ready.put((step, None, error))
                    return
                if self._ended.is_set():
                    return
            self._ready.put((None, None, RuntimeError(f"there is no batch after those of {self._steps}")))


def own_copy(batch: Any) -> Any:
    """The batch in memory of its own: the next may be made in the same arrays while this one is still on its way."""
    return jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, batch)


# JAX keeps these for each thread; a batch must be the same as if made in the thread that trains.
_OF_THREADS = {
    "jax_enable_x64": jax.enable_x64,
    "jax_default_device": jax.default_device,
    "jax_disable_jit": jax.disable_jit,
    "jax_numpy_dtype_promotion": jax.numpy_dtype_promotion,
    "jax_numpy_rank_promotion": jax.numpy_rank_promotion,
    "jax_transfer_guard_host_to_device": jax.transfer_guard_host_to_device,
}


def _settings() -> dict[str, Any]:
    return {name: getattr(jax.config, name) for name in _OF_THREADS}


@contextlib.contextmanager
def _set(settings: dict[str, Any]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for name, value in settings.items():
            stack.enter_context(_OF_THREADS[name](value))
        yield
