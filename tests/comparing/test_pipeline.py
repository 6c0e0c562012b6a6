"""`compare` on right gradients passes, and on planted errors fails and says where."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

from fnbackprop.comparing import gradient_sources
from fnbackprop.comparing.pipeline import compare
from fnbackprop.comparing.results import Verdict


def network(params, x, y):
    hidden = jnp.tanh(x @ params["w"] + jnp.broadcast_to(params["b"], (16, 6)))
    return jnp.mean((hidden @ params["v"] - y) ** 2)


def arguments(dtype=np.float32):
    random = np.random.default_rng(0)
    shapes = {"w": (6, 6), "b": (6,), "v": (6,)}
    params = {name: jnp.asarray(random.normal(size=shape) / 2, dtype) for name, shape in shapes.items()}
    return params, jnp.asarray(random.normal(size=(16, 6)), dtype), jnp.asarray(random.normal(size=(16,)), dtype)


def plant(monkeypatch, change):
    """Let the manual gradient be `change(gradients)`, the gradients being a tuple with one tree."""

    def planted(fun, **options):
        def value_and_changed(*args):
            value, gradients = jax.value_and_grad(fun, **options)(*args)
            return value, change(gradients)

        return value_and_changed

    monkeypatch.setitem(gradient_sources.BACKWARDS, "manual", planted)


def changed(leaf, change):
    return lambda gradients: ({**gradients[0], leaf: change(gradients[0][leaf])},)


def test_compare_passes():
    result = compare(network, *arguments())
    assert result.ok and result.verdict is Verdict.PASS and result.require() is result
    assert [leaf.path for leaf in result.leaves] == ["b", "v", "w"]
    for leaf in (*result.leaves, result.value):
        assert leaf.error <= leaf.allowed < 1e-4 and abs(leaf.ratio - 1) < 1e-5 and leaf.cosine > 0.999999
    assert result.numeric.verdict is Verdict.PASS and result.numeric.manual < result.numeric.allowed < 1e-2


def test_compare_passes_in_float64():
    result = compare(network, *arguments(), float64=True)
    assert result.ok and {leaf.dtype for leaf in result.leaves} == {"float64"}
    assert max(leaf.allowed for leaf in result.leaves) < 1e-12
    assert result.numeric.manual < result.numeric.allowed < 1e-6


def test_compare_passes_in_bfloat16():
    result = compare(network, *arguments(jnp.bfloat16), directions=0)
    assert result.ok and {leaf.dtype for leaf in result.leaves} == {"bfloat16"}


@pytest.mark.parametrize("seed", range(5))
def test_differences_stand_kinks(seed):
    def relu_network(params, x, y):
        hidden = jnp.maximum(x @ params["w"], 0.0)
        return jnp.mean((hidden @ params["v"] - y) ** 2)

    assert compare(relu_network, *arguments(), seed=seed).ok


@pytest.mark.parametrize(
    "leaf, change, cause",
    [
        ("w", lambda g: 2 * g, "a factor 1/2 is missing: manual = 2 x automatic"),
        ("w", lambda g: -g, "the sign is flipped"),
        ("w", lambda g: g.T, "transposed"),
        ("w", lambda g: g * (1 + 1e-4), "a factor is wrong: manual = 1 x automatic"),
        ("w", lambda g: g[::-1], "reversed along axis 0"),
        ("v", lambda g: g / 16, "mean for sum, axis 0 of the data: manual = 0.0625 x automatic"),
        ("v", lambda g: jnp.roll(g, 1), "roll +1 along axis 0"),
        ("v", lambda g: jnp.zeros_like(g), "manual is zero: this path is detached, or its cotangent is dropped"),
        ("b", lambda g: g.at[3].add(1e-3 * g[3]), "wrong only at 3 of axis 0"),
        ("b", lambda g: jnp.mean(g) * jnp.ones_like(g), "the mean over axis 0 everywhere"),
    ],
    ids="scale sign transpose slight flip mean roll zero one-element flat".split(),
)
@pytest.mark.parametrize("size", [1.0, 1e-12, 1e12])
def test_a_planted_error_fails_at_its_leaf(monkeypatch, leaf, change, cause, size):
    plant(monkeypatch, changed(leaf, change))
    result = compare(lambda *args: size * network(*args), *arguments(), directions=0, rules=False)
    assert not result.ok and result.verdict is Verdict.FAIL
    (found,) = (found for found in result.leaves if found.verdict is Verdict.FAIL)
    assert found.path == leaf and found.hypothesis.text == cause
    with pytest.raises(
        AssertionError, match=rf"(?s)^FAIL  <lambda>.*\nFAIL  {leaf}  \(f32\[.*worst\s+element\s+at\s+\["
    ):
        result.require()


def test_the_numbers_of_a_planted_error(monkeypatch):
    plant(monkeypatch, changed("v", lambda g: -3 * g))
    found = compare(network, *arguments()).leaves[1]
    np.testing.assert_allclose([found.error, found.ratio, found.cosine], [4, 3, -1], rtol=1e-5)


def test_differences_say_which_gradient_is_wrong(monkeypatch):
    plant(monkeypatch, changed("w", lambda g: 1.5 * g))
    numeric = compare(network, *arguments()).numeric
    assert numeric.verdict is Verdict.FAIL and numeric.automatic < numeric.allowed < numeric.manual
    assert numeric.reason == "the differences agree with automatic, not with manual"


@jax.custom_vjp
def wrong_square(x):
    return x * x


wrong_square.defvjp(lambda x: (x * x, x), lambda x, ct: (x * ct,))  # the factor 2 is missing


@pytest.mark.parametrize("float64", [False, True])
def test_a_wrong_custom_rule_fails_though_both_backwards_use_it(float64):
    result = compare(lambda x: jnp.sum(wrong_square(jnp.sin(x))), jnp.arange(1.0, 9.0), float64=float64)
    assert [leaf.verdict for leaf in result.leaves] == [Verdict.FAIL]
    assert result.verdict is Verdict.FAIL and result.numeric.verdict is Verdict.FAIL
    assert "agree with neither: a rule is wrong" in str(result)
    (wrong,) = result.equations
    assert (wrong.name, wrong.primitive, wrong.numeric) == ("wrong_square", "custom_vjp_call", "automatic")
    assert wrong.hypothesis.text == "a factor 2 is missing: its rule = 0.5 x its primal's derivative"
    assert result.first_difference is wrong and "test_pipeline.py" in wrong.where
    assert "both backwards use the user's rules" in str(result) and "off its primal's derivative" in str(result)


def test_a_stopped_gradient_is_named():
    result = compare(lambda x: jnp.sum(jax.lax.stop_gradient(x) * x), jnp.arange(1.0, 9.0))
    assert result.ok and result.numeric.automatic < result.numeric.allowed
    assert re.search(r"intended: the gradient is stopped at\s+\S*test_pipeline.py:\d+", str(result))


def test_nan_never_equals_nan():
    result = compare(lambda x: jnp.sum(jnp.sqrt(x) * 0.0), jnp.array([0.0, 1.0, 2.0]), directions=0)
    assert result.verdict is Verdict.NON_FINITE and not result.ok
    assert result.leaves[0].reason == "NaN or infinite: 1 elements of manual, 1 of automatic, of 3"


def test_a_value_that_differs_fails(monkeypatch):
    plant(monkeypatch, lambda gradients: gradients)
    good = gradient_sources.BACKWARDS["manual"]
    bad = lambda fun, **options: lambda *args: (lambda v, g: (v * 1.01, g))(*good(fun, **options)(*args))  # noqa: E731
    monkeypatch.setitem(gradient_sources.BACKWARDS, "manual", bad)
    result = compare(network, *arguments())
    assert result.value.verdict is Verdict.FAIL and result.verdict is Verdict.FAIL


@pytest.mark.parametrize(
    "change, message",
    [
        (changed("w", lambda g: g[:3]), r"the manual gradient is float32\[3, 6\], the automatic float32\[6, 6\]"),
        (changed("w", lambda g: g.astype(jnp.bfloat16)), r"is bfloat16\[6, 6\], the automatic float32"),
        (lambda gradients: ({"w": gradients[0]["w"]},), r"the manual gradient has the structure"),
    ],
)
def test_structure_shape_and_dtype(monkeypatch, change, message):
    plant(monkeypatch, change)
    result = compare(network, *arguments(), directions=0)
    assert result.verdict is Verdict.FAIL and re.search(message, str(result))


def test_integer_leaves_are_skipped_with_a_reason():
    params = {"w": jnp.arange(3.0), "steps": jnp.arange(3)}
    result = compare(lambda params: jnp.sum(jnp.sin(params["w"])), params)
    skipped, passed = result.leaves
    assert result.ok and passed.verdict is Verdict.PASS
    assert skipped.verdict is Verdict.SKIPPED and "no gradient" in skipped.reason


def test_nothing_compared_is_not_ok():
    result = compare(lambda n, x: jnp.sum(x), jnp.arange(3), jnp.ones((3,)))
    assert result.verdict is Verdict.SKIPPED and not result.ok


def test_unused_and_empty_leaves_pass_with_a_note():
    params = {"empty": jnp.zeros((0, 3)), "unused": jnp.ones((2,)), "used": jnp.ones((2,))}
    result = compare(lambda params: jnp.sum(jnp.sin(params["used"])), params)
    assert [leaf.reason for leaf in result.leaves] == ["no elements", "unused: its gradient is exactly zero", ""]
    assert result.ok and "unused: unused: its gradient is exactly zero" in str(result)


def test_a_gradient_that_is_all_rounding_is_noise_limited():
    def cancelling(x):  # the sum of ones: its derivative is zero but for rounding
        return jnp.sum((x + 1) ** 3 - x**3 - 3 * x**2 - 3 * x)

    result = compare(cancelling, jnp.linspace(0.1, 2.0, 50), directions=0)
    assert result.verdict is Verdict.NOISE_LIMITED and not result.ok


def test_aux_argnums_and_plain_arguments():
    def fun(scale, mode, x, exponent):
        assert mode == "power"
        return jnp.sum(scale * x**exponent), {"largest": jnp.max(x)}

    args = (jnp.float32(2.0), "power", jnp.arange(1.0, 4.0), 3)
    for has_aux in (None, True):
        result = compare(fun, *args, argnums=(0, 2), has_aux=has_aux)
        assert result.ok and [leaf.path for leaf in result.leaves] == ["args[0]", "args[2]"]
        np.testing.assert_allclose(
            [leaf.norm for leaf in result.leaves], [36, 6 * np.linalg.norm([1, 4, 9])], rtol=1e-5
        )
    assert [leaf.path for leaf in compare(fun, *args, argnums=-2).leaves] == ["args[2]"]


def test_complex_arguments():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2)) @ np.array([1, 1j]), jnp.complex64)
    result = compare(lambda x: jnp.sum(jnp.abs(x**2 + 1) ** 2), x)
    assert result.ok and result.leaves[0].dtype == "complex64" and result.numeric.verdict is Verdict.PASS


def test_a_tie_that_a_smooth_function_hides_is_a_kink():
    """x is clamped by -|x| from below: it is at the bound, where nothing gets a gradient, and the slope is 1."""
    result = compare(lambda x: jnp.sum(lax.clamp(-jnp.abs(x), x, jnp.float32(9))), jnp.float32([-0.5, -2.0]))
    assert result.verdict is Verdict.KINK and "tie" in result.numeric.reason
    assert any("clamp" in note and "at a bound" in note for note in result.notes)


def test_a_function_that_decides_otherwise_in_float64_is_taken_as_it_is():
    """1 + 1e-9 is 1 in float32: differences in float64 would be of another function."""
    result = compare(lambda x: jnp.sum(jnp.where(x + 1e-9 > x, 3.0, 1.0) * x**2), jnp.float32([1.0, 1.5]))
    assert result.ok and any("in float64, and 3.25 here" in note for note in result.notes)


def test_where_jax_refuses_the_manual_gradient_tells_of_the_noise():
    opaque = lax.composite(lambda x: 1000 * x, "test.thousandfold")
    result = compare(lambda x: jnp.sum(jnp.sin(opaque(x))), jnp.float32([0.3, 1.7, 2.2]))
    assert result.ok and result.leaves[0].allowed > 1e-5 and "jax.grad refuses" in " ".join(result.notes)


def test_a_layout_is_no_part_of_a_value():
    def fun(x):
        return jnp.sum(with_layout_constraint(x, Layout((1, 0))) * jnp.arange(6.0, dtype=x.dtype).reshape(2, 3))

    assert compare(fun, jnp.float32([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])).ok
