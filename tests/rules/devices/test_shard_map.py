"""`shard_map` with all that may stand in it and around it, and gradients of parallel programs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import fnbackprop as fb
from fnbackprop.rules.devices import shard_map

from ..checking import assert_close, check_numeric, check_vjp, random_cotangent

pytestmark = pytest.mark.usefixtures("x64")

MESH = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)


def block(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def explicit_mesh():
    return jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Explicit,) * 2)


# ---------------------------------------------------------------- bodies


@jax.custom_vjp
def custom_sine(v):
    return jnp.sin(v)


custom_sine.defvjp(lambda v: (jnp.sin(v), v), lambda v, dy: (dy * jnp.cos(v),))


def scan_body(v, w):
    """The carry varies, the weight does not; a collective in every step."""

    def step(carry, _):
        carry = jnp.tanh(carry @ w)
        carry = carry - lax.pmean(carry, "a")
        return carry, lax.psum(jnp.sum(carry), "a")

    return lax.scan(step, v, None, length=3)


def nested_scan_body(v, w):
    def outer(carry, row):
        return lax.scan(lambda c, _: (jnp.sin(c * row[None]), None), carry, None, length=2)[0], None

    return lax.scan(outer, v, w)[0]


def dropout_body(v, w):
    """A key per device, random bits in the forward alone."""
    key = jax.random.fold_in(jax.random.key(0), lax.axis_index("a"))
    return jnp.where(jax.random.bernoulli(key, 0.5, v.shape), v @ w, 0.0)


def same_branch(v, w):
    """A predicate that is the same on all devices, so that the branches may hold collectives."""
    total = lax.psum(jnp.sum(v), "a")
    return lax.cond(total > 0, lambda: lax.psum(jnp.sin(v @ w), "a"), lambda: lax.psum(v @ w, "a"))


# body: (v, w) -> result, and the specs of v, w and the result; v is (8, 4), w is (4, 4)
BODIES = {
    "matmul": (lambda v, w: jnp.tanh(v @ w), (P("a"), P()), P("a")),
    "contraction over a mesh axis": (lambda v, w: jnp.tanh(lax.psum(v @ w, "b")), (P("a", "b"), P("b")), P("a")),
    "two axes": (lambda v, w: lax.psum(jnp.sin(v) @ w, ("a", "b")), (P("a", "b"), P("b")), P()),
    "two axes in one": (lambda v, w: jnp.sin(v) @ w, (P(("b", "a")), P()), P(("b", "a"))),
    "scan": (scan_body, (P("a"), P()), (P("a"), P())),
    "nested scan": (nested_scan_body, (P("a"), P()), P("a")),
    "checkpoint": (
        jax.checkpoint(lambda v, w: lax.psum(jnp.tanh(jnp.sin(v) @ w), "a")), (P("a"), P()), P(),
    ),
    "cond": (same_branch, (P("a"), P()), P()),
    "custom_vjp": (lambda v, w: lax.psum(custom_sine(v @ w), "a"), (P("a"), P()), P()),
    "custom_jvp": (lambda v, w: lax.psum(jax.nn.relu(v @ w) * jax.nn.log_softmax(v), "a"), (P("a"), P()), P()),
    "jit": (jax.jit(lambda v, w: lax.psum(jnp.exp(jnp.sin(jnp.cos(v) @ w)) * v, "a")), (P("a"), P()), P()),
    "fori_loop": (
        lambda v, w: lax.fori_loop(0, 3, lambda i, c: jnp.sin(c @ w) - lax.pmean(c, "a"), v), (P("a"), P()), P("a"),
    ),
    "dropout": (dropout_body, (P("a"), P()), P("a")),
    "a constant": (lambda v, w: lax.psum(v @ w * jnp.arange(4.0)[None], "a"), (P("a"), P()), P()),
    "an operand that is not used": (lambda v, w: (v * 2, jnp.ones(3)), (P("a"), P()), (P("a"), P())),
    "outputs alike": (lambda v, w: (v, jnp.exp(v), jnp.exp(v) @ w), (P("a"), P()), (P("a"), P("a"), P("a"))),
}  # fmt: skip


def shard(name, checked, **options):
    body, in_specs, out_specs = BODIES[name]
    return jax.shard_map(body, mesh=MESH, in_specs=in_specs, out_specs=out_specs, check_vma=checked, **options)


@pytest.mark.parametrize("checked", [True, False], ids=["checked", "unchecked"])
def test_shard_map_vjp(checked):
    """All bodies at once, two operands for each; first and second order."""
    funs = [shard(name, checked) for name in BODIES]

    def fun(*xs):
        return [f(v, w) for f, v, w in zip(funs, xs[::2], xs[1::2], strict=True)]

    xs = [block(*shape, seed=i) for i in range(len(funs)) for shape in ((8, 4), (4, 4))]
    check_vjp(jax.jit(fun), *xs, dtypes=("float64",), batched=False)


# ---------------------------------------------------------------- what may stand around


def scan_over(checked):
    """The same region in every step of a loop."""
    region = shard("matmul", checked)
    return lambda v, w: lax.scan(lambda c, _: (region(c, w), None), v, None, length=3)[0]


AROUND = {
    "eager": lambda checked: shard("two axes", checked),
    "scan": scan_over,
    "checkpoint": lambda checked: jax.checkpoint(shard("matmul", checked)),
    "some axes manual": lambda checked: jax.jit(shard("matmul", checked, axis_names={"a"})),
    "vmap": lambda checked: lambda v, w: jax.vmap(shard("matmul", checked), (0, None))(jnp.stack([v, v * v]), w),
    "one output": lambda checked: lambda v, w: shard("scan", checked)(v, w)[1],
    "keys": lambda checked: lambda v, w: jax.shard_map(
        lambda v, w, keys: jax.random.normal(keys[0], v.shape, v.dtype) * v @ w,
        mesh=MESH, in_specs=(P("a"), P(), P("a")), out_specs=P("a"), check_vma=checked,
    )(v, w, jax.random.split(jax.random.key(0), 4)),
    "integers": lambda checked: lambda v, w: jax.shard_map(
        lambda v, w, n: (v * n.astype(v.dtype) @ w, n), mesh=MESH, in_specs=(P("a"), P(), P("a")),
        out_specs=(P("a"), P("a")), check_vma=checked,
    )(v, w, jnp.arange(32).reshape(8, 4))[0],
}  # fmt: skip


@pytest.mark.parametrize("name", AROUND)
def test_shard_map_within(name):
    for checked in (True, False):
        check_vjp(AROUND[name](checked), block(8, 4), block(4, 4, seed=1), dtypes=("float64",), batched=False)


def test_shard_map_by_the_mesh_of_the_context():
    body, in_specs, out_specs = BODIES["contraction over a mesh axis"]
    with jax.set_mesh(MESH):
        fun = jax.jit(jax.shard_map(body, in_specs=in_specs, out_specs=out_specs))
        check_vjp(fun, block(8, 4), block(4, 4, seed=1), dtypes=("float64",), batched=False)


def test_shard_map_beside_python_control_flow():
    def fun(v, w):
        y = shard("matmul", True)(v, w)
        constant = jnp.sum(shard("matmul", True)(jnp.ones((8, 4)), jnp.ones((4, 4))))
        return y * constant if jnp.sum(y) > 0 else y

    v, w = block(8, 4), block(4, 4, seed=1)
    dy = random_cotangent(v)
    assert_close(fb.vjp(fun, v, w)[1](dy), jax.vjp(fun, v, w)[1](dy), 1e-12)


# ---------------------------------------------------------------- where JAX fails


@pytest.mark.parametrize("checked", [True, False], ids=["checked", "unchecked"])
def test_nested_regions_with_some_axes_manual(checked):
    """With checked types `jax.grad` gives a program that XLA refuses."""

    def outer(v, w):
        inner = jax.shard_map(
            lambda v, w: lax.psum(jnp.sin(v @ w), "b"), in_specs=(P(None, "b"), P("b")), out_specs=P(),
            axis_names={"b"}, check_vma=checked,
        )  # fmt: skip
        return inner(v, w) * lax.psum(jnp.sum(v), "a")

    fun = jax.jit(
        jax.shard_map(outer, mesh=MESH, in_specs=(P("a"), P()), out_specs=P("a"), axis_names={"a"}, check_vma=checked)
    )
    check_numeric(fun, block(8, 4), block(4, 4, seed=1))


@pytest.mark.parametrize("checked", [True, False], ids=["checked", "unchecked"])
def test_second_derivative_under_vmap_over_a_mesh_axis(checked):
    """`jax.grad` of `jax.grad` is wrong here without checked types; the plain program says what is right."""
    region = jax.shard_map(
        lambda v, w: lax.psum(jnp.sin(v @ w), "a"), mesh=MESH, in_specs=(P("a"), P()), out_specs=P(), check_vma=checked
    )
    mapped = jax.vmap(region, in_axes=(0, None), spmd_axis_name="b")

    def plain(vs, w):
        return jnp.sum(jnp.sin(vs @ w).reshape(2, 4, 2, 4), axis=1)

    def second(vjp, fun):
        def first(vs, w):
            y, pullback = vjp(fun, vs, w)
            return pullback(jnp.cos(3 * y))

        return vjp(first, *args)[1](random_cotangent(args))

    args = (block(2, 8, 4), block(4, 4, seed=1))
    assert_close(second(fb.vjp, mapped), second(jax.vjp, plain), 1e-11)


# ---------------------------------------------------------------- what is saved


def test_operands_and_outputs_are_not_saved_again():
    """tanh's output and the product's operands exist anyway: the pullback holds these very arrays."""
    v, w = block(8, 4), block(4, 4, seed=1)
    y, pullback = fb.vjp(shard("matmul", True), v, w)
    assert {id(x) for x in jax.tree.leaves(pullback)} == {id(v), id(w), id(y)}


@pytest.mark.parametrize("checked", [True, False], ids=["checked", "unchecked"])
def test_what_is_saved_stays_on_its_device(checked):
    """v @ w is read by the backward of sin: one block on each device, none moved."""
    fun = jax.shard_map(
        lambda v, w: lax.psum(jnp.sin(v @ w), "a"), mesh=MESH, in_specs=(P("a"), P()), out_specs=P(), check_vma=checked
    )
    v, w = block(8, 4), block(4, 4, seed=1)
    y, pullback = fb.vjp(fun, v, w)
    saved = [x for x in jax.tree.leaves(pullback) if x is not v and x is not w]
    assert [x.sharding.shard_shape(x.shape) for x in saved] == [(1, 2, 4)]
    backward = jax.jit(lambda pullback, dy: pullback(dy)).lower(pullback, y).compile().as_text()
    assert "all-gather" not in backward and "collective-permute" not in backward


# ---------------------------------------------------------------- explicit axes


def on_explicit_axes(v, w):
    matmul, in_specs, _ = BODIES["matmul"]
    part = jax.shard_map(matmul, in_specs=in_specs, out_specs=P("a"), axis_names={"a"})
    two = jax.shard_map(lambda v, w: (matmul(v, w), v * 2), in_specs=in_specs, out_specs=(P("a"), P("a")))
    terms = jax.shard_map(
        lambda v: lax.pcast(v * v, "a", to="unreduced"), in_specs=P("a"), out_specs=P(unreduced={"a"})
    )
    reduced = jax.shard_map(
        lambda v, w: jnp.sin(v @ lax.pcast(w, "a", to="varying")),
        in_specs=(P("a"), P(reduced={"a"})), out_specs=P("a"),
    )  # fmt: skip
    return [
        part(v, w),
        two(v, w)[0],
        jnp.sin(jax.reshard(terms(v), P())),
        reduced(v, jax.reshard(w * w, P(reduced={"a"}))),
        jnp.sin(jax.reshard(jnp.cos(v), P(None, "b"))),
        jax.sharding.auto_axes(jnp.sin, out_sharding=P("a"))(v),
    ]


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("wrap", [jax.checkpoint, jax.jit])
def test_what_is_computed_again_on_each_device(wrap, checked):
    """Regions that compute again, a sum over the devices among it, in a `shard_map` that is differentiated."""

    @wrap
    def layer(w, x):
        h = jnp.tanh(x @ w)
        return lax.psum(h @ w.T, "a") * jnp.sin(x)

    mapped = jax.shard_map(
        lambda w, x: layer(w, layer(w, x)), mesh=MESH, in_specs=(P(), P("a")), out_specs=P("a"), check_vma=checked
    )
    w, x = block(3, 5), block(8, 3, seed=1)

    def gradient(lib, **options):
        return lib.grad(lambda w, x: jnp.sum(mapped(w, x) ** 2), argnums=(0, 1), **options)

    budget = {} if wrap is jax.checkpoint else {"budget": 0.2}  # a sum over devices is not taken twice for it
    assert_close(jax.jit(gradient(fb, **budget))(w, x), jax.jit(gradient(jax))(w, x), 1e-12)


def test_explicit_axes():
    mesh = explicit_mesh()
    with jax.set_mesh(mesh):
        v = jax.device_put(block(8, 4), NamedSharding(mesh, P("a")))
        w = jax.device_put(block(4, 4, seed=1), NamedSharding(mesh, P()))
        check_vjp(jax.jit(on_explicit_axes), v, w, dtypes=("float64",), batched=False)


# ---------------------------------------------------------------- parallel programs give the gradient of one device


def mlp_params():
    return {
        "in": block(6, 16) / 3,
        "in_bias": block(16, seed=1),
        "out": block(16, 4, seed=2) / 4,
        "out_bias": block(4, seed=3),
    }


def mlp_loss(params, x, y):
    hidden = jnp.tanh(x @ params["in"] + params["in_bias"][None])
    return jnp.mean(jnp.square(hidden @ params["out"] + params["out_bias"][None] - y))


def data_parallel_loss(checked):
    """Each device has its rows of the batch; the losses are averaged."""
    return jax.shard_map(
        lambda params, x, y: lax.pmean(mlp_loss(params, x, y), ("a", "b")),
        mesh=MESH, in_specs=(P(), P(("a", "b")), P(("a", "b"))), out_specs=P(), check_vma=checked,
    )  # fmt: skip


def tensor_parallel_loss(checked):
    """Each device has its hidden units, and its rows of the batch along the other axis."""

    def loss(params, x, y):
        hidden = jnp.tanh(x @ params["in"] + params["in_bias"][None])  # (batch / 2, hidden / 4)
        out = lax.psum(hidden @ params["out"], "a") + params["out_bias"][None]
        return lax.pmean(jnp.mean(jnp.square(out - y)), "b")

    specs = {"in": P(None, "a"), "in_bias": P("a"), "out": P("a"), "out_bias": P()}
    return jax.shard_map(
        loss, mesh=MESH, in_specs=(specs, P("b"), P("b")), out_specs=P(), check_vma=checked
    )  # fmt: skip


@pytest.mark.parametrize("checked", [True, False], ids=["checked", "unchecked"])
@pytest.mark.parametrize("parallel", [data_parallel_loss, tensor_parallel_loss])
def test_a_parallel_mlp_has_the_gradient_of_one_device(parallel, checked):
    args = mlp_params(), block(16, 6, seed=4), block(16, 4, seed=5)
    want = jax.grad(mlp_loss)(*args)
    assert_close(jax.jit(fb.grad(parallel(checked)))(*args), want, 1e-12)
    assert_close(fb.grad(parallel(checked))(*args), want, 1e-12)


def test_a_partitioned_jit_has_the_gradient_of_one_device():
    """The compiler partitions it: the batch over one axis, the hidden units over the other."""
    specs = {"in": P(None, "a"), "in_bias": P("a"), "out": P("a"), "out_bias": P()}
    shardings = jax.tree.map(lambda spec: NamedSharding(MESH, spec), specs)
    batch = NamedSharding(MESH, P("b"))
    gradient = jax.jit(fb.grad(mlp_loss), in_shardings=(shardings, batch, batch), out_shardings=shardings)
    args = mlp_params(), block(16, 6, seed=4), block(16, 4, seed=5)
    got = gradient(*args)
    assert_close(got, jax.grad(mlp_loss)(*args), 1e-12)
    assert all(got[name].sharding.is_equivalent_to(shardings[name], got[name].ndim) for name in got)


@pytest.mark.parametrize("depth", [1, 4], ids=["walked in place", "jitted"])
def test_jit_with_shardings(depth):
    """Value and cotangents lie where the user's jit says that value and operands lie, in a checkpointed loop too."""
    rows, both = NamedSharding(MESH, P("a")), NamedSharding(MESH, P("a", "b"))

    def fun(x, y):
        for _ in range(depth):
            x = jnp.sin(x) * y
        return x, y * 2

    def looped(x, y):
        step = jax.checkpoint(lambda c, _: ((placed(*c)), None))
        return jax.lax.scan(step, (x, y), None, length=2)[0]

    placed = jax.jit(fun, in_shardings=(rows, None), out_shardings=(both, None))
    args = block(8, 4), block(8, 4, seed=1)
    value, pullback = fb.vjp(placed, *args)
    dx, _ = pullback(random_cotangent(value))
    assert value[0].sharding.is_equivalent_to(both, 2) and dx.sharding.is_equivalent_to(rows, 2)
    for run in (placed, looped):

        def pulled(lib, *args, run=run):
            value, pullback = lib.vjp(run, *args)
            return pullback(random_cotangent(value))

        ours, theirs = (jax.jit(functools.partial(pulled, lib)) for lib in (fb, jax))
        assert_close(ours(*args), theirs(*args), 1e-12)
        counts = [f.lower(*args).as_text().count("sharding_constraint") for f in (ours, theirs)]
        assert counts[0] == counts[1] > 2


