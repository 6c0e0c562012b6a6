import collections
import dataclasses
import doctest

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import fnbackprop as fb
from fnbackprop import trees

Moments = collections.namedtuple("Moments", ["mu", "nu"])


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class State:
    params: dict
    step: int


def test_docstring_examples():
    assert doctest.testmod(trees).failed == 0


@pytest.mark.parametrize(
    "tree, paths",
    [
        ({"blocks": [{"qkv": {"w": 1}}, {"qkv": {"w": 2}}]}, ["blocks/0/qkv/w", "blocks/1/qkv/w"]),
        ((1, [2, None, 3]), ["0", "1/0", "1/2"]),
        (Moments({"w": 1}, {"w": 2}), ["mu/w", "nu/w"]),
        (State({"w": 1}, 2), ["params/w", "step"]),
        ({3: 1, 10: 2}, ["3", "10"]),
        (1.0, [""]),
        ({}, []),
    ],
)
def test_leaves_with_paths(tree, paths):
    found = trees.leaves_with_paths(tree)
    assert [path for path, _ in found] == paths
    assert [leaf for _, leaf in found] == jax.tree.leaves(tree)


def test_leaves_with_paths_is_leaf():
    assert trees.leaves_with_paths({"a": None, "b": 1}, is_leaf=lambda x: x is None) == [("a", None), ("b", 1)]


def test_map_with_paths():
    tree = {"a": [1, 2], "b": 3}
    rest = {"a": [10, 20], "b": 30}
    assert trees.map_with_paths(lambda path, x, y: (path, x + y), tree, rest) == {
        "a": [("a/0", 11), ("a/1", 22)],
        "b": ("b", 33),
    }


def test_stack():
    blocks = [{"w": jnp.full((2, 3), i, jnp.float32), "b": jnp.int32(i)} for i in range(4)]
    stacked = trees.stack(blocks)
    np.testing.assert_array_equal(stacked["w"], np.arange(4.0)[:, None, None] * np.ones((1, 2, 3)))
    np.testing.assert_array_equal(stacked["b"], np.arange(4))
    assert stacked["b"].dtype == jnp.int32


@pytest.mark.parametrize(
    "dtypes, expected",
    [
        (["float32"], "float32"),
        (["bfloat16", "float16", "int32"], "float32"),
        (["int64"], "float32"),
        (["complex64"], "float32"),
        (["float32", "float64"], "float64"),
        (["complex128"], "float64"),
        ([], "float32"),
    ],
)
def test_accumulation_dtype(x64, dtypes, expected):
    assert trees.accumulation_dtype(*[jnp.zeros(1, d) for d in dtypes]) == expected


def numpy_norm(tree):
    leaves = [np.asarray(x).astype(np.complex128) for x in jax.tree.leaves(tree)]
    return np.sqrt(sum(np.sum(np.abs(x) ** 2) for x in leaves))


def random_tree(dtype, scale=1.0):
    rng = np.random.default_rng(0)
    arrays = {"a": rng.normal(size=(3, 400)), "b": [rng.normal(size=()), rng.normal(size=(0, 2)), rng.normal(size=5)]}
    return jax.tree.map(lambda x: jnp.asarray(scale * x, dtype), arrays)


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "complex64"])
def test_global_norm_accumulates_in_float32(dtype, jitted):
    tree = random_tree(dtype)
    norm = (jax.jit(trees.global_norm) if jitted else trees.global_norm)(tree)
    assert norm.dtype == jnp.float32
    np.testing.assert_allclose(norm, numpy_norm(tree), rtol=1e-6)


def test_global_norm_in_float64(x64):
    tree = random_tree("float64") | {"c": jnp.ones(3, jnp.float32)}
    assert trees.global_norm(tree).dtype == jnp.float64
    np.testing.assert_allclose(trees.global_norm(tree), numpy_norm(tree), rtol=1e-14)


@pytest.fixture(params=["small", "large"])
def taken_for(monkeypatch, request):
    """Small leaves are scaled in any case, larger ones if a first look at them needs it."""
    if request.param == "large":
        monkeypatch.setattr(trees, "FEW", 0)


@pytest.mark.usefixtures("taken_for")
@pytest.mark.parametrize("scale", [1e-36, 1e-30, 1e-22, 1e-12, 1e12, 1e19, 1e30])
def test_global_norm_neither_vanishes_nor_overflows(scale):
    tree = random_tree("float32", scale)
    np.testing.assert_allclose(trees.global_norm(tree), numpy_norm(tree), rtol=1e-6)


