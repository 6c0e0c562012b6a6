"""What the head of fnbackprop/models/__init__.py promises of every model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop import trees
from fnbackprop.models import convnet, gru, linear, lstm, mlp, rnn, transformer
from tests.models.sampling import random_params

KEY = jax.random.key(0)
DROPOUT_KEYS = [jax.random.key(seed, impl="rbg") for seed in range(2)]  # masks from "rbg" compile several times faster


class Model:
    """One model at small sizes, its functions compiled once for all the tests."""

    def __init__(self, init, apply, x, has_kinks=False):
        self.init = init
        self.x = x
        self.has_kinks = has_kinks
        self.params = functools.cache(lambda: random_params(init))
        self.apply = jax.jit(apply)
        self.drop = jax.jit(functools.partial(apply, dropout=0.5))
        self.gradient = jax.jit(jax.grad(lambda params, x: jnp.sum(jnp.sin(apply(params, x).astype(jnp.float32)))))


def outputs_of(recurrent):
    """The outputs alone, without the final state."""
    return lambda params, x, **options: recurrent.apply(params, x, **options)[0]


def apply_transformer(params, x, **options):
    """The tokens come as floats, small and therefore exact: their dtype is the one to compute in."""
    return transformer.apply(params, x.astype(jnp.int32), heads=2, dtype=x.dtype, **options)


X = jax.random.normal(jax.random.key(1), (4, 6, 5, 3))
TOKENS = jnp.floor(jnp.abs(X[..., 0, 0]) * 3)
GPT = functools.partial(transformer.init, vocabulary=11, length=9, width=8)
MODELS = {
    "linear": Model(functools.partial(linear.init, inputs=3, outputs=5), linear.apply, X[:, 0, 0]),
    "mlp": Model(functools.partial(mlp.init, inputs=3, hidden=(8, 8), outputs=5), mlp.apply, X[:, 0, 0], True),
    "convnet": Model(functools.partial(convnet.init, inputs=3, channels=(4, 6), outputs=5), convnet.apply, X, True),
    "lstm": Model(functools.partial(lstm.init, inputs=3, hidden=5, layers=2), outputs_of(lstm), X[:, :, 0]),
    "gru": Model(functools.partial(gru.init, inputs=3, hidden=5, layers=2), outputs_of(gru), X[:, :, 0]),
    "rnn": Model(functools.partial(rnn.init, inputs=3, hidden=5, layers=2), outputs_of(rnn), X[:, :, 0]),
    "transformer": Model(functools.partial(GPT, layers=1), apply_transformer, TOKENS),
    "scanned": Model(functools.partial(GPT, layers=2, tied=False, scan_layers=True), apply_transformer, TOKENS),
}
every_model = pytest.mark.parametrize("model", [pytest.param(model, id=name) for name, model in MODELS.items()])
dropping_model = pytest.mark.parametrize(
    "model", [pytest.param(model, id=name) for name, model in MODELS.items() if name != "linear"]
)


def close(actual, expected, relative):
    """Equal up to `relative` of the largest magnitude expected."""
    actual, expected = (np.asarray(a, np.float64) for a in (actual, expected))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=relative * np.max(np.abs(expected)))


@every_model
def test_params_are_dicts_and_lists_of_arrays(model):
    def check(node):
        if isinstance(node, jax.Array):
            return
        assert type(node) in (dict, list)
        for child in node.values() if isinstance(node, dict) else node:
            check(child)

    check(model.params())
    names = {path.split("/")[-1] for path, _ in trees.leaves_with_paths(model.params())}
    assert names <= {"w", "b", "scale", "bias"}


@every_model
def test_one_key_gives_one_network_in_every_dtype(x64, model):
    single = jax.jit(model.init)(KEY)
    for dtype in ("bfloat16", "float16", "float64"):
        other = trees.leaves_with_paths(jax.jit(functools.partial(model.init, dtype=dtype))(KEY))
        for (path, leaf), single_leaf in zip(other, jax.tree.leaves(single), strict=True):
            assert single_leaf.dtype == jnp.float32, path
            assert leaf.dtype == dtype, path
            np.testing.assert_array_equal(leaf, np.asarray(single_leaf).astype(dtype), err_msg=path)


@every_model
def test_another_key_gives_another_network(x64, model):
    others = jax.tree.leaves(model.init(jax.random.key(5)))
    for (path, leaf), other in zip(trees.leaves_with_paths(model.init(KEY)), others, strict=True):
        leaf, other = np.asarray(leaf), np.asarray(other)
        if path.endswith("w"):
            assert np.mean(leaf == other) < 0.01, path
            assert len(np.unique(leaf)) > 0.99 * leaf.size, path  # no key served twice
        else:
            np.testing.assert_array_equal(leaf, other, err_msg=path)


@every_model
def test_computes_in_the_dtype_of_x(model):
    """float32 parameters, a bfloat16 input: a bfloat16 output, and gradients in float32.

    With ReLU and max-pooling, rounding by u moves a share u of the units across their kink, each a change of its whole
    gradient: an error of the order of sqrt(u), 0.06, against u of a smooth model.
    """
    low = model.apply(model.params(), model.x.astype("bfloat16"))
    assert low.dtype == jnp.bfloat16
    close(low, model.apply(model.params(), model.x), 0.05)
    gradients = [model.gradient(model.params(), x) for x in (model.x.astype("bfloat16"), model.x)]
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradients))
    relative = 0.25 if model.has_kinks else 0.05
    low, single = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in gradients)
    assert np.linalg.norm(low - single) < relative * np.linalg.norm(single)


@every_model
def test_float64(x64, model):
    params = jax.tree.map(lambda leaf: leaf.astype("float64"), model.params())
    double = model.apply(params, model.x.astype("float64"))
    assert double.dtype == jnp.float64
    close(model.apply(model.params(), model.x), double, 1e-5)


@every_model
def test_under_vmap_over_networks(model):
    networks = [jax.tree.map(lambda leaf, i=i: leaf * (1 + i), model.params()) for i in range(3)]
    together = jax.vmap(model.apply, in_axes=(0, None))(trees.stack(networks), model.x)
    for y, params in zip(together, networks, strict=True):
        close(y, model.apply(params, model.x), 1e-5)


@every_model
def test_examples_of_a_batch_are_independent(model):
    changed = jnp.roll(model.x, 1, axis=0).at[0].set(model.x[0])
    y, z = (model.apply(model.params(), x) for x in (model.x, changed))
    np.testing.assert_array_equal(y[0], z[0])
    close(z[2:], y[1:-1], 1e-5)


@every_model
def test_gradient_reaches_every_leaf(model):
    for path, leaf in trees.leaves_with_paths(model.gradient(model.params(), model.x)):
        assert np.all(np.isfinite(leaf)), path
        assert np.any(leaf != 0), path


@every_model
def test_gradient_is_finite_where_everything_is_equal(model):
    """All parameters and inputs zero: no variance in the norms, ties in the pooling, the kink of ReLU."""
    params = jax.tree.map(jnp.zeros_like, model.params())
    assert np.isfinite(trees.global_norm(model.gradient(params, jnp.zeros_like(model.x))))


@dropping_model
def test_dropout_needs_a_rate_and_a_key(model):
    plain = model.apply(model.params(), model.x)
    np.testing.assert_array_equal(model.drop(model.params(), model.x), plain)
    np.testing.assert_array_equal(model.apply(model.params(), model.x, key=DROPOUT_KEYS[0]), plain)


@dropping_model
def test_dropout_is_a_function_of_its_key(model):
    x = model.x.at[1].set(model.x[0])
    first, again, other = (model.drop(model.params(), x, key=DROPOUT_KEYS[i]) for i in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)
    assert np.any(first[0] != first[1])  # equal examples have masks of their own
    assert np.any(first != model.apply(model.params(), x))
