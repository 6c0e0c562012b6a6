"""Mutable references within a differentiated function, against the same function without them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import pallas as pl
from jax.sharding import PartitionSpec as P

import fnbackprop as fb

from ..rules.checking import assert_close, check_equal

RNG = np.random.default_rng(0)
X, M = RNG.normal(size=(3,)), RNG.normal(size=(3, 4))
pytestmark = pytest.mark.usefixtures("x64")


def written(x):
    ref = jax.new_ref(x)
    ref[...] = ref[...] * jnp.sin(x)
    ref[0] = ref[1] * x[2]
    jax.ref.addupdate(ref, slice(1, 3), x[:2] ** 2)
    old = jax.ref.swap(ref, 2, x[0])
    return jax.ref.freeze(ref), old


def written_plain(x):
    y = x * jnp.sin(x)
    y = y.at[0].set(y[1] * x[2]).at[1:3].add(x[:2] ** 2)
    return y.at[2].set(x[0]), y[2]


def in_jit(x):
    ref = jax.new_ref(jnp.zeros(3))

    @jax.jit
    def accumulate(ref, x):
        ref[...] += jnp.sin(x)
        return ref[0] * x

    first = accumulate(ref, x)
    return accumulate(ref, first), ref[...]


def in_jit_plain(x):
    first = jnp.sin(x)[0] * x
    total = jnp.sin(x) + jnp.sin(first)
    return total[0] * first, total


def in_scan(x):
    ref = jax.new_ref(x)

    def step(carry, i):
        ref[i] = ref[i] * carry
        ref[(i + 1) % 3] += jnp.sin(carry)
        return carry * ref[0], ref[...]

    carry, ys = lax.scan(step, x[0], jnp.arange(3))
    return carry, ys, ref[1]


def in_scan_plain(x):
    def step(state, i):
        carry, y = state
        y = y.at[i].multiply(carry)
        y = y.at[(i + 1) % 3].add(jnp.sin(carry))
        return (carry * y[0], y), y

    (carry, y), ys = lax.scan(step, (x[0], x), jnp.arange(3))
    return carry, ys, y[1]


def in_cond(x, y):
    ref, other = jax.new_ref(x), jax.new_ref(y)

    def first():
        ref[...] *= other[...]
        return ref[0]

    def second():
        other[1] = ref[1] * 3
        return other[1]

    outs = [lax.cond(flag, first, second) for flag in (y[0] > -100, x[0] > 100)]
    return outs, ref[...], other[...]


def in_cond_plain(x, y):
    x = x * y
    y = y.at[1].set(x[1] * 3)
    return [x[0], y[1]], x, y


def in_fori(x):
    ref = jax.new_ref(x)

    def body(i, _):
        ref[...] = ref[...] * jnp.sin(ref[0]) + x

    lax.fori_loop(0, 3, body, None)
    return ref[...]


def in_fori_plain(x):
    y = x
    for _ in range(3):
        y = y * jnp.sin(y[0]) + x
    return y


def in_inner_functions(x):
    """References that a jitted function, a scan's body and a branch make for themselves."""

    def local(x):
        ref = jax.new_ref(x)
        ref[...] = ref[...] * x
        return ref[...]

    _, ys = lax.scan(lambda c, v: (c, local(v)), 0.0, x)
    return jax.jit(local)(x), ys, lax.cond(x[0] > -100, local, jnp.cos, x), jax.checkpoint(local)(jnp.sin(x))


def in_inner_functions_plain(x):
    return x * x, x * x, x * x, jnp.sin(x) ** 2


def with_run_state(x):
    def body(refs):
        ref, total = refs
        total[0] = ref[0] * ref[1]
        ref[0] = total[0] * 2

    return pl.run_state(body)((x, x[:1]))


def with_run_state_plain(x):
    total = x[0] * x[1]
    return x.at[0].set(total * 2), total[None]


def with_an_empty_reference(x):
    ref = jax.empty_ref(jax.typeof(x))
    ref[...] = x * x
    y = ref[...] * x
    jax.free_ref(ref)
    return y


PAIRS = {
    "top": (written, written_plain, X),
    "jit": (in_jit, in_jit_plain, X),
    "scan": (in_scan, in_scan_plain, X),
    "cond": (in_cond, in_cond_plain, X, X + 1),
    "fori": (in_fori, in_fori_plain, X),
    "inner": (in_inner_functions, in_inner_functions_plain, X),
    "run_state": (with_run_state, with_run_state_plain, X),
    "empty_ref": (with_an_empty_reference, lambda x: x**3, X),
}


@pytest.mark.parametrize("name", PAIRS)
def test_references(name):
    check_equal(*PAIRS[name])


def index_case(select):
    """Read, write and add at an index, against jnp's indexed updates."""

    def fun(x):
        ref = jax.new_ref(x)
        part = select(ref)
        select(ref, jnp.sin(part) * part)
        return part, ref[...]

    def plain(x):
        mirror = Mirror(x)
        part = select(mirror)
        select(mirror, jnp.sin(part) * part)
        return part, mirror.value

    return fun, plain


