# %% [markdown]
# # Your script, our backward
#
# A training loop of Flax NNX and one of Equinox, as their authors write them. Nothing in them changes: inside
# `with fb.drop_in():` their `nnx.value_and_grad` and `eqx.filter_value_and_grad` differentiate by hand-written rules.
# To go back, take the `with` away. On the shell it is `fnbackprop run train.py` instead of `python train.py`.
#
#     python 4_your_script.py       # ten seconds; its last line:
#     NNX and Equinox: the losses of 60 steps differ by less than 1e-5

# %%
import contextlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from drawing import BLUE, GREY, ORANGE, panels, save
from flax import nnx

import fnbackprop as fb

x = jnp.linspace(-1, 1, 64)[:, None]
y = jnp.sin(4 * x)
STEPS = 60

# %% [markdown]
# ## Flax NNX


# %%
class Model(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(1, 32, rngs=rngs)
        self.norm = nnx.LayerNorm(32, rngs=rngs)
        self.out = nnx.Linear(32, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.gelu(self.norm(self.hidden(x))))


def train_nnx(steps):
    model = Model(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        loss, gradient = nnx.value_and_grad(lambda model: jnp.mean((model(x) - y) ** 2))(model)
        optimizer.update(model, gradient)
        return loss

    return [float(step(model, optimizer)) for _ in range(steps)]


# %% [markdown]
# ## Equinox


# %%
def train_equinox(steps):
    model = eqx.nn.MLP(1, 1, width_size=32, depth=2, activation=jax.nn.gelu, key=jax.random.key(0))
    optimizer = optax.adam(1e-2)

    @eqx.filter_jit
    def step(model, state):
        loss, gradient = eqx.filter_value_and_grad(lambda model: jnp.mean((jax.vmap(model)(x) - y) ** 2))(model)
        updates, state = optimizer.update(gradient, state)
        return eqx.apply_updates(model, updates), state, loss

    state, losses = optimizer.init(eqx.filter(model, eqx.is_array)), []
    for _ in range(steps):
        model, state, loss = step(model, state)
        losses.append(float(loss))
    return losses


# %% [markdown]
# ## Twice: by JAX, and by hand-written rules

# %%
curves = {}
for name, train in {"Flax NNX": train_nnx, "Equinox": train_equinox}.items():
    for backward, context in {"jax.grad": contextlib.nullcontext(), "fnbackprop": fb.drop_in()}.items():
        with context:
            curves[name, backward] = np.array(train(STEPS))
    print(f"{name:<9} last loss {curves[name, 'jax.grad'][-1]:.6f} and {curves[name, 'fnbackprop'][-1]:.6f}")

# %% [markdown]
# ## The picture
# Two curves each, one on the other.

# %%
figure, axes = panels(2, width=8.0, height=2.7)
for panel, name in zip(axes, ("Flax NNX", "Equinox"), strict=True):
    panel.plot(curves[name, "jax.grad"], color=GREY, linewidth=4, alpha=0.5, label="jax.grad")
    panel.plot(curves[name, "fnbackprop"], color=BLUE if name == "Equinox" else ORANGE, label="fnbackprop")
    panel.set(title=name, xlabel="step", yscale="log")
    panel.legend()
axes[0].set_ylabel("loss")
save(figure, "your_script")

# %%
apart = max(np.abs(curves[name, "jax.grad"] - curves[name, "fnbackprop"]).max() for name in ("Flax NNX", "Equinox"))
assert apart < 1e-5
print(f"NNX and Equinox: the losses of {STEPS} steps differ by less than 1e-5")
