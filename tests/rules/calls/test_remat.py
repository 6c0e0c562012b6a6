"""remat: what is saved, what is computed again, and that the compiler does not undo it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

import fnbackprop as fb
from fnbackprop.jaxprs.graph import all_equations

from ..checking import assert_close, check_agreement, check_vjp

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(3,)), RNG.normal(size=(3,))
pytestmark = pytest.mark.usefixtures("x64")


POLICIES = {
    "none": None,
    "everything": jax.checkpoint_policies.everything_saveable,
    "nothing": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_saveable,
    "dots without batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "names": jax.checkpoint_policies.save_only_these_names("kept"),
    "any but names": jax.checkpoint_policies.save_anything_except_these_names("kept"),
}


def layered(w, x):
    x = checkpoint_name(jnp.sin(x @ w), "kept")
    return jax.jit(jnp.tanh)(x @ w) * x


@pytest.mark.parametrize("policy", POLICIES)
def test_remat_vjp(policy):
    w, x = RNG.normal(size=(3, 3)), RNG.normal(size=(2, 3))
    check_agreement(jax.checkpoint(layered, policy=POLICIES[policy]), w, x)


def saved_floats(policy):
    w, x = jnp.ones((3, 3)), jnp.ones((2, 3))
    pullback = fb.vjp(jax.checkpoint(layered, policy=POLICIES[policy]), w, x)[1]
    arrays = {id(leaf): leaf.size for leaf in jax.tree.leaves(pullback)}
    return sum(arrays.values()) - w.size - x.size


def test_remat_obeys_its_policy():
    """What is saved beyond the operands: nothing; the named value; the two products."""
    assert saved_floats("nothing") == saved_floats("none") == 0
    assert saved_floats("names") == 6
    assert saved_floats("dots") == 12


def test_remat_second_order_and_vmap():
    check_vjp(jax.checkpoint(lambda x, y: jnp.sin(x) * jnp.tanh(y * x)), X, Y, dtypes=("float64",))


def wide_layers(wrap, lib=fb, **options):
    """(the compiled gradient of six layers, each wrapped, that are wide inside; its operands)."""
    weights = [(jnp.full((16, 512), 0.1 + i), jnp.full((512, 16), 0.01)) for i in range(6)]
    layer = wrap(lambda x, up, down: jnp.tanh(jnp.tanh(x @ up) @ down) + x)

    def loss(weights, x):
        for up, down in weights:
            x = layer(x, up, down)
        return jnp.sum(x**2)

    args = weights, jnp.linspace(-1.0, 1.0, 64 * 16).reshape(64, 16)
    return jax.jit(lib.grad(loss, **options)).lower(*args).compile(), args


def temp_bytes(compiled):
    return compiled.memory_analysis().temp_size_in_bytes


def test_remat_saves_memory_without_a_loop():
    """XLA drops barriers on a CPU and merges what is computed again with what it was to replace; not so here."""
    plain, args = wide_layers(lambda layer: layer)
    checkpointed, _ = wide_layers(jax.checkpoint)
    assert temp_bytes(checkpointed) < 0.4 * temp_bytes(plain)
    assert_close(checkpointed(*args), plain(*args), 1e-12)


@pytest.mark.parametrize("wrap, budget", [(jax.checkpoint, None), (jax.jit, 0.0), (jax.jit, 0.5)])
def test_what_is_computed_again_composes(wrap, budget):
    """Second derivatives by reverse and by forward mode, and vmap of the operands and of the cotangent."""

    @wrap
    def layer(w, x):
        return jnp.sin(jnp.tanh(x @ w) @ w.T) * x

    def fun(w, x):
        return jnp.sum(layer(w, layer(w, x)) ** 2)

    w, x = jnp.asarray(RNG.normal(size=(3, 4))), jnp.asarray(RNG.normal(size=(2, 3)))
    tangents = jnp.cos(w), jnp.sin(x)

    def derivatives(lib, **options):
        gradient = lib.grad(fun, argnums=(0, 1), **options)
        second = lib.grad(lambda w, x: sum(map(jnp.vdot, gradient(w, x), tangents)), argnums=(0, 1), **options)
        pullback = lib.vjp(lambda x: layer(w, x), x, **options)[1]
        return (
            jax.jvp(gradient, (w, x), tangents),
            second(w, x),
            jax.vmap(gradient, in_axes=(None, 0))(w, jnp.stack([x, 2 * x])),
            jax.vmap(pullback)(jnp.stack([x, 1 - x])),
        )

    assert_close(derivatives(fb, budget=budget), derivatives(jax), 1e-12)


def test_debug_callbacks_run_once():
    seen = []

    @jax.checkpoint
    def fun(x):
        jax.debug.callback(lambda x: seen.append(float(x)), x)
        return jnp.sin(x) * x

    fb.grad(lambda x: jax.lax.cond(x > 0, fun, jnp.sin, x))(1.0)
    jax.effects_barrier()
    assert seen == [1.0]


def test_optimization_barrier_vjp():
    check_agreement(lambda x, y: jax.lax.optimization_barrier((x * y, y, jnp.arange(3)))[0], X, Y)


def test_safe_select():
    """The double where is not needed: the untaken branch's infinite derivative meets a zero cotangent."""

    def fun(x):
        return jnp.where(x > 0, jnp.sqrt(x) * jnp.log(x), 0.0).sum()

    x = jnp.asarray([0.0, 4.0, -1.0])
    taken = jax.grad(lambda x: jnp.sqrt(x) * jnp.log(x))(4.0)
    assert np.isnan(fb.grad(fun)(x)[0]) and np.isnan(jax.grad(fun)(x)[0])
    for run in (fb.grad(fun, safe_select=True), jax.jit(fb.grad(jax.checkpoint(fun), safe_select=True))):
        assert_close(run(x), jnp.asarray([0.0, taken, 0.0]), 1e-12)


