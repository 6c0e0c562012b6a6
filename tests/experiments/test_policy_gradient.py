"""The cart moves as its energy says, rewards are discounted, both backwards agree, and a short run stands longer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnbackprop as fb

from .loading import load_module, promised_numbers


@pytest.fixture(scope="module")
def pole():
    return load_module("policy_gradient")


def energy(state, pole):
    """Kinetic and potential, of the cart and of a rod that turns about its end."""
    _, speed, angle, turning = np.asarray(state, np.float64)
    across, up = speed + pole.HALF_LENGTH * turning * np.cos(angle), -pole.HALF_LENGTH * turning * np.sin(angle)
    moving = pole.CART * speed**2 + pole.POLE * (across**2 + up**2 + (pole.HALF_LENGTH * turning) ** 2 / 3)
    return moving / 2 + pole.POLE * pole.GRAVITY * pole.HALF_LENGTH * np.cos(angle)


@pytest.mark.parametrize("action", [0, 1])
def test_energy_grows_by_the_work_of_the_push(pole, action, monkeypatch):
    monkeypatch.setattr(pole, "INTERVAL", 1e-3)
    state = np.array([0.1, 0.4, 0.15, -0.5], np.float32)
    after = pole.move(jnp.asarray(state), jnp.int32(action))
    work = pole.FORCE * (2 * action - 1) * (after[0] - state[0])
    np.testing.assert_allclose(energy(after, pole) - energy(state, pole), work, rtol=0.05)


def test_rewards_to_come(pole):
    stands = jnp.array([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    np.testing.assert_allclose(pole.rewards_to_come(stands, 0.5), [[1.75, 1.5, 1], [1, 0, 0]])


def test_both_backwards(pole):
    made = pole.experiment(pole.Config(width=4, length=6, batch_size=3))
    params, starts, key = made.arguments()
    starts[:, 2:] = [[0.2, 1.0], [0.2, 2.0], [0.0, 0.0]]  # two will fall, each at another time
    ours, theirs = (jax.jit(grad(made.loss, has_aux=True))(params, starts, key)[0] for grad in (fb.grad, jax.grad))
    assert float(jnp.abs(ours["layers"][0]["w"]).max()) > 1e-3
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), ours, theirs)


def test_a_short_run(pole, in_memory, capsys):
    pole.train_and_measure(pole.Config(length=40, steps=15, batch_size=32, learning_rate=5e-2))
    length, before, after = promised_numbers(pole, capsys.readouterr().out)
    assert length == 40 and after > before + 10
