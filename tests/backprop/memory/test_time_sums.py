"""Each sum over time against the sum of the equation's outputs, step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fnbackprop.backprop.memory import time_sums
from fnbackprop.jaxprs.evaluate import bind
from fnbackprop.jaxprs.primitives import Trait, has

from ...rules.checking import assert_close

RNG = np.random.default_rng(0)
STEPS = 4
INDEX = jnp.asarray([[0], [2], [0]])
NUMBERS = lax.ScatterDimensionNumbers(
    update_window_dims=(1,), inserted_window_dims=(0,), scatter_dims_to_operand_dims=(0,)
)
CASES = {
    "dot_general": (lambda x, y: lax.dot_general(x, y, (((2,), (1,)), ((0,), (0,)))), (2, 3, 5), (2, 5, 4)),
    "conv_general_dilated": (
        lambda x, w: lax.conv_general_dilated(x, w, (2,), "SAME", feature_group_count=2), (2, 4, 7), (6, 2, 3)),
    "mul": (lambda x, y: x * y, (3, 2), (3, 2)),
    "scatter-add": (lambda u: lax.scatter_add(jnp.zeros((3, 2)), INDEX, u, NUMBERS), (3, 2)),
}  # fmt: skip


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", CASES)
def test_summed(name):
    fun, *shapes = CASES[name]
    stacks = [jnp.asarray(RNG.normal(size=(STEPS, *shape))) for shape in shapes]
    jaxpr = jax.make_jaxpr(fun)(*(s[0] for s in stacks)).jaxpr
    (equation,) = (e for e in jaxpr.eqns if has(e, Trait.SUMMED_OVER_TIME))
    operands = [jnp.stack([INDEX] * STEPS), *stacks] if name == "scatter-add" else stacks
    want = sum(fun(*row) for row in zip(*stacks, strict=True))
    assert_close(time_sums.summed(equation, operands), want, 1e-13)


def test_narrow_floats_are_summed_in_float32():
    x = jnp.full((300, 1), 1.0078125, jnp.bfloat16)
    (equation,) = jax.make_jaxpr(lambda x, y: x * y)(x[0], x[0]).jaxpr.eqns
    got = time_sums.summed(equation, [x, jnp.ones_like(x)])
    assert got.dtype == jnp.float32 and bind(equation, (x[0], x[0]))[0].dtype == jnp.bfloat16
    np.testing.assert_allclose(got, 300 * 1.0078125, rtol=1e-6)
