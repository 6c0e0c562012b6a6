"""Equal steps share what their rules emit: equations, source lines and scopes are those of calling each rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

import fnbackprop as fb
from fnbackprop.backprop import registry, repeated_steps
from fnbackprop.backprop.repeated_steps import CALLED
from fnbackprop.jaxprs.graph import all_equations
from fnbackprop.jaxprs.types import Primitive

from ..campaigns.jaxprs.printing import canonical

X = np.linspace(-1, 1, 4, dtype=np.float32)
FACTORS = [2.0, 2.0, -2.0, 0.0, -0.0, 2.0, 2.0, 2.0, 2.0, -0.0, -0.0, -0.0, -0.0, -0.0, 0.0]


def layers(x, w):
    """Products of a value with itself, with another and with numbers; scopes; several outputs; a literal in between."""
    for i, factor in enumerate(FACTORS):
        with jax.named_scope(f"layer{i}"):
            h = jnp.tanh(x * x + w * x + x * x) * factor + jnp.max(x)
            x = jnp.concatenate([h[:2], jax.lax.sort([x, h], num_keys=1)[0][2:]])
    return jnp.sum(x * w)


def fitted_layers(x, w):
    """Products whose cotangents are summed, and cast, to fit their operands, beside other terms of the same values."""
    for _ in range(6):
        h = jax.lax.mul(x, w[0]).astype(jnp.bfloat16)
        x = x + jax.lax.dot(h, h, preferred_element_type=jnp.float32) * jax.lax.mul(w[1], x)
    return jnp.sum(x)


def split_layers(x, w):
    for _ in range(6):
        low, high = jnp.split(x, 2)
        x = jnp.concatenate([high * w[:2], low])
    return jnp.sum(low) + jnp.sum(x)


SPEC = PartitionSpec("i")
PROGRAMS = {
    "bfloat16": fb.grad(lambda x, w: jnp.sum(layers(x.astype(jnp.bfloat16), w.astype(jnp.bfloat16))), (0, 1)),
    "fitted": fb.grad(fitted_layers, (0, 1)),
    "layers": fb.grad(layers, (0, 1)),
    "only x": fb.grad(layers),
    "second order": fb.grad(lambda x, w: jnp.sum(fb.grad(layers, eager=False)(x, w) * w)),
    "in a scan": fb.grad(
        lambda x, w: jnp.sum(jax.lax.scan(lambda h, _: (h * layers(h, w), None), x, None, length=2)[0])
    ),
    "several outputs": fb.grad(split_layers, (0, 1)),
    "in shard_map": jax.shard_map(
        fb.grad(layers), mesh=Mesh(np.array(jax.devices()[:1]), ("i",)), in_specs=(SPEC, SPEC), out_specs=SPEC
    ),
    "safe_select": fb.grad(layers, safe_select=True),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_jaxpr_is_that_of_calling_each_rule(name, monkeypatch):
    found = []
    for called in (CALLED, 10**6):
        monkeypatch.setattr(repeated_steps, "CALLED", called)
        jaxpr = jax.make_jaxpr(lambda x, w: PROGRAMS[name](x, w))(X, X)
        sources = [e.source_info for e in all_equations(jaxpr)]
        found.append((canonical(jaxpr), [(str(s.name_stack), str(s.traceback)) for s in sources]))
    assert found[0] == found[1]


def double(name):
    primitive = Primitive(name)
    primitive.def_impl(lambda x: 2 * x)
    primitive.def_abstract_eval(lambda x: x)
    return primitive


def calls_of(rule, trace=jax.make_jaxpr):
    """How often a rule is called in the backward of ten equal equations, and the equations of the gradient."""
    primitive, count = double(rule.__name__), 0

    def counting(dy):
        nonlocal count
        count += 1
        return rule(dy)

    try:
        registry.vjp_rule(primitive)(counting)

        def f(x):
            for _ in range(10):
                x = primitive.bind(x)
            return x

        found = trace(fb.grad(f))(np.float32(1))
    finally:
        registry._entries.pop(primitive)
    return count, found


def test_rules_are_called_once_more_than_a_few_times():
    count, jaxpr = calls_of(lambda dy: 2 * dy)
    assert count == CALLED + 1
    assert sum(e.primitive.name == "mul" for e in jaxpr.eqns) == 10


def test_what_is_not_shared():
    array = jnp.arange(3.0)

    def printing(dy):
        jax.debug.print("{}", dy)
        return 2 * dy

    def closing_over_an_array(dy):
        return dy * jnp.sum(array)

    def with_a_scope(dy):
        with jax.named_scope("inner"):
            return 2 * dy

    for rule in (printing, closing_over_an_array, with_a_scope):
        count, _ = calls_of(rule)
        assert count == 11, rule  # one of them to find out
    count, value = calls_of(lambda dy: 2 * dy, trace=lambda f: f)
    assert (count, value) == (10, 1024)  # evaluated, not traced


def test_parameters_that_are_equal_but_not_the_same():
    primitive = Primitive("scaled")
    primitive.def_impl(lambda x, *, by: x)
    primitive.def_abstract_eval(lambda x, *, by: x)
    given = [y for x in (0.0, -0.0, 1, 1.0, True, (0.0,), (-0.0,), np.float32(1)) for y in [x] * (CALLED + 1)]
    found = []

    def recording(dy, *, by):
        found.append(by)
        return dy

    def f(x):
        for by in given:
            x = primitive.bind(x, by=by)
        return x

    try:
        registry.vjp_rule(primitive)(recording)
        jax.make_jaxpr(fb.grad(f))(np.float32(1))
    finally:
        registry._entries.pop(primitive)
    assert list(map(repr, found)) == list(map(repr, given[::-1]))


def test_a_rule_that_reads_the_numbers_of_a_constant_is_called_each_time():
    primitive, weights = Primitive("weighted"), jnp.array([2.0, 5.0])
    primitive.def_impl(lambda x, w: x * w[0])
    primitive.def_abstract_eval(lambda x, w: x)

    def weighted(dy, w):
        return dy * float(np.asarray(w)[0])

    def f(x):
        for _ in range(2 * CALLED):
            x = primitive.bind(x, weights)
        return x

    try:
        registry.vjp_rule(primitive, "x, w -> y", wrt="x")(weighted)
        jaxpr = jax.make_jaxpr(fb.grad(f))(np.float32(1))
    finally:
        registry._entries.pop(primitive)
    assert sum(e.primitive.name == "mul" for e in jaxpr.eqns) == 2 * CALLED


def test_a_rule_that_reads_which_outputs_are_wanted():
    """The second output of half of the steps is wanted, and yet it gets no cotangent."""
    pair, blocked = Primitive("pair"), Primitive("blocked")
    pair.multiple_results = True
    pair.def_abstract_eval(lambda x: [x, x])
    blocked.def_abstract_eval(lambda x: x)
    found = []

    def pair_vjp(dy, dz, wanted):
        found.append(wanted)
        return dy

    def f(x):
        total = x
        for i in range(2 * (CALLED + 1)):
            x, y = pair.bind(x)
            total = total + blocked.bind(y) if i % 2 else total
        return x, total

    try:
        registry.vjp_rule(pair, "x -> y, z")(pair_vjp)
        registry.vjp_rule(blocked)(lambda dy: None)
        jax.make_jaxpr(lambda x: fb.vjp(f, x)[1]((x, x)))(np.float32(1))
    finally:
        registry._entries.pop(pair), registry._entries.pop(blocked)
    assert found.count((True, True)) == found.count((True, False)) == CALLED + 1
