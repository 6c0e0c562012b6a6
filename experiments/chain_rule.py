"""The chain rule, number by number.

    python experiments/chain_rule.py        # a few seconds

First a car, a bicycle and a walker; then a network of two layers, worked by hand: what each equation computes, its
local derivative, and the cotangent that comes back through it; then one step of an LSTM. Expected last line:

    by hand, by fb.grad and by jax.grad: the same to within 1e-13
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

import fnbackprop as fb


@dataclasses.dataclass(frozen=True)
class Network:
    """The numbers of the network with one hidden unit: its input, its target, and its four parameters."""

    x: float = 0.5
    target: float = 1.0
    w1: float = 1.2
    b1: float = -0.1
    w2: float = 0.8
    b2: float = 0.3


# ---------------------------------------------------------------- car, bicycle, walker


def car(walker):
    """The car is twice as fast as the bicycle, the bicycle four times as fast as the walker."""
    bicycle = 4.0 * walker
    return 2.0 * bicycle


def show_speeds() -> None:
    print("A car is twice as fast as a bicycle, a bicycle four times as fast as a walker.")
    print("d car / d bicycle * d bicycle / d walker = 2 * 4 = 8 times the walker.\n")
    print(f"fb.chain_rule(car, 1.0):\n{fb.chain_rule(car, 1.0)}\n")
    print(f"fb.grad(car)(1.0) = {fb.grad(car)(1.0)}    jax.grad(car)(1.0) = {jax.grad(car)(1.0)}\n")


# ---------------------------------------------------------------- one hidden unit, equation by equation


def scalar_loss(w1, b1, w2, b2, x, target):
    h = jnp.tanh(w1 * x + b1)
    return (w2 * h + b2 - target) ** 2 / 2


def work_by_hand(n: Network) -> tuple[list[tuple], dict[str, float]]:
    """The rows (equation, value, local derivative as formula and number, cotangent), and the gradients.

    The forward pass goes down the rows. The backward pass goes up: it starts with 1, the derivative of the loss by
    itself, and each cotangent is the one of the row below times that row's local derivative.
    """
    u = n.w1 * n.x
    a = u + n.b1
    h = math.tanh(a)
    v = n.w2 * h
    y = v + n.b2
    e = y - n.target
    equations = [  # each with its value, and its derivative by the value of the row above
        ("u = w1 * x", u, "du/dx = w1", n.w1),
        ("a = u + b1", a, "da/du = 1", 1.0),
        ("h = tanh(a)", h, "dh/da = 1 - h^2", 1 - h**2),
        ("v = w2 * h", v, "dv/dh = w2", n.w2),
        ("y = v + b2", y, "dy/dv = 1", 1.0),
        ("e = y - target", e, "de/dy = 1", 1.0),
        ("loss = e^2 / 2", e**2 / 2, "dloss/de = e", e),
    ]
    rows, cotangents, cotangent = [], {}, 1.0
    for equation, value, formula, local in reversed(equations):
        rows.insert(0, (equation, value, formula, local, cotangent))
        cotangents[equation.split()[0]] = cotangent
        cotangent *= local  # the chain rule
    d = cotangents
    return rows, {"w1": n.x * d["u"], "b1": d["a"], "w2": h * d["v"], "b2": d["y"], "x": cotangent}


def show_scalar_network(n: Network) -> None:
    rows, by_hand = work_by_hand(n)
    print("Two layers with one hidden unit. The values go down, the cotangents go up: each")
    print("is the cotangent of the row below times the local derivative of the row below.\n")
    print("equation            value   local derivative             cotangent")
    for equation, value, formula, local, cotangent in rows:
        print(f"{equation:<15} {value:9.4f}   {formula:<15} {local:9.4f}   {cotangent:9.4f}")
    factors = [local for _, _, _, local, _ in reversed(rows)]
    print(f"\ndloss/dx = {' * '.join(f'{factor:.4g}' for factor in factors)} = {math.prod(factors):.6f}\n")

    arguments = [jnp.float32(value) for value in (n.w1, n.b1, n.w2, n.b2, n.x, n.target)]
    ours, theirs = (grad(scalar_loss, argnums=range(5))(*arguments) for grad in (fb.grad, jax.grad))
    print("gradient     by hand    fb.grad   jax.grad")
    for name, g, j in zip(("w1", "b1", "w2", "b2", "x"), ours, theirs, strict=True):
        print(f"dloss/d{name:<2}  {by_hand[name]:9.6f}  {g:9.6f}  {j:9.6f}")


# ---------------------------------------------------------------- one step of an LSTM


def lstm(c, h, x):
    """The new h. The weights are numbers."""
    i = jax.nn.sigmoid(0.6 * x + 0.3 * h)
    f = jax.nn.sigmoid(0.4 * x - 0.5 * h)
    o = jax.nn.sigmoid(0.7 * x + 0.2 * h)
    g = jnp.tanh(0.9 * x - 0.4 * h)
    return o * jnp.tanh(f * c + i * g)


def lstm_by_hand(c, h, x):
    """d new h / d (c, h, x): through the state, and through each of the four gates."""
    i, f, o = (1 / (1 + math.exp(-a)) for a in (0.6 * x + 0.3 * h, 0.4 * x - 0.5 * h, 0.7 * x + 0.2 * h))
    g = math.tanh(0.9 * x - 0.4 * h)
    t = math.tanh(f * c + i * g)
    dc = o * (1 - t**2)  # of the new state
    di, df, do, dg = dc * g * i * (1 - i), dc * c * f * (1 - f), t * o * (1 - o), dc * i * (1 - g**2)
    dh = 0.3 * di - 0.5 * df + 0.2 * do - 0.4 * dg
    dx = 0.6 * di + 0.4 * df + 0.7 * do + 0.9 * dg
    return dc * f, dh, dx


def show_lstm() -> None:
    c, h, x = 0.8, -0.3, 0.5
    print("\nOne step of an LSTM. The state c has one way to the new h, through tanh and two")
    print("gates, so its gradient is one product, o * (1 - tanh^2) * 1 * f:\n")
    print(fb.chain_rule(lstm, c, h, x))
    found = fb.chain_rule(lstm, c, h, x, argnums=(0, 1, 2))  # found.html(path) draws the graph
    by_hand = lstm_by_hand(c, h, x)
    print("\nh and x have one way through each gate; the gradient is the sum over the ways:")
    for name, ours, hand in zip("chx", found.gradients.values(), by_hand, strict=True):
        assert math.isclose(ours, hand, rel_tol=1e-5)
        print(f"d new h / d {name}  {ours:9.6f}, by hand {hand:9.6f}")


# ---------------------------------------------------------------- the same with matrices


def matrix_loss(params, x, target):
    hidden = jnp.tanh(x @ params["w1"] + params["b1"])
    return jnp.sum((hidden @ params["w2"] - target) ** 2) / 2


def matrix_gradient_by_hand(params, x, target):
    """Each backward line names the forward line that it undoes, from the last to the first."""
    before = x @ params["w1"] + params["b1"]  # 1. (batch, hidden)
    hidden = np.tanh(before)  # 2. (batch, hidden)
    error = hidden @ params["w2"] - target  # 3. (batch, outputs); the loss is 4. sum(error^2) / 2
    d_error = error  # 4.
    d_w2, d_hidden = hidden.T @ d_error, d_error @ params["w2"].T  # 3.
    d_before = d_hidden * (1 - hidden**2)  # 2.
    return {"b1": d_before.sum(axis=0), "w1": x.T @ d_before, "w2": d_w2}  # 1.


def show_matrix_network() -> None:
    random = np.random.default_rng(0)
    shapes = {"b1": (4,), "w1": (3, 4), "w2": (4, 2)}
    params = {name: random.normal(size=shape) for name, shape in shapes.items()}
    x, target = random.normal(size=(5, 3)), random.normal(size=(5, 2))
    by_hand = matrix_gradient_by_hand(params, x, target)
    with jax.enable_x64(True):
        ours, theirs = (grad(matrix_loss)(params, x, target) for grad in (fb.grad, jax.grad))
    print("\nThe same with matrices (5 examples, 3 inputs, 4 hidden, 2 outputs), in float64:\n")
    print("gradient     norm    fb.grad - by hand    jax.grad - by hand")
    apart = [{name: np.max(np.abs(np.asarray(g[name]) - by_hand[name])) for name in shapes} for g in (ours, theirs)]
    for name in shapes:
        print(f"dloss/d{name}  {np.linalg.norm(by_hand[name]):8.4f}   {apart[0][name]:18.1e}   {apart[1][name]:19.1e}")
    assert max(max(side.values()) for side in apart) < 1e-13
    print("\nby hand, by fb.grad and by jax.grad: the same to within 1e-13")


if __name__ == "__main__":
    show_speeds()
    show_scalar_network(Network())
    show_lstm()
    show_matrix_network()
