"""Spikes are told in a compiled step as `balancing.spikes` tells them; their updates are left out and counted."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnbackprop as fb
from fnbackprop.balancing.spikes import THRESHOLD, WINDOW, Series
from fnbackprop.training.loop import train
from fnbackprop.training.run_folder import read_metrics
from fnbackprop.training.step.spike_window import SpikeWindow
from tests.training.checkpoints.test_checkpoint import assert_same_bits
from tests.training.step.test_weight_update import noisy_regression
from tests.training.test_loop import regression

look = jax.jit(SpikeWindow.look, static_argnums=3)


def test_the_rule_is_that_of_balance():
    draw = np.random.default_rng(0)
    losses, norms = np.exp(0.1 * draw.normal(size=(2, 3 * WINDOW))).astype(np.float32)
    losses[100::37] *= 30
    norms[60::41] *= 50
    losses[5] = -1.0  # has no logarithm
    window, one, other = SpikeWindow.empty(), Series(), Series()
    for loss, norm in zip(losses, norms, strict=True):
        expected = max(one.z(loss) if loss > 0 else 0, other.z(norm)) > THRESHOLD
        window, left_out = look(window, loss, norm, 5)
        assert left_out == expected
    assert window.total > 10 and window.seen.tolist()[0] > 2 * WINDOW
    kept = np.sort(window.logarithms, axis=1)
    np.testing.assert_allclose(kept, np.sort([one._values, other._values], axis=1), rtol=1e-5, atol=1e-6)


def test_one_more_than_may_be_is_the_level_now():
    window = SpikeWindow.empty()
    for step in range(40):
        window, _ = look(window, 1.0 + 0.01 * (step % 3), 1.0, 2)
    found = []
    for _ in range(6):
        window, left_out = look(window, 100.0, 1.0, 2)
        found.append(bool(left_out))
    assert found == [True, True, False, False, False, False] and window.total == 2 and window.in_a_row == 0
    assert not look(window, jnp.nan, jnp.inf, 2)[1]  # not its business


def with_spikes(*steps, of=noisy_regression, **changes):
    plain = of().batch

    def batch(step):
        return plain(step) | {"y": plain(step)["y"] * np.float32(1e4 if step in steps else 1)}

    return of(**{"batch": batch, "steps": 44, "skip_spikes": 3, "optimizer": optax.sgd(1e-3)} | changes)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_leaves_them_out_and_is_resumed(tmp_path, capsys, accumulate):
    experiment = with_spikes(35, 40, 41, ema=0.5, accumulate=accumulate)
    state = train(experiment, directory=tmp_path / "whole")
    rows = read_metrics(tmp_path / "whole/noisy")
    counts = {row["step"]: (row["skipped_spikes"], row["skipped_spikes_in_a_row"]) for row in rows}
    assert [counts[step] for step in (34, 35, 36, 40, 41, 42)] == [(0, 0), (1, 1), (1, 0), (2, 1), (3, 2), (3, 0)]
    assert "step 41: a spike, the loss is " in (said := capsys.readouterr().out) and "not updated (3 so far)" in said
    ratios = {row["step"]: row["update_ratio"] for row in rows}
    assert np.max(np.abs(state.params["w"])) < 5 and ratios[35] > 10 * ratios[34]  # what it would have been
    train(experiment, steps=37, directory=tmp_path / "parts", progress=False)
    assert_same_bits(train(experiment, directory=tmp_path / "parts", progress=False, resume=True), state)


def test_without_spikes_nothing_changes():
    plain, watched = (train(with_spikes(skip_spikes=most), directory=None, progress=False) for most in (None, 3))
    assert_same_bits(watched.params, plain.params)


def test_each_of_several_updates_has_its_own_window():
    loss = regression().loss
    quiet = lambda params, batch, key: jnp.sum(params["v"] ** 2)  # noqa: E731
    updates = [
        fb.Update("fits", loss=loss, optimizer=optax.sgd(1e-3), parameters="w"),
        fb.Update("shrinks", loss=quiet, optimizer=optax.sgd(1e-3), parameters="v"),
    ]
    made = with_spikes(38, 39, of=regression, loss=None, optimizer=None, updates=updates)
    state = train(made, directory=None, progress=False)
    assert {name: int(window.total) for name, window in state.spikes.items()} == {"fits": 2, "shrinks": 0}


def test_an_own_step_leaves_out_what_it_will():
    with pytest.raises(fb.ExperimentError, match="skip_spikes is of the loss's own update"):
        with_spikes(step=lambda state, batch, key, value_and_grad: (state, {}))
