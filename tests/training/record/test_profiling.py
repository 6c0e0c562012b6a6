"""A profile is a trace of some steps, and what a step took."""

import gzip
import json

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnbackprop.experiment import Experiment
from fnbackprop.training.loop import train
from fnbackprop.training.record.profiling import describe_speed
from fnbackprop.training.record.throughput import Amount


def product(steps: int) -> Experiment:
    return Experiment(
        name="product",
        init=lambda key: {"w": jnp.ones((3, 5))},
        loss=lambda params, batch, key: jnp.sum((batch @ params["w"]) ** 2),
        batch=lambda step: np.ones((4, 3), np.float32),
        optimizer=optax.sgd(1e-3),
        steps=steps,
    )


@pytest.mark.parametrize("steps", [1, 20])
def test_profile(tmp_path, capsys, steps):
    train(product(steps), directory=tmp_path, profile=True)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("profile: ")]
    if steps == 1:  # it was compiled and made in one, so there is nothing to measure
        assert said == []
        return
    assert "ms a step" in said[0] and "examples/s, 360FLOP a step" in said[0] and "no peak on record for cpu" in said[0]
    [path] = (tmp_path / "product" / "profile").rglob("perfetto_trace.json.gz")
    assert str(path) in said[1]
    assert json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]


def test_describe_speed():
    device = type("Device", (), {"device_kind": "NVIDIA H100 80GB HBM3"})()
    words = describe_speed(0.05, 4 * 10**13, Amount(65536, "tokens"), [device, device])
    assert words == [
        "50 ms a step",
        "1.3M tokens/s",
        "40.0TFLOP a step, 800TFLOP/s",
        "40.4% of 2.0PFLOP/s in bfloat16 (2 x NVIDIA H100 80GB HBM3)",
    ]