class Mirror:
    """What a reference does, by `x.at`."""

    def __init__(self, value):
        self.value = value

    def __getitem__(self, index):
        return self.value[index]

    def __setitem__(self, index, part):
        self.value = self.value.at[index].set(part)


def at(index):
    def select(ref, part=None):
        if part is None:
            return ref[index]
        ref[index] = part
        return None

    return select


ROWS, COLUMNS = jnp.array([2, 0]), jnp.array([1, 3])
INDICES = {
    "whole": ...,
    "row": 1,
    "last row": np.int32(-1),
    "beyond": (slice(None), slice(1, 4)),
    "strided": (slice(0, 3, 2), slice(1, None, 2)),
    "scalar and slice": (np.int32(2), slice(0, 2)),
    "two scalars": (0, np.int32(3)),
    "rows": ROWS,
    "columns": (slice(1, 3), COLUMNS),
    "points": (ROWS, COLUMNS),
    "scalar and array": (1, COLUMNS),
}


@pytest.mark.parametrize("name", INDICES)
def test_indices(name):
    check_equal(*index_case(at(INDICES[name])), M, batched=False)


def test_views_of_views():
    def fun(x, i):
        ref = jax.new_ref(x)
        ref.at[1:].at[i][...] = jnp.sin(x[0])
        ref.at[:, 1:3].reshape(6)[2] += x[2, 2]
        ref[pl.ds(i, 2), 0:1] *= 3.0
        return ref[...], ref.at[pl.ds(i, 2, 1)][...]

    def plain(x, i):
        x = x.at[1 + i].set(jnp.sin(x[0]))
        x = x.at[1, 1].add(x_in[2, 2])
        x = x.at[i : i + 2, 0:1].multiply(3.0)
        return x, x[i : i + 2]

    x_in = jnp.asarray(M)

    def with_operand(x):
        nonlocal x_in
        x_in = x
        return plain(x, 1)

    check_equal(lambda x: fun(x, jnp.int32(1)), with_operand, M)


def test_clamped_as_in_jax():
    """A scalar index beyond the end is clamped in the forward, whether a gradient is taken or not."""

    def fun(x, i):
        ref = jax.new_ref(x)
        ref[i] = ref[i] * 3
        return ref[...]

    @jax.jit
    def both(x, i):
        value, pullback = fb.vjp(lambda x: fun(x, i), x)
        return value, pullback(x)[0]

    x = jnp.asarray(X)
    value, gradient = both(x, 7)
    np.testing.assert_allclose(value, jax.jit(fun)(x, 7))
    np.testing.assert_allclose(gradient, X * np.array([1, 1, 3]))


# ---------------------------------------------------------------- references from outside


def test_a_reference_from_outside_is_a_constant():
    """It is read at the start and written at the end: running statistics. JAX refuses a differentiated value there."""
    mean = jax.new_ref(jnp.zeros(()))

    def loss(x):
        mean[...] = 0.5 * mean[...] + x.mean()
        return jnp.sum(x * mean[...])

    x = jnp.asarray(X)
    want = lambda m: jax.grad(lambda x: jnp.sum(x * (0.5 * m + x.mean())))(x)  # noqa: E731
    before = mean[...]
    np.testing.assert_allclose(fb.grad(loss)(x), want(before), rtol=1e-12)
    np.testing.assert_allclose(mean[...], x.mean())
    between = mean[...]
    np.testing.assert_allclose(jax.jit(fb.grad(loss))(x), want(between), rtol=1e-12)
    np.testing.assert_allclose(mean[...], 1.5 * x.mean())


def test_nested_gradients_share_a_reference():
    def fun(x):
        ref = jax.new_ref(x)

        def inner(y):
            ref[...] += y**2
            return jnp.sum(ref[...] * y)

        return fb.grad(inner)(x) * ref[...]

    check_equal(fun, lambda x: (x + 3 * x**2) * (x + x**2), X)


# ---------------------------------------------------------------- errors


def test_python_control_flow_is_an_error():
    def fun(x):
        ref = jax.new_ref(x)
        if float(x[0]) > 1e9:
            return x.sum()
        return ref[...].sum()

    with pytest.raises(NotImplementedError, match="mutable reference in new_ref, at .*lax.cond"):
        fb.grad(fun)(jnp.asarray(X))


def test_a_call_of_another_kind_is_an_error():
    def fun(x):
        ref = jax.new_ref(x)

        def body(ref):
            ref[0] *= 2.0
            return ref[...]

        return jax.shard_map(body, mesh=jax.make_mesh((1,), ("i",)), in_specs=P(), out_specs=P())(ref).sum()

    with pytest.raises(NotImplementedError, match="mutable reference in shard_map, at .*test_discharge.py"):
        fb.grad(fun)(jnp.asarray(X))


@jax.custom_vjp
def stash(ref, x):
    """The identity, which puts its cotangent into a reference."""
    return x


def _stash_forward(ref, x):
    return x, ref


def _stash_backward(ref, ct):
    ref[...] = ct
    return None, ct


