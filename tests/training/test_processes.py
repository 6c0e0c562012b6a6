"""Two processes train as one does; process 0 alone prints and writes."""

import textwrap

import numpy as np

from fnbackprop.experiment_files import load
from fnbackprop.training.loop import train
from fnbackprop.training.run_folder import read_metrics
from tests.training.processes import finish, start

FILE = '''
"""A regression whose parameters are split over the devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fnbackprop.cli import main
from fnbackprop.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class Config:
    """Nothing can be chosen."""

    steps: int = 6
    """How many."""


def experiment(config: Config) -> Experiment:
    def init(key):
        return {"w": jax.random.normal(key, (8, 4)), "v": jnp.ones((4,))}

    def loss(params, batch, key):
        noise = jax.random.normal(key, (8, 4))
        return jnp.mean((jnp.tanh(batch["x"] @ params["w"] + noise) @ params["v"] - batch["y"]) ** 2)

    def batch(step):
        rng = np.random.default_rng(step)
        return {"x": rng.normal(size=(8, 8)).astype(np.float32), "y": rng.normal(size=8).astype(np.float32)}

    return Experiment(
        name="regression", init=init, loss=loss, batch=batch, optimizer=optax.adam(0.05), steps=config.steps,
        sharding="fsdp", evaluate=lambda params: {"size": jnp.sum(params["w"] ** 2)}, evaluate_every=3,
    )
'''


def test_two_processes_train_as_one(tmp_path):
    (tmp_path / "regression.py").write_text(textwrap.dedent(FILE))
    experiment = load(str(tmp_path / "regression.py"))
    made = experiment(experiment.__globals__["Config"]())
    train(made, mesh="data=4", directory=tmp_path / "one", progress=False)
    processes = start(2, ["train", "regression.py", "--mesh", "data=4"], devices_each=2, folder=tmp_path)
    (status, out, errors), (other_status, other_out, other_errors) = finish(processes, timeout=120)
    assert (status, other_status) == (0, 0), errors + other_errors
    assert "regression  step 6/6  loss " in out and other_out == ""
    found, expected = read_metrics(tmp_path / "runs/regression"), read_metrics(tmp_path / "one/regression")
    assert [record.keys() for record in found] == [record.keys() for record in expected]
    values, wanted = ([list(record.values()) for record in records] for records in (found, expected))
    for one, other in zip(values, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
