"""Which values are saved: the minimum cut, budgets, policies."""

import jax
import jax.numpy as jnp
import pytest

import fnbackprop as fb
from fnbackprop.backprop.memory import save_policy
from fnbackprop.backprop.memory.save_policy import Boundary
from fnbackprop.jaxprs.graph import producers


def fun(x, w):
    a = x @ w  # (4, 8): a product, which is not recomputed
    b = jnp.sin(a)
    c = jnp.exp(b)
    return c, b


JAXPR = jax.make_jaxpr(fun)(jnp.ones((4, 3)), jnp.ones((3, 8))).jaxpr
BY_NAME = {e.primitive.name: e.outvars[0] for e in JAXPR.eqns}
A, B, C = BY_NAME["dot_general"], BY_NAME["sin"], BY_NAME["exp"]


def boundary(needed, available=(), stored=()):
    return Boundary(tuple(JAXPR.eqns), tuple(needed), frozenset(available), frozenset(stored))


def test_what_is_cheap_is_recomputed_from_one_saved_product():
    assert save_policy.choose_saved(boundary([A, B, C])) == [A]
    assert save_policy.save_all(boundary([A, B, C])) == [A, B, C]


def test_what_is_stored_anyway_costs_nothing():
    assert save_policy.choose_saved(boundary([C], stored=[B])) == [B]


def test_what_is_available_is_not_saved():
    assert save_policy.choose_saved(boundary([B, C], available=[A])) == []


def test_products_are_recomputed_under_a_budget():
    x, w = JAXPR.invars
    choose = save_policy.choose_within(0.5, 10)
    assert choose(boundary([A, B], available=[w])) == [A]  # half of the two
    tight = save_policy.choose_within(0.2, 10)
    assert tight(boundary([A, B], available=[w])) == [x]


def test_what_cannot_be_kept_says_how_much_is_needed():
    with pytest.raises(save_policy.BudgetError, match="a loop of 10 steps must save at least 480 bytes") as found:
        save_policy.choose_within(0.01, 10)(boundary([A, B], available=[JAXPR.invars[1]]))
    assert (found.value.least, found.value.everything) == (48, 256)


def test_policies():
    saves_sin = save_policy.choose_by_policy(lambda primitive, *_, **__: primitive.name == "sin")
    assert saves_sin(boundary([C])) == [B]
    assert save_policy.choose_by_policy(jax.checkpoint_policies.dots_saveable)(boundary([C])) == [A]
    assert save_policy.choose_by_policy(jax.checkpoint_policies.nothing_saveable)(boundary([C])) == []


@pytest.mark.parametrize(
    ("fun", "shapes", "cheap"),
    [
        (jnp.sin, [(3,)], True),
        (jnp.matmul, [(4, 4), (4, 4)], False),
        (jnp.sum, [(100,)], False),  # far smaller than its operand
        (lambda q, k: jnp.einsum("bqd,bkd->bqk", q, k), [(2, 64, 8), (2, 64, 8)], True),  # attention's scores
        (jax.jit(lambda x: jnp.sin(x) * 2), [(3,)], True),
        (lambda x: jnp.linalg.cholesky(x), [(3, 3)], False),
    ],
)
def test_cheap_to_recompute(fun, shapes, cheap):
    equations = jax.make_jaxpr(fun)(*(jnp.ones(shape) for shape in shapes)).jaxpr.eqns
    assert all(map(save_policy.is_cheap, equations)) is cheap


def test_bytes():
    assert save_policy.nbytes(A.aval) == 4 * 8 * 4 and save_policy.nbytes(jax.typeof(jax.random.key(0))) == 8
    assert save_policy.total_bytes([A, B]) == 256 and producers(JAXPR.eqns)[A].primitive.name == "dot_general"


def test_a_budget_error_names_the_line_of_the_inner_loop_and_is_the_only_error():
    def loss(w):
        def inner(h, w):
            return jnp.tanh(h @ w), None

        def outer(h, _):
            return jax.lax.scan(inner, h, w)[0], None

        return jnp.sum(jax.lax.scan(outer, jnp.ones(8), None, length=3)[0])

    with pytest.raises(save_policy.BudgetError, match=r"test_save_policy.py:\d+.*outer.*fb.residuals shows") as found:
        fb.grad(loss, budget=8)(jnp.ones((100, 8, 8)))
    assert str(found.value).count("test_save_policy.py") == 1
    assert found.value.__suppress_context__ or found.value.__context__ is None
