"""Programs with a planted fault. The comment HERE is on the line that must be blamed, BEHIND on the one behind it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from fnbackprop.tracing.blame import Kind

from .helpers import normalized

X = jnp.array([0.0, 1.0, 2.0, 3.0])
PLUS = jnp.array([1.0, 2.0, 3.0, 4.0])
STEPS = jnp.ones(40).at[37].set(0.0)


class Case(NamedTuple):
    """A function, its arguments (the first is differentiated), and what blame must say."""

    fun: Any
    args: tuple[Any, ...]
    kind: Kind
    primitive: str
    backward: bool = True
    iteration: tuple[int, ...] = ()
    element: tuple[int, ...] | None = None


# ---------------------------------------------------------------- infinite derivatives


def sqrt_at_zero(x):
    return jnp.sum(jnp.sqrt(x))  # HERE


def norm_at_zero(x):
    h = 2 * x
    return jnp.linalg.norm(h)  # HERE


def arccos_at_one(x):
    return jnp.sum(jnp.arccos(x / 3))  # HERE


def arcsin_at_one(x):
    return jnp.sum(jnp.arcsin(x / 3))  # HERE


def power_half(x):
    y = x**0.5  # HERE
    return jnp.sum(y)


def power_of_a_value(x, p):
    y = x**p  # HERE
    return jnp.sum(y)


def atan2_at_origin(x):
    return jnp.sum(jnp.arctan2(x, x))  # HERE


def cbrt_at_zero(x):
    return jnp.sum(jnp.cbrt(x))  # HERE


def vmapped(x):
    def one(x):
        return jnp.sqrt(x) * 3  # HERE

    return jnp.sum(jax.vmap(one)(x))


# ---------------------------------------------------------------- 0 times infinity


def where_sqrt(x):
    root = jnp.sqrt(x)  # HERE
    return jnp.sum(jnp.where(x > 0, root, 0.0))  # BEHIND


def where_log(x):
    y = jnp.log(x)  # HERE
    y = jnp.where(x > 0, y, 0.0)  # BEHIND
    return jnp.sum(y)


def where_reciprocal(x):
    y = 1 / x  # HERE
    y = jnp.where(x != 0, y, 0.0)  # BEHIND
    return jnp.sum(y)


def where_exp(x):
    y = jnp.exp(1000 * x)  # HERE
    y = jnp.where(x < 0.5, y, 0.0)  # BEHIND
    return jnp.sum(y)


def masked_by_product(x):
    y = jnp.sqrt(x)  # HERE
    y = y * (x > 0).astype(y.dtype)  # BEHIND
    return jnp.sum(y)


# ---------------------------------------------------------------- in the forward pass


def unshifted_softmax(x):
    e = jnp.exp(x * 1e4)  # HERE
    return jnp.sum(jnp.log(e / jnp.sum(e)))


def masked_row(x):
    scores = jnp.stack([x, x])
    scores = jnp.where(jnp.arange(2)[:, None] < 1, scores, -jnp.inf)  # BEHIND
    p = jax.nn.softmax(scores)  # HERE
    return jnp.sum(p**2)


def constant_feature(x):
    x = x * 0 + 1
    y = (x - jnp.mean(x)) / jnp.std(x)  # HERE
    return jnp.sum(y)


def reciprocal_of_zero(x):
    return jnp.sum(1 / x)  # HERE


def log_of_negative(x):
    y = jnp.log(x - 2)  # HERE
    return jnp.sum(y)


def log_of_zero(p):
    y = jnp.log(p)  # HERE
    return -jnp.sum(p * y)


def large_product(x):
    y = x * 1e37
    return jnp.sum(y * 100)  # HERE


def half_precision(x):
    y = (x * 1e5).astype(jnp.float16)  # HERE
    return jnp.sum(y.astype(jnp.float32))


def empty_mean(x):
    mask = jnp.zeros(4)
    return jnp.sum(x * mask) / jnp.sum(mask)  # HERE


def logsumexp_of_nothing(x):
    x = jnp.where(x > -1, -jnp.inf, x)
    return jax.nn.logsumexp(x)  # HERE


def rsqrt_of_zero(x):
    y = lax.rsqrt(x)  # HERE
    return jnp.sum(y)


# ---------------------------------------------------------------- overflow of a cotangent


def large_cotangent(x):
    y = jnp.sqrt(x * 1e-30)  # HERE
    return jnp.sum(y) * 1e30


# ---------------------------------------------------------------- loops, branches, regions


def scan_backward(w, xs):
    def step(h, x):
        root = jnp.sqrt(w * x)  # HERE
        return h + root, None

    return lax.scan(step, 0.0, xs)[0]


def scan_forward(w, xs):
    def step(h, x):
        h = h + jnp.log(x) * w  # HERE
        return h, h

    return jnp.sum(lax.scan(step, 0.0, xs)[1])


def scan_in_reverse(w, xs):
    def step(h, x):
        return h + jnp.log(x) * w, None  # HERE

    return lax.scan(step, 0.0, xs, reverse=True)[0]


def nested_scan(w, xs):
    def inner(h, x):
        return h + jnp.sqrt(x * w), None  # HERE

    def outer(h, row):
        return lax.scan(inner, h, row)

    return lax.scan(outer, 0.0, xs.reshape(10, 4))[0]


def while_backward(w, xs):
    def step(state):
        i, h = state
        return i + 1, h + jnp.sqrt(w * xs[i])  # HERE

    return lax.while_loop(lambda s: s[0] < 40, step, (0, 0.0))[1]


def branch(x):
    def one(x):
        return jnp.sum(jnp.sqrt(x))  # HERE

    return lax.cond(x[1] > 0, one, lambda x: jnp.sum(x), x)


def rematerialized(x):
    @jax.checkpoint
    def block(x):
        return jnp.sqrt(x) * 2  # HERE

    return jnp.sum(block(jnp.sin(x) * 0))


def in_a_helper(x):
    return jnp.sum(normalized(x * 0))


@jax.custom_vjp
def own_rule(x):
    return x * 2


def _own_rule_backward(x, dy):
    scaled = dy / (x - x)
    return (2 * scaled,)


own_rule.defvjp(lambda x: (own_rule(x), x), _own_rule_backward)


def custom_backward(x):
    return jnp.sum(own_rule(x))


def nan_in_the_data(x, batch):
    return jnp.sum(x * batch)


CASES = [
    Case(sqrt_at_zero, (X,), Kind.INFINITE_DERIVATIVE, "sqrt", element=(0,)),
    Case(norm_at_zero, (0 * X,), Kind.INFINITE_DERIVATIVE, "sqrt"),
    Case(arccos_at_one, (X,), Kind.INFINITE_DERIVATIVE, "acos", element=(3,)),
    Case(arcsin_at_one, (X,), Kind.INFINITE_DERIVATIVE, "asin", element=(3,)),
    Case(power_half, (X,), Kind.INFINITE_DERIVATIVE, "pow", element=(0,)),
    Case(power_of_a_value, (X, jnp.float32(0.5)), Kind.INFINITE_DERIVATIVE, "pow", element=(0,)),
    Case(atan2_at_origin, (X,), Kind.INFINITE_DERIVATIVE, "atan2", element=(0,)),
    Case(cbrt_at_zero, (X,), Kind.INFINITE_DERIVATIVE, "cbrt", element=(0,)),
    Case(vmapped, (PLUS.at[2].set(0),), Kind.INFINITE_DERIVATIVE, "sqrt", element=(2,)),
    Case(where_sqrt, (X,), Kind.ZERO_TIMES_INFINITY, "sqrt", element=(0,)),
    Case(where_log, (X,), Kind.ZERO_TIMES_INFINITY, "log", element=(0,)),
    Case(where_reciprocal, (X,), Kind.ZERO_TIMES_INFINITY, "div", element=(0,)),
    Case(where_exp, (X,), Kind.ZERO_TIMES_INFINITY, "exp", element=(1,)),
    Case(masked_by_product, (X,), Kind.ZERO_TIMES_INFINITY, "sqrt", element=(0,)),
    Case(unshifted_softmax, (X,), Kind.OVERFLOW, "exp", False, element=(1,)),
    Case(masked_row, (X,), Kind.UNDEFINED, "sub", False, element=(1, 0)),
    Case(constant_feature, (X,), Kind.POLE, "div", False, element=(0,)),
    Case(reciprocal_of_zero, (X,), Kind.POLE, "div", False, element=(0,)),
    Case(log_of_negative, (X,), Kind.POLE, "log", False, element=(0,)),
    Case(log_of_zero, (X,), Kind.POLE, "log", False, element=(0,)),
    Case(large_product, (PLUS,), Kind.OVERFLOW, "mul", False, element=(0,)),
    Case(half_precision, (X,), Kind.OVERFLOW, "convert_element_type", False, element=(1,)),
    Case(empty_mean, (X,), Kind.POLE, "div", False, element=()),
    Case(logsumexp_of_nothing, (X,), Kind.POLE, "log", False),
    Case(rsqrt_of_zero, (X,), Kind.POLE, "rsqrt", False, element=(0,)),
    Case(large_cotangent, (jnp.full(4, 1e-1),), Kind.OVERFLOW, "sqrt"),
    Case(scan_backward, (jnp.float32(2), STEPS), Kind.INFINITE_DERIVATIVE, "sqrt", iteration=(37,)),
    Case(scan_forward, (jnp.float32(2), STEPS), Kind.POLE, "log", False, (37,)),
    Case(scan_in_reverse, (jnp.float32(2), STEPS), Kind.POLE, "log", False, (37,)),
    Case(nested_scan, (jnp.float32(2), STEPS), Kind.INFINITE_DERIVATIVE, "sqrt", iteration=(9, 1)),
    Case(while_backward, (jnp.float32(2), STEPS), Kind.INFINITE_DERIVATIVE, "sqrt", iteration=(37,)),
    Case(branch, (X,), Kind.INFINITE_DERIVATIVE, "sqrt", element=(0,)),
    Case(rematerialized, (X,), Kind.INFINITE_DERIVATIVE, "sqrt", element=(0,)),
]