stash.defvjp(_stash_forward, _stash_backward)


def stashed(ref, x):
    return jnp.sin(stash(ref, jnp.sin(x)))


PLUMBED = {
    "plain": stashed,
    "jit": jax.jit(stashed),
    "checkpoint": jax.checkpoint(stashed),
    "jit in jit": jax.jit(lambda ref, x: jax.jit(stashed)(ref, x)),
    "scan": lambda ref, x: lax.scan(lambda x, _: (stashed(ref, x), None), x, None, length=1)[0],
    "checkpoint in scan": lambda ref, x: lax.scan(
        lambda x, _: (jax.checkpoint(lambda x: stashed(ref, x))(x), None), x, None, length=1
    )[0],
}


@pytest.mark.parametrize("name", PLUMBED)
def test_a_users_backward_may_write_to_a_reference(name):
    """Gradient statistics: the reference is an argument, handed through to the backward of a custom_vjp function."""
    ref, x = jax.new_ref(jnp.zeros(())), jnp.asarray(X[0])
    gradient = fb.grad(PLUMBED[name], argnums=1)(ref, x)
    assert_close((gradient, ref[...]), (jnp.cos(jnp.sin(x)) * jnp.cos(x), jnp.cos(jnp.sin(x))), 1e-14)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, lambda f: jax.checkpoint(jax.checkpoint(f))])
def test_a_checkpoint_writes_once_to_a_reference_from_outside(wrap):
    @wrap
    @jax.checkpoint
    def fun(x):
        y = x * ref[...]
        ref[...] += 1
        return y * y

    ref = jax.new_ref(jnp.asarray(2.0))
    assert (float(fb.grad(fun)(3.0)), float(ref[...])) == (2 * 3.0 * 2.0**2, 3.0)


def test_a_reference_is_scanned_over():
    def fun(xs):
        ref = jax.new_ref(xs)

        def step(carry, row):
            row[...] = row[...] * carry
            return carry + jnp.sin(row[...]), None

        return lax.scan(step, 1.0, ref)[0] + jnp.vdot(ref[...], jnp.arange(3.0))

    def plain(xs):
        def step(carry, x):
            return carry + jnp.sin(x * carry), x * carry

        total, ys = lax.scan(step, 1.0, xs)
        return total + jnp.vdot(ys, jnp.arange(3.0))

    check_equal(fun, plain, X)


def test_a_reference_may_be_a_primal_that_is_only_handed_through():
    ref, x = jax.new_ref(jnp.zeros(())), jnp.asarray(X[0])
    pullback = fb.vjp(stashed, ref, x)[1]
    assert_close((pullback(jnp.ones(()))[1], ref[...]), (jnp.cos(jnp.sin(x)) * jnp.cos(x), jnp.cos(jnp.sin(x))), 1e-14)


# ---------------------------------------------------------------- read by custom_vjp functions


@jax.custom_vjp
def part_of(ref, a):
    return ref[0] * a


part_of.defvjp(  # on purpose not the derivative
    lambda ref, a: (part_of(ref, a), (ref[0], a)),
    lambda saved, ct: (jnp.zeros(3).at[0].set(5 * ct * saved[1]), ct * saved[0]),
)


@jax.custom_vjp
def part_of_contents(contents, a):
    return contents[0] * a


part_of_contents.defvjp(
    lambda contents, a: (contents[0] * a, (contents[0], a)),
    lambda saved, ct: (jnp.zeros(3).at[0].set(5 * ct * saved[1]), ct * saved[0]),
)


def reading(x, read=part_of):
    ref = jax.new_ref(x)
    y = read(ref if read is part_of else ref[...], x[1])
    ref[1] += y
    ref[0] = jnp.sin(y)
    return read(ref if read is part_of else ref[...], y) + ref[1] * ref[0]


def reading_in_a_loop(x, read=part_of):
    ref = jax.new_ref(x)

    def step(carry, _):
        y = read(ref if read is part_of else ref[...], carry)
        ref[0] = jnp.sin(y)
        return y + 1, None

    return lax.scan(step, x[1], length=3)[0]


@pytest.mark.parametrize("fun", [reading, reading_in_a_loop])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint])
def test_a_custom_vjp_function_reads_a_reference(fun, wrap):
    """As a custom_vjp function of its contents."""
    x = jnp.asarray(X)
    found = jax.vmap(fb.grad(wrap(fun)))(jnp.stack([x, 2 * x]))
    expected = [jax.grad(lambda x: fun(x, part_of_contents))(factor * x) for factor in (1, 2)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("saved", [False, True])
def test_one_that_changes_or_saves_it_is_refused(saved):
    fun = jax.custom_vjp(lambda ref: ref[...])

    def forward(ref):
        if not saved:
            ref[...] *= 2.0
        return ref[...], ref if saved else None

    fun.defvjp(forward, lambda saved, ct: (ct,))
    with pytest.raises(NotImplementedError, match=f"custom_vjp function {'saves' if saved else 'changes'}"):
        fb.grad(lambda x: fun(jax.new_ref(x)))(1.3)
