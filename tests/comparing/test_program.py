"""A function and its arguments as a program."""

import jax
import jax.numpy as jnp
import pytest

import fnbackprop as fb
from fnbackprop.comparing.program import first_line, make_program


@pytest.mark.parametrize("argnums", [3, (0, 4), ()])
def test_argnums_out_of_range(argnums):
    with pytest.raises(TypeError, match="must name some of the arguments, and none were given"):
        make_program(lambda: 1.0, (), 0, None)
    with pytest.raises(TypeError, match="must name some of the 3 arguments"):
        make_program(lambda a, b, c: a, (1.0, 2.0, 3.0), argnums, None)


def test_an_error_without_a_message_is_told():
    assert first_line(AssertionError()) == "AssertionError" and first_line(ValueError("a\nb")) == "ValueError: a"


def scaled(model, x):
    noise = jax.random.normal(model["key"], x.shape)
    return jnp.sum(model["activation"](x * model["w"]) * noise * model["scales"][0])


def test_a_model_with_functions_and_keys_is_differentiated_by_its_numbers():
    model = {
        "w": jnp.float32([1.0, 2.0]),
        "activation": jnp.tanh,
        "key": jax.random.key(0),
        "scales": (2.0, None, "up"),
    }
    x = jnp.float32([0.3, -0.4])
    program = make_program(scaled, (model, x), 0, None)
    assert len(jax.tree.leaves(program.inputs)) == 2 and len(program.others) == 2
    assert program.function(program.inputs, program.others) == scaled(model, x)
    result = fb.compare(scaled, model, x, rules=False, reference=False)
    assert result.ok and [leaf.path for leaf in result.leaves] == ["scales/0", "w"]
    assert fb.coverage(scaled, model, x).ok and fb.residuals(scaled, model, x).nbytes > 0


class Opaque:
    """An object that JAX does not look into."""


def test_what_holds_no_arrays_is_refused_with_its_path_and_the_remedy():
    for function in (fb.compare, fb.residuals):
        with pytest.raises(TypeError, match=r"args\[0\]\['net'\] is of type .*Opaque") as raised:
            function(lambda model: 0.0, {"net": Opaque()})
        assert f"fb.{function.__name__}(lambda params, *args: fun(Opaque(**params)" in str(raised.value)


def test_functions_of_one_name_are_told_apart_by_their_lines():
    first = lambda x: jnp.sum(x**2)  # noqa: E731
    second = lambda x: jnp.sum(x * x)  # noqa: E731
    result = fb.compare(first, jnp.ones(2), against=second, directions=0, rules=False)
    line = first.__code__.co_firstlineno
    assert result.name == f"<lambda> (test_program.py:{line}) against <lambda> (test_program.py:{line + 1})"