def test_norms_of_leaves_that_are_split_over_an_explicit_mesh():
    types = (jax.sharding.AxisType.Explicit,) * 2
    mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=types, devices=jax.devices()[:4])
    specs = {"a": P("x", "y"), "b": P("y", "x"), "c": P(None, "x"), "d": P()}
    whole = {name: np.arange(1.0, 49.0, dtype=np.float32).reshape(4, 12) for name in specs}
    split = {name: jax.device_put(leaf, jax.NamedSharding(mesh, specs[name])) for name, leaf in whole.items()}
    np.testing.assert_allclose(jax.jit(trees.global_norm)(split), numpy_norm(whole), rtol=1e-6)
    each = [numpy_norm(leaf) for leaf in whole.values()]
    np.testing.assert_allclose(jax.jit(lambda *leaves: trees.norms(leaves))(*split.values()), each, rtol=1e-6)
    twice = jax.tree.map(lambda leaf: 2 * leaf, split)
    np.testing.assert_allclose(jax.jit(trees.relative_change)(split, twice), 1, rtol=1e-6)


def test_global_norm_of_large_float16():
    tree = random_tree("float16", 1e4)
    assert not np.isfinite(optax.tree.norm(tree))  # what the same squares come to in float16
    np.testing.assert_allclose(trees.global_norm(tree), numpy_norm(tree), rtol=1e-6)


@pytest.mark.usefixtures("taken_for")
@pytest.mark.parametrize(
    "tree, expected",
    [
        ({}, 0.0),
        (jnp.zeros(3), 0.0),
        (jnp.zeros((0, 3)), 0.0),
        (3.0, 3.0),
        ([3, jnp.int8(-4)], 5.0),
        (jnp.int8(-128), 128.0),
        ([jnp.array([1.0, np.inf]), jnp.ones(2)], np.inf),
        ([jnp.array([1.0, np.nan]), jnp.ones(2)], np.nan),
        ([jnp.array([np.inf, np.nan])], np.nan),
        ([np.zeros(3, jax.dtypes.float0), jnp.array([3.0, 4.0])], 5.0),
    ],
)
def test_global_norm_at_the_edges(tree, expected):
    np.testing.assert_equal(float(trees.global_norm(tree)), expected)


@pytest.mark.usefixtures("taken_for")
def test_global_norm_under_vmap():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 7)) * np.array([[1], [1e-30], [0], [1e30]]), jnp.float32)
    expected = [numpy_norm(row) for row in x]
    np.testing.assert_allclose(jax.vmap(lambda row: trees.global_norm({"a": row}))(x), expected, rtol=1e-6)


@pytest.mark.usefixtures("taken_for")
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_global_norm_has_the_unit_vector_as_gradient(scale):
    x = {"a": jnp.asarray(scale * np.array([3.0, 0.0, -4.0]), jnp.float32), "unused": jnp.zeros(2)}
    gradient = jax.grad(trees.global_norm)(x)
    np.testing.assert_allclose(gradient["a"], [0.6, 0.0, -0.8], rtol=1e-6)
    np.testing.assert_array_equal(gradient["unused"], 0)


@pytest.mark.parametrize("hessian", [jax.hessian, fb.hessian, lambda f: jax.jacrev(jax.jacrev(f))])
@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e20, 0.0])
def test_second_derivatives_of_a_norm(hessian, scale):
    """(1 - u uᵀ) / |x|, u the unit vector; the square of the norm would vanish or overflow."""
    x = jnp.asarray(np.array([3.0, 4.0]) * scale, jnp.float32)
    expected = np.array([[0.64, -0.48], [-0.48, 0.36]]) / (5 * scale) if scale else np.zeros((2, 2))
    np.testing.assert_allclose(hessian(trees.global_norm)(x), expected, rtol=1e-5)


def test_leaf_norms():
    tree = random_tree("bfloat16") | {"tiny": jnp.full(4, 1e-30)}
    norms = trees.leaf_norms(tree)
    assert jax.tree.structure(norms) == jax.tree.structure(tree)
    for (path, norm), leaf in zip(trees.leaves_with_paths(norms), jax.tree.leaves(tree), strict=True):
        np.testing.assert_allclose(norm, numpy_norm(leaf), rtol=1e-6, err_msg=path)


