"""The rate that an optimizer has really used is in the metrics, whatever its schedule."""

import jax
import numpy as np
import optax
import pytest

from fnbackprop.training.loop import make_step
from fnbackprop.training.step.optimizers import Optimizer
from fnbackprop.training.step.state import initial_state
from tests.training.step.test_weight_update import noisy_regression

COSINE = optax.cosine_decay_schedule(0.1, 4)
RATES = {
    "sgd": (lambda: optax.sgd(0.3), lambda step: 0.3),
    "momentum": (lambda: optax.chain(optax.clip(1.0), optax.sgd(COSINE, momentum=0.9)), COSINE),
    "adamw": (lambda: optax.adamw(COSINE, weight_decay=0.1), COSINE),
    "own": (lambda: Optimizer(learning_rate=0.2, warmup=2, schedule="linear").build(4), Optimizer(
        learning_rate=0.2, warmup=2, schedule="linear").rate(4)),
    "injected": (lambda: optax.inject_hyperparams(optax.adam)(learning_rate=0.25), lambda step: 0.25),
    "two factors": (lambda: optax.chain(optax.sgd(COSINE), optax.scale(0.5)), lambda step: 0.5 * COSINE(step)),
    "a group": (lambda: optax.multi_transform({"a": optax.sgd(0.3), "b": optax.sgd(0.1)}, {"w": "a"}), lambda _: 0.3),
}  # fmt: skip


@pytest.mark.parametrize("name", RATES)
def test_the_rate_of_each_step(name):
    make, expected = RATES[name]
    experiment = noisy_regression(optimizer=make())
    step, state = jax.jit(make_step(experiment)), initial_state(experiment)
    for number in range(3):
        state, metrics = step(state, experiment.batch(number))
        np.testing.assert_allclose(metrics["learning_rate"], expected(number), rtol=1e-5)


def test_an_update_that_is_no_product_has_none():
    experiment = noisy_regression(optimizer=optax.scale_by_sign())
    _, metrics = jax.jit(make_step(experiment))(initial_state(experiment), experiment.batch(0))
    assert "learning_rate" not in metrics