@pytest.fixture
def newer_checkpoint():
    """`jax.checkpoint` as a hijax primitive, behind JAX's flag."""
    jax.config.update("jax_remat3", True)
    yield
    jax.config.update("jax_remat3", False)


@pytest.mark.usefixtures("newer_checkpoint")
@pytest.mark.parametrize("policy", ["none", "dots", "names", "any but names"])
def test_the_newer_checkpoint(policy):
    w, x = RNG.normal(size=(3, 3)), RNG.normal(size=(2, 3))
    check_agreement(jax.checkpoint(layered, policy=POLICIES[policy]), w, x)
    found = saved_floats(policy)
    jax.config.update("jax_remat3", False)
    assert found == saved_floats(policy)


@pytest.mark.usefixtures("newer_checkpoint")
def test_the_newer_checkpoint_composes():
    """In scan, nested, under vmap and twice."""
    w, xs = jnp.asarray(RNG.normal(size=(3, 3))), jnp.asarray(RNG.normal(size=(4, 3)))
    constant = np.arange(3.0)

    @jax.checkpoint
    def layer(w, h):
        return jnp.sin(jax.checkpoint(jnp.tanh)(h @ w) + constant)

    def loss(w, xs):
        return jnp.sum(jax.lax.scan(lambda h, x: (layer(w, h + x), None), xs[0], xs)[0] ** 2)

    def derivatives(lib):
        gradient = lib.grad(loss, argnums=(0, 1))
        return (
            jax.vmap(gradient, in_axes=(None, 0))(w, jnp.stack([xs, 2 * xs])),
            jax.jit(lib.grad(lambda w: jnp.sum(lib.grad(loss)(w, xs) ** 2)))(w),
        )

    assert_close(derivatives(fb), derivatives(jax), 1e-12)


def barriers(prevent_cse):
    """The number of operands of each optimization barrier in the gradient of two checkpointed layers."""
    layer = jax.checkpoint(lambda w, x: jnp.sin(x @ w), prevent_cse=prevent_cse)
    gradient = fb.grad(lambda ws, x: jnp.sum(layer(ws[1], layer(ws[0], x))), argnums=(0, 1))
    closed = jax.make_jaxpr(gradient)([jnp.ones((3, 3))] * 2, jnp.ones((2, 3)))
    return [len(e.invars) for e in all_equations(closed) if e.primitive.name == "optimization_barrier"]


def test_the_operands_that_prevent_cse_names():
    """The barrier is for these and the cotangent."""
    assert barriers(True) == [3, 3]
    assert barriers((False, True)) == [2, 2]
    assert barriers((False, False)) == barriers(False) == []


def test_names_in_profiles():
    jaxpr = jax.make_jaxpr(fb.grad(jax.checkpoint(lambda x: jnp.sin(jnp.sin(x)), prevent_cse=False)))(1.0).jaxpr
    named = [(e.primitive.name, str(e.source_info.name_stack)) for e in jaxpr.eqns]
    assert named[0] == ("sin", "jvp(checkpoint)")
    assert ("sin", "transpose(jvp(checkpoint))/rematted_computation") in named
    assert ("mul", "transpose(jvp(checkpoint))") in named


def test_the_forward_reads_saved_values_as_the_backward_does():
    """A product in bfloat16 is rounded, where XLA would leave it in the float32 in which it is computed."""

    @jax.custom_vjp
    def widened(x):
        return jnp.float32(1) * x.astype("float32")

    widened.defvjp(lambda x: (widened(x), x), lambda x, _: (jnp.float32(1) * x.astype("float32"),))
    product = jax.custom_vjp(lambda x: jnp.dot(x, x))
    product.defvjp(lambda x: (product(x), None), lambda _, ct: (ct,))
    x = (1 + jnp.finfo("bfloat16").eps) * jnp.eye(2, dtype="bfloat16")
    value, pullback = fb.vjp(jax.jit(jax.checkpoint(lambda x: widened(product(x)), policy=POLICIES["everything"])), x)
    assert (value == pullback(jnp.ones_like(value))[0].astype("float32")).all()


def test_outside_jit_nothing_is_compiled_again(caplog):
    """A branch that keeps a compiler from merging would be compiled at each call; there is nothing to merge."""
    x = jnp.asarray(0.5)
    pullback = fb.vjp(jax.checkpoint(lambda x: jnp.sin(jnp.sin(x))), x)[1]
    pullback(x)
    with jax.log_compiles():
        pullback(x)
    assert not [record for record in caplog.records if "Compiling" in record.message]
