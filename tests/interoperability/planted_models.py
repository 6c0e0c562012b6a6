"""Models, layers and losses with a rule of their author's, right or wrong: see `planted.py`."""

from typing import Any

import jax
import jax.numpy as jnp

from ..comparing.nasty_cases import custom, normal
from .planted import program


@program("flax.linen", "wrong sign")
def linen(right):
    """The gradient of a layer's input is reversed, by `nn.custom_vjp`."""
    from flax import linen as nn

    def apply(layer, x):
        return layer(x)

    def forward(layer, x):
        return nn.vjp(apply, layer, x)

    def backward(pullback, dy):
        dparams, dx = pullback(dy)
        return dparams, dx if right else -dx

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            hidden = jnp.tanh(nn.Dense(4)(x))
            hidden = nn.custom_vjp(apply, forward, backward)(nn.Dense(4), hidden)  # HERE
            return nn.Dense(2)(hidden)

    network, x = Network(), normal(5, 3)
    variables = network.init(jax.random.key(0), x)
    return lambda variables, x: jnp.mean(network.apply(variables, x) ** 2), (variables, x), backward


@program("flax.nnx", "missing factor")
def nnx(right):
    """A module with a rule by `nnx.custom_vjp`, split into its graph and its parameters."""
    from flax import nnx

    @nnx.custom_vjp
    def square(x, scale):
        return scale * x * x

    def forward(x, scale):
        return square(x, scale), (x, scale)

    def backward(saved, cts):
        (x, scale), (_, dy) = saved, cts  # the first is of what the function changes in its modules
        return (2 if right else 1) * scale * x * dy, jnp.sum(x * x * dy, 0)

    square.defvjp(forward, backward)

    class Network(nnx.Module):
        def __init__(self, rngs):
            self.first, self.last = nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)
            self.scale = nnx.Param(jnp.full(4, 0.5))

        def __call__(self, x):
            return self.last(square(self.first(x), self.scale[...]))  # HERE

    graph, params = nnx.split(Network(nnx.Rngs(0)))
    return lambda params, x: jnp.mean(nnx.merge(graph, params)(x) ** 2), (params, normal(5, 3)), backward


@program("equinox", "forgotten term")
def equinox(right):
    """A gated unit by `eqx.filter_custom_vjp`, of which one path is forgotten."""
    import equinox as eqx

    @eqx.filter_custom_vjp
    def silu(x):
        return x * jax.nn.sigmoid(x)

    @silu.def_fwd
    def _(perturbed, x):
        return silu(x), None

    def backward(saved, dy, perturbed, x):
        y = jax.nn.sigmoid(x)
        return dy * (y + x * y * (1 - y) if right else y)

    silu.def_bwd(backward)

    class Network(eqx.Module):
        first: eqx.nn.Linear
        last: eqx.nn.Linear

        def __call__(self, x):
            return self.last(silu(self.first(x)))  # HERE

    keys = jax.random.split(jax.random.key(0))
    network = Network(eqx.nn.Linear(3, 4, key=keys[0]), eqx.nn.Linear(4, 2, key=keys[1]))
    return lambda network, x: jnp.mean(jax.vmap(network)(x) ** 2), (network, normal(5, 3)), backward


@program("optax", "mean instead of a sum")
def optax(right):
    """Parameters after updates by Adam, whose gradient is of a loss of which a part has a rule."""
    import optax

    def backward(logits, dy):
        smooth = jax.nn.softmax(logits) * dy[:, None]
        return (smooth if right else smooth / logits.shape[-1],)

    logsumexp = custom(lambda x: jax.nn.logsumexp(x, -1), lambda x: (jax.nn.logsumexp(x, -1), x), backward)

    def loss(params, batch):
        logits = batch["x"] @ params["w"] + params["b"]
        labels = optax.smooth_labels(jax.nn.one_hot(batch["label"], 4), 0.1)
        normaliser = logsumexp(logits)  # HERE
        plain = optax.losses.huber_loss(logits, labels)
        return jnp.mean(normaliser - jnp.sum(labels * logits, -1)) + jnp.mean(plain) + optax.tree.norm(params) / 10

    batch = {"x": normal(6, 3), "label": jnp.array([0, 1, 2, 3, 1, 0])}
    return loss, ({"w": normal(3, 4, seed=1), "b": normal(4, seed=2)}, batch), backward


