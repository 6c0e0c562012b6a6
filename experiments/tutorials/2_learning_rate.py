# %% [markdown]
# # The learning rate and the gradient
#
# The gradient says in which direction the loss falls, and how steeply. It does not say how far. A step of minus the
# learning rate times the gradient is too small (slow), fine (it converges), too large (it oscillates), or far too large
# (it diverges). Which of these it is depends on one number: the learning rate times the *curvature*, which says how
# fast the slope itself changes. At 2 / curvature, the **critical rate**, a step ends as high on the other side.
#
#     python 2_learning_rate.py     # ten seconds; its last line:
#     rates over the critical one: 0.05 slow, 0.50 converging, 0.95 oscillating, 1.05 diverging

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax
from drawing import BLUE, GREEN, ORANGE, RED, panels, save
from matplotlib.ticker import NullFormatter

import fnbackprop as fb

FRACTIONS = {"slow": (0.05, BLUE), "converging": (0.5, GREEN), "oscillating": (0.95, ORANGE), "diverging": (1.05, RED)}

# %% [markdown]
# ## One parabola
# `loss = curvature · w² / 2` has the gradient `curvature · w`. One update multiplies w by `1 - rate · curvature`: by
# something near 1 (slow), by 0 at best, by something near -1 (it jumps from side to side), or by less than -1.

# %%
CURVATURE = 3.0


def parabola(w):
    return CURVATURE * w**2 / 2


def path(rate, steps=12, w=1.0):
    """The parameter after each step."""
    visited = [w]
    for _ in range(steps):
        w -= rate * float(fb.grad(parabola)(w))
        visited.append(w)
    return np.array(visited)


critical = 2 / float(fb.hessian(parabola)(1.0))
paths = {name: path(fraction * critical) for name, (fraction, _) in FRACTIONS.items()}
for name, visited in paths.items():
    print(f"{name:<12} w = {'  '.join(f'{w:+.2f}' for w in visited[:6])} ...")

# %% [markdown]
# ## A network
# Seven hidden units that learn a sine. It has as many curvatures as parameters; the largest decides. We measure it
# where the network has learned for a while, and start beside that place, a small step along its direction.

# %%
x = jnp.linspace(-2, 2, 40)[:, None]
y = jnp.sin(2 * x)


def network_loss(params, batch=None, key=None):
    w1, b1, w2 = params
    return jnp.mean((jnp.tanh(x * w1 + b1) @ w2 - y) ** 2)


def init(key):
    one, two, three = jax.random.split(key, 3)
    shapes = ((one, (1, 7)), (two, (1, 7)), (three, (7, 1)))
    return tuple(jax.random.normal(key, shape) for key, shape in shapes)


def train(params, rate, steps):
    """The losses of so many updates, and the parameters after them."""

    @jax.jit
    def update(params):
        value, gradient = fb.value_and_grad(network_loss)(params)
        return value, jax.tree.map(lambda w, g: w - rate * g, params, gradient)

    losses = []
    for _ in range(steps):
        value, params = update(params)
        losses.append(float(value))
    return np.array(losses), params


_, start = train(init(jax.random.key(3)), rate=0.02, steps=200)
flat, unflatten = jax.flatten_util.ravel_pytree(start)
curvatures, directions = jnp.linalg.eigh(jax.jit(fb.hessian(lambda flat: network_loss(unflatten(flat))))(flat))
start = unflatten(flat + 0.03 * directions[:, -1])
critical_of_network = 2 / float(curvatures[-1])
network_fractions = dict(zip(FRACTIONS, (0.05, 0.5, 1.5, 3.0), strict=True))
runs = {name: train(start, fraction * critical_of_network, 60)[0] for name, fraction in network_fractions.items()}
print(f"largest curvature {curvatures[-1]:.2f}: the critical rate is {critical_of_network:.3f}")

# %% [markdown]
# ## Asking for the verdict
# `fb.balance` measures the same on any experiment: the critical rate with the optimizer's own response, and what other
# rates lead to in the next 50 steps.


# %%
def balance_at(fraction):
    experiment = fb.Experiment(
        name="sine",
        init=lambda key: start,
        loss=network_loss,
        batch=lambda step: jnp.zeros(()),
        optimizer=optax.sgd(fraction * critical_of_network),
        steps=200,
    )
    return fb.balance(experiment, check=False, range_test=False, progress=False)


found = balance_at(0.05)
print(f"slow: {found.verdict}, {found.facts.ratio.value:.2f} of the critical rate")

# %% [markdown]
# ## The picture
# Below, the network. A little above the critical rate the loss rises at first, until the parameters have moved to a
# place where the curvature is smaller, and comes down there. A parabola has no such place; far above, a network finds
# none.

# %%
figure, axes = panels(4, rows=2, width=9.0, height=4.5)
line = np.linspace(-1.35, 1.35, 100)
for column, (name, (fraction, colour)) in enumerate(FRACTIONS.items()):
    top, bottom = axes[0, column], axes[1, column]
    top.plot(line, parabola(line), color="#bbbbbb")
    shown = paths[name][np.abs(paths[name]) < 1.35]
    top.plot(shown, parabola(shown), "o-", color=colour, markersize=3, linewidth=0.9)
    top.set(title=f"{name}\n{fraction:g} × critical rate", xlabel="w", ylim=(-0.2, 2.9), xlim=(-1.4, 1.4))
    bottom.plot(runs[name], color=colour)
    bottom.axhline(runs[name][0], color="#bbbbbb", linewidth=0.8, linestyle=":")  # the first loss
    bottom.set(title=f"{network_fractions[name]:g} × critical rate", xlabel="step", yscale="log")
    bottom.set(xlim=(-2, 61), ylim=(1e-2, 1e2))
    bottom.yaxis.set_minor_formatter(NullFormatter())
axes[0, 0].set_ylabel("a parabola's loss")
axes[1, 0].set_ylabel("a network's loss")
save(figure, "learning_rate")

# %%
assert abs(paths["slow"][-1]) > 0.1 and abs(paths["converging"][-1]) < 1e-6
assert abs(paths["diverging"][-1]) > abs(paths["oscillating"][-1])
assert "TOO LOW" in found.verdict and not np.isfinite(runs["diverging"][-1])
assert max(runs["oscillating"]) > 10 * runs["oscillating"][0] > 10 * runs["oscillating"][-1]
print("rates over the critical one:", ", ".join(f"{fraction:.2f} {name}" for name, (fraction, _) in FRACTIONS.items()))
