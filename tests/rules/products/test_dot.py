"""dot_general in every layout, precision and element type; ragged_dot_general in its three modes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnbackprop as fb
from fnbackprop.rules.products import dot

from ..checking import TOLERANCE, assert_close, check_vjp, random_like

pytestmark = pytest.mark.usefixtures("x64")

MATRICES = (((1,), (0,)), ((), ()))


def normal(*shape, dtype="float64", seed=0):
    return random_like(np.zeros(shape, dtype), seed)


def random_layout(seed):
    """Operands and dimension numbers with up to two batch, contracting and free axes each, in any order."""
    rng = np.random.default_rng(seed)
    batch, contract, x_free, y_free = (int(n) for n in rng.integers(0, 3, size=4))
    shared = rng.integers(1, 4, size=batch + contract).tolist()
    shapes, places = [], []
    for free in (x_free, y_free):
        sizes = [*shared, *rng.integers(1, 4, size=free).tolist()]
        order = rng.permutation(len(sizes))
        shapes.append([sizes[i] for i in order])
        places.append(np.argsort(order)[: len(shared)].tolist())
    numbers = tuple(at[batch:] for at in places), tuple(at[:batch] for at in places)
    return normal(*shapes[0], seed=seed), normal(*shapes[1], seed=seed + 1), numbers


@pytest.mark.parametrize("seed", range(40))
def test_dot_general_vjp(seed):
    x, y, numbers = random_layout(seed)
    thorough = seed % 8 == 0
    dtypes = ["float64", "float32"] if thorough else ["float64"]
    check_vjp(lambda x, y: lax.dot_general(x, y, numbers), x, y, dtypes=dtypes, order=1 + thorough, batched=thorough)


@pytest.mark.parametrize(
    "x_shape, y_shape, numbers",
    [
        ((0, 3), (3, 2), MATRICES),
        ((2, 0), (0, 3), MATRICES),
        ((), (), (((), ()), ((), ()))),
        ((), (3,), (((), ()), ((), ()))),
        ((2, 0, 3), (2, 3, 4), (((2,), (1,)), ((0,), (0,)))),
    ],
)
def test_dot_general_vjp_of_no_elements_or_axes(x_shape, y_shape, numbers):
    check_vjp(lambda x, y: lax.dot_general(x, y, numbers), normal(*x_shape), normal(*y_shape, seed=1), batched=False)


@pytest.mark.parametrize("x_dtype, y_dtype", [("complex128", "complex128"), ("complex128", "float64")])
def test_dot_general_vjp_complex(x_dtype, y_dtype):
    x, y = normal(2, 3, dtype=x_dtype), normal(3, 4, dtype=y_dtype, seed=1)
    check_vjp(lambda x, y: lax.dot_general(x, y, MATRICES), x, y)


@pytest.mark.parametrize(
    "x_dtype, y_dtype, preferred, tolerance",
    [
        ("bfloat16", "bfloat16", None, "bfloat16"),
        ("bfloat16", "bfloat16", "float32", "bfloat16"),
        ("float16", "float16", None, "float16"),
        ("float16", "float16", "float32", "float16"),
        ("float32", "float32", "float64", "float32"),
        ("float32", "float32", "bfloat16", "bfloat16"),
        ("float64", "float64", "float32", "float32"),
        ("float32", "bfloat16", None, "bfloat16"),
        ("float64", "float32", None, "float32"),
        ("float32", "float32", "complex64", "float32"),
    ],
)
def test_dot_general_vjp_element_types(x_dtype, y_dtype, preferred, tolerance):
    """Operands and results of different widths: each cotangent has its operand's dtype."""
    x, y = normal(3, 5, dtype=x_dtype), normal(5, 4, dtype=y_dtype, seed=1)

    def product(x, y):
        return lax.dot_general(x, y, MATRICES, preferred_element_type=preferred)

    (z, pullback), (_, theirs) = fb.vjp(product, x, y), jax.vjp(product, x, y)
    dz = random_like(z, 2)
    assert_close(pullback(dz), theirs(dz), TOLERANCE[tolerance])


