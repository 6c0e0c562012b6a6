"""The options are those of the engine, and every transform spells them out."""

import dataclasses
import inspect
import pydoc

import pytest

import fnbackprop as fb
from fnbackprop.backprop.engine import Engine
from fnbackprop.backprop.options import Options, descriptions

NAMES = "vjp grad value_and_grad jacrev hessian residuals drop_in trace watch named_grad fit_budget".split()


def test_options_are_the_fields_that_users_give():
    given = {field.name: field.type for field in dataclasses.fields(Engine) if not field.metadata}
    assert given == Options.__annotations__, "an option of the engine that Options does not have, or has otherwise"
    assert given.keys() <= descriptions().keys()


@pytest.mark.parametrize("name", NAMES)
def test_signature_and_docstring_name_each_option(name):
    function = getattr(fb, name)
    parameters = inspect.signature(function).parameters
    assert not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for option in Options.__annotations__:
        if (name, option) == ("fit_budget", "budget"):
            continue
        assert parameters[option].default == getattr(Engine, option), option
        assert f"\n    {option}: " in inspect.getdoc(function) or f"\n  {option}: " in inspect.getdoc(function)


def test_help_shows_them():
    shown = pydoc.plain(pydoc.render_doc(fb.grad))
    assert "budget: float | None = None" in shown and "bytes, or, up to 1, a fraction" in shown


def test_fit_budget_takes_no_budget():
    assert "budget" not in inspect.signature(fb.fit_budget).parameters
    with pytest.raises(TypeError, match="memory must be a number of bytes, but got '2MiB'"):
        fb.fit_budget(lambda x: x, 1.0, memory="2MiB")
    with pytest.raises(TypeError, match="give no budget="):
        fb.fit_budget(lambda x: x, 1.0, memory=10, budget=0.5)
    with pytest.raises(TypeError, match="unexpected option 'budgt'; the options are safe_select"):
        fb.grad(lambda x: x, budgt=1)(1.0)


@pytest.mark.parametrize("transform", [fb.grad, fb.value_and_grad, fb.jacrev, fb.hessian])
@pytest.mark.parametrize(
    "options, error", [({"budgt": 0.5}, TypeError), ({"budget": "2MiB"}, ValueError), ({"budget": 1.5}, ValueError)]
)
def test_a_mistake_in_the_options_is_told_before_the_first_call(transform, options, error):
    with pytest.raises(error, match="bud"):
        transform(lambda x: x, **options)
