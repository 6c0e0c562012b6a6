# %% [markdown]
# # The chain rule, one factor at a time
#
# | word | what it means |
# |---|---|
# | **forward pass** | computing the output from the input, one operation after the other |
# | **loss** | one number that says how far the output is from what was wanted |
# | **derivative** | how much an output moves when an input moves by a little, as a ratio |
# | **gradient** | the derivatives of the loss with respect to all parameters |
# | **chain rule** | the derivative of one thing after another is the product of their derivatives |
# | **cotangent** | of a value inside the program: the derivative of the loss with respect to it |
# | **backward pass** | computing cotangents from the loss back to the parameters |
# | **residual** | a value that the forward pass keeps because the backward pass will read it |
# | **weight update** | a small step of the parameters against the gradient |
# | **learning rate** | how small: the update is minus the learning rate times the gradient |
# | **convergence, divergence** | the loss settles at a low value; it grows from step to step |
#
#     python 1_chain_rule.py        # a few seconds; its last line:
#     loss 0.08095 -> 0.06294 by one update

# %%
import jax.numpy as jnp
from drawing import BLUE, GREEN, GREY, ORANGE, panels, save
from matplotlib.patches import FancyBboxPatch

import fnbackprop as fb

x, target = 0.5, 1.0


def loss(w1, w2=0.9):
    """A network with one input, one hidden unit and one output."""
    u = w1 * x
    h = jnp.tanh(u)
    y = w2 * h
    e = y - target
    return e**2 / 2


# %% [markdown]
# ## Forward
# Four small operations. We keep what each one gives.

# %%
w1, w2 = 1.6, 0.9
u = w1 * x
h = float(jnp.tanh(u))
y = w2 * h
e = y - target
print(f"u = {u:.4f}   h = {h:.4f}   y = {y:.4f}   e = {e:.4f}   loss = {e * e / 2:.4f}")

# %% [markdown]
# ## Backward
# Each operation has a derivative of its own, which knows nothing of the others. Their product is the derivative of the
# loss with respect to w1. Read from right to left, every partial product is a cotangent.

# %%
factors = {"du/dw1": x, "dh/du": 1 - h * h, "dy/dh": w2, "dloss/dy": e}
cotangents, running = {}, 1.0
for name in reversed(factors):
    running *= factors[name]
    cotangents[name.split("/d")[1]] = running
for name, value in factors.items():
    print(f"{name:<9} = {value:8.4f}")
print("product   =", " * ".join(f"{f:.4f}" for f in factors.values()), f"= {running:.6f}")

# %% [markdown]
# ## The same by fnbackprop, and by moving w1
# `fb.chain_rule` prints the factors of any program of numbers, `fb.grad` gives the product. And if the derivative is
# right, then moving w1 by 0.001 moves the loss by 0.001 times as much.

# %%
print(fb.chain_rule(loss, w1))
gradient = float(fb.grad(loss)(w1))
moved = (float(loss(w1 + 1e-3)) - float(loss(w1 - 1e-3))) / 2e-3
print(f"by hand {running:.5f}   fb.grad {gradient:.5f}   by moving w1 {moved:.5f}")
assert abs(gradient - running) < 1e-6 and abs(moved - running) < 1e-4

# %% [markdown]
# ## A value that is used twice
# Then there are several paths back to it: each gives a product, and the products add up.

# %%
print(fb.chain_rule(lambda w: (w * x) * (w + 1.0), w1))

# %% [markdown]
# ## One weight update
# The gradient is negative: a larger w1 gives a smaller loss. The update goes against the gradient.

# %%
learning_rate = 2.0
after = w1 - learning_rate * gradient
print(f"w1 = {w1} - {learning_rate} * ({gradient:.4f}) = {after:.4f}")

# %% [markdown]
# ## The picture
# Values go to the right, cotangents come back to the left, each multiplied by the derivative on its arrow.

# %%
figure, axes = panels(1, width=8.4, height=2.3)
axes.set(xlim=(-0.6, 8.6), ylim=(-1.35, 1.3))
axes.axis("off")
nodes = [("w1", w1, cotangents["w1"]), ("u", u, cotangents["u"]), ("h", h, cotangents["h"]), ("y", y, cotangents["y"])]
nodes.append(("loss", e * e / 2, 1.0))
labels = ["· x", "tanh", "· w2", "(y - 1)²/2"]
for i, (name, value, cotangent) in enumerate(nodes):
    axes.add_patch(FancyBboxPatch((2 * i - 0.42, -0.22), 0.84, 0.44, boxstyle="round,pad=0.06", fc="white", ec=GREY))
    axes.text(2 * i, 0, name, ha="center", va="center", fontsize=11, weight="bold")
    axes.text(2 * i, 0.62, f"{value:.3f}", ha="center", color=BLUE)
    axes.text(2 * i, -0.82, f"{cotangent:.3f}", ha="center", color=ORANGE)
for i, (label, factor) in enumerate(zip(labels, factors.values(), strict=True)):
    axes.annotate("", (2 * i + 1.48, 0.12), (2 * i + 0.52, 0.12), arrowprops={"arrowstyle": "->", "color": BLUE})
    axes.annotate("", (2 * i + 0.52, -0.12), (2 * i + 1.48, -0.12), arrowprops={"arrowstyle": "->", "color": ORANGE})
    axes.text(2 * i + 1, 0.24, label, ha="center", color=BLUE, fontsize=8)
    axes.text(2 * i + 1, -0.42, f"× {factor:.3f}", ha="center", color=GREEN)
axes.text(-0.5, 1.1, "forward: values", color=BLUE)
axes.text(-0.5, -1.28, "backward: cotangents, each the one to its right", color=ORANGE)
axes.text(2.92, -1.28, "times the local derivative", color=GREEN)
save(figure, "chain_rule")

# %%
print(f"loss {loss(w1):.5f} -> {loss(after):.5f} by one update")
