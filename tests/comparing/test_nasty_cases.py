"""The cases that fool other checkers: verdict, guilty equation and cause; and no alarm where all is right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnbackprop as fb
from fnbackprop.backprop import registry
from fnbackprop.comparing import gradient_sources
from fnbackprop.comparing.pipeline import compare
from fnbackprop.comparing.results import Verdict

from .nasty_cases import CASES, custom, normal, weighted


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_rule_is_named_with_its_cause(name):
    case = CASES[name]
    fun, args = case.build(False)
    result = compare(fun, *args, directions=1)
    assert result.verdict is Verdict.FAIL
    assert {found.name for found in result.equations} == {case.function}
    first = result.first_difference
    assert first.primitive == "custom_vjp_call" and "nasty_cases.py" in first.where
    assert first.cotangent == case.cotangent and first.numeric == "automatic"
    if case.cause:
        assert any(found.hypothesis and case.cause in found.hypothesis.text for found in result.equations)
    assert (result.numeric.verdict is Verdict.FAIL) == (case.cotangent == "actual")


def test_a_forgotten_conjugate_passes_for_real_inputs():
    fun, (z,) = CASES["conjugate_forgotten"].build(False)
    compare(lambda x: fun(jax.lax.complex(x, 0 * x)), jnp.real(z), directions=2).require()


def cast(leaf, dtype):
    if jnp.iscomplexobj(leaf):
        return leaf if dtype == "bfloat16" else leaf.astype("complex128" if dtype == "float64" else "complex64")
    return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_the_right_rules_pass(dtype):
    """All at once, as one program: none of their rules, and no leaf, may be accused."""
    with jax.enable_x64(dtype == "float64"):
        built = [case.build(True) for case in CASES.values()]
        args = jax.tree.map(lambda leaf: cast(leaf, dtype), [args for _, args in built])

        def fun(moving):
            losses = [fun(first, *rest[1:]) for (fun, _), first, rest in zip(built, moving, args, strict=True)]
            return sum(loss.astype(jnp.float64 if dtype == "float64" else jnp.float32) for loss in losses)

        result = compare(fun, [arguments[0] for arguments in args], leaf_directions=False)
    assert result.equations == () and result.audited > 100
    result.require()


# ---------------------------------------------------------------- rules of the registry


def test_half_missing_in_rsqrt_inside_an_rms_norm(plant):
    plant("rsqrt")
    fb.vjp_rule("rsqrt")(lambda dy, y: -dy * y * y * y)

    def rms(x):
        return x * jax.lax.rsqrt(jnp.mean(x * x) + 1e-3)

    def loss(x):
        return jax.lax.scan(lambda c, t: (jnp.sin(rms(c) + t), None), x, normal(5, 8))[0][0] + weighted(rms(x))

    result = compare(loss, normal(8), directions=1)
    (wrong,) = result.equations
    assert (wrong.primitive, wrong.within, wrong.count) == ("rsqrt", "", 2)
    assert "test_nasty_cases.py" in wrong.where and "(test_half_missing" in wrong.where or "(rms)" in wrong.where
    assert wrong.hypothesis.text == "a factor 1/2 is missing: manual = 2 x automatic" and wrong.numeric == "automatic"
    assert result.leaves[0].verdict is Verdict.FAIL


@pytest.mark.parametrize(
    "change, cause",
    [
        (lambda cts, carry: [None] * carry + cts[carry:], "the cotangent of output 0 is ignored"),
        (lambda cts, carry: [cts[0], *(jnp.roll(ct, 1, 0) for ct in cts[1:])], None),
    ],
    ids=["final carry forgotten", "time off by one"],
)
def test_a_wrong_scan_rule_is_named(plant, change, cause):
    entry = registry.registered()["scan"]

    def scan_vjp(engine, equation, active, wanted):
        found = entry.structured(engine, equation, active, wanted)
        return found._replace(backward=lambda saved, cts: found.backward(saved, change(list(cts), 1)))

    plant("scan", registry.Entry(structured=scan_vjp, activity=entry.activity))

    def loss(x):
        last, ys = jax.lax.scan(lambda c, t: (jnp.sin(c * t), jnp.cos(c)), x, normal(5, 8))
        return weighted(last) + weighted(ys)

    result = compare(loss, normal(8, seed=1), directions=1)
    assert [(found.primitive, found.name) for found in result.equations] == [("scan", "scan_vjp")]
    if cause:
        assert result.equations[0].hypothesis.text == cause


def test_psum_times_the_device_count(plant):
    devices = 4
    mesh = jax.make_mesh((devices,), ("d",), devices=jax.devices()[:devices], axis_types=(jax.sharding.AxisType.Auto,))

    def loss(x):
        def part(x):
            return jax.lax.psum(jnp.sum(x * x), "d")

        return jax.shard_map(
            part, mesh=mesh, in_specs=jax.sharding.PartitionSpec("d"), out_specs=jax.sharding.PartitionSpec()
        )(x)

    assert compare(loss, normal(8), directions=1).require()
    name = next(p for p in ("psum_invariant", "psum") if p in str(jax.make_jaxpr(loss)(normal(8))))
    right = registry.registered()[name].rules[0]

    def psum_vjp(dy, *, axes):
        return right.function(dy, axes=axes) * devices

    plant(name)
    fb.vjp_rule(name)(psum_vjp)
    result = compare(loss, normal(8, seed=1), directions=1)
    (found,) = result.equations
    assert (found.primitive, found.within) == (name, "shard_map") and "(part)" in found.where or ".part)" in found.where
    assert "manual = 4 x automatic" in found.hypothesis.text and result.verdict is Verdict.FAIL


def test_a_custom_rule_inside_a_shard_map():
    def squared(x):
        return x * x

    function = custom(squared, lambda x: (x * x, x), lambda x, dy: (x * dy,))
    mesh = jax.make_mesh((4,), ("d",), devices=jax.devices()[:4], axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("d")

    def loss(x):
        return weighted(jax.shard_map(lambda x: function(x), mesh=mesh, in_specs=spec, out_specs=spec)(x))

    result = compare(loss, normal(8), directions=1)
    (found,) = result.equations
    assert (found.primitive, found.name, found.within) == ("custom_vjp_call", "squared", "shard_map")
    assert found.hypothesis.text == "a factor 2 is missing: its rule = 0.5 x its primal's derivative"


# ---------------------------------------------------------------- intended, kinks, edges, noise


def test_an_intended_stop_gradient_passes_and_is_listed():
    result = compare(lambda x: jnp.sum(x * jax.lax.stop_gradient(jnp.tanh(x))), normal(8))
    assert result.ok and len(result.intended) == 1 and "test_nasty_cases.py" in result.intended[0]
    assert "with what is stopped held constant" in result.numeric.reason


def test_a_straight_through_estimator_passes_and_is_listed():
    def rounded(x):
        return jnp.round(x)

    by_rule = custom(rounded, lambda x: (jnp.round(x), None), lambda _, dy: (dy,))

    def by_stopping(x):
        return x + jax.lax.stop_gradient(jnp.round(x) - x)

    for function, said in ((by_rule, "straight through"), (by_stopping, "the gradient is stopped at")):
        result = compare(lambda x, f=function: weighted(f(x) * 0.7), normal(8))
        assert result.ok and said in result.intended[0] and "test_nasty_cases.py" in result.intended[0]


def test_a_rule_that_differs_as_declared():
    def reversed_gradient(x):
        return x * 1.0

    function = custom(reversed_gradient, lambda x: (x, None), lambda _, dy: (-dy,))
    fun = lambda x: weighted(function(x))  # noqa: E731
    assert compare(fun, normal(8)).equations[0].hypothesis.kind == "sign"
    result = compare(fun, normal(8), intended=["reversed_gradient"])
    assert result.ok and "as declared" in result.intended[0]


def test_sums_in_bfloat16_lose_precision():
    def dense(w, x):
        return x @ w

    def backward(saved, dy):
        w, x = saved
        zero = jnp.zeros_like(w)
        dw, _ = jax.lax.scan(lambda sum, at: (sum + jnp.outer(*at), None), zero, (x, dy))
        return dw, dy @ w.T

    function = custom(dense, lambda w, x: (x @ w, (w, x)), backward)
    x = jnp.abs(normal(512, 4)).astype(jnp.bfloat16)
    result = compare(lambda w: jnp.sum(function(w, x).astype(jnp.float32)), normal(4, 4).astype(jnp.bfloat16))
    assert result.verdict is Verdict.FAIL and result.equations[0].name == "dense"
    assert "the sums lose precision" in result.equations[0].reason


@pytest.mark.parametrize(
    "fun, verdict, note",
    [
        (lambda x: jnp.sum(jnp.sqrt(x)), Verdict.DOMAIN_EDGE, "sqrt at"),
        (lambda x: jnp.linalg.norm(x), Verdict.KINK, "sqrt at"),
        (lambda x: jnp.linalg.norm(x) ** 2, Verdict.FAIL, "sqrt at"),
        (lambda x: jnp.sum(jnp.cbrt(x)), Verdict.UNBOUNDED, "cbrt at"),
        (lambda x: jnp.sum(jnp.floor(x) + x), Verdict.JUMP, "floor at"),
        (lambda x: 2 * jnp.max(x), Verdict.KINK, "at a tie; the gradient takes the slope 0.25 there"),
        (lambda x: jnp.sum(jnp.abs(x)), Verdict.KINK, "at 0; the gradient takes the slope 1 there"),
        (lambda x: jnp.sum(jax.nn.relu(x)), Verdict.KINK, "at a tie; the gradient takes the slope 0 there"),
        (lambda x: jnp.sum(jnp.maximum(x, 0)), Verdict.KINK, "at a tie; the gradient takes the slope 0.5 there"),
    ],
    ids="sqrt norm norm-squared cbrt floor max abs relu maximum".split(),
)
def test_at_zero(fun, verdict, note):
    result = compare(fun, jnp.zeros(4), directions=3)
    assert result.verdict is verdict and not result.ok and result.equations == ()
    assert any(note in line and "test_nasty_cases.py" in line for line in result.notes)
    assert result.numeric.reason


def test_a_minus_infinity_mask_used_rightly_is_no_alarm():
    mask = jnp.tril(jnp.ones((4, 4), bool))

    def loss(x):
        scores = jnp.where(mask, x @ x.T, -jnp.inf)
        return weighted(jax.nn.softmax(scores) @ x)

    compare(loss, normal(4, 4), directions=2).require()


def test_near_ties_in_a_sort():
    x = 1 + jnp.array([0.0, 1e-6, 3e-6, -2e-6])
    result = compare(lambda x: jnp.sum(jnp.sort(x) * jnp.array([1.0, 2.0, 4.0, 8.0])), x, directions=2)
    assert [leaf.verdict for leaf in result.leaves] == [Verdict.PASS] and result.verdict is not Verdict.FAIL


def test_an_integer_argument_is_skipped_and_an_unused_one_noted():
    params = {"n": jnp.arange(4), "unused": normal(4), "w": normal(4)}
    result = compare(lambda p: weighted(p["w"] * p["n"].astype(p["w"].dtype)), params, directions=1)
    assert [leaf.verdict for leaf in result.leaves] == [Verdict.SKIPPED, Verdict.PASS, Verdict.PASS] and result.ok
    assert result.leaves[1].reason == "unused: its gradient is exactly zero"


def test_a_tiny_leaf_beside_a_huge_one(monkeypatch):
    def planted(fun, **options):
        def value_and_changed(*args):
            value, (gradient,) = jax.value_and_grad(fun, **options)(*args)
            return value, ({**gradient, "tiny": 1.5 * gradient["tiny"]},)

        return value_and_changed

    params = {"huge": 1e3 * normal(4), "tiny": 1e-4 * normal(4, seed=1)}
    fun = lambda p: weighted(p["huge"]) + weighted(1e3 * p["tiny"])  # noqa: E731
    assert compare(fun, params, rules=False).ok
    monkeypatch.setitem(gradient_sources.BACKWARDS, "manual", planted)
    result = compare(fun, params, rules=False)
    assert [leaf.verdict for leaf in result.leaves] == [Verdict.PASS, Verdict.FAIL]
    assert "agree with automatic, not with manual" in result.numeric.reason


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_leaf_at_3e5(dtype):
    squared = custom(lambda x: x * x, lambda x: (x * x, x), lambda x, dy: (0 * x * dy,))
    x = jnp.asarray([3e5, 2e5, -1e5, 3e5], dtype)
    compare(lambda x: jnp.sum((x * x).astype(jnp.float32)), x).require()
    assert compare(lambda x: jnp.sum(squared(x).astype(jnp.float32)), x).equations[0].hypothesis.kind == "zero"


def test_differences_from_run_to_run():
    calls = []

    def noisy(dy):
        calls.append(None)
        return np.asarray(dy) * np.float32(1 + 0.1 * len(calls))

    def identity(x):
        return x * 1.0

    def backward(_, dy):
        return (jax.pure_callback(noisy, jax.ShapeDtypeStruct(dy.shape, dy.dtype), dy),)

    function = custom(identity, lambda x: (x, None), backward)
    result = compare(lambda x: weighted(function(x)), normal(4), directions=1, rules=False, reference=False)
    assert Verdict.NONDETERMINISTIC in [check.verdict for check in result.contract] and not result.ok


def test_a_forward_that_differs_from_its_primal():
    def shifted(x):
        return x * 2.0

    function = custom(shifted, lambda x: (x * 2.0 + 1.0, None), lambda _, dy: (2 * dy,))
    result = compare(lambda x: weighted(function(x)), normal(4), directions=1)
    assert any("same with a backward pass" in c.name and c.verdict is Verdict.FAIL for c in result.contract)


def test_a_right_sum_of_a_million_terms():
    result = compare(lambda x: jnp.sum(jnp.sin(x)) / 1e3, normal(1_000_000), directions=2)
    assert result.require().leaves[0].allowed < 1e-3