def test_dot_general_vjp_accumulates_in_float32():
    """Rounded once: of a long sum of bf16 products, the error is that of the last rounding alone."""
    x, y = normal(4096, 4, dtype="bfloat16"), normal(4, 8, dtype="bfloat16", seed=1)
    z, pullback = jax.jit(lambda x, y: fb.vjp(lambda x, y: lax.dot_general(x, y, MATRICES), x, y))(x, y)
    dz = random_like(z, 2)
    dy = pullback(dz)[1]
    assert dy.dtype == jnp.bfloat16
    exact = np.asarray(x, np.float64).T @ np.asarray(dz, np.float64)
    assert np.linalg.norm(np.asarray(dy, np.float64) - exact) <= 2**-8.5 * np.linalg.norm(exact)


def test_dot_general_vjp_of_a_wide_operand_accumulates_in_its_own_type():
    """Beside a narrow one too."""
    x, y = normal(3, 5), normal(5, 4, dtype="bfloat16", seed=1)
    z, pullback = fb.vjp(lambda x, y: lax.dot_general(x, y, MATRICES), x, y)
    dz = random_like(z, 2)
    assert_close(pullback(dz)[0], dz @ y.astype("float64").T, 1e-15)


@pytest.mark.parametrize(
    "precision",
    ["highest", ("high", "default"), lax.DotAlgorithmPreset.F32_F32_F32],
    ids=str,
)
def test_dot_general_vjp_precision(precision):
    """The cotangent takes the precision of the operand whose place it takes."""
    x, y = normal(2, 3, dtype="float32"), normal(3, 4, dtype="float32", seed=1)

    def product(x, y):
        return lax.dot_general(x, y, MATRICES, precision=precision)

    jaxpr = jax.make_jaxpr(lambda x, y, dz: fb.vjp(product, x, y)[1](dz))(x, y, jnp.ones((2, 4), jnp.float32))
    found = [eqn.params["precision"] for eqn in jaxpr.eqns if eqn.primitive.name == "dot_general"]
    assert len(found) == 3
    assert len(set(found)) == 1, "of x · y, x · dz and dz · y, each factor keeps its own"
    check_vjp(product, x, y, dtypes=["float32"], order=1, batched=False)


def test_swapped_precision():
    algorithm = lax.DotAlgorithm(np.float32, np.float16, np.float32, 1, 3, 1, False)
    assert dot.swapped(algorithm) == lax.DotAlgorithm(np.float16, np.float32, np.float32, 3, 1, 1, False)
    assert dot.swapped(("x", "y")) == ("y", "x")
    assert dot.swapped(None) is None


@pytest.mark.parametrize("subscripts", ["mc,cn->mn", "mc,nc->mn", "cm,cn->mn", "bmc,bcn->bmn", "bmc,cn->bmn"])
def test_dot_general_vjp_orders_its_factors(subscripts):
    """Where an order of the factors gives the operand's own layout, no transposition is emitted."""
    sizes = {"b": 2, "m": 3, "c": 4, "n": 5}
    x, y = (normal(*(sizes[k] for k in axes)) for axes in subscripts.split("->")[0].split(","))

    def product(x, y):
        return jnp.einsum(subscripts, x, y)

    z, _ = fb.vjp(product, x, y)
    jaxpr = jax.make_jaxpr(lambda dz: fb.vjp(product, x, y)[1](dz))(z)
    assert "transpose" not in str(jaxpr)