def several_shapes():
    """Leaves of which some are stacked: small ones of one shape and dtype; a large shape occurs twice as well."""
    random = np.random.default_rng(3)
    shapes = [(3,), (64, 65), (2, 2), (3,), (), (64, 65), (2, 2), (3,), (0, 2)]
    tree = [jnp.asarray(random.normal(size=shape) * 10.0**place, jnp.float32) for place, shape in enumerate(shapes)]
    return [*tree, tree[0].astype(jnp.bfloat16), jax.lax.complex(tree[0], tree[0])]


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e26])
def test_norms_of_leaves_of_several_shapes(scale):
    """Each group has its own norm, in its place, though small leaves of one shape are reduced together."""
    tree = [scale * leaf for leaf in several_shapes()]
    groups = [range(len(tree)), [], [0], [6, 7], *([place] for place in range(len(tree))), [3, 4]]
    found = jax.jit(lambda tree: trees.norms([[tree[place] for place in places] for places in groups]))(tree)
    np.testing.assert_allclose(found, [numpy_norm([tree[place] for place in places]) for places in groups], rtol=1e-5)


def test_relative_change():
    before = several_shapes()
    after = [leaf + (0.25 + i) for i, leaf in enumerate(before)]
    change = [np.asarray(y).astype(complex) - np.asarray(x).astype(complex) for x, y in zip(before, after, strict=True)]
    found = jax.jit(trees.relative_change)(before, after)
    np.testing.assert_allclose(found, numpy_norm(change) / numpy_norm(before), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("size", [5, 5000])
def test_relative_change_of_a_narrow_dtype(dtype, size):
    """The difference is another number in it: rounded, or, of 6e4 and -6e4 in float16, infinite."""
    random = np.random.default_rng(size)
    before, after = (jnp.asarray(random.normal(size=size) * 1e4, dtype) for _ in range(2))
    before, after = jnp.append(before, jnp.asarray(6e4, dtype)), jnp.append(after, jnp.asarray(-6e4, dtype))
    x, y = np.asarray(before, np.float64), np.asarray(after, np.float64)
    expected = np.linalg.norm(y - x) / np.linalg.norm(x)
    np.testing.assert_allclose(trees.relative_change([before], [after]), expected, rtol=1e-6)


def compiled_size(function, *args):
    return jax.jit(function).lower(*args).compile().as_text().count(" = ")


def many_leaves(count):
    return [{"w": jnp.ones((2, 3)), "b": jnp.ones(2)} for _ in range(count // 2)]


def test_small_leaves_are_reduced_together():
    """Of a hundred more, one more line each to stack them: a reduction each would cost about 15."""
    sizes = [compiled_size(lambda tree: trees.norms([tree, *tree]), many_leaves(count)) for count in (20, 120)]
    assert sizes[1] - sizes[0] < 400


def test_small_leaves_of_different_shapes_are_reduced_together():
    """Six lines a leaf: a reduction each would cost 18, and take long to compile."""
    trees_of = [[jnp.ones((5 + i, 3)) for i in range(count)] for count in (20, 60)]
    sizes = [compiled_size(lambda tree: trees.joint_norm(trees.norm_parts(tree)[0]), tree) for tree in trees_of]
    assert sizes[1] - sizes[0] < 40 * 9


def test_the_parts_of_a_leaf_have_its_norm():
    tree = several_shapes()
    parts, places = jax.jit(lambda tree: trees.norm_parts(tree)[0])(tree), trees.norm_parts(tree)[1]
    assert sorted(row for own in places for row in own) == sorted({row for own in places for row in own})
    found = [np.linalg.norm(np.asarray(parts, float)[list(own)]) for own in places]
    np.testing.assert_allclose(found, [numpy_norm(leaf) for leaf in tree], rtol=1e-6)
    np.testing.assert_allclose(trees.joint_norm(parts), numpy_norm(tree), rtol=1e-6)


def test_the_program_of_norms_grows_with_the_number_of_leaves():
    """One scale in the sum of every leaf would let it grow with the square."""
    sizes = []
    for count in (20, 40):
        tree = [{"w": jnp.ones((64, 65)), "b": jnp.ones((65, 64))} for _ in range(count // 2)]
        sizes.append(compiled_size(lambda tree: trees.norms([tree, *tree]), tree))
    assert sizes[1] < 2.2 * sizes[0]
