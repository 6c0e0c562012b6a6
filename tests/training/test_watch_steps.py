"""Watched runs: the same parameters to the bit, and sizes in the metrics and the report."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import fnbackprop as fb
from fnbackprop.training.record.run_report import write_run_report
from fnbackprop.training.run_folder import RunFolder

LAYERS = 3


def experiment(**options):
    def init(key):
        return {"layers": jax.random.normal(key, (LAYERS, 4, 4)) / 2, "bias": jnp.zeros(4)}

    def loss(params, batch, key):
        def layer(h, w):
            return h + fb.name(jnp.tanh(h @ w), "branch"), None

        h, _ = lax.scan(layer, batch, params["layers"])
        return jnp.mean((h + params["bias"][None]) ** 2)

    def batch(step):
        return jnp.asarray(np.random.default_rng(step).normal(size=(8, 4)), jnp.float32)

    known = {"name": "watched", "init": init, "loss": loss, "batch": batch, "optimizer": optax.adam(1e-2), "steps": 6}
    return fb.Experiment(**known | options)


def parameters(state):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state.params)]


@pytest.mark.parametrize(
    "options", [{}, {"accumulate": 2, "precision": "float16"}], ids=["plain", "accumulated float16"]
)
def test_a_watched_run_has_the_same_parameters(tmp_path, options):
    plain = fb.train(experiment(**options), directory=None, progress=False)
    first = experiment(**options)
    fb.train(first, steps=3, watch=2, directory=tmp_path, progress=False)
    resumed = fb.train(first, watch=2, directory=tmp_path, resume=True, progress=False)
    for one, other in zip(parameters(plain), parameters(resumed), strict=True):
        np.testing.assert_array_equal(one, other)
    folder = RunFolder(tmp_path / "watched")
    rows = [row for row in folder.read_metrics() if any(name.startswith("watch/") for name in row)]
    assert [row["step"] for row in rows] == [0, 2, 4]
    names = {
        f"watch/{kind}/{name}/{i}" for kind in ("value", "cotangent") for name in ("branch", "carry") for i in range(3)
    }
    assert names == {name for name in rows[0] if name != "step"}
    assert all(0 < row[name] < 10 for row in rows for name in names)
    if not options:
        page = write_run_report([folder], tmp_path / "report.html").read_text()
        assert "Size (rms) of each watched cotangent" in page and "carry/2" in page


def test_a_loss_without_names_is_told_once(tmp_path, capsys):
    nameless = experiment(loss=lambda params, batch, key: jnp.mean((batch + params["bias"][None]) ** 2))
    fb.train(nameless, steps=2, watch=1, directory=tmp_path, progress=True)
    assert capsys.readouterr().out.count("watch: nothing to see, for the loss has no scan and no named value") == 1


def test_the_sizes_are_those_of_watch(tmp_path):
    watched = experiment()
    fb.train(watched, steps=1, watch=1, directory=tmp_path, progress=False)
    row = next(row for row in RunFolder(tmp_path / "watched").read_metrics() if "watch/cotangent/carry/0" in row)
    key = watched.keys()[1]
    params = watched.init(watched.keys()[0])
    found = fb.watch(lambda p: watched.loss(p, watched.batch(0), jax.random.fold_in(key, 0)), params)
    np.testing.assert_allclose(
        [row[f"watch/cotangent/carry/{i}"] for i in range(LAYERS)], found.cotangents["carry"], 1e-6
    )


def test_watch_is_a_number_of_steps():
    with pytest.raises(fb.ExperimentError, match="watch must be an integer of at least 0"):
        fb.train(experiment(), watch=-1, directory=None)
