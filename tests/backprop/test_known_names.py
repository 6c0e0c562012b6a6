"""A rule by a mistyped name is refused, and says what was meant."""

import jax
import pytest
from jax.extend.core import Primitive

import fnbackprop as fb
from fnbackprop.backprop import registry

REGISTER = {
    "derivative": lambda name: fb.derivative(name)(lambda x: x),
    "vjp_rule": lambda name: fb.vjp_rule(name)(lambda dy, x: dy),
    "nondifferentiable": lambda name: fb.nondifferentiable("an_unheard_of_name", name, reason="for this test"),
}


@pytest.mark.parametrize(
    "name, meant", [("tahn", "tanh"), ("sni", "sin"), ("dot_genral", "dot_general"), ("reducesum", "reduce_sum")]
)
@pytest.mark.parametrize("register", REGISTER.values(), ids=REGISTER)
def test_a_mistyped_name_is_refused_with_what_is_near(register, name, meant):
    with pytest.raises(ValueError, match=f"no primitive is called '{name}'. Did you mean '{meant}'"):
        register(name)
    assert name not in registry.registered() and "an_unheard_of_name" not in registry.registered()


def test_a_mistyped_name_of_the_users_own_primitive():
    kept = Primitive("mish_activation")
    with pytest.raises(ValueError, match="Did you mean 'mish_activation'"):
        fb.derivative("mish_activaton")
    assert callable(fb.derivative(kept.name))


@pytest.mark.parametrize("name", ["an_unheard_of_name", "sin", "one_minus_square"])
def test_names_that_may_be_registered(name):
    """One near to none, whose primitive may be made later; those of this JAX, and of others."""
    assert callable(fb.derivative(name)) and callable(fb.vjp_rule(name))


def test_a_primitive_itself_may_have_any_name():
    assert callable(fb.derivative(Primitive("tahn")))


@pytest.mark.parametrize("other", [jax.numpy.sin, 3, None])
def test_what_is_no_primitive(other):
    for register in (fb.derivative, fb.vjp_rule, lambda p: fb.nondifferentiable(p, reason="a test")):
        with pytest.raises(TypeError, match="by its name or the `Primitive` itself, and not of"):
            register(other)
