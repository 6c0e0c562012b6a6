"""`fnbackprop compare MODULE:FUNCTION`: arguments from words, the exit status, clear answers to mistakes."""

import json
import pathlib
import sys
import types

import jax
import numpy as np
import pytest

from fnbackprop.cli import main
from fnbackprop.comparing.command import TargetError, make_argument, make_arguments

FILE = """
import jax
import jax.numpy as jnp

@jax.custom_vjp
def twice(x):
    return 2 * x

twice.defvjp(lambda x: (2 * x, None), lambda _, ct: (3 * ct,))

@jax.custom_vjp
def summed(x):
    return 2 * x

def summed_bwd(_, ct):
    return (jnp.sum(ct),)

summed.defvjp(lambda x: (2 * x, None), summed_bwd)

def square(x):
    return x**2

class Net:
    @staticmethod
    def apply(x):
        return jnp.tanh(x)

def loss(params, x):
    return jnp.sum((x @ params["w"]) ** 2), {"count": 1}

def scaled(x, i, key, by):
    return by * x[i] + 0 * jax.random.uniform(key)

def example_args():
    return {"w": jnp.ones((3, 2))}, jnp.ones((4, 3))

def others():
    return [1, 2]

number = 3
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    (tmp_path / "functions_to_compare.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "functions_to_compare", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    return "functions_to_compare.py"


def status(*argv):
    try:
        return main(["compare", *argv])
    except SystemExit as exit:
        return exit.code


@pytest.mark.parametrize(
    "target, argv, leaves",
    [
        ("functions_to_compare.py:loss", [], ["args[0]/w", "args[1]"]),
        ("functions_to_compare:loss", ["--args", "example_args", "--argnums", "0"], ["w"]),
        ("functions_to_compare:Net.apply", ["--args", "f32[2,3]"], ["args[0]"]),
        ("functions_to_compare:scaled", ["--args", "f32[5]", "i32[2]:5", "key", "0.5"], ["args[0]"]),
        ("functions_to_compare:Net.apply", ["--args", "f32[2]", "--float64"], ["args[0]"]),
    ],
)
def test_right_functions_pass(file, capsys, target, argv, leaves):
    assert status(target, *argv, "--json", "result.json", "--directions", "1") == 0, capsys.readouterr()
    result = json.loads(pathlib.Path("result.json").read_text())
    assert [leaf["path"] for leaf in result["leaves"]] == leaves
    assert result["leaves"][0]["dtype"] == ("float64" if "--float64" in argv else "float32")
    assert capsys.readouterr().out.startswith(f"PASS  {target.rpartition(':')[2].rpartition('.')[2]}")


def test_a_wrong_backward_fails_with_status_one(file, capsys):
    assert status(f"{file}:twice", "--args", "f32[3]", "--html", "page.html") == 1
    assert capsys.readouterr().out.startswith("FAIL  twice")
    assert "FAIL" in pathlib.Path("page.html").read_text()


def test_what_is_intended_passes(file, capsys):
    assert status(f"{file}:twice", "--args", "f32[3]", "--intended", "twice") == 0, capsys.readouterr()


def test_help_fits_the_terminal(file, capsys):
    assert status(f"{file}:twice", "--help") == 0
    printed = capsys.readouterr().out
    assert "f32[8,3] (Gaussian)" in printed and max(map(len, printed.splitlines())) <= 80


@pytest.mark.parametrize(
    "argv, message",
    [
        (["functions_to_compare:los"], "has no function 'los'. Did you mean loss?"),
        (["functions_to_compare:number", "--args", "1"], "functions_to_compare.number is no function, but int"),
        (["functions_to_compere:loss"], "there is no module functions_to_compere"),
        (["nowhere.py:loss"], "there is no file nowhere.py"),
        (["jax.nn:relu"], "define example_args() in jax.nn"),
        (["functions_to_compare:loss", "--args", "others"], "must return a tuple of arguments"),
        (["functions_to_compare:loss", "--args", "f32[3"], "argument 0, 'f32[3', is none of these"),
        (["functions_to_compare:loss", "--args", "f64[3]"], "add --float64"),
        (["functions_to_compare:loss", "--args", "f32[3]:4"], "only integers take a bound"),
        (["functions_to_compare:loss", "--args", "f32[3]"], "loss(params, x) does not take 1 arguments"),
        (["functions_to_compare:loss", "--argnums", "2"], "names no argument: there are 2"),
        (["functions_to_compare:twice", "--args", "3"], "nothing to differentiate"),
        (["functions_to_compare:twice", "--directoins", "3"], "--directions"),
    ],
)
def test_mistakes_are_answered_with_status_two(file, capsys, argv, message):
    assert status(*argv) == 2
    printed = capsys.readouterr().err
    assert message in printed and "Traceback" not in printed


def test_an_error_of_the_function_is_told_with_its_own_frames(file, capsys):
    assert status("functions_to_compare:summed", "--args", "f32[3]") == 1
    told = capsys.readouterr().err
    assert "functions_to_compare:summed fails." in told and "float32[] corresponding to an input of type" in told
    assert "The bwd rule is summed_bwd at" in told and "functions_to_compare.py:15." in told
    assert "Traceback" not in told and "cli.py" not in told


def test_a_number_is_differentiated(file, capsys):
    assert status("functions_to_compare:square", "--args", "2.0") == 0
    assert "args[0]" in capsys.readouterr().out


def test_arguments_by_words():
    x = make_argument("f32[8, 3]", 0, 0)
    assert (x.shape, x.dtype) == ((8, 3), "float32") and 0.3 < np.std(x) < 3
    assert not np.array_equal(x, make_argument("f32[8,3]", 1, 0)) and not np.array_equal(
        x, make_argument("f32[8,3]", 0, 1)
    )
    assert np.array_equal(x, make_argument("f32[8,3]", 0, 0))
    assert make_argument("bf16[]", 0, 0).dtype == "bfloat16"
    assert set(np.asarray(make_argument("i32[99]:3", 0, 0))) == {0, 1, 2}
    assert set(np.asarray(make_argument("bool[99]", 0, 0))) == {False, True}
    assert np.iscomplexobj(make_argument("c64[2]", 0, 0))
    assert jax.dtypes.issubdtype(make_argument("key", 0, 0).dtype, jax.dtypes.prng_key)
    assert make_argument("'gelu'", 0, 0) == "gelu" and make_argument("(1, 2)", 0, 0) == (1, 2)


def test_a_name_alone_is_a_function_only_if_the_module_has_it():
    module = types.ModuleType("module")
    module.pair = lambda: (1, 2)
    assert make_arguments(module, ["pair"], 0) == (1, 2)
    with pytest.raises(TargetError, match="'other', is none of these"):
        make_arguments(module, ["other"], 0)
