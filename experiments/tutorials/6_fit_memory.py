# %% [markdown]
# # Fit into memory
#
# The backward pass reads values that the forward pass has computed. Keeping them all (residuals) takes memory, and
# computing them again takes time. For each `scan`, fnbackprop keeps the set of values that costs the fewest bytes (a
# minimum cut of the graph) and computes the rest again. `budget=` goes further: a number of bytes, or a part of all
# that could be kept.
#
#     python 6_fit_memory.py        # half a minute; its last line:
#     with an eighth of the memory of jax.grad: fits
#
# On the shell: `fnbackprop memory my_module:loss --args ... --fit 1MiB`.

# %%
import time

import jax
import jax.numpy as jnp
from drawing import BLUE, GREY, ORANGE, panels, save

import fnbackprop as fb

# %% [markdown]
# ## A deep network
# 32 gated layers, as in a language model without attention: one `scan` over their stacked parameters.


# %%
def loss(params, x):
    def layer(h, w):
        n = h * jax.lax.rsqrt(jnp.mean(h * h, axis=-1, keepdims=True) + 1e-6)
        return h + (jax.nn.silu(n @ w["gate"]) * (n @ w["up"])) @ w["down"], None

    h, _ = jax.lax.scan(layer, x, params)
    return jnp.mean(h**2)


keys = jax.random.split(jax.random.key(0), 4)
shapes = {"gate": (32, 64, 128), "up": (32, 64, 128), "down": (32, 128, 64)}
params = {name: jax.random.normal(key, shape) / 11 for key, (name, shape) in zip(keys, shapes.items(), strict=False)}
x = jax.random.normal(keys[3], (256, 64))

# %% [markdown]
# ## Residuals: what is kept, by line
# Nothing runs: this is known from the program alone.

# %%
print(fb.residuals(loss, params, x))


# %% [markdown]
# ## Budgets: what they cost and bring
# The memory is that of the compiled gradient, beside parameters and results; the time, the shortest of some runs.


# %%
def memory_and_time(differentiate, **options):
    program = jax.jit(differentiate(loss, **options)).lower(params, x).compile()
    jax.block_until_ready(program(params, x))
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        jax.block_until_ready(program(params, x))
        seconds.append(time.perf_counter() - start)
    return program.memory_analysis().temp_size_in_bytes / 2**20, 1e3 * min(seconds)


by_jax = memory_and_time(jax.value_and_grad)
budgets = (None, 0.3, 0.2, 0.06)
ours = {budget: memory_and_time(fb.value_and_grad, budget=budget) for budget in budgets}
print(f"{'':<14} {'MiB':>6} {'ms':>6}")
for name, (memory, milliseconds) in {"jax.grad": by_jax, **ours}.items():
    print(f"{name if name == 'jax.grad' else f'budget={name}':<14} {memory:6.2f} {milliseconds:6.1f}")

# %% [markdown]
# ## The other way round: the budget that fits

# %%
limit = int(by_jax[0] * 2**20 / 8)
budget = fb.fit_budget(loss, params, x, memory=limit)
fitted = memory_and_time(fb.value_and_grad, budget=budget)
print(f"fit_budget(memory={limit / 2**20:.2f} MiB) -> {budget:,.0f} bytes, and the program takes {fitted[0]:.2f} MiB")

# %% [markdown]
# ## The picture
# Memory against time: to the left is better, and below. Smaller budgets go to the left, and far left, up.

# %%
figure, axes = panels(1, width=6.0, height=3.2)
axes.plot(*zip(*ours.values(), strict=True), "o-", color=BLUE, label="fnbackprop")
leader = {"arrowstyle": "-", "color": BLUE, "linewidth": 0.6, "relpos": (0, 0.2), "shrinkA": 0}
for i, (budget, point) in enumerate(sorted(ours.items(), key=lambda pair: pair[1])):
    label = " no budget" if budget is None else f" budget={budget:g}"
    place = {"xytext": (point[0], 0.95 - 0.08 * i), "textcoords": ("data", "axes fraction")}  # above all points
    axes.annotate(label, point, **place, color=BLUE, fontsize=8, va="center", arrowprops=leader)
axes.plot(*by_jax, "s", color=GREY, label="jax.grad")
axes.plot(*fitted, "*", color=ORANGE, markersize=12, label=f"fit_budget({limit / 2**20:.1f} MiB)")
axes.set(xlabel="temporary memory in MiB", ylabel="time in ms", title="budget= : memory against time (2 CPU cores)")
axes.set(xlim=(0, None), ylim=(0, 1.6 * max(time for _, time in [by_jax, fitted, *ours.values()])))
axes.legend(loc="lower right")
save(figure, "fit_memory")

# %%
print("with an eighth of the memory of jax.grad:", "fits" if fitted[0] * 2**20 <= limit else "does not fit")
