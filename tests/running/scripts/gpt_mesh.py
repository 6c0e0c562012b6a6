"""A character GPT in plain JAX: scanned layers, parameters and batch sharded over a mesh of four devices."""

import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"

import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

TEXT = "the quick brown fox jumps over the lazy dog. " * 12
VOCAB = sorted(set(TEXT))
L, D, H, T, B = 2, 32, 4, 16, 8

mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
SPECS = {
    "embed": P(None, "model"),
    "layers": {"qkv": P(None, None, "model"), "proj": P(None, "model", None), "up": P(None, None, "model"),
               "down": P(None, "model", None), "ln": P(None, None)},
}  # fmt: skip


def init(key):
    ks = jax.random.split(key, 5)
    normal = lambda k, *shape: 0.1 * jax.random.normal(k, shape)  # noqa: E731
    layers = {
        "qkv": normal(ks[1], L, D, 3 * D),
        "proj": normal(ks[2], L, D, D),
        "up": normal(ks[3], L, D, 4 * D),
        "down": normal(ks[4], L, 4 * D, D),
        "ln": jnp.ones((L, D)),
    }
    return {"embed": normal(ks[0], len(VOCAB), D), "layers": layers}


def norm(x, scale):
    return scale * x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-5)


def layer(x, p):
    b, t, d = x.shape
    q, k, v = jnp.split((norm(x, p["ln"]) @ p["qkv"]).reshape(b, t, H, 3 * d // H), 3, axis=-1)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / (d // H) ** 0.5
    scores = jnp.where(jnp.tril(jnp.ones((t, t), bool)), scores, -1e9)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v).reshape(b, t, d)
    x = x + mixed @ p["proj"]
    x = jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P("data", None, None)))
    return x + jax.nn.gelu(norm(x, p["ln"]) @ p["up"]) @ p["down"], None


def loss_fn(params, tokens):
    x = params["embed"][tokens[:, :-1]]
    x, _ = jax.lax.scan(jax.checkpoint(layer), x, params["layers"])
    logp = jax.nn.log_softmax(x @ params["embed"].T)
    return -jnp.mean(jnp.take_along_axis(logp, tokens[:, 1:, None], axis=-1))


@functools.partial(jax.jit, donate_argnums=0)
def train_step(params, tokens):
    loss, grads = jax.value_and_grad(loss_fn)(params, tokens)
    return jax.tree.map(lambda p, g: p - 0.5 * g, params, grads), loss


shardings = jax.tree.map(lambda s: NamedSharding(mesh, s), SPECS, is_leaf=lambda s: isinstance(s, P))
params = jax.device_put(init(jax.random.key(0)), shardings)
data = jnp.array([VOCAB.index(c) for c in TEXT])
for step in range(20):
    starts = jax.random.randint(jax.random.key(step), (B, 1), 0, len(TEXT) - T - 1)
    batch = jax.device_put(data[starts + jnp.arange(T + 1)], NamedSharding(mesh, P("data", None)))
    params, loss = train_step(params, batch)
    if step % 5 == 4:
        print(f"step {step + 1:3d} | loss {loss:.4f} | {params['layers']['qkv'].sharding.spec}")
