"""Functions with a rule of the user's own, right or wrong in one way: `build(right) -> (loss, arguments)`.

The first argument is the differentiated one. Each case says what the comparison must find: the cause in words and the
function's name. Arrays are small, and as many as can have the same shape.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Case(NamedTuple):
    """A nasty case: how to build it, what the wrong rule's cause reads like, and with which cotangent it shows."""

    build: Callable[[bool], tuple[Callable, tuple]]
    cause: str
    function: str
    cotangent: str = "actual"


CASES: dict[str, Case] = {}


def case(cause: str, function: str, cotangent: str = "actual"):
    def register(build):
        CASES[build.__name__] = Case(build, cause, function, cotangent)
        return build

    return register


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def custom(primal: Callable, forward: Callable, backward: Callable) -> Callable:
    """A `custom_vjp` function with the primal's name."""
    function = jax.custom_vjp(primal)
    function.defvjp(forward, backward)
    return function


def weighted(y: jax.Array) -> jax.Array:
    """A loss whose cotangent is not constant."""
    return jnp.sum(0.5 * y * y + y)


@case("mean for sum, axis 0", "dense")
def bias_gradient_is_a_mean(right):
    def dense(p, x):
        return x @ p["w"] + jnp.broadcast_to(p["b"], (6, 4))

    def backward(saved, dy):
        p, x = saved
        db = jnp.sum(dy, 0) if right else jnp.mean(dy, 0)
        return {"w": x.T @ dy, "b": db}, dy @ p["w"].T

    function = custom(dense, lambda p, x: (dense(p, x), (p, x)), backward)
    return lambda p, x: weighted(function(p, x)), ({"w": normal(4, 4), "b": normal(4, seed=1)}, normal(6, 4, seed=2))


@case("a factor 2 is missing", "squared")
def factor_of_a_square(right):
    def squared(x):
        return x * x

    function = custom(squared, lambda x: (x * x, x), lambda x, dy: ((2 if right else 1) * x * dy,))
    return lambda x: weighted(function(x)), (normal(4, 4),)


@case("the conjugate is forgotten", "power")
def conjugate_forgotten(right):
    def power(z):
        return jnp.real(z * jnp.conj(z))

    def backward(z, dy):
        return ((2 * dy).astype(z.dtype) * (jnp.conj(z) if right else z),)

    function = custom(power, lambda z: (power(z), z), backward)
    return lambda z: weighted(function(z)), (jax.lax.complex(normal(4, 4), normal(4, 4, seed=1)),)


@case("its rule is zero: this path is detached", "gated")
def branch_detached(right):
    def gated(p):
        return p["x"] * jnp.tanh(p["g"])

    def backward(p, dy):
        t = jnp.tanh(p["g"])
        dg = dy * p["x"] * (1 - t * t)
        return ({"x": dy * t, "g": dg if right else jnp.zeros_like(dg)},)

    function = custom(gated, lambda p: (gated(p), p), backward)
    return lambda p: weighted(function(p)), ({"x": normal(4, 4), "g": normal(4, 4, seed=1)},)


@case("a mask is missing: 8 of 16", "masked_square")
def padding_mask_missing(right):
    mask = jnp.broadcast_to(jnp.arange(4) < 2, (4, 4))

    def masked_square(x):
        return jnp.where(mask, x * x, jnp.zeros_like(x))

    def backward(x, dy):
        dx = 2 * x * dy
        return (jnp.where(mask, dx, jnp.zeros_like(dx)) if right else dx,)

    function = custom(masked_square, lambda x: (masked_square(x), x), backward)
    return lambda x: weighted(function(x)), (normal(4, 4),)


@case("a mask is missing: 6 of 16", "causal", "Gaussian")
def causal_mask_missing(right):
    mask = jnp.tril(jnp.ones((4, 4), bool))

    def causal(x):
        return jnp.where(mask, x, jnp.zeros_like(x))

    def backward(_, dy):
        return (jnp.where(mask, dy, jnp.zeros_like(dy)) if right else dy,)

    function = custom(causal, lambda x: (causal(x), None), backward)
    return lambda x: jnp.sum(jnp.square(function(x))), (normal(4, 4),)  # the actual cotangent, 2 y, is masked itself


@case("roll +1 along axis 0", "reversed_time")
def time_reversal_off_by_one(right):
    def reversed_time(x):
        return jnp.flip(x, 0)

    def backward(_, dy):
        dx = jnp.flip(dy, 0)
        return (dx if right else jnp.roll(dx, 1, 0),)

    function = custom(reversed_time, lambda x: (jnp.flip(x, 0), None), backward)
    return lambda x: weighted(function(x)), (normal(4, 4),)


@case("right only at 5 of axis 0", "summed_over_time")
def carry_cotangent_dropped(right):
    def summed_over_time(x):
        return jnp.cumsum(x, 0)

    def backward(_, dy):
        return (jnp.flip(jnp.cumsum(jnp.flip(dy, 0), 0), 0) if right else dy,)

    function = custom(summed_over_time, lambda x: (jnp.cumsum(x, 0), None), backward)
    return lambda x: weighted(function(x)), (normal(6, 4),)


