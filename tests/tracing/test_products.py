"""The chain rule, number by number."""

import math
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import pytest

import fnbackprop as fb
from fnbackprop.tracing.products import chain_rule


def test_car_bicycle_walker():
    found = chain_rule(jax.jit(lambda walker: 2.0 * (4.0 * walker)), 1.0)
    assert found.product == "2 × 4 = 8" and str(found).endswith("\n2 × 4 = 8")
    assert [(s.primitive, s.value, s.derivatives, s.cotangent) for s in found.steps] == [
        ("mul", 4.0, (4.0,), 2.0),
        ("mul", 8.0, (2.0,), 1.0),
    ]
    assert found.steps[0].place.file == __file__


def test_a_network_of_two_layers():
    def loss(w1, b1, w2, x):
        return (w2 * jnp.tanh(w1 * x + b1) - 1.0) ** 2

    arguments = 1.2, -0.1, 0.8, 0.5
    found = chain_rule(loss, *arguments, argnums=(0, 1, 2))
    expected = jax.jit(fb.grad(loss, argnums=(0, 1, 2)))(*arguments)
    assert list(found.gradients.values()) == pytest.approx([float(g) for g in expected], rel=1e-6)
    tanh = next(step for step in found.steps if step.primitive == "tanh")
    assert tanh.value == pytest.approx(math.tanh(0.5), rel=1e-6)
    assert tanh.derivatives[0] == pytest.approx(1 - math.tanh(0.5) ** 2, rel=1e-6)
    assert not found.is_chain and "d value / d args[0] = " in str(found)


def test_uses_of_a_value_add_up():
    """w is used twice: the gradient is the sum of a product for each path."""
    found = chain_rule(lambda w, x: (w * x) * (w + 1.0) + x, 3.0, 2.0, argnums=(0, 1))
    assert found.product.splitlines() == [
        "d value / d args[0] = 1 × 4 × 2 + 1 × 6 × 1 = 14",
        "d value / d args[1] = 1 × 4 × 3 + 1 = 13",
    ]
    assert "2 by args[0], 3 by args[1]" in str(found) and "4 by mul, 6 by add" in str(found)

    def many(x):  # 2 ** 4 paths
        for _ in range(4):
            x = x * x
        return x

    assert chain_rule(many, 1.0).product == "d value / d args[0] = 16"


def test_arrays_and_loops_are_refused():
    with pytest.raises(TypeError, match="for scalars, but mul at test_products.py"):
        chain_rule(lambda x: jnp.sum(2 * x), jnp.ones(3))
    with pytest.raises(TypeError, match="is in a loop"):
        chain_rule(lambda x: jax.lax.scan(lambda h, _: (2 * h, None), x, length=3)[0], 1.0)


def test_a_step_of_an_lstm():
    """The derivatives by hand: c' = f c + i g, h' = o tanh(c'), of the loss h'."""
    logistic = jax.nn.sigmoid

    def step(x, h, c, w):
        i, f, o = logistic(w * x + h), logistic(w * x - h), logistic(x - w * h)
        g = jnp.tanh(w * (x + h))
        return o * jnp.tanh(f * c + i * g)

    x, h, c, w = 0.5, -0.3, 0.8, 1.2
    found = chain_rule(step, x, h, c, w, argnums=(0, 1, 2, 3))
    s = lambda a: 1 / (1 + math.exp(-a))  # noqa: E731
    i, f, o, g = s(w * x + h), s(w * x - h), s(x - w * h), math.tanh(w * (x + h))
    t = math.tanh(f * c + i * g)
    dc = o * (1 - t * t)
    gates = {"i": dc * g * i * (1 - i), "f": dc * c * f * (1 - f), "o": t * o * (1 - o), "g": dc * i * (1 - g * g)}
    expected = [
        w * (gates["i"] + gates["f"] + gates["g"]) + gates["o"],
        gates["i"] - gates["f"] - w * gates["o"] + w * gates["g"],
        dc * f,
        x * (gates["i"] + gates["f"]) - h * gates["o"] + (x + h) * gates["g"],
    ]
    assert list(found.gradients.values()) == pytest.approx(expected, rel=1e-5)
    for i, equation in enumerate(found.steps[:-1]):  # each cotangent is the sum over its uses
        edges = [(use, pair) for use in found.steps for pair in zip(use.operands, use.derivatives, strict=True)]
        total = sum(use.cotangent * derivative for use, (source, derivative) in edges if source == i)
        assert total == pytest.approx(equation.cotangent, rel=1e-4)


def test_zero_times_an_infinite_derivative_is_told():
    printed = str(chain_rule(lambda x: jnp.sin(0.0 * jnp.sqrt(x)), 0.0))
    assert "1 × 0 × inf = nan" in printed
    assert "0 × inf is no number: the derivative of sqrt at test_products.py:" in printed
    unknown = chain_rule(lambda x: 0.0 * jnp.sin(x), 0.5)
    assert unknown.product == "0 × ? = 0" and "no number" not in str(unknown)


def test_a_constant():
    assert chain_rule(lambda x: 3.0, 2.0).product == "0: the value does not depend on it"
    assert chain_rule(lambda x: x, 2.0).product == "1 = 1"


def test_the_drawn_graph(tmp_path):
    found = chain_rule(lambda walker, wind: 2.0 * (4.0 * walker) + jnp.sin(wind) * wind, 1.0, 0.5, argnums=(0, 1))
    page = found.html(tmp_path / "graph.html")
    assert (tmp_path / "graph.html").read_text(encoding="utf-8") == page
    svg = ElementTree.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])
    words = [text.text for text in svg.iter("text")]
    assert sum(len(step.derivatives) for step in found.steps) == len(list(svg.iter("path")))
    assert len(list(svg.iter("circle"))) == len(found.steps) and {"args[0]", "args[1]", "2", "4"} <= set(words)
    assert f"↩ {found.gradients['args[1]']:.4g}" in words
    assert len({circle.get("cx") for circle in svg.iter("circle")}) == 3  # a step stands right of its operands