@pytest.mark.parametrize("placed", [True, False], ids=["", "not on the mesh"])
def test_dot_general_vjp_keeps_shardings(placed):
    """On a mesh with explicit axes each cotangent has its operand's sharding, where the compiler could not tell."""
    mesh = jax.make_mesh((2, 2), ("i", "j"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)
    spec = jax.P
    with jax.set_mesh(mesh):
        x = jax.device_put(normal(4, 6), spec("i", "j"))
        y = jax.device_put(normal(6, 2, seed=1), spec("j", None)) if placed else normal(6, 2, seed=1)

        @jax.jit
        def pull(x, y):
            def product(x, y):
                return lax.dot_general(x, y, MATRICES, out_sharding=spec("i", None))

            z, pullback = fb.vjp(product, x, y)
            return pullback(z)

        dx, dy = pull(x, y)
        assert jax.typeof(dx).sharding == jax.typeof(x).sharding
        assert jax.typeof(dy).sharding.spec == spec("j" if placed else None, None)
    a, b = np.asarray(x), np.asarray(y)
    assert_close([np.asarray(dx), np.asarray(dy)], [a @ b @ b.T, a.T @ a @ b], 1e-12)


# ---------------------------------------------------------------- ragged


def random_ragged(mode, seed, prefixed):
    """A ragged product in a random layout, and the same as a dense sum over one-hot groups."""
    rng = np.random.default_rng(seed)
    sizes = dict(zip("bBmMcCnN", rng.integers(1, 4, size=8).tolist(), strict=True))
    keep = {part: part[: int(rng.integers(part.lower()[0] == mode, 3))] for part in ("bB", "mM", "cC", "nN")}
    ragged = mode.upper() if len(keep[mode + mode.upper()]) == 2 else mode
    sizes[ragged], sizes["g"] = 7, 3
    b, m, c, n = keep.values()
    x_axes, y_axes = ("".join(rng.permutation(list(axes))) for axes in (b + m + c, b + c + n + "g" * (mode == "m")))
    x, y = (normal(*(sizes[k] for k in axes), seed=seed + i) for i, axes in enumerate((x_axes, y_axes)))
    free = "".join(k for k in x_axes if k in m)
    contract, batch = "".join(rng.permutation(list(c))), "".join(rng.permutation(list(b)))
    outer = {"m": batch + free[: free.find(ragged)], "c": batch + contract[: contract.find(ragged)]}
    prefix = {**outer, "b": batch[: batch.find(ragged)]}[mode] if prefixed else ""
    group_sizes = rng.multinomial(6, [1 / 3] * 3, size=[sizes[k] for k in prefix])  # the last element is in no group
    numbers = lax.RaggedDotDimensionNumbers(
        tuple(tuple([axes.index(k) for k in shared] for axes in (x_axes, y_axes)) for shared in (contract, batch)),
        [x_axes.index(ragged)],
        [y_axes.find("g")] * (mode == "m"),
    )
    ends = np.cumsum(group_sizes, axis=-1)[..., None, :]
    index = np.arange(7)[:, None]
    groups = ((index < ends) & (index >= ends - group_sizes[..., None, :])).astype(np.float64)
    out = "g" * (mode == "c") + batch + free + "".join(k for k in y_axes if k in n)

    def product(x, y):
        return lax.ragged_dot_general(x, y, jnp.asarray(group_sizes, jnp.int32), numbers)

    def dense(x, y):
        if mode == "b":
            return jnp.einsum(f"{x_axes},{y_axes}->{out}", x, y)
        return jnp.einsum(f"{x_axes},{y_axes},{prefix}{ragged}g->{out}", x, y, groups)

    return product, dense, x, y


def second_order(transform, fun, x, y):
    """The VJP of the VJP, to all that it depends on."""
    z = fun(x, y)
    _, pullback = transform(lambda x, y, dz: transform(fun, x, y)[1](dz), x, y, random_like(z, 3))
    return pullback((random_like(x, 4), random_like(y, 5)))


@pytest.mark.parametrize("prefixed", [False, True], ids=["", "prefixed"])
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("mode", ["m", "c", "b"], ids=["noncontracting", "contracting", "batch"])
def test_ragged_dot_general_vjp(mode, seed, prefixed):
    """Against the dense sum; JAX refuses the gradients of two modes."""
    product, dense, x, y = random_ragged(mode, seed, prefixed)

    def pulled(transform, fun, x, y):
        z, pullback = transform(fun, x, y)
        second = second_order(transform, fun, x, y) if seed == 0 else ()
        return z, pullback(random_like(z, 2)), second

    ours, theirs = jax.jit(lambda x, y: (pulled(fb.vjp, product, x, y), pulled(jax.vjp, dense, x, y)))(x, y)
    assert_close(ours, theirs, 1e-12)


@pytest.mark.parametrize("dtype, preferred", [("bfloat16", None), ("bfloat16", "float32"), ("float32", None)])
def test_ragged_dot_general_vjp_element_types(dtype, preferred):
    x, y, sizes = normal(6, 4, dtype=dtype), normal(3, 4, 5, dtype=dtype, seed=1), jnp.array([2, 0, 3], jnp.int32)

    def product(x, y):
        return lax.ragged_dot(x, y, sizes, preferred_element_type=preferred)

    check_vjp(product, x, y, dtypes=[dtype], order=1, batched=False)


def test_ragged_contraction_of_bfloat16_runs():
    """Its groups are a batch axis, with which JAX 0.10.2 on a CPU cannot run every such product in float32."""
    numbers = lax.RaggedDotDimensionNumbers((((1,), (0,)), ((), ())), [1], [])
    x, y, dz = (normal(*shape, dtype="bfloat16", seed=i) for i, shape in enumerate([(3, 6), (6, 3), (3, 3, 3)]))

    def cotangents(dtype):
        fun = lambda x, y: lax.ragged_dot_general(x, y, jnp.array([2, 1, 3]), numbers)  # noqa: E731
        return fb.vjp(fun, x.astype(dtype), y.astype(dtype))[1](dz.astype(dtype))

    assert_close(tuple(a.astype(float) for a in cotangents("bfloat16")), cotangents("float64"), 8e-3)


RAGGED_AXES = {  # numbers, and the axes of the operands and the product by letter
    "noncontracting": (lax.RaggedDotDimensionNumbers((((1,), (1,)), ((), ())), [0], [0]), "mc", "gcn", "mn"),
    "contracting": (lax.RaggedDotDimensionNumbers((((1,), (0,)), ((), ())), [1], []), "mc", "cn", "gmn"),
    "batch": (lax.RaggedDotDimensionNumbers((((2,), (1,)), ((0,), (0,))), [0], []), "bmc", "bcn", "bmn"),
}
DIVIDED = [("noncontracting", ""), ("noncontracting", "g"), ("noncontracting", "n"), ("contracting", "")]


@pytest.mark.parametrize(("mode", "divided"), [*DIVIDED, *[("batch", letter) for letter in ("", "b", "m", "c", "n")]])
def test_ragged_dot_general_vjp_keeps_shardings(mode, divided):
    """On a mesh with explicit axes, for which JAX infers no sharding of a ragged product and so has no gradient; every
    case of one divided axis that JAX computes forward on a CPU."""
    mesh = jax.make_mesh((2,), ("i",), axis_types=(jax.sharding.AxisType.Explicit,))
    numbers, *letters = RAGGED_AXES[mode]
    sizes, groups = dict(zip("gbmcn", (2, 4, 4, 4, 6), strict=True)), jnp.array([3, 1], jnp.int32)
    arrays = [normal(*(sizes[k] for k in axes), seed=i) for i, axes in enumerate(letters)]
    specs = [jax.P(*("i" if k == divided else None for k in axes)) for axes in letters]
    placed = [jax.device_put(x, jax.NamedSharding(mesh, spec)) for x, spec in zip(arrays, specs, strict=True)]

    def cotangents(x, y, dz, sharding=None):
        def product(x, y):
            return lax.ragged_dot_general(x, y, groups, numbers, out_sharding=sharding)

        pull = lambda x, y, dz: fb.vjp(product, x, y)[1](dz)  # noqa: E731
        return pull(x, y, dz), fb.vjp(pull, x, y, dz)[1]((x, y))

    want, out = cotangents(*arrays), jax.NamedSharding(mesh.abstract_mesh, specs[-1])
    for run in (cotangents, jax.jit(cotangents, static_argnames="sharding")):
        (dx, dy), second = run(*placed, sharding=out)
        for found, operand in zip((dx, dy, *second), (*placed[:2], *placed), strict=True):
            assert jax.typeof(found).sharding == jax.typeof(operand).sharding
        assert_close(jax.tree.map(np.asarray, ((dx, dy), second)), want, 1e-12)


def test_a_ragged_product_that_a_region_on_explicit_axes_reads():
    """The product lies on no mesh, its cotangent on that of the region."""
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Explicit,))
    region = jax.shard_map(jnp.sin, mesh=mesh, in_specs=jax.P(), out_specs=jax.P())
    x, y, sizes = normal(3, 4), normal(2, 4, 3, seed=1), jnp.array([2, 1], jnp.int32)

    def gradients(f):
        gradient = fb.grad(lambda x, y: jnp.sum(f(lax.ragged_dot(x, y, sizes))), (0, 1))
        return gradient(x, y), jax.jit(lambda x, y: fb.vjp(gradient, x, y)[1]((y[0].T, y)))(x, y)

    assert_close(jax.tree.map(np.asarray, gradients(region)), gradients(jnp.sin), 1e-12)


def test_a_wrong_layout_is_found(monkeypatch):
    """A cotangent with two axes exchanged has the right shape and the wrong values."""
    x, y = normal(3, 3, 3), normal(3, 3, 3, seed=1)
    numbers = (((0, 1), (2, 0)), ((), ()))
    monkeypatch.setattr(dot, "inverse", lambda order: tuple(range(len(order))))
    with pytest.raises(AssertionError, match="vjp"):
        check_vjp(lambda x, y: lax.dot_general(x, y, numbers), x, y)
