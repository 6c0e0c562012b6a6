# %% [markdown]
# # Write a rule
#
# A rule is the backward of one primitive, in a few lines. First an elementwise primitive, of which only the derivative
# is written; then one with two operands; then a *structured* one, of a primitive that holds a program of its own.
#
#     python 8_write_a_rule.py      # ten seconds; its last line:
#     three rules: PASS PASS PASS

# %%
import jax
import jax.numpy as jnp
import numpy as np
from drawing import BLUE, GREY, ORANGE, panels, save
from jax.extend.core import Primitive
from jax.interpreters import mlir

import fnbackprop as fb
from fnbackprop.backprop.registry import Structured, structured_rule


def primitive(name, run, shape_of):
    """A primitive of one output that JAX can evaluate, trace and compile."""
    made = Primitive(name)
    made.def_impl(run)
    made.def_abstract_eval(shape_of)
    mlir.register_lowering(made, mlir.lower_fun(run, multiple_results=False))
    return made


# %% [markdown]
# ## An elementwise primitive
# softsign: y = x / (1 + |x|). Its derivative can be written with the output alone, (1 - |y|)², so that the input need
# not be kept. What a rule's parameters are called says what it reads: `y` is the output.

# %%
softsign = primitive("softsign", lambda x: x / (1 + jnp.abs(x)), lambda x: x)


@fb.derivative(softsign)
def softsign_vjp(y):
    return (1 - jnp.abs(y)) ** 2


print(fb.residuals(lambda x: softsign.bind(x), jnp.ones(1000)))

# %% [markdown]
# ## Two operands
# The product of a matrix and a vector: dx and dw from the cotangent dy, in one rule.

# %%
weighted = primitive("weighted", lambda w, x: w @ x, lambda w, x: x.update(shape=w.shape[:1]))


@fb.vjp_rule(weighted, "w, x -> y")
def weighted_vjp(dy, w, x):
    return jnp.outer(dy, x), w.T @ dy


# %% [markdown]
# ## A structured rule
# A primitive that applies a program `n` times holds that program as a parameter. Its rule hands the program to the
# engine: once for the plan (what is saved, which rules are called), then forward and backward. (`lax.scan` does this
# for you; `fnbackprop/rules/calls/call.py` explains each step.)

# %%
program = jax.make_jaxpr(lambda x: jnp.sin(2 * softsign.bind(x)))(1.0)


def applied(x, *, closed, n):
    for _ in range(n):
        (x,) = jax.core.eval_jaxpr(closed.jaxpr, closed.consts, x)
    return x


repeat = primitive("repeat_program", applied, lambda x, *, closed, n: x)


@structured_rule(repeat)
def repeat_vjp(engine, equation, active, wanted):
    closed, n = equation.params["closed"], equation.params["n"]
    plan = engine.plan(closed, active, wanted)

    def forward(x):
        residuals = []
        for _ in range(n):
            (x,), saved = engine.forward(plan, [x])
            residuals.append(saved)
        return [x], residuals

    def backward(residuals, cotangents):
        for saved in reversed(residuals):  # the last application first
            cotangents = engine.backward(plan, saved, cotangents)
        return cotangents

    return Structured(forward, backward, plan.has_cotangent)


# %% [markdown]
# ## Compare
# Against differences, for JAX knows no derivative of these primitives.

# %%
x, w = jnp.array([0.3, -1.2, 2.0]), jnp.arange(6.0).reshape(2, 3) / 4
functions = {
    "softsign": (lambda x: jnp.sum(softsign.bind(x)), (x,)),
    "weighted": (lambda w, x: jnp.sum(jnp.sin(weighted.bind(w, x))), (w, x)),
    "repeat": (lambda x: repeat.bind(x, closed=program, n=5), (0.7,)),
}
verdicts = {}
for name, (function, args) in functions.items():
    found = fb.compare(function, *args, argnums=tuple(range(len(args))), progress=False)
    verdicts[name] = found.verdict
    print(f"{name:<9} {found.verdict}")

# %% [markdown]
# ## The picture
# Each function of one number and its derivative: the rule's (line) and differences (dots).

# %%
figure, axes = panels(2, width=8.0, height=2.8)
xs, dots = np.linspace(-3, 3, 200), np.linspace(-2.9, 2.9, 24)
shown = {"softsign": softsign.bind, "sin(2 softsign(x)), twice": lambda x: repeat.bind(x, closed=program, n=2)}
for panel, (title, function) in zip(axes, shown.items(), strict=True):
    value, slope = (lambda x, f=f: np.asarray(jax.lax.map(f, jnp.asarray(x))) for f in (function, fb.grad(function)))
    panel.plot(xs, value(xs), color=GREY, label="y")
    panel.plot(xs, slope(xs), color=BLUE, label="dy/dx by the rule")
    panel.plot(dots, (value(dots + 1e-2) - value(dots - 1e-2)) / 2e-2, ".", color=ORANGE, label="by differences")
    panel.set(title=title, xlabel="x")
axes[0].legend(fontsize=7)
save(figure, "write_a_rule")

# %%
print("three rules:", *verdicts.values())
