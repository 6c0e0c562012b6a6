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
        "{N}.defvjp(lambda a, b: (jnp.round({F}(a, b)), b), lambda b, ct: (ct, 0.5 * b))",
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
    Wrapper("{N}({0}, {1})", "def {N}(a, b):\n    return a + jnp.sum(jax.jacfwd({F})(a, b))"),
    Wrapper("{N}({0}, {1})", "def {N}(a, b):\n    return jax.linearize({F}, a, b)[1](jnp.sin(a), b)"),
    Wrapper("{N}({0}, {1})", "{N} = jax.grad(lambda a, b: jnp.sum({F}(a, b)))"),
    Wrapper("{N}({0}, {1})", "{N} = fb.grad(lambda a, b: jnp.sum({F}(a, b)))"),
    Wrapper("{N}({0}, {1})", "{N} = jax.jit(fb.grad(lambda a, b: jnp.sum({F}(a, b))))"),
    Wrapper("jax.jvp({F}, ({0}, {1}), ({0}, {1}))[1]"),
]

# The shapes of a body's a and b.
SIGNATURES = [((3,), (3,)), ((4,), (4,)), ((), (4,)), ((3, 4), (4,)), ((3,), ()), ((), ())]
