"""A neural ODE in diffrax: an MLP vector field, Heun steps, fitted to damped oscillations."""

import diffrax
import equinox as eqx
import jax
import jax.nn as jnn
import jax.numpy as jnp
import jax.random as jr
import optax


class Func(eqx.Module):
    out_scale: jax.Array
    mlp: eqx.nn.MLP

    def __init__(self, data_size, width_size, depth, *, key):
        self.out_scale = jnp.array(1.0)
        self.mlp = eqx.nn.MLP(
            data_size, data_size, width_size, depth, activation=jnn.softplus, final_activation=jnn.tanh, key=key
        )

    def __call__(self, t, y, args):
        return self.out_scale * self.mlp(y)


class NeuralODE(eqx.Module):
    func: Func

    def __call__(self, ts, y0):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(self.func),
            diffrax.Heun(),
            t0=ts[0],
            t1=ts[-1],
            dt0=ts[1] - ts[0],
            y0=y0,
            saveat=diffrax.SaveAt(ts=ts),
            max_steps=8,
        )
        return solution.ys


@eqx.filter_value_and_grad
def grad_loss(model, ti, yi):
    y_pred = jax.vmap(model, in_axes=(None, 0))(ti, yi[:, 0])
    return jnp.mean((yi - y_pred) ** 2)


@eqx.filter_jit
def make_step(ti, yi, model, opt_state):
    loss, grads = grad_loss(model, ti, yi)
    updates, opt_state = optim.update(grads, opt_state)
    return loss, eqx.apply_updates(model, updates), opt_state


ts = jnp.linspace(0, 2, 5)
angles = jr.uniform(jr.key(1), (8, 1), maxval=2 * jnp.pi)
ys = jnp.exp(-0.2 * ts)[None, :, None] * jnp.stack([jnp.cos(ts + angles), -jnp.sin(ts + angles)], axis=-1)
model = NeuralODE(Func(2, 16, 2, key=jr.key(0)))
optim = optax.adabelief(3e-3)
opt_state = optim.init(eqx.filter(model, eqx.is_inexact_array))
for step in range(20):
    loss, model, opt_state = make_step(ts, ys, model, opt_state)
    if step % 5 == 4:
        print(f"Step: {step}, Loss: {loss:.4f}")
