"""`fnbackprop trace`, of a function and of an experiment."""

import json
import pathlib

import pytest

from fnbackprop.cli import main

PROGRAM = """
import jax.numpy as jnp


def loss(x):
    return jnp.sum(jnp.where(x > 0, jnp.sqrt(x), 0.0))


def example_args():
    return (jnp.zeros(2),)
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("model.py").write_text(PROGRAM)
    return "model.py:loss"


def test_a_function_ends_in_blame(file, capsys):
    assert main(["trace", file, "--json", "new/trace.json", "--html", "pages/trace.html"]) == 1
    assert "0·inf" in pathlib.Path("pages/trace.html").read_text(encoding="utf-8")
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("loss: 0·inf: a cotangent became NaN at sqrt by sqrt_vjp, model.py:6:")
    blame = json.loads(pathlib.Path("new/trace.json").read_text())["blame"]
    assert blame["line"] == 6 and blame["kind"] == "0·inf" and blame["reaches"] == ["args[0]"]


def test_arguments_lines_and_options(file, capsys):
    assert main(["trace", file, "--args", "f32[3]", "--lines", "model.py:6"]) in (0, 1)
    printed = capsys.readouterr().out
    assert "sqrt" in printed and "select_n" in printed and "reaches" not in printed
    assert main(["trace", file, "--safe-select"]) == 0
    assert "all finite" in capsys.readouterr().out
    assert main(["trace", file, "--args", "f32[3]", "2.0"]) == 2
    assert "does not take 2 arguments" in capsys.readouterr().err


def test_an_experiment(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["new", "mine.py"]) == 0
    assert main(["trace", "mine.py"]) == 0
    printed = capsys.readouterr().out
    assert "as one compiled program (detailed=True, --detailed, looks" in printed and "cotangent" in printed
    assert main(["trace", "mine.py", "--detailed"]) == 0
    assert "all finite. Value" in capsys.readouterr().out


def test_a_comparison_that_is_not_finite_ends_in_blame(file, capsys):
    assert main(["compare", file, "--directions", "0"]) == 1
    printed = capsys.readouterr().out
    assert "NON-FINITE" in printed and "0·inf: a cotangent became NaN at sqrt by sqrt_vjp, model.py:6:" in printed
    pathlib.Path("model.py").write_text(PROGRAM.replace("jnp.zeros(2)", "jnp.ones(2)"))
    assert main(["compare", file, "--directions", "0"]) == 0
    assert "became" not in capsys.readouterr().out


@pytest.mark.parametrize("lines, message", [
    ("nofile.py", "no equation stands at nofile.py; they are of model.py"), (":", "lines must be like"),
])  # fmt: skip
def test_lines_without_an_equation(file, lines, message, capsys):
    assert main(["trace", file, "--lines", lines]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"fnbackprop: {message}") and said.out == ""
