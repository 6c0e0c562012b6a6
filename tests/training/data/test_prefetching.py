"""Batches made ahead: in order, with their errors, as in the asking thread; and no thread is left behind."""

import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.training.data.prefetching import MOST_LOST, QUICK, Prefetch, WhileQuick, batches_of, to_device


def test_in_order_and_ahead():
    made = []

    def batch(step):
        made.append(step)
        return {"x": np.full((2,), step, np.float32)}

    with Prefetch(batch, 3, 9, ahead=2) as batches:
        found = [batches(step) for step in range(3, 6)]
        while len(made) < 6:
            time.sleep(0.001)
        assert [int(found["x"][1]) for found in found] == [3, 4, 5]
        assert isinstance(found[0]["x"], jax.Array)
        time.sleep(0.02)
        assert len(made) == 6  # two wait, and one is held until there is room
    assert not any(thread.name == "prefetch" for thread in threading.enumerate())


def test_a_reused_array_does_no_harm():
    buffer = np.zeros(1000, np.float32)

    def batch(step):
        buffer.fill(step)
        return buffer

    with Prefetch(batch, 0, 5) as batches:
        time.sleep(0.02)
        assert [float(batches(step).sum()) for step in range(5)] == [0, 1000, 2000, 3000, 4000]


def test_an_error_comes_at_its_step_and_from_its_line():
    def batch(step):
        return 1 / (2 - step)

    with Prefetch(batch, 0, 9) as batches:
        assert [float(batches(step)) for step in (0, 1)] == [0.5, 1.0]
        for _ in range(2):
            with pytest.raises(ZeroDivisionError) as raised:
                batches(2)
        assert raised.traceback[-1].name == "batch"


def test_the_thread_has_the_settings_of_the_one_that_asks(x64):
    def batch(step):
        return np.float64(0.1), jnp.linspace(0.0, 1.0, 3), jax.config.jax_numpy_dtype_promotion

    with Prefetch(lambda step: batch(step)[:2], 0, 1) as batches, jax.numpy_dtype_promotion("standard"):
        assert all(part.dtype == jnp.float64 for part in batches(0))
    with jax.numpy_dtype_promotion("standard"), Prefetch(batch, 0, 1, place=lambda batch: batch[2]) as batches:
        assert batches(0) == "standard"


@pytest.mark.parametrize("ahead", [0, 2])
def test_on_the_host_arrays_stay_but_for_their_dtypes(ahead):
    made = {"x": np.arange(3.0), "y": np.arange(3)}
    with batches_of(lambda step: made, 0, 1, ahead=ahead) as batches:
        found = batches(0)
    assert found["x"].dtype == np.float32 and found["y"].dtype == np.int32
    assert jax.tree.map(jax.typeof, found) == jax.tree.map(jax.typeof, jax.device_put(made))
    on_host = jax.default_backend() == "cpu"
    assert isinstance(found["x"], np.ndarray) == on_host and not np.shares_memory(made["x"], np.asarray(found["x"]))
    mixed = to_device({"x": made["x"], "scale": 2.0})
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(mixed))


@pytest.mark.parametrize("ahead", [0, 2])
def test_without_jit_a_batch_is_of_jax_arrays(ahead):
    with jax.disable_jit(), batches_of(lambda step: np.arange(3.0), 0, 1, ahead=ahead) as batches:
        np.testing.assert_array_equal(batches(0).at[0].set(5.0), [5, 1, 2])


def test_steps_come_one_after_another():
    with Prefetch(lambda step: step, 0, 2) as batches:
        batches(0)
        with pytest.raises(RuntimeError, match=r"batch\(5\) was asked for, but the next is batch\(1\)"):
            batches(5)
        with pytest.raises(RuntimeError, match=r"no batch after those of range\(0, 2\)"):
            batches(2)


@pytest.mark.parametrize("ahead", [1, 4])
def test_it_ends_whenever_it_is_left(ahead):
    for taken in range(4):
        with Prefetch(lambda step: np.zeros(3), 0, 1000, ahead=ahead) as batches:
            for step in range(taken):
                batches(step)
    assert not any(thread.name == "prefetch" for thread in threading.enumerate())


def threads():
    return [thread.name for thread in threading.enumerate() if thread.name == "prefetch"]


@pytest.mark.parametrize("seconds, slow, by_a_thread_from", [
    (0.6 * MOST_LOST, [], 8),
    (0.6 * MOST_LOST, [2, 4, 6], 8),
    (0.6 * MOST_LOST, [2, 3], 4),
    (0.6 * MOST_LOST, [0, 1], 2),
    (0.6 * MOST_LOST, [5, 6], 7),
    (0.6 * MOST_LOST, [6, 7], 8),
    (0.3 * MOST_LOST, [1, 2, 3], 8),  # late, and then quick again
    (0.3 * MOST_LOST, [1, 2, 3, 4, 5], 5),
])  # fmt: skip
def test_quick_batches_are_made_when_they_are_asked_for_until_slow_ones_cost_time(seconds, slow, by_a_thread_from):
    now, made_by = [0.0], []

    def batch(step):
        now[0] += seconds if step in slow else QUICK / 10
        made_by.append(threading.current_thread().name)
        return np.full(2, step, np.float32)

    with WhileQuick(batch, 8, place=to_device, ahead=2, clock=lambda: now[0]) as batches:
        assert [int(batches(step)[0]) for step in range(8)] == list(range(8))
    assert made_by == ["MainThread"] * by_a_thread_from + ["prefetch"] * (8 - by_a_thread_from) and not threads()


@pytest.mark.parametrize("batches, by_a_thread", [(50, False), (200, True)])
def test_what_is_a_little_slow_for_long_is_made_by_a_thread(batches, by_a_thread):
    now = [0.0]

    def batch(step):
        now[0] += QUICK * 1.9 if step % 4 else QUICK / 2  # a gain now and then does not make up for it
        return np.zeros(2)

    with WhileQuick(batch, 300, place=to_device, ahead=2, clock=lambda: now[0]) as made:
        for step in range(batches):
            made(step)
        assert bool(threads()) == by_a_thread


@pytest.mark.parametrize("seconds, thread", [(0.0, []), (2 * QUICK, ["prefetch"]), (float("inf"), ["prefetch"])])
def test_what_takes_long_or_may_is_made_by_a_thread_at_once(seconds, thread):
    with batches_of(lambda step: np.zeros(2), 0, 9, seconds=seconds) as batches:
        assert threads() == thread and batches(0).shape == (2,)


def test_an_error_of_a_quick_batch_comes_at_its_step():
    with batches_of(lambda step: np.float32(1 / (1 - step)), 0, 9, seconds=0.0) as batches:
        assert batches(0) == 1
        with pytest.raises(ZeroDivisionError):
            batches(1)
