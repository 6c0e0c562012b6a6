"""The machinery of `accuracy ulp` on a few primitives, the rules that it led to, and the second order of one rule."""

import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from jax import lax
from mpmath import mp

from fnbackprop.backprop import registry
from fnbackprop.rules.pointwise import binary, conversions, incomplete, special, unary

from .accuracy import reasons, ulp
from .accuracy.derivatives import ROWS, Row
from .accuracy.points import points
from .accuracy.second_order import disagreement, loss_of_precision
from .accuracy.ulp import Found, Worst, faults, measure, ulps
from .mutants.programs import Program


def test_a_distance_is_in_spacings_at_the_exact_value():
    one = np.float32(1)
    assert ulps(np.nextafter(one, np.float32(2)), mp.mpf(1), "float32") == 1
    assert ulps(np.nextafter(one, np.float32(0)), mp.mpf(1), "float32") == 0.5
    assert ulps(np.float64(3), mp.pi, "float64") == pytest.approx((np.pi - 3) / np.spacing(np.pi))
    assert ulps(np.float32(0), mp.mpf("1e-40"), "float32") == 0  # denormal, which XLA takes as zero
    assert ulps(np.complex64(1 + 1j), mp.mpc(1, 1), "complex64") == 0


@pytest.mark.parametrize(
    "got, want, same",
    [(np.inf, "1e39", True), (-np.inf, "1e39", False), (np.nan, "nan", True), (np.nan, "1", False), (1, "inf", False)],
)
def test_what_is_not_finite_is_compared_by_its_class(got, want, same):
    assert ulps(np.float32(got), mp.mpf(want), "float32") == (0 if same else np.inf)


def test_an_exact_value_is_settled_in_as_much_precision_as_it_takes():
    cancelling = ulp._settled(lambda x: (1 + x) - 1, [mp.mpf("1e-150")])
    assert abs(cancelling / mp.mpf("1e-150") - 1) < mpmath.mpf(2) ** -80
    assert ulp._settled(lambda x: 1 / x, [mp.mpf(0)]) is None
    assert ulp._settled(lambda x: mp.sqrt(x), [mp.mpf(-1)]) is None


def test_points_are_rounded_to_the_dtype_and_complex_ones_lie_off_the_axes():
    (x,) = points(ROWS["tanh"].points, "float32")
    assert x.dtype == "float32" and np.isnan(x[-1]) and {np.inf, 0, float(np.finfo("float32").max)} <= set(x.tolist())
    (z,) = points(ROWS["tanh"].points, "complex64")
    assert z.dtype == "complex64" and np.all(z.real != 0) and np.all(z.imag != 0)
    x, y = points(((1.0, 2.0), (3.0, 4.0, 5.0)), "float64")
    assert x.shape == y.shape == (6,)


def test_a_wrong_rule_is_seen_and_its_point_named(plant):
    plant("sin", registry.lookup(lax.sin_p))

    @registry.derivative("sin", "x -> y")
    def sin_vjp(x):
        return lax.mul(lax.cos(x), np.asarray(1 + 1e-6, x.dtype))

    row = Row("sin", lax.sin, mp.cos, points=((0.5, 2.0),), dtypes=("float32",))
    found = measure(row, "float32")
    assert found.ours.error > 5 > 1 > found.jax.error
    assert found.ours.point in ((0.5,), (2.0,)) and str(found.ours.error)[:3] in found.fault


def test_a_reason_is_wanted_of_a_fault_and_of_nothing_else():
    good, bad = Worst(0.6), Worst(3.0, (1.0,))
    rows = [
        Found("a", "float32", bad, good),
        Found("b", "float32", good, bad),
        Found("c", "float32", Worst(99.0), None),
    ]
    assert [text.partition(":")[0] for text in faults(rows, {})] == ["a float32", "c float32"]
    assert faults(rows, {"a float32": "why", "c float32": "why"}) == []
    (stale,) = faults(rows[1:2], {"b float32": "why"})
    assert "needed no longer" in stale
    assert Found("d", "float32", Worst(wrong=((0.0,),)), good).fault


def test_every_reason_belongs_to_a_row():
    assert {key.rpartition(" ")[0] for key in reasons.REASONS} <= set(ROWS)


@pytest.mark.parametrize(
    "name, dtype",
    [("div y", "float64"), ("sign complex", "complex64"), ("atan", "complex128"), ("cosh", "complex64")],
)
def test_rules_that_were_far_off(name, dtype):
    """By JAX 0.10.2: -inf for x/y at x = y = 1e-200, and errors of 2e7, 4e4 and 6e6 units."""
    row = ROWS[name]
    if name == "div y":
        row = Row(name, row.function, row.derivative, 1, ((0.0, 1e-200, 3.0, 1e200), (1e-200, 0.3, 1e200)))
    found = measure(row, dtype)
    assert not found.ours.wrong and found.ours.error < 5


@pytest.mark.parametrize("name", ["digamma", "bessel_i0e", "bessel_i1e"])
def test_special_functions_far_out(name):
    row = Row(name, ROWS[name].function, ROWS[name].derivative, points=((40.0, 1e4, 1e9, 1e18, np.inf, 1e-38),))
    found = measure(row, "float32")
    assert not found.ours.wrong and found.ours.error < 10
    assert found.jax.wrong or found.jax.error > 1e4


@pytest.mark.usefixtures("x64")
def test_the_second_order_of_a_wrong_rule_disagrees_with_differences(plant):
    """A rule whose own derivative is wrong, here by a constant that hides how the value depends on x."""
    program = Program("sin", 0, lax.sin, (jnp.float32([0.4, 1.1]),))
    assert disagreement(program, reverse=True) < 1e-9 and loss_of_precision(program) < 1e-6
    plant("sin", registry.lookup(lax.sin_p))

    @registry.derivative("sin", "x -> y")
    def sin_vjp(x):
        return lax.cos(lax.stop_gradient(x))

    assert disagreement(program, reverse=True) > 1e-2


def test_every_pointwise_rule_has_a_row():
    """Sums and random numbers aside, and what this JAX has no function for."""
    names = {name for module in (binary, conversions, incomplete, special, unary) for name in vars(module)}
    pointwise = {str(p) for p, entry in registry.registered().items() if any(r.name in names for r in entry.rules)}
    listed = {name.split()[0] for name in ROWS}
    assert pointwise - listed <= {"add_any", "rng_uniform", "one_minus_square", "log2", "polynomial"}
