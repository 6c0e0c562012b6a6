"""What a program's equations say about rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.comparing.program import make_program, trace_program
from fnbackprop.comparing.tolerance import facts_of, unit_roundoff


def facts(fun, *args):
    return facts_of(trace_program(make_program(fun, args, 0, None)))


def test_unit_roundoff():
    assert [unit_roundoff(d) for d in ("float64", "float32", jnp.bfloat16)] == [2.0**-53, 2.0**-24, 2.0**-8]


@pytest.mark.parametrize(
    "terms, fun, shapes",
    [
        (7, lambda a, b: jnp.sum(a @ b, axis=0)[0], [(3, 5), (5, 7)]),
        (9, lambda a, b: jnp.sum(a @ b, axis=0)[0], [(3, 9), (9, 2)]),
        (40, lambda a: jnp.sum(a), [(8, 5)]),
        (12, lambda a: jnp.broadcast_to(a, (12, 3))[0, 0], [(3,)]),
        (1, lambda a: jnp.sin(a), [()]),
        (4, lambda a: jnp.sum(jnp.cumsum(a, axis=1)[0, :2]), [(9, 4)]),
        (60, lambda a: jax.lax.scan(lambda c, x: (c + jnp.sum(x), c), a, jnp.ones((10, 6)))[0], [()]),
    ],
)
def test_longest_sum(terms, fun, shapes):
    assert facts(fun, *(jnp.ones(shape) for shape in shapes)).terms == terms


def test_longest_sum_of_a_convolution_is_over_the_images():
    def fun(w, x):
        return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))[
            0, 0, 0, 0
        ]

    assert facts(fun, jnp.ones((3, 3, 2, 4)), jnp.ones((5, 8, 8, 2))).terms == 5 * 8 * 8


def test_longest_sum_of_an_embedding_is_over_the_indices():
    assert facts(lambda table, i: jnp.sum(table[i][0]), jnp.ones((11, 2)), jnp.zeros((30,), jnp.int32)).terms == 30


def test_coarsest_dtype_is_found_inside():
    assert facts(lambda x: jnp.sum(x), jnp.ones((2,))).dtype == np.float32
    inner = jax.jit(lambda x: jnp.sin(x.astype(jnp.bfloat16)))
    assert facts(lambda x: jnp.sum(inner(x).astype(jnp.float32)), jnp.ones((2,))).dtype == jnp.bfloat16


def test_stopped_gradients_are_listed_with_their_lines():
    (line,) = facts(lambda x: jnp.sum(jax.lax.stop_gradient(x) * x), jnp.ones((2,))).stop_gradients
    assert "test_tolerance.py" in line


def test_what_does_not_depend_on_the_inputs_does_not_count():
    def fun(x, table):
        noise = jax.random.normal(jax.random.key(0), (1000,)) + jnp.sum(table)
        return jnp.sum(jnp.where(noise[:3] > 0, x, 0))

    found = facts(fun, jnp.ones((3,)), jnp.ones((500,), jnp.bfloat16).astype(jnp.float32))
    assert (found.terms, found.dtype) == (3, np.float32)


def test_what_reduce_precision_leaves_is_the_precision():
    assert facts(lambda x: jax.lax.reduce_precision(x, 8, 10), jnp.ones(3)).roundoff == 2.0**-11
    assert facts(lambda x: jax.lax.reduce_precision(x, 11, 40), jnp.ones(3)).roundoff == 2.0**-24


def test_a_gradient_that_a_librarys_function_stops_is_stopped_where_it_is_called():
    def fun(x):
        return jnp.linalg.inv(x * jnp.eye(2))[0, 0] + jax.nn.logsumexp(x * jnp.ones(2))

    for around in (fun, jax.jit(fun), jax.checkpoint(fun)):
        stops = facts(around, jnp.float32(2)).stop_gradients
        assert len(stops) > 1 and all("test_tolerance.py:" in line for line in stops)
