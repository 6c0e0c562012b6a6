# %% [markdown]
# # Check a kernel
#
# An RMS norm as a Pallas kernel, with a backward written by hand, as one writes them for speed. Its backward has the
# mistake that everyone makes once: it forgets that the norm depends on x too. `fb.compare` holds it against the kernel
# itself (by differences) and names the line. It needs no derivative of the kernel, and no accelerator: Pallas
# interprets it here.
#
#     python 5_check_a_kernel.py    # half a minute; its last line:
#     forgetful: FAIL at 5_check_a_kernel.py, mended: PASS

# %%
import jax
import jax.numpy as jnp
import numpy as np
from drawing import GREEN, GREY, RED, panels, save
from jax.experimental import pallas as pl

import fnbackprop as fb

# %% [markdown]
# ## The kernel: y = x / sqrt(mean(x²) + ε), a row at a time


# %%
def rms_kernel(x_ref, y_ref):
    x = x_ref[...]
    y_ref[...] = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)


def rms(x):
    return pl.pallas_call(rms_kernel, out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype), interpret=True)(x)


# %% [markdown]
# ## Two backwards
# With r = rsqrt(mean(x²) + ε): dx = r · dy is what is left if r is taken for a constant. The right one is
# dx = r · (dy - y · mean(dy · y)).


# %%
def with_backward(backward):
    rms_norm = jax.custom_vjp(rms)
    rms_norm.defvjp(lambda x: (rms(x), x), backward)
    return rms_norm


def forgetful(x, dy):
    r = jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)
    return (r * dy,)


def mended(x, dy):
    r = jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)
    y = x * r
    return (r * (dy - y * jnp.mean(dy * y, axis=-1, keepdims=True)),)


# %% [markdown]
# ## Compare
# In a test suite this is one line, `fb.testing.assert_gradients_match(rms_norm, x)`; on the shell it is
# `fnbackprop compare my_kernels:rms_norm --args f32[4,16]`.

# %%
x = jax.random.normal(jax.random.key(0), (4, 16))
found = {}
for backward in (forgetful, mended):
    rms_norm = with_backward(backward)

    def loss(x, rms_norm=rms_norm):
        return jnp.sum(jnp.sin(rms_norm(x)))

    found[backward.__name__] = fb.compare(loss, x, progress=False)
print(found["forgetful"])
print(found["mended"].verdict)

# %% [markdown]
# ## The picture
# The gradient of the loss, element by element, beside differences of the kernel: the forgetful one is off everywhere.


# %%
def differences(fun, x, h=1e-2):
    steps = h * jnp.eye(x.size).reshape(x.size, *x.shape)
    return np.array([(fun(x + step) - fun(x - step)) / (2 * h) for step in steps])


figure, axes = panels(2, width=8.0, height=3.0)
for panel, (backward, colour) in zip(axes, ((forgetful, RED), (mended, GREEN)), strict=True):
    rms_norm = with_backward(backward)
    ours = np.asarray(fb.grad(lambda x, f=rms_norm: jnp.sum(jnp.sin(f(x))))(x)).ravel()
    truth = differences(jax.jit(lambda x: jnp.sum(jnp.sin(rms(x)))), x)
    low, high = min(truth.min(), ours.min()), max(truth.max(), ours.max())
    panel.plot([low, high], [low, high], color=GREY, linewidth=0.8)
    panel.scatter(truth, ours, s=12, color=colour)
    panel.set(
        title=f"{backward.__name__}: {found[backward.__name__].verdict}", xlabel="slope of the kernel, by differences"
    )
axes[0].set_ylabel("gradient by the backward")
save(figure, "check_a_kernel")

# %%
first = found["forgetful"].equations[0]
assert not found["forgetful"].ok and found["mended"].ok
print(f"forgetful: {found['forgetful'].verdict} at {first.where.split('/')[-1].split(':')[0]}, mended: PASS")
