# %% [markdown]
# # Train, kill, resume, on a mesh
#
# An `Experiment` is a few pure functions, and all that happens in a run is a function of (seed, step). So a run that
# breaks off and is resumed ends with the same numbers, bit for bit, as one that does not; and a run on several devices
# ends with the same, up to rounding.
#
#     python 9_train_kill_resume.py # ten seconds; its last line:
#     resumed: the same to the last bit; on 2 devices: within 1e-4

# %%
import os
import tempfile

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")  # before JAX starts: play two devices

import jax
import jax.numpy as jnp
import numpy as np
import optax
from drawing import BLUE, GREY, ORANGE, panels, save

import fnbackprop as fb
from fnbackprop import losses, models

STEPS, BREAKS_AT = 80, 50


# %% [markdown]
# ## The experiment
# `batch(step)` depends on the step alone: that is why a resumed run sees the same data.


# %%
def draw(step, size=64):
    random = np.random.default_rng(step)
    x = random.uniform(-2, 2, size=(size, 1)).astype(np.float32)
    return {"x": x, "y": np.sin(3 * x) + 0.05 * random.normal(size=x.shape).astype(np.float32)}


def loss(params, batch, key):
    return losses.mean_squared_error(models.mlp.apply(params, batch["x"], activation=jnp.tanh), batch["y"])


def experiment(name, batch=draw):
    return fb.Experiment(
        name=name,
        init=lambda key: models.mlp.init(key, inputs=1, hidden=(32, 32), outputs=1),
        loss=loss,
        batch=batch,
        optimizer=optax.adam(1e-2),
        steps=STEPS,
    )


def curve(name):
    rows = [row for row in fb.read_metrics(f"{runs}/{name}") if "loss" in row]
    return np.array([row["step"] for row in rows]), np.array([row["loss"] for row in rows])


runs = tempfile.mkdtemp()
settings = {"directory": runs, "progress": False, "checkpoint_every": 20}

# %% [markdown]
# ## Undisturbed

# %%
whole = fb.train(experiment("whole"), **settings)

# %% [markdown]
# ## Killed, and resumed
# The data breaks off at step 50. (A kill from outside loses the steps since the last checkpoint, no more.)

# %%
power = {"on": True}


def breaking(step):
    if step >= BREAKS_AT and power["on"]:
        raise OSError("the power is off")
    return draw(step)


try:
    fb.train(experiment("killed", breaking), **settings)
except OSError as error:
    print(f"killed: {error}")
_, before = curve("killed")
power["on"] = False
resumed = fb.train(experiment("killed", breaking), resume=True, **settings)
same = all(map(np.array_equal, jax.tree.leaves(whole.params), jax.tree.leaves(resumed.params)))
print(f"{len(before)} steps before, {int(resumed.step)} in all; parameters the same to the last bit: {same}")

# %% [markdown]
# ## On a mesh
# `mesh="data=2"` splits each batch over two devices; parameters lie on both. `sharding="fsdp"` would split them too.
# Sums over the batch are in another order, so that the last bits differ.

# %%
on_two = fb.train(experiment("mesh"), mesh="data=2", directory=None, progress=False)
pairs = zip(jax.tree.leaves(whole.params), jax.tree.leaves(on_two.params), strict=True)
apart = max(float(np.abs(np.asarray(one) - np.asarray(two)).max()) for one, two in pairs)
print(f"largest difference of a parameter on two devices: {apart:.1e}")

# %% [markdown]
# ## The picture

# %%
steps, undisturbed = curve("whole")
figure, axes = panels(1, width=6.4, height=3.0)
axes.plot(steps, undisturbed, color=GREY, linewidth=5, alpha=0.4, label="undisturbed")
axes.plot(steps[: len(before)], before, color=BLUE, label=f"until it was killed at {BREAKS_AT}")
after_steps, after = curve("killed")
axes.plot(after_steps[len(before) - 1 :], after[len(before) - 1 :], color=ORANGE, label="resumed")
axes.axvline(BREAKS_AT, color="black", linewidth=0.7, linestyle=":")
axes.set(xlabel="step", ylabel="loss", yscale="log")
axes.legend()
save(figure, "train_kill_resume")

# %%
assert same and apart < 1e-4
print("resumed: the same to the last bit; on 2 devices: within 1e-4")
