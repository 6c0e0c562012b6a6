"""More programs with a planted fault, as in `cases.py`: branches, loops, dtypes, indices, matrices."""

import jax
import jax.numpy as jnp
from jax import lax

from fnbackprop.tracing.blame import Kind

from .cases import PLUS, STEPS, Case, X

# ---------------------------------------------------------------- backward


def norm_of_an_untaken_branch(x):
    n = jnp.sqrt(jnp.sum((x * 0) ** 2))  # HERE
    return jnp.where(n > 0, 2 * n, 0.0)  # BEHIND


def std_of_a_constant(x):
    x = x * 0 + 1
    return jnp.std(x)  # HERE


def large_factors(x):
    z = x * 1e30  # HERE
    return jnp.sum(z * 1e30)


def one_of_three_branches(x, i):
    def power(x):
        return jnp.sum(x**0.5)  # HERE

    return lax.switch(i, [jnp.sum, power, lambda x: jnp.sum(x * 2)], x)


def branch_in_a_scan(w, xs):
    def step(h, x):
        y = lax.cond(x > 0, lambda y: y * 2, lambda y: jnp.sqrt(y * 0), w * x)  # HERE
        return h + y, None

    return lax.scan(step, 0.0, xs)[0]


def scan_of_examples(w, xs):
    def one(x):
        def step(h, i):
            return h + jnp.sqrt(w * x[i]), None  # HERE

        return lax.scan(step, 0.0, jnp.arange(4))[0]

    return jnp.sum(jax.vmap(one)(xs.reshape(10, 4)))


@jax.custom_jvp
def root(x):
    return jnp.sqrt(x)


@root.defjvp
def _root_jvp(primals, tangents):
    y = root(primals[0])
    return y, tangents[0] / (2 * y)  # the line that is to blame


def own_jvp(x):
    return jnp.sum(root(x))


# ---------------------------------------------------------------- forward


def while_forward(w, xs):
    def step(state):
        i, h = state
        return i + 1, h + jnp.log(xs[i]) * w  # HERE

    return lax.while_loop(lambda s: s[0] < 40, step, (0, 0.0))[1]


def naive_softplus(x):
    y = jnp.exp(100 * x)  # HERE
    return jnp.sum(jnp.log(1 + y))


def norm_in_half_precision(x):
    y = x.astype(jnp.float16) * 300
    return jnp.sum(lax.mul(y, y)).astype(jnp.float32)  # HERE


def product_over_time(x):
    y = jnp.cumprod(x * 1e20)  # HERE
    return jnp.sum(y * 0.5)


def product_of_matrices(x):
    a = x[None] * 1e20
    b = a @ a.T  # HERE
    return jnp.sum(b)


def index_out_of_range(x):
    rows = x.at[jnp.array([1, 9])].get(mode="fill")  # HERE
    return jnp.sum(rows)


def remainder_by_zero(x):
    y = lax.rem(x, x * 0)  # HERE
    return jnp.sum(y)


def cholesky_of_an_indefinite_matrix(x):
    a = jnp.diag(x - 1)
    return jnp.sum(jnp.linalg.cholesky(a))  # HERE


def normalized_by_its_norm(x):
    x = x * 0
    y = x / jnp.sqrt(jnp.sum(x**2))  # HERE
    return jnp.sum(y)


def difference_of_infinities(x):
    y = lax.exp(x * 100)  # HERE
    return jnp.sum(y - y)


CASES = [
    Case(norm_of_an_untaken_branch, (X,), Kind.ZERO_TIMES_INFINITY, "sqrt", element=()),
    Case(std_of_a_constant, (X,), Kind.INFINITE_DERIVATIVE, "sqrt", element=()),
    Case(large_factors, (jnp.full(4, 1e-30),), Kind.OVERFLOW, "mul", element=(0,)),
    Case(one_of_three_branches, (X, 1), Kind.INFINITE_DERIVATIVE, "pow", element=(0,)),
    Case(branch_in_a_scan, (jnp.float32(2), STEPS), Kind.INFINITE_DERIVATIVE, "sqrt", iteration=(37,)),
    Case(scan_of_examples, (jnp.float32(2), STEPS), Kind.INFINITE_DERIVATIVE, "sqrt", iteration=(1,), element=(9,)),
    Case(while_forward, (jnp.float32(2), STEPS), Kind.POLE, "log", False, (37,)),
    Case(naive_softplus, (X,), Kind.OVERFLOW, "exp", False, element=(1,)),
    Case(norm_in_half_precision, (PLUS,), Kind.OVERFLOW, "mul", False, element=(0,)),
    Case(product_over_time, (PLUS,), Kind.OVERFLOW, "cumprod", False, element=(1,)),
    Case(product_of_matrices, (PLUS,), Kind.OVERFLOW, "dot_general", False, element=(0, 0)),
    Case(index_out_of_range, (PLUS,), Kind.POLE, "gather", False, element=(1,)),
    Case(remainder_by_zero, (PLUS,), Kind.POLE, "rem", False, element=(0,)),
    Case(cholesky_of_an_indefinite_matrix, (X,), Kind.POLE, "cholesky", False),
    Case(normalized_by_its_norm, (X,), Kind.POLE, "div", False, element=(0,)),
    Case(difference_of_infinities, (X,), Kind.OVERFLOW, "exp", False, element=(1,)),
]