@case("the cotangent of output 1 is ignored", "recurrence")
def final_carry_cotangent_forgotten(right):
    def recurrence(x):
        y = jnp.cumsum(x, 0)
        return y, y[-1]

    def backward(_, cts):
        dy, dcarry = cts
        dx = jnp.flip(jnp.cumsum(jnp.flip(dy, 0), 0), 0)
        return (dx + jnp.broadcast_to(dcarry, dx.shape) if right else dx,)

    function = custom(recurrence, lambda x: (recurrence(x), None), backward)
    return lambda x: sum(map(weighted, function(x))), (normal(4, 4),)


@case("the cotangent of operand 1 is given to operand 0", "product")
def operands_swapped(right):
    def product(p):
        return p["a"] * jnp.sin(p["b"])

    def backward(p, dy):
        da, db = dy * jnp.sin(p["b"]), dy * p["a"] * jnp.cos(p["b"])
        return ({"a": da, "b": db} if right else {"a": db, "b": da},)

    function = custom(product, lambda p: (product(p), p), backward)
    return lambda p: weighted(function(p)), ({"a": normal(4, 4), "b": normal(4, 4, seed=1)},)


@case("its rule is zero: this path is detached", "output_layer")
def tied_weight_with_one_path_dropped(right):
    def output_layer(w, x):
        return x @ w.T

    def backward(saved, dy):
        w, x = saved
        dw = dy.T @ x
        return (dw if right else jnp.zeros_like(dw)), dy @ w

    function = custom(output_layer, lambda w, x: (x @ w.T, (w, x)), backward)
    return lambda w, tokens: weighted(function(w, jnp.tanh(w[tokens]))), (normal(4, 4), jnp.array([1, 3, 0, 2, 1, 1]))


@case("", "momentum")
def stale_residual(right):
    def momentum(p):
        moved = p["m"] * 0.9 + p["x"]
        return moved * moved

    def forward(p):
        moved = p["m"] * 0.9 + p["x"]
        return moved * moved, moved if right else p["m"]

    function = custom(momentum, forward, lambda m, dy: ({"m": 1.8 * m * dy, "x": 2 * m * dy},))
    return lambda p: weighted(function(p)), ({"m": normal(4, 4), "x": normal(4, 4, seed=1)},)


@case("", "centred")
def layer_norm_over_the_wrong_axis(right):
    def centred(x):
        d = x - jnp.mean(x, 1, keepdims=True)
        return d * jax.lax.rsqrt(jnp.mean(d * d, 1, keepdims=True) + 1e-3)

    def forward(x):
        d = x - jnp.mean(x, 1, keepdims=True)
        r = jax.lax.rsqrt(jnp.mean(d * d, 1, keepdims=True) + 1e-3)
        return d * r, (d * r, r)

    def backward(saved, dy):
        y, r = saved
        axis = 1 if right else 0
        mean, along = jnp.mean(dy, axis, keepdims=True), jnp.mean(dy * y, axis, keepdims=True)
        return (r * (dy - mean - y * along),)

    function = custom(centred, forward, backward)
    return lambda x: jnp.sum(function(x) * normal(4, 4, seed=5).astype(x.dtype)), (normal(4, 4),)


@case("transposed", "linear")
def weight_gradient_transposed(right):
    def linear(w, x):
        return x @ w

    def backward(saved, dy):
        w, x = saved
        dw = x.T @ dy
        return (dw if right else dw.T), dy @ w.T

    function = custom(linear, lambda w, x: (x @ w, (w, x)), backward)
    return lambda w, x: weighted(function(w, x)), (normal(4, 4), normal(4, 4, seed=1))


@case("a different mask", "dropped")
def dropout_draws_another_mask(right):
    keys = jax.random.split(jax.random.key(0))

    def dropped(x, keys):
        return jnp.where(jax.random.bernoulli(keys[0], 0.5, (6, 4)), x, jnp.zeros_like(x)) * 2

    def backward(keys, dy):
        mask = jax.random.bernoulli(keys[0 if right else 1], 0.5, (6, 4))
        return jnp.where(mask, dy, jnp.zeros_like(dy)) * 2, None

    function = custom(dropped, lambda x, keys: (dropped(x, keys), keys), backward)
    return lambda x: weighted(function(x, keys) + x), (normal(6, 4),)


@case("wrong only at 1", "lookup")
def duplicate_indices_not_accumulated(right):
    def lookup(w, tokens):
        return w[tokens]

    def backward(saved, dy):
        w, tokens = saved
        at = jnp.zeros_like(w).at[tokens]
        return (at.add(dy) if right else at.set(dy)), None

    function = custom(lookup, lambda w, tokens: (w[tokens], (w, tokens)), backward)
    return lambda w, tokens: weighted(function(w, tokens)), (normal(4, 4), jnp.array([1, 3, 0, 2, 1, 1]))


@case("the cotangent is ignored", "quadratic")
def cotangent_ignored(right):
    def quadratic(x):
        return x * x

    function = custom(quadratic, lambda x: (x * x, x), lambda x, dy: (2 * x * dy if right else 2 * x,))
    return lambda x: weighted(function(x)), (normal(4, 4),)


@case("the cotangent of output 1 is ignored", "sine_and_cosine")
def second_output_ignored(right):
    def sine_and_cosine(x):
        return jnp.sin(x), jnp.cos(x)

    def backward(x, cts):
        dx = cts[0] * jnp.cos(x)
        return (dx - cts[1] * jnp.sin(x) if right else dx,)

    function = custom(sine_and_cosine, lambda x: (sine_and_cosine(x), x), backward)
    return lambda x: sum(map(weighted, function(x))), (normal(4, 4),)
