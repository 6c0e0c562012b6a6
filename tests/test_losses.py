import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnbackprop import losses

RNG = np.random.default_rng(0)
ELEMENTWISE = {
    "mean_squared_error": losses.mean_squared_error,
    "huber": functools.partial(losses.huber, delta=0.7),
    "binary_cross_entropy": losses.binary_cross_entropy,
}
LOSSES = ELEMENTWISE | {
    "softmax_cross_entropy": losses.softmax_cross_entropy,
    "smoothed": functools.partial(losses.softmax_cross_entropy, label_smoothing=0.1),
}


def elementwise_in_numpy(name, predictions, targets):
    """One loss per element, in float64, by another formula than the library's."""
    x, y = (np.asarray(a, np.float64) for a in (predictions, targets))
    if name == "mean_squared_error":
        return (x - y) ** 2
    if name == "huber":
        error, delta = np.abs(x - y), 0.7
        return np.where(error <= delta, error**2 / 2, delta * (error - delta / 2))
    if name == "binary_cross_entropy":
        return np.logaddexp(0, x) - x * y
    probabilities = np.exp(x) / np.sum(np.exp(x), axis=-1, keepdims=True)
    smoothing = 0.1 if name == "smoothed" else 0.0
    one_hot = np.eye(x.shape[-1])[np.asarray(targets)]
    target = (1 - smoothing) * one_hot + smoothing / x.shape[-1]
    return -np.sum(target * np.log(probabilities), axis=-1)


def inputs(name, shape=(4, 3), classes=5, dtype="float32"):
    """Predictions and targets of the loss, whose elements have this shape."""
    if name in ELEMENTWISE:
        predictions = jnp.asarray(2 * RNG.normal(size=shape), dtype)
        targets = RNG.uniform(size=shape) if name == "binary_cross_entropy" else RNG.normal(size=shape)
        return predictions, jnp.asarray(targets, dtype)
    logits = jnp.asarray(2 * RNG.normal(size=(*shape, classes)), dtype)
    return logits, jnp.asarray(RNG.integers(0, classes, size=shape), jnp.int32)


@pytest.mark.parametrize("shape", [(), (1,), (4, 3), (2, 3, 5)])
@pytest.mark.parametrize("name", LOSSES)
def test_value(name, shape):
    predictions, targets = inputs(name, shape)
    expected = np.mean(elementwise_in_numpy(name, predictions, targets))
    np.testing.assert_allclose(LOSSES[name](predictions, targets), expected, rtol=2e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_value_in_float64(x64, name):
    predictions, targets = inputs(name, dtype="float64")
    loss = LOSSES[name](predictions, targets)
    assert loss.dtype == jnp.float64
    np.testing.assert_allclose(loss, np.mean(elementwise_in_numpy(name, predictions, targets)), rtol=1e-14)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", LOSSES)
def test_low_precision_is_computed_in_float32(name, dtype):
    predictions, targets = inputs(name, (64, 32), dtype=dtype)
    loss, gradient = jax.value_and_grad(LOSSES[name])(predictions, targets)
    assert loss.dtype == jnp.float32
    assert gradient.dtype == predictions.dtype
    np.testing.assert_allclose(loss, np.mean(elementwise_in_numpy(name, predictions, targets)), rtol=2e-6)


@pytest.mark.parametrize("targets_dtype", ["int32", "uint8", "bool", "float32"])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_targets_of_another_dtype(name, targets_dtype):
    predictions = jnp.asarray(RNG.normal(size=6), jnp.bfloat16)
    targets = jnp.array([0, 1, 1, 0, 1, 0]).astype(targets_dtype)
    expected = np.mean(elementwise_in_numpy(name, predictions, targets))
    np.testing.assert_allclose(ELEMENTWISE[name](predictions, targets), expected, rtol=2e-6)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32"])
def test_labels_of_any_integer_dtype(dtype):
    logits, labels = inputs("softmax_cross_entropy", classes=200)
    labels = labels % 100
    expected = losses.softmax_cross_entropy(logits, labels)
    np.testing.assert_array_equal(losses.softmax_cross_entropy(logits, labels.astype(dtype)), expected)


def test_same_as_optax():
    logits, labels = inputs("softmax_cross_entropy")
    ours = losses.softmax_cross_entropy(logits, labels)
    np.testing.assert_allclose(ours, optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), rtol=1e-6)
    smoothed = optax.smooth_labels(jax.nn.one_hot(labels, 5), 0.1)
    ours = losses.softmax_cross_entropy(logits, labels, label_smoothing=0.1)
    np.testing.assert_allclose(ours, optax.softmax_cross_entropy(logits, smoothed).mean(), rtol=1e-6)
    x, y = inputs("huber")
    np.testing.assert_allclose(losses.huber(x, y, delta=0.7), optax.huber_loss(x, y, delta=0.7).mean(), rtol=1e-6)
    np.testing.assert_allclose(losses.mean_squared_error(x, y), optax.squared_error(x, y).mean(), rtol=1e-6)
    x, y = inputs("binary_cross_entropy")
    np.testing.assert_allclose(
        losses.binary_cross_entropy(x, y), optax.sigmoid_binary_cross_entropy(x, y).mean(), rtol=1e-6
    )


