"""Blame names the line, the class and the iteration of planted faults, in eager and in jitted functions."""

import inspect

import jax
import jax.numpy as jnp
import pytest

import fnbackprop as fb
from fnbackprop.backprop import registry
from fnbackprop.tracing.blame import Kind
from fnbackprop.tracing.pipeline import trace

from . import cases, helpers, more_cases
from .helpers import line_of

BOTH = pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])


def traced(fun, jitted, *args, **options):
    return trace(jax.jit(fun) if jitted else fun, *args, **options)


@pytest.mark.parametrize("case", cases.CASES + more_cases.CASES, ids=lambda case: case.fun.__name__)
@BOTH
def test_planted_faults(case, jitted):
    blame = traced(case.fun, jitted, *case.args).blame()
    assert blame is not None
    found = blame.place.line, blame.kind, blame.primitive, blame.backward, blame.iteration
    assert found == (line_of(case.fun), case.kind, case.primitive, case.backward, case.iteration), blame.sentence
    if case.element is not None:
        assert blame.element == case.element
    assert blame.reaches or not case.backward
    if "# BEHIND" in inspect.getsource(case.fun):
        assert blame.behind is not None and blame.behind.line == line_of(case.fun, "BEHIND")


@BOTH
def test_a_helper_in_another_file(jitted):
    blame = traced(cases.in_a_helper, jitted, cases.X).blame()
    assert blame.place.file == helpers.__file__ and blame.place.line == line_of(helpers.normalized, "HELPER")
    assert blame.kind is Kind.POLE and "normalized" in blame.path[-1]


@BOTH
def test_a_users_backward(jitted):
    blame = traced(cases.custom_backward, jitted, cases.X).blame()
    assert blame.kind is Kind.WRONG_RULE and blame.place.text == "scaled = dy / (x - x)"


@BOTH
def test_a_users_jvp(jitted):
    blame = traced(more_cases.own_jvp, jitted, cases.X).blame()
    assert (blame.kind, blame.primitive, blame.element) == (Kind.INFINITE_DERIVATIVE, "div", (0,))
    assert blame.place.text.endswith("# the line that is to blame")


@BOTH
def test_data(jitted):
    batch = cases.X.at[2].set(jnp.nan)
    blame = traced(cases.nan_in_the_data, jitted, cases.X, batch).blame()
    assert blame.kind is Kind.INPUT and blame.place.function == "args[1]" and blame.element == (2,)
    assert blame.reaches == ("args[0]",) and blame.value


@BOTH
def test_a_parameter(jitted):
    blame = traced(lambda params: jnp.sum(jnp.sin(params["w"])), jitted, {"w": cases.X.at[1].set(jnp.inf)}).blame()
    assert (blame.kind, blame.primitive, blame.element) == (Kind.UNDEFINED, "sin", (1,))
    assert blame.behind.function == "w" and "made infinite by input, w" in blame.sentence
    blame = traced(lambda params: jnp.sum(params["w"]), jitted, {"w": cases.X.at[1].set(jnp.nan)}).blame()
    assert (blame.kind, blame.place.function, blame.element) == (Kind.INPUT, "w", (1,))
    assert blame.reaches == () and "reaches the value, no gradient" in blame.sentence


@pytest.fixture
def wrong_sine(monkeypatch):
    """A rule for sin of which the mathematics is right, but 0/0 at 0."""
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))

    @fb.derivative("sin")
    def sin_vjp(x):
        return jnp.cos(x) * x / x

    yield sin_vjp
    registry._generation += 1  # what was planned with it is forgotten


@BOTH
def test_a_wrong_rule(wrong_sine, jitted):
    def loss(x):
        return jnp.sum(jnp.sin(x))  # HERE

    blame = traced(loss, jitted, cases.X).blame()
    assert (blame.kind, blame.primitive, blame.place.line) == (Kind.WRONG_RULE, "sin", line_of(loss))
    assert blame.rule == "sin_vjp" and blame.element == (0,) and "fb.compare" in blame.remedy


@BOTH
def test_the_taken_branch(jitted):
    blame = traced(cases.branch, jitted, cases.X).blame()
    assert blame.path[-2:] == ("cond", "branch 1") and "branch 1" in blame.sentence


@BOTH
def test_a_mask_used_rightly(jitted):
    def attention(x):
        scores = jnp.where(jnp.tri(4, dtype=bool), jnp.outer(x, x), -jnp.inf)
        return jnp.sum(jax.nn.softmax(scores)[:, 0])

    found = traced(attention, jitted, cases.X)
    assert found.blame() is None and found.findings == ()


def test_the_sentence():
    blame = trace(cases.where_sqrt, cases.X).blame()
    assert blame.sentence.splitlines()[0] == (
        f"0·inf: a cotangent became NaN at sqrt by sqrt_vjp, cases.py:{line_of(cases.where_sqrt)}:11 (where_sqrt), "
        "element [0]"
    )
    assert "safe_select=True" in blame.sentence and "select_n" in blame.sentence
    assert trace(cases.where_sqrt, cases.X, safe_select=True).blame() is None


# ---------------------------------------------------------------- models of others


@BOTH
def test_an_equinox_model(jitted):
    import equinox as eqx

    model = eqx.nn.Linear(3, 1, key=jax.random.key(0))

    def loss(model, x):
        return jnp.sum(jnp.log(jax.vmap(model)(x) - 1e3))  # HERE

    blame = traced(loss, jitted, model, jnp.ones((4, 3))).blame()
    assert (blame.kind, blame.place.line, blame.element) == (Kind.POLE, line_of(loss), (0, 0)) and blame.value
    assert blame.place.library == "" and "called from" not in blame.sentence


@BOTH
def test_inside_an_equinox_layer(jitted):
    import equinox as eqx

    norm = eqx.nn.RMSNorm(3, eps=0.0, use_bias=False)

    def loss(norm, x):
        return jnp.sum(jax.vmap(norm)(x))  # HERE

    blame = traced(loss, jitted, norm, jnp.zeros((4, 3))).blame()
    assert (blame.kind, blame.place.library, blame.element) == (Kind.POLE, "equinox", (0,))
    assert blame.place.file.endswith("_normalisation.py") or "norm" in blame.place.file.lower()
    assert f"in equinox, called from test_blame.py:{line_of(loss)}:" in blame.sentence


@BOTH
def test_a_flax_model(jitted):
    from flax import nnx

    graph, params = nnx.split(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))

    def loss(params, x):
        return jnp.sum(jnp.sqrt(0 * nnx.merge(graph, params)(x)))  # HERE

    blame = traced(loss, jitted, params, jnp.ones((4, 3))).blame()
    assert (blame.kind, blame.place.line) == (Kind.INFINITE_DERIVATIVE, line_of(loss))
    assert blame.reaches == ("bias/value", "kernel/value")


@BOTH
def test_inside_a_flax_layer(jitted):
    from flax import nnx

    graph, params = nnx.split(nnx.LayerNorm(3, epsilon=0.0, rngs=nnx.Rngs(0)))

    def loss(params, x):
        return jnp.sum(nnx.merge(graph, params)(x))  # HERE

    # Compiled as one program the variance rounds otherwise, and is not zero: so it is seen equation by equation.
    blame = traced(loss, jitted, params, jnp.ones((4, 3)), detailed=True).blame()
    assert (blame.kind, blame.primitive, blame.place.library) == (Kind.POLE, "rsqrt", "flax")
    assert f"in flax, called from test_blame.py:{line_of(loss)}:" in blame.sentence
