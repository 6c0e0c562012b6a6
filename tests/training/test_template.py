"""The file that `fnbackprop new` writes: an experiment whose every part works, and whose options are explained."""

import ast
import inspect

import jax
import numpy as np
import pytest

import fnbackprop as fb
from fnbackprop.training import template


@pytest.fixture(scope="module")
def experiment():
    return template.experiment(template.Config(hidden=16, batch_size=8))


def test_the_loss_falls_along_its_gradient(experiment):
    """(That a whole run of the file ends well is tested with `fnbackprop new`.)"""
    gradient = jax.jit(fb.value_and_grad(experiment.loss, has_aux=True))
    params, batch, losses = experiment.init(jax.random.key(0)), experiment.batch(0), []
    for _ in range(20):
        (loss, metrics), grads = gradient(params, batch, jax.random.key(1))
        params = jax.tree.map(lambda p, g: p - 0.003 * g, params, grads)
        losses.append(float(loss))
    assert losses[-1] < 0.8 * losses[0]
    assert list(metrics) == ["largest_error"] and float(metrics["largest_error"]) ** 2 >= losses[-1]
    assert np.isfinite(float(experiment.evaluate(params)["test_loss"]))


def test_the_batches_are_of_the_size_and_the_seed(experiment):
    batch = experiment.batch(3)
    assert {name: x.shape for name, x in batch.items()} == {"x": (8, 1), "y": (8, 1)}
    np.testing.assert_array_equal(batch["x"], template.experiment(template.Config(batch_size=8)).batch(3)["x"])
    other = template.experiment(template.Config(batch_size=8, seed=1)).batch(3)
    assert not np.array_equal(batch["x"], other["x"])


def test_every_option_is_explained():
    body = ast.parse(inspect.getsource(template.Config)).body[0].body[1:]
    fields, helps = body[::2], body[1::2]
    assert [f.target.id for f in fields] == list(template.Config.__dataclass_fields__)
    assert all(isinstance(h.value, ast.Constant) and h.value.value.endswith(".") for h in helps)


def test_the_file_names_no_module_of_ours_but_public_ones():
    names = {n.module for n in ast.walk(ast.parse(inspect.getsource(template))) if isinstance(n, ast.ImportFrom)}
    assert names == {"fnbackprop", "fnbackprop.models", "fnbackprop.training"}


def test_its_hidden_layers_are_watched(experiment):
    arguments = experiment.arguments()
    found = fb.watch(experiment.loss, *arguments)
    assert list(found.values) == list(found.cotangents) == ["hidden", "hidden.1"]
    assert all(float(size) > 0 for size in [*found.values.values(), *found.cotangents.values()])
