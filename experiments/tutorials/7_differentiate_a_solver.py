# %% [markdown]
# # Differentiate a solver
#
# A ball is thrown, and flies until it hits the ground: a `while_loop`, because nobody knows beforehand how many steps
# that takes. `jax.grad` refuses to differentiate it. fnbackprop does: up to 64 states on the way are stored, the others
# are computed again. The gradient tells how the throw must change for the ball to land where it should.
#
#     python 7_differentiate_a_solver.py    # ten seconds; its last line:
#     it lands at 8.00 m, thrown at 10.5 m/s under 44 degrees

# %%
import jax
import jax.numpy as jnp
import numpy as np
from drawing import BLUE, GREEN, GREY, ORANGE, panels, save

import fnbackprop as fb

STEP, GRAVITY, DRAG, TARGET = 0.01, 9.81, 0.05, 8.0  # s, m/s², 1/m, m

# %% [markdown]
# ## The solver
# The last step is cut where it meets the ground, so that the landing place depends smoothly on the throw.


# %%
def flight(state):
    """One step of Euler's method on (position, velocity)."""
    position, velocity = state
    speed = jnp.sqrt(jnp.sum(velocity**2))
    acceleration = jnp.array([0.0, -GRAVITY]) - DRAG * speed * velocity
    return position + STEP * velocity, velocity + STEP * acceleration


def landing(throw):
    """Where a ball thrown with (speed, angle) comes down."""
    speed, angle = throw
    state = jnp.zeros(2), speed * jnp.array([jnp.cos(angle), jnp.sin(angle)])
    before, velocity = jax.lax.while_loop(lambda state: flight(state)[0][1] >= 0, flight, flight(state))
    return before[0] - velocity[0] * before[1] / velocity[1]


throw = jnp.array([9.0, 0.9])
try:
    jax.grad(landing)(throw)
except ValueError as error:
    print("jax.grad:", str(error).split(".")[0][:72], "...")
gradient = fb.grad(landing)(throw)
h = 1e-2
slopes = [float(landing(throw + h * e) - landing(throw - h * e)) / (2 * h) for e in jnp.eye(2)]
print(f"fb.grad: {gradient[0]:.3f} m per m/s, {gradient[1]:.3f} m per radian")
print(f"by differences: {slopes[0]:.3f}, {slopes[1]:.3f}")
np.testing.assert_allclose(gradient, slopes, rtol=0.02)


# %% [markdown]
# ## Aim
# A few updates of the throw against the gradient of (landing - target)².


# %%
def miss(throw):
    return (landing(throw) - TARGET) ** 2


aim = jax.jit(lambda throw: throw - jnp.array([0.3, 0.01]) * fb.grad(miss)(throw))
throws = [throw]
for _ in range(12):
    throws.append(aim(throws[-1]))

# %% [markdown]
# ## The same for a root: `fb.implicit`
# Where a solver looks for a root by comparisons (a bisection), its steps have no derivative worth having, and fb.grad
# warns. The root has one, by the implicit function theorem.


# %%
def apex_angle(speed):
    """The angle below 45 degrees at which a ball without drag flies TARGET metres: speed² sin(2 angle) / g = target."""

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        short = speed**2 * jnp.sin(2 * middle) / GRAVITY < TARGET
        return jnp.where(short, middle, low), jnp.where(short, high, middle)

    low, _ = jax.lax.fori_loop(0, 30, halve, (0.0, jnp.pi / 4))
    return fb.implicit(lambda speed, angle: speed**2 * jnp.sin(2 * angle) / GRAVITY - TARGET, speed, low)


ratio = GRAVITY * TARGET / 12.0**2  # sin(2 angle)
by_hand = -ratio / 12.0 / np.sqrt(1 - ratio**2)
print(f"d angle / d speed = {fb.grad(apex_angle)(12.0):.5f}, and by hand {by_hand:.5f}")


# %% [markdown]
# ## The picture


# %%
def trajectory(throw):
    speed, angle = map(float, throw)
    state, points = (jnp.zeros(2), speed * jnp.array([np.cos(angle), np.sin(angle)])), []
    step = jax.jit(flight)
    while not points or points[-1][1] >= 0:
        points.append(np.asarray(state[0]))
        state = step(state)
    return np.array(points)


figure, (left, right) = panels(2, width=8.4, height=2.8)
for i, colour in ((0, GREY), (1, BLUE), (2, ORANGE), (12, GREEN)):
    left.plot(*trajectory(throws[i]).T, color=colour, label=str(i))
left.plot([TARGET], [0], "v", color="black", markersize=7)
left.set(title="the throw", xlabel="m", ylabel="m", ylim=(0, None))
left.legend(title="updates", fontsize=7, title_fontsize=8)
right.plot([float(landing(throw)) for throw in throws], "o-", color=BLUE, markersize=3)
right.axhline(TARGET, color="black", linewidth=0.8, linestyle=":")
right.set(title="where it lands", xlabel="update", ylabel="m")
save(figure, "differentiate_a_solver")

# %%
speed, angle = throws[-1]
print(f"it lands at {landing(throws[-1]):.2f} m, thrown at {speed:.1f} m/s under {np.degrees(angle):.0f} degrees")
