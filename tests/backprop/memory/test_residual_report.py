"""`fb.residuals`: what it says is what the pullback holds."""

import jax
import jax.numpy as jnp
import pytest

import fnbackprop as fb

X = jnp.linspace(0.1, 1.0, 6).reshape(2, 3)
W = jnp.eye(3)


def straight(w, x):
    return jnp.sum(jnp.tanh(x @ w))


def looped(w, x):
    def step(h, _):
        return jnp.sin(jnp.tanh(h @ w)) * 2, None

    return jax.lax.scan(step, x, None, length=4)[0]


def test_straight_line_code():
    (row,) = fb.residuals(straight, W, X).rows  # tanh's output; the product's operands are inputs
    assert (row.kind, row.what, row.nbytes) == ("saved", "f32[2,3]", 24)
    assert "test_residual_report.py" in row.where and row.why == "read by the rule of tanh"


def test_a_loop():
    report = fb.residuals(looped, W, X, hoist=True)
    kinds = {kind: [row for row in report.rows if row.kind == kind] for kind in ("stacked", "again", "hoisted")}
    assert [(row.what, row.nbytes) for row in kinds["stacked"]] == [("4 x f32[2,3]", 96)] * 2
    assert kinds["stacked"][0].why == "the carry" or kinds["stacked"][1].why == "the carry"
    assert "tanh" in kinds["again"][0].what and kinds["hoisted"][0].why == "one dot_general over 4 steps"
    assert report.nbytes == 192 and "192 bytes saved" in str(report)
    assert not [row for row in fb.residuals(looped, W, X, hoist=False).rows if row.kind == "hoisted"]
    lean = fb.residuals(looped, W, X, budget=100)
    assert [row.nbytes for row in lean.rows if row.kind == "stacked"] == [96]


def test_it_counts_what_the_pullback_holds():
    pullback = fb.vjp(looped, W, X)[1]
    held = {id(leaf): leaf.nbytes for leaf in jax.tree.leaves(pullback)}
    assert sum(held.values()) - W.nbytes == fb.residuals(looped, W, X).nbytes


def test_an_unknown_option_is_an_error_as_in_vjp():
    for function in (fb.residuals, fb.vjp):
        with pytest.raises(TypeError, match="unexpected option 'unknown'; the options are safe_select, hoist, budget"):
            function(jnp.sin, 1.0, unknown=1)
    with pytest.raises(TypeError, match="unexpected option 'inline'"):
        fb.residuals(jnp.sin, 1.0, inline=True)
