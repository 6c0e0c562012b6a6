"""Blame names the line, the class and the iteration of planted faults, in eager and in jitted functions."""

import jax
import jax.numpy as jnp
import pytest

from fnbackprop.tracing.blame import Kind
from fnbackprop.tracing.pipeline import trace

from . import cases, helpers
from .helpers import line_of


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.fun.__name__)
@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
def test_planted_faults(case, jitted):
    blame = trace(jax.jit(case.fun) if jitted else case.fun, *case.args).blame()
    assert blame is not None
    found = blame.place.line, blame.kind, blame.primitive, blame.backward, blame.iteration
    assert found == (line_of(case.fun), case.kind, case.primitive, case.backward, case.iteration), blame.sentence
    if case.element is not None:
        assert blame.element == case.element
    assert blame.reaches or not case.backward
    if "# BEHIND" in (source := __import__("inspect").getsource(case.fun)):
        assert blame.behind is not None and blame.behind.line == line_of(case.fun, "BEHIND"), source


@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
def test_a_helper_in_another_file(jitted):
    blame = trace(jax.jit(cases.in_a_helper) if jitted else cases.in_a_helper, cases.X).blame()
    assert blame.place.file == helpers.__file__ and blame.place.line == line_of(helpers.normalized, "HELPER")
    assert blame.kind is Kind.POLE and "normalized" in blame.path[-1]


@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
def test_a_users_backward(jitted):
    blame = trace(jax.jit(cases.custom_backward) if jitted else cases.custom_backward, cases.X).blame()
    assert blame.kind is Kind.WRONG_RULE and blame.place.text == "scaled = dy / (x - x)"


def test_data():
    batch = cases.X.at[2].set(jnp.nan)
    blame = trace(jax.jit(cases.nan_in_the_data), cases.X, batch).blame()
    assert blame.kind is Kind.INPUT and blame.place.function == "args[1]" and blame.element == (2,)
    assert blame.reaches == ("args[0]",) and blame.value


def test_the_taken_branch():
    blame = trace(cases.branch, cases.X).blame()
    assert blame.path == ("cond", "branch 1") and "branch 1" in blame.sentence


def test_a_mask_used_rightly():
    def attention(x):
        scores = jnp.where(jnp.tri(4, dtype=bool), jnp.outer(x, x), -jnp.inf)
        return jnp.sum(jax.nn.softmax(scores)[:, 0])

    found = trace(attention, cases.X)
    assert found.blame() is None and found.findings == ()


def test_the_sentence():
    blame = trace(cases.where_sqrt, cases.X).blame()
    assert blame.sentence.splitlines()[0] == (
        f"0·inf: a cotangent became NaN at sqrt by sqrt_vjp, cases.py:{line_of(cases.where_sqrt)}:11 (where_sqrt), "
        "element [0]"
    )
    assert "safe_select=True" in blame.sentence and "select_n" in blame.sentence
    assert trace(cases.where_sqrt, cases.X, safe_select=True).blame() is None


def test_an_equinox_model():
    import equinox as eqx

    model = eqx.nn.Linear(3, 1, key=jax.random.key(0))

    def loss(model, x):
        return jnp.sum(jnp.log(jax.vmap(model)(x) - 1e3))  # HERE

    blame = trace(loss, model, jnp.ones((4, 3))).blame()
    assert (blame.kind, blame.place.line, blame.element) == (Kind.POLE, line_of(loss), (0, 0)) and blame.value


def test_a_flax_model():
    from flax import nnx

    graph, params = nnx.split(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))

    def loss(params, x):
        return jnp.sum(jnp.sqrt(0 * nnx.merge(graph, params)(x)))  # HERE

    blame = trace(loss, params, jnp.ones((4, 3))).blame()
    assert (blame.kind, blame.place.line) == (Kind.INFINITE_DERIVATIVE, line_of(loss))
    assert blame.reaches == ("bias/value", "kernel/value")


def test_a_shard_map_is_one_equation():
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))

    def loss(x):
        spec = jax.sharding.PartitionSpec("d")
        roots = jax.shard_map(lambda x: jnp.sqrt(x), mesh=mesh, in_specs=spec, out_specs=spec)(x)  # HERE
        return jnp.sum(roots)

    blame = trace(jax.jit(loss), jnp.ones(8).at[5].set(0)).blame()
    assert (blame.primitive, blame.place.line, blame.element) == ("shard_map", line_of(loss), (5,))
    assert blame.kind is Kind.INFINITE_DERIVATIVE
