"""Transformations and control flow around small bodies: the nested part of a random program.

A body takes (a, b) and returns a value of a's type. `{F}` and `{G}` are bodies and `{N}` the function that
`definition` defines. Bodies come from a small pool, as functions that stay the same objects, so that what JAX
compiled for one program serves the next.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Wrapper:
    """An expression around bodies; `stacked` says which of the operands a and b has a leading axis."""

    template: str
    definition: str = ""
    stacked: tuple[bool, bool] = (False, False)


def loop(template: str) -> Wrapper:
    """A scan over b's leading axis, with a as the carry."""
    return Wrapper(template, "def {N}(c, x):\n    c = {F}(c, x)\n    return c, c + 1.0", (False, True))


def own_steps(call: str, stacked: tuple[bool, bool], after: str = "") -> Wrapper:
    """A loop whose number of steps, 0 to 3, is found from a: one for each example under vmap."""
    return Wrapper(
        call,
        "def {N}(a, b):\n"
        "    n = jnp.abs(7.0 * jnp.sum(a)).astype(int) % 4\n"
        f"    step = lambda s: (s[0] + 1, {{F}}(s[1], b){after})\n"
        "    return lax.while_loop(lambda s: s[0] < n, step, (jnp.zeros_like(n), a))[1]",
        stacked,
    )


OWN_STEPS = [
    own_steps("{N}({0}, {1})", (False, False)),
    own_steps("jax.vmap({N}, in_axes=(0, None))({0}, {1})", (True, False)),
    own_steps("jax.vmap({N})({0}, {1})", (True, True)),
    own_steps("jax.jit(jax.vmap(jax.checkpoint({N})))({0}, {1})", (True, True)),
    own_steps("jax.vmap({N}, in_axes=(0, None), axis_name='i')({0}, {1})", (True, False), " - lax.pmean(s[1], 'i')"),
]

REFERENCES = [
    Wrapper(
        "{N}({0}, {1})",
        "def {N}(a, b):\n    r = jax.new_ref(a)\n"
        "    def step(_, x):\n        r[...] = {F}(r[...], x)\n        return None, 0.5 * r[...]\n"
        "    rows = lax.scan(step, None, b)[1]\n    return r[...] + rows[0]",
        (False, True),
    ),
    Wrapper(
        "{N}({0}, {1})",
        "def {N}(a, b):\n    r = jax.new_ref(jnp.stack([a, a]))\n"
        "    def step(i, _):\n        r[i % 2] += {F}(r[(i + 1) % 2], b)\n"
        "    lax.fori_loop(0, 3, step, None)\n    return r[0] * r[1]",
    ),
    Wrapper(
        "{N}({0}, {1})",
        "def {N}(a, b):\n    r = jax.new_ref(a)\n"
        "    def write(x):\n        r[...] = {F}(r[...], x)\n"
        "    jax.jit(write)(b)\n    write(b)\n    return jax.freeze(r)",
    ),
    Wrapper(
        "jax.vmap({N}, in_axes=(0, None))({0}, {1})",
        "def {N}(a, b):\n    r = jax.new_ref(jnp.zeros_like(a))\n    r[...] += {F}(a, b)\n    return r[...] * a",
        (True, False),
    ),
]

# Rules that return Python numbers, and numbers of weak type in loops.
NUMBERS = [
    Wrapper(
        "{N}({0}, {1})",
        "{N} = jax.custom_vjp(lambda a, b: {F}(a, b))\n"
        "{N}.defvjp(lambda a, b: ({F}(a, b), (a, b, 2.0)),"
        " lambda r, ct: (r[2] * ct * r[0], jnp.zeros_like(r[1]) if r[1].ndim else 0.0))",
    ),
    Wrapper(
        "lax.scan({N}, {0}, {1})[0]",
        "rule_{N} = jax.custom_vjp(lambda a, b: {F}(a, b))\n"
        "rule_{N}.defvjp(lambda a, b: ({F}(a, b), (a, b)), lambda r, ct: (3.0 * ct, jnp.zeros(r[1].shape)))\n"
        "def {N}(c, x):\n    return rule_{N}(c, x), None",
        (False, True),
    ),
    Wrapper(
        "{N}({0}, {1})",
        "def {N}(a, b):\n    w = lax.while_loop(lambda w: w < 3.0, lambda w: w * 1.5, 1.0)\n"
        "    s = lax.scan(lambda c, _: (c * 1.1, c), 1.0, None, length=3)[0]\n"
        "    return {F}(a * s, b) * w",
    ),
    Wrapper(
        "{N}({0}, {1})",
        "def {N}(a, b):\n    s, y = lax.fori_loop(0, 3, lambda i, c: (c[0] * 0.5 + i, {F}(c[1], b)), (1.0, a))\n"
        "    return y * s",
    ),
]

