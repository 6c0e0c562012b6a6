"""Buckets: the step is compiled once for each shape that is allowed, and one more is named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.experiment import ExperimentError
from fnbackprop.training.data.batch_shapes import BatchShapes
from fnbackprop.training.loop import train
from tests.training.compiling import times_compiled
from tests.training.test_loop import regression

SIZES = [8, 8, 4, 8, 4, 4, 2]


def bucketed(**changes):
    def batch(step):
        return jax.tree.map(lambda leaf: leaf[: SIZES[step]], regression().batch(step))

    def loss(params, batch, key):
        return ((batch["x"] @ params["w"] @ params["v"] - batch["y"]) ** 2).mean()

    return regression(batch=batch, loss=loss, steps=6, **changes)


def test_the_step_is_compiled_for_each_bucket_and_the_log_names_it(capsys):
    before = times_compiled("step")
    state = train(bucketed(batch_shapes=2), directory=None)
    assert state.step == 6 and times_compiled("step") == before + 2
    said = [line for line in capsys.readouterr().out.splitlines() if "compiling for batches of" in line]
    assert len(said) == 1 and "step 2: " in said[0] and "(4, 3)" in said[0]
    with pytest.raises(ExperimentError, match=r"batch\(6\) has .*\(2, 3\).*there were 2 before.*batch_shapes=3"):
        train(bucketed(batch_shapes=2), steps=7, directory=None, progress=False)


def test_without_buckets_another_shape_is_an_error():
    shapes = BatchShapes()
    assert shapes.look(np.zeros(3, np.float32), 0) is None and shapes.look(np.ones(3, np.float32), 1) is None
    assert shapes.look(jnp.ones(3), 1) is None  # whatever library it is of
    with pytest.raises(ExperimentError, match=r"the first batch had .*\(3,\).*pad or leave out"):
        shapes.look(np.zeros(2), 2)
    with pytest.raises(ExperimentError, match=r"the first batch had .*float32.*pad or leave out"):
        shapes.look(np.zeros(3, np.int32), 3)
    with pytest.raises(ExperimentError, match="batch_shapes must be an integer of at least 1"):
        regression(batch_shapes=0)
