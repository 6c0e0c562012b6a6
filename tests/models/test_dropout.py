import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.models import dropout

KEY = jax.random.key(0)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_share_dropped_and_mean(rate):
    x = jax.random.uniform(jax.random.key(1), (200, 500), minval=1.0, maxval=2.0)
    y = dropout.apply(x, rate=rate, key=KEY)
    dropped = np.asarray(y) == 0
    np.testing.assert_allclose(y, np.where(dropped, 0, np.asarray(x) / (1 - rate)), rtol=1e-6)
    deviation = np.sqrt(rate * (1 - rate))
    np.testing.assert_allclose(np.mean(dropped), rate, atol=4 * deviation / np.sqrt(x.size))
    np.testing.assert_allclose(np.mean(dropped, axis=0), rate, atol=5 * deviation / np.sqrt(200))
    np.testing.assert_allclose(np.mean(dropped, axis=1), rate, atol=5 * deviation / np.sqrt(500))
    np.testing.assert_allclose(np.mean(y), np.mean(x), rtol=4 * np.sqrt(rate / (1 - rate) / x.size) * 1.1)


def test_gradient_is_the_same_mask():
    x = jax.random.normal(jax.random.key(1), (50, 20))
    y, pullback = jax.vjp(lambda x: dropout.apply(x, rate=0.3, key=KEY), x)
    (dx,) = pullback(jnp.ones_like(y))
    np.testing.assert_allclose(dx, np.where(np.asarray(y) == 0, 0, 1 / 0.7), rtol=1e-6)


@pytest.mark.parametrize("rate, key", [(0.5, None), (0.0, KEY)])
def test_off(rate, key):
    x = jnp.arange(5.0)
    assert dropout.apply(x, rate=rate, key=key) is x


def test_keeps_the_dtype():
    assert dropout.apply(jnp.ones(5, jnp.bfloat16), rate=0.5, key=KEY).dtype == jnp.bfloat16


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
@pytest.mark.parametrize("key", [None, KEY])
def test_wrong_rate(rate, key):
    with pytest.raises(ValueError, match=f"at least 0 and below 1, got {rate}"):
        dropout.apply(jnp.ones(3), rate=rate, key=key)


def test_split_key():
    assert dropout.split_key(None, 3) == [None, None, None]
    keys = dropout.split_key(KEY, 3)
    np.testing.assert_array_equal(jax.random.key_data(keys), jax.random.key_data(jax.random.split(KEY, 3)))
    assert len(list(dropout.split_key(KEY, 0))) == 0
