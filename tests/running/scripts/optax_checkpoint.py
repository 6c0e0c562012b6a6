"""A residual MLP with jax.checkpoint on each block, in a custom loop with optax: clipping, warm-up, weight decay."""

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import optax

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=30)
parser.add_argument("--width", type=int, default=32)
args = parser.parse_args()


def init(key, depth, width):
    keys = jax.random.split(key, depth + 2)
    blocks = [
        {
            "w1": jax.random.normal(k, (width, width)) / width**0.5,
            "w2": jnp.zeros((width, width)),
            "scale": jnp.ones(width),
        }
        for k in keys[:depth]
    ]
    inputs = jax.random.normal(keys[-2], (4, width)) / 2
    return {"in": inputs, "blocks": blocks, "out": jax.random.normal(keys[-1], (width, 1)) / width**0.5}


@partial(jax.checkpoint, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable)
def block(params, x):
    h = x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6) * params["scale"]
    return x + jax.nn.gelu(h @ params["w1"]) @ params["w2"]


def forward(params, x):
    x = x @ params["in"]
    for p in params["blocks"]:
        x = block(p, x)
    return (x @ params["out"])[..., 0]


def loss_fn(params, batch):
    x, y = batch
    return optax.huber_loss(forward(params, x), y).mean()


schedule = optax.warmup_cosine_decay_schedule(0.0, 1e-2, 5, args.steps)
optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=1e-3))


@partial(jax.jit, donate_argnums=(0, 1))
def update(params, opt_state, batch):
    loss, grads = jax.value_and_grad(loss_fn)(params, batch)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss, optax.global_norm(grads)


key = jax.random.PRNGKey(0)
params = init(key, depth=3, width=args.width)
opt_state = optimizer.init(params)
x = jax.random.normal(jax.random.PRNGKey(1), (128, 4))
y = jnp.sin(x[:, 0]) * x[:, 1] + x[:, 2]
for step in range(args.steps):
    params, opt_state, loss, norm = update(params, opt_state, (x, y))
    if step % 10 == 0:
        print(f"{step:4d} loss {loss:.4f} |g| {norm:.3f}")
sensitivity = jax.vmap(jax.grad(forward, argnums=1), in_axes=(None, 0))(params, x[:4])
print("sensitivity", jnp.abs(sensitivity).mean(axis=0).round(3))
print(f"final {loss_fn(params, (x, y)):.4f}")
