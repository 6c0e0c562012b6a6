"""What a run says of its own course."""

import numpy as np

from fnbackprop.training.record.run_watch import RunWatch
from fnbackprop.training.step.step_metrics import LAYER_NORMS, LayerNorms


def rows(steps):
    random = np.random.default_rng(0)
    for step in range(steps):
        size = 40.0 if step in (100, 101) else 1.0
        norms = LayerNorms(np.array([size, 1.0]) * np.exp(0.05 * random.normal(size=2)), ("up", "down"))
        noise = np.exp(0.05 * random.normal(size=2))
        yield {"step": step, "loss": 1.0 * noise[0], "gradient_norm": size * noise[1], LAYER_NORMS: norms}


def test_a_spike_is_told_once_with_its_layer():
    watch = RunWatch()
    told = [line for line in map(watch.look, rows(200)) if line]
    assert len(told) == 1 and told[0].startswith("a spike at step 100: gradient (") and told[0].endswith("most in up")
    assert watch.in_words().startswith("converged")
