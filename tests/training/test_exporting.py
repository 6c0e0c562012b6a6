"""An exported model gives the same outputs in a fresh process that has JAX and safetensors, and not this package."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.experiment import ExperimentError
from fnbackprop.models import batch_norm, linear
from fnbackprop.training.exporting import export_model
from fnbackprop.training.parameters import load_parameters
from fnbackprop.training.step.state import initial_state
from tests.training.step.test_model_state import normalised
from tests.training.test_loop import regression

FRESH = """
import sys, numpy as np
sys.path.insert(0, sys.argv[1])
from use import PARAMETERS, predict
assert not any(name.startswith("fnbackprop") for name in sys.modules)
np.save(sys.argv[2], predict(np.load(sys.argv[3])))
"""


def predict(params, model_state, x):
    y, _ = batch_norm.apply(params["norm"], model_state["norm"], linear.apply(params["in"], x), training=False)
    return jnp.tanh(y)


def test_in_a_fresh_process(tmp_path):
    experiment = normalised(predict=predict, ema=0.5)
    state = initial_state(experiment)
    folder = export_model(experiment, state, tmp_path / "exported")
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)  # not the number of the batch
    np.save(tmp_path / "x.npy", x)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", FRESH, str(folder), str(tmp_path / "y.npy"), str(tmp_path / "x.npy")]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    expected = predict(state.params, state.model_state, x)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=1e-5, atol=1e-6)
    assert "float32[batch,3]" in (folder / "use.py").read_text()
    found = load_parameters(folder / "parameters.safetensors", like=state.params, partial="model_state")
    jax.tree.map(np.testing.assert_array_equal, found, state.params)


def test_a_function_of_one_shape_is_exported_for_it(tmp_path):
    def of_eight(params, x):
        return (x @ params["w"]) * jnp.arange(8.0)[:, None]

    made = regression(predict=of_eight)
    folder = export_model(made, initial_state(made), tmp_path / "one", platforms=["cpu", "cuda"])
    use = (folder / "use.py").read_text()
    assert "float32[8,3]: predict needs this number of examples" in use and "exported for cpu, cuda" in use


def test_what_is_missing_is_named(tmp_path):
    state = initial_state(regression())
    with pytest.raises(ExperimentError, match=r"predict=..., a function \(params, inputs\) -> outputs"):
        export_model(regression(), state, tmp_path)
    made = regression(predict=lambda params, x: x, batch=lambda step: {"a": np.ones(8), "b": np.ones(8)})
    with pytest.raises(ExperimentError, match=r"of the batch's arrays \(a, b\) the one that predict is given"):
        export_model(made, state, tmp_path)
    with pytest.raises(ExperimentError, match=r"predict is called as predict\(params, inputs\)"):
        regression(predict=lambda params: 0)
