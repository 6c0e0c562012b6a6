"""What a run says of itself: at its beginning, at its end, when it breaks, goes on, or is killed."""

import dataclasses
import json
import os

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnbackprop.experiment import Experiment
from fnbackprop.training.errors import NonFiniteLoss
from fnbackprop.training.loop import train
from fnbackprop.training.record.run_description import plain
from fnbackprop.training.run_folder import RunFolder, find_runs, read_metrics


@dataclasses.dataclass(frozen=True)
class Config:
    sizes: tuple[int, ...] = (3, 5)


def line(**changes) -> Experiment:
    parts = {
        "name": "line",
        "init": lambda key: {"layer": {"w": jnp.ones((3, 5)), "b": jnp.ones(5)}},
        "loss": lambda params, batch, key: jnp.mean((batch @ params["layer"]["w"] - params["layer"]["b"][None]) ** 2),
        "batch": lambda step: np.ones((4, 3), np.float32) * np.float32(step / 9),
        "optimizer": optax.sgd(1e-2),
        "steps": 9,
        "config": Config(),
    }
    return Experiment(**(parts | changes))


def test_a_run_is_described(tmp_path):
    train(line(), directory=tmp_path, progress=False, backward="automatic")
    run = RunFolder(tmp_path / "line").read_description()
    assert [run[name] for name in ("name", "status", "step", "stop", "backward", "parameters", "layers")] == [
        *("line", "finished", 9, 9, "automatic"),
        *(20, 1),
    ]
    assert run["config"] == {"sizes": [3, 5]} and run["batch"] == {"count": 4, "unit": "examples"}
    assert run["environment"]["jax"] and "cpu" in run["environment"]["devices"] and run["seconds"] > 0
    assert (
        "report.html" in os.listdir(tmp_path / "line") and "gradient_norm/layer" in read_metrics(tmp_path / "line")[0]
    )
    assert find_runs(tmp_path) == [RunFolder(tmp_path / "line")]


def test_a_run_that_breaks_says_why(tmp_path):
    broken = line(batch=lambda step: np.full((4, 3), np.nan if step == 5 else 1, np.float32))
    with pytest.raises(NonFiniteLoss):
        train(broken, directory=tmp_path, progress=False)
    run = RunFolder(tmp_path / "line").read_description()
    assert run["status"] == "stopped" and run["error"].startswith("NonFiniteLoss: the loss of line is nan at step 5")
    assert "NonFiniteLoss" in (tmp_path / "line" / "report.html").read_text()


def test_a_run_that_goes_on_keeps_its_beginning(tmp_path):
    train(line(), steps=4, directory=tmp_path, progress=False)
    path = tmp_path / "line" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"began": "long ago", "seconds": 1000.0}))
    train(line(), resume=True, directory=tmp_path, progress=False)
    run = RunFolder(tmp_path / "line").read_description()
    assert run["began"] == "long ago" and run["seconds"] > 1000 and run["step"] == 9


def test_plain():
    assert plain({"a": (1, [2.5, None]), "b": jnp.float32}) == {"a": [1, [2.5, None]], "b": str(jnp.float32)}