WRAPPERS = [
    Wrapper("jax.jit({F})({0}, {1})"),
    Wrapper("jax.checkpoint({F})({0}, {1})"),
    Wrapper("jax.checkpoint({F}, policy=jax.checkpoint_policies.dots_saveable)({0}, {1})"),
    Wrapper("lax.cond(jnp.sum({0}) > 0.3, {F}, {G}, {0}, {1})"),
    Wrapper("lax.switch(jnp.argmax(jnp.ravel({1})) % 3, [{F}, {G}, {N}], {0}, {1})", "def {N}(a, b):\n    return a"),
    loop("lax.scan({N}, {0}, {1})[0]"),
    loop("lax.scan({N}, {0}, {1}, reverse=True)[1]"),
    loop("lax.scan({N}, {0}, {1}, unroll=2)[1]"),
    Wrapper(
        "{N}({0}, {1})",
        "def {N}(a, b):\n    return lax.fori_loop(0, 3, lambda i, c: {F}(c, b) * (0.5 + i), a)",
    ),
    Wrapper("jax.vmap({F}, in_axes=(0, None))({0}, {1})", stacked=(True, False)),
    Wrapper("jax.vmap({F}, in_axes=(None, 0))({0}, {1})", stacked=(False, True)),
    Wrapper("jax.vmap({F})({0}, {1})", stacked=(True, True)),
    Wrapper("jax.vmap(jax.jit({F}), out_axes=-1)({0}, {1})", stacked=(True, True)),
    Wrapper("lax.map(lambda ab: {F}(*ab), ({0}, {1}))", stacked=(True, True)),
    Wrapper(
        "{N}({0}, {1})",
        "{N} = jax.custom_jvp(lambda a, b: {F}(a, b))\n{N}.defjvp(lambda ab, tangents: jax.jvp({F}, ab, tangents))",
    ),
    Wrapper(
        "{N}({0}, {1})",
        "{N} = jax.custom_jvp(lambda a, b: {F}(a, b))\n{N}.defjvps(lambda t, y, a, b: 2.0 * t * y, None)",
    ),
    Wrapper(
        "{N}({0}, {1})",
        "{N} = jax.custom_vjp(lambda a, b: {F}(a, b))\n"
        "{N}.defvjp(lambda a, b: jax.vjp({F}, a, b), lambda pullback, ct: pullback(ct))",
    ),
    Wrapper(
        "{N}({0}, {1})",
        "{N} = jax.custom_vjp(lambda a, b: {F}(a, b))\n"
        "{N}.defvjp(lambda a, b: ({F}(a, b), (a, b)), lambda ab, ct: (ct * jnp.cos(ab[0]), ab[1] * jnp.sum(ct)))",
    ),
    Wrapper(
        "{N}({0}, {1})",
        "{N} = jax.custom_vjp(lambda a, b: jnp.round({F}(a, b)))\n"
        "{N}.defvjp(lambda a, b: (jnp.round({F}(a, b)), b), lambda b, ct: (ct, 0.5 * b * jnp.sum(ct)))",
    ),
    Wrapper(
        "{N}({0}, {1})",
        "{N} = jax.custom_jvp(lambda a, b: jnp.round({F}(a, b)))\n"
        "{N}.defjvps(lambda t, y, a, b: 2.0 * t, lambda t, y, a, b: jnp.sum(t) * y)",
    ),
    Wrapper(
        "jax.vmap({N}, axis_name='i')({0}, {1})",
        "def {N}(a, b):\n    return {F}(a - lax.pmean(a, 'i'), b) + lax.psum(jnp.sin(a), 'i')",
        (True, True),
    ),
    Wrapper(
        "jax.vmap({N}, axis_name='i')({0}, {1})",
        "def {N}(a, b):\n    return {F}(jnp.mean(lax.all_gather(a, 'i'), 0), b) * lax.axis_index('i')",
        (True, True),
    ),
    Wrapper(
        "{N}({0}, {1})",
        "def {N}(a, b):\n    r = jax.new_ref(a)\n    r[...] = {F}(r[...], b)\n    r[...] += a\n    return r[...]",
    ),
    Wrapper(
        "lax.scan(jax.checkpoint({N}), ({0}, {0}), {1})[0][1]",
        "def {N}(carry, x):\n    c, d = carry\n    return (d, {F}(c, x)), None",
        (False, True),
    ),
    *OWN_STEPS,
    *REFERENCES,
    *NUMBERS,
    Wrapper(
        "{N}({0}, {1})",
        "{N} = jax.shard_map({F}, mesh=MESH, in_specs=(P(), P()), out_specs=P(), check_vma=False)",
    ),
    Wrapper(
        "{N}({0}, {1})",
        "{N} = jax.shard_map(lambda a, b: lax.pmean({F}(lax.pcast(a, 'x', to='varying'), b), 'x'),"
        " mesh=MESH, in_specs=(P(), P()), out_specs=P())",
    ),
    Wrapper("{N}({0}, {1})", "def {N}(a, b):\n    return a + jnp.sum(jax.jacfwd({F})(a, b))"),
    Wrapper("{N}({0}, {1})", "def {N}(a, b):\n    return jax.linearize({F}, a, b)[1](jnp.sin(a), b)"),
    Wrapper("{N}({0}, {1})", "{N} = jax.grad(lambda a, b: jnp.sum({F}(a, b)))"),
    Wrapper("{N}({0}, {1})", "{N} = fb.grad(lambda a, b: jnp.sum({F}(a, b)))"),
    Wrapper("{N}({0}, {1})", "{N} = jax.jit(fb.grad(lambda a, b: jnp.sum({F}(a, b))))"),
    Wrapper("jax.jvp({F}, ({0}, {1}), ({0}, {1}))[1]"),
]

# The shapes of a body's a and b.
SIGNATURES = [((3,), (3,)), ((4,), (4,)), ((), (4,)), ((3, 4), (4,)), ((3,), ()), ((), ())]