def test_equal_regions_are_planned_once():
    """Many calls of one region share their plan and their compiled forward and backward."""
    region = jax.jit(jax.shard_map(lambda v, w: jnp.tanh(v @ w), mesh=MESH, in_specs=(P("a"), P()), out_specs=P("a")))

    def fun(v, w):
        for _ in range(12):
            v = region(v, w)
        return jnp.sum(v)

    before = shard_map._shard_map.cache_info().misses
    fb.grad(fun)(block(8, 4), block(4, 4, seed=1))
    assert shard_map._shard_map.cache_info().misses - before <= 2  # the first call's operand has another type


@pytest.mark.parametrize("jitted", [False, True])
def test_vmap_of_grad_along_a_mesh_axis(jitted):
    """Examples that lie along a mesh axis have no share in each other's cotangents, where types do not say so."""

    @functools.partial(jax.shard_map, mesh=MESH, in_specs=(P("b"), P()), out_specs=P(), check_vma=False)
    def f(x, w):
        return lax.psum(jnp.sin(jnp.sum(jnp.exp(x * w))) * jnp.sum(x), "b")

    f = jax.jit(f) if jitted else f
    x, w = block(4, 4), jnp.float64(0.7)
    want = jax.vmap(jax.grad(f, (0, 1)), (0, None))(x, w)
    for name in ("a", None, "a"):
        assert_close(jax.vmap(fb.grad(f, (0, 1)), (0, None), spmd_axis_name=name)(x, w), want, 1e-13, str(name))


def test_reduced_operand_without_checked_types():
    """Its cotangent is left in terms, not summed: the same as with checked types, and no psum."""
    mesh = jax.make_mesh((4,), ("a",), axis_types=(AxisType.Explicit,))

    def grad(check):
        region = jax.shard_map(
            lambda x: jnp.sin(lax.pcast(x, "a", to="varying")) * (1.0 + lax.axis_index("a").astype(x.dtype)),
            in_specs=P(reduced={"a"}), out_specs=P("a"), check_vma=check,
        )  # fmt: skip
        return jax.jit(fb.grad(lambda x: jnp.sum(region(x) ** 2)))

    with jax.set_mesh(mesh):
        x = jax.device_put(block(8), P(reduced={"a"}))
        unchecked, checked = (jax.reshard(grad(check)(x), P()) for check in (False, True))
        assert "psum" not in str(jax.make_jaxpr(grad(False))(x))
    assert_close(unchecked, checked, 1e-14)
    weights = (1.0 + np.arange(4.0)) ** 2
    assert_close(checked, jnp.sum(weights) * 2 * jnp.sin(x) * jnp.cos(x), 1e-13)
