"""Under JAX's transfer guard, a run makes no transfer that is not meant: it ends as without the guard, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnbackprop.experiment import Experiment
from fnbackprop.training.loop import train
from fnbackprop.training.run_folder import read_metrics


def experiment(**options):
    def loss(params, batch, key):
        return jnp.sum((params["w"] - batch) ** 2) + params["b"]

    options = {"optimizer": optax.adam(0.1), "batch": lambda step: np.full(3, step, np.float32)} | options
    return Experiment(
        name="guarded", init=lambda key: {"w": jax.random.normal(key, (3,)), "b": 0.5}, loss=loss, steps=6,
        evaluate=jax.jit(lambda params: {"size": jnp.sum(params["w"])}), evaluate_every=2, **options,
    )  # fmt: skip


OPTIONS = {
    "plain": {},
    "averaged": {"ema": 0.5, "skip_nonfinite": 2, "skip_spikes": 8},
    "schedule": {"optimizer": optax.sgd(optax.cosine_decay_schedule(0.1, 6), momentum=0.9)},
    "wide": {"batch": lambda step: np.full(3, step, np.float64)},
    "numbers": {"batch": lambda step: 2.0},
}


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("kind", OPTIONS)
def test_a_run_ends_as_without_the_guard(tmp_path, kind, prefetch):
    def run(name, **options):
        made = experiment(**OPTIONS[kind])
        state = train(made, directory=tmp_path / name, progress=False, prefetch=prefetch, **options)
        return jax.tree.leaves(state.params), read_metrics(tmp_path / name / "guarded")

    expected, metrics = run("free")
    with jax.transfer_guard("disallow"):
        run("guarded", steps=4)
        found, again = run("guarded", resume=True)
    assert again == metrics and all(np.array_equal(x, y) for x, y in zip(found, expected, strict=True))


def test_what_the_experiment_transfers_is_refused(tmp_path):
    with jax.transfer_guard("disallow"), pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        train(experiment(batch=lambda step: jnp.ones(3) * np.full(3, step, np.float32)), directory=None, progress=False)