@program("chex", "detached")
def chex(right):
    """A normalising flow over dataclasses: an affine coupling, whose rule stops the gradient of the scale."""
    import chex

    @chex.dataclass
    class Coupling:
        scale: Any
        shift: Any

    @jax.custom_jvp
    def coupled(z, log_scale, shift):
        return z * jnp.exp(log_scale) + shift

    def rule(primals, tangents):
        def plain(z, log_scale, shift):
            return z * jnp.exp(log_scale if right else jax.lax.stop_gradient(log_scale)) + shift

        return jax.jvp(plain, primals, tangents)

    coupled.defjvp(rule)

    def loss(flow, z):
        chex.assert_rank(z, 2)
        for layer in flow:
            first, second = jnp.split(z, 2, -1)
            log_scale = jnp.tanh(first @ layer.scale)
            second = coupled(second, log_scale, first @ layer.shift)  # HERE
            z = jnp.concatenate([second, first], -1)
        return jnp.mean(z**2)

    flow = [Coupling(scale=normal(2, 2, seed=i), shift=normal(2, 2, seed=i + 1)) for i in (1, 3)]
    return loss, (flow, normal(5, 4)), rule


@program("jax.example_libraries.stax", "another forward")
def stax(right):
    """A network of pairs of pure functions, init and apply, as Haiku's are; the forward of the rule is another."""
    from jax.example_libraries import stax

    def forward(x):
        t = jnp.tanh(x * (0.8 if right else 0.79))
        return t, t

    def backward(t, dy):
        return (0.8 * dy * (1 - t * t),)

    scaled = custom(lambda x: jnp.tanh(x * 0.8), forward, backward)
    init, apply = stax.serial(stax.Dense(4), stax.elementwise(scaled), stax.Dense(2), stax.LogSoftmax)
    _, params = init(jax.random.key(0), (-1, 3))

    def loss(params, x):
        return -jnp.mean(apply(params, x)[:, 0])  # HERE

    return loss, (params, normal(5, 3)), backward


@program("jax", "rounded to another dtype")
def gpt(right):
    """A compiled transformer of scanned, rematerialised layers, of which the norm's backward rounds to bfloat16."""

    def norm(x, g):
        return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-3) * g

    def forward(x, g):
        return norm(x, g), (x, g)

    def backward(saved, dy):
        x, g = saved
        r = jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-3)
        inner = dy * g if right else (dy * g).astype(jnp.bfloat16).astype(jnp.float32)
        dx = r * (inner - x * r * r * jnp.mean(inner * x, -1, keepdims=True))
        return dx, jnp.sum(dy * x * r, tuple(range(dy.ndim - 1)))

    ruled = custom(norm, forward, backward)

    @jax.checkpoint
    def block(x, layer):
        q, k, v = jnp.split(ruled(x, layer["g"]) @ layer["qkv"], 3, -1)  # HERE
        scores = jnp.where(jnp.tril(jnp.ones((5, 5), bool)), q @ k.mT / 2, -1e9)
        return x + jax.nn.softmax(scores) @ v, None

    @jax.jit
    def loss(params, tokens):
        x = params["embedding"][tokens]
        x, _ = jax.lax.scan(block, x, params["layers"])
        logits = jax.nn.log_softmax(x @ params["embedding"].T)
        return -jnp.mean(jnp.take_along_axis(logits, jnp.roll(tokens, 1, -1)[..., None], -1))

    layers = {"g": jnp.ones((2, 4)), "qkv": normal(2, 4, 12, seed=1)}
    return loss, ({"embedding": normal(7, 4), "layers": layers}, jnp.arange(10).reshape(2, 5) % 7), backward
