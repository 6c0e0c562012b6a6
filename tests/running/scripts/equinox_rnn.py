"""An Equinox GRU that tells clockwise from anticlockwise spirals, by filter_value_and_grad and filter_jit."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax


class RNN(eqx.Module):
    hidden_size: int
    cell: eqx.nn.GRUCell
    linear: eqx.nn.Linear
    bias: jax.Array

    def __init__(self, in_size, out_size, hidden_size, *, key):
        ckey, lkey = jr.split(key)
        self.hidden_size = hidden_size
        self.cell = eqx.nn.GRUCell(in_size, hidden_size, key=ckey)
        self.linear = eqx.nn.Linear(hidden_size, out_size, use_bias=False, key=lkey)
        self.bias = jnp.zeros(out_size)

    def __call__(self, xs):
        def step(carry, x):
            return self.cell(x, carry), None

        out, _ = jax.lax.scan(step, jnp.zeros((self.hidden_size,)), xs)
        return jax.nn.sigmoid(self.linear(out) + self.bias)


def get_data(count, length=16):
    t = jnp.linspace(0, 2 * jnp.pi, length)
    offset = jnp.linspace(0, 2 * jnp.pi, count, endpoint=False)
    x1, x2 = jnp.sin(t + offset[:, None]) / (1 + t), jnp.cos(t + offset[:, None]) / (1 + t)
    y = (jnp.arange(count) % 2).astype(jnp.float32)
    x1 = jnp.where(y[:, None] == 0, x1, -x1)
    return jnp.stack([x1, x2], axis=-1), y[:, None]


@eqx.filter_value_and_grad
def compute_loss(model, x, y):
    pred_y = jax.vmap(model)(x)
    return -jnp.mean(y * jnp.log(pred_y) + (1 - y) * jnp.log(1 - pred_y))


@eqx.filter_jit
def make_step(model, x, y, opt_state, optim):
    loss, grads = compute_loss(model, x, y)
    updates, opt_state = optim.update(grads, opt_state)
    return loss, eqx.apply_updates(model, updates), opt_state


def main(steps=40):
    x, y = get_data(32)
    model = RNN(in_size=2, out_size=1, hidden_size=16, key=jr.key(5678))
    optim = optax.adam(1e-2)
    opt_state = optim.init(eqx.filter(model, eqx.is_inexact_array))
    for step in range(steps):
        loss, model, opt_state = make_step(model, x, y, opt_state, optim)
        if step % 10 == 9:
            print(f"step={step}, loss={loss.item():.4f}")
    accuracy = jnp.mean((jax.vmap(model)(x) > 0.5) == (y == 1))
    count = sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array)))
    print(f"final accuracy {accuracy.item():.3f}, {count} parameters")


main()
