"""A pole learns to stand upright on a cart: the data of each step are what the parameters of that step do.

    python experiments/policy_gradient.py                # 10 s on 2 cores
    python experiments/policy_gradient.py --seed 1
    python experiments/policy_gradient.py compare        # is the gradient right?

The environment is a pure function, so that a whole episode is a `scan` inside the loss: from starts that are a function
of the step, by actions drawn with the step's key. What happened is cut off from the gradient (`stop_gradient`), which
is that of the log probability of each action, times how much longer the pole stood than it does on average.
Expected last line:

    of 200 steps the pole stands for 18.3 before training, 199.5 after

Sources: R. Williams, Simple statistical gradient-following algorithms (REINFORCE), 1992; A. Barto, R. Sutton and
C. Anderson, Neuronlike adaptive elements that can solve difficult learning control problems, 1983 (the cart).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fnbackprop as fb
from fnbackprop.models import mlp

GRAVITY, CART, POLE, HALF_LENGTH, FORCE, INTERVAL = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02  # m/s², kg, kg, m, N, s
LIMITS = np.array([2.4, np.inf, np.deg2rad(12), np.inf], np.float32)


@dataclasses.dataclass(frozen=True)
class Config:
    """How the policy is built and trained."""

    width: int = 32
    """Of the policy's hidden layer."""
    length: int = 200
    """Steps of an episode, of 0.02 s."""
    steps: int = 150
    """How many weight updates."""
    batch_size: int = 64
    """Episodes in a step."""
    learning_rate: float = 1e-2
    """Of Adam."""
    discount: float = 0.97
    """How much less a reward counts for each step that it comes later."""
    seed: int = 0
    """Of the parameters, the starts and the actions."""


def move(state: jax.Array, action: jax.Array) -> jax.Array:
    """Cart and pole (place, speed, angle, speed of the angle) after a push to the left (0) or the right (1)."""
    place, speed, angle, turning = state
    push = FORCE * jnp.where(action == 1, 1.0, -1.0) + POLE * HALF_LENGTH * turning**2 * jnp.sin(angle)
    push = push / (CART + POLE)
    inertia = HALF_LENGTH * (4 / 3 - POLE * jnp.cos(angle) ** 2 / (CART + POLE))
    falling = (GRAVITY * jnp.sin(angle) - jnp.cos(angle) * push) / inertia
    moving = push - POLE * HALF_LENGTH * falling * jnp.cos(angle) / (CART + POLE)
    return state + INTERVAL * jnp.stack([speed, moving, turning, falling])


def episode(policy, start: jax.Array, key: jax.Array, length: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """States (length, 4), actions (length,), and 1 where the pole still stood, or else 0 (length,)."""

    def step(carry, key):
        state, stands = carry
        action = jax.random.categorical(key, policy(state))
        after = move(state, action)
        within = jnp.all(jnp.abs(after) < LIMITS)
        return (after, jnp.where(within, stands, 0)), (state, action, stands)

    return jax.lax.scan(step, (start, jnp.float32(1)), jax.random.split(key, length))[1]


def rewards_to_come(stands: jax.Array, discount: float) -> jax.Array:
    """At each time, the discounted number of steps that the pole will stand: (episodes, length)."""

    def back(later, now):
        total = now + discount * later
        return total, total

    return jax.lax.scan(back, jnp.zeros_like(stands[:, 0]), stands.T, reverse=True)[1].T


def experiment(config: Config) -> fb.Experiment:
    """The experiment as pure functions."""

    def init(key):
        return mlp.init(key, inputs=4, hidden=(config.width,), outputs=2)

    def play(params, starts, key):
        def one(start, key):
            return episode(lambda state: mlp.apply(params, state), start, key, config.length)

        return jax.vmap(one)(starts, jax.random.split(key, len(starts)))

    def loss(params, starts, key):
        states, actions, stands = jax.lax.stop_gradient(play(params, starts, key))
        rewards = rewards_to_come(stands, config.discount)
        average = jnp.sum(rewards, axis=0) / jnp.maximum(jnp.sum(stands, axis=0), 1)  # (length,), of those that stand
        better = stands * (rewards - average[None])
        surprise = -jnp.take_along_axis(jax.nn.log_softmax(mlp.apply(params, states)), actions[..., None], axis=-1)
        return jnp.sum(better * surprise[..., 0]) / jnp.sum(stands), {"stood": jnp.mean(jnp.sum(stands, axis=1))}

    def starts(step):
        random = np.random.default_rng((config.seed, step))
        return random.uniform(-0.05, 0.05, (config.batch_size, 4)).astype(np.float32)

    @jax.jit
    def evaluate(params):
        _, _, stands = play(params, starts(10**6), jax.random.key(config.seed))
        return {"stood": jnp.mean(jnp.sum(stands, axis=1))}

    return fb.Experiment(
        name="policy_gradient",
        init=init,
        loss=loss,
        batch=starts,
        optimizer=optax.adam(config.learning_rate),
        steps=config.steps,
        seed=config.seed,
        evaluate=evaluate,
        evaluate_every=50,
        predict=mlp.apply,
        config=config,
    )


def train_and_measure(config: Config) -> None:
    """Train, and say how long the pole stands."""
    made = experiment(config)
    stood = [float(made.evaluate(params)["stood"]) for params in (made.arguments()[0], fb.train(made).params)]
    print(f"of {config.length} steps the pole stands for {stood[0]:.1f} before training, {stood[1]:.1f} after")


if __name__ == "__main__":
    fb.run(experiment, default=train_and_measure)
