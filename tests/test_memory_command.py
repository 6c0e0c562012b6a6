"""`fnbackprop memory`: lines, bytes, budgets, time; and what it says where nothing fits."""

import re

import pytest

from fnbackprop.cli import main
from fnbackprop.commands import CommandError
from fnbackprop.memory_command import bytes_of, in_words

LAYERS = """
import jax, jax.numpy as jnp

def loss(w, x):
    def layer(h, w):
        return jnp.tanh(h @ w), None

    return jnp.mean(jax.lax.scan(layer, x, w)[0] ** 2)

def plain(x):
    return jnp.sum(x**2)
"""


@pytest.fixture
def module(tmp_path):
    path = tmp_path / "layers.py"
    path.write_text(LAYERS)
    return str(path)


def test_lines_budgets_and_a_fit(module, capsys):
    args = ["--args", "f32[16,32,32]", "f32[64,32]"]
    assert main(["memory", f"{module}:loss", *args, "--fit", "160KiB"]) == 0
    lines, budgets, fitting = capsys.readouterr().out.split("\n\n")
    assert "layers.py:6" in lines and "128.0 KiB" in lines and "16 x f32[64,32]" in lines  # every step's h: 16·64·32·4
    found = re.findall(r"^(none|budget=[\d.]+|by jax.grad) +([\d.]+) KiB +[\d.]+ ms$", budgets, re.MULTILINE)
    memory = {name: float(size) for name, size in found}
    assert memory["budget=0.5"] <= memory["none"] < memory["by jax.grad"]
    assert "budget=0.1: " in budgets and "a loop of 16 steps must save at least" in budgets
    assert fitting.startswith("It fits into 160.0 KiB with budget=") and "fnbackprop run --budget" in fitting

    assert main(["memory", f"{module}:loss", *args, "--fit", "1KiB"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("fnbackprop: no budget makes the gradient fit into 1,024 bytes") and "accumulate" in told


def test_a_function_that_saves_nothing(module, capsys):
    assert main(["memory", f"{module}:plain", "--args", "f32[3]", "--fit", "1 GiB"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("The backward pass saves nothing but the function's own inputs.")
    assert shown.endswith("It fits into 1.0 GiB without a budget.\n")


def test_sizes():
    assert [bytes_of(text) for text in ("2GiB", "1.5 kB".upper(), "4096", "1e6", "3 MB")] == [
        2 * 1024**3, 1500, 4096, 10**6, 3 * 10**6,
    ]  # fmt: skip
    assert [in_words(size) for size in (0, 1023, 1536, 3 * 1024**3, 2**45)] == [
        "0 B", "1023 B", "1.5 KiB", "3.0 GiB", "32.0 TiB",
    ]  # fmt: skip
    for wrong in ("2 gigs", "MB", ""):
        with pytest.raises(CommandError, match="is no size"):
            bytes_of(wrong)
