"""The two parts of a scan's step, without the scan: what they return, read and leave to the loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fnbackprop.backprop.engine import Engine
from fnbackprop.backprop.memory.save_policy import BudgetError
from fnbackprop.jaxprs.views import Scan
from fnbackprop.rules.loops.scan_step import split_step

RANDOM = np.random.default_rng(0)
W, H, XS = (RANDOM.normal(size=shape).astype(np.float32) for shape in ((3, 3), (2, 3), (4, 2, 3)))


def cell(w, h, x):
    h = jnp.tanh(h @ w + x)
    return h, jnp.sin(h) * 2


def step_of(engine=Engine(hoist=False), active=(True, True, True), wanted=(True, True), length=4):  # noqa: B008
    """The split step of a scan over `cell`: operands w, h, xs; results h, ys."""
    scanned = jax.make_jaxpr(lambda w, h, xs: lax.scan(lambda h, x: cell(w, h, x), h, xs))(W, H, XS)
    return split_step(engine, Scan.of(scanned.eqns[-1]), active, wanted)


def test_one_step_forward_and_backward():
    step = step_of()
    (h,), (y,), r = step.forward([W], [H], [XS[0]])
    np.testing.assert_allclose((h, y), cell(W, H, XS[0]), rtol=1e-6)

    dh, dy = (RANDOM.normal(size=H.shape).astype(np.float32) for _ in range(2))
    (stacks,) = [step.residuals([y[None]], [x[None] for x in r])]
    (dh_before,), (dx,), hoisted, terms = step.backward([W], [XS[0]], [s[0] for s in stacks], [dh], [dy])
    (dw,) = step.add_terms(step.zero_sums(), terms)
    assert hoisted == [] and step.has_cotangent == (True, True, True)
    expected = jax.vjp(cell, W, H, XS[0])[1]((dh, dy))
    for found, right in zip((dw, dh_before, dx), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-5)


def test_what_has_no_cotangent():
    step = step_of(active=(False, True, False), wanted=(False, True))
    assert step.has_cotangent == (False, True, False)
    assert (step.carry_cts, step.ys_cts) == ((True,), (True,))  # the ys depend on the carry, so it gets one
    dh, dys = step.cotangents_or_zeros([None, None])
    assert [x.shape for x in (*dh, *dys)] == [H.shape, XS.shape] and not any(map(np.any, (*dh, *dys)))
    step = step_of(active=(False, False, True), wanted=(True, False))
    assert (step.has_cotangent, step.ys_cts) == ((False, True, True), (False,))  # xs make the carry active


def test_hoisted_terms_leave_the_loop():
    """dw = Σ_t h_tᵀ dz_t: the factors are stacked, and one product sums over all steps."""
    step = step_of(Engine(hoist=True))
    assert step.zero_sums() == [None] and not any(step.hoisted.remaining)
    rows, dhs = [], []
    h, dy = H, np.ones_like(XS)
    ys, rs = [], []
    for x in XS:
        (h,), (y,), r = step.forward([W], [h], [x])
        ys.append(y)
        rs.append(r)
    stacks = step.residuals([jnp.stack(ys)], [jnp.stack(r) for r in zip(*rs, strict=True)])
    dh = [np.zeros_like(H)]
    for t in reversed(range(4)):
        dh, dx, hoisted, terms = step.backward([W], [XS[t]], [s[t] for s in stacks], dh, [dy[t]])
        rows.append(hoisted)
        dhs.append(dx)
        assert step.add_terms([None], terms) == [None]
    hoisted = [jnp.stack(r[::-1]) for r in zip(*rows, strict=True)]
    (dw,) = step.add_hoisted([None], [XS], stacks, [dy], hoisted)
    expected = jax.grad(lambda w: jnp.sum(lax.scan(lambda h, x: cell(w, h, x), H, XS)[1]))(W)
    np.testing.assert_allclose(dw, expected, rtol=1e-5)


def test_residuals_above_the_budget():
    with pytest.raises(BudgetError):
        step_of(Engine(budget=8))