MASK = np.array([[True, False, True], [False, False, False], [True, True, True], [False, True, False]])


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_mask_gives_the_mean_over_what_counts(name, jitted):
    predictions, targets = inputs(name)
    loss = jax.jit(LOSSES[name]) if jitted else LOSSES[name]
    expected = np.mean(elementwise_in_numpy(name, predictions, targets)[MASK])
    np.testing.assert_allclose(loss(predictions, targets, mask=jnp.asarray(MASK)), expected, rtol=2e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_mask_of_leading_axes(name):
    predictions, targets = inputs(name, (4, 3, 2))
    expected = np.mean(elementwise_in_numpy(name, predictions, targets)[MASK])
    np.testing.assert_allclose(LOSSES[name](predictions, targets, mask=jnp.asarray(MASK)), expected, rtol=2e-6)


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("name", LOSSES)
def test_what_is_masked_changes_neither_loss_nor_gradient(name, garbage):
    predictions, targets = inputs(name)
    mask = jnp.asarray(MASK)
    cut = mask if name in ELEMENTWISE else mask[..., None]
    spoilt = jnp.where(cut, predictions, garbage)
    spoilt_targets = jnp.where(mask, targets, garbage if name in ELEMENTWISE else -100)
    masked = jax.value_and_grad(functools.partial(LOSSES[name], mask=mask))
    loss, gradient = masked(predictions, targets)
    spoilt_loss, spoilt_gradient = masked(spoilt, spoilt_targets)
    np.testing.assert_array_equal(spoilt_loss, loss)
    np.testing.assert_array_equal(spoilt_gradient, gradient)
    assert np.all(np.asarray(gradient)[~MASK] == 0) and np.all(np.asarray(gradient)[MASK] != 0)


@pytest.mark.parametrize("name", LOSSES)
def test_all_masked_or_empty_gives_zero(name):
    predictions, targets = inputs(name)
    masked = functools.partial(LOSSES[name], mask=jnp.zeros((4, 3), bool))
    loss, gradient = jax.value_and_grad(masked)(predictions, targets)
    np.testing.assert_array_equal(loss, 0)
    np.testing.assert_array_equal(gradient, 0)
    empty = inputs(name, (0, 3))
    np.testing.assert_array_equal(LOSSES[name](*empty), 0)
    np.testing.assert_array_equal(LOSSES[name](*empty, mask=jnp.zeros((0, 3), bool)), 0)


def test_count_of_a_mask_is_not_taken_in_low_precision():
    predictions = jnp.ones(5000, jnp.bfloat16)  # bfloat16 cannot count beyond 256
    loss = losses.mean_squared_error(predictions, 0 * predictions, mask=jnp.ones(5000, bool))
    np.testing.assert_array_equal(loss, 1)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_against_differences(x64, name):
    predictions, targets = inputs(name, dtype="float64")

    def loss(x):
        return LOSSES[name](x, targets)

    direction = jnp.asarray(RNG.normal(size=predictions.shape))
    step = 1e-5
    difference = (loss(predictions + step * direction) - loss(predictions - step * direction)) / (2 * step)
    np.testing.assert_allclose(jnp.vdot(jax.grad(loss)(predictions), direction), difference, rtol=1e-8)


@pytest.mark.parametrize(
    "logit, label, loss, slope",
    [
        (0.0, 0.0, np.log(2), 0.5),
        (0.0, 1.0, np.log(2), -0.5),
        (40.0, 1.0, np.exp(-40), -np.exp(-40)),
        (-40.0, 0.0, np.exp(-40), np.exp(-40)),
        (1e4, 0.0, 1e4, 1.0),
        (-1e4, 1.0, 1e4, -1.0),
        (1e4, 1.0, 0.0, 0.0),
    ],
)
def test_binary_cross_entropy_keeps_its_digits(logit, label, loss, slope):
    value, gradient = jax.value_and_grad(losses.binary_cross_entropy)(jnp.float32(logit), jnp.float32(label))
    np.testing.assert_allclose(value, loss, rtol=1e-6)
    np.testing.assert_allclose(gradient, slope, rtol=1e-6)


@pytest.mark.parametrize("error, slope", [(0.0, 0.0), (0.7, 0.7), (-0.7, -0.7), (1e30, 0.7), (-5.0, -0.7), (0.1, 0.1)])
def test_huber_slope(error, slope):
    value, gradient = jax.value_and_grad(losses.huber)(jnp.float32(error), jnp.float32(0), delta=0.7)
    assert np.isfinite(value)
    np.testing.assert_allclose(gradient, slope, rtol=1e-6)


def test_softmax_cross_entropy_of_large_and_forbidden_logits():
    logits = jnp.array([[1e4, 0.0, -1e4], [1e4, 0.0, -1e4], [1.0, 2.0, -np.inf]])
    loss, gradient = jax.value_and_grad(losses.softmax_cross_entropy)(logits, jnp.array([0, 1, 0]))
    np.testing.assert_allclose(loss, (0 + 1e4 + np.log1p(np.exp(1))) / 3, rtol=1e-6)
    p = 1 / (1 + np.exp(1))
    np.testing.assert_allclose(3 * gradient, [[0, 0, 0], [1, -1, 0], [p - 1, 1 - p, 0]], rtol=1e-6)


@pytest.mark.parametrize("label", [-100, -1, 5, 1000])
def test_label_outside_the_classes_gives_nan(label):
    logits, labels = inputs("softmax_cross_entropy")
    assert np.isnan(losses.softmax_cross_entropy(logits, labels.at[0, 0].set(label)))


@pytest.mark.parametrize("name", LOSSES)
def test_under_vmap(name):
    predictions, targets = inputs(name)
    each = jax.vmap(LOSSES[name])(predictions, targets)
    np.testing.assert_allclose(each, elementwise_in_numpy(name, predictions, targets).mean(axis=1), rtol=2e-6)


X, LABELS = jnp.zeros((4, 3)), jnp.zeros(4, jnp.int32)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: losses.mean_squared_error(jnp.zeros((4, 1)), jnp.zeros(4)), ValueError, r"\(4, 1\).*\(4,\)"),
        (lambda: losses.huber(X, jnp.zeros((3, 4))), ValueError, r"huber: .*\(4, 3\).*\(3, 4\)"),
        (lambda: losses.huber(X, X, delta=0.0), ValueError, "delta must be positive, got 0.0"),
        (lambda: losses.binary_cross_entropy(X, LABELS), ValueError, r"logits of shape \(4, 3\).*labels.*\(4,\)"),
        (lambda: losses.binary_cross_entropy(LABELS, LABELS), TypeError, "logits must be floating, got int32"),
        (lambda: losses.mean_squared_error(LABELS, LABELS), TypeError, "predictions must be floating, got int32"),
        (lambda: losses.softmax_cross_entropy(X, jnp.zeros(3, jnp.int32)), ValueError, r"\(4,\), got \(3,\)"),
        (lambda: losses.softmax_cross_entropy(jnp.float32(1), jnp.int32(0)), ValueError, r"are \(..., classes\)"),
        (lambda: losses.softmax_cross_entropy(X, X), TypeError, "labels must be integers.*float32"),
        (lambda: losses.softmax_cross_entropy(LABELS, jnp.int32(0)), TypeError, "logits must be floating"),
        (lambda: losses.softmax_cross_entropy(X, LABELS, label_smoothing=1.5), ValueError, "between 0 and 1, got 1.5"),
        (lambda: losses.softmax_cross_entropy(X, LABELS, mask=LABELS), TypeError, "mask must be boolean, got int32"),
        (lambda: losses.softmax_cross_entropy(X, LABELS, mask=X > 0), ValueError, r"mask of shape \(4, 3\).*\(4,\)"),
        (lambda: losses.mean_squared_error(X, X, mask=jnp.ones(3, bool)), ValueError, r"mask of shape \(3,\)"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
